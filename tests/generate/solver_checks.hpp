#pragma once
#include <Eigen/Core>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <sluice/generate/noise.hpp>
#include <sluice/generate/sample.hpp>
#include <sluice/generate/schedule.hpp>
#include <sluice/generate/time_grid.hpp>
#include <sluice/models/gaussian.hpp>
#include <sluice/models/gaussian_mixture.hpp>
#include <span>
#include <support/allocation_counter.hpp>
#include <vector>

/// What every solver is asked: models with known answers, runs, and the protocol of a stepper.
namespace solver_checks {

using namespace sluice;
using levels_t = std::vector<noise_level>;

inline const noise_level& at(const levels_t& l, index_t i) { return l[static_cast<std::size_t>(i)]; }
inline index_t steps(const levels_t& l) { return std::ssize(l) - 1; }

/// The mixture of the golden trajectories.
inline const models::gaussian_mixture& three_lumps() {
  static const models::gaussian_mixture mixture(
      Eigen::Vector3d(0.3, 0.5, 0.2), (Eigen::Matrix3d() << 1, -1.2, 0.2, -0.5, 0.8, 0.1, 0.3, 0.1, -1.5).finished(),
      Eigen::Vector3d(0.05, 0.1, 0.02).cwiseSqrt());
  return mixture;
}
/// The Gaussian against which orders are measured.
inline const models::gaussian& three_gaussians() {
  static const models::gaussian law(Eigen::Vector3d(0.5, -1, 2), Eigen::Vector3d(0.25, 1, 0.04));
  return law;
}
inline Eigen::VectorXd start() { return Eigen::Vector3d(0.3, -1.2, 0.8); }

/// A denoiser as a model that predicts P, and counts its calls.
template <predicts P, class D>
struct counted_model {
  const D* denoiser = nullptr;
  std::int64_t calls = 0;
  template <class X, class O>
  void operator()(const X& x, const noise_level& l, O& out, predicts want) {
    ++calls;
    auto inner = prediction<P>([this](const auto& z, const noise_level& level, auto& o) {
      (*denoiser)(z, level, o);
      const affine k = conversion(predicts::data, P, level);
      if (P != predicts::data) scale_add(o, k.p, k.x, z);
    });
    inner(x, l, out, want);
  }
};
template <predicts P, class D>
counted_model<P, D> counted(const D& denoiser) {
  return {&denoiser};
}

template <class R, class M, class X>
X run(const R& recipe, M model, X x, const levels_t& levels) {
  const auto r = sample(recipe, model, x, levels);
  CHECK(r.status == status::completed);
  return x;
}
template <class R>
Eigen::VectorXd run_mixture(const R& recipe, const levels_t& levels, Eigen::VectorXd x = start()) {
  return run(recipe, prediction<predicts::data>(std::cref(three_lumps())), std::move(x), levels);
}
/// RMS error on the Gaussian against its exact flow map.
template <class R>
double gaussian_error(const R& recipe, const levels_t& levels, Eigen::VectorXd x = start()) {
  Eigen::VectorXd exact = x;
  three_gaussians().flow_map(exact, x, levels.front(), levels.back());
  x = run(recipe, prediction<predicts::data>(std::cref(three_gaussians())), std::move(x), levels);
  return std::sqrt((x - exact).squaredNorm() / 3);
}
/// log(error at n / error at 8 n) / log 8 on the grid of equal steps in lambda, variance preserving, t from 1 to 1e-3.
template <class R>
double measured_order(const R& recipe, index_t n = 20) {
  const auto error = [&](index_t steps) { return gaussian_error(recipe, log_snr_levels(vp_linear{}, steps, 1, 1e-3)); };
  return std::log(error(n) / error(8 * n)) / std::log(8.0);
}

/// A model for any type of tensor, linear in the state: out = gain(level) x, in the form P.
template <predicts P = predicts::data>
auto shrinking_model(double variance = 0.25) {
  return prediction<P>([variance](const auto& x, const noise_level& l, auto& out) {
    const double total = l.alpha * l.alpha * variance + l.sigma * l.sigma;
    const affine k = conversion(predicts::data, P, l);
    lincomb(out, k.x + k.p * l.alpha * variance / total, x);
  });
}
template <class X>
void fill_pattern(X& x) {
  auto e = traits_of<X>::elements(x);
  for (index_t i = 0; i < size(x); ++i) e(i) = static_cast<scalar_t<X>>(0.25 * static_cast<double>(i % 7) - 0.6);
}
template <class X>
bool same_bits(const X& a, const X& b) {
  const auto u = traits_of<X>::elements(a), v = traits_of<X>::elements(b);
  for (index_t i = 0; i < size(a); ++i)
    if (u(i) != v(i)) return false;
  return true;
}
template <class X, class Y>
double largest_difference(const X& a, const Y& b) {
  const auto u = traits_of<X>::elements(a);
  const auto v = traits_of<Y>::elements(b);
  double d = 0;
  for (index_t i = 0; i < size(a); ++i)
    d = std::max(d, std::abs(static_cast<double>(u(i)) - static_cast<double>(v(i))));
  return d;
}

/// A hook that changes what the first-order term sees.
struct halved {
  template <class X, class O>
  const O& operator()(index_t, const noise_level&, const X&, const O& raw, O& scratch) const {
    lincomb(scratch, 0.5, raw);
    return scratch;
  }
};

/// The protocol: a step costs what evaluations says and allocates nothing, with and without a hook; a stepper restored
/// from the state of another goes on to the bit; one step twice from the same state gives the same bits.
template <class R, class X>
void check_protocol(const R& recipe, const levels_t& levels, X x) {
  auto inner = shrinking_model();
  std::int64_t calls = 0;
  auto model = [&](const auto& z, const noise_level& l, auto& out, predicts want) {
    ++calls;
    inner(z, l, out, want);
  };
  auto stepper = recipe.bind(x, levels);
  static_assert(!std::copyable<decltype(stepper)>);
  static_assert(stepper_for<decltype(stepper), X, decltype(model)>);
  for (index_t i = 0; i < steps(levels); ++i) {
    const std::int64_t cost = stepper.evaluations(i);
    calls = 0;
    const auto allocated = support::allocations_in([&] { stepper.step(model, x, i); });
    CHECK(calls == cost);
    CHECK(allocated == 0);
    // Save, go on with a hook in the one, restore into another, go on with the same hook.
    auto other = recipe.bind(x, levels);
    other.restore(stepper.state());
    if (i + 1 == steps(levels)) break;
    auto a = deep_copy(x), b = deep_copy(x);
    auto first = recipe.bind(a, levels), second = recipe.bind(b, levels);
    first.restore(stepper.state());
    second.restore(other.state());
    CHECK(support::allocations_in([&] { first.step(model, a, i + 1, halved{}); }) == 0);
    second.step(model, b, i + 1, halved{});
    CHECK(same_bits(a, b));
    for (index_t k = i + 2; k < steps(levels); ++k) first.step(model, a, k), second.step(model, b, k);
    CHECK(same_bits(a, b));
  }
  // The same run by the driver.
  auto y = deep_copy(x);
  fill_pattern(y);
  std::int64_t expected = 0;
  calls = 0;
  for (index_t i = 0; i < steps(levels); ++i) expected += recipe.bind(y, levels).evaluations(i);
  const auto r = sample(recipe, model, y, levels);
  CHECK(r.stats.nfe == calls);
  CHECK(r.stats.nfe == expected);
}

/// Every kind of tensor gives the same numbers; empty batches are legal.
template <class R>
void check_types(const R& recipe, const levels_t& levels) {
  const auto end = [&](auto x) {
    fill_pattern(x);
    auto model = shrinking_model();
    CHECK(sample(recipe, model, x, levels).status == status::completed);
    return x;
  };
  const Eigen::VectorXd reference = end(Eigen::VectorXd(12));
  CHECK(largest_difference(end(std::vector<double>(12)), reference) <= 1e-15);
  CHECK(largest_difference(end(Eigen::ArrayXd(12)), reference) <= 1e-15);
  CHECK(largest_difference(end(Eigen::VectorXf(12)), reference) <= 2e-5);
  CHECK(largest_difference(end(std::vector<float>(12)), reference) <= 2e-5);
  Eigen::VectorXd memory(12);
  CHECK(largest_difference(end(Eigen::Map<Eigen::VectorXd>(memory.data(), 12)), reference) <= 1e-15);
  CHECK(largest_difference(memory, reference) <= 1e-15);
  std::vector<double> storage(12);
  CHECK(largest_difference(end(std::span<double>(storage)), reference) <= 1e-15);
  CHECK(largest_difference(storage, reference) <= 1e-15);
  // A batch: sample by sample the same bits, if nothing is drawn.
  CHECK(end(Eigen::MatrixXd(3, 0)).size() == 0);
  CHECK(end(Eigen::MatrixXd(0, 2)).size() == 0);
  check_protocol(recipe, levels, reference);
  check_protocol(recipe, levels, std::vector<float>(storage.begin(), storage.end()));
}

}  // namespace solver_checks
