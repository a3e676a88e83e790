#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/status.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/generate/model.hpp>
#include <sluice/generate/solver.hpp>

#include <cmath>
#include <concepts>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>

/// The driver: a recipe, a model and a grid make a sample.
namespace sluice {

/// nfe: model calls (number of function evaluations); steps: completed steps; stopped: where, if not completed.
struct sample_stats {
  std::int64_t nfe = 0, steps = 0;
  stop_place stopped;
};
struct sample_result {
  sluice::status status = sluice::status::completed;
  sample_stats stats;
};
struct sample_options {
  std::int64_t max_nfe = 10'000;  ///< model calls allowed; 0 or more
};

/// Sees nothing and stops nothing.
struct no_observer {
  template <class X>
  bool operator()(index_t, const noise_level&, const X&) const {
    return true;
  }
};

/// Takes x from levels.front() to levels.back() in place with a stepper that is bound to these levels, as it is (its
/// history is kept), beginning with step `from`. This is `sample` for a stepper that the caller owns.
template <class Stepper, class M, writable_tensor X, class Observer = no_observer>
requires stepper_for<Stepper, std::remove_cvref_t<X>, M>
[[nodiscard]] sample_result sample_with(Stepper& stepper, M& model, X&& x, std::span<const noise_level> levels,
                                        sample_options options = {}, Observer&& observer = {}) {
  expects(!levels.empty(), "sample", "levels.size", levels.size());
  expects(options.max_nfe >= 0, "sample", "options.max_nfe", options.max_nfe);
  auto good = zeros_like(x);
  sample_result r;
  const auto stop = [&r](status why, index_t step) {
    r.status = why;
    r.stats.stopped.step = step;
    return r;
  };
  for (index_t i = 0; i + 1 < std::ssize(levels); ++i) {
    const std::int64_t cost = stepper.evaluations(i);  // before the step, which may change it
    if (r.stats.nfe + cost > options.max_nfe) return stop(status::budget_exhausted, i);
    r.stats.nfe += cost;
    lincomb(good, 1, x);
    stepper.step(model, x, i);
    if (!std::isfinite(norm(x))) {
      lincomb(x, 1, good);
      return stop(status::diverged, i);
    }
    ++r.stats.steps;
    if (!observer(i + 1, levels[static_cast<std::size_t>(i + 1)], std::as_const(x)))
      return stop(status::stopped_by_observer, i);
  }
  return r;
}

/// Takes x from levels.front() to levels.back() in place. Stops before the step that would exceed max_nfe. If a step
/// leaves x without a finite norm, restores the x before it and says `diverged` and which step. After each step
/// `observer(i, levels[i], x)` is called, i = 1, 2, ...; if it returns false the run stops there. Allocates once for
/// the stepper and one tensor for the state to go back to. Throws invalid_argument, x unchanged, if there is no level,
/// max_nfe is negative, or bind throws.
template <class Recipe, class M, writable_tensor X, class Observer = no_observer>
requires model<std::remove_cvref_t<M>, std::remove_cvref_t<X>>
[[nodiscard]] sample_result sample(const Recipe& recipe, M&& model, X&& x, std::span<const noise_level> levels,
                                   sample_options options = {}, Observer&& observer = {}) {
  expects(!levels.empty(), "sample", "levels.size", levels.size());
  auto stepper = recipe.bind(x, levels);
  return sample_with(stepper, model, x, levels, options, std::forward<Observer>(observer));
}

}  // namespace sluice
