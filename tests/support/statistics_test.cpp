// Fails for: df one too many; a two-sided p that is one-sided; cells merged by what was observed; a cell of
// probability 0 that is ignored; tails that underflow; n for n - 1; ties in the two-sample statistic taken one by one;
// bad input accepted.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <string>
#include <support/check_throws.hpp>
#include <support/statistics.hpp>
#include <vector>

namespace {
using namespace support;
using doubles = std::vector<double>;
using counts = std::vector<std::uint64_t>;
const doubles half{.5, .5};
}  // namespace

TEST_CASE("statistics: tails far out", "[statistics]") {
  CHECK(log_normal_sf(38) == Approx(-726.5572160188201).epsilon(1e-12));
  CHECK(std::abs(log_normal_sf(-38)) < 1e-300);
  CHECK(log_normal_sf(-5) == Approx(-std::exp(log_normal_sf(5))).epsilon(1e-6));
  CHECK(log_chi_square_sf(1400, 2) == Approx(-700).epsilon(1e-12));  // exponential
  CHECK(log_chi_square_sf(2800, 2) == Approx(-1400).epsilon(1e-12));
  CHECK(log_chi_square_cdf(1e-200, 2) == Approx(std::log(.5) - 200 * std::log(10)).epsilon(1e-12));
  for (const double x : {.01, .7, 1.4, 1.6, 9.}) {  // the series and the fraction, against closed forms
    CHECK(log_gamma_q(1, x) == Approx(-x).epsilon(1e-13));
    CHECK(log_gamma_q(2, x) == Approx(std::log1p(x) - x).epsilon(1e-12));
    CHECK(log_gamma_q(.5, x) == Approx(std::log(std::erfc(std::sqrt(x)))).epsilon(1e-12));
  }
  CHECK(log_erfc(25) == Approx(std::log(std::erfc(25))).epsilon(1e-13));  // the series meets the function
  CHECK(log_kolmogorov_sf(19) == Approx(std::log(2) - 722).epsilon(1e-12));
  CHECK(std::abs(kolmogorov_sf(std::nextafter(1.0, 0.0)) - kolmogorov_sf(1)) < 1e-14);  // the two series meet
  CHECK(log_student_two_sided(1e100, 3) ==
        Approx(std::log(4 * std::sqrt(3) / std::numbers::pi) - 300 * std::log(10)).epsilon(1e-9));
  for (const double a : {.5, 3., 50., 2000.})
    for (const double x : {.1 * a, .9 * a, a, 1.2 * a, 2 * a})
      CHECK(std::exp(log_gamma_q(a, x)) + std::exp(log_gamma_p(a, x)) == Approx(1).epsilon(1e-13));
  for (const double p : {1e-300, 1e-20, 1e-3, .07, .4, .5, .6, .93})
    CHECK(log_normal_sf(-normal_quantile(p)) == Approx(std::log(p)).epsilon(1e-13));
  for (const double p : {1e-12, .2, .5, .999})
    CHECK(std::exp(log_beta_i(3, 8, beta_quantile(3, 8, p))) == Approx(p).epsilon(1e-10));
}

