#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <map>
#include <numeric>
#include <sluice/random/binomial.hpp>
#include <sluice/random/stream.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <support/enumerate.hpp>
#include <support/scripted.hpp>
#include <support/statistics.hpp>
#include <vector>

// Fails for: probabilities that are not divided by what is left, trials that are not subtracted, a last category that
// gets none or that gets the rest although its probability is 0; ordered uniforms with the exponent 1/n or 1/(n-j-1)
// for 1/(n-j), or compared with sums that include the next category.
using namespace sluice;
using counts = std::vector<std::int64_t>;

namespace {

/// n!/(c_0! ... c_{K-1}!) p_0^c_0 ... for all counts with sum n.
std::map<counts, double> exact_law(std::int64_t n, const std::vector<double>& p) {
  std::map<counts, double> law;
  counts c(p.size());
  const auto visit = [&](const auto& self, std::size_t i, std::int64_t left, double probability) -> void {
    if (i + 1 == p.size()) {
      for (std::int64_t j = 1; j <= left; ++j) probability *= p[i];
      c[i] = left;
      law[c] += probability;
      return;
    }
    double choose = 1, power = 1;  // left over c_i, p_i^c_i
    for (std::int64_t k = 0; k <= left; ++k) {
      c[i] = k;
      self(self, i + 1, left - k, probability * choose * power);
      choose = choose * static_cast<double>(left - k) / static_cast<double>(k + 1);
      power *= p[i];
    }
  };
  visit(visit, 0, n, 1);
  return law;
}

struct setting {
  std::int64_t n;
  std::vector<double> p;
};
// The first two by conditional binomials, the others by ordered uniforms.
const std::vector<setting> settings = {
    {4, {0.2, 0.5, 0, 0.3}}, {5, {0.6, 0.1, 0.3}}, {3, {0.1, 0.2, 0.3, 0.15, 0.25}}, {2, {0, 0.5, 0.25, 0.25, 0}}};

}  // namespace

TEST_CASE("multinomial: the exact law, by enumeration", "[multinomial]") {
  for (const auto& [n, p] : settings) {
    const auto law = support::enumerate([&](auto& random) { return multinomial(n, p, random); });
    CHECK(support::largest_difference(law.law, exact_law(n, p)) < 1e-14);
    CHECK(law.total == Approx(1).epsilon(1e-13));
  }
}

TEST_CASE("multinomial: draws have the exact law", "[multinomial][statistical]") {
  std::uint64_t id = 0;
  for (const auto& [n, p] : settings) {
    std::map<counts, std::uint64_t> seen;
    cursor random(stream(20240903, ++id));
    for (int i = 0; i < 200000; ++i) ++seen[multinomial(n, p, random)];
    std::vector<std::uint64_t> observed;
    std::vector<double> law;
    for (const auto& [c, probability] : exact_law(n, p)) {
      observed.push_back(seen[c]);
      law.push_back(probability);
    }
    CHECK(seen.size() == law.size());  // so nothing impossible was drawn
    const auto result = support::fits(observed, law);
    INFO("n = " << n << ": " << result.describe());
    CHECK(result.passes_both_tails());
  }
}

TEST_CASE("multinomial: counts sum to n, categories of probability zero stay empty", "[multinomial]") {
  cursor random(stream(20240904));
  for (const std::size_t k : {1u, 2u, 50u, 1000u}) {
    std::vector<double> p(k);
    for (std::size_t i = 0; i < k; ++i) p[i] = i % 3 == 1 ? 0 : 1.0 / static_cast<double>(i + 1);
    const double sum = std::accumulate(p.begin(), p.end(), 0.0);
    for (double& v : p) v /= sum * (1 + 1e-15);
    for (const std::int64_t n : {0, 1, 7, 49, 51, 999, 1001, 1000000}) {
      const counts c = multinomial(n, p, random);
      CHECK(std::accumulate(c.begin(), c.end(), std::int64_t{0}) == n);
      for (std::size_t i = 0; i < k; ++i)
        if (p[i] == 0) REQUIRE(c[i] == 0);
    }
  }
}

TEST_CASE("multinomial: boundary words, and what the sum lacks of one", "[multinomial]") {
  support::scripted_words zero{support::word_zero}, largest{support::word_largest};
  const std::vector<double> p{0, 0.25, 0, 0.25, 0.5, 0};
  for (const std::int64_t n : {1, 2, 5}) {  // ordered uniforms: v is oc53, so the word 0 is the largest uniform
    CHECK(multinomial(n, p, zero) == counts{0, 0, 0, 0, n, 0});
    CHECK(multinomial(n, p, largest) == counts{0, n, 0, 0, 0, 0});
  }
  const std::vector<double> tenths(10, 0.1);  // their running sum ends below 1
  CHECK(multinomial(3, tenths, zero) == counts{0, 0, 0, 0, 0, 0, 0, 0, 0, 3});
  CHECK(multinomial(40, std::vector<double>{0.25, 0}, zero) == counts{40, 0});
  CHECK(multinomial(2, std::vector<double>{0, 0, 0.125}, largest) == counts{0, 0, 2});
  CHECK(conditional_probabilities(std::vector<double>{0.2, 0.5, 0, 0.3})[1] == Approx(0.625));
  CHECK(conditional_probabilities(std::vector<double>{0.5, 0.5 + 1e-10, 0}) == std::vector<double>{0.5, 1, 0});
}

TEST_CASE("multinomial: bad input is refused, nothing changes", "[multinomial]") {
  support::scripted_words words{1};
  counts c{7, 8};
  const auto into = [&](std::int64_t n, std::vector<double> p) {
    multinomial_into(std::span<std::int64_t>(c), n, std::span<const double>(p), words);
  };
  SLUICE_CHECK_THROWS(into(-1, {0.5, 0.5}), "multinomial", "n", -1);
  SLUICE_CHECK_THROWS(into(3, {0.5, -0.5}), "multinomial", "p", 1);
  SLUICE_CHECK_THROWS(into(3, {1.5, 0}), "multinomial", "p", 0);
  SLUICE_CHECK_THROWS(into(3, {0, std::nan("")}), "multinomial", "p", 1);
  SLUICE_CHECK_THROWS(into(3, {0.6, 0.5}), "multinomial", "sum of p", -1);
  SLUICE_CHECK_THROWS(into(3, {0, 0}), "multinomial", "sum of p", -1);
  SLUICE_CHECK_THROWS(into(3, {1}), "multinomial", "counts.size", -1);
  SLUICE_CHECK_THROWS(multinomial(1, std::vector<double>{}, words), "multinomial", "sum of p", -1);
  CHECK(c == counts{7, 8});
  CHECK(words.used() == 0);
  CHECK(multinomial(0, std::vector<double>{}, words).empty());
  CHECK(multinomial(0, std::vector<double>{0, 0}, words) == counts{0, 0});
}

TEST_CASE("multinomial: drawing into counts allocates nothing", "[multinomial]") {
  cursor random(stream(3));
  const std::vector<double> p{0.2, 0.3, 0.1, 0.4};
  counts c(4);
  CHECK(support::allocations_in([&] {
          for (const std::int64_t n : {2, 4, 100, 100000})
            multinomial_into(std::span<std::int64_t>(c), n, std::span<const double>(p), random);
        }) == 0);
}
