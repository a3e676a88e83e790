#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/speculate/draft_length.hpp>
#include <sluice/speculate/token_tree.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

/// What to draft in a round, depth and width at once: what a shape is expected to emit and to cost, the best of several
/// shapes, and a controller that measures both while a decoder runs and turns drafting off where it does not pay.
/// Sources: the static tree of a node budget is Sequoia's (arXiv:2402.12374); the speed-up formula with a measured
/// target curve is that of arXiv:2211.17192 with the cost of a call on several positions. The controller is ours.
namespace sluice {

namespace detail {
/// Bottom up: value[i] = 1 + sum_k acceptance(n, k) value[child k], n the number of children of node i.
template <class Acceptance>
double tokens_of_shape(std::span<double> value, const tree_shape& shape, const Acceptance& acceptance) {
  for (index_t i = shape.n_drafted(); i >= 0; --i) {
    double v = 1;
    for (index_t k = 0, n = shape.n_children(i); k < n; ++k)
      v += acceptance(n, k) * value[static_cast<std::size_t>(shape.first_child(i) + k)];
    value[static_cast<std::size_t>(i)] = v;
  }
  return value[0];
}
}  // namespace detail

/// Tokens that a round of this shape emits, correction or bonus included, if at every visited node with n draws draw k
/// is the accepted one with probability acceptance(n, k), independent of depth and of what was drafted:
///     E(node) = 1 + sum_k acceptance(n, k) E(child k).
/// Equal draws are not considered: for independent draws, which share nodes, this is a lower bound. acceptance is a
/// callable (index_t n, index_t k) -> double; its values and their sum over k should lie in [0, 1], which is not
/// checked. O(nodes), one allocation. Differs from best_tree's model by the dependence on n only.
template <class Acceptance>
requires std::is_invocable_r_v<double, const Acceptance&, index_t, index_t>
double expected_tokens(const tree_shape& shape, const Acceptance& acceptance) {
  std::vector<double> value(static_cast<std::size_t>(shape.n_drafted()) + 1);
  return detail::tokens_of_shape(std::span(value), shape, acceptance);
}

namespace detail {
inline double cost_of_shape(const tree_shape& shape, const call_costs& costs) {
  const auto levels = static_cast<double>(shape.depth()), rows = static_cast<double>(shape.n_internal());
  return levels * costs.draft + (rows - levels) * costs.draft_row +
         costs.target(shape.n_drafted() + 1) / costs.target(1);
}
}  // namespace detail

/// What a round of this shape costs, in target calls on one position: a draft call a level, of `costs.draft` and
/// `costs.draft_row` for each node of the level with children beyond the first, and one target call on all nodes and
/// the root. Throws invalid_argument if a cost is out of range (see expected_speedup of draft_length.hpp). O(curve).
inline double expected_cost(const tree_shape& shape, const call_costs& costs) {
  detail::expects_costs("expected_cost", costs);
  return detail::cost_of_shape(shape, costs);
}

struct draft_shape_choice {
  index_t index = -1;  ///< of the shape; -1: draft nothing
  double speedup = 1;
};

/// The candidate of the largest expected_tokens / expected_cost; the smaller number of nodes, then the first, on ties;
/// -1 if none is faster than one target call a token. O(total nodes), one allocation. Throws as expected_cost.
template <class Acceptance>
requires std::is_invocable_r_v<double, const Acceptance&, index_t, index_t> draft_shape_choice
best_draft_shape(std::span<const tree_shape> candidates, const Acceptance& acceptance, const call_costs& costs) {
  detail::expects_costs("best_draft_shape", costs);
  constexpr double tie = 1 + 4 * std::numeric_limits<double>::epsilon();
  index_t most = 0;
  for (const tree_shape& s : candidates) most = std::max(most, s.n_drafted());
  std::vector<double> value(static_cast<std::size_t>(most) + 1);
  draft_shape_choice best;
  index_t nodes = 0;
  for (index_t i = 0; i < std::ssize(candidates); ++i) {
    const tree_shape& s = candidates[static_cast<std::size_t>(i)];
    const double speedup = detail::tokens_of_shape(std::span(value), s, acceptance) / detail::cost_of_shape(s, costs);
    if (speedup > tie * best.speedup || (speedup * tie >= best.speedup && s.n_drafted() < nodes))
      best = {i, speedup}, nodes = s.n_drafted();
  }
  return best;
}

/// Asked before each round for the shape of what is drafted, told its outcome after. The root alone means: draft
/// nothing, this round is a plain target call. `shapes()` are all that it can answer, for which a decoder allocates;
/// `shape()` is one of them and stays valid until the next update. What it answers may depend on past rounds only: then
/// the text keeps the target's law.
template <class C>
concept draft_shape_controller = requires(C& c, const C& constant, const round_outcome& outcome,
                                          std::span<const double> saved) {
  { constant.shape() } -> std::same_as<const tree_shape&>;
  { constant.shapes() } -> std::convertible_to<std::span<const tree_shape>>;
  c.update(outcome);
  { constant.state() } -> std::same_as<std::vector<double>>;
  c.restore(saved);
};

/// Which shapes a controller considers. It must suit the rule: `chains` for chain rules and sources without a law;
/// `independent_paths` for node rules of independent draws (equal draws share nodes, which the forecast knows); `trees`
/// for node rules whose draws differ: without replacement, top draws, hybrid.
enum class shape_family { chains, independent_paths, trees };

struct adaptive_draft_shape_options {
  shape_family family = shape_family::trees;
  index_t gamma_max = 8;               ///< most levels
  index_t width = 4;                   ///< most children of a node, or paths
  index_t budget = 32;                 ///< most drafted nodes
  std::vector<tree_shape> shapes{};    ///< candidates of your own, besides; may exceed the three limits
  double draft_cost = 0.1;             ///< one draft call on one position, in target calls on one position
  double draft_row_cost = 0;           ///< each further position of a draft call
  std::vector<double> target_curve{};  ///< [b - 1] = t(b) / t(1); empty: flat
  double decay = 0.99;                 ///< a drafting round's weight fades by this factor a drafting round; 1: never
  double prior_acceptance = 0.6;       ///< of the first draw
  double prior_ratio = 0.6;  ///< acceptance of the next draw, if it is tested, over that of the draw before: the prior
  double prior_tests = 4;    ///< weight of these priors, in tests; does not fade
  double prior_rounds = 16;  ///< weight of the forecast of a shape against its own rounds, in rounds
  double least_speedup = 1.02;                     ///< below this forecast nothing is drafted
  index_t first_pause = 64, longest_pause = 8192;  ///< rounds between two trials while nothing is drafted
  bool measure_times =
      false;  ///< learn the costs from the decoder's clock; then the text depends on the machine's pace
};

/// Chooses the shape of every round from the acceptance that it observes and the costs that it is told or measures.
///
/// Acceptance. For nodes with n draws it keeps decayed counts T_n of tests and C_{n,k} of acceptances of draw k, and
/// over all n the rates h_k of a draw that is reached:
///     h_k = (w pi_k + hits_k) / (w + reached_k),   pi_0 = prior_acceptance,   pi_k = prior_ratio h_{k-1},
///     a_{n,k} = (w h_k prod_{j<k} (1 - h_j) + C_{n,k}) / (w + T_n),   w = prior_tests;
/// so a cell without tests takes its forecast from the others. A shape emits E = expected_tokens(shape, a) in the
/// model; independent paths share nodes, of n draws the accepted token has 1 + Binomial(n - 1, c) copies, c measured,
///     E_l(n) = 1 + sum_k a_{n,k} sum_j Binomial(n - 1, c)(j) E_{l-1}(1 + j),   E_0 = 1.
/// The forecast of a shape mixes the model, worth prior_rounds rounds, with what the shape itself emitted, so that what
/// the model does not see (acceptance that depends on depth) corrects itself.
///
/// Costs, in target calls on one position: as expected_cost, from the options, or with measure_times from the clock: a
/// draft call by least squares on calls and rows, the target (and verification) by a decayed mean for each number of
/// positions, made monotone, straight lines between. A time counts at most four times what was expected of it. Until
/// two rounds without a draft are timed nothing is drafted, nor ever more than four times the positions that were timed
/// (at first five); one round in 128 is without a draft to keep t(1) known.
///
/// Where no shape is forecast to reach least_speedup nothing is drafted: update is then O(1), and a round costs one
/// target call and nothing else. After a pause the best shape is tried, and again as long as it pays at once; a trial
/// that does not pay doubles the next pause, up to longest_pause, one that does shortens it. So a pair for which
/// drafting never pays loses the cost of O(log) trials and then of one in longest_pause rounds.
///
/// The candidates are made by the constructor: the root alone; chains; for independent_paths all numbers of paths and
/// depths within the budget; for trees all full trees and the best trees (best_tree) for a ladder of budgets and
/// twelve profiles of acceptance, O(gamma_max budget^2 width^2) a profile. In the
/// first 32 drafting rounds after a pause and in every fourth later one update plans, O(candidates' nodes); it
/// allocates nothing; copying a controller is cheaper than making one. A decoder copies it: to keep what was learned,
/// give the next decoder a copy of d.controller(). Ours.
class adaptive_draft_shape {
 public:
  /// Throws invalid_argument if gamma_max < 0, width < 1, budget < 0 or above 1024, decay is not in (0, 1], a prior is
  /// not in [0, 1] or its weight not positive, least_speedup is not positive or not finite, first_pause < 1,
  /// longest_pause < first_pause, or a cost is out of range.
  explicit adaptive_draft_shape(const adaptive_draft_shape_options& options = {}) : options_(options) {
    constexpr const char* name = "adaptive_draft_shape";
    expects(options.gamma_max >= 0, name, "gamma_max", options.gamma_max);
    expects(options.width >= 1, name, "width", options.width);
    expects(options.budget >= 0 && options.budget <= 1024, name, "budget", options.budget);
    expects(options.decay > 0 && options.decay <= 1, name, "decay", options.decay);
    expects(options.prior_acceptance >= 0 && options.prior_acceptance <= 1, name, "prior_acceptance",
            options.prior_acceptance);
    expects(options.prior_ratio >= 0 && options.prior_ratio <= 1, name, "prior_ratio", options.prior_ratio);
    expects(options.prior_tests > 0 && std::isfinite(options.prior_tests), name, "prior_tests", options.prior_tests);
    expects(options.prior_rounds > 0 && std::isfinite(options.prior_rounds), name, "prior_rounds",
            options.prior_rounds);
    expects(options.least_speedup > 0 && std::isfinite(options.least_speedup), name, "least_speedup",
            options.least_speedup);
    expects(options.first_pause >= 1, name, "first_pause", options.first_pause);
    expects(options.longest_pause >= options.first_pause, name, "longest_pause", options.longest_pause);
    detail::expects_costs(name, {options.draft_cost, options.target_curve, options.draft_row_cost});
    make_candidates();
    options_.shapes.clear();
    index_t positions = 1;
    for (const tree_shape& s : shapes_) {
      positions = std::max(positions, s.n_drafted() + 1);
      most_draws_ = std::max(most_draws_, s.most_children());
    }
    const auto n = static_cast<std::size_t>(most_draws_);
    tests_.assign(n + 1, 0);
    accepted_.assign(n * (n + 1) / 2, 0);
    acceptance_.assign(accepted_.size(), 0);
    reached_.assign(n, 0);
    hits_.assign(n, 0);
    own_rounds_.assign(shapes_.size(), 0);
    own_tokens_.assign(shapes_.size(), 0);
    own_nodes_.assign(shapes_.size(), 0);
    seconds_.assign(static_cast<std::size_t>(positions), 0);
    calls_.assign(seconds_.size(), 0);
    curve_.assign(seconds_.size(), 1);
    block_weight_.assign(seconds_.size(), 0);
    value_.assign(seconds_.size(), 1);
    const auto columns = static_cast<std::size_t>(options.family == shape_family::independent_paths ? most_draws_ : 1);
    paths_value_.assign(static_cast<std::size_t>(options.gamma_max + 1) * columns, 1);
    binomial_.assign(columns, 0);
    pause_left_ = options.first_pause;
    calibrations_left_ = options.measure_times ? 2 : 0;
    plan();
    on_ = calibrations_left_ > 0 || pays();
    chosen_ = on_ && calibrations_left_ == 0 ? best_ : 0;
  }

