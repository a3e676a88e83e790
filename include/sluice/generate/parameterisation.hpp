#pragma once
#include <cmath>
#include <utility>

/// Noise levels, the forms in which a network may predict, and the exact conversions between them.
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

/// The preconditioning of EDM: a network F sees unit variance and predicts with unit variance,
///     data = c_skip y + c_out F(c_in y, c_noise),    y = x / alpha, d = sigma_data:
///     c_skip = d^2/(kappa^2 + d^2), c_out = kappa d/sqrt(kappa^2 + d^2), c_in = 1/sqrt(kappa^2 + d^2),
///     c_noise = log(kappa)/4.
/// Source: Karras et al., NeurIPS 2022 (arXiv:2206.00364), Table 1.
struct edm_preconditioning {
  double skip = 0, out = 1, in = 1, noise = 0;
};
/// At one level; at kappa = 0 c_noise is minus infinite and data = y.
inline edm_preconditioning edm_coefficients(const noise_level& l, double sigma_data = 0.5) {
  const double kappa = l.kappa(), both = std::hypot(kappa, sigma_data);
  return {(sigma_data / both) * (sigma_data / both), kappa * sigma_data / both, 1 / both, std::log(kappa) / 4};
}

}  // namespace sluice
