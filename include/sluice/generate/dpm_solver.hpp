#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/generate/exponential.hpp>
#include <sluice/generate/model.hpp>
#include <sluice/generate/noise.hpp>
#include <sluice/generate/schedule.hpp>
#include <sluice/generate/solver.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <utility>
#include <vector>

/// DPM-Solver (noise form) and DPM-Solver++ (data form): single-step, multi-step, and the stochastic multi-step method.
/// Notation of generate/exponential.hpp: h = lambda_t - lambda_s; a step is
///     x_t = a x_s - c z (phi_1(z) m_0 + phi_2(z) D_1 + phi_3(z) D_2),
/// noise: a = alpha_t/alpha_s, c = sigma_t, z = h; data: a = sigma_t/sigma_s, c = alpha_t, z = -h.
/// Sources: Lu et al., NeurIPS 2022 (arXiv:2206.00927); Lu et al., DPM-Solver++ (arXiv:2211.01095).
namespace sluice {

/// The second derivative that the third-order multi-step method extrapolates with. The divided difference of second
/// order is half of it. consistent: the derivative itself; third order. compat: the divided difference, as in public
/// code; the method is then of second order, with a smaller constant than the method of order 2.
enum class third_order { consistent, compat };

/// Multi-step DPM-Solver of order Order (1, 2 or 3): one evaluation a step. m_0 is the newest prediction, m_{-j}
/// earlier ones; r_0 = h_0/h and r_1 = h_1/h compare the two steps before with this one; D = (m_0 - m_{-1})/r_0 and D'
/// = (m_{-1} - m_{-2})/r_1:
///     order 1:  D_1 = D_2 = 0 (ddim)
///     order 2:  x_t = a x_s - c z phi_1(z) (m_0 + D/2)
///     order 3:  D_1 = D + r_0/(r_0 + r_1) (D - D'),   D_2 = 2 (D - D')/(r_0 + r_1)   (compat: without the 2)
/// Start-up: step i has order i + 1 at most. With lower_order_final the step i of N has order N - i at most, which is
/// steadier with few steps.
///
/// Steps are made in the order of the grid; a step that does not follow the last one starts without history. Levels may
/// end at sigma = 0, where the step has order 1 (x_t = alpha_t data); in the data form they may begin at alpha = 0,
/// where the first step has order 1 and its prediction does not enter later differences. bind computes all coefficients
/// and allocates Order + 1 tensors shaped like x; a step is the evaluation and one pass over memory, and allocates
/// nothing. The hook's value enters the first-order term; differences are raw. A recipe is a value; a stepper serves
/// one thread. Sources: DPM-Solver++ (arXiv:2211.01095), Algorithm 2; order 3: the authors' code. Differs: the second
/// derivative of order 3 (see third_order); phi functions without cancellation; the ends; coefficients are computed
/// once for a grid.
template <int Order = 2, third_order Third = third_order::consistent>
struct dpm_multistep {
  static_assert(Order >= 1 && Order <= 3, "dpm_multistep has orders 1, 2 and 3");

  predicts form = predicts::data;  ///< what is extrapolated: data (DPM-Solver++) or noise (DPM-Solver)
  bool lower_order_final = true;   ///< orders fall to 1 at the end; steadier below about 15 steps

  template <writable_tensor X>
  class stepper {
   public:
    stepper(const X& like, std::span<const noise_level> levels, const dpm_multistep& recipe)
        : form_(checked(levels, recipe)),
          levels_(levels.begin(), levels.end()),
          past_(like),
          scratch_(zeros_like(like)) {
      for (index_t i = 0; i + 1 < std::ssize(levels_); ++i) rows_.push_back(make_row(i, recipe.lower_order_final));
    }
    stepper(stepper&&) = default;  // move-only: a copied tensor may share storage
    stepper& operator=(stepper&&) = default;

    /// From levels[i] to levels[i + 1], in place.
    template <model<X> M, class First = unchanged>
    void step(M& model, X& x, index_t i, First&& first = {}) {
      const noise_level& s = at(i);
      const row& k = rows_[static_cast<std::size_t>(i)];
      const int order = std::min(k.order, past_.begin(i) + 1);
      model(std::as_const(x), s, past_[0], form_);
      const auto& m = first(i, s, x, std::as_const(past_[0]), scratch_);
      advance(x, k, m, order);
      past_.end(i);
    }
    std::int64_t evaluations(index_t) const { return 1; }
    predicts form() const { return form_; }
    void reset() { past_.reset(); }
    /// Counters: predictions kept, the next step. History: the predictions, newest first.
    solver_state<owner_t<X>> state() const { return past_.state(); }
    void restore(const solver_state<owner_t<X>>& s) { past_.restore(s); }

