#include <catch2/catch.hpp>
#include <sluice/speculate/token_law.hpp>
#include <support/allocation_counter.hpp>
#include <support/scripted.hpp>

#include "rounds.hpp"

using namespace sluice;

namespace {

template <class S>
constexpr S inf = std::numeric_limits<S>::infinity();
template <class S>
constexpr S not_a_number = std::numeric_limits<S>::quiet_NaN();

template <class S>
row_fault fault_of(row_kind kind, const std::vector<S>& values, const std::vector<token_id>& ids = {}) {
  const token_law<S> law({kind, values, ids});
  REQUIRE_FALSE(law.valid());
  return law.fault("target", 5);
}

/// n logits with a bump at `at`.
template <class S>
std::vector<S> logits(std::size_t n, std::size_t at, S bump) {
  std::vector<S> row(n);
  for (std::size_t x = 0; x < n; ++x) row[x] = static_cast<S>(3 * co53(stream(n).word(x)));
  row[at] += bump;
  return row;
}

}  // namespace

// Fails for: logits divided by a sum that is not theirs; sparse ids taken as positions; binary search in ids that do
// not ascend; log-probabilities not renormalised.
TEMPLATE_TEST_CASE("every kind of row gives its law", "[speculate]", float, double) {
  const double tolerance = std::same_as<TestType, float> ? 1e-6 : 1e-14;
  for (const row_kind kind : {row_kind::probabilities, row_kind::log_probabilities, row_kind::logits})
    for (const bool sparse : {false, true})
      for (const index_t v : {1, 2, 7, 64, 65, 1000}) {
        CAPTURE(static_cast<int>(kind), sparse, v);
        const auto row = rounds::store<TestType>(rounds::random_law(v, stream(3, static_cast<std::uint64_t>(v)), 0.3),
                                                 {kind, sparse});
        const token_law<TestType> law(row.view());
        REQUIRE(law.valid());
        CHECK(law.sparse() == sparse);
        std::vector<double> all(static_cast<std::size_t>(v), -1);
        law.probabilities(all);
        for (std::size_t x = 0; x < all.size(); ++x) {
          const auto id = static_cast<token_id>(x);
          CHECK(all[x] == Approx(row.law[x]).epsilon(tolerance));
          CHECK(law.probability(id) == all[x]);
          if (all[x] > 0)
            CHECK(law.log_probability(id) == Approx(std::log(row.law[x])).margin(tolerance * 10));
          else
            CHECK(law.log_probability(id) == -inf<double>);
        }
        CHECK(law.probability(static_cast<token_id>(v)) == 0);
      }
}

// Fails for: another element than the first bad one; a row's number lost; an infinite or NaN entry that a maximum or a
// minimum swallows, in short rows or in long ones; ids that are not compared with the values.
TEMPLATE_TEST_CASE("faults name row and element", "[speculate]", float, double) {
  using S = TestType;
  for (const std::size_t n : {std::size_t{4}, std::size_t{64}, std::size_t{65}, std::size_t{1500}})
    for (const std::size_t at : {std::size_t{0}, n / 2, n - 1}) {
      const auto element = static_cast<index_t>(at);
      for (const S bad : {not_a_number<S>, inf<S>})
        for (const row_kind kind : {row_kind::logits, row_kind::log_probabilities, row_kind::probabilities}) {
          CAPTURE(n, at, bad, static_cast<int>(kind));
          std::vector<S> row(n, kind == row_kind::probabilities       ? S(1) / static_cast<S>(n)
                                : kind == row_kind::log_probabilities ? -std::log(static_cast<S>(n))
                                                                      : S(0.5));
          row[at] = bad;
          const row_fault f = fault_of(kind, row);
          CHECK(std::string(f.argument) == "target");
          CHECK(f.row == 5);
          CHECK(f.element == element);
        }
      std::vector<S> negative(n, S(1) / static_cast<S>(n));
      negative[at] = S(-1e-9);
      CHECK(fault_of(row_kind::probabilities, negative).element == element);
      std::vector<token_id> ids(n);
      for (std::size_t j = 0; j < n; ++j) ids[j] = static_cast<token_id>(2 * j);
      ids[at] = -3;
      const row_fault f = fault_of(row_kind::logits, std::vector<S>(n, S(0)), ids);
      CHECK(f.element == element);
      CHECK(f.value == -3);
    }
  for (const std::size_t n : {std::size_t{1}, std::size_t{64}, std::size_t{1500}}) {
    CHECK(fault_of(row_kind::logits, std::vector<S>(n, -inf<S>)).element == -1);
    CHECK(fault_of(row_kind::probabilities, std::vector<S>(n, S(0))).element == -1);
    CHECK(fault_of(row_kind::probabilities, std::vector<S>(n, S(2))).value == Approx(2.0 * static_cast<double>(n)));
  }
  CHECK(fault_of(row_kind::logits, std::vector<S>{}).element == -1);
  CHECK(fault_of(row_kind::logits, std::vector<S>{0, 0, 0}, {1, 2}).value == 2);
}

