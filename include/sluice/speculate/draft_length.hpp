#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

/// How many tokens to draft: the theory of a chain with i.i.d. acceptance, and the controllers that a decoder asks
/// before each round. Source: Leviathan, Kalman, Matias, arXiv:2211.17192, equation 1 and theorem 3.8; differs: the
/// cost of a target call may grow with the number of positions (a measured curve), and drafting nothing is an answer.
namespace sluice {

/// Expected tokens per target call, correction or bonus included: 1 + a + ... + a^gamma = (1 - a^{gamma+1}) / (1 - a),
/// gamma + 1 at a = 1. acceptance a in [0, 1], gamma >= 0, else invalid_argument. O(1).
inline double expected_tokens(double acceptance, index_t gamma) {
  expects(acceptance >= 0 && acceptance <= 1, "expected_tokens", "acceptance", acceptance);
  expects(gamma >= 0, "expected_tokens", "gamma", gamma);
  const double n = static_cast<double>(gamma) + 1;
  // expm1 keeps the digits that 1 - a^n loses near a = 1
  return acceptance == 1 ? n : acceptance == 0 ? 1.0 : std::expm1(n * std::log(acceptance)) / (acceptance - 1);
}

/// What calls cost, in units of a target call on one position.
struct call_costs {
  double draft = 0;                        ///< one draft call on one position
  std::span<const double> target_curve{};  ///< [b - 1]: a target call on b positions; empty: 1 whatever b, else the
                                           ///< last entry holds for every larger b
  double draft_row = 0;                    ///< every further position of a draft call; chains have none
  double target(index_t positions) const {
    if (target_curve.empty()) return 1;
    return target_curve[static_cast<std::size_t>(std::min(positions, std::ssize(target_curve)) - 1)];
  }
};

namespace detail {
inline void expects_costs(const char* function, const call_costs& costs) {
  expects(costs.draft >= 0 && std::isfinite(costs.draft), function, "costs.draft", costs.draft);
  expects(costs.draft_row >= 0 && std::isfinite(costs.draft_row), function, "costs.draft_row", costs.draft_row);
  for (index_t b = 0; b < std::ssize(costs.target_curve); ++b) {
    const double t = costs.target_curve[static_cast<std::size_t>(b)];
    expects(t > 0 && std::isfinite(t), function, "costs.target_curve", t, b);
  }
}
inline double speedup_of(double tokens, index_t gamma, const call_costs& costs) {
  return tokens / (static_cast<double>(gamma) * costs.draft + costs.target(gamma + 1) / costs.target(1));
}
}  // namespace detail

/// Tokens per unit of time against one target call a token: S = expected_tokens / (gamma k + t(gamma + 1) / t(1)),
/// k = costs.draft, t = the target curve. Throws invalid_argument as expected_tokens, and if a cost is negative, a
/// curve entry not positive or one of them not finite. O(curve).
inline double expected_speedup(double acceptance, index_t gamma, const call_costs& costs) {
  detail::expects_costs("expected_speedup", costs);
  return detail::speedup_of(expected_tokens(acceptance, gamma), gamma, costs);
}

struct draft_length_choice {
  index_t gamma = 0;
  double speedup = 1;
};

/// The smallest gamma in 0..gamma_max of the largest expected_speedup; 0 means that drafting does not pay. A scan,
/// since measured curves are not unimodal. O(gamma_max). Throws invalid_argument as expected_speedup, and if gamma_max
/// < 0.
inline draft_length_choice best_draft_length(double acceptance, index_t gamma_max, const call_costs& costs) {
  expects(acceptance >= 0 && acceptance <= 1, "best_draft_length", "acceptance", acceptance);
  expects(gamma_max >= 0, "best_draft_length", "gamma_max", gamma_max);
  detail::expects_costs("best_draft_length", costs);
  constexpr double tie = 1 + 4 * std::numeric_limits<double>::epsilon();  // equal but for rounding: the smaller wins
  draft_length_choice best;
  double tokens = 1, power = 1;
  for (index_t gamma = 1; gamma <= gamma_max; ++gamma) {
    tokens += power *= acceptance;
    const double s = detail::speedup_of(tokens, gamma, costs);
    if (s > tie * best.speedup) best = {gamma, s};
  }
  return best;
}

/// What happened at a node that verification visited and that had draws.
struct node_test {
  index_t draws = 0;   ///< how many tokens were drawn there, equal ones counted each
  index_t rank = -1;   ///< which draw was accepted; -1: none
  index_t copies = 0;  ///< draws that carry the accepted token; 0 if none was accepted
};

/// What a controller learns from a round. Seconds are 0 if the decoder's clock is off.
struct round_outcome {
  index_t drafted = 0;    ///< length of the longest drafted path
  index_t accepted = 0;   ///< drafted tokens accepted
  bool rejected = false;  ///< a test failed after them; tokens behind it were not tested
  std::int64_t draft_calls = 0, target_positions = 0;
  double draft_seconds = 0, target_seconds = 0;
  double verify_seconds = 0;
  std::span<const node_test> tests{};  ///< the nodes on the way, the root first; valid during the call
  std::int64_t draft_rows = 0;         ///< nodes that the draft gave a law for: those with children
  index_t catch_up = 0;                ///< committed tokens that the draft had to score first
  bool first_call = false;             ///< the target's first call for this request: its time may not be typical
  bool cut = false;                    ///< the length limit left less room than the controller's answer takes
};

/// Asked before each round for a length, told its outcome after. What it answers may depend on past rounds only: then
/// the text keeps the target's law.
template <class C>
concept draft_length_controller = requires(C& c, const C& constant, const round_outcome& outcome,
                                           std::span<const double> saved) {
  { constant.length() } -> std::convertible_to<index_t>;
  c.update(outcome);
  { constant.state() } -> std::same_as<std::vector<double>>;
  c.restore(saved);
};

/// Always the same length; a decoder cuts it to the depth of its shape.
struct fixed_draft_length {
  index_t gamma = index_t{1} << 24;  ///< default: whatever the shape allows
  index_t length() const { return gamma; }
  void update(const round_outcome&) {}
  std::vector<double> state() const { return {}; }
  void restore(std::span<const double>) {}
};

struct adaptive_draft_length_options {
  index_t gamma_max = 16;
  double draft_cost = 0.1;             ///< one draft call, in target calls on one position; the start value if measured
  std::vector<double> target_curve{};  ///< [b - 1] = t(b) / t(1); empty: flat; the start value if measured
  double decay = 0.98;                 ///< a round's weight fades by this factor a round; 1: never
  double prior_acceptance = 0.7;
  double prior_tests = 8;  ///< weight of the prior, in tests; it does not fade
  bool measure_times =
      false;  ///< learn the costs from the decoder's clock; then the text depends on the machine's pace
};

/// Keeps a running estimate of the acceptance rate and answers the best length for it:
///     a = (prior_tests prior_acceptance + A) / (prior_tests + A + R),   A, R = decayed counts of accepted and rejected
///     tests,    length = best_draft_length(a, gamma_max, costs).
/// Tokens behind a rejection were not tested and do not count (accepted/drafted is biased low). While it answers 0
/// nothing is tested; the counts fade, a returns to the prior, and a prior for which drafting pays makes it try again.
/// length() is O(1), update O(gamma_max); neither allocates. Ours; the formulas are those of arXiv:2211.17192.
class adaptive_draft_length {
 public:
  /// Throws invalid_argument if gamma_max < 0, decay is not in (0, 1], the prior is not in [0, 1] or has a negative
  /// weight, or a cost is out of range (see expected_speedup).
  explicit adaptive_draft_length(const adaptive_draft_length_options& options = {}) : options_(options) {
    expects(options.gamma_max >= 0, "adaptive_draft_length", "gamma_max", options.gamma_max);
    expects(options.decay > 0 && options.decay <= 1, "adaptive_draft_length", "decay", options.decay);
    expects(options.prior_acceptance >= 0 && options.prior_acceptance <= 1, "adaptive_draft_length", "prior_acceptance",
            options.prior_acceptance);
    expects(options.prior_tests > 0 && std::isfinite(options.prior_tests), "adaptive_draft_length", "prior_tests",
            options.prior_tests);
    detail::expects_costs("adaptive_draft_length", {options.draft_cost, options.target_curve});
    const std::size_t n = static_cast<std::size_t>(options.gamma_max) + 1;
    curve_.resize(n);
    seconds_.assign(n, 0);
    calls_.assign(n, 0);
    use_costs();
    choose();
  }

