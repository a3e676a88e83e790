#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/speculate/language_model.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

/// Unstable: for tests, benchmarks and examples; no compatibility is promised.
///
/// Interpolated n-gram models of any token sequence, trained in memory that grows with the number of distinct n-grams,
/// not with the text. Order N looks at contexts of length 0 ... N - 1.
namespace sluice::models {

/// How the law of a context h is mixed with that of h', which is h without its oldest token; c(h, w) counts, c(h) is
/// their sum, T(h) the number of distinct w after h, P_{-1} = 1/V. A context never seen stops the recursion.
/// witten_bell: P_m = (c(h, w) + T(h) P_{m-1}(w | h')) / (c(h) + T(h)). Best on bytes. Never 0.
/// kneser_ney: P_m = (max(c(h, w) - D_m, 0) + D_m T(h) P_{m-1}(w | h')) / c(h), D_m = n1 / (n1 + 2 n2), 0 if n1 = 0,
///   where n1, n2 are how many n-grams of that length have count 1 and 2; below the top order c(h, w) is the number of
///   distinct tokens before h w. Best on words and byte pairs. 0 only where some D_m is 0.
enum class smoothing { witten_bell, kneser_ney };

/// Options of `ngram_model`.
struct ngram_options {
  int order = 6;                                         ///< N >= 1: contexts of up to N - 1 tokens
  models::smoothing smoothing = smoothing::witten_bell;  ///< see the enum
};

namespace detail {

inline constexpr int max_order = 64;

/// Where the fields of an n-gram lie in a key of W words: the context from its newest token to its oldest (token + 1; 0
/// beyond the beginning of the text), then the token that follows. Fields do not straddle words. So sorted keys list
/// the contexts as a trie in depth-first order, and each context's continuations in order.
struct key_layout {
  int order, bits, per_word;
  key_layout(int n, index_t vocabulary)
      : order(n), bits(static_cast<int>(std::bit_width(static_cast<std::uint64_t>(vocabulary)))), per_word(64 / bits) {}
  int words() const { return (order + per_word - 1) / per_word; }
  template <std::size_t W>
  std::uint64_t field(const std::array<std::uint64_t, W>& key, int j) const {
    return (key[static_cast<std::size_t>(j / per_word)] >> shift(j)) & ((std::uint64_t{1} << bits) - 1);
  }
  template <std::size_t W>
  void put(std::array<std::uint64_t, W>& key, int j, std::uint64_t value) const {
    key[static_cast<std::size_t>(j / per_word)] |= value << shift(j);
  }
  int shift(int j) const { return bits * (per_word - 1 - j % per_word); }
};

/// Sorts words, digit by digit; `spare` is working memory. Digits in which all keys agree cost one look.
inline void radix_sort(std::vector<std::array<std::uint64_t, 1>>& keys,
                       std::vector<std::array<std::uint64_t, 1>>& spare) {
  constexpr int digit_bits = 11;
  constexpr std::uint64_t mask = (1u << digit_bits) - 1;
  spare.resize(keys.size());
  std::vector<std::size_t> start(mask + 1);
  for (int shift = 0; shift < 64; shift += digit_bits) {
    std::fill(start.begin(), start.end(), 0);
    for (const auto& k : keys) ++start[(k[0] >> shift) & mask];
    if (!keys.empty() && start[(keys[0][0] >> shift) & mask] == keys.size()) continue;
    std::size_t sum = 0;
    for (auto& s : start) sum += std::exchange(s, sum);
    for (const auto& k : keys) spare[start[(k[0] >> shift) & mask]++] = k;
    keys.swap(spare);
  }
}
template <class Key>
void radix_sort(std::vector<Key>& keys, std::vector<Key>&) {
  std::sort(keys.begin(), keys.end());
}

/// Distinct keys in order, with their counts.
template <class Key>
struct counted_run {
  std::vector<Key> key;
  std::vector<std::uint32_t> count;
};

template <class Key>
counted_run<Key> merged(const counted_run<Key>& a, const counted_run<Key>& b) {
  counted_run<Key> out;
  out.key.reserve(a.key.size() + b.key.size());
  out.count.reserve(a.key.size() + b.key.size());
  std::size_t i = 0, j = 0;
  while (i < a.key.size() || j < b.key.size()) {
    const bool take_a = j == b.key.size() || (i < a.key.size() && !(b.key[j] < a.key[i]));
    const bool take_b = i == a.key.size() || (j < b.key.size() && !(a.key[i] < b.key[j]));
    out.key.push_back(take_a ? a.key[i] : b.key[j]);
    out.count.push_back((take_a ? a.count[i] : 0) + (take_b ? b.count[j] : 0));
    i += take_a;
    j += take_b;
  }
  return out;
}

/// Counts keys as they come: full blocks are sorted into runs, and runs are merged so that each is at least twice as
/// long as the next.
template <std::size_t W>
class key_counter {
 public:
  using key_type = std::array<std::uint64_t, W>;
  void add(const key_type& key) {
    block_.push_back(key);
    if (block_.size() == block_size) flush();
  }
  counted_run<key_type> take() {
    flush();
    spare_ = {};
    counted_run<key_type> all;
    for (; !runs_.empty(); runs_.pop_back())
      all = all.key.empty() ? std::move(runs_.back()) : merged(runs_.back(), all);
    return all;
  }

