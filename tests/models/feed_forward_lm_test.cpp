// Fails for: a gradient summed over the positions instead of averaged; a bias, or one of the context's vectors, without
// its gradient; 1 - h for 1 - h^2; an embedding gradient that keeps the last position only, or that is not cleared;
// padding that reads a token's vector; contexts with the oldest token first in training and the newest first in row();
// Adam without its bias corrections, with epsilon under the root, with the moments exchanged, or counting steps from 0;
// training in the order of the text, with the same order in every pass, or with a rate that does not fall; weights that
// depend on the number of threads; a step made after a loss that is not finite.
#include <catch2/catch.hpp>
#include <cmath>
#include <sluice/core/thread_pool.hpp>
#include <sluice/models/feed_forward_lm.hpp>
#include <sluice/models/text_generator.hpp>
#include <sluice/models/tokenizers.hpp>
#include <support/check_throws.hpp>

using namespace sluice;
using namespace sluice::models;
using tokens = std::vector<token_id>;

namespace {

tokens random_text(index_t n, std::uint64_t vocabulary) {
  cursor random(stream(4));
  tokens text;
  for (index_t i = 0; i < n; ++i) text.push_back(static_cast<token_id>(below(random, vocabulary)));
  return text;
}
template <class Parameters>
bool equal(const Parameters& a, const Parameters& b) {
  return a.embedding == b.embedding && a.hidden == b.hidden && a.output == b.output;
}

}  // namespace

static_assert(context_model<feed_forward_lm<>>);

TEST_CASE("feed-forward: the loss is the mean of -ln P, its gradient that of finite differences", "[feed_forward_lm]") {
  const tokens text = random_text(300, 7);
  feed_forward_lm<double> lm(7, {.context = 3, .embedding = 2, .hidden = 5, .seed = 9});
  std::vector<index_t> positions;  // the first ones look at padding; 150 are more than one chunk
  for (index_t i = 0; i < 150; ++i) positions.push_back(i % 5 == 4 ? 299 - i : i);
  const auto loss = [&] {
    double sum = 0;
    for (const index_t p : positions)
      sum -= std::log(
          lm.probability(text[static_cast<std::size_t>(p)], std::span(text).first(static_cast<std::size_t>(p))));
    return sum / static_cast<double>(positions.size());
  };
  lm.weights().hidden.rightCols(1).setConstant(0.3);
  lm.weights().output.col(lm.weights().output.cols() - 1).setLinSpaced(-1, 1);
  lm.weights().embedding *= 8;
  lm.weights().output *= 4;
  feed_forward_lm<double>::parameters gradient;
  for (int again = 0; again < 2; ++again)
    CHECK(lm.gradient(gradient, text, positions) == Approx(loss()).epsilon(1e-13));
  const auto compare = [&](auto member) {
    auto& w = lm.weights().*member;
    const auto& g = gradient.*member;
    REQUIRE(w.rows() == g.rows());
    REQUIRE(w.cols() == g.cols());
    for (index_t i = 0; i < w.size(); ++i) {
      constexpr double h = 1e-5;
      const double before = w.data()[i];
      w.data()[i] = before + h;
      const double above = loss();
      w.data()[i] = before - h;
      const double below = loss();
      w.data()[i] = before;
      CHECK(g.data()[i] == Approx((above - below) / (2 * h)).margin(1e-9));
    }
  };
  compare(&feed_forward_parameters<double>::embedding);
  compare(&feed_forward_parameters<double>::hidden);
  compare(&feed_forward_parameters<double>::output);
}

