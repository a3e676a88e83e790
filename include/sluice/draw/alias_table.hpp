#pragma once
#include <sluice/draw/weights.hpp>
#include <sluice/draw/words.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/random/stream.hpp>

#include <algorithm>
#include <array>
#include <concepts>
#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

/// The alias method: one of n categories with probability w_i / W in constant time.
///     i uniform in [0, n);   i itself with probability prob_i, otherwise alias_i
///     w_i / W = (prob_i + sum over j with alias_j = i of (1 - prob_j)) / n        (within 1e-14)
/// A category of weight zero has prob 0 and is nobody's alias: it cannot be drawn. Build O(n), no allocation when the
/// size does not grow; a draw reads one 16-byte entry and takes two words (a further one with probability below
/// n 2^-64). Weights are nonnegative and finite, of any scale. Immutable while it draws, so threads may share it.
/// Source: Walker 1977; Vose, IEEE TSE 17(9), 1991. Differs: leftovers of weight zero are aliased to a positive
/// category, since rounding could otherwise make them drawable; index and acceptance come from separate words.
class alias_table {
 public:
  struct entry {
    double probability;  ///< of staying at the entry
    index_t alias;       ///< where to go otherwise
  };

  alias_table() = default;
  /// Throws invalid_argument, as does rebuild, if there are no weights, if one is negative, NaN or infinite, or if all
  /// are zero.
  template <weight_range W>
  explicit alias_table(const W& weights) {
    rebuild(weights);
  }
  /// A new table in the memory of this one. After a throw the old one is intact.
  template <weight_range W>
  void rebuild(const W& weights) {
    build(detail::weight_span(weights));
  }

  index_t size() const { return std::ssize(table_); }
  std::span<const entry> entries() const { return table_; }

  /// One category; `random` is a cursor or any source of words or decisions. The table must not be empty.
  template <random_source R>
  index_t draw(R& random) const {
    const auto i = static_cast<index_t>(below(random, table_.size()));
    const entry& e = table_[static_cast<std::size_t>(i)];
    return bernoulli(random, e.probability) ? i : e.alias;
  }

  /// out.size() categories, the same as that many calls of draw. Faster from 16 on: words in bulk, look-ups overlapped.
  template <random_source R>
  void draw(std::span<index_t> out, R& random) const {
    std::size_t done = 0;
    if constexpr (std::same_as<R, cursor>)
      while (out.size() - done >= 16) done += draw_block(out.data() + done, out.size() - done, random);
    for (; done < out.size(); ++done) out[done] = draw(random);
  }

  /// The probabilities that the table draws with, from the identity above. O(n), allocates.
  std::vector<double> probabilities() const {
    std::vector<double> p(table_.size());
    for (std::size_t i = 0; i < table_.size(); ++i) {
      p[i] += table_[i].probability;
      p[static_cast<std::size_t>(table_[i].alias)] += 1 - table_[i].probability;
    }
    for (double& v : p) v /= static_cast<double>(table_.size());
    return p;
  }

 private:
  static constexpr std::size_t block = 128;

  template <class S>
  void build(std::span<const S> w) {
    const detail::weight_summary seen = detail::check_positive_weights(w, "alias_table");
    const double scale = detail::weight_scale(seen.max);
    const double total = detail::accurate_sum(w, [scale](double v) { return v * scale; });
    const std::size_t n = w.size();
    const double count = static_cast<double>(n);
    table_.resize(n);
    work_.resize(n);
    // Both stacks lie in work_: what has less than its share grows from the front, the rest from the back.
    std::size_t small = 0, large = n, heaviest = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const double q = static_cast<double>(w[i]) * scale * count / total;
      table_[i] = {q, static_cast<index_t>(i)};
      work_[q < 1 ? small++ : --large] = i;
      if (w[i] > w[heaviest]) heaviest = i;
    }
    while (small > 0 && large < n) {
      entry& s = table_[work_[--small]];
      const std::size_t rich = work_[large];
      entry& l = table_[rich];
      s.alias = static_cast<index_t>(rich);
      // q_l - (1 - q_s), in the order that loses least when q_l is near 1.
      l.probability = (l.probability + s.probability) - 1;
      if (l.probability < 1) {
        ++large;
        work_[small++] = rich;
      }
    }
    const auto settle = [&](std::size_t i) {
      if (w[i] > 0)
        table_[i] = {1.0, static_cast<index_t>(i)};
      else
        table_[i] = {0.0, static_cast<index_t>(heaviest)};
    };
    while (small > 0) settle(work_[--small]);
    for (; large < n; ++large) settle(work_[large]);
  }

  /// Draws of one block of words; returns how many. Gives up the block's rest where the bounded integer rejects.
  std::size_t draw_block(index_t* out, std::size_t wanted, cursor& random) const {
    __extension__ using u128 = unsigned __int128;
    std::array<std::uint64_t, 2 * block> words;
    std::array<std::uint64_t, block> at;
    const std::size_t m = std::min(wanted, block);
    const std::uint64_t n = table_.size();
    const entry* table = table_.data();
    const cursor_state before = random.state();
    detail::draw_words(std::span(words).first(2 * m), random);
    bool rare = false;
    for (std::size_t t = 0; t < m; ++t) {
      const u128 product = u128{words[2 * t]} * n;
      at[t] = static_cast<std::uint64_t>(product >> 64);
      rare |= static_cast<std::uint64_t>(product) < n;
      __builtin_prefetch(table + at[t]);
    }
    if (rare) [[unlikely]] {
      random = cursor(before);
      for (std::size_t t = 0; t < m; ++t) out[t] = draw(random);
      return m;
    }
    for (std::size_t t = 0; t < m; ++t) {
      const entry e = table[at[t]];
      out[t] = co53(words[2 * t + 1]) < e.probability ? static_cast<index_t>(at[t]) : e.alias;
    }
    return m;
  }

  std::vector<entry> table_;
  std::vector<std::size_t> work_;
};

}  // namespace sluice
