// Fails for: fresh noise of variance (s - s')^2; the residual noise against D^ under CFG++; ends exchanged.
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <sluice/generate/bidirectional.hpp>
#include <sluice/generate/time_grid.hpp>
#include <sluice/models/circle_video.hpp>
#include <sluice/models/gp_video.hpp>
#include <vector>

using namespace sluice;
using Eigen::MatrixXd;
using Eigen::VectorXd;
using models::circle_video;
using models::gaussian_frames;

namespace {

template <class V>
auto two_ends(const V& video, const VectorXd& a, const VectorXd& b) {
  constexpr std::array<index_t, 1> first{0};
  return two_ended(prediction<predicts::data>(video.given(first, a)), prediction<predicts::data>(video.given(first, b)),
                   prediction<predicts::data>(video));
}

/// A unit of noise e_k for one column each: with a linear model the sampler is affine in start and noise, so one batch
/// has its whole matrix, and the output law follows without a single draw.
struct basis_noise {
  index_t size;
  void operator()(MatrixXd& out, index_t i, const noise_level&, const noise_level&) const {
    out.setZero();
    for (index_t k = 0; k < size; ++k) out(k, 1 + size * (1 + i) + k) = 1;
  }
};
struct law {
  VectorXd mean;
  MatrixXd covariance;
};
template <class Recipe, class Models>
law exact_law(const Recipe& recipe, Models& models, const VectorXd& a, const VectorXd& b, index_t length,
              index_t noises, const std::vector<noise_level>& levels) {
  MatrixXd x = MatrixXd::Zero(length, 1 + length * (1 + noises));
  x.middleCols(1, length).diagonal().setConstant(levels.front().sigma);
  static_cast<void>(sample_between(recipe, models, x, a, b, levels));
  const VectorXd mean = x.col(0);
  const MatrixXd map = x.rightCols(x.cols() - 1).colwise() - mean;
  return {mean, map * map.transpose()};
}

}  // namespace

TEST_CASE("bidirectional: the output law on a linear model", "[bidirectional][statistical]") {
  constexpr index_t n_frames = 7, d = 2, length = n_frames * d, n_runs = 3000;
  const auto video = models::gp_video(n_frames, d, {.l = 2});
  const VectorXd a{{1.0, -0.5}}, b{{-0.4, 0.8}};
  auto models = two_ends(video, a, b);
  const auto levels = karras_levels(8, 0.01, 50);
  std::uint64_t seed = 0;
  const auto check = [&](const auto& recipe, index_t noises, double mean_1 = 0, double variance_1 = 0) {
    const law exact = exact_law(recipe.with_noise(basis_noise{length}), models, a, b, length, noises, levels);
    if (variance_1 > 0) {  // of frame 1, from an affine propagation written elsewhere (tests/golden/vibidsampler.json)
      CHECK(exact.mean(d) == Approx(mean_1).epsilon(1e-6));
      CHECK(exact.covariance(d, d) == Approx(variance_1).epsilon(1e-6));
    }
    MatrixXd x(length, n_runs);
    fill_start(x, levels.front(), stream(100, ++seed));
    auto sampled = recipe.with_noise(step_noise{stream(200, seed)});
    static_cast<void>(sample_between(sampled, models, x, a, b, levels));
    const VectorXd mean = x.rowwise().mean();
    const MatrixXd centred = x.colwise() - exact.mean, covariance = centred * centred.transpose() / n_runs;
    for (index_t i = 0; i < length; ++i) {
      INFO("element " << i);
      CHECK(std::abs(mean(i) - exact.mean(i)) <= 5.5 * std::sqrt(exact.covariance(i, i) / n_runs) + 1e-12);
      for (index_t j = 0; j <= i; ++j) {
        const double variance =
            exact.covariance(i, i) * exact.covariance(j, j) + exact.covariance(i, j) * exact.covariance(i, j);
        CHECK(std::abs(covariance(i, j) - exact.covariance(i, j)) <= 5.5 * std::sqrt(variance / n_runs) + 1e-12);
      }
    }
  };
  check(bidirectional<>{}, 8, 0.7236559435268862, 0.1772439301103388);
  check(bidirectional<renoising::standard>{}, 8, 0.6615689063871191, 0.19545051003975883);
  check(bidirectional<renoising::standard>{.forward_weight = 1.25}, 8);
  check(bidirectional<renoising::cfg_plus_plus, no_consistency>{}, 8, 0.733104668215102, 0.17298907897534122);
  check(bidirectional<>{.s_churn = 1.6}, 16);
}

namespace {
struct quality {
  double off_manifold = 0, path_rms = 0, good = 0;
};
template <class S, class Recipe>
quality run_circle(const Recipe& recipe, index_t n_steps, index_t n_runs) {
  const circle_video video;
  const VectorXd a{{1.0, 0.0}}, b{{-1.0, 0.0}};
  MatrixXd ends(2, 2);
  ends << a, b;
  const circle_video truth = video.given(std::array<index_t, 2>{0, video.n_frames() - 1}, ends);
  auto models = two_ends(video, a, b);
  const auto levels = karras_levels(n_steps, 0.002, 700);
  Eigen::Matrix<S, -1, -1> x(video.dimension(), n_runs);
  fill_start(x, levels.front(), stream(300));
  CHECK(sample_between(recipe, models, x, a, b, levels).status == status::completed);
  quality q;
  for (index_t j = 0; j < n_runs; ++j) {
    const double rms = truth.path_rms(x.col(j));
    q.off_manifold += truth.off_manifold(x.col(j)) / static_cast<double>(n_runs);
    q.path_rms += rms / static_cast<double>(n_runs);
    q.good += (rms < 0.15 ? 1.0 : 0.0) / static_cast<double>(n_runs);
  }
  INFO("off " << q.off_manifold << ", path " << q.path_rms << ", good " << q.good);
  CHECK(q.off_manifold > 0.01);
  return q;
}
}  // namespace

TEST_CASE("bidirectional: two ways around a circle", "[bidirectional][statistical]") {
  const step_noise noise{stream(301)};
  const auto one = run_circle<double>(one_sided{}, 25, 100),
             fusion = run_circle<double>(time_reversal_fusion<>{1, noise}, 25, 100),
             repeated = run_circle<double>(time_reversal_fusion<>{5, noise}, 25, 100),
             plain = run_circle<double>(bidirectional<renoising::standard, no_consistency>{.noise = noise}, 25, 100),
             full = run_circle<double>(bidirectional<>{.noise = noise}, 25, 100),
             single = run_circle<float>(bidirectional<>{.noise = noise}, 25, 100);
  CAPTURE(one.good, fusion.good, repeated.good, plain.good, full.good, single.good);
  CAPTURE(one.path_rms, fusion.path_rms, repeated.path_rms, plain.path_rms, full.path_rms, single.path_rms);
  CHECK(one.good < 0.7);
  CHECK(plain.good > one.good);
  CHECK(fusion.path_rms > 1.2 * full.path_rms);
  CHECK(repeated.good >= 0.95);
  for (const quality& q : {full, single}) {
    CHECK(q.good >= 0.95);
    CHECK(q.off_manifold <= 0.05);
    CHECK(q.path_rms < plain.path_rms);
    CHECK(q.path_rms < 0.068);  // under-dispersed: a perfect sampler has 0.068
  }
}
