#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/numeric.hpp>
#include <sluice/draw/inverse_cdf.hpp>
#include <sluice/models/denoiser.hpp>
#include <sluice/models/draws.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <span>
#include <type_traits>
#include <utility>

/// Unstable: for tests, benchmarks and examples; no compatibility is promised.
namespace sluice::models {

/// A mixture of isotropic Gaussians, seen through Gaussian noise: everything a diffusion or flow sampler asks of a
/// model, in closed form. The state is y = x_t / alpha_t, the data plus noise of standard deviation kappa = sigma_t /
/// alpha_t. With v_j = s_j^2 + kappa^2:
///     log p(y) = log sum_j w_j N(y; m_j, v_j I),        r_j = the share of component j in that sum,
///     D(y) = E[data | y] = sum_j r_j (m_j + (s_j^2 / v_j)(y - m_j)),
///     score = grad log p = -sum_j r_j (y - m_j) / v_j,   noise = E[noise | y] = (y - D) / kappa = -kappa score,
///     Cov[data | y] = kappa^2 dD/dy.
/// Every function of a state costs K d multiply-adds (the covariance K d^2) and allocates K + d doubles; the denoiser
/// for samplers, operator(), allocates nothing. Throws invalid_argument if the state is not of dimension d, or kappa is
/// negative or not finite. At kappa = 0, D is y. Immutable after construction: may be shared by threads.
class gaussian_mixture {
 public:
  /// Component j has weight weights(j), mean means.col(j) (d x K) and standard deviation sd(j); weights are
  /// normalised. Throws invalid_argument unless sizes agree, weights are finite, not negative and not all 0, means are
  /// finite and each sd is positive and finite.
  gaussian_mixture(Eigen::VectorXd weights, Eigen::MatrixXd means, Eigen::VectorXd sd)
      : weight_(std::move(weights)), mean_(std::move(means)), sd_(std::move(sd)) {
    expects(weight_.size() >= 1 && weight_.size() == mean_.cols(), "gaussian_mixture", "weights.size", weight_.size());
    expects(sd_.size() == mean_.cols(), "gaussian_mixture", "sd.size", sd_.size());
    expects(mean_.rows() >= 1, "gaussian_mixture", "means.rows", mean_.rows());
    for (Eigen::Index j = 0; j < sd_.size(); ++j) {
      expects(weight_(j) >= 0 && std::isfinite(weight_(j)), "gaussian_mixture", "weights", weight_(j), j);
      expects(sd_(j) > 0 && std::isfinite(sd_(j)), "gaussian_mixture", "sd", sd_(j), j);
      expects(mean_.col(j).allFinite(), "gaussian_mixture", "means", mean_(0, j), j);
    }
    const double total = weight_.sum();
    expects(total > 0 && std::isfinite(total), "gaussian_mixture", "weights.sum", total);
    weight_ /= total;
    log_weight_ = weight_.array().log();
    coordinates_ = mean_.transpose();
  }

  index_t dimension() const { return mean_.rows(); }
  index_t n_components() const { return mean_.cols(); }
  const Eigen::VectorXd& weights() const { return weight_; }
  const Eigen::MatrixXd& means() const { return mean_; }
  const Eigen::VectorXd& sd() const { return sd_; }

  using state = Eigen::Ref<const Eigen::VectorXd>;

