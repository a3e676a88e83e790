#pragma once
#include <sluice/generate/heun.hpp>
#include <sluice/generate/model.hpp>
#include <sluice/generate/noise.hpp>
#include <sluice/generate/sample.hpp>
#include <sluice/generate/schedule.hpp>
#include <sluice/generate/solver.hpp>
#include <sluice/generate/time_grid.hpp>

/// Everything of generate/: schedules, grids, models, solvers, and what accelerates or steers them.
