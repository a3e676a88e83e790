#pragma once
#include <sluice/core/numeric.hpp>
#include <sluice/draw/weights.hpp>

#include <algorithm>
#include <cmath>
#include <span>

/// How many equally weighted items a weighted set is worth. All functions are O(n), allocate nothing, and throw
/// invalid_argument if there are no weights, if one is negative, NaN or infinite (log-weight: NaN or +inf), or if all
/// are zero.
namespace sluice {

/// (sum w)^2 / sum w^2, in [1, n]: n for equal weights, 1 if one has everything. Weights of any scale.
template <weight_range W>
double effective_sample_size(const W& weights) {
  const auto w = detail::weight_span(weights);
  const double max = detail::check_positive_weights(w, "effective_sample_size").max;
  const double sum = detail::accurate_sum(w, [max](double v) { return v / max; });
  const double squares = detail::accurate_sum(w, [max](double v) { return (v / max) * (v / max); });
  return std::clamp(sum * sum / squares, 1.0, static_cast<double>(w.size()));
}

/// The same from log-weights l: exp(2 LSE(l) - LSE(2 l)).
template <weight_range L>
double effective_sample_size_log(const L& log_weights) {
  const auto l = detail::weight_span(log_weights);
  const double max = detail::check_log_weights(l, "effective_sample_size").max;
  const double sum = detail::accurate_sum(l, [max](double v) { return std::exp(v - max); });
  const double squares = detail::accurate_sum(l, [max](double v) { return std::exp(2 * (v - max)); });
  return std::clamp(sum * sum / squares, 1.0, static_cast<double>(l.size()));
}

/// The exponential of the entropy of the normalised weights, exp(-sum p ln p), in [1, n]; never below
/// effective_sample_size.
template <weight_range W>
double entropic_sample_size(const W& weights) {
  const auto w = detail::weight_span(weights);
  const double max = detail::check_positive_weights(w, "entropic_sample_size").max;
  const double sum = detail::accurate_sum(w, [max](double v) { return v / max; });
  const double moment = detail::accurate_sum(w, [max](double v) {
    const double r = v / max;
    return r > 0 ? r * std::log(r) : 0.0;
  });
  return std::clamp(std::exp(std::log(sum) - moment / sum), 1.0, static_cast<double>(w.size()));
}

/// The same from log-weights.
template <weight_range L>
double entropic_sample_size_log(const L& log_weights) {
  const auto l = detail::weight_span(log_weights);
  const double max = detail::check_log_weights(l, "entropic_sample_size").max;
  const double sum = detail::accurate_sum(l, [max](double v) { return std::exp(v - max); });
  const double moment = detail::accurate_sum(l, [max](double v) {
    const double r = std::exp(v - max);
    return r > 0 ? r * (v - max) : 0.0;
  });
  return std::clamp(std::exp(std::log(sum) - moment / sum), 1.0, static_cast<double>(l.size()));
}

/// The usual rule of a particle filter: resample when the effective sample size is below this share of n.
template <weight_range W>
bool should_resample(const W& weights, double share = 0.5) {
  expects(share >= 0 && share <= 1, "should_resample", "share", share);
  return effective_sample_size(weights) < share * static_cast<double>(detail::weight_span(weights).size());
}

}  // namespace sluice
