// Fully connected layers of E networks on a CPU, without gradients: a block of rows at a time goes through all layers
// of a network, within the cache.
//
// The rows of a block stand upright, as the columns of a panel: the numbers of one feature lie side by side. So each
// layer is its weights times a panel, and what comes out is the next layer's panel. Products are made in tiles of
// outputs times vectors of rows, as large as there are registers to add up in (Goto and van de Geijn 2008, "Anatomy
// of high-performance matrix multiplication"); biases and activations are applied before a tile leaves them.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

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
constexpr int64_t MAX_VECTORS = 3;  // of rows in a block: so 200 features of it fit the first cache

typedef float Vector __attribute__((vector_size(4 * V), aligned(4)));
typedef int32_t Integers __attribute__((vector_size(4 * V), aligned(4)));


// exp(-x) for -87 <= x <= 87, nearly to the last bit: a power of two, of its whole part as an exponent and of the rest
// as a polynomial.
inline Vector exponential_of_minus(Vector x) {
    constexpr float LOG2_E = 1.44269504f, ROUNDING = 3 << 22;  // so large that what is added to it becomes whole
    Vector shifted = x * -LOG2_E + ROUNDING, rest = x * -LOG2_E - (shifted - ROUNDING);
    Vector p = rest * 0.0013264732f + 0.00967151392f;  // minimax, of relative error 9e-08
    p = p * rest + 0.0555073358f;
    p = p * rest + 0.240222424f;
    p = p * rest + 0.693147004f;
    p = p * rest + 1.0f;
    return (Vector)((Integers)p + ((Integers)shifted << 23));
}

inline Vector reciprocal(Vector x) {
#if defined(__AVX512F__)
    Vector estimate = (Vector)_mm512_rcp14_ps((__m512)x);
    return estimate * (2.0f - x * estimate);
#else
    return 1.0f / x;
#endif
}

// Activations hand on what is no number.
struct Identity {
    static Vector of(Vector x) { return x; }
};
struct ReLU {
    static Vector of(Vector x) { return x <= 0.0f ? Vector{} : x; }
};
struct SiLU {
    static Vector of(Vector x) {
        Vector low = Vector{} - 87.0f, high = Vector{} + 87.0f, z = x > low ? x : low;
        return x * reciprocal(1.0f + exponential_of_minus(z < high ? z : high));
    }
};

// N outputs of a layer for a panel of NV vectors of rows.
template <class Activation, int64_t NV, int64_t N>
inline void tile(int64_t n_in, const float* weights, const float* bias, const float* panel, float* to) {
    Vector sums[N][NV];
    for (int64_t i = 0; i < N; i++)
        for (int64_t j = 0; j < NV; j++) sums[i][j] = Vector{} + (bias ? bias[i] : 0.0f);
    for (int64_t k = 0; k < n_in; k++) {
        Vector rows[NV];
        for (int64_t j = 0; j < NV; j++) rows[j] = *reinterpret_cast<const Vector*>(panel + (k * NV + j) * V);
#pragma GCC unroll 24
        for (int64_t i = 0; i < N; i++)
            for (int64_t j = 0; j < NV; j++) sums[i][j] += weights[i * n_in + k] * rows[j];
    }
    for (int64_t i = 0; i < N; i++)
        for (int64_t j = 0; j < NV; j++)
            *reinterpret_cast<Vector*>(to + (i * NV + j) * V) = Activation::of(sums[i][j]);
}

// Outputs `first` to `n_out` of a layer, in tiles of N, and what is left of them in smaller ones.
template <class Activation, int64_t NV, int64_t N = SUMS / NV>
void layer(int64_t n_in, int64_t n_out, const float* weights, const float* bias, const float* panel, float* to,
           int64_t first = 0) {
    for (; first + N <= n_out; first += N)
        tile<Activation, NV, N>(n_in, weights + first * n_in, bias ? bias + first : nullptr, panel, to + first * NV * V);
    if constexpr (N > 1) layer<Activation, NV, N / 2>(n_in, n_out, weights, bias, panel, to, first);
}

struct Networks {
    int64_t n_members, n_rows, n_layers;
    const int64_t* sizes;          // of the inputs, and of the outputs of each layer
    const float* const* weights;   // of each layer, (E, out, in)
    const float* const* biases;    // of each layer, (E, out) or null
    const float* x;                // (E, R, in)
    const int64_t* steps;          // between members, rows and features of x
    float* out;                    // (E, out, R)
};

// Two panels of a thread's own.
float* scratch(int64_t n_numbers) {
    thread_local std::vector<float> memory;
    if (static_cast<int64_t>(memory.size()) < n_numbers) memory.resize(n_numbers);
    return memory.data();
}

// All layers of member `e`, for `n_rows` rows from row `first` on.
template <class Activation, int64_t NV>
void block(const Networks& nets, int64_t e, int64_t first, int64_t n_rows) {
    constexpr int64_t WIDTH = NV * V;
    const int64_t *sizes = nets.sizes, *steps = nets.steps, last = nets.n_layers - 1;
    int64_t size = *std::max_element(sizes, sizes + nets.n_layers + 1) * WIDTH;
    float *panel = scratch(2 * size), *next = panel + size;
    const float* x = nets.x + e * steps[0] + first * steps[1];
    for (int64_t k = 0; k < sizes[0]; k++)
        for (int64_t r = 0; r < WIDTH; r++) panel[k * WIDTH + r] = r < n_rows ? x[r * steps[1] + k * steps[2]] : 0.0f;
    for (int64_t l = 0; l <= last; l++) {
        int64_t n_in = sizes[l], n_out = sizes[l + 1];
        const float* weights = nets.weights[l] + e * n_out * n_in;
        const float* bias = nets.biases[l] ? nets.biases[l] + e * n_out : nullptr;
        (l < last ? layer<Activation, NV> : layer<Identity, NV>)(n_in, n_out, weights, bias, panel, next, 0);
        std::swap(panel, next);
    }
    int64_t n_out = sizes[last + 1];
    for (int64_t i = 0; i < n_out; i++)
        std::memcpy(nets.out + (e * n_out + i) * nets.n_rows + first, panel + i * WIDTH, n_rows * sizeof(float));
}

template <class Activation>
void run(const Networks& nets, int n_threads) {
    constexpr int64_t LARGEST = MAX_VECTORS * V;
    int64_t n_blocks = (nets.n_rows + LARGEST - 1) / LARGEST;
#pragma omp parallel for num_threads(n_threads)
    for (int64_t task = 0; task < nets.n_members * n_blocks; task++) {
        int64_t first = task % n_blocks * LARGEST, n_rows = std::min(LARGEST, nets.n_rows - first);
        auto fitting = n_rows > 2 * V ? block<Activation, 3> : n_rows > V ? block<Activation, 2> : block<Activation, 1>;
        fitting(nets, task / n_blocks, first, n_rows);
    }
}

}  // namespace

// The activation between layers is number 0, SiLU, or 1, ReLU.
extern "C" void fully_connected(int64_t n_members, int64_t n_rows, int64_t n_layers, const int64_t* sizes,
                                const float* const* weights, const float* const* biases, int activation,
                                const float* x, const int64_t* steps, float* out, int n_threads) {
    Networks nets{n_members, n_rows, n_layers, sizes, weights, biases, x, steps, out};
    (activation == 0 ? run<SiLU> : run<ReLU>)(nets, n_threads);
}
