// Fails for: draws without replacement that do not renormalise, or renormalise once; children sorted instead of in the
// order drawn; ties in top draws to the higher id; a token of probability zero among the children; a lookup that finds
// the text's own end, an earlier match, or a shorter one.
#include <catch2/catch.hpp>
#include <limits>
#include <map>
#include <sluice/random/stream.hpp>
#include <sluice/speculate/drafting.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <support/enumerate.hpp>
#include <support/statistics.hpp>
#include <vector>

using namespace sluice;

namespace {
using tokens = std::vector<token_id>;

const std::vector<double> law{0.35, 0.05, 0.3, 0.2, 0.1};

token_row<double> row_of(const std::vector<double>& values, row_kind kind = row_kind::probabilities) {
  return {kind, values};
}

/// The exact law of successive draws.
double successive(const std::vector<double>& q, const tokens& drawn) {
  double left = 1, probability = 1;
  for (const token_id x : drawn) {
    probability *= q[static_cast<std::size_t>(x)] / left;
    left -= q[static_cast<std::size_t>(x)];
  }
  return probability;
}

template <class Kind>
std::map<tokens, double> enumerated(Kind kind, std::size_t n, const token_row<double>& row) {
  std::map<tokens, double> out;
  std::vector<double> scratch(5);
  support::enumerating_source random;
  do {
    tokens x(n);
    x.resize(static_cast<std::size_t>(draw_children(kind, std::span(x), std::span(scratch), row, 5, random).n));
    out[x] += static_cast<double>(random.probability());
  } while (random.advance());
  return out;
}
}  // namespace

TEST_CASE("drafting: independent draws have the product law", "[drafting][enumeration]") {
  const auto out = enumerated(independent_draws{}, 2, row_of(law));
  CHECK(out.size() == 25);
  for (const auto& [x, p] : out)
    CHECK(p == Approx(law[static_cast<std::size_t>(x[0])] * law[static_cast<std::size_t>(x[1])]).epsilon(1e-12));
}

TEST_CASE("drafting: draws without replacement have the law of successive draws", "[drafting][enumeration]") {
  for (const std::size_t n : {1u, 2u, 3u, 5u}) {
    const auto out = enumerated(draws_without_replacement{}, n, row_of(law));
    for (const auto& [x, p] : out) CHECK(p == Approx(successive(law, x)).epsilon(1e-12));
  }
  const std::vector<double> two{0, 0.4, 0, 0.6, 0};
  const auto out = enumerated(draws_without_replacement{}, 4, row_of(two));
  CHECK(out.size() == 2);
  CHECK(out.at({1, 3}) == Approx(0.4).epsilon(1e-12));
}

TEST_CASE("drafting: the sampled order of draws without replacement", "[drafting][statistical]") {
  constexpr int n = 200'000;
  std::vector<double> logits;
  for (const double p : law) logits.push_back(std::log(p) + 3);
  // a law so peaked that most draws are repeated: the remaining law must come out all the same
  const std::vector<double> peaked{0.999, 0.0004, 0.0003, 0.0002, 0.0001};
  for (const bool peak : {false, true}) {
    const std::vector<double>& q = peak ? peaked : law;
    const auto row = peak ? row_of(peaked) : row_of(logits, row_kind::logits);
    std::map<tokens, int> seen;
    tokens x(peak ? 3 : 2);
    std::vector<double> scratch(5);
    cursor random{stream{peak ? 77u : 78u}};
    bool complete = true;
    for (int i = 0; i < n; ++i) {
      complete =
          complete && draw_children(draws_without_replacement{}, std::span(x), std::span(scratch), row, 5, random).n ==
                          std::ssize(x);
      const tokens last_two(x.end() - 2, x.end());
      if (!peak || x[0] == 0) ++seen[last_two];
    }
    // ordered pairs: 20 cells, or 12 given that the peak came first
    CHECK(complete);
    double total = 0, statistic = 0;
    for (const auto& [pair, count] : seen) total += count;
    int cells = 0;
    for (token_id a = 0; a < 5; ++a)
      for (token_id b = 0; b < 5; ++b) {
        if (a == b || (peak && (a == 0 || b == 0))) continue;
        const double p = peak ? successive(q, {0, a, b}) / successive(q, {0}) : successive(q, {a, b});
        const double expected = total * p;
        REQUIRE(expected >= 10);
        const double d = seen[{a, b}] - expected;
        statistic += d * d / expected;
        ++cells;
      }
    CHECK(cells == (peak ? 12 : 20));
    CHECK(statistic < support::chi_square_critical(cells - 1));
  }
}

