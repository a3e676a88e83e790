#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/status.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/generate/model.hpp>
#include <sluice/generate/noise.hpp>
#include <sluice/generate/resize.hpp>
#include <sluice/generate/sample.hpp>
#include <sluice/generate/schedule.hpp>
#include <sluice/generate/solver.hpp>
#include <sluice/generate/time_grid.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

/// Bottleneck Sampling: the first steps at full resolution, the middle ones at a coarser one, the last ones at full
/// resolution again. The cost of an attention model grows with the square of the number of pixels, so a step at half
/// the resolution costs a sixteenth. Plans of any number of stages, with any whole factors: high-low-high, low-high
/// ("progressive"), a single stage, which is plain sampling.
///
/// Levels of a plan are told by the flow time u = sigma/(alpha + sigma), whatever the schedule; for a rectified flow it
/// is t. In it kappa = u/(1 - u), and multiplying kappa by s is the time shift S_s(u) = s u/(1 + (s - 1) u).
///
///   grid     of a stage from u0 to u1 with N steps and shift s:  S_s at N + 1 even points from S_{1/s}(u0) to
///   S_{1/s}(u1) down     the average of f x f pixels divides white noise by f:  kappa' = kappa/f, u' = S_{1/f}(u),
///                x' = (alpha'/alpha) average(x):  exactly a noisy coarse image; no model call, no fresh noise
///   up       copies of the pixels have noise that is constant in blocks; noise without block averages completes it:
///                kappa' = f kappa, u' = S_f(u),  x' = (alpha'/alpha) copies(x) + sigma' (xi - copies(average(xi)))
///            exactly a noisy version of copies(data) at u', with the least added noise; down(up(x)) = x
///
/// Sources: Tian et al. (arXiv:2503.18940) for the stages, their grids and the transition `renoise_transition`; Jeong
/// et al. (arXiv:2507.08422) for noise that matches on the way up, of which `exact_transition` is the case of least
/// noise. Differs: the exact transition is the default; the sources' numbers of steps are used with levels found by a
/// sweep on closed-form models; any schedule, by kappa; any plan.
namespace sluice {

/// u = sigma/(alpha + sigma), in [0, 1]: the time of a rectified flow with the same kappa.
inline double flow_time(const noise_level& l) { return l.sigma / (l.alpha + l.sigma); }

/// The level with this flow time. u = 0 is clean data in every schedule; u = 1 is noise alone, which of the schedules
/// here only the rectified flow has. Throws invalid_argument unless u is in [0, 1], or if the schedule does not reach
/// it.
template <schedule S>
noise_level level_at_flow_time(const S& s, double u) {
  expects(u >= 0 && u <= 1, "level_at_flow_time", "u", u);
  if constexpr (std::same_as<S, rectified_flow>) {
    return s.at(u);
  } else {
    if (u == 0) return {0, 1, 0};
    return level_at_kappa(s, u / (1 - u));
  }
}

/// The n + 1 flow times of a stage, from `from` down to `to`, both exact. A larger shift spends more steps at high
/// noise. Throws invalid_argument unless n >= 1, 0 <= to < from <= 1 and shift > 0 is finite.
inline std::vector<double> stage_times(index_t n, double shift, double from, double to) {
  expects(from <= 1, "stage_times", "from", from);
  expects(to >= 0 && to < from, "stage_times", "to", to);
  std::vector<double> u = shifted_times(n, shift, time_shift(from, 1 / shift), time_shift(to, 1 / shift));
  u.front() = from;
  u.back() = to;
  return u;
}

/// One stage of a plan.
struct bottleneck_stage {
  index_t factor = 1;  ///< height and width of the result over those of this stage; 1 is full resolution
  index_t steps = 1;   ///< solver steps. 0 only in stages in front: they are left out
  double shift = 1;    ///< of the grid. Rule: proportional to the square root of the number of pixels
  double end = 0;      ///< flow time at which the stage ends; less than that at which it starts
};

/// High, low, high: the paper's plan, with the defaults of exact_transition. For renoise_transition ends 0.8 and 0.2.
inline std::vector<bottleneck_stage> high_low_high(std::array<index_t, 3> steps = {4, 12, 5}, double first_end = 0.9,
                                                   double second_end = 0.4, index_t factor = 2, double shift = 3) {
  return {{1, steps[0], shift, first_end},
          {factor, steps[1], shift / static_cast<double>(factor), second_end},
          {1, steps[2], shift, 0}};
}
/// Low, high: starts at the coarse resolution.
inline std::vector<bottleneck_stage> low_high(std::array<index_t, 2> steps = {16, 9}, double first_end = 0.4,
                                              index_t factor = 2, double shift = 3) {
  return {{factor, steps[0], shift / static_cast<double>(factor), first_end}, {1, steps[1], shift, 0}};
}

/// One call at a coarser resolution in calls at full resolution: p/f^4 + (1 - p)/f^2, where p is the part of a call's
/// cost that is quadratic in the number of pixels, the rest being linear. Throws invalid_argument unless factor >= 1
/// and p is in [0, 1].
inline double call_cost(index_t factor, double p = 1) {
  expects(factor >= 1, "call_cost", "factor", factor);
  expects(p >= 0 && p <= 1, "call_cost", "p", p);
  const double area = static_cast<double>(factor * factor);
  return p / (area * area) + (1 - p) / area;
}

/// What a stage cost.
struct stage_report {
  index_t factor = 1;
  std::int64_t steps = 0, calls = 0;  ///< completed steps; model calls, that for the transition out of it included
  double seconds = 0;                 ///< of the steps and that call
  double transition_seconds = 0;      ///< of what made its first state: the transition, or the starting noise
  noise_level first{}, last{};        ///< where it started, and how far it has come
};

/// The work of some stages in calls at full resolution.
inline double full_call_equivalents(std::span<const stage_report> stages, double p = 1) {
  double sum = 0;
  for (const stage_report& s : stages) sum += static_cast<double>(s.calls) * call_cost(s.factor, p);
  return sum;
}
/// The same for a plan, with one call a step and `extra` calls for each transition. Throws as call_cost.
inline double full_call_equivalents(std::span<const bottleneck_stage> stages, double p = 1, index_t extra = 0) {
  double sum = 0;
  for (std::size_t i = 0; i < stages.size(); ++i)
    if (stages[i].steps > 0)
      sum +=
          static_cast<double>(stages[i].steps + (i + 1 < stages.size() ? extra : 0)) * call_cost(stages[i].factor, p);
  return sum;
}

/// stats.stopped: step inside the stage, index = stage.
struct bottleneck_result {
  sluice::status status = sluice::status::completed;
  sample_stats stats;
  std::vector<stage_report> stages;

