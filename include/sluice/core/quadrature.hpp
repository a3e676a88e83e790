#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>

#include <cmath>
#include <cstddef>
#include <limits>
#include <numbers>
#include <vector>

/// Gauss quadrature for any number of nodes. Nodes are the eigenvalues of the Jacobi matrix of the weight function:
/// they are isolated by Sturm counts and refined by Newton's method on the orthonormal polynomial, which cannot leave
/// its bracket; weights are w_i = mu_0 / sum_{k<n} p_k(x_i)^2, a sum of positive terms. Computed in long double and
/// rounded once: nodes and weights are good to 1e-15 relative. O(n^2) time, about 1 ms for n = 100; two allocations of
/// n. Source: Golub and Welsch, Mathematics of Computation 23 (1969). Differs: no QL iteration, see above.
namespace sluice {

/// The rule sum_i weight[i] f(node[i]); nodes ascend.
struct quadrature_rule {
  std::vector<double> node, weight;
};

/// sum_i weight[i] f(node[i]).
template <class F>
double integrate(F&& f, const quadrature_rule& rule) {
  double sum = 0;
  for (std::size_t i = 0; i < rule.node.size(); ++i) sum += rule.weight[i] * f(rule.node[i]);
  return sum;
}

namespace detail {
struct node_and_weight {
  long double node, weight;
};

/// Zeros of the orthonormal polynomial of degree n with p_0 = 1 and b_{k+1} p_{k+1} = x p_k - b_k p_{k-1}, where
/// b(k) is b_k and the weight function is even with total mass 1. All zeros lie in (-bound, bound).
template <class B>
std::vector<node_and_weight> symmetric_gauss_rule(B&& b, index_t n, long double bound) {
  std::vector<long double> off(static_cast<std::size_t>(n + 1));
  for (index_t k = 1; k <= n; ++k) off[static_cast<std::size_t>(k)] = b(static_cast<long double>(k));

  const auto zeros_below = [&](long double x) {  // negative pivots of J - x
    index_t count = 0;
    long double pivot = -x;
    for (std::size_t k = 1;; ++k) {
      if (pivot == 0) pivot = -1e-300L;
      count += pivot < 0;
      if (static_cast<index_t>(k) == n) return count;
      pivot = -x - off[k] * off[k] / pivot;
    }
  };
  struct values {
    long double p, slope, squares;  // all of p_n, p_n', sum of p_k^2 over k < n
    int exponent;                   // p and slope are to be multiplied by 2^exponent, squares by its square
  };
  const auto evaluate = [&](long double x) {
    values v{1, 0, 0, 0};
    long double before = 0, slope_before = 0;
    for (std::size_t k = 1; k <= static_cast<std::size_t>(n); ++k) {
      v.squares += v.p * v.p;
      const long double next = (x * v.p - off[k - 1] * before) / off[k];
      const long double slope_next = (v.p + x * v.slope - off[k - 1] * slope_before) / off[k];
      before = v.p, slope_before = v.slope, v.p = next, v.slope = slope_next;
      if (std::abs(v.p) + std::abs(v.slope) > 0x1p+300L) {  // far out Hermite polynomials exceed the range of double
        const long double down = 0x1p-300L;
        v.p *= down, before *= down, v.slope *= down, slope_before *= down, v.squares *= down * down;
        v.exponent += 300;
      }
    }
    return v;
  };

  std::vector<node_and_weight> rule(static_cast<std::size_t>(n));
  const index_t half = n / 2;  // zeros below 0; the others mirror them
  const auto weight_at = [&](long double x) {
    const values v = evaluate(x);
    return std::ldexp(1 / v.squares, -2 * v.exponent);
  };
  for (index_t i = 0; i < half; ++i) {
    long double low = i == 0 ? -bound : rule[static_cast<std::size_t>(i - 1)].node, high = 0;
    // The zero i is the only one in (low, high] once no more than i + 1 zeros lie below high; the count at low is i,
    // up to rounding of the zero before it, which Newton cannot return to because high moves away from it only.
    index_t below_low = i, below_high = half;
    while (below_high - below_low > 1 || below_low != i) {
      const long double middle = (low + high) / 2;
      const index_t count = zeros_below(middle);
      if (count <= i)
        low = middle, below_low = count;
      else
        high = middle, below_high = count;
    }
    for (int step = 0; step < 4; ++step) {  // away from the zero before, whose value of p is rounding only
      const long double middle = (low + high) / 2;
      (zeros_below(middle) <= i ? low : high) = middle;
    }
    long double x = (low + high) / 2, last = high - low;
    for (int step = 0; step < 100; ++step) {
      const values v = evaluate(x);
      if (v.p == 0) break;
      const bool rising = (n - i) % 2 != 0;  // p_n is positive on the right of all zeros
      ((v.p > 0) == rising ? high : low) = x;
      const long double newton = x - v.p / v.slope;
      const bool inside = newton > low && newton < high;
      const long double next = inside ? newton : (low + high) / 2;
      const long double moved = std::abs(next - x);
      x = next;
      if (inside && moved <= 1e-12L * bound && moved >= last / 2) break;  // only rounding is left
      if (moved <= std::numeric_limits<long double>::epsilon() * std::abs(x)) break;
      last = moved;
    }
    const long double w = weight_at(x);
    rule[static_cast<std::size_t>(i)] = {x, w};
    rule[static_cast<std::size_t>(n - 1 - i)] = {-x, w};
  }
  if (n % 2 != 0) rule[static_cast<std::size_t>(half)] = {0, weight_at(0)};
  return rule;
}

inline quadrature_rule scaled_rule(const std::vector<node_and_weight>& unit, long double middle, long double scale,
                                   long double mass) {
  quadrature_rule rule;
  rule.node.reserve(unit.size());
  rule.weight.reserve(unit.size());
  for (const node_and_weight& u : unit) {
    rule.node.push_back(static_cast<double>(middle + scale * u.node));
    rule.weight.push_back(static_cast<double>(mass * u.weight));
  }
  return rule;
}

inline std::vector<node_and_weight> hermite_rule(index_t n) {  // for the density of N(0, 1/2)
  return symmetric_gauss_rule([](long double k) { return std::sqrt(k / 2); }, n,
                              std::sqrt(2.0L * static_cast<long double>(n) + 2));
}
}  // namespace detail

/// Gauss-Legendre: integrates f over [from, to]; exact for polynomials of degree 2n - 1. Throws invalid_argument unless
/// n >= 1 and both ends are finite.
inline quadrature_rule gauss_legendre(index_t n, double from = -1, double to = 1) {
  expects(n >= 1, "gauss_legendre", "n", n);
  expects(std::isfinite(from), "gauss_legendre", "from", from);
  expects(std::isfinite(to), "gauss_legendre", "to", to);
  const auto unit = detail::symmetric_gauss_rule([](long double k) { return k / std::sqrt(4 * k * k - 1); }, n, 1);
  const long double a = from, b = to;
  return detail::scaled_rule(unit, (a + b) / 2, (b - a) / 2, b - a);
}

/// Gauss-Hermite: integrates exp(-x^2) f(x) over the real line; exact for polynomials f of degree 2n - 1. Outer weights
/// below the smallest double are 0 (from n of about 380 on). Throws invalid_argument unless n >= 1.
inline quadrature_rule gauss_hermite(index_t n) {
  expects(n >= 1, "gauss_hermite", "n", n);
  return detail::scaled_rule(detail::hermite_rule(n), 0, 1, 1 / std::numbers::inv_sqrtpi_v<long double>);
}

/// The same nodes for expectations: sum_i weight[i] f(node[i]) is E f(mean + sd Z), Z standard normal; weights sum
/// to 1. Throws invalid_argument unless n >= 1, mean is finite and sd is finite and not negative.
inline quadrature_rule gauss_normal(index_t n, double mean = 0, double sd = 1) {
  expects(n >= 1, "gauss_normal", "n", n);
  expects(std::isfinite(mean), "gauss_normal", "mean", mean);
  expects(std::isfinite(sd) && sd >= 0, "gauss_normal", "sd", sd);
  return detail::scaled_rule(detail::hermite_rule(n), mean, std::numbers::sqrt2_v<long double> * sd, 1);
}

}  // namespace sluice
