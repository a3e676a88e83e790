// Fails for: sums or products rounded to the stored type; a conversion that copies; rounding by truncation; rounding
// after every term instead of once; NaN read by an assignment.
#include <sluice/core/half.hpp>

#include <catch2/catch.hpp>
#include <core/tensor_checks.hpp>
#include <span>
#include <vector>

namespace {
template <class S>
struct vector_case {
  explicit vector_case(int n) : memory(static_cast<std::size_t>(n)) {}
  S& at(int i) { return memory[static_cast<std::size_t>(i)]; }
  auto& tensor() { return memory; }
  std::vector<S> memory;
};
template <class S>
struct span_case : vector_case<S> {
  explicit span_case(int n) : vector_case<S>(n + 1), view(this->memory.data() + 1, static_cast<std::size_t>(n)) {}
  S& at(int i) { return view[static_cast<std::size_t>(i)]; }
  auto& tensor() { return view; }
  std::span<S> view;
};
template <class S>
struct eigen_case {
  explicit eigen_case(int n) : memory(n) {}
  S& at(int i) { return memory(i); }
  auto& tensor() { return memory; }
  Eigen::Array<S, Eigen::Dynamic, 1> memory;
};
template <class S>
struct eigen_block_case {
  explicit eigen_block_case(int n) : memory(n + 2, 3) { memory.setZero(); }
  S& at(int i) { return memory(i + 1, 1); }
  auto tensor() { return memory.col(1).segment(1, memory.rows() - 2); }
  Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic> memory;
};
template <class S>
struct eigen_map_case : vector_case<S> {
  explicit eigen_map_case(int n) : vector_case<S>(n + 1), view(this->memory.data() + 1, n) {}
  S& at(int i) { return this->memory[static_cast<std::size_t>(i) + 1]; }
  auto& tensor() { return view; }
  Eigen::Map<Eigen::Matrix<S, Eigen::Dynamic, 1>> view;
};
}  // namespace

TEMPLATE_TEST_CASE("half: all operations, computed in float where the numbers lie", "[core][tensor]", Eigen::half,
                   Eigen::bfloat16) {
  for (const int n : {3, 24, 101}) {  // inner products of these are exact in float
    checks::check_everything<vector_case<TestType>>(n);
    checks::check_everything<span_case<TestType>>(n);
    checks::check_everything<eigen_case<TestType>>(n);
    checks::check_everything<eigen_block_case<TestType>>(n);
    checks::check_everything<eigen_map_case<TestType>>(n);
  }
  checks::check_combinations<vector_case<TestType>, span_case<TestType>, vector_case<TestType>>(17);
  checks::check_combinations<eigen_case<TestType>, eigen_map_case<TestType>, eigen_block_case<TestType>>(17);
  checks::check_elements<vector_case<TestType>>(9);
  checks::check_elements<eigen_map_case<TestType>>(9);
  static_assert(std::same_as<sluice::scalar_t<std::vector<TestType>>, float>);
  static_assert(std::same_as<sluice::owner_t<std::span<const TestType>>, std::vector<TestType>>);
  static_assert(!sluice::writable_tensor<std::span<const TestType>>);
  static_assert(!sluice::writable_tensor<Eigen::Map<const Eigen::Array<TestType, 4, 1>>>);
  static_assert(sluice::shaped_tensor<std::vector<TestType>>);
}

TEST_CASE("half: rounded once, to nearest even", "[core][tensor]") {
  using Eigen::half;
  std::vector<half> y{half(1)};
  const std::vector<half> x{half(1)}, tiny{half(0.0004883f)};  // about 2^-11, half the last place at 1
  sluice::lincomb(y, 1, x, 0.75, tiny, 0.75, tiny);            // each term alone would be rounded away
  CHECK(static_cast<float>(y[0]) == 1.0f + 0x1p-10f);
  sluice::lincomb(y, 1 + 0x1p-11, x);  // a tie
  CHECK(static_cast<float>(y[0]) == 1.0f);
  sluice::lincomb(y, 1 + 3 * 0x1p-11, x);
  CHECK(static_cast<float>(y[0]) == 1.0f + 2 * 0x1p-10f);
}

TEST_CASE("half: sums are float sums", "[core][tensor]") {
  const std::vector<Eigen::half> large(100, Eigen::half(300.0f));  // 300^2 is not a half
  CHECK(sluice::dot(large, large) == 9e6f);
  CHECK(sluice::norm(large) == 3000.0f);
  const Eigen::Array<Eigen::bfloat16, Eigen::Dynamic, 1> ones =
      Eigen::Array<Eigen::bfloat16, Eigen::Dynamic, 1>::Constant(1000, Eigen::bfloat16(1));
  CHECK(sluice::dot(ones, ones) == 1000.0f);  // a bfloat16 sum of ones stops at 256
}

TEST_CASE("half: a float tensor may be a term of a half one", "[core][tensor]") {
  Eigen::Array<Eigen::half, Eigen::Dynamic, 1> y(3);
  const Eigen::ArrayXf x = Eigen::ArrayXf::LinSpaced(3, 1, 3);
  sluice::lincomb(y, 0.5, x);
  CHECK(static_cast<float>(y(2)) == 1.5f);
  CHECK(sluice::dot(y, x) == 7.0f);
}
