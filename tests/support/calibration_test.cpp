// Fails for: a p-value that is not uniform under the null (a wrong degree of freedom, a sum that leaves out a cell, a
// one-sided tail, a covariance where a correlation is meant); a gate that a wrong sampler passes; sequential tests
// whose errors exceed what they promise.
#include <sluice/draw/inverse_cdf.hpp>
#include <sluice/random/stream.hpp>
#include <sluice/random/uniform.hpp>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <support/statistics.hpp>
#include <utility>
#include <vector>

namespace {
using namespace support;
using doubles = std::vector<double>;

doubles uniforms(sluice::cursor& random, std::size_t n) {
  doubles u(n);
  for (double& x : u) x = sluice::oo52(random());
  return u;
}
double normal(sluice::cursor& random) { return normal_quantile(sluice::oo52(random())); }
doubles normals(sluice::cursor& random, std::size_t n) {
  doubles x(n);
  for (double& v : x) v = normal(random);
  return x;
}

/// p over `sets` null data sets: uniform, and small as often as it says. A coarse law (discrete p) is checked at 0.01
/// only, within `slack`.
template <class P>
void check_calibrated(P&& p_of, std::size_t sets, double slack = 0) {
  doubles p(sets);
  for (std::size_t i = 0; i < sets; ++i) {
    sluice::cursor random(sluice::stream(20240607).derive(i));
    p[i] = p_of(random);
  }
  const double small = static_cast<double>(std::count_if(p.begin(), p.end(), [](double x) { return x < .01; }));
  INFO("below 0.01: " << small << " of " << sets);
  CHECK(binomial_two_sided(small, static_cast<double>(sets), .01 + slack).passes());
  if (slack == 0) CHECK(ks_test(p).passes());
}

/// 200 draws expected in each of 8 cells.
std::vector<std::uint64_t> eight_cells(sluice::cursor& random, std::size_t n = 1600) {
  std::vector<std::uint64_t> counts(8);
  for (std::size_t i = 0; i < n; ++i) ++counts[random() >> 61];
  return counts;
}
}  // namespace

