// Fails for: data remembered instead of noise; the mixed value in the history; the noise converted at the level of the
// step's end; the first step mixed; stages mixed; tau = first taken for previous; a ramp over N instead of N - 1; c = 0
// that is not the solver itself; a state without the remembered prediction.
#include <sluice/generate/ddim.hpp>
#include <sluice/generate/dpm_solver.hpp>
#include <sluice/generate/dualfast.hpp>
#include <sluice/generate/guidance.hpp>
#include <sluice/generate/heun.hpp>
#include <sluice/generate/sample.hpp>
#include <sluice/generate/schedule.hpp>
#include <sluice/generate/time_grid.hpp>
#include <sluice/generate/unipc.hpp>
#include <sluice/models/gaussian.hpp>
#include <sluice/models/gaussian_mixture.hpp>
#include <sluice/models/mixture_1d.hpp>

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

models::gaussian_mixture mixture() {
  Eigen::MatrixXd means(3, 3);
  means << 1, -1.2, 0.2, -0.5, 0.8, 0.1, 0.3, 0.1, -1.5;
  return {Eigen::Vector3d(0.3, 0.5, 0.2), means, Eigen::Vector3d(0.05, 0.1, 0.02).cwiseSqrt()};
}
auto mixture_model() { return prediction<predicts::data>(mixture()); }
const Eigen::Vector3d start(0.3, -1.2, 0.8);

template <class Recipe>
Eigen::VectorXd end_of(const Recipe& recipe, std::span<const noise_level> levels) {
  Eigen::VectorXd x = start;
  auto model = mixture_model();
  const auto r = sample(recipe, model, x, levels);
  REQUIRE(r.status == status::completed);
  return x;
}
std::vector<noise_level> quadratic(index_t n) { return quadratic_levels(vp_linear(), n, 1, 1e-3); }

using two_m = dpm_multistep<2>;

/// RMS error on the one-dimensional mixture of deis.md from 400 quantiles of the start.
template <class Recipe>
double error_on_mixture(const Recipe& recipe, std::span<const noise_level> levels) {
  const models::mixture_1d data(Eigen::Vector3d(0.25, 0.45, 0.3), Eigen::Vector3d(-2, 0.3, 1.7),
                                Eigen::Vector3d(0.04, 0.09, 0.01).cwiseSqrt());
  Eigen::VectorXd x(400), exact(400);
  for (Eigen::Index i = 0; i < 400; ++i) {
    // Quantiles of N(0, 1) from those of a mixture of one component.
    const models::mixture_1d normal(Eigen::VectorXd::Ones(1), Eigen::VectorXd::Zero(1), Eigen::VectorXd::Ones(1));
    x(i) = normal.quantile((static_cast<double>(i) + 0.5) / 400, noise_level{0, 1, 0});
  }
  data.flow_map(exact, x, levels.front(), levels.back());
  auto model = prediction<predicts::data>(std::cref(data));
  REQUIRE(sample(recipe, model, x, levels).status == status::completed);
  return std::sqrt((x - exact).squaredNorm() / 400);
}

}  // namespace

TEST_CASE("dualfast: without mixing it is the solver itself, to the bit", "[generate][dualfast]") {
  const auto levels = quadratic(7);
  const auto same = [&](const auto& recipe, const auto& wrapped) {
    CHECK((end_of(recipe, levels).array() == end_of(wrapped, levels).array()).all());
  };
  same(ddim<>{}, dualfast<ddim<>>{.c = 0});
  same(heun{}, dualfast<heun>{.c = 0});
  same(two_m{}, dualfast<two_m>{.c = 0});
  same(two_m{}, dualfast<two_m, mixing::everywhere>{.c = 0});
  same(dpm_singlestep<2, vp_linear>{}, dualfast<dpm_singlestep<2, vp_linear>>{.c = 0});
  same(unipc<2>{}, dualfast<unipc<2>>{.c = 0});
  same(unipc<2>{}, dualfast<unipc<2>>{});  // off above six steps by default
  const auto one = quadratic(1);
  CHECK((end_of(two_m{}, one).array() == end_of(dualfast<two_m>{.c = 1}, one).array()).all());
}

