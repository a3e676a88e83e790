// Fails for: oldest prediction first; alpha of the wrong level; an order that stops growing at 2; four quadrature
// points for 64; t of the wrong end of a step; a factorial in the integrals of log kappa; a corner of a tableau; a
// stage at the level before; the hook's value in a difference; a restart inside the grid with full order; indices that
// repeat.
#include <Eigen/Geometry>
#include <catch2/catch.hpp>
#include <limits>
#include <sluice/generate/deis.hpp>
#include <sluice/generate/dualfast.hpp>
#include <sluice/generate/heun.hpp>
#include <sluice/models/mixture_1d.hpp>
#include <support/check_throws.hpp>

#include "solver_checks.hpp"

using namespace sluice;
using namespace solver_checks;

namespace {

using in_vp_time = in_time<vp_linear>;

/// f(variable) for every interpolation variable.
template <class F>
void for_each_variable(F&& f) {
  f(in_kappa{});
  f(in_log_kappa{});
  f(in_vp_time{});
}
std::vector<levels_t> grids(index_t n) {
  const vp_linear vp;
  return {quadratic_levels(vp, n, 1, 1e-3), uniform_levels(vp, n, 1, 1e-3), kappa_power_levels(vp, n, 1, 1e-3),
          log_snr_levels(vp, n, 1, 1e-3)};
}
double value(in_kappa, const noise_level& l) { return l.kappa(); }
double value(in_log_kappa, const noise_level& l) { return -l.lambda(); }
double value(const in_vp_time&, const noise_level& l) { return l.t; }

/// The integral of f(level) d kappa between two levels, by many short Gauss rules in log kappa.
template <class F>
double integral(F&& f, const noise_level& s, const noise_level& t) {
  const vp_linear vp;
  double sum = 0;
  const auto rule = gauss_legendre(12, 0, 1);
  const index_t pieces = 40;
  const double h = (t.lambda() - s.lambda()) / pieces;
  for (index_t p = 0; p < pieces; ++p)
    sum += integrate(
        [&](double z) {
          const double lambda = s.lambda() + h * (static_cast<double>(p) + z);
          return -h * std::exp(-lambda) * f(vp.at_lambda(std::clamp(lambda, s.lambda(), t.lambda())));
        },
        rule);
  return sum;
}

/// deis from the exact trajectory of the Gaussian: the first `order` steps are replaced by the truth.
template <class V>
double error_after_exact_start(const V& variable, int order, const levels_t& levels) {
  const auto& law = three_gaussians();
  const deis<V> recipe{.order = order, .variable = variable};
  Eigen::VectorXd x = start(), exact = x;
  auto model = prediction<predicts::data>(std::cref(law));
  auto stepper = recipe.bind(x, levels);
  solver_state<Eigen::VectorXd> s{{order, order}, {}};
  for (index_t i = order - 1; i >= 0; --i) {
    law.flow_map(x, start(), levels.front(), at(levels, i));
    Eigen::VectorXd noise = x;
    model(x, at(levels, i), noise, predicts::noise);
    s.history.push_back(noise);
  }
  law.flow_map(x, start(), levels.front(), at(levels, order));
  stepper.restore(s);
  for (index_t i = order; i < steps(levels); ++i) stepper.step(model, x, i);
  law.flow_map(exact, start(), levels.front(), levels.back());
  return (x - exact).norm();
}

}  // namespace

TEST_CASE("deis: order 0 is DDIM, whatever the variable", "[deis]") {
  for (const auto& levels : grids(7)) {
    const Eigen::VectorXd ddim = run_mixture(heun{.order = 1}, levels);
    for_each_variable([&]<class V>(const V& v) {
      CHECK((run_mixture(deis<V>{.order = 0, .variable = v}, levels) - ddim).norm() <= 1e-13);
    });
    CHECK((run_mixture(deis<classical_weights>{.order = 0}, levels) - ddim).norm() <= 1e-13);
  }
}

