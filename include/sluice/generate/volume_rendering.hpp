#pragma once
#include <sluice/core/executor.hpp>
#include <sluice/core/expects.hpp>
#include <sluice/core/status.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/random/distributions.hpp>
#include <sluice/random/stream.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

/// Volume rendering along rays, and 1-D importance sampling of where to look. Nothing here knows of cameras.
///
///     tau_i = sigma_i delta_i,   T_i = exp(-sum_{j<i} tau_j),   w_i = T_i (1 - exp(-tau_i)),
///     feature = sum w_i c_i + (1 - sum w_i) background,   opacity = sum w_i = 1 - exp(-sum tau_i),
///     depth = sum w_i t_i / max(opacity, 1e-10)
///
/// 1 - exp(-tau) is expm1 and T comes from the running sum of tau, since products of (1 - alpha) underflow and cancel.
/// Every density model is a rule for tau: a density, VolSDF or NeuS.
/// Source: Mildenhall et al., NeRF (arXiv:2003.08934); Yariv et al., VolSDF (arXiv:2106.12052); Wang et al., NeuS
/// (arXiv:2106.10689). Differs: samples on strata have the width of their stratum as delta, which makes the estimate
/// of the optical depth unbiased; the last delta reaches to the far bound, not to 1e10; alpha of NeuS is exp of a
/// difference of log-sigmoids, so that no quotient is 0/0; fine samples are drawn from the strata of the coarse ones,
/// not between their midpoints, and the coarse evaluations are used again.
namespace sluice {

/// delta_i = t_{i+1} - t_i, and far - t_n for the last. delta may be t. Throws invalid_argument unless t has as many
/// elements, at least one, does not decrease, and does not exceed far.
template <std::floating_point S>
void spacings(std::span<S> delta, std::span<const std::type_identity_t<S>> t, double far) {
  expects(!t.empty(), "spacings", "t.size", t.size());
  expects(delta.size() == t.size(), "spacings", "delta.size", delta.size());
  for (std::size_t i = 0; i < t.size(); ++i) {
    const bool last = i + 1 == t.size();
    expects(std::isfinite(t[i]) && (last ? static_cast<double>(t[i]) <= far : t[i] <= t[i + 1]), "spacings", "t", t[i],
            static_cast<std::ptrdiff_t>(i));
  }
  expects(std::isfinite(far), "spacings", "far", far);
  for (std::size_t i = 0; i + 1 < t.size(); ++i) delta[i] = t[i + 1] - t[i];
  delta[t.size() - 1] = static_cast<S>(far - static_cast<double>(t.back()));
}

/// tau_i = sigma_i delta_i. tau may be sigma or delta. A density may be infinite where delta is not 0. Throws
/// invalid_argument, nothing changed, unless the sizes agree, 0 <= delta < inf, sigma >= 0 and no product is inf * 0.
template <std::floating_point S>
void optical_depths(std::span<S> tau, std::span<const std::type_identity_t<S>> sigma,
                    std::span<const std::type_identity_t<S>> delta) {
  expects(sigma.size() == tau.size(), "optical_depths", "sigma.size", sigma.size());
  expects(delta.size() == tau.size(), "optical_depths", "delta.size", delta.size());
  for (std::size_t i = 0; i < tau.size(); ++i) {
    const auto at = static_cast<std::ptrdiff_t>(i);
    expects(delta[i] >= 0 && std::isfinite(delta[i]), "optical_depths", "delta", delta[i], at);
    expects(sigma[i] >= 0 && (std::isfinite(sigma[i]) || delta[i] > 0), "optical_depths", "sigma", sigma[i], at);
  }
  for (std::size_t i = 0; i < tau.size(); ++i) tau[i] = sigma[i] * delta[i];
}

/// w_i = exp(-sum_{j<i} tau_j) (1 - exp(-tau_i)) by expm1. Returns the whole optical depth; the opacity sum w_i is
/// -expm1 of its negative. w may be tau. Sums in double. Throws invalid_argument, nothing changed, unless the sizes
/// agree and every tau is at least 0 (infinity is opaque).
template <std::floating_point S>
double volume_weights(std::span<S> weights, std::span<const std::type_identity_t<S>> tau) {
  expects(weights.size() == tau.size(), "volume_weights", "weights.size", weights.size());
  for (std::size_t i = 0; i < tau.size(); ++i)
    expects(tau[i] >= 0, "volume_weights", "tau", tau[i], static_cast<std::ptrdiff_t>(i));
  double sum = 0;
  for (std::size_t i = 0; i < tau.size(); ++i) {
    const double each = static_cast<double>(tau[i]);
    weights[i] = static_cast<S>(-std::exp(-sum) * std::expm1(-each));
    sum += each;
  }
  return sum;
}

/// T_i = exp(-sum_{j<i} tau_j), what reaches sample i. out may be tau. Throws as volume_weights.
template <std::floating_point S>
void transmittance(std::span<S> out, std::span<const std::type_identity_t<S>> tau) {
  expects(out.size() == tau.size(), "transmittance", "out.size", out.size());
  for (std::size_t i = 0; i < tau.size(); ++i)
    expects(tau[i] >= 0, "transmittance", "tau", tau[i], static_cast<std::ptrdiff_t>(i));
  double sum = 0;
  for (std::size_t i = 0; i < tau.size(); ++i) {
    const double each = static_cast<double>(tau[i]);
    out[i] = static_cast<S>(std::exp(-sum));
    sum += each;
  }
}

struct ray_integral {
  double opacity = 0, depth = 0;
};
/// feature[c] = sum_i w_i values[i C + c] + exp(-optical_depth) background[c], with C = feature.size(); background may
/// be empty (0). weights and optical_depth as volume_weights gives them. Throws invalid_argument unless the sizes
/// agree.
template <std::floating_point S>
ray_integral integrate_ray(std::span<S> feature, std::span<const std::type_identity_t<S>> weights,
                           std::span<const std::type_identity_t<S>> values, std::span<const std::type_identity_t<S>> t,
                           double optical_depth, std::span<const std::type_identity_t<S>> background = {}) {
  expects(t.size() == weights.size(), "integrate_ray", "t.size", t.size());
  expects(values.size() == weights.size() * feature.size(), "integrate_ray", "values.size", values.size());
  expects(background.empty() || background.size() == feature.size(), "integrate_ray", "background.size",
          background.size());
  expects(optical_depth >= 0, "integrate_ray", "optical_depth", optical_depth);
  const double rest = std::exp(-optical_depth);
  for (std::size_t c = 0; c < feature.size(); ++c) {
    double sum = background.empty() ? 0 : rest * static_cast<double>(background[c]);
    for (std::size_t i = 0; i < weights.size(); ++i)
      sum += static_cast<double>(weights[i]) * static_cast<double>(values[i * feature.size() + c]);
    feature[c] = static_cast<S>(sum);
  }
  ray_integral r{-std::expm1(-optical_depth), 0};
  for (std::size_t i = 0; i < weights.size(); ++i)
    r.depth += static_cast<double>(weights[i]) * static_cast<double>(t[i]);
  r.depth /= std::max(r.opacity, 1e-10);
  return r;
}

/// t_i = near + (i + u_i) h with h = (far - near)/n: one sample in each of n strata; u in [0, 1], or empty for the
/// middles. Throws invalid_argument unless n >= 1, near < far, and u is empty or has n such numbers.
template <std::floating_point S>
void stratified_positions(std::span<S> t, double near, double far, std::span<const double> u = {}) {
  expects(!t.empty(), "stratified_positions", "t.size", t.size());
  expects(near < far && std::isfinite(near) && std::isfinite(far), "stratified_positions", "far", far);
  expects(u.empty() || u.size() == t.size(), "stratified_positions", "u.size", u.size());
  for (std::size_t i = 0; i < u.size(); ++i)
    expects(u[i] >= 0 && u[i] <= 1, "stratified_positions", "u", u[i], static_cast<std::ptrdiff_t>(i));
  const double h = (far - near) / static_cast<double>(t.size());
  for (std::size_t i = 0; i < t.size(); ++i)
    t[i] = static_cast<S>(near + (static_cast<double>(i) + (u.empty() ? 0.5 : u[i])) * h);
}

/// A law with constant density on each of n bins, sampled by its inverse: bin i has the probability
/// (w_i + floor)/sum (w_j + floor), and a uniform u becomes the point where the piecewise linear CDF reaches u. The
/// last value of the CDF is 1 exactly. A bin of probability 0 is never returned from the inside of [0, 1). If all are
/// 0, every bin has the same. assign keeps its memory; const use from many threads is safe.
class piecewise_law {
 public:
  /// edges: n + 1 numbers that do not decrease, weights: n numbers, at least 0. Throws invalid_argument, nothing
  /// changed, otherwise, or if floor is negative, or a number not finite. O(n).
  template <std::floating_point S>
  void assign(std::span<const S> edges, std::span<const S> weights, double floor = 1e-5) {
    expects(!weights.empty(), "piecewise_law", "weights.size", weights.size());
    expects(edges.size() == weights.size() + 1, "piecewise_law", "edges.size", edges.size());
    expects(floor >= 0 && std::isfinite(floor), "piecewise_law", "floor", floor);
    for (std::size_t i = 0; i < edges.size(); ++i)
      expects(std::isfinite(edges[i]) && (i == 0 || edges[i - 1] <= edges[i]), "piecewise_law", "edges", edges[i],
              static_cast<std::ptrdiff_t>(i));
    for (std::size_t i = 0; i < weights.size(); ++i)
      expects(weights[i] >= 0 && std::isfinite(weights[i]), "piecewise_law", "weights", weights[i],
              static_cast<std::ptrdiff_t>(i));
    edges_.assign(edges.begin(), edges.end());
    cdf_.resize(edges.size());
    cdf_[0] = 0;
    for (std::size_t i = 0; i < weights.size(); ++i) cdf_[i + 1] = cdf_[i] + (static_cast<double>(weights[i]) + floor);
    const double total = cdf_.back();
    for (std::size_t i = 1; i < cdf_.size(); ++i)
      cdf_[i] = total > 0 ? cdf_[i] / total : static_cast<double>(i) / static_cast<double>(weights.size());
  }
  /// P(X <= edge i).
  const std::vector<double>& cdf() const { return cdf_; }
  /// The u-quantile, u in [0, 1]. O(log n).
  double operator()(double u) const {
    const auto above = std::upper_bound(cdf_.begin() + 1, cdf_.end() - 1, u);
    return inside(static_cast<std::size_t>(above - cdf_.begin()) - 1, u);
  }
  /// out[i] = the u[i]-quantile for ascending u, by a merge: O(n + out.size()). Throws invalid_argument, nothing
  /// changed, unless u is ascending in [0, 1] and out has its length.
  template <std::floating_point S>
  void sorted(std::span<S> out, std::span<const double> u) const {
    expects(out.size() == u.size(), "piecewise_law::sorted", "out.size", out.size());
    for (std::size_t i = 0; i < u.size(); ++i)
      expects(u[i] >= (i == 0 ? 0.0 : u[i - 1]) && u[i] <= 1, "piecewise_law::sorted", "u", u[i],
              static_cast<std::ptrdiff_t>(i));
    std::size_t bin = 0;
    for (std::size_t i = 0; i < u.size(); ++i) {
      while (bin + 2 < cdf_.size() && cdf_[bin + 1] <= u[i]) ++bin;
      out[i] = static_cast<S>(inside(bin, u[i]));
    }
  }

