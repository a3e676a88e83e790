#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/draw/alias_table.hpp>
#include <sluice/draw/weighted_sample.hpp>
#include <sluice/draw/weights.hpp>
#include <sluice/random/decisions.hpp>

#include <concepts>
#include <span>
#include <vector>

namespace sluice {

/// Draws one category at a time from prepared weights: alias_table, prefix_sums, sum_tree.
template <class T>
concept categorical_structure = requires(T& table, const T& made, std::span<const double> weights, cursor& random) {
  table.rebuild(weights);
  { made.draw(random) } -> std::same_as<index_t>;
};

/// k independent draws with probabilities q_i = w_i / W; weight 1 / (k q_i), kind per_draw: the Hansen-Hurwitz design.
/// The structure is a policy: alias_table (two words a draw, best from about n/4 draws on) or prefix_sums (one word).
/// prepare once, draw many: O(n), then O(1) or O(log n) a draw; draw_into with weights does both. No allocation once
/// the sizes are reached. One object a thread.
/// Throws invalid_argument if k < 0, if a weight is negative, NaN or infinite, or if k > 0 and no weight is positive.
template <categorical_structure Table = alias_table>
class with_replacement {
 public:
  template <weight_range W>
  void prepare(const W& weights) {
    const auto w = detail::weight_span(weights);
    const double scale = detail::weight_scale(detail::check_positive_weights(w, "with_replacement").max);
    table_.rebuild(w);
    const double total = detail::accurate_sum(w, [scale](double v) { return v * scale; });
    q_.resize(w.size());
    for (std::size_t i = 0; i < w.size(); ++i) q_[i] = static_cast<double>(w[i]) * scale / total;
  }
  const Table& table() const { return table_; }
  std::span<const double> probabilities() const { return q_; }

  /// From the prepared weights.
  template <random_source R>
  void draw_prepared_into(weighted_sample& s, index_t k, R& random) const {
    expects(k >= 0, "with_replacement", "k", k);
    expects(k == 0 || !q_.empty(), "with_replacement", "weights.size", 0);
    detail::restart(s, probability_kind::per_draw, std::ssize(q_));
    for (index_t t = 0; t < k; ++t) {
      const index_t i = table_.draw(random);
      const double q = q_[static_cast<std::size_t>(i)];
      s.index.push_back(i);
      s.probability.push_back(q);
      s.weight.push_back(1 / (static_cast<double>(k) * q));
    }
    detail::measure(s);
  }
  template <weight_range W, random_source R>
  void draw_into(weighted_sample& s, const W& weights, index_t k, R& random) {
    const auto w = detail::weight_span(weights);
    expects(k >= 0, "with_replacement", "k", k);
    if (k == 0) {
      detail::check_weights(w, "with_replacement");
      detail::restart(s, probability_kind::per_draw, std::ssize(w));
      return;
    }
    prepare(w);
    draw_prepared_into(s, k, random);
  }
  template <weight_range W, random_source R>
  weighted_sample draw(const W& weights, index_t k, R& random) {
    weighted_sample s;
    draw_into(s, weights, k, random);
    return s;
  }

 private:
  Table table_;
  std::vector<double> q_;
};

}  // namespace sluice
