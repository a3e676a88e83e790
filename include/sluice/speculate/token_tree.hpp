#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/speculate/language_model.hpp>
#include <sluice/speculate/verification.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

/// Token trees: which nodes a round drafts (shape), the nodes it did draft, and the walk from the root that verifies
/// them (SpecInfer's multi-step verification). The walk is lossless whenever every node's rule is exact for the way its
/// children were drawn and, given the node, the children are drawn independently of everything deeper.
/// Sources: Miao et al., SpecInfer (arXiv:2305.09781), section 4.3; Chen et al., Sequoia (arXiv:2402.12374), section
/// 3.1 for the static tree of a node budget.
namespace sluice {

/// How many children every node drafts. Nodes are numbered breadth first, 0 is the root (the last committed token,
/// not drafted), so a level and the children of a node are contiguous, and a tree cut at a depth is a prefix.
class tree_shape {
 public:
  /// The root alone: nothing is drafted.
  tree_shape() : tree_shape(std::vector<index_t>{0}) {}
  /// n_children[i] of node i, breadth first, one entry a node, the root first. Throws invalid_argument if an entry is
  /// negative or the entries do not describe one tree. O(nodes).
  explicit tree_shape(std::vector<index_t> n_children) : n_children_(std::move(n_children)) {
    const index_t n = std::ssize(n_children_);
    expects(n >= 1, "tree_shape", "n_children.size", n);
    first_child_.resize(n_children_.size());
    depth_.assign(n_children_.size(), 0);
    parent_.assign(n_children_.size(), -1);
    index_t next = 1;
    for (index_t i = 0; i < n; ++i) {
      const index_t k = n_children_[static_cast<std::size_t>(i)];
      expects(k >= 0 && k <= n - next && i < next, "tree_shape", "n_children", k, i);
      first_child_[static_cast<std::size_t>(i)] = next;
      for (index_t c = next; c < next + k; ++c) {
        depth_[static_cast<std::size_t>(c)] = depth_[static_cast<std::size_t>(i)] + 1;
        parent_[static_cast<std::size_t>(c)] = i;
      }
      next += k;
      most_children_ = std::max(most_children_, k);
      n_internal_ += k > 0;
    }
    expects(next == n, "tree_shape", "n_children.size", n);
    for (index_t i = 0, level = 0; i < n; ++i) {
      level = i > 0 && depth(i) == depth(i - 1) ? level + 1 : 1;
      widest_level_ = std::max(widest_level_, level);
    }
  }

  index_t n_drafted() const { return std::ssize(n_children_) - 1; }  ///< nodes without the root: the draft budget
  index_t depth() const { return depth_.back(); }                    ///< tokens on the longest path
  index_t most_children() const { return most_children_; }
  index_t widest_level() const { return widest_level_; }  ///< nodes of the fullest level
  index_t n_internal() const { return n_internal_; }      ///< nodes with children: draft rows of a round
  index_t n_children(index_t node) const { return n_children_[static_cast<std::size_t>(node)]; }
  index_t first_child(index_t node) const { return first_child_[static_cast<std::size_t>(node)]; }
  index_t parent(index_t node) const { return parent_[static_cast<std::size_t>(node)]; }
  index_t depth(index_t node) const { return depth_[static_cast<std::size_t>(node)]; }
  friend bool operator==(const tree_shape& a, const tree_shape& b) { return a.n_children_ == b.n_children_; }

