#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "means.hpp"

/// Correlation within a series.
namespace support {

/// Autocorrelation at lags 0 ... lags - 1, from the biased autocovariance.
inline std::vector<double> autocorrelation(std::span<const double> x, std::size_t lags) {
  sluice::expects(x.size() >= 2, "autocorrelation", "x.size", x.size());
  sluice::expects(lags >= 1 && lags <= x.size(), "autocorrelation", "lags", lags);
  const std::size_t n = x.size();
  const double mean = pairwise_sum(x) / static_cast<double>(n);
  std::vector<double> result(lags), products(n);
  for (std::size_t lag = 0; lag < lags; ++lag) {
    for (std::size_t i = 0; i + lag < n; ++i) products[i] = (x[i] - mean) * (x[i + lag] - mean);
    result[lag] = pairwise_sum(std::span<const double>(products).first(n - lag));
  }
  const double variance = result[0];
  sluice::expects(variance > 0, "autocorrelation", "variance", variance);
  for (double& r : result) r /= variance;
  return result;
}
/// Geyer's initial monotone positive sequence: tau = -1 + 2 sum of min so far of acf[2i] + acf[2i + 1], up to the first
/// sum that is not positive. The effective sample size is n/tau.
inline double geyer_tau(std::span<const double> acf) {
  sluice::expects(acf.size() >= 2, "geyer_tau", "acf.size", acf.size());
  double sum = 0, least = infinity;
  for (std::size_t i = 0; i + 1 < acf.size(); i += 2) {
    const double pair = acf[i] + acf[i + 1];
    if (!(pair > 0)) break;
    least = std::min(least, pair);
    sum += least;
  }
  return -1 + 2 * sum;
}
/// z = sqrt(n) r of the correlation at a lag, for draws with known mean and standard deviation that are claimed to be
/// independent.
inline double z_of_lag(std::span<const double> x, std::size_t lag, double mean, double sd) {
  sluice::expects(sd > 0, "z_of_lag", "sd", sd);
  sluice::expects(lag >= 1 && lag < x.size(), "z_of_lag", "lag", lag);
  std::vector<double> products(x.size() - lag);
  for (std::size_t i = 0; i < products.size(); ++i) products[i] = (x[i] - mean) * (x[i + lag] - mean);
  return z_of_mean(products, 0, sd * sd);
}
/// Correlation of two series of one law, as a z: for streams that are claimed to be independent.
inline double z_of_cross(std::span<const double> x, std::span<const double> y, double mean, double sd) {
  sluice::expects(x.size() == y.size(), "z_of_cross", "y.size", y.size());
  sluice::expects(sd > 0, "z_of_cross", "sd", sd);
  std::vector<double> products(x.size());
  for (std::size_t i = 0; i < products.size(); ++i) products[i] = (x[i] - mean) * (y[i] - mean);
  return z_of_mean(products, 0, sd * sd);
}

}  // namespace support
