/* What a matrix product of fp32 is asked for, and all of it but the product: tiles.c and products.c bring that.

linear.py says what is right. Rows are taken ROWS at a time, so that they stay in the second cache while all columns
pass; what is added or applied to a product goes along while its sums are in the first.
*/

#include "vectors.h"
#include <string.h>

enum { SIDE = 32 }; /* columns of a block */
enum { NO_NORM, RMS_NORM, LAYER_NORM };
enum { NO_ACTIVATION, SILU, GELU, GELU_TANH, RELU };

typedef struct {
    const float *x; /* [rows, depth], x_stride floats from row to row */
    int64_t rows, depth, x_stride;
    int64_t norm; /* of each row of x before it is multiplied */
    const float *norm_weight, *norm_bias; /* [depth]; norm_bias may be NULL */
    double eps;
    const char *weight, *gate; /* packed; with gate the result is act(x gate + gate_bias) * (x weight + bias) */
    const float *bias, *gate_bias; /* [columns] or NULL */
    int64_t columns, activation; /* the activation is the gate's where there is one */
    float *out; /* [rows, columns] */
    int64_t out_stride, add; /* add: to what out holds already, after the activation */
    char *scratch; /* the way's own, for each thread share_of bytes, aligned to 64 */
    int64_t threads;
    void (*parallel)(void (*)(void *), void *, unsigned, unsigned); /* GOMP_parallel; NULL with one thread */
    int (*thread)(void); /* omp_get_thread_num */
    int (*team)(void); /* omp_get_num_threads */
} Product;

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Bytes of scratch that a thread needs. */
static int64_t share_of(int64_t depth);

/* Rows from ... to of the columns left ... right (a multiple of 32, but for the last). */
static void rows_of(const Product *p, int64_t from, int64_t to, int64_t left, int64_t right, char *scratch);

/* Of one row: what is subtracted from its numbers, and what they are multiplied with. */
VECTORS static void norm_of(const Product *p, const float *x, float *mean, float *scale) {
    __m512 sum = _mm512_setzero_ps();
    *mean = 0;
    if (p->norm == LAYER_NORM) {
        for (int64_t k = 0; k < p->depth; k += 16)
            sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(some(p->depth - k), x + k));
        *mean = _mm512_reduce_add_ps(sum) / (float)p->depth;
        sum = _mm512_setzero_ps();
    }
    for (int64_t k = 0; k < p->depth; k += 16) {
        __mmask16 here = some(p->depth - k);
        __m512 v = _mm512_maskz_sub_ps(here, _mm512_maskz_loadu_ps(here, x + k), _mm512_set1_ps(*mean));
        sum = _mm512_fmadd_ps(v, v, sum);
    }
    double variance = (double)_mm512_reduce_add_ps(sum) / (double)p->depth;
    *scale = (float)(1.0 / __builtin_sqrt(variance + p->eps));
}

VECTORS static inline __m512 normed(const Product *p, __m512 v, int64_t k, float mean, float scale) {
    __mmask16 here = some(p->depth - k);
    v = _mm512_mul_ps(_mm512_sub_ps(v, _mm512_set1_ps(mean)), _mm512_set1_ps(scale));
    v = _mm512_mul_ps(v, _mm512_maskz_loadu_ps(here, p->norm_weight + k));
    return p->norm_bias ? _mm512_add_ps(v, _mm512_maskz_loadu_ps(here, p->norm_bias + k)) : v;
}

VECTORS static inline __m512 activated(__m512 x, int64_t activation) {
    const __m512 one = _mm512_set1_ps(1.0f);
    if (activation == RELU)
        return _mm512_max_ps(x, _mm512_setzero_ps());
    __m512 inner = x;
    if (activation == GELU) { /* x times the normal distribution; erf by Abramowitz and Stegun 7.1.26 */
        __m512 z = _mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(0.70710678f));
        __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(z, _mm512_set1_ps(0.3275911f), one));
        __m512 y = _mm512_set1_ps(1.061405429f);
        y = _mm512_fmadd_ps(y, t, _mm512_set1_ps(-1.453152027f));
        y = _mm512_fmadd_ps(y, t, _mm512_set1_ps(1.421413741f));
        y = _mm512_fmadd_ps(y, t, _mm512_set1_ps(-0.284496736f));
        y = _mm512_fmadd_ps(y, t, _mm512_set1_ps(0.254829592f));
        __m512 tail = _mm512_mul_ps(_mm512_mul_ps(y, t), expf16(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_mul_ps(z, z))));
        tail = _mm512_mul_ps(tail, _mm512_set1_ps(0.5f)); /* of |x| and beyond */
        __mmask16 positive = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ);
        return _mm512_mul_ps(x, _mm512_mask_sub_ps(tail, positive, one, tail));
    }
    if (activation == GELU_TANH) { /* (1 + tanh u)/2 is the logistic function of 2u */
        __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), _mm512_mul_ps(x, _mm512_set1_ps(0.044715f)));
        inner = _mm512_mul_ps(_mm512_add_ps(x, cube), _mm512_set1_ps(1.5957691216f));
    }
    return _mm512_div_ps(x, _mm512_add_ps(one, expf16(_mm512_sub_ps(_mm512_setzero_ps(), inner))));
}

/* Of `rows` sums [rows, 32] (and gates) at a row and a column of the result: bias, activation, and what is added. */
VECTORS static void finish(const Product *p, const float *sums, const float *gates, int64_t row, int64_t rows,
                         int64_t column) {
    for (int half = 0; half < 2; half++) {
        int64_t c = column + half * 16;
        __mmask16 here = some(p->columns - c);
        if (!here)
            return;
        __m512 bias = p->bias ? _mm512_maskz_loadu_ps(here, p->bias + c) : _mm512_setzero_ps();
        __m512 gate_bias = p->gate_bias ? _mm512_maskz_loadu_ps(here, p->gate_bias + c) : _mm512_setzero_ps();
        for (int64_t r = 0; r < rows; r++) {
            __m512 v = _mm512_add_ps(_mm512_loadu_ps(sums + r * SIDE + half * 16), bias);
            if (gates) {
                __m512 g = _mm512_add_ps(_mm512_loadu_ps(gates + r * SIDE + half * 16), gate_bias);
                v = _mm512_mul_ps(v, p->activation ? activated(g, p->activation) : g);
            } else if (p->activation)
                v = activated(v, p->activation);
            float *out = p->out + (row + r) * p->out_stride + c;
            if (p->add)
                v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(here, out));
            _mm512_mask_storeu_ps(out, here, v);
        }
    }
}

/* One thread's share: of the rows, or of the columns where there are fewer blocks of rows than threads. */
static void part(void *data) {
    const Product *p = data;
    int64_t me = p->thread(), all = p->team();
    int64_t by_row = (p->rows + SIDE - 1) / SIDE >= all, length = by_row ? p->rows : p->columns;
    int64_t blocks = (length + SIDE - 1) / SIDE;
    int64_t from = blocks * me / all * SIDE, to = smaller(blocks * (me + 1) / all * SIDE, length);
    char *packed = p->scratch + me * share_of(p->depth);
    if (from < to)
        rows_of(p, by_row ? from : 0, by_row ? to : p->rows, by_row ? 0 : from, by_row ? p->columns : to, packed);
}

static int64_t multiply(const Product *p) {
    if (p->threads > 1)
        p->parallel(part, (void *)p, (unsigned)p->threads, 0);
    else
        rows_of(p, 0, p->rows, 0, p->columns, p->scratch);
    return 0;
}