  /// Model calls and seconds at one resolution; transitions are counted where they lead to.
  std::int64_t calls(index_t factor) const {
    std::int64_t n = 0;
    for (const stage_report& s : stages) n += s.factor == factor ? s.calls : 0;
    return n;
  }
  double seconds(index_t factor) const {
    double t = 0;
    for (const stage_report& s : stages) t += s.factor == factor ? s.seconds + s.transition_seconds : 0;
    return t;
  }
  double transition_seconds() const {
    double t = 0;
    for (const stage_report& s : stages) t += s.transition_seconds;
    return t;
  }
};

// Transitions. A policy T has
//   static constexpr data_source needs    whether it needs E[data | x] at the end of the stage, and from where
//   double restart(const stage_boundary&)  the flow time at which the next stage starts; throws for bad options
//   auto bind<S>(const stage_change&)      a callable (to, from, data, scratch, draw) that writes the next stage's
//   state:
//                                          `to` and `scratch` have the next shape, `from` and `data` the last one;
//                                          draw(to) fills it with unit normals. If the factor stays, `to` is `from` and
//                                          `scratch` may be `data`.

/// none: not needed; call: one more model call; last_step: the one from which the last step started, at no cost.
enum class data_source { none, call, last_step };
/// What a transition knows when the plan is made.
struct stage_boundary {
  index_t index = 0, count = 0;  ///< between stages `index` and `index` + 1, of `count` boundaries
  double end = 0;                ///< flow time at the end of the stage
  index_t from = 1, to = 1;      ///< factors
};
/// And when the levels and shapes are known.
struct stage_change {
  image_shape from_shape, to_shape;
  index_t from_factor = 1, to_factor = 1;
  noise_level from, to;
};

namespace detail {
inline bool shrinks(index_t from, index_t to) { return to > from; }
/// The whole ratio of two factors. Throws invalid_argument if it is not whole.
inline index_t whole_ratio(const char* function, index_t from, index_t to, index_t boundary) {
  const index_t large = std::max(from, to), small = std::min(from, to);
  expects(large % small == 0, function, "stages.factor", to, boundary + 1);
  return large / small;
}
}  // namespace detail

/// The transition that keeps the law: averages on the way down, copies with completed noise on the way up, nothing if
/// the resolution stays. No model call; O(n); fresh noise only on the way up.
///
/// `residual` = c in (0, 1/f^2] chooses the noise on the way up: the copies' noise is c of the whole,
///     kappa' = kappa/sqrt(c),  x' = (alpha'/alpha) copies(x) + sigma' (xi - q copies(average(xi))),  q = 1 - sqrt(1 -
///     c f^2),
/// noise of covariance I - c Sigma, Sigma = blocks of ones, added to c Sigma. 0 stands for 1/f^2, the least added noise
/// and q = 1; smaller c restart at a higher level (Jeong et al. use 0.018 to 0.059).
struct exact_transition {
  double residual = 0;
  static constexpr data_source needs = data_source::none;

