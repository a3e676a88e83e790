// Fails for: a wrong sign or factor in a form; a conversion that is not one when nothing is to be done; a weight of
// guidance applied in one form only; an interval closed at the wrong end; CFG++ with the ratio of another step; both
// models called where one is enough.
#include <sluice/generate/guidance.hpp>
#include <sluice/generate/heun.hpp>
#include <sluice/generate/model.hpp>
#include <sluice/generate/schedule.hpp>
#include <sluice/generate/time_grid.hpp>

#include <Eigen/Core>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <limits>
#include <span>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <vector>

using namespace sluice;

namespace {

constexpr std::array forms{predicts::noise, predicts::data, predicts::velocity, predicts::score, predicts::v};

/// What a perfect model of this form writes for known data and noise.
double value(predicts form, double data, double noise, const noise_level& l) {
  switch (form) {
    case predicts::noise:
      return noise;
    case predicts::data:
      return data;
    case predicts::velocity:
      return noise - data;
    case predicts::score:
      return -noise / l.sigma;
    case predicts::v:
      break;
  }
  return l.alpha * noise - l.sigma * data;
}

/// D of a Gaussian N(m, 1): a model with which every form differs.
auto towards(double m) {
  return prediction<predicts::data>([m](const auto& x, const noise_level& l, auto& out) {
    const double shrink = l.alpha / (l.alpha * l.alpha + l.sigma * l.sigma);
    out.array() = m + shrink * (x.array() - l.alpha * m);
  });
}

}  // namespace

TEST_CASE("model: every form becomes every other", "[generate][model]") {
  const double data = 0.7, noise = -1.3;
  for (const noise_level& l : {vp_linear().at(0.4), rectified_flow().at(0.25), edm().at(3)}) {
    const double x = l.alpha * data + l.sigma * noise;
    for (const predicts from : forms)
      for (const predicts to : forms) {
        CAPTURE(static_cast<int>(from), static_cast<int>(to), l.t);
        const affine k = conversion(from, to, l);
        CHECK(k.x * x + k.p * value(from, data, noise, l) == Approx(value(to, data, noise, l)).epsilon(1e-13));
        if (from == to) {
          CHECK(k.x == 0);
          CHECK(k.p == 1);
        }
      }
  }
}

TEST_CASE("model: the ends of a schedule", "[generate][model]") {
  const noise_level noisy = rectified_flow().at(1), clean = rectified_flow().at(0);
  const affine velocity = conversion(predicts::velocity, predicts::data, noisy);  // data = x - velocity
  CHECK(velocity.x == 1);
  CHECK(velocity.p == -1);
  CHECK(conversion(predicts::data, predicts::noise, noisy).x == 1);  // at alpha = 0 the state is the noise
  CHECK(!std::isfinite(conversion(predicts::noise, predicts::data, noisy).p));
  CHECK(!std::isfinite(conversion(predicts::data, predicts::noise, clean).p));
  CHECK(conversion(predicts::noise, predicts::data, clean).x == 1);  // at sigma = 0 the state is the data
  CHECK(conversion(predicts::noise, predicts::noise, noisy).p == 1);
}

TEST_CASE("model: a prediction converts in place, without allocation", "[generate][model]") {
  const noise_level l = vp_linear().at(0.5);
  const Eigen::ArrayXf x = Eigen::ArrayXf::LinSpaced(33, -2, 2);
  Eigen::ArrayXf out = Eigen::ArrayXf::Zero(33);
  int calls = 0;
  auto model = prediction<predicts::noise>([&calls](const auto& state, const noise_level&, auto& p) {
    ++calls;
    p = 0.5f * state;
  });
  const auto allocated = support::allocations_in([&] { model(x, l, out, predicts::data); });
  CHECK(allocated == 0);
  CHECK((out - (x - static_cast<float>(l.sigma) * 0.5f * x) / static_cast<float>(l.alpha)).abs().maxCoeff() < 1e-5f);
  model(x, l, out, predicts::noise);
  CHECK((out == 0.5f * x).all());
  CHECK(calls == 2);
}

