// Fails for: a score of the wrong sign or width; a divergence without the spread of the components; a mixture that does
// not integrate to 1, in one dimension or several; a denoiser that ignores alpha; a draft without its temperature or
// its noise; a dial that skips its remainder.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <sluice/models/gaussian_mixture.hpp>
#include <sluice/models/instrumentation.hpp>
#include <sluice/models/zipf_pair.hpp>
#include <support/check_throws.hpp>

using namespace sluice;
using namespace sluice::models;

TEST_CASE("mixture: closed forms agree with each other and with differences", "[gaussian_mixture]") {
  const auto m = random_mixture(4, 5, 3);
  const Eigen::VectorXd y = Eigen::VectorXd::LinSpaced(4, -1, 1.5);
  for (const double kappa : {0.2, 1.0, 4.0}) {
    CHECK((m.noise(y, kappa) * kappa - (y - m.denoised(y, kappa))).norm() < 1e-12);
    CHECK(std::abs(m.responsibilities(y, kappa).sum() - 1) < 1e-14);
    const Eigen::MatrixXd jacobian = m.jacobian(y, kappa);
    CHECK(std::abs(jacobian.trace() - m.divergence(y, kappa)) < 1e-12);
    for (Eigen::Index i = 0; i < 4; ++i) {
      constexpr double h = 1e-5;
      const Eigen::VectorXd step = h * Eigen::VectorXd::Unit(4, i);
      const double slope = (m.log_density(y + step, kappa) - m.log_density(y - step, kappa)) / (2 * h);
      CHECK(std::abs(slope - m.score(y, kappa)(i)) < 1e-7);
      const Eigen::VectorXd column = (m.denoised(y + step, kappa) - m.denoised(y - step, kappa)) / (2 * h);
      CHECK((column - jacobian.col(i)).norm() < 1e-7);
    }
  }
  CHECK((m.denoised(y, 0) - y).norm() < 1e-14);
  CHECK((m.denoised(y, 1e7) - m.means() * m.weights()).norm() < 1e-6);
  CHECK(std::abs(m.inflated(0.5).sd()(2) - std::hypot(m.sd()(2), 0.5)) < 1e-15);
  const auto line = random_mixture(1, 6, 2);
  double mass = 0;
  for (int i = -3000; i <= 3000; ++i)
    mass += 0.01 * std::exp(line.log_density(Eigen::VectorXd::Constant(1, 0.01 * i), 0.3));
  CHECK(std::abs(mass - 1) < 1e-12);
}

TEST_CASE("mixture: the density is that of its components, with the weights' sum divided out", "[gaussian_mixture]") {
  Eigen::MatrixXd means(3, 2);
  means << 0, 1, -1, 0.5, 2, 0;
  Eigen::VectorXd weights(2), sd(2), y(3);
  weights << 1, 3;
  sd << 0.5, 2;
  y << 0.3, -0.4, 1;
  const gaussian_mixture m(std::move(weights), std::move(means), std::move(sd));
  const double kappa = 0.7;
  double density = 0;
  for (Eigen::Index j = 0; j < 2; ++j) {
    const double v = (j == 0 ? 0.25 : 4.0) + kappa * kappa;
    double product = j == 0 ? 0.25 : 0.75;
    for (Eigen::Index i = 0; i < 3; ++i)
      product *= std::exp(-(y(i) - m.means()(i, j)) * (y(i) - m.means()(i, j)) / (2 * v)) /
                 std::sqrt(2 * 3.141592653589793 * v);
    density += product;
  }
  CHECK(m.log_density(y, kappa) == Approx(std::log(density)).epsilon(1e-14));
  CHECK(m.weights()(1) == 0.75);
}

TEST_CASE("mixture: as a denoiser of columns, and its samples", "[gaussian_mixture]") {
  const auto m = ring8();
  struct {
    double alpha, sigma;
  } level{0.5, 1.0};
  Eigen::MatrixXf x(2, 3), out(2, 3);
  x << 1, 0, -2, 0.5f, 1, 3;
  m(x, level, out);
  for (Eigen::Index i = 0; i < 3; ++i)
    CHECK((out.col(i).cast<double>() - m.denoised(x.col(i).cast<double>() / 0.5, 2.0)).norm() < 1e-6);
  cursor random(stream(5));
  double second = 0;
  constexpr int n = 20'000;
  for (int i = 0; i < n; ++i) second += m.sample(random).first.squaredNorm() / n;
  const double mean = 16 + 2 * 0.09;  // its variance: 4 r^2 s^2 + 4 s^4
  CHECK(std::abs(second - mean) < 5.5 * std::sqrt((4 * 16 * 0.09 + 4 * 0.0081) / n));
}

