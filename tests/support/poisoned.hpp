#pragma once
#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <limits>
#include <sluice/core/expects.hpp>
#include <span>
#include <vector>

/// Rows that a technique must not read: NaN spreads into everything computed from it.
namespace support {

/// n NaN.
template <std::floating_point S>
std::vector<S> poisoned(std::size_t n) {
  return std::vector<S>(n, std::numeric_limits<S>::quiet_NaN());
}

/// A matrix of rows, all NaN until they are set, with NaN before the first row, between the rows and after the last, so
/// that reading past an end shows.
template <std::floating_point S>
class poisoned_rows {
 public:
  poisoned_rows(std::size_t rows, std::size_t columns)
      : rows_(rows), columns_(columns), stride_(columns + margin), data_(poisoned<S>(margin + rows * stride_)) {}

  std::span<S> row(std::size_t i) { return {data_.data() + offset(i), columns_}; }
  std::span<const S> row(std::size_t i) const { return {data_.data() + offset(i), columns_}; }
  std::size_t rows() const { return rows_; }
  std::size_t columns() const { return columns_; }
  std::size_t stride() const { return stride_; }

  /// Makes row i readable.
  template <class Values>
  void set(std::size_t i, const Values& values) {
    sluice::expects(static_cast<std::size_t>(std::size(values)) == columns_, "poisoned_rows", "values.size",
                    std::size(values));
    std::transform(std::begin(values), std::end(values), row(i).begin(), [](auto v) { return static_cast<S>(v); });
  }
  /// True if everything but the rows that were set, and all margins, is NaN still: nothing was written there.
  bool intact(std::span<const std::size_t> rows_set) const {
    std::vector<bool> writable(data_.size(), false);
    for (const std::size_t i : rows_set)
      std::fill_n(writable.begin() + static_cast<std::ptrdiff_t>(offset(i)), columns_, true);
    for (std::size_t k = 0; k < data_.size(); ++k)
      if (!writable[k] && !std::isnan(data_[k])) return false;
    return true;
  }

 private:
  static constexpr std::size_t margin = 17;
  std::size_t offset(std::size_t i) const {
    sluice::expects(i < rows_, "poisoned_rows", "row", i);
    return margin + i * stride_;
  }
  std::size_t rows_, columns_, stride_;
  std::vector<S> data_;
};

}  // namespace support
