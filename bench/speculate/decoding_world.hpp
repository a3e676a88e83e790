#pragma once
// What benchmarks of decoding share: the text and its models, the exact acceptance of what was drafted, and rows that
// decode with any draft, rule and shape. A rule joins by a specialisation of exact_acceptance.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdio>
#include <map>
#include <report/options.hpp>
#include <report/row.hpp>
#include <sluice/models/ngram.hpp>
#include <sluice/models/ngram_language_model.hpp>
#include <sluice/models/tokenizers.hpp>
#include <sluice/speculate/block_verification.hpp>
#include <sluice/speculate/decoder.hpp>
#include <sluice/speculate/draft_length.hpp>
#include <sluice/speculate/drafting.hpp>
#include <sluice/speculate/logit_processors.hpp>
#include <sluice/speculate/recursive_rejection.hpp>
#include <sluice/speculate/token_rejection.hpp>
#include <sluice/speculate/token_tree.hpp>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace bench::speculation {

using namespace sluice;
using models::ngram_model;
using lm = models::ngram_language_model<ngram_model>;

/// A tokenised text, 90 % to train on, the rest to take prompts from, and the models of a row.
struct world {
  std::vector<token_id> train, rest;
  ngram_model large, small;
  double temperature = 1;  // of target and draft
  std::vector<token_id> prompt(std::size_t i) const {
    const std::size_t length = std::min<std::size_t>(64, rest.size()), room = rest.size() - length + 1;
    const std::size_t first = (i * 7919) % room;
    return {rest.begin() + static_cast<std::ptrdiff_t>(first),
            rest.begin() + static_cast<std::ptrdiff_t>(first + length)};
  }
};

inline world make_world(std::vector<token_id> tokens, index_t vocabulary, models::smoothing smoothing, int large,
                        int small) {
  const auto cut = static_cast<std::ptrdiff_t>(std::max<std::size_t>(1, tokens.size() * 9 / 10));
  std::vector<token_id> rest(tokens.begin() + cut, tokens.end());
  tokens.resize(static_cast<std::size_t>(cut));
  if (rest.empty()) rest = tokens;
  const std::span<const token_id> train(tokens);
  ngram_model target(train, vocabulary, {.order = large, .smoothing = smoothing});
  ngram_model draft(train, vocabulary, {.order = small, .smoothing = smoothing});
  return {tokens, rest, std::move(target), std::move(draft)};
}

inline const world& bytes_from_4() {
  static const world w =
      make_world(models::byte_tokenizer::encode(bench::text()), 256, models::smoothing::witten_bell, 6, 4);
  return w;
}
inline const world& bytes_from_3() {
  static const world w =
      make_world(models::byte_tokenizer::encode(bench::text()), 256, models::smoothing::witten_bell, 6, 3);
  return w;
}
inline world make_byte_pairs(int small) {
  const models::bpe_tokenizer pairs(bench::text(), {.vocabulary_size = 2048});
  return make_world(pairs.encode(bench::text()), pairs.vocabulary_size(), models::smoothing::kneser_ney, 4, small);
}
inline const world& byte_pairs_from_3() {
  static const world w = make_byte_pairs(3);
  return w;
}
inline const world& byte_pairs_from_2() {
  static const world w = make_byte_pairs(2);
  return w;
}

inline constexpr index_t tokens_per_request = 200;
inline std::size_t n_requests() { return bench::options().mode == bench::effort::quick ? 20 : 100; }

/// of(rule, out, round, node): out[i] = the probability that draw i of the node is the accepted one, given the draws
/// and the rows that the round used. A rule with an exact law specialises it.
template <class Rule>
struct exact_acceptance;

/// Both laws of a node, dense.
struct dense_laws {
  std::vector<double> p, q;
  template <class Round>
  dense_laws(const Round& round, index_t node) {
    const token_law target(round.target_law(node));
    const token_law draft(round.draft_law(node));
    p.resize(static_cast<std::size_t>(target.size()));
    q.resize(p.size());
    target.probabilities(p);
    draft.probabilities(q);
  }
};

