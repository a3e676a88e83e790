#pragma once
#include <array>
#include <cstdint>

/// Philox, a counter-based generator: output = f(counter, key), a pure function with no state.
/// Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11; the round order and the
/// names of the constants follow ISO C++26 <random>.
namespace sluice {

/// Philox4x32 with ten rounds: four 32-bit words from a 128-bit counter and a 64-bit key. About 8 ns a block.
constexpr std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                                  std::array<std::uint32_t, 2> key) {
  auto [c0, c1, c2, c3] = counter;
  auto [k0, k1] = key;
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53u} * c0, b = std::uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<std::uint32_t>(b >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(b);
    c2 = static_cast<std::uint32_t>(a >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(a);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {c0, c1, c2, c3};
}

/// Philox4x64 with ten rounds: four 64-bit words from a 256-bit counter and a 128-bit key. Offered as this pure
/// function only; streams are Philox4x32.
constexpr std::array<std::uint64_t, 4> philox4x64(std::array<std::uint64_t, 4> counter,
                                                  std::array<std::uint64_t, 2> key) {
  __extension__ using u128 = unsigned __int128;
  auto [c0, c1, c2, c3] = counter;
  auto [k0, k1] = key;
  for (int round = 0; round < 10; ++round) {
    const u128 a = u128{0xD2E7470EE14C6C93u} * c0, b = u128{0xCA5A826395121157u} * c2;
    c0 = static_cast<std::uint64_t>(b >> 64) ^ c1 ^ k0;
    c1 = static_cast<std::uint64_t>(b);
    c2 = static_cast<std::uint64_t>(a >> 64) ^ c3 ^ k1;
    c3 = static_cast<std::uint64_t>(a);
    k0 += 0x9E3779B97F4A7C15u;
    k1 += 0xBB67AE8584CAA73Bu;
  }
  return {c0, c1, c2, c3};
}

namespace detail {
/// Block `block` of the stream (seed, id): two 64-bit words.
constexpr std::array<std::uint64_t, 2> philox_words(std::uint64_t seed, std::uint64_t id, std::uint64_t block) {
  const auto lo = [](std::uint64_t x) { return static_cast<std::uint32_t>(x); };
  const auto hi = [](std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); };
  const auto w = philox4x32({lo(block), hi(block), lo(id), hi(id)}, {lo(seed), hi(seed)});
  return {w[0] | std::uint64_t{w[1]} << 32, w[2] | std::uint64_t{w[3]} << 32};
}
}  // namespace detail

}  // namespace sluice
