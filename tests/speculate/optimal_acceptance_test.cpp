#include <catch2/catch.hpp>
#include <cmath>
#include <sluice/speculate/k_seq.hpp>
#include <sluice/speculate/optimal_acceptance.hpp>
#include <support/check_throws.hpp>
#include <support/draft_tuples.hpp>

#include "rounds.hpp"

using namespace sluice;
using rounds::random_law;
using dense = std::vector<double>;

namespace {

struct problem {
  dense p, q;
};
/// Random laws over 1 to 7 tokens, a third of them with zeros; some draft laws have equal tokens or one that dominates.
problem random_problem(std::uint64_t i) {
  const auto v = static_cast<index_t>(1 + i % 7);
  const double zeros = i % 3 == 0 ? 0.4 : 0.0;
  problem x{random_law(v, stream(91, i), zeros), random_law(v, stream(92, i), zeros)};
  if (i % 5 == 1) std::fill(x.q.begin(), x.q.end(), 1.0 / static_cast<double>(v));
  if (i % 5 == 2) {
    for (double& q : x.q) q *= 1e-3;
    x.q.back() = 0;
    x.q.back() = 1 - std::accumulate(x.q.begin(), x.q.end(), 0.0);
  }
  return x;
}
index_t support_of(const dense& q) {
  return std::count_if(q.begin(), q.end(), [](double x) { return x > 0; });
}
double mass(const dense& p, const dense& q) {
  double sum = 0;
  for (std::size_t x = 0; x < p.size(); ++x) sum += q[x] > 0 ? p[x] : 0.0;
  return sum;
}

/// Acceptance of recursive rejection with stored stages, averaged over all drafts.
double recursive_by_enumeration(dense r, dense q, index_t n, bool replacement) {
  if (n == 0) return 0;
  double accepted = 0, excess = 0;
  dense next(r.size());
  for (std::size_t y = 0; y < r.size(); ++y) excess += next[y] = std::max(0.0, r[y] - q[y]);
  for (double& x : next) x /= excess > 0 ? excess : 1;
  for (std::size_t x = 0; x < q.size(); ++x) {
    const double both = std::min(r[x], q[x]), rejected = q[x] - both;
    accepted += both;
    if (!(rejected > 0)) continue;
    dense rest = q;
    if (!replacement) {
      rest[x] = 0;
      const double left = std::accumulate(rest.begin(), rest.end(), 0.0);
      if (!(left > 0)) continue;
      for (double& y : rest) y /= left;
    }
    accepted += rejected * recursive_by_enumeration(next, rest, n - 1, replacement);
  }
  return accepted;
}

}  // namespace

// Fails for: tokens in the order of p or of q/p; tokens with q = 0 in the support; n - 1 or n + 1 draws; prefixes
// looked at only at the ends of blocks; for draws without replacement: Q of independent draws, u = q, the largest q not
// set apart, the sign of a power sum, nodes that begin too late or end too early; for hybrid: ties to the higher id, q
// not renormalised, n fixed tokens.
TEST_CASE("optimal acceptance is the maximal flow and the least cut", "[speculate][enumeration]") {
  optimal_acceptance ours;
  double worst_flow = 0, worst_cut = 0;
  for (std::uint64_t i = 0; i < 210; ++i) {
    const auto [p, q] = random_problem(i);
    ours.prepare(p, q);
    REQUIRE(ours.support() == support_of(q));
    for (int n = 1; n <= 4; ++n) {
      INFO("problem " << i << ", n = " << n);
      const double with = ours.best<independent_draws>(n).acceptance;
      const double without = ours.best<draws_without_replacement>(n).acceptance;
      const double hybrid = ours.best<hybrid_draws>(n).acceptance;
      const auto sets = {std::pair(support::independent_sets(q, n), with),
                         std::pair(support::distinct_sets(q, n), without),
                         std::pair(support::hybrid_sets(q, n), hybrid)};
      for (const auto& [drafted, alpha] : sets) {
        const double flow = std::abs(support::best_by_flow(p, drafted) - alpha);
        const double cut = std::abs(support::best_by_subsets(p, drafted) - alpha);
        CHECK(flow < 1e-12);
        CHECK(cut < 1e-12);
        worst_flow = std::max(worst_flow, flow);
        worst_cut = std::max(worst_cut, cut);
      }
    }
  }
  INFO(worst_flow << ' ' << worst_cut);
  CHECK(worst_flow < 1e-12);
}

