#pragma once
#include <sluice/core/executor.hpp>
#include <sluice/core/expects.hpp>
#include <sluice/kernels/packed_product.hpp>
#include <sluice/models/denoiser.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <span>
#include <type_traits>
#include <vector>

/// Unstable: for tests, benchmarks and examples; no compatibility is promised.
namespace sluice::models {

/// The exact denoiser of a finite bank of data y_1 ... y_N, each as likely as the others:
///     D(x) = sum_n a_n y_n,   a = softmax(-|x - alpha y_n|^2 / (2 sigma^2)).
/// alpha = 0 gives the mean of the bank, sigma = 0 the nearest neighbour (the mean of all nearest ones where several
/// are). The scores come from one product of the bank with up to 16 columns of x, since |x|^2 cancels; a second product
/// mixes the data. 2 N d multiply-adds and N exponentials a column; in double for every scalar. The bank is kept twice,
/// packed for either product (packed_product.hpp): a column's bits depend on neither the batch nor the executor.
///
/// Rounding moves a score by about 1e-16 |x| |y| / sigma^2: sigma below 1e-6 |y| tells neighbours apart only that far.
/// Allocates in the constructor only. One object a thread; the executor's threads share the products.
template <executor Executor = serial>
class kernel_denoiser {
 public:
  /// bank: one datum a column, d x N. Throws invalid_argument unless d and N are positive and all data are finite.
  explicit kernel_denoiser(const Eigen::MatrixXd& bank) requires std::same_as<Executor, serial>
      : kernel_denoiser(bank, detail::on_this_thread) {}
  /// The executor is not copied and must outlive this object.
  kernel_denoiser(const Eigen::MatrixXd& bank, const Executor& ex) : executor_(&ex) {
    d_ = bank.rows();
    n_ = bank.cols();
    expects(d_ >= 1, "kernel_denoiser", "bank.rows", d_);
    expects(n_ >= 1, "kernel_denoiser", "bank.cols", n_);
    for (Eigen::Index j = 0; j < n_; ++j) expects(bank.col(j).allFinite(), "kernel_denoiser", "bank", bank(0, j), j);
    const Eigen::MatrixXd transposed = bank.transpose();
    keys_.assign(all(bank), n_, d_);
    values_.assign(all(transposed), d_, n_);
    half_square_ = bank.colwise().squaredNorm().transpose() / 2;
    weight_.resize(n_);
    x_.resize(d_, tile);
    mixed_.resize(d_, tile);
    score_.resize(n_, tile);
  }
  kernel_denoiser(const Eigen::MatrixXd&, const Executor&&) = delete;

  index_t dimension() const { return d_; }
  index_t size() const { return n_; }
  /// Datum n.
  Eigen::VectorXd datum(index_t n) const {
    Eigen::VectorXd y(d_);
    for (index_t i = 0; i < d_; ++i) y(i) = keys_(n, i);
    return y;
  }

  /// out = E[data | x].
  template <class X, any_level Level, class Out>
  void operator()(const X& x, const Level& level, Out&& out) {
    using scalar = typename std::remove_cvref_t<Out>::Scalar;
    const scaled_level l = detail::checked_call("kernel_denoiser", x, level, out, d_);
    const double precision = 1 / (l.sigma * l.sigma);
    for (Eigen::Index first = 0; first < x.cols(); first += tile) {
      const index_t b = std::min(tile, x.cols() - first);
      for (index_t c = 0; c < b; ++c)
        for (index_t i = 0; i < d_; ++i) x_.coeffRef(i, c) = static_cast<double>(x.coeff(i, first + c));
      keys_.multiply(part(score_, b), part(std::as_const(x_), b), b, *executor_);
      for (index_t c = 0; c < b; ++c) normalise(score_.col(c), l.alpha, precision);
      values_.multiply(part(mixed_, b), part(std::as_const(score_), b), b, *executor_);
      for (index_t c = 0; c < b; ++c)
        for (index_t i = 0; i < d_; ++i) out.coeffRef(i, first + c) = static_cast<scalar>(mixed_.coeff(i, c));
    }
  }

 private:
  static constexpr index_t tile = 16;
  static std::span<const double> all(const Eigen::MatrixXd& m) {
    return {m.data(), static_cast<std::size_t>(m.size())};
  }
  static std::span<double> part(Eigen::ArrayXXd& m, index_t b) {
    return {m.data(), static_cast<std::size_t>(m.rows() * b)};
  }
  static std::span<const double> part(const Eigen::ArrayXXd& m, index_t b) {
    return {m.data(), static_cast<std::size_t>(m.rows() * b)};
  }

  /// Scores x.y to weights, in storage of its own: the order of Eigen's sums depends on the alignment of a column.
  template <class Column>
  void normalise(Column s, double alpha, double precision) {
    weight_ = alpha * (s - alpha * half_square_);
    const double top = weight_.maxCoeff();
    if (std::isfinite(precision))
      weight_ = ((weight_ - top) * precision).exp();
    else
      weight_ = (weight_ >= top).template cast<double>();
    s = weight_ * (1 / weight_.sum());
  }

  index_t d_, n_;
  packed_product<double> keys_, values_;  // N x d and d x N
  Eigen::ArrayXd half_square_, weight_;
  Eigen::ArrayXXd x_, mixed_, score_;
  const Executor* executor_;
};
kernel_denoiser(const Eigen::MatrixXd&)->kernel_denoiser<serial>;

}  // namespace sluice::models
