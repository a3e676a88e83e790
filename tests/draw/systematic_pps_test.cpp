#include <catch2/catch.hpp>
#include <set>
#include <sluice/draw/systematic_pps.hpp>
#include <sluice/random/stream.hpp>
#include <support/check_throws.hpp>
#include <support/scripted.hpp>

#include "draw_support.hpp"

// Fails for: a size other than k by rounding; an item taken twice; a uniform for each position; <= instead of <.

using namespace sluice;
using namespace draw_test;

TEST_CASE("systematic_pps: exact inclusion probabilities by integration over u", "[systematic_pps]") {
  const std::vector<double> w{3, 10, 0, 21, 30, 5, 3, 56};  // sum 128, k = 2: pi = w / 64
  systematic_pps<pass_order::as_given> design;
  std::vector<double> inclusion(w.size());
  for (int j = 0; j < 4096; ++j) {
    support::scripted_words u{support::word_of((j + 0.5) / 4096)};
    const weighted_sample s = design.draw(w, 2, u);
    REQUIRE(s.index.size() == 2);
    for (const index_t i : s.index) inclusion[static_cast<std::size_t>(i)] += 1 / 4096.0;
    REQUIRE(u.used() == 1);
  }
  for (std::size_t i = 0; i < w.size(); ++i) CHECK(inclusion[i] == Approx(w[i] / 64).margin(1e-12));
}

TEMPLATE_TEST_CASE("systematic_pps: exactly k distinct items, also at the ends of u", "[systematic_pps]",
                   systematic_pps<pass_order::as_given>, systematic_pps<pass_order::shuffled>) {
  TestType design;
  cursor random(stream{121});
  for (int repeat = 0; repeat < 500; ++repeat) {
    std::vector<double> w(1 + below(random, 300));
    index_t positive = 0;
    for (double& v : w) {
      v = bernoulli(random, 0.2) ? 0.0 : std::exp(15 * co53(random()));
      positive += v > 0;
    }
    const auto k = static_cast<index_t>(below(random, static_cast<std::uint64_t>(positive) + 1));
    const auto check = [&](const weighted_sample& s) {
      REQUIRE(std::ssize(s.index) == k);
      REQUIRE(std::ssize(std::set<index_t>(s.index.begin(), s.index.end())) == k);
      for (const index_t i : s.index) REQUIRE(w[static_cast<std::size_t>(i)] > 0);
    };
    check(design.draw(w, k, random));
    if constexpr (std::is_same_v<TestType, systematic_pps<pass_order::as_given>>)
      for (const std::uint64_t word : {support::word_zero, support::word_smallest, support::word_largest}) {
        support::scripted_words u{word};
        check(design.draw(w, k, u));
      }
  }
}

TEST_CASE("systematic_pps: shuffled, all pairs occur", "[systematic_pps]") {
  systematic_pps<> design;
  cursor random(stream{122});
  std::set<std::set<index_t>> pairs;
  for (int t = 0; t < 2000; ++t) {
    const weighted_sample s = design.draw(std::vector<double>{1, 1, 1, 1, 1, 1}, 2, random);
    pairs.insert(std::set<index_t>(s.index.begin(), s.index.end()));
  }
  CHECK(pairs.size() == 15);
  SLUICE_CHECK_THROWS((design.draw(std::vector<double>{1, 0}, 2, random)), "systematic_pps", "k", -1);
}
