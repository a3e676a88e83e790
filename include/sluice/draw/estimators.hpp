#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/draw/weighted_sample.hpp>
#include <sluice/draw/weights.hpp>

#include <limits>
#include <span>

/// Estimates of a total Y = sum y_i from a weighted sample, their exact variances, and unbiased estimates of those
/// variances. In estimates, y is a function of the position or a range over the population, read at the chosen items
/// only. Exact variances take the whole population.
namespace sluice {

/// Unbiased estimate of Y from the sample of any design: sum of weight * y. Hansen-Hurwitz for per_draw samples,
/// (1/k) sum y_t / q_t; Horvitz-Thompson for inclusion samples, sum y_i / pi_i.
template <class Y>
double estimate_total(Y&& y, const weighted_sample& s) {
  detail::exact_sum sum;
  for (std::size_t t = 0; t < s.index.size(); ++t) sum.add(s.weight[t] * detail::value_at(y, s.index[t]));
  return sum.value();
}

/// Exact variance of the Hansen-Hurwitz estimate from k draws with probabilities q (they need not be normalised):
/// (1/k)(sum y_i^2 / q_i - Y^2). Infinite if an item with y != 0 cannot be drawn. Throws invalid_argument if k < 1, if
/// the sizes differ, or if q is not a legal list of weights.
template <weight_range Q, weight_range Y>
double hansen_hurwitz_variance(const Q& probabilities, const Y& values, index_t k) {
  const auto q = detail::weight_span(probabilities);
  const auto y = detail::weight_span(values);
  expects(k >= 1, "hansen_hurwitz_variance", "k", k);
  expects(y.size() == q.size(), "hansen_hurwitz_variance", "y.size", y.size());
  const double scale = detail::weight_scale(detail::check_positive_weights(q, "hansen_hurwitz_variance").max);
  const double total = detail::accurate_sum(q, [scale](double v) { return v * scale; });
  const double sum = detail::accurate_sum(y);
  // sum q (y/q - Y)^2 is the same and does not cancel.
  detail::exact_sum spread;
  for (std::size_t i = 0; i < q.size(); ++i) {
    const double p = static_cast<double>(q[i]) * scale / total, v = static_cast<double>(y[i]);
    if (p > 0)
      spread.add(p * (v / p - sum) * (v / p - sum));
    else if (v != 0)
      return std::numeric_limits<double>::infinity();
  }
  return spread.value() / static_cast<double>(k);
}

/// Unbiased estimate of that variance from a per_draw sample of k >= 2 draws: sum (y_t/q_t - Y^)^2 / (k (k - 1)).
/// Throws invalid_argument for a sample of another kind or with k < 2.
template <class Y>
double hansen_hurwitz_variance_estimate(Y&& y, const weighted_sample& s) {
  const auto k = static_cast<double>(s.index.size());
  expects(s.kind == probability_kind::per_draw, "hansen_hurwitz_variance_estimate", "sample.kind",
          static_cast<int>(s.kind));
  expects(k >= 2, "hansen_hurwitz_variance_estimate", "sample.size", k);
  const double total = estimate_total(y, s);
  detail::exact_sum sum;
  for (std::size_t t = 0; t < s.index.size(); ++t) {
    const double d = detail::value_at(y, s.index[t]) / s.probability[t] - total;
    sum.add(d * d);
  }
  return sum.value() / (k * (k - 1));
}

namespace detail {
/// sum over i, j of term(i, j), with the checks that all population formulas share. `pair` is the matrix pi_ij by rows;
/// its diagonal is pi_i.
template <class P, class Y, class Term>
double pair_sum(const char* function, std::span<const P> pi, std::span<const P> pair, std::span<const Y> y, Term term) {
  expects(y.size() == pi.size(), function, "y.size", y.size());
  expects(pair.size() == pi.size() * pi.size(), function, "pair.size", pair.size());
  for (std::size_t i = 0; i < pi.size(); ++i)
    expects(pi[i] >= 0 && pi[i] <= 1 && (pi[i] > 0 || y[i] == 0), function, "pi", pi[i], static_cast<index_t>(i));
  exact_sum sum;
  for (std::size_t i = 0; i < pi.size(); ++i)
    for (std::size_t j = 0; j < pi.size(); ++j)
      if (pi[i] > 0 && pi[j] > 0)
        sum.add(term(i == j, static_cast<double>(pi[i]), static_cast<double>(pi[j]),
                     static_cast<double>(i == j ? pi[i] : pair[i * pi.size() + j]), static_cast<double>(y[i]),
                     static_cast<double>(y[j])));
  return sum.value();
}
}  // namespace detail

/// Exact variance of the Horvitz-Thompson estimate: sum_ij (pi_ij - pi_i pi_j) y_i y_j / (pi_i pi_j), pi_ii = pi_i.
/// pair: pi_ij, n x n by rows (the diagonal is not read). O(n^2). Throws invalid_argument if sizes do not fit, if a pi
/// is outside [0, 1], or if it is 0 where y is not.
template <weight_range P, weight_range PP, weight_range Y>
double horvitz_thompson_variance(const P& pi, const PP& pair, const Y& y) {
  return detail::pair_sum(
      "horvitz_thompson_variance", detail::weight_span(pi), detail::weight_span(pair), detail::weight_span(y),
      [](bool, double p, double q, double pq, double a, double b) { return (pq - p * q) * (a / p) * (b / q); });
}

/// The same for designs of fixed size, in the form that is a sum of squares (Sen, Yates, Grundy):
/// (1/2) sum_{i != j} (pi_i pi_j - pi_ij)(y_i/pi_i - y_j/pi_j)^2. Throws like horvitz_thompson_variance.
template <weight_range P, weight_range PP, weight_range Y>
double sen_yates_grundy_variance(const P& pi, const PP& pair, const Y& y) {
  return detail::pair_sum("sen_yates_grundy_variance", detail::weight_span(pi), detail::weight_span(pair),
                          detail::weight_span(y), [](bool same, double p, double q, double pq, double a, double b) {
                            return same ? 0.0 : 0.5 * (p * q - pq) * (a / p - b / q) * (a / p - b / q);
                          });
}

/// Exact variance under the Poisson design: sum y_i^2 (1 - pi_i) / pi_i. O(n). Throws like horvitz_thompson_variance.
template <weight_range P, weight_range Y>
double poisson_variance(const P& inclusion, const Y& values) {
  const auto pi = detail::weight_span(inclusion);
  const auto y = detail::weight_span(values);
  expects(y.size() == pi.size(), "poisson_variance", "y.size", y.size());
  detail::exact_sum sum;
  for (std::size_t i = 0; i < pi.size(); ++i) {
    const double p = static_cast<double>(pi[i]), v = static_cast<double>(y[i]);
    expects(p >= 0 && p <= 1 && (p > 0 || v == 0), "poisson_variance", "pi", p, static_cast<index_t>(i));
    if (p > 0) sum.add(v * v * (1 - p) / p);
  }
  return sum.value();
}

namespace detail {
template <class Y, class Pair, class Term>
double sample_pair_sum(const char* function, Y& y, const weighted_sample& s, Pair& pair, Term term) {
  expects(s.kind == probability_kind::inclusion, function, "sample.kind", static_cast<int>(s.kind));
  exact_sum sum;
  for (std::size_t t = 0; t < s.index.size(); ++t)
    for (std::size_t r = 0; r < s.index.size(); ++r) {
      const double p = s.probability[t], q = s.probability[r];
      const double pq = t == r ? p : static_cast<double>(pair(s.index[t], s.index[r]));
      expects(pq > 0, function, "pair", pq, s.index[t]);
      sum.add(term(t == r, p, q, pq, value_at(y, s.index[t]), value_at(y, s.index[r])) / pq);
    }
  return sum.value();
}
}  // namespace detail

/// Unbiased estimate of the Horvitz-Thompson variance from one sample: each term divided by pi_ij. pair(i, j) gives
/// pi_ij of two different chosen items; all must be positive. May be negative. O(k^2). Throws invalid_argument for a
/// sample of another kind, or where pair gives 0.
template <class Y, class Pair>
double horvitz_thompson_variance_estimate(Y&& y, Pair&& pair, const weighted_sample& s) {
  return detail::sample_pair_sum(
      "horvitz_thompson_variance_estimate", y, s, pair,
      [](bool, double p, double q, double pq, double a, double b) { return (pq - p * q) * (a / p) * (b / q); });
}

/// The Sen-Yates-Grundy form, for designs of fixed size; nonnegative where pi_ij <= pi_i pi_j.
template <class Y, class Pair>
double sen_yates_grundy_variance_estimate(Y&& y, Pair&& pair, const weighted_sample& s) {
  return detail::sample_pair_sum("sen_yates_grundy_variance_estimate", y, s, pair,
                                 [](bool same, double p, double q, double pq, double a, double b) {
                                   return same ? 0.0 : 0.5 * (p * q - pq) * (a / p - b / q) * (a / p - b / q);
                                 });
}

/// Unbiased estimate of the variance under the Poisson design: sum over the sample of y^2 (1 - pi) / pi^2.
template <class Y>
double poisson_variance_estimate(Y&& y, const weighted_sample& s) {
  expects(s.kind == probability_kind::inclusion, "poisson_variance_estimate", "sample.kind", static_cast<int>(s.kind));
  detail::exact_sum sum;
  for (std::size_t t = 0; t < s.index.size(); ++t) {
    const double v = detail::value_at(y, s.index[t]) / s.probability[t];
    sum.add(v * v * (1 - s.probability[t]));
  }
  return sum.value();
}

}  // namespace sluice
