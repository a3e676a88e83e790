#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/generate/model.hpp>
#include <sluice/generate/schedule.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <span>
#include <vector>

/// Time grids: N steps are N + 1 levels, from noise to data, kappa falling strictly. The two end points are exactly
/// what was asked for. Every function throws invalid_argument unless N >= 1 and the ends are in order and in the
/// domain.
namespace sluice {

/// Levels at given times, in the order given. Throws invalid_argument if a time is outside the schedule's domain.
template <schedule S>
std::vector<noise_level> levels_at(const S& s, std::span<const double> times) {
  std::vector<noise_level> levels;
  levels.reserve(times.size());
  for (const double t : times) levels.push_back(s.at(t));
  return levels;
}

/// Levels with alpha = 1 and these kappa (EDM).
inline std::vector<noise_level> edm_levels(std::span<const double> kappas) { return levels_at(edm{}, kappas); }
inline std::vector<noise_level> edm_levels(std::initializer_list<double> kappas) {
  return edm_levels(std::span<const double>(kappas.begin(), kappas.size()));
}

namespace detail {
/// n + 1 values from f(0) to f(1), the ends set exactly.
template <class F>
std::vector<double> ramp(index_t n, double from, double to, F&& f) {
  std::vector<double> values(static_cast<std::size_t>(n + 1));
  for (index_t i = 0; i <= n; ++i)
    values[static_cast<std::size_t>(i)] = f(static_cast<double>(i) / static_cast<double>(n));
  values.front() = from;
  values.back() = to;
  return values;
}
/// Levels whose lambda are f(0), ..., f(1), the ends exact.
template <class S, class F>
std::vector<noise_level> levels_by_lambda(const S& s, index_t n, double from, double to, F&& f) {
  std::vector<noise_level> levels(static_cast<std::size_t>(n + 1));
  levels.front() = s.at(from);
  levels.back() = s.at(to);
  for (index_t i = 1; i < n; ++i)
    levels[static_cast<std::size_t>(i)] = s.at_lambda(f(static_cast<double>(i) / static_cast<double>(n)));
  return levels;
}
inline void expect_grid(index_t n, double from, double to, const char* function) {
  expects(n >= 1, function, "n", n);
  expects(std::isfinite(from), function, "from", from);
  expects(std::isfinite(to) && to < from, function, "to", to);
}
}  // namespace detail

/// Times t_i^(1/power) evenly spread: power 1 is uniform, 2 quadratic (small steps near the data). Needs 0 <= to <
/// from.
inline std::vector<double> power_times(index_t n, double from, double to, double power = 1) {
  detail::expect_grid(n, from, to, "power_times");
  expects(to >= 0, "power_times", "to", to);
  expects(power > 0 && std::isfinite(power), "power_times", "power", power);
  const double a = std::pow(from, 1 / power), b = std::pow(to, 1 / power);
  return detail::ramp(n, from, to,
                      [&](double u) { return power == 1 ? from + u * (to - from) : std::pow(a + u * (b - a), power); });
}
/// Times evenly spread.
inline std::vector<double> uniform_times(index_t n, double from, double to) { return power_times(n, from, to, 1); }
/// Uniform times, shifted once: S_s at n + 1 even points from `from` to `to`, by default 1 to 0 (flow models).
/// The shift is that of time_shift; the ends are shifted too, so that 1 and 0 stay.
inline std::vector<double> shifted_times(index_t n, double s, double from = 1, double to = 0) {
  std::vector<double> times = uniform_times(n, from, to);
  for (double& t : times) t = time_shift(t, s);
  return times;
}

/// Levels at uniform times.
template <schedule S>
std::vector<noise_level> uniform_levels(const S& s, index_t n, double from, double to) {
  return levels_at(s, uniform_times(n, from, to));
}
/// Levels at times whose square roots are evenly spread.
template <schedule S>
std::vector<noise_level> quadratic_levels(const S& s, index_t n, double from, double to) {
  return levels_at(s, power_times(n, from, to, 2));
}
/// Levels with lambda evenly spread between the times `from` and `to`: the grid on which multi-step solvers in lambda
/// have equal steps. sigma must be positive at `to` and alpha at `from`.
template <schedule S>
std::vector<noise_level> log_snr_levels(const S& s, index_t n, double from, double to) {
  detail::expect_grid(n, from, to, "log_snr_levels");
  const double a = s.at(from).lambda(), b = s.at(to).lambda();
  expects(std::isfinite(a), "log_snr_levels", "from", from);
  expects(std::isfinite(b), "log_snr_levels", "to", to);
  return detail::levels_by_lambda(s, n, from, to, [&](double u) { return a + u * (b - a); });
}
/// Levels with kappa^(1/rho) evenly spread between the times `from` and `to` (Karras et al., equation 5). kappa must be
/// positive at `to` and finite at `from`.
template <schedule S>
std::vector<noise_level> kappa_power_levels(const S& s, index_t n, double from, double to, double rho = 7) {
  detail::expect_grid(n, from, to, "kappa_power_levels");
  expects(rho > 0 && std::isfinite(rho), "kappa_power_levels", "rho", rho);
  const double a = s.at(from).kappa(), b = s.at(to).kappa();
  expects(std::isfinite(a), "kappa_power_levels", "from", from);
  expects(b > 0, "kappa_power_levels", "to", to);
  const double p = std::pow(a, 1 / rho), q = std::pow(b, 1 / rho);
  return detail::levels_by_lambda(s, n, from, to, [&](double u) { return -rho * std::log(p + u * (q - p)); });
}

/// n values of kappa from kappa_max down to kappa_min with kappa^(1/rho) evenly spread (n = 1: kappa_max alone).
/// Throws invalid_argument unless n >= 1 and 0 < kappa_min < kappa_max are finite.
/// Source: Karras et al., NeurIPS 2022 (arXiv:2206.00364), equation 5.
inline std::vector<double> karras_kappas(index_t n, double kappa_min, double kappa_max, double rho = 7) {
  expects(n >= 1, "karras_kappas", "n", n);
  expects(kappa_min > 0 && std::isfinite(kappa_min), "karras_kappas", "kappa_min", kappa_min);
  expects(kappa_max > kappa_min && std::isfinite(kappa_max), "karras_kappas", "kappa_max", kappa_max);
  expects(rho > 0 && std::isfinite(rho), "karras_kappas", "rho", rho);
  if (n == 1) return {kappa_max};
  const double p = std::pow(kappa_max, 1 / rho), q = std::pow(kappa_min, 1 / rho);
  return detail::ramp(n - 1, kappa_max, kappa_min, [&](double u) { return std::pow(p + u * (q - p), rho); });
}
/// The EDM list: n values as above, then an exact 0; n steps.
inline std::vector<noise_level> karras_levels(index_t n, double kappa_min = 0.002, double kappa_max = 80,
                                              double rho = 7) {
  std::vector<double> kappas = karras_kappas(n, kappa_min, kappa_max, rho);
  kappas.push_back(0);
  return edm_levels(kappas);
}

// Lists of indices of a schedule of N discrete steps, from noise to data, as public code has them. n indices each; the
// last step goes from the last index to the data, or to index 0's level, as the caller wants.

/// i N/n for i = n - 1, ..., 0 (integer division of N by n). Ends at 0, does not begin at N - 1.
inline std::vector<index_t> leading_indices(index_t n, index_t n_steps) {
  expects(n >= 1 && n <= n_steps, "leading_indices", "n", n);
  std::vector<index_t> list(static_cast<std::size_t>(n));
  for (index_t i = 0; i < n; ++i) list[static_cast<std::size_t>(i)] = (n - 1 - i) * (n_steps / n);
  return list;
}
/// round(N - 1 - j (N - 1)/(n - 1)): begins at N - 1, ends at 0 (n = 1: N - 1 alone).
inline std::vector<index_t> linspace_indices(index_t n, index_t n_steps) {
  expects(n >= 1 && n <= n_steps, "linspace_indices", "n", n);
  std::vector<index_t> list(static_cast<std::size_t>(n));
  for (index_t j = 0; j < n; ++j) {
    const double part = n == 1 ? 0.0 : static_cast<double>(j) / static_cast<double>(n - 1);
    list[static_cast<std::size_t>(j)] =
        static_cast<index_t>(std::nearbyint(static_cast<double>(n_steps - 1) * (1 - part)));
  }
  return list;
}
/// round(N - j N/n) - 1, j = 0, ..., n - 1: begins at N - 1, ends at N/n - 1.
inline std::vector<index_t> trailing_indices(index_t n, index_t n_steps) {
  expects(n >= 1 && n <= n_steps, "trailing_indices", "n", n);
  std::vector<index_t> list(static_cast<std::size_t>(n));
  for (index_t j = 0; j < n; ++j)
    list[static_cast<std::size_t>(j)] =
        static_cast<index_t>(
            std::nearbyint(static_cast<double>(n_steps) -
                           static_cast<double>(j) * static_cast<double>(n_steps) / static_cast<double>(n))) -
        1;
  return list;
}
/// For networks that know whole indices only: the positions (not negative, falling; power_times(n, N - 1, 0, 2), say)
/// rounded down, each index once; what falls together is replaced by the smallest unused indices above the last. As
/// many indices as positions, falling. Throws invalid_argument unless positions fall from below N to 0 or more and
/// there are that many indices from the last one up. Source: the code of Zhang and Chen (arXiv:2204.13902).
inline std::vector<index_t> distinct_indices(std::span<const double> positions, index_t n_steps) {
  expects(!positions.empty(), "distinct_indices", "positions.size", positions.size());
  std::vector<index_t> list;
  list.reserve(positions.size());
  for (index_t i = 0; i < std::ssize(positions); ++i) {
    const double p = positions[static_cast<std::size_t>(i)];
    expects(p >= 0 && p < static_cast<double>(n_steps), "distinct_indices", "positions", p, i);
    expects(i == 0 || p < positions[static_cast<std::size_t>(i - 1)], "distinct_indices", "positions", p, i);
    const auto index = static_cast<index_t>(std::floor(p));
    if (list.empty() || index != list.back()) list.push_back(index);
  }
  expects(std::ssize(positions) <= n_steps - list.back(), "distinct_indices", "positions.size", positions.size());
  std::reverse(list.begin(), list.end());  // rises
  const std::size_t n = positions.size(), kept = list.size();
  index_t free = list.front();
  for (std::size_t used = 0; list.size() < n;) {  // walks the gaps of the kept indices
    while (used < kept && list[used] == free) ++used, ++free;
    list.push_back(free++);
  }
  std::sort(list.begin(), list.end(), std::greater<>{});
  return list;
}
/// The list of latent consistency models: of the `original` indices k N/original - 1, k = original, ..., 1, those at
/// floor(j original/n), j = 0, ..., n - 1. Source: Luo et al. (arXiv:2310.04378).
inline std::vector<index_t> consistency_indices(index_t n, index_t n_steps = 1000, index_t original = 50) {
  expects(original >= 1 && original <= n_steps, "consistency_indices", "original", original);
  expects(n >= 1 && n <= original, "consistency_indices", "n", n);
  std::vector<index_t> list(static_cast<std::size_t>(n));
  for (index_t j = 0; j < n; ++j)
    list[static_cast<std::size_t>(j)] = (original - j * original / n) * (n_steps / original) - 1;
  return list;
}

}  // namespace sluice
