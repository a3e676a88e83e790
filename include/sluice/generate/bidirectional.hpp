#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/status.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/generate/churn.hpp>
#include <sluice/generate/model.hpp>
#include <sluice/generate/noise.hpp>
#include <sluice/generate/sample.hpp>
#include <sluice/generate/schedule.hpp>
#include <sluice/generate/solver.hpp>
#include <sluice/kernels/conjugate_gradient.hpp>
#include <sluice/random/stream.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

/// Ordered sequences pinned at both ends, from denoisers that know one end: frames of a video between two keyframes,
/// or any sequence with a denoiser that is conditional on its first element.
///
/// A sequence of F frames with d features is one sample: element (f, k) at f d + k of its memory. A batch is a matrix
/// with one sequence a column; any other tensor is one sequence. Inside each noise level the sampler takes a half-step
/// that knows the start, goes back up by fresh noise, and takes a half-step that knows the end, in reversed order.
/// Source: Yang, Kwon and Ye, "ViBiDSampler", ICLR 2025 (arXiv:2410.05651), and the authors' code; its parts are CFG++
/// (Chung et al., arXiv:2406.08070) and DDS (Chung, Lee and Ye, arXiv:2303.05754).
namespace sluice {

/// In which order a half-step sees the frames.
enum class frame_order { forward, reversed };

/// Against which estimate the residual noise is measured: CFG++ against the unconditional one, the standard step
/// against the one that it returns.
enum class renoising { cfg_plus_plus, standard };

/// Stands for a model that is not there. Calling it is refused.
struct no_model {};

/// The three models of a two-ended sampler. `forward` knows the first frame, start; `backward` knows the first frame of
/// what it is shown, end, and is shown sequences in reversed order; `unconditional` is shown both orders. Conditions
/// are closed over. A forward or backward model that can also be called as m(x, level, conditional, unconditional,
/// want) is asked for both predictions at once (one batched call of a network), and `unconditional` only where it alone
/// is needed.
template <class Forward, class Backward, class Unconditional = no_model>
struct two_ended_models {
  Forward forward;
  Backward backward;
  Unconditional unconditional{};
};
/// Without an unconditional model only renoising::standard with weights 1 can run. Models are copied; pass std::ref to
/// keep them outside.
template <class Forward, class Backward, class Unconditional = no_model>
two_ended_models<Forward, Backward, Unconditional> two_ended(Forward forward, Backward backward,
                                                             Unconditional unconditional = {}) {
  return {std::move(forward), std::move(backward), std::move(unconditional)};
}

/// What a step shows of itself; of a batch, the largest of the samples.
struct two_ended_report {
  double start_error = 0;          ///< |x_1 - start| of the scaled state after the step
  double end_error = 0;            ///< |x_F - end|
  double disagreement = 0;         ///< 2 |D_f - D_b| / (|D_f| + |D_b|) of the two estimates of the step, in one order
  std::int64_t cg_iterations = 0;  ///< of all samples and both halves
};
/// How a run ended, what it cost, and a report a step.
struct two_ended_result {
  sluice::status status = sluice::status::completed;
  sample_stats stats;
  std::vector<two_ended_report> reports;
};

namespace detail {
/// Sample j as a one-dimensional array over its memory.
template <class X>
auto sample_array(X& x, index_t j) {
  if constexpr (batch_of_columns<X>) {
    auto column = x.col(j);
    return Eigen::ArrayWrapper<decltype(column)>(column);
  } else {
    return traits_of<X>::elements(x);
  }
}
template <class X>
index_t n_samples(const X& x) {
  if constexpr (batch_of_columns<const X>)
    return x.cols();
  else
    return 1;
}
template <class X>
index_t sample_size(const X& x) {
  if constexpr (batch_of_columns<const X>)
    return x.rows();
  else
    return size(x);
}
/// Stored elements (half types) as scalars to compute with.
template <class S, class A>
auto as_scalar(const A& a) {
  if constexpr (std::same_as<typename A::Scalar, S>)
    return a;
  else
    return a.template cast<S>();
}
/// out(frame F - 1 - f of sample j) = f(frame f of sample j of each x): one pass, which reverses the order of frames.
template <class O, class F, class... X>
void reversed_frames(O& out, index_t d, F&& f, const X&... x) {
  using S = scalar_t<O>;
  const index_t n = sample_size(out);
  for (index_t j = 0; j < n_samples(out); ++j) {
    auto to = sample_array(out, j);
    using stored = typename decltype(to)::Scalar;
    [&](const auto&... from) {
      for (index_t at = 0; at < n; at += d)
        to.segment(n - d - at, d) = as_scalar<stored>(f(as_scalar<S>(from.segment(at, d))...));
    }(sample_array(x, j)...);
  }
}
/// y <- x + w (y - x), exact where the two agree.
template <class O>
void mix(O& y, scalar_t<O> w, const O& x) {
  using S = scalar_t<O>;
  auto to = traits_of<O>::elements(y);
  const auto from = traits_of<O>::elements(x);
  using stored = typename decltype(to)::Scalar;
  to = as_scalar<stored>(as_scalar<S>(from) + w * (as_scalar<S>(to) - as_scalar<S>(from)));
}
/// Storage for one sample of a batch.
template <class O>
auto sample_owner(const O& o) {
  if constexpr (batch_of_columns<const O>)
    return zeros_like(o.col(0));
  else
    return zeros_like(o);
}
template <class O>
using sample_owner_t = decltype(sample_owner(std::declval<const O&>()));
}  // namespace detail

/// The two given frames, one pair for all samples or one a sample, and the shape that follows from them.
/// Immutable after construction.
template <class S>
class end_frames {
 public:
  /// start and end: a tensor of d elements, or a matrix with one column a sample. Throws invalid_argument, in the name
  /// of `function`, unless both have the same shape and are finite, there are one or as many as samples, and a sample
  /// has F >= 2 frames of d >= 1 features.
  template <class X, elementwise_tensor A, elementwise_tensor B>
  end_frames(const X& like, const A& start, const B& end, const char* function)
      : d_(detail::sample_size(start)), n_(detail::n_samples(start)) {
    expects(d_ >= 1, function, "start.size", d_);
    expects(detail::sample_size(end) == d_, function, "end.size", detail::sample_size(end));
    const index_t samples = detail::n_samples(like), length = detail::sample_size(like);
    expects(n_ == 1 || n_ == samples, function, "start.cols", n_);
    expects(detail::n_samples(end) == n_, function, "end.cols", detail::n_samples(end));
    expects(length % d_ == 0, function, "like.size", length);
    n_frames_ = length / d_;
    expects(n_frames_ >= 2, function, "frames", n_frames_);
    store(start_, start, function, "start");
    store(end_, end, function, "end");
  }
  index_t frame_size() const { return d_; }
  index_t n_frames() const { return n_frames_; }
  using frame = Eigen::Map<const Eigen::Array<S, Eigen::Dynamic, 1>>;
  frame start(index_t sample) const { return {start_.data() + offset(sample), d_}; }
  frame end(index_t sample) const { return {end_.data() + offset(sample), d_}; }
  /// What the last frame has to be in this order.
  frame last(frame_order order, index_t sample) const {
    return order == frame_order::forward ? end(sample) : start(sample);
  }