 private:
  double inside(std::size_t bin, double u) const {
    while (bin > 0 && cdf_[bin] == 1) --bin;  // trailing bins of probability 0, at u = 1
    const double mass = cdf_[bin + 1] - cdf_[bin];
    const double share = mass > 0 ? std::clamp((u - cdf_[bin]) / mass, 0.0, 1.0) : 0.0;
    return edges_[bin] + share * (edges_[bin + 1] - edges_[bin]);
  }
  std::vector<double> edges_, cdf_;
};

/// VolSDF: (1/beta) Psi(-sdf), Psi the CDF of the Laplace law: 1/beta deep inside, 1/(2 beta) on the surface, 0
/// outside.
inline double volsdf_density(double sdf, double beta) {
  expects(beta > 0 && std::isfinite(beta), "volsdf_density", "beta", beta);
  const double half = 0.5 * std::exp(-std::abs(sdf) / beta);
  return (sdf < 0 ? 1 - half : half) / beta;
}

/// NeuS: the optical depth between two consecutive samples, max(0, ln Phi(sdf) - ln Phi(next)), Phi(d) the logistic
/// function of s d. alpha = 1 - exp(-tau) is clip((Phi - Phi')/Phi, 0, 1); on a ray along which the distance falls the
/// depths telescope, so the opacity is 1 - Phi_n / Phi_1.
inline double neus_optical_depth(double sdf, double next, double s) {
  expects(s > 0 && std::isfinite(s), "neus_optical_depth", "s", s);
  const auto log_phi = [](double x) { return std::min(x, 0.0) - std::log1p(std::exp(-std::abs(x))); };
  return std::max(0.0, log_phi(s * sdf) - log_phi(s * next));
}

/// Density models of volume_renderer. Each turns rows of field values into rows of optical depths: an Eigen array with
/// one element a ray; `next` holds the values of the next sample.
struct raw_density {
  static constexpr bool looks_ahead = false;
  static constexpr bool is_density = true;  ///< the field returns sigma >= 0
  void check(const char*) const {}
  template <class A, class V>
  void operator()(A& tau, const V& value, const V&, const V& delta) const {
    tau = value * delta;
  }
};
struct volsdf {
  double beta = 0.1;
  static constexpr bool looks_ahead = false;
  static constexpr bool is_density = false;
  void check(const char* function) const { expects(beta > 0 && std::isfinite(beta), function, "beta", beta); }
  template <class A, class V>
  void operator()(A& tau, const V& value, const V&, const V& delta) const {
    using S = typename A::Scalar;
    tau = static_cast<S>(0.5) * (value.abs() * static_cast<S>(-1 / beta)).exp();
    tau = (value < S{0}).select(S{1} - tau, tau) * delta * static_cast<S>(1 / beta);
  }
};
struct neus {
  double s = 20;
  static constexpr bool looks_ahead = true;
  static constexpr bool is_density = false;
  void check(const char* function) const { expects(s > 0 && std::isfinite(s), function, "s", s); }
  template <class A, class V>
  void operator()(A& tau, const V& value, const V& next, const V&) const {
    using S = typename A::Scalar;
    const S k = static_cast<S>(s);
    const auto log_phi = [k](const V& x) { return ((x * k).min(S{0}) - (x.abs() * -k).exp().log1p()).eval(); };
    tau = (log_phi(value) - log_phi(next)).max(S{0});
  }
};

/// Where a random number is put inside its stratum.
enum class placement { random, middle };

/// Samplers of volume_renderer. n samples on the middles of n equal strata.
struct uniform_samples {
  index_t n = 64;
};
/// n samples, one uniformly in each stratum.
struct stratified_samples {
  index_t n = 64;
};
/// n_coarse samples on strata, then n_fine from the law that has the coarse weights as probabilities of the strata;
/// both together are the samples of the ray. `fine`: where the n_fine uniforms lie in their strata of [0, 1].
struct hierarchical_samples {
  index_t n_coarse = 64, n_fine = 64;
  placement coarse = placement::random, fine = placement::random;
  double floor = 1e-5;  ///< added to the weights
};

/// n rays: sample t of ray i is at origins.row(i) + t directions.row(i); with unit directions t is a length. id[i] is
/// the identity of ray i for random numbers.
template <std::floating_point S>
struct ray_batch {
  Eigen::Matrix<S, Eigen::Dynamic, 3> origins, directions;
  std::vector<std::uint64_t> id;
  index_t size() const { return origins.rows(); }
  /// id = 0, 1, ... where there are none; keeps those that are there.
  void resize(index_t n) {
    origins.resize(n, 3);
    directions.resize(n, 3);
    const auto before = std::min(id.size(), static_cast<std::size_t>(n));
    id.resize(static_cast<std::size_t>(n));
    for (std::size_t i = before; i < id.size(); ++i) id[i] = i;
  }
};

struct render_options {
  double near = 0, far = 1;
  index_t channels = 3;              ///< of colours or features
  std::vector<double> background{};  ///< one number a channel; empty: 0
  /// A ray ends once its transmittance is below this; what is behind counts as background, so no channel is off by
  /// more than stop_below times the range of the channel. 0: never. Rays of hierarchical samplers are not ended.
  double stop_below = 1e-4;
  index_t segment = 16;  ///< samples of a ray in one call of the field: rays end between segments only
  index_t lanes = 16;    ///< workspaces, and so the most threads that can help
};

struct render_stats {
  std::int64_t rays = 0, field_evaluations = 0, ended_early = 0, invalid_rays = 0;
  stop_place stopped;  ///< index: the first invalid ray
};
/// What rays see: one row a ray. invalid_row: the field returned NaN, an infinite feature or a negative density for
/// some rays, which show the background with opacity 0; all others are right.
template <std::floating_point S>
struct rendering {
  Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> features;  ///< n x channels
  Eigen::Array<S, Eigen::Dynamic, 1> opacity, depth;
  std::vector<std::int32_t> samples;  ///< field evaluations of each ray
  sluice::status status = sluice::status::completed;
  render_stats stats;
};

/// A field that a renderer can ask: f(positions, directions, values, features) reads m points, one a row (m x 3,
/// column-major: all x, then all y, then all z), and writes values (m; densities, or signed distances) and features (m
/// x channels, column-major). m differs from call to call. With a parallel executor it is called by several threads.
template <class F, class S>
concept ray_field = std::invocable < F&,
        const Eigen::Map<const Eigen::Matrix<S, Eigen::Dynamic, 3>>
&, const Eigen::Map<const Eigen::Matrix<S, Eigen::Dynamic, 3>>&, Eigen::Map<Eigen::Matrix<S, Eigen::Dynamic, 1>>&,
    Eigen::Map<Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic>>& > ;

/// Renders batches of rays through a field: Sampler chooses the samples, Density turns field values into optical
/// depths. Rays are computed in chunks of 64, side by side in the registers, and independently: the bits of a ray
/// depend on neither the executor nor its place in the batch, as far as the field's do not. Work unit: field
/// evaluations. Sample i of ray r has the uniform uniform_at(key.derive(id[r]), i). Workspaces are allocated by the
/// first call and kept. One object a thread.
template <std::floating_point S, class Sampler = uniform_samples, class Density = raw_density>
class volume_renderer {
  static constexpr index_t width = 64;
  static constexpr bool fine = std::same_as<Sampler, hierarchical_samples>;
  using row = Eigen::Array<S, static_cast<int>(width), 1>;
  using points = Eigen::Matrix<S, Eigen::Dynamic, 3>;

