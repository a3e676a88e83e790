#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/random/stream.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

/// How a low-discrepancy point set is randomised. Each randomised point is uniform, so averages are unbiased, and
/// several keys give independent repetitions from which the error can be estimated.
enum class randomise {
  none,           ///< the points themselves; the first is the origin
  digital_shift,  ///< XOR with one random word per dimension; keeps the net
  owen            ///< nested uniform scramble by a hash (Sobol only); keeps the net and cancels more of the error
};

/// What defines a dimension d >= 2: the primitive polynomial x^s + a_1 x^(s-1) + ... + a_(s-1) x + 1 over GF(2), with
/// s = m.size() and the coefficients a_1 ... a_(s-1) as the bits of a, and the initial numbers m_1 ... m_s.
struct sobol_row {
  std::uint32_t a = 0;
  std::vector<std::uint32_t> m;
};

/// Sobol points: 2^32 points in [0, 1)^d in Gray-code order, 32 bits a coordinate, by random access.
///     V_k = 2^(31-k) in dimension 0;  elsewhere V_i = m_i 2^(32-i), i <= s, then
///     V_i = V_{i-s} ^ (V_{i-s} >> s) ^ XOR_{j=1}^{s-1} a_j V_{i-j};      x_n = XOR of the V of the set bits of n ^ (n
///     >> 1)
/// Use a power of two of points and keep the first: without it the rest is no net. Every aligned block of 2^m points
/// has one point in each interval of length 2^-m of each axis, randomised or not. Not randomised, a coordinate is word
/// 2^-32, and the first point is the origin, which inverse distribution functions map to minus infinity; randomised, it
/// is (word + 1/2) 2^-32, never 0 or 1. Dimensions and points count from 0. A point costs O(d) by fill, O(d bits) by
/// random access; memory 128 bytes a dimension. Immutable after construction. Source: Sobol 1967; direction numbers of
/// dimensions 1 to 7: Joe and Kuo, SIAM J. Sci. Comput. 30 (2008); order: Antonov and Saleev 1979; scramble: Owen 1995
/// by the hash of Laine and Karras 2011 with the constants of Burley, J. Comput. Graph. Tech. 9 (2020). Differs: the
/// half added to randomised words, which makes the interval open.
class sobol {
 public:
  static constexpr index_t built_in_dimensions = 8;  ///< more with rows of one's own

  /// The built-in dimensions, not randomised. Throws invalid_argument unless 1 <= dimensions <= 8.
  explicit sobol(index_t dimensions) : sobol(dimensions, randomise::none, stream(0)) {}
  /// Randomised by the words 0 ... dimensions - 1 of the key.
  sobol(index_t dimensions, randomise how, stream key) {
    expects(dimensions >= 1 && dimensions <= built_in_dimensions, "sobol", "dimensions", dimensions);
    build(built_in().first(static_cast<std::size_t>(dimensions - 1)), how, key);
  }
  /// Rows of one's own for the dimensions from the second on: 1 + rows.size() dimensions in all. Throws
  /// invalid_argument unless every m has 1 to 32 numbers, m_i is odd and below 2^i, and a is below 2^(s-1). That the
  /// polynomial is primitive is not checked.
  explicit sobol(std::span<const sobol_row> rows) : sobol(rows, randomise::none, stream(0)) {}
  sobol(std::span<const sobol_row> rows, randomise how, stream key) {
    for (index_t r = 0; r < std::ssize(rows); ++r) {
      const sobol_row& row = rows[static_cast<std::size_t>(r)];
      const std::size_t s = row.m.size();
      expects(s >= 1 && s <= 32, "sobol", "rows.m.size", s, r);
      expects(s > 32 || row.a >> (s - 1) == 0, "sobol", "rows.a", row.a, r);
      for (std::size_t i = 0; i < s; ++i)
        expects(row.m[i] % 2 == 1 && (i >= 31 || row.m[i] >> (i + 1) == 0), "sobol", "rows.m", row.m[i], r);
    }
    std::vector<fixed_row> fixed;
    fixed.reserve(rows.size());
    for (const sobol_row& row : rows) fixed.push_back({row.a, row.m});
    build(fixed, how, key);
  }

  index_t dimensions() const { return std::ssize(directions_); }

  /// Coordinate d of point i as an integer, randomised. Throws invalid_argument unless i < 2^32 and 0 <= d <
  /// dimensions().
  std::uint32_t word(std::uint64_t i, index_t d) const {
    check(i, d);
    return randomised(raw(static_cast<std::uint32_t>(i), static_cast<std::size_t>(d)), static_cast<std::size_t>(d));
  }
  /// Coordinate d of point i in [0, 1). Throws as word does.
  double at(std::uint64_t i, index_t d) const { return to_unit(word(i, d)); }

