#pragma once
#include <benchmark/benchmark.h>

#include <Eigen/Core>
#include <cmath>
#include <cstdint>
#include <functional>
#include <sluice/generate/sample.hpp>
#include <sluice/generate/schedule.hpp>
#include <sluice/generate/time_grid.hpp>
#include <sluice/models/mixture_1d.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

/// The workload on which solvers of diffusion are compared: three Gaussians on a line under the linear
/// variance-preserving schedule, t from 1 to 1e-3, 400 starting points at the quantiles of the normal law, and the
/// exact flow map as the truth.
namespace bench::mixture {

using namespace sluice;

inline const models::mixture_1d& data() {
  static const models::mixture_1d law(Eigen::VectorXd{{0.25, 0.45, 0.3}}, Eigen::VectorXd{{-2, 0.3, 1.7}},
                                      Eigen::VectorXd{{0.2, 0.3, 0.1}});
  return law;
}
inline const vp_linear& vp_schedule() {
  static const vp_linear s;
  return s;
}
constexpr double first_time = 1, last_time = 1e-3;

struct problem {
  Eigen::VectorXd start, exact;
};
inline const problem& points() {
  static const problem p = [] {
    const models::mixture_1d normal(Eigen::VectorXd::Ones(1), Eigen::VectorXd::Zero(1), Eigen::VectorXd::Ones(1));
    problem made{Eigen::VectorXd(400), Eigen::VectorXd(400)};
    for (Eigen::Index i = 0; i < 400; ++i)
      made.start(i) = normal.quantile((static_cast<double>(i) + 0.5) / 400, noise_level{0, 1, 0});
    data().flow_map(made.exact, made.start, vp_schedule().at(first_time), vp_schedule().at(last_time));
    return made;
  }();
  return p;
}

enum class grid { uniform, quadratic, log_snr, karras };
inline std::vector<noise_level> levels(grid g, index_t n) {
  switch (g) {
    case grid::uniform:
      return uniform_levels(vp_schedule(), n, first_time, last_time);
    case grid::quadratic:
      return quadratic_levels(vp_schedule(), n, first_time, last_time);
    case grid::log_snr:
      return log_snr_levels(vp_schedule(), n, first_time, last_time);
    case grid::karras:
      break;
  }
  return kappa_power_levels(vp_schedule(), n, first_time, last_time);
}

/// Root mean square error of the final points. `model` is what the solver sees.
template <class Recipe, class Model>
double error_of(const Recipe& recipe, Model&& model, std::span<const noise_level> levels,
                std::int64_t* calls = nullptr) {
  Eigen::VectorXd x = points().start;
  const auto r = sample(recipe, model, x, levels);
  if (calls != nullptr) *calls = r.stats.nfe;
  return r.status == status::completed ? std::sqrt((x - points().exact).squaredNorm() / 400) : 1e300;
}
inline auto exact_model() { return prediction<predicts::data>(std::cref(data())); }

/// A variant: n steps on this grid. `recipe_of(levels)` makes the recipe.
template <class F>
auto steps(grid g, index_t n, F recipe_of) {
  return [=](benchmark::State& state) {
    const auto grid_levels = levels(g, n);
    const auto recipe = recipe_of(grid_levels);
    auto model = exact_model();
    std::int64_t calls = 0;
    const double error = error_of(recipe, model, grid_levels, &calls);
    for (auto _ : state) benchmark::DoNotOptimize(error_of(recipe, model, grid_levels));
    state.counters["work"] = static_cast<double>(calls);
    state.counters["quality"] = error;
  };
}

}  // namespace bench::mixture
