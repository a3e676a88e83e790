#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/generate/model.hpp>
#include <sluice/generate/solver.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace sluice {

/// How the mixing coefficient runs over the N steps: c0; c0 i/(N - 1), the paper's shape; c0 (1 - i/(N - 1)). The first
/// step has nothing to mix: its coefficient is 0.
enum class mixing_ramp { flat, up, down };
/// Which earlier noise prediction is mixed in.
enum class earlier_prediction { previous, first };
/// Where the mixed value goes: into the solver's first-order term only, or into the differences and the history too.
enum class mixing { first_order, everywhere };

namespace detail {
/// Throws invalid_argument unless c is in [-0.5, 2]: below it averages the wrong way, above it only amplifies errors.
inline double checked_mixing(double c, const char* argument, index_t i = -1) {
  expects(c >= -0.5 && c <= 2, "dualfast", argument, c, i);
  return c;
}
}  // namespace detail

/// The coefficients of n steps. Throws invalid_argument unless n >= 1 and c0 is in [-0.5, 2].
inline std::vector<double> mixing_coefficients(index_t n, double c0, mixing_ramp ramp = mixing_ramp::flat) {
  expects(n >= 1, "mixing_coefficients", "n", n);
  detail::checked_mixing(c0, "c");
  std::vector<double> c(static_cast<std::size_t>(n), 0.0);
  for (index_t i = 1; i < n; ++i) {
    const double part = static_cast<double>(i) / static_cast<double>(n - 1);
    c[static_cast<std::size_t>(i)] = c0 * (ramp == mixing_ramp::flat ? 1 : ramp == mixing_ramp::up ? part : 1 - part);
  }
  return c;
}

/// The coefficients that make DDIM the second-order Adams-Bashforth method in kappa:
///     c_i = (kappa_{i+1} - kappa_i) / (2 (kappa_i - kappa_{i-1})).
inline std::vector<double> adams_bashforth_coefficients(std::span<const noise_level> levels) {
  expect_levels(levels, "adams_bashforth_coefficients");
  std::vector<double> c(levels.size() - 1, 0.0);
  for (std::size_t i = 1; i < c.size(); ++i)
    c[i] = (levels[i + 1].kappa() - levels[i].kappa()) / (2 * (levels[i].kappa() - levels[i - 1].kappa()));
  return c;
}

/// What `dualfast` uses for c0 with n steps of a recipe if nothing is said: 2/n, which keeps the order of second-order
/// solvers. Specialise it for recipes of another order: 1/2 for a first-order solver, 0 where mixing does harm.
template <class Recipe>
struct default_mixing {
  static double c(const Recipe&, index_t n) { return 2 / static_cast<double>(std::max<index_t>(n, 2)); }
};
template <class Noise>
struct ddim;
template <class Noise>
struct default_mixing<ddim<Noise>> {
  static double c(const ddim<Noise>&, index_t) { return 0.5; }
};
struct heun;
template <>
struct default_mixing<heun> {
  template <class R>
  static double c(const R& recipe, index_t n) {
    return recipe.order == 1 ? 0.5 : 2 / static_cast<double>(std::max<index_t>(n, 2));
  }
};
enum class third_order;
template <int Order, third_order Third>
struct dpm_multistep;
template <int Order, third_order Third>
struct default_mixing<dpm_multistep<Order, Third>> {
  static double c(const dpm_multistep<Order, Third>&, index_t n) {
    return Order == 1 ? 0.5 : Order == 2 ? 2 / static_cast<double>(std::max<index_t>(n, 2)) : 0.0;
  }
};
template <int Order>
struct unipc;
/// UniPC gains nothing above six steps, and loses.
template <int Order>
struct default_mixing<unipc<Order>> {
  static double c(const unipc<Order>&, index_t n) { return n <= 6 ? 1 / static_cast<double>(n) : 0.0; }
};

/// DualFast: extrapolates away from an earlier, noisier prediction, with no further model call. At step i, with the
/// newest noise prediction e_i and an earlier one e,
///     m_i = (1 + c_i) e_i - c_i e        enters the solver's first-order term; differences and history stay raw.
/// In the form of data: D_i - kappa_i c_i (e_i - e). Wraps any recipe, and is a recipe itself. With DDIM and
/// adams_bashforth_coefficients it is Adams-Bashforth 2 in kappa; with DDIM on a grid with even log-SNR and c = 1/2 it
/// is DPM-Solver-2M. On a solver of order p a coefficient that does not shrink like h^(p-1) makes it first order.
/// Independent errors of variance v in the predictions become ((1 + c)^2 + c^2) v: keep c small for noisy models.
/// bind allocates two tensors beside the solver's; stepping allocates nothing and makes two passes more.
/// Source: Yu et al. (arXiv:2506.13058). Differs: values of c are ours (the paper's tables were not at hand).
template <class Recipe, mixing Mode = mixing::first_order>
struct dualfast {
  Recipe recipe{};
  std::optional<double> c{};  ///< c0 in [-0.5, 2]; without it default_mixing<Recipe>
  mixing_ramp ramp = mixing_ramp::flat;
  earlier_prediction reference = earlier_prediction::previous;
  std::vector<double> coefficients{};  ///< one a step instead of c and ramp; the first counts as 0
  bool measure = false;                ///< keep |c (e_i - e)| / |e_i| of each step, which costs two reductions a step

