#include <catch2/catch.hpp>
#include <cstdint>
#include <sluice/random/bulk.hpp>
#include <support/allocation_counter.hpp>
#include <vector>

// Fails for: swapped lanes or words, a tail or an odd start filled from the wrong position, a write past the end, a
// float made from the lower half of the word or by rounding a double.
using sluice::stream;

namespace {
const stream key{7, 0x123456789};
const std::uint64_t starts[] = {0, 1, 2, 15, 16, 0x1fffffffe, 0x1ffffffff};
}  // namespace

TEST_CASE("bulk: words are those of random access, whatever the start and the length", "[bulk]") {
  for (const std::uint64_t first : starts)
    for (std::size_t n = 0; n < 70; ++n) {
      std::vector<std::uint64_t> out(n + 1, 0xdeadbeef);
      sluice::fill_words(std::span(out).first(n), key, first);
      for (std::size_t i = 0; i < n; ++i) REQUIRE(out[i] == key.word(first + i));
      REQUIRE(out[n] == 0xdeadbeef);
    }
}

TEST_CASE("bulk: uniforms are the conversions of the words", "[bulk]") {
  for (const std::uint64_t first : starts)
    for (const std::size_t n : {std::size_t{1}, std::size_t{5}, std::size_t{16}, std::size_t{39}}) {
      std::vector<double> x(n);
      std::vector<float> y(n);
      sluice::fill_co53(x, key, first);
      sluice::fill_co24(y, key, first);
      for (std::size_t i = 0; i < n; ++i) {
        const std::uint64_t w = key.word(first + i);
        REQUIRE(x[i] == sluice::co53(w));
        REQUIRE(y[i] == sluice::co24(static_cast<std::uint32_t>(w >> 32)));
        REQUIRE(static_cast<double>(y[i]) == std::floor(x[i] * 0x1p24) * 0x1p-24);
      }
    }
}

TEST_CASE("bulk: fills allocate nothing", "[bulk]") {
  std::vector<std::uint64_t> words(1000);
  std::vector<double> x(1000);
  CHECK(support::allocations_in([&] {
          sluice::fill_words(words, key);
          sluice::fill_co53(x, key);
        }) == 0);
}
