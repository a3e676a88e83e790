#pragma once
#include <sluice/random/philox.hpp>
#include <sluice/random/stream.hpp>
#include <sluice/random/uniform.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

/// Words and uniforms of a stream in bulk: bit for bit what random access gives, several times faster. Element i of a
/// fill is a function of the key and i alone, so a range may be filled in pieces, in any order, by any thread: give
/// each piece its `first`.
namespace sluice {

namespace detail {
/// Calls use(position, words, count) on successive runs of at most 16 words that cover words first ... first + n - 1.
template <class Use>
void for_each_run(stream key, std::uint64_t first, std::uint64_t n, Use&& use) {
  constexpr std::uint64_t width = 2 * philox_lanes;
  std::array<std::uint64_t, width> words;
  std::uint64_t done = 0;
  if (n > 0 && first % 2 == 1) {  // the second half of a block
    words[0] = key.word(first);
    use(std::uint64_t{0}, words.data(), std::uint64_t{1});
    done = 1;
  }
  while (done < n) {
    const std::uint64_t block = (first + done) / 2, count = std::min(width, n - done);
    if (count <= 4) {  // cheaper one by one
      for (std::uint64_t i = 0; i < count; ++i) words[i] = key.word(2 * block + i);
    } else {
      philox_octet w;
      philox_words_x8(key.seed(), key.id(), block, w);
      for (unsigned lane = 0; lane < philox_lanes; ++lane) {
        words[2 * lane] = w.first[lane];
        words[2 * lane + 1] = w.second[lane];
      }
    }
    use(done, words.data(), count);
    done += count;
  }
}
}  // namespace detail

/// out[i] = word first + i of the stream. No allocation. Measured (one core, ns a word): g++ 12 1.7 with -O3
/// -march=native and AVX-512 (std::mt19937_64: 1.4), 3.0 with -O2; clang 16 1.5 and 4.6. One word at a time: 9 and 16.
/// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11; the order of the lanes is ours.
inline void fill_words(std::span<std::uint64_t> out, stream key, std::uint64_t first = 0) {
  std::uint64_t* const to = out.data();
  detail::for_each_run(key, first, out.size(), [to](std::uint64_t at, const std::uint64_t* words, std::uint64_t count) {
    if (count == 2 * detail::philox_lanes)  // a constant count is copied by vector instructions
      std::copy_n(words, 2 * detail::philox_lanes, to + at);
    else
      std::copy_n(words, count, to + at);
  });
}

/// out[i] = co53(word first + i): uniform in [0, 1), multiples of 2^-53.
inline void fill_co53(std::span<double> out, stream key, std::uint64_t first = 0) {
  double* const to = out.data();
  detail::for_each_run(key, first, out.size(), [to](std::uint64_t at, const std::uint64_t* words, std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i) to[at + i] = co53(words[i]);
  });
}

/// out[i] = co24 of the upper half of word first + i: uniform in [0, 1), multiples of 2^-24, never 1. It is the double
/// of fill_co53 rounded down, so float and double programs see the same numbers.
inline void fill_co24(std::span<float> out, stream key, std::uint64_t first = 0) {
  float* const to = out.data();
  detail::for_each_run(key, first, out.size(), [to](std::uint64_t at, const std::uint64_t* words, std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i) to[at + i] = co24(static_cast<std::uint32_t>(words[i] >> 32));
  });
}

}  // namespace sluice
