#pragma once
#include <sluice/core/tensor.hpp>
#include <sluice/generate/model.hpp>
#include <sluice/generate/noise.hpp>
#include <sluice/generate/solver.hpp>

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

/// Methods whose step is one evaluation and one affine map of state, prediction and noise: Euler, DDIM, Euler
/// ancestral.
namespace sluice {

/// x_t = x x_s + p prediction + noise xi, xi standard normal.
struct affine_step {
  double x = 0, p = 0, noise = 0;
};

/// For methods that draw nothing.
struct no_noise {
  template <class O>
  void operator()(O&, index_t, const noise_level&, const noise_level&) const {}
};

/// The stepper of such a method: a table of the grid's steps, one evaluation a step and one pass over memory. Without
/// history, so steps may be made in any order. Three tensors shaped like x, two if no step draws; a step allocates
/// nothing.
template <writable_tensor X, noise_source<owner_t<X>> Noise = no_noise>
class affine_stepper {
 public:
  /// step_of(s, t) gives the step between two successive levels; the levels are checked by the recipe.
  template <class F>
  affine_stepper(const X& like, std::span<const noise_level> levels, predicts form, const Noise& noise, F&& step_of)
      : levels_(levels.begin(), levels.end()),
        form_(form),
        noise_(noise),
        prediction_(zeros_like(like)),
        scratch_(zeros_like(like)) {
    bool draws = false;
    for (std::size_t i = 0; i + 1 < levels_.size(); ++i) {
      steps_.push_back(step_of(levels_[i], levels_[i + 1]));
      draws = draws || steps_.back().noise != 0;
    }
    if (draws) xi_.emplace(zeros_like(like));
  }
  affine_stepper(affine_stepper&&) = default;  // move-only: a copied tensor may share storage
  affine_stepper& operator=(affine_stepper&&) = default;

  /// From levels[i] to levels[i + 1], in place.
  template <model<X> M, class First = unchanged>
  void step(M& model, X& x, index_t i, First&& first = {}) {
    const noise_level &s = at(i), &t = at(i + 1);
    const affine_step& k = steps_[static_cast<std::size_t>(i)];
    model(std::as_const(x), s, prediction_, form_);
    const auto& p = first(i, s, x, prediction_, scratch_);
    if (k.noise == 0) return scale_add(x, k.x, k.p, p);
    noise_(*xi_, i, s, t);
    scale_add(x, k.x, k.p, p, k.noise, *xi_);
  }
  std::int64_t evaluations(index_t) const { return 1; }
  predicts form() const { return form_; }
  void reset() {}  // no history
  solver_state<owner_t<X>> state() const { return {}; }
  void restore(const solver_state<owner_t<X>>&) {}

 private:
  const noise_level& at(index_t i) const { return levels_[static_cast<std::size_t>(i)]; }

  std::vector<noise_level> levels_;
  std::vector<affine_step> steps_;
  predicts form_;
  Noise noise_;
  owner_t<X> prediction_, scratch_;
  std::optional<owner_t<X>> xi_;
};

}  // namespace sluice
