// Fails for: grids that are not shifted at their ends, or by 1/s instead of s; f instead of 1/f on the way down, or f^2
// on the way up; a noisy state that is interpolated; added noise that keeps its block averages, or is of the old level;
// q of the wrong c; the state not rescaled by alpha'/alpha, or the estimate by alpha'; tau of another boundary; the
// estimate at the wrong level, or the state taken for it; a solver that is not reset; a stage that sees the other
// model; the starting noise used again; a call or time that is not booked where it is due; a level reported one step
// late; a state that is not restored; a result of the wrong size taken as it is; a stage of no steps in front that is
// run.
#include <Eigen/Core>
#include <catch2/catch.hpp>
#include <chrono>
#include <cmath>
#include <limits>
#include <sluice/generate/bottleneck.hpp>
#include <sluice/generate/ddim.hpp>
#include <sluice/generate/dpm_solver.hpp>
#include <sluice/generate/dualfast.hpp>
#include <sluice/generate/guidance.hpp>
#include <sluice/generate/heun.hpp>
#include <sluice/generate/unipc.hpp>
#include <sluice/models/texture_mixture.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <vector>

using namespace sluice;

namespace {

using matrix = Eigen::MatrixXd;
using models::texture_law;
using models::texture_mixture;
using models::token_mixing;

constexpr index_t side = 8;
constexpr image_shape whole{1, side, side};
const stream key{20250318};

const texture_law& law(index_t factor) {
  static const texture_law high = models::benchmark_textures(side), low = models::low_resolution(high),
                           lowest = models::low_resolution(low);
  return factor == 1 ? high : factor == 2 ? low : lowest;
}

/// The exact denoiser of one resolution; counts its calls, refuses any other size.
struct denoiser {
  explicit denoiser(index_t factor) : f(law(factor), token_mixing::separable) {}
  template <class X, class O>
  void operator()(const X& x, const noise_level& l, O& out) {
    ++calls;
    f(x, l, out);
  }
  texture_mixture<> f;
  std::int64_t calls = 0;
};
struct pair_of_models {
  denoiser high{1}, low{2};
  auto operator()() {
    return by_factor<1, 2>(prediction<predicts::data>(std::ref(high)), prediction<predicts::data>(std::ref(low)));
  }
};
/// One model for all sizes.
struct any_size {
  denoiser* of[3];
  template <class X, class O>
  void operator()(const X& x, const noise_level& l, O& out) {
    (*of[x.rows() == 64 ? 0 : x.rows() == 16 ? 1 : 2])(x, l, out);
  }
};

template <class Recipe, class Transition = exact_transition>
bottleneck<Recipe, Transition> plan_of(std::vector<bottleneck_stage> stages, Recipe recipe = {},
                                       Transition transition = {}) {
  return {.recipe = recipe, .image = whole, .stages = std::move(stages), .transition = std::move(transition)};
}
const std::vector<bottleneck_stage> short_plan = high_low_high({3, 4, 3});
const std::vector<bottleneck_stage> paper_plan = high_low_high({3, 4, 3}, 0.8, 0.2);

template <class B>
bottleneck_result run(const B& plan, matrix& x, stream noise = key) {
  pair_of_models models;
  auto r = sample(plan, models(), x, {}, noise);
  CHECK(r.status == status::completed);
  CHECK(r.calls(1) == models.high.calls);
  CHECK(r.calls(2) == models.low.calls);
  CHECK(r.stats.nfe == models.high.calls + models.low.calls);
  return r;
}

/// The largest deviation of the empirical covariance of the columns from variance * identity, in units of variance,
/// and of the mean from m, in units of the standard deviation.
struct deviation {
  double covariance, mean;
};
deviation from_white(const matrix& x, const Eigen::VectorXd& m, double variance) {
  const double n = static_cast<double>(x.cols());
  const Eigen::VectorXd mean = x.rowwise().mean() - m;
  const matrix centred = x.colwise() - m;
  const matrix c = centred * centred.transpose() / n / variance;
  return {(c - matrix::Identity(x.rows(), x.rows())).cwiseAbs().maxCoeff(),
          mean.cwiseAbs().maxCoeff() / std::sqrt(variance)};
}
matrix white(index_t rows, index_t cols, std::uint64_t seed) {
  matrix x(rows, cols);
  for (index_t j = 0; j < cols; ++j) fill_normal(x.col(j), stream(seed).derive(static_cast<std::uint64_t>(j)));
  return x;
}
/// Applies a policy as the driver does.
template <class T>
matrix apply(const T& policy, const matrix& x, const image_shape& from, index_t f, index_t t, const noise_level& level,
             const noise_level& restart, std::uint64_t seed) {
  const image_shape to{from.channels, from.height * f / t, from.width * f / t};
  matrix y(to.size(), x.cols());
  auto change = policy.template bind<double>({from, to, f, t, level, restart});
  change(y, x, x, y, [&](matrix& out) { out = white(out.rows(), out.cols(), seed); });
  return y;
}

/// What must not be done: the noisy state resized by interpolation, at the same level.
struct interpolate_noisy_state {
  static constexpr data_source needs = data_source::none;
  double restart(const stage_boundary& b) const { return b.end; }
  template <class S>
  auto bind(const stage_change& c) const {
    return [resize = image_resizer<S>(c.from_shape, c.to_shape, bilinear_kernel{})](
               auto& to, const auto& from, const auto&, auto&, auto&&) mutable { resize(to, from); };
  }
};

/// DDIM that counts how often it is reset.
struct counts_resets {
  int* resets = nullptr;
  template <class X>
  struct stepper : ddim<>::stepper<X> {
    using base = ddim<>::stepper<X>;
    stepper(base b, int* n) : base(std::move(b)), count(n) {}
    void reset() {
      ++*count;
      base::reset();
    }
    int* count;
  };
  template <writable_tensor X>
  stepper<X> bind(const X& like, std::span<const noise_level> levels) const {
    return {ddim<>{}.bind(like, levels), resets};
  }
};

/// A clock that a test moves.
struct hand_clock {
  using rep = std::int64_t;
  using period = std::milli;
  using duration = std::chrono::milliseconds;
  using time_point = std::chrono::time_point<hand_clock>;
  static std::int64_t& ticks() {
    static std::int64_t t = 0;
    return t;
  }
  static time_point now() { return time_point(duration(ticks())); }
};

}  // namespace