 public:
  using scalar = S;
  static constexpr bool draws = !std::same_as<Sampler, uniform_samples>;

  /// Throws invalid_argument unless near < far, both finite; every number of samples >= 1; channels >= 1; background
  /// has 0 or `channels` finite numbers; 0 <= stop_below < 1; segment >= 1; lanes >= 1; the density's parameter is
  /// positive.
  explicit volume_renderer(render_options options, Sampler sampler = {}, Density density = {})
      : options_(std::move(options)), sampler_(sampler), density_(density) {
    const char* me = "volume_renderer";
    expects(std::isfinite(options_.near), me, "near", options_.near);
    expects(std::isfinite(options_.far) && options_.near < options_.far, me, "far", options_.far);
    expects(options_.channels >= 1, me, "channels", options_.channels);
    expects(options_.background.empty() || std::ssize(options_.background) == options_.channels, me, "background.size",
            options_.background.size());
    for (std::size_t c = 0; c < options_.background.size(); ++c)
      expects(std::isfinite(options_.background[c]), me, "background", options_.background[c],
              static_cast<std::ptrdiff_t>(c));
    expects(options_.stop_below >= 0 && options_.stop_below < 1, me, "stop_below", options_.stop_below);
    expects(options_.segment >= 1, me, "segment", options_.segment);
    expects(options_.lanes >= 1, me, "lanes", options_.lanes);
    if constexpr (fine) {
      expects(sampler_.n_coarse >= 1, me, "n_coarse", sampler_.n_coarse);
      expects(sampler_.n_fine >= 1, me, "n_fine", sampler_.n_fine);
      expects(sampler_.floor >= 0 && std::isfinite(sampler_.floor), me, "floor", sampler_.floor);
    } else {
      expects(sampler_.n >= 1, me, "n", sampler_.n);
    }
    density_.check(me);
    options_.segment = std::min(options_.segment, samples_per_ray());
  }
  const render_options& options() const { return options_; }
  const Sampler& sampler() const { return sampler_; }
  /// The most field evaluations of a ray.
  index_t samples_per_ray() const { return n_strata() + n_fine(); }

