#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <cmath>

/// Least squares with a ridge, from sums that a stream of observations fills.
namespace sluice {

/// Rows x_i in R^p and y_i in R^q; the p x q matrix W that minimises sum_i |y_i - x_i W|^2 + ridge |W|^2:
///     (X'X + ridge I) W = X'Y
/// Observations are added in batches, one a row, and not kept: p (p + q) doubles, whatever n. Sums are in double, in
/// the order of the rows. The condition number is that of X squared: with ridge = 0 and columns that nearly depend on
/// each other half of the digits are lost; take a decomposition of X then. One object a thread.
class normal_equations {
 public:
  /// Throws invalid_argument unless p >= 1 and q >= 1.
  normal_equations(index_t p, index_t q) {
    expects(p >= 1, "normal_equations", "p", p);
    expects(q >= 1, "normal_equations", "q", q);
    xx_.setZero(p, p);
    xy_.setZero(p, q);
  }
  index_t n() const { return n_; }
  /// x is b x p, y is b x q, of float or double. O(b p (p + q)). Throws invalid_argument, nothing changed, if a size
  /// differs or a row is not finite (its index).
  template <class X, class Y>
  void add(const Eigen::MatrixBase<X>& x, const Eigen::MatrixBase<Y>& y) {
    expects(x.cols() == xx_.rows(), "normal_equations::add", "x.cols", x.cols());
    expects(y.cols() == xy_.cols(), "normal_equations::add", "y.cols", y.cols());
    expects(x.rows() == y.rows(), "normal_equations::add", "y.rows", y.rows());
    const Eigen::MatrixXd a = x.template cast<double>(), b = y.template cast<double>();
    for (index_t i = 0; i < a.rows(); ++i) {
      expects(std::isfinite(a.row(i).squaredNorm()), "normal_equations::add", "x", a.row(i).squaredNorm(), i);
      expects(std::isfinite(b.row(i).squaredNorm()), "normal_equations::add", "y", b.row(i).squaredNorm(), i);
    }
    xx_.selfadjointView<Eigen::Lower>().rankUpdate(a.transpose());
    xy_.noalias() += a.transpose() * b;
    n_ += a.rows();
  }
  /// Forgets the observations, keeps the memory.
  void clear() {
    xx_.setZero();
    xy_.setZero();
    n_ = 0;
  }
  /// w = W, by a Cholesky decomposition, O(p^3 + p^2 q). False, w unchanged, if the matrix is not positive definite to
  /// rounding, which needs ridge = 0 or a ridge lost in the rounding of X'X. Throws invalid_argument unless ridge is
  /// finite and at least 0.
  [[nodiscard]] bool solve(Eigen::MatrixXd& w, double ridge) const {
    expects(ridge >= 0 && std::isfinite(ridge), "normal_equations::solve", "ridge", ridge);
    Eigen::MatrixXd a = xx_;
    a.diagonal().array() += ridge;
    const Eigen::ArrayXd diagonal = a.diagonal();
    const Eigen::LLT<Eigen::Ref<Eigen::MatrixXd>, Eigen::Lower> factor(a);  // in place: a becomes the factor
    if (factor.info() != Eigen::Success) return false;
    const double rounding = static_cast<double>(a.rows()) * 0x1p-52;
    if (!(a.diagonal().array().square() > rounding * diagonal).all()) return false;  // a pivot that is rounding only
    w = factor.solve(xy_);
    return w.allFinite();
  }

 private:
  Eigen::MatrixXd xx_, xy_;
  index_t n_ = 0;
};

}  // namespace sluice
