#include <cmath>
#include <cstddef>
#include <sluice/generate/multiscale_rays.hpp>
#include <sluice/generate/volume_rendering.hpp>
#include <sluice/kernels/codebook.hpp>
#include <sluice/kernels/least_squares.hpp>
#include <sluice/models/gaussian_blobs.hpp>
#include <span>
#include <vector>

#include "registry.hpp"

namespace {

using golden::json;
using golden::numbers;
using golden::reals;
using sluice::index_t;
using matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using row = std::vector<double>;

matrix read_matrix(const json& rows) {
  matrix m(static_cast<index_t>(rows.size()), rows.empty() ? 0 : static_cast<index_t>(rows.at(0).size()));
  for (index_t i = 0; i < m.rows(); ++i) {
    const row r = numbers(rows.at(static_cast<std::size_t>(i)));
    if (std::ssize(r) != m.cols()) throw std::runtime_error("rows of different lengths");
    for (index_t j = 0; j < m.cols(); ++j) m(i, j) = r[static_cast<std::size_t>(j)];
  }
  return m;
}
/// A list of rows of pixels, each a list of channels: (height width) x channels.
matrix read_image(const json& rows) {
  matrix m;
  index_t at = 0;
  for (const json& r : rows) {
    const matrix line = read_matrix(r);
    if (m.size() == 0) m.resize(static_cast<index_t>(rows.size()) * line.rows(), line.cols());
    m.middleRows(at, line.rows()) = line;
    at += line.rows();
  }
  return m;
}
template <class M>
json write_vector(const M& v) {
  json list = json::array();
  for (index_t i = 0; i < v.size(); ++i) list.push_back(golden::real(v[i]));
  return list;
}
json write_matrix(const matrix& m) {
  json list = json::array();
  for (index_t i = 0; i < m.rows(); ++i) list.push_back(write_vector(m.row(i)));
  return list;
}
json write_image(const matrix& m, index_t width) {
  json list = json::array();
  for (index_t i = 0; i < m.rows(); i += width) list.push_back(write_matrix(m.middleRows(i, width)));
  return list;
}
Eigen::Vector3d read_vector(const json& j) {
  const row v = numbers(j);
  if (v.size() != 3) throw std::runtime_error("not three coordinates");
  return {v[0], v[1], v[2]};
}

const golden::kind volume{
    "vq-nerf", "volume_rendering", [](const json& in) -> json {
      return golden::or_error([&]() -> json {
        const row sigma = numbers(in.at("sigma")), delta = numbers(in.at("delta")), t = numbers(in.at("t"));
        const matrix colour = read_matrix(in.at("colour"));
        const row background = in.contains("background") ? numbers(in.at("background")) : row{};
        row tau(sigma.size()), weights(tau), reach(tau), alpha(tau), feature(static_cast<std::size_t>(colour.cols()));
        sluice::optical_depths<double>(tau, sigma, delta);
        const double depth = sluice::volume_weights<double>(weights, tau);
        sluice::transmittance<double>(reach, tau);
        for (std::size_t i = 0; i < tau.size(); ++i)  // the weight of a sample that nothing precedes
          sluice::volume_weights<double>(std::span(alpha).subspan(i, 1), std::span(tau).subspan(i, 1));
        const auto r = sluice::integrate_ray<double>(
            feature, weights, std::span(colour.data(), static_cast<std::size_t>(colour.size())), t, depth, background);
        return {{"weights", reals(weights)}, {"transmittance", reals(reach)}, {"alpha", reals(alpha)},
                {"colour", reals(feature)},  {"opacity", r.opacity},          {"depth", r.depth}};
      });
    }};

/// By quadrature: the middles of 2^18 strata, whose error is far below the tolerance of smooth blobs.
const golden::kind blob_depth{
    "vq-nerf", "gaussian_blob_optical_depth", [](const json& in) -> json {
      return golden::or_error([&]() -> json {
        const Eigen::Vector3d origin = read_vector(in.at("origin")), direction = read_vector(in.at("direction"));
        const double t0 = golden::number(in.at("t0")), t1 = golden::number(in.at("t1"));
        constexpr std::size_t n = std::size_t{1} << 18;
        row t(n), sigma(n), tau(n), all(n, 0.0), depths;
        sluice::stratified_positions<double>(t, t0, t1);
        const row delta(n, (t1 - t0) / static_cast<double>(n));
        matrix p(static_cast<index_t>(n), 3);
        for (std::size_t i = 0; i < n; ++i) p.row(static_cast<index_t>(i)) = (origin + t[i] * direction).transpose();
        for (const json& b : in.at("blobs")) {
          const sluice::models::gaussian_blobs one(
              {{read_vector(b.at("c")), golden::number(b.at("s")), golden::number(b.at("A")), Eigen::Vector3d::Ones()}},
              false);
          Eigen::Map<Eigen::VectorXd> value(sigma.data(), static_cast<index_t>(n));
          matrix unused(p.rows(), 3);
          one(p, p, value, unused);
          sluice::optical_depths<double>(tau, sigma, delta);
          for (std::size_t i = 0; i < n; ++i) all[i] += tau[i];
          depths.push_back(sluice::volume_weights<double>(tau, tau));
        }
        const double total = sluice::volume_weights<double>(all, all);
        return {{"tau", reals(depths)}, {"opacity_all", -std::expm1(-total)}};
      });
    }};

const golden::kind samples{
    "vq-nerf", "ray_samples", [](const json& in) -> json {
      return golden::or_error([&]() -> json {
        const row u = numbers(in.at("u")), bins = numbers(in.at("bins")), w = numbers(in.at("w"));
        json out;
        row t(u.size());
        sluice::stratified_positions<double>(t, golden::number(in.at("t0")), golden::number(in.at("t1")), u);
        out["stratified"] = reals(t);
        sluice::piecewise_law law;
        law.assign<double>(bins, w, in.contains("eps") ? golden::number(in.at("eps")) : 1e-5);
        for (std::size_t i = 0; i < u.size(); ++i) t[i] = law(u[i]);
        out["inverse_cdf"] = reals(t);
        if (in.contains("u_det")) {
          const row ascending = numbers(in.at("u_det"));
          row sorted(ascending.size());
          law.sorted<double>(sorted, ascending);
          out["inverse_cdf_det"] = reals(sorted);
        }
        return out;
      });
    }};

const golden::kind densities{"vq-nerf", "sdf_densities", [](const json& in) -> json {
                               return golden::or_error([&]() -> json {
                                 const row sdf = numbers(in.at("sdf"));
                                 const double beta = golden::number(in.at("beta")), s = golden::number(in.at("s"));
                                 row sigma, alpha;
                                 for (std::size_t i = 0; i < sdf.size(); ++i) {
                                   sigma.push_back(sluice::volsdf_density(sdf[i], beta));
                                   if (i + 1 < sdf.size())
                                     alpha.push_back(-std::expm1(-sluice::neus_optical_depth(sdf[i], sdf[i + 1], s)));
                                 }
                                 return {{"volsdf_sigma", reals(sigma)}, {"neus_alpha", reals(alpha)}};
                               });
                             }};

const golden::kind quantisation{
    "vq-nerf", "vector_quantisation", [](const json& in) -> json {
      return golden::or_error([&]() -> json {
        const matrix codes = read_matrix(in.at("codebook")), z = read_matrix(in.at("z"));
        sluice::codebook<double> book(codes);
        const index_t k = book.size();
        std::vector<index_t> index(static_cast<std::size_t>(z.rows()));
        row distance(index.size());
        book.nearest(index, distance, z);
        matrix quantised(z.rows(), z.cols());
        book.quantise(quantised, index);
        sluice::code_sums sums;
        sums.collect(z, index, k);
        matrix dz(z.rows(), z.cols());
        const matrix dq = matrix::Zero(z.rows(), z.cols());
        const auto loss =
            sluice::straight_through(dz, static_cast<sluice::detail::row_matrix<double>*>(nullptr), book, sums, z, dq);
        const auto usage = sluice::usage_of(index, k);
        json out{{"index", index},
                 {"quantised", write_matrix(quantised)},
                 {"mse", loss.codebook},
                 {"perplexity", usage.perplexity},
                 {"counts", usage.counts}};
        if (in.contains("ema_gamma")) {
          sluice::codebook<double> moving(codes);
          sluice::ema_update update(moving, {.decay = golden::number(in.at("ema_gamma"))});
          sluice::ema_state before = update.state();
          const row counts = numbers(in.at("ema_counts"));
          before.counts = Eigen::Map<const Eigen::VectorXd>(counts.data(), std::ssize(counts));
          before.sums = read_matrix(in.at("ema_sums"));
          update.restore(before);
          update(moving, sums);
          out["ema_codebook"] = write_matrix(moving.codes());
          out["ema_counts"] = write_vector(update.state().counts);
        }
        if (in.contains("kmeans_iterations")) {
          sluice::codebook<double> means(codes);
          sluice::kmeans(means, std::span(index), z,
                         {.max_iterations = in.at("kmeans_iterations").get<index_t>(),
                          .tolerance = 0,
                          .empty = sluice::empty_cluster::keep});
          out["kmeans"] = write_matrix(means.codes());
        }
        return out;
      });
    }};

/// Height and width of the rays are H; `low` and `image` are the pair that the decoders are fitted to. The bilinear
/// image has twice the size of `low`, features are 3 x 3 neighbourhoods: conventions of the kind.
const golden::kind compressed{"vq-nerf", "compressed_scale", [](const json& in) -> json {
                                return golden::or_error([&]() -> json {
                                  json out;
                                  const index_t h = in.at("H").get<index_t>(), f = in.at("f").get<index_t>();
                                  const auto camera = sluice::pinhole_camera::look_at(
                                      read_vector(in.at("eye")), {0, 0, 0}, {0, 0, 1}, golden::number(in.at("fov")));
                                  sluice::ray_batch<double> rays;
                                  sluice::block_rays(rays, camera, {h, h, 1});
                                  out["first_ray_full"] = write_vector(rays.directions.row(0));
                                  sluice::block_rays(rays, camera, {h, h, f});
                                  out["first_ray_block"] = write_vector(rays.directions.row(0));
                                  out["last_ray_block"] = write_vector(rays.directions.row(rays.size() - 1));

                                  const matrix low = read_image(in.at("low")), image = read_image(in.at("image"));
                                  const auto rows = static_cast<index_t>(in.at("low").size());
                                  const index_t cols = low.rows() / rows, channels = image.cols();
                                  const sluice::ray_grid twice{2 * rows, 2 * cols, 2}, shape{rows * f, cols * f, f};
                                  matrix up(twice.pixels(), low.cols());
                                  sluice::upsample_bilinear(up, low, twice);
                                  out["bilinear"] = write_image(up, twice.width);

                                  matrix x(low.rows(), 9 * low.cols() + 1), y(low.rows(), f * f * channels),
                                      patches(y.rows(), y.cols());
                                  sluice::neighbourhood_features(x, low, rows, cols, 1);
                                  sluice::to_blocks(y, image, shape);
                                  const index_t chosen = in.at("row").get<index_t>();
                                  out["features_row"] = write_vector(x.row(chosen));
                                  out["blocks_row"] = write_vector(y.row(chosen));

                                  const auto labels = in.at("labels").get<std::vector<index_t>>();
                                  index_t codes = 1;
                                  for (const index_t k : labels) codes = std::max(codes, k + 1);
                                  sluice::coded_regression<double> maps;
                                  sluice::expects(maps.fit(x, y, labels, codes, golden::number(in.at("ridge")),
                                                           golden::number(in.at("code_ridge"))),
                                                  "compressed_scale", "ridge", golden::number(in.at("ridge")));
                                  maps.predict(patches, x);
                                  out["decoded"] = write_matrix(patches);
                                  maps.predict(patches, x, labels);
                                  matrix decoded(image.rows(), channels);
                                  sluice::from_blocks(decoded, patches, shape);
                                  out["decoded_codes"] = write_image(decoded, shape.width);
                                  return out;
                                });
                              }};

}  // namespace
