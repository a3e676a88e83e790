#pragma once
#include <sluice/core/exp_block.hpp>
#include <sluice/draw/inverse_cdf.hpp>
#include <sluice/speculate/verification.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <vector>

/// The laws behind token rows, and the one residual that a round of verification needs.
///
/// Nothing is copied and nothing is allocated: a token_law reads its row once, keeps the normaliser and at most 256
/// partial sums, and then answers "what is p(x)" in O(1) and "draw a token" by re-evaluating one block. Rows of up to
/// 64 values are summed in double, value by value; longer float rows in blocks of 512 floats with a double total
/// (relative error below 5e-7, on rows of 10^5 values mostly below 1e-7; a plain float sum of 128256 terms: 2e-4).
/// Values are shifted by a maximum of the first block that has one; where the row's mass lies d above that shift, the
/// rounding of the differences adds up to 6e-8 d, which d = 60 makes 2e-6.
namespace sluice {

namespace detail {

inline constexpr index_t law_block = 512;        // values evaluated together; they stay in the first-level cache
inline constexpr index_t law_sums = 256;         // partial sums kept
inline constexpr index_t exact_row_length = 64;  // rows up to this length are summed in double

/// Length of a partial sum's range for n values: law_block, or a multiple of it for rows beyond 131072 values.
constexpr index_t sum_length(index_t n) {
  return law_block * std::max<index_t>(1, (n + law_block * law_sums - 1) / (law_block * law_sums));
}

/// Smallest j whose running sum exceeds u * total; a zero weight never, past the end the last positive weight, -1 if
/// there is none.
template <class W>
index_t pick(std::span<const W> weights, double u, double total) {
  const double goal = u * total;
  double sum = 0;
  index_t last = -1;
  for (index_t j = 0; j < std::ssize(weights); ++j) {
    const double w = static_cast<double>(weights[static_cast<std::size_t>(j)]);
    if (!(w > 0)) continue;
    last = j;
    sum += w;
    if (sum > goal) break;
  }
  return last;
}

/// A position with probability proportional to its weight, given partial sums over ranges of `length` positions;
/// fill(out, first, count) writes the weights of count <= law_block positions. Two words, or three if a range is longer
/// than a block. -1 if no weight is positive.
template <class W, class Fill, word_source R>
index_t draw_from_sums(std::span<const double> sums, index_t length, index_t n, Fill&& fill, R& random) {
  double total = 0;
  for (const double s : sums) total += s;
  const index_t range = pick(sums, co53(random()), total);
  if (range < 0) return -1;
  alignas(64) W weight[law_block];
  const auto block_total = [&](index_t first, index_t count) {
    fill(weight, first, count);
    double sum = 0;
    for (index_t j = 0; j < count; ++j) sum += static_cast<double>(weight[j]);
    return sum;
  };
  index_t first = range * length;
  const index_t end = std::min(n, first + length);
  if (end - first > law_block) {
    const double goal = co53(random()) * sums[static_cast<std::size_t>(range)];
    double sum = 0;
    index_t chosen = -1;
    for (index_t b = first; b < end; b += law_block) {
      const double s = block_total(b, std::min(law_block, end - b));
      if (!(s > 0)) continue;
      chosen = b;
      sum += s;
      if (sum > goal) break;
    }
    if (chosen < 0) return -1;
    first = chosen;
  }
  const index_t count = std::min(law_block, end - first);
  const double sum = block_total(first, count);
  const index_t j = pick(std::span<const W>(weight, static_cast<std::size_t>(count)), co53(random()), sum);
  return j < 0 ? -1 : first + j;
}

}  // namespace detail

/// The law that a row describes. Construction reads the row once, O(n) for n stored values, and finds whether it is a
/// law at all; everything else may be called only if `valid()`. A view: the row's memory must outlive it. Immutable, so
/// threads may share it.
///
/// Logits: p(x) = exp(l_x) / sum_y exp(l_y). Log-probabilities and probabilities are divided by their sum, which must
/// be 1 within 1e-3 (float) or 1e-6 (double). Not a law: NaN, +inf, a negative probability, no positive weight, a sum
/// outside that tolerance, ids of another number than the values, a negative id.
template <std::floating_point S>
class token_law {
 public:
  using scalar = S;
  /// Largest deviation of a probability row's sum from 1.
  static constexpr double tolerance = std::same_as<S, float> ? 1e-3 : 1e-6;

