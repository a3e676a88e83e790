#include <catch2/catch.hpp>
#include <sluice/speculate/block_verification.hpp>
#include <sluice/speculate/token_rejection.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <support/enumerate.hpp>
#include <support/scripted.hpp>

#include "rounds.hpp"

using namespace sluice;

namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double inf = std::numeric_limits<double>::infinity();

/// One draft over four tokens, with rows that a test may spoil.
struct small_round {
  std::vector<std::vector<double>> p{{0.4, 0.3, 0.2, 0.1}, {0.1, 0.2, 0.3, 0.4}}, q{{0.25, 0.25, 0.5, 0.0}};
  std::vector<token_id> drafted{2};
  row_kind kind = row_kind::probabilities;
  std::vector<token_row<double>> target, draft;
  request<double, double> view() {
    target.clear();
    draft.clear();
    for (const auto& r : p) target.push_back({kind, r});
    for (const auto& r : q) draft.push_back({kind, r});
    return {target, draft, drafted};
  }
};

template <class Rule>
void expect_fault(small_round round, const char* name, const char* argument, index_t index) {
  auto random = support::scripted_words::uniforms({0.99, 0.5, 0.5});
  const auto r = round.view();
  SLUICE_CHECK_THROWS(Rule{}(r, random), name, argument, index);
}

template <class Rule>
void check_faults(const char* name) {
  const auto with = [](auto&& change) {
    small_round round;
    change(round);
    return round;
  };
  expect_fault<Rule>(with([](auto& r) { r.p[0][2] = not_a_number; }), name, "target", 2);
  expect_fault<Rule>(with([](auto& r) { r.p[0][1] = -0.1; }), name, "target", 1);
  expect_fault<Rule>(with([](auto& r) { r.p[0][3] = inf; }), name, "target", 3);
  expect_fault<Rule>(with([](auto& r) { r.q[0][3] = not_a_number; }), name, "draft", 3);
  expect_fault<Rule>(with([](auto& r) { r.q[0][3] = -1e-9; }), name, "draft", 3);
  expect_fault<Rule>(with([](auto& r) { r.p[0][0] += 2e-6; }), name, "target", 0);  // row 0 as a whole: its sum
  expect_fault<Rule>(with([](auto& r) { r.q[0].assign(4, 0.0); }), name, "draft", 0);
  expect_fault<Rule>(with([](auto& r) { r.q[0].push_back(0.0); }), name, "draft", 0);
  expect_fault<Rule>(with([](auto& r) { r.q[0].pop_back(); }), name, "draft", 0);
  expect_fault<Rule>(with([](auto& r) { r.drafted[0] = 4; }), name, "drafted", 0);
  expect_fault<Rule>(with([](auto& r) { r.drafted[0] = -1; }), name, "drafted", 0);
  expect_fault<Rule>(with([](auto& r) { r.drafted[0] = 3; }), name, "draft", 3);
  expect_fault<Rule>(with([](auto& r) { r.p.pop_back(); }), name, "target.size", -1);
  expect_fault<Rule>(with([](auto& r) { r.p.push_back(r.p[0]); }), name, "target.size", -1);
  expect_fault<Rule>(with([](auto& r) { r.q.push_back(r.q[0]); }), name, "draft.size", -1);
  const auto logits = [&](auto&& change) {
    return with([&](auto& r) {
      r.kind = row_kind::logits;
      change(r);
    });
  };
  expect_fault<Rule>(logits([](auto& r) { r.p[0].assign(4, -inf); }), name, "target", 0);
  expect_fault<Rule>(logits([](auto& r) { r.q[0][1] = inf; }), name, "draft", 1);
  expect_fault<Rule>(logits([](auto& r) { r.q[0][2] = -inf; }), name, "draft", 2);
  expect_fault<Rule>(with([](auto& r) { r.kind = row_kind::log_probabilities; }), name, "target", 0);
}

