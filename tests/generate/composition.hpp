#pragma once
#include <sluice/core/eigen_tensor.hpp>
#include <sluice/generate/churn.hpp>
#include <sluice/generate/ddim.hpp>
#include <sluice/generate/deis.hpp>
#include <sluice/generate/dpm_solver.hpp>
#include <sluice/generate/dualfast.hpp>
#include <sluice/generate/euler.hpp>
#include <sluice/generate/guidance.hpp>
#include <sluice/generate/heun.hpp>
#include <sluice/generate/sample.hpp>
#include <sluice/generate/schedule.hpp>
#include <sluice/generate/time_grid.hpp>
#include <sluice/generate/unipc.hpp>

#include <Eigen/Core>
#include <catch2/catch.hpp>
#include <cmath>
#include <concepts>
#include <memory>
#include <span>
#include <string>
#include <support/allocation_counter.hpp>
#include <type_traits>
#include <vector>

/// Every solver under every accelerator on every kind of tensor, on data whose flow is known: N(0, v I), for which the
/// model is one multiplication and the flow from one level to another too.
namespace composition {

using namespace sluice;

/// E[data | x] of N(0, variance I), on anything that is a tensor.
struct gaussian {
  double variance = 0.25;
  double gain(const noise_level& l) const {
    return l.alpha * variance / (l.alpha * l.alpha * variance + l.sigma * l.sigma);
  }
  double flow(const noise_level& from, const noise_level& to) const {
    return std::sqrt((to.alpha * to.alpha * variance + to.sigma * to.sigma) /
                     (from.alpha * from.alpha * variance + from.sigma * from.sigma));
  }
  template <class X, class O>
  void operator()(const X& x, const noise_level& l, O& out) const {
    lincomb(out, gain(l), x);
  }
};
inline auto model_of(double variance = 0.25) { return prediction<predicts::data>(gaussian{variance}); }

/// The flow itself as a recipe without error: what the others converge to, also inside an accelerator.
struct exact_flow {
  gaussian data{};
  template <writable_tensor X>
  class stepper {
   public:
    stepper(std::span<const noise_level> levels, const gaussian& data)
        : levels_(levels.begin(), levels.end()), data_(data) {}
    stepper(stepper&&) = default;
    stepper& operator=(stepper&&) = default;
    template <model<X> M, class First = unchanged>
    void step(M& model, X& x, index_t i, First&& first = {}) {
      step_between(model, x, i, levels_[static_cast<std::size_t>(i)], levels_[static_cast<std::size_t>(i + 1)], first);
    }
    template <model<X> M, class First = unchanged>
    void step_between(M&, X& x, index_t, const noise_level& s, const noise_level& t, First&& = {}) {
      scale_add(x, data_.flow(s, t));
    }
    std::int64_t evaluations(index_t) const { return 0; }
    predicts form() const { return predicts::data; }
    void reset() {}
    solver_state<owner_t<X>> state() const { return {}; }
    void restore(const solver_state<owner_t<X>>&) {}

