#include <Eigen/Core>
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <sluice/random/distributions.hpp>
#include <span>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <support/enumerate.hpp>
#include <support/scripted.hpp>
#include <vector>

// Fails for: cosine and sine exchanged, u1 and u2 exchanged, co53 under the logarithm, an element that depends on the
// length or the chunk, an element numbered by row instead of by storage, a float uniform rounded to 1, a leftover
// normal kept between calls, a shuffle with below(n), one that starts at the wrong end, choose that takes the last k.
using namespace sluice;

namespace {

const stream key{20240607, 5};

double ulps(double value, long double exact) {
  const double x = std::abs(static_cast<double>(exact));
  return static_cast<double>(std::fabs(static_cast<long double>(value) - exact)) /
         (std::nextafter(x, std::numeric_limits<double>::infinity()) - x);
}

constexpr long double two_pi = 6.283185307179586476925286766559005768L;

struct exact_pair {
  long double cos, sin;
};
exact_pair exact_box_muller(std::uint64_t first, std::uint64_t second) {
  const long double radius = std::sqrt(-2 * std::log(static_cast<long double>(oc53(first))));
  const auto v = static_cast<std::int64_t>(second >> 11);
  const std::int64_t quarter = (v + (std::int64_t{1} << 50)) >> 51;
  const long double r = two_pi * (static_cast<long double>(v - (quarter << 51)) * 0x1p-53L);
  const long double c = std::cos(r), s = std::sin(r);
  switch (quarter % 4) {
    case 0:
      return {radius * c, radius * s};
    case 1:
      return {-radius * s, radius * c};
    case 2:
      return {-radius * c, -radius * s};
    default:
      return {radius * s, -radius * c};
  }
}

}  // namespace

TEST_CASE("normal_at: Box-Muller on its two words, within 4 ulp", "[normal]") {
  double worst = 0;
  for (std::uint64_t e = 0; e < 200000; e += 2) {
    const exact_pair z = exact_box_muller(key.word(e), key.word(e + 1));
    worst = std::max({worst, ulps(normal_at(key, e), z.cos), ulps(normal_at(key, e + 1), z.sin)});
  }
  CHECK(worst <= 4);
}

TEST_CASE("normal_pair: boundary words", "[normal]") {
  using support::word_half, support::word_largest, support::word_zero;
  const std::uint64_t edges[] = {word_zero,     std::uint64_t{1} << 11, word_half - 1, word_half, word_half + (1 << 11),
                                 word_half / 2, word_half / 4,          word_largest};
  for (const std::uint64_t a : edges)
    for (const std::uint64_t b : edges) {
      support::scripted_words words{a, b};
      const auto z = normal_pair(words);
      const exact_pair exact = exact_box_muller(a, b);
      INFO(a << ' ' << b);
      CHECK(words.used() == 2);
      CHECK(((exact.cos == 0 && z[0] == 0) || ulps(z[0], exact.cos) <= 4));
      CHECK(((exact.sin == 0 && z[1] == 0) || ulps(z[1], exact.sin) <= 4));
      CHECK(std::hypot(z[0], z[1]) < 8.58);
    }
}

TEST_CASE("fill_normal: every element is normal_at, for any length, bit for bit", "[normal]") {
  for (const std::size_t n : {0u, 1u, 2u, 3u, 5u, 15u, 16u, 17u, 20u, 33u, 4095u, 4097u, 9000u}) {
    std::vector<double> x(n);
    std::vector<float> y(n);
    fill_normal(x, key, 2.5);
    fill_normal(y, key, 2.5);
    for (std::size_t e = 0; e < n; ++e) {
      REQUIRE(x[e] == 2.5 * normal_at(key, e));
      REQUIRE(y[e] == static_cast<float>(2.5 * normal_at(key, e)));
    }
  }
}

TEST_CASE("normals: a cursor gives the same, two words a pair, and keeps nothing", "[normal]") {
  cursor random(key);
  std::vector<double> x(7), y(4);
  normals(x, random);
  CHECK(random.state().position == 8);
  normals(y, random);
  CHECK(random.state().position == 12);
  for (std::size_t e = 0; e < 7; ++e) CHECK(x[e] == normal_at(key, e));
  for (std::size_t e = 0; e < 4; ++e) CHECK(y[e] == normal_at(key, 8 + e));
}

TEMPLATE_TEST_CASE("fill: elements are numbered in the order of storage", "[normal][uniform]", Eigen::MatrixXd,
                   Eigen::ArrayXXf, (Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>)) {
  using scalar = typename TestType::Scalar;
  TestType x(7, 9);
  fill_normal(x, key);
  for (Eigen::Index e = 0; e < x.size(); ++e)
    REQUIRE(x.data()[e] == static_cast<scalar>(normal_at(key, static_cast<std::uint64_t>(e))));
  // A block is numbered as if it were stored alone.
  TestType big = TestType::Zero(12, 12);
  auto block = big.block(2, 3, 7, 9);
  fill_normal(block, key);
  CHECK((block.array() == x.array()).all());
  CHECK(big.matrix().squaredNorm() == Approx(x.matrix().squaredNorm()));
  TestType u(7, 9);
  fill_uniform(u, key);
  for (Eigen::Index e = 0; e < u.size(); ++e) {
    const double exact = uniform_at(key, static_cast<std::uint64_t>(e));
    REQUIRE(u.data()[e] <= exact);
    REQUIRE(exact - u.data()[e] < (sizeof(scalar) == 8 ? 1e-300 : 0x1p-24));
  }
}