  explicit token_law(const token_row<S>& row) : row_(row), length_(detail::sum_length(std::ssize(row.values))) {
    if (sparse() && row.ids.size() != row.values.size()) return;
    for (std::size_t j = 0; j < row.ids.size(); ++j) {
      ascending_ = ascending_ && (j == 0 || row.ids[j] > row.ids[j - 1]);
      lowest_id_ = std::min(lowest_id_, row.ids[j]);
      highest_id_ = std::max(highest_id_, row.ids[j]);
    }
    if (lowest_id_ < 0) return;
    if (row.kind == row_kind::probabilities)
      sum_probabilities();
    else
      sum_logarithms();
    if (!valid_) return;
    if (row.kind != row_kind::logits) {
      const double sum = total_ * (row.kind == row_kind::probabilities ? 1.0 : std::exp(static_cast<double>(shift_)));
      valid_ = std::abs(sum - 1) <= tolerance;
    }
  }

  /// What the pass over a row found: enough to look at the row again without another pass.
  struct summary {
    double total;
    S shift;
    token_id highest_id;
    bool ascending;
  };
  /// The law of a valid row that was read before. Its `draw` reads the row again.
  token_law(const token_row<S>& row, const summary& known)
      : row_(row),
        length_(detail::sum_length(std::ssize(row.values))),
        total_(known.total),
        shift_(known.shift),
        highest_id_(known.highest_id),
        ascending_(known.ascending),
        valid_(true),
        has_sums_(false) {}
  summary summarise() const { return {total_, shift_, highest_id_, ascending_}; }

  bool valid() const { return valid_; }
  bool sparse() const { return !row_.ids.empty(); }
  /// Number of stored values: the vocabulary's size if dense.
  index_t size() const { return std::ssize(row_.values); }
  /// Token of stored value j.
  token_id token(index_t j) const {
    return sparse() ? row_.ids[static_cast<std::size_t>(j)] : static_cast<token_id>(j);
  }
  /// Largest id of a sparse row, -1 if dense.
  token_id highest_id() const { return highest_id_; }

  /// Probability of stored value j. O(1).
  double probability_at(index_t j) const { return weight(j) / total_; }
  /// Probability of token x; 0 if the row does not mention it. O(1) dense, O(log n) if the ids ascend, else O(n).
  double probability(token_id x) const {
    const index_t j = position(x);
    return j < 0 ? 0.0 : probability_at(j);
  }
  /// log p(x), -inf if p(x) = 0.
  double log_probability(token_id x) const {
    const index_t j = position(x);
    if (j < 0) return -std::numeric_limits<double>::infinity();
    const double v = value(j);
    return row_.kind == row_kind::probabilities ? std::log(v / total_)
                                                : v - static_cast<double>(shift_) - std::log(total_);
  }
  /// log sum_y exp(l_y) of a row of logits; of other rows the logarithm of their sum.
  double log_normaliser() const {
    return (row_.kind == row_kind::probabilities ? 0.0 : static_cast<double>(shift_)) + std::log(total_);
  }

  /// out[x] = p(x) for all tokens x < out.size(). O(out.size() + n).
  void probabilities(std::span<double> out) const {
    std::fill(out.begin(), out.end(), 0.0);
    for (index_t j = 0; j < size(); ++j)
      if (static_cast<std::size_t>(token(j)) < out.size()) out[static_cast<std::size_t>(token(j))] = probability_at(j);
  }

  /// A token with probability p(x); never one with p(x) = 0. A word source: two or three words, up to 256
  /// sums and one block of 512 values (a few, if a sum covers several). A decision source: one categorical decision
  /// over the stored values; allocates.
  template <random_source R>
  token_id draw(R& random) const {
    return token(draw_position(random));
  }
  /// The stored value's index instead of the token.
  template <random_source R>
  index_t draw_position(R& random) const {
    if constexpr (decision_source<R>) {
      std::vector<double> weights(static_cast<std::size_t>(size()));
      for (index_t j = 0; j < size(); ++j) weights[static_cast<std::size_t>(j)] = probability_at(j);
      return categorical(random, std::span<const double>(weights));
    } else {
      if (!has_sums_) return token_law(row_).draw_position(random);
      return detail::draw_from_sums<S>(
          std::span<const double>(sums_.data(), n_sums()), length_, size(),
          [this](S* out, index_t first, index_t count) { fill_weights(out, first, count); }, random);
    }
  }