   private:
    /// x_t = x x_s + first m + difference (m_0, m_{-1}, m_{-2}), the differences by order.
    struct row {
      double x = 0, first = 0;
      int order = 1;  ///< the highest that this step may have
      std::array<std::array<double, 3>, Order> difference{};
    };
    static predicts checked(std::span<const noise_level> levels, const dpm_multistep& recipe) {
      expect_exponential(recipe.form, levels, "dpm_multistep");
      return recipe.form;
    }
    const noise_level& at(index_t i) const { return levels_[static_cast<std::size_t>(i)]; }
    row make_row(index_t i, bool fall) const {
      const exponential_step e = make_exponential_step(at(i), at(i + 1), form_);
      row k{.x = e.state, .first = e.first};
      if (std::isinf(e.h)) return k;
      index_t order = std::min<index_t>(Order, i + 1);
      if (fall) order = std::min<index_t>(order, std::ssize(levels_) - 1 - i);
      if constexpr (Order >= 2) {
        const double h0 = order >= 2 ? log_snr_step(at(i - 1), at(i)) : 0.0;
        const double h1 = order >= 3 ? log_snr_step(at(i - 2), at(i - 1)) : 0.0;
        // Where a step before was infinite (from alpha = 0), 1/r is 0 and the order falls.
        if (order >= 2 && std::isinf(h0)) order = 1;
        if (order >= 3 && std::isinf(h1)) order = 2;
        if (order >= 2) {
          const double d = e.first / 2 / (h0 / e.h);
          k.difference[1] = {d, -d, 0};
        }
        if constexpr (Order >= 3) {
          if (order >= 3) {
            const double r0 = h0 / e.h, r1 = h1 / e.h;
            const auto phi = phi_functions(e.z);
            const double p2 = -e.scale * e.z * phi[2], p3 = -e.scale * e.z * phi[3];
            constexpr double second = Third == third_order::consistent ? 2 : 1;
            const double w = (p2 * r0 + second * p3) / (r0 + r1);  // of D - D'
            k.difference[2] = {(p2 + w) / r0, -(p2 + w) / r0 - w / r1, w / r1};
          }
        }
      }
      k.order = static_cast<int>(order);
      return k;
    }
    /// One pass, with as many terms as there are.
    template <class T>
    void advance(X& x, const row& k, const T& m, int order) {
      if (order == 1) return scale_add(x, k.x, k.first, m);
      const auto& d = k.difference[static_cast<std::size_t>(order - 1)];
      const auto& past = std::as_const(past_);
      if (detail::same_object(m, past[0])) {  // nothing was changed: one stream less
        const double w = k.first + d[0];
        if constexpr (Order >= 2)
          if (order == 2) return scale_add(x, k.x, w, m, d[1], past[1]);
        if constexpr (Order >= 3) return scale_add(x, k.x, w, m, d[1], past[1], d[2], past[2]);
      }
      if constexpr (Order >= 2)
        if (order == 2) return scale_add(x, k.x, k.first, m, d[0], past[0], d[1], past[1]);
      if constexpr (Order >= 3) scale_add(x, k.x, k.first, m, d[0], past[0], d[1], past[1], d[2], past[2]);
    }

    predicts form_;
    std::vector<noise_level> levels_;
    std::vector<row> rows_;
    detail::prediction_ring<owner_t<X>, Order> past_;
    owner_t<X> scratch_;
  };

