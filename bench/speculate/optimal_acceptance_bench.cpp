// The time to compute the optimal acceptance of a position: the plain formulas with std::sort, one std::sort of the
// ratios alone, and optimal_acceptance. Two dense laws in, one number out.
#include <sluice/random/distributions.hpp>
#include <sluice/speculate/optimal_acceptance.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <report/row.hpp>
#include <string>
#include <type_traits>
#include <vector>

namespace {

using sluice::draws_without_replacement;
using sluice::independent_draws;
using sluice::index_t;
using dense = std::vector<double>;

/// Target logits: normal numbers times 3; draft logits: the target's plus normal noise.
struct law_pair {
  dense p, q;
  law_pair(std::size_t v, std::uint64_t seed) : p(v), q(v) {
    const sluice::stream key(seed), noise(seed + 1000);
    for (std::size_t x = 0; x < v; ++x) {
      const double logit = 3 * sluice::normal_at(key, x);
      p[x] = std::exp(logit);
      q[x] = std::exp(logit + sluice::normal_at(noise, x));
    }
    for (dense* law : {&p, &q}) {
      const double sum = std::accumulate(law->begin(), law->end(), 0.0);
      for (double& x : *law) x /= sum;
    }
  }
};
/// As many pairs as make about 10^5 tokens: a sort of the same thousand numbers again and again is learnt by heart by
/// the branch predictor.
const std::vector<law_pair>& pairs(index_t v) {
  const auto make = [](index_t size) {
    std::vector<law_pair> all;
    for (index_t i = 0; i < std::max<index_t>(1, 128000 / size); ++i)
      all.emplace_back(static_cast<std::size_t>(size), static_cast<std::uint64_t>(i));
    return all;
  };
  static const auto small = make(1000), medium = make(32000), large = make(131072);
  return v == 1000 ? small : v == 32000 ? medium : large;
}

/// Positions by p/q: std::sort of the ratios with their positions.
void sort_positions(std::vector<std::pair<double, std::uint32_t>>& order, const law_pair& laws) {
  order.resize(laws.q.size());
  for (std::size_t x = 0; x < order.size(); ++x) order[x] = {laws.p[x] / laws.q[x], static_cast<std::uint32_t>(x)};
  std::sort(order.begin(), order.end());
}

/// The formulas as they stand: Q at every prefix.
template <class Scalar>
double plain_independent(const law_pair& laws, int n) {
  static std::vector<std::pair<double, std::uint32_t>> order;
  sort_positions(order, laws);
  static std::vector<Scalar> tail;
  tail.assign(order.size() + 1, 0);
  for (std::size_t k = order.size(); k-- > 0;) tail[k] = tail[k + 1] + laws.q[order[k].second];
  Scalar p = 0, best = 1;
  for (std::size_t k = 0; k <= order.size(); ++k) {
    best = std::min(best, p - std::expm1(static_cast<Scalar>(n) * std::log1p(-std::min<Scalar>(tail[k], 1))));
    if (k < order.size()) p += laws.p[order[k].second];
  }
  return static_cast<double>(best);
}
double plain_without(const law_pair& laws, int n, double h) {
  static std::vector<std::pair<double, std::uint32_t>> order;
  sort_positions(order, laws);
  static dense tail;
  tail.assign(order.size() + 1, 0);
  for (std::size_t k = order.size(); k-- > 0;) tail[k] = tail[k + 1] + laws.q[order[k].second];
  const double low = -37.0 / (n + 1) - 1, least = *std::min_element(laws.q.begin(), laws.q.end());
  const auto nodes = static_cast<index_t>((std::log(60 / std::max(least, 1e-13)) - low) / h) + 1;
  const Eigen::ArrayXd t = (low + h * Eigen::ArrayXd::LinSpaced(nodes, 0, static_cast<double>(nodes - 1))).exp();
  Eigen::ArrayXXd c = Eigen::ArrayXXd::Zero(nodes, n);
  c.col(0) = 1;
  Eigen::ArrayXd a(nodes), fewer(nodes);
  double p = 0, best = 1;
  for (std::size_t k = 0; k < order.size(); ++k) {
    double inside = k >= static_cast<std::size_t>(n) ? 1 : 0;
    if (tail[k] > 1e-13) {
      fewer = c.col(0);
      for (index_t j = 1; j < n; ++j) fewer += c.col(j);
      inside = h * (tail[k] * t * (-tail[k] * t).exp() * (1 - fewer).max(0.0)).sum();
    }
    best = std::min(best, 1 + p - inside);
    a = (-laws.q[order[k].second] * t).exp();
    for (index_t j = n - 1; j > 0; --j) c.col(j) = c.col(j) * a + c.col(j - 1) * (1 - a);
    c.col(0) *= a;
    p += laws.p[order[k].second];
  }
  return std::min(best, p);
}

template <class Kind>
constexpr bool independent = std::is_same_v<Kind, independent_draws>;

/// Long double where there is a closed form, else the same quadrature with half the step.
template <class Kind>
double reference(index_t v, int n) {
  return independent<Kind> ? plain_independent<long double>(pairs(v)[0], n) : plain_without(pairs(v)[0], n, 0.175);
}

template <class Kind, class F>
auto variant(index_t v, int n, bool compare, F&& answer) {
  return [=](benchmark::State& state) {
    const auto& laws = pairs(v);
    std::size_t i = 0;
    benchmark::DoNotOptimize(answer(laws[0], n));  // buffers grow once, which is not what is timed
    for (auto _ : state) {
      const double alpha = answer(laws[i], n);
      benchmark::DoNotOptimize(alpha);
      i = i + 1 < laws.size() ? i + 1 : 0;
    }
    state.counters["work"] = 2;
    state.counters["V"] = static_cast<double>(v);
    state.counters["n"] = n;
    if (compare) state.counters["quality"] = std::abs(answer(laws[0], n) - reference<Kind>(v, n));
  };
}

template <class Kind>
void add(index_t v, int n) {
  const auto plain = [](const law_pair& laws, int draws) {
    return independent<Kind> ? plain_independent<double>(laws, draws) : plain_without(laws, draws, 0.35);
  };
  const auto ratios_sorted = [](const law_pair& laws, int) {
    static dense ratio;
    ratio.resize(laws.p.size());
    for (std::size_t x = 0; x < ratio.size(); ++x) ratio[x] = laws.p[x] / laws.q[x];
    std::sort(ratio.begin(), ratio.end());
    return ratio[0];
  };
  const auto ours = [](const law_pair& laws, int draws) {
    static sluice::optimal_acceptance problem;
    problem.prepare(laws.p, laws.q);
    return problem.best<Kind>(draws).acceptance;
  };
  bench::row{.slug = "mdsd",
             .workload = std::string("optimal acceptance, ") +
                         (independent<Kind> ? "independent" : "without replacement") + ", n = " + std::to_string(n) +
                         ", V = " + std::to_string(v),
             .unit = "rows read",
             .quality = {.name = independent<Kind> ? "difference to long double" : "difference to half the step",
                         .tolerance = independent<Kind> ? 1e-12 : 1e-10},
             .claim = "O(V log V)",
             .note =
                 "rows checked, sorted and minimised. naive: std::sort, then Q at every prefix. peer: std::sort of "
                 "p/q alone, no answer"}
      .naive(variant<Kind>(v, n, true, plain))
      .sluice(variant<Kind>(v, n, true, ours))
      .peer("std::sort of the ratios alone", variant<Kind>(v, n, false, ratios_sorted));
}

const bool registered = [] {
  for (const index_t v : {1000, 32000, 131072})
    for (const int n : {2, 4, 8}) {
      add<independent_draws>(v, n);
      add<draws_without_replacement>(v, n);
    }
  return true;
}();

}  // namespace
