// Fully connected layers of E networks on a CPU, forth and back: some blocks of rows at a time go through all
// layers of a network, within the cache.
//
// Rows stand upright in the panel of their block: the numbers of one feature lie side by side. So a layer is its
// weights times a panel, and what comes out is the next layer's panel. Biases, activations and their slopes are
// dealt with before a tile of a product leaves the cache. What is kept for the way back are the panels of all
// blocks, one after the other.
//
// `Unit` is what multiplies, `VectorUnits` or `MatrixUnits`.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "matrix_units.h"
#include "vector_units.h"

namespace {

constexpr int64_t BLOCKS_AT_A_TIME = 16;  // that go into the gradient of weights: so they fit the second cache

struct Forward {
    const float* const* biases;  // of each layer, (E, out) or null
    const Bound* bounds;         // of each feature that comes out, or null
    const float* x;              // (E, R, in)
    const int64_t* steps;        // between members, rows and features of x
    float* inputs;               // panels of what goes into the layers, kept for the way back, or null
    float* slopes;               // panels of the slopes of the activations and bounds that made it, or null
    float* out;                  // (E, out, R)
};

// Some blocks of rows of member `e` through all layers.
template <class Activation, bool KEEP, class Unit>
void forward_blocks(const Networks& nets, const Unit& unit, const Forward& pass, int64_t e, Range blocks) {
    constexpr int64_t NV = Unit::NV;
    const int64_t *sizes = nets.sizes, last = nets.n_layers - 1;
    Panels<Unit> panels(nets, blocks.n);
    auto bias = [&](int64_t l) { return pass.biases[l] ? pass.biases[l] + e * sizes[l + 1] : nullptr; };
    auto kept = [&](float* of, int64_t l) { return KEEP ? of + nets.panel(e, l, blocks.first) : nullptr; };
    for (int64_t b = 0; b < blocks.n; b++) {
        float* rows = KEEP ? kept(pass.inputs, 0) + b * sizes[0] * nets.width : panels.upright;
        nets.stand_up(pass.x, pass.steps, sizes[0], e, blocks.first + b, rows);
        panels.of(0, sizes[0])(b).fill(rows, sizes[0]);
    }
    for (int64_t l = 0; l < last; l++) {
        auto to = panels.of(l + 1, sizes[l + 1]);
        for (int64_t b = 0; b < blocks.n; b++) to(b).clear_end();
        float *inputs = kept(pass.inputs, l + 1), *slopes = kept(pass.slopes, l + 1);
        auto make = [=, n_out = sizes[l + 1]](int64_t b, int64_t i, int64_t j, const Vector& sums) {
            Activated activated = Activation::of(sums);
            if (KEEP) store(inputs + ((b * n_out + i) * NV + j) * V, activated.value);
            if (KEEP) store(slopes + ((b * n_out + i) * NV + j) * V, activated.slope);
            return activated.value;
        };
        unit.product(e, l, bias(l), blocks.n, panels.of(l, sizes[l]), to, make);
    }
    auto to = upright_rows(nets, blocks, pass.out + e * sizes[last + 1] * nets.n_rows);
    auto make = [=, n_out = sizes[last + 1], bounds = pass.bounds, slopes = kept(pass.slopes, last + 1)](
                    int64_t b, int64_t i, int64_t j, const Vector& sums) {
        if (!bounds) return sums;
        Activated bounded = bounds[i].of(sums);
        if (KEEP) store(slopes + ((b * n_out + i) * NV + j) * V, bounded.slope);
        return bounded.value;
    };
    unit.product(e, last, bias(last), blocks.n, panels.of(last, sizes[last]), to, make);
}

template <class Activation, class Unit>
void forward(const Networks& nets, const Unit& unit, const Forward& pass, int n_threads) {
    std::vector<Task> tasks = share_out(nets, Unit::BLOCKS, n_threads);
#pragma omp parallel num_threads(n_threads)
    {
        [[maybe_unused]] typename Unit::InUse in_use;
#pragma omp for schedule(dynamic) nowait
        for (const auto& [e, blocks] : tasks) {
            if (pass.inputs)
                forward_blocks<Activation, true>(nets, unit, pass, e, blocks);
            else
                forward_blocks<Activation, false>(nets, unit, pass, e, blocks);
        }
    }
}

// Gradients of a loss, by what `Forward` kept.
struct Backward {
    const float* inputs;
    const float* slopes;
    bool bounded;          // what comes out
    const float* of_out;   // (E, R, out)
    const int64_t* steps;  // between members, rows and features of it
    float* of_sums;        // panels, of what each layer adds up before it is activated
    float* const* of_weights;
    float* const* of_biases;  // null where there are none
    float* of_x;              // (E, in, R) or null
};

// Some blocks of rows of member `e` from the outputs back to what goes into the layers.
template <class Unit>
void backward_blocks(const Networks& nets, const Unit& unit, const Backward& pass, int64_t e, Range blocks) {
    constexpr int64_t NV = Unit::NV;
    const int64_t *sizes = nets.sizes, last = nets.n_layers - 1, n_out = sizes[last + 1];
    Panels<Unit> panels(nets, blocks.n);
    auto of_sums = [&](int64_t l) { return pass.of_sums + nets.panel(e, l + 1, blocks.first); };
    for (int64_t b = 0; b < blocks.n; b++) {
        float* rows = of_sums(last) + b * n_out * nets.width;
        nets.stand_up(pass.of_out, pass.steps, n_out, e, blocks.first + b, rows);
        const float* slopes = pass.slopes + nets.panel(e, last + 1, blocks.first + b);
        for (int64_t r = 0; pass.bounded && r < n_out * nets.width; r += V)
            store(rows + r, load(rows + r) * load(slopes + r));
        panels.of(last, n_out)(b).fill(rows, n_out);
    }
    for (int64_t l = last; l > 0; l--) {
        auto to = panels.of(l - 1, sizes[l]);
        for (int64_t b = 0; b < blocks.n; b++) to(b).clear_end();
        const float* slopes = pass.slopes + nets.panel(e, l, blocks.first);
        auto make = [=, n_in = sizes[l], kept = of_sums(l - 1)](int64_t b, int64_t i, int64_t j,
                                                                const Vector& sums) {
            int64_t place = ((b * n_in + i) * NV + j) * V;
            Vector gradients = sums * load(slopes + place);
            store(kept + place, gradients);
            return gradients;
        };
        unit.product(e, l, nullptr, blocks.n, panels.of(l, sizes[l + 1]), to, make);
    }
    if (!pass.of_x) return;
    auto to = upright_rows(nets, blocks, pass.of_x + e * sizes[0] * nets.n_rows);
    unit.product(e, 0, nullptr, blocks.n, panels.of(0, sizes[1]), to, as_it_is);
}

// Gradients of the biases of layer `l` of member `e` and of its weights, for some of its inputs from `first` on.
template <class Unit>
void layer_gradients(const Networks& nets, const Unit& unit, const Backward& pass, int64_t e, int64_t l,
                     int64_t first) {
    int64_t n_in = nets.sizes[l], n_out = nets.sizes[l + 1];
    float* of_weights = pass.of_weights[l] + e * n_out * n_in + first;
    float* of_biases = first == 0 && pass.of_biases[l] ? pass.of_biases[l] + e * n_out : nullptr;
    for (int64_t block = 0; block == 0 || block < nets.n_blocks(); block += BLOCKS_AT_A_TIME) {  // once for no rows
        Range blocks{block, std::min(BLOCKS_AT_A_TIME, nets.n_blocks() - block)};
        Rows to{of_weights, n_in, std::min(n_in - first, Unit::GRADIENT_WIDTH), block > 0};
        unit.layer_gradients(pass.of_sums, pass.inputs, e, l, first, blocks, to, of_biases);
    }
}

template <class Unit>
void backward(const Networks& nets, const Unit& unit, const Backward& pass, int n_threads) {
    struct Part {
        int64_t e, l, first;
    };
    std::vector<Part> parts;
    for (int64_t e = 0; e < nets.n_members; e++)
        for (int64_t l = nets.n_layers - 1; l >= 0; l--)
            for (int64_t first = 0; first < nets.sizes[l]; first += Unit::GRADIENT_WIDTH)
                parts.push_back({e, l, first});
    std::vector<Task> tasks = share_out(nets, Unit::BLOCKS, n_threads);
#pragma omp parallel num_threads(n_threads)
    {
        [[maybe_unused]] typename Unit::InUse in_use;
#pragma omp for schedule(dynamic)
        for (const auto& [e, blocks] : tasks) backward_blocks(nets, unit, pass, e, blocks);
#pragma omp for schedule(dynamic) nowait
        for (const auto& [e, l, first] : parts) layer_gradients(nets, unit, pass, e, l, first);
    }
}

// Matrix units are faster from about this many numbers in a layer of this width on.
bool suits_matrix_units(const Networks& nets) {
#ifdef MATRIX_UNITS
    return nets.widest() >= 128 && nets.n_rows * nets.widest() >= 16384 && MatrixUnits::exist();
#else
    return false;
#endif
}

int64_t block_width(const Networks& nets) {
    if (suits_matrix_units(nets)) return MATRIX_UNIT_WIDTH;
    // That which leaves the fewest of a block's columns empty.
    int64_t best = WIDEST * V;
    for (int64_t width = best - V; width > 0; width -= V)
        if (round_up(nets.n_rows, width) < round_up(nets.n_rows, best)) best = width;
    return best;
}

// Calls `use(networks, unit)` with what multiplies fastest.
template <class Use>
void with_units(int64_t n_members, int64_t n_rows, int64_t n_layers, const int64_t* sizes,
                const float* const* weights, bool transposed, Use use) {
    Networks nets{n_members, n_rows, n_layers, sizes, weights, 0};
    nets.width = block_width(nets);
#ifdef MATRIX_UNITS
    if (suits_matrix_units(nets)) return use(nets, MatrixUnits{nets, transposed});
#endif
    if (nets.width == V)
        use(nets, VectorUnits<1>{nets, transposed});
    else if (nets.width == 2 * V)
        use(nets, VectorUnits<2>{nets, transposed});
    else
        use(nets, VectorUnits<3>{nets, transposed});
}

}  // namespace

