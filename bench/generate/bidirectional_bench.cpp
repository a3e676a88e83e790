// Sequences pinned at both ends. Quality per model evaluation on points that run around a circle, where two ways lead
// from the start to the end, and on a linear model, where the sampler loses to plain fusion; and what a step costs
// beside its model. Work: evaluations of one sequence, conditional and unconditional ones alike.
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <report/row.hpp>
#include <sluice/generate/bidirectional.hpp>
#include <sluice/generate/time_grid.hpp>
#include <sluice/models/circle_video.hpp>
#include <sluice/models/gp_video.hpp>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace sluice;
using Eigen::MatrixXd;
using Eigen::VectorXd;

constexpr const char* slug = "vibidsampler";
constexpr stream noise_key{20241};

template <class V>
auto two_ends(const V& video, const VectorXd& a, const VectorXd& b) {
  constexpr std::array<index_t, 1> first{0};
  return two_ended(prediction<predicts::data>(video.given(first, a)), prediction<predicts::data>(video.given(first, b)),
                   prediction<predicts::data>(video));
}

/// The usual loop around a denoiser that knows the first frame, tensors by value: the end is not asked for.
template <class Models>
std::int64_t plain_loop(Models& models, MatrixXd& x, const std::vector<noise_level>& levels) {
  const auto denoise = [&](const MatrixXd& z, const noise_level& l) {
    MatrixXd data(z.rows(), z.cols());
    models.forward(z, l, data, predicts::data);
    return data;
  };
  for (std::size_t i = 0; i + 1 < levels.size(); ++i) {
    const MatrixXd data = denoise(x, levels[i]), direction = (x - data) / levels[i].sigma;
    x = MatrixXd(x + (levels[i + 1].sigma - levels[i].sigma) * direction);
  }
  return std::ssize(levels) - 1;
}
template <class Recipe, class Models>
std::int64_t run_recipe(const Recipe& recipe, Models& models, MatrixXd& x, const VectorXd& a, const VectorXd& b,
                        const std::vector<noise_level>& levels) {
  return sample_between(recipe, models, x, a, b, levels).stats.nfe;
}

// ---- Points on a circle ---------------------------------------------------------------------------------------------

struct circle_world {
  models::circle_video video{models::circle_video_options{}};
  VectorXd a{{1.0, 0.0}}, b{{-1.0, 0.0}};
  models::circle_video truth =
      video.given(std::array<index_t, 2>{0, video.n_frames() - 1}, (MatrixXd(2, 2) << 1, -1, 0, 0).finished());
};
const circle_world& circle() {
  static const circle_world w;
  return w;
}
template <class F>
auto on_circle(index_t n_steps, F run) {
  return [=](benchmark::State& state) {
    const circle_world& w = circle();
    auto models = two_ends(w.video, w.a, w.b);
    const auto levels = karras_levels(n_steps, 0.002, 700);
    const index_t n_runs = bench::options().mode == bench::effort::quick ? 200 : 2000;
    MatrixXd x(w.video.dimension(), n_runs);
    for (auto _ : state) {
      fill_start(x, levels.front(), stream(7));
      state.counters["work"] = static_cast<double>(run(models, x, w.a, w.b, levels));
    }
    double off = 0, rms = 0, good = 0;
    for (index_t j = 0; j < n_runs; ++j) {
      const double distance = w.truth.path_rms(x.col(j));
      off += w.truth.off_manifold(x.col(j)) / static_cast<double>(n_runs);
      rms += distance / static_cast<double>(n_runs);
      good += (distance < 0.15 ? 1.0 : 0.0) / static_cast<double>(n_runs);
    }
    state.counters["quality"] = good;
    char note[160];
    std::snprintf(note, sizeof note, "off the circle %.3f, path RMS %.3f (a perfect sampler: 0.044, 0.068), good %.3f",
                  off, rms, good);
    state.SetLabel(note);
  };
}
auto naive() {
  return [](auto& models, MatrixXd& x, const VectorXd&, const VectorXd&, const std::vector<noise_level>& levels) {
    return plain_loop(models, x, levels);
  };
}
template <class Recipe>
auto using_recipe(const Recipe& recipe) {
  return [=](auto& models, MatrixXd& x, const VectorXd& a, const VectorXd& b, const std::vector<noise_level>& levels) {
    return run_recipe(recipe, models, x, a, b, levels);
  };
}

