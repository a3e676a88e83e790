#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/generate/model.hpp>
#include <sluice/generate/solver.hpp>

#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <vector>

/// What exponential integrators share: the phi functions, the first-order step in lambda = log(alpha / sigma), and the
/// ring of past predictions of a multi-step solver.
///
/// The probability-flow ODE from s to t, h = lambda_t - lambda_s > 0, has the solution
///     noise:  x_t = (alpha_t / alpha_s) x_s - sigma_t h int_0^1 exp((1 - u) h) noise(u) du,
///     data:   x_t = (sigma_t / sigma_s) x_s + alpha_t h int_0^1 exp(-(1 - u) h) data(u) du,
/// u = (lambda - lambda_s)/h. With z = h for noise and z = -h for data, c = sigma_t or alpha_t, and the prediction
/// m(u) = m_0 + u D_1 + u^2 D_2 / 2 both are
///     x_t = a x_s - c z (phi_1(z) m_0 + phi_2(z) D_1 + phi_3(z) D_2).
/// Sources: Hochbruck and Ostermann, Acta Numerica 2010; Lu et al., NeurIPS 2022 (arXiv:2206.00927) and
/// DPM-Solver++ (arXiv:2211.01095).
namespace sluice {

/// phi_0(z), ..., phi_4(z): phi_0 = exp, phi_{k+1}(z) = (phi_k(z) - 1/k!)/z, phi_k(0) = 1/k!. The definition cancels
/// for small z: there the last one is a series and the others follow from it. A few units in the last place for every
/// finite z.
inline std::array<double, 5> phi_functions(double z) {
  std::array<double, 5> phi{std::exp(z)};
  if (std::abs(z) < 2) {
    double series = 1;
    for (int k = 24; k >= 1; --k) series = 1 + z * series / (k + 4);
    phi[4] = series / 24;
    phi[3] = 1.0 / 6 + z * phi[4];
    phi[2] = 0.5 + z * phi[3];
    phi[1] = 1 + z * phi[2];
  } else {
    phi[1] = std::expm1(z) / z;
    phi[2] = (phi[1] - 1) / z;
    phi[3] = (phi[2] - 0.5) / z;
    phi[4] = (phi[3] - 1.0 / 6) / z;
  }
  return phi;
}

/// lambda_to - lambda_from; infinite if `from` has alpha = 0 or `to` has sigma = 0.
inline double log_snr_step(const noise_level& from, const noise_level& to) {
  if (from.alpha == 0 || to.sigma == 0) return std::numeric_limits<double>::infinity();
  return std::log(from.sigma / to.sigma * (to.alpha / from.alpha));
}

/// A step in the notation above: x_t = state x_s + first m_0 - scale z (phi_2(z) D_1 + phi_3(z) D_2), and
/// first = -scale z phi_1(z). `state` and `first` are finite for every step that the form allows, so where h is
/// infinite (the data at sigma = 0, the first step from alpha = 0) the first-order step is what is left.
struct exponential_step {
  double h = 0;      ///< lambda_t - lambda_s, perhaps infinite
  double z = 0;      ///< h for noise, -h for data
  double state = 0;  ///< alpha_t / alpha_s for noise, sigma_t / sigma_s for data
  double scale = 0;  ///< sigma_t for noise, alpha_t for data
  double first = 0;  ///< coefficient of the prediction in the first-order step
};

/// The pieces of a step between two levels, `form` noise or data. alpha_s = 0 needs the form data.
inline exponential_step make_exponential_step(const noise_level& from, const noise_level& to, predicts form) {
  const double h = log_snr_step(from, to);
  if (form == predicts::noise) {
    // At sigma_t = 0: x_t = alpha_t data = alpha_t (x_s/alpha_s - kappa_s noise).
    const double first = to.sigma == 0 ? -to.alpha * from.kappa() : -to.sigma * std::expm1(h);
    return {h, h, to.alpha / from.alpha, to.sigma, first};
  }
  return {h, -h, to.sigma / from.sigma, to.alpha, -to.alpha * std::expm1(-h)};
}

/// Checks the form of a solver that works with noise or data, and its grid, which may begin at alpha = 0 if the form is
/// data. Throws invalid_argument.
inline void expect_exponential(predicts form, std::span<const noise_level> levels, const char* function) {
  expects(form == predicts::noise || form == predicts::data, function, "form", static_cast<int>(form));
  expect_levels(levels, function, form == predicts::data);
}

namespace detail {

/// The last predictions of a multi-step solver, newest first, in N tensors that are allocated once and never copied
/// (or fewer: `length`). A step that does not follow the one before it finds no history.
template <class O, int N>
class prediction_ring {
 public:
  template <class X>
  explicit prediction_ring(const X& like, int length = N) : length_(length) {
    tensors_.reserve(static_cast<std::size_t>(length));
    for (int k = 0; k < length; ++k) tensors_.push_back(zeros_like(like));
  }
  prediction_ring(prediction_ring&&) = default;  // move-only: a copied tensor may share storage
  prediction_ring& operator=(prediction_ring&&) = default;

  /// Call it first in step i: how many predictions of the steps i - 1, i - 2, ... there are, at most length - 1.
  int begin(index_t i) {
    if (i != next_) count_ = 0;
    return count_;
  }
  /// Predictions that step i would find.
  int available(index_t i) const { return i == next_ ? count_ : 0; }
  /// k = 0: storage for the prediction of this step; k = 1, 2, ...: what was predicted k steps before it.
  O& operator[](int k) { return tensors_[slot(k)]; }
  const O& operator[](int k) const { return tensors_[slot(k)]; }
  /// Call it last in step i: the tensor 0 becomes history.
  void end(index_t i) {
    newest_ = (newest_ + length_ - 1) % length_;
    if (count_ < length_ - 1) ++count_;
    next_ = i + 1;
  }
  void reset() { count_ = 0; }
  solver_state<O> state() const {
    solver_state<O> s;
    s.counters = {count_, next_};
    for (int k = 1; k <= count_; ++k) s.history.push_back(deep_copy((*this)[k]));
    return s;
  }
  /// Takes the history of `s`, newest first, from its front.
  void restore(const solver_state<O>& s) {
    count_ = static_cast<int>(s.counters[0]);
    next_ = static_cast<index_t>(s.counters[1]);
    for (int k = 1; k <= count_; ++k) lincomb((*this)[k], 1, s.history[static_cast<std::size_t>(k - 1)]);
  }

 private:
  std::size_t slot(int k) const { return static_cast<std::size_t>((newest_ + k) % length_); }
  std::vector<O> tensors_;
  int length_, newest_ = 0, count_ = 0;
  index_t next_ = 0;
};

/// Is what the hook returned the raw prediction itself?
template <class A, class B>
bool same_object(const A& a, const B& b) {
  if constexpr (std::same_as<A, B>)
    return std::addressof(a) == std::addressof(b);
  else
    return false;
}

}  // namespace detail

}  // namespace sluice
