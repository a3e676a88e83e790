#pragma once
#include <sluice/core/expects.hpp>
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
#include <vector>

/// Unstable: for tests, benchmarks and examples; no compatibility is promised.
namespace sluice::models {

/// speeds: angles a frame. r2: the variance of a coordinate about its path.
struct circle_video_options {
  index_t n_frames = 9;
  index_t n_theta = 16;
  std::vector<double> speeds{std::numbers::pi / 16, std::numbers::pi / 8, 3 * std::numbers::pi / 16};
  double r2 = 0.003;
};

/// Points that run around a circle: video on a curved manifold, with more than one way from a start to an end. Frames
/// are points of the plane; a component is a start angle theta (n_theta of them, equally spaced), a direction c = 1 or
/// -1 and a speed w, all equally likely, in this order, and its path is (cos, sin)(theta + c w i) with variance r2 a
/// coordinate. A sample is a column of 2 F elements, frame i at 2 i. Frames may be known: they are returned as they
/// are, their noisy input counts nothing, and a component counts by exp(-|path - frame|^2 / (2 r2)).
///
/// 4 K F multiply-adds a column for the K = 2 n_theta speeds.size() components. Allocates where it is made only. One
/// object a thread.
class circle_video {
 public:
  /// Throws invalid_argument unless n_frames and n_theta are positive, there are speeds, all finite, and r2 is positive
  /// and finite.
  explicit circle_video(const circle_video_options& options = {})
      : circle_video(paths_of(options), options.r2, static_cast<std::size_t>(options.n_frames)) {}

  index_t n_frames() const { return paths_.rows() / 2; }
  index_t dimension() const { return paths_.rows(); }
  index_t n_components() const { return paths_.cols(); }
  /// The mean paths, 2 F x K, known frames or not.
  const Eigen::MatrixXd& paths() const { return paths_; }
  /// Their probabilities, given the known frames.
  const Eigen::VectorXd& weights() const { return weight_; }

  /// The same with these frames known, values.col(i) that of frames[i]. Throws invalid_argument if a frame is out of
  /// range or known already, if all are known then, or if values are not 2 x frames.size() and finite.
  circle_video given(std::span<const index_t> frames, const Eigen::MatrixXd& values) const {
    expects(values.rows() == 2, "given", "values.rows", values.rows());
    expects(values.cols() == std::ssize(frames), "given", "values.cols", values.cols());
    circle_video result(*this);
    Eigen::ArrayXd log_weight = weight_.array().log();
    for (index_t i = 0; i < std::ssize(frames); ++i) {
      const index_t f = frames[static_cast<std::size_t>(i)];
      expects(f >= 0 && f < n_frames() && !result.known_[static_cast<std::size_t>(f)], "given", "frames", f, i);
      expects(values.col(i).allFinite(), "given", "values", values(0, i), i);
      result.known_[static_cast<std::size_t>(f)] = true;
      result.value_.segment(2 * f, 2) = values.col(i);
      log_weight -=
          (paths_.middleRows(2 * f, 2).colwise() - values.col(i)).colwise().squaredNorm().transpose().array() /
          (2 * r2_);
    }
    result.weight_ = (log_weight - log_weight.maxCoeff()).exp();
    result.weight_ /= result.weight_.sum();
    result.prepare();
    return result;
  }

  /// out = E[data | x].
  template <class X, any_level Level, class Out>
  void operator()(const X& x, const Level& level, Out&& out) {
    using scalar = typename std::remove_cvref_t<Out>::Scalar;
    const scaled_level l = detail::checked_call("circle_video", x, level, out, dimension());
    for (Eigen::Index c = 0; c < x.cols(); ++c) {
      Eigen::Index k = 0;
      for (Eigen::Index i = 0; i < x.rows(); ++i)
        if (!is_known(i)) x_.coeffRef(k++) = static_cast<double>(x.coeff(i, c));
      free_(x_, l, d_);
      k = 0;
      for (Eigen::Index i = 0; i < x.rows(); ++i)
        out.coeffRef(i, c) = static_cast<scalar>(is_known(i) ? value_.coeff(i) : d_.coeff(k++));
    }
  }

