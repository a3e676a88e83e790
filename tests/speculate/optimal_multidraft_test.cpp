// Fails for: q for q' in the test; a residual that takes q' from the fixed tokens, or leaves them out; 1 - q(T) of all
// drafts instead of the fixed ones; fixed tokens from the target's order; ties to the higher id; a fixed token of
// probability zero; an emitted fixed token that is not reported as accepted; a draw that hits a fixed token.
#include <catch2/catch.hpp>
#include <limits>
#include <map>
#include <numeric>
#include <sluice/speculate/optimal_multidraft.hpp>
#include <sluice/speculate/token_tree.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <support/scripted.hpp>

#include "decoder_laws.hpp"
#include "rounds.hpp"

using namespace sluice;
using rounds::format;
using tokens = std::vector<token_id>;

/// A kind of the user's: two tokens that do not depend on the row, and one draw from the rest.
namespace users {
struct first_two {};
template <class S, class R>
drawn_children draw_children(first_two, std::span<token_id> out, std::span<double>, const token_row<S>& row,
                             index_t vocabulary_size, R& random) {
  static constexpr token_id fixed[2] = {1, 0};
  return draw_beside(out, std::span(fixed).first(std::min<std::size_t>(2, out.size() - 1)), row, vocabulary_size,
                     random);
}
}  // namespace users

namespace {

struct node_law {
  std::vector<double> law;
  double accepted = 0;
  int faults = 0;
};

/// The exact law of what a node emits: all drafts times all decisions.
template <class Kind, class Rule, class S, class Q>
node_law enumerate_node(const Rule& rule, const token_row<S>& p, const token_row<Q>& q, index_t v, index_t n) {
  node_law out{std::vector<double>(static_cast<std::size_t>(v)), 0, 0};
  struct result {
    node_decision d;
    tokens x;
    row_fault drawing;
  };
  rounds::all_outcomes(
      [&](auto& random) {
        result r{{}, tokens(static_cast<std::size_t>(n)), {}};
        const drawn_children drawn = draw_children(Kind{}, std::span(r.x), std::span<double>{}, q, v, random);
        r.drawing = drawn.fault;
        r.x.resize(static_cast<std::size_t>(drawn.n));
        r.d = rule.decide(p, q, r.x, random);
        return r;
      },
      [&](const result& r, double w) {
        const bool child_ok = r.d.child < 0 ? std::find(r.x.begin(), r.x.end(), r.d.next) == r.x.end()
                                            : r.x[static_cast<std::size_t>(r.d.child)] == r.d.next;
        if (r.drawing || r.d.fault || r.d.next < 0 || !child_ok) return static_cast<void>(++out.faults);
        out.law[static_cast<std::size_t>(r.d.next)] += w;
        if (r.d.child >= 0) out.accepted += w;
      });
  return out;
}

double worst(const std::vector<double>& a, const std::vector<double>& b) {
  double w = 0;
  for (std::size_t x = 0; x < a.size(); ++x) w = std::max(w, std::abs(a[x] - b[x]));
  return w;
}

/// T by a full sort.
tokens by_sorting(const std::vector<double>& q, index_t count) {
  tokens order(q.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](token_id a, token_id b) {
    return q[static_cast<std::size_t>(a)] > q[static_cast<std::size_t>(b)];
  });
  while (!order.empty() && q[static_cast<std::size_t>(order.back())] == 0) order.pop_back();
  order.resize(std::min(order.size(), static_cast<std::size_t>(count)));
  return order;
}

/// p(T) + sum off T of min(p, q'), written out.
double best_acceptance(const std::vector<double>& p, const std::vector<double>& q, const tokens& fixed) {
  double left = 0, sum = 0;
  const auto is_fixed = [&](std::size_t x) {
    return std::find(fixed.begin(), fixed.end(), static_cast<token_id>(x)) != fixed.end();
  };
  for (std::size_t x = 0; x < q.size(); ++x) left += is_fixed(x) ? 0 : q[x];
  for (std::size_t x = 0; x < q.size(); ++x) sum += is_fixed(x) ? p[x] : left > 0 ? std::min(p[x], q[x] / left) : 0;
  return sum;
}

