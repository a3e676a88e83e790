#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "critical.hpp"

/// Tests of counts. Counts are any range of numbers (vector<int>, vector<uint64_t>, ...), probabilities any range of
/// double that sums to 1 within 1e-9.
namespace support {

inline constexpr std::size_t no_cell = static_cast<std::size_t>(-1);

/// What a test found. p-values are logarithms; a gate is `passes()`.
struct test_result {
  const char* name = "";
  double statistic = 0;
  double df = 0;     ///< 0 if the law has no degrees of freedom
  double log_p = 0;  ///< natural logarithm of P(a statistic as far out | null)
  /// Natural logarithm of P(a statistic as small | null); 0 where the lower tail means nothing.
  double log_p_lower = 0;
  double n = 0;
  std::size_t worst_cell = no_cell;  ///< the cell that adds most, by its index in the caller's table
  double worst_observed = 0, worst_expected = 0;

  double p() const { return std::exp(log_p); }
  bool passes(double alpha = default_alpha) const {
    expects_level(alpha, "test_result::passes");
    return log_p >= std::log(alpha);
  }
  /// Also fails if the fit is too good: where draws are claimed to be independent, that means reused randomness.
  bool passes_both_tails(double alpha = default_alpha) const { return passes(alpha) && log_p_lower >= std::log(alpha); }
  /// One line for a failure message.
  std::string describe() const {
    char text[256];
    const int length = std::snprintf(text, sizeof text, "%s: statistic %.6g, df %g, log10 p %.3f, n %.0f", name,
                                     statistic, df, log_p / std::numbers::ln10, n);
    std::string line(text, static_cast<std::size_t>(std::min(length, 255)));
    if (worst_cell != no_cell) {
      std::snprintf(text, sizeof text, ", worst cell %zu: observed %.6g, expected %.6g", worst_cell, worst_observed,
                    worst_expected);
      line += text;
    }
    return line;
  }
};

/// Printed by a failed CHECK.
template <class Stream>
requires requires(Stream& out, const std::string& s) { out << s; }
Stream& operator<<(Stream& out, const test_result& r) {
  out << r.describe();
  return out;
}

namespace detail {
template <class Range>
std::vector<double> checked_counts(const Range& counts, const char* function) {
  std::vector<double> o;
  for (const auto c : counts) {
    const double v = static_cast<double>(c);
    sluice::expects(v >= 0 && std::isfinite(v), function, "observed", v, std::ssize(o));
    o.push_back(v);
  }
  sluice::expects(!o.empty(), function, "observed.size", 0);
  return o;
}
template <class Range>
std::vector<double> checked_probabilities(const Range& probabilities, std::size_t size, const char* function) {
  std::vector<double> p;
  double total = 0;
  for (const auto x : probabilities) {
    const double v = static_cast<double>(x);
    sluice::expects(v >= 0 && std::isfinite(v), function, "p", v, std::ssize(p));
    p.push_back(v);
    total += v;
  }
  sluice::expects(p.size() == size, function, "p.size", p.size());
  sluice::expects(std::abs(total - 1) <= 1e-9, function, "p.total", total);
  return p;
}
inline double total_of(const std::vector<double>& o, const char* function) {
  const double n = std::accumulate(o.begin(), o.end(), 0.0);
  sluice::expects(n > 0, function, "n", n);
  return n;
}
}  // namespace detail

/// A table with expected counts, and which of the caller's cells went into each of its cells.
struct cell_table {
  std::vector<double> observed, p;
  std::vector<std::vector<std::size_t>> members;
};

/// Merges the cells of smallest expected count until each expects at least `minimum`; decided by p and n alone, never
/// by the counts. `minimum` 0 means the rule of the house: 10, or 30 if fewer than 5 degrees of freedom are left. A
/// cell with p = 0 goes with the smallest others unless it was observed, which keeps it apart (and fails any test).
template <class Counts, class Probabilities>
cell_table merge_small_cells(const Counts& observed, const Probabilities& probabilities, double minimum = 0) {
  const auto o = detail::checked_counts(observed, "merge_small_cells");
  const auto p = detail::checked_probabilities(probabilities, o.size(), "merge_small_cells");
  const double n = detail::total_of(o, "merge_small_cells");
  std::vector<std::size_t> order(o.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return p[a] < p[b]; });
  const auto merged = [&](double limit) {
    cell_table t;
    bool open = false;  // the last cell of t expects too little
    for (const std::size_t i : order) {
      if (p[i] == 0 && o[i] == 0) continue;
      if (p[i] == 0) {
        t.observed.push_back(o[i]), t.p.push_back(0), t.members.push_back({i});
        continue;
      }
      if (!open) t.observed.push_back(0), t.p.push_back(0), t.members.emplace_back();
      t.observed.back() += o[i], t.p.back() += p[i], t.members.back().push_back(i);
      open = n * t.p.back() < limit;
    }
    if (open && t.p.size() > 1 && t.p[t.p.size() - 2] > 0) {  // what is left over joins the cell before
      auto& into = t.members[t.members.size() - 2];
      into.insert(into.end(), t.members.back().begin(), t.members.back().end());
      t.observed[t.observed.size() - 2] += t.observed.back(), t.p[t.p.size() - 2] += t.p.back();
      t.observed.pop_back(), t.p.pop_back(), t.members.pop_back();
    }
    return t;
  };
  if (minimum > 0) return merged(minimum);
  cell_table t = merged(10);
  return t.p.size() > 5 ? t : merged(30);
}

