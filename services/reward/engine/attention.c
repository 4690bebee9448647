/* Softmax attention over packed sequences, and the norms and rotations of its queries and keys, in AVX-512.

attention_cpu.py, bert.py and steps.py say what is right. A block of queries meets all its keys before the softmax, so
that their scores lie in the nearest cache; keys are turned once for all queries that meet them, those of a prefix once
for all sequences that go on from it.
*/

#include <stdint.h>

#define VERSION 1

#if defined(__x86_64__) && defined(__linux__)
#include "vectors.h"
#include <float.h>

enum { LANES = 16, QUERIES = 6, AT_ONCE = 4 };

typedef struct {
    int64_t query, queries; /* rows of q */
    int64_t prefix, prefix_length; /* rows of k and v, or of the carried ones */
    int64_t carried;
    int64_t own, own_length; /* rows of k and v behind the prefix */
    int64_t causal; /* the last query sees all of them, those before it one less each */
} Span;

typedef struct {
    const float *q, *k, *v; /* [rows, heads, width] and [rows, kv_heads, width]: strides in floats from row to row */
    int64_t q_stride, k_stride, v_stride;
    const float *carried_k, *carried_v;
    int64_t carried_k_stride, carried_v_stride;
    float *out; /* [queries, heads, width] */
    int64_t heads, kv_heads, width;
    const Span *spans;
    int64_t count;
    float *scratch; /* coremesh_attention_scratch floats for each thread, aligned to 64 bytes */
    int64_t longest_prefix, longest_own;
    int64_t threads;
    void (*parallel)(void (*)(void *), void *, unsigned, unsigned); /* GOMP_parallel; NULL with one thread */
    int (*thread)(void);
    int (*team)(void);
} Attention;

static int64_t padded(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

/* n keys [n, width] -> [blocks of 16 keys, width, 16], zeros behind the last. */
VECTORS static void turn(const float *k, int64_t stride, int64_t n, int64_t width, float *to) {
    const __m512i lanes =
        _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                           _mm512_set1_epi32((int)stride));
    for (int64_t key = 0; key < n; key += LANES) {
        __mmask16 here = some(n - key);
        for (int64_t d = 0; d < width; d++, to += LANES)
            _mm512_store_ps(to, _mm512_mask_i32gather_ps(_mm512_setzero_ps(), here, lanes, k + key * stride + d, 4));
    }
}

/* Scores of `rows` queries for `blocks` blocks of turned keys. */
VECTORS static inline __attribute__((always_inline)) void meet(const float *const *q, const float *k, int64_t width,
                                                               float *scores, int64_t stride, const int rows,
                                                               const int blocks) {
    __m512 sums[QUERIES][AT_ONCE];
    WRITTEN_OUT
    for (int r = 0; r < rows; r++)
        WRITTEN_OUT
        for (int b = 0; b < blocks; b++)
            sums[r][b] = _mm512_setzero_ps();
    for (int64_t d = 0; d < width; d++) {
        __m512 keys[AT_ONCE];
        WRITTEN_OUT
        for (int b = 0; b < blocks; b++)
            keys[b] = _mm512_load_ps(k + (b * width + d) * LANES);
        WRITTEN_OUT
        for (int r = 0; r < rows; r++) {
            __m512 query = _mm512_set1_ps(q[r][d]);
            WRITTEN_OUT
            for (int b = 0; b < blocks; b++)
                sums[r][b] = _mm512_fmadd_ps(query, keys[b], sums[r][b]);
        }
    }
    WRITTEN_OUT
    for (int r = 0; r < rows; r++)
        WRITTEN_OUT
        for (int b = 0; b < blocks; b++)
            _mm512_store_ps(scores + r * stride + b * LANES, sums[r][b]);
}

VECTORS static inline __attribute__((always_inline)) void meet_all(const float *const *q, const float *k, int64_t n,
                                                                   int64_t width, float *scores, int64_t stride,
                                                                   const int rows) {
    int64_t key = 0;
    for (; key + 3 * LANES < n; key += 4 * LANES)
        meet(q, k + key * width, width, scores + key, stride, rows, 4);
    int64_t left = n - key;
    if (left > 2 * LANES)
        meet(q, k + key * width, width, scores + key, stride, rows, 3);
    else if (left > LANES)
        meet(q, k + key * width, width, scores + key, stride, rows, 2);
    else if (left > 0)
        meet(q, k + key * width, width, scores + key, stride, rows, 1);
}

/* Of one query: its largest score among the first n. */
VECTORS static inline __m512 largest(const float *scores, int64_t n, __m512 found) {
    for (int64_t i = 0; i < n; i += LANES)
        found = _mm512_mask_max_ps(found, some(n - i), found, _mm512_load_ps(scores + i));
    return found;
}

/* Scores -> weights, zero from the n-th up to `all`; adds them up. */
VECTORS static inline __m512 weigh(float *scores, int64_t n, int64_t all, __m512 top, __m512 sum) {
    for (int64_t i = 0; i < all; i += LANES) {
        __m512 w = _mm512_maskz_mov_ps(some(n - i), expf16(_mm512_sub_ps(_mm512_load_ps(scores + i), top)));
        sum = _mm512_add_ps(sum, w);
        _mm512_store_ps(scores + i, w);
    }
    return sum;
}