/// Long float rows that the production path reads: rows behind `valid` are NaN.
struct long_round {
  long_round(std::size_t v, std::size_t gamma, std::size_t valid, float rejected_at_logit) {
    const stream key(77, v);
    for (std::size_t i = 0; i <= gamma; ++i) {
      p.emplace_back(v);
      q.emplace_back(v);
      for (std::size_t x = 0; x < v; ++x) {
        p[i][x] = static_cast<float>(6 * co53(key.word(2 * (i * v + x))));
        q[i][x] = static_cast<float>(6 * co53(key.word(2 * (i * v + x) + 1)));
      }
      drafted.push_back(static_cast<token_id>((v / 2 + i) % v));
      p[i][static_cast<std::size_t>(drafted[i])] = i + 1 < valid ? 40.0f : rejected_at_logit;
      if (i >= valid) p[i].assign(v, std::numeric_limits<float>::quiet_NaN());
      if (i >= valid) q[i].assign(v, std::numeric_limits<float>::quiet_NaN());
    }
    drafted.pop_back();
    for (std::size_t i = 0; i <= gamma; ++i) target.push_back({row_kind::logits, p[i]});
    for (std::size_t i = 0; i < gamma; ++i) draft.push_back({row_kind::logits, q[i]});
  }
  request<float, float> view() const { return {target, draft, drafted}; }
  std::vector<std::vector<float>> p, q;
  std::vector<token_row<float>> target, draft;
  std::vector<token_id> drafted;
};

}  // namespace

TEST_CASE("chain rules report what they cannot use", "[speculate]") {
  check_faults<token_rejection>("token_rejection");
  check_faults<block_verification>("block_verification");
  small_round round;
  round.p[0][0] = not_a_number;
  cursor random{stream{1}};
  const decision d = token_rejection{}.decide(round.view(), random);
  CHECK(d.result == verdict{0, -1});
  CHECK(d.fault.row == 0);
  CHECK(d.fault.element == 0);
  CHECK(std::isnan(d.fault.value));
  // Within the tolerance a row is renormalised.
  small_round rounded;
  rounded.p[0][0] += 5e-7;
  CHECK_FALSE(token_rejection{}.decide(rounded.view(), random).fault);
  std::vector<float> f = {0.4f, 0.3f, 0.2f, 0.1009f};
  CHECK(token_law<float>({row_kind::probabilities, f}).valid());
  f[3] = 0.1012f;
  CHECK_FALSE(token_law<float>({row_kind::probabilities, f}).valid());
}

// Fails for: faults looked for by value only in the short path; a fast path that eats NaN or +inf.
TEST_CASE("long rows of float logits report their faults", "[speculate]") {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
    for (const std::size_t at : {0u, 511u, 2500u, 2999u})
      for (const bool in_target : {true, false}) {
        long_round round(3000, 1, 2, 1.0f);
        (in_target ? round.p : round.q)[0][at] = bad;
        cursor random{stream{3}};
        const decision d = token_rejection{}.decide(round.view(), random);
        REQUIRE(d.fault);
        CHECK(std::string(d.fault.argument) == (in_target ? "target" : "draft"));
        CHECK(d.fault.element == static_cast<index_t>(at));
      }
  long_round round(3000, 1, 2, 1.0f);
  cursor random{stream{3}};
  round.drafted[0] = 3000;
  CHECK(std::string(token_rejection{}.decide(round.view(), random).fault.argument) == "drafted");
  round.drafted[0] = 5;
  round.q[0][5] = -std::numeric_limits<float>::infinity();
  CHECK(token_rejection{}.decide(round.view(), random).fault.element == 5);
}

// Fails for: any look at a row behind the stop (NaN would be a fault), or a draw from a row that is not the stop's.
TEST_CASE("rows behind the stop are not read", "[speculate]") {
  for (const std::size_t v : {8u, 3000u})
    for (std::size_t valid = 1; valid <= 3; ++valid) {
      const long_round round(v, 4, valid, -std::numeric_limits<float>::infinity());
      cursor random{stream{9}}, other{stream{9}};
      const decision d = token_rejection{}.decide(round.view(), random);
      REQUIRE_FALSE(d.fault);
      CHECK(d.result.accepted == static_cast<index_t>(valid) - 1);
      const decision b = block_verification{}.decide(round.view(), other);  // P_i = 0 ends its look ahead
      REQUIRE_FALSE(b.fault);
      CHECK(b.result.accepted <= static_cast<index_t>(valid) - 1);
      const decision e = exact_match{}.decide(round.view(), random);
      REQUIRE_FALSE(e.fault);
    }
}

