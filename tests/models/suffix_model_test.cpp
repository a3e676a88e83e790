// Fails for: suffixes sorted wrongly where substrings repeat or the text ends; an end of the text that counts as a
// continuation; a longest match cut short or one token too long; T(h) counted as occurrences; P_{-1} missing; a run of
// equal continuations cut or overrun; a probability that differs from the row; the earliest match instead of the
// latest; a shorter match before a longer one; blocks of latest places left out.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <numeric>
#include <sluice/models/ngram_language_model.hpp>
#include <sluice/models/suffix_model.hpp>
#include <sluice/models/text_generator.hpp>
#include <sluice/models/tokenizers.hpp>
#include <sluice/random/stream.hpp>
#include <sluice/speculate/drafting.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <vector>

using namespace sluice;
using namespace sluice::models;
using tokens = std::vector<token_id>;

static_assert(context_model<suffix_model>);
static_assert(language_model<ngram_language_model<suffix_model>>);
static_assert(proposal_source<corpus_lookup>);

namespace {

tokens random_text(std::uint64_t seed, std::size_t n, std::uint64_t vocabulary) {
  cursor random{stream(seed)};
  tokens text(n);
  for (auto& t : text) t = static_cast<token_id>(below(random, vocabulary));
  return text;
}

/// Texts on which suffixes share long beginnings: random ones, runs, periods, Fibonacci words.
std::vector<tokens> hard_texts() {
  std::vector<tokens> all{{}, {0}, {1, 0}, {0, 1}, {0, 0}, {2, 1, 0, 0, 1, 2}};
  for (std::uint64_t seed = 1; seed <= 60; ++seed)
    for (const std::uint64_t v : {1u, 2u, 3u, 7u}) all.push_back(random_text(seed, 3 + seed * 3, v));
  for (const token_id period : {2, 3, 5, 8}) {
    tokens periodic(100);
    for (std::size_t i = 0; i < periodic.size(); ++i)
      periodic[i] = static_cast<token_id>((i * i) % static_cast<std::size_t>(period)) % 7;
    all.push_back(periodic);
  }
  tokens a{0}, b{0, 1};
  while (b.size() < 300) {
    tokens next = b;
    next.insert(next.end(), a.begin(), a.end());
    a = std::exchange(b, next);
  }
  all.push_back(b);
  std::reverse(b.begin(), b.end());
  all.push_back(b);
  return all;
}

bool stands_at(const tokens& text, std::size_t p, std::span<const token_id> pattern) {
  return p + pattern.size() <= text.size() &&
         std::equal(pattern.begin(), pattern.end(), text.begin() + static_cast<std::ptrdiff_t>(p));
}

}  // namespace

TEST_CASE("suffixes are in order and ranges hold every place that is continued", "[suffix_model]") {
  for (const tokens& text : hard_texts()) {
    const suffix_array array(std::span<const token_id>(text), 7);
    std::vector<std::int32_t> sorted(text.size());
    std::iota(sorted.begin(), sorted.end(), 0);
    std::sort(sorted.begin(), sorted.end(), [&](auto i, auto j) {
      return std::lexicographical_compare(text.begin() + i, text.end(), text.begin() + j, text.end());
    });
    REQUIRE(std::equal(sorted.begin(), sorted.end(), array.positions().begin(), array.positions().end()));
    for (const std::size_t m : {std::size_t{0}, std::size_t{1}, std::size_t{2}, std::size_t{5}}) {
      for (std::size_t i = 0; i + m <= text.size(); i += 1 + i / 3) {
        const std::span<const token_id> pattern = std::span(text).subspan(i, m);
        index_t places = 0;
        for (std::size_t p = 0; p + m < text.size(); ++p) places += stands_at(text, p, pattern);
        const auto found = array.continued(pattern);
        REQUIRE(found.size() == places);
        for (index_t k = found.first; k < found.last; ++k) {
          const auto p = static_cast<std::size_t>(array.positions()[static_cast<std::size_t>(k)]);
          REQUIRE(stands_at(text, p, pattern));
          REQUIRE(array.following(k, static_cast<index_t>(m)) == text[p + m]);
        }
      }
    }
    const tokens absent{6, 6, 6, 6, 6, 6};
    CHECK(array.continued(absent).size() == 0);
  }
}

