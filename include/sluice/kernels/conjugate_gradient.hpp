#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/status.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/random/distributions.hpp>
#include <sluice/random/stream.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <utility>

/// Conjugate gradients for operators that are known only by what they do to a vector. An operator is a callable
/// f(in, out) that writes f(in); it sees the solver's own vectors, never the caller's. Everything else is vector space
/// operations, so any tensor will do. Workspace is allocated in the constructor; `solve` allocates nothing. One object
/// serves one thread, and any number of systems of its shape, one after the other.
/// Sources: Hestenes and Stiefel, J. Res. Nat. Bur. Standards 49 (1952); for least squares Bjorck, "Numerical Methods
/// for Least Squares Problems" (1996), Algorithm 7.4.1 (CGLS).
namespace sluice {

struct conjugate_gradient_options {
  index_t max_iterations = 100;       ///< not negative
  double tolerance = 0;               ///< stop where the residual's norm is at most this, not negative,
  double relative_tolerance = 1e-10;  ///< or at most this times the norm named at `solve`, not negative
};
struct conjugate_gradient_stats {
  std::int64_t iterations = 0;
  double residual = 0;  ///< its norm, as the recurrence has it
};
/// completed: the tolerance is reached. budget_exhausted: max_iterations were made. diverged: the operator is not
/// positive, or wrote something that is not finite; x is the last iterate before.
struct conjugate_gradient_result {
  sluice::status status = sluice::status::completed;
  conjugate_gradient_stats stats;
};

namespace detail {
inline void expect_tolerances(const conjugate_gradient_options& o, const char* function) {
  expects(o.max_iterations >= 0, function, "options.max_iterations", o.max_iterations);
  expects(o.tolerance >= 0, function, "options.tolerance", o.tolerance);
  expects(o.relative_tolerance >= 0, function, "options.relative_tolerance", o.relative_tolerance);
}
}  // namespace detail

/// Solves S x = b for a symmetric positive definite operator S. Iterate k is the best in the S norm of x_0 + span{r,
/// S r, ..., S^(k-1) r}; n iterations solve a system of n unknowns in exact arithmetic. An iteration costs one S, two
/// dots and three passes. Owns three vectors.
template <writable_tensor V>
class conjugate_gradient {
 public:
  using vector = owner_t<V>;
  /// `like` gives the shape.
  explicit conjugate_gradient(const V& like) : r_(zeros_like(like)), p_(zeros_like(like)), q_(zeros_like(like)) {}
  conjugate_gradient(conjugate_gradient&&) = default;  // move-only: a copied tensor may share storage
  conjugate_gradient& operator=(conjugate_gradient&&) = default;

  /// From the x given, in place. The residual is b - S x, the relative tolerance refers to the norm of b. If the x
  /// given is good enough it is left as it is and nothing is divided. Throws invalid_argument, x unchanged, for a
  /// negative option or a size of x or b that is not that of `like`.
  template <class Operator, writable_tensor X, tensor B>
  requires std::invocable<Operator&, const vector&, vector&> conjugate_gradient_result
  solve(Operator&& apply, X&& x, const B& b, const conjugate_gradient_options& options = {}) {
    detail::expect_tolerances(options, "conjugate_gradient");
    expects(size(x) == size(r_), "conjugate_gradient", "x.size", size(x));
    expects(size(b) == size(r_), "conjugate_gradient", "b.size", size(b));
    lincomb(p_, 1, x);
    apply(std::as_const(p_), q_);
    lincomb(r_, 1, b, -1, q_);
    const double target = std::max(options.tolerance, options.relative_tolerance * static_cast<double>(norm(b)));
    double square = static_cast<double>(dot(r_, r_));
    conjugate_gradient_result result{status::budget_exhausted, {0, std::sqrt(square)}};
    const auto end = [&result](status why) { return result.status = why, result; };
    if (!std::isfinite(square)) return end(status::diverged);
    if (result.stats.residual <= target) return end(status::completed);  // before the first quotient, which may be 0/0
    lincomb(p_, 1, r_);
    while (result.stats.iterations < options.max_iterations) {
      apply(std::as_const(p_), q_);
      const double curvature = static_cast<double>(dot(p_, q_));
      if (!(curvature > 0)) return end(status::diverged);
      const double length = square / curvature;
      axpy(r_, -length, q_);
      const double next = static_cast<double>(dot(r_, r_));
      if (!std::isfinite(next)) return end(status::diverged);
      axpy(x, length, p_);
      ++result.stats.iterations;
      result.stats.residual = std::sqrt(next);
      if (result.stats.residual <= target) return end(status::completed);
      scale_add(p_, next / square, 1, r_);
      square = next;
    }
    return result;
  }

