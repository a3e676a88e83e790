#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/draw/weights.hpp>
#include <sluice/draw/words.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/random/uniform.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

/// Resampling of particles: N offspring from n weighted parents, so that the expected number of copies of parent j is
/// N w_j / W. The ancestors come sorted. Every scheme is one merge of sorted positions with the running sums C,
/// O(n + N): the ancestor of position p in [0, 1) is the smallest j with C_j > p W.
/// | scheme | positions | copies of j |
/// |---|---|---|
/// | multinomial_resampling | sorted uniforms | multinomial |
/// | stratified_resampling | (i + u_i)/N | less than 2 from N w_j |
/// | systematic_resampling | (i + u)/N | floor or ceiling of N w_j |
/// | residual_resampling<S> | floor(N w_j) copies, scheme S on the fractions | at least floor(N w_j) |
/// Sources: Douc and Cappe, ISPA 2005; Gerber, Chopin and Whiteley, Annals of Statistics 47(4), 2019.
namespace sluice {

namespace detail {

/// ancestors[i] = smallest j with N C_j / W - i > offset(i), and offset(i) in [0, 1) the place of position i in its
/// N-th part: comparing after the subtraction of i keeps all bits of the offset, so equal weights get one copy each
/// for every u. share(j) >= 0 is N w_j / W. Guard: rounding may leave the last positions beyond every sum; they get the
/// last parent of positive share.
template <class Share, class Offset>
void merge_positions(std::span<index_t> ancestors, index_t n, Share share, Offset offset) {
  exact_sum reached;
  index_t j = -1, last = -1;
  for (index_t i = 0; i < std::ssize(ancestors); ++i) {
    const double u = offset(i), at = static_cast<double>(i);
    while (last < 0 || !(reached.minus(at) > u)) {
      if (++j >= n) break;
      if (const double s = share(j); s > 0) {
        reached.add(s);
        last = j;
      }
    }
    ancestors[static_cast<std::size_t>(i)] = last;
  }
}

/// The shares N w_j / W of checked weights.
template <class S>
struct weight_shares {
  std::span<const S> weights;
  double scale, total, n_offspring;
  double operator()(index_t j) const {
    return static_cast<double>(weights[static_cast<std::size_t>(j)]) * scale * n_offspring / total;
  }
};
template <class S>
weight_shares<S> shares_of(std::span<const S> w, index_t n_offspring, const char* function) {
  expects(!w.empty() || n_offspring == 0, function, "weights.size", 0);
  const weight_summary seen = check_weights(w, function);
  expects(seen.positive > 0 || n_offspring == 0, function, "all particles have zero weight: sum of weights", 0);
  const double scale = weight_scale(seen.max);
  // Item by item: then n equal weights sum to n w as rounded, and N = n gives shares of exactly 1.
  exact_sum total;
  for (const S v : w) total.add(static_cast<double>(v) * scale);
  return {w, scale, total.value(), static_cast<double>(n_offspring)};
}

}  // namespace detail

/// One uniform per N-th part.
struct stratified_resampling {
  template <class Share, word_source R>
  void spread(std::span<index_t> ancestors, index_t n, Share share, R& random) {
    detail::merge_positions(ancestors, n, share, [&](index_t) { return co53(random()); });
  }
  /// The ancestors for given uniforms u_i in [0, 1).
  template <weight_range W>
  static void ancestors_at(std::span<index_t> ancestors, const W& weights, std::span<const double> u) {
    expects(u.size() == ancestors.size(), "stratified_resampling", "u.size", u.size());
    const auto w = detail::weight_span(weights);
    detail::merge_positions(ancestors, std::ssize(w),
                            detail::shares_of(w, std::ssize(ancestors), "stratified_resampling"),
                            [u](index_t i) { return u[static_cast<std::size_t>(i)]; });
  }
};

/// One uniform for all positions: one word.
struct systematic_resampling {
  template <class Share, word_source R>
  void spread(std::span<index_t> ancestors, index_t n, Share share, R& random) {
    const double u = co53(random());
    detail::merge_positions(ancestors, n, share, [u](index_t) { return u; });
  }
  /// The ancestors for a given u in [0, 1).
  template <weight_range W>
  static void ancestors_at(std::span<index_t> ancestors, const W& weights, double u) {
    const auto w = detail::weight_span(weights);
    detail::merge_positions(ancestors, std::ssize(w),
                            detail::shares_of(w, std::ssize(ancestors), "systematic_resampling"),
                            [u](index_t) { return u; });
  }
};

/// N independent draws, made in ascending order from N + 1 exponential spacings, without sorting.
struct multinomial_resampling {
  template <class Share, word_source R>
  void spread(std::span<index_t> ancestors, index_t n, Share share, R& random) {
    spacing.resize(ancestors.size());
    double sum = 0;
    for (double& s : spacing) s = sum -= std::log(oc53(random()));
    sum -= std::log(oc53(random()));
    const double scale = static_cast<double>(ancestors.size()) / sum;
    detail::merge_positions(ancestors, n, share, [&](index_t i) {
      return spacing[static_cast<std::size_t>(i)] * scale - static_cast<double>(i);
    });
  }
  /// The ancestors for given positions in [0, 1), ascending.
  template <weight_range W>
  static void ancestors_at(std::span<index_t> ancestors, const W& weights, std::span<const double> sorted) {
    expects(sorted.size() == ancestors.size(), "multinomial_resampling", "sorted.size", sorted.size());
    const auto w = detail::weight_span(weights);
    const double n = static_cast<double>(sorted.size());
    detail::merge_positions(
        ancestors, std::ssize(w), detail::shares_of(w, std::ssize(ancestors), "multinomial_resampling"),
        [&](index_t i) { return sorted[static_cast<std::size_t>(i)] * n - static_cast<double>(i); });
  }
  std::vector<double> spacing;  ///< reused
};

/// floor(N w_j / W) copies of every parent; the rest by another scheme on the fractions. No tolerance in the floor: a
/// product that rounds below an integer loses a copy, and the remainder scheme restores it in the mean.
template <class Remainder = systematic_resampling>
struct residual_resampling {
  template <class Share, word_source R>
  void spread(std::span<index_t> ancestors, index_t n, Share share, R& random) {
    finish(ancestors, n, share, [&](std::span<index_t> part, index_t count, auto fraction) {
      remainder.spread(part, count, fraction, random);
    });
  }
  /// The number of copies before the remainder: counts_j = floor(N w_j / W); returns what is left for the remainder.
  template <weight_range W>
  static index_t whole_copies(std::span<index_t> counts, const W& weights, index_t n_offspring) {
    const auto w = detail::weight_span(weights);
    expects(n_offspring >= 0, "residual_resampling", "n_offspring", n_offspring);
    expects(counts.size() == w.size(), "residual_resampling", "counts.size", counts.size());
    const auto share = detail::shares_of(w, n_offspring, "residual_resampling");
    index_t left = n_offspring;
    for (index_t j = 0; j < std::ssize(w); ++j) {
      const index_t c = n_offspring == 0 ? 0 : std::min(left, static_cast<index_t>(std::floor(share(j))));
      counts[static_cast<std::size_t>(j)] = c;
      left -= c;
    }
    return left;
  }
  /// The ancestors where the remainder is systematic with a given u.
  template <weight_range W>
  void ancestors_at(std::span<index_t> ancestors, const W& weights, double u) {
    const auto w = detail::weight_span(weights);
    const auto share = detail::shares_of(w, std::ssize(ancestors), "residual_resampling");
    finish(ancestors, std::ssize(w), share, [u](std::span<index_t> part, index_t count, auto fraction) {
      detail::merge_positions(part, count, fraction, [u](index_t) { return u; });
    });
  }
  Remainder remainder;
  std::vector<index_t> rest;  ///< reused