  const tree_shape& shape() const { return shapes_[static_cast<std::size_t>(chosen_)]; }
  std::span<const tree_shape> shapes() const { return shapes_; }
  /// Whether the last plan was to draft. A trial is a shape while this is false; a round without one while it is true
  /// measures t(1).
  bool speculating() const { return on_; }
  /// The forecast of the best shape at the last plan; that of drafting nothing is 1.
  double speedup() const { return best_speedup_; }
  /// P(draw k of n is the accepted one) at the last plan, 0 <= k < n <= the most draws of a candidate.
  double acceptance(index_t n, index_t k) const { return acceptance_[cell(n, k)]; }
  /// The target curve in use, [b - 1] = t(b) / t(1), up to the largest candidate and its root.
  std::span<const double> target_curve() const { return curve_; }
  /// A draft call on one position and each further position, in target calls.
  double draft_cost() const { return draft_call_; }
  double draft_row_cost() const { return draft_row_; }

  void update(const round_outcome& o) {
    if (options_.measure_times) learn_times(o);
    if (!o.tests.empty()) learn_tests(o);
    if (chosen_ != 0 && !o.cut) learn_round(o);
    if (calibrations_left_ > 0) {
      if (o.target_positions == 1 && !o.first_call) --calibrations_left_;
      if (calibrations_left_ > 0) return;
      plan();
      on_ = pays();
      chosen_ = on_ ? best_ : 0;
      return;
    }
    if (on_)
      after_drafting(o);
    else if (chosen_ != 0)
      after_trial(o);
    else
      after_pause();
  }

