#include <catch2/catch.hpp>
#include <sluice/draw/estimators.hpp>
#include <sluice/draw/poisson_sampling.hpp>
#include <support/check_throws.hpp>
#include <support/enumerate.hpp>

#include "draw_support.hpp"

// Fails for: one uniform for all items; weights pi instead of 1/pi; (1 - pi) missing from the variance or its estimate.

using namespace sluice;
using namespace draw_test;

TEST_CASE("poisson_sampling: exact law, variance and variance estimate by enumeration", "[poisson_sampling]") {
  const std::vector<double> w{4, 1, 2, 0, 0.5, 3}, y{3, -1, 2, 0, 5, 1};
  poisson_sampling design;
  support::enumerating_source source;
  double mean = 0, square = 0, estimate = 0, taken = 0, pair = 0;
  std::vector<double> pi(w.size());
  const double tau = pps_probabilities().compute_into(pi, w, 3);
  do {
    const weighted_sample s = design.draw(w, 3, source);
    CHECK(s.threshold == tau);
    const double p = static_cast<double>(source.probability()), total = estimate_total(y, s);
    mean += p * total;
    square += p * (total - sum_of(y)) * (total - sum_of(y));
    estimate += p * poisson_variance_estimate(y, s);
    taken += p * static_cast<double>(s.index.size());
    pair += std::count(s.index.begin(), s.index.end(), 1) * std::count(s.index.begin(), s.index.end(), 2) > 0 ? p : 0;
  } while (source.advance());
  CHECK(mean == Approx(sum_of(y)).epsilon(1e-12));
  CHECK(square == Approx(poisson_variance(pi, y)).epsilon(1e-12));
  CHECK(estimate == Approx(poisson_variance(pi, y)).epsilon(1e-12));
  CHECK(taken == Approx(3).epsilon(1e-12));
  CHECK(pair == Approx(pi[1] * pi[2]).epsilon(1e-12));
}

TEST_CASE("poisson_sampling: probabilities of the user's", "[poisson_sampling]") {
  cursor random(stream{111});
  weighted_sample s;
  poisson_sampling::draw_with_into(s, std::vector<double>{1, 0, 1}, random);
  CHECK(s.index == std::vector<index_t>{0, 2});
  SLUICE_CHECK_THROWS((poisson_sampling::draw_with_into(s, std::vector<double>{1, 1.5}, random)), "poisson_sampling",
                      "inclusion", 1);
  SLUICE_CHECK_THROWS((poisson_sampling::draw_with_into(s, std::vector<double>{-0.1}, random)), "poisson_sampling",
                      "inclusion", 0);
  CHECK(s.index == std::vector<index_t>{0, 2});
  poisson_sampling design;
  SLUICE_CHECK_THROWS((design.draw_into(s, std::vector<double>{1, 0}, 2, random)), "poisson_sampling", "k", -1);
}