template <class S, class Q>
void check_exact(double zeros) {
  std::uint64_t id = 0;
  for (index_t v = 1; v <= 5; ++v)
    for (index_t n = 1; n <= v + 1; ++n)
      for (const format f : {format{row_kind::probabilities, false}, format{row_kind::logits, true}})
        for (const format g : {format{row_kind::logits, false}, format{row_kind::probabilities, true}}) {
          const auto p = rounds::store<S>(rounds::random_law(v, stream(61, ++id), zeros), f);
          const auto q = rounds::store<Q>(rounds::random_law(v, stream(62, id), zeros), g);
          INFO("v " << v << ", n " << n << ", id " << id);
          const auto ours = enumerate_node<hybrid_draws>(hybrid_verification<>{}, p.view(), q.view(), v, n);
          CHECK(ours.faults == 0);
          CHECK(worst(ours.law, p.law) < 1e-14);
          CHECK(ours.accepted == Approx(best_acceptance(p.law, q.law, by_sorting(q.law, n - 1))).epsilon(1e-13));
          if (v < 2) continue;
          const auto user =
              enumerate_node<users::first_two>(hybrid_verification<users::first_two>{}, p.view(), q.view(), v, n);
          const tokens set = n == 1 ? tokens{} : n == 2 ? tokens{1} : tokens{0, 1};
          CHECK(user.faults == 0);
          CHECK(worst(user.law, p.law) < 1e-14);
          CHECK(user.accepted == Approx(best_acceptance(p.law, q.law, set)).epsilon(1e-13));
        }
}

}  // namespace

TEST_CASE("hybrid verification emits the target's law and accepts the optimum", "[speculate][enumeration]") {
  check_exact<double, double>(0.0);
  check_exact<double, double>(0.4);
  check_exact<float, double>(0.3);
  check_exact<float, float>(0.0);
}

TEST_CASE("hybrid verification with one draft is token rejection", "[speculate][enumeration]") {
  const auto p = rounds::store<double>(rounds::random_law(4, stream(1), 0.2), {});
  const auto q = rounds::store<double>(rounds::random_law(4, stream(2)), {});
  const auto hybrid = enumerate_node<hybrid_draws>(hybrid_verification<>{}, p.view(), q.view(), 4, 1);
  const auto single = enumerate_node<independent_draws>(token_rejection{}, p.view(), q.view(), 4, 1);
  CHECK(worst(hybrid.law, single.law) < 1e-15);
  CHECK(hybrid.accepted == Approx(acceptance_rate(p.law, q.law)).epsilon(1e-13));
  CHECK(hybrid.accepted == Approx(single.accepted).epsilon(1e-14));
  for (token_id x = 0; x < 4; ++x)  // word by word
    for (std::uint64_t k = 0; k < 50; ++k) {
      cursor a{stream(3, k)}, b{stream(3, k)};
      const auto h = hybrid_verification<>{}.decide(p.view(), q.view(), std::span(&x, 1), a);
      const auto s = token_rejection{}.decide(p.view(), q.view(), std::span(&x, 1), b);
      CHECK(h.child == s.child);
      CHECK(h.next == s.next);
      CHECK(a.state().position == b.state().position);
    }
}

TEST_CASE("hybrid verification: acceptance grows with n up to the support", "[speculate]") {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    const auto p = rounds::random_law(6, stream(4, seed)), q = rounds::random_law(6, stream(5, seed), 0.3);
    const auto support = 6 - std::count(q.begin(), q.end(), 0.0);
    double before = 0;
    for (index_t n = 1; n <= 7; ++n) {
      std::vector<double> drawn(6);
      const tokens fixed = by_sorting(q, n - 1);
      hybrid_draft_law(drawn, q, fixed);
      const double now = hybrid_acceptance(p, drawn, fixed);
      CHECK(now >= before - 1e-15);
      before = now;
      if (n > support) {  // everything that q can draw is drafted
        double whole = 0;
        for (std::size_t x = 0; x < 6; ++x) whole += q[x] > 0 ? p[x] : 0;
        CHECK(now == Approx(whole).epsilon(1e-14));
      }
    }
    std::vector<double> drawn(6);
    const tokens fixed = by_sorting(q, 2);
    hybrid_draft_law(drawn, q, fixed);
    CHECK(hybrid_acceptance(q, drawn, fixed) == Approx(1).epsilon(1e-14));
  }
}