  index_t length() const { return choice_.gamma; }
  double acceptance() const {
    return (options_.prior_tests * options_.prior_acceptance + accepted_) /
           (options_.prior_tests + accepted_ + rejected_);
  }
  /// The speed-up expected of length().
  double speedup() const { return choice_.speedup; }
  /// The target curve in use, [b - 1] = t(b) / t(1), b up to gamma_max + 1.
  std::span<const double> target_curve() const { return curve_; }
  double draft_cost() const { return draft_cost_; }

  void update(const round_outcome& outcome) {
    accepted_ = options_.decay * accepted_ + static_cast<double>(outcome.accepted);
    rejected_ = options_.decay * rejected_ + (outcome.rejected ? 1 : 0);
    if (options_.measure_times) {
      if (outcome.draft_calls > 0) {
        draft_seconds_ = options_.decay * draft_seconds_ + outcome.draft_seconds;
        draft_calls_ = options_.decay * draft_calls_ + static_cast<double>(outcome.draft_calls);
      }
      if (outcome.target_positions >= 1 && outcome.target_positions <= std::ssize(curve_)) {
        const auto b = static_cast<std::size_t>(outcome.target_positions - 1);
        seconds_[b] = options_.decay * seconds_[b] + outcome.target_seconds;
        calls_[b] = options_.decay * calls_[b] + 1;
      }
      use_costs();
    }
    choose();
  }

