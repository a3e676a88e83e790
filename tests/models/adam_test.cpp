// Fails for: no bias correction, or one of the wrong moment; epsilon under the root; exchanged moments or betas; a step
// counted from 0; a gradient that is not squared; blocks that leave elements out.
#include <catch2/catch.hpp>
#include <cmath>
#include <sluice/models/adam.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <vector>

using namespace sluice;
using models::adam_step;

TEMPLATE_TEST_CASE("adam: steps are those of the formula, in one part or several", "[adam]", double, float) {
  constexpr std::size_t n = 2'500;  // several blocks
  constexpr double tolerance = std::is_same_v<TestType, double> ? 1e-12 : 1e-5;
  const models::adam_options options{.beta1 = 0.8, .beta2 = 0.95, .epsilon = 0.01};
  std::vector<TestType> w(n, TestType{1}), m(n), v(n), g(n), parts = w, part_m = m, part_v = v;
  std::vector<double> exact(n, 1.0), a(n), b(n);
  for (int t = 1; t <= 4; ++t) {
    for (std::size_t i = 0; i < n; ++i)
      g[i] = static_cast<TestType>(std::sin(static_cast<double>(i) + 10.0 * t) * (i % 3 == 0 ? 0.01 : 1.0));
    const double rate = 0.1 / t;
    adam_step<TestType>(w, m, v, g, t, rate, options);
    for (const std::size_t cut : {std::size_t{0}, std::size_t{1'000}}) {
      const std::size_t length = cut == 0 ? 1'000 : n - 1'000;
      adam_step<TestType>(std::span(parts).subspan(cut, length), std::span(part_m).subspan(cut, length),
                          std::span(part_v).subspan(cut, length), std::span<const TestType>(g).subspan(cut, length), t,
                          rate, options);
    }
    for (std::size_t i = 0; i < n; ++i) {
      const double slope = static_cast<double>(g[i]);
      a[i] = 0.8 * a[i] + 0.2 * slope;
      b[i] = 0.95 * b[i] + 0.05 * slope * slope;
      exact[i] -= rate * (a[i] / (1 - std::pow(0.8, t))) / (std::sqrt(b[i] / (1 - std::pow(0.95, t))) + 0.01);
    }
  }
  for (std::size_t i = 0; i < n; ++i) {
    REQUIRE(std::abs(static_cast<double>(w[i]) - exact[i]) < tolerance);
    REQUIRE(std::abs(static_cast<double>(parts[i]) - exact[i]) < tolerance);
  }
}

TEST_CASE("adam: the first step is the rate, whatever the size of the gradient", "[adam]") {
  std::vector<double> w{0, 0, 5}, m(3), v(3);
  const std::vector<double> g{1e-3, -1e3, 0};
  adam_step<double>(w, m, v, g, 1, 0.5);
  CHECK(w[0] == Approx(-0.5).epsilon(1e-4));
  CHECK(w[1] == Approx(0.5).epsilon(1e-4));
  CHECK(w[2] == 5);
}

TEST_CASE("adam: bad input, and no allocation", "[adam]") {
  std::vector<double> w(2), m(2), v(2), three(3);
  const std::vector<double> g(2), short_g(1);
  SLUICE_CHECK_THROWS((adam_step<double>(w, three, v, g, 1, 0.1)), "adam_step", "first.size", -1);
  SLUICE_CHECK_THROWS((adam_step<double>(w, m, three, g, 1, 0.1)), "adam_step", "second.size", -1);
  SLUICE_CHECK_THROWS((adam_step<double>(w, m, v, short_g, 1, 0.1)), "adam_step", "gradient.size", -1);
  SLUICE_CHECK_THROWS((adam_step<double>(w, m, v, g, 0, 0.1)), "adam_step", "step", -1);
  SLUICE_CHECK_THROWS((adam_step<double>(w, m, v, g, 1, -0.1)), "adam_step", "rate", -1);
  SLUICE_CHECK_THROWS((adam_step<double>(w, m, v, g, 1, 0.1, {.beta1 = -0.1})), "adam_step", "options.beta1", -1);
  SLUICE_CHECK_THROWS((adam_step<double>(w, m, v, g, 1, 0.1, {.beta2 = 1})), "adam_step", "options.beta2", -1);
  SLUICE_CHECK_THROWS((adam_step<double>(w, m, v, g, 1, 0.1, {.epsilon = 0})), "adam_step", "options.epsilon", -1);
  CHECK(support::allocations_in([&] { adam_step<double>(w, m, v, g, 1, 0.1); }) == 0);
  CHECK(w == std::vector<double>(2));
}
