// Fails for: a conditional covariance without the Schur complement; a mean that ignores the known frames; known frames
// that move or whose noisy input counts; features that share one variance; eigenvalues applied on the wrong side;
// paths of the circle that are not reweighted by the known frames, or reweighted with r2 for 2 r2; quality that takes
// impossible paths.
#include <Eigen/LU>
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <numbers>
#include <sluice/models/circle_video.hpp>
#include <sluice/models/gaussian_video.hpp>
#include <sluice/models/gp_video.hpp>
#include <support/check_throws.hpp>
#include <vector>

#include "denoiser_checks.hpp"

using namespace sluice;
using namespace sluice::models;
using tests::check_columns, tests::normal_columns;

namespace {
/// E[data | x] of one feature of variance s2 by one big linear system: noise sigma on free frames, none on known ones.
Eigen::VectorXd by_conditioning(const Eigen::MatrixXd& c, double s2, const std::vector<index_t>& known,
                                const Eigen::VectorXd& values, const Eigen::VectorXd& x, double alpha, double sigma) {
  const index_t n = c.rows();
  Eigen::VectorXd scale = Eigen::VectorXd::Constant(n, alpha), noise = Eigen::VectorXd::Constant(n, sigma * sigma),
                  y = x;
  for (std::size_t k = 0; k < known.size(); ++k) {
    scale(known[k]) = 1;
    noise(known[k]) = 0;
    y(known[k]) = values(static_cast<index_t>(k));
  }
  const Eigen::MatrixXd cross = s2 * c * scale.asDiagonal();
  Eigen::MatrixXd noisy = scale.asDiagonal() * cross;
  noisy.diagonal() += noise;
  return cross * noisy.partialPivLu().solve(y);
}
}  // namespace

TEST_CASE("Gaussian video: every conditional denoiser is linear conditioning", "[gaussian_video]") {
  for (const bool smooth : {false, true}) {
    const auto video = smooth ? gp_video(6, 3, {.v = 1.5, .l = 2, .nugget = 0.01}) : gaussian_video(6, 3, 0.8);
    const Eigen::MatrixXd c = video.covariance();
    const Eigen::MatrixXd x = normal_columns(18, 2, 3, 1.5), ends = normal_columns(3, 6, 4);
    for (const std::vector<index_t>& known :
         {std::vector<index_t>{}, {0}, {5}, {0, 5}, {4, 1}, {3, 0, 2}, {0, 1, 2, 3, 4, 5}}) {
      const Eigen::MatrixXd values = ends.leftCols(std::ssize(known));
      auto f = video.given(known, values);
      CHECK(std::ssize(f.free_frames()) == 6 - std::ssize(known));
      Eigen::MatrixXd d(18, 2);
      for (const noise_level l : {noise_level{0, 1, 0.05}, noise_level{0, 0.6, 0.8}, noise_level{0, 0.2, 5}}) {
        f(x, l, d);
        for (index_t col = 0; col < 2; ++col)
          for (index_t p = 0; p < 3; ++p) {
            Eigen::VectorXd frames(6), got(6);
            for (index_t i = 0; i < 6; ++i) {
              frames(i) = x(i * 3 + p, col);
              got(i) = d(i * 3 + p, col);
            }
            const Eigen::VectorXd expected =
                by_conditioning(c, video.variance()(p), known, values.row(p).transpose(), frames, l.alpha, l.sigma);
            CHECK((got - expected).norm() < 1e-10);
          }
        for (std::size_t k = 0; k < known.size(); ++k)
          CHECK(d.col(0).segment(3 * known[k], 3) == values.col(static_cast<index_t>(k)));
      }
      f(x, noise_level{0, 0, 1}, d);
      CHECK((d.col(1) - Eigen::Map<const Eigen::VectorXd>(f.mean().data(), 18)).norm() == 0);
      Eigen::MatrixXd other = x;  // what stands at known frames counts nothing
      for (const index_t k : known) other.middleRows(3 * k, 3).setConstant(1e300);
      Eigen::MatrixXd e(18, 2);
      f(x, noise_level{0, 0.6, 0.8}, d);
      f(other, noise_level{0, 0.6, 0.8}, e);
      CHECK(d == e);
    }
    auto both = video.given(std::array<index_t, 2>{0, 5}, ends.leftCols(2));
    auto step = video.given(std::array<index_t, 1>{0}, ends.leftCols(1))
                    .given(std::array<index_t, 1>{5}, ends.middleCols(1, 1));
    CHECK((both.covariance() - step.covariance()).norm() < 1e-13);
    CHECK((both.mean() - step.mean()).norm() < 1e-13);
    CHECK((both.mean() - bridge(video, ends.col(0), ends.col(1)).mean()).norm() == 0);
    check_columns(both, x, {0, 0.6, 0.8});
  }
}

