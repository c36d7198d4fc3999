// Temporal deformable attention on the GPU: forward, and a deterministic backward without floating-point atomics.
//
// One translation unit without a single #include, so that NVRTC compiles it on a machine with neither nvcc nor a
// host compiler. ../cuda_path.py compiles one variant per (scalar, D, L, P), passed as macros:
//
//   SCALAR   0 float32, 1 float16, 2 bfloat16: type of values and out. Locations, weights and all sums are float32.
//   DIM      D, channels per head
//   LEVELS   L
//   POINTS   P, points per level
//
// Shapes as in ../temporal_deform_attn.py: values [B,T,H,D], locations and weights [B,Q,H,L,P], out [B,Q,H,D].
//
// Work is done by groups of LANES neighbouring threads, one 16-byte vector of channels per lane: a group holds a
// whole row of D channels, a warp holds 32/LANES groups.
//
// Forward: a group computes one query of one head. A block takes consecutive queries of one head: in an encoder their
// locations lie close together, so the rows they share come from the L1 cache.
//
// Backward, two kernels:
//   1. sort_points   sorts the points of each (batch, head, level) by the row below them (a counting sort with integer
//                    counters in shared memory) and writes one 16-byte record per point, in the order of its row.
//   2. walk_rows     a group walks over consecutive rows. It holds the row, the next row and their gradients in
//                    registers and meets the points between the two one after the other: each adds its share to both
//                    gradients and takes its dot products with both rows. Every value row is read once, every gradient
//                    row is written once, and nothing is ever added concurrently.
// Within a row points are taken in the order of their index, so two runs give the same bits. There is no faster mode
// that does not, hence no switch. The cost of one layout for all lengths is P reads of each grad_out row, which come
// from the L1 and L2 caches.

typedef unsigned int u32;
typedef unsigned short u16;
typedef long long i64;  // every offset into a tensor: B*T*H*D may pass 2^31

#if SCALAR == 0
typedef float Scalar;
#else
typedef u16 Scalar;
#endif

// ---------------------------------------------------------------------------------------------- shape of the work

__device__ constexpr int largest_vector(int dim, int bytes_each) {
    int count = 16 / bytes_each;
    while (dim % count != 0) count /= 2;
    return count;
}
__device__ constexpr int power_of_two_at_least(int n) {
    int power = 1;
    while (power < n) power *= 2;
    return power;
}

constexpr int VEC = largest_vector(DIM, sizeof(Scalar));         // channels per memory access
constexpr int BYTES = VEC * sizeof(Scalar);                      // 16 wherever D allows it
constexpr int WORDS = (BYTES + 3) / 4;                           // 32-bit registers of one access
constexpr int VECTORS = DIM / VEC;                               // accesses per row
constexpr int LANES = VECTORS >= 32 ? 32 : power_of_two_at_least(VECTORS);
constexpr int STEPS = (VECTORS + LANES - 1) / LANES;             // accesses per lane and row
constexpr int THREADS = 256;                                     // of forward and walk_rows
constexpr int GROUPS = THREADS / LANES;
constexpr int FORWARD_BLOCKS = STEPS == 1 ? 5 : STEPS == 2 ? 3 : 2;  // at least, per multiprocessor
constexpr int BATCH = STEPS == 1 ? 4 : STEPS == 2 ? 2 : 1;       // points whose loads are in flight together
constexpr int LEVEL_POINTS = LEVELS * POINTS;
constexpr int CHUNK = POINTS % 4 == 0 ? 4 : POINTS % 2 == 0 ? 2 : 1;  // points per access to locations and weights
constexpr int UNROLL = (POINTS < 8 ? POINTS : 8) / CHUNK;        // chunks whose reads the forward has in flight
constexpr int SORT_THREADS = 1024;                               // of sort_points, at most
constexpr int WARP_SUMS = SORT_THREADS / 32;
constexpr int OUTSIDE = -2;                                      // the row below a point that reads nothing

struct Levels {
    int length[LEVELS];
    int start[LEVELS];  // first row of the level in values
};

// One point, where walk_rows finds it. 16 bytes: one load.
struct alignas(16) Record {
    int index;  // q*P + p
    int below;  // row below the point: -1 .. T_l - 1
    float fraction;
    float weight;
};

