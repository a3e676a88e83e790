// Fails for: a draft or verification that shares random numbers between rounds, nodes or requests; statistics that
// count untested tokens; models that are told to keep the wrong nodes; state() without the controller, the random key
// or the kept counts; a fault that throws, or commits a part of its round; allocations in a round.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <sluice/core/numeric.hpp>
#include <sluice/speculate/block_verification.hpp>
#include <sluice/speculate/decoder.hpp>
#include <sluice/speculate/recursive_rejection.hpp>
#include <sluice/speculate/token_rejection.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <support/table_language_model.hpp>
#include <tuple>

using namespace sluice;
using support::table_language_model;
using text_t = std::vector<token_id>;
using with_replacement = recursive_rejection<independent_draws>;
using without_replacement = recursive_rejection<draws_without_replacement>;
using top_children = recursive_rejection<top_draws>;

namespace {

/// Every rule with a shape that it can verify.
template <class F>
void each_rule(F&& f) {
  f(token_rejection{}, chain_shape(4));
  f(block_verification{}, chain_shape(4));
  f(exact_match{}, chain_shape(4));
  f(with_replacement{}, full_tree(2, 3));
  f(without_replacement{}, full_tree(2, 3));
  f(top_children{}, full_tree(2, 3));
  f(without_replacement{}, best_tree(std::vector<double>{0.5, 0.2, 0.1}, 12, 6).shape);
}

/// Temperature 0: the maximum, lowest id on ties.
struct greedy {
  void process(std::span<double> row, std::span<const token_id>) const {
    const index_t best = argmax(std::span<const double>(row));
    for (index_t i = 0; i < std::ssize(row); ++i)
      row[static_cast<std::size_t>(i)] = i == best ? 0.0 : -std::numeric_limits<double>::infinity();
  }
};

struct nudge {
  void process(std::span<double> row, std::span<const token_id> context) const {
    row[static_cast<std::size_t>(context.back())] -= 0.5;
  }
};

}  // namespace

TEST_CASE("decoder: at temperature 0 the text is the greedy text, for every rule", "[decoder]") {
  table_language_model<double> p(16, 2, 1), q(16, 1, 2);
  const text_t prompt{3, 5};
  text_t greedy_text = prompt;
  for (int i = 0; i < 200; ++i) greedy_text.push_back(static_cast<token_id>(argmax(p.law(greedy_text))));
  each_rule([&](const auto& rule, const tree_shape& shape) {
    decoder d(p, q, rule, process_both(greedy{}), fixed_draft_length{}, prompt, {.shape = shape, .max_new_tokens = 200},
              stream{1});
    CHECK(d.run().status == status::completed);
    CHECK(text_t(d.text().begin(), d.text().end()) == greedy_text);
    // a draft of the same model is always right: every call but the last emits its whole depth and one more
    const decoding r = [&] {
      table_language_model<double> same = p;
      decoder self(p, same, rule, process_both(greedy{}), fixed_draft_length{}, prompt,
                   {.shape = chain_shape(3), .max_new_tokens = 200}, stream{1});
      return self.run();
    }();
    CHECK(r.stats.target_calls == 50);
    CHECK(r.stats.rejected == 0);
  });
}

TEST_CASE("decoder: a draft equal to the target is always accepted", "[decoder]") {
  table_language_model<double> p(8, 2, 3), same = p;
  const text_t prompt{1};
  decoder token(p, same, token_rejection{}, prompt, {.shape = chain_shape(4), .max_new_tokens = 100}, stream{5});
  CHECK(token.run().stats.target_calls == 20);
  decoder block(p, same, block_verification{}, prompt, {.shape = chain_shape(4), .max_new_tokens = 100}, stream{5});
  CHECK(block.run().stats.target_calls == 20);
  CHECK(block.stats().acceptance() == 1);
}