  /// Points first, first + 1, ... one after another, dimensions() coordinates each: the columns of a column-major
  /// matrix. Throws invalid_argument unless out.size() is a multiple of dimensions() and first plus the number of
  /// points is at most 2^32. No allocation for up to 64 dimensions.
  void fill(std::span<double> out, std::uint64_t first = 0) const {
    const std::size_t d = directions_.size(), n = out.size() / d;
    expects(n * d == out.size(), "sobol::fill", "out.size", out.size());
    expects(first <= limit && n <= limit - first, "sobol::fill", "first", first);
    std::array<std::uint32_t, 64> few;
    std::vector<std::uint32_t> many(d > few.size() ? d : 0);
    const std::span<std::uint32_t> x = d > few.size() ? std::span(many) : std::span(few).first(d);
    if (n == 0) return;
    for (std::size_t j = 0; j < d; ++j) x[j] = raw(static_cast<std::uint32_t>(first), j);
    for (std::size_t i = 0;;) {
      for (std::size_t j = 0; j < d; ++j) out[i * d + j] = to_unit(randomised(x[j], j));
      if (++i == n) return;
      const auto zero = static_cast<std::size_t>(std::countr_one(static_cast<std::uint32_t>(first + i - 1)));
      for (std::size_t j = 0; j < d; ++j) x[j] ^= directions_[j][zero];
    }
  }

 private:
  struct fixed_row {
    std::uint32_t a;
    std::span<const std::uint32_t> m;
  };
  static constexpr std::uint64_t limit = std::uint64_t{1} << 32;

  static std::span<const fixed_row> built_in() {
    static constexpr std::uint32_t m[][5] = {{1},          {1, 3},        {1, 3, 1},       {1, 1, 1},
                                             {1, 1, 3, 3}, {1, 3, 5, 13}, {1, 1, 5, 5, 17}};
    static constexpr fixed_row rows[] = {{0, {m[0], 1}}, {1, {m[1], 2}}, {1, {m[2], 3}}, {2, {m[3], 3}},
                                         {1, {m[4], 4}}, {4, {m[5], 4}}, {2, {m[6], 5}}};
    return rows;
  }

  void build(std::span<const fixed_row> rows, randomise how, stream key) {
    how_ = how;
    directions_.resize(rows.size() + 1);
    for (unsigned k = 0; k < 32; ++k) directions_[0][k] = std::uint32_t{1} << (31 - k);
    for (std::size_t r = 0; r < rows.size(); ++r) {
      auto& v = directions_[r + 1];
      const std::size_t s = rows[r].m.size();
      for (std::size_t i = 0; i < 32; ++i) {
        if (i < s) {
          v[i] = rows[r].m[i] << (31 - i);
          continue;
        }
        v[i] = v[i - s] ^ (s < 32 ? v[i - s] >> s : 0);
        for (std::size_t j = 1; j < s; ++j)
          if (rows[r].a >> (s - 1 - j) & 1) v[i] ^= v[i - j];
      }
    }
    keys_.resize(how == randomise::none ? 0 : directions_.size());
    for (std::size_t d = 0; d < keys_.size(); ++d) keys_[d] = static_cast<std::uint32_t>(key.word(d) >> 32);
  }

  void check(std::uint64_t i, index_t d) const {
    expects(i < limit, "sobol", "i", i);
    expects(d >= 0 && d < dimensions(), "sobol", "d", d);
  }
  std::uint32_t raw(std::uint32_t i, std::size_t d) const {
    std::uint32_t x = 0;
    for (std::uint32_t gray = i ^ (i >> 1); gray != 0; gray &= gray - 1)
      x ^= directions_[d][static_cast<std::size_t>(std::countr_zero(gray))];
    return x;
  }
  std::uint32_t randomised(std::uint32_t x, std::size_t d) const {
    switch (how_) {
      case randomise::none:
        return x;
      case randomise::digital_shift:
        return x ^ keys_[d];
      case randomise::owen:
        return reverse(permute(reverse(x), keys_[d]));
    }
    return x;
  }
  double to_unit(std::uint32_t x) const { return how_ == randomise::none ? x * 0x1p-32 : (x + 0.5) * 0x1p-32; }

  static constexpr std::uint32_t reverse(std::uint32_t x) {
    x = (x >> 1 & 0x55555555u) | (x & 0x55555555u) << 1;
    x = (x >> 2 & 0x33333333u) | (x & 0x33333333u) << 2;
    x = (x >> 4 & 0x0F0F0F0Fu) | (x & 0x0F0F0F0Fu) << 4;
    x = (x >> 8 & 0x00FF00FFu) | (x & 0x00FF00FFu) << 8;
    return x >> 16 | x << 16;
  }
  /// A permutation in which bit k of the result depends on the bits 0 ... k only: on reversed words a nested scramble.
  static constexpr std::uint32_t permute(std::uint32_t x, std::uint32_t key) {
    x += key;
    x ^= x * 0x6C50B47Cu;
    x ^= x * 0xB82F1E52u;
    x ^= x * 0xC7AFE638u;
    x ^= x * 0x8D22F6E6u;
    return x;
  }

  randomise how_ = randomise::none;
  std::vector<std::array<std::uint32_t, 32>> directions_;
  std::vector<std::uint32_t> keys_;
};

}  // namespace sluice