  std::vector<double> state() const {
    std::vector<double> s{static_cast<double>(chosen_),
                          on_ ? 1.0 : 0.0,
                          static_cast<double>(calibrations_left_),
                          static_cast<double>(pause_left_),
                          static_cast<double>(level_),
                          static_cast<double>(since_plain_),
                          static_cast<double>(since_off_),
                          one_call_,
                          trial_tokens_,
                          trial_cost_,
                          same_,
                          others_,
                          draft_cc_,
                          draft_cr_,
                          draft_rr_,
                          draft_cs_,
                          draft_rs_,
                          static_cast<double>(best_),
                          best_speedup_,
                          draft_call_,
                          draft_row_};
    each_array([&](const std::vector<double>& v) { s.insert(s.end(), v.begin(), v.end()); }, *this);
    return s;
  }
  /// Takes a state of a controller with the same options. Throws invalid_argument, nothing changed, if its size differs
  /// or its shape is none of the candidates.
  void restore(std::span<const double> s) {
    auto n_values = static_cast<std::size_t>(n_numbers);
    each_array([&](const std::vector<double>& v) { n_values += v.size(); }, *this);
    expects(s.size() == n_values, "adaptive_draft_shape::restore", "state.size", s.size());
    for (const std::size_t i : {std::size_t{0}, std::size_t{17}})
      expects(s[i] >= 0 && s[i] < static_cast<double>(shapes_.size()), "adaptive_draft_shape::restore", "state", s[i],
              static_cast<std::ptrdiff_t>(i));
    const auto whole = [&](std::size_t i) { return static_cast<index_t>(s[i]); };
    on_ = s[1] != 0;
    calibrations_left_ = whole(2), pause_left_ = whole(3), level_ = whole(4);
    since_plain_ = whole(5), since_off_ = whole(6);
    one_call_ = s[7];
    trial_tokens_ = s[8], trial_cost_ = s[9], same_ = s[10], others_ = s[11];
    draft_cc_ = s[12], draft_cr_ = s[13], draft_rr_ = s[14], draft_cs_ = s[15], draft_rs_ = s[16];
    chosen_ = whole(0), best_ = whole(17), best_speedup_ = s[18], draft_call_ = s[19], draft_row_ = s[20];
    auto from = s.begin() + n_numbers;
    each_array(
        [&](std::vector<double>& v) {
          std::copy_n(from, v.size(), v.begin());
          from += std::ssize(v);
        },
        *this);
  }

