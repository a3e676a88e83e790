#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numbers>
#include <sluice/core/expects.hpp>

/// Tail functions and their inverses, mostly as logarithms: p-values below 1e-300 are numbers too.
namespace support {

inline constexpr double infinity = std::numeric_limits<double>::infinity();

/// log(1 - exp(x)), x <= 0.
inline double log_one_minus_exp(double x) {
  return x > -std::numbers::ln2 ? std::log(-std::expm1(x)) : std::log1p(-std::exp(x));
}

/// The root of a function that is non-increasing on [low, high], by bisection down to neighbouring doubles.
template <class F>
double root_of_decreasing(F&& f, double low, double high) {
  for (int i = 0; i < 2000; ++i) {
    const double middle = low + (high - low) / 2;
    if (middle <= low || middle >= high) break;
    (f(middle) > 0 ? low : high) = middle;
  }
  return low + (high - low) / 2;
}
/// The root on [low, inf) of a function that decreases without bound: looks for an upper end first.
template <class F>
double root_above(F&& f, double low, double step) {
  double high = low + step;
  while (f(high) > 0) high = low + (step *= 2);
  return root_of_decreasing(f, low, high);
}

/// log of the natural density kernel x^a e^-x / Gamma(a), without cancellation for large a.
inline double log_gamma_kernel(double a, double x) {
  if (a < 10) return a * std::log(x) - x - std::lgamma(a);
  const double d = (x - a) / a, r = 1 / (a * a);
  const double stirling = (1.0 / 12 - r * (1.0 / 360 - r * (1.0 / 1260 - r * (1.0 / 1680 - r / 1188)))) / a;
  return a * (std::log1p(d) - d) + 0.5 * std::log(a / (2 * std::numbers::pi)) - stirling;
}

namespace detail {
/// log P(a, x) by its series: accurate for x < a + 1.
inline double log_gamma_series(double a, double x) {
  double term = 1 / a, sum = term;
  for (double k = a + 1; term > sum * 1e-17; ++k) sum += term *= x / k;
  return log_gamma_kernel(a, x) + std::log(sum);
}
/// log Q(a, x) by its continued fraction (Lentz): accurate for x >= a + 1.
inline double log_gamma_fraction(double a, double x) {
  constexpr double tiny = 1e-300;
  double b = x + 1 - a, c = 1 / tiny, d = 1 / b, h = d;
  for (int i = 1; i < 10'000'000; ++i) {
    const double an = -i * (i - a);
    b += 2;
    d = an * d + b;
    if (std::abs(d) < tiny) d = tiny;
    c = b + an / c;
    if (std::abs(c) < tiny) c = tiny;
    d = 1 / d;
    const double change = d * c;
    h *= change;
    if (std::abs(change - 1) < 1e-16) break;
  }
  return log_gamma_kernel(a, x) + std::log(h);
}
}  // namespace detail

/// log Q(a, x), the regularised upper incomplete gamma function.
inline double log_gamma_q(double a, double x) {
  sluice::expects(a > 0 && std::isfinite(a), "log_gamma_q", "a", a);
  sluice::expects(x >= 0, "log_gamma_q", "x", x);
  if (x == 0) return 0;
  if (x == infinity) return -infinity;
  return x < a + 1 ? log_one_minus_exp(std::min(0.0, detail::log_gamma_series(a, x)))
                   : std::min(0.0, detail::log_gamma_fraction(a, x));
}
/// log P(a, x) = log(1 - Q(a, x)).
inline double log_gamma_p(double a, double x) {
  sluice::expects(a > 0 && std::isfinite(a), "log_gamma_p", "a", a);
  sluice::expects(x >= 0, "log_gamma_p", "x", x);
  if (x == 0) return -infinity;
  if (x == infinity) return 0;
  return x < a + 1 ? std::min(0.0, detail::log_gamma_series(a, x))
                   : log_one_minus_exp(std::min(0.0, detail::log_gamma_fraction(a, x)));
}

/// log erfc(x): the asymptotic series beyond 25.
inline double log_erfc(double x) {
  if (x < 25) return std::log(std::erfc(x));
  const double r = 1 / (2 * x * x);
  double term = 1, sum = 1;
  for (int k = 1; k < 30 && std::abs(term) > 1e-17; ++k) sum += term *= -(2 * k - 1) * r;
  return -x * x - std::log(x * std::sqrt(std::numbers::pi)) + std::log(sum);
}
/// log P(Z > z), Z standard normal.
inline double log_normal_sf(double z) {
  if (z < -1) return std::log1p(-0.5 * std::erfc(-z / std::numbers::sqrt2));
  return log_erfc(z / std::numbers::sqrt2) - std::numbers::ln2;
}
inline double normal_cdf(double z) { return 0.5 * std::erfc(-z / std::numbers::sqrt2); }

/// The z of P(Z <= z) = p, 0 < p < 1. Source: Wichura, Applied Statistics 37 (1988), algorithm AS 241, PPND16.
inline double normal_quantile(double p) {
  sluice::expects(p > 0 && p < 1, "normal_quantile", "p", p);
  constexpr double a[] = {3.3871328727963666080e0,  1.3314166789178437745e+2, 1.9715909503065514427e+3,
                          1.3731693765509461125e+4, 4.5921953931549871457e+4, 6.7265770927008700853e+4,
                          3.3430575583588128105e+4, 2.5090809287301226727e+3};
  constexpr double b[] = {1.0,
                          4.2313330701600911252e+1,
                          6.8718700749205790830e+2,
                          5.3941960214247511077e+3,
                          2.1213794301586595867e+4,
                          3.9307895800092710610e+4,
                          2.8729085735721942674e+4,
                          5.2264952788528545610e+3};
  constexpr double c[] = {1.42343711074968357734e0,  4.63033784615654529590e0, 5.76949722146069140550e0,
                          3.64784832476320460504e0,  1.27045825245236838258e0, 2.41780725177450611770e-1,
                          2.27238449892691845833e-2, 7.74545014278341407640e-4};
  constexpr double d[] = {1.0,
                          2.05319162663775882187e0,
                          1.67638483018380384940e0,
                          6.89767334985100004550e-1,
                          1.48103976427480074590e-1,
                          1.51986665636164571966e-2,
                          5.47593808499534494600e-4,
                          1.05075007164441684324e-9};
  constexpr double e[] = {6.65790464350110377720e0,  5.46378491116411436990e0,  1.78482653991729133580e0,
                          2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
                          2.71155556874348757815e-5, 2.01033439929228813265e-7};
  constexpr double f[] = {1.0,
                          5.99832206555887937690e-1,
                          1.36929880922735805310e-1,
                          1.48753612908506148525e-2,
                          7.86869131145613259100e-4,
                          1.84631831751005468180e-5,
                          1.42151175831644588870e-7,
                          2.04426310338993978564e-15};
  const auto ratio = [](const double(&top)[8], const double(&bottom)[8], double r) {
    double n = 0, m = 0;
    for (int i = 7; i >= 0; --i) n = n * r + top[i], m = m * r + bottom[i];
    return n / m;
  };
  const double q = p - 0.5;
  if (std::abs(q) <= 0.425) return q * ratio(a, b, 0.180625 - q * q);
  const double r = std::sqrt(-std::log(q < 0 ? p : 1 - p));
  const double z = r <= 5 ? ratio(c, d, r - 1.6) : ratio(e, f, r - 5);
  return q < 0 ? -z : z;
}

namespace detail {
/// log of the continued fraction's value of I_x(a, b), for x < (a + 1)/(a + b + 2).
inline double log_beta_fraction(double a, double b, double x, double y) {
  constexpr double tiny = 1e-300;
  double c = 1, d = 1 - (a + b) * x / (a + 1);
  d = 1 / (std::abs(d) < tiny ? tiny : d);
  double h = d;
  for (int m = 1; m < 1'000'000; ++m) {
    double change = 0;
    for (const double an : {m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
                            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))}) {
      d = 1 + an * d;
      d = 1 / (std::abs(d) < tiny ? tiny : d);
      c = 1 + an / c;
      if (std::abs(c) < tiny) c = tiny;
      h *= change = d * c;
    }
    if (std::abs(change - 1) < 1e-16) break;
  }
  return a * std::log(x) + b * std::log(y) - std::log(a) + std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) +
         std::log(h);
}
}  // namespace detail

