#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/numeric.hpp>
#include <sluice/draw/inverse_cdf.hpp>
#include <sluice/models/denoiser.hpp>
#include <sluice/models/draws.hpp>
#include <sluice/models/gaussian_mixture.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <span>
#include <type_traits>
#include <utility>

/// Unstable: for tests, benchmarks and examples; no compatibility is promised.
namespace sluice::models {

/// A one-dimensional Gaussian mixture seen through noise, with its exact flow map: in one dimension the
/// probability-flow equation keeps the order of points, so it keeps their quantile,
///     x' = F'^{-1}(F(x)),   F the distribution function of sum_j w_j N(alpha m_j, v_j), v_j = alpha^2 s_j^2 + sigma^2.
/// A vector or matrix x stands for independent coordinates, each of this law: every element is treated by itself.
///
/// The map is found from the logarithm of the smaller tail, so both tails keep their digits: relative error about 1e-13
/// of the distance to the means, except where the density itself is so small that the quantile is not determined
/// (error epsilon F/density). Newton in a bracket: 5 to 10 evaluations of K error functions a point. Nothing allocates.
/// Immutable: may be shared by threads.
class mixture_1d {
 public:
  /// Component j has weight weights(j), normalised, mean means(j), standard deviation sd(j) > 0. Throws
  /// invalid_argument as gaussian_mixture does.
  mixture_1d(Eigen::VectorXd weights, const Eigen::VectorXd& means, Eigen::VectorXd sd)
      : mixture_(std::move(weights), means.transpose(), std::move(sd)) {}

  index_t n_components() const { return mixture_.n_components(); }
  const Eigen::VectorXd& weights() const { return mixture_.weights(); }
  double mean(index_t j) const { return mixture_.means()(0, j); }
  const Eigen::VectorXd& sd() const { return mixture_.sd(); }
  /// The same law as a mixture in one dimension.
  const gaussian_mixture& mixture() const { return mixture_; }

  /// out = E[data | x], element by element.
  template <class X, any_level Level, class Out>
  void operator()(const X& x, const Level& level, Out&& out) const {
    expects(out.rows() == x.rows(), "mixture_1d", "out.rows", out.rows());
    expects(out.cols() == x.cols(), "mixture_1d", "out.cols", out.cols());
    mixture_.denoise(x, detail::checked_level("mixture_1d", level), out);
  }

  /// P(X <= x) and P(X > x) of the noisy law.
  template <any_level Level>
  double cdf(double x, const Level& level) const {
    return std::exp(tail(x, detail::checked_level("cdf", level), -1).log);
  }
  template <any_level Level>
  double survival(double x, const Level& level) const {
    return std::exp(tail(x, detail::checked_level("survival", level), 1).log);
  }
  /// The x with cdf(x) = p. Throws invalid_argument unless 0 < p < 1.
  template <any_level Level>
  double quantile(double p, const Level& level) const {
    expects(p > 0 && p < 1, "quantile", "p", p);
    const scaled_level l = detail::checked_level("quantile", level);
    return p <= 0.5 ? solve(std::log(p), -1, l, -40, 40) : solve(std::log1p(-p), 1, l, -40, 40);
  }
  /// The solution at level `to` of the probability-flow equation through x at level `from`. NaN for NaN; increasing in
  /// x.
  template <any_level From, any_level To>
  double flow_map(double x, const From& from, const To& to) const {
    const scaled_level a = detail::checked_level("flow_map", from), b = detail::checked_level("flow_map", to);
    if (!std::isfinite(x) || (a.alpha == b.alpha && a.sigma == b.sigma)) return x;
    // F is an average of Phi((x - alpha m_j) / sqrt v_j): its normal score lies between these.
    double low = std::numeric_limits<double>::infinity(), high = -low;
    for (index_t j = 0; j < n_components(); ++j) {
      if (weights()(j) == 0) continue;
      const double z = (x - a.alpha * mean(j)) / deviation(j, a);
      low = std::min(low, z);
      high = std::max(high, z);
    }
    const double below = tail(x, a, -1).log;
    return below <= -std::numbers::ln2 ? solve(below, -1, b, low, high) : solve(tail(x, a, 1).log, 1, b, low, high);
  }
  /// The same for every element; out may be x.
  template <class Out, class X, any_level From, any_level To>
  void flow_map(Out&& out, const X& x, const From& from, const To& to) const {
    using scalar = typename std::remove_cvref_t<Out>::Scalar;
    expects(out.rows() == x.rows(), "flow_map", "out.rows", out.rows());
    expects(out.cols() == x.cols(), "flow_map", "out.cols", out.cols());
    for (Eigen::Index c = 0; c < x.cols(); ++c)
      for (Eigen::Index i = 0; i < x.rows(); ++i)
        out.coeffRef(i, c) = static_cast<scalar>(flow_map(static_cast<double>(x.coeff(i, c)), from, to));
  }

