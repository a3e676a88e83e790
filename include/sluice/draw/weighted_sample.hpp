#pragma once
#include <sluice/core/tensor.hpp>
#include <sluice/random/stream.hpp>

#include <cmath>
#include <cstddef>
#include <span>
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

/// A way to choose k of n items by weight. `draw_into` reuses the memory of the sample and of the design; every design
/// also has draw(weights, k, random), which returns a new sample. A design that chooses a random number of items has k
/// as its mean.
template <class D>
concept sampling_design = requires(D& design, weighted_sample& sample, std::span<const double> weights, index_t k,
                                   cursor& random) {
  design.draw_into(sample, weights, k, random);
};

namespace detail {
/// Empties the sample, keeps its memory.
inline void restart(weighted_sample& s, probability_kind kind, index_t population) {
  s.index.clear();
  s.weight.clear();
  s.probability.clear();
  s.kind = kind;
  s.threshold = 0;
  s.ess = 0;
  s.population = population;
}
/// Sets ess from the weights.
inline void measure(weighted_sample& s) {
  double largest = 0, sum = 0, squares = 0;
  for (const double w : s.weight) largest = w > largest ? w : largest;
  if (largest == 0) return;
  for (const double w : s.weight) {
    const double v = w / largest;  // so that no square overflows
    sum += v;
    squares += v * v;
  }
  s.ess = sum * sum / squares;
}
}  // namespace detail

}  // namespace sluice