TEST_CASE("hybrid verification: laws on dense spans", "[speculate]") {
  const std::vector<double> p{0.5, 0.1, 0.05, 0.35, 0}, q{0.1, 0.3, 0.2, 0.4, 0};
  const tokens fixed{3, 1};
  std::vector<double> drawn(5), residual(5);
  CHECK(hybrid_draft_law(drawn, q, fixed) == Approx(0.3).epsilon(1e-15));
  CHECK(worst(drawn, {1.0 / 3, 0, 2.0 / 3, 0, 0}) < 1e-15);
  CHECK(hybrid_residual(residual, p, drawn, fixed) == Approx(0.5 - 1.0 / 3 + 0.1 + 0.35).epsilon(1e-14));
  CHECK(worst(residual, {0.5 - 1.0 / 3, 0.1, 0, 0.35, 0}) < 1e-15);
  CHECK(hybrid_acceptance(p, drawn, fixed) == Approx(0.45 + 1.0 / 3 + 0.05).epsilon(1e-14));
  CHECK(hybrid_draft_law(drawn, q, tokens{0, 1, 2, 3}) == 0);
  CHECK(worst(drawn, {0, 0, 0, 0, 0}) == 0);
  std::vector<double> in_place = q;
  hybrid_draft_law(in_place, in_place, fixed);
  CHECK(in_place[2] == Approx(2.0 / 3).epsilon(1e-15));
}

TEST_CASE("hybrid drafts: the most probable tokens, lower ids first, then a draw", "[drafting]") {
  const auto drawn = [](auto&& row, std::size_t n, index_t v) {
    tokens x(n);
    cursor random{stream{8}};
    const auto d = draw_children(hybrid_draws{}, std::span(x), std::span<double>{}, row, v, random);
    CHECK_FALSE(d.fault);
    x.resize(static_cast<std::size_t>(d.n));
    return x;
  };
  const std::vector<double> ties{0.2, 0.1, 0.2, 0.3, 0.2};
  const token_row<double> row{row_kind::probabilities, ties};
  CHECK(drawn(row, 4, 5) == [&] {
    tokens x{3, 0, 2};
    x.push_back(drawn(row, 4, 5).back());
    return x;
  }());
  const auto five = drawn(row, 5, 5);
  CHECK(five == tokens{3, 0, 2, 4, 1});
  CHECK(drawn(row, 6, 5) == five);  // the support is exhausted
  CHECK(drawn(row, 0, 5).empty());
  const std::vector<token_id> ids{9, 2, 7, 4};
  const std::vector<double> values{0.25, 0.25, 0.25, 0.25};
  CHECK(drawn(token_row<double>{row_kind::probabilities, values, ids}, 4, 10) == tokens{2, 4, 7, 9});
  const std::vector<double> one{0, 1, 0};
  CHECK(drawn(token_row<double>{row_kind::probabilities, one}, 3, 3) == tokens{1});
}

TEMPLATE_TEST_CASE("the most probable tokens of long rows are those of a sort", "[drafting]", float, double) {
  for (const int order : {0, 1, 2, 3}) {  // shuffled, ascending, descending, many ties
    std::vector<TestType> values(5000);
    const stream key(9, static_cast<std::uint64_t>(order));
    for (std::size_t x = 0; x < values.size(); ++x)
      values[x] = static_cast<TestType>(order == 3 ? std::floor(7 * co53(key.word(x))) : 10 * co53(key.word(x)));
    if (order == 1) std::sort(values.begin(), values.end());
    if (order == 2) std::sort(values.begin(), values.end(), std::greater<>());
    values[77] = -std::numeric_limits<TestType>::infinity();
    for (const std::size_t n : {1u, 2u, 9u, 600u, 5001u}) {
      tokens expected(values.size()), got(n);
      std::iota(expected.begin(), expected.end(), 0);
      std::stable_sort(expected.begin(), expected.end(), [&](token_id a, token_id b) {
        return values[static_cast<std::size_t>(a)] > values[static_cast<std::size_t>(b)];
      });
      expected.pop_back();  // the forbidden one
      expected.resize(std::min(n, expected.size()));
      cursor random{stream{8}};
      const auto d = draw_children(top_draws{}, std::span(got), std::span<double>{},
                                   token_row<TestType>{row_kind::logits, values}, 5000, random);
      got.resize(static_cast<std::size_t>(d.n));
      CHECK(got == expected);
    }
  }
}