TEST_CASE("fill: rows, spans and batches", "[normal]") {
  Eigen::MatrixXd x = Eigen::MatrixXd::Zero(5, 40);
  fill_normal(x.row(2), key);
  for (Eigen::Index e = 0; e < 40; ++e) CHECK(x(2, e) == normal_at(key, static_cast<std::uint64_t>(e)));
  // A batch, column by column, each with the key of its sample: sample 3 alone is the same.
  Eigen::MatrixXd batch(6, 8);
  for (Eigen::Index j = 0; j < 8; ++j) fill_normal(batch.col(j), key.derive(static_cast<std::uint64_t>(j)));
  Eigen::VectorXd alone(6);
  fill_normal(alone, key.derive(3));
  CHECK(batch.col(3) == alone);
  std::vector<double> storage(10, 7);
  fill_uniform(std::span(storage).first(4), key);
  CHECK(storage[3] == uniform_at(key, 3));
  CHECK(storage[4] == 7);
}

TEST_CASE("exponential and gumbel: the formulas, and the open ends", "[exponential][gumbel]") {
  using support::word_largest, support::word_zero;
  for (std::uint64_t i = 0; i < 20000; ++i) {
    support::scripted_words word{key.word(i)};
    const long double u = static_cast<long double>(oc53(key.word(i))), o = static_cast<long double>(oo52(key.word(i)));
    REQUIRE(ulps(exponential(word), -std::log(u)) <= 3);
    const long double g = -std::log(-std::log(o));
    REQUIRE(std::fabs(static_cast<long double>(gumbel(word)) - g) <= 2e-15L * std::max(1.0L, std::fabs(g)));
  }
  support::scripted_words zero{word_zero}, largest{word_largest};
  CHECK(exponential(largest) == 0);
  CHECK_FALSE(std::signbit(exponential(largest)));
  CHECK(exponential(zero) == Approx(53 * std::log(2.0)));
  CHECK(gumbel(largest) == Approx(53 * std::log(2.0)));
  CHECK(gumbel(zero) == Approx(-std::log(53 * std::log(2.0))));
}

TEST_CASE("shuffle: all orders are equally likely, by enumeration", "[shuffle]") {
  const auto law = support::enumerate([](auto& random) {
    std::vector<int> x{0, 1, 2, 3};
    shuffle(x, random);
    return x;
  });
  CHECK(law.law.size() == 24);
  for (const auto& [order, p] : law.law) CHECK(p == Approx(1.0 / 24).epsilon(1e-14));
  // A shuffle with below(n) for below(i + 1) is not uniform: the test above would reject it.
  const auto wrong = support::enumerate([](auto& random) {
    std::vector<int> x{0, 1, 2, 3};
    for (std::size_t i = 3; i >= 1; --i) std::swap(x[i], x[static_cast<std::size_t>(below(random, 4))]);
    return x;
  });
  CHECK(support::total_variation(wrong.law, law.law) > 0.1);
}

TEST_CASE("shuffle: swaps from the last place down", "[shuffle]") {
  // below(4) = 1, below(3) = 0, below(2) = 1 by the words 1/4, 0, 1/2.
  auto words = support::scripted_words::uniforms({0.25, 0.125, 0.5});
  std::vector<int> x{10, 11, 12, 13};
  shuffle(x, words);
  CHECK(x == std::vector<int>{12, 13, 10, 11});
  CHECK(words.used() == 3);
  std::vector<int> none, one{1};
  shuffle(none, words);
  shuffle(one, words);
  CHECK(words.used() == 3);
}

TEST_CASE("choose: the first k of a shuffle, all ordered choices equally likely", "[choose]") {
  const auto law = support::enumerate([](auto& random) { return choose(4, 2, random); });
  CHECK(law.law.size() == 12);
  for (const auto& [chosen, p] : law.law) CHECK(p == Approx(1.0 / 12).epsilon(1e-14));
  cursor a(key), b(key);
  std::vector<index_t> all{0, 1, 2, 3, 4, 5, 6, 7, 8};
  shuffle(all, a);
  all.resize(4);
  CHECK(choose(9, 4, b) == all);
  CHECK(a.state() == b.state());
  CHECK(choose(0, 0, a).empty());
  CHECK(choose(3, 0, a).empty());
  SLUICE_CHECK_THROWS(choose(3, 4, a), "choose", "k", -1);
  SLUICE_CHECK_THROWS(choose(3, -1, a), "choose", "k", -1);
  SLUICE_CHECK_THROWS(choose(-1, 0, a), "choose", "n", -1);
}

TEST_CASE("fill_normal: bad sd is refused, nothing changes; nothing is allocated", "[normal]") {
  std::vector<double> x(100, 3.0);
  SLUICE_CHECK_THROWS(fill_normal(x, key, -1), "fill_normal", "sd", -1);
  SLUICE_CHECK_THROWS(fill_normal(x, key, std::nan("")), "fill_normal", "sd", -1);
  SLUICE_CHECK_THROWS(fill_normal(x, key, std::numeric_limits<double>::infinity()), "fill_normal", "sd", -1);
  CHECK(x == std::vector<double>(100, 3.0));
  fill_normal(x, key, 0);
  CHECK(std::all_of(x.begin(), x.end(), [](double v) { return v == 0; }));
  CHECK(support::allocations_in([&] {
          fill_normal(x, key);
          fill_uniform(x, key);
        }) == 0);
}
