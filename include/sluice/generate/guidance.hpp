#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/generate/model.hpp>
#include <sluice/generate/solver.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

/// Guidance: two models, one conditional and one not, as one model. The weight is a function of the level.
namespace sluice {

/// The same weight w at every level: unconditional + w (conditional - unconditional). w = 1 is the conditional model
/// (public code often counts from there: its "guidance scale" is this w). Source: Ho and Salimans (arXiv:2207.12598).
struct constant_weight {
  double w = 1;
  double operator()(const noise_level&) const { return w; }
};

/// w where kappa is in (kappa_low, kappa_high], 1 elsewhere, where the unconditional model is not called.
/// Source: Kynkaanniemi et al., NeurIPS 2024 (arXiv:2404.07724).
struct interval_weight {
  double w = 1, kappa_low = 0, kappa_high = 0;
  double operator()(const noise_level& l) const { return l.kappa() > kappa_low && l.kappa() <= kappa_high ? w : 1.0; }
};

/// CFG++: the residual noise is measured against the unconditional prediction u,
///     x_t / alpha_t = D + (kappa_t / kappa_s)(x_s / alpha_s - D_u),    D = D_u + w (D_c - D_u),
/// which for a first-order step is classifier-free guidance with the weight w / (1 - kappa_t / kappa_s) of this step.
/// Other solvers use that weight at every evaluation within the step from s to t. w in [0, 1] interpolates.
/// Source: Chung et al. (arXiv:2406.08070). Differs: any schedule and solver, as said.
class cfg_plus_plus {
 public:
  /// For the steps of this grid. Throws invalid_argument if it is not one, or w is negative or not finite.
  cfg_plus_plus(std::span<const noise_level> levels, double w) {
    expect_levels(levels, "cfg_plus_plus", true);
    expects(levels.size() >= 2, "cfg_plus_plus", "levels.size", levels.size());
    expects(w >= 0 && std::isfinite(w), "cfg_plus_plus", "w", w);
    for (std::size_t i = 0; i + 1 < levels.size(); ++i) {
      kappa_.push_back(levels[i].kappa());
      weight_.push_back(levels[i].alpha == 0 ? w : w / (1 - levels[i + 1].kappa() / levels[i].kappa()));
    }
  }
  /// The weight of the step that begins at or above this level. O(log N).
  double operator()(const noise_level& l) const {
    const auto below = std::upper_bound(kappa_.begin() + 1, kappa_.end(), l.kappa(), std::greater<>{});
    // A level of the grid belongs to the step that it begins, also if its kappa was computed anew.
    const bool begins = below != kappa_.end() && std::abs(*below - l.kappa()) <= 1e-12 * l.kappa();
    return weight_[static_cast<std::size_t>(below - kappa_.begin()) - (begins ? 0 : 1)];
  }

 private:
  std::vector<double> kappa_, weight_;
};

/// What was called how often.
struct guidance_counts {
  std::int64_t conditional = 0, unconditional = 0;
};

/// unconditional + w (conditional - unconditional), in whatever form is asked for: the forms are affine in each other,
/// so it does not matter in which one mixes. Where w is exactly 1 only the conditional model is called and its output
/// is passed on to the bit; where w is exactly 0 only the unconditional one. Both calls see the same state; one more
/// pass combines them. Owns one tensor; a call allocates nothing. One object a thread.
template <class Conditional, class Unconditional, class O, class Weight>
class guided_model {
 public:
  guided_model(Conditional conditional, Unconditional unconditional, O other, Weight weight)
      : conditional_(std::move(conditional)),
        unconditional_(std::move(unconditional)),
        other_(std::move(other)),
        weight_(std::move(weight)) {}
  guided_model(guided_model&&) = default;  // move-only: a copied tensor may share storage
  guided_model& operator=(guided_model&&) = default;

  template <class X>
  void operator()(const X& x, const noise_level& level, O& out, predicts want) {
    const double w = weight_(level);
    if (w == 0) {
      ++counts_.unconditional;
      return unconditional_(x, level, out, want);
    }
    ++counts_.conditional;
    conditional_(x, level, out, want);
    if (w == 1) return;
    ++counts_.unconditional;
    unconditional_(x, level, other_, want);
    scale_add(out, w, 1 - w, other_);
  }
  const guidance_counts& counts() const { return counts_; }
  Weight& weight() { return weight_; }

 private:
  Conditional conditional_;
  Unconditional unconditional_;
  O other_;
  Weight weight_;
  guidance_counts counts_;
};

/// Two models as one. `like` gives the shape of the states. The weight is a number or a function of the level
/// (constant_weight, interval_weight, cfg_plus_plus or your own). Models are copied; pass std::ref to keep them
/// outside. Throws invalid_argument if a weight given as a number is not finite.
template <class C, class U, tensor X, class W>
auto guided(C conditional, U unconditional, const X& like, W weight) {
  if constexpr (std::is_arithmetic_v<W>) {
    expects(std::isfinite(static_cast<double>(weight)), "guided", "weight", weight);
    return guided_model<C, U, owner_t<X>, constant_weight>(std::move(conditional), std::move(unconditional),
                                                           zeros_like(like), {static_cast<double>(weight)});
  } else {
    return guided_model<C, U, owner_t<X>, W>(std::move(conditional), std::move(unconditional), zeros_like(like),
                                             std::move(weight));
  }
}

}  // namespace sluice