// Fails for: a prefix that is not the minimum's; a step that the sum cannot bear; Q at the wrong end of a token.
TEST_CASE("every prefix has the Q that enumeration gives", "[speculate][enumeration]") {
  optimal_acceptance ours, coarse({.step = 0.35});
  for (std::uint64_t i = 0; i < 140; ++i) {
    const auto [p, q] = random_problem(i);
    ours.prepare(p, q);
    coarse.prepare(p, q);
    const auto order = ours.order();
    for (std::size_t k = 1; k < order.size(); ++k) {
      const auto a = static_cast<std::size_t>(order[k - 1]), b = static_cast<std::size_t>(order[k]);
      CHECK(p[a] / q[a] <= p[b] / q[b]);
      CHECK(ours.target()[k] == Approx(p[b]).epsilon(1e-14));
      CHECK(ours.draft()[k] == Approx(q[b]).epsilon(1e-14));
    }
    for (int n = 1; n <= 5; ++n) {
      INFO("problem " << i << ", n = " << n);
      dense with(order.size() + 1), without(with.size()), rough(with.size());
      ours.all_inside<independent_draws>(with, n);
      ours.all_inside<draws_without_replacement>(without, n);
      coarse.all_inside<draws_without_replacement>(rough, n);
      const auto exact_with = support::all_inside(support::independent_sets(q, n), q.size());
      const auto exact_without = support::all_inside(support::distinct_sets(q, n), q.size());
      std::size_t prefix = 0;
      double cumulated = 0;
      dense value_with, value_without;
      for (std::size_t k = 0; k <= order.size(); ++k) {
        CHECK(std::abs(with[k] - static_cast<double>(exact_with[prefix])) < 1e-14);
        CHECK(std::abs(without[k] - static_cast<double>(exact_without[prefix])) < 1e-12);
        CHECK(std::abs(rough[k] - static_cast<double>(exact_without[prefix])) < 1e-9);
        value_with.push_back(1 + cumulated - with[k]);
        value_without.push_back(1 + cumulated - without[k]);
        if (k == order.size()) break;
        prefix |= std::size_t{1} << order[k];
        cumulated += p[static_cast<std::size_t>(order[k])];
      }
      // The quotients of Q do not fall along the prefixes: the bounds that pass over blocks rest on it.
      for (std::size_t k = 2, h = std::size_t{1} << order[0]; k < without.size(); ++k) {
        const std::size_t next = h | std::size_t{1} << order[k - 1];
        const std::size_t before = h & ~(std::size_t{1} << order[k - 2]);
        for (const auto& exact : {exact_with, exact_without}) {
          const long double last = (exact[h] - exact[before]) / ours.draft()[k - 2];
          CHECK(static_cast<double>(last) <=
                static_cast<double>((exact[next] - exact[h]) / ours.draft()[k - 1]) + 1e-11);
        }
        h = next;
      }
      const auto at = [](const dense& x, index_t k) { return x.at(static_cast<std::size_t>(k)); };
      const auto a = ours.best<independent_draws>(n);
      CHECK(std::abs(at(value_with, a.prefix) - a.acceptance) < 1e-14);
      const auto b = ours.best<draws_without_replacement>(n);
      CHECK(std::abs(at(value_without, b.prefix) - b.acceptance) < 1e-14);
      if (n < ours.support()) {
        CHECK(at(value_with, a.prefix) <= *std::min_element(value_with.begin(), value_with.end()) + 1e-14);
        CHECK(at(value_without, b.prefix) <= *std::min_element(value_without.begin(), value_without.end()) + 1e-14);
      }
    }
  }
}

