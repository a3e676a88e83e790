#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/speculate/bounded_law.hpp>
#include <sluice/speculate/drafting.hpp>
#include <sluice/speculate/optimal_acceptance.hpp>
#include <sluice/speculate/token_law.hpp>
#include <sluice/speculate/token_rejection.hpp>
#include <sluice/speculate/verification.hpp>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>

/// The hybrid drafts of optimal multi-draft verification and the rule that is optimal for them: n - 1 tokens T fixed
/// beforehand and one drawn from the rest of the draft's law.
///
///     draft    T = the n - 1 most probable tokens of q,     x ~ q',  q'(y) = q(y) / (1 - q(T)) off T, 0 on T
///     verify   emit x if U q'(x) < p(x);  otherwise emit y ~ p on T, (p - q')_+ elsewhere, renormalised
///
/// The emitted token is a draft with probability p(T) + sum_{y not in T} min(p(y), q'(y)), the most that any rule can
/// reach for these drafts, and has law p: off T as in token rejection, on T because nothing but the residual emits it.
/// Any T that does not depend on the draw is lossless; the most probable tokens are the best guess. With n = 1 this is
/// token rejection; with n = 2 its acceptance is that of SpecHub (Sun et al., arXiv:2411.05289). Acceptance of drafts
/// of the other kinds: speculate/optimal_acceptance.hpp.
/// Source: Hu et al., "Towards Optimal Multi-draft Speculative Decoding" (arXiv:2502.18779), section 5. Differs: T may
/// be given; tokens that q excludes are never in T, so fewer than n tokens are drafted where the support is exhausted.
namespace sluice {

/// out = q', the law of the drawn token: q off the fixed tokens, renormalised; all 0 if nothing is left. Returns
/// 1 - q(fixed), summed over the others. Dense laws; out may be q. Throws invalid_argument if the lengths differ, a
/// fixed token is outside the vocabulary or appears twice.
double hybrid_draft_law(std::span<double> out, std::span<const double> q, std::span<const token_id> fixed);

namespace detail {
inline void expects_fixed(const char* function, std::span<const token_id> fixed, std::size_t vocabulary_size) {
  for (std::size_t k = 0; k < fixed.size(); ++k) {
    const auto place = static_cast<std::ptrdiff_t>(k);
    expects(fixed[k] >= 0 && static_cast<std::size_t>(fixed[k]) < vocabulary_size, function, "fixed", fixed[k], place);
    expects(!among(fixed.first(k), fixed[k]), function, "fixed", fixed[k], place);
  }
}
/// The first token that is outside [0, vocabulary_size) or repeats an earlier one.
inline row_fault check_distinct(const char* argument, std::span<const token_id> tokens, index_t vocabulary_size) {
  for (std::size_t k = 0; k < tokens.size(); ++k)
    if (tokens[k] < 0 || tokens[k] >= vocabulary_size || among(tokens.first(k), tokens[k]))
      return {argument, static_cast<index_t>(k), -1, static_cast<double>(tokens[k])};
  return {};
}
/// Completes fixed tokens, which stand at the head of out, by one draw from the rest.
template <class S, random_source R>
drawn_children draw_last(std::span<token_id> out, index_t n_fixed, const token_law<S>& law, R& random) {
  if (n_fixed >= std::ssize(out)) return {n_fixed, {}};
  const law_without<S> rest(law, out.first(static_cast<std::size_t>(n_fixed)));
  const token_id x = rest.draw(random);
  if (x < 0) return {n_fixed, {}};
  out[static_cast<std::size_t>(n_fixed)] = x;
  return {n_fixed + 1, {}};
}
}  // namespace detail

inline double hybrid_draft_law(std::span<double> out, std::span<const double> q, std::span<const token_id> fixed) {
  expects(out.size() == q.size(), "hybrid_draft_law", "out.size", out.size());
  detail::expects_fixed("hybrid_draft_law", fixed, q.size());
  if (out.data() != q.data()) std::copy(q.begin(), q.end(), out.begin());
  for (const token_id x : fixed) out[static_cast<std::size_t>(x)] = 0;
  double mass = 0;
  for (const double v : out) mass += v;
  if (mass > 0)
    for (double& v : out) v /= mass;
  return mass;
}

/// p(T) + sum off T of min(p, q'), the probability that the emitted token is among the drafts; drawn = q', as
/// hybrid_draft_law gives it. Dense laws. Throws invalid_argument if the lengths differ or as hybrid_draft_law.
inline double hybrid_acceptance(std::span<const double> p, std::span<const double> drawn,
                                std::span<const token_id> fixed) {
  expects(p.size() == drawn.size(), "hybrid_acceptance", "drawn.size", drawn.size());
  detail::expects_fixed("hybrid_acceptance", fixed, p.size());
  double sum = 0;
  for (std::size_t x = 0; x < p.size(); ++x)
    sum += detail::among(fixed, static_cast<token_id>(x)) ? p[x] : std::min(p[x], drawn[x]);
  return sum;
}

/// out = p on T, (p - q')_+ elsewhere, not normalised: the law of the token that is emitted where the drawn one is
/// not. Returns its sum, the probability that this happens. Dense laws; out may be p or drawn. Throws invalid_argument
/// if the lengths differ or as hybrid_draft_law.
inline double hybrid_residual(std::span<double> out, std::span<const double> p, std::span<const double> drawn,
                              std::span<const token_id> fixed) {
  expects(p.size() == drawn.size(), "hybrid_residual", "drawn.size", drawn.size());
  expects(out.size() == p.size(), "hybrid_residual", "out.size", out.size());
  detail::expects_fixed("hybrid_residual", fixed, p.size());
  double sum = 0;
  for (std::size_t x = 0; x < p.size(); ++x) {
    out[x] = detail::among(fixed, static_cast<token_id>(x)) ? p[x] : std::max(0.0, p[x] - drawn[x]);
    sum += out[x];
  }
  return sum;
}

/// The tokens `fixed`, then one draw from the rest of the row's law, if anything is left: what a kind of your own with
/// a set T of its own calls from its draw_children. T may depend on the context, not on a draw; its order is kept, and
/// tokens that the row excludes may be in it. out has room for one token more than fixed and must not overlap it.
/// A fault "fixed" (row: the place) for a token outside the vocabulary or a duplicate. Throws invalid_argument if out
/// is too short. O(values), no allocation.
template <class S, random_source R>
drawn_children draw_beside(std::span<token_id> out, std::span<const token_id> fixed, const token_row<S>& row,
                           index_t vocabulary_size, R& random) {
  expects(out.size() > fixed.size(), "draw_beside", "out.size", out.size());
  const token_law<S> law(row);
  if (const row_fault f = detail::check_draft(law, vocabulary_size)) return {0, f};
  if (const row_fault f = detail::check_distinct("fixed", fixed, vocabulary_size)) return {0, f};
  std::copy(fixed.begin(), fixed.end(), out.begin());
  return detail::draw_last(out.first(fixed.size() + 1), std::ssize(fixed), law, random);
}

/// The out.size() - 1 most probable tokens, then one draw from the rest. Reads the row twice, once for its normaliser
/// and once for the largest values; then O(1) blocks and two or three words. No allocation, no scratch.
template <class S, random_source R>
drawn_children draw_children(hybrid_draws, std::span<token_id> out, std::span<double>, const token_row<S>& row,
                             index_t vocabulary_size, R& random) {
  const token_law<S> law(row);
  if (const row_fault f = detail::check_draft(law, vocabulary_size)) return {0, f};
  if (out.empty()) return {0, {}};
  return detail::draw_last(out, detail::most_probable(out.first(out.size() - 1), row), law, random);
}

/// The node rule for hybrid drafts, children in the order drawn: the fixed tokens, then the one that was drawn. `Kind`
/// is hybrid_draws, or a type of your own whose draw_children fixes another T (with draw_beside): a rule and drafts of
/// different kinds do not meet. Stateless: threads may share it. Reads the target's row and, if there are children, the
/// draft's, once each; x is decided first, the residual is drawn by thinning the target (token_law.hpp), and long rows
/// of float logits are decided by bounds (bounded_law.hpp). So a decision costs what token rejection's does, and a
/// block of 512 values for each fixed token. No allocation (a decision source: one).
///
/// Where fewer tokens than wanted could be drafted, the last child was fixed, not drawn. The rule need not know: given
/// the others it is all that q has left, so q' is 1 there, and both ways of verifying emit y ~ p, accepted iff drafted.
template <class Kind = hybrid_draws>
struct hybrid_verification {
  using draft_kind = Kind;