TEST_CASE("verification allocates nothing", "[speculate]") {
  for (const std::size_t v : {8u, 3000u, 200000u}) {
    const long_round rejected(v, 3, 2, -std::numeric_limits<float>::infinity()), accepted(v, 3, 4, 40.0f);
    cursor random{stream{2}};
    CHECK(support::allocations_in([&] {
            for (int k = 0; k < 5; ++k) {
              token_rejection{}(rejected.view(), random);
              token_rejection{}(accepted.view(), random);
              block_verification{}(rejected.view(), random);
              block_verification{}(accepted.view(), random);
              exact_match{}(accepted.view(), random);
            }
          }) == 0);
  }
}

TEST_CASE("legal edges of verification", "[speculate]") {
  cursor random{stream{5}};
  const std::vector<double> a = {0.5, 0.5, 0, 0}, b = {0, 0, 0.5, 0.5}, one = {1.0};
  const token_row<double> pa{row_kind::probabilities, a}, pb{row_kind::probabilities, b},
      unit{row_kind::probabilities, one};
  const token_id zero[1] = {0}, two[1] = {2};
  for (int k = 0; k < 50; ++k) {
    const token_row<double> same[2] = {pa, pa}, disjoint[2] = {pa, pb}, ones[2] = {unit, unit};
    CHECK(token_rejection{}(request<double, double>{same, {same, 1}, zero}, random).accepted == 1);
    CHECK(block_verification{}(request<double, double>{same, {same, 1}, zero}, random).accepted == 1);
    const verdict d = token_rejection{}(request<double, double>{disjoint, {disjoint + 1, 1}, two}, random);
    CHECK(d.accepted == 0);
    CHECK(d.next < 2);
    CHECK(token_rejection{}(request<double, double>{ones, {ones, 1}, zero}, random) == verdict{1, 0});
    const verdict plain = token_rejection{}(request<double, double>{{same, 1}, {}, {}}, random);
    CHECK(plain.accepted == 0);
    CHECK(plain.next < 2);
    CHECK(block_verification{}(request<double, double>{{same, 1}, {}, {}}, random).next < 2);
  }
}

// Fails for: coin <= p, which accepts a token of target probability 0 at u = 0; an inverse CDF that returns a zero
// weight at u = 0 or walks past the end at the largest u.
TEST_CASE("no draw returns a token of probability zero", "[speculate]") {
  std::vector<double> p = {0, 0.25, 0, 0.75, 0}, q = {0.5, 0, 0.5, 0, 0};
  const token_row<double> target[2] = {{row_kind::probabilities, p}, {row_kind::probabilities, p}};
  const token_row<double> draft[1] = {{row_kind::probabilities, q}};
  std::vector<float> long_p(5000, -std::numeric_limits<float>::infinity()), long_q(5000, 0.0f);
  for (const std::size_t x : {1000u, 3000u}) long_p[x] = 1.5f;
  const token_row<float> long_target[2] = {{row_kind::logits, long_p}, {row_kind::logits, long_p}};
  const token_row<float> long_draft[1] = {{row_kind::logits, long_q}};
  const token_id x[1] = {2};
  for (const std::uint64_t w : {support::word_zero, support::word_smallest, support::word_half, support::word_largest})
    for (const std::uint64_t z : {support::word_zero, support::word_half, support::word_largest}) {
      support::scripted_words random{w, z, z}, again{w, z, z}, third{w, z, w};
      const verdict d = token_rejection{}(request<double, double>{target, draft, x}, random);
      CHECK(d.accepted == 0);
      CHECK((d.next == 1 || d.next == 3));
      const verdict e = token_rejection{}(request<float, float>{long_target, long_draft, x}, again);
      CHECK(e.accepted == 0);
      CHECK((e.next == 1000 || e.next == 3000));
      const verdict f = exact_match{}(request<float, float>{long_target, long_draft, x}, third);
      CHECK((f.next == 1000 || f.next == 3000));
    }
}

