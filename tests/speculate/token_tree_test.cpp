// Fails for: a budget that counts the root; children of rank k + 1 without one of rank k; a depth bound off by one;
// shapes numbered depth first; a walk that reads rows behind the stop, or a draft row at a leaf; equal draws that
// become several nodes, or are dropped from the draws; a walk that takes the index of a draw for that of a child.
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <limits>
#include <sluice/random/stream.hpp>
#include <sluice/random/uniform.hpp>
#include <sluice/speculate/recursive_rejection.hpp>
#include <sluice/speculate/token_tree.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <vector>

using namespace sluice;
using counts = std::vector<index_t>;

TEST_CASE("token_tree: shapes and their node counts", "[token_tree]") {
  CHECK(chain_shape(0).n_drafted() == 0);
  CHECK(chain_shape(5) == tree_shape({1, 1, 1, 1, 1, 0}));
  CHECK(full_tree(1, 4) == chain_shape(4));
  CHECK(independent_paths(1, 4) == chain_shape(4));
  CHECK(independent_paths(3, 2) == tree_shape({3, 1, 1, 1, 0, 0, 0}));
  CHECK(full_tree(2, 4).n_drafted() == 30);
  CHECK(full_tree(4, 4).n_drafted() == 340);
  CHECK(full_tree(2, 8).n_drafted() == 510);
  CHECK(full_tree(3, 0).n_drafted() == 0);
  CHECK(independent_paths(3, 0).n_drafted() == 0);
  const tree_shape t({2, 1, 3, 0, 0, 1, 0, 0});
  CHECK(t.depth() == 3);
  CHECK(t.most_children() == 3);
  CHECK(t.n_internal() == 4);
  CHECK(t.widest_level() == 4);
  CHECK(full_tree(2, 4).widest_level() == 16);
  CHECK(independent_paths(3, 5).widest_level() == 3);
  CHECK(tree_shape().widest_level() == 1);
  const counts parent{-1, 0, 0, 1, 2, 2, 2, 5}, depth{0, 1, 1, 2, 2, 2, 2, 3};
  for (index_t i = 0; i < 8; ++i) {
    CHECK(t.parent(i) == parent[static_cast<std::size_t>(i)]);
    CHECK(t.depth(i) == depth[static_cast<std::size_t>(i)]);
  }
  CHECK(t.first_child(2) == 4);
}

namespace {

/// Sequoia's value by trying every shape: ranks in order, b nodes below the root.
double best_by_search(const std::vector<double>& a, index_t budget, index_t depth) {
  double best = 1;
  const std::function<void(std::size_t, index_t, double)> place = [&](std::size_t k, index_t left, double value) {
    best = std::max(best, value);
    if (k == a.size() || depth == 0) return;
    for (index_t c = 1; c <= left; ++c) place(k + 1, left - c, value + a[k] * best_by_search(a, c - 1, depth - 1));
  };
  place(0, budget, 1);
  return best;
}

/// Expected tokens of a shape under independent acceptance by rank.
double value_of(const tree_shape& t, const std::vector<double>& a, index_t node = 0) {
  double value = 1;
  for (index_t k = 0; k < t.n_children(node); ++k)
    value += a[static_cast<std::size_t>(k)] * value_of(t, a, t.first_child(node) + k);
  return value;
}

}  // namespace

TEST_CASE("token_tree: the budgeted tree is the best of all shapes", "[token_tree]") {
  const std::vector<std::vector<double>> acceptances{{0.6, 0.2, 0.1},      {0.4, 0.3},      {0.9},
                                                     {0.3, 0.3, 0.3, 0.1}, {0.1, 0.5, 0.2}, {0.5, 0.0, 0.3}};
  for (const auto& a : acceptances)
    for (index_t budget = 0; budget <= 8; ++budget)
      for (index_t depth = 0; depth <= 4; ++depth) {
        const tree_plan plan = best_tree(a, budget, depth);
        INFO("budget " << budget << ", depth " << depth << ", ranks " << a.size());
        CHECK(plan.expected_tokens == Approx(best_by_search(a, budget, depth)).epsilon(1e-12));
        CHECK(value_of(plan.shape, a) == Approx(plan.expected_tokens).epsilon(1e-12));
        CHECK(plan.shape.n_drafted() <= budget);
        CHECK(plan.shape.depth() <= depth);
        CHECK(plan.shape.most_children() <= std::ssize(a));
      }
}

