#include <catch2/catch.hpp>
#include <cstdint>
#include <random>
#include <sluice/random/decisions.hpp>
#include <sluice/random/stream.hpp>
#include <support/check_throws.hpp>
#include <support/enumerate.hpp>
#include <support/scripted.hpp>
#include <support/statistics.hpp>
#include <vector>

// Fails for: a bounded integer without rejection, with the threshold n instead of 2^64 mod n, or with < and <=
// exchanged at it; the low half returned instead of the high one; n = 1 that takes no word; bernoulli with u <= p.
using namespace sluice;

static_assert(word_source<cursor> && word_source<std::mt19937_64> && !word_source<std::mt19937>);
static_assert(decision_source<support::enumerating_source> && random_source<support::enumerating_source>);

TEST_CASE("below: rejects exactly the first 2^64 mod n low halves", "[below]") {
  // n = 2^63 + 1: 2^64 mod n = 2^63 - 1. The low half of x n is x for even x, x + 2^63 for odd x (mod 2^64).
  const std::uint64_t n = (std::uint64_t{1} << 63) + 1, threshold = 0 - n;
  REQUIRE(threshold == (std::uint64_t{1} << 63) - 1);
  support::scripted_words low{threshold - 1, 2, 7};  // even: low half one below the threshold; then 2; then accepted
  CHECK(below(low, n) == 3);
  CHECK(low.used() == 3);
  support::scripted_words at{support::word_largest};  // odd: its low half is the threshold itself, which is accepted
  CHECK(below(at, n) == n - 1);
  CHECK(at.used() == 1);
  // n = 3: 2^64 mod 3 = 1, so only low half 0 is rejected, which is x = 0.
  support::scripted_words three{0, 1};
  CHECK(below(three, 3) == 0);
  CHECK(three.used() == 2);
  support::scripted_words three_at{1};
  CHECK(below(three_at, 3) == 0);
  CHECK(three_at.used() == 1);
  // A power of two rejects nothing.
  support::scripted_words zero{0};
  CHECK(below(zero, std::uint64_t{1} << 40) == 0);
  CHECK(zero.used() == 1);
}

TEST_CASE("below: the ends", "[below]") {
  support::scripted_words largest{support::word_largest};
  CHECK(below(largest, 10) == 9);
  CHECK(below(largest, ~std::uint64_t{0}) == ~std::uint64_t{0} - 1);
  support::scripted_words one{5};
  CHECK(below(one, 1) == 0);
  CHECK(one.used() == 1);
  cursor random(stream(1));
  SLUICE_CHECK_THROWS(below(random, 0), "below", "n", -1);
  CHECK(random.state().position == 0);
}

TEST_CASE("below: the law is uniform", "[below][statistical]") {
  cursor random(stream(20240801));
  const std::uint64_t n = 0x5555555555555556;  // a biased multiply-shift puts twice the mass on one third of the words
  std::vector<int> third(3);
  for (int i = 0; i < 30000; ++i) ++third[static_cast<std::size_t>(below(random, n) % 3)];
  CHECK(support::fits(third, std::vector<double>{1.0 / 3, 1.0 / 3, 1.0 / 3}).passes());
}

TEST_CASE("bernoulli: never at 0, always at 1, u < p at the boundary", "[bernoulli]") {
  support::scripted_words zero{support::word_zero}, largest{support::word_largest}, half{support::word_half};
  CHECK_FALSE(bernoulli(zero, 0.0));
  CHECK(bernoulli(largest, 1.0));
  CHECK_FALSE(bernoulli(half, 0.5));
  CHECK(bernoulli(half, 0.5 + 0x1p-53));
  CHECK_FALSE(bernoulli_ratio(zero, 0.0, 1.0));
  CHECK(bernoulli_ratio(largest, 2.0, 2.0));
  CHECK_FALSE(bernoulli_ratio(half, 1.0, 2.0));
  CHECK(bernoulli_ratio(zero, 1e-300, 1.0));
}

TEST_CASE("bernoulli_ratio: the probability asked of a decision source", "[bernoulli]") {
  const auto law = support::enumerate([](auto& random) { return bernoulli_ratio(random, 1.0, 4.0); });
  CHECK(law.probability(true) == 0.25);
  CHECK(support::enumerate([](auto& random) { return bernoulli_ratio(random, 3.0, 2.0); }).probability(true) == 1);
  CHECK(support::enumerate([](auto& random) { return bernoulli_ratio(random, 0.0, 0.0); }).probability(true) == 0);
}