TEST_CASE("model: one level for each sample", "[generate][model]") {
  const std::vector<noise_level> levels{vp_linear().at(0.2), vp_linear().at(0.7)};
  struct rows {
    void operator()(const Eigen::MatrixXd& x, std::span<const noise_level> level, Eigen::MatrixXd& out) const {
      for (Eigen::Index j = 0; j < x.cols(); ++j) out.col(j) = level[static_cast<std::size_t>(j)].sigma * x.col(j);
    }
    void operator()(const Eigen::MatrixXd& x, const noise_level& level, Eigen::MatrixXd& out) const {
      out = level.sigma * x;
    }
  };
  auto model = prediction<predicts::noise>(rows{});
  const Eigen::MatrixXd x = Eigen::MatrixXd::Constant(3, 2, 0.5);
  Eigen::MatrixXd out(3, 2), alone(3, 2);
  model(x, std::span<const noise_level>(levels), out, predicts::data);
  for (Eigen::Index j = 0; j < 2; ++j) {
    model(x, levels[static_cast<std::size_t>(j)], alone, predicts::data);
    CHECK((out.col(j).array() == alone.col(j).array()).all());
  }
}

TEST_CASE("model: EDM's preconditioning around a raw network", "[generate][model]") {
  // For data N(0, d^2) the best network is 0: data = c_skip y is the exact denoiser.
  const double d = 0.5;
  const noise_level l = vp_linear().at(0.5);
  const Eigen::VectorXd x = Eigen::VectorXd::LinSpaced(5, -2, 2);
  Eigen::VectorXd out(5);
  auto zero = edm_preconditioned([](const Eigen::VectorXd&, double, Eigen::VectorXd& f) { f.setZero(); }, x, d);
  const auto allocated = support::allocations_in([&] { zero(x, l, out, predicts::data); });
  CHECK(allocated == 0);
  const double gain = l.alpha * d * d / (l.alpha * l.alpha * d * d + l.sigma * l.sigma);
  CHECK((out - gain * x).norm() < 1e-15);
  double told = 0;
  auto network = edm_preconditioned(
      [&](const Eigen::VectorXd& scaled, double c_noise, Eigen::VectorXd& f) {
        told = c_noise;
        f = 2 * scaled;
      },
      x, d);
  network(x, l, out, predicts::noise);
  CHECK(told == Approx(std::log(l.kappa()) / 4));
  const double k = l.kappa(), v = k * k + d * d;
  const Eigen::VectorXd y = x / l.alpha, data = d * d / v * y + k * d / std::sqrt(v) * 2 * y / std::sqrt(v);
  CHECK((out - (y - data) / k).norm() < 1e-14);
  SLUICE_CHECK_THROWS(edm_preconditioned(0, x, 0), "edm_preconditioned", "sigma_data", -1);
}

TEST_CASE("guidance: weights 1 and 0 are the models themselves, to the bit", "[generate][guidance]") {
  const noise_level l = vp_linear().at(0.6);
  const Eigen::VectorXd x = Eigen::VectorXd::LinSpaced(9, -1, 2);
  Eigen::VectorXd out(9), alone(9);
  for (const predicts want : {predicts::noise, predicts::data, predicts::velocity}) {
    auto conditional = towards(2), unconditional = towards(0);
    auto one = guided(conditional, unconditional, x, 1.0), none = guided(conditional, unconditional, x, 0);
    one(x, l, out, want);
    conditional(x, l, alone, want);
    CHECK((out.array() == alone.array()).all());
    CHECK(one.counts().unconditional == 0);
    none(x, l, out, want);
    unconditional(x, l, alone, want);
    CHECK((out.array() == alone.array()).all());
    CHECK(none.counts().conditional == 0);
  }
}

