// Fails for: x0 added before the predictions are subtracted; eta on the standard deviation; the noise of the step
// before; n from x_source for eta < 1; the source's noise from the target where there is a layout branch; a blended
// target that keeps its own noise; a start in noise at sigma instead of sqrt(alpha^2 + sigma^2); strength ignored; a
// level of sigma = 0 that is called; a change measured before the blend; a layout that is not checked; an inversion
// that evaluates at the upper level; SDEdit that returns the state, or starts from draw 0.
#include <Eigen/Core>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <limits>
#include <sluice/generate/attention_control.hpp>
#include <sluice/generate/ddcm.hpp>
#include <sluice/generate/edit_baselines.hpp>
#include <sluice/generate/guidance.hpp>
#include <sluice/generate/time_grid.hpp>
#include <sluice/models/gaussian.hpp>
#include <sluice/models/gaussian_mixture.hpp>
#include <span>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <vector>

using namespace sluice;
using Eigen::MatrixXd;
using Eigen::VectorXd;
using levels_t = std::vector<noise_level>;

namespace {

levels_t vp_list(index_t n) {
  const auto schedule = vp_discrete::scaled_linear();
  levels_t levels;
  for (const index_t i : consistency_indices(n)) levels.push_back(schedule.at_index(i));
  return levels;
}
levels_t flow_list(index_t n) { return uniform_levels(rectified_flow{}, n, 0.98, 0); }
levels_t edm_list(index_t n) { return karras_levels(n, 0.05, 20); }

VectorXd normals_of(index_t d, std::uint64_t seed) {
  VectorXd x(d);
  fill_normal(x, stream(seed));
  return x;
}
models::gaussian_mixture mixture(index_t d, std::uint64_t seed) { return models::random_mixture(d, 4, seed); }
auto data_model(const models::gaussian_mixture& m) { return prediction<predicts::data>(m); }

/// Not the mean of anything.
auto wrong_model(double c) {
  return prediction<predicts::noise>([c](const auto& x, const noise_level& l, auto& out) {
    const auto a = traits_of<decltype(x)>::elements(x);
    auto b = traits_of<decltype(out)>::elements(out);
    using scalar = typename decltype(b)::Scalar;
    b = (static_cast<scalar>(c) * a).sin() + static_cast<scalar>(c * l.alpha);
  });
}

template <class X>
X test_state(index_t d);
template <>
VectorXd test_state<VectorXd>(index_t d) {
  return normals_of(d, 3);
}
template <>
Eigen::ArrayXXf test_state<Eigen::ArrayXXf>(index_t d) {
  return normals_of(3 * d, 3).cast<float>().reshaped(d, 3).array();
}
template <>
std::vector<double> test_state<std::vector<double>>(index_t d) {
  const VectorXd x = normals_of(d, 3);
  return {x.begin(), x.end()};
}

template <class X>
double distance(const X& x, const X& y) {
  auto d = deep_copy(x);
  axpy(d, -1, y);
  return static_cast<double>(norm(d));
}

/// The published recursion, in predictions of noise, blends on states included. draw(i) makes the states of level i.
struct published {
  levels_t levels;
  double eta = 1;
  bool from_noise = false;
  std::function<VectorXd(const VectorXd&, const noise_level&)> source, target, layout;
  std::function<VectorXd(index_t)> draw;
  std::function<void(index_t, const noise_level&, const VectorXd&, VectorXd&, const VectorXd&)> blend;

  std::vector<VectorXd> run(const VectorXd& x0) const {
    std::vector<VectorXd> trace;
    const VectorXd xi0 = draw(0);
    VectorXd xs = from_noise ? xi0 : VectorXd(levels[0].alpha * x0 + levels[0].sigma * xi0), xt = xs, xm = xs;
    for (std::size_t i = 0; i < levels.size(); ++i) {
      const double a = levels[i].alpha, s = levels[i].sigma;
      const VectorXd es = source(xs, levels[i]), et = target(xt, levels[i]), ec = (xs - a * x0) / s;
      const VectorXd z = x0 + ((xt - xs) - s * (et - es)) / a;
      trace.push_back(z);
      if (i + 1 == levels.size()) break;
      const double b = levels[i + 1].alpha, r = levels[i + 1].sigma;
      const VectorXd xi = draw(static_cast<index_t>(i + 1));
      VectorXd d = std::sqrt(r * r * (1 - eta)) * (et - es + ec) + std::sqrt(eta * r * r) * xi;
      xt = b * z + d;
      if (layout) {
        const VectorXd em = layout(xm, levels[i]);
        d = std::sqrt(r * r * (1 - eta)) * (em - es + ec) + std::sqrt(eta * r * r) * xi;
        xm = b * (x0 + ((xm - xs) - s * (em - es)) / a) + d;
      }
      xs = b * x0 + d;
      if (blend) blend(static_cast<index_t>(i), levels[i], xs, xt, xm);
    }
    return trace;
  }
};

auto noise_of(const models::gaussian_mixture& m) {
  return [m](const VectorXd& x, const noise_level& l) {
    VectorXd e(x.size());
    data_model(m)(x, l, e, predicts::noise);
    return e;
  };
}
auto draws_of(stream run, index_t d) {
  return [run, d](index_t i) {
    VectorXd xi(d);
    step_noise{run}(xi, i, {}, {});
    return xi;
  };
}

}  // namespace