// -------------------------------------------------------------------------------------------------- scalars, vectors

struct Packed {
    u32 word[WORDS];
};

__device__ __forceinline__ Packed load(const Scalar *address) {
    Packed p;
    if constexpr (BYTES == 16) {
        const uint4 v = *reinterpret_cast<const uint4 *>(address);
        p.word[0] = v.x, p.word[1] = v.y, p.word[2] = v.z, p.word[3] = v.w;
    } else if constexpr (BYTES == 8) {
        const uint2 v = *reinterpret_cast<const uint2 *>(address);
        p.word[0] = v.x, p.word[1] = v.y;
    } else if constexpr (BYTES == 4) {
        p.word[0] = *reinterpret_cast<const u32 *>(address);
    } else {
        p.word[0] = *reinterpret_cast<const u16 *>(address);
    }
    return p;
}

// In assembly, because the compiler takes wide stores apart when it peels the loop around them.
__device__ __forceinline__ void store(Scalar *address, const Packed &p) {
#ifdef __CUDA_ARCH__
    if constexpr (BYTES == 16) {
        asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(address), "r"(p.word[0]), "r"(p.word[1]),
                     "r"(p.word[2]), "r"(p.word[3])
                     : "memory");
        return;
    } else if constexpr (BYTES == 8) {
        asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(address), "r"(p.word[0]), "r"(p.word[1]) : "memory");
        return;
    }
#endif
    if constexpr (BYTES == 2) {
        *reinterpret_cast<u16 *>(address) = (u16)p.word[0];
    } else {
#pragma unroll
        for (int i = 0; i < WORDS; ++i) reinterpret_cast<u32 *>(address)[i] = p.word[i];
    }
}

