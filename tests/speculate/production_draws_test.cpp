#include <catch2/catch.hpp>
#include <sluice/speculate/block_verification.hpp>
#include <sluice/speculate/recursive_rejection.hpp>
#include <sluice/speculate/token_rejection.hpp>
#include <support/statistics.hpp>

#include "rounds.hpp"

using namespace sluice;

namespace {

std::vector<float> random_logits(std::size_t v, std::uint64_t id, double spread) {
  const stream key(41, id);
  std::vector<float> row(v);
  for (std::size_t x = 0; x < v; ++x)
    row[x] = static_cast<float>(spread * std::sqrt(-2 * std::log(oo52(key.word(2 * x)))) *
                                std::cos(6.283185307179586 * co53(key.word(2 * x + 1))));
  return row;
}
std::vector<double> law_of(const std::vector<float>& logits) {
  std::vector<double> law(logits.size());
  double sum = 0;
  for (std::size_t x = 0; x < law.size(); ++x) sum += law[x] = std::exp(static_cast<double>(logits[x]));
  for (double& p : law) p /= sum;
  return law;
}
/// Tokens by class: the ten most probable alone, the others by id.
std::vector<std::size_t> classes(const std::vector<double>& law) {
  std::vector<std::size_t> order(law.size()), of(law.size());
  for (std::size_t x = 0; x < law.size(); ++x) order[x] = x;
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return law[a] > law[b]; });
  for (std::size_t k = 0; k < law.size(); ++k) of[order[k]] = k < 10 ? k : 10 + order[k] * 10 / law.size();
  return of;
}

/// n draws against a law, by classes.
template <class Draw>
support::test_result draws_fit(const std::vector<double>& law, int n, Draw&& draw) {
  const auto of = classes(law);
  std::vector<double> expected(20, 0.0);
  std::vector<std::uint64_t> counts(20, 0);
  for (std::size_t x = 0; x < law.size(); ++x) expected[of[x]] += law[x];
  for (int k = 0; k < n; ++k) ++counts[of[static_cast<std::size_t>(draw())]];
  return support::fits(counts, expected);
}

/// The first two tokens that rounds of a rule emit, completed from the target: chi-square of the first and of the pair.
template <class S, class Rule>
void check_rounds(const Rule& rule, std::uint64_t seed) {
  constexpr int v = 8, gamma = 2, n = 200'000;
  const rounds::tables<S, S> t(v, gamma, stream(seed), 0.1, {row_kind::logits, false}, {row_kind::logits, false});
  std::vector<std::uint64_t> first(v, 0), pair(v * v, 0);
  std::vector<double> first_law(v), pair_law(v * v);
  for (token_id x = 0; x < v; ++x)
    for (token_id y = 0; y < v; ++y) {
      const token_id prefix[1] = {x};
      const double p =
          t.target[0].law[static_cast<std::size_t>(x)] * t.target[t.context(prefix)].law[static_cast<std::size_t>(y)];
      first_law[static_cast<std::size_t>(x)] += p;
      pair_law[static_cast<std::size_t>(x * v + y)] = p;
    }
  cursor drafts{stream(seed).derive(1)}, random{stream(seed).derive(2)};
  for (int k = 0; k < n; ++k) {
    token_id x[gamma];
    std::vector<token_row<S>> p, q;
    for (std::size_t i = 0; i <= gamma; ++i) {
      const std::size_t c = t.context({x, i});
      p.push_back(t.target[c].view());
      if (i == gamma) break;
      q.push_back(t.draft[c].view());
      x[i] = static_cast<token_id>(inverse_cdf(std::span<const double>(t.draft[c].law), co53(drafts())));
    }
    const verdict d = rule(request<S, S>{p, q, x}, random);
    token_id text[gamma + 1];
    std::copy_n(x, d.accepted, text);
    text[d.accepted] = d.next;
    if (d.accepted == 0)
      text[1] = static_cast<token_id>(
          inverse_cdf(std::span<const double>(t.target[t.context({text, 1})].law), co53(drafts())));
    ++first[static_cast<std::size_t>(text[0])];
    ++pair[static_cast<std::size_t>(text[0] * v + text[1])];
  }
  const auto one = support::fits(first, first_law), two = support::fits(pair, pair_law);
  INFO(one.describe());
  INFO(two.describe());
  CHECK(one.passes());
  CHECK(two.passes());
}

}  // namespace

