#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <numeric>
#include <queue>
#include <random>
#include <report/row.hpp>
#include <sluice/draw/alias_table.hpp>
#include <sluice/draw/prefix_sums.hpp>
#include <sluice/draw/resample.hpp>
#include <sluice/draw/sum_tree.hpp>
#include <sluice/draw/without_replacement.hpp>
#include <string>
#include <vector>

namespace {

using sluice::index_t;
const char* const slug = "sampling-primitives";
constexpr std::size_t n_draws = 4096;

/// Exponential weights, the same in all variants of a row.
const std::vector<double>& weights(index_t n) {
  static std::map<index_t, std::vector<double>> made;
  std::vector<double>& w = made[n];
  if (w.empty()) {
    sluice::cursor random(sluice::stream{1, static_cast<std::uint64_t>(n)});
    for (index_t i = 0; i < n; ++i) w.push_back(-std::log(sluice::oc53(random())));
  }
  return w;
}

/// Chi-square of the draws over 16 groups of categories, divided by its degrees of freedom: near 1 if the law is right.
struct group_counts {
  explicit group_counts(const std::vector<double>& w) : sums(w) {}
  std::size_t group(index_t i) const {
    const double below = i > 0 ? sums.sums()[static_cast<std::size_t>(i) - 1] : 0.0;
    return std::min<std::size_t>(15, static_cast<std::size_t>(16 * below / sums.total()));
  }
  double statistic(const std::vector<index_t>& draws) const {
    std::vector<double> p(16), counts(16);
    for (index_t i = 0; i < sums.size(); ++i) {
      const double below = i > 0 ? sums.sums()[static_cast<std::size_t>(i) - 1] : 0.0;
      p[group(i)] += (sums.sums()[static_cast<std::size_t>(i)] - below) / sums.total();
    }
    for (const index_t i : draws) counts[group(i)] += 1;
    double x = 0, cells = 0;
    for (std::size_t g = 0; g < 16; ++g) {
      const double e = p[g] * static_cast<double>(draws.size());
      if (e > 0) x += (counts[g] - e) * (counts[g] - e) / e, cells += 1;
    }
    return cells > 1 ? x / (cells - 1) : 0;
  }
  sluice::prefix_sums sums;
};

template <class Fill>
auto drawing(index_t n, Fill fill, std::size_t draws = n_draws) {
  return [=](benchmark::State& state) {
    const std::vector<double>& w = weights(n);
    auto draw = fill(w);
    std::vector<index_t> out(draws);
    for (auto _ : state) {
      draw(out);
      benchmark::DoNotOptimize(std::as_const(out).data());
      benchmark::ClobberMemory();
    }
    state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(draws));
    state.counters["work"] = static_cast<double>(draws);
    state.counters["n"] = static_cast<double>(n);
    state.counters["quality"] = group_counts(w).statistic(out);
  };
}

const auto linear = [](const std::vector<double>& w) {
  return [&w, total = std::accumulate(w.begin(), w.end(), 0.0), engine = std::mt19937_64(7)](auto& out) mutable {
    for (index_t& j : out) {
      double rest = sluice::co53(engine()) * total;
      std::size_t i = 0;
      while (i + 1 < w.size() && rest >= w[i]) rest -= w[i++];
      j = static_cast<index_t>(i);
    }
  };
};
const auto standard = [](const std::vector<double>& w) {
  return
      [law = std::discrete_distribution<index_t>(w.begin(), w.end()), engine = std::mt19937_64(7)](auto& out) mutable {
        for (index_t& j : out) j = law(engine);
      };
};
const auto alias = [](const std::vector<double>& w) {
  return [table = sluice::alias_table(w), random = sluice::cursor(sluice::stream{7})](auto& out) mutable {
    table.draw(out, random);
  };
};
const auto prefix = [](const std::vector<double>& w) {
  return [sums = sluice::prefix_sums(w), random = sluice::cursor(sluice::stream{7})](auto& out) mutable {
    sums.draw(out, random);
  };
};