 private:
  std::vector<index_t> n_children_, first_child_, depth_, parent_;
  index_t most_children_ = 0, n_internal_ = 0, widest_level_ = 1;
};

namespace detail {
inline constexpr index_t most_nodes = index_t{1} << 24;
}  // namespace detail

/// One path of `gamma` tokens. gamma = 0 drafts nothing and is legal. Throws invalid_argument if gamma < 0.
inline tree_shape chain_shape(index_t gamma) {
  expects(gamma >= 0 && gamma < detail::most_nodes, "chain_shape", "gamma", gamma);
  std::vector<index_t> n_children(static_cast<std::size_t>(gamma) + 1, 1);
  n_children.back() = 0;
  return tree_shape(std::move(n_children));
}

/// `n_paths` children of the root, each followed by a path: n_paths * depth nodes. Paths of independent draws that
/// begin alike share their nodes, and the shared node draws for all of them: with a rule for independent draws this is
/// SpecTr's drafting of K paths (arXiv:2310.15141, algorithm 3), the survivors at a depth being the draws of one node.
/// Throws invalid_argument if n_paths < 1 or depth < 0.
inline tree_shape independent_paths(index_t n_paths, index_t depth) {
  expects(n_paths >= 1 && n_paths < detail::most_nodes, "independent_paths", "n_paths", n_paths);
  expects(depth >= 0 && depth < detail::most_nodes / n_paths, "independent_paths", "depth", depth);
  if (depth == 0) return {};
  std::vector<index_t> n_children(static_cast<std::size_t>(n_paths * depth) + 1, 1);
  n_children.front() = n_paths;
  std::fill(n_children.end() - n_paths, n_children.end(), 0);
  return tree_shape(std::move(n_children));
}

/// Every node down to `depth` has n_children children: n + n^2 + ... + n^depth nodes.
/// Throws invalid_argument if n_children < 1, depth < 0 or the tree has more than 2^24 nodes.
inline tree_shape full_tree(index_t n_children, index_t depth) {
  expects(n_children >= 1 && n_children < detail::most_nodes, "full_tree", "n_children", n_children);
  expects(depth >= 0 && depth < detail::most_nodes, "full_tree", "depth", depth);
  index_t internal = 0, level = 1;
  for (index_t d = 0; d < depth; ++d) {
    internal += level;
    expects(level <= (detail::most_nodes - internal) / n_children, "full_tree", "depth", depth);
    level *= n_children;
  }
  std::vector<index_t> counts(static_cast<std::size_t>(internal), n_children);
  counts.resize(static_cast<std::size_t>(internal + level), 0);
  return tree_shape(std::move(counts));
}

/// A shape and what it is expected to emit.
struct tree_plan {
  tree_shape shape;
  double expected_tokens = 1;  ///< per target call, correction or bonus included
};

/// The shape with at most `budget` drafted nodes and `depth` levels that emits most tokens a call, if the child of rank
/// k is the accepted one with probability acceptance[k] at every node (decoder_stats::child_accepted / child_tested is
/// the measurement). Sequoia's dynamic programme, F_d(b) the best of a subtree of b nodes and depth d:
///     F_0(b) = 1,    F_d(b) = 1 + max sum_k acceptance[k] F_{d-1}(b_k),    sum_k b_k <= b - 1, b_k >= 1 up to the
///     last.
/// Ties take fewer nodes. O(depth budget^2 K) time, O(depth budget K) memory, K = acceptance.size().
/// Throws invalid_argument if budget < 0, depth < 0, an acceptance is outside [0, 1] or their sum exceeds 1 by more
/// than 1e-9. Source: Sequoia, arXiv:2402.12374, proposition 3.4; differs: the budget counts drafted nodes, without the
/// root, and need not be used up.
inline tree_plan best_tree(std::span<const double> acceptance, index_t budget, index_t depth) {
  expects(budget >= 0 && budget < detail::most_nodes, "best_tree", "budget", budget);
  expects(depth >= 0, "best_tree", "depth", depth);
  double total = 0;
  for (index_t k = 0; k < std::ssize(acceptance); ++k) {
    const double a = acceptance[static_cast<std::size_t>(k)];
    expects(a >= 0 && a <= 1, "best_tree", "acceptance", a, k);
    total += a;
  }
  expects(total <= 1 + 1e-9, "best_tree", "acceptance.sum", total);
  const std::size_t n_ranks = acceptance.size(), width = static_cast<std::size_t>(budget) + 1;
  const std::size_t levels = static_cast<std::size_t>(std::min(depth, budget));  // a path cannot be deeper
  // best[b]: value of a subtree with b nodes below its root. rest[k][m]: value of the children of rank k and later if
  // they share m nodes; share[d][k][m]: how many of them the child of rank k takes, itself included.
  std::vector<double> best(width, 1.0), rest((n_ranks + 1) * width, 0.0);
  std::vector<std::int32_t> share(levels * n_ranks * width, 0);
  for (std::size_t d = 0; d < levels; ++d) {
    for (std::size_t k = n_ranks; k-- > 0;)
      for (std::size_t m = 0; m < width; ++m) {
        double value = 0;
        std::int32_t taken = 0;
        for (std::size_t c = 1; c <= m; ++c) {
          const double v = acceptance[k] * best[c - 1] + rest[(k + 1) * width + m - c];
          if (v > value) value = v, taken = static_cast<std::int32_t>(c);
        }
        rest[k * width + m] = value;
        share[(d * n_ranks + k) * width + m] = taken;
      }
    for (std::size_t m = 0; m < width && n_ranks > 0; ++m) best[m] = 1 + rest[m];
  }
  struct subtree {
    std::size_t levels, nodes;
  };
  std::vector<subtree> queue{{levels, static_cast<std::size_t>(budget)}};  // breadth first: grows while it is read
  std::vector<index_t> n_children;
  for (std::size_t i = 0; i < queue.size(); ++i) {
    auto [level, nodes] = queue[i];
    index_t count = 0;
    for (std::size_t k = 0; level > 0 && k < n_ranks; ++k) {
      const auto c = static_cast<std::size_t>(share[((level - 1) * n_ranks + k) * width + nodes]);
      if (c == 0) break;
      queue.push_back({level - 1, c - 1});
      nodes -= c;
      ++count;
    }
    n_children.push_back(count);
  }
  return {tree_shape(std::move(n_children)), best.back()};
}

namespace detail {
/// The dynamic programme of best_tree for acceptances that depend on the number of draws; plans once for every budget
/// up to the one given.
class tree_planner {
 public:
  tree_planner(index_t width, index_t budget, index_t depth)
      : width_(static_cast<std::size_t>(width)),
        nodes_(static_cast<std::size_t>(budget) + 1),
        levels_(static_cast<std::size_t>(std::min(depth, budget))),
        best_((levels_ + 1) * nodes_, 1.0),
        rest_((width_ + 1) * nodes_),
        count_(levels_ * nodes_),
        share_(levels_ * width_ * (width_ + 1) / 2 * nodes_) {}

