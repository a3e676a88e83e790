#pragma once
#include <sluice/core/tensor.hpp>

#include <cmath>
#include <concepts>
#include <functional>
#include <span>
#include <utility>

/// What a sampler asks of a network: noise levels, the forms of a prediction, and a wrapper that converts between them.
///
/// A noisy state is x = alpha data + sigma noise. Every schedule (variance preserving, EDM, flow) is a map from a time
/// t to (alpha, sigma), and in the scaled state x / alpha and kappa = sigma / alpha they share one equation, the
/// probability-flow ODE d(x / alpha) / d kappa = E[noise | x]. Solvers therefore see levels, not schedules.
/// Sources: Song et al., ICLR 2021 (arXiv:2011.13456); Karras et al., NeurIPS 2022 (arXiv:2206.00364).
namespace sluice {

/// The quantity of which a model writes the conditional mean, given the state:
/// noise; data; velocity = noise - data (flow matching); score = -noise / sigma; v = alpha noise - sigma data
/// (Salimans and Ho, arXiv:2202.00512).
enum class predicts { noise, data, velocity, score, v };

/// One level: x = alpha data + sigma noise. t is what the network is told. Plain numbers; alpha >= 0, sigma >= 0.
struct noise_level {
  double t = 0, alpha = 1, sigma = 0;
  /// Noise to signal: EDM's sigma, DEIS's rho. Infinite at alpha = 0.
  double kappa() const { return sigma / alpha; }
  /// Half the logarithm of the signal-to-noise ratio, -log kappa; infinite at sigma = 0, minus infinite at alpha = 0.
  double lambda() const { return std::log(alpha / sigma); }
  friend bool operator==(const noise_level&, const noise_level&) = default;
};

/// wanted = x * state + p * prediction.
struct affine {
  double x = 0, p = 1;
};

/// How a prediction of the form `from` becomes one of the form `to`, exactly, at this level. Infinite or NaN where the
/// one form does not determine the other: noise and score say nothing of the data at alpha = 0, data nothing of the
/// noise at sigma = 0.
inline affine conversion(predicts from, predicts to, const noise_level& l) {
  if (from == to) return {0, 1};
  // Each form is a combination of data and noise; the state is the other equation.
  const auto part = [&l](predicts form) -> std::pair<double, double> {
    switch (form) {
      case predicts::noise:
        return {0, 1};
      case predicts::data:
        return {1, 0};
      case predicts::velocity:
        return {-1, 1};
      case predicts::score:
        return {0, -1 / l.sigma};
      case predicts::v:
        break;
    }
    return {-l.sigma, l.alpha};
  };
  const auto [a, b] = part(from);
  const auto [c, d] = part(to);
  const double determinant = l.alpha * b - l.sigma * a;
  return {(c * b - d * a) / determinant, (l.alpha * d - l.sigma * c) / determinant};
}

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

}  // namespace sluice
