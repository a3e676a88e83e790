// Fails for: the slope at t instead of s; alpha left out before the noise.
#include <sluice/generate/ddim.hpp>
#include <sluice/generate/euler.hpp>
#include <support/check_throws.hpp>

#include "solver_checks.hpp"

using namespace solver_checks;

TEST_CASE("euler: the step is Euler's, in the words of the variance-preserving ODE", "[generate][euler]") {
  const double beta0 = 0.1, beta1 = 20;
  const vp_linear s(beta0, beta1);
  const levels_t levels = uniform_levels(s, 7, 1, 1e-3);
  Eigen::VectorXd x = start(), expected = start();
  auto model = prediction<predicts::data>(std::cref(three_lumps()));
  auto stepper = euler<vp_linear>{s}.bind(x, levels);
  for (index_t i = 0; i < steps(levels); ++i) {
    const noise_level& l = at(levels, i);
    const double beta = beta0 + l.t * (beta1 - beta0), dt = at(levels, i + 1).t - l.t;
    Eigen::VectorXd eps(3);
    model(expected, l, eps, predicts::noise);
    expected += dt * (-beta / 2 * expected + beta / (2 * l.sigma) * eps);
    stepper.step(model, x, i);
    CHECK((x - expected).norm() <= 1e-12 * (1 + expected.norm()));
  }
}

TEST_CASE("euler: under EDM and flow it is DDIM", "[generate][euler]") {
  const levels_t flow = uniform_levels(rectified_flow{}, 9, 0.999, 0), karras = karras_levels(9);
  CHECK((run_mixture(euler<rectified_flow>{}, flow) - run_mixture(ddim<>{}, flow)).norm() <= 1e-13);
  const Eigen::VectorXd x = 80 * start();
  CHECK((run_mixture(euler<edm>{}, karras, x) - run_mixture(ddim<>{}, karras, x)).norm() <= 1e-12);
}

TEST_CASE("euler: first order in every schedule", "[generate][euler]") {
  const auto order = [](const auto& s, double from, double to) {
    const auto error = [&](index_t n) {
      return gaussian_error(euler<std::remove_cvref_t<decltype(s)>>{s}, uniform_levels(s, n, from, to));
    };
    return std::log(error(100) / error(800)) / std::log(8.0);
  };
  CHECK(std::abs(order(vp_linear{}, 1, 0.05) - 1) <= 0.1);
  CHECK(std::abs(order(vp_cosine{}, 0.9, 0.05) - 1) <= 0.1);
  CHECK(std::abs(order(vp_discrete::linear(), 1, 0.05) - 1) <= 0.1);
  CHECK(std::abs(order(rectified_flow{}, 0.99, 0.01) - 1) <= 0.1);
  CHECK(std::abs(order(edm{}, 3, 0.01) - 1) <= 0.1);
}

TEST_CASE("euler: protocol, types, empty batches", "[generate][euler]") {
  check_types(euler<vp_linear>{}, uniform_levels(vp_linear{}, 5, 1, 1e-3));
  check_types(euler<rectified_flow>{}, uniform_levels(rectified_flow{}, 5, 0.99, 0));
}

TEST_CASE("euler: bad arguments", "[generate][euler]") {
  const Eigen::VectorXd x = start();
  SLUICE_CHECK_THROWS(euler<edm>{}.bind(x, levels_t{}), "euler", "levels.size", -1);
  const levels_t vp = uniform_levels(vp_linear{}, 3, 1, 1e-3), pure = uniform_levels(rectified_flow{}, 3, 1, 0);
  SLUICE_CHECK_THROWS(euler<rectified_flow>{}.bind(x, vp), "euler", "levels.t", 0);
  SLUICE_CHECK_THROWS(euler<edm>{}.bind(x, vp), "euler", "levels.t", 0);
  SLUICE_CHECK_THROWS(euler<rectified_flow>{}.bind(x, pure), "euler", "levels.alpha", 0);
  const levels_t rising = edm_levels({1.0, 2.0});
  SLUICE_CHECK_THROWS(euler<edm>{}.bind(x, rising), "euler", "levels.kappa", 1);
}
