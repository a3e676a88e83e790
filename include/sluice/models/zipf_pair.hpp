#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/numeric.hpp>
#include <sluice/models/draws.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

/// Unstable: for tests, benchmarks and examples; no compatibility is promised.
namespace sluice::models {

/// A target law p and a draft law q over V tokens, without any text: for verification at vocabularies of real size.
struct law_pair {
  std::vector<double> target_logits, draft_logits;  ///< not normalised
  std::vector<double> p, q;                         ///< their softmax
  double total_variation = 0;                       ///< sum_x max(p - q, 0): 1 - the probability of acceptance
};

/// Options of `zipf_pair`.
struct zipf_pair_options {
  double a = 1;      ///< exponent of Zipf's law
  double tau = 1.3;  ///< temperature of the draft; positive
  double delta = 1;  ///< noise of the draft's logits, not negative
};

/// p = softmax(-a ln(1 + i)),  q = softmax(-a ln(1 + i) / tau + delta normals), normals from stream (seed, 0x701).
/// O(V). Throws invalid_argument unless V >= 1, tau > 0, delta >= 0 and all are finite.
inline law_pair zipf_pair(index_t vocabulary_size, const zipf_pair_options& options, std::uint64_t seed) {
  expects(vocabulary_size >= 1, "zipf_pair", "vocabulary_size", vocabulary_size);
  expects(std::isfinite(options.a), "zipf_pair", "options.a", options.a);
  expects(options.tau > 0 && std::isfinite(options.tau), "zipf_pair", "options.tau", options.tau);
  expects(options.delta >= 0 && std::isfinite(options.delta), "zipf_pair", "options.delta", options.delta);
  const auto v = static_cast<std::size_t>(vocabulary_size);
  law_pair pair{std::vector<double>(v), std::vector<double>(v), std::vector<double>(v), std::vector<double>(v)};
  cursor random(stream(seed, stream_id::zipf_pair));
  normals(std::span<double>(pair.draft_logits), random);
  for (std::size_t i = 0; i < v; ++i) {
    pair.target_logits[i] = -options.a * std::log(1 + static_cast<double>(i));
    pair.draft_logits[i] = pair.target_logits[i] / options.tau + options.delta * pair.draft_logits[i];
  }
  softmax(std::span<double>(pair.p), std::span<const double>(pair.target_logits));
  softmax(std::span<double>(pair.q), std::span<const double>(pair.draft_logits));
  for (std::size_t i = 0; i < v; ++i) pair.total_variation += std::max(pair.p[i] - pair.q[i], 0.0);
  return pair;
}

}  // namespace sluice::models
