// The base solvers. Cost: a step against the same formula written by hand in Eigen, and against tensors returned by
// value with coefficients computed anew in every step. Quality: error to the exact flow map at equal model calls.
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <report/row.hpp>
#include <sluice/generate/ddim.hpp>
#include <sluice/generate/dpm_solver.hpp>
#include <sluice/generate/euler.hpp>
#include <sluice/generate/heun.hpp>
#include <sluice/generate/unipc.hpp>
#include <string>
#include <utility>
#include <vector>

#include "mixture_world.hpp"

namespace {

using namespace bench::mixture;

constexpr const char* slug = "base-solvers";

// ---- The cost of a step ---------------------------------------------------------------------------------------------

std::int64_t allocated = 0;

/// Counts, and leaves elements uninitialised where nobody gives a value, so that a result by value is written once.
template <class T>
struct counting_allocator {
  using value_type = T;
  counting_allocator() = default;
  template <class U>
  counting_allocator(const counting_allocator<U>&) {}
  T* allocate(std::size_t n) {
    ++allocated;
    return static_cast<T*>(::operator new (n * sizeof(T), std::align_val_t{64}));
  }
  void deallocate(T* p, std::size_t) { ::operator delete (p, std::align_val_t{64}); }
  template <class U>
  void construct(U* p) {
    ::new (static_cast<void*>(p)) U;
  }
  template <class U, class... A>
  void construct(U* p, A&&... a) {
    ::new (static_cast<void*>(p)) U(std::forward<A>(a)...);
  }
  friend bool operator==(const counting_allocator&, const counting_allocator&) { return true; }
};
template <class S>
using tensor_of = std::vector<S, counting_allocator<S>>;

template <class S>
auto array(tensor_of<S>& x) {
  return Eigen::Map<Eigen::Array<S, Eigen::Dynamic, 1>>(x.data(), std::ssize(x));
}
template <class S>
auto array(const tensor_of<S>& x) {
  return Eigen::Map<const Eigen::Array<S, Eigen::Dynamic, 1>>(x.data(), std::ssize(x));
}

/// The cheapest model there is: whatever form is wanted, one pass that shrinks the state.
constexpr double gain = 0.4;
struct trivial_model {
  template <class X, class O>
  void operator()(const X& x, const noise_level&, O& out, predicts) const {
    lincomb(out, gain, x);
  }
};

constexpr index_t n_steps = 12;
const std::vector<noise_level>& cost_levels() {
  static const auto l = log_snr_levels(vp_schedule(), n_steps, first_time, last_time);
  return l;
}

/// What a step does, read off the stepper: x_t = x x_s + sum_k prediction[k] m_{-k}, newest first, and the state of a
/// second evaluation. This is the table that somebody who writes the solver by hand would compute beforehand.
struct table_row {
  double x = 0;
  std::array<double, 4> prediction{};
  double inner_x = 0, inner_p = 0;
  bool two_calls = false;
};
template <class Recipe>
std::vector<table_row> table_of(const Recipe& recipe) {
  const auto& levels = cost_levels();
  const Eigen::Index width = 2 * n_steps + 1;
  std::vector<table_row> rows;
  Eigen::VectorXd x = Eigen::VectorXd::Zero(width), seen = x;
  Eigen::Index calls = 0;
  const auto model = [&](const auto& z, const noise_level&, auto& out, predicts) {
    seen = z;
    out = Eigen::VectorXd::Unit(width, ++calls);
  };
  auto stepper = recipe.bind(x, levels);
  for (index_t i = 0; i < n_steps; ++i) {
    const Eigen::Index before = calls;
    x = Eigen::VectorXd::Unit(width, 0);
    stepper.step(model, x, i);
    table_row r;
    r.x = x(0);
    r.two_calls = calls - before == 2;
    for (Eigen::Index k = 0; k < 4 && calls - k >= 1; ++k) r.prediction[static_cast<std::size_t>(k)] = x(calls - k);
    if (r.two_calls) r.inner_x = seen(0), r.inner_p = seen(before + 1);
    rows.push_back(r);
  }
  return rows;
}

/// By hand: loops of Eigen over arrays that exist already; Terms predictions enter a step.
template <class S, int Terms>
class by_hand {
 public:
  using vector = Eigen::Array<S, Eigen::Dynamic, 1>;
  by_hand(std::vector<table_row> rows, index_t n) : rows_(std::move(rows)), z_(vector::Zero(n)) {
    for (vector& m : m_) m = vector::Zero(n);
  }
  template <class X>
  void run(X x) {
    for (std::size_t i = 0; i < rows_.size(); ++i) step(x, i);
  }
  template <class X>
  void step(X& x, std::size_t i) {
    const table_row& r = rows_[i];
    const auto p = [&](std::size_t k) { return static_cast<S>(r.prediction[k]); };
    const auto a = static_cast<S>(r.x);
    vector &m0 = m_[i % Terms], &m1 = m_[(i + Terms - 1) % Terms], &m2 = m_[(i + 2 * Terms - 2) % Terms];
    if constexpr (Terms == 2) {
      if (r.two_calls) {
        m_[0] = static_cast<S>(gain) * x;
        z_ = static_cast<S>(r.inner_x) * x + static_cast<S>(r.inner_p) * m_[0];
        m_[1] = static_cast<S>(gain) * z_;
        x = a * x + p(1) * m_[0] + p(0) * m_[1];
        return;
      }
    }
    m0 = static_cast<S>(gain) * x;
    if (Terms == 1 || i == 0)
      x = a * x + p(0) * m0;
    else if (Terms == 2 || i == 1)
      x = a * x + p(0) * m0 + p(1) * m1;
    else
      x = a * x + p(0) * m0 + p(1) * m1 + p(2) * m2;
  }

