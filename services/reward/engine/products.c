/* Matrix products in fp32 with AVX-512: 12 rows by 32 columns at a time, whose sums stay in registers.

Weights are kept as [block of 32 columns][depth][32], padded with zeros, so that a product reads them in the order of
memory; rows of x are read where they are, or from where their norms were put.
*/

#include <stdint.h>

#define VERSION 2

#if defined(__x86_64__) && defined(__linux__)
#include "products.h"

enum { ROWS = 192, GROUP = 12 };

/* Sums [rows, 32] of so many rows of x, x_stride bytes from one to the next. */
VECTORS static inline __attribute__((always_inline)) void block_product(const float *x, int64_t x_stride,
                                                                        const float *weight, int64_t depth,
                                                                        float *found, const int rows) {
    __m512 sums[GROUP][2];
    const char *at[GROUP / 3]; /* each third row: more pointers than that do not fit in registers */
    WRITTEN_OUT
    for (int r = 0; r < rows; r++)
        sums[r][0] = sums[r][1] = _mm512_setzero_ps();
    WRITTEN_OUT
    for (int r = 0; r < rows; r += 3)
        at[r / 3] = (const char *)x + r * x_stride;
    for (int64_t k = 0; k < depth; k++, weight += SIDE) {
        _mm_prefetch(weight + 16 * SIDE, _MM_HINT_T0);
        _mm_prefetch(weight + 16 * SIDE + 16, _MM_HINT_T0);
        __m512 left = _mm512_loadu_ps(weight), right = _mm512_loadu_ps(weight + 16);
        WRITTEN_OUT
        for (int r = 0; r < rows; r++) {
            __m512 one = _mm512_set1_ps(*(const float *)(at[r / 3] + r % 3 * x_stride));
            sums[r][0] = _mm512_fmadd_ps(one, left, sums[r][0]);
            sums[r][1] = _mm512_fmadd_ps(one, right, sums[r][1]);
        }
        WRITTEN_OUT
        for (int r = 0; r < rows; r += 3)
            at[r / 3] += sizeof *x;
    }
    WRITTEN_OUT
    for (int r = 0; r < rows; r++) {
        _mm512_store_ps(found + r * SIDE, sums[r][0]);
        _mm512_store_ps(found + r * SIDE + 16, sums[r][1]);
    }
}

VECTORS static void group_product(const float *x, int64_t x_stride, const float *weight, int64_t depth, float *found,
                                  int64_t rows) {
    switch (rows) {
    case 1: block_product(x, x_stride, weight, depth, found, 1); break;
    case 2: block_product(x, x_stride, weight, depth, found, 2); break;
    case 3: block_product(x, x_stride, weight, depth, found, 3); break;
    case 4: block_product(x, x_stride, weight, depth, found, 4); break;
    case 5: block_product(x, x_stride, weight, depth, found, 5); break;
    case 6: block_product(x, x_stride, weight, depth, found, 6); break;
    case 7: block_product(x, x_stride, weight, depth, found, 7); break;
    case 8: block_product(x, x_stride, weight, depth, found, 8); break;
    case 9: block_product(x, x_stride, weight, depth, found, 9); break;
    case 10: block_product(x, x_stride, weight, depth, found, 10); break;
    case 11: block_product(x, x_stride, weight, depth, found, 11); break;
    default: block_product(x, x_stride, weight, depth, found, 12);
    }
}

/* Floats from one row of norms to the next: a power of two would put a group's rows into the same few lines. */
static int64_t padded(int64_t depth) { return (depth + 15) / 16 * 16 + 16; }

static int64_t share_of(int64_t depth) { return ROWS * padded(depth) * (int64_t)sizeof(float); }

/* The norms of rows first ... first + count of x. */
VECTORS static void norms(const Product *p, int64_t first, int64_t count, float *to) {
    for (int64_t row = 0; row < count; row++, to += padded(p->depth)) {
        const float *x = p->x + (first + row) * p->x_stride;
        float mean, scale;
        norm_of(p, x, &mean, &scale);
        for (int64_t k = 0; k < p->depth; k += 16)
            _mm512_store_ps(to + k, normed(p, _mm512_maskz_loadu_ps(some(p->depth - k), x + k), k, mean, scale));
    }
}

VECTORS static void rows_of(const Product *p, int64_t from, int64_t to, int64_t left, int64_t right, char *scratch) {
    float sums[GROUP * SIDE] __attribute__((aligned(64))), gates[GROUP * SIDE] __attribute__((aligned(64)));
    const float *weights = (const float *)p->weight, *gate = (const float *)p->gate;
    for (int64_t first = from; first < to; first += ROWS) {
        int64_t last = smaller(first + ROWS, to);
        const float *x = p->x + first * p->x_stride;
        int64_t stride = p->x_stride;
        if (p->norm) {
            norms(p, first, last - first, (float *)scratch);
            x = (const float *)scratch, stride = padded(p->depth);
        }
        for (int64_t column = left; column < right; column += SIDE)
            for (int64_t row = first; row < last; row += GROUP) {
                int64_t rows = smaller(GROUP, last - row);
                const float *mine = x + (row - first) * stride;
                group_product(mine, stride * 4, weights + column * p->depth, p->depth, sums, rows);
                if (gate)
                    group_product(mine, stride * 4, gate + column * p->depth, p->depth, gates, rows);
                finish(p, sums, gate ? gates : 0, row, rows, column);
            }
    }
}

__attribute__((visibility("default"))) int64_t coremesh_products_able(void) { return has_vectors(0); }

__attribute__((visibility("default"))) int64_t coremesh_products_scratch(int64_t depth, int64_t threads) {
    return threads * share_of(depth);
}

__attribute__((visibility("default"))) int64_t coremesh_products_size(int64_t columns, int64_t depth) {
    return (columns + SIDE - 1) / SIDE * SIDE * depth * (int64_t)sizeof(float);
}

/* weight [columns, depth], contiguous -> packed, coremesh_products_size bytes, aligned to 64. */
__attribute__((visibility("default"))) int64_t coremesh_products_pack(const float *weight, int64_t columns,
                                                                      int64_t depth, float *packed) {
    for (int64_t block = 0; block < columns; block += SIDE)
        for (int64_t k = 0; k < depth; k++)
            for (int64_t c = block; c < block + SIDE; c++)
                *packed++ = c < columns ? weight[c * depth + k] : 0;
    return 0;
}

__attribute__((visibility("default"))) int64_t coremesh_products_multiply(const Product *p) { return multiply(p); }

#else
__attribute__((visibility("default"))) int64_t coremesh_products_able(void) { return 0; }
#endif

__attribute__((visibility("default"))) int64_t coremesh_products_version(void) { return VERSION; }