/* Adds the values [n, columns of 16] under their weights to `sums`. */
VECTORS static inline __attribute__((always_inline)) void gather(const float *weights, int64_t stride, const float *v,
                                                                 int64_t v_stride, int64_t n,
                                                                 __m512 sums[QUERIES][AT_ONCE], const int rows,
                                                                 const int columns) {
    for (int64_t key = 0; key < n; key++, v += v_stride) {
        __m512 values[AT_ONCE];
        WRITTEN_OUT
        for (int c = 0; c < columns; c++)
            values[c] = _mm512_loadu_ps(v + c * LANES);
        WRITTEN_OUT
        for (int r = 0; r < rows; r++) {
            __m512 weight = _mm512_set1_ps(weights[r * stride + key]);
            WRITTEN_OUT
            for (int c = 0; c < columns; c++)
                sums[r][c] = _mm512_fmadd_ps(weight, values[c], sums[r][c]);
        }
    }
}

typedef struct {
    const float *q[QUERIES]; /* of one key head */
    float *out[QUERIES];
    int64_t sees[QUERIES]; /* own keys */
    int64_t rows; /* of these that are wanted: the others repeat the first */
} Block;

typedef struct {
    const float *prefix_k, *own_k; /* turned */
    const float *prefix_v, *own_v;
    int64_t prefix_stride, own_stride, prefix;
} Keys;

VECTORS static inline __attribute__((always_inline)) void values_of(const Block *block, const Keys *keys,
                                                                    const float *weights, int64_t stride, int64_t most,
                                                                    const float *scales, int64_t at, const int rows,
                                                                    const int columns) {
    __m512 sums[QUERIES][AT_ONCE];
    WRITTEN_OUT
    for (int r = 0; r < rows; r++)
        WRITTEN_OUT
        for (int c = 0; c < columns; c++)
            sums[r][c] = _mm512_setzero_ps();
    gather(weights, stride, keys->prefix_v + at, keys->prefix_stride, keys->prefix, sums, rows, columns);
    gather(weights + padded(keys->prefix), stride, keys->own_v + at, keys->own_stride, most, sums, rows, columns);
    WRITTEN_OUT
    for (int r = 0; r < rows; r++)
        if (r < block->rows)
            WRITTEN_OUT
            for (int c = 0; c < columns; c++)
                _mm512_storeu_ps(block->out[r] + at + c * LANES, _mm512_mul_ps(sums[r][c], _mm512_set1_ps(scales[r])));
}

VECTORS static inline __attribute__((always_inline)) void answer(const Block *block, const Keys *keys, int64_t width,
                                                                 float *scores, int64_t stride, const int rows) {
    int64_t behind = padded(keys->prefix), most = 0;
    float scales[QUERIES];
    for (int r = 0; r < rows; r++)
        most = block->sees[r] > most ? block->sees[r] : most;
    meet_all(block->q, keys->prefix_k, keys->prefix, width, scores, stride, rows);
    meet_all(block->q, keys->own_k, most, width, scores + behind, stride, rows);
    for (int r = 0; r < rows; r++) {
        float *mine = scores + r * stride;
        __m512 top = largest(mine, keys->prefix, _mm512_set1_ps(-FLT_MAX));
        top = _mm512_set1_ps(_mm512_reduce_max_ps(largest(mine + behind, block->sees[r], top)));
        __m512 sum = weigh(mine, keys->prefix, keys->prefix, top, _mm512_setzero_ps());
        scales[r] = 1.0f / _mm512_reduce_add_ps(weigh(mine + behind, block->sees[r], most, top, sum));
    }
    for (int64_t at = 0; at < width;) {
        switch ((width - at) / LANES) {
        case 1: values_of(block, keys, scores, stride, most, scales, at, rows, 1); at += 1 * LANES; break;
        case 2: values_of(block, keys, scores, stride, most, scales, at, rows, 2); at += 2 * LANES; break;
        case 3: values_of(block, keys, scores, stride, most, scales, at, rows, 3); at += 3 * LANES; break;
        default: values_of(block, keys, scores, stride, most, scales, at, rows, 4); at += 4 * LANES;
        }
    }
}

VECTORS static void span_of(const Attention *a, const Span *span, const Keys *keys, int64_t head, float *scores) {
    int64_t repeats = a->heads / a->kv_heads, asked = span->queries * repeats;
    int64_t stride = padded(keys->prefix) + padded(span->own_length);
    for (int64_t first = 0; first < asked; first += QUERIES) {
        Block block;
        block.rows = asked - first < QUERIES ? asked - first : QUERIES;
        for (int r = 0; r < QUERIES; r++) {
            int64_t which = first + (r < block.rows ? r : 0), row = which / repeats;
            int64_t column = (head * repeats + which % repeats) * a->width;
            block.q[r] = a->q + (span->query + row) * a->q_stride + column;
            block.out[r] = a->out + (span->query + row) * a->heads * a->width + column;
            block.sees[r] = span->own_length - (span->causal ? span->queries - 1 - row : 0);
        }
        if (block.rows <= 2)
            answer(&block, keys, a->width, scores, stride, 2);
        else
            answer(&block, keys, a->width, scores, stride, QUERIES);
    }
}

