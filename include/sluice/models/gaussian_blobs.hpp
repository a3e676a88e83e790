#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <span>
#include <utility>
#include <vector>

/// Unstable: for tests, benchmarks and examples; no compatibility is promised.
namespace sluice::models {

struct gaussian_blob {
  Eigen::Vector3d centre;
  double radius = 1, amplitude = 1;
  Eigen::Vector3d colour = Eigen::Vector3d::Ones();
};

/// A radiance field with closed-form optical depths: density sigma(x) = sum_k A_k exp(-|x - c_k|^2 / (2 s_k^2)) and
/// colour = the density-weighted mean of the blobs' colours times a texture, in [0, 1]:
///     texture(x) = .55 + .45 (.5 + .45 sign(sin(20 x) sin(20 y) sin(20 z)))
/// It has the form of the fields of generate/volume_rendering.hpp, in float and double: positions n x 3, values n,
/// colours n x 3. Immutable: may be shared by threads. About 5 exponentials a point for the default scene.
class gaussian_blobs {
 public:
  /// Throws invalid_argument unless there is a blob and each radius and amplitude is positive and finite.
  explicit gaussian_blobs(std::vector<gaussian_blob> blobs = default_scene(), bool textured = true)
      : blobs_(std::move(blobs)), textured_(textured) {
    expects(!blobs_.empty(), "gaussian_blobs", "blobs.size", 0);
    for (std::size_t k = 0; k < blobs_.size(); ++k) {
      const auto at = static_cast<std::ptrdiff_t>(k);
      expects(blobs_[k].radius > 0 && std::isfinite(blobs_[k].radius), "gaussian_blobs", "radius", blobs_[k].radius,
              at);
      expects(blobs_[k].amplitude > 0 && std::isfinite(blobs_[k].amplitude), "gaussian_blobs", "amplitude",
              blobs_[k].amplitude, at);
    }
  }

  template <class P, class D, class V, class C>
  void operator()(const P& positions, const D&, V&& values, C&& colours) const {
    using S = typename P::Scalar;
    for (index_t i = 0; i < positions.rows(); ++i) {
      const S x = positions(i, 0), y = positions(i, 1), z = positions(i, 2);
      S sum = 0, r = 0, g = 0, b = 0;
      for (const gaussian_blob& k : blobs_) {
        const S dx = x - static_cast<S>(k.centre[0]), dy = y - static_cast<S>(k.centre[1]),
                dz = z - static_cast<S>(k.centre[2]);
        const S scale = static_cast<S>(-0.5 / (k.radius * k.radius));
        const S d = static_cast<S>(k.amplitude) * std::exp(scale * (dx * dx + dy * dy + dz * dz));
        sum += d;
        r += d * static_cast<S>(k.colour[0]);
        g += d * static_cast<S>(k.colour[1]);
        b += d * static_cast<S>(k.colour[2]);
      }
      values[i] = sum;
      const S shade = (textured_ ? texture(x, y, z) : S{1}) / std::max(sum, static_cast<S>(1e-30));
      colours(i, 0) = std::clamp(r * shade, S{0}, S{1});
      colours(i, 1) = std::clamp(g * shade, S{0}, S{1});
      colours(i, 2) = std::clamp(b * shade, S{0}, S{1});
    }
  }

  /// The integral of the density of blob k along origin + t direction, t0 <= t <= t1; |direction| = 1. With q the
  /// parameter of closest approach and p its distance from the centre:
  ///     A exp(-p^2 / 2 s^2) s sqrt(pi/2) (erf((t1 - q)/(sqrt2 s)) - erf((t0 - q)/(sqrt2 s)))
  double optical_depth(std::size_t k, const Eigen::Vector3d& origin, const Eigen::Vector3d& direction, double t0,
                       double t1) const {
    const gaussian_blob& b = blobs_[k];
    const Eigen::Vector3d to = b.centre - origin;
    const double q = to.dot(direction), p2 = (to - q * direction).squaredNorm(), s = b.radius;
    const double width = std::numbers::sqrt2 * s;
    return b.amplitude * std::exp(-p2 / (2 * s * s)) * s * std::sqrt(std::numbers::pi / 2) *
           (std::erf((t1 - q) / width) - std::erf((t0 - q) / width));
  }
  /// Of all blobs together.
  double optical_depth(const Eigen::Vector3d& origin, const Eigen::Vector3d& direction, double t0, double t1) const {
    double sum = 0;
    for (std::size_t k = 0; k < blobs_.size(); ++k) sum += optical_depth(k, origin, direction, t0, t1);
    return sum;
  }
  const std::vector<gaussian_blob>& blobs() const { return blobs_; }

  /// Five blobs inside the unit ball.
  static std::vector<gaussian_blob> default_scene() {
    return {{{0, 0, 0}, .35, 12, {.8, .3, .2}},
            {{.55, .2, .1}, .22, 18, {.2, .7, .3}},
            {{-.5, .3, -.2}, .25, 15, {.2, .3, .9}},
            {{.1, -.5, .4}, .2, 20, {.9, .8, .2}},
            {{-.2, -.2, -.6}, .22, 16, {.6, .2, .7}}};
  }

 private:
  template <class S>
  static S texture(S x, S y, S z) {
    const S f = 20, v = std::sin(f * x) * std::sin(f * y) * std::sin(f * z);
    const S sign = v > 0 ? S{1} : v < 0 ? S{-1} : S{0};
    return static_cast<S>(.55) + static_cast<S>(.45) * (static_cast<S>(.5) + static_cast<S>(.45) * sign);
  }
  std::vector<gaussian_blob> blobs_;
  bool textured_;
};

}  // namespace sluice::models
