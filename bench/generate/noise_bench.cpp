// What steers or disturbs a solver: noise by step against noise of one Brownian path, churn, guidance at all levels or
// in an interval.
#include <algorithm>
#include <cmath>
#include <functional>
#include <report/row.hpp>
#include <sluice/generate/brownian_path.hpp>
#include <sluice/generate/churn.hpp>
#include <sluice/generate/dpm_solver.hpp>
#include <sluice/generate/guidance.hpp>
#include <sluice/generate/heun.hpp>
#include <sluice/generate/noise.hpp>
#include <sluice/generate/unipc.hpp>
#include <sluice/models/gaussian_mixture.hpp>
#include <string>
#include <vector>

#include "mixture_world.hpp"

namespace {

using namespace bench::mixture;

constexpr const char* slug = "base-solvers";

/// How far samples move if the steps are halved, with the same key.
template <class Noise>
auto halved_steps(index_t n) {
  return [=](benchmark::State& state) {
    const sde_dpm_multistep<Noise> recipe{.noise = {stream{5}}};
    const auto run = [&](index_t steps) {
      auto model = exact_model();
      Eigen::VectorXd x = points().start;
      static_cast<void>(sample(recipe, model, x, levels(grid::log_snr, steps)));
      return x;
    };
    const Eigen::VectorXd coarse = run(n), fine = run(2 * n);
    for (auto _ : state) {
      const Eigen::VectorXd x = run(n);
      benchmark::DoNotOptimize(x.data());
    }
    state.counters["work"] = static_cast<double>(n);
    state.counters["quality"] = std::sqrt((fine - coarse).squaredNorm() / 400);
  };
}

/// Mean distance between the sorted samples and the quantiles of the data (the Wasserstein distance of order 1).
template <class Recipe>
auto law_of(Recipe recipe, index_t n) {
  return [=](benchmark::State& state) {
    static constexpr Eigen::Index samples = 4000;
    static const Eigen::VectorXd quantiles = [] {
      Eigen::VectorXd q(samples);
      for (Eigen::Index i = 0; i < samples; ++i)
        q(i) = data().quantile((static_cast<double>(i) + 0.5) / samples, noise_level{0, 1, 0});
      return q;
    }();
    auto model = exact_model();
    const auto list = karras_levels(n, 0.002, 80);
    Eigen::VectorXd x(samples);
    std::int64_t calls = 0;
    for (auto _ : state) {
      fill_start(x, list.front(), stream{6});
      calls = sample(recipe, model, x, list).stats.nfe;
    }
    std::sort(x.begin(), x.end());
    state.counters["work"] = static_cast<double>(calls);
    state.counters["quality"] = (x - quantiles).cwiseAbs().mean();
  };
}

/// A class of two of eight modes, followed three times as much as the conditional model would.
template <class Weight>
auto guided_ring(Weight weight) {
  return [=](benchmark::State& state) {
    static const models::gaussian_mixture all = models::ring8(), one_class = all.subset(std::vector<index_t>{0, 4});
    auto unconditional = prediction<predicts::data>(std::cref(all)),
         conditional = prediction<predicts::data>(std::cref(one_class));
    const auto list = log_snr_levels(vp_schedule(), 24, 1, 1e-3);
    Eigen::MatrixXd x(2, 1000);
    std::int64_t calls = 0;
    for (auto _ : state) {
      auto model = guided(conditional, unconditional, x, weight);
      fill_start(x, list.front(), stream{7});
      static_cast<void>(sample(unipc<2>{}, model, x, list));
      calls = model.counts().conditional + model.counts().unconditional;
    }
    double square = 0;  // around the nearer of the two modes
    for (Eigen::Index j = 0; j < x.cols(); ++j)
      square += std::min((x.col(j) - all.means().col(0)).squaredNorm(), (x.col(j) - all.means().col(4)).squaredNorm());
    state.counters["work"] = static_cast<double>(calls);
    state.counters["quality"] = std::abs(std::sqrt(square / 2000) / 0.3 - 1);
  };
}

const bool registered = [] {
  for (const index_t n : {10, 20, 40})
    bench::row{slug,
               "SDE-DPM-Solver++(2M), noise of one Brownian path, N = " + std::to_string(n),
               "model calls",
               {"RMS move when the steps are halved", false, 0},
               "",
               "naive: noise by step"}
        .naive(halved_steps<step_noise>(n))
        .sluice(halved_steps<brownian_path>(n));
  for (const index_t n : {16, 64})
    bench::row{slug,
               "Heun with churn, exact model, N = " + std::to_string(n),
               "model calls",
               {"Wasserstein distance", false, 0},
               "helps imperfect networks",
               "naive: without churn"}
        .naive(law_of(heun{}, n))
        .sluice(law_of(churned<>{.s_churn = 20, .noise = {stream{8}}}, n));
  bench::row{slug,
             "guidance 3 in an interval, ring of eight modes",
             "network calls",
             {"error of the spread", false, 0},
             "",
             "naive: at every level"}
      .naive(guided_ring(constant_weight{3}))
      .sluice(guided_ring(interval_weight{3, 0.3, 5}));
  return true;
}();

}  // namespace
