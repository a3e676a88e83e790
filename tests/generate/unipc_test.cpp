// Fails for: 1/2 solved for; a corrector of the new step's order; a correction not scaled by the next step; nodes of
// the wrong sign; orders that do not fall at the end; a correction with infinite B; a state without the last order; the
// hook's value in a difference; history that survives a gap.
#include <Eigen/LU>
#include <catch2/catch.hpp>
#include <limits>
#include <numbers>
#include <sluice/core/quadrature.hpp>
#include <sluice/generate/sample.hpp>
#include <sluice/generate/schedule.hpp>
#include <sluice/generate/time_grid.hpp>
#include <sluice/generate/unipc.hpp>
#include <sluice/models/gaussian_mixture.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <vector>

using namespace sluice;

namespace {

using levels_t = std::vector<noise_level>;
const noise_level& at(const levels_t& l, index_t i) { return l[static_cast<std::size_t>(i)]; }

const models::gaussian_mixture& three_lumps() {
  static const models::gaussian_mixture mixture(
      Eigen::Vector3d(0.3, 0.5, 0.2), (Eigen::Matrix3d() << 1, -1.2, 0.2, -0.5, 0.8, 0.1, 0.3, 0.1, -1.5).finished(),
      Eigen::Vector3d(0.05, 0.1, 0.02).cwiseSqrt());
  return mixture;
}
auto mixture_model() { return prediction<predicts::data>(std::cref(three_lumps())); }
const Eigen::VectorXd start = Eigen::Vector3d(0.3, -1.2, 0.8);

/// N(m, diag(s2)), its denoiser and its flow from one level to another, both exact.
struct gaussian {
  Eigen::ArrayXd m, s2;
  template <class X, class O>
  void operator()(const X& x, const noise_level& l, O& out) const {
    using S = typename O::Scalar;
    const double k2 = l.kappa() * l.kappa();
    out.array() = (m + s2 / (s2 + k2) * (x.array().template cast<double>() / l.alpha - m)).template cast<S>();
  }
  Eigen::VectorXd flow(const Eigen::VectorXd& x, const noise_level& s, const noise_level& t) const {
    const double a = s.kappa() * s.kappa(), b = t.kappa() * t.kappa();
    return t.alpha * (m + (x.array() / s.alpha - m) * ((s2 + b) / (s2 + a)).sqrt()).matrix();
  }
};
gaussian three_gaussians() { return {Eigen::Array3d(0.5, -1, 2), Eigen::Array3d(0.25, 1, 0.04)}; }

/// The method as its authors write it: predict, evaluate, correct from the same base; the systems by elimination.
template <class M, class Mix>
Eigen::VectorXd by_the_book(M model, Eigen::VectorXd x, const levels_t& levels, int order, predicts form,
                            unipc_variant variant, bool corrector, bool lower_order_final, Mix mix) {
  const index_t n = std::ssize(levels) - 1;
  const bool data = form == predicts::data;
  std::vector<Eigen::VectorXd> m(1, x);
  std::vector<double> lambda;
  for (const noise_level& l : levels) lambda.push_back(l.lambda());
  model(x, levels[0], m[0], form);
  for (index_t i = 0; i < n; ++i) {
    const auto now = static_cast<std::size_t>(i);
    int p = static_cast<int>(std::min<index_t>(order, i + 1));
    if (lower_order_final) p = static_cast<int>(std::min<index_t>(p, n - i));
    const noise_level &s = at(levels, i), &t = at(levels, i + 1);
    const double h = lambda[now + 1] - lambda[now], hh = data ? -h : h;
    const double b_of_h = variant == unipc_variant::b1 ? hh : std::expm1(hh);
    const double c = data ? t.alpha : t.sigma;
    Eigen::VectorXd node(p), b(p);
    double phi = std::expm1(hh) / hh - 1, factorial = 1;
    for (int k = 1; k <= p; ++k) {
      factorial *= k;
      b(k - 1) = phi * factorial / b_of_h;
      phi = phi / hh - 1 / (factorial * (k + 1));
    }
    std::vector<Eigen::VectorXd> d;
    for (int j = 1; j < p; ++j) {
      node(j - 1) = (lambda[now - static_cast<std::size_t>(j)] - lambda[now]) / h;
      d.push_back((m[now - static_cast<std::size_t>(j)] - m[now]) / node(j - 1));
    }
    node(p - 1) = 1;
    const auto solve = [&](int size) -> Eigen::VectorXd {
      Eigen::MatrixXd r(size, size);
      for (int k = 0; k < size; ++k) r.row(k) = node.head(size).array().pow(k).matrix().transpose();
      return r.fullPivLu().solve(b.head(size));
    };
    const double a = data ? t.sigma / s.sigma : t.alpha / s.alpha;
    const Eigen::VectorXd base = a * x - c * std::expm1(hh) * mix(i, m);
    Eigen::VectorXd predicted = base;
    if (p > 1) {
      const Eigen::VectorXd rho = p == 2 ? Eigen::VectorXd::Constant(1, 0.5) : solve(p - 1);
      for (int j = 0; j < p - 1; ++j) predicted -= c * b_of_h * rho(j) * d[static_cast<std::size_t>(j)];
    }
    x = predicted;
    if (i + 1 == n) break;
    Eigen::VectorXd next = x;
    model(x, t, next, form);
    if (corrector) {
      const Eigen::VectorXd rho = p == 1 ? Eigen::VectorXd::Constant(1, 0.5) : solve(p);
      x = base;
      for (int j = 0; j < p - 1; ++j) x -= c * b_of_h * rho(j) * d[static_cast<std::size_t>(j)];
      x -= c * b_of_h * rho(p - 1) * (next - m[now]);
    }
    m.push_back(next);
  }
  return x;
}
const auto raw = [](index_t i, const std::vector<Eigen::VectorXd>& m) { return m[static_cast<std::size_t>(i)]; };

template <int Order, class M>
Eigen::VectorXd run(const unipc<Order>& recipe, M model, Eigen::VectorXd x, const levels_t& levels) {
  const auto r = sample(recipe, model, x, levels);
  CHECK(r.status == status::completed);
  CHECK(r.stats.nfe == std::ssize(levels) - 1);
  return x;
}

template <int Order>
void compare_with_book(const levels_t& levels) {
  for (const predicts form : {predicts::data, predicts::noise})
    for (const unipc_variant variant : {unipc_variant::b1, unipc_variant::b2})
      for (const bool corrector : {false, true})
        for (const bool lower : {false, true}) {
          const unipc<Order> recipe{
              .form = form, .variant = variant, .corrector = corrector, .lower_order_final = lower};
          const auto book = by_the_book(mixture_model(), start, levels, Order, form, variant, corrector, lower, raw);
          const auto ours = run(recipe, mixture_model(), start, levels);
          INFO("order " << Order << " n " << levels.size() - 1 << " form " << static_cast<int>(form) << " variant "
                        << static_cast<int>(variant) << " corrector " << corrector << " lower " << lower);
          CHECK((ours - book).norm() <= 2e-10 * (1 + book.norm()));
        }
}

}  // namespace

