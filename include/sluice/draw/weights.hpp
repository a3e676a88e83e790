#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <ranges>
#include <span>
#include <type_traits>

/// What every design asks of the weights that a user hands over: where they lie, whether they are legal, and how large
/// they are. Weights are finite and nonnegative; they may be denormal or span 1e-300 ... 1e300.
namespace sluice {

namespace detail {
template <class W>
concept eigen_weights =
    eigen_dense<std::remove_cvref_t<W>> && bool(std::remove_cvref_t<W>::IsVectorAtCompileTime) &&
    (int(std::remove_cvref_t<W>::InnerStrideAtCompileTime) == 1) &&
    std::floating_point<typename std::remove_cvref_t<W>::Scalar>&& requires(const std::remove_cvref_t<W>& w) {
  w.data();
};
template <class W>
concept contiguous_weights = !eigen_dense<std::remove_cvref_t<W>> && std::ranges::contiguous_range<W> &&
                             std::ranges::sized_range<W> && std::floating_point<std::ranges::range_value_t<W>>;
}  // namespace detail

/// float or double numbers in one unbroken run of memory: std::vector, std::array, std::span, an Eigen vector, array,
/// Map or Ref. They are read where they lie, never copied.
template <class W>
concept weight_range = detail::eigen_weights<W> || detail::contiguous_weights<W>;

namespace detail {

/// The memory of w.
template <weight_range W>
auto weight_span(const W& w) {
  if constexpr (eigen_weights<W>)
    return std::span<const typename W::Scalar>(w.data(), static_cast<std::size_t>(w.size()));
  else
    return std::span<const std::ranges::range_value_t<W>>(std::ranges::data(w), std::ranges::size(w));
}

/// Items summed in a row before a sum is carried on with its error: short enough to vectorise without loss.
inline constexpr std::size_t weight_block = 128;

/// A sum with the error of its additions (Neumaier): value() is exact to about one rounding for sums of nonnegative
/// numbers, whatever their number and order.
class exact_sum {
 public:
  void add(double x) {
    const double s = sum_ + x;
    error_ += std::abs(sum_) >= std::abs(x) ? (sum_ - s) + x : (x - s) + sum_;
    sum_ = s;
  }
  double value() const { return sum_ + error_; }
  /// value() - x, without the rounding of value().
  double minus(double x) const { return (sum_ - x) + error_; }

 private:
  double sum_ = 0, error_ = 0;
};

/// Sum of f(x) over a block: four running sums, so that it vectorises and does not wait for the adder.
template <class S, class F>
double block_sum(const S* x, std::size_t n, F f) {
  double a = 0, b = 0, c = 0, d = 0;
  std::size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    a += f(static_cast<double>(x[i]));
    b += f(static_cast<double>(x[i + 1]));
    c += f(static_cast<double>(x[i + 2]));
    d += f(static_cast<double>(x[i + 3]));
  }
  for (; i < n; ++i) a += f(static_cast<double>(x[i]));
  return (a + b) + (c + d);
}

/// Sum of f(x), blocks added with their errors: relative error a few epsilon for any n.
template <class S, class F>
double accurate_sum(std::span<const S> x, F f) {
  exact_sum total;
  for (std::size_t first = 0; first < x.size(); first += weight_block)
    total.add(block_sum(x.data() + first, std::min(weight_block, x.size() - first), f));
  return total.value();
}
template <class S>
double accurate_sum(std::span<const S> x) {
  return accurate_sum(x, [](double v) { return v; });
}

struct weight_summary {
  double max = 0;
  double min_positive = 0;  ///< infinity if no weight is positive
  index_t positive = 0;     ///< number of positive weights
};

/// The check of weights, block by block, in the vector types that g++ and clang share: compilers leave the same loop
/// over plain arrays scalar, since its comparisons may trap.
template <std::floating_point S>
class weight_scan {
 public:
  /// Looks at n <= weight_block weights and returns their sum, in double; `good` becomes false if one of them is
  /// negative, NaN or infinite.
  double block(const S* w, std::size_t n, bool& good) {
    packet v, high = high_, low = low_;
    mask bad{}, some{};
    sums sum{};
    for (std::size_t i = 0; i < n; i += lanes) {
      if (i + lanes <= n) {
        std::memcpy(&v, w + i, sizeof v);
      } else {
        v = packet{};  // zeros count for nothing
        std::memcpy(&v, w + i, (n - i) * sizeof(S));
      }
      const mask positive = v > packet{};
      bad |= ~((v >= packet{}) & (v < packet{} + infinity));
      some += positive;  // -1 where true
      high = v > high ? v : high;
      low = (positive & (v < low)) != 0 ? v : low;
      sum += __builtin_convertvector(v, sums);
    }
    high_ = high, low_ = low;
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      good = good && bad[lane] == 0;
      positive_ -= static_cast<index_t>(some[lane]);
    }
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
  }
  weight_summary summary() const {
    weight_summary s{0, static_cast<double>(infinity), positive_};
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      s.max = std::max(s.max, static_cast<double>(high_[lane]));
      s.min_positive = std::min(s.min_positive, static_cast<double>(low_[lane]));
    }
    return s;
  }

 private:
  static constexpr std::size_t lanes = 8;
  static constexpr S infinity = std::numeric_limits<S>::infinity();
  using integer = std::conditional_t<sizeof(S) == 4, std::int32_t, std::int64_t>;
  typedef S packet __attribute__((vector_size(lanes * sizeof(S))));
  typedef integer mask __attribute__((vector_size(lanes * sizeof(S))));
  typedef double sums __attribute__((vector_size(lanes * sizeof(double))));
  packet high_{}, low_ = packet{} + infinity;
  index_t positive_ = 0;
};

