// Fails for: the k of the root used below it; survivors that are only the paths scanned so far; a residual draw that
// ends the walk although a path carries it; draws of a node that depend on what is drawn below; rows read behind the
// stop.
#include <catch2/catch.hpp>
#include <sluice/speculate/decoder.hpp>
#include <sluice/speculate/k_seq.hpp>
#include <sluice/speculate/recursive_rejection.hpp>
#include <sluice/speculate/token_rejection.hpp>
#include <support/poisoned.hpp>
#include <support/statistics.hpp>

#include "decoder_laws.hpp"
#include "rounds.hpp"

using namespace decoder_laws;
using support::table_language_model;

namespace {

struct round_report {
  double worst = 0;     // of the emitted text, completed by the target
  double accepted = 0;  // expected drafted tokens that were accepted
};
template <class Rule>
round_report one_round(const table_language_model<double>& target, const table_language_model<double>& draft,
                       const Rule& rule, const tree_shape& shape) {
  auto p = target, q = draft;
  const text_t prompt{1, 0};
  const index_t length = shape.depth() + 1;
  round_report report;
  const auto make = [&] { return decoder(p, q, rule, prompt, {.shape = shape, .max_new_tokens = length}, stream{1}); };
  report.worst = difference(emitted_law(make, law_of(p), prompt, length, 1), target_law(law_of(p), prompt, length));
  outcomes_of(
      [&](support::enumerating_source& source) {
        auto d = make();
        enumerated random{&source};
        d.step_with(random);
        return d.stats().accepted;
      },
      [&](std::int64_t accepted, double w) { report.accepted += w * static_cast<double>(accepted); });
  return report;
}

/// The factor of K paths at every node, which is valid only where at least the factor of the survivors.
struct factor_of_root {
  using draft_kind = independent_draws;
  index_t paths;
  template <class S, class Q, class R>
  node_decision decide(const token_row<S>& target, const token_row<Q>& draft, std::span<const token_id> draws,
                       R& random) const {
    const double rho = draws.empty() ? 1 : k_seq{}.plan(target, draft, paths).rho;
    return k_seq{{.policy = rho_policy::fixed, .rho = rho}}.decide(target, draft, draws, random);
  }
};
/// rho of one draft whatever their number: the naive scan, its negative residual clamped.
struct scan_with_rho_one {
  using draft_kind = independent_draws;
  template <class S, class Q, class R>
  node_decision decide(const token_row<S>& target, const token_row<Q>& draft, std::span<const token_id> draws,
                       R& random) const {
    const token_law<S> p(target);
    if (draws.empty()) return {-1, p.draw(random), {}};
    const token_law<Q> q(draft);
    for (index_t i = 0; i < std::ssize(draws); ++i) {
      const token_id x = draws[static_cast<std::size_t>(i)];
      if (bernoulli_ratio(random, p.probability(x), q.probability(x))) return {i, x, {}};
    }
    return {-1, residual_law<S, Q>(p, q).draw(random), {}};
  }
};

}  // namespace

TEST_CASE("SpecTr: rounds of K paths emit the target's text exactly", "[k_seq][decoder][enumeration]") {
  struct size {
    index_t v, paths, length;
  };
  for (const auto& [v, paths, length] : {size{3, 2, 2}, size{2, 3, 2}, size{2, 2, 3}})
    for (std::uint64_t seed = 0; seed < 3; ++seed) {
      const table_language_model<double> p(v, 2, seed, 1.5, seed == 2 ? 0.3 : 0.0), q(v, 2, seed + 60);
      INFO("V " << v << ", K " << paths << ", L " << length << ", seed " << seed);
      const auto ours = one_round(p, q, k_seq{}, independent_paths(paths, length));
      const auto chain = one_round(p, q, k_seq{}, independent_paths(1, length));
      CHECK(ours.worst < 1e-13);
      CHECK(ours.accepted > chain.accepted);
      CHECK(one_round(p, q, k_seq{{.policy = rho_policy::upper_bound}}, independent_paths(paths, length)).worst <
            1e-13);
      CHECK(one_round(p, q, factor_of_root{paths}, independent_paths(paths, length)).worst < 1e-13);
      CHECK(one_round(p, q, token_rejection{}, chain_shape(length)).accepted == Approx(chain.accepted).epsilon(1e-13));
      if (seed == 0) CHECK(one_round(p, q, scan_with_rho_one{}, independent_paths(paths, length)).worst > 1e-3);
    }
}

