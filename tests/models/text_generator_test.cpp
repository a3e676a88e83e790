// Fails for: any draw out of order; a lexicon word drawn twice; nouns with a suffix; the class of another noun phrase
// for the verb; a topic per sentence; a text cut at a sentence. (The syllables cannot
// make a function word; the lexicon is checked for them all the same.)
#include <catch2/catch.hpp>
#include <set>
#include <sluice/models/text_generator.hpp>
#include <support/check_throws.hpp>

using namespace sluice;
using namespace sluice::models;

TEST_CASE("the generated text has its published hash and beginning", "[text_generator]") {
  const std::string text = generate_text(1, 22'000);
  REQUIRE(text.size() == 22'000);
  const auto fnv1a = [&](std::size_t n) {
    std::uint64_t h = 0xcbf29ce484222325u;
    for (std::size_t i = 0; i < n; ++i) h = (h ^ static_cast<unsigned char>(text[i])) * 0x100000001b3u;
    return h;
  };
  CHECK(fnv1a(1000) == 0xe4cbcb1ef768164bu);
  CHECK(fnv1a(22'000) == 0x6ec6fa9e9c33b7dcu);
  CHECK(text.substr(0, 33) == "The fur rolta this trutais sou th");
  CHECK(generate_text(1, 777) == text.substr(0, 777));
  CHECK(generate_text(2, 777) != text.substr(0, 777));
  CHECK(generate_text(1, 0).empty());
  SLUICE_CHECK_THROWS(generate_text(1, -1), "generate_text", "n_bytes", -1);
}

TEST_CASE("a verb is a stem and the suffix of a class, every word of the lexicon is new", "[text_generator]") {
  const lexicon words = make_lexicon(5);
  std::set<std::string> all{"the", "a", "this", "that", "of", "in", "on", "with", "near", "and", "but", "then"};
  for (const auto* list : {&words.nouns, &words.verbs, &words.adjectives, &words.adverbs})
    for (const auto& w : *list) CHECK(all.insert(w).second);
  CHECK(words.nouns.size() == 120);
  CHECK(words.verbs.size() == 80);
  CHECK(words.adjectives.size() == 60);
  CHECK(words.adverbs.size() == 20);
}
