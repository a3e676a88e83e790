#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/models/denoiser.hpp>
#include <sluice/models/draws.hpp>

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

/// Unstable: for tests, benchmarks and examples; no compatibility is promised.
namespace sluice::models {

/// A sequence of F frames of d features, jointly Gaussian, some of the frames perhaps known: every question that a
/// sampler of sequences is asked (unconditional, given the first frame, given both ends) has an exact denoiser, and the
/// two-sided one is the truth for interpolation. A sample is a column of F d elements, feature p of frame i at i d + p.
/// Features are independent, Cov[x_ip, x_jp] = variance_p C_ij; given the frames O with values y,
///     mean = C_RO C_OO^{-1} y,   C_RR|O = C_RR - C_RO C_OO^{-1} C_OR   on the free frames R.
///
/// With C_RR|O = V diag(e) V^T and, for each feature and eigenvalue, g = alpha variance e / (alpha^2 variance e +
/// sigma^2),  D(x) = mean + V g V^T (x - alpha mean) on free frames and the given values on the others, whose noisy
/// input counts nothing. V is found once, not for every level: 2 F^2 d multiply-adds a column. Allocates where it is
/// made only. One object a thread: the last level is kept.
class gaussian_frames {
 public:
  /// Frames of mean 0. Throws invalid_argument unless covariance is square with at least one row, finite and symmetric,
  /// and there are variances, finite and not negative. An eigenvalue below 0 counts as 0.
  gaussian_frames(Eigen::MatrixXd covariance, Eigen::VectorXd variance)
      : covariance_(std::move(covariance)), variance_(std::move(variance)) {
    constexpr const char* f = "gaussian_frames";
    expects(covariance_.rows() >= 1, f, "covariance.rows", covariance_.rows());
    expects(covariance_.cols() == covariance_.rows(), f, "covariance.cols", covariance_.cols());
    expects(covariance_.allFinite(), f, "covariance", covariance_.sum());
    const double asymmetry = (covariance_ - covariance_.transpose()).cwiseAbs().maxCoeff();
    expects(asymmetry <= 1e-12 * covariance_.cwiseAbs().maxCoeff(), f, "covariance", asymmetry);
    expects(variance_.size() >= 1, f, "variance.size", variance_.size());
    for (Eigen::Index p = 0; p < variance_.size(); ++p)
      expects(variance_(p) >= 0 && std::isfinite(variance_(p)), f, "variance", variance_(p), p);
    mean_ = Eigen::MatrixXd::Zero(variance_.size(), covariance_.rows());
    free_.resize(static_cast<std::size_t>(covariance_.rows()));
    for (std::size_t i = 0; i < free_.size(); ++i) free_[i] = static_cast<index_t>(i);
    prepare();
  }

  index_t n_frames() const { return covariance_.rows(); }
  index_t n_features() const { return variance_.size(); }
  index_t dimension() const { return n_frames() * n_features(); }
  /// The frames that are not known, ascending.
  std::span<const index_t> free_frames() const { return free_; }
  /// Of the law of the data: d x F, and F x F, to be multiplied by variance()(p) for feature p; 0 where frames are
  /// known.
  const Eigen::MatrixXd& mean() const { return mean_; }
  const Eigen::MatrixXd& covariance() const { return covariance_; }
  const Eigen::VectorXd& variance() const { return variance_; }

  /// The same sequence with these frames known, values.col(i) that of frames[i]. O(F^3). Throws invalid_argument if a
  /// frame is out of range or known already or determined by the others, or values are not d x frames.size() and
  /// finite.
  gaussian_frames given(std::span<const index_t> frames, const Eigen::MatrixXd& values) const {
    const index_t n = std::ssize(frames), all = n_frames();
    expects(values.rows() == n_features(), "given", "values.rows", values.rows());
    expects(values.cols() == n, "given", "values.cols", values.cols());
    gaussian_frames result(*this);
    Eigen::MatrixXd known(n, n), cross(all, n), shift(n_features(), n);
    for (index_t i = 0; i < n; ++i) {
      const index_t frame = frames[static_cast<std::size_t>(i)];
      const auto at = std::find(result.free_.begin(), result.free_.end(), frame);
      expects(at != result.free_.end(), "given", "frames", frame, i);
      expects(values.col(i).allFinite(), "given", "values", values(0, i), i);
      result.free_.erase(at);
      cross.col(i) = covariance_.col(frame);
      shift.col(i) = values.col(i) - mean_.col(frame);
    }
    for (index_t i = 0; i < n; ++i) known.row(i) = cross.row(frames[static_cast<std::size_t>(i)]);
    const Eigen::LLT<Eigen::MatrixXd> factor(known);
    expects(n == 0 || factor.info() == Eigen::Success, "given", "frames", n);
    if (n > 0) {
      result.mean_ += shift * factor.solve(cross.transpose());
      const Eigen::MatrixXd half = factor.matrixL().solve(cross.transpose());
      result.covariance_ -= half.transpose() * half;
    }
    for (index_t i = 0; i < n; ++i) {
      const index_t frame = frames[static_cast<std::size_t>(i)];
      result.mean_.col(frame) = values.col(i);
      result.covariance_.row(frame).setZero();
      result.covariance_.col(frame).setZero();
    }
    result.prepare();
    return result;
  }

