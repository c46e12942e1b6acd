// Fully connected layers of E networks on a CPU, forth and back: a block of rows at a time goes through all layers
// of a network, within the cache.
//
// Rows stand upright in the panel of their block: the numbers of one feature lie side by side. So a layer is its
// weights times a panel, and what comes out is the next layer's panel. Biases, activations and their slopes are
// dealt with before a tile of a product leaves the cache. What is kept for the way back are the panels of all
// blocks, one after the other.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "networks.h"

namespace {

constexpr int64_t BLOCKS_AT_A_TIME = 16;  // that go into the gradient of weights: so they fit the second cache

struct Forward {
    const float* const* biases;  // of each layer, (E, out) or null
    const float* x;              // (E, R, in)
    const int64_t* steps;        // between members, rows and features of x
    float* inputs;               // panels of what goes into the layers, kept for the way back, or null
    float* slopes;               // panels of the slopes of the activations that made it, or null
    float* out;                  // (E, out, R)
};

// A block of rows of member `e` through all layers.
template <class Activation, bool KEEP, int64_t NV>
void forward_block(const Networks<NV>& nets, const Forward& pass, int64_t e, int64_t block) {
    constexpr int64_t WIDTH = NV * V;
    const int64_t *sizes = nets.sizes, last = nets.n_layers - 1, size = nets.widest() * WIDTH;
    float* turns[2] = {scratch(2 * size), scratch(2 * size) + size};
    auto inputs = [&](int64_t l) { return KEEP ? pass.inputs + nets.panel(e, l, block) : turns[l % 2]; };
    auto bias = [&](int64_t l) { return pass.biases[l] ? pass.biases[l] + e * sizes[l + 1] : nullptr; };
    nets.stand_up(pass.x, pass.steps, sizes[0], e, block, inputs(0));
    for (int64_t l = 0; l < last; l++) {
        float *next = inputs(l + 1), *slopes = KEEP ? pass.slopes + nets.panel(e, l + 1, block) : nullptr;
        product<false, NV>(sizes[l + 1], nets.matrix(e, l, false), bias(l), inputs(l),
                           [=](int64_t i, int64_t j, const Vector& sums) {
                               Activated activated = Activation::of(sums);
                               store(next + (i * NV + j) * V, activated.value);
                               if (KEEP) store(slopes + (i * NV + j) * V, activated.slope);
                           });
    }
    // Whole blocks go where they belong at once.
    int64_t n = std::min(WIDTH, nets.n_rows - block * WIDTH), n_out = sizes[last + 1];
    float* out = pass.out + e * n_out * nets.n_rows + block * WIDTH;
    float* to = n == WIDTH ? out : turns[(last + 1) % 2];
    int64_t step = n == WIDTH ? nets.n_rows : WIDTH;
    product<false, NV>(n_out, nets.matrix(e, last, false), bias(last), inputs(last),
                       [=](int64_t i, int64_t j, const Vector& sums) { store(to + i * step + j * V, sums); });
    if (to == out) return;
    for (int64_t i = 0; i < n_out; i++) std::memcpy(out + i * nets.n_rows, to + i * step, n * sizeof(float));
}

template <class Activation, int64_t NV>
void forward(const Networks<NV>& nets, const Forward& pass, int n_threads) {
    int64_t n_blocks = nets.n_blocks();
#pragma omp parallel for num_threads(n_threads)
    for (int64_t task = 0; task < nets.n_members * n_blocks; task++) {
        if (pass.inputs)
            forward_block<Activation, true>(nets, pass, task / n_blocks, task % n_blocks);
        else
            forward_block<Activation, false>(nets, pass, task / n_blocks, task % n_blocks);
    }
}

// Gradients of a loss, by what `Forward` kept.
struct Backward {
    const float* inputs;
    const float* slopes;
    const float* of_out;   // (E, R, out)
    const int64_t* steps;  // between members, rows and features of it
    float* of_sums;        // panels, of what each layer adds up before it is activated
    float* const* of_weights;
    float* const* of_biases;  // null where there are none
    float* of_x;              // (E, in, R) or null
};

// A block of rows of member `e` from the outputs back to what goes into the layers.
template <int64_t NV>
void backward_block(const Networks<NV>& nets, const Backward& pass, int64_t e, int64_t block) {
    constexpr int64_t WIDTH = NV * V;
    const int64_t *sizes = nets.sizes, last = nets.n_layers - 1;
    auto of_sums = [&](int64_t l) { return pass.of_sums + nets.panel(e, l + 1, block); };
    nets.stand_up(pass.of_out, pass.steps, sizes[last + 1], e, block, of_sums(last));
    for (int64_t l = last; l > 0; l--) {
        const float* slopes = pass.slopes + nets.panel(e, l, block);
        float* next = of_sums(l - 1);
        product<true, NV>(sizes[l], nets.matrix(e, l, true), nullptr, of_sums(l),
                          [=](int64_t i, int64_t j, const Vector& sums) {
                              int64_t place = (i * NV + j) * V;
                              store(next + place, sums * load(slopes + place));
                          });
    }
    if (!pass.of_x) return;
    int64_t n = std::min(WIDTH, nets.n_rows - block * WIDTH);
    float *panel = scratch(sizes[0] * WIDTH), *of_x = pass.of_x + e * sizes[0] * nets.n_rows + block * WIDTH;
    product<true, NV>(sizes[0], nets.matrix(e, 0, true), nullptr, of_sums(0),
                      [=](int64_t i, int64_t j, const Vector& sums) { store(panel + (i * NV + j) * V, sums); });
    for (int64_t i = 0; i < sizes[0]; i++)
        std::memcpy(of_x + i * nets.n_rows, panel + i * WIDTH, n * sizeof(float));
}

// A panel of NV vectors of rows, of which `n` features count, as one of MV vectors of features.
template <int64_t MV, int64_t NV>
void transpose_panel(const float* panel, int64_t n, float* to) {
    for (int64_t c = 0; c < MV * V; c += V)
        for (int64_t r = 0; r < NV * V; r += V) {
            Vector square[V];
            for (int64_t i = 0; i < V; i++) square[i] = c + i < n ? load(panel + (c + i) * NV * V + r) : Vector{};
            transpose<V / 2>(square, std::make_index_sequence<V>());
            for (int64_t i = 0; i < V; i++) store(to + (r + i) * MV * V + c, square[i]);
        }
}

// Gradients of the weights of layer `l` of member `e`, for up to MV vectors of its inputs from `first` on.
template <int64_t MV, int64_t NV>
void weight_gradients(const Networks<NV>& nets, const Backward& pass, int64_t e, int64_t l, int64_t first) {
    constexpr int64_t WIDTH = NV * V;
    int64_t n_in = nets.sizes[l], n_out = nets.sizes[l + 1], n = std::min(MV * V, n_in - first);
    float *panel = scratch(BLOCKS_AT_A_TIME * WIDTH * MV * V), *to = pass.of_weights[l] + e * n_out * n_in + first;
    for (int64_t block = 0; block == 0 || block < nets.n_blocks(); block += BLOCKS_AT_A_TIME) {  // once for no rows
        int64_t n_blocks = std::min(BLOCKS_AT_A_TIME, nets.n_blocks() - block);
        for (int64_t b = 0; b < n_blocks; b++)
            transpose_panel<MV, NV>(pass.inputs + nets.panel(e, l, block + b) + first * WIDTH, n,
                                    panel + b * WIDTH * MV * V);
        Matrix of_sums{pass.of_sums + nets.panel(e, l + 1, block), WIDTH, n_blocks, WIDTH, n_out * WIDTH};
        product<false, MV>(n_out, of_sums, nullptr, panel, [=](int64_t i, int64_t j, const Vector& sums) {
            float* own = to + i * n_in + j * V;
            if (block == 0 && (j + 1) * V <= n) return store(own, sums);
            for (int64_t c = 0; c < std::min(V, n - j * V); c++) own[c] = sums[c] + (block > 0 ? own[c] : 0.0f);
        });
    }
}

template <int64_t NV>
void bias_gradient(const Networks<NV>& nets, const Backward& pass, int64_t e, int64_t l) {
    int64_t n_out = nets.sizes[l + 1];
    float* to = pass.of_biases[l] + e * n_out;
    for (int64_t i = 0; i < n_out; i++) {
        Vector sums{};
        for (int64_t block = 0; block < nets.n_blocks(); block++)
            for (int64_t j = 0; j < NV; j++)
                sums += load(pass.of_sums + nets.panel(e, l + 1, block) + (i * NV + j) * V);
        to[i] = 0.0f;
        for (int64_t c = 0; c < V; c++) to[i] += sums[c];
    }
}

template <int64_t NV>
void backward(const Networks<NV>& nets, const Backward& pass, int n_threads) {
    struct Part {
        int64_t e, l, first;
    };
    std::vector<Part> parts;
    for (int64_t e = 0; e < nets.n_members; e++)
        for (int64_t l = nets.n_layers - 1; l >= 0; l--)
            for (int64_t first = 0; first < nets.sizes[l]; first += WIDEST * V) parts.push_back({e, l, first});
    int64_t n_blocks = nets.n_blocks(), n_parts = parts.size();
#pragma omp parallel num_threads(n_threads)
    {
#pragma omp for
        for (int64_t task = 0; task < nets.n_members * n_blocks; task++)
            backward_block(nets, pass, task / n_blocks, task % n_blocks);
#pragma omp for
        for (int64_t task = 0; task < n_parts; task++) {
            auto [e, l, first] = parts[task];
            int64_t n = nets.sizes[l] - first;
            if (n > 2 * V)
                weight_gradients<3>(nets, pass, e, l, first);
            else if (n > V)
                weight_gradients<2>(nets, pass, e, l, first);
            else
                weight_gradients<1>(nets, pass, e, l, first);
            if (first == 0 && pass.of_biases[l]) bias_gradient(nets, pass, e, l);
        }
    }
}

}  // namespace