 private:
  index_t offset(index_t sample) const { return n_ == 1 ? 0 : sample * d_; }
  template <class A>
  void store(std::vector<S>& to, const A& from, const char* function, const char* argument) const {
    to.reserve(static_cast<std::size_t>(d_ * n_));
    for (index_t j = 0; j < n_; ++j) {
      const auto values = detail::sample_array(from, j);
      for (index_t k = 0; k < d_; ++k) {
        const S value = static_cast<S>(values(k));
        expects(std::isfinite(value), function, argument, value, j * d_ + k);
        to.push_back(value);
      }
    }
  }
  index_t d_, n_, n_frames_ = 0;
  std::vector<S> start_, end_;
};

// Data consistency: what a half-step does to its estimate D so that it agrees with the end that its model does not
// know. A policy is a value with bind(like, ends), which returns a callable (D, order, ends) -> CG iterations.

/// Leaves D as it is.
struct no_consistency {
  struct bound {
    template <class O, class S>
    std::int64_t operator()(O&, frame_order, const end_frames<S>&) const {
      return 0;
    }
  };
  template <class X, class S>
  bound bind(const X&, const end_frames<S>&) const {
    return {};
  }
};

/// The last frame of D becomes the given one. This is DDS with the projection onto the last frame, for which one
/// iteration of conjugate gradients is exact; here without the iteration.
struct replace_last_frame {
  struct bound {
    template <class O, class S>
    std::int64_t operator()(O& d, frame_order order, const end_frames<S>& ends) const {
      const index_t n = ends.frame_size();
      for (index_t j = 0; j < detail::n_samples(d); ++j) {
        auto sample = detail::sample_array(d, j);
        sample.segment(sample.size() - n, n) =
            detail::as_scalar<typename decltype(sample)::Scalar>(ends.last(order, j));
      }
      return 0;
    }
  };
  template <class X, class S>
  bound bind(const X&, const end_frames<S>&) const {
    return {};
  }
};

/// A z = y for one sample z. `apply(z, out)` writes A z, `adjoint(y, out)` A^T y; both see the sampler's own vectors
/// (for matrices: one column). y is a tensor, or a matrix with one column a sample.
template <class A, class Adjoint, class Y>
struct linear_constraint {
  A apply;
  Adjoint adjoint;
  Y y;
};
/// A and its adjoint are copied; pass std::ref to keep them outside.
template <class A, class Adjoint, class Y>
linear_constraint<A, Adjoint, Y> constrain(A apply, Adjoint adjoint, Y y) {
  return {std::move(apply), std::move(adjoint), std::move(y)};
}

/// What a policy does about operators that the user wrote.
enum class operator_check { none, adjoint };

/// DDS: D becomes the result of at most n_inner iterations of conjugate gradients on |A z - y|^2, started at D, for
/// each sample by itself. The constraint of each half refers to frames in the order in which that half sees them. The
/// estimate moves in the range of A^T only, so what A does not see keeps what the model says.
template <class Forward, class Backward>
struct least_squares_consistency {
  Forward forward;
  Backward backward;
  index_t n_inner = 5;                          ///< at least 1
  double tolerance = 1e-5;                      ///< on |A^T (y - A z)|, not negative; rounding ends an iteration too
  operator_check check = operator_check::none;  ///< adjoint: bind compares <A z, y> with <z, A^T y>, once

