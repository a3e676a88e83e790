#include <array>
#include <catch2/catch.hpp>
#include <limits>
#include <sluice/draw/alias_table.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>

#include "draw_support.hpp"

// Fails for: alias and probability swapped; q_l -= q_s instead of 1 - q_s; bernoulli with <= instead of <; total not
// scaled; the block form reading words in another order.

using namespace sluice;
using namespace draw_test;

namespace {

double reconstruction_error(const std::vector<double>& w) {
  const std::vector<double> p = alias_table(w).probabilities();
  const double total = sum_of(w);
  double worst = 0;
  for (std::size_t i = 0; i < w.size(); ++i) worst = std::max(worst, std::abs(p[i] - w[i] / total));
  return worst;
}

}  // namespace

TEST_CASE("alias_table: the table draws with the given probabilities", "[alias_table]") {
  CHECK(reconstruction_error({0, 1, 3, 0.5, 0, 2.5, 1, 0}) <= 1e-14);
  CHECK(reconstruction_error({1}) == 0);
  CHECK(reconstruction_error({7, 7, 7, 7, 7}) <= 1e-15);
  CHECK(reconstruction_error({1, 1e-9, 1e-17, 1e9}) <= 1e-14);
  cursor random(stream{11});
  std::vector<double> w(5000);
  for (double& v : w) v = co53(random()) < 0.3 ? 0.0 : -std::log(oc53(random()));
  CHECK(reconstruction_error(w) <= 1e-14);
}

TEST_CASE("alias_table: a category of weight zero is neither kept nor anybody's alias", "[alias_table]") {
  cursor random(stream{12});
  for (int repeat = 0; repeat < 200; ++repeat) {
    std::vector<double> w(1 + below(random, 40));
    for (double& v : w) v = co53(random()) < 0.5 ? 0.0 : co53(random());
    w[below(random, w.size())] = 1e-3;
    const alias_table table(w);
    for (std::size_t i = 0; i < w.size(); ++i) {
      const auto& e = table.entries()[i];
      REQUIRE(w[static_cast<std::size_t>(e.alias)] > 0);
      if (w[i] == 0) REQUIRE(e.probability == 0);
    }
  }
}

TEST_CASE("alias_table: extreme words draw only positive categories", "[alias_table]") {
  const std::vector<double> w{0, 0, 2, 0, 1, 0, 0, 0};  // a power of two: no word is rejected
  const alias_table table(w);
  for (const std::uint64_t index_word : {std::uint64_t{0}, ~std::uint64_t{0}, std::uint64_t{1} << 63})
    for (const std::uint64_t accept_word : {std::uint64_t{0}, ~std::uint64_t{0}}) {
      scripted_words words{index_word, accept_word};
      CHECK(w[static_cast<std::size_t>(table.draw(words))] > 0);
    }
}

TEST_CASE("alias_table: a million draws follow the weights", "[alias_table][statistical]") {
  const std::vector<double> w = harmonic_weights(100);
  const alias_table table(w);
  cursor random(stream{20240601});
  std::vector<index_t> out(1'000'000);
  table.draw(out, random);
  std::vector<std::int64_t> counts(w.size());
  for (const index_t i : out) ++counts[static_cast<std::size_t>(i)];
  CHECK(pearson_of(counts, w) < critical_99);
}

TEST_CASE("alias_table: draws in bulk are the draws one by one", "[alias_table]") {
  const alias_table table(harmonic_weights(1000));
  for (const std::size_t n : {0u, 1u, 15u, 16u, 127u, 128u, 129u, 1000u}) {
    cursor a(stream{3}, 1), b(stream{3}, 1);
    std::vector<index_t> bulk(n), single(n);
    table.draw(bulk, a);
    for (index_t& i : single) i = table.draw(b);
    CHECK(bulk == single);
    CHECK(a.state() == b.state());
  }
}

TEST_CASE("alias_table: all scales, float and double, any contiguous range", "[alias_table]") {
  const std::vector<double> denormal{5e-324, 1.5e-323, 0};
  CHECK(alias_table(denormal).probabilities() == std::vector<double>{0.25, 0.75, 0});
  const std::vector<double> huge{1e300, 1e308, 1e308, 1e-300};
  const std::vector<double> p = alias_table(huge).probabilities();
  CHECK(p[1] == Approx(0.5).epsilon(1e-7));
  CHECK(p[0] == Approx(5e-9).epsilon(1e-6));
  const std::array<float, 3> single{1.0f, 2.0f, 1.0f};
  CHECK(alias_table(single).probabilities() == std::vector<double>{0.25, 0.5, 0.25});
  const Eigen::VectorXd eigen = Eigen::Vector3d(1, 2, 1);
  CHECK(alias_table(eigen).probabilities() == std::vector<double>{0.25, 0.5, 0.25});
  CHECK(alias_table(eigen.segment(1, 1)).size() == 1);
}

TEST_CASE("alias_table: neither a draw nor a rebuild of the same size allocates", "[alias_table]") {
  const std::vector<double> w = harmonic_weights(300);
  alias_table table(w);
  cursor random(stream{4});
  std::vector<index_t> out(1000);
  CHECK(support::allocations_in([&] {
          table.rebuild(w);
          table.draw(out, random);
        }) == 0);
}

TEST_CASE("alias_table: refuses what are not weights, and keeps the old table", "[alias_table]") {
  alias_table table(std::vector<double>{1, 3});
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  SLUICE_CHECK_THROWS(table.rebuild(std::vector<double>{}), "alias_table", "weights.size", -1);
  SLUICE_CHECK_THROWS((table.rebuild(std::vector<double>{1, -1e-9, -2})), "alias_table", "weights", 1);
  SLUICE_CHECK_THROWS((table.rebuild(std::vector<double>{1, 2, nan})), "alias_table", "weights", 2);
  SLUICE_CHECK_THROWS((table.rebuild(std::vector<double>{inf, 2})), "alias_table", "weights", 0);
  SLUICE_CHECK_THROWS((table.rebuild(std::vector<double>{0, 0})), "alias_table", "weights.total", -1);
  std::vector<double> late(1000, 1.0);
  late[777] = -1;
  SLUICE_CHECK_THROWS(table.rebuild(late), "alias_table", "weights", 777);
  CHECK(table.probabilities() == std::vector<double>{0.25, 0.75});
}
