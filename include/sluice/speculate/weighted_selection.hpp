#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/speculate/optimal_acceptance.hpp>
#include <sluice/speculate/token_law.hpp>
#include <sluice/speculate/token_rejection.hpp>
#include <sluice/speculate/verification.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

/// Weighted selection: a rule for n independent drafts of one position that comes close to the optimal acceptance.
///
/// Every token of q's support has a level and a weight. Level 0 is H*, the minimising prefix of
/// speculate/optimal_acceptance.hpp, level 1 the rest. Of the drafts, those of the highest level present are kept, and
/// one of them is selected with probability proportional to its weight (each copy counts). Over all drafts token j is
/// selected with probability
///
///     a_j = n q_j int_0^inf w_j e^{-w_j s} phi(s)^{n-1} ds,
///     phi(s) = q(H*) + sum over level 1 of q_i e^{-w_i s}  for j of level 1,   sum over level 0 of q_i e^{-w_i s} else
///
/// (the least of independent clocks of rates w is clock i with probability w_i / sum w). It is accepted with
/// probability min(1, p_j/a_j); otherwise, and only then, the emitted token is a draw from (p - a)_+ / its sum. So the
/// emitted token has law p for any positive weights and any two levels, and is a draft with probability
/// sum_j min(a_j, p_j). Weights: w = p/q scaled to a largest weight of 1 on level 1 and a least of 1 on level 0, then
/// some sweeps  w_j <- w_j p_j/a_j,  cut to [w_min, 1] on level 1 and to [1, 1/w_min] on level 0. A sweep is a
/// minorise-maximise step for sum p ln w - E ln(sum of the drafted weights), which rises; the levels and the cuts keep
/// tokens with a_j < p_j from growing without bound.
///
/// Cost. The integrals are trapezoid sums over the nodes y = ln s, step h, and depend on weights through u = ln w + y
/// alone: phi is a convolution of the measure q on ln w with exp(-e^u), and a_j/q_j is a function of ln w_j, a
/// convolution of phi^{n-1} with e^u exp(-e^u). Both kernels are polynomials of degree 15 on panels of ln w about 1
/// wide (error about 1e-12), so that a sweep takes 16 moments and one polynomial a token, and a few thousand
/// operations for the nodes, instead of an exponential for every pair of token and node. Weights that come from sweeps
/// ascend with p/q, so the tokens of a panel lie together.
///
/// Source: derived; the levels are the dual solution of Hu et al., "Towards Optimal Multi-draft Speculative Decoding"
/// (arXiv:2502.18779). Rules with the same aim: Khisti et al. (arXiv:2410.18234), Global Resolution (arXiv:2511.15898).
namespace sluice {

struct weighted_selection_options {
  int sweeps = 6;              ///< updates of the weights; more bring the acceptance closer to the optimum
  double least_weight = 1e-5;  ///< w_min: weights of a level span at most 1/w_min; in (0, 1)
  double step = 0.35;          ///< h, in (0, 1]: masses are good to about 1e-11 at 0.35, 1e-12 at 0.25, 2e-8 at 0.5
};

namespace detail {

/// The two kernels on panels of u = ln w in [-range, 0], and the integrals of one level by them.
class selection_quadrature {
 public:
  static constexpr index_t terms = 16;
  using polynomial = Eigen::Array<double, terms, 1>;

