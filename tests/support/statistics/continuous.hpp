#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "discrete.hpp"

/// Tests of continuous laws. One-sample tests take u = F(x) for a fully specified continuous F: uniform numbers under
/// the null. The samples need not be sorted.
namespace support {

namespace detail {
inline std::vector<double> sorted(std::span<const double> x, const char* function) {
  sluice::expects(!x.empty(), function, "x.size", x.size());
  for (std::size_t i = 0; i < x.size(); ++i)
    sluice::expects(!std::isnan(x[i]), function, "x", x[i], static_cast<std::ptrdiff_t>(i));
  std::vector<double> s(x.begin(), x.end());
  std::sort(s.begin(), s.end());
  return s;
}
inline std::vector<double> sorted_uniforms(std::span<const double> u, const char* function) {
  for (std::size_t i = 0; i < u.size(); ++i)
    sluice::expects(u[i] >= 0 && u[i] <= 1, function, "u", u[i], static_cast<std::ptrdiff_t>(i));
  return sorted(u, function);
}
}  // namespace detail

/// D = sup |F_n - F|.
inline double ks_statistic(std::span<const double> u) {
  const auto s = detail::sorted_uniforms(u, "ks_statistic");
  const double n = static_cast<double>(s.size());
  double d = 0;
  for (std::size_t i = 0; i < s.size(); ++i)
    d = std::max({d, static_cast<double>(i + 1) / n - s[i], s[i] - static_cast<double>(i) / n});
  return d;
}
/// Kolmogorov-Smirnov, asymptotic: lambda = sqrt(n) D from n = 1000, Stephens' (sqrt n + 0.12 + 0.11/sqrt n) D below.
inline test_result ks_test(std::span<const double> u) {
  const double n = static_cast<double>(u.size()), root = std::sqrt(n), d = ks_statistic(u);
  const double lambda = (n >= 1000 ? root : root + 0.12 + 0.11 / root) * d;
  return {.name = "Kolmogorov-Smirnov", .statistic = d, .log_p = log_kolmogorov_sf(lambda), .n = n};
}
/// Exact P(D+ >= d) for n draws, D+ = sup (F_n - F). Source: Birnbaum and Tingey (1951): a sum of positive terms.
inline double ks_one_sided_exact_p(double d, std::size_t n) {
  sluice::expects(n >= 1, "ks_one_sided_exact_p", "n", n);
  sluice::expects(d >= 0, "ks_one_sided_exact_p", "d", d);
  if (d == 0) return 1;
  const double x = static_cast<double>(n);
  double sum = 0;
  for (double j = 0; j < x * (1 - d); ++j)
    sum += std::exp(std::lgamma(x + 1) - std::lgamma(j + 1) - std::lgamma(x - j + 1) + (j - 1) * std::log(d + j / x) +
                    (x - j) * std::log1p(-d - j / x));
  return std::min(1.0, d * sum);
}
/// Exact P(D >= d) for n draws, n up to a few hundred. Source: Marsaglia, Tsang and Wang, J. Statistical Software 8
/// (2003): the power of a matrix; absolute error about 1e-13. In the tail, n d^2 >= 4 or d >= 1/2, twice the one-sided
/// probability, which is exact from 1/2 and too large by 4e-11 of itself at most elsewhere.
inline double ks_exact_p(double d, std::size_t n) {
  sluice::expects(n >= 1 && n <= 1000, "ks_exact_p", "n", n);
  sluice::expects(d >= 0, "ks_exact_p", "d", d);
  const double nd = static_cast<double>(n) * d;
  if (d >= 1) return 0;
  if (nd <= 0.5) return 1;
  if (d >= 0.5 || nd * d >= 4) return std::min(1.0, 2 * ks_one_sided_exact_p(d, n));
  const auto k = static_cast<std::size_t>(nd) + 1, m = 2 * k - 1;
  const double h = static_cast<double>(k) - nd;
  using matrix = std::vector<double>;
  matrix a(m * m);
  const auto inverse_factorial = [](std::size_t i) { return std::exp(-std::lgamma(static_cast<double>(i) + 1)); };
  for (std::size_t i = 0; i < m; ++i)
    for (std::size_t j = 0; j < m; ++j)
      if (i + 1 >= j) {
        double v = 1;
        if (j == 0) v -= std::pow(h, static_cast<double>(i + 1));
        if (i == m - 1) v -= std::pow(h, static_cast<double>(m - j));
        if (i == m - 1 && j == 0 && 2 * h > 1) v += std::pow(2 * h - 1, static_cast<double>(m));
        a[i * m + j] = v * inverse_factorial(i + 1 - j);
      }
  int exponent_a = 0, exponent_q = 0;  // powers of 2 taken out
  const auto product = [m](const matrix& x, const matrix& y) {
    matrix z(m * m);
    for (std::size_t i = 0; i < m; ++i)
      for (std::size_t l = 0; l < m; ++l)
        for (std::size_t j = 0; j < m; ++j) z[i * m + j] += x[i * m + l] * y[l * m + j];
    return z;
  };
  const auto rescale = [&](matrix& x, int& exponent) {
    if (const double middle = x[(k - 1) * m + k - 1]; middle > 0x1p400) {
      for (double& v : x) v = std::ldexp(v, -400);
      exponent += 400;
    }
  };
  matrix q(m * m);
  for (std::size_t i = 0; i < m; ++i) q[i * m + i] = 1;
  for (std::size_t power = n; power > 0; power /= 2) {
    if (power % 2) q = product(q, a), exponent_q += exponent_a, rescale(q, exponent_q);
    a = product(a, a), exponent_a *= 2, rescale(a, exponent_a);
  }
  const double x = static_cast<double>(n);
  const double log_cdf =
      std::log(q[(k - 1) * m + k - 1]) + exponent_q * std::numbers::ln2 + std::lgamma(x + 1) - x * std::log(x);
  return std::clamp(-std::expm1(log_cdf), 0.0, 1.0);
}

/// Two-sample D = sup |F_n - G_m|; ties count as <=.
inline double ks_two_sample_statistic(std::span<const double> x, std::span<const double> y) {
  const auto a = detail::sorted(x, "ks_two_sample"), b = detail::sorted(y, "ks_two_sample");
  double d = 0;
  std::size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    const double at = std::min(a[i], b[j]);
    while (i < a.size() && a[i] <= at) ++i;
    while (j < b.size() && b[j] <= at) ++j;
    d = std::max(d, std::abs(static_cast<double>(i) / static_cast<double>(a.size()) -
                             static_cast<double>(j) / static_cast<double>(b.size())));
  }
  return d;
}
/// Exact P(D >= d) of two samples of continuous data: the probability that a random order of n and m letters strays so
/// far, a sum of positive terms, accurate down to 1e-300. O(n m).
inline double ks_two_sample_exact_p(double d, std::size_t n, std::size_t m) {
  sluice::expects(n >= 1, "ks_two_sample_exact_p", "n", n);
  sluice::expects(m >= 1, "ks_two_sample_exact_p", "m", m);
  const double nn = static_cast<double>(n), mm = static_cast<double>(m);
  const double limit = d * nn * mm - 0.5;  // |i m - j n| is an integer
  if (limit < 0) return 1;
  std::vector<double> row(m + 1);  // P(the path comes by (i, j) and has not strayed before)
  double strayed = 0;
  for (std::size_t i = 0; i <= n; ++i)
    for (std::size_t j = 0; j <= m; ++j) {
      const double left_x = nn - static_cast<double>(i), left_y = mm - static_cast<double>(j);
      double here = i == 0 && j == 0 ? 1 : 0;
      if (i > 0) here += row[j] * (left_x + 1) / (left_x + 1 + left_y);
      if (j > 0) here += row[j - 1] * (left_y + 1) / (left_x + left_y + 1);
      if (std::abs(static_cast<double>(i) * mm - static_cast<double>(j) * nn) > limit) strayed += here, here = 0;
      row[j] = here;
    }
  return std::min(1.0, strayed);
}
/// Two-sample Kolmogorov-Smirnov: exact up to n m = 1e6, asymptotic with n m/(n + m) beyond.
inline test_result ks_two_sample(std::span<const double> x, std::span<const double> y) {
  const double d = ks_two_sample_statistic(x, y);
  const double n = static_cast<double>(x.size()), m = static_cast<double>(y.size());
  test_result r{.name = "two-sample Kolmogorov-Smirnov", .statistic = d, .n = n + m};
  r.log_p = n * m <= 1e6 ? std::log(ks_two_sample_exact_p(d, x.size(), y.size()))
                         : log_kolmogorov_sf(std::sqrt(n * m / (n + m)) * d);
  return r;
}