 private:
  std::vector<table_row> rows_;
  std::array<vector, 3> m_;
  vector z_;
};

/// By value: every operation returns a tensor, as in array libraries, and coefficients are computed where they are
/// needed.
template <class S>
struct by_value {
  using tensor = tensor_of<S>;
  template <class... A>
  static tensor sum(double c, const tensor& x, const A&... rest) {
    tensor y(x.size());
    if constexpr (sizeof...(A) == 0)
      array(y) = static_cast<S>(c) * array(x);
    else
      array(y) = static_cast<S>(c) * array(x) + array(sum(rest...));
    return y;
  }
  static tensor model(const tensor& x) { return sum(gain, x); }

  static tensor euler(tensor x) {
    for (index_t i = 0; i < n_steps; ++i) {
      const noise_level &s = at(i), &t = at(i + 1);
      const schedule_slope slope = vp_schedule().slope(s.t);
      const tensor noise = model(x), direction = sum(slope.log_alpha, x, s.alpha * slope.kappa, noise);
      x = sum(1, x, t.t - s.t, direction);
    }
    return x;
  }
  static tensor ddim(tensor x) {
    for (index_t i = 0; i < n_steps; ++i) {
      const noise_level &s = at(i), &t = at(i + 1);
      const tensor d = model(x), noise = sum(1 / s.sigma, x, -s.alpha / s.sigma, d);
      x = sum(t.alpha, d, t.sigma, noise);
    }
    return x;
  }
  static tensor heun(tensor x) {
    for (index_t i = 0; i < n_steps; ++i) {
      const noise_level &s = at(i), &t = at(i + 1);
      const double h = t.kappa() - s.kappa();
      const tensor scaled = sum(1 / s.alpha, x), d = model(x), predicted = sum(1, scaled, h, d),
                   e = model(sum(t.alpha, predicted));
      x = sum(t.alpha, sum(1, scaled, h, sum(0.5, d, 0.5, e)));
    }
    return x;
  }
  template <int Order>
  static tensor multistep(tensor x) {
    std::vector<tensor> m;
    for (index_t i = 0; i < n_steps; ++i) {
      const noise_level &s = at(i), &t = at(i + 1);
      m.push_back(model(x));
      const auto& m0 = m[m.size() - 1];
      const index_t p = std::min<index_t>({Order, i + 1, n_steps - i});
      const double h = t.lambda() - s.lambda(), a = t.sigma / s.sigma, e = std::expm1(-h);
      if (p == 1) {
        x = sum(a, x, -t.alpha * e, m0);
        continue;
      }
      const double r0 = (s.lambda() - at(i - 1).lambda()) / h;
      const tensor d10 = sum(1 / r0, m0, -1 / r0, m[m.size() - 2]);
      if (p == 2) {
        x = sum(a, x, -t.alpha * e, m0, -t.alpha * e / 2, d10);
        continue;
      }
      const double r1 = (at(i - 1).lambda() - at(i - 2).lambda()) / h, p2 = e / h + 1, p3 = p2 / h - 0.5;
      const tensor d11 = sum(1 / r1, m[m.size() - 2], -1 / r1, m[m.size() - 3]);
      const tensor change = sum(1, d10, -1, d11), d1 = sum(1, d10, r0 / (r0 + r1), change),
                   d2 = sum(2 / (r0 + r1), change);
      x = sum(a, x, -t.alpha * e, m0, t.alpha * p2, d1, -t.alpha * p3, d2);
    }
    return x;
  }
  static tensor unipc_2(tensor x) {
    tensor m0 = model(x), m1;
    for (index_t i = 0; i < n_steps; ++i) {
      const noise_level &s = at(i), &t = at(i + 1);
      const index_t p = std::min<index_t>({2, i + 1, n_steps - i});
      const double h = t.lambda() - s.lambda(), hh = -h, b = std::expm1(hh), phi = b / hh - 1, phi2 = phi / hh - 0.5;
      const tensor base = sum(t.sigma / s.sigma, x, -t.alpha * b, m0);
      tensor predicted = base, d1;
      double r = 0;
      if (p == 2) {
        r = (at(i - 1).lambda() - s.lambda()) / h;
        d1 = sum(1 / r, m1, -1 / r, m0);
        predicted = sum(1, base, -t.alpha * b / 2, d1);
      }
      if (i + 1 == n_steps) return predicted;
      const tensor next = model(predicted), d = sum(1, next, -1, m0);
      if (p == 1) {
        x = sum(1, base, -t.alpha * b / 2, d);
      } else {
        const double b1 = phi / b, b2 = 2 * phi2 / b, w1 = (b2 - b1) / (r - 1), w2 = b1 - w1;
        x = sum(1, base, -t.alpha * b * w1, d1, -t.alpha * b * w2, d);
      }
      m1 = m0;
      m0 = next;
    }
    return x;
  }

