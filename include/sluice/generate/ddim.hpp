#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/generate/affine_step.hpp>
#include <sluice/generate/exponential.hpp>
#include <sluice/generate/model.hpp>
#include <sluice/generate/noise.hpp>
#include <sluice/generate/solver.hpp>

#include <algorithm>
#include <cmath>
#include <span>

namespace sluice {

/// x_t = data E[data] + noise E[noise] + fresh xi, xi standard normal and independent.
struct ddim_weights {
  double data = 0, noise = 0, fresh = 0;
};
/// DDIM's step with the share eta of noise that is fresh, in its own spelling (equation 12 of the source):
///     fresh = eta (sigma_t/sigma_s) sqrt(sigma_s^2 - (alpha_s/alpha_t)^2 sigma_t^2),   noise^2 + fresh^2 = sigma_t^2,
/// data = alpha_t. Computed from h = lambda_t - lambda_s without cancellation. alpha_s = 0 and sigma_t = 0 are allowed.
/// Throws invalid_argument unless eta is in [0, 1].
inline ddim_weights ddim_coefficients(const noise_level& from, const noise_level& to, double eta) {
  expects(eta >= 0 && eta <= 1, "ddim_coefficients", "eta", eta);
  const double h = log_snr_step(from, to);
  const double kept = std::sqrt((1 - eta) * (1 + eta) + eta * eta * std::exp(-2 * h));
  return {to.alpha, to.sigma * kept, to.sigma * eta * std::sqrt(-std::expm1(-2 * h))};
}

/// The law of x_t given x_s and the data, N(data c + x x_s, variance): the posterior of the forward process, from which
/// ancestral sampling draws with E[data] for the data.
struct ddpm_posterior_weights {
  double data = 0, x = 0, variance = 0;
};
/// With abar = alpha^2 and beta = 1 - abar_s/abar_t this is data = sqrt(abar_t) beta/(1 - abar_s),
/// x = sqrt(1 - beta) (1 - abar_t)/(1 - abar_s), variance = beta (1 - abar_t)/(1 - abar_s); any schedule is allowed.
/// Source: Ho et al., NeurIPS 2020 (arXiv:2006.11239), equation 7.
inline ddpm_posterior_weights ddpm_posterior(const noise_level& from, const noise_level& to) {
  const double renewed = -std::expm1(-2 * log_snr_step(from, to));  // beta/sigma_s^2, in general 1 - exp(-2 h)
  const double ratio = to.sigma / from.sigma;
  return {to.alpha * renewed, to.alpha > 0 ? from.alpha / to.alpha * ratio * ratio : 0.0,
          to.sigma * to.sigma * renewed};
}

/// kappa_t^2 = down^2 + up^2: Euler's method goes down to `down`, fresh noise goes up again by `up`.
struct ancestral_kappas {
  double down = 0, up = 0;
};
/// up = min(kappa_t, eta kappa_t sqrt(1 - kappa_t^2/kappa_s^2)). Throws invalid_argument unless eta >= 0 and
/// 0 <= kappa_t <= kappa_s. Source: the reference implementation of Karras et al. (arXiv:2206.00364) by K. Crowson.
inline ancestral_kappas ancestral_split(double kappa_from, double kappa_to, double eta = 1) {
  expects(eta >= 0, "ancestral_split", "eta", eta);
  expects(kappa_to >= 0 && kappa_to <= kappa_from, "ancestral_split", "kappa_to", kappa_to);
  const double r = kappa_from > 0 ? kappa_to / kappa_from : 0.0;
  const double up = std::min(1.0, eta * std::sqrt((1 - r) * (1 + r)));
  return {kappa_to * std::sqrt((1 - up) * (1 + up)), kappa_to * up};
}

/// DDIM: the first-order exponential step, with the share eta of its noise drawn afresh. In the data form, h =
/// lambda_t - lambda_s, q^2 = 1 - eta^2 (1 - exp(-2 h)):
///     x <- q (sigma_t/sigma_s) x + alpha_t (1 - q exp(-h)) data(x; s) + eta sigma_t sqrt(1 - exp(-2 h)) xi.
/// eta = 0 is deterministic: the exponential Euler method (DPM-Solver-1), Euler's method in kappa on x/alpha, and for
/// flows Euler's method in t. eta = 1 is ancestral sampling (DDPM). The law of the exact process is kept for every eta;
/// the noise costs accuracy with few steps and corrects errors of the model with many.
///
/// One evaluation a step, first order. Levels may begin at alpha = 0, where the step is q (sigma_t/sigma_s) x + alpha_t
/// data + ..., and end at sigma = 0, where it is alpha_t data. bind computes the coefficients and allocates two tensors
/// shaped like x, three if eta > 0; stepping allocates nothing. A recipe is a value; a stepper serves one thread.
/// Source: Song et al., ICLR 2021 (arXiv:2010.02502), equation 12. Differs: the data form; coefficients without
/// cancellation; any schedule.
template <class Noise = step_noise>
struct ddim {
  double eta = 0;  ///< in [0, 1]; 0: deterministic. 1: ancestral
  Noise noise{};   ///< a noise_source; not called if eta = 0