  /// One sequence of the data, the known frames as they are.
  Eigen::VectorXd sample(cursor& random) const {
    const Eigen::VectorXd z = free_.sample(random).first;
    Eigen::VectorXd x = value_;
    Eigen::Index k = 0;
    for (Eigen::Index i = 0; i < x.size(); ++i)
      if (!is_known(i)) x(i) = z(k++);
    return x;
  }

  /// Root mean square over the frames of the distance of x (2 F elements) from the nearest path that is possible: one
  /// whose weight is at least 1e-3 of the largest.
  template <class X>
  double path_rms(const X& x) const {
    expects(x.size() == dimension(), "path_rms", "x.size", x.size());
    double best = std::numeric_limits<double>::infinity();
    for (Eigen::Index j = 0; j < paths_.cols(); ++j) {
      if (weight_(j) < 1e-3 * weight_.maxCoeff()) continue;
      double sum = 0;
      for (Eigen::Index i = 0; i < x.size(); ++i) {
        const double d = static_cast<double>(x(i)) - paths_(i, j);
        sum += d * d;
      }
      best = std::min(best, sum);
    }
    return std::sqrt(best / static_cast<double>(n_frames()));
  }
  /// Mean of ||frame| - 1| over the frames of x that are not known.
  template <class X>
  double off_manifold(const X& x) const {
    expects(x.size() == dimension(), "off_manifold", "x.size", x.size());
    double sum = 0;
    for (index_t f = 0; f < n_frames(); ++f)
      if (!known_[static_cast<std::size_t>(f)])
        sum += std::abs(std::hypot(static_cast<double>(x(2 * f)), static_cast<double>(x(2 * f + 1))) - 1);
    return sum / static_cast<double>(free_.dimension() / 2);
  }

 private:
  circle_video(Eigen::MatrixXd paths, double r2, std::size_t n_frames)
      : paths_(std::move(paths)),
        weight_(Eigen::VectorXd::Constant(paths_.cols(), 1 / static_cast<double>(paths_.cols()))),
        value_(Eigen::VectorXd::Zero(paths_.rows())),
        known_(n_frames, false),
        r2_(r2),
        free_(weight_, paths_, Eigen::VectorXd::Constant(paths_.cols(), std::sqrt(r2))) {
    prepare();
  }
  static Eigen::MatrixXd paths_of(const circle_video_options& o) {
    expects(o.n_frames >= 1, "circle_video", "options.n_frames", o.n_frames);
    expects(o.n_theta >= 1, "circle_video", "options.n_theta", o.n_theta);
    expects(!o.speeds.empty(), "circle_video", "options.speeds.size", o.speeds.size());
    expects(o.r2 > 0 && std::isfinite(o.r2), "circle_video", "options.r2", o.r2);
    for (std::size_t s = 0; s < o.speeds.size(); ++s)
      expects(std::isfinite(o.speeds[s]), "circle_video", "options.speeds", o.speeds[s],
              static_cast<std::ptrdiff_t>(s));
    Eigen::MatrixXd paths(2 * o.n_frames, 2 * o.n_theta * std::ssize(o.speeds));
    Eigen::Index j = 0;
    for (index_t t = 0; t < o.n_theta; ++t)
      for (const double direction : {1.0, -1.0})
        for (const double speed : o.speeds) {
          for (index_t i = 0; i < o.n_frames; ++i) {
            const double angle = 2 * std::numbers::pi * static_cast<double>(t) / static_cast<double>(o.n_theta) +
                                 direction * speed * static_cast<double>(i);
            paths.col(j).segment(2 * i, 2) << std::cos(angle), std::sin(angle);
          }
          ++j;
        }
    return paths;
  }
  bool is_known(Eigen::Index row) const { return known_[static_cast<std::size_t>(row / 2)]; }
  void prepare() {
    std::vector<Eigen::Index> rows;
    for (Eigen::Index i = 0; i < paths_.rows(); ++i)
      if (!is_known(i)) rows.push_back(i);
    expects(!rows.empty(), "given", "frames", n_frames());
    free_ = gaussian_mixture(weight_, paths_(rows, Eigen::all), free_.sd());
    x_.resize(std::ssize(rows));
    d_ = x_;
  }

  Eigen::MatrixXd paths_;
  Eigen::VectorXd weight_, value_;
  std::vector<bool> known_;
  double r2_;
  gaussian_mixture free_;  // of the frames that are not known
  Eigen::VectorXd x_, d_;
};

}  // namespace sluice::models
