#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/generate/heun.hpp>
#include <sluice/generate/model.hpp>
#include <sluice/generate/noise.hpp>
#include <sluice/generate/schedule.hpp>
#include <sluice/generate/solver.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <span>
#include <utility>
#include <vector>

namespace sluice {

/// A stepper whose step may begin and end off the grid, because it has no history.
template <class S, class X, class M>
concept one_step_stepper = stepper_for<S, X, M> && requires(S& s, M& model, X& x, index_t i, const noise_level& l) {
  s.step_between(model, x, i, l, l, unchanged{});
};

/// Stochastic churn: before each of the N steps the level is raised by fresh noise, and the step starts from there,
///     kappa^ = kappa_i (1 + gamma),  gamma = min(s_churn/N, sqrt 2 - 1) if s_min <= kappa_i <= s_max, else 0,
///     x/alpha <- x/alpha + s_noise sqrt(kappa^^2 - kappa_i^2) z,  z standard normal;  step from kappa^ to kappa_{i+1}.
/// It corrects errors of earlier steps and adds those of the noise. Wraps a recipe whose steps need no history (heun).
/// With s_churn = 0 it is that recipe to the bit. bind allocates one tensor beside the solver's; no allocation in
/// steps. Source: Karras et al., NeurIPS 2022 (arXiv:2206.00364), Algorithm 2. Differs: any schedule, by the scaled
/// state.
template <class Recipe = heun, schedule Schedule = edm, class Noise = step_noise>
struct churned {
  Recipe recipe{};
  double s_churn = 0;                                      ///< total churn, not negative
  double s_min = 0;                                        ///< no churn at kappa below
  double s_max = std::numeric_limits<double>::infinity();  ///< and above
  double s_noise = 1;                                      ///< standard deviation of z, positive
  Schedule schedule{};                                     ///< of the levels: gives the network's time at kappa^
  Noise noise{};

  template <writable_tensor X>
  class stepper {
   public:
    stepper(const X& like, std::span<const noise_level> levels, const churned& options)
        : from_(raised(levels, options)),
          levels_(levels.begin(), levels.end()),
          s_noise_(options.s_noise),
          noise_(options.noise),
          inner_(options.recipe.bind(like, levels)),
          z_(zeros_like(like)) {}
    stepper(stepper&&) = default;
    stepper& operator=(stepper&&) = default;

    template <model<X> M, class First = unchanged>
    requires one_step_stepper<stepper_t<Recipe, X>, X, M>
    void step(M& model, X& x, index_t i, First&& first = {}) {
      const noise_level &s = at(levels_, i), &hat = at(from_, i);
      if (hat.kappa() > s.kappa()) {
        noise_(z_, i, hat, s);
        const double added = std::sqrt((hat.kappa() - s.kappa()) * (hat.kappa() + s.kappa()));
        scale_add(x, hat.alpha / s.alpha, hat.alpha * s_noise_ * added, z_);
      }
      inner_.step_between(model, x, i, hat, at(levels_, i + 1), first);
    }
    std::int64_t evaluations(index_t i) const { return inner_.evaluations(i); }
    predicts form() const { return inner_.form(); }
    void reset() { inner_.reset(); }
    solver_state<owner_t<X>> state() const { return inner_.state(); }
    void restore(solver_state<owner_t<X>> s) { inner_.restore(std::move(s)); }
    /// The level from which step i starts after the churn.
    const noise_level& raised_level(index_t i) const { return at(from_, i); }

   private:
    static const noise_level& at(const std::vector<noise_level>& list, index_t i) {
      return list[static_cast<std::size_t>(i)];
    }
    static std::vector<noise_level> raised(std::span<const noise_level> levels, const churned& o) {
      expect_levels(levels, "churned");
      expects(o.s_churn >= 0 && std::isfinite(o.s_churn), "churned", "s_churn", o.s_churn);
      expects(o.s_min >= 0, "churned", "s_min", o.s_min);
      expects(o.s_max >= o.s_min, "churned", "s_max", o.s_max);
      expects(o.s_noise > 0 && std::isfinite(o.s_noise), "churned", "s_noise", o.s_noise);
      std::vector<noise_level> list(levels.begin(), levels.end() - 1);
      const double gamma =
          std::min(o.s_churn / static_cast<double>(std::max<std::size_t>(list.size(), 1)), std::numbers::sqrt2 - 1);
      for (noise_level& l : list)
        if (gamma > 0 && l.kappa() >= o.s_min && l.kappa() <= o.s_max)
          l = level_at_kappa(o.schedule, l.kappa() * (1 + gamma));
      return list;
    }

    std::vector<noise_level> from_, levels_;
    double s_noise_;
    Noise noise_;
    stepper_t<Recipe, X> inner_;
    owner_t<X> z_;
  };

  /// Throws invalid_argument if an option is out of its range, a raised level is outside the schedule, or the wrapped
  /// recipe throws.
  template <writable_tensor X>
  stepper<X> bind(const X& like, std::span<const noise_level> levels) const {
    return {like, levels, *this};
  }
};

}  // namespace sluice
