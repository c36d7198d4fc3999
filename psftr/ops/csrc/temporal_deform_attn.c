/* Temporal deformable attention on the CPU: forward and backward over contiguous float32 arrays.
 *
 * Plain C with GNU vector types and no dependency but libc: no Python, no PyTorch, no thread library. Work is cut into
 * units: some neighbouring heads of one batch element. The rows of a head are copied next to each other before queries
 * read them: in place they lie H*D floats apart, a power of two as a rule, and would share a fraction of the level-1
 * cache's sets. A (batch, head) pair is one thread's from beginning to end and its queries are taken in order, so
 * gradients are bit-identical from run to run, whatever the number of threads.
 *
 * Shapes as in ../temporal_deform_attn.py: values [B,T,H,D], locations and weights [B,Q,H,L,P], out [B,Q,H,D].
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__)
/* The dynamic loader picks AVX-512 (for its 32 registers) or AVX2 + FMA where the processor has them; "default" is the
 * x86-64 baseline. */
#define MULTIVERSION __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MULTIVERSION
#endif
#define INLINE static inline __attribute__((always_inline))
#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

/* Eight floats at any address of a float. A compiler without such registers splits them. */
typedef float Vector __attribute__((vector_size(32), aligned(4), may_alias));
enum {
    LANES = 8,
    CACHE_LINE = 16, /* in floats */
    BLOCK = 32,      /* queries whose points are located at once */
    AHEAD = 8,       /* queries that the cache is asked for in advance */
};

/* One call, mirrored in ../native_path.py. Gradients, and what they are computed from, are NULL in the forward. */
typedef struct {
    int64_t batch, length, heads, dim, queries, levels, points;
    int64_t parts;          /* of the heads, which it divides; unit u is part u % parts of element u / parts */
    int64_t units_at_once;  /* that a thread takes when it is done with the last */
    int64_t next_unit;      /* the first that no thread has taken yet; 0 to begin with */
    int64_t out_of_memory;  /* 0 to begin with, and afterwards if all went well */
    const int64_t *level_lengths;
    const float *values, *locations, *weights, *grad_out;
    float *out, *grad_values, *grad_locations, *grad_weights;
} Call;

/* What a thread works in. */
typedef struct {
    float *rows, *grad_rows;      /* [T,D]: one head's values, and the gradient of them */
    float *locations, *fractions; /* [BLOCK,L,P]: of a block's queries; how far a point is above the row below it */
    int32_t *below;               /* [BLOCK,L,P]: that row */
} Scratch;

#ifndef SOURCE_HASH
#define SOURCE_HASH "unknown"
#endif
/* The loader refuses a library that was built from another version of this file. */
EXPORT const char *psftr_source_hash(void) { return SOURCE_HASH; }

/* Positions x*T_l - 0.5, exact in double, of `count` points of one level. They are clamped to just outside the level,
 * where neither row is inside. NaN reads row 0 with a NaN fraction, so that it shows in the result. */
INLINE void locate(const float *locations, int64_t count, int64_t length, int32_t *below, float *fraction) {
    const double scale = (double)length, beyond = length > 0 ? scale + 1.0 : -2.0;
    for (int64_t i = 0; i < count; ++i) {
        double position = (double)locations[i] * scale - 0.5;
        position = position < -2.0 ? -2.0 : position;
        position = position > beyond ? beyond : position;
        const double shifted = position == position ? position + 2.0 : 2.0; /* >= 0, where truncation is floor */
        below[i] = (int32_t)shifted - 2;
        fraction[i] = (float)(position - (double)below[i]);
    }
}

/* The points of one head's items of `count` neighbouring queries, from item `first` on. */
INLINE void locate_block(const Call *s, int64_t first, int64_t count, const Scratch *to) {
    const int64_t points = s->levels * s->points;
    for (int64_t i = 0; i < count; ++i) {
        const float *from = s->locations + (first + i * s->heads) * points;
        if (points == 4) /* the usual number: a constant the compiler knows how to copy */
            memcpy(to->locations + i * 4, from, 4 * sizeof(float));
        else
            memcpy(to->locations + i * points, from, (size_t)points * sizeof(float));
    }
    if (s->levels == 1) {
        locate(to->locations, count * points, s->level_lengths[0], to->below, to->fractions);
        return;
    }
    for (int64_t i = 0; i < count * s->levels; ++i) {
        const int64_t start = i * s->points;
        locate(to->locations + start, s->points, s->level_lengths[i % s->levels], to->below + start,
               to->fractions + start);
    }
}