TEMPLATE_TEST_CASE("feed-forward: rows are the formula, shorter contexts are padded with zero vectors",
                   "[feed_forward_lm]", double, float) {
  feed_forward_lm<TestType> lm(5, {.context = 2, .embedding = 3, .hidden = 37});
  lm.weights().output.col(lm.weights().output.cols() - 1).setLinSpaced(-1, 1);
  lm.weights().hidden.col(lm.weights().hidden.cols() - 1).setLinSpaced(-2, 2);
  lm.weights().embedding *= 10;
  lm.weights().output *= 20;
  const auto expected = [&](const tokens& context) {
    const auto weights = lm.weights();
    std::vector<double> x(7, 0.0), h(37), p(5);
    for (std::size_t j = 0; j < std::min<std::size_t>(2, context.size()); ++j)
      for (index_t k = 0; k < 3; ++k)
        x[3 * j + static_cast<std::size_t>(k)] =
            static_cast<double>(weights.embedding(context[context.size() - 1 - j], k));
    x[6] = 1;
    for (index_t r = 0; r < 37; ++r) {
      double sum = 0;
      for (index_t c = 0; c < 7; ++c) sum += static_cast<double>(weights.hidden(r, c)) * x[static_cast<std::size_t>(c)];
      h[static_cast<std::size_t>(r)] = std::tanh(sum);
    }
    double total = 0;
    for (index_t v = 0; v < 5; ++v) {
      double z = static_cast<double>(weights.output(v, 37));
      for (index_t c = 0; c < 37; ++c) z += static_cast<double>(weights.output(v, c)) * h[static_cast<std::size_t>(c)];
      total += p[static_cast<std::size_t>(v)] = std::exp(z);
    }
    for (double& q : p) q /= total;
    return p;
  };
  constexpr double tolerance = std::is_same_v<TestType, double> ? 1e-13 : 2e-5;
  std::vector<double> row(5);
  for (const tokens& context : {tokens{}, tokens{0}, tokens{3}, tokens{3, 1}, tokens{1, 3}, tokens{4, 2, 2, 3, 1}}) {
    lm.row(row, context);
    const auto p = expected(context);
    double sum = 0;
    for (std::size_t v = 0; v < 5; ++v) {
      CHECK(row[v] == Approx(p[v]).epsilon(tolerance));
      CHECK(lm.probability(static_cast<token_id>(v), context) == Approx(row[v]).epsilon(1e-14));
      sum += row[v];
    }
    CHECK(sum == Approx(1).epsilon(1e-14));
  }
}

TEST_CASE("feed-forward: tanh of every length, at every place", "[feed_forward_lm]") {
  std::vector<float> x(70), out(70), alone(1);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = -10.0f + 0.29f * static_cast<float>(i);
  x[0] = -100;
  x[69] = 100;
  for (index_t n = 1; n <= 70; ++n) {
    std::fill(out.begin(), out.end(), 7.0f);
    models::detail::tanh_block(out.data(), x.data(), n);
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (i >= static_cast<std::size_t>(n)) {
        REQUIRE(out[i] == 7.0f);
        continue;
      }
      REQUIRE(std::abs(static_cast<double>(out[i]) - std::tanh(static_cast<double>(x[i]))) < 2e-7);
      models::detail::tanh_block(alone.data(), &x[i], 1);
      REQUIRE(out[i] == alone[0]);
    }
  }
}

TEST_CASE("feed-forward: training steps are Adam's on shuffled batches with a falling rate", "[feed_forward_lm]") {
  const tokens text = random_text(23, 6);
  feed_forward_lm<double> lm(6, {.context = 2, .embedding = 2, .hidden = 3});
  auto by_hand = lm;
  const feed_forward_training options{.passes = 2, .batch = 8, .learning_rate = 0.1, .warmup = 2, .seed = 5};
  const auto report = lm.train(text, options);
  CHECK(report.status == status::completed);
  CHECK(report.steps == 6);
  REQUIRE(report.bits.size() == 2);

  for (index_t v = 0; v < 6; ++v)
    by_hand.weights().output(v, 3) =
        std::log((0.5 + static_cast<double>(std::count(text.begin(), text.end(), v))) / (23.0 + 3.0));
  auto m = feed_forward_parameters<double>::zeros(6, by_hand.options()), v = m, g = m;
  double step = 0;
  for (std::uint64_t pass = 0; pass < 2; ++pass) {
    std::vector<index_t> order(23);
    std::iota(order.begin(), order.end(), index_t{0});
    cursor random(stream(5, 0x318 + pass));
    shuffle(std::span<index_t>(order), random);
    double bits = 0;
    for (std::size_t first = 0; first < 23; first += 8) {
      const auto positions = std::span<const index_t>(order).subspan(first, std::min<std::size_t>(8, 23 - first));
      bits += by_hand.gradient(g, text, positions) * static_cast<double>(positions.size()) / 23 / std::log(2.0);
      const double rate = 0.1 * std::min(1.0, (step + 1) / 3) * (1 - step / 6);
      ++step;
      const auto update = [&](auto member) {
        for (index_t i = 0; i < (g.*member).size(); ++i) {
          const double slope = (g.*member).data()[i];
          double &a = (m.*member).data()[i], &b = (v.*member).data()[i];
          a = 0.9 * a + 0.1 * slope;
          b = 0.999 * b + 0.001 * slope * slope;
          (by_hand.weights().*member).data()[i] -=
              rate * (a / (1 - std::pow(0.9, step))) / (std::sqrt(b / (1 - std::pow(0.999, step))) + 1e-8);
        }
      };
      update(&feed_forward_parameters<double>::embedding);
      update(&feed_forward_parameters<double>::hidden);
      update(&feed_forward_parameters<double>::output);
    }
    CHECK(report.bits[pass] == Approx(bits).epsilon(1e-12));
  }
  const auto near = [&](auto member) {
    return ((lm.weights().*member) - (by_hand.weights().*member)).cwiseAbs().maxCoeff() < 1e-9;
  };
  CHECK(near(&feed_forward_parameters<double>::embedding));
  CHECK(near(&feed_forward_parameters<double>::hidden));
  CHECK(near(&feed_forward_parameters<double>::output));
}

