#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

/// Unstable: for tests, benchmarks and examples; no compatibility is promised.
namespace sluice::models {

/// Options of `adam_step`, the source's defaults except for the learning rate, which is an argument.
struct adam_options {
  double beta1 = 0.9;     ///< in [0, 1)
  double beta2 = 0.999;   ///< in [0, 1)
  double epsilon = 1e-8;  ///< > 0, added to the root
};

/// One step of Adam, element by element, in place; `first` and `second` are the running moments, 0 before step 1:
///     m <- beta1 m + (1 - beta1) g,    v <- beta2 v + (1 - beta2) g^2,
///     w <- w - rate (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon),    t = step.
/// O(n), no allocation. Elements are independent of each other, so a tensor may be updated in parts.
/// Source: Kingma and Ba, ICLR 2015 (arXiv:1412.6980), Algorithm 1. Throws invalid_argument, nothing changed, unless
/// the spans have equal sizes, step >= 1, rate is finite and not negative, and the options are in range.
template <std::floating_point S>
void adam_step(std::span<S> weights, std::span<S> first, std::span<S> second, std::span<const S> gradient,
               std::int64_t step, double rate, const adam_options& options = {}) {
  const std::size_t n = weights.size();
  expects(first.size() == n, "adam_step", "first.size", first.size());
  expects(second.size() == n, "adam_step", "second.size", second.size());
  expects(gradient.size() == n, "adam_step", "gradient.size", gradient.size());
  expects(step >= 1, "adam_step", "step", step);
  expects(rate >= 0 && std::isfinite(rate), "adam_step", "rate", rate);
  expects(options.beta1 >= 0 && options.beta1 < 1, "adam_step", "options.beta1", options.beta1);
  expects(options.beta2 >= 0 && options.beta2 < 1, "adam_step", "options.beta2", options.beta2);
  expects(options.epsilon > 0, "adam_step", "options.epsilon", options.epsilon);
  const double t = static_cast<double>(step);
  // -expm1 keeps the digits that 1 - beta^t loses while t is small
  const double bias1 = options.beta1 == 0 ? 1 : -std::expm1(t * std::log(options.beta1));
  const double bias2 = options.beta2 == 0 ? 1 : -std::expm1(t * std::log(options.beta2));
  const auto b1 = static_cast<S>(options.beta1), b2 = static_cast<S>(options.beta2);
  const auto a1 = static_cast<S>(1 - options.beta1), a2 = static_cast<S>(1 - options.beta2);
  const auto scale = static_cast<S>(rate / bias1), root = static_cast<S>(1 / std::sqrt(bias2));
  const auto epsilon = static_cast<S>(options.epsilon);
  using array = Eigen::Array<S, Eigen::Dynamic, 1>;
  constexpr index_t block = 1024;  // so that the moments are read from the cache when the weights need them
  for (index_t i = 0; i < static_cast<index_t>(n); i += block) {
    const index_t size = std::min(block, static_cast<index_t>(n) - i);
    const Eigen::Map<const array> g(gradient.data() + i, size);
    Eigen::Map<array> w(weights.data() + i, size), m(first.data() + i, size), v(second.data() + i, size);
    m = b1 * m + a1 * g;
    v = b2 * v + a2 * g.square();
    w -= scale * m / (v.sqrt() * root + epsilon);
  }
}

}  // namespace sluice::models