 private:
  static constexpr std::size_t block_size = std::size_t{1} << 20;
  void flush() {
    if (block_.empty()) return;
    radix_sort(block_, spare_);
    counted_run<key_type> run;
    for (const auto& k : block_) {
      if (run.key.empty() || run.key.back() != k) {
        run.key.push_back(k);
        run.count.push_back(0);
      }
      ++run.count.back();
    }
    block_.clear();
    while (!runs_.empty() && runs_.back().key.size() < 2 * run.key.size()) {
      run = merged(runs_.back(), run);
      runs_.pop_back();
    }
    runs_.push_back(std::move(run));
  }
  std::vector<key_type> block_, spare_;
  std::vector<counted_run<key_type>> runs_;
};

}  // namespace detail

/// Counts the n-grams of a text that arrives in pieces, so that no more of it need be in memory than one piece.
/// Memory: about 12 to 24 bytes for each distinct n-gram of the full order (more if an n-gram needs more than 64 bits),
/// and 16 MB. One object a thread.
class ngram_counter {
 public:
  /// Throws invalid_argument unless vocabulary_size is in 1 ... 2^31 - 1, order in 1 ... 64 and an n-gram fits into
  /// eight words (orders up to 56 for bytes, 32 for V = 8192, 24 for V = 100000).
  ngram_counter(index_t vocabulary_size, int order)
      : layout_(checked(vocabulary_size, order)), vocabulary_(vocabulary_size) {
    last_.assign(static_cast<std::size_t>(order), 0);
    if (layout_.words() > 2)
      counter_.emplace<2>();
    else if (layout_.words() > 1)
      counter_.emplace<1>();
  }

  /// Appends tokens; contexts continue across calls. O(order) per token, and sorting. Throws invalid_argument if a
  /// token is not in [0, vocabulary_size), or if the text grows beyond 2^32 - 1 tokens; then nothing is added.
  template <std::integral T>
  void add(std::span<const T> tokens) {
    expects(static_cast<std::uint64_t>(tokens.size()) <= std::numeric_limits<std::uint32_t>::max() - n_tokens_,
            "ngram_counter::add", "tokens.size", tokens.size());
    for (std::size_t i = 0; i < tokens.size(); ++i)
      expects(std::cmp_greater_equal(tokens[i], 0) && std::cmp_less(tokens[i], vocabulary_), "ngram_counter::add",
              "tokens", tokens[i], static_cast<index_t>(i));
    std::visit([&](auto& counter) { add_to(counter, tokens); }, counter_);
    n_tokens_ += tokens.size();
  }
  index_t vocabulary_size() const { return vocabulary_; }
  int order() const { return layout_.order; }
  std::int64_t n_tokens() const { return static_cast<std::int64_t>(n_tokens_); }