  double restart(const stage_boundary& b) const {
    const index_t f = detail::whole_ratio("exact_transition", b.from, b.to, b.index);
    if (f == 1) return b.end;
    if (detail::shrinks(b.from, b.to)) return time_shift(b.end, 1 / static_cast<double>(f));
    const double most = 1 / static_cast<double>(f * f);
    expects(residual == 0 || (residual > 0 && residual <= most), "exact_transition", "residual", residual);
    return time_shift(b.end, residual == 0 ? static_cast<double>(f) : 1 / std::sqrt(residual));
  }
  template <class S>
  auto bind(const stage_change& c) const {
    const double factor = static_cast<double>(c.from_factor) / static_cast<double>(c.to_factor);
    const double q = residual == 0 ? 1 : 1 - std::sqrt(std::max(0.0, 1 - residual * factor * factor));
    return [c, q](auto& to, const auto& from, const auto&, auto&, auto&& draw) {
      if (c.from_factor == c.to_factor) return;
      const double gain = c.to.alpha / c.from.alpha;
      if (detail::shrinks(c.from_factor, c.to_factor)) {
        pool_blocks(to, from, c.from_shape, c.to_factor / c.from_factor, gain);
      } else {
        draw(to);
        enlarge_with_noise(to, from, c.to_shape, c.from_factor / c.to_factor, gain, c.to.sigma, q);
      }
    };
  }
};

/// The paper's transition: the clean estimate D = E[data | x] is resized, and noise is added again at the level tau:
///     x' = alpha' resize(D) + sigma' xi.
/// D is one more call of the model at the stage's resolution, or with data_source::last_step what the last step
/// started from. Anything may be interpolated but a noisy state, whose noise would not be white. tau[i] is the flow
/// time at which stage i + 1 starts, in [end of stage i, 1); on the way up at least S_f(end) keeps what a coarse image
/// cannot know under noise.
template <resize_kernel Kernel = lanczos3_kernel, data_source Data = data_source::call>
struct renoise_transition {
  static_assert(Data != data_source::none, "renoise_transition needs an estimate of the data");
  std::vector<double> tau{0.9, 0.5};
  Kernel kernel{};
  static constexpr data_source needs = Data;

