// Fails for: ends that went through an inverse; Karras values without the exponent; a list of indices that begins or
// ends elsewhere; a grid of N levels for N steps.
#include <sluice/generate/time_grid.hpp>

#include <catch2/catch.hpp>
#include <cmath>
#include <support/check_throws.hpp>
#include <vector>

using namespace sluice;

namespace {
void check_falls(const std::vector<noise_level>& levels) {
  for (std::size_t i = 1; i < levels.size(); ++i) CHECK(levels[i].kappa() < levels[i - 1].kappa());
}
using indices = std::vector<index_t>;
}  // namespace

TEST_CASE("time_grid: N + 1 levels, ends exact, kappa falls", "[generate][time_grid]") {
  const vp_linear s;
  for (const index_t n : {1, 2, 7, 50}) {
    CAPTURE(n);
    for (const auto& levels : {uniform_levels(s, n, 1, 1e-3), quadratic_levels(s, n, 1, 1e-3),
                               log_snr_levels(s, n, 1, 1e-3), kappa_power_levels(s, n, 1, 1e-3)}) {
      REQUIRE(std::ssize(levels) == n + 1);
      CHECK(levels.front() == s.at(1));
      CHECK(levels.back() == s.at(1e-3));
      check_falls(levels);
    }
  }
}

TEST_CASE("time_grid: what is evenly spread is", "[generate][time_grid]") {
  const vp_linear s;
  const auto by_time = uniform_times(4, 1, 0.2);
  CHECK(by_time[1] == Approx(0.8).epsilon(1e-15));
  const auto squares = power_times(5, 1, 0.04, 2);
  CHECK(std::sqrt(squares[2]) - std::sqrt(squares[1]) == Approx(-0.16).epsilon(1e-13));
  const auto lambdas = log_snr_levels(s, 6, 1, 1e-3);
  const double step = (s.at(1e-3).lambda() - s.at(1).lambda()) / 6;
  for (std::size_t i = 0; i < 6; ++i)
    CHECK(lambdas[i + 1].lambda() - lambdas[i].lambda() == Approx(step).epsilon(1e-12));
  const auto powers = kappa_power_levels(s, 6, 1, 1e-3, 3);
  const double root = (std::cbrt(s.at(1e-3).kappa()) - std::cbrt(s.at(1).kappa())) / 6;
  for (std::size_t i = 0; i < 6; ++i)
    CHECK(std::cbrt(powers[i + 1].kappa()) - std::cbrt(powers[i].kappa()) == Approx(root).epsilon(1e-10));
  const auto shifted = shifted_times(4, 3);
  CHECK(shifted == std::vector<double>{1, time_shift(0.75, 3), time_shift(0.5, 3), time_shift(0.25, 3), 0});
}

TEST_CASE("time_grid: the EDM list", "[generate][time_grid]") {
  const auto levels = karras_levels(18);
  REQUIRE(levels.size() == 19);
  CHECK(levels.front() == noise_level{80, 1, 80});
  CHECK(levels[17] == noise_level{0.002, 1, 0.002});
  CHECK(levels[18] == noise_level{0, 1, 0});
  check_falls(levels);
  const auto root = [&](std::size_t i) { return std::pow(levels[i].kappa(), 1.0 / 7); };
  for (std::size_t i = 1; i < 18; ++i)
    CHECK(root(i) - root(i - 1) == Approx((std::pow(0.002, 1.0 / 7) - std::pow(80, 1.0 / 7)) / 17).epsilon(1e-10));
  CHECK(karras_kappas(1, 0.002, 80) == std::vector<double>{80});
  CHECK(edm_levels({2.0, 0.5}).back() == noise_level{0.5, 1, 0.5});
}

TEST_CASE("time_grid: lists of indices", "[generate][time_grid]") {
  CHECK(leading_indices(4, 10) == indices{6, 4, 2, 0});
  CHECK(linspace_indices(4, 10) == indices{9, 6, 3, 0});
  CHECK(linspace_indices(1, 10) == indices{9});
  CHECK(trailing_indices(4, 10) == indices{9, 7, 4, 1});  // 10 - 2.5 j rounds half to even
  CHECK(consistency_indices(12) == indices{999, 919, 839, 759, 679, 599, 499, 419, 339, 259, 179, 99});
  CHECK(consistency_indices(50).back() == 19);
}

TEST_CASE("time_grid: bad arguments", "[generate][time_grid]") {
  const vp_linear s;
  SLUICE_CHECK_THROWS(uniform_times(0, 1, 0), "power_times", "n", -1);
  SLUICE_CHECK_THROWS(uniform_times(3, 1, 1), "power_times", "to", -1);
  SLUICE_CHECK_THROWS(power_times(3, 1, -0.5), "power_times", "to", -1);
  SLUICE_CHECK_THROWS(power_times(3, 1, 0, 0), "power_times", "power", -1);
  SLUICE_CHECK_THROWS(shifted_times(3, -1), "time_shift", "s", -1);
  SLUICE_CHECK_THROWS(uniform_levels(s, 3, 2, 0), "vp_linear", "t", -1);
  SLUICE_CHECK_THROWS(log_snr_levels(s, 3, 1, 0), "log_snr_levels", "to", -1);
  SLUICE_CHECK_THROWS(log_snr_levels(rectified_flow(), 3, 1, 0.1), "log_snr_levels", "from", -1);
  SLUICE_CHECK_THROWS(kappa_power_levels(s, 3, 1, 0), "kappa_power_levels", "to", -1);
  SLUICE_CHECK_THROWS(kappa_power_levels(s, 3, 1, 0.1, 0), "kappa_power_levels", "rho", -1);
  SLUICE_CHECK_THROWS(karras_kappas(0, 1, 2), "karras_kappas", "n", -1);
  SLUICE_CHECK_THROWS(karras_kappas(3, 0, 2), "karras_kappas", "kappa_min", -1);
  SLUICE_CHECK_THROWS(karras_kappas(3, 3, 2), "karras_kappas", "kappa_max", -1);
  SLUICE_CHECK_THROWS(leading_indices(0, 10), "leading_indices", "n", -1);
  SLUICE_CHECK_THROWS(trailing_indices(11, 10), "trailing_indices", "n", -1);
  SLUICE_CHECK_THROWS(consistency_indices(51), "consistency_indices", "n", -1);
}