TEST_CASE("deis: the weights sum to the step in kappa and integrate polynomials", "[deis]") {
  for (const auto& levels : grids(8))
    for_each_variable([&](const auto& v) {
      for (int order = 0; order <= 3; ++order) {
        const auto table = deis_table(v, levels, order);
        REQUIRE(std::ssize(table) == steps(levels));
        for (index_t i = 0; i < steps(levels); ++i) {
          const deis_row& row = table[static_cast<std::size_t>(i)];
          const noise_level &s = at(levels, i), &t = at(levels, i + 1);
          CHECK(row.order == std::min<index_t>(i, order));
          CHECK(row.state == t.alpha / s.alpha);
          const double scale = std::abs(t.kappa() - s.kappa()) * row.extrapolation();
          double sum = 0;
          for (const double w : row.weight) sum += w / t.alpha;
          CHECK(std::abs(sum - (t.kappa() - s.kappa())) <= 1e-12 * scale);
          for (int degree = 1; degree <= row.order; ++degree) {
            const auto p = [&](const noise_level& l) {  // a power of the variable, of size 1 on the nodes
              return std::pow(value(v, l) / value(v, at(levels, i - row.order)), degree);
            };
            double got = 0;
            for (int j = 0; j <= row.order; ++j)
              got += row.weight[static_cast<std::size_t>(j)] / t.alpha * p(at(levels, i - j));
            CHECK(std::abs(got - integral(p, s, t)) <= 1e-10 * scale);
          }
        }
      }
    });
}

TEST_CASE("deis: closed forms are what quadrature gives", "[deis]") {
  const auto rule = gauss_legendre(64, 0, 1);
  for (const auto& levels : grids(9))
    for (index_t i = 0; i < steps(levels); ++i)
      for (index_t order = 0; order <= std::min<index_t>(i, 3); ++order) {
        std::vector<noise_level> nodes;
        std::vector<double> kappa, log_kappa;
        for (index_t j = 0; j <= order; ++j) {
          nodes.push_back(at(levels, i - j));
          kappa.push_back(nodes.back().kappa());
          log_kappa.push_back(-nodes.back().lambda());
        }
        const noise_level& t = at(levels, i + 1);
        const double k = kappa[0], h = t.kappa() - k, log_step = -t.lambda() - log_kappa[0];
        const auto a = lagrange_weights(
            kappa, rule, [&](double) { return h; }, [&](double z) { return k + h * z; });
        const auto b = lagrange_weights(
            log_kappa, rule, [&](double z) { return log_step * k * std::exp(log_step * z); },
            [&](double z) { return log_kappa[0] + log_step * z; });
        const auto closed_a = in_kappa{}.weights(nodes, t), closed_b = in_log_kappa{}.weights(nodes, t);
        double size_a = 0, size_b = 0;
        for (std::size_t j = 0; j < 4; ++j) size_a += std::abs(a[j]), size_b += std::abs(b[j]);
        for (std::size_t j = 0; j < 4; ++j) {
          CHECK(std::abs(closed_a[j] - a[j]) <= 1e-13 * size_a);
          CHECK(std::abs(closed_b[j] - b[j]) <= 1e-12 * size_b);
        }
      }
  // Two nodes, as one writes it by hand.
  const auto levels = edm_levels({5, 3, 0.5});
  const std::vector<noise_level> nodes{levels[1], levels[0]};
  const double h = 0.5 - 3, g = 3 - 5.0;
  const auto two = in_kappa{}.weights(nodes, levels[2]);
  CHECK(two[0] == Approx(h + h * h / (2 * g)).epsilon(1e-14));
  CHECK(two[1] == Approx(-h * h / (2 * g)).epsilon(1e-14));
  const auto f = [](double k, double b, double a) {  // antiderivative of (log k - log b)/(log a - log b)
    return k * (std::log(k) - std::log(b) - 1) / (std::log(a) - std::log(b));
  };
  const auto logs = in_log_kappa{}.weights(nodes, levels[2]);
  CHECK(logs[0] == Approx(f(0.5, 5, 3) - f(3, 5, 3)).epsilon(1e-13));
  CHECK(logs[1] == Approx(f(0.5, 3, 5) - f(3, 3, 5)).epsilon(1e-13));
}

TEST_CASE("deis: even steps in kappa have the classical weights", "[deis]") {
  const auto levels = edm_levels({9, 8, 7, 6, 5});
  const double classical[4][4] = {
      {1}, {1.5, -0.5}, {23. / 12, -16. / 12, 5. / 12}, {55. / 24, -59. / 24, 37. / 24, -9. / 24}};
  for (int order = 0; order <= 3; ++order) {
    const auto a = deis_table(in_kappa{}, levels, order).back(),
               b = deis_table(classical_weights{}, levels, order).back();
    for (std::size_t j = 0; j < 4; ++j) {
      CHECK(a.weight[j] == Approx(-classical[order][j]).epsilon(1e-13).margin(1e-15));
      CHECK(b.weight[j] == Approx(-classical[order][j]).epsilon(1e-15).margin(1e-15));
    }
  }
}