 private:
  static constexpr std::ptrdiff_t n_numbers = 21;  // of a state, before the arrays
  static constexpr double forgotten = 0.02;        // a mean of less weight counts as not measured
  static constexpr double most_excess = 4;         // a time counts at most so many times what was expected

  template <class F, class Self>
  static void each_array(F&& f, Self& self) {
    f(self.tests_), f(self.accepted_), f(self.reached_), f(self.hits_);
    f(self.own_rounds_), f(self.own_tokens_), f(self.own_nodes_);
    f(self.seconds_), f(self.calls_), f(self.curve_), f(self.acceptance_);
  }
  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
  static std::size_t cell(index_t n, index_t k) { return at(n * (n - 1) / 2 + k); }

  void add_candidate(tree_shape s, index_t paths) {
    if (std::find(shapes_.begin(), shapes_.end(), s) != shapes_.end()) return;
    shapes_.push_back(std::move(s));
    paths_.push_back(paths);
  }

  void make_candidates() {
    const adaptive_draft_shape_options& o = options_;
    add_candidate(tree_shape{}, 1);
    for (index_t d = 1; d <= std::min(o.gamma_max, o.budget); ++d) add_candidate(chain_shape(d), 1);
    if (o.family == shape_family::independent_paths)
      for (index_t k = 2; k <= o.width; ++k)
        for (index_t d = 1; d <= o.gamma_max && k * d <= o.budget; ++d)
          add_candidate(sluice::independent_paths(k, d), k);
    if (o.family == shape_family::trees) {
      for (index_t k = 2; k <= o.width; ++k) {
        index_t nodes = 0, level = 1;
        for (index_t d = 1; d <= o.gamma_max; ++d) {
          level *= k;
          nodes += level;
          if (nodes > o.budget) break;
          add_candidate(full_tree(k, d), 0);
        }
      }
      // profiles of acceptance: of draws tested one after the other, and of hybrid drafts (the last draw is the random
      // one); how often the first is accepted, how fast later ones fall, what the last accepts of the rest
      const index_t width = std::min(o.width, std::max<index_t>(o.budget, 1));
      detail::tree_planner planner(width, o.budget, o.gamma_max);
      const auto add_plans = [&](const auto& profile) {
        planner.plan(profile);
        for (index_t budget = 2; budget <= o.budget; budget = std::max(budget + 1, budget * 4 / 3))
          add_candidate(planner.plan_for(budget).shape, 0);
      };
      for (const double first : {0.35, 0.55, 0.75, 0.9})
        for (const double ratio : {0.35, 0.7})
          add_plans([&](index_t, index_t k) {
            double left = 1, rate = first;
            for (index_t j = 0; j < k; ++j) left *= 1 - rate, rate *= ratio;
            return left * rate;
          });
      struct hybrid_profile {
        double first, ratio, last;
      };
      for (const hybrid_profile h :
           {hybrid_profile{0.4, 0.35, 0.45}, {0.55, 0.3, 0.4}, {0.55, 0.35, 0.7}, {0.75, 0.3, 0.7}})
        add_plans([&](index_t n, index_t k) {
          double left = 1, top = h.first;
          for (index_t j = 0; j < k; ++j) left -= top, top *= h.ratio;
          return n == 1 ? top + 0.4 * h.last * (1 - top) : k + 1 < n ? top : left * h.last;
        });
    }
    for (const tree_shape& s : o.shapes) add_candidate(s, 0);
  }