  void prepare(double range, double step) {
    if (range == range_ && step == step_) return;
    range_ = range;
    step_ = step;
    const auto per_panel = std::max<index_t>(1, static_cast<index_t>(std::floor(1.06 / step)));
    stride_ = per_panel;
    width_ = step * static_cast<double>(per_panel);
    panels_ = std::max<index_t>(1, static_cast<index_t>(std::ceil(range / width_)));
    const double first = -28, last = range + 4.5;  // s = e^-28: 7e-13 of a mass is left out; e^-90 is left of a clock
    n_left_ = std::max<index_t>(0, static_cast<index_t>(std::floor((-9.5 - first) / step)));
    first_ = first;
    nodes_ = static_cast<index_t>(std::ceil((last - first) / step)) + 1;
    set_interpolation();
    // The kernels at c_k + y_m, all of which lie on one grid; where both are below 1e-15 they are 0.
    const double lowest = centre(panels_ - 1) + node(n_left_);
    kernels_ = std::min((nodes_ - 1 - n_left_) + stride_ * (panels_ - 1),
                        static_cast<index_t>(std::floor((3.7 + width_ / 2 - lowest) / step))) +
               1;
    kernels_ = std::max<index_t>(kernels_, 0);
    survival_.resize(static_cast<std::size_t>(kernels_ * terms));
    density_.resize(survival_.size());
    for (index_t i = 0; i < kernels_; ++i) {
      const double t = lowest + step * static_cast<double>(i);
      at(survival_, i) = interpolate([&](double x) { return std::exp(-std::exp(t + width_ / 2 * x)); });
      at(density_, i) = interpolate([&](double x) {
        const double e = std::exp(t + width_ / 2 * x);
        return e * std::exp(-e);
      });
    }
    for (index_t r = 0; r < 3; ++r) {
      powers_[r].resize(static_cast<std::size_t>(panels_ * terms));
      for (index_t k = 0; k < panels_; ++k)
        at(powers_[r], k) =
            interpolate([&](double x) { return std::exp(static_cast<double>(r + 1) * (centre(k) + width_ / 2 * x)); });
    }
    moments_.resize(static_cast<std::size_t>(panels_ * terms));
    mass_.resize(moments_.size());
  }

  /// out_j = n q_j int w_j e^{-w_j s} phi(s)^{n-1} ds with phi(s) = base + sum_i q_i e^{-w_i s}, w = e^u; u ascends
  /// in [-range, 0].
  void integrate(std::span<double> out, std::span<const double> u, std::span<const double> q, double base, index_t n) {
    std::fill(moments_.begin(), moments_.end(), 0.0);
    for_runs(u, [&](index_t k, std::size_t begin, std::size_t end) {
      polynomial sum = polynomial::Zero();
      for (std::size_t j = begin; j < end; j += chunk_size) {
        const std::size_t count = std::min(chunk_size, end - j);
        const chunk x = places_of(u.subspan(j, count), k);
        chunk power = load(q.subspan(j, count));
        for (index_t d = 0; d < terms; ++d) {
          sum[d] += power.sum();
          power *= x;
        }
      }
      at(moments_, k) = sum;
    });
    double total = base;
    for (const double mass : q) total += mass;
    std::fill(mass_.begin(), mass_.end(), 0.0);
    sum_left(total, n);
    const double factor = step_ * static_cast<double>(n);
    for (index_t m = n_left_; m < nodes_; ++m) {
      double phi = base;
      const index_t from = first_panel(m);
      for (index_t k = from; k < panels_; ++k) phi += (at(moments_, k) * at(survival_, kernel(m, k))).sum();
      const double weight = factor * power(phi, n - 1);
      if (weight > 0)
        for (index_t k = from; k < panels_; ++k) at(mass_, k) += weight * at(density_, kernel(m, k));
    }
    for_runs(u, [&](index_t k, std::size_t begin, std::size_t end) {
      const polynomial c = at(mass_, k);
      for (std::size_t j = begin; j < end; j += chunk_size) {
        const std::size_t count = std::min(chunk_size, end - j);
        const chunk x = places_of(u.subspan(j, count), k);
        chunk value = chunk::Constant(c[terms - 1]);
        for (index_t d = terms - 2; d >= 0; --d) value = value * x + c[d];
        value = (value * load(q.subspan(j, count))).max(0.0);
        std::copy_n(value.data(), count, out.data() + j);
      }
    });
  }

 private:
  using map = Eigen::Map<polynomial>;
  static constexpr std::size_t chunk_size = 64;
  using chunk = Eigen::Array<double, static_cast<index_t>(chunk_size), 1>;

