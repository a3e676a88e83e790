#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/speculate/language_model.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <queue>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

/// Unstable: for tests, benchmarks and examples; no compatibility is promised.
///
/// Tokenisers: bytes, byte pairs, words. Each has vocabulary_size(), encode(text) and decode(tokens). Bytes and byte
/// pairs give back every sequence of bytes; words do not.
namespace sluice::models {

namespace detail {

/// From 64-bit keys to values, by open addressing; keys are only added. The key 2^64 - 1 is not allowed.
template <class V>
class flat_map {
 public:
  /// Null if the key is not there.
  const V* find(std::uint64_t key) const {
    const slot& s = slot_[place(key)];
    return s.key == key ? &s.value : nullptr;
  }
  /// The value of the key, which is `value` if the key is new.
  V& insert(std::uint64_t key, V value) {
    if (2 * ++used_ > slot_.size()) {  // at most, since the key may be there
      std::vector<slot> old(2 * slot_.size());
      old.swap(slot_);
      for (const slot& s : old)
        if (s.key != empty) slot_[place(s.key)] = s;
    }
    slot& s = slot_[place(key)];
    if (s.key == key)
      --used_;
    else
      s = {key, value};
    return s.value;
  }

 private:
  static constexpr std::uint64_t empty = ~std::uint64_t{0};
  struct slot {
    std::uint64_t key = empty;
    V value{};
  };
  std::size_t place(std::uint64_t key) const {
    std::uint64_t h = key * 0x9E3779B97F4A7C15u;
    h ^= h >> 32;
    std::size_t i = static_cast<std::size_t>(h) & (slot_.size() - 1);
    while (slot_[i].key != key && slot_[i].key != empty) i = (i + 1) & (slot_.size() - 1);
    return i;
  }
  std::vector<slot> slot_ = std::vector<slot>(16);
  std::size_t used_ = 0;
};

}  // namespace detail

/// Every byte is a token, V = 256. Immutable.
class byte_tokenizer {
 public:
  static constexpr index_t vocabulary_size() { return 256; }
  /// Token i is byte i of the text.
  static std::vector<token_id> encode(std::string_view text) {
    std::vector<token_id> tokens(text.size());
    std::transform(text.begin(), text.end(), tokens.begin(), [](char c) { return static_cast<unsigned char>(c); });
    return tokens;
  }
  /// Throws invalid_argument if a token is not in [0, 256).
  static std::string decode(std::span<const token_id> tokens) {
    std::string text(tokens.size(), '\0');
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      expects(tokens[i] >= 0 && tokens[i] < 256, "decode", "tokens", tokens[i], static_cast<index_t>(i));
      text[i] = static_cast<char>(static_cast<unsigned char>(tokens[i]));
    }
    return text;
  }
};

/// Options of `bpe_tokenizer`.
struct bpe_options {
  index_t vocabulary_size = 8192;  ///< at least 256; fewer if the text has no more pairs worth merging
  index_t min_count = 2;           ///< a pair seen less often is not merged; at least 1
  index_t max_token_bytes = 1024;  ///< a pair that is longer is not merged (a text may repeat itself whole); at least 1
  index_t max_bytes = 1 << 23;     ///< trains on the first so many bytes of a longer text
};