  /// No child: y ~ target, the draft is not read. Faults as in token_rejection, with row -1 for both rows and the
  /// child's place for "drafted", which also names a child that appears twice.
  template <class S, class Q, random_source R>
  node_decision decide(const token_row<S>& target, const token_row<Q>& draft, std::span<const token_id> children,
                       R& random) const {
    if (children.empty()) {
      const token_row<S> rows[1] = {target};
      const decision d = detail::draw_target(std::span<const token_row<S>>(rows), 0, random);
      return {-1, d.result.next, d.fault ? row_fault{"target", -1, d.fault.element, d.fault.value} : row_fault{}};
    }
    if constexpr (decision_source<R>) {
      return decide_exactly(target, draft, children, random,
                            [&random](double px, double qx) { return bernoulli_ratio(random, px, qx); });
    } else {
      const double u = co53(random());
      if constexpr (std::same_as<S, float> && std::same_as<Q, float>) {
        const std::span<const token_id> fixed = children.first(children.size() - 1);
        if (draft.ids.empty() && !detail::check_distinct("drafted", children, std::ssize(draft.values)))
          if (const auto settled = detail::reject_by_bounds(target, draft, children.back(), fixed, u, random))
            return emit(children, settled->next);
      }
      return decide_exactly(target, draft, children, random, [u](double px, double qx) { return u * qx < px; });
    }
  }

