/* Matrix products in fp32 on a processor's tile unit (AMX), which multiplies bfloat16 and adds up in fp32.

A float is the sum of three bfloat16 (3 times 8 bits of significand), without a rest unless it is smaller than
2^-109. Of the nine products of pieces the six that reach fp32's own precision are computed; the three left out are
below 2^-26 of the product. The tile unit adds up 32 products at a time and those sums in fp32, so what is rounded is
less than in a chain of fused multiply-adds.

Layout: a tile is 16 rows of 64 bytes. Of x, a row holds 32 numbers of one row of x; of the weights, a row holds two
numbers (the pair 2r, 2r+1 of the depth) of 16 columns. Both are kept as [block of 32 rows or columns][step of 32 in
depth][piece][half of the block][1024 bytes], padded with zeros, so that a product reads both in the order of memory.
*/

#include <stdint.h>

#define VERSION 2

#if defined(__x86_64__) && defined(__linux__)
#include "products.h"
#include <sys/syscall.h>
#include <unistd.h>

#define TILES __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))

enum { TILE = 1024, PIECES = 3, STEP = PIECES * 2 * TILE, ROWS = 128 };

struct config {
    uint8_t palette, start, zero[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} __attribute__((packed));

static int64_t steps(int64_t depth) { return (depth + SIDE - 1) / SIDE; }

TILES static inline __m512i upper(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

/* 32 floats in two registers -> their three pieces, 64 bytes each, TILE * 2 apart. */
TILES static inline void split(__m512 low, __m512 high, char *to) {
    for (int piece = 0; piece < PIECES; piece++) {
        __m512i rounded = upper(low, high);
        _mm512_store_si512((void *)(to + piece * 2 * TILE), rounded);
        low = _mm512_sub_ps(
            low, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(rounded)), 16)));
        high = _mm512_sub_ps(high, _mm512_castsi512_ps(_mm512_slli_epi32(
                                       _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(rounded, 1)), 16)));
    }
}

/* Rows first ... first + count of x (count <= 32) as one block. */
TILES static void pack_rows(const Product *p, int64_t first, int64_t count, char *to) {
    int64_t n = steps(p->depth);
    for (int64_t row = 0; row < (count <= 16 ? 16 : 32); row++) {
        char *at = to + (row >> 4) * TILE + (row & 15) * 64;
        if (row >= count) {
            for (int64_t s = 0; s < n; s++)
                for (int piece = 0; piece < PIECES; piece++)
                    _mm512_store_si512((void *)(at + s * STEP + piece * 2 * TILE), _mm512_setzero_si512());
            continue;
        }
        const float *x = p->x + (first + row) * p->x_stride;
        float mean = 0, scale = 1;
        if (p->norm)
            norm_of(p, x, &mean, &scale);
        for (int64_t s = 0; s < n; s++) {
            int64_t k = s * SIDE;
            __m512 low = _mm512_maskz_loadu_ps(some(p->depth - k), x + k);
            __m512 high = _mm512_maskz_loadu_ps(some(p->depth - k - 16), x + k + 16);
            if (p->norm) {
                low = normed(p, low, k, mean, scale);
                high = normed(p, high, k + 16, mean, scale);
            }
            split(low, high, at + s * STEP);
        }
    }
}

/* a and b: one block each; the sums of 32 (or, with `half`, 16) rows by 32 columns go to `sums`. */
TILES static void block_product(const char *a, const char *b, int64_t n, int half, float *sums) {
    _tile_zero(0);
    _tile_zero(1);
#define PAIR(row, column, to) _tile_dpbf16ps(to, row, column)
    if (half) {
        for (; n; n--, a += STEP, b += STEP) {
            static const int order[6][2] = {{0, 2}, {0, 1}, {1, 1}, {1, 0}, {2, 0}, {0, 0}};
            for (int i = 0; i < 6; i++) {
                _tile_loadd(4, a + order[i][0] * 2 * TILE, 64);
                _tile_loadd(6, b + order[i][1] * 2 * TILE, 64);
                _tile_loadd(7, b + order[i][1] * 2 * TILE + TILE, 64);
                PAIR(4, 6, 0);
                PAIR(4, 7, 1);
            }
        }
    } else {
        _tile_zero(2);
        _tile_zero(3);
#define LOAD_A(piece) _tile_loadd(4, a + (piece) * 2 * TILE, 64); _tile_loadd(5, a + (piece) * 2 * TILE + TILE, 64)
#define LOAD_B(piece) _tile_loadd(6, b + (piece) * 2 * TILE, 64); _tile_loadd(7, b + (piece) * 2 * TILE + TILE, 64)
#define FOUR() PAIR(4, 6, 0); PAIR(4, 7, 1); PAIR(5, 6, 2); PAIR(5, 7, 3)
        for (; n; n--, a += STEP, b += STEP) {
            LOAD_A(0); LOAD_B(2); FOUR();
            LOAD_B(1); FOUR();
            LOAD_A(1); FOUR();
            LOAD_B(0); FOUR();
            LOAD_A(2); FOUR();
            LOAD_A(0); FOUR();
        }
        _tile_stored(2, sums + 16 * SIDE, SIDE * 4);
        _tile_stored(3, sums + 16 * SIDE + 16, SIDE * 4);
    }
    _tile_stored(0, sums, SIDE * 4);
    _tile_stored(1, sums + 16, SIDE * 4);
}