TEMPLATE_TEST_CASE("ddcm: equal conditions return x0 to the bit, whatever the model", "[ddcm]", VectorXd,
                   Eigen::ArrayXXf, std::vector<double>) {
  const TestType x0 = test_state<TestType>(7);
  for (const levels_t& levels : {vp_list(12), flow_list(6), edm_list(5)})
    for (const double eta : {1.0, 0.6, 0.0})
      for (const edit_start start : {edit_start::noised, edit_start::noise})
        for (const double strength : {1.0, 0.5}) {
          auto model = wrong_model(1.3);
          const ddcm editor{.eta = eta, .start = start, .strength = strength};
          TestType z = zeros_like(x0);
          const auto watch = [&](index_t, const noise_level&, const TestType& at) { return distance(at, x0) == 0; };
          const auto r = edit(editor, conditions(model, model), z, x0, levels, {}, stream(1), no_blend{}, watch);
          CHECK(r.status == status::completed);
          CHECK(distance(z, x0) == 0);
          CHECK(*std::max_element(r.change.begin(), r.change.end()) == 0);
          const auto three = edit(editor, conditions(model, model, model), z, x0, levels, {}, stream(1));
          CHECK(three.status == status::completed);
          CHECK(distance(z, x0) == 0);
        }
}

TEST_CASE("ddcm: Gaussians of equal covariance contract as s2/(s2 + kappa^2), whatever the noise", "[ddcm]") {
  const index_t d = 5;
  const VectorXd x0 = normals_of(d, 1), from = normals_of(d, 2), to = normals_of(d, 3);
  const double s2 = 0.3;
  const models::gaussian source(from, VectorXd::Constant(d, s2)), target(to, VectorXd::Constant(d, s2));
  for (const levels_t& levels : {vp_list(1), vp_list(4), vp_list(12), flow_list(5), edm_list(7)})
    for (const double eta : {1.0, 0.5, 0.0})
      for (const edit_start start : {edit_start::noised, edit_start::noise})
        for (const std::uint64_t seed : {1u, 2u}) {
          VectorXd z(d);
          double left = 1, worst = 0, previous = 1;
          std::vector<double> change;
          const auto r =
              edit(ddcm{.eta = eta, .start = start},
                   conditions(prediction<predicts::data>(source), prediction<predicts::data>(target)), z, x0, levels,
                   {}, stream(seed), no_blend{}, [&](index_t, const noise_level& l, const VectorXd& at) {
                     left *= s2 / (s2 + l.kappa() * l.kappa());
                     worst = std::max(worst, (at - (x0 + (1 - left) * (to - from))).norm());
                     change.push_back((previous - left) * (to - from).norm());
                     previous = left;
                     return true;
                   });
          CHECK(worst < 1e-12);
          CHECK(r.change.size() == change.size());
          for (std::size_t i = 0; i < change.size(); ++i) CHECK(std::abs(r.change[i] - change[i]) < 1e-12);
        }
}

TEST_CASE("ddcm: coordinates that the edit does not touch stay", "[ddcm]") {
  // Object and background independent given the prompt: the background's denoiser is the same in both conditions.
  const index_t object = 3, background = 4;
  const auto a = mixture(object, 1), b = mixture(object, 2), back = mixture(background, 3);
  const auto product = [&](const models::gaussian_mixture& m) {
    return prediction<predicts::data>([&m, &back, object, background](const auto& x, const noise_level& l, auto& out) {
      VectorXd top(object), rest(background);
      m(x.topRows(object), l, top);
      back(x.bottomRows(background), l, rest);
      out << top, rest;
    });
  };
  const VectorXd x0 = normals_of(object + background, 9);
  for (index_t n = 1; n <= 30; ++n)
    for (const double eta : {1.0, 0.5}) {
      VectorXd z(x0.size());
      const auto r = edit(ddcm{.eta = eta}, conditions(product(a), product(b)), z, x0, vp_list(n), {},
                          stream(static_cast<std::uint64_t>(n)));
      CHECK(r.stats.nfe == 2 * n);
      CHECK((z - x0).tail(background).norm() < 1e-10);
      CHECK((z - x0).head(object).norm() > 1e-3);
    }
}

