// generate_images [BANK [OUT.png]]: pictures drawn by several solvers from the exact denoiser of a bank of pictures.
// BANK is a PNG, which is cut into tiles, or a folder of them; without it the bank is procedural. Prints, for each
// solver and number of calls, the time and how far its pictures are from those of a very fine grid with the same noise.
// The picture has a row for each solver with 10 calls, and the fine grid's row at the top.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <sluice/generate/ddim.hpp>
#include <sluice/generate/dpm_solver.hpp>
#include <sluice/generate/dualfast.hpp>
#include <sluice/generate/euler.hpp>
#include <sluice/generate/noise.hpp>
#include <sluice/generate/sample.hpp>
#include <sluice/generate/time_grid.hpp>
#include <sluice/generate/unipc.hpp>
#include <sluice/models/images.hpp>
#include <sluice/models/kernel_denoiser.hpp>

#include "support/png.hpp"

int main(int argc, char** argv) {
  constexpr int side = 32, samples = 12;
  if (argc > 3) return std::fprintf(stderr, "usage: %s [BANK [OUT.png]]\n", argv[0]), 2;
  const Eigen::MatrixXd read =
      argc > 1 ? support::read_bank(argv[1], side) : sluice::models::image_bank(1, 60, side).image;
  if (read.cols() == 0) return std::fprintf(stderr, "%s: no pictures in %s\n", argv[0], argv[1]), 2;
  sluice::models::kernel_denoiser bank(read);
  auto denoiser = sluice::prediction<sluice::predicts::data>(std::ref(bank));

  const sluice::vp_linear schedule;
  Eigen::MatrixXd x(side * side, samples), finest;
  Eigen::MatrixXd shown(side * side, 0);
  std::printf("%td pictures of %d x %d\n%-26s %6s %10s %14s\n", read.cols(), side, side, "solver", "calls",
              "ms a sample", "RMS error");
  const auto draw = [&](const char* name, const auto& recipe, sluice::index_t steps, bool show) {
    auto levels = sluice::log_snr_levels(schedule, steps - 1, 1, 1e-2);
    levels.push_back(schedule.at(0));  // the last step goes to the data
    sluice::fill_start(x, levels.front(), sluice::stream{7});
    const auto begun = std::chrono::steady_clock::now();
    const auto r = sluice::sample(recipe, denoiser, x, levels);
    const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - begun;
    if (finest.size() == 0) finest = x;
    if (show) {
      shown.conservativeResize(Eigen::NoChange, shown.cols() + samples);
      shown.rightCols(samples) = x;
    }
    std::printf("%-26s %6lld %10.2f %14.4f\n", name, static_cast<long long>(r.stats.nfe), taken.count() / samples,
                std::sqrt((x - finest).squaredNorm() / static_cast<double>(x.size())));
  };
  draw("UniPC-3, the fine grid", sluice::unipc<3>{}, 400, true);
  for (const sluice::index_t steps : {5, 10, 20}) {
    const bool show = steps == 10;
    draw("Euler in t", sluice::euler<sluice::vp_linear>{schedule}, steps, show);
    draw("DDIM", sluice::ddim<>{}, steps, show);
    draw("DDIM under DualFast", sluice::dualfast<sluice::ddim<>>{}, steps, show);
    draw("DPM-Solver++(2M)", sluice::dpm_multistep<2>{}, steps, show);
    draw("UniPC-2", sluice::unipc<2>{}, steps, show);
  }
  const char* out = argc > 2 ? argv[2] : "generate_images.png";
  if (!support::write_grid(out, shown, side, samples, 3))
    return std::fprintf(stderr, "%s: cannot write %s\n", argv[0], out), 2;
  std::printf("wrote %s\n", out);
}