  /// What is wrong with an invalid row, found by a slow pass: the first bad element and its value, else element -1 and
  /// the row's sum.
  row_fault fault(const char* argument, index_t row) const {
    if (sparse() && row_.ids.size() != row_.values.size())
      return {argument, row, -1, static_cast<double>(row_.ids.size())};
    for (index_t j = 0; sparse() && j < size(); ++j)
      if (token(j) < 0) return {argument, row, j, static_cast<double>(token(j))};
    double sum = 0;
    for (index_t j = 0; j < size(); ++j) {
      const double v = value(j);
      const bool probability = row_.kind == row_kind::probabilities;
      if (std::isnan(v) || v == std::numeric_limits<double>::infinity() || (probability && v < 0))
        return {argument, row, j, v};
      sum += probability ? v : std::exp(v);
    }
    return {argument, row, -1, sum};
  }

  /// The row's sums over ranges of `sum_range()` stored values, relative to weight_total().
  std::span<const double> sums() const { return {sums_.data(), n_sums()}; }
  index_t sum_range() const { return length_; }
  /// The stored values' weights add up to this; probability = weight / weight_total.
  double weight_total() const { return total_; }
  /// out[j] = weight of stored value first + j, j < count <= 512. Exactly 0 where the probability is 0.
  void fill_weights(S* out, index_t first, index_t count) const {
    if (row_.kind == row_kind::probabilities)
      std::copy_n(row_.values.data() + first, count, out);
    else if (size() <= detail::exact_row_length)
      for (index_t j = 0; j < count; ++j) out[j] = static_cast<S>(weight(first + j));
    else
      detail::exp_block(out, row_.values.data() + first, count, shift_);
  }
  /// Index of the stored value of token x, -1 if there is none.
  index_t position(token_id x) const {
    if (!sparse()) return x < size() ? static_cast<index_t>(x) : -1;
    const auto found = ascending_ ? std::lower_bound(row_.ids.begin(), row_.ids.end(), x)
                                  : std::find(row_.ids.begin(), row_.ids.end(), x);
    return found != row_.ids.end() && *found == x ? found - row_.ids.begin() : -1;
  }

 private:
  std::size_t n_sums() const { return static_cast<std::size_t>((size() + length_ - 1) / length_); }
  double value(index_t j) const { return static_cast<double>(row_.values[static_cast<std::size_t>(j)]); }
  double weight(index_t j) const {
    return row_.kind == row_kind::probabilities ? value(j) : std::exp(value(j) - static_cast<double>(shift_));
  }
  using array_map = Eigen::Map<const Eigen::Array<S, Eigen::Dynamic, 1>>;

