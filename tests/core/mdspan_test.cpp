// Fails for: a layout with gaps taken as contiguous; layout_left mixed with layout_right; an owner that has another
// layout than its view; storage shared by copies of an owner; an extent that is read from the wrong axis.
#include <sluice/core/mdspan.hpp>

#include <catch2/catch.hpp>
#include <core/tensor_checks.hpp>
#include <support/mdspan_stub.hpp>
#include <vector>

namespace {
constexpr std::size_t any = support::dynamic_extent;
using matrix_shape = support::extents<int, any, any>;

template <class S, class Layout>
struct mdspan_case {
  explicit mdspan_case(int n) : memory(static_cast<std::size_t>(n) + 1), view(memory.data() + 1, n / 3, 3) {}
  S& at(int i) { return memory[static_cast<std::size_t>(i) + 1]; }
  auto& tensor() { return view; }
  std::vector<S> memory;
  support::mdspan<S, matrix_shape, Layout> view;
};
template <class S>
struct vector_case {
  explicit vector_case(int n) : memory(static_cast<std::size_t>(n)) {}
  S& at(int i) { return memory[static_cast<std::size_t>(i)]; }
  auto& tensor() { return memory; }
  std::vector<S> memory;
};

/// Blocks of two rows: covers its memory in an order that is neither of the usual two.
struct layout_tiled {
  template <class Extents>
  class mapping : public support::detail::packed_mapping<Extents, true> {
   public:
    constexpr int stride(std::size_t) const { return 2; }
  };
};
/// An accessor that is not a plain pointer.
template <class T>
struct halving_accessor {
  using element_type = T;
  using data_handle_type = T*;
  using reference = T;
};

template <class Y, class X>
concept combines = requires(Y& y, const X& x) {
  sluice::traits_of<Y>::combine(y, sluice::add_to{}, sluice::term<double, X>{1, x});
};
template <class Layout, class Extents = matrix_shape>
using view = support::mdspan<double, Extents, Layout>;
}  // namespace

TEMPLATE_TEST_CASE("mdspan: all operations, both layouts", "[core][tensor]", float, double) {
  for (const int n : {3, 24, 303}) {
    checks::check_everything<mdspan_case<TestType, support::layout_right>>(n);
    checks::check_everything<mdspan_case<TestType, support::layout_left>>(n);
  }
  checks::check_elements<mdspan_case<TestType, support::layout_left>>(9);
  checks::check_combinations<mdspan_case<TestType, support::layout_right>, vector_case<TestType>,
                             mdspan_case<TestType, support::layout_right>>(33);
}

TEST_CASE("mdspan: which views are tensors and which of them combine", "[core][tensor]") {
  using support::extents;
  using support::layout_left;
  using support::layout_right;
  static_assert(sluice::shaped_tensor<view<layout_right>> && sluice::elementwise_tensor<view<layout_left>>);
  static_assert(sluice::writable_tensor<view<layout_right>> && sluice::writable_tensor<view<layout_right>&>);
  static_assert(sluice::tensor<support::mdspan<const float, matrix_shape>>);
  static_assert(!sluice::writable_tensor<support::mdspan<const float, matrix_shape>>);
  static_assert(!sluice::tensor<view<support::layout_stride>>);
  static_assert(!sluice::tensor<support::mdspan<int, matrix_shape>>);
  static_assert(!sluice::tensor<support::mdspan<double, matrix_shape, layout_right, halving_accessor<double>>>);

  static_assert(combines<view<layout_right>, view<layout_right>> && combines<view<layout_left>, view<layout_left>>);
  static_assert(!combines<view<layout_right>, view<layout_left>> && !combines<view<layout_left>, view<layout_right>>);
  static_assert(combines<view<layout_right>, std::vector<double>> && !combines<view<layout_left>, std::vector<double>>);
  using line = extents<int, any>;
  static_assert(combines<view<layout_left, line>, view<layout_right, line>>);  // one axis has one order
  static_assert(combines<view<layout_left, line>, std::vector<double>>);
  static_assert(combines<view<layout_tiled>, view<layout_tiled>> && !combines<view<layout_tiled>, std::vector<double>>);
  static_assert(!combines<view<layout_tiled>, view<layout_right>> && !combines<view<layout_left>, view<layout_tiled>>);
  // Static and mixed extents.
  static_assert(!combines<view<layout_right, extents<int, 2, 3>>, view<layout_left, extents<int, 2, 3>>>);
  static_assert(!combines<view<layout_right, extents<int, any, 1>>, view<layout_left, extents<int, any, 4>>>);
  static_assert(combines<view<layout_right, extents<int, 2, any>>, view<layout_right, extents<long, any, any, 2>>>);
  SUCCEED("checked by the compiler");
}

TEST_CASE("mdspan: the owner has the layout of the view and memory of its own", "[core][tensor]") {
  std::vector<double> data{1, 2, 3, 4, 5, 6};
  const view<support::layout_left> x(data.data(), 2, 3);
  using traits = sluice::traits_of<decltype(x)>;
  CHECK(traits::rank(x) == 2);
  CHECK((traits::extent(x, 0) == 2 && traits::extent(x, 1) == 3));
  auto own = sluice::deep_copy(x);
  const view<support::layout_left> y = own;  // for a user's code that takes views
  CHECK(y(1, 0) == 2);
  CHECK(y(0, 2) == 5);
  y(1, 2) = 60;
  CHECK(own.view()(1, 2) == 60);
  CHECK(data[5] == 6);
  auto second = own;
  second.view()(1, 2) = 0;
  CHECK(own.view()(1, 2) == 60);
  using owner = decltype(own);
  CHECK((sluice::traits_of<owner>::rank(own) == 2 && sluice::traits_of<owner>::extent(own, 1) == 3));

  const support::mdspan<const double, matrix_shape> constant(data.data(), 3, 2);
  auto z = sluice::zeros_like(constant);
  static_assert(sluice::writable_tensor<decltype(z)>);
  sluice::axpy(z, 3, constant);
  CHECK(z.view()(2, 1) == 18);
  const auto& fixed = z;
  CHECK(fixed.view()(0, 1) == 6);
  static_assert(std::same_as<decltype(fixed.view()(0, 0)), const double&>);
}
