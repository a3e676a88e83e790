// Fails for: lincomb that reads y; axpy that overwrites; a term left out or used twice; a coefficient rounded to an
// integer; a view that is rebound or copied; a strided view treated as contiguous; a step that allocates; a reduction
// that multiplies with itself; an owner that shares memory with what it was made from.
#include <sluice/core/tensor.hpp>

#include <Eigen/Core>
#include <catch2/catch.hpp>
#include <core/tensor_checks.hpp>
#include <span>
#include <string>
#include <vector>

using sluice::elementwise_tensor;
using sluice::shaped_tensor;
using sluice::tensor;
using sluice::writable_tensor;

namespace {
template <class S>
struct vector_case {
  explicit vector_case(int n) : memory(static_cast<std::size_t>(n)) {}
  S& at(int i) { return memory[static_cast<std::size_t>(i)]; }
  std::vector<S>& tensor() { return memory; }
  std::vector<S> memory;
};
template <class S>
struct span_case : vector_case<S> {  // starts one element in: not aligned
  explicit span_case(int n) : vector_case<S>(n + 1), view(this->memory.data() + 1, static_cast<std::size_t>(n)) {}
  S& at(int i) { return view[static_cast<std::size_t>(i)]; }
  std::span<S>& tensor() { return view; }
  std::span<S> view;
};
template <class M>
struct eigen_case {
  explicit eigen_case(int n) : memory(n, 1) {}
  auto& at(int i) { return memory(i); }
  M& tensor() { return memory; }
  M memory;
};
template <class M>
struct eigen_matrix_case {  // n must be a multiple of 3
  explicit eigen_matrix_case(int n) : memory(3, n / 3) {}
  auto& at(int i) { return memory.data()[i]; }
  M& tensor() { return memory; }
  M memory;
};
template <class S>
struct eigen_map_case : vector_case<S> {
  explicit eigen_map_case(int n) : vector_case<S>(n + 1), view(this->memory.data() + 1, n) {}
  S& at(int i) { return this->memory[static_cast<std::size_t>(i) + 1]; }
  auto& tensor() { return view; }
  Eigen::Map<Eigen::Matrix<S, Eigen::Dynamic, 1>> view;
};
template <class S>
struct eigen_strided_case : vector_case<S> {
  explicit eigen_strided_case(int n) : vector_case<S>(3 * n), view(this->memory.data(), n) {}
  S& at(int i) { return this->memory[static_cast<std::size_t>(3 * i)]; }
  auto& tensor() { return view; }
  Eigen::Map<Eigen::Array<S, Eigen::Dynamic, 1>, 0, Eigen::InnerStride<3>> view;
};
template <class S>
struct eigen_ref_case {
  explicit eigen_ref_case(int n) : memory(n), view(memory) {}
  S& at(int i) { return memory(i); }
  auto& tensor() { return view; }
  Eigen::Matrix<S, Eigen::Dynamic, 1> memory;
  Eigen::Ref<Eigen::Matrix<S, Eigen::Dynamic, 1>> view;
};
template <class S>
struct eigen_block_case {  // the inner 3 columns of a wider matrix, each shorter than its column
  explicit eigen_block_case(int n) : rows(n / 3), memory(n / 3 + 2, 5) { memory.setZero(); }
  S& at(int i) { return memory(1 + i % rows, 1 + i / rows); }
  auto tensor() { return memory.block(1, 1, rows, 3); }
  int rows;
  Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic> memory;
};
template <class S>
struct eigen_column_case {
  explicit eigen_column_case(int n) : memory(n, 3) { memory.setConstant(77); }
  ~eigen_column_case() {  // its neighbours are untouched
    CHECK((memory.col(0).array() == 77).all());
    CHECK((memory.col(2).array() == 77).all());
  }
  S& at(int i) { return memory(i, 1); }
  auto tensor() { return memory.col(1); }
  Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic> memory;
};
}  // namespace