TEST_CASE("decoder: same key, same text; other keys and requests differ", "[decoder]") {
  table_language_model<double> p(12, 2, 7), q(12, 1, 8);
  const text_t prompt{1, 2};
  each_rule([&](const auto& rule, const tree_shape& shape) {
    const decoder_options options{.shape = shape, .max_new_tokens = 60};
    const auto text = [&](stream key) {
      decoder d(p, q, rule, prompt, options, key);
      return d.run().tokens;
    };
    const text_t a = text(stream{1}.derive(0)), b = text(stream{1}.derive(1));
    CHECK(a == text(stream{1}.derive(0)));
    CHECK(a != b);
    // interleaved with another request, on models of their own: the neighbour changes nothing
    table_language_model<double> p1 = p, q1 = q, p2 = p, q2 = q;
    decoder one(p1, q1, rule, prompt, options, stream{1}.derive(0)),
        two(p2, q2, rule, prompt, options, stream{1}.derive(1));
    while (!one.finished() || !two.finished()) two.step(), one.step();
    CHECK(text_t(one.new_tokens().begin(), one.new_tokens().end()) == a);
    CHECK(text_t(two.new_tokens().begin(), two.new_tokens().end()) == b);
  });
}

TEST_CASE("decoder: one random number is never used twice", "[decoder]") {
  const request_randomness r{stream{3}};
  std::vector<std::uint64_t> words;
  for (std::int64_t round = 0; round < 20; ++round) {
    words.push_back(r.verification(round)());
    for (index_t node = 0; node < 20; ++node) words.push_back(r.drafting(round, node)());
  }
  std::sort(words.begin(), words.end());
  CHECK(std::adjacent_find(words.begin(), words.end()) == words.end());
}

TEST_CASE("decoder: statistics add up", "[decoder]") {
  table_language_model<double> p(8, 2, 11), q(8, 1, 12);
  const text_t prompt{1, 2};
  each_rule([&](const auto& rule, const tree_shape& shape) {
    const std::int64_t target_before = p.calls, draft_before = q.calls, scored_before = p.scored;
    decoder d(p, q, rule, prompt, {.shape = shape, .max_new_tokens = 400}, stream{1});
    std::int64_t rounds = 0, accepted = 0, emitted = 0, last_depth = 0;
    const decoding r = d.run([&](const auto& round) {
      CHECK(round.index() == rounds);
      ++rounds;
      accepted += std::ssize(round.path());
      emitted += std::ssize(round.emitted());
      last_depth = std::max<std::int64_t>(last_depth, round.tree().depth(round.tree().size() - 1));
      CHECK(std::ssize(round.emitted()) == std::ssize(round.path()) + 1);
      for (std::size_t i = 0; i < round.path().size(); ++i)
        CHECK(round.tree().token(round.path()[i]) == round.emitted()[i]);
      CHECK(round.text().back() == round.emitted().back());
    });
    const decoder_stats& s = r.stats;
    CHECK(s.rounds == rounds);
    CHECK(s.target_calls == p.calls - target_before);
    CHECK(s.draft_calls == q.calls - draft_before);
    CHECK(s.nodes_scored == s.nodes_drafted + s.target_calls);
    CHECK(s.nodes_scored == p.scored - scored_before);
    CHECK(s.tokens == 400);
    CHECK(s.tokens == emitted);
    CHECK(s.tokens == s.accepted + s.rounds);
    CHECK(s.accepted == accepted);
    CHECK(last_depth == shape.depth());
    std::int64_t tested = 0, ranks = 0;
    for (std::size_t i = 0; i < s.tested_at.size(); ++i) {
      CHECK(s.tested_at[i] == s.accepted_at[i] + s.rejected_at[i]);
      if (i > 0) CHECK(s.tested_at[i] <= s.accepted_at[i - 1]);
      tested += s.tested_at[i];
    }
    for (const std::int64_t n : s.accepted_rank) ranks += n;
    CHECK(tested == s.accepted + s.rejected);
    CHECK(ranks == s.accepted);
    CHECK(s.acceptance() == Approx(double(s.accepted) / double(s.accepted + s.rejected)));
    CHECK(s.tokens_per_target_call() == Approx(400.0 / double(s.target_calls)));
    CHECK(s.mean_accepted() == Approx(double(s.accepted) / double(s.rounds)));
    CHECK(s.accepted_rank.size() == static_cast<std::size_t>(shape.widest_level()));
    CHECK(std::ssize(s.rank_acceptance()) <= shape.widest_level());
    CHECK((s.rank_acceptance().empty() || s.rank_acceptance().back() > 0));
    CHECK(s.draft_seconds + s.target_seconds + s.verify_seconds > 0);
  });
}

