#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/quadrature.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/generate/exponential.hpp>
#include <sluice/generate/model.hpp>
#include <sluice/generate/schedule.hpp>
#include <sluice/generate/solver.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

/// DEIS: solvers for the probability-flow ODE in the scaled state v = x/alpha and kappa = sigma/alpha, where it is
///     dv / d kappa = noise(x; kappa),
/// so that the linear part is exact and what remains is the integral of the predicted noise. `deis` is
/// Adams-Bashforth: it integrates the polynomial through the last predictions, in an interpolation variable of choice.
/// `rho_runge_kutta` applies a Runge-Kutta rule to the equation above.
/// Source: Zhang and Chen, "Fast Sampling of Diffusion Models with Exponential Integrator", ICLR 2023
/// (arXiv:2204.13902).
namespace sluice {

/// The weights of at most four predictions, newest first; the rest is 0.
using deis_weights = std::array<double, 4>;

/// How predictions are interpolated between levels. `weights(nodes, to)` gives c_j, one for each node, such that
///     integral from kappa(nodes[0]) to kappa(to) of noise d kappa = sum_j c_j noise(nodes[j]);
/// nodes are levels with kappa rising, at most four, all above `to`. The c_j sum to kappa(to) - kappa(nodes[0]).
/// `check(levels)` throws invalid_argument if it cannot serve these levels. Both are const and allocate nothing.
template <class V>
concept interpolation_variable = std::copyable<V> &&
    requires(const V& v, std::span<const noise_level> nodes, const noise_level& to) {
  { v.weights(nodes, to) } -> std::same_as<deis_weights>;
  v.check(nodes);
};

/// Weights of the interpolating polynomial in any variable u: c_j = integral of l_j(u(kappa)) d kappa with the
/// Lagrange basis l_j on the nodes u_j, by a rule on [0, 1] that is applied to z with kappa = kappa_at(z), d kappa =
/// slope_at(z) dz, u = u_at(z). O(rule nodes) calls, no allocation. Nodes must differ.
template <class Kappa, class U>
deis_weights lagrange_weights(std::span<const double> u, const quadrature_rule& rule, Kappa&& slope_at, U&& u_at) {
  deis_weights c{};
  for (std::size_t g = 0; g < rule.node.size(); ++g) {
    const double z = rule.node[g], here = u_at(z), w = rule.weight[g] * slope_at(z);
    for (std::size_t j = 0; j < u.size(); ++j) {
      double l = w;
      for (std::size_t k = 0; k < u.size(); ++k)
        if (k != j) l *= (here - u[k]) / (u[j] - u[k]);
      c[j] += l;
    }
  }
  return c;
}

/// u = kappa (rhoAB): Adams-Bashforth with variable steps. Closed form: two Gauss points are exact for the cubic. Fits
/// grids whose steps in kappa change slowly.
struct in_kappa {
  deis_weights weights(std::span<const noise_level> nodes, const noise_level& to) const {
    const double from = nodes[0].kappa(), h = to.kappa() - from;
    deis_weights c{};
    for (const double z : {0.5 - half_gap, 0.5 + half_gap})
      for (std::size_t j = 0; j < nodes.size(); ++j) {
        double l = h / 2;
        for (std::size_t k = 0; k < nodes.size(); ++k)  // differences from `from`, so that nothing cancels
          if (k != j) l *= (h * z - (nodes[k].kappa() - from)) / (nodes[j].kappa() - nodes[k].kappa());
        c[j] += l;
      }
    return c;
  }
  void check(std::span<const noise_level>) const {}

