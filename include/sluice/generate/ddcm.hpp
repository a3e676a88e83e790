#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/status.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/generate/editing.hpp>
#include <sluice/generate/model.hpp>
#include <sluice/generate/noise.hpp>
#include <sluice/generate/sample.hpp>
#include <sluice/generate/solver.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace sluice {

/// Where an edit starts, with a fresh xi_0: noised: alpha x0 + sigma xi_0; noise: sqrt(alpha^2 + sigma^2) xi_0, which
/// forgets x0 (xi_0 itself where the variance is preserved).
enum class edit_start { noised, noise };

/// The edited estimate from the data predictions of both branches, in place:
///     z <- x0 + D_target - D_source    (z holds D_target before).
/// Exactly x0 where the predictions agree, since they are subtracted first. One pass.
template <writable_tensor Z, tensor D, tensor X>
void edited_estimate(Z&& z, const D& source, const X& x0) {
  scale_add(z, 1.0, -1.0, source, 1.0, x0);
}

/// The noise that explains the state x if its data are z: n <- (x - alpha z)/sigma. One pass.
template <writable_tensor N, tensor X, tensor Z>
void implied_noise(N&& n, const X& x, const Z& z, const noise_level& level) {
  lincomb(n, 1 / level.sigma, x, -level.alpha / level.sigma, z);
}

/// The state at a level that continues the noise n and takes in fresh noise xi, eta of its variance:
///     x <- alpha z + sigma (sqrt(1 - eta) n + sqrt(eta) xi).
/// One pass; n is not read at eta = 1, xi not at eta = 0. Throws invalid_argument unless eta is in [0, 1].
template <writable_tensor X, tensor Z, tensor N, tensor Xi>
void renoised_state(X&& x, const Z& z, const N& n, const Xi& xi, const noise_level& level, double eta) {
  expects(eta >= 0 && eta <= 1, "renoised_state", "eta", eta);
  if (eta == 1) return lincomb(x, level.alpha, z, level.sigma, xi);
  if (eta == 0) return lincomb(x, level.alpha, z, level.sigma, n);
  lincomb(x, level.alpha, z, level.sigma * std::sqrt(1 - eta), n, level.sigma * std::sqrt(eta), xi);
}

/// Editing without inversion (InfEdit's virtual inversion, "DDCM"). At level i, with z_0 = x0 and fresh noise xi_i that
/// both branches share,
///     x_source = alpha_i x0 + sigma_i n_i,    x_target = alpha_i z_i + sigma_i n_i,
///     z_{i+1} = x0 + D_target(x_target) - D_source(x_source),    D = E[data | state],
///     n_{i+1} = sqrt(1 - eta) (x_target - alpha_i z_{i+1})/sigma_i + sqrt(eta) xi_{i+1},    n_0 = xi_0,
/// and the last z is the result: the target's denoising, plus what the source's own denoising misses. At eta = 1, the
/// default, n is fresh at every step. Whatever both models say alike cancels: with equal conditions z is x0 to the bit
/// at every step, for any model, and coordinates on which the predictions agree stay.
///
/// Two evaluations a step, no inversion, no trajectory: 5 tensors shaped like x0 (6 for eta < 1; 8 or 10 with a layout
/// branch). A step is six passes over memory besides the models and the noise, and allocates nothing.
///
/// Levels: any schedule, kappa falling; the models are called at each one with sigma > 0, so N steps are N levels; a
/// last level with sigma = 0 is not called, so that the grids of time_grid.hpp serve as they are. The usual list is
/// consistency_indices(12) of vp_discrete::scaled_linear(). alpha = 0 at the first level is allowed for models that
/// tell the data there (not noise or score). Draw i of the noise source makes the states of level i.
///
/// Layout branch (three conditions): a state x_layout = alpha z_layout + sigma n with z_layout = x0 + D_layout -
/// D_source. Unless its model looks at the other branches (attention_control.hpp) it is x_source. Where eta < 1, source
/// and layout share the noise that x_layout implies, and the target keeps its own.
///
/// Source: Xu et al., CVPR 2024 (arXiv:2312.04965), Algorithm 2; eta and the layout branch as in the authors' code,
/// where eta multiplies the variance of the noise and the source's state takes in e_target - e_source for eta < 1.
/// Differs: written in data predictions, in which x_target - x_source = alpha (z - x0) and nothing is divided by alpha;
/// any schedule.
struct ddcm {
  double eta = 1;                         ///< fresh part of the noise's variance, in [0, 1]
  edit_start start = edit_start::noised;  ///< what the first states are
  double strength = 1;                    ///< the last int(N strength) steps are made; 0 returns x0

