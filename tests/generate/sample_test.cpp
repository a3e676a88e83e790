// Fails for: Euler's h/2; a corrector at s instead of t, or at x instead of z; a wrong factor in d; an evaluation left
// uncounted; a budget that is exceeded by the last step; a diverged state that is returned; noise that depends on the
// batch.
#include <sluice/generate/heun.hpp>
#include <sluice/generate/noise.hpp>
#include <sluice/generate/sample.hpp>
#include <sluice/generate/schedule.hpp>
#include <sluice/generate/time_grid.hpp>

#include <Eigen/Core>
#include <catch2/catch.hpp>
#include <cmath>
#include <concepts>
#include <limits>
#include <sluice/core/eigen_tensor.hpp>
#include <span>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <vector>

using namespace sluice;

namespace {

constexpr double variance = 0.25;

/// The exact model of N(0, variance I), which counts its calls.
struct gaussian {
  int* calls = nullptr;
  template <class X, class O>
  void operator()(const X& x, const noise_level& l, O& out) const {
    if (calls != nullptr) ++*calls;
    lincomb(out, l.alpha * variance / (l.alpha * l.alpha * variance + l.sigma * l.sigma), x);
  }
};
/// Its flow map from kappa to kappa', on x / alpha.
double flow(double from, double to) { return std::sqrt((variance + to * to) / (variance + from * from)); }

template <class X>
void set(X& x, int n) {
  for (int i = 0; i < n; ++i) traits_of<X>::elements(x)(i) = static_cast<scalar_t<X>>(0.25 * (i % 7) - 0.6);
}

static_assert(recipe_for<heun, Eigen::VectorXd, prediction_model<predicts::data, gaussian>>);
static_assert(recipe_for<heun, std::vector<float>, prediction_model<predicts::data, gaussian>>);
static_assert(recipe_for<heun, Eigen::Tensor<float, 3>, prediction_model<predicts::data, gaussian>>);
static_assert(recipe_for<heun, Eigen::Map<Eigen::MatrixXf>, prediction_model<predicts::data, gaussian>>);
static_assert(recipe_for<heun, std::span<double>, prediction_model<predicts::data, gaussian>>);

}  // namespace

TEMPLATE_TEST_CASE("heun: a point mass is reached exactly, whatever the step", "[generate][heun]", Eigen::VectorXd,
                   Eigen::ArrayXXf) {
  const TestType m = TestType::Random(8, 1), x0 = TestType::Random(8, 1);
  TestType x = x0;
  auto point_mass = prediction<predicts::data>([&](const auto&, const noise_level&, auto& out) { out = m; });
  heun{}.bind(x, edm_levels({2.0, 0.5})).step(point_mass, x, 0);
  const auto error = (x - (m + (x0 - m) / 4)).matrix().norm();
  CHECK(error <= 8 * std::numeric_limits<decltype(error)>::epsilon());
}

TEST_CASE("heun: second order, and first order without the corrector", "[generate][heun]") {
  const vp_linear s;
  const auto error = [&](int order, index_t n) {
    Eigen::VectorXd x(3);
    x << 0.3, -1.2, 0.8;
    const Eigen::VectorXd start = x / s.at(1).alpha;
    auto model = prediction<predicts::data>(gaussian{});
    const auto r = sample(heun{order}, model, x, log_snr_levels(s, n, 1, 1e-3));
    REQUIRE(r.status == status::completed);
    CHECK(r.stats.nfe == order * n);
    CHECK(r.stats.steps == n);
    return (x / s.at(1e-3).alpha - flow(s.at(1).kappa(), s.at(1e-3).kappa()) * start).norm();
  };
  CHECK(std::log2(error(1, 160) / error(1, 320)) == Approx(1).margin(0.1));
  CHECK(std::log2(error(2, 160) / error(2, 320)) == Approx(2).margin(0.1));
}

TEST_CASE("heun: samples have the data's mean and variance", "[generate][heun][statistical]") {
  constexpr double n = 1 << 16, z = 5.5;  // |z| > 5.5 by chance 4e-8 a check
  Eigen::VectorXd x(static_cast<Eigen::Index>(n));
  fill_normal(x, stream{20240607}, std::sqrt(variance + 80.0 * 80.0));
  int calls = 0;
  const auto r = sample(heun{}, prediction<predicts::data>(gaussian{&calls}), x, karras_levels(64, 2e-3, 80.0));
  CHECK(r.status == status::completed);
  CHECK(r.stats.nfe == 2 * 64 - 1);
  CHECK(calls == 2 * 64 - 1);
  CHECK(std::abs(x.mean()) < z * std::sqrt(variance / n));
  CHECK(std::abs(x.squaredNorm() / n / variance - 1) < z * std::sqrt(2 / n));
}

TEMPLATE_TEST_CASE("heun: every kind of tensor gives the same numbers, without allocation in a step",
                   "[generate][heun]", Eigen::VectorXd, std::vector<double>, std::span<double>,
                   Eigen::Map<Eigen::VectorXd>, (Eigen::Tensor<double, 1>)) {
  constexpr int n = 21;
  std::vector<double> memory(n);
  auto make = [&]() -> TestType {
    if constexpr (std::same_as<TestType, std::span<double>> || std::same_as<TestType, Eigen::Map<Eigen::VectorXd>>)
      return TestType(memory.data(), n);
    else
      return TestType(n);
  };
  TestType x = make();
  set(x, n);
  Eigen::VectorXd reference(n);
  set(reference, n);
  const auto levels = log_snr_levels(vp_linear(), 5, 1, 1e-3);
  auto model = prediction<predicts::data>(gaussian{});
  auto stepper = heun{}.bind(x, levels);
  auto other = heun{}.bind(reference, levels);
  const auto allocated = support::allocations_in([&] {
    for (index_t i = 0; i < 5; ++i) stepper.step(model, x, i);
  });
  CHECK(allocated == 0);
  for (index_t i = 0; i < 5; ++i) other.step(model, reference, i);
  for (int i = 0; i < n; ++i) CHECK(traits_of<TestType>::elements(x)(i) == reference(i));
}

