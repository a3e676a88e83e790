#include <catch2/catch.hpp>
#include <map>
#include <sluice/draw/pps_threshold.hpp>
#include <sluice/draw/var_opt.hpp>
#include <support/enumerate.hpp>

#include "draw_support.hpp"

// Fails for: dropping with probability w/tau; tau = W/m; an old light item dropped with probability 1 - tau/w; demotion
// while W >= m min H; the estimate w instead of tau for light items; merging by original weights.

using namespace sluice;
using namespace draw_test;

namespace {
/// Expected weight and inclusion of every item over all outcomes of the stream.
struct moments {
  std::vector<double> estimate, inclusion;
  double pair_01 = 0, worst_total = 0;
};
template <class Run>
moments expect_over_outcomes(const std::vector<double>& w, Run run) {
  moments m{std::vector<double>(w.size()), std::vector<double>(w.size())};
  const double total = sum_of(w);
  support::enumerating_source source;
  double all = 0;
  do {
    const weighted_sample s = run(source);
    const double p = static_cast<double>(source.probability());
    all += p;
    double estimate = 0;
    int first_two = 0;
    for (std::size_t j = 0; j < s.index.size(); ++j) {
      const auto i = static_cast<std::size_t>(s.index[j]);
      m.estimate[i] += p * s.weight[j];
      m.inclusion[i] += p;
      estimate += s.weight[j] * w[i];
      first_two += i < 2;
    }
    m.pair_01 += first_two == 2 ? p : 0;
    m.worst_total = std::max(m.worst_total, std::abs(estimate / total - 1));
  } while (source.advance());
  CHECK(all == Approx(1).epsilon(1e-12));
  return m;
}
}  // namespace

TEST_CASE("var_opt: exact inclusion probabilities, unbiased weights, exact total", "[var_opt]") {
  for (const std::vector<double>& w : {std::vector<double>{3, 1, 0, 8, 2, 2, 1}, std::vector<double>{1, 1, 1, 1, 1, 1},
                                       std::vector<double>{0.1, 0.2, 5, 0.4, 7, 0.3, 0.3}}) {
    for (const index_t k : {1, 2, 3, 4}) {
      var_opt design;
      const moments m =
          expect_over_outcomes(w, [&](support::enumerating_source& source) { return design.draw(w, k, source); });
      std::vector<double> pi(w.size());
      pps_probabilities().compute_into(pi, w, k);
      for (std::size_t i = 0; i < w.size(); ++i) {
        CHECK(m.inclusion[i] == Approx(pi[i]).margin(1e-12));
        CHECK(m.estimate[i] == Approx(w[i] > 0 ? 1 : 0).margin(1e-12));
      }
      CHECK(m.worst_total < 1e-12);
      CHECK(m.pair_01 <= pi[0] * pi[1] + 1e-12);  // never positively correlated
      CHECK(design.threshold() == Approx(pps_threshold(w, k)).epsilon(1e-12));
    }
  }
}

TEST_CASE("var_opt: a merge of two streams is unbiased and keeps the total", "[var_opt]") {
  const std::vector<double> w{3, 1, 2, 5, 1, 2, 4, 1};
  const moments m = expect_over_outcomes(w, [&](support::enumerating_source& source) {
    var_opt a(2), b(2);
    for (index_t i = 0; i < 4; ++i) a.add(i, w[static_cast<std::size_t>(i)], source);
    for (index_t i = 4; i < 8; ++i) b.add(i, w[static_cast<std::size_t>(i)], source);
    a.merge(b, source);
    weighted_sample s;
    a.sample_into(s);
    CHECK(s.index.size() == 2);
    CHECK(s.population == 8);
    CHECK(s.kind == probability_kind::none);
    return s;
  });
  for (const double e : m.estimate) CHECK(e == Approx(1).margin(1e-12));
  CHECK(m.worst_total < 1e-12);
}

TEST_CASE("var_opt: the total weight has no variance", "[var_opt]") {
  cursor random(stream{91});
  for (int repeat = 0; repeat < 200; ++repeat) {
    std::vector<double> w(500);
    for (double& v : w) v = bernoulli(random, 0.2) ? 0.0 : std::exp(10 * co53(random()));
    var_opt sampler(1 + static_cast<index_t>(below(random, 60)));
    for (std::size_t i = 0; i < w.size(); ++i) sampler.add(static_cast<index_t>(i), w[i], random);
    weighted_sample s;
    sampler.sample_into(s);
    double estimate = 0;
    for (std::size_t j = 0; j < s.index.size(); ++j) estimate += s.weight[j] * w[static_cast<std::size_t>(s.index[j])];
    REQUIRE(std::abs(estimate / sum_of(w) - 1) < 1e-12);
    REQUIRE(sampler.total() == Approx(sum_of(w)).epsilon(1e-12));
  }
}

TEST_CASE("var_opt: a stream whose scale changes", "[var_opt]") {
  cursor random(stream{92});
  var_opt sampler(3);
  for (int i = 0; i < 10; ++i) sampler.add(i, 5e-324, random);
  weighted_sample s;
  sampler.sample_into(s);
  CHECK(s.weight[0] == Approx(10.0 / 3));
  for (int i = 10; i < 20; ++i) sampler.add(i, 1.0, random);
  CHECK(sampler.total() == Approx(10));
  for (int i = 20; i < 30; ++i) sampler.add(i, 1e307, random);
  CHECK(sampler.total() == Approx(1e308));
  sampler.sample_into(s);
  for (const index_t i : s.index) CHECK(i >= 20);
  CHECK(s.weight[0] == Approx(10.0 / 3));
}

TEST_CASE("var_opt: fewer items than places are all kept, and k = 0 keeps none", "[var_opt]") {
  cursor random(stream{93});
  var_opt design;
  const weighted_sample s = design.draw(std::vector<double>{1e300, 0, 1e-300}, 5, random);
  CHECK(s.index.size() == 2);
  CHECK(s.weight == std::vector<double>{1, 1});
  CHECK(s.threshold == 0);
  var_opt none(0);
  none.add(0, 1.0, random);
  CHECK(none.size() == 0);
  CHECK_THROWS_AS(var_opt(-1), invalid_argument);
  CHECK_THROWS_AS(none.add(1, -1.0, random), invalid_argument);
  CHECK_THROWS_AS(none.merge(none, random), invalid_argument);
}