#if SCALAR == 1 && !defined(__CUDA_ARCH__)  // tests run this file on a CPU
inline float widen(u32 bits) { return (float)__builtin_bit_cast(_Float16, (u16)bits); }
inline u32 narrow(float x) { return __builtin_bit_cast(u16, (_Float16)x); }
#elif SCALAR == 1
__device__ __forceinline__ float widen(u32 bits) {
    float x;
    asm("{.reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low;}" : "=f"(x) : "r"(bits));
    return x;
}
__device__ __forceinline__ u32 narrow(float x) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
#elif SCALAR == 2
__device__ __forceinline__ float widen(u32 bits) { return __uint_as_float(bits << 16); }
// To nearest, ties to even, by hand: Turing has no instruction for it.
__device__ __forceinline__ u32 narrow(float x) {
    const u32 bits = __float_as_uint(x);
    if (x != x) return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
#endif

__device__ __forceinline__ void unpack(const Packed &p, float (&x)[VEC]) {
#if SCALAR == 0
#pragma unroll
    for (int i = 0; i < VEC; ++i) x[i] = __uint_as_float(p.word[i]);
#else
#pragma unroll
    for (int i = 0; i < VEC; ++i) x[i] = widen(i % 2 ? p.word[i / 2] >> 16 : p.word[i / 2] & 0xffff);
#endif
}

__device__ __forceinline__ Packed pack(const float (&x)[VEC]) {
    Packed p;
#if SCALAR == 0
#pragma unroll
    for (int i = 0; i < VEC; ++i) p.word[i] = __float_as_uint(x[i]);
#else
#pragma unroll
    for (int i = 0; i < VEC; i += 2) p.word[i / 2] = narrow(x[i]) | (i + 1 < VEC ? narrow(x[i + 1]) << 16 : 0);
#endif
    return p;
}

// ------------------------------------------------------------------------------------------------------- locations

struct Place {
    int below;       // row below the location, or OUTSIDE when neither it nor the next row exists
    float fraction;  // of the way from there to the next row
};

// Position x*T_l - 0.5 to about 4e-8 rows. The float32 product alone errs by 1e-4 rows at T_l = 2304; its rounding
// error, which fma computes exactly, is added back to the fraction. A NaN location reads row 0 with a NaN fraction.
__device__ __forceinline__ Place locate(float x, int length) {
    const float product = __fmul_rn(x, (float)length);
    const float missing = __fmaf_rn(x, (float)length, -product);
    const float shifted = __fsub_rn(product, 0.5f);
    float below = floorf(shifted);
    float fraction = __fadd_rn(__fsub_rn(shifted, below), missing);
    if (fraction < 0.0f) below -= 1.0f, fraction += 1.0f;
    if (fraction >= 1.0f) below += 1.0f, fraction -= 1.0f;
    if (length == 0 || below < -1.0f || below >= (float)length) return Place{OUTSIDE, 0.0f};
    if (x != x) return Place{0, x};
    return Place{(int)below, fraction};
}

template <int COUNT>
__device__ __forceinline__ void read(const float *address, float (&x)[COUNT]) {
    if constexpr (COUNT == 4) {
        const float4 v = *reinterpret_cast<const float4 *>(address);
        x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
    } else if constexpr (COUNT == 2) {
        const float2 v = *reinterpret_cast<const float2 *>(address);
        x[0] = v.x, x[1] = v.y;
    } else {
        x[0] = *address;
    }
}

// --------------------------------------------------------------------------------------------------------- forward

// Grid: B*H * query_blocks blocks of THREADS.
extern "C" __global__ void __launch_bounds__(THREADS, FORWARD_BLOCKS)
    forward(const Scalar *__restrict__ values, const float *__restrict__ locations,
            const float *__restrict__ weights, Scalar *__restrict__ out, const Levels levels, int length, int heads,
            int queries, int query_blocks, int queries_per_block) {
    const int lane = threadIdx.x % LANES;
    const int slab = blockIdx.x / query_blocks, block = blockIdx.x % query_blocks;
    const int b = slab / heads, h = slab % heads;
    const i64 stride = (i64)heads * DIM;
    const Scalar *slab_values = values + (i64)b * length * stride + (i64)h * DIM + lane * VEC;
    const int first = block * queries_per_block;
    const int last = min(first + queries_per_block, queries);

#pragma unroll 1
    for (int q = first + (int)threadIdx.x / LANES; q < last; q += GROUPS) {
        const i64 item = ((i64)b * queries + q) * heads + h;
        const float *location = locations + item * LEVEL_POINTS, *weight = weights + item * LEVEL_POINTS;
        float sum[STEPS][VEC] = {};
#pragma unroll 1
        for (int l = 0; l < LEVELS; ++l) {
            const int level_length = levels.length[l];
            const Scalar *rows = slab_values + levels.start[l] * stride;
#pragma unroll(UNROLL)
            for (int c = 0; c < POINTS; c += CHUNK) {
                float x[CHUNK], share[CHUNK];
                read(location + l * POINTS + c, x);
                read(weight + l * POINTS + c, share);
#pragma unroll
                for (int p = 0; p < CHUNK; ++p) {
                    const Place at = locate(x[p], level_length);
                    const float right_share = share[p] * at.fraction, left_share = share[p] - right_share;
                    const bool left_inside = at.below >= 0;
                    const bool right_inside = at.below >= -1 && at.below + 1 < level_length;
                    const Scalar *row = rows + at.below * stride;
#pragma unroll
                    for (int s = 0; s < STEPS; ++s) {
                        const bool mine = lane + s * LANES < VECTORS;
                        Packed left = {}, right = {};
                        if (mine && left_inside) left = load(row + s * LANES * VEC);
                        if (mine && right_inside) right = load(row + stride + s * LANES * VEC);
                        float below[VEC], above[VEC];
                        unpack(left, below);
                        unpack(right, above);
#pragma unroll
                        for (int i = 0; i < VEC; ++i) {
                            sum[s][i] = fmaf(left_share, below[i], sum[s][i]);
                            sum[s][i] = fmaf(right_share, above[i], sum[s][i]);
                        }
                    }
                }
            }
        }
        Scalar *result = out + item * DIM + lane * VEC;
#pragma unroll
        for (int s = 0; s < STEPS; ++s)
            if (lane + s * LANES < VECTORS) store(result + s * LANES * VEC, pack(sum[s]));
    }
}

// ----------------------------------------------------------------------------------------- backward 1: sort points

// A point belongs to bin below+1, 0 .. T_l; a level has T_l + 1 bins and T_l + 2 bin starts (the last is the end).
// Place in bin_start of the first bin of a level:
__device__ __forceinline__ i64 first_bin(const Levels &levels, int length, int slab, int l) {
    return (i64)slab * (length + 2 * LEVELS) + levels.start[l] + 2 * l;
}

// Exclusive prefix sum over the block of one number per thread; also returns the total.
__device__ __forceinline__ int prefix_sum(int mine, int *warp_sums, int *total) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    int inclusive = mine;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
        const int other = __shfl_up_sync(0xffffffffu, inclusive, offset);
        if (lane >= offset) inclusive += other;
    }
    __syncthreads();  // warp_sums may still be read from the call before
    if (lane == 31) warp_sums[warp] = inclusive;
    __syncthreads();
    int before = 0, all = 0;
    for (int w = 0; w < warps; ++w) {
        if (w < warp) before += warp_sums[w];
        all += warp_sums[w];
    }
    *total = all;
    return before + inclusive - mine;
}