  /// log p(y) in nats.
  double log_density(const state& y, double kappa) const { return log_terms(y, kappa, "log_density").second; }
  /// r, of size K.
  Eigen::VectorXd responsibilities(const state& y, double kappa) const { return shares(y, kappa, "responsibilities"); }
  /// D.
  Eigen::VectorXd denoised(const state& y, double kappa) const {
    const Eigen::VectorXd r = shares(y, kappa, "denoised");
    Eigen::VectorXd d = Eigen::VectorXd::Zero(dimension());
    for (Eigen::Index j = 0; j < r.size(); ++j) d += r(j) * component_mean(y, kappa, j);
    return d;
  }
  /// grad log p with respect to y; divide by alpha for the gradient with respect to x_t.
  Eigen::VectorXd score(const state& y, double kappa) const {
    const Eigen::VectorXd r = shares(y, kappa, "score");
    Eigen::VectorXd s = Eigen::VectorXd::Zero(dimension());
    for (Eigen::Index j = 0; j < r.size(); ++j) s -= r(j) / variance(j, kappa) * (y - mean_.col(j));
    return s;
  }
  /// E[noise | y], noise of standard deviation 1.
  Eigen::VectorXd noise(const state& y, double kappa) const { return -kappa * score(y, kappa); }
  /// The rectified-flow velocity noise - data at z = (1 - t) data + t noise, t in [0, 1).
  Eigen::VectorXd flow_velocity(const state& z, double t) const {
    expects(t >= 0 && t < 1, "flow_velocity", "t", t);
    const Eigen::VectorXd y = z / (1 - t);
    return noise(y, t / (1 - t)) - denoised(y, t / (1 - t));
  }
  /// dD/dy = (sum_j r_j s_j^2 / v_j) I + sum_j r_j D_j (a_j - a)^T with a_j = -(y - m_j) / v_j and a the score.
  Eigen::MatrixXd jacobian(const state& y, double kappa) const {
    const Eigen::VectorXd r = shares(y, kappa, "jacobian"), a = score(y, kappa);
    Eigen::MatrixXd jac = Eigen::MatrixXd::Zero(dimension(), dimension());
    for (Eigen::Index j = 0; j < r.size(); ++j) {
      const double v = variance(j, kappa);
      jac.diagonal().array() += r(j) * sd_(j) * sd_(j) / v;
      jac += r(j) * component_mean(y, kappa, j) * (-(y - mean_.col(j)) / v - a).transpose();
    }
    return jac;
  }
  /// The trace of dD/dy in O(K d): what the likelihood of the probability-flow equation integrates.
  double divergence(const state& y, double kappa) const {
    const Eigen::VectorXd r = shares(y, kappa, "divergence"), a = score(y, kappa);
    double sum = 0;
    for (Eigen::Index j = 0; j < r.size(); ++j) {
      const double v = variance(j, kappa);
      sum += r(j) * (static_cast<double>(dimension()) * sd_(j) * sd_(j) / v +
                     component_mean(y, kappa, j).dot(-(y - mean_.col(j)) / v - a));
    }
    return sum;
  }
  /// Cov[data | y], d x d.
  Eigen::MatrixXd posterior_covariance(const state& y, double kappa) const {
    return kappa * kappa * jacobian(y, kappa);
  }

  /// The denoiser as samplers call it (denoiser.hpp): out = E[data | x], x = alpha data + sigma noise. K (2 d + 1)
  /// multiply-adds and K exponentials a column; allocates nothing. Unlike the functions above it takes alpha = 0, where
  /// D is the mean of the data. With more than 256 components the sums over each 256 are added in the scalar of out.
  template <class X, any_level Level, class Out>
  void operator()(const X& x, const Level& level, Out&& out) const {
    denoise(x, detail::checked_call("gaussian_mixture", x, level, out, dimension()), out);
  }

  /// One sample of the data, of dimension d, and the component it came from.
  std::pair<Eigen::VectorXd, index_t> sample(cursor& random) const {
    const index_t j =
        categorical(random, std::span<const double>(weight_.data(), static_cast<std::size_t>(weight_.size())));
    Eigen::VectorXd x(dimension());
    normals(std::span<double>(x.data(), static_cast<std::size_t>(x.size())), random);
    x = mean_.col(j) + sd_(j) * x;
    return {std::move(x), j};
  }