// A fixed set may hold tokens that the draft excludes, and may be all that the draft allows.
TEST_CASE("hybrid verification: fixed tokens of probability zero", "[speculate][enumeration]") {
  const std::vector<double> p{0.2, 0.3, 0.4, 0.1};
  for (const std::vector<double>& q : {std::vector<double>{1, 0, 0, 0}, std::vector<double>{0, 1, 0, 0},
                                       std::vector<double>{0.5, 0.5, 0, 0}, std::vector<double>{0, 0, 0.5, 0.5}}) {
    const auto target = rounds::store<double>(p, {}), draft = rounds::store<double>(q, {});
    const auto out =
        enumerate_node<users::first_two>(hybrid_verification<users::first_two>{}, target.view(), draft.view(), 4, 3);
    CHECK(out.faults == 0);
    CHECK(worst(out.law, p) < 1e-15);
    CHECK(out.accepted == Approx(best_acceptance(p, q, {0, 1})).epsilon(1e-14));
  }
}

TEST_CASE("hybrid verification reports what it cannot use", "[speculate]") {
  const std::vector<double> p{0.5, 0.3, 0.2, 0.0}, q{0.25, 0.7, 0.0, 0.05}, nan{0.5, NAN, 0.5, 0},
      negative{0.5, -0.1, 0.6, 0}, longer{0.5, 0.3, 0.2, 0.0, 0.0};
  const token_row<double> target{row_kind::probabilities, p}, draft{row_kind::probabilities, q},
      bad{row_kind::probabilities, nan}, below{row_kind::probabilities, negative},
      other{row_kind::probabilities, longer};
  cursor random{stream{1}};
  const hybrid_verification<> rule;
  const tokens fine{1, 0}, twice{1, 1}, thrice{0, 1, 0}, outside{4, 0}, under{-1, 0}, last{1, 4}, impossible{1, 2},
      none{};
  CHECK_NOTHROW(rule(target, draft, fine, random));
  SLUICE_CHECK_THROWS(rule(target, draft, twice, random), "hybrid_verification", "drafted", 1);
  SLUICE_CHECK_THROWS(rule(target, draft, thrice, random), "hybrid_verification", "drafted", 2);
  SLUICE_CHECK_THROWS(rule(target, draft, outside, random), "hybrid_verification", "drafted", 0);
  SLUICE_CHECK_THROWS(rule(target, draft, under, random), "hybrid_verification", "drafted", 0);
  SLUICE_CHECK_THROWS(rule(target, draft, last, random), "hybrid_verification", "drafted", 1);
  SLUICE_CHECK_THROWS(rule(target, draft, impossible, random), "hybrid_verification", "draft", 2);
  SLUICE_CHECK_THROWS(rule(bad, draft, fine, random), "hybrid_verification", "target", 1);
  SLUICE_CHECK_THROWS(rule(bad, draft, none, random), "hybrid_verification", "target", 1);
  SLUICE_CHECK_THROWS(rule(target, bad, fine, random), "hybrid_verification", "draft", 1);
  SLUICE_CHECK_THROWS(rule(target, below, fine, random), "hybrid_verification", "draft", 1);
  SLUICE_CHECK_THROWS(rule(target, other, fine, random), "hybrid_verification", "draft", -1);
  CHECK_NOTHROW(rule(target, bad, none, random));  // no child: the draft is not read

  tokens out(3);
  std::vector<double> law(4);
  const tokens double_set{1, 1}, far{0, 4}, good{0, 1};
  const auto fault_of = [&](const tokens& fixed) {
    return draw_beside(std::span(out), std::span(fixed), draft, 4, random).fault;
  };
  CHECK(fault_of(good).argument == nullptr);
  CHECK(std::string(fault_of(double_set).argument) == "fixed");
  CHECK(fault_of(double_set).row == 1);
  CHECK(fault_of(far).row == 1);
  SLUICE_CHECK_THROWS(draw_beside(std::span(out).first(2), std::span(good), draft, 4, random), "draw_beside",
                      "out.size", -1);
  CHECK(draw_children(hybrid_draws{}, std::span(out), std::span<double>{}, bad, 4, random).fault.element == 1);
  CHECK(draw_children(hybrid_draws{}, std::span(out), std::span<double>{}, draft, 5, random).fault.value == 4);
  SLUICE_CHECK_THROWS(hybrid_draft_law(law, q, double_set), "hybrid_draft_law", "fixed", 1);
  SLUICE_CHECK_THROWS(hybrid_draft_law(law, q, far), "hybrid_draft_law", "fixed", 1);
  SLUICE_CHECK_THROWS(hybrid_draft_law(law, longer, good), "hybrid_draft_law", "out.size", -1);
  SLUICE_CHECK_THROWS(hybrid_residual(law, p, q, far), "hybrid_residual", "fixed", 1);
  SLUICE_CHECK_THROWS(hybrid_residual(law, p, longer, good), "hybrid_residual", "drawn.size", -1);
  SLUICE_CHECK_THROWS(hybrid_residual(std::span(law).first(3), p, q, good), "hybrid_residual", "out.size", -1);
  SLUICE_CHECK_THROWS(hybrid_acceptance(p, longer, good), "hybrid_acceptance", "drawn.size", -1);
  SLUICE_CHECK_THROWS(hybrid_acceptance(p, q, double_set), "hybrid_acceptance", "fixed", 1);
}