  template <class Acceptance>
  void plan(const Acceptance& acceptance) {
    constexpr double none = -std::numeric_limits<double>::infinity();
    for (std::size_t d = 0; d < levels_; ++d) {
      const std::span<const double> below = std::span(best_).subspan(d * nodes_, nodes_);
      const std::span<double> best = std::span(best_).subspan((d + 1) * nodes_, nodes_);
      std::fill(best.begin(), best.end(), 1.0);
      std::fill_n(count_.begin() + static_cast<std::ptrdiff_t>(d * nodes_), nodes_, 0);
      for (std::size_t n = 1; n <= width_; ++n) {
        std::fill_n(rest_.begin() + static_cast<std::ptrdiff_t>(n * nodes_), nodes_, 0.0);
        for (std::size_t k = n; k-- > 0;) {
          const double a = acceptance(static_cast<index_t>(n), static_cast<index_t>(k));
          for (std::size_t m = 0; m < nodes_; ++m) {
            double value = none;
            std::int32_t taken = 0;
            for (std::size_t c = 1; c + (n - k - 1) <= m; ++c) {
              const double v = a * below[c - 1] + rest_[(k + 1) * nodes_ + m - c];
              if (v > value) value = v, taken = static_cast<std::int32_t>(c);
            }
            rest_[k * nodes_ + m] = value;
            share_[share(d, n, k) + m] = taken;
          }
        }
        for (std::size_t m = n; m < nodes_; ++m)
          if (1 + rest_[m] > best[m]) best[m] = 1 + rest_[m], count_[d * nodes_ + m] = static_cast<std::int32_t>(n);
      }
    }
  }

  /// Of the last plan, for a budget up to the one given.
  tree_plan plan_for(index_t budget) const {
    struct subtree {
      std::size_t levels, nodes;
    };
    std::vector<subtree> queue{{levels_, static_cast<std::size_t>(budget)}};  // breadth first: grows while it is read
    std::vector<index_t> n_children;
    for (std::size_t i = 0; i < queue.size(); ++i) {
      auto [level, nodes] = queue[i];
      const std::size_t n = level == 0 ? 0 : static_cast<std::size_t>(count_[(level - 1) * nodes_ + nodes]);
      for (std::size_t k = 0; k < n; ++k) {
        const auto c = static_cast<std::size_t>(share_[share(level - 1, n, k) + nodes]);
        queue.push_back({level - 1, c - 1});
        nodes -= c;
      }
      n_children.push_back(static_cast<index_t>(n));
    }
    return {tree_shape(std::move(n_children)), best_[levels_ * nodes_ + static_cast<std::size_t>(budget)]};
  }

