#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <numeric>
#include <sluice/random/stream.hpp>
#include <sluice/random/uniform.hpp>
#include <sluice/speculate/logit_processors.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>

using namespace sluice;

namespace {

constexpr double inf = std::numeric_limits<double>::infinity();
constexpr std::span<const token_id> no_context{};

std::vector<double> random_logits(std::size_t v, std::uint64_t id, double spread, int ties) {
  const stream key(11, id);
  std::vector<double> row(v);
  for (std::size_t x = 0; x < v; ++x) {
    row[x] =
        spread * (std::sqrt(-2 * std::log(oo52(key.word(2 * x)))) * std::cos(6.2831853 * co53(key.word(2 * x + 1))));
    if (ties > 0) row[x] = std::round(row[x] * ties) / ties;
  }
  return row;
}

std::vector<std::size_t> sorted_tokens(const std::vector<double>& row) {
  std::vector<std::size_t> order(row.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return row[a] > row[b]; });
  return order;
}

std::vector<double> keep_first(const std::vector<double>& row, std::size_t n) {
  std::vector<double> kept(row.size(), -inf);
  const auto order = sorted_tokens(row);
  for (std::size_t i = 0; i < n; ++i) kept[order[i]] = row[order[i]];
  return kept;
}

std::vector<double> top_p_by_sorting(const std::vector<double>& row, double p) {
  const auto order = sorted_tokens(row);
  double total = 0, sum = 0;
  for (const double v : row) total += std::exp(v - row[order[0]]);
  std::size_t n = 0;
  while (n < row.size() && sum < p * total) sum += std::exp(row[order[n++]] - row[order[0]]);
  return keep_first(row, n);
}

/// `kept` is a prefix in the order (-logit, id) whose mass reaches p and without its last token does not. The mass is
/// computed in long double; a row's sums in double may miss it by 1e-12 of the total, so where the cumulative mass
/// meets p that closely either side is legal, and nowhere else.
void check_nucleus(const std::vector<double>& kept, const std::vector<double>& row, double p) {
  const auto order = sorted_tokens(row);
  std::size_t n = 0;
  for (const double v : kept) n += v != -inf;
  REQUIRE(n >= 1);
  CHECK(kept == keep_first(row, n));
  long double total = 0, sum = 0, last = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const long double w = std::exp(static_cast<long double>(row[order[i]]) - static_cast<long double>(row[order[0]]));
    total += w;
    if (i < n) sum += last = w;
  }
  CHECK(static_cast<double>(sum / total) >= p - 1e-12);
  if (n > 1) CHECK(static_cast<double>((sum - last) / total) < p + 1e-12);
}

template <class P>
std::vector<double> processed(const P& processor, std::vector<double> row, std::span<const token_id> context = {}) {
  processor.process(row, context);
  return row;
}

}  // namespace

// Fails for: all ties kept, the higher id kept, k - 1 or k + 1 tokens.
TEST_CASE("top_k keeps exactly k tokens, the lower ids among equals", "[speculate]") {
  for (const std::size_t v : {1u, 2u, 7u, 300u, 5000u, 40000u})
    for (const int ties : {0, 1, 8}) {
      const auto row = random_logits(v, v, 4, ties);
      for (const index_t k : {1, 2, 3, 50, 256, 257, 4999, 20000}) {
        if (k >= static_cast<index_t>(v)) continue;
        CHECK(processed(top_k{k}, row) == keep_first(row, static_cast<std::size_t>(k)));
      }
      CHECK(processed(top_k{0}, row) == row);
      CHECK(processed(top_k{static_cast<index_t>(v)}, row) == row);
    }
  std::vector<double> equal(1000, 0.5);
  CHECK(processed(top_k{10}, equal) == keep_first(equal, 10));
}

