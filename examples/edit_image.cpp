// edit_image [SOURCE_BANK TARGET_BANK IMAGE.png [OUT.png]]: edits an image of the source's kind into one of the
// target's kind. The models are the exact denoisers of two banks of images: folders of PNG files, or single files cut
// into tiles; all becomes grey, 32 x 32. Without arguments the banks are disks and crosses before the same backgrounds,
// and the images to edit have marks on their backgrounds that no image of a bank has: a right edit makes the disk a
// cross and leaves the marks. Prints calls, time and error, by InfEdit and by DDIM inversion; the picture has a row an
// image: the image, the right answer where it is known, edited by InfEdit, by inversion with twice the calls, by
// SDEdit.
#include <Eigen/Core>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <numbers>
#include <sluice/generate/ddcm.hpp>
#include <sluice/generate/edit_baselines.hpp>
#include <sluice/generate/time_grid.hpp>
#include <sluice/models/kernel_denoiser.hpp>
#include <string>
#include <vector>

#include "support/png.hpp"

using Eigen::MatrixXd;
using Eigen::VectorXd;

constexpr int side = 32;
enum class shape { disk, cross };

/// How much of a pixel the shape at (x, y) covers.
double cover(shape s, double dx, double dy) {
  dx = std::abs(dx), dy = std::abs(dy);
  const double disk = std::hypot(dx, dy) - 0.17;
  const double cross = std::min(std::max(dx - 0.2, dy - 0.065), std::max(dy - 0.2, dx - 0.065));
  return std::clamp(0.5 - side * (s == shape::disk ? disk : cross), 0.0, 1.0);
}
/// Two gradients, stripes and a chessboard, in several strengths.
double background(int k, double x, double y) {
  const int kind = k % 4, level = k / 4;
  const double t = kind == 0   ? y
                   : kind == 1 ? x
                   : kind == 2 ? 0.5 + 0.5 * std::sin(2 * std::numbers::pi * (2 + level) * x)
                               : static_cast<int>(x * (3 + level)) % 2 == static_cast<int>(y * (3 + level)) % 2;
  return -0.8 + 0.12 * level + (1.0 - 0.16 * level) * t;
}
/// Scratches that no image of a bank has.
double mark(int k, double x, double y) {
  const double u = k % 2 == 0 ? x : 1 - x;
  const bool line = std::abs(y - 0.9 + 0.12 * u) < 0.03 || std::abs(u - 0.08 - 0.05 * y) < 0.025;
  return line ? 0.55 : 0.12 * std::sin(2 * std::numbers::pi * (5 * x + 3 * y));
}
VectorXd picture(int k, shape s, int place, bool marked) {
  VectorXd image(side * side);
  for (int p = 0; p < side * side; ++p) {
    const double x = (p % side + 0.5) / side, y = (p / side + 0.5) / side;
    const double c = cover(s, x - 0.3 - 0.2 * (place % 3), y - 0.3 - 0.2 * (place / 3));
    image(p) = (1 - c) * (background(k, x, y) + (marked ? mark(k, x, y) : 0.0)) + c * 0.9;
  }
  return image;
}

struct problem {
  MatrixXd source, target, images, right;  // one image a column, values in [-1, 1]; right: empty if not known
};
problem disks_to_crosses() {
  problem p;
  constexpr int backgrounds = 24, places = 9;
  p.source.resize(side * side, backgrounds * places);
  p.target = p.source;
  for (int k = 0; k < backgrounds; ++k)
    for (int place = 0; place < places; ++place) {
      p.source.col(k * places + place) = picture(k, shape::disk, place, false);
      p.target.col(k * places + place) = picture(k, shape::cross, place, false);
    }
  constexpr int chosen[][2] = {{0, 0}, {1, 5}, {6, 4}, {11, 7}, {13, 2}};
  p.images.resize(side * side, std::ssize(chosen));
  p.right = p.images;
  for (Eigen::Index j = 0; j < p.images.cols(); ++j) {
    p.images.col(j) = picture(chosen[j][0], shape::disk, chosen[j][1], true);
    p.right.col(j) = picture(chosen[j][0], shape::cross, chosen[j][1], true);
  }
  return p;
}

int main(int argc, char** argv) {
  if (argc == 2 || argc == 3 || argc > 5)
    return std::fprintf(stderr, "usage: %s [SOURCE_BANK TARGET_BANK IMAGE.png [OUT.png]]\n", argv[0]), 2;
  const problem p = argc == 1 ? disks_to_crosses()
                              : problem{support::read_bank(argv[1], side),
                                        support::read_bank(argv[2], side),
                                        support::read_bank(argv[3], side),
                                        {}};
  if (p.source.cols() == 0 || p.target.cols() == 0 || p.images.cols() == 0)
    return std::fprintf(stderr, "%s: cannot read the banks and the image\n", argv[0]), 2;

  using namespace sluice;
  models::kernel_denoiser source(p.source), target(p.target);
  auto pair = conditions(prediction<predicts::data>(std::ref(source)), prediction<predicts::data>(std::ref(target)));
  const auto schedule = vp_discrete::scaled_linear();  // that of latent diffusion models
  std::vector<noise_level> list, even;
  for (const index_t i : consistency_indices(16)) list.push_back(schedule.at_index(i));
  for (const index_t i : linspace_indices(37, schedule.n_steps())) even.push_back(schedule.at_index(i));
  std::printf("%td + %td images in the banks, %d x %d pixels; %td to edit\n", p.source.cols(), p.target.cols(), side,
              side, p.images.cols());
  std::printf("%-24s %6s %9s %20s %14s\n", "editor", "calls", "ms/image", "RMS from the right", "RMS change");

  std::vector<MatrixXd> columns{p.images};
  if (p.right.size() > 0) columns.push_back(p.right);
  const auto run = [&](const char* name, const auto& editor, const std::vector<noise_level>& levels) {
    MatrixXd z(p.images.rows(), p.images.cols());
    const auto begun = std::chrono::steady_clock::now();
    const edit_result r = edit(editor, pair, z, p.images, levels, {}, stream{7});
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    const auto rms = [&](const MatrixXd& x) { return (z - x).norm() / std::sqrt(static_cast<double>(z.size())); };
    std::printf("%-24s %6lld %9.2f ", name, static_cast<long long>(r.stats.nfe),
                1e3 * seconds / static_cast<double>(z.cols()));
    if (p.right.size() > 0)
      std::printf("%20.4f", rms(p.right));
    else
      std::printf("%20s", "-");
    std::printf(" %14.4f\n", rms(p.images));
    columns.push_back(z);
  };
  run("InfEdit", ddcm{.strength = 0.5}, list);  // all start at half of their steps, the same noise
  run("DDIM inversion", ddim_inversion{.strength = 0.5}, even);
  run("SDEdit", sdedit{heun{.order = 1}, 0.5}, even);

  const char* out = argc > 4 ? argv[4] : "edit_image.png";
  const auto n = static_cast<Eigen::Index>(columns.size());
  MatrixXd grid(p.images.rows(), n * p.images.cols());
  for (Eigen::Index j = 0; j < p.images.cols(); ++j)
    for (Eigen::Index c = 0; c < n; ++c) grid.col(j * n + c) = columns[static_cast<std::size_t>(c)].col(j);
  if (!support::write_grid(out, grid, side, n)) return std::fprintf(stderr, "%s: cannot write %s\n", argv[0], out), 2;
  std::printf("wrote %s: a row an image: before, %sInfEdit, inversion, SDEdit\n", out,
              p.right.size() > 0 ? "the right answer, " : "");
}
