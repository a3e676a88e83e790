// Solvers on the user's pictures (--image), or on procedural ones: the exact denoiser of the bank, whose call costs
// what a small network's does. How many calls does each solver need until its pictures are as near to those of a very
// fine grid, from the same noise, as those of UniPC-2?
#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <report/row.hpp>
#include <sluice/generate/ddim.hpp>
#include <sluice/generate/dpm_solver.hpp>
#include <sluice/generate/euler.hpp>
#include <sluice/generate/noise.hpp>
#include <sluice/generate/sample.hpp>
#include <sluice/generate/schedule.hpp>
#include <sluice/generate/time_grid.hpp>
#include <sluice/generate/unipc.hpp>
#include <sluice/models/kernel_denoiser.hpp>
#include <string>
#include <vector>

namespace {

using namespace sluice;

constexpr int side = 32, samples = 8;

struct world {
  models::kernel_denoiser<> denoiser;
  Eigen::MatrixXd finest;
  static std::vector<noise_level> levels(index_t n) { return log_snr_levels(vp_linear(), n, 1, 1e-2); }
  template <class Recipe>
  Eigen::MatrixXd draw(const Recipe& recipe, index_t n) {
    Eigen::MatrixXd x(side * side, samples);
    const auto list = levels(n);
    auto model = prediction<predicts::data>(std::ref(denoiser));
    fill_start(x, list.front(), stream{7});
    static_cast<void>(sample(recipe, model, x, list));
    return x;
  }
  template <class Recipe>
  double error(const Recipe& recipe, index_t n) {
    return std::sqrt((draw(recipe, n) - finest).squaredNorm() / static_cast<double>(finest.size()));
  }
  world() : denoiser(bench::pictures(side, 100)) { finest = draw(unipc<3>{}, 200); }
};
world& pictures() {
  static world w;
  return w;
}

template <class Recipe>
auto with_steps(Recipe recipe, index_t n) {
  return [=](benchmark::State& state) {
    world& w = pictures();
    const double error = w.error(recipe, n);
    for (auto _ : state) {
      const Eigen::MatrixXd x = w.draw(recipe, n);
      benchmark::DoNotOptimize(x.data());
    }
    state.counters["work"] = static_cast<double>(n);
    state.counters["quality"] = error;
  };
}
/// The fewest steps, among 1.25^k, that come within the error of UniPC-2 with n; the largest tried is 300.
template <class Recipe>
auto as_good_as(Recipe recipe, index_t n) {
  return [=](benchmark::State& state) {
    static std::map<index_t, index_t> found;
    world& w = pictures();
    if (!found.contains(n)) {
      const double wanted = w.error(unipc<2>{}, n);
      index_t steps = n;
      while (steps < 300 && w.error(recipe, steps) > wanted) steps = std::max(steps + 1, steps * 5 / 4);
      found[n] = steps;
    }
    with_steps(recipe, found[n])(state);
  };
}

const bool registered = [] {
  for (const index_t n : {8, 12, 20}) {
    auto row = bench::row{"base-solvers",
                          "pictures of 32 x 32, as near as UniPC-2 with " + std::to_string(n) + " calls",
                          "model calls",
                          {"RMS error", false, 0},
                          "",
                          "naive: Euler in t, at most 300 steps"};
    row.naive(as_good_as(euler<vp_linear>{}, n))
        .sluice(with_steps(unipc<2>{}, n))
        .peer("DDIM", as_good_as(ddim<>{}, n))
        .peer("DPM-Solver++(2M)", as_good_as(dpm_multistep<2>{}, n));
  }
  return true;
}();

}  // namespace