TEST_CASE("hybrid verification: extreme rows", "[speculate]") {
  cursor random{stream{2}};
  const hybrid_verification<> rule;
  // 1 - q(T) far below the rounding of q(T)
  const std::vector<double> q{1, 1e-20, 3e-20}, p{0.25, 0.5, 0.25};
  const token_row<double> target{row_kind::probabilities, p}, draft{row_kind::probabilities, q};
  const auto out = enumerate_node<hybrid_draws>(rule, target, draft, 3, 2);
  CHECK(worst(out.law, p) < 1e-14);
  CHECK(out.accepted == Approx(0.25 + 0.25 + 0.25).epsilon(1e-13));
  // a last child so improbable that floats underflow: given the fixed one it is certain all the same
  constexpr float never = -std::numeric_limits<float>::infinity();
  std::vector<float> low(3000, never), rare(3000, never);
  low[5] = 0;
  low[9] = -100;
  rare[5] = std::log(0.001f);
  rare[9] = std::log(0.999f);
  const tokens both{5, 9};
  const token_row<float> long_target{row_kind::logits, rare}, long_draft{row_kind::logits, low};
  auto middle = support::scripted_words::uniforms({0.5});  // accepted: 0.5 < 0.999
  CHECK(rule(long_target, long_draft, both, middle).child == 1);
  for (int k = 0; k < 20; ++k) {  // 0.9999: rejected, and then only token 5 is left, whatever the proposals
    const std::uint64_t late = support::word_of(co53(random()));
    support::scripted_words words({support::word_of(0.9999), support::word_of(0.5), late, support::word_half});
    CHECK(rule(long_target, long_draft, both, words).next == 5);
  }
  // a drafted token that the target excludes, at U = 0
  const token_row<double> excludes{row_kind::probabilities, std::span(q)};
  const std::vector<double> without_one{0.5, 0, 0.5};
  auto zeros = support::scripted_words::uniforms({0.0, 0.9, 0.9, 0.1});
  CHECK(rule(token_row<double>{row_kind::probabilities, without_one}, excludes, tokens{0, 1}, zeros).next != 1);
  // greedy target and draft: one-hot rows
  const std::vector<double> zero{0, 1, 0}, two{0, 0, 1};
  const token_row<double> at_one{row_kind::probabilities, zero}, at_two{row_kind::probabilities, two};
  const token_id one = 1;
  const auto same = rule(at_one, at_one, std::span(&one, 1), random);
  CHECK((same.child == 0 && same.next == 1));
  const auto differs = rule(at_two, at_one, std::span(&one, 1), random);
  CHECK((differs.child == -1 && differs.next == 2));
}

