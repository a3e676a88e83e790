#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

#include "special.hpp"

/// Thresholds at a level alpha, and the sample sizes that give a test its power.
namespace support {

inline constexpr double default_alpha = 1e-6;

inline void expects_level(double alpha, const char* function) {
  sluice::expects(alpha > 0 && alpha < 1, function, "alpha", alpha);
}

/// P(X > result) = alpha, X chi-squared with df degrees of freedom.
inline double chi_square_critical(double df, double alpha = default_alpha) {
  expects_level(alpha, "chi_square_critical");
  sluice::expects(df >= 1 && std::isfinite(df), "chi_square_critical", "df", df);
  const double target = std::log(alpha);
  return root_above([&](double x) { return log_chi_square_sf(x, df) - target; }, 0, df + 10);
}
/// P(Z > result) = alpha.
inline double normal_critical_one_sided(double alpha = default_alpha) {
  expects_level(alpha, "normal_critical_one_sided");
  return -normal_quantile(alpha);
}
/// P(|Z| > result) = alpha: 4.8916 at 1e-6.
inline double normal_critical(double alpha = default_alpha) {
  expects_level(alpha, "normal_critical");
  return -normal_quantile(alpha / 2);
}
/// The lambda that sqrt(n) D exceeds with probability alpha: 2.6934 at 1e-6.
inline double kolmogorov_critical(double alpha = default_alpha) {
  expects_level(alpha, "kolmogorov_critical");
  const double target = std::log(alpha);
  return root_above([&](double x) { return log_kolmogorov_sf(x) - target; }, 0, 1);
}
inline double anderson_darling_critical(double alpha = default_alpha) {
  expects_level(alpha, "anderson_darling_critical");
  const double target = std::log(alpha);
  return root_above([&](double x) { return log_anderson_darling_tail(x) - target; }, 0, 1);
}
inline double cramer_von_mises_critical(double alpha = default_alpha) {
  expects_level(alpha, "cramer_von_mises_critical");
  const double target = std::log(alpha);
  return root_above([&](double x) { return log_cramer_von_mises_tail(x) - target; }, 0, 1);
}
/// P(|T| > result) = alpha, T Student with df degrees of freedom: 11.64 at 1e-6 for 9.
inline double student_t_critical(double df, double alpha = default_alpha) {
  expects_level(alpha, "student_t_critical");
  sluice::expects(df > 0, "student_t_critical", "df", df);
  const double target = std::log(alpha);
  return root_above([&](double x) { return log_student_two_sided(x, df) - target; }, 0, 10);
}

/// The house limit of |z| where the standard deviation is known: exceeded by chance 4e-8 a check.
inline constexpr double house_z = 5.5;

/// (z_{alpha/2} + z_{1 - power})^2: the n of a mean that is off by one standard deviation.
inline double z_sum_squared(double alpha = default_alpha, double power = 0.999) {
  expects_level(alpha, "z_sum_squared");
  sluice::expects(power > 0 && power < 1, "z_sum_squared", "power", power);
  const double z = normal_critical(alpha) - normal_quantile(1 - power);
  return z * z;
}
/// Draws that show a mean off by `shift` standard deviations.
inline double n_mean_shift(double shift, double alpha = default_alpha, double power = 0.999) {
  sluice::expects(shift != 0 && std::isfinite(shift), "n_mean_shift", "shift", shift);
  return z_sum_squared(alpha, power) / (shift * shift);
}
/// Draws that show a normal variance off by the relative amount.
inline double n_variance_shift(double relative, double alpha = default_alpha, double power = 0.999) {
  sluice::expects(relative != 0 && std::isfinite(relative), "n_variance_shift", "relative", relative);
  return 2 * z_sum_squared(alpha, power) / (relative * relative);
}
/// Draws that show a probability p off by the relative amount.
inline double n_relative_bias(double p, double relative, double alpha = default_alpha, double power = 0.999) {
  sluice::expects(p > 0 && p < 1, "n_relative_bias", "p", p);
  sluice::expects(relative != 0 && std::isfinite(relative), "n_relative_bias", "relative", relative);
  return z_sum_squared(alpha, power) * (1 - p) / (p * relative * relative);
}
/// The noncentrality n w^2, w^2 = sum (p' - p)^2 / p, at which the chi-squared test has the power: inverts the
/// noncentral law, a Poisson mixture of central ones.
inline double chi_square_noncentrality(double df, double alpha = default_alpha, double power = 0.999) {
  const double critical = chi_square_critical(df, alpha);
  sluice::expects(power > alpha && power < 1, "chi_square_noncentrality", "power", power);
  std::vector<double> below;  // P(central with df + 2j <= critical), falling in j; grown as far as needed
  const auto log_below = [&](std::size_t j) {
    while (below.size() <= j) below.push_back(log_chi_square_cdf(critical, df + 2 * static_cast<double>(below.size())));
    return below[j];
  };
  const double miss = 1 - power;
  return root_above(
      [&](double ncp) {
        const double mean = ncp / 2, spread = 12 * std::sqrt(mean) + 60;
        double sum = 0;
        for (double j = std::max(0.0, std::floor(mean - spread)); j <= mean + spread; ++j)
          sum += std::exp(log_below(static_cast<std::size_t>(j)) +
                          (mean > 0 ? j * std::log(mean) - mean - std::lgamma(j + 1) : (j == 0 ? 0.0 : -infinity)));
        return sum - miss;
      },
      0, df + 50);
}
/// sqrt(ln(1/alpha)/(2n)): how far the total variation of an empirical law exceeds its mean with probability alpha at
/// most (McDiarmid).
inline double tv_margin(double n, double alpha = default_alpha) {
  expects_level(alpha, "tv_margin");
  sluice::expects(n > 0, "tv_margin", "n", n);
  return std::sqrt(std::log(1 / alpha) / (2 * n));
}
/// Hoeffding's two-sided margin of a mean of n values in an interval of length `range`.
inline double hoeffding_margin(double n, double range, double alpha = default_alpha) {
  expects_level(alpha, "hoeffding_margin");
  sluice::expects(n > 0, "hoeffding_margin", "n", n);
  sluice::expects(range >= 0, "hoeffding_margin", "range", range);
  return range * std::sqrt(std::log(2 / alpha) / (2 * n));
}
/// Audibert, Munos and Szepesvari's margin from the sample variance V of n values in an interval of length `range`.
inline double empirical_bernstein_margin(double n, double variance, double range, double alpha = default_alpha) {
  expects_level(alpha, "empirical_bernstein_margin");
  sluice::expects(n > 0, "empirical_bernstein_margin", "n", n);
  sluice::expects(variance >= 0, "empirical_bernstein_margin", "variance", variance);
  const double l = std::log(3 / alpha) / n;
  return std::sqrt(2 * variance * l) + 3 * range * l;
}
/// lambda_alpha / sqrt(n): the D of the Kolmogorov-Smirnov gate.
inline double ks_detectable_shift(double n, double alpha = default_alpha) {
  sluice::expects(n > 0, "ks_detectable_shift", "n", n);
  return kolmogorov_critical(alpha) / std::sqrt(n);
}
/// Draws at which the Kolmogorov-Smirnov gate shows a sup-distance.
inline double n_ks(double distance, double alpha = default_alpha) {
  sluice::expects(distance > 0, "n_ks", "distance", distance);
  const double root = (kolmogorov_critical(alpha) + 1.5) / distance;
  return root * root;
}

}  // namespace support
