#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/generate/exponential.hpp>
#include <sluice/generate/model.hpp>
#include <sluice/generate/solver.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

namespace sluice {

/// The function B(h) of UniPC: h itself, or exp(h) - 1. It matters only where a weight is set to 1/2 instead of being
/// solved for: the predictor of order 2 and the corrector of order 1.
enum class unipc_variant { b1, b2 };

/// The solution of UniPC's linear systems at one step.
struct unipc_weights {
  double scale = 0;                   ///< B
  std::array<double, 3> b{};          ///< right-hand sides, b[k - 1] = k! h phi_{k+1}(h) / B, phi_0 = exp
  std::array<double, 2> predictor{};  ///< rho_1, ..., rho_{order-1}
  std::array<double, 3> corrector{};  ///< rho^c_1, ..., rho^c_order; the last belongs to the new prediction
};

namespace detail {
/// Solves sum_j node_j^(k-1) w_j = b_k, k = 1, ..., n, for n <= 3 different nodes.
inline std::array<double, 3> solve_moments(std::span<const double> node, const std::array<double, 3>& b) {
  if (node.size() == 1) return {b[0], 0, 0};
  if (node.size() == 2) {
    const double gap = node[0] - node[1];
    return {(b[1] - node[1] * b[0]) / gap, (node[0] * b[0] - b[1]) / gap, 0};
  }
  std::array<double, 3> w{};
  for (std::size_t j = 0; j < node.size(); ++j) {
    const double k = node[(j + 1) % 3], l = node[(j + 2) % 3];
    w[j] = (b[2] - (k + l) * b[1] + k * l * b[0]) / ((node[j] - k) * (node[j] - l));
  }
  return w;
}
}  // namespace detail

/// The weights of UniPC for a step of hh (the step in lambda for noise prediction, minus the step for data prediction)
/// from `order` - 1 earlier predictions at the nodes r_j = (lambda_{-j} - lambda_0)/(step in lambda), which are
/// negative and fall:
///     predictor:  sum_j r_j^(k-1) rho_j = b_k, k < order;     rho_1 = 1/2 if order = 2
///     corrector:  the same with the further node 1, k <= order;     rho^c_1 = 1/2 if order = 1
/// A node of -infinity (a prediction at alpha = 0) has weight 0, and hh = -infinity gives the limits (with b1 its B is
/// infinite). Pure, no allocation. Throws invalid_argument unless order is 1, 2 or 3, hh is not 0, NaN or +infinity and
/// r has order - 1 falling negative nodes, of which only the last may be infinite.
/// Source: Zhao et al., NeurIPS 2023 (arXiv:2302.04867), Algorithms 1 and 2.
inline unipc_weights unipc_coefficients(int order, double hh, std::span<const double> r, unipc_variant variant) {
  expects(order >= 1 && order <= 3, "unipc_coefficients", "order", order);
  expects(hh < 0 || (hh > 0 && std::isfinite(hh)), "unipc_coefficients", "hh", hh);
  expects(std::ssize(r) == order - 1, "unipc_coefficients", "r.size", r.size());
  for (index_t j = 0; j < std::ssize(r); ++j) {
    const double before = j == 0 ? 0 : r[static_cast<std::size_t>(j - 1)];
    expects(r[static_cast<std::size_t>(j)] < before, "unipc_coefficients", "r", r[static_cast<std::size_t>(j)], j);
  }
  unipc_weights w;
  w.scale = variant == unipc_variant::b1 ? hh : std::expm1(hh);
  const auto phi = phi_functions(hh);
  double factorial = 1;
  for (std::size_t k = 0; k < 3; ++k) {
    factorial *= static_cast<double>(k + 1);
    w.b[k] = std::isinf(hh) ? -1 / w.scale : factorial * hh * phi[k + 2] / w.scale;  // the limit: phi_k - 1/k!
  }

  std::size_t n = 0;  // nodes that are finite: the nearest ones
  std::array<double, 3> node{};
  while (n < r.size() && std::isfinite(r[n])) node[n] = r[n], ++n;
  if (order == 2) w.predictor[0] = n == 0 ? 0 : 0.5;
  if (order == 3 && n > 0) {
    const auto rho = detail::solve_moments(std::span(node).first(n), w.b);
    w.predictor = {rho[0], rho[1]};
  }
  const auto last = static_cast<std::size_t>(order - 1);
  if (order == 1) {
    w.corrector[0] = 0.5;
  } else {
    node[n] = 1;
    const auto rho = detail::solve_moments(std::span(node).first(n + 1), w.b);
    for (std::size_t j = 0; j < n; ++j) w.corrector[j] = rho[j];
    w.corrector[last] = rho[n];
  }
  return w;
}

/// UniPC of order Order (1, 2 or 3): a multi-step predictor and a corrector that costs no further evaluation. With m
/// the prediction (data or noise), h = lambda_t - lambda_s, m_0 at the start of a step, m_{-j} before it, r_j as above,
/// D_j = (m_{-j} - m_0)/r_j:
///     data:   hh = -h,  base = (sigma_t/sigma_s) x - alpha_t expm1(hh) m_0,  c = alpha_t
///     noise:  hh = +h,  base = (alpha_t/alpha_s) x - sigma_t expm1(hh) m_0,  c = sigma_t
///     predictor:  x_p = base - c B sum_{j < p} rho_j D_j,    m_t = prediction at x_p
///     corrector:  x_t = base - c B (sum_{j < p} rho^c_j D_j + rho^c_p (m_t - m_0))
/// m_t is the next step's m_0. The order of step i of N is p = min(Order, i + 1), and with lower_order_final at most
/// N - i. There is no corrector after the last step. With Order = 2, b2 and no corrector it is DPM-Solver++(2M).
///
/// One evaluation a step: N steps, N evaluations. step(i) takes the predicted state at levels[i] to the predicted state
/// at levels[i + 1]: the correction of the step before, which needs the prediction at levels[i], is part of it, so the
/// state between two steps is the predicted one, and only the state after the last step is a result. Base, correction
/// and prediction are one linear combination of x and at most Order + 2 predictions, so a step is the evaluation and
/// one pass over memory. The hook sees the predicted state and its prediction; its value enters the base of predictor
/// and corrector, differences are raw.
///
/// Steps are made in the order of the grid; a step that does not follow the last one starts without history. bind
/// computes all coefficients and allocates Order + 2 tensors shaped like x; stepping allocates nothing. A recipe is a
/// value; a stepper serves one thread.
///
/// Levels may end at sigma = 0, where the step has order 1 (data form: x = alpha m). In the data form they may begin at
/// alpha = 0: that step is sigma_t/sigma_s x + alpha_t m, and everything has its limit for alpha -> 0, except that b1,
/// whose correction has none, does not correct it.
///
/// Source: Zhao et al., NeurIPS 2023 (arXiv:2302.04867). Differs: systems in closed form; series where h is small; ends
/// at sigma = 0 and alpha = 0; the corrector is folded into the next step, so that steps need no look-ahead.
template <int Order = 2>
struct unipc {
  static_assert(Order >= 1 && Order <= 3, "unipc has orders 1, 2 and 3");

