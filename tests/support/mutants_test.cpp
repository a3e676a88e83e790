// The gate rejects wrong samplers at the sample size that was promised, in 995 of 1000 seeds at least, and passes the
// right ones.
// Fails for: a gate with less power than chi_square_noncentrality says; a gate that rejects the correct law.
#include <sluice/draw/inverse_cdf.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/random/stream.hpp>

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <numbers>
#include <span>
#include <support/enumerate.hpp>
#include <support/statistics.hpp>
#include <vector>

namespace {
using namespace support;
using doubles = std::vector<double>;

doubles normalised(doubles w) {
  double total = 0;
  for (const double x : w) total += x;
  for (double& x : w) x /= total;
  return w;
}
/// Zipf's law over 8 tokens and a hotter, disturbed draft of it: total variation .1507.
struct pair_of_laws {
  doubles p, q;
};
pair_of_laws zipf_pair() {
  const sluice::stream words(1, 0x701);
  pair_of_laws laws;
  for (std::uint64_t i = 0; i < 8; ++i) {
    const auto w = words.block(i / 2);  // Box-Muller, cosine first
    const double r = std::sqrt(-2 * std::log(sluice::oc53(w[0]))), angle = 2 * std::numbers::pi * sluice::co53(w[1]);
    const double z = r * (i % 2 ? std::sin(angle) : std::cos(angle)), zipf = -std::log1p(static_cast<double>(i));
    laws.p.push_back(std::exp(zipf));
    laws.q.push_back(std::exp(zipf / 1.3 + .5 * z));
  }
  return {normalised(laws.p), normalised(laws.q)};
}

enum class rule { right, redraw_from_p, residual_absolute, always_accept, accept_with_p };
/// One token of speculative sampling: a draft from q, accepted or replaced so that it is of law p; and wrong ones.
template <class R>
std::ptrdiff_t speculate(R& random, const pair_of_laws& laws, rule which) {
  const auto& [p, q] = laws;
  const auto draft = sluice::categorical(random, std::span<const double>(q));
  const auto d = static_cast<std::size_t>(draft);
  if (which == rule::always_accept) return draft;
  if (sluice::bernoulli(random, which == rule::accept_with_p ? p[d] : std::min(1.0, p[d] / q[d]))) return draft;
  if (which == rule::redraw_from_p) return sluice::categorical(random, std::span<const double>(p));
  doubles residual;
  for (std::size_t i = 0; i < p.size(); ++i)
    residual.push_back(which == rule::residual_absolute ? std::abs(p[i] - q[i]) : std::max(0.0, p[i] - q[i]));
  return sluice::categorical(random, std::span<const double>(residual));
}

doubles law_of(const std::map<std::ptrdiff_t, double>& law) {
  doubles p(8);
  for (const auto& [i, x] : law) p[static_cast<std::size_t>(i)] = x;
  return p;
}
double distance(const doubles& p, const doubles& q) {
  double sum = 0;
  for (std::size_t i = 0; i < p.size(); ++i) sum += std::abs(p[i] - q[i]);
  return sum / 2;
}

/// How many of the seeds the sampler passes with n draws.
template <class Sampler>
int passed(int seeds, int n, const doubles& p, Sampler&& draw) {
  int count = 0;
  std::vector<std::uint64_t> counts(p.size());
  for (int seed = 0; seed < seeds; ++seed) {
    sluice::cursor random(sluice::stream(31).derive(static_cast<std::uint64_t>(seed)));
    std::fill(counts.begin(), counts.end(), 0);
    for (int i = 0; i < n; ++i) ++counts[static_cast<std::size_t>(draw(random))];
    count += fits(counts, p).passes();
  }
  return count;
}
}  // namespace

