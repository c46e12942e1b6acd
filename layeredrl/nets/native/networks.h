// E networks of one shape, and the panels that blocks of their rows stand upright in.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "products.h"

// Memory of a thread's own, from where cache lines begin.
inline float* scratch(int64_t n_numbers) {
    thread_local std::vector<float> memory;
    if (static_cast<int64_t>(memory.size()) < n_numbers + V) memory.resize(n_numbers + V);
    return reinterpret_cast<float*>(round_up(reinterpret_cast<std::intptr_t>(memory.data()), 4 * V));
}

// The width of a block, in vectors, that leaves the fewest of its columns empty.
inline int64_t block_vectors(int64_t n_rows) {
    int64_t best = WIDEST;
    for (int64_t n = WIDEST - 1; n > 0; n--)
        if (round_up(n_rows, n * V) < round_up(n_rows, best * V)) best = n;
    return best;
}

template <int64_t NV>
struct Networks {
    static constexpr int64_t WIDTH = NV * V;  // of blocks

    int64_t n_members, n_rows, n_layers;
    const int64_t* sizes;         // of the inputs, and of the outputs of each layer
    const float* const* weights;  // of each layer, (E, out, in)

    int64_t widest() const { return *std::max_element(sizes, sizes + n_layers + 1); }
    int64_t n_blocks() const { return (n_rows + WIDTH - 1) / WIDTH; }
    // The weights of a layer, or their transpose, which has as many columns as the layer has outputs.
    Matrix matrix(int64_t e, int64_t l, bool transposed) const {
        return {weights[l] + e * sizes[l + 1] * sizes[l], sizes[l], 1, sizes[l + transposed], 0};
    }
    // Where a panel of what goes into layer `l` lies among those of all layers, members and blocks.
    int64_t panel(int64_t e, int64_t l, int64_t block) const {
        int64_t n_before = n_members * n_blocks() * std::accumulate(sizes, sizes + l, int64_t{0});
        return (n_before + (e * n_blocks() + block) * sizes[l]) * WIDTH;
    }

    // A block of rows, upright; zeros where there are no more rows.
    void stand_up(const float* rows, const int64_t* steps, int64_t n_features, int64_t e, int64_t block,
                  float* panel) const {
        rows += e * steps[0] + block * WIDTH * steps[1];
        int64_t n = std::min(WIDTH, n_rows - block * WIDTH);
        for (int64_t k = 0; k < n_features; k++)
            for (int64_t r = 0; r < WIDTH; r++)
                panel[k * WIDTH + r] = r < n ? rows[r * steps[1] + k * steps[2]] : 0.0f;
    }
};

// Calls `use(networks)` with blocks that suit the number of rows.
template <class Use>
void with_networks(int64_t n_members, int64_t n_rows, int64_t n_layers, const int64_t* sizes,
                   const float* const* weights, Use use) {
    switch (block_vectors(n_rows)) {
        case 1:
            return use(Networks<1>{n_members, n_rows, n_layers, sizes, weights});
        case 2:
            return use(Networks<2>{n_members, n_rows, n_layers, sizes, weights});
        default:
            return use(Networks<3>{n_members, n_rows, n_layers, sizes, weights});
    }
}