  predicts form = predicts::data;             ///< what is extrapolated: data or noise
  unipc_variant variant = unipc_variant::b2;  ///< public code has b1 for unconditional models below ten steps
  bool corrector = true;                      ///< false: UniP, the predictor alone
  bool lower_order_final = true;              ///< orders fall to 1 at the end; steadier below about 15 steps

  template <writable_tensor X>
  class stepper {
   public:
    stepper(const X& like, std::span<const noise_level> levels, const unipc& recipe)
        : form_(checked(levels, recipe)),
          corrector_(recipe.corrector),
          levels_(levels.begin(), levels.end()),
          past_(like),
          scratch_(zeros_like(like)) {
      rows_.reserve(levels_.size() - 1);
      for (index_t i = 0; i + 1 < std::ssize(levels_); ++i) rows_.push_back(make_row(i, recipe));
    }
    stepper(stepper&&) = default;  // move-only: a copied tensor may share storage
    stepper& operator=(stepper&&) = default;

    /// From levels[i] to levels[i + 1], in place.
    template <model<X> M, class First = unchanged>
    void step(M& model, X& x, index_t i, First&& first = {}) {
      const int earlier = past_.begin(i);
      const noise_level& s = at(i);
      auto& m = past_[0];
      model(std::as_const(x), s, m, form_);
      const auto& f = first(i, s, x, std::as_const(m), scratch_);

      const row& c = rows_[static_cast<std::size_t>(i)];
      const int order = std::min(earlier + 1, c.order);
      std::array<double, Order + 1> weight{};  // of the raw predictions, newest first
      const auto& predictor = c.predictor[static_cast<std::size_t>(order - 1)];
      for (std::size_t k = 0; k < Order; ++k) weight[k] = predictor[k];
      int n_terms = order;
      if (corrector_ && earlier > 0) {
        const row& before = rows_[static_cast<std::size_t>(i - 1)];
        const auto& correction = before.correction[static_cast<std::size_t>(last_order_ - 1)];
        for (std::size_t k = 0; k <= Order; ++k) weight[k] += c.state * correction[k];
        n_terms = std::max(n_terms, last_order_ + 1);
      }
      advance(x, c.state, c.first, f, weight, n_terms);
      last_order_ = order;
      past_.end(i);
    }
    std::int64_t evaluations(index_t) const { return 1; }
    predicts form() const { return form_; }
    void reset() { past_.reset(); }
    solver_state<owner_t<X>> state() const {
      auto s = past_.state();
      s.counters.push_back(last_order_);
      return s;
    }
    void restore(const solver_state<owner_t<X>>& s) {
      last_order_ = static_cast<int>(s.counters.back());
      past_.restore(s);
    }

