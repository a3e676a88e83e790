// Fails for: a controller that looks at the round that it is asked for; buffers for the options' shape instead of the
// controller's; a draft that is called where nothing is drafted; tests reported at a node's child index, for untested
// nodes or behind a stop token; a restored decoder whose controller, or whose room, is another's.
#include <catch2/catch.hpp>
#include <set>
#include <sluice/speculate/block_verification.hpp>
#include <sluice/speculate/decoder.hpp>
#include <sluice/speculate/draft_shape.hpp>
#include <sluice/speculate/recursive_rejection.hpp>
#include <sluice/speculate/token_rejection.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>

#include "decoder_laws.hpp"

using namespace decoder_laws;
using support::table_language_model;
using with_replacement = recursive_rejection<independent_draws>;
using without_replacement = recursive_rejection<draws_without_replacement>;
using top_children = recursive_rejection<top_draws>;

namespace {

/// Quick to change its mind.
adaptive_draft_shape restless(shape_family family, index_t depth, index_t width, index_t budget) {
  return adaptive_draft_shape({.family = family,
                               .gamma_max = depth,
                               .width = width,
                               .budget = budget,
                               .draft_cost = 0.25,
                               .target_curve = {1, 1.05, 1.1, 1.2, 1.35, 1.5, 1.6},
                               .decay = 0.5,
                               .prior_acceptance = 0.5,
                               .prior_tests = 1,
                               .prior_rounds = 1,
                               .first_pause = 1,
                               .longest_pause = 2});
}

template <class F>
void each_rule(F&& f) {
  f(token_rejection{}, shape_family::chains);
  f(block_verification{}, shape_family::chains);
  f(with_replacement{}, shape_family::independent_paths);
  f(without_replacement{}, shape_family::trees);
  f(top_children{}, shape_family::trees);
}

struct nudge {
  void process(std::span<double> row, std::span<const token_id> context) const {
    row[static_cast<std::size_t>(context.back())] -= 0.5;
  }
};

/// Runs through a few shapes and keeps what it is told.
struct recorder {
  std::vector<tree_shape> all{tree_shape{}, full_tree(2, 2), independent_paths(3, 2), chain_shape(3)};
  std::size_t round = 0;
  std::vector<round_outcome> outcomes{};
  std::vector<std::vector<node_test>> tests{};
  const tree_shape& shape() const { return all[round % all.size()]; }
  std::span<const tree_shape> shapes() const { return all; }
  void update(const round_outcome& o) {
    ++round;
    outcomes.push_back(o);
    tests.emplace_back(o.tests.begin(), o.tests.end());
  }
  std::vector<double> state() const { return {static_cast<double>(round)}; }
  void restore(std::span<const double> s) { round = static_cast<std::size_t>(s[0]); }
};
static_assert(draft_shape_controller<recorder> && draft_shape_controller<adaptive_draft_shape>);
static_assert(!draft_length_controller<recorder> && !draft_shape_controller<adaptive_draft_length>);

}  // namespace

TEST_CASE("decoder: an adapting shape keeps the law", "[decoder][draft_shape][enumeration]") {
  table_language_model<double> p(2, 1, 41), q(2, 1, 42), p8(8, 2, 43), q8(8, 1, 44);
  const text_t prompt{1};
  each_rule([&](const auto& rule, shape_family family) {
    for (const index_t length : {3, 4}) {
      const bool wide = family != shape_family::chains;
      const auto make = [&] {
        return decoder(p, q, rule, processing<unprocessed>{}, restless(family, 2, wide ? 2 : 1, wide ? 4 : 2), prompt,
                       {.max_new_tokens = length}, stream{1});
      };
      CHECK(difference(emitted_law(make, law_of(p), prompt, length, 99), target_law(law_of(p), prompt, length)) <
            1e-12);
    }
    // and it does adapt
    std::set<std::pair<index_t, index_t>> seen;
    decoder d(p8, q8, rule, processing<unprocessed>{}, restless(family, 4, 3, 8), prompt, {.max_new_tokens = 300},
              stream{2});
    while (!d.finished()) {
      seen.insert({d.controller().shape().n_drafted(), d.controller().shape().depth()});
      d.step();
    }
    CHECK(seen.size() >= 4);
    CHECK(seen.contains({0, 0}));
  });
}