/* Copy `count` rows of `dim` floats between arrays with different distances from row to row. */
INLINE void copy_rows(const float *from, int64_t from_stride, int64_t count, int64_t dim, float *to, int64_t to_stride) {
    for (int64_t t = 0; t < count; ++t) {
        if (dim == 64) /* the usual head size: a constant, as above */
            memcpy(to + t * to_stride, from + t * from_stride, 64 * sizeof(float));
        else
            memcpy(to + t * to_stride, from + t * from_stride, (size_t)dim * sizeof(float));
    }
}

INLINE float horizontal_sum(Vector x) {
    typedef float Half __attribute__((vector_size(16)));
    const Half sum = __builtin_shufflevector(x, x, 0, 1, 2, 3) + __builtin_shufflevector(x, x, 4, 5, 6, 7);
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

/* grad_row += weight * grad for one row; returns the dot product of grad and row. */
INLINE float one_row(const float *grad, const float *row, float *grad_row, float weight, int64_t dim) {
    Vector sum = {0};
    int64_t i = 0;
    for (; i + LANES <= dim; i += LANES) {
        const Vector g = *(const Vector *)(grad + i);
        sum += g * *(const Vector *)(row + i);
        *(Vector *)(grad_row + i) += weight * g;
    }
    float tail = 0;
    for (; i < dim; ++i) {
        tail += grad[i] * row[i];
        grad_row[i] += weight * grad[i];
    }
    return horizontal_sum(sum) + tail;
}

/* The same for a row and the next one, reading grad once. */
INLINE void two_rows(const float *grad, const float *row, float *grad_row, float weight_left, float weight_right,
                     int64_t dim, float *left, float *right) {
    const float *next = row + dim;
    float *grad_next = grad_row + dim;
    Vector sum_left = {0}, sum_right = {0};
    int64_t i = 0;
    for (; i + LANES <= dim; i += LANES) {
        const Vector g = *(const Vector *)(grad + i);
        sum_left += g * *(const Vector *)(row + i);
        sum_right += g * *(const Vector *)(next + i);
        *(Vector *)(grad_row + i) += weight_left * g;
        *(Vector *)(grad_next + i) += weight_right * g;
    }
    float tail_left = 0, tail_right = 0;
    for (; i < dim; ++i) {
        tail_left += grad[i] * row[i];
        tail_right += grad[i] * next[i];
        grad_row[i] += weight_left * grad[i];
        grad_next[i] += weight_right * grad[i];
    }
    *left = horizontal_sum(sum_left) + tail_left;
    *right = horizontal_sum(sum_right) + tail_right;
}

/* Fetch `rows` rows of one head, from row `from` on, into the cache some time before they are used: they lie too far
 * apart for the processor to predict. `write`: they will be written, not read. */
INLINE void fetch_rows(const float *head, int64_t stride, int64_t from, int64_t rows, int64_t dim, const int write) {
    for (int64_t t = from; t < from + rows; ++t)
        for (int64_t d = 0; d < dim; d += CACHE_LINE) __builtin_prefetch(head + t * stride + d, write, 2);
}

/* `vectors` * 8 channels of one query of one head: out = weighted sum of the rows that its points read. */
INLINE void forward_vectors(const Call *s, const float *weight, const int32_t *below, const float *fraction,
                            const float *rows, int64_t dim, const int vectors, float *out) {
    Vector sum[8];
    for (int i = 0; i < vectors; ++i) sum[i] = (Vector){0};
    for (int64_t l = 0, point = 0; l < s->levels; ++l) {
        const int64_t length = s->level_lengths[l];
        for (int64_t p = 0; p < s->points; ++p, ++point) {
            const float right = weight[point] * fraction[point], left = weight[point] - right;
            const float *row = rows + below[point] * dim;
            if (__builtin_expect(below[point] >= 0 && below[point] < length - 1, 1)) {
                for (int i = 0; i < vectors; ++i) sum[i] += left * ((const Vector *)row)[i];
                for (int i = 0; i < vectors; ++i) sum[i] += right * ((const Vector *)(row + dim))[i];
            } else if (below[point] == -1 && length > 0) {
                for (int i = 0; i < vectors; ++i) sum[i] += right * ((const Vector *)(row + dim))[i];
            } else if (below[point] >= 0 && below[point] < length) {
                for (int i = 0; i < vectors; ++i) sum[i] += left * ((const Vector *)row)[i];
            }
        }
        rows += length * dim;
    }
    for (int i = 0; i < vectors; ++i) ((Vector *)out)[i] = sum[i];
}

/* The same for one channel. */
INLINE float forward_channel(const Call *s, const float *weight, const int32_t *below, const float *fraction,
                             const float *rows) {
    float sum = 0;
    for (int64_t l = 0, point = 0; l < s->levels; ++l) {
        const int64_t length = s->level_lengths[l];
        for (int64_t p = 0; p < s->points; ++p, ++point) {
            const float right = weight[point] * fraction[point];
            const float *row = rows + below[point] * s->dim;
            if (below[point] >= 0 && below[point] < length) sum += (weight[point] - right) * row[0];
            if (below[point] >= -1 && below[point] < length - 1) sum += right * row[s->dim];
        }
        rows += length * s->dim;
    }
    return sum;
}

/* The same for all channels. Those vectors that registers hold at once share the search for rows. */
INLINE void forward_query(const Call *s, const float *weight, const int32_t *below, const float *fraction,
                          const float *rows, float *out) {
    if (s->dim == 64) { /* the usual head size: a constant the compiler unrolls */
        forward_vectors(s, weight, below, fraction, rows, 64, 8, out);
        return;
    }
    int64_t d = 0;
    for (; d + 4 * LANES <= s->dim; d += 4 * LANES)
        forward_vectors(s, weight, below, fraction, rows + d, s->dim, 4, out + d);
    for (; d + LANES <= s->dim; d += LANES)
        forward_vectors(s, weight, below, fraction, rows + d, s->dim, 1, out + d);
    for (; d < s->dim; ++d) out[d] = forward_channel(s, weight, below, fraction, rows + d);
}

/* One query of one head: its gradients, and what it adds to that of the rows. `dim` may be a compile-time constant. */
INLINE void backward_channels(const Call *s, int64_t item, const float *grad, const int32_t *below,
                              const float *fraction, const float *rows, float *grad_rows, int64_t dim) {
    int64_t place = 0, point = item * s->levels * s->points;
    for (int64_t l = 0; l < s->levels; ++l) {
        const int64_t length = s->level_lengths[l];
        for (int64_t p = 0; p < s->points; ++p, ++place, ++point) {
            const float weight = s->weights[point];
            const float weight_right = weight * fraction[place], weight_left = weight - weight_right;
            const float *row = rows + below[place] * dim;
            float *grad_row = grad_rows + below[place] * dim;
            float left = 0, right = 0;
            if (__builtin_expect(below[place] >= 0 && below[place] < length - 1, 1))
                two_rows(grad, row, grad_row, weight_left, weight_right, dim, &left, &right);
            else if (below[place] == -1 && length > 0)
                right = one_row(grad, row + dim, grad_row + dim, weight_right, dim);
            else if (below[place] >= 0 && below[place] < length)
                left = one_row(grad, row, grad_row, weight_left, dim);
            s->grad_weights[point] = left + fraction[place] * (right - left);
            s->grad_locations[point] = weight * (float)length * (right - left);
        }
        rows += length * dim;
        grad_rows += length * dim;
    }
}

INLINE void backward_query(const Call *s, int64_t item, const int32_t *below, const float *fraction, const float *rows,
                           float *grad_rows) {
    const float *grad = s->grad_out + item * s->dim;
    if (s->dim == 64) { /* a constant, as above */
        Vector kept[8]; /* in registers, while grad_rows might overlap grad_out for all the compiler knows */
        for (int i = 0; i < 8; ++i) kept[i] = ((const Vector *)grad)[i];
        backward_channels(s, item, (const float *)kept, below, fraction, rows, grad_rows, 64);
    } else {
        backward_channels(s, item, grad, below, fraction, rows, grad_rows, s->dim);
    }
}

/* One head of one batch element, one query after the other. `backward` is a compile-time constant. */
INLINE void run_head(const Call *s, int64_t b, int64_t h, const int backward, const Scratch *to) {
    const int64_t stride = s->heads * s->dim, points = s->levels * s->points;
    const int64_t start = b * s->length * stride + h * s->dim, first_item = b * s->queries * s->heads + h;
    const int64_t next = h + 1 < s->heads ? start + s->dim : (b + 1) * s->length * stride; /* head, in memory */
    const int has_next = h + 1 < s->heads || b + 1 < s->batch;
    copy_rows(s->values + start, stride, s->length, s->dim, to->rows, s->dim);
    if (backward) memset(to->grad_rows, 0, (size_t)(s->length * s->dim) * sizeof(float));
    for (int64_t q = 0; q < s->queries; ++q) {
        const int64_t item = first_item + q * s->heads, place = q % BLOCK * points;
        const int64_t row = q * s->length / s->queries, rows = (q + 1) * s->length / s->queries - row;
        if (has_next) fetch_rows(s->values + next, stride, row, rows, s->dim, 0);
        if (backward) fetch_rows(s->grad_values + start, stride, row, rows, s->dim, 1);
        if (q + AHEAD < s->queries)
            fetch_rows((backward ? s->grad_out : s->out) + item * s->dim, stride, AHEAD, 1, s->dim, !backward);
        if (q % BLOCK == 0) locate_block(s, item, q + BLOCK < s->queries ? BLOCK : s->queries - q, to);
        if (backward)
            backward_query(s, item, to->below + place, to->fractions + place, to->rows, to->grad_rows);
        else
            forward_query(s, s->weights + item * points, to->below + place, to->fractions + place, to->rows,
                          s->out + item * s->dim);
    }
    if (backward) copy_rows(to->grad_rows, s->dim, s->length, s->dim, s->grad_values + start, stride);
}

INLINE void run_units(const Call *call, int64_t first, int64_t last, const int backward, const Scratch *scratch) {
    const Call s = *call; /* copies, which stores through pointers cannot change */
    const Scratch to = *scratch;
    const int64_t heads = s.heads / s.parts;
    for (int64_t head = first * heads; head < last * heads; ++head)
        run_head(&s, head / s.heads, head % s.heads, backward, &to);
}

/* Units [first, last) of out. */
MULTIVERSION void forward_units(const Call *call, int64_t first, int64_t last, const Scratch *scratch) {
    run_units(call, first, last, 0, scratch);
}

/* Gradients of units [first, last): every element of them is written, whatever was there. */
MULTIVERSION void backward_units(const Call *call, int64_t first, int64_t last, const Scratch *scratch) {
    run_units(call, first, last, 1, scratch);
}

/* The next `floats` of scratch memory, from a cache line of their own. */
INLINE float *take(float **next, int64_t floats) {
    float *taken = *next;
    *next += (floats + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    return taken;
}

INLINE void take_units(Call *call, int backward) {
    const int64_t units = call->batch * call->parts, points = call->levels * call->points;
    const int64_t head = call->length * call->dim;
    const size_t floats = (size_t)((backward ? 2 : 1) * head + 3 * BLOCK * points + 6 * CACHE_LINE);
    float *memory = malloc(floats * sizeof(float));
    if (!memory) {
        __atomic_store_n(&call->out_of_memory, 1, __ATOMIC_RELAXED);
        return;
    }
    float *next = (float *)(((uintptr_t)memory + CACHE_LINE * sizeof(float) - 1) & -(CACHE_LINE * sizeof(float)));
    Scratch scratch = {.rows = take(&next, head), .grad_rows = backward ? take(&next, head) : NULL};
    scratch.locations = take(&next, BLOCK * points);
    scratch.fractions = take(&next, BLOCK * points);
    scratch.below = (int32_t *)take(&next, BLOCK * points);
    for (;;) {
        const int64_t first = __atomic_fetch_add(&call->next_unit, call->units_at_once, __ATOMIC_RELAXED);
        if (first >= units) break;
        const int64_t last = first + call->units_at_once < units ? first + call->units_at_once : units;
        if (backward)
            backward_units(call, first, last, &scratch);
        else
            forward_units(call, first, last, &scratch);
    }
    free(memory);
}
static void forward_thread(void *call) { take_units(call, 0); }
static void backward_thread(void *call) { take_units(call, 1); }

/* Compute one call on `threads` threads. `parallel` is GOMP_parallel of the OpenMP library that PyTorch runs on (its
 * waiting threads would compete with any other's), or NULL for this thread alone. */
EXPORT void psftr_run(Call *call, int backward, int threads,
                      void (*parallel)(void (*)(void *), void *, unsigned, unsigned)) {
    void (*const thread)(void *) = backward ? backward_thread : forward_thread;
    if (parallel && threads > 1)
        parallel(thread, call, (unsigned)threads, 0);
    else
        thread(call);
}
