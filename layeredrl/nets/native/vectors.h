// Vectors of numbers, as wide as the processor has them, and what activations make of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>

#if defined(__AVX__)
#include <immintrin.h>
#endif

// For what is done to every vector. Left to themselves, compilers call some of it once a file has grown large.
#define ALWAYS_INLINE __attribute__((always_inline)) inline

// Numbers in a vector, and vectors that a tile adds up in: the other registers hold what is multiplied.
#if defined(__AVX512F__)
constexpr int64_t V = 16, SUMS = 24;
#elif defined(__AVX__)
constexpr int64_t V = 8, SUMS = 12;
#elif defined(__aarch64__)
constexpr int64_t V = 4, SUMS = 24;
#else
constexpr int64_t V = 4, SUMS = 12;
#endif

// Numbers in a line of the cache.
constexpr int64_t LINE = 64 / sizeof(float);

typedef float Vector __attribute__((vector_size(4 * V)));
typedef int32_t Integers __attribute__((vector_size(4 * V)));
typedef Vector InMemory __attribute__((aligned(4)));

ALWAYS_INLINE Vector load(const float* from) { return *reinterpret_cast<const InMemory*>(from); }
ALWAYS_INLINE void store(float* to, const Vector& x) { *reinterpret_cast<InMemory*>(to) = x; }
// The first n numbers, or as many as there are in a vector, and zeros.
ALWAYS_INLINE Vector load_first(const float* from, int64_t n) {
    if (n >= V) return load(from);
#if defined(__AVX512F__)
    return (Vector)_mm512_maskz_loadu_ps((1 << std::max(n, int64_t{0})) - 1, from);
#else
    Vector x{};
    for (int64_t c = 0; c < n; c++) x[c] = from[c];
    return x;
#endif
}
ALWAYS_INLINE void store_first(float* to, const Vector& x, int64_t n) {
    if (n >= V) return store(to, x);
    for (int64_t c = 0; c < n; c++) to[c] = x[c];
}
// Fetches n numbers that are soon read. There needn't be any.
inline void prefetch(const float* from, int64_t n) {
    for (int64_t i = 0; i < n; i += LINE) __builtin_prefetch(from + i);
}
inline float sum(const Vector& x) {
    float all = 0.0f;
    for (int64_t c = 0; c < V; c++) all += x[c];
    return all;
}
constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
template <class Number>
Number* align(Number* to) {
    return reinterpret_cast<Number*>(round_up(reinterpret_cast<std::intptr_t>(to), LINE * sizeof(float)));
}

// The transpose of V vectors: swaps the blocks beside the diagonal, of half the size, then those within each block.
template <int64_t SIZE, std::size_t... LANES>
ALWAYS_INLINE void transpose(Vector* rows, std::index_sequence<LANES...> lanes) {
#pragma GCC unroll 16
    for (int64_t i = 0; i < V; i++) {
        if (i & SIZE) continue;
        Vector upper = rows[i], lower = rows[i + SIZE];
        rows[i] = __builtin_shufflevector(upper, lower, (LANES & SIZE ? V + LANES - SIZE : LANES)...);
        rows[i + SIZE] = __builtin_shufflevector(upper, lower, (LANES & SIZE ? V + LANES : LANES + SIZE)...);
    }
    if constexpr (SIZE > 1) transpose<SIZE / 2>(rows, lanes);
}

// The transpose of up to V rows of up to V numbers, and zeros.
inline void load_transposed(const float* rows, int64_t step, int64_t n_rows, int64_t n, Vector* square) {
#pragma GCC unroll 16
    for (int64_t i = 0; i < V; i++) square[i] = i < n_rows ? load_first(rows + i * step, n) : Vector{};
    transpose<V / 2>(square, std::make_index_sequence<V>());
}