TEST_CASE("statistics: thresholds of the house", "[statistics]") {
  CHECK(chi_square_critical(9) == Approx(44.811).margin(5e-4));
  CHECK(chi_square_critical(9, 1e-9) == Approx(60.660).margin(5e-4));
  CHECK(chi_square_critical(4095, 1e-7) == Approx(4583.013).margin(5e-4));
  CHECK(kolmogorov_critical() == Approx(2.6934).margin(5e-5));
  CHECK(student_t_critical(9) == Approx(11.64).margin(5e-3));
  CHECK(n_ks(.01) == Approx(175'800).epsilon(1e-3));
  CHECK(coverage_range(2000, .95).low == 1849);
  CHECK(coverage_range(2000, .95).high == 1944);
  CHECK(sign_test(40, 40).p() == Approx(std::pow(.5, 40)).epsilon(1e-10));
  CHECK(tv_threshold(8, 1e5) == Approx(.5 * std::sqrt(7e-5) + 8.311290681e-3).epsilon(1e-9));
}

TEST_CASE("statistics: cells are merged by what they expect", "[statistics]") {
  const doubles p{.0005, .4, .0095, .25, 0, .2, .14};
  const auto a = merge_small_cells(counts{0, 400, 10, 250, 0, 200, 140}, p);
  const auto b = merge_small_cells(counts{1000, 0, 0, 0, 0, 0, 0}, p);
  CHECK(a.p == b.p);
  CHECK(a.members == b.members);
  REQUIRE(a.p.size() == 4);  // fewer than 5 degrees of freedom: the limit is 30
  CHECK(a.members[0] == std::vector<std::size_t>{0, 2, 6});
  CHECK(a.p[0] == Approx(.15));
  CHECK(a.observed[0] == 150);
  const auto impossible = fits(counts{0, 400, 10, 249, 1, 200, 140}, p);
  CHECK(impossible.log_p == -infinity);
  CHECK(impossible.worst_cell == 4);
  CHECK(impossible.worst_observed == 1);
  CHECK_FALSE(impossible.passes());
  CHECK(fits(counts{0, 400, 10, 250, 0, 200, 140}, p).passes());
  CHECK_FALSE(fits(counts{0, 400, 10, 250, 0, 200, 140}, p).passes_both_tails(.05));  // too good
  const auto off = fits(counts{0, 500, 10, 150, 0, 200, 140}, p);
  CHECK_FALSE(off.passes());
  CHECK(off.worst_cell == 3);
  CHECK(off.describe().find("worst cell 3: observed 150, expected 250") != std::string::npos);
}

TEST_CASE("statistics: legal edges", "[statistics]") {
  CHECK(pearson(counts{7}, doubles{1}).p() == 1);
  CHECK(pearson(counts{7, 9, 8}, doubles{.25, .25, .5}).df == 2);
  CHECK(normal_test(-6).p() == Approx(std::erfc(6 / std::numbers::sqrt2)).epsilon(1e-12));  // two-sided
  CHECK(pearson(counts{7, 0}, doubles{1, 0}).passes());
  CHECK(g_test(counts{0, 10}, half).statistic == Approx(20 * std::log(2)));
  CHECK(exact_multinomial_p(counts{0, 2}, doubles{1, 0}) == 0);
  CHECK(exact_multinomial_p(counts{1, 1}, half) == Approx(1));
  CHECK(binomial_two_sided(0, 10, .5).p() == Approx(2 * std::pow(.5, 10)));
  CHECK(binomial_two_sided(0, 5, 0).p() == 1);
  CHECK(binomial_two_sided(1, 5, 0).p() == 0);
  CHECK(binomial_two_sided(3, 6, .5).p() == 1);
  CHECK(clopper_pearson(0, 10, .95).low == 0);
  CHECK(clopper_pearson(10, 10, .95).high == 1);
  CHECK(mmd_squared({{1}, {1}}, {{1}, {1}}, 0).degenerate);
  const doubles tied{1, 1, 2}, other{1, 2, 2};
  CHECK(ks_two_sample_statistic(tied, other) == Approx(1.0 / 3));      // with <=, not one by one
  CHECK(ks_two_sample_exact_p(1, 3, 3) == Approx(.1).epsilon(1e-14));  // 2 of 20 orders
  CHECK(ks_two_sample_exact_p(1, 500, 500) > 0);
  CHECK(ks_exact_p(.9, 1) == Approx(.2).epsilon(1e-12));  // P(|u - 1/2| > .4)
  CHECK(ks_exact_p(.7, 2) == Approx(2 * .3 * .3).epsilon(1e-12));
  CHECK(mann_whitney(doubles{1, 2, 3}, doubles{4, 5, 6}).p() == Approx(.1).epsilon(1e-12));
  CHECK(homogeneity(counts{5, 0, 10}, counts{5, 0, 10}).df == 1);
  CHECK(homogeneity(counts{1000, 0}, counts{900, 100}).statistic == Approx(105.263157895));
  CHECK(geyer_tau(doubles{1, -1}) == -1);
  const auto t = paired_t(doubles{1, 2, 4}, doubles{0, 0, 1});
  CHECK(t.statistic == Approx(2 * std::sqrt(3.0)));
  CHECK(t.df == 2);
}

TEST_CASE("statistics: bad input is refused", "[statistics]") {
  SLUICE_CHECK_THROWS((pearson(doubles{1, -1}, half)), "pearson", "observed", 1);
  SLUICE_CHECK_THROWS((pearson(doubles{NAN, 1}, half)), "pearson", "observed", 0);
  SLUICE_CHECK_THROWS((pearson(counts{1, 1}, (doubles{-.5, 1.5}))), "pearson", "p", 0);
  SLUICE_CHECK_THROWS((pearson(counts{1, 1}, (doubles{.5, .5 + 2e-9}))), "pearson", "p.total", -1);
  CHECK_NOTHROW(pearson(counts{1, 1}, doubles{.5, .5 + 5e-10}));
  SLUICE_CHECK_THROWS((pearson(counts{1, 1, 1}, half)), "pearson", "p.size", -1);
  SLUICE_CHECK_THROWS((pearson(counts{0, 0}, half)), "pearson", "n", -1);
  SLUICE_CHECK_THROWS((g_test(counts{}, doubles{})), "g_test", "observed.size", -1);
  SLUICE_CHECK_THROWS((pearson_gate(counts{29, 30}, half)), "pearson_gate",
                      "expected count too small, merge_small_cells first", 0);
  SLUICE_CHECK_THROWS((fits(counts{9, 9}, half)), "fits", "cells after merging", -1);
  SLUICE_CHECK_THROWS((pearson(counts{1, 1}, half).passes(0)), "test_result::passes", "alpha", -1);
  SLUICE_CHECK_THROWS((chi_square_critical(0)), "chi_square_critical", "df", -1);
  SLUICE_CHECK_THROWS((chi_square_critical(1, 1)), "chi_square_critical", "alpha", -1);
  SLUICE_CHECK_THROWS((chi_square_critical(1, NAN)), "chi_square_critical", "alpha", -1);
  SLUICE_CHECK_THROWS((exact_multinomial_p(counts{1000, 1000, 1000, 1000}, doubles(4, .25))), "exact_multinomial_p",
                      "tables", -1);
  SLUICE_CHECK_THROWS((binomial_two_sided(3, 2, .5)), "binomial_two_sided", "successes", -1);
  SLUICE_CHECK_THROWS((binomial_two_sided(1, 2, 1.5)), "binomial_two_sided", "p", -1);
  SLUICE_CHECK_THROWS((tally(std::vector<int>{0, 1, 2}, 2)), "tally", "sample", 2);
  SLUICE_CHECK_THROWS((tally(std::vector<int>{0, -1}, 2)), "tally", "sample", 1);
  SLUICE_CHECK_THROWS((ks_statistic(doubles{})), "ks_statistic", "x.size", -1);
  SLUICE_CHECK_THROWS((ks_statistic(doubles{.5, 1.5})), "ks_statistic", "u", 1);
  SLUICE_CHECK_THROWS((ks_two_sample_statistic(doubles{1}, doubles{NAN})), "ks_two_sample", "x", 0);
  SLUICE_CHECK_THROWS((z_of_mean(doubles{1}, 0, 0)), "z_of_mean", "sd", -1);
  SLUICE_CHECK_THROWS((one_sample_t(doubles{1}, 0)), "one_sample_t", "x.size", -1);
  SLUICE_CHECK_THROWS((one_sample_t((doubles{1, 1}), 0)), "one_sample_t", "variance", -1);
  SLUICE_CHECK_THROWS((welch_t((doubles{1, 2}), (doubles{1}))), "welch_t", "y.size", -1);
  SLUICE_CHECK_THROWS((mann_whitney(doubles{}, doubles{1})), "mann_whitney", "x.size", -1);
  SLUICE_CHECK_THROWS((mmd_squared({{1}, {2}}, {{1}, {1}}, 0)), "mmd_squared", "bandwidth", -1);
  SLUICE_CHECK_THROWS((mmd_squared({{1}, {2, 3}}, {{1}, {1}}, 1)), "mmd_squared", "point.size", 1);
  SLUICE_CHECK_THROWS((energy_distance({}, {{1}, {1}})), "energy_distance", "points", -1);
  SLUICE_CHECK_THROWS((autocorrelation((doubles{1, 1, 1}), 2)), "autocorrelation", "variance", -1);
  SLUICE_CHECK_THROWS((autocorrelation((doubles{1, 2}), 3)), "autocorrelation", "lags", -1);
  SLUICE_CHECK_THROWS((sprt_bernoulli(.3, .3)), "sprt_bernoulli", "p1", -1);
  SLUICE_CHECK_THROWS((wealth_test(.5).add(1.5)), "wealth_test", "x", -1);
}
