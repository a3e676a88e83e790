// Fails for: ties broken by larger ids or by first occurrence; counts that miss or double a pair that overlaps itself;
// a pair merged from right to left; counts not corrected beside a merge, or corrected for tokens that are gone; an
// encoder that takes the longest token without stepping back, or applies merges out of order; bytes above 127 taken as
// negative; words with equal counts out of alphabetical order.
#include <catch2/catch.hpp>
#include <map>
#include <sluice/models/text_generator.hpp>
#include <sluice/models/tokenizers.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/random/stream.hpp>
#include <support/check_throws.hpp>

using namespace sluice;
using namespace sluice::models;
using tokens = std::vector<token_id>;
using merge_list = std::vector<std::pair<token_id, token_id>>;

namespace {

/// Replaces the pair by one token, from left to right.
tokens applied(const tokens& in, std::pair<token_id, token_id> merge, token_id made) {
  tokens out;
  for (std::size_t i = 0; i < in.size(); ++i) {
    const bool here = i + 1 < in.size() && in[i] == merge.first && in[i + 1] == merge.second;
    out.push_back(here ? made : in[i]);
    i += here;
  }
  return out;
}

/// Counts all pairs anew for every merge.
merge_list definition(std::string_view text, std::size_t n_merges, int min_count) {
  tokens t = byte_tokenizer::encode(text);
  merge_list merges;
  while (merges.size() < n_merges) {
    std::map<std::pair<token_id, token_id>, int> count;
    for (std::size_t i = 1; i < t.size(); ++i) ++count[{t[i - 1], t[i]}];
    auto best = count.end();
    for (auto p = count.begin(); p != count.end(); ++p)  // in the order of ids
      if (best == count.end() || p->second > best->second) best = p;
    if (best == count.end() || best->second < min_count) break;
    t = applied(t, best->first, static_cast<token_id>(256 + merges.size()));
    merges.push_back(best->first);
  }
  return merges;
}

tokens encoded(std::string_view text, std::span<const std::pair<token_id, token_id>> merges) {
  tokens t = byte_tokenizer::encode(text);
  for (std::size_t k = 0; k < merges.size(); ++k) t = applied(t, merges[k], static_cast<token_id>(256 + k));
  return t;
}

std::string random_bytes(cursor& random, std::size_t n, std::uint64_t alphabet, int first) {
  std::string s(n, ' ');
  for (char& c : s)
    c = static_cast<char>(static_cast<unsigned char>(first + static_cast<int>(below(random, alphabet))));
  return s;
}

}  // namespace

TEST_CASE("bytes come back", "[tokenizers]") {
  std::string all;
  for (int c = 0; c < 256; ++c) all += static_cast<char>(static_cast<unsigned char>(c));
  const tokens t = byte_tokenizer::encode(all);
  CHECK(t[200] == 200);
  CHECK(byte_tokenizer::decode(t) == all);
  CHECK(byte_tokenizer::encode("").empty());
  const tokens bad{0, 256};
  SLUICE_CHECK_THROWS(byte_tokenizer::decode(bad), "decode", "tokens", 1);
}

TEST_CASE("byte pairs: merges and codes equal the definition", "[tokenizers]") {
  cursor random(stream(4));
  for (int round = 0; round < 300; ++round) {
    const std::uint64_t alphabet = 1 + below(random, 4);
    const std::string text = random_bytes(random, below(random, 200), alphabet, 254 - 3);
    const int min_count = 1 + static_cast<int>(below(random, 3));
    const bpe_tokenizer bpe(text, {.vocabulary_size = 256 + 40, .min_count = min_count});
    const merge_list merges = definition(text, 40, min_count);
    REQUIRE(merge_list(bpe.merges().begin(), bpe.merges().end()) == merges);
    REQUIRE(bpe.vocabulary_size() == 256 + std::ssize(merges));
    REQUIRE(bpe.encode(text) == encoded(text, merges));
    const std::string other = random_bytes(random, below(random, 100), alphabet + 2, 254 - 4);
    REQUIRE(bpe.encode(other) == encoded(other, merges));
    REQUIRE(bpe.decode(bpe.encode(other)) == other);
  }
}

TEST_CASE("byte pairs: merges of the user's, reachable or not", "[tokenizers]") {
  cursor random(stream(5));
  for (int round = 0; round < 200; ++round) {
    merge_list merges;
    while (merges.size() < 12) {
      const auto pick = [&] {
        const auto i = static_cast<token_id>(below(random, 3 + merges.size()));
        return i < 3 ? 'a' + i : 256 + i - 3;
      };
      const std::pair<token_id, token_id> m{pick(), pick()};
      if (std::find(merges.begin(), merges.end(), m) == merges.end()) merges.push_back(m);
    }
    const bpe_tokenizer bpe{std::span<const std::pair<token_id, token_id>>(merges)};
    const std::string text = random_bytes(random, 60, 3, 'a');
    REQUIRE(bpe.encode(text) == encoded(text, merges));
    REQUIRE(bpe.decode(bpe.encode(text)) == text);
  }
}