 private:
  vector r_, p_, q_;
};

/// Minimises |A x - y| from the x given: conjugate gradients on A^T A x = A^T y with the residual y - A x kept apart,
/// so that A^T A is never formed and its condition number is not paid twice. Of all minimisers, the limit is the one
/// nearest to the x given: the change lies in the range of A^T. An iteration costs one A, one A^T, two dots and four
/// passes. V is the type of x, W that of y. Owns two vectors of each.
template <writable_tensor V, writable_tensor W>
class least_squares_conjugate_gradient {
 public:
  using vector = owner_t<V>;
  using measurement = owner_t<W>;
  /// The arguments give the shapes.
  least_squares_conjugate_gradient(const V& like_x, const W& like_y)
      : r_(zeros_like(like_x)), p_(zeros_like(like_x)), s_(zeros_like(like_y)), q_(zeros_like(like_y)) {}
  least_squares_conjugate_gradient(least_squares_conjugate_gradient&&) = default;
  least_squares_conjugate_gradient& operator=(least_squares_conjugate_gradient&&) = default;

  /// From the x given, in place. The residual is A^T (y - A x), the relative tolerance refers to its norm at the start.
  /// A start that is good enough is left as it is. Throws invalid_argument, x unchanged, for a negative option or a
  /// size that differs from the constructor's.
  template <class A, class Adjoint, writable_tensor X, tensor Y>
  requires std::invocable<A&, const vector&, measurement&> && std::invocable<Adjoint&, const measurement&, vector&>
      conjugate_gradient_result solve(A&& apply, Adjoint&& adjoint, X&& x, const Y& y,
                                      const conjugate_gradient_options& options = {}) {
    detail::expect_tolerances(options, "least_squares_conjugate_gradient");
    expects(size(x) == size(r_), "least_squares_conjugate_gradient", "x.size", size(x));
    expects(size(y) == size(s_), "least_squares_conjugate_gradient", "y.size", size(y));
    lincomb(p_, 1, x);
    apply(std::as_const(p_), q_);
    lincomb(s_, 1, y, -1, q_);
    adjoint(std::as_const(s_), r_);
    double square = static_cast<double>(dot(r_, r_));
    conjugate_gradient_result result{status::budget_exhausted, {0, std::sqrt(square)}};
    const double target = std::max(options.tolerance, options.relative_tolerance * result.stats.residual);
    const auto end = [&result](status why) { return result.status = why, result; };
    if (!std::isfinite(square)) return end(status::diverged);
    if (square == 0 || result.stats.residual <= target) return end(status::completed);
    lincomb(p_, 1, r_);
    while (result.stats.iterations < options.max_iterations) {
      apply(std::as_const(p_), q_);
      const double curvature = static_cast<double>(dot(q_, q_));
      if (!(curvature > 0)) return end(status::diverged);  // not the adjoint: its range meets the null space of A
      const double length = square / curvature;
      axpy(s_, -length, q_);
      adjoint(std::as_const(s_), r_);
      const double next = static_cast<double>(dot(r_, r_));
      if (!std::isfinite(next)) return end(status::diverged);
      axpy(x, length, p_);
      ++result.stats.iterations;
      result.stats.residual = std::sqrt(next);
      if (result.stats.residual <= target) return end(status::completed);
      scale_add(p_, next / square, 1, r_);
      square = next;
    }
    return result;
  }

 private:
  vector r_, p_;
  measurement s_, q_;
};

/// How far two operators are from being adjoint: |<A z, y> - <z, A^T y>| / (|A z| |y| + |z| |A^T y|) for one random
/// pair (z, y) of the shapes given, 0 where both are 0. About the rounding unit for an operator and its adjoint, of
/// order 1/sqrt(n) for two that have nothing to do with each other. Allocates four vectors.
template <class A, class Adjoint, elementwise_tensor V, elementwise_tensor W>
double adjoint_error(A&& apply, Adjoint&& adjoint, const V& like_x, const W& like_y, stream key) {
  auto z = zeros_like(like_x), back = zeros_like(like_x);
  auto y = zeros_like(like_y), there = zeros_like(like_y);
  fill_normal(z, key.derive(0));
  fill_normal(y, key.derive(1));
  apply(std::as_const(z), there);
  adjoint(std::as_const(y), back);
  const double difference = std::abs(static_cast<double>(dot(there, y)) - static_cast<double>(dot(z, back)));
  const double scale = static_cast<double>(norm(there)) * static_cast<double>(norm(y)) +
                       static_cast<double>(norm(z)) * static_cast<double>(norm(back));
  return scale == 0 ? difference : difference / scale;
}

}  // namespace sluice