  /// The mixture of these components only, with their weights renormalised: the conditional model of a class. An index
  /// may repeat. Throws invalid_argument if an index is out of range, or the weights are all 0 or there are none.
  gaussian_mixture subset(std::span<const index_t> components) const {
    const auto n = static_cast<Eigen::Index>(components.size());
    Eigen::VectorXd weights(n), sd(n);
    Eigen::MatrixXd means(dimension(), n);
    for (Eigen::Index i = 0; i < n; ++i) {
      const index_t j = components[static_cast<std::size_t>(i)];
      expects(j >= 0 && j < n_components(), "subset", "components", j, i);
      weights(i) = weight_(j);
      sd(i) = sd_(j);
      means.col(i) = mean_.col(j);
    }
    return {std::move(weights), std::move(means), std::move(sd)};
  }

  /// The same mixture with every variance increased by b^2: a model that smooths too much.
  gaussian_mixture inflated(double b) const { return {weight_, mean_, (sd_.array().square() + b * b).sqrt().matrix()}; }

 private:
  static constexpr index_t block_size = 256;
  using column = Eigen::Array<double, Eigen::Dynamic, 1>;

  /// What a level makes of up to block_size components, on the stack, so that a shared object needs no storage: with
  /// v = alpha^2 s^2 + sigma^2, a term is log_scale - half_precision |x - alpha m|^2, and E[data | x, component] is
  /// keep m + gain x.
  struct component_block {
    index_t first = 0, count = 0;
    alignas(64) double log_scale[block_size], half_precision[block_size], gain[block_size], keep[block_size],
        term[block_size];  // aligned: the order of Eigen's sums depends on the address
    void prepare(const gaussian_mixture& m, index_t from, index_t n, const scaled_level& l) {
      first = from;
      count = n;
      const auto s2 = m.sd_.segment(from, n).array().square();
      auto v = all(term);
      v = l.alpha * l.alpha * s2 + l.sigma * l.sigma;
      all(half_precision) = 0.5 / v;
      all(gain) = l.alpha * s2 / v;
      all(keep) = l.sigma * l.sigma / v;
      all(log_scale) = m.log_weight_.segment(from, n) - (0.5 * static_cast<double>(m.dimension())) * v.log();
    }
    Eigen::Map<column> all(double* p) const { return {p, count}; }
  };

  friend class mixture_1d;
  /// Every dimension() elements of a column of x are a sample.
  template <class X, class Out>
  void denoise(const X& x, const scaled_level& l, Out& out) const {
    component_block block;
    if (n_components() <= block_size) block.prepare(*this, 0, n_components(), l);
    for (Eigen::Index c = 0; c < x.cols(); ++c)
      for (Eigen::Index r = 0; r < x.rows(); r += dimension()) denoise(x, r, c, l, block, out);
  }
  template <class X, class Out>
  void denoise(const X& x, Eigen::Index r, Eigen::Index c, const scaled_level& l, component_block& block,
               Out& out) const {
    using scalar = typename std::remove_cvref_t<Out>::Scalar;
    double top = -std::numeric_limits<double>::infinity(), total = 0, gain = 0;
    for (index_t first = 0; first < n_components(); first += block_size) {
      const index_t n = std::min(block_size, n_components() - first);
      if (n_components() > block_size) block.prepare(*this, first, n, l);
      auto term = block.all(block.term);
      term.setZero();
      for (Eigen::Index i = 0; i < dimension(); ++i)
        term += (static_cast<double>(x.coeff(r + i, c)) - l.alpha * coordinates_.col(i).segment(first, n)).square();
      term = block.all(block.log_scale) - block.all(block.half_precision) * term;
      const double before = top;
      top = std::max(top, term.maxCoeff());
      const double rescale = first == 0 ? 0.0 : std::exp(before - top);
      term = (term - top).exp();
      total = rescale * total + term.sum();
      gain = rescale * gain + (term * block.all(block.gain)).sum();
      term *= block.all(block.keep);
      const bool last = first + n == n_components();
      for (Eigen::Index i = 0; i < dimension(); ++i) {
        double d = (coordinates_.col(i).segment(first, n) * term).sum();
        if (first > 0) d += rescale * static_cast<double>(out.coeff(r + i, c));
        if (last) d = (d + gain * static_cast<double>(x.coeff(r + i, c))) / total;
        out.coeffRef(r + i, c) = static_cast<scalar>(d);
      }
    }
  }

