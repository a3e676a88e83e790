// interpolate_frames [FIRST.png LAST.png [OUT.png]]: the frames between two pictures. The model is the exact denoiser
// of a bank of short films. Without arguments the films show a disk that travels on a circle, either way round and at
// several speeds; the first frame has it on the left, the last one on the right, so it may go over the top or under.
// With two pictures the films pan across them and fade from one to the other. Prints what each sampler costs and how
// near it comes to a film of the bank; the picture has a row of frames a sampler: its worst run.
#include <Eigen/Core>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <numbers>
#include <sluice/generate/bidirectional.hpp>
#include <sluice/generate/time_grid.hpp>

#include "support/png.hpp"

using Eigen::MatrixXd;
using Eigen::VectorXd;

constexpr int n_frames = 9, side = 32, pixels = side * side;

/// Films as columns, one pixel after the other, one frame after the other; each is smeared by a little noise.
struct bank {
  MatrixXd films;
  static constexpr double variance = 1e-4;
  void add(const VectorXd& film) {
    films.conservativeResize(n_frames * pixels, films.cols() + 1);
    films.rightCols(1) = film;
  }
};

/// E[film | noisy film], of all films or of those whose first frame is given: they are weighted by how well theirs
/// agrees with it.
struct bank_denoiser {
  const bank& of;
  const VectorXd* first = nullptr;
  template <class X, class Out>
  void operator()(const X& x, const sluice::noise_level& level, Out& out) const {
    const double noise = level.kappa() * level.kappa(), v = bank::variance + noise;
    const VectorXd y = x / level.alpha;
    const int skip = first == nullptr ? 0 : pixels;  // a given frame is told by the frame alone, not by the state
    VectorXd e = (of.films.bottomRows(of.films.rows() - skip).colwise() - y.tail(y.size() - skip))
                     .colwise()
                     .squaredNorm()
                     .transpose() /
                 (2 * v);
    if (first != nullptr)
      e += (of.films.topRows(pixels).colwise() - *first).colwise().squaredNorm().transpose() / (2 * bank::variance);
    const VectorXd w = (e.minCoeff() - e.array()).exp();
    out = of.films * (w / w.sum());
    out += bank::variance / v * (y - out);
    if (first != nullptr) out.head(pixels) = *first;
  }
};

VectorXd disk(double angle) {
  VectorXd frame(pixels);
  const double x = 0.5 + 0.3 * std::cos(angle), y = 0.5 - 0.3 * std::sin(angle);
  for (int p = 0; p < pixels; ++p) {
    const double distance = std::hypot((p % side + 0.5) / side - x, (p / side + 0.5) / side - y) - 0.13;
    frame(p) = 1.8 * std::clamp(0.5 - distance * side, 0.0, 1.0) - 0.9;
  }
  return frame;
}
bank circling_disks() {
  bank b;
  for (int k = 0; k < 16; ++k)
    for (const double speed : {-1.5, -1.0, -0.5, 0.5, 1.0, 1.5}) {
      VectorXd film(n_frames * pixels);
      for (int f = 0; f < n_frames; ++f)
        film.segment(f * pixels, pixels) = disk((k + speed * f) * std::numbers::pi / 8);
      b.add(film);
    }
  return b;
}
/// `from`, moved by a number of columns and rows; the border is repeated.
VectorXd moved(const VectorXd& from, double columns, double rows) {
  VectorXd frame(pixels);
  for (int p = 0; p < pixels; ++p) {
    const int c = std::clamp(p % side - static_cast<int>(std::lround(columns)), 0, side - 1),
              r = std::clamp(p / side - static_cast<int>(std::lround(rows)), 0, side - 1);
    frame(p) = from(r * side + c);
  }
  return frame;
}
bank panning(const VectorXd& a, const VectorXd& b) {
  bank films;
  for (const auto& [from, to] : {std::pair{&a, &b}, {&b, &a}, {&a, &a}, {&b, &b}})
    for (const auto& [dx, dy] : {std::pair{0.0, 0.0}, {0.7, 0.0}, {-0.7, 0.0}, {0.0, 0.7}, {0.0, -0.7}}) {
      VectorXd film(n_frames * pixels);
      for (int f = 0; f < n_frames; ++f) {
        const double t = static_cast<double>(f) / (n_frames - 1), left = f - n_frames + 1;
        film.segment(f * pixels, pixels) =
            from == to ? moved(*from, f * dx, f * dy)
                       : (1 - t) * moved(*from, f * dx, f * dy) + t * moved(*to, left * dx, left * dy);
      }
      films.add(film);
    }
  return films;
}