 private:
  friend class ngram_model;
  static detail::key_layout checked(index_t vocabulary_size, int order) {
    expects(vocabulary_size >= 1 && vocabulary_size <= std::numeric_limits<token_id>::max(), "ngram_counter",
            "vocabulary_size", vocabulary_size);
    const detail::key_layout layout(order, vocabulary_size);
    expects(order >= 1 && order <= detail::max_order && layout.words() <= 8, "ngram_counter", "order", order);
    return layout;
  }
  template <std::size_t W, class T>
  void add_to(detail::key_counter<W>& counter, std::span<const T> tokens) {
    const std::size_t n = last_.size() - 1;  // last_[j] is the field of the token j + 1 places before; one is spare
    for (const T t : tokens) {
      typename detail::key_counter<W>::key_type key{};
      for (std::size_t j = 0; j < n; ++j) layout_.put(key, static_cast<int>(j), last_[j]);
      layout_.put(key, static_cast<int>(n), static_cast<std::uint64_t>(t));
      counter.add(key);
      for (std::size_t j = n; j > 0; --j) last_[j] = last_[j - 1];
      last_[0] = static_cast<std::uint64_t>(t) + 1;
    }
  }

  detail::key_layout layout_;
  index_t vocabulary_;
  std::uint64_t n_tokens_ = 0;
  std::vector<std::uint64_t> last_;
  std::variant<detail::key_counter<1>, detail::key_counter<2>, detail::key_counter<8>> counter_;
};

/// An interpolated n-gram model (see `smoothing` for the formulas). Contexts are a trie of sorted arrays, from the
/// newest token to the oldest, so every stored context is compared token by token; continuations are sorted spans of
/// (token, count). Immutable after construction: may be shared by threads; queries do not allocate.
///
/// Training: O(n N) and a radix sort, 1 MB of bytes at order 6 in about 0.2 s. Memory: 8 bytes for each distinct
/// n-gram of every length up to N, 16 for each distinct context, 8 V.
/// Source: Witten and Bell, IEEE Trans. Inf. Theory 37 (1991); Kneser and Ney, ICASSP 1995. Differs: one discount per
/// order; the law of order 0 is mixed with the uniform one.
class ngram_model {
 public:
  /// Trains on a whole text. Any number of tokens is legal; without any, every row is uniform. Throws as ngram_counter.
  template <std::integral T>
  ngram_model(std::span<const T> text, index_t vocabulary_size, const ngram_options& options = {})
      : ngram_model(counted(text, vocabulary_size, options.order), options.smoothing) {}
  /// Bytes, V = 256: any text in any encoding.
  explicit ngram_model(std::string_view bytes, const ngram_options& options = {})
      : ngram_model(std::span(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()), 256, options) {}
  /// Trains on what was counted; the counter is used up.
  explicit ngram_model(ngram_counter&& counts, models::smoothing smoothing = models::smoothing::witten_bell)
      : vocabulary_(counts.vocabulary_size()), smoothing_(smoothing), level_(static_cast<std::size_t>(counts.order())) {
    std::visit([&](auto& counter) { build(counter.take(), counts.layout_); }, counts.counter_);
    finish();
  }

  index_t vocabulary_size() const { return vocabulary_; }
  int order() const { return static_cast<int>(level_.size()); }
  /// How many of the last tokens of a context matter: order - 1.
  index_t context_length() const { return std::ssize(level_) - 1; }
  models::smoothing smoothing() const { return smoothing_; }
  /// The discount D_m of contexts of length m; 0 for Witten-Bell.
  double discount(int m) const { return level_[static_cast<std::size_t>(m)].discount; }
  /// Distinct contexts of length m.
  index_t n_contexts(int m) const { return std::ssize(level_[static_cast<std::size_t>(m)].total); }
  /// Distinct (context of length m, token) pairs.
  index_t n_entries(int m) const { return std::ssize(level_[static_cast<std::size_t>(m)].token); }
  /// Length of the longest end of `context` that the training text contains and continues, at most order - 1.
  index_t matched_length(std::span<const token_id> context) const { return find(context, "matched_length").length; }