TEST_CASE("deis: constant noise is exact for any order, variable and grid", "[deis]") {
  const Eigen::VectorXd e = Eigen::Vector3d(0.7, -1.1, 0.2);
  auto fixed = prediction<predicts::noise>([&](const auto&, const noise_level&, auto& out) { out = e; });
  for (const auto& levels : grids(9)) {
    const noise_level &s = levels.front(), &t = levels.back();
    const Eigen::VectorXd exact = t.alpha / s.alpha * start() + t.alpha * (t.kappa() - s.kappa()) * e;
    const auto check = [&](const auto& recipe) {
      Eigen::VectorXd x = start();
      CHECK(sample(recipe, fixed, x, levels).stats.nfe == 9);
      CHECK((x - exact).norm() <= 2e-11 * exact.norm());
    };
    for (int order = 0; order <= 3; ++order) {
      for_each_variable([&]<class V>(const V& v) { check(deis<V>{.order = order, .variable = v}); });
      check(deis<classical_weights>{.order = order});
    }
  }
}

TEST_CASE("deis: order of convergence with exact history, and without", "[deis]") {
  const vp_linear vp;
  const auto coarse = log_snr_levels(vp, 80, 1, 1e-3), fine = log_snr_levels(vp, 160, 1, 1e-3);
  for_each_variable([&]<class V>(const V& v) {
    for (int order = 0; order <= 3; ++order) {
      const double exact_start =
          std::log2(error_after_exact_start(v, order, coarse) / error_after_exact_start(v, order, fine));
      INFO("order " << order << ", slope " << exact_start);
      CHECK(exact_start >= order + 0.7);
    }
    // The first step is of order 1: its error of h^2 is never mended. (It shows where the noise changes at once: at
    // kappa near 1.)
    const deis<V> recipe{.order = 3, .variable = v};
    const double own_start = std::log2(gaussian_error(recipe, log_snr_levels(vp, 320, 0.3, 1e-2)) /
                                       gaussian_error(recipe, log_snr_levels(vp, 640, 0.3, 1e-2)));
    INFO("own start: slope " << own_start);
    CHECK(own_start == Approx(2).margin(0.2));
  });
  // Classical weights on uneven steps are of second order at most.
  const double pndm = std::log2(gaussian_error(deis<classical_weights>{}, uniform_levels(vp, 1280, 1, 0.05)) /
                                gaussian_error(deis<classical_weights>{}, uniform_levels(vp, 2560, 1, 0.05)));
  INFO("iPNDM: slope " << pndm);
  CHECK(pndm == Approx(2).margin(0.2));
}

TEST_CASE("deis: tableaux satisfy the conditions of their order", "[deis]") {
  const auto check = []<class T>(T, int order) {
    constexpr std::size_t n = T::b.size();
    double b = 0, bc = 0, bcc = 0, bac = 0, bccc = 0, bcac = 0, bacc = 0, baac = 0;
    for (std::size_t i = 0; i < n; ++i) {
      double row = 0, ac = 0, acc = 0, aac = 0;
      for (std::size_t j = 0; j < n; ++j) {
        if (j >= i) CHECK(T::a[i][j] == 0);
        row += T::a[i][j], ac += T::a[i][j] * T::c[j], acc += T::a[i][j] * T::c[j] * T::c[j];
        for (std::size_t k = 0; k < n; ++k) aac += T::a[i][j] * T::a[j][k] * T::c[k];
      }
      CHECK(row == Approx(T::c[i]).margin(1e-15));
      const double c = T::c[i];
      b += T::b[i], bc += T::b[i] * c, bcc += T::b[i] * c * c, bac += T::b[i] * ac, bccc += T::b[i] * c * c * c;
      bcac += T::b[i] * c * ac, bacc += T::b[i] * acc, baac += T::b[i] * aac;
    }
    CHECK(b == Approx(1));
    if (order >= 2) CHECK(bc == Approx(1. / 2));
    if (order >= 3) CHECK(bcc == Approx(1. / 3));
    if (order >= 3) CHECK(bac == Approx(1. / 6));
    if (order >= 4) CHECK(bccc == Approx(1. / 4));
    if (order >= 4) CHECK(bcac == Approx(1. / 8));
    if (order >= 4) CHECK(bacc == Approx(1. / 12));
    if (order >= 4) CHECK(baac == Approx(1. / 24));
    // And the method has it.
    const vp_linear vp;
    const double from = vp.at_lambda(-std::log(80)).t;
    const rho_runge_kutta<T, vp_linear> recipe;
    const auto error = [&](index_t steps) { return gaussian_error(recipe, log_snr_levels(vp, steps, from, 1e-3)); };
    const double slope = std::log2(error(80) / error(160));
    INFO("slope " << slope);
    CHECK(slope >= order - 0.3);
    CHECK(slope <= order + 1.2);
  };
  check(tableau::euler{}, 1);
  check(tableau::heun_2{}, 2);
  check(tableau::kutta_3{}, 3);
  check(tableau::ralston_3{}, 3);
  check(tableau::heun_3{}, 3);
  check(tableau::van_der_houwen_3{}, 3);
  check(tableau::ssp_3{}, 3);
  check(tableau::classical_4{}, 4);
}