  void fade(std::vector<double>& v) const {
    for (double& x : v) x *= options_.decay;
  }
  void learn_tests(const round_outcome& o) {
    fade(tests_), fade(accepted_), fade(reached_), fade(hits_);
    same_ *= options_.decay, others_ *= options_.decay;
    for (const node_test& t : o.tests) {
      if (t.draws < 1 || t.draws > most_draws_ || t.rank >= t.draws) continue;
      tests_[at(t.draws)] += 1;
      for (index_t k = 0; k <= (t.rank < 0 ? t.draws - 1 : t.rank); ++k) reached_[at(k)] += 1;
      if (t.rank < 0) continue;
      accepted_[cell(t.draws, t.rank)] += 1;
      hits_[at(t.rank)] += 1;
      same_ += static_cast<double>(std::max<index_t>(t.copies, 1) - 1);
      others_ += static_cast<double>(t.draws - 1);
    }
  }
  void learn_round(const round_outcome& o) {
    fade(own_rounds_), fade(own_tokens_), fade(own_nodes_);
    own_rounds_[at(chosen_)] += 1;
    own_tokens_[at(chosen_)] += static_cast<double>(o.accepted) + 1;
    own_nodes_[at(chosen_)] += static_cast<double>(std::max<std::int64_t>(o.target_positions, 1) - 1);
  }