 private:
  static constexpr double half_gap = 0.28867513459481288225;  // 1 / (2 sqrt 3)
};

/// u = log kappa (log-rho AB, the DEIS of public libraries): the exponential Adams method in lambda. Closed form by phi
/// functions, sums of positive terms. Fits grids that are even in log kappa or in kappa^(1/7). Needs kappa > 0 at the
/// last level.
struct in_log_kappa {
  deis_weights weights(std::span<const noise_level> nodes, const noise_level& to) const {
    // With u from 0 to 1 along the step: integral of u^n d kappa = -kappa_to h n! phi_{n+1}(h), h the step in lambda.
    const double h = log_snr_step(nodes[0], to);
    const auto phi = phi_functions(h);
    std::array<double, 4> moment{}, u{};
    double factorial = 1;
    for (std::size_t n = 0; n < 4; ++n) {
      factorial *= n == 0 ? 1.0 : static_cast<double>(n);
      moment[n] = -to.kappa() * h * factorial * phi[n + 1];
    }
    for (std::size_t j = 1; j < nodes.size(); ++j) u[j] = -log_snr_step(nodes[j], nodes[0]) / h;
    deis_weights c{};
    for (std::size_t j = 0; j < nodes.size(); ++j) {
      std::array<double, 4> l{1};  // coefficients of l_j in u, lowest first
      std::size_t degree = 0;
      for (std::size_t k = 0; k < nodes.size(); ++k) {
        if (k == j) continue;
        const double scale = 1 / (u[j] - u[k]);
        ++degree;
        for (std::size_t n = degree; n > 0; --n) l[n] = (l[n - 1] - u[k] * l[n]) * scale;
        l[0] *= -u[k] * scale;
      }
      for (std::size_t n = 0; n < nodes.size(); ++n) c[j] += l[n] * moment[n];
    }
    return c;
  }
  void check(std::span<const noise_level> levels) const {
    expects(levels.empty() || levels.back().sigma > 0, "deis", "levels.kappa", 0, std::ssize(levels) - 1);
  }
};

namespace detail {
/// The rule of in_time, a constant: computed when it is first asked for, in about 1 ms.
inline const quadrature_rule& gauss_legendre_64() {
  static const quadrature_rule rule = gauss_legendre(64, 0, 1);
  return rule;
}
}  // namespace detail

/// u = t, the time of a schedule (tAB, the method of the paper). No closed form: Gauss-Legendre in log kappa, where the
/// integrand is smooth (in t it has the edge of a square root at the data); 64 nodes are exact to 1e-14 for the
/// continuous schedules. For vp_discrete, whose t(kappa) has corners, the error is about that of the corners. Fits
/// grids of powers of t; benign on all grids that were tried.
template <schedule Schedule>
class in_time {
 public:
  in_time() requires std::default_initializable<Schedule> : in_time(Schedule{}) {}
  /// `schedule` is that of the levels. A rule of another size than 64 is computed here: O(n^2), 1 ms for 64. Throws
  /// invalid_argument unless n_nodes >= 1.
  explicit in_time(Schedule schedule, index_t n_nodes = 64)
      : schedule_(std::move(schedule)),
        rule_(n_nodes == 64 ? detail::gauss_legendre_64() : gauss_legendre(n_nodes, 0, 1)) {}

  deis_weights weights(std::span<const noise_level> nodes, const noise_level& to) const {
    std::array<double, 4> u{};
    for (std::size_t j = 0; j < nodes.size(); ++j) u[j] = nodes[j].t;
    const auto t_nodes = std::span<const double>(u).first(nodes.size());
    const double from = nodes[0].kappa(), end = to.kappa();
    if (end == 0)  // log kappa has no end there; t is smooth in kappa
      return lagrange_weights(
          t_nodes, rule_, [&](double) { return -from; },
          [&](double z) { return schedule_.at_lambda(-std::log(from * (1 - z))).t; });
    const double lambda = nodes[0].lambda(), h = log_snr_step(nodes[0], to);
    return lagrange_weights(
        t_nodes, rule_, [&](double z) { return -h * from * std::exp(-h * z); },
        [&](double z) { return schedule_.at_lambda(lambda + h * z).t; });
  }
  void check(std::span<const noise_level> levels) const { expect_levels_of(schedule_, levels, "deis"); }

