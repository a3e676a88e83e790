#include <Eigen/Core>
#include <sluice/generate/deis.hpp>
#include <sluice/generate/sample.hpp>
#include <sluice/generate/schedule.hpp>
#include <sluice/generate/time_grid.hpp>
#include <sluice/models/gaussian_mixture.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "registry.hpp"

namespace {

using golden::json;
using golden::number;
using golden::numbers;
using sluice::index_t;
using levels_t = std::vector<sluice::noise_level>;

sluice::vp_linear vp(const json& in) {
  if (in.contains("schedule") && in.at("schedule") != "vp_linear") throw std::runtime_error("unknown schedule");
  return sluice::vp_linear(number(in.at("beta0")), number(in.at("beta1")));
}

/// The grids of the kinds, by object or by name.
template <class S>
levels_t grid_of(const S& schedule, const json& grid, index_t n, double from, double to) {
  const std::string variable = grid.is_string() ? grid.get<std::string>() : grid.at("variable").get<std::string>();
  if (variable == "t") return sluice::levels_at(schedule, sluice::power_times(n, from, to, number(grid.at("power"))));
  if (variable == "rho") return sluice::kappa_power_levels(schedule, n, from, to, number(grid.at("power")));
  if (variable == "log_rho" || variable == "logsnr") return sluice::log_snr_levels(schedule, n, from, to);
  if (variable == "uniform") return sluice::uniform_levels(schedule, n, from, to);
  if (variable == "quadratic") return sluice::quadratic_levels(schedule, n, from, to);
  throw std::runtime_error("unknown grid " + variable);
}
template <class S>
levels_t grid_of(const S& schedule, const json& in, const json& grid) {
  return grid_of(schedule, grid, in.at("N").get<index_t>(), number(in.at("tT")), number(in.at("t0")));
}

/// f(variable) with the interpolation variable of this name.
template <class S, class F>
json with_variable(const S& schedule, const std::string& name, F&& f) {
  return golden::or_error([&]() -> json {
    if (name == "t") return f(sluice::in_time<S>(schedule));
    if (name == "rho") return f(sluice::in_kappa{});
    if (name == "logrho") return f(sluice::in_log_kappa{});
    throw std::runtime_error("unknown variable " + name);
  });
}

template <class S>
json table(const S& schedule, const levels_t& levels, const std::string& variable, int order) {
  return with_variable(schedule, variable, [&](const auto& v) {
    json rows = json::array();
    for (const sluice::deis_row& r : sluice::deis_table(v, levels, order)) {
      json row = {r.state};
      for (int j = 0; j <= order; ++j) row.push_back(r.weight[static_cast<std::size_t>(j)]);
      rows.push_back(row);
    }
    return rows;
  });
}

sluice::models::gaussian_mixture mixture(const json& in) {
  const std::vector<double> w = numbers(in.at("w")), s2 = numbers(in.at("s2"));
  const auto k = static_cast<Eigen::Index>(w.size());
  const auto d = static_cast<Eigen::Index>(in.at("m").at(0).size());
  Eigen::MatrixXd means(d, k);
  for (Eigen::Index j = 0; j < k; ++j) {
    const std::vector<double> m = numbers(in.at("m").at(static_cast<std::size_t>(j)));
    means.col(j) = Eigen::Map<const Eigen::VectorXd>(m.data(), d);
  }
  return {Eigen::Map<const Eigen::VectorXd>(w.data(), k), means,
          Eigen::Map<const Eigen::VectorXd>(s2.data(), k).cwiseSqrt()};
}

template <class Recipe>
json run(const Recipe& recipe, const sluice::models::gaussian_mixture& m, const json& start, const levels_t& levels) {
  const std::vector<double> x0 = numbers(start);
  Eigen::VectorXd x = Eigen::Map<const Eigen::VectorXd>(x0.data(), static_cast<Eigen::Index>(x0.size()));
  auto model = sluice::prediction<sluice::predicts::data>(std::cref(m));
  if (sluice::sample(recipe, model, x, levels).status != sluice::status::completed)
    throw std::runtime_error("the sampler did not complete");
  return golden::reals(x);
}

template <class S, class Then>
json with_tableau(const S& schedule, const std::string& name, Then&& then) {
  namespace t = sluice::tableau;
  if (name == "1euler") return then(sluice::rho_runge_kutta<t::euler, S>{schedule});
  if (name == "2heun") return then(sluice::rho_runge_kutta<t::heun_2, S>{schedule});
  if (name == "3kutta") return then(sluice::rho_runge_kutta<t::kutta_3, S>{schedule});
  if (name == "3ral") return then(sluice::rho_runge_kutta<t::ralston_3, S>{schedule});
  if (name == "3heun") return then(sluice::rho_runge_kutta<t::heun_3, S>{schedule});
  if (name == "3vdh") return then(sluice::rho_runge_kutta<t::van_der_houwen_3, S>{schedule});
  if (name == "3ssprk") return then(sluice::rho_runge_kutta<t::ssp_3, S>{schedule});
  if (name == "4rk") return then(sluice::rho_runge_kutta<t::classical_4, S>{schedule});
  throw std::runtime_error("unknown tableau " + name);
}

const golden::kind grids{"deis", "grids", [](const json& in) -> json {
                           const auto schedule = vp(in);
                           json list = json::array();
                           for (const json& grid : in.at("grids"))
                             list.push_back(golden::or_error([&]() -> json {
                               json times = json::array();
                               for (const sluice::noise_level& l : grid_of(schedule, in, grid)) times.push_back(l.t);
                               return times;
                             }));
                           return {{"grids", list}};
                         }};

const golden::kind ab_tables{"deis", "ab_tables", [](const json& in) -> json {
                               const auto schedule = vp(in);
                               json out = json::object();
                               const levels_t levels = grid_of(schedule, in, in.at("grid"));
                               for (const json& v : in.at("polynomial_in"))
                                 out[v.get<std::string>()] =
                                     table(schedule, levels, v.get<std::string>(), in.at("order").get<int>());
                               return out;
                             }};

const golden::kind trajectories{
    "deis", "trajectories", [](const json& in) -> json {
      const auto schedule = vp(in);
      const auto m = mixture(in);
      json runs = json::array();
      for (const json& r : in.at("runs"))
        runs.push_back(golden::or_error([&]() -> json {
          const levels_t levels = grid_of(schedule, in, r.at("grid"));
          const std::string sampler = r.at("sampler").get<std::string>();
          const auto with = [&](const auto& recipe) { return run(recipe, m, in.at("xT"), levels); };
          if (sampler == "rhoRK") return with_tableau(schedule, r.at("tableau").get<std::string>(), with);
          const int order = r.at("order").get<int>();
          if (sampler == "ipndm") return with(sluice::deis<sluice::classical_weights>{.order = order});
          if (sampler != "AB") throw std::runtime_error("unknown sampler " + sampler);
          return with_variable(schedule, r.at("polynomial_in").get<std::string>(), [&]<class V>(const V& v) {
            return with(sluice::deis<V>{.order = order, .variable = v});
          });
        }));
      return {{"runs", runs}};
    }};

const golden::kind flow_schedule{
    "deis", "flow_schedule", [](const json& in) -> json {
      const sluice::rectified_flow schedule;
      const levels_t levels = grid_of(schedule, in, in.at("grid"));
      const auto m = mixture(in);
      const int order = in.at("order").get<int>();
      json tables = json::array(), ab = json::array();
      for (const json& v : in.at("table_polynomial_in"))
        tables.push_back(table(schedule, levels, v.get<std::string>(), order));
      for (const json& name : in.at("run_polynomial_in"))
        ab.push_back(with_variable(schedule, name.get<std::string>(), [&]<class V>(const V& v) {
          return run(sluice::deis<V>{.order = order, .variable = v}, m, in.at("xT"), levels);
        }));
      return {{"tables", tables}, {"AB", ab}};
    }};

}  // namespace
