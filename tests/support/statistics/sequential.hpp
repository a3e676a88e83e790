#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "critical.hpp"

/// Tests that look at the data as they come.
namespace support {

/// Wald's sequential test of a probability, p0 against p1: error rates alpha (p1 said under p0) and beta at most, up to
/// the overshoot in the approximate limits.
class sprt_bernoulli {
 public:
  enum class verdict { undecided, p0, p1 };
  sprt_bernoulli(double p0, double p1, double alpha = default_alpha, double beta = 1e-3)
      : p0_(p0), p1_(p1), alpha_(alpha), beta_(beta) {
    sluice::expects(p0 > 0 && p0 < 1, "sprt_bernoulli", "p0", p0);
    sluice::expects(p1 > 0 && p1 < 1 && p1 != p0, "sprt_bernoulli", "p1", p1);
    expects_level(alpha, "sprt_bernoulli");
    sluice::expects(beta > 0 && alpha + beta < 1, "sprt_bernoulli", "beta", beta);
  }
  double upper() const { return std::log((1 - beta_) / alpha_); }
  double lower() const { return std::log(beta_ / (1 - alpha_)); }
  double step_success() const { return std::log(p1_ / p0_); }
  double step_failure() const { return std::log((1 - p1_) / (1 - p0_)); }
  /// Wald's approximate mean number of draws under p0 and under p1.
  double mean_draws_p0() const { return ((1 - alpha_) * lower() + alpha_ * upper()) / mean_step(p0_); }
  double mean_draws_p1() const { return (beta_ * lower() + (1 - beta_) * upper()) / mean_step(p1_); }
  /// What a one-sided z-test with the same errors needs, not rounded.
  double fixed_n() const {
    const double z = normal_critical_one_sided(alpha_) * std::sqrt(p0_ * (1 - p0_)) +
                     normal_critical_one_sided(beta_) * std::sqrt(p1_ * (1 - p1_));
    return z * z / ((p1_ - p0_) * (p1_ - p0_));
  }

  /// One draw. A verdict stays.
  verdict add(bool success) {
    if (verdict_ != verdict::undecided) return verdict_;
    ++draws_;
    sum_ += success ? step_success() : step_failure();
    if (sum_ >= upper()) verdict_ = verdict::p1;
    if (sum_ <= lower()) verdict_ = verdict::p0;
    return verdict_;
  }
  verdict result() const { return verdict_; }
  std::int64_t draws() const { return draws_; }

 private:
  double mean_step(double p) const { return p * step_success() + (1 - p) * step_failure(); }
  double p0_, p1_, alpha_, beta_, sum_ = 0;
  std::int64_t draws_ = 0;
  verdict verdict_ = verdict::undecided;
};

/// Any-time valid test that the mean of values in [0, 1] is mean0: two gamblers bet, one on above and one on below,
/// with the stake |m - mean0|/(s^2 + (m - mean0)^2), at most 1/2, from mean m and variance s^2 of the draws before.
/// Their mean wealth is a non-negative martingale under the null, so it ever reaches 1/alpha with probability alpha at
/// most (Ville).
class wealth_test {
 public:
  explicit wealth_test(double mean0) : mean0_(mean0) {
    sluice::expects(mean0 > 0 && mean0 < 1, "wealth_test", "mean0", mean0);
  }
  void add(double x) {
    sluice::expects(x >= 0 && x <= 1, "wealth_test", "x", x);
    const double d = n_ > 0 ? mean_ - mean0_ : 0, s2 = n_ > 1 ? squares_ / n_ : 0.25;
    const double stake = std::clamp(d / (s2 + d * d), -0.5, 0.5);
    log_up_ += std::log1p(std::abs(stake) * (x - mean0_));
    log_down_ += std::log1p(-std::abs(stake) * (x - mean0_));
    highest_ = std::max(highest_, log_wealth());
    ++n_;
    const double before = x - mean_;
    mean_ += before / n_;
    squares_ += before * (x - mean_);
  }
  double log_wealth() const {
    const double top = std::max(log_up_, log_down_);
    return top + std::log(0.5 * (std::exp(log_up_ - top) + std::exp(log_down_ - top)));
  }
  /// True once the wealth has reached 1/alpha, whatever it is now.
  bool rejects(double alpha = default_alpha) const {
    expects_level(alpha, "wealth_test::rejects");
    return highest_ >= -std::log(alpha);
  }
  double draws() const { return n_; }

 private:
  double mean0_, n_ = 0, mean_ = 0, squares_ = 0, log_up_ = 0, log_down_ = 0, highest_ = 0;
};

/// The gate in two stages: a small first sample at alpha_small = 1e-3; only if it is exceeded, a second, fresh sample,
/// 20 times larger, decides at 1e-6 alone. `log_p(stage)` draws and tests, from a stream of its own for each stage.
template <class LogP>
bool two_stage_gate(LogP&& log_p, double alpha_small = 1e-3, double alpha = default_alpha) {
  expects_level(alpha_small, "two_stage_gate");
  expects_level(alpha, "two_stage_gate");
  return log_p(1) >= std::log(alpha_small) || log_p(2) >= std::log(alpha);
}

}  // namespace support