template <class DraftKind>
requires(!std::same_as<DraftKind, top_draws>) struct exact_acceptance<recursive_rejection<DraftKind>> {
  template <class Round>
  static void of(const recursive_rejection<DraftKind>&, std::span<double> out, const Round& round, index_t node) {
    const std::span<const token_id> draws = round.tree().draws(node);
    const dense_laws laws(round, node);
    rejection_stage stage;
    double left = 1;
    for (std::size_t k = 0; k < draws.size(); ++k) {
      const auto x = static_cast<std::size_t>(draws[k]);
      const double a = left > 0 ? stage.acceptance(laws.p[x], laws.q[x]) : 0;
      out[k] = left * a;
      left *= 1 - a;
      if (left > 0 && k + 1 < draws.size()) stage = next_stage<DraftKind>(stage, laws.p, laws.q, draws[k]);
    }
  }
};
template <>
struct exact_acceptance<token_rejection> {
  template <class Round>
  static void of(const token_rejection&, std::span<double> out, const Round& round, index_t node) {
    const token_law p(round.target_law(node));
    const token_law q(round.draft_law(node));
    const token_id x = round.tree().draws(node)[0];
    out[0] = acceptance_probability(p.probability(x), q.probability(x));
  }
};
template <std::derived_from<exact_match> Rule>
struct exact_acceptance<Rule> {
  template <class Round>
  static void of(const Rule&, std::span<double> out, const Round& round, index_t node) {
    const token_law p(round.target_law(node));
    const auto draws = round.tree().draws(node);
    for (std::size_t k = 0; k < draws.size(); ++k)
      out[k] = std::find(draws.begin(), draws.begin() + static_cast<std::ptrdiff_t>(k), draws[k]) ==
                       draws.begin() + static_cast<std::ptrdiff_t>(k)
                   ? p.probability(draws[k])
                   : 0.0;
  }
};

/// P(at least d drafted tokens are accepted), d = 1, 2, ..., given what was drafted: from the rows that the round used.
template <class Rule, class Round>
std::vector<double> at_least(const Rule& rule, const Round& round) {
  const drafted_tree& tree = round.tree();
  std::vector<double> reach(static_cast<std::size_t>(tree.size()), 0.0), of_draw,
      law(static_cast<std::size_t>(tree.depth(tree.size() - 1)));
  reach[0] = 1;
  for (index_t i = 0; i < tree.size(); ++i) {
    const double here = reach[static_cast<std::size_t>(i)];
    if (tree.n_draws(i) == 0 || here == 0) continue;
    of_draw.assign(tree.draws(i).size(), 0.0);
    exact_acceptance<Rule>::of(rule, of_draw, round, i);
    for (index_t k = 0; k < tree.n_draws(i); ++k) {
      const double a = here * of_draw[static_cast<std::size_t>(k)];
      reach[static_cast<std::size_t>(tree.node_of_draw(i, k))] += a;
      law[static_cast<std::size_t>(tree.depth(i))] += a;
    }
  }
  return law;
}
template <class Round>
std::vector<double> at_least(const block_verification&, const Round& round) {
  const drafted_tree& tree = round.tree();
  std::vector<token_row<double>> target, draft;
  for (index_t i = 0; i < tree.size(); ++i) target.push_back(round.target_law(i));
  for (index_t i = 0; i + 1 < tree.size(); ++i) draft.push_back(round.draft_law(i));
  const auto path = path_of_block(request<double, double>{target, draft, std::span(tree.tokens().token).subspan(1)});
  std::vector<double> law(path.tau_law.begin() + 1, path.tau_law.end());
  for (std::size_t d = law.size(); d-- > 1;) law[d - 1] += law[d];
  return law;
}

/// Sampled drafts, but accepted only if the target draws the same token.
struct strict_match : exact_match {
  using draft_kind = independent_draws;
};

struct measured {
  decoder_stats stats;                // sums over the requests
  double expected = 0, variance = 0;  // of the accepted tokens, given the drafts
  std::vector<double> likelihood;     // per token, one a request
  bool greedy_agrees = true;
};

inline void add(decoder_stats& sum, const decoder_stats& s) {
  sum.rounds += s.rounds, sum.target_calls += s.target_calls, sum.draft_calls += s.draft_calls;
  sum.nodes_drafted += s.nodes_drafted, sum.nodes_scored += s.nodes_scored, sum.tokens += s.tokens;
  sum.accepted += s.accepted, sum.rejected += s.rejected;
}

