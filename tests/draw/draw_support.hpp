#pragma once
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <sluice/core/tensor.hpp>
#include <span>
#include <utility>
#include <vector>

/// What several tests of draw/ need: sources that return chosen words, counts, and the statistics of counts and means.
namespace draw_test {

using sluice::index_t;

/// Returns the given words in turn, for ever.
class scripted_words {
 public:
  using result_type = std::uint64_t;
  scripted_words(std::initializer_list<std::uint64_t> words) : words_(words) {}
  static constexpr result_type min() { return 0; }
  static constexpr result_type max() { return ~result_type{0}; }
  result_type operator()() { return words_[used_++ % words_.size()]; }
  std::uint64_t used() const { return used_; }

 private:
  std::vector<std::uint64_t> words_;
  std::uint64_t used_ = 0;
};

inline std::vector<double> harmonic_weights(index_t n) {
  std::vector<double> w;
  for (index_t i = 0; i < n; ++i) w.push_back(1.0 / static_cast<double>(i + 1));
  return w;
}

inline double sum_of(std::span<const double> w) {
  double s = 0;
  for (const double v : w) s += v;
  return s;
}

/// Pearson's statistic of counts against weights. A count where the weight is zero makes it infinite.
inline double pearson_of(std::span<const std::int64_t> counts, std::span<const double> weights) {
  double n = 0, x = 0;
  for (const std::int64_t c : counts) n += static_cast<double>(c);
  const double total = sum_of(weights);
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const double expected = n * weights[i] / total, d = static_cast<double>(counts[i]) - expected;
    if (expected > 0) x += d * d / expected;
    if (expected == 0 && counts[i] > 0) return HUGE_VAL;
  }
  return x;
}

/// 1 - 1e-6 quantiles of chi-square (papers: exact, not Wilson-Hilferty).
inline constexpr double critical_9 = 44.811, critical_99 = 180.792;

/// Distance of a mean of n terms from what it should be, in standard errors; the gate is 5.5.
inline double z_of(double mean, double expected, double variance_of_one, double n) {
  return (mean - expected) / std::sqrt(variance_of_one / n);
}

}  // namespace draw_test