  /// The law of the token after `context`: out[w] = P(w | last order - 1 tokens), in text order, the newest last; a
  /// shorter context is legal. Sums to 1 within 5e-15 for V = 256. O(V + continuations of the matched contexts).
  /// Throws invalid_argument if out.size() is not V, or a token that matters is not in [0, V).
  void row(std::span<double> out, std::span<const token_id> context) const {
    expects(std::ssize(out) == vocabulary_, "ngram_model::row", "out.size", out.size());
    const match found = find(context, "ngram_model::row");
    const double base = found.scale[0];
    for (std::size_t w = 0; w < out.size(); ++w) out[w] = base * base_[w];
    for (std::size_t m = 1; m <= static_cast<std::size_t>(found.length); ++m) {
      const level& l = level_[m];
      const std::uint32_t c = found.context[m];
      const double unit = found.scale[m] / divisor(l, c);
      for (std::uint32_t e = l.first_entry[c]; e < l.first_entry[c + 1]; ++e)
        out[static_cast<std::size_t>(l.token[e])] += unit * (l.count[e] - l.discount);
    }
  }

  /// The same number as row() gives for one token. O(order log V). Throws as row().
  double probability(token_id token, std::span<const token_id> context) const {
    expects(token >= 0 && token < vocabulary_, "ngram_model::probability", "token", token);
    const match found = find(context, "ngram_model::probability");
    double p = found.scale[0] * base_[static_cast<std::size_t>(token)];
    for (std::size_t m = 1; m <= static_cast<std::size_t>(found.length); ++m) {
      const level& l = level_[m];
      const std::uint32_t c = found.context[m];
      const auto first = l.token.begin() + l.first_entry[c], last = l.token.begin() + l.first_entry[c + 1];
      const auto at = std::lower_bound(first, last, token);
      if (at != last && *at == token)
        p += found.scale[m] / divisor(l, c) * (l.count[static_cast<std::size_t>(at - l.token.begin())] - l.discount);
    }
    return p;
  }

  /// Memory held, in bytes.
  std::size_t memory_bytes() const {
    std::size_t sum = base_.capacity() * sizeof(double);
    for (const level& l : level_)
      sum += 4 * (l.older.capacity() + l.first_child.capacity() + l.first_entry.capacity() + l.total.capacity() +
                  l.token.capacity() + l.count.capacity());
    return sum;
  }

 private:
  /// All contexts of one length, in the order of the trie. Context c extends its parent by the token older[c]; its
  /// children and its entries are the ranges that begin at first_child[c] and first_entry[c] (one past the end is
  /// stored too).
  struct level {
    std::vector<token_id> older;
    std::vector<std::uint32_t> first_child, first_entry, total;
    std::vector<token_id> token;
    std::vector<std::uint32_t> count;
    double discount = 0;
  };
  /// The contexts of lengths 0 ... length that end the given one, and the factor with which each level's counts enter.
  struct match {
    index_t length = 0;
    std::array<std::uint32_t, detail::max_order> context;
    std::array<double, detail::max_order> scale;
  };
  /// n-grams at the beginning of the text, whose context is shorter than the order.
  struct beginning {
    std::size_t level;
    std::uint32_t context, count;
    token_id token;
  };

  template <class T>
  static ngram_counter counted(std::span<const T> text, index_t vocabulary_size, int order) {
    ngram_counter counter(vocabulary_size, order);
    counter.add(text);
    return counter;
  }

  double types(const level& l, std::uint32_t c) const { return l.first_entry[c + 1] - l.first_entry[c]; }
  double divisor(const level& l, std::uint32_t c) const {
    return smoothing_ == smoothing::witten_bell ? l.total[c] + types(l, c) : l.total[c];
  }
  /// The factor of the shorter context's law.
  double back_off(const level& l, std::uint32_t c) const {
    return (smoothing_ == smoothing::witten_bell ? 1.0 : l.discount) * types(l, c) / divisor(l, c);
  }