TEST_CASE("unipc: the right-hand sides are the integrals", "[unipc]") {
  for (const double z : {-30.0, -2.0, -1.0, -0.999, -0.3, -1e-5, 1e-9, 0.5, 1.0, 1.5, 12.0}) {
    const auto rule = gauss_legendre(40, 0, 1);
    const auto b1 = unipc_coefficients(1, z, {}, unipc_variant::b1),
               b2 = unipc_coefficients(1, z, {}, unipc_variant::b2);
    CHECK(b1.scale == z);
    CHECK(b2.scale == std::expm1(z));
    for (int k = 1; k <= 3; ++k) {
      const double exact = z * integrate([&](double u) { return std::exp((1 - u) * z) * std::pow(u, k); }, rule);
      CHECK(b1.scale * b1.b[static_cast<std::size_t>(k - 1)] == Approx(exact).epsilon(1e-12));
      CHECK(b2.scale * b2.b[static_cast<std::size_t>(k - 1)] == Approx(exact).epsilon(1e-12));
    }
    CHECK(b2.corrector[0] == 0.5);
  }
}

TEST_CASE("unipc: the weights solve the systems", "[unipc]") {
  for (const double z : {-2.3, -0.9, -1e-3, 0.01, 0.9, 4.0})
    for (const unipc_variant variant : {unipc_variant::b1, unipc_variant::b2}) {
      const double r[2] = {-0.8, -1.7};
      const auto two = unipc_coefficients(2, z, std::span(r).first(1), variant);
      CHECK(two.predictor[0] == 0.5);
      const auto three = unipc_coefficients(3, z, r, variant);
      for (int k = 1; k <= 3; ++k) {
        const auto power = [k](double node) { return std::pow(node, k - 1); };
        const auto row = static_cast<std::size_t>(k - 1);
        if (k <= 2) {
          CHECK(two.corrector[0] * power(r[0]) + two.corrector[1] == Approx(two.b[row]).epsilon(1e-12));
          CHECK(three.predictor[0] * power(r[0]) + three.predictor[1] * power(r[1]) ==
                Approx(three.b[row]).epsilon(1e-12));
        }
        CHECK(three.corrector[0] * power(r[0]) + three.corrector[1] * power(r[1]) + three.corrector[2] ==
              Approx(three.b[row]).epsilon(1e-12));
      }
    }
}

