#pragma once
#include <sluice/draw/weights.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/random/uniform.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <span>
#include <vector>

namespace sluice {

/// One of n categories whose weights change between draws: a binary heap of partial sums.
///     T[i] = T[2i] + T[2i + 1], recomputed on every update: no drift, and bit for bit what a fresh build gives
///     draw: from the root with u T[1]; left if it is below T[2i], otherwise subtract T[2i] and go right
/// A child of zero mass is never entered, so a category of weight zero is never drawn. Build O(n), update and draw
/// O(log n), one word a draw, no allocation; 16 n bytes, n rounded up to a power of two. A tree of zeros is legal until
/// one draws from it. Draws may be shared by threads, updates may not.
/// Differs from the Fenwick tree that is often used: adding differences to one leaves residues (1.6e-8 after 10^7
/// updates of weights up to 1000), from which removed items are drawn.
class sum_tree {
 public:
  sum_tree() = default;
  /// Throws invalid_argument, as does rebuild, if there are no weights or if one is negative, NaN or infinite.
  template <weight_range W>
  explicit sum_tree(const W& weights) {
    rebuild(weights);
  }
  template <weight_range W>
  void rebuild(const W& weights) {
    const auto w = detail::weight_span(weights);
    expects(!w.empty(), "sum_tree", "weights.size", 0);
    const detail::weight_summary seen = detail::check_weights(w, "sum_tree");
    size_ = static_cast<index_t>(w.size());
    leaves_ = std::bit_ceil(w.size());
    tree_.assign(2 * leaves_, 0.0);
    for (std::size_t i = 0; i < w.size(); ++i) tree_[leaves_ + i] = static_cast<double>(w[i]);
    positive_ = seen.positive;
    sum_up(seen.max);
  }

  index_t size() const { return size_; }
  double weight(index_t i) const { return tree_[leaves_ + static_cast<std::size_t>(i)]; }
  /// Number of categories that can be drawn.
  index_t positive() const { return positive_; }
  /// Sum of the weights; infinity if it exceeds the largest double (draws are right all the same).
  double total() const { return root() / scale_; }
  /// The heap: T[1] is the root, the leaves begin at size()/2 of it and are the weights. Sums are multiplied by a power
  /// of two, which is 1 unless the weights' scale is outside 2^-500 ... 2^960.
  std::span<const double> heap() const { return tree_; }

  /// Sets weight i. O(log n); O(n) when the scale of all weights leaves the range above. Throws invalid_argument, and
  /// changes nothing, if i is not in [0, size()) or the weight is negative, NaN or infinite.
  void update(index_t i, double weight) {
    expects(i >= 0 && i < size_, "sum_tree::update", "i", i);
    expects(weight >= 0 && std::isfinite(weight), "sum_tree::update", "weight", weight);
    std::size_t node = leaves_ + static_cast<std::size_t>(i);
    positive_ += (weight > 0 ? 1 : 0) - (tree_[node] > 0 ? 1 : 0);
    tree_[node] = weight;
    if (leaves_ > 1) {
      node /= 2;
      tree_[node] = tree_[2 * node] * scale_ + tree_[2 * node + 1] * scale_;
      while (node > 1) {
        node /= 2;
        tree_[node] = tree_[2 * node] + tree_[2 * node + 1];
      }
    }
    if (positive_ > 0 && !(root() > 0x1p-900 && root() < 0x1p1010)) [[unlikely]] {
      double max = 0;
      for (std::size_t k = leaves_; k < 2 * leaves_; ++k) max = std::max(max, tree_[k]);
      if (detail::weight_scale(max) != scale_) sum_up(max);
    }
  }

  /// The category at u in [0, 1). Throws invalid_argument if all weights are zero.
  index_t at(double u) const {
    expects(positive_ > 0, "sum_tree", "weights.total", 0);
    double rest = u * root();
    std::size_t node = 1;
    while (2 * node < leaves_) descend(node, rest, tree_[2 * node], tree_[2 * node + 1]);
    if (node < leaves_) descend(node, rest, tree_[2 * node] * scale_, tree_[2 * node + 1] * scale_);
    return static_cast<index_t>(node - leaves_);
  }

  /// One category; an enumerating source is given the weights themselves.
  template <random_source R>
  index_t draw(R& random) const {
    if constexpr (decision_source<R>) {
      expects(positive_ > 0, "sum_tree", "weights.total", 0);
      return static_cast<index_t>(
          random.categorical(std::span(tree_).subspan(leaves_, static_cast<std::size_t>(size_))));
    } else {
      return at(co53(random()));
    }
  }

 private:
  double root() const { return leaves_ > 1 ? tree_[1] : leaves_ == 1 ? tree_[1] * scale_ : 0.0; }

  static void descend(std::size_t& node, double& rest, double left, double right) {
    const bool go_right = rest >= left && right > 0;
    rest -= go_right ? left : 0.0;
    node = 2 * node + (go_right ? 1 : 0);
  }

  void sum_up(double max) {
    scale_ = detail::weight_scale(max);
    for (std::size_t k = leaves_ - 1; k >= 1 && k < leaves_; --k)
      tree_[k] = 2 * k >= leaves_ ? tree_[2 * k] * scale_ + tree_[2 * k + 1] * scale_ : tree_[2 * k] + tree_[2 * k + 1];
  }

  std::vector<double> tree_;
  std::size_t leaves_ = 0;
  index_t size_ = 0, positive_ = 0;
  double scale_ = 1;
};

}  // namespace sluice
