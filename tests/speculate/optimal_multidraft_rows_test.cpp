// Fails for: 1 - q(T) by subtraction; bounds of the whole draft law where x was drawn from a part of it; a fixed token
// thinned by q, in the tries or in the measured residual; a draw from q that can hit T; a uniform used twice.
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>
#include <sluice/speculate/optimal_multidraft.hpp>
#include <support/statistics.hpp>

#include "rounds.hpp"

using namespace sluice;
using tokens = std::vector<token_id>;

namespace {

std::vector<double> normal_logits(std::size_t v, std::uint64_t id, double spread) {
  const stream key(91, id);
  std::vector<double> row(v);
  for (std::size_t x = 0; x < v; ++x)
    row[x] = spread * std::sqrt(-2 * std::log(oo52(key.word(2 * x)))) *
             std::cos(6.283185307179586 * co53(key.word(2 * x + 1)));
  return row;
}
template <class S>
std::vector<double> law_of(const std::vector<S>& logits) {
  std::vector<double> law(logits.size());
  long double sum = 0;
  for (std::size_t x = 0; x < law.size(); ++x) sum += law[x] = std::exp(static_cast<double>(logits[x]));
  for (double& p : law) p = static_cast<double>(p / sum);
  return law;
}

/// The ten most probable tokens alone, the others in ten classes by id.
struct classes {
  std::vector<std::size_t> of;
  std::vector<double> mass = std::vector<double>(20, 0.0);
  explicit classes(const std::vector<double>& law) : of(law.size()) {
    std::vector<std::size_t> order(law.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return law[a] > law[b]; });
    for (std::size_t k = 0; k < order.size(); ++k) {
      of[order[k]] = k < 10 ? k : 10 + order[k] * 10 / order.size();
      mass[of[order[k]]] += law[order[k]];
    }
  }
};

/// Drafts and verifies `rounds` times: the emitted law by chi-square, the acceptance against its exact value.
template <class S, class Q>
void check_rounds(const token_row<S>& target, const token_row<Q>& draft, const std::vector<double>& p,
                  const std::vector<double>& q, std::size_t n, int rounds, std::uint64_t seed) {
  std::vector<double> drawn(q.size());
  tokens x(n);
  const classes cells(p);
  std::vector<std::uint64_t> counts(20, 0);
  cursor drafting{stream(seed).derive(1)}, random{stream(seed).derive(2)};
  double accepted = 0;
  bool sound = true;
  for (int k = 0; k < rounds; ++k) {
    const auto d = draw_children(hybrid_draws{}, std::span(x), std::span<double>{}, draft, std::ssize(q), drafting);
    sound = sound && d.n == std::ssize(x) && std::find(x.begin(), x.end() - 1, x.back()) == x.end() - 1;
    const node_decision e = hybrid_verification<>{}.decide(target, draft, x, random);
    sound = sound && !e.fault && e.next >= 0;
    ++counts[cells.of[static_cast<std::size_t>(e.next)]];
    accepted += e.child >= 0;
  }
  CHECK(sound);
  const auto fit = support::fits(counts, cells.mass);
  INFO(fit.describe());
  CHECK(fit.passes());
  const std::span<const token_id> fixed = std::span(x).first(n - 1);
  hybrid_draft_law(drawn, q, fixed);
  const double a = hybrid_acceptance(p, drawn, fixed);
  CHECK(std::abs(accepted - rounds * a) < 5.5 * std::sqrt(rounds * a * (1 - a)) + 1e-9);
}

/// A word, then those of a cursor: the outcome of the first test is chosen, everything after it is random.
struct first_then {
  using result_type = std::uint64_t;
  std::uint64_t first;
  cursor* rest;
  bool used = false;
  static constexpr result_type min() { return 0; }
  static constexpr result_type max() { return ~result_type{0}; }
  result_type operator()() { return used ? (*rest)() : (used = true, first); }
};

}  // namespace