TEST_CASE("unipc: a node at minus infinity has the weight of the limit", "[unipc]") {
  const double inf = std::numeric_limits<double>::infinity();
  const double far[2] = {-0.8, -1e9}, farthest[2] = {-0.8, -inf};
  const auto near = unipc_coefficients(3, -0.7, far, unipc_variant::b2);
  const auto limit = unipc_coefficients(3, -0.7, farthest, unipc_variant::b2);
  CHECK(near.predictor[0] == Approx(limit.predictor[0]).epsilon(1e-8));
  CHECK(near.corrector[0] == Approx(limit.corrector[0]).epsilon(1e-8));
  CHECK(near.corrector[2] == Approx(limit.corrector[2]).epsilon(1e-8));
  CHECK(limit.predictor[1] == 0);
  CHECK(limit.corrector[1] == 0);
  const auto long_step = unipc_coefficients(1, -1e9, {}, unipc_variant::b2);
  const auto longest = unipc_coefficients(1, -inf, {}, unipc_variant::b2);
  CHECK(longest.scale == -1);
  for (std::size_t k = 0; k < 3; ++k) CHECK(long_step.b[k] == Approx(longest.b[k]).epsilon(1e-8));
}

TEST_CASE("unipc: the fused step is the method of the paper", "[unipc]") {
  for (const index_t n : {1, 2, 3, 4, 5, 8}) {
    const auto log_snr = log_snr_levels(vp_linear{}, n, 1, 1e-3),
               uniform = uniform_levels(rectified_flow{}, n, 0.99, 0.01);
    compare_with_book<1>(log_snr);
    compare_with_book<2>(log_snr);
    compare_with_book<3>(log_snr);
    compare_with_book<2>(uniform);
    compare_with_book<3>(uniform);
  }
}

TEST_CASE("unipc: without the corrector it is DPM-Solver++ multi-step", "[unipc]") {
  const auto levels = quadratic_levels(vp_linear{}, 9, 1, 1e-3);
  auto model = mixture_model();
  for (const int order : {2, 3}) {
    Eigen::VectorXd x = start;
    std::vector<Eigen::VectorXd> m;
    for (index_t i = 0; i + 1 < std::ssize(levels); ++i) {
      const auto now = static_cast<std::size_t>(i);
      const noise_level &s = at(levels, i), &t = at(levels, i + 1);
      m.push_back(x);
      model(x, s, m.back(), predicts::data);
      const double h = t.lambda() - s.lambda(), e = std::expm1(-h);
      const index_t p = std::min({static_cast<index_t>(order), i + 1, std::ssize(levels) - 1 - i});
      Eigen::VectorXd next = t.sigma / s.sigma * x - t.alpha * e * m[now];
      if (p >= 2) {
        const double r0 = (s.lambda() - at(levels, i - 1).lambda()) / h;
        const Eigen::VectorXd d10 = (m[now] - m[now - 1]) / r0;
        if (p == 2) next -= t.alpha * e / 2 * d10;
        if (p == 3) {
          const double r1 = (at(levels, i - 1).lambda() - at(levels, i - 2).lambda()) / h;
          const Eigen::VectorXd d11 = (m[now - 1] - m[now - 2]) / r1;
          const Eigen::VectorXd d1 = d10 + r0 / (r0 + r1) * (d10 - d11), d2 = 2 / (r0 + r1) * (d10 - d11);
          const double p2 = e / h + 1, p3 = p2 / h - 0.5;
          next += t.alpha * p2 * d1 - t.alpha * p3 * d2;
        }
      }
      x = next;
    }
    const Eigen::VectorXd ours = order == 2 ? run(unipc<2>{.corrector = false}, mixture_model(), start, levels)
                                            : run(unipc<3>{.corrector = false}, mixture_model(), start, levels);
    CHECK((ours - x).norm() <= 1e-12 * (1 + x.norm()));
  }
}