  /// As decide; throws invalid_argument where it reports a defect.
  template <class S, class Q, random_source R>
  node_decision operator()(const token_row<S>& target, const token_row<Q>& draft, std::span<const token_id> children,
                           R& random) const {
    const node_decision d = decide(target, draft, children, random);
    detail::expects_no_fault("hybrid_verification", d.fault);
    return d;
  }

 private:
  /// The emitted token is accepted wherever it is a child: x, a fixed token, or any where rounding empties a residual.
  static node_decision emit(std::span<const token_id> children, token_id y) {
    const auto found = std::find(children.begin(), children.end(), y);
    return {found == children.end() ? index_t{-1} : found - children.begin(), y, {}};
  }
  template <class S, class Q, class R, class Accept>
  static node_decision decide_exactly(const token_row<S>& target, const token_row<Q>& draft,
                                      std::span<const token_id> children, R& random, Accept&& accept) {
    const token_law<S> p(target);
    if (!p.valid()) return {-1, -1, p.fault("target", -1)};
    const token_law<Q> q(draft);
    if (!q.valid()) return {-1, -1, q.fault("draft", -1)};
    if (const row_fault f = detail::check_lengths(p, q, -1)) return {-1, -1, f};
    const index_t v = !p.sparse() ? p.size() : !q.sparse() ? q.size() : std::numeric_limits<token_id>::max();
    if (const row_fault f = detail::check_distinct("drafted", children, v)) return {-1, -1, f};
    const std::span<const token_id> fixed = children.first(children.size() - 1);
    const token_id x = children.back();
    const double qx = q.probability(x);
    if (!(qx > 0)) {  // x was not drawn: then all are fixed and q has nothing beside them
      if (detail::law_without<Q>(q, children).mass() > 0) return {-1, -1, {"draft", -1, static_cast<index_t>(x), 0.0}};
      return emit(children, p.draw(random));
    }
    const double rest = fixed.empty() ? 1.0 : std::max(detail::law_without<Q>(q, fixed).mass(), qx);
    if (accept(p.probability(x), qx / rest)) return {std::ssize(children) - 1, x, {}};
    return emit(children, residual_law<S, Q>(p, q, 1, std::min(1 / rest, 1e300), fixed).draw(random));
  }
};

}  // namespace sluice