TEST_CASE("sample: stops before the budget is exceeded", "[generate][sample]") {
  const auto levels = karras_levels(8);
  int calls = 0;
  Eigen::VectorXd x = Eigen::VectorXd::Constant(4, 3.0);
  const auto r = sample(heun{}, prediction<predicts::data>(gaussian{&calls}), x, levels, {.max_nfe = 5});
  CHECK(r.status == status::budget_exhausted);
  CHECK(r.stats.nfe == 4);
  CHECK(calls == 4);
  CHECK(r.stats.steps == 2);
  CHECK(r.stats.stopped.step == 2);
  Eigen::VectorXd two = Eigen::VectorXd::Constant(4, 3.0);
  const auto all = sample(heun{}, prediction<predicts::data>(gaussian{}), two, std::span(levels).first(3));
  CHECK(all.status == status::completed);
  CHECK((x.array() == two.array()).all());
}

TEST_CASE("sample: a model that fails leaves the last good state", "[generate][sample]") {
  const auto levels = karras_levels(6);
  int calls = 0;
  auto breaks = prediction<predicts::data>([&](const auto& x, const noise_level& l, auto& out) {
    gaussian{}(x, l, out);
    if (++calls == 4) out(1) = std::numeric_limits<double>::quiet_NaN();
  });
  Eigen::VectorXd x = Eigen::VectorXd::Constant(4, 3.0), good = x;
  const auto r = sample(heun{}, breaks, x, levels);
  CHECK(r.status == status::diverged);
  CHECK(r.stats.stopped.step == 1);
  CHECK(r.stats.steps == 1);
  auto model = prediction<predicts::data>(gaussian{});
  heun{}.bind(good, levels).step(model, good, 0);
  CHECK((x.array() == good.array()).all());
}

TEST_CASE("sample: an observer sees every state and may stop", "[generate][sample]") {
  const auto levels = karras_levels(6);
  std::vector<double> seen;
  Eigen::VectorXd x = Eigen::VectorXd::Constant(4, 3.0);
  const auto r = sample(heun{}, prediction<predicts::data>(gaussian{}), x, levels, {},
                        [&](index_t i, const noise_level& l, const Eigen::VectorXd& state) {
                          CHECK(l == levels[static_cast<std::size_t>(i)]);
                          seen.push_back(state(0));
                          return i < 3;
                        });
  CHECK(r.status == status::stopped_by_observer);
  CHECK(r.stats.steps == 3);
  CHECK(seen.size() == 3);
  CHECK(seen.back() == x(0));
}

TEST_CASE("sample: empty batches, one level, one step", "[generate][sample]") {
  auto model = prediction<predicts::data>(gaussian{});
  Eigen::MatrixXd none(4, 0);
  CHECK(sample(heun{}, model, none, karras_levels(3)).status == status::completed);
  Eigen::VectorXd x = Eigen::VectorXd::Ones(1);
  CHECK(sample(heun{}, model, x, edm_levels({2.0})).stats.nfe == 0);
  CHECK(x(0) == 1);
  CHECK(sample(heun{}, model, x, edm_levels({2.0, 0.0})).stats.nfe == 1);
  CHECK(x(0) == Approx(variance / (variance + 4)).epsilon(1e-14));  // one jump is the denoised state
}

TEST_CASE("noise: a sample has the same numbers in every batch", "[generate][noise]") {
  const step_noise noise{stream{5}};
  const noise_level l{};
  Eigen::MatrixXd batch(7, 4), part(7, 2);
  Eigen::VectorXf alone(7);
  noise(batch, 3, l, l);
  step_noise{stream{5}, 2}(part, 3, l, l);
  step_noise{stream{5}, 3}(alone, 3, l, l);
  CHECK((batch.rightCols(2).array() == part.array()).all());
  CHECK((batch.col(3).cast<float>().array() == alone.array()).all());
  CHECK(batch(2, 1) == normal_at(stream{5}.derive(1).derive(3), 2));
  Eigen::MatrixXd start(7, 4);
  fill_start(start, edm().at(3), stream{5}, 1);
  CHECK(start(6, 2) == 3 * normal_at(stream{5}.derive(3), 6));
}

TEST_CASE("sample: bad arguments change nothing", "[generate][sample]") {
  Eigen::VectorXd x = Eigen::VectorXd::Ones(2);
  auto model = prediction<predicts::data>(gaussian{});
  SLUICE_CHECK_THROWS(sample(heun{}, model, x, std::vector<noise_level>{}), "sample", "levels.size", -1);
  SLUICE_CHECK_THROWS(sample(heun{}, model, x, karras_levels(3), {.max_nfe = -1}), "sample", "options.max_nfe", -1);
  SLUICE_CHECK_THROWS(sample(heun{3}, model, x, karras_levels(3)), "heun", "order", -1);
  SLUICE_CHECK_THROWS(sample(heun{}, model, x, edm_levels({1.0, 2.0})), "heun", "levels.kappa", 1);
  SLUICE_CHECK_THROWS(sample(heun{}, model, x, uniform_levels(rectified_flow(), 3, 1, 0)), "heun", "levels.alpha", 0);
  SLUICE_CHECK_THROWS(sample(heun{}, model, x, std::vector<noise_level>{{1, 1, -1}}), "heun", "levels.sigma", 0);
  CHECK((x.array() == 1).all());
}