/// A^2 = -n - (1/n) sum (2i - 1)(ln u_(i) + ln(1 - u_(n+1-i))), u clipped to [1e-300, 1 - 2^-53].
inline double anderson_darling_statistic(std::span<const double> u) {
  auto s = detail::sorted_uniforms(u, "anderson_darling_statistic");
  for (double& x : s) x = std::clamp(x, 1e-300, 1 - 0x1p-53);
  const std::size_t n = s.size();
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i)
    sum += static_cast<double>(2 * i + 1) * (std::log(s[i]) + std::log1p(-s[n - 1 - i]));
  return -static_cast<double>(n) - sum / static_cast<double>(n);
}
/// Anderson-Darling; the p-value is the leading tail, right for gates and 4 to 9 % low at 1e-2.
inline test_result anderson_darling_test(std::span<const double> u) {
  const double a = anderson_darling_statistic(u);
  return {.name = "Anderson-Darling",
          .statistic = a,
          .log_p = std::min(0.0, log_anderson_darling_tail(a)),
          .n = static_cast<double>(u.size())};
}

/// W^2 = 1/(12n) + sum (u_(i) - (2i - 1)/(2n))^2.
inline double cramer_von_mises_statistic(std::span<const double> u) {
  const auto s = detail::sorted_uniforms(u, "cramer_von_mises_statistic");
  const double n = static_cast<double>(s.size());
  double sum = 1 / (12 * n);
  for (std::size_t i = 0; i < s.size(); ++i) {
    const double d = s[i] - (2 * static_cast<double>(i) + 1) / (2 * n);
    sum += d * d;
  }
  return sum;
}
/// P(W^2 >= w): the limiting law with the 1/n correction of Csorgo and Faraway, J. Royal Statistical Society B 58
/// (1996), equations 1.3 to 1.8. Absolute error of the series 1e-12; below 1e-6 use the leading tail.
inline double cramer_von_mises_p(double w, std::size_t sample_size) {
  sluice::expects(sample_size >= 1, "cramer_von_mises_p", "n", sample_size);
  const double n = static_cast<double>(sample_size), pi = std::numbers::pi;
  if (w <= 1 / (12 * n)) return 1;
  if (w >= n / 3) return 0;
  // exp(-z) K_nu(z), which vanishes for large z
  const auto bessel = [](double nu, double z) { return z > 300 ? 0.0 : std::exp(-z) * std::cyl_bessel_k(nu, z); };
  double limit = 0;
  for (int k = 0; k < 100; ++k) {
    const double y = 4 * k + 1, term = std::exp(std::lgamma(k + 0.5) - std::lgamma(k + 1.0)) /
                                       (std::pow(pi, 1.5) * std::sqrt(w)) * std::sqrt(y) *
                                       bessel(0.25, y * y / (16 * w));
    limit += term;
    if (term < 1e-14) break;
  }
  const auto e2 = [&](double y) {
    const double z = y * y / 4;
    return std::pow(y / 2, 1.5) * (bessel(0.25, z) + bessel(0.75, z)) / std::sqrt(pi);
  };
  const auto e3 = [&](double y) {
    const double z = y * y / 4;
    return std::pow(y / 2, 2.5) * (2 * bessel(0.25, z) + 3 * bessel(0.75, z) - bessel(1.25, z)) / std::sqrt(pi);
  };
  double correction = 0;
  for (int k = 0; k < 100; ++k) {
    const double m = 2 * k + 1, root = 2 * std::sqrt(w), y1 = std::pow(w, 0.75), y2 = std::pow(w, 1.25);
    const double g = std::exp(std::lgamma(k + 0.5) - std::lgamma(k + 1.0));  // the factor 1/k! of every term
    const double term = -(m * g * e2((4 * k + 3) / root) / (9 * y1) + g * e3((4 * k + 1) / root) / (72 * y2) +
                          2 * (m + 2) * g * (k + 0.5) * e3((4 * k + 5) / root) / (12 * y2) +
                          7 * m * g * (e2((4 * k + 1) / root) + e2((4 * k + 5) / root)) / (144 * y1)) /
                        pi;
    correction += term;
    if (std::abs(term) < 1e-14) break;
  }
  return std::clamp(1 - (limit * (1 + 1 / (12 * n)) + correction / n), 0.0, 1.0);
}
/// Cramer-von Mises: the corrected law, and its leading tail where that is below 1e-6.
inline test_result cramer_von_mises_test(std::span<const double> u) {
  const double w = cramer_von_mises_statistic(u), p = cramer_von_mises_p(w, u.size());
  return {.name = "Cramer-von Mises",
          .statistic = w,
          .log_p = p > 1e-6 ? std::log(p) : log_cramer_von_mises_tail(w),
          .n = static_cast<double>(u.size())};
}

}  // namespace support
