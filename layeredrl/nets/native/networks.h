// E networks of one shape, the panels that blocks of their rows stand upright in, and how these are shared out.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "vectors.h"

// Memory of a thread's own, from where cache lines begin.
template <int WHICH>
float* scratch(int64_t n_numbers) {
    thread_local std::vector<float> memory;
    if (static_cast<int64_t>(memory.size()) < n_numbers + V) memory.resize(n_numbers + V);
    return align(memory.data());
}

struct Networks {
    int64_t n_members, n_rows, n_layers;
    const int64_t* sizes;         // of the inputs, and of the outputs of each layer
    const float* const* weights;  // of each layer, (E, out, in)
    int64_t width;                // of blocks, as it suits what multiplies

    int64_t widest() const { return *std::max_element(sizes, sizes + n_layers + 1); }
    int64_t n_blocks() const { return (n_rows + width - 1) / width; }
    // Where a panel of what goes into layer `l` lies among those of all layers, members and blocks.
    int64_t panel(int64_t e, int64_t l, int64_t block) const {
        int64_t n_before = n_members * n_blocks() * std::accumulate(sizes, sizes + l, int64_t{0});
        return (n_before + (e * n_blocks() + block) * sizes[l]) * width;
    }
    // Rows of a block that there are; the others are empty.
    int64_t n_rows_of(int64_t block) const { return std::min(width, n_rows - block * width); }

    // A block of rows, upright; zeros where there are no more rows.
    void stand_up(const float* rows, const int64_t* steps, int64_t n_features, int64_t e, int64_t block,
                  float* panel) const {
        rows += e * steps[0] + block * width * steps[1];
        int64_t n = n_rows_of(block);
        if (steps[2] != 1) {
            for (int64_t k = 0; k < n_features; k++)
                for (int64_t r = 0; r < width; r++)
                    panel[k * width + r] = r < n ? rows[r * steps[1] + k * steps[2]] : 0.0f;
            return;
        }
        for (int64_t r = 0; r < width; r += V)
            for (int64_t k = 0; k < n_features; k += V) {
                Vector square[V];
                load_transposed(rows + r * steps[1] + k, steps[1], n - r, n_features - k, square);
                for (int64_t i = 0; i < std::min(V, n_features - k); i++)
                    store(panel + (k + i) * width + r, square[i]);
            }
    }
};

// Some blocks, one after the other.
struct Range {
    int64_t first, n;
};

// How blocks of rows are shared out: up to `most` at a time, so that weights are read once for all of them, but
// fewer if threads would get unequal shares.
struct Tasks {
    int64_t n_blocks, per_member, size, n;

    Tasks(const Networks& nets, int64_t most, int n_threads) : n_blocks(nets.n_blocks()) {
        int64_t fair = nets.n_members * n_blocks / (4 * n_threads);
        int64_t few = std::max<int64_t>(1, std::min(most, fair));
        per_member = (n_blocks + few - 1) / few, n = nets.n_members * per_member;
        size = (n_blocks + per_member - 1) / std::max<int64_t>(1, per_member);
    }
    int64_t member(int64_t task) const { return task / per_member; }
    Range blocks(int64_t task) const {
        int64_t first = task % per_member * size;
        return {first, std::min(size, n_blocks - first)};
    }
};

// Memory for what goes into one layer and what comes out of it, by turns, and for upright rows.
template <class Unit>
struct Panels {
    int64_t size, n;
    float *memory, *upright;

    Panels(const Networks& nets, int64_t n_blocks)
        : size(Unit::Panel::size(nets.widest())),
          n(n_blocks),
          memory(scratch<0>(2 * n * size + nets.widest() * nets.width)),
          upright(memory + 2 * n * size) {}
    // Of each block `b`, for layer `l`.
    auto of(int64_t l, int64_t n_features) const {
        return [=, first = memory + l % 2 * n * size, step = size](int64_t b) {
            return typename Unit::Panel(first + b * step, n_features);
        };
    }
};

// Numbers of a matrix in memory, up to n in a row: where a product goes, or is added.
struct Rows {
    float* numbers;
    int64_t step, n;
    bool add;

    Rows from(int64_t c) const { return {numbers + c, step, n - c, add}; }
    void put(int64_t i, int64_t j, const Vector& x) const {
        float* to = numbers + i * step + j * V;
        if (!add && (j + 1) * V <= n) return store(to, x);
        for (int64_t c = 0; c < std::min(V, n - j * V); c++) to[c] = add ? to[c] + x[c] : x[c];
    }
};
inline Vector as_it_is(int64_t, int64_t, int64_t, const Vector& x) { return x; }
// Where the numbers of each of some blocks belong among those of all rows of a member, which stand upright.
inline auto upright_rows(const Networks& nets, Range blocks, float* numbers) {
    return [=, n_rows = nets.n_rows, width = nets.width](int64_t b) {
        int64_t first = (blocks.first + b) * width;
        return Rows{numbers + first, n_rows, n_rows - first, false};
    };
}
