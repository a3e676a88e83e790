// Fails for: 1 - exp for expm1 in sigma; the textbook root of the quadratic; the arccosine alone near t = 0; a cell of
// the discrete schedule off by one; a slope that is not the derivative; a shift that is not a group.
#include <sluice/generate/schedule.hpp>

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <string>
#include <support/check_throws.hpp>
#include <vector>

using namespace sluice;

namespace {

/// |a - b| in units of the larger one.
double relative(double a, double b) { return std::abs(a - b) / std::max({std::abs(a), std::abs(b), 1e-300}); }

template <class S>
void check_round_trip(const S& s, const std::vector<double>& times, double tolerance) {
  for (const double t : times) {
    CAPTURE(t);
    const noise_level l = s.at(t), back = s.at_lambda(l.lambda());
    CHECK(l.t == t);
    CHECK(relative(back.t, t) < tolerance);
    CHECK(relative(back.alpha, l.alpha) < tolerance);
    CHECK(relative(back.sigma, l.sigma) < tolerance);
    CHECK(relative(level_at_kappa(s, l.kappa()).kappa(), l.kappa()) < tolerance);
  }
}

template <class S>
void check_slope(const S& s, const std::vector<double>& times) {
  for (const double t : times) {
    CAPTURE(t);
    const double h = 1e-6 * t;
    const noise_level up = s.at(t + h), down = s.at(t - h);
    const schedule_slope d = s.slope(t);
    CHECK(d.log_alpha == Approx((std::log(up.alpha) - std::log(down.alpha)) / (2 * h)).epsilon(1e-5).margin(1e-9));
    CHECK(d.kappa == Approx((up.kappa() - down.kappa()) / (2 * h)).epsilon(1e-5));
  }
}

}  // namespace

TEST_CASE("schedule: lambda leads back to the time", "[generate][schedule]") {
  check_round_trip(vp_linear(), {1e-8, 1e-4, 1e-3, 0.01, 0.3, 0.7, 1}, 1e-12);
  check_round_trip(vp_linear(1, 1), {1e-8, 0.3, 1}, 1e-12);  // d = 0: the quadratic is linear
  check_round_trip(vp_cosine(), {1e-8, 1e-4, 0.01, 0.3, 0.7, 0.99, 0.9961}, 1e-11);
  check_round_trip(rectified_flow(), {1e-8, 1e-3, 0.5, 0.9, 0.999}, 1e-12);
  check_round_trip(edm(), {1e-8, 0.002, 1, 80, 700}, 1e-13);
  const auto discrete = vp_discrete::linear();
  check_round_trip(discrete, {0.001, 0.0015, 0.0725, 0.5, 0.9995, 1}, 1e-9);
  for (const index_t i : {0, 1, 499, 998, 999}) {
    CAPTURE(i);
    CHECK(discrete.at_index(i) == discrete.at(discrete.time_of(i)));
    CHECK(discrete.index_of(discrete.time_of(i)) == Approx(static_cast<double>(i)).margin(1e-9));
  }
}

TEST_CASE("schedule: variance is preserved, small noise keeps its digits", "[generate][schedule]") {
  for (const double t : {1e-12, 1e-6, 1e-3, 0.5, 0.99}) {
    CAPTURE(t);
    const noise_level a = vp_linear().at(t), b = vp_cosine().at(t);
    CHECK(a.alpha * a.alpha + a.sigma * a.sigma == Approx(1).epsilon(1e-14));
    CHECK(b.alpha * b.alpha + b.sigma * b.sigma == Approx(1).epsilon(1e-14));
    // sigma^2 = beta0 t + O(t^2): wrong in the fourth digit at t = 1e-12 if computed as 1 - alpha^2.
    if (t < 1e-5) CHECK(relative(a.sigma, std::sqrt(0.1 * t)) < 1e-3);
    // sin(a - b) sin(a + b): at small t sigma^2 = pi/(1 + s) t tan(b)
    const double angle = std::acos(-1.0) / 2 * 0.008 / 1.008;
    if (t < 1e-7) CHECK(relative(b.sigma, std::sqrt(std::acos(-1.0) / 1.008 * t * std::tan(angle))) < 1e-4);
  }
}

