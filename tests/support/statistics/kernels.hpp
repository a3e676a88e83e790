#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "means.hpp"

/// Multivariate tests. A point is a vector of coordinates; all points of a call have one dimension.
namespace support {

using points = std::vector<std::vector<double>>;

namespace detail {
inline std::size_t checked_dimension(const points& x, std::size_t least, const char* function) {
  sluice::expects(x.size() >= least, function, "points", x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    sluice::expects(!x[i].empty() && x[i].size() == x[0].size(), function, "point.size", x[i].size(),
                    static_cast<std::ptrdiff_t>(i));
    for (const double v : x[i]) sluice::expects(std::isfinite(v), function, "point", v, static_cast<std::ptrdiff_t>(i));
  }
  return x[0].size();
}
inline double squared_distance(const std::vector<double>& x, const std::vector<double>& y) {
  double sum = 0;
  for (std::size_t k = 0; k < x.size(); ++k) sum += (x[k] - y[k]) * (x[k] - y[k]);
  return sum;
}
inline double dot(const std::vector<double>& x, const std::vector<double>& y) {
  double sum = 0;
  for (std::size_t k = 0; k < x.size(); ++k) sum += x[k] * y[k];
  return sum;
}
inline void checked_pair(const points& x, const points& y, const char* function) {
  const std::size_t d = checked_dimension(x, 2, function);
  sluice::expects(checked_dimension(y, 2, function) == d, function, "dimension", y[0].size());
}
}  // namespace detail

/// Median distance of the pooled points; 0 if most are equal. O(n^2 d): thin large samples.
inline double median_distance(const points& x, const points& y) {
  detail::checked_pair(x, y, "median_distance");
  points all = x;
  all.insert(all.end(), y.begin(), y.end());
  std::vector<double> distances;
  for (std::size_t i = 0; i < all.size(); ++i)
    for (std::size_t j = 0; j < i; ++j) distances.push_back(std::sqrt(detail::squared_distance(all[i], all[j])));
  const auto middle = distances.begin() + static_cast<std::ptrdiff_t>(distances.size() / 2);
  std::nth_element(distances.begin(), middle, distances.end());
  return *middle;
}

struct mmd_result {
  double unbiased = 0, biased = 0;  ///< the unbiased one may be negative
  bool degenerate = false;          ///< all points are equal: everything is 0 and nothing was tested
};
namespace detail {
inline bool all_equal(const points& x, const points& y) {
  const auto same = [&](const std::vector<double>& p) { return p == x[0]; };
  return std::all_of(x.begin(), x.end(), same) && std::all_of(y.begin(), y.end(), same);
}
}  // namespace detail
/// Squared maximum mean discrepancy with the kernel exp(-r^2/(2 h^2)). O((n + m)^2 d). Bandwidth 0 is legal only where
/// all points are equal.
inline mmd_result mmd_squared(const points& x, const points& y, double bandwidth) {
  detail::checked_pair(x, y, "mmd_squared");
  if (bandwidth == 0 && detail::all_equal(x, y)) return {.degenerate = true};
  sluice::expects(bandwidth > 0, "mmd_squared", "bandwidth", bandwidth);
  const auto kernel_sum = [&](const points& a, const points& b) {
    std::vector<double> rows;
    for (const auto& p : a) {
      double row = 0;
      for (const auto& q : b) row += std::exp(-detail::squared_distance(p, q) / (2 * bandwidth * bandwidth));
      rows.push_back(row);
    }
    return pairwise_sum(rows);
  };
  const double n = static_cast<double>(x.size()), m = static_cast<double>(y.size());
  const double xx = kernel_sum(x, x), yy = kernel_sum(y, y), cross = 2 * kernel_sum(x, y) / (n * m);
  return {.unbiased = (xx - n) / (n * (n - 1)) + (yy - m) / (m * (m - 1)) - cross,
          .biased = xx / (n * n) + yy / (m * m) - cross};
}
struct linear_statistic {
  double mean, z;  ///< z is one-sided: large if the laws differ. Gate at 4.89 with 2000 pairs or more.
  bool degenerate = false;
};
namespace detail {
inline linear_statistic linear_from(std::span<const double> l) {
  const moments m = sample_moments(l);
  if (m.variance == 0 && m.mean == 0) return {0, 0, true};
  sluice::expects(m.variance > 0, "linear statistic", "variance", m.variance);
  return {m.mean, m.mean / std::sqrt(m.variance / m.n)};
}
}  // namespace detail
/// The linear-time statistic, of consecutive pairs (2i, 2i + 1); an odd point is left out. Samples of one size.
inline linear_statistic mmd_linear(const points& x, const points& y, double bandwidth) {
  detail::checked_pair(x, y, "mmd_linear");
  sluice::expects(x.size() == y.size() && x.size() >= 4, "mmd_linear", "points", y.size());
  if (bandwidth == 0 && detail::all_equal(x, y)) return {0, 0, true};
  sluice::expects(bandwidth > 0, "mmd_linear", "bandwidth", bandwidth);
  const auto k = [&](const std::vector<double>& a, const std::vector<double>& b) {
    return std::exp(-detail::squared_distance(a, b) / (2 * bandwidth * bandwidth));
  };
  std::vector<double> l;
  for (std::size_t i = 0; i + 1 < x.size(); i += 2)
    l.push_back(k(x[i], x[i + 1]) + k(y[i], y[i + 1]) - k(x[i], y[i + 1]) - k(x[i + 1], y[i]));
  return detail::linear_from(l);
}
/// 2 E|X - Y| - E|X - X'| - E|Y - Y'| with all pairs, the diagonal included: at least 0.
inline double energy_distance(const points& x, const points& y) {
  detail::checked_pair(x, y, "energy_distance");
  const auto mean = [](const points& a, const points& b) {
    std::vector<double> rows;
    for (const auto& p : a) {
      double row = 0;
      for (const auto& q : b) row += std::sqrt(detail::squared_distance(p, q));
      rows.push_back(row);
    }
    return pairwise_sum(rows) / static_cast<double>(a.size() * b.size());
  };
  return 2 * mean(x, y) - mean(x, x) - mean(y, y);
}

/// The kernel of the Stein discrepancy, with the inverse multiquadric (c^2 + |x - y|^2)^beta and the scores
/// (gradients of log p) at x and y: its mean over draws of p is 0.
struct stein_kernel {
  double c = 1, beta = -0.5;
  double operator()(const std::vector<double>& x, const std::vector<double>& score_x, const std::vector<double>& y,
                    const std::vector<double>& score_y) const {
    double square = 0, shift = 0;
    for (std::size_t k = 0; k < x.size(); ++k) {
      const double r = x[k] - y[k];
      square += r * r;
      shift += r * (score_y[k] - score_x[k]);
    }
    const double q = c * c + square, d = static_cast<double>(x.size());
    return detail::dot(score_x, score_y) * std::pow(q, beta) + 2 * beta * std::pow(q, beta - 1) * shift -
           2 * beta * d * std::pow(q, beta - 1) - 4 * beta * (beta - 1) * square * std::pow(q, beta - 2);
  }
};
struct stein_result {
  double v, u;  ///< means over all pairs, and over those of different points
};
namespace detail {
template <class Score>
points scores_at(const points& x, Score& score, const stein_kernel& kernel, std::size_t least, const char* function) {
  checked_dimension(x, least, function);
  sluice::expects(kernel.c > 0, function, "c", kernel.c);
  sluice::expects(kernel.beta < 0 && kernel.beta > -1, function, "beta", kernel.beta);
  points s;
  for (const auto& p : x) {
    s.push_back(score(p));
    sluice::expects(s.back().size() == p.size(), function, "score.size", s.back().size(), std::ssize(s) - 1);
  }
  return s;
}
}  // namespace detail
/// Kernel Stein discrepancy of draws against the law with this score. O(n^2 d).
template <class Score>
stein_result kernel_stein(const points& x, Score&& score, stein_kernel kernel = {}) {
  const points s = detail::scores_at(x, score, kernel, 2, "kernel_stein");
  std::vector<double> rows;
  double diagonal = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    double row = 0;
    for (std::size_t j = 0; j < x.size(); ++j)
      if (i != j) row += kernel(x[i], s[i], x[j], s[j]);
    rows.push_back(row);
    diagonal += kernel(x[i], s[i], x[i], s[i]);
  }
  const double n = static_cast<double>(x.size()), off = pairwise_sum(rows);
  return {(off + diagonal) / (n * n), off / (n * (n - 1))};
}
/// The linear-time version: the kernel of consecutive pairs, as a one-sided z.
template <class Score>
linear_statistic kernel_stein_linear(const points& x, Score&& score, stein_kernel kernel = {}) {
  const points s = detail::scores_at(x, score, kernel, 4, "kernel_stein_linear");
  std::vector<double> l;
  for (std::size_t i = 0; i + 1 < x.size(); i += 2) l.push_back(kernel(x[i], s[i], x[i + 1], s[i + 1]));
  return detail::linear_from(l);
}
/// p = (1 + #{permuted >= observed})/(1 + B): exact, but never below 1/(B + 1).
inline double permutation_p(double observed, std::span<const double> permuted) {
  sluice::expects(!permuted.empty(), "permutation_p", "permuted.size", permuted.size());
  const auto above = std::count_if(permuted.begin(), permuted.end(), [&](double t) { return t >= observed; });
  return (1 + static_cast<double>(above)) / (1 + static_cast<double>(permuted.size()));
}

}  // namespace support