/// log I_x(a, b), the regularised incomplete beta function, with y = 1 - x given apart where it is known better.
inline double log_beta_i(double a, double b, double x, double y) {
  sluice::expects(a > 0 && std::isfinite(a), "log_beta_i", "a", a);
  sluice::expects(b > 0 && std::isfinite(b), "log_beta_i", "b", b);
  sluice::expects(x >= 0 && y >= 0, "log_beta_i", "x", x);
  if (x == 0) return -infinity;
  if (y == 0) return 0;
  if (x < (a + 1) / (a + b + 2)) return std::min(0.0, detail::log_beta_fraction(a, b, x, y));
  return log_one_minus_exp(std::min(0.0, detail::log_beta_fraction(b, a, y, x)));
}
inline double log_beta_i(double a, double b, double x) { return log_beta_i(a, b, x, 1 - x); }
/// The x of I_x(a, b) = p.
inline double beta_quantile(double a, double b, double p) {
  sluice::expects(p >= 0 && p <= 1, "beta_quantile", "p", p);
  if (p == 0 || p == 1) return p;
  if (p < 0.5) {
    const double target = std::log(p);
    return root_of_decreasing([&](double x) { return target - log_beta_i(a, b, x); }, 0, 1);
  }
  const double target = std::log1p(-p);
  return root_of_decreasing([&](double x) { return log_beta_i(b, a, 1 - x, x) - target; }, 0, 1);
}

