// Wall time of decoding a text, with a target whose cost is real: a feed-forward language model trained in place on the
// text, whose every call reads all its weights. The baseline makes one call a token with the same kernels and no draft.
//
// Clocks of a machine that does other things drift, so what speculation gains is measured inside a row by interleaving:
// baseline, ours, baseline, ours, ...; the median of the nine ratios is in the note, and for rows with a controller it
// is the quality. The law is checked in every row: the tokens accepted against their expectation on the rows that were
// used, the likelihood of the text against plain sampling, and the text at temperature 0 against the greedy text.
#include <sluice/core/thread_pool.hpp>
#include <sluice/models/bigram_table.hpp>
#include <sluice/models/feed_forward_lm.hpp>
#include <sluice/speculate/draft_shape.hpp>
#include <sluice/speculate/k_seq.hpp>
#include <sluice/speculate/optimal_multidraft.hpp>

#include <chrono>
#include <numeric>
#include <optional>
#include <thread>

#include "decoding_world.hpp"

namespace {

using namespace bench::speculation;
using models::bigram_table;
using models::feed_forward_lm;
using clock_type = std::chrono::steady_clock;
using target_model = models::feed_forward_language_model<float, thread_pool>;

double seconds_since(clock_type::time_point start) {
  return std::chrono::duration<double>(clock_type::now() - start).count();
}
double median(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + std::ssize(x) / 2, x.end());
  return x[x.size() / 2];
}

/// What all rows share: the tokens, the target, the drafts, and what calls cost.
struct trained_world {
  std::vector<token_id> train, rest;
  thread_pool pool{static_cast<index_t>(std::clamp(std::thread::hardware_concurrency(), 1u, 2u))};
  feed_forward_lm<> weights;
  double training_seconds = 0, bits = 0, bigram_bits = 0, trigram_bits = 0;
  ngram_model bigram;
  std::optional<target_model> target;
  std::optional<bigram_table> plain, taught, cipher;
  double teaching_seconds = 0;
  std::vector<double> curve;        // [b - 1] = t(b) / t(1)
  double call_seconds = 0;          // t(1)
  double plain_cost = 0, cost = 0;  // a draft call in target calls: n-gram rows, table rows

  explicit trained_world(index_t hidden) : trained_world(hidden, tokens_of_text()) {}
  std::vector<token_id> prompt(std::size_t i) const {
    const std::size_t length = std::min<std::size_t>(64, rest.size()), room = rest.size() - length + 1;
    const std::size_t first = (i * 7919) % room;
    return {rest.begin() + static_cast<std::ptrdiff_t>(first),
            rest.begin() + static_cast<std::ptrdiff_t>(first + length)};
  }
  const char* describe() const {
    static char note[400];
    std::snprintf(
        note, sizeof note,
        "target: feed-forward, V = %lld, hidden %lld, %.1f MB, trained on %zu tokens in %.1f s on %lld threads to "
        "%.2f bits a held-out token (Kneser-Ney 2: %.2f, 3: %.2f); a call %.0f us, t(b)/t(1) for b = 2, 3, 4, 5, 8: "
        "%.2f %.2f %.2f %.2f %.2f",
        static_cast<long long>(weights.vocabulary_size()), static_cast<long long>(weights.options().hidden),
        static_cast<double>(target->bytes_a_call()) / 1e6, train.size(), training_seconds,
        static_cast<long long>(pool.n_threads()), bits, bigram_bits, trigram_bits, 1e6 * call_seconds, curve[1],
        curve[2], curve[3], curve[4], curve[7]);
    return note;
  }