TEST_CASE("bottleneck: grids hit their ends and fall", "[generate][bottleneck]") {
  for (const double s : {0.3, 1.0, 1.5, 3.0, 7.0})
    for (const auto& [from, to] : {std::pair{1.0, 0.0}, {1.0, 0.9}, {0.82, 0.4}, {0.57, 0.0}, {0.3, 0.2}})
      for (const index_t n : {1, 2, 7, 40}) {
        const auto u = stage_times(n, s, from, to);
        REQUIRE(std::ssize(u) == n + 1);
        CHECK(u.front() == from);
        CHECK(u.back() == to);
        for (std::size_t i = 1; i < u.size(); ++i) CHECK(u[i] < u[i - 1]);
        // Even in the unshifted time.
        const double a = time_shift(from, 1 / s), b = time_shift(to, 1 / s);
        for (std::size_t i = 0; i < u.size(); ++i)
          CHECK(time_shift(u[i], 1 / s) ==
                Approx(a + (b - a) * static_cast<double>(i) / static_cast<double>(n)).margin(1e-14));
      }
  for (const double a : {0.5, 2.0, 3.0})
    for (const double t : {0.0, 0.1, 0.5, 0.9, 1.0}) {
      CHECK(time_shift(time_shift(t, 2.0), a) == Approx(time_shift(t, 2 * a)).epsilon(1e-14));
      CHECK(time_shift(time_shift(t, a), 1 / a) == Approx(t).epsilon(1e-14));
    }
  SLUICE_CHECK_THROWS(stage_times(0, 1, 1, 0), "power_times", "n", -1);
  SLUICE_CHECK_THROWS(stage_times(2, 0, 1, 0), "time_shift", "s", -1);
  SLUICE_CHECK_THROWS(stage_times(2, 1, 1.1, 0), "stage_times", "from", -1);
  SLUICE_CHECK_THROWS(stage_times(2, 1, 0.5, 0.5), "stage_times", "to", -1);
}

TEST_CASE("bottleneck: flow times of every schedule", "[generate][bottleneck]") {
  const auto check = [](const auto& schedule, double most) {
    for (const double u : {0.01, 0.2, 0.5, 0.9, most}) {
      const noise_level l = level_at_flow_time(schedule, u);
      CHECK(flow_time(l) == Approx(u).epsilon(1e-13));
      CHECK(l.kappa() == Approx(u / (1 - u)).epsilon(1e-12));
    }
    CHECK(level_at_flow_time(schedule, 0).sigma == 0);
    CHECK(level_at_flow_time(schedule, 0).alpha == 1);
  };
  check(rectified_flow{}, 0.999);
  check(edm{}, 0.999);
  check(vp_linear{}, 0.99);
  check(vp_cosine{}, 0.99);
  check(vp_discrete::linear(), 0.99);
  CHECK(level_at_flow_time(rectified_flow{}, 1) == noise_level{1, 0, 1});
  SLUICE_CHECK_THROWS(level_at_flow_time(rectified_flow{}, 1.5), "level_at_flow_time", "u", -1);
  SLUICE_CHECK_THROWS(level_at_flow_time(edm{}, 1), "level_at_kappa", "kappa", -1);
}

TEST_CASE("bottleneck: what a plan costs", "[generate][bottleneck]") {
  CHECK(full_call_equivalents(high_low_high()) == 9.75);
  CHECK(full_call_equivalents(high_low_high(), 0.5) == 10.875);
  CHECK(full_call_equivalents(high_low_high(), 0) == 12);
  CHECK(full_call_equivalents(high_low_high(), 1, 1) == 9.75 + 1 + 1.0 / 16);
  CHECK(full_call_equivalents(low_high()) == 10);
  CHECK(full_call_equivalents(std::vector<bottleneck_stage>{{1, 0, 3, 0.9}, {2, 16, 1.5, 0.4}, {1, 9, 3, 0}}, 1, 1) ==
        10 + 1.0 / 16);
  CHECK(call_cost(4) == 1.0 / 256);
  CHECK(call_cost(1, 0.3) == 1);
  SLUICE_CHECK_THROWS(call_cost(0), "call_cost", "factor", -1);
  SLUICE_CHECK_THROWS(call_cost(2, 1.5), "call_cost", "p", -1);
}