TEST_CASE("SpecTr: other trees of independent draws, L = 0 and identical paths", "[k_seq][decoder][enumeration]") {
  for (std::uint64_t seed = 10; seed < 13; ++seed) {
    const table_language_model<double> p(2, 2, seed), q(2, 1, seed + 60);
    CHECK(one_round(p, q, k_seq{}, full_tree(2, 2)).worst < 1e-13);
    CHECK(one_round(p, q, k_seq{}, tree_shape({3, 1, 0, 2, 0, 0, 0})).worst < 1e-13);
    const auto nothing = one_round(p, q, k_seq{}, independent_paths(3, 0));
    CHECK(nothing.worst < 1e-13);
    CHECK(nothing.accepted == 0);
    CHECK(one_round(p, p, k_seq{}, independent_paths(2, 2)).accepted == Approx(2).epsilon(1e-13));
  }
  // A draft of single atoms: all paths are one, and accept what the chain accepts.
  const table_language_model<double> p(3, 1, 4), atoms(3, 1, 5, 1.5, 1.0);
  const auto three = one_round(p, atoms, k_seq{}, independent_paths(3, 2)),
             one = one_round(p, atoms, k_seq{}, chain_shape(2));
  CHECK(three.worst < 1e-13);
  CHECK(three.accepted == Approx(one.accepted).epsilon(1e-13));
}

// V = 8, K = 4, L = 3, 200000 rounds: the first emitted token and the pair of the first two.
TEST_CASE("SpecTr: sampled rounds have the target's law", "[k_seq][decoder][statistical][slow]") {
  constexpr int v = 8, n = 200'000;
  table_language_model<float> p(v, 1, 71, 0.7, 0, row_kind::logits), q(v, 1, 72, 0.7, 0, row_kind::logits);
  const text_t prompt{3};
  std::vector<std::uint64_t> first(v, 0), pair(v * v, 0);
  std::vector<double> first_law(v), pair_law(v * v);
  const auto law = [&](token_id x) {
    const text_t text{x};
    const auto row = p.law(text);
    return std::vector<double>(row.begin(), row.end());
  };
  const auto of_first = law(3);
  for (std::size_t x = 0; x < v; ++x) {
    first_law[x] = of_first[x];
    const auto after = law(static_cast<token_id>(x));
    for (std::size_t y = 0; y < v; ++y) pair_law[x * v + y] = of_first[x] * after[y];
  }
  for (int r = 0; r < n; ++r) {
    decoder d(p, q, k_seq{}, prompt, {.shape = independent_paths(4, 3), .max_new_tokens = 2},
              stream{20240607}.derive(static_cast<std::uint64_t>(r)));
    const auto text = d.run().tokens;
    ++first[static_cast<std::size_t>(text[0])];
    ++pair[static_cast<std::size_t>(text[0] * v + text[1])];
  }
  const auto one = support::fits(first, first_law), two = support::fits(pair, pair_law);
  INFO(one.describe());
  INFO(two.describe());
  CHECK(one.passes());
  CHECK(two.passes());
}

TEST_CASE("SpecTr: rows of branches that do not survive are not read", "[k_seq]") {
  const std::vector<double> p{0.1, 0.2, 0.3, 0.4}, q{0.4, 0.3, 0.2, 0.1}, nan = support::poisoned<double>(4);
  drafted_tree tree;
  const token_id drawn[3] = {0, 3, 0}, below[2] = {1, 2}, other[1] = {2};
  tree.add_children(0, drawn);
  const index_t zero = tree.node_of_draw(0, 0), three = tree.node_of_draw(0, 1);
  REQUIRE(tree.node_of_draw(0, 2) == zero);
  tree.add_children(zero, below);
  tree.add_children(three, other);
  int walks_below[2] = {0, 0};
  cursor random{stream{8}};
  for (int i = 0; i < 400; ++i) {
    // All rows but those on the walk are NaN: which ones it needs is found by its own requests.
    std::vector<index_t> asked;
    std::vector<index_t> path(3), ranks(3);
    const auto d = verify_tree(
        k_seq{},
        [&](index_t node) {
          asked.push_back(node);
          return token_row<double>{row_kind::probabilities, p};
        },
        [&](index_t node) {
          const bool leaf = tree.n_children(node) == 0;
          return token_row<double>{row_kind::probabilities, leaf ? nan : q};
        },
        path, ranks, std::as_const(tree), random);
    REQUIRE_FALSE(d.fault);
    // One target row a visited node, each the child of the one before.
    REQUIRE(std::ssize(asked) == d.accepted + 1);
    for (index_t k = 0; k < d.accepted; ++k) {
      CHECK(asked[static_cast<std::size_t>(k + 1)] == path[static_cast<std::size_t>(k)]);
      CHECK(tree.parent(path[static_cast<std::size_t>(k)]) == asked[static_cast<std::size_t>(k)]);
    }
    if (d.accepted > 0) ++walks_below[path[0] == three];
  }
  CHECK(walks_below[0] > 20);
  CHECK(walks_below[1] > 20);
}
