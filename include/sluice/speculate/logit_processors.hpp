#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/speculate/language_model.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

/// Logit processors: what edits a row of logits before anything is drawn from it or verified against it. They run on
/// target and draft alike; the processed target law is the law that the output has, and the q of a verification must be
/// the processed law that was really drawn from.
///
/// A processor edits a dense row of doubles, the caller's scratch; -inf forbids a token. Truncations select and never
/// sort the row: O(V) for one look at every value and a few hundred candidates around the cut; no allocation. A row
/// that is not a law (NaN, +inf, nothing allowed) is left for the verification rule to report. Immutable after
/// construction, so threads may share them.
namespace sluice {

namespace detail {

inline constexpr double forbidden = -std::numeric_limits<double>::infinity();

/// The largest value that is a number, -inf if there is none.
inline double row_max(std::span<const double> row) {
  double top = forbidden;
  for (const double v : row)
    if (v > top) top = v;
  return top;
}

/// A prefix of the tokens in the order (-logit, id): those above `value`, and those equal to it up to token `last`.
struct row_cut {
  double value = forbidden;
  index_t last = std::numeric_limits<index_t>::max();
  void apply(std::span<double> row) const {
    for (index_t x = 0; x < std::ssize(row); ++x) {
      double& v = row[static_cast<std::size_t>(x)];
      if (v < value || (v == value && x > last)) v = forbidden;
    }
  }
};

/// The shortest prefix of the tokens, in the order (-logit, id), whose weights reach `goal`; weight(v) >= 0. Only
/// values from `floor` on are candidates, and they must reach the goal if anything does; if they do not, all are kept.
/// Values are counted in linear bins between the ends of an interval that shrinks to the bin with the crossing, until
/// it holds few enough candidates to be sorted, or equal ones only. O(V) for each of the few passes. Weights are added
/// bin by bin: against a sum in sorted order the cut may differ where the cumulative weight meets the goal within the
/// rounding of double, and then by tokens of that weight.
template <class Weight>
row_cut shortest_prefix(std::span<const double> row, double floor, double goal, Weight&& weight) {
  constexpr index_t bins = 1024, window = 256;
  double high = forbidden, low = std::numeric_limits<double>::infinity();
  index_t active = 0;
  for (const double v : row)
    if (v >= floor && v > forbidden) {
      high = std::max(high, v);
      low = std::min(low, v);
      ++active;
    }
  if (active == 0 || !std::isfinite(high)) return {};
  const auto is_active = [&](double v) { return v >= low && v <= high; };
  double before = 0;  // weight of everything above `high`
  while (active > window && low < high) {
    std::array<double, static_cast<std::size_t>(bins)> sum{};
    std::array<index_t, static_cast<std::size_t>(bins)> count{};
    // Powers of two keep the width of the interval and its quotient finite: halves where it overflows, a large factor
    // where it is subnormal. The largest value is in the first bin and the least in the last, so every pass shrinks.
    const double half = std::isfinite(high - low) ? 1.0 : 0.5;
    const double magnify = half == 1.0 && high - low < 1e-290 ? 0x1p700 : 1.0;
    const double scale = static_cast<double>(bins) / ((high * half - low * half) * magnify);
    const auto bin = [&](double v) {  // monotone in v, so a bin is an interval of values
      return static_cast<std::size_t>(
          std::min(static_cast<double>(bins - 1), (high * half - v * half) * magnify * scale));
    };
    for (const double v : row)
      if (is_active(v)) {
        const std::size_t b = bin(v);
        sum[b] += weight(v);
        ++count[b];
      }
    std::size_t crossing = 0;
    for (; crossing + 1 < sum.size() && before + sum[crossing] < goal; ++crossing) before += sum[crossing];
    while (count[crossing] == 0 && crossing > 0) before -= sum[--crossing];  // the goal is never reached
    double new_high = forbidden, new_low = std::numeric_limits<double>::infinity();
    for (const double v : row)
      if (is_active(v) && bin(v) == crossing) {
        new_high = std::max(new_high, v);
        new_low = std::min(new_low, v);
      }
    active = count[crossing];
    high = new_high;
    low = new_low;
  }
  if (low == high) {  // equal logits: the lower ids first
    const double each = weight(high);
    index_t last = 0;
    for (index_t x = 0; x < std::ssize(row); ++x)
      if (row[static_cast<std::size_t>(x)] == high) {
        last = x;
        before += each;
        if (before >= goal) break;
      }
    return {high, last};
  }
  std::array<std::pair<double, index_t>, static_cast<std::size_t>(window)> candidates;
  std::size_t n = 0;
  for (index_t x = 0; x < std::ssize(row); ++x)
    if (is_active(row[static_cast<std::size_t>(x)])) candidates[n++] = {-row[static_cast<std::size_t>(x)], x};
  std::sort(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(n));
  std::size_t k = 0;
  for (; k < n; ++k) {
    before += weight(-candidates[k].first);
    if (before >= goal) break;
  }
  k = std::min(k, n - 1);
  return {-candidates[k].first, candidates[k].second};
}

}  // namespace detail

/// l/T. T = 0 keeps one token, the largest logit, the lowest id on ties.
/// Throws invalid_argument unless 0 <= value < infinity.
struct temperature {
  double value = 1;
  void process(std::span<double> row, std::span<const token_id> /*context*/) const {
    expects(value >= 0 && std::isfinite(value), "temperature", "value", value);
    if (value == 1) return;
    if (value > 0) {
      const double inverse = 1 / value;
      if (std::isfinite(inverse)) {
        for (double& v : row) v /= value;
        return;
      }
    }
    const double top = detail::row_max(row);
    bool found = false;
    for (double& v : row) {
      if (v == top && !found)
        found = true;
      else if (!std::isnan(v))
        v = detail::forbidden;
    }
  }
};

/// Keeps exactly k tokens, the largest logits; the lower id wins ties (others keep all ties). k = 0 or k >= V: off.
/// Throws invalid_argument if k is negative.
struct top_k {
  index_t k = 0;
  void process(std::span<double> row, std::span<const token_id> /*context*/) const {
    expects(k >= 0, "top_k", "k", k);
    if (k == 0 || k >= std::ssize(row)) return;
    detail::shortest_prefix(row, detail::forbidden, static_cast<double>(k), [](double) { return 1.0; }).apply(row);
  }
};

/// Keeps the shortest prefix, in the order (-logit, id), whose probabilities add up to at least p, the token that
/// crosses included; at least one token. Probabilities are those of the tokens that are still allowed. p = 1: off.
/// Throws invalid_argument unless 0 < p <= 1.
struct top_p {
  double p = 1;
  void process(std::span<double> row, std::span<const token_id> /*context*/) const {
    expects(p > 0 && p <= 1, "top_p", "p", p);
    if (p == 1) return;
    const double top = detail::row_max(row);
    if (!std::isfinite(top)) return;
    const Eigen::Map<const Eigen::ArrayXd> values(row.data(), std::ssize(row));
    const double total = (values - top).exp().sum();
    if (!std::isfinite(total)) return;
    // Tokens of weight below (1 - p) total / V have at most 1 - p of the mass together: the prefix ends before them.
    const double floor = top + std::log((1 - p) * total / (2 * static_cast<double>(row.size())));
    detail::shortest_prefix(row, floor, p * total, [top](double v) { return std::exp(v - top); }).apply(row);
  }
};

/// Keeps the tokens whose probability is at least p times the largest. p = 0: off.
/// Throws invalid_argument unless 0 <= p <= 1.
struct min_p {
  double p = 0;
  void process(std::span<double> row, std::span<const token_id> /*context*/) const {
    expects(p >= 0 && p <= 1, "min_p", "p", p);
    if (p == 0) return;
    const double top = detail::row_max(row);
    const double limit = std::log(p), slack = 1e-12 * std::max(1.0, -limit);
    for (double& v : row) {
      const double gap = v - top;
      if (gap < limit - slack || (gap < limit + slack && std::exp(gap) < p)) v = detail::forbidden;
    }
  }
};

/// Penalties on tokens of the context. A token that occurs n > 0 times among the last `window` tokens:
///     l <- l/repetition if l > 0, else l repetition;   then l <- l - presence - n frequency.
/// window = 0: the whole context. O(window log window); allocates if the window holds more than 512 tokens.
/// Throws invalid_argument unless repetition is positive and finite, the other two are finite, window >= 0, and every
/// token of the window is in [0, V); the row is then unchanged.
struct penalties {
  double repetition = 1;
  double presence = 0;
  double frequency = 0;
  index_t window = 64;
  void process(std::span<double> row, std::span<const token_id> context) const {
    expects(repetition > 0 && std::isfinite(repetition), "penalties", "repetition", repetition);
    expects(std::isfinite(presence), "penalties", "presence", presence);
    expects(std::isfinite(frequency), "penalties", "frequency", frequency);
    expects(window >= 0, "penalties", "window", window);
    const std::size_t n = window == 0 ? context.size() : std::min(static_cast<std::size_t>(window), context.size());
    const std::size_t skipped = context.size() - n;
    for (std::size_t i = skipped; i < context.size(); ++i)
      expects(context[i] >= 0 && context[i] < std::ssize(row), "penalties", "context", context[i],
              static_cast<index_t>(i));
    std::array<token_id, 512> few;
    std::vector<token_id> many;
    std::span<token_id> seen(few);
    if (n > few.size()) {
      many.resize(n);
      seen = many;
    }
    std::copy_n(context.begin() + static_cast<std::ptrdiff_t>(skipped), n, seen.begin());
    seen = seen.first(n);
    std::sort(seen.begin(), seen.end());
    for (std::size_t i = 0; i < n;) {
      std::size_t end = i;
      while (end < n && seen[end] == seen[i]) ++end;
      double& v = row[static_cast<std::size_t>(seen[i])];
      v = (v > 0 ? v / repetition : v * repetition) - presence - static_cast<double>(end - i) * frequency;
      i = end;
    }
  }
};

/// Allows the tokens whose bit is set: bit x % 64 of word x / 64. A view of the caller's words.
/// Throws invalid_argument if the mask has fewer bits than the row has tokens.
struct token_mask {
  std::span<const std::uint64_t> bits;
  void process(std::span<double> row, std::span<const token_id> /*context*/) const {
    expects(bits.size() * 64 >= row.size(), "token_mask", "bits.size", bits.size());
    for (std::size_t x = 0; x < row.size(); ++x)
      if ((bits[x / 64] >> (x % 64)) % 2 == 0) row[x] = detail::forbidden;
  }
};

/// Allows the tokens that may follow the context: allowed(context, token) is called for every token that is not
/// forbidden yet, so a grammar goes behind the truncations, or before them if the law is to be truncated within the
/// grammar.
template <class Allowed>
struct grammar_mask {
  Allowed allowed;
  void process(std::span<double> row, std::span<const token_id> context) const {
    for (std::size_t x = 0; x < row.size(); ++x)
      if (row[x] != detail::forbidden && !allowed(context, static_cast<token_id>(x))) row[x] = detail::forbidden;
  }
};
template <class Allowed>
grammar_mask(Allowed) -> grammar_mask<Allowed>;

/// Processors in a fixed order, known at compile time: processor_chain(temperature{0.7}, top_k{50}). Itself one.
template <logit_processor... P>
class processor_chain {
 public:
  processor_chain() = default;
  explicit(sizeof...(P) == 1) processor_chain(P... steps) : steps_(std::move(steps)...) {}
  void process(std::span<double> row, std::span<const token_id> context) const {
    std::apply([&](const P&... step) { (step.process(row, context), ...); }, steps_);
  }