 private:
  Schedule schedule_;
  quadrature_rule rule_;
};

/// iPNDM: the classical Adams-Bashforth weights of even steps, [1], [3, -1]/2, [23, -16, 5]/12, [55, -59, 37, -9]/24,
/// times the step in kappa, whatever the grid. Meant for times evenly spread, where it is of first order only.
struct classical_weights {
  deis_weights weights(std::span<const noise_level> nodes, const noise_level& to) const {
    constexpr std::array<deis_weights, 4> classical{
        {{1}, {3.0 / 2, -1.0 / 2}, {23.0 / 12, -16.0 / 12, 5.0 / 12}, {55.0 / 24, -59.0 / 24, 37.0 / 24, -9.0 / 24}}};
    deis_weights c = classical[nodes.size() - 1];
    for (double& w : c) w *= to.kappa() - nodes[0].kappa();
    return c;
  }
  void check(std::span<const noise_level>) const {}
};

/// One step of Adams-Bashforth: x_t = state x_s + sum_j weight[j] noise_{-j}, newest first, weight[j] = alpha_t c_j.
/// A step from alpha_s = 0 is (sigma_t/sigma_s) x_s + alpha_t data, and its row holds these two.
struct deis_row {
  double state = 0;  ///< alpha_t / alpha_s
  double first = 0;  ///< alpha_t (kappa_t - kappa_s): the first-order step, and the sum of the weights
  deis_weights weight{};
  int order = 0;  ///< degree of the polynomial: order + 1 predictions
  /// sum |c_j| / |sum c_j|: how much errors of the predictions are magnified. Above about 10 the variable does not suit
  /// the grid.
  double extrapolation() const {
    double sum = 0;
    for (const double w : weight) sum += std::abs(w);
    return sum / std::abs(first);
  }
};

namespace detail {
/// Row of step i with the given degree, which is at most i.
template <class Variable>
deis_row make_deis_row(const Variable& variable, std::span<const noise_level> levels, index_t i, int order) {
  const auto at = [&](index_t k) -> const noise_level& { return levels[static_cast<std::size_t>(k)]; };
  const noise_level &s = at(i), &t = at(i + 1);
  if (s.alpha == 0) return {t.sigma / s.sigma, t.alpha, {t.alpha}, 0};
  deis_row row{t.alpha / s.alpha, t.alpha * (t.kappa() - s.kappa()), {}, order};
  if (order == 0) {
    row.weight[0] = row.first;
    return row;
  }
  std::array<noise_level, 4> nodes{};
  for (int j = 0; j <= order; ++j) nodes[static_cast<std::size_t>(j)] = at(i - j);
  row.weight = variable.weights(std::span<const noise_level>(nodes).first(static_cast<std::size_t>(order + 1)), t);
  for (double& w : row.weight) w *= t.alpha;
  return row;
}
inline void expect_deis(int order, std::span<const noise_level> levels) {
  expects(order >= 0 && order <= 3, "deis", "order", order);
  expect_levels(levels, "deis", true);
}
}  // namespace detail

/// The coefficients of all steps of a grid, step i with order min(i, order). Throws invalid_argument as deis::bind
/// does. O(N order^2) closed forms; in_time: O(N order^2 nodes), 3 us a step.
template <interpolation_variable Variable>
std::vector<deis_row> deis_table(const Variable& variable, std::span<const noise_level> levels, int order) {
  detail::expect_deis(order, levels);
  variable.check(levels);
  std::vector<deis_row> table;
  table.reserve(levels.size() - 1);
  const index_t start = levels.front().alpha == 0 ? 1 : 0;  // kappa is infinite there: not a node
  for (index_t i = 0; i + 1 < std::ssize(levels); ++i) {
    const auto degree = std::clamp<index_t>(i - start, 0, order);
    table.push_back(detail::make_deis_row(variable, levels, i, static_cast<int>(degree)));
  }
  return table;
}

/// DEIS, Adams-Bashforth: with c_j the integrals of the Lagrange basis in the interpolation variable (see
/// interpolation_variable) from level i to level i + 1,
///     x_{i+1} = (alpha_{i+1}/alpha_i) x_i + alpha_{i+1} sum_{j <= r} c_j noise_{i-j},   r = min(i, order).
/// Order 0 is DDIM for every variable. Global order is order + 1 for exact history; with the low orders of the start it
/// is limited to 2. in_time<Schedule> is the paper's tAB, in_kappa its rhoAB, classical_weights its iPNDM.
///
/// One evaluation a step. bind computes the table and allocates order + 2 tensors shaped like x; a step is the
/// evaluation and one pass over memory, and allocates nothing. Steps are made in the order of the grid; a step that
/// does not follow the last one starts without history. A recipe is a value; a stepper serves one thread.
///
/// The hook's value f enters the first-order term, differences are raw: sum_j c_j noise_{-j} is
/// (kappa_{i+1} - kappa_i) f + sum_{j > 0} c_j (noise_{-j} - noise_0).
///
/// Levels may begin at alpha = 0 (rectified_flow at t = 1). There the noise is x/sigma and the model is asked for data:
/// the step is sigma_t noise + alpha_t data, the hook sees the noise, and history begins at the next level.
///
/// Choose the variable by the grid: in_time for powers of t, in_log_kappa for grids even in log kappa or kappa^(1/7).
/// in_log_kappa with order 3 on times evenly spread is worse than order 0: look at deis_row::extrapolation.
///
/// Source: Zhang and Chen, ICLR 2023 (arXiv:2204.13902), section 3; in_log_kappa is the variable of the
/// authors' later code. Differs: the same formula for every schedule, by alpha and sigma; closed forms, and Gauss
/// quadrature where the authors' code has a sum over 10 000 points (relative error 1e-4).
template <interpolation_variable Variable = in_log_kappa>
struct deis {
  int order = 3;        ///< 0 to 3: degree of the polynomial, one less than the order of the method
  Variable variable{};  ///< in_log_kappa, in_kappa, in_time<Schedule>, classical_weights, or a type of your own