// Fails for: dropping or renormalising a stage of recursive rejection; the rejected token's own mass kept in q_2.
TEST_CASE("acceptance of recursive rejection is its average over all drafts", "[speculate][enumeration]") {
  optimal_acceptance ours;
  for (std::uint64_t i = 0; i < 210; ++i) {
    const auto [p, q] = random_problem(i);
    INFO("problem " << i);
    ours.prepare(p, q);
    for (index_t n = 1; n <= 4; ++n)
      CHECK(std::abs(ours.recursive_rejection_acceptance<independent_draws>(n) -
                     recursive_by_enumeration(p, q, n, true)) < 1e-13);
    for (index_t n = 1; n <= 2; ++n)
      CHECK(std::abs(ours.recursive_rejection_acceptance<draws_without_replacement>(n) -
                     recursive_by_enumeration(p, q, n, false)) < 1e-13);
    CHECK(std::abs(ours.single() - recursive_by_enumeration(p, q, 1, true)) < 1e-14);
  }
}

// Fails for: an optimum below a rule, one that falls with n, n = 1 that is not sum min(p, q).
TEST_CASE("rules stay below the optimum, which rises with n", "[speculate]") {
  optimal_acceptance ours;
  for (std::uint64_t i = 0; i < 210; ++i) {
    const auto [p, q] = random_problem(i);
    INFO("problem " << i);
    ours.prepare(p, q);
    const double single = ours.single();
    CHECK(std::abs(ours.best<independent_draws>(1).acceptance - single) < 1e-14);
    CHECK(std::abs(ours.best<draws_without_replacement>(1).acceptance - single) < 1e-14);
    CHECK(std::abs(ours.best<hybrid_draws>(1).acceptance - single) < 1e-14);
    double before = 0, before_without = 0;
    for (index_t n = 1; n <= 9; ++n) {
      const double with = ours.best<independent_draws>(n).acceptance;
      const double without = ours.best<draws_without_replacement>(n).acceptance;
      const double rrs = ours.recursive_rejection_acceptance<independent_draws>(n);
      const double beta = k_seq_beta(p, q, k_seq_division_factor(p, q, n));
      const double kseq = k_seq_acceptance(beta, n);
      CHECK(single <= rrs + 1e-13);
      CHECK(rrs <= with + 1e-13);
      CHECK(kseq <= with + 1e-13);
      CHECK(with <= without + 1e-12);
      if (n <= 3) CHECK(recursive_by_enumeration(p, q, n, false) <= without + 1e-12);
      CHECK(with >= before - 1e-13);
      CHECK(without >= before_without - 1e-12);
      if (n >= ours.support()) CHECK(std::abs(without - mass(p, q)) < 1e-14);
      if (n >= ours.support()) CHECK(std::abs(ours.best<hybrid_draws>(n).acceptance - mass(p, q)) < 1e-14);
      before = with;
      before_without = without;
    }
  }
}