  double restart(const stage_boundary& b) const {
    expects(std::ssize(tau) == b.count, "renoise_transition", "tau.size", tau.size());
    const double u = tau[static_cast<std::size_t>(b.index)];
    expects(u >= b.end && u < 1, "renoise_transition", "tau", u, b.index);
    return u;
  }
  template <class S>
  auto bind(const stage_change& c) const {
    return [c, resize = image_resizer<S>(c.from_shape, c.to_shape, kernel)](auto& to, const auto&, const auto& data,
                                                                            auto& scratch, auto&& draw) mutable {
      draw(to);
      if (c.from_factor == c.to_factor) return scale_add(to, c.to.sigma, c.to.alpha, data);
      resize(scratch, data);
      scale_add(to, c.to.sigma, c.to.alpha, scratch);
    };
  }
};

template <class T>
concept stage_transition = std::copyable<T> && requires(const T& t, const stage_boundary& b, const stage_change& c) {
  { T::needs } -> std::convertible_to<data_source>;
  { t.restart(b) } -> std::convertible_to<double>;
  t.template bind<double>(c);
};

/// Models by resolution, one for each factor of a plan. Made by by_factor.
template <class Factors, class... M>
struct factor_models;
template <index_t... Factor, class... M>
requires(sizeof...(Factor) == sizeof...(M)) struct factor_models<std::integer_sequence<index_t, Factor...>, M...> {
  std::tuple<M...> models;
  static constexpr bool has(index_t factor) { return (... || (factor == Factor)); }
  /// f(model) with the model of this factor, which must be there.
  template <class F>
  void visit(index_t factor, F&& f) {
    std::apply([&](auto&... m) { static_cast<void>((... || (factor == Factor && (f(m), true)))); }, models);
  }
};
/// by_factor<1, 2>(high, low): the model of full resolution and that of half of it. Models are copied or moved in; pass
/// std::ref(model) to keep one outside.
template <index_t... Factor, class... M>
auto by_factor(M... models) {
  return factor_models<std::integer_sequence<index_t, Factor...>, M...>{{std::move(models)...}};
}

namespace detail {
template <class T>
inline constexpr bool is_factor_models = false;
template <class F, class... M>
inline constexpr bool is_factor_models<factor_models<F, M...>> = true;

template <class T, class O>
struct all_models : std::bool_constant<model<T, O>> {};
template <class F, class... M, class O>
struct all_models<factor_models<F, M...>, O> : std::bool_constant<(... && model<M, O>)> {};

template <class Models, class F>
void with_model(Models& models, index_t factor, F&& f) {
  if constexpr (is_factor_models<Models>)
    models.visit(factor, f);
  else
    f(models);
}

/// Counts calls. A result of another size than the state becomes NaN in the state's size: what follows could not read
/// it.
template <class M>
struct watched_model {
  M& inner;
  std::int64_t& calls;
  template <class X, class O>
  void operator()(const X& x, const noise_level& level, O& out, predicts want) {
    ++calls;
    inner(x, level, out, want);
    if (traits_of<O>::size(out) != traits_of<X>::size(x)) [[unlikely]] {
      out = zeros_like(x);
      scale_add(out, std::numeric_limits<double>::quiet_NaN());
    }
  }
};

/// The recipe of a stage: a recipe is the same in all of them, a function of the stage's index gives each its own.
template <class R>
auto recipe_of_stage(const R& recipe, index_t stage) {
  if constexpr (std::invocable<const R&, index_t>)
    return recipe(stage);
  else
    return recipe;
}
template <class R>
using stage_recipe_t = decltype(recipe_of_stage(std::declval<const R&>(), index_t{}));

template <class O>
step_noise noise_of(const stream& key) {
  return {key, 0};
}
template <class O, noise_source<O> N>
const N& noise_of(const N& noise) {
  return noise;
}
}  // namespace detail

/// One model for all resolutions, which tells them apart by the size of its state, or factor_models.
template <class M, class O>
concept models_of_all_stages = detail::all_models<M, O>::value;

/// Sees nothing and stops nothing.
struct no_stage_observer {
  template <class X>
  bool operator()(index_t, index_t, const noise_level&, const X&) const {
    return true;
  }
};

/// A plan that is bound to a shape: grids, solvers, resizers and states are there, so a run allocates nothing (unless a
/// model does). Made by bottleneck::bind. A run may be repeated; one object a thread.
template <class Recipe, class Transition, class Schedule, class Clock, class O>
class bottleneck_sampler {
  using scalar = scalar_t<O>;
  using stepper_type = stepper_t<detail::stage_recipe_t<Recipe>, O>;
  using change_type = decltype(std::declval<const Transition&>().template bind<scalar>(stage_change{}));

