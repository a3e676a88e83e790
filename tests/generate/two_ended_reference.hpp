#pragma once
#include <Eigen/Core>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <sluice/generate/bidirectional.hpp>
#include <sluice/generate/time_grid.hpp>
#include <utility>
#include <vector>

/// A toy model of sequences, and the two-ended samplers written out for one sequence of doubles, frames x features, in
/// the scaled state: what the library's are compared with.
namespace two_ended_reference {

using namespace sluice;
using Eigen::ArrayXXd;
using Eigen::MatrixXd;
using Eigen::VectorXd;

/// A denoiser that mixes neighbours, nonlinear, not symmetric in time; with a first frame it pins it. Computed in
/// double, one sequence after the other.
struct toy {
  index_t d;
  bool conditional = false;
  std::vector<double> first{};  // d values, or d for each sample
  bool pins = true;
  std::int64_t* calls = nullptr;

  ArrayXXd denoise(const ArrayXXd& x, double alpha, double sigma, index_t sample) const {  // x = alpha data + noise
    const index_t frames = x.rows();
    const double gain = alpha / (alpha * alpha + sigma * sigma);
    ArrayXXd out(frames, d);
    for (index_t f = 0; f < frames; ++f)
      for (index_t k = 0; k < d; ++k) {
        const double here = gain * x(f, k), next = gain * x((f + 1) % frames, (k + 1) % d);
        out(f, k) = 0.3 * std::sin(static_cast<double>(f + 2 * k)) + 0.5 * here + 0.2 * std::tanh(next);
      }
    if (!conditional) return out;
    const std::size_t from = first.size() == static_cast<std::size_t>(d) ? 0 : static_cast<std::size_t>(sample * d);
    for (index_t f = frames; f-- > 0;)
      for (index_t k = 0; k < d; ++k) {
        const double a = first[from + static_cast<std::size_t>(k)];
        out(f, k) = f == 0 && pins ? a : out(f, k) + std::pow(0.4, static_cast<double>(f)) * (a - out(0, k));
      }
    return out;
  }
  template <class X, class O>
  void operator()(const X& x, const noise_level& level, O& out, predicts want) const {
    if (calls != nullptr) ++*calls;
    for (index_t j = 0; j < detail::n_samples(x); ++j) {
      const auto from = detail::sample_array(x, j);
      auto to = detail::sample_array(out, j);
      const index_t n = from.size();
      ArrayXXd state(n / d, d);
      for (index_t e = 0; e < n; ++e) state(e / d, e % d) = static_cast<double>(from(e));
      const ArrayXXd data = denoise(state, level.alpha, level.sigma, j);
      const affine k = conversion(predicts::data, want, level);
      for (index_t e = 0; e < n; ++e)
        to(e) = static_cast<typename decltype(to)::Scalar>(k.p * data(e / d, e % d) + k.x * state(e / d, e % d));
    }
  }
};

struct setting {
  bool plus_plus = true;
  bool replace = true;
  double forward_weight = 1, backward_weight = 1, s_churn = 0;
  bool backward_first = false;
};

inline ArrayXXd flip(const ArrayXXd& x) { return x.colwise().reverse(); }

/// Everything in (x/alpha, kappa). noise(i) is that of step i, churn(i) that before it. at(kappa) gives the level.
template <class Noise, class At>
ArrayXXd bidirectional_run(const toy& forward, const toy& backward, const toy& none, ArrayXXd xh, const ArrayXXd& a,
                           const ArrayXXd& b, const std::vector<noise_level>& levels, const setting& o, Noise&& noise,
                           At&& at, index_t sample, index_t steps = -1) {
  const auto n = static_cast<index_t>(levels.size()) - 1;
  const auto half = [&](const toy& model, const ArrayXXd& z, const noise_level& s, double k_t, double w,
                        const ArrayXXd& last) {
    const ArrayXXd c = model.denoise(s.alpha * z, s.alpha, s.sigma, sample),
                   u = none.denoise(s.alpha * z, s.alpha, s.sigma, sample);
    ArrayXXd data = u + w * (c - u);
    if (o.replace) data.bottomRows(1) = last;
    return ArrayXXd(data + k_t / s.kappa() * (z - (o.plus_plus ? u : data)));
  };
  for (index_t i = 0; i < (steps < 0 ? n : steps); ++i) {
    noise_level s = levels[static_cast<std::size_t>(i)];
    const double k_t = levels[static_cast<std::size_t>(i + 1)].kappa(), k_s = s.kappa();
    const double gamma = std::min(o.s_churn / static_cast<double>(n), std::sqrt(2.0) - 1);
    if (gamma > 0) {
      s = at(k_s * (1 + gamma));
      xh += std::sqrt(s.kappa() * s.kappa() - k_s * k_s) * noise(n + i);
    }
    const auto first = [&](const ArrayXXd& z) { return half(forward, z, s, k_t, o.forward_weight, b); };
    const auto second = [&](const ArrayXXd& z) { return flip(half(backward, flip(z), s, k_t, o.backward_weight, a)); };
    xh = o.backward_first ? second(xh) : first(xh);
    xh += std::sqrt(s.kappa() * s.kappa() - k_t * k_t) * noise(i);
    xh = o.backward_first ? first(xh) : second(xh);
  }
  return xh;
}

template <class Noise>
ArrayXXd fusion_run(const toy& forward, const toy& backward, ArrayXXd xh, const std::vector<noise_level>& levels,
                    index_t repeats, Noise&& noise, index_t sample) {
  const index_t frames = xh.rows();
  for (index_t i = 0; i + 1 < std::ssize(levels); ++i) {
    const noise_level s = levels[static_cast<std::size_t>(i)];
    const double k_t = levels[static_cast<std::size_t>(i + 1)].kappa();
    for (index_t p = 0; p < repeats; ++p) {
      const ArrayXXd f = forward.denoise(s.alpha * xh, s.alpha, s.sigma, sample),
                     g = flip(backward.denoise(flip(s.alpha * xh), s.alpha, s.sigma, sample));
      ArrayXXd data = f;
      for (index_t r = 0; r < frames; ++r) {
        const double l = static_cast<double>(r) / static_cast<double>(frames - 1);
        data.row(r) = (1 - l) * f.row(r) + l * g.row(r);
      }
      xh = data + k_t / s.kappa() * (xh - data);
      if (p + 1 < repeats) xh += std::sqrt(s.kappa() * s.kappa() - k_t * k_t) * noise(i * repeats + p);
    }
  }
  return xh;
}

inline ArrayXXd one_sided_run(const toy& forward, ArrayXXd xh, const std::vector<noise_level>& levels, index_t sample) {
  for (std::size_t i = 0; i + 1 < levels.size(); ++i) {
    const noise_level s = levels[i];
    const ArrayXXd data = forward.denoise(s.alpha * xh, s.alpha, s.sigma, sample);
    xh = data + levels[i + 1].kappa() / s.kappa() * (xh - data);
  }
  return xh;
}

/// The noise that step_noise gives to a sample, frames x features.
inline ArrayXXd noise_of(stream key, index_t sample, index_t i, index_t frames, index_t d) {
  ArrayXXd z(frames, d);
  const stream own = key.derive(static_cast<std::uint64_t>(sample)).derive(static_cast<std::uint64_t>(i));
  for (index_t e = 0; e < frames * d; ++e) z(e / d, e % d) = normal_at(own, static_cast<std::uint64_t>(e));
  return z;
}

/// Sample j of a state as frames x features.
template <class X>
ArrayXXd frames_of(const X& x, index_t j, index_t d) {
  const auto from = detail::sample_array(x, j);
  ArrayXXd z(from.size() / d, d);
  for (index_t e = 0; e < from.size(); ++e) z(e / d, e % d) = static_cast<double>(from(e));
  return z;
}

// The problem that most tests solve: five frames of three features, four sequences.
inline constexpr index_t frames = 5, d = 3, n_columns = 4;
inline const std::vector<double> start_values{0.7, -0.4, 0.2}, end_values{-0.3, 0.5, 0.9};
inline const VectorXd start = Eigen::Map<const VectorXd>(start_values.data(), d),
                      end = Eigen::Map<const VectorXd>(end_values.data(), d);
inline const toy given_start{d, true, start_values}, given_end{d, true, end_values}, given_nothing{d};
inline const ArrayXXd start_row = start.transpose().array(), end_row = end.transpose().array();
inline constexpr stream key{20240607};

inline auto toys() { return two_ended(given_start, given_end, given_nothing); }
inline std::vector<noise_level> edm_grid(index_t n = 4) { return karras_levels(n, 0.05, 30); }

inline MatrixXd start_state(const noise_level& level, index_t columns = n_columns) {
  MatrixXd x(frames * d, columns);
  fill_start(x, level, stream{5});
  return x;
}
inline double apart(const ArrayXXd& x, const ArrayXXd& y) { return (x - y).abs().maxCoeff(); }

}  // namespace two_ended_reference