TEST_CASE("decoder: what a controller is told", "[decoder][draft_shape]") {
  table_language_model<double> p(3, 2, 5), q(3, 1, 6);
  const text_t prompt{1};
  decoder d(p, q, with_replacement{}, processing<unprocessed>{}, recorder{}, prompt,
            {.max_new_tokens = 400, .stop_tokens = {}}, stream{3});
  std::size_t rounds = 0, merged = 0, cut = 0;
  std::int64_t draft_kept = 0;
  const decoding r = d.run([&](const auto& round) {
    const auto& c = d.controller();
    const tree_shape& shape = c.all[rounds % c.all.size()];
    const round_outcome& o = c.outcomes.at(rounds);
    const auto& tests = c.tests.at(rounds);
    const drafted_tree& t = round.tree();
    CHECK(o.accepted == std::ssize(round.path()));
    CHECK(o.target_positions == t.size());
    CHECK(o.drafted == t.depth(t.size() - 1));
    CHECK(o.first_call == (rounds == 0));
    CHECK(o.draft_calls == o.drafted);
    index_t internal = 0;
    for (index_t i = 0; i < t.size(); ++i) internal += t.n_draws(i) > 0;
    CHECK(o.draft_rows == internal);
    const index_t before = std::ssize(round.text()) - std::ssize(round.emitted()), left = 400 + 1 - before;
    CHECK(o.cut == (shape.depth() > left - 1));
    CHECK(o.catch_up == before - 1 - draft_kept);
    cut += o.cut;
    index_t node = 0;
    std::size_t n = 0;
    for (const index_t child : round.path()) {
      REQUIRE(n < tests.size());
      CHECK(tests[n].draws == t.n_draws(node));
      REQUIRE(tests[n].rank >= 0);
      CHECK(t.node_of_draw(node, tests[n].rank) == child);
      index_t copies = 0;
      for (index_t i = 0; i < t.n_draws(node); ++i) copies += t.node_of_draw(node, i) == child;
      CHECK(tests[n].copies == copies);
      merged += copies > 1;
      node = child;
      ++n;
    }
    CHECK(o.rejected == (t.n_draws(node) > 0));
    CHECK(tests.size() == n + o.rejected);
    if (o.rejected) {
      CHECK(tests.back().rank == -1);
      CHECK(tests.back().copies == 0);
      CHECK(tests.back().draws == t.n_draws(node));
    }
    if (o.draft_calls > 0) draft_kept = before - 1 + std::min<index_t>(o.accepted, o.drafted - 1);
    ++rounds;
  });
  CHECK(r.status == status::completed);
  CHECK(merged > 20);
  CHECK(cut > 0);
  CHECK(d.stats().accepted_rank.size() == 4);  // the widest level of all shapes
  CHECK(d.stats().tested_at.size() == 3);

  // behind a stop token nothing was tested
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    decoder s(p, q, with_replacement{}, processing<unprocessed>{}, recorder{.round = 1}, prompt,
              {.max_new_tokens = 1000, .stop_tokens = {2}}, stream{seed});
    REQUIRE(s.run().stop_token);
    for (std::size_t i = 0; i < s.controller().tests.size(); ++i) {
      const auto& o = s.controller().outcomes[i];
      CHECK(std::ssize(s.controller().tests[i]) == o.accepted + o.rejected);
    }
  }
}