/// The draft of a row: the small model, or a source without a law.
struct small_model {
  static lm make(const world& w) { return lm(w.small); }
};
struct lookup {
  static prompt_lookup make(const world&) { return {.longest = 12, .shortest = 2}; }
};

/// log of the probability of x after the text, at the world's temperature.
inline double log_likelihood(const world& w, token_id x, std::span<const token_id> text) {
  if (w.temperature == 1) return std::log(w.large.probability(x, text));
  std::vector<double> row(static_cast<std::size_t>(w.large.vocabulary_size()));
  w.large.row(row, text);
  double sum = 0;
  for (double& p : row) sum += p = std::pow(p, 1 / w.temperature);
  return std::log(row[static_cast<std::size_t>(x)] / sum);
}

template <class Draft, class Rule, class Processing, class Controller>
decoder_stats decode_processed(const world& w, const Rule& rule, const tree_shape& shape, std::size_t requests,
                               measured* full, const Processing& processors, const Controller& controller) {
  lm target(w.large);
  auto draft = Draft::make(w);
  decoder_stats sum;
  for (std::size_t i = 0; i < requests; ++i) {
    const std::vector<token_id> prompt = w.prompt(i);
    decoder d(target, draft, rule, processors, controller, prompt,
              {.shape = shape, .max_new_tokens = tokens_per_request}, stream{20240607}.derive(i));
    if (full == nullptr) {
      while (!d.finished()) d.step();
      add(sum, d.stats());
      continue;
    }
    const decoding r = d.run([&](const auto& round) {
      double mean = 0, square = 0, depth = 1;
      for (const double p : at_least(rule, round)) mean += p, square += (2 * depth++ - 1) * p;
      full->expected += mean, full->variance += square - mean * mean;
    });
    add(sum, r.stats);
    double bits = 0;
    std::vector<token_id> text = prompt;
    for (const token_id x : r.tokens) {
      bits += log_likelihood(w, x, text);
      text.push_back(x);
    }
    full->likelihood.push_back(bits / static_cast<double>(r.tokens.size()));
  }
  return sum;
}
template <class Draft, class Rule, class Controller = fixed_draft_length>
decoder_stats decode(const world& w, const Rule& rule, const tree_shape& shape, std::size_t requests, measured* full,
                     const Controller& controller = {}) {
  if (w.temperature == 1)
    return decode_processed<Draft>(w, rule, shape, requests, full, processing<unprocessed>{}, controller);
  if constexpr (std::same_as<Draft, lookup>)  // a source without a law: nothing to process
    return decode_processed<Draft>(w, rule, shape, requests, full,
                                   processing<temperature, unprocessed>{temperature{w.temperature}, {}}, controller);
  else
    return decode_processed<Draft>(w, rule, shape, requests, full, process_both(temperature{w.temperature}),
                                   controller);
}

template <class Draft, class Rule>
std::vector<token_id> greedy_text(const world& w, const Rule& rule, const tree_shape& shape) {
  lm target(w.large);
  auto draft = Draft::make(w);
  decoder d(target, draft, rule, process_both(temperature{0}), fixed_draft_length{}, w.prompt(0),
            {.shape = shape, .max_new_tokens = tokens_per_request}, stream{1});
  return d.run().tokens;
}

inline const measured& plain(const world& w) {
  static std::map<const world*, measured> all;
  const auto [found, fresh] = all.try_emplace(&w);
  if (fresh) found->second.stats = decode<lookup>(w, token_rejection{}, chain_shape(0), n_requests(), &found->second);
  return found->second;
}

/// Standard errors between the likelihoods of two runs, paired by prompt: requests are independent given their prompts.
inline double likelihood_difference(const measured& m, const measured& base) {
  const auto n = static_cast<double>(m.likelihood.size());
  double mean = 0, square = 0;
  for (std::size_t i = 0; i < m.likelihood.size(); ++i) {
    const double d = m.likelihood[i] - base.likelihood[i];
    mean += d / n, square += d * d / n;
  }
  return std::abs(mean) / std::sqrt(std::max(square - mean * mean, 1e-300) / (n - 1));
}

