#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdint>
#include <sluice/random/uniform.hpp>

// Fails for: a shift by one bit less (1 is reached), a missing +1 (0 is reached) or +0.5, a conversion that rounds.
using namespace sluice;

static_assert(co53(0) == 0 && co53(~0ull) == 1 - 0x1p-53 && co53(0x7ff) == 0 && co53(0x800) == 0x1p-53);
static_assert(oc53(0) == 0x1p-53 && oc53(~0ull) == 1);
static_assert(oo52(0) == 0x1p-53 && oo52(~0ull) == 1 - 0x1p-53);
static_assert(co24(0) == 0 && co24(~0u) == 1 - 0x1p-24f && co24(0xff) == 0 && co24(0x100) == 0x1p-24f);
static_assert(oc24(0) == 0x1p-24f && oc24(~0u) == 1);
static_assert(oo23(0) == 0x1p-24f && oo23(~0u) == 1 - 0x1p-24f);

TEST_CASE("uniform: all 2^24 outputs of the float conversions", "[uniform]") {
  float co_max = 0, co_min = 1, oc_min = 1, oc_max = 0, oo_min = 1, oo_max = 0;
  bool exact = true;
  for (std::uint32_t k = 0; k < (1u << 24); ++k) {
    const std::uint32_t x = k << 8 | (k & 0xff);  // the lower bits must not matter, except the 9th of oo23
    const float co = co24(x), oc = oc24(x), oo = oo23(x);
    exact = exact && static_cast<double>(co) == k * 0x1p-24 && static_cast<double>(oc) == (k + 1) * 0x1p-24 &&
            static_cast<double>(oo) == ((k >> 1) + 0.5) * 0x1p-23;
    co_max = std::max(co_max, co), co_min = std::min(co_min, co);
    oc_max = std::max(oc_max, oc), oc_min = std::min(oc_min, oc);
    oo_max = std::max(oo_max, oo), oo_min = std::min(oo_min, oo);
  }
  CHECK(exact);
  CHECK((co_min == 0 && co_max < 1));
  CHECK((oc_min > 0 && oc_max == 1));
  CHECK((oo_min > 0 && oo_max < 1));
}
