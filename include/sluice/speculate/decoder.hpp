#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/status.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/random/stream.hpp>
#include <sluice/speculate/draft_length.hpp>
#include <sluice/speculate/draft_shape.hpp>
#include <sluice/speculate/drafting.hpp>
#include <sluice/speculate/language_model.hpp>
#include <sluice/speculate/token_tree.hpp>
#include <sluice/speculate/verification.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

/// The speculative decoder: a cheap draft proposes, the target scores all proposals in one call, a rule keeps a part of
/// them and adds a token of its own, so that the text has the target's law whatever the draft. Draft, shape, rule,
/// processors and draft-length control combine freely; what does not fit together does not compile.
/// Sources: Leviathan et al. (arXiv:2211.17192), Chen et al. (arXiv:2302.01318), SpecInfer (arXiv:2305.09781).
namespace sluice {

/// No processor: rows are used where they are.
struct unprocessed {
  void process(std::span<double>, std::span<const token_id>) const {}
};

/// What is done to the target's and to the draft's rows before anything is drawn or verified. The processed target law
/// is the law of the output; the draft may be processed in another way, since q is the law that was drawn from.
template <class TargetProcessor = unprocessed, class DraftProcessor = TargetProcessor>
struct processing {
  TargetProcessor target{};
  DraftProcessor draft{};
};
template <class T, class D>
processing(T, D) -> processing<T, D>;

/// The same processor on both sides.
template <logit_processor P>
processing<P, P> process_both(const P& p) {
  return {p, p};
}

/// Random numbers of one request: round r derives a key, from it node i of the drafted tree derives one and the
/// verification another. So a draft does not depend on how much randomness its neighbours in the tree or other requests
/// used.
struct request_randomness {
  stream key;
  cursor drafting(std::int64_t round, index_t node) const {
    return cursor(at(round).derive(0).derive(static_cast<std::uint64_t>(node)));
  }
  cursor verification(std::int64_t round) const { return cursor(at(round).derive(1)); }

 private:
  stream at(std::int64_t round) const { return key.derive(static_cast<std::uint64_t>(round)); }
};

/// Times are not taken; decoder_stats has zeros.
struct no_clock {};

struct decoder_options {
  tree_shape shape = chain_shape(4);    ///< what a round may draft; a length controller cuts its depth, a shape
                                        ///< controller brings shapes of its own and this one is not used
  index_t max_new_tokens = 256;         ///< the prompt does not count
  std::vector<token_id> stop_tokens{};  ///< the text ends with the first of these; it is kept
  std::int64_t max_target_calls = std::numeric_limits<std::int64_t>::max();
};

/// Counters of a run. A position is a depth in the drafted tree; tokens behind a rejection are not tested.
struct decoder_stats {
  std::int64_t rounds = 0;         ///< completed; a round makes one target call
  std::int64_t target_calls = 0;   ///< rounds and the one that failed, if one did
  std::int64_t draft_calls = 0;    ///< calls of score or propose
  std::int64_t nodes_drafted = 0;  ///< distinct nodes of the drafted trees, over all rounds
  std::int64_t nodes_scored = 0;   ///< nodes_drafted and one root a target call
  std::int64_t tokens = 0;         ///< emitted, corrections and bonus tokens included
  std::int64_t accepted = 0, rejected = 0;
  std::vector<std::int64_t> tested_at, accepted_at, rejected_at;  ///< [depth - 1]
  std::vector<std::int64_t> accepted_rank;  ///< [k]: how often the k-th draw of a tested node was accepted
  double draft_seconds = 0, target_seconds = 0, verify_seconds = 0;
  stop_place stopped{};  ///< step: the round, index: the node

  double tokens_per_target_call() const { return ratio(tokens, target_calls); }
  double mean_accepted() const { return ratio(accepted, rounds); }
  /// accepted / (accepted + rejected): the rate of the tests that were made.
  double acceptance() const { return ratio(accepted, accepted + rejected); }
  /// The measured acceptance of each rank, up to the last that was accepted at all; best_tree takes it.
  std::vector<double> rank_acceptance() const {
    std::vector<double> a;
    for (const std::int64_t n : accepted_rank) a.push_back(ratio(n, accepted + rejected));
    while (!a.empty() && a.back() == 0) a.pop_back();
    return a;
  }

