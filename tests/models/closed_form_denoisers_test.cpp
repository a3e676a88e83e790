// Fails for: a gain without alpha; a flow map from x instead of x - alpha m, or with v/v' for v'/v; a mixture whose
// columns share their maximum; component weights lost over 256 components; tails taken from one side only; kernel
// scores without the norm of the data, or without alpha in it; sigma = 0 or alpha = 0 left as 0/0.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <numeric>
#include <sluice/core/thread_pool.hpp>
#include <sluice/generate/model.hpp>
#include <sluice/models/gaussian.hpp>
#include <sluice/models/gaussian_mixture.hpp>
#include <sluice/models/kernel_denoiser.hpp>
#include <sluice/models/mixture_1d.hpp>
#include <span>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <vector>

#include "denoiser_checks.hpp"

using namespace sluice;
using namespace sluice::models;

namespace {

using tests::check_columns, tests::normal_columns;

double normal_cdf(double z) { return std::erfc(-z / std::sqrt(2.0)) / 2; }

}  // namespace

TEST_CASE("gaussian: denoiser and flow map by their formulas", "[gaussian]") {
  const gaussian g(Eigen::Vector3d(0.5, -1, 2), Eigen::Vector3d(0.25, 1, 0.04));
  const Eigen::Vector3d x(0.3, -1.2, 0.8);
  Eigen::Vector3d d, y, z;
  for (const noise_level l : {noise_level{0, 1, 0.5}, noise_level{0, 0.6, 0.8}, noise_level{0, 0.2, 3}}) {
    g(x, l, d);
    for (index_t i = 0; i < 3; ++i) {
      const double k2 = l.kappa() * l.kappa(), s2 = g.variance()(i), m = g.mean()(i);
      CHECK(d(i) == Approx(m + s2 / (s2 + k2) * (x(i) / l.alpha - m)).epsilon(1e-14));
    }
    // The flow map solves d(x/alpha)/d kappa = (x/alpha - D)/kappa: a centred difference in kappa.
    const double kappa = l.kappa(), h = 1e-4 * kappa;
    g(x / l.alpha, at_kappa(kappa), d);
    g.flow_map(y, x / l.alpha, at_kappa(kappa), at_kappa(kappa + h));
    g.flow_map(z, x / l.alpha, at_kappa(kappa), at_kappa(kappa - h));
    CHECK(((y - z) / (2 * h) - (x / l.alpha - d) / kappa).norm() < 1e-7);
    g.flow_map(y, x, l, noise_level{0, 0.9, 0.1});
    g.flow_map(z, y, noise_level{0, 0.9, 0.1}, l);
    CHECK((z - x).norm() < 1e-14);
  }
  g(x, noise_level{0, 0, 1}, d);
  CHECK(d == g.mean());
  g(x, noise_level{0, 0.5, 0}, d);
  CHECK((d - x / 0.5).norm() < 1e-15);
  g.flow_map(y, x, at_kappa(3), at_kappa(3));
  CHECK((y - x).norm() < 1e-15);
  CHECK(g.inflated(0.5).variance()(2) == Approx(0.29));

  const gaussian pinned(Eigen::Vector2d(1, 2), Eigen::Vector2d(0, 1));
  Eigen::Vector2d p;
  for (const double kappa : {0.0, 1e-3, 1.0}) {
    pinned(Eigen::Vector2d(3, 3), at_kappa(kappa), p);
    CHECK(p(0) == 1);
  }
  pinned.flow_map(p, Eigen::Vector2d(1, 2), at_kappa(0), at_kappa(2));
  CHECK(p(0) == 1);

  cursor random(stream(3));
  Eigen::Vector3d mean = Eigen::Vector3d::Zero();
  for (int i = 0; i < 4000; ++i) mean += g.sample(random) / 4000;
  CHECK((((mean - g.mean()).array() / (g.variance().array() / 4000).sqrt()).abs() < 5.5).all());
  check_columns(g, normal_columns(3, 5, 1), {0, 0.6, 0.8});
}

TEST_CASE("gaussian: as a model of a solver", "[gaussian]") {
  const gaussian g(Eigen::VectorXd::Constant(4, 0.5), Eigen::VectorXd::Constant(4, 2));
  auto m = prediction<predicts::data>(std::cref(g));
  const Eigen::VectorXd x = Eigen::VectorXd::LinSpaced(4, -1, 1);
  const noise_level l{0.3, 0.6, 0.8};
  Eigen::VectorXd d(4), e(4);
  m(x, l, d, predicts::data);
  m(x, l, e, predicts::noise);
  CHECK((l.alpha * d + l.sigma * e - x).norm() < 1e-15);
}

