#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/speculate/token_law.hpp>
#include <sluice/speculate/token_rejection.hpp>
#include <sluice/speculate/verification.hpp>

#include <algorithm>
#include <concepts>
#include <span>

/// Recursive rejection: several drafts x_1, ..., x_n for one position, tested one after the other.
///
///     r_1 = p;   accept x_k iff U q_k(x_k) < r_k(x_k);   else r_{k+1} = (r_k - q_k)_+ / its sum;   at the end y ~
///     r_{n+1}
///
/// Independent draws: q_k = q; a duplicate is certain to be rejected but is a stage all the same (dropping it changes
/// the law). Draws without replacement: q_k = q without the tokens drafted before, renormalised.
///
/// The stages have a closed form, so that a token's r_k needs no stored row: with s_k = 1/(1 - sum_{j<k} q(x_j))
/// (s_k = 1 for independent draws), c_1 = 0, A_1 = 1,
///     r_k = (p - c_k q)_+ / A_k,     c_{k+1} = c_k + s_k A_k,     A_k = sum_y (p - c_k q)_+(y),
/// by induction: (r_k - s_k q)_+ A_k = (p - (c_k + s_k A_k) q)_+. Without replacement q_k vanishes on tokens drafted
/// before; there (p - c_k q)_+ is 0 already, because x_j can only be rejected if r_j(x_j) < q_j(x_j). A stage that is
/// rejected and not the last costs one pass over p and q, the final draw costs O(1) blocks.
/// Source: Miao et al., SpecInfer (arXiv:2305.09781); Yang et al. (arXiv:2401.06706); Jeon et al. (arXiv:2402.14160).
/// Differs: the closed form; no pass for the last stage.
namespace sluice {

/// Where a node's test stands: c_k, A_k and 1/s_k of the stage that is to be tested next.
struct rejection_stage {
  double coefficient = 0;  ///< c_k
  double mass = 1;         ///< A_k
  double remaining = 1;    ///< 1/s_k: the draft's mass that is not drafted yet

  /// r_k(x) A_k, from p(x) and q(x).
  double target(double p, double q) const { return std::max(0.0, p - coefficient * q); }
  /// Probability that x_k = x is accepted; q > 0.
  double acceptance(double p, double q) const {
    return acceptance_probability(target(p, q), mass * (q / std::max(remaining, q)));
  }
};

/// The stage after x was rejected at `stage`, on dense laws; DraftKind says how the drafts were drawn.
template <class DraftKind>
rejection_stage next_stage(const rejection_stage& stage, std::span<const double> p, std::span<const double> q,
                           token_id x) {
  static_assert(std::same_as<DraftKind, independent_draws> || std::same_as<DraftKind, draws_without_replacement>);
  expects(x >= 0 && x < std::ssize(q), "next_stage", "x", x);
  expects(p.size() == q.size(), "next_stage", "q.size", q.size());
  const double qx = q[static_cast<std::size_t>(x)];
  rejection_stage next = stage;
  next.coefficient += stage.mass / std::max(stage.remaining, qx);
  if constexpr (std::same_as<DraftKind, draws_without_replacement>) next.remaining = stage.remaining - qx;
  next.mass = 0;
  for (std::size_t y = 0; y < p.size(); ++y) next.mass += next.target(p[y], q[y]);
  return next;
}

/// out = r_k, the law that stage k tests against; normalised. All 0 if the mass is 0.
inline void stage_target(std::span<double> out, const rejection_stage& stage, std::span<const double> p,
                         std::span<const double> q) {
  expects(p.size() == q.size(), "stage_target", "q.size", q.size());
  expects(out.size() == p.size(), "stage_target", "out.size", out.size());
  for (std::size_t y = 0; y < p.size(); ++y) out[y] = stage.mass > 0 ? stage.target(p[y], q[y]) / stage.mass : 0.0;
}

/// The node rule for independent draws or draws without replacement; for top_draws it is exact_match. Stateless:
/// threads may share it. No allocation (a decision source: one).
template <class DraftKind>
struct recursive_rejection {
  static_assert(std::same_as<DraftKind, independent_draws> || std::same_as<DraftKind, draws_without_replacement>);
  using draft_kind = DraftKind;

  /// No child: y ~ target, the draft is not read. Faults as in token_rejection, with row -1 for both rows and the
  /// child's place for "drafted"; a child that appears twice without replacement has q_k = 0 the second time.
  template <class S, class Q, random_source R>
  node_decision decide(const token_row<S>& target, const token_row<Q>& draft, std::span<const token_id> children,
                       R& random) const {
    const token_law<S> p(target);
    if (!p.valid()) return {-1, -1, p.fault("target", -1)};
    if (children.empty()) return {-1, p.draw(random), {}};
    const token_law<Q> q(draft);
    if (!q.valid()) return {-1, -1, q.fault("draft", -1)};
    if (const row_fault f = detail::check_lengths(p, q, -1)) return {-1, -1, f};
    for (index_t k = 0; k < std::ssize(children); ++k)
      if (const row_fault f = check_child(p, q, children, k)) return {-1, -1, f};

    rejection_stage stage;
    for (index_t k = 0; k < std::ssize(children); ++k) {
      const token_id x = children[static_cast<std::size_t>(k)];
      const double px = p.probability(x), qx = q.probability(x);
      const double left = std::max(stage.remaining, qx);  // rounding cannot leave less than x itself
      if (bernoulli_ratio(random, stage.target(px, qx) * left, qx * stage.mass)) return {k, x, {}};
      stage.coefficient += stage.mass / left;
      if constexpr (std::same_as<DraftKind, draws_without_replacement>) stage.remaining -= qx;
      if (k + 1 == std::ssize(children)) break;
      stage.mass = residual_law<S, Q>(p, q, 1, stage.coefficient).measure();
      if (!(stage.mass > 0)) return {-1, p.draw(random), {}};  // only rounding empties a residual after a rejection
    }
    return {-1, residual_law<S, Q>(p, q, 1, stage.coefficient).draw(random), {}};
  }

  /// As decide; throws invalid_argument where it reports a defect.
  template <class S, class Q, random_source R>
  node_decision operator()(const token_row<S>& target, const token_row<Q>& draft, std::span<const token_id> children,
                           R& random) const {
    const node_decision d = decide(target, draft, children, random);
    detail::expects_no_fault("recursive_rejection", d.fault);
    return d;
  }

 private:
  template <class S, class Q>
  static row_fault check_child(const token_law<S>& p, const token_law<Q>& q, std::span<const token_id> children,
                               index_t k) {
    const token_id x = children[static_cast<std::size_t>(k)];
    if (const row_fault f = detail::check_token(p, q, x, k, -1)) return f;
    if constexpr (std::same_as<DraftKind, draws_without_replacement>) {
      const auto before = children.first(static_cast<std::size_t>(k));
      if (std::find(before.begin(), before.end(), x) != before.end()) return {"drafted", k, -1, static_cast<double>(x)};
    }
    return {};
  }
};

/// Children chosen without randomness: recursive rejection with drafts of probability one, which is the same as drawing
/// from the target and comparing.
template <>
struct recursive_rejection<top_draws> : exact_match {};

}  // namespace sluice
