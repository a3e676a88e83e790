// Fails for: a solver or wrapper that works for one kind of tensor only, loses its order in a wrapper, allocates in a
// step, miscounts its evaluations, or forgets a part of its state.
#include "composition.hpp"

TEMPLATE_TEST_CASE("composition: every solver under every wrapper, tensors", "[generate][composition]",
                   (Eigen::Tensor<double, 3>), (Eigen::Tensor<double, 2, Eigen::RowMajor>), (Eigen::Tensor<float, 3>)) {
  composition::check_all<TestType>(sluice::vp_linear());
}
