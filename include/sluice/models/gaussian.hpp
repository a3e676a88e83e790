#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/models/denoiser.hpp>
#include <sluice/models/draws.hpp>

#include <Eigen/Core>
#include <cmath>
#include <span>
#include <type_traits>
#include <utility>

/// Unstable: for tests, benchmarks and examples; no compatibility is promised.
namespace sluice::models {

/// Data from N(m, diag s2), seen through noise: the model against which orders of convergence are measured, since the
/// probability-flow equation has a closed solution. With v = alpha^2 s2 + sigma^2, element by element:
///     D(x) = m + (alpha s2 / v)(x - alpha m),     x' = alpha' m + (x - alpha m) sqrt(v'/v)  from level to level',
/// which is m + (x - m) sqrt((s2 + kappa'^2)/(s2 + kappa^2)) for scaled states. O(d) a column, no allocation.
/// Immutable: may be shared by threads.
class gaussian {
 public:
  /// Throws invalid_argument unless the sizes agree and are positive, means are finite and variances finite and not
  /// negative.
  gaussian(Eigen::VectorXd mean, Eigen::VectorXd variance) : mean_(std::move(mean)), variance_(std::move(variance)) {
    expects(mean_.size() >= 1, "gaussian", "mean.size", mean_.size());
    expects(variance_.size() == mean_.size(), "gaussian", "variance.size", variance_.size());
    for (Eigen::Index i = 0; i < mean_.size(); ++i) {
      expects(std::isfinite(mean_(i)), "gaussian", "mean", mean_(i), i);
      expects(variance_(i) >= 0 && std::isfinite(variance_(i)), "gaussian", "variance", variance_(i), i);
    }
  }

  index_t dimension() const { return mean_.size(); }
  const Eigen::VectorXd& mean() const { return mean_; }
  const Eigen::VectorXd& variance() const { return variance_; }

  /// out = E[data | x].
  template <class X, any_level Level, class Out>
  void operator()(const X& x, const Level& level, Out&& out) const {
    using scalar = typename std::remove_cvref_t<Out>::Scalar;
    const scaled_level l = detail::checked_call("gaussian", x, level, out, dimension());
    for (Eigen::Index c = 0; c < x.cols(); ++c)
      for (Eigen::Index i = 0; i < x.rows(); ++i) {
        const double s2 = variance_.coeff(i), gain = s2 > 0 ? l.alpha * s2 / detail::noisy_variance(l, s2) : 0.0;
        out.coeffRef(i, c) = static_cast<scalar>(
            mean_.coeff(i) + gain * (static_cast<double>(x.coeff(i, c)) - l.alpha * mean_.coeff(i)));
      }
  }

  /// out = the solution of the probability-flow equation at level `to` that passes through x at level `from`; out may
  /// be x. A coordinate of variance 0 at sigma = 0 is alpha m. Throws invalid_argument as the denoiser does.
  template <class Out, class X, any_level From, any_level To>
  void flow_map(Out&& out, const X& x, const From& from, const To& to) const {
    using scalar = typename std::remove_cvref_t<Out>::Scalar;
    const scaled_level a = detail::checked_call("flow_map", x, from, out, dimension());
    const scaled_level b = detail::checked_level("flow_map", to);
    for (Eigen::Index c = 0; c < x.cols(); ++c)
      for (Eigen::Index i = 0; i < x.rows(); ++i) {
        const double m = mean_.coeff(i), v = detail::noisy_variance(a, variance_.coeff(i)),
                     w = detail::noisy_variance(b, variance_.coeff(i));
        out.coeffRef(i, c) = static_cast<scalar>(b.alpha * m + (v > 0 ? std::sqrt(w / v) : 0.0) *
                                                                   (static_cast<double>(x.coeff(i, c)) - a.alpha * m));
      }
  }

  /// One sample of the data.
  Eigen::VectorXd sample(cursor& random) const {
    Eigen::VectorXd x(dimension());
    normals(std::span<double>(x.data(), static_cast<std::size_t>(x.size())), random);
    return mean_ + variance_.cwiseSqrt().cwiseProduct(x);
  }

  /// The same with b^2 added to every variance: a model that smooths too much. Its noise prediction is wrong by a
  /// relative error that vanishes for kappa -> inf and grows as kappa falls.
  gaussian inflated(double b) const { return {mean_, (variance_.array() + b * b).matrix()}; }

 private:
  Eigen::VectorXd mean_, variance_;
};

}  // namespace sluice::models
