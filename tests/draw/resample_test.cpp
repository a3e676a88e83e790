#include <catch2/catch.hpp>
#include <limits>
#include <sluice/draw/effective_sample_size.hpp>
#include <sluice/draw/resample.hpp>
#include <sluice/random/stream.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>

#include "draw_support.hpp"

// Fails for: positions i + u compared after rounding; lower instead of upper bound; one uniform for all strata; a new
// one for each systematic position; spacings without the last one; residual copies rounded instead of floored;
// fractions not renormalised.

using namespace sluice;
using namespace draw_test;

#define SCHEMES                                                                                \
  multinomial_resampling, stratified_resampling, systematic_resampling, residual_resampling<>, \
      residual_resampling<stratified_resampling>, residual_resampling<multinomial_resampling>

TEMPLATE_TEST_CASE("resample: the mean number of copies is N w", "[resample][statistical]", SCHEMES) {
  const std::vector<double> w{1, 0.5, 3.5, 0, 2.2, 2.8, 7};
  constexpr index_t n = 8;
  constexpr int runs = 100'000;
  resampler<TestType> r;
  cursor random(stream{20240609});
  std::vector<index_t> counts(w.size());
  std::vector<double> mean(w.size()), squares(w.size());
  for (int t = 0; t < runs; ++t) {
    r.counts_into(counts, w, n, random);
    index_t sum = 0;
    for (std::size_t j = 0; j < w.size(); ++j) {
      sum += counts[j];
      const double share = n * w[j] / sum_of(w), c = static_cast<double>(counts[j]);
      mean[j] += c / runs;
      squares[j] += (c - share) * (c - share) / runs;
      if constexpr (std::is_same_v<TestType, systematic_resampling>) REQUIRE(std::abs(c - share) < 1);
      if constexpr (std::is_same_v<TestType, stratified_resampling>) REQUIRE(std::abs(c - share) < 2);
      if constexpr (!std::is_same_v<TestType, multinomial_resampling> &&
                    !std::is_same_v<TestType, stratified_resampling>)
        REQUIRE(c >= std::floor(share));
    }
    REQUIRE(sum == n);
    REQUIRE(counts[3] == 0);
  }
  for (std::size_t j = 0; j < w.size(); ++j) {
    const double share = n * w[j] / sum_of(w);
    if (w[j] > 0) CHECK(std::abs(z_of(mean[j], share, squares[j], runs)) < 5.5);
    const double multinomial = share * (1 - share / n);
    if constexpr (std::is_same_v<TestType, multinomial_resampling>)
      CHECK(squares[j] == Approx(multinomial).epsilon(0.03));
    else
      CHECK(squares[j] <= multinomial * 1.03);
  }
}

TEST_CASE("resample: equal weights give one copy each, for every u", "[resample]") {
  for (const index_t n : {1, 3, 7, 10, 1000, 4097}) {
    const std::vector<double> w(static_cast<std::size_t>(n), 0.1);
    std::vector<index_t> a(w.size());
    for (const double u : {0.0, 0x1p-53, 0.5, 1 - 0x1p-53}) {
      systematic_resampling::ancestors_at(a, w, u);
      for (index_t i = 0; i < n; ++i) REQUIRE(a[static_cast<std::size_t>(i)] == i);
    }
  }
}

TEST_CASE("resample: systematic counts are floor or ceiling at every u", "[resample]") {
  cursor random(stream{71});
  std::vector<index_t> a(100);
  for (int repeat = 0; repeat < 300; ++repeat) {
    std::vector<double> w(50);
    for (double& v : w) v = bernoulli(random, 0.3) ? 0.0 : static_cast<double>(below(random, 20));
    w[10] = 1;
    for (const double u : {0.0, 0x1p-53, co53(random()), 1 - 0x1p-53}) {
      systematic_resampling::ancestors_at(a, w, u);
      REQUIRE(std::is_sorted(a.begin(), a.end()));
      std::vector<double> counts(50);
      for (const index_t i : a) counts[static_cast<std::size_t>(i)] += 1;
      for (std::size_t j = 0; j < 50; ++j) {
        const double share = 100 * w[j] / sum_of(w);
        REQUIRE(counts[j] >= std::floor(share * (1 - 1e-14)));
        REQUIRE(counts[j] <= std::ceil(share * (1 + 1e-14)));
      }
    }
  }
}

