#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/draw/weights.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <span>
#include <vector>

/// Inclusion probabilities proportional to size, capped at one: the common law of Poisson, systematic and VarOpt
/// sampling.
namespace sluice {

namespace detail {
/// tau in units of 1/scale, and what the scan of the weights found.
struct scaled_threshold {
  double tau;
  double scale;
  index_t positive;
};

/// tau by partition. Every round sorts out one half of what is undecided: with c items known to be larger than the
/// median m, m is certain exactly if m (k - c) is at least the sum of m and all that is smaller.
template <std::floating_point S>
scaled_threshold find_threshold(std::vector<double>& work, std::span<const S> w, index_t k, const char* function) {
  const weight_summary seen = check_weights(w, function);
  const double scale = weight_scale(seen.max);
  if (k == 0) return {std::numeric_limits<double>::infinity(), scale, seen.positive};
  if (seen.positive <= k) return {0, scale, seen.positive};
  work.clear();
  for (const S v : w)
    if (v > 0) work.push_back(scaled(static_cast<double>(v), scale));
  std::span<double> open(work);
  double below = 0;
  index_t certain = 0;
  const auto sum = [](std::span<const double> x) { return accurate_sum(x); };
  while (!open.empty()) {
    const std::size_t middle = open.size() / 2;
    std::nth_element(open.begin(), open.begin() + static_cast<std::ptrdiff_t>(middle), open.end(), std::greater<>{});
    const index_t c = certain + static_cast<index_t>(middle);
    const double tail = below + sum(open.subspan(middle));
    // At most k - 1 items are certain, since more than k are positive; rounding could let the k-th appear so.
    if (c < k - 1 && open[middle] * static_cast<double>(k - c) >= tail) {
      certain = c + 1;
      open = open.subspan(middle + 1);
    } else {
      below = tail;
      open = open.first(middle);
    }
  }
  return {below / static_cast<double>(k - certain), scale, seen.positive};
}
}  // namespace detail

/// The threshold tau of sum_i min(1, w_i / tau) = k; items of weight tau or more are certain. 0 if at most k weights
/// are positive (all of them certain), infinity for k = 0 or where tau exceeds the largest double. O(n) expected,
/// allocates a copy of the positive weights. Throws invalid_argument if k < 0 or a weight is negative, NaN or infinite.
/// Source: the threshold of Cohen, Duffield, Kaplan, Lund and Thorup, SODA 2009 (arXiv:0803.0473). Differs: halves the
/// undecided items instead of sorting.
template <weight_range W>
double pps_threshold(const W& weights, index_t k) {
  expects(k >= 0, "pps_threshold", "k", k);
  std::vector<double> work;
  const auto found = detail::find_threshold(work, detail::weight_span(weights), k, "pps_threshold");
  return found.tau / found.scale;
}

/// The inclusion probabilities min(1, w_i / tau); their sum is min(k, number of positive weights). Reuses its memory.
/// One object a thread.
class pps_probabilities {
 public:
  /// out_i = min(1, w_i / tau), 0 for weight zero; returns tau. O(n) expected; no allocation once the size is reached.
  /// Throws invalid_argument, out unchanged, if k < 0, if out has another size, or if a weight is negative, NaN or
  /// infinite.
  template <weight_range W>
  double compute_into(std::span<double> out, const W& weights, index_t k) {
    const auto w = detail::weight_span(weights);
    expects(k >= 0, "pps_probabilities", "k", k);
    expects(out.size() == w.size(), "pps_probabilities", "out.size", out.size());
    const auto found = detail::find_threshold(work_, w, k, "pps_probabilities");
    positive_ = found.positive;
    for (std::size_t i = 0; i < w.size(); ++i) {
      const double v = detail::scaled(static_cast<double>(w[i]), found.scale);
      out[i] = v > 0 ? (v >= found.tau ? 1.0 : v / found.tau) : 0.0;
    }
    return found.tau / found.scale;
  }
  /// Positive weights in the last call.
  index_t positive() const { return positive_; }

 private:
  std::vector<double> work_;
  index_t positive_ = 0;
};

}  // namespace sluice