// Grid: B*H * LEVELS * splits blocks; a block sorts the points of one level that fall into `bins_per_block` bins.
// Dynamic shared memory: WARP_SUMS + bins_per_block + 1 ints. `order` [B,H,L,Q*P] is scratch.
extern "C" __global__ void __launch_bounds__(SORT_THREADS, 1)
    sort_points(const float *__restrict__ locations, const float *__restrict__ weights, int *__restrict__ bin_start,
                int *order, Record *__restrict__ records, float *__restrict__ grad_locations,
                float *__restrict__ grad_weights, const Levels levels, int length, int heads, int queries, int splits,
                int bins_per_block) {
    extern __shared__ int shared[];
    int *warp_sums = shared;
    int *start = shared + WARP_SUMS, *end = start + 1;  // bin i of this block is [start[i], end[i]); end[i] is start[i+1]
    const int split = blockIdx.x % splits, l = blockIdx.x / splits % LEVELS, slab = blockIdx.x / splits / LEVELS;
    const int b = slab / heads, h = slab % heads;
    const int level_length = levels.length[l], points = queries * POINTS;
    const int first = split * bins_per_block, bins = min(level_length + 1 - first, bins_per_block);
    if (bins <= 0) return;
    const i64 segment = ((i64)slab * LEVELS + l) * points;
    const i64 level_item = ((i64)b * queries * heads + h) * LEVEL_POINTS + l * POINTS;
    const i64 query_stride = (i64)heads * LEVEL_POINTS;
    auto address = [&](int n) { return level_item + n / POINTS * query_stride + n % POINTS; };

    for (int i = threadIdx.x; i <= bins; i += blockDim.x) start[i] = 0;
    __syncthreads();
    int before = 0;  // points of earlier blocks' bins
    for (int n = threadIdx.x; n < points; n += blockDim.x) {
        const i64 at = address(n);
        const int bin = locate(locations[at], level_length).below + 1 - first;
        if (bin < -first) {  // OUTSIDE: walk_rows never meets this point
            if (split == 0) grad_locations[at] = grad_weights[at] = 0.0f;
        } else if (bin < 0) {
            ++before;
        } else if (bin < bins) {
            atomicAdd(&end[bin], 1);
        }
    }
    int base, total;
    prefix_sum(before, warp_sums, &base);

    // counts -> first positions: each thread takes consecutive bins
    const int each = (bins + (int)blockDim.x - 1) / (int)blockDim.x;
    const int from = min((int)threadIdx.x * each, bins), to = min(from + each, bins);
    int mine = 0;
    for (int i = from; i < to; ++i) mine += end[i];
    int position = base + prefix_sum(mine, warp_sums, &total);
    const i64 global_bin = first_bin(levels, length, slab, l) + first;
    for (int i = from; i < to; ++i) {
        const int count = end[i];
        end[i] = position;  // for now: where the next point of this bin goes
        bin_start[global_bin + i] = position;
        position += count;
    }
    if (threadIdx.x == 0) {
        start[0] = base;
        if (first + bins == level_length + 1) bin_start[global_bin + bins] = base + total;
    }
    __syncthreads();

    // Into the bins in any order; every place taken moves the bin's end on, so that end[bin] ends up where it says.
    for (int n = threadIdx.x; n < points; n += blockDim.x) {
        const int bin = locate(locations[address(n)], level_length).below + 1 - first;
        if (bin >= 0 && bin < bins) order[segment + atomicAdd(&end[bin], 1)] = n;
    }
    __syncthreads();

    // Then every point counts how many of its bin come before it: that is its place, whatever the order was.
    for (int n = threadIdx.x; n < points; n += blockDim.x) {
        const i64 at = address(n);
        const Place place = locate(locations[at], level_length);
        const int bin = place.below + 1 - first;
        if (bin < 0 || bin >= bins) continue;
        int rank = start[bin];
        for (int i = start[bin]; i < end[bin]; ++i) rank += order[segment + i] < n;
        records[segment + rank] = Record{n, place.below, place.fraction, weights[at]};
    }
}

