#include <sluice/models/patch_attention.hpp>
#include <sluice/models/texture_mixture.hpp>
#include <vector>

#include "registry.hpp"

namespace {

using golden::json;
using sluice::index_t;
using namespace sluice::models;

/// An image, a list of rows, to a row-major column.
Eigen::VectorXd image(const json& list) {
  std::vector<double> pixels;
  for (const json& row : list)
    for (const double p : golden::numbers(row)) pixels.push_back(p);
  return Eigen::Map<const Eigen::VectorXd>(pixels.data(), static_cast<Eigen::Index>(pixels.size()));
}
Eigen::MatrixXd images(const json& list) {
  Eigen::MatrixXd m(image(list.at(0)).size(), static_cast<Eigen::Index>(list.size()));
  for (Eigen::Index j = 0; j < m.cols(); ++j) m.col(j) = image(list.at(static_cast<std::size_t>(j)));
  return m;
}
json rows(const Eigen::VectorXd& pixels, index_t r) {
  json list = json::array();
  for (index_t i = 0; i < r; ++i) list.push_back(golden::reals(Eigen::VectorXd(pixels.segment(i * r, r))));
  return list;
}
json rows(const Eigen::MatrixXd& m) {
  json list = json::array();
  for (index_t i = 0; i < m.rows(); ++i) list.push_back(golden::reals(Eigen::VectorXd(m.row(i).transpose())));
  return list;
}

json texture_model(const json& in) {
  const index_t r = in.at("R").get<index_t>();
  const std::vector<double> w = golden::numbers(in.at("w"));
  const texture_law law{r, Eigen::Map<const Eigen::VectorXd>(w.data(), static_cast<Eigen::Index>(w.size())),
                        images(in.at("mu")),
                        texture_spectrum(r, golden::number(in.at("a")), golden::number(in.at("c")))};
  const texture_law low = low_resolution(law);
  json out{{"spectrum", rows(law.spectrum)}, {"low_spectrum", rows(low.spectrum)}};
  for (index_t j = 0; j < low.means.cols(); ++j) out["low_mu"].push_back(rows(low.means.col(j), low.r));
  const Eigen::VectorXd x = image(in.at("x")), y = block_average(x, r);
  texture_mixture high_model(law), low_model(low, token_mixing::separable);
  Eigen::VectorXd high(x.size()), pooled(y.size());
  for (const double kappa : golden::numbers(in.at("kappa"))) {
    high_model(x, at_kappa(kappa), high);
    low_model(y, at_kappa(kappa), pooled);
    out["x0hat_high"].push_back(rows(high, r));
    out["x0hat_low"].push_back(rows(pooled, low.r));
  }
  return out;
}

json patch_model(const json& in) {
  const index_t r = std::ssize(in.at("x"));
  const Eigen::VectorXd x = image(in.at("x"));
  patch_attention<> f(images(in.at("bank")), r,
                      {.window = in.at("w").get<index_t>(), .ell = golden::number(in.at("l"))});
  Eigen::VectorXd d(x.size());
  json out;
  for (const double kappa : golden::numbers(in.at("kappa"))) {
    f(x, at_kappa(kappa), d);
    out["x0hat"].push_back(rows(d, r));
  }
  return out;
}

const golden::kind texture_kind{"bottleneck-sampling", "texture_model", texture_model};
const golden::kind patch_kind{"bottleneck-sampling", "patch_attention", patch_model};

}  // namespace
