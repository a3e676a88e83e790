#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/generate/model.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <limits>
#include <numbers>
#include <span>
#include <vector>

/// Noise schedules: maps from a time t to (alpha, sigma) and back from lambda = log(alpha / sigma). Plain values; each
/// function is pure. `at` throws invalid_argument for a time outside the schedule's domain, `at_lambda` for a lambda
/// that no time of the domain has.
namespace sluice {

/// How fast a schedule moves: x' = log_alpha x + alpha kappa noise gives the probability-flow ODE in t.
struct schedule_slope {
  double log_alpha = 0;  ///< d log(alpha) / dt
  double kappa = 0;      ///< d kappa / dt
};

template <class S>
concept schedule = std::copyable<S> && requires(const S& s, double t) {
  { s.at(t) } -> std::same_as<noise_level>;
  { s.at_lambda(t) } -> std::same_as<noise_level>;
  { s.slope(t) } -> std::same_as<schedule_slope>;
};

/// The level whose kappa is given.
template <schedule S>
noise_level level_at_kappa(const S& s, double kappa) {
  expects(kappa > 0 && std::isfinite(kappa), "level_at_kappa", "kappa", kappa);
  return s.at_lambda(-std::log(kappa));
}

namespace detail {
/// alpha and sigma of a variance-preserving level (alpha^2 + sigma^2 = 1) from log(alpha) <= 0.
inline noise_level variance_preserving(double t, double log_alpha) {
  return {t, std::exp(log_alpha), std::sqrt(-std::expm1(2 * log_alpha))};  // 1 - exp(...) loses digits at small t
}
/// log(alpha) of a variance-preserving level from lambda: -log(1 + exp(-2 lambda)) / 2 without overflow.
inline double log_alpha_of_lambda(double lambda) {
  return lambda >= 0 ? -0.5 * std::log1p(std::exp(-2 * lambda)) : lambda - 0.5 * std::log1p(std::exp(2 * lambda));
}
}  // namespace detail

/// Variance preserving with linear beta(t) = beta0 + t (beta1 - beta0), t in [0, 1]:
///     log alpha = -t^2 (beta1 - beta0)/4 - t beta0/2,    sigma = sqrt(1 - alpha^2).
/// Source: Song et al., ICLR 2021 (arXiv:2011.13456), Appendix B. The inverse is written without cancellation.
class vp_linear {
 public:
  /// Throws invalid_argument unless beta0 > 0 and beta1 >= beta0 are finite.
  explicit vp_linear(double beta0 = 0.1, double beta1 = 20) : beta0_(beta0), beta1_(beta1) {
    expects(beta0 > 0 && std::isfinite(beta0), "vp_linear", "beta0", beta0);
    expects(beta1 >= beta0 && std::isfinite(beta1), "vp_linear", "beta1", beta1);
  }
  noise_level at(double t) const {
    expects(t >= 0 && t <= 1, "vp_linear", "t", t);
    return detail::variance_preserving(t, log_alpha(t));
  }
  noise_level at_lambda(double lambda) const {
    const double log_alpha = detail::log_alpha_of_lambda(lambda);
    const double c = -4 * log_alpha, d = beta1_ - beta0_;
    const double t = c / (beta0_ + std::sqrt(beta0_ * beta0_ + d * c));  // the textbook root cancels for small t
    expects(t >= 0 && t <= 1 + 1e-12, "vp_linear", "lambda", lambda);
    return detail::variance_preserving(std::min(t, 1.0), log_alpha);
  }
  schedule_slope slope(double t) const {
    const double beta = beta0_ + t * (beta1_ - beta0_);
    const noise_level l = at(t);
    return {-beta / 2, beta / (2 * l.alpha * l.sigma)};
  }

