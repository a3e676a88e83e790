#include <sluice/core/exp_block.hpp>

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <vector>

using sluice::index_t;
using sluice::detail::exp_block;
using sluice::detail::exp_block_sum;
using sluice::detail::exp_block_sum_portable;

namespace {

template <class S>
constexpr S inf = std::numeric_limits<S>::infinity();
template <class S>
constexpr S not_a_number = std::numeric_limits<S>::quiet_NaN();

template <class S>
S exp_of(S x, S shift = 0) {
  S out;
  exp_block(&out, &x, 1, shift);
  return out;
}

/// Distance from exp(x) in units of the last place of the nearest value.
template <class S>
double ulps(S got, S x) {
  const long double exact = std::exp(static_cast<long double>(x));
  const S near = static_cast<S>(exact);
  const auto unit = static_cast<long double>(std::nextafter(near, inf<S>) - near);
  return static_cast<double>(std::abs(static_cast<long double>(got) - exact) / unit);
}

/// Values of both signs whose size grows by a factor, from `least` to 88.
template <class F>
void over_the_range(float least, float factor, F&& f) {
  for (float a = least; a < 88; a *= factor) {
    f(a);
    if (a < 87) f(-a);
  }
  for (int n = -125; n <= 126; ++n)  // both sides of the points where the reduction changes its multiple of ln 2
    for (const double d : {-1e-6, 0.0, 1e-6}) f(static_cast<float>((n + 0.5) * 0.6931471805599453 + d));
}

/// Values in [-86, 0], no two alike.
template <class S>
std::vector<S> values(std::size_t n) {
  std::vector<S> x(n);
  for (std::size_t i = 0; i < n; ++i) x[i] = static_cast<S>(-86.0 * static_cast<double>((i * 37 + 11) % 71) / 71);
  return x;
}

}  // namespace

// Fails for: a constant of the polynomial or of the split ln 2 off in its seventh digit; truncation instead of rounding
// to the multiple of ln 2; a polynomial of degree 5.
TEST_CASE("exp_block: two units in the last place over the whole range", "[core]") {
  double worst = 0;
  over_the_range(1e-9f, 1.00003f, [&](float x) { worst = std::max(worst, ulps(exp_of(x), x)); });
  CHECK(worst < 2);
  CHECK(exp_of(0.0f) == 1.0f);
  double worst_double = 0;
  for (double x = -700; x < 700; x += 0.0371) worst_double = std::max(worst_double, ulps(exp_of(x), x));
  CHECK(worst_double < 4);
}

// Fails for: a clamp at the bottom instead of 0 (1e-38 for a forbidden token); min and max that swallow NaN; an
// exponent that wraps beyond the range.
TEST_CASE("exp_block: zero, infinity and NaN", "[core]") {
  for (const float x : {-87.1f, -88.0f, -104.0f, -1e5f, -1e30f, std::numeric_limits<float>::lowest(), -inf<float>})
    CHECK(exp_of(x) == 0.0f);
  CHECK(exp_of(-87.0f) > 0.0f);
  for (const float x : {88.0f, 89.0f, 1000.0f, std::numeric_limits<float>::max(), inf<float>})
    CHECK(ulps(exp_of(x), 88.0f) < 2);
  CHECK(std::isnan(exp_of(not_a_number<float>)));
  CHECK(std::isnan(exp_of(-not_a_number<float>)));
  CHECK(exp_of(3.0f, 1.0f) == exp_of(2.0f));
  CHECK(exp_of(-inf<float>, -5.0f) == 0.0f);
  for (const double x : {-708.1, -1e4, -1e300, -inf<double>}) CHECK(exp_of(x) == 0.0);
  CHECK(exp_of(-707.9) > 0.0);
  CHECK(std::isnan(exp_of(not_a_number<double>)));
}