  double variance(Eigen::Index j, double kappa) const { return sd_(j) * sd_(j) + kappa * kappa; }
  /// E[data | y, component j].
  Eigen::VectorXd component_mean(const state& y, double kappa, Eigen::Index j) const {
    return mean_.col(j) + (sd_(j) * sd_(j) / variance(j, kappa)) * (y - mean_.col(j));
  }
  /// The logarithms of the terms of the density, and of their sum.
  std::pair<Eigen::VectorXd, double> log_terms(const state& y, double kappa, const char* function) const {
    expects(y.size() == dimension(), function, "y.size", y.size());
    expects(kappa >= 0 && std::isfinite(kappa), function, "kappa", kappa);
    Eigen::VectorXd terms(n_components());
    for (Eigen::Index j = 0; j < terms.size(); ++j) {
      const double v = variance(j, kappa);
      terms(j) = std::log(weight_(j)) - static_cast<double>(dimension()) / 2 * std::log(2 * std::numbers::pi * v) -
                 (y - mean_.col(j)).squaredNorm() / (2 * v);
    }
    const double sum = log_sum_exp(std::span<const double>(terms.data(), static_cast<std::size_t>(terms.size())));
    return {std::move(terms), sum};
  }
  Eigen::VectorXd shares(const state& y, double kappa, const char* function) const {
    auto [terms, sum] = log_terms(y, kappa, function);
    return (terms.array() - sum).exp().matrix();
  }

  Eigen::VectorXd weight_;
  Eigen::MatrixXd mean_;
  Eigen::VectorXd sd_;
  column log_weight_;
  Eigen::ArrayXXd coordinates_;  // the means, K x d: a coordinate of all components is contiguous
};

/// n equal components at the angles 2 pi j / n of a circle; the class of component j, for guidance, is j mod 4.
inline gaussian_mixture ring(index_t n = 8, double radius = 4, double sd = 0.3) {
  expects(n >= 1, "ring", "n", n);
  Eigen::MatrixXd means(2, n);
  for (Eigen::Index j = 0; j < n; ++j) {
    const double angle = 2 * std::numbers::pi * static_cast<double>(j) / static_cast<double>(n);
    means.col(j) << radius * std::cos(angle), radius * std::sin(angle);
  }
  return {Eigen::VectorXd::Ones(n), std::move(means), Eigen::VectorXd::Constant(n, sd)};
}
/// The two-dimensional standard example: eight components on radius 4 with standard deviation 0.3.
inline gaussian_mixture ring8() { return ring(); }

/// A mixture in d dimensions from stream (seed, 0x101): means 2 normals (component by component), then standard
/// deviations 0.3 + 0.4 u, then weights proportional to exponentials. Tests use (16, 10), benchmarks (64, 10).
inline gaussian_mixture random_mixture(index_t d, index_t n_components, std::uint64_t seed) {
  expects(d >= 1, "random_mixture", "d", d);
  expects(n_components >= 1, "random_mixture", "n_components", n_components);
  cursor random(stream(seed, stream_id::gaussian_mixture));
  Eigen::MatrixXd means = 2 * normal_matrix(n_components, d, random).transpose();
  Eigen::VectorXd sd(n_components);
  for (double& s : sd) s = 0.3 + 0.4 * uniform(random);
  Eigen::VectorXd weights = random_law(n_components, random);
  return {std::move(weights), std::move(means), std::move(sd)};
}

}  // namespace sluice::models