  template <writable_tensor X>
  class stepper {
   public:
    stepper(const X& like, std::span<const noise_level> levels, const deis& recipe)
        : table_(deis_table(recipe.variable, levels, recipe.order)),
          variable_(recipe.variable),
          levels_(levels.begin(), levels.end()),
          past_(like, std::max(recipe.order + 1, levels.front().alpha == 0 ? 2 : 1)),
          scratch_(zeros_like(like)) {}
    stepper(stepper&&) = default;  // move-only: a copied tensor may share storage
    stepper& operator=(stepper&&) = default;

    /// From levels[i] to levels[i + 1], in place.
    template <model<X> M, class First = unchanged>
    void step(M& model, X& x, index_t i, First&& first = {}) {
      const int earlier = past_.begin(i);
      const noise_level& s = levels_[static_cast<std::size_t>(i)];
      if (s.alpha == 0) return from_pure_noise(model, x, i, first);
      model(std::as_const(x), s, past_[0], predicts::noise);
      const auto& f = first(i, s, x, std::as_const(past_[0]), scratch_);
      const deis_row& row = table_[static_cast<std::size_t>(i)];
      if (earlier >= row.order)
        advance(x, row, f);
      else  // a start inside the grid
        advance(x, detail::make_deis_row(variable_, levels_, i, earlier), f);
      past_.end(i);
    }
    std::int64_t evaluations(index_t) const { return 1; }
    predicts form() const { return predicts::noise; }
    void reset() { past_.reset(); }
    /// Counters: predictions kept, the next step. History: the predictions, newest first.
    solver_state<owner_t<X>> state() const { return past_.state(); }
    void restore(const solver_state<owner_t<X>>& s) { past_.restore(s); }
    /// The coefficients of each step from the first level on.
    std::span<const deis_row> table() const { return table_; }

