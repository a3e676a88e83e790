#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/draw/pps_threshold.hpp>
#include <sluice/draw/weighted_sample.hpp>
#include <sluice/draw/weights.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/random/uniform.hpp>

#include <numeric>
#include <span>
#include <utility>
#include <vector>

namespace sluice {

/// The order in which systematic sampling passes the items. shuffled: a random permutation, so that all pairs that can
/// occur together mostly do. as_given: the items' own order, which spreads the sample over it (sorted data gain).
enum class pass_order { shuffled, as_given };

/// Systematic sampling with probability proportional to size: exactly k items, pi_i = min(1, w_i / tau) exactly.
///     C = running sums of pi in the order of passing;   item i is taken if [C_{i-1}, C_i) holds one of u, u + 1, ...
/// weight 1 / pi_i. Second-order probabilities have no closed form, some are 0 when as_given. O(n); n + 1 words
/// shuffled (rarely more), one word as_given; no allocation once the sizes are reached. The sample is in the order of
/// passing. One object a thread. Throws invalid_argument, the sample unchanged, if a weight is negative, NaN or
/// infinite, if k < 0 or if fewer than k weights are positive.
template <pass_order Order = pass_order::shuffled>
class systematic_pps {
 public:
  template <weight_range W, word_source R>
  void draw_into(weighted_sample& s, const W& weights, index_t k, R& random) {
    const auto w = detail::weight_span(weights);
    pi_.resize(w.size());
    const double tau = design_.compute_into(pi_, w, k);
    expects(k <= design_.positive(), "systematic_pps", "k", k);
    detail::restart(s, probability_kind::inclusion, std::ssize(w));
    if (k == 0) return;
    s.threshold = tau;
    order_.resize(w.size());
    std::iota(order_.begin(), order_.end(), index_t{0});
    if constexpr (Order == pass_order::shuffled)
      for (std::size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[below(random, i)]);
    pick(s, k, co53(random()));
    detail::measure(s);
  }

  template <weight_range W, word_source R>
  weighted_sample draw(const W& weights, index_t k, R& random) {
    weighted_sample s;
    draw_into(s, weights, k, random);
    return s;
  }

 private:
  /// Takes the item in which C passes u + j, for j = 0 ... k - 1. Rounding of C cannot change the size: an item is
  /// taken once, and the last ones are taken when as many are left as are wanted.
  void pick(weighted_sample& s, index_t k, double u) {
    detail::exact_sum sum;
    index_t left = design_.positive();
    for (const index_t item : order_) {
      const double pi = pi_[static_cast<std::size_t>(item)];
      const index_t taken = std::ssize(s.index);
      if (taken == k) break;
      if (pi == 0) continue;
      sum.add(pi);
      if (sum.minus(static_cast<double>(taken)) > u || left == k - taken) {
        s.index.push_back(item);
        s.probability.push_back(pi);
        s.weight.push_back(1 / pi);
      }
      --left;
    }
  }

  pps_probabilities design_;
  std::vector<double> pi_;
  std::vector<index_t> order_;
};

}  // namespace sluice
