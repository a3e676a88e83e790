#pragma once
#include <sluice/core/tensor.hpp>
#include <sluice/generate/model.hpp>
#include <sluice/random/distributions.hpp>
#include <sluice/random/stream.hpp>

#include <cstdint>

/// Where the noise of a stochastic step comes from.
namespace sluice {

/// Writes independent standard normals for the step i from level `from` down to level `to` into `out`, a function of
/// the key, the sample, and the step or the levels only.
template <class N, class O>
concept noise_source = requires(const N& n, O& out, index_t i, const noise_level& l) {
  n(out, i, l, l);
};

namespace detail {
template <class O>
concept batch_of_columns = requires(O& x) {
  x.col(0);
  x.cols();
};
}  // namespace detail

/// Calls f(sample, column) for each sample of a batch: the columns of an Eigen matrix; any other tensor is one sample.
template <class O, class F>
void for_each_sample(O& x, F&& f) {
  if constexpr (detail::batch_of_columns<O>) {
    for (index_t j = 0; j < x.cols(); ++j) f(static_cast<std::uint64_t>(j), x.col(j));
  } else {
    f(std::uint64_t{0}, x);
  }
}

/// Noise by the index of the step: sample j, step i, element e is normal_at(key.derive(first_sample + j).derive(i), e).
/// So it depends neither on how samples are batched (give each batch its first_sample) nor on threads.
/// Throws nothing; allocates nothing.
struct step_noise {
  stream key{0};
  std::uint64_t first_sample = 0;
  template <class O>
  void operator()(O& out, index_t i, const noise_level&, const noise_level&) const {
    for_each_sample(out, [&](std::uint64_t j, auto&& column) {
      fill_normal(column, key.derive(first_sample + j).derive(static_cast<std::uint64_t>(i)));
    });
  }
};

/// Starting states: x = sigma noise with sigma of the first level, sample j from key.derive(first_sample + j). Steps
/// use key.derive(sample).derive(step), so give the start a key of its own.
template <writable_tensor X>
void fill_start(X&& x, const noise_level& level, stream key, std::uint64_t first_sample = 0) {
  for_each_sample(
      x, [&](std::uint64_t j, auto&& column) { fill_normal(column, key.derive(first_sample + j), level.sigma); });
}

}  // namespace sluice
