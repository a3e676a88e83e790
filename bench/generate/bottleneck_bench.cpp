// Bottleneck Sampling on textures, where a coarse call costs a sixteenth of a full one: against the same solver at full
// resolution with the quality that the plan has, against the 50 Euler steps of the paper, and what interpolating the
// noisy state does. Then the wall time with a denoiser that attends from patch to patch.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <report/options.hpp>
#include <report/row.hpp>
#include <sluice/generate/bottleneck.hpp>
#include <sluice/generate/ddim.hpp>
#include <sluice/generate/dpm_solver.hpp>
#include <sluice/models/patch_attention.hpp>
#include <sluice/models/texture_mixture.hpp>
#include <string>
#include <vector>

namespace {

using namespace sluice;

constexpr const char* slug = "bottleneck-sampling";
constexpr index_t side = 32;
constexpr image_shape whole{1, side, side};
constexpr const char* claim = "up to 3x (images), 2.5x (video)";
using stages_t = std::vector<bottleneck_stage>;
stages_t full(index_t steps) { return {{1, steps, 3, 0}}; }

/// The noisy state resized by interpolation at the same level: what must not be done.
struct interpolate_noisy_state {
  static constexpr data_source needs = data_source::none;
  double restart(const stage_boundary& b) const { return b.end; }
  template <class S>
  auto bind(const stage_change& c) const {
    return [resize = image_resizer<S>(c.from_shape, c.to_shape, bilinear_kernel{})](
               auto& to, const auto& from, const auto&, auto&, auto&&) mutable { resize(to, from); };
  }
};

using euler_steps = ddim<>;  // for a flow the same
dpm_multistep<2> two_m() { return {.lower_order_final = false}; }

/// The two denoisers; dense mixing for time, the same functions by separable transforms for quality.
struct world {
  explicit world(models::token_mixing mixing)
      : high(models::benchmark_textures(side), mixing),
        low(models::low_resolution(models::benchmark_textures(side)), mixing) {}
  auto models() {
    return by_factor<1, 2>(prediction<predicts::data>(std::ref(high)), prediction<predicts::data>(std::ref(low)));
  }
  models::texture_mixture<> high, low;
};
world& dense() {
  static world w(models::token_mixing::dense);
  return w;
}

template <class Recipe, class Transition>
auto plan_of(const Recipe& recipe, const stages_t& stages, const Transition& transition) {
  return bottleneck<Recipe, Transition>{.recipe = recipe, .image = whole, .stages = stages, .transition = transition};
}

/// Quality of a plan, computed once.
template <class Plan>
models::texture_quality quality_of(const std::string& name, const Plan& plan) {
  static std::map<std::string, models::texture_quality> known;
  const auto found = known.find(name);
  if (found != known.end()) return found->second;
  static world fast(models::token_mixing::separable);
  const index_t n = bench::options().mode == bench::effort::quick  ? 300
                    : bench::options().mode == bench::effort::full ? 2000
                                                                   : 800;
  Eigen::MatrixXd x(side * side, n);
  static_cast<void>(sample(plan, fast.models(), x, {}, stream{7}));
  return known[name] = fast.high.quality(x);
}

/// One variant: times a batch with the dense models and reports cost and quality. `name` tells plans apart.
template <class Recipe, class Transition = exact_transition>
auto textures(const std::string& name, const Recipe& recipe, const stages_t& stages,
              const Transition& transition = {}) {
  return [=](benchmark::State& state) {
    const auto plan = plan_of(recipe, stages, transition);
    constexpr index_t batch = 8;
    Eigen::MatrixXd x(side * side, batch);
    auto sampler = plan.bind(x);
    auto models = dense().models();
    double work = 0, changing = 0, all = 0;
    for (auto _ : state) {
      const auto& r = sampler(models, x, {}, stream{1});
      work = full_call_equivalents(r.stages);
      for (std::size_t i = 1; i < r.stages.size(); ++i) changing += r.stages[i].transition_seconds;
      all += r.seconds(1) + r.seconds(2);
      benchmark::DoNotOptimize(std::as_const(x).data());
    }
    const auto q = quality_of(name, plan);
    state.counters["work"] = work;
    state.counters["quality"] = q.relative_spectral_w2;
    if (stages.size() == 1) return;
    char note[160];
    std::snprintf(note, sizeof note, "transitions %.2f %% of the time; class frequencies off by %.3f, high band %.2f",
                  100 * changing / all, q.class_total_variation, q.high_band_ratio);
    state.SetLabel(note);
  };
}
auto euler_full(index_t n) { return textures("euler full " + std::to_string(n), euler_steps{}, full(n)); }
auto two_m_full(index_t n) { return textures("2m full " + std::to_string(n), two_m(), full(n)); }
template <class Recipe, class Transition = exact_transition>
auto three(const std::string& solver, const Recipe& recipe, std::array<index_t, 3> n, double first = 0.9,
           double second = 0.4, const std::string& kind = "exact", const Transition& transition = {}) {
  const std::string steps = std::to_string(n[0]) + "," + std::to_string(n[1]) + "," + std::to_string(n[2]);
  return textures(solver + " " + kind + " " + steps, recipe, high_low_high(n, first, second), transition);
}

bench::row textures_row(const std::string& workload, const std::string& note, double tolerance,
                        const char* paper = "") {
  return {.slug = slug,
          .workload = "textures 32 x 32, " + workload,
          .unit = "full-call equivalents",
          .quality = {.name = "relative spectral W2", .tolerance = tolerance},
          .claim = paper,
          .note = note};
}

void register_textures() {
  constexpr double sampling_noise = 0.006;  // of W2, between plans of equal quality
  const std::string same = "naive: the same solver at full resolution, as many steps as give this quality";
  textures_row("2M, equal quality, steps 4+12+5", same, sampling_noise)
      .naive(two_m_full(15))
      .sluice(three("2m", two_m(), {4, 12, 5}));
  textures_row("2M, equal quality, steps 5+16+8", same, sampling_noise)
      .naive(two_m_full(22))
      .sluice(three("2m", two_m(), {5, 16, 8}));
  textures_row("Euler, equal quality, steps 4+12+5", same, sampling_noise)
      .naive(euler_full(15))
      .sluice(three("euler", euler_steps{}, {4, 12, 5}));
  textures_row("2M, equal quality, the paper's transition", same + "; Lanczos-3, two calls more", sampling_noise)
      .naive(two_m_full(16))
      .sluice(three("2m", two_m(), {4, 12, 5}, 0.8, 0.2, "lanczos", renoise_transition<>{}));
  textures_row("2M, equal quality, the paper's transition, bilinear", same, sampling_noise)
      .naive(two_m_full(13))
      .sluice(three("2m", two_m(), {4, 12, 5}, 0.8, 0.2, "bilinear", renoise_transition<bilinear_kernel>{}));
  textures_row("2M, equal quality, low-high 16+9", same + "; these models need no first stage", sampling_noise)
      .naive(two_m_full(25))
      .sluice(textures("2m low-high", two_m(), low_high()));
  textures_row("50 Euler steps, better quality", "sluice: 2M with 6+24+16 steps", 0, claim)
      .naive(euler_full(50))
      .sluice(three("2m", two_m(), {6, 24, 16}))
      .peer("2M, 24 full steps", two_m_full(24));
  textures_row("50 Euler steps, 5.1x cheaper", "Euler with 4+12+5 steps, the paper's setting: what it costs in quality",
               0, claim)
      .naive(euler_full(50))
      .sluice(three("euler", euler_steps{}, {4, 12, 5}))
      .peer("Euler, 10 full steps", euler_full(10));
  textures_row("2M, the noisy state interpolated", "naive: bilinear at the same level, so that noise is not white", 0)
      .naive(three("2m", two_m(), {4, 12, 5}, 0.9, 0.4, "interpolated", interpolate_noisy_state{}))
      .sluice(three("2m", two_m(), {4, 12, 5}));
}

/// A bank of textures and the patch attention on it at both resolutions.
struct attention_world {
  attention_world() : bank(make_bank()), high(bank, side), low(models::block_average(bank, side), side / 2) {}
  static Eigen::MatrixXd make_bank() {
    Eigen::MatrixXd images(side * side, 8);
    const models::texture_mixture<> law(models::benchmark_textures(side), models::token_mixing::separable);
    for (index_t j = 0; j < 8; ++j) {
      cursor random(stream(99).derive(static_cast<std::uint64_t>(j)));
      images.col(j) = law.sample(random).first;
    }
    return images;
  }
  Eigen::MatrixXd bank;
  models::patch_attention<float> high, low;
};

auto attention(const stages_t& stages) {
  return [=](benchmark::State& state) {
    static attention_world w;
    Eigen::MatrixXf x(side * side, 1), d(side * side, 1);
    auto models =
        by_factor<1, 2>(prediction<predicts::data>(std::ref(w.high)), prediction<predicts::data>(std::ref(w.low)));
    auto sampler = plan_of(two_m(), stages, exact_transition{}).bind(x);
    double work = 0, changing = 0, all = 0;
    std::uint64_t run = 0;
    for (auto _ : state) {
      const auto& r = sampler(models, x, {}, stream{run++});
      work = full_call_equivalents(r.stages);
      for (std::size_t i = 1; i < r.stages.size(); ++i) changing += r.stages[i].transition_seconds;
      all += r.seconds(1) + r.seconds(2);
    }
    // How far samples are from the patches of the bank: the model at a low level moves them there.
    static std::map<std::size_t, double> known;
    const std::size_t id = stages.size() * 100 + static_cast<std::size_t>(stages.front().steps);
    if (!known.contains(id)) {
      double sum = 0;
      const index_t n = bench::options().mode == bench::effort::quick ? 2 : 6;
      for (index_t j = 0; j < n; ++j) {
        static_cast<void>(sampler(models, x, {}, stream{1000 + static_cast<std::uint64_t>(j)}));
        w.high(x, models::at_kappa(0.1), d);
        sum += static_cast<double>((d - x).squaredNorm()) / static_cast<double>(x.size());
      }
      known[id] = std::sqrt(sum / static_cast<double>(n));
    }
    state.counters["work"] = work;
    state.counters["quality"] = known[id];
    if (stages.size() == 1) return;
    char note[80];
    std::snprintf(note, sizeof note, "transitions %.3f %% of the time", 100 * changing / all);
    state.SetLabel(note);
  };
}

void register_attention() {
  const auto row = [](const char* workload, const char* note) {
    return bench::row{.slug = slug,
                      .workload = std::string("patch attention 32 x 32, 8 images, ") + workload,
                      .unit = "full-call equivalents",
                      .quality = {.name = "RMS distance to where the model moves a sample", .tolerance = 0.005},
                      .claim = claim,
                      .note = note};
  };
  row("2M, steps 4+12+5", "naive: 15 full steps of the same solver")
      .naive(attention(full(15)))
      .sluice(attention(high_low_high()));
  row("2M, low-high 16+9", "naive: 25 full steps of the same solver")
      .naive(attention(full(25)))
      .sluice(attention(low_high()));
}

const bool registered = [] {
  register_textures();
  register_attention();
  return true;
}();

}  // namespace
