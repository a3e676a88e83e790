#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <sluice/core/expects.hpp>
#include <utility>
#include <vector>

/// Words for boundary tests.
namespace support {

inline constexpr std::uint64_t word_zero = 0;                           ///< co53: 0
inline constexpr std::uint64_t word_smallest = std::uint64_t{1} << 11;  ///< co53: 2^-53
inline constexpr std::uint64_t word_half = std::uint64_t{1} << 63;      ///< co53: 1/2
inline constexpr std::uint64_t word_largest = ~std::uint64_t{0};        ///< co53: 1 - 2^-53

/// The word whose sluice::co53 is u: exact if u is a multiple of 2^-53 in [0, 1), else the next one below.
inline std::uint64_t word_of(double u) {
  sluice::expects(u >= 0 && u < 1, "word_of", "u", u);
  return static_cast<std::uint64_t>(u * 0x1p53) << 11;
}

/// A sluice::word_source that returns a script, again and again. `limit` words at most: a rule that rejects the
/// scripted words for ever fails instead of hanging.
class scripted_words {
 public:
  using result_type = std::uint64_t;
  explicit scripted_words(std::vector<std::uint64_t> script, std::size_t limit = 1'000'000)
      : script_(std::move(script)), limit_(limit) {
    sluice::expects(!script_.empty(), "scripted_words", "script.size", script_.size());
  }
  scripted_words(std::initializer_list<std::uint64_t> script) : scripted_words(std::vector<std::uint64_t>(script)) {}
  /// The words of uniforms.
  static scripted_words uniforms(std::initializer_list<double> u) {
    std::vector<std::uint64_t> script;
    for (const double x : u) script.push_back(word_of(x));
    return scripted_words(std::move(script));
  }

  static constexpr result_type min() { return 0; }
  static constexpr result_type max() { return ~result_type{0}; }
  result_type operator()() {
    sluice::expects(used_ < limit_, "scripted_words", "used", used_);
    return script_[used_++ % script_.size()];
  }
  /// Words taken so far.
  std::size_t used() const { return used_; }

 private:
  std::vector<std::uint64_t> script_;
  std::size_t limit_, used_ = 0;
};

}  // namespace support
