#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <sluice/core/numeric.hpp>
#include <sluice/draw/alias_table.hpp>
#include <sluice/draw/effective_sample_size.hpp>
#include <sluice/draw/estimators.hpp>
#include <sluice/draw/exponential_race.hpp>
#include <sluice/draw/pps_threshold.hpp>
#include <sluice/draw/prefix_sums.hpp>
#include <sluice/draw/priority_sampling.hpp>
#include <sluice/draw/resample.hpp>
#include <span>
#include <stdexcept>
#include <vector>

#include "registry.hpp"

namespace {

using golden::json;
using sluice::index_t;

json categorical(const json& in) {
  const std::vector<double> w = golden::numbers(in.at("weights"));
  const sluice::prefix_sums sums(w);
  json index = json::array();
  for (const double u : golden::numbers(in.at("u"))) index.push_back(sums.at(u));
  return {{"probabilities", golden::reals(sluice::alias_table(w).probabilities())}, {"index", index}};
}

json race(const json& in) {
  const std::vector<double> w = golden::numbers(in.at("weights")), u = golden::numbers(in.at("uniforms"));
  sluice::detail::check_weights(std::span(w), "exponential_race");
  std::vector<double> keys, es, gumbel;
  sluice::detail::smallest_keys heap;
  index_t positive = 0;
  for (const double v : w) positive += v > 0;
  heap.restart(positive);
  for (std::size_t i = 0; i < w.size(); ++i) {
    keys.push_back(sluice::race_key(u.at(i), w[i]));
    es.push_back(w[i] > 0 ? std::pow(u[i], 1 / w[i]) : 0.0);
    gumbel.push_back(-sluice::log_race_key(u[i], std::log(w[i])));
    if (w[i] > 0) heap.offer({keys.back(), static_cast<index_t>(i)});
  }
  json order = json::array();
  for (const auto& e : heap.sorted()) order.push_back(e.item);
  return {{"keys", golden::reals(keys)},
          {"order", order},
          {"es_keys", golden::reals(es)},
          {"gumbel_perturbed", golden::reals(gumbel)}};
}

/// The law of the set of k successive draws, by recursion over all sets: f(S) = sum over the last item i of S of
/// f(S - i) w_i / (W - w(S - i)).
std::vector<double> successive_set_law(const std::vector<double>& w, index_t k) {
  const std::size_t n = w.size();
  if (n > 24) throw std::runtime_error("too many items for an enumeration of all sets");
  std::vector<double> f(std::size_t{1} << n, 0.0);
  f[0] = 1;
  for (std::uint32_t s = 0; s < f.size(); ++s) {
    if (f[s] == 0 || std::popcount(s) >= k) continue;
    double left = 0;  // summed anew, so that nothing cancels
    for (std::size_t i = 0; i < n; ++i)
      if (!(s >> i & 1)) left += w[i];
    for (std::size_t i = 0; i < n; ++i)
      if (!(s >> i & 1) && w[i] > 0) f[s | std::uint32_t{1} << i] += f[s] * w[i] / left;
  }
  return f;
}

void add_sets(json& list, const std::vector<double>& law, std::vector<index_t>& chosen, std::size_t n, std::size_t k) {
  if (chosen.size() == k) {
    std::uint32_t s = 0;
    for (const index_t i : chosen) s |= std::uint32_t{1} << i;
    list.push_back({{"set", chosen}, {"p", law[s]}});
    return;
  }
  for (index_t i = chosen.empty() ? 0 : chosen.back() + 1; i < static_cast<index_t>(n); ++i) {
    chosen.push_back(i);
    add_sets(list, law, chosen, n, k);
    chosen.pop_back();
  }
}

json inclusion(const json& in) {
  const std::vector<double> w = golden::numbers(in.at("weights")), y = golden::numbers(in.at("y"));
  const auto k = in.at("k").get<index_t>();
  const auto seen = sluice::detail::check_weights(std::span(w), "successive_sampling");
  sluice::expects(k >= 0 && k <= seen.positive, "successive_sampling", "k", k);
  const std::vector<double> law = successive_set_law(w, k);
  const std::size_t n = w.size();
  std::vector<double> pi(n), pair(n * n);
  for (std::uint32_t s = 0; s < law.size(); ++s)
    if (std::popcount(s) == k)
      for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j < n; ++j)
          if ((s >> i & 1) && (s >> j & 1)) pair[i * n + j] += law[s];
  json rows = json::array(), sets = json::array();
  for (std::size_t i = 0; i < n; ++i) {
    pi[i] = std::min(1.0, pair[i * n + i]);
    rows.push_back(golden::reals(std::span(pair).subspan(i * n, n)));
  }
  double total = 0;
  for (const double v : y) total += v;
  std::vector<index_t> chosen;
  add_sets(sets, law, chosen, n, static_cast<std::size_t>(k));
  return {{"pi", golden::reals(pi)},
          {"pij", rows},
          {"total", total},
          {"horvitz_thompson_variance",
           golden::or_error([&]() -> json { return golden::real(sluice::horvitz_thompson_variance(pi, pair, y)); })},
          {"sen_yates_grundy_variance",
           golden::or_error([&]() -> json { return golden::real(sluice::sen_yates_grundy_variance(pi, pair, y)); })},
          {"hansen_hurwitz_variance",
           golden::or_error([&]() -> json { return golden::real(sluice::hansen_hurwitz_variance(w, y, k)); })},
          {"set_probabilities", sets}};
}