 private:
  std::size_t share(std::size_t d, std::size_t n, std::size_t k) const {
    return (d * (width_ * (width_ + 1) / 2) + n * (n - 1) / 2 + k) * nodes_;
  }
  std::size_t width_, nodes_, levels_;
  std::vector<double> best_, rest_;          // [depth][nodes below]; the children of rank k and later sharing m nodes
  std::vector<std::int32_t> count_, share_;  // children; nodes that the child of rank k takes, itself included
};
}  // namespace detail

/// As best_tree above, for rules whose acceptance depends on the number of draws (hybrid, k-SEQ): at a node with n
/// draws draw k is the accepted one with probability acceptance(n, k), 0 <= k < n <= width:
///     F_d(b) = max(1, max_n 1 + sum_{k<n} acceptance(n, k) F_{d-1}(b_k)),    sum_k (b_k + 1) <= b.
/// O(depth budget^2 width^2) time, O(depth budget width^2) memory. Equal draws are not considered. Throws
/// invalid_argument if width < 1, budget < 0 or depth < 0, or an acceptance is outside [0, 1] (index: k). Ours.
template <class Acceptance>
requires std::is_invocable_r_v<double, const Acceptance&, index_t, index_t> tree_plan
best_tree(const Acceptance& acceptance, index_t width, index_t budget, index_t depth) {
  expects(width >= 1 && width <= 4096, "best_tree", "width", width);
  expects(budget >= 0 && budget < detail::most_nodes, "best_tree", "budget", budget);
  expects(depth >= 0, "best_tree", "depth", depth);
  width = std::min(width, std::max<index_t>(budget, 1));
  for (index_t n = 1; n <= width; ++n)
    for (index_t k = 0; k < n; ++k) {
      const double a = acceptance(n, k);
      expects(a >= 0 && a <= 1, "best_tree", "acceptance", a, k);
    }
  detail::tree_planner planner(width, budget, depth);
  planner.plan(acceptance);
  return planner.plan_for(budget);
}

/// The nodes that a round drafted: a shape filled with tokens. Node 0 is the root; siblings are contiguous, parents
/// come first. What was drawn at a node is kept as it was drawn, `draws(node)`, a token drawn twice standing there
/// twice: a rule for independent draws needs every copy, each is a stage of its own. Equal draws of one node are one
/// node of the tree, `node_of_draw(node, i)`, so that the target scores every context once: `children(node)` are the
/// distinct tokens, in the order of their first draws. There may be fewer draws than a shape has nodes (a draft whose
/// support is exhausted, a stop token), never more.
class drafted_tree {
 public:
  drafted_tree() { clear(); }
  /// Later rounds of at most n draws allocate nothing.
  void reserve(index_t n) {
    const std::size_t size = static_cast<std::size_t>(n) + 1;
    tree_.token.reserve(size);
    tree_.parent.reserve(size);
    for (std::vector<index_t>* v : {&first_child_, &n_children_, &first_draw_, &n_draws_, &depth_}) v->reserve(size);
    draws_.reserve(size);
    node_of_draw_.reserve(size);
  }
  /// Forgets all nodes but the root.
  void clear(token_id root = -1) {
    tree_.token.assign(1, root);
    tree_.parent.assign(1, -1);
    for (std::vector<index_t>* v : {&first_child_, &n_children_, &first_draw_, &n_draws_, &depth_}) v->assign(1, 0);
    draws_.clear();
    node_of_draw_.clear();
  }
  /// Appends what was drawn at `node`, in the order drawn, once a node; equal tokens become one child. O(draws x
  /// distinct tokens). Throws invalid_argument if there is no such node or it has children.
  void add_children(index_t node, std::span<const token_id> drawn) {
    expects(node >= 0 && node < size(), "drafted_tree::add_children", "node", node);
    expects(n_children(node) == 0, "drafted_tree::add_children", "node", node);
    const index_t first = size(), depth = depth_[static_cast<std::size_t>(node)] + 1;
    first_child_[static_cast<std::size_t>(node)] = first;
    first_draw_[static_cast<std::size_t>(node)] = std::ssize(draws_);
    n_draws_[static_cast<std::size_t>(node)] = std::ssize(drawn);
    for (const token_id x : drawn) {
      const auto found = std::find(tree_.token.begin() + first, tree_.token.end(), x);
      draws_.push_back(x);
      node_of_draw_.push_back(found - tree_.token.begin());
      if (found != tree_.token.end()) continue;
      tree_.token.push_back(x);
      tree_.parent.push_back(node);
      for (std::vector<index_t>* v : {&first_child_, &n_children_, &first_draw_, &n_draws_}) v->push_back(0);
      depth_.push_back(depth);
    }
    n_children_[static_cast<std::size_t>(node)] = size() - first;
  }

