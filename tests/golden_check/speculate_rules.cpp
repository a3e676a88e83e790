#include <algorithm>
#include <cstddef>
#include <sluice/draw/inverse_cdf.hpp>
#include <sluice/speculate/block_verification.hpp>
#include <sluice/speculate/logit_processors.hpp>
#include <sluice/speculate/recursive_rejection.hpp>
#include <sluice/speculate/token_rejection.hpp>
#include <span>
#include <vector>

#include "registry.hpp"

namespace {

using golden::json;
using golden::numbers;
using golden::reals;
using sluice::token_id;
using row = std::vector<double>;

double sum_of(const row& x) {
  double sum = 0;
  for (const double v : x) sum += v;
  return sum;
}
row scaled(row x, double factor) {
  for (double& v : x) v *= factor;
  return x;
}
/// The residual as a law; nothing is left where p = q.
row residual(const row& p, const row& q) {
  row r(p.size());
  const double mass = sluice::residual_weights(r, p, q);
  return mass > 0 ? scaled(std::move(r), 1 / mass) : r;
}

const golden::kind token_rejection{"speculative-base", "token-rejection", [](const json& in) -> json {
                                     const row p = numbers(in.at("p")), q = numbers(in.at("q"));
                                     row r(p.size()), law(p.size());
                                     const double mass = sluice::residual_weights(r, p, q);
                                     json accept = json::array();
                                     for (std::size_t x = 0; x < p.size(); ++x) {
                                       const double a = q[x] > 0 ? sluice::acceptance_probability(p[x], q[x]) : 0.0;
                                       accept.push_back(q[x] > 0 ? json(a) : json(nullptr));
                                       law[x] = q[x] * a + r[x];
                                     }
                                     return {{"accept_prob_per_token", accept},
                                             {"acceptance_rate", sluice::acceptance_rate(p, q)},
                                             {"residual_mass", mass},
                                             {"residual", reals(residual(p, q))},
                                             {"output_law", reals(law)}};
                                   }};

const golden::kind token_rejection_edge{
    "speculative-base", "token-rejection-edge", [](const json& in) -> json {
      json out;
      const row p = numbers(in.at("p_equal")), q = numbers(in.at("q_equal"));
      row r(p.size());
      out["equal"] = {{"acceptance_rate", sluice::acceptance_rate(p, q)},
                      {"residual_mass", sluice::residual_weights(r, p, q)}};
      const row a = numbers(in.at("p_disjoint")), b = numbers(in.at("q_disjoint"));
      out["disjoint"] = {{"acceptance_rate", sluice::acceptance_rate(a, b)}, {"residual", reals(residual(a, b))}};
      const row t = numbers(in.at("p_onehot"));
      row one(t.size(), 0.0);
      one.at(in.at("onehot_token").get<std::size_t>()) = 1;
      out["onehot"] = {{"acceptance_rate", sluice::acceptance_rate(t, one)}, {"residual", reals(residual(t, one))}};
      return out;
    }};

const golden::kind with_replacement{"speculative-base", "rrs-with-replacement", [](const json& in) -> json {
                                      const row p = numbers(in.at("p")), q = numbers(in.at("q"));
                                      const int n = in.at("n").get<int>();
                                      json targets = json::array();
                                      row rates, at_stage, accepted(p.size(), 0.0), r(p.size());
                                      double reached = 1;
                                      sluice::rejection_stage stage;
                                      for (int k = 0; k < n; ++k) {
                                        sluice::stage_target(r, stage, p, q);
                                        targets.push_back(reals(r));
                                        double rate = 0;
                                        for (std::size_t x = 0; x < p.size(); ++x) {
                                          const double mass = q[x] > 0 ? q[x] * stage.acceptance(p[x], q[x]) : 0.0;
                                          rate += mass;
                                          accepted[x] += reached * mass;
                                        }
                                        rates.push_back(rate);
                                        at_stage.push_back(reached * rate);
                                        reached *= 1 - rate;
                                        // With replacement the next stage does not depend on which token was rejected.
                                        if (stage.mass > 0)
                                          stage = sluice::next_stage<sluice::independent_draws>(stage, p, q, 0);
                                      }
                                      sluice::stage_target(r, stage, p, q);
                                      return {{"stage_targets", targets},
                                              {"stage_accept_rate", reals(rates)},
                                              {"prob_accept_at_stage", reals(at_stage)},
                                              {"acceptance_rate", sum_of(at_stage)},
                                              {"final_residual", reals(r)},
                                              {"accepted_mass_per_token", reals(accepted)}};
                                    }};

/// Adds what the stages from `stage` on accept, over all ordered draws without replacement.
void visit_draws(const row& p, const row& q, const sluice::rejection_stage& stage, std::size_t k,
                 std::vector<bool>& seen, double reached, row& at_stage, row& accepted) {
  if (k == at_stage.size()) return;
  double left = 0;
  for (std::size_t x = 0; x < p.size(); ++x)
    if (!seen[x]) left += q[x];
  for (std::size_t x = 0; x < p.size(); ++x) {
    if (seen[x] || !(q[x] > 0)) continue;
    const double drawn = reached * q[x] / left, a = stage.acceptance(p[x], q[x]);
    at_stage[k] += drawn * a;
    accepted[x] += drawn * a;
    if (a >= 1) continue;
    seen[x] = true;
    const auto next = sluice::next_stage<sluice::draws_without_replacement>(stage, p, q, static_cast<token_id>(x));
    if (next.mass > 0) visit_draws(p, q, next, k + 1, seen, drawn * (1 - a), at_stage, accepted);
    seen[x] = false;
  }
}

const golden::kind without_replacement{
    "speculative-base", "rrs-without-replacement", [](const json& in) -> json {
      const row p = numbers(in.at("p")), q = numbers(in.at("q"));
      row at_stage(in.at("n").get<std::size_t>(), 0.0), accepted(p.size(), 0.0);
      std::vector<bool> seen(p.size(), false);
      visit_draws(p, q, {}, 0, seen, 1.0, at_stage, accepted);
      // The path by the recursion itself, which is defined for tokens that cannot be rejected too.
      json stages = json::array();
      row r = p, s = q;
      for (const json& token : in.value("path", json::array())) {
        row accept(p.size(), 0.0);
        const auto x = token.get<std::size_t>();
        stages.push_back({{"r", reals(r)},
                          {"q", reals(s)},
                          {"accept_prob", s.at(x) > 0 ? sluice::acceptance_probability(r[x], s[x]) : 0.0}});
        r = residual(r, s);
        s.at(x) = 0;
        const double left = sum_of(s);
        if (left > 0) s = scaled(std::move(s), 1 / left);
      }
      return {{"prob_accept_at_stage", reals(at_stage)},
              {"acceptance_rate", sum_of(at_stage)},
              {"accepted_mass_per_token", reals(accepted)},
              {"path_stages", stages},
              {"path_final_residual", reals(r)}};
    }};

/// A round over rows of probabilities.
struct round_of_rows {
  std::vector<row> target, draft;
  std::vector<token_id> tokens;
  std::vector<sluice::token_row<double>> p, q;
  sluice::request<double, double> view() {
    p.clear();
    q.clear();
    for (const row& x : target) p.push_back({sluice::row_kind::probabilities, x});
    for (const row& x : draft) q.push_back({sluice::row_kind::probabilities, x});
    return {p, q, tokens};
  }
};

const golden::kind block_path{"speculative-base", "block-path", [](const json& in) -> json {
                                return golden::or_error([&]() -> json {
                                  round_of_rows round;
                                  for (const json& x : in.at("target_rows")) round.target.push_back(numbers(x));
                                  for (const json& x : in.at("draft_rows")) round.draft.push_back(numbers(x));
                                  round.tokens = in.at("tokens").get<std::vector<token_id>>();
                                  const sluice::block_path path = sluice::path_of_block(round.view());
                                  json residuals = json::array();
                                  for (std::size_t i = 0; i < round.draft.size(); ++i) {
                                    row r(round.draft[i].size());
                                    sluice::residual_weights(r, round.target[i], round.draft[i], path.p[i]);
                                    residuals.push_back(reals(r));
                                  }
                                  return {{"p_i", reals(path.p)},
                                          {"h_i", reals(row(path.h.begin() + 1, path.h.end()))},
                                          {"residual_unnormalised", residuals},
                                          {"tau_law", reals(path.tau_law)}};
                                });
                              }};

const golden::kind chain_accept_length{
    "speculative-base", "chain-accept-length", [](const json& in) -> json {
      const auto v = in.at("V").get<std::size_t>(), gamma = in.at("gamma").get<std::size_t>();
      const json &target = in.at("target"), &draft = in.at("draft");
      row token(gamma + 1, 0.0), block(gamma + 1, 0.0);
      round_of_rows round;
      // Rows of depth i are listed in the order of their contexts, the last token fastest.
      const auto visit = [&](auto&& self, std::size_t depth, std::size_t context, double drafted) -> void {
        round.target.push_back(numbers(target.at(depth).at(context)));
        if (depth == gamma) {
          double reached = drafted;
          for (std::size_t i = 0; i < gamma; ++i) {
            const auto x = static_cast<std::size_t>(round.tokens[i]);
            const double a = sluice::acceptance_probability(round.target[i].at(x), round.draft[i].at(x));
            token[i] += reached * (1 - a);
            reached *= a;
          }
          token[gamma] += reached;
          const auto path = sluice::path_of_block(round.view());
          for (std::size_t i = 0; i <= gamma; ++i) block[i] += drafted * path.tau_law[i];
        } else {
          round.draft.push_back(numbers(draft.at(depth).at(context)));
          const row q = round.draft.back();
          for (std::size_t x = 0; x < v; ++x) {
            if (!(q[x] > 0)) continue;
            round.tokens.push_back(static_cast<token_id>(x));
            self(self, depth + 1, context * v + x, drafted * q[x]);
            round.tokens.pop_back();
          }
          round.draft.pop_back();
        }
        round.target.pop_back();
      };
      visit(visit, 0, 0, 1.0);
      const auto mean = [](const row& law) {
        double sum = 0;
        for (std::size_t i = 0; i < law.size(); ++i) sum += static_cast<double>(i) * law[i];
        return sum;
      };
      return {{"token_level", {{"accept_length_law", reals(token)}, {"expected_tokens", 1 + mean(token)}}},
              {"block", {{"accept_length_law", reals(block)}, {"expected_tokens", 1 + mean(block)}}}};
    }};

const golden::kind processors{"speculative-base", "processors", [](const json& in) -> json {
                                json laws = json::array();
                                for (const json& config : in.at("configs"))
                                  laws.push_back(golden::or_error([&]() -> json {
                                    row logits = numbers(in.at("logits"));
                                    sluice::sampling_options{.temperature = config.value("temperature", 1.0),
                                                             .top_k = config.value("top_k", sluice::index_t{0}),
                                                             .top_p = config.value("top_p", 1.0),
                                                             .min_p = config.value("min_p", 0.0)}
                                        .process(logits, {});
                                    row law(logits.size());
                                    const sluice::token_law<double> processed({sluice::row_kind::logits, logits});
                                    processed.probabilities(law);
                                    return reals(law);
                                  }));
                                return {{"probs", laws}};
                              }};

const golden::kind weighted_draw{"speculative-base", "weighted-draw", [](const json& in) -> json {
                                   const row weights = numbers(in.at("weights"));
                                   json index = json::array();
                                   for (const json& u : in.at("u"))
                                     index.push_back(golden::or_error([&]() -> json {
                                       return sluice::inverse_cdf(std::span<const double>(weights), golden::number(u));
                                     }));
                                   return {{"index", index}};
                                 }};

}  // namespace
