#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/draw/inverse_cdf.hpp>
#include <sluice/models/denoiser.hpp>
#include <sluice/models/draws.hpp>

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

/// A Gaussian mixture whose components have a variance for every coordinate, seen through noise. With
/// v_ij = alpha^2 s2_ij + sigma^2 for coordinate i of component j:
///     r_j = softmax_j(log w_j - sum_i [log v_ij + (x_i - alpha m_ij)^2 / v_ij] / 2),
///     D_i(x) = sum_j r_j [(sigma^2 / v_ij) m_ij + (alpha s2_ij / v_ij) x_i].
/// A variance may be 0: the coordinate is known to be m_ij in that component; then sigma must not be 0.
/// 3 K d multiply-adds a column (2 K d if all components share their variances), and K d divisions and logarithms when
/// the level changes. Allocates in the constructor only. One object a thread: the last level is kept.
class diagonal_mixture {
 public:
  /// Component j has weight weights(j), normalised, mean means.col(j) and variances variances.col(j); a single column
  /// of variances serves all. Throws invalid_argument unless sizes agree, weights are finite, not negative and not all
  /// 0, means are finite, and variances finite and not negative.
  diagonal_mixture(Eigen::VectorXd weights, Eigen::MatrixXd means, Eigen::MatrixXd variances)
      : weight_(std::move(weights)), mean_(std::move(means)), variance_(std::move(variances)) {
    constexpr const char* f = "diagonal_mixture";
    expects(weight_.size() >= 1 && weight_.size() == mean_.cols(), f, "weights.size", weight_.size());
    expects(mean_.rows() >= 1, f, "means.rows", mean_.rows());
    expects(variance_.rows() == mean_.rows(), f, "variances.rows", variance_.rows());
    expects(variance_.cols() == 1 || variance_.cols() == mean_.cols(), f, "variances.cols", variance_.cols());
    for (Eigen::Index j = 0; j < mean_.cols(); ++j) {
      expects(weight_(j) >= 0 && std::isfinite(weight_(j)), f, "weights", weight_(j), j);
      expects(mean_.col(j).allFinite(), f, "means", mean_(0, j), j);
    }
    for (Eigen::Index j = 0; j < variance_.cols(); ++j)
      expects(variance_.col(j).allFinite() && variance_.col(j).minCoeff() >= 0, f, "variances",
              variance_.col(j).minCoeff(), j);
    const double total = weight_.sum();
    expects(total > 0 && std::isfinite(total), f, "weights.sum", total);
    weight_ /= total;
    log_weight_ = weight_.array().log();
    smallest_variance_ = variance_.minCoeff();
    half_precision_.resize(variance_.rows(), variance_.cols());
    gain_ = keep_ = half_precision_;
    x_.resize(dimension());
    d_ = g_ = x_;
    term_ = log_scale_ = log_weight_;
  }

  index_t dimension() const { return mean_.rows(); }
  index_t n_components() const { return mean_.cols(); }
  const Eigen::VectorXd& weights() const { return weight_; }
  const Eigen::MatrixXd& means() const { return mean_; }
  /// d x K, or d x 1 if all components share them.
  const Eigen::MatrixXd& variances() const { return variance_; }

  /// out = E[data | x].
  template <class X, any_level Level, class Out>
  void operator()(const X& x, const Level& level, Out&& out) {
    using scalar = typename std::remove_cvref_t<Out>::Scalar;
    prepare(detail::checked_call("diagonal_mixture", x, level, out, dimension()), "diagonal_mixture");
    for (Eigen::Index c = 0; c < x.cols(); ++c) {
      read(x, c);
      set_terms();
      term_ = (term_ - term_.maxCoeff()).exp();
      term_ *= 1 / term_.sum();
      d_.setZero();
      if (variance_.cols() == 1) {
        for (Eigen::Index j = 0; j < mean_.cols(); ++j) d_ += term_(j) * mean_.col(j).array();
        d_ = keep_.col(0) * d_ + gain_.col(0) * x_;
      } else {
        g_.setZero();
        for (Eigen::Index j = 0; j < mean_.cols(); ++j) {
          d_ += term_(j) * (keep_.col(j) * mean_.col(j).array());
          g_ += term_(j) * gain_.col(j);
        }
        d_ += g_ * x_;
      }
      for (Eigen::Index i = 0; i < x.rows(); ++i) out.coeffRef(i, c) = static_cast<scalar>(d_.coeff(i));
    }
  }
  /// r, of size K, for one state.
  template <class X, any_level Level>
  Eigen::VectorXd responsibilities(const X& x, const Level& level) {
    evaluate(x, level, "responsibilities");
    const Eigen::ArrayXd e = (term_ - term_.maxCoeff()).exp();
    return (e / e.sum()).matrix();
  }
  /// log p(x) in nats, of the noisy law of x.
  template <class X, any_level Level>
  double log_density(const X& x, const Level& level) {
    evaluate(x, level, "log_density");
    const double top = term_.maxCoeff();
    return top + std::log((term_ - top).exp().sum()) -
           0.5 * static_cast<double>(dimension()) * std::log(2 * std::numbers::pi);
  }