TEST_CASE("unipc: orders of convergence on a Gaussian", "[unipc]") {
  const vp_linear vp;
  const auto model = three_gaussians();
  const auto error = [&](const auto& recipe, index_t n) {
    const auto levels = log_snr_levels(vp, n, 1, 1e-3);
    const Eigen::VectorXd x = run(recipe, prediction<predicts::data>(std::cref(model)), start, levels);
    return (x - model.flow(start, levels.front(), levels.back())).norm() / std::sqrt(3.0);
  };
  const auto slope = [&](const auto& recipe) { return std::log2(error(recipe, 80) / error(recipe, 160)); };
  // The numbers of an independent implementation.
  CHECK(error(unipc<2>{}, 20) == Approx(5.6e-3).epsilon(0.05));
  CHECK(error(unipc<2>{}, 160) == Approx(1.2e-5).epsilon(0.05));
  CHECK(error(unipc<3>{}, 20) == Approx(3.1e-4).epsilon(0.05));
  CHECK(error(unipc<3>{}, 160) == Approx(7.1e-7).epsilon(0.05));
  CHECK(slope(unipc<1>{.corrector = false}) == Approx(1).margin(0.1));
  CHECK(slope(unipc<1>{}) == Approx(2).margin(0.25));  // the corrector adds one
  CHECK(slope(unipc<2>{.corrector = false}) == Approx(2).margin(0.1));
  CHECK(slope(unipc<2>{}) == Approx(3).margin(0.25));
  CHECK(slope(unipc<2>{.variant = unipc_variant::b1}) == Approx(3).margin(0.25));
  CHECK(slope(unipc<3>{}) >= 2.7);
  CHECK(slope(unipc<2>{.form = predicts::noise}) >= 2.7);
  CHECK(slope(unipc<3>{.form = predicts::noise}) >= 2.7);
}

TEST_CASE("unipc: the schedule does not matter", "[unipc]") {
  const auto vp = log_snr_levels(vp_linear{}, 8, 1, 1e-3);
  levels_t edm_grid, flow;
  for (const noise_level& l : vp) {
    edm_grid.push_back({l.kappa(), 1, l.kappa()});
    flow.push_back({0, 1 / (1 + l.kappa()), l.kappa() / (1 + l.kappa())});
  }
  const auto scaled = [&](const auto& recipe, const levels_t& levels) {
    const Eigen::VectorXd x = run(recipe, mixture_model(), start * levels.front().alpha, levels);
    return Eigen::VectorXd(x / levels.back().alpha);
  };
  const auto check = [&](const auto& recipe) {
    const Eigen::VectorXd a = scaled(recipe, vp);
    CHECK((scaled(recipe, edm_grid) - a).norm() <= 1e-10);
    CHECK((scaled(recipe, flow) - a).norm() <= 1e-10);
  };
  check(unipc<1>{});
  check(unipc<2>{});
  check(unipc<3>{});
  check(unipc<3>{.form = predicts::noise});
  check(unipc<2>{.variant = unipc_variant::b1});
}

TEST_CASE("unipc: a constant prediction is exact", "[unipc]") {
  const auto levels = quadratic_levels(vp_linear{}, 7, 1, 1e-3);
  const Eigen::Vector3d m(0.4, -2, 1);
  const auto fixed = [&](const auto&, const noise_level&, auto& out) { out = m; };
  const noise_level &s = levels.front(), &t = levels.back();
  const Eigen::VectorXd by_data = run(unipc<3>{}, prediction<predicts::data>(fixed), start, levels);
  CHECK((by_data - (t.sigma / s.sigma * (start - s.alpha * m) + t.alpha * m)).norm() <= 1e-13);
  const Eigen::VectorXd by_noise =
      run(unipc<3>{.form = predicts::noise}, prediction<predicts::noise>(fixed), start, levels);
  const Eigen::VectorXd exact = t.alpha / s.alpha * (start - s.sigma * m) + t.sigma * m;
  CHECK((by_noise - exact).norm() <= 1e-13 * exact.norm());
}

