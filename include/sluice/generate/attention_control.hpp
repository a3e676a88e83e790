#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/generate/editing.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <span>

/// Attention control for edits of models that expose their attention (InfEdit's "unified attention control"), as pure
/// functions: what each branch attends to, how cross-attention maps of two prompts merge, and a blend by the maps of
/// the edited words. Branches are ordered source, target, layout. Control is by the progress p = (i + 1)/N of step i of
/// N, counted in the whole list of levels.
/// Source: Xu et al., CVPR 2024 (arXiv:2312.04965), section 4, and the authors' code. Thresholds there: self 0.3 or
/// 0.7, cross 0.7, blend 0.55 to 0.6.
namespace sluice {

/// p of this step.
constexpr double control_progress(const edit_step& step) {
  return static_cast<double>(step.index + 1) / static_cast<double>(step.count);
}

/// Early (p < self_replace): the layout of the source is imposed on all branches. Late: the target's contents move into
/// the source's layout.
enum class attention_phase { layout, mutual };
constexpr attention_phase self_attention_phase(double progress, double self_replace) {
  return progress < self_replace ? attention_phase::layout : attention_phase::mutual;
}
/// Whether the target's cross-attention map is replaced: p <= cross_replace.
constexpr bool replaces_cross_attention(double progress, double cross_replace) { return progress <= cross_replace; }

/// Whose queries, keys and values branch b attends with: query[b], key[b], value[b] are branches (0 source, 1 target,
/// 2 layout). The late phase leaves source and target as they are.
struct attention_routing {
  std::array<std::size_t, 3> query, key, value;
};
constexpr attention_routing self_attention_routing(attention_phase phase) {
  if (phase == attention_phase::layout) return {{0, 0, 0}, {0, 0, 0}, {0, 1, 0}};
  return {{0, 1, 1}, {0, 1, 0}, {0, 1, 0}};
}

namespace detail {
/// a <- softmax of each row of scale q k^T.
template <class A, class Q, class K>
void attention_weights(A& a, const Q& q, const K& k, double scale) {
  using scalar = typename A::Scalar;
  a.noalias() = q * k.transpose();
  a *= static_cast<scalar>(scale);
  for (Eigen::Index i = 0; i < a.rows(); ++i) {
    auto row = a.row(i).array();
    row -= row.maxCoeff();
    row = row.exp();
    row *= scalar{1} / row.sum();
  }
}
}  // namespace detail

/// The self-attention of one head in all three branches, out[b] = softmax(scale q k^T) v with the q, k, v of
/// self_attention_routing. Positions are rows: q and k are n x d, v is n x d_v; `weights` is workspace of n x n. In the
/// early phase, where all branches share their weights, these are computed once, and the layout's output is the
/// source's. Allocates nothing if out and weights have their sizes. Throws invalid_argument, nothing written, if shapes
/// differ between branches or do not fit, or the scale is not finite.
template <class M, std::size_t Q, std::size_t K, std::size_t V>
requires(Q == 3 && K == 3 &&
         V == 3) void controlled_self_attention(std::array<M, 3>& out, M& weights, const std::array<M, Q>& q,
                                                const std::array<M, K>& k, const std::array<M, V>& v, double scale,
                                                attention_phase phase) {
  for (std::size_t b = 0; b < 3; ++b) {
    const auto at = static_cast<index_t>(b);
    expects(q[b].rows() == q[0].rows() && q[b].cols() == q[0].cols(), "controlled_self_attention", "q.size",
            q[b].size(), at);
    expects(k[b].rows() == q[0].rows() && k[b].cols() == q[0].cols(), "controlled_self_attention", "k.size",
            k[b].size(), at);
    expects(v[b].rows() == q[0].rows() && v[b].cols() == v[0].cols(), "controlled_self_attention", "v.size",
            v[b].size(), at);
  }
  expects(std::isfinite(scale), "controlled_self_attention", "scale", scale);
  const attention_routing r = self_attention_routing(phase);
  weights.resize(q[0].rows(), q[0].rows());
  for (std::size_t b = 0; b < 3; ++b) {
    out[b].resize(q[0].rows(), v[0].cols());
    if (b > 0 && r.query[b] == r.query[0] && r.key[b] == r.key[0] && r.value[b] == r.value[0]) {
      out[b] = out[0];
      continue;
    }
    if (b == 0 || r.query[b] != r.query[b - 1] || r.key[b] != r.key[b - 1])
      detail::attention_weights(weights, q[r.query[b]], k[r.key[b]], scale);
    out[b].noalias() = weights * v[r.value[b]];
  }
}

/// The target's cross-attention map, refined by the source's: positions are rows, tokens columns,
///     out[:, j] = kept_j source[:, mapper_j] + (1 - kept_j) target[:, j].
/// kept_j is 1 for tokens that are in both prompts, mapper_j their place in the source's prompt; where kept_j is 0 the
/// mapper is not read (public code has -1 there). out may be `target`. Throws invalid_argument, nothing written, if
/// sizes do not fit, a kept_j is not in [0, 1] or a mapper_j that is read is not a column of the source.
template <class Out, class S, class T>
void refine_cross_attention(Out& out, const S& source, const T& target, std::span<const index_t> mapper,
                            std::span<const double> kept) {
  constexpr const char* function = "refine_cross_attention";
  expects(source.rows() == target.rows(), function, "source.rows", source.rows());
  expects(out.rows() == target.rows() && out.cols() == target.cols(), function, "out.size", out.size());
  expects(std::ssize(mapper) == target.cols(), function, "mapper.size", mapper.size());
  expects(std::ssize(kept) == target.cols(), function, "kept.size", kept.size());
  for (std::size_t j = 0; j < kept.size(); ++j) {
    const auto at = static_cast<index_t>(j);
    expects(kept[j] >= 0 && kept[j] <= 1, function, "kept", kept[j], at);
    expects(kept[j] == 0 || (mapper[j] >= 0 && mapper[j] < source.cols()), function, "mapper", mapper[j], at);
  }
  using scalar = typename Out::Scalar;
  for (std::size_t j = 0; j < kept.size(); ++j) {
    const auto column = static_cast<Eigen::Index>(j);
    const auto share = static_cast<scalar>(kept[j]);
    if (kept[j] == 0)
      out.col(column) = target.col(column);
    else
      out.col(column) = source.col(mapper[j]) * share + target.col(column) * (scalar{1} - share);
  }
}

/// The threshold of the edited words' map at a level: max(threshold, temperature/alpha). Above 1, at high noise, no
/// element passes.
inline double blend_threshold(double threshold, const noise_level& level, double temperature = 0.15) {
  return std::max(threshold, temperature / level.alpha);
}
/// Whether an element of a map, divided by the map's largest element, is above the threshold; false for a map of zeros.
template <std::floating_point S>
bool above_threshold(S value, S largest, double threshold) {
  return largest > 0 && static_cast<double>(value) / static_cast<double>(largest) > threshold;
}

/// Blends by cross-attention maps. After every step but the first and the last of a run,
///     target <- layout where map_e is not above max(edit_threshold, temperature/alpha)   (skipped if map_e is empty),
///     target <- source where map_m is above keep_threshold                              (skipped if map_m is empty),
///     target <- layout where map_me is above edit_threshold, after the last step but one (skipped if map_me is empty),
/// maps divided by their largest element. map_e: the averaged maps of the edited words in the layout branch; map_m:
/// those of the kept words in the source branch; map_me: words that are both, in the layout branch. The spans show
/// memory into which the model writes between the steps; a map has p elements, p a divisor of the d elements of a
/// sample (element e belongs to pixel e mod p, as in channels that follow each other), none negative. Without a layout
/// branch the layout is the source. O(d) a step, no allocation.
template <std::floating_point S = double>
struct local_blend {
  std::span<const S> map_e{}, map_m{}, map_me{};
  double edit_threshold = 0.6, keep_threshold = 0.6, temperature = 0.15;
  index_t n_maps = 1;  ///< 1: a map for all samples; n: in each span a map for each of n samples, one after the other