// ------------------------------------------------------------------------------------------- backward 2: walk rows

// Sums of 2*BATCH numbers over the lanes of a group, with fewer shuffles than one butterfly each: at every halving a
// lane hands over the half it does not keep. On return this lane holds the sums number `first` .. `first + kept - 1`.
constexpr int KEPT = 2 * BATCH > LANES ? 2 * BATCH / LANES : 1;
__device__ __forceinline__ int group_sums(float (&x)[2 * BATCH], int lane, u32 mask) {
    int first = 0, width = 2 * BATCH;
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset /= 2) {
        if (width > 1) {
            width /= 2;
            const bool upper = lane & offset;
#pragma unroll
            for (int i = 0; i < BATCH; ++i) {
                if (i >= width) break;
                const float give = upper ? x[i] : x[i + width], keep = upper ? x[i + width] : x[i];
                x[i] = keep + __shfl_xor_sync(mask, give, offset);
            }
            if (upper) first += width;
        } else {
            x[0] += __shfl_xor_sync(mask, x[0], offset);
        }
    }
    return first;
}

// Grid: B*H * (row blocks of all levels) blocks of THREADS; a group walks `rows_per_group` rows.
extern "C" __global__ void __launch_bounds__(THREADS)
    walk_rows(const Scalar *__restrict__ grad_out, const Scalar *__restrict__ values,
              const int *__restrict__ bin_start, const Record *__restrict__ records, Scalar *__restrict__ grad_values,
              float *__restrict__ grad_locations, float *__restrict__ grad_weights, const Levels levels, int length,
              int heads, int queries, int row_blocks, int rows_per_group) {
    const int lane = threadIdx.x % LANES;
    const int slab = blockIdx.x / row_blocks, b = slab / heads, h = slab % heads;
    int block = blockIdx.x % row_blocks, l = 0;
    while (l < LEVELS - 1) {
        const int level_blocks = (levels.length[l] + GROUPS * rows_per_group - 1) / (GROUPS * rows_per_group);
        if (block < level_blocks) break;
        block -= level_blocks, ++l;
    }
    const int level_length = levels.length[l];
    const int first = (block * GROUPS + (int)threadIdx.x / LANES) * rows_per_group;
    const int last = min(first + rows_per_group, level_length);
    if (first >= last) return;  // a whole group at a time: shuffles below stay within the group
    const u32 mask = (LANES == 32 ? 0xffffffffu : (1u << LANES) - 1) << (threadIdx.x % 32 / LANES * LANES);

    const i64 stride = (i64)heads * DIM;
    const i64 slab_row = ((i64)b * length + levels.start[l]) * stride + (i64)h * DIM + lane * VEC;
    const Scalar *rows = values + slab_row;
    Scalar *grad_rows = grad_values + slab_row;
    const Scalar *grad_items = grad_out + ((i64)b * queries * heads + h) * DIM + lane * VEC;
    const i64 point_address = ((i64)b * queries * heads + h) * LEVEL_POINTS + l * POINTS;
    const i64 query_stride = (i64)heads * LEVEL_POINTS;
    const Record *level_records = records + ((i64)slab * LEVELS + l) * queries * POINTS;
    const int *bins = bin_start + first_bin(levels, length, slab, l);
    int entry = bins[first];
    const int entry_end = bins[last + 1];

    auto read_row = [&](int row, Packed(&x)[STEPS]) {
#pragma unroll
        for (int s = 0; s < STEPS; ++s) {
            x[s] = Packed{};
            if (row < level_length && lane + s * LANES < VECTORS) x[s] = load(rows + row * stride + s * LANES * VEC);
        }
    };
    // Between rows `row` and row+1, beginning between first-1 and first. What row first-1 gets is dropped: its own
    // group walks past these points too. Their dot products are that group's as well, unless there is no such row.
    int row = first - 1;
    float right[STEPS][VEC];  // values of row + 1
    float slope[STEPS][VEC];  // values of row + 1 minus those of row
    float grad_left[STEPS][VEC] = {}, grad_right[STEPS][VEC] = {};
    Packed ahead[STEPS];  // values of row + 2, on their way
    read_row(first, ahead);
#pragma unroll
    for (int s = 0; s < STEPS; ++s) {
        unpack(ahead[s], right[s]);
        unpack(ahead[s], slope[s]);
    }
    read_row(first + 1, ahead);

    auto next_row = [&]() {
#pragma unroll
        for (int s = 0; s < STEPS; ++s) {
            if (row >= first && lane + s * LANES < VECTORS)
                store(grad_rows + row * stride + s * LANES * VEC, pack(grad_left[s]));
            float next[VEC];
            unpack(ahead[s], next);
#pragma unroll
            for (int i = 0; i < VEC; ++i) {
                slope[s][i] = next[i] - right[s][i];
                right[s][i] = next[i];
                grad_left[s][i] = grad_right[s][i];
                grad_right[s][i] = 0.0f;
            }
        }
        ++row;
        if (row < last - 1) read_row(row + 2, ahead);
    };

    for (; entry < entry_end; entry += BATCH) {
        Record record[BATCH];
        Packed grad[BATCH][STEPS];
        float sums[2 * BATCH];  // per point: gradient of its weight, gradient of its location
#pragma unroll
        for (int e = 0; e < BATCH; ++e) {
            record[e] = level_records[min(entry + e, entry_end - 1)];
            const Scalar *item = grad_items + record[e].index / POINTS * stride;
#pragma unroll
            for (int s = 0; s < STEPS; ++s) {
                grad[e][s] = Packed{};
                if (lane + s * LANES < VECTORS) grad[e][s] = load(item + s * LANES * VEC);
            }
        }
#pragma unroll
        for (int e = 0; e < BATCH; ++e) {
            sums[2 * e] = sums[2 * e + 1] = 0.0f;
            if (entry + e >= entry_end) continue;
#pragma unroll 1
            while (row < record[e].below) next_row();
            const float right_share = record[e].weight * record[e].fraction;
            const float left_share = record[e].weight - right_share;
            float height = 0.0f, change = 0.0f;  // dot products of grad_out with the next row and with the slope
#pragma unroll
            for (int s = 0; s < STEPS; ++s) {
                float g[VEC];
                unpack(grad[e][s], g);
#pragma unroll
                for (int i = 0; i < VEC; ++i) {
                    grad_left[s][i] = fmaf(left_share, g[i], grad_left[s][i]);
                    grad_right[s][i] = fmaf(right_share, g[i], grad_right[s][i]);
                    height = fmaf(g[i], right[s][i], height);
                    change = fmaf(g[i], slope[s][i], change);
                }
            }
            sums[2 * e] = fmaf(record[e].fraction - 1.0f, change, height);
            sums[2 * e + 1] = record[e].weight * (float)level_length * change;
        }
        const int number = group_sums(sums, lane, mask);
#pragma unroll
        for (int i = 0; i < KEPT; ++i) {
            const int e = entry + (number + i) / 2;
            // of the lanes that hold the same sum the first one writes
            if (e >= entry_end || (LANES > 2 * BATCH && lane % (LANES / (2 * BATCH)) != 0)) continue;
            const Record point = level_records[e];
            if (point.below < first && first > 0) continue;
            const i64 at = point_address + point.index / POINTS * query_stride + point.index % POINTS;
            ((number + i) % 2 ? grad_locations : grad_weights)[at] = sums[i];
        }
    }
#pragma unroll 1
    while (row < last) next_row();
}
