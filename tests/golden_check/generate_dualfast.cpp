#include <cmath>
#include <sluice/generate/ddim.hpp>
#include <sluice/generate/dpm_solver.hpp>
#include <sluice/generate/dualfast.hpp>
#include <sluice/generate/unipc.hpp>
#include <sluice/models/gaussian.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "generate.hpp"

namespace {

using golden::json;
using namespace sluice;

std::vector<double> coefficients(const std::string& kind, double c0, const std::vector<noise_level>& levels) {
  const index_t n = std::ssize(levels) - 1;
  if (kind == "flat") return mixing_coefficients(n, c0);
  if (kind == "up") return mixing_coefficients(n, c0, mixing_ramp::up);
  if (kind == "down") return mixing_coefficients(n, c0, mixing_ramp::down);
  if (kind == "zero") return mixing_coefficients(n, 0);
  if (kind == "ab2_equivalent") return adams_bashforth_coefficients(levels);
  throw std::runtime_error("unknown coefficients: " + kind);
}
std::vector<noise_level> levels_of(const json& in) {
  return golden::grid(golden::vp_linear(in), in.at("grid"), in, in.at("N").get<index_t>());
}

json c_schedules(const json& in) {
  const auto levels = levels_of(in);
  json out;
  for (const std::string kind : in.at("kinds"))
    out[kind] = golden::reals(coefficients(kind, golden::number(in.at("c0")), levels));
  return out;
}

/// One step of DDIM to sigma = 0 in the form of data returns alpha times what the hook let through.
json mixing_case(const json& in) {
  const Eigen::VectorXd newest = golden::vector(in.at("eps_t")), earlier = golden::vector(in.at("eps_tau")),
                        x = golden::vector(in.at("x"));
  const double c = golden::number(in.at("c"));
  const noise_level l = golden::vp_linear(in).at(golden::number(in.at("t")));
  const affine to_data = conversion(predicts::noise, predicts::data, l);
  const Eigen::VectorXd raw = to_data.x * x + to_data.p * newest;
  // Three levels: the first evaluation is the earlier one, the second is at l.
  const std::vector<noise_level> levels{{2, l.alpha, 2 * l.sigma}, l, {0, 1, 0}};
  const dualfast<ddim<>> recipe{.coefficients = {0, c}};
  Eigen::VectorXd state = x;
  auto stepper = recipe.bind(state, levels);
  auto first = prediction<predicts::noise>([&](const auto&, const noise_level&, auto& out) { out = earlier; });
  auto second = prediction<predicts::noise>([&](const auto&, const noise_level&, auto& out) { out = newest; });
  stepper.step(first, state, 0);
  state = x;
  stepper.step(second, state, 1);
  const affine to_noise = conversion(predicts::data, predicts::noise, l);
  return {{"eps_mixed", golden::reals(Eigen::VectorXd(to_noise.x * x + to_noise.p * state))},
          {"D_mixed", golden::reals(state)},
          {"D_raw", golden::reals(raw)}};
}

json trajectories(const json& in) {
  const auto levels = levels_of(in);
  const Eigen::VectorXd x = golden::vector(in.at("xT"));
  auto model = prediction<predicts::data>(golden::mixture(in));
  json runs = json::array();
  for (const json& r : in.at("runs")) {
    const std::string solver = r.at("solver");
    const auto c = coefficients(r.at("c"), golden::number(in.at("c0")), levels);
    const auto reference = r.at("tau") == "first" ? earlier_prediction::first : earlier_prediction::previous;
    const auto mixed = [&](auto recipe) {
      return golden::run(dualfast<decltype(recipe)>{.recipe = recipe, .reference = reference, .coefficients = c}, model,
                         x, levels);
    };
    const auto everywhere = [&](auto recipe) {
      return golden::run(
          dualfast<decltype(recipe), mixing::everywhere>{.recipe = recipe, .reference = reference, .coefficients = c},
          model, x, levels);
    };
    const dpm_multistep<2> data{}, noise{.form = predicts::noise};
    if (solver == "ddim")
      runs.push_back(mixed(ddim<>{}));
    else if (solver == "2m_x0_first" || solver == "2m_x0")
      runs.push_back(mixed(data));
    else if (solver == "2m_eps_first" || solver == "2m_eps")
      runs.push_back(mixed(noise));
    else if (solver == "2m_x0_all")
      runs.push_back(everywhere(data));
    else if (solver == "2m_eps_all")
      runs.push_back(everywhere(noise));
    else if (solver == "2s_eps")
      runs.push_back(
          mixed(dpm_singlestep<2, sluice::vp_linear>{.schedule = golden::vp_linear(in), .form = predicts::noise}));
    else if (solver == "unipc2_bh2")
      runs.push_back(mixed(unipc<2>{}));
    else
      throw std::runtime_error("unknown solver: " + solver);
  }
  return {{"runs", std::move(runs)}};
}

json imperfect_model(const json& in) {
  const auto levels = levels_of(in);
  const Eigen::VectorXd x = golden::vector(in.at("xT"));
  const models::gaussian truth(golden::vector(in.at("gm")), golden::vector(in.at("gs2")));
  const auto reference = in.at("tau") == "first" ? earlier_prediction::first : earlier_prediction::previous;
  const auto flow = [&](const models::gaussian& data) {
    Eigen::VectorXd end(x.size());
    data.flow_map(end, x, levels.front(), levels.back());
    return golden::reals(end);
  };
  json rows = json::array();
  for (const double b : golden::numbers(in.at("blur"))) {
    const models::gaussian blurred = truth.inflated(b);
    auto model = prediction<predicts::data>(blurred);
    rows.push_back({{"base", golden::run(ddim<>{}, model, x, levels)},
                    {"dual", golden::run(dualfast<ddim<>>{.c = golden::number(in.at("c0")), .reference = reference},
                                         model, x, levels)},
                    {"model_exact_flow", flow(blurred)},
                    {"true_flow", flow(truth)}});
  }
  return {{"rows", std::move(rows)}};
}

const golden::kind a{"dualfast", "c_schedules", c_schedules};
const golden::kind b{"dualfast", "mixing", mixing_case};
const golden::kind c{"dualfast", "trajectories", trajectories};
const golden::kind d{"dualfast", "imperfect_model", imperfect_model};

}  // namespace
