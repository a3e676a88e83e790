// DEIS on a one-dimensional mixture whose flow map is exact: error at equal model calls, also where it loses; model
// calls at equal error; time on mixtures and on an image bank; the cost of the coefficients and of a step.
#include <sluice/generate/ddim.hpp>
#include <sluice/generate/deis.hpp>
#include <sluice/generate/dpm_solver.hpp>
#include <sluice/generate/euler.hpp>
#include <sluice/generate/unipc.hpp>
#include <sluice/models/draws.hpp>
#include <sluice/models/gaussian_mixture.hpp>
#include <sluice/models/kernel_denoiser.hpp>

#include <algorithm>
#include <array>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <report/row.hpp>
#include <string>

#include "mixture_world.hpp"

namespace {

using namespace sluice;
using bench::mixture::grid;
using levels_t = std::vector<noise_level>;
using in_vp_time = in_time<vp_linear>;

constexpr const char* slug = "deis";
const bench::quality rms{"RMS error", false, 0};

/// The 200 starting points of the specification.
const bench::mixture::problem& points() {
  static const bench::mixture::problem p = [] {
    const models::mixture_1d normal(Eigen::VectorXd::Ones(1), Eigen::VectorXd::Zero(1), Eigen::VectorXd::Ones(1));
    const vp_linear vp;
    bench::mixture::problem made{Eigen::VectorXd(200), Eigen::VectorXd(200)};
    for (Eigen::Index i = 0; i < 200; ++i)
      made.start(i) = normal.quantile((static_cast<double>(i) + 0.5) / 200, noise_level{0, 1, 0});
    bench::mixture::data().flow_map(made.exact, made.start, vp.at(1), vp.at(1e-3));
    return made;
  }();
  return p;
}
/// A recipe and the grid that it is run on.
template <class Recipe>
struct solver {
  Recipe recipe;
  grid where;
  levels_t levels(index_t n) const { return bench::mixture::levels(where, n); }
  double error(index_t n, std::int64_t* calls = nullptr) const {
    Eigen::VectorXd x = points().start;
    auto model = bench::mixture::exact_model();
    const auto r = sample(recipe, model, x, levels(n));
    if (calls != nullptr) *calls = r.stats.nfe;
    return std::sqrt((x - points().exact).squaredNorm() / 200);
  }
  /// The fewest steps with an error of at most `wanted`.
  index_t steps_for(double wanted) const {
    index_t high = 1;
    while (error(high) > wanted) high = high < 16 ? high + 1 : high + high / 4;
    if (high <= 16) return high;
    index_t low = high / 2;
    while (high - low > 1) {
      const index_t middle = (low + high) / 2;
      (error(middle) > wanted ? low : high) = middle;
    }
    return high;
  }
  void time(benchmark::State& state, index_t n) const {
    const levels_t grid_levels = levels(n);
    Eigen::VectorXd x(200);
    auto model = bench::mixture::exact_model();
    for (auto _ : state) {
      x = points().start;
      benchmark::DoNotOptimize(sample(recipe, model, x, grid_levels).stats.nfe);
    }
  }
  auto run(index_t n) const {
    return [self = *this, n](benchmark::State& state) {
      std::int64_t calls = 0;
      const double error = self.error(n, &calls);
      self.time(state, n);
      state.counters["work"] = static_cast<double>(calls);
      state.counters["NFE"] = static_cast<double>(n);
      state.counters["quality"] = error;
    };
  }
  template <class Wanted>
  auto run_until(Wanted wanted) const {
    return [self = *this, wanted](benchmark::State& state) {
      const index_t n = self.steps_for(wanted());
      std::int64_t calls = 0;
      const double error = self.error(n, &calls);
      self.time(state, n);
      state.counters["work"] = static_cast<double>(calls);
      state.counters["quality"] = error;
    };
  }
};
const solver<euler<vp_linear>> naive{{}, grid::uniform};
const solver<ddim<>> first_order{{}, grid::quadratic};
const solver<dpm_multistep<2>> two_m{{}, grid::quadratic};
const solver<unipc<2>> unipc_2{{}, grid::quadratic};
const solver<deis<in_vp_time>> tab_3{{.order = 3}, grid::quadratic};

template <class Recipe>
void equal_calls(const std::string& name, const solver<Recipe>& s, std::initializer_list<index_t> calls) {
  for (const index_t n : calls)
    bench::row{slug,
               name + ", NFE " + std::to_string(n),
               "model calls",
               rms,
               "",
               n == 5 ? "naive: Euler in t. At five calls nobody is good" : "naive: Euler in t"}
        .naive(naive.run(n))
        .sluice(s.run(n))
        .peer("DDIM", first_order.run(n))
        .peer("DPM-Solver++(2M)", two_m.run(n))
        .peer("UniPC-2", unipc_2.run(n));
}
void equal_error(index_t n) {
  const auto wanted = [n] { return tab_3.error(n); };
  bench::row{slug,
             "calls for the error of tAB3 with " + std::to_string(n),
             "model calls",
             {"RMS error", false, 1e-2},
             "",
             "naive: Euler in t on the uniform grid"}
      .naive(naive.run_until(wanted))
      .sluice(tab_3.run(n))
      .peer("DDIM", first_order.run_until(wanted))
      .peer("DPM-Solver++(2M)", two_m.run_until(wanted))
      .peer("UniPC-2", unipc_2.run_until(wanted));
}

/// Ten steps on data of many dimensions, 64 samples; the truth is 400 steps of DEIS.
struct many_dimensions {
  Eigen::MatrixXd start, truth;
  std::function<void(const Eigen::MatrixXd&, const noise_level&, Eigen::MatrixXd&)> denoiser;
};
const many_dimensions& world(index_t d) {
  static std::map<index_t, many_dimensions> worlds;
  auto& w = worlds[d];
  if (w.start.size() > 0) return w;
  if (d == 256) {  // 512 images of 16 x 16: smooth random fields
    cursor random(stream{5});
    Eigen::MatrixXd bank = models::normal_matrix(256, 512, random);
    for (int pass = 0; pass < 6; ++pass)
      for (Eigen::Index i = 0; i + 1 < 256; ++i)
        bank.row(i) = 0.4 * bank.row(i) + 0.3 * bank.row(i + 1) + 0.3 * bank.row((i + 16) % 256);
    bank *= 2;
    w.denoiser = [m = std::make_shared<models::kernel_denoiser<>>(bank)](const auto& x, const noise_level& l,
                                                                         auto& out) { (*m)(x, l, out); };
  } else {
    w.denoiser = [m = models::random_mixture(d, 10, 1)](const auto& x, const noise_level& l, auto& out) {
      m(x, l, out);
    };
  }
  w.start.resize(d, 64);
  const auto levels = log_snr_levels(vp_linear{}, 400, 1, 1e-3);
  fill_start(w.start, levels.front(), stream{8});
  w.truth = w.start;
  auto model = prediction<predicts::data>(w.denoiser);
  static_cast<void>(sample(deis<>{}, model, w.truth, levels));
  return w;
}
template <class Recipe>
auto ten_steps(const solver<Recipe>& s, index_t d) {
  return [s, d](benchmark::State& state) {
    const auto& w = world(d);
    auto model = prediction<predicts::data>(std::cref(w.denoiser));
    const auto levels = s.levels(10);
    Eigen::MatrixXd x = w.start;
    for (auto _ : state) {
      x = w.start;
      benchmark::DoNotOptimize(sample(s.recipe, model, x, levels).stats.nfe);
    }
    state.counters["work"] = 10;
    state.counters["d"] = static_cast<double>(d);
    state.counters["quality"] = std::sqrt((x - w.truth).squaredNorm() / static_cast<double>(x.size()));
  };
}
void wall_time(index_t d, const std::string& what) {
  bench::row{slug, "ten steps, " + what, "model calls", rms, "", "naive: Euler in t; the truth is 400 steps"}
      .naive(ten_steps(naive, d))
      .sluice(ten_steps(tab_3, d))
      .peer("DDIM", ten_steps(first_order, d))
      .peer("DPM-Solver++(2M)", ten_steps(two_m, d))
      .peer("UniPC-2", ten_steps(unipc_2, d));
}

/// The table of tAB3 on 20 steps: a sum over 10 000 points, as in the authors' code, against quadrature.
using table_t = std::vector<deis_weights>;
table_t left_sums(const levels_t& levels) {
  const vp_linear vp;
  table_t table;
  for (std::size_t i = 0; i + 1 < levels.size(); ++i) {
    const std::size_t order = std::min<std::size_t>(i, 3);
    deis_weights c{};
    const double from = levels[i].t, dt = (levels[i + 1].t - from) / 10000;
    for (int p = 0; p < 10000; ++p) {
      const double t = from + dt * p, slope = vp.slope(t).kappa * dt;
      for (std::size_t j = 0; j <= order; ++j) {
        double l = slope;
        for (std::size_t k = 0; k <= order; ++k)
          if (k != j) l *= (t - levels[i - k].t) / (levels[i - j].t - levels[i - k].t);
        c[j] += l;
      }
    }
    for (double& w : c) w *= levels[i + 1].alpha;
    table.push_back(c);
  }
  return table;
}
table_t by_quadrature(const levels_t& levels, const in_vp_time& variable) {
  table_t table;
  for (const deis_row& r : deis_table(variable, levels, 3)) table.push_back(r.weight);
  return table;
}
template <class F>
auto table_cost(F make, double points) {
  return [=](benchmark::State& state) {
    const auto levels = bench::mixture::levels(grid::quadratic, 20);
    const auto exact = by_quadrature(levels, in_time(vp_linear{}, 300));
    table_t table;
    for (auto _ : state) {
      table = make(levels);
      benchmark::DoNotOptimize(table.data());
    }
    double worst = 0;
    for (std::size_t i = 0; i < table.size(); ++i) {
      double size = 0, error = 0;
      for (std::size_t j = 0; j < 4; ++j) {
        size = std::max(size, std::abs(exact[i][j]));
        error = std::max(error, std::abs(exact[i][j] - table[i][j]));
      }
      worst = std::max(worst, error / size);
    }
    state.counters["work"] = points * static_cast<double>(levels.size() - 1);
    state.counters["quality"] = worst;
  };
}

/// Twenty steps of order 3 with a model that costs nothing.
struct free_model {
  template <class X, class O>
  void operator()(const X&, const noise_level&, O&, predicts) const {}
};
using field = Eigen::VectorXf;
template <class F>
auto twenty_steps(index_t n, F make) {
  return [=](benchmark::State& state) {
    const auto levels = bench::mixture::levels(grid::quadratic, 20);
    field x = field::Ones(n);
    auto steps = make(x, levels);
    for (auto _ : state) {
      steps(x);
      benchmark::DoNotOptimize(std::as_const(x).data());
      benchmark::ClobberMemory();
      x.setConstant(1);
    }
    state.counters["work"] = 20;
    state.counters["n"] = static_cast<double>(n);
  };
}
auto our_steps(const field& like, const levels_t& levels) {
  return [stepper = deis<in_vp_time>{}.bind(like, levels), model = free_model{}](field& x) mutable {
    for (index_t i = 0; i < 20; ++i) stepper.step(model, x, i);
  };
}
auto hand_written_steps(const field& like, const levels_t& levels) {
  std::array<field, 4> past;
  for (field& p : past) p = field::Zero(like.size());
  return [table = deis_table(in_vp_time{}, levels, 3), past](field& x) mutable {
    for (std::size_t i = 0; i < 20; ++i) {
      const deis_row& r = table[i];
      const auto w = [&](std::size_t j) { return static_cast<float>(r.weight[j]); };
      const field &a = past[i % 4], &b = past[(i + 3) % 4], &c = past[(i + 2) % 4], &d = past[(i + 1) % 4];
      const auto state = static_cast<float>(r.state);
      if (i == 0) x = state * x + w(0) * a;
      if (i == 1) x = state * x + w(0) * a + w(1) * b;
      if (i == 2) x = state * x + w(0) * a + w(1) * b + w(2) * c;
      if (i >= 3) x = state * x + w(0) * a + w(1) * b + w(2) * c + w(3) * d;
    }
  };
}
/// Coefficients by quadrature in every step, history as a list, a new tensor for each term.
auto plain_steps(const field& like, const levels_t& levels) {
  return [levels, variable = in_vp_time{}, zero = field(field::Zero(like.size()))](field& x) {
    std::vector<field> past;
    std::vector<noise_level> nodes;
    for (std::size_t i = 0; i < 20; ++i) {
      past.insert(past.begin(), zero);
      nodes.insert(nodes.begin(), levels[i]);
      if (past.size() > 4) past.pop_back(), nodes.pop_back();
      const auto c = variable.weights(nodes, levels[i + 1]);
      field next = static_cast<float>(levels[i + 1].alpha / levels[i].alpha) * x;
      for (std::size_t j = 0; j < past.size(); ++j) {
        const field term = static_cast<float>(levels[i + 1].alpha * c[j]) * past[j];
        next = field(next + term);
      }
      x = next;
    }
  };
}

const bool registered = [] {
  const auto all = {index_t{5}, index_t{7}, index_t{10}, index_t{15}, index_t{20}, index_t{50}};
  equal_calls("tAB3, quadratic grid", tab_3, all);
  equal_calls("log-rho AB3, rho-7 grid", solver<deis<>>{{}, grid::karras}, all);
  equal_calls("tAB1, quadratic grid", solver<deis<in_vp_time>>{{.order = 1}, grid::quadratic}, {5, 10, 20});
  equal_calls("tAB2, quadratic grid", solver<deis<in_vp_time>>{{.order = 2}, grid::quadratic}, {5, 10, 20});
  equal_calls("rhoAB3, quadratic grid", solver<deis<in_kappa>>{{}, grid::quadratic}, {5, 10, 20});
  equal_calls("iPNDM, uniform grid", solver<deis<classical_weights>>{{}, grid::uniform}, {5, 10, 20});
  for (const index_t n : {10, 15, 20}) equal_error(n);
  wall_time(2, "mixture of 10 in 2 dimensions");
  wall_time(16, "mixture of 10 in 16 dimensions");
  wall_time(64, "mixture of 10 in 64 dimensions");
  wall_time(256, "bank of 512 images of 16 x 16");
  bench::row{slug,
             "coefficients of tAB3, 20 steps",
             "values of t(kappa)",
             {"relative error", false, 0},
             "",
             "naive: a sum over 10 000 points, as in the authors' code"}
      .naive(table_cost([](const levels_t& l) { return left_sums(l); }, 10000))
      .sluice(table_cost([v = in_vp_time{}](const levels_t& l) { return by_quadrature(l, v); }, 64));
  for (const index_t n : {index_t{1} << 12, index_t{1} << 14, index_t{1} << 17, index_t{1} << 20})
    bench::row{slug, "twenty steps of order 3 without the model, n = " + std::to_string(n), "steps", {"", false, 0},
               "",   "floats. naive: coefficients in the step, a tensor for each term"}
        .naive(twenty_steps(n, plain_steps))
        .sluice(twenty_steps(n, our_steps))
        .peer("Eigen by hand", twenty_steps(n, hand_written_steps));
  return true;
}();

}  // namespace