// Fails for: the token that crosses left out; probabilities not renormalised on the survivors; ties by the higher id; a
// candidate floor that cuts the nucleus.
TEST_CASE("top_p is the shortest prefix that reaches p", "[speculate]") {
  for (const std::size_t v : {1u, 5u, 300u, 5000u, 40000u})
    for (const int ties : {0, 3})
      for (const double spread : {0.0, 0.01, 1.0, 6.0, 40.0}) {
        const auto row = random_logits(v, v + 1, spread, ties);
        for (const double p : {1e-9, 0.1, 0.5, 0.9, 0.95, 0.999, 0.9999999}) {
          INFO("V " << v << " ties " << ties << " spread " << spread << " p " << p);
          check_nucleus(processed(top_p{p}, row), row, p);
        }
        CHECK(processed(top_p{1.0}, row) == row);
      }
  const std::vector<double> row = {std::log(0.5), std::log(0.25), std::log(0.25)};
  CHECK(processed(top_p{0.5 + 1e-9}, row) == keep_first(row, 2));
  const std::vector<double> survivors = {std::log(0.4), std::log(0.3), -inf, std::log(0.1)};  // 0.5, 0.375, -, 0.125
  CHECK(processed(top_p{0.87}, survivors) == keep_first(survivors, 2));
  CHECK(processed(top_p{0.88}, survivors) == survivors);
}

TEST_CASE("truncations survive values on very different scales", "[speculate]") {
  std::vector<double> row = random_logits(3000, 4, 2, 0);
  for (std::size_t x = 0; x < row.size(); x += 7) row[x] = -1e30;
  for (std::size_t x = 0; x < row.size(); x += 11) row[x] = -1e9 - static_cast<double>(x);
  for (std::size_t x = 0; x < row.size(); x += 13) row[x] = -inf;
  for (const index_t k : {1, 100, 1500, 2500})
    CHECK(processed(top_k{k}, row) == keep_first(row, static_cast<std::size_t>(k)));
  CHECK(processed(top_p{0.9}, row) == top_p_by_sorting(row, 0.9));
  std::vector<double> exponents(700);
  for (std::size_t x = 0; x < exponents.size(); ++x) exponents[x] = -std::exp2(static_cast<double>(x % 350));
  CHECK(processed(top_k{123}, exponents) == keep_first(exponents, 123));
}

// Fails for: an interval whose width is infinite or subnormal taken as one that cannot be divided (memory for all of
// it, or a loop without end).
TEST_CASE("truncations divide the widest and the narrowest interval without memory", "[speculate]") {
  std::vector<double> wide(3000), narrow(3000), apart(3000);
  for (std::size_t x = 0; x < wide.size(); ++x) {
    const double u = static_cast<double>(x * 701 % 3000) / 3000;
    wide[x] = 1.7e308 * (2 * u - 1);
    narrow[x] = std::numeric_limits<double>::denorm_min() * static_cast<double>(x * 701 % 1500);
    apart[x] = x % 2 == 0 ? 1.7e308 : -1.7e308;
  }
  for (const auto& row : {wide, narrow, apart})
    for (const index_t k : {1, 300, 1499, 2999}) {
      CHECK(processed(top_k{k}, row) == keep_first(row, static_cast<std::size_t>(k)));
      auto scratch = row;
      CHECK(support::allocations_in([&] { top_k{k}.process(scratch, no_context); }) == 0);
    }
  auto scratch = narrow;
  CHECK(support::allocations_in([&] { top_p{0.5}.process(scratch, no_context); }) == 0);
  check_nucleus(scratch, narrow, 0.5);
}

// Fails for: > for >=, a threshold relative to 1 instead of the largest probability.
TEST_CASE("min_p compares with the largest probability", "[speculate]") {
  const std::vector<double> row = {std::log(0.5), std::log(0.05), std::log(0.049), -inf, std::log(0.4)};
  const auto got = processed(min_p{0.1}, row);
  CHECK(got[0] == row[0]);
  CHECK(got[2] == -inf);
  CHECK(got[4] == row[4]);
  CHECK(processed(min_p{0.0}, row) == row);
  CHECK(processed(min_p{1.0}, row) == std::vector<double>{row[0], -inf, -inf, -inf, -inf});
  const std::vector<double> ties = {1.0, 1.0, 0.0};
  CHECK(processed(min_p{1.0}, ties) == std::vector<double>{1.0, 1.0, -inf});
}

