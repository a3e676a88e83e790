// Editing one class into another on a labelled mixture: calls for the same quality of the edited part, and what happens
// to the part that should stay; then the arithmetic of a step.
#include <benchmark/benchmark.h>

#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <map>
#include <sluice/generate/ddcm.hpp>
#include <sluice/generate/edit_baselines.hpp>
#include <sluice/generate/time_grid.hpp>
#include <sluice/models/diagonal_mixture.hpp>
#include <sluice/random/distributions.hpp>
#include <string>
#include <utility>
#include <vector>

#include "report/row.hpp"

namespace {

using namespace sluice;
using Eigen::MatrixXd;
using Eigen::VectorXd;
using level_list = std::vector<noise_level>;

/// A class: a mixture over backgrounds that share one covariance, so that it is diagonal in the covariance's axes.
class prompt {
 public:
  prompt(const MatrixXd& means, const MatrixXd& covariance) : axes_(covariance), mixture_(make(means)) {}
  template <class X, class Out>
  void operator()(const X& x, const noise_level& level, Out& out) {
    turned_.noalias() = axes_.eigenvectors().transpose() * x;
    data_.resize(x.rows(), x.cols());
    mixture_(turned_, level, data_);
    out.noalias() = axes_.eigenvectors() * data_;
  }
  VectorXd sample(cursor& random) const { return axes_.eigenvectors() * mixture_.sample(random).first; }
  double log_density(const VectorXd& x) {
    return mixture_.log_density(VectorXd(axes_.eigenvectors().transpose() * x), models::at_kappa(1e-9));
  }

 private:
  models::diagonal_mixture make(const MatrixXd& means) const {
    return {VectorXd::Ones(means.cols()), axes_.eigenvectors().transpose() * means, axes_.eigenvalues()};
  }
  Eigen::SelfAdjointEigenSolver<MatrixXd> axes_;
  models::diagonal_mixture mixture_;
  MatrixXd turned_, data_;
};

/// Three objects times four backgrounds, 8 and 24 coordinates, means 0.6 normals; the classes' variances differ. The
/// source is class 0, the target class 1. Coupled: the background's mean given the object has a term more, tanh of the
/// sum of the class's mean plus 0.3 times the sum of the object's deviation from it. What should stay is then the
/// background beside its mean given the object.
struct world {
  static constexpr Eigen::Index objects = 3, backgrounds = 4, d_object = 8, d_background = 24, samples = 400;
  bool coupled;
  MatrixXd x0{d_object + d_background, samples};
  std::vector<VectorXd> object_mean;
  std::vector<prompt> prompts;

  explicit world(bool with_coupling) : coupled(with_coupling) {
    constexpr double variance[] = {0.15, 0.05, 0.3};
    for (std::size_t o = 0; o < objects; ++o) {
      object_mean.push_back(block(d_object, o));
      MatrixXd means(d_object + d_background, backgrounds);
      for (Eigen::Index b = 0; b < backgrounds; ++b)
        means.col(b) << object_mean[o], (block(d_background, 10 + static_cast<std::uint64_t>(b)).array() + lift(o));
      MatrixXd response = MatrixXd::Identity(means.rows(), means.rows()), covariance = response;
      if (coupled) response.bottomLeftCorner(d_background, d_object).setConstant(slope);
      covariance.diagonal() << VectorXd::Constant(d_object, variance[o]), VectorXd::Constant(d_background, 0.15);
      prompts.emplace_back(means, response * covariance * response.transpose());
    }
    target_sd = std::sqrt(variance[1]);
    cursor random(stream(2024, 2));
    for (Eigen::Index j = 0; j < samples; ++j) x0.col(j) = prompts[0].sample(random);
  }
  /// Means and standard deviations of the object's coordinates against the target class, relative to its spread.
  double object_error(const MatrixXd& z) const {
    const auto top = z.topRows(d_object);
    const VectorXd mean = top.rowwise().mean();
    const Eigen::ArrayXd sd = ((top.colwise() - mean).rowwise().squaredNorm() / samples).cwiseSqrt();
    return std::sqrt(((mean - object_mean[1]).squaredNorm() + (sd - target_sd).square().sum()) / d_object) / target_sd;
  }
  /// Root mean square change of the background beside its mean given the object.
  double background_drift(const MatrixXd& z) const { return std::sqrt((left(z, 1) - left(x0, 0)).square().mean()); }
  double target_probability(const MatrixXd& z) {
    double sum = 0;
    for (Eigen::Index j = 0; j < samples; ++j) {
      Eigen::Array3d log_p;
      for (Eigen::Index o = 0; o < objects; ++o) log_p(o) = prompts[static_cast<std::size_t>(o)].log_density(z.col(j));
      log_p = (log_p - log_p.maxCoeff()).exp();
      sum += log_p(1) / log_p.sum();
    }
    return sum / samples;
  }

