#pragma once
#include <sluice/core.hpp>
#include <sluice/core/version.hpp>
#include <sluice/draw.hpp>
#include <sluice/generate.hpp>
#include <sluice/kernels.hpp>
#include <sluice/random.hpp>
#include <sluice/speculate.hpp>

/// Every family of sluice. Included by name only: core/thread_pool.hpp, the adaptors (core/eigen_tensor.hpp,
/// core/half.hpp, core/mdspan.hpp, core/torch.hpp) and models.hpp.