TEST_CASE("unipc: grids that end at the data", "[unipc]") {
  const auto levels = karras_levels(8, 2e-3, 80);
  const auto model = three_gaussians();
  const Eigen::VectorXd x0 = 80 * start;
  for (const bool lower : {false, true}) {
    const Eigen::VectorXd by_data =
        run(unipc<3>{.lower_order_final = lower}, prediction<predicts::data>(std::cref(model)), x0, levels);
    const Eigen::VectorXd by_noise = run(unipc<3>{.form = predicts::noise, .lower_order_final = lower},
                                         prediction<predicts::data>(std::cref(model)), x0, levels);
    CHECK(by_data.allFinite());
    CHECK(by_noise.allFinite());
  }
  // One jump, in either form, is the prediction.
  const auto jump = edm_levels({80, 0});
  Eigen::VectorXd d = x0;
  model(x0, jump[0], d);
  CHECK((run(unipc<3>{}, prediction<predicts::data>(std::cref(model)), x0, jump) - d).norm() == 0);
  CHECK((run(unipc<2>{.form = predicts::noise}, prediction<predicts::data>(std::cref(model)), x0, jump) - d).norm() <=
        1e-13 * x0.norm());
}

TEST_CASE("unipc: grids that begin at pure noise", "[unipc]") {
  // E[noise - data | x] of the Gaussian is finite at t = 1, where x says nothing of the data.
  const auto g = three_gaussians();
  const auto velocity = [&](const auto& x, const noise_level& l, auto& out) {
    const Eigen::ArrayXd v = l.alpha * l.alpha * g.s2 + l.sigma * l.sigma;
    const Eigen::ArrayXd data = g.m + l.alpha * g.s2 / v * (x.array() - l.alpha * g.m);
    const Eigen::ArrayXd noise = l.sigma / v * (x.array() - l.alpha * g.m);
    out = (noise - data).matrix();
  };
  auto exactly = uniform_levels(rectified_flow{}, 6, 1, 0), nearly = exactly;
  nearly.front() = {1, 1e-300, 1};
  const auto check = [&](const auto& recipe) {
    const Eigen::VectorXd a = run(recipe, prediction<predicts::velocity>(velocity), start, exactly);
    const Eigen::VectorXd b = run(recipe, prediction<predicts::velocity>(velocity), start, nearly);
    CHECK(a.allFinite());
    // 1/log(1e300) is how slowly a far node disappears.
    CHECK((a - b).norm() <= 5e-3 * a.norm());
  };
  check(unipc<1>{});
  check(unipc<2>{});
  check(unipc<3>{});
  CHECK(run(unipc<3>{.variant = unipc_variant::b1}, prediction<predicts::velocity>(velocity), start, exactly)
            .allFinite());
  SLUICE_CHECK_THROWS(unipc<2>{.form = predicts::noise}.bind(start, exactly), "unipc", "levels.alpha", 0);
}

TEST_CASE("unipc: the hook's value is in the base of predictor and corrector, differences are raw", "[unipc]") {
  const auto levels = log_snr_levels(vp_linear{}, 7, 1, 1e-3);
  const auto mixed = [](index_t i, const std::vector<Eigen::VectorXd>& m) -> Eigen::VectorXd {
    const auto k = static_cast<std::size_t>(i);
    return i == 0 ? m[k] : Eigen::VectorXd(1.3 * m[k] - 0.3 * m[k - 1]);
  };
  const auto check = [&](auto recipe, int order) {
    auto model = mixture_model();
    Eigen::VectorXd x = start, before = start;
    auto stepper = recipe.bind(x, levels);
    index_t calls = 0;
    for (index_t i = 0; i + 1 < std::ssize(levels); ++i) {
      const Eigen::VectorXd at_start = x;
      stepper.step(
          model, x,
          i, [&](index_t k, const noise_level& l, const auto& z, const auto& m, auto& scratch) -> const auto& {
            CHECK(k == i);
            CHECK(l == at(levels, i));
            CHECK(z == at_start);
            Eigen::VectorXd again = m;
            model(z, l, again, stepper.form());
            CHECK(again == m);  // the prediction of that state
            if (i == 0)
              lincomb(scratch, 1, m);
            else
              lincomb(scratch, 1.3, m, -0.3, before);
            before = m;
            ++calls;
            return scratch;
          });
    }
    CHECK(calls == std::ssize(levels) - 1);
    const auto book =
        by_the_book(mixture_model(), start, levels, order, recipe.form, recipe.variant, true, true, mixed);
    CHECK((x - book).norm() <= 1e-11 * (1 + book.norm()));
  };
  check(unipc<1>{}, 1);
  check(unipc<2>{}, 2);
  check(unipc<3>{}, 3);
  check(unipc<3>{.form = predicts::noise, .variant = unipc_variant::b1}, 3);
}