TEST_CASE("bottleneck: exact transitions keep the noise white and the signal right",
          "[generate][bottleneck][statistical]") {
  constexpr index_t n = 200'000;
  const double z = 5.5, mean_limit = z / std::sqrt(double(n)), limit = z * std::sqrt(2.0 / double(n));
  const image_shape low{1, 2, 2}, high{1, 4, 4};
  const Eigen::VectorXd clean = white(16, 1, 1), coarse = white(4, 1, 2);
  Eigen::VectorXd pooled(4), copied(16);
  pool_blocks(pooled, clean, high, 2);
  copy_blocks(copied, coarse, high, 2);
  const auto check = [&](const auto& schedule, double u_down, double u_up) {
    const auto noisy = [&](const Eigen::VectorXd& x0, const noise_level& l, std::uint64_t seed) -> matrix {
      return (l.sigma * white(x0.size(), n, seed)).colwise() + l.alpha * x0;
    };
    const noise_level down_from = level_at_flow_time(schedule, u_down), up_from = level_at_flow_time(schedule, u_up);
    {
      const exact_transition policy;
      const double u = policy.restart({.index = 0, .count = 1, .end = u_down, .from = 1, .to = 2});
      const noise_level to = level_at_flow_time(schedule, u);
      CHECK(to.kappa() == Approx(down_from.kappa() / 2).epsilon(1e-12));
      const auto d = from_white(apply(policy, noisy(clean, down_from, 3), high, 1, 2, down_from, to, 4),
                                to.alpha * pooled, to.sigma * to.sigma);
      CHECK(d.covariance < limit);
      CHECK(d.mean < mean_limit);
    }
    const matrix x = noisy(coarse, up_from, 5);
    for (const double c : {0.0, 0.25, 0.1, 0.02}) {
      INFO("residual " << c);
      const exact_transition policy{.residual = c};
      const double u = policy.restart({.index = 0, .count = 1, .end = u_up, .from = 2, .to = 1});
      const noise_level to = level_at_flow_time(schedule, u);
      CHECK(to.kappa() == Approx(up_from.kappa() * (c == 0 ? 2 : 1 / std::sqrt(c))).epsilon(1e-12));
      const auto d = from_white(apply(policy, x, low, 2, 1, up_from, to, 6), to.alpha * copied, to.sigma * to.sigma);
      CHECK(d.covariance < limit);
      CHECK(d.mean < mean_limit);
    }
    // The wrong way: correlated noise.
    const matrix wrong = apply(interpolate_noisy_state{}, x, low, 2, 1, up_from, up_from, 6);
    CHECK(from_white(wrong, wrong.rowwise().mean(), up_from.sigma * up_from.sigma).covariance > 0.3);
  };
  check(rectified_flow{}, 0.9, 0.4);
  check(vp_linear{}, 0.8, 0.3);
}

TEST_CASE("bottleneck: down after up is the identity", "[generate][bottleneck]") {
  const exact_transition policy;
  for (const index_t f : {1, 2, 3, 4})
    for (const double u : {0.05, 0.4, 0.9, 0.999}) {
      const double up = policy.restart({.index = 0, .count = 1, .end = u, .from = f, .to = 1});
      const double back = policy.restart({.index = 0, .count = 1, .end = up, .from = 1, .to = f});
      CHECK(back == Approx(u).epsilon(1e-14));
      CHECK(exact_transition{.residual = 1 / double(f * f)}.restart(
                {.index = 0, .count = 1, .end = u, .from = f, .to = 1}) == Approx(up).epsilon(1e-14));
      if (f == 1) {
        CHECK(up == u);
        continue;
      }
      const rectified_flow flow;
      const image_shape low{2, 3, 5}, high{2, 3 * f, 5 * f};
      const matrix x = white(low.size(), 2, 9);
      const matrix y = apply(policy, x, low, f, 1, flow.at(u), flow.at(up), 10);
      const matrix same =
          apply(exact_transition{.residual = 1 / double(f * f)}, x, low, f, 1, flow.at(u), flow.at(up), 10);
      CHECK((same - y).cwiseAbs().maxCoeff() < 1e-7);  // 1 - c f^2 is rounding, and q its square root away from 1
      const matrix z = apply(policy, y, high, 1, f, flow.at(up), flow.at(u), 11);
      CHECK((z - x).cwiseAbs().maxCoeff() < 1e-14 * x.cwiseAbs().maxCoeff() + 1e-14);
    }
}

TEST_CASE("bottleneck: the block averages of images have the low-resolution law",
          "[generate][bottleneck][statistical]") {
  // White noise of variance v in an image is white of variance v/4 in its averages, and the spectra agree with that.
  texture_law flat = law(1);
  flat.spectrum.setConstant(0.7);
  CHECK((models::low_resolution(flat).spectrum.array() - 0.7 / 4).abs().maxCoeff() < 1e-15);
  const index_t first[] = {0}, n = 20'000;  // one class, since classes are told apart by frequencies that are few here
  const texture_mixture<> high(law(1).subset(first), token_mixing::separable),
      low(law(2).subset(first), token_mixing::separable);
  matrix x(64, n), averages(16, n);
  for (index_t j = 0; j < n; ++j) {
    cursor random(stream(77).derive(static_cast<std::uint64_t>(j)));
    x.col(j) = high.sample(random).first;
  }
  pool_blocks(averages, x, whole, 2);
  CHECK(low.quality(averages).relative_spectral_w2 < 0.02);
}