  /// Throws invalid_argument, nothing changed, unless origins, directions and ids agree in number and are finite (the
  /// index is the ray).
  template <ray_field<S> F, executor Executor = serial>
  void render(F&& field, rendering<S>& out, const ray_batch<S>& rays, const Executor& ex, stream key) {
    const index_t n = rays.size();
    expects(rays.directions.rows() == n, "volume_renderer::render", "directions.rows", rays.directions.rows());
    expects(std::ssize(rays.id) == n, "volume_renderer::render", "id.size", rays.id.size());
    for (index_t i = 0; i < n; ++i) {
      expects(rays.origins.row(i).allFinite(), "volume_renderer::render", "origins", rays.origins(i, 0), i);
      expects(rays.directions.row(i).allFinite(), "volume_renderer::render", "directions", rays.directions(i, 0), i);
    }
    out.features.resize(n, options_.channels);
    out.opacity.resize(n);
    out.depth.resize(n);
    out.samples.resize(static_cast<std::size_t>(n));
    const index_t chunks = (n + width - 1) / width, tasks = std::min(chunks, options_.lanes);
    if (std::ssize(lanes_) < tasks) lanes_.resize(static_cast<std::size_t>(tasks));
    ex.for_each(tasks, [&](index_t task) {
      lane& w = lanes_[static_cast<std::size_t>(task)];
      prepare(w);
      for (index_t chunk = task; chunk < chunks; chunk += tasks) render_chunk(w, field, out, rays, chunk * width, key);
    });
    out.stats = {};
    out.stats.rays = n;
    for (index_t task = 0; task < tasks; ++task) {
      const render_stats& s = lanes_[static_cast<std::size_t>(task)].stats;
      out.stats.field_evaluations += s.field_evaluations;
      out.stats.ended_early += s.ended_early;
      out.stats.invalid_rays += s.invalid_rays;
      const index_t bad = s.stopped.index;
      if (bad >= 0 && (out.stats.stopped.index < 0 || bad < out.stats.stopped.index)) out.stats.stopped.index = bad;
    }
    out.status = out.stats.invalid_rays > 0 ? status::invalid_row : status::completed;
  }
  /// The same for a sampler that draws nothing.
  template <ray_field<S> F, executor Executor = serial>
  requires(!draws) void render(F&& field, rendering<S>& out, const ray_batch<S>& rays, const Executor& ex = {}) {
    render(field, out, rays, ex, stream{0});
  }