TEST_CASE("ddcm: the published recursion in predictions of noise", "[ddcm]") {
  const index_t d = 5;
  const VectorXd x0 = normals_of(d, 4);
  const auto a = mixture(d, 1), b = mixture(d, 2), c = mixture(d, 3);
  const stream run(77);
  std::vector<double> map_e(5), map_m(5), map_me(5);
  for (std::size_t e = 0; e < 5; ++e) {
    map_e[e] = uniform_at(stream(1), e);
    map_m[e] = uniform_at(stream(2), e);
    map_me[e] = uniform_at(stream(3), e);
  }
  for (const double eta : {1.0, 0.6, 0.0})
    for (const bool from_noise : {false, true})
      for (const bool with_layout : {false, true})
        for (const bool with_blend : {false, true}) {
          if (with_blend && !with_layout) continue;
          const auto levels = vp_list(9);
          published paper{levels, eta, from_noise, noise_of(a), noise_of(b), {}, draws_of(run, d), {}};
          if (with_layout) paper.layout = noise_of(c);
          if (with_blend)
            paper.blend = [&](index_t i, const noise_level& l, const VectorXd& xs, VectorXd& xt, const VectorXd& xm) {
              if (i == 0) return;
              const auto top = [](const std::vector<double>& m) { return *std::max_element(m.begin(), m.end()); };
              for (std::size_t e = 0; e < 5; ++e) {
                const auto k = static_cast<Eigen::Index>(e);
                if (!(map_e[e] / top(map_e) > std::max(0.55, 0.15 / l.alpha))) xt(k) = xm(k);
                if (map_m[e] / top(map_m) > 0.7) xt(k) = xs(k);
                if (i + 2 == 9 && map_me[e] / top(map_me) > 0.55) xt(k) = xm(k);
              }
            };
          const auto expected = paper.run(x0);
          std::vector<VectorXd> got;
          const auto watch = [&](index_t, const noise_level&, const VectorXd& z) { return got.push_back(z), true; };
          const ddcm editor{.eta = eta, .start = from_noise ? edit_start::noise : edit_start::noised};
          VectorXd z(d);
          const auto with = [&](auto&& pair) {
            if (with_blend)
              return edit(
                  editor, pair, z, x0, levels, {}, run,
                  local_blend<double>{
                      .map_e = map_e, .map_m = map_m, .map_me = map_me, .edit_threshold = 0.55, .keep_threshold = 0.7},
                  watch);
            return edit(editor, pair, z, x0, levels, {}, run, no_blend{}, watch);
          };
          const auto r = with_layout ? with(conditions(data_model(a), data_model(b), data_model(c)))
                                     : with(conditions(data_model(a), data_model(b)));
          CHECK(r.status == status::completed);
          CHECK(r.stats.nfe == (with_layout ? 27 : 18));
          REQUIRE(got.size() == expected.size());
          CHECK((z - expected.back()).norm() < 1e-10);
          // The trace of the editor is after the blend, the paper's before.
          for (std::size_t i = 0; i < got.size() && !with_blend; ++i) CHECK((got[i] - expected[i]).norm() < 1e-10);
        }
}

TEST_CASE("ddcm: any schedule with the same kappa gives the same edit", "[ddcm]") {
  const index_t d = 6;
  const VectorXd x0 = normals_of(d, 4);
  const auto a = mixture(d, 1), b = mixture(d, 2);
  const auto run = [&](const levels_t& levels, double eta) {
    VectorXd z(d);
    const auto r = edit(ddcm{.eta = eta}, conditions(data_model(a), data_model(b)), z, x0, levels, {}, stream(5));
    CHECK(r.stats.nfe == 16);
    return z;
  };
  levels_t vp, flow, with_zero;
  const auto kappas = karras_kappas(8, 0.05, 12);
  for (const double k : kappas) {
    vp.push_back(level_at_kappa(vp_linear{}, k));
    flow.push_back(level_at_kappa(rectified_flow{}, k));
  }
  with_zero = karras_levels(8, 0.05, 12);
  for (const double eta : {1.0, 0.3}) {
    const VectorXd z = run(edm_levels(kappas), eta);
    CHECK((run(vp, eta) - z).norm() < 1e-10);
    CHECK((run(flow, eta) - z).norm() < 1e-10);
    CHECK(run(with_zero, eta) == z);  // a last level of sigma 0 is not called
  }
}

