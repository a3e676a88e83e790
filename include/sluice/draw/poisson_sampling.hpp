#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/draw/pps_threshold.hpp>
#include <sluice/draw/weighted_sample.hpp>
#include <sluice/draw/weights.hpp>
#include <sluice/random/decisions.hpp>

#include <limits>
#include <span>
#include <vector>

namespace sluice {

/// The Poisson design: item i is taken with probability pi_i, independently of all others.
///     pi_i = min(1, w_i / tau), sum pi_i = k;   weight 1 / pi_i
/// The number taken is random, its mean k; it may be 0. Because of the independence the variance of the total has a
/// closed form (poisson_variance in estimators.hpp). O(n), one word an item; no allocation once the sizes are reached.
/// One object a thread. Throws invalid_argument, the sample unchanged, if a weight is negative, NaN or infinite, if
/// k < 0 or if fewer than k weights are positive.
class poisson_sampling {
 public:
  template <weight_range W, random_source R>
  void draw_into(weighted_sample& s, const W& weights, index_t k, R& random) {
    const auto w = detail::weight_span(weights);
    pi_.resize(w.size());
    const double tau = design_.compute_into(pi_, w, k);
    expects(k <= design_.positive(), "poisson_sampling", "k", k);
    take(s, pi_, tau, random);
  }

  /// With inclusion probabilities of the user's; the mean size is their sum. Throws invalid_argument if one is outside
  /// [0, 1].
  template <random_source R>
  static void draw_with_into(weighted_sample& s, std::span<const double> inclusion, R& random) {
    for (std::size_t i = 0; i < inclusion.size(); ++i)
      expects(inclusion[i] >= 0 && inclusion[i] <= 1, "poisson_sampling", "inclusion", inclusion[i],
              static_cast<index_t>(i));
    take(s, inclusion, 0, random);
  }

  template <weight_range W, random_source R>
  weighted_sample draw(const W& weights, index_t k, R& random) {
    weighted_sample s;
    draw_into(s, weights, k, random);
    return s;
  }

 private:
  template <class R>
  static void take(weighted_sample& s, std::span<const double> pi, double tau, R& random) {
    detail::restart(s, probability_kind::inclusion, std::ssize(pi));
    s.threshold = tau < std::numeric_limits<double>::infinity() ? tau : 0;
    for (std::size_t i = 0; i < pi.size(); ++i)
      if (bernoulli(random, pi[i])) {
        s.index.push_back(static_cast<index_t>(i));
        s.probability.push_back(pi[i]);
        s.weight.push_back(1 / pi[i]);
      }
    detail::measure(s);
  }

  pps_probabilities design_;
  std::vector<double> pi_;
};

}  // namespace sluice
