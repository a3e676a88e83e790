#include <catch2/catch.hpp>
#include <limits>
#include <sluice/draw/inverse_cdf.hpp>
#include <sluice/draw/prefix_sums.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>

#include "draw_support.hpp"

// Fails for: lower_bound instead of upper_bound (weight zero at u = 0); the guard returning n - 1; plain running sums
// beyond 1e6 items; the interleaved search off by one; sums divided instead of u scaled.

using namespace sluice;
using namespace draw_test;

TEST_CASE("prefix_sums: the smallest category whose sum exceeds u times the total", "[prefix_sums]") {
  const std::vector<double> w{0, 1, 3, 0.5, 0, 2.5, 1, 0};
  const prefix_sums sums(w);
  CHECK(sums.at(0) == 1);
  CHECK(sums.at(0.125) == 2);
  CHECK(sums.at(0.125 - 0x1p-53) == 1);
  CHECK(sums.at(0.5) == 3);
  CHECK(sums.at(0.5625) == 5);
  CHECK(sums.at(1 - 0x1p-53) == 6);
  for (int k = 0; k < 4096; ++k) {
    const double u = k / 4096.0;
    REQUIRE(sums.at(u) == inverse_cdf(std::span<const double>(w), u));
  }
}

TEST_CASE("prefix_sums: the largest u gives the last positive category", "[prefix_sums]") {
  for (const std::vector<double>& w :
       {std::vector<double>{0.1, 0.2, 0.3, 0, 0}, std::vector<double>{5e-324, 0}, std::vector<double>{3, 1e-300, 0}}) {
    const index_t i = prefix_sums(w).at(1 - 0x1p-53);
    CHECK(w[static_cast<std::size_t>(i)] > 0);
    CHECK(w[static_cast<std::size_t>(inverse_cdf(std::span<const double>(w), 1 - 0x1p-53))] > 0);
  }
}

TEST_CASE("prefix_sums: light items behind a heavy prefix keep their share", "[prefix_sums]") {
  std::vector<double> w(2'000'001, 0x1p-54);  // each alone is lost in a running sum that began with 1
  w[0] = 1;
  const prefix_sums sums(w);
  CHECK(sums.total() == Approx(1 + 2e6 * 0x1p-54).epsilon(1e-15));
  CHECK(sums.total() > 1);
  CHECK(sums.sums()[1'000'000] == Approx(1 + 1e6 * 0x1p-54).epsilon(1e-15));
  CHECK(std::is_sorted(sums.sums().begin(), sums.sums().end()));
}

TEST_CASE("prefix_sums: a million draws follow the weights", "[prefix_sums][statistical]") {
  std::vector<double> w = harmonic_weights(100);
  w.insert(w.begin(), 0.0);
  w.push_back(0.0);
  const prefix_sums sums(w);
  cursor random(stream{20240602});
  std::vector<index_t> out(1'000'000);
  sums.draw(out, random);
  std::vector<std::int64_t> counts(w.size());
  for (const index_t i : out) ++counts[static_cast<std::size_t>(i)];
  CHECK(pearson_of(counts, w) < critical_99);
}

TEST_CASE("prefix_sums: draws in bulk are the draws one by one", "[prefix_sums]") {
  for (const index_t n : {1, 2, 3, 7, 64, 1000}) {
    const prefix_sums sums(harmonic_weights(n));
    cursor a(stream{5}), b(stream{5});
    std::vector<index_t> bulk(37), single(37);
    sums.draw(bulk, a);
    for (index_t& i : single) i = sums.draw(b);
    CHECK(bulk == single);
    CHECK(a() == b());
  }
}

TEST_CASE("prefix_sums: all scales", "[prefix_sums]") {
  const prefix_sums huge(std::vector<double>{1e308, 1e308, 1e-300});
  CHECK(huge.at(0.25) == 0);
  CHECK(huge.at(0.75) == 1);
  const prefix_sums tiny(std::vector<float>{1e-45f, 3e-45f});
  CHECK(tiny.at(0.3) == 0);
  CHECK(tiny.at(0.4) == 1);
  const prefix_sums denormal(std::vector<double>{5e-324, 1.5e-323});
  CHECK(denormal.at(0.24) == 0);
  CHECK(denormal.at(0.26) == 1);
}

TEST_CASE("prefix_sums: no allocation in draws or a rebuild of the same size", "[prefix_sums]") {
  const std::vector<double> w = harmonic_weights(300);
  prefix_sums sums(w);
  cursor random(stream{4});
  std::vector<index_t> out(100);
  CHECK(support::allocations_in([&] {
          sums.rebuild(w);
          sums.draw(out, random);
        }) == 0);
}

TEST_CASE("prefix_sums: refuses what are not weights", "[prefix_sums]") {
  prefix_sums sums(std::vector<double>{1, 3});
  SLUICE_CHECK_THROWS(sums.rebuild(std::vector<double>{}), "prefix_sums", "weights.size", -1);
  SLUICE_CHECK_THROWS((sums.rebuild(std::vector<double>{1, 2, -1})), "prefix_sums", "weights", 2);
  SLUICE_CHECK_THROWS((sums.rebuild(std::vector<double>{0, 0})), "prefix_sums", "weights.total", -1);
  CHECK(sums.total() == 4);
  const std::vector<double> zero{0, 0};
  SLUICE_CHECK_THROWS(inverse_cdf(std::span<const double>(zero), 0.5), "inverse_cdf", "total", -1);
}