 private:
  template <class Share, class Spread>
  void finish(std::span<index_t> ancestors, index_t n, Share share, Spread spread_rest) {
    const index_t wanted = std::ssize(ancestors);
    index_t left = wanted;
    detail::exact_sum mass;
    for (index_t j = 0; j < n; ++j) {
      const double s = share(j);
      left -= static_cast<index_t>(std::floor(s));
      mass.add(s - std::floor(s));
    }
    left = std::max<index_t>(left, 0);
    rest.resize(static_cast<std::size_t>(left));
    if (left > 0) {
      const double total = mass.value(), count = static_cast<double>(left);
      spread_rest(std::span<index_t>(rest), n, [share, total, count](index_t j) {
        const double s = share(j);
        return (s - std::floor(s)) * count / total;
      });
    }
    std::size_t out = 0, r = 0;
    for (index_t j = 0; j < n; ++j) {
      index_t copies = static_cast<index_t>(std::floor(share(j)));
      for (; r < rest.size() && rest[r] == j; ++r) ++copies;
      for (; copies > 0 && out < ancestors.size(); --copies) ancestors[out++] = j;
    }
  }
};

/// Resampling with a scheme and the memory that it reuses. One object a thread.
template <class Scheme = systematic_resampling>
class resampler {
 public:
  /// Writes the sorted ancestors of ancestors.size() offspring. O(n + N); no allocation once the sizes are reached.
  /// Throws invalid_argument, ancestors unchanged, if a weight is negative, NaN or infinite, or if N > 0 and all are
  /// zero. N = 0 is legal.
  template <weight_range W, word_source R>
  void ancestors_into(std::span<index_t> ancestors, const W& weights, R& random) {
    const auto w = detail::weight_span(weights);
    const auto share = detail::shares_of(w, std::ssize(ancestors), "resample");
    if (!ancestors.empty()) scheme_.spread(ancestors, std::ssize(w), share, random);
  }

  /// Writes how many of n_offspring each parent has; counts.size() is the number of parents. Also throws if
  /// n_offspring < 0.
  template <weight_range W, word_source R>
  void counts_into(std::span<index_t> counts, const W& weights, index_t n_offspring, R& random) {
    expects(n_offspring >= 0, "resample", "n_offspring", n_offspring);
    expects(counts.size() == detail::weight_span(weights).size(), "resample", "counts.size", counts.size());
    ancestors_.resize(static_cast<std::size_t>(n_offspring));
    ancestors_into(ancestors_, weights, random);
    std::fill(counts.begin(), counts.end(), index_t{0});
    for (const index_t a : ancestors_) ++counts[static_cast<std::size_t>(a)];
  }

 private:
  Scheme scheme_;
  std::vector<index_t> ancestors_;
};

/// The sorted ancestors of n_offspring offspring in a new vector.
template <class Scheme = systematic_resampling, weight_range W, word_source R>
std::vector<index_t> resample(const W& weights, index_t n_offspring, R& random) {
  expects(n_offspring >= 0, "resample", "n_offspring", n_offspring);
  std::vector<index_t> ancestors(static_cast<std::size_t>(n_offspring));
  resampler<Scheme>{}.ancestors_into(ancestors, weights, random);
  return ancestors;
}

}  // namespace sluice