  /// Calls f(k, begin, end) for the tokens of every panel that has some.
  template <class F>
  void for_runs(std::span<const double> u, F&& f) const {
    auto begin = u.begin();
    for (index_t k = panels_ - 1; k >= 0 && begin != u.end(); --k) {
      const auto end = k == 0 ? u.end() : std::lower_bound(begin, u.end(), -width_ * static_cast<double>(k));
      if (begin != end) f(k, static_cast<std::size_t>(begin - u.begin()), static_cast<std::size_t>(end - u.begin()));
      begin = end;
    }
  }
  static chunk load(std::span<const double> x) {
    if (x.size() == chunk_size) return Eigen::Map<const chunk>(x.data());
    chunk c = chunk::Zero();
    std::copy(x.begin(), x.end(), c.data());
    return c;
  }
  /// Places of ln w in panel k, in [-1, 1].
  chunk places_of(std::span<const double> u, index_t k) const { return (load(u) - centre(k)) * (2 / width_); }
  static map at(std::vector<double>& x, index_t k) { return map(x.data() + k * terms); }
  double node(index_t m) const { return first_ + step_ * static_cast<double>(m); }
  double centre(index_t k) const { return -width_ * (static_cast<double>(k) + 0.5); }
  index_t kernel(index_t m, index_t k) const { return m - n_left_ + stride_ * (panels_ - 1 - k); }
  /// The first panel whose kernel at node m is not 0.
  index_t first_panel(index_t m) const {
    const index_t beyond = kernel(m, 0) - (kernels_ - 1);
    return beyond <= 0 ? 0 : std::min(panels_, (beyond + stride_ - 1) / stride_);
  }
  static double power(double phi, index_t n) {
    return n == 0 ? 1.0 : phi > 0 ? std::exp(static_cast<double>(n) * std::log(phi)) : 0.0;
  }

  /// The nodes with s below e^-9.5, where e^{-w s} is its Taylor polynomial.
  void sum_left(double total, index_t n) {
    double moment[3] = {0, 0, 0};
    for (index_t r = 0; r < 3; ++r)
      for (index_t k = 0; k < panels_; ++k) moment[r] += (at(moments_, k) * at(powers_[r], k)).sum();
    double sum[3] = {0, 0, 0};
    for (index_t m = 0; m < n_left_; ++m) {
      const double s = std::exp(node(m));
      const double phi = total - s * (moment[0] - s / 2 * (moment[1] - s / 3 * moment[2]));
      const double weight = step_ * static_cast<double>(n) * power(phi, n - 1) * s;
      sum[0] += weight;
      sum[1] += weight * s;
      sum[2] += weight * s * s / 2;
    }
    for (index_t k = 0; k < panels_; ++k)
      at(mass_, k) += sum[0] * at(powers_[0], k) - sum[1] * at(powers_[1], k) + sum[2] * at(powers_[2], k);
  }

  /// Coefficients of the polynomial through f at the Chebyshev nodes of [-1, 1].
  template <class F>
  polynomial interpolate(F&& f) const {
    polynomial values;
    for (index_t c = 0; c < terms; ++c) values[c] = f(chebyshev_[c]);
    return (to_coefficients_ * values.matrix()).array();
  }
  void set_interpolation() {
    constexpr double pi = 3.141592653589793;
    Eigen::Matrix<double, terms, terms> coefficient = decltype(coefficient)::Zero();  // of T_k, in column k
    coefficient(0, 0) = coefficient(1, 1) = 1;
    for (index_t k = 2; k < terms; ++k)
      for (index_t d = 0; d <= k; ++d)
        coefficient(d, k) = (d > 0 ? 2 * coefficient(d - 1, k - 1) : 0.0) - coefficient(d, k - 2);
    Eigen::Matrix<double, terms, terms> transform;
    for (index_t c = 0; c < terms; ++c) {
      const double angle = pi * (static_cast<double>(c) + 0.5) / static_cast<double>(terms);
      chebyshev_[c] = std::cos(angle);
      for (index_t k = 0; k < terms; ++k)
        transform(k, c) = (k == 0 ? 1.0 : 2.0) / static_cast<double>(terms) * std::cos(static_cast<double>(k) * angle);
    }
    to_coefficients_ = coefficient.lazyProduct(transform);
  }

