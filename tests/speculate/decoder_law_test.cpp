// Fails for: the raw q in the test where the draft was processed; a bonus drawn at the wrong node; a draft root that
// is not the last committed token; children verified by the rule of another kind of draft; a correction emitted behind
// a stop token; a limit that drops the correction; duplicates dropped from independent draws; a length controller that
// looks at the round that it is asked for.
#include <catch2/catch.hpp>
#include <sluice/speculate/block_verification.hpp>
#include <sluice/speculate/decoder.hpp>
#include <sluice/speculate/recursive_rejection.hpp>
#include <sluice/speculate/token_rejection.hpp>

#include "decoder_laws.hpp"

using namespace decoder_laws;
using support::table_language_model;

namespace {

/// One round from one prompt, every rule: the emitted text, completed by the target, has the target's law.
template <class Target, class Draft, class Rule>
double one_round(Target& p, Draft& q, const Rule& rule, const tree_shape& shape) {
  const text_t prompt{1, 0};
  const index_t length = shape.depth() + 1;
  const auto make = [&] { return decoder(p, q, rule, prompt, {.shape = shape, .max_new_tokens = length}, stream{1}); };
  const law_t emitted = emitted_law(make, law_of(p), prompt, length, 1);
  return difference(emitted, target_law(law_of(p), prompt, length));
}

/// The whole run to a length limit, rounds of all lengths, with a stop token.
template <class Target, class Draft, class Rule>
double whole_run(Target& p, Draft& q, const Rule& rule, const tree_shape& shape, index_t length, const text_t& stops) {
  const text_t prompt{1, 0, 1};
  const auto make = [&] {
    return decoder(p, q, rule, prompt,
                   {.shape = shape, .max_new_tokens = length, .stop_tokens = stops, .max_target_calls = 99}, stream{1});
  };
  return difference(emitted_law(make, law_of(p), prompt, length, 99, stops),
                    target_law(law_of(p), prompt, length, stops));
}

constexpr double tolerance = 1e-12;
using with_replacement = recursive_rejection<independent_draws>;
using without_replacement = recursive_rejection<draws_without_replacement>;
using top_children = recursive_rejection<top_draws>;

}  // namespace

TEST_CASE("decoder: one round of a chain is lossless, enumerated", "[decoder][enumeration]") {
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    const index_t v = 2 + static_cast<index_t>(seed % 3);
    table_language_model<double> p(v, 2, seed, 1.5, seed % 2 ? 0.3 : 0.0), q(v, 2, seed + 100, 1.5, seed > 3 ? 0.3 : 0);
    for (index_t gamma = 0; gamma <= 3; ++gamma) {
      INFO("seed " << seed << ", gamma " << gamma);
      CHECK(one_round(p, q, token_rejection{}, chain_shape(gamma)) < tolerance);
      CHECK(one_round(p, q, block_verification{}, chain_shape(gamma)) < tolerance);
      CHECK(one_round(p, q, exact_match{}, chain_shape(gamma)) < tolerance);
    }
  }
}

TEST_CASE("decoder: one round of a tree is lossless, enumerated, with each child sampler", "[decoder][enumeration]") {
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    const index_t v = 2 + static_cast<index_t>(seed);
    table_language_model<double> p(v, 2, seed, 1.5, seed % 2 ? 0.3 : 0.0), q(v, 1, seed + 50);
    const std::vector<tree_shape> shapes{full_tree(2, 1), full_tree(3, 1), independent_paths(2, 2),
                                         tree_shape({2, 1, 0, 1, 0}), tree_shape({2, 0, 2, 0, 0})};
    for (const tree_shape& shape : shapes) {
      if (v == 4 && shape.n_drafted() > 3) continue;
      INFO("seed " << seed << ", nodes " << shape.n_drafted() << ", depth " << shape.depth());
      CHECK(one_round(p, q, with_replacement{}, shape) < tolerance);
      CHECK(one_round(p, q, without_replacement{}, shape) < tolerance);
      CHECK(one_round(p, q, top_children{}, shape) < tolerance);
    }
  }
  table_language_model<double> p(2, 2, 9), q(2, 2, 10);
  CHECK(one_round(p, q, with_replacement{}, full_tree(2, 2)) < tolerance);
  CHECK(one_round(p, q, without_replacement{}, full_tree(2, 2)) < tolerance);
}

