#include <catch2/catch.hpp>
#include <limits>
#include <sluice/draw/inverse_cdf.hpp>
#include <sluice/draw/sum_tree.hpp>
#include <sluice/random/stream.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>

#include "draw_support.hpp"

// Fails for: adding differences on the way up (drift); going left on rest <= left; entering a child of zero mass;
// forgetting to subtract the left mass; an update that stops one level below the root.

using namespace sluice;
using namespace draw_test;

TEST_CASE("sum_tree: a million updates leave the tree of a fresh build, bit for bit", "[sum_tree]") {
  cursor random(stream{21});
  std::vector<double> w(1000);
  for (double& v : w) v = 1000 * co53(random());
  sum_tree tree(w);
  for (int t = 0; t < 1'000'000; ++t) {
    const std::size_t i = below(random, w.size());
    w[i] = bernoulli(random, 0.1) ? 0.0 : 1000 * co53(random());
    tree.update(static_cast<index_t>(i), w[i]);
  }
  const sum_tree fresh(w);
  CHECK(std::equal(tree.heap().begin(), tree.heap().end(), fresh.heap().begin(), fresh.heap().end()));
  CHECK(tree.positive() == fresh.positive());
  for (std::size_t i = 0; i < w.size(); ++i) tree.update(static_cast<index_t>(i), 0);
  CHECK(tree.total() == 0);
  CHECK(tree.positive() == 0);
}

TEST_CASE("sum_tree: finds the category that the running sums find", "[sum_tree]") {
  for (const std::size_t n : {1u, 2u, 3u, 5u, 8u, 13u}) {
    std::vector<double> w;
    for (std::size_t i = 0; i < n; ++i) w.push_back(static_cast<double>(i * 7 % 5));  // integers: exact sums
    w[n / 2] = 4;
    const sum_tree tree(w);
    for (int k = 0; k < 1024; ++k) REQUIRE(tree.at(k / 1024.0) == inverse_cdf(std::span<const double>(w), k / 1024.0));
  }
}

TEST_CASE("sum_tree: no u, however near to an end, finds weight zero", "[sum_tree]") {
  cursor random(stream{22});
  for (int repeat = 0; repeat < 2000; ++repeat) {
    std::vector<double> w(1 + below(random, 20));
    for (double& v : w) v = bernoulli(random, 0.6) ? 0.0 : co53(random());
    w[below(random, w.size())] = 0.1;
    const sum_tree tree(w);
    for (const double u : {0.0, 0x1p-53, co53(random()), 1 - 0x1p-53})
      REQUIRE(w[static_cast<std::size_t>(tree.at(u))] > 0);
  }
}

TEST_CASE("sum_tree: a million draws follow the weights", "[sum_tree][statistical]") {
  std::vector<double> w(100, 1.0);
  sum_tree tree(w);
  w = harmonic_weights(100);
  for (std::size_t i = 0; i < w.size(); ++i) tree.update(static_cast<index_t>(i), w[i]);
  cursor random(stream{20240603});
  std::vector<std::int64_t> counts(w.size());
  for (int t = 0; t < 1'000'000; ++t) ++counts[static_cast<std::size_t>(tree.draw(random))];
  CHECK(pearson_of(counts, w) < critical_99);
}

TEST_CASE("sum_tree: all scales, also when they change", "[sum_tree]") {
  sum_tree tree(std::vector<double>{1e308, 1e308, 1e-300});
  CHECK(tree.at(0.25) == 0);
  CHECK(tree.at(0.75) == 1);
  tree.update(0, 0);
  tree.update(1, 0);
  CHECK(tree.at(0.75) == 2);
  tree.update(2, 5e-324);
  tree.update(0, 1.5e-323);
  CHECK(tree.at(0.74) == 0);
  CHECK(tree.at(0.76) == 2);
  tree.update(1, 1e308);
  CHECK(tree.at(1 - 0x1p-53) == 1);
  CHECK(tree.at(0.5) == 1);
  sum_tree one(std::vector<float>{3.0f});
  CHECK(one.at(0.9) == 0);
  CHECK(one.total() == 3);
}

TEST_CASE("sum_tree: updates and draws do not allocate", "[sum_tree]") {
  const std::vector<double> w = harmonic_weights(300);
  sum_tree tree(w);
  cursor random(stream{4});
  index_t sum = 0;
  CHECK(support::allocations_in([&] {
          for (index_t i = 0; i < 300; ++i) {
            tree.update(i, 1.0);
            sum += tree.draw(random);
          }
          tree.rebuild(w);
        }) == 0);
  CHECK(sum > 0);
}

TEST_CASE("sum_tree: refuses bad weights and positions, and changes nothing", "[sum_tree]") {
  sum_tree tree(std::vector<double>{1, 3, 0});
  const std::vector<double> before(tree.heap().begin(), tree.heap().end());
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  SLUICE_CHECK_THROWS(tree.update(3, 1.0), "sum_tree::update", "i", -1);
  SLUICE_CHECK_THROWS(tree.update(-1, 1.0), "sum_tree::update", "i", -1);
  for (const double bad : {-1.0, nan, inf}) SLUICE_CHECK_THROWS(tree.update(0, bad), "sum_tree::update", "weight", -1);
  SLUICE_CHECK_THROWS((tree.rebuild(std::vector<double>{1, nan})), "sum_tree", "weights", 1);
  SLUICE_CHECK_THROWS(tree.rebuild(std::vector<double>{}), "sum_tree", "weights.size", -1);
  CHECK(std::equal(tree.heap().begin(), tree.heap().end(), before.begin(), before.end()));
  const sum_tree zeros(std::vector<double>{0, 0});
  cursor random(stream{1});
  SLUICE_CHECK_THROWS(zeros.draw(random), "sum_tree", "weights.total", -1);
}
