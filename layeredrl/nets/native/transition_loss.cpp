// How well a Gaussian for each number and the probability of an end explain rows of E members, forth and back.
//
// What networks say of rows stands upright, the numbers of one feature side by side: means, standard deviations,
// the weight of their only mode, which nobody needs, and the probability. V rows at a time are dealt with.

#include <algorithm>
#include <cstdint>
#include <limits>

#include "vectors.h"

namespace {

constexpr float HALF_LOG_2_PI = 0.918938533f;

// Steps are those between members, rows and features; where there is none for features, they lie side by side.
struct Rows {
    int64_t n_members, n_rows, n_targets;
    const float* said;
    int64_t said_steps[2];  // between members and features
    const float* target;
    int64_t target_steps[2];  // between members and rows
    const bool* terminated;
    int64_t terminated_steps[2];  // likewise
    float max_score;

    int64_t n_said() const { return 2 * n_targets + 2; }

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

    ALWAYS_INLINE Vector load_said(int64_t e, int64_t feature, int64_t first, int64_t n) const {
        return load_first(said + e * said_steps[0] + feature * said_steps[1] + first, n);
    }

    // Calls `use(i, error, std)` for each target of n rows.
    template <class Use>
    ALWAYS_INLINE void for_each_target(int64_t e, int64_t first, int64_t n, Use use) const {
        const float* targets = target + e * target_steps[0] + first * target_steps[1];
        for (int64_t i = 0; i < n_targets; i += V) {
            Vector upright[V];
            load_transposed(targets + i, target_steps[1], n, n_targets - i, upright);
            for (int64_t j = i; j < std::min(i + V, n_targets); j++)
                use(j, load_said(e, j, first, n) - upright[j - i], load_said(e, n_targets + j, first, n));
        }
    }

    // The probability that was given to what happened, and how it grows with that of an end.
    Activated happened(int64_t e, int64_t first, int64_t n) const {
        Vector p = load_said(e, n_said() - 1, first, n), slope{};
        const bool* ends = terminated + e * terminated_steps[0] + first * terminated_steps[1];
        for (int64_t c = 0; c < n; c++) slope[c] = ends[c * terminated_steps[1]] ? 1.0f : -1.0f;
        return {slope > 0.0f ? p : 1.0f - p, slope};
    }
};

constexpr float SMALLEST = std::numeric_limits<float>::min();

void forward(const Rows& rows, float* nll, float* termination_loss, int n_threads) {
    rows.for_each_block(n_threads, [&](int64_t e, int64_t first, int64_t n) {
        Vector sum{};
        rows.for_each_target(e, first, n, [&](int64_t, const Vector& error, const Vector& std) {
            Vector score = between(-rows.max_score, error / std, rows.max_score);
            sum += HALF_LOG_2_PI + logarithm(std) + 0.5f * score * score;
        });
        store_first(nll + e * rows.n_rows + first, sum, n);
        Vector probability = between(SMALLEST, rows.happened(e, first, n).value, 1.0f);
        store_first(termination_loss + e * rows.n_rows + first, -logarithm(probability), n);
    });
}

// Where something was cut off, it is a constant.
void backward(const Rows& rows, const float* of_nll, const float* of_termination_loss, float* of_said,
              int n_threads) {
    rows.for_each_block(n_threads, [&](int64_t e, int64_t first, int64_t n) {
        auto put = [&](int64_t feature, const Vector& x) {
            store_first(of_said + (e * rows.n_said() + feature) * rows.n_rows + first, x, n);
        };
        int64_t place = e * rows.n_rows + first;
        Vector of_sum = load_first(of_nll + place, n);
        rows.for_each_target(e, first, n, [&](int64_t i, const Vector& error, const Vector& std) {
            Vector score = error / std, of_log_std = of_sum / std;
            score = ((score <= -rows.max_score) | (score >= rows.max_score)) ? Vector{} : score;
            put(i, of_log_std * score);
            put(rows.n_targets + i, of_log_std - of_log_std * score * score);
        });
        put(2 * rows.n_targets, Vector{});
        auto [probability, slope] = rows.happened(e, first, n);
        Vector of_probability = -load_first(of_termination_loss + place, n) / probability;
        of_probability = ((probability <= SMALLEST) | (probability >= 1.0f)) ? Vector{} : of_probability;
        put(2 * rows.n_targets + 1, of_probability * slope);
    });
}

}  // namespace

extern "C" {

void transition_loss_forward(const Rows* rows, float* nll, float* termination_loss, int n_threads) {
    forward(*rows, nll, termination_loss, n_threads);
}

// `of_said` stands upright as well.
void transition_loss_backward(const Rows* rows, const float* of_nll, const float* of_termination_loss,
                              float* of_said, int n_threads) {
    backward(*rows, of_nll, of_termination_loss, of_said, n_threads);
}
}