 private:
  static const noise_level& at(index_t i) { return cost_levels()[static_cast<std::size_t>(i)]; }
};

template <class S>
tensor_of<S> start_of(index_t n) {
  tensor_of<S> x(static_cast<std::size_t>(n));
  for (index_t i = 0; i < n; ++i)
    x[static_cast<std::size_t>(i)] = static_cast<S>(0.25 * static_cast<double>(i % 7) - 0.6);
  return x;
}
template <class F>
double seconds(F&& f) {
  const auto begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}
double median(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + std::ssize(x) / 2, x.end());
  return x[x.size() / 2];
}
/// The median of time(sluice)/time(by hand) over pairs, turn and turn about: whole runs of the grid that are repeated
/// where they are short, single steps where a step takes a millisecond.
template <class S, int Terms, class Recipe>
double ratio_to_hand(const Recipe& recipe, index_t n) {
  tensor_of<S> x = start_of<S>(n), y = x;
  const tensor_of<S> x0 = x;
  auto stepper = recipe.bind(x, cost_levels());
  by_hand<S, Terms> hand(table_of(recipe), n);
  trivial_model model;
  auto y_array = array(y);
  std::vector<double> ratios;
  const auto pair = [&](bool first, auto&& ours, auto&& theirs) {
    double time[2] = {0, 0};
    for (const bool turn : {first, !first}) time[turn ? 0 : 1] = seconds([&] { turn ? ours() : theirs(); });
    ratios.push_back(time[0] / time[1]);
  };
  if (n >= 1 << 17) {
    const index_t runs = n >= 1 << 20 ? 20 : 60;
    for (index_t k = 0; k < runs; ++k) {
      array(x) = array(x0);
      y_array = array(x0);
      for (index_t i = 0; i < n_steps; ++i)
        pair((i + k) % 2 == 0, [&] { stepper.step(model, x, i), benchmark::ClobberMemory(); },
             [&] { hand.step(y_array, static_cast<std::size_t>(i)), benchmark::ClobberMemory(); });
    }
    return median(ratios);
  }
  const index_t inside = (1 << 16) / n;
  for (index_t k = 0; k < 201; ++k)
    pair(
        k % 2 == 0,
        [&] {
          for (index_t j = 0; j < inside; ++j) {
            array(x) = array(x0);
            for (index_t i = 0; i < n_steps; ++i) stepper.step(model, x, i);
            benchmark::ClobberMemory();
          }
        },
        [&] {
          for (index_t j = 0; j < inside; ++j) {
            y_array = array(x0);
            hand.run(y_array);
            benchmark::ClobberMemory();
          }
        });
  return median(ratios);
}

