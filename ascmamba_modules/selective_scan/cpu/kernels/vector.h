/* Vectors of REAL, and the functions of them that the kernels need.
 *
 * Written with the vector types of GCC and Clang; compiled once for each
 * instruction set and type.  VECTOR_BYTES, REAL and REAL_IS_DOUBLE come from
 * setup.py. */

#ifndef VECTOR_H
#define VECTOR_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#if REAL_IS_DOUBLE
typedef int64_t integer;
#define MANTISSA_BITS 52
#define EXPONENT_BIAS 1023
#define ROUNDING_SHIFT 0x1.8p52 /* adding it rounds to a whole number */
#else
typedef int32_t integer;
#define MANTISSA_BITS 23
#define EXPONENT_BIAS 127
#define ROUNDING_SHIFT 0x1.8p23f
#endif

typedef REAL vector __attribute__((vector_size(VECTOR_BYTES)));
typedef integer integers __attribute__((vector_size(VECTOR_BYTES)));
#define LANES ((int64_t)(VECTOR_BYTES / sizeof(REAL)))
#define INLINE static inline __attribute__((always_inline))

INLINE vector constant(REAL x)
{
    return x - (vector){}; /* x + 0 would not keep -0, and cost an addition */
}

INLINE vector load(const REAL *from, int64_t lanes)
{
    vector x = {};
    if (lanes == LANES)
        memcpy(&x, from, sizeof x);
    else
        for (int64_t i = 0; i < lanes; i++)
            x[i] = from[i];
    return x;
}

INLINE void store(REAL *to, vector x, int64_t lanes)
{
    if (lanes == LANES)
        memcpy(to, &x, sizeof x);
    else
        for (int64_t i = 0; i < lanes; i++)
            to[i] = x[i];
}

INLINE vector choose(integers mask, vector yes, vector no)
{
    return (vector)((mask & (integers)yes) | (~mask & (integers)no));
}

/* Both keep a NaN in x. */
INLINE vector at_least(vector x, REAL low)
{
#if VECTOR_BYTES == 32 && defined(__AVX2__)
#if REAL_IS_DOUBLE
    return (vector)_mm256_max_pd(_mm256_set1_pd(low), (__m256d)x);
#else
    return (vector)_mm256_max_ps(_mm256_set1_ps(low), (__m256)x);
#endif
#else
    return choose(x < low, constant(low), x);
#endif
}

INLINE vector at_most(vector x, REAL high)
{
#if VECTOR_BYTES == 32 && defined(__AVX2__)
#if REAL_IS_DOUBLE
    return (vector)_mm256_min_pd(_mm256_set1_pd(high), (__m256d)x);
#else
    return (vector)_mm256_min_ps(_mm256_set1_ps(high), (__m256)x);
#endif
#else
    return choose(x > high, constant(high), x);
#endif
}

/* 2**f for f in [-1/2, 1/2], exact at 0, so that no error builds up in states
 * that decay slowly. */
INLINE vector exp2_of_fraction(vector f)
{
#if REAL_IS_DOUBLE
    /* The Taylor series; its remainder is below 1e-17. */
    static const double ln2 = 0x1.62e42fefa39efp-1;
    vector p = constant(1.0);
    for (int k = 13; k > 0; k--)
        p = 1.0 + p * (f * (ln2 / k));
    return p;
#else
    /* Minimax; its relative error is below 2e-8. */
    vector p = constant(0x1.41fbccp-13f);
    p = p * f + 0x1.5f3e5ap-10f;
    p = p * f + 0x1.3b2d4cp-7f;
    p = p * f + 0x1.c6aee8p-5f;
    p = p * f + 0x1.ebfbdcp-3f;
    p = p * f + 0x1.62e43p-1f;
    return p * f + 1.0f;
#endif
}

/* 2**x: 0 and infinity beyond the range of normal numbers, NaN for NaN. */
INLINE vector exp2_of(vector x)
{
#if VECTOR_BYTES == 64 && defined(__AVX512F__)
    /* x is to be rounded here: were the product that it comes from fused with
     * the subtractions, they would leave the rounding error of a huge x. */
    __asm__("" : "+v"(x));
    /* scalef multiplies by 2**whole, whatever the range. */
    vector whole = (x + ROUNDING_SHIFT) - ROUNDING_SHIFT;
    vector p = exp2_of_fraction(x - whole);
#if REAL_IS_DOUBLE
    return (vector)_mm512_scalef_pd((__m512d)p, (__m512d)whole);
#else
    return (vector)_mm512_scalef_ps((__m512)p, (__m512)whole);
#endif
#else
    /* An exponent of -EXPONENT_BIAS makes 0, one of EXPONENT_BIAS + 1
     * infinity. */
    x = at_most(at_least(x, -EXPONENT_BIAS), EXPONENT_BIAS + 1);
    vector shifted = x + ROUNDING_SHIFT;
    vector p = exp2_of_fraction(x - (shifted - ROUNDING_SHIFT));
    integers power = ((integers)shifted << MANTISSA_BITS)
                   + ((integer)EXPONENT_BIAS << MANTISSA_BITS);
    return p * (vector)power;
#endif
}

INLINE vector minus_magnitude(vector x)
{
    return (vector)((integers)x | (integer)1 << (8 * sizeof(integer) - 1));
}

#define LOG2_E ((REAL)0x1.71547652b82fep0)
#define LN_2 ((REAL)0x1.62e42fefa39efp-1)

INLINE vector sigmoid_from(vector x, vector e) /* e = exp(-|x|) */
{
    return choose(x < 0, e, constant(1)) / (1 + e);
}

INLINE vector sigmoid(vector x)
{
    return sigmoid_from(x, exp2_of(minus_magnitude(x) * LOG2_E));
}

/* log(1 + exp(x)), and its slope. */
INLINE vector softplus(vector x, vector *slope)
{
    vector e = exp2_of(minus_magnitude(x) * LOG2_E);
    *slope = sigmoid_from(x, e);
    /* log(1 + e) = 2 artanh(s), a series in s squared, which is <= 1/9. */
    vector s = e / (2 + e), square = s * s;
    const int terms = REAL_IS_DOUBLE ? 17 : 8;
    vector series = constant((REAL)1 / (2 * terms - 1));
    for (int k = terms - 1; k > 0; k--)
        series = series * square + (REAL)1 / (2 * k - 1);
    return choose(x > 0, x, constant(0)) + 2 * s * series;
}

INLINE REAL sum_of_lanes(vector x)
{
    typedef REAL half __attribute__((vector_size(VECTOR_BYTES / 2)));
    half parts[2];
    memcpy(parts, &x, sizeof x);
    half sum = parts[0] + parts[1];
#if VECTOR_BYTES == 64
    typedef REAL quarter __attribute__((vector_size(VECTOR_BYTES / 4)));
    quarter halves[2];
    memcpy(halves, &sum, sizeof sum);
    quarter last = halves[0] + halves[1];
#else
    half last = sum;
#endif
    REAL total = 0;
    for (int64_t i = 0; i < (int64_t)(sizeof last / sizeof(REAL)); i++)
        total += last[i];
    return total;
}

#endif