TEST_CASE("Gaussian video: a far end does not matter, and samples have the law", "[gaussian_video]") {
  const auto video = gaussian_video(80, 2, 0.5);
  Eigen::MatrixXd ends(2, 2);
  ends << 1, -3, 2, 0.5;
  auto one = video.given(std::array<index_t, 1>{0}, ends.leftCols(1));
  auto two = video.given(std::array<index_t, 2>{0, 79}, ends);
  const Eigen::VectorXd x = normal_columns(160, 1, 1);
  Eigen::VectorXd a(160), b(160);
  one(x, at_kappa(0.7), a);
  two(x, at_kappa(0.7), b);
  CHECK((a - b).head(60).norm() < 1e-12);
  CHECK(gaussian_video(3, 4).variance()(3) == 0.25);
  CHECK(gaussian_video(3, 4).covariance()(0, 2) == Approx(0.81));

  const auto law = gp_video(5, 2).given(std::array<index_t, 1>{0}, ends.leftCols(1));
  constexpr int n = 4000;
  cursor random(stream(4));
  Eigen::VectorXd mean = Eigen::VectorXd::Zero(10);
  Eigen::MatrixXd second = Eigen::MatrixXd::Zero(5, 5);
  for (int k = 0; k < n; ++k) {
    const Eigen::VectorXd z = law.sample(random);
    CHECK(z.head(2) == ends.col(0));
    mean += z / n;
    for (index_t i = 0; i < 5; ++i)
      for (index_t j = 0; j < 5; ++j) second(i, j) += (z(2 * i) - law.mean()(0, i)) * (z(2 * j) - law.mean()(0, j)) / n;
  }
  const Eigen::MatrixXd& c = law.covariance();
  for (index_t i = 1; i < 5; ++i) {
    CHECK(std::abs(mean(2 * i + 1) - law.mean()(1, i)) < 5.5 * std::sqrt(c(i, i) / n));
    for (index_t j = 1; j < 5; ++j)
      CHECK(std::abs(second(i, j) - c(i, j)) < 5.5 * std::sqrt((c(i, i) * c(j, j) + c(i, j) * c(i, j)) / n));
  }
}

TEST_CASE("circle video: the mixture over paths, by the definition", "[circle_video]") {
  const circle_video_options options{.n_frames = 4, .n_theta = 3, .speeds = {0.4, 0.9}, .r2 = 0.02};
  circle_video video(options);
  REQUIRE(video.n_components() == 12);
  CHECK(video.paths()(2, 7) == Approx(std::cos(2 * std::numbers::pi / 3 - 0.9)));  // angle 1, direction -1, speed 1
  CHECK(video.paths()(7, 4) == Approx(std::sin(2 * std::numbers::pi / 3 + 1.2)));
  const Eigen::MatrixXd x = normal_columns(8, 3, 2);
  for (const std::vector<index_t>& known : {std::vector<index_t>{}, {0}, {0, 3}, {2}}) {
    const Eigen::MatrixXd values = 0.7 * normal_columns(2, std::ssize(known), 6);
    auto f = video.given(known, values);
    for (const noise_level l : {noise_level{0, 1, 0.3}, noise_level{0, 0.6, 0.8}}) {
      Eigen::MatrixXd d(8, 3);
      f(x, l, d);
      for (index_t c = 0; c < 3; ++c) {
        Eigen::ArrayXd log_r = Eigen::ArrayXd::Zero(12);
        const double v = l.alpha * l.alpha * 0.02 + l.sigma * l.sigma;
        Eigen::MatrixXd given(8, 12);
        for (index_t j = 0; j < 12; ++j)
          for (index_t i = 0; i < 4; ++i) {
            const Eigen::Vector2d m = video.paths().col(j).segment(2 * i, 2), y = x.col(c).segment(2 * i, 2);
            const auto at = std::find(known.begin(), known.end(), i);
            if (at != known.end()) {
              const Eigen::Vector2d a = values.col(at - known.begin());
              log_r(j) -= (m - a).squaredNorm() / (2 * 0.02);
              given.col(j).segment(2 * i, 2) = a;
            } else {
              log_r(j) -= (y - l.alpha * m).squaredNorm() / (2 * v);
              given.col(j).segment(2 * i, 2) = m + l.alpha * 0.02 / v * (y - l.alpha * m);
            }
          }
        const Eigen::ArrayXd r = (log_r - log_r.maxCoeff()).exp();
        CHECK((d.col(c) - given * (r / r.sum()).matrix()).norm() < 1e-12);
      }
    }
    check_columns(f, x, {0, 0.6, 0.8});
  }
}