/// A picture of any size as a frame, row by row.
bool read_frame(const char* path, VectorXd& frame) {
  const auto picture = support::read_grey(path);
  if (!picture) return false;
  frame = support::resized(*picture, side, side).transpose().reshaped();
  return true;
}

int main(int argc, char** argv) {
  if (argc == 2 || argc > 4) return std::fprintf(stderr, "usage: %s [FIRST.png LAST.png [OUT.png]]\n", argv[0]), 2;
  VectorXd first = disk(std::numbers::pi), last = disk(0);
  if (argc > 2 && (!read_frame(argv[1], first) || !read_frame(argv[2], last)))
    return std::fprintf(stderr, "%s: cannot read the two pictures\n", argv[0]), 2;
  const bank films = argc > 2 ? panning(first, last) : circling_disks();

  using sluice::prediction, sluice::predicts;
  auto models = sluice::two_ended(prediction<predicts::data>(bank_denoiser{films, &first}),
                                  prediction<predicts::data>(bank_denoiser{films, &last}),
                                  prediction<predicts::data>(bank_denoiser{films}));
  const auto levels = sluice::karras_levels(25, 0.01, 300);
  constexpr int n_runs = 12;
  std::printf("%td films of %d frames, %d x %d pixels; %d runs\n", films.films.cols(), n_frames, side, side, n_runs);
  std::printf("%-24s %11s %8s %12s %14s\n", "sampler", "evaluations", "ms", "last frame", "nearest film");

  MatrixXd rows(pixels, 0);  // of the picture: frames one after the other
  const auto run = [&](const char* name, auto recipe) {
    double seconds = 0, last_error = 0, film_error = 0, worst = -1;
    rows.conservativeResize(pixels, rows.cols() + n_frames);
    std::int64_t nfe = 0;
    for (std::uint64_t r = 0; r < n_runs; ++r) {
      if constexpr (requires { recipe.noise; }) recipe.noise = {sluice::stream{11}, r};
      VectorXd x(n_frames * pixels);
      sluice::fill_start(x, levels.front(), sluice::stream{12}, r);
      const auto begun = std::chrono::steady_clock::now();
      const auto result = sluice::sample_between(recipe, models, x, first, last, levels);
      seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count() / n_runs;
      nfe = result.stats.nfe;
      last_error += (x.tail(pixels) - last).norm() / std::sqrt(pixels) / n_runs;
      const double away =
          std::sqrt((films.films.colwise() - x).colwise().squaredNorm().minCoeff() / static_cast<double>(x.size()));
      film_error += away / n_runs;
      if (away > worst) worst = away, rows.rightCols(n_frames) = x.reshaped(pixels, n_frames);
    }
    std::printf("%-24s %11lld %8.1f %12.4f %14.4f\n", name, static_cast<long long>(nfe), 1e3 * seconds, last_error,
                film_error);
  };
  run("first frame only", sluice::one_sided{});
  run("fusion, 1 pass", sluice::time_reversal_fusion<>{});
  run("fusion, 5 passes", sluice::time_reversal_fusion<>{.repeats = 5});
  run("bidirectional", sluice::bidirectional<>{});

  const char* out = argc > 3 ? argv[3] : "interpolate_frames.png";
  if (!support::write_grid(out, rows, side, n_frames, 3))
    return std::fprintf(stderr, "%s: cannot write %s\n", argv[0], out), 2;
  std::printf("wrote %s: the worst run of each sampler, in this order\n", out);
}