TEST_CASE("deis: Runge-Kutta with Heun's tableau is heun, with Euler's DDIM", "[deis]") {
  for (const auto& levels : grids(6)) {
    const Eigen::VectorXd a = run_mixture(heun{}, levels), b = run_mixture(heun{.order = 1}, levels);
    CHECK((run_mixture(rho_runge_kutta<tableau::heun_2, vp_linear>{}, levels) - a).norm() <= 1e-13 * (1 + a.norm()));
    CHECK((run_mixture(rho_runge_kutta<tableau::euler, vp_linear>{}, levels) - b).norm() <= 1e-13 * (1 + b.norm()));
  }
  // To kappa = 0: Euler if a stage is there, else the whole rule.
  const auto levels = edm_levels({2, 0.5, 0});
  CHECK(run_mixture(rho_runge_kutta<tableau::heun_2, edm>{}, levels) == run_mixture(heun{}, levels));
  const Eigen::VectorXd x = start();
  const auto kutta = rho_runge_kutta<tableau::kutta_3, edm>{}.bind(x, levels);
  CHECK(kutta.evaluations(0) == 3);
  CHECK(kutta.evaluations(1) == 1);
  CHECK(rho_runge_kutta<tableau::ralston_3, edm>{}.bind(x, levels).evaluations(1) == 3);
  CHECK(gaussian_error(rho_runge_kutta<tableau::ralston_3, edm>{}, edm_levels({2, 1, 0.5, 0.2, 0.1, 0})) <= 1e-3);
}

TEST_CASE("deis: rotated and shifted data gives rotated and shifted samples", "[deis]") {
  const Eigen::Matrix3d q = Eigen::AngleAxisd(0.8, Eigen::Vector3d(1, 2, -1).normalized()).toRotationMatrix();
  const Eigen::Vector3d shift(0.4, -2, 1);
  const auto& plain = three_lumps();
  const models::gaussian_mixture moved(plain.weights(), (q * plain.means()).colwise() + shift, plain.sd());
  const auto check = [&](const auto& recipe, const levels_t& levels) {
    const Eigen::VectorXd a = run_mixture(recipe, levels);
    const Eigen::VectorXd from = q * start() + levels.front().alpha * shift;
    const Eigen::VectorXd b = run(recipe, prediction<predicts::data>(std::cref(moved)), from, levels);
    CHECK((b - (q * a + levels.back().alpha * shift)).norm() <= 1e-12 * (1 + a.norm()));
  };
  const auto levels = quadratic_levels(vp_linear{}, 8, 1, 1e-3);
  for_each_variable([&]<class V>(const V& v) { check(deis<V>{.order = 3, .variable = v}, levels); });
  check(deis<classical_weights>{}, levels);
  check(rho_runge_kutta<tableau::classical_4, vp_linear>{}, levels);
}

TEST_CASE("deis: the schedule does not matter for variables of kappa", "[deis]") {
  const auto vp = log_snr_levels(vp_linear{}, 8, 1, 1e-3);
  levels_t edm_grid, flow;
  for (const noise_level& l : vp) {
    edm_grid.push_back({l.kappa(), 1, l.kappa()});
    flow.push_back({0, 1 / (1 + l.kappa()), l.kappa() / (1 + l.kappa())});
  }
  const auto check = [&](const auto& recipe) {
    const auto scaled = [&](const levels_t& levels) -> Eigen::VectorXd {
      return run_mixture(recipe, levels, start() * levels.front().alpha) / levels.back().alpha;
    };
    const Eigen::VectorXd a = scaled(vp);
    CHECK((scaled(edm_grid) - a).norm() <= 1e-10);
    CHECK((scaled(flow) - a).norm() <= 1e-10);
  };
  check(deis<in_kappa>{});
  check(deis<in_log_kappa>{});
  check(deis<classical_weights>{});
  // Time of EDM is kappa.
  const Eigen::VectorXd a = run_mixture(deis<in_time<edm>>{}, edm_grid), b = run_mixture(deis<in_kappa>{}, edm_grid);
  CHECK((a - b).norm() <= 1e-12);
}

