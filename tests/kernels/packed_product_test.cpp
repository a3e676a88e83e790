#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <sluice/core/thread_pool.hpp>
#include <sluice/kernels/packed_product.hpp>
#include <sluice/random/stream.hpp>
#include <sluice/random/uniform.hpp>
#include <span>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <vector>

// Fails for: a row of the last, partial panel lost or written over its neighbour; the sum of a later run of columns
// assigned instead of added; a run that begins one column late; the stride of x taken for that of out; a block of
// positions that is smaller than the others left out; panels of a group mixed up; another order of additions for some
// b; a chunk of panels left out or begun late; bytes without the padding; padding that reaches an output; a product and
// a sum rounded apart in one path only.

using namespace sluice;

namespace {

template <class S>
std::vector<S> numbers(index_t n, std::uint64_t seed) {
  std::vector<S> v(static_cast<std::size_t>(n));
  cursor random(stream{seed});
  for (S& x : v) x = static_cast<S>(co53(random()) - 0.5);
  return v;
}

/// The documented order: runs of 512 columns, each a chain from 0, the runs added in their order.
template <class S>
S by_definition(const S* w, const S* x, index_t cols) {
  S total = 0;
  for (index_t c = 0; c < cols; c += 512) {
    S sum = 0;
    for (index_t k = c; k < std::min(cols, c + 512); ++k) sum = detail::multiply_add(w[k], x[k], sum);
    total = c == 0 ? sum : total + sum;
  }
  return total;
}

template <class S>
std::vector<S> product(const packed_product<S>& w, const std::vector<S>& x, index_t b) {
  std::vector<S> out(static_cast<std::size_t>(b * w.rows()), S{-7});
  w.multiply(std::span<S>(out), std::span<const S>(x), b);
  return out;
}

template <class S>
void check_against_definition(index_t rows, index_t cols, index_t b) {
  CAPTURE(rows, cols, b);
  const std::vector<S> w = numbers<S>(rows * cols, 1), x = numbers<S>(b * cols, 2);
  const std::vector<S> out = product(packed_product<S>(w, rows, cols), x, b);
  index_t wrong = 0;
  for (index_t i = 0; i < b; ++i)
    for (index_t r = 0; r < rows; ++r)
      wrong +=
          out[static_cast<std::size_t>(i * rows + r)] != by_definition(w.data() + r * cols, x.data() + i * cols, cols);
  CHECK(wrong == 0);
}

}  // namespace

TEMPLATE_TEST_CASE("packed_product: bit-equal to the documented order, all shapes", "[packed_product]", float, double) {
  for (const index_t rows : {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65, 127, 130, 161})
    for (const index_t cols : {1, 2, 5, 16, 33})
      for (const index_t b : {1, 2, 3, 4, 6, 7, 12, 13, 16, 25}) check_against_definition<TestType>(rows, cols, b);
  for (const index_t cols : {511, 512, 513, 1024, 1030})
    for (const index_t b : {1, 3, 5, 14}) check_against_definition<TestType>(37, cols, b);
}

TEMPLATE_TEST_CASE("packed_product: integers come out exactly", "[packed_product]", float, double) {
  const index_t rows = 41, cols = 700, b = 5;
  std::vector<TestType> w(rows * cols), x(b * cols);
  for (index_t r = 0; r < rows; ++r)
    for (index_t c = 0; c < cols; ++c)
      w[static_cast<std::size_t>(r * cols + c)] = static_cast<TestType>((3 * r + c) % 5);
  for (index_t i = 0; i < b * cols; ++i) x[static_cast<std::size_t>(i)] = static_cast<TestType>(i % 7 - 3);
  const auto out = product(packed_product<TestType>(w, rows, cols), x, b);
  for (index_t i = 0; i < b; ++i)
    for (index_t r = 0; r < rows; ++r) {
      index_t sum = 0;
      for (index_t c = 0; c < cols; ++c) sum += (3 * r + c) % 5 * ((i * cols + c) % 7 - 3);
      REQUIRE(out[static_cast<std::size_t>(i * rows + r)] == static_cast<TestType>(sum));
    }
}

