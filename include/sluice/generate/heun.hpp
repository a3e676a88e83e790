#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/generate/model.hpp>
#include <sluice/generate/solver.hpp>

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace sluice {

/// Heun's method for the probability-flow ODE d(x/alpha)/d kappa = noise(x), kappa = sigma/alpha; s and t are
/// successive levels, h = kappa_t - kappa_s:
///     d = noise(x; s),    z = alpha_t (x/alpha_s + h d),    e = noise(z; t),    x <- alpha_t (x/alpha_s + h (d + e)/2)
/// The step to kappa = 0 has no e and is Euler's. Second order; 2N - 1 evaluations for N steps down to 0. With order 1
/// it is Euler's method in kappa, which is DDIM without noise. bind allocates four tensors shaped like x; stepping
/// allocates nothing. A recipe is a value; a stepper serves one thread.
/// Source: Karras et al., NeurIPS 2022 (arXiv:2206.00364), Algorithm 1. Differs: any schedule, by the scaled state;
/// order 1 is ours.
struct heun {
  int order = 2;  ///< 1: Euler, one evaluation a step. 2: Heun, two.

  template <writable_tensor X>
  class stepper {
   public:
    stepper(const X& like, std::span<const noise_level> levels, const heun& recipe)
        : order_(checked(levels, recipe)),
          levels_(levels.begin(), levels.end()),
          noise_(zeros_like(like)),
          second_(zeros_like(like)),
          z_(zeros_like(like)),
          scratch_(zeros_like(like)) {}
    stepper(stepper&&) = default;  // move-only: a copied tensor may share storage
    stepper& operator=(stepper&&) = default;

    /// From levels[i] to levels[i + 1], in place; a step needs no history, so steps may be made in any order.
    template <model<X> M, class First = unchanged>
    void step(M& model, X& x, index_t i, First&& first = {}) {
      step_between(model, x, i, at(i), at(i + 1), first);
    }
    /// The same from level s to level t, which need not be on the grid; i is what the hook is told.
    template <model<X> M, class First = unchanged>
    void step_between(M& model, X& x, index_t i, const noise_level& s, const noise_level& t, First&& first = {}) {
      const double a = t.alpha / s.alpha, h = t.alpha * (t.kappa() - s.kappa());
      model(std::as_const(x), s, noise_, form());
      const auto& d = first(i, s, x, noise_, scratch_);
      if (order_ == 1 || t.sigma == 0) return scale_add(x, a, h, d);
      lincomb(z_, a, x, h, d);
      model(std::as_const(z_), t, second_, form());
      scale_add(x, a, h / 2, d, h / 2, second_);
    }
    std::int64_t evaluations(index_t i) const { return order_ == 1 || at(i + 1).sigma == 0 ? 1 : 2; }
    predicts form() const { return predicts::noise; }
    void reset() {}  // no history
    solver_state<owner_t<X>> state() const { return {}; }
    void restore(const solver_state<owner_t<X>>&) {}

   private:
    static int checked(std::span<const noise_level> levels, const heun& recipe) {
      expects(recipe.order == 1 || recipe.order == 2, "heun", "order", recipe.order);
      expect_levels(levels, "heun");
      return recipe.order;
    }
    const noise_level& at(index_t i) const { return levels_[static_cast<std::size_t>(i)]; }

    int order_;  // not the recipe: it is incomplete here
    std::vector<noise_level> levels_;
    owner_t<X> noise_, second_, z_, scratch_;
  };

  /// `like` gives the shape only. Throws invalid_argument unless order is 1 or 2, every alpha is positive and kappa
  /// falls strictly, to 0 at the lowest.
  template <writable_tensor X>
  stepper<X> bind(const X& like, std::span<const noise_level> levels) const {
    return {like, levels, *this};
  }
};

}  // namespace sluice