TEMPLATE_TEST_CASE("bottleneck: one stage is the solver alone, to the bit", "[generate][bottleneck]", ddim<>,
                   dpm_multistep<2>, unipc<2>, (dualfast<unipc<3>>), dualfast<dpm_multistep<2>>) {
  const auto plan = plan_of<TestType>({{1, 9, 3, 0}});
  pair_of_models models;
  auto model = prediction<predicts::data>(std::ref(models.high));
  matrix x(64, 3), alone(64, 3);
  const auto r = sample(plan, model, x, {}, key);
  step_noise{key}(alone, 0, {}, {});
  const auto s = sample(TestType{}, model, alone, levels_at(rectified_flow{}, shifted_times(9, 3)));
  CHECK(x == alone);
  CHECK(r.stats.nfe == s.stats.nfe);
  CHECK(r.stages.size() == 1);
  CHECK(r.stages[0].last.sigma == 0);

  Eigen::MatrixXf single(64, 3), single_alone(64, 3);
  REQUIRE(sample(plan, model, single, {}, key).status == status::completed);
  step_noise{key}(single_alone, 0, {}, {});
  REQUIRE(sample(TestType{}, model, single_alone, levels_at(rectified_flow{}, shifted_times(9, 3))).status ==
          status::completed);
  CHECK(single == single_alone);
}

TEST_CASE("bottleneck: every stage sees its model, and calls are counted", "[generate][bottleneck]") {
  matrix x(64, 2);
  const auto exact = run(plan_of<dpm_multistep<2>>(short_plan), x);
  CHECK(exact.calls(1) == 6);
  CHECK(exact.calls(2) == 4);
  CHECK(exact.stats.steps == 10);
  CHECK(full_call_equivalents(exact.stages) == 6.25);
  CHECK(exact.stages[0].first.t == 1);
  CHECK(exact.stages[0].last.t == 0.9);
  CHECK(exact.stages[1].first.t == Approx(0.9 / 1.1).epsilon(1e-14));
  CHECK(exact.stages[1].last.t == 0.4);
  CHECK(exact.stages[2].first.t == Approx(0.8 / 1.4).epsilon(1e-14));
  CHECK(exact.stages[2].last.t == 0);

  const auto paper = run(plan_of<dpm_multistep<2>>(paper_plan, {}, renoise_transition<>{}), x);
  CHECK(paper.calls(1) == 7);
  CHECK(paper.calls(2) == 5);
  CHECK(paper.stats.steps == 10);
  CHECK(paper.stages[0].calls == 4);
  CHECK(paper.stages[1].calls == 5);
  CHECK(paper.stages[1].first.t == 0.9);
  CHECK(paper.stages[2].first.t == 0.5);
  const auto reused =
      run(plan_of<dpm_multistep<2>>(paper_plan, {}, renoise_transition<lanczos3_kernel, data_source::last_step>{}), x);
  CHECK(reused.calls(1) == 6);
  CHECK(reused.calls(2) == 4);

  auto second = plan_of<heun>(high_low_high({3, 4, 3}));
  second.start = 0.99;
  const auto two = run(second, x);
  CHECK(two.calls(1) == 6 + 5);  // the last step is Euler's
  CHECK(two.calls(2) == 8);
}

TEST_CASE("bottleneck: the paper's transition, by hand", "[generate][bottleneck]") {
  const renoise_transition<bilinear_kernel> policy{.tau = {0.95, 0.6}};
  const renoise_transition<bilinear_kernel, data_source::last_step> reuse{.tau = {0.95, 0.6}};
  const rectified_flow flow;
  const auto by_hand = [&](bool last_step) {
    denoiser high(1), low(2);
    matrix x(64, 2), y(16, 2), d, resized, xi;
    step_noise{key}(x, 0, {}, {});
    const auto stage = [&](denoiser& f, matrix& z, index_t n, double s, double from, double to) {
      const auto u = stage_times(n, s, from, to);
      for (std::size_t i = 0; i + 1 < u.size(); ++i) {
        d = z;
        f(z, flow.at(u[i]), d);  // Euler: z = data + (z - data) u'/u
        z = u[i + 1] / u[i] * z + (1 - u[i + 1] / u[i]) * d;
      }
      if (!last_step) f(z, flow.at(to), d);
    };
    const auto change = [&](matrix& to, const image_shape& from_shape, const image_shape& to_shape, index_t i,
                            double u) {
      resized = xi = to;
      image_resizer<double>(from_shape, to_shape, bilinear_kernel{})(resized, d);
      step_noise{key}(xi, i, {}, {});
      to = (1 - u) * resized + u * xi;
    };
    stage(high, x, 3, 3, 1, 0.8);
    change(y, whole, coarser(whole, 2), 1, 0.95);
    stage(low, y, 4, 1.5, 0.95, 0.2);
    change(x, coarser(whole, 2), whole, 2, 0.6);
    stage(high, x, 3, 3, 0.6, 0);
    return x;
  };
  matrix x(64, 2);
  run(plan_of<ddim<>>(paper_plan, {}, policy), x);
  CHECK((x - by_hand(false)).cwiseAbs().maxCoeff() < 1e-12);
  run(plan_of<ddim<>>(paper_plan, {}, reuse), x);
  CHECK((x - by_hand(true)).cwiseAbs().maxCoeff() < 1e-12);
}