 public:
  template <class Options, image_tensor X>
  bottleneck_sampler(const Options& options, const X& like) : shape_(shape_of(options.image, like)) {
    expects(image_traits<X>::fits(like, shape_), "bottleneck", "like.size", size(like));
    const auto& plan = options.stages;
    const index_t k = std::ssize(plan);
    expects(k >= 1, "bottleneck", "stages.size", k);
    expects(options.start > 0 && options.start <= 1, "bottleneck", "start", options.start);
    while (skipped_ + 1 < k && plan[static_cast<std::size_t>(skipped_)].steps == 0) ++skipped_;
    expects(plan.back().factor == 1, "bottleneck", "stages.factor", plan.back().factor, k - 1);

    double from = options.start;
    for (index_t i = 0; i < k; ++i) {
      const bottleneck_stage& s = plan[static_cast<std::size_t>(i)];
      expects(s.factor >= 1 && shape_.height % s.factor == 0 && shape_.width % s.factor == 0, "bottleneck",
              "stages.factor", s.factor, i);
      result_.stages.push_back({.factor = s.factor});
      stages_.emplace_back();
      if (i < skipped_) continue;
      expects(s.steps >= 1, "bottleneck", "stages.steps", s.steps, i);
      expects(s.shift > 0 && std::isfinite(s.shift), "bottleneck", "stages.shift", s.shift, i);
      const bool last = i + 1 == k;
      expects((last ? s.end >= 0 : s.end > 0) && s.end < from, "bottleneck", "stages.end", s.end, i);
      bound_stage& here = stages_.back();
      for (const double u : stage_times(s.steps, s.shift, from, s.end))
        here.levels.push_back(level_at_flow_time(options.schedule, u));
      if (!last) {
        const index_t to = plan[static_cast<std::size_t>(i + 1)].factor;
        expects(to >= 1, "bottleneck", "stages.factor", to, i + 1);
        from = options.transition.restart({.index = i, .count = k - 1, .end = s.end, .from = s.factor, .to = to});
        expects(from > 0 && from <= 1, "bottleneck", "transition.restart", from, i);
      }
    }
    resolutions_.reserve(stages_.size());
    for (index_t i = skipped_; i < k; ++i) {
      bound_stage& here = stages_[static_cast<std::size_t>(i)];
      here.place = place_of(like, plan[static_cast<std::size_t>(i)].factor);
      here.stepper.emplace(detail::recipe_of_stage(options.recipe, i)
                               .bind(resolutions_[here.place].state, std::span<const noise_level>(here.levels)));
    }
    for (index_t i = skipped_; i + 1 < k; ++i) {
      bound_stage &here = stages_[static_cast<std::size_t>(i)], &next = stages_[static_cast<std::size_t>(i + 1)];
      const auto &a = resolutions_[here.place], &b = resolutions_[next.place];
      here.change.emplace(options.transition.template bind<scalar>(
          {a.shape, b.shape, a.factor, b.factor, here.levels.back(), next.levels.front()}));
    }
  }
  bottleneck_sampler(bottleneck_sampler&&) = default;  // move-only: a copied tensor may share storage
  bottleneck_sampler& operator=(bottleneck_sampler&&) = default;

