#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/draw/inverse_cdf.hpp>
#include <sluice/draw/weighted_sample.hpp>
#include <sluice/draw/weights.hpp>
#include <sluice/random/decisions.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

namespace sluice {

/// VarOpt: a stream of weighted items is kept as a sample of fixed size k that estimates every subset sum without bias,
/// with the smallest average variance possible, and the total weight with none.
///     pi_i = min(1, w_i / tau), tau as in pps_threshold.hpp;   adjusted weight max(w_i, tau)
/// Items above tau lie in a heap by weight; the others all have adjusted weight tau. A new item makes k + 1; tau rises
/// until exactly one must go, and one of those not above tau goes with probability 1 - w/tau (the light new and demoted
/// ones) or 1 - tau_old/tau (each of the others).
/// add: O(log k) amortised, one decision (two when an old light item goes), no allocation after the constructor. As a
/// design (draw_into) it passes over the weights once; fewer than k positive weights are legal and all kept.
/// merge feeds another sampler's items with their adjusted weights: the result is a VarOpt sample of both streams.
/// One object a thread. Source: Cohen, Duffield, Kaplan, Lund and Thorup, SODA 2009 (arXiv:0803.0473), Algorithm 1.
class var_opt {
 public:
  /// A sampler for draw_into; add needs the other constructor.
  var_opt() = default;
  /// A sampler of k items. Throws invalid_argument if k < 0.
  explicit var_opt(index_t k) { restart(k); }

  /// Forgets the stream, keeps the memory.
  void restart(index_t k) {
    expects(k >= 0, "var_opt", "k", k);
    k_ = k;
    heavy_.clear();
    light_.clear();
    heavy_.reserve(static_cast<std::size_t>(k) + 1);
    light_.reserve(static_cast<std::size_t>(k) + 1);
    fresh_.reserve(static_cast<std::size_t>(k) + 1);
    drop_.reserve(static_cast<std::size_t>(k) + 2);
    tau_ = 0;
    scale_ = 1;
    seen_ = 0;
    merged_ = false;
  }

  /// The next item of the stream. Weight zero counts as seen and is never kept. Throws invalid_argument, nothing
  /// changed, if the weight is negative, NaN or infinite.
  template <random_source R>
  void add(index_t item, double weight, R& random) {
    expects(weight >= 0 && std::isfinite(weight), "var_opt::add", "weight", weight);
    ++seen_;
    if (weight > 0 && k_ > 0) insert(item, weight, weight, random);
  }

  /// Takes in the sample of another stream; `other` is unchanged. Item names are the user's: the two streams should
  /// number their items apart.
  template <random_source R>
  void merge(const var_opt& other, R& random) {
    expects(&other != this, "var_opt::merge", "other", 0);
    seen_ += other.seen_;
    if (k_ == 0) return;
    merged_ = merged_ || std::ssize(other.light_) > 0 || other.merged_ || tau_ > 0;
    for (const entry& e : other.heavy_) insert(e.item, e.adjusted / other.scale_, e.weight, random);
    for (const entry& e : other.light_) insert(e.item, other.threshold(), e.weight, random);
  }

  index_t size() const { return std::ssize(heavy_) + std::ssize(light_); }
  /// tau; 0 while nothing had to go.
  double threshold() const { return tau_ / scale_; }
  /// The estimate of the total weight of the stream: exact, up to rounding.
  double total() const {
    detail::exact_sum sum;
    for (const entry& e : heavy_) sum.add(e.adjusted / scale_);
    return sum.value() + threshold() * static_cast<double>(light_.size());
  }

  /// The sample: weight max(w, tau)/w, so that sum weight * y estimates the total of y, and with y = w the total
  /// weight. Probabilities are given unless samples that had dropped items were merged.
  void sample_into(weighted_sample& s) const {
    detail::restart(s, merged_ ? probability_kind::none : probability_kind::inclusion, seen_);
    s.threshold = threshold();
    const auto put = [&](const entry& e, double adjusted) {
      s.index.push_back(e.item);
      s.weight.push_back(adjusted / e.weight);
      if (!merged_) s.probability.push_back(e.weight / adjusted);
    };
    for (const entry& e : heavy_) put(e, merged_ ? e.adjusted / scale_ : e.weight);
    // Scaled, tau is exact also where its true size is denormal or beyond the largest double.
    for (const entry& e : light_) put({e.item, detail::scaled(e.weight, scale_), 0}, tau_);
    detail::measure(s);
  }

