#include <catch2/catch.hpp>
#include <sluice/speculate/block_verification.hpp>
#include <sluice/speculate/token_rejection.hpp>

#include "rounds.hpp"

using namespace sluice;
using rounds::format;

namespace {

constexpr format formats[] = {{row_kind::probabilities, false},
                              {row_kind::logits, false},
                              {row_kind::log_probabilities, false},
                              {row_kind::probabilities, true},
                              {row_kind::logits, true}};

template <class Rule, class S, class Q>
double worst_error(const Rule& rule, double zeros) {
  double worst = 0;
  std::uint64_t id = 0;
  for (index_t v = 2; v <= 4; ++v)
    for (index_t gamma = 1; gamma <= (v == 4 ? 2 : 3); ++gamma)
      for (const format f : formats)
        for (const format g : {formats[0], formats[1], formats[3]}) {
          const rounds::tables<S, Q> t(v, gamma, stream(17, ++id), zeros, f, g);
          const auto report = rounds::enumerate_chain(rule, t);
          CHECK(report.faults == 0);
          worst = std::max(worst, report.worst);
        }
  return worst;
}

}  // namespace

// Fails for: correction from p instead of (p - q)_+ or from |p - q|; accept with p instead of p/q; always accept; rows
// shifted by one; bonus from the wrong row; sparse ids taken as positions; block: first failure from the left,
// correction from the token-level residual, P_i not capped at 1, h_gamma = Z/(Z + 1 - P), the walk leaving position 1
// out.
TEMPLATE_TEST_CASE("chain rules emit the target's law exactly", "[speculate][enumeration]", token_rejection,
                   block_verification, exact_match) {
  const TestType rule{};
  CHECK(worst_error<TestType, double, double>(rule, 0.0) < 1e-12);
  CHECK(worst_error<TestType, double, double>(rule, 0.4) < 1e-12);
  CHECK(worst_error<TestType, float, float>(rule, 0.3) < 1e-12);
  CHECK(worst_error<TestType, float, double>(rule, 0.3) < 1e-12);
}

TEST_CASE("chain rules emit the target's law for three drafts over four tokens", "[speculate][enumeration]") {
  const rounds::tables<double, double> t(4, 3, stream(99), 0.1, {row_kind::logits, false}, {row_kind::logits, false});
  CHECK(rounds::enumerate_chain(token_rejection{}, t).worst < 1e-12);
  CHECK(rounds::enumerate_chain(block_verification{}, t).worst < 1e-12);
}

// Fails for: a block rule that accepts less than it can (h_i without the cap, Z_i of the wrong row).
TEST_CASE("block verification never accepts less than token rejection", "[speculate][enumeration]") {
  double largest_gain = 0;
  for (std::uint64_t id = 0; id < 60; ++id) {
    const index_t v = 2 + static_cast<index_t>(id % 2), gamma = 1 + static_cast<index_t>(id % 3);
    const rounds::tables<double, double> t(v, gamma, stream(5, id), id % 4 == 0 ? 0.3 : 0.0, {}, {});
    const double token = rounds::enumerate_chain(token_rejection{}, t).expected_accepted;
    const double block = rounds::enumerate_chain(block_verification{}, t).expected_accepted;
    const double match = rounds::enumerate_chain(exact_match{}, t).expected_accepted;
    CHECK(block >= token - 1e-12);
    CHECK(token >= match - 1e-12);
    if (gamma == 1) CHECK(block == Approx(token).epsilon(1e-12));
    largest_gain = std::max(largest_gain, block - token);
  }
  CHECK(largest_gain > 0.01);
}

TEST_CASE("a draft that equals the target is accepted whole", "[speculate][enumeration]") {
  rounds::tables<double, double> t(3, 3, stream(8), 0.3, {}, {});
  t.draft = t.target;
  CHECK(rounds::enumerate_chain(token_rejection{}, t).expected_accepted == Approx(3).epsilon(1e-13));
  CHECK(rounds::enumerate_chain(block_verification{}, t).expected_accepted == Approx(3).epsilon(1e-13));
}

// Fails for: drafts of probability one treated as anything else than "draw from the target and compare".
TEST_CASE("one-hot drafts are accepted with the target's probability", "[speculate][enumeration]") {
  const std::vector<double> p = rounds::random_law(4, stream(3));
  const token_row<double> target[2] = {{row_kind::probabilities, p}, {row_kind::probabilities, p}};
  const double one[1] = {1.0}, zero[1] = {0.0};
  for (token_id x = 0; x < 4; ++x) {
    const token_id id[1] = {x};
    for (const token_row<double>& q :
         {token_row<double>{row_kind::probabilities, one, id}, token_row<double>{row_kind::logits, zero, id}}) {
      const request<double, double> r{target, {&q, 1}, id};
      double accepted = 0;
      std::vector<double> correction(4);
      rounds::all_outcomes([&](auto& random) { return token_rejection{}.decide(r, random); },
                           [&](const decision& d, double w) {
                             REQUIRE_FALSE(d.fault);
                             if (d.result.accepted == 1)
                               accepted += w;
                             else
                               correction[static_cast<std::size_t>(d.result.next)] += w;
                           });
      const double px = p[static_cast<std::size_t>(x)];
      CHECK(accepted == Approx(px).epsilon(1e-13));
      CHECK(correction[static_cast<std::size_t>(x)] == 0);
      for (std::size_t y = 0; y < 4; ++y)
        if (y != static_cast<std::size_t>(x)) CHECK(correction[y] == Approx(p[y]).epsilon(1e-13));
    }
  }
}