TEMPLATE_TEST_CASE("packed_product: a position has the same bits alone and among others", "[packed_product]", float,
                   double) {
  const index_t rows = 150, cols = 1100, most = 40;
  const packed_product<TestType> w(numbers<TestType>(rows * cols, 3), rows, cols);
  const std::vector<TestType> x = numbers<TestType>(most * cols, 4), all = product(w, x, most);
  for (index_t b = 1; b < most; ++b) {
    const std::vector<TestType> some(x.end() - b * cols, x.end());  // the last b positions: other places in the blocks
    CHECK(std::equal(all.end() - b * rows, all.end(), product(w, some, b).begin()));
  }
}

TEMPLATE_TEST_CASE("packed_product: any number of threads gives the same bits", "[packed_product][parallel]", float,
                   double) {
  const index_t rows = 1500, cols = 600;  // several chunks, the last one partial
  const packed_product<TestType> w(numbers<TestType>(rows * cols, 5), rows, cols);
  for (const index_t b : {1, 4, 13}) {
    const std::vector<TestType> x = numbers<TestType>(b * cols, 6), expected = product(w, x, b);
    for (const index_t n : {1, 2, 5}) {
      const thread_pool pool(n);
      std::vector<TestType> out(expected.size());
      w.multiply(std::span<TestType>(out), std::span<const TestType>(x), b, pool);
      CHECK(out == expected);
    }
  }
}

TEMPLATE_TEST_CASE("packed_product: the error is within the documented bound", "[packed_product]", float, double) {
  const index_t rows = 24, cols = 5000;
  const double u = static_cast<double>(std::numeric_limits<TestType>::epsilon()) / 2;
  const std::vector<TestType> w = numbers<TestType>(rows * cols, 7), x = numbers<TestType>(cols, 8);
  const auto out = product(packed_product<TestType>(w, rows, cols), x, 1);
  for (index_t r = 0; r < rows; ++r) {
    long double sum = 0, magnitude = 0;
    for (index_t c = 0; c < cols; ++c) {
      const long double term = static_cast<long double>(w[static_cast<std::size_t>(r * cols + c)]) *
                               static_cast<long double>(x[static_cast<std::size_t>(c)]);
      sum += term;
      magnitude += std::abs(term);
    }
    CHECK(std::abs(static_cast<double>(out[static_cast<std::size_t>(r)] - sum)) <=
          (512 + 5000 / 512.0) * u * static_cast<double>(magnitude));
  }
}

TEST_CASE("packed_product: not a number and infinity stay in their position and row", "[packed_product]") {
  const index_t rows = 37, cols = 20, b = 3;
  std::vector<float> w = numbers<float>(rows * cols, 9), x = numbers<float>(b * cols, 10);
  const auto expected = product(packed_product<float>(w, rows, cols), x, b);
  w[static_cast<std::size_t>(36 * cols + 4)] = std::numeric_limits<float>::quiet_NaN();
  x[static_cast<std::size_t>(1 * cols + 4)] = std::numeric_limits<float>::infinity();  // padding is 0: 0 * inf
  const auto out = product(packed_product<float>(w, rows, cols), x, b);
  for (index_t i = 0; i < b; ++i)
    for (index_t r = 0; r < rows; ++r) {
      const auto at = static_cast<std::size_t>(i * rows + r);
      if (r == 36)
        CHECK(std::isnan(out[at]));
      else if (i == 1)
        CHECK(std::isinf(out[at]));
      else
        CHECK(out[at] == expected[at]);
    }
}

TEST_CASE("packed_product: empty shapes and no positions", "[packed_product]") {
  const packed_product<float> none;
  CHECK(none.rows() == 0);
  CHECK(none.cols() == 0);
  CHECK(product(none, std::vector<float>{}, 3).empty());
  CHECK(product(packed_product<float>(std::vector<float>{}, 0, 4), std::vector<float>(8), 2).empty());
  CHECK(product(packed_product<float>(std::vector<float>{}, 3, 0), std::vector<float>{}, 2) == std::vector<float>(6));
  CHECK(product(packed_product<float>(std::vector<float>{2}, 1, 1), std::vector<float>{}, 0).empty());
}