namespace detail {
template <class Term>
test_result cell_sum(const char* name, const std::vector<double>& o, const std::vector<double>& p, double n,
                     Term term) {
  test_result r{.name = name, .n = n};
  double worst = -1;
  for (std::size_t i = 0; i < o.size(); ++i) {
    const double e = n * p[i], x = p[i] > 0 ? term(o[i], e) : (o[i] > 0 ? infinity : 0.0);
    r.statistic += x;
    const double distance = p[i] > 0 ? (o[i] - e) * (o[i] - e) / e : x;
    if (distance > worst) worst = distance, r.worst_cell = i, r.worst_observed = o[i], r.worst_expected = e;
  }
  r.df = static_cast<double>(o.size()) - 1;
  if (r.df > 0) {  // one cell is always met
    r.log_p = log_chi_square_sf(r.statistic, r.df);
    r.log_p_lower = log_chi_square_cdf(r.statistic, r.df);
  } else {
    r.log_p = r.statistic > 0 ? -infinity : 0;
  }
  return r;
}
}  // namespace detail

/// Pearson's X^2 = sum (O - E)^2/E with df = cells - 1. Arithmetic only: the limit on E is the caller's (see fits).
/// A cell with p = 0 that was observed gives p = 0.
template <class Counts, class Probabilities>
test_result pearson(const Counts& observed, const Probabilities& probabilities) {
  const auto o = detail::checked_counts(observed, "pearson");
  const auto p = detail::checked_probabilities(probabilities, o.size(), "pearson");
  return detail::cell_sum("pearson", o, p, detail::total_of(o, "pearson"),
                          [](double x, double e) { return (x - e) * (x - e) / e; });
}
/// G = 2 sum O ln(O/E); an empty cell adds 0.
template <class Counts, class Probabilities>
test_result g_test(const Counts& observed, const Probabilities& probabilities) {
  const auto o = detail::checked_counts(observed, "g_test");
  const auto p = detail::checked_probabilities(probabilities, o.size(), "g_test");
  return detail::cell_sum("G", o, p, detail::total_of(o, "g_test"),
                          [](double x, double e) { return x > 0 ? 2 * x * std::log(x / e) : 0.0; });
}
/// Pearson's test for a gate: refuses expected counts below 10 (30 if df < 5), which must be merged first.
template <class Counts, class Probabilities>
test_result pearson_gate(const Counts& observed, const Probabilities& probabilities) {
  const auto o = detail::checked_counts(observed, "pearson_gate");
  const auto p = detail::checked_probabilities(probabilities, o.size(), "pearson_gate");
  const double n = detail::total_of(o, "pearson_gate"), limit = o.size() > 5 ? 10 : 30;
  for (std::size_t i = 0; i < p.size(); ++i)
    sluice::expects(p[i] == 0 || p[i] == 1 || n * p[i] >= limit, "pearson_gate",
                    "expected count too small, merge_small_cells first", n * p[i], static_cast<std::ptrdiff_t>(i));
  return pearson(o, p);
}
/// Merges small cells, then Pearson's test: the usual gate of a sampler. CHECK(fits(counts, law).passes()).
/// Throws invalid_argument if fewer than two cells are left: draw more.
template <class Counts, class Probabilities>
test_result fits(const Counts& observed, const Probabilities& probabilities) {
  const cell_table t = merge_small_cells(observed, probabilities);
  sluice::expects(t.p.size() > 1 || t.members.front().size() == 1, "fits", "cells after merging", t.p.size());
  test_result r = pearson_gate(t.observed, t.p);
  if (r.worst_cell != no_cell) {  // in the caller's table
    r.worst_cell = t.members[r.worst_cell].front();
  }
  return r;
}