 private:
  /// Sample-major: row s holds sample s of the 64 rays of a chunk.
  struct lane {
    std::vector<S> t, delta, values, features, weights, points, directions, point_values, point_features;
    std::vector<S> merged_t, merged_values, merged_features, edges, column, fine_t;
    std::vector<double> u;
    std::vector<index_t> active;
    piecewise_law law;
    render_stats stats;
    row prefix, transmitted, depth, least, mask;
    std::vector<S> sum;  // channels x 64
    index_t composited = 0;
  };

  index_t n_strata() const {
    if constexpr (fine)
      return sampler_.n_coarse;
    else
      return sampler_.n;
  }
  index_t n_fine() const {
    if constexpr (fine)
      return sampler_.n_fine;
    else
      return 0;
  }
  static Eigen::Map<row> at(std::vector<S>& v, index_t s) { return Eigen::Map<row>(v.data() + s * width); }

  void prepare(lane& w) const {
    w.stats = {};
    const auto n = static_cast<std::size_t>(samples_per_ray() * width),
               m = static_cast<std::size_t>(options_.segment * width), c = static_cast<std::size_t>(options_.channels);
    if (w.t.size() == n) return;
    w.t.resize(n), w.delta.resize(n), w.values.resize(n), w.features.resize(n * c);
    w.points.resize(3 * m), w.directions.resize(3 * m), w.point_values.resize(m), w.point_features.resize(m * c);
    w.active.reserve(static_cast<std::size_t>(width));
    w.sum.resize(c * static_cast<std::size_t>(width));
    if constexpr (fine) {
      w.weights.resize(n), w.merged_t.resize(n), w.merged_values.resize(n), w.merged_features.resize(n * c);
      const index_t strata = n_strata();
      w.column.resize(static_cast<std::size_t>(strata));
      w.edges.resize(w.column.size() + 1);
      for (index_t i = 0; i <= strata; ++i)
        w.edges[static_cast<std::size_t>(i)] = static_cast<S>(
            options_.near + (options_.far - options_.near) * static_cast<double>(i) / static_cast<double>(strata));
      w.u.resize(static_cast<std::size_t>(n_fine()));
      w.fine_t.resize(w.u.size());
    }
  }