constexpr step_noise noise{noise_key};
using plain = bidirectional<renoising::standard, no_consistency>;
using replaced = bidirectional<renoising::standard>;

void register_circle() {
  for (const index_t n : {index_t{25}, index_t{10}}) {
    const std::string grid = ", N = " + std::to_string(n);
    const bench::quality quality{
        .name = "share of paths within 0.15 of an admissible one", .higher_is_better = true, .tolerance = 0};
    bench::row{.slug = slug,
               .workload = "points on a circle" + grid,
               .unit = "evaluations of a sequence",
               .quality = quality,
               .claim = "one re-noising pass a step instead of several",
               .note = "naive: one-sided, which misses the end. Equal quality costs fusion 2.5 times the evaluations"}
        .naive(on_circle(n, naive()))
        .sluice(on_circle(n, using_recipe(bidirectional<>{.noise = noise})))
        .peer("fusion, 5 passes", on_circle(n, using_recipe(time_reversal_fusion<>{5, noise})));
    bench::row{.slug = slug,
               .workload = "points on a circle, 2 evaluations a step" + grid,
               .unit = "evaluations of a sequence",
               .quality = quality,
               .claim = "",
               .note = "the standard step with the far end replaced. naive: the same without. Halves the cost"}
        .naive(on_circle(n, using_recipe(plain{.noise = noise})))
        .sluice(on_circle(n, using_recipe(replaced{.noise = noise})))
        .peer("fusion, 1 pass", on_circle(n, using_recipe(time_reversal_fusion<>{1, noise})));
  }
}

// ---- A linear model -------------------------------------------------------------------------------------------------