  template <class O>
  class bound {
    using vector = detail::sample_owner_t<O>;
    template <class C>
    struct system {
      using measurement = detail::sample_owner_t<decltype(std::declval<C>().y)>;
      system(const C& c, const O& like, const least_squares_consistency& recipe)
          : constraint{c.apply, c.adjoint, deep_copy(c.y)},
            solver(detail::sample_owner(like), detail::sample_owner(c.y)) {
        constexpr const char* name = "least_squares_consistency";
        expects(detail::n_samples(c.y) == 1 || detail::n_samples(c.y) == detail::n_samples(like), name, "y.cols",
                detail::n_samples(c.y));
        expects(std::isfinite(norm(c.y)), name, "y", norm(c.y));
        if (recipe.check == operator_check::none) return;
        constexpr double unit = static_cast<double>(std::numeric_limits<scalar_t<O>>::epsilon());
        const double error = adjoint_error(constraint.apply, constraint.adjoint, detail::sample_owner(like),
                                           detail::sample_owner(c.y), stream(0x41444A));
        expects(error <= std::max(1e-8, 64 * unit), name, "adjoint", error);
      }
      std::int64_t solve(O& d, const conjugate_gradient_options& options) {
        std::int64_t iterations = 0;
        for_each_sample(d, [&](std::uint64_t j, auto&& sample) {
          const auto run = [&](const auto& y) {
            iterations += solver.solve(constraint.apply, constraint.adjoint, sample, y, options).stats.iterations;
          };
          if constexpr (detail::batch_of_columns<decltype(constraint.y)>)
            run(constraint.y.col(constraint.y.cols() == 1 ? 0 : static_cast<index_t>(j)));
          else
            run(constraint.y);
        });
        return iterations;
      }
      linear_constraint<decltype(C::apply), decltype(C::adjoint), owner_t<decltype(std::declval<C>().y)>> constraint;
      least_squares_conjugate_gradient<vector, measurement> solver;
    };

   public:
    bound(const O& like, const least_squares_consistency& recipe)
        : options_{checked(recipe), recipe.tolerance,
                   4 * static_cast<double>(std::numeric_limits<scalar_t<O>>::epsilon())},
          forward_(recipe.forward, like, recipe),
          backward_(recipe.backward, like, recipe) {}
    template <class S>
    std::int64_t operator()(O& d, frame_order order, const end_frames<S>&) {
      return order == frame_order::forward ? forward_.solve(d, options_) : backward_.solve(d, options_);
    }

   private:
    static index_t checked(const least_squares_consistency& recipe) {
      expects(recipe.n_inner >= 1, "least_squares_consistency", "n_inner", recipe.n_inner);
      expects(recipe.tolerance >= 0, "least_squares_consistency", "tolerance", recipe.tolerance);
      return recipe.n_inner;
    }
    conjugate_gradient_options options_;
    system<Forward> forward_;
    system<Backward> backward_;
  };
  /// Throws invalid_argument if n_inner or tolerance is out of its range, a y is not finite or has neither one column
  /// nor one a sample, or the operators are checked and are not adjoint: to 1e-8, or to 64 rounding units if that is
  /// more.
  template <class X, class S>
  bound<owner_t<X>> bind(const X& like, const end_frames<S>&) const {
    return {zeros_like(like), *this};
  }
};
template <class Forward, class Backward>
least_squares_consistency<Forward, Backward> consistent_with(Forward forward, Backward backward) {
  return {std::move(forward), std::move(backward)};
}

namespace detail {
/// What the three samplers share: grid, ends, the numbers of a step, the report.
template <class X>
class two_ended_stepper {
 public:
  two_ended_stepper(two_ended_stepper&&) = default;
  two_ended_stepper& operator=(two_ended_stepper&&) = default;
  predicts form() const { return predicts::data; }
  void reset() {}  // no history: noise is keyed by the step
  solver_state<owner_t<X>> state() const { return {}; }
  void restore(const solver_state<owner_t<X>>&) {}
  /// Of the last step.
  const two_ended_report& report() const { return report_; }