/// Byte-pair encoding: tokens 0 ... 255 are the bytes, and each further token joins the pair that was most frequent
/// when it was made (ties: the smaller left, then the smaller right id). A pair is counted at every position, also
/// overlapping itself, and merged from left to right; there are no word boundaries. Immutable after construction.
///
/// Training: the tokens lie in one array, in which each marks both its ends; every pair has its count and the positions
/// where it came about, and a heap orders the pairs, whose counts are corrected when they reach its top. So a merge
/// costs O(occurrences + log pairs): 1.2 MB to V = 8192 in about 0.5 s, with about 16 bytes of memory for each byte of
/// text. Source: Gage, "A new algorithm for data compression", C Users Journal 1994; Sennrich, Haddow, Birch
/// (arXiv:1508.07909). Differs: bytes, whole text, deterministic ties.
class bpe_tokenizer {
 public:
  /// Trains on any bytes. Throws invalid_argument unless vocabulary_size is in 256 ... 2^24, min_count >= 1,
  /// max_token_bytes >= 1 and max_bytes is in 0 ... 2^31 - 1.
  explicit bpe_tokenizer(std::string_view text, const bpe_options& options = {}) {
    expects(options.vocabulary_size >= 256 && options.vocabulary_size <= 1 << 24, "bpe_tokenizer",
            "options.vocabulary_size", options.vocabulary_size);
    expects(options.min_count >= 1, "bpe_tokenizer", "options.min_count", options.min_count);
    expects(options.max_token_bytes >= 1, "bpe_tokenizer", "options.max_token_bytes", options.max_token_bytes);
    expects(options.max_bytes >= 0 && options.max_bytes <= std::numeric_limits<std::int32_t>::max(), "bpe_tokenizer",
            "options.max_bytes", options.max_bytes);
    trainer t(text.substr(0, static_cast<std::size_t>(options.max_bytes)));
    std::vector<std::pair<token_id, token_id>> merges;
    while (std::ssize(merges) + 256 < options.vocabulary_size) {
      const auto best = t.merge_best(options.min_count, options.max_token_bytes);
      if (best.first < 0) break;
      merges.push_back(best);
    }
    prepare(merges);
  }
  /// Rebuilds a tokeniser from its merges; merge k makes token 256 + k. Throws invalid_argument if a merge names a
  /// token that is not made before it, or repeats an earlier one.
  explicit bpe_tokenizer(std::span<const std::pair<token_id, token_id>> merges) {
    detail::flat_map<std::size_t> seen;
    for (std::size_t k = 0; k < merges.size(); ++k) {
      const auto made = static_cast<token_id>(256 + k);
      const auto [a, b] = merges[k];
      expects(a >= 0 && a < made, "bpe_tokenizer", "merges.first", a, static_cast<index_t>(k));
      expects(b >= 0 && b < made, "bpe_tokenizer", "merges.second", b, static_cast<index_t>(k));
      expects(seen.insert(pair_key(a, b), k) == k, "bpe_tokenizer", "merges.first", a, static_cast<index_t>(k));
    }
    prepare(merges);
  }

  index_t vocabulary_size() const { return std::ssize(first_byte_) - 1; }
  /// The merges in the order in which they were made.
  std::span<const std::pair<token_id, token_id>> merges() const { return merges_; }
  /// The bytes of a token.
  std::string_view bytes(token_id token) const {
    expects(token >= 0 && token < vocabulary_size(), "bytes", "token", token);
    const auto t = static_cast<std::size_t>(token);
    return std::string_view(bytes_).substr(first_byte_[t], first_byte_[t + 1] - first_byte_[t]);
  }

  /// What is left when the merges are applied in their order, each from left to right; the training text becomes what
  /// training left. O(n): greedy longest tokens, with one step back wherever two neighbours could not both be left.
  /// Source: van Antwerpen and Neubeck, "So many tokens, so little time", GitHub 2024 (the backtracking encoder of
  /// their crate bpe). Memory: the tokens, and one bit for each byte of text.
  std::vector<token_id> encode(std::string_view text) const {
    std::vector<token_id> tokens;
    tokens.reserve(text.size() / 3);
    std::vector<bool> dead(text.size() + 1);  // ends of prefixes that no further token can follow
    std::size_t position = 0;
    token_id next = text.empty() ? -1 : longest_match(text);
    while (next >= 0) {
      const std::size_t end = position + bytes(next).size();
      if (!dead[end] && (tokens.empty() || compatible(tokens.back(), next))) {
        tokens.push_back(next);
        position = end;
        next = position < text.size() ? longest_match(text.substr(position)) : -1;
      } else if (shorter_[static_cast<std::size_t>(next)] >= 0) {
        next = shorter_[static_cast<std::size_t>(next)];
      } else {
        dead[position] = true;
        next = tokens.back();  // never empty: the tokens of a text's true encoding are always compatible
        tokens.pop_back();
        position -= bytes(next).size();
      }
    }
    return tokens;
  }
  /// Throws invalid_argument if a token is not in [0, V).
  std::string decode(std::span<const token_id> tokens) const {
    for (std::size_t i = 0; i < tokens.size(); ++i)
      expects(tokens[i] >= 0 && tokens[i] < vocabulary_size(), "decode", "tokens", tokens[i], static_cast<index_t>(i));
    std::string text;
    for (const token_id t : tokens) text += bytes(t);
    return text;
  }