 private:
  struct corpus {
    std::vector<token_id> tokens;
    index_t vocabulary;
  };
  static const corpus& tokens_of_text() {
    static const corpus c = [] {
      const models::bpe_tokenizer pairs(bench::text(), {.vocabulary_size = 2048});
      return corpus{pairs.encode(bench::text()), pairs.vocabulary_size()};
    }();
    return c;
  }
  /// 90 % of the text, but no more than can be learned in the time that the mode has.
  static std::vector<token_id> part_for_training(const std::vector<token_id>& tokens) {
    const std::size_t most = bench::options().mode == bench::effort::quick  ? 80'000
                             : bench::options().mode == bench::effort::full ? 600'000
                                                                            : 250'000;
    const std::size_t n = std::min(most, std::max<std::size_t>(1, tokens.size() * 9 / 10));
    return {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(n)};
  }
  trained_world(index_t hidden, const corpus& c)
      : train(part_for_training(c.tokens)),
        rest(c.tokens.begin() + std::ssize(train), c.tokens.end()),
        weights(c.vocabulary, {.hidden = hidden}),
        bigram(std::span<const token_id>(train), c.vocabulary,
               {.order = 2, .smoothing = models::smoothing::kneser_ney}) {
    if (rest.empty()) rest = train;
    auto start = clock_type::now();
    static_cast<void>(weights.train(train, {}, pool));
    training_seconds = seconds_since(start);
    const index_t n_train = std::ssize(train), n_test = std::min<index_t>(20'000, std::ssize(rest));
    std::vector<token_id> all = train;
    all.insert(all.end(), rest.begin(), rest.begin() + n_test);
    bits = weights.bits_per_token(all, n_train, pool);
    const ngram_model trigram(std::span<const token_id>(train), c.vocabulary,
                              {.order = 3, .smoothing = models::smoothing::kneser_ney});
    bigram_bits = models::bits_per_token(bigram, all, n_train);
    trigram_bits = models::bits_per_token(trigram, all, n_train);
    target.emplace(weights, pool);
    plain.emplace(bigram);
    start = clock_type::now();
    taught.emplace(*plain);
    taught->learn(*target, train);
    teaching_seconds = seconds_since(start);
    // the same text with its tokens renamed, frequent ones to rare ones: fluent, and of no use
    std::vector<index_t> count(static_cast<std::size_t>(c.vocabulary)), rank(count.size());
    for (const token_id x : train) ++count[static_cast<std::size_t>(x)];
    std::iota(rank.begin(), rank.end(), index_t{0});
    std::sort(rank.begin(), rank.end(), [&](index_t x, index_t y) {
      const index_t a = count[static_cast<std::size_t>(x)], b = count[static_cast<std::size_t>(y)];
      return a != b ? a > b : x < y;
    });
    std::vector<token_id> name(count.size()), renamed = train;
    for (std::size_t r = 0; r < rank.size(); ++r)
      name[static_cast<std::size_t>(rank[r])] = static_cast<token_id>(rank[rank.size() - 1 - r]);
    for (token_id& x : renamed) x = name[static_cast<std::size_t>(x)];
    cipher.emplace(ngram_model(std::span<const token_id>(renamed), c.vocabulary,
                               {.order = 2, .smoothing = models::smoothing::kneser_ney}));
    measure_calls();
  }

  void measure_calls() {
    constexpr index_t most = 17;
    std::vector<double> best(most, 1e9);
    for (int repeat = 0; repeat < 40; ++repeat)
      for (index_t b = 1; b <= most; ++b) {
        token_tree chain;
        for (index_t i = 0; i <= b; ++i) {
          chain.token.push_back(train[static_cast<std::size_t>(i)]);
          chain.parent.push_back(i - 1);
        }
        target->reset(std::span(train).first(1));
        const auto start = clock_type::now();
        target->score(chain, 1);
        best[static_cast<std::size_t>(b - 1)] = std::min(best[static_cast<std::size_t>(b - 1)], seconds_since(start));
      }
    call_seconds = best[0];
    for (const double t : best) curve.push_back(std::max(t / best[0], curve.empty() ? 1.0 : curve.back()));
    const auto draft_call = [&](auto draft) {
      decoder d(*target, draft, token_rejection{}, prompt(0), {.shape = chain_shape(2), .max_new_tokens = 400},
                stream{3});
      while (!d.finished()) d.step();
      return d.stats().draft_seconds / static_cast<double>(d.stats().draft_calls) / call_seconds;
    };
    plain_cost = draft_call(lm(bigram));
    cost = draft_call(models::bigram_language_model(*taught));
  }
};

trained_world& world_512() {
  static trained_world w(512);
  return w;
}
trained_world& world_32() {
  static trained_world w(32);
  return w;
}

constexpr index_t n_tokens = 256;  // of a request
std::size_t requests_of_run() { return bench::options().mode == bench::effort::quick ? 2 : 8; }
std::size_t requests_of_check() { return bench::options().mode == bench::effort::quick ? 16 : 64; }

/// The baseline: what a user writes. One call on one position a token, one pass over its row, one draw.
void one_call_a_token(trained_world& w, std::size_t request) {
  auto& target = *w.target;
  const std::vector<token_id> prompt = w.prompt(request);
  std::vector<token_id> text;
  text.reserve(static_cast<std::size_t>(n_tokens));
  cursor random(stream{11}.derive(request));
  token_tree tree{{prompt.back()}, {-1}};
  target.reset(prompt);
  target.score(tree, 0);
  text.push_back(token_law(target.row(0)).draw(random));
  tree = {{prompt.back(), 0}, {-1, 0}};
  const index_t kept[] = {1};
  while (std::ssize(text) < n_tokens) {
    tree.token[1] = text.back();
    target.score(tree, 1);
    const token_id next = token_law(target.row(1)).draw(random);
    target.keep(kept);
    tree.token[0] = text.back();
    text.push_back(next);
  }
  benchmark::DoNotOptimize(std::as_const(text).data());
}

struct no_observer {};

/// One request with a draft; the controller goes on to the next.
template <class Draft, class Rule, class Controller, class Observer = no_observer>
decoder_stats decode(trained_world& w, Draft& draft, const Rule& rule, Controller& controller, const tree_shape& shape,
                     std::size_t request, std::vector<token_id>* text = nullptr, Observer&& observer = {}) {
  const std::vector<token_id> prompt = w.prompt(request);
  decoder d(*w.target, draft, rule, processing<unprocessed>{}, controller, std::span<const token_id>(prompt),
            {.shape = shape, .max_new_tokens = n_tokens}, stream{20240607}.derive(request));
  if constexpr (std::same_as<std::remove_cvref_t<Observer>, no_observer>)
    while (!d.finished()) d.step();
  else
    while (!d.finished()) d.step(observer);
  if (text != nullptr) text->assign(d.new_tokens().begin(), d.new_tokens().end());
  controller = d.controller();
  return d.stats();
}

template <class Rule>
concept has_exact_acceptance = requires {
  sizeof(exact_acceptance<Rule>);
};

/// What is checked of a row, and its counters; by requests whose prompts the baseline has too.
struct checked {
  decoder_stats stats;
  double expected = 0, variance = 0;
  std::vector<double> likelihood;
  bool greedy_agrees = true;
  double speedup = 0;
};

/// Log-likelihood of the emitted tokens under the rows that were computed for them.
template <class Round>
double likelihood_of(const Round& round) {
  double sum = 0;
  index_t node = 0;
  for (std::size_t i = 0; i < round.emitted().size(); ++i) {
    sum += token_law(round.target_law(node)).log_probability(round.emitted()[i]);
    if (i < round.path().size()) node = round.path()[i];
  }
  return sum;
}

/// A draft by reference or made for the row.
struct kneser_ney_draft {
  static lm make(const trained_world& w) { return lm(w.bigram); }
  static double cost(const trained_world& w) { return w.plain_cost; }
};
struct taught_draft {
  static models::bigram_language_model make(const trained_world& w) { return models::bigram_language_model(*w.taught); }
  static double cost(const trained_world& w) { return w.cost; }
};
struct cipher_draft {
  static models::bigram_language_model make(const trained_world& w) { return models::bigram_language_model(*w.cipher); }
  static double cost(const trained_world& w) { return w.cost; }
};

const std::vector<double>& plain_likelihood(trained_world& w) {
  static std::map<const trained_world*, std::vector<double>> all;
  auto& found = all[&w];
  if (found.empty()) {
    auto draft = taught_draft::make(w);
    fixed_draft_length none{0};
    for (std::size_t i = 0; i < requests_of_check(); ++i) {
      double sum = 0;
      decode(w, draft, token_rejection{}, none, chain_shape(0), 500'000 + i, nullptr,
             [&](const auto& round) { sum += likelihood_of(round); });
      found.push_back(sum / static_cast<double>(n_tokens));
    }
  }
  return found;
}

template <class Draft, class Rule, class Controller>
checked check(trained_world& w, const Rule& rule, Controller controller, const tree_shape& shape) {
  checked c;
  auto draft = Draft::make(w);
  for (std::size_t i = 0; i < requests_of_check(); ++i) {
    double likelihood = 0;
    const decoder_stats s = decode(w, draft, rule, controller, shape, 500'000 + i, nullptr, [&](const auto& round) {
      likelihood += likelihood_of(round);
      if constexpr (has_exact_acceptance<Rule>) {
        double mean = 0, square = 0, depth = 1;
        for (const double p : at_least(rule, round)) mean += p, square += (2 * depth++ - 1) * p;
        c.expected += mean, c.variance += square - mean * mean;
      }
    });
    add(c.stats, s);
    c.stats.draft_seconds += s.draft_seconds, c.stats.target_seconds += s.target_seconds,
        c.stats.verify_seconds += s.verify_seconds;
    c.likelihood.push_back(likelihood / static_cast<double>(n_tokens));
  }
  // temperature 0: the same tokens as taking the largest logit, one call each
  const std::vector<token_id> prompt = w.prompt(7);
  decoder greedy(*w.target, draft, rule, process_both(temperature{0}), controller, std::span<const token_id>(prompt),
                 {.shape = shape, .max_new_tokens = n_tokens}, stream{1});
  while (!greedy.finished()) greedy.step();
  const std::vector<token_id> text(greedy.new_tokens().begin(), greedy.new_tokens().end());
  std::vector<token_id> context = prompt;
  auto& target = *w.target;
  for (const token_id x : text) {
    target.reset(context);
    const auto row = target.row(0).values;
    const auto best = static_cast<token_id>(std::max_element(row.begin(), row.end()) - row.begin());
    c.greedy_agrees = c.greedy_agrees && x == best;
    context.push_back(x);
  }
  return c;
}