  double range_ = -1, step_ = 0, width_ = 1, first_ = 0;
  index_t stride_ = 1, panels_ = 1, nodes_ = 0, n_left_ = 0, kernels_ = 0;
  Eigen::Array<double, terms, 1, Eigen::DontAlign> chebyshev_;
  Eigen::Matrix<double, terms, terms, Eigen::DontAlign> to_coefficients_;
  std::vector<double> survival_, density_, powers_[3], moments_, mass_;
};

}  // namespace detail

/// What weighted selection needs to know about one position: levels, weights and selected masses, for a target row, a
/// draft row and n. `prepare` costs a sort of q's support (optimal_acceptance) and O(support) a sweep; every decision
/// after it costs O(n) and a draw from the target where nothing is accepted. Buffers are kept: with rows of one size
/// nothing is allocated after the first time. One object a thread.
class weighted_selection_plan {
 public:
  /// Throws invalid_argument if an option is out of its range.
  explicit weighted_selection_plan(const weighted_selection_options& options = {}) : options_(options) {
    expects(options.sweeps >= 0, "weighted_selection", "sweeps", options.sweeps);
    expects(options.least_weight > 0 && options.least_weight < 1, "weighted_selection", "least_weight",
            options.least_weight);
    expects(options.step > 0 && options.step <= 1, "weighted_selection", "step", options.step);
    quadrature_.prepare(-std::log(options.least_weight), options.step);
    history_.reserve(static_cast<std::size_t>(options.sweeps) + 1);
  }

  /// For n independent drafts from `draft`. Throws invalid_argument if n < 1, or as optimal_acceptance::prepare.
  template <class S, class Q>
  void prepare(const token_row<S>& target, const token_row<Q>& draft, index_t n) {
    detail::expects_no_fault("weighted_selection", try_prepare(target, draft, n));
  }
  /// Dense laws.
  void prepare(std::span<const double> target, std::span<const double> draft, index_t n) {
    prepare(token_row<double>{row_kind::probabilities, target}, token_row<double>{row_kind::probabilities, draft}, n);
  }
  /// As prepare, but reports a row that is no law. Throws invalid_argument if n < 1.
  template <class S, class Q>
  row_fault try_prepare(const token_row<S>& target, const token_row<Q>& draft, index_t n) {
    expects(n >= 1, "weighted_selection", "n", n);
    if (const row_fault f = problem_.try_prepare(target, draft)) return f;
    n_ = n;
    const prefix_optimum best = problem_.best<independent_draws>(n);
    optimum_ = best.acceptance;
    prefix_ = best.prefix;
    u_.resize(order().size());
    mass_.resize(order().size());
    token_id highest = -1;
    for (const token_id x : order()) highest = std::max(highest, x);
    if (std::ssize(position_) <= highest) position_.resize(static_cast<std::size_t>(highest) + 1, 0);
    for (index_t k = 0; k < support(); ++k)
      position_[static_cast<std::size_t>(order()[static_cast<std::size_t>(k)])] = static_cast<std::int32_t>(k);
    quadrature_.prepare(-floor(), options_.step);
    start();
    history_.clear();
    compute_masses();
    history_.push_back(acceptance_);
    for (int i = 0; i < options_.sweeps; ++i) {
      sweep();
      compute_masses();
      history_.push_back(acceptance_);
    }
    return {};
  }

  /// Takes weights of the caller's instead: any positive numbers, one for each token of order(). The rule stays
  /// lossless. The quadrature's cost grows with the square of the logarithm of their range. Throws invalid_argument,
  /// the plan as it was, if their number is wrong or one is not positive and finite.
  void use_weights(std::span<const double> weights) {
    expects(std::ssize(weights) == support(), "weighted_selection", "weights.size", weights.size());
    for (index_t k = 0; k < support(); ++k) {
      const double w = weights[static_cast<std::size_t>(k)];
      expects(w > 0 && std::isfinite(w), "weighted_selection", "weights", w, k);
    }
    double span_of_logs = -floor();
    for (const int level : {0, 1}) {
      const auto [begin, end] = places(level);
      double most = -std::numeric_limits<double>::infinity();
      for (std::size_t k = begin; k < end; ++k) most = std::max(most, u_[k] = std::log(weights[k]));
      for (std::size_t k = begin; k < end; ++k) span_of_logs = std::max(span_of_logs, most - u_[k]);
      for (std::size_t k = begin; k < end; ++k) u_[k] -= most;
      scale_[level] = most;
    }
    quadrature_.prepare(span_of_logs, options_.step);
    compute_masses_in_any_order();
    history_.assign(1, acceptance_);
  }

