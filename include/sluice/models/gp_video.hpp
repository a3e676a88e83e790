#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/models/gaussian_video.hpp>

#include <Eigen/Core>
#include <array>
#include <cmath>
#include <utility>

/// Unstable: for tests, benchmarks and examples; no compatibility is promised.
namespace sluice::models {

/// variance v, length l and nugget of a Gaussian process over frames.
struct gp_video_options {
  double v = 1, l = 4, nugget = 1e-3;
};

/// Every feature is a smooth path over the frames, C_ij = v exp(-(i - j)^2 / (2 l^2)) + nugget [i = j]: a linear model
/// of video (gaussian_video.hpp). `given` with frame 0 is the one-end conditional denoiser, with both ends the bridge:
/// its mean() and covariance() are the truth for interpolation. Throws invalid_argument unless n_frames and n_features
/// are positive, v >= 0, l > 0, nugget >= 0. Source: the test model of Yang et al. (arXiv:2410.05651) is a network;
/// this one is ours.
inline gaussian_frames gp_video(index_t n_frames, index_t n_features, const gp_video_options& options = {}) {
  expects(n_frames >= 1, "gp_video", "n_frames", n_frames);
  expects(n_features >= 1, "gp_video", "n_features", n_features);
  expects(options.v >= 0 && std::isfinite(options.v), "gp_video", "options.v", options.v);
  expects(options.l > 0, "gp_video", "options.l", options.l);
  expects(options.nugget >= 0 && std::isfinite(options.nugget), "gp_video", "options.nugget", options.nugget);
  Eigen::MatrixXd c(n_frames, n_frames);
  for (index_t i = 0; i < n_frames; ++i)
    for (index_t j = 0; j < n_frames; ++j) {
      const double z = static_cast<double>(i - j) / options.l;
      c(i, j) = options.v * std::exp(-z * z / 2) + (i == j ? options.nugget : 0.0);
    }
  return {std::move(c), Eigen::VectorXd::Ones(n_features)};
}

/// The bridge: both ends known, each a frame of n_features elements.
inline gaussian_frames bridge(const gaussian_frames& video, const Eigen::VectorXd& first, const Eigen::VectorXd& last) {
  expects(video.n_frames() >= 2, "bridge", "video.n_frames", video.n_frames());
  expects(first.size() == video.n_features(), "bridge", "first.size", first.size());
  expects(last.size() == video.n_features(), "bridge", "last.size", last.size());
  Eigen::MatrixXd ends(first.size(), 2);
  ends << first, last;
  return video.given(std::array{index_t{0}, video.n_frames() - 1}, ends);
}

}  // namespace sluice::models
