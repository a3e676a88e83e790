// Fails for: churn at levels outside [s_min, s_max]; a gamma without its bound; noise of the wrong size; a step from
// the old level; a Brownian path whose halves do not add up, whose increments depend on the grid, on the batch or on
// the order of queries, or whose variance is off by the distance of the ends.
#include <sluice/generate/brownian_path.hpp>
#include <sluice/generate/churn.hpp>
#include <sluice/generate/heun.hpp>
#include <sluice/generate/noise.hpp>
#include <sluice/generate/sample.hpp>
#include <sluice/generate/time_grid.hpp>

#include <Eigen/Core>
#include <catch2/catch.hpp>
#include <cmath>
#include <numbers>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>

using namespace sluice;

namespace {
constexpr double variance = 0.25;
auto gaussian() {
  return prediction<predicts::data>([](const auto& x, const noise_level& l, auto& out) {
    out = (l.alpha * variance / (l.alpha * l.alpha * variance + l.sigma * l.sigma)) * x;
  });
}
}  // namespace

TEST_CASE("churn: none is the wrapped solver to the bit", "[generate][churn]") {
  Eigen::VectorXd x = Eigen::VectorXd::LinSpaced(9, -80, 80), y = x;
  auto model = gaussian();
  const auto r = sample(churned<>{}, model, x, karras_levels(8));
  CHECK(sample(heun{}, model, y, karras_levels(8)).stats.nfe == r.stats.nfe);
  CHECK((x.array() == y.array()).all());
}

TEST_CASE("churn: one step is the formula", "[generate][churn]") {
  const auto levels = log_snr_levels(vp_linear(), 4, 0.9, 1e-3);
  Eigen::VectorXd x = Eigen::VectorXd::LinSpaced(5, -1, 1), y = x, z(5);
  const churned<heun, vp_linear> recipe{.recipe = {1}, .s_churn = 1.2, .s_noise = 1.003, .noise = {stream{3}}};
  auto stepper = recipe.bind(x, levels);
  auto model = gaussian();
  const auto allocated = support::allocations_in([&] { stepper.step(model, x, 1); });
  CHECK(allocated == 0);
  const noise_level &s = levels[1], &t = levels[2], &hat = stepper.raised_level(1);
  CHECK(hat.kappa() == Approx(1.3 * s.kappa()).epsilon(1e-12));            // 1.2/4
  CHECK(hat.alpha == Approx(vp_linear().at(hat.t).alpha).epsilon(1e-12));  // the time that the network is told
  step_noise{stream{3}}(z, 1, s, s);
  const double added = std::sqrt(hat.kappa() * hat.kappa() - s.kappa() * s.kappa());
  y = hat.alpha * (y / s.alpha + 1.003 * added * z);
  const Eigen::VectorXd d = (1 / (1 + variance / (hat.kappa() * hat.kappa()))) * y / (hat.alpha * hat.kappa());
  y = t.alpha * (y / hat.alpha + (t.kappa() - hat.kappa()) * d);
  CHECK((x - y).norm() < 1e-12);
}

TEST_CASE("churn: in an interval, and at most by sqrt 2", "[generate][churn]") {
  const auto levels = karras_levels(6);
  const Eigen::VectorXd x = Eigen::VectorXd::Ones(1);
  const churned<> recipe{.s_churn = 100, .s_min = 0.05, .s_max = 50};
  auto stepper = recipe.bind(x, levels);
  for (index_t i = 0; i < 6; ++i) {
    const double kappa = levels[static_cast<std::size_t>(i)].kappa();
    const bool inside = kappa >= 0.05 && kappa <= 50;
    CHECK(stepper.raised_level(i).kappa() == Approx(kappa * (inside ? std::numbers::sqrt2 : 1)).epsilon(1e-13));
  }
}