  void learn_times(const round_outcome& o) {
    constexpr double decay = 0.998;
    const auto least_of = [](double seconds, double expected) {
      return expected > 0 ? std::min(seconds, most_excess * expected) : seconds;
    };
    const double one = one_call_;
    if (o.target_positions >= 1 && o.target_positions <= std::ssize(seconds_) && !o.first_call) {
      const double seconds = o.target_seconds + o.verify_seconds;
      if (seconds > 0) {
        const auto b = at(o.target_positions - 1);
        if (b > 0)
          for (std::size_t i = 0; i < seconds_.size(); ++i) seconds_[i] *= decay, calls_[i] *= decay;
        else
          seconds_[0] *= decay, calls_[0] *= decay;  // a round without a draft stays O(1)
        seconds_[b] += least_of(seconds, one * curve_[b]);
        calls_[b] += 1;
        if (b == 0) one_call_ = seconds_[0] / calls_[0];
      }
    }
    const bool measured = draft_cc_ > 0;
    if (o.draft_calls > 0 && o.draft_seconds > 0 && (o.catch_up <= 4 || !measured)) {
      const auto calls = static_cast<double>(o.draft_calls),
                 rows = static_cast<double>(std::max<std::int64_t>(o.draft_rows - o.draft_calls, 0));
      const double seconds =
          least_of(o.draft_seconds, measured ? one * (calls * draft_call_ + rows * draft_row_) : 0.0);
      for (double* sum : {&draft_cc_, &draft_cr_, &draft_rr_, &draft_cs_, &draft_rs_}) *sum *= decay;
      draft_cc_ += calls * calls, draft_cr_ += calls * rows, draft_rr_ += rows * rows;
      draft_cs_ += calls * seconds, draft_rs_ += rows * seconds;
    }
  }

  void after_drafting(const round_outcome& o) {
    const bool plain = chosen_ == 0;
    if (o.draft_calls > 0) ++since_off_;
    const bool due = plain || since_off_ <= 32 || since_off_ % 4 == 0;
    if (due) plan();
    chosen_ = best_;
    if (due && !pays()) return pause();
    if (o.draft_calls > 0 && since_off_ % 64 == 0) level_ = std::max<index_t>(level_ - 1, 0);
    if (options_.measure_times && ++since_plain_ >= 128) chosen_ = since_plain_ = 0;
  }
  void after_pause() {
    if (--pause_left_ > 0) return;
    plan();
    on_ = pays();
    chosen_ = best_;
    since_off_ = 0;
    trial_tokens_ = trial_cost_ = 0;
    if (chosen_ == 0) pause();  // no candidate drafts anything
  }
  void after_trial(const round_outcome& o) {
    if (o.cut) return;
    const double tokens = static_cast<double>(o.accepted) + 1, cost = cost_of(at(chosen_));
    trial_tokens_ += tokens, trial_cost_ += cost;
    plan();
    on_ = pays();
    chosen_ = best_;
    if (on_ || tokens > cost) return;
    if (trial_tokens_ > options_.least_speedup * trial_cost_) level_ = std::max<index_t>(level_ - 3, 0);
    pause();
  }
  void pause() {
    on_ = false;
    chosen_ = 0;
    const index_t longest = options_.longest_pause;
    pause_left_ = options_.first_pause;
    for (index_t i = 0; i < level_; ++i) pause_left_ = pause_left_ > longest / 2 ? longest : 2 * pause_left_;
    if (pause_left_ < longest) ++level_;
  }
  bool pays() const { return best_ != 0 && best_speedup_ >= options_.least_speedup; }

  /// The acceptances, the costs, and the best candidate that drafts something.
  void plan() {
    estimate_acceptance();
    if (options_.family == shape_family::independent_paths) estimate_paths();
    estimate_costs();
    index_t reach = std::ssize(curve_);  // most positions that may be tried
    if (one_call_ > 0) {
      for (; reach > 1 && calls_[at(reach - 1)] < forgotten; --reach) {
      }
      reach = std::max<index_t>(4 * reach, 5);
    }
    best_ = 0;
    best_speedup_ = 0;
    constexpr double tie = 1 + 4 * std::numeric_limits<double>::epsilon();
    for (std::size_t i = 1; i < shapes_.size(); ++i) {
      if (shapes_[i].n_drafted() + 1 > reach) continue;
      const double speedup = tokens_of(i) / cost_of(i);
      if (speedup > tie * best_speedup_ ||
          (speedup * tie >= best_speedup_ && shapes_[i].n_drafted() < shapes_[at(best_)].n_drafted()))
        best_ = static_cast<index_t>(i), best_speedup_ = speedup;
    }
  }

