/* What products.c and attention.c share of AVX-512: the first lines of a row, e^x, and whether there is any. */

#include <cpuid.h>
#include <immintrin.h>
#include <stdint.h>

#define VECTORS __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))

/* Before a loop over a block of sums, whose bounds are known: it is written out, so that all of them stay in registers. */
#ifdef __clang__
#define WRITTEN_OUT _Pragma("clang loop unroll(full)")
#else
#define WRITTEN_OUT _Pragma("GCC unroll 16")
#endif

/* The lanes of a vector that still belong to something of which so much is left. */
VECTORS static inline __mmask16 some(int64_t left) {
    return left >= 16 ? 0xffff : left <= 0 ? 0 : (__mmask16)((1u << left) - 1);
}

/* e^x within 2 units in the last place: 2^n times a polynomial of the rest (Cephes' expf). */
VECTORS static inline __m512 expf16(__m512 x) {
    x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-87.3f)), _mm512_set1_ps(88.3f));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 y = _mm512_set1_ps(1.9875691500e-4f);
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.3981999507e-3f));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(8.3334519073e-3f));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(4.1665795894e-2f));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.6666665459e-1f));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(5.0000001201e-1f));
    y = _mm512_add_ps(_mm512_fmadd_ps(y, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, n);
}

/* Whether the processor has these vectors and the system saves them (with `also` of its state components). */
static inline int has_vectors(unsigned also) {
    unsigned a, b, c, d, low, high, all = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & all) != all)
        return 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1))
        return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & (0xe6 | also)) == (0xe6 | also);
}