   private:
    template <class M, class First>
    void from_pure_noise(M& model, X& x, index_t i, First& first) {
      const noise_level &s = levels_[static_cast<std::size_t>(i)], &t = levels_[static_cast<std::size_t>(i + 1)];
      past_.reset();
      auto &noise = past_[0], &data = past_[1];
      model(std::as_const(x), s, data, predicts::data);
      lincomb(noise, 1 / s.sigma, x);
      const auto& f = first(i, s, x, std::as_const(noise), scratch_);
      lincomb(x, t.sigma, f, t.alpha, data);
    }
    /// One pass, with as many terms as there are.
    template <class F>
    void advance(X& x, const deis_row& row, const F& f) {
      const auto& m = std::as_const(past_);
      const deis_weights& w = row.weight;
      if (row.order == 0) return scale_add(x, row.state, row.first, f);
      if (detail::same_object(f, m[0])) {  // nothing was changed: one stream less
        if (row.order == 1) return scale_add(x, row.state, w[0], m[0], w[1], m[1]);
        if (row.order == 2) return scale_add(x, row.state, w[0], m[0], w[1], m[1], w[2], m[2]);
        return scale_add(x, row.state, w[0], m[0], w[1], m[1], w[2], m[2], w[3], m[3]);
      }
      const double raw = -(w[1] + w[2] + w[3]);
      if (row.order == 1) return scale_add(x, row.state, row.first, f, raw, m[0], w[1], m[1]);
      if (row.order == 2) return scale_add(x, row.state, row.first, f, raw, m[0], w[1], m[1], w[2], m[2]);
      scale_add(x, row.state, row.first, f, raw, m[0], w[1], m[1], w[2], m[2], w[3], m[3]);
    }

    std::vector<deis_row> table_;
    Variable variable_;  // not the recipe: it is incomplete here
    std::vector<noise_level> levels_;
    detail::prediction_ring<owner_t<X>, 4> past_;
    owner_t<X> scratch_;
  };