  /// Levels of stage i; none if it is left out.
  std::span<const noise_level> levels(index_t stage) const { return stages_[static_cast<std::size_t>(stage)].levels; }

  /// Draws a sample into x, which is only written; see `sample`. The result stays valid until the next run.
  template <class Models, image_tensor X, class Noise, class Observer = no_stage_observer>
  requires models_of_all_stages<std::remove_cvref_t<Models>, O> && writable_tensor<X> &&
      (std::same_as<Noise, stream> || noise_source<Noise, O>) const bottleneck_result&
      operator()(Models&& models, X&& x, sample_options options, const Noise& noise, Observer&& observer = {}) {
    expects(image_traits<std::remove_cvref_t<X>>::fits(x, shape_), "bottleneck", "x.size", size(x));
    expects(image_traits<std::remove_cvref_t<X>>::samples(x) == image_traits<O>::samples(resolutions_[0].state),
            "bottleneck", "x.samples", image_traits<std::remove_cvref_t<X>>::samples(x));
    expects(options.max_nfe >= 0, "bottleneck", "options.max_nfe", options.max_nfe);
    for (index_t i = skipped_; i < std::ssize(stages_); ++i)
      if constexpr (detail::is_factor_models<std::remove_cvref_t<Models>>)
        expects(models.has(result_.stages[static_cast<std::size_t>(i)].factor), "bottleneck", "models.factor",
                result_.stages[static_cast<std::size_t>(i)].factor, i);

    const auto& draws = detail::noise_of<O>(noise);
    result_.status = status::completed;
    result_.stats = {};
    for (index_t i = 0; i < std::ssize(stages_); ++i) {
      const bound_stage& here = stages_[static_cast<std::size_t>(i)];
      const index_t factor = result_.stages[static_cast<std::size_t>(i)].factor;
      result_.stages[static_cast<std::size_t>(i)] = {.factor = factor};
      if (here.levels.empty()) continue;
      result_.stages[static_cast<std::size_t>(i)].first = here.levels.front();
      result_.stages[static_cast<std::size_t>(i)].last = here.levels.front();
    }
    for (index_t i = skipped_; i < std::ssize(stages_); ++i) {
      bool done = false;
      detail::with_model(models, result_.stages[static_cast<std::size_t>(i)].factor,
                         [&](auto& model) { done = run_stage(i, model, options, draws, observer); });
      const resolution& here = resolutions_[stages_[static_cast<std::size_t>(i)].place];
      if (done && i + 1 < std::ssize(stages_)) continue;
      if (here.factor == 1)
        lincomb(x, 1, here.state);
      else
        copy_blocks(x, here.state, shape_, here.factor);
      break;
    }
    return result_;
  }

 private:
  struct resolution {
    index_t factor;
    image_shape shape;
    O state, good;          // good: the state to go back to; between stages, scratch
    std::optional<O> data;  // what the last step started from
  };
  struct bound_stage {
    std::vector<noise_level> levels;
    std::size_t place = 0;  // of its resolution
    std::optional<stepper_type> stepper;
    std::optional<change_type> change;  // to the next stage
  };

