#include <sluice/models/gaussian.hpp>
#include <sluice/models/gaussian_mixture.hpp>
#include <sluice/models/kernel_denoiser.hpp>
#include <sluice/models/mixture_1d.hpp>
#include <vector>

#include "registry.hpp"

namespace {

using golden::json;
using namespace sluice::models;

Eigen::VectorXd vector(const json& list) {
  const std::vector<double> x = golden::numbers(list);
  return Eigen::Map<const Eigen::VectorXd>(x.data(), static_cast<Eigen::Index>(x.size()));
}
/// A list of rows to one column each.
Eigen::MatrixXd columns(const json& list) {
  Eigen::MatrixXd m;
  for (const json& row : list) {
    m.conservativeResize(static_cast<Eigen::Index>(row.size()), m.cols() + 1);
    m.rightCols(1) = vector(row);
  }
  return m;
}

json closed_forms(const json& in) {
  json out{{"gaussian_x0hat", json::array()}, {"gaussian_flow_map", json::array()}, {"gmm_x0hat", json::array()},
           {"gmm_resp", json::array()},       {"gmm_logp", json::array()},          {"gmm1d_flow_map", json::array()},
           {"empirical_x0hat", json::array()}};
  const gaussian g(vector(in.at("gm")), vector(in.at("gs2")));
  const Eigen::VectorXd x = vector(in.at("x"));
  Eigen::VectorXd y(x.size());
  for (const json& pair : in.at("kk")) {
    const scaled_level from = at_kappa(golden::number(pair.at(0))), to = at_kappa(golden::number(pair.at(1)));
    g(x, from, y);
    out["gaussian_x0hat"].push_back(golden::reals(y));
    g.flow_map(y, x, from, to);
    out["gaussian_flow_map"].push_back(golden::reals(y));
  }

  const gaussian_mixture mixture(vector(in.at("w")), columns(in.at("m")), vector(in.at("s2")).cwiseSqrt());
  const Eigen::VectorXd xg = vector(in.at("xg"));
  y.resize(xg.size());
  for (const double kappa : golden::numbers(in.at("ks"))) {
    mixture(xg, at_kappa(kappa), y);
    out["gmm_x0hat"].push_back(golden::reals(y));
    out["gmm_resp"].push_back(golden::reals(mixture.responsibilities(xg, kappa)));
    out["gmm_logp"].push_back(golden::real(mixture.log_density(xg, kappa)));
  }

  const mixture_1d line(vector(in.at("w1")), vector(in.at("m1")), vector(in.at("s1")).cwiseSqrt());
  for (const json& pair : in.at("kk1")) {
    const scaled_level from = at_kappa(golden::number(pair.at(0))), to = at_kappa(golden::number(pair.at(1)));
    json row = json::array();
    for (const double v : golden::numbers(in.at("x1"))) row.push_back(line.flow_map(v, from, to));
    out["gmm1d_flow_map"].push_back(row);
  }

  kernel_denoiser bank(columns(in.at("Y")));
  const Eigen::VectorXd xe = vector(in.at("xe"));
  y.resize(xe.size());
  for (const double kappa : golden::numbers(in.at("kse"))) {
    bank(xe, at_kappa(kappa), y);
    out["empirical_x0hat"].push_back(golden::reals(y));
  }
  return out;
}

const golden::kind closed_forms_kind{"base-solvers", "closed_form_models", closed_forms};

}  // namespace