  void estimate_acceptance() {
    const double w = options_.prior_tests;
    double prior = options_.prior_acceptance;
    for (std::size_t k = 0; k < hits_.size(); ++k) {
      const double rate = (w * prior + hits_[k]) / (w + reached_[k]);
      // the row of n = k + 1 holds the rates until it is filled itself
      acceptance_[cell(static_cast<index_t>(k) + 1, static_cast<index_t>(k))] = rate;
      prior = options_.prior_ratio * rate;
    }
    for (index_t n = most_draws_; n >= 1; --n) {
      double left = 1;
      for (index_t k = 0; k < n; ++k) {
        const double rate = acceptance_[cell(k + 1, k)];
        acceptance_[cell(n, k)] = (w * left * rate + accepted_[cell(n, k)]) / (w + tests_[at(n)]);
        left *= 1 - rate;
      }
    }
  }

  /// paths_value_[l][n - 1] = E_l(n).
  void estimate_paths() {
    const double w = options_.prior_tests, c = (w * 0.3 + same_) / (w + others_);
    const std::size_t columns = binomial_.size();
    for (std::size_t n = 1; n <= columns; ++n) {
      // Binomial(n - 1, c): from the one of n - 2
      if (n == 1)
        binomial_[0] = 1;
      else
        for (std::size_t j = n; j-- > 0;)
          binomial_[j] = (j + 1 < n ? (1 - c) * binomial_[j] : 0.0) + (j > 0 ? c * binomial_[j - 1] : 0.0);
      double any = 0;
      for (std::size_t k = 0; k < n; ++k) any += acceptance_[cell(static_cast<index_t>(n), static_cast<index_t>(k))];
      for (std::size_t l = 1; l * columns < paths_value_.size(); ++l) {
        double below = 0;
        for (std::size_t j = 0; j < n; ++j) below += binomial_[j] * paths_value_[(l - 1) * columns + j];
        paths_value_[l * columns + n - 1] = 1 + any * below;
      }
    }
  }

  double tokens_of(std::size_t i) {
    const tree_shape& s = shapes_[i];
    double model = 1;
    if (paths_[i] == 1) {
      for (index_t d = 0; d < s.depth(); ++d) model = 1 + acceptance_[0] * model;
    } else if (paths_[i] > 1) {
      model = paths_value_[at(s.depth()) * binomial_.size() + at(paths_[i] - 1)];
    } else {
      model = detail::tokens_of_shape(std::span(value_), s, [&](index_t n, index_t k) { return acceptance(n, k); });
    }
    const double w = options_.prior_rounds;
    return (w * model + own_tokens_[i]) / (w + own_rounds_[i]);
  }

  /// With the number of nodes that the shape's own rounds had: equal draws share them.
  double cost_of(std::size_t i) const {
    const tree_shape& s = shapes_[i];
    const double w = options_.prior_rounds;
    const double nodes = (w * static_cast<double>(s.n_drafted()) + own_nodes_[i]) / (w + own_rounds_[i]);
    const double place = std::min(nodes, static_cast<double>(std::ssize(curve_) - 1));
    const auto b = static_cast<std::size_t>(place);
    const double t =
        b + 1 < curve_.size() ? curve_[b] + (place - std::floor(place)) * (curve_[b + 1] - curve_[b]) : curve_.back();
    const auto levels = static_cast<double>(s.depth()), rows = static_cast<double>(s.n_internal());
    return levels * draft_call_ + (rows - levels) * draft_row_ + t;
  }

  void estimate_costs() {
    const call_costs start{options_.draft_cost, options_.target_curve, options_.draft_row_cost};
    draft_call_ = options_.draft_cost;
    draft_row_ = options_.draft_row_cost;
    if (!(one_call_ > 0)) {
      for (std::size_t b = 0; b < curve_.size() && !planned_; ++b) curve_[b] = start_ratio(start, b, 0);
      planned_ = true;
      return;
    }
    monotone_curve(start);
    if (draft_cc_ > 0) {
      // least squares of seconds on calls and further rows, with a weak belief in the ratio of the options
      const double ratio = options_.draft_cost > 0 ? options_.draft_row_cost / options_.draft_cost : 0.0;
      const double cc = draft_cc_ + ratio * ratio, cr = draft_cr_ - ratio, rr = draft_rr_ + 1;
      const double determinant = cc * rr - cr * cr;
      double call = (draft_cs_ * rr - draft_rs_ * cr) / determinant,
             row = (draft_rs_ * cc - draft_cs_ * cr) / determinant;
      if (row < 0) row = 0, call = draft_cs_ / draft_cc_;
      if (call < 0) call = 0, row = draft_rr_ > 0 ? draft_rs_ / draft_rr_ : 0.0;
      draft_call_ = call / one_call_;
      draft_row_ = row / one_call_;
    }
  }