const bench::quality chi_square{.name = "chi2 / df of 16 groups", .higher_is_better = false, .tolerance = 3};
const std::string engine_note = "naive: linear scan; both comparisons use std::mt19937_64";

const auto registered_tables = [] {
  for (const index_t n : {16, 256, 4096, 65536, 1 << 20}) {
    const std::string size = ", n = " + std::to_string(n);
    const std::size_t scans = n > 65536 ? 64 : n > 4096 ? 256 : n_draws;  // what a scan can do in the time
    bench::row{slug, "alias table" + size, "draws", chi_square, "18 ns against 107 ns at n = 65536", engine_note}
        .naive(drawing(n, linear, scans))
        .sluice(drawing(n, alias, scans))
        .peer("std::discrete_distribution", drawing(n, standard, scans));
    bench::row{slug, "prefix sums" + size, "draws", chi_square, "109 ns at n = 65536", engine_note}
        .naive(drawing(n, linear, scans))
        .sluice(drawing(n, prefix, scans))
        .peer("std::discrete_distribution", drawing(n, standard, scans));
  }
  return true;
}();

// One update, one draw.
template <class Make>
auto updating(Make make) {
  return [=](benchmark::State& state) {
    constexpr index_t n = 65536;
    auto step = make(weights(n));
    sluice::cursor random(sluice::stream{8});
    std::vector<index_t> drawn;
    for (auto _ : state) {
      const auto i = static_cast<index_t>(sluice::below(random, n));
      // The weight that it has: the law stays known.
      drawn.push_back(step(i, weights(n)[static_cast<std::size_t>(i)], sluice::co53(random())));
      if (drawn.size() > (1 << 20)) drawn.clear();
    }
    state.SetItemsProcessed(state.iterations());
    state.counters["work"] = 1;
    state.counters["n"] = n;
    state.counters["quality"] = drawn.size() >= 1000 ? group_counts(weights(n)).statistic(drawn) : 0.0;
  };
}
const auto registered_update =
    bench::row{slug, "update one of 65536 weights and draw", "updates and draws", chi_square, "0.23 us against 36.5 us",
               ""}
        .naive(updating([](std::vector<double> w) {
          return [w, sums = std::vector<double>(w.size())](index_t i, double v, double u) mutable {
            w[static_cast<std::size_t>(i)] = v;
            std::partial_sum(w.begin(), w.end(), sums.begin());
            return static_cast<index_t>(std::upper_bound(sums.begin(), sums.end(), u * sums.back()) - sums.begin());
          };
        }))
        .sluice(updating([](const std::vector<double>& w) {
          return [tree = sluice::sum_tree(w)](index_t i, double v, double u) mutable {
            tree.update(i, v);
            return tree.at(u);
          };
        }));

