#pragma once
#include <sluice/core/tensor.hpp>

#include <catch2/catch.hpp>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <limits>
#include <support/allocation_counter.hpp>
#include <type_traits>
#include <utility>

/// What every kind of tensor must do, checked through a case: an object that owns memory of n elements and has
/// tensor(), the tensor over it, and at(i), the i-th element in the order of the memory. All numbers are small integers
/// and powers of two, so that every format from bfloat16 up gives exact results.
namespace checks {

template <class Case>
void fill(Case& c, int n, int step, int offset) {
  using element = std::remove_cvref_t<decltype(c.at(0))>;
  for (int i = 0; i < n; ++i) c.at(i) = static_cast<element>(static_cast<float>((i * step) % 7 + offset));
}

template <class Case>
double value(Case& c, int i) {
  return static_cast<double>(c.at(i));
}

/// Linear combinations into y, of x and z.
template <class Y, class X, class Z>
void check_combinations(int n) {
  Y y(n);
  X x(n);
  Z z(n);
  fill(x, n, 3, -2);
  fill(z, n, 5, 1);
  using element = std::remove_cvref_t<decltype(y.at(0))>;
  const auto all = [&](auto&& expected) {
    for (int i = 0; i < n; ++i) REQUIRE(value(y, i) == expected(value(x, i), value(z, i)));
  };
  auto&& yt = y.tensor();
  auto&& xt = x.tensor();
  auto&& zt = z.tensor();
  const void* const memory = &y.at(0);
  for (int i = 0; i < n; ++i) y.at(i) = static_cast<element>(std::numeric_limits<float>::quiet_NaN());
  sluice::lincomb(yt, 2, xt);  // an integer coefficient; y holds NaN and is not read
  all([](double a, double) { return 2 * a; });
  sluice::axpy(yt, 0.5, zt);
  all([](double a, double b) { return 2 * a + 0.5 * b; });
  sluice::scale_add(yt, 2, 1.0, xt, -4.0f, zt);
  all([](double a, double b) { return 5 * a - 3 * b; });
  sluice::lincomb(yt, 1, xt, -2, zt, 0.25, xt);
  all([](double a, double b) { return 1.25 * a - 2 * b; });
  sluice::scale_add(yt, sluice::add_to{}, 0.75, xt, 1, zt);
  all([](double a, double b) { return 2 * a - b; });
  sluice::scale_add(yt, 0.5);
  all([](double a, double b) { return a - b / 2; });
  sluice::scale_add(yt, 0, 1, zt);
  all([](double, double b) { return b; });
  const auto allocated = support::allocations_in([&] {
    sluice::lincomb(yt, 1, xt, 2, zt);
    sluice::axpy(yt, 1, xt);
    sluice::scale_add(yt, -1, 3, xt, 0.5, zt);
  });
  CHECK(allocated == 0);
  all([](double a, double b) { return a - 1.5 * b; });
  CHECK(memory == static_cast<const void*>(&y.at(0)));  // neither rebound nor moved
}

/// Size, inner product, norm, storage and copies.
template <class X>
void check_measures(int n) {
  X x(n), z(n);
  fill(x, n, 3, -2);
  fill(z, n, 5, 1);
  double product = 0, square = 0;
  for (int i = 0; i < n; ++i) product += value(x, i) * value(z, i), square += value(x, i) * value(x, i);
  auto&& xt = x.tensor();
  auto&& zt = z.tensor();
  using tensor_type = std::remove_cvref_t<decltype(xt)>;
  CHECK(sluice::size(xt) == n);
  CHECK(sluice::dot(xt, zt) == product);
  CHECK(sluice::norm(xt) == Approx(std::sqrt(square)).epsilon(1e-6));
  CHECK(support::allocations_in([&] { static_cast<void>(sluice::norm(xt)); }) == 0);

  auto zero = sluice::zeros_like(xt);
  static_assert(std::same_as<decltype(zero), sluice::owner_t<tensor_type>>);
  CHECK(sluice::size(zero) == n);
  CHECK(sluice::norm(zero) == 0);
  sluice::lincomb(zero, 1, xt);
  CHECK(sluice::dot(zero, zt) == product);

  const auto copy = sluice::deep_copy(xt);
  const double first = value(x, 0);
  x.at(0) = static_cast<std::remove_cvref_t<decltype(x.at(0))>>(static_cast<float>(first + 1));  // seen through xt ...
  CHECK(sluice::dot(xt, xt) == square + 2 * first + 1);
  CHECK(sluice::dot(copy, copy) == square);  // ... but not by the copy
}

template <class X>
void check_everything(int n) {
  check_combinations<X, X, X>(n);
  check_measures<X>(n);
}

/// Elements seen through elements() are the memory itself.
template <class X>
void check_elements(int n) {
  X x(n);
  fill(x, n, 3, -2);
  auto&& xt = x.tensor();
  auto e = sluice::traits_of<decltype(xt)>::elements(xt);
  REQUIRE(e.size() == n);
  for (int i = 0; i < n; ++i) CHECK(static_cast<double>(e(i)) == value(x, i));
  using element = std::remove_cvref_t<decltype(x.at(0))>;
  e(n - 1) = static_cast<element>(9.0f);
  CHECK(value(x, n - 1) == 9);
}

}  // namespace checks
