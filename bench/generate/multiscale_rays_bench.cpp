// Rendering a scene of blobs from 4 test views: at full resolution, at 1/f of it with a decoder that 24 training views
// have fitted, bilinear interpolation of the same rays, a smaller f, refinement, and decoder A on a field of latents.
#include <sluice/generate/multiscale_rays.hpp>
#include <sluice/models/gaussian_blobs.hpp>
#include <sluice/random/distributions.hpp>

#include <Eigen/Core>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <numbers>
#include <report/row.hpp>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace sluice;
using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using renderer = volume_renderer<float>;
constexpr index_t side = 64, samples = 96;
const render_options options{.near = 1.9, .far = 4.1, .stop_below = 0};

/// The blobs; with `priced`, at the price of a small network: 3-64-64-4 on every point, whose output is thrown away.
struct scene {
  explicit scene(bool price = false) : priced(price) {}
  models::gaussian_blobs blobs;
  bool priced;
  matrix first = matrix::Random(3, 64), second = matrix::Random(64, 64), third = matrix::Random(64, 4);

  template <class P, class D, class V, class C>
  void operator()(const P& p, const D& d, V& values, C& colours) {
    blobs(p, d, values, colours);
    if (!priced) return;
    a_.resize(p.rows(), 64), b_.resize(p.rows(), 64), c_.resize(p.rows(), 4);
    a_.noalias() = p * first;
    a_ = a_.cwiseMax(0.0f);
    b_.noalias() = a_ * second;
    b_ = b_.cwiseMax(0.0f);
    c_.noalias() = b_ * third;
    values += c_.col(0) * 1e-30f;  // it counts, and changes nothing
  }

 private:
  Eigen::MatrixXf a_, b_, c_;
};

pinhole_camera orbit(double azimuth, double elevation) {
  const Eigen::Vector3d eye(3 * std::cos(elevation) * std::cos(azimuth), 3 * std::cos(elevation) * std::sin(azimuth),
                            3 * std::sin(elevation));
  return pinhole_camera::look_at(eye, {0, 0, 0}, {0, 0, 1}, 40);
}
const std::vector<pinhole_camera>& training_cameras() {
  static const std::vector<pinhole_camera> cameras = [] {
    std::vector<pinhole_camera> c;
    for (int i = 0; i < 24; ++i) c.push_back(orbit(2 * std::numbers::pi * i / 24, .35 * std::sin(2.4 * i)));
    return c;
  }();
  return cameras;
}
const std::vector<pinhole_camera>& test_cameras() {
  static const std::vector<pinhole_camera> cameras = [] {
    std::vector<pinhole_camera> c;
    for (int i = 0; i < 4; ++i) c.push_back(orbit(2 * std::numbers::pi * (i + .5) / 6 + .1, .15));
    return c;
  }();
  return cameras;
}
std::vector<matrix> full_images(const std::vector<pinhole_camera>& cameras) {
  std::vector<matrix> images;
  renderer r(options, {samples});
  ray_batch<float> rays;
  rendering<float> out;
  scene field;
  for (const auto& camera : cameras) {
    block_rays(rays, camera, {side, side, 1});
    r.render(field, out, rays);
    images.push_back(out.features);
  }
  return images;
}
const std::vector<matrix>& training_images() {
  static const auto images = full_images(training_cameras());
  return images;
}
const std::vector<matrix>& test_images() {
  static const auto images = full_images(test_cameras());
  return images;
}
double psnr(const matrix& a, const matrix& b) {
  const double mse = (a.cwiseMax(0.0f).cwiseMin(1.0f) - b).cast<double>().squaredNorm() / static_cast<double>(a.size());
  return -10 * std::log10(mse);
}

const neighbourhood_decoder<float>& decoder_b(index_t f, index_t codes) {
  static std::map<std::pair<index_t, index_t>, std::unique_ptr<neighbourhood_decoder<float>>> known;
  auto& d = known[{f, codes}];
  if (!d) {
    d = std::make_unique<neighbourhood_decoder<float>>(neighbourhood_options{.codes = codes});
    renderer r(options, {samples});
    ray_batch<float> rays;
    rendering<float> low;
    scene field;
    const ray_grid shape{side, side, f};
    for (std::size_t i = 0; i < training_cameras().size(); ++i) {
      block_rays(rays, training_cameras()[i], shape);
      r.render(field, low, rays);
      d->add(low, training_images()[i], shape);
    }
    cursor random(stream{1});
    if (!d->train(random)) std::abort();
  }
  return *d;
}

