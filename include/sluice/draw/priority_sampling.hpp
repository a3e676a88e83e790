#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/draw/weighted_sample.hpp>
#include <sluice/draw/weights.hpp>
#include <sluice/draw/words.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/random/uniform.hpp>

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

namespace sluice {

/// Priority sampling: a stream, or shards of it, is kept as the k items of the highest priority.
///     priority_i = w_i / u_i, u_i uniform in (0, 1];   t = the (k+1)-th largest;   estimate of w_i: max(w_i, t)
/// Unbiased for every subset sum, estimates of different items uncorrelated; all items kept and t = 0 if there are at
/// most k of them. add: O(1) for an item that cannot enter, else O(log k), one word an item, no allocation after the
/// constructor. Samplers of different shards merge exactly: the result is what one pass over all items with the same
/// uniforms gives, in any order. One object a thread.
/// Source: Duffield, Lund and Thorup, J. ACM 54(6), 2007. Differs: priorities are compared by products, w u' > w' u,
/// which neither overflow nor tie for weights up to the largest double.
class priority_sampling {
 public:
  /// A sampler for draw_into; add needs the other constructor.
  priority_sampling() = default;
  /// A sampler of k items. Throws invalid_argument if k < 0.
  explicit priority_sampling(index_t k) { restart(k); }

  /// Forgets the stream, keeps the memory.
  void restart(index_t k) {
    expects(k >= 0, "priority_sampling", "k", k);
    k_ = k;
    kept_.clear();
    kept_.reserve(static_cast<std::size_t>(k) + 1);
    seen_ = 0;
  }

  /// The next item; weight zero counts as seen and is never kept. Throws invalid_argument, nothing changed, if the
  /// weight is negative, NaN or infinite.
  template <word_source R>
  void add(index_t item, double weight, R& random) {
    expects(weight >= 0 && std::isfinite(weight), "priority_sampling::add", "weight", weight);
    ++seen_;
    const double u = oc53(random());
    if (weight > 0) insert({item, weight, u});
  }

  /// The next item with a uniform of the user's, in (0, 1]: a hash of the item's name makes the samples of different
  /// weightings alike. Throws invalid_argument, nothing changed, if u is outside (0, 1] or add would throw.
  void add_at(index_t item, double weight, double u) {
    expects(weight >= 0 && std::isfinite(weight), "priority_sampling::add_at", "weight", weight);
    expects(u > 0 && u <= 1, "priority_sampling::add_at", "u", u);
    ++seen_;
    if (weight > 0) insert({item, weight, u});
  }

  /// The items of another shard. Both must number their items apart and have the same k: otherwise throws
  /// invalid_argument.
  void merge(const priority_sampling& other) {
    expects(&other != this, "priority_sampling::merge", "other", 0);
    expects(other.k_ == k_, "priority_sampling::merge", "other.k", other.k_);
    seen_ += other.seen_;
    for (const entry& e : other.kept_) insert(e);
  }

  /// t; 0 if nothing was left out.
  double threshold() const { return full() ? kept_.front().weight / kept_.front().uniform : 0.0; }

  /// The sample, in the order of the items: weight max(w, t)/w, so that sum weight * y estimates the total of y.
  /// `kind` is none: min(1, w/t) is conditional on t, not an inclusion probability.
  void sample_into(weighted_sample& s) {
    detail::restart(s, probability_kind::none, seen_);
    const double t = threshold();
    s.threshold = t;
    const auto raise = [&](double w) {  // t may exceed the largest double, t/w need not
      return std::isfinite(t) ? t / w : kept_.front().weight / w / kept_.front().uniform;
    };
    // The top of the heap is the item that t belongs to; the others are ordered by item, then made a heap again.
    const auto first = kept_.begin() + (full() ? 1 : 0);
    std::sort(first, kept_.end(), [](const entry& a, const entry& b) { return a.item < b.item; });
    for (auto e = first; e != kept_.end(); ++e) {
      s.index.push_back(e->item);
      s.weight.push_back(std::max(1.0, raise(e->weight)));
    }
    std::make_heap(kept_.begin(), kept_.end(), higher);
    detail::measure(s);
  }

  /// The design: one pass over the weights. Throws invalid_argument, the sample unchanged, if k < 0 or a weight is
  /// negative, NaN or infinite.
  template <weight_range W, word_source R>
  void draw_into(weighted_sample& s, const W& weights, index_t k, R& random) {
    const auto w = detail::weight_span(weights);
    expects(k >= 0, "priority_sampling", "k", k);
    detail::check_weights(w, "priority_sampling");
    restart(k);
    detail::for_each_word(
        [&](std::size_t i, std::uint64_t word) {
          if (w[i] > 0) insert({static_cast<index_t>(i), static_cast<double>(w[i]), oc53(word)});
        },
        w.size(), random);
    seen_ = std::ssize(w);
    sample_into(s);
  }
  template <weight_range W, word_source R>
  weighted_sample draw(const W& weights, index_t k, R& random) {
    weighted_sample s;
    draw_into(s, weights, k, random);
    return s;
  }

 private:
  struct entry {
    index_t item;
    double weight, uniform;
  };
  /// Of the higher priority; ties go to the lower item.
  static bool higher(const entry& a, const entry& b) {
    const double lift = a.weight < 0x1p-900 || b.weight < 0x1p-900 ? 0x1p100 : 1.0;  // keeps the products normal
    const double f = a.weight > 0x1p900 || b.weight > 0x1p900 ? 1.0 : lift;
    const double x = a.weight * f * b.uniform, y = b.weight * f * a.uniform;
    return x > y || (x == y && a.item < b.item);
  }
  bool full() const { return std::ssize(kept_) == k_ + 1; }

  void insert(entry e) {
    if (full()) {
      if (!higher(e, kept_.front())) return;
      std::pop_heap(kept_.begin(), kept_.end(), higher);
      kept_.back() = e;
    } else {
      kept_.push_back(e);
    }
    std::push_heap(kept_.begin(), kept_.end(), higher);
  }

  std::vector<entry> kept_;
  index_t k_ = 0, seen_ = 0;
};

}  // namespace sluice
