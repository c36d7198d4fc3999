/* Temporal deformable attention on the CPU: forward and backward over contiguous float32 arrays.
 *
 * Plain C with GNU vector types and no dependency but libc: no Python, no PyTorch, no thread library. Work is cut into
 * units: the forward cuts a batch element into parts of neighbouring queries, the backward into parts of neighbouring
 * heads. The gradient of a (batch, head) pair is one thread's from beginning to end and its queries are taken in
 * order, so gradients are bit-identical from run to run, whatever the number of threads. Within a unit heads vary
 * fastest, as they do in memory.
 *
 * Shapes as in ../temporal_deform_attn.py: values [B,T,H,D], locations and weights [B,Q,H,L,P], out [B,Q,H,D].
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__)
/* The dynamic loader picks AVX2 + FMA where the processor has them; "default" is the x86-64 baseline. */
#define MULTIVERSION __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define MULTIVERSION
#endif
#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))

/* Eight floats at any address of a float. A compiler without such registers splits them. */
typedef float Vector __attribute__((vector_size(32), aligned(4), may_alias));
enum {
    LANES = 8,
    CACHE_LINE = 16,    /* in floats */
    SMALL = 256 * 1024, /* values that surely fit into a level-2 cache */
};

/* One call, mirrored in ../native_path.py. Gradients, and what they are computed from, are NULL in the forward. */
typedef struct {
    int64_t batch, length, heads, dim, queries, levels, points;
    int64_t parts;          /* of a batch element (backward: divides heads); unit u is part u % parts of u / parts */
    int64_t units_at_once;  /* that a thread takes when it is done with the last */
    int64_t next_unit;      /* the first that no thread has taken yet; 0 to begin with */
    int64_t out_of_memory;  /* 0 to begin with, and afterwards if all went well */
    const int64_t *level_lengths;
    const float *values, *locations, *weights, *grad_out;
    float *out, *grad_values, *grad_locations, *grad_weights;
} Call;

/* One row that a query reads, and its share. */
typedef struct {
    const float *row;
    float weight;
} Knot;

/* Where a point lies: the row below it, and how far from there it is to the next row. */
typedef struct {
    int32_t *below;
    float *fraction;
} Places;

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

/* The points of one query and some heads, in the order of memory: [heads, L, P]. */
INLINE void locate_query(const float *locations, int64_t heads, const Call *s, Places places) {
    if (s->levels == 1) {
        locate(locations, heads * s->points, s->level_lengths[0], places.below, places.fraction);
        return;
    }
    for (int64_t i = 0; i < heads * s->levels; ++i) {
        const int64_t first = i * s->points;
        locate(locations + first, s->points, s->level_lengths[i % s->levels], places.below + first,
               places.fraction + first);
    }
}