TEST_CASE("unipc: stopped half-way and restored, the same bits", "[unipc]") {
  const auto levels = log_snr_levels(vp_linear{}, 9, 1, 1e-3);
  const auto check = [&](const auto& recipe) {
    for (const index_t stop : {0, 1, 2, 3, 5, 8}) {
      auto model = mixture_model();
      Eigen::VectorXd straight = start, x = start;
      auto whole = recipe.bind(straight, levels), first = recipe.bind(x, levels), second = recipe.bind(x, levels);
      for (index_t i = 0; i < 9; ++i) whole.step(model, straight, i);
      for (index_t i = 0; i < stop; ++i) first.step(model, x, i);
      Eigen::VectorXd other = start;
      for (index_t i = 0; i < 4; ++i) second.step(model, other, i);  // a history to be replaced
      const auto state = first.state();
      Eigen::VectorXd spoiled = start;
      for (index_t i = 0; i < 9; ++i) first.step(model, spoiled, i);  // the state is no view
      second.restore(state);
      for (index_t i = stop; i < 9; ++i) second.step(model, x, i);
      CHECK(x == straight);
    }
  };
  check(unipc<1>{});
  check(unipc<2>{});
  check(unipc<3>{});
  check(unipc<3>{.corrector = false});
}

TEST_CASE("unipc: a reset or a gap begins anew", "[unipc]") {
  const auto levels = log_snr_levels(vp_linear{}, 8, 1, 1e-3);
  const auto tail = levels_t(levels.begin() + 3, levels.end());
  auto model = mixture_model();
  const Eigen::VectorXd fresh = run(unipc<3>{}, mixture_model(), start, tail);
  auto stepper = unipc<3>{}.bind(start, std::span<const noise_level>(levels));
  Eigen::VectorXd x = start;
  for (index_t i = 0; i < 3; ++i) stepper.step(model, x, i);
  stepper.reset();
  x = start;
  for (index_t i = 3; i < 8; ++i) stepper.step(model, x, i);
  CHECK(x == fresh);
  x = start;
  stepper.step(model, x, 0);
  x = start;
  for (index_t i = 3; i < 8; ++i) stepper.step(model, x, i);
  CHECK(x == fresh);
}

TEST_CASE("unipc: float, maps, vectors and batches", "[unipc]") {
  const auto levels = log_snr_levels(vp_linear{}, 8, 1, 1e-3);
  const auto g = three_gaussians();
  const auto model = [&g](const auto& x, const noise_level& l, auto& out) {
    const double k2 = l.kappa() * l.kappa();
    for (std::size_t e = 0; e < 3; ++e) {
      const auto i = static_cast<Eigen::Index>(e);
      using S = std::remove_cvref_t<decltype(out[e])>;
      out[e] = static_cast<S>(g.m[i] + g.s2[i] / (g.s2[i] + k2) * (static_cast<double>(x[e]) / l.alpha - g.m[i]));
    }
  };
  const Eigen::VectorXd exact = run(unipc<3>{}, prediction<predicts::data>(std::cref(g)), start, levels);

  std::vector<double> v(start.data(), start.data() + 3), held = v;
  CHECK(sample(unipc<3>{}, prediction<predicts::data>(model), v, levels).stats.nfe == 8);
  std::span<double> view(held);
  CHECK(sample(unipc<3>{}, prediction<predicts::data>(model), view, levels).stats.nfe == 8);
  Eigen::VectorXd memory = start;
  Eigen::Map<Eigen::VectorXd> map(memory.data(), 3);
  CHECK(sample(unipc<3>{}, prediction<predicts::data>(std::cref(g)), map, levels).stats.nfe == 8);
  for (Eigen::Index i = 0; i < 3; ++i) {
    CHECK(v[static_cast<std::size_t>(i)] == Approx(exact[i]).epsilon(1e-13));
    CHECK(held[static_cast<std::size_t>(i)] == v[static_cast<std::size_t>(i)]);
    CHECK(memory[i] == exact[i]);
  }
  Eigen::VectorXf single = start.cast<float>();
  CHECK(sample(unipc<3>{}, prediction<predicts::data>(std::cref(g)), single, levels).stats.nfe == 8);
  CHECK((single.cast<double>() - exact).norm() <= 1e-5);

  Eigen::MatrixXd batch = Eigen::MatrixXd::Random(3, 5);
  const Eigen::MatrixXd from = batch;
  CHECK(sample(unipc<3>{}, mixture_model(), batch, levels).stats.nfe == 8);
  for (Eigen::Index j = 0; j < 5; ++j) CHECK(batch.col(j) == run(unipc<3>{}, mixture_model(), from.col(j), levels));
  Eigen::MatrixXd none(3, 0);
  CHECK(sample(unipc<3>{}, mixture_model(), none, levels).status == status::completed);
}