TEMPLATE_TEST_CASE("tensor: all operations on vectors, spans and Eigen's dense types", "[core][tensor]", float,
                   double) {
  using S = TestType;
  using column = Eigen::Matrix<S, Eigen::Dynamic, 1>;
  for (const int n : {3, 24, 303}) {
    CAPTURE(n);
    checks::check_everything<vector_case<S>>(n);
    checks::check_everything<span_case<S>>(n);
    checks::check_everything<eigen_case<column>>(n);
    checks::check_everything<eigen_matrix_case<Eigen::Array<S, 3, Eigen::Dynamic, Eigen::RowMajor>>>(n);
    checks::check_everything<eigen_strided_case<S>>(n);
    checks::check_everything<eigen_block_case<S>>(n);
    if constexpr (std::same_as<S, double>) {  // the scalar adds nothing to these, only compile time
      checks::check_everything<eigen_case<Eigen::ArrayXd>>(n);
      checks::check_everything<eigen_matrix_case<Eigen::MatrixXd>>(n);
      checks::check_everything<eigen_map_case<S>>(n);
      checks::check_everything<eigen_ref_case<S>>(n);
      checks::check_everything<eigen_column_case<S>>(n);
    }
  }
  // Kinds that mix: contiguous with contiguous, Eigen with Eigen.
  checks::check_combinations<vector_case<S>, span_case<S>, vector_case<S>>(50);
  checks::check_combinations<span_case<S>, vector_case<S>, span_case<S>>(50);
  checks::check_combinations<eigen_case<column>, eigen_map_case<S>, eigen_strided_case<S>>(50);
  checks::check_combinations<eigen_strided_case<S>, eigen_column_case<S>, eigen_ref_case<S>>(50);
  checks::check_combinations<eigen_block_case<S>, eigen_block_case<S>, eigen_block_case<S>>(51);
  checks::check_elements<vector_case<S>>(9);
  checks::check_elements<span_case<S>>(9);
  checks::check_elements<eigen_map_case<S>>(9);
  checks::check_elements<eigen_case<column>>(9);
  checks::check_elements<eigen_case<Eigen::Array<S, Eigen::Dynamic, 1>>>(9);
  checks::check_elements<eigen_ref_case<S>>(9);
  checks::check_elements<eigen_column_case<S>>(9);
  checks::check_elements<eigen_strided_case<S>>(9);
}

TEST_CASE("tensor: coefficients are computed in double and rounded once", "[core][tensor]") {
  const std::vector<float> x{3.0f, -7.0f};
  std::vector<float> y(2, 1.0f);
  const double c = 1.0 / 3;
  sluice::lincomb(y, c, x);
  CHECK(y[0] == static_cast<float>(c) * 3.0f);
  CHECK(y[1] == static_cast<float>(c) * -7.0f);
  sluice::axpy(y, 16777217.0, x);  // not a float
  CHECK(y[0] == Approx(16777216.0f * 3).epsilon(1e-6));
}

TEST_CASE("tensor: expressions are tensors that can be read", "[core][tensor]") {
  const Eigen::VectorXd a = Eigen::VectorXd::LinSpaced(5, 1, 5), b = Eigen::VectorXd::Ones(5);
  Eigen::VectorXd y(5);
  sluice::lincomb(y, 2, a + b, -1, a.cwiseProduct(a));
  CHECK((y.array() == 2 * (a + b).array() - a.array().square()).all());
  CHECK(sluice::norm(a - b) == (a - b).norm());
  CHECK(sluice::deep_copy(a - b) == a - b);
  static_assert(tensor<decltype(a + b)> && !writable_tensor<decltype(a + b)>);
}

TEST_CASE("tensor: temporaries that view memory are written through", "[core][tensor]") {
  Eigen::MatrixXd m = Eigen::MatrixXd::Zero(3, 2);
  const Eigen::Vector3d x(1, 2, 3);
  sluice::axpy(m.col(1), 2, x);
  CHECK(m.col(0).norm() == 0);
  CHECK(m(2, 1) == 6);
  sluice::lincomb(m.col(0).segment(1, 2), 5, x.head(2));
  CHECK(m.col(0) == Eigen::Vector3d(0, 5, 10));
  std::vector<double> data(4, 0);
  const std::vector<double> two{1, 2};
  sluice::lincomb(std::span(data).subspan(1, 2), 3, two);
  CHECK(data == std::vector<double>{0, 3, 6, 0});
}

