// Products on the matrix units of Intel's processors (AMX). These multiply tiles of bfloat16 numbers, 16 times as
// many at a time as vector units do of float32, and add up in float32.
//
// A float32 number is the sum of three bfloat16 numbers, of 8 bits each: x = x0 + x1 + x2. Of the nine products of
// two such sums, the three smallest are less than what float32 rounds away, so six are made (Henry, Tang and
// Heinecke 2019, "Leveraging the bfloat16 artificial intelligence datatype for higher-precision computations").
// Numbers that are not finite come out as NaN, and parts below 2^-126 count as zero.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "vectors.h"

using BFloat16 = uint16_t;
// Numbers of a tile, in 16 rows. In a panel's tiles, a row holds 16 pairs of neighbours in a column.
constexpr int64_t TILE = 512;
constexpr int64_t N_PARTS = 3, N_PRODUCTS = 6;
constexpr int64_t PART_OF_MATRIX[N_PRODUCTS] = {0, 0, 0, 1, 1, 2}, PART_OF_PANEL[N_PRODUCTS] = {0, 1, 2, 1, 0, 0};

// The parts of 16 numbers, in the upper halves of 32 bits; the lower halves are zero.
struct Parts {
    __m512i parts[N_PARTS];

    ALWAYS_INLINE explicit Parts(const Vector& x) {
        const __m512i upper = _mm512_set1_epi32(0xffff0000), half = _mm512_set1_epi32(0x8000);
        Vector rest = x;
        for (int64_t p = 0; p < N_PARTS; p++) {
            // What is left for the last part needs no rounding.
            __m512i rounded = p < N_PARTS - 1 ? _mm512_add_epi32((__m512i)rest, half) : (__m512i)rest;
            parts[p] = _mm512_and_si512(rounded, upper);
            rest -= (Vector)parts[p];
        }
    }
};