TEST_CASE("mixture: the denoiser for samplers is the closed form, column by column", "[gaussian_mixture]") {
  for (const index_t n : {1, 7, 256, 257, 700}) {
    const auto m = random_mixture(5, n, 11);
    const Eigen::MatrixXd x = normal_columns(5, 4, 2, 2.0);
    for (const noise_level l : {noise_level{0, 1, 0.05}, noise_level{0, 0.6, 0.8}, noise_level{0, 1, 20}}) {
      Eigen::MatrixXd d(5, 4);
      m(x, l, d);
      for (index_t c = 0; c < 4; ++c)
        CHECK((d.col(c) - m.denoised(x.col(c) / l.alpha, l.kappa())).norm() < 2e-13 * (1 + d.col(c).norm()));
    }
    Eigen::MatrixXd d(5, 4);
    m(x, noise_level{0, 0, 1}, d);
    CHECK((d.colwise() - m.means() * m.weights()).norm() < 1e-13);
    m(x, noise_level{0, 0.5, 0}, d);
    CHECK((d - x / 0.5).norm() < 1e-14);
    if (n <= 256) check_columns(m, x, {0, 0.6, 0.8});
  }
  const auto m = random_mixture(3, 6, 1);
  const std::vector<index_t> part{4, 1};
  const auto sub = m.subset(part);
  CHECK(sub.means().col(0) == m.means().col(4));
  CHECK(sub.weights()(1) == Approx(m.weights()(1) / (m.weights()(1) + m.weights()(4))));
  CHECK(sub.sd()(0) == m.sd()(4));
  // Components of weight 0 take no part.
  Eigen::VectorXd weights = m.weights();
  for (const index_t j : {0, 2, 3, 5}) weights(j) = 0;
  Eigen::Vector3d a, b;
  gaussian_mixture(weights, m.means(), m.sd())(Eigen::Vector3d(0, 1, 2), at_kappa(0.7), a);
  sub(Eigen::Vector3d(0, 1, 2), at_kappa(0.7), b);
  CHECK((a - b).norm() < 1e-14);
}

TEST_CASE("one-dimensional mixture: the flow map keeps quantiles and solves the equation", "[mixture_1d]") {
  const mixture_1d m(Eigen::Vector3d(0.25, 0.45, 0.3), Eigen::Vector3d(-2, 0.3, 1.7), Eigen::Vector3d(0.2, 0.3, 0.1));
  for (const auto& [from, to] : {std::pair{80.0, 0.01}, {5.0, 0.5}, {1.0, 0.0}, {0.0, 3.0}, {0.3, 40.0}}) {
    double last = -std::numeric_limits<double>::infinity();
    for (const double z : {-45.0, -9.0, -3.0, -0.7, 0.0, 0.4, 2.0, 8.0, 45.0}) {
      const double x = z * std::hypot(1.5, from), y = m.flow_map(x, at_kappa(from), at_kappa(to));
      CHECK(y > last);
      last = y;
      const double back = m.flow_map(y, at_kappa(to), at_kappa(from));
      // An epsilon of the tail is all that can be lost, which moves x by epsilon tail / density.
      const double density = std::exp(m.mixture().log_density(Eigen::VectorXd::Constant(1, x), from));
      const double tail = std::min(m.cdf(x, at_kappa(from)), m.survival(x, at_kappa(from)));
      CHECK(std::abs(back - x) < 2e-12 * (1e-16 + std::abs(x)) + (density > 0 ? 4e-15 * tail / density : 0.0));
      if (std::abs(z) < 9) {
        CHECK(m.cdf(y, at_kappa(to)) == Approx(m.cdf(x, at_kappa(from))).epsilon(1e-11));
        CHECK(m.survival(y, at_kappa(to)) == Approx(m.survival(x, at_kappa(from))).epsilon(1e-11));
      }
    }
  }
  for (const double x : {-3.0, -0.5, 0.2, 2.5}) {
    const double kappa = 0.8, h = 1e-4;
    const double slope =
        (m.flow_map(x, at_kappa(kappa), at_kappa(kappa + h)) - m.flow_map(x, at_kappa(kappa), at_kappa(kappa - h))) /
        (2 * h);
    const Eigen::Matrix<double, 1, 1> y(x);
    CHECK(slope == Approx(m.mixture().noise(y, kappa)(0)).margin(1e-7));
    // In the unscaled state of another schedule.
    const noise_level a{0, 0.6, 0.48}, b{0, 0.2, 0.9};
    CHECK(m.flow_map(0.6 * x, a, b) ==
          Approx(0.2 * m.flow_map(x, at_kappa(0.8), at_kappa(4.5))).epsilon(1e-13).margin(1e-13));
  }
  // One component: a Gaussian, in closed form, far into both tails.
  const mixture_1d one(Eigen::VectorXd::Ones(1), Eigen::VectorXd::Constant(1, 0.5), Eigen::VectorXd::Constant(1, 0.3));
  for (const double z : {-60.0, -30.0, -5.0, 0.0, 0.1, 6.0, 39.0, 60.0}) {
    const double from = std::hypot(0.3, 80.0), to = std::hypot(0.3, 0.02);
    CHECK(one.flow_map(0.5 + z * from, at_kappa(80), at_kappa(0.02)) == Approx(0.5 + z * to).epsilon(2e-14));
  }
  double expected = 0;
  for (index_t j = 0; j < 3; ++j)
    expected += m.weights()(j) * normal_cdf((0.7 - m.mean(j)) / std::hypot(m.sd()(j), 0.4));
  CHECK(m.cdf(0.7, at_kappa(0.4)) == Approx(expected).epsilon(1e-14));
  for (const double p : {1e-300, 1e-9, 0.25, 0.5, 0.75, 1 - 1e-9})
    CHECK(m.cdf(m.quantile(p, at_kappa(0.4)), at_kappa(0.4)) == Approx(p).epsilon(1e-11));
  CHECK(m.quantile(0.5, noise_level{0, 0, 2}) == Approx(0).margin(1e-14));
}