/// log of P(sup |B| > lambda), B a Brownian bridge: the limiting law of sqrt(n) D.
inline double log_kolmogorov_sf(double lambda) {
  sluice::expects(lambda >= 0, "log_kolmogorov_sf", "lambda", lambda);
  if (lambda < 0.02) return 0;  // the distribution function is below 1e-1300
  const double square = lambda * lambda;
  double sum = 0;
  if (lambda < 1) {  // the theta dual
    for (int j = 9; j >= 1; j -= 2) sum += std::exp(-j * j * std::numbers::pi * std::numbers::pi / (8 * square));
    return std::log1p(-std::sqrt(2 * std::numbers::pi) / lambda * sum);
  }
  for (int j = 8; j >= 1; --j) sum += (j % 2 ? 1 : -1) * std::exp(-2 * (j * j - 1) * square);
  return std::numbers::ln2 - 2 * square + std::log(sum);
}
inline double kolmogorov_sf(double lambda) { return std::exp(log_kolmogorov_sf(lambda)); }

/// log P(X > x), X chi-squared.
inline double log_chi_square_sf(double x, double df) {
  sluice::expects(df >= 1, "log_chi_square_sf", "df", df);
  return log_gamma_q(df / 2, std::max(0.0, x) / 2);
}
/// log P(X <= x): the lower tail.
inline double log_chi_square_cdf(double x, double df) {
  sluice::expects(df >= 1, "log_chi_square_cdf", "df", df);
  return log_gamma_p(df / 2, std::max(0.0, x) / 2);
}
/// log P(|T| > |t|), T Student with df degrees of freedom.
inline double log_student_two_sided(double t, double df) {
  sluice::expects(df > 0, "log_student_two_sided", "df", df);
  const double square = t * t;
  return log_beta_i(df / 2, 0.5, df / (df + square), square / (df + square));
}
/// log of the leading tail sqrt(3) erfc(sqrt z) of the Anderson-Darling law: for thresholds, 4 to 9 % low at 1e-2.
inline double log_anderson_darling_tail(double z) {
  return 0.5 * std::log(3.0) + log_erfc(std::sqrt(std::max(0.0, z)));
}
/// log of the leading tail sqrt(2) erfc(pi sqrt(z/2)) of the Cramer-von Mises law.
inline double log_cramer_von_mises_tail(double z) {
  return 0.5 * std::numbers::ln2 + log_erfc(std::numbers::pi * std::sqrt(std::max(0.0, z) / 2));
}
/// Wilson and Hilferty's normal score of a chi-squared statistic: for printing, not for gating.
inline double wilson_hilferty_z(double x, double df) {
  return (std::cbrt(x / df) - (1 - 2 / (9 * df))) / std::sqrt(2 / (9 * df));
}

}  // namespace support