  /// Throws invalid_argument unless the maps fit n samples of d elements and thresholds are in [0, 1].
  void check(index_t d, index_t n) const {
    expects(edit_threshold >= 0 && edit_threshold <= 1, "local_blend", "edit_threshold", edit_threshold);
    expects(keep_threshold >= 0 && keep_threshold <= 1, "local_blend", "keep_threshold", keep_threshold);
    expects(temperature >= 0 && std::isfinite(temperature), "local_blend", "temperature", temperature);
    expects(n_maps == 1 || (n_maps == n && n > 0), "local_blend", "n_maps", n_maps);
    expects(fits(map_e, d), "local_blend", "map_e.size", map_e.size());
    expects(fits(map_m, d), "local_blend", "map_m.size", map_m.size());
    expects(fits(map_me, d), "local_blend", "map_me.size", map_me.size());
  }

  template <class T, class X, class L>
  void operator()(const edit_step& step, T& target, const X& source, const L& layout) const {
    if (step.index == step.first || step.last()) return;
    const double th_e = blend_threshold(edit_threshold, step.level, temperature);
    replace(target, layout, map_e, th_e, false);
    replace(target, source, map_m, keep_threshold, true);
    if (step.index + 2 == step.count) replace(target, layout, map_me, edit_threshold, true);
  }

 private:
  bool fits(std::span<const S> map, index_t d) const {
    return std::ssize(map) % n_maps == 0 && (map.empty() || d % (std::ssize(map) / n_maps) == 0);
  }
  /// to <- from where the map is above the threshold, or where it is not.
  template <class T, class X>
  void replace(T& to, const X& from, std::span<const S> map, double threshold, bool above) const {
    if (map.empty()) return;
    const std::size_t p = map.size() / static_cast<std::size_t>(n_maps);
    std::size_t seen = map.size();  // no sample
    std::span<const S> own = map.first(p);
    S largest = 0;
    detail::replace_where(to, from, p, [&](std::size_t sample, std::size_t pixel) {
      if (seen != sample) {
        seen = sample;
        if (n_maps > 1) own = map.subspan(sample * p, p);
        largest = *std::max_element(own.begin(), own.end());
      }
      return above_threshold(own[pixel], largest, threshold) == above;
    });
  }
};

}  // namespace sluice