  template <class F>
  void render_chunk(lane& w, F& field, rendering<S>& out, const ray_batch<S>& rays, index_t first, stream key) const {
    const index_t count = std::min(width, rays.size() - first), strata = n_strata();
    place_on_strata(w, rays, first, count, key);
    w.active.clear();
    for (index_t r = 0; r < count; ++r) w.active.push_back(r);
    restart(w, count);
    const auto record = [&](index_t n) {
      for (const index_t r : w.active) out.samples[static_cast<std::size_t>(first + r)] = static_cast<std::int32_t>(n);
    };
    for (index_t s = 0; s < strata && !w.active.empty(); s += options_.segment) {
      const index_t end = std::min(strata, s + options_.segment);
      evaluate(w, field, rays, first, s, end);
      record(end);
      composite(w, w.t, w.values, w.features, end, end == strata);
      if (!fine && options_.stop_below > 0 && end < strata) end_rays(w);
    }
    if constexpr (fine) {
      place_fine(w, rays, first, count, key);
      const index_t all = samples_per_ray();
      for (index_t s = strata; s < all; s += options_.segment)
        evaluate(w, field, rays, first, s, std::min(all, s + options_.segment));
      record(all);
      merge(w, count);
      restart(w, count);
      composite(w, w.merged_t, w.merged_values, w.merged_features, all, true);
    }
    write(w, out, first, count);
  }