  /// sum_j min(a_j, p_j): the probability that a draft is emitted.
  double acceptance() const { return acceptance_; }
  /// The most that any rule for n independent drafts can reach.
  double optimum() const { return optimum_; }
  /// acceptance() before the sweeps and after each of them.
  std::span<const double> history() const { return history_; }

  index_t n() const { return n_; }
  /// Number of tokens that the draft can draw.
  index_t support() const { return problem_.support(); }
  /// These tokens in the order of p/q; the first prefix() of them have level 0, the others level 1.
  std::span<const token_id> order() const { return problem_.order(); }
  index_t prefix() const { return prefix_; }
  /// a_j in the same order.
  std::span<const double> selected_mass() const { return mass_; }
  /// Weight of the token at place k of order().
  double weight(index_t k) const { return std::exp(u_[static_cast<std::size_t>(k)] + scale_[k < prefix_ ? 0 : 1]); }
  /// Place of token x in order(), -1 if the draft cannot draw it.
  index_t place(token_id x) const {
    if (x < 0 || x >= std::ssize(position_)) return -1;
    const index_t k = position_[static_cast<std::size_t>(x)];
    return k < support() && order()[static_cast<std::size_t>(k)] == x ? k : -1;
  }
  /// Probability that a selected token x is accepted; 0 if x cannot be drafted.
  double acceptance_of(token_id x) const {
    const index_t k = place(x);
    return k < 0 ? 0.0
                 : acceptance_probability(problem_.target()[static_cast<std::size_t>(k)],
                                          mass_[static_cast<std::size_t>(k)]);
  }

  /// One round for drafts of this position. `target` is the row that the plan was prepared with. The child is the draw
  /// that carries the emitted token, where one does. Faults: "drafted" (row: the draw) for a token that the draft
  /// cannot draw, "drafts.size" unless there are n of them. Allocates nothing with a word source.
  template <class S, random_source R>
  node_decision decide(const token_row<S>& target, std::span<const token_id> draws, R& random) const {
    if (std::ssize(draws) != n_) return {-1, -1, {"drafts.size", -1, -1, static_cast<double>(draws.size())}};
    for (index_t i = 0; i < n_; ++i)
      if (const token_id x = draws[static_cast<std::size_t>(i)]; place(x) < 0)
        return {-1, -1, {"drafted", i, -1, static_cast<double>(x)}};
    const index_t i = select(draws, random);
    const token_id x = draws[static_cast<std::size_t>(i)];
    const auto k = static_cast<std::size_t>(place(x));
    if (bernoulli_ratio(random, problem_.target()[k], mass_[k])) return {i, x, {}};
    const token_law<S> p(target);
    if (!p.valid()) return {-1, -1, p.fault("target", -1)};
    const token_id y = draw_residual(p, random);
    const auto found = std::find(draws.begin(), draws.end(), y);
    return {found == draws.end() ? index_t{-1} : found - draws.begin(), y, {}};
  }

 private:
  struct interval {
    std::size_t begin, end;
  };
  interval places(int level) const {
    const auto split = static_cast<std::size_t>(prefix_);
    return level == 0 ? interval{0, split} : interval{split, static_cast<std::size_t>(support())};
  }
  double floor() const { return std::log(options_.least_weight); }

  using array = Eigen::Array<double, Eigen::Dynamic, 1>;
  static Eigen::Map<const array> part(std::span<const double> x, interval i) {
    return {x.data() + i.begin, static_cast<index_t>(i.end - i.begin)};
  }
  Eigen::Map<array> logs(interval i) { return {u_.data() + i.begin, static_cast<index_t>(i.end - i.begin)}; }