/// One solver: a run of 12 steps at n = 4096 by value, by sluice and by hand; the note compares with Eigen at all
/// sizes.
template <class S, int Terms, class Recipe, class Naive>
void register_cost(const std::string& name, const Recipe& recipe, Naive naive, double calls) {
  constexpr index_t n = 4096;
  const auto difference = [=](const tensor_of<S>& x) {  // to double precision by hand
    Eigen::ArrayXd y = array(start_of<double>(n));
    by_hand<double, Terms> hand(table_of(recipe), n);
    hand.run(Eigen::Map<Eigen::ArrayXd>(y.data(), n));
    return (array(x).template cast<double>() - y).matrix().norm() / y.matrix().norm();
  };
  bench::row{.slug = slug,
             .workload = "cost, " + name + (sizeof(S) == 8 ? ", double" : ", float") + ", n = 4096",
             .unit = "model calls",
             .quality = {.name = "relative difference to the formula", .tolerance = sizeof(S) == 8 ? 1e-11 : 2e-4},
             .claim = "",
             .note =
                 "a model of one pass, so that the step counts. naive: each operation returns a tensor, coefficients "
                 "in each step"}
      .naive([=](benchmark::State& state) {
        const tensor_of<S> x0 = start_of<S>(n);
        tensor_of<S> x = naive(x0);
        const std::int64_t before = allocated;
        x = naive(x0);
        const auto count = static_cast<double>(allocated - before);
        for (auto _ : state) {
          x = naive(x0);
          benchmark::DoNotOptimize(std::as_const(x).data());
          benchmark::ClobberMemory();
        }
        state.counters["work"] = calls;
        state.counters["quality"] = difference(x);
        char note[80];
        std::snprintf(note, sizeof note, "%.1f tensors allocated a step", count / n_steps);
        state.SetLabel(note);
      })
      .sluice([=](benchmark::State& state) {
        const tensor_of<S> x0 = start_of<S>(n);
        tensor_of<S> x = x0;
        auto stepper = recipe.bind(x, cost_levels());
        trivial_model model;
        std::int64_t count = 0;
        for (auto _ : state) {
          array(x) = array(x0);
          const std::int64_t before = allocated;
          for (index_t i = 0; i < n_steps; ++i) stepper.step(model, x, i);
          count += allocated - before;
          benchmark::DoNotOptimize(std::as_const(x).data());
          benchmark::ClobberMemory();
        }
        state.counters["work"] = calls;
        state.counters["quality"] = difference(x);
        if (count != 0) return state.SkipWithError("a step allocated");
        static std::string note;  // of this instantiation; measured once
        if (note.empty()) {
          char text[160];
          const double r[] = {ratio_to_hand<S, Terms>(recipe, 1 << 12), ratio_to_hand<S, Terms>(recipe, 1 << 14),
                              ratio_to_hand<S, Terms>(recipe, 1 << 17), ratio_to_hand<S, Terms>(recipe, 1 << 20)};
          std::snprintf(text, sizeof text,
                        "time / Eigen by hand, medians: %.3f, %.3f, %.3f, %.3f at n = 2^12, 2^14, 2^17, 2^20; a step "
                        "allocates 0",
                        r[0], r[1], r[2], r[3]);
          note = text;
        }
        state.SetLabel(note);
      })
      .peer("Eigen by hand", [=](benchmark::State& state) {
        const tensor_of<S> x0 = start_of<S>(n);
        tensor_of<S> x = x0;
        by_hand<S, Terms> hand(table_of(recipe), n);
        for (auto _ : state) {
          array(x) = array(x0);
          hand.run(array(x));
          benchmark::DoNotOptimize(std::as_const(x).data());
          benchmark::ClobberMemory();
        }
        state.counters["work"] = calls;
        state.counters["quality"] = difference(x);
      });
}
template <class S>
void register_costs() {
  using naive = by_value<S>;
  register_cost<S, 1>("Euler", euler<vp_linear>{vp_schedule()}, naive::euler, n_steps);
  register_cost<S, 1>("DDIM", ddim<>{}, naive::ddim, n_steps);
  register_cost<S, 2>("DPM-Solver++(2M)", dpm_multistep<2>{}, naive::template multistep<2>, n_steps);
  register_cost<S, 3>("DPM-Solver++(3M)", dpm_multistep<3>{}, naive::template multistep<3>, n_steps);
  register_cost<S, 2>("Heun", heun{}, naive::heun, 2 * n_steps);
  register_cost<S, 3>("UniPC-2", unipc<2>{}, naive::unipc_2, n_steps);
}