  /// `like` gives the shape only. Throws invalid_argument unless order is 0 to 3, every alpha is positive (the first
  /// may be 0) and kappa falls strictly, to 0 at the lowest; in_log_kappa: unless kappa is positive; in_time: unless
  /// the levels are those of the schedule at their times.
  template <writable_tensor X>
  stepper<X> bind(const X& like, std::span<const noise_level> levels) const {
    return {like, levels, *this};
  }
};

/// What dualfast mixes in if nothing is said (generate/dualfast.hpp): it is worth an order, where one is missing.
template <class Recipe>
struct default_mixing;
template <class Variable>
struct default_mixing<deis<Variable>> {
  static double c(const deis<Variable>& recipe, index_t n) {
    return recipe.order == 0 ? 0.5 : recipe.order == 1 ? 2 / static_cast<double>(std::max<index_t>(n, 2)) : 0.0;
  }
};

/// Explicit Runge-Kutta rules: stage l is at c[l] of the step, from the stages before it with a[l][j]; b[j] makes the
/// step. A type of your own with these members serves as well: c[0] = 0, c rising no higher than 1, a explicit.
namespace tableau {

template <std::size_t Stages>
using matrix = std::array<std::array<double, Stages>, Stages>;

/// Order 1.
struct euler {
  static constexpr std::array<double, 1> c{0}, b{1};
  static constexpr matrix<1> a{};
};
/// Order 2: Heun's rule, which is the solver of EDM.
struct heun_2 {
  static constexpr std::array<double, 2> c{0, 1}, b{0.5, 0.5};
  static constexpr matrix<2> a{{{}, {1}}};
};
/// Order 3: Kutta's rule.
struct kutta_3 {
  static constexpr std::array<double, 3> c{0, 1.0 / 2, 1}, b{1.0 / 6, 4.0 / 6, 1.0 / 6};
  static constexpr matrix<3> a{{{}, {1.0 / 2}, {-1, 2}}};
};
/// Order 3: Ralston's rule.
struct ralston_3 {
  static constexpr std::array<double, 3> c{0, 1.0 / 2, 3.0 / 4}, b{2.0 / 9, 1.0 / 3, 4.0 / 9};
  static constexpr matrix<3> a{{{}, {1.0 / 2}, {0, 3.0 / 4}}};
};
/// Order 3: Heun's rule.
struct heun_3 {
  static constexpr std::array<double, 3> c{0, 1.0 / 3, 2.0 / 3}, b{1.0 / 4, 0, 3.0 / 4};
  static constexpr matrix<3> a{{{}, {1.0 / 3}, {0, 2.0 / 3}}};
};
/// Order 3: van der Houwen's rule.
struct van_der_houwen_3 {
  static constexpr std::array<double, 3> c{0, 8.0 / 15, 2.0 / 3}, b{1.0 / 4, 0, 3.0 / 4};
  static constexpr matrix<3> a{{{}, {8.0 / 15}, {1.0 / 4, 5.0 / 12}}};
};
/// Order 3: the strong-stability-preserving rule.
struct ssp_3 {
  static constexpr std::array<double, 3> c{0, 1, 1.0 / 2}, b{1.0 / 6, 1.0 / 6, 2.0 / 3};
  static constexpr matrix<3> a{{{}, {1}, {1.0 / 4, 1.0 / 4}}};
};
/// Order 4: the classical rule.
struct classical_4 {
  static constexpr std::array<double, 4> c{0, 1.0 / 2, 1.0 / 2, 1}, b{1.0 / 6, 1.0 / 3, 1.0 / 3, 1.0 / 6};
  static constexpr matrix<4> a{{{}, {1.0 / 2}, {0, 1.0 / 2}, {0, 0, 1}}};
};

}  // namespace tableau

/// DEIS, Runge-Kutta (rhoRK): the tableau applied to v = x/alpha as a function of kappa,
///     k_l = noise(alpha_l v_l; kappa_s + c_l h),   v_l = v_s + h sum_{j < l} a_lj k_j,   v_t = v_s + h sum_j b_j k_j,
/// h = kappa_t - kappa_s. As many evaluations a step as there are stages, no history. A step to kappa = 0 is Euler's,
/// one evaluation, if the tableau has a stage at the end of the step, where noise cannot be predicted. tableau::heun_2
/// is `heun`, tableau::euler is DDIM.
///
/// Unstable with few steps from a very noisy start, since it is explicit in kappa: from kappa = 152 (vp_linear at t =
/// 1) five steps of heun_2 are worse than ten of deis. Start at kappa <= 80, or use deis.
///
/// bind allocates a tensor shaped like x for each stage and two more; each stage is one pass over memory, stepping
/// allocates nothing. The hook sees the first stage, and its value takes the place of k_0. A recipe is a value; a
/// stepper serves one thread. Source: Zhang and Chen, ICLR 2023 (arXiv:2204.13902), section 3; tableaux of the
/// authors' code. Differs: any schedule; the step to kappa = 0.
template <class Tableau, schedule Schedule>
struct rho_runge_kutta {
  Schedule schedule{};  ///< of the levels that the stepper is bound to; gives the stages their levels

  static constexpr std::size_t n_stages = Tableau::b.size();
  /// Is there a stage at the end of the step?
  static constexpr bool ends_at_target = std::ranges::any_of(Tableau::c, [](double c) { return c == 1; });

  template <writable_tensor X>
  class stepper {
   public:
    stepper(const X& like, std::span<const noise_level> levels, const rho_runge_kutta& recipe)
        : levels_(checked(levels, recipe)), z_(zeros_like(like)), scratch_(zeros_like(like)) {
      stage_level_.reserve(levels.size() * n_stages);
      for (std::size_t i = 0; i + 1 < levels.size(); ++i)
        for (const double c : Tableau::c) stage_level_.push_back(between(recipe.schedule, levels[i], levels[i + 1], c));
      for (std::size_t l = 0; l < n_stages; ++l) k_.push_back(zeros_like(like));
    }
    stepper(stepper&&) = default;  // move-only: a copied tensor may share storage
    stepper& operator=(stepper&&) = default;