TEST_CASE("schedule: the slope is the derivative", "[generate][schedule]") {
  check_slope(vp_linear(), {1e-3, 0.1, 0.9});
  check_slope(vp_cosine(), {1e-3, 0.1, 0.9});
  check_slope(rectified_flow(), {1e-3, 0.1, 0.9});
  check_slope(edm(), {0.01, 1, 60});
  check_slope(vp_discrete::scaled_linear(), {0.0105, 0.5005, 0.9005});  // between indices: it has corners there
}

TEST_CASE("schedule: the discrete product is that of the betas", "[generate][schedule]") {
  const std::vector<double> beta{0.1, 0.3, 0.5};
  const vp_discrete s(beta);
  double product = 1;
  for (std::size_t i = 0; i < beta.size(); ++i) {
    product *= 1 - beta[i];
    CHECK(relative(std::pow(s.at_index(static_cast<index_t>(i)).alpha, 2), product) < 1e-14);
  }
  // Half-way between two indices log alpha is the mean of theirs.
  const double middle = (s.time_of(0) + s.time_of(1)) / 2;
  CHECK(relative(std::pow(s.at(middle).alpha, 2), s.at_index(0).alpha * s.at_index(1).alpha) < 1e-13);
}

TEST_CASE("schedule: the time shift is a group and multiplies kappa", "[generate][schedule]") {
  for (const double t : {0.0, 1e-3, 0.4, 0.999, 1.0})
    for (const double s : {0.2, 1.0, 3.0}) {
      CAPTURE(t, s);
      CHECK(time_shift(time_shift(t, s), 1 / s) == Approx(t).epsilon(1e-14).margin(1e-16));
      CHECK(time_shift(time_shift(t, s), 2.5) == Approx(time_shift(t, 2.5 * s)).epsilon(1e-14));
      if (t < 1)
        CHECK(rectified_flow().at(time_shift(t, s)).kappa() ==
              Approx(s * rectified_flow().at(t).kappa()).epsilon(1e-12));
    }
  CHECK(time_shift(0, 3) == 0);
  CHECK(time_shift(1, 3) == 1);
}

TEST_CASE("schedule: bad arguments", "[generate][schedule]") {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  SLUICE_CHECK_THROWS(vp_linear(0), "vp_linear", "beta0", -1);
  SLUICE_CHECK_THROWS(vp_linear(2, 1), "vp_linear", "beta1", -1);
  SLUICE_CHECK_THROWS(vp_linear().at(1.1), "vp_linear", "t", -1);
  SLUICE_CHECK_THROWS(vp_linear().at(nan), "vp_linear", "t", -1);
  SLUICE_CHECK_THROWS(vp_linear().at_lambda(-9), "vp_linear", "lambda", -1);
  SLUICE_CHECK_THROWS(vp_cosine(0), "vp_cosine", "s", -1);
  SLUICE_CHECK_THROWS(vp_cosine(0.008, 1), "vp_cosine", "t_max", -1);
  SLUICE_CHECK_THROWS(vp_cosine().at(0.999), "vp_cosine", "t", -1);
  SLUICE_CHECK_THROWS(vp_cosine().at_lambda(-9), "vp_cosine", "lambda", -1);
  SLUICE_CHECK_THROWS(vp_discrete(std::vector<double>{0.1}), "vp_discrete", "beta.size", -1);
  SLUICE_CHECK_THROWS(vp_discrete(std::vector<double>{0.1, 1.0}), "vp_discrete", "beta", 1);
  SLUICE_CHECK_THROWS(vp_discrete::linear(1), "vp_discrete", "n", -1);
  SLUICE_CHECK_THROWS(vp_discrete::linear().at_index(1000), "vp_discrete", "index", -1);
  SLUICE_CHECK_THROWS(vp_discrete::linear().at(1e-4), "vp_discrete", "t", -1);
  SLUICE_CHECK_THROWS(vp_discrete::linear().at_lambda(30), "vp_discrete", "lambda", -1);
  SLUICE_CHECK_THROWS(edm().at(-1), "edm", "t", -1);
  SLUICE_CHECK_THROWS(rectified_flow().at(1.5), "rectified_flow", "t", -1);
  SLUICE_CHECK_THROWS(time_shift(0.5, 0), "time_shift", "s", -1);
  SLUICE_CHECK_THROWS(time_shift(1.5, 2), "time_shift", "t", -1);
  SLUICE_CHECK_THROWS(level_at_kappa(edm(), 0), "level_at_kappa", "kappa", -1);
}