  /// `like` gives the shape only. Throws invalid_argument unless form is data or noise, kappa falls strictly, to 0 at
  /// the lowest, and alpha is positive (data form: may be 0 at the first level).
  template <writable_tensor X>
  stepper<X> bind(const X& like, std::span<const noise_level> levels) const {
    return {like, levels, *this};
  }
};

/// Single-step DPM-Solver-2 and -3: Order evaluations a step, at lambda_s and at stages between the levels, without
/// history. The stages lie at lambda_1 = lambda_s + r1 h and lambda_2 = lambda_s + r2 h; z_1, z_2 and c_1, c_2 are z
/// and c of the steps to them:
///     x_1 = first-order step to lambda_1 with m_0,    m_1 = prediction at x_1
///     order 2:  x_t = a x_s - c z phi_1(z) (m_0 + (m_1 - m_0)/(2 r1))
///     order 3:  x_2 = a_2 x_s - c_2 z_2 (phi_1(z_2) m_0 + (r2/r1) phi_2(z_2) (m_1 - m_0)),    m_2 = prediction at x_2
///               x_t = a x_s - c z (phi_1(z) m_0 + phi_2(z) (m_2 - m_0)/r2)
/// The step to sigma = 0 and the step from alpha = 0 (data form only) have order 1 and one evaluation.
///
/// bind computes all coefficients and allocates four tensors shaped like x; each stage is one pass over memory, and
/// stepping allocates nothing. The hook's value enters the first-order terms; differences are raw. A recipe is a value;
/// a stepper serves one thread.
/// Sources: DPM-Solver (arXiv:2206.00927), Algorithms 1 and 2; DPM-Solver++ (arXiv:2211.01095), Algorithm 1. Differs:
/// phi functions without cancellation; the ends. The authors' code places stages by the rule of the grid (r1 = 1/2 in t
/// on a grid uniform in t); here r1 and r2 are in lambda always.
template <int Order, schedule Schedule>
struct dpm_singlestep {
  static_assert(Order == 2 || Order == 3, "dpm_singlestep has orders 2 and 3; order 1 is ddim");

  Schedule schedule{};             ///< of the levels that the stepper is bound to; gives the stages their levels
  predicts form = predicts::data;  ///< what is interpolated: data (DPM-Solver++) or noise (DPM-Solver)
  double r1 = Order == 2 ? 1.0 / 2 : 1.0 / 3;  ///< in (0, 1]; order 3: below r2
  double r2 = 2.0 / 3;                         ///< in (0, 1]; order 3 only

  template <writable_tensor X>
  class stepper {
   public:
    stepper(const X& like, std::span<const noise_level> levels, const dpm_singlestep& recipe)
        : form_(checked(levels, recipe)),
          levels_(levels.begin(), levels.end()),
          first_(zeros_like(like)),
          inner_(zeros_like(like)),
          z_(zeros_like(like)),
          scratch_(zeros_like(like)) {
      for (index_t i = 0; i + 1 < std::ssize(levels_); ++i) rows_.push_back(make_row(i, recipe));
    }
    stepper(stepper&&) = default;  // move-only: a copied tensor may share storage
    stepper& operator=(stepper&&) = default;

    /// From levels[i] to levels[i + 1], in place; steps may be made in any order.
    template <model<X> M, class First = unchanged>
    void step(M& model, X& x, index_t i, First&& first = {}) {
      const noise_level& s = at(i);
      const row& k = rows_[static_cast<std::size_t>(i)];
      model(std::as_const(x), s, first_, form_);
      const auto& m = first(i, s, x, std::as_const(first_), scratch_);
      if (!k.inner) return scale_add(x, k.last.x, k.last.first, m);
      lincomb(z_, k.stage[0].x, x, k.stage[0].first, m);
      model(std::as_const(z_), k.stage[0].level, inner_, form_);
      if constexpr (Order == 3) {
        const stage_row& e = k.stage[1];
        if (detail::same_object(m, first_))
          lincomb(z_, e.x, x, e.first - e.difference, m, e.difference, inner_);
        else
          lincomb(z_, e.x, x, e.first, m, -e.difference, first_, e.difference, inner_);
        model(std::as_const(z_), e.level, inner_, form_);
      }
      const stage_row& e = k.last;
      if (detail::same_object(m, first_))
        scale_add(x, e.x, e.first - e.difference, m, e.difference, inner_);
      else
        scale_add(x, e.x, e.first, m, -e.difference, first_, e.difference, inner_);
    }
    std::int64_t evaluations(index_t i) const { return rows_[static_cast<std::size_t>(i)].inner ? Order : 1; }
    predicts form() const { return form_; }
    void reset() {}  // no history
    solver_state<owner_t<X>> state() const { return {}; }
    void restore(const solver_state<owner_t<X>>&) {}