TEST_CASE("resample: exact means by integration over u", "[resample]") {
  // Dyadic weights: 4096 midpoints of u integrate the step functions exactly.
  const std::vector<double> w{3 / 64.0, 10 / 64.0, 0, 21 / 64.0, 30 / 64.0};
  std::vector<index_t> a(5);
  std::vector<double> systematic(5), residual(5);
  residual_resampling<> scheme;
  for (int k = 0; k < 4096; ++k) {
    systematic_resampling::ancestors_at(a, w, (k + 0.5) / 4096);
    for (const index_t i : a) systematic[static_cast<std::size_t>(i)] += 1 / 4096.0;
    scheme.ancestors_at(a, w, (k + 0.5) / 4096);
    for (const index_t i : a) residual[static_cast<std::size_t>(i)] += 1 / 4096.0;
  }
  for (std::size_t j = 0; j < 5; ++j) {
    CHECK(systematic[j] == Approx(5 * w[j]).margin(1e-12));
    CHECK(residual[j] == Approx(5 * w[j]).margin(1e-12));
  }
}

TEMPLATE_TEST_CASE("resample: edges, scales, memory", "[resample]", SCHEMES) {
  resampler<TestType> r;
  cursor random(stream{72});
  std::vector<index_t> none;
  r.ancestors_into(none, std::vector<double>{}, random);
  r.ancestors_into(none, std::vector<double>{0, 0}, random);
  CHECK(resample<TestType>(std::vector<double>{0, 1e-300, 0, 1e300}, 5, random) == std::vector<index_t>(5, 3));
  CHECK(resample<TestType>(std::vector<float>{0, 1e-45f}, 3, random) == std::vector<index_t>(3, 1));
  CHECK(resample<TestType>(std::vector<double>{7}, 4, random) == std::vector<index_t>(4, 0));
  const std::vector<double> w = harmonic_weights(300);
  std::vector<index_t> a(700);
  for (int t = 0; t < 50; ++t) {
    r.ancestors_into(a, w, random);
    REQUIRE(std::is_sorted(a.begin(), a.end()));
    REQUIRE(a.front() >= 0);
    REQUIRE(a.back() < 300);
  }
  CHECK(support::allocations_in([&] { r.ancestors_into(a, w, random); }) == 0);
}

TEST_CASE("resample: refuses bad input, the ancestors unchanged", "[resample]") {
  resampler<> r;
  cursor random(stream{73});
  std::vector<index_t> a{7, 7};
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const char* const nothing = "all particles have zero weight: sum of weights";
  SLUICE_CHECK_THROWS((r.ancestors_into(a, std::vector<double>{1, nan}, random)), "resample", "weights", 1);
  SLUICE_CHECK_THROWS((r.ancestors_into(a, std::vector<double>{0, 0}, random)), "resample", nothing, -1);
  SLUICE_CHECK_THROWS((r.ancestors_into(a, std::vector<double>{}, random)), "resample", "weights.size", -1);
  SLUICE_CHECK_THROWS((resample(std::vector<double>{1}, -1, random)), "resample", "n_offspring", -1);
  SLUICE_CHECK_THROWS((r.counts_into(a, std::vector<double>{1, 2}, -2, random)), "resample", "n_offspring", -1);
  SLUICE_CHECK_THROWS((r.counts_into(a, std::vector<double>{1}, 2, random)), "resample", "counts.size", -1);
  CHECK(a == std::vector<index_t>{7, 7});
}