// Fails for: a tolerance of the other scalar; one that is tested on one side only; logits held to it.
TEMPLATE_TEST_CASE("a row's sum may miss one by the tolerance", "[speculate]", float, double) {
  using S = TestType;
  const double tolerance = token_law<S>::tolerance;
  CHECK(tolerance == (std::same_as<S, float> ? 1e-3 : 1e-6));
  for (const double sign : {-1.0, 1.0})
    for (const std::size_t n : {std::size_t{4}, std::size_t{128}})
      for (const double part : {0.98, 1.02}) {
        const double sum = 1 + sign * part * tolerance;
        const std::vector<S> row(n, static_cast<S>(sum / static_cast<double>(n)));
        const std::vector<S> logs(n, static_cast<S>(std::log(sum / static_cast<double>(n))));
        const token_law<S> law({row_kind::probabilities, row});
        CHECK(law.valid() == (part < 1));
        if (law.valid()) CHECK(law.probability(0) == Approx(1.0 / static_cast<double>(n)).epsilon(1e-6));
        CHECK(token_law<S>({row_kind::log_probabilities, logs}).valid() == (part < 1));
        CHECK(token_law<S>({row_kind::logits, logs}).valid());
      }
}

// Fails for: a draw that returns -1 or a token without weight at the smallest or the largest uniform, in the first, a
// middle or the last block; forbidden tokens that count in a block's sum; rows beyond 131072 values whose ranges hold
// several blocks.
TEMPLATE_TEST_CASE("draws at the ends of the uniform", "[speculate]", float, double) {
  using S = TestType;
  const std::uint64_t words[] = {support::word_zero, support::word_smallest, support::word_half, support::word_largest};
  for (const std::size_t n :
       {std::size_t{5}, std::size_t{64}, std::size_t{700}, std::size_t{5000}, std::size_t{140'000}})
    for (const row_kind kind : {row_kind::logits, row_kind::probabilities}) {
      CAPTURE(n, static_cast<int>(kind));
      std::vector<S> row(n, kind == row_kind::logits ? -inf<S> : S(0));
      const std::size_t low = n / 3, high = n - 1 - n / 4;
      row[low] = row[high] = S(0.5);
      const token_law<S> law({kind, row});
      REQUIRE(law.valid());
      for (const auto a : words)
        for (const auto b : words)
          for (const auto c : words) {
            support::scripted_words random{a, b, c};
            const token_id x = law.draw(random);
            if (x != static_cast<token_id>(low) && x != static_cast<token_id>(high)) FAIL_CHECK("drew " << x);
          }
      support::scripted_words first{0}, last{support::word_largest};
      CHECK(law.draw(first) == static_cast<token_id>(low));
      CHECK(law.draw(last) == static_cast<token_id>(high));
      const token_law<S> again(token_row<S>{kind, row}, law.summarise());
      support::scripted_words other{support::word_largest};
      CHECK(again.draw(other) == static_cast<token_id>(high));
    }
}

// Fails for: partial sums of the wrong ranges beyond 256 blocks; a shift that stays at the first block's maximum though
// the row's is far away; sums kept in float.
TEMPLATE_TEST_CASE("long rows are summed within the stated error", "[speculate]", float, double) {
  using S = TestType;
  const double tolerance = std::same_as<S, float> ? 5e-7 : 1e-14;
  for (const std::size_t n : {std::size_t{65}, std::size_t{512}, std::size_t{513}, std::size_t{131'072},
                              std::size_t{131'073}, std::size_t{300'001}})
    for (const double bump : {0.0, 10.0, 200.0, -1000.0}) {
      const auto row = logits<S>(n, n - 1, static_cast<S>(bump));
      long double top = -inf<long double>, sum = 0;
      for (const S l : row) top = std::max(top, static_cast<long double>(l));
      for (const S l : row) sum += std::exp(static_cast<long double>(l) - top);
      CAPTURE(n, bump);
      const token_law<S> law({row_kind::logits, row});
      REQUIRE(law.valid());
      CHECK(std::abs(law.log_normaliser() - static_cast<double>(top + std::log(sum))) <
            tolerance + (bump > 0 ? 6e-8 * bump * (std::same_as<S, float> ? 1 : 1e-7) : 0) + 4e-16 * std::abs(bump));
      double kept = 0;
      for (const double s : law.sums()) kept += s;
      CHECK(kept == Approx(law.weight_total()).epsilon(1e-14));
      CHECK(law.sums().size() <= 256);
      CHECK(law.sum_range() % 512 == 0);
      cursor random{stream(n)};
      CHECK(support::allocations_in([&] { law.draw(random); }) == 0);
    }
}

// Fails for: an id of 2^31 - 1 that overflows; a sparse row whose highest id counts as its size.
TEST_CASE("sparse rows reach the highest token", "[speculate]") {
  constexpr token_id highest = std::numeric_limits<token_id>::max();
  const double values[] = {0.25, 0.5, 0.25};
  const token_id ids[] = {highest, 0, 17};
  const token_law<double> law({row_kind::probabilities, values, ids});
  REQUIRE(law.valid());
  CHECK(law.highest_id() == highest);
  CHECK(law.size() == 3);
  CHECK(law.probability(highest) == 0.25);
  CHECK(law.probability(0) == 0.5);
  CHECK(law.probability(16) == 0);
  support::scripted_words first{0}, last{support::word_largest};
  CHECK(law.draw(first) == highest);
  CHECK(law.draw(last) == 17);
}

// Fails for: a residual on q's support; a mass that is not that of the weights; the factors a and c exchanged.
TEMPLATE_TEST_CASE("the residual's weights and mass", "[speculate]", float, double) {
  using S = TestType;
  for (const index_t v : {5, 64, 1500})
    for (const bool sparse : {false, true}) {
      const auto p = rounds::store<S>(rounds::random_law(v, stream(91), 0.3), {row_kind::probabilities, sparse});
      const auto q = rounds::store<S>(rounds::random_law(v, stream(92), 0.3), {row_kind::logits, false});
      const token_law<S> target(p.view()), draft(q.view());
      for (const auto& [a, c] : {std::pair{1.0, 1.0}, {0.4, 1.0}, {1.0, 1.7}}) {
        residual_law<S, S> law(target, draft, a, c);
        double mass = 0;
        for (std::size_t x = 0; x < p.law.size(); ++x) mass += std::max(0.0, a * p.law[x] - c * q.law[x]);
        CHECK(law.measure() == Approx(mass).epsilon(1e-5));
        cursor random{stream(93)};
        for (int k = 0; k < 50; ++k) {
          const auto x = static_cast<std::size_t>(k % 2 == 0 ? law.draw(random) : law.draw_measured(random));
          CHECK(a * p.law[x] > c * q.law[x]);
        }
      }
    }
}