// Fails for: temperature 0 that emits anything but the largest logit, lowest id on ties.
TEST_CASE("one-hot targets give greedy decoding", "[speculate]") {
  cursor random{stream{12}};
  const double certain[1] = {0.0};
  for (token_id best = 0; best < 4; ++best) {
    const token_id best_id[1] = {best};
    const token_row<double> target[2] = {{row_kind::logits, certain, best_id}, {row_kind::logits, certain, best_id}};
    const std::vector<double> q = rounds::random_law(4, stream(static_cast<std::uint64_t>(best)));
    const token_row<double> draft[1] = {{row_kind::probabilities, q}};
    for (token_id x = 0; x < 4; ++x) {
      const token_id drafted[1] = {x};
      const request<double, double> r{target, draft, drafted};
      const verdict greedy{x == best ? 1 : 0, best};
      CHECK(token_rejection{}(r, random) == greedy);
      CHECK(block_verification{}(r, random) == greedy);
      CHECK(exact_match{}(r, random) == greedy);
    }
  }
}

// Fails for: float32 sums without blocks, or float thresholds.
TEST_CASE("float rows emit the double rows' law within 1e-6", "[speculate][enumeration]") {
  double worst = 0;
  for (std::uint64_t id = 0; id < 20; ++id) {
    const auto p = rounds::random_law(4, stream(21, id)), q = rounds::random_law(4, stream(22, id));
    const auto pf = rounds::store<float>(p, {row_kind::logits, false}),
               qf = rounds::store<float>(q, {row_kind::logits, false});
    const token_row<float> target[2] = {pf.view(), pf.view()}, draft[1] = {qf.view()};
    std::vector<double> law(4);
    for (token_id x = 0; x < 4; ++x) {
      const token_id drafted[1] = {x};
      rounds::all_outcomes(
          [&](auto& random) {
            return token_rejection{}.decide(request<float, float>{target, draft, drafted}, random);
          },
          [&](const decision& d, double w) {
            const token_id first = d.result.accepted == 1 ? x : d.result.next;
            law[static_cast<std::size_t>(first)] += q[static_cast<std::size_t>(x)] * w;
          });
    }
    for (std::size_t y = 0; y < 4; ++y) worst = std::max(worst, std::abs(law[y] - p[y]));
  }
  CHECK(worst < 1e-6);
  CHECK(worst > 0);
}

TEST_CASE("the same seed gives the same verdict", "[speculate]") {
  const long_round round(3000, 4, 5, 3.0f);
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    cursor a{stream{seed}}, b{stream{seed}};
    CHECK(token_rejection{}(round.view(), a) == token_rejection{}(round.view(), b));
    CHECK(block_verification{}(round.view(), a) == block_verification{}(round.view(), b));
    CHECK(a.state() == b.state());
  }
}

TEST_CASE("pure functions of token rejection", "[speculate]") {
  CHECK(acceptance_probability(0.0, 0.5) == 0);
  CHECK(acceptance_probability(0.2, 0.5) == Approx(0.4));
  CHECK(acceptance_probability(0.5, 0.2) == 1);
  const std::vector<double> p = rounds::random_law(9, stream(1)), q = rounds::random_law(9, stream(2));
  double distance = 0;
  for (std::size_t x = 0; x < 9; ++x) distance += std::abs(p[x] - q[x]) / 2;
  CHECK(acceptance_rate(p, q) == Approx(1 - distance).epsilon(1e-14));
  std::vector<double> r(9);
  CHECK(residual_weights(r, p, q) == Approx(distance).epsilon(1e-13));
  const std::vector<double> shorter(8);
  SLUICE_CHECK_THROWS(acceptance_rate(p, shorter), "acceptance_rate", "q.size", -1);
  SLUICE_CHECK_THROWS(residual_weights(r, p, shorter), "residual_weights", "q.size", -1);
}
