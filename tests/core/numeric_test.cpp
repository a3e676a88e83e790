// Fails for: no shift by the maximum; a shift by the maximum of the whole row only (overflow in earlier blocks); a
// float accumulator; the last, short block dropped or read past its end; NaN lost behind a larger number; -inf - -inf =
// NaN; a block of -inf that ends the row; softmax that writes before it checks; log_add_exp that forgets NaN in its
// second argument.
#include <sluice/core/numeric.hpp>

#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <span>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <vector>

namespace {
constexpr double inf = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

/// Numbers in [-1, 1) without a library: the high bits of a Weyl sequence times a multiplier.
double scatter(std::uint64_t i) {
  std::uint64_t z = (i + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z ^= z >> 27;
  return static_cast<double>(z >> 11) * 0x1p-52 - 1;
}

template <class S>
std::vector<S> logits(std::size_t n, double middle, double spread) {
  std::vector<S> x(n);
  for (std::size_t i = 0; i < n; ++i) x[i] = static_cast<S>(middle + spread * scatter(i));
  return x;
}

template <class S>
long double reference(const std::vector<S>& x, long double scale = 1) {
  long double top = -std::numeric_limits<long double>::infinity(), sum = 0;
  for (const S v : x) top = std::max(top, scale * static_cast<long double>(v));
  for (const S v : x) sum += std::exp(scale * static_cast<long double>(v) - top);
  return top + std::log(sum);
}

template <class S>
double lse(const std::vector<S>& x) {
  return sluice::log_sum_exp(std::span<const S>(x));
}
template <class S>
std::vector<S> softmax_of(const std::vector<S>& x) {
  std::vector<S> out(x.size());
  sluice::softmax(std::span<S>(out), std::span<const S>(x));
  return out;
}
}  // namespace

TEMPLATE_TEST_CASE("log_sum_exp: long rows against long double", "[core][numeric]", float, double) {
  const double tolerance = std::same_as<TestType, float> ? 4e-7 : 2e-15;  // of the sum, so of exp(difference)
  for (const std::size_t n : {std::size_t{1}, std::size_t{7}, std::size_t{511}, std::size_t{512}, std::size_t{513},
                              std::size_t{1025}, std::size_t{128256}})
    for (const double spread : {0.5, 8.0, 40.0})
      for (const double middle : {0.0, -300.0, 12000.0}) {
        const auto x = logits<TestType>(n, middle, spread);
        CAPTURE(n, spread, middle);
        const auto sum = sluice::streaming_log_sum(std::span<const TestType>(x));
        const long double error =
            static_cast<long double>(sum.max()) + std::log(static_cast<long double>(sum.scaled())) - reference(x);
        CHECK(std::abs(static_cast<double>(error)) < tolerance);
      }
}

TEMPLATE_TEST_CASE("streaming_log_sum: a temperature as the scale", "[core][numeric]", float, double) {
  const auto x = logits<TestType>(5000, 3, 20);
  for (const TestType scale : {TestType(0.125), TestType(2), TestType(16)}) {
    const double got = sluice::streaming_log_sum(std::span<const TestType>(x), scale).log();
    CHECK(std::abs(got - static_cast<double>(reference(x, scale))) < (std::same_as<TestType, float> ? 2e-6 : 1e-12));
  }
  // The product of scale and element is beyond S, their logarithmic sum is not.
  const TestType big = std::numeric_limits<TestType>::max() / 2;
  const std::vector<TestType> far{big, -big, big};
  const auto sum = sluice::streaming_log_sum(std::span<const TestType>(far), TestType(4));
  CHECK(sum.max() == 4 * static_cast<double>(big));
  CHECK(sum.scaled() == Approx(2));
  for (const TestType bad : {TestType(0), TestType(-1), TestType(not_a_number), TestType(inf)})
    SLUICE_CHECK_THROWS((sluice::streaming_log_sum(std::span<const TestType>(x), bad)), "streaming_log_sum", "scale",
                        -1);
}

TEMPLATE_TEST_CASE("log_sum_exp: empty rows, -inf, +inf and NaN wherever they stand", "[core][numeric]", float,
                   double) {
  const auto minus = static_cast<TestType>(-inf), plus = static_cast<TestType>(inf),
             bad = static_cast<TestType>(not_a_number);
  CHECK(lse(std::vector<TestType>{}) == -inf);
  for (const std::size_t n : {std::size_t{1}, std::size_t{5}, std::size_t{512}, std::size_t{1300}}) {
    const std::vector<TestType> nothing(n, minus);
    CHECK(lse(nothing) == -inf);
    for (std::size_t i = 0; i<n; i += n> 20 ? 37 : 1) {
      CAPTURE(n, i);
      auto x = nothing;
      x[i] = TestType(2.5);
      CHECK(lse(x) == Approx(2.5).epsilon(1e-6));
      x[i] = bad;
      CHECK(std::isnan(lse(x)));
      x = logits<TestType>(n, 0, 3);
      x[i] = plus;
      CHECK(lse(x) == inf);
      x[n - 1 - i] = bad;  // the same element in the middle
      CHECK(std::isnan(lse(x)));
      x[n - 1 - i] = TestType(1);
      x[i] = bad;
      CHECK(std::isnan(lse(x)));
    }
  }
  std::vector<TestType> gap(2000, TestType(1));  // a whole block of -inf between blocks of numbers
  for (std::size_t i = 512; i < 1024; ++i) gap[i] = minus;
  CHECK(lse(gap) == Approx(1 + std::log(2000.0 - 512)).epsilon(1e-6));
  const std::vector<TestType> extremes{std::numeric_limits<TestType>::lowest(), std::numeric_limits<TestType>::max()};
  CHECK(lse(extremes) == static_cast<double>(std::numeric_limits<TestType>::max()));
}

TEST_CASE("log_sum_exp: adding a constant to the row adds it to the result", "[core][numeric]") {
  const auto x = logits<double>(3000, 0, 10);
  for (const double c : {1e-3, 1.0, 700.0, -1e5}) {
    auto y = x;
    for (double& v : y) v += c;
    CHECK(std::abs(lse(y) - (lse(x) + c)) < 4e-16 * (20 + std::abs(c)) * 4);
  }
  CHECK(sluice::log_mean_exp(std::span<const double>(x)) == Approx(lse(x) - std::log(3000.0)).epsilon(1e-15));
  CHECK(sluice::log_mean_exp(std::span<const double>()) == -inf);
}

TEST_CASE("log_sum: the order of merging does not matter", "[core][numeric]") {
  const auto x = logits<double>(999, 0, 200);
  sluice::log_sum up, down, tree[4];
  for (const double v : x) up.add(v);
  for (auto i = x.rbegin(); i != x.rend(); ++i) down.add(*i);
  for (std::size_t i = 0; i < x.size(); ++i) tree[i % 4].add(x[i]);
  tree[3].merge(tree[1]), tree[0].merge(tree[2]), tree[3].merge(tree[0]);
  CHECK(std::abs(up.log() - down.log()) <= 1e-15 * std::abs(up.log()));
  CHECK(std::abs(up.log() - tree[3].log()) <= 1e-15 * std::abs(up.log()));
}

TEST_CASE("log_sum: empty, infinite and NaN parts", "[core][numeric]") {
  sluice::log_sum none, other;
  CHECK(none.log() == -inf);
  none.merge(other);
  CHECK(none.log() == -inf);
  CHECK(none.scaled() == 0);
  none.add(-inf);
  CHECK(none.log() == -inf);
  none.add(3);
  none.add(-inf);
  CHECK(none.log() == 3);
  none.add(inf);
  CHECK(none.log() == inf);
  none.add(inf);
  none.add(5);
  CHECK(none.log() == inf);
  none.add(not_a_number);
  CHECK(std::isnan(none.log()));
  none.add(inf);
  CHECK(std::isnan(none.log()));
  other.merge(none);
  CHECK(std::isnan(other.log()));
}

TEMPLATE_TEST_CASE("softmax: sums to one, in place too, and allocates nothing", "[core][numeric]", float, double) {
  for (const std::size_t n : {std::size_t{1}, std::size_t{3}, std::size_t{1000}, std::size_t{128256}}) {
    auto x = logits<TestType>(n, 500, 30);
    if (n > 1) x[1] = static_cast<TestType>(-inf);
    const auto p = softmax_of(x);
    long double sum = 0;
    for (const TestType v : p) sum += v;
    CHECK(std::abs(static_cast<double>(sum) - 1) <= static_cast<double>(n) * std::numeric_limits<TestType>::epsilon());
    if (n > 1) CHECK(p[1] == 0);
    CHECK(support::allocations_in([&] { sluice::softmax(std::span<TestType>(x), std::span<const TestType>(x)); }) == 0);
    CHECK(x == p);
  }
  const std::vector<TestType> two{0, std::numbers::ln2_v<TestType>};
  CHECK(softmax_of(two)[1] == Approx(2.0 / 3).epsilon(2e-7));
}

TEST_CASE("softmax: refuses a row without a law and leaves out alone", "[core][numeric]") {
  std::vector<double> out{7, 8, 9};
  const auto call = [&](std::vector<double> x) {
    sluice::softmax(std::span<double>(out), std::span<const double>(x));
    return 0;
  };
  SLUICE_CHECK_THROWS(call({0, not_a_number, 1}), "softmax", "x", 1);
  SLUICE_CHECK_THROWS(call({0, 1, inf}), "softmax", "x", 2);
  SLUICE_CHECK_THROWS(call({inf, not_a_number, 1}), "softmax", "x", 0);
  SLUICE_CHECK_THROWS(call({-inf, -inf, -inf}), "softmax", "x", 0);
  SLUICE_CHECK_THROWS(call({1, 2}), "softmax", "out.size", -1);
  CHECK(out == std::vector<double>{7, 8, 9});
  std::vector<double> empty;
  CHECK_NOTHROW(sluice::softmax(std::span<double>(empty), std::span<const double>(empty)));
}

TEST_CASE("log_add_exp and log1mexp", "[core][numeric]") {
  CHECK(sluice::log_add_exp(0, 0) == Approx(std::numbers::ln2).epsilon(1e-15));
  CHECK(sluice::log_add_exp(-1000, -1000 + std::log(3)) == Approx(-1000 + std::log(4)).epsilon(1e-15));
  CHECK(sluice::log_add_exp(-inf, -inf) == -inf);
  CHECK(sluice::log_add_exp(-inf, 2) == 2);
  CHECK(sluice::log_add_exp(2, -inf) == 2);
  CHECK(sluice::log_add_exp(inf, -inf) == inf);
  CHECK(sluice::log_add_exp(1, inf) == inf);
  CHECK(std::isnan(sluice::log_add_exp(not_a_number, 1)));
  CHECK(std::isnan(sluice::log_add_exp(1, not_a_number)));
  CHECK(std::isnan(sluice::log_add_exp(inf, not_a_number)));
  // Both formulas, on both sides of -ln 2, against long double.
  for (const double x : {-1e-300, -1e-17, -1e-8, -0.1, -0.69, -0.7, -3.0, -40.0, -700.0}) {
    const long double exact = x > -1 ? std::log(-std::expm1(static_cast<long double>(x)))
                                     : std::log1p(-std::exp(static_cast<long double>(x)));
    CHECK(sluice::log1mexp(x) == Approx(static_cast<double>(exact)).epsilon(4e-16));
  }
  CHECK(sluice::log1mexp(-inf) == 0);
  CHECK(sluice::log1mexp(0) == -inf);
}

TEST_CASE("digamma: known values, the recurrence and the edges", "[core][numeric]") {
  constexpr double gamma = std::numbers::egamma;
  CHECK(sluice::digamma(1) == Approx(-gamma).epsilon(1e-13));
  CHECK(sluice::digamma(0.5) == Approx(-gamma - 2 * std::numbers::ln2).epsilon(1e-13));
  CHECK(sluice::digamma(0.25) == Approx(-gamma - std::numbers::pi / 2 - 3 * std::numbers::ln2).epsilon(1e-13));
  CHECK(sluice::digamma(10) == Approx(2.2517525890667211).epsilon(1e-13));
  CHECK(sluice::digamma(9.999) == Approx(sluice::digamma(10.999) - 1 / 9.999).epsilon(1e-13));
  CHECK(sluice::digamma(1e-10) == Approx(-1e10 - gamma).epsilon(1e-15));
  CHECK(sluice::digamma(1e300) == Approx(std::log(1e300)).epsilon(1e-15));
  CHECK(std::isnan(sluice::digamma(not_a_number)));
  CHECK(sluice::digamma(inf) == inf);
  SLUICE_CHECK_THROWS(sluice::digamma(0), "digamma", "x", -1);
  SLUICE_CHECK_THROWS(sluice::digamma(-1e300), "digamma", "x", -1);
}

TEST_CASE("argmax: the lowest index on ties, numbers before NaN", "[core][numeric]") {
  const auto at = [](std::vector<float> x) { return sluice::argmax(std::span<const float>(x)); };
  const auto bad = static_cast<float>(not_a_number), minus = static_cast<float>(-inf);
  CHECK(at({}) == -1);
  CHECK(at({minus}) == 0);
  CHECK(at({1, 3, 3, 2}) == 1);
  CHECK(at({minus, minus}) == 0);
  CHECK(at({bad, minus, bad}) == 1);
  CHECK(at({1, bad, 2}) == 2);
  CHECK(at({bad, bad}) == 0);
}
