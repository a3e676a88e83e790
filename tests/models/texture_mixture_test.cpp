// Fails for: a basis that is not orthonormal; rows and columns of the spectrum exchanged between dense and separable;
// aliases left out, counted twice or without their gain; means that are subsampled instead of averaged; a quality that
// forgets the class means or is not relative.
#include <Eigen/Cholesky>
#include <catch2/catch.hpp>
#include <cmath>
#include <sluice/core/thread_pool.hpp>
#include <sluice/models/texture_mixture.hpp>
#include <support/check_throws.hpp>
#include <vector>

#include "denoiser_checks.hpp"

using namespace sluice;
using namespace sluice::models;
using tests::check_columns, tests::normal_columns;

namespace {
/// A spectrum that is not symmetric, so that exchanged axes show.
texture_law lopsided(index_t r) {
  texture_law law{r, Eigen::Vector2d(0.6, 0.4), normal_columns(r * r, 2, 4), texture_spectrum(r)};
  for (index_t i = 0; i < r; ++i)
    for (index_t j = 0; j < r; ++j) law.spectrum(i, j) *= 1 + static_cast<double>(i) / 3;
  return law;
}
}  // namespace

TEST_CASE("textures: the basis is orthonormal and the spectrum is the formula", "[texture_mixture]") {
  for (const index_t r : {1, 2, 5, 8}) {
    const Eigen::MatrixXd c = cosine_basis(r);
    CHECK((c * c.transpose() - Eigen::MatrixXd::Identity(r, r)).norm() < 1e-14 * static_cast<double>(r * r));
  }
  const Eigen::MatrixXd s = texture_spectrum(16, 2, 0.3);
  CHECK(s(0, 0) == 4);
  CHECK(s(3, 5) == Approx(4 / std::pow(1 + 0.3 * 34, 2)));
  CHECK(block_average(Eigen::MatrixXd::Constant(16, 3, 0.7), 4).isConstant(0.7, 1e-15));
}

TEST_CASE("textures: the denoiser is that of a full covariance, dense and separable", "[texture_mixture]") {
  const index_t r = 6, n = r * r;
  const texture_law law = lopsided(r);
  texture_mixture dense(law), separable(law, token_mixing::separable);
  CHECK(dense.multiply_adds() == 2 * n * n + 4 * n);
  CHECK(separable.multiply_adds() == 4 * n * r + 4 * n);
  // Covariance U^T diag(L) U with U(k, i) from the definition of the basis.
  const Eigen::MatrixXd c = cosine_basis(r);
  Eigen::MatrixXd u(n, n);
  Eigen::VectorXd spectrum(n);
  for (index_t k = 0; k < n; ++k) {
    spectrum(k) = law.spectrum(k / r, k % r);
    for (index_t i = 0; i < n; ++i) u(k, i) = c(k / r, i / r) * c(k % r, i % r);
  }
  const Eigen::MatrixXd covariance = u.transpose() * spectrum.asDiagonal() * u;
  const Eigen::MatrixXd x = normal_columns(n, 3, 5, 1.5);
  Eigen::MatrixXd a(n, 3), b(n, 3);
  for (const noise_level l : {noise_level{0, 1, 0.05}, noise_level{0, 0.6, 0.8}, noise_level{0, 0.2, 5}}) {
    dense(x, l, a);
    separable(x, l, b);
    CHECK((a - b).norm() < 1e-12);
    const Eigen::MatrixXd noisy = l.alpha * l.alpha * covariance + l.sigma * l.sigma * Eigen::MatrixXd::Identity(n, n);
    const auto solve = noisy.ldlt();
    for (index_t col = 0; col < 3; ++col) {
      Eigen::Vector2d log_r;
      for (index_t j = 0; j < 2; ++j) {
        const Eigen::VectorXd d = x.col(col) - l.alpha * law.means.col(j);
        log_r(j) = std::log(law.weights(j)) - d.dot(solve.solve(d)) / 2;
      }
      const Eigen::Vector2d share = (log_r.array() - log_r.maxCoeff()).exp();
      Eigen::VectorXd expected = Eigen::VectorXd::Zero(n);
      for (index_t j = 0; j < 2; ++j)
        expected += share(j) / share.sum() *
                    (law.means.col(j) + l.alpha * covariance * solve.solve(x.col(col) - l.alpha * law.means.col(j)));
      CHECK((a.col(col) - expected).norm() < 1e-11);
    }
  }
  check_columns(dense, normal_columns(n, 19, 5), {0, 0.6, 0.8});
  check_columns(separable, normal_columns(n, 19, 5), {0, 0.6, 0.8});
  dense(x, noise_level{0, 0, 1}, a);
  CHECK((a.colwise() - law.means * law.weights).norm() < 1e-12);
  dense(x, noise_level{0, 0.5, 0}, a);
  CHECK((a - 2 * x).norm() < 1e-12);
}

