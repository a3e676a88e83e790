#include <catch2/catch.hpp>
#include <sluice/speculate/recursive_rejection.hpp>
#include <support/check_throws.hpp>

#include "rounds.hpp"

using namespace sluice;
using rounds::format;

namespace {

/// Calls f(children, probability) for all ways to draw n children from q.
template <class F>
void all_children(const std::vector<double>& q, index_t n, bool replacement, F&& f) {
  rounds::all_strings(std::ssize(q), n, [&](const std::vector<token_id>& x) {
    double probability = 1, left = 1;
    for (std::size_t k = 0; k < x.size(); ++k) {
      const double qx = q[static_cast<std::size_t>(x[k])];
      const bool seen = std::find(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(k), x[k]) !=
                        x.begin() + static_cast<std::ptrdiff_t>(k);
      probability *= !replacement && seen ? 0.0 : qx / left;
      if (!replacement) left -= qx;
      if (probability == 0) break;
    }
    if (probability > 0) f(x, probability);
  });
}

/// Recursive rejection as it is written in the sources, with stored stages; mutants leave a step out.
enum class variant { exact, skips_duplicates, forgets_to_renormalise, keeps_residual };
struct stored_stages {
  bool replacement;
  variant mutant = variant::exact;
  template <class R>
  node_decision operator()(std::vector<double> r, std::vector<double> q, std::span<const token_id> children,
                           R& random) const {
    std::vector<bool> seen(r.size(), false);
    for (index_t k = 0; k < std::ssize(children); ++k) {
      const auto x = static_cast<std::size_t>(children[static_cast<std::size_t>(k)]);
      if (seen[x] && mutant == variant::skips_duplicates) continue;
      seen[x] = true;
      if (bernoulli_ratio(random, r[x], q[x])) return {k, static_cast<token_id>(x), {}};
      double sum = 0, left = 0;
      std::vector<double> next(r.size());
      for (std::size_t y = 0; y < r.size(); ++y) sum += next[y] = std::max(0.0, r[y] - q[y]);
      for (double& v : next) v /= sum;
      if (mutant != variant::keeps_residual) r = next;
      if (replacement) continue;
      q[x] = 0;
      if (mutant == variant::forgets_to_renormalise) continue;
      for (const double v : q) left += v;
      if (left > 0)
        for (double& v : q) v /= left;
    }
    return {-1, static_cast<token_id>(random.categorical(std::span<const double>(r))), {}};
  }
};

struct node_report {
  double worst = 0, accepted = 0;
  int faults = 0;
};
/// The exact law of the token that `decide(children, random)` emits.
template <class Decide>
node_report enumerate_node(Decide&& decide, const std::vector<double>& p, const std::vector<double>& q, index_t n,
                           bool replacement) {
  std::vector<double> law(p.size());
  node_report report;
  all_children(q, n, replacement, [&](const std::vector<token_id>& x, double drafted) {
    rounds::all_outcomes(
        [&](auto& random) { return decide(x, random); },
        [&](const node_decision& d, double w) {
          if (d.fault || d.next < 0 || (d.child >= 0 && x[static_cast<std::size_t>(d.child)] != d.next))
            return static_cast<void>(++report.faults);
          law[static_cast<std::size_t>(d.next)] += drafted * w;
          if (d.child >= 0) report.accepted += drafted * w;
        });
  });
  for (std::size_t y = 0; y < p.size(); ++y) report.worst = std::max(report.worst, std::abs(law[y] - p[y]));
  return report;
}

template <class Kind, class S, class Q>
void check_exact(double zeros) {
  constexpr bool replacement = std::same_as<Kind, independent_draws>;
  const recursive_rejection<Kind> rule;
  std::uint64_t id = 0;
  for (index_t v = 2; v <= 4; ++v)
    for (index_t n = 1; n <= 3; ++n)
      for (const format f : {format{row_kind::probabilities, false}, format{row_kind::logits, true}})
        for (const format g : {format{row_kind::logits, false}, format{row_kind::probabilities, true}}) {
          const auto p = rounds::store<S>(rounds::random_law(v, stream(31, ++id), zeros), f);
          const auto q = rounds::store<Q>(rounds::random_law(v, stream(32, id), zeros), g);
          if (!replacement && n > v) continue;
          const auto ours = enumerate_node(
              [&](std::span<const token_id> x, auto& random) { return rule.decide(p.view(), q.view(), x, random); },
              p.law, q.law, n, replacement);
          const auto stored =
              enumerate_node([&](std::span<const token_id> x,
                                 auto& random) { return stored_stages{replacement}(p.law, q.law, x, random); },
                             p.law, q.law, n, replacement);
          CHECK(ours.faults == 0);
          CHECK(ours.worst < 1e-12);
          CHECK(std::abs(ours.accepted - stored.accepted) < 1e-12);
        }
}

}  // namespace

// Fails for: a duplicate that consumes no stage; q not renormalised; the coefficient or the mass of a stage left as it
// was; the last correction from p or from a stage too early.
TEST_CASE("recursive rejection emits the target's law exactly", "[speculate][enumeration]") {
  check_exact<independent_draws, double, double>(0.0);
  check_exact<independent_draws, float, double>(0.3);
  check_exact<draws_without_replacement, double, double>(0.0);
  check_exact<draws_without_replacement, float, float>(0.0);
}

