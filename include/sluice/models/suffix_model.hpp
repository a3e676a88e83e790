#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/models/ngram.hpp>
#include <sluice/speculate/language_model.hpp>

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

/// Unstable: for tests, benchmarks and examples; no compatibility is promised.
namespace sluice::models {

namespace detail {

/// Sorts the n suffixes of s, whose symbols are in [0, k), by induction (SA-IS): suffixes that are smaller than their
/// right neighbour and follow one that is not (leftmost S, below `leftmost`) are sorted first, by recursion on the
/// names of the substrings between them, and the order of all others follows in two passes. A suffix sorts before those
/// that continue it. O(n + k). Beside sa: n / 8 bytes and 8 k, and the same for the recursion, which works inside sa.
inline void sort_suffixes(const std::int32_t* s, std::int32_t n, std::size_t k, std::int32_t* sa) {
  const auto at = [](std::int32_t i) { return static_cast<std::size_t>(i); };
  if (n < 2) {
    if (n == 1) sa[0] = 0;
    return;
  }
  std::vector<bool> rises(at(n));  // S suffixes; the last one is not: the end sorts before every symbol
  for (std::int32_t i = n - 2; i >= 0; --i) rises[at(i)] = s[i] == s[i + 1] ? rises[at(i + 1)] : s[i] < s[i + 1];
  const auto leftmost = [&](std::int32_t i) { return i > 0 && rises[at(i)] && !rises[at(i - 1)]; };
  std::vector<std::int32_t> bucket(k + 1), next(k);
  for (std::int32_t i = 0; i < n; ++i) ++bucket[at(s[i]) + 1];
  for (std::size_t c = 0; c < k; ++c) bucket[c + 1] += bucket[c];
  const auto to_starts = [&] { std::copy(bucket.begin(), bucket.end() - 1, next.begin()); };
  const auto to_ends = [&] { std::copy(bucket.begin() + 1, bucket.end(), next.begin()); };
  const auto induce = [&] {
    to_starts();
    sa[next[at(s[n - 1])]++] = n - 1;
    for (std::int32_t i = 0; i < n; ++i)
      if (const std::int32_t v = sa[i] - 1; v >= 0 && !rises[at(v)]) sa[next[at(s[v])]++] = v;
    to_ends();
    for (std::int32_t i = n - 1; i >= 0; --i)
      if (const std::int32_t v = sa[i] - 1; v >= 0 && rises[at(v)]) sa[--next[at(s[v])]] = v;
  };
  std::fill(sa, sa + n, -1);
  to_ends();
  for (std::int32_t i = 1; i < n; ++i)
    if (leftmost(i)) sa[--next[at(s[i])]] = i;
  induce();

  std::int32_t m = 0;
  for (std::int32_t i = 0; i < n; ++i)
    if (leftmost(sa[i])) sa[m++] = sa[i];
  std::fill(sa + m, sa + n, -1);
  const auto same = [&](std::int32_t a, std::int32_t b) {  // from one leftmost S to the next, both included
    for (std::int32_t d = 0;; ++d) {
      if (a + d == n || b + d == n || s[a + d] != s[b + d] || rises[at(a + d)] != rises[at(b + d)]) return false;
      if (d > 0 && leftmost(a + d)) return true;
    }
  };
  std::int32_t names = 0;
  for (std::int32_t i = 0; i < m; ++i) {  // no two of them are neighbours, so half their place is a place of its own
    if (i == 0 || !same(sa[i - 1], sa[i])) ++names;
    sa[m + sa[i] / 2] = names - 1;
  }
  std::int32_t* const shorter = sa + (n - m);
  for (std::int32_t i = n - 1, j = n - 1; i >= m; --i)
    if (sa[i] >= 0) sa[j--] = sa[i];
  if (names < m)
    sort_suffixes(shorter, m, at(names), sa);
  else
    for (std::int32_t i = 0; i < m; ++i) sa[shorter[i]] = i;

  for (std::int32_t i = 1, j = 0; i < n; ++i)
    if (leftmost(i)) shorter[j++] = i;
  for (std::int32_t i = 0; i < m; ++i) sa[i] = shorter[sa[i]];
  std::fill(sa + m, sa + n, -1);
  to_ends();
  for (std::int32_t i = m - 1; i >= 0; --i) {
    const std::int32_t v = std::exchange(sa[i], -1);
    sa[--next[at(s[v])]] = v;
  }
  induce();
}

}  // namespace detail

/// A text and its suffixes in order, so that all places where a pattern stands, and what follows there, are one range.
/// Immutable after construction: may be shared by threads; queries do not allocate.
///
/// Building: O(n + V), 1 MB of bytes in about 0.1 s. Memory: 8 bytes a token of the text; 8 V + n more while building.
/// Source: Manber and Myers, SIAM J. Comput. 22 (1993); built as in Nong, Zhang and Chan, DCC 2009.
class suffix_array {
 public:
  /// Places in the order of the suffixes: positions()[first] ... positions()[last - 1].
  struct range {
    index_t first = 0, last = 0;
    index_t size() const { return last - first; }
  };

