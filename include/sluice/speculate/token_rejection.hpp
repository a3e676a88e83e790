#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/speculate/bounded_law.hpp>
#include <sluice/speculate/token_law.hpp>
#include <sluice/speculate/verification.hpp>

#include <algorithm>
#include <span>

/// Token rejection, the rule of speculative decoding: one coupling of draft and target for each position.
///
///     accept x ~ q  iff  U q(x) < p(x);   otherwise emit y ~ (p - q)_+ / (1 - beta),   beta = sum_y min(p, q)(y)
///
/// so the emitted token has law min(p, q) + (p - q)_+ = p, whatever q. A chain of gamma drafts is tested from the left
/// and stops at the first rejection; if all are accepted one more token is drawn from the last target row. Source:
/// Leviathan, Kalman, Matias (arXiv:2211.17192); Chen et al. (arXiv:2302.01318). Differs: the test multiplies instead
/// of dividing and is strict, so a token of target probability 0 is never accepted; rows behind the stop are not read;
/// the residual is drawn by thinning the target (token_law.hpp), which does not change its law.
namespace sluice {

/// min(1, p/q), the probability that a drafted token is accepted; q > 0.
constexpr double acceptance_probability(double p, double q) { return p >= q ? (p > 0 ? 1.0 : 0.0) : p / q; }

/// beta = sum min(p, q) = 1 - TV(p, q): no rule with one draft accepts more often. Dense laws of equal length.
/// Throws invalid_argument if the lengths differ.
inline double acceptance_rate(std::span<const double> p, std::span<const double> q) {
  expects(p.size() == q.size(), "acceptance_rate", "q.size", q.size());
  double sum = 0;
  for (std::size_t x = 0; x < p.size(); ++x) sum += std::min(p[x], q[x]);
  return sum;
}

/// out = (a p - q)_+, not normalised; returns its sum. a = 1: token rejection; a = P_i: block verification. out may be
/// p or q. Throws invalid_argument if the lengths differ.
inline double residual_weights(std::span<double> out, std::span<const double> p, std::span<const double> q,
                               double a = 1) {
  expects(p.size() == q.size(), "residual_weights", "q.size", q.size());
  expects(out.size() == p.size(), "residual_weights", "out.size", out.size());
  double sum = 0;
  for (std::size_t x = 0; x < p.size(); ++x) sum += out[x] = std::max(0.0, a * p[x] - q[x]);
  return sum;
}

namespace detail {

/// The number of rows and drafts of a round: one target row more than drafts, one draft row a draft.
template <class S, class Q>
row_fault check_round(const request<S, Q>& r) {
  if (r.target.size() != r.drafted.size() + 1) return {"target.size", -1, -1, static_cast<double>(r.target.size())};
  if (r.draft.size() != r.drafted.size()) return {"draft.size", -1, -1, static_cast<double>(r.draft.size())};
  return {};
}

/// A token from target row i, nothing else read.
template <class S, class R>
decision draw_target(std::span<const token_row<S>> target, index_t i, R& random) {
  const token_row<S>& row = target[static_cast<std::size_t>(i)];
  if constexpr (std::same_as<S, float> && !decision_source<R>) {
    const bounded_law p(row);
    const index_t x = p.usable() ? p.draw(random) : -1;
    if (x >= 0) return {{i, static_cast<token_id>(x)}, {}};
  }
  const token_law<S> p(row);
  if (!p.valid()) return {{0, -1}, p.fault("target", i)};
  return {{i, p.draw(random)}, {}};
}

}  // namespace detail

/// The chain rule, and the node rule for at most one child. Stateless: threads may share it. A round in which draft i
/// is the first to be rejected reads 2 i + 2 rows once; gamma accepted drafts read 2 gamma + 1. No allocation (a
/// decision source: one). Drafts of probability one (n-gram lookup, greedy) are sparse rows with one id.
struct token_rejection {
  using draft_kind = independent_draws;

  /// A verdict, or the first defect among the rows visited: a row that is not a law, "target.size" and "draft.size"
  /// (row -1) for a wrong number of rows, "draft" with element -1 for lengths that differ, "drafted" for a token
  /// outside the vocabulary, "draft" with the token as element where q(x) = 0 says that x was not drawn from q.
  template <class S, class Q, random_source R>
  decision decide(const request<S, Q>& r, R& random) const {
    if (const row_fault f = detail::check_round(r)) return {{0, -1}, f};
    for (index_t i = 0; i < std::ssize(r.drafted); ++i) {
      const auto k = static_cast<std::size_t>(i);
      const decision d = test(r.target[k], r.draft[k], r.drafted[k], i, i, random);
      if (d.fault) return d;
      if (d.result.accepted == 0) return {{i, d.result.next}, {}};
    }
    return detail::draw_target(r.target, std::ssize(r.drafted), random);
  }