TEST_CASE("hybrid verification: no allocation", "[speculate]") {
  std::vector<float> p(4000), q(4000);
  for (std::size_t x = 0; x < p.size(); ++x) {
    p[x] = static_cast<float>(x % 7);
    q[x] = static_cast<float>(x % 5);
  }
  cursor random{stream{3}};
  tokens x(4);
  std::vector<double> as_double(q.begin(), q.end());
  const token_row<float> target{row_kind::logits, p}, draft{row_kind::logits, q};
  const token_row<double> other{row_kind::logits, as_double};
  CHECK(support::allocations_in([&] {
          for (int k = 0; k < 100; ++k) {
            draw_children(hybrid_draws{}, std::span(x), std::span<double>{}, draft, 4000, random);
            hybrid_verification<>{}(target, draft, x, random);
            hybrid_verification<>{}(target, other, x, random);
          }
        }) == 0);
}

TEST_CASE("hybrid verification in a tree reads the rows on its way only", "[speculate]") {
  drafted_tree tree;
  tree.add_children(0, tokens{0, 1});
  tree.add_children(1, tokens{2, 1});
  tree.add_children(2, tokens{0, 2});
  const std::vector<double> on_zero{1, 0, 0}, on_two{0, 0, 1}, on_one{0, 1, 0}, flat{0.5, 0.3, 0.2};
  const std::vector<double> poison(3, std::numeric_limits<double>::quiet_NaN());
  const std::vector<const std::vector<double>*> target{&on_zero, &on_two, &poison, &on_one, &poison, &poison, &poison};
  const std::vector<const std::vector<double>*> draft{&flat, &flat, &poison, &poison, &poison, &poison, &poison};
  const auto row = [](const auto& rows) {
    return [&rows](index_t i) {
      return token_row<double>{row_kind::probabilities, *rows[static_cast<std::size_t>(i)]};
    };
  };
  index_t path[2] = {}, ranks[2] = {};
  cursor random{stream{4}};
  const auto d =
      verify_tree(hybrid_verification<>{}, row(target), row(draft), std::span(path), std::span(ranks), tree, random);
  CHECK_FALSE(d.fault);
  CHECK(d.accepted == 2);
  CHECK(path[0] == 1);
  CHECK(path[1] == 3);
  CHECK(d.next == 1);
}

TEST_CASE("hybrid drafts in the decoder are lossless, enumerated", "[decoder][enumeration]") {
  using namespace decoder_laws;
  const auto one_round = [](auto& p, auto& q, const auto& rule, const tree_shape& shape) {
    const text_t prompt{1, 0};
    const index_t length = shape.depth() + 1;
    const auto make = [&] {
      return decoder(p, q, rule, prompt, {.shape = shape, .max_new_tokens = length}, stream{1});
    };
    return difference(emitted_law(make, law_of(p), prompt, length, 1), target_law(law_of(p), prompt, length));
  };
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    const index_t v = 2 + static_cast<index_t>(seed);
    support::table_language_model<double> p(v, 2, seed, 1.5, seed % 2 ? 0.3 : 0.0),
        q(v, 2, seed + 50, 1.5, seed == 2 ? 0.4 : 0);
    support::table_language_model<float> pf(v, 2, seed), qf(v, 2, seed + 50, 1.5, 0, row_kind::logits);
    for (const tree_shape& shape : {chain_shape(2), full_tree(2, 2), full_tree(3, 1), full_tree(5, 1),
                                    tree_shape({2, 1, 2, 0, 0, 0}), tree_shape({3, 0, 2, 1, 0, 0, 0})}) {
      INFO("seed " << seed << ", nodes " << shape.n_drafted());
      CHECK(one_round(p, q, hybrid_verification<>{}, shape) < 1e-12);
      CHECK(one_round(pf, qf, hybrid_verification<>{}, shape) < 1e-6);
    }
    CHECK(one_round(p, q, hybrid_verification<users::first_two>{}, full_tree(3, 2)) < 1e-12);
  }
}