   private:
    /// The state at `level` is x x_s + first m_0 + difference (m_inner - m_0).
    struct stage_row {
      noise_level level{};
      double x = 0, first = 0, difference = 0;
    };
    struct row {
      bool inner = false;
      std::array<stage_row, 2> stage{};
      stage_row last{};
    };
    static predicts checked(std::span<const noise_level> levels, const dpm_singlestep& recipe) {
      expects(recipe.r1 > 0 && recipe.r1 <= 1, "dpm_singlestep", "r1", recipe.r1);
      if (Order == 3) {
        expects(recipe.r2 > 0 && recipe.r2 <= 1, "dpm_singlestep", "r2", recipe.r2);
        expects(recipe.r1 < recipe.r2, "dpm_singlestep", "r1", recipe.r1);
      }
      expect_exponential(recipe.form, levels, "dpm_singlestep");
      expect_levels_of(recipe.schedule, levels, "dpm_singlestep");
      return recipe.form;
    }
    const noise_level& at(index_t i) const { return levels_[static_cast<std::size_t>(i)]; }
    row make_row(index_t i, const dpm_singlestep& recipe) const {
      const noise_level &s = at(i), &t = at(i + 1);
      const exponential_step e = make_exponential_step(s, t, form_);
      row k;
      k.last = {t, e.state, e.first, 0};
      if (std::isinf(e.h)) return k;
      k.inner = true;
      const auto between = [&](double r) { return r == 1 ? t : recipe.schedule.at_lambda(s.lambda() + r * e.h); };
      const auto second = [](const exponential_step& step) { return -step.scale * step.z * phi_functions(step.z)[2]; };
      const noise_level l1 = between(recipe.r1);
      const exponential_step e1 = make_exponential_step(s, l1, form_);
      k.stage[0] = {l1, e1.state, e1.first, 0};
      if constexpr (Order == 2) {
        k.last.difference = e.first / (2 * recipe.r1);
      } else {
        const noise_level l2 = between(recipe.r2);
        const exponential_step e2 = make_exponential_step(s, l2, form_);
        k.stage[1] = {l2, e2.state, e2.first, recipe.r2 / recipe.r1 * second(e2)};
        k.last.difference = second(e) / recipe.r2;
      }
      return k;
    }

    predicts form_;
    std::vector<noise_level> levels_;
    std::vector<row> rows_;
    owner_t<X> first_, inner_, z_, scratch_;
  };

  /// `like` gives the shape only. Throws invalid_argument unless r1 and r2 are in (0, 1] (order 3: r1 < r2), form is
  /// data or noise, kappa falls strictly, to 0 at the lowest, alpha is positive (data form: may be 0 at the first
  /// level), and the levels are those of the schedule at their times.
  template <writable_tensor X>
  stepper<X> bind(const X& like, std::span<const noise_level> levels) const {
    return {like, levels, *this};
  }
};

/// How the second-order term of sde_dpm_multistep is integrated; the two agree to the order of the method.
enum class sde_correction { midpoint, heun };

/// x_t = x x_s + data m_0 + difference (m_0 - m_{-1}) + noise xi, m the predictions of data.
struct sde_dpm_weights {
  double x = 0, data = 0, difference = 0, noise = 0;
};
/// The weights of sde_dpm_multistep for a step whose predecessor was `previous_h` in lambda; infinite previous_h, or an
/// infinite step: order 1. Throws invalid_argument unless eta is in [0, 1] and previous_h > 0.
inline sde_dpm_weights sde_dpm_coefficients(const noise_level& from, const noise_level& to, double previous_h,
                                            double eta, sde_correction correction) {
  expects(eta >= 0 && eta <= 1, "sde_dpm_coefficients", "eta", eta);
  expects(previous_h > 0, "sde_dpm_coefficients", "previous_h", previous_h);
  const double h = log_snr_step(from, to), damped = eta > 0 ? eta * h : 0.0, step = h + damped;
  sde_dpm_weights w;
  w.x = to.sigma / from.sigma * std::exp(-damped);
  w.data = -to.alpha * std::expm1(-step);
  w.noise = to.sigma * std::sqrt(-std::expm1(-2 * damped));
  if (std::isfinite(h) && std::isfinite(previous_h))
    w.difference = (correction == sde_correction::midpoint ? w.data / 2 : to.alpha * step * phi_functions(-step)[2]) *
                   (h / previous_h);
  return w;
}

/// SDE-DPM-Solver++(2M): the multi-step method of order 2 in the data form for the reverse-time SDE, with the share eta
/// of its noise. h_0 is the step before, E = 1 - exp(-(1 + eta) h):
///     x_t = (sigma_t/sigma_s) exp(-eta h) x_s + alpha_t (E m_0 + K (h/h_0) (m_0 - m_{-1}))
///           + sigma_t sqrt(1 - exp(-2 eta h)) xi,     K = E/2 (midpoint) or 1 - E/((1 + eta) h) (heun).
/// The first step has order 1, so has the step to sigma = 0, which is alpha_t m_0, and with lower_order_final the last
/// one. eta = 0 with midpoint is dpm_multistep<2>; the first-order step with eta = 1 is ancestral up to O(h^2).
///
/// One evaluation a step. Levels may begin at alpha = 0. Steps are made in the order of the grid; a step that does not
/// follow the last one starts without history. bind computes all coefficients and allocates four tensors shaped like x
/// (three if eta = 0); a step is the evaluation, the noise and one pass over memory, and allocates nothing. The hook's
/// value enters the term of m_0, differences are raw. A recipe is a value; a stepper serves one thread.
/// Source: DPM-Solver++ (arXiv:2211.01095), Appendix D; the two corrections and eta are those of K. Crowson's reference
/// implementation. Differs: any schedule, by alpha and sigma; the noise is a policy; lower_order_final.
template <class Noise = step_noise>
struct sde_dpm_multistep {
  double eta = 1;                                        ///< in [0, 1]; 0: the ODE. 1: the SDE
  Noise noise{};                                         ///< a noise_source; not called if eta = 0
  sde_correction correction = sde_correction::midpoint;  ///< K above
  bool lower_order_final = true;                         ///< the last step has order 1 also if it ends at sigma > 0

