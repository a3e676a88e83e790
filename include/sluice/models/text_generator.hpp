#pragma once
#include <sluice/draw/inverse_cdf.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/random/stream.hpp>
#include <sluice/random/uniform.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

/// Unstable: for tests, benchmarks and examples; no compatibility is promised.
///
/// A text of invented words whose grammar rewards long contexts: the suffix of a verb is decided by the class of the
/// noun before it, which a byte context of length 5 rarely reaches and a pair of words always does. So a model of
/// higher order, or of words, is a better target than a draft of lower order.
namespace sluice::models {

/// The words of the generated language, distinct and different from its function words, in the order of their draws
/// from stream (seed, 0x301).
struct lexicon {
  std::vector<std::string> nouns;       ///< 120; the class of noun i is i mod 3
  std::vector<std::string> verbs;       ///< 80, written with a suffix
  std::vector<std::string> adjectives;  ///< 60
  std::vector<std::string> adverbs;     ///< 20
};

namespace detail {

inline constexpr std::array<std::string_view, 4> determiners{"the", "a", "this", "that"};
inline constexpr std::array<std::string_view, 5> prepositions{"of", "in", "on", "with", "near"};
inline constexpr std::array<std::string_view, 3> conjunctions{"and", "but", "then"};
inline constexpr std::array<std::string_view, 3> verb_suffixes{"ta", "mi", "ro"};

template <std::size_t N>
std::string_view any_of(const std::array<std::string_view, N>& words, cursor& random) {
  return words[static_cast<std::size_t>(below(random, N))];
}

/// One to three syllables: onset, nucleus, coda.
inline std::string invented_word(cursor& random) {
  constexpr std::array<std::string_view, 16> onsets{"b", "d", "f", "g", "k", "l", "m",  "n",
                                                    "p", "r", "s", "t", "v", "z", "st", "tr"};
  constexpr std::array<std::string_view, 7> nuclei{"a", "e", "i", "o", "u", "ai", "ou"};
  constexpr std::array<std::string_view, 6> codas{"", "", "n", "r", "s", "l"};
  std::string word;
  for (std::uint64_t left = 1 + below(random, 3); left > 0; --left) {
    word += any_of(onsets, random);
    word += any_of(nuclei, random);
    word += any_of(codas, random);
  }
  return word;
}

/// Draws an index below n with probability proportional to 1/(1 + i).
class zipf_ranks {
 public:
  explicit zipf_ranks(std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) weight_.push_back(1.0 / static_cast<double>(1 + i));
  }
  std::size_t operator()(cursor& random) const { return static_cast<std::size_t>(categorical(random, weight_)); }

 private:
  std::vector<double> weight_;
};

/// Writes sentences; one object per text.
class text_writer {
 public:
  text_writer(const lexicon& words, stream key) : words_(words), random_(key) {}

  void paragraph(std::string& text) {
    topic_ = static_cast<std::size_t>(below(random_, 6));
    const std::uint64_t n = 4 + below(random_, 5);
    for (std::uint64_t i = 0; i < n; ++i) {
      if (i > 0) text += ' ';
      sentence(text);
    }
    text += "\n\n";
  }

 private:
  bool chance(double p) { return bernoulli(random_, p); }
  static void word(std::string& text, std::string_view w) {
    text += w;
    text += ' ';
  }
  void sentence(std::string& text) {
    const std::size_t first = text.size();
    clause(text);
    if (chance(0.3)) {
      word(text, any_of(conjunctions, random_));
      clause(text);
    }
    text.back() = '.';  // instead of the space after the last word
    text[first] = static_cast<char>(text[first] - 'a' + 'A');
  }
  void clause(std::string& text) {
    const std::size_t noun_class = noun_phrase(text);
    text += words_.verbs[verb_(random_)];
    word(text, verb_suffixes[noun_class]);
    if (chance(0.7)) noun_phrase(text);
    if (chance(0.2)) word(text, words_.adverbs[adverb_(random_)]);
    if (chance(0.3)) {
      word(text, any_of(prepositions, random_));
      noun_phrase(text);
    }
  }
  /// Returns the class of the noun.
  std::size_t noun_phrase(std::string& text) {
    word(text, any_of(determiners, random_));
    if (chance(0.4)) word(text, words_.adjectives[adjective_(random_)]);
    const std::size_t noun = (noun_(random_) + 20 * topic_) % words_.nouns.size();
    word(text, words_.nouns[noun]);
    return noun % 3;
  }

  const lexicon& words_;
  cursor random_;
  std::size_t topic_ = 0;
  zipf_ranks noun_{120}, verb_{80}, adjective_{60}, adverb_{20};
};

}  // namespace detail

/// The lexicon of a seed: 280 words in the order nouns, verbs, adjectives, adverbs, without repetition.
inline lexicon make_lexicon(std::uint64_t seed) {
  std::unordered_set<std::string> seen{"the", "a",    "this", "that", "of",  "in",
                                       "on",  "with", "near", "and",  "but", "then"};
  cursor random(stream(seed, 0x301));
  lexicon words;
  const auto fill = [&](std::vector<std::string>& list, std::size_t n) {
    while (list.size() < n) {
      std::string word = detail::invented_word(random);
      if (seen.insert(word).second) list.push_back(std::move(word));
    }
  };
  fill(words.nouns, 120);
  fill(words.verbs, 80);
  fill(words.adjectives, 60);
  fill(words.adverbs, 20);
  return words;
}

/// The first n_bytes bytes of the text of a seed, ASCII; a longer text of the same seed begins with a shorter one.
/// Paragraphs of 4 to 8 sentences, each paragraph with one of six topics that shifts the ranks of its nouns; ranks
/// follow Zipf's law. About 0.1 s per megabyte. Throws invalid_argument if n_bytes is negative.
inline std::string generate_text(std::uint64_t seed, index_t n_bytes) {
  expects(n_bytes >= 0, "generate_text", "n_bytes", n_bytes);
  const lexicon words = make_lexicon(seed);
  detail::text_writer writer(words, stream(seed, 0x302));
  std::string text;
  text.reserve(static_cast<std::size_t>(n_bytes) + 4096);
  while (std::ssize(text) < n_bytes) writer.paragraph(text);
  text.resize(static_cast<std::size_t>(n_bytes));
  return text;
}

}  // namespace sluice::models