  /// Calls sum(first, count) on every block and keeps the totals.
  template <class Sum>
  void keep_sums(Sum&& sum) {
    total_ = 0;
    const index_t n = size();
    for (index_t b = 0; b * length_ < n; ++b) {
      double range = 0;
      const index_t end = std::min(n, (b + 1) * length_);
      for (index_t first = b * length_; first < end; first += detail::law_block)
        range += static_cast<double>(sum(first, std::min(detail::law_block, end - first)));
      sums_[static_cast<std::size_t>(b)] = range;
      total_ += range;
    }
  }
  void sum_probabilities() {
    S least = 0;
    keep_sums([&](index_t first, index_t count) {
      const array_map block(row_.values.data() + first, count);
      least = std::min(least, block.minCoeff());
      return size() <= detail::exact_row_length ? block.template cast<double>().sum()
                                                : static_cast<double>(block.sum());
    });
    valid_ = least >= 0 && total_ > 0 && std::isfinite(total_);  // NaN shows in the total
  }
  void sum_logarithms() {
    if (size() <= detail::exact_row_length) {
      S top = -std::numeric_limits<S>::infinity();
      for (const S v : row_.values) {
        if (!(v < std::numeric_limits<S>::infinity())) return;  // NaN too
        top = std::max(top, v);
      }
      if (!std::isfinite(top)) return;
      shift_ = top;
      keep_sums([&](index_t first, index_t count) {
        double sum = 0;
        for (index_t j = first; j < first + count; ++j) sum += weight(j);
        return sum;
      });
      valid_ = true;
      return;
    }
    // One pass: the shift is the maximum of the first block that has one. Only if that is far from the row's maximum
    // (sums that overflow, or vanish) the maximum is found first and the pass repeated.
    const index_t n = size();
    for (index_t first = 0; first < n; first += detail::law_block) {
      shift_ = array_map(row_.values.data() + first, std::min(detail::law_block, n - first)).maxCoeff();
      if (std::isfinite(shift_)) break;
    }
    if (!std::isfinite(shift_)) shift_ = 0;
    const auto sum = [&](index_t first, index_t count) {
      return detail::exp_block_sum(row_.values.data() + first, count, shift_);
    };
    keep_sums(sum);
    if (total_ >= 0.5 && total_ < 1e30) {
      valid_ = true;
      return;
    }
    S top = -std::numeric_limits<S>::infinity();
    for (const S v : row_.values) {
      if (!(v < std::numeric_limits<S>::infinity())) return;
      top = std::max(top, v);
    }
    if (!std::isfinite(top)) return;
    shift_ = top;
    keep_sums(sum);
    valid_ = true;
  }

  token_row<S> row_;
  index_t length_;
  double total_ = 0;
  S shift_ = 0;
  token_id lowest_id_ = 0, highest_id_ = -1;
  bool ascending_ = true, valid_ = false, has_sums_ = true;
  std::array<double, static_cast<std::size_t>(detail::law_sums)> sums_;  // the first n_sums() are written
};

namespace detail {

inline bool among(std::span<const token_id> tokens, token_id x) {
  return std::find(tokens.begin(), tokens.end(), x) != tokens.end();
}

/// A law without some of its tokens. Only the ranges that hold them are summed again, so what is left keeps its
/// relative accuracy however little it is. A view of the law and of the distinct tokens that it leaves out.
template <std::floating_point S>
class law_without {
 public:
  law_without(const token_law<S>& law, std::span<const token_id> excluded) : law_(&law), excluded_(excluded) {
    const std::span<const double> sums = law.sums();
    if (law.size() <= exact_row_length) {
      for (index_t j = 0; j < law.size(); ++j)
        if (!among(excluded, law.token(j))) mass_ += law.probability_at(j);
      sums_[0] = mass_ * law.weight_total();
      return;
    }
    std::copy(sums.begin(), sums.end(), sums_.begin());
    const index_t length = law.sum_range();
    alignas(64) S weight[law_block];
    for (index_t k = 0; k < std::ssize(excluded); ++k) {
      const index_t range = range_of(k);
      bool seen = range < 0;
      for (index_t i = 0; i < k && !seen; ++i) seen = range_of(i) == range;
      if (seen) continue;
      double sum = 0;
      const index_t end = std::min(law.size(), (range + 1) * length);
      for (index_t first = range * length; first < end; first += law_block) {
        const index_t count = std::min(law_block, end - first);
        fill(weight, first, count);
        sum += static_cast<double>(Eigen::Map<const Eigen::Array<S, Eigen::Dynamic, 1>>(weight, count).sum());
      }
      sums_[static_cast<std::size_t>(range)] = sum;
    }
    double total = 0;
    for (std::size_t b = 0; b < sums.size(); ++b) total += sums_[b];
    mass_ = total / law.weight_total();
  }

  /// The probability of all tokens that are not left out; 0 if none of them can be drawn.
  double mass() const { return mass_; }

