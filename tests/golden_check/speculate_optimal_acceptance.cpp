#include <algorithm>
#include <cstddef>
#include <sluice/speculate/k_seq.hpp>
#include <sluice/speculate/optimal_acceptance.hpp>
#include <vector>

#include "registry.hpp"

namespace {

using golden::json;
using golden::numbers;
using golden::reals;
using sluice::draws_without_replacement;
using sluice::hybrid_draws;
using sluice::independent_draws;
using sluice::index_t;
using row = std::vector<double>;

/// Acceptance of recursive rejection without replacement, over all drafts.
double recursive_without(const row& r, const row& q, index_t n) {
  if (n == 0) return 0;
  double accepted = 0, excess = 0;
  row next(r.size());
  for (std::size_t y = 0; y < r.size(); ++y) excess += next[y] = std::max(0.0, r[y] - q[y]);
  for (double& x : next) x /= excess > 0 ? excess : 1;
  for (std::size_t x = 0; x < q.size(); ++x) {
    const double both = std::min(r[x], q[x]);
    accepted += both;
    if (!(q[x] > both) || n == 1) continue;
    row rest = q;
    rest[x] = 0;
    double left = 0;
    for (const double v : rest) left += v;
    if (!(left > 0)) continue;
    for (double& v : rest) v /= left;
    accepted += (q[x] - both) * recursive_without(next, rest, n - 1);
  }
  return accepted;
}

struct problem {
  row p, q;
  index_t n;
  sluice::optimal_acceptance optimum;
  explicit problem(const json& in) : p(numbers(in.at("p"))), q(numbers(in.at("q"))), n(in.at("n").get<index_t>()) {
    optimum.prepare(p, q);
  }
  json optima() {
    return {{"with_replacement", optimum.best<independent_draws>(n).acceptance},
            {"without_replacement", optimum.best<draws_without_replacement>(n).acceptance},
            {"greedy_hybrid", optimum.best<hybrid_draws>(n).acceptance}};
  }
  double kseq() const {
    const double rho = sluice::k_seq_division_factor(p, q, n);
    return sluice::k_seq_acceptance(sluice::k_seq_beta(p, q, rho), n);
  }
};

json optimal_acceptance(const json& in) {
  return golden::or_error([&] {
    problem x(in);
    json out = x.optima();
    out["rrs_with"] = x.optimum.recursive_rejection_acceptance<independent_draws>(x.n);
    out["rrs_without"] = x.n <= 2 ? x.optimum.recursive_rejection_acceptance<draws_without_replacement>(x.n)
                                  : recursive_without(x.p, x.q, x.n);
    out["kseq"] = x.kseq();
    out["single"] = x.optimum.single();
    return out;
  });
}

const golden::kind optimal{"mdsd", "optimal-acceptance", [](const json& in) -> json {
                             json list = json::array();
                             for (const json& one : in.at("problems")) list.push_back(optimal_acceptance(one));
                             return {{"problems", list}};
                           }};

const golden::kind prefixes{"mdsd", "dual-prefix-values", [](const json& in) -> json {
                              problem x(in);
                              const auto size = static_cast<std::size_t>(x.optimum.support()) + 1;
                              row with(size), without(size), value_with(size), value_without(size);
                              x.optimum.all_inside<independent_draws>(with, x.n);
                              x.optimum.all_inside<draws_without_replacement>(without, x.n);
                              double mass = 0;
                              for (std::size_t k = 0; k < size; ++k) {
                                value_with[k] = 1 + mass - with[k];
                                value_without[k] = 1 + mass - without[k];
                                if (k + 1 < size) mass += x.optimum.target()[k];
                              }
                              json order = json::array();
                              for (const sluice::token_id token : x.optimum.order()) order.push_back(token);
                              return {{"order", order},
                                      {"values_with", reals(value_with)},
                                      {"values_without", reals(value_without)},
                                      {"Q_without", reals(without)}};
                            }};

const golden::kind large{"mdsd", "optimal-acceptance-large", [](const json& in) -> json {
                           problem x(in);
                           json out = x.optima();
                           out["prefix_size_with"] = x.optimum.best<independent_draws>(x.n).prefix;
                           out["kseq"] = x.kseq();
                           out["single"] = x.optimum.single();
                           return out;
                         }};

const golden::kind edges{"mdsd", "edges", [](const json& in) -> json {
                           json out = json::object();
                           for (const auto& [name, one] : in.items())
                             out[name] = golden::or_error([&one] { return problem(one).optima(); });
                           return out;
                         }};

}  // namespace
