#pragma once
#include <sluice/core/tensor.hpp>
#include <sluice/generate/affine_step.hpp>
#include <sluice/generate/model.hpp>
#include <sluice/generate/schedule.hpp>
#include <sluice/generate/solver.hpp>

#include <span>

namespace sluice {

/// Euler's method in the schedule's own time t, on the probability-flow ODE x' = (log alpha)' x + alpha kappa' noise:
///     x <- x + (t_{i+1} - t_i) ((log alpha)' x + alpha kappa' noise(x; t_i)).
/// For the variance-preserving schedules (log alpha)' = -beta/2 and alpha kappa' = beta/(2 sigma). First order, one
/// evaluation a step. This is the naive method that papers compare with: it discretises the linear part too, which the
/// others solve exactly, so its error depends on the schedule. Under EDM and rectified flow, where the path is straight
/// in t for a point of data, it is the same as ddim without noise. Where the model is poor or steps are few it is not
/// always the worse of the two.
/// bind allocates two tensors shaped like x; stepping allocates nothing. A recipe is a value; a stepper serves one
/// thread. Source: Song et al., ICLR 2021 (arXiv:2011.13456), equation 13, discretised.
template <schedule Schedule>
struct euler {
  Schedule schedule{};  ///< of the levels that the stepper is bound to

  template <class X>
  using stepper = affine_stepper<X>;

  /// `like` gives the shape only. Throws invalid_argument unless every alpha is positive, kappa falls strictly, to 0 at
  /// the lowest, and the levels are those of the schedule at their times.
  template <writable_tensor X>
  stepper<X> bind(const X& like, std::span<const noise_level> levels) const {
    expect_levels(levels, "euler");
    expect_levels_of(schedule, levels, "euler");
    return {like, levels, predicts::noise, no_noise{}, [this](const noise_level& s, const noise_level& t) {
              const schedule_slope slope = schedule.slope(s.t);
              const double dt = t.t - s.t;
              return affine_step{1 + dt * slope.log_alpha, dt * s.alpha * slope.kappa, 0};
            }};
  }
};

}  // namespace sluice
