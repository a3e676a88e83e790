#pragma once
#include <sluice/core/executor.hpp>
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>

#include <Eigen/Core>
#include <cmath>
#include <concepts>

/// Unstable: for tests, benchmarks and examples; no compatibility is promised.
///
/// What the denoisers of models/ have in common. Each is a callable f(x, level, out) that writes
///     out = E[data | x],   x = level.alpha data + level.sigma noise,
/// for any dense Eigen x and out of float or double, one sample a column; what it computes for a column depends on that
/// column only, bit for bit. A level is any type with members alpha and sigma, both finite and at least 0 and not both
/// 0: alpha = 0 gives the mean of the data, sigma = 0 the limit. Computed in double unless said otherwise.
/// `sluice::prediction<sluice::predicts::data>(std::ref(f))` makes a model for solvers of it.
/// Throws invalid_argument, out unchanged, if the level is not such, or x and out are not of the model's shape.
namespace sluice::models {

/// The level of the scaled state x / alpha: alpha = 1, sigma = kappa.
struct scaled_level {
  double alpha = 1, sigma = 0;
};
/// What a denoiser takes as a level; sluice::noise_level is one.
template <class L>
concept any_level = requires(const L& l) {
  { l.alpha } -> std::convertible_to<double>;
  { l.sigma } -> std::convertible_to<double>;
};
/// x = data + kappa noise.
constexpr scaled_level at_kappa(double kappa) { return {1, kappa}; }

namespace detail {
inline constexpr serial on_this_thread{};  // what a model without an executor refers to

template <any_level Level>
scaled_level checked_level(const char* function, const Level& level) {
  const double alpha = level.alpha, sigma = level.sigma;
  expects(alpha >= 0 && std::isfinite(alpha), function, "level.alpha", alpha);
  expects(sigma >= 0 && std::isfinite(sigma) && alpha + sigma > 0, function, "level.sigma", sigma);
  return {alpha, sigma};
}
template <class X, any_level Level, class Out>
scaled_level checked_call(const char* function, const X& x, const Level& level, const Out& out, index_t dimension) {
  expects(x.rows() == dimension, function, "x.rows", x.rows());
  expects(out.rows() == dimension, function, "out.rows", out.rows());
  expects(out.cols() == x.cols(), function, "out.cols", out.cols());
  return checked_level(function, level);
}
/// v = alpha^2 s2 + sigma^2, the variance of x for data of variance s2.
inline double noisy_variance(const scaled_level& l, double s2) { return l.alpha * l.alpha * s2 + l.sigma * l.sigma; }
}  // namespace detail

}  // namespace sluice::models