   private:
    std::vector<noise_level> levels_;
    gaussian data_;
    std::unique_ptr<int> move_only_;
  };
  template <writable_tensor X>
  stepper<X> bind(const X&, std::span<const noise_level> levels) const {
    return {levels, data};
  }
};

/// A solver with the order that it must show; `history` tells multi-step methods from those whose steps stand alone.
template <class Recipe>
struct entry {
  const char* name;
  Recipe recipe;
  double order;
  bool history = false;
};

/// Calls f(entry) for every solver, bound to levels of this schedule. Final steps of low order are off where there is
/// such a switch: they limit the order by intent.
template <schedule S, class F>
void for_each_solver(const S& s, F&& f) {
  f(entry<euler<S>>{"euler", {s}, 1});
  f(entry<ddim<>>{"ddim", {}, 1});
  f(entry<euler_ancestral<>>{"euler_ancestral, eta 0", {.eta = 0}, 1});
  f(entry<heun>{"heun", {}, 2});
  f(entry<dpm_singlestep<2, S>>{"dpm_singlestep 2, data", {.schedule = s}, 2});
  f(entry<dpm_singlestep<2, S>>{"dpm_singlestep 2, noise", {.schedule = s, .form = predicts::noise}, 2});
  f(entry<dpm_singlestep<3, S>>{"dpm_singlestep 3, data", {.schedule = s}, 3});
  f(entry<dpm_singlestep<3, S>>{"dpm_singlestep 3, noise", {.schedule = s, .form = predicts::noise}, 3});
  f(entry<dpm_multistep<1>>{"dpm_multistep 1", {.lower_order_final = false}, 1, true});
  f(entry<dpm_multistep<2>>{"dpm_multistep 2, data", {.lower_order_final = false}, 2, true});
  f(entry<dpm_multistep<2>>{"dpm_multistep 2, noise", {.form = predicts::noise, .lower_order_final = false}, 2, true});
  f(entry<dpm_multistep<3>>{
      "dpm_multistep 3", {.lower_order_final = false}, 2, true});  // 2: its first step is of order 1
  f(entry<dpm_multistep<3, third_order::compat>>{"dpm_multistep 3, compat", {.lower_order_final = false}, 2, true});
  f(entry<sde_dpm_multistep<>>{"sde_dpm_multistep, eta 0", {.eta = 0, .lower_order_final = false}, 2, true});
  f(entry<unipc<1>>{"unipc 1", {.lower_order_final = false}, 1, true});
  f(entry<unipc<2>>{"unipc 2", {.lower_order_final = false}, 2, true});
  f(entry<unipc<3>>{"unipc 3", {.lower_order_final = false}, 2, true});
  f(entry<unipc<2>>{"unipc 2, noise, b1",
                    {.form = predicts::noise, .variant = unipc_variant::b1, .lower_order_final = false},
                    2,
                    true});
  f(entry<deis<in_kappa>>{"deis 1 in kappa", {.order = 1}, 2, true});
  f(entry<deis<in_log_kappa>>{"deis 2 in log kappa", {.order = 2}, 2, true});
  f(entry<deis<in_time<S>>>{"deis 3 in time", {.order = 3, .variable = in_time<S>(s, 24)}, 2, true});
  f(entry<rho_runge_kutta<tableau::kutta_3, S>>{"rho_runge_kutta 3", {s}, 3});
  f(entry<rho_runge_kutta<tableau::classical_4, S>>{"rho_runge_kutta 4", {s}, 4});
}

/// A tensor of n numbers over memory of its own, of every kind that is known.
template <class X>
class holder {
 public:
  explicit holder(int n) : memory_(static_cast<std::size_t>(n)), x_(make(n)) {
    auto e = traits_of<X>::elements(x_);
    for (int i = 0; i < n; ++i) e(i) = static_cast<scalar_t<X>>(0.31 * ((5 * i) % 7) - 0.9);
  }
  holder(const holder&) = delete;
  X& operator*() { return x_; }
  double operator()(int i) { return static_cast<double>(traits_of<X>::elements(x_)(i)); }