   private:
    /// The step takes x to state x + first f + sum_k predictor[k] m_{-k}. What its corrector adds to that, once m_t is
    /// known, is correction[0] m_t + sum_k correction[k + 1] m_{-k}. Both by order - 1.
    struct row {
      double state = 0, first = 0;
      int order = 1;  ///< the highest that this step may have
      std::array<std::array<double, Order>, Order> predictor{};
      std::array<std::array<double, Order + 1>, Order> correction{};
    };
    static predicts checked(std::span<const noise_level> levels, const unipc& recipe) {
      expect_exponential(recipe.form, levels, "unipc");
      return recipe.form;
    }
    const noise_level& at(index_t i) const { return levels_[static_cast<std::size_t>(i)]; }
    row make_row(index_t i, const unipc& recipe) const {
      const exponential_step e = make_exponential_step(at(i), at(i + 1), form_);
      row r;
      r.state = e.state;
      r.first = e.first;
      if (at(i + 1).sigma == 0) return r;  // order 1, and nothing follows that could correct it
      r.order = static_cast<int>(std::min<index_t>(Order, i + 1));
      if (recipe.lower_order_final) r.order = static_cast<int>(std::min<index_t>(r.order, std::ssize(levels_) - 1 - i));
      std::array<double, 2> node{};
      for (int order = 1; order <= r.order; ++order) {
        const auto n = static_cast<std::size_t>(order - 1);
        if (n > 0) node[n - 1] = -log_snr_step(at(i - order + 1), at(i)) / e.h;
        const auto nodes = std::span<const double>(node).first(n);
        const unipc_weights w = unipc_coefficients(order, e.z, nodes, recipe.variant);
        const double scale = std::isinf(w.scale) ? 0 : e.scale * w.scale;  // no limit: no correction
        auto& p = r.predictor[n];
        auto& q = r.correction[n];
        q[0] = -scale * w.corrector[n];
        q[1] = -q[0];
        for (std::size_t j = 0; j < n; ++j) {
          const double taken = -scale * w.predictor[j] / nodes[j];
          const double change = -scale * (w.corrector[j] - w.predictor[j]) / nodes[j];
          p[j + 1] += taken, p[0] -= taken;
          q[j + 2] += change, q[1] -= change;
        }
      }
      return r;
    }
    /// One pass, with as many terms as there are. A single one is that of a first-order step: w[0] is 0.
    template <class F>
    void advance(X& x, double a, double first, const F& f, const std::array<double, Order + 1>& w, int n) {
      const auto& m = std::as_const(past_);
      if (n == 1) return scale_add(x, a, first, f);
      if (detail::same_object(f, m[0])) {  // nothing was changed: one stream less
        const double w0 = first + w[0];
        if (n == 2) return scale_add(x, a, w0, m[0], w[1], m[1]);
        if constexpr (Order >= 2)
          if (n == 3) return scale_add(x, a, w0, m[0], w[1], m[1], w[2], m[2]);
        if constexpr (Order >= 3) return scale_add(x, a, w0, m[0], w[1], m[1], w[2], m[2], w[3], m[3]);
      }
      if (n == 2) return scale_add(x, a, first, f, w[0], m[0], w[1], m[1]);
      if constexpr (Order >= 2)
        if (n == 3) return scale_add(x, a, first, f, w[0], m[0], w[1], m[1], w[2], m[2]);
      if constexpr (Order >= 3) scale_add(x, a, first, f, w[0], m[0], w[1], m[1], w[2], m[2], w[3], m[3]);
    }

    predicts form_;  // not the recipe: it is incomplete here
    bool corrector_;
    std::vector<noise_level> levels_;
    std::vector<row> rows_;
    detail::prediction_ring<owner_t<X>, Order + 1> past_;
    owner_t<X> scratch_;
    int last_order_ = 1;
  };

  /// `like` gives the shape only. Throws invalid_argument unless form is data or noise, kappa falls strictly, to 0 at
  /// the lowest, and alpha is positive (data form: may be 0 at the first level).
  template <writable_tensor X>
  stepper<X> bind(const X& like, std::span<const noise_level> levels) const {
    return {like, levels, *this};
  }
};

}  // namespace sluice
