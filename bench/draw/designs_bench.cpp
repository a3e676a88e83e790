// Designs of unequal probability: the total of a variable from 1000 of 2^18 items, with weights that follow it roughly.
#include <sluice/draw/effective_sample_size.hpp>
#include <sluice/draw/estimators.hpp>
#include <sluice/draw/exponential_race.hpp>
#include <sluice/draw/poisson_sampling.hpp>
#include <sluice/draw/pps_threshold.hpp>
#include <sluice/draw/priority_sampling.hpp>
#include <sluice/draw/systematic_pps.hpp>
#include <sluice/draw/var_opt.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <report/row.hpp>

namespace {

constexpr std::size_t n = 1 << 18;
constexpr sluice::index_t k = 1000;

struct population {
  std::vector<double> weight, y;
  double total = 0;
};
const population& items() {
  static const population p = [] {
    population q;
    sluice::cursor random(sluice::stream(20240607));
    for (std::size_t i = 0; i < n; ++i) {
      q.weight.push_back(1 / std::sqrt(sluice::oc53(random())));  // a heavy tail
      q.y.push_back(q.weight.back() * (0.5 + sluice::co53(random())));
      q.total += q.y.back();
    }
    return q;
  }();
  return p;
}

/// `estimate(round)` once an iteration; quality: root mean square error of 40 estimates, in per cent of the total.
template <class Estimate>
void measure(benchmark::State& state, Estimate estimate) {
  const double total = items().total;
  std::uint64_t round = 0;
  for (auto _ : state) {
    const double value = estimate(round++);
    benchmark::DoNotOptimize(value);
  }
  double squares = 0;
  for (std::uint64_t r = 0; r < 40; ++r) {
    const double e = estimate(r) / total - 1;
    squares += e * e;
  }
  state.counters["quality"] = 100 * std::sqrt(squares / 40);
  state.counters["work"] = static_cast<double>(k) * 100 * 100 * squares / 40;  // the error falls with the square root
}

void uniform_sample(benchmark::State& state) {
  const population& p = items();
  measure(state, [&](std::uint64_t round) {
    std::mt19937_64 engine(round + 1);
    std::uniform_int_distribution<std::size_t> any(0, n - 1);
    double sum = 0;
    for (sluice::index_t i = 0; i < k; ++i) sum += p.y[any(engine)];
    return sum * static_cast<double>(n) / static_cast<double>(k);
  });
}

template <class Design>
auto design() {
  return [](benchmark::State& state) {
    const population& p = items();
    Design draw;
    sluice::weighted_sample s;
    measure(state, [&](std::uint64_t round) {
      sluice::cursor random(sluice::stream(1).derive(round));
      draw.draw_into(s, p.weight, k, random);
      return sluice::estimate_total(p.y, s);
    });
  };
}

bench::row total_by(const std::string& name) {
  return {.slug = "sampling-primitives",
          .workload = "total from 1000 of 2^18 items: " + name,
          .unit = "items for an error of 1 %",
          .quality = {.name = "rms error, %"},
          .claim = "",
          .note = "naive: a uniform sample, which needs no pass over the weights"};
}

// tau by sorting, as it is usually written.
double sorted_threshold(std::vector<double> w) {
  std::sort(w.begin(), w.end(), std::greater<>());
  double rest = std::accumulate(w.begin(), w.end(), 0.0);
  for (std::size_t certain = 0;; ++certain) {
    const double tau = rest / static_cast<double>(k - static_cast<sluice::index_t>(certain));
    if (w[certain] < tau) return tau;
    rest -= w[certain];
  }
}

template <class F>
auto timed(F f) {
  return [f](benchmark::State& state) {
    const population& p = items();
    double result = 0;
    std::uint64_t round = 0;
    for (auto _ : state) {
      result = f(p, round++);
      benchmark::DoNotOptimize(std::as_const(result));
    }
    state.counters["work"] = static_cast<double>(n);
    state.counters["quality"] = result;
  };
}

/// One winner a round. The share of weight before a winner, half of its own included, has mean 1/2 exactly if winners
/// are drawn by weight, and a variance of at most 1/12.
template <class F>
auto drawing(F f) {
  return [f](benchmark::State& state) {
    const population& p = items();
    static const std::vector<double> share = [&p] {
      std::vector<double> before;
      double sum = 0;
      for (const double w : p.weight) before.push_back(sum + w / 2), sum += w;
      for (double& s : before) s /= sum;
      return before;
    }();
    double mean = 0;
    std::uint64_t round = 0;
    for (auto _ : state) mean += share[f(p, round++)];
    while (round < 100) mean += share[f(p, round++)];
    state.counters["work"] = static_cast<double>(n);
    const auto count = static_cast<double>(round);
    state.counters["quality"] = std::abs(mean / count - 0.5) * std::sqrt(12 * count);
  };
}

const bool registered = [] {
  total_by("VarOpt").naive(uniform_sample).sluice(design<sluice::var_opt>());
  total_by("systematic").naive(uniform_sample).sluice(design<sluice::systematic_pps<>>());
  total_by("Poisson").naive(uniform_sample).sluice(design<sluice::poisson_sampling>());
  total_by("priority").naive(uniform_sample).sluice(design<sluice::priority_sampling>());

  bench::row{
      "sampling-primitives", "threshold of 2^18 weights, k = 1000", "weights", {.name = "tau", .tolerance = 1e-6}, "",
      "naive: sorts"}
      .naive(timed([](const population& p, std::uint64_t) { return sorted_threshold(p.weight); }))
      .sluice(timed([](const population& p, std::uint64_t) { return sluice::pps_threshold(p.weight, k); }));
  bench::row{"sampling-primitives",
             "effective sample size of 2^18 weights",
             "weights",
             {.name = "ESS", .tolerance = 1e-3},
             "",
             "naive: two plain sums, which overflow for large weights and do not check them"}
      .naive(timed([](const population& p, std::uint64_t) {
        double sum = 0, squares = 0;
        for (const double w : p.weight) sum += w, squares += w * w;
        return sum * sum / squares;
      }))
      .sluice(timed([](const population& p, std::uint64_t) { return sluice::effective_sample_size(p.weight); }));
  bench::row{"sampling-primitives",
             "one draw from 2^18 weights, exponential race",
             "weights",
             {.name = "|z| of the mean share of weight before the winner", .tolerance = 5.5},
             "",
             "naive: a key -log(u)/w for every item"}
      .naive(drawing([](const population& p, std::uint64_t round) {
        std::mt19937_64 engine(round + 1);
        double best = 1e300;
        std::size_t winner = 0;
        for (std::size_t i = 0; i < n; ++i)
          if (const double key = -std::log(sluice::oc53(engine())) / p.weight[i]; key < best) best = key, winner = i;
        return winner;
      }))
      .sluice(drawing([](const population& p, std::uint64_t round) {
        sluice::cursor random(sluice::stream(1).derive(round));
        return static_cast<std::size_t>(sluice::exponential_race(p.weight, random));
      }));
  return true;
}();

}  // namespace