TEST_CASE("decoder: equal draws share a node and the law is kept, enumerated", "[decoder][enumeration]") {
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    table_language_model<double> p(2, 2, seed), q(2, 2, seed + 70), p3(3, 2, seed), q3(3, 1, seed + 80);
    INFO("seed " << seed);
    for (const tree_shape& shape :
         {independent_paths(2, 3), independent_paths(3, 2), independent_paths(4, 1), full_tree(2, 2),
          tree_shape({3, 1, 0, 2, 0, 0, 0}), tree_shape({2, 2, 1, 0, 0, 1, 0})})
      CHECK(one_round(p, q, with_replacement{}, shape) < tolerance);
    CHECK(one_round(p3, q3, with_replacement{}, independent_paths(2, 2)) < tolerance);
    CHECK(one_round(p3, q3, with_replacement{}, independent_paths(3, 1)) < tolerance);
  }
}

TEST_CASE("decoder: a merged node draws for all the shape's nodes that it stands for", "[decoder][enumeration]") {
  table_language_model<double> p(2, 2, 5), q(2, 1, 6);
  const text_t prompt{1};
  struct case_t {
    tree_shape shape;
    index_t largest;  // draws at a node of depth 1, if all draws of the root agree
  };
  for (const auto& [shape, largest] :
       {case_t{independent_paths(3, 2), 3}, case_t{full_tree(2, 2), 4}, case_t{tree_shape({2, 2, 1, 0, 0, 0}), 3}}) {
    index_t most = 0;
    bool counts_agree = true, distinct = true;
    outcomes_of(
        [&](support::enumerating_source& source) {
          decoder d(p, q, with_replacement{}, prompt, {.shape = shape, .max_new_tokens = 9}, stream{1});
          enumerated random{&source};
          d.step_with(random, [&](const auto& round) {
            const drafted_tree& t = round.tree();
            // the draws of a node's copies, in order: what SpecTr calls the survivors
            for (index_t c = 1; c <= t.n_children(0); ++c) {
              index_t draws = 0;
              for (index_t i = 0; i < t.n_draws(0); ++i)
                if (t.node_of_draw(0, i) == c) draws += shape.n_children(1 + i);
              counts_agree = counts_agree && t.n_draws(c) == draws;
              most = std::max(most, draws);
            }
            for (index_t i = 1; i < t.size(); ++i)
              for (index_t j = 1; j < i; ++j)
                distinct = distinct && !(t.parent(i) == t.parent(j) && t.token(i) == t.token(j));
            counts_agree = counts_agree && t.n_draws() == shape.n_drafted() && t.n_draws(0) == shape.n_children(0);
          });
          return 0;
        },
        [](int, double) {});
    CHECK(counts_agree);
    CHECK(distinct);
    CHECK(most == largest);
  }
}

TEST_CASE("decoder: a draft whose support is exhausted", "[decoder][enumeration]") {
  table_language_model<double> p(4, 1, 3), q(4, 1, 4, 1.5, 0.6);
  CHECK(one_round(p, q, without_replacement{}, full_tree(4, 1)) < tolerance);
  CHECK(one_round(p, q, with_replacement{}, full_tree(3, 1)) < tolerance);
  CHECK(one_round(p, q, top_children{}, full_tree(4, 1)) < tolerance);
}

