/* Temporal deformable attention on the CPU: forward and backward over contiguous float32 arrays.
 *
 * Plain C with GNU vector types and no dependency but libc: no Python, no PyTorch, no thread library. The caller
 * splits the B*H (batch, head) pairs into units of some neighbouring heads and the units among its threads. Each
 * pair is one thread's from beginning to end and its queries are taken in order, so the gradients are bit-identical
 * from run to run, whatever the number of threads. Within a unit heads vary fastest, as they do in memory.
 *
 * Shapes as in ../temporal_deform_attn.py: values [B,T,H,D], locations and weights [B,Q,H,L,P], out [B,Q,H,D].
 */
#include <stdint.h>
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
enum { LANES = 8 };

typedef struct {
    int64_t batch, length, heads, dim, queries, levels, points, unit_heads;
} Sizes;

/* One row that a query reads, and its share. */
typedef struct {
    const float *row;
    float weight;
} Knot;

#ifndef SOURCE_HASH
#define SOURCE_HASH "unknown"
#endif
/* The loader refuses a library that was built from another version of this file. */
EXPORT const char *psftr_source_hash(void) { return SOURCE_HASH; }

/* Returns the row below the location; `fraction` is the way from there to the next row: position = x*T_l - 0.5,
 * exact in double. Positions are clamped to just outside the level, where neither row is inside. NaN reads row 0
 * with a NaN fraction, so that it shows in the result. */
INLINE int64_t locate(float location, int64_t length, float *fraction) {
    double position = (double)location * (double)length - 0.5;
    if (position < -2.0) position = -2.0;
    if (position > (double)length + 1.0) position = (double)length + 1.0;
    if (position != position) {
        *fraction = location;
        return 0;
    }
    const int64_t below = (int64_t)(position + 2.0) - 2; /* position + 2 >= 0, where truncation is floor */
    *fraction = (float)(position - (double)below);
    return below;
}

INLINE float horizontal_sum(Vector x) { return ((x[0] + x[4]) + (x[1] + x[5])) + ((x[2] + x[6]) + (x[3] + x[7])); }

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

/* Units [first, last) of out; unit u holds heads (u % (H/unit_heads))*unit_heads onwards of batch element
 * u / (H/unit_heads). `knots` is scratch for 2*L*P entries. */
MULTIVERSION EXPORT void psftr_forward(const float *values, const float *locations, const float *weights,
                                       const int64_t *level_lengths, float *out, const Sizes *sizes, int64_t first,
                                       int64_t last, Knot *knots) {
    const Sizes s = *sizes;
    const int64_t stride = s.heads * s.dim, level_points = s.levels * s.points, units = s.heads / s.unit_heads;
    for (int64_t unit = first; unit < last; ++unit) {
        const int64_t b = unit / units, first_head = unit % units * s.unit_heads;
        for (int64_t i = 0; i < s.queries * s.unit_heads; ++i) {
            const int64_t q = i / s.unit_heads, h = first_head + i % s.unit_heads;
            const int64_t item = (b * s.queries + q) * s.heads + h;
            const float *level_values = values + b * s.length * stride + h * s.dim;
            int64_t point = item * level_points, count = 0;
            for (int64_t l = 0; l < s.levels; ++l) {
                const int64_t length = level_lengths[l];
                for (int64_t p = 0; p < s.points; ++p, ++point) {
                    float fraction = 0;
                    const int64_t below = length > 0 ? locate(locations[point], length, &fraction) : -2;
                    const float *row = level_values + below * stride;
                    if (below >= 0 && below < length) knots[count++] = (Knot){row, weights[point] * (1 - fraction)};
                    if (below >= -1 && below < length - 1)
                        knots[count++] = (Knot){row + stride, weights[point] * fraction};
                }
                level_values += length * stride;
            }
            float *result = out + item * s.dim;
            int64_t d = 0;
            for (; d + 8 * LANES <= s.dim; d += 8 * LANES) weighted_sum(knots, count, d, 8, result);
            for (; d + LANES <= s.dim; d += LANES) weighted_sum(knots, count, d, 1, result);
            for (; d < s.dim; ++d) {
                float sum = 0;
                for (int64_t k = 0; k < count; ++k) sum += knots[k].weight * knots[k].row[d];
                result[d] = sum;
            }
        }
    }
}

/* Gradients of units [first, last): every element of them is written, whatever was there. */
MULTIVERSION EXPORT void psftr_backward(const float *grad_out, const float *values, const float *locations,
                                        const float *weights, const int64_t *level_lengths, float *grad_values,
                                        float *grad_locations, float *grad_weights, const Sizes *sizes,
                                        int64_t first, int64_t last) {
    const Sizes s = *sizes;
    const int64_t stride = s.heads * s.dim, level_points = s.levels * s.points, units = s.heads / s.unit_heads;
    for (int64_t unit = first; unit < last; ++unit) {
        const int64_t b = unit / units, first_head = unit % units * s.unit_heads;
        const int64_t start = b * s.length * stride + first_head * s.dim;
        for (int64_t t = 0; t < s.length; ++t)
            memset(grad_values + start + t * stride, 0, (size_t)(s.unit_heads * s.dim) * sizeof(float));
        for (int64_t i = 0; i < s.queries * s.unit_heads; ++i) {
            const int64_t q = i / s.unit_heads, h = i % s.unit_heads;
            const int64_t item = (b * s.queries + q) * s.heads + first_head + h;
            const float *grad = grad_out + item * s.dim;
            int64_t point = item * level_points, level_start = start + h * s.dim;
            for (int64_t l = 0; l < s.levels; ++l) {
                const int64_t length = level_lengths[l];
                for (int64_t p = 0; p < s.points; ++p, ++point) {
                    float fraction = 0, left = 0, right = 0;
                    const int64_t below = length > 0 ? locate(locations[point], length, &fraction) : -2;
                    const float weight = weights[point];
                    const float *row = values + level_start + below * stride;
                    float *grad_row = grad_values + level_start + below * stride;
                    if (below >= 0 && below < length - 1) {
                        const float weight_left = weight * (1 - fraction), weight_right = weight * fraction;
                        if (s.dim == 64) /* the usual head size: a constant the compiler unrolls */
                            two_rows(grad, row, grad_row, stride, weight_left, weight_right, 64, &left, &right);
                        else
                            two_rows(grad, row, grad_row, stride, weight_left, weight_right, s.dim, &left, &right);
                    } else if (below == -1 && length > 0) {
                        right = one_row(grad, row + stride, grad_row + stride, weight * fraction, s.dim);
                    } else if (below >= 0 && below < length) {
                        left = one_row(grad, row, grad_row, weight * (1 - fraction), s.dim);
                    }
                    grad_weights[point] = left * (1 - fraction) + right * fraction;
                    grad_locations[point] = weight * (float)length * (right - left);
                }
                level_start += length * stride;
            }
        }
    }
}