namespace {

using by_number = std::vector<std::vector<double>>;  // [n - 1][k]

double best_by_search(const by_number& a, index_t budget, index_t depth) {
  double best = 1;
  if (depth == 0) return best;
  for (std::size_t n = 1; n <= a.size(); ++n) {
    const std::function<void(std::size_t, index_t, double)> place = [&](std::size_t k, index_t left, double value) {
      if (k == n) return static_cast<void>(best = std::max(best, value));
      for (index_t c = 1; c <= left; ++c)
        place(k + 1, left - c, value + a[n - 1][k] * best_by_search(a, c - 1, depth - 1));
    };
    place(0, budget, 1);
  }
  return best;
}
double value_of(const tree_shape& t, const by_number& a, index_t node = 0) {
  double value = 1;
  for (index_t k = 0, n = t.n_children(node); k < n; ++k)
    value += a[static_cast<std::size_t>(n - 1)][static_cast<std::size_t>(k)] * value_of(t, a, t.first_child(node) + k);
  return value;
}

}  // namespace

TEST_CASE("token_tree: the budgeted tree for acceptances by number of draws", "[token_tree]") {
  const std::vector<by_number> all{{{0.7}, {0.55, 0.3}, {0.55, 0.18, 0.2}},
                                   {{0.3}, {0.2, 0.6}},
                                   {{0.1}, {0.1, 0.1}, {0.5, 0.0, 0.4}},
                                   {{0.9}},
                                   {{0.5}, {0.0, 0.5}, {0.3, 0.2, 0.0}}};
  for (const by_number& a : all)
    for (index_t budget = 0; budget <= 7; ++budget)
      for (index_t depth = 0; depth <= 4; ++depth) {
        const tree_plan plan = best_tree(
            [&](index_t n, index_t k) { return a[static_cast<std::size_t>(n - 1)][static_cast<std::size_t>(k)]; },
            std::ssize(a), budget, depth);
        INFO("budget " << budget << ", depth " << depth << ", draws " << a.size());
        CHECK(plan.expected_tokens == Approx(best_by_search(a, budget, depth)).epsilon(1e-12));
        CHECK(value_of(plan.shape, a) == Approx(plan.expected_tokens).epsilon(1e-12));
        CHECK(plan.shape.n_drafted() <= budget);
        CHECK(plan.shape.depth() <= depth);
      }
  // if the number of draws does not matter it is the other programme
  const std::vector<double> rank{0.55, 0.2, 0.1, 0.05};
  const auto by_rank = [&](index_t, index_t k) { return rank[static_cast<std::size_t>(k)]; };
  for (index_t budget = 0; budget <= 40; ++budget)
    CHECK(best_tree(by_rank, 4, budget, 8).expected_tokens ==
          Approx(best_tree(rank, budget, 8).expected_tokens).epsilon(1e-12));
}

TEST_CASE("token_tree: one rank is a chain, worthless ranks are not drafted", "[token_tree]") {
  CHECK(best_tree(std::vector<double>{0.8}, 6, 10).shape == chain_shape(6));
  CHECK(best_tree(std::vector<double>{0.8}, 6, 3).shape == chain_shape(3));
  CHECK(best_tree(std::vector<double>{1.0, 0.0}, 4, 9).expected_tokens == 5);
  CHECK(best_tree(std::vector<double>{0.0, 0.0}, 4, 9).shape.n_drafted() == 0);
  CHECK(best_tree({}, 4, 9).shape.n_drafted() == 0);
  // larger budgets never lose, and a full tree of the same size is never better
  const std::vector<double> a{0.55, 0.2, 0.1, 0.05};
  double last = 0;
  for (index_t budget = 0; budget <= 64; ++budget) {
    const double v = best_tree(a, budget, 16).expected_tokens;
    CHECK(v >= last);
    last = v;
  }
  CHECK(best_tree(a, 30, 16).expected_tokens >= value_of(full_tree(2, 4), a));
}

TEST_CASE("token_tree: a drafted tree keeps siblings together and allocates once", "[token_tree]") {
  drafted_tree t;
  t.reserve(7);
  const std::vector<token_id> two{5, 6}, one{7};
  CHECK(support::allocations_in([&] {
          for (int round = 0; round < 3; ++round) {
            t.clear(9);
            t.add_children(0, two);
            t.add_children(1, one);
            t.add_children(2, two);
            t.add_children(3, two);
          }
        }) == 0);
  CHECK(t.n_drafted() == 7);
  CHECK(t.token(0) == 9);
  CHECK(t.children(2)[1] == 6);
  CHECK(t.children(5).empty());
  CHECK(t.parent(7) == 3);
  CHECK(t.depth(7) == 3);
  CHECK(t.n_draws() == 7);
}