  template <class X>
  static image_shape shape_of(const image_shape& given, const X& like) {
    image_shape s = given;
    if constexpr (requires { image_traits<X>::shape(like); })
      if (given == image_shape{}) s = image_traits<X>::shape(like);
    expects(s.channels >= 1, "bottleneck", "image.channels", s.channels);
    expects(s.height >= 1, "bottleneck", "image.height", s.height);
    expects(s.width >= 1, "bottleneck", "image.width", s.width);
    return s;
  }
  template <class X>
  std::size_t place_of(const X& like, index_t factor) {
    for (std::size_t p = 0; p < resolutions_.size(); ++p)
      if (resolutions_[p].factor == factor) return p;
    const image_shape s = coarser(shape_, factor);
    resolutions_.push_back({factor, s, zeros_of_shape(like, s), zeros_of_shape(like, s), std::nullopt});
    if constexpr (Transition::needs == data_source::last_step) resolutions_.back().data = zeros_of_shape(like, s);
    return resolutions_.size() - 1;
  }
  static double seconds_since(typename Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  }
  bool stop(status why, index_t stage, index_t step) {
    result_.status = why;
    result_.stats.stopped = {step, stage};
    return false;
  }

  /// Runs stage i and the transition out of it; false if the run stops here.
  template <class M, class Draws, class Observer>
  bool run_stage(index_t i, M& model, const sample_options& options, const Draws& draws, Observer& observer) {
    bound_stage& here = stages_[static_cast<std::size_t>(i)];
    stage_report& report = result_.stages[static_cast<std::size_t>(i)];
    resolution& r = resolutions_[here.place];
    detail::watched_model<M> watched{model, report.calls};
    const auto start = Clock::now();
    if (i == skipped_) {
      draws(r.state, 0, here.levels.front(), here.levels.front());
      if (here.levels.front().sigma != 1) scale_add(r.state, here.levels.front().sigma);
      report.transition_seconds = seconds_since(start);
    }
    const auto begin = Clock::now();
    const std::int64_t earlier = result_.stats.nfe;
    const bool done = run_steps(i, watched, options, observer);
    result_.stats.nfe = earlier + report.calls;
    bool good = done;
    const O* data = nullptr;
    if (done && here.change) {
      if constexpr (Transition::needs == data_source::last_step) data = &*r.data;
      if constexpr (Transition::needs == data_source::call) {
        if (result_.stats.nfe + 1 > options.max_nfe) {
          good = stop(status::budget_exhausted, i, report.steps);
        } else {
          watched(std::as_const(r.state), here.levels.back(), r.good, predicts::data);
          ++result_.stats.nfe;
          data = &r.good;
        }
      }
      if (data != nullptr && !std::isfinite(norm(*data))) good = stop(status::diverged, i, report.steps);
    }
    report.seconds = seconds_since(begin);
    if (!good || !here.change) return good;

    const auto middle = Clock::now();
    const bound_stage& next = stages_[static_cast<std::size_t>(i + 1)];
    resolution& to = resolutions_[next.place];
    (*here.change)(to.state, std::as_const(r.state), data == nullptr ? std::as_const(r.good) : *data, to.good,
                   [&](O& out) { draws(out, i + 1, here.levels.back(), next.levels.front()); });
    result_.stages[static_cast<std::size_t>(i + 1)].transition_seconds = seconds_since(middle);
    return true;
  }