TEMPLATE_TEST_CASE("bottleneck: history does not cross a transition", "[generate][bottleneck]", dpm_multistep<2>,
                   dpm_multistep<3>, unipc<2>, (dualfast<unipc<2>>)) {
  const auto plan = plan_of<TestType>(high_low_high({3, 5, 4}));
  matrix x(64, 2), restart, low_start;
  auto sampler = plan.bind(x);
  pair_of_models models;
  auto both = models();
  const auto r = sampler(both, x, {}, key, [&](index_t stage, index_t i, const noise_level&, const matrix& z) {
    if (stage == 1 && i == 0) low_start = z;
    if (stage == 2 && i == 0) restart = z;
    return true;
  });
  REQUIRE(r.status == status::completed);
  auto model = prediction<predicts::data>(std::ref(models.high));
  REQUIRE(sample(TestType{}, model, restart, sampler.levels(2)).status == status::completed);
  CHECK(restart == x);

  const matrix first = x;  // a run leaves nothing behind
  REQUIRE(sampler(both, x, {}, stream{1}).status == status::completed);
  CHECK_FALSE(x == first);
  const auto allocated = support::allocations_in([&] { static_cast<void>(sampler(both, x, {}, key)); });
  CHECK(allocated == 0);
  CHECK(x == first);
}

TEST_CASE("bottleneck: every run begins with solvers that are reset", "[generate][bottleneck]") {
  int resets = 0;
  matrix x(64, 2);
  auto sampler = plan_of<counts_resets>(short_plan, {&resets}).bind(x);
  pair_of_models models;
  for (int run = 1; run <= 3; ++run) {
    REQUIRE(sampler(models(), x, {}, key).status == status::completed);
    CHECK(resets == 3 * run);
  }
}

TEST_CASE("bottleneck: the same resolution again is the solver, started again", "[generate][bottleneck]") {
  const auto plan = plan_of<dpm_multistep<2>>({{1, 4, 3, 0.5}, {1, 5, 2, 0}});
  pair_of_models models;
  auto model = prediction<predicts::data>(std::ref(models.high));
  matrix x(64, 2), alone(64, 2);
  REQUIRE(sample(plan, model, x, {}, key).status == status::completed);
  step_noise{key}(alone, 0, {}, {});
  for (const auto& u : {stage_times(4, 3, 1, 0.5), stage_times(5, 2, 0.5, 0)})
    REQUIRE(sample(dpm_multistep<2>{}, model, alone, levels_at(rectified_flow{}, u)).status == status::completed);
  CHECK(x == alone);
  // The paper's transition adds noise where the size stays, too.
  const auto again = plan_of<dpm_multistep<2>>({{1, 4, 3, 0.5}, {1, 5, 2, 0}}, {}, renoise_transition<>{.tau = {0.6}});
  const auto r = sample(again, model, x, {}, key);
  CHECK(r.status == status::completed);
  CHECK(r.stats.nfe == 10);
  CHECK(r.stages[1].first.t == 0.6);
  CHECK_FALSE(x == alone);
}

TEST_CASE("bottleneck: plans that begin low, and plans of many resolutions", "[generate][bottleneck]") {
  matrix x(64, 2), y(64, 2), z(64, 2);
  const auto r = run(plan_of<unipc<2>>(low_high({5, 4})), x);
  CHECK(r.calls(2) == 5);
  CHECK(r.calls(1) == 4);
  // A first stage of no steps is left out; the noise of the transition into stage 2 has another number.
  struct renumbered {
    void operator()(matrix& out, index_t i, const noise_level& a, const noise_level& b) const {
      step_noise{key}(out, i == 2 ? 1 : i, a, b);
    }
  };
  pair_of_models models;
  const auto s =
      sample(plan_of<unipc<2>>({{1, 0, 3, 0.9}, {2, 5, 1.5, 0.4}, {1, 4, 3, 0}}), models(), y, {}, renumbered{});
  CHECK(y == x);
  CHECK(s.stages.size() == 3);
  CHECK(s.stages[0].calls == 0);
  CHECK(s.stages[1].first.t == 1);

  denoiser one(1), two(2), four(4);
  const std::vector<bottleneck_stage> stages = {
      {4, 3, 1, 0.7}, {2, 3, 1, 0.5}, {1, 3, 2, 0.3}, {4, 2, 1, 0.05}, {1, 3, 3, 0}};
  const auto many = plan_of<dpm_multistep<2>>(stages);
  const auto t = sample(many, prediction<predicts::data>(any_size{{&one, &two, &four}}), y, {}, key);
  CHECK(t.status == status::completed);
  CHECK(one.calls == 6);
  CHECK(two.calls == 3);
  CHECK(four.calls == 5);
  CHECK(t.calls(4) == 5);
  CHECK(full_call_equivalents(t.stages) == 6 + 3.0 / 16 + 5.0 / 256);
  auto by = by_factor<4, 1, 2>(prediction<predicts::data>(std::ref(four)), prediction<predicts::data>(std::ref(one)),
                               prediction<predicts::data>(std::ref(two)));
  REQUIRE(sample(many, by, z, {}, key).status == status::completed);
  CHECK(y == z);
}

TEST_CASE("bottleneck: one plan, every schedule", "[generate][bottleneck]") {
  matrix flow(64, 2), variance(64, 2), exploding(64, 2), warped(64, 2);
  const auto check = [&](const auto& transition, const auto& stages) {
    using T = std::remove_cvref_t<decltype(transition)>;
    const auto drawn = [&](const auto& schedule, matrix& x) {
      using S = std::remove_cvref_t<decltype(schedule)>;
      const bottleneck<dpm_multistep<2>, T, S> plan{
          .image = whole, .stages = stages, .transition = transition, .start = 0.99, .schedule = schedule};
      run(plan, x);
    };
    drawn(rectified_flow{}, flow);
    drawn(vp_linear{}, variance);
    drawn(edm{}, exploding);
    drawn(vp_cosine{}, warped);
    CHECK((flow - variance).cwiseAbs().maxCoeff() < 1e-10);
    CHECK((flow - exploding).cwiseAbs().maxCoeff() < 1e-10);
    CHECK((flow - warped).cwiseAbs().maxCoeff() < 1e-10);
  };
  check(exact_transition{}, short_plan);
  check(exact_transition{.residual = 0.05}, short_plan);
  check(renoise_transition<>{}, paper_plan);
}