TEST_CASE("drafting: a large row is drawn from by repeating", "[drafting][statistical]") {
  // four tokens share 0.7, 0.15, 0.1 and 0.05 of the mass, far apart in a row of 4096
  constexpr int n = 20'000;
  const std::vector<double> q{0.7, 0.15, 0.1, 0.05};
  std::vector<double> row(4096, 0.0), scratch(4096);
  for (std::size_t i = 0; i < 4; ++i) row[1000 * i + 7] = q[i];
  std::map<tokens, int> seen;
  tokens x(3);
  cursor random{stream{79}};
  for (int i = 0; i < n; ++i) {
    draw_children(draws_without_replacement{}, std::span(x), std::span(scratch), row_of(row), 4096, random);
    tokens drawn;
    for (const token_id t : x) drawn.push_back((t - 7) / 1000);
    ++seen[drawn];
  }
  double statistic = 0;
  for (const auto& [drawn, count] : seen) {
    const double expected = n * successive(q, drawn);
    statistic += (count - expected) * (count - expected) / expected;
  }
  CHECK(seen.size() == 24);
  CHECK(statistic < support::chi_square_critical(23));
}

TEST_CASE("drafting: top draws, ties to the lower id, zeros left out", "[drafting]") {
  cursor random{stream{1}};
  std::vector<double> scratch(5);
  const auto top = [&](const token_row<double>& row, std::size_t n) {
    tokens x(n);
    x.resize(static_cast<std::size_t>(draw_children(top_draws{}, std::span(x), std::span(scratch), row, 5, random).n));
    return x;
  };
  CHECK(top(row_of(law), 3) == tokens{0, 2, 3});
  CHECK(top(row_of(law), 5) == tokens{0, 2, 3, 4, 1});
  const std::vector<double> tied{0.2, 0.3, 0.2, 0.3, 0}, logits{-1, 5, 5, -std::numeric_limits<double>::infinity(), 5};
  CHECK(top(row_of(tied), 3) == tokens{1, 3, 0});
  CHECK(top(row_of(tied), 5) == tokens{1, 3, 0, 2});
  CHECK(top(row_of(logits, row_kind::logits), 2) == tokens{1, 2});
  CHECK(top(row_of(logits, row_kind::logits), 5) == tokens{1, 2, 4, 0});
  const tokens ids{4, 0, 2};
  const std::vector<double> values{0.4, 0.2, 0.4};
  CHECK(top({row_kind::probabilities, values, ids}, 2) == tokens{2, 4});
  CHECK(top(row_of(law), 0) == tokens{});
  CHECK(random.state().position == 0);
}

TEST_CASE("drafting: sparse rows and no allocation", "[drafting]") {
  const tokens ids{4, 0, 2};
  const std::vector<double> values{0.5, 0.2, 0.3};
  const token_row<double> row{row_kind::probabilities, values, ids};
  for (const auto& [x, p] : enumerated(draws_without_replacement{}, 3, row))
    CHECK(p == Approx(successive({0.2, 0, 0.3, 0, 0.5}, x)).epsilon(1e-12));
  std::vector<float> logits(4096);
  for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i % 17) - (i == 5 ? -20.f : 0.f);
  const token_row<float> dense{row_kind::logits, logits};
  std::vector<double> scratch(logits.size());
  tokens x(4);
  cursor random{stream{3}};
  CHECK(support::allocations_in([&] {
          draw_children(independent_draws{}, std::span(x), std::span(scratch), dense, 4096, random);
          draw_children(draws_without_replacement{}, std::span(x), std::span(scratch), dense, 4096, random);
          draw_children(top_draws{}, std::span(x), std::span(scratch), dense, 4096, random);
        }) == 0);
}