 private:
  X make(int n) {
    if constexpr (requires { X(memory_.data(), 4, n / 4); } && std::same_as<X, Eigen::Map<Eigen::MatrixXd>>)
      return X(memory_.data(), 4, n / 4);
    else if constexpr (std::same_as<X, std::span<scalar_t<X>>>)
      return X(memory_.data(), memory_.size());
    else if constexpr (std::same_as<X, Eigen::MatrixXd>)
      return X(4, n / 4);
    else if constexpr (requires { typename X::Dimensions; })
      return tensor_of(n);
    else if constexpr (std::same_as<X, std::vector<scalar_t<X>>>)
      return X(static_cast<std::size_t>(n));
    else
      return X(n);
  }
  static X tensor_of(int n) {
    if constexpr (X::NumDimensions == 2)
      return X(n / 4, 4);
    else
      return X(n / 4, 2, 2);
  }
  std::vector<scalar_t<X>> memory_;
  X x_;
};

inline constexpr int n_elements = 16;

/// The largest error of the final state of n steps, with this schedule and recipe. `wrap` makes a recipe of one.
template <class X, schedule S, class Recipe>
double error_of(const S& s, const Recipe& recipe, index_t n) {
  const auto levels = log_snr_levels(s, n, 0.8, 0.02);
  holder<X> x(n_elements), exact(n_elements);
  auto model = model_of();
  const auto r = sample(recipe, model, *x, levels);
  REQUIRE(r.status == status::completed);
  const double flow = gaussian{}.flow(levels.front(), levels.back());
  double worst = 0;
  for (int i = 0; i < n_elements; ++i) worst = std::max(worst, std::abs(x(i) - flow * exact(i)));
  return worst;
}

/// Tensors of double show the order; tensors of float end where those of double do.
template <class X, schedule S, class F>
void check_order(const std::string& name, const S& s, F&& recipe_of, double order) {
  CAPTURE(name);
  if constexpr (std::same_as<scalar_t<X>, double>) {
    const double coarse = error_of<X>(s, recipe_of(32), 32), fine = error_of<X>(s, recipe_of(64), 64);
    CAPTURE(coarse, fine);
    // Steps of higher order may start in front of their asymptote; the fourth order ends at rounding.
    CHECK((std::log2(coarse / fine) > order - 0.35 || fine < 1e-9));
    CHECK(fine < 0.1);
  } else {
    const auto levels = log_snr_levels(s, 8, 0.8, 0.02);
    holder<X> x(n_elements);
    holder<Eigen::VectorXd> y(n_elements);
    auto model = model_of();
    const auto recipe = recipe_of(8);
    REQUIRE(sample(recipe, model, *x, levels).status == status::completed);
    REQUIRE(sample(recipe, model, *y, levels).status == status::completed);
    for (int i = 0; i < n_elements; ++i) CHECK(std::abs(x(i) - y(i)) < 1e-5);
  }
}

/// A step under these wrappers allocates nothing, costs what it says, and goes on to the bit from a restored state.
template <class X, schedule S, class Recipe>
void check_steps(const std::string& name, const S& s, const Recipe& recipe) {
  CAPTURE(name);
  const auto levels = log_snr_levels(s, 6, 0.8, 0.02);
  std::int64_t calls = 0;
  auto model = prediction<predicts::data>([&calls](const auto& x, const noise_level& l, auto& out) {
    ++calls;
    gaussian{}(x, l, out);
  });
  holder<X> x(n_elements), y(n_elements);
  auto stepper = recipe.bind(*x, levels);
  auto other = recipe.bind(*y, levels);
  static_assert(stepper_for<decltype(stepper), X, decltype(model)>);
  for (index_t i = 0; i < 3; ++i) {
    const std::int64_t before = calls, promised = stepper.evaluations(i);
    const auto allocated = support::allocations_in([&] { stepper.step(model, *x, i); });
    CHECK(allocated == 0);
    CHECK(calls - before == promised);
  }
  lincomb(*y, 1, *x);
  other.restore(stepper.state());
  for (index_t i = 3; i < 6; ++i) {
    stepper.step(model, *x, i);
    other.step(model, *y, i);
  }
  for (int i = 0; i < n_elements; ++i) CHECK(x(i) == y(i));
}

/// Every solver alone, under DualFast, under churn where its steps stand alone, and under guidance.
template <class X, schedule S>
void check_all(const S& s) {
  for_each_solver(s, [&](const auto& e) {
    using recipe_type = std::remove_cvref_t<decltype(e.recipe)>;
    const std::string name = e.name;
    check_order<X>(
        name, s, [&](index_t) { return e.recipe; }, e.order);
    check_steps<X>(name, s, e.recipe);
    // The coefficient that the order allows: a constant for the first, 2/n for the second.
    const auto mixed = [&](index_t n) {
      return dualfast<recipe_type>{.recipe = e.recipe,
                                   .c = e.order == 1   ? 0.5
                                        : e.order == 2 ? 2.0 / static_cast<double>(n)
                                                       : 0.0};
    };
    check_order<X>("dualfast, " + name, s, mixed, e.order);
    check_steps<X>("dualfast, " + name, s, dualfast<recipe_type>{.recipe = e.recipe, .c = 0.3});
    check_steps<X>("dualfast twice, " + name, s,
                   dualfast<dualfast<recipe_type>>{.recipe = {.recipe = e.recipe, .c = 0.2}, .c = 0.1});
    if constexpr (one_step_stepper<stepper_t<recipe_type, X>, X, decltype(model_of())>) {
      const auto churned_by_nothing = [&](index_t) {
        return churned<recipe_type, S>{.recipe = e.recipe, .schedule = s};
      };
      check_order<X>("churned by nothing, " + name, s, churned_by_nothing, e.order);
      check_steps<X>("churned, " + name, s, churned<recipe_type, S>{.recipe = e.recipe, .s_churn = 1, .schedule = s});
    }
    // Guidance between a model and itself is the model, in every form.
    const auto levels = log_snr_levels(s, 5, 0.8, 0.02);
    holder<X> x(n_elements), y(n_elements);
    auto both = guided(model_of(), model_of(), *x, 2.5);
    auto alone = model_of();
    REQUIRE(sample(e.recipe, both, *x, levels).status == status::completed);
    REQUIRE(sample(e.recipe, alone, *y, levels).status == status::completed);
    const double rounding = 2000 * static_cast<double>(std::numeric_limits<scalar_t<X>>::epsilon());
    CAPTURE(name);
    for (int i = 0; i < n_elements; ++i) CHECK(std::abs(x(i) - y(i)) < rounding);
  });
}

}  // namespace composition