TEST_CASE("decoder: where nothing is drafted the draft is left alone", "[decoder][draft_shape]") {
  table_language_model<double> p(8, 2, 7), q(8, 1, 8);
  const text_t prompt{1, 2};
  each_rule([&](const auto& rule, shape_family family) {
    const std::int64_t calls = q.calls, read = q.rows_read, target_read = p.rows_read, scored = p.scored;
    decoder d(p, q, rule, processing<unprocessed>{},
              adaptive_draft_shape({.family = family, .draft_cost = 5, .first_pause = 1000}), prompt,
              {.max_new_tokens = 300}, stream{1});
    const decoding r = d.run();
    CHECK(q.calls == calls);
    CHECK(q.rows_read == read);
    CHECK(p.rows_read - target_read == 300);
    CHECK(p.scored - scored == 300);
    CHECK(r.stats.target_calls == 300);
    CHECK(r.stats.draft_calls == 0);
    CHECK_FALSE(d.controller().speculating());
  });
}

TEST_CASE("decoder: a shape controller's state half-way, to the bit", "[decoder][draft_shape]") {
  const text_t prompt{1, 2};
  each_rule([&](const auto& rule, shape_family family) {
    for (const int rounds : {0, 1, 7, 30}) {
      table_language_model<double> p(8, 2, 19), q(8, 1, 20), p2 = p, q2 = q;
      const decoder_options options{.max_new_tokens = 150, .stop_tokens = {7}};
      const adaptive_draft_shape control = restless(family, 4, 3, 9);
      decoder a(p, q, rule, process_both(nudge{}), control, prompt, options, stream{9});
      for (int i = 0; i < rounds; ++i) a.step();
      const decoder_state half = a.state();
      const text_t other{3, 3, 3};
      decoder b(p2, q2, rule, process_both(nudge{}), control, other, options, stream{10});
      b.step();
      b.restore(half);
      const decoding ra = a.run(), rb = b.run();
      CHECK(ra.tokens == rb.tokens);
      CHECK(ra.stats.target_calls == rb.stats.target_calls);
      CHECK(ra.stats.nodes_scored == rb.stats.nodes_scored);
      CHECK(ra.stats.draft_calls == rb.stats.draft_calls);
      CHECK(ra.stats.accepted_rank == rb.stats.accepted_rank);
      CHECK(a.controller().state() == b.controller().state());
    }
  });
}

TEST_CASE("decoder: with a shape controller a round allocates nothing", "[decoder][draft_shape]") {
  table_language_model<double> p(16, 2, 13), same(16, 2, 13);
  const text_t prompt{1, 2};
  each_rule([&](const auto& rule, shape_family family) {
    // shapes far beyond the options' default, all of them reached by a draft that is always right
    const adaptive_draft_shape wide({.family = family, .gamma_max = 12, .width = 6, .budget = 48, .draft_cost = 0.01});
    decoder d(p, same, rule, process_both(nudge{}), wide, prompt, {.max_new_tokens = 600}, stream{1});
    CHECK(support::allocations_in([&] {
            while (!d.finished()) d.step();
          }) == 0);
    CHECK(d.stats().tokens == 600);
    CHECK(d.stats().tested_at.size() == 12);
    CHECK(d.controller().speculating());
    if constexpr (!std::same_as<std::remove_cvref_t<decltype(rule)>, top_children>)
      CHECK(d.stats().tokens_per_target_call() > 8);
  });
}

TEST_CASE("decoder: shapes that a rule cannot verify are refused", "[decoder][draft_shape]") {
  table_language_model<double> p(6, 2, 17), q(6, 1, 18);
  const text_t prompt{1, 2};
  const auto make = [&](auto& draft, const auto& rule, shape_family family) {
    return decoder(p, draft, rule, processing<unprocessed>{},
                   adaptive_draft_shape({.family = family, .gamma_max = 3, .width = 2}), prompt, {}, stream{1})
        .finished();
  };
  prompt_lookup lookup;
  SLUICE_CHECK_THROWS(make(q, token_rejection{}, shape_family::trees), "decoder", "shape.most_children", 4);
  SLUICE_CHECK_THROWS(make(q, block_verification{}, shape_family::independent_paths), "decoder", "shape.most_children",
                      4);
  SLUICE_CHECK_THROWS(make(lookup, exact_match{}, shape_family::trees), "decoder", "shape.most_children", 4);
  CHECK_FALSE(make(lookup, exact_match{}, shape_family::chains));
  CHECK_FALSE(make(q, token_rejection{}, shape_family::chains));
}
