#include <algorithm>
#include <cstddef>
#include <sluice/speculate/k_seq.hpp>
#include <sluice/speculate/optimal_acceptance.hpp>
#include <sluice/speculate/token_tree.hpp>
#include <span>
#include <support/enumerate.hpp>
#include <vector>

#include "registry.hpp"

namespace {

using golden::json;
using golden::numbers;
using golden::reals;
using sluice::index_t;
using sluice::token_id;
using row = std::vector<double>;

/// The residual, with what rounding left below zero taken away.
row residual(const row& p, const row& q, index_t k, double rho) {
  row r(p.size());
  sluice::k_seq_residual(r, p, q, k, rho);
  for (double& v : r) v = std::max(0.0, v);
  return r;
}

const golden::kind rho_star{"spectr", "kseq-rho-star", [](const json& in) -> json {
                              json problems = json::array();
                              for (const json& problem : in.at("problems"))
                                problems.push_back(golden::or_error([&]() -> json {
                                  const row p = numbers(problem.at("p")), q = numbers(problem.at("q"));
                                  const auto k = problem.at("k").get<index_t>();
                                  const double rho = sluice::k_seq_division_factor(p, q, k);
                                  const double beta = sluice::k_seq_beta(p, q, rho);
                                  return {{"rho_star", rho},
                                          {"beta", beta},
                                          {"accept_rate", sluice::k_seq_acceptance(beta, k)},
                                          {"residual_unnormalised", reals(residual(p, q, k, rho))}};
                                }));
                              return {{"problems", problems}};
                            }};

const golden::kind function{"spectr", "kseq-function", [](const json& in) -> json {
                              return golden::or_error([&]() -> json {
                                const row p = numbers(in.at("p")), q = numbers(in.at("q"));
                                const auto k = in.at("k").get<index_t>();
                                const double smallest = sluice::k_seq_division_factor(p, q, k);
                                row beta, f;
                                json valid = json::array();
                                for (const json& value : in.at("rho")) {
                                  const double rho = golden::number(value);
                                  beta.push_back(sluice::k_seq_beta(p, q, rho));
                                  f.push_back(sluice::k_seq_balance(p, q, k, rho));
                                  valid.push_back(rho >= smallest || f.back() <= 0);
                                }
                                return {{"beta", reals(beta)}, {"f", reals(f)}, {"valid", valid}};
                              });
                            }};

/// Probability that one of k draws of q is emitted, by the rule itself, over all draws and all decisions.
double membership(const row& p, const row& q, index_t k, double rho) {
  const sluice::k_seq rule{{.policy = sluice::rho_policy::fixed, .rho = rho}};
  const sluice::token_row<double> target{sluice::row_kind::probabilities, p}, draft{sluice::row_kind::probabilities, q};
  std::vector<token_id> draws(static_cast<std::size_t>(k));
  double member = 0;
  support::enumerating_source random;
  do {
    for (token_id& x : draws) x = static_cast<token_id>(random.categorical(q));
    if (rule(target, draft, draws, random).child >= 0) member += static_cast<double>(random.probability());
  } while (random.advance());
  return member;
}

const golden::kind joint{"spectr", "kseq-joint", [](const json& in) -> json {
                           const row p = numbers(in.at("p")), q = numbers(in.at("q"));
                           const auto k = in.at("k").get<index_t>();
                           json rows = json::array();
                           for (const json& value : in.at("rho"))
                             rows.push_back(golden::or_error([&]() -> json {
                               const double rho = golden::number(value);
                               return {{"rho", rho},
                                       {"accept_by_scan", sluice::k_seq_acceptance(sluice::k_seq_beta(p, q, rho), k)},
                                       {"membership", membership(p, q, k, rho)}};
                             }));
                           return {{"rows", rows}};
                         }};

const golden::kind optimum{"spectr", "optimal-membership", [](const json& in) -> json {
                             json problems = json::array();
                             for (const json& problem : in.at("problems"))
                               problems.push_back(golden::or_error([&]() -> json {
                                 const row p = numbers(problem.at("p")), q = numbers(problem.at("q"));
                                 const auto k = problem.at("k").get<index_t>();
                                 sluice::optimal_acceptance prefixes;
                                 prefixes.prepare(p, q);
                                 const double best = prefixes.best<sluice::independent_draws>(k).acceptance;
                                 return {{"optimal", best},
                                         {"kseq", sluice::k_seq_profile(p, q).acceptance(k)},
                                         {"guarantee", sluice::k_seq_guarantee(k) * best},
                                         {"upper_bound", sluice::k_seq_upper_bound(p, q, k)}};
                               }));
                             return {{"problems", problems}};
                           }};

/// Rows of depth d are listed in the order of their contexts, the last token fastest.
const golden::kind accept_length{
    "spectr", "spectr-accept-length", [](const json& in) -> json {
      const auto v = in.at("V").get<std::size_t>(), paths = in.at("K").get<std::size_t>();
      const auto length = in.at("L").get<std::size_t>();
      std::vector<std::vector<row>> target(length), draft(length);
      for (std::size_t d = 0; d < length; ++d) {
        for (const json& x : in.at("target").at(d)) target[d].push_back(numbers(x));
        for (const json& x : in.at("draft").at(d)) draft[d].push_back(numbers(x));
      }
      row law(length + 1, 0.0);
      std::vector<std::size_t> context(paths), survivors, next;
      std::vector<token_id> draws;
      support::enumerating_source random;
      do {  // the survivors' tokens are drawn where they are looked at: the laws are those of whole paths
        survivors.resize(paths);
        for (std::size_t i = 0; i < paths; ++i) survivors[i] = i;
        std::size_t at = 0, depth = 0;
        for (; depth < length && !survivors.empty(); ++depth) {
          const row &p = target[depth].at(at), &q = draft[depth].at(at);
          draws.clear();
          for (std::size_t i = 0; i < survivors.size(); ++i)
            draws.push_back(static_cast<token_id>(random.categorical(q)));
          const sluice::token_row<double> p_row{sluice::row_kind::probabilities, p},
              q_row{sluice::row_kind::probabilities, q};
          const sluice::node_decision d = sluice::k_seq{}(p_row, q_row, draws, random);
          next.clear();
          for (std::size_t i = 0; i < draws.size(); ++i)
            if (draws[i] == d.next) next.push_back(survivors[i]);
          if (next.empty()) break;
          survivors = next;
          at = at * v + static_cast<std::size_t>(d.next);
        }
        law[depth] += static_cast<double>(random.probability());
      } while (random.advance());
      double mean = 1;
      for (std::size_t d = 0; d <= length; ++d) mean += static_cast<double>(d) * law[d];
      return {{"accept_length_law", reals(law)}, {"expected_tokens", mean}};
    }};

/// Every limit that is present: the division factor, the acceptance there, and what is left.
const golden::kind edges{"spectr", "edges", [](const json& in) -> json {
                           json out = json::object();
                           for (const auto& [name, problem] : in.items())
                             out[name] = golden::or_error([&]() -> json {
                               const row p = numbers(problem.at("p")), q = numbers(problem.at("q"));
                               const auto k = problem.at("k").get<index_t>();
                               const double rho = sluice::k_seq_division_factor(p, q, k);
                               const double beta = sluice::k_seq_beta(p, q, rho);
                               row r = residual(p, q, k, rho);
                               double sum = 0;
                               for (const double x : r) sum += x;
                               for (double& x : r) x = sum > 0 ? x / sum : 0.0;
                               return {{"rho_star", rho},
                                       {"beta", beta},
                                       {"accept_rate", sluice::k_seq_acceptance(beta, k)},
                                       {"residual", reals(r)}};
                             });
                           return out;
                         }};

}  // namespace