/// Median over nine pairs of runs, one after the other: seconds of the baseline / ours. The controller starts anew in
/// every run.
template <class Draft, class Rule, class Controller>
double interleaved_speedup(trained_world& w, const Rule& rule, const Controller& controller, const tree_shape& shape) {
  auto draft = Draft::make(w);
  std::vector<double> ratio;
  std::size_t request = 0;
  for (int run = 0; run < 10; ++run) {
    Controller own = controller;
    const std::size_t first = request;
    const auto start = clock_type::now();
    for (std::size_t i = 0; i < requests_of_run(); ++i) one_call_a_token(w, first + i);
    const double baseline = seconds_since(start);
    const auto again = clock_type::now();
    for (std::size_t i = 0; i < requests_of_run(); ++i) decode(w, draft, rule, own, shape, first + i);
    const double ours = seconds_since(again);
    request += requests_of_run();
    if (run > 0) ratio.push_back(baseline / ours);  // the first pair warms up
  }
  return median(ratio);
}

auto baseline(trained_world& (*world)(), double gamma = -1) {
  return [=](benchmark::State& state) {
    trained_world& w = world();
    std::size_t request = 0;
    for (auto _ : state) one_call_a_token(w, request++);
    state.counters["work"] = 1;
    if (gamma >= 0) state.counters["gamma"] = gamma;
    state.SetItemsProcessed(state.iterations() * n_tokens);
  };
}