 private:
  static constexpr double slope = 0.3;
  double target_sd = 0;
  static VectorXd block(Eigen::Index d, std::uint64_t id) {
    VectorXd m(d);
    fill_normal(m, stream(2024, 1).derive(id), 0.6);
    return m;
  }
  double lift(std::size_t o) const { return coupled ? std::tanh(object_mean[o].sum()) : 0; }
  Eigen::ArrayXXd left(const MatrixXd& z, std::size_t o) const {
    const Eigen::ArrayXd moved = (z.topRows(d_object).colwise() - object_mean[o]).colwise().sum().transpose();
    return z.bottomRows(d_background).array().rowwise() -
           (lift(o) + (coupled ? slope : 0.0) * moved).transpose().eval();
  }
};
world& of(bool coupled) {
  static world plain(false), with_coupling(true);
  return coupled ? with_coupling : plain;
}

const vp_discrete& schedule() {
  static const auto s = vp_discrete::scaled_linear();
  return s;
}
level_list at(const std::vector<index_t>& indices) {
  level_list levels;
  for (const index_t i : indices) levels.push_back(schedule().at_index(i));
  return levels;
}
/// n + 1 levels, evenly spread over the indices from `top` to 0.
level_list even(index_t n, double top = 999) {
  std::vector<index_t> indices;
  for (index_t j = 0; j <= n; ++j)
    indices.push_back(
        static_cast<index_t>(std::nearbyint(top * (1 - static_cast<double>(j) / static_cast<double>(n)))));
  return at(indices);
}

struct outcome {
  double calls = 0, object = 0, background = 0, probability = 0;
};
template <class Editor>
std::int64_t run(const Editor& editor, world& w, const level_list& levels, MatrixXd& z) {
  return edit(editor,
              conditions(prediction<predicts::data>(std::ref(w.prompts[0])),
                         prediction<predicts::data>(std::ref(w.prompts[1]))),
              z, w.x0, levels, {}, stream(7))
      .stats.nfe;
}
template <class Editor>
outcome measure(const Editor& editor, bool coupled, const level_list& levels) {
  world& w = of(coupled);
  MatrixXd z(w.x0.rows(), w.x0.cols());
  const auto calls = static_cast<double>(run(editor, w, levels, z));
  return {calls, w.object_error(z), w.background_drift(z), w.target_probability(z)};
}

/// The shortest inversion whose edited part is as good as `wanted`: every length up to 20, then in steps of 5 %; 300 if
/// none is.
index_t matched(bool coupled, double wanted) {
  static std::map<std::pair<bool, index_t>, double> known;
  index_t n = 2;
  for (; n < 300; n += std::max<index_t>(1, n / 20)) {
    const auto [at_n, is_new] = known.try_emplace({coupled, n}, 0.0);
    if (is_new) at_n->second = measure(ddim_inversion{}, coupled, even(n)).object;
    if (at_n->second <= wanted) return n;
  }
  return 300;
}

enum class look { object, background };
template <class Editor, class Levels>
auto variant(Editor editor, bool coupled, look at_what, Levels make_levels, index_t size) {
  return [=](benchmark::State& state) {
    const level_list levels = make_levels();
    world& w = of(coupled);
    MatrixXd z(w.x0.rows(), w.x0.cols());
    for (auto _ : state) benchmark::DoNotOptimize(run(editor, w, levels, z));
    const outcome o = measure(editor, coupled, levels);
    state.counters["work"] = o.calls;
    state.counters["N"] = static_cast<double>(size);
    state.counters["quality"] = at_what == look::object ? o.object : o.background;
  };
}
auto labelled(bool coupled, look at_what, index_t n) {
  return [=](benchmark::State& state) {
    variant(
        ddcm{}, coupled, at_what, [n] { return at(consistency_indices(n)); }, n)(state);
    const outcome ours = measure(ddcm{}, coupled, at(consistency_indices(n)));
    const index_t same = matched(coupled, ours.object);
    const outcome naive = measure(ddim_inversion{}, coupled, even(same)),
                  sde = measure(sdedit{heun{.order = 1}}, coupled, even(15, 0.7 * 999));
    char note[400];
    const int written = std::snprintf(
        note, sizeof note,
        "background drift %.1e, inversion with %td steps %.3f, SDEdit (0.7, 15 calls) %.3f; object error %.3f, "
        "%.3f, %.3f; P(target) %.3f, %.3f, %.3f",
        ours.background, same, naive.background, sde.background, ours.object, naive.object, sde.object,
        ours.probability, naive.probability, sde.probability);
    if (n == 12 && !coupled)
      std::snprintf(note + written, sizeof note - static_cast<std::size_t>(written),
                    "; eta = 0.5, 0: object error %.3f, %.3f",
                    measure(ddcm{.eta = 0.5}, false, at(consistency_indices(12))).object,
                    measure(ddcm{.eta = 0}, false, at(consistency_indices(12))).object);
    state.SetLabel(note);
  };
}

void register_edits() {
  for (const bool coupled : {false, true})
    for (const index_t n : {4, 8, 12, 15, 30}) {
      if (coupled && n != 15) continue;
      const auto inversion = [=](look what) {
        return [=](benchmark::State& state) {
          const index_t same = matched(coupled, measure(ddcm{}, coupled, at(consistency_indices(n))).object);
          variant(
              ddim_inversion{}, coupled, what, [same] { return even(same); }, n)(state);
        };
      };
      bench::row{.slug = "infedit",
                 .workload = std::string(coupled ? "coupled background" : "labelled mixture") +
                             ", edited part, N = " + std::to_string(n),
                 .unit = "model calls",
                 .quality = {.name = "relative W2 of the object", .tolerance = 0.03},
                 .claim = coupled ? "" : "3.3-4x fewer calls",
                 .note = "400 samples. naive: the shortest DDIM inversion of at most 300 steps whose object is as good"}
          .naive(inversion(look::object))
          .sluice(labelled(coupled, look::object, n))
          .peer("SDEdit", variant(
                              sdedit{heun{.order = 1}}, coupled, look::object, [] { return even(15, 0.7 * 999); }, n));
      if (n != 15) continue;
      bench::row{.slug = "infedit",
                 .workload = std::string(coupled ? "coupled background" : "labelled mixture") +
                             ", what should stay, N = " + std::to_string(n),
                 .unit = "model calls",
                 .quality = {.name = "background drift, RMS", .tolerance = 0},
                 .claim = coupled ? "" : "background drift 0",
                 .note = coupled ? "beside the background's mean given the object" : ""}
          .naive(inversion(look::background))
          .sluice(labelled(coupled, look::background, n))
          .peer("SDEdit",
                variant(
                    sdedit{heun{.order = 1}}, coupled, look::background, [] { return even(15, 0.7 * 999); }, n));
    }
}

// The arithmetic of a step: models and noise that cost one copy.
constexpr index_t d = 1 << 14;
struct copies {
  VectorXd source = VectorXd::LinSpaced(d, -1, 1), target = VectorXd::LinSpaced(d, 1, -1),
           xi = VectorXd::LinSpaced(d, -2, 2), x0 = VectorXd::LinSpaced(d, 0, 1);
};
const copies& memory() {
  static const copies m;
  return m;
}
void report(benchmark::State& state, const VectorXd& z) {
  const copies& m = memory();
  state.counters["work"] = 12;
  state.counters["d"] = d;
  state.counters["quality"] = (z - (m.x0 + m.target - m.source)).norm() / z.norm();
}
/// The published step: predictions of noise, a new vector for each result.
void published(benchmark::State& state) {
  const level_list levels = at(consistency_indices(12));
  const copies& m = memory();
  const auto source = [&](const VectorXd& x, double a, double s) { return VectorXd((x - a * m.source) / s); };
  const auto target = [&](const VectorXd& x, double a, double s) { return VectorXd((x - a * m.target) / s); };
  const auto noise = [&] { return VectorXd(m.xi); };
  VectorXd z;
  for (auto _ : state) {
    VectorXd xs = levels[0].alpha * m.x0 + levels[0].sigma * noise(), xt = xs;
    for (std::size_t i = 0; i < levels.size(); ++i) {
      const double a = levels[i].alpha, s = levels[i].sigma;
      const VectorXd es = source(xs, a, s), et = target(xt, a, s), ec = (xs - a * m.x0) / s;
      z = m.x0 + ((xt - xs) - s * (et - es)) / a;
      const VectorXd eps = et - es + ec;
      if (i + 1 == levels.size()) break;
      const double b = levels[i + 1].alpha, r = levels[i + 1].sigma;
      const VectorXd direction = 0 * r * eps, fresh = r * noise();
      xt = b * z + direction + fresh;
      xs = b * m.x0 + direction + fresh;
    }
    benchmark::DoNotOptimize(std::as_const(z).data());
    benchmark::ClobberMemory();
  }
  report(state, z);
}
void by_hand(benchmark::State& state) {
  const level_list levels = at(consistency_indices(12));
  const copies& m = memory();
  VectorXd z(d), xs(d), xt(d), ds(d), dt(d), xi(d);
  for (auto _ : state) {
    z = m.x0;
    for (const noise_level& l : levels) {
      xi = m.xi;
      xs = l.alpha * m.x0 + l.sigma * xi;
      xt = l.alpha * z + l.sigma * xi;
      benchmark::DoNotOptimize(std::as_const(xs).data());
      benchmark::DoNotOptimize(std::as_const(xt).data());
      benchmark::ClobberMemory();
      ds = m.source;
      dt = m.target;
      benchmark::ClobberMemory();
      dt = dt - ds + m.x0;
      xi = dt - z;
      if (!std::isfinite(xi.norm())) break;
      z = dt;
    }
    benchmark::DoNotOptimize(std::as_const(z).data());
    benchmark::ClobberMemory();
  }
  report(state, z);
}
void ours(benchmark::State& state) {
  const level_list levels = at(consistency_indices(12));
  const copies& m = memory();
  auto pair = conditions(prediction<predicts::data>([&m](const VectorXd&, const noise_level&, VectorXd& out) {
                           benchmark::ClobberMemory();
                           out = m.source;
                         }),
                         prediction<predicts::data>([&m](const VectorXd&, const noise_level&, VectorXd& out) {
                           benchmark::ClobberMemory();
                           out = m.target;
                         }));
  const auto noise = [&m](VectorXd& out, index_t, const noise_level&, const noise_level&) { out = m.xi; };
  auto stepper = ddcm{}.bind<decltype(pair)>(m.x0, levels);
  VectorXd z(d);
  for (auto _ : state) {
    z = m.x0;
    for (index_t i = 0; i < stepper.n_steps(); ++i) stepper.step(pair, z, m.x0, i, noise);
    benchmark::DoNotOptimize(std::as_const(z).data());
    benchmark::ClobberMemory();
  }
  report(state, z);
}

const bool registered = [] {
  register_edits();
  bench::row{.slug = "infedit",
             .workload = "arithmetic of 12 steps, d = 16384",
             .unit = "steps",
             .quality = {.name = "relative error", .tolerance = 1e-12},
             .claim = "",
             .note = "models and noise are copies. naive: the published step, a new vector for each result"}
      .naive(published)
      .sluice(ours)
      .peer("Eigen by hand", by_hand);
  return true;
}();

}  // namespace