TEST_CASE("ddcm: a flow may begin at alpha = 0", "[ddcm]") {
  const auto a = mixture(4, 1), b = mixture(4, 2);
  const VectorXd x0 = normals_of(4, 4);
  // The denoiser of a mixture at alpha = 0 is its mean.
  const auto at_zero = [](const models::gaussian_mixture& m) {
    return prediction<predicts::data>([&m](const auto& x, const noise_level& l, auto& out) {
      if (l.alpha == 0)
        out = m.means() * m.weights();
      else
        m(x, l, out);
    });
  };
  VectorXd z(4), first(4);
  const auto r = edit(ddcm{}, conditions(at_zero(a), at_zero(b)), z, x0, uniform_levels(rectified_flow{}, 6, 1, 0), {},
                      stream(2), no_blend{}, [&](index_t i, const noise_level&, const VectorXd& at) {
                        if (i == 0) first = at;
                        return true;
                      });
  CHECK(r.status == status::completed);
  CHECK(r.stats.nfe == 12);
  CHECK((first - (x0 + b.means() * b.weights() - a.means() * a.weights())).norm() < 1e-12);
  VectorXd noise_form(4);
  auto eps = wrong_model(1), eps2 = wrong_model(2);  // tells nothing of the data at alpha = 0
  const auto bad =
      edit(ddcm{}, conditions(eps, eps2), noise_form, x0, uniform_levels(rectified_flow{}, 6, 1, 0), {}, stream(2));
  CHECK(bad.status == status::diverged);
  CHECK(bad.stats.stopped.step == 0);
  CHECK(noise_form == x0);
}

TEST_CASE("ddcm: float keeps its digits at the highest noise", "[ddcm]") {
  const index_t d = 8;
  const VectorXd x0 = normals_of(d, 4);
  const auto a = mixture(d, 1), b = mixture(d, 2);
  VectorXd exact(d);
  Eigen::VectorXf z(d), x0f = x0.cast<float>();
  static_cast<void>(edit(ddcm{}, conditions(data_model(a), data_model(b)), exact, VectorXd(x0f.cast<double>()),
                         vp_list(12), {}, stream(8)));
  static_cast<void>(edit(ddcm{}, conditions(data_model(a), data_model(b)), z, x0f, vp_list(12), {}, stream(8)));
  CHECK((z.cast<double>() - exact).norm() < 2e-5);
}

TEST_CASE("ddcm: a sample is the same to the bit, alone, in a batch, joined, in a map", "[ddcm]") {
  const index_t d = 6, n = 5;
  const MatrixXd x0 = normals_of(d * n, 4).reshaped(d, n);
  const auto a = mixture(d, 1), b = mixture(d, 2), c = mixture(d, 3);
  const stream run(12);
  for (const double eta : {1.0, 0.4})
    for (const edit_start start : {edit_start::noised, edit_start::noise}) {
      const ddcm editor{.eta = eta, .start = start};
      MatrixXd z(d, n), joined(d, n);
      static_cast<void>(
          edit(editor, conditions(data_model(a), data_model(b), data_model(c)), z, x0, vp_list(6), {}, run));
      std::int64_t calls = 0;
      auto all = prediction<predicts::data>([&](const MatrixXd& x, const noise_level& l, MatrixXd& out) {
        ++calls;
        REQUIRE(x.cols() == 3 * n);
        MatrixXd part(d, n);
        for (index_t k = 0; k < 3; ++k) {
          (k == 0 ? a : k == 1 ? b : c)(x.middleCols(k * n, n), l, part);
          out.middleCols(k * n, n) = part;
        }
      });
      const auto r = edit(editor, joint<3>(all), joined, x0, vp_list(6), {}, run);
      CHECK(joined == z);
      CHECK(calls == 6);
      CHECK(r.stats.nfe == 18);
      for (index_t j = 0; j < n; ++j) {
        VectorXd alone(d);
        static_cast<void>(edit(editor, conditions(data_model(a), data_model(b), data_model(c)), alone,
                               VectorXd(x0.col(j)), vp_list(6), {}, step_noise{run, static_cast<std::uint64_t>(j)}));
        CHECK(alone == z.col(j));
      }
      std::vector<double> memory(static_cast<std::size_t>(d * n)), data(x0.data(), x0.data() + x0.size());
      Eigen::Map<MatrixXd> mapped(memory.data(), d, n);
      const Eigen::Map<const MatrixXd> mapped_x0(data.data(), d, n);
      static_cast<void>(edit(editor, conditions(data_model(a), data_model(b), data_model(c)), mapped, mapped_x0,
                             vp_list(6), {}, run));
      CHECK(MatrixXd(mapped) == z);
    }
  // Two branches, one sample, joined.
  auto pair = prediction<predicts::data>([&](const MatrixXd& x, const noise_level& l, MatrixXd& out) {
    VectorXd column = x.col(0), part(d);
    a(column, l, part);
    out.col(0) = part;
    column = x.col(1);
    b(column, l, part);
    out.col(1) = part;
  });
  VectorXd one(d), two(d);
  const VectorXd first = x0.col(0);
  static_cast<void>(edit(ddcm{}, joint(pair), one, first, vp_list(6), {}, run));
  static_cast<void>(edit(ddcm{}, conditions(data_model(a), data_model(b)), two, first, vp_list(6), {}, run));
  CHECK(one == two);
}