 private:
  double log_alpha(double t) const { return -t * t * (beta1_ - beta0_) / 4 - t * beta0_ / 2; }
  double beta0_, beta1_;
};

/// Variance preserving with alpha a cosine, t in [0, t_max]:
///     alpha = cos(pi/2 (t + s)/(1 + s)) / cos(pi/2 s/(1 + s)).
/// alpha would be 0 at t = 1; t_max = 0.9961 (lambda about -5.1) is where public code stops.
/// Source: Nichol and Dhariwal, ICML 2021 (arXiv:2102.09672).
class vp_cosine {
 public:
  /// Throws invalid_argument unless s > 0 is finite and t_max is in (0, 1).
  explicit vp_cosine(double s = 0.008, double t_max = 0.9961) : s_(s), t_max_(t_max) {
    expects(s > 0 && std::isfinite(s), "vp_cosine", "s", s);
    expects(t_max > 0 && t_max < 1, "vp_cosine", "t_max", t_max);
  }
  double t_max() const { return t_max_; }
  noise_level at(double t) const {
    expects(t >= 0 && t <= t_max_, "vp_cosine", "t", t);
    // alpha^2 - 1 = (cos^2 a - cos^2 b)/cos^2 b = -sin(a - b) sin(a + b)/cos^2 b, a = b at t = 0: sigma without
    // cancellation.
    const double b = angle(0), a = angle(t);
    const double alpha = std::cos(a) / std::cos(b);
    return {t, alpha, std::sqrt(std::sin(half_pi() * t / (1 + s_)) * std::sin(a + b)) / std::cos(b)};
  }
  noise_level at_lambda(double lambda) const {
    const double log_alpha = detail::log_alpha_of_lambda(lambda), b = angle(0);
    // cos a = alpha cos b gives sin(a - b) sin(a + b) = sigma^2 cos^2 b; acos alone loses digits for small t.
    const double cos_a = std::exp(log_alpha) * std::cos(b);
    const double sin_a = std::sqrt(std::sin(b) * std::sin(b) - std::expm1(2 * log_alpha) * std::cos(b) * std::cos(b));
    const double sine =
        -std::expm1(2 * log_alpha) * std::cos(b) * std::cos(b) / (sin_a * std::cos(b) + cos_a * std::sin(b));
    const double from_cosine = std::acos(std::clamp(cos_a, -1.0, 1.0)) - b;
    const double turn = from_cosine > 1 ? from_cosine : std::asin(std::min(sine, 1.0));  // each where it is steep
    const double t = turn * (1 + s_) / half_pi();
    expects(t >= 0 && t <= t_max_ * (1 + 1e-12), "vp_cosine", "lambda", lambda);
    return detail::variance_preserving(std::min(t, t_max_), log_alpha);
  }
  schedule_slope slope(double t) const {
    const noise_level l = at(t);
    const double log_alpha = -std::tan(angle(t)) * half_pi() / (1 + s_);
    return {log_alpha,
            -log_alpha / (l.alpha * l.sigma)};  // kappa' = -(log alpha)' / (alpha sigma) where variance is preserved
  }

 private:
  static double half_pi() { return std::numbers::pi / 2; }
  double angle(double t) const { return half_pi() * (t + s_) / (1 + s_); }
  double s_, t_max_;
};

/// The discrete schedule of a network trained on N steps: index i has alpha_i^2 = prod_{k <= i} (1 - beta_k). Time is
/// t_i = (i + 1)/N, and log alpha is linear in t between the indices, so t is in [1/N, 1]; index_of(t) is what the
/// network is told.
/// Sources: Ho et al., NeurIPS 2020 (arXiv:2006.11239); the continuous view is that of Lu et al. (arXiv:2206.00927).
class vp_discrete {
 public:
  /// Throws invalid_argument unless there are at least two betas, all in (0, 1).
  explicit vp_discrete(std::span<const double> beta) {
    expects(beta.size() >= 2, "vp_discrete", "beta.size", beta.size());
    double sum = 0;
    log_alpha_.reserve(beta.size());
    for (std::size_t i = 0; i < beta.size(); ++i) {
      expects(beta[i] > 0 && beta[i] < 1, "vp_discrete", "beta", beta[i], static_cast<index_t>(i));
      log_alpha_.push_back(sum += 0.5 * std::log1p(-beta[i]));
    }
  }
  /// beta linear from first to last.
  static vp_discrete linear(index_t n = 1000, double first = 1e-4, double last = 0.02) {
    return from_ramp(n, first, last, [](double b) { return b; });
  }
  /// sqrt(beta) linear: "scaled linear", of latent diffusion models.
  static vp_discrete scaled_linear(index_t n = 1000, double first = 0.00085, double last = 0.012) {
    return from_ramp(n, std::sqrt(first), std::sqrt(last), [](double b) { return b * b; });
  }
  index_t n_steps() const { return std::ssize(log_alpha_); }
  double time_of(index_t i) const { return static_cast<double>(i + 1) / static_cast<double>(n_steps()); }
  /// The (real) index at time t: N t - 1.
  double index_of(double t) const { return t * static_cast<double>(n_steps()) - 1; }
  /// Throws invalid_argument unless 0 <= i < N.
  noise_level at_index(index_t i) const {
    expects(i >= 0 && i < n_steps(), "vp_discrete", "index", i);
    return detail::variance_preserving(time_of(i), log_alpha_[static_cast<std::size_t>(i)]);
  }
  noise_level at(double t) const {
    const double position = index_of(t);
    expects(position >= -1e-9 && position <= static_cast<double>(n_steps() - 1) + 1e-9, "vp_discrete", "t", t);
    const auto [i, part] = cell(position);
    return detail::variance_preserving(t, log_alpha_[i] + part * (log_alpha_[i + 1] - log_alpha_[i]));
  }
  noise_level at_lambda(double lambda) const {
    const double wanted = detail::log_alpha_of_lambda(lambda);
    const double slack = 1e-12 * (1 + std::abs(wanted));
    expects(wanted <= log_alpha_.front() + slack && wanted >= log_alpha_.back() - slack, "vp_discrete", "lambda",
            lambda);
    // log alpha falls with the index: the first one below the wanted value ends the cell.
    const auto below = std::upper_bound(log_alpha_.begin() + 1, log_alpha_.end() - 1, wanted, std::greater<>{});
    const auto i = static_cast<std::size_t>(below - log_alpha_.begin()) - 1;
    const double part = std::clamp((wanted - log_alpha_[i]) / (log_alpha_[i + 1] - log_alpha_[i]), 0.0, 1.0);
    return detail::variance_preserving((static_cast<double>(i + 1) + part) / static_cast<double>(n_steps()), wanted);
  }
  schedule_slope slope(double t) const {
    const noise_level l = at(t);
    const auto [i, part] = cell(index_of(t));
    static_cast<void>(part);
    const double log_alpha = (log_alpha_[i + 1] - log_alpha_[i]) * static_cast<double>(n_steps());
    return {log_alpha, -log_alpha / (l.alpha * l.sigma)};
  }

