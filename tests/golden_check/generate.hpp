#pragma once
#include <sluice/generate/sample.hpp>
#include <sluice/generate/schedule.hpp>
#include <sluice/generate/time_grid.hpp>
#include <sluice/models/gaussian_mixture.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "registry.hpp"

/// What the golden cases of the generate family share: vectors, mixtures, schedules and grids by name.
namespace golden {

inline Eigen::VectorXd vector(const json& list) {
  const std::vector<double> x = numbers(list);
  return Eigen::Map<const Eigen::VectorXd>(x.data(), static_cast<Eigen::Index>(x.size()));
}
/// A list of rows as a matrix of these rows.
inline Eigen::MatrixXd matrix(const json& rows) {
  const auto n = static_cast<Eigen::Index>(rows.size());
  Eigen::MatrixXd m(n, n > 0 ? static_cast<Eigen::Index>(rows[0].size()) : 0);
  for (Eigen::Index i = 0; i < n; ++i) m.row(i) = vector(rows[static_cast<std::size_t>(i)]).transpose();
  return m;
}
/// w, m (a mean a row), s2 (variances).
inline sluice::models::gaussian_mixture mixture(const json& in) {
  return {vector(in.at("w")), matrix(in.at("m")).transpose(), vector(in.at("s2")).cwiseSqrt()};
}
inline sluice::vp_linear vp_linear(const json& in) {
  return sluice::vp_linear(number(in.at("beta0")), number(in.at("beta1")));
}
/// n steps from time tT to t0 on a grid of this name.
template <sluice::schedule S>
std::vector<sluice::noise_level> grid(const S& s, const std::string& name, const json& in, sluice::index_t n) {
  const double from = number(in.at("tT")), to = number(in.at("t0"));
  if (name == "uniform") return sluice::uniform_levels(s, n, from, to);
  if (name == "quadratic") return sluice::quadratic_levels(s, n, from, to);
  if (name == "logsnr") return sluice::log_snr_levels(s, n, from, to);
  if (name == "karras") return sluice::kappa_power_levels(s, n, from, to);
  throw std::runtime_error("unknown grid: " + name);
}
/// The final state of a run from x; an error if it does not complete.
template <class Recipe, class Model>
json run(const Recipe& recipe, Model&& model, Eigen::VectorXd x, std::span<const sluice::noise_level> levels) {
  const auto r = sluice::sample(recipe, model, x, levels);
  if (r.status != sluice::status::completed) throw std::runtime_error(sluice::to_string(r.status));
  return reals(x);
}

}  // namespace golden