// k of n without replacement. The quality is the error of the mean estimate of the total weight, in percent.
template <class Make>
auto choosing(Make make, bool weighted) {
  return [=](benchmark::State& state) {
    constexpr index_t n = 1 << 20, k = 1000;
    const std::vector<double>& w = weights(n);
    auto choose = make(w);
    sluice::weighted_sample s;
    double sum = 0, count = 0;
    for (auto _ : state) {
      choose(s, w, k);
      double estimate = 0;
      for (std::size_t j = 0; j < s.weight.size(); ++j)
        estimate += s.weight[j] * w[static_cast<std::size_t>(s.index[j])];
      sum += estimate, count += 1;
      benchmark::DoNotOptimize(std::as_const(s.index).data());
      benchmark::ClobberMemory();
    }
    state.SetItemsProcessed(state.iterations() * k);
    state.counters["work"] = k;
    state.counters["n"] = static_cast<double>(n);
    const double total = std::accumulate(w.begin(), w.end(), 0.0);
    if (weighted) state.counters["quality"] = 100 * std::abs(sum / count / total - 1);
  };
}
const auto key_for_each_item = [](const std::vector<double>&) {
  return [engine = std::mt19937_64(9)](sluice::weighted_sample& s, const std::vector<double>& w, index_t k) mutable {
    std::priority_queue<std::pair<double, index_t>> heap;
    for (std::size_t i = 0; i < w.size(); ++i) {
      const double key = -std::log(sluice::oc53(engine())) / w[i];
      if (static_cast<index_t>(heap.size()) <= k) {  // k + 1: the last is the threshold
        heap.emplace(key, static_cast<index_t>(i));
      } else if (key < heap.top().first) {
        heap.pop();
        heap.emplace(key, static_cast<index_t>(i));
      }
    }
    s.index.clear(), s.weight.clear();
    const double t = heap.top().first;
    for (heap.pop(); !heap.empty(); heap.pop()) {
      s.index.push_back(heap.top().second);
      s.weight.push_back(-1 / std::expm1(-w[static_cast<std::size_t>(heap.top().second)] * t));
    }
    benchmark::DoNotOptimize(std::as_const(s.index).data());
  };
};
const auto one_by_one = [](const std::vector<double>&) {
  return [engine = std::mt19937_64(9)](sluice::weighted_sample& s, std::vector<double> w, index_t k) mutable {
    s.index.clear(), s.weight.clear();
    double total = std::accumulate(w.begin(), w.end(), 0.0);
    for (index_t t = 0; t < k; ++t) {
      double rest = sluice::co53(engine()) * total;
      std::size_t i = 0;
      while (i + 1 < w.size() && rest >= w[i]) rest -= w[i++];
      s.index.push_back(static_cast<index_t>(i));
      total -= w[i];
      w[i] = 0;
    }
  };
};
template <sluice::race_method Method>
auto racing() {
  return [](const std::vector<double>&) {
    return [design = sluice::successive_sampling<Method>(), random = sluice::cursor(sluice::stream{9})](
               sluice::weighted_sample& s, const std::vector<double>& w, index_t k) mutable {
      design.draw_into(s, w, k, random);
    };
  };
}
const bench::quality total_error{.name = "error of the mean total, %", .higher_is_better = false, .tolerance = 4};
const auto registered_skips = bench::row{slug,
                                         "1000 of 2^20 without replacement, skips",
                                         "draws",
                                         total_error,
                                         "2.2 ms against 14.0 ms",
                                         "naive: one key an item, std::priority_queue, std::mt19937_64"}
                                  .naive(choosing(key_for_each_item, true))
                                  .sluice(choosing(racing<sluice::race_method::skips>(), true));
const auto registered_heap = bench::row{slug,
                                        "1000 of 2^20 without replacement, heap",
                                        "draws",
                                        total_error,
                                        "14.0 ms against 470 ms",
                                        "naive: a linear scan for each of the draws"}
                                 .naive(choosing(one_by_one, false))
                                 .sluice(choosing(racing<sluice::race_method::one_pass>(), true));

// Resampling 65536 particles.
const auto searches = [](const std::vector<double>& w) {
  return [&w, sums = std::vector<double>(w.size()), engine = std::mt19937_64(3)](auto& out) mutable {
    std::partial_sum(w.begin(), w.end(), sums.begin());
    for (index_t& j : out)
      j = std::upper_bound(sums.begin(), sums.end() - 1, sluice::co53(engine()) * sums.back()) - sums.begin();
  };
};
template <class Scheme>
auto merging() {
  return [](const std::vector<double>& w) {
    return [&w, r = sluice::resampler<Scheme>(), random = sluice::cursor(sluice::stream{3})](auto& out) mutable {
      r.ancestors_into(out, w, random);
    };
  };
}
const auto registered_resampling = [] {
  const auto add = [](const char* name, auto scheme) {
    bench::row{slug,
               std::string("resample 65536 particles: ") + name,
               "offspring",
               chi_square,
               "O(n + N) by a merge",
               "naive: N binary searches, std::mt19937_64"}
        .naive(drawing(65536, searches, 65536))
        .sluice(drawing(65536, scheme, 65536));
  };
  add("systematic", merging<sluice::systematic_resampling>());
  add("stratified", merging<sluice::stratified_resampling>());
  add("residual", merging<sluice::residual_resampling<>>());
  add("multinomial", merging<sluice::multinomial_resampling>());
  return true;
}();

}  // namespace