// Fails for: a block's sum that is not that of its weights; thinning with q for 1 - q/p; a uniform used twice.
TEST_CASE("rounds with a cursor emit the target's law", "[speculate][statistical]") {
  check_rounds<double>(token_rejection{}, 101);
  check_rounds<float>(token_rejection{}, 102);
  check_rounds<double>(block_verification{}, 103);
  check_rounds<float>(block_verification{}, 104);
  check_rounds<float>(exact_match{}, 105);
}

TEMPLATE_TEST_CASE("a long row is drawn from by its law", "[speculate][statistical]", float, double) {
  for (const std::size_t v : {65u, 3001u, 140'000u}) {
    const auto logits = random_logits(v, v, 1.5);
    const auto law = law_of(logits);
    const std::vector<TestType> values(logits.begin(), logits.end());
    const token_law<TestType> row({row_kind::logits, values});
    cursor random{stream(7, v)};
    const auto fit = draws_fit(law, v > 100'000 ? 4000 : 40'000, [&] { return row.draw(random); });
    INFO(fit.describe());
    CHECK(fit.passes());
    std::vector<TestType> probabilities(law.begin(), law.end());
    const token_law<TestType> other({row_kind::probabilities, probabilities});
    REQUIRE(other.valid());
    CHECK(draws_fit(law, v > 100'000 ? 4000 : 40'000, [&] { return other.draw(random); }).passes());
  }
}

// Fails for: the approximate weights taken for the law. They are exact at logit 0 and 6.15 % too large at the other
// one: that shifts the share of the odd tokens by .0144, which 1e5 draws show at |z| = 9.
TEST_CASE("a token proposed by bounds is kept by the exact law", "[speculate][statistical]") {
  const float logit = -0.38629436f;  // ln 2 (1/ln 2 - 2), where the approximation is worst
  std::vector<float> row(2048, 0.0f);
  for (std::size_t x = 1; x < row.size(); x += 2) row[x] = logit;
  const token_row<float> target[1] = {{row_kind::logits, row}};
  cursor random{stream{20261123}};
  constexpr int n = 100'000;
  double odd = 0;
  for (int k = 0; k < n; ++k) odd += token_rejection{}(request<float, float>{target, {}, {}}, random).next % 2;
  const double p = 1 / (1 + std::exp(-static_cast<double>(logit)));
  CHECK(std::abs(odd - n * p) < 5.5 * std::sqrt(n * p * (1 - p)));
}

// Fails for: a bound on the wrong side; a thinning that ignores q.
TEST_CASE("decisions by bounds have the law of the exact rows", "[speculate][statistical]") {
  constexpr std::size_t v = 3000;
  const auto p_logits = random_logits(v, 1, 2.0);
  auto q_logits = p_logits;
  const auto noise = random_logits(v, 2, 1.0);
  for (std::size_t x = 0; x < v; ++x) q_logits[x] = 0.8f * q_logits[x] + noise[x];
  const auto p = law_of(p_logits), q = law_of(q_logits);
  const token_row<float> target[2] = {{row_kind::logits, p_logits}, {row_kind::logits, p_logits}};
  const token_row<float> draft[1] = {{row_kind::logits, q_logits}};
  REQUIRE(detail::bounded_law(target[0]).usable());
  REQUIRE(detail::bounded_law(draft[0]).usable());

  cursor random{stream{55}}, drafts{stream{56}};
  const token_law<float> q_row(draft[0]);
  int accepted = 0;
  constexpr int n = 40'000;
  const auto emitted = draws_fit(p, n, [&] {
    const token_id x[1] = {q_row.draw(drafts)};
    const verdict d = token_rejection{}(request<float, float>{target, draft, x}, random);
    accepted += d.accepted == 1;
    return d.accepted == 1 ? x[0] : d.next;
  });
  INFO(emitted.describe());
  CHECK(emitted.passes());
  const double beta = acceptance_rate(p, q);
  CHECK(std::abs(accepted / double{n} - beta) < 5.5 * std::sqrt(beta * (1 - beta) / n));

  // One drafted token whose test falls between the bounds in a sizeable part of all rounds, and its corrections.
  std::size_t x = 0;
  for (std::size_t y = 0; y < v; ++y)
    if (q[y] > p[y] && q[y] > q[x]) x = y;
  std::vector<double> residual(v);
  const double mass = residual_weights(residual, p, q);
  for (double& r : residual) r /= mass;
  const token_id worst[1] = {static_cast<token_id>(x)};
  int tests = 0, passed = 0;
  const auto corrections = draws_fit(residual, 20'000, [&] {
    for (;;) {
      const verdict d = token_rejection{}(request<float, float>{target, draft, worst}, random);
      ++tests;
      passed += d.accepted == 1;
      if (d.accepted == 0) return d.next;
    }
  });
  INFO(corrections.describe());
  CHECK(corrections.passes());
  const double a = acceptance_probability(p[x], q[x]);
  CHECK(std::abs(passed / double(tests) - a) < 5.5 * std::sqrt(a * (1 - a) / tests));
  CHECK_FALSE(draws_fit(residual, 20'000, [&] { return token_law<float>(target[0]).draw(random); }).passes());
}

// Fails for: a fallback that draws from p, or from a mass that was not measured.
TEST_CASE("the residual of nearly equal laws is drawn exactly", "[speculate][statistical]") {
  for (const std::size_t v : {40u, 3000u}) {
    auto p_logits = random_logits(v, 5, 1.0);
    auto q_logits = p_logits;
    for (std::size_t x = 0; x < v; x += 2) q_logits[x] += 0.01f * static_cast<float>(1 + x % 5);
    const auto p = law_of(p_logits), q = law_of(q_logits);
    std::vector<double> residual(v);
    const double mass = residual_weights(residual, p, q);
    REQUIRE(mass < 0.02);  // 32 tries fail more often than not
    for (double& r : residual) r /= mass;
    const std::vector<double> pd(p_logits.begin(), p_logits.end()), qd(q_logits.begin(), q_logits.end());
    const token_law<double> target({row_kind::logits, pd}), draft({row_kind::logits, qd});
    residual_law<double, double> law(target, draft);
    cursor random{stream(6, v)};
    const auto fit = draws_fit(residual, 4000, [&] { return law.draw(random); });
    INFO(fit.describe());
    CHECK(fit.passes());
    CHECK(law.measure() == Approx(mass).epsilon(1e-10));
    CHECK_FALSE(draws_fit(residual, 4000, [&] { return target.draw(random); }).passes());
  }
}

TEST_CASE("siblings on long rows are verified by the exact law", "[speculate][statistical]") {
  constexpr std::size_t v = 700;
  const auto p_logits = random_logits(v, 11, 2.0), q_logits = random_logits(v, 12, 1.0);
  const auto p = law_of(p_logits), q = law_of(q_logits);
  const token_row<float> target{row_kind::logits, p_logits}, draft{row_kind::logits, q_logits};
  const token_law<float> q_row(draft);
  cursor random{stream{61}}, drafts{stream{62}};
  const auto with = draws_fit(p, 20'000, [&] {
    token_id x[3];
    for (token_id& y : x) y = q_row.draw(drafts);
    return recursive_rejection<independent_draws>{}(target, draft, x, random).next;
  });
  INFO(with.describe());
  CHECK(with.passes());
  const auto without = draws_fit(p, 20'000, [&] {
    token_id x[3];
    for (int k = 0; k < 3; ++k) do
        x[k] = q_row.draw(drafts);
      while (std::find(x, x + k, x[k]) != x + k);
    return recursive_rejection<draws_without_replacement>{}(target, draft, x, random).next;
  });
  INFO(without.describe());
  CHECK(without.passes());
}
