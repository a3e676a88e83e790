// Fails for: a border that is not replicated; window offsets exchanged between axes in queries or keys only; a position
// term without the square, or that pads with neighbours; a running maximum that does not rescale one of the sums; keys
// of padding that count; queries of a group that is not full; alpha left out.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <sluice/core/thread_pool.hpp>
#include <sluice/models/patch_attention.hpp>
#include <support/check_throws.hpp>
#include <vector>

#include "denoiser_checks.hpp"

using namespace sluice;
using namespace sluice::models;
using tests::check_columns, tests::normal_columns;

namespace {
/// The definition, pair by pair.
Eigen::VectorXd by_definition(const Eigen::MatrixXd& bank, index_t r, index_t w, double ell, const Eigen::VectorXd& y,
                              double kappa) {
  const auto pixel = [r](const auto& image, index_t i, index_t j) {
    return image(std::clamp<index_t>(i, 0, r - 1) * r + std::clamp<index_t>(j, 0, r - 1));
  };
  Eigen::VectorXd out(r * r);
  for (index_t q = 0; q < r * r; ++q) {
    Eigen::MatrixXd logit(r * r, bank.cols());
    for (index_t n = 0; n < bank.cols(); ++n)
      for (index_t k = 0; k < r * r; ++k) {
        double distance = 0;
        for (index_t a = -w; a <= w; ++a)
          for (index_t b = -w; b <= w; ++b) {
            const double d = pixel(y, q / r + a, q % r + b) - pixel(bank.col(n), k / r + a, k % r + b);
            distance += d * d;
          }
        const double di = static_cast<double>(q / r - k / r) / static_cast<double>(r),
                     dj = static_cast<double>(q % r - k % r) / static_cast<double>(r);
        logit(k, n) = -distance / (2 * kappa * kappa) - (di * di + dj * dj) / (2 * ell * ell);
      }
    const Eigen::MatrixXd weight = (logit.array() - logit.maxCoeff()).exp();
    out(q) = weight.cwiseProduct(bank).sum() / weight.sum();
  }
  return out;
}
}  // namespace

TEMPLATE_TEST_CASE("patch attention: the definition", "[patch_attention]", double, float) {
  const double tolerance = std::same_as<TestType, double> ? 1e-12 : 1e-4;  // floats: epsilon |y| |difference| / kappa^2
  for (const index_t r : {1, 3, 7, 16, 19})
    for (const index_t w : {0, 1, 2}) {
      if (w >= r) continue;
      const index_t n_images = r < 10 ? 5 : 3;
      const Eigen::MatrixXd bank = 0.5 * normal_columns(r * r, n_images, 1), x = normal_columns(r * r, 2, 2);
      patch_attention<TestType> f(bank, r, {.window = w, .ell = 0.1});
      CHECK(f.multiply_adds() == std::pow(r, 4) * static_cast<double>(n_images * ((2 * w + 1) * (2 * w + 1) + 1)));
      Eigen::MatrixXd d(r * r, 2);
      for (const noise_level l : {noise_level{0, 1, 0.2}, noise_level{0, 0.6, 0.8}, noise_level{0, 0.1, 5}}) {
        f(x, l, d);
        for (index_t c = 0; c < 2; ++c)
          CHECK((d.col(c) - by_definition(bank, r, w, 0.1, x.col(c) / l.alpha, l.kappa())).cwiseAbs().maxCoeff() <
                tolerance);
      }
    }
}

TEMPLATE_TEST_CASE("patch attention: limits", "[patch_attention]", double, float) {
  const index_t r = 8;
  const Eigen::MatrixXd bank = (0.5 * normal_columns(r * r, 2, 1)).cast<float>().cast<double>();
  const double infinity = std::numeric_limits<double>::infinity();
  Eigen::VectorXd d(r * r);
  patch_attention<TestType> one(bank.leftCols(1), r), everywhere(bank, r, {.window = 1, .ell = infinity});
  for (const double kappa : {0.0, 1e-6}) {
    one(bank.col(0), at_kappa(kappa), d);
    CHECK(d == bank.col(0));
    everywhere(bank.col(1), at_kappa(kappa), d);
    CHECK(d == bank.col(1));
  }
  everywhere(bank.col(1), noise_level{0, 0, 1}, d);
  CHECK((d.array() - bank.mean()).abs().maxCoeff() < 1e-6);
  one(bank.col(0), noise_level{0, 0, 1}, d);  // positions alone
  CHECK((d - by_definition(bank.leftCols(1), r, 1, 0.05, bank.col(0), 1e9)).cwiseAbs().maxCoeff() < 1e-6);
}

TEST_CASE("patch attention: columns, floats and executors", "[patch_attention][parallel]") {
  const index_t r = 9;
  const Eigen::MatrixXd bank = 0.5 * normal_columns(r * r, 4, 1), x = normal_columns(r * r, 6, 2);
  patch_attention<> f(bank, r);
  check_columns(f, x, {0, 0.6, 0.8});
  thread_pool pool(3);
  patch_attention<double, thread_pool> many(bank, r, {}, pool);
  patch_attention<float> narrow(bank, r);
  Eigen::MatrixXd a(r * r, 6), b(r * r, 6);
  f(x, at_kappa(0.4), a);
  many(x, at_kappa(0.4), b);
  CHECK(a == b);
  narrow(x, at_kappa(0.4), b);
  CHECK((a - b).cwiseAbs().maxCoeff() < 1e-4);
}

TEST_CASE("patch attention: the exponential", "[patch_attention]") {
  using vector = models::detail::lane_vector<double>;
  constexpr index_t lanes = models::detail::lanes_of<double>::count;
  double worst = 0;
  for (double x = 0; x > -708; x -= 0.0371) {
    vector v = vector{} + x;
    v[lanes - 1] = -800;
    models::detail::exp_of_negative(v);
    worst = std::max(worst, std::abs(v[0] / std::exp(x) - 1));
    CHECK(v[lanes - 1] == 0);
  }
  CHECK(worst < 4.5e-16);
  vector v = vector{};
  models::detail::exp_of_negative(v);
  CHECK(v[0] == 1);
}

TEST_CASE("patch attention: bad input by name", "[patch_attention]") {
  const Eigen::MatrixXd bank = Eigen::MatrixXd::Zero(16, 2);
  using model = patch_attention<>;
  constexpr const char* f = "patch_attention";
  SLUICE_CHECK_THROWS(model(bank, 0), f, "r", -1);
  SLUICE_CHECK_THROWS(model(bank, 5), f, "bank.rows", -1);
  SLUICE_CHECK_THROWS(model(Eigen::MatrixXd(16, 0), 4), f, "bank.cols", -1);
  SLUICE_CHECK_THROWS(model(bank * std::nan(""), 4), f, "bank", 0);
  SLUICE_CHECK_THROWS(model(bank, 4, {.window = 4}), f, "options.window", -1);
  SLUICE_CHECK_THROWS(model(bank, 4, {.ell = 0}), f, "options.ell", -1);
  model m(bank, 4);
  Eigen::VectorXd out(16);
  SLUICE_CHECK_THROWS(m(Eigen::VectorXd::Zero(15), at_kappa(1), out), f, "x.rows", -1);
}