  template <writable_tensor X>
  class stepper {
   public:
    stepper(const X& like, std::span<const noise_level> levels, const sde_dpm_multistep& recipe)
        : noise_(checked(levels, recipe)),
          levels_(levels.begin(), levels.end()),
          past_(like),
          scratch_(zeros_like(like)) {
      const index_t n = std::ssize(levels_) - 1;
      for (index_t i = 0; i < n; ++i) {
        const bool second = i > 0 && !(recipe.lower_order_final && i + 1 == n);
        const double before = second ? log_snr_step(at(i - 1), at(i)) : std::numeric_limits<double>::infinity();
        rows_.push_back(sde_dpm_coefficients(at(i), at(i + 1), before, recipe.eta, recipe.correction));
      }
      if (recipe.eta > 0) xi_.emplace(zeros_like(like));
    }
    stepper(stepper&&) = default;  // move-only: a copied tensor may share storage
    stepper& operator=(stepper&&) = default;

    /// From levels[i] to levels[i + 1], in place.
    template <model<X> M, class First = unchanged>
    void step(M& model, X& x, index_t i, First&& first = {}) {
      const noise_level &s = at(i), &t = at(i + 1);
      const sde_dpm_weights& k = rows_[static_cast<std::size_t>(i)];
      const bool second = past_.begin(i) > 0 && k.difference != 0;
      model(std::as_const(x), s, past_[0], predicts::data);
      const auto& m = first(i, s, x, std::as_const(past_[0]), scratch_);
      if (k.noise != 0) {
        noise_(*xi_, i, s, t);
        advance(x, k, m, second, k.noise, *xi_);
      } else {
        advance(x, k, m, second);
      }
      past_.end(i);
    }
    std::int64_t evaluations(index_t) const { return 1; }
    predicts form() const { return predicts::data; }
    void reset() { past_.reset(); }
    /// Counters: predictions kept, the next step. History: the predictions, newest first.
    solver_state<owner_t<X>> state() const { return past_.state(); }
    void restore(const solver_state<owner_t<X>>& s) { past_.restore(s); }

   private:
    static const Noise& checked(std::span<const noise_level> levels, const sde_dpm_multistep& recipe) {
      expects(recipe.eta >= 0 && recipe.eta <= 1, "sde_dpm_multistep", "eta", recipe.eta);
      expect_levels(levels, "sde_dpm_multistep", true);
      return recipe.noise;
    }
    const noise_level& at(index_t i) const { return levels_[static_cast<std::size_t>(i)]; }
    template <class T, class... Noises>
    void advance(X& x, const sde_dpm_weights& k, const T& m, bool second, const Noises&... xi) {
      const auto& past = std::as_const(past_);
      if (!second) return scale_add(x, k.x, k.data, m, xi...);
      if (detail::same_object(m, past[0]))
        return scale_add(x, k.x, k.data + k.difference, m, -k.difference, past[1], xi...);
      scale_add(x, k.x, k.data, m, k.difference, past[0], -k.difference, past[1], xi...);
    }

    Noise noise_;
    std::vector<noise_level> levels_;
    std::vector<sde_dpm_weights> rows_;
    detail::prediction_ring<owner_t<X>, 2> past_;
    owner_t<X> scratch_;
    std::optional<owner_t<X>> xi_;
  };

  /// `like` gives the shape only. Throws invalid_argument unless eta is in [0, 1], alpha is positive but perhaps at the
  /// first level, and kappa falls strictly, to 0 at the lowest.
  template <writable_tensor X>
  stepper<X> bind(const X& like, std::span<const noise_level> levels) const {
    return {like, levels, *this};
  }
};

}  // namespace sluice
