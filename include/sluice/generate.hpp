#pragma once
#include <sluice/generate/affine_step.hpp>
#include <sluice/generate/attention_control.hpp>
#include <sluice/generate/bidirectional.hpp>
#include <sluice/generate/bottleneck.hpp>
#include <sluice/generate/brownian_path.hpp>
#include <sluice/generate/churn.hpp>
#include <sluice/generate/ddcm.hpp>
#include <sluice/generate/ddim.hpp>
#include <sluice/generate/dpm_solver.hpp>
#include <sluice/generate/dualfast.hpp>
#include <sluice/generate/edit_baselines.hpp>
#include <sluice/generate/editing.hpp>
#include <sluice/generate/euler.hpp>
#include <sluice/generate/exponential.hpp>
#include <sluice/generate/guidance.hpp>
#include <sluice/generate/heun.hpp>
#include <sluice/generate/model.hpp>
#include <sluice/generate/noise.hpp>
#include <sluice/generate/resize.hpp>
#include <sluice/generate/sample.hpp>
#include <sluice/generate/schedule.hpp>
#include <sluice/generate/solver.hpp>
#include <sluice/generate/time_grid.hpp>

/// Everything of generate/: schedules, grids, models, solvers, and what accelerates or steers them.