TEST_CASE("circle video: the truth of the benchmark", "[circle_video]") {
  Eigen::MatrixXd ends(2, 2);
  ends << 1, -1, 0, 0;
  const circle_video video;
  const auto truth = video.given(std::array<index_t, 2>{0, 8}, ends);
  // Only the paths of speed pi / 8 from angle 0 lead from one side to the other: two ways, equally likely.
  CHECK((truth.weights().array() > 0.4).count() == 2);
  CHECK(truth.weights()(1) == Approx(truth.weights()(4)));
  cursor random(stream(5));
  double off = 0, rms = 0;
  constexpr int n = 2000;
  int up = 0;
  for (int i = 0; i < n; ++i) {
    const Eigen::VectorXd x = truth.sample(random);
    CHECK(x.head(2) == ends.col(0));
    off += truth.off_manifold(x) / n;
    rms += truth.path_rms(x) / n;
    up += x(9) > 0;
  }
  CHECK(off == Approx(0.044).margin(0.001));
  CHECK(rms == Approx(0.067).margin(0.001));
  CHECK(std::abs(up - n / 2) < 5.5 * std::sqrt(n) / 2);
  CHECK(truth.path_rms(video.paths().col(1)) < 1e-12);
  CHECK(truth.path_rms(video.paths().col(2)) > 0.5);  // another speed
}

TEST_CASE("video models refuse bad input by name", "[gaussian_video]") {
  const Eigen::MatrixXd one = Eigen::MatrixXd::Ones(2, 1);
  constexpr const char* f = "gaussian_frames";
  SLUICE_CHECK_THROWS(gaussian_frames(Eigen::MatrixXd::Ones(2, 3), one), f, "covariance.cols", -1);
  SLUICE_CHECK_THROWS(gaussian_frames(Eigen::MatrixXd(0, 0), one), f, "covariance.rows", -1);
  Eigen::MatrixXd c = Eigen::MatrixXd::Identity(2, 2);
  SLUICE_CHECK_THROWS(gaussian_frames(c, -one), f, "variance", 0);
  SLUICE_CHECK_THROWS(gaussian_frames(c, Eigen::VectorXd()), f, "variance.size", -1);
  c(0, 1) = 0.5;
  SLUICE_CHECK_THROWS(gaussian_frames(c, one), f, "covariance", -1);
  SLUICE_CHECK_THROWS(gaussian_video(0, 1), "gaussian_video", "n_frames", -1);
  SLUICE_CHECK_THROWS(gaussian_video(1, 0), "gaussian_video", "n_pixels", -1);
  SLUICE_CHECK_THROWS(gaussian_video(1, 1, 1), "gaussian_video", "rho", -1);
  SLUICE_CHECK_THROWS(gp_video(0, 1), "gp_video", "n_frames", -1);
  SLUICE_CHECK_THROWS(gp_video(1, 1, {.l = 0}), "gp_video", "options.l", -1);
  SLUICE_CHECK_THROWS(gp_video(1, 1, {.nugget = -1}), "gp_video", "options.nugget", -1);
  auto video = gaussian_video(4, 2);
  const std::vector<index_t> outside{1, 4}, twice{2, 2}, first{0};
  const Eigen::MatrixXd values = Eigen::MatrixXd::Ones(2, 2);
  SLUICE_CHECK_THROWS(video.given(outside, values), "given", "frames", 1);
  SLUICE_CHECK_THROWS(video.given(twice, values), "given", "frames", 1);
  SLUICE_CHECK_THROWS(video.given(first, values), "given", "values.cols", -1);
  SLUICE_CHECK_THROWS(video.given(first, Eigen::MatrixXd::Ones(3, 1)), "given", "values.rows", -1);
  SLUICE_CHECK_THROWS(bridge(video, one.col(0), Eigen::VectorXd::Ones(3)), "bridge", "last.size", -1);
  Eigen::VectorXd out(8);
  SLUICE_CHECK_THROWS(video(Eigen::VectorXd::Zero(7), at_kappa(1), out), f, "x.rows", -1);
  SLUICE_CHECK_THROWS(circle_video({.n_frames = 0}), "circle_video", "options.n_frames", -1);
  SLUICE_CHECK_THROWS(circle_video({.n_theta = 0}), "circle_video", "options.n_theta", -1);
  SLUICE_CHECK_THROWS(circle_video({.speeds = {}}), "circle_video", "options.speeds.size", -1);
  SLUICE_CHECK_THROWS(circle_video({.r2 = 0}), "circle_video", "options.r2", -1);
  circle_video circle;
  const std::vector<index_t> no_frame{9};
  SLUICE_CHECK_THROWS(circle.given(no_frame, values.leftCols(1)), "given", "frames", 0);
  SLUICE_CHECK_THROWS(circle.given(twice, values), "given", "frames", 1);
  SLUICE_CHECK_THROWS(circle_video({.n_frames = 1}).given(first, values.leftCols(1)), "given", "frames", -1);
  SLUICE_CHECK_THROWS(circle.path_rms(out), "path_rms", "x.size", -1);
}