TEST_CASE("a suffix model is the Witten-Bell n-gram of one order more", "[suffix_model]") {
  const int longest = GENERATE(0, 1, 2, 5, 16);
  std::vector<tokens> texts = hard_texts();
  const std::string generated = generate_text(1, 20'000);
  texts.push_back(byte_tokenizer::encode(generated));
  for (const tokens& text : texts) {
    const index_t vocabulary = text.size() > 1000 ? 256 : 9;
    const suffix_model model(std::span<const token_id>(text), vocabulary, {.longest = longest});
    const ngram_model exact(std::span<const token_id>(text), vocabulary, {.order = longest + 1});
    const auto v = static_cast<std::size_t>(vocabulary);
    std::vector<double> row(v, std::numeric_limits<double>::quiet_NaN()), expected(v);
    std::vector<tokens> contexts{{}, {8}, {8, 0, 1}, tokens(20, 0)};
    for (std::size_t i = 1; i <= text.size(); i += 1 + i / 4)
      contexts.emplace_back(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(i));
    contexts.push_back(text);
    for (const tokens& h : contexts) {
      model.row(row, h);
      exact.row(expected, h);
      REQUIRE(model.matched_length(h) == exact.matched_length(h));
      long double sum = 0;
      for (std::size_t w = 0; w < v; ++w) {
        REQUIRE(std::abs(row[w] - expected[w]) <= 1e-14 * expected[w]);
        REQUIRE(std::abs(model.probability(static_cast<token_id>(w), h) - row[w]) <= 1e-14 * row[w]);
        sum += row[w];
      }
      REQUIRE(std::abs(static_cast<double>(sum - 1)) < 5e-15);
    }
  }
}

TEST_CASE("long matches are found up to the cap, without allocation, and only what can match is read",
          "[suffix_model]") {
  const std::string text = generate_text(2, 100'000);
  const suffix_model model(text);
  CHECK(model.vocabulary_size() == 256);
  CHECK(model.context_length() == 16);
  CHECK(model.memory_bytes() < 8 * text.size() + 8 * 256 + 1000);
  tokens h = byte_tokenizer::encode(std::string_view(text).substr(1000, 30));
  CHECK(model.matched_length(h) == 16);
  std::vector<double> row(256), again(256);
  model.row(row, h);
  h[13] = 300;  // not in the vocabulary, and too old to be looked at
  CHECK(support::allocations_in([&] { model.row(again, h); }) == 0);
  CHECK(again == row);
  h[20] = 1;  // a byte that the text does not have
  h[13] = 0;
  CHECK(model.matched_length(h) == 9);
  ngram_language_model<suffix_model> lm(model);
  lm.reset(h);
  model.row(row, h);
  const auto values = lm.row(0).values;
  CHECK(std::equal(values.begin(), values.end(), row.begin(), row.end()));
}

TEST_CASE("lookup proposes what followed the latest of the longest matches", "[suffix_model]") {
  std::vector<tokens> texts = hard_texts();
  texts.push_back(random_text(5, 20'000, 2));
  texts.push_back(tokens(9000, 3));  // the latest place comes first
  texts.push_back(texts.back());
  texts.back().push_back(4);  // and last
  for (const tokens& corpus : texts) {
    const suffix_array array(std::span<const token_id>(corpus), 7);
    const index_t longest = static_cast<index_t>(corpus.size() % 5 + 1), shortest = std::min<index_t>(longest, 2);
    const corpus_lookup lookup(array, longest, shortest);
    for (std::uint64_t seed = 1; seed <= 4; ++seed) {
      tokens text = random_text(100 + seed, seed == 4 ? 1 : 30, seed);
      if (seed == 3 && corpus.size() > 40) text.assign(corpus.end() - 9, corpus.end());
      if (seed == 2) text.insert(text.end(), 2, 3);
      tokens out(6, -1);
      std::size_t length = 0, end = 0;  // by looking at every place
      for (std::size_t e = 1; e < corpus.size(); ++e) {
        std::size_t l = 0;
        while (l < static_cast<std::size_t>(longest) && l < e && l < text.size() &&
               corpus[e - 1 - l] == text[text.size() - 1 - l])
          ++l;
        if (l >= length) length = l, end = e;
      }
      index_t n = -1;
      CHECK(support::allocations_in([&] { n = lookup.propose(text, out); }) == 0);
      if (length < static_cast<std::size_t>(shortest)) {
        CHECK(n == 0);
        continue;
      }
      REQUIRE(n == static_cast<index_t>(std::min<std::size_t>(6, corpus.size() - end)));
      for (std::size_t i = 0; i < 6; ++i) REQUIRE(out[i] == (i < static_cast<std::size_t>(n) ? corpus[end + i] : -1));
    }
    CHECK(lookup.propose({}, {}) == 0);
  }
}

TEST_CASE("suffix models refuse bad input by name", "[suffix_model]") {
  const tokens text{0, 1, 2, 1}, negative{0, -1};
  const std::span<const token_id> s(text);
  SLUICE_CHECK_THROWS((suffix_array(s, 2)), "suffix_array", "text", 2);
  SLUICE_CHECK_THROWS((suffix_array(std::span<const token_id>(negative), 2)), "suffix_array", "text", 1);
  SLUICE_CHECK_THROWS((suffix_array(s, 0)), "suffix_array", "vocabulary_size", -1);
  SLUICE_CHECK_THROWS((suffix_array(s, index_t{1} << 31)), "suffix_array", "vocabulary_size", -1);
  const unsigned char byte = 0;  // never read: the size is refused first
  SLUICE_CHECK_THROWS((suffix_array(std::span<const unsigned char>(&byte, std::size_t{1} << 31), 256)), "suffix_array",
                      "text.size", -1);
  SLUICE_CHECK_THROWS((suffix_model(s, 3, {.longest = -1})), "suffix_model", "longest", -1);
  SLUICE_CHECK_THROWS((suffix_model(s, 3, {.longest = 64})), "suffix_model", "longest", -1);
  const suffix_model model(s, 3, {.longest = 63});
  std::vector<double> row(3), small(2);
  SLUICE_CHECK_THROWS(model.row(small, s), "suffix_model::row", "out.size", -1);
  SLUICE_CHECK_THROWS(model.row(row, negative), "suffix_model::row", "context", 1);
  SLUICE_CHECK_THROWS(model.probability(3, s), "suffix_model::probability", "token", -1);
  SLUICE_CHECK_THROWS(model.probability(0, negative), "suffix_model::probability", "context", 1);
  SLUICE_CHECK_THROWS(model.matched_length(negative), "matched_length", "context", 1);
  SLUICE_CHECK_THROWS((corpus_lookup(model.corpus(), 4, 0)), "corpus_lookup", "shortest", -1);
  SLUICE_CHECK_THROWS((corpus_lookup(model.corpus(), 2, 3)), "corpus_lookup", "longest", -1);
}