enum class measures { law, speedup };

/// make(w) gives the controller; `quality` what the row is judged by.
template <class Draft, class Rule, class Make>
auto speculating(trained_world& (*world)(), Rule rule, Make make, tree_shape shape, double gamma = -1,
                 measures judged = measures::law) {
  return [=](benchmark::State& state) {
    trained_world& w = world();
    using controller_type = std::invoke_result_t<const Make&, const trained_world&>;
    // one for each Rule, Draft and kind of controller
    static std::map<std::pair<const trained_world*, std::vector<index_t>>, checked> all;
    std::vector<index_t> key;
    for (index_t i = 0; i <= shape.n_drafted(); ++i) key.push_back(shape.n_children(i));
    const auto [found, fresh] = all.try_emplace({&w, key});
    checked& c = found->second;
    if (fresh) {
      c = check<Draft>(w, rule, make(w), shape);
      c.speedup = interleaved_speedup<Draft>(w, rule, make(w), shape);
    }
    auto draft = Draft::make(w);
    controller_type controller = make(w);
    std::size_t request = 0;
    for (auto _ : state) decode(w, draft, rule, controller, shape, request++);
    state.SetItemsProcessed(state.iterations() * n_tokens);

    const decoder_stats& s = c.stats;
    const double calls = static_cast<double>(s.target_calls), tokens = static_cast<double>(s.tokens);
    state.counters["work"] = calls / tokens;
    if (has_exact_acceptance<Rule>) state.counters["expected"] = calls / (calls + c.expected);
    if (gamma >= 0) state.counters["gamma"] = gamma;
    measured likelihoods, plain;
    likelihoods.likelihood = c.likelihood;
    plain.likelihood = plain_likelihood(w);
    const double difference = likelihood_difference(likelihoods, plain);
    const double z = (static_cast<double>(s.accepted) - c.expected) / std::sqrt(std::max(c.variance, 1e-300));
    state.counters["quality"] = judged == measures::speedup ? c.speedup : difference;
    char note[320];
    std::snprintf(
        note, sizeof note,
        "%.2fx in the median of nine interleaved runs; %.2f tokens a call, %.1f nodes a call, acceptance %.3f%s; "
        "a call: draft %.1f, target %.1f, verification %.1f us; likelihood differs by %.1f s.e.",
        c.speedup, tokens / calls, static_cast<double>(s.nodes_scored) / calls, s.acceptance(),
        has_exact_acceptance<Rule> ? (std::abs(z) < 5.5 ? " (as the rows say)" : " (NOT as the rows say)") : "",
        1e6 * s.draft_seconds / calls, 1e6 * s.target_seconds / calls, 1e6 * s.verify_seconds / calls, difference);
    state.SetLabel(note);
    if (!c.greedy_agrees) state.SkipWithError("at temperature 0 the text is not the greedy text");
    if (has_exact_acceptance<Rule> && std::abs(z) > 5.5)
      state.SkipWithError("accepted lengths do not agree with the rows");
    if (difference > 5.5) state.SkipWithError("the likelihood of the text is not that of plain sampling");
  };
}

