#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/generate/model.hpp>

#include <cmath>
#include <concepts>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

/// What a solver is: a recipe, which is a value without a tensor type, and a stepper, which `recipe.bind(like, levels)`
/// makes for one shape and one grid. Recipes nest; steppers own their history and are move-only, since a copied tensor
/// may share storage. A fork binds again and restores the state.
namespace sluice {

/// The hook of a step that changes nothing. A hook `first(i, level, x, raw, scratch)` returns what enters the solver's
/// first-order term: `raw`, `scratch` (storage of the stepper), or storage of its own. It is called once for each
/// evaluation that a step starts from, with the state of that evaluation, never for inner stages; differences and
/// history stay raw.
struct unchanged {
  template <class X, class O>
  const O& operator()(index_t, const noise_level&, const X&, const O& raw, O&) const {
    return raw;
  }
};

/// What a stepper remembers between steps, as plain values: save it, restore it in a stepper of the same recipe, shape
/// and grid, and the run goes on to the bit. A wrapper appends its own and takes it off again.
template <class O>
struct solver_state {
  std::vector<std::int64_t> counters;
  std::vector<O> history;
};

/// A stepper for states of type X under a model of type M.
template <class S, class X, class M>
concept stepper_for = !std::copyable<S> && requires(S & s, M& model, X& x, index_t i) {
  s.step(model, x, i, unchanged{});                    // from levels[i] to levels[i + 1]; the hook may be left out
  { s.evaluations(i) } -> std::same_as<std::int64_t>;  // what step(i) costs if called now
  { s.form() } -> std::same_as<predicts>;              // the form in which the hook sees predictions
  s.reset();                                           // forgets the history, keeps the storage
  s.restore(s.state());
};

/// The stepper that a recipe makes for states of type X.
template <class Recipe, class X>
using stepper_t =
    decltype(std::declval<const Recipe&>().bind(std::declval<const X&>(), std::span<const noise_level>{}));

/// A recipe that makes steppers for states of type X under a model of type M.
template <class R, class X, class M>
concept recipe_for = std::copyable<R> && stepper_for<stepper_t<R, X>, X, M>;

/// Checks a grid: there is a level, every alpha and sigma is finite and not negative, kappa falls strictly. It may end
/// at sigma = 0. It may begin at alpha = 0 if the solver's first step allows it. Throws invalid_argument.
inline void expect_levels(std::span<const noise_level> levels, const char* function, bool alpha_may_be_zero = false) {
  expects(!levels.empty(), function, "levels.size", levels.size());
  for (index_t i = 0; i < std::ssize(levels); ++i) {
    const noise_level& l = levels[static_cast<std::size_t>(i)];
    const bool zero_allowed = alpha_may_be_zero && i == 0 && l.sigma > 0;
    expects(std::isfinite(l.alpha) && (l.alpha > 0 || (l.alpha == 0 && zero_allowed)), function, "levels.alpha",
            l.alpha, i);
    expects(std::isfinite(l.sigma) && l.sigma >= 0, function, "levels.sigma", l.sigma, i);
    expects(i == 0 || l.kappa() < levels[static_cast<std::size_t>(i - 1)].kappa(), function, "levels.kappa", l.kappa(),
            i);
  }
}

}  // namespace sluice
