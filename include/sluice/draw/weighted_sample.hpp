#pragma once
#include <sluice/core/tensor.hpp>

#include <cmath>
#include <cstddef>
#include <vector>

/// What choosing hands to using. Every design of draw/ and every selector of select/ returns it; every estimator,
/// sketched regression and sampled product accepts it.
namespace sluice {

/// What `probability` holds, and how the weights follow from it:
/// inclusion: pi_i, weight 1/pi_i.  per_draw: q_i of each of k draws with replacement, weight 1/(k q_i).
/// none: no probabilities; weights are 1, or as the design documents.
enum class probability_kind { inclusion, per_draw, none };

/// Chosen items and their weights: sum of weight[t] * y[index[t]] estimates the total of y over the population. With
/// replacement an index may repeat.
struct weighted_sample {
  std::vector<index_t> index;
  std::vector<double> weight;
  std::vector<double> probability;  ///< empty if kind is none
  probability_kind kind = probability_kind::none;
  double threshold = 0;    ///< the design's tau, 0 if it has none
  double ess = 0;          ///< effective sample size, (sum w)^2 / sum w^2; 0 if nothing was chosen
  index_t population = 0;  ///< number of items chosen from
};

/// The factor by which a chosen row is multiplied so that a p-norm loss over the sample estimates the one over all
/// rows.
inline double row_scale(const weighted_sample& s, std::size_t i, double p) { return std::pow(s.weight[i], 1 / p); }

}  // namespace sluice
