#include <catch2/catch.hpp>
#include <cstdint>
#include <sluice/core/eigen_tensor.hpp>
#include <sluice/core/half.hpp>
#include <sluice/random/distributions.hpp>
#include <vector>

// Fails for: a half type rounded twice or rounded up to 1, a fill that copies a view, an adaptor without elements.
using namespace sluice;

TEMPLATE_TEST_CASE("fill: half types are storage", "[normal][uniform]", Eigen::half, Eigen::bfloat16) {
  const stream key{31};
  std::vector<TestType> x(5000);
  fill_normal(x, key, 3);
  for (std::size_t e = 0; e < x.size(); ++e) {
    const auto z = static_cast<float>(3 * normal_at(key, e));
    REQUIRE(static_cast<float>(x[e]) == static_cast<float>(static_cast<TestType>(z)));
  }
  fill_uniform(x, key);
  for (std::size_t e = 0; e < x.size(); ++e) {
    const double u = uniform_at(key, e), stored = static_cast<double>(static_cast<float>(x[e]));
    REQUIRE((stored <= u && u - stored < 0x1p-8));
  }
}

TEST_CASE("fill: Eigen::Tensor and maps, where they lie", "[normal]") {
  const stream key{32};
  Eigen::Tensor<double, 3> x(4, 5, 6);
  fill_normal(x, key);
  for (std::uint64_t e = 0; e < 120; ++e) REQUIRE(x.data()[e] == normal_at(key, e));
  std::vector<float> memory(120);
  Eigen::TensorMap<Eigen::Tensor<float, 2>> map(memory.data(), 12, 10);
  fill_normal(map, key);
  Eigen::Map<Eigen::MatrixXf> matrix(memory.data(), 12, 10);
  CHECK(matrix(3, 2) == static_cast<float>(normal_at(key, 27)));
  // A segment with a stride: every second element.
  Eigen::Map<Eigen::VectorXf, 0, Eigen::InnerStride<2>> strided(memory.data(), 60);
  const float untouched = memory[1];
  fill_normal(strided, key, 2);
  CHECK(memory[2] == static_cast<float>(2 * normal_at(key, 1)));
  CHECK(memory[1] == untouched);
}
