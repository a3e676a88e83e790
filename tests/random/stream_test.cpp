#include <catch2/catch.hpp>
#include <concepts>
#include <cstdint>
#include <random>
#include <sluice/random/stream.hpp>
#include <type_traits>
#include <utility>
#include <vector>

// Fails for: nine or eleven rounds, keys bumped before the first round, swapped multipliers, swapped words of a block,
// counter or key halves in the wrong order, derive without its key constant, a cursor that repeats, drops or reorders
// a word at a refill, a discard that is off by one, a state that forgets how far the block is used.
using sluice::cursor;
using sluice::cursor_state;
using sluice::stream;

namespace {

// Known answers, checked while this file is compiled.  Source: the test vectors published with Random123 (SC'11), and
// the values that ISO C++26 requires of the 10000th output of std::philox4x32 and std::philox4x64 (word 3 of block
// 2499).
using block32 = std::array<std::uint32_t, 4>;
using block64 = std::array<std::uint64_t, 4>;
static_assert(sluice::philox4x32({0, 0, 0, 0}, {0, 0}) == block32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
static_assert(sluice::philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}) ==
              block32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
static_assert(sluice::philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
              block32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
static_assert(sluice::philox4x32({2499, 0, 0, 0}, {20111115, 0})[3] == 1955073260u);
static_assert(sluice::philox4x64({2499, 0, 0, 0}, {20111115, 0})[3] == 3409172418970261260u);
static_assert(sluice::philox4x64({0x243f6a8885a308d3, 0x13198a2e03707344, 0xa4093822299f31d0, 0x082efa98ec4e6c89},
                                 {0x452821e638d01377, 0xbe5466cf34e90c6c}) ==
              block64{0xa528f45403e61d95, 0x38c72dbd566e9788, 0xa5a1610e72fd18b5, 0x57bd43b5e52b7fe6});
static_assert(stream{0}.word(0) == 0xe169c58d6627e8d5 && stream{0}.word(1) == 0x9b00dbd8bc57ac4c);
static_assert(stream{0x0123456789abcdef, 0xfedcba9876543210}.block(0x100000001) ==
              std::array<std::uint64_t, 2>{0x2accffa1fa249394, 0x233050e440ed4359});
static_assert(stream{0x0123456789abcdef, 0xfedcba9876543210}.derive(0x100000001) ==
              stream{0x3799dbeab09415f5, 0x049c8c8a0f793cd1});

static_assert(std::uniform_random_bit_generator<cursor>);
static_assert(!std::copyable<cursor> && std::movable<cursor>, "a copied cursor would replay numbers");
static_assert(std::is_trivially_copyable_v<stream> && std::is_trivially_copyable_v<cursor_state>);

const stream key{0x9e3779b97f4a7c15, 42};

}  // namespace

TEST_CASE("stream: the layout of a block", "[stream]") {
  for (const std::uint64_t b : {std::uint64_t{0}, std::uint64_t{7}, std::uint64_t{1} << 40}) {
    const auto w = sluice::philox4x32({static_cast<std::uint32_t>(b), static_cast<std::uint32_t>(b >> 32), 42, 0},
                                      {0x7f4a7c15, 0x9e3779b9});
    CHECK(key.word(2 * b) == (w[0] | std::uint64_t{w[1]} << 32));
    CHECK(key.word(2 * b + 1) == (w[2] | std::uint64_t{w[3]} << 32));
  }
}

TEST_CASE("stream: eight blocks together are the eight blocks", "[stream]") {
  for (const std::uint64_t first :
       {std::uint64_t{0}, std::uint64_t{5}, std::uint64_t{0xfffffffc}, ~std::uint64_t{0} - 3}) {
    sluice::detail::philox_octet w;
    sluice::detail::philox_words_x8(key.seed(), key.id(), first, w);
    for (unsigned lane = 0; lane < sluice::detail::philox_lanes; ++lane) {
      CHECK(w.first[lane] == key.block(first + lane)[0]);
      CHECK(w.second[lane] == key.block(first + lane)[1]);
    }
  }
}

TEST_CASE("cursor: the engine equals the block function, from every start", "[cursor]") {
  for (const std::uint64_t start :
       {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{2}, std::uint64_t{33}, std::uint64_t{0x1fffffff5}}) {
    cursor random(key, start);
    for (std::uint64_t k = start; k < start + 100; ++k) {
      REQUIRE(random.state() == cursor_state{key, k});
      REQUIRE(random() == key.word(k));
    }
  }
}

TEST_CASE("cursor: discard(n) equals n draws", "[cursor]") {
  for (std::uint64_t before = 0; before < 20; ++before)
    for (std::uint64_t n = 0; n < 40; ++n) {
      cursor random(key);
      for (std::uint64_t k = 0; k < before; ++k) random();
      random.discard(n);
      REQUIRE(random.state().position == before + n);
      for (std::uint64_t k = before + n; k < before + n + 20; ++k) REQUIRE(random() == key.word(k));
    }
  cursor far(key);
  far.discard(std::uint64_t{1} << 62);
  CHECK(far() == key.word(std::uint64_t{1} << 62));
}

TEST_CASE("cursor: stopped half-way and restored, it continues", "[cursor]") {
  for (std::uint64_t stop = 0; stop < 40; ++stop) {
    cursor random(key, 3);
    for (std::uint64_t k = 0; k < stop; ++k) random();
    const cursor_state saved = random.state();
    CHECK(saved == cursor_state{key, 3 + stop});
    cursor restored(saved);
    cursor moved(std::move(random));
    cursor assigned(stream{1});
    assigned();
    assigned = cursor(saved);
    for (std::uint64_t k = 3 + stop; k < 3 + stop + 40; ++k) {
      REQUIRE(restored() == key.word(k));
      REQUIRE(moved() == key.word(k));
      REQUIRE(assigned() == key.word(k));
    }
  }
}

TEST_CASE("stream: derived keys differ from each other and from their parent", "[stream]") {
  std::vector<std::uint64_t> first;
  for (std::uint64_t i = 0; i < 300; ++i) {
    first.push_back(key.derive(i).word(0));
    first.push_back(key.derive(i).derive(0).word(0));
    first.push_back(key.word(i));
    first.push_back(stream(key.seed(), key.id() + 1 + i).word(0));
  }
  std::sort(first.begin(), first.end());
  CHECK(std::adjacent_find(first.begin(), first.end()) == first.end());
}