TEST_CASE("dualfast: DDIM becomes Adams-Bashforth", "[generate][dualfast]") {
  for (const auto& levels : {quadratic(9), log_snr_levels(vp_linear(), 9, 1, 1e-3), karras_levels(9),
                             uniform_levels(rectified_flow(), 9, 0.99, 0.01)}) {
    Eigen::VectorXd x = start, e(3), before(3);
    auto model = mixture_model();
    for (std::size_t i = 0; i + 1 < levels.size(); ++i) {
      const noise_level &s = levels[i], &t = levels[i + 1];
      model(x, s, e, predicts::noise);
      const double h = t.kappa() - s.kappa();
      Eigen::VectorXd slope = e;
      if (i > 0) slope += h / (2 * (s.kappa() - levels[i - 1].kappa())) * (e - before);
      x = t.alpha * (x / s.alpha + h * slope);
      before = e;
    }
    const dualfast<ddim<>> recipe{.coefficients = adams_bashforth_coefficients(levels)};
    CHECK((end_of(recipe, levels) - x).norm() < 1e-12);
  }
  // On an even grid in lambda c = 1/2 is DPM-Solver-2M in the form of noise.
  const auto even = log_snr_levels(vp_linear(), 12, 1, 1e-3);
  const two_m other{.form = predicts::noise, .lower_order_final = false};
  CHECK((end_of(dualfast<ddim<>>{}, even) - end_of(other, even)).norm() < 1e-12);
}

TEST_CASE("dualfast: a constant noise prediction leaves nothing to mix", "[generate][dualfast]") {
  const auto levels = quadratic(8);
  const Eigen::Vector3d e(0.3, -0.2, 0.9);
  auto model = prediction<predicts::noise>([&](const auto&, const noise_level&, auto& out) { out = e; });
  const auto run = [&](double c, auto recipe) {
    Eigen::VectorXd x = start;
    dualfast<decltype(recipe)> wrapped{.recipe = recipe, .c = c};
    static_cast<void>(sample(wrapped, model, x, levels));
    return x;
  };
  for (const double c : {-0.5, 0.3, 2.0}) {
    CHECK((run(c, ddim<>{}) - run(0, ddim<>{})).norm() < 1e-13);
    // 1/alpha = 152 at the first level multiplies rounding.
    CHECK((run(c, two_m{}) - run(0, two_m{})).norm() < 152 * 1e-14);
    CHECK((run(c, unipc<3>{}) - run(0, unipc<3>{})).norm() < 152 * 1e-14);
    const two_m noise{.form = predicts::noise};
    CHECK((run(c, noise) - run(0, noise)).norm() < 152 * 1e-14);
  }
}

TEST_CASE("dualfast: data and noise mix alike; the two modes agree where there is one term", "[generate][dualfast]") {
  const auto levels = quadratic(7);
  const dualfast<ddim<>> data{.c = 0.4};
  const dualfast<heun> noise{.recipe = {1}, .c = 0.4};
  CHECK((end_of(data, levels) - end_of(noise, levels)).norm() < 1e-13);
  CHECK((end_of(data, levels) - end_of(dualfast<ddim<>, mixing::everywhere>{.c = 0.4}, levels)).norm() < 1e-13);
  const double apart =
      (end_of(dualfast<two_m>{.c = 0.4}, levels) - end_of(dualfast<two_m, mixing::everywhere>{.c = 0.4}, levels))
          .norm();
  CHECK(apart > 1e-3);
}