TEST_CASE("guidance: the same mixture in every form", "[generate][guidance]") {
  const noise_level l = vp_linear().at(0.6);
  const Eigen::VectorXd x = Eigen::VectorXd::LinSpaced(9, -1, 2);
  Eigen::VectorXd data(9), c(9), u(9), other(9);
  auto model = guided(towards(2), towards(0), x, 2.5);
  CHECK(support::allocations_in([&] { model(x, l, data, predicts::data); }) == 0);
  towards(2)(x, l, c, predicts::data);
  towards(0)(x, l, u, predicts::data);
  CHECK((data - (u + 2.5 * (c - u))).norm() < 1e-14);
  for (const predicts want : forms) {
    model(x, l, other, want);
    const affine k = conversion(predicts::data, want, l);
    CHECK((other - (k.x * x + k.p * data)).norm() < 1e-12);
  }
}

TEST_CASE("guidance: in an interval of noise levels only", "[generate][guidance]") {
  const Eigen::VectorXd x = Eigen::VectorXd::Ones(2);
  Eigen::VectorXd out(2);
  auto model = guided(towards(2), towards(0), x, interval_weight{3, 0.5, 2});
  for (const double kappa : {3.0, 2.0, 1.0, 0.5, 0.1}) model(x, edm().at(kappa), out, predicts::data);
  CHECK(model.counts().conditional == 5);
  CHECK(model.counts().unconditional == 2);  // at 2 and at 1
}

TEST_CASE("guidance: CFG++ measures the residual noise without the condition", "[generate][guidance]") {
  const auto levels = log_snr_levels(vp_linear(), 5, 1, 1e-3);
  const double w = 0.7;
  const Eigen::VectorXd start = Eigen::VectorXd::LinSpaced(4, -1, 2);
  Eigen::VectorXd x = start, y = start, c(4), u(4);
  auto model = guided(towards(2), towards(-1), x, cfg_plus_plus(levels, w));
  auto stepper = heun{.order = 1}.bind(x, levels);
  for (index_t i = 0; i < 5; ++i) {
    const noise_level &s = levels[static_cast<std::size_t>(i)], &t = levels[static_cast<std::size_t>(i + 1)];
    stepper.step(model, x, i);
    towards(2)(y, s, c, predicts::data);
    towards(-1)(y, s, u, predicts::data);
    y = t.alpha * (u + w * (c - u) + t.kappa() / s.kappa() * (y / s.alpha - u));
    CHECK((x - y).norm() < 1e-12);
  }
  // Between two levels it is the weight of the step that contains it; the step to 0 has weight w.
  const auto to_zero = edm_levels({4.0, 2.0, 0.0});
  const cfg_plus_plus weight(to_zero, w);
  CHECK(weight(edm().at(4)) == Approx(w / (1 - 0.5)));
  CHECK(weight(edm().at(3)) == Approx(w / (1 - 0.5)));
  CHECK(weight(edm().at(2)) == w);
  CHECK(weight(edm().at(1)) == w);
}

TEST_CASE("guidance: bad arguments", "[generate][guidance]") {
  const Eigen::VectorXd x = Eigen::VectorXd::Ones(2);
  constexpr double infinite = std::numeric_limits<double>::infinity();
  SLUICE_CHECK_THROWS(guided(towards(1), towards(0), x, infinite), "guided", "weight", -1);
  SLUICE_CHECK_THROWS(cfg_plus_plus(edm_levels({2.0, 1.0}), -1), "cfg_plus_plus", "w", -1);
  SLUICE_CHECK_THROWS(cfg_plus_plus(edm_levels({2.0}), 1), "cfg_plus_plus", "levels.size", -1);
  SLUICE_CHECK_THROWS(cfg_plus_plus(edm_levels({1.0, 2.0}), 1), "cfg_plus_plus", "levels.kappa", 1);
}