inline void report(benchmark::State& state, const measured& m, const char* who, double draft_cost) {
  const auto tokens = static_cast<double>(m.stats.tokens), calls = static_cast<double>(m.stats.target_calls);
  const double drafting = draft_cost * static_cast<double>(m.stats.draft_calls);
  state.counters["work"] = (calls + drafting) / tokens;
  state.counters["expected"] = (calls + drafting) / (calls + m.expected);
  const double z = (static_cast<double>(m.stats.accepted) - m.expected) / std::sqrt(std::max(m.variance, 1e-300));
  char note[256];
  if (who != nullptr)
    std::snprintf(note, sizeof note, "%s: %.2f tokens a call", who, tokens / calls);
  else
    std::snprintf(
        note, sizeof note,
        "%.2f tokens a call, %.2f exact for these drafts (%+.1f s.e.), %.1f nodes drafted a call, %.1f scored "
        "a token, acceptance %.3f",
        tokens / calls, 1 + m.expected / calls, z, static_cast<double>(m.stats.nodes_drafted) / calls,
        static_cast<double>(m.stats.nodes_scored) / tokens, m.stats.acceptance());
  state.SetLabel(note);
  if (!m.greedy_agrees) state.SkipWithError("at temperature 0 the text is not the greedy text");
  if (std::abs(z) > 5.5) state.SkipWithError("accepted lengths do not agree with the rows");
}

/// `key` tells rows of one rule and one shape_of apart and is the draft length if it is positive; `who` names a peer.
template <class Draft, class Rule>
auto decoded(const world& (*text)(), Rule rule, tree_shape (*shape_of)(const world&), double key,
             const char* who = nullptr) {
  return [=](benchmark::State& state) {
    const world& w = text();
    using row_key = std::tuple<const world*, tree_shape (*)(const world&), double>;
    static std::map<row_key, std::pair<measured, tree_shape>> all;  // one for each Rule, Draft
    const auto [found, fresh] = all.try_emplace(row_key{&w, shape_of, key});
    auto& [m, shape] = found->second;
    if (fresh) {
      shape = shape_of(w);
      m.stats = decode<Draft>(w, rule, shape, n_requests(), &m);
      m.greedy_agrees = greedy_text<Draft>(w, rule, shape) == greedy_text<lookup>(w, token_rejection{}, chain_shape(0));
    }
    for (auto _ : state) benchmark::DoNotOptimize(decode<Draft>(w, rule, shape, 5, nullptr).tokens);
    if (key >= 0) state.counters["gamma"] = key;
    state.counters["quality"] = likelihood_difference(m, plain(w));
    report(state, m, who, 0);
  };
}

inline auto one_call_a_token(const world& (*text)(), double gamma) {
  return [=](benchmark::State& state) {
    const world& w = text();
    for (auto _ : state)
      benchmark::DoNotOptimize(decode<lookup>(w, token_rejection{}, chain_shape(0), 5, nullptr).tokens);
    state.counters["work"] = 1;
    if (gamma >= 0) state.counters["gamma"] = gamma;
  };
}

template <index_t Gamma>
tree_shape chain(const world&) {
  return chain_shape(Gamma);
}
template <index_t K, index_t Depth>
tree_shape full(const world&) {
  return full_tree(K, Depth);
}
/// The best tree of so many nodes, for the acceptances that a short run of a full tree measures.
template <index_t Budget>
tree_shape planned(const world& w) {
  lm target(w.large), draft(w.small);
  std::vector<double> accepted(4);
  double tests = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    decoder d(target, draft, recursive_rejection<draws_without_replacement>{}, w.prompt(1000 + i),
              {.shape = full_tree(4, 3), .max_new_tokens = tokens_per_request}, stream{99}.derive(i));
    const decoder_stats s = d.run().stats;
    tests += static_cast<double>(s.accepted + s.rejected);
    for (std::size_t k = 0; k < 4; ++k) accepted[k] += static_cast<double>(s.accepted_rank[k]);
  }
  for (double& a : accepted) a /= tests;
  return best_tree(accepted, Budget, 16).shape;
}

inline bench::row named(const std::string& slug, const std::string& workload, const std::string& claim) {
  return {.slug = slug,
          .workload = workload,
          .unit = "target calls per token",
          .quality = {.name = "log-likelihood against plain sampling, standard errors", .tolerance = 5.5},
          .claim = claim,
          .note = ""};
}

using with_replacement = recursive_rejection<independent_draws>;
using without_replacement = recursive_rejection<draws_without_replacement>;

}  // namespace bench::speculation