struct outcome {
  double evaluations = 0, quality = 0, decode_seconds = 0;
};
/// All test views.
template <class Decoder, class Field>
outcome render_views(multiscale_renderer<renderer, Decoder>& r, Field& field, index_t f, double rho) {
  static multiscale_image<float> image;
  outcome o;
  for (std::size_t i = 0; i < test_cameras().size(); ++i) {
    r.render(field, image, test_cameras()[i], {side, side, f}, rho);
    o.evaluations += static_cast<double>(image.stats.field_evaluations);
    o.decode_seconds += image.stats.decode_seconds;
    o.quality += psnr(image.image, test_images()[i]) / static_cast<double>(test_cameras().size());
  }
  return o;
}
template <class Decoder>
outcome once(const Decoder& decoder, index_t f, double rho) {
  multiscale_renderer<renderer, Decoder> r(renderer(options, {samples}), decoder);
  scene field;
  return render_views(r, field, f, rho);
}

auto full(bool priced, index_t f) {
  return [=](benchmark::State& state) {
    scene field(priced);
    renderer r(options, {samples});
    ray_batch<float> rays;
    rendering<float> out;
    double work = 0;
    for (auto _ : state) {
      work = 0;
      for (const auto& camera : test_cameras()) {
        block_rays(rays, camera, {side, side, 1});
        r.render(field, out, rays);
        work += static_cast<double>(out.stats.field_evaluations);
      }
    }
    state.counters["work"] = work;
    state.counters["f"] = static_cast<double>(f);
  };
}
template <class Make>
auto scaled(Make make, bool priced, index_t f, index_t row_f, double rho = 0, std::string label = {}) {
  return [=](benchmark::State& state) {
    test_images();
    auto decoder = make();
    multiscale_renderer<renderer, decltype(decoder)> r(renderer(options, {samples}), decoder);
    scene field(priced);
    multiscale_image<float> image;
    double work = 0, decode = 0, n = 0;
    for (auto _ : state) {
      work = 0;
      for (const auto& camera : test_cameras()) {
        r.render(field, image, camera, {side, side, f}, rho);
        work += static_cast<double>(image.stats.field_evaluations);
        decode += image.stats.decode_seconds, ++n;
      }
    }
    state.counters["work"] = work;
    state.counters["f"] = static_cast<double>(row_f);
    state.counters["quality"] = render_views(r, field, f, rho).quality;
    if (label == "peers") {
      char text[240];
      const double linear = once(decoder_b(f, 0), f, rho).quality,
                   bilinear = once(bilinear_decoder<float>(), f, 0).quality;
      std::snprintf(text, sizeof text, "same rays: bilinear %.1f dB, linear decoder %.1f dB; decoding %.3f ms a view",
                    bilinear, linear, 1e3 * decode / n);
      std::string all = text;
      if (f > 2) {
        std::snprintf(text, sizeof text, "; f = %td with 4 times the rays: bilinear %.1f dB, this decoder %.1f dB",
                      f / 2, once(bilinear_decoder<float>(), f / 2, 0).quality,
                      once(decoder_b(f / 2, 64), f / 2, 0).quality);
        all += text;
      }
      state.SetLabel(all);
    } else if (label == "refined") {
      char text[240];
      std::snprintf(
          text, sizeof text,
          "%.1f %% of the rays; bilinear refined by contrast %.1f dB; f = 2 without refinement has %.1f dB at 25 %%: "
          "choose that first",
          100 * (1.0 / static_cast<double>(f * f) + rho), once(bilinear_decoder<float>(), f, rho).quality,
          once(decoder_b(2, 64), 2, 0).quality);
      state.SetLabel(text);
    }
  };
}