TEST_CASE("enumeration rejects the known mutants of recursive rejection", "[speculate][enumeration]") {
  const auto p = rounds::random_law(4, stream(1)), q = rounds::random_law(4, stream(2));
  const auto worst = [&](bool replacement, variant mutant) {
    return enumerate_node(
               [&](std::span<const token_id> x, auto& random) {
                 return stored_stages{replacement, mutant}(p, q, x, random);
               },
               p, q, 2, replacement)
        .worst;
  };
  CHECK(worst(true, variant::exact) < 1e-12);
  CHECK(worst(false, variant::exact) < 1e-12);
  CHECK(worst(true, variant::skips_duplicates) > 1e-3);
  CHECK(worst(false, variant::forgets_to_renormalise) > 1e-3);
  CHECK(worst(true, variant::keeps_residual) > 1e-3);
}

// Fails for: a stage target that is not normalised, or an acceptance that uses p for r_k.
TEST_CASE("the closed form of the stages is the recursion", "[speculate]") {
  const auto p = rounds::random_law(6, stream(4), 0.2), q = rounds::random_law(6, stream(5));
  {
    rejection_stage stage;
    const std::vector<double>& s = q;
    std::vector<double> r = p, got(p.size());
    for (const token_id x : {2, 0, 4}) {
      stage_target(got, stage, p, q);
      double sum = 0;
      for (std::size_t y = 0; y < p.size(); ++y) {
        CHECK(got[y] == Approx(r[y]).epsilon(1e-12).margin(1e-14));
        if (s[y] > 0) CHECK(stage.acceptance(p[y], q[y]) == Approx(std::min(1.0, r[y] / s[y])).margin(1e-14));
        sum += std::max(0.0, r[y] - s[y]);
      }
      for (std::size_t y = 0; y < p.size(); ++y) r[y] = std::max(0.0, r[y] - s[y]) / sum;
      stage = next_stage<independent_draws>(stage, p, q, x);
    }
  }
}

// Fails for: K = 1 that differs from the chain rule; a top-k node that accepts with anything but the target's mass.
TEST_CASE("node rules agree where they must", "[speculate][enumeration]") {
  const auto p = rounds::store<double>(rounds::random_law(4, stream(6)), {});
  const auto q = rounds::store<double>(rounds::random_law(4, stream(7)), {});
  const auto accepted = [&](const auto& rule, index_t n) {
    return enumerate_node(
        [&](std::span<const token_id> x, auto& random) { return rule.decide(p.view(), q.view(), x, random); }, p.law,
        q.law, n, true);
  };
  const auto one = accepted(recursive_rejection<independent_draws>{}, 1), chain = accepted(token_rejection{}, 1);
  CHECK(one.accepted == Approx(acceptance_rate(p.law, q.law)).epsilon(1e-13));
  CHECK(chain.accepted == Approx(one.accepted).epsilon(1e-13));
  CHECK(accepted(token_rejection{}, 0).worst < 1e-14);
  CHECK(accepted(recursive_rejection<independent_draws>{}, 0).worst < 1e-14);

  const token_id top[2] = {3, 1};
  double top_accepted = 0;
  std::vector<double> law(4);
  rounds::all_outcomes(
      [&](auto& random) { return recursive_rejection<top_draws>{}.decide(p.view(), q.view(), top, random); },
      [&](const node_decision& d, double w) {
        law[static_cast<std::size_t>(d.next)] += w;
        if (d.child >= 0) {
          CHECK(top[d.child] == d.next);
          top_accepted += w;
        }
      });
  CHECK(top_accepted == Approx(p.law[1] + p.law[3]).epsilon(1e-13));
  for (std::size_t y = 0; y < 4; ++y) CHECK(law[y] == Approx(p.law[y]).epsilon(1e-13));

  // Recursive rejection with drafts of probability one, stage by stage, is the same.
  double mass = 1, reached = 1;
  for (const token_id x : top) {
    const double r = p.law[static_cast<std::size_t>(x)] / mass;
    reached *= 1 - r;
    mass -= p.law[static_cast<std::size_t>(x)];
  }
  CHECK(1 - reached == Approx(top_accepted).epsilon(1e-13));
}

TEST_CASE("recursive rejection reports what it cannot use", "[speculate]") {
  const std::vector<double> p = {0.5, 0.5, 0.0}, q = {0.25, 0.75, 0.0}, nan = {0.5, NAN, 0.5};
  const token_row<double> target{row_kind::probabilities, p}, draft{row_kind::probabilities, q},
      bad{row_kind::probabilities, nan};
  cursor random{stream{1}};
  const recursive_rejection<draws_without_replacement> without;
  const recursive_rejection<independent_draws> with;
  const token_id twice[2] = {1, 1}, outside[2] = {0, 3}, impossible[1] = {2}, negative[1] = {-1};
  SLUICE_CHECK_THROWS(without(target, draft, twice, random), "recursive_rejection", "drafted", 1);
  CHECK_NOTHROW(with(target, draft, twice, random));
  SLUICE_CHECK_THROWS(with(target, draft, outside, random), "recursive_rejection", "drafted", 1);
  SLUICE_CHECK_THROWS(with(target, draft, negative, random), "recursive_rejection", "drafted", 0);
  SLUICE_CHECK_THROWS(with(target, draft, impossible, random), "recursive_rejection", "draft", 2);
  SLUICE_CHECK_THROWS(with(bad, draft, twice, random), "recursive_rejection", "target", 1);
  SLUICE_CHECK_THROWS(with(target, bad, twice, random), "recursive_rejection", "draft", 1);
  CHECK_NOTHROW(with(target, bad, {}, random));  // no child: the draft is not read
  const auto d = token_rejection{}.decide(target, draft, twice, random);
  CHECK(std::string(d.fault.argument) == "children.size");
}