TEST_CASE("tensor: empty tensors", "[core][tensor]") {
  std::vector<double> none;
  sluice::lincomb(none, 1, none);
  CHECK(sluice::norm(none) == 0);
  CHECK(sluice::size(none) == 0);
  Eigen::VectorXf empty;
  sluice::axpy(empty, 1, empty);
  CHECK(sluice::norm(empty) == 0);
}

TEST_CASE("tensor: shapes", "[core][tensor]") {
  const auto rank = [](const auto& x) { return sluice::traits_of<decltype(x)>::rank(x); };
  const auto extent = [](const auto& x, sluice::index_t k) { return sluice::traits_of<decltype(x)>::extent(x, k); };
  const Eigen::MatrixXd m(4, 6);
  CHECK(rank(m) == 2);
  CHECK((extent(m, 0) == 4 && extent(m, 1) == 6));
  CHECK(rank(m.row(1)) == 1);
  CHECK(extent(m.row(1), 0) == 6);
  const std::vector<float> v(3);
  CHECK((rank(v) == 1 && extent(v, 0) == 3));
  const auto like = sluice::zeros_like(m.block(0, 0, 2, 3));
  CHECK((like.rows() == 2 && like.cols() == 3));
}

TEST_CASE("tensor: which types model which concept", "[core][tensor]") {
  static_assert(writable_tensor<std::vector<float>> && writable_tensor<std::vector<float>&>);
  static_assert(tensor<const std::vector<float>> && !writable_tensor<const std::vector<float>>);
  static_assert(tensor<const std::span<double>&>);
  static_assert(writable_tensor<std::span<double>> && writable_tensor<std::span<double, 8>>);
  static_assert(tensor<std::span<const double>> && !writable_tensor<std::span<const double>>);
  static_assert(writable_tensor<Eigen::MatrixXd> && writable_tensor<Eigen::Ref<Eigen::VectorXf>>);
  static_assert(tensor<Eigen::Ref<const Eigen::VectorXf>> && !writable_tensor<Eigen::Ref<const Eigen::VectorXf>>);
  static_assert(tensor<Eigen::Map<const Eigen::ArrayXd>> && !writable_tensor<Eigen::Map<const Eigen::ArrayXd>>);
  static_assert(shaped_tensor<Eigen::MatrixXd> && elementwise_tensor<Eigen::MatrixXd>);
  static_assert(shaped_tensor<std::span<const float>> && elementwise_tensor<std::span<const float>>);
  static_assert(!tensor<std::vector<int>> && !tensor<Eigen::MatrixXi> && !tensor<double> && !tensor<std::string>);
  SUCCEED("checked by the compiler");
}

namespace other {
/// A type whose namespace has functions with the names of the operations: they must not be found instead.
struct handle {
  std::vector<double> memory;
};
int norm(const handle&) { return -1; }
int size(const handle&) { return -1; }
int zeros_like(const handle&) { return -1; }
}  // namespace other

template <>
struct sluice::tensor_traits<other::handle> {
  using scalar = double;
  using owner = other::handle;
  static index_t size(const owner& x) { return std::ssize(x.memory); }
  static owner zeros_like(const owner& x) { return {std::vector<double>(x.memory.size())}; }
  static double dot(const owner& x, const owner& z) { return traits_of<std::vector<double>>::dot(x.memory, z.memory); }
  template <class Beta, std::same_as<owner>... X>
  static void combine(owner& y, Beta beta, term<double, X>... t) {
    sluice::tensor_traits<std::vector<double>>::combine(y.memory, beta,
                                                        term<double, std::vector<double>>{t.c, t.x.memory}...);
  }
};

TEST_CASE("tensor: a user's type needs one trait, and no name is found by its arguments", "[core][tensor]") {
  using namespace sluice;
  static_assert(writable_tensor<other::handle> && !shaped_tensor<other::handle> && !elementwise_tensor<other::handle>);
  other::handle x{{3, 4}};
  CHECK(norm(x) == 5);
  CHECK(size(x) == 2);
  auto y = zeros_like(x);
  axpy(y, 2, x);
  CHECK(y.memory == std::vector<double>{6, 8});
}