  /// Makes the steps of one edit. X is the type of x0, C the type of the conditions. Owns its states; serves one
  /// thread. Move-only: a copied tensor may share storage.
  template <tensor X, class C>
  class stepper {
   public:
    using conditions_type = std::remove_cvref_t<C>;
    static constexpr std::size_t branches = conditions_type::branches;

    stepper(const X& like, std::span<const noise_level> levels, const ddcm& recipe)
        : eta_(checked(recipe, levels)),
          start_(recipe.start),
          levels_(levels.begin(), levels.back().sigma > 0 ? levels.end() : levels.end() - 1),
          x_(like),
          d_(like),
          xi_(zeros_like(like)) {
      first_ = detail::first_step(n_steps(), recipe.strength);
      if (recipe.eta < 1) noise_.push_back(zeros_like(like));
      if (branches == 3) {
        if (recipe.eta < 1) noise_.push_back(zeros_like(like));
        layout_.push_back(zeros_like(like));
      }
    }
    stepper(stepper&&) = default;
    stepper& operator=(stepper&&) = default;

    index_t n_steps() const { return std::ssize(levels_); }
    /// Steps first_step(), ..., n_steps() - 1 are made, in this order. Equal to n_steps() at strength 0.
    index_t first_step() const { return first_; }
    /// Evaluations of a step.
    std::int64_t evaluations(index_t) const { return static_cast<std::int64_t>(branches); }

    /// Step i: z_i in z becomes z_{i+1}; z holds x0 before the first. x0 is the same in all steps. Returns |z_{i+1} -
    /// z_i|; if that is not finite, or a model changed the size of its output, it is infinite or NaN, z is unchanged
    /// and the run is over. noise: a noise_source for owner_t<X>.
    template <writable_tensor Z, class Noise, class Blend = no_blend>
    double step(conditions_type& conditions, Z& z, const X& x0, index_t i, const Noise& noise, Blend&& blend = {}) {
      const noise_level& l = levels_[static_cast<std::size_t>(i)];
      if (i == first_) {
        start(z, x0, l, noise);
      } else {
        if (eta_ > 0) noise(xi_, i, levels_[static_cast<std::size_t>(i - 1)], l);
        renoised_state(x_(0), x0, source_noise(), xi_, l, eta_);
        renoised_state(x_(1), z, target_noise(), xi_, l, eta_);
        if constexpr (branches == 3) renoised_state(x_(2), layout_[0], source_noise(), xi_, l, eta_);
      }
      conditions.template evaluate<X>(x_, l, d_);
      if (!d_.fits(size(z))) return std::numeric_limits<double>::quiet_NaN();
      for (std::size_t k = 1; k < branches; ++k) edited_estimate(d_(k), d_(0), x0);
      lincomb(xi_, 1, d_(1), -1, z);
      double change = static_cast<double>(norm(xi_));
      if (!std::isfinite(change)) return change;
      if constexpr (branches == 3) {
        if (!std::isfinite(norm(d_(2)))) return std::numeric_limits<double>::quiet_NaN();
        lincomb(layout_[0], 1, d_(2));
      }
      const edit_step place{i, first_, n_steps(), l};
      if (eta_ < 1 && !place.last()) {
        implied_noise(noise_[0], x_(1), d_(1), l);
        if constexpr (branches == 3) implied_noise(noise_[1], x_(2), d_(2), l);
      }
      if constexpr (!std::same_as<std::remove_cvref_t<Blend>, no_blend>) {
        lincomb(xi_, 1, z);
        lincomb(z, 1, d_(1));
        if constexpr (branches == 3) {
          blend(place, z, x0, layout_[0]);
          if (eta_ < 1 && !place.last()) blend(place, noise_[0], noise_[1], noise_[1]);
        } else {
          blend(place, z, x0, x0);
        }
        axpy(xi_, -1, z);
        change = static_cast<double>(norm(xi_));
      } else {
        lincomb(z, 1, d_(1));
      }
      return change;
    }