  /// One of the others, by the law given that none of the excluded is drawn; -1 if mass() is 0.
  template <random_source R>
  token_id draw(R& random) const {
    if (!(mass_ > 0)) return -1;
    if constexpr (decision_source<R>) {
      std::vector<double> weights(static_cast<std::size_t>(law_->size()));
      for (index_t j = 0; j < law_->size(); ++j)
        weights[static_cast<std::size_t>(j)] = among(excluded_, law_->token(j)) ? 0.0 : law_->probability_at(j);
      return law_->token(categorical(random, std::span<const double>(weights)));
    } else {
      const index_t j = draw_from_sums<S>(
          {sums_.data(), law_->sums().size()}, law_->sum_range(), law_->size(),
          [this](S* out, index_t first, index_t count) { fill(out, first, count); }, random);
      return j < 0 ? -1 : law_->token(j);
    }
  }

 private:
  index_t range_of(index_t k) const {
    const index_t j = law_->position(excluded_[static_cast<std::size_t>(k)]);
    return j < 0 ? -1 : j / law_->sum_range();
  }
  void fill(S* out, index_t first, index_t count) const {
    law_->fill_weights(out, first, count);
    for (const token_id x : excluded_) {
      const index_t j = law_->position(x);
      if (j >= first && j < first + count) out[j - first] = 0;
    }
  }

  const token_law<S>* law_;
  std::span<const token_id> excluded_;
  double mass_ = 0;
  std::array<double, static_cast<std::size_t>(law_sums)> sums_;  // the first ones are written
};

}  // namespace detail

/// The residual of two laws: proportional to (a p - c q)_+. Token rejection: a = c = 1; block verification: a = P_i;
/// recursive rejection: c = the coefficient of its stage. Only tokens with p > 0 can have weight, so it lives on p's
/// stored values. On the tokens `kept` (hybrid drafts: those drafted with certainty) q counts as 0. A view of both laws
/// and of kept.
template <std::floating_point S, std::floating_point Q>
class residual_law {
 public:
  /// float if both rows are float, then a block's weights carry a rounding error of about 2e-7 of p + q; short rows and
  /// mixed rows are evaluated in double.
  residual_law(const token_law<S>& p, const token_law<Q>& q, double a = 1, double c = 1,
               std::span<const token_id> kept = {})
      : p_(&p), q_(&q), a_(a), c_(c), kept_(kept) {}

  /// (a p - c q)_+ of p's stored value j.
  double weight_at(index_t j) const { return std::max(0.0, a_ * p_->probability_at(j) - taken(p_->token(j))); }

  /// Sum of (a p - c q)_+, keeping the partial sums for `draw`. O(n), vectorised where both rows are dense.
  double measure() {
    const index_t n = p_->size(), length = p_->sum_range();
    mass_ = 0;
    if (n <= detail::exact_row_length) {
      for (index_t j = 0; j < n; ++j) mass_ += weight_at(j);
      sums_[0] = mass_;
      return mass_;
    }
    alignas(64) W weight[detail::law_block];
    for (index_t b = 0; b * length < n; ++b) {
      double range = 0;
      const index_t end = std::min(n, (b + 1) * length);
      for (index_t first = b * length; first < end; first += detail::law_block) {
        const index_t count = std::min(detail::law_block, end - first);
        fill(weight, first, count);
        range += static_cast<double>(Eigen::Map<const array>(weight, count).sum());
      }
      sums_[static_cast<std::size_t>(b)] = range;
      mass_ += range;
    }
    return mass_;
  }
  double mass() const { return mass_; }

  /// A token with probability (a p - c q)_+ / mass, after `measure` found a positive mass. Otherwise, where only
  /// rounding can have made a rejection possible, a draw from p.
  template <word_source R>
  token_id draw_measured(R& random) const {
    const index_t n = p_->size(), length = p_->sum_range();
    const index_t j = !(mass_ > 0)
                          ? -1
                          : detail::draw_from_sums<W>(
                                {sums_.data(), static_cast<std::size_t>((n + length - 1) / length)}, length, n,
                                [this](W* out, index_t first, index_t count) { fill(out, first, count); }, random);
    return j < 0 ? p_->draw(random) : p_->token(j);
  }