  /// One sample of the data.
  double sample(cursor& random) const { return mixture_.sample(random).first(0); }
  /// The same with b^2 added to every variance.
  mixture_1d inflated(double b) const { return mixture_1d(mixture_.inflated(b)); }
  /// The mixture of these components only, with their weights: the conditional model of a class.
  mixture_1d subset(std::span<const index_t> components) const { return mixture_1d(mixture_.subset(components)); }

 private:
  explicit mixture_1d(gaussian_mixture mixture) : mixture_(std::move(mixture)) {}
  double deviation(index_t j, const scaled_level& l) const {
    return std::sqrt(detail::noisy_variance(l, sd()(j) * sd()(j)));
  }

  /// The logarithm of a tail probability, and the density divided by it.
  struct log_tail {
    double log, hazard;
  };
  /// log P(Z < -z) for a standard normal.
  static double log_normal_tail(double z) {
    if (z < 0) return std::log1p(-std::erfc(-z * half_root) / 2);
    if (z < 37) return std::log(std::erfc(z * half_root) / 2);
    const double r = 1 / (z * z);  // erfc underflows; the asymptotic series is exact to 1e-17 here
    return -z * z / 2 - std::log(z) - 0.5 * std::log(2 * std::numbers::pi) +
           std::log1p(-r * (1 - r * (3 - r * (15 - r * (105 - r * 945)))));
  }
  /// side = -1: the tail below x; 1: the tail above.
  log_tail tail(double x, const scaled_level& l, int side) const {
    double sum = 0, density = 0;
    for (index_t j = 0; j < n_components(); ++j) {
      const double s = deviation(j, l), z = (x - l.alpha * mean(j)) / s;
      sum += weights()(j) * std::erfc(side * z * half_root) / 2;
      density += weights()(j) * std::exp(-z * z / 2) / s;
    }
    if (sum > 1e-250) return {std::log(sum), density * density_scale / sum};
    log_sum total, slope;
    for (index_t j = 0; j < n_components(); ++j) {
      if (weights()(j) == 0) continue;
      const double s = deviation(j, l), z = (x - l.alpha * mean(j)) / s, w = std::log(weights()(j));
      total.add(w + log_normal_tail(side * z));
      slope.add(w - z * z / 2 - std::log(s));
    }
    return {total.log(), std::exp(slope.log() - total.log()) * density_scale};
  }

  /// The x whose tail on this side has this logarithm; its normal score lies between low and high.
  double solve(double target, int side, const scaled_level& l, double low, double high) const {
    double left = std::numeric_limits<double>::infinity(), right = -left;
    for (index_t j = 0; j < n_components(); ++j) {
      if (weights()(j) == 0) continue;
      left = std::min(left, l.alpha * mean(j) + low * deviation(j, l));
      right = std::max(right, l.alpha * mean(j) + high * deviation(j, l));
    }
    // Rounding must not put the solution outside.
    const double margin = 1e-14 * std::max({std::abs(left), std::abs(right), right - left});
    left -= margin;
    right += margin;
    double x = left + (right - left) / 2, before = right - left;
    for (int k = 0; k < 200; ++k) {
      const log_tail t = tail(x, l, side);
      const double excess = side * (t.log - target);  // positive: the solution is to the right
      (excess > 0 ? left : right) = x;
      const double newton = excess / t.hazard;
      double next = x + newton;
      // Newton where it stays inside and converges, else the middle.
      const bool inside = next > left && next < right && std::abs(newton) <= before / 2;
      if (!inside) next = left + (right - left) / 2;
      before = std::abs(next - x);
      x = next;
      // 1 / hazard is how far x moves for a relative change of the tail: an epsilon of it cannot be told apart.
      const double scale = std::max(std::abs(x), inside ? 1 / t.hazard : 0.0);
      if (before <= 2 * std::numeric_limits<double>::epsilon() * scale) break;
    }
    return x;
  }

  static constexpr double half_root = 0.70710678118654752440, density_scale = 0.39894228040143267794;
  gaussian_mixture mixture_;
};

}  // namespace sluice::models