  /// One sample of the data, and the component it came from.
  std::pair<Eigen::VectorXd, index_t> sample(cursor& random) const {
    const index_t j =
        categorical(random, std::span<const double>(weight_.data(), static_cast<std::size_t>(weight_.size())));
    Eigen::VectorXd z(dimension());
    normals(std::span<double>(z.data(), static_cast<std::size_t>(z.size())), random);
    z = mean_.col(j) + variance_.col(variance_.cols() == 1 ? 0 : j).cwiseSqrt().cwiseProduct(z);
    return {std::move(z), j};
  }
  /// The mixture of these components only, with their weights renormalised: the conditional model of a class. Throws
  /// invalid_argument if an index is out of range, or the weights are all 0 or there are none.
  diagonal_mixture subset(std::span<const index_t> components) const {
    const auto n = static_cast<Eigen::Index>(components.size());
    const bool shared = variance_.cols() == 1;
    Eigen::VectorXd weights(n);
    Eigen::MatrixXd means(dimension(), n), variances(dimension(), shared ? 1 : n);
    if (shared) variances = variance_;
    for (Eigen::Index i = 0; i < n; ++i) {
      const index_t j = components[static_cast<std::size_t>(i)];
      expects(j >= 0 && j < n_components(), "subset", "components", j, i);
      weights(i) = weight_(j);
      means.col(i) = mean_.col(j);
      if (!shared) variances.col(i) = variance_.col(j);
    }
    return {std::move(weights), std::move(means), std::move(variances)};
  }
  /// The same with b^2 added to every variance: a model that smooths too much.
  diagonal_mixture inflated(double b) const { return {weight_, mean_, (variance_.array() + b * b).matrix()}; }

 private:
  void prepare(const scaled_level& l, const char* function) {
    expects(l.sigma > 0 || (l.alpha > 0 && smallest_variance_ > 0), function, "level.sigma", l.sigma);
    if (l.alpha == level_.alpha && l.sigma == level_.sigma) return;
    level_ = l;
    keep_ = 1 / (l.alpha * l.alpha * variance_.array() + l.sigma * l.sigma);  // 1 / v
    half_precision_ = 0.5 * keep_;
    gain_ = l.alpha * variance_.array() * keep_;
    log_scale_ = log_weight_;
    if (variance_.cols() > 1)
      log_scale_ += 0.5 * keep_.log().colwise().sum().transpose();
    else
      log_scale_ += 0.5 * keep_.log().sum();
    keep_ *= l.sigma * l.sigma;
  }
  template <class X>
  void read(const X& x, Eigen::Index c) {
    for (Eigen::Index i = 0; i < x.rows(); ++i) x_.coeffRef(i) = static_cast<double>(x.coeff(i, c));
  }
  void set_terms() {
    for (Eigen::Index j = 0; j < mean_.cols(); ++j)
      term_(j) = log_scale_(j) - (half_precision_.col(variance_.cols() == 1 ? 0 : j) *
                                  (x_ - level_.alpha * mean_.col(j).array()).square())
                                     .sum();
  }
  template <class X, any_level Level>
  void evaluate(const X& x, const Level& level, const char* function) {
    expects(x.rows() == dimension() && x.cols() == 1, function, "x.size", x.size());
    prepare(detail::checked_level(function, level), function);
    read(x, 0);
    set_terms();
  }

  Eigen::VectorXd weight_;
  Eigen::MatrixXd mean_, variance_;
  Eigen::ArrayXd log_weight_;
  double smallest_variance_ = 0;
  scaled_level level_{-1, -1};  // what the next five are for
  Eigen::ArrayXXd half_precision_, gain_, keep_;
  Eigen::ArrayXd log_scale_, term_, x_, d_, g_;
};

}  // namespace sluice::models
