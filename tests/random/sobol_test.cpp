#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <set>
#include <sluice/random/distributions.hpp>
#include <sluice/random/sobol.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <vector>

// Fails for: a wrong direction number, natural order for Gray-code order, a dropped first point, a fill that flips the
// wrong bit, a shift or scramble that is the same in all dimensions or that moves points between dyadic intervals, a
// scramble that hashes the word without reversing it.
using namespace sluice;

namespace {

constexpr index_t dims = 8;

/// One point of the block in each dyadic interval of length 1/n, in each dimension.
bool is_stratified(const sobol& points, std::uint64_t first, std::uint64_t n) {
  std::vector<double> x(n * dims);
  points.fill(x, first);
  for (std::size_t d = 0; d < dims; ++d) {
    std::set<std::uint64_t> cells;
    for (std::size_t i = 0; i < n; ++i)
      cells.insert(static_cast<std::uint64_t>(x[i * dims + d] * static_cast<double>(n)));
    if (cells.size() != n) return false;
  }
  return true;
}

/// Mean over the first 2^12 points of prod (1 + (x_j - 1/2)), less its integral 1.
double integration_error(const sobol& points) {
  std::vector<double> x(4096 * dims);
  points.fill(x);
  double sum = 0;
  for (std::size_t i = 0; i < 4096; ++i) {
    double product = 1;
    for (std::size_t d = 0; d < dims; ++d) product *= 0.5 + x[i * dims + d];
    sum += product;
  }
  return sum / 4096 - 1;
}

const stream key{77};

}  // namespace

TEST_CASE("sobol: the first points in Gray-code order", "[sobol]") {
  const sobol points(dims);
  const double second[] = {0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5};
  const double tenth[] = {0.6875, 0.8125, 0.4375, 0.9375, 0.0625, 0.8125, 0.9375, 0.4375};
  for (index_t d = 0; d < dims; ++d) {
    CHECK(points.at(0, d) == 0);
    CHECK(points.at(1, d) == second[d]);
    CHECK(points.at(9, d) == tenth[d]);
  }
}

TEST_CASE("sobol: every aligned block is stratified in every dimension, randomised or not", "[sobol]") {
  for (const randomise how : {randomise::none, randomise::digital_shift, randomise::owen}) {
    const sobol points(dims, how, key);
    for (const std::uint64_t n : {2u, 8u, 64u, 1024u})
      for (const std::uint64_t block : {0u, 1u, 2u, 5u, 1023u}) REQUIRE(is_stratified(points, block * n, n));
    REQUIRE(is_stratified(points, (std::uint64_t{1} << 32) - 256, 256));
    // A block that is not aligned is not.
    if (how == randomise::none) CHECK_FALSE(is_stratified(points, 1, 64));
  }
}

TEST_CASE("sobol: a fill is random access, from any first point", "[sobol]") {
  for (const randomise how : {randomise::none, randomise::digital_shift, randomise::owen}) {
    const sobol points(5, how, key);
    for (const std::uint64_t first :
         {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{63}, std::uint64_t{0xfffffff0}}) {
      std::vector<double> x(16 * 5);
      points.fill(x, first);
      for (std::uint64_t i = 0; i < 16; ++i)
        for (index_t d = 0; d < 5; ++d) REQUIRE(x[i * 5 + static_cast<std::size_t>(d)] == points.at(first + i, d));
    }
  }
}

TEST_CASE("sobol: integration error in eight dimensions", "[sobol][statistical]") {
  // Measured: 2.9e-4 plain, 5.8e-4 root mean square scrambled, 1.25e-2 Monte Carlo.
  CHECK(std::abs(integration_error(sobol(dims))) < 1e-3);
  double squares = 0, sum = 0;
  for (std::uint64_t r = 0; r < 50; ++r) {
    const double error = integration_error(sobol(dims, randomise::owen, key.derive(r)));
    squares += error * error;
    sum += error;
  }
  CHECK(std::sqrt(squares / 50) < 2e-3);
  CHECK(std::sqrt(squares / 50) > 1e-5);  // the repetitions do differ
  CHECK(std::abs(sum / 50) < 6 * std::sqrt(squares / 50 / 50));
}

