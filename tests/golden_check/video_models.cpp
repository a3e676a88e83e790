#include <array>
#include <sluice/models/gaussian_video.hpp>
#include <sluice/models/gp_video.hpp>
#include <vector>

#include "registry.hpp"

namespace {

using golden::json;
using sluice::index_t;
using namespace sluice::models;

Eigen::VectorXd vector(const json& list) {
  const std::vector<double> x = golden::numbers(list);
  return Eigen::Map<const Eigen::VectorXd>(x.data(), static_cast<Eigen::Index>(x.size()));
}
/// A list of frames to one column.
Eigen::VectorXd frames(const json& list) {
  std::vector<double> x;
  for (const json& frame : list)
    for (const double v : golden::numbers(frame)) x.push_back(v);
  return Eigen::Map<const Eigen::VectorXd>(x.data(), static_cast<Eigen::Index>(x.size()));
}
json frames(const Eigen::VectorXd& x, index_t d) {
  json list = json::array();
  for (Eigen::Index i = 0; i < x.size(); i += d) list.push_back(golden::reals(Eigen::VectorXd(x.segment(i, d))));
  return list;
}
/// D(x) as a list of frames.
template <class F>
json denoised(F f, const Eigen::VectorXd& x, double kappa, index_t d) {
  Eigen::VectorXd out(x.size());
  f(x, at_kappa(kappa), out);
  return frames(out, d);
}

json gaussian_video_case(const json& in) {
  const index_t n = in.at("F").get<index_t>(), d = in.at("d").get<index_t>();
  const double kappa = golden::number(in.at("kappa"));
  const gaussian_frames autoregression = gaussian_video(n, d, golden::number(in.at("rho")));
  const gaussian_frames video(autoregression.covariance(), vector(in.at("pixel_variance")));
  const Eigen::VectorXd x = frames(in.at("x"));
  Eigen::MatrixXd ends(d, 2);
  ends << vector(in.at("first_frame")), vector(in.at("last_frame"));
  const auto first = video.given(std::array<index_t, 1>{0}, ends.leftCols(1));
  const auto last = video.given(std::array<index_t, 1>{n - 1}, ends.rightCols(1));
  const auto both = video.given(std::array<index_t, 2>{0, n - 1}, ends);
  return {{"unconditional", denoised(video, x, kappa, d)},
          {"given_first", denoised(first, x, kappa, d)},
          {"given_last", denoised(last, x, kappa, d)},
          {"given_both", denoised(both, x, kappa, d)}};
}

json gp_model(const json& in) {
  const Eigen::VectorXd a = vector(in.at("first_frame")), b = vector(in.at("last_frame"));
  const index_t d = a.size();
  const auto video = gp_video(
      in.at("F").get<index_t>(), d,
      {.v = golden::number(in.at("v")), .l = golden::number(in.at("l")), .nugget = golden::number(in.at("nug"))});
  const Eigen::VectorXd x = frames(in.at("x"));
  const double sigma = golden::number(in.at("sigma"));
  const auto both = bridge(video, a, b);
  json covariance = json::array();
  for (index_t i = 0; i < video.n_frames(); ++i)
    covariance.push_back(golden::reals(Eigen::VectorXd(both.covariance().row(i).transpose())));
  return {{"uncond", denoised(video, x, sigma, d)},
          {"cond", denoised(video.given(std::array<index_t, 1>{0}, a), x, sigma, d)},
          {"bridge_mean", frames(Eigen::Map<const Eigen::VectorXd>(both.mean().data(), both.dimension()), d)},
          {"bridge_cov", covariance}};
}

const golden::kind gaussian_video_kind{"test-models", "gaussian_video", gaussian_video_case};
const golden::kind gp_kind{"vibidsampler", "gp_model", gp_model};

}  // namespace