  template <class M, class Observer>
  bool run_steps(index_t i, M& model, const sample_options& options, Observer& observer) {
    bound_stage& here = stages_[static_cast<std::size_t>(i)];
    stage_report& report = result_.stages[static_cast<std::size_t>(i)];
    resolution& r = resolutions_[here.place];
    const std::int64_t earlier = result_.stats.nfe;
    here.stepper->reset();
    if (!observer(i, index_t{0}, here.levels.front(), std::as_const(r.state)))
      return stop(status::stopped_by_observer, i, 0);
    for (index_t n = 0; n + 1 < std::ssize(here.levels); ++n) {
      if (earlier + report.calls + here.stepper->evaluations(n) > options.max_nfe)
        return stop(status::budget_exhausted, i, n);
      lincomb(r.good, 1, r.state);
      bool stepped = false;
      if constexpr (Transition::needs == data_source::last_step) {
        if (here.change && n + 2 == std::ssize(here.levels)) {
          here.stepper->step(
              model, r.state,
              n, [&](index_t, const noise_level& l, const auto& z, const auto& raw, auto&) -> const auto& {
                const affine k = conversion(here.stepper->form(), predicts::data, l);
                lincomb(*r.data, k.x, z, k.p, raw);
                return raw;
              });
          stepped = true;
        }
      }
      if (!stepped) here.stepper->step(model, r.state, n);
      if (!std::isfinite(norm(r.state))) {
        lincomb(r.state, 1, r.good);
        return stop(status::diverged, i, n);
      }
      ++report.steps;
      ++result_.stats.steps;
      report.last = here.levels[static_cast<std::size_t>(n + 1)];
      if (!observer(i, n + 1, report.last, std::as_const(r.state))) return stop(status::stopped_by_observer, i, n);
    }
    return true;
  }

  image_shape shape_;
  index_t skipped_ = 0;  // stages in front that are left out
  std::vector<bound_stage> stages_;
  std::vector<resolution> resolutions_;
  bottleneck_result result_;
};

/// A plan over any recipe: bottleneck<unipc<2>>, bottleneck<dualfast<unipc<2>>>. Each stage binds the recipe to its own
/// shape and grid, so no history crosses a transition. Recipe may also be a function of the stage's index that returns
/// a recipe: use it for stochastic solvers, whose noise is keyed by the step and would repeat from stage to stage.
/// A plan that starts at flow time 1 (noise alone) needs a solver that can: those that predict data.
template <class Recipe, stage_transition Transition = exact_transition, schedule Schedule = rectified_flow,
          class Clock = std::chrono::steady_clock>
struct bottleneck {
  Recipe recipe{};
  image_shape image{};  ///< of the result; may be left out if the tensor has axes
  std::vector<bottleneck_stage> stages = high_low_high();
  Transition transition{};
  double start = 1;  ///< flow time at which the first stage starts
  Schedule schedule{};

  /// `like` gives the shape of the result only. Allocates for each resolution two states, and each stage's solver.
  /// Throws invalid_argument, with the stage as index, unless there is a stage, the last one has factor 1, height and
  /// width are multiples of each factor, steps are at least 1 (0 in front), shifts positive, each end less than the
  /// start of its stage and, but for the last, positive, and as restart of the transition and bind of the recipe do.
  template <image_tensor X>
  auto bind(const X& like) const {
    return bottleneck_sampler<Recipe, Transition, Schedule, Clock, owner_t<X>>(*this, like);
  }
};

/// Draws a sample into x by a plan: x is only written, its shape read. `models` is one model for all resolutions or
/// by_factor<1, 2>(high, low); it sees states of type owner_t<X>. `noise` is a stream or a noise source: source(out, 0,
/// ...) is the starting noise, source(out, i, ...) that of the transition into stage i (stages are counted from 0).
/// From a stream it is step_noise: sample j, noise i, element e is normal_at(key.derive(j).derive(i), e), so results do
/// not depend on the batch. With one stage the result is that of the solver alone on the same start and grid, to the
/// bit.
///
/// Stops before the step or call that would exceed max_nfe. If a step leaves the state without a finite norm, or the
/// model's estimate for a transition is not finite, the result is `diverged` with stage and step, and x is the last
/// finite state, enlarged by copies if its stage is coarse; stages[i].last is its level. A result of the model that has
/// another size than the state counts as not finite. Throws invalid_argument as bind does, x unchanged.
template <class R, class T, class S, class C, class Models, image_tensor X, class Noise>
[[nodiscard]] bottleneck_result sample(const bottleneck<R, T, S, C>& plan, Models&& models, X&& x,
                                       sample_options options, const Noise& noise) {
  auto sampler = plan.bind(x);
  return sampler(models, x, options, noise);
}

}  // namespace sluice
