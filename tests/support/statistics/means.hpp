#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "discrete.hpp"

/// Tests of means, variances and locations.
namespace support {

/// Sum in pairs: the error grows with log n.
inline double pairwise_sum(std::span<const double> x) {
  if (x.size() <= 32) {
    double sum = 0;
    for (const double v : x) sum += v;
    return sum;
  }
  return pairwise_sum(x.first(x.size() / 2)) + pairwise_sum(x.subspan(x.size() / 2));
}

struct moments {
  double n, mean, variance;  ///< variance with n - 1
};
inline moments sample_moments(std::span<const double> x) {
  sluice::expects(x.size() >= 2, "sample_moments", "x.size", x.size());
  const double n = static_cast<double>(x.size()), mean = pairwise_sum(x) / n;
  std::vector<double> squares(x.size());
  std::transform(x.begin(), x.end(), squares.begin(), [mean](double v) { return (v - mean) * (v - mean); });
  return {n, mean, pairwise_sum(squares) / (n - 1)};
}

/// (mean - expected)/(sd/sqrt n) with the KNOWN standard deviation of one draw. Gate: |z| < house_z.
inline double z_of_mean(double mean, double expected, double sd, double n) {
  sluice::expects(sd > 0 && std::isfinite(sd), "z_of_mean", "sd", sd);
  sluice::expects(n >= 1, "z_of_mean", "n", n);
  return (mean - expected) / (sd / std::sqrt(n));
}
inline double z_of_mean(std::span<const double> x, double expected, double sd) {
  sluice::expects(!x.empty(), "z_of_mean", "x.size", x.size());
  const double n = static_cast<double>(x.size());
  return z_of_mean(pairwise_sum(x) / n, expected, sd, n);
}
/// z of a sample variance against sigma^2, for a law with kurtosis E(x - m)^4/sigma^4 (3: normal).
inline double z_of_variance(std::span<const double> x, double variance, double kurtosis = 3) {
  sluice::expects(variance > 0, "z_of_variance", "variance", variance);
  sluice::expects(kurtosis > 1, "z_of_variance", "kurtosis", kurtosis);
  const moments m = sample_moments(x);
  return (m.variance / variance - 1) / std::sqrt((kurtosis - 1) / (m.n - 1));
}
/// z of a proportion against a known probability.
inline double z_of_proportion(double successes, double n, double p) {
  return z_of_mean(successes / n, p, std::sqrt(p * (1 - p)), n);
}
/// The two-sided test of a standard normal score.
inline test_result normal_test(double z, double n = 0) {
  return {.name = "z", .statistic = z, .log_p = std::min(0.0, log_normal_sf(std::abs(z)) + std::numbers::ln2), .n = n};
}

/// Student's test of a mean with estimated variance, two-sided. For gates use 200 replicates or more.
inline test_result one_sample_t(std::span<const double> x, double expected) {
  sluice::expects(x.size() >= 2, "one_sample_t", "x.size", x.size());
  const moments m = sample_moments(x);
  sluice::expects(m.variance > 0, "one_sample_t", "variance", m.variance);
  test_result r{.name = "t", .statistic = (m.mean - expected) / std::sqrt(m.variance / m.n), .df = m.n - 1, .n = m.n};
  r.log_p = log_student_two_sided(r.statistic, r.df);
  return r;
}
/// Paired t: the t-test of the differences.
inline test_result paired_t(std::span<const double> x, std::span<const double> y) {
  sluice::expects(x.size() == y.size(), "paired_t", "y.size", y.size());
  std::vector<double> d(x.size());
  std::transform(x.begin(), x.end(), y.begin(), d.begin(), [](double a, double b) { return a - b; });
  return one_sample_t(d, 0);
}
/// Welch's two-sample t, two-sided.
inline test_result welch_t(std::span<const double> x, std::span<const double> y) {
  sluice::expects(x.size() >= 2, "welch_t", "x.size", x.size());
  sluice::expects(y.size() >= 2, "welch_t", "y.size", y.size());
  const moments a = sample_moments(x), b = sample_moments(y);
  const double va = a.variance / a.n, vb = b.variance / b.n, v = va + vb;
  sluice::expects(v > 0, "welch_t", "variance", v);
  test_result r{.name = "Welch t", .statistic = (a.mean - b.mean) / std::sqrt(v), .n = a.n + b.n};
  r.df = v * v / (va * va / (a.n - 1) + vb * vb / (b.n - 1));
  r.log_p = log_student_two_sided(r.statistic, r.df);
  return r;
}
/// 64 batches (or as many as asked): the t-test of their means, for draws that are not independent within a batch.
inline test_result batched_t(std::span<const double> x, double expected, std::size_t batches = 64) {
  sluice::expects(batches >= 2 && batches <= x.size(), "batched_t", "batches", batches);
  std::vector<double> means(batches);
  const std::size_t length = x.size() / batches;  // a remainder is left out
  for (std::size_t b = 0; b < batches; ++b)
    means[b] = pairwise_sum(x.subspan(b * length, length)) / static_cast<double>(length);
  return one_sample_t(means, expected);
}
/// Sign test: P(at least `wins` of `trials` | each even), one-sided.
inline test_result sign_test(double wins, double trials) {
  detail::checked_binomial(wins, trials, 0.5, "sign_test");
  return {.name = "sign", .statistic = wins, .log_p = log_binomial_sf(wins - 1, trials, 0.5), .n = trials};
}

/// z of log(var x / var y) from paired replicates, with the jackknife's standard error: positive
/// if x varies more. Gate one-sided.
inline double z_of_variance_ratio(std::span<const double> x, std::span<const double> y) {
  sluice::expects(x.size() == y.size(), "z_of_variance_ratio", "y.size", y.size());
  sluice::expects(x.size() >= 3, "z_of_variance_ratio", "x.size", x.size());
  const moments a = sample_moments(x), b = sample_moments(y);
  sluice::expects(a.variance > 0 && b.variance > 0, "z_of_variance_ratio", "variance",
                  std::min(a.variance, b.variance));
  const double n = a.n;
  std::vector<double> leave_one_out(x.size());
  const auto without = [n](const moments& m, double v) {  // n - 1 times the variance of the others, up to one factor
    return m.variance * (n - 1) - (v - m.mean) * (v - m.mean) * n / (n - 1);
  };
  for (std::size_t i = 0; i < x.size(); ++i) leave_one_out[i] = std::log(without(a, x[i]) / without(b, y[i]));
  const moments j = sample_moments(leave_one_out);
  const double se = std::sqrt((n - 1) * (n - 1) / n * j.variance);
  return std::log(a.variance / b.variance) / se;
}

/// Mann and Whitney's U of x (pairs x > y, ties 1/2) with its exact two-sided p, 2 P(U >= max(U, nm - U)); exact
/// without ties, with them U is rounded down. O((n m)^2) at worst.
inline test_result mann_whitney(std::span<const double> x, std::span<const double> y) {
  sluice::expects(!x.empty(), "mann_whitney", "x.size", x.size());
  sluice::expects(!y.empty(), "mann_whitney", "y.size", y.size());
  const std::size_t n = x.size(), m = y.size();
  double u = 0;
  for (const double a : x)
    for (const double b : y) u += a > b ? 1.0 : a == b ? 0.5 : 0.0;
  // probability[i][v]: U = v with i of x and j of y, j growing: the largest of all is an x (adds j) or a y.
  std::vector<std::vector<double>> probability(n + 1, std::vector<double>(n * m + 1));
  for (auto& row : probability) row[0] = 1;  // j = 0
  for (std::size_t j = 1; j <= m; ++j)
    for (std::size_t i = 1; i <= n; ++i) {
      const double from_x = static_cast<double>(i) / static_cast<double>(i + j);
      for (std::size_t v = i * j + 1; v-- > 0;)
        probability[i][v] = (1 - from_x) * probability[i][v] + (v >= j ? from_x * probability[i - 1][v - j] : 0.0);
    }
  const double pairs = static_cast<double>(n * m), extreme = std::max(u, pairs - u);
  double tail = 0;
  for (std::size_t v = n * m + 1; v-- > static_cast<std::size_t>(extreme);) tail += probability[n][v];
  return {.name = "Mann-Whitney",
          .statistic = u,
          .log_p = std::min(0.0, std::log(2 * tail)),
          .n = static_cast<double>(n + m)};
}

}  // namespace support
