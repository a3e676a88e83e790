#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <set>
#include <sluice/random/halton.hpp>
#include <support/check_throws.hpp>
#include <vector>

// Fails for: an index from 1, digits that are not reversed, a floating-point sum that rounds, a table of primes that
// skips one, one permutation for all positions or dimensions, a permutation that is not one, a coordinate of 0 or 1.
using namespace sluice;

TEST_CASE("radical_inverse: exact", "[halton]") {
  CHECK(radical_inverse(0, 2) == 0);
  CHECK(radical_inverse(6, 2) == 0.375);
  CHECK(radical_inverse(1, 3) == 1.0 / 3);
  CHECK(radical_inverse(14, 3) == 22.0 / 27);
  CHECK(radical_inverse(15, 7) == 9.0 / 49);
  CHECK(radical_inverse(14, 7) == 2.0 / 49);
  CHECK(radical_inverse(std::uint64_t{1} << 40, 2) == 0x1p-41);
  // Beyond 2^53: all digits 1 in base 2, all digits 2 in base 3, still below 1.
  CHECK(radical_inverse(~std::uint64_t{0}, 2) == 1 - 0x1p-53);
  CHECK(radical_inverse(12157665459056928800u, 3) < 1);
  CHECK(radical_inverse(12157665459056928800u, 3) == 1 - 0x1p-53);
  CHECK(radical_inverse(12157665459056928800u - 2, 3) == Approx(1.0 / 3).epsilon(1e-15));
  SLUICE_CHECK_THROWS(radical_inverse(3, 1), "radical_inverse", "base", -1);
  SLUICE_CHECK_THROWS(radical_inverse(3, 0), "radical_inverse", "base", -1);
}

TEST_CASE("halton: the first primes", "[halton]") {
  const halton points(12);
  const std::uint32_t primes[] = {2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37};
  for (index_t d = 0; d < 12; ++d) {
    CHECK(points.base(d) == primes[d]);
    for (std::uint64_t i = 0; i < 50; ++i) REQUIRE(points.at(i, d) == radical_inverse(i, primes[d]));
  }
  CHECK(halton(6542).base(6541) == 65521);
}

TEST_CASE("halton: base^m points from a multiple of base^m are stratified, randomised or not", "[halton]") {
  const std::vector<std::uint32_t> bases = {2, 3, 5, 7};
  for (const bool randomised : {false, true}) {
    const halton points = randomised ? halton(bases, stream(9)) : halton(bases);
    for (index_t d = 0; d < 4; ++d) {
      const std::uint64_t b = bases[static_cast<std::size_t>(d)];
      for (const std::uint64_t n : {b, b * b, b * b * b})
        for (const std::uint64_t block : {0u, 1u, 3u, 100u}) {
          std::set<std::uint64_t> cells;
          for (std::uint64_t i = block * n; i < (block + 1) * n; ++i)
            cells.insert(static_cast<std::uint64_t>(points.at(i, d) * static_cast<double>(n) + 1e-9));
          REQUIRE(cells.size() == n);
        }
    }
  }
}

TEST_CASE("halton: randomised coordinates are uniform and open", "[halton]") {
  // Point 0 has only zeros for digits: plain, the corner; randomised, uniform.  z of the mean over 4000 keys.
  for (const index_t d : {index_t{0}, index_t{1}, index_t{20}}) {
    double sum = 0, squares = 0;
    const int keys = 4000;
    for (int k = 0; k < keys; ++k) {
      const halton points(d + 1, stream(10).derive(static_cast<std::uint64_t>(k)));
      const double x = points.at(0, d);
      REQUIRE((x > 0 && x < 1));
      sum += x - 0.5;
      squares += (x - 0.5) * (x - 0.5);
    }
    CHECK(std::abs(sum) / std::sqrt(keys / 12.0) < 5.5);
    CHECK(std::abs(squares / keys - 1.0 / 12) < 5.5 * std::sqrt(1.0 / 180 / keys));
  }
  // Every dimension has permutations of its own: two of the same base differ.
  const halton twins(std::vector<std::uint32_t>{3, 3}, stream(13));
  CHECK(twins.at(0, 0) != twins.at(0, 1));
  // All digit positions move: two indices that differ in one high digit differ by a permuted digit, not by the plain
  // one.
  const halton plain(std::vector<std::uint32_t>{7}), moved(std::vector<std::uint32_t>{7}, stream(11));
  std::set<int> changes;
  for (std::uint64_t power = 1; power < 100000; power *= 7)
    for (std::uint64_t digit = 1; digit < 7; ++digit)
      changes.insert(static_cast<int>(
          std::lround((moved.at(digit * power, 0) - moved.at(0, 0)) * static_cast<double>(7 * power))));
  CHECK(changes.size() > 6);
}

TEST_CASE("halton: randomised, high dimensions are no longer correlated", "[halton]") {
  // Dimensions 29 and 30 (bases 109 and 113): the first 100 plain points lie on a line.
  const auto correlation = [](const halton& points) {
    double xy = 0;
    for (std::uint64_t i = 0; i < 100; ++i) xy += (points.at(i, 28) - 0.5) * (points.at(i, 29) - 0.5) * 12 / 100;
    return xy;
  };
  CHECK(correlation(halton(30)) > 0.8);
  CHECK(std::abs(correlation(halton(30, stream(12)))) < 0.55);
}

TEST_CASE("halton: a fill is random access; bad input is refused", "[halton]") {
  for (const bool randomised : {false, true}) {
    const halton points = randomised ? halton(3, stream(4)) : halton(3);
    std::vector<double> x(3 * 20);
    points.fill(x, 17);
    for (std::uint64_t i = 0; i < 20; ++i)
      for (index_t d = 0; d < 3; ++d) REQUIRE(x[3 * i + static_cast<std::size_t>(d)] == points.at(17 + i, d));
  }
  SLUICE_CHECK_THROWS(halton(0), "halton", "dimensions", -1);
  SLUICE_CHECK_THROWS(halton(6543), "halton", "dimensions", -1);
  const std::vector<std::uint32_t> none, bad = {2, 3, 1}, large = {65537};
  SLUICE_CHECK_THROWS(halton(none), "halton", "bases.size", -1);
  SLUICE_CHECK_THROWS((halton(bad)), "halton", "bases", 2);
  SLUICE_CHECK_THROWS((halton(large)), "halton", "bases", 0);
  const halton plain(2), moved(2, stream(1));
  SLUICE_CHECK_THROWS(plain.at(0, 2), "halton", "d", -1);
  SLUICE_CHECK_THROWS(plain.base(-1), "halton", "d", -1);
  SLUICE_CHECK_THROWS(moved.at(std::uint64_t{1} << 52, 0), "halton", "i", -1);
  std::vector<double> x(5, 1.0);
  SLUICE_CHECK_THROWS(plain.fill(x), "halton::fill", "out.size", -1);
  SLUICE_CHECK_THROWS(moved.fill(std::span(x).first(4), (std::uint64_t{1} << 52) - 1), "halton::fill", "first", -1);
  CHECK(x == std::vector<double>(5, 1.0));
}