TEST_CASE("decoder: the clock can be off", "[decoder]") {
  table_language_model<double> p(8, 2, 11), q(8, 1, 12);
  const text_t prompt{1};
  decoder<table_language_model<double>, table_language_model<double>, token_rejection, processing<>, fixed_draft_length,
          no_clock>
      d(p, q, {}, prompt, {}, stream{1});
  const decoding r = d.run();
  CHECK(r.stats.draft_seconds + r.stats.target_seconds + r.stats.verify_seconds == 0);
}

TEST_CASE("decoder: a round allocates nothing", "[decoder]") {
  table_language_model<double> p(32, 2, 13), q(32, 1, 14);
  const text_t prompt{1, 2};
  each_rule([&](const auto& rule, const tree_shape& shape) {
    decoder plain(p, q, rule, prompt, {.shape = shape, .max_new_tokens = 300}, stream{1});
    CHECK(support::allocations_in([&] {
            while (!plain.finished()) plain.step();
          }) == 0);
    decoder processed(p, q, rule, processing{nudge{}, greedy{}}, adaptive_draft_length{}, prompt,
                      {.shape = shape, .max_new_tokens = 300}, stream{1});
    CHECK(support::allocations_in([&] {
            while (!processed.finished()) processed.step();
          }) == 0);
    CHECK(processed.stats().tokens == 300);
  });
  prompt_lookup lookup;
  decoder d(p, lookup, token_rejection{}, prompt, {.max_new_tokens = 300}, stream{1});
  CHECK(support::allocations_in([&] {
          while (!d.finished()) d.step();
        }) == 0);
}

TEST_CASE("decoder: without processors rows are not copied and are read lazily", "[decoder]") {
  table_language_model<double> p(8, 2, 15), q(8, 1, 16);
  const text_t prompt{1};
  decoder d(p, q, token_rejection{}, prompt, {.shape = chain_shape(6), .max_new_tokens = 300}, stream{1});
  CHECK(d.run().status == status::completed);
  // the rows up to the stop of each round: one a test, one for the bonus
  CHECK(p.rows_read == d.stats().accepted + d.stats().rounds);
}

TEST_CASE("decoder: a stop token ends the text where it stands", "[decoder]") {
  table_language_model<double> p(6, 2, 17), q(6, 1, 18);
  const text_t prompt{1, 2};
  each_rule([&](const auto& rule, const tree_shape& shape) {
    int in_prefix = 0;
    for (std::uint64_t seed = 0; seed < 40; ++seed) {
      decoder d(p, q, rule, prompt, {.shape = shape, .max_new_tokens = 50, .stop_tokens = {4, 5}}, stream{seed});
      bool accepted_stop = false;
      const decoding r = d.run([&](const auto& round) {
        accepted_stop = std::ssize(round.emitted()) == std::ssize(round.path());
        for (index_t i = 1; i < round.tree().size(); ++i)
          if (round.tree().token(i) >= 4) CHECK(round.tree().n_children(i) == 0);  // nothing is drafted behind it
      });
      in_prefix += accepted_stop;
      REQUIRE(r.status == status::completed);
      for (std::size_t i = 0; i + 1 < r.tokens.size(); ++i) CHECK(r.tokens[i] < 4);
      CHECK((r.stop_token ? r.tokens.back() >= 4 : std::ssize(r.tokens) == 50));
      CHECK(r.stats.tokens == std::ssize(r.tokens));
      const round_report after = d.step();
      CHECK(after.finished);
      CHECK(after.emitted.empty());
      CHECK(p.kept >= 0);
    }
    CHECK(in_prefix > 0);
  });
}

TEST_CASE("decoder: no position beyond the length limit is scored", "[decoder]") {
  table_language_model<double> p(6, 2, 17), q(6, 1, 18);
  const text_t prompt{1, 2};
  for (index_t limit = 0; limit < 12; ++limit) {
    decoder d(p, q, without_replacement{}, prompt, {.shape = full_tree(2, 4), .max_new_tokens = limit}, stream{1});
    const decoding r = d.run([&](const auto& round) {
      const index_t before = std::ssize(round.text()) - std::ssize(round.emitted()) - std::ssize(prompt);
      CHECK(before + round.tree().depth(round.tree().size() - 1) + 1 <= limit);
    });
    CHECK(std::ssize(r.tokens) == limit);
    CHECK(r.status == status::completed);
    CHECK_FALSE(r.stop_token);
  }
}