  /// Means where there are measurements, pooled where they fall (weighted isotonic regression), straight lines between;
  /// beyond the last the shape of the options' curve, or without one the last slope or
  /// the mean slope, the steeper.
  void monotone_curve(const call_costs& start) {
    const std::size_t n = curve_.size();
    // blocks of equal value: value_ the mean, block_weight_ the weight, at the block's first measured place
    std::size_t last = n;  // first place of the last block
    for (std::size_t b = 0; b < n; ++b) {
      block_weight_[b] = calls_[b] < forgotten ? 0.0 : calls_[b];
      if (block_weight_[b] == 0) continue;
      value_[b] = seconds_[b] / calls_[b];
      std::size_t first = b;
      while (last < n && value_[last] > value_[first]) {
        const double total = block_weight_[last] + block_weight_[first];
        value_[last] = (block_weight_[last] * value_[last] + block_weight_[first] * value_[first]) / total;
        block_weight_[last] = total;
        block_weight_[first] = -1;  // measured, but of the block before
        first = last;
        for (last = first; last-- > 0 && block_weight_[last] <= 0;) {
        }
        if (last > n) last = n;
      }
      last = first;
    }
    std::size_t measured = n;  // the last place with a value
    double slope = 0;
    for (std::size_t b = 0; b < n; ++b) {
      if (block_weight_[b] == 0) continue;
      curve_[b] = block_weight_[b] > 0 ? value_[b] : curve_[measured];
      if (measured == n) {
        for (std::size_t i = 0; i < b; ++i) curve_[i] = curve_[b] * start_ratio(start, i, b);
      } else {
        slope = (curve_[b] - curve_[measured]) / static_cast<double>(b - measured);
        for (std::size_t i = measured + 1; i < b; ++i)
          curve_[i] = curve_[measured] + slope * static_cast<double>(i - measured);
      }
      measured = b;
    }
    if (measured > 0 && measured < n)
      slope = std::max(slope, (curve_[measured] - curve_[0]) / static_cast<double>(measured));
    for (std::size_t i = measured + 1; i < n; ++i)
      curve_[i] = options_.target_curve.empty() ? curve_[measured] + slope * static_cast<double>(i - measured)
                                                : curve_[measured] * start_ratio(start, i, measured);
    const double one = curve_[0];
    for (double& t : curve_) t /= one;
  }
  static double start_ratio(const call_costs& start, std::size_t i, std::size_t of) {
    return start.target(static_cast<index_t>(i) + 1) / start.target(static_cast<index_t>(of) + 1);
  }

  adaptive_draft_shape_options options_;
  std::vector<tree_shape> shapes_;
  std::vector<index_t> paths_;  // of a candidate: 1 for a chain, the number of independent paths, 0 for a tree
  index_t most_draws_ = 1;
  std::vector<double> tests_, accepted_, reached_, hits_;    // T_n; C_{n,k}; of a draw's rank
  std::vector<double> own_rounds_, own_tokens_, own_nodes_;  // of a candidate
  std::vector<double> seconds_, calls_;                      // of a target call on b positions
  double same_ = 0, others_ = 0;                             // other draws equal to the accepted one, and all
  double draft_cc_ = 0, draft_cr_ = 0, draft_rr_ = 0, draft_cs_ = 0, draft_rs_ = 0;  // sums of the least squares
  double one_call_ = 0;  // seconds of a target call on one position
  index_t chosen_ = 0, best_ = 0, calibrations_left_ = 0, pause_left_ = 0, level_ = 0, since_plain_ = 0, since_off_ = 0;
  double trial_tokens_ = 0, trial_cost_ = 0;
  bool on_ = true, planned_ = false;
  double best_speedup_ = 0, draft_call_ = 0, draft_row_ = 0;
  std::vector<double> acceptance_, curve_, value_, block_weight_, paths_value_, binomial_;
};

}  // namespace sluice