/// Latents on a grid of nodes over the cube [-1.2, 1.2]^3, trilinear, with the density of the blobs. Fitted to the
/// latents of the training images by conjugate gradients on the ridge equations.
class latent_field {
 public:
  latent_field(const patch_latent_decoder<float>& decoder, index_t f, index_t latents)
      : nodes_(matrix::Zero(grid * grid * grid, latents)) {
    std::vector<std::vector<std::pair<index_t, float>>> rays;  // what a rendered latent takes from each node
    matrix targets(0, latents), some;
    ray_batch<float> batch;
    const ray_grid shape{side, side, f};
    std::vector<float> t(samples), tau(samples), w(samples), delta(samples, 2.2f / samples);
    stratified_positions<float>(t, 1.9, 4.1);
    Eigen::Matrix<float, Eigen::Dynamic, 3> p(samples, 3);
    Eigen::VectorXf sigma(samples);
    matrix unused(samples, 3);
    for (std::size_t v = 0; v < training_cameras().size(); ++v) {
      block_rays(batch, training_cameras()[v], shape);
      decoder.encode(some, training_images()[v], shape);
      targets.conservativeResize(targets.rows() + some.rows(), latents);
      targets.bottomRows(some.rows()) = some;
      for (index_t r = 0; r < batch.size(); ++r) {
        for (index_t i = 0; i < samples; ++i)
          p.row(i) = batch.origins.row(r) + t[static_cast<std::size_t>(i)] * batch.directions.row(r);
        blobs_(p, p, sigma, unused);
        optical_depths<float>(tau, {sigma.data(), samples}, delta);
        volume_weights<float>(w, tau);
        std::vector<std::pair<index_t, float>> row;
        for (index_t i = 0; i < samples; ++i)
          if (w[static_cast<std::size_t>(i)] > 1e-4f)
            corners(p(i, 0), p(i, 1), p(i, 2),
                    [&](index_t node, float share) { row.emplace_back(node, share * w[static_cast<std::size_t>(i)]); });
        rays.push_back(std::move(row));
      }
    }
    const auto forward = [&](const matrix& x) {
      matrix y = matrix::Zero(targets.rows(), latents);
      for (std::size_t r = 0; r < rays.size(); ++r)
        for (const auto& [node, share] : rays[r]) y.row(static_cast<index_t>(r)) += share * x.row(node);
      return y;
    };
    const auto backward = [&](const matrix& y) {
      matrix x = matrix::Zero(nodes_.rows(), latents);
      for (std::size_t r = 0; r < rays.size(); ++r)
        for (const auto& [node, share] : rays[r]) x.row(node) += share * y.row(static_cast<index_t>(r));
      return x;
    };
    matrix residual = backward(targets), direction = residual;
    double square = residual.cast<double>().squaredNorm();
    for (int i = 0; i < 30; ++i) {  // all latents share the step: one quadratic
      const matrix image = backward(forward(direction)) + 0.01f * direction;
      const double step = square / direction.cast<double>().cwiseProduct(image.cast<double>()).sum();
      nodes_ += static_cast<float>(step) * direction;
      residual -= static_cast<float>(step) * image;
      const double next = residual.cast<double>().squaredNorm();
      direction = residual + static_cast<float>(next / square) * direction;
      square = next;
    }
  }
  template <class P, class D, class V, class C>
  void operator()(const P& p, const D& d, V& values, C& latents) {
    colours_.resize(p.rows(), 3);
    blobs_(p, d, values, colours_);
    latents.setZero();
    for (index_t i = 0; i < p.rows(); ++i)
      corners(p(i, 0), p(i, 1), p(i, 2),
              [&](index_t node, float share) { latents.row(i) += share * nodes_.row(node); });
  }

 private:
  static constexpr index_t grid = 40;
  template <class F>
  static void corners(float x, float y, float z, F&& f) {
    index_t k[3];
    float s[3];
    const float at[3] = {x, y, z};
    for (int a = 0; a < 3; ++a) {
      const float u = std::clamp((at[a] + 1.2f) / 2.4f * (grid - 1), 0.0f, grid - 1.001f);
      k[a] = static_cast<index_t>(u);
      s[a] = u - static_cast<float>(k[a]);
    }
    for (int c = 0; c < 8; ++c) {
      const index_t i = c & 1, j = c >> 1 & 1, l = c >> 2;
      f(((k[0] + i) * grid + k[1] + j) * grid + k[2] + l,
        (i ? s[0] : 1 - s[0]) * (j ? s[1] : 1 - s[1]) * (l ? s[2] : 1 - s[2]));
    }
  }
  models::gaussian_blobs blobs_;
  matrix nodes_;
  Eigen::MatrixXf colours_;
};

