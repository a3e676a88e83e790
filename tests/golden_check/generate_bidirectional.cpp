#include <Eigen/Eigenvalues>
#include <algorithm>
#include <array>
#include <cmath>
#include <sluice/generate/bidirectional.hpp>
#include <sluice/generate/time_grid.hpp>
#include <sluice/kernels/conjugate_gradient.hpp>
#include <sluice/models/circle_video.hpp>
#include <sluice/models/gp_video.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "registry.hpp"

namespace {

using golden::json;
using sluice::index_t;
using sluice::noise_level;
using sluice::predicts;
using sluice::renoising;
using namespace sluice::models;
using Eigen::MatrixXd;
using Eigen::VectorXd;

VectorXd vector(const json& list) {
  const std::vector<double> x = golden::numbers(list);
  return Eigen::Map<const VectorXd>(x.data(), std::ssize(x));
}
MatrixXd matrix(const json& rows) {
  MatrixXd m(std::ssize(rows), std::ssize(rows.at(0)));
  for (Eigen::Index i = 0; i < m.rows(); ++i) m.row(i) = vector(rows.at(static_cast<std::size_t>(i))).transpose();
  return m;
}
json rows_of(const MatrixXd& m) {
  json list = json::array();
  for (Eigen::Index i = 0; i < m.rows(); ++i) list.push_back(golden::reals(VectorXd(m.row(i).transpose())));
  return list;
}
/// Frames are rows in the files, one after the other in a column of a state.
VectorXd sequence(const json& frames) {
  const MatrixXd m = matrix(frames).transpose();
  return m.reshaped();
}
json frames_of(const VectorXd& x, index_t d) { return rows_of(MatrixXd(x.reshaped(d, x.size() / d).transpose())); }

/// The noises of the file, in turn.
struct given_noise {
  std::vector<VectorXd> list;
  explicit given_noise(const json& noises) {
    for (const json& z : noises) list.push_back(sequence(z));
  }
  void operator()(MatrixXd& out, index_t i, const noise_level&, const noise_level&) const {
    out = list.at(static_cast<std::size_t>(i));
  }
};
/// A model of the test models as the sampler sees it.
template <class V>
auto data_model(const V& video) {
  return sluice::prediction<predicts::data>(video);
}
/// A video model with one end known, forwards and backwards, and none.
template <class V>
auto two_ends(const V& video, const VectorXd& a, const VectorXd& b) {
  const std::array<index_t, 1> first{0};
  return sluice::two_ended(data_model(video.given(first, a)), data_model(video.given(first, b)), data_model(video));
}
gaussian_frames gp_of(const json& in) {
  return gp_video(
      in.at("F").get<index_t>(), std::ssize(in.at("first_frame")),
      {.v = golden::number(in.at("v")), .l = golden::number(in.at("l")), .nugget = golden::number(in.at("nug"))});
}
/// Calls f with the recipe for the flags pp (CFG++) and dds (replacement).
template <class Noise, class F>
void with_recipe(double w, bool pp, bool dds, const Noise& noise, F&& f) {
  const auto make = [&]<renoising R>(auto consistency) {
    f(sluice::bidirectional<R>{.forward_weight = w, .backward_weight = w}
          .with_consistency(consistency)
          .with_noise(noise));
  };
  if (pp && dds) return make.template operator()<renoising::cfg_plus_plus>(sluice::replace_last_frame{});
  if (pp) return make.template operator()<renoising::cfg_plus_plus>(sluice::no_consistency{});
  if (dds) return make.template operator()<renoising::standard>(sluice::replace_last_frame{});
  make.template operator()<renoising::standard>(sluice::no_consistency{});
}

json dds_cg(const json& in) {
  const MatrixXd a = matrix(in.at("A"));
  const VectorXd b = vector(in.at("b"));
  json list = json::array();
  for (const json& n : in.at("n_inner")) {
    VectorXd x = vector(in.at("x"));
    sluice::conjugate_gradient solver(x);
    static_cast<void>(solver.solve([&](const VectorXd& z, VectorXd& out) { out = a * z; }, x, b,
                                   {.max_iterations = n.get<index_t>(), .relative_tolerance = 0}));
    list.push_back(golden::reals(x));
  }
  return {{"x_after", std::move(list)}};
}

json gp_trajectories(const json& in) {
  const gaussian_frames video = gp_of(in);
  const VectorXd a = vector(in.at("first_frame")), b = vector(in.at("last_frame"));
  const auto levels = sluice::edm_levels(golden::numbers(in.at("sigmas")));
  const given_noise noise(in.at("noises"));
  auto models = two_ends(video, a, b);
  json runs = json::array(), after;
  for (const json& r : in.at("runs"))
    with_recipe(golden::number(r.at("w")), r.at("pp").get<bool>(), r.at("dds").get<bool>(), noise,
                [&](const auto& recipe) {
                  MatrixXd x = sequence(in.at("x_init"));
                  const auto result = sluice::sample_between(recipe, models, x, a, b, levels, {},
                                                             [&](index_t i, const noise_level&, const auto& z) {
                                                               if (i == 1 && runs.size() == in.at("first_step_of_run"))
                                                                 after = frames_of(z.col(0), a.size());
                                                               return true;
                                                             });
                  runs.push_back({{"x", frames_of(x.col(0), a.size())}, {"calls", result.stats.nfe}});
                });
  return {{"runs", std::move(runs)}, {"after_first_step", std::move(after)}};
}

/// Unit noise of step i in frame f, all features, for column 1 + F + i F + f: the sampler is affine in start and noise,
/// so the columns of one batch are the columns of its matrix.
struct basis_noise {
  index_t n_frames;
  void operator()(MatrixXd& out, index_t i, const noise_level&, const noise_level&) const {
    out.setZero();
    const index_t d = out.rows() / n_frames;
    for (index_t f = 0; f < n_frames; ++f) out.col(1 + n_frames * (1 + i) + f).segment(f * d, d).setOnes();
  }
};
MatrixXd root(const MatrixXd& c) {
  const Eigen::SelfAdjointEigenSolver<MatrixXd> solver((c + c.transpose()) / 2);
  return solver.eigenvectors() * solver.eigenvalues().cwiseMax(0.0).cwiseSqrt().asDiagonal() *
         solver.eigenvectors().transpose();
}
json output_law(const json& in) {
  const gaussian_frames video = gp_of(in);
  const VectorXd a = vector(in.at("first_frame")), b = vector(in.at("last_frame"));
  const auto levels = sluice::edm_levels(golden::numbers(in.at("sigmas")));
  const index_t n = video.n_frames(), d = video.n_features(), steps = std::ssize(levels) - 1;
  const double w = golden::number(in.at("w")), sd = golden::number(in.at("start_sd"));
  const gaussian_frames truth = bridge(video, a, b);
  auto models = two_ends(video, a, b);
  json out;
  for (const json& v : in.at("variants")) {
    MatrixXd x = MatrixXd::Constant(n * d, 1 + n * (1 + steps), golden::number(in.at("start_mean")));
    for (index_t f = 0; f < n; ++f) x.col(1 + f).segment(f * d, d).array() += sd;
    const auto run = [&](const auto& recipe) {
      static_cast<void>(sluice::sample_between(recipe, models, x, a, b, levels));
    };
    const std::string kind = v.at("kind").get<std::string>();
    if (kind == "vibid")
      with_recipe(w, v.at("pp").get<bool>(), v.at("dds").get<bool>(), basis_noise{n}, run);
    else if (kind == "fusion")
      run(sluice::time_reversal_fusion<>{});
    else if (kind == "one_sided")
      run(sluice::one_sided{});
    else
      throw std::runtime_error("unknown sampler: " + kind);
    const VectorXd mean = x.col(0);
    MatrixXd c = MatrixXd::Zero(n, n);
    for (index_t j = 1; j < x.cols(); ++j) {
      const VectorXd delta = (x.col(j) - mean)(Eigen::seqN(0, n, d));  // of the first feature; all have the same law
      c += delta * delta.transpose();
    }
    const MatrixXd s = root(truth.covariance());
    const double distance = (mean - truth.mean().reshaped()).squaredNorm() +
                            static_cast<double>(d) * (c + truth.covariance() - 2 * root(s * c * s)).trace();
    out[v.at("key").get<std::string>()] = {{"mean", frames_of(mean, d)},
                                           {"cov", rows_of(c)},
                                           {"cov_diag", golden::reals(VectorXd(c.diagonal()))},
                                           {"w2_to_bridge", std::sqrt(std::max(0.0, distance))}};
  }
  return out;
}

json circle_model(const json& in) {
  const circle_video video({.n_frames = in.at("F").get<index_t>(),
                            .n_theta = in.at("n_theta").get<index_t>(),
                            .speeds = golden::numbers(in.at("speeds")),
                            .r2 = golden::number(in.at("r2"))});
  const VectorXd a = vector(in.at("first_frame")), b = vector(in.at("last_frame"));
  auto models = two_ends(video, a, b);
  const noise_level level = sluice::edm{}.at(golden::number(in.at("sigma")));
  const auto levels = sluice::edm_levels(golden::numbers(in.at("sigmas")));
  MatrixXd x = sequence(in.at("x_init")), d = x;
  const MatrixXd scaled = x / levels.front().sigma;
  json out;
  models.unconditional(scaled, level, d, predicts::data);
  out["uncond"] = frames_of(d.col(0), 2);
  models.forward(scaled, level, d, predicts::data);
  out["cond"] = frames_of(d.col(0), 2);
  with_recipe(golden::number(in.at("w")), in.at("pp").get<bool>(), in.at("dds").get<bool>(),
              given_noise(in.at("noises")), [&](const auto& recipe) {
                const auto result = sluice::sample_between(recipe, models, x, a, b, levels);
                out["vibid"] = frames_of(x.col(0), 2);
                out["calls"] = result.stats.nfe;
              });
  return out;
}

const golden::kind cg_kind{"vibidsampler", "dds_cg", dds_cg};
const golden::kind trajectory_kind{"vibidsampler", "gp_trajectories", gp_trajectories};
const golden::kind law_kind{"vibidsampler", "gp_output_law", output_law};
const golden::kind circle_kind{"vibidsampler", "circle_model", circle_model};

}  // namespace