TEST_CASE("deis: a grid that begins at alpha = 0", "[deis]") {
  // At t = 1 the data is its mean, the noise is x: the velocity is exact there.
  const auto velocity = [](const auto& x, const noise_level& l, auto& out) {
    three_lumps()(x, l, out);
    if (l.alpha == 0)
      lincomb(out, 1, Eigen::VectorXd(x - out));
    else
      lincomb(out, 1, Eigen::VectorXd((x - l.alpha * out) / l.sigma - out));
  };
  const rectified_flow flow;
  auto model = prediction<predicts::velocity>(velocity);
  const auto levels = uniform_levels(flow, 8, 1, 0.01);
  const auto tail = levels_t(levels.begin() + 1, levels.end());
  const auto check = [&](const auto& recipe) {
    Eigen::VectorXd data = start(), x = start();
    model(start(), levels.front(), data, predicts::data);
    const Eigen::VectorXd second = levels[1].sigma * start() + levels[1].alpha * data;
    auto stepper = recipe.bind(x, levels);
    index_t hooks = 0;
    stepper.step(
        model, x, 0, [&](index_t, const noise_level&, const auto& z, const auto& raw, auto&) -> const auto& {
          CHECK(z == start());
          CHECK(raw == start());  // the noise
          ++hooks;
          return raw;
        });
    CHECK(hooks == 1);
    CHECK((x - second).norm() <= 1e-15);
    for (index_t i = 1; i < 8; ++i) stepper.step(model, x, i);
    CHECK((x - run(recipe, model, second, tail)).norm() <= 1e-13);  // history begins at the second level
    CHECK(stepper.table()[1].order == 0);
  };
  check(deis<>{});
  check(deis<>{.order = 0});
  check(deis<in_kappa>{.order = 2});
  check(deis<in_time<rectified_flow>>{});
  check_types(deis<in_kappa>{}, levels);
}

TEST_CASE("deis: a grid that ends at the data", "[deis]") {
  for (const bool flow : {false, true}) {
    const auto levels = flow ? uniform_levels(rectified_flow{}, 6, 0.99, 0) : uniform_levels(edm{}, 6, 5, 0);
    auto nearly = levels;
    nearly.back() = flow ? rectified_flow{}.at(1e-9) : edm{}.at(1e-9);
    CHECK((run_mixture(deis<in_kappa>{}, levels) - run_mixture(deis<in_kappa>{}, nearly)).norm() <= 1e-7);
    if (flow)
      CHECK(
          (run_mixture(deis<in_time<rectified_flow>>{}, levels) - run_mixture(deis<in_time<rectified_flow>>{}, nearly))
              .norm() <= 1e-7);
    SLUICE_CHECK_THROWS(deis<>{}.bind(start(), levels), "deis", "levels.kappa", 6);
  }
  const auto vp = quadratic_levels(vp_linear{}, 6, 1, 0);
  auto nearly = vp;
  nearly.back() = vp_linear{}.at(1e-12);
  CHECK((run_mixture(deis<in_vp_time>{}, vp) - run_mixture(deis<in_vp_time>{}, nearly)).norm() <= 1e-4);
  const auto a = deis_table(in_vp_time{}, vp, 3).back(), b = deis_table(in_time(vp_linear{}, 200), vp, 3).back();
  for (std::size_t j = 0; j < 4; ++j) CHECK(a.weight[j] == Approx(b.weight[j]).epsilon(1e-9));
}