// Fails for: 0/0 where the laws are equal or disjoint; a vocabulary of one token; a support that n exhausts.
TEST_CASE("optimal acceptance at the edges", "[speculate]") {
  const auto all = [](const dense& p, const dense& q, index_t n) {
    return std::array{best_acceptance<independent_draws>(p, q, n).acceptance,
                      best_acceptance<draws_without_replacement>(p, q, n).acceptance,
                      best_acceptance<hybrid_draws>(p, q, n).acceptance};
  };
  for (const index_t n : {1, 2, 3, 4, 9, 1000}) {
    INFO("n = " << n);
    for (const double a : all({0.5, 0.5, 0, 0}, {0, 0, 0.5, 0.5}, n)) CHECK(a == 0);
    for (const double a : all({1}, {1}, n)) CHECK(a == 1);
    for (const double a : all({0.5, 0.3, 0.2}, {0.5, 0.3, 0.2}, n)) CHECK(std::abs(a - 1) < 1e-15);
    // One token in the draft's support: nothing else can be drafted.
    for (const double a : all({0.5, 0.3, 0.2}, {0, 1, 0}, n)) CHECK(std::abs(a - 0.3) < 1e-15);
  }
  // Independent draws of (0.1, 0.2, 0.7) against (0.7, 0.2, 0.1): H* = {2, 1}, 1 + 0.3 - 0.9^3.
  const auto three = best_acceptance<independent_draws>(dense{0.7, 0.2, 0.1}, dense{0.1, 0.2, 0.7}, 3);
  CHECK(std::abs(three.acceptance - 0.571) < 1e-15);
  CHECK(three.prefix == 2);
  CHECK(best_acceptance<draws_without_replacement>(dense{0.7, 0.2, 0.1}, dense{0.1, 0.2, 0.7}, 3).prefix == 3);
  CHECK(best_acceptance<hybrid_draws>(dense{0.5, 0.5}, dense{0.5, 0.5}, 2).prefix == -1);
  optimal_acceptance empty;
  CHECK(empty.support() == 0);
  CHECK(empty.order().empty());
  for (const index_t n : {1, 2, 5}) {
    CHECK(empty.best<independent_draws>(n).acceptance == 0);
    CHECK(empty.best<draws_without_replacement>(n).acceptance == 0);
    CHECK(empty.best<hybrid_draws>(n).acceptance == 0);
    CHECK(empty.recursive_rejection_acceptance<independent_draws>(n) == 0);
  }
  CHECK(empty.single() == 0);
}

TEST_CASE("optimal acceptance refuses bad arguments and keeps what it has", "[speculate]") {
  const dense p{0.5, 0.3, 0.2}, q{0.2, 0.3, 0.5};
  const char* name = "optimal_acceptance";
  SLUICE_CHECK_THROWS((optimal_acceptance({.step = 0})), name, "step", -1);
  SLUICE_CHECK_THROWS((optimal_acceptance({.step = 1.5})), name, "step", -1);
  SLUICE_CHECK_THROWS((optimal_acceptance({.step = NAN})), name, "step", -1);
  optimal_acceptance ours;
  ours.prepare(p, q);
  const double before = ours.best<independent_draws>(2).acceptance;
  SLUICE_CHECK_THROWS(ours.best<independent_draws>(0), name, "n", -1);
  SLUICE_CHECK_THROWS(ours.best<draws_without_replacement>(-1), name, "n", -1);
  SLUICE_CHECK_THROWS(ours.best<hybrid_draws>(0), name, "n", -1);
  SLUICE_CHECK_THROWS(ours.recursive_rejection_acceptance<independent_draws>(0), name, "n", -1);
  SLUICE_CHECK_THROWS(ours.recursive_rejection_acceptance<draws_without_replacement>(3), name, "n", -1);
  dense out(4), narrow(3);
  SLUICE_CHECK_THROWS((ours.all_inside<independent_draws>(out, 0)), name, "n", -1);
  SLUICE_CHECK_THROWS((ours.all_inside<independent_draws>(narrow, 2)), name, "out.size", -1);
  SLUICE_CHECK_THROWS(ours.prepare(p, dense{0.5, 0.5}), name, "draft", -1);
  SLUICE_CHECK_THROWS(ours.prepare(dense{0.5, NAN, 0.5}, q), name, "target", 1);
  SLUICE_CHECK_THROWS(ours.prepare(p, dense{0.5, 1, -0.5}), name, "draft", 2);
  SLUICE_CHECK_THROWS(ours.prepare(p, dense{0.2, 0.3, 0.6}), name, "draft", -1);
  SLUICE_CHECK_THROWS((best_acceptance<independent_draws>(p, q, 0)), name, "n", -1);
  const std::vector<token_id> ids{0, 5};
  const dense two{0.5, 0.5};
  const row_fault fault = ours.try_prepare(token_row<double>{row_kind::probabilities, p},
                                           token_row<double>{row_kind::probabilities, two, ids});
  CHECK(fault);
  CHECK(std::string(fault.argument) == "draft");
  CHECK(fault.value == 5);
  CHECK(ours.support() == 3);
  CHECK(ours.best<independent_draws>(2).acceptance == before);
}