TEST_CASE("mixture, pair and dial refuse bad input by name", "[gaussian_mixture]") {
  const auto m = ring8();
  SLUICE_CHECK_THROWS(m.score(Eigen::VectorXd::Zero(3), 1), "score", "y.size", -1);
  SLUICE_CHECK_THROWS(m.denoised(Eigen::VectorXd::Zero(2), -1), "denoised", "kappa", -1);
  SLUICE_CHECK_THROWS(m.flow_velocity(Eigen::VectorXd::Zero(2), 1), "flow_velocity", "t", -1);
  const Eigen::VectorXd one = Eigen::VectorXd::Ones(2), three = Eigen::VectorXd::Ones(3);
  const Eigen::MatrixXd means = Eigen::MatrixXd::Zero(3, 2), flat = Eigen::MatrixXd::Zero(0, 2);
  SLUICE_CHECK_THROWS(gaussian_mixture(one, means, Eigen::Vector2d(1, 0)), "gaussian_mixture", "sd", 1);
  SLUICE_CHECK_THROWS(gaussian_mixture(Eigen::Vector2d(1, -1), means, one), "gaussian_mixture", "weights", 1);
  SLUICE_CHECK_THROWS(gaussian_mixture(Eigen::Vector2d(0, 0), means, one), "gaussian_mixture", "weights.sum", -1);
  SLUICE_CHECK_THROWS(gaussian_mixture(three, means, one), "gaussian_mixture", "weights.size", -1);
  SLUICE_CHECK_THROWS(gaussian_mixture(one, means, three), "gaussian_mixture", "sd.size", -1);
  SLUICE_CHECK_THROWS(gaussian_mixture(one, flat, one), "gaussian_mixture", "means.rows", -1);
  Eigen::MatrixXd infinite = means;
  infinite(1, 1) = std::numeric_limits<double>::infinity();
  SLUICE_CHECK_THROWS(gaussian_mixture(one, infinite, one), "gaussian_mixture", "means", 1);
  SLUICE_CHECK_THROWS(random_mixture(0, 1, 1), "random_mixture", "d", -1);
  SLUICE_CHECK_THROWS(ring(0), "ring", "n", -1);
  SLUICE_CHECK_THROWS(zipf_pair(0, {}, 1), "zipf_pair", "vocabulary_size", -1);
  SLUICE_CHECK_THROWS(zipf_pair(2, {.tau = 0}, 1), "zipf_pair", "options.tau", -1);
  SLUICE_CHECK_THROWS(zipf_pair(2, {.delta = -1}, 1), "zipf_pair", "options.delta", -1);
  SLUICE_CHECK_THROWS(cost_dial(-1), "cost_dial", "multiply_adds", -1);
}

TEST_CASE("Zipf pair: known laws and distance", "[zipf_pair]") {
  const auto pair = zipf_pair(8, {.a = 1, .tau = 1.3, .delta = 0.5}, 1);
  CHECK(pair.p[0] == Approx(0.3679369250985546).epsilon(1e-12));
  CHECK(pair.q[7] == Approx(0.023828586343137788).epsilon(1e-9));
  CHECK(pair.total_variation == Approx(0.1506583175970749).epsilon(1e-9));
  CHECK(zipf_pair(100, {.tau = 1, .delta = 0}, 1).total_variation == 0);
}

TEST_CASE("cost dial: the work is what was asked for", "[instrumentation]") {
  for (const std::int64_t c : {0, 1, 63, 64, 65, 4095, 4096, 4097, 100'000}) {
    cost_dial dial(c);
    CHECK(dial.run() == dial.checksum());
    CHECK(dial.run() == dial.checksum());
  }
  CHECK(cost_dial(4097).checksum() > cost_dial(4096).checksum() - 1);
  CHECK(cost_dial(4098).checksum() > cost_dial(4096).checksum());
  instrumented twice([](int x) { return 2 * x; }, 5000);
  CHECK(twice(4) == 8);
  CHECK(twice(5) == 10);
  CHECK(twice.counts().calls == 2);
  CHECK(twice.counts().flops == 20'000);
  CHECK(twice.verified());
}
