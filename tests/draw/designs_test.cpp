#include <catch2/catch.hpp>
#include <limits>
#include <set>
#include <sluice/draw/poisson_sampling.hpp>
#include <sluice/draw/prefix_sums.hpp>
#include <sluice/draw/priority_sampling.hpp>
#include <sluice/draw/sum_tree.hpp>
#include <sluice/draw/systematic_pps.hpp>
#include <sluice/draw/var_opt.hpp>
#include <sluice/draw/with_replacement.hpp>
#include <sluice/draw/without_replacement.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>

#include "draw_support.hpp"

// One protocol for all designs: unbiased totals, weights that follow from probabilities, memory reused, bad input
// refused.
// Fails for: weights inverted or without 1/k; probabilities of the wrong item; a missing scale; a sample that is not
// emptied first.

using namespace sluice;
using namespace draw_test;

#define DESIGNS                                                                                               \
  with_replacement<alias_table>, with_replacement<prefix_sums>, with_replacement<sum_tree>, poisson_sampling, \
      systematic_pps<pass_order::shuffled>, systematic_pps<pass_order::as_given>, var_opt, priority_sampling, \
      successive_sampling<>

static_assert(sampling_design<with_replacement<>> && sampling_design<poisson_sampling> &&
              sampling_design<systematic_pps<>> && sampling_design<var_opt> && sampling_design<priority_sampling> &&
              sampling_design<successive_sampling<>>);

TEMPLATE_TEST_CASE("designs: totals are estimated without bias", "[designs][statistical]", DESIGNS) {
  const std::vector<double> w{10, 5, 0, 1, 1, 2, 1, 0.5, 0.5, 3}, y{3, -1, 7, 4, 1, 5, -2, 6, 2, 8};
  TestType design;
  cursor random(stream{20240608});
  weighted_sample s;
  constexpr int runs = 100'000;
  double total = 0;
  for (std::size_t i = 0; i < w.size(); ++i) total += w[i] > 0 ? y[i] : 0;
  double sum = 0, squares = 0;
  for (int t = 0; t < runs; ++t) {
    design.draw_into(s, w, 4, random);
    double estimate = 0;
    for (std::size_t j = 0; j < s.index.size(); ++j) estimate += s.weight[j] * y[static_cast<std::size_t>(s.index[j])];
    sum += estimate;
    squares += (estimate - total) * (estimate - total);
  }
  CHECK(std::abs(z_of(sum / runs, total, squares / runs, runs)) < 5.5);
}

TEMPLATE_TEST_CASE("designs: what the sample says of itself", "[designs]", DESIGNS) {
  TestType design;
  cursor random(stream{61});
  weighted_sample s;
  for (int repeat = 0; repeat < 200; ++repeat) {
    std::vector<float> w(30);
    for (float& v : w) v = bernoulli(random, 0.3) ? 0.0f : static_cast<float>(std::exp(8 * co53(random())));
    w[0] = 1.0f, w[29] = 50.0f, w[7] = 2.0f, w[8] = 3.0f, w[9] = 10.0f;
    design.draw_into(s, w, 5, random);
    REQUIRE(s.population == 30);
    REQUIRE(s.weight.size() == s.index.size());
    double sum = 0, squares = 0;
    for (std::size_t j = 0; j < s.index.size(); ++j) {
      REQUIRE(w[static_cast<std::size_t>(s.index[j])] > 0);
      sum += s.weight[j];
      squares += s.weight[j] * s.weight[j];
      if (s.kind == probability_kind::inclusion) REQUIRE(s.weight[j] == Approx(1 / s.probability[j]).epsilon(1e-14));
      if (s.kind == probability_kind::per_draw)
        REQUIRE(s.weight[j] == Approx(1 / (5 * s.probability[j])).epsilon(1e-14));
    }
    if (s.kind == probability_kind::none)
      REQUIRE(s.probability.empty());
    else
      REQUIRE(s.probability.size() == s.index.size());
    if (!s.index.empty()) REQUIRE(s.ess == Approx(sum * sum / squares));
    if (s.kind != probability_kind::per_draw)
      REQUIRE(std::set<index_t>(s.index.begin(), s.index.end()).size() == s.index.size());
    if constexpr (!std::is_same_v<TestType, poisson_sampling>) REQUIRE(s.index.size() == 5);
  }
}

TEMPLATE_TEST_CASE("designs: a second draw reuses all memory", "[designs]", DESIGNS) {
  TestType design;
  weighted_sample s;
  const std::vector<double> w = harmonic_weights(500);
  cursor random(stream{62});
  for (int t = 0; t < 20; ++t) design.draw_into(s, w, 40, random);  // the size of a Poisson sample varies
  s.index.reserve(500), s.weight.reserve(500), s.probability.reserve(500);
  CHECK(support::allocations_in([&] { design.draw_into(s, w, 40, random); }) == 0);
}

TEMPLATE_TEST_CASE("designs: legal edges", "[designs]", DESIGNS) {
  TestType design;
  cursor random(stream{63});
  weighted_sample s;
  s.index = {5};
  design.draw_into(s, std::vector<double>{}, 0, random);
  CHECK(s.index.empty());
  CHECK(s.ess == 0);
  design.draw_into(s, std::vector<double>{0, 0}, 0, random);
  CHECK(s.index.empty());
  design.draw_into(s, std::vector<double>{1, 2}, 0, random);
  CHECK(s.index.empty());
  design.draw_into(s, std::vector<double>{3}, 1, random);
  CHECK(s.index == std::vector<index_t>{0});
  CHECK(s.weight == std::vector<double>{1});
  design.draw_into(s, Eigen::Vector3d(0, 0, 4).eval(), 1, random);
  CHECK(s.index == std::vector<index_t>{2});
  for (const double scale : {5e-324, 1e-310, 1e-300, 1e300, 1e307}) {
    for (int t = 0; t < 200; ++t) {
      design.draw_into(s, std::vector<double>{scale, 0, 2 * scale, scale, 4 * scale}, 2, random);
      for (std::size_t j = 0; j < s.index.size(); ++j) {
        REQUIRE(s.index[j] != 1);
        REQUIRE(s.weight[j] > 0);
        REQUIRE(std::isfinite(s.weight[j]));
      }
    }
  }
  int heavy = 0;
  for (int t = 0; t < 200; ++t) {
    design.draw_into(s, std::vector<double>{1e-300, 1e300, 1e-300}, 1, random);
    for (const index_t i : s.index) heavy += i == 1;
  }
  CHECK(heavy == 200);
}

TEMPLATE_TEST_CASE("designs: bad input is refused and the sample unchanged", "[designs]", DESIGNS) {
  TestType design;
  cursor random(stream{64});
  weighted_sample s;
  s.index = {9};
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  for (const double bad : {-1.0, nan, inf})
    CHECK_THROWS_AS(design.draw_into(s, std::vector<double>{1, 2, bad, 1}, 2, random), invalid_argument);
  CHECK_THROWS_AS(design.draw_into(s, std::vector<double>{1, 2}, -1, random), invalid_argument);
  if constexpr (!std::is_same_v<TestType, var_opt> && !std::is_same_v<TestType, priority_sampling>) {
    CHECK_THROWS_AS(design.draw_into(s, std::vector<double>{0, 0}, 1, random), invalid_argument);
    CHECK_THROWS_AS(design.draw_into(s, std::vector<double>{}, 1, random), invalid_argument);
  }
  CHECK(s.index == std::vector<index_t>{9});
  CHECK(random.state().position == 0);
}