/// Do two samples of counts come from one law? Homogeneity of a 2 x k table; cells that neither saw are left out.
template <class CountsA, class CountsB>
test_result homogeneity(const CountsA& a, const CountsB& b) {
  const auto x = detail::checked_counts(a, "homogeneity"), y = detail::checked_counts(b, "homogeneity");
  sluice::expects(x.size() == y.size(), "homogeneity", "b.size", y.size());
  const double nx = detail::total_of(x, "homogeneity"), ny = detail::total_of(y, "homogeneity"), n = nx + ny;
  test_result r{.name = "homogeneity", .df = -1, .n = n};
  double worst = -1;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double both = x[i] + y[i];
    if (both == 0) continue;
    const double ex = both * nx / n, ey = both * ny / n, d = x[i] - ex;
    const double term = d * d / ex + d * d / ey;  // the two deviations are opposite
    r.statistic += term;
    ++r.df;
    if (term > worst) worst = term, r.worst_cell = i, r.worst_observed = x[i], r.worst_expected = ex;
  }
  if (r.df >= 1) {
    r.log_p = log_chi_square_sf(r.statistic, r.df);
    r.log_p_lower = log_chi_square_cdf(r.statistic, r.df);
  }
  return r;
}
/// Serial test: the disjoint pairs (x_0, x_1), (x_2, x_3), ... of cell numbers against independence with known cell
/// probabilities; k^2 - 1 degrees of freedom, small products merged.
template <class Cells, class Probabilities>
test_result serial_pairs(const Cells& cells, const Probabilities& probabilities) {
  const std::size_t k = static_cast<std::size_t>(std::size(probabilities));
  std::vector<double> counts(k * k), p;
  for (std::size_t i = 0; i + 1 < static_cast<std::size_t>(std::size(cells)); i += 2) {
    const auto a = static_cast<std::size_t>(cells[i]), b = static_cast<std::size_t>(cells[i + 1]);
    sluice::expects(a < k && b < k, "serial_pairs", "cells", a < k ? b : a, static_cast<std::ptrdiff_t>(i));
    ++counts[a * k + b];
  }
  for (const double a : probabilities)
    for (const double b : probabilities) p.push_back(a * b);
  test_result r = fits(counts, p);
  r.name = "serial pairs";
  return r;
}