json pps_and_priority(const json& in) {
  const std::vector<double> w = golden::numbers(in.at("weights"));
  const auto k = in.at("k").get<index_t>();
  json out;
  std::vector<double> pi(w.size());
  sluice::pps_probabilities design;
  out["tau"] = golden::real(design.compute_into(pi, w, k));
  out["pi"] = golden::reals(pi);
  out["certain"] = json::array();
  for (std::size_t i = 0; i < w.size(); ++i)
    if (pi[i] == 1) out["certain"].push_back(i);
  if (in.contains("uniforms")) {
    const std::vector<double> u = golden::numbers(in.at("uniforms"));
    sluice::priority_sampling sampler(k);
    std::vector<double> priority;
    for (std::size_t i = 0; i < w.size(); ++i) {
      sampler.add_at(static_cast<index_t>(i), w[i], u.at(i));
      priority.push_back(w[i] / u[i]);
    }
    sluice::weighted_sample s;
    sampler.sample_into(s);
    std::vector<double> estimate;
    for (std::size_t t = 0; t < s.index.size(); ++t)
      estimate.push_back(s.weight[t] * w[static_cast<std::size_t>(s.index[t])]);
    out["priority"] = golden::reals(priority);
    out["priority_sample"] = s.index;
    out["priority_threshold"] = golden::real(s.threshold);
    out["priority_weights"] = golden::reals(estimate);
  }
  return out;
}

json resampling(const json& in) {
  const std::vector<double> w = golden::numbers(in.at("weights"));
  const auto n = in.at("n").get<index_t>();
  sluice::expects(n >= 0, "resample", "n", n);
  std::vector<index_t> ancestors(static_cast<std::size_t>(n)), counts(w.size());
  const auto count = [&] {
    std::fill(counts.begin(), counts.end(), index_t{0});
    for (const index_t a : ancestors) ++counts[static_cast<std::size_t>(a)];
    return counts;
  };
  json out;
  if (in.contains("u")) {
    const double u = golden::number(in.at("u"));
    sluice::systematic_resampling::ancestors_at(ancestors, w, u);
    out["systematic"] = ancestors;
    out["systematic_counts"] = count();
    sluice::residual_resampling<>{}.ancestors_at(ancestors, w, u);
    out["residual_systematic_counts"] = count();
    out["residual_systematic"] = ancestors;
  }
  sluice::residual_resampling<>::whole_copies(counts, w, n);
  out["residual_deterministic_counts"] = counts;
  if (in.contains("us")) {
    std::vector<double> us = golden::numbers(in.at("us"));
    sluice::stratified_resampling::ancestors_at(ancestors, w, us);
    out["stratified"] = ancestors;
    out["stratified_counts"] = count();
    std::sort(us.begin(), us.end());
    sluice::multinomial_resampling::ancestors_at(ancestors, w, us);
    out["multinomial_sorted"] = ancestors;
    out["multinomial_counts"] = count();
  }
  out["ess"] = sluice::effective_sample_size(w);
  out["entropy_ess"] = sluice::entropic_sample_size(w);
  double total = 0;
  for (const double v : w) total += v;
  out["max_weight"] = *std::max_element(w.begin(), w.end()) / total;
  return out;
}

json log_sum_exp_and_softmax(const json& in) {
  json sums = json::array(), rows = json::array();
  for (const json& vector : in.at("vectors")) {
    const std::vector<double> x = golden::numbers(vector);
    sums.push_back(golden::real(sluice::log_sum_exp(std::span(x))));
    rows.push_back(golden::or_error([&]() -> json {
      std::vector<double> p(x.size());
      sluice::softmax(std::span(p), std::span(x));
      return golden::reals(p);
    }));
  }
  return {{"logsumexp", sums}, {"softmax", rows}};
}

/// "error" if the call is refused as a whole.
golden::runner refusable(json (*run)(const json&)) {
  return [run](const json& in) { return golden::or_error([&]() -> json { return run(in); }); };
}

const char* const slug = "sampling-primitives";
const golden::kind kinds[] = {
    {slug, "categorical_probabilities_and_inverse_cdf", refusable(categorical)},
    {slug, "exponential_race_top_k", refusable(race)},
    {slug, "inclusion_probabilities_and_estimator_variances", refusable(inclusion)},
    {slug, "pps_threshold_and_priority_sampling", refusable(pps_and_priority)},
    {slug, "particle_resampling", refusable(resampling)},
    {slug, "logsumexp_softmax", refusable(log_sum_exp_and_softmax)},
};

}  // namespace