TEST_CASE("decoder: sources without a law are lossless", "[decoder][enumeration]") {
  table_language_model<double> p(3, 2, 5);
  prompt_lookup lookup{.longest = 2};
  const auto fixed = [](text_t tokens) {
    struct source {
      text_t tokens;
      index_t propose(std::span<const token_id>, std::span<token_id> out) const {
        const auto n = std::min(std::ssize(out), std::ssize(tokens));
        std::copy_n(tokens.begin(), n, out.begin());
        return n;
      }
    };
    return source{std::move(tokens)};
  };
  auto guess = fixed({2, 0, 1}), nothing = fixed({});
  for (const index_t gamma : {1, 3}) {
    CHECK(one_round(p, lookup, token_rejection{}, chain_shape(gamma)) < tolerance);
    CHECK(one_round(p, guess, token_rejection{}, chain_shape(gamma)) < tolerance);
    CHECK(one_round(p, guess, block_verification{}, chain_shape(gamma)) < tolerance);
    CHECK(one_round(p, guess, exact_match{}, chain_shape(gamma)) < tolerance);
    CHECK(one_round(p, guess, with_replacement{}, chain_shape(gamma)) < tolerance);
    CHECK(one_round(p, nothing, token_rejection{}, chain_shape(gamma)) < tolerance);
  }
}

TEST_CASE("decoder: whole runs with stop tokens and length limits keep the law", "[decoder][enumeration]") {
  table_language_model<double> p(2, 2, 21), q(2, 1, 22), p3(3, 1, 23), q3(3, 1, 24);
  for (const text_t& stops : {text_t{}, text_t{1}}) {
    for (const index_t length : {0, 1, 2, 4}) {
      CHECK(whole_run(p, q, token_rejection{}, chain_shape(2), length, stops) < tolerance);
      CHECK(whole_run(p, q, block_verification{}, chain_shape(3), length, stops) < tolerance);
      CHECK(whole_run(p, q, exact_match{}, chain_shape(2), length, stops) < tolerance);
    }
    CHECK(whole_run(p, q, without_replacement{}, tree_shape({2, 1, 1, 0, 0}), 3, stops) < tolerance);
    CHECK(whole_run(p, q, with_replacement{}, full_tree(2, 1), 3, stops) < tolerance);
    CHECK(whole_run(p3, q3, token_rejection{}, chain_shape(2), 3, stops) < tolerance);
    CHECK(whole_run(p3, q3, without_replacement{}, full_tree(2, 1), 2, stops) < tolerance);
  }
}

TEST_CASE("decoder: rows of logits and float rows", "[decoder][enumeration]") {
  table_language_model<double> p(3, 2, 1, 1.5, 0.2, row_kind::logits), q(3, 2, 2, 1.5, 0, row_kind::log_probabilities);
  CHECK(one_round(p, q, block_verification{}, chain_shape(2)) < tolerance);
  CHECK(one_round(p, q, without_replacement{}, full_tree(2, 1)) < tolerance);
  table_language_model<float> pf(3, 2, 1, 1.5, 0.2), qf(3, 2, 2, 1.5, 0, row_kind::logits);
  CHECK(one_round(pf, qf, token_rejection{}, chain_shape(2)) < 1e-6);
  CHECK(one_round(pf, q, block_verification{}, chain_shape(2)) < 1e-6);
  CHECK(one_round(pf, qf, without_replacement{}, full_tree(2, 1)) < 1e-6);
}

namespace {

/// Keeps the k largest logits and divides them by T; the token before decides on a penalty, so the context matters.
struct coolest_k {
  std::size_t k = 2;
  double temperature = 0.7;
  double penalty = 0;
  void process(std::span<double> row, std::span<const token_id> context) const {
    row[static_cast<std::size_t>(context.back())] -= penalty;
    std::vector<double> sorted(row.begin(), row.end());
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    const double least = sorted[std::min(k, sorted.size()) - 1];
    for (double& l : row) l = l < least ? -std::numeric_limits<double>::infinity() : l / temperature;
  }
};

template <class Target>
auto processed_law(const Target& m, const coolest_k& f) {
  return [&m, f](const text_t& text) {
    const auto row = m.law(text);
    std::vector<double> l(row.begin(), row.end());
    for (double& v : l) v = std::log(v);
    f.process(l, text);
    double sum = 0;
    for (double& v : l) sum += v = std::exp(v);
    for (double& v : l) v /= sum;
    return l;
  };
}

template <class Rule>
double processed_round(const Rule& rule, const tree_shape& shape, const coolest_k& on_target,
                       const coolest_k& on_draft) {
  table_language_model<double> p(4, 1, 31), q(4, 1, 32);
  const text_t prompt{1, 0};
  const index_t length = shape.depth() + 1;
  const auto make = [&] {
    return decoder(p, q, rule, processing{on_target, on_draft}, fixed_draft_length{}, prompt,
                   {.shape = shape, .max_new_tokens = length}, stream{1});
  };
  const auto law = processed_law(p, on_target);
  return difference(emitted_law(make, law, prompt, length, 1), target_law(law, prompt, length));
}

}  // namespace