  match find(std::span<const token_id> context, const char* function) const {
    match found;
    found.context[0] = 0;
    const index_t n = std::min(context_length(), std::ssize(context));
    for (index_t j = std::ssize(context) - n; j < std::ssize(context); ++j) {
      const token_id t = context[static_cast<std::size_t>(j)];
      expects(t >= 0 && t < vocabulary_, function, "context", t, j);
    }
    for (index_t m = 0; m < n; ++m) {
      const level& parent = level_[static_cast<std::size_t>(m)];
      const level& l = level_[static_cast<std::size_t>(m) + 1];
      const token_id t = context[static_cast<std::size_t>(std::ssize(context) - 1 - m)];
      const std::uint32_t c = found.context[static_cast<std::size_t>(m)];
      const auto first = l.older.begin() + parent.first_child[c], last = l.older.begin() + parent.first_child[c + 1];
      const auto at = std::lower_bound(first, last, t);
      if (at == last || *at != t) break;
      const auto child = static_cast<std::uint32_t>(at - l.older.begin());
      if (l.total[child] == 0) break;  // Kneser-Ney: seen only where the text begins
      found.context[static_cast<std::size_t>(++found.length)] = child;
    }
    double scale = 1;
    for (auto m = static_cast<std::size_t>(found.length); m > 0; --m) {
      found.scale[m] = scale;
      scale *= back_off(level_[m], found.context[m]);
    }
    found.scale[0] = scale;
    return found;
  }

  /// Contexts and the entries of the top order from the sorted n-grams, then the entries of the shorter contexts.
  template <class Key>
  void build(detail::counted_run<Key> run, const detail::key_layout& layout) {
    const int top = layout.order - 1;
    std::vector<beginning> starts;
    const auto open = [&](int m, std::uint64_t field) {
      level& l = level_[static_cast<std::size_t>(m)];
      l.older.push_back(static_cast<token_id>(field) - 1);
      if (m < top)
        l.first_child.push_back(static_cast<std::uint32_t>(level_[static_cast<std::size_t>(m) + 1].older.size()));
      if (m == top) l.first_entry.push_back(static_cast<std::uint32_t>(l.token.size()));
    };
    open(0, 0);
    level& deepest = level_.back();
    for (std::size_t r = 0; r < run.key.size(); ++r) {
      int shared = 0, length = 0;
      while (shared < top && r > 0 && layout.field(run.key[r], shared) == layout.field(run.key[r - 1], shared))
        ++shared;
      while (length < top && layout.field(run.key[r], length) != 0) ++length;
      for (int m = shared + 1; m <= length; ++m) open(m, layout.field(run.key[r], m - 1));
      const auto token = static_cast<token_id>(layout.field(run.key[r], top));
      if (length == top) {
        deepest.token.push_back(token);
        deepest.count.push_back(run.count[r]);
      } else {
        const auto m = static_cast<std::size_t>(length);
        starts.push_back({m, static_cast<std::uint32_t>(level_[m].older.size() - 1), run.count[r], token});
      }
    }
    run = {};
    for (std::size_t m = 0; m < level_.size(); ++m) {
      level& l = level_[m];
      if (m + 1 < level_.size()) l.first_child.push_back(static_cast<std::uint32_t>(level_[m + 1].older.size()));
      if (m + 1 == level_.size()) l.first_entry.push_back(static_cast<std::uint32_t>(l.token.size()));
    }
    for (std::size_t m = level_.size() - 1; m-- > 0;) gather(m, starts, false);
    if (smoothing_ == smoothing::kneser_ney)
      for (std::size_t m = 0; m + 1 < level_.size(); ++m)
        gather(m, starts, true);  // upwards: level m + 1 still has counts
  }