TEST_CASE("one-dimensional mixture: elements are samples", "[mixture_1d]") {
  const mixture_1d m(Eigen::Vector3d(0.25, 0.45, 0.3), Eigen::Vector3d(-2, 0.3, 1.7), Eigen::Vector3d(0.2, 0.3, 0.1));
  const Eigen::MatrixXd x = normal_columns(3, 4, 7, 2.0);
  Eigen::MatrixXd d(3, 4), y(3, 4);
  const noise_level l{0, 0.8, 0.6};
  m(x, l, d);
  m.flow_map(y, x, l, at_kappa(0.1));
  for (index_t c = 0; c < 4; ++c)
    for (index_t i = 0; i < 3; ++i) {
      const Eigen::Matrix<double, 1, 1> e(x(i, c) / 0.8);
      CHECK(d(i, c) == Approx(m.mixture().denoised(e, 0.75)(0)).epsilon(1e-12));
      CHECK(y(i, c) == m.flow_map(x(i, c), l, at_kappa(0.1)));
    }
  CHECK(support::allocations_in([&] { m.flow_map(y, x, l, at_kappa(0.1)); }) == 0);
  check_columns(m, x, l);
  const std::vector<index_t> part{2};
  CHECK(m.subset(part).mean(0) == 1.7);
  CHECK(m.inflated(0.4).sd()(1) == Approx(0.5));
  cursor random(stream(8));
  double mean = 0;
  for (int i = 0; i < 10'000; ++i) mean += m.sample(random) / 10'000;
  CHECK(std::abs(mean - m.weights().dot(m.mixture().means().row(0))) < 5.5 * 1.5 / 100);
}

TEST_CASE("kernel denoiser: the definition, and its limits", "[kernel_denoiser]") {
  const Eigen::MatrixXd bank = normal_columns(6, 37, 5);
  kernel_denoiser f(bank);
  CHECK(f.datum(11) == bank.col(11));
  const Eigen::MatrixXd x = normal_columns(6, 21, 6, 1.5);
  Eigen::MatrixXd d(6, 21);
  for (const noise_level l : {noise_level{0, 1, 0.05}, noise_level{0, 0.6, 0.8}, noise_level{0, 0.3, 7}}) {
    f(x, l, d);
    for (index_t c = 0; c < x.cols(); ++c) {
      const Eigen::ArrayXd e =
          -(l.alpha * bank).colwise().operator-(x.col(c)).colwise().squaredNorm().transpose().array() /
          (2 * l.sigma * l.sigma);
      const Eigen::ArrayXd w = (e - e.maxCoeff()).exp();
      CHECK((d.col(c) - bank * (w / w.sum()).matrix()).norm() < 1e-11);
    }
  }
  check_columns(f, x, {0, 0.6, 0.8});
  for (const noise_level l : {noise_level{0, 0.7, 0}, noise_level{0, 0.7, 1e-200}, noise_level{0, 0.7, 1e-4}}) {
    f(x, l, d);
    for (index_t c = 0; c < x.cols(); ++c) {
      Eigen::Index nearest = 0;
      (0.7 * bank).colwise().operator-(x.col(c)).colwise().squaredNorm().minCoeff(&nearest);
      CHECK(d.col(c) == bank.col(nearest));
    }
  }
  for (const noise_level l : {noise_level{0, 0, 1}, noise_level{0, 1, 1e9}}) {
    f(x, l, d);
    CHECK((d.colwise() - bank.rowwise().mean()).norm() < 1e-7);
  }
  Eigen::MatrixXd twice(2, 4);  // two data at the same distance
  twice << 1, 1, 5, -3, 0, 0, 5, -3;
  twice(1, 1) = 2;
  kernel_denoiser tie(twice);
  Eigen::Vector2d e;
  tie(Eigen::Vector2d(1, 1), at_kappa(0), e);
  CHECK(e == Eigen::Vector2d(1, 1));
}

TEST_CASE("kernel denoiser: the same bits on every executor", "[kernel_denoiser][parallel]") {
  const Eigen::MatrixXd bank = normal_columns(65, 300, 5), x = normal_columns(65, 20, 6);
  thread_pool pool(3);
  kernel_denoiser one(bank);
  kernel_denoiser<thread_pool> many(bank, pool);
  Eigen::MatrixXd a(65, 20), b(65, 20);
  one(x, at_kappa(1.5), a);
  many(x, at_kappa(1.5), b);
  CHECK(a == b);
}

TEST_CASE("closed-form denoisers refuse bad input by name", "[gaussian]") {
  const Eigen::VectorXd two = Eigen::VectorXd::Ones(2), three = Eigen::VectorXd::Ones(3);
  const Eigen::MatrixXd bank = Eigen::MatrixXd::Ones(2, 2), flat = Eigen::MatrixXd::Zero(2, 0);
  Eigen::MatrixXd infinite = bank;
  infinite(1, 1) = std::numeric_limits<double>::infinity();
  SLUICE_CHECK_THROWS(gaussian(two, three), "gaussian", "variance.size", -1);
  SLUICE_CHECK_THROWS(gaussian(two, -two), "gaussian", "variance", 0);
  SLUICE_CHECK_THROWS(gaussian(infinite.col(1), two), "gaussian", "mean", 1);
  SLUICE_CHECK_THROWS(gaussian(Eigen::VectorXd(), Eigen::VectorXd()), "gaussian", "mean.size", -1);
  const gaussian g(two, two);
  Eigen::VectorXd out = two, small = three;
  SLUICE_CHECK_THROWS(g(three, at_kappa(1), out), "gaussian", "x.rows", -1);
  SLUICE_CHECK_THROWS(g(two, at_kappa(1), small), "gaussian", "out.rows", -1);
  SLUICE_CHECK_THROWS(g(bank, at_kappa(1), out), "gaussian", "out.cols", -1);
  SLUICE_CHECK_THROWS(g(two, (noise_level{0, -1, 1}), out), "gaussian", "level.alpha", -1);
  SLUICE_CHECK_THROWS(g(two, (noise_level{0, 0, 0}), out), "gaussian", "level.sigma", -1);
  SLUICE_CHECK_THROWS(g(two, at_kappa(std::nan("")), out), "gaussian", "level.sigma", -1);
  SLUICE_CHECK_THROWS(g.flow_map(out, two, at_kappa(-1), at_kappa(1)), "flow_map", "level.sigma", -1);
  const auto m = ring8();
  SLUICE_CHECK_THROWS(m(three, at_kappa(1), out), "gaussian_mixture", "x.rows", -1);
  const std::vector<index_t> outside{0, 8};
  SLUICE_CHECK_THROWS(m.subset(outside), "subset", "components", 1);
  SLUICE_CHECK_THROWS(mixture_1d(two, three, two), "gaussian_mixture", "weights.size", -1);
  const mixture_1d one(two, two, two);
  SLUICE_CHECK_THROWS(one.quantile(1, at_kappa(1)), "quantile", "p", -1);
  SLUICE_CHECK_THROWS(one(two, at_kappa(1), small), "mixture_1d", "out.rows", -1);
  SLUICE_CHECK_THROWS(one(two, at_kappa(-1), out), "mixture_1d", "level.sigma", -1);
  SLUICE_CHECK_THROWS(kernel_denoiser(flat), "kernel_denoiser", "bank.cols", -1);
  SLUICE_CHECK_THROWS(kernel_denoiser(infinite), "kernel_denoiser", "bank", 1);
}
