// Products of matrices with panels: made in tiles of rows of the one times the vectors of the other, as large as
// there are registers to add up in (Goto and van de Geijn 2008, "Anatomy of high-performance matrix
// multiplication").
#pragma once

#include "vectors.h"

constexpr int64_t WIDEST = 3;  // panel, in vectors: so 200 rows of it fit the first cache

// A matrix whose columns lie in parts of `width`, each part on its own; or the transpose of one that is in one
// part.
struct Matrix {
    const float* numbers;
    int64_t step;  // from one row to the next, or from one column if it is transposed
    int64_t n_parts, width, part_step;
};

// Sums of N rows of A, from row `first` on, times a panel of NV vectors. On its own, so that compilers see nothing
// else that could take the registers.
template <bool TRANSPOSED, int64_t NV, int64_t N>
__attribute__((noinline)) void add_up(const Matrix& a, int64_t first, const float* bias, const float* panel,
                                      float* to) {
    Vector sums[N][NV];
    for (int64_t i = 0; i < N; i++)
        for (int64_t j = 0; j < NV; j++) sums[i][j] = Vector{} + (bias ? bias[first + i] : 0.0f);
    for (int64_t part = 0; part < a.n_parts; part++) {
        const float* numbers = a.numbers + part * a.part_step + first * (TRANSPOSED ? 1 : a.step);
        for (int64_t k = 0, step = a.step; k < a.width; k++, panel += NV * V) {
            Vector row[NV];
            for (int64_t j = 0; j < NV; j++) row[j] = load(panel + j * V);
#pragma GCC unroll 24
            for (int64_t i = 0; i < N; i++)
                for (int64_t j = 0; j < NV; j++)
                    sums[i][j] += (TRANSPOSED ? numbers[k * step + i] : numbers[i * step + k]) * row[j];
        }
    }
    for (int64_t i = 0; i < N; i++)
        for (int64_t j = 0; j < NV; j++) store(to + (i * NV + j) * V, sums[i][j]);
}

// Rows `first` to `n_rows` of A times a panel, in tiles of N, and what is left of them in smaller ones: calls
// `use(row, vector, sums)`.
template <bool TRANSPOSED, int64_t NV, int64_t N = SUMS / NV, class Use>
void product(int64_t n_rows, const Matrix& a, const float* bias, const float* panel, Use use, int64_t first = 0) {
    alignas(64) float sums[N * NV * V];
    for (; first + N <= n_rows; first += N) {
        add_up<TRANSPOSED, NV, N>(a, first, bias, panel, sums);
        for (int64_t i = 0; i < N; i++)
            for (int64_t j = 0; j < NV; j++) use(first + i, j, load(sums + (i * NV + j) * V));
    }
    if constexpr (N > 1) product<TRANSPOSED, NV, N / 2>(n_rows, a, bias, panel, use, first);
}