  /// The verdict; throws invalid_argument where decide reports a defect.
  template <class S, class Q, random_source R>
  verdict operator()(const request<S, Q>& r, R& random) const {
    const decision d = decide(r, random);
    detail::expects_no_fault("token_rejection", d.fault);
    return d.result;
  }

  /// The node rule: no child (the draft is not read) or one child drawn from the draft.
  template <class S, class Q, random_source R>
  node_decision decide(const token_row<S>& target, const token_row<Q>& draft, std::span<const token_id> children,
                       R& random) const {
    if (children.size() > 1) return {-1, -1, {"children.size", -1, -1, static_cast<double>(children.size())}};
    const token_row<S> rows[2] = {target, target};
    const decision d = children.empty() ? detail::draw_target(std::span<const token_row<S>>(rows, 1), 0, random)
                                        : test(target, draft, children[0], 0, -1, random);
    return {d.fault || d.result.accepted == 0 ? index_t{-1} : index_t{0}, d.result.next, d.fault};
  }

 private:
  /// One position: accepted 1, or 0 and the correction. `place` and `row` name the draft and its rows in a fault.
  template <class S, class Q, class R>
  static decision test(const token_row<S>& target, const token_row<Q>& draft, token_id x, index_t place, index_t row,
                       R& random) {
    if constexpr (decision_source<R>) {
      return test_exactly(target, draft, x, place, row, random,
                          [&random](double px, double qx) { return bernoulli_ratio(random, px, qx); });
    } else {
      const double u = co53(random());
      if constexpr (std::same_as<S, float> && std::same_as<Q, float>)
        if (const auto settled = detail::reject_by_bounds(target, draft, x, {}, u, random)) return {*settled, {}};
      return test_exactly(target, draft, x, place, row, random, [u](double px, double qx) { return u * qx < px; });
    }
  }
  template <class S, class Q, class R, class Accept>
  static decision test_exactly(const token_row<S>& target, const token_row<Q>& draft, token_id x, index_t place,
                               index_t row, R& random, Accept&& accept) {
    const token_law<S> p(target);
    if (!p.valid()) return {{0, -1}, p.fault("target", row)};
    const token_law<Q> q(draft);
    if (!q.valid()) return {{0, -1}, q.fault("draft", row)};
    if (const row_fault f = detail::check_lengths(p, q, row)) return {{0, -1}, f};
    if (const row_fault f = detail::check_token(p, q, x, place, row)) return {{0, -1}, f};
    if (accept(p.probability(x), q.probability(x))) return {{1, x}, {}};
    return {{0, residual_law<S, Q>(p, q).draw(random)}, {}};
  }
};

/// Draws y from the target and compares: the drafts are used only as guesses, so their rows are not read and their law
/// does not matter. Accepts x with probability p(x), which is what token rejection does for a draft of probability one
/// and less than it does for any other. The emitted token is y, hence of law p.
struct exact_match {
  using draft_kind = top_draws;

  template <class S, class Q, random_source R>
  decision decide(const request<S, Q>& r, R& random) const {
    if (const row_fault f = detail::check_round(r)) return {{0, -1}, f};
    for (index_t i = 0; i < std::ssize(r.drafted); ++i) {
      const token_id x = r.drafted[static_cast<std::size_t>(i)];
      const decision d = detail::draw_target(r.target, i, random);
      if (d.fault) return d;
      if (const row_fault f = check_token(r.target[static_cast<std::size_t>(i)], x, i)) return {{0, -1}, f};
      if (d.result.next != x) return d;
    }
    return detail::draw_target(r.target, std::ssize(r.drafted), random);
  }

  template <class S, class Q, random_source R>
  verdict operator()(const request<S, Q>& r, R& random) const {
    const decision d = decide(r, random);
    detail::expects_no_fault("exact_match", d.fault);
    return d.result;
  }

  /// The node rule for children chosen without randomness (top_draws): y ~ p, accepted iff it is a child.
  template <class S, class Q, random_source R>
  node_decision decide(const token_row<S>& target, const token_row<Q>&, std::span<const token_id> children,
                       R& random) const {
    const token_row<S> rows[1] = {target};
    const decision d = detail::draw_target(std::span<const token_row<S>>(rows), 0, random);
    if (d.fault) return {-1, -1, {d.fault.argument, -1, d.fault.element, d.fault.value}};
    for (index_t k = 0; k < std::ssize(children); ++k)
      if (const row_fault f = check_token(target, children[static_cast<std::size_t>(k)], k)) return {-1, -1, f};
    const auto found = std::find(children.begin(), children.end(), d.result.next);
    return {found == children.end() ? index_t{-1} : found - children.begin(), d.result.next, {}};
  }

 private:
  template <class S>
  static row_fault check_token(const token_row<S>& target, token_id x, index_t i) {
    if (x < 0 || (target.ids.empty() && x >= std::ssize(target.values)))
      return {"drafted", i, -1, static_cast<double>(x)};
    return {};
  }
};

}  // namespace sluice
