#include <catch2/catch.hpp>
#include <sluice/draw/priority_sampling.hpp>
#include <sluice/random/stream.hpp>
#include <support/check_throws.hpp>

#include "draw_support.hpp"

// Fails for: priorities u/w; the k-th instead of the (k+1)-th as threshold; a merge that forgets the left-out item;
// estimates of different items correlated.

using namespace sluice;
using namespace draw_test;

TEST_CASE("priority_sampling: shards merged in any order give the sample of one pass", "[priority_sampling]") {
  cursor random(stream{101});
  for (int repeat = 0; repeat < 100; ++repeat) {
    const auto k = static_cast<index_t>(below(random, 12));
    priority_sampling whole(k), left(k), right(k), middle(k);
    for (index_t i = 0; i < 60; ++i) {
      const double w = bernoulli(random, 0.1) ? 0.0 : std::exp(6 * co53(random())), u = oc53(random());
      whole.add_at(i, w, u);
      (i % 3 == 0 ? left : i % 3 == 1 ? right : middle).add_at(i, w, u);
    }
    right.merge(left);
    middle.merge(right);
    weighted_sample a, b;
    whole.sample_into(a);
    middle.sample_into(b);
    REQUIRE(a.index == b.index);
    REQUIRE(a.weight == b.weight);
    REQUIRE(a.threshold == b.threshold);
    REQUIRE(b.population == 60);
    whole.sample_into(b);  // reading changes nothing
    REQUIRE(a.index == b.index);
  }
}

TEST_CASE("priority_sampling: estimates are unbiased and uncorrelated", "[priority_sampling][statistical]") {
  const std::vector<double> w{4, 1, 2, 0.5, 3, 1};
  priority_sampling design;
  cursor random(stream{20240610});
  weighted_sample s;
  constexpr int runs = 100'000;
  std::vector<double> e(w.size()), mean(w.size()), squares(w.size());
  double product = 0, product_squares = 0;
  for (int t = 0; t < runs; ++t) {
    design.draw_into(s, w, 3, random);
    std::fill(e.begin(), e.end(), 0.0);
    for (std::size_t j = 0; j < s.index.size(); ++j)
      e[static_cast<std::size_t>(s.index[j])] = s.weight[j] * w[static_cast<std::size_t>(s.index[j])];
    for (std::size_t i = 0; i < w.size(); ++i) {
      mean[i] += e[i] / runs;
      squares[i] += (e[i] - w[i]) * (e[i] - w[i]) / runs;
    }
    const double c = (e[1] - w[1]) * (e[2] - w[2]);
    product += c / runs;
    product_squares += c * c / runs;
  }
  for (std::size_t i = 0; i < w.size(); ++i) CHECK(std::abs(z_of(mean[i], w[i], squares[i], runs)) < 5.5);
  CHECK(std::abs(z_of(product, 0, product_squares, runs)) < 5.5);
}

TEST_CASE("priority_sampling: few items, and extreme ones", "[priority_sampling]") {
  cursor random(stream{102});
  priority_sampling design;
  const weighted_sample all = design.draw(std::vector<double>{2, 0, 5}, 2, random);
  CHECK(all.index == std::vector<index_t>{0, 2});
  CHECK(all.weight == std::vector<double>{1, 1});
  CHECK(all.threshold == 0);
  priority_sampling sampler(1);
  sampler.add_at(0, 1e308, 0x1p-53);  // the priorities exceed the largest double
  sampler.add_at(1, 1e308, 0x1p-52);
  weighted_sample s;
  sampler.sample_into(s);
  CHECK(s.index == std::vector<index_t>{0});
  CHECK(s.weight[0] == Approx(0x1p52));
  priority_sampling tiny(1);
  tiny.add_at(0, 5e-324, 0.5);
  tiny.add_at(1, 5e-324, 0.25);
  tiny.sample_into(s);
  CHECK(s.index == std::vector<index_t>{1});
}

TEST_CASE("priority_sampling: refuses bad input", "[priority_sampling]") {
  priority_sampling a(2), b(3);
  cursor random(stream{103});
  SLUICE_CHECK_THROWS(a.add(0, -1.0, random), "priority_sampling::add", "weight", -1);
  SLUICE_CHECK_THROWS(a.add_at(0, -1.0, 0.5), "priority_sampling::add_at", "weight", -1);
  SLUICE_CHECK_THROWS(a.add_at(0, 1.0, 0.0), "priority_sampling::add_at", "u", -1);
  SLUICE_CHECK_THROWS(a.add_at(0, 1.0, 1.5), "priority_sampling::add_at", "u", -1);
  SLUICE_CHECK_THROWS(a.merge(b), "priority_sampling::merge", "other.k", -1);
  SLUICE_CHECK_THROWS(a.merge(a), "priority_sampling::merge", "other", -1);
  CHECK_THROWS_AS(priority_sampling(-1), invalid_argument);
}