TEST_CASE("sobol: randomised points are uniform, open, and differ by dimension", "[sobol]") {
  for (const randomise how : {randomise::digital_shift, randomise::owen}) {
    // The first point over many keys: its bits are fair coins (|z| < 5.5), also the lowest ones.
    const int keys = 4000;
    for (const index_t d : {index_t{0}, index_t{3}}) {
      std::vector<int> ones(32);
      int equal = 0;
      for (int k = 0; k < keys; ++k) {
        const sobol points(4, how, key.derive(static_cast<std::uint64_t>(k)));
        const std::uint32_t w = points.word(0, d);
        for (std::size_t b = 0; b < 32; ++b) ones[b] += static_cast<int>(w >> b & 1);
        equal += w == points.word(0, 1);
        REQUIRE((points.at(0, d) > 0 && points.at(0, d) < 1));
      }
      for (const int n : ones) CHECK(std::abs(n - keys / 2.0) < 5.5 * std::sqrt(keys / 4.0));
      CHECK(equal == 0);
    }
  }
  const sobol shifted(2, randomise::digital_shift, key), plain(2);
  for (std::uint64_t i = 0; i < 100; ++i) CHECK((shifted.word(i, 1) ^ plain.word(i, 1)) == shifted.word(0, 1));
}

TEST_CASE("sobol: rows of one's own", "[sobol]") {
  const std::vector<sobol_row> rows = {{0, {1}}, {1, {1, 3}}, {1, {1, 3, 1}}};
  const sobol mine(rows), built_in(4);
  CHECK(mine.dimensions() == 4);
  for (std::uint64_t i = 0; i < 200; ++i)
    for (index_t d = 0; d < 4; ++d) REQUIRE(mine.word(i, d) == built_in.word(i, d));
  CHECK(sobol(std::span<const sobol_row>{}).dimensions() == 1);
  const auto make = [](std::uint32_t a, std::vector<std::uint32_t> m) {
    const std::vector<sobol_row> one = {{0, {1}}, {a, std::move(m)}};
    sobol unused(one);
  };
  SLUICE_CHECK_THROWS(make(0, {}), "sobol", "rows.m.size", 1);
  SLUICE_CHECK_THROWS(make(0, std::vector<std::uint32_t>(33, 1)), "sobol", "rows.m.size", 1);
  SLUICE_CHECK_THROWS(make(2, {1, 3}), "sobol", "rows.a", 1);
  SLUICE_CHECK_THROWS(make(1, {1, 2}), "sobol", "rows.m", 1);
  SLUICE_CHECK_THROWS(make(1, {1, 5}), "sobol", "rows.m", 1);
}

TEST_CASE("sobol: bad input is refused, a fill allocates nothing", "[sobol]") {
  SLUICE_CHECK_THROWS(sobol(0), "sobol", "dimensions", -1);
  SLUICE_CHECK_THROWS(sobol(9), "sobol", "dimensions", -1);
  const sobol points(3);
  SLUICE_CHECK_THROWS(points.at(0, 3), "sobol", "d", -1);
  SLUICE_CHECK_THROWS(points.at(0, -1), "sobol", "d", -1);
  SLUICE_CHECK_THROWS(points.at(std::uint64_t{1} << 32, 0), "sobol", "i", -1);
  std::vector<double> x(9, 5.0);
  SLUICE_CHECK_THROWS(points.fill(std::span(x).first(8)), "sobol::fill", "out.size", -1);
  SLUICE_CHECK_THROWS(points.fill(x, (std::uint64_t{1} << 32) - 2), "sobol::fill", "first", -1);
  CHECK(x == std::vector<double>(9, 5.0));
  points.fill(std::span(x).first(0), 3);
  CHECK(support::allocations_in([&] { points.fill(x, 0xfffffffd); }) == 0);
}