 protected:
  using scalar = scalar_t<X>;
  template <class A, class B>
  two_ended_stepper(const X& like, const A& start, const B& end, std::span<const noise_level> levels,
                    const char* function)
      : levels_((expect_grid_to_data(levels, function), std::vector<noise_level>(levels.begin(), levels.end()))),
        ends_(like, start, end, function) {}

  /// x_t = t.alpha D + shrink (x_s - s.alpha U);  x_s = up x_t + spread xi.
  struct numbers {
    scalar shrink, to_data, from_data, up, spread;
  };
  static numbers between(const noise_level& s, const noise_level& t) {
    const double up = s.alpha / t.alpha;
    return {static_cast<scalar>(t.sigma / s.sigma), static_cast<scalar>(t.alpha), static_cast<scalar>(s.alpha),
            static_cast<scalar>(up),
            static_cast<scalar>(std::sqrt((s.sigma - up * t.sigma) * (s.sigma + up * t.sigma)))};
  }
  const noise_level& level(index_t i) const { return levels_[static_cast<std::size_t>(i)]; }
  index_t n_steps() const { return std::ssize(levels_) - 1; }

  void begin_report() { report_ = {}; }
  void report_ends(const X& x, const noise_level& t) {
    const index_t d = ends_.frame_size();
    const auto scale = static_cast<scalar>(1 / t.alpha);
    for (index_t j = 0; j < n_samples(x); ++j) {
      const auto sample = sample_array(x, j);
      const auto error = [&](index_t at, const auto& frame) {
        return std::sqrt(
            static_cast<double>((scale * as_scalar<scalar>(sample.segment(at, d)) - frame).square().sum()));
      };
      report_.start_error = std::max(report_.start_error, error(0, ends_.start(j)));
      report_.end_error = std::max(report_.end_error, error(sample.size() - d, ends_.end(j)));
    }
  }
  /// forward in the order of the sequence, reversed in the other.
  template <class O>
  void report_disagreement(const O& forward, const O& reversed) {
    const index_t d = ends_.frame_size();
    for (index_t j = 0; j < n_samples(forward); ++j) {
      const auto f = sample_array(forward, j), r = sample_array(reversed, j);
      double apart = 0, f2 = 0, r2 = 0;
      for (index_t at = 0; at < f.size(); at += d) {
        const auto a = as_scalar<scalar>(f.segment(at, d)), b = as_scalar<scalar>(r.segment(f.size() - d - at, d));
        apart += static_cast<double>((a - b).square().sum());
        f2 += static_cast<double>(a.square().sum());
        r2 += static_cast<double>(b.square().sum());
      }
      if (apart > 0)
        report_.disagreement = std::max(report_.disagreement, 2 * std::sqrt(apart) / (std::sqrt(f2) + std::sqrt(r2)));
    }
  }

  std::vector<noise_level> levels_;
  end_frames<scalar> ends_;
  two_ended_report report_;

 private:
  static void expect_grid_to_data(std::span<const noise_level> levels, const char* function) {
    expects(levels.size() >= 2, function, "levels.size", levels.size());
    expect_levels(levels, function, true);
    expects(levels.back().sigma == 0, function, "levels.back.sigma", levels.back().sigma);
  }
};
}  // namespace detail

/// The inner stepper of `bidirectional` that is built in: Euler's method in kappa, fused with the re-noising and the
/// change of order, in two passes a step. Any other recipe whose steps need no history takes two passes more.
struct fused_euler {};

/// ViBiDSampler. With xh = x/alpha, kappa = sigma/alpha, s and t successive levels, r = kappa_t/kappa_s and R the
/// reversal of the frames' order, a step is
///     D_c, D_u = the conditional and unconditional estimates of the data at x,    D = D_u + w (D_c - D_u),
///     D^ = D made consistent with the end that the model does not know,
///     xh <- D^ + r (xh - U),    U = D_u (CFG++) or D^ (standard),
/// with the forward model, then xh <- R (xh + sqrt(kappa_s^2 - kappa_t^2) xi), then the same with the backward model,
/// and R again. The defaults are CFG++ with the last frame replaced, w = 1, no churn.
///
/// Frame 1 of the result is `start` exactly where replace_last_frame acts (last); frame F is the backward model's: it
/// is `end` exactly if that model pins its first frame and w = 1. Evaluations: 4 a step; 2 for renoising::standard with
/// w = 1 (and 2 for w = 0, where D_u is all there is). An inner recipe of several evaluations multiplies them.
///
/// bind allocates five tensors shaped like x and what policies need; a step allocates nothing. Passes over memory in a
/// step, models aside: two that reverse the order, two that write noise or report, one for each w other than 0 and 1.
/// A stepper serves one thread; recipes are values. Noise: step i takes noise(i), churn noise(N + i); sample j has its
/// own stream (step_noise), so results depend on neither batch nor threads.
///
/// The hook of `step` sees the guided estimate D of each half before it is made consistent, in that half's order; for
/// inner recipes of several evaluations, the first of each half.
/// Source: Yang, Kwon and Ye, ICLR 2025 (arXiv:2410.05651), and the authors' code: their paper prints the standard step
/// for the variant without guidance, their code has CFG++ in all. Differs: any schedule, by the scaled state; a start
/// that already satisfies the constraint is kept (theirs divides 0/0); the forward half, the re-noising and the
/// reversal are one pass; other inner recipes.
template <renoising Renoising = renoising::cfg_plus_plus, class Consistency = replace_last_frame,
          class Inner = fused_euler, schedule Schedule = edm, class Noise = step_noise>
struct bidirectional {
  double forward_weight = 1;   ///< w of the half that knows the start; not negative
  double backward_weight = 1;  ///< and of the half that knows the end
  double s_churn = 0;          ///< before step i kappa is raised by the factor 1 + min(s_churn/N, sqrt 2 - 1)
  Consistency consistency{};
  Inner inner{};
  Schedule schedule{};  ///< of the levels; asked for raised levels only
  Noise noise{};