struct linear_world {
  models::gaussian_frames video = models::gp_video(15, 1, {.v = 1, .l = 4, .nugget = 1e-3});
  VectorXd a = VectorXd::Constant(1, 1.0), b = VectorXd::Constant(1, -0.5);
  models::gaussian_frames truth = models::bridge(video, a, b);
};
const linear_world& linear() {
  static const linear_world w;
  return w;
}
/// Unit noise, one element a column: the sampler is affine in start and noise, so one batch has its matrix.
struct basis_noise {
  void operator()(MatrixXd& out, index_t i, const noise_level&, const noise_level&) const {
    out.setZero();
    const index_t n = out.rows();
    if (1 + n * (2 + i) <= out.cols()) out.middleCols(1 + n * (1 + i), n).setIdentity();
  }
};
MatrixXd root(const MatrixXd& c) {
  const Eigen::SelfAdjointEigenSolver<MatrixXd> solver((c + c.transpose()) / 2);
  return solver.eigenvectors() * solver.eigenvalues().cwiseMax(0.0).cwiseSqrt().asDiagonal() *
         solver.eigenvectors().transpose();
}
/// The exact distance between the law of the sampler's result and the bridge.
template <class F>
auto on_line(index_t n_steps, index_t n_noises, F make) {
  return [=](benchmark::State& state) {
    const linear_world& w = linear();
    auto models = two_ends(w.video, w.a, w.b);
    const auto levels = karras_levels(n_steps, 0.002, 700);
    const index_t n = w.video.n_frames(), n_runs = bench::options().mode == bench::effort::quick ? 200 : 2000;
    MatrixXd x(n, n_runs);
    for (auto _ : state) {
      fill_start(x, levels.front(), stream(7));
      state.counters["work"] = static_cast<double>(make(noise)(models, x, w.a, w.b, levels));
    }
    MatrixXd map = MatrixXd::Zero(n, 1 + n * (1 + n_noises));
    map.middleCols(1, n).diagonal().setConstant(levels.front().sigma);
    static_cast<void>(make(basis_noise{})(models, map, w.a, w.b, levels));
    const VectorXd mean = map.col(0);
    const MatrixXd columns = map.rightCols(map.cols() - 1).colwise() - mean, c = columns * columns.transpose(),
                   s = root(w.truth.covariance());
    const double squared =
        (mean - w.truth.mean().transpose()).squaredNorm() + (c + w.truth.covariance() - 2 * root(s * c * s)).trace();
    state.counters["quality"] = std::sqrt(std::max(0.0, squared));
    char note[80];
    std::snprintf(note, sizeof note, "W2 %.3f of a scale of %.2f", std::sqrt(std::max(0.0, squared)),
                  std::sqrt(w.truth.covariance().trace() + w.truth.mean().squaredNorm()));
    state.SetLabel(note);
  };
}
void register_linear() {
  for (const index_t n : {index_t{25}, index_t{10}})
    bench::row{.slug = slug,
               .workload = "smooth Gaussian paths, N = " + std::to_string(n),
               .unit = "evaluations of a sequence",
               .quality = {.name = "W2 to the bridge", .tolerance = 0},
               .claim = "",
               .note =
                   "a linear model, where averaging harms nothing: fusion with one pass is better and cheaper. "
                   "naive: one-sided"}
        .naive(on_line(n, 0, [](const auto&) { return naive(); }))
        .sluice(on_line(n, n, [](const auto& z) { return using_recipe(bidirectional<>{}.with_noise(z)); }))
        .peer("fusion, 1 pass", on_line(n, 0, [](const auto&) { return using_recipe(time_reversal_fusion<>{}); }));
}

// ---- The cost of a step ---------------------------------------------------------------------------------------------