static int64_t share_of(int64_t depth) { return ROWS * steps(depth) * (STEP / SIDE); }

TILES static void rows_of(const Product *p, int64_t from, int64_t to, int64_t left, int64_t right, char *packed) {
    struct config config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int i = 0; i < 8; i++)
        config.bytes[i] = 64, config.rows[i] = 16;
    _tile_loadconfig(&config);
    float sums[SIDE * SIDE] __attribute__((aligned(64))), gates[SIDE * SIDE] __attribute__((aligned(64)));
    int64_t n = steps(p->depth);
    for (int64_t first = from; first < to; first += ROWS) {
        int64_t last = smaller(first + ROWS, to);
        for (int64_t row = first; row < last; row += SIDE)
            pack_rows(p, row, smaller(SIDE, last - row), packed + (row - first) / SIDE * n * STEP);
        for (int64_t column = left; column < right; column += SIDE) {
            int64_t at = column / SIDE * n * STEP;
            for (int64_t row = first; row < last; row += SIDE) {
                int64_t rows = smaller(SIDE, last - row);
                const char *a = packed + (row - first) / SIDE * n * STEP;
                block_product(a, p->weight + at, n, rows <= 16, sums);
                if (p->gate)
                    block_product(a, p->gate + at, n, rows <= 16, gates);
                finish(p, sums, p->gate ? gates : 0, row, rows, column);
            }
        }
    }
    _tile_release();
}

static int has_tiles(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1))
        return 0;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1))
        return 0;
    return has_vectors(0x60000);
}

__attribute__((visibility("default"))) int64_t coremesh_tiles_able(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18 };
    return has_tiles() && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
}

__attribute__((visibility("default"))) int64_t coremesh_tiles_scratch(int64_t depth, int64_t threads) {
    return threads * share_of(depth);
}

__attribute__((visibility("default"))) int64_t coremesh_tiles_size(int64_t columns, int64_t depth) {
    return steps(columns) * steps(depth) * STEP;
}

/* weight [columns, depth], contiguous -> packed, coremesh_tiles_size bytes, aligned to 64. */
__attribute__((visibility("default"))) TILES int64_t coremesh_tiles_pack(const float *weight, int64_t columns,
                                                                        int64_t depth, char *packed) {
    int64_t n = steps(depth);
    for (int64_t block = 0; block < steps(columns); block++)
        for (int64_t s = 0; s < n; s++) {
            char pieces[PIECES * 2 * TILE] __attribute__((aligned(64)));
            char *to = packed + (block * n + s) * STEP;
            for (int64_t c = 0; c < SIDE; c++) {
                int64_t column = block * SIDE + c, k = s * SIDE;
                __mmask16 low = column < columns ? some(depth - k) : 0;
                __mmask16 high = column < columns ? some(depth - k - 16) : 0;
                const float *w = weight + (column < columns ? column : 0) * depth + k;
                split(_mm512_maskz_loadu_ps(low, w), _mm512_maskz_loadu_ps(high, w + 16),
                      pieces + (c >> 4) * TILE + (c & 15) * 64);
            }
            /* Columns became rows of a tile; pairs of the depth are its rows. */
            for (int tile = 0; tile < PIECES * 2; tile++)
                for (int r = 0; r < 16; r++)
                    for (int c = 0; c < 16; c++)
                        memcpy(to + tile * TILE + r * 64 + c * 4, pieces + tile * TILE + c * 64 + r * 4, 4);
        }
    return 0;
}

__attribute__((visibility("default"))) int64_t coremesh_tiles_multiply(const Product *p) { return multiply(p); }

#else
__attribute__((visibility("default"))) int64_t coremesh_tiles_able(void) { return 0; }
#endif

__attribute__((visibility("default"))) int64_t coremesh_tiles_version(void) { return VERSION; }
