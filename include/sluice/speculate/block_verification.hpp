#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/speculate/token_law.hpp>
#include <sluice/speculate/token_rejection.hpp>
#include <sluice/speculate/verification.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <vector>

/// Block verification: the best rule for a single drafted chain, never worse than token rejection.
///
///     P_0 = 1,   P_i = min(1, P_{i-1} p_i(x_i) / q_i(x_i)),   Z_i = sum_y (P_i p_{i+1}(y) - q_{i+1}(y))_+
///     h_i = Z_i / (Z_i + 1 - P_i)  (0/0: 1),   h_gamma = P_gamma
///     tau = the largest i with U_i < h_i, 0 if there is none
///
/// emits x_1 ... x_tau and then y ~ (P_tau p_{tau+1} - q_{tau+1})_+ normalised, or y ~ p_{gamma+1} if tau = gamma. The
/// walk goes from gamma down and stops at the first success; stopping at the first failure from the left, or drawing y
/// from (p - q)_+, breaks the law.
/// Source: Sun et al. (arXiv:2403.10444), Algorithm 2. Differs: h_i <= P_i, so a uniform that is not below P_i fails
/// without the pass that Z_i needs; a position with P_i = 0 and all behind it are not looked at.
namespace sluice {

/// The quantities of one round, for a fixed block: p[i] = P_i (i = 0 .. gamma), z[i] = Z_i (i = 0 .. gamma - 1), h[i]
/// (i = 0 .. gamma; h[0] = 1), tau_law[i] = P(tau = i).
struct block_path {
  std::vector<double> p, z, h, tau_law;
};

/// Reads all rows of the round; O(gamma V). Throws invalid_argument as block_verification does.
template <class S, class Q>
block_path path_of_block(const request<S, Q>& r) {
  detail::expects_no_fault("path_of_block", detail::check_round(r));
  const std::size_t gamma = r.drafted.size();
  block_path path{std::vector<double>(gamma + 1, 1.0), std::vector<double>(gamma), std::vector<double>(gamma + 1, 1.0),
                  std::vector<double>(gamma + 1)};
  for (std::size_t i = 0; i < gamma; ++i) {
    const auto row = static_cast<index_t>(i);
    const token_law<S> p(r.target[i]);
    if (!p.valid()) detail::expects_no_fault("path_of_block", p.fault("target", row));
    const token_law<Q> q(r.draft[i]);
    if (!q.valid()) detail::expects_no_fault("path_of_block", q.fault("draft", row));
    detail::expects_no_fault("path_of_block", detail::check_lengths(p, q, row));
    detail::expects_no_fault("path_of_block", detail::check_token(p, q, r.drafted[i], row, row));
    path.z[i] = residual_law<S, Q>(p, q, path.p[i]).measure();
    path.p[i + 1] = std::min(1.0, path.p[i] * p.probability(r.drafted[i]) / q.probability(r.drafted[i]));
    const double below = path.z[i] + 1 - path.p[i];
    if (i > 0) path.h[i] = below > 0 ? path.z[i] / below : 1.0;
  }
  if (gamma > 0) path.h[gamma] = path.p[gamma];
  double none = 1;  // probability that no position behind i succeeds
  for (std::size_t i = gamma + 1; i-- > 0;) {
    path.tau_law[i] = none * path.h[i];
    none *= 1 - path.h[i];
  }
  return path;
}

/// The chain rule. Stateless: threads may share it. Reads the rows of all drafts up to the first that the target
/// excludes, once; the last target row only if everything is accepted; and with probability P_i once more the two rows
/// behind i, for each position visited. No allocation up to 64 drafts (a decision source: one).
struct block_verification {
  using draft_kind = independent_draws;

  /// A verdict, or the first defect among the rows visited, named as by token_rejection.
  template <class S, class Q, random_source R>
  decision decide(const request<S, Q>& r, R& random) const {
    if (const row_fault f = detail::check_round(r)) return {{0, -1}, f};
    const auto gamma = std::ssize(r.drafted);
    std::array<position<S, Q>, 64> few;
    std::vector<position<S, Q>> many;
    std::span<position<S, Q>> at(few);
    if (r.drafted.size() > few.size()) {
      many.resize(r.drafted.size());
      at = many;
    }
    double weight = 1;
    index_t last = 0;  // the last position with P_i > 0
    for (; last < gamma; ++last) {
      const auto k = static_cast<std::size_t>(last);
      const token_law<S> p(r.target[k]);
      if (!p.valid()) return {{0, -1}, p.fault("target", last)};
      const token_law<Q> q(r.draft[k]);
      if (!q.valid()) return {{0, -1}, q.fault("draft", last)};
      if (const row_fault f = detail::check_lengths(p, q, last)) return {{0, -1}, f};
      if (const row_fault f = detail::check_token(p, q, r.drafted[k], last, last)) return {{0, -1}, f};
      at[k] = {weight, p.summarise(), q.summarise()};  // P_i and the rows behind position i
      weight = std::min(1.0, weight * p.probability(r.drafted[k]) / q.probability(r.drafted[k]));
      if (!(weight > 0)) break;
    }
    if (last == gamma && (gamma == 0 || bernoulli(random, weight))) return detail::draw_target(r.target, gamma, random);
    for (index_t i = std::min(last, gamma - 1); i >= 0; --i) {
      const position<S, Q>& here = at[static_cast<std::size_t>(i)];
      const token_law<S> p(r.target[static_cast<std::size_t>(i)], here.target);
      const token_law<Q> q(r.draft[static_cast<std::size_t>(i)], here.draft);
      residual_law<S, Q> residual(p, q, here.weight);
      if (i == 0) return {{0, residual.draw(random)}, {}};
      if constexpr (decision_source<R>) {
        const double z = residual.measure(), below = z + 1 - here.weight;
        if (bernoulli_ratio(random, below > 0 ? z : 1.0, below > 0 ? below : 1.0))
          return {{i, residual.draw(random)}, {}};
      } else {
        const double u = co53(random());
        if (!(u < here.weight)) continue;
        const double z = residual.measure(), below = z + 1 - here.weight;
        if (below > 0 ? u * below < z : true) return {{i, residual.draw_measured(random)}, {}};
      }
    }
    return {{0, -1}, {}};  // not reached: position 0 always returns
  }

  /// The verdict; throws invalid_argument where decide reports a defect.
  template <class S, class Q, random_source R>
  verdict operator()(const request<S, Q>& r, R& random) const {
    const decision d = decide(r, random);
    detail::expects_no_fault("block_verification", d.fault);
    return d.result;
  }

 private:
  template <class S, class Q>
  struct position {
    double weight;
    typename token_law<S>::summary target;
    typename token_law<Q>::summary draft;
  };
};

}  // namespace sluice