struct always {
  fixed_draft_length operator()(const trained_world&) const { return {}; }
};
template <class Draft, shape_family Family>
struct controlled_shape {
  adaptive_draft_shape operator()(const trained_world& w) const {
    return adaptive_draft_shape({.family = Family,
                                 .gamma_max = 6,
                                 .width = 3,
                                 .budget = 8,
                                 .draft_cost = Draft::cost(w),
                                 .target_curve = w.curve});
  }
};
template <class Draft>
struct controlled_length {
  adaptive_draft_length operator()(const trained_world& w) const {
    return adaptive_draft_length({.gamma_max = 6, .draft_cost = Draft::cost(w), .target_curve = w.curve});
  }
};

/// Logits of b positions in one call, against b calls; the label says what the target is and what calls cost.
auto scoring(index_t per_call) {
  return [=](benchmark::State& state) {
    trained_world& w = world_512();
    constexpr index_t n = 4;
    token_tree chain;
    for (index_t i = 0; i <= n; ++i) {
      chain.token.push_back(w.train[static_cast<std::size_t>(i)]);
      chain.parent.push_back(i - 1);
    }
    const auto part = [&](index_t last) {
      token_tree t;
      t.token.assign(chain.token.begin(), chain.token.begin() + last);
      t.parent.assign(chain.parent.begin(), chain.parent.begin() + last);
      return t;
    };
    std::vector<token_tree> parts;
    for (index_t last = 1 + per_call; last <= n + 1; last += per_call) parts.push_back(part(last));
    const auto score = [&] {
      w.target->reset(std::span(w.train).first(1));
      index_t first = 1;
      for (const token_tree& t : parts) {
        w.target->score(t, first);
        first = std::ssize(t.token);
      }
    };
    for (auto _ : state) score();
    state.counters["work"] =
        static_cast<double>(parts.size() * static_cast<std::size_t>(w.target->bytes_a_call())) / 1e6;
    // the same bits however they are computed
    score();
    std::vector<float> rows;
    for (index_t i = 1; i <= n; ++i)
      rows.insert(rows.end(), w.target->row(i).values.begin(), w.target->row(i).values.end());
    double difference = 0;
    w.target->reset(std::span(w.train).first(1));
    for (index_t i = 1; i <= n; ++i) {
      w.target->score(part(i + 1), i);
      const auto row = w.target->row(i).values;
      for (std::size_t x = 0; x < row.size(); ++x)
        difference = std::max(
            difference, std::abs(static_cast<double>(row[x] - rows[static_cast<std::size_t>(i - 1) * row.size() + x])));
    }
    state.counters["quality"] = difference;
    if (per_call > 1) state.SetLabel(w.describe());
  };
}