TEST_CASE("calibration: continuous tests and tests of means", "[calibration]") {
  SECTION("Kolmogorov-Smirnov, exact") {
    check_calibrated([](auto& r) { return ks_exact_p(ks_statistic(uniforms(r, 8)), 8); }, 20'000);
  }
  SECTION("Cramer-von Mises") {
    check_calibrated([](auto& r) { return cramer_von_mises_p(cramer_von_mises_statistic(uniforms(r, 20)), 20); },
                     20'000);
  }
  SECTION("Student") {
    check_calibrated([](auto& r) { return one_sample_t(normals(r, 5), 0).p(); }, 20'000);
  }
  SECTION("Welch, equal variances") {
    check_calibrated([](auto& r) { return welch_t(normals(r, 40), normals(r, 40)).p(); }, 5'000);
  }
  SECTION("z of a mean") {
    check_calibrated([](auto& r) { return normal_test(z_of_mean(normals(r, 3), 0, 1)).p(); }, 20'000);
  }
  SECTION("z of a lag") {
    check_calibrated([](auto& r) { return normal_test(z_of_lag(normals(r, 400), 3, 0, 1)).p(); }, 1'000);
  }
}

TEST_CASE("calibration: tests of counts", "[calibration]") {
  const doubles law(8, .125);
  SECTION("Pearson: the law of p is coarse, its mean and tail are right") {
    double sum = 0;
    constexpr int sets = 3000;
    for (int i = 0; i < sets; ++i) {
      sluice::cursor random(sluice::stream(7).derive(static_cast<std::uint64_t>(i)));
      sum += pearson(eight_cells(random, 400), law).statistic;
    }
    CHECK(std::abs(z_of_mean(sum / sets, 7, std::sqrt(14.0), sets)) < house_z);  // E X^2 = df exactly
  }
  SECTION("G and homogeneity") {
    check_calibrated([&](auto& r) { return g_test(eight_cells(r), law).p(); }, 20'000, 5e-4);
    check_calibrated([&](auto& r) { return homogeneity(eight_cells(r), eight_cells(r)).p(); }, 20'000, 5e-4);
  }
  SECTION("exact multinomial never rejects too often") {
    int small = 0;
    for (int i = 0; i < 2000; ++i) {
      sluice::cursor random(sluice::stream(8).derive(static_cast<std::uint64_t>(i)));
      std::vector<int> counts(3);
      for (int k = 0; k < 12; ++k) ++counts[static_cast<std::size_t>(3 * sluice::co53(random()))];
      small += exact_multinomial_p(counts, doubles(3, 1.0 / 3)) <= .05;
    }
    CHECK(std::exp(log_binomial_sf(small - 1, 2000, .05)) > 1e-6);
    CHECK(small > 20);  // nor never
  }
  SECTION("intervals cover as often as they say") {
    int exact = 0, score = 0;
    for (int i = 0; i < 2000; ++i) {
      sluice::cursor random(sluice::stream(9).derive(static_cast<std::uint64_t>(i)));
      double k = 0;
      for (int j = 0; j < 60; ++j) k += sluice::co53(random()) < .3;
      const auto a = clopper_pearson(k, 60, .95), b = wilson(k, 60, .95);
      exact += a.low <= .3 && .3 <= a.high;
      score += b.low <= .3 && .3 <= b.high;
    }
    CHECK(exact >= coverage_range(2000, .95).low);  // conservative: one-sided
    CHECK(score >= .93 * 2000);                     // approximate: a stated defect
    CHECK(score <= .97 * 2000);
  }
}

TEST_CASE("calibration: kernel tests reject a shift and keep the null", "[calibration]") {
  const auto cloud = [](std::uint64_t id, std::size_t n, double shift) {
    sluice::cursor random(sluice::stream(11, id));
    points x(n, doubles(2));
    for (auto& p : x) p = {normal(random) + shift, normal(random)};
    return x;
  };
  const auto score = [](const doubles& x) { return doubles{-x[0], -x[1]}; };
  const auto a = cloud(0, 4000, 0), b = cloud(1, 4000, 0), c = cloud(2, 4000, 1);
  CHECK(mmd_linear(a, b, 1).z < normal_critical_one_sided());
  CHECK(mmd_linear(a, c, 1).z > normal_critical_one_sided());
  CHECK(kernel_stein_linear(a, score).z < normal_critical_one_sided());
  CHECK(kernel_stein_linear(c, score).z > normal_critical_one_sided());
  const auto small = cloud(3, 300, 0);
  const auto discrepancy = kernel_stein(small, score);
  CHECK(discrepancy.v > 0);
  CHECK(energy_distance(small, cloud(4, 300, 1)) > 10 * energy_distance(small, cloud(5, 300, 0)));
}

TEST_CASE("calibration: SPRT keeps its error rates", "[calibration]") {
  int wrong[2] = {0, 0};
  double draws[2] = {0, 0};
  constexpr int runs = 10'000;
  for (int under = 0; under < 2; ++under)
    for (int i = 0; i < runs; ++i) {
      sluice::cursor random(
          sluice::stream(12, static_cast<std::uint64_t>(under)).derive(static_cast<std::uint64_t>(i)));
      sprt_bernoulli test(.3, .5, .01, .01);
      while (test.add(sluice::co53(random()) < (under ? .5 : .3)) == sprt_bernoulli::verdict::undecided) {
      }
      wrong[under] += test.result() == (under ? sprt_bernoulli::verdict::p0 : sprt_bernoulli::verdict::p1);
      draws[under] += static_cast<double>(test.draws());
    }
  const sprt_bernoulli planned(.3, .5, .01, .01);
  for (const int w : wrong) {
    CHECK(w <= .01 * runs);
    CHECK(w > .003 * runs);
  }
  CHECK(draws[0] / runs == Approx(planned.mean_draws_p0()).epsilon(.15));  // overshoot is left out of the formula
  CHECK(draws[1] / runs == Approx(planned.mean_draws_p1()).epsilon(.15));
}

TEST_CASE("calibration: wealth reaches 1/alpha as rarely as Ville says", "[calibration]") {
  const auto rejected = [](double p, int runs, int draws) {
    int count = 0;
    for (int i = 0; i < runs; ++i) {
      sluice::cursor random(sluice::stream(13).derive(static_cast<std::uint64_t>(i)));
      wealth_test test(.3);
      for (int k = 0; k < draws && !test.rejects(.05); ++k) test.add(sluice::co53(random()) < p ? 1 : 0);
      count += test.rejects(.05);
    }
    return count;
  };
  CHECK(rejected(.3, 10'000, 200) <= .05 * 10'000);
  CHECK(rejected(.4, 200, 2000) >= 195);
  CHECK(rejected(.2, 200, 2000) >= 195);
}

TEST_CASE("calibration: two stages decide by the second", "[calibration]") {
  int asked = 0;
  const auto stages = [&](double first, double second) {
    asked = 0;
    return two_stage_gate([&](int stage) { return ++asked, std::log(stage == 1 ? first : second); });
  };
  CHECK(stages(.01, 0));
  CHECK(asked == 1);
  CHECK(stages(1e-4, 1e-5));
  CHECK(asked == 2);
  CHECK_FALSE(stages(1e-4, 1e-7));
}
