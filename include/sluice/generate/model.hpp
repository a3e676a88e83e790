#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/generate/parameterisation.hpp>

#include <cmath>
#include <concepts>
#include <functional>
#include <span>
#include <utility>

/// A noisy state is x = alpha data + sigma noise. Every schedule (variance preserving, EDM, flow) is a map from a time
/// t to (alpha, sigma), and in the scaled state x / alpha and kappa = sigma / alpha they share one equation, the
/// probability-flow ODE d(x / alpha) / d kappa = E[noise | x]. Solvers therefore see levels, not schedules.
/// Sources: Song et al., ICLR 2021 (arXiv:2011.13456); Karras et al., NeurIPS 2022 (arXiv:2206.00364).
namespace sluice {

/// What solvers call: writes the prediction for state x at a level, in the form that is wanted. X is the type of the
/// state; the solver's own tensors have the type owner_t<X>.
template <class M, class X>
concept model = requires(M& m, const X& x, const noise_level& l, owner_t<X>& out) {
  m(x, l, out, predicts::data);
  m(std::as_const(out), l, out, predicts::data);
};

/// A callable f(x, level, out) that predicts P, as a model: converts in place, and does nothing if P is wanted.
/// Conversion is one pass over out and x, without allocation. `out` must not be x.
template <predicts P, class F>
struct prediction_model {
  F f;
  static constexpr predicts form = P;  ///< in which no conversion is needed
  template <class X, class O>
  requires std::invocable<F&, const X&, const noise_level&, O&>
  void operator()(const X& x, const noise_level& level, O& out, predicts want) {
    f(x, level, out);
    if (want == P) return;
    const affine k = conversion(P, want, level);
    scale_add(out, k.p, k.x, x);
  }
  /// Times that differ from sample to sample: level[j] is that of column j.
  template <class X, class O>
  requires std::invocable<F&, const X&, std::span<const noise_level>, O&> void operator()(
      const X& x, std::span<const noise_level> level, O& out, predicts want) {
    f(x, level, out);
    for (index_t j = 0; want != P && j < std::ssize(level); ++j) {
      const affine k = conversion(P, want, level[static_cast<std::size_t>(j)]);
      scale_add(out.col(j), k.p, k.x, x.col(j));
    }
  }
};

/// prediction<predicts::data>(f): says once what f predicts. f is copied into the model, and may hold workspace of its
/// own; pass std::ref(f) to keep it outside.
template <predicts P, class F>
prediction_model<P, F> prediction(F f) {
  return {std::move(f)};
}

/// A raw EDM network f(scaled input, c_noise, out) as a model: two passes beside the network. Owns one tensor; a call
/// allocates nothing. One object a thread.
template <class F, class O>
class edm_network {
 public:
  edm_network(F f, O scaled, double sigma_data)
      : f_(std::move(f)), scaled_(std::move(scaled)), sigma_data_(sigma_data) {}
  edm_network(edm_network&&) = default;  // move-only: a copied tensor may share storage
  edm_network& operator=(edm_network&&) = default;

  template <class X>
  void operator()(const X& x, const noise_level& level, O& out, predicts want) {
    const edm_preconditioning c = edm_coefficients(level, sigma_data_);
    lincomb(scaled_, c.in / level.alpha, x);
    f_(std::as_const(scaled_), c.noise, out);
    const affine k = conversion(predicts::data, want, level);
    scale_add(out, k.p * c.out, k.p * c.skip / level.alpha + k.x, x);
  }

 private:
  F f_;
  O scaled_;
  double sigma_data_;
};
/// `like` gives the shape of the states. Throws invalid_argument unless sigma_data > 0 is finite.
template <class F, tensor X>
edm_network<F, owner_t<X>> edm_preconditioned(F f, const X& like, double sigma_data = 0.5) {
  expects(sigma_data > 0 && std::isfinite(sigma_data), "edm_preconditioned", "sigma_data", sigma_data);
  return {std::move(f), zeros_like(like), sigma_data};
}

}  // namespace sluice