  /// A token with probability (a p - c q)_+ / mass, without having measured the mass.
  ///
  /// A word source thins: y ~ p is kept with probability (1 - c q(y) / (a p(y)))_+, so a try keeps y with probability
  /// (a p(y) - c q(y))_+ / a and the law of a kept y is the residual, whatever the number of failures before. A try
  /// costs one block, and there are a/mass of them on average; since a rejection itself happens with probability
  /// mass/a (token rejection), their expected number is bounded. After 32 failures the residual is measured and drawn
  /// from: the failures are independent of that draw, so the law is the same in both branches and therefore overall.
  /// A decision source takes one categorical decision over the exact residual.
  template <random_source R>
  token_id draw(R& random) {
    if constexpr (decision_source<R>) {
      std::vector<double> weights(static_cast<std::size_t>(p_->size()));
      double sum = 0;
      for (index_t j = 0; j < p_->size(); ++j) sum += weights[static_cast<std::size_t>(j)] = weight_at(j);
      if (!(sum > 0)) return p_->draw(random);
      return p_->token(categorical(random, std::span<const double>(weights)));
    } else {
      for (int tries = 0; tries < 32; ++tries) {
        const index_t j = p_->draw_position(random);
        const double keep = a_ * p_->probability_at(j);
        if (co53(random()) * keep < keep - taken(p_->token(j))) return p_->token(j);
      }
      measure();
      return draw_measured(random);
    }
  }

 private:
  using W = std::conditional_t<std::same_as<S, float> && std::same_as<Q, float>, float, double>;
  using array = Eigen::Array<W, Eigen::Dynamic, 1>;

  /// c q of a token.
  double taken(token_id x) const { return detail::among(kept_, x) ? 0.0 : c_ * q_->probability(x); }

  void fill(W* out, index_t first, index_t count) const {
    if (p_->sparse() || q_->sparse() || p_->size() <= detail::exact_row_length || c_ > 1e30) {  // 0 * inf in float
      for (index_t j = 0; j < count; ++j) out[j] = static_cast<W>(weight_at(first + j));
      return;
    }
    const double a = a_ / p_->weight_total(), c = c_ / q_->weight_total();
    alignas(64) S p[detail::law_block];
    alignas(64) Q q[detail::law_block];
    p_->fill_weights(p, first, count);
    q_->fill_weights(q, first, count);
    using p_map = Eigen::Map<const Eigen::Array<S, Eigen::Dynamic, 1>>;
    using q_map = Eigen::Map<const Eigen::Array<Q, Eigen::Dynamic, 1>>;
    Eigen::Map<array>(out, count) = (static_cast<W>(a) * p_map(p, count).template cast<W>() -
                                     static_cast<W>(c) * q_map(q, count).template cast<W>())
                                        .max(W{0});
    for (const token_id x : kept_)
      if (x >= first && x < first + count) out[x - first] = static_cast<W>(a * static_cast<double>(p[x - first]));
  }

  const token_law<S>* p_;
  const token_law<Q>* q_;
  double a_, c_, mass_ = 0;
  std::span<const token_id> kept_;
  std::array<double, static_cast<std::size_t>(detail::law_sums)> sums_;
};

namespace detail {

/// What can be wrong between a target and a draft row and a token drafted from the latter: different lengths, an id or
/// a token outside the vocabulary, a token that the draft cannot have drawn. `token_index` is the token's place.
template <class S, class Q>
row_fault check_lengths(const token_law<S>& p, const token_law<Q>& q, index_t row) {
  const index_t v = !p.sparse() ? p.size() : !q.sparse() ? q.size() : -1;
  if (v < 0) return {};
  if (!q.sparse() ? q.size() != v : q.highest_id() >= v)
    return {"draft", row, -1, static_cast<double>(q.sparse() ? q.highest_id() : q.size())};
  if (p.sparse() && p.highest_id() >= v) return {"target", row, -1, static_cast<double>(p.highest_id())};
  return {};
}
template <class S, class Q>
row_fault check_token(const token_law<S>& p, const token_law<Q>& q, token_id x, index_t token_index, index_t row) {
  const index_t v = !p.sparse() ? p.size() : !q.sparse() ? q.size() : std::numeric_limits<token_id>::max();
  if (x < 0 || x >= v) return {"drafted", token_index, -1, static_cast<double>(x)};
  if (!(q.probability(x) > 0)) return {"draft", row, static_cast<index_t>(x), 0.0};
  return {};
}

}  // namespace detail

}  // namespace sluice
