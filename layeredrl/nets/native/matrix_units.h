// Networks run by matrix units: panels and weights in tiles.
#pragma once

#include "vectors.h"

constexpr int64_t MATRIX_UNIT_WIDTH = 2 * V;

#if defined(__linux__) && defined(__AMX_BF16__)
#define MATRIX_UNITS
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "networks.h"
#include "tiles.h"

struct MatrixUnits {
    static constexpr int64_t NV = 2, WIDTH = MATRIX_UNIT_WIDTH, GRADIENT_WIDTH = 8 * WIDTH, BLOCKS = 16;

    // By a thread.
    struct InUse {
        InUse() {
            // Eight tiles of 16 rows of 64 bytes. Static, as compilers may think that only the first few are read.
            static const struct alignas(64) {
                uint8_t palette = 1, start_row = 0, reserved[14] = {};
                uint16_t n_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
                uint8_t n_rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
            } configuration;
            _tile_loadconfig(&configuration);
        }
        ~InUse() { _tile_release(); }
    };
    struct Panel : TilePanel {
        static int64_t size(int64_t n_features) { return TilePanel::size(n_features) / 2; }
        Panel(float* memory, int64_t n_features)
            : TilePanel{reinterpret_cast<BFloat16*>(memory), Cut(n_features)} {}
        void fill(const float* rows, int64_t n_features) const {
            clear_end();
            for (int64_t i = 0; i < n_features; i += 2)
                for (int64_t j = 0; j < NV; j++) {
                    const float* from = rows + i * WIDTH + j * V;
                    put(i, j, load(from), i + 1 < n_features ? load(from + WIDTH) : Vector{});
                }
        }
    };

    const Networks& nets;
    bool transposed;  // the weights

    // Whether there are such units, and this process may use them.
    static bool exist() {
        static const bool answer = [] {
            constexpr int TILES = 1 << 24, BFLOAT16 = 1 << 22, ASK = 0x1023, DATA_OF_TILES = 18;
            unsigned a, b, c, d;
            return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & TILES) && (d & BFLOAT16) &&
                   syscall(SYS_arch_prctl, ASK, DATA_OF_TILES) == 0;
        }();
        return answer;
    }

    template <class From, class To, class Make>
    void product(int64_t e, int64_t l, const float* bias, int64_t n_panels, From from, To to, Make make) const {
        int64_t n_rows = nets.sizes[transposed ? l : l + 1], length = nets.sizes[transposed ? l + 1 : l];
        const float* weights = nets.weights[l] + e * n_rows * length;
        auto cut_up = [=](int64_t first, const TileRows& rows) {
            int64_t n = std::min(2 * V, n_rows - first);
            if (transposed) return cut_up_columns(weights + first, n_rows, n, length, rows);
            for (int64_t i = 0; i < n; i++)
                for (int64_t c = 0; c < length; c += 2 * V) {
                    const float* from = weights + (first + i) * length + c;
                    rows.put(i, c / (2 * V), load_first(from, length - c), load_first(from + V, length - c - V));
                }
        };
        ::product(n_rows, tile_rows(length), cut_up, bias, n_panels, from, to, make);
    }

    // For the inputs from `first` on, of some blocks: panels in which rows take the place of features.
    void layer_gradients(const float* of_sums, const float* inputs, int64_t e, int64_t l, int64_t first,
                         Range blocks, const Rows& to, float* of_biases) const {
        int64_t n_in = nets.sizes[l], n_out = nets.sizes[l + 1], n_rows = blocks.n * WIDTH;
        int64_t n_panels = (std::min(n_in - first, GRADIENT_WIDTH) + WIDTH - 1) / WIDTH, size = Panel::size(n_rows);
        float* memory = scratch<0>(n_panels * size);
        auto panels = [=](int64_t b) { return Panel(memory + b * size, n_rows); };
        for (int64_t b = 0; b < blocks.n; b++)  // as they lie in memory
            for (int64_t c = 0; c < n_panels * WIDTH; c += V)
                lay_down(inputs + nets.panel(e, l, blocks.first + b) + (first + c) * WIDTH, n_in - first - c,
                         panels(c / WIDTH), b * WIDTH, c / V % NV);
        auto cut_up = [=](int64_t out, const TileRows& rows) {
            int64_t n = std::min(2 * V, n_out - out), step = n_out * WIDTH;
            const float* from = of_sums + nets.panel(e, l + 1, blocks.first) + out * WIDTH;
            Vector sums[2 * V]{};
            for (int64_t b = 0; b < blocks.n; b++, from += step)
                for (int64_t i = 0; i < n; i++) {
                    const float* row = from + i * WIDTH;
                    prefetch(row + step, WIDTH);
                    Vector left = load(row), right = load(row + V);
                    rows.put(i, b, left, right);
                    sums[i] += left + right;
                }
            for (int64_t i = 0; of_biases && i < n; i++)
                of_biases[out + i] = sum(sums[i]) + (to.add ? of_biases[out + i] : 0.0f);
        };
        ::product(
            n_out, tile_rows(n_rows), cut_up, nullptr, n_panels, panels,
            [=](int64_t b) { return to.from(b * WIDTH); }, as_it_is);
    }

   private:
    static TileRows tile_rows(int64_t length) {
        return {reinterpret_cast<BFloat16*>(scratch<1>(TileRows::size(length) / 2)), Cut(length)};
    }
    // Up to 16 features of 32 upright rows: each row becomes a feature, from `place` on.
    static void lay_down(const float* upright, int64_t n_features, const Panel& panel, int64_t place, int64_t j) {
        prefetch(upright + 2 * V * WIDTH, V * WIDTH);
        for (int64_t row = 0; row < WIDTH; row += V) {
            Vector square[V];
            load_transposed(upright + row, WIDTH, n_features, V, square);
            for (int64_t i = 0; i < V; i += 2) panel.put(place + row + i, j, square[i], square[i + 1]);
        }
    }
    // The first n columns of a matrix become rows.
    static void cut_up_columns(const float* matrix, int64_t step, int64_t n, int64_t length, const TileRows& rows) {
        for (int64_t first = 0; first < n; first += V)
            for (int64_t c = 0; c < length; c += 2 * V) {
                Vector left[V], right[V];
                const float* from = matrix + c * step + first;
                load_transposed(from, step, length - c, n - first, left);
                load_transposed(from + V * step, step, length - c - V, n - first, right);
                for (int64_t i = 0; i < V; i++) rows.put(first + i, c / (2 * V), left[i], right[i]);
            }
    }
};

#endif