  /// ln w = ln p/q, with the largest at 0 on level 1 and the least at ln w_min on level 0; there, with the largest at 0
  /// if p = 0 somewhere, which puts such tokens as far below the others as weights can be.
  void start() {
    const std::span<const double> p = problem_.target(), q = problem_.draft();
    scale_[0] = -floor();
    scale_[1] = 0;
    for (const int level : {0, 1}) {
      const interval i = places(level);
      if (i.begin == i.end) continue;
      logs(i) = (part(p, i) / part(q, i)).log();  // ascends; -inf first where p = 0
      const bool by_least = level == 0 && std::isfinite(u_[i.begin]);
      const double pivot = by_least ? u_[i.begin] - floor() : u_[i.end - 1];
      if (std::isfinite(pivot)) logs(i) -= pivot;
      logs(i) = logs(i).max(floor()).min(0.0);
    }
  }

  /// ln w <- ln w + ln p/a, cut. Keeps the order: a/q is a function of ln w whose logarithm has a slope in [0, 1], so
  /// that ln w - ln a/q does not fall, and ln p/q ascends.
  void sweep() {
    for (const int level : {0, 1}) {
      const interval i = places(level);
      logs(i) = (logs(i) + (part(problem_.target(), i) / part(mass_, i).max(1e-300)).log()).max(floor()).min(0.0);
    }
  }

  /// Where ln w does not ascend along order().
  void compute_masses_in_any_order() {
    const std::span<const double> q = problem_.draft();
    std::vector<std::size_t> by_weight(u_.size());
    std::vector<double> u(u_.size()), drafted(u_.size()), mass(u_.size());
    for (std::size_t k = 0; k < u_.size(); ++k) by_weight[k] = k;
    for (const int level : {0, 1}) {
      const auto [begin, end] = places(level);
      std::sort(by_weight.begin() + static_cast<index_t>(begin), by_weight.begin() + static_cast<index_t>(end),
                [&](std::size_t a, std::size_t b) { return u_[a] < u_[b]; });
    }
    for (std::size_t k = 0; k < u_.size(); ++k) {
      u[k] = u_[by_weight[k]];
      drafted[k] = q[by_weight[k]];
    }
    integrate(mass, u, drafted);
    for (std::size_t k = 0; k < u_.size(); ++k) mass_[by_weight[k]] = mass[k];
    sum_acceptance();
  }
  void compute_masses() {
    integrate(mass_, u_, problem_.draft());
    sum_acceptance();
  }
  void integrate(std::span<double> mass, std::span<const double> u, std::span<const double> q) {
    double lower = 0;
    for (index_t k = 0; k < prefix_; ++k) lower += q[static_cast<std::size_t>(k)];
    for (const int level : {0, 1}) {
      const auto [begin, end] = places(level);
      if (begin == end) continue;
      const std::size_t count = end - begin;
      quadrature_.integrate(mass.subspan(begin, count), u.subspan(begin, count), q.subspan(begin, count),
                            level == 0 ? 0.0 : lower, n_);
    }
  }
  void sum_acceptance() {
    const std::span<const double> p = problem_.target();
    const interval all{0, mass_.size()};
    acceptance_ = mass_.empty() ? 0.0 : std::min(1.0, part(p, all).min(part(mass_, all)).sum());
  }

  /// The draw that is selected.
  template <class R>
  index_t select(std::span<const token_id> draws, R& random) const {
    bool upper = false;
    double most = -std::numeric_limits<double>::infinity();
    const auto log_weight = [&](index_t i) {
      return u_[static_cast<std::size_t>(place(draws[static_cast<std::size_t>(i)]))];
    };
    const auto is_upper = [&](index_t i) { return place(draws[static_cast<std::size_t>(i)]) >= prefix_; };
    for (index_t i = 0; i < n_; ++i) upper = upper || is_upper(i);
    for (index_t i = 0; i < n_; ++i)
      if (is_upper(i) == upper) most = std::max(most, log_weight(i));
    if constexpr (decision_source<R>) {
      std::vector<double> weights(draws.size(), 0.0);
      for (index_t i = 0; i < n_; ++i)
        if (is_upper(i) == upper) weights[static_cast<std::size_t>(i)] = std::exp(log_weight(i) - most);
      return categorical(random, std::span<const double>(weights));
    } else {
      double total = 0;
      for (index_t i = 0; i < n_; ++i)
        if (is_upper(i) == upper) total += std::exp(log_weight(i) - most);
      const double goal = co53(random()) * total;
      double sum = 0;
      index_t last = 0;
      for (index_t i = 0; i < n_; ++i) {
        if (is_upper(i) != upper) continue;
        last = i;
        sum += std::exp(log_weight(i) - most);
        if (sum > goal) break;
      }
      return last;
    }
  }

