#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/status.hpp>
#include <sluice/core/tensor.hpp>

#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>

/// What every run on a budget needs: a count that stops before it is exceeded, and the best thing seen so far.
namespace sluice {

/// Counts work in the unit of its user (model calls, nodes, tokens) up to a limit. A plain value: copy it to save it.
/// One object a thread.
class budget {
 public:
  static constexpr std::int64_t unlimited = std::numeric_limits<std::int64_t>::max();

  /// Throws invalid_argument if limit is negative. A budget of 0 allows only what costs nothing.
  constexpr explicit budget(std::int64_t limit = unlimited) : limit_(limit) {
    expects(limit >= 0, "budget", "limit", limit);
  }
  constexpr std::int64_t limit() const { return limit_; }
  constexpr std::int64_t spent() const { return spent_; }
  constexpr std::int64_t left() const { return limit_ - spent_; }

  /// Whether `cost` >= 0 more is within the limit; never overflows.
  constexpr bool allows(std::int64_t cost = 1) const { return cost <= left(); }

  /// Books `cost` if it is within the limit; otherwise books nothing and returns false. Ask before working: what was
  /// not booked must not be done. Throws invalid_argument if cost is negative.
  [[nodiscard]] constexpr bool spend(std::int64_t cost = 1) {
    expects(cost >= 0, "budget::spend", "cost", cost);
    if (!allows(cost)) return false;
    spent_ += cost;
    return true;
  }

  /// Books what a callable says it has used, which may be more than was left: then spent() is the limit and the excess
  /// is returned. Throws invalid_argument if cost is negative.
  constexpr std::int64_t charge(std::int64_t cost) {
    expects(cost >= 0, "budget::charge", "cost", cost);
    const std::int64_t booked = allows(cost) ? cost : left();
    spent_ += booked;
    return cost - booked;
  }

 private:
  std::int64_t limit_, spent_ = 0;
};

/// The highest score offered so far, with the value and the position that earned it. The first wins ties, a score of
/// NaN never wins. Tensors are copied into storage of their own, obtained once from the constructor: offer allocates
/// nothing for them. Scores of which lower is better are offered with their sign changed. One object a thread.
template <class T>
class best_so_far {
  static constexpr bool copies_elements = tensor<T>;

  template <class U>
  struct storage {
    using type = std::optional<U>;
  };
  template <tensor U>
  struct storage<U> {
    using type = owner_t<U>;
  };

 public:
  /// Nothing has been offered: score() is -inf, position() is -1.
  best_so_far() requires(!copies_elements) = default;
  /// `like` gives the shape only; value() is zero until something has been offered.
  explicit best_so_far(const T& like) requires(copies_elements) : value_(zeros_like(like)) {}

  /// Returns whether this is the best so far. -inf can be the best, if nothing better was offered.
  bool offer(double score, const T& value) {
    const std::int64_t position = offered_++;
    if (std::isnan(score) || (found() && !(score > score_))) return false;
    if constexpr (copies_elements)
      lincomb(value_, 1, value);
    else
      value_ = value;
    score_ = score;
    position_ = position;
    return true;
  }

  bool found() const { return position_ >= 0; }
  double score() const { return score_; }
  /// Which offer won, counted from 0; -1 if none did.
  std::int64_t position() const { return position_; }
  std::int64_t offered() const { return offered_; }
  /// The value that won; if it is not a tensor, only after found().
  const auto& value() const {
    if constexpr (copies_elements)
      return value_;
    else
      return *value_;
  }

 private:
  typename storage<T>::type value_;
  double score_ = -std::numeric_limits<double>::infinity();
  std::int64_t position_ = -1, offered_ = 0;
};

}  // namespace sluice
