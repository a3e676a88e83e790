// Trees at equal node budgets: tokens a target call when a round may draft 8, 16, 32 or 64 nodes, of chains, of
// independent paths and of trees, each with the rules that are exact for its draws; and the controller that chooses the
// shape, with costs that are assumed, since rows of n-gram models cost the same per position.
#include <sluice/speculate/draft_length.hpp>
#include <sluice/speculate/draft_shape.hpp>
#include <sluice/speculate/k_seq.hpp>
#include <sluice/speculate/optimal_multidraft.hpp>
#include <sluice/speculate/token_tree.hpp>

#include "decoding_world.hpp"

namespace {

using namespace bench::speculation;

constexpr const char* slug = "mdsd";

/// Types of this file, so that their exact acceptance is this file's too.
struct seq_rule : k_seq {};
struct hybrid_rule : hybrid_verification<> {};

}  // namespace

template <>
struct bench::speculation::exact_acceptance<seq_rule> {
  template <class Round>
  static void of(const seq_rule& rule, std::span<double> out, const Round& round, index_t node) {
    const std::span<const token_id> draws = round.tree().draws(node);
    const token_law p(round.target_law(node));
    const token_law q(round.draft_law(node));
    const double rho = rule.plan(round.target_law(node), round.draft_law(node), std::ssize(draws)).rho;
    double left = 1;
    for (std::size_t i = 0; i < draws.size(); ++i) {
      const double a = acceptance_probability(p.probability(draws[i]), rho * q.probability(draws[i]));
      out[i] = left * a;
      left *= 1 - a;
    }
  }
};
template <>
struct bench::speculation::exact_acceptance<hybrid_rule> {
  template <class Round>
  static void of(const hybrid_rule&, std::span<double> out, const Round& round, index_t node) {
    const std::span<const token_id> draws = round.tree().draws(node), fixed = draws.first(draws.size() - 1);
    dense_laws laws(round, node);
    hybrid_draft_law(laws.q, laws.q, fixed);
    const auto x = static_cast<std::size_t>(draws.back());
    out[fixed.size()] = acceptance_probability(laws.p[x], laws.q[x]);
    std::vector<double> residual(laws.p.size());
    const double mass = hybrid_residual(residual, laws.p, laws.q, fixed);
    for (std::size_t k = 0; k < fixed.size(); ++k)
      out[k] = mass > 0 ? (1 - out[fixed.size()]) * laws.p[static_cast<std::size_t>(fixed[k])] / mass : 0.0;
  }
};

