#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/status.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/generate/model.hpp>
#include <sluice/generate/noise.hpp>
#include <sluice/generate/sample.hpp>
#include <sluice/generate/solver.hpp>
#include <sluice/random/stream.hpp>

#include <Eigen/Core>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

/// Editing: a datum x0 and two conditional models, one that describes x0 and one that describes what is wanted. Here is
/// what all editors share: the models of an edit, blending, the driver. The editors: ddcm.hpp, edit_baselines.hpp.
namespace sluice {

/// One step of an editor. `index` counts the steps of the whole list of levels, also those that strength < 1 skips.
struct edit_step {
  index_t index = 0;  ///< this step
  index_t first = 0;  ///< the first step of the run
  index_t count = 0;  ///< steps in the list; the last one is count - 1
  noise_level level;  ///< at which the models were evaluated
  bool last() const { return index + 1 == count; }
};

namespace detail {

/// N tensors shaped like x, each on its own.
template <class X, std::size_t N>
class separate_branches {
 public:
  explicit separate_branches(const X& like) : branch_(make(like, std::make_index_sequence<N>{})) {}
  owner_t<X>& operator()(std::size_t k) { return branch_[k]; }
  bool fits(index_t n) const {
    for (const auto& b : branch_)
      if (size(b) != n) return false;
    return true;
  }

 private:
  template <std::size_t... I>
  static std::array<owner_t<X>, N> make(const X& like, std::index_sequence<I...>) {
    return {((void)I, zeros_like(like))...};
  }
  std::array<owner_t<X>, N> branch_;
};

/// N tensors shaped like x that are the column blocks of one matrix, so that one call sees all of them without a copy.
template <eigen_dense X, std::size_t N>
class joined_branches {
 public:
  using scalar = scalar_t<X>;
  using matrix = std::conditional_t<std::derived_from<owner_t<X>, Eigen::ArrayBase<owner_t<X>>>,
                                    Eigen::Array<scalar, Eigen::Dynamic, Eigen::Dynamic>,
                                    Eigen::Matrix<scalar, Eigen::Dynamic, Eigen::Dynamic>>;
  explicit joined_branches(const X& like) : columns_(like.cols()) {
    all_.setZero(like.rows(), like.cols() * static_cast<Eigen::Index>(N));
  }
  auto operator()(std::size_t k) { return all_.middleCols(static_cast<Eigen::Index>(k) * columns_, columns_); }
  matrix& all() { return all_; }
  bool fits(index_t n) const { return all_.size() == n * static_cast<index_t>(N); }

 private:
  Eigen::Index columns_;
  matrix all_;
};

}  // namespace detail

/// The models of an edit: of the source (describes x0), of the target (describes what is wanted), and, if there are
/// three, of the layout: the source's condition on a state of its own, for models whose branches look at each other
/// (attention_control.hpp). They are called in this order, once each at every step. Made by `conditions`.
template <class... M>
requires(sizeof...(M) == 2 || sizeof...(M) == 3) struct separate_conditions {
  std::tuple<M...> models;
  static constexpr std::size_t branches = sizeof...(M);
  template <class X>
  using storage = detail::separate_branches<X, branches>;
  auto& source() { return std::get<0>(models); }
  auto& target() { return std::get<1>(models); }
  template <class X>
  void evaluate(storage<X>& x, const noise_level& level, storage<X>& out) {
    source()(std::as_const(x(0)), level, out(0), predicts::data);
    target()(std::as_const(x(1)), level, out(1), predicts::data);
    if constexpr (branches == 3) std::get<2>(models)(std::as_const(x(2)), level, out(2), predicts::data);
  }
};
/// conditions(source, target) or conditions(source, target, layout). An lvalue is referred to, and must outlive the
/// result; an rvalue is moved in. Guidance is a matter of the model: pass a guided one (guidance.hpp).
template <class S, class T>
separate_conditions<S, T> conditions(S&& source, T&& target) {
  return {{std::forward<S>(source), std::forward<T>(target)}};
}
template <class S, class T, class L>
separate_conditions<S, T, L> conditions(S&& source, T&& target, L&& layout) {
  return {{std::forward<S>(source), std::forward<T>(target), std::forward<L>(layout)}};
}

/// One model for all branches, called once a step: model(x, level, out, want), where the columns of x are the samples
/// under the source's condition, then the samples under the target's, then (three branches) those of the layout branch.
/// States are Eigen's; nothing is copied. Made by `joint`.
template <class M, std::size_t N>
requires(N == 2 || N == 3) struct joint_conditions {
  M model;
  static constexpr std::size_t branches = N;
  template <class X>
  using storage = detail::joined_branches<X, N>;
  template <class X>
  void evaluate(storage<X>& x, const noise_level& level, storage<X>& out) {
    model(std::as_const(x.all()), level, out.all(), predicts::data);
  }
};
/// joint(model) for two branches, joint<3>(model) for three. An lvalue is referred to, an rvalue moved in.
template <std::size_t N = 2, class M>
joint_conditions<M, N> joint(M&& model) {
  return {std::forward<M>(model)};
}

/// The blend that changes nothing.
struct no_blend {};

namespace detail {
/// Calls f with sample j of x, as an array of its elements.
template <class X, class F>
void with_elements(X& x, std::uint64_t j, F&& f) {
  if constexpr (batch_of_columns<X>) {
    auto column = x.col(static_cast<Eigen::Index>(j));
    f(traits_of<decltype(column)>::elements(column));
  } else {
    f(traits_of<X>::elements(x));
  }
}
template <class X>
index_t samples_of(const X& x) {
  if constexpr (batch_of_columns<const X>) {
    return x.cols();
  } else {
    return 1;
  }
}
/// to[e] = from[e] where take(pixel of e), in all samples. A mask has `pixels` elements for a sample; element e of a
/// sample belongs to pixel e mod pixels, as in channels that follow each other. take(sample, pixel).
template <class T, class S, class Take>
void replace_where(T& to, const S& from, std::size_t pixels, Take&& take) {
  for (std::uint64_t j = 0; j < static_cast<std::uint64_t>(samples_of(to)); ++j)
    with_elements(to, j, [&](auto&& a) {
      with_elements(from, j, [&](const auto& b) {
        std::size_t pixel = 0;
        for (Eigen::Index e = 0; e < a.size(); ++e) {
          if (take(static_cast<std::size_t>(j), pixel)) a.coeffRef(e) = b.coeff(e);
          if (++pixel == pixels) pixel = 0;
        }
      });
    });
}
}  // namespace detail

/// A known region: elements where the mask is 0 keep the source to the bit, after every step and in the result.
///
/// The mask has p elements, p a divisor of the d elements of a sample; element e of every sample looks at mask[e mod
/// p], so that a mask of pixels serves channels that follow each other. It is not copied and must outlive the run. O(d)
/// a step. A blend is a callable (edit_step, target, source, layout) that takes elements of the target from the other
/// two; it sees clean estimates, which is the same as to see states, since all branches share their noise.
struct mask_blend {
  std::span<const std::uint8_t> mask;  ///< not 0: this element is edited