TEST_CASE("bottleneck: samples do not depend on the batch", "[generate][bottleneck]") {
  const auto check = [](const auto& transition, const auto& stages) {
    const auto plan = plan_of<unipc<2>>(stages, {}, transition);
    matrix x(64, 5);
    run(plan, x);
    for (index_t j = 0; j < 5; ++j) {
      Eigen::VectorXd alone(64);
      pair_of_models models;
      REQUIRE(sample(plan, models(), alone, {}, step_noise{key, static_cast<std::uint64_t>(j)}).status ==
              status::completed);
      CHECK(alone == x.col(j));
    }
    matrix storage = matrix::Constant(64, 9, 7.0);
    pair_of_models models;
    REQUIRE(sample(plan, models(), storage.middleCols(2, 5), {}, key).status == status::completed);
    CHECK(storage.middleCols(2, 5) == x);
    CHECK(storage.leftCols(2) == matrix::Constant(64, 2, 7.0));
    Eigen::Map<matrix> map(storage.data() + 64, 64, 5);
    REQUIRE(sample(plan, models(), map, {}, key).status == status::completed);
    CHECK(map == x);
  };
  check(exact_transition{}, short_plan);
  check(renoise_transition<>{}, paper_plan);
}

TEST_CASE("bottleneck: a recipe for each stage", "[generate][bottleneck]") {
  std::vector<index_t> asked;
  auto recipe = [&asked](index_t stage) {
    asked.push_back(stage);
    return ddim<>{.eta = 0.5, .noise = {key.derive(1000 + static_cast<std::uint64_t>(stage))}};
  };
  bottleneck<decltype(recipe)> plan{.recipe = recipe, .image = whole, .stages = short_plan};
  matrix x(64, 2);
  run(plan, x);
  CHECK(asked == std::vector<index_t>{0, 1, 2});
}

TEST_CASE("bottleneck: guidance at each resolution", "[generate][bottleneck]") {
  const matrix like(64, 2);
  const auto guided_pair = [&](pair_of_models& c, denoiser& u1, denoiser& u2, double w) {
    return by_factor<1, 2>(
        guided(prediction<predicts::data>(std::ref(c.high)), prediction<predicts::data>(std::ref(u1)), like, w),
        guided(prediction<predicts::data>(std::ref(c.low)), prediction<predicts::data>(std::ref(u2)),
               zeros_of_shape(like, coarser(whole, 2)), w));
  };
  matrix plain(64, 2), one(64, 2), two(64, 2);
  const auto plan = plan_of<dualfast<unipc<2>>>(short_plan);
  run(plan, plain);
  pair_of_models conditional;
  denoiser u1(1), u2(2);
  auto models = guided_pair(conditional, u1, u2, 1);
  REQUIRE(sample(plan, models, one, {}, key).status == status::completed);
  CHECK(one == plain);
  CHECK(u1.calls == 0);
  auto stronger = guided_pair(conditional, u1, u2, 2);
  REQUIRE(sample(plan, stronger, two, {}, key).status == status::completed);
  CHECK((two - plain).cwiseAbs().maxCoeff() < 1e-12);  // the two models are the same
  CHECK(u1.calls == 6);
  CHECK(u2.calls == 4);
}

TEST_CASE("bottleneck: what a model returns is watched", "[generate][bottleneck]") {
  pair_of_models models;
  const auto failing = [&](index_t factor, std::int64_t call, auto spoil) {
    return prediction<predicts::data>(
        [&models, factor, call, spoil, n = std::int64_t{0}](const auto& x, const noise_level& l, auto& out) mutable {
          (factor == 1 ? models.high : models.low)(x, l, out);
          if (++n == call) spoil(out);
        });
  };
  const auto nan = [](auto& out) { out(3, 1) = std::numeric_limits<double>::quiet_NaN(); };
  const auto larger = [](auto& out) { out.setZero(out.rows() + 1, out.cols()); };
  const auto none = [](auto&) {};
  matrix good(64, 2), x(64, 2);
  const auto stop_at = [&](index_t stage, index_t step, matrix& to, index_t factor) {
    matrix z(coarser(whole, factor).size(), 2);
    auto sampler = plan_of<ddim<>>(short_plan).bind(to);
    const auto r = sampler(models(), to, {}, key, [&](index_t s, index_t i, const noise_level&, const matrix& state) {
      if (s == stage && i == step) z = state;
      return !(s == stage && i == step);
    });
    CHECK(r.status == status::stopped_by_observer);
    CHECK(r.stats.stopped.index == stage);
    if (factor == 1)
      to = z;
    else
      copy_blocks(to, z, whole, factor);
  };
  const auto check = [&](auto spoil) {
    auto r =
        sample(plan_of<ddim<>>(short_plan), by_factor<1, 2>(failing(1, 2, spoil), failing(2, 9, none)), x, {}, key);
    CHECK(r.status == status::diverged);
    CHECK(r.stats.stopped.index == 0);
    CHECK(r.stats.stopped.step == 1);
    CHECK(r.stats.nfe == 2);
    CHECK(r.stats.steps == 1);
    stop_at(0, 1, good, 1);
    CHECK(x == good);
    r = sample(plan_of<ddim<>>(short_plan), by_factor<1, 2>(failing(1, 9, none), failing(2, 3, spoil)), x, {}, key);
    CHECK(r.status == status::diverged);
    CHECK(r.stats.stopped.index == 1);
    CHECK(r.stats.stopped.step == 2);
    stop_at(1, 2, good, 2);
    CHECK(x == good);
    CHECK(r.stages[1].last == plan_of<ddim<>>(short_plan).bind(x).levels(1)[2]);
    CHECK(r.stages[2].calls == 0);
  };
  check(nan);
  check(larger);
  // The call that the paper's transition makes: the fourth.
  const auto r = sample(plan_of<ddim<>>(short_plan, {}, renoise_transition<>{.tau = {0.95, 0.6}}),
                        by_factor<1, 2>(failing(1, 4, nan), failing(2, 9, none)), x, {}, key);
  CHECK(r.status == status::diverged);
  CHECK(r.stats.stopped.index == 0);
  CHECK(r.stats.stopped.step == 3);
  CHECK(r.stats.nfe == 4);
  stop_at(0, 3, good, 1);
  CHECK(x == good);
}