// ---- Error at equal model calls -------------------------------------------------------------------------------------

/// RMS error over 200 points at the quantiles of the normal law.
template <class Recipe>
double mixture_error(const Recipe& recipe, std::span<const noise_level> grid_levels, std::int64_t& calls) {
  static const auto world = [] {
    const models::mixture_1d normal(Eigen::VectorXd::Ones(1), Eigen::VectorXd::Zero(1), Eigen::VectorXd::Ones(1));
    std::pair<Eigen::VectorXd, Eigen::VectorXd> w{Eigen::VectorXd(200), Eigen::VectorXd(200)};
    for (Eigen::Index i = 0; i < 200; ++i)
      w.first(i) = normal.quantile((static_cast<double>(i) + 0.5) / 200, noise_level{0, 1, 0});
    data().flow_map(w.second, w.first, vp_schedule().at(first_time), vp_schedule().at(last_time));
    return w;
  }();
  Eigen::VectorXd x = world.first;
  auto model = exact_model();
  const auto r = sample(recipe, model, x, grid_levels);
  calls = r.stats.nfe;
  return std::sqrt((x - world.second).squaredNorm() / 200);
}
template <class Recipe>
auto at_equal_calls(grid g, index_t n, const Recipe& recipe) {
  return [=](benchmark::State& state) {
    const auto grid_levels = levels(g, n);
    std::int64_t calls = 0;
    const double error = mixture_error(recipe, grid_levels, calls);
    for (auto _ : state) benchmark::DoNotOptimize(mixture_error(recipe, grid_levels, calls));
    state.counters["work"] = static_cast<double>(calls);
    state.counters["quality"] = error;
  };
}
template <class Recipe>
void register_error(const std::string& name, const Recipe& recipe, index_t calls_a_step = 1) {
  for (const index_t nfe : {5, 10, 20, 50}) {
    const index_t n = std::max<index_t>(1, (nfe + calls_a_step / 2) / calls_a_step);
    bench::row{.slug = slug,
               .workload = "error, " + name + ", NFE = " + std::to_string(nfe),
               .unit = "model calls",
               .quality = {.name = "RMS error", .tolerance = 0},
               .claim = "",
               .note = "three Gaussians on a line, grid quadratic in t. naive: Euler in t on a uniform grid"}
        .naive(at_equal_calls(grid::uniform, nfe, euler<vp_linear>{vp_schedule()}))
        .sluice(at_equal_calls(grid::quadratic, n, recipe));
  }
}

const bool registered = [] {
  register_costs<double>();
  register_costs<float>();
  const vp_linear s = vp_schedule();
  constexpr auto noise = predicts::noise;
  register_error("DDIM", ddim<>{});
  register_error("Heun", heun{}, 2);
  register_error("DPM-Solver-2, single-step", dpm_singlestep<2, vp_linear>{.schedule = s, .form = noise}, 2);
  register_error("DPM-Solver-3, single-step", dpm_singlestep<3, vp_linear>{.schedule = s, .form = noise}, 3);
  register_error("DPM-Solver++(2S)", dpm_singlestep<2, vp_linear>{.schedule = s}, 2);
  register_error("DPM-Solver++(3S)", dpm_singlestep<3, vp_linear>{.schedule = s}, 3);
  register_error("DPM-Solver++(2M)", dpm_multistep<2>{});
  register_error("DPM-Solver++(3M)", dpm_multistep<3>{});
  register_error("DPM-Solver++(3M) as in public code", dpm_multistep<3, third_order::compat>{});
  register_error("UniPC-2", unipc<2>{});
  register_error("UniPC-3", unipc<3>{});
  return true;
}();

}  // namespace