TEST_CASE("token_tree: equal draws are one node and stay draws", "[token_tree]") {
  drafted_tree t;
  t.reserve(9);
  const std::vector<token_id> root{5, 3, 5, 5, 3, 8}, below{5, 5, 5};
  CHECK(support::allocations_in([&] {
          t.clear(5);  // the root's own token is no sibling
          t.add_children(0, root);
          t.add_children(2, below);
        }) == 0);
  const auto listed = [](std::span<const token_id> x) { return std::vector<token_id>(x.begin(), x.end()); };
  CHECK(t.size() == 5);
  CHECK(t.n_drafted() == 4);
  CHECK(t.n_draws() == 9);
  CHECK(listed(t.draws(0)) == root);
  CHECK(listed(t.children(0)) == std::vector<token_id>{5, 3, 8});
  const counts nodes{1, 2, 1, 1, 2, 3};
  for (index_t i = 0; i < 6; ++i) CHECK(t.node_of_draw(0, i) == nodes[static_cast<std::size_t>(i)]);
  CHECK(t.n_draws(0) == 6);
  CHECK(t.n_children(0) == 3);
  CHECK(t.n_draws(1) == 0);
  CHECK(t.draws(1).empty());
  CHECK(listed(t.draws(2)) == below);
  CHECK(listed(t.children(2)) == std::vector<token_id>{5});
  CHECK(t.first_draw(2) == 6);
  for (index_t i = 0; i < 3; ++i) CHECK(t.node_of_draw(2, i) == 4);
  CHECK(t.parent(4) == 2);
  CHECK(t.depth(4) == 2);
}

TEST_CASE("token_tree: the walk goes from a draw to its node", "[token_tree]") {
  // a rule that names the last draw carrying token 7
  struct last_seven {
    node_decision decide(const token_row<double>&, const token_row<double>&, std::span<const token_id> draws,
                         cursor&) const {
      for (index_t i = std::ssize(draws); i-- > 0;)
        if (draws[static_cast<std::size_t>(i)] == 7) return {i, 7, {}};
      return {-1, 1, {}};
    }
  };
  drafted_tree t;
  const std::vector<token_id> root{2, 2, 7, 2, 7}, below{7, 7, 0};
  t.add_children(0, root);
  t.add_children(1, below);
  t.add_children(2, below);
  std::vector<index_t> path(2), ranks(2);
  cursor random{stream{1}};
  const auto no_row = [](index_t) { return token_row<double>{row_kind::probabilities, {}}; };
  const tree_decision d = verify_tree(last_seven{}, no_row, no_row, path, ranks, t, random);
  CHECK(d.accepted == 2);
  CHECK(path == counts{2, 5});
  CHECK(ranks == counts{4, 1});
  CHECK(d.next == 1);
}

TEST_CASE("token_tree: the walk reads nothing behind its stop", "[token_tree]") {
  // the target is certain of token 1, then 2; all other rows would fail if they were read
  const std::vector<double> one{0, 1, 0}, two{0, 0, 1}, zero{1, 0, 0}, draft{0.25, 0.5, 0.25};
  drafted_tree t;
  const std::vector<token_id> children{0, 1};
  t.add_children(0, children);
  t.add_children(1, children);
  t.add_children(2, children);
  std::vector<index_t> path(2), ranks(2), target_reads, draft_reads;
  const auto row = [](const std::vector<double>& v) { return token_row<double>{row_kind::probabilities, v}; };
  cursor random{stream{1}};
  const auto walk = [&](const std::vector<double>& at_second) {
    target_reads.clear(), draft_reads.clear();
    return verify_tree(
        recursive_rejection<draws_without_replacement>{},
        [&](index_t i) {
          target_reads.push_back(i);
          return row(i == 0 ? one : i == 2 ? at_second : two);
        },
        [&](index_t i) {
          draft_reads.push_back(i);
          return row(draft);
        },
        path, ranks, t, random);
  };
  tree_decision d = walk(two);
  CHECK(d.accepted == 1);
  CHECK(path[0] == 2);
  CHECK(d.next == 2);
  CHECK(target_reads == counts{0, 2});
  CHECK(draft_reads == counts{0, 2});
  d = walk(zero);
  CHECK(d.accepted == 2);
  CHECK(path[1] == 5);
  CHECK(d.next == 2);  // the bonus, drawn at the leaf
  CHECK(target_reads == counts{0, 2, 5});
  CHECK(draft_reads == counts{0, 2});
}

