#include <catch2/catch.hpp>
#include <limits>
#include <sluice/draw/pps_threshold.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/random/stream.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>

#include "draw_support.hpp"

// Fails for: the certain half left out of k - c; the tail without the median; pi not capped; the k-th item certain by
// rounding.

using namespace sluice;
using namespace draw_test;

namespace {
/// By sorting, as the definition says.
double by_sorting(std::vector<double> w, index_t k) {
  std::sort(w.begin(), w.end(), std::greater<>{});
  double tail = sum_of(w);
  index_t c = 0;
  while (c < k - 1 && w[static_cast<std::size_t>(c)] * static_cast<double>(k - c) >= tail)
    tail -= w[static_cast<std::size_t>(c++)];
  return tail / static_cast<double>(k - c);
}
}  // namespace

TEST_CASE("pps_threshold: partition finds what sorting finds", "[pps_threshold]") {
  cursor random(stream{51});
  for (int repeat = 0; repeat < 500; ++repeat) {
    std::vector<double> w(2 + below(random, 100));
    index_t positive = 0;
    for (double& v : w) {  // integers: the sums are exact, ties abound
      v = static_cast<double>(below(random, 10));
      if (bernoulli(random, 0.1)) v *= 50;
      positive += v > 0;
    }
    for (index_t k = 1; k < positive; ++k) {
      REQUIRE(pps_threshold(w, k) == Approx(by_sorting(w, k)).epsilon(1e-14));
      std::vector<double> pi(w.size());
      pps_probabilities().compute_into(pi, w, k);
      REQUIRE(sum_of(pi) == Approx(static_cast<double>(k)).epsilon(1e-13));
      for (std::size_t i = 0; i < pi.size(); ++i) REQUIRE((w[i] > 0 ? pi[i] > 0 && pi[i] <= 1 : pi[i] == 0));
    }
    CHECK(pps_threshold(w, positive) == 0);
    CHECK(pps_threshold(w, positive + 3) == 0);
  }
}

TEST_CASE("pps_threshold: edges and scales", "[pps_threshold]") {
  CHECK(pps_threshold(std::vector<double>{}, 0) == std::numeric_limits<double>::infinity());
  CHECK(pps_threshold(std::vector<double>{}, 2) == 0);
  CHECK(pps_threshold(std::vector<double>{1, 1e-20}, 1) == 1);
  CHECK(pps_threshold(std::vector<double>{1e300, 1e-300, 1e-300}, 2) == Approx(2e-300).epsilon(1e-10).margin(0));
  CHECK(pps_threshold(std::vector<double>{5e-324, 5e-324, 1e-323}, 2) == 1e-323);
  CHECK(pps_threshold(std::vector<float>{4, 1, 1, 1, 1}, 2) == 4);
  std::vector<double> pi(3);
  CHECK(pps_probabilities().compute_into(pi, std::vector<double>{1e308, 1e308, 1e308}, 1) ==
        std::numeric_limits<double>::infinity());
  for (const double p : pi) CHECK(p == Approx(1.0 / 3));
  pps_probabilities design;
  const std::vector<double> w = harmonic_weights(500);
  std::vector<double> out(500);
  design.compute_into(out, w, 20);
  CHECK(support::allocations_in([&] { design.compute_into(out, w, 20); }) == 0);
}

TEST_CASE("pps_threshold: refuses bad input", "[pps_threshold]") {
  SLUICE_CHECK_THROWS((pps_threshold(std::vector<double>{1, 2}, -1)), "pps_threshold", "k", -1);
  SLUICE_CHECK_THROWS((pps_threshold(std::vector<double>{1, -2}, 1)), "pps_threshold", "weights", 1);
  std::vector<double> pi(2, 7.0);
  pps_probabilities design;
  SLUICE_CHECK_THROWS((design.compute_into(pi, std::vector<double>{1, 2}, -1)), "pps_probabilities", "k", -1);
  SLUICE_CHECK_THROWS((design.compute_into(pi, std::vector<double>{1, -2}, 1)), "pps_probabilities", "weights", 1);
  SLUICE_CHECK_THROWS((design.compute_into(pi, std::vector<double>{1}, 1)), "pps_probabilities", "out.size", -1);
  CHECK(pi == std::vector<double>{7, 7});
}
