#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/status.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/generate/editing.hpp>
#include <sluice/generate/heun.hpp>
#include <sluice/generate/model.hpp>
#include <sluice/generate/sample.hpp>
#include <sluice/generate/solver.hpp>

#include <cmath>
#include <concepts>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>

/// The classical editors, behind the same interface as ddcm: what it is compared with, and what one uses where the
/// edited sample shall follow the deterministic flow (inversion) or the source's model is not there (SDEdit).
namespace sluice {

/// DDIM inversion: x0 is integrated up to the first level with the source's noise prediction, then down with the
/// target's; first-order steps of the scaled state y = x / alpha,
///     y <- y + (kappa_{i-1} - kappa_i) noise_source(y; level i),  i = N, ..., 1, then the DDIM steps of the target.
/// Levels: N + 1 for N steps, noise to data, alpha > 0 everywhere; 2N evaluations. x0 is the scaled state of the last
/// level, and so is the result. If sigma is 0 there, the first step up evaluates at the level before, since data say
/// nothing of the noise at sigma = 0. Deterministic: the noise source is not used. Allocates two tensors.
/// The error of the inversion, which keeps it from returning x0 even under equal conditions, falls like 1/N.
///
/// Source: Song et al., ICLR 2021 (arXiv:2010.02502), section 5.4; Mokady et al., CVPR 2023 (arXiv:2211.09794) for
/// editing.
struct ddim_inversion {
  double strength = 1;  ///< in [0, 1]: inverts through the last int(N strength) steps only

  /// What `edit` calls. Throws invalid_argument unless strength is in [0, 1], every alpha is positive, the first sigma
  /// is positive, there are two levels or more and no blend.
  template <class C, writable_tensor Z, tensor X, class Noise, class Blend, class Observer>
  edit_result run(C& conditions, Z& z, const X& x0, std::span<const noise_level> levels, const sample_options& options,
                  const Noise&, Blend&, Observer& observer) const {
    static_assert(std::same_as<std::remove_cvref_t<Blend>, no_blend>, "ddim_inversion takes no blend");
    expects(strength >= 0 && strength <= 1, "ddim_inversion", "strength", strength);
    expects(levels.size() >= 2, "ddim_inversion", "levels.size", levels.size());
    expect_levels(levels, "ddim_inversion");
    const index_t n = std::ssize(levels) - 1, first = detail::first_step(n, strength);
    const auto at = [&](index_t i) -> const noise_level& { return levels[static_cast<std::size_t>(i)]; };
    auto x = zeros_like(x0), e = zeros_like(x0), y = deep_copy(x0);
    edit_result r;
    lincomb(z, 1, x0);
    const auto stop = [&](status why, index_t i) {
      r.status = why;
      r.stats.stopped.step = i;
      return false;
    };
    // y moves by dk times the noise prediction at a level.
    const auto move = [&](auto& model, const noise_level& l, double dk, index_t i) {
      if (r.stats.nfe + 1 > options.max_nfe) return stop(status::budget_exhausted, i);
      ++r.stats.nfe;
      lincomb(x, l.alpha, y);
      model(std::as_const(x), l, e, predicts::noise);
      if (size(e) != size(y) || !std::isfinite(norm(e))) return stop(status::diverged, i);
      axpy(y, dk, e);
      return true;
    };
    for (index_t i = n; i > first; --i)
      if (!move(conditions.source(), at(i).sigma > 0 ? at(i) : at(i - 1), at(i - 1).kappa() - at(i).kappa(), i - 1))
        return r;
    for (index_t i = first; i < n; ++i) {
      if (!move(conditions.target(), at(i), at(i + 1).kappa() - at(i).kappa(), i)) return r;
      ++r.stats.steps;
      lincomb(z, 1, y);
      if (!observer(i, at(i), std::as_const(z))) {
        stop(status::stopped_by_observer, i);
        return r;
      }
    }
    return r;
  }
};

/// SDEdit: x0 is noised to the level at which int(N strength) steps are left, alpha x0 + sigma xi, and denoised with
/// the target's model by any solver. Levels: N + 1 for N steps. It does not ask the source's model; the lower the
/// strength, the more stays, wanted or not. Draw i of the noise source starts at level i; a stochastic solver has noise
/// of its own. z is the state at the last level divided by its alpha. Observers see states.
///
/// Source: Meng et al., ICLR 2022 (arXiv:2108.01073).
template <class Recipe = heun>
struct sdedit {
  Recipe solver{};
  double strength = 1;  ///< in [0, 1]; 0 returns x0

  /// What `edit` calls. Throws invalid_argument unless strength is in [0, 1], there are two levels or more, and as the
  /// solver does.
  template <class C, writable_tensor Z, tensor X, class Noise, class Blend, class Observer>
  edit_result run(C& conditions, Z& z, const X& x0, std::span<const noise_level> levels, const sample_options& options,
                  const Noise& noise, Blend&, Observer& observer) const {
    static_assert(std::same_as<std::remove_cvref_t<Blend>, no_blend>, "sdedit takes no blend");
    expects(strength >= 0 && strength <= 1, "sdedit", "strength", strength);
    expects(levels.size() >= 2, "sdedit", "levels.size", levels.size());
    const index_t first = detail::first_step(std::ssize(levels) - 1, strength);
    const auto part = levels.subspan(static_cast<std::size_t>(first));
    auto x = zeros_like(x0);
    auto stepper = solver.bind(x, part);
    edit_result r;
    if (part.size() == 1) {
      lincomb(z, 1, x0);
      return r;
    }
    auto xi = zeros_like(x0);
    noise(xi, first, part.front(), part.front());
    lincomb(x, part.front().alpha, x0, part.front().sigma, xi);
    const auto watch = [&](index_t i, const noise_level& l, const auto& state) {
      return observer(first + i - 1, l, state);
    };
    const sample_result s = sample_with(stepper, conditions.target(), x, part, options, watch);
    r.status = s.status;
    r.stats = s.stats;
    if (s.status == status::completed) {
      lincomb(z, 1 / part.back().alpha, x);
    } else {
      lincomb(z, 1, x0);
      r.stats.stopped.step += first;
    }
    return r;
  }
};
template <class R>
sdedit(R, double = 1) -> sdedit<R>;

}  // namespace sluice