void latents_of_blocks(benchmark::State& state) {
  static constexpr index_t f = 4, latents = 8;
  const ray_grid shape{side, side, f};
  struct world {
    patch_latent_decoder<float> decoder{{.latents = latents}};
    std::unique_ptr<latent_field> field;
    double oracle = 0;
    world() {
      for (const matrix& image : training_images()) decoder.add(image, {side, side, f});
      cursor random(stream{2});
      decoder.train(random);
      field = std::make_unique<latent_field>(decoder, f, latents);
      rendering<float> low;
      matrix z, image;
      for (const matrix& truth : test_images()) {
        decoder.encode(z, truth, {side, side, f});
        low.features = z;
        decoder.decode(image, low, {side, side, f});
        oracle += psnr(image, truth) / static_cast<double>(test_images().size());
      }
    }
  };
  static world w;
  render_options with_latents = options;
  with_latents.channels = latents;
  multiscale_renderer<renderer, patch_latent_decoder<float>> r(renderer(with_latents, {samples}), w.decoder);
  multiscale_image<float> image;
  double work = 0;
  for (auto _ : state) {
    work = 0;
    for (const auto& camera : test_cameras()) {
      r.render(*w.field, image, camera, shape);
      work += static_cast<double>(image.stats.field_evaluations);
    }
  }
  const double quality = render_views(r, *w.field, f, 0).quality,
               bilinear = once(bilinear_decoder<float>(), f, 0).quality;
  state.counters["work"] = work;
  state.counters["f"] = f;
  state.counters["quality"] = quality;
  char text[240];
  std::snprintf(
      text, sizeof text,
      "loses: bilinear has %.1f dB on the same rays, the latents of the true images would have %.1f dB; patches are "
      "not consistent between views",
      bilinear, w.oracle);
  state.SetLabel(text);
}

const bool registered = [] {
  const auto bilinear = [] { return bilinear_decoder<float>(); };
  for (const bool priced : {true, false}) {
    const std::string field = priced ? "network field" : "analytic field";
    for (const index_t f : {index_t{8}, index_t{4}, index_t{2}}) {
      auto row = bench::row{
          .slug = "vq-nerf",
          .workload = "64 x 64, " + field + ", f = " + std::to_string(f),
          .unit = "field evaluations",
          .quality = {.name = "PSNR against the full rendering, dB",
                      .higher_is_better = true,
                      .tolerance = f == 8   ? 31.0
                                   : f == 4 ? 33.5
                                            : 37.0},
          .claim = "best quality for its time",
          .note = "4 test views, 24 training views, 96 samples a ray, decoder B with 64 codes; naive: every pixel"};
      row.naive(full(priced, f));
      row.sluice(scaled([f] { return decoder_b(f, 64); }, priced, f, f, 0, "peers"));
      row.peer("bilinear, the same rays", scaled(bilinear, priced, f, f));
      if (f > 2) row.peer("bilinear, f/2", scaled(bilinear, priced, f / 2, f));
    }
  }
  for (const double rho : {0.1, 0.2, 0.3}) {
    const int percent = static_cast<int>(100 * rho + 0.5);
    bench::row{.slug = "vq-nerf",
               .workload = "64 x 64, network field, f = 4, refined " + std::to_string(percent) + " %",
               .unit = "field evaluations",
               .quality = {.name = "PSNR against the full rendering, dB", .higher_is_better = true, .tolerance = 34},
               .claim = "",
               .note = "decoder B, its worst blocks again at full resolution"}
        .naive(full(true, 4))
        .sluice(scaled([] { return decoder_b(4, 64); }, true, 4, 4, rho, "refined"))
        .peer("decoder B, f = 2", scaled([] { return decoder_b(2, 64); }, true, 2, 4));
  }
  bench::row{.slug = "vq-nerf",
             .workload = "64 x 64, latent field, f = 4",
             .unit = "field evaluations",
             .quality = {.name = "PSNR against the full rendering, dB", .higher_is_better = true, .tolerance = 20},
             .claim = "",
             .note = "decoder A: 8 principal latents on a grid, fitted to the training views"}
      .naive(full(false, 4))
      .sluice(latents_of_blocks)
      .peer("bilinear, the same rays", scaled(bilinear, false, 4, 4));
  return true;
}();

}  // namespace