 private:
  static double ratio(std::int64_t a, std::int64_t b) {
    return b == 0 ? 0.0 : static_cast<double>(a) / static_cast<double>(b);
  }
};

/// What one round did. `emitted` is a view of the text, valid until the decoder is destroyed.
struct round_report {
  sluice::status status = sluice::status::completed;
  bool finished = false;  ///< a stop token or the length limit was reached; further rounds do nothing
  std::span<const token_id> emitted{};
  index_t drafted = 0;   ///< nodes
  index_t accepted = 0;  ///< drafted tokens among the emitted
};

/// What a run returns: the new tokens, how it ended, what it cost. If a row was unusable, `fault` says which model
/// ("target" or "draft"), which node, which element and its value, and the tokens are those of the rounds before.
struct decoding {
  std::vector<token_id> tokens;
  sluice::status status = sluice::status::completed;
  bool stop_token = false;  ///< ended by a stop token, not by the length limit
  row_fault fault{};
  decoder_stats stats;
};

/// All that a decoder is, apart from the models: plain data.
struct decoder_state {
  std::vector<token_id> text;
  index_t n_prompt = 0;
  index_t target_kept = 0, draft_kept = 0;             ///< tokens that each model has been told to keep
  bool target_started = false, draft_started = false;  ///< whether the model has scored its node 0
  bool stop_token = false;
  std::int64_t round = 0;
  stream key{0};
  decoder_stats stats;
  std::vector<double> controller;
};

/// A model that can be put to a text: node 0 becomes its last token, everything else is forgotten. The decoder calls it
/// when it is made and on restore. A model without it must be in that state already. Either way the decoder's first
/// call scores node 0, with first_new = 0.
template <class M>
concept resettable = requires(M& m, std::span<const token_id> text) {
  m.reset(text);
};

namespace detail {
struct always_continue {
  template <class Round>
  bool operator()(const Round&) const {
    return true;
  }
};

template <class D>
struct draft_scalar {
  using type = double;  // a source without a law: one-hot rows
};
template <language_model D>
struct draft_scalar<D> {
  using type = typename D::scalar;
};

template <class Rule>
struct draft_kind {
  using type = independent_draws;
};
template <class Rule>
requires requires { typename Rule::draft_kind; }
struct draft_kind<Rule> {
  using type = typename Rule::draft_kind;
};

template <class Clock>
class stopwatch {
 public:
  double lap() {  // seconds since the last lap
    if constexpr (std::same_as<Clock, no_clock>) {
      return 0;
    } else {
      const auto before = std::exchange(last_, Clock::now());
      return std::chrono::duration<double>(last_ - before).count();
    }
  }