  /// out = E[data | x].
  template <class X, any_level Level, class Out>
  void operator()(const X& x, const Level& level, Out&& out) {
    using scalar = typename std::remove_cvref_t<Out>::Scalar;
    const scaled_level l = detail::checked_call("gaussian_frames", x, level, out, dimension());
    set_level(l);
    const index_t d = n_features(), n = std::ssize(free_);
    for (Eigen::Index c = 0; c < x.cols(); ++c) {
      for (index_t i = 0; i < n; ++i)
        for (index_t p = 0; p < d; ++p)
          x_.coeffRef(p, i) = static_cast<double>(x.coeff(frame(i) * d + p, c)) - l.alpha * mean_.coeff(p, frame(i));
      y_.setZero();
      for (index_t j = 0; j < n; ++j)
        for (index_t i = 0; i < n; ++i) y_.col(j) += vectors_.coeff(i, j) * x_.col(i);
      y_ *= gain_;
      x_.setZero();
      for (index_t j = 0; j < n; ++j)
        for (index_t i = 0; i < n; ++i) x_.col(i) += vectors_.coeff(i, j) * y_.col(j);
      index_t next = 0;
      for (index_t f = 0; f < n_frames(); ++f) {
        const bool is_free = next < n && frame(next) == f;
        for (index_t p = 0; p < d; ++p)
          out.coeffRef(f * d + p, c) =
              static_cast<scalar>(is_free ? mean_.coeff(p, f) + x_.coeff(p, next) : mean_.coeff(p, f));
        next += is_free;
      }
    }
  }

  /// One sequence of the data, the known frames as they are.
  Eigen::VectorXd sample(cursor& random) const {
    const index_t d = n_features(), n = std::ssize(free_);
    Eigen::MatrixXd z(d, n), x = mean_;
    normals(std::span<double>(z.data(), static_cast<std::size_t>(z.size())), random);
    z = variance_.cwiseSqrt().asDiagonal() * z * values_.sqrt().matrix().asDiagonal() * vectors_.transpose();
    for (index_t i = 0; i < n; ++i) x.col(frame(i)) += z.col(i);
    return Eigen::Map<const Eigen::VectorXd>(x.data(), x.size());
  }

 private:
  index_t frame(index_t i) const { return free_[static_cast<std::size_t>(i)]; }
  void prepare() {
    const index_t n = std::ssize(free_);
    Eigen::MatrixXd c(n, n);
    for (index_t i = 0; i < n; ++i)
      for (index_t j = 0; j < n; ++j) c(i, j) = covariance_(frame(i), frame(j));
    vectors_.resize(n, n);
    values_.resize(n);
    if (n > 0) {
      const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(c);
      vectors_ = solver.eigenvectors();
      values_ = solver.eigenvalues().array().max(0.0);
    }
    x_.resize(n_features(), n);
    y_ = gain_ = x_;
    level_ = {-1, -1};
  }
  void set_level(const scaled_level& l) {
    if (l.alpha == level_.alpha && l.sigma == level_.sigma) return;
    level_ = l;
    for (index_t i = 0; i < gain_.cols(); ++i)
      for (index_t p = 0; p < gain_.rows(); ++p) {
        const double s2 = variance_(p) * values_(i);
        gain_(p, i) = s2 > 0 ? l.alpha * s2 / detail::noisy_variance(l, s2) : 0.0;
      }
  }

  Eigen::MatrixXd covariance_, mean_;
  Eigen::VectorXd variance_;
  std::vector<index_t> free_;
  Eigen::MatrixXd vectors_;  // of the covariance of the free frames
  Eigen::ArrayXd values_;
  scaled_level level_{-1, -1};  // what gain_ is for
  Eigen::ArrayXXd gain_, x_, y_;
};

/// Frames of an autoregression, C_ij = rho^|i-j|, pixel p of variance 1 / (1 + p). Throws invalid_argument unless
/// n_frames and n_pixels are positive and |rho| < 1.
inline gaussian_frames gaussian_video(index_t n_frames, index_t n_pixels, double rho = 0.9) {
  expects(n_frames >= 1, "gaussian_video", "n_frames", n_frames);
  expects(n_pixels >= 1, "gaussian_video", "n_pixels", n_pixels);
  expects(std::abs(rho) < 1, "gaussian_video", "rho", rho);
  Eigen::MatrixXd c(n_frames, n_frames);
  for (index_t i = 0; i < n_frames; ++i)
    for (index_t j = 0; j < n_frames; ++j) c(i, j) = std::pow(rho, static_cast<double>(std::abs(i - j)));
  Eigen::VectorXd variance(n_pixels);
  for (index_t p = 0; p < n_pixels; ++p) variance(p) = 1 / (1 + static_cast<double>(p));
  return {std::move(c), std::move(variance)};
}

}  // namespace sluice::models