TEST_CASE("textures: the low-resolution law is that of block averages", "[texture_mixture]") {
  const index_t r = 8, h = 4;
  const texture_law law = lopsided(r), low = low_resolution(law);
  CHECK((low.means - block_average(law.means, r)).norm() < 1e-15);
  // Exactly: the covariance of the averages in the low basis is diagonal with the low spectrum.
  const Eigen::MatrixXd c = cosine_basis(r), d = cosine_basis(h);
  Eigen::MatrixXd pool = Eigen::MatrixXd::Zero(h, r);
  for (index_t i = 0; i < r; ++i) pool(i / 2, i) = 0.5;
  const Eigen::MatrixXd map = d * pool * c.transpose();  // low frequency by high frequency, along one axis
  for (index_t a = 0; a < h * h; ++a)
    for (index_t b = 0; b < h * h; ++b) {
      double covariance = 0;
      for (index_t k = 0; k < r; ++k)
        for (index_t m = 0; m < r; ++m)
          covariance += law.spectrum(k, m) * map(a / h, k) * map(b / h, k) * map(a % h, m) * map(b % h, m);
      CHECK(std::abs(covariance - (a == b ? low.spectrum(a / h, a % h) : 0.0)) < 1e-14);
    }
  CHECK(low_resolution(benchmark_textures(32)).r == 16);
}

TEST_CASE("textures: samples of the truth score as the truth", "[texture_mixture]") {
  const texture_mixture m(benchmark_textures(), token_mixing::separable);
  constexpr index_t n = 800;
  Eigen::MatrixXd x(m.dimension(), n), plain(m.dimension(), n);
  Eigen::VectorX<index_t> label(n);
  for (index_t i = 0; i < n; ++i) {
    cursor random(stream(3).derive(static_cast<std::uint64_t>(i)));
    auto [image, j] = m.sample(random);
    x.col(i) = image;
    label(i) = j;
    plain.col(i) = m.law().means.col(j);
  }
  CHECK((m.classify(x).array() != label.array()).count() <= 1);
  const texture_quality q = m.quality(x);
  CHECK(q.class_total_variation < 0.05);
  CHECK(q.relative_spectral_w2 < 0.03);  // 1 / sqrt(4 n) = 0.018 is what sampling gives
  CHECK(q.low_band_ratio == Approx(1).margin(0.05));
  CHECK(q.high_band_ratio == Approx(1).margin(0.02));
  CHECK(m.quality(plain).relative_spectral_w2 == Approx(1));  // no texture at all
  CHECK(m.quality(plain).low_band_ratio == Approx(0).margin(1e-20));
  CHECK(m.quality(plain + 1.2 * (x - plain)).high_band_ratio == Approx(1.44 * q.high_band_ratio).epsilon(0.01));
  const std::vector<index_t> part{1};
  const texture_mixture one(m.law().subset(part), token_mixing::separable);
  CHECK(one.quality(plain.col(0)).class_total_variation == 0);
  CHECK(m.law().inflated(0.3).spectrum(2, 1) == Approx(m.law().spectrum(2, 1) + 0.09));
}

TEST_CASE("textures: the same bits on every executor", "[texture_mixture][parallel]") {
  thread_pool pool(3);
  const texture_law law = benchmark_textures(16);
  texture_mixture one(law);
  texture_mixture<thread_pool> many(law, token_mixing::dense, pool);
  const Eigen::MatrixXd x = normal_columns(256, 5, 6);
  Eigen::MatrixXd a(256, 5), b(256, 5);
  one(x, at_kappa(0.8), a);
  many(x, at_kappa(0.8), b);
  CHECK(a == b);
}

TEST_CASE("textures: bad input by name", "[texture_mixture]") {
  const texture_law law = benchmark_textures(4);
  texture_law wrong = law;
  wrong.r = 5;
  SLUICE_CHECK_THROWS(texture_mixture(wrong), "texture_mixture", "law.means.rows", -1);
  wrong = law;
  wrong.spectrum.resize(3, 4);
  SLUICE_CHECK_THROWS(texture_mixture(wrong), "texture_mixture", "law.spectrum.rows", -1);
  SLUICE_CHECK_THROWS(low_resolution(benchmark_textures(5)), "block_average", "r", -1);
  SLUICE_CHECK_THROWS(block_average(law.means, 6), "block_average", "images.rows", -1);
  SLUICE_CHECK_THROWS(texture_spectrum(0), "texture_spectrum", "r", -1);
  SLUICE_CHECK_THROWS(texture_spectrum(4, 1, -1), "texture_spectrum", "c", -1);
  SLUICE_CHECK_THROWS(cosine_basis(0), "cosine_basis", "r", -1);
  SLUICE_CHECK_THROWS(benchmark_textures(0), "benchmark_textures", "r", -1);
  const std::vector<index_t> outside{4};
  SLUICE_CHECK_THROWS(law.subset(outside), "subset", "classes", 0);
  texture_mixture m(law);
  SLUICE_CHECK_THROWS(m.quality(Eigen::MatrixXd(16, 0)), "quality", "images.cols", -1);
  SLUICE_CHECK_THROWS(m.classify(Eigen::MatrixXd(15, 1)), "classify", "images.rows", -1);
  Eigen::VectorXd out(16);
  SLUICE_CHECK_THROWS(m(Eigen::VectorXd::Zero(15), at_kappa(1), out), "texture_mixture", "x.rows", -1);
}