TEST_CASE("ddcm: strength makes the last steps, with their own noise", "[ddcm]") {
  const index_t d = 4;
  const VectorXd x0 = normals_of(d, 4);
  const auto a = mixture(d, 1), b = mixture(d, 2);
  for (const double strength : {0.0, 0.05, 0.5, 0.75, 1.0}) {
    const auto kept = static_cast<index_t>(12 * strength);
    VectorXd z(d), expected = x0;
    std::vector<index_t> seen;
    const auto r =
        edit(ddcm{.strength = strength}, conditions(data_model(a), data_model(b)), z, x0, vp_list(12), {}, stream(3),
             no_blend{}, [&](index_t i, const noise_level&, const VectorXd&) { return seen.push_back(i), true; });
    CHECK(r.stats.nfe == 2 * kept);
    CHECK(r.stats.steps == kept);
    CHECK(std::ssize(r.change) == kept);
    CHECK((seen.empty() || (seen.front() == 12 - kept && seen.back() == 11)));
    const auto levels = vp_list(12);
    for (index_t i = 12 - kept; i < 12; ++i) {
      const noise_level& l = levels[static_cast<std::size_t>(i)];
      const VectorXd n = draws_of(stream(3), d)(i);
      expected = (b.denoised((l.alpha * expected + l.sigma * n) / l.alpha, l.kappa()) -
                  a.denoised((l.alpha * x0 + l.sigma * n) / l.alpha, l.kappa()) + x0)
                     .eval();
    }
    CHECK((z - expected).norm() < 1e-12);
  }
}

TEST_CASE("ddcm: guidance is a matter of the model", "[ddcm]") {
  const index_t d = 4;
  const VectorXd x0 = normals_of(d, 4);
  const auto a = mixture(d, 1), b = mixture(d, 2), u = mixture(d, 3);
  auto target = guided(data_model(b), data_model(u), x0, 2.3);
  VectorXd z(d), expected(d);
  static_cast<void>(edit(ddcm{}, conditions(data_model(a), target), z, x0, vp_list(8), {}, stream(3)));
  CHECK(target.counts().conditional == 8);
  auto mixed = prediction<predicts::data>([&](const VectorXd& x, const noise_level& l, VectorXd& out) {
    out = 2.3 * b.denoised(x / l.alpha, l.kappa()) - 1.3 * u.denoised(x / l.alpha, l.kappa());
  });
  static_cast<void>(edit(ddcm{}, conditions(data_model(a), mixed), expected, x0, vp_list(8), {}, stream(3)));
  CHECK((z - expected).norm() < 1e-12);
}

TEST_CASE("ddcm: a mask keeps the source to the bit", "[ddcm]") {
  const index_t pixels = 6, n = 2, d = 3 * pixels;
  const MatrixXd x0 = normals_of(d * n, 4).reshaped(d, n);
  const auto a = mixture(d, 1), b = mixture(d, 2);
  const std::vector<std::uint8_t> mask{1, 0, 0, 1, 1, 0};
  MatrixXd z(d, n), free(d, n);
  std::vector<MatrixXd> trace{x0};
  const auto r =
      edit(ddcm{}, conditions(data_model(a), data_model(b)), z, x0, vp_list(6), {}, stream(3), mask_blend{mask},
           [&](index_t, const noise_level&, const MatrixXd& at) { return trace.push_back(at), true; });
  static_cast<void>(edit(ddcm{}, conditions(data_model(a), data_model(b)), free, x0, vp_list(6), {}, stream(3)));
  for (index_t j = 0; j < n; ++j)
    for (index_t e = 0; e < d; ++e) {
      const bool edited = mask[static_cast<std::size_t>(e % pixels)] != 0;
      CHECK((z(e, j) == x0(e, j)) == !edited);
    }
  CHECK(z != free);
  REQUIRE(trace.size() == 7);
  for (std::size_t i = 0; i < 6; ++i) CHECK(r.change[i] == Approx((trace[i + 1] - trace[i]).norm()).epsilon(1e-13));
  std::vector<double> flat(x0.data(), x0.data() + d), out(static_cast<std::size_t>(d));
  auto m1 = wrong_model(1), m2 = wrong_model(2);
  static_cast<void>(edit(ddcm{}, conditions(m1, m2), out, flat, vp_list(6), {}, stream(3), mask_blend{mask}));
  for (std::size_t e = 0; e < out.size(); ++e) CHECK((out[e] == flat[e]) == (mask[e % 6] == 0));
}