TEST_CASE("deis: the hook's value is in the first-order term", "[deis]") {
  for (const auto& levels : grids(7)) {
    // DualFast with these coefficients turns DDIM into Adams-Bashforth 2 in kappa.
    const dualfast<deis<in_kappa>> mixed{.recipe = {.order = 0}, .coefficients = adams_bashforth_coefficients(levels)};
    CHECK((run_mixture(mixed, levels) - run_mixture(deis<in_kappa>{.order = 1}, levels)).norm() <= 1e-11);
    const auto plain = run_mixture(deis<>{.order = 2}, levels);
    const dualfast<deis<>> off{.recipe = {.order = 2}, .c = 0.0};
    CHECK((run_mixture(off, levels) - plain).norm() <= 1e-11 * (1 + plain.norm()));
  }
  // A hook that adds d to the newest prediction adds alpha (kappa_t - kappa_s) d to the state, and nothing later.
  const auto levels = quadratic_levels(vp_linear{}, 5, 1, 1e-3);
  auto model = prediction<predicts::data>(std::cref(three_lumps()));
  const Eigen::VectorXd d = Eigen::Vector3d(0.1, 0.2, -0.3);
  const auto check = [&](const auto& recipe) {
    Eigen::VectorXd x = start(), y = start();
    auto a = recipe.bind(x, levels), b = recipe.bind(y, levels);
    for (index_t i = 0; i < 5; ++i) {
      a.step(model, x, i);
      b.step(
          model, y, i, [&](index_t, const noise_level&, const auto&, const auto& raw, auto& scratch) -> const auto& {
            lincomb(scratch, 1, raw, 1, d);
            return scratch;
          });
      const double h = at(levels, i + 1).alpha * (at(levels, i + 1).kappa() - at(levels, i).kappa());
      CHECK((y - x - h * d).norm() <= 1e-13 * (1 + x.norm()));
      y = x;
    }
  };
  check(deis<>{});
  check(deis<in_vp_time>{.order = 2});
  check(deis<in_kappa>{.order = 1});
}

TEST_CASE("deis: a reset or a gap begins anew", "[deis]") {
  const auto levels = quadratic_levels(vp_linear{}, 8, 1, 1e-3);
  const auto tail = levels_t(levels.begin() + 2, levels.end());
  for_each_variable([&]<class V>(const V& v) {
    const deis<V> recipe{.order = 3, .variable = v};
    const Eigen::VectorXd fresh = run_mixture(recipe, tail);
    auto model = prediction<predicts::data>(std::cref(three_lumps()));
    Eigen::VectorXd x = start();
    auto stepper = recipe.bind(x, levels);
    for (index_t i = 0; i < 2; ++i) stepper.step(model, x, i);
    stepper.reset();
    x = start();
    CHECK(support::allocations_in([&] { stepper.step(model, x, 2); }) <= support::allocations_in([&] {
            Eigen::VectorXd z = start();
            model(z, levels[2], z, predicts::noise);
          }));
    for (index_t i = 3; i < 8; ++i) stepper.step(model, x, i);
    CHECK(x == fresh);
    x = start();
    stepper.step(model, x, 0);
    x = start();
    for (index_t i = 2; i < 8; ++i) stepper.step(model, x, i);
    CHECK(x == fresh);
  });
}

TEST_CASE("deis: the protocol of steppers, on every tensor", "[deis]") {
  const auto levels = quadratic_levels(vp_linear{}, 7, 1, 1e-3);
  check_types(deis<>{}, levels);
  check_types(deis<in_kappa>{.order = 2}, levels);
  check_types(deis<in_vp_time>{.order = 1}, levels);
  check_types(deis<classical_weights>{.order = 0}, levels);
  const auto calm = quadratic_levels(vp_linear{}, 7, 0.8, 1e-3);
  check_types(rho_runge_kutta<tableau::heun_2, vp_linear>{}, calm);
  check_types(rho_runge_kutta<tableau::van_der_houwen_3, vp_linear>{}, calm);
  check_types(rho_runge_kutta<tableau::classical_4, vp_linear>{}, calm);
  Eigen::MatrixXd batch = Eigen::MatrixXd::Random(3, 4);
  const Eigen::MatrixXd from = batch;
  const auto model = std::cref(three_lumps());
  CHECK(sample(deis<>{}, prediction<predicts::data>(model), batch, levels).stats.nfe == 7);
  for (Eigen::Index j = 0; j < 4; ++j) CHECK(batch.col(j) == run_mixture(deis<>{}, levels, from.col(j)));
}

