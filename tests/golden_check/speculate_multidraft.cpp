#include <cstddef>
#include <sluice/speculate/optimal_multidraft.hpp>
#include <sluice/speculate/weighted_selection.hpp>
#include <span>
#include <vector>

#include "registry.hpp"

namespace {

using golden::json;
using golden::numbers;
using golden::reals;
using sluice::token_id;
using row = std::vector<double>;

const golden::kind greedy_hybrid{
    "mdsd", "greedy-hybrid-verifier", [](const json& in) -> json {
      return golden::or_error([&]() -> json {
        const row p = numbers(in.at("p")), q = numbers(in.at("q"));
        const auto n = in.at("n").get<sluice::index_t>();
        sluice::expects(n >= 1, "greedy-hybrid-verifier", "n", n);
        sluice::optimal_acceptance problem;  // checks both laws
        problem.prepare(p, q);
        std::vector<token_id> fixed(static_cast<std::size_t>(n) - 1);
        sluice::cursor unused(sluice::stream{0});
        const auto drawn =
            sluice::draw_children(sluice::top_draws{}, std::span(fixed), std::span<double>{},
                                  sluice::token_row<double>{sluice::row_kind::probabilities, q}, std::ssize(q), unused);
        fixed.resize(static_cast<std::size_t>(drawn.n));
        row law(q.size()), residual(q.size());
        sluice::hybrid_draft_law(law, q, fixed);
        sluice::hybrid_residual(residual, p, law, fixed);
        json accept = json::array();
        for (std::size_t x = 0; x < q.size(); ++x)
          accept.push_back(law[x] > 0 ? json(sluice::acceptance_probability(p[x], law[x])) : json(nullptr));
        return {{"deterministic_tokens", fixed},
                {"random_draft_law", reals(law)},
                {"accept_prob", accept},
                {"residual_unnormalised", reals(residual)},
                {"acceptance_rate", sluice::hybrid_acceptance(p, law, fixed)}};
      });
    }};

const golden::kind weighted_selection{
    "mdsd", "weighted-selection", [](const json& in) -> json {
      return golden::or_error([&]() -> json {
        const row p = numbers(in.at("p")), q = numbers(in.at("q"));
        sluice::weighted_selection_plan plan(
            {.sweeps = in.value("iterations", 6),
             .least_weight = in.contains("w_min") ? golden::number(in.at("w_min")) : 1e-5,
             .step = 0.25});
        plan.prepare(p, q, in.at("n").get<sluice::index_t>());
        std::vector<int> level(q.size(), 1);
        row weight(q.size(), 1.0), mass(q.size(), 0.0), accepted(q.size(), 0.0), residual = p;
        for (sluice::index_t k = 0; k < plan.support(); ++k) {
          const auto x = static_cast<std::size_t>(plan.order()[static_cast<std::size_t>(k)]);
          level[x] = k < plan.prefix() ? 0 : 1;
          weight[x] = plan.weight(k);
          mass[x] = plan.selected_mass()[static_cast<std::size_t>(k)];
          accepted[x] = std::min(mass[x], p[x]);
          residual[x] = p[x] - accepted[x];
        }
        return {{"level", level},
                {"weights", reals(weight)},
                {"selected_mass", reals(mass)},
                {"accepted_mass", reals(accepted)},
                {"residual_unnormalised", reals(residual)},
                {"acceptance_history", reals(plan.history())},
                {"optimum", plan.optimum()}};
      });
    }};

}  // namespace