extern "C" {

// Rows in the panels of all blocks, those included that are empty.
int64_t fully_connected_padded(int64_t n_members, int64_t n_rows, int64_t n_layers, const int64_t* sizes) {
    return round_up(n_rows, block_width({n_members, n_rows, n_layers, sizes, nullptr, 0}));
}

// The activation between layers is number 0, SiLU, or 1, ReLU.
void fully_connected_forward(int64_t n_members, int64_t n_rows, int64_t n_layers, const int64_t* sizes,
                             const float* const* weights, const float* const* biases, int activation,
                             const Bound* bounds, const float* x, const int64_t* steps, float* inputs,
                             float* slopes, float* out, int n_threads) {
    Forward pass{biases, bounds, x, steps, inputs, slopes, out};
    with_units(n_members, n_rows, n_layers, sizes, weights, false, [&](const Networks& nets, const auto& unit) {
        if (activation == 0)
            forward<SiLU>(nets, unit, pass, n_threads);
        else
            forward<ReLU>(nets, unit, pass, n_threads);
    });
}

void fully_connected_backward(int64_t n_members, int64_t n_rows, int64_t n_layers, const int64_t* sizes,
                              const float* const* weights, const float* inputs, const float* slopes, bool bounded,
                              const float* of_out, const int64_t* steps, float* of_sums, float* const* of_weights,
                              float* const* of_biases, float* of_x, int n_threads) {
    Backward pass{inputs, slopes, bounded, of_out, steps, of_sums, of_weights, of_biases, of_x};
    with_units(n_members, n_rows, n_layers, sizes, weights, true,
               [&](const Networks& nets, const auto& unit) { backward(nets, unit, pass, n_threads); });
}
}