TEST_CASE("deis: the extrapolation factor warns", "[deis]") {
  const vp_linear vp;
  const auto worst = [](const auto& variable, const levels_t& levels) {
    double factor = 0;
    for (const deis_row& row : deis_table(variable, levels, 3)) factor = std::max(factor, row.extrapolation());
    return factor;
  };
  CHECK(deis_table(in_log_kappa{}, uniform_levels(vp, 10, 1, 1e-3), 0).back().extrapolation() == 1);
  CHECK(worst(in_log_kappa{}, uniform_levels(vp, 10, 1, 1e-3)) > 10);
  CHECK(worst(in_log_kappa{}, kappa_power_levels(vp, 10, 1, 1e-3)) < 10);
  CHECK(worst(in_vp_time{}, uniform_levels(vp, 10, 1, 1e-3)) < 10);
  CHECK(worst(in_vp_time{}, quadratic_levels(vp, 10, 1, 1e-3)) < 10);
}

TEST_CASE("deis: errors on a one-dimensional mixture", "[deis]") {
  // 200 quantiles of the noise, carried to the data; the numbers of an independent implementation.
  const models::mixture_1d law(Eigen::Vector3d(0.25, 0.45, 0.3), Eigen::Vector3d(-2, 0.3, 1.7),
                               Eigen::Vector3d(0.2, 0.3, 0.1));
  const models::mixture_1d normal(Eigen::VectorXd::Ones(1), Eigen::VectorXd::Zero(1), Eigen::VectorXd::Ones(1));
  const vp_linear vp;
  Eigen::RowVectorXd from(200), exact(200);
  for (Eigen::Index i = 0; i < 200; ++i)
    from(i) = normal.quantile((static_cast<double>(i) + 0.5) / 200, models::scaled_level{1, 0});
  law.flow_map(exact, from, vp.at(1), vp.at(1e-3));
  const auto error = [&](const auto& recipe, const levels_t& levels) {
    const auto x = run(recipe, prediction<predicts::data>(std::cref(law)), from, levels);
    return std::sqrt((x - exact).squaredNorm() / 200);
  };
  const auto quadratic = [&](index_t n) { return quadratic_levels(vp, n, 1, 1e-3); };
  CHECK(error(deis<in_vp_time>{.order = 1}, quadratic(10)) == Approx(0.156).epsilon(0.1));
  CHECK(error(deis<in_vp_time>{.order = 2}, quadratic(10)) == Approx(0.090).epsilon(0.1));
  CHECK(error(deis<in_vp_time>{}, quadratic(10)) == Approx(0.074).epsilon(0.1));
  CHECK(error(deis<in_vp_time>{}, quadratic(20)) == Approx(0.0037).epsilon(0.1));
  CHECK(error(deis<in_kappa>{}, quadratic(10)) == Approx(0.193).epsilon(0.1));
  CHECK(error(deis<>{}, kappa_power_levels(vp, 10, 1, 1e-3)) == Approx(0.054).epsilon(0.1));
  CHECK(error(deis<classical_weights>{}, uniform_levels(vp, 10, 1, 1e-3)) == Approx(0.167).epsilon(0.1));
  // Where a variable does not suit the grid.
  CHECK(error(deis<>{}, uniform_levels(vp, 10, 1, 1e-3)) > 0.6);
}

TEST_CASE("deis: networks that know whole steps", "[deis]") {
  const auto schedule = vp_discrete::linear();
  for (const index_t n : {5, 10, 100, 999}) {
    const auto list = distinct_indices(power_times(n, 999, 0, 2), 1000);
    REQUIRE(std::ssize(list) == n + 1);
    CHECK(list.front() == 999);
    CHECK(list.back() == 0);
    for (std::size_t i = 1; i < list.size(); ++i) CHECK(list[i] < list[i - 1]);
  }
  // By hand: 0.2, 0.9, 1.5, 6.3 are 0, 0, 1, 6; the smallest unused above 0 is 2.
  CHECK(distinct_indices(std::vector<double>{6.3, 1.5, 0.9, 0.2}, 8) == std::vector<index_t>{6, 2, 1, 0});
  CHECK(distinct_indices(std::vector<double>{3.9, 3.6, 3.3, 3.1}, 8) == std::vector<index_t>{6, 5, 4, 3});
  CHECK(distinct_indices(std::vector<double>{3.9, 3.6, 3.3, 3.1}, 7) == std::vector<index_t>{6, 5, 4, 3});
  SLUICE_CHECK_THROWS(distinct_indices(std::vector<double>{3.9, 3.6, 3.3, 3.1}, 6), "distinct_indices",
                      "positions.size", -1);
  SLUICE_CHECK_THROWS(distinct_indices(std::vector<double>{}, 6), "distinct_indices", "positions.size", -1);
  SLUICE_CHECK_THROWS(distinct_indices(std::vector<double>{6, 1}, 6), "distinct_indices", "positions", 0);
  SLUICE_CHECK_THROWS(distinct_indices(std::vector<double>{1, 2}, 6), "distinct_indices", "positions", 1);
  SLUICE_CHECK_THROWS(distinct_indices(std::vector<double>{1, -1}, 6), "distinct_indices", "positions", 1);
  levels_t levels;
  for (const index_t i : distinct_indices(power_times(20, 999, 0, 2), 1000)) levels.push_back(schedule.at_index(i));
  const deis<in_time<vp_discrete>> recipe{.variable = in_time(schedule)};
  CHECK(gaussian_error(recipe, levels) <= 0.01);
  // The corners of t(kappa) cost digits, not more.
  const auto coarse = deis_table(in_time(schedule), levels, 3), fine = deis_table(in_time(schedule, 1000), levels, 3);
  for (std::size_t i = 0; i < coarse.size(); ++i)
    for (std::size_t j = 0; j < 4; ++j)
      CHECK(std::abs(coarse[i].weight[j] - fine[i].weight[j]) <= 1e-4 * std::abs(fine[i].first));
}

