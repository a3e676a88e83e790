// Fails for: a column-major tensor mixed with row-major memory; a map that copies; extents in reverse; a const map that
// can be written.
#include <sluice/core/eigen_tensor.hpp>

#include <catch2/catch.hpp>
#include <core/tensor_checks.hpp>
#include <vector>

namespace {
template <class S, int Options>
struct eigen_tensor_case {
  explicit eigen_tensor_case(int n) : memory(3, n / 3, 1) {}
  S& at(int i) { return memory.data()[i]; }
  auto& tensor() { return memory; }
  Eigen::Tensor<S, 3, Options> memory;
};
template <class S, int Options>
struct eigen_tensor_map_case {
  explicit eigen_tensor_map_case(int n) : memory(static_cast<std::size_t>(n) + 1), view(memory.data() + 1, n / 3, 3) {}
  S& at(int i) { return memory[static_cast<std::size_t>(i) + 1]; }
  auto& tensor() { return view; }
  std::vector<S> memory;
  Eigen::TensorMap<Eigen::Tensor<S, 2, Options>> view;
};
template <class S>
struct vector_case {
  explicit vector_case(int n) : memory(static_cast<std::size_t>(n)) {}
  S& at(int i) { return memory[static_cast<std::size_t>(i)]; }
  auto& tensor() { return memory; }
  std::vector<S> memory;
};

template <class Y, class X>
concept combines = requires(Y& y, const X& x) {
  sluice::traits_of<Y>::combine(y, sluice::add_to{}, sluice::term<double, X>{1, x});
};
}  // namespace

TEMPLATE_TEST_CASE("eigen_tensor: all operations on tensors and maps, both storage orders", "[core][tensor]", float,
                   double) {
  for (const int n : {3, 24, 303}) {
    checks::check_everything<eigen_tensor_case<TestType, Eigen::ColMajor>>(n);
    checks::check_everything<eigen_tensor_case<TestType, Eigen::RowMajor>>(n);
    checks::check_everything<eigen_tensor_map_case<TestType, Eigen::ColMajor>>(n);
    checks::check_everything<eigen_tensor_map_case<TestType, Eigen::RowMajor>>(n);
  }
  checks::check_elements<eigen_tensor_map_case<TestType, Eigen::RowMajor>>(9);
  checks::check_combinations<eigen_tensor_map_case<TestType, Eigen::RowMajor>, vector_case<TestType>,
                             eigen_tensor_case<TestType, Eigen::RowMajor>>(33);
}

TEST_CASE("eigen_tensor: storage orders do not mix, maps of constants are read only", "[core][tensor]") {
  using row = Eigen::Tensor<double, 2, Eigen::RowMajor>;
  using column = Eigen::Tensor<double, 2>;
  using single = Eigen::Tensor<double, 1>;
  static_assert(combines<row, row> && combines<column, column>);
  static_assert(!combines<row, column> && !combines<column, row>);
  static_assert(combines<row, std::vector<double>> && !combines<column, std::vector<double>>);
  static_assert(combines<single, std::vector<double>>);  // one axis has one order
  static_assert(combines<Eigen::TensorMap<row>, row> && !combines<Eigen::TensorMap<row>, column>);
  static_assert(sluice::tensor<Eigen::TensorMap<const row>> && !sluice::writable_tensor<Eigen::TensorMap<const row>>);
  using of_constants = Eigen::TensorMap<Eigen::Tensor<const double, 2>>;
  static_assert(sluice::tensor<of_constants> && !sluice::writable_tensor<of_constants>);
  static_assert(std::same_as<sluice::owner_t<of_constants>, column>);
  static_assert(sluice::shaped_tensor<column> && sluice::elementwise_tensor<column>);

  const std::vector<double> data{1, 2, 3, 4, 5, 6};
  const of_constants view(data.data(), 2, 3);
  column y(2, 3);
  sluice::lincomb(y, 2, view);
  CHECK(y(1, 2) == 12);
  CHECK(y(1, 0) == 4);  // column-major, as the memory lies
  const Eigen::TensorMap<const row> by_rows(data.data(), 2, 3);
  row z(2, 3);
  sluice::lincomb(z, 2, by_rows);
  CHECK(z(1, 0) == 8);
}

TEST_CASE("eigen_tensor: shapes and the shape of storage", "[core][tensor]") {
  const Eigen::Tensor<float, 3> x(2, 3, 4);
  using traits = sluice::traits_of<decltype(x)>;
  CHECK(traits::rank(x) == 3);
  CHECK((traits::extent(x, 0) == 2 && traits::extent(x, 1) == 3 && traits::extent(x, 2) == 4));
  const auto zero = sluice::zeros_like(x);
  CHECK((zero.dimension(0) == 2 && zero.dimension(1) == 3 && zero.dimension(2) == 4));
  CHECK(sluice::norm(zero) == 0);
  Eigen::Tensor<double, 0> scalar;
  scalar() = 3;
  CHECK(sluice::norm(scalar) == 3);
  CHECK(sluice::size(scalar) == 1);
}