static int64_t scratch_of(const Attention *a) {
    int64_t keys = padded(a->longest_prefix) + padded(a->longest_own);
    return keys * (a->width + QUERIES);
}

VECTORS static void heads_of(const Attention *a, int64_t from, int64_t to, float *scratch) {
    float *prefix_k = scratch, *own_k = prefix_k + padded(a->longest_prefix) * a->width;
    float *scores = own_k + padded(a->longest_own) * a->width;
    for (int64_t head = from; head < to; head++) {
        const Span *turned = 0;
        for (int64_t i = 0; i < a->count; i++) {
            const Span *span = a->spans + i;
            int64_t at = head * a->width;
            const float *k = span->carried ? a->carried_k : a->k, *v = span->carried ? a->carried_v : a->v;
            int64_t k_stride = span->carried ? a->carried_k_stride : a->k_stride;
            Keys keys = {prefix_k, own_k, v + at, a->v + span->own * a->v_stride + at, 0, a->v_stride, span->prefix_length};
            keys.prefix_stride = span->carried ? a->carried_v_stride : a->v_stride;
            keys.prefix_v += span->prefix * keys.prefix_stride;
            if (span->prefix_length && !(turned && turned->prefix == span->prefix && turned->carried == span->carried &&
                                         turned->prefix_length == span->prefix_length)) {
                turn(k + span->prefix * k_stride + at, k_stride, span->prefix_length, a->width, prefix_k);
                turned = span;
            }
            turn(a->k + span->own * a->k_stride + at, a->k_stride, span->own_length, a->width, own_k);
            span_of(a, span, &keys, head, scores);
        }
    }
}

static void part(void *data) {
    const Attention *a = data;
    int64_t me = a->thread(), all = a->team();
    heads_of(a, a->kv_heads * me / all, a->kv_heads * (me + 1) / all, a->scratch + me * scratch_of(a));
}

typedef struct {
    float *x; /* [rows, heads, width] */
    int64_t rows, stride, heads, width;
    const float *weight; /* [heads, width], or NULL: no norm */
    double eps;
    const float *rotation; /* [rows, pairs, 2]: cosine and sine, for the first 2 * pairs of the width */
    int64_t pairs;
} Turn;

__attribute__((visibility("default"))) VECTORS int64_t coremesh_norm_rotate(const Turn *t) {
    for (int64_t row = 0; row < t->rows; row++) {
        const float *rotation = t->rotation + row * t->pairs * 2;
        for (int64_t head = 0; head < t->heads; head++) {
            float *x = t->x + row * t->stride + head * t->width;
            __m512 scale = _mm512_set1_ps(1.0f);
            if (t->weight) {
                __m512 sum = _mm512_setzero_ps();
                for (int64_t i = 0; i < t->width; i += LANES) {
                    __m512 v = _mm512_maskz_loadu_ps(some(t->width - i), x + i);
                    sum = _mm512_fmadd_ps(v, v, sum);
                }
                double mean = (double)_mm512_reduce_add_ps(sum) / (double)t->width;
                scale = _mm512_set1_ps((float)(1.0 / __builtin_sqrt(mean + t->eps)));
            }
            for (int64_t i = 0; i < t->width; i += LANES) {
                __mmask16 here = some(t->width - i), turned = some(2 * t->pairs - i);
                __m512 v = _mm512_maskz_loadu_ps(here, x + i);
                if (t->weight)
                    v = _mm512_mul_ps(_mm512_mul_ps(v, scale),
                                      _mm512_maskz_loadu_ps(here, t->weight + head * t->width + i));
                if (turned) {
                    __m512 by = _mm512_maskz_loadu_ps(turned, rotation + i);
                    __m512 other = _mm512_mul_ps(_mm512_permute_ps(v, 0xb1), _mm512_movehdup_ps(by));
                    v = _mm512_mask_mov_ps(v, turned, _mm512_fmaddsub_ps(v, _mm512_moveldup_ps(by), other));
                }
                _mm512_mask_storeu_ps(x + i, here, v);
            }
        }
    }
    return 0;
}

__attribute__((visibility("default"))) int64_t coremesh_attention_scratch(const Attention *a) {
    return a->threads * scratch_of(a);
}

__attribute__((visibility("default"))) int64_t coremesh_attention(const Attention *a) {
    if (a->threads > 1)
        a->parallel(part, (void *)a, (unsigned)a->threads, 0);
    else
        heads_of(a, 0, a->kv_heads, a->scratch);
    return 0;
}

__attribute__((visibility("default"))) int64_t coremesh_attention_able(void) { return has_vectors(0); }

#else
__attribute__((visibility("default"))) int64_t coremesh_attention_able(void) { return 0; }
#endif

__attribute__((visibility("default"))) int64_t coremesh_attention_version(void) { return VERSION; }