TEST_CASE("dualfast: one step written out", "[generate][dualfast]") {
  const auto levels = quadratic(6);
  auto model = mixture_model();
  for (const earlier_prediction reference : {earlier_prediction::previous, earlier_prediction::first}) {
    const dualfast<two_m> recipe{.c = 0.7, .ramp = mixing_ramp::up, .reference = reference, .measure = true};
    Eigen::VectorXd x = start;
    auto stepper = recipe.bind(x, levels);
    CHECK(stepper.coefficients()[5] == Approx(0.7));
    CHECK(stepper.coefficients()[1] == Approx(0.14));
    std::vector<Eigen::VectorXd> e, d;
    for (index_t i = 0; i < 4; ++i) {
      const noise_level &s = levels[static_cast<std::size_t>(i)], &t = levels[static_cast<std::size_t>(i + 1)];
      Eigen::VectorXd noise(3), data(3), expected;
      model(x, s, noise, predicts::noise);
      model(x, s, data, predicts::data);
      e.push_back(noise);
      d.push_back(data);
      const double c = i == 0 ? 0 : 0.14 * static_cast<double>(i), h = t.lambda() - s.lambda();
      const Eigen::VectorXd& earlier = i == 0 ? noise : reference == earlier_prediction::first ? e[0] : e[e.size() - 2];
      const Eigen::VectorXd mixed = data - s.kappa() * c * (noise - earlier);
      expected = t.sigma / s.sigma * x - t.alpha * std::expm1(-h) * mixed;
      if (i > 0) {
        const double r = (s.lambda() - levels[static_cast<std::size_t>(i - 1)].lambda()) / h;
        expected -= t.alpha * std::expm1(-h) / (2 * r) * (data - d[d.size() - 2]);
      }
      stepper.step(model, x, i);
      CHECK((x - expected).norm() < 1e-12);
      if (i > 0)
        CHECK(stepper.relative_mixing()[static_cast<std::size_t>(i)] ==
              Approx(c * (noise - earlier).norm() / noise.norm()).epsilon(1e-9));
    }
  }
}

TEST_CASE("dualfast: orders on a Gaussian", "[generate][dualfast]") {
  const models::gaussian data(Eigen::Vector3d(0.5, -1, 2), Eigen::Vector3d(0.25, 1, 0.04));
  const auto slope = [&](auto recipe_of) {
    std::array<double, 2> error{};
    for (std::size_t k = 0; k < 2; ++k) {
      const index_t n = k == 0 ? 40 : 160;
      const auto levels = log_snr_levels(vp_linear(), n, 1, 1e-3);
      Eigen::VectorXd x = start, exact(3);
      data.flow_map(exact, x, levels.front(), levels.back());
      auto model = prediction<predicts::data>(std::cref(data));
      static_cast<void>(sample(recipe_of(n, levels), model, x, levels));
      error[k] = (x - exact).norm();
    }
    return std::log(error[0] / error[1]) / std::log(4.0);
  };
  CHECK(slope([](index_t, const auto& levels) {
          return dualfast<ddim<>>{.coefficients = adams_bashforth_coefficients(levels)};
        }) > 1.8);
  CHECK(slope([](index_t, const auto&) { return dualfast<ddim<>>{}; }) == Approx(2).margin(0.1));
  CHECK(slope([](index_t, const auto&) { return dualfast<two_m>{.c = 0.2}; }) == Approx(1.07).margin(0.1));
  CHECK(slope([](index_t, const auto&) { return dualfast<two_m>{}; }) == Approx(2).margin(0.1));  // 2/n
}

TEST_CASE("dualfast: the figures of its page", "[generate][dualfast]") {
  const auto levels = quadratic(10);
  CHECK(error_on_mixture(ddim<>{}, levels) == Approx(0.291).margin(0.005));
  CHECK(error_on_mixture(dualfast<ddim<>>{}, levels) == Approx(0.113).margin(0.005));
  CHECK(error_on_mixture(two_m{}, levels) == Approx(0.111).margin(0.005));
  CHECK(error_on_mixture(dualfast<two_m>{}, levels) == Approx(0.068).margin(0.005));
}