TEST_CASE("unipc: stepping allocates nothing", "[unipc]") {
  const auto levels = log_snr_levels(vp_linear{}, 8, 1, 1e-3);
  Eigen::VectorXd x = Eigen::VectorXd::Random(100);
  auto model =
      prediction<predicts::noise>([](const auto& z, const noise_level& l, auto& out) { out = z / (1 + l.sigma); });
  const auto check = [&](const auto& recipe) {
    auto stepper = recipe.bind(x, levels);
    index_t calls = 0;
    auto counted = [&](const auto& z, const noise_level& l, auto& out, predicts want) {
      ++calls;
      model(z, l, out, want);
    };
    std::int64_t promised = 0;
    CHECK(support::allocations_in([&] {
            for (index_t i = 0; i < 8; ++i) {
              promised += stepper.evaluations(i);
              stepper.step(counted, x, i);
            }
            stepper.reset();
          }) == 0);
    CHECK(calls == promised);
  };
  check(unipc<1>{});
  check(unipc<2>{.variant = unipc_variant::b1});
  check(unipc<3>{.form = predicts::noise});
}

TEST_CASE("unipc: bad input", "[unipc]") {
  const auto levels = log_snr_levels(vp_linear{}, 4, 1, 1e-3);
  const double inf = std::numeric_limits<double>::infinity();
  SLUICE_CHECK_THROWS((unipc<2>{.form = predicts::velocity}.bind(start, levels)), "unipc", "form", -1);
  SLUICE_CHECK_THROWS(unipc<2>{}.bind(start, levels_t{}), "unipc", "levels.size", -1);
  SLUICE_CHECK_THROWS(unipc<2>{}.bind(start, edm_levels({2, 1, 1})), "unipc", "levels.kappa", 2);
  SLUICE_CHECK_THROWS(unipc<2>{}.bind(start, edm_levels({2, 0, 0})), "unipc", "levels.kappa", 2);
  SLUICE_CHECK_THROWS(unipc<2>{}.bind(start, levels_t{{0, 1, 1}, {0, 1, inf}}), "unipc", "levels.sigma", 1);
  const double r[2] = {-1, -0.5}, good[2] = {-1, -2}, positive[1] = {0.5}, lost[2] = {-inf, -inf};
  const auto f = [](int order, double hh, std::span<const double> nodes) {
    return unipc_coefficients(order, hh, nodes, unipc_variant::b2);
  };
  SLUICE_CHECK_THROWS(f(0, 1, {}), "unipc_coefficients", "order", -1);
  SLUICE_CHECK_THROWS(f(4, 1, good), "unipc_coefficients", "order", -1);
  SLUICE_CHECK_THROWS(f(1, 0, {}), "unipc_coefficients", "hh", -1);
  SLUICE_CHECK_THROWS(f(1, inf, {}), "unipc_coefficients", "hh", -1);
  SLUICE_CHECK_THROWS(f(1, std::nan(""), {}), "unipc_coefficients", "hh", -1);
  SLUICE_CHECK_THROWS(f(2, 1, good), "unipc_coefficients", "r.size", -1);
  SLUICE_CHECK_THROWS(f(3, 1, r), "unipc_coefficients", "r", 1);
  SLUICE_CHECK_THROWS(f(3, 1, lost), "unipc_coefficients", "r", 1);
  SLUICE_CHECK_THROWS(f(2, 1, positive), "unipc_coefficients", "r", 0);
}