extern "C" {

// Rows in the panels of all blocks, those included that are empty.
int64_t fully_connected_padded(int64_t n_rows) { return round_up(n_rows, block_vectors(n_rows) * V); }

// The activation between layers is number 0, SiLU, or 1, ReLU.
void fully_connected_forward(int64_t n_members, int64_t n_rows, int64_t n_layers, const int64_t* sizes,
                             const float* const* weights, const float* const* biases, int activation,
                             const float* x, const int64_t* steps, float* inputs, float* slopes, float* out,
                             int n_threads) {
    Forward pass{biases, x, steps, inputs, slopes, out};
    with_networks(n_members, n_rows, n_layers, sizes, weights, [&](const auto& nets) {
        if (activation == 0)
            forward<SiLU>(nets, pass, n_threads);
        else
            forward<ReLU>(nets, pass, n_threads);
    });
}

void fully_connected_backward(int64_t n_members, int64_t n_rows, int64_t n_layers, const int64_t* sizes,
                              const float* const* weights, const float* inputs, const float* slopes,
                              const float* of_out, const int64_t* steps, float* of_sums, float* const* of_weights,
                              float* const* of_biases, float* of_x, int n_threads) {
    Backward pass{inputs, slopes, of_out, steps, of_sums, of_weights, of_biases, of_x};
    with_networks(n_members, n_rows, n_layers, sizes, weights,
                  [&](const auto& nets) { backward(nets, pass, n_threads); });
}
}