TEST_CASE("bottleneck: budgets", "[generate][bottleneck]") {
  matrix x(64, 2);
  for (const std::int64_t most : {0, 2, 3, 4, 6, 9, 10}) {
    pair_of_models models;
    const auto r = sample(plan_of<ddim<>>(short_plan), models(), x, {.max_nfe = most}, key);
    CHECK(r.stats.nfe == most);
    CHECK(r.stats.nfe == models.high.calls + models.low.calls);
    CHECK((r.status == status::completed) == (most == 10));
    if (most == 3) CHECK(r.stats.stopped.index == 1);
    if (most == 6) CHECK(r.stats.stopped.step == 3);
  }
  for (const std::int64_t most : {3, 4, 8, 11, 12}) {
    pair_of_models models;
    const auto r = sample(plan_of<ddim<>>(paper_plan, {}, renoise_transition<>{}), models(), x, {.max_nfe = most}, key);
    CHECK(r.stats.nfe == most);
    CHECK(r.stats.nfe == models.high.calls + models.low.calls);
    CHECK((r.status == status::completed) == (most == 12));
    if (most == 3) CHECK(r.stats.stopped.step == 3);
  }
  SLUICE_CHECK_THROWS(sample(plan_of<ddim<>>(short_plan), pair_of_models{}(), x, {.max_nfe = -1}, key), "bottleneck",
                      "options.max_nfe", -1);
}

TEST_CASE("bottleneck: time is booked where it is spent", "[generate][bottleneck]") {
  pair_of_models models;
  const auto slow = [&](denoiser& f, std::int64_t ticks) {
    return prediction<predicts::data>([&f, ticks](const auto& x, const noise_level& l, auto& out) {
      hand_clock::ticks() += ticks;
      f(x, l, out);
    });
  };
  struct slow_noise {
    void operator()(matrix& out, index_t i, const noise_level& a, const noise_level& b) const {
      hand_clock::ticks() += 1 + i;
      step_noise{key}(out, i, a, b);
    }
  };
  const bottleneck<ddim<>, renoise_transition<>, rectified_flow, hand_clock> plan{.image = whole, .stages = paper_plan};
  matrix x(64, 1);
  const auto r = sample(plan, by_factor<1, 2>(slow(models.high, 1000), slow(models.low, 50)), x, {}, slow_noise{});
  CHECK(r.stages[0].seconds == Approx(4.0));  // with the call for the transition
  CHECK(r.stages[1].seconds == Approx(0.25));
  CHECK(r.stages[2].seconds == Approx(3.0));
  CHECK(r.stages[0].transition_seconds == Approx(0.001));
  CHECK(r.stages[1].transition_seconds == Approx(0.002));
  CHECK(r.stages[2].transition_seconds == Approx(0.003));
  CHECK(r.seconds(1) == Approx(7.004));
  CHECK(r.seconds(2) == Approx(0.252));
  CHECK(r.transition_seconds() == Approx(0.006));
}

