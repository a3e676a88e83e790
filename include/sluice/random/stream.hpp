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

/// A position in a stream; a std::uniform_random_bit_generator of 64-bit words, and the stateful engine of this
/// library. Word k of the cursor is word k of its stream. Move-only, since a copy would replay numbers; what was moved
/// from must not be used again. One object a thread. Words are computed ahead, one block at first and then eight at a
/// time, which changes no number: a short use costs what random access costs (about 8 ns for two words), a long one
/// approaches the bulk fill (measured with g++ 12, ns a word: 1.8 with -O3 -march=native, 6 with -O2). Construction
/// stores the key and the position and computes nothing.
class cursor {
 public:
  using result_type = std::uint64_t;
  explicit cursor(stream key, std::uint64_t position = 0) : key_(key), base_(position) {}
  explicit cursor(const cursor_state& s) : cursor(s.key, s.position) {}
  cursor(cursor&& other) noexcept : cursor(other.state()) {}  // the words computed ahead are left behind
  cursor& operator=(cursor&& other) noexcept {
    key_ = other.key_;
    base_ = other.state().position;
    next_ = end_ = 0;
    return *this;
  }
  cursor(const cursor&) = delete;
  cursor& operator=(const cursor&) = delete;

  static constexpr result_type min() { return 0; }
  static constexpr result_type max() { return ~result_type{0}; }
  result_type operator()() {
    if (next_ == end_) [[unlikely]]
      refill();
    return buffer_[next_++];
  }
  /// Skips n words in O(1).
  void discard(std::uint64_t n) {
    if (n <= end_ - next_) {
      next_ += static_cast<std::uint32_t>(n);
    } else {
      base_ += next_ + n;
      next_ = end_ = 0;
    }
  }
  /// The key and the position of the next word: all there is to save.
  cursor_state state() const { return {key_, base_ + next_}; }

 private:
  static constexpr std::uint32_t capacity = 2 * detail::philox_lanes;

  [[gnu::noinline]] void refill() {  // out of line: it is large, and rarely runs
    base_ += next_;
    if (end_ == 0) {  // new, or just after a jump: perhaps little will be drawn
      const auto w = key_.block(base_ / 2);
      buffer_[0] = w[0];
      buffer_[1] = w[1];
      next_ = static_cast<std::uint32_t>(base_ % 2);
      end_ = 2;
    } else {
      detail::philox_octet w;
      detail::philox_words_x8(key_.seed(), key_.id(), base_ / 2, w);
      for (std::uint32_t lane = 0; lane < detail::philox_lanes; ++lane) {
        buffer_[2 * lane] = w.first[lane];
        buffer_[2 * lane + 1] = w.second[lane];
      }
      next_ = 0;
      end_ = capacity;
    }
    base_ -= next_;
  }

  stream key_;
  std::uint64_t base_;                          // position of buffer_[0]; the next word is base_ + next_
  std::uint32_t next_ = 0, end_ = 0;            // words next_ ... end_ - 1 of the buffer are ready
  std::array<std::uint64_t, capacity> buffer_;  // indeterminate where nothing is ready
};

}  // namespace sluice
