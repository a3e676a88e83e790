#include <array>
#include <cmath>
#include <sluice/models/circle_video.hpp>
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

Eigen::VectorXd flipped(const Eigen::VectorXd& x) {
  Eigen::VectorXd y(x.size());
  for (Eigen::Index i = 0; i < x.size(); i += 2) y.segment(x.size() - 2 - i, 2) = x.segment(i, 2);
  return y;
}

json circle_model(const json& in) {
  circle_video video({.n_frames = in.at("F").get<index_t>(),
                      .n_theta = in.at("n_theta").get<index_t>(),
                      .speeds = golden::numbers(in.at("speeds")),
                      .r2 = golden::number(in.at("r2"))});
  const Eigen::Vector2d a = vector(in.at("first_frame")), b = vector(in.at("last_frame"));
  auto from_a = video.given(std::array<index_t, 1>{0}, a), from_b = video.given(std::array<index_t, 1>{0}, b);
  const std::vector<double> sigma = golden::numbers(in.at("sigmas"));
  Eigen::VectorXd x = frames(in.at("x_init"));
  const Eigen::VectorXd scaled = x / sigma.at(0);
  json out{{"uncond", denoised(video, scaled, golden::number(in.at("sigma")), 2)},
           {"cond", denoised(from_a, scaled, golden::number(in.at("sigma")), 2)}};

  // The algorithm in its plainest form: the models are what is checked here.
  const double w = golden::number(in.at("w"));
  const bool replace = in.at("dds").get<bool>(), unconditional_noise = in.at("pp").get<bool>();
  index_t calls = 0;
  const auto half_step = [&](circle_video& conditional, double s, double t, const Eigen::Vector2d& target) {
    Eigen::VectorXd c(x.size()), u(x.size());
    conditional(x, at_kappa(s), c);
    ++calls;
    u = c;
    if (unconditional_noise || w != 1) {
      video(x, at_kappa(s), u);
      ++calls;
    }
    Eigen::VectorXd d = u + w * (c - u);
    if (replace) d.tail(2) = target;
    x = d + t / s * (x - (unconditional_noise ? u : d));
  };
  for (std::size_t i = 0; i + 1 < sigma.size(); ++i) {
    const double s = sigma[i], t = sigma[i + 1];
    half_step(from_a, s, t, b);
    x += std::sqrt(s * s - t * t) * frames(in.at("noises").at(i));
    x = flipped(x);
    half_step(from_b, s, t, a);
    x = flipped(x);
  }
  out["vibid"] = frames(x, 2);
  out["calls"] = calls;
  return out;
}

const golden::kind gaussian_video_kind{"test-models", "gaussian_video", gaussian_video_case};
const golden::kind gp_kind{"vibidsampler", "gp_model", gp_model};
const golden::kind circle_kind{"vibidsampler", "circle_model", circle_model};

}  // namespace
