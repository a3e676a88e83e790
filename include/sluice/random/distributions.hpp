#pragma once
#include <sluice/core/executor.hpp>
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/random/binomial.hpp>
#include <sluice/random/bulk.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/random/elementary.hpp>
#include <sluice/random/stream.hpp>
#include <sluice/random/uniform.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

/// Continuous laws and permutations. Two faces, never mixed on one key:
///  - of a stream, by random access: `*_at(key, e)` is element e, `fill_*(x, key)` all elements of a tensor. Element e
///    depends on the key and on e only, so neither on the batch nor on the number of threads. Elements are numbered in
///    the order of x's storage. x is one sample; a batch is filled column by column, each with the key of its sample.
///  - of a cursor (or any generator of 64-bit words), in sequence; the source is the last argument.
/// Uniforms and permutations are the same bits everywhere. Normals, exponentials and Gumbels are computed in double for
/// every scalar; between platforms they differ by what is stated at each, since some fuse multiplication and addition.
/// The sources are in each docstring; std:: distributions are not used, since their numbers differ between libraries.
namespace sluice {

namespace detail {

/// Two words to a pair of standard normals (Box-Muller), each within 4 ulp of the exact value for these words:
///     u1 = oc53(first), u2 = co53(second),  z = sqrt(-2 ln u1) (cos 2 pi u2, sin 2 pi u2).
inline std::array<double, 2> box_muller(std::uint64_t first, std::uint64_t second) {
  const double radius = std::sqrt(-2 * log_normal_range(oc53(first)));
  const cos_sin turn = cos_sin_turn(second >> 11);
  return {radius * turn.cos, radius * turn.sin};
}

/// z[2 i], z[2 i + 1] = box_muller(words of block i) for eight blocks, bit for bit; vectorised. The square roots go
/// through Eigen in fours: std::sqrt may set errno, which keeps compilers from vectorising it, and wider packets of
/// Eigen are not correctly rounded.
[[gnu::noinline]] inline void box_muller_x8(const philox_octet& w, double* z) {
  double u[philox_lanes], square[philox_lanes], c[philox_lanes], s[philox_lanes];
  for (unsigned i = 0; i < philox_lanes; ++i) u[i] = oc53(w.first[i]);
  for (unsigned i = 0; i < philox_lanes; ++i) square[i] = -2 * log_normal_range(u[i]);
  for (unsigned i = 0; i < philox_lanes; ++i) {
    const cos_sin turn = cos_sin_turn(w.second[i] >> 11);
    c[i] = turn.cos;
    s[i] = turn.sin;
  }
  for (unsigned i = 0; i < philox_lanes; i += 4) {
    Eigen::Map<Eigen::Array<double, 4, 1>> four(square + i);
    four = four.sqrt();
  }
  for (unsigned i = 0; i < philox_lanes; ++i) {
    z[2 * i] = square[i] * c[i];
    z[2 * i + 1] = square[i] * s[i];
  }
}

/// Calls put(e, value) for the elements first, ..., last - 1 of the standard normals of this key; first is even, as
/// every chunk's is.
template <class Put>
void normals_in(stream key, std::uint64_t first, std::uint64_t last, Put&& put) {
  constexpr std::uint64_t width = 2 * philox_lanes;
  double z[width];
  for (std::uint64_t e = first; e < last; e += width) {
    if (last - e <= 4) {
      for (std::uint64_t i = 0; e + i < last; i += 2) {
        const auto w = key.block((e + i) / 2);
        const auto pair = box_muller(w[0], w[1]);
        z[i] = pair[0];
        z[i + 1] = pair[1];
      }
    } else {
      philox_octet w;
      philox_words_x8(key.seed(), key.id(), e / 2, w);
      box_muller_x8(w, z);
    }
    if (last - e >= width) {  // constant bounds, so that the copy is vectorised
      for (std::uint64_t i = 0; i < width; ++i) put(e + i, z[i]);
    } else {
      for (std::uint64_t i = 0; e + i < last; ++i) put(e + i, z[i]);
    }
  }
}
static_assert(chunk_size % 2 == 0);

/// Writes element e of the Eigen array `a`, elements numbered in the order of storage.
template <class A>
void put_element(A& a, std::uint64_t e, typename A::Scalar value) {
  using index = Eigen::Index;
  if constexpr (A::IsVectorAtCompileTime || (A::Flags & Eigen::LinearAccessBit) != 0) {
    a.coeffRef(static_cast<index>(e)) = value;
  } else {
    const index inner = a.innerSize(), j = static_cast<index>(e) / inner, i = static_cast<index>(e) % inner;
    if constexpr (A::IsRowMajor)
      a.coeffRef(j, i) = value;
    else
      a.coeffRef(i, j) = value;
  }
}

/// Runs each(put, first, last) on the chunks of x; put(e, value) casts to the element's type and writes it.
template <class X, class Each, class Executor>
void fill_elements(X& x, const Executor& ex, Each&& each) {
  for_each_chunk(
      [&](index_t first, index_t last) {
        auto a = traits_of<X>::elements(x);
        using element = typename decltype(a)::Scalar;
        each([&](std::uint64_t e, auto value) { put_element(a, e, static_cast<element>(value)); },
             static_cast<std::uint64_t>(first), static_cast<std::uint64_t>(last));
      },
      static_cast<index_t>(traits_of<X>::size(x)), ex);
}

}  // namespace detail

/// Element e of the standard normals of this key: Box-Muller on the words 2i and 2i + 1, i = e/2; the cosine for even
/// e. In double, |z| <= 8.58. Within 4 ulp of the exact value for these words, hence within 8 ulp on any two platforms.
/// Source: Box and Muller, Ann. Math. Statist. 29 (1958).
inline double normal_at(stream key, std::uint64_t element) {
  const auto w = key.block(element / 2);
  return detail::box_muller(w[0], w[1])[element % 2];
}

/// x[e] = sd * normal_at(key, e), rounded once to the scalar of x. x is one sample: a batch is filled column by column.
/// No allocation. Measured (ns an element, g++ 12): 4.2 with -O3 -march=native and AVX-512, 7.8 with -O2;
/// The standard library's normals on std::mt19937_64 take 11 and 22.
/// Throws invalid_argument unless sd is finite and not negative.
template <elementwise_tensor X, executor Executor = serial>
void fill_normal(X&& x, stream key, double sd = 1, const Executor& ex = {}) {
  expects(sd >= 0 && std::isfinite(sd), "fill_normal", "sd", sd);
  detail::fill_elements(x, ex, [&](auto&& put, std::uint64_t first, std::uint64_t last) {
    detail::normals_in(key, first, last, [&](std::uint64_t e, double z) { put(e, sd * z); });
  });
}

/// Element e of the uniforms of this key: co53(word e), in [0, 1).
constexpr double uniform_at(stream key, std::uint64_t element) { return co53(key.word(element)); }

/// x[e] = uniform_at(key, e) in [0, 1). A scalar of fewer than 53 bits gets the leading 24 bits of the same number
/// (half types: 8, which both hold), not the number rounded, which could be 1.
template <elementwise_tensor X, executor Executor = serial>
void fill_uniform(X&& x, stream key, const Executor& ex = {}) {
  using element = typename std::remove_cvref_t<decltype(traits_of<X>::elements(x))>::Scalar;
  detail::fill_elements(x, ex, [&](auto&& put, std::uint64_t first, std::uint64_t last) {
    detail::for_each_run(key, first, last - first,
                         [&](std::uint64_t at, const std::uint64_t* words, std::uint64_t count) {
                           for (std::uint64_t i = 0; i < count; ++i) {
                             if constexpr (sizeof(element) >= 8)
                               put(first + at + i, co53(words[i]));
                             else if constexpr (sizeof(element) >= 4)
                               put(first + at + i, co24(static_cast<std::uint32_t>(words[i] >> 32)));
                             else
                               put(first + at + i, static_cast<float>(words[i] >> 56) * 0x1p-8f);
                           }
                         });
  });
}

/// A uniform in [0, 1). One word.
template <word_source R>
double uniform(R& random) {
  return co53(random());
}

/// A pair of independent standard normals, as normal_at: two words. Nothing is kept for the next call.
template <word_source R>
std::array<double, 2> normal_pair(R& random) {
  const std::uint64_t first = random(), second = random();
  return detail::box_muller(first, second);
}

/// out = independent standard normals: ceil(n/2) pairs, cosine first; an odd leftover is dropped, nothing is kept
/// between calls. From a cursor at position 0 the same numbers as fill_normal on its key. Words: 2 ceil(n/2).
template <word_source R>
void normals(std::span<double> out, R& random) {
  for (std::size_t i = 0; i < out.size(); i += 2) {
    const auto pair = normal_pair(random);
    out[i] = pair[0];
    if (i + 1 < out.size()) out[i + 1] = pair[1];
  }
}

/// A standard exponential, -ln(oc53): in [0, 36.74], mean 1. One word. Within 3 ulp of the exact value for this word.
template <word_source R>
double exponential(R& random) {
  return 0 - detail::log_normal_range(oc53(random()));
}

/// A standard Gumbel, -ln(-ln(oo52)): in [-3.61, 36.74], mean 0.5772. One word. Absolute error below 2e-15 in units of
/// max(1, |value|). Prefer exponentials where an order is all that matters: they take one logarithm.
template <word_source R>
double gumbel(R& random) {
  return 0 - detail::log_normal_range(0 - detail::log_normal_range(oo52(random())));
}

/// A uniform random order of x, in place: for i = n-1, ..., 1 swaps x[i] with x[below(i + 1)]. n - 1 decisions.
/// Source: Durstenfeld, CACM 7 (1964), Algorithm 235.
template <class T, random_source R>
void shuffle(std::span<T> x, R& random) {
  for (std::size_t i = x.size(); i > 1; --i) {
    using std::swap;
    swap(x[i - 1], x[static_cast<std::size_t>(below(random, i))]);
  }
}
template <class T, class A, random_source R>
void shuffle(std::vector<T, A>& x, R& random) {
  sluice::shuffle(std::span<T>(x), random);
}

/// k of 0, ..., n-1 without replacement, in random order, all ordered choices equally likely: the first k of
/// shuffle(0, ..., n-1). O(n) time and memory, n - 1 decisions. Throws invalid_argument unless 0 <= k <= n.
template <random_source R>
std::vector<index_t> choose(index_t n, index_t k, R& random) {
  expects(n >= 0, "choose", "n", n);
  expects(k >= 0 && k <= n, "choose", "k", k);
  std::vector<index_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), index_t{0});
  sluice::shuffle(std::span<index_t>(order), random);
  order.resize(static_cast<std::size_t>(k));
  return order;
}

}  // namespace sluice
