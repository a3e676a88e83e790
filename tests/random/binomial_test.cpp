#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <sluice/random/binomial.hpp>
#include <sluice/random/stream.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <support/enumerate.hpp>
#include <support/scripted.hpp>
#include <support/statistics.hpp>
#include <vector>

// Fails for: no symmetry for p > 1/2, or a count that is not turned round; a recurrence that is off by one; rejection
// without its test, with the ratio upside down, or with Stirling's correction left out; a squeeze that is too wide.
using namespace sluice;

namespace {

/// P(0 ... n) by the recurrence from the mode, in long double, normalised.
std::vector<double> exact_law(std::int64_t n, double p) {
  std::vector<long double> f(static_cast<std::size_t>(n) + 1, 0);
  const auto mode = static_cast<std::size_t>(static_cast<double>(n) * p);
  const long double odds = static_cast<long double>(p) / (1 - static_cast<long double>(p));
  f[mode] = 1;
  for (std::size_t k = mode; k < f.size() - 1; ++k)
    f[k + 1] = f[k] * odds * static_cast<long double>(f.size() - 1 - k) / static_cast<long double>(k + 1);
  for (std::size_t k = mode; k > 0; --k)
    f[k - 1] = f[k] / odds * static_cast<long double>(k) / static_cast<long double>(f.size() - k);
  long double sum = 0;
  for (const long double v : f) sum += v;
  std::vector<double> law;
  for (const long double v : f) law.push_back(static_cast<double>(v / sum));
  return law;
}

struct parameters {
  std::int64_t n;
  double p;
};

}  // namespace

TEST_CASE("binomial: probabilities equal the recurrence", "[binomial]") {
  for (const auto& [n, p] : {parameters{1, 0.3}, {7, 0.5}, {25, 0.9}, {60, 0.01}, {400, 0.37}, {5000, 0.5}}) {
    const std::vector<double> exact = exact_law(n, p);
    const binomial_law law(n, p);
    for (std::int64_t k = 0; k <= n; ++k)
      if (exact[static_cast<std::size_t>(k)] > 1e-290)
        REQUIRE(law.pmf(k) == Approx(exact[static_cast<std::size_t>(k)]).epsilon(1e-12));
    CHECK(law.pmf(-1) == 0);
    CHECK(law.pmf(n + 1) == 0);
  }
}

TEST_CASE("binomial: probabilities keep their digits for large n", "[binomial]") {
  const std::int64_t n = std::int64_t{1} << 50;
  const double p = 0.25, sd = std::sqrt(static_cast<double>(n) * p * (1 - p));
  const binomial_law law(n, p);
  const auto mean = n / 4;
  for (const double t : {-3.0, -0.5, 0.0, 1.0, 4.0}) {
    const auto k = mean + static_cast<std::int64_t>(t * sd);
    const double z = static_cast<double>(k - mean) / sd;
    CHECK(law.pmf(k) * sd == Approx(std::exp(-z * z / 2) / std::sqrt(2 * M_PI)).epsilon(1e-5));
  }
}

TEST_CASE("binomial: draws have the exact law", "[binomial][statistical]") {
  // Inversion, rejection, both sides of the boundary m = 10, both sides of p = 1/2.  200 000 draws show a law that is
  // off by w = 0.03 (see n w^2 in the sample-size table).
  std::uint64_t id = 0;
  for (const auto& [n, p] : {parameters{1, 0.3},
                             {5, 0.5},
                             {12, 0.8},
                             {40, 0.249},
                             {40, 0.251},
                             {20, 0.5},
                             {30, 0.55},
                             {100, 0.3},
                             {1000, 0.97},
                             {10000, 0.004}}) {
    const binomial_law law(n, p);
    cursor random(stream(20240901, ++id));
    std::vector<std::uint64_t> observed(static_cast<std::size_t>(n) + 1);
    for (int i = 0; i < 200000; ++i) {
      ++observed.at(static_cast<std::size_t>(law(random)));
    }
    const auto result = support::fits(observed, exact_law(n, p));
    INFO("n = " << n << ", p = " << p << ": " << result.describe());
    CHECK(result.passes_both_tails());
  }
}

TEST_CASE("binomial: mean and variance for n = 2^53", "[binomial][statistical]") {
  const double n = 0x1p53, p = 0.7, draws = 20000;
  const binomial_law law(std::int64_t{1} << 53, p);
  cursor random(stream(20240902));
  double sum = 0, squares = 0;
  for (int i = 0; i < static_cast<int>(draws); ++i) {
    const double z = (static_cast<double>(law(random)) - n * p) / std::sqrt(n * p * (1 - p));
    sum += z;
    squares += z * z;
  }
  CHECK(std::abs(sum / std::sqrt(draws)) < support::house_z);
  CHECK(std::abs((squares / draws - 1) / std::sqrt(2 / draws)) < support::house_z);
}

TEST_CASE("binomial: boundary words stay in the range and end", "[binomial]") {
  using support::word_largest, support::word_zero;
  for (const auto& [n, p] : {parameters{1, 0.5}, {19, 0.5}, {100, 0.05}, {std::int64_t{1} << 53, 0x1p-50}}) {
    support::scripted_words zero{word_zero}, largest{word_largest};
    CHECK(binomial(n, p, zero) == 0);
    const std::int64_t k = binomial(n, p, largest);
    CHECK((k > 0 && k <= std::min<std::int64_t>(n, 80)));
    CHECK(largest.used() == 1);
  }
  support::scripted_words extremes{word_zero, word_largest,       word_largest,
                                   word_zero, support::word_half, support::word_half};
  for (int i = 0; i < 12; ++i) {
    const std::int64_t k = binomial(50, 0.4, extremes);
    CHECK((k >= 0 && k <= 50));
  }
}

TEST_CASE("binomial: where only one count is possible no word is taken", "[binomial]") {
  support::scripted_words words{1};
  CHECK(binomial(0, 0.3, words) == 0);
  CHECK(binomial(9, 0.0, words) == 0);
  CHECK(binomial(9, 1.0, words) == 9);
  CHECK(binomial(1000, 1.0, words) == 1000);
  CHECK(words.used() == 0);
  CHECK(binomial_law(9, 1.0).pmf(9) == 1);
  CHECK(binomial_law(9, 1.0).pmf(8) == 0);
  CHECK(binomial_law(0, 0.5).pmf(0) == 1);
}

TEST_CASE("binomial: bad input is refused", "[binomial]") {
  support::scripted_words words{1};
  SLUICE_CHECK_THROWS(binomial(-1, 0.5, words), "binomial", "n", -1);
  SLUICE_CHECK_THROWS(binomial((std::int64_t{1} << 53) + 1, 0.5, words), "binomial", "n", -1);
  SLUICE_CHECK_THROWS(binomial(3, -0.1, words), "binomial", "p", -1);
  SLUICE_CHECK_THROWS(binomial(3, 1.1, words), "binomial", "p", -1);
  SLUICE_CHECK_THROWS(binomial(3, std::nan(""), words), "binomial", "p", -1);
  CHECK(words.used() == 0);
}

TEST_CASE("binomial: a decision source is asked for the law itself", "[binomial]") {
  for (const double p : {0.2, 0.7}) {
    const auto law = support::enumerate([p](auto& random) { return binomial(6, p, random); });
    const std::vector<double> exact = exact_law(6, p);
    for (std::int64_t k = 0; k <= 6; ++k)
      CHECK(law.probability(k) == Approx(exact[static_cast<std::size_t>(k)]).epsilon(1e-13));
  }
}