namespace {

/// Drafts full trees of 1, 2, ... children a node in turn and counts which draw is accepted.
struct survey {
  static constexpr index_t width = 8;
  std::vector<tree_shape> all;
  std::vector<double> tests = std::vector<double>(width + 1), accepted = std::vector<double>((width + 1) * width);
  std::size_t now = 0;
  survey() {
    for (index_t n = 1; n <= width; ++n) all.push_back(full_tree(n, 2));
  }
  const tree_shape& shape() const { return all[now]; }
  std::span<const tree_shape> shapes() const { return all; }
  void update(const round_outcome& o) {
    now = (now + 1) % all.size();
    for (const node_test& t : o.tests) {
      tests[static_cast<std::size_t>(t.draws)] += 1;
      if (t.rank >= 0) accepted[static_cast<std::size_t>(t.draws * width + t.rank)] += 1;
    }
  }
  double acceptance(index_t n, index_t k) const {
    return accepted[static_cast<std::size_t>(n * width + k)] / std::max(1.0, tests[static_cast<std::size_t>(n)]);
  }
  std::vector<double> state() const { return {}; }
  void restore(std::span<const double>) {}
};

/// The best tree within a budget for the acceptances by number of draws and rank that a survey measures.
template <class Rule, index_t Budget>
tree_shape surveyed(const world& w) {
  lm target(w.large), draft(w.small);
  survey s;
  for (std::size_t i = 0; i < 40; ++i) {
    decoder d(target, draft, Rule{}, processing<unprocessed>{}, s, w.prompt(1000 + i),
              {.max_new_tokens = tokens_per_request}, stream{99}.derive(i));
    while (!d.finished()) d.step();
    s = d.controller();
  }
  return best_tree([&](index_t n, index_t k) { return s.acceptance(n, k); }, survey::width, Budget, 16).shape;
}

template <index_t K, index_t L>
tree_shape paths(const world&) {
  return independent_paths(K, L);
}

template <index_t Budget, class Rule>
void add_row(const std::string& pair, const world& (*text)(), const std::string& what, Rule rule,
             tree_shape (*shape)(const world&)) {
  const auto sized = [](auto variant) {
    return [variant](benchmark::State& state) {
      variant(state);
      state.counters["nodes"] = static_cast<double>(Budget);
    };
  };
  named(slug, pair + ", " + what + ", nodes = " + std::to_string(Budget), "")
      .naive(sized(one_call_a_token(text, -1)))
      .sluice(sized(decoded<small_model>(text, rule, shape, -1.0 - static_cast<double>(Budget))));
}

template <index_t Budget, index_t K, index_t L, index_t FullDepth>
void add_budget(const std::string& pair, const world& (*text)()) {
  add_row<Budget>(pair, text, "chain, token rejection", token_rejection{}, chain<Budget>);
  add_row<Budget>(pair, text, "chain, block verification", block_verification{}, chain<Budget>);
  add_row<Budget>(pair, text, "independent paths, recursive rejection", with_replacement{}, paths<K, L>);
  add_row<Budget>(pair, text, "independent paths, k-SEQ", seq_rule{}, paths<K, L>);
  add_row<Budget>(pair, text, "two children a node without replacement, recursive rejection", without_replacement{},
                  full<2, FullDepth>);
  add_row<Budget>(pair, text, "planned tree without replacement, recursive rejection", without_replacement{},
                  planned<Budget>);
  add_row<Budget>(pair, text, "two children a node, hybrid", hybrid_rule{}, full<2, FullDepth>);
  add_row<Budget>(pair, text, "planned tree, hybrid", hybrid_rule{}, surveyed<hybrid_rule, Budget>);
}

/// What rounds cost in the rows of the controller: every drafted node a twentieth of a target call on one position.
struct assumed_costs {
  double draft_call = 0.1, node = 0.05;
  adaptive_draft_shape_options options(shape_family family) const {
    adaptive_draft_shape_options o{.family = family, .gamma_max = 12, .width = 4, .budget = 32};
    o.draft_cost = draft_call;
    for (int b = 0; b <= 32; ++b) o.target_curve.push_back(1 + node * b);
    return o;
  }
};

/// Requests one after the other; what the controller learned goes on to the next.
template <class Rule, class Controller>
auto with_controller(const world& (*text)(), Rule rule, Controller controller, index_t depth, assumed_costs costs,
                     const char* who = nullptr) {
  return [=](benchmark::State& state) {
    const world& w = text();
    const auto run = [&](std::size_t requests) {
      lm target(w.large), draft(w.small);
      measured m;
      Controller c = controller;
      for (std::size_t i = 0; i < requests; ++i) {
        std::vector<token_id> prompt = w.prompt(i);
        decoder d(target, draft, rule, processing<unprocessed>{}, c, prompt,
                  {.shape = chain_shape(depth), .max_new_tokens = tokens_per_request}, stream{20240607}.derive(i));
        while (!d.finished()) d.step();
        add(m.stats, d.stats());
        c = d.controller();
        double bits = 0;
        for (const token_id x : d.new_tokens()) {
          bits += std::log(w.large.probability(x, prompt));
          prompt.push_back(x);
        }
        m.likelihood.push_back(bits / static_cast<double>(tokens_per_request));
      }
      return m;
    };
    for (auto _ : state) benchmark::DoNotOptimize(run(5).stats.tokens);
    const measured m = run(n_requests());
    const auto tokens = static_cast<double>(m.stats.tokens), calls = static_cast<double>(m.stats.target_calls);
    state.counters["work"] = (calls + costs.node * static_cast<double>(m.stats.nodes_drafted) +
                              costs.draft_call * static_cast<double>(m.stats.draft_calls)) /
                             tokens;
    state.counters["quality"] = likelihood_difference(m, plain(w));
    char note[128];
    std::snprintf(note, sizeof note, "%s%s%.2f tokens a call, %.1f nodes drafted a call", who == nullptr ? "" : who,
                  who == nullptr ? "" : ": ", tokens / calls, static_cast<double>(m.stats.nodes_drafted) / calls);
    state.SetLabel(note);
  };
}

void add_controlled(const std::string& pair, const world& (*text)(), const assumed_costs& costs) {
  auto row = named(slug, pair, "");
  row.unit = "target calls on one position, per token";
  adaptive_draft_length_options length{.gamma_max = 12, .draft_cost = costs.draft_call};
  length.target_curve = costs.options(shape_family::trees).target_curve;
  row.naive(one_call_a_token(text, -1))
      .sluice(with_controller(text, hybrid_rule{}, adaptive_draft_shape(costs.options(shape_family::trees)), 0, costs))
      .peer("adaptive length of a chain",
            with_controller(text, token_rejection{}, adaptive_draft_length(length), 12, costs, "length only"));
}

const bool registered = [] {
  add_budget<8, 2, 4, 2>("bytes 6 from 4", bytes_from_4);
  add_budget<16, 4, 4, 3>("bytes 6 from 4", bytes_from_4);
  add_budget<32, 4, 8, 4>("bytes 6 from 4", bytes_from_4);
  add_budget<64, 8, 8, 5>("bytes 6 from 4", bytes_from_4);
  add_budget<16, 4, 4, 3>("bytes 6 from 3", bytes_from_3);
  add_budget<64, 8, 8, 5>("bytes 6 from 3", bytes_from_3);
  add_controlled("bytes 6 from 4, adaptive shape, a node costs 0.05 and a draft call 0.1", bytes_from_4, {});
  add_controlled("bytes 6 from 3, adaptive shape, a node costs 0.05 and a draft call 0.1", bytes_from_3, {});
  add_controlled("bytes 6 from 3, adaptive shape, a node costs 0.5 and a draft call 0.9", bytes_from_3, {0.9, 0.5});
  return true;
}();

}  // namespace