TEST_CASE("token_tree: a fault names its node", "[token_tree]") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> one{0, 1}, bad{0.5, nan}, draft{0.5, 0.5};
  drafted_tree t;
  const std::vector<token_id> child{1};
  t.add_children(0, child);
  std::vector<index_t> path(1), ranks(1);
  cursor random{stream{1}};
  const auto row = [](const std::vector<double>& v) { return token_row<double>{row_kind::probabilities, v}; };
  const tree_decision d = verify_tree(
      recursive_rejection<independent_draws>{}, [&](index_t i) { return row(i == 0 ? one : bad); },
      [&](index_t) { return row(draft); }, path, ranks, t, random);
  CHECK(std::string(d.fault.argument) == "target");
  CHECK(d.fault.row == 1);
  CHECK(d.fault.element == 1);
  CHECK(d.next == -1);
  CHECK(d.accepted == 0);
}

TEST_CASE("token_tree: bad input", "[token_tree]") {
  const auto shape = [](counts c) { return tree_shape(std::move(c)); };
  SLUICE_CHECK_THROWS(shape({}), "tree_shape", "n_children.size", -1);
  SLUICE_CHECK_THROWS(shape({1}), "tree_shape", "n_children", 0);
  SLUICE_CHECK_THROWS(shape({1, -1}), "tree_shape", "n_children", 1);
  SLUICE_CHECK_THROWS(shape({0, 0}), "tree_shape", "n_children", 1);
  SLUICE_CHECK_THROWS(shape({1, 0, 0}), "tree_shape", "n_children", 2);
  SLUICE_CHECK_THROWS(chain_shape(-1), "chain_shape", "gamma", -1);
  SLUICE_CHECK_THROWS(independent_paths(0, 2), "independent_paths", "n_paths", -1);
  SLUICE_CHECK_THROWS(independent_paths(2, -1), "independent_paths", "depth", -1);
  SLUICE_CHECK_THROWS(full_tree(0, 2), "full_tree", "n_children", -1);
  SLUICE_CHECK_THROWS(full_tree(2, -1), "full_tree", "depth", -1);
  SLUICE_CHECK_THROWS(full_tree(2, 60), "full_tree", "depth", -1);
  const std::vector<double> a{0.5, 0.4}, negative{0.5, -0.1}, many{0.7, 0.7}, nan{std::nan("")};
  SLUICE_CHECK_THROWS(best_tree(a, -1, 2), "best_tree", "budget", -1);
  SLUICE_CHECK_THROWS(best_tree(a, 2, -1), "best_tree", "depth", -1);
  SLUICE_CHECK_THROWS(best_tree(negative, 2, 2), "best_tree", "acceptance", 1);
  SLUICE_CHECK_THROWS(best_tree(nan, 2, 2), "best_tree", "acceptance", 0);
  SLUICE_CHECK_THROWS(best_tree(many, 2, 2), "best_tree", "acceptance.sum", -1);
  const auto good = [](index_t, index_t) { return 0.2; };
  const auto bad = [](index_t n, index_t k) { return n == 2 && k == 1 ? 1.5 : 0.2; };
  SLUICE_CHECK_THROWS(best_tree(good, 0, 2, 2), "best_tree", "width", -1);
  SLUICE_CHECK_THROWS(best_tree(good, 2, -1, 2), "best_tree", "budget", -1);
  SLUICE_CHECK_THROWS(best_tree(good, 2, 2, -1), "best_tree", "depth", -1);
  SLUICE_CHECK_THROWS(best_tree(bad, 2, 2, 2), "best_tree", "acceptance", 1);
  drafted_tree t;
  const std::vector<token_id> one{1};
  t.add_children(0, one);
  SLUICE_CHECK_THROWS(t.add_children(0, one), "drafted_tree::add_children", "node", -1);
  SLUICE_CHECK_THROWS(t.add_children(2, one), "drafted_tree::add_children", "node", -1);
  const std::vector<double> p{0.5, 0.5};
  const auto row = [&](index_t) { return token_row<double>{row_kind::probabilities, p}; };
  cursor random{stream{1}};
  std::vector<index_t> place(1);
  SLUICE_CHECK_THROWS(verify_tree(exact_match{}, row, row, {}, place, t, random), "verify_tree", "path.size", -1);
  SLUICE_CHECK_THROWS(verify_tree(exact_match{}, row, row, place, {}, t, random), "verify_tree", "ranks.size", -1);
}