  /// The same with another policy.
  template <class C>
  bidirectional<Renoising, C, Inner, Schedule, Noise> with_consistency(C c) const {
    return {forward_weight, backward_weight, s_churn, std::move(c), inner, schedule, noise};
  }
  template <class R>
  bidirectional<Renoising, Consistency, R, Schedule, Noise> with_inner(R r) const {
    return {forward_weight, backward_weight, s_churn, consistency, std::move(r), schedule, noise};
  }
  template <class S>
  bidirectional<Renoising, Consistency, Inner, S, Noise> with_schedule(S s) const {
    return {forward_weight, backward_weight, s_churn, consistency, inner, std::move(s), noise};
  }
  template <class N>
  bidirectional<Renoising, Consistency, Inner, Schedule, N> with_noise(N n) const {
    return {forward_weight, backward_weight, s_churn, consistency, inner, schedule, std::move(n)};
  }

  template <elementwise_tensor X>
  class stepper : public detail::two_ended_stepper<X> {
    using base = detail::two_ended_stepper<X>;
    using O = owner_t<X>;
    using S = scalar_t<X>;
    static constexpr bool fused = std::same_as<Inner, fused_euler>;
    static constexpr bool plus_plus = Renoising == renoising::cfg_plus_plus;

   public:
    template <class A, class B>
    stepper(const X& like, const A& start, const B& end, std::span<const noise_level> levels,
            const bidirectional& recipe)
        : base(like, start, end, levels, "bidirectional"),
          from_(raised(levels, recipe)),
          forward_weight_(recipe.forward_weight),
          backward_weight_(recipe.backward_weight),
          noise_source_(recipe.noise),
          consistency_(recipe.consistency.bind(like, this->ends_)),
          forward_(zeros_like(like)),
          backward_(zeros_like(like)),
          unconditional_(zeros_like(like)),
          reversed_(zeros_like(like)),
          noise_(zeros_like(like)),
          inner_(recipe.inner, like, reversed_, levels) {
      if constexpr (plus_plus && !fused) {  // the direction of CFG++ is that of one whole step
        for (index_t i = 0; i < this->n_steps(); ++i)
          expects(inner_.forward.evaluations(i) == 1, "bidirectional", "inner.evaluations",
                  inner_.forward.evaluations(i), i);
      }
    }
    stepper(stepper&&) = default;  // move-only: a copied tensor may share storage
    stepper& operator=(stepper&&) = default;