 private:
  struct place {
    std::size_t index;
    double part;
  };
  template <class F>
  static vp_discrete from_ramp(index_t n, double first, double last, F&& f) {
    expects(n >= 2, "vp_discrete", "n", n);
    std::vector<double> beta(static_cast<std::size_t>(n));
    for (index_t i = 0; i < n; ++i)
      beta[static_cast<std::size_t>(i)] =
          f(first + (last - first) * static_cast<double>(i) / static_cast<double>(n - 1));
    return vp_discrete(beta);
  }
  place cell(double position) const {
    const double i = std::clamp(std::floor(position), 0.0, static_cast<double>(n_steps() - 2));
    return {static_cast<std::size_t>(i), std::clamp(position - i, 0.0, 1.0)};
  }
  std::vector<double> log_alpha_;  // falls
};

/// EDM: alpha = 1, sigma = t = kappa; t in [0, inf). Source: Karras et al., NeurIPS 2022 (arXiv:2206.00364).
struct edm {
  noise_level at(double t) const {
    expects(t >= 0 && std::isfinite(t), "edm", "t", t);
    return {t, 1, t};
  }
  noise_level at_lambda(double lambda) const {
    const double kappa = std::exp(-lambda);
    expects(std::isfinite(kappa), "edm", "lambda", lambda);
    return {kappa, 1, kappa};
  }
  schedule_slope slope(double) const { return {0, 1}; }
};

/// Flow matching with the linear interpolant (rectified flow): alpha = 1 - t, sigma = t, kappa = t/(1 - t), t in [0,
/// 1]. At t = 1 the state is noise alone. Sources: Lipman et al., ICLR 2023 (arXiv:2210.02747); Liu et al., ICLR 2023
/// (arXiv:2209.03003).
struct rectified_flow {
  noise_level at(double t) const {
    expects(t >= 0 && t <= 1, "rectified_flow", "t", t);
    return {t, 1 - t, t};
  }
  noise_level at_lambda(double lambda) const {
    expects(!std::isnan(lambda), "rectified_flow", "lambda", lambda);
    const double t = 1 / (1 + std::exp(lambda)), alpha = 1 / (1 + std::exp(-lambda));  // each without cancellation
    return {t, alpha, t};
  }
  schedule_slope slope(double t) const {
    const noise_level l = at(t);
    return {-1 / l.alpha, 1 / (l.alpha * l.alpha)};
  }
};

/// Checks that these levels are the schedule's at their times, alpha and sigma to 1e-6 of themselves: solvers that ask
/// the schedule for more than the levels tell need one that belongs to them. Throws invalid_argument.
template <schedule S>
void expect_levels_of(const S& s, std::span<const noise_level> levels, const char* function) {
  for (index_t i = 0; i < std::ssize(levels); ++i) {
    const noise_level &l = levels[static_cast<std::size_t>(i)], own = s.at(l.t);
    expects(std::abs(own.alpha - l.alpha) <= 1e-6 * own.alpha && std::abs(own.sigma - l.sigma) <= 1e-6 * own.sigma,
            function, "levels.t", l.t, i);
  }
}

/// The time shift S_s(t) = s t / (1 + (s - 1) t) of flow models, which multiplies kappa by s: S_a(S_b(t)) = S_ab(t),
/// and 0 and 1 stay. An image of n times the tokens needs s = sqrt(n) for the same visible noise. Throws
/// invalid_argument unless s > 0 is finite and t is in [0, 1]. Source: Esser et al., ICML 2024 (arXiv:2403.03206),
/// section 5.3.2.
inline double time_shift(double t, double s) {
  expects(s > 0 && std::isfinite(s), "time_shift", "s", s);
  expects(t >= 0 && t <= 1, "time_shift", "t", t);
  return s * t / ((1 - t) + s * t);  // exactly 1 at t = 1, which 1 + (s - 1) t is not
}

}  // namespace sluice
