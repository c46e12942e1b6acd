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
    if (static_cast<int64_t>(memory.size()) < n_numbers + LINE) memory.resize(n_numbers + LINE);
    return align(memory.data());
}

// Some blocks, one after the other.
struct Range {
    int64_t first, n;
};

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

// Some blocks of rows of a member.
struct Task {
    int64_t e;
    Range blocks;
};

// Equal shares for all threads, in tasks of up to `most` blocks: as few as there can be, since each task reads its
// member's weights. What is left of members that are shared comes last, to fill up what whole ones leave.
inline std::vector<Task> share_out(const Networks& nets, int64_t most, int n_threads) {
    int64_t per_member = nets.n_blocks(), n_blocks = nets.n_members * per_member;
    int64_t share = (n_blocks + n_threads - 1) / n_threads;
    std::vector<Task> parts, tasks;
    for (int64_t first = 0; first < n_blocks; first += parts.back().blocks.n) {
        int64_t e = first / per_member, end = std::min((e + 1) * per_member, (first / share + 1) * share);
        parts.push_back({e, {first - e * per_member, end - first}});
    }
    std::stable_sort(parts.begin(), parts.end(),
                     [](const Task& a, const Task& b) { return a.blocks.n > b.blocks.n; });
    for (auto [e, blocks] : parts)
        for (int64_t n_tasks = (blocks.n + most - 1) / most; n_tasks > 0; n_tasks--) {
            int64_t n = blocks.n / n_tasks;
            tasks.push_back({e, {blocks.first, n}});
            blocks = {blocks.first + n, blocks.n - n};
        }
    return tasks;
}

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
    ALWAYS_INLINE void put(int64_t i, int64_t j, const Vector& x) const {
        float* to = numbers + i * step + j * V;
        store_first(to, add ? load_first(to, n - j * V) + x : x, n - j * V);
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