// Fails for: a last, short packet that is dropped, read past its end, or written past its end; a tail computed with
// another formula than the packets; NaN or -inf in the last place lost.
TEMPLATE_TEST_CASE("exp_block: tails of every length", "[core]", float, double) {
  constexpr TestType mark = -7;
  for (std::size_t n = 1; n <= 70; ++n) {
    CAPTURE(n);
    const auto x = values<TestType>(n);  // exactly n, so that the address sanitizer sees a read behind the end
    std::vector<TestType> out(n + 1, mark);
    exp_block(out.data(), x.data(), static_cast<index_t>(n), TestType(-2));
    for (std::size_t i = 0; i < n; ++i)
      CHECK(out[i] == Approx(std::exp(static_cast<double>(x[i] + 2))).epsilon(2.5e-7));
    CHECK(out[n] == mark);
    auto in_place = x;
    exp_block(in_place.data(), in_place.data(), static_cast<index_t>(n), TestType(-2));
    CHECK(in_place == std::vector<TestType>(out.begin(), out.end() - 1));
    for (const std::size_t at : {std::size_t{0}, n / 2, n - 1}) {
      auto spoiled = x;
      spoiled[at] = not_a_number<TestType>;
      exp_block(out.data(), spoiled.data(), static_cast<index_t>(n), TestType(0));
      CHECK(std::isnan(out[at]));
      for (std::size_t i = 0; i < n; ++i)
        if (i != at) CHECK_FALSE(std::isnan(out[i]));
      CHECK(std::isnan(exp_block_sum(spoiled.data(), static_cast<index_t>(n), TestType(0))));
      spoiled[at] = -inf<TestType>;
      exp_block(out.data(), spoiled.data(), static_cast<index_t>(n), TestType(0));
      CHECK(out[at] == 0);
    }
  }
}

// Fails for: a term of the sum with a relative error of 3e-7 near its shift (a polynomial that is not balanced); a step
// of the table off by one; a table whose entries keep their own exponent.
TEST_CASE("exp_block_sum: the error of one term", "[core]") {
  double worst = 0;
  over_the_range(1e-9f, 1.00003f, [&](float x) {
    if (x < -87 || x > 88) return;
    const long double exact = std::exp(static_cast<long double>(x));
    const auto error = [&](float sum) {
      return static_cast<double>(std::abs(static_cast<long double>(sum) - exact) / exact);
    };
    const double bound = 2.4e-7 + 2.8e-9 * std::abs(static_cast<double>(x));
    worst = std::max(
        {worst, error(exp_block_sum(&x, 1, 0.0f)) / bound, error(exp_block_sum_portable(&x, 1, 0.0f)) / bound});
  });
  CHECK(worst < 1);
}

// Fails for: a tail that counts the lanes behind the end (exp(0 - shift) each), or leaves out a packet; the masks of
// 16 and 64 mixed up; partial sums added twice; a clamp that
// counts forbidden tokens as exp(-87), so that a draw with u = 0 enters a block without any weight.
TEST_CASE("exp_block_sum: tails of every length, the portable twin and the one to call", "[core]") {
  for (std::size_t n = 1; n <= 150; ++n)
    for (const float shift : {0.0f, -5.0f, 3.0f}) {
      CAPTURE(n, shift);
      const auto x = values<float>(n);
      long double exact = 0;
      for (const float v : x) exact += std::exp(static_cast<long double>(v) - static_cast<long double>(shift));
      const auto length = static_cast<index_t>(n);
      const float one = exp_block_sum(x.data(), length, shift), other = exp_block_sum_portable(x.data(), length, shift);
      CHECK(static_cast<double>(one) == Approx(static_cast<double>(exact)).epsilon(1e-6));
      CHECK(static_cast<double>(other) == Approx(static_cast<double>(exact)).epsilon(1e-6));
      const auto wide = values<double>(n);
      CHECK(exp_block_sum(wide.data(), length, static_cast<double>(shift)) ==
            Approx(static_cast<double>(exact)).epsilon(1e-5));
    }
  const std::vector<float> nothing(512, -inf<float>), one_large(1, 500.0f);
  CHECK(exp_block_sum(nothing.data(), 512, 0.0f) == 0.0f);
  CHECK(exp_block_sum_portable(nothing.data(), 512, 0.0f) == 0.0f);
  CHECK(exp_block_sum(one_large.data(), 1, 0.0f) >= std::exp(87.9f));
  CHECK(exp_block_sum_portable(one_large.data(), 1, 0.0f) >= std::exp(87.9f));
  CHECK(exp_block_sum(nothing.data(), 0, 0.0f) == 0.0f);
  const std::vector<float> low(512, -87.1f), some(512, -86.9f);
  CHECK(exp_block_sum(low.data(), 512, 0.0f) == 0.0f);
  CHECK(exp_block_sum(some.data(), 512, 0.0f) > 0.0f);
  const std::vector<double> none(512, -inf<double>);
  CHECK(exp_block_sum(none.data(), 512, 0.0) == 0.0);
}