TEST_CASE("decoder: processors on both sides keep the processed target's law", "[decoder][enumeration]") {
  const coolest_k target{.k = 3, .temperature = 0.8, .penalty = 1}, same = target;
  const coolest_k narrow{.k = 2, .temperature = 0.5}, wide{.k = 4, .temperature = 2};
  for (const coolest_k& draft : {same, narrow, wide}) {
    CHECK(processed_round(token_rejection{}, chain_shape(2), target, draft) < tolerance);
    CHECK(processed_round(block_verification{}, chain_shape(2), target, draft) < tolerance);
    CHECK(processed_round(with_replacement{}, full_tree(2, 1), target, draft) < tolerance);
    CHECK(processed_round(without_replacement{}, full_tree(2, 1), target, draft) < tolerance);
    CHECK(processed_round(top_children{}, full_tree(2, 1), target, draft) < tolerance);
  }
}

TEST_CASE("decoder: processors on a tree see the path to their node", "[decoder][enumeration]") {
  const coolest_k target{.k = 2, .temperature = 0.8, .penalty = 1}, draft{.k = 2, .temperature = 1, .penalty = 0.5};
  CHECK(processed_round(without_replacement{}, tree_shape({2, 1, 1, 0, 0}), target, draft) < tolerance);
  CHECK(processed_round(with_replacement{}, tree_shape({2, 0, 1, 0}), target, draft) < tolerance);
}

TEST_CASE("decoder: an adaptive length keeps the law", "[decoder][enumeration]") {
  table_language_model<double> p(2, 1, 41), q(2, 1, 42);
  const text_t prompt{1};
  for (const index_t length : {3, 4}) {
    const auto make = [&] {
      return decoder(p, q, token_rejection{}, processing<unprocessed>{},
                     adaptive_draft_length(
                         {.gamma_max = 2, .draft_cost = 0.3, .decay = 0.6, .prior_acceptance = 0.55, .prior_tests = 1}),
                     prompt, {.shape = chain_shape(2), .max_new_tokens = length}, stream{1});
    };
    CHECK(difference(emitted_law(make, law_of(p), prompt, length, 99), target_law(law_of(p), prompt, length)) <
          tolerance);
  }
}

TEST_CASE("decoder: a tree of one child a node is the chain", "[decoder][enumeration]") {
  table_language_model<double> p(3, 2, 51), q(3, 2, 52);
  const text_t prompt{1, 0};
  const auto law = [&](const auto& rule) {
    const auto make = [&] {
      return decoder(p, q, rule, prompt, {.shape = full_tree(1, 3), .max_new_tokens = 9}, stream{1});
    };
    law_t emitted;
    outcomes_of(
        [&](support::enumerating_source& source) {
          auto d = make();
          enumerated random{&source};
          d.step_with(random);
          return text_t(d.new_tokens().begin(), d.new_tokens().end());
        },
        [&](const text_t& text, double probability) { emitted[text] += probability; });
    return emitted;  // of the text as emitted, not completed: the lengths must agree too
  };
  const law_t chain = law(token_rejection{});
  CHECK(difference(chain, law(with_replacement{})) < tolerance);
  CHECK(difference(chain, law(without_replacement{})) < tolerance);
  CHECK(difference(law(exact_match{}), law(top_children{})) < tolerance);
}
