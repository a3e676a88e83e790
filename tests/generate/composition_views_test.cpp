// Fails for: a solver or wrapper that works for one kind of tensor only, loses its order in a wrapper, allocates in a
// step, miscounts its evaluations, or forgets a part of its state.
#include "composition.hpp"

TEMPLATE_TEST_CASE("composition: every solver under every wrapper, views", "[generate][composition]", std::span<double>,
                   Eigen::Map<Eigen::MatrixXd>, std::vector<float>) {
  composition::check_all<TestType>(sluice::vp_linear());
}