  void place_on_strata(lane& w, const ray_batch<S>& rays, index_t first, index_t count, stream key) const {
    const index_t strata = n_strata();
    const double h = (options_.far - options_.near) / static_cast<double>(strata);
    bool random = draws;
    if constexpr (fine) random = sampler_.coarse == placement::random;
    for (index_t s = 0; s < strata; ++s) {
      at(w.t, s).setConstant(static_cast<S>(options_.near + (static_cast<double>(s) + 0.5) * h));
      at(w.delta, s).setConstant(static_cast<S>(h));
    }
    if (!random) return;
    for (index_t r = 0; r < count; ++r) {
      const stream own = key.derive(rays.id[static_cast<std::size_t>(first + r)]);
      for (index_t s = 0; s < strata; ++s)
        w.t[static_cast<std::size_t>(s * width + r)] = static_cast<S>(
            options_.near + (static_cast<double>(s) + uniform_at(own, static_cast<std::uint64_t>(s))) * h);
    }
  }

  /// Field values and features of the samples s ... end - 1 of the active rays.
  template <class F>
  void evaluate(lane& w, F& field, const ray_batch<S>& rays, index_t first, index_t s, index_t end) const {
    const index_t a = std::ssize(w.active), m = (end - s) * a, channels = options_.channels;
    for (index_t axis = 0; axis < 3; ++axis) {
      S *p = w.points.data() + axis * m, *d = w.directions.data() + axis * m;
      for (index_t i = s; i < end; ++i)
        for (const index_t r : w.active) {
          const S direction = rays.directions(first + r, axis);
          *p++ = rays.origins(first + r, axis) + w.t[static_cast<std::size_t>(i * width + r)] * direction;
          *d++ = direction;
        }
    }
    Eigen::Map<Eigen::Matrix<S, Eigen::Dynamic, 1>> values(w.point_values.data(), m);
    Eigen::Map<Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic>> features(w.point_features.data(), m, channels);
    const Eigen::Map<const points> positions(w.points.data(), m, 3), directions(w.directions.data(), m, 3);
    field(positions, directions, values, features);
    w.stats.field_evaluations += m;
    const S* v = w.point_values.data();
    for (index_t i = s; i < end; ++i) {
      if (a < width) at(w.values, i).setZero();
      for (const index_t r : w.active) w.values[static_cast<std::size_t>(i * width + r)] = *v++;
    }
    const S* f = w.point_features.data();
    for (index_t c = 0; c < channels; ++c)
      for (index_t i = s; i < end; ++i) {
        if (a < width) at(w.features, i * channels + c).setZero();
        for (const index_t r : w.active) w.features[static_cast<std::size_t>((i * channels + c) * width + r)] = *f++;
      }
  }

  void restart(lane& w, index_t count) const {
    w.prefix.setZero();
    w.transmitted.setOnes();
    w.depth.setZero();
    w.least.setZero();
    w.mask.setZero();
    w.mask.head(count).setOnes();
    std::fill(w.sum.begin(), w.sum.end(), S{0});
    w.composited = 0;
  }

  /// Adds what the samples before `end` can add; the last sample of a density that looks ahead waits for the next.
  void composite(lane& w, std::vector<S>& t, std::vector<S>& values, std::vector<S>& features, index_t end,
                 bool last) const {
    const index_t channels = options_.channels, ready = Density::looks_ahead ? end - 1 : end;
    row tau;
    for (; w.composited < ready; ++w.composited) {
      const index_t i = w.composited;
      density_(tau, at(values, i), at(values, Density::looks_ahead ? i + 1 : i), at(w.delta, i));
      tau *= w.mask;
      w.least = w.least.min(tau);
      const row weight = w.transmitted * -(-tau).expm1();
      w.prefix += tau;
      w.transmitted = (-w.prefix).exp();
      w.depth += weight * at(t, i);
      for (index_t c = 0; c < channels; ++c) at(w.sum, c) += weight * at(features, i * channels + c);
      if constexpr (fine) at(w.weights, i) = weight;
    }
    if constexpr (Density::looks_ahead && fine)
      if (last) at(w.weights, end - 1).setZero();
    static_cast<void>(last);
  }

  void end_rays(lane& w) const {
    const S limit = static_cast<S>(options_.stop_below);
    const auto ended = std::remove_if(w.active.begin(), w.active.end(), [&](index_t r) {
      if (w.transmitted[r] >= limit) return false;
      w.mask[r] = 0;
      if (w.transmitted[r] < limit) ++w.stats.ended_early;  // not NaN
      return true;
    });
    w.active.erase(ended, w.active.end());
  }