    /// From levels[i] to levels[i + 1], in place; steps may be made in any order. Throws invalid_argument, x unchanged,
    /// if an unconditional model is needed and there is none.
    template <class Models, class First = unchanged>
    void step(Models& models, X& x, index_t i, First&& first = {}) {
      if constexpr (std::same_as<std::remove_cvref_t<decltype(models.unconditional)>, no_model>)
        expects(!plus_plus && forward_weight_ == 1 && backward_weight_ == 1, "bidirectional", "models.unconditional",
                0);
      const noise_level &s = from_[static_cast<std::size_t>(i)], &t = this->level(i + 1);
      const index_t d = this->ends_.frame_size();
      const auto k = base::between(s, t);
      this->begin_report();
      if (s != this->level(i)) {
        const auto c = base::between(s, this->level(i));
        noise_source_(noise_, this->n_steps() + i, s, this->level(i));
        scale_add(x, c.up, c.spread, noise_);
      }
      auto forward = half(models.forward, models.unconditional, forward_, frame_order::forward, i, first);
      auto backward = half(models.backward, models.unconditional, backward_, frame_order::reversed, i, first);
      if constexpr (fused) {
        const S up_shrink = k.up * k.shrink;
        const O& u = forward.estimate(std::as_const(x), s);
        noise_source_(noise_, i, s, t);
        detail::reversed_frames(
            reversed_, d,
            [&](const auto& z, const auto& data, const auto& against, const auto& xi) {
              return k.from_data * data + up_shrink * (z - k.from_data * against) + k.spread * xi;
            },
            x, forward_, u, noise_);
        const O& v = backward.estimate(std::as_const(reversed_), s);
        detail::reversed_frames(
            x, d,
            [&](const auto& z, const auto& data, const auto& against) {
              return k.to_data * data + k.shrink * (z - k.from_data * against);
            },
            reversed_, backward_, v);
      } else {
        inner_.forward.step_between(forward, x, i, s, t, unchanged{});
        noise_source_(noise_, i, s, t);
        detail::reversed_frames(
            reversed_, d, [&](const auto& z, const auto& xi) { return k.up * z + k.spread * xi; }, x, noise_);
        inner_.backward.step_between(backward, reversed_, i, s, t, unchanged{});
        detail::reversed_frames(
            x, d, [](const auto& z) { return z; }, reversed_);
      }
      this->report_ends(x, t);
      this->report_disagreement(forward_, backward_);
    }
    std::int64_t evaluations(index_t i) const {
      if constexpr (fused)
        return static_cast<void>(i), cost(forward_weight_) + cost(backward_weight_);
      else
        return inner_.forward.evaluations(i) * cost(forward_weight_) +
               inner_.backward.evaluations(i) * cost(backward_weight_);
    }
    /// The level from which step i starts after the churn.
    const noise_level& raised_level(index_t i) const { return from_[static_cast<std::size_t>(i)]; }

   private:
    struct nothing {
      template <class... A>
      explicit nothing(const A&...) {}
    };
    struct two_steppers {
      template <class R>  // a template: Inner may be fused_euler, which makes no stepper
      two_steppers(const R& recipe, const X& like, const O& like_reversed, std::span<const noise_level> levels)
          : forward(recipe.bind(like, levels)), backward(recipe.bind(like_reversed, levels)) {}
      stepper_t<std::conditional_t<fused, heun, Inner>, X> forward;
      stepper_t<std::conditional_t<fused, heun, Inner>, O> backward;
    };

    /// One half-step's estimates, and the model that an inner recipe sees.
    template <class M, class U, class First>
    struct half_step {
      stepper& owner;
      M& model;
      U& unconditional;
      O& data;  // D^ is written here
      frame_order order;
      index_t i;
      First& first;
      double weight;
      bool begun = false;

      /// Writes D^ and returns U.
      template <class Z>
      const O& estimate(const Z& z, const noise_level& level) {
        O& other = owner.unconditional_;
        constexpr bool at_once = requires { model(z, level, data, other, predicts::data); };
        if (weight == 0 || !(plus_plus || weight != 1)) {
          if (weight == 0)
            call(unconditional, z, level, data);
          else
            call(model, z, level, data);
          if constexpr (plus_plus) lincomb(other, 1, data);
        } else {
          if constexpr (at_once) {
            model(z, level, data, other, predicts::data);
          } else {
            call(model, z, level, data);
            call(unconditional, z, level, other);
          }
          if (weight != 1) detail::mix(data, static_cast<S>(weight), other);
        }
        if (!begun) {
          const auto& changed = first(i, level, z, data, owner.noise_);  // noise is drawn later: free until then
          if (static_cast<const void*>(&changed) != &data) lincomb(data, 1, changed);
          begun = true;
        }
        owner.report_.cg_iterations += owner.consistency_(data, order, owner.ends_);
        return plus_plus ? other : data;
      }
      /// What a recipe calls: D^, or the estimate with which a standard first-order step is that of CFG++,
      /// (D^ - r D_u)/(1 - r).
      template <class Z>
      void operator()(const Z& z, const noise_level& level, O& out, predicts want) {
        const O& u = estimate(z, level);
        const affine c = conversion(predicts::data, want, level);
        if constexpr (plus_plus) {
          const double r = owner.level(i + 1).kappa() / level.kappa();
          lincomb(out, c.p / (1 - r), data, -c.p * r / (1 - r), u, c.x, z);
        } else {
          lincomb(out, c.p, data, c.x, z);
        }
      }
      template <class F, class Z>
      static void call(F& f, const Z& z, const noise_level& level, O& out) {
        if constexpr (!std::same_as<std::remove_cv_t<F>, no_model>) f(z, level, out, predicts::data);
      }
    };
    template <class M, class U, class First>
    half_step<M, U, First> half(M& model, U& unconditional, O& data, frame_order order, index_t i, First& first) {
      return {*this, model, unconditional, data,
              order, i,     first,         order == frame_order::forward ? forward_weight_ : backward_weight_};
    }
    static std::int64_t cost(double weight) { return weight == 0 || (!plus_plus && weight == 1) ? 1 : 2; }