TEST_CASE("drafting: rows that are not laws", "[drafting]") {
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  cursor random{stream{1}};
  std::vector<double> scratch(5);
  tokens x(2);
  const auto fault = [&](const token_row<double>& row) {
    const row_fault a = draw_children(independent_draws{}, std::span(x), std::span(scratch), row, 5, random).fault;
    const row_fault b =
        draw_children(draws_without_replacement{}, std::span(x), std::span(scratch), row, 5, random).fault;
    const row_fault c = draw_children(top_draws{}, std::span(x), std::span(scratch), row, 5, random).fault;
    CHECK(a.element == b.element);
    CHECK(a.element == c.element);
    REQUIRE(a);
    CHECK(b);
    CHECK(c);
    CHECK(std::string(a.argument) == "draft");
    return a.element;
  };
  const std::vector<double> with_nan{0.5, nan, 0.5, 0, 0}, with_inf{0, 0, inf, 0, 0}, negative{0.5, 0.6, 0, -0.1, 0},
      nothing(5, 0.0), all_out(5, -inf), half(5, 0.1), four(4, 0.25);
  CHECK(fault(row_of(with_nan)) == 1);
  CHECK(fault(row_of(with_inf, row_kind::logits)) == 2);
  CHECK(fault(row_of(negative)) == 3);
  CHECK(fault(row_of(nothing)) == -1);
  CHECK(fault(row_of(all_out, row_kind::logits)) == -1);
  CHECK(fault(row_of(half)) == -1);
  CHECK(fault(row_of(four)) == -1);
  const tokens beyond{0, 5}, below{0, -1};
  const std::vector<double> pair{0.5, 0.5};
  CHECK(fault({row_kind::probabilities, pair, beyond}) == -1);
  CHECK(fault({row_kind::probabilities, pair, below}) == 1);
  CHECK(random.state().position == 0);  // nothing was drawn
  std::vector<double> small(4);
  SLUICE_CHECK_THROWS(
      (draw_children(draws_without_replacement{}, std::span(x), std::span(small), row_of(law), 5, random)),
      "draw_children", "scratch.size", -1);
}

TEST_CASE("drafting: prompt lookup takes the longest, then the latest match", "[drafting]") {
  const auto propose = [](const prompt_lookup& l, const tokens& text, std::size_t n) {
    tokens out(n, -7);
    out.resize(static_cast<std::size_t>(l.propose(text, out)));
    return out;
  };
  const prompt_lookup l{.longest = 3};
  CHECK(propose(l, {1, 2, 3, 9, 8, 2, 3, 7, 1, 2, 3}, 2) == tokens{9, 8});  // 1 2 3 before the later 2 3
  CHECK(propose(l, {2, 3, 9, 2, 3, 7, 2, 3}, 2) == tokens{7, 2});           // of two matches the later
  CHECK(propose(l, {2, 3, 9, 2, 3, 7, 2, 3}, 9) == tokens{7, 2, 3});        // no further than the text
  CHECK(propose(l, {1, 1}, 4) == tokens{1});                                // the match may touch the end
  CHECK(propose(l, {1, 2, 3}, 4) == tokens{});
  CHECK(propose(l, {1}, 4) == tokens{});
  CHECK(propose(l, {}, 4) == tokens{});
  CHECK(propose(l, {1, 2, 1}, 0) == tokens{});
  CHECK(propose({.longest = 8, .shortest = 2}, {5, 2, 9, 3, 2}, 2) == tokens{});
  CHECK(propose({.longest = 1}, {5, 2, 9, 5, 2, 7, 0, 5, 2}, 1) == tokens{7});
}