  void place_fine(lane& w, const ray_batch<S>& rays, index_t first, index_t count, stream key) const {
    if constexpr (fine) {
      const index_t strata = n_strata(), n = n_fine();
      for (index_t r = 0; r < count; ++r) {
        for (index_t s = 0; s < strata; ++s) {
          const S weight = w.weights[static_cast<std::size_t>(s * width + r)];
          w.column[static_cast<std::size_t>(s)] = weight >= 0 && std::isfinite(weight) ? weight : S{0};
        }
        w.law.template assign<S>(w.edges, w.column, sampler_.floor);
        const stream own = key.derive(rays.id[static_cast<std::size_t>(first + r)]);
        for (index_t i = 0; i < n; ++i) {
          const double inside =
              sampler_.fine == placement::random ? uniform_at(own, static_cast<std::uint64_t>(strata + i)) : 0.5;
          w.u[static_cast<std::size_t>(i)] = (static_cast<double>(i) + inside) / static_cast<double>(n);
        }
        w.law.template sorted<S>(w.fine_t, w.u);
        for (index_t i = 0; i < n; ++i)
          w.t[static_cast<std::size_t>((strata + i) * width + r)] = w.fine_t[static_cast<std::size_t>(i)];
      }
    }
  }

  /// Coarse and fine samples of each ray in one order, with their spacings. The coarse come first on ties.
  void merge(lane& w, index_t count) const {
    const index_t strata = n_strata(), all = samples_per_ray(), channels = options_.channels;
    for (index_t r = 0; r < count; ++r) {
      const auto t = [&](index_t i) { return w.t[static_cast<std::size_t>(i * width + r)]; };
      index_t a = 0, b = strata;
      for (index_t i = 0; i < all; ++i) {
        const index_t from = b == all || (a < strata && t(a) <= t(b)) ? a++ : b++;
        w.merged_t[static_cast<std::size_t>(i * width + r)] = t(from);
        w.merged_values[static_cast<std::size_t>(i * width + r)] = w.values[static_cast<std::size_t>(from * width + r)];
        for (index_t c = 0; c < channels; ++c)
          w.merged_features[static_cast<std::size_t>((i * channels + c) * width + r)] =
              w.features[static_cast<std::size_t>((from * channels + c) * width + r)];
      }
    }
    const S far = static_cast<S>(options_.far);
    for (index_t i = 0; i < all; ++i)
      at(w.delta, i) = (i + 1 < all ? row(at(w.merged_t, i + 1)) : row(row::Constant(far))) - at(w.merged_t, i);
    for (index_t r = count; r < width; ++r)  // lanes without a ray
      for (index_t i = 0; i < all; ++i) {
        w.merged_t[static_cast<std::size_t>(i * width + r)] = w.merged_values[static_cast<std::size_t>(i * width + r)] =
            0;
        w.delta[static_cast<std::size_t>(i * width + r)] = 0;
        for (index_t c = 0; c < channels; ++c)
          w.merged_features[static_cast<std::size_t>((i * channels + c) * width + r)] = 0;
      }
  }

  void write(lane& w, rendering<S>& out, index_t first, index_t count) const {
    const auto background = [&](index_t c) {
      return options_.background.empty() ? S{0} : static_cast<S>(options_.background[static_cast<std::size_t>(c)]);
    };
    for (index_t r = 0; r < count; ++r) {
      bool valid = !std::isnan(w.prefix[r]) && w.least[r] >= 0 && std::isfinite(w.depth[r]);
      for (index_t c = 0; c < options_.channels; ++c) {
        const S sum = w.sum[static_cast<std::size_t>(c * width + r)];
        valid = valid && std::isfinite(sum);
        out.features(first + r, c) = sum + w.transmitted[r] * background(c);
      }
      const S opacity = -std::expm1(-w.prefix[r]);
      out.opacity[first + r] = opacity;
      out.depth[first + r] = w.depth[r] / std::max(opacity, static_cast<S>(1e-10));
      if (valid) continue;
      for (index_t c = 0; c < options_.channels; ++c) out.features(first + r, c) = background(c);
      out.opacity[first + r] = out.depth[first + r] = 0;
      ++w.stats.invalid_rays;
      if (w.stats.stopped.index < 0 || first + r < w.stats.stopped.index) w.stats.stopped.index = first + r;
    }
  }

  render_options options_;
  Sampler sampler_;
  Density density_;
  std::vector<lane> lanes_;
};

}  // namespace sluice