TEST_CASE("deis: bad input", "[deis]") {
  const auto levels = log_snr_levels(vp_linear{}, 4, 1, 1e-3);
  const auto x = start();
  SLUICE_CHECK_THROWS((deis<>{.order = 4}.bind(x, levels)), "deis", "order", -1);
  SLUICE_CHECK_THROWS((deis<>{.order = -1}.bind(x, levels)), "deis", "order", -1);
  SLUICE_CHECK_THROWS((deis<classical_weights>{.order = 4}.bind(x, levels)), "deis", "order", -1);
  SLUICE_CHECK_THROWS(deis<>{}.bind(x, levels_t{}), "deis", "levels.size", -1);
  SLUICE_CHECK_THROWS(deis<>{}.bind(x, edm_levels({2, 1, 1})), "deis", "levels.kappa", 2);
  SLUICE_CHECK_THROWS(deis<>{}.bind(x, edm_levels({2, 3})), "deis", "levels.kappa", 1);
  SLUICE_CHECK_THROWS(deis<>{}.bind(x, edm_levels({2, 1, 0})), "deis", "levels.kappa", 2);
  SLUICE_CHECK_THROWS(deis<in_vp_time>{}.bind(x, edm_levels({0.9, 0.5})), "deis", "levels.t", 0);
  SLUICE_CHECK_THROWS(deis<in_vp_time>{}.bind(x, edm_levels({2, 1})), "vp_linear", "t", -1);
  SLUICE_CHECK_THROWS(in_time(vp_linear{}, 0), "gauss_legendre", "n", -1);
  const rho_runge_kutta<tableau::heun_2, vp_linear> kutta;
  SLUICE_CHECK_THROWS(kutta.bind(x, levels_t{}), "rho_runge_kutta", "levels.size", -1);
  SLUICE_CHECK_THROWS(kutta.bind(x, edm_levels({0.9, 0.5})), "rho_runge_kutta", "levels.t", 0);
  SLUICE_CHECK_THROWS(
      (rho_runge_kutta<tableau::heun_2, rectified_flow>{}.bind(x, uniform_levels(rectified_flow{}, 3, 1, 0.1))),
      "rho_runge_kutta", "levels.alpha", 0);
  // What a model returns is a status, with its step.
  Eigen::VectorXd y = x;
  index_t calls = 0;
  const auto breaks = [&](const auto& z, const noise_level&, auto& out) {
    out = z;
    if (++calls == 3) out(1) = std::numeric_limits<double>::quiet_NaN();
  };
  const auto r = sample(deis<>{}, prediction<predicts::noise>(breaks), y, levels);
  CHECK(r.status == status::diverged);
  CHECK(r.stats.stopped.step == 2);
  CHECK(y.allFinite());
  // Short grids: N = 1 is one jump, N <= order starts up only.
  const auto one = log_snr_levels(vp_linear{}, 1, 1, 1e-3), two = log_snr_levels(vp_linear{}, 2, 1, 1e-3);
  CHECK(run_mixture(deis<>{}, one) == run_mixture(deis<>{.order = 0}, one));
  CHECK(run_mixture(deis<>{}, two) == run_mixture(deis<>{.order = 1}, two));
}