  /// Entries of level m from those of level m + 1: their counts and the beginnings of the text, or their number.
  void gather(std::size_t m, const std::vector<beginning>& starts, bool neighbours) {
    level& l = level_[m];
    const level& from = level_[m + 1];
    l.first_entry.clear();
    l.token.clear();
    l.count.clear();
    std::vector<std::pair<token_id, std::uint32_t>> found;
    std::vector<std::uint32_t> dense(static_cast<std::size_t>(vocabulary_));
    for (std::uint32_t c = 0; c < l.older.size(); ++c) {
      l.first_entry.push_back(static_cast<std::uint32_t>(l.token.size()));
      const std::uint32_t first = from.first_entry[l.first_child[c]], last = from.first_entry[l.first_child[c + 1]];
      found.clear();
      if (!neighbours)
        for (const beginning& b : starts)
          if (b.level == m && b.context == c) found.emplace_back(b.token, b.count);
      if (static_cast<index_t>(last - first) > vocabulary_ / 16) {  // a scan of the vocabulary is cheaper than a sort
        for (std::uint32_t e = first; e < last; ++e)
          dense[static_cast<std::size_t>(from.token[e])] += neighbours ? 1 : from.count[e];
        for (const auto& [t, n] : found) dense[static_cast<std::size_t>(t)] += n;
        for (std::size_t t = 0; t < dense.size(); ++t) {
          if (dense[t] == 0) continue;
          l.token.push_back(static_cast<token_id>(t));
          l.count.push_back(std::exchange(dense[t], 0));
        }
      } else {
        for (std::uint32_t e = first; e < last; ++e) found.emplace_back(from.token[e], neighbours ? 1 : from.count[e]);
        std::sort(found.begin(), found.end());
        for (std::size_t i = 0; i < found.size(); ++i) {
          if (i == 0 || found[i].first != found[i - 1].first) {
            l.token.push_back(found[i].first);
            l.count.push_back(0);
          }
          l.count.back() += found[i].second;
        }
      }
    }
    l.first_entry.push_back(static_cast<std::uint32_t>(l.token.size()));
  }

  /// Totals, discounts and the law of order 0.
  void finish() {
    for (level& l : level_) {
      l.total.assign(l.older.size(), 0);
      double n1 = 0, n2 = 0;
      for (std::size_t c = 0; c < l.total.size(); ++c)
        for (std::uint32_t e = l.first_entry[c]; e < l.first_entry[c + 1]; ++e) {
          l.total[c] += l.count[e];
          n1 += l.count[e] == 1;
          n2 += l.count[e] == 2;
        }
      if (smoothing_ == smoothing::kneser_ney && n1 > 0) l.discount = n1 / (n1 + 2 * n2);
      for (auto* v : {&l.first_child, &l.first_entry, &l.total, &l.count}) v->shrink_to_fit();
      l.older.shrink_to_fit();
      l.token.shrink_to_fit();
    }
    const level& root = level_[0];
    const bool any = root.total[0] > 0;
    const double uniform = (any ? back_off(root, 0) : 1.0) / static_cast<double>(vocabulary_);
    base_.assign(static_cast<std::size_t>(vocabulary_), uniform);
    for (std::size_t e = 0; e < root.token.size(); ++e)
      base_[static_cast<std::size_t>(root.token[e])] += (root.count[e] - root.discount) / divisor(root, 0);
  }

  index_t vocabulary_;
  models::smoothing smoothing_;
  std::vector<level> level_;
  std::vector<double> base_;
};

/// A law over tokens that depends on the last context_length() of them: what the n-gram and the suffix model share.
/// row(out, context) writes V probabilities.
template <class M>
concept context_model = requires(const M& m, std::span<double> out, std::span<const token_id> context) {
  { m.vocabulary_size() } -> std::convertible_to<index_t>;
  { m.context_length() } -> std::convertible_to<index_t>;
  m.row(out, context);
};

/// Mean of -log2 P over text[first], text[first + 1], ..., with contexts from the running text; 0 if there are none.
/// Throws invalid_argument if first is not in [0, text.size()], or as the model's probability().
template <class M>
double bits_per_token(const M& model, std::span<const token_id> text, index_t first = 0) {
  expects(first >= 0 && first <= std::ssize(text), "bits_per_token", "first", first);
  double bits = 0;
  for (std::size_t i = static_cast<std::size_t>(first); i < text.size(); ++i) {
    const std::size_t n = std::min(i, static_cast<std::size_t>(model.context_length()));
    bits -= std::log2(model.probability(text[i], text.subspan(i - n, n)));
  }
  return std::ssize(text) > first ? bits / static_cast<double>(std::ssize(text) - first) : 0.0;
}

}  // namespace sluice::models