 private:
  static std::uint64_t pair_key(token_id a, token_id b) {
    return std::uint64_t{static_cast<std::uint32_t>(a)} << 32 | static_cast<std::uint32_t>(b);
  }
  static std::size_t joint(char a, char b) {
    return std::size_t{static_cast<unsigned char>(a)} << 8 | static_cast<unsigned char>(b);
  }
  struct mix {
    std::size_t operator()(std::uint64_t x) const {
      x *= 0x9E3779B97F4A7C15u;
      return static_cast<std::size_t>(x ^ x >> 32);
    }
  };

  /// The text during training. slot_[i] is a token's id at its first and at its last byte, so that both neighbours of a
  /// token are found from its ends.
  class trainer {
   public:
    explicit trainer(std::string_view text) : slot_(text.size()), length_(256, 1) {
      std::vector<std::int32_t> count(std::size_t{1} << 16);
      for (std::size_t i = 0; i < text.size(); ++i) {
        slot_[i] = static_cast<unsigned char>(text[i]);
        if (i > 0) ++count[joint(text[i - 1], text[i])];
      }
      for (std::size_t p = 0; p < count.size(); ++p)
        if (count[p] > 0) {
          pair& made = pairs_[pair_key(static_cast<token_id>(p >> 8), static_cast<token_id>(p & 255))];
          made.at.reserve(static_cast<std::size_t>(count[p]));
        }
      std::vector<pair*> direct(count.size());
      for (std::size_t p = 0; p < count.size(); ++p)
        if (count[p] > 0) direct[p] = &pairs_[pair_key(static_cast<token_id>(p >> 8), static_cast<token_id>(p & 255))];
      for (std::size_t i = 1; i < text.size(); ++i)
        direct[joint(text[i - 1], text[i])]->at.push_back(static_cast<std::int32_t>(i - 1));
      for (auto& [key, p] : pairs_) {
        p.count = std::ssize(p.at);
        heap_.push({p.count, key});
      }
    }
    /// Merges the most frequent pair and returns it; {-1, -1} if none has min_count.
    std::pair<token_id, token_id> merge_best(index_t min_count, index_t max_bytes) {
      while (!heap_.empty()) {
        const candidate top = heap_.top();
        heap_.pop();
        const auto found = pairs_.find(top.key);
        if (found == pairs_.end()) continue;
        if (found->second.count != top.count) {  // it has lost occurrences since
          if (found->second.count >= min_count)
            heap_.push({found->second.count, top.key});
          else
            pairs_.erase(found);
          continue;
        }
        if (top.count < min_count) break;
        const std::pair<token_id, token_id> merged{static_cast<token_id>(top.key >> 32),
                                                   static_cast<token_id>(top.key & 0xFFFFFFFFu)};
        const bool too_long = length(merged.first) + length(merged.second) > max_bytes;
        const std::vector<std::int32_t> at = std::move(found->second.at);
        pairs_.erase(found);
        if (too_long) continue;
        merge(merged.first, merged.second, at);
        return merged;
      }
      return {-1, -1};
    }

   private:
    struct pair {
      index_t count = 0;
      std::vector<std::int32_t> at;  // ascending; some no longer hold
    };
    struct candidate {
      index_t count;
      std::uint64_t key;
      bool operator<(const candidate& other) const {
        return count != other.count ? count < other.count : key > other.key;
      }
    };