TEST_CASE("decoder: budget and observer", "[decoder]") {
  table_language_model<double> p(6, 2, 17), q(6, 1, 18);
  const text_t prompt{1, 2};
  decoder limited(p, q, token_rejection{}, prompt, {.max_new_tokens = 500, .max_target_calls = 7}, stream{1});
  const decoding r = limited.run();
  CHECK(r.status == status::budget_exhausted);
  CHECK(r.stats.target_calls == 7);
  CHECK(r.stats.stopped.step == 7);
  CHECK(std::ssize(r.tokens) == r.stats.tokens);
  decoder watched(p, q, token_rejection{}, prompt, {.max_new_tokens = 500}, stream{1});
  const decoding w = watched.run([](const auto& round) { return round.index() < 6; });
  CHECK(w.status == status::stopped_by_observer);
  CHECK(w.stats.stopped.step == 6);
  CHECK(w.tokens == r.tokens);
  // and a run goes on from there as if nothing had been
  decoder whole(p, q, token_rejection{}, prompt, {.max_new_tokens = 500}, stream{1});
  const text_t all = whole.run().tokens;
  const decoding again = limited.run();
  CHECK(again.status == status::budget_exhausted);
  decoder watched_on(p, q, token_rejection{}, prompt, {.max_new_tokens = 500}, stream{1});
  CHECK(watched_on.run([](const auto& round) { return round.index() < 6; }).status == status::stopped_by_observer);
  CHECK(watched_on.run().tokens == all);
}

TEST_CASE("decoder: an unusable row is a status with its place, and the text so far", "[decoder]") {
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  const text_t prompt{1, 2};
  each_rule([&](const auto& rule, const tree_shape& shape) {
    table_language_model<double> p(6, 2, 17), q(6, 1, 18);
    decoder d(p, q, rule, prompt, {.shape = shape, .max_new_tokens = 100}, stream{1});
    for (int i = 0; i < 5; ++i) d.step();
    const text_t before(d.new_tokens().begin(), d.new_tokens().end());
    for (const double bad : {nan, inf, -0.25}) {
      table_language_model<double> good = p;
      p.spoil(d.text(), 3, bad);
      const decoding r = d.run();
      CHECK(r.status == status::invalid_row);
      CHECK(r.tokens == before);
      CHECK(std::string(r.fault.argument) == "target");
      CHECK(r.fault.row == 0);
      CHECK(r.fault.element == 3);
      CHECK(r.stats.stopped.step == 5);
      CHECK(r.stats.stopped.index == 0);
      p.spoil(d.text(), 3, good.probability(d.text(), 3));
    }
    q.spoil(d.text(), 2, nan);
    const decoding r = d.run();
    CHECK(r.status == status::invalid_row);
    CHECK(std::string(r.fault.argument) == "draft");
    CHECK(r.fault.row == 0);
    CHECK(r.fault.element == 2);
    // after the repair the same rounds follow as if nothing had happened
    q.spoil(d.text(), 2, q.probability(d.text(), 2));
    CHECK(d.run().status == status::completed);
    table_language_model<double> p2(6, 2, 17), q2(6, 1, 18);
    decoder untouched(p2, q2, rule, prompt, {.shape = shape, .max_new_tokens = 100}, stream{1});
    CHECK(untouched.run().tokens == text_t(d.new_tokens().begin(), d.new_tokens().end()));
  });
}

TEST_CASE("decoder: unusable rows are seen through processors", "[decoder]") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const text_t prompt{1, 2};
  each_rule([&](const auto& rule, const tree_shape& shape) {
    for (const bool draft : {false, true}) {
      table_language_model<double> p(6, 2, 17), q(6, 1, 18);
      decoder d(p, q, rule, process_both(greedy{}), fixed_draft_length{}, prompt,
                {.shape = shape, .max_new_tokens = 100}, stream{1});
      d.step();
      (draft ? q : p).spoil(d.text(), 3, nan);
      const decoding r = d.run();
      CHECK(r.status == status::invalid_row);
      CHECK(std::string(r.fault.argument) == (draft ? "draft" : "target"));
      CHECK(r.fault.row == 0);
      CHECK(r.fault.element == 3);
    }
  });
}

