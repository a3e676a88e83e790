#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/draw/inverse_cdf.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/speculate/language_model.hpp>
#include <sluice/speculate/token_law.hpp>
#include <sluice/speculate/verification.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <limits>
#include <span>

/// Drafting: the children of one node from the draft's law there, in each of the ways that a rule can verify, and
/// drafts that come without a law. A rule names the kind of children that it is exact for; the kind selects the sampler
/// (`draw_children`, found by the kind's type), so a draft cannot meet the wrong rule. A kind of your own brings its
/// own overload in its own namespace.
namespace sluice {

/// How many children were drawn, or why none could be.
struct drawn_children {
  index_t n = 0;
  row_fault fault{};
};

namespace detail {
/// What is wrong with a draft's row, if anything: not a law (see token_law), or another length than the vocabulary.
template <class S>
row_fault check_draft(const token_law<S>& law, index_t vocabulary_size) {
  if (!law.sparse() && law.size() != vocabulary_size) return {"draft", 0, -1, static_cast<double>(law.size())};
  if (!law.valid()) return law.fault("draft", 0);
  if (law.highest_id() >= vocabulary_size) return {"draft", 0, -1, static_cast<double>(law.highest_id())};
  return {};
}
}  // namespace detail

/// out.size() i.i.d. draws from the row; duplicates stay. The row is read once, O(values), then O(1) blocks and two or
/// three words a draw. No allocation, no scratch.
template <class S, random_source R>
drawn_children draw_children(independent_draws, std::span<token_id> out, std::span<double>, const token_row<S>& row,
                             index_t vocabulary_size, R& random) {
  const token_law<S> law(row);
  if (const row_fault f = detail::check_draft(law, vocabulary_size)) return {0, f};
  for (token_id& x : out) x = law.draw(random);
  return {std::ssize(out), {}};
}

/// Successive draws without replacement, in the order drawn; that is the law of the n largest log q_i + Gumbel_i in
/// falling order. Fewer than out.size() if fewer tokens have positive probability. In a large row a
/// draw is repeated while it hits a token drawn before, at most 32 times; then, and from there on, the rest of the law
/// is written to `scratch` (one double a value) and drawn from. The failures are independent of that draw, so the law
/// is the same either way. Costs as for independent draws while little mass is drawn, O(values) a draw after. Throws
/// invalid_argument if scratch is too short. Differs from a race with one Gumbel a token by the number of words only.
template <class S, random_source R>
drawn_children draw_children(draws_without_replacement, std::span<token_id> out, std::span<double> scratch,
                             const token_row<S>& row, index_t vocabulary_size, R& random) {
  expects(scratch.size() >= row.values.size(), "draw_children", "scratch.size", scratch.size());
  const token_law<S> law(row);
  if (const row_fault f = detail::check_draft(law, vocabulary_size)) return {0, f};
  const std::span<double> rest = scratch.first(row.values.size());
  const index_t most_tries = std::min<index_t>(32, law.size() / 1024);  // a try costs a block of 512 values
  bool written = false;
  index_t n = 0;
  const auto drawn_before = [&](token_id x) { return std::find(out.begin(), out.begin() + n, x) != out.begin() + n; };
  for (; n < std::ssize(out); ++n) {
    token_id& x = out[static_cast<std::size_t>(n)];
    if constexpr (word_source<R>) {
      bool found = false;
      for (index_t tries = 0; tries < (n == 0 ? 1 : most_tries) && !written && !found; ++tries) {
        x = law.draw(random);
        found = !drawn_before(x);
      }
      if (found) continue;
    }
    if (!written) {
      for (index_t j = 0; j < law.size(); ++j)
        rest[static_cast<std::size_t>(j)] = drawn_before(law.token(j)) ? 0.0 : law.probability_at(j);
      written = true;
    }
    if (!std::any_of(rest.begin(), rest.end(), [](double w) { return w > 0; })) break;
    const index_t j = categorical(random, std::span<const double>(rest));
    rest[static_cast<std::size_t>(j)] = 0;
    x = law.token(j);
  }
  return {n, {}};
}

namespace detail {
/// The tokens of the largest values that mean a positive probability, falling, lower id first on ties; how many, at
/// most out.size(). A heap in out; blocks whose maximum is below the least value kept are passed over.
template <class S>
index_t most_probable(std::span<token_id> out, const token_row<S>& row) {
  if (out.empty()) return 0;
  const auto token = [&](token_id j) { return row.ids.empty() ? j : row.ids[static_cast<std::size_t>(j)]; };
  const auto value = [&](token_id j) { return row.values[static_cast<std::size_t>(j)]; };
  const auto before = [&](token_id a, token_id b) {
    return value(a) > value(b) || (value(a) == value(b) && token(a) < token(b));
  };
  const S none = row.kind == row_kind::probabilities ? S{0} : -std::numeric_limits<S>::infinity();
  const index_t size = std::ssize(row.values), wanted = std::ssize(out);
  index_t n = 0;
  for (index_t first = 0; first < size; first += law_block) {
    const index_t count = std::min(law_block, size - first);
    using block = Eigen::Map<const Eigen::Array<S, Eigen::Dynamic, 1>>;
    if (n == wanted && block(row.values.data() + first, count).maxCoeff() < value(out.front())) continue;
    for (index_t i = first; i < first + count; ++i) {
      const auto j = static_cast<token_id>(i);
      if (!(value(j) > none)) continue;
      if (n < wanted) {
        out[static_cast<std::size_t>(n++)] = j;
        std::push_heap(out.begin(), out.begin() + n, before);
      } else if (before(j, out.front())) {  // the front is the least of those kept
        std::pop_heap(out.begin(), out.end(), before);
        out.back() = j;
        std::push_heap(out.begin(), out.end(), before);
      }
    }
  }
  std::sort_heap(out.begin(), out.begin() + n, before);
  for (token_id& x : out.first(static_cast<std::size_t>(n))) x = token(x);
  return n;
}
}  // namespace detail

/// The most probable tokens, falling, lower id first on ties; tokens of probability 0 are left out. No randomness, no
/// scratch. O(values), vectorised, where few values are among the largest so far; O(values log n) at worst.
template <class S, random_source R>
drawn_children draw_children(top_draws, std::span<token_id> out, std::span<double>, const token_row<S>& row,
                             index_t vocabulary_size, R&) {
  const token_law<S> law(row);
  if (const row_fault f = detail::check_draft(law, vocabulary_size)) return {0, f};
  return {detail::most_probable(out, row), {}};
}

/// A draft without a law: writes the tokens that may follow the text and says how many, 0 to out.size(). Its law is one
/// at the token that it names, so any rule for chains accepts the token with the target's probability. It is asked once
/// a round. What it answers may depend on the text only.
template <class D>
concept proposal_source = requires(D& d, std::span<const token_id> text, std::span<token_id> out) {
  { d.propose(text, out) } -> std::convertible_to<index_t>;
};

/// Prompt lookup: the continuation of the latest earlier place where the last tokens of the text stand, of the longest
/// match up to `longest` tokens, if it has at least `shortest`. O(text longest) at worst, O(text) typically; no memory.
/// Source: Saxena, "Prompt Lookup Decoding", 2023; differs: the longest match wins, then the latest.
struct prompt_lookup {
  index_t longest = 8;
  index_t shortest = 1;
  index_t propose(std::span<const token_id> text, std::span<token_id> out) const {
    const index_t n = std::ssize(text);
    const auto at = [&](index_t i) { return text[static_cast<std::size_t>(i)]; };
    index_t best_length = std::max<index_t>(shortest, 1) - 1, best_end = -1;
    for (index_t end = n - 2; end >= 0 && best_length < longest; --end) {  // end: last token of the earlier match
      index_t length = 0;
      while (length < longest && length <= end && at(end - length) == at(n - 1 - length)) ++length;
      if (length > best_length) best_length = length, best_end = end;
    }
    if (best_end < 0) return 0;
    const index_t count = std::min(std::ssize(out), n - 1 - best_end);
    for (index_t i = 0; i < count; ++i) out[static_cast<std::size_t>(i)] = at(best_end + 1 + i);
    return count;
  }
};

}  // namespace sluice