    /// A position in the list of a pair still holds if and only if the ids are there: a token that began there can only
    /// have become part of a newer one.
    void merge(token_id a, token_id b, const std::vector<std::int32_t>& at) {
      const auto made = static_cast<token_id>(length_.size());
      const std::int32_t length_a = length(a), both = length_a + length(b);
      length_.push_back(both);
      const auto n = static_cast<std::int32_t>(slot_.size());
      fresh_.clear();
      for (const std::int32_t i : at) {
        if (slot(i) != a || i + length_a >= n || slot(i + length_a) != b) continue;
        const std::int32_t end = i + both;
        if (i > 0) {
          const token_id left = slot(i - 1);
          const std::int32_t start = i - length(left);
          lose(left, a);
          gain(left, made, start);
        }
        if (end < n) {
          const token_id right = slot(end);
          lose(b, right);
          gain(made, right, i);
        }
        slot(i + length_a - 1) = slot(i + length_a) = -1;
        slot(i) = slot(end - 1) = made;
      }
      for (const std::uint64_t key : fresh_) {
        const auto found = pairs_.find(key);
        if (found != pairs_.end()) heap_.push({found->second.count, key});
      }
    }
    std::int32_t length(token_id t) const { return length_[static_cast<std::size_t>(t)]; }
    token_id& slot(std::int32_t i) { return slot_[static_cast<std::size_t>(i)]; }
    void lose(token_id a, token_id b) {
      const auto found = pairs_.find(pair_key(a, b));
      if (found != pairs_.end()) --found->second.count;
    }
    void gain(token_id a, token_id b, std::int32_t position) {
      const std::uint64_t key = pair_key(a, b);
      const auto [found, is_new] = pairs_.try_emplace(key);
      if (is_new) fresh_.push_back(key);
      ++found->second.count;
      found->second.at.push_back(position);
    }

    std::vector<token_id> slot_;
    std::vector<std::int32_t> length_;
    std::unordered_map<std::uint64_t, pair, mix> pairs_;
    std::priority_queue<candidate> heap_;
    std::vector<std::uint64_t> fresh_;
  };

  void prepare(std::span<const std::pair<token_id, token_id>> merges) {
    merges_.assign(merges.begin(), merges.end());
    first_byte_.push_back(0);
    for (std::size_t t = 0; t < 256; ++t) {
      bytes_ += static_cast<char>(static_cast<unsigned char>(t));
      first_byte_.push_back(bytes_.size());
    }
    for (std::size_t k = 0; k < merges.size(); ++k) {
      bytes_ += std::string(bytes(merges[k].first)) + std::string(bytes(merges[k].second));
      first_byte_.push_back(bytes_.size());
      rank_.insert(pair_key(merges[k].first, merges[k].second), static_cast<token_id>(256 + k));
    }
    // A token is left by its own bytes unless a merge before it crosses its border; training never makes such a token.
    std::vector<bool> reachable(static_cast<std::size_t>(vocabulary_size()), true);
    for (std::size_t k = 0; k < merges.size(); ++k) {
      const auto [a, b] = merges[k];
      reachable[256 + k] = reachable[static_cast<std::size_t>(a)] && reachable[static_cast<std::size_t>(b)] &&
                           compatible(a, b, static_cast<token_id>(256 + k));
    }
    node_token_.assign(1, -1);
    for (token_id t = 0; t < vocabulary_size(); ++t) {
      if (!reachable[static_cast<std::size_t>(t)]) continue;
      std::uint32_t node = 0;
      for (const char c : bytes(t)) {
        node = child_.insert(edge(node, c), static_cast<std::uint32_t>(node_token_.size()));
        if (node == node_token_.size()) node_token_.push_back(-1);
      }
      node_token_[node] = t;
    }
    shorter_.assign(static_cast<std::size_t>(vocabulary_size()), -1);
    for (token_id t = 256; t < vocabulary_size(); ++t)
      if (reachable[static_cast<std::size_t>(t)])
        shorter_[static_cast<std::size_t>(t)] = longest_match(bytes(t).substr(0, bytes(t).size() - 1));
  }
  static std::uint64_t edge(std::uint32_t node, char c) {
    return std::uint64_t{node} << 8 | static_cast<unsigned char>(c);
  }
  token_id longest_match(std::string_view text) const {
    std::uint32_t node = 0;
    token_id best = -1;
    for (const char c : text) {
      const std::uint32_t* const child = child_.find(edge(node, c));
      if (child == nullptr) break;
      node = *child;
      if (node_token_[node] >= 0) best = node_token_[node];
    }
    return best;
  }
  /// Whether no merge before `limit` crosses the border of two tokens side by side: takes them apart again in the
  /// reverse order of the merges, the right one first where both were made by the same merge, and looks at the pair
  /// that meets at the border.
  bool compatible(token_id a, token_id b, token_id limit = std::numeric_limits<token_id>::max()) const {
    while (true) {
      const token_id* const joined = rank_.find(pair_key(a, b));
      if (joined != nullptr && *joined < limit) return false;
      if (a > b ? a < 256 : b < 256) return true;
      if (a > b) {
        limit = a;
        a = merges_[static_cast<std::size_t>(a - 256)].second;
      } else {
        limit = b + 1;
        b = merges_[static_cast<std::size_t>(b - 256)].first;
      }
    }
  }