TEST_CASE("packed_product: elements, bytes and new weights in the same object", "[packed_product]") {
  const std::vector<double> w = numbers<double>(50 * 7, 11);
  packed_product<double> p(w, 50, 7);
  for (index_t r = 0; r < 50; ++r)
    for (index_t c = 0; c < 7; ++c) REQUIRE(p(r, c) == w[static_cast<std::size_t>(r * 7 + c)]);
  constexpr index_t panel = detail::panel_kernel<detail::native_packet<double>>::rows;
  CHECK(p.bytes() == (50 + panel - 1) / panel * panel * 7 * 8);
  const std::vector<double> v = numbers<double>(50 * 7, 12), x = numbers<double>(7, 13);
  CHECK(support::allocations_in([&] { p.assign(v, 50, 7); }) == 0);
  CHECK(product(p, x, 1) == product(packed_product<double>(v, 50, 7), x, 1));
}

TEST_CASE("packed_product: a product allocates nothing", "[packed_product]") {
  const packed_product<float> w(numbers<float>(100 * 600, 14), 100, 600);
  const std::vector<float> x = numbers<float>(15 * 600, 15);
  std::vector<float> out(15 * 100);
  CHECK(support::allocations_in([&] { w.multiply(std::span<float>(out), std::span<const float>(x), 15); }) == 0);
}

TEST_CASE("packed_product: refuses sizes that do not match", "[packed_product]") {
  const std::vector<float> six(6), four(4);
  SLUICE_CHECK_THROWS(packed_product<float>(six, -1, 2), "packed_product", "rows", -1);
  SLUICE_CHECK_THROWS(packed_product<float>(six, 2, -1), "packed_product", "cols", -1);
  SLUICE_CHECK_THROWS(packed_product<float>(six, 2, 2), "packed_product", "weights.size", -1);
  SLUICE_CHECK_THROWS(packed_product<float>(six, 0, 3), "packed_product", "weights.size", -1);
  packed_product<float> w(six, 3, 2);
  SLUICE_CHECK_THROWS(w.assign(six, 5, 1), "packed_product", "weights.size", -1);
  CHECK(w.rows() == 3);
  std::vector<float> out(6, 9.0f);
  const std::span<float> o(out);
  SLUICE_CHECK_THROWS(w.multiply(o, std::span<const float>(four), -1), "packed_product::multiply", "b", -1);
  SLUICE_CHECK_THROWS(w.multiply(o, std::span<const float>(six), 2), "packed_product::multiply", "x.size", -1);
  SLUICE_CHECK_THROWS(w.multiply(o.first(5), std::span<const float>(four), 2), "packed_product::multiply", "out.size",
                      -1);
  SLUICE_CHECK_THROWS(w.multiply(o, std::span<const float>(four), 0), "packed_product::multiply", "out.size", -1);
  CHECK(out == std::vector<float>(6, 9.0f));
}

namespace {

/// The kernel with this packet against the kernel with the portable packet of the same width.
template <class Packet>
void check_against_twin() {
  using S = typename Packet::scalar;
  using native = detail::panel_kernel<Packet>;
  using portable = detail::panel_kernel<detail::plain_packet<S, Packet::lanes>>;
  for (const index_t rows : {1, 31, 64, 130})
    for (const index_t b : {1, 2, 5, 12, 17}) {
      const index_t cols = 530, panels = native::n_panels(rows);
      const std::vector<S> w = numbers<S>(rows * cols, 16), x = numbers<S>(b * cols, 17);
      std::vector<S> packed(static_cast<std::size_t>(panels * native::rows * cols), S{-1}), twin = packed;
      native::pack(packed.data(), w.data(), rows, cols);
      portable::pack(twin.data(), w.data(), rows, cols);
      CHECK(packed == twin);
      std::vector<S> out(static_cast<std::size_t>(b * rows), S{-1}), expected = out;
      native::multiply(out.data(), packed.data(), x.data(), rows, cols, b, 0, panels);
      portable::multiply(expected.data(), twin.data(), x.data(), rows, cols, b, 0, panels);
      CHECK(out == expected);
    }
}

}  // namespace

TEST_CASE("packed_product: every packet gives the bits of the portable one", "[packed_product]") {
  check_against_twin<detail::native_packet<float>>();
  check_against_twin<detail::native_packet<double>>();
#if defined(__AVX2__) && defined(__FMA__)
  check_against_twin<detail::float_packet_256>();
  check_against_twin<detail::double_packet_256>();
#endif
}