// Fails for: l T; the highest id at temperature 0; all ties kept at temperature 0.
TEST_CASE("temperature divides, and chooses at zero", "[speculate]") {
  const std::vector<double> row = {1.0, 3.0, 3.0, -inf};
  CHECK(processed(temperature{0.5}, row) == std::vector<double>{2.0, 6.0, 6.0, -inf});
  CHECK(processed(temperature{1.0}, row) == row);
  CHECK(processed(temperature{0.0}, row) == std::vector<double>{-inf, 3.0, -inf, -inf});
  CHECK(processed(temperature{1e-310}, row) == std::vector<double>{-inf, 3.0, -inf, -inf});
}

// Fails for: a negative logit divided; a token penalised once for each occurrence; the window taken from the front.
TEST_CASE("penalties follow the context", "[speculate]") {
  const std::vector<double> row = {2.0, -2.0, 1.0, 0.5};
  const token_id context[] = {3, 0, 1, 0};
  CHECK(processed(penalties{.repetition = 2}, row, context) == std::vector<double>{1.0, -4.0, 1.0, 0.25});
  CHECK(processed(penalties{.presence = 1}, row, context) == std::vector<double>{1.0, -3.0, 1.0, -0.5});
  CHECK(processed(penalties{.frequency = 1}, row, context) == std::vector<double>{0.0, -3.0, 1.0, -0.5});
  CHECK(processed(penalties{.frequency = 1, .window = 2}, row, context) == std::vector<double>{1.0, -3.0, 1.0, 0.5});
  std::vector<token_id> lengthy(2000, 2);
  CHECK(processed(penalties{.frequency = 0.25, .window = 0}, row, lengthy)[2] == 1.0 - 500.0);
  CHECK(processed(penalties{.repetition = 2}, row) == row);
}

TEST_CASE("masks forbid, chains compose, the order matters", "[speculate]") {
  const std::vector<double> row = {0.0, 1.0, 2.0, 3.0};
  const std::uint64_t bits[1] = {0b0110};
  CHECK(processed(token_mask{bits}, row) == std::vector<double>{-inf, 1.0, 2.0, -inf});
  const token_id context[] = {2};
  const grammar_mask successor{[](std::span<const token_id> c, token_id x) { return x > c.back(); }};
  CHECK(processed(successor, row, context) == std::vector<double>{-inf, -inf, -inf, 3.0});

  const processor_chain chain(temperature{0.5}, top_p{0.9});
  const processor_chain reversed(top_p{0.9}, temperature{0.5});
  processor_list list;
  list.add(temperature{0.5}).add(top_p{0.9});
  CHECK(processed(chain, row) == processed(list, row));
  CHECK(processed(chain, row) != processed(reversed, row));
  CHECK(processed(sampling_options{.temperature = 0.5, .top_p = 0.9}, row) == processed(chain, row));
  const processor_chain nested(chain, token_mask{bits});
  CHECK(processed(nested, row) == std::vector<double>{-inf, -inf, 4.0, -inf});
}

TEST_CASE("a processed row is sparse after a truncation", "[speculate]") {
  const float values[] = {1.0f, 5.0f, 3.0f, 2.0f};
  processed_row scratch;
  const auto row = scratch.apply(top_k{2}, token_row<float>{row_kind::logits, values}, 4, {});
  CHECK(row.kind == row_kind::logits);
  CHECK(std::vector<token_id>(row.ids.begin(), row.ids.end()) == std::vector<token_id>{1, 2});
  CHECK(std::vector<double>(row.values.begin(), row.values.end()) == std::vector<double>{5.0, 3.0});
  const auto whole = scratch.apply(top_k{0}, token_row<float>{row_kind::logits, values}, 4, {});
  CHECK(whole.ids.empty());
  CHECK(whole.values.size() == 4);
  const double probabilities[] = {0.25, 0.75};
  const token_id ids[] = {3, 1};
  const auto sparse =
      scratch.apply(temperature{0.5}, token_row<double>{row_kind::probabilities, probabilities, ids}, 4, {});
  CHECK(std::vector<token_id>(sparse.ids.begin(), sparse.ids.end()) == std::vector<token_id>{1, 3});
  CHECK(sparse.values[0] == Approx(2 * std::log(0.75)));
  CHECK(support::allocations_in([&] {
          scratch.apply(sampling_options{.top_k = 3, .top_p = 0.9}, token_row<float>{row_kind::logits, values}, 4, {});
        }) == 0);
  SLUICE_CHECK_THROWS((scratch.apply(top_k{2}, token_row<float>{row_kind::logits, values}, 5, {})), "processed_row",
                      "row.values.size", -1);
  const token_id outside[] = {3, 4};
  SLUICE_CHECK_THROWS(
      (scratch.apply(top_k{2}, token_row<double>{row_kind::probabilities, probabilities, outside}, 4, {})),
      "processed_row", "row.ids", 1);
}