  std::vector<std::pair<token_id, token_id>> merges_;
  std::string bytes_;                      // of all tokens, one after another
  std::vector<std::size_t> first_byte_;    // V + 1 of them
  detail::flat_map<token_id> rank_;        // the token that joins a pair
  detail::flat_map<std::uint32_t> child_;  // of the trie's nodes, by edge
  std::vector<token_id> node_token_;       // the token that ends at a node, or -1
  std::vector<token_id> shorter_;          // the longest other token that a token begins with, or -1
};

/// Words: runs of a-z after lower-casing A-Z, ".", and "\n\n"; everything else separates. Ids by decreasing count, then
/// alphabetical; 0 is the unknown word, so V = distinct words + 1. Immutable after construction.
class word_tokenizer {
 public:
  /// Any bytes; a text without such words gives V = 1.
  explicit word_tokenizer(std::string_view text) {
    std::unordered_map<std::string, std::int64_t> count;
    for_each_word(text, [&](const std::string& w) { ++count[w]; });
    std::vector<std::pair<std::string, std::int64_t>> sorted(count.begin(), count.end());
    std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) {
      return a.second != b.second ? a.second > b.second : a.first < b.first;
    });
    words_.reserve(sorted.size() + 1);
    words_.emplace_back();
    for (auto& [w, n] : sorted) {
      id_.emplace(w, static_cast<token_id>(words_.size()));
      words_.push_back(w);
    }
  }
  index_t vocabulary_size() const { return std::ssize(words_); }
  /// The word of an id, empty for the unknown one. Throws invalid_argument if the id is not in [0, V).
  std::string_view word(token_id id) const {
    expects(id >= 0 && id < vocabulary_size(), "word", "id", id);
    return words_[static_cast<std::size_t>(id)];
  }
  std::vector<token_id> encode(std::string_view text) const {
    std::vector<token_id> tokens;
    for_each_word(text, [&](const std::string& w) {
      const auto found = id_.find(w);
      tokens.push_back(found == id_.end() ? 0 : found->second);
    });
    return tokens;
  }
  /// A readable text: a space between words, none before "." and around "\n\n", "?" for the unknown one; encoding it
  /// gives the tokens back unless one is unknown. Throws invalid_argument if a token is not in [0, V).
  std::string decode(std::span<const token_id> tokens) const {
    for (std::size_t i = 0; i < tokens.size(); ++i)
      expects(tokens[i] >= 0 && tokens[i] < vocabulary_size(), "decode", "tokens", tokens[i], static_cast<index_t>(i));
    std::string text;
    for (const token_id t : tokens) {
      const std::string_view w = t == 0 ? std::string_view("?") : word(t);
      if (!text.empty() && text.back() != '\n' && w != "." && w != "\n\n") text += ' ';
      text += w;
    }
    return text;
  }

 private:
  template <class F>
  static void for_each_word(std::string_view text, F&& f) {
    std::string w;
    const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
    for (std::size_t i = 0; i < text.size();) {
      w.clear();
      for (char c; i < text.size() && (c = lower(text[i])) >= 'a' && c <= 'z'; ++i) w += c;
      if (w.empty() && text[i] == '.') w = ".";
      if (w.empty() && text.substr(i, 2) == "\n\n") w = "\n\n";
      if (w.empty() || w == "." || w == "\n\n") i += std::max<std::size_t>(1, w.size());
      if (!w.empty()) f(w);
    }
  }
  std::vector<std::string> words_;
  std::unordered_map<std::string, token_id> id_;
};

}  // namespace sluice::models