TEST_CASE("hybrid rounds on long rows have the target's law and the exact acceptance", "[speculate][statistical]") {
  constexpr std::size_t v = 3000;
  const auto a = normal_logits(v, 1, 2.0), noise = normal_logits(v, 2, 1.0);
  std::vector<float> pf(a.begin(), a.end()), qf(v);
  for (std::size_t x = 0; x < v; ++x) qf[x] = 0.8f * pf[x] + static_cast<float>(noise[x]);
  const std::vector<double> pd(pf.begin(), pf.end()), qd(qf.begin(), qf.end());
  const auto p = law_of(pf), q = law_of(qf);
  const token_row<float> target{row_kind::logits, pf}, draft{row_kind::logits, qf};
  const token_row<double> target_d{row_kind::logits, pd}, draft_d{row_kind::logits, qd};
  REQUIRE(detail::bounded_law(target).usable());
  check_rounds(target, draft, p, q, 1, 8'000, 11);
  check_rounds(target, draft, p, q, 2, 8'000, 12);
  check_rounds(target, draft, p, q, 5, 8'000, 13);
  check_rounds(target_d, draft_d, p, q, 3, 3'000, 14);
  check_rounds(target, draft_d, p, q, 3, 3'000, 15);
  // a truncated draft: the 40 most probable tokens, ids unordered
  std::vector<token_id> ids(v);
  std::iota(ids.begin(), ids.end(), 0);
  std::sort(ids.begin(), ids.end(),
            [&](token_id i, token_id j) { return q[static_cast<std::size_t>(i)] > q[static_cast<std::size_t>(j)]; });
  ids.resize(40);
  std::reverse(ids.begin(), ids.begin() + 20);
  std::vector<float> kept;
  std::vector<double> truncated(v, 0.0);
  double mass = 0;
  for (const token_id i : ids) mass += q[static_cast<std::size_t>(i)];
  for (const token_id i : ids) {
    kept.push_back(qf[static_cast<std::size_t>(i)]);
    truncated[static_cast<std::size_t>(i)] = q[static_cast<std::size_t>(i)] / mass;
  }
  check_rounds(target, token_row<float>{row_kind::logits, kept, ids}, p, truncated, 4, 3'000, 16);
}

// One token of the draft has all but 1e-6 of the mass: in float, 1 - q(T) would be wrong by several per cent.
TEST_CASE("what is left beside the fixed tokens keeps its accuracy", "[speculate][statistical]") {
  constexpr std::size_t v = 4096;
  const auto logits = normal_logits(v, 3, 1.5);
  std::vector<float> q(logits.begin(), logits.end());
  q[700] = 24;
  q[701] = 22.5;
  const tokens fixed{700, 701};
  long double whole = 0, rest = 0, shifted = 0;
  for (std::size_t x = 0; x < v; ++x) {
    const long double w = std::exp(static_cast<long double>(q[x]));
    whole += w;
    if (x != 700 && x != 701) rest += w;
  }
  const token_row<float> draft{row_kind::logits, q};
  const detail::law_without<float> left(token_law<float>(draft), fixed);
  CHECK(left.mass() == Approx(static_cast<double>(rest / whole)).epsilon(1e-6));
  detail::bounded_law bounds(draft);
  REQUIRE(bounds.usable());
  const double unit = bounds.weight(0) / std::exp(static_cast<double>(q[0]));
  shifted = rest * static_cast<long double>(unit);
  bounds.exclude(fixed);
  REQUIRE(bounds.usable());
  CHECK(bounds.least_total() < static_cast<double>(shifted));
  CHECK(bounds.largest_total() > static_cast<double>(shifted));
  CHECK(bounds.largest_total() < 1.07 * static_cast<double>(shifted));
  cursor random{stream{21}};
  bool outside = true;
  for (int k = 0; k < 2000; ++k) {
    const index_t j = bounds.draw(random);
    outside = outside && j >= 0 && j != 700 && j != 701;
  }
  CHECK(outside);
  bounds.refine();
  CHECK(bounds.least_total() == Approx(static_cast<double>(shifted)).epsilon(1e-6));
  // where nothing but underflow is left the bounds give up
  std::vector<float> alone(v, -200.0f);
  alone[9] = 0;
  detail::bounded_law single({row_kind::logits, alone});
  const token_id nine = 9;
  if (single.usable()) single.exclude(std::span(&nine, 1));
  CHECK_FALSE(single.usable());

  // the drawn token decides the round: the target lives off T, where a wrong 1 - q(T) would show
  std::vector<float> p(logits.begin(), logits.end());
  for (std::size_t x = 0; x < v; ++x) p[x] += static_cast<float>(x % 3);
  std::vector<double> qd(q.begin(), q.end());
  check_rounds(token_row<float>{row_kind::logits, p}, draft, law_of(p), law_of(q), 3, 8'000, 22);
  check_rounds(token_row<float>{row_kind::logits, p}, token_row<double>{row_kind::logits, qd}, law_of(p), law_of(q), 3,
               3'000, 23);
}

// p and q' differ by 0.0025 in all, so that 32 tries fail nearly always and the residual is measured.
TEMPLATE_TEST_CASE("hybrid residuals behind the tries", "[speculate][statistical]", float, double) {
  constexpr std::size_t v = 2500;
  std::vector<double> law(v, 1.0 / v), drawn(v, 0.0);
  law[0] = 0.0005;  // fixed
  law[1000] = law[2000] = 0.01;
  double sum = 0;
  for (std::size_t x = 0; x < v; ++x) sum += x == 7 ? 0.0 : law[x];
  law[7] = 1 - sum;  // the drawn one; may not be negative
  if (law[7] < 0) {
    for (std::size_t x = 0; x < v; ++x) law[x] /= sum;
    law[7] = 0;
  }
  const double shrink = law[0] / 2;
  drawn = law;
  drawn[0] = 0;
  drawn[1000] -= 2 * shrink;
  drawn[2000] -= shrink;
  double left = 0;
  for (const double x : drawn) left += x;
  drawn[7] += 1 - left;
  std::vector<TestType> p(v), q(v);
  for (std::size_t x = 0; x < v; ++x) {
    p[x] = static_cast<TestType>(std::log(law[x]));
    q[x] = static_cast<TestType>(x == 0 ? std::log(0.5) : std::log(0.5 * drawn[x]));  // q(T) = 1/2
  }
  const token_row<TestType> target{row_kind::logits, p}, draft{row_kind::logits, q};
  const tokens x{0, 7};
  const auto cell_of = [](std::size_t y) { return y == 0 ? 0u : y == 1000 ? 1u : y == 2000 ? 2u : 3u; };
  std::vector<double> expected(4, 0.0), residual = law_of(q);  // of the rows as stored: a little mass is elsewhere
  hybrid_draft_law(residual, residual, std::span(x).first(1));
  hybrid_residual(residual, law_of(p), residual, std::span(x).first(1));
  for (std::size_t y = 0; y < v; ++y) expected[cell_of(y)] += residual[y];
  const double mass = expected[0] + expected[1] + expected[2] + expected[3];
  for (double& e : expected) e /= mass;
  CHECK(expected[1] == Approx(0.4).epsilon(0.02));
  cursor random{stream{31}};
  std::vector<std::uint64_t> counts(4, 0);
  bool sound = true;
  for (int k = 0; k < 3000; ++k) {
    first_then words{~std::uint64_t{0}, &random};
    const auto d = hybrid_verification<>{}.decide(target, draft, x, words);
    sound = sound && d.next >= 0 && d.next != 7 && (d.child == 0) == (d.next == 0);
    ++counts[cell_of(static_cast<std::size_t>(d.next))];
  }
  CHECK(sound);
  const auto fit = support::fits(counts, expected);
  INFO(fit.describe());
  CHECK(fit.passes());
}