 private:
  std::tuple<P...> steps_;
};

/// Processors in an order chosen at run time; holds copies, of any type. Itself one. One indirect call a step and row.
class processor_list {
 public:
  /// Appends a step; returns *this.
  template <logit_processor P>
  processor_list& add(P step) {
    steps_.emplace_back([step = std::move(step)](std::span<double> row, std::span<const token_id> context) {
      step.process(row, context);
    });
    return *this;
  }
  std::size_t size() const { return steps_.size(); }
  void process(std::span<double> row, std::span<const token_id> context) const {
    for (const auto& step : steps_) step(row, context);
  }

 private:
  std::vector<std::function<void(std::span<double>, std::span<const token_id>)>> steps_;
};

/// The usual four, in the usual order: temperature, top-k, top-p, min-p, each on the survivors of those before.
/// (Another order is another law: llama.cpp truncates first and applies the temperature last.)
struct sampling_options {
  double temperature = 1;
  index_t top_k = 0;
  double top_p = 1;
  double min_p = 0;
  /// Throws invalid_argument as the four processors do, before the row is changed.
  void process(std::span<double> row, std::span<const token_id> context) const {
    expects(temperature >= 0 && std::isfinite(temperature), "sampling_options", "temperature", temperature);
    expects(top_k >= 0, "sampling_options", "top_k", top_k);
    expects(top_p > 0 && top_p <= 1, "sampling_options", "top_p", top_p);
    expects(min_p >= 0 && min_p <= 1, "sampling_options", "min_p", min_p);
    sluice::temperature{temperature}.process(row, context);
    sluice::top_k{top_k}.process(row, context);
    sluice::top_p{top_p}.process(row, context);
    sluice::min_p{min_p}.process(row, context);
  }
};

/// A model's row after the processors, in storage of its own that is reused: no allocation once it has seen the largest
/// vocabulary. One object for each row that must be alive at a time.
class processed_row {
 public:
  /// Copies the row as logits of `vocabulary_size` tokens, runs the processor, and returns the law that is left: sparse
  /// with ascending ids if tokens are forbidden, so that whoever reads it next reads the survivors only, else dense.
  /// The view is valid until the next call. A row without survivors comes back dense. Throws invalid_argument if the
  /// row does not fit the vocabulary, and what the processor throws.
  template <std::floating_point S, logit_processor P>
  token_row<double> apply(const P& processor, const token_row<S>& row, index_t vocabulary_size,
                          std::span<const token_id> context) {
    fill(row, vocabulary_size);
    processor.process(std::span<double>(logits_), context);
    const auto allowed = static_cast<std::size_t>(
        std::count_if(logits_.begin(), logits_.end(), [](double v) { return v != detail::forbidden; }));
    if (allowed == logits_.size() || allowed == 0) return {row_kind::logits, logits_};
    ids_.clear();
    values_.clear();
    ids_.reserve(logits_.size());
    values_.reserve(logits_.size());
    for (std::size_t x = 0; x < logits_.size(); ++x)
      if (logits_[x] != detail::forbidden) {
        ids_.push_back(static_cast<token_id>(x));
        values_.push_back(logits_[x]);
      }
    return {row_kind::logits, values_, ids_};
  }
  /// The processed logits of all tokens.
  std::span<const double> logits() const { return logits_; }

 private:
  template <class S>
  void fill(const token_row<S>& row, index_t vocabulary_size) {
    const auto v = static_cast<std::size_t>(vocabulary_size);
    const bool sparse = !row.ids.empty();
    expects(vocabulary_size >= 0, "processed_row", "vocabulary_size", vocabulary_size);
    expects(sparse ? row.ids.size() == row.values.size() : row.values.size() == v, "processed_row", "row.values.size",
            row.values.size());
    for (std::size_t j = 0; j < row.ids.size(); ++j)
      expects(row.ids[j] >= 0 && row.ids[j] < vocabulary_size, "processed_row", "row.ids", row.ids[j],
              static_cast<index_t>(j));
    const auto logit = [&row](std::size_t j) {
      const double value = static_cast<double>(row.values[j]);
      return row.kind == row_kind::probabilities ? std::log(value) : value;
    };
    logits_.resize(v);
    if (sparse) std::fill(logits_.begin(), logits_.end(), detail::forbidden);
    for (std::size_t j = 0; j < row.values.size(); ++j)
      logits_[sparse ? static_cast<std::size_t>(row.ids[j]) : j] = logit(j);
  }

  std::vector<double> logits_, values_;
  std::vector<token_id> ids_;
};

}  // namespace sluice