bench::row clocked(const std::string& slug, const std::string& workload, const std::string& claim,
                   std::optional<double> least_speedup = {}) {
  bench::row r = named(slug, "wall clock, " + workload, claim);
  if (least_speedup)
    r.quality = {
        .name = "speed-up, median of nine interleaved runs", .higher_is_better = true, .tolerance = *least_speedup};
  return r;
}

/// The draft with `gamma` tokens a round; the claims are the sources'.
template <index_t Gamma>
void add_gamma() {
  auto row = clocked("speculative-base", "taught bigram, token rejection, gamma = " + std::to_string(Gamma),
                     "2x to 3x (T5-XXL)");
  row.naive(baseline(world_512, Gamma))
      .sluice(speculating<taught_draft>(world_512, token_rejection{}, always{}, chain_shape(Gamma), Gamma));
  if (Gamma == 2) {
    row.peer("drafts greedy, draw and compare",
             speculating<taught_draft>(world_512, exact_match{}, always{}, chain_shape(Gamma), Gamma));
    row.peer("drafts sampled, draw and compare",
             speculating<taught_draft>(world_512, strict_match{}, always{}, chain_shape(Gamma), Gamma));
  }
}

const bool registered = [] {
  bench::row{.slug = "speculative-base",
             .workload = "wall clock, feed-forward target, four positions in one call",
             .unit = "MB of weights read",
             .quality = {.name = "largest difference of a logit", .tolerance = 0},
             .claim = "",
             .note = ""}
      .naive(scoring(1))
      .sluice(scoring(4));
  add_gamma<1>();
  add_gamma<2>();
  add_gamma<3>();
  add_gamma<4>();
  clocked("speculative-base", "Kneser-Ney bigram, token rejection, gamma 2", "2x to 3x (T5-XXL)")
      .naive(baseline(world_512))
      .sluice(speculating<kneser_ney_draft>(world_512, token_rejection{}, always{}, chain_shape(2)));
  clocked("speculative-base", "taught bigram, block verification, gamma 3", "5 to 8 % over token rejection")
      .naive(baseline(world_512))
      .sluice(speculating<taught_draft>(world_512, block_verification{}, always{}, chain_shape(3)));
  clocked("speculative-base", "taught bigram, two drafts without replacement and one below", "")
      .naive(baseline(world_512))
      .sluice(speculating<taught_draft>(world_512, without_replacement{}, always{}, tree_shape({2, 1, 0, 0})));
  clocked("spectr", "taught bigram, k-SEQ on two paths of two", "1.37x over a chain")
      .naive(baseline(world_512))
      .sluice(speculating<taught_draft>(world_512, k_seq{}, always{}, independent_paths(2, 2)));
  clocked("mdsd", "taught bigram, hybrid drafts, two and one below the random one", "")
      .naive(baseline(world_512))
      .sluice(speculating<taught_draft>(world_512, hybrid_verification<>{}, always{}, tree_shape({2, 0, 1, 0})));

  clocked("speculative-base", "taught bigram, chains, controller on", "", 1.3)
      .naive(baseline(world_512))
      .sluice(speculating<taught_draft>(world_512, token_rejection{},
                                        controlled_shape<taught_draft, shape_family::chains>{}, {}, -1,
                                        measures::speedup))
      .peer("gamma = 4 always",
            speculating<taught_draft>(world_512, token_rejection{}, always{}, chain_shape(4), -1, measures::speedup));
  clocked("speculative-base", "taught bigram, trees without replacement, controller on", "", 1.3)
      .naive(baseline(world_512))
      .sluice(speculating<taught_draft>(world_512, without_replacement{},
                                        controlled_shape<taught_draft, shape_family::trees>{}, {}, -1,
                                        measures::speedup));
  clocked("mdsd", "taught bigram, hybrid trees, controller on", "")
      .naive(baseline(world_512))
      .sluice(speculating<taught_draft>(world_512, hybrid_verification<>{},
                                        controlled_shape<taught_draft, shape_family::trees>{}, {}));
  clocked("speculative-base", "Kneser-Ney bigram, chains, controller on", "")
      .naive(baseline(world_512))
      .sluice(speculating<kneser_ney_draft>(world_512, token_rejection{},
                                            controlled_shape<kneser_ney_draft, shape_family::chains>{}, {}));
  clocked("speculative-base", "Kneser-Ney bigram, adaptive draft length", "")
      .naive(baseline(world_512))
      .sluice(speculating<kneser_ney_draft>(world_512, token_rejection{}, controlled_length<kneser_ney_draft>{},
                                            chain_shape(6)));
  clocked("speculative-base", "a draft of no use, chains, controller on", "", 0.97)
      .naive(baseline(world_512))
      .sluice(speculating<cipher_draft>(world_512, token_rejection{},
                                        controlled_shape<cipher_draft, shape_family::chains>{}, {}, -1,
                                        measures::speedup))
      .peer("gamma = 2 always",
            speculating<cipher_draft>(world_512, token_rejection{}, always{}, chain_shape(2), -1, measures::speedup));
  clocked("mdsd", "a draft of no use, hybrid trees, controller on", "", 0.97)
      .naive(baseline(world_512))
      .sluice(speculating<cipher_draft>(world_512, hybrid_verification<>{},
                                        controlled_shape<cipher_draft, shape_family::trees>{}, {}, -1,
                                        measures::speedup));
  // a target that costs hardly more than the draft
  clocked("speculative-base", "a target as cheap as its draft, chains, controller on", "", 0.9)
      .naive(baseline(world_32))
      .sluice(speculating<kneser_ney_draft>(world_32, token_rejection{},
                                            controlled_shape<kneser_ney_draft, shape_family::chains>{}, {}, -1,
                                            measures::speedup));
  return true;
}();

}  // namespace