    static std::vector<noise_level> raised(std::span<const noise_level> levels, const bidirectional& o) {
      expects(o.forward_weight >= 0 && std::isfinite(o.forward_weight), "bidirectional", "forward_weight",
              o.forward_weight);
      expects(o.backward_weight >= 0 && std::isfinite(o.backward_weight), "bidirectional", "backward_weight",
              o.backward_weight);
      expects(o.s_churn >= 0 && std::isfinite(o.s_churn), "bidirectional", "s_churn", o.s_churn);
      std::vector<noise_level> list(levels.begin(), levels.end() - 1);
      const double gamma = std::min(o.s_churn / static_cast<double>(list.size()), std::numbers::sqrt2 - 1);
      for (index_t i = 0; gamma > 0 && i < std::ssize(list); ++i) {
        noise_level& l = list[static_cast<std::size_t>(i)];
        const double alpha = level_at_kappa(o.schedule, l.kappa()).alpha;
        expects(std::abs(alpha - l.alpha) <= 1e-6 * l.alpha, "bidirectional", "levels.alpha", l.alpha, i);
        l = level_at_kappa(o.schedule, l.kappa() * (1 + gamma));
      }
      return list;
    }

    std::vector<noise_level> from_;
    double forward_weight_, backward_weight_;
    Noise noise_source_;
    std::remove_cvref_t<decltype(std::declval<const Consistency&>().bind(std::declval<const X&>(),
                                                                         std::declval<const end_frames<S>&>()))>
        consistency_;
    O forward_, backward_, unconditional_, reversed_, noise_;
    std::conditional_t<fused, nothing, two_steppers> inner_;
  };

  /// `like` gives the shape; start and end are one frame each, or one a sample (columns). Throws invalid_argument
  /// unless there are F >= 2 frames, the frames fit and are finite, kappa falls strictly to an exact 0 and every alpha
  /// is positive (the first may be 0 with fused_euler and no churn), weights and s_churn are in their ranges, a raised
  /// level is in the schedule, and, under CFG++, an inner recipe makes one evaluation a step. What policies throw.
  template <elementwise_tensor X, elementwise_tensor A, elementwise_tensor B>
  stepper<X> bind(const X& like, const A& start, const B& end, std::span<const noise_level> levels) const {
    return {like, start, end, levels, *this};
  }
};

/// Time-reversal fusion, the usual way to pin both ends: at each step the two estimates are averaged frame by frame,
///     D = (1 - l) D_f + l R D_b,    l = f/(F - 1) for frame f = 0 ... F - 1,    xh <- D + r (xh - D),
/// and each pass of a step but the last is followed by fresh noise back to level s. Where the two disagree the average
/// is not on the data's manifold; repeats mend that, at 2 evaluations each. bind allocates four tensors; no allocation
/// in a step. Pass p of step i takes noise(i repeats + p).
/// Sources: Feng et al., "Explorative Inbetweening of Time and Space" (arXiv:2403.14611); the weights and the fresh
/// noise as in Yang, Kwon and Ye (arXiv:2410.05651).
template <class Noise = step_noise>
struct time_reversal_fusion {
  index_t repeats = 1;  ///< passes a step, at least 1
  Noise noise{};

  template <elementwise_tensor X>
  class stepper : public detail::two_ended_stepper<X> {
    using base = detail::two_ended_stepper<X>;
    using O = owner_t<X>;
    using S = scalar_t<X>;

   public:
    template <class A, class B>
    stepper(const X& like, const A& start, const B& end, std::span<const noise_level> levels,
            const time_reversal_fusion& recipe)
        : base(like, start, end, levels, "time_reversal_fusion"),
          repeats_(checked(recipe)),
          noise_source_(recipe.noise),
          forward_(zeros_like(like)),
          backward_(zeros_like(like)),
          reversed_(zeros_like(like)),
          noise_(zeros_like(like)) {}
    stepper(stepper&&) = default;
    stepper& operator=(stepper&&) = default;

