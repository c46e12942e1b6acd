// A step of AdamW for E members, the gradient of each of which is scaled to at most some norm before.
//
// Every number is read and written once, but for gradients, which are read for the norms first: by the thread that
// needs them again, so that they are still in its cache.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

constexpr int64_t NUMBERS_AT_A_TIME = 4096;

// Some numbers of member `e` in tensor `t`, from `first` on.
struct Piece {
    int64_t e, t, first, n;
};

std::vector<Piece> cut_up(int64_t n_members, int64_t n_tensors, const int64_t* sizes) {
    std::vector<Piece> pieces;
    for (int64_t e = 0; e < n_members; e++)
        for (int64_t t = 0; t < n_tensors; t++)
            for (int64_t k = 0; k < sizes[t]; k += NUMBERS_AT_A_TIME)
                pieces.push_back({e, t, e * sizes[t] + k, std::min(NUMBERS_AT_A_TIME, sizes[t] - k)});
    return pieces;
}

float sum_of_squares(const float* x, int64_t n) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < n; k++) sum += x[k] * x[k];
    return sum;
}

// What makes a member's gradient no longer than `max_norm`; NaN if there is one in it.
float scale_of(double squared_norm, double max_norm) {
    double norm = std::sqrt(squared_norm);
    return norm <= max_norm ? 1.0 : max_norm / norm;
}

struct Settings {
    double learning_rate, weight_decay, epsilon, beta1, beta2;
};

// Moments are weighted means of the past, whose weights add up to less than 1 at first (Kingma & Ba 2015, sec. 3).
struct Update {
    float decay, weight1, beta2, weight2, step_size, root_weight, epsilon;

    Update(const Settings& s, double n_steps)
        : decay(1.0 - s.learning_rate * s.weight_decay),
          weight1(1.0 - s.beta1),
          beta2(s.beta2),
          weight2(1.0 - s.beta2),
          step_size(s.learning_rate / (1.0 - std::pow(s.beta1, n_steps))),
          root_weight(1.0 / std::sqrt(1.0 - std::pow(s.beta2, n_steps))),
          epsilon(s.epsilon) {}

    void operator()(float* value, const float* gradient, float scale, float* mean, float* square, int64_t n) const {
#pragma omp simd
        for (int64_t k = 0; k < n; k++) {
            float scaled = gradient[k] * scale;
            mean[k] += weight1 * (scaled - mean[k]);
            square[k] = beta2 * square[k] + weight2 * scaled * scaled;
            value[k] = decay * value[k] - step_size * mean[k] / (root_weight * std::sqrt(square[k]) + epsilon);
        }
    }
};

}  // namespace

extern "C" {

// Of each tensor: how many numbers a member has in it, what these are, their gradients, means of gradients and of
// their squares, and how many steps it has made.
void adamw_step(int64_t n_members, int64_t n_tensors, const int64_t* sizes, float* const* values,
                const float* const* gradients, float* const* means, float* const* squares, float* const* n_steps,
                double max_norm, double learning_rate, double weight_decay, double epsilon, double beta1,
                double beta2, int n_threads) {
    const Settings settings{learning_rate, weight_decay, epsilon, beta1, beta2};
    std::vector<Update> updates;
    for (int64_t t = 0; t < n_tensors; t++) updates.emplace_back(settings, *n_steps[t] += 1.0f);
    std::vector<Piece> pieces = cut_up(n_members, n_tensors, sizes);
    int64_t n_pieces = pieces.size();
    std::vector<float> sums(n_pieces);
    std::vector<double> squared_norms(n_members);
#pragma omp parallel num_threads(n_threads)
    {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n_pieces; i++)
            sums[i] = sum_of_squares(gradients[pieces[i].t] + pieces[i].first, pieces[i].n);
#pragma omp single
        for (int64_t i = 0; i < n_pieces; i++) squared_norms[pieces[i].e] += sums[i];
#pragma omp for schedule(static) nowait
        for (int64_t i = 0; i < n_pieces; i++) {
            auto [e, t, first, n] = pieces[i];
            updates[t](values[t] + first, gradients[t] + first, scale_of(squared_norms[e], max_norm),
                       means[t] + first, squares[t] + first, n);
        }
    }
}
}