TEST_CASE("bottleneck: refuses plans that cannot be run", "[generate][bottleneck]") {
  matrix x = matrix::Constant(64, 2, 5.0);
  const auto attempt = [&](auto plan) {
    pair_of_models models;
    return sample(plan, models(), x, {}, key);
  };
  const auto stages = [](std::vector<bottleneck_stage> s) { return plan_of<ddim<>>(std::move(s)); };
  const char* const f = "bottleneck";
  SLUICE_CHECK_THROWS(attempt(stages({})), f, "stages.size", -1);
  SLUICE_CHECK_THROWS(attempt(stages({{1, 3, 3, 0.9}, {2, 0, 1, 0.4}, {1, 3, 3, 0}})), f, "stages.steps", 1);
  SLUICE_CHECK_THROWS(attempt(stages({{1, 0, 3, 0}})), f, "stages.steps", 0);
  SLUICE_CHECK_THROWS(attempt(stages({{1, -1, 3, 0}})), f, "stages.steps", 0);
  SLUICE_CHECK_THROWS(attempt(stages({{1, 3, 3, 0.9}, {3, 3, 1, 0.4}, {1, 3, 3, 0}})), f, "stages.factor", 1);
  SLUICE_CHECK_THROWS(attempt(stages({{0, 3, 3, 0.9}, {1, 3, 3, 0}})), f, "stages.factor", 0);
  SLUICE_CHECK_THROWS(attempt(stages({{1, 3, 3, 0.9}, {-2, 3, 3, 0.4}, {1, 3, 3, 0}})), f, "stages.factor", 1);
  SLUICE_CHECK_THROWS(attempt(stages({{1, 3, 3, 0.9}, {2, 3, 1, 0}})), f, "stages.factor", 1);
  SLUICE_CHECK_THROWS(attempt(stages({{1, 3, 0, 0.9}, {1, 3, 1, 0}})), f, "stages.shift", 0);
  SLUICE_CHECK_THROWS(attempt(stages({{1, 3, 3, 0}, {1, 3, 1, 0}})), f, "stages.end", 0);
  SLUICE_CHECK_THROWS(attempt(stages({{1, 3, 3, 1}, {1, 3, 1, 0}})), f, "stages.end", 0);
  SLUICE_CHECK_THROWS(attempt(stages({{1, 3, 3, 0.5}, {1, 3, 1, 0.5}, {1, 3, 1, 0}})), f, "stages.end", 1);
  SLUICE_CHECK_THROWS(attempt(stages({{1, 3, 3, -0.1}})), f, "stages.end", 0);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  SLUICE_CHECK_THROWS(attempt(stages({{1, 3, 3, nan}})), f, "stages.end", 0);
  SLUICE_CHECK_THROWS(attempt(stages({{1, 3, nan, 0}})), f, "stages.shift", 0);
  auto plan = stages(short_plan);
  plan.start = 1.2;
  SLUICE_CHECK_THROWS(attempt(plan), f, "start", -1);
  plan = stages(short_plan);
  plan.image.width = 9;
  SLUICE_CHECK_THROWS(attempt(plan), f, "like.size", -1);
  plan.image = {};
  SLUICE_CHECK_THROWS(attempt(plan), f, "image.height", -1);
  plan = stages({{2, 3, 3, 0.9}, {1, 3, 3, 0.4}, {4, 3, 1, 0.1}, {1, 3, 3, 0}});
  SLUICE_CHECK_THROWS(attempt(plan), f, "models.factor", 2);
  CHECK((x.array() == 5.0).all());
  auto sampler = stages(short_plan).bind(x);
  matrix other(64, 3), wrong(60, 2);
  pair_of_models models;
  SLUICE_CHECK_THROWS(sampler(models(), other, {}, key), f, "x.samples", -1);
  SLUICE_CHECK_THROWS(sampler(models(), wrong, {}, key), f, "x.size", -1);

  const image_shape six{1, 6, 6};
  matrix y(36, 1);
  const bottleneck<ddim<>> mixed{.image = six, .stages = {{2, 2, 1, 0.8}, {3, 2, 1, 0.4}, {1, 2, 1, 0}}};
  SLUICE_CHECK_THROWS(mixed.bind(y), "exact_transition", "stages.factor", 1);
  for (const double c : {-0.1, 0.26, nan})
    SLUICE_CHECK_THROWS(attempt(plan_of<ddim<>>(short_plan, {}, exact_transition{.residual = c})), "exact_transition",
                        "residual", -1);
  const auto paper = [&](std::vector<double> tau) {
    return plan_of<ddim<>>(paper_plan, {}, renoise_transition<>{.tau = std::move(tau)});
  };
  SLUICE_CHECK_THROWS(attempt(paper({0.9})), "renoise_transition", "tau.size", -1);
  SLUICE_CHECK_THROWS(attempt(paper({0.7, 0.5})), "renoise_transition", "tau", 0);
  SLUICE_CHECK_THROWS(attempt(paper({0.9, 1})), "renoise_transition", "tau", 1);
  SLUICE_CHECK_THROWS(attempt(paper({0.9, nan})), "renoise_transition", "tau", 1);
  CHECK((x.array() == 5.0).all());
}

TEST_CASE("bottleneck: quality on textures with fixed seeds", "[generate][bottleneck][statistical]") {
  const texture_law textures = models::benchmark_textures(32);
  texture_mixture<> high(textures, token_mixing::separable),
      low(models::low_resolution(textures), token_mixing::separable);
  matrix x(1024, 500);
  const auto drawn = [&](const auto& transition, auto stages) {
    using T = std::remove_cvref_t<decltype(transition)>;
    const bottleneck<dpm_multistep<2>, T> plan{.recipe = {.lower_order_final = false},
                                               .image = {1, 32, 32},
                                               .stages = std::move(stages),
                                               .transition = transition};
    const auto r = sample(
        plan, by_factor<1, 2>(prediction<predicts::data>(std::ref(high)), prediction<predicts::data>(std::ref(low))), x,
        {}, key);
    REQUIRE(r.status == status::completed);
    return high.quality(x);
  };
  const auto exact = drawn(exact_transition{}, high_low_high());
  CHECK(exact.relative_spectral_w2 <= 0.125);
  CHECK(exact.class_total_variation < 0.08);
  CHECK(drawn(interpolate_noisy_state{}, high_low_high()).relative_spectral_w2 >= 0.4);
  CHECK(drawn(renoise_transition<>{}, high_low_high({4, 12, 5}, 0.8, 0.2)).relative_spectral_w2 <= 0.125);
  CHECK(drawn(exact_transition{}, low_high()).relative_spectral_w2 <= 0.08);
}