constexpr index_t cost_steps = 8;
const std::vector<noise_level>& cost_levels() {
  static const auto l = karras_levels(cost_steps, 0.01, 50);
  return l;
}
/// One pass: what is timed is the sampler.
struct light_model {
  double gain;
  template <class X, class O>
  void operator()(const X& x, const noise_level&, O& out, predicts) const {
    lincomb(out, gain, x);
  }
};
/// The same numbers at no cost worth mentioning.
struct prepared_noise {
  const VectorXd* values;
  template <class O>
  void operator()(O& out, index_t, const noise_level&, const noise_level&) const {
    lincomb(out, 1, *values);
  }
};
struct step_world {
  index_t d, n_frames;
  VectorXd start, noise, a, b;
  step_world(index_t features, index_t frames)
      : d(features), n_frames(frames), start(d * frames), noise(start), a(d), b(d) {
    fill_normal(start, stream(1), 50);
    fill_normal(noise, stream(2));
    fill_normal(a, stream(3));
    fill_normal(b, stream(4));
  }
};
const step_world& steps_of(index_t d) {
  static const step_world small(64, 16), large(16384, 16);
  return d == 64 ? small : large;
}
/// Line by line as in the source's code: a function for each operation, tensors by value.
MatrixXd by_value(const step_world& w) {
  const auto flip = [](const MatrixXd& z) { return MatrixXd(z.rowwise().reverse()); };
  const auto half = [](const MatrixXd& z, double s, double t, const VectorXd& last) {
    const MatrixXd c = 0.5 * z, u = 0.4 * z;
    MatrixXd data = u + 1.0 * (c - u);
    data.rightCols(1) = last;
    const MatrixXd residual = (z - u) / s;
    return MatrixXd(data + t * residual);
  };
  MatrixXd x = w.start.reshaped(w.d, w.n_frames);
  const MatrixXd xi = w.noise.reshaped(w.d, w.n_frames);
  for (std::size_t i = 0; i < static_cast<std::size_t>(cost_steps); ++i) {
    const double s = cost_levels()[i].sigma, t = cost_levels()[i + 1].sigma;
    x = half(x, s, t, w.b);
    x = MatrixXd(x + std::sqrt(s * s - t * t) * xi);
    x = flip(half(flip(x), s, t, w.a));
  }
  return x;
}
/// By hand with buffers and as few passes as there can be: the models', one that makes the reversed state and one back.
struct by_hand {
  MatrixXd x, z, c, u, xi;
  const MatrixXd& operator()(const step_world& w) {
    const index_t n = w.n_frames;
    x = w.start.reshaped(w.d, n);
    z.resize(w.d, n), c.resize(w.d, n), u.resize(w.d, n), xi.resize(w.d, n);
    for (std::size_t i = 0; i < static_cast<std::size_t>(cost_steps); ++i) {
      const double s = cost_levels()[i].sigma, t = cost_levels()[i + 1].sigma, r = t / s,
                   spread = std::sqrt(s * s - t * t);
      c = 0.5 * x, u = 0.4 * x;
      c.col(n - 1) = w.b;
      xi = w.noise.reshaped(w.d, n);
      for (index_t f = 0; f < n; ++f) z.col(n - 1 - f) = c.col(f) + r * (x.col(f) - u.col(f)) + spread * xi.col(f);
      c = 0.5 * z, u = 0.4 * z;
      c.col(n - 1) = w.a;
      for (index_t f = 0; f < n; ++f) x.col(n - 1 - f) = c.col(f) + r * (z.col(f) - u.col(f));
    }
    return x;
  }
};
template <class F>
auto on_steps(index_t d, F make) {
  return [=](benchmark::State& state) {
    const step_world& w = steps_of(d);
    auto run = make(w);
    for (auto _ : state) {
      benchmark::DoNotOptimize(run(w).data());
      benchmark::ClobberMemory();
    }
    state.counters["work"] = static_cast<double>(cost_steps);
    state.counters["quality"] = (run(w).reshaped() - by_value(w).reshaped()).cwiseAbs().maxCoeff();
    state.counters["n"] = static_cast<double>(w.start.size());
    state.SetItemsProcessed(state.iterations() * cost_steps);
  };
}
/// The stepper lives as long as the variant, as in a service that samples again and again.
struct with_stepper {
  using recipe = bidirectional<renoising::cfg_plus_plus, replace_last_frame, fused_euler, edm, prepared_noise>;
  two_ended_models<light_model, light_model, light_model> models{{0.5}, {0.5}, {0.4}};
  recipe::stepper<VectorXd> stepper;
  VectorXd x;
  explicit with_stepper(const step_world& w)
      : stepper(bidirectional<>{}.with_noise(prepared_noise{&w.noise}).bind(w.start, w.a, w.b, cost_levels())),
        x(w.start) {}
  const VectorXd& operator()(const step_world& w) {
    x = w.start;
    for (index_t i = 0; i < cost_steps; ++i) stepper.step(models, x, i);
    return x;
  }
};
void register_steps() {
  for (const index_t d : {index_t{64}, index_t{16384}})
    bench::row{.slug = slug,
               .workload = "steps alone, 16 frames of " + std::to_string(d) + " features",
               .unit = "steps",
               .quality = {.name = "largest difference", .tolerance = 1e-10},
               .claim = "",
               .note =
                   "models of one pass. naive: the source's loop line by line, tensors by value. The peer does not "
                   "report errors and disagreement, one pass"}
        .naive(on_steps(d, [](const step_world&) { return by_value; }))
        .sluice(on_steps(d, [](const step_world& w) { return with_stepper(w); }))
        .peer("Eigen by hand", on_steps(d, [](const step_world&) { return by_hand{}; }));
}

const bool registered = [] {
  register_circle();
  register_linear();
  register_steps();
  return true;
}();

}  // namespace