  template <class X>
  using stepper = affine_stepper<X, Noise>;

  /// `like` gives the shape only. Throws invalid_argument unless eta is in [0, 1], alpha is positive but perhaps at the
  /// first level, and kappa falls strictly, to 0 at the lowest.
  template <writable_tensor X>
  stepper<X> bind(const X& like, std::span<const noise_level> levels) const {
    expects(eta >= 0 && eta <= 1, "ddim", "eta", eta);
    expect_levels(levels, "ddim", true);
    return {like, levels, predicts::data, noise, [this](const noise_level& s, const noise_level& t) {
              const ddim_weights w = ddim_coefficients(s, t, eta);
              // 1 - q exp(-h) from the logarithm of the product, which does not cancel.
              const double h = log_snr_step(s, t);
              const double log_q = std::log((1 - eta) * (1 + eta) + eta * eta * std::exp(-2 * h)) / 2;
              return affine_step{w.noise / s.sigma, -t.alpha * std::expm1(log_q - h), w.fresh};
            }};
  }
};

/// Euler ancestral: Euler's method in kappa on x/alpha from kappa_s down to kappa_down, then noise of standard
/// deviation kappa_up, kappa_down^2 + kappa_up^2 = kappa_t^2:
///     x <- alpha_t (x/alpha_s + (kappa_down - kappa_s) noise(x; s) + kappa_up xi).
/// The same map as ddim with the same eta, in the noise form and in the words of EDM's reference code; the hook sees
/// noise. One evaluation a step, first order. bind allocates three tensors shaped like x (two if eta = 0); stepping
/// allocates nothing. Sources: Karras et al., NeurIPS 2022 (arXiv:2206.00364), and its reference implementation by
/// K. Crowson. Differs: any schedule, by the scaled state.
template <class Noise = step_noise>
struct euler_ancestral {
  double eta = 1;  ///< in [0, 1]
  Noise noise{};   ///< a noise_source; not called if eta = 0

  template <class X>
  using stepper = affine_stepper<X, Noise>;

  /// `like` gives the shape only. Throws invalid_argument unless eta is in [0, 1], every alpha is positive and kappa
  /// falls strictly, to 0 at the lowest.
  template <writable_tensor X>
  stepper<X> bind(const X& like, std::span<const noise_level> levels) const {
    expects(eta >= 0 && eta <= 1, "euler_ancestral", "eta", eta);
    expect_levels(levels, "euler_ancestral");
    return {like, levels, predicts::noise, noise, [this](const noise_level& s, const noise_level& t) {
              const ancestral_kappas k = ancestral_split(s.kappa(), t.kappa(), eta);
              return affine_step{t.alpha / s.alpha, t.alpha * (k.down - s.kappa()), t.alpha * k.up};
            }};
  }
};

}  // namespace sluice
