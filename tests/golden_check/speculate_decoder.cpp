#include <cstddef>
#include <sluice/speculate/draft_length.hpp>
#include <sluice/speculate/drafting.hpp>
#include <sluice/speculate/recursive_rejection.hpp>
#include <sluice/speculate/token_tree.hpp>
#include <span>
#include <support/enumerate.hpp>
#include <vector>

#include "registry.hpp"

namespace {

using golden::json;
using sluice::index_t;
using sluice::token_id;

json expected_tokens(const json& in) {
  json tokens = json::array(), optimal = json::array();
  for (const json& pair : in.at("alpha_gamma"))
    tokens.push_back(golden::or_error(
        [&]() -> json { return sluice::expected_tokens(golden::number(pair.at(0)), pair.at(1).get<index_t>()); }));
  for (const json& pair : in.at("alpha_c"))
    optimal.push_back(golden::or_error([&]() -> json {
      const auto best = sluice::best_draft_length(golden::number(pair.at(0)), in.at("gamma_max").get<index_t>(),
                                                  {.draft = golden::number(pair.at(1))});
      return {{"gamma_star", best.gamma}, {"speedup", best.speedup}};
    }));
  return {{"expected_tokens", tokens}, {"optimal", optimal}};
}

/// P(the child accepted at a node is x), for every x: all drafts times all decisions of the rule.
std::vector<double> accepted_mass(const std::vector<double>& p, const std::vector<double>& q, std::size_t n_children) {
  using namespace sluice;
  const token_row<double> target{row_kind::probabilities, p}, draft{row_kind::probabilities, q};
  std::vector<double> mass(p.size()), scratch(q.size());
  std::vector<token_id> children(n_children);
  support::enumerating_source random;
  do {
    const auto drawn = draw_children(draws_without_replacement{}, std::span(children), std::span(scratch), draft,
                                     std::ssize(p), random);
    expects(!drawn.fault, "token-tree", "draft", drawn.fault.value, drawn.fault.element);
    const node_decision d = recursive_rejection<draws_without_replacement>{}(
        target, draft, std::span<const token_id>(children).first(static_cast<std::size_t>(drawn.n)), random);
    if (d.child >= 0) mass[static_cast<std::size_t>(d.next)] += static_cast<double>(random.probability());
  } while (random.advance());
  return mass;
}

double total(const std::vector<double>& x) {
  double sum = 0;
  for (const double v : x) sum += v;
  return sum;
}

/// Tables are listed by depth, those of one depth by their path read as a number in base V.
json token_tree(const json& in) {
  const auto v = in.at("V").get<std::size_t>(), children = in.at("children").get<std::size_t>();
  const auto depth = in.at("depth").get<std::size_t>();
  std::vector<std::vector<std::vector<double>>> mass(depth);  // [depth][context][token]
  std::size_t contexts = 1;
  for (std::size_t d = 0; d < depth; ++d, contexts *= v)
    for (std::size_t c = 0; c < contexts; ++c)
      mass[d].push_back(accepted_mass(golden::numbers(in.at("target").at(d).at(c)),
                                      golden::numbers(in.at("draft").at(d).at(c)), children));
  std::vector<double> reach{1.0}, at_least{1.0};  // probability of each accepted path, and of its length
  for (std::size_t d = 0; d < depth; ++d) {
    std::vector<double> next;
    for (std::size_t c = 0; c < reach.size(); ++c)
      for (std::size_t x = 0; x < v; ++x) next.push_back(reach[c] * mass[d][c][x]);
    reach = next;
    at_least.push_back(total(reach));
  }
  json law = json::array(), rate = json::array();
  for (std::size_t d = 0; d <= depth; ++d) law.push_back(at_least[d] - (d < depth ? at_least[d + 1] : 0.0));
  if (depth > 1)
    for (const auto& m : mass[1]) rate.push_back(total(m));
  return {{"accept_length_law", law},
          {"expected_tokens", total(at_least)},
          {"root_accepted_mass_per_token", depth > 0 ? golden::reals(mass[0][0]) : json::array()},
          {"child_acceptance_rate", rate}};
}

const golden::kind tokens_kind{"speculative-base", "expected-tokens", expected_tokens};
const golden::kind tree_kind{"speculative-base", "token-tree", token_tree};

}  // namespace
