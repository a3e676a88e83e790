#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/generate/model.hpp>
#include <sluice/generate/noise.hpp>
#include <sluice/random/distributions.hpp>
#include <sluice/random/stream.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

namespace sluice {

/// Noise of one Brownian path per sample and element, whatever the grid: runs with different steps see the same path,
/// so that samples change little with the number of steps, and differences between solvers are not noise. W is a
/// Brownian motion over the clock lambda = -log kappa in [-32, 32]; the noise of a step is
///     (W(lambda_t) - W(lambda_s)) / sqrt(lambda_t - lambda_s),
/// exactly standard normal, independent between steps that do not overlap. Values at dyadic points come from midpoint
/// displacement: node n of the tree (1 the whole, 2 n and 2 n + 1 its halves) draws element e of sample j from
/// key.derive(first_sample + j).derive(n), by random access, so nothing is stored and no order of queries matters.
/// lambda is rounded to a multiple of 2^(6 - depth), and clamped to the clock at its infinite ends; the law stays
/// exact. Two levels that round to the same multiple are a step without room for noise: the noise is then 0. Cost: up
/// to 2 depth normals an element and step (step_noise: one). Allocates nothing. Immutable. Source: Li et al., AISTATS
/// 2020 (arXiv:2001.01328), the virtual Brownian tree. Differs: dyadic rounding with exact law instead of a tolerance;
/// counter-based nodes.
struct brownian_path {
  stream key{0};
  std::uint64_t first_sample = 0;
  int depth = 24;  ///< 1 to 48; resolution of the clock 2^(6 - depth): 3.8e-6 in lambda

  template <class O>
  void operator()(O& out, index_t, const noise_level& from, const noise_level& to) const {
    expects(depth >= 1 && depth <= 48, "brownian_path", "depth", depth);
    const std::uint64_t a = position(from.lambda()), b = position(to.lambda());
    const double length = std::ldexp(static_cast<double>(b - a), 6 - depth);
    const double scale = b > a ? 1 / std::sqrt(length) : 0.0;
    for_each_sample(out, [&](std::uint64_t j, auto&& column) {
      const stream sample = key.derive(first_sample + j);
      auto e = traits_of<decltype(column)>::elements(column);
      using scalar = typename decltype(e)::Scalar;
      const auto n = static_cast<std::uint64_t>(e.size());
      std::array<double, block> low, high;
      for (std::uint64_t first = 0; first < n; first += block) {
        const std::uint64_t count = std::min(block, n - first);
        value(low, sample, a, first, count);
        value(high, sample, b, first, count);
        for (std::uint64_t i = 0; i < count; ++i)
          detail::put_element(e, first + i, static_cast<scalar>(scale * (high[i] - low[i])));
      }
    });
  }

 private:
  static constexpr std::uint64_t block = 256;  // elements at a time: all of it stays in the first-level cache

  std::uint64_t position(double lambda) const {
    const double cells = std::ldexp(1.0, depth);
    return static_cast<std::uint64_t>(std::nearbyint(std::clamp((lambda + 32) / 64, 0.0, 1.0) * cells));
  }
  /// w[i] = W of element first + i at the multiple `at` of 2^-depth of the clock, W(0) = 0.
  void value(std::array<double, block>& w, stream sample, std::uint64_t at, std::uint64_t first,
             std::uint64_t count) const {
    std::array<double, block> left{}, right{};
    const auto add = [&](std::array<double, block>& to, std::uint64_t node, double sd) {
      detail::normals_in(sample.derive(node), first, first + count,
                         [&](std::uint64_t e, double z) { to[e - first] += sd * z; });
    };
    add(right, 0, 8);  // W at the end of the clock: variance 64
    std::uint64_t begin = 0, end = std::uint64_t{1} << depth, node = 1;
    double sd = 4;  // of the midpoint between known ends: half the root of their distance
    while (at != begin && at != end) {
      const std::uint64_t middle = begin + (end - begin) / 2;
      std::array<double, block>& replaced = at < middle ? right : left;
      for (std::uint64_t i = 0; i < count; ++i) replaced[i] = (left[i] + right[i]) / 2;
      add(replaced, node, sd);
      node = 2 * node + (at < middle ? 0 : 1);
      (at < middle ? end : begin) = middle;
      sd *= std::sqrt(0.5);
    }
    w = at == begin ? left : right;
  }
};

}  // namespace sluice