// Part p of 32 numbers.
inline __m512i halves(const Parts& x, const Parts& y, int64_t p) {
    alignas(64) static constexpr uint16_t UPPER[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21,
                                                       23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43,
                                                       45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    return _mm512_permutex2var_epi16(x.parts[p], _mm512_load_si512(UPPER), y.parts[p]);
}

// How factors are cut along what their products are summed over: into lengths of 32 numbers, each in as many tiles
// as there are parts; and the rest, in eights whose parts lie side by side, once for each product that they take
// part in.
struct Cut {
    int64_t n_whole, n_eights;

    explicit Cut(int64_t length) : n_whole(length / 32), n_eights((length % 32 + 7) / 8) {}
    int64_t n_rest_tiles() const { return (N_PRODUCTS * n_eights + 3) / 4; }
    int64_t n_tiles() const { return N_PARTS * n_whole + n_rest_tiles(); }
};

// Up to 32 rows of a matrix.
struct TileRows {
    BFloat16* tiles;
    Cut cut;

    static int64_t size(int64_t length) { return Cut(length).n_tiles() * 2 * TILE; }
    BFloat16* tile(int64_t t, int64_t half) const { return tiles + (half * cut.n_tiles() + t) * TILE; }
    // A length of one of the rows.
    ALWAYS_INLINE void put(int64_t row, int64_t length, const Vector& x, const Vector& y) const {
        Parts left(x), right(y);
        BFloat16* to = tile(N_PARTS * length, row / 16) + row % 16 * 32;
        if (length < cut.n_whole) {
            for (int64_t p = 0; p < N_PARTS; p++) _mm512_store_si512(to + p * TILE, halves(left, right, p));
            return;
        }
        auto put_eight = [&](int64_t n, __m128i eight) {
            _mm_store_si128(reinterpret_cast<__m128i*>(to + n / 4 * TILE + n % 4 * 8), eight);
        };
#pragma GCC unroll 6
        for (int64_t q = 0; q < N_PRODUCTS; q++) {
            __m512i part = halves(left, right, PART_OF_MATRIX[q]);
            int64_t n = q * cut.n_eights;
            put_eight(n, _mm512_extracti32x4_epi32(part, 0));
            if (cut.n_eights > 1) put_eight(n + 1, _mm512_extracti32x4_epi32(part, 1));
            if (cut.n_eights > 2) put_eight(n + 2, _mm512_extracti32x4_epi32(part, 2));
            if (cut.n_eights > 3) put_eight(n + 3, _mm512_extracti32x4_epi32(part, 3));
        }
        for (int64_t n = N_PRODUCTS * cut.n_eights; n < 4 * cut.n_rest_tiles(); n++) put_eight(n, __m128i{});
    }
};

// Upright rows, in two tiles side by side.
struct TilePanel {
    BFloat16* tiles;
    Cut cut;

    static int64_t size(int64_t n_features) { return Cut(n_features).n_tiles() * 2 * TILE; }
    // Zeros behind the features, which are multiplied too.
    void clear_end() const {
        std::memset(tile(N_PARTS * cut.n_whole, 0), 0, cut.n_rest_tiles() * 2 * TILE * sizeof(BFloat16));
    }
    BFloat16* tile(int64_t t, int64_t j) const { return tiles + (2 * t + j) * TILE; }
    // Features i, which is even, and i + 1 of 16 rows.
    ALWAYS_INLINE void put(int64_t i, int64_t j, const Vector& x, const Vector& next) const {
        Parts parts(x), next_parts(next);
        auto put_pair = [&](int64_t t, int64_t row, int64_t p) {
            __m512i pairs = _mm512_or_si512(_mm512_srli_epi32(parts.parts[p], 16), next_parts.parts[p]);
            _mm512_store_si512(tile(t, j) + row * 32, pairs);
        };
        int64_t length = i / 32, row = i % 32 / 2;
        if (length < cut.n_whole) {
            for (int64_t p = 0; p < N_PARTS; p++) put_pair(N_PARTS * length + p, row, p);
            return;
        }
        for (int64_t q = 0, place = row; q < N_PRODUCTS; q++, place += 4 * cut.n_eights)
            put_pair(N_PARTS * length + place / 16, place % 16, PART_OF_PANEL[q]);
    }
};

// Multiplies what lies in tiles 4 and 5 by what lies in 6 and 7, and adds it to 0, 1, 2 and 3. Of a single strip of
// rows, every other product is added elsewhere, as additions to the same tile wait for each other.
template <int64_t N_STRIPS, int64_t PRODUCT>
inline void multiply() {
    if constexpr (N_STRIPS == 2 || PRODUCT % 2 == 0) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (N_STRIPS == 2) {
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    } else if constexpr (PRODUCT % 2 == 1) {
        _tile_dpbf16ps(2, 4, 6);
        _tile_dpbf16ps(3, 4, 7);
    }
}

// Sums of up to 16 rows, or of more, times a panel, 32 side by side; calls `meanwhile()` once for each product.
template <int64_t N_STRIPS, class Meanwhile>
void add_up(const TileRows& rows, const TilePanel& panel, float* to, Meanwhile meanwhile) {
    auto load_rows = [&](int64_t t) {
        _tile_loadd(4, rows.tile(t, 0), 64);
        if constexpr (N_STRIPS == 2) _tile_loadd(5, rows.tile(t, 1), 64);
    };
    auto load_panel = [&](int64_t t) {
        _tile_stream_loadd(6, panel.tile(t, 0), 64);
        _tile_stream_loadd(7, panel.tile(t, 1), 64);
    };
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    int64_t t = 0;
    for (; t < N_PARTS * rows.cut.n_whole; t += N_PARTS) {
        load_panel(t);
        load_rows(t);
        multiply<N_STRIPS, 0>();
        meanwhile();
        load_rows(t + 1);
        multiply<N_STRIPS, 1>();
        meanwhile();
        load_rows(t + 2);
        multiply<N_STRIPS, 2>();
        meanwhile();
        load_panel(t + 1);
        load_rows(t + 1);
        multiply<N_STRIPS, 3>();
        meanwhile();
        load_rows(t);
        multiply<N_STRIPS, 4>();
        meanwhile();
        load_panel(t + 2);
        multiply<N_STRIPS, 5>();
        meanwhile();
    }
    for (; t < rows.cut.n_tiles(); t++) {
        load_rows(t);
        load_panel(t);
        multiply<N_STRIPS, 0>();
        meanwhile();
    }
    _tile_stored(0, to, 128);
    _tile_stored(1, to + 16, 128);
    _tile_stored(2, to + 16 * 32, 128);
    _tile_stored(3, to + 16 * 32 + 16, 128);
    for (int64_t i = 0; i < 16 * 32 && N_STRIPS == 1; i += V) store(to + i, load(to + i) + load(to + 16 * 32 + i));
}

// A matrix times panels: puts what `make(b, row, vector, sums)` makes of them in `to(b)`. That is done of one
// product while the next one is made. `cut_up(first, rows)` fills tiles with the rows of the matrix that come next.
template <class CutUp, class Panels, class Tos, class Make>
void product(int64_t n_rows, TileRows rows, CutUp cut_up, const float* bias, int64_t n_panels, Panels panels,
             Tos to, Make make) {
    alignas(64) float sums[2][32 * 32];
    struct {
        int64_t first, b, n_pairs, n_made;
        const float* sums;
    } last{};
    int64_t turn = 0;
    auto made = [&](int64_t i, int64_t j) {
        if (i >= n_rows) return Vector{};
        return make(last.b, i, j, load(last.sums + (i - last.first) * 32 + j * V) + (bias ? bias[i] : 0.0f));
    };
    auto make_some = [&](int64_t n) __attribute__((noinline)) {
        for (; n > 0 && last.n_made < last.n_pairs; n--, last.n_made++) {
            int64_t i = last.first + last.n_made / 2 * 2, j = last.n_made % 2;
            auto place = to(last.b);
            if constexpr (std::is_base_of_v<TilePanel, decltype(place)>) {
                place.put(i, j, made(i, j), made(i + 1, j));
            } else {
                place.put(i, j, made(i, j));
                if (i + 1 < n_rows) place.put(i + 1, j, made(i + 1, j));
            }
        }
    };
    int64_t n_products = N_PRODUCTS * rows.cut.n_whole + rows.cut.n_rest_tiles();
    auto meanwhile = [&, n = (32 + n_products - 1) / n_products] { make_some(n); };
    for (int64_t first = 0; first < n_rows; first += 32) {
        int64_t n = std::min<int64_t>(32, n_rows - first);
        cut_up(first, rows);
        for (int64_t b = 0; b < n_panels; b++) {
            if (n > 16)
                add_up<2>(rows, panels(b), sums[turn], meanwhile);
            else
                add_up<1>(rows, panels(b), sums[turn], meanwhile);
            make_some(last.n_pairs);
            last = {first, b, round_up(n, 2), 0, sums[turn]};
            turn = 1 - turn;
        }
    }
    make_some(last.n_pairs);
}