  index_t size() const { return std::ssize(tree_.token); }  ///< nodes, root included
  index_t n_drafted() const { return size() - 1; }          ///< distinct nodes
  token_id token(index_t node) const { return tree_.token[static_cast<std::size_t>(node)]; }
  index_t parent(index_t node) const { return tree_.parent[static_cast<std::size_t>(node)]; }
  index_t depth(index_t node) const { return depth_[static_cast<std::size_t>(node)]; }
  index_t first_child(index_t node) const { return first_child_[static_cast<std::size_t>(node)]; }
  index_t n_children(index_t node) const { return n_children_[static_cast<std::size_t>(node)]; }
  /// The distinct tokens among the draws; children(node)[k] is the token of node first_child(node) + k.
  std::span<const token_id> children(index_t node) const {
    return std::span(tree_.token)
        .subspan(static_cast<std::size_t>(n_children(node) ? first_child(node) : 0),
                 static_cast<std::size_t>(n_children(node)));
  }
  index_t n_draws() const { return std::ssize(draws_); }  ///< of all nodes
  index_t n_draws(index_t node) const { return n_draws_[static_cast<std::size_t>(node)]; }
  /// The place of the node's first draw among the draws of the tree; meaningful if there is one.
  index_t first_draw(index_t node) const { return first_draw_[static_cast<std::size_t>(node)]; }
  /// The tokens drawn at the node, in the order drawn; with independent draws a token may repeat.
  std::span<const token_id> draws(index_t node) const {
    return std::span(draws_).subspan(static_cast<std::size_t>(first_draw(node)),
                                     static_cast<std::size_t>(n_draws(node)));
  }
  /// The child that draw i of the node became.
  index_t node_of_draw(index_t node, index_t i) const {
    return node_of_draw_[static_cast<std::size_t>(first_draw(node) + i)];
  }
  const token_tree& tokens() const { return tree_; }

 private:
  token_tree tree_;
  std::vector<index_t> first_child_, n_children_, first_draw_, n_draws_, depth_;
  std::vector<token_id> draws_;
  std::vector<index_t> node_of_draw_;
};

/// What the walk decided: `accepted` nodes, written to the path, then the token `next`. With a fault nothing is
/// decided; fault.row is the node.
struct tree_decision {
  index_t accepted = 0;
  token_id next = -1;
  row_fault fault{};
};

/// Walks from the root: at each node `rule` decides among the draws, and at a leaf draws the bonus from the target (a
/// decision among no draws). path receives the accepted nodes, parents first, and ranks which draw of its parent each
/// one was, the index that the rule returned; both must have room for the depth of the tree. target_row(node) and
/// draft_row(node) give the laws; draft_row is asked only where there are children, and neither behind the stop. Cost:
/// one decision a visited node. Allocates nothing itself. Throws invalid_argument if path or ranks is too short, before
/// the walk.
template <class Rule, class TargetRow, class DraftRow, class R>
tree_decision verify_tree(const Rule& rule, TargetRow&& target_row, DraftRow&& draft_row, std::span<index_t> path,
                          std::span<index_t> ranks, const drafted_tree& tree, R& random) {
  const index_t depth = tree.depth(tree.size() - 1);
  expects(std::ssize(path) >= depth, "verify_tree", "path.size", path.size());
  expects(std::ssize(ranks) >= depth, "verify_tree", "ranks.size", ranks.size());
  tree_decision d;
  for (index_t node = 0;;) {
    const std::span<const token_id> draws = tree.draws(node);
    using draft_row_t = std::remove_cvref_t<decltype(draft_row(node))>;
    const node_decision n = rule.decide(
        target_row(node), draws.empty() ? draft_row_t{row_kind::probabilities, {}} : draft_row(node), draws, random);
    if (n.fault) {
      d = {0, -1, n.fault};
      d.fault.row = node;
      return d;
    }
    if (n.child < 0) {
      d.next = n.next;
      return d;
    }
    node = tree.node_of_draw(node, n.child);
    ranks[static_cast<std::size_t>(d.accepted)] = n.child;
    path[static_cast<std::size_t>(d.accepted++)] = node;
  }
}

}  // namespace sluice