  /// (p - a)_+ of the target's stored value j.
  template <class S>
  double residual_at(const token_law<S>& p, index_t j) const {
    const index_t k = place(p.token(j));
    return k < 0 ? p.probability_at(j) : std::max(0.0, p.probability_at(j) - mass_[static_cast<std::size_t>(k)]);
  }
  /// A draw from (p - a)_+: by thinning p, and after 32 failures from the residual itself (token_law.hpp says why the
  /// law is the same).
  template <class S, class R>
  token_id draw_residual(const token_law<S>& p, R& random) const {
    if constexpr (decision_source<R>) {
      std::vector<double> weights(static_cast<std::size_t>(p.size()));
      double sum = 0;
      for (index_t j = 0; j < p.size(); ++j) sum += weights[static_cast<std::size_t>(j)] = residual_at(p, j);
      if (!(sum > 0)) return p.draw(random);
      return p.token(categorical(random, std::span<const double>(weights)));
    } else {
      for (int tries = 0; tries < 32; ++tries) {
        const index_t j = p.draw_position(random);
        if (co53(random()) * p.probability_at(j) < residual_at(p, j)) return p.token(j);
      }
      double total = 0, sum = 0;
      for (index_t j = 0; j < p.size(); ++j) total += residual_at(p, j);
      if (!(total > 0)) return p.draw(random);
      const double goal = co53(random()) * total;
      index_t last = -1;
      for (index_t j = 0; j < p.size(); ++j) {
        const double r = residual_at(p, j);
        if (!(r > 0)) continue;
        last = j;
        sum += r;
        if (sum > goal) break;
      }
      return p.token(last);
    }
  }

  weighted_selection_options options_;
  optimal_acceptance problem_;
  detail::selection_quadrature quadrature_;
  index_t n_ = 0, prefix_ = 0;
  double optimum_ = 0, acceptance_ = 0;
  double scale_[2] = {0, 0};                // ln w = u + scale of the level
  std::vector<double> u_, mass_, history_;  // in the order of p/q
  std::vector<std::int32_t> position_;      // place of a token, if it is one of order()
};

/// The node rule for independent draws. Const and shared by threads, so every decision with two or more drafts makes a
/// plan of its own: it allocates, and sorts the draft's support. For many decisions on one thread, or several on the
/// same rows, keep a weighted_selection_plan. One draft: token rejection.
class weighted_selection {
 public:
  using draft_kind = independent_draws;

  /// Throws invalid_argument if an option is out of its range.
  explicit weighted_selection(const weighted_selection_options& options = {}) : plan_(options) {}

  /// No child: y ~ target, the draft is not read. Faults as in token_rejection, with row -1 for both rows and the
  /// child's place for "drafted".
  template <class S, class Q, random_source R>
  node_decision decide(const token_row<S>& target, const token_row<Q>& draft, std::span<const token_id> children,
                       R& random) const {
    if (children.size() <= 1) return token_rejection{}.decide(target, draft, children, random);
    weighted_selection_plan plan(plan_);
    if (const row_fault f = plan.try_prepare(target, draft, std::ssize(children))) return {-1, -1, f};
    return plan.decide(target, children, random);
  }

  /// As decide; throws invalid_argument where it reports a defect.
  template <class S, class Q, random_source R>
  node_decision operator()(const token_row<S>& target, const token_row<Q>& draft, std::span<const token_id> children,
                           R& random) const {
    const node_decision d = decide(target, draft, children, random);
    detail::expects_no_fault("weighted_selection", d.fault);
    return d;
  }

 private:
  weighted_selection_plan plan_;  // never prepared: the tables, copied for each decision
};

}  // namespace sluice
