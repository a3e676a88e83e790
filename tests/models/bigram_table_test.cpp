// Fails for: rows of the wrong token; a mean over all positions instead of those of a token; counts that leave the
// prior out; the first position of a run counted for the token before it; runs taken from the beginning only; a lead
// that reaches into the run; node 0 that keeps its token when a path is kept.
#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <sluice/models/bigram_table.hpp>
#include <sluice/models/text_generator.hpp>
#include <sluice/models/tokenizers.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>

using namespace sluice;
using namespace sluice::models;
using tokens = std::vector<token_id>;
using path = std::vector<index_t>;

static_assert(language_model<bigram_language_model>);

TEST_CASE("bigram table: rows are the model's laws after one token", "[bigram_table]") {
  const ngram_model model(generate_text(1, 5'000), {.order = 3});
  const bigram_table table(model);
  REQUIRE(table.vocabulary_size() == 256);
  std::vector<double> law(256);
  for (const token_id x : {0, 32, 101, 255}) {
    model.row(law, tokens{x});
    const auto row = table.row_after(x);
    REQUIRE(row.size() == 256);
    for (std::size_t y = 0; y < 256; ++y) REQUIRE(row[y] == static_cast<float>(law[y]));
  }
  SLUICE_CHECK_THROWS(table.row_after(256), "bigram_table::row_after", "token", -1);
  SLUICE_CHECK_THROWS(table.row_after(-1), "bigram_table::row_after", "token", -1);
}

TEST_CASE("bigram table: it learns the mean of the target's laws", "[bigram_table]") {
  const tokens text = byte_tokenizer::encode(generate_text(2, 4'000));
  const std::span<const token_id> all(text);
  const ngram_model bigram(all.first(500), 256, {.order = 2}), target(all, 256, {.order = 4});
  const auto options = GENERATE(bigram_learning{.positions = 100'000, .run = 32, .lead = 3, .prior = 2},
                                bigram_learning{.positions = 1'280, .run = 64, .lead = 5, .prior = 0},
                                bigram_learning{.positions = 900, .run = 1, .lead = 3});
  bigram_table table(bigram);
  ngram_language_model<> lm(target);
  table.learn(lm, text, options);

  const index_t room = 4'000 / options.run, runs = std::min(room, options.positions / options.run);
  std::map<token_id, std::vector<double>> sum;
  std::map<token_id, double> count;
  std::vector<double> law(256);
  for (index_t r = 0; r < runs; ++r)
    for (index_t i = 0; i < options.run; ++i) {
      const auto at = static_cast<std::size_t>(r * room / runs * options.run + i);
      target.row(law, all.first(at + 1));  // a lead of 3 is enough for order 4
      auto& s = sum.try_emplace(text[at], 256).first->second;
      for (std::size_t y = 0; y < 256; ++y) s[y] += law[y];
      ++count[text[at]];
    }
  for (token_id x = 0; x < 256; ++x) {
    bigram.row(law, tokens{x});
    double total = 0;
    for (std::size_t y = 0; y < 256; ++y) {
      const double n = count[x],
                   expected = n == 0 ? law[y] : (options.prior * law[y] + sum[x][y]) / (options.prior + n);
      REQUIRE(std::abs(static_cast<double>(table.row_after(x)[y]) - expected) < 1e-6);
      total += static_cast<double>(table.row_after(x)[y]);
    }
    REQUIRE(std::abs(total - 1) < 1e-5);
  }
}

TEST_CASE("bigram table: what it learned is accepted more often", "[bigram_table]") {
  const tokens text = byte_tokenizer::encode(generate_text(1, 20'000));
  const std::span<const token_id> all(text), train = all.first(18'000);
  const ngram_model bigram(generate_text(2, 18'000), {.order = 2}), target(train, 256, {.order = 3});
  bigram_table plain(bigram), taught(bigram);
  ngram_language_model<> lm(target);
  taught.learn(lm, train, {.positions = 6'400});
  std::vector<double> p(256);
  double before = 0, after = 0;
  for (std::size_t i = 18'000; i < 20'000; ++i) {
    target.row(p, all.first(i));
    for (std::size_t y = 0; y < 256; ++y) {
      before += std::min(p[y], static_cast<double>(plain.row_after(text[i - 1])[y]));
      after += std::min(p[y], static_cast<double>(taught.row_after(text[i - 1])[y]));
    }
  }
  CHECK(after > before + 100);
}

TEST_CASE("bigram table: bad input", "[bigram_table]") {
  const tokens text{0, 1, 2, 1}, wrong{0, 1, 3};
  const ngram_model model(std::span<const token_id>(text), 3, {.order = 2}),
      other(std::string_view("ab"), {.order = 2});
  ngram_language_model<> lm(model), of_bytes(other);
  bigram_table table(model);
  const float before = table.row_after(1)[2];
  constexpr const char* me = "bigram_table::learn";
  SLUICE_CHECK_THROWS(table.learn(of_bytes, text), me, "target.vocabulary_size", -1);
  SLUICE_CHECK_THROWS(table.learn(lm, wrong), me, "text", 2);
  SLUICE_CHECK_THROWS((table.learn(lm, text, {.positions = -1})), me, "options.positions", -1);
  SLUICE_CHECK_THROWS((table.learn(lm, text, {.run = 0})), me, "options.run", -1);
  SLUICE_CHECK_THROWS((table.learn(lm, text, {.lead = 0})), me, "options.lead", -1);
  SLUICE_CHECK_THROWS((table.learn(lm, text, {.prior = -1})), me, "options.prior", -1);
  table.learn(lm, tokens{});
  table.learn(lm, text, {.positions = 0});
  CHECK(table.row_after(1)[2] == before);
}

TEST_CASE("bigram language model: views of the table, whatever the tree", "[bigram_table]") {
  const tokens text{0, 1, 2, 1, 0, 2, 2, 1};
  const ngram_model model(std::span<const token_id>(text), 3, {.order = 2});
  const bigram_table table(model);
  bigram_language_model lm(table);
  SLUICE_CHECK_THROWS(lm.row(0), "row", "node", -1);
  lm.reset(tokens{2, 1});
  CHECK(lm.row(0).values.data() == table.row_after(1).data());
  const token_tree tree{{1, 0, 2, 0}, {-1, 0, 0, 1}};
  lm.score(tree, 1);
  for (index_t i = 0; i < 4; ++i) {
    CHECK(lm.row(i).kind == row_kind::probabilities);
    CHECK(lm.row(i).values.data() == table.row_after(tree.token[static_cast<std::size_t>(i)]).data());
  }
  CHECK(lm.counts().calls == 1);
  CHECK(lm.counts().rows == 3);
  SLUICE_CHECK_THROWS(lm.score({{0, 1}, {-1}}, 0), "score", "tree.parent.size", -1);
  SLUICE_CHECK_THROWS(lm.score(tree, 5), "score", "first_new", -1);
  SLUICE_CHECK_THROWS(lm.score({{1, 3}, {-1, 0}}, 1), "score", "tree.token", 1);
  SLUICE_CHECK_THROWS(lm.keep(path{1, 4}), "keep", "path", 1);
  SLUICE_CHECK_THROWS(lm.reset(tokens{0, 3}), "reset", "text", 1);
  SLUICE_CHECK_THROWS(lm.row(4), "row", "node", -1);
  lm.keep(path{2});
  CHECK(lm.row(0).values.data() == table.row_after(2).data());
  SLUICE_CHECK_THROWS(lm.row(1), "row", "node", -1);
  lm.keep(path{});
  CHECK(lm.row(0).values.data() == table.row_after(2).data());
  const path one{1};
  const auto round = [&] {
    lm.score(tree, 1);
    lm.keep(one);
  };
  round();
  CHECK(support::allocations_in(round) == 0);
  lm.reset_counts();
  CHECK(lm.counts().calls == 0);
}
