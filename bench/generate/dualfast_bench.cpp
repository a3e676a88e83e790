// DualFast against the solver that it wraps, at equal model calls: root mean square error to the exact flow map, on the
// grids and at the numbers of steps at which it wins and at which it loses. Peers that need no mixing stand beside it.
#include <report/row.hpp>
#include <sluice/generate/ddim.hpp>
#include <sluice/generate/dpm_solver.hpp>
#include <sluice/generate/dualfast.hpp>
#include <sluice/generate/unipc.hpp>
#include <sluice/models/draws.hpp>
#include <sluice/models/kernel_denoiser.hpp>
#include <string>

#include "mixture_world.hpp"

namespace {

using namespace bench::mixture;

constexpr const char* slug = "dualfast";
const bench::quality error{"RMS error", false, 0};

template <class Recipe>
auto plain() {
  return [](const auto&) { return Recipe{}; };
}
template <class Recipe>
auto wrapped() {
  return [](const auto&) { return dualfast<Recipe>{}; };
}

template <class Recipe>
void at_equal_calls(const std::string& name, grid g, const char* grid_name, index_t n, const char* note = "") {
  bench::row{slug, name + ", " + grid_name + " grid, N = " + std::to_string(n), "model calls", error, "", note}
      .naive(steps(g, n, plain<Recipe>()))
      .sluice(steps(g, n, wrapped<Recipe>()))
      .peer("UniPC-2", steps(g, n, plain<unipc<2>>()));
}

/// The most steps with which the recipe is still not as good as DDIM with DualFast and n steps.
template <class Recipe>
index_t steps_not_enough(index_t n) {
  auto model = exact_model();
  const double wanted = error_of(dualfast<ddim<>>{}, model, levels(grid::quadratic, n));
  index_t steps = 1;
  while (error_of(Recipe{}, model, levels(grid::quadratic, steps + 1)) > wanted) ++steps;
  return steps;
}
template <class Recipe>
auto as_good_as(index_t n) {
  return [=](benchmark::State& state) { steps(grid::quadratic, steps_not_enough<Recipe>(n), plain<Recipe>())(state); };
}
void at_equal_error(index_t n) {
  bench::row{slug, "DDIM, quadratic grid, equal error to N = " + std::to_string(n), "model calls", error, "", ""}
      .naive(as_good_as<ddim<>>(n))
      .sluice(steps(grid::quadratic, n, wrapped<ddim<>>()))
      .peer("DPM-Solver++(2M)", as_good_as<dpm_multistep<2>>(n));
}

/// The same with the model of an image bank, whose call costs what a small network's does: what the wrapper adds.
template <class Recipe>
auto on_images(Recipe recipe) {
  return [=](benchmark::State& state) {
    cursor random(stream{1});
    models::kernel_denoiser denoiser(models::normal_matrix(64 * 64, 512, random));
    auto model = prediction<predicts::data>(std::ref(denoiser));
    const auto grid_levels = levels(grid::quadratic, 10);
    Eigen::VectorXd x(64 * 64);
    for (auto _ : state) {
      fill_start(x, grid_levels.front(), stream{3});
      benchmark::DoNotOptimize(sample(recipe, model, x, grid_levels).stats.nfe);
    }
    state.counters["work"] = 10;
  };
}

const bool registered = [] {
  for (const index_t n : {5, 8, 10, 20}) at_equal_calls<ddim<>>("DDIM", grid::quadratic, "quadratic", n);
  for (const index_t n : {5, 10, 20}) at_equal_calls<ddim<>>("DDIM", grid::uniform, "uniform", n);
  for (const index_t n : {5, 10, 20})
    at_equal_calls<dpm_multistep<2>>("DPM-Solver++(2M)", grid::quadratic, "quadratic", n);
  for (const index_t n : {5, 10, 20}) at_equal_calls<dpm_multistep<2>>("DPM-Solver++(2M)", grid::uniform, "uniform", n);
  for (const index_t n : {5, 6, 10})
    at_equal_calls<unipc<2>>("UniPC-2", grid::quadratic, "quadratic", n, n > 6 ? "off by default above six steps" : "");
  for (const index_t n : {5, 10, 15}) at_equal_error(n);
  bench::row{slug,
             "DDIM, 512 images of 64 x 64, 10 steps: time of the wrapper",
             "model calls",
             {"", false, 0},
             "",
             "naive: without it"}
      .naive(on_images(ddim<>{}))
      .sluice(on_images(dualfast<ddim<>>{}));
  return true;
}();

}  // namespace