  std::vector<double> state() const {
    std::vector<double> s{accepted_, rejected_, draft_seconds_, draft_calls_};
    s.insert(s.end(), seconds_.begin(), seconds_.end());
    s.insert(s.end(), calls_.begin(), calls_.end());
    return s;
  }
  /// Takes a state of a controller with the same options. Throws invalid_argument if its size differs.
  void restore(std::span<const double> s) {
    expects(s.size() == 4 + 2 * seconds_.size(), "adaptive_draft_length::restore", "state.size", s.size());
    accepted_ = s[0], rejected_ = s[1], draft_seconds_ = s[2], draft_calls_ = s[3];
    std::copy_n(s.begin() + 4, seconds_.size(), seconds_.begin());
    std::copy_n(s.begin() + 4 + std::ssize(seconds_), calls_.size(), calls_.begin());
    use_costs();
    choose();
  }

 private:
  void choose() { choice_ = best_draft_length(acceptance(), options_.gamma_max, {draft_cost_, curve_}); }
  /// Measured means where there are measurements, straight lines between them, constant outside; scaled by the value at
  /// one position. Without any: the options.
  void use_costs() {
    const auto mean = [&](std::size_t b) { return seconds_[b] / calls_[b]; };
    const auto measured = [&](std::size_t b) { return calls_[b] > 0 && seconds_[b] > 0; };
    std::size_t last = curve_.size();  // the last measured size seen
    for (std::size_t b = 0; b < curve_.size(); ++b) {
      if (!measured(b)) continue;
      for (std::size_t i = last == curve_.size() ? 0 : last + 1; i < b; ++i)
        curve_[i] = last == curve_.size() ? mean(b)
                                          : mean(last) + (mean(b) - mean(last)) * static_cast<double>(i - last) /
                                                             static_cast<double>(b - last);
      curve_[b] = mean(b);
      last = b;
    }
    if (last == curve_.size()) {
      const call_costs start{options_.draft_cost, options_.target_curve};
      for (std::size_t b = 0; b < curve_.size(); ++b)
        curve_[b] = start.target(static_cast<index_t>(b) + 1) / start.target(1);
      draft_cost_ = options_.draft_cost;
      return;
    }
    for (std::size_t i = last + 1; i < curve_.size(); ++i) curve_[i] = mean(last);
    const double one = curve_[0];
    draft_cost_ = draft_calls_ > 0 ? draft_seconds_ / draft_calls_ / one : options_.draft_cost;
    for (double& t : curve_) t /= one;
  }

  adaptive_draft_length_options options_;
  double accepted_ = 0, rejected_ = 0, draft_seconds_ = 0, draft_calls_ = 0, draft_cost_ = 0;
  std::vector<double> curve_, seconds_, calls_;
  draft_length_choice choice_{};
};

}  // namespace sluice