TEST_CASE("dualfast: turned data give turned samples, guidance comes before the mixing", "[generate][dualfast]") {
  const auto levels = quadratic(7);
  Eigen::Matrix3d turn;
  turn << 0.6, -0.8, 0, 0.8, 0.6, 0, 0, 0, 1;
  const auto m = mixture();
  const models::gaussian_mixture turned(m.weights(), turn * m.means(), m.sd());
  auto model = prediction<predicts::data>(turned);
  Eigen::VectorXd x = turn * start;
  static_cast<void>(sample(dualfast<two_m>{.c = 0.3}, model, x, levels));
  CHECK((x - turn * end_of(dualfast<two_m>{.c = 0.3}, levels)).norm() < 1e-12);

  Eigen::VectorXd y = start, z = start;
  auto both = guided(mixture_model(), prediction<predicts::data>(turned), y, 1.0);
  static_cast<void>(sample(dualfast<two_m>{.c = 0.3}, both, y, levels));
  CHECK((y.array() == end_of(dualfast<two_m>{.c = 0.3}, levels).array()).all());
}

TEST_CASE("dualfast: half-way state, evaluations, no allocation", "[generate][dualfast]") {
  const auto levels = quadratic(8);
  int calls = 0;
  auto counted = prediction<predicts::data>([&, m = mixture()](const auto& x, const noise_level& l, auto& out) {
    ++calls;
    m(x, l, out);
  });
  const auto check = [&](const auto& recipe) {
    Eigen::VectorXd x = start;
    auto stepper = recipe.bind(x, levels);
    stepper.step(counted, x, 0);
    for (index_t i = 1; i < 4; ++i) {
      const auto before = calls;
      const std::int64_t cost = stepper.evaluations(i);
      const auto allocated = support::allocations_in([&] { stepper.step(counted, x, i); });
      CHECK(allocated == 0);
      CHECK(calls - before == cost);
    }
    Eigen::VectorXd y = x;
    auto other = recipe.bind(y, levels);
    other.restore(stepper.state());
    for (index_t i = 4; i < 8; ++i) {
      stepper.step(counted, x, i);
      other.step(counted, y, i);
    }
    CHECK((x.array() == y.array()).all());
    Eigen::VectorXd again = start;
    stepper.reset();
    for (index_t i = 0; i < 8; ++i) stepper.step(counted, again, i);
    CHECK((again.array() == x.array()).all());
  };
  check(dualfast<ddim<>>{});
  check(dualfast<two_m>{.c = 0.3, .reference = earlier_prediction::first});
  check(dualfast<two_m, mixing::everywhere>{.c = 0.3});
  check(dualfast<unipc<3>>{.c = 0.1});
  check(dualfast<dpm_singlestep<3, vp_linear>>{.c = 0.1});
  check(dualfast<heun>{.c = 0.1});
  check(dualfast<dualfast<two_m>>{.recipe = {.c = 0.1}, .c = 0.2});
}

TEST_CASE("dualfast: bad arguments", "[generate][dualfast]") {
  const auto levels = quadratic(4);
  const Eigen::VectorXd x = start;
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  SLUICE_CHECK_THROWS((dualfast<ddim<>>{.c = 2.1}.bind(x, levels)), "dualfast", "c", -1);
  SLUICE_CHECK_THROWS((dualfast<ddim<>>{.c = -0.6}.bind(x, levels)), "dualfast", "c", -1);
  SLUICE_CHECK_THROWS((dualfast<ddim<>>{.c = nan}.bind(x, levels)), "dualfast", "c", -1);
  SLUICE_CHECK_THROWS((dualfast<ddim<>>{.coefficients = {0, 1}}.bind(x, levels)), "dualfast", "coefficients.size", -1);
  SLUICE_CHECK_THROWS((dualfast<ddim<>>{.coefficients = {0, 1, nan, 0}}.bind(x, levels)), "dualfast", "coefficients",
                      2);
  SLUICE_CHECK_THROWS((dualfast<heun, mixing::everywhere>{}.bind(x, levels)), "dualfast", "recipe.evaluations", -1);
  SLUICE_CHECK_THROWS((dualfast<ddim<>>{}.bind(x, {})), "dualfast", "levels.size", -1);
  SLUICE_CHECK_THROWS(mixing_coefficients(0, 0.5), "mixing_coefficients", "n", -1);
  CHECK((dualfast<ddim<>>{.coefficients = {1, 1, 1, 1}}.bind(x, quadratic(4)).coefficients()[0]) == 0);
}