TEST_CASE("feed-forward: it learns more than the frequencies of the tokens", "[feed_forward_lm]") {
  const tokens text = byte_tokenizer::encode(generate_text(1, 20'000));
  const std::span<const token_id> all(text), train = all.first(18'000);
  feed_forward_lm<> lm(256, {.context = 3, .embedding = 8, .hidden = 24});
  const ngram_model unigram(train, 256, {.order = 1});
  const double frequencies = bits_per_token(unigram, all, 18'000);
  const auto report = lm.train(train, {.passes = 2, .batch = 64, .learning_rate = 0.02});
  const double learned = lm.bits_per_token(all, 18'000);
  CHECK(report.bits.size() == 2);
  CHECK(report.bits[1] < report.bits[0]);
  CHECK(learned < frequencies - 0.7);
  double slowly = 0;
  for (std::size_t i = 19'900; i < 20'000; ++i) slowly -= std::log2(lm.probability(text[i], all.first(i))) / 100;
  CHECK(lm.bits_per_token(all, 19'900) == Approx(slowly).epsilon(1e-5));
}

TEST_CASE("feed-forward: the same weights, gradients and bits on any number of threads",
          "[feed_forward_lm][parallel]") {
  const tokens text = random_text(1'500, 300);
  std::vector<index_t> positions(700);
  std::iota(positions.begin(), positions.end(), index_t{0});
  const feed_forward_options sizes{.context = 2, .embedding = 5, .hidden = 300};
  const feed_forward_training options{.batch = 400};
  feed_forward_lm<> one(300, sizes);
  feed_forward_lm<>::parameters gradient_of_one;
  const double loss = one.gradient(gradient_of_one, text, positions);
  REQUIRE(one.train(text, options).steps == 4);
  for (const index_t threads : {2, 3}) {
    const thread_pool pool(threads);
    feed_forward_lm<> lm(300, sizes);
    feed_forward_lm<>::parameters gradient;
    CHECK(lm.gradient(gradient, text, positions, pool) == loss);
    CHECK(equal(gradient, gradient_of_one));
    CHECK(lm.train(text, options, pool).steps == 4);
    CHECK(equal(lm.weights(), one.weights()));
    CHECK(lm.bits_per_token(text, 0, pool) == one.bits_per_token(text));
  }
}

TEST_CASE("feed-forward: the first weights are those of their streams", "[feed_forward_lm]") {
  const feed_forward_lm<double> lm(4, {.context = 2, .embedding = 3, .hidden = 5, .seed = 77});
  const auto check = [](const auto& m, index_t cols, double sd, std::uint64_t id) {
    cursor random(stream(77, id));
    CHECK(m.leftCols(cols) == sd * normal_matrix(m.rows(), cols, random));
    if (m.cols() > cols) CHECK(m.rightCols(1).isZero(0));
  };
  check(lm.weights().embedding, 3, 0.1, 0x310);
  check(lm.weights().hidden, 6, 3 / std::sqrt(6.0), 0x311);
  check(lm.weights().output, 5, 0.1 / std::sqrt(5.0), 0x312);
  CHECK(lm.weights().size() == 12 + 35 + 24);
  CHECK(equal(lm.weights(), feed_forward_lm<double>(4, lm.options()).weights()));
  CHECK_FALSE(equal(lm.weights(), feed_forward_lm<double>(4, {.context = 2, .embedding = 3, .hidden = 5}).weights()));
}

TEST_CASE("feed-forward: a loss that is not finite stops training before the step", "[feed_forward_lm]") {
  feed_forward_lm<> lm(4, {.context = 1, .embedding = 2, .hidden = 3});
  lm.weights().output(1, 0) = std::numeric_limits<float>::infinity();
  auto before = lm.weights();
  const auto report = lm.train(tokens{0, 1, 2, 3, 2, 1}, {.batch = 2});
  CHECK(report.status == status::diverged);
  CHECK(report.steps == 0);
  before.output.rightCols(1) = lm.weights().output.rightCols(1);  // the frequencies were written
  CHECK(equal(lm.weights(), before));
}

TEST_CASE("feed-forward: bad input and edges", "[feed_forward_lm]") {
  const tokens text{0, 1, 2}, wrong{0, 1, 3};
  std::vector<double> row(3), short_row(2);
  feed_forward_lm<>::parameters g;
  const std::vector<index_t> positions{0, 2}, outside{0, 3}, none;
  SLUICE_CHECK_THROWS(feed_forward_lm<>(0), "feed_forward_lm", "vocabulary_size", -1);
  SLUICE_CHECK_THROWS(feed_forward_lm<>(3, {.context = 0}), "feed_forward_lm", "options.context", -1);
  SLUICE_CHECK_THROWS(feed_forward_lm<>(3, {.embedding = 0}), "feed_forward_lm", "options.embedding", -1);
  SLUICE_CHECK_THROWS(feed_forward_lm<>(3, {.hidden = 0}), "feed_forward_lm", "options.hidden", -1);
  feed_forward_lm<> lm(3, {.context = 2, .embedding = 2, .hidden = 2});
  const auto before = lm.weights();
  SLUICE_CHECK_THROWS(lm.train(wrong), "train", "text", 2);
  SLUICE_CHECK_THROWS(lm.train(text, {.passes = -1}), "train", "options.passes", -1);
  SLUICE_CHECK_THROWS(lm.train(text, {.batch = 0}), "train", "options.batch", -1);
  SLUICE_CHECK_THROWS(lm.train(text, {.learning_rate = -1}), "train", "options.learning_rate", -1);
  SLUICE_CHECK_THROWS(lm.train(text, {.warmup = -1}), "train", "options.warmup", -1);
  SLUICE_CHECK_THROWS(lm.train(text, {.adam = {.beta1 = 1}}), "adam_step", "options.beta1", -1);
  CHECK(lm.train(text, {.passes = 0}).steps == 0);
  CHECK(lm.train(tokens{}).steps == 0);
  CHECK(equal(lm.weights(), before));
  SLUICE_CHECK_THROWS(lm.gradient(g, wrong, positions), "gradient", "text", 2);
  SLUICE_CHECK_THROWS(lm.gradient(g, text, outside), "gradient", "positions", 1);
  SLUICE_CHECK_THROWS(lm.gradient(g, text, none), "gradient", "positions.size", -1);
  SLUICE_CHECK_THROWS(lm.row(short_row, text), "feed_forward_lm::row", "out.size", -1);
  SLUICE_CHECK_THROWS(lm.row(row, wrong), "feed_forward_lm::row", "context", 2);
  SLUICE_CHECK_THROWS(lm.probability(3, text), "feed_forward_lm::probability", "token", -1);
  SLUICE_CHECK_THROWS(lm.probability(0, wrong), "feed_forward_lm::probability", "context", 2);
  SLUICE_CHECK_THROWS(lm.bits_per_token(wrong), "bits_per_token", "text", 2);
  SLUICE_CHECK_THROWS(lm.bits_per_token(text, 4), "bits_per_token", "first", -1);
  lm.row(row, tokens{3, 0, 1});  // a token beyond the context does not matter
  CHECK(lm.bits_per_token(text, 3) == 0);
  CHECK(feed_forward_lm<>(1).bits_per_token(tokens{0, 0}) == 0);
}