/// The total variation distance of the empirical law of counts from p.
template <class Counts, class Probabilities>
double empirical_tv(const Counts& observed, const Probabilities& probabilities) {
  const auto o = detail::checked_counts(observed, "empirical_tv");
  const auto p = detail::checked_probabilities(probabilities, o.size(), "empirical_tv");
  const double n = detail::total_of(o, "empirical_tv");
  double sum = 0;
  for (std::size_t i = 0; i < o.size(); ++i) sum += std::abs(o[i] / n - p[i]);
  return sum / 2;
}
/// What empirical_tv exceeds with probability at most alpha: sqrt((k-1)/n)/2 + sqrt(ln(1/alpha)/(2n)). For every k and
/// n, without asymptotics.
inline double tv_threshold(std::size_t cells, double n, double alpha = default_alpha) {
  sluice::expects(cells >= 1, "tv_threshold", "cells", cells);
  return 0.5 * std::sqrt(static_cast<double>(cells - 1) / n) + tv_margin(n, alpha);
}

/// Exact p of a table: the sum of the probabilities of all tables that are not more probable (relative slack 1e-9).
/// All tables are visited: for n and few cells with at most 2e7 of them.
template <class Counts, class Probabilities>
double exact_multinomial_p(const Counts& observed, const Probabilities& probabilities) {
  const auto o = detail::checked_counts(observed, "exact_multinomial_p");
  const auto p = detail::checked_probabilities(probabilities, o.size(), "exact_multinomial_p");
  const double total = detail::total_of(o, "exact_multinomial_p");
  const std::size_t k = o.size(), n = static_cast<std::size_t>(total);
  const double log_tables =
      std::lgamma(total + static_cast<double>(k)) - std::lgamma(total + 1) - std::lgamma(static_cast<double>(k));
  sluice::expects(log_tables <= std::log(2e7), "exact_multinomial_p", "tables", std::exp(log_tables));
  std::vector<std::vector<double>> log_term(k);  // of c draws in cell i: c ln p_i - ln c!
  for (std::size_t i = 0; i < k; ++i) {
    sluice::expects(o[i] == std::floor(o[i]), "exact_multinomial_p", "observed", o[i], static_cast<std::ptrdiff_t>(i));
    for (std::size_t c = 0; c <= n; ++c) {
      const double x = static_cast<double>(c);
      log_term[i].push_back((c == 0 ? 0.0 : x * std::log(p[i])) - std::lgamma(x + 1));
    }
  }
  double seen = std::lgamma(total + 1), sum = 0;
  for (std::size_t i = 0; i < k; ++i) seen += log_term[i][static_cast<std::size_t>(o[i])];
  if (seen == -infinity) return 0;
  const double limit = seen + std::log1p(1e-9);
  const auto visit = [&](auto& self, std::size_t cell, std::size_t left, double log_p) -> void {
    if (log_p == -infinity) return;
    if (cell + 1 == k) {
      const double l = log_p + log_term[cell][left];
      if (l <= limit) sum += std::exp(l);
      return;
    }
    for (std::size_t c = 0; c <= left; ++c) self(self, cell + 1, left - c, log_p + log_term[cell][c]);
  };
  visit(visit, 0, n, std::lgamma(total + 1));
  return std::min(1.0, sum);
}

/// log P(X = k), X binomial.
inline double log_binomial_pmf(double k, double n, double p) {
  if (p == 0 || p == 1) return k == n * p ? 0 : -infinity;
  return std::lgamma(n + 1) - std::lgamma(k + 1) - std::lgamma(n - k + 1) + k * std::log(p) + (n - k) * std::log1p(-p);
}
/// log P(X <= k).
inline double log_binomial_cdf(double k, double n, double p) {
  if (k < 0) return -infinity;
  return k >= n || p == 0 ? 0 : p == 1 ? -infinity : log_beta_i(n - k, k + 1, 1 - p, p);
}
/// log P(X > k).
inline double log_binomial_sf(double k, double n, double p) {
  if (k < 0) return 0;
  return k >= n || p == 0 ? -infinity : p == 1 ? 0 : log_beta_i(k + 1, n - k, p, 1 - p);
}