  /// Throws invalid_argument unless vocabulary_size is in 1 ... 2^31 - 1, the text is shorter than 2^31 tokens and each
  /// is in [0, vocabulary_size). An empty text is legal.
  template <std::integral T>
  suffix_array(std::span<const T> text, index_t vocabulary_size) : vocabulary_(vocabulary_size) {
    expects(vocabulary_size >= 1 && vocabulary_size <= std::numeric_limits<token_id>::max(), "suffix_array",
            "vocabulary_size", vocabulary_size);
    expects(std::cmp_less_equal(text.size(), std::numeric_limits<std::int32_t>::max()), "suffix_array", "text.size",
            text.size());
    for (std::size_t i = 0; i < text.size(); ++i)
      expects(std::cmp_greater_equal(text[i], 0) && std::cmp_less(text[i], vocabulary_size), "suffix_array", "text",
              text[i], static_cast<index_t>(i));
    text_.assign(text.begin(), text.end());
    position_.resize(text.size());
    detail::sort_suffixes(text_.data(), static_cast<std::int32_t>(text_.size()),
                          static_cast<std::size_t>(vocabulary_size), position_.data());
  }

  index_t vocabulary_size() const { return vocabulary_; }
  std::span<const token_id> text() const { return text_; }
  /// Where the suffixes begin, in their order; a suffix sorts before those that continue it.
  std::span<const std::int32_t> positions() const { return position_; }
  /// Memory held, in bytes.
  std::size_t memory_bytes() const { return sizeof(token_id) * text_.capacity() + 4 * position_.capacity(); }

  /// The places where the pattern stands and a token follows. O(pattern log n). Any tokens are legal.
  range continued(std::span<const token_id> pattern) const {
    const std::ptrdiff_t m = std::ssize(pattern), n = std::ssize(text_);
    // < 0, 0, > 0: the suffix is before the pattern, begins with it, is after it.
    const auto order = [&](std::int32_t p) {
      for (std::ptrdiff_t j = 0; j < m; ++j) {
        if (p + j == n) return -1;
        const token_id t = text_[static_cast<std::size_t>(p + j)];
        if (t != pattern[static_cast<std::size_t>(j)]) return t < pattern[static_cast<std::size_t>(j)] ? -1 : 1;
      }
      return 0;
    };
    const auto begin = position_.begin();
    const auto first = std::partition_point(begin, position_.end(), [&](std::int32_t p) { return order(p) < 0; });
    const auto last = std::partition_point(first, position_.end(), [&](std::int32_t p) { return order(p) == 0; });
    range found{first - begin, last - begin};
    if (found.size() > 0 && *first + m == n) ++found.first;  // the end of the text: nothing follows
    return found;
  }

  /// One past the places in the range that continue a pattern of `length` tokens as its first place does, O(log size of
  /// what is skipped). The range must be what continued() gave, or the rest of it, and not empty.
  index_t same_token(range r, index_t length) const {
    const auto next = [&](index_t i) {
      return text_[static_cast<std::size_t>(position_[static_cast<std::size_t>(i)] + length)];
    };
    const token_id t = next(r.first);
    index_t low = r.first, step = 1;  // next(low) == t
    while (low + step < r.last && next(low + step) == t) {
      low += step;
      step *= 2;
    }
    index_t high = std::min(low + step, r.last);
    while (high - low > 1) {
      const index_t middle = low + (high - low) / 2;
      (next(middle) == t ? low : high) = middle;
    }
    return high;
  }
  /// The token that follows a pattern of `length` tokens at a place.
  token_id following(index_t place, index_t length) const {
    return text_[static_cast<std::size_t>(position_[static_cast<std::size_t>(place)] + length)];
  }