namespace {

/// A model whose rows have the wrong length, a wrong id, or a proposal that is out of range.
struct short_rows : table_language_model<double> {
  using table_language_model<double>::table_language_model;
  index_t cut = 0;
  token_row<double> row(index_t node) {
    auto r = table_language_model<double>::row(node);
    r.values = r.values.first(r.values.size() - static_cast<std::size_t>(cut));
    return r;
  }
};
struct scripted_source {
  index_t n;
  token_id token;
  index_t propose(std::span<const token_id>, std::span<token_id> out) const {
    std::fill(out.begin(), out.end(), token);
    return n;
  }
};

}  // namespace

TEST_CASE("decoder: rows of another length and proposals out of range", "[decoder]") {
  const text_t prompt{1, 2};
  for (const bool draft : {false, true}) {
    short_rows p(6, 2, 17), q(6, 1, 18);
    (draft ? q : p).cut = 1;
    decoder d(p, q, token_rejection{}, prompt, {}, stream{1});
    CHECK(d.run().status == status::invalid_row);
    CHECK(std::string(d.fault().argument) == (draft ? "draft" : "target"));
    CHECK(d.fault().value == 5);
    decoder processed(p, q, block_verification{}, process_both(greedy{}), fixed_draft_length{}, prompt, {}, stream{1});
    CHECK(processed.run().status == status::invalid_row);
    CHECK(std::string(processed.fault().argument) == (draft ? "draft" : "target"));
  }
  table_language_model<double> p(6, 2, 17);
  for (const scripted_source& bad :
       {scripted_source{5, 1}, scripted_source{-1, 1}, scripted_source{2, 6}, scripted_source{1, -1}}) {
    scripted_source source = bad;
    decoder d(p, source, token_rejection{}, prompt, {.shape = chain_shape(4)}, stream{1});
    const decoding r = d.run();
    CHECK(r.status == status::invalid_row);
    CHECK(std::string(r.fault.argument) == "draft");
    CHECK(r.tokens.empty());
  }
}

TEST_CASE("decoder: state half-way, to the bit", "[decoder]") {
  const text_t prompt{1, 2};
  each_rule([&](const auto& rule, const tree_shape& shape) {
    for (const int rounds : {0, 1, 4}) {
      table_language_model<double> p(8, 2, 19), q(8, 1, 20), p2 = p, q2 = q;
      const decoder_options options{.shape = shape, .max_new_tokens = 120, .stop_tokens = {7}};
      const adaptive_draft_length control({.gamma_max = 4, .draft_cost = 0.3, .decay = 0.9, .prior_tests = 2});
      decoder a(p, q, rule, process_both(nudge{}), control, prompt, options, stream{9});
      for (int i = 0; i < rounds; ++i) a.step();
      const decoder_state half = a.state();
      const text_t other_prompt{3, 3, 3};
      decoder b(p2, q2, rule, process_both(nudge{}), control, other_prompt, options, stream{10});
      b.step();
      b.restore(half);
      const decoding ra = a.run(), rb = b.run();
      CHECK(ra.tokens == rb.tokens);
      CHECK(ra.status == rb.status);
      CHECK(ra.stop_token == rb.stop_token);
      CHECK(ra.stats.target_calls == rb.stats.target_calls);
      CHECK(ra.stats.draft_calls == rb.stats.draft_calls);
      CHECK(ra.stats.nodes_scored == rb.stats.nodes_scored);
      CHECK(ra.stats.accepted_at == rb.stats.accepted_at);
      CHECK(ra.stats.rejected_at == rb.stats.rejected_at);
      CHECK(a.controller().state() == b.controller().state());
      CHECK(a.state().text == b.state().text);
    }
  });
}