namespace detail {
inline void checked_binomial(double k, double n, double p, const char* function) {
  sluice::expects(n >= 1 && n == std::floor(n), function, "n", n);
  sluice::expects(k >= 0 && k <= n && k == std::floor(k), function, "successes", k);
  sluice::expects(p >= 0 && p <= 1, function, "p", p);
}
/// The smallest integer in [0, n] for which `holds`, which is false below and true above; n if there is none.
template <class Holds>
double first_that(double n, Holds holds) {
  double low = 0, high = n;
  while (low < high) {
    const double middle = std::floor((low + high) / 2);
    if (holds(middle))
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}
}  // namespace detail

/// Exact two-sided p of `successes` in n trials: the outcomes not more likely than the observed one (relative slack
/// 1e-7). O(log n) tail evaluations.
inline test_result binomial_two_sided(double successes, double n, double p) {
  detail::checked_binomial(successes, n, p, "binomial_two_sided");
  test_result r{.name = "binomial", .statistic = successes, .n = n};
  const double seen = log_binomial_pmf(successes, n, p), limit = seen + std::log1p(1e-7);
  if (seen == -infinity) {
    r.log_p = -infinity;
    return r;
  }
  const double mode = std::min(n, std::floor((n + 1) * p));
  if (log_binomial_pmf(mode, n, p) <= limit) return r;
  // The law rises up to its mode and falls after it. `low`: the first k that is more likely; `high`: the last.
  const double low = detail::first_that(mode, [&](double k) { return log_binomial_pmf(k, n, p) > limit; });
  const double high = mode + detail::first_that(n - mode, [&](double k) {
                        return mode + k + 1 > n || log_binomial_pmf(mode + k + 1, n, p) <= limit;
                      });
  r.log_p = std::min(0.0, std::log(std::exp(log_binomial_cdf(low - 1, n, p)) + std::exp(log_binomial_sf(high, n, p))));
  if (r.log_p == -infinity) r.log_p = std::max(log_binomial_cdf(low - 1, n, p), log_binomial_sf(high, n, p));
  return r;
}

struct count_range {
  double low, high;
  bool contains(double k) const { return low <= k && k <= high; }
};
/// Covered counts that a correct interval of this level shows in R data sets: low is the smallest k with
/// P(X <= k) >= alpha/2, high the smallest with P(X > k) <= alpha/2.
inline count_range coverage_range(double R, double level, double alpha = default_alpha) {
  detail::checked_binomial(0, R, level, "coverage_range");
  expects_level(alpha, "coverage_range");
  const double target = std::log(alpha / 2);
  return {detail::first_that(R, [&](double k) { return log_binomial_cdf(k, R, level) >= target; }),
          detail::first_that(R, [&](double k) { return log_binomial_sf(k, R, level) <= target; })};
}

struct interval {
  double low, high;
};
inline interval clopper_pearson(double successes, double n, double level) {
  detail::checked_binomial(successes, n, level, "clopper_pearson");
  const double tail = (1 - level) / 2;
  return {successes == 0 ? 0 : beta_quantile(successes, n - successes + 1, tail),
          successes == n ? 1 : beta_quantile(successes + 1, n - successes, 1 - tail)};
}
inline interval wilson(double successes, double n, double level) {
  detail::checked_binomial(successes, n, level, "wilson");
  const double z = -normal_quantile((1 - level) / 2), q = successes / n, square = z * z / n;
  const double middle = (q + square / 2) / (1 + square);
  const double half = z * std::sqrt(q * (1 - q) / n + square / (4 * n)) / (1 + square);
  return {middle - half, middle + half};
}

/// Counts of cell numbers 0 ... cells - 1.
template <class Cells>
std::vector<std::uint64_t> tally(const Cells& sample, std::size_t cells) {
  std::vector<std::uint64_t> counts(cells);
  std::ptrdiff_t i = 0;
  for (const auto x : sample) {
    const auto c = static_cast<std::size_t>(x);
    sluice::expects(c < cells, "tally", "sample", x, i++);
    ++counts[c];
  }
  return counts;
}

}  // namespace support
