#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/random/decisions.hpp>

#include <cmath>
#include <concepts>
#include <span>

/// One draw from weights that are not prepared: a scan. For many draws use alias_table, prefix_sums or sum_tree.
namespace sluice {

/// The smallest j whose running sum exceeds u * total, u in [0, 1): an item of weight zero is never returned, not even
/// at u = 0. Where rounding lets no sum exceed it, the last index of positive weight. Sums in double, in order. O(n).
/// The weights are not checked here beyond their total: throws invalid_argument unless it is positive and finite.
template <std::floating_point S>
index_t inverse_cdf(std::span<const S> weights, double u) {
  double total = 0;
  for (const S w : weights) total += static_cast<double>(w);
  expects(total > 0 && std::isfinite(total), "inverse_cdf", "total", total);
  const double target = u * total;
  double sum = 0;
  index_t last = -1;
  for (index_t j = 0; j < std::ssize(weights); ++j) {
    const double w = static_cast<double>(weights[static_cast<std::size_t>(j)]);
    sum += w;
    if (w > 0) {
      last = j;
      if (sum > target) break;
    }
  }
  return last;
}

/// One index with probability weights[j] / total. One word; O(n).
template <random_source R>
index_t categorical(R& random, std::span<const double> weights) {
  if constexpr (decision_source<R>)
    return static_cast<index_t>(random.categorical(weights));
  else
    return inverse_cdf(weights, co53(random()));
}

}  // namespace sluice