TEST_CASE("churn: keeps the law of the data", "[generate][churn][statistical]") {
  constexpr double n = 1 << 16, z = 5.5;
  Eigen::MatrixXd x(64, static_cast<Eigen::Index>(n) / 64);
  for (Eigen::Index j = 0; j < x.cols(); ++j)
    fill_normal(x.col(j), stream{8}.derive(static_cast<std::uint64_t>(j)), std::sqrt(variance + 80.0 * 80.0));
  auto model = gaussian();
  const churned<> recipe{.s_churn = 40, .noise = {stream{9}}};
  const auto r = sample(recipe, model, x, karras_levels(128));
  CHECK(r.status == status::completed);
  CHECK(std::abs(x.mean()) < z * std::sqrt(variance / n));
  CHECK(std::abs(x.squaredNorm() / n / variance - 1) < z * std::sqrt(2 / n) + 2e-3);  // 2e-3: its own discretisation
}

TEST_CASE("churn: bad arguments", "[generate][churn]") {
  const Eigen::VectorXd x = Eigen::VectorXd::Ones(1);
  const auto levels = karras_levels(3);
  SLUICE_CHECK_THROWS((churned<>{.s_churn = -1}.bind(x, levels)), "churned", "s_churn", -1);
  SLUICE_CHECK_THROWS((churned<>{.s_min = 2, .s_max = 1}.bind(x, levels)), "churned", "s_max", -1);
  SLUICE_CHECK_THROWS((churned<>{.s_noise = 0}.bind(x, levels)), "churned", "s_noise", -1);
  SLUICE_CHECK_THROWS((churned<heun, vp_linear>{.s_churn = 1}.bind(x, uniform_levels(vp_linear(), 2, 1, 0.1))),
                      "vp_linear", "lambda", -1);  // above t = 1 there is no level
}

TEST_CASE("brownian_path: increments add up, whatever the grid", "[generate][brownian_path]") {
  const brownian_path path{stream{11}};
  Eigen::MatrixXd whole(300, 2), part(300, 2), sum = Eigen::MatrixXd::Zero(300, 2);
  const double lambdas[] = {-3, -1.7, 0, 0.25, 4};
  for (int i = 0; i < 4; ++i) {
    path(part, i, edm().at_lambda(lambdas[i]), edm().at_lambda(lambdas[i + 1]));
    sum += std::sqrt(lambdas[i + 1] - lambdas[i]) * part;
  }
  const auto allocated = support::allocations_in([&] { path(whole, 7, edm().at_lambda(-3), edm().at_lambda(4)); });
  CHECK(allocated == 0);
  CHECK((std::sqrt(7.0) * whole - sum).cwiseAbs().maxCoeff() < 2e-5);  // lambda is rounded to 3.8e-6
  Eigen::VectorXf alone(300);
  brownian_path{stream{11}, 1}(alone, 0, edm().at_lambda(-3), edm().at_lambda(4));
  CHECK((alone.array() == whole.col(1).cast<float>().array()).all());
  path(part, 0, edm().at_lambda(1), edm().at_lambda(1));
  CHECK((part.array() == 0).all());
}

TEST_CASE("brownian_path: standard normal, independent between steps", "[generate][brownian_path][statistical]") {
  constexpr double n = 1 << 15, z = 5.5;
  const brownian_path path{stream{12}};
  Eigen::ArrayXd a(static_cast<Eigen::Index>(n)), b(a.size());
  for (const double middle : {-31.9, -2.5, 1e-3, 3.0}) {
    CAPTURE(middle);
    path(a, 0, edm().at_lambda(middle - 0.3), edm().at_lambda(middle));
    path(b, 1, edm().at_lambda(middle), middle > 0 ? edm().at(0) : edm().at_lambda(middle + 0.01));
    for (const Eigen::ArrayXd& w : {a, b}) {
      CHECK(std::abs(w.mean()) < z / std::sqrt(n));
      CHECK(std::abs(w.square().mean() - 1) < z * std::sqrt(2 / n));
      CHECK(std::abs(w.cube().mean()) < z * std::sqrt(15 / n));
    }
    CHECK(std::abs((a * b).mean()) < z / std::sqrt(n));
  }
}

TEST_CASE("brownian_path: bad arguments", "[generate][brownian_path]") {
  Eigen::VectorXd x(2);
  SLUICE_CHECK_THROWS((brownian_path{stream{1}, 0, 0}(x, 0, edm().at(2), edm().at(1))), "brownian_path", "depth", -1);
}