    /// What the next step needs besides z: nothing at eta = 1 without a layout branch.
    solver_state<owner_t<X>> state() const {
      solver_state<owner_t<X>> s;
      for (const auto& n : noise_) s.history.push_back(deep_copy(n));
      for (const auto& n : layout_) s.history.push_back(deep_copy(n));
      return s;
    }
    void restore(const solver_state<owner_t<X>>& s) {
      expects(s.history.size() == noise_.size() + layout_.size(), "ddcm", "state.history.size", s.history.size());
      for (std::size_t k = 0; k < noise_.size(); ++k) lincomb(noise_[k], 1, s.history[k]);
      for (std::size_t k = 0; k < layout_.size(); ++k) lincomb(layout_[k], 1, s.history[noise_.size() + k]);
    }

   private:
    static double checked(const ddcm& recipe, std::span<const noise_level> levels) {
      expects(recipe.eta >= 0 && recipe.eta <= 1, "ddcm", "eta", recipe.eta);
      expects(recipe.strength >= 0 && recipe.strength <= 1, "ddcm", "strength", recipe.strength);
      expect_levels(levels, "ddcm", true);
      expects(levels.front().sigma > 0, "ddcm", "levels.sigma", levels.front().sigma, 0);
      return recipe.eta;
    }
    /// All branches begin in the same state.
    template <class Z, class Noise>
    void start(const Z& z, const X& x0, const noise_level& l, const Noise& noise) {
      noise(xi_, first_, l, l);
      const bool pure = start_ == edit_start::noise;
      for (std::size_t k = 0; k < branches; ++k)
        if (pure)
          lincomb(x_(k), std::hypot(l.alpha, l.sigma), xi_);
        else if (k == 1)
          lincomb(x_(k), l.alpha, z, l.sigma, xi_);
        else
          lincomb(x_(k), l.alpha, x0, l.sigma, xi_);
    }
    const owner_t<X>& target_noise() const { return noise_.empty() ? xi_ : noise_.front(); }
    const owner_t<X>& source_noise() const { return noise_.empty() ? xi_ : noise_.back(); }

    double eta_;  // not the recipe: it is incomplete here
    edit_start start_;
    std::vector<noise_level> levels_;  // where models are called
    index_t first_ = 0;
    typename conditions_type::template storage<X> x_, d_;  // states and data predictions of the branches
    owner_t<X> xi_;
    std::vector<owner_t<X>> noise_;   // implied noise: of the target; of source and layout, if there is a layout branch
    std::vector<owner_t<X>> layout_;  // clean estimate of the layout branch
  };

  /// `like` gives the shape only. Throws invalid_argument unless eta and strength are in [0, 1] and the levels are a
  /// grid that begins with sigma > 0.
  template <class C, tensor X>
  stepper<X, C> bind(const X& like, std::span<const noise_level> levels) const {
    return {like, levels, *this};
  }

  /// What `edit` calls.
  template <class C, writable_tensor Z, tensor X, class Noise, class Blend, class Observer>
  edit_result run(C& conditions, Z& z, const X& x0, std::span<const noise_level> levels, const sample_options& options,
                  const Noise& noise, Blend& blend, Observer& observer) const {
    auto steps = bind<C>(x0, levels);
    edit_result r;
    r.change.reserve(static_cast<std::size_t>(steps.n_steps() - steps.first_step()));
    lincomb(z, 1, x0);
    for (index_t i = steps.first_step(); i < steps.n_steps(); ++i) {
      const auto stop = [&](status why) {
        r.status = why;
        r.stats.stopped.step = i;
      };
      if (r.stats.nfe + steps.evaluations(i) > options.max_nfe) {
        stop(status::budget_exhausted);
        break;
      }
      r.stats.nfe += steps.evaluations(i);
      const double change = steps.step(conditions, z, x0, i, noise, blend);
      if (!std::isfinite(change)) {
        stop(status::diverged);
        break;
      }
      r.change.push_back(change);
      ++r.stats.steps;
      if (!observer(i, levels[static_cast<std::size_t>(i)], std::as_const(z))) {
        stop(status::stopped_by_observer);
        break;
      }
    }
    return r;
  }
};

}  // namespace sluice