  /// Throws invalid_argument unless the mask fits samples of d elements.
  void check(index_t d, index_t) const {
    expects(!mask.empty() && d % std::ssize(mask) == 0, "mask_blend", "mask.size", mask.size());
  }
  template <class T, class S, class L>
  void operator()(const edit_step&, T& target, const S& source, const L&) const {
    detail::replace_where(target, source, mask.size(),
                          [this](std::size_t, std::size_t pixel) { return mask[pixel] == 0; });
  }
};

/// What an edit cost and how it went; the edited datum is where the caller said.
struct edit_result {
  std::vector<double> change;  ///< |z_{i+1} - z_i|, a step each, over all samples; z_0 = x0. Empty for the baselines
  sluice::status status = sluice::status::completed;
  sample_stats stats;  ///< nfe: evaluations, one for each branch and step, however they are batched
};

namespace detail {
/// The steps that strength leaves: the last int(n strength) of n.
inline index_t first_step(index_t n, double strength) {
  return n - static_cast<index_t>(static_cast<double>(n) * strength);
}
template <class X, class Y>
bool same_shape(const X& x, const Y& y) {
  if (size(x) != size(y)) return false;
  if constexpr (shaped_tensor<X> && shaped_tensor<Y>) {
    const auto rank = traits_of<X>::rank(x);
    if (rank != traits_of<Y>::rank(y)) return true;  // a vector and a matrix of one column
    for (index_t k = 0; k < static_cast<index_t>(rank); ++k)
      if (traits_of<X>::extent(x, k) != traits_of<Y>::extent(y, k)) return false;
  }
  return true;
}
}  // namespace detail

/// Edits x0: z <- what `editor` makes of it under these conditions. The same call for every editor, so that they can be
/// compared; how each reads the levels is said there.
///
/// noise is a stream, or a noise source: draw j of sample s is run.derive(s).derive(j), so results depend neither on
/// the batch nor on threads (noise.hpp). After every step that writes z, `blend` may take elements from the source, and
/// then `observer(i, levels[i], z)` is called; if it returns false the run stops there. Ends with `budget_exhausted`
/// before the step that would exceed options.max_nfe, with `diverged` at a step whose model output is not finite or not
/// of x0's shape; z is then what the step before left, at first x0.
///
/// z is shaped like x0 and does not overlap it. Throws invalid_argument, z unchanged, if it is not, if x0 is not
/// finite, the levels are not a grid (solver.hpp), max_nfe is negative, a mask does not fit, or the editor refuses.
template <class Editor, class C, writable_tensor Z, tensor X, class Noise, class Blend = no_blend,
          class Observer = no_observer>
[[nodiscard]] edit_result edit(const Editor& editor, C&& conditions, Z&& z, const X& x0,
                               std::span<const noise_level> levels, const sample_options& options, const Noise& noise,
                               Blend&& blend = {}, Observer&& observer = {}) {
  expects(detail::same_shape(z, x0), "edit", "z.size", size(z));
  expects(std::isfinite(norm(x0)), "edit", "x0", norm(x0));
  expects(options.max_nfe >= 0, "edit", "options.max_nfe", options.max_nfe);
  expect_levels(levels, "edit", true);
  if constexpr (requires { blend.check(index_t{}, index_t{}); }) {
    const index_t samples = detail::samples_of(x0);
    blend.check(samples == 0 ? 0 : size(x0) / samples, samples);
  }
  if constexpr (std::same_as<Noise, stream>) {
    return editor.run(conditions, z, x0, levels, options, step_noise{noise}, blend, observer);
  } else {
    return editor.run(conditions, z, x0, levels, options, noise, blend, observer);
  }
}

}  // namespace sluice
