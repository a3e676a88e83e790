#pragma once
#include <sluice/random/bulk.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/random/stream.hpp>

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

/// Words by the block, for designs that use a known number of them.
namespace sluice::detail {

/// out[i] = random(), in order.
template <word_source R>
void draw_words(std::span<std::uint64_t> out, R& random) {
  if constexpr (std::same_as<R, cursor>) {
    fill_words(out, random.state().key, random.state().position);
    random.discard(out.size());
  } else {
    for (std::uint64_t& w : out) w = random();
  }
}

/// f(i, word) for i = 0 ... n - 1, word i the i-th that random gives.
template <word_source R, class F>
void for_each_word(F&& f, std::size_t n, R& random) {
  std::array<std::uint64_t, 256> words;
  for (std::size_t first = 0; first < n; first += words.size()) {
    const std::size_t m = std::min(words.size(), n - first);
    draw_words(std::span(words).first(m), random);
    for (std::size_t i = 0; i < m; ++i) f(first + i, words[i]);
  }
}

}  // namespace sluice::detail