TEST_CASE("decoder: a draft that was not asked for a while catches up", "[decoder]") {
  struct on_and_off {
    int round = 0;
    index_t length() const { return round % 4 == 3 ? 3 : 0; }
    void update(const round_outcome&) { ++round; }
    std::vector<double> state() const { return {double(round)}; }
    void restore(std::span<const double> s) { round = int(s[0]); }
  };
  table_language_model<double> p(8, 3, 21), same = p;
  const text_t prompt{1, 2};
  decoder d(p, same, token_rejection{}, processing<unprocessed>{}, on_and_off{}, prompt, {.max_new_tokens = 70},
            stream{1});
  const decoding r = d.run();  // the table checks that it is told of every token; a wrong context would be rejected
  CHECK(r.stats.rejected == 0);
  CHECK(r.stats.tokens == 70);
  CHECK(r.stats.target_calls == 40);
}

TEST_CASE("decoder: bad input", "[decoder]") {
  table_language_model<double> p(6, 2, 17), q(6, 1, 18), other(5, 1, 18);
  const text_t prompt{1, 2}, outside{1, 6}, negative{-1}, none;
  const auto make = [&](auto& draft, const auto& rule, const text_t& text, decoder_options o, index_t gamma = 4) {
    return decoder(p, draft, rule, processing<unprocessed>{}, fixed_draft_length{gamma}, text, o, stream{1}).finished();
  };
  prompt_lookup lookup;
  SLUICE_CHECK_THROWS((make(other, token_rejection{}, prompt, {})), "decoder", "draft.vocabulary_size", -1);
  SLUICE_CHECK_THROWS((make(q, token_rejection{}, none, {})), "decoder", "prompt.size", -1);
  SLUICE_CHECK_THROWS((make(q, token_rejection{}, outside, {})), "decoder", "prompt", 1);
  SLUICE_CHECK_THROWS((make(q, token_rejection{}, negative, {})), "decoder", "prompt", 0);
  SLUICE_CHECK_THROWS((make(q, token_rejection{}, prompt, {.max_new_tokens = -1})), "decoder", "max_new_tokens", -1);
  SLUICE_CHECK_THROWS((make(q, token_rejection{}, prompt, {.max_target_calls = -1})), "decoder", "max_target_calls",
                      -1);
  SLUICE_CHECK_THROWS((make(q, token_rejection{}, prompt, {.stop_tokens = {1, 9}})), "decoder", "stop_tokens", 1);
  SLUICE_CHECK_THROWS((make(q, token_rejection{}, prompt, {}, -1)), "decoder", "controller.length", -1);
  for (const tree_shape& tree : {full_tree(2, 1), independent_paths(2, 2)}) {
    SLUICE_CHECK_THROWS((make(q, token_rejection{}, prompt, {.shape = tree})), "decoder", "shape.most_children", -1);
    SLUICE_CHECK_THROWS((make(q, block_verification{}, prompt, {.shape = tree})), "decoder", "shape.most_children", -1);
    SLUICE_CHECK_THROWS((make(lookup, exact_match{}, prompt, {.shape = tree})), "decoder", "shape.most_children", -1);
  }
  CHECK_FALSE(make(q, exact_match{}, prompt, {.shape = full_tree(2, 1)}));
  CHECK(make(q, token_rejection{}, prompt, {.max_new_tokens = 0}));

  decoder d(p, q, token_rejection{}, prompt, {.max_new_tokens = 10}, stream{1});
  d.step();
  const decoder_state good = d.state();
  const auto refuse = [&](auto change, const char* argument, index_t index) {
    decoder_state s = good;
    change(s);
    SLUICE_CHECK_THROWS(d.restore(s), "decoder::restore", argument, index);
  };
  refuse([](decoder_state& s) { s.n_prompt = 0; }, "state.n_prompt", -1);
  refuse([](decoder_state& s) { s.n_prompt = 99; }, "state.n_prompt", -1);
  refuse([](decoder_state& s) { s.text.resize(13); }, "state.text.size", -1);
  refuse([](decoder_state& s) { s.text[1] = 6; }, "state.text", 1);
  refuse([](decoder_state& s) { s.target_kept = 99; }, "state.target_kept", -1);
  refuse([](decoder_state& s) { s.draft_kept = 0; }, "state.draft_kept", -1);
  refuse([](decoder_state& s) { s.stats.tested_at.resize(1); }, "state.stats.tested_at.size", -1);
  refuse([](decoder_state& s) { s.stats.accepted_rank.resize(9); }, "state.stats.accepted_rank.size", -1);
  CHECK(d.state().text == good.text);
}
