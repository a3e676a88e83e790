#pragma once
#include <sluice/random/philox.hpp>

#include <array>
#include <cstdint>

/// Randomness is injected: a `stream` is a key that anybody may copy, a `cursor` a position in it that nobody can copy.
/// Random access takes a stream by value; what consumes a variable number of words (rejection, bounded integers, a
/// decoder) takes a cursor&. A key serves random access or one cursor, never both: derive another.
namespace sluice {

/// An immutable key: same key, same numbers, whoever asks. 2^64 blocks of two 64-bit words each; every position is
/// reached in O(1). Immutable after construction, so it may be shared by threads.
class stream {
 public:
  constexpr explicit stream(std::uint64_t seed, std::uint64_t id = 0) : seed_(seed), id_(id) {}

  /// The key of item i, by its logical index (row, particle, request), never by thread or chunk. 128 bits of identity.
  constexpr stream derive(std::uint64_t i) const {
    const auto w = detail::philox_words(seed_ ^ 0x4B45595353504C54u, id_, i);
    return stream(w[0], w[1]);
  }
  /// Block b: words 2b and 2b + 1.
  constexpr std::array<std::uint64_t, 2> block(std::uint64_t b) const { return detail::philox_words(seed_, id_, b); }
  /// Word k, by random access.
  constexpr std::uint64_t word(std::uint64_t k) const { return block(k / 2)[k % 2]; }
  constexpr std::uint64_t seed() const { return seed_; }
  constexpr std::uint64_t id() const { return id_; }
  friend constexpr bool operator==(const stream&, const stream&) = default;

 private:
  std::uint64_t seed_, id_;
};

/// What a cursor is made of: save it, and rebuild the cursor from it elsewhere.
struct cursor_state {
  stream key;
  std::uint64_t position = 0;
  friend constexpr bool operator==(const cursor_state&, const cursor_state&) = default;
};

/// A position in a stream; a std::uniform_random_bit_generator of 64-bit words. Move-only, since a copy would replay
/// numbers. One object a thread.
class cursor {
 public:
  using result_type = std::uint64_t;
  explicit cursor(stream key, std::uint64_t position = 0) : s_{key, position} {}
  explicit cursor(const cursor_state& s) : s_(s) {}
  cursor(cursor&&) = default;
  cursor& operator=(cursor&&) = default;
  cursor(const cursor&) = delete;
  cursor& operator=(const cursor&) = delete;

  static constexpr result_type min() { return 0; }
  static constexpr result_type max() { return ~result_type{0}; }
  result_type operator()() {
    const std::uint64_t position = s_.position++;
    if (position % 2 == 0 || !has_block_) {
      block_ = s_.key.block(position / 2);
      has_block_ = true;
    }
    return block_[position % 2];
  }
  /// Skips n words in O(1).
  void discard(std::uint64_t n) {
    s_.position += n;
    has_block_ = false;
  }
  const cursor_state& state() const { return s_; }

 private:
  cursor_state s_;
  std::array<std::uint64_t, 2> block_{};
  bool has_block_ = false;
};

}  // namespace sluice
