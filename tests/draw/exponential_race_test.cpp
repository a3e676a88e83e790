#include <catch2/catch.hpp>
#include <limits>
#include <sluice/draw/exponential_race.hpp>
#include <sluice/random/stream.hpp>
#include <support/check_throws.hpp>

#include "draw_support.hpp"

// Fails for: key E * w; the bound that passes items over turned around; Gumbel sign; zero weights entering; log keys
// with + log w.

using namespace sluice;
using namespace draw_test;

namespace {
/// What the header computes, every key of it.
index_t first_to_arrive(const std::vector<double>& w, cursor& random) {
  index_t best = -1;
  double key = 0;
  for (std::size_t i = 0; i < w.size(); ++i) {
    const double k = race_key(oc53(random()), w[i]);
    if (w[i] > 0 && (best < 0 || k < key)) best = static_cast<index_t>(i), key = k;
  }
  return best;
}
}  // namespace

TEST_CASE("exponential_race: passing items over changes no outcome", "[exponential_race]") {
  std::vector<double> w = harmonic_weights(700);
  w[0] = w[5] = 0;
  cursor a(stream{31}), b(stream{31});
  for (int repeat = 0; repeat < 500; ++repeat) REQUIRE(exponential_race(w, a) == first_to_arrive(w, b));
}

TEST_CASE("exponential_race: winners follow the weights", "[exponential_race][statistical]") {
  std::vector<double> w = harmonic_weights(100), l;
  for (const double v : w) l.push_back(std::log(v) + 700);
  w.push_back(0);
  l.push_back(-std::numeric_limits<double>::infinity());
  cursor random(stream{20240604});
  std::vector<std::int64_t> race_counts(w.size()), gumbel_counts(w.size());
  for (int t = 0; t < 100'000; ++t) {
    ++race_counts[static_cast<std::size_t>(exponential_race(w, random))];
    ++gumbel_counts[static_cast<std::size_t>(gumbel_max(l, random))];
  }
  CHECK(pearson_of(race_counts, w) < critical_99);
  CHECK(pearson_of(gumbel_counts, w) < critical_99);
}

TEST_CASE("exponential_race: the heap keeps the smallest keys in order", "[exponential_race]") {
  cursor random(stream{33});
  for (const std::size_t m : {1u, 2u, 3u, 10u, 50u}) {
    std::vector<double> keys(50);
    detail::smallest_keys heap;
    heap.restart(static_cast<index_t>(m));
    for (std::size_t i = 0; i < keys.size(); ++i) {
      keys[i] = static_cast<double>(below(random, 20));  // ties go to the lower item
      heap.offer({keys[i], static_cast<index_t>(i)});
    }
    std::vector<index_t> order(keys.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<index_t>(i);
    std::stable_sort(order.begin(), order.end(), [&](index_t x, index_t y) {
      return keys[static_cast<std::size_t>(x)] < keys[static_cast<std::size_t>(y)];
    });
    const auto kept = heap.sorted();
    REQUIRE(kept.size() == m);
    for (std::size_t i = 0; i < m; ++i) REQUIRE(kept[i].item == order[i]);
  }
}

TEST_CASE("exponential_race: keys at the ends", "[exponential_race]") {
  const double inf = std::numeric_limits<double>::infinity();
  CHECK(race_key(0.5, 0) == inf);
  CHECK(race_key(1, 2) == 0);
  CHECK(log_race_key(0.5, -inf) == inf);
  CHECK(log_race_key(1, -inf) == inf);
  CHECK(log_race_key(1, 3) == -inf);
  cursor random(stream{32});
  CHECK(exponential_race(std::vector<double>{0, 1e-300, 0, 1e300}, random) == 3);
  CHECK(exponential_race(std::vector<float>{0, 1e-45f, 0}, random) == 1);
  CHECK(gumbel_max(std::vector<double>{-inf, -1e300, -inf}, random) == 1);
}

TEST_CASE("exponential_race: refuses what are not weights", "[exponential_race]") {
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  cursor random(stream{1});
  SLUICE_CHECK_THROWS((exponential_race(std::vector<double>{1, -2}, random)), "exponential_race", "weights", 1);
  SLUICE_CHECK_THROWS((exponential_race(std::vector<double>{0, 0}, random)), "exponential_race", "weights.total", -1);
  SLUICE_CHECK_THROWS(exponential_race(std::vector<double>{}, random), "exponential_race", "weights.size", -1);
  SLUICE_CHECK_THROWS((gumbel_max(std::vector<double>{0, nan}, random)), "gumbel_max", "log_weights", 1);
  SLUICE_CHECK_THROWS((gumbel_max(std::vector<double>{inf, 0}, random)), "gumbel_max", "log_weights", 0);
  SLUICE_CHECK_THROWS((gumbel_max(std::vector<double>{-inf, -inf}, random)), "gumbel_max", "log_weights.max", -1);
  SLUICE_CHECK_THROWS(gumbel_max(std::vector<double>{}, random), "gumbel_max", "log_weights.size", -1);
  CHECK(random.state().position == 0);
}