// exp(-x) for -87 <= x <= 87, nearly to the last bit: a power of two, of its whole part as an exponent and of the
// rest as a polynomial.
ALWAYS_INLINE Vector exponential_of_minus(Vector x) {
    constexpr float LOG2_E = 1.44269504f, ROUNDING = 3 << 22;  // so large that what is added to it becomes whole
    Vector shifted = x * -LOG2_E + ROUNDING, rest = x * -LOG2_E - (shifted - ROUNDING);
    Vector p = rest * 0.0013264732f + 0.00967151392f;  // minimax, of relative error 9e-08
    p = p * rest + 0.0555073358f;
    p = p * rest + 0.240222424f;
    p = p * rest + 0.693147004f;
    p = p * rest + 1.0f;
    return (Vector)((Integers)p + ((Integers)shifted << 23));
}

// Hands on what is no number. Comparing and choosing would take the processor twice as long.
ALWAYS_INLINE Vector between(float low, Vector x, float high) {
#if defined(__AVX512F__)
    return (Vector)_mm512_max_ps(_mm512_set1_ps(low), _mm512_min_ps(_mm512_set1_ps(high), (__m512)x));
#elif defined(__AVX__)
    return (Vector)_mm256_max_ps(_mm256_set1_ps(low), _mm256_min_ps(_mm256_set1_ps(high), (__m256)x));
#else
    Vector lowest = Vector{} + low, highest = Vector{} + high, above = x < lowest ? lowest : x;
    return above > highest ? highest : above;
#endif
}

// Nearly to the last bit: of 2^k (1 + f), where -0.3 < f < 0.42, k log(2) and log(1 + f) as a polynomial.
ALWAYS_INLINE Vector logarithm(Vector x) {
    constexpr float SMALLEST = 0x1p-126f, LOG_2 = 0.693359375f, REST_OF_LOG_2 = -2.12194440e-4f;
    constexpr int32_t ROOT_OF_HALF = 0x3f3504f3;
    Vector is_small =
        x < SMALLEST ? Vector{} + 1.0f : Vector{};  // with fewer bits: 24 powers of two are lent to it
    Integers bits = (Integers)(x < SMALLEST ? x * 0x1p24f : x), power = (bits - ROOT_OF_HALF) >> 23;
    Vector f = (Vector)(bits - (power << 23)) - 1.0f;
    Vector k = __builtin_convertvector(power, Vector) - 24.0f * is_small;
    Vector p = f * 0.08700425f - 0.14267476f;  // minimax, of relative error 3e-08
    p = p * f + 0.14914767f;
    p = p * f - 0.16577587f;
    p = p * f + 0.19963063f;
    p = p * f - 0.25001338f;
    p = p * f + 0.3333391f;
    p = p * f - 0.5f;
    Vector finite = k * LOG_2 + (f + (p * f * f + k * REST_OF_LOG_2));
    constexpr float INFINITE = std::numeric_limits<float>::infinity();
    Vector other = x == 0.0f ? Vector{} - INFINITE : x < 0.0f ? Vector{} + NAN : x;
    return ((x > 0.0f) & (x < INFINITE)) ? finite : other;
}

ALWAYS_INLINE Vector reciprocal(Vector x) {
#if defined(__AVX512F__)
    Vector estimate = (Vector)_mm512_rcp14_ps((__m512)x);
    return estimate * (2.0f - x * estimate);
#else
    return 1.0f / x;
#endif
}

ALWAYS_INLINE Vector sigmoid(Vector x) {
    return reciprocal(1.0f + exponential_of_minus(between(-87.0f, x, 87.0f)));
}

// What an activation makes of numbers, and its slope there. All hand on what is no number.
struct Activated {
    Vector value, slope;
};
struct SiLU {
    static ALWAYS_INLINE Activated of(Vector x) {
        Vector share = sigmoid(x), value = x * share;
        return {value, share + value * (1.0f - share)};
    }
};
struct ReLU {
    static ALWAYS_INLINE Activated of(Vector x) {
        return {x <= 0.0f ? Vector{} : x, x <= 0.0f ? Vector{} : Vector{} + 1.0f};
    }
};
struct Bound {
    float low, height, middle;

    ALWAYS_INLINE Activated of(Vector x) const {
        if (height == 0.0f) return {x, Vector{} + 1.0f};
        Vector share = x == x ? sigmoid(x - middle) : x;
        return {low + height * share, height * share * (1.0f - share)};
    }
};