TEST_CASE("ddcm: stops where it must, with the best state so far", "[ddcm]") {
  const index_t d = 4;
  const VectorXd x0 = normals_of(d, 4);
  const auto a = mixture(d, 1), b = mixture(d, 2);
  std::vector<VectorXd> trace;
  VectorXd z(d);
  static_cast<void>(edit(ddcm{}, conditions(data_model(a), data_model(b)), z, x0, vp_list(8), {}, stream(3), no_blend{},
                         [&](index_t, const noise_level&, const VectorXd& at) { return trace.push_back(at), true; }));
  SECTION("budget") {
    for (const std::int64_t budget : {0, 1, 2, 7, 16}) {
      const auto r =
          edit(ddcm{}, conditions(data_model(a), data_model(b)), z, x0, vp_list(8), {.max_nfe = budget}, stream(3));
      const auto steps = budget / 2;
      CHECK(r.stats.steps == steps);
      CHECK(r.stats.nfe == 2 * steps);
      CHECK(r.status == (steps == 8 ? status::completed : status::budget_exhausted));
      CHECK(r.stats.stopped.step == (steps == 8 ? -1 : steps));
      CHECK(z == (steps == 0 ? x0 : trace[static_cast<std::size_t>(steps - 1)]));
    }
  }
  SECTION("the observer") {
    const auto r = edit(ddcm{}, conditions(data_model(a), data_model(b)), z, x0, vp_list(8), {}, stream(3), no_blend{},
                        [](index_t i, const noise_level&, const VectorXd&) { return i < 3; });
    CHECK(r.status == status::stopped_by_observer);
    CHECK(r.stats.stopped.step == 3);
    CHECK(r.stats.nfe == 8);
    CHECK(z == trace[3]);
  }
  SECTION("a model that breaks") {
    for (const int kind : {0, 1, 2}) {
      int calls = 0;
      auto broken = prediction<predicts::data>([&](const VectorXd& x, const noise_level& l, VectorXd& out) {
        b(x, l, out);
        if (++calls == 4) {
          if (kind == 0) out(1) = std::numeric_limits<double>::quiet_NaN();
          if (kind == 1) out(1) = std::numeric_limits<double>::infinity();
          if (kind == 2) out = VectorXd::Zero(d + 1);
        }
      });
      const auto r = edit(ddcm{}, conditions(data_model(a), broken), z, x0, vp_list(8), {}, stream(3));
      CHECK(r.status == status::diverged);
      CHECK(r.stats.stopped.step == 3);
      CHECK(r.stats.steps == 3);
      CHECK(r.stats.nfe == 8);
      CHECK(z == trace[2]);
    }
    auto broken = prediction<predicts::data>([&](const auto& x, const noise_level& l, auto& out) {
      a(x, l, out);
      out(0) = std::numeric_limits<double>::quiet_NaN();
    });
    const auto r = edit(ddcm{}, conditions(data_model(a), data_model(b), broken), z, x0, vp_list(8), {}, stream(3));
    CHECK(r.status == status::diverged);
    CHECK(z == x0);
  }
  SECTION("an empty batch") {
    MatrixXd none(d, 0), out(d, 0);
    const auto r = edit(ddcm{}, conditions(data_model(a), data_model(b)), out, none, vp_list(8), {}, stream(3));
    CHECK(r.status == status::completed);
  }
}

TEST_CASE("ddcm: a step allocates nothing", "[ddcm]") {
  const index_t d = 64;
  const MatrixXd x0 = normals_of(d * 3, 4).reshaped(d, 3);
  auto a = wrong_model(1), b = wrong_model(2), c = wrong_model(3);
  const std::vector<double> map(64, 0.5);
  for (const double eta : {1.0, 0.5}) {
    auto two = conditions(a, b);
    auto three = conditions(a, b, c);
    auto both = joint(a);
    const auto levels = vp_list(6);
    auto first = ddcm{.eta = eta}.bind<decltype(two)>(x0, levels);
    auto second = ddcm{.eta = eta}.bind<decltype(three)>(x0, levels);
    auto third = ddcm{.eta = eta}.bind<decltype(both)>(x0, levels);
    const local_blend<double> blend{.map_e = map, .map_m = map, .map_me = map};
    MatrixXd z1 = x0, z2 = x0, z3 = x0;
    CHECK(support::allocations_in([&] {
            for (index_t i = 0; i < 6; ++i) {
              first.step(two, z1, x0, i, step_noise{stream(1)});
              second.step(three, z2, x0, i, step_noise{stream(1)}, blend);
              third.step(both, z3, x0, i, step_noise{stream(1)});
            }
          }) == 0);
    CHECK(z1 != x0);
    CHECK(first.evaluations(0) == 2);
    CHECK(second.evaluations(0) == 3);
  }
}

