#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/quadrature.hpp>
#include <sluice/core/tensor.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>
#include <vector>

/// Unstable: for tests, benchmarks and examples; no compatibility is promised.
namespace sluice::models {

/// A ray through a medium whose density is a sum of Gaussian bumps: what volume renderers and ray samplers estimate,
/// with the exact answer. On [near, far],
///     density(t) = sum_j a_j N(t; m_j, s_j),   colour(t) = 1/2 + 1/2 cos(2 pi t),
///     transmittance(t) = exp(-sum_j a_j [Phi((t - m_j)/s_j) - Phi((near - m_j)/s_j)]),
/// and the pixel is the integral of transmittance density colour, the depth that of transmittance density t, the
/// opacity 1 - transmittance(far). Density, transmittance and opacity are closed, the other two by quadrature (1e-13).
/// Immutable: may be shared by threads.
class radiance_ray {
 public:
  struct integrals {
    double colour = 0, depth = 0, opacity = 0;
  };

  /// Bump j holds amount(j) of optical depth around mean(j), with standard deviation sd(j). Throws invalid_argument
  /// unless the sizes agree, amounts are finite and not negative, means finite, each sd positive and finite, and
  /// near < far, both finite.
  radiance_ray(Eigen::VectorXd amount, Eigen::VectorXd mean, Eigen::VectorXd sd, double near, double far)
      : amount_(std::move(amount)), mean_(std::move(mean)), sd_(std::move(sd)), near_(near), far_(far) {
    expects(mean_.size() == amount_.size(), "radiance_ray", "mean.size", mean_.size());
    expects(sd_.size() == amount_.size(), "radiance_ray", "sd.size", sd_.size());
    for (Eigen::Index j = 0; j < amount_.size(); ++j) {
      expects(amount_(j) >= 0 && std::isfinite(amount_(j)), "radiance_ray", "amount", amount_(j), j);
      expects(std::isfinite(mean_(j)), "radiance_ray", "mean", mean_(j), j);
      expects(sd_(j) > 0 && std::isfinite(sd_(j)), "radiance_ray", "sd", sd_(j), j);
    }
    expects(std::isfinite(near), "radiance_ray", "near", near);
    expects(std::isfinite(far) && far > near, "radiance_ray", "far", far);
    integrate_all();
  }

  double near() const { return near_; }
  double far() const { return far_; }
  double density(double t) const {
    double sum = 0;
    for (Eigen::Index j = 0; j < amount_.size(); ++j) {
      const double z = (t - mean_(j)) / sd_(j);
      sum += amount_(j) / sd_(j) * std::exp(-z * z / 2);
    }
    return sum * (std::numbers::inv_sqrtpi / std::numbers::sqrt2);
  }
  static double colour(double t) { return 0.5 + 0.5 * std::cos(2 * std::numbers::pi * t); }
  /// The integral of the density from a to b.
  double optical_depth(double a, double b) const {
    double sum = 0;
    for (Eigen::Index j = 0; j < amount_.size(); ++j)
      sum += amount_(j) * normal_mass((a - mean_(j)) / sd_(j), (b - mean_(j)) / sd_(j));
    return sum;
  }
  /// What reaches the eye from t.
  double transmittance(double t) const { return std::exp(-optical_depth(near_, t)); }
  /// Over the whole ray; computed once.
  const integrals& exact() const { return exact_; }

 private:
  /// Phi(b) - Phi(a), from the tail on the side of both.
  static double normal_mass(double a, double b) {
    const double root = std::numbers::sqrt2 / 2;
    return a > 0 ? (std::erfc(a * root) - std::erfc(b * root)) / 2 : (std::erfc(-b * root) - std::erfc(-a * root)) / 2;
  }
  void integrate_all() {
    // Between breaks at half standard deviations, where the integrand varies, and at half turns of the colour, it is
    // smooth on the scale of an interval.
    std::vector<double> breaks{near_, far_};
    const auto add = [&](double t) {
      if (t > near_ && t < far_) breaks.push_back(t);
    };
    for (Eigen::Index j = 0; j < mean_.size(); ++j)
      for (int k = -20; k <= 20; ++k) add(mean_(j) + 0.5 * k * sd_(j));
    const int turns = 2 * static_cast<int>(std::min(1e4, std::ceil(far_ - near_)));
    for (int k = 1; k < turns; ++k) add(near_ + (far_ - near_) * k / turns);
    std::sort(breaks.begin(), breaks.end());
    const quadrature_rule unit = gauss_legendre(20);
    for (std::size_t i = 0; i + 1 < breaks.size(); ++i) {
      const double middle = (breaks[i] + breaks[i + 1]) / 2, half = (breaks[i + 1] - breaks[i]) / 2;
      for (std::size_t q = 0; q < unit.node.size(); ++q) {
        const double t = middle + half * unit.node[q], w = half * unit.weight[q] * transmittance(t) * density(t);
        exact_.colour += w * colour(t);
        exact_.depth += w * t;
      }
    }
    exact_.opacity = -std::expm1(-optical_depth(near_, far_));
  }

  Eigen::VectorXd amount_, mean_, sd_;
  double near_, far_;
  integrals exact_;
};

}  // namespace sluice::models