TEST_CASE("byte pairs of a text: round trip, compression, limits", "[tokenizers]") {
  const std::string text = generate_text(9, 50'000) + "\xC3\xA9\xF0\x9F\x92\xA7" + std::string("\0\xFF", 2);
  const bpe_tokenizer bpe(text, {.vocabulary_size = 1000});
  CHECK(bpe.vocabulary_size() == 1000);
  const tokens t = bpe.encode(text);
  CHECK(bpe.decode(t) == text);
  CHECK(t.size() < text.size() / 3);
  CHECK(t == encoded(text, bpe.merges()));
  CHECK(bpe.bytes('x') == "x");
  CHECK(std::string(bpe.bytes(256)) ==
        std::string(bpe.bytes(bpe.merges()[0].first)) + std::string(bpe.bytes(bpe.merges()[0].second)));
  const bpe_tokenizer prefix(text, {.vocabulary_size = 400, .max_bytes = 5000});
  CHECK(std::equal(prefix.merges().begin(), prefix.merges().end(),
                   bpe_tokenizer(text.substr(0, 5000), {.vocabulary_size = 400}).merges().begin()));
  const bpe_tokenizer repeated(std::string(5000, 'a'), {.max_token_bytes = 16});
  for (token_id w = 0; w < repeated.vocabulary_size(); ++w) CHECK(repeated.bytes(w).size() <= 16);
  CHECK(repeated.encode(std::string(5000, 'a')).size() == 313);
  CHECK(bpe_tokenizer("").vocabulary_size() == 256);
  CHECK(bpe_tokenizer("").encode("ab") == tokens{'a', 'b'});
  CHECK(bpe.encode("").empty());
}

TEST_CASE("byte pairs refuse bad input by name", "[tokenizers]") {
  SLUICE_CHECK_THROWS((bpe_tokenizer("a", {.vocabulary_size = 255})), "bpe_tokenizer", "options.vocabulary_size", -1);
  SLUICE_CHECK_THROWS((bpe_tokenizer("a", {.min_count = 0})), "bpe_tokenizer", "options.min_count", -1);
  SLUICE_CHECK_THROWS((bpe_tokenizer("a", {.max_token_bytes = 0})), "bpe_tokenizer", "options.max_token_bytes", -1);
  SLUICE_CHECK_THROWS((bpe_tokenizer("a", {.max_bytes = -1})), "bpe_tokenizer", "options.max_bytes", -1);
  const auto from = [](merge_list m) { return bpe_tokenizer(std::span<const std::pair<token_id, token_id>>(m)); };
  SLUICE_CHECK_THROWS(from({{1, 2}, {257, 2}}), "bpe_tokenizer", "merges.first", 1);
  SLUICE_CHECK_THROWS(from({{1, -1}}), "bpe_tokenizer", "merges.second", 0);
  SLUICE_CHECK_THROWS(from({{1, 2}, {1, 2}}), "bpe_tokenizer", "merges.first", 1);
  const tokens bad{0, 256};
  SLUICE_CHECK_THROWS(bpe_tokenizer("").decode(bad), "decode", "tokens", 1);
  SLUICE_CHECK_THROWS(bpe_tokenizer("").bytes(256), "bytes", "token", -1);
}

TEST_CASE("words: ids, order, unknown words, separators", "[tokenizers]") {
  const word_tokenizer words("The cat.\n\nThe dog; a_dog \xC3\xA9t\xC3\xA9.\n\n\n the");
  // the 3; ".", "\n\n", "dog", "t" are below; ties in the order of bytes
  const char* const expected[] = {"", "the", "\n\n", ".", "dog", "a", "cat", "t"};
  REQUIRE(words.vocabulary_size() == 8);
  for (token_id i = 0; i < 8; ++i) CHECK(words.word(i) == expected[i]);
  CHECK(words.encode("A bird. THE DOG\n\n\n\n\n") == tokens{5, 0, 3, 1, 4, 2, 2});
  CHECK(words.decode(tokens{1, 6, 3, 2, 1, 4, 0, 3}) == "the cat.\n\nthe dog ?.");
  const tokens known{1, 6, 3, 2, 2, 1, 4, 3};
  CHECK(words.encode(words.decode(known)) == known);
  CHECK(word_tokenizer("\xFF 12 \n").vocabulary_size() == 1);
  const tokens bad{1, 8};
  SLUICE_CHECK_THROWS(words.decode(bad), "decode", "tokens", 1);
  SLUICE_CHECK_THROWS(words.word(-1), "word", "id", -1);
}