    /// From levels[i] to levels[i + 1], in place; steps may be made in any order.
    template <model<X> M, class First = unchanged>
    void step(M& model, X& x, index_t i, First&& first = {}) {
      const noise_level &s = levels_[static_cast<std::size_t>(i)], &t = levels_[static_cast<std::size_t>(i + 1)];
      const double h = t.kappa() - s.kappa();
      model(std::as_const(x), s, k_[0], predicts::noise);
      const auto& f = first(i, s, x, std::as_const(k_[0]), scratch_);
      if (evaluations(i) == 1) return scale_add(x, t.alpha / s.alpha, t.alpha * h, f);
      const noise_level* level = stage_level_.data() + static_cast<std::size_t>(i) * n_stages;
      const auto stages = [&]<std::size_t... L>(std::index_sequence<L...>) {
        (stage<L + 1>(model, x, s, h, level[L + 1], f), ...);
      };
      stages(std::make_index_sequence<n_stages - 1>{});
      std::apply([&](const auto&... c_k) { scale_add(x, t.alpha / s.alpha, c_k...); },
                 terms<n_stages, n_stages>(t.alpha * h, f));
    }
    std::int64_t evaluations(index_t i) const {
      const bool euler = ends_at_target && levels_[static_cast<std::size_t>(i + 1)].sigma == 0;
      return euler ? 1 : static_cast<std::int64_t>(n_stages);
    }
    predicts form() const { return predicts::noise; }
    void reset() {}  // no history
    solver_state<owner_t<X>> state() const { return {}; }
    void restore(const solver_state<owner_t<X>>&) {}

   private:
    static std::vector<noise_level> checked(std::span<const noise_level> levels, const rho_runge_kutta& recipe) {
      expect_levels(levels, "rho_runge_kutta");
      expect_levels_of(recipe.schedule, levels, "rho_runge_kutta");
      return {levels.begin(), levels.end()};
    }
    static noise_level between(const Schedule& schedule, const noise_level& s, const noise_level& t, double c) {
      if (c == 0) return s;
      if (c == 1) return t;
      return level_at_kappa(schedule, s.kappa() + c * (t.kappa() - s.kappa()));
    }
    /// Row l of a, or b for l = n_stages.
    static constexpr double entry(std::size_t l, std::size_t j) {
      return l == n_stages ? Tableau::b[j] : Tableau::a[l][j];
    }
    /// (coefficient, k_j, ...) for the entries of a row that are not 0, `f` in the place of k_0.
    template <std::size_t L, std::size_t N, class F>
    auto terms(double scale, const F& f) const {
      const auto pair = [&]<std::size_t J>(std::integral_constant<std::size_t, J>) {
        if constexpr (entry(L, J) == 0)
          return std::tuple<>{};
        else if constexpr (J == 0)
          return std::tuple<double, const F&>(scale * entry(L, J), f);
        else
          return std::tuple<double, const owner_t<X>&>(scale * entry(L, J), k_[J]);
      };
      return [&]<std::size_t... J>(std::index_sequence<J...>) {
        return std::tuple_cat(pair(std::integral_constant<std::size_t, J>{})...);
      }
      (std::make_index_sequence<N>{});
    }
    template <std::size_t L, class M, class F>
    void stage(M& model, const X& x, const noise_level& s, double h, const noise_level& level, const F& f) {
      std::apply([&](const auto&... c_k) { lincomb(z_, level.alpha / s.alpha, x, c_k...); },
                 terms<L, L>(level.alpha * h, f));
      model(std::as_const(z_), level, k_[L], predicts::noise);
    }

    std::vector<noise_level> levels_, stage_level_;
    std::vector<owner_t<X>> k_;
    owner_t<X> z_, scratch_;
  };

  /// `like` gives the shape only. Throws invalid_argument unless every alpha is positive, kappa falls strictly, to 0 at
  /// the lowest, and the levels are those of the schedule at their times.
  template <writable_tensor X>
  stepper<X> bind(const X& like, std::span<const noise_level> levels) const {
    return {like, levels, *this};
  }
};

}  // namespace sluice
