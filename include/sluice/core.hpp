#pragma once
#include <sluice/core/budget.hpp>
#include <sluice/core/executor.hpp>
#include <sluice/core/exp_block.hpp>
#include <sluice/core/expects.hpp>
#include <sluice/core/numeric.hpp>
#include <sluice/core/quadrature.hpp>
#include <sluice/core/status.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/core/version.hpp>

/// Everything of core/ except what is included by name: core/thread_pool.hpp and the adaptors core/eigen_tensor.hpp,
/// core/half.hpp, core/mdspan.hpp and core/torch.hpp.