    /// From levels[i] to levels[i + 1], in place. The hook is not called: no one estimate is a model's.
    template <class Models, class First = unchanged>
    void step(Models& models, X& x, index_t i, First&& = {}) {
      const noise_level &s = this->level(i), &t = this->level(i + 1);
      const auto k = base::between(s, t);
      const index_t d = this->ends_.frame_size(), n = detail::sample_size(x);
      this->begin_report();
      for (index_t pass = 0; pass < repeats_; ++pass) {
        const bool last = pass + 1 == repeats_;
        models.forward(std::as_const(x), s, forward_, predicts::data);
        detail::reversed_frames(
            reversed_, d, [](const auto& z) { return z; }, x);
        models.backward(std::as_const(reversed_), s, backward_, predicts::data);
        if (!last) noise_source_(noise_, i * repeats_ + pass, s, t);
        const S to_data = last ? k.to_data : k.from_data, shrink = last ? k.shrink : k.up * k.shrink;
        for (index_t j = 0; j < detail::n_samples(x); ++j) {
          auto z = detail::sample_array(x, j);
          const auto f = detail::sample_array(forward_, j), b = detail::sample_array(backward_, j),
                     xi = detail::sample_array(noise_, j);
          using stored = typename decltype(z)::Scalar;
          for (index_t at = 0; at < n; at += d) {
            const S part = static_cast<S>(static_cast<double>(at) / static_cast<double>(n - d));
            const auto frame = [&](const auto& a, index_t from) { return detail::as_scalar<S>(a.segment(from, d)); };
            const auto data = (1 - part) * frame(f, at) + part * frame(b, n - d - at);
            auto to = z.segment(at, d);
            if (last)
              to = detail::as_scalar<stored>(to_data * data + shrink * (frame(z, at) - k.from_data * data));
            else
              to = detail::as_scalar<stored>(to_data * data + shrink * (frame(z, at) - k.from_data * data) +
                                             k.spread * frame(xi, at));
          }
        }
      }
      this->report_ends(x, t);
      this->report_disagreement(forward_, backward_);
    }
    std::int64_t evaluations(index_t) const { return 2 * repeats_; }

   private:
    static index_t checked(const time_reversal_fusion& recipe) {
      expects(recipe.repeats >= 1, "time_reversal_fusion", "repeats", recipe.repeats);
      return recipe.repeats;
    }
    index_t repeats_;
    Noise noise_source_;
    O forward_, backward_, reversed_, noise_;
  };

  /// Throws invalid_argument as bidirectional, and unless repeats >= 1.
  template <elementwise_tensor X, elementwise_tensor A, elementwise_tensor B>
  stepper<X> bind(const X& like, const A& start, const B& end, std::span<const noise_level> levels) const {
    return {like, start, end, levels, *this};
  }
};

/// The forward model alone, by Euler's method in kappa: the end is not asked for. What the others are measured against.
/// One evaluation a step, one tensor.
struct one_sided {
  template <elementwise_tensor X>
  class stepper : public detail::two_ended_stepper<X> {
    using base = detail::two_ended_stepper<X>;

   public:
    template <class A, class B>
    stepper(const X& like, const A& start, const B& end, std::span<const noise_level> levels)
        : base(like, start, end, levels, "one_sided"), data_(zeros_like(like)) {}
    stepper(stepper&&) = default;
    stepper& operator=(stepper&&) = default;

    template <class Models, class First = unchanged>
    void step(Models& models, X& x, index_t i, First&& = {}) {
      const noise_level &s = this->level(i), &t = this->level(i + 1);
      const auto k = base::between(s, t);
      this->begin_report();
      models.forward(std::as_const(x), s, data_, predicts::data);
      scale_add(x, k.shrink, k.to_data - k.shrink * k.from_data, data_);
      this->report_ends(x, t);
    }
    std::int64_t evaluations(index_t) const { return 1; }

   private:
    owner_t<X> data_;
  };

  /// Throws invalid_argument as bidirectional.
  template <elementwise_tensor X, elementwise_tensor A, elementwise_tensor B>
  stepper<X> bind(const X& like, const A& start, const B& end, std::span<const noise_level> levels) const {
    return {like, start, end, levels};
  }
};

/// Takes x from noise at levels.front() to sequences with these ends, in place, by `bidirectional`,
/// `time_reversal_fusion` or `one_sided`: `sample` (generate/sample.hpp) with two ends, and one report a step. nfe
/// counts model calls, conditional and unconditional ones alike. Allocates what bind does, one tensor, and the reports.
/// Throws invalid_argument, x unchanged, if bind throws or max_nfe is negative.
template <class Recipe, class Models, writable_tensor X, elementwise_tensor A, elementwise_tensor B,
          class Observer = no_observer>
[[nodiscard]] two_ended_result sample_between(const Recipe& recipe, Models&& models, X&& x, const A& start,
                                              const B& end, std::span<const noise_level> levels,
                                              sample_options options = {}, Observer&& observer = {}) {
  auto stepper = recipe.bind(x, start, end, levels);
  two_ended_result result;
  result.reports.reserve(levels.size() - 1);
  const auto watch = [&](index_t i, const noise_level& level, const auto& z) {
    result.reports.push_back(stepper.report());
    return observer(i, level, z);
  };
  const sample_result run = sample_with(stepper, models, x, levels, options, watch);
  result.status = run.status;
  result.stats = run.stats;
  return result;
}

}  // namespace sluice
