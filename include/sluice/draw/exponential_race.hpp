#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/draw/weights.hpp>
#include <sluice/draw/words.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/random/uniform.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

/// The exponential race: item i arrives at E_i / w_i, E_i exponential. The first to arrive is a draw with probability
/// w_i / W; the order of arrival is that of successive draws without replacement. The same order, from the same
/// uniforms, as u^(1/w) (Efraimidis and Spirakis) and log w + Gumbel (Gumbel-max), without their underflow and ties.
namespace sluice {

/// -log(u) / w, u in (0, 1]; infinity for weight zero.
inline double race_key(double u, double weight) {
  return weight > 0 ? -std::log(u) / weight : std::numeric_limits<double>::infinity();
}
/// The logarithm of the key, log(-log u) - log w: for log-weights, and for weights of any span. Infinity for
/// log-weight -inf.
inline double log_race_key(double u, double log_weight) {
  return log_weight > -std::numeric_limits<double>::infinity() ? std::log(-std::log(u)) - log_weight
                                                               : std::numeric_limits<double>::infinity();
}

namespace detail {

struct race_entry {
  double key;
  index_t item;
};
/// Earlier arrival; ties, which have probability 2^-53, to the lower index.
inline bool arrives_before(const race_entry& a, const race_entry& b) {
  return a.key < b.key || (a.key == b.key && a.item < b.item);
}

/// The m smallest keys seen, as a heap with the largest of them on top.
class smallest_keys {
 public:
  void restart(index_t m) {
    entries_.clear();
    entries_.reserve(static_cast<std::size_t>(m));
    limit_ = static_cast<std::size_t>(m);
  }
  bool full() const { return entries_.size() == limit_; }
  /// Infinity until m keys were seen: an item arriving later cannot enter.
  double threshold() const { return full() ? entries_.front().key : std::numeric_limits<double>::infinity(); }
  void offer(race_entry e) {
    if (!full()) {
      entries_.push_back(e);
      std::push_heap(entries_.begin(), entries_.end(), arrives_before);
    } else if (arrives_before(e, entries_.front())) {
      replace_last(e);
    }
  }
  /// Removes the largest and adds e, one walk down the heap.
  void replace_last(race_entry e) {
    const std::size_t n = entries_.size();
    std::size_t hole = 0;
    for (std::size_t child = 1; child < n; child = 2 * hole + 1) {
      if (child + 1 < n && arrives_before(entries_[child], entries_[child + 1])) ++child;
      if (!arrives_before(e, entries_[child])) break;
      entries_[hole] = entries_[child];
      hole = child;
    }
    entries_[hole] = e;
  }
  /// All of them, in order of arrival; the heap is no longer one.
  std::span<race_entry> sorted() {
    std::sort_heap(entries_.begin(), entries_.end(), arrives_before);
    return entries_;
  }
  std::vector<race_entry>& entries() { return entries_; }
  /// m.
  index_t capacity() const { return static_cast<index_t>(limit_); }

 private:
  std::vector<race_entry> entries_;
  std::size_t limit_ = 0;
};

/// Offers the keys E/w of all items, one word an item in order. As -log u >= 1 - u, an item whose 1 - u already exceeds
/// threshold * w is passed over without a logarithm; the outcome is that of computing every key.
template <class S, class Better, word_source R>
void race(std::span<const S> weights, R& random, Better&& offer, double threshold) {
  for_each_word(
      [&](std::size_t i, std::uint64_t word) {
        const double w = static_cast<double>(weights[i]), u = oc53(word);
        // 1 - u is exact. The factor covers the rounding of the product, of the logarithm and of the division.
        if (w > 0 && (1 - u) * (1 - 0x1p-50) <= threshold * w)
          threshold = offer(race_entry{race_key(u, w), static_cast<index_t>(i)});
      },
      weights.size(), random);
}

/// The same with log keys. E <= exp(threshold + l) is decided by one exponential instead of two logarithms.
template <class S, class LogWeight, class Better, word_source R>
void log_race(std::span<const S> weights, R& random, LogWeight log_weight, Better&& offer, double threshold) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  for_each_word(
      [&](std::size_t i, std::uint64_t word) {
        const double l = log_weight(static_cast<double>(weights[i])), u = oc53(word);
        if (l > -infinity && (threshold == infinity || (1 - u) * (1 - 0x1p-40) <= std::exp(threshold + l)))
          threshold = offer(race_entry{log_race_key(u, l), static_cast<index_t>(i)});
      },
      weights.size(), random);
}

}  // namespace detail

/// The winner of the race: one index with probability w_i / W, in one pass without preparation. n words, item i uses
/// word i. For a single draw from ready weights `categorical` needs one word; the race needs no total.
/// Throws invalid_argument if there are no weights, if one is negative, NaN or infinite, or if all are zero.
template <weight_range W, word_source R>
index_t exponential_race(const W& weights, R& random) {
  const auto w = detail::weight_span(weights);
  const detail::weight_summary seen = detail::check_positive_weights(w, "exponential_race");
  detail::race_entry best{std::numeric_limits<double>::infinity(), -1};
  const auto offer = [&best](detail::race_entry e) {
    if (best.item < 0 || detail::arrives_before(e, best)) best = e;
    return best.key;
  };
  if (seen.max <= 0x1p900 && seen.min_positive >= 0x1p-900)
    detail::race(w, random, offer, best.key);
  else
    detail::log_race(
        w, random, [](double v) { return std::log(v); }, offer, best.key);
  return best.item;
}

/// One index with probability exp(l_i) / sum exp(l_j), from log-weights (logits) of any offset, in one pass; -inf is
/// never chosen. The law and the order of Gumbel-max, computed as a race. n words, item i uses word i.
/// Throws invalid_argument if there are no log-weights, if one is NaN or +inf, or if all are -inf.
template <weight_range L, word_source R>
index_t gumbel_max(const L& log_weights, R& random) {
  const auto l = detail::weight_span(log_weights);
  detail::check_log_weights(l, "gumbel_max");
  detail::race_entry best{std::numeric_limits<double>::infinity(), -1};
  detail::log_race(
      l, random, [](double v) { return v; },
      [&best](detail::race_entry e) {
        if (best.item < 0 || detail::arrives_before(e, best)) best = e;
        return best.key;
      },
      best.key);
  return best.item;
}

}  // namespace sluice
