#include <catch2/catch.hpp>
#include <sluice/draw/estimators.hpp>
#include <sluice/draw/with_replacement.hpp>
#include <support/check_throws.hpp>
#include <support/enumerate.hpp>

#include "draw_support.hpp"

// Fails for: k instead of k - 1; Y instead of Y^2; the diagonal left out of Horvitz-Thompson; the half left out of
// Sen-Yates-Grundy; estimates not divided by pi_ij.

using namespace sluice;
using namespace draw_test;

namespace {

/// Successive sampling of k = 2 of 4, every outcome: sets with their probabilities.
struct design_of_pairs {
  std::vector<double> w{1, 2, 3, 4}, y{3, -1, 4, 2}, pi = std::vector<double>(4), pair = std::vector<double>(16);
  std::vector<std::pair<weighted_sample, double>> outcomes;
  design_of_pairs() {
    const double total = sum_of(w);
    for (std::size_t i = 0; i < 4; ++i)
      for (std::size_t j = i + 1; j < 4; ++j) {
        const double p = w[i] / total * w[j] / (total - w[i]) + w[j] / total * w[i] / (total - w[j]);
        pi[i] += p, pi[j] += p;
        pair[i * 4 + j] = pair[j * 4 + i] = p;
      }
    for (std::size_t i = 0; i < 4; ++i)
      for (std::size_t j = i + 1; j < 4; ++j) {
        weighted_sample s;
        s.kind = probability_kind::inclusion;
        for (const std::size_t m : {i, j}) {
          s.index.push_back(static_cast<index_t>(m));
          s.probability.push_back(pi[m]);
          s.weight.push_back(1 / pi[m]);
        }
        outcomes.emplace_back(s, pair[i * 4 + j]);
      }
  }
};

}  // namespace

TEST_CASE("estimators: Horvitz-Thompson by enumeration of a design of fixed size", "[estimators]") {
  const design_of_pairs d;
  const double total = sum_of(d.y);
  const auto pair = [&](index_t i, index_t j) { return d.pair[static_cast<std::size_t>(i * 4 + j)]; };
  double mean = 0, variance = 0, ht = 0, syg = 0;
  for (const auto& [s, p] : d.outcomes) {
    const double e = estimate_total(d.y, s);
    CHECK(estimate_total([&](index_t i) { return d.y[static_cast<std::size_t>(i)]; }, s) == e);
    mean += p * e;
    variance += p * (e - total) * (e - total);
    ht += p * horvitz_thompson_variance_estimate(d.y, pair, s);
    syg += p * sen_yates_grundy_variance_estimate(d.y, pair, s);
  }
  CHECK(mean == Approx(total).epsilon(1e-12));
  CHECK(horvitz_thompson_variance(d.pi, d.pair, d.y) == Approx(variance).epsilon(1e-12));
  CHECK(sen_yates_grundy_variance(d.pi, d.pair, d.y) == Approx(variance).epsilon(1e-12));
  CHECK(ht == Approx(variance).epsilon(1e-12));
  CHECK(syg == Approx(variance).epsilon(1e-12));
}

TEST_CASE("estimators: Hansen-Hurwitz by enumeration of the design with replacement", "[estimators]") {
  const std::vector<double> w{1, 2, 3, 0, 4}, y{3, -1, 4, 0, 2};
  with_replacement<> design;
  for (const index_t k : {2, 3}) {
    support::enumerating_source source;
    double mean = 0, variance = 0, estimate = 0, all = 0;
    do {
      const weighted_sample s = design.draw(w, k, source);
      const double p = static_cast<double>(source.probability()), e = estimate_total(y, s);
      all += p;
      mean += p * e;
      variance += p * (e - 8) * (e - 8);
      estimate += p * hansen_hurwitz_variance_estimate(y, s);
    } while (source.advance());
    CHECK(all == Approx(1).epsilon(1e-12));
    CHECK(mean == Approx(8).epsilon(1e-12));
    CHECK(variance == Approx(hansen_hurwitz_variance(w, y, k)).epsilon(1e-12));
    CHECK(estimate == Approx(variance).epsilon(1e-12));
  }
  CHECK(hansen_hurwitz_variance(std::vector<double>{1, 0}, std::vector<double>{1, 1}, 1) == HUGE_VAL);
  CHECK(hansen_hurwitz_variance(std::vector<double>{1, 2}, std::vector<double>{5, 10}, 1) == 0);
}

TEST_CASE("estimators: refuse what does not fit", "[estimators]") {
  const std::vector<double> two{0.5, 0.5}, three{1, 1, 1}, four{0.5, 0.1, 0.1, 0.5};
  weighted_sample s;
  s.index = {0};
  s.weight = {2};
  s.probability = {0.5};
  s.kind = probability_kind::per_draw;
  const auto zero = [](index_t, index_t) { return 0.0; };
  SLUICE_CHECK_THROWS(hansen_hurwitz_variance(two, two, 0), "hansen_hurwitz_variance", "k", -1);
  SLUICE_CHECK_THROWS(hansen_hurwitz_variance(two, three, 1), "hansen_hurwitz_variance", "y.size", -1);
  SLUICE_CHECK_THROWS(hansen_hurwitz_variance_estimate(two, s), "hansen_hurwitz_variance_estimate", "sample.size", -1);
  SLUICE_CHECK_THROWS(horvitz_thompson_variance(two, three, two), "horvitz_thompson_variance", "pair.size", -1);
  SLUICE_CHECK_THROWS(horvitz_thompson_variance(two, four, three), "horvitz_thompson_variance", "y.size", -1);
  SLUICE_CHECK_THROWS((sen_yates_grundy_variance(std::vector<double>{0.5, 0}, four, two)), "sen_yates_grundy_variance",
                      "pi", 1);
  SLUICE_CHECK_THROWS((poisson_variance(std::vector<double>{1.5, 1}, two)), "poisson_variance", "pi", 0);
  SLUICE_CHECK_THROWS(poisson_variance(three, two), "poisson_variance", "y.size", -1);
  SLUICE_CHECK_THROWS(poisson_variance_estimate(two, s), "poisson_variance_estimate", "sample.kind", -1);
  SLUICE_CHECK_THROWS(horvitz_thompson_variance_estimate(two, zero, s), "horvitz_thompson_variance_estimate",
                      "sample.kind", -1);
  s.kind = probability_kind::inclusion;
  SLUICE_CHECK_THROWS(hansen_hurwitz_variance_estimate(two, s), "hansen_hurwitz_variance_estimate", "sample.kind", -1);
  s.index = {0, 1};
  s.weight = {2, 2};
  s.probability = {0.5, 0.5};
  SLUICE_CHECK_THROWS(sen_yates_grundy_variance_estimate(two, zero, s), "sen_yates_grundy_variance_estimate", "pair",
                      0);
}
