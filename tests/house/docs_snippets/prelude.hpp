#pragma once
// What a snippet finds without asking for it: all of sluice that needs no further library, and the usual standard
// headers.
#include <sluice/core/eigen_tensor.hpp>
#include <sluice/core/half.hpp>
#include <sluice/core/thread_pool.hpp>
#include <sluice/models.hpp>
#include <sluice/sluice.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "page.hpp"
