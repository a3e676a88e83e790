// Fails for: lincomb that reads y; a copy that shares storage; a result of another dtype; gradients recorded on the
// way. Built only where LibTorch is installed.
#include <sluice/core/torch.hpp>

#define CATCH_CONFIG_PREFIX_ALL  // LibTorch has a macro CHECK of its own, which would end the program
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <utility>

CATCH_TEST_CASE("torch: all operations, in place", "[core][tensor]") {
  static_assert(sluice::writable_tensor<at::Tensor> && sluice::shaped_tensor<at::Tensor>);
  static_assert(!sluice::elementwise_tensor<at::Tensor>);
  for (const auto dtype : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
    const at::Tensor x = at::arange(6, at::TensorOptions(dtype)).reshape({2, 3});  // 0 ... 5
    const at::Tensor z = at::ones({2, 3}, at::TensorOptions(dtype));
    at::Tensor y = at::full({2, 3}, std::numeric_limits<double>::quiet_NaN(), at::TensorOptions(dtype));
    const void* const memory = y.data_ptr();
    const auto element = [&](int i) { return y.flatten()[i].item<double>(); };
    sluice::lincomb(y, 2, x, -1, z);
    CATCH_CHECK(element(5) == 9);
    sluice::axpy(y, 0.5, x);
    CATCH_CHECK(element(2) == 4);
    sluice::scale_add(y, 2, 1, x, -4, z);
    CATCH_CHECK(element(4) == 18);
    CATCH_CHECK(y.data_ptr() == memory);
    CATCH_CHECK(y.scalar_type() == dtype);
    CATCH_CHECK(sluice::size(x) == 6);
    CATCH_CHECK(sluice::dot(x, z) == 15);
    CATCH_CHECK(sluice::norm(x) == Approx(std::sqrt(55.0)));
    at::Tensor copy = sluice::deep_copy(x);
    CATCH_CHECK(copy.data_ptr() != x.data_ptr());
    sluice::axpy(copy, 1, z);
    CATCH_CHECK(sluice::dot(x, z) == 15);
    CATCH_CHECK(sluice::norm(sluice::zeros_like(x)) == 0);
    CATCH_CHECK(sluice::zeros_like(x).scalar_type() == dtype);
    CATCH_CHECK((sluice::traits_of<at::Tensor>::rank(x) == 2 && sluice::traits_of<at::Tensor>::extent(x, 1) == 3));
  }
}

CATCH_TEST_CASE("torch: sums of half numbers are not half", "[core][tensor]") {
  const at::Tensor x = at::full({1000}, 10, at::TensorOptions(at::kHalf));
  CATCH_CHECK(sluice::dot(x, x) == 1e5);  // above the largest half
}

CATCH_TEST_CASE("torch: no gradients are recorded", "[core][tensor]") {
  at::Tensor x = at::ones({3}, at::TensorOptions(at::kFloat)).set_requires_grad(true);
  at::Tensor y = sluice::zeros_like(x);
  sluice::lincomb(y, 2, x);
  CATCH_CHECK_FALSE(y.requires_grad());
}
