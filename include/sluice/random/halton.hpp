#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/random/stream.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

namespace sluice {

/// The radical inverse: the digits of i in the base, mirrored at the point, i = sum d_j base^j -> sum d_j base^(-j-1).
/// Formed as one fraction of integers: correctly rounded while i base < 2^53, within 2 ulp beyond; in [0, 1) always.
/// O(log i). Throws invalid_argument if base < 2.
inline double radical_inverse(std::uint64_t i, std::uint32_t base) {
  expects(base >= 2, "radical_inverse", "base", base);
  if (i < (std::uint64_t{1} << 53) / base) {
    std::uint64_t numerator = 0, denominator = 1;
    for (; i > 0; i /= base) {
      numerator = numerator * base + i % base;
      denominator *= base;
    }
    return static_cast<double>(static_cast<std::int64_t>(numerator)) /
           static_cast<double>(static_cast<std::int64_t>(denominator));
  }
  __extension__ using u128 = unsigned __int128;  // the denominator is at most i base < 2^96
  u128 numerator = 0, denominator = 1;
  for (; i > 0; i /= base) {
    numerator = numerator * base + i % base;
    denominator *= base;
  }
  return std::min(static_cast<double>(numerator) / static_cast<double>(denominator), 1 - 0x1p-53);
}

/// Halton points: coordinate d of point i is the radical inverse of i in the d-th prime (or base of one's own), by
/// random access; points and dimensions count from 0. Above about ten dimensions the plain points are badly correlated:
/// give a key, and every digit goes through a random permutation of its own, one for each base and position, as far as
/// base^K <= 2^52. A randomised coordinate is the middle of its cell of width base^-K: uniform, never 0 or 1; the
/// points keep their stratification: base^m successive points that start at a multiple of base^m have one in each
/// interval of length base^-m. O(log i) a coordinate plain, O(K) randomised; memory 4 K base bytes a dimension, if
/// randomised. Immutable after construction. Source: Halton, Numer. Math. 2 (1960); random permutations of each digit:
/// Owen, "A randomized Halton algorithm in R" (arXiv:1706.02808). Differs: 52 bits, and the middle of the cell instead
/// of its lower end.
class halton {
 public:
  /// The first `dimensions` primes. Throws invalid_argument unless 1 <= dimensions <= 6542 (the primes below 2^16).
  explicit halton(index_t dimensions) : bases_(primes(dimensions)) {}
  /// The same, randomised by the key: dimension d draws its permutations from a cursor on key.derive(d).
  halton(index_t dimensions, stream key) : halton(dimensions) { randomise_digits(key); }
  /// Bases of one's own, which should have no common factors. Throws invalid_argument unless there is one and each is
  /// in 2 ... 65536.
  explicit halton(std::span<const std::uint32_t> bases) : bases_(bases.begin(), bases.end()) {
    expects(!bases.empty(), "halton", "bases.size", bases.size());
    for (index_t d = 0; d < std::ssize(bases); ++d) {
      const std::uint32_t b = bases[static_cast<std::size_t>(d)];
      expects(b >= 2 && b <= 65536, "halton", "bases", b, d);
    }
  }
  halton(std::span<const std::uint32_t> bases, stream key) : halton(bases) { randomise_digits(key); }

  index_t dimensions() const { return std::ssize(bases_); }
  std::uint32_t base(index_t d) const {
    expects(d >= 0 && d < dimensions(), "halton", "d", d);
    return bases_[static_cast<std::size_t>(d)];
  }

  /// Coordinate d of point i, in [0, 1). Throws invalid_argument unless 0 <= d < dimensions() and, if randomised,
  /// i < base^K (at least 2^36; 2^52 in base 2): the digits beyond have no permutation.
  double at(std::uint64_t i, index_t d) const {
    const std::uint32_t b = base(d);
    if (digits_.empty()) return radical_inverse(i, b);
    const digits& p = digits_[static_cast<std::size_t>(d)];
    expects(i < p.cells, "halton", "i", i);
    std::uint64_t numerator = 0;
    for (const std::uint32_t* table = p.permutation.data(); table != p.permutation.data() + p.permutation.size();
         table += b, i /= b)
      numerator = numerator * b + table[i % b];
    return (static_cast<double>(static_cast<std::int64_t>(numerator)) + 0.5) /
           static_cast<double>(static_cast<std::int64_t>(p.cells));
  }

  /// Points first, first + 1, ... one after another, dimensions() coordinates each: the columns of a column-major
  /// matrix. Throws invalid_argument unless out.size() is a multiple of dimensions(), and as `at` for the last point.
  /// No allocation.
  void fill(std::span<double> out, std::uint64_t first = 0) const {
    const std::size_t d = bases_.size(), n = out.size() / d;
    expects(n * d == out.size(), "halton::fill", "out.size", out.size());
    for (const digits& p : digits_)
      expects(n == 0 || (first < p.cells && n - 1 < p.cells - first), "halton::fill", "first", first);
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < d; ++j) out[i * d + j] = at(first + i, static_cast<index_t>(j));
  }

 private:
  struct digits {
    std::uint64_t cells = 1;                 // base^K
    std::vector<std::uint32_t> permutation;  // K permutations of 0 ... base - 1, least significant digit of i first
  };

  static std::vector<std::uint32_t> primes(index_t n) {
    expects(n >= 1 && n <= 6542, "halton", "dimensions", n);
    std::vector<std::uint32_t> found;
    for (std::uint32_t candidate = 2; std::ssize(found) < n; ++candidate) {
      bool prime = true;
      for (const std::uint32_t p : found) {
        if (p * p > candidate) break;
        if (candidate % p == 0) prime = false;
      }
      if (prime) found.push_back(candidate);
    }
    return found;
  }

  void randomise_digits(stream key) {
    digits_.resize(bases_.size());
    for (std::size_t d = 0; d < bases_.size(); ++d) {
      const std::uint32_t b = bases_[d];
      digits& p = digits_[d];
      cursor random(key.derive(d));
      while (p.cells <= (std::uint64_t{1} << 52) / b) {
        p.cells *= b;
        const std::size_t from = p.permutation.size();
        p.permutation.resize(from + b);
        const std::span<std::uint32_t> table = std::span(p.permutation).subspan(from);
        std::iota(table.begin(), table.end(), std::uint32_t{0});
        for (std::uint32_t k = b; k > 1; --k) std::swap(table[k - 1], table[below(random, k)]);
      }
    }
  }

  std::vector<std::uint32_t> bases_;
  std::vector<digits> digits_;  // empty: not randomised
};

}  // namespace sluice