  /// The design: one pass over the weights. Throws invalid_argument, the sample unchanged, if k < 0 or a weight is
  /// negative, NaN or infinite.
  template <weight_range W, random_source R>
  void draw_into(weighted_sample& s, const W& weights, index_t k, R& random) {
    const auto w = detail::weight_span(weights);
    expects(k >= 0, "var_opt", "k", k);
    const detail::weight_summary all = detail::check_weights(w, "var_opt");
    restart(k);
    scale_ = detail::weight_scale(all.max);
    for (std::size_t i = 0; i < w.size(); ++i) add(static_cast<index_t>(i), static_cast<double>(w[i]), random);
    sample_into(s);
  }
  template <weight_range W, random_source R>
  weighted_sample draw(const W& weights, index_t k, R& random) {
    weighted_sample s;
    draw_into(s, weights, k, random);
    return s;
  }

 private:
  struct entry {
    index_t item;
    double weight;    ///< as it came, for the estimate of other totals
    double adjusted;  ///< scaled; not used for light items, whose adjusted weight is tau
  };
  static bool heavier(const entry& a, const entry& b) { return a.adjusted > b.adjusted; }

  /// Keeps scaled weights away from overflow, and the first ones from the denormals, when the stream's scale is
  /// unknown.
  void adapt(double adjusted) {
    const bool first = heavy_.empty() && light_.empty();
    if (adjusted * scale_ <= 0x1p960 && !(first && adjusted * scale_ < 0x1p-900)) [[likely]]
      return;
    const double scale = detail::weight_scale(adjusted);
    for (entry& e : heavy_) e.adjusted = e.adjusted / scale_ * scale;
    tau_ = tau_ / scale_ * scale;
    scale_ = scale;
  }

  template <class R>
  void insert(index_t item, double adjusted, double weight, R& random) {
    adapt(adjusted);
    adjusted = detail::scaled(adjusted, scale_);
    fresh_.clear();
    if (adjusted > tau_ || size() < k_) {
      heavy_.push_back({item, weight, adjusted});
      std::push_heap(heavy_.begin(), heavy_.end(), heavier);
    } else {
      fresh_.push_back({item, weight, adjusted});
    }
    if (size() + std::ssize(fresh_) <= k_) return;
    const double lights = static_cast<double>(light_.size());
    double sum = tau_ * lights;
    double count = lights;
    for (const entry& e : fresh_) sum += e.adjusted, count += 1;
    while (!heavy_.empty() && sum >= (count - 1) * heavy_.front().adjusted) {
      std::pop_heap(heavy_.begin(), heavy_.end(), heavier);
      fresh_.push_back(heavy_.back());
      heavy_.pop_back();
      sum += fresh_.back().adjusted;
      count += 1;
    }
    tau_ = sum / (count - 1);
    drop_.clear();
    double rest = 1;
    for (const entry& e : fresh_) {
      drop_.push_back(std::clamp(1 - e.adjusted / tau_, 0.0, rest));
      rest -= drop_.back();
    }
    if (!light_.empty()) drop_.push_back(rest);
    const auto gone = static_cast<std::size_t>(categorical(random, std::span<const double>(drop_)));
    if (gone < fresh_.size()) {
      fresh_[gone] = fresh_.back();
      fresh_.pop_back();
    } else {
      light_[static_cast<std::size_t>(below(random, light_.size()))] = light_.back();
      light_.pop_back();
    }
    light_.insert(light_.end(), fresh_.begin(), fresh_.end());
  }

  index_t k_ = 0, seen_ = 0;
  std::vector<entry> heavy_, light_, fresh_;
  std::vector<double> drop_;
  double tau_ = 0, scale_ = 1;
  bool merged_ = false;
};

}  // namespace sluice