TEST_CASE("ddcm: saved half-way, restored in a new object, the same bits", "[ddcm]") {
  const index_t d = 5;
  const VectorXd x0 = normals_of(d, 4);
  auto a = wrong_model(1), b = wrong_model(2), c = wrong_model(3);
  const step_noise noise{stream(9)};
  const auto levels = vp_list(8);
  const auto check = [&](auto pair, double eta) {
    const ddcm editor{.eta = eta};
    auto whole = editor.bind<decltype(pair)>(x0, levels);
    VectorXd z = x0, half;
    solver_state<VectorXd> saved;
    for (index_t i = 0; i < 8; ++i) {
      if (i == 4) {
        saved = whole.state();
        half = z;
      }
      whole.step(pair, z, x0, i, noise);
    }
    auto other = editor.bind<decltype(pair)>(x0, levels);
    other.restore(saved);
    for (index_t i = 4; i < 8; ++i) other.step(pair, half, x0, i, noise);
    CHECK(half == z);
  };
  for (const double eta : {1.0, 0.5, 0.0}) {
    check(conditions(a, b), eta);
    check(conditions(a, b, c), eta);
  }
}

TEST_CASE("ddcm: inversion and SDEdit, the peers", "[ddcm][edit_baselines]") {
  const index_t d = 4;
  const VectorXd x0 = normals_of(d, 4);
  const auto a = mixture(d, 1), b = mixture(d, 2);
  const auto schedule = vp_discrete::scaled_linear();
  const auto grid = [&](index_t n, index_t from = 999) {
    levels_t levels;
    for (index_t i = 0; i <= n; ++i)
      levels.push_back(schedule.at(schedule.time_of(0) + (schedule.time_of(from) - schedule.time_of(0)) *
                                                             static_cast<double>(n - i) / static_cast<double>(n)));
    return levels;
  };
  SECTION("inversion by hand") {
    const auto levels = grid(10);
    VectorXd z(d), y = x0;
    const auto r = edit(ddim_inversion{}, conditions(data_model(a), data_model(b)), z, x0, levels, {}, stream(1));
    CHECK(r.status == status::completed);
    CHECK(r.stats.nfe == 20);
    for (std::size_t i = 10; i > 0; --i)
      y += (levels[i - 1].kappa() - levels[i].kappa()) * a.noise(y, levels[i].kappa());
    for (std::size_t i = 0; i < 10; ++i)
      y += (levels[i + 1].kappa() - levels[i].kappa()) * b.noise(y, levels[i].kappa());
    CHECK((z - y).norm() < 1e-10);
  }
  SECTION("equal conditions: the error of the inversion falls like 1/N") {
    VectorXd variance(d);
    variance << 0.05, 0.3, 1, 0.1;
    auto model = prediction<predicts::data>(models::gaussian(normals_of(d, 2), variance));
    double error[2];
    for (const int k : {0, 1}) {
      VectorXd z(d);
      static_cast<void>(edit(ddim_inversion{}, conditions(model, model), z, x0,
                             log_snr_levels(schedule, k == 0 ? 200 : 400, 1, 0.001), {}, stream(1)));
      error[k] = (z - x0).norm();
    }
    CHECK(error[0] > 1e-4);
    CHECK(std::abs(std::log2(error[0] / error[1]) - 1) < 0.25);
  }
  SECTION("inversion from sigma = 0, in part, and stopped") {
    auto levels = karras_levels(6, 0.05, 5);
    VectorXd z(d), y = x0;
    const auto r =
        edit(ddim_inversion{.strength = 0.5}, conditions(data_model(a), data_model(b)), z, x0, levels, {}, stream(1));
    CHECK(r.stats.nfe == 6);
    for (std::size_t i = 6; i > 3; --i)
      y += (levels[i - 1].kappa() - levels[i].kappa()) * a.noise(y, levels[i == 6 ? 5 : i].kappa());
    for (std::size_t i = 3; i < 6; ++i)
      y += (levels[i + 1].kappa() - levels[i].kappa()) * b.noise(y, levels[i].kappa());
    CHECK((z - y).norm() < 1e-11);
    const auto stopped =
        edit(ddim_inversion{}, conditions(data_model(a), data_model(b)), z, x0, levels, {.max_nfe = 4}, stream(1));
    CHECK(stopped.status == status::budget_exhausted);
    CHECK(stopped.stats.nfe == 4);
    CHECK(z == x0);
    const auto none =
        edit(ddim_inversion{.strength = 0}, conditions(data_model(a), data_model(b)), z, x0, levels, {}, stream(1));
    CHECK(none.stats.nfe == 0);
    CHECK(z == x0);
  }
  SECTION("SDEdit is a solver from a noised start") {
    const auto levels = grid(15, 500);
    VectorXd z(d), x(d);
    const auto r =
        edit(sdedit{heun{.order = 1}, 0.8}, conditions(data_model(a), data_model(b)), z, x0, levels, {}, stream(6));
    CHECK(r.stats.nfe == 12);
    step_noise{stream(6)}(x, 3, {}, {});
    x = levels[3].alpha * x0 + levels[3].sigma * x;
    const auto part = std::span(levels).subspan(3);
    CHECK(sample(heun{.order = 1}, data_model(b), x, part).status == status::completed);
    CHECK((z - x / levels.back().alpha).norm() < 1e-13);
    const auto none =
        edit(sdedit<>{.strength = 0}, conditions(data_model(a), data_model(b)), z, x0, levels, {}, stream(6));
    CHECK(none.stats.nfe == 0);
    CHECK(z == x0);
    const auto stopped =
        edit(sdedit<>{}, conditions(data_model(a), data_model(b)), z, x0, levels, {.max_nfe = 5}, stream(6));
    CHECK(stopped.status == status::budget_exhausted);
    CHECK(z == x0);
  }
}

