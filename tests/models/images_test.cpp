// Fails for: draws in another order; rows and columns exchanged; an edge that is not one pixel wide; a block average
// that subsamples; a ring without its hole; a transmittance from 0 instead of from the near end; integrals that miss a
// narrow bump; tails that cancel.
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <sluice/models/images.hpp>
#include <sluice/models/kernel_denoiser.hpp>
#include <sluice/models/radiance_ray.hpp>
#include <support/check_throws.hpp>

using namespace sluice;
using namespace sluice::models;

TEST_CASE("images: kinds, ranges and block averages", "[images]") {
  const auto set = image_bank(1, 400, 16);
  std::array<int, 5> count{};
  for (const image_kind k : set.label) ++count[static_cast<std::size_t>(k)];
  CHECK(count == std::array{78, 76, 88, 80, 78});
  CHECK(set.image.minCoeff() >= -0.9);
  CHECK(set.image.maxCoeff() <= 0.9);
  CHECK(set.image.col(17) == procedural_image(1, 17).render(16));  // any image alone
  CHECK(of_kind(set, image_kind::ring).cols() == 88);
  CHECK(image_bank(2, 3, 16).image != set.image.leftCols(3));
  const auto fine = image_bank(1, 400, 64);
  Eigen::MatrixXd low = block_average(block_average(fine.image, 64), 32);
  // Averages of a fine render and a coarse render agree to a pixel of the edges.
  CHECK((low - set.image).cwiseAbs().mean() < 0.02);
  for (index_t c = 0; c < 400; ++c)
    CHECK(std::abs(low.col(c).mean() - fine.image.col(c).mean()) < 1e-12);  // 4096 terms
  CHECK(block_average(Eigen::MatrixXd::Constant(64, 2, 0.3), 8) == Eigen::MatrixXd::Constant(16, 2, 0.3));
  Eigen::VectorXd ramp(16);
  for (index_t i = 0; i < 16; ++i) ramp(i) = static_cast<double>(i);
  CHECK(block_average(ramp, 4) == Eigen::Vector4d(2.5, 4.5, 10.5, 12.5));
}

TEST_CASE("images: rows go down, and edges are one pixel wide", "[images]") {
  index_t seen = 0;
  for (index_t i = 0; i < 60; ++i) {
    const procedural_image p(1, i);
    const Eigen::VectorXd image = p.render(32);
    CHECK(image(5 * 32 + 20) == p(20.5 / 32, 5.5 / 32, 32));
    if (p.kind() == image_kind::gradient) continue;
    // Along a line the image is flat but for the pixels at an edge: those need not be many.
    const double low = image.minCoeff(), high = image.maxCoeff();
    index_t between = 0;
    for (index_t q = 0; q < image.size(); ++q) between += image(q) > low + 1e-9 && image(q) < high - 1e-9;
    CHECK(between < 220);
    ++seen;
  }
  CHECK(seen > 40);
}

TEST_CASE("images: a bank of one class is a conditional model", "[images]") {
  const auto set = image_bank(1, 40, 8);
  kernel_denoiser all(set.image), rings(of_kind(set, image_kind::ring));
  Eigen::VectorXd d(64);
  const Eigen::MatrixXd bank = of_kind(set, image_kind::ring);
  rings(bank.col(0), at_kappa(1e-3), d);
  CHECK((d - bank.col(0)).norm() < 1e-12);
  all(bank.col(0), at_kappa(1e6), d);
  CHECK((d - set.image.rowwise().mean()).norm() < 1e-6);
}

TEST_CASE("radiance ray: closed forms against sums, and narrow bumps", "[radiance_ray]") {
  const radiance_ray ray(Eigen::Vector2d(1.5, 0.8), Eigen::Vector2d(0.8, 1.6), Eigen::Vector2d(0.05, 0.2), 0, 3);
  CHECK(ray.exact().colour == Approx(0.49073878647144326).epsilon(1e-12));
  CHECK(ray.exact().depth == Approx(0.7966717523506265).epsilon(1e-12));
  CHECK(ray.exact().opacity == Approx(0.8997411562770936).epsilon(1e-14));
  CHECK(ray.transmittance(1.5) == Approx(0.174325675492253).epsilon(1e-13));
  CHECK(ray.transmittance(0) == 1);
  for (const double t : {0.3, 0.78, 1.1, 2.0}) {
    const double h = 1e-6;
    CHECK(-(ray.transmittance(t + h) - ray.transmittance(t - h)) / (2 * h) ==
          Approx(ray.transmittance(t) * ray.density(t)).epsilon(1e-7).margin(1e-9));
  }
  double colour = 0, depth = 0;  // midpoints
  constexpr int n = 300'000;
  for (int i = 0; i < n; ++i) {
    const double t = 3 * (i + 0.5) / n, w = 3.0 / n * ray.transmittance(t) * ray.density(t);
    colour += w * radiance_ray::colour(t);
    depth += w * t;
  }
  CHECK(ray.exact().colour == Approx(colour).epsilon(1e-9));
  CHECK(ray.exact().depth == Approx(depth).epsilon(1e-9));
  // A wall at t = 2: all of its colour, whatever its width.
  const auto wall = [](double sd) {
    return radiance_ray(Eigen::VectorXd::Constant(1, 40), Eigen::VectorXd::Constant(1, 2),
                        Eigen::VectorXd::Constant(1, sd), 0.5, 50);
  };
  CHECK(wall(1e-5).exact().opacity == Approx(1).epsilon(1e-15));
  CHECK(wall(1e-5).exact().colour == Approx(1).epsilon(1e-6));
  CHECK(wall(1e-5).exact().depth == Approx(2).epsilon(1e-4));
  // Far behind a bump nothing is lost to cancellation.
  CHECK(wall(0.1).optical_depth(2.9, 3.5) == Approx(40 * (std::erfc(9 / std::sqrt(2)) / 2)).epsilon(1e-9));
}

TEST_CASE("images and rays refuse bad input by name", "[images]") {
  SLUICE_CHECK_THROWS(procedural_image(1, -1), "procedural_image", "i", -1);
  SLUICE_CHECK_THROWS(procedural_image(1, 0).render(0), "render", "r", -1);
  SLUICE_CHECK_THROWS(image_bank(1, -1, 8), "image_bank", "n", -1);
  SLUICE_CHECK_THROWS(image_bank(1, 1, 0), "image_bank", "r", -1);
  SLUICE_CHECK_THROWS(block_average(Eigen::MatrixXd::Zero(9, 1), 3), "block_average", "r", -1);
  const Eigen::VectorXd one = Eigen::VectorXd::Ones(1), two = Eigen::VectorXd::Ones(2);
  constexpr const char* f = "radiance_ray";
  SLUICE_CHECK_THROWS(radiance_ray(one, two, one, 0, 1), f, "mean.size", -1);
  SLUICE_CHECK_THROWS(radiance_ray(one, one, two, 0, 1), f, "sd.size", -1);
  SLUICE_CHECK_THROWS(radiance_ray(-one, one, one, 0, 1), f, "amount", 0);
  SLUICE_CHECK_THROWS(radiance_ray(one, one, 0 * one, 0, 1), f, "sd", 0);
  SLUICE_CHECK_THROWS(radiance_ray(one, one * std::nan(""), one, 0, 1), f, "mean", 0);
  SLUICE_CHECK_THROWS(radiance_ray(one, one, one, 1, 1), f, "far", -1);
}
