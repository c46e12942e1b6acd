// How well Gaussians and probabilities of an end explain rows of E members, forth and back.
//
// What networks say of rows stands upright, the numbers of one feature side by side; targets are rows. V rows at a
// time are dealt with, from a single reading of them.

#include <algorithm>
#include <cstdint>
#include <limits>

#include "vectors.h"

namespace {

constexpr float HALF_LOG_2_PI = 0.918938533f;

// Of each row, `n_features` numbers and an end. Steps are those between members, rows and features; the rows of
// what is said lie side by side, and so do the features of targets.
struct Rows {
    int64_t n_members, n_rows, n_features;
    const float *mean, *std, *term_prob, *target;
    const bool* terminated;
    int64_t mean_steps[3], std_steps[3], term_prob_steps[2], target_steps[3], terminated_steps[2];
    float max_score;

    // Calls `use(e, first, n)` for n of V rows from `first` on.
    template <class Use>
    void for_each_block(int n_threads, Use use) const {
        int64_t n_blocks = (n_rows + V - 1) / V;
#pragma omp parallel for num_threads(n_threads) schedule(static)
        for (int64_t i = 0; i < n_members * n_blocks; i++) {
            int64_t first = i % n_blocks * V;
            use(i / n_blocks, first, std::min(V, n_rows - first));
        }
    }

    // Calls `use(f, error, std)` for each feature of n rows.
    template <class Use>
    ALWAYS_INLINE void for_each_feature(int64_t e, int64_t first, int64_t n, Use use) const {
        const float *means = mean + e * mean_steps[0] + first, *stds = std + e * std_steps[0] + first;
        const float* targets = target + e * target_steps[0] + first * target_steps[1];
        for (int64_t f = 0; f < n_features; f += V) {
            Vector upright[V];
            load_transposed(targets + f, target_steps[1], n, n_features - f, upright);
            for (int64_t i = 0; i < std::min(V, n_features - f); i++)
                use(f + i, load_first(means + (f + i) * mean_steps[2], n) - upright[i],
                    load_first(stds + (f + i) * std_steps[2], n));
        }
    }

    // The probability that was given to what happened, and how it grows with that of an end.
    Activated happened(int64_t e, int64_t first, int64_t n) const {
        Vector p = load_first(term_prob + e * term_prob_steps[0] + first, n), slope{};
        const bool* ends = terminated + e * terminated_steps[0] + first * terminated_steps[1];
        for (int64_t c = 0; c < n; c++) slope[c] = ends[c * terminated_steps[1]] ? 1.0f : -1.0f;
        return {slope > 0.0f ? p : 1.0f - p, slope};
    }
};

constexpr float SMALLEST = std::numeric_limits<float>::min();

void forward(const Rows& rows, float* nll, float* termination_loss, int n_threads) {
    rows.for_each_block(n_threads, [&](int64_t e, int64_t first, int64_t n) {
        Vector sum{};
        rows.for_each_feature(e, first, n, [&](int64_t, const Vector& error, const Vector& std) {
            Vector score = between(-rows.max_score, error / std, rows.max_score);
            sum += HALF_LOG_2_PI + logarithm(std) + 0.5f * score * score;
        });
        store_first(nll + e * rows.n_rows + first, sum, n);
        Vector probability = between(SMALLEST, rows.happened(e, first, n).value, 1.0f);
        store_first(termination_loss + e * rows.n_rows + first, -logarithm(probability), n);
    });
}

// Where something was cut off, it is a constant.
void backward(const Rows& rows, const float* of_nll, const float* of_termination_loss, float* of_mean,
              float* of_std, float* of_term_prob, int n_threads) {
    rows.for_each_block(n_threads, [&](int64_t e, int64_t first, int64_t n) {
        int64_t place = e * rows.n_rows + first;
        Vector of_sum = load_first(of_nll + place, n);
        rows.for_each_feature(e, first, n, [&](int64_t f, const Vector& error, const Vector& std) {
            Vector score = error / std, of_log_std = of_sum / std;
            score = (score <= -rows.max_score) | (score >= rows.max_score) ? Vector{} : score;
            int64_t to = (e * rows.n_features + f) * rows.n_rows + first;
            store_first(of_mean + to, of_log_std * score, n);
            store_first(of_std + to, of_log_std - of_log_std * score * score, n);
        });
        auto [probability, slope] = rows.happened(e, first, n);
        Vector of_probability = -load_first(of_termination_loss + place, n) / probability;
        of_probability = (probability <= SMALLEST) | (probability >= 1.0f) ? Vector{} : of_probability;
        store_first(of_term_prob + place, of_probability * slope, n);
    });
}

}  // namespace

extern "C" {

void transition_loss_forward(const Rows* rows, float* nll, float* termination_loss, int n_threads) {
    forward(*rows, nll, termination_loss, n_threads);
}

void transition_loss_backward(const Rows* rows, const float* of_nll, const float* of_termination_loss,
                              float* of_mean, float* of_std, float* of_term_prob, int n_threads) {
    backward(*rows, of_nll, of_termination_loss, of_mean, of_std, of_term_prob, n_threads);
}
}
