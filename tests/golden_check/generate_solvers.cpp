#include <Eigen/Core>
#include <cmath>
#include <cstddef>
#include <sluice/generate/ddim.hpp>
#include <sluice/generate/dpm_solver.hpp>
#include <sluice/generate/euler.hpp>
#include <sluice/generate/heun.hpp>
#include <sluice/generate/sample.hpp>
#include <sluice/generate/schedule.hpp>
#include <sluice/generate/time_grid.hpp>
#include <sluice/generate/unipc.hpp>
#include <sluice/models/gaussian_mixture.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "registry.hpp"

namespace {

using golden::json;
using golden::number;
using golden::numbers;
using golden::reals;
using sluice::noise_level;
using sluice::predicts;
using row = std::vector<double>;
using levels = std::vector<noise_level>;

sluice::vp_linear vp_of(const json& in) { return sluice::vp_linear(number(in.at("beta0")), number(in.at("beta1"))); }
sluice::vp_discrete ddpm_of(const json& in, bool scaled) {
  const auto n = in.at("N").get<sluice::index_t>();
  const double first = number(in.at("beta_start")), last = number(in.at("beta_end"));
  return scaled ? sluice::vp_discrete::scaled_linear(n, first, last) : sluice::vp_discrete::linear(n, first, last);
}
row times_of(const levels& grid) {
  row t;
  for (const noise_level& l : grid) t.push_back(l.t);
  return t;
}

template <class S>
json schedule_table(const S& s, const row& t) {
  row alpha, sigma, lambda, kappa, back;
  for (const double ti : t) {
    const noise_level l = s.at(ti);
    alpha.push_back(l.alpha), sigma.push_back(l.sigma), lambda.push_back(l.lambda()), kappa.push_back(l.kappa());
    back.push_back(s.at_lambda(l.lambda()).t);
  }
  return {{"t", reals(t)},           {"alpha", reals(alpha)}, {"sigma", reals(sigma)},
          {"lambda", reals(lambda)}, {"kappa", reals(kappa)}, {"t_roundtrip", reals(back)}};
}
json abar_table(const sluice::vp_discrete& s, const json& indices) {
  row abar;
  for (const json& i : indices) {
    const double alpha = s.at_index(i.get<sluice::index_t>()).alpha;
    abar.push_back(alpha * alpha);
  }
  return reals(abar);
}

const golden::kind schedules{
    "base-solvers", "schedules", [](const json& in) -> json {
      return golden::or_error([&]() -> json {
        json out;
        if (in.contains("vp_linear"))
          out["vp_linear"] = schedule_table(vp_of(in["vp_linear"]), numbers(in["vp_linear"].at("t")));
        if (in.contains("vp_cosine")) {
          const json& c = in["vp_cosine"];
          const auto cosine = c.contains("t_max") ? sluice::vp_cosine(number(c.at("s")), number(c["t_max"]))
                                                  : sluice::vp_cosine(number(c.at("s")));
          out["vp_cosine"] = schedule_table(cosine, numbers(c.at("t")));
        }
        if (in.contains("flow")) out["flow"] = schedule_table(sluice::rectified_flow{}, numbers(in["flow"].at("t")));
        for (const char* name : {"ddpm_linear", "scaled_linear"})
          if (in.contains(name))
            out[std::string(name) + "_abar"] =
                abar_table(ddpm_of(in[name], name == std::string("scaled_linear")), in[name].at("idx"));
        return out;
      });
    }};

/// f(schedule) for the schedule that the inputs name.
template <class F>
json with_schedule(const json& in, F&& f) {
  const auto name = in.value("schedule", std::string("vp_linear"));
  if (name == "vp_linear") return f(vp_of(in));
  if (name == "vp_cosine") return f(sluice::vp_cosine(number(in.at("s"))));
  if (name == "flow") return f(sluice::rectified_flow{});
  if (name == "edm") return f(sluice::edm{});
  throw std::runtime_error("unknown schedule: " + name);
}
template <class S>
levels grid_of(const S& s, const std::string& name, sluice::index_t n, double from, double to, double rho = 7) {
  if (name == "uniform") return sluice::uniform_levels(s, n, from, to);
  if (name == "quadratic") return sluice::quadratic_levels(s, n, from, to);
  if (name == "logsnr") return sluice::log_snr_levels(s, n, from, to);
  if (name == "karras") return sluice::kappa_power_levels(s, n, from, to, rho);
  throw std::runtime_error("unknown grid: " + name);
}

const golden::kind time_grids{
    "base-solvers", "time_grids", [](const json& in) -> json {
      return golden::or_error([&]() -> json {
        json out = with_schedule(in, [&](const auto& s) {
          json grids;
          for (const char* name : {"uniform", "quadratic", "logsnr", "karras"})
            grids[name] = reals(times_of(grid_of(s, name, in.at("N").get<sluice::index_t>(), number(in.at("tT")),
                                                 number(in.at("t0")), number(in.at("rho")))));
          return grids;
        });
        if (in.contains("karras_sigmas")) {
          const json& k = in["karras_sigmas"];
          row sigma;
          for (const noise_level& l : sluice::karras_levels(k.at("n").get<sluice::index_t>(), number(k.at("sigma_min")),
                                                            number(k.at("sigma_max")), number(k.at("rho"))))
            sigma.push_back(l.sigma);
          out["karras_sigmas"] = reals(sigma);
        }
        if (in.contains("shift")) {
          row shifted;
          for (const double t : numbers(in["shift"].at("t")))
            shifted.push_back(sluice::time_shift(t, number(in["shift"].at("s"))));
          out["shift"] = reals(shifted);
        }
        if (in.contains("lcm")) {
          const json& l = in["lcm"];
          out["lcm"] =
              sluice::consistency_indices(l.at("n").get<sluice::index_t>(), l.at("train").get<sluice::index_t>(),
                                          l.at("original").get<sluice::index_t>());
        }
        return out;
      });
    }};

const golden::kind parameterisations{
    "base-solvers", "parameterisations", [](const json& in) -> json {
      return golden::or_error([&]() -> json {
        const row x = numbers(in.at("x")), eps = numbers(in.at("eps"));
        const auto all = [&](const noise_level& l) -> json {
          const auto to = [&](predicts form) {
            auto converted = sluice::prediction<predicts::noise>(
                [&](const auto&, const noise_level&, auto& out) { sluice::lincomb(out, 1, eps); });
            row out(x.size());
            converted(x, l, out, form);
            return reals(out);
          };
          return {{"x0", to(predicts::data)},
                  {"v", to(predicts::v)},
                  {"score", to(predicts::score)},
                  {"flow_velocity_eps_minus_x0", to(predicts::velocity)}};
        };
        const double t = number(in.at("t"));
        return {{"vp_linear", all(vp_of(in).at(t))}, {"flow", all(sluice::rectified_flow{}.at(t))}};
      });
    }};

json unipc_row(double hh, const row& rk, sluice::unipc_variant variant) {
  const auto first = [&](std::size_t n) { return std::span<const double>(rk).first(n); };
  const auto w2 = sluice::unipc_coefficients(2, hh, first(1), variant);
  const auto w3 = sluice::unipc_coefficients(3, hh, first(2), variant);
  return {{"B", w3.scale},
          {"b3", reals(w3.b)},
          {"rho_c_order2", reals(std::span<const double>(w2.corrector).first(2))},
          {"rho_p_order3", reals(w3.predictor)},
          {"rho_c_order3", reals(w3.corrector)}};
}

const golden::kind step_coefficients{
    "base-solvers", "step_coefficients", [](const json& in) -> json {
      return golden::or_error([&]() -> json {
        const sluice::vp_discrete ddpm = ddpm_of(in.at("ddpm_linear"), false);
        const noise_level from = ddpm.at_index(in.at("abar_from_index").get<sluice::index_t>()),
                          to = ddpm.at_index(in.at("abar_to_index").get<sluice::index_t>());
        json ddim = json::array(), ancestral = json::array();
        for (const double eta : numbers(in.at("ddim_eta"))) {
          const auto w = sluice::ddim_coefficients(from, to, eta);
          ddim.push_back({{"c_x0", w.data}, {"c_eps", w.noise}, {"std", w.fresh}});
        }
        const auto posterior = sluice::ddpm_posterior(from, to);
        const row ancestral_kappa = numbers(in.at("edm_ancestral_from_to"));
        for (const double eta : numbers(in.at("edm_ancestral_eta"))) {
          const auto k = sluice::ancestral_split(ancestral_kappa.at(0), ancestral_kappa.at(1), eta);
          ancestral.push_back(reals(row{k.down, k.up}));
        }
        const row sde_kappa = numbers(in.at("sde_kappa_from_to_prev"));
        const auto sde_levels = sluice::edm_levels({sde_kappa.at(2), sde_kappa.at(0), sde_kappa.at(1)});
        const auto sde = sluice::sde_dpm_coefficients(sde_levels[1], sde_levels[2],
                                                      sluice::log_snr_step(sde_levels[0], sde_levels[1]),
                                                      number(in.at("sde_eta")), sluice::sde_correction::midpoint);
        json out{{"ddim", ddim},
                 {"ddpm_posterior", {{"c_x0", posterior.data}, {"c_xt", posterior.x}, {"var", posterior.variance}}},
                 {"edm_ancestral", ancestral},
                 {"dpmpp_2m_sde_midpoint",
                  {{"c_x", sde.x}, {"c_D", sde.data}, {"c_dD", sde.difference}, {"std", sde.noise}}}};
        const double h = number(in.at("unipc_h"));
        const row rk = numbers(in.at("unipc_rk"));
        for (const bool data : {true, false})
          for (const bool b1 : {true, false})
            out[std::string("unipc_") + (data ? "x0" : "eps") + (b1 ? "_bh1" : "_bh2")] =
                unipc_row(data ? -h : h, rk, b1 ? sluice::unipc_variant::b1 : sluice::unipc_variant::b2);
        return out;
      });
    }};

/// f(recipe) for the solver of this name, under schedule s.
template <class S, class F>
void with_solver(const std::string& name, const S& s, F&& f) {
  using sluice::third_order;
  using sluice::unipc_variant;
  constexpr auto noise = predicts::noise, data = predicts::data;
  if (name == "ddim") return f(sluice::ddim<>{});
  if (name == "heun") return f(sluice::heun{});
  if (name == "euler_in_kappa") return f(sluice::heun{.order = 1});
  if (name == "euler_in_t") return f(sluice::euler<S>{s});
  if (name == "dpm_2s_eps") return f(sluice::dpm_singlestep<2, S>{.schedule = s, .form = noise});
  if (name == "dpm_3s_eps") return f(sluice::dpm_singlestep<3, S>{.schedule = s, .form = noise});
  if (name == "dpmpp_2s") return f(sluice::dpm_singlestep<2, S>{.schedule = s});
  if (name == "dpmpp_3s") return f(sluice::dpm_singlestep<3, S>{.schedule = s});
  if (name == "dpm_2m_eps") return f(sluice::dpm_multistep<2>{.form = noise});
  if (name == "dpmpp_2m") return f(sluice::dpm_multistep<2>{});
  if (name == "dpm_3m_eps_compat") return f(sluice::dpm_multistep<3, third_order::compat>{.form = noise});
  if (name == "dpmpp_3m_compat") return f(sluice::dpm_multistep<3, third_order::compat>{});
  if (name == "dpm_3m_eps_consistent") return f(sluice::dpm_multistep<3>{.form = noise});
  if (name == "dpmpp_3m_consistent") return f(sluice::dpm_multistep<3>{});
  // unip<p>_bh<k> and unipc<p>_bh<k>, with _eps for the noise form.
  const bool corrector = name.rfind("unipc", 0) == 0;
  const std::size_t at = corrector ? 5 : 4;
  if (name.rfind("unip", 0) == 0 && name.size() >= at + 5 && name.compare(at + 1, 3, "_bh") == 0) {
    const auto form = name.compare(at + 5, std::string::npos, "_eps") == 0 ? noise : data;
    const auto variant = name[at + 4] == '1' ? unipc_variant::b1 : unipc_variant::b2;
    if (name[at] == '1') return f(sluice::unipc<1>{.form = form, .variant = variant, .corrector = corrector});
    if (name[at] == '2') return f(sluice::unipc<2>{.form = form, .variant = variant, .corrector = corrector});
    if (name[at] == '3') return f(sluice::unipc<3>{.form = form, .variant = variant, .corrector = corrector});
  }
  throw std::runtime_error("unknown solver: " + name);
}

const golden::kind trajectories{
    "base-solvers", "trajectories", [](const json& in) -> json {
      return golden::or_error([&]() -> json {
        const row w = numbers(in.at("w")), s2 = numbers(in.at("s2")), start = numbers(in.at("xT"));
        const auto dimension = static_cast<Eigen::Index>(start.size());
        Eigen::VectorXd weights(std::ssize(w)), sd(std::ssize(w));
        Eigen::MatrixXd means(dimension, std::ssize(w));
        for (std::size_t j = 0; j < w.size(); ++j) {
          const auto column = static_cast<Eigen::Index>(j);
          const row mean = numbers(in.at("m").at(j));
          weights(column) = w[j], sd(column) = std::sqrt(s2.at(j));
          for (Eigen::Index e = 0; e < dimension; ++e) means(e, column) = mean.at(static_cast<std::size_t>(e));
        }
        const sluice::models::gaussian_mixture mixture(weights, means, sd);
        json runs = json::array();
        for (const json& run : in.at("runs")) {
          const json& place = in.at(run.at("schedule").get<std::string>());
          json named = place;
          if (!named.contains("schedule")) named["schedule"] = run.at("schedule");
          runs.push_back(with_schedule(named, [&](const auto& s) {
            const levels grid = grid_of(s, run.at("grid").get<std::string>(), in.at("N").get<sluice::index_t>(),
                                        number(place.at("tT")), number(place.at("t0")));
            Eigen::VectorXd x = Eigen::Map<const Eigen::VectorXd>(start.data(), dimension);
            with_solver(run.at("solver").get<std::string>(), s, [&](const auto& recipe) {
              auto model = sluice::prediction<predicts::data>(
                  [&](const auto& z, const noise_level& l, auto& out) { mixture(z, l, out); });
              const auto result = sluice::sample(recipe, model, x, grid);
              if (result.status != sluice::status::completed) throw std::runtime_error("the run was not completed");
            });
            return reals(x);
          }));
        }
        return {{"runs", runs}};
      });
    }};

/// Mean and variance of a DDIM(eta) chain on Gaussian data, read off the stepper: a step is affine in the state and in
/// the noise, so three states tell the map of mean and variance.
const golden::kind ddim_eta_output_moments{
    "base-solvers", "ddim_eta_output_moments", [](const json& in) -> json {
      return golden::or_error([&]() -> json {
        const row mean = numbers(in.at("gm")), variance = numbers(in.at("gs2"));
        return with_schedule(in, [&](const auto& s) -> json {
          const levels grid = grid_of(s, in.at("grid").get<std::string>(), in.at("N").get<sluice::index_t>(),
                                      number(in.at("tT")), number(in.at("t0")));
          json rows = json::array();
          for (const double eta : numbers(in.at("eta"))) {
            row out_mean, out_variance;
            for (std::size_t j = 0; j < mean.size(); ++j) {
              auto model = sluice::prediction<predicts::data>([&](const row& z, const noise_level& l, row& out) {
                const double k2 = l.kappa() * l.kappa();
                for (std::size_t e = 0; e < z.size(); ++e)
                  out[e] = mean[j] + variance[j] / (variance[j] + k2) * (z[e] / l.alpha - mean[j]);
              });
              double m = grid.front().alpha * mean[j], v = grid.front().alpha * grid.front().alpha * variance[j] +
                                                           grid.front().sigma * grid.front().sigma;
              row x(3);
              const auto unit = [](row& xi, sluice::index_t, const noise_level&, const noise_level&) {
                xi = {0, 0, 1};
              };
              auto stepper = sluice::ddim<decltype(unit)>{eta, unit}.bind(x, grid);
              for (sluice::index_t i = 0; i + 1 < std::ssize(grid); ++i) {
                x = {m, m + 1, m};
                stepper.step(model, x, i);
                const double slope = x[1] - x[0], fresh = x[2] - x[0];
                m = x[0];
                v = slope * slope * v + fresh * fresh;
              }
              out_mean.push_back(m), out_variance.push_back(v);
            }
            rows.push_back({{"mean", reals(out_mean)}, {"var", reals(out_variance)}});
          }
          return {{"rows", rows}};
        });
      });
    }};

}  // namespace
