// Products on vector units, and networks run by these. Products are made in tiles of rows of the one factor times
// the vectors of the other, as large as there are registers to add up in (Goto and van de Geijn 2008, "Anatomy of
// high-performance matrix multiplication").
#pragma once

#include <cstring>

#include "networks.h"

constexpr int64_t WIDEST = 3;  // panel, in vectors: so 200 rows of it fit the first cache

// A matrix whose columns lie in parts of `width`, each part on its own; or the transpose of one that is in one
// part.
template <bool TRANSPOSED>
struct Matrix {
    const float* numbers;
    int64_t n_rows;
    int64_t step;  // from one row to the next, or from one column if it is transposed
    int64_t n_parts, width, part_step;
};

// Sums of N rows of A, from row `first` on, times a panel of NV vectors. On its own, so that compilers see nothing
// else that could take the registers.
template <int64_t NV, int64_t N, bool TRANSPOSED>
__attribute__((noinline)) void add_up(const Matrix<TRANSPOSED>& a, int64_t first, const float* bias,
                                      const float* panel, float* to) {
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

// Rows `first` to the last of A times a panel, in tiles of N, and what is left of them in smaller ones: puts what
// `make(row, vector, sums)` makes of them.
template <int64_t NV, int64_t N = SUMS / NV, bool TRANSPOSED, class To, class Make>
void product(const Matrix<TRANSPOSED>& a, const float* bias, const float* panel, const To& to, Make make,
             int64_t first = 0) {
    alignas(64) float sums[N * NV * V];
    for (; first + N <= a.n_rows; first += N) {
        add_up<NV, N>(a, first, bias, panel, sums);
        for (int64_t i = 0; i < N; i++)
            for (int64_t j = 0; j < NV; j++)
                to.put(first + i, j, make(first + i, j, load(sums + (i * NV + j) * V)));
    }
    if constexpr (N > 1) product<NV, N / 2>(a, bias, panel, to, make, first);
}

// A panel of NV vectors of rows, of which `n` features count, as one of MV vectors of features.
template <int64_t MV, int64_t NV>
void transpose_panel(const float* panel, int64_t n, float* to) {
    for (int64_t c = 0; c < MV * V; c += V)
        for (int64_t r = 0; r < NV * V; r += V) {
            Vector square[V];
            load_transposed(panel + c * NV * V + r, NV * V, n - c, V, square);
            for (int64_t i = 0; i < V; i++) store(to + (r + i) * MV * V + c, square[i]);
        }
}

// Networks run by vector units: panels of NV vectors, and weights as they lie.
template <int64_t NV_>
struct VectorUnits {
    static constexpr int64_t NV = NV_, WIDTH = NV * V, GRADIENT_WIDTH = WIDEST * V, BLOCKS = 1;

    struct InUse {};
    struct Panel {
        float* numbers;
        static int64_t size(int64_t n_features) { return n_features * WIDTH; }
        Panel(float* memory, int64_t) : numbers(memory) {}
        void put(int64_t i, int64_t j, const Vector& x) const { store(numbers + (i * NV + j) * V, x); }
        void clear_end() const {}
        void fill(const float* rows, int64_t n_features) const {
            std::memcpy(numbers, rows, n_features * WIDTH * sizeof(float));
        }
    };

    const Networks& nets;
    bool transposed;  // the weights

    template <class From, class To, class Make>
    void product(int64_t e, int64_t l, const float* bias, int64_t n_panels, From from, To to, Make make) const {
        int64_t n_in = nets.sizes[l], n_out = nets.sizes[l + 1];
        const float* weights = nets.weights[l] + e * n_out * n_in;
        for (int64_t b = 0; b < n_panels; b++) {
            auto make_own = [&](int64_t i, int64_t j, const Vector& sums) { return make(b, i, j, sums); };
            if (transposed)
                ::product<NV>(Matrix<true>{weights, n_in, n_in, 1, n_out, 0}, bias, from(b).numbers, to(b),
                              make_own);
            else
                ::product<NV>(Matrix<false>{weights, n_out, n_in, 1, n_in, 0}, bias, from(b).numbers, to(b),
                              make_own);
        }
    }

    void layer_gradients(const float* of_sums, const float* inputs, int64_t e, int64_t l, int64_t first,
                         Range blocks, const Rows& to, float* of_biases) const {
        int64_t n = nets.sizes[l] - first;
        if (n > 2 * V)
            weight_gradients<3>(of_sums, inputs, e, l, first, blocks, to);
        else if (n > V)
            weight_gradients<2>(of_sums, inputs, e, l, first, blocks, to);
        else
            weight_gradients<1>(of_sums, inputs, e, l, first, blocks, to);
        for (int64_t i = 0; of_biases && i < nets.sizes[l + 1]; i++) {
            Vector sums{};
            for (int64_t b = 0; b < blocks.n; b++)
                for (int64_t j = 0; j < NV; j++)
                    sums += load(of_sums + nets.panel(e, l + 1, blocks.first + b) + (i * NV + j) * V);
            of_biases[i] = sum(sums) + (to.add ? of_biases[i] : 0.0f);
        }
    }

   private:
    template <int64_t MV>
    void weight_gradients(const float* of_sums, const float* inputs, int64_t e, int64_t l, int64_t first,
                          Range blocks, const Rows& to) const {
        int64_t n_out = nets.sizes[l + 1];
        float* panel = scratch<0>(blocks.n * WIDTH * MV * V);
        for (int64_t b = 0; b < blocks.n; b++)
            transpose_panel<MV, NV>(inputs + nets.panel(e, l, blocks.first + b) + first * WIDTH,
                                    nets.sizes[l] - first, panel + b * WIDTH * MV * V);
        Matrix<false> matrix{
            of_sums + nets.panel(e, l + 1, blocks.first), n_out, WIDTH, blocks.n, WIDTH, n_out * WIDTH};
        ::product<MV>(matrix, nullptr, panel, to, [](int64_t, int64_t, const Vector& sums) { return sums; });
    }
};