 private:
  struct nothing {};
  static auto start() {
    if constexpr (std::same_as<Clock, no_clock>)
      return nothing{};
    else
      return Clock::now();
  }
  decltype(start()) last_ = start();
};
}  // namespace detail

/// One request. A round (`step`) drafts a tree of at most the shape, lets the target score it in one call, verifies it
/// and commits what was accepted and one token more; `run` repeats until a stop token, the length limit or the call
/// budget. The new tokens have exactly the law of drawing from the (processed) target one by one, cut at the first stop
/// token and at max_new_tokens.
///
/// Protocol with a model (target, or draft with a law): tree node 0 is the last token that the model was told to keep,
/// then the committed tokens that it does not know yet, then drafted nodes. `score` is called with first_new = 0 once,
/// later with 1 or more; `row` for every node scored since the last `keep`; all views must stay valid until the next
/// score or keep. keep may get an empty path: node 0 stays. The draft is asked for one level of the tree a call and for
/// nodes with children only.
///
/// Rule: a node rule with any shape, walked from the root, which looks only at rows on its way; or a chain rule
/// (request -> verdict), which sees the whole chain. The children are drawn as the rule's draft_kind says. Equal draws
/// of one node are one node, which draws as many children as all the shape's nodes that it stands for. Draft: a
/// language_model, or a proposal_source with a chain shape. Rows that processors edit are copies in the decoder's
/// scratch, made when a row is visited; without processors rows are never copied. The shape is cut to the tokens that
/// are still wanted, so that no position beyond the length limit is scored, and nothing is drafted behind a stop token;
/// both leave the law as it is.
///
/// Memory: the text, the tree, one row of doubles, and with processors one row of doubles for every node with children
/// and (target) for one node, or for every position of a chain rule. All of it is allocated by the constructor; a round
/// allocates nothing but what models, rule and processors do. One object a thread. A round that meets an unusable row
/// changes nothing but the statistics and may be tried again.
template <language_model Target, class Draft, class Rule, class Processing = processing<unprocessed, unprocessed>,
          class Controller = fixed_draft_length, class Clock = std::chrono::steady_clock>
requires((language_model<Draft> || proposal_source<Draft>)&&(draft_length_controller<Controller> ||
                                                             draft_shape_controller<Controller>)) class decoder {
  using target_processor = std::remove_cvref_t<decltype(std::declval<Processing&>().target)>;
  using draft_processor = std::remove_cvref_t<decltype(std::declval<Processing&>().draft)>;
  static_assert(logit_processor<target_processor> && logit_processor<draft_processor>);
  static constexpr bool has_law = language_model<Draft>;
  static constexpr bool chooses_shape = draft_shape_controller<Controller>;
  static constexpr bool target_processed = !std::same_as<target_processor, unprocessed>;
  static constexpr bool draft_processed = has_law && !std::same_as<draft_processor, unprocessed>;

 public:
  using target_scalar = std::conditional_t<target_processed, double, typename Target::scalar>;
  using draft_scalar = std::conditional_t<draft_processed, double, typename detail::draft_scalar<Draft>::type>;
  using draft_kind = typename detail::draft_kind<Rule>::type;
  static constexpr bool verifies_nodes = node_rule<Rule, target_scalar, draft_scalar, cursor>;
  static constexpr bool verifies_chains = chain_rule<Rule, target_scalar, draft_scalar, cursor>;
  static_assert(verifies_nodes || verifies_chains, "the rule must decide nodes or requests (chains)");
  /// A source without a law proposes one path; a rule for chains of independent draws, one child a node.
  static constexpr bool needs_chain =
      !has_law || !verifies_nodes || (verifies_chains && std::same_as<draft_kind, independent_draws>);

  /// A round as an observer sees it, after the decision and before the models are told: the drafted tree, the laws it
  /// was drawn from and verified against, and what was decided. Valid during the call.
  class round {
   public:
    std::int64_t index() const { return owner_->round_; }
    const drafted_tree& tree() const { return owner_->tree_; }
    std::span<const index_t> path() const { return owner_->accepted_path(); }  ///< accepted nodes
    std::span<const token_id> emitted() const { return emitted_; }
    std::span<const token_id> text() const { return owner_->text(); }  ///< emitted tokens included
    token_row<target_scalar> target_law(index_t node) const { return owner_->target_law(node); }
    /// Only for nodes with children.
    token_row<draft_scalar> draft_law(index_t node) const { return owner_->draft_law(node); }

   private:
    friend class decoder;
    round(decoder* owner, std::span<const token_id> emitted) : owner_(owner), emitted_(emitted) {}
    decoder* owner_;
    std::span<const token_id> emitted_;
  };

  /// The models are used by reference and must outlive the decoder; rule, processors and controller are copied.
  /// Throws invalid_argument if the prompt is empty or has a token outside the vocabulary, the vocabularies differ or
  /// are empty, max_new_tokens or max_target_calls or the controller's length is negative, a stop token is outside the
  /// vocabulary, or a shape (index: of a shape controller's candidates) is not a chain where rule or draft wants one.
  decoder(Target& target, Draft& draft, Rule rule, Processing processors, Controller controller,
          std::span<const token_id> prompt, decoder_options options, stream key, Clock = {})
      : target_(&target),
        draft_(&draft),
        rule_(std::move(rule)),
        processors_(std::move(processors)),
        controller_(std::move(controller)),
        options_(std::move(options)),
        random_{key},
        vocabulary_size_(static_cast<index_t>(target.vocabulary_size())),
        n_prompt_(std::ssize(prompt)),
        length_(std::ssize(prompt)),
        target_kept_(std::ssize(prompt)),
        draft_kept_(std::ssize(prompt)) {
    expects(vocabulary_size_ >= 1, "decoder", "target.vocabulary_size", vocabulary_size_);
    if constexpr (has_law)
      expects(draft.vocabulary_size() == vocabulary_size_, "decoder", "draft.vocabulary_size", draft.vocabulary_size());
    expects(!prompt.empty(), "decoder", "prompt.size", prompt.size());
    for (index_t i = 0; i < std::ssize(prompt); ++i)
      expects(in_vocabulary(prompt[static_cast<std::size_t>(i)]), "decoder", "prompt",
              prompt[static_cast<std::size_t>(i)], i);
    expects(options_.max_new_tokens >= 0, "decoder", "max_new_tokens", options_.max_new_tokens);
    expects(options_.max_target_calls >= 0, "decoder", "max_target_calls", options_.max_target_calls);
    for (index_t i = 0; i < std::ssize(options_.stop_tokens); ++i)
      expects(in_vocabulary(options_.stop_tokens[static_cast<std::size_t>(i)]), "decoder", "stop_tokens",
              options_.stop_tokens[static_cast<std::size_t>(i)], i);
    if constexpr (!chooses_shape)
      expects(controller_.length() >= 0, "decoder", "controller.length", controller_.length());
    const std::span<const tree_shape> all = shapes();
    for (index_t i = 0; i < std::ssize(all) && needs_chain; ++i)
      expects(all[at(i)].most_children() <= 1, "decoder", "shape.most_children", all[at(i)].most_children(),
              chooses_shape ? i : -1);
    allocate(prompt);
    tell_reset();
  }
  /// Without processors, with the shape's full depth in every round.
  decoder(Target& target, Draft& draft, Rule rule, std::span<const token_id> prompt, decoder_options options,
          stream key) requires std::default_initializable<Processing> && std::default_initializable<Controller>
      : decoder(target, draft, std::move(rule), Processing{}, Controller{}, prompt, std::move(options), key) {}

  /// One round with the request's own random numbers. Does nothing once finished. The observer is called as in `run`;
  /// its answer is in the status.
  template <class Observer = detail::always_continue>
  round_report step(Observer&& observer = {}) {
    return step_with(random_, observer);
  }
  /// One round with other sources of randomness: `random.drafting(round, node)` and `random.verification(round)`.
  template <class Randomness, class Observer = detail::always_continue>
  round_report step_with(Randomness& random, Observer&& observer = {}) {
    round_report report;
    if (finished()) {
      report.finished = true;
      return report;
    }
    detail::stopwatch<Clock> watch;
    round_outcome outcome;
    fault_ = {};
    const std::int64_t draft_calls = stats_.draft_calls;
    const index_t wanted = wanted_depth(), limit = std::min(wanted, remaining() - 1);
    outcome.cut = limit < wanted;
    outcome.catch_up = length_ - draft_kept_;
    outcome.first_call = !target_started_;
    draft_tree(random, limit);
    stats_.draft_seconds += outcome.draft_seconds = watch.lap();
    if (fault_) return failed(report);
    score_target();
    stats_.target_seconds += outcome.target_seconds = watch.lap();
    const token_id next = verify_draft(random);
    stats_.verify_seconds += outcome.verify_seconds = watch.lap();
    if (fault_) return failed(report);

    outcome.draft_calls = stats_.draft_calls - draft_calls;
    outcome.target_positions = tree_.size();
    outcome.drafted = tree_.depth(tree_.size() - 1);
    outcome.draft_rows = draft_rows_asked_;
    commit(report, outcome, next);
    controller_.update(outcome);
    bool go_on = true;
    if constexpr (std::same_as<std::invoke_result_t<Observer&, const round&>, void>)
      observer(round(this, report.emitted));
    else
      go_on = observer(round(this, report.emitted));
    tell_keep();
    ++round_;
    report.finished = finished();
    if (!go_on) report.status = status::stopped_by_observer;
    return report;
  }

  /// Rounds until a stop token or the length limit (completed), before a round that would exceed max_target_calls
  /// (budget_exhausted), an unusable row (invalid_row), or the observer's word (stopped_by_observer). The observer is
  /// called once a round with `const round&`; if it returns false, the run stops after that round is committed. The
  /// statistics are those of the whole request, earlier runs and steps included.
  template <class Observer = detail::always_continue>
  [[nodiscard]] decoding run(Observer&& observer = {}) {
    decoding d;
    while (!finished()) {
      if (stats_.target_calls >= options_.max_target_calls) {
        d.status = status::budget_exhausted;
        stats_.stopped = {round_, -1};
        break;
      }
      const round_report r = step(observer);
      d.status = r.status;
      if (r.status == status::stopped_by_observer) stats_.stopped = {round_ - 1, -1};
      if (r.status != status::completed) break;
    }
    const auto tokens = new_tokens();
    d.tokens.assign(tokens.begin(), tokens.end());
    d.stop_token = stop_token_;
    d.fault = d.status == status::invalid_row ? fault_ : row_fault{};
    d.stats = stats_;
    return d;
  }

  bool finished() const { return stop_token_ || remaining() == 0; }
  std::span<const token_id> text() const { return std::span(text_).first(static_cast<std::size_t>(length_)); }
  std::span<const token_id> new_tokens() const { return text().subspan(static_cast<std::size_t>(n_prompt_)); }
  const decoder_stats& stats() const { return stats_; }
  const Controller& controller() const { return controller_; }
  /// What the last round met, if it failed.
  const row_fault& fault() const { return fault_; }

  /// Between rounds: a copy of everything but the models.
  decoder_state state() const {
    return {{text().begin(), text().end()},
            n_prompt_,
            target_kept_,
            draft_kept_,
            target_started_,
            draft_started_,
            stop_token_,
            round_,
            random_.key,
            stats_,
            controller_.state()};
  }
  /// Continues a request that another decoder with the same options began: the same rounds follow to the bit. Models
  /// that have `reset` are put to the tokens they had kept; others must be there already. Throws invalid_argument,
  /// nothing changed, if the state does not fit: a prompt that is empty or longer than the text, more new tokens than
  /// max_new_tokens, a token outside the vocabulary, kept tokens beyond the text, or statistics of another shape.
  void restore(const decoder_state& s) {
    expects(s.n_prompt >= 1 && s.n_prompt <= std::ssize(s.text), "decoder::restore", "state.n_prompt", s.n_prompt);
    expects(std::ssize(s.text) - s.n_prompt <= options_.max_new_tokens, "decoder::restore", "state.text.size",
            s.text.size());
    for (index_t i = 0; i < std::ssize(s.text); ++i)
      expects(in_vocabulary(s.text[static_cast<std::size_t>(i)]), "decoder::restore", "state.text",
              s.text[static_cast<std::size_t>(i)], i);
    expects(s.target_kept >= 1 && s.target_kept <= std::ssize(s.text), "decoder::restore", "state.target_kept",
            s.target_kept);
    expects(s.draft_kept >= 1 && s.draft_kept <= std::ssize(s.text), "decoder::restore", "state.draft_kept",
            s.draft_kept);
    expects(s.stats.tested_at.size() == stats_.tested_at.size(), "decoder::restore", "state.stats.tested_at.size",
            s.stats.tested_at.size());
    expects(s.stats.accepted_rank.size() == stats_.accepted_rank.size(), "decoder::restore",
            "state.stats.accepted_rank.size", s.stats.accepted_rank.size());
    controller_.restore(s.controller);
    n_prompt_ = s.n_prompt;
    length_ = std::ssize(s.text);
    target_kept_ = s.target_kept;
    draft_kept_ = s.draft_kept;
    stop_token_ = s.stop_token;
    round_ = s.round;
    random_.key = s.key;
    stats_ = s.stats;
    fault_ = {};
    allocate(s.text);
    tell_reset();
    // After a reset node 0 is scored anew; a model that its owner brought to this place has scored what it had.
    target_started_ = s.target_started && !resettable<Target>;
    draft_started_ = s.draft_started && !resettable<Draft>;
  }

 private:
  bool in_vocabulary(token_id x) const { return x >= 0 && x < vocabulary_size_; }
  bool stops(token_id x) const {
    return std::find(options_.stop_tokens.begin(), options_.stop_tokens.end(), x) != options_.stop_tokens.end();
  }
  index_t remaining() const { return options_.max_new_tokens - (length_ - n_prompt_); }
  std::span<const index_t> accepted_path() const { return std::span(path_).first(static_cast<std::size_t>(accepted_)); }

  /// What a round may draft: of one controller's kind the options' shape, of the other its own candidates.
  std::span<const tree_shape> shapes() const {
    if constexpr (chooses_shape)
      return controller_.shapes();
    else
      return std::span(&options_.shape, 1);
  }
  const tree_shape& round_shape() const {
    if constexpr (chooses_shape)
      return controller_.shape();
    else
      return options_.shape;
  }
  /// Levels that the controller wants to draft.
  index_t wanted_depth() const {
    if constexpr (chooses_shape)
      return controller_.shape().depth();
    else
      return std::min(std::max<index_t>(controller_.length(), 0), options_.shape.depth());
  }

  void allocate(std::span<const token_id> text) {
    std::size_t nodes = 1, depth = 0, internal = 0, widest = 0;
    for (const tree_shape& s : shapes()) {
      nodes = std::max(nodes, at(s.n_drafted()) + 1);
      depth = std::max(depth, at(s.depth()));
      internal = std::max(internal, at(s.n_internal()));
      if (s.depth() > 0) widest = std::max(widest, at(s.widest_level()));
    }
    const auto vocabulary = static_cast<std::size_t>(vocabulary_size_);
    // room behind the text for the path to a node, which the context of a processor ends with
    const auto capacity = static_cast<std::size_t>(n_prompt_ + options_.max_new_tokens) + depth + 1;
    text_.assign(capacity, 0);
    std::copy(text.begin(), text.end(), text_.begin());
    tree_.reserve(static_cast<index_t>(nodes) - 1);
    target_tree_.token.reserve(capacity + nodes);
    target_tree_.parent.reserve(capacity + nodes);
    draft_tree_.token.reserve(capacity + nodes);
    draft_tree_.parent.reserve(capacity + nodes);
    shape_node_.resize(nodes);
    first_copy_.resize(nodes);
    next_copy_.resize(nodes);
    draft_node_.resize(nodes);
    slot_.resize(nodes);
    children_.resize(std::max(widest, depth) + 1);
    path_.resize(depth);
    ranks_.resize(depth);
    tests_.resize(depth);
    keep_path_.reserve(capacity + depth + 1);
    weights_.resize(has_law ? vocabulary : 0);
    if constexpr (draft_processed) draft_scratch_.resize(internal * vocabulary);
    if constexpr (target_processed) target_scratch_.resize((verifies_nodes ? 1 : depth + 1) * vocabulary);
    if constexpr (!verifies_nodes) {
      target_rows_.resize(depth + 1, {row_kind::probabilities, {}});
      draft_rows_.resize(depth, {row_kind::probabilities, {}});
    }
    stats_.tested_at.resize(depth);
    stats_.accepted_at.resize(depth);
    stats_.rejected_at.resize(depth);
    stats_.accepted_rank.resize(widest);
  }

  void tell_reset() {
    if constexpr (resettable<Target>) target_->reset(text().first(static_cast<std::size_t>(target_kept_)));
    if constexpr (resettable<Draft>) draft_->reset(text().first(static_cast<std::size_t>(draft_kept_)));
  }

  round_report& failed(round_report& report) {
    stats_.stopped = {round_, fault_.row};
    report.status = status::invalid_row;
    return report;
  }

  /// The tokens that the model has not kept, as a path below node 0; returns the node of the last committed token.
  index_t plant(token_tree& tree, index_t kept) const {
    tree.token.assign(1, text_[static_cast<std::size_t>(kept - 1)]);
    tree.parent.assign(1, -1);
    for (index_t i = kept; i < length_; ++i) {
      tree.parent.push_back(std::ssize(tree.token) - 1);
      tree.token.push_back(text_[static_cast<std::size_t>(i)]);
    }
    return length_ - kept;
  }

  template <class Randomness>
  void draft_tree(Randomness& random, index_t limit) {
    tree_.clear(text_[static_cast<std::size_t>(length_ - 1)]);
    draft_scored_ = false;
    draft_rows_asked_ = 0;
    if (limit == 0) return;
    if constexpr (has_law)
      draft_levels(random, limit);
    else
      take_proposal(limit);
  }

  void take_proposal(index_t limit) {
    const std::span<token_id> out = std::span(children_).first(static_cast<std::size_t>(limit));
    const index_t n = static_cast<index_t>(draft_->propose(text(), out));
    ++stats_.draft_calls;
    if (n < 0 || n > limit) {
      fault_ = {"draft", 0, -1, static_cast<double>(n)};
      return;
    }
    for (index_t i = 0; i < n; ++i) {
      const token_id x = out[static_cast<std::size_t>(i)];
      if (!in_vocabulary(x)) {
        fault_ = {"draft", i, -1, static_cast<double>(x)};
        return;
      }
      tree_.add_children(i, std::span(&x, 1));
      if (stops(x)) break;
    }
  }

  /// Calls f(s) for every node s of the shape that tree node i stands for, in the order drawn.
  template <class F>
  void each_copy(index_t i, F&& f) const {
    if (i == 0) return f(index_t{0});
    for (index_t g = first_copy_[at(i)]; g >= 0; g = next_copy_[at(g)]) f(shape_node_[at(g)]);
  }

  template <class Randomness>
  void draft_levels(Randomness& random, index_t limit) {
    const tree_shape& shape = round_shape();
    const index_t root = plant(draft_tree_, draft_kept_);
    index_t first_new = draft_started_ ? 1 : 0;
    for (index_t first = 0, last = 1; first < last && tree_.depth(first) < limit; first = last, last = tree_.size()) {
      bool any = false;
      for (index_t i = first; i < last; ++i) {
        bool parent = false;
        each_copy(i, [&](index_t s) { parent = parent || shape.n_children(s) > 0; });
        parent = parent && (i == 0 || !stops(tree_.token(i)));
        draft_node_[at(i)] = !parent ? -1 : i == 0 ? root : std::ssize(draft_tree_.token);
        any = any || parent;
        if (parent && i > 0) {
          draft_tree_.token.push_back(tree_.token(i));
          draft_tree_.parent.push_back(draft_node_[at(tree_.parent(i))]);
        }
      }
      if (!any) break;
      draft_->score(std::as_const(draft_tree_), first_new);
      ++stats_.draft_calls;
      draft_scored_ = true;
      first_new = std::ssize(draft_tree_.token);
      for (index_t i = first; i < last; ++i) {
        if (draft_node_[at(i)] < 0) continue;
        index_t wanted = 0;
        each_copy(i, [&](index_t s) { wanted += shape.n_children(s); });
        const std::span<token_id> out = std::span(children_).first(at(wanted));
        slot_[at(i)] = draft_rows_asked_++;
        const token_row<draft_scalar> law = draft_row(i);
        drawn_children drawn;
        if (!fault_) {
          auto&& source = random.drafting(round_, i);
          drawn = draw_children(draft_kind{}, out, std::span(weights_), law, vocabulary_size_, source);
          fault_ = drawn.fault;
        }
        if (fault_) {
          fault_.row = i;
          return;
        }
        add_draws(i, out.first(at(drawn.n)));
      }
    }
  }

  /// Puts the draws of node i into the tree and remembers which node of the shape each of them is. The copies of a node
  /// are a list, its head at the node, in the order drawn.
  void add_draws(index_t i, std::span<const token_id> drawn) {
    const index_t n = std::ssize(drawn), first = tree_.n_draws(), first_node = tree_.size();
    tree_.add_children(i, drawn);
    const tree_shape& shape = round_shape();
    index_t k = 0;
    each_copy(i, [&](index_t s) {
      for (index_t c = 0; c < shape.n_children(s) && k < n; ++c)
        shape_node_[at(first + k++)] = shape.first_child(s) + c;
    });
    for (index_t node = first_node; node < tree_.size(); ++node) first_copy_[at(node)] = draft_node_[at(node)] = -1;
    while (k-- > 0) {
      const index_t node = tree_.node_of_draw(i, k);
      next_copy_[at(first + k)] = std::exchange(first_copy_[at(node)], first + k);
    }
  }

  /// A checked copy of a model's row as dense logits.
  template <class S>
  bool copy_logits(std::span<double> out, const token_row<S>& row, const char* argument, index_t node) {
    if (row.ids.empty() ? row.values.size() != out.size() : row.values.size() != row.ids.size()) {
      fault_ = {argument, node, -1, static_cast<double>(row.values.size())};
      return false;
    }
    if (!row.ids.empty()) std::fill(out.begin(), out.end(), -std::numeric_limits<double>::infinity());
    for (index_t j = 0; j < std::ssize(row.values); ++j) {
      const double v = static_cast<double>(row.values[at(j)]);
      const token_id x = row.ids.empty() ? static_cast<token_id>(j) : row.ids[at(j)];
      const bool probability = row.kind == row_kind::probabilities;
      if (!in_vocabulary(x) || !(v < std::numeric_limits<double>::infinity()) || (probability && v < 0)) {
        fault_ = {argument, node, j, in_vocabulary(x) ? v : static_cast<double>(x)};
        return false;
      }
      out[static_cast<std::size_t>(x)] = probability ? std::log(v) : v;
    }
    return true;
  }

  /// Draws of the draft at node i: its row, or the processed copy, made here.
  token_row<draft_scalar> draft_row(index_t i) {
    if constexpr (draft_processed) {
      const std::span<double> out = draft_slot(i);
      if (copy_logits(out, draft_->row(draft_node_[at(i)]), "draft", i)) processors_.draft.process(out, context_of(i));
      return {row_kind::logits, out};
    } else {
      return draft_->row(draft_node_[at(i)]);
    }
  }
  std::span<double> draft_slot(index_t i) {
    return std::span(draft_scratch_)
        .subspan(static_cast<std::size_t>(slot_[at(i)] * vocabulary_size_), static_cast<std::size_t>(vocabulary_size_));
  }

  /// The law that the children of node i were drawn from.
  token_row<draft_scalar> draft_law(index_t i) {
    if constexpr (!has_law) {
      static constexpr double one = 1;
      return {row_kind::probabilities, std::span(&one, 1), tree_.children(i).first(1)};
    } else if constexpr (draft_processed) {
      return {row_kind::logits, draft_slot(i)};
    } else {
      return draft_->row(draft_node_[at(i)]);
    }
  }

  /// The law that the output must have at node i.
  token_row<target_scalar> target_law(index_t i) {
    const auto row = target_->row(target_root_ + i);
    if constexpr (target_processed) {
      const auto v = static_cast<std::size_t>(vocabulary_size_);
      const std::span<double> out = std::span(target_scratch_).subspan(verifies_nodes ? 0 : at(i) * v, v);
      if (copy_logits(out, row, "target", i))
        processors_.target.process(out, context_of(i));
      else
        std::fill(out.begin(), out.end(), 0.0);  // usable: the fault is reported after the decision
      return {row_kind::logits, out};
    } else {
      if (row.ids.empty() && std::ssize(row.values) != vocabulary_size_)
        fault_ = {"target", i, -1, static_cast<double>(row.values.size())};
      return row;
    }
  }

  /// The text and the path to node i, contiguous behind the text.
  std::span<const token_id> context_of(index_t i) {
    const index_t depth = tree_.depth(i);
    for (index_t node = i; node > 0; node = tree_.parent(node))
      text_[at(length_ + tree_.depth(node) - 1)] = tree_.token(node);
    return std::span(text_).first(static_cast<std::size_t>(length_ + depth));
  }

  void score_target() {
    target_root_ = plant(target_tree_, target_kept_);
    for (index_t i = 1; i < tree_.size(); ++i) {
      target_tree_.token.push_back(tree_.token(i));
      target_tree_.parent.push_back(target_root_ + tree_.parent(i));
    }
    target_->score(std::as_const(target_tree_), target_started_ ? 1 : 0);
    ++stats_.target_calls;
    stats_.nodes_drafted += tree_.n_drafted();
    stats_.nodes_scored += tree_.size();
  }

  template <class Randomness>
  token_id verify_draft(Randomness& random) {
    auto&& source = random.verification(round_);
    accepted_ = 0;
    row_fault fault;
    token_id next = -1;
    if constexpr (!verifies_nodes) {
      const index_t n = tree_.n_drafted();
      for (index_t i = 0; i < n; ++i) draft_rows_[at(i)] = draft_law(i);
      for (index_t i = 0; i <= n && !fault_; ++i) target_rows_[at(i)] = target_law(i);
      if (fault_) return next;
      const std::span<const token_id> tokens = std::span(tree_.tokens().token).subspan(1);
      const decision d = rule_.decide(request<target_scalar, draft_scalar>{std::span(target_rows_).first(at(n + 1)),
                                                                           std::span(draft_rows_).first(at(n)), tokens,
                                                                           static_cast<std::uint64_t>(round_)},
                                      source);
      fault = d.fault;
      next = d.result.next;
      accepted_ = d.result.accepted;
      for (index_t i = 0; i < accepted_; ++i) path_[at(i)] = i + 1, ranks_[at(i)] = 0;
    } else {
      const tree_decision d = verify_tree(
          rule_, [&](index_t i) { return target_law(i); }, [&](index_t i) { return draft_law(i); }, std::span(path_),
          std::span(ranks_), std::as_const(tree_), source);
      fault = d.fault;
      next = d.next;
      accepted_ = d.accepted;
    }
    if (!fault_) fault_ = fault;
    return next;
  }

  void commit(round_report& report, round_outcome& outcome, token_id next) {
    const index_t before = length_;
    const index_t last = accepted_ == 0 ? 0 : path_[at(accepted_ - 1)];
    const bool rejected = tree_.n_draws(last) > 0;
    index_t kept = 0, tests = 0;  // kept: accepted tokens up to a stop token
    for (index_t node = 0; kept < accepted_ && !stop_token_; ++kept) {
      const auto draws = tree_.draws(node);
      node = path_[at(kept)];
      const token_id x = tree_.token(node);
      tests_[at(tests++)] = {std::ssize(draws), ranks_[at(kept)], std::count(draws.begin(), draws.end(), x)};
      text_[at(length_++)] = x;
      stop_token_ = stops(x);
      ++stats_.tested_at[at(kept)];
      ++stats_.accepted_at[at(kept)];
      ++stats_.accepted_rank[at(ranks_[at(kept)])];
    }
    stats_.accepted += kept;
    outcome.accepted = kept;
    accepted_ = kept;
    if (!stop_token_) {
      text_[at(length_++)] = next;
      stop_token_ = stops(next);
      if (rejected) {
        ++stats_.tested_at[at(kept)];
        ++stats_.rejected_at[at(kept)];
        ++stats_.rejected;
        outcome.rejected = true;
        tests_[at(tests++)] = {tree_.n_draws(last), -1, 0};
      }
    }
    outcome.tests = std::span(tests_).first(at(tests));
    ++stats_.rounds;
    stats_.tokens += length_ - before;
    report.emitted = text().subspan(at(before));
    report.drafted = tree_.n_drafted();
    report.accepted = kept;
  }

  /// Tells each model which of its nodes are committed: those planted and those accepted, if it has scored them.
  void tell_keep() {
    keep_path_.clear();
    for (index_t i = 1; i <= target_root_; ++i) keep_path_.push_back(i);
    for (const index_t node : accepted_path()) keep_path_.push_back(target_root_ + node);
    target_->keep(std::span<const index_t>(keep_path_));
    target_kept_ += std::ssize(keep_path_);
    target_started_ = true;
    if constexpr (has_law) {
      if (!draft_scored_) return;
      keep_path_.clear();
      for (index_t i = 1; i <= draft_node_[0]; ++i) keep_path_.push_back(i);
      for (const index_t node : accepted_path()) {
        if (draft_node_[at(node)] < 0) break;
        keep_path_.push_back(draft_node_[at(node)]);
      }
      draft_->keep(std::span<const index_t>(keep_path_));
      draft_kept_ += std::ssize(keep_path_);
      draft_started_ = true;
    }
  }

  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

  Target* target_;
  Draft* draft_;
  Rule rule_;
  Processing processors_;
  Controller controller_;
  decoder_options options_;
  request_randomness random_;
  index_t vocabulary_size_, n_prompt_, length_, target_kept_, draft_kept_;
  bool target_started_ = false, draft_started_ = false, stop_token_ = false, draft_scored_ = false;
  std::int64_t round_ = 0;
  index_t accepted_ = 0, target_root_ = 0, draft_rows_asked_ = 0;
  row_fault fault_{};
  decoder_stats stats_;
  std::vector<token_id> text_, children_;  // text_: length_ tokens, then room
  drafted_tree tree_;
  token_tree target_tree_, draft_tree_;
  std::vector<index_t> shape_node_, first_copy_, next_copy_;  // of a draw, of a node, of a draw
  std::vector<index_t> draft_node_, slot_, path_, ranks_, keep_path_;
  std::vector<node_test> tests_;
  std::vector<double> weights_, draft_scratch_, target_scratch_;
  std::vector<token_row<target_scalar>> target_rows_;
  std::vector<token_row<draft_scalar>> draft_rows_;
};

template <class T, class D, class R>
decoder(T&, D&, R, std::span<const token_id>, decoder_options, stream) -> decoder<T, D, R>;
template <class T, class D, class R>
decoder(T&, D&, R, std::vector<token_id>, decoder_options, stream) -> decoder<T, D, R>;
template <class T, class D, class R, class P, class C>
decoder(T&, D&, R, P, C, std::span<const token_id>, decoder_options, stream) -> decoder<T, D, R, P, C>;
template <class T, class D, class R, class P, class C>
decoder(T&, D&, R, P, C, std::vector<token_id>, decoder_options, stream) -> decoder<T, D, R, P, C>;
template <class T, class D, class R, class P, class C, class Clock>
decoder(T&, D&, R, P, C, std::span<const token_id>, decoder_options, stream, Clock) -> decoder<T, D, R, P, C, Clock>;

}  // namespace sluice