 private:
  index_t vocabulary_;
  std::vector<token_id> text_;
  std::vector<std::int32_t> position_;
};

/// Options of `suffix_model`.
struct suffix_options {
  int longest = 16;  ///< contexts of up to this many tokens, 0 ... 63
};

/// The law after the longest end of the context that the corpus contains and continues, mixed down with those of the
/// ends one token shorter, by the formula of smoothing::witten_bell (ngram.hpp). So a model with `longest` = N - 1 is
/// the Witten-Bell n-gram model of order N; here memory does not grow with N. Immutable after construction: may be
/// shared by threads; queries do not allocate.
///
/// Memory: that of suffix_array, and 8 V. A context_model: `ngram_language_model<suffix_model>` is a language model.
/// Source: Witten and Bell, IEEE Trans. Inf. Theory 37 (1991), on unbounded contexts as in PPM*.
class suffix_model {
 public:
  /// Throws invalid_argument unless longest is in 0 ... 63, or as suffix_array. Without text every row is uniform.
  template <std::integral T>
  suffix_model(std::span<const T> text, index_t vocabulary_size, const suffix_options& options = {})
      : longest_(checked(options)), corpus_(text, vocabulary_size) {
    std::vector<std::uint32_t> count(static_cast<std::size_t>(vocabulary_size));
    for (const token_id t : corpus_.text()) ++count[static_cast<std::size_t>(t)];
    const auto types = static_cast<double>(std::count_if(count.begin(), count.end(), [](auto c) { return c > 0; }));
    const double total = static_cast<double>(corpus_.text().size()) + types;
    const double uniform = (total > 0 ? types / total : 1.0) / static_cast<double>(vocabulary_size);
    base_.assign(count.size(), uniform);
    for (std::size_t w = 0; w < count.size(); ++w)
      if (count[w] > 0) base_[w] += count[w] / total;
  }
  /// Bytes, V = 256: any text in any encoding.
  explicit suffix_model(std::string_view bytes, const suffix_options& options = {})
      : suffix_model(std::span(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()), 256, options) {}

  index_t vocabulary_size() const { return corpus_.vocabulary_size(); }
  /// How many of the last tokens of a context matter.
  index_t context_length() const { return longest_; }
  const suffix_array& corpus() const { return corpus_; }
  /// Memory held, in bytes.
  std::size_t memory_bytes() const { return corpus_.memory_bytes() + sizeof(double) * base_.capacity(); }
  /// Length of the longest end of `context` that the corpus contains and continues, at most context_length().
  index_t matched_length(std::span<const token_id> context) const { return find(context, "matched_length").length; }

  /// The law of the token after `context`, in text order, the newest token last; a shorter context is legal. Sums to 1
  /// within 5e-15 for V = 256. O(V + (longest^2 + continuations of the matched contexts) log n). Throws
  /// invalid_argument if out.size() is not V, or a token that matters is not in [0, V).
  void row(std::span<double> out, std::span<const token_id> context) const {
    expects(std::ssize(out) == vocabulary_size(), "suffix_model::row", "out.size", out.size());
    const match found = find(context, "suffix_model::row");
    for (std::size_t w = 0; w < out.size(); ++w) out[w] = found.scale * base_[w];
    for (index_t m = 1; m <= found.length; ++m) {
      const level& l = found.at[static_cast<std::size_t>(m)];
      for (suffix_array::range r = l.places; r.size() > 0;) {
        const index_t end = corpus_.same_token(r, m);
        out[static_cast<std::size_t>(corpus_.following(r.first, m))] += l.unit * static_cast<double>(end - r.first);
        r.first = end;
      }
    }
  }

  /// The same number as row() gives for one token, without the term O(V). Throws as row().
  double probability(token_id token, std::span<const token_id> context) const {
    expects(token >= 0 && token < vocabulary_size(), "suffix_model::probability", "token", token);
    const match found = find(context, "suffix_model::probability");
    double p = found.scale * base_[static_cast<std::size_t>(token)];
    for (index_t m = 1; m <= found.length; ++m) {
      const level& l = found.at[static_cast<std::size_t>(m)];
      for (suffix_array::range r = l.places; r.size() > 0;) {
        const index_t end = corpus_.same_token(r, m);
        if (corpus_.following(r.first, m) == token) p += l.unit * static_cast<double>(end - r.first);
        r.first = end;
      }
    }
    return p;
  }