/// One pass. Throws invalid_argument with the first weight that is negative, NaN or infinite.
template <std::floating_point S>
weight_summary check_weights(std::span<const S> w, const char* function, const char* argument = "weights") {
  weight_scan<S> scan;
  bool good = true;
  for (std::size_t first = 0; first < w.size(); first += weight_block) {
    const std::size_t last = std::min(first + weight_block, w.size());
    scan.block(w.data() + first, last - first, good);
    if (!good) [[unlikely]]
      for (std::size_t i = first; i < last; ++i)
        expects(w[i] >= 0 && w[i] < std::numeric_limits<S>::infinity(), function, argument, w[i],
                static_cast<index_t>(i));
  }
  return scan.summary();
}

/// The same, and throws unless some weight is positive.
template <std::floating_point S>
weight_summary check_positive_weights(std::span<const S> w, const char* function) {
  expects(!w.empty(), function, "weights.size", 0);
  const weight_summary s = check_weights(w, function);
  expects(s.positive > 0, function, "weights.total", 0);
  return s;
}

/// One pass over log-weights. Throws invalid_argument with the first that is NaN or +inf, or if all are -inf. Returns
/// the number that are finite and the largest.
struct log_weight_summary {
  double max = -std::numeric_limits<double>::infinity();
  index_t positive = 0;
};
template <std::floating_point S>
log_weight_summary check_log_weights(std::span<const S> l, const char* function) {
  expects(!l.empty(), function, "log_weights.size", 0);
  log_weight_summary s;
  for (std::size_t i = 0; i < l.size(); ++i) {
    const double v = static_cast<double>(l[i]);
    expects(v < std::numeric_limits<double>::infinity(), function, "log_weights", v, static_cast<index_t>(i));
    s.positive += v > -std::numeric_limits<double>::infinity() ? 1 : 0;
    s.max = std::max(s.max, v);
  }
  expects(s.positive > 0, function, "log_weights.max", s.max);
  return s;
}

/// A power of two by which weights are multiplied before they are summed, so that no sum overflows and no product with
/// a uniform is denormal. 1, which changes no bit, unless the largest weight is outside 2^-500 ... 2^960; at least
/// 2^-63, so that weights from 1e-300 to 1e300 all keep their share.
inline double weight_scale(double max) {
  if (max == 0) return 1;
  const int e = std::ilogb(max);
  return e > 960 ? std::ldexp(1.0, 960 - e) : e < -500 ? std::ldexp(1.0, std::min(-e, 1000)) : 1.0;
}
/// A scaled weight, positive whenever the weight is.
inline double scaled(double weight, double scale) {
  return weight > 0 ? std::max(weight * scale, std::numeric_limits<double>::denorm_min()) : 0.0;
}

/// y of item i: y is a function of the position or a range over the population.
template <class Y>
double value_at(Y&& y, index_t i) {
  if constexpr (std::is_invocable_v<Y&, index_t>)
    return static_cast<double>(y(i));
  else
    return static_cast<double>(y[static_cast<std::size_t>(i)]);
}

}  // namespace detail
}  // namespace sluice
