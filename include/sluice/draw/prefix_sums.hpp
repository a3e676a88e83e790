#pragma once
#include <sluice/draw/weights.hpp>
#include <sluice/draw/words.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/random/uniform.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

/// One of n categories by binary search in the running sums C of the weights: the smallest j with C_j > u C_{n-1}, u in
/// [0, 1). A category of weight zero is never returned, not even at u = 0; where rounding lets no sum exceed the
/// target, the last category of positive weight is. u is scaled, the sums are not divided; they carry the error of
/// their additions, so a light item behind a heavy prefix keeps its share for any n. Build O(n), no allocation when the
/// size does not grow; a draw O(log n), one word. Use it for a few draws, or when the same u must give neighbouring
/// categories; for many draws alias_table. Immutable while it draws, so threads may share it.
class prefix_sums {
 public:
  prefix_sums() = default;
  /// Throws invalid_argument, as does rebuild, if there are no weights, if one is negative, NaN or infinite, or if all
  /// are zero.
  template <weight_range W>
  explicit prefix_sums(const W& weights) {
    rebuild(weights);
  }
  /// New sums in the memory of these. After a throw the old ones are intact.
  template <weight_range W>
  void rebuild(const W& weights) {
    const auto w = detail::weight_span(weights);
    const detail::weight_summary seen = detail::check_positive_weights(w, "prefix_sums");
    scale_ = detail::weight_scale(seen.max);
    sums_.resize(w.size());
    detail::exact_sum sum;
    double reached = 0;
    for (std::size_t i = 0; i < w.size(); ++i) {
      if (w[i] > 0) {
        sum.add(static_cast<double>(w[i]) * scale_);
        reached = std::max(reached, sum.value());
        last_ = static_cast<index_t>(i);
      }
      sums_[i] = reached;
    }
  }

  index_t size() const { return std::ssize(sums_); }
  /// C_j, in units of scale().
  std::span<const double> sums() const { return sums_; }
  /// The power of two by which the weights were multiplied; 1 unless the largest is outside 2^-500 ... 2^960.
  double scale() const { return scale_; }
  /// C_{n-1}, in units of scale().
  double total() const { return sums_.back(); }

  /// The category at u in [0, 1). The sums must not be empty. O(log n).
  index_t at(double u) const {
    const double target = u * sums_.back();
    const double* base = sums_.data();
    for (std::size_t n = sums_.size(); n > 1;) {
      const std::size_t half = n / 2;
      base += base[half - 1] <= target ? half : 0;  // compiled without a branch
      n -= half;
    }
    return *base > target ? base - sums_.data() : last_;
  }

  template <word_source R>
  index_t draw(R& random) const {
    return at(co53(random()));
  }

  /// out.size() categories, the same as that many calls of draw; eight searches run at once.
  template <word_source R>
  void draw(std::span<index_t> out, R& random) const {
    constexpr std::size_t lanes = 8;
    std::size_t done = 0;
    for (; out.size() - done >= lanes; done += lanes) {
      std::array<std::uint64_t, lanes> words;
      detail::draw_words(words, random);
      std::array<double, lanes> target;
      std::array<const double*, lanes> base;
      for (std::size_t k = 0; k < lanes; ++k) {
        target[k] = co53(words[k]) * sums_.back();
        base[k] = sums_.data();
      }
      for (std::size_t n = sums_.size(); n > 1;) {
        const std::size_t half = n / 2;
        for (std::size_t k = 0; k < lanes; ++k) base[k] += base[k][half - 1] <= target[k] ? half : 0;
        n -= half;
      }
      for (std::size_t k = 0; k < lanes; ++k) out[done + k] = *base[k] > target[k] ? base[k] - sums_.data() : last_;
    }
    for (; done < out.size(); ++done) out[done] = draw(random);
  }

 private:
  std::vector<double> sums_;
  double scale_ = 1;
  index_t last_ = -1;
};

}  // namespace sluice