  template <writable_tensor X>
  class stepper {
   public:
    stepper(const X& like, std::span<const noise_level> levels, const dualfast& options)
        : c_(coefficients_for(options, levels)),
          inner_(options.recipe.bind(like, levels)),
          keep_first_(options.reference == earlier_prediction::first),
          relative_(options.measure ? c_.size() : 0, 0.0),
          earlier_(zeros_like(like)),
          mixed_(zeros_like(like)) {
      if (options.measure) difference_ = zeros_like(like);
      if constexpr (Mode == mixing::everywhere) {
        std::int64_t calls = 0;
        for (index_t i = 0; i + 1 < std::ssize(levels); ++i) calls = std::max(calls, inner_.evaluations(i));
        expects(calls <= 1 || std::ssize(levels) <= 2, "dualfast", "recipe.evaluations", calls);
      }
    }
    stepper(stepper&&) = default;
    stepper& operator=(stepper&&) = default;

    template <model<X> M, class First = unchanged>
    void step(M& model, X& x, index_t i, First&& first = {}) {
      if constexpr (Mode == mixing::first_order) {
        auto mixed = [&](index_t k, const noise_level& l, const auto& z, const auto& raw,
                         auto& scratch) -> const auto& {
          return first(k, l, z, mix(k, l, z, raw, form()), scratch);
        };
        inner_.step(model, x, i, mixed);
      } else {
        // The model that the solver sees is the mixed one, so that its history is mixed too.
        auto mixed_model = [&](const auto& z, const noise_level& l, auto& out, predicts want) {
          model(z, l, out, want);
          const owner_t<X>& m = mix(i, l, z, out, want);
          if (&m != &out) lincomb(out, 1, m);
        };
        inner_.step(mixed_model, x, i, first);
      }
    }
    std::int64_t evaluations(index_t i) const { return inner_.evaluations(i); }
    predicts form() const { return inner_.form(); }
    void reset() {
      seen_ = 0;
      inner_.reset();
    }
    /// The coefficient of each step.
    const std::vector<double>& coefficients() const { return c_; }
    /// |c_i (e_i - e)| / |e_i| of each step made so far; empty unless measured.
    const std::vector<double>& relative_mixing() const { return relative_; }

    solver_state<owner_t<X>> state() const {
      auto s = inner_.state();
      s.counters.push_back(seen_);
      s.history.push_back(deep_copy(earlier_));
      return s;
    }
    void restore(solver_state<owner_t<X>> s) {
      seen_ = s.counters.back();
      s.counters.pop_back();
      lincomb(earlier_, 1, s.history.back());
      s.history.pop_back();
      inner_.restore(std::move(s));
    }

   private:
    static std::vector<double> coefficients_for(const dualfast& options, std::span<const noise_level> levels) {
      const index_t n = std::ssize(levels) - 1;
      expects(n >= 0, "dualfast", "levels.size", n + 1);
      if (!options.coefficients.empty()) {
        expects(std::ssize(options.coefficients) == n, "dualfast", "coefficients.size", options.coefficients.size());
        std::vector<double> list = options.coefficients;
        for (index_t i = 0; i < n; ++i) detail::checked_mixing(list[static_cast<std::size_t>(i)], "coefficients", i);
        list.front() = 0;
        return list;
      }
      if (n == 0) return {};
      return mixing_coefficients(n, options.c ? *options.c : default_mixing<Recipe>::c(options.recipe, n),
                                 options.ramp);
    }

    /// The prediction with the earlier one mixed in, `raw` itself where there is nothing to mix; remembers the noise.
    /// Noise is remembered, never data: kappa changes between the two evaluations.
    template <class Z>
    const owner_t<X>& mix(index_t i, const noise_level& l, const Z& z, const owner_t<X>& raw, predicts form) {
      const double weight = i < std::ssize(c_) ? c_[static_cast<std::size_t>(i)] : 0.0;
      const bool mixes = seen_ > 0 && weight != 0;
      const affine to = conversion(form, predicts::noise, l);
      if (mixes) {
        const double back = weight * conversion(predicts::noise, form, l).p;
        if (to.x == 0)
          lincomb(mixed_, 1 + back * to.p, raw, -back, earlier_);
        else
          lincomb(mixed_, 1 + back * to.p, raw, back * to.x, z, -back, earlier_);
        if (difference_) measure(i, to, weight / back, z, raw);
      }
      if (seen_ == 0 || !keep_first_) {
        if (to.x == 0)
          lincomb(earlier_, to.p, raw);
        else
          lincomb(earlier_, to.p, raw, to.x, z);
      }
      ++seen_;
      return mixes ? mixed_ : raw;
    }
    template <class Z>
    void measure(index_t i, const affine& to, double per_unit, const Z& z, const owner_t<X>& raw) {
      lincomb(*difference_, 1, mixed_, -1, raw);
      const double moved = static_cast<double>(norm(*difference_)) * std::abs(per_unit);
      lincomb(*difference_, to.p, raw, to.x, z);
      relative_[static_cast<std::size_t>(i)] = moved / static_cast<double>(norm(*difference_));
    }

    std::vector<double> c_;
    stepper_t<Recipe, X> inner_;
    bool keep_first_;
    std::vector<double> relative_;
    std::int64_t seen_ = 0;  // predictions so far
    owner_t<X> earlier_, mixed_;
    std::optional<owner_t<X>> difference_;
  };

  /// Throws invalid_argument if the wrapped recipe does, unless c is in [-0.5, 2] and there is one coefficient a step,
  /// or, with mixing::everywhere, if the recipe evaluates the model more than once in a step.
  template <writable_tensor X>
  stepper<X> bind(const X& like, std::span<const noise_level> levels) const {
    return {like, levels, *this};
  }
};

}  // namespace sluice