 private:
  struct level {
    suffix_array::range places;
    double unit = 0;  // what one occurrence adds
  };
  /// The ends of the context of lengths 1 ... length, and the factor of the law of order 0.
  struct match {
    index_t length = 0;
    double scale = 1;
    std::array<level, detail::max_order> at;
  };
  static int checked(const suffix_options& options) {
    expects(options.longest >= 0 && options.longest < detail::max_order, "suffix_model", "longest", options.longest);
    return options.longest;
  }
  match find(std::span<const token_id> context, const char* function) const {
    match found;
    const index_t size = std::ssize(context), n = std::min<index_t>(longest_, size);
    for (index_t j = size - n; j < size; ++j) {
      const token_id t = context[static_cast<std::size_t>(j)];
      expects(t >= 0 && t < vocabulary_size(), function, "context", t, j);
    }
    while (found.length < n) {  // if an end is continued, so are all that are shorter
      const auto places = corpus_.continued(context.last(static_cast<std::size_t>(found.length + 1)));
      if (places.size() == 0) break;
      found.at[static_cast<std::size_t>(++found.length)].places = places;
    }
    for (index_t m = found.length; m > 0; --m) {
      level& l = found.at[static_cast<std::size_t>(m)];
      index_t types = 0;
      for (suffix_array::range r = l.places; r.size() > 0; ++types) r.first = corpus_.same_token(r, m);
      const auto total = static_cast<double>(l.places.size() + types);
      l.unit = found.scale / total;
      found.scale *= static_cast<double>(types) / total;
    }
    return found;
  }

  int longest_;
  suffix_array corpus_;
  std::vector<double> base_;
};

/// Proposes what followed the latest place in a corpus where the last tokens of the text stand, of the longest match up
/// to `longest` tokens, if it has at least `shortest`: `prompt_lookup` on another text, and a `proposal_source`. The
/// proposal ends where the corpus ends. The corpus is not copied and must outlive this object, which may be shared by
/// threads. O(longest^2 log n) a proposal, no allocation. Memory: n / 16 bytes. Tokens that the corpus does not have
/// are legal and match nothing.
/// Source: Saxena, "Prompt Lookup Decoding", 2023; differs: a corpus, the longest match, then the latest.
class corpus_lookup {
 public:
  /// Throws invalid_argument unless 1 <= shortest <= longest.
  explicit corpus_lookup(const suffix_array& corpus, index_t longest = 16, index_t shortest = 1)
      : corpus_(&corpus), longest_(longest), shortest_(shortest) {
    expects(shortest >= 1, "corpus_lookup", "shortest", shortest);
    expects(longest >= shortest, "corpus_lookup", "longest", longest);
    for (std::span<const std::int32_t> below = corpus.positions(); below.size() > fan_out;) {
      std::vector<std::int32_t> level((below.size() + fan_out - 1) / fan_out);
      for (std::size_t i = 0; i < below.size(); ++i) level[i / fan_out] = std::max(level[i / fan_out], below[i]);
      latest_.push_back(std::move(level));
      below = latest_.back();
    }
  }
  explicit corpus_lookup(const suffix_array&&, index_t = 16, index_t = 1) = delete;  // it would dangle

  /// Writes the tokens that followed and says how many: 0 if nothing matches.
  index_t propose(std::span<const token_id> text, std::span<token_id> out) const {
    index_t length = 0;
    suffix_array::range places;
    while (length < std::min(longest_, std::ssize(text))) {
      const auto longer = corpus_->continued(text.last(static_cast<std::size_t>(length + 1)));
      if (longer.size() == 0) break;
      places = longer;
      ++length;
    }
    if (length < shortest_) return 0;
    const auto rest = corpus_->text().subspan(static_cast<std::size_t>(latest(places) + length));
    const std::size_t count = std::min(out.size(), rest.size());
    std::copy_n(rest.begin(), count, out.begin());
    return static_cast<index_t>(count);
  }

 private:
  static constexpr std::size_t fan_out = 64;

  /// The largest position in a range, from the largest of every 64, of every 64 of those, and so on.
  std::int32_t latest(suffix_array::range r) const {
    std::int32_t most = 0;
    auto first = static_cast<std::size_t>(r.first), last = static_cast<std::size_t>(r.last);
    std::span<const std::int32_t> values = corpus_->positions();
    for (std::size_t k = 0;; values = latest_[k++]) {
      if (last - first <= 2 * fan_out || k == latest_.size()) break;
      for (; first % fan_out != 0; ++first) most = std::max(most, values[first]);
      for (; last % fan_out != 0; --last) most = std::max(most, values[last - 1]);
      first /= fan_out;
      last /= fan_out;
    }
    for (; first < last; ++first) most = std::max(most, values[first]);
    return most;
  }

  const suffix_array* corpus_;
  index_t longest_, shortest_;
  std::vector<std::vector<std::int32_t>> latest_;
};

}  // namespace sluice::models
