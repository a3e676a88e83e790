// Fails for: typed drafts that differ from draw_children, or are verified by another decision; tokens beside a fault.
#include <catch2/catch.hpp>
#include <limits>
#include <sluice/random/stream.hpp>
#include <sluice/speculate/drafted.hpp>
#include <sluice/speculate/k_seq.hpp>
#include <sluice/speculate/optimal_multidraft.hpp>
#include <sluice/speculate/recursive_rejection.hpp>
#include <sluice/speculate/weighted_selection.hpp>
#include <vector>

using namespace sluice;

namespace {

template <class Rule>
void check_same(const Rule& rule) {
  using kind = typename Rule::draft_kind;
  const std::vector<double> p{0.1, 0.4, 0.2, 0.3}, q{0.3, 0.2, 0.4, 0.1};
  const token_row<double> target{row_kind::probabilities, p}, draft{row_kind::probabilities, q};
  for (std::uint64_t id = 0; id < 50; ++id) {
    std::vector<token_id> a(3), b(3);
    std::vector<double> scratch(4);
    cursor x{stream(1, id)}, y{stream(1, id)};
    const drafted<kind> typed = draft_node(kind{}, std::span(a), std::span(scratch), draft, 4, x);
    const drawn_children drawn = draw_children(kind{}, std::span(b), std::span(scratch), draft, 4, y);
    b.resize(static_cast<std::size_t>(drawn.n));
    CHECK(std::vector<token_id>(typed.tokens().begin(), typed.tokens().end()) == b);
    const node_decision d = verify_node(rule, target, draft, typed, x), e = rule.decide(target, draft, b, y);
    CHECK(d.child == e.child);
    CHECK(d.next == e.next);
    CHECK(x.state().position == y.state().position);

    drafted_tree_of<kind> tree;
    tree.reserve(3);
    tree.clear(2);
    tree.add_children(0, typed);
    CHECK(tree.tree().token(0) == 2);
    drafted_tree untyped;
    untyped.add_children(0, b);
    index_t path[1], ranks[1];
    cursor u{stream(2, id)}, v{stream(2, id)};
    const auto row = [](const token_row<double>& r) { return [&r](index_t) { return r; }; };
    const auto one = verify_tree(rule, row(target), row(draft), std::span(path), std::span(ranks), tree, u);
    const auto other = verify_tree(rule, row(target), row(draft), std::span(path), std::span(ranks), untyped, v);
    CHECK(one.accepted == other.accepted);
    CHECK(one.next == other.next);
  }
}

}  // namespace

TEST_CASE("typed drafts are verified as their tokens are", "[speculate]") {
  check_same(hybrid_verification<>{});
  check_same(recursive_rejection<draws_without_replacement>{});
  check_same(recursive_rejection<top_draws>{});
  check_same(weighted_selection{});
  check_same(k_seq{});
  static_assert(!std::default_initializable<drafted<hybrid_draws>>);  // only draft_node makes them
}

TEST_CASE("typed drafts of a bad row are none", "[speculate]") {
  const std::vector<double> bad{0.5, std::numeric_limits<double>::quiet_NaN()};
  std::vector<token_id> out(2);
  cursor random{stream{1}};
  const auto d = draft_node(hybrid_draws{}, std::span(out), std::span<double>{},
                            token_row<double>{row_kind::probabilities, bad}, 2, random);
  CHECK(d.tokens().empty());
  CHECK(std::string(d.fault().argument) == "draft");
  CHECK(d.fault().element == 1);
}