INLINE float horizontal_sum(Vector x) {
    typedef float Half __attribute__((vector_size(16)));
    const Half sum = __builtin_shufflevector(x, x, 0, 1, 2, 3) + __builtin_shufflevector(x, x, 4, 5, 6, 7);
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

/* Ask for rows [from, to) of a batch element's values in the order of memory, before queries ask for them in theirs. */
INLINE void fetch(const Call *s, int64_t b, int64_t from, int64_t to, int64_t first_head, int64_t heads) {
    const int64_t width = heads * s->dim, stride = s->heads * s->dim;
    if (b >= s->batch || s->length * width > SMALL) return;
    const float *row = s->values + b * s->length * stride + first_head * s->dim;
    for (int64_t t = from; t < to; ++t)
        for (int64_t d = 0; d < width; d += CACHE_LINE) __builtin_prefetch(row + t * stride + d, 0, 2);
}

/* out = sum over knots of weight * row, for `vectors` * 8 channels (a compile-time constant) from `first` on. */
INLINE void weighted_sum(const Knot *knots, int64_t count, int64_t first, const int vectors, float *out) {
    Vector sum[8];
    for (int i = 0; i < vectors; ++i) sum[i] = (Vector){0};
    for (int64_t k = 0; k < count; ++k) {
        const Vector *row = (const Vector *)(knots[k].row + first);
        const float weight = knots[k].weight;
        for (int i = 0; i < vectors; ++i) sum[i] += weight * row[i];
    }
    for (int i = 0; i < vectors; ++i) ((Vector *)(out + first))[i] = sum[i];
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
INLINE void two_rows(const float *grad, const float *row, float *grad_row, int64_t stride, float weight_left,
                     float weight_right, int64_t dim, float *left, float *right) {
    const float *next = row + stride;
    float *grad_next = grad_row + stride;
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

/* Units [first, last) of out. */
MULTIVERSION void forward_units(const Call *call, int64_t first, int64_t last, void *scratch) {
    const Call s = *call;
    const int64_t stride = s.heads * s.dim, level_points = s.levels * s.points;
    Knot *knots = scratch;
    float *fraction = (float *)(knots + 2 * level_points);
    const Places places = {(int32_t *)(fraction + s.heads * level_points), fraction};
    for (int64_t unit = first; unit < last; ++unit) {
        const int64_t b = unit / s.parts, part = unit % s.parts;
        const float *element_values = s.values + b * s.length * stride;
        if (unit == first) fetch(&s, b, 0, s.length, 0, s.heads);
        for (int64_t q = part * s.queries / s.parts; q < (part + 1) * s.queries / s.parts; ++q) {
            const int64_t first_item = (b * s.queries + q) * s.heads;
            fetch(&s, b + 1, q * s.length / s.queries, (q + 1) * s.length / s.queries, 0, s.heads);
            locate_query(s.locations + first_item * level_points, s.heads, &s, places);
            for (int64_t h = 0; h < s.heads; ++h) {
                const float *level_values = element_values + h * s.dim;
                const float *weight = s.weights + (first_item + h) * level_points;
                int64_t point = h * level_points, count = 0;
                for (int64_t l = 0; l < s.levels; ++l) {
                    const int64_t length = s.level_lengths[l];
                    for (int64_t p = 0; p < s.points; ++p, ++point, ++weight) {
                        const int64_t below = places.below[point];
                        const float *row = level_values + below * stride;
                        const float right = *weight * places.fraction[point];
                        if (below >= 0 && below < length) knots[count++] = (Knot){row, *weight - right};
                        if (below >= -1 && below < length - 1) knots[count++] = (Knot){row + stride, right};
                    }
                    level_values += length * stride;
                }
                float *result = s.out + (first_item + h) * s.dim;
                int64_t d = 0;
                for (; d + 8 * LANES <= s.dim; d += 8 * LANES) weighted_sum(knots, count, d, 8, result);
                for (; d + 4 * LANES <= s.dim; d += 4 * LANES) weighted_sum(knots, count, d, 4, result);
                for (; d + LANES <= s.dim; d += LANES) weighted_sum(knots, count, d, 1, result);
                for (; d < s.dim; ++d) {
                    float sum = 0;
                    for (int64_t k = 0; k < count; ++k) sum += knots[k].weight * knots[k].row[d];
                    result[d] = sum;
                }
            }
        }
    }
}

/* Gradients of units [first, last): every element of them is written, whatever was there. */
MULTIVERSION void backward_units(const Call *call, int64_t first, int64_t last, void *scratch) {
    const Call s = *call;
    float *const grad_values = s.grad_values;
    const int64_t stride = s.heads * s.dim, level_points = s.levels * s.points, heads = s.heads / s.parts;
    const Places places = {(int32_t *)((float *)scratch + heads * level_points), scratch};
    for (int64_t unit = first; unit < last; ++unit) {
        const int64_t b = unit / s.parts, first_head = unit % s.parts * heads;
        const int64_t start = b * s.length * stride + first_head * s.dim;
        if (unit == first) fetch(&s, b, 0, s.length, first_head, heads);
        for (int64_t t = 0; t < s.length; ++t)
            memset(grad_values + start + t * stride, 0, (size_t)(heads * s.dim) * sizeof(float));
        for (int64_t q = 0; q < s.queries; ++q) {
            const int64_t first_item = (b * s.queries + q) * s.heads + first_head;
            const int64_t first_point = first_item * level_points;
            fetch(&s, b + 1, q * s.length / s.queries, (q + 1) * s.length / s.queries, first_head, heads);
            locate_query(s.locations + first_point, heads, &s, places);
            for (int64_t h = 0, place = 0; h < heads; ++h) {
                const float *grad = s.grad_out + (first_item + h) * s.dim;
                int64_t level_start = start + h * s.dim;
                for (int64_t l = 0; l < s.levels; ++l) {
                    const int64_t length = s.level_lengths[l];
                    for (int64_t p = 0; p < s.points; ++p, ++place) {
                        const int64_t below = places.below[place], point = first_point + place;
                        const float fraction = places.fraction[place], weight = s.weights[point];
                        const float weight_right = weight * fraction, weight_left = weight - weight_right;
                        const float *row = s.values + level_start + below * stride;
                        float *grad_row = grad_values + level_start + below * stride;
                        float left = 0, right = 0;
                        if (below >= 0 && below < length - 1) {
                            if (s.dim == 64) /* the usual head size: a constant the compiler unrolls */
                                two_rows(grad, row, grad_row, stride, weight_left, weight_right, 64, &left, &right);
                            else
                                two_rows(grad, row, grad_row, stride, weight_left, weight_right, s.dim, &left,
                                         &right);
                        } else if (below == -1 && length > 0) {
                            right = one_row(grad, row + stride, grad_row + stride, weight_right, s.dim);
                        } else if (below >= 0 && below < length) {
                            left = one_row(grad, row, grad_row, weight_left, s.dim);
                        }
                        s.grad_weights[point] = left + fraction * (right - left);
                        s.grad_locations[point] = weight * (float)length * (right - left);
                    }
                    level_start += length * stride;
                }
            }
        }
    }
}

INLINE void take_units(Call *call, int backward) {
    const int64_t units = call->batch * call->parts, points = call->levels * call->points;
    const size_t knots = (size_t)(2 * points) * sizeof(Knot);
    const size_t places = (size_t)(call->heads * points) * (sizeof(int32_t) + sizeof(float));
    void *scratch = malloc(knots + places + 1);
    if (!scratch) {
        __atomic_store_n(&call->out_of_memory, 1, __ATOMIC_RELAXED);
        return;
    }
    for (;;) {
        const int64_t first = __atomic_fetch_add(&call->next_unit, call->units_at_once, __ATOMIC_RELAXED);
        if (first >= units) break;
        const int64_t last = first + call->units_at_once < units ? first + call->units_at_once : units;
        if (backward)
            backward_units(call, first, last, scratch);
        else
            forward_units(call, first, last, scratch);
    }
    free(scratch);
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