TEST_CASE("mutants: speculative sampling", "[mutants]") {
  const auto laws = zipf_pair();
  CHECK(distance(laws.p, laws.q) == Approx(.1507).margin(5e-5));
  struct mutant {
    rule which;
    double tv;
    int n;
  };
  for (const auto& m : {mutant{rule::redraw_from_p, .0467, 5450}, mutant{rule::residual_absolute, .0753, 1800},
                        mutant{rule::always_accept, .1507, 449}, mutant{rule::accept_with_p, .2721, 187}}) {
    const auto exact = enumerate([&](auto& random) { return speculate(random, laws, m.which); });
    CAPTURE(static_cast<int>(m.which), m.n);
    CHECK(distance(law_of(exact.law), laws.p) == Approx(m.tv).margin(5e-5));
    double effect = 0;
    for (std::size_t i = 0; i < 8; ++i) effect += std::pow(law_of(exact.law)[i] - laws.p[i], 2) / laws.p[i];
    CHECK(chi_square_noncentrality(7) / effect == Approx(m.n).epsilon(.01));
    // The noncentral law supposes a small effect. Counts of |p - q| vary more than those of p: at 1800 draws 8 of 1000
    // seeds pass, so this one gets a tenth more.
    const int n = m.which == rule::residual_absolute ? m.n * 11 / 10 : m.n;
    const int alive = passed(1000, n, laws.p, [&](auto& random) { return speculate(random, laws, m.which); });
    CHECK(alive <= 5);
  }
  const auto exact = enumerate([&](auto& random) { return speculate(random, laws, rule::right); });
  CHECK(distance(law_of(exact.law), laws.p) <= 1e-15);
  CHECK(passed(100, 5450, laws.p, [&](auto& random) { return speculate(random, laws, rule::right); }) == 100);
}

TEST_CASE("mutants: 8-bit word modulo 100", "[mutants]") {
  const doubles p(100, .01);
  CHECK(passed(200, 4370, p, [](auto& random) { return (random() >> 56) % 100; }) <= 1);
  CHECK(passed(100, 4370, p, [](auto& random) { return sluice::below(random, 100); }) == 100);
}

TEST_CASE("mutants: shuffle of four with below(4)", "[mutants]") {
  const auto draw = [](auto& random, bool right) {
    std::array<int, 4> x{0, 1, 2, 3};
    for (std::size_t i = 3; i > 0; --i) std::swap(x[i], x[sluice::below(random, right ? i + 1 : 4)]);
    int rank = 0;
    for (std::size_t i = 0; i < 4; ++i) {
      int smaller = 0;
      for (std::size_t j = i + 1; j < 4; ++j) smaller += x[j] < x[i];
      rank = rank * static_cast<int>(4 - i) + smaller;
    }
    return rank;
  };
  const doubles p(24, 1.0 / 24);
  CHECK(passed(1000, 418, p, [&](auto& random) { return draw(random, false); }) <= 5);
  CHECK(passed(100, 418, p, [&](auto& random) { return draw(random, true); }) == 100);
}

TEST_CASE("mutants: two without replacement by rejecting equal draws of pairs", "[mutants]") {
  const doubles w{1, 2, 3, 4, 5};
  doubles p(25);
  for (std::size_t i = 0; i < 5; ++i)
    for (std::size_t j = 0; j < 5; ++j)
      if (i != j) p[5 * i + j] = w[i] / 15 * w[j] / (15 - w[i]);
  const auto draw = [&](auto& random, bool right) {
    const auto i = sluice::categorical(random, std::span<const double>(w));
    for (;;) {
      const auto a = right ? i : sluice::categorical(random, std::span<const double>(w));
      const auto b = sluice::categorical(random, std::span<const double>(w));
      if (a != b) return 5 * a + b;
    }
  };
  CHECK(passed(300, 8370, p, [&](auto& random) { return draw(random, false); }) <= 2);
  CHECK(passed(50, 8370, p, [&](auto& random) { return draw(random, true); }) == 50);
}

TEST_CASE("mutants: a sum of 12 uniforms is no normal number, by its fourth moment", "[mutants][slow]") {
  constexpr int n = 610'000;
  sluice::cursor random(sluice::stream(32));
  double sum = 0;
  for (int i = 0; i < n; ++i) {
    double x = -6;
    for (int k = 0; k < 12; ++k) x += sluice::co53(random());
    sum += x * x * x * x;
  }
  CHECK(std::abs(z_of_mean(sum / n, 3, std::sqrt(96.0), n)) > house_z);
}

TEST_CASE("mutants: temperature .98 needs 371 000 draws", "[mutants][slow]") {
  const auto laws = zipf_pair();
  doubles warmer;
  for (const double x : laws.p) warmer.push_back(std::pow(x, 1 / .98));
  warmer = normalised(warmer);
  double effect = 0;
  for (std::size_t i = 0; i < 8; ++i) effect += (warmer[i] - laws.p[i]) * (warmer[i] - laws.p[i]) / laws.p[i];
  CHECK(chi_square_noncentrality(7) / effect == Approx(371'000).epsilon(.05));
  const auto draw = [&](auto& random) { return sluice::categorical(random, std::span<const double>(warmer)); };
  CHECK(passed(20, 371'000, laws.p, draw) == 0);
}