TEST_CASE("ddcm: bad input", "[ddcm]") {
  const index_t d = 4;
  const VectorXd x0 = normals_of(d, 4);
  auto a = wrong_model(1), b = wrong_model(2);
  const auto levels = vp_list(5);
  const auto pair = [&] { return conditions(a, b); };
  VectorXd z = VectorXd::Constant(d, 7), small(d - 1), bad = x0;
  bad(2) = std::numeric_limits<double>::quiet_NaN();
  const stream run(1);
  const auto with = [&](const ddcm& editor) { static_cast<void>(edit(editor, pair(), z, x0, levels, {}, run)); };
  SLUICE_CHECK_THROWS((edit(ddcm{}, pair(), small, x0, levels, {}, run)), "edit", "z.size", -1);
  SLUICE_CHECK_THROWS((edit(ddcm{}, pair(), z, bad, levels, {}, run)), "edit", "x0", -1);
  SLUICE_CHECK_THROWS((edit(ddcm{}, pair(), z, x0, levels, {.max_nfe = -1}, run)), "edit", "options.max_nfe", -1);
  SLUICE_CHECK_THROWS((edit(ddcm{}, pair(), z, x0, levels_t{}, {}, run)), "edit", "levels.size", -1);
  SLUICE_CHECK_THROWS((edit(ddcm{}, pair(), z, x0, levels_t{{0, 1, 0}}, {}, run)), "ddcm", "levels.sigma", 0);
  SLUICE_CHECK_THROWS((edit(ddcm{}, pair(), z, x0, levels_t{levels[1], levels[0]}, {}, run)), "edit", "levels.kappa",
                      1);
  SLUICE_CHECK_THROWS((edit(ddcm{}, pair(), z, x0, levels_t{{1, -0.1, 1}}, {}, run)), "edit", "levels.alpha", 0);
  SLUICE_CHECK_THROWS((edit(ddcm{}, pair(), z, x0, levels_t{{1, 0.1, -1}}, {}, run)), "edit", "levels.sigma", 0);
  for (const double eta : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN()}) {
    SLUICE_CHECK_THROWS(with(ddcm{.eta = eta}), "ddcm", "eta", -1);
    SLUICE_CHECK_THROWS(with(ddcm{.strength = eta}), "ddcm", "strength", -1);
    SLUICE_CHECK_THROWS(renoised_state(z, x0, x0, x0, levels[0], eta), "renoised_state", "eta", -1);
    SLUICE_CHECK_THROWS((edit(ddim_inversion{eta}, pair(), z, x0, levels, {}, run)), "ddim_inversion", "strength", -1);
    SLUICE_CHECK_THROWS((edit(sdedit{heun{}, eta}, pair(), z, x0, levels, {}, run)), "sdedit", "strength", -1);
  }
  SLUICE_CHECK_THROWS((edit(ddim_inversion{}, pair(), z, x0, levels_t{levels[0]}, {}, run)), "ddim_inversion",
                      "levels.size", -1);
  SLUICE_CHECK_THROWS((edit(sdedit<>{}, pair(), z, x0, levels_t{levels[0]}, {}, run)), "sdedit", "levels.size", -1);
  SLUICE_CHECK_THROWS((edit(ddim_inversion{}, pair(), z, x0, levels_t{{1, 0, 1}, {0, 1, 0}}, {}, run)),
                      "ddim_inversion", "levels.alpha", 0);
  const std::vector<std::uint8_t> mask(3, 1);
  SLUICE_CHECK_THROWS((edit(ddcm{}, pair(), z, x0, levels, {}, run, mask_blend{mask})), "mask_blend", "mask.size", -1);
  SLUICE_CHECK_THROWS((edit(ddcm{}, pair(), z, x0, levels, {}, run, mask_blend{})), "mask_blend", "mask.size", -1);
  auto stepper = ddcm{.eta = 0.5}.bind<decltype(pair())>(x0, levels);
  SLUICE_CHECK_THROWS(stepper.restore({}), "ddcm", "state.history.size", -1);
  SLUICE_CHECK_THROWS(consistency_indices(51), "consistency_indices", "n", -1);
  CHECK(z == VectorXd::Constant(d, 7));
}