TEST_CASE("processors refuse bad parameters and leave the row alone", "[speculate]") {
  std::vector<double> row = {1.0, 2.0};
  const auto before = row;
  const token_id context[] = {0, 2};
  const std::span<double> r(row);
  SLUICE_CHECK_THROWS((temperature{-0.1}.process(r, no_context), 0), "temperature", "value", -1);
  SLUICE_CHECK_THROWS((temperature{NAN}.process(r, no_context), 0), "temperature", "value", -1);
  SLUICE_CHECK_THROWS((temperature{inf}.process(r, no_context), 0), "temperature", "value", -1);
  SLUICE_CHECK_THROWS((top_k{-1}.process(r, no_context), 0), "top_k", "k", -1);
  SLUICE_CHECK_THROWS((top_p{0.0}.process(r, no_context), 0), "top_p", "p", -1);
  SLUICE_CHECK_THROWS((top_p{1.1}.process(r, no_context), 0), "top_p", "p", -1);
  SLUICE_CHECK_THROWS((min_p{-0.1}.process(r, no_context), 0), "min_p", "p", -1);
  SLUICE_CHECK_THROWS((min_p{1.1}.process(r, no_context), 0), "min_p", "p", -1);
  SLUICE_CHECK_THROWS((penalties{.repetition = 0}.process(r, no_context), 0), "penalties", "repetition", -1);
  SLUICE_CHECK_THROWS((penalties{.presence = NAN}.process(r, no_context), 0), "penalties", "presence", -1);
  SLUICE_CHECK_THROWS((penalties{.frequency = inf}.process(r, no_context), 0), "penalties", "frequency", -1);
  SLUICE_CHECK_THROWS((penalties{.window = -1}.process(r, no_context), 0), "penalties", "window", -1);
  SLUICE_CHECK_THROWS((penalties{}.process(r, context), 0), "penalties", "context", 1);
  SLUICE_CHECK_THROWS((token_mask{}.process(r, no_context), 0), "token_mask", "bits.size", -1);
  SLUICE_CHECK_THROWS((sampling_options{.temperature = 2, .top_p = 2}.process(r, no_context), 0), "sampling_options",
                      "top_p", -1);
  SLUICE_CHECK_THROWS((sampling_options{.temperature = -2}.process(r, no_context), 0), "sampling_options",
                      "temperature", -1);
  SLUICE_CHECK_THROWS((sampling_options{.top_k = -2}.process(r, no_context), 0), "sampling_options", "top_k", -1);
  SLUICE_CHECK_THROWS((sampling_options{.min_p = -2}.process(r, no_context), 0), "sampling_options", "min_p", -1);
  CHECK(row == before);
}

TEST_CASE("processing a large row allocates nothing", "[speculate]") {
  auto row = random_logits(50000, 3, 3, 0);
  CHECK(support::allocations_in([&] {
          sampling_options{.temperature = 0.8, .top_k = 20000, .top_p = 0.95, .min_p = 1e-4}.process(row, {});
        }) == 0);
}

TEST_CASE("rows that are no laws are left for the rule to report", "[speculate]") {
  const sampling_options all{.temperature = 0.5, .top_k = 2, .top_p = 0.9, .min_p = 0.1};
  CHECK(processed(all, std::vector<double>(5, -inf)) == std::vector<double>(5, -inf));
  CHECK(std::isnan(processed(all, {1.0, NAN, 2.0, 3.0})[1]));
  CHECK(processed(all, {1.0, inf, 2.0, 3.0})[1] == inf);
}
