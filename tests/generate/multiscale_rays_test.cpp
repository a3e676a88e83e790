// Fails for: block rays through the corner of the block; W_k fitted on y instead of the residual; refinement of the
// best blocks.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <sluice/core/thread_pool.hpp>
#include <sluice/generate/multiscale_rays.hpp>
#include <sluice/models/gaussian_blobs.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <support/enumerate.hpp>

using namespace sluice;

namespace {

template <class S>
using rows_of = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class S>
rows_of<S> normal_rows(index_t n, index_t c, std::uint64_t seed) {
  rows_of<S> m(n, c);
  for (index_t i = 0; i < m.size(); ++i)
    m.data()[i] = static_cast<S>(normal_at(stream{seed}, static_cast<std::uint64_t>(i)));
  return m;
}
pinhole_camera view(double azimuth, double aspect = 1) {
  return pinhole_camera::look_at(3 * Eigen::Vector3d(std::cos(azimuth), std::sin(azimuth), 0.2), {0, 0, 0}, {0, 0, 1},
                                 40, aspect);
}
const render_options near_far{.near = 1.9, .far = 4.1};

/// A decoder trained on a few views of the blobs.
template <class S>
neighbourhood_decoder<S> trained(const ray_grid& shape, const neighbourhood_options& options) {
  const models::gaussian_blobs blobs;
  volume_renderer<S> renderer(near_far, {24});
  neighbourhood_decoder<S> decoder(options);
  ray_batch<S> rays;
  rendering<S> low, full;
  for (int i = 0; i < 6; ++i) {
    const auto camera = view(i);
    block_rays(rays, camera, shape);
    renderer.render(blobs, low, rays);
    block_rays(rays, camera, {shape.height, shape.width, 1});
    renderer.render(blobs, full, rays);
    decoder.add(low, full.features, shape);
  }
  cursor random(stream{1});
  REQUIRE(decoder.train(random));
  return decoder;
}
double mean_square(const rows_of<double>& a, const rows_of<double>& b) {
  return (a - b).squaredNorm() / static_cast<double>(a.size());
}

}  // namespace

TEST_CASE("cameras: axes, and a block's ray through the mean of its pixels", "[multiscale_rays]") {
  const auto camera = pinhole_camera::look_at({3, 0, 0}, {0, 0, 0}, {0, 0, 1}, 40, 1.5);
  CHECK((camera.direction(0, 0) - Eigen::Vector3d(-1, 0, 0)).norm() < 1e-15);
  CHECK(camera.direction(1, 0)[1] > 0);   // right of one who looks along -x is +y
  CHECK(camera.direction(0, -1)[2] > 0);  // the first row is at the top
  const double tangent = std::tan(20 * std::numbers::pi / 180);
  CHECK((camera.direction(-1, 1) - Eigen::Vector3d(-1, -1.5 * tangent, -tangent).normalized()).norm() < 1e-15);
  const ray_grid shape{12, 18, 3}, pixels{12, 18, 1};
  ray_batch<double> low, full;
  block_rays(low, camera, shape);
  block_rays(full, camera, pixels);
  CHECK(low.size() == 24);
  CHECK(full.size() == 216);
  const auto plane = [&](const Eigen::RowVector3d& d) {  // image plane coordinates of a direction
    const Eigen::Vector3d v = d.transpose() / d.dot(camera.forward);
    return Eigen::Vector2d(v.dot(camera.right), v.dot(camera.up));
  };
  for (index_t k = 0; k < 24; ++k) {
    Eigen::Vector2d mean = Eigen::Vector2d::Zero();
    for (index_t a = 0; a < 3; ++a)
      for (index_t b = 0; b < 3; ++b) mean += plane(full.directions.row((k / 6 * 3 + a) * 18 + k % 6 * 3 + b)) / 9;
    CHECK((plane(low.directions.row(k)) - mean).norm() < 1e-14);
    CHECK(low.directions.row(k).norm() == Approx(1).epsilon(1e-15));
    CHECK(low.origins.row(k) == Eigen::RowVector3d(3, 0, 0));
    CHECK(low.id[static_cast<std::size_t>(k)] == static_cast<std::uint64_t>(k));
  }
  // all blocks: all pixels in order, the same rays as f = 1
  std::vector<index_t> all(24), some{1, 5, 6, 23};
  std::iota(all.begin(), all.end(), 0);
  ray_batch<double> chosen;
  pixel_rays(chosen, camera, shape, all);
  CHECK(chosen.directions == full.directions);
  CHECK(chosen.id == full.id);
  pixel_rays(chosen, camera, shape, some);
  CHECK(chosen.size() == 36);
  CHECK(std::is_sorted(chosen.id.begin(), chosen.id.end()));
  for (index_t r = 0; r < 36; ++r) {
    const auto pixel = static_cast<index_t>(chosen.id[static_cast<std::size_t>(r)]);
    CHECK(chosen.directions.row(r) == full.directions.row(pixel));
    const index_t block = pixel / 18 / 3 * 6 + pixel % 18 / 3;
    CHECK(std::find(some.begin(), some.end(), block) != some.end());
  }
}

TEMPLATE_TEST_CASE("blocks and back, neighbourhoods, bilinear images", "[multiscale_rays]", float, double) {
  using S = TestType;
  for (const index_t f : {1, 2, 4}) {
    const ray_grid shape{8, 12, f};
    const rows_of<S> image = normal_rows<S>(96, 3, 1);
    rows_of<S> patches(shape.blocks(), f * f * 3), back(96, 3);
    to_blocks(patches, image, shape);
    from_blocks(back, patches, shape);
    CHECK(back == image);
    for (index_t k = 0; k < shape.blocks(); ++k)
      for (index_t e = 0; e < f * f; ++e)
        CHECK(patches(k, e * 3 + 1) == image((k / shape.cols() * f + e / f) * 12 + k % shape.cols() * f + e % f, 1));
    // a linear image is its own bilinear interpolation inside, and the border is continued
    rows_of<S> low(shape.blocks(), 1), up(96, 1);
    const auto plane = [&](double i, double j) { return 0.5 + 0.25 * i - 0.125 * j; };
    const double g = static_cast<double>(f);
    for (index_t k = 0; k < shape.blocks(); ++k)
      low(k, 0) = static_cast<S>(
          plane((static_cast<double>(k / shape.cols()) + 0.5) * g, (static_cast<double>(k % shape.cols()) + 0.5) * g));
    upsample_bilinear(up, low, shape);
    for (index_t i = 0; i < 8; ++i)
      for (index_t j = 0; j < 12; ++j) {
        const double y = std::clamp(static_cast<double>(i) + 0.5, g / 2, 8 - g / 2),
                     x = std::clamp(static_cast<double>(j) + 0.5, g / 2, 12 - g / 2);
        CHECK(static_cast<double>(up(i * 12 + j, 0)) == Approx(plane(y, x)).margin(1e-5));
      }
  }
  rows_of<S> low(12, 2), x(12, 19);
  for (index_t i = 0; i < 24; ++i) low.data()[i] = static_cast<S>(i);
  neighbourhood_features(x, low, 3, 4, 1);
  Eigen::Matrix<S, 1, 19> first, inner;
  first << 0, 1, 0, 1, 2, 3, 0, 1, 0, 1, 2, 3, 8, 9, 8, 9, 10, 11, 1;  // the corner: its border is continued
  inner << 0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, 16, 17, 18, 19, 20, 21, 1;
  CHECK(x.row(0) == first);
  CHECK(x.row(5) == inner);
}

TEMPLATE_TEST_CASE("coded regression: linear relations exactly, one for each code", "[multiscale_rays]", float,
                   double) {
  using S = TestType;
  const double tolerance = std::same_as<S, float> ? 2e-4 : 1e-10;
  const rows_of<S> x = normal_rows<S>(200, 6, 3);
  std::vector<index_t> labels(200);
  for (std::size_t i = 0; i < 200; ++i) labels[i] = static_cast<index_t>(i * i % 3) + (i % 50 == 49 ? 2 : 0);
  const rows_of<S> map[4] = {normal_rows<S>(6, 5, 4), normal_rows<S>(6, 5, 5), normal_rows<S>(6, 5, 6),
                             normal_rows<S>(6, 5, 7)};
  rows_of<S> y(200, 5), one(200, 5), out(200, 5);
  one = x * map[0];
  for (index_t i = 0; i < 200; ++i) y.row(i) = x.row(i) * map[labels[static_cast<std::size_t>(i)]];
  coded_regression<S> maps;
  REQUIRE(maps.fit(x, one, labels, 4, 1e-12, 1e-9));
  maps.predict(out, x);
  CHECK((out - one).norm() < tolerance * one.norm());
  maps.predict(out, x, labels);
  CHECK((out - one).norm() < tolerance * one.norm());
  REQUIRE(maps.fit(x, y, labels, 5, 1e-9, 1e-9));
  maps.predict(out, x);
  CHECK((out - y).norm() > 0.1 * y.norm());  // no single map does it
  maps.predict(out, x, labels);
  CHECK((out - y).norm() < 10 * tolerance * y.norm());
  CHECK(maps.n_codes() == 5);
  CHECK(maps.rmse()[4] == 0);  // unused
  // the definition with strong ridges
  REQUIRE(maps.fit(x, y, labels, 4, 3, 7));
  const Eigen::MatrixXd xd = x.template cast<double>(), yd = y.template cast<double>();
  const auto ridge = [](const Eigen::MatrixXd& a, const Eigen::MatrixXd& b, double by) -> Eigen::MatrixXd {
    Eigen::MatrixXd m = a.transpose() * a;
    m.diagonal().array() += by;
    return m.llt().solve(a.transpose() * b);
  };
  const Eigen::MatrixXd w = ridge(xd, yd, 3), residual = yd - xd * w;
  maps.predict(out, x, labels);
  for (index_t k = 0; k < 4; ++k) {
    std::vector<index_t> rows;
    for (index_t i = 0; i < 200; ++i)
      if (labels[static_cast<std::size_t>(i)] == k) rows.push_back(i);
    const auto m = std::ssize(rows);
    Eigen::MatrixXd a(m, 6), b(m, 5);
    for (index_t i = 0; i < m; ++i) {
      a.row(i) = xd.row(rows[static_cast<std::size_t>(i)]);
      b.row(i) = residual.row(rows[static_cast<std::size_t>(i)]);
    }
    const Eigen::MatrixXd wk = ridge(a, b, 7);
    const double rmse = std::sqrt((b - a * wk).squaredNorm() / static_cast<double>(b.size()));
    CHECK(maps.rmse()[static_cast<std::size_t>(k)] == Approx(rmse).epsilon(1e-6));
    for (const index_t i : rows)
      CHECK((out.row(i).template cast<double>() - xd.row(i) * (w + wk)).norm() < tolerance * 20);
  }
}

TEST_CASE("principal patches: exact where the patches have that rank, black stays black", "[multiscale_rays]") {
  const ray_grid shape{16, 16, 4};
  const rows_of<double> patches = normal_rows<double>(16, 3, 8) * normal_rows<double>(3, 48, 9);
  rows_of<double> image(256, 3), out, latents;
  from_blocks(image, patches, shape);
  cursor random(stream{1});
  patch_latent_decoder<double> decoder({.latents = 3});
  decoder.add(image, shape);
  decoder.train(random);
  CHECK((decoder.basis() * decoder.basis().transpose() - Eigen::Matrix3d::Identity()).norm() < 1e-12);
  decoder.encode(latents, image, shape);
  rendering<double> low;
  low.features = latents;
  decoder.decode(out, low, shape);
  CHECK((out - image).norm() < 1e-12 * image.norm());
  low.features.setZero();
  decoder.decode(out, low, shape);
  CHECK(out.norm() == 0);
  // fewer latents: the best approximation, by the singular values
  patch_latent_decoder<double> two({.latents = 2, .codes = 16});
  two.add(image, shape);
  two.train(random);
  two.encode(latents, image, shape);
  low.features = latents;
  two.decode(out, low, shape);  // 16 codes for 16 patches: each is its own
  const Eigen::VectorXd values =
      Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(patches.transpose() * patches).eigenvalues();
  CHECK((out - image).squaredNorm() == Approx(values[45]).epsilon(1e-9));
  CHECK(*std::max_element(two.errors().begin(), two.errors().end()) < 1e-12);
  CHECK(usage_of(two.labels(), 16).perplexity == Approx(16).epsilon(1e-12));
}

TEMPLATE_TEST_CASE("multiscale renderer: rho = 1 and f = 1 are the full rendering bit for bit", "[multiscale_rays]",
                   float, double) {
  using S = TestType;
  const models::gaussian_blobs blobs;
  const ray_grid shape{24, 32, 4};
  const auto camera = view(0.3, 4.0 / 3);
  using renderer = volume_renderer<S, stratified_samples>;
  multiscale_renderer scaled(renderer(near_far, {24}), bilinear_decoder<S>());
  renderer plain(near_far, {24});
  ray_batch<S> rays;
  rendering<S> full, low;
  block_rays(rays, camera, {24, 32, 1});
  plain.render(blobs, full, rays, serial{}, stream{4}.derive(1));
  multiscale_image<S> image;
  scaled.render(blobs, image, camera, shape, 1, serial{}, stream{4});
  CHECK(image.image == full.features);
  CHECK(image.stats.block_rays == 0);
  CHECK(image.stats.pixel_rays == 768);
  scaled.render(blobs, image, camera, {24, 32, 1}, 0, serial{}, stream{4});
  CHECK(image.image == full.features);
  CHECK(image.stats.block_rays == 768);
  scaled.render(blobs, image, camera, shape, 0, serial{}, stream{4});
  CHECK(image.stats.field_evaluations <= 48 * 24);
  CHECK(image.stats.field_evaluations == image.low.stats.field_evaluations);
  CHECK(image.refined.empty());
  block_rays(rays, camera, shape);
  plain.render(blobs, low, rays, serial{}, stream{4}.derive(4));
  rows_of<S> up(768, 3);
  upsample_bilinear(up, low.features, shape);
  CHECK(image.image == up);
  // a share: the blocks of the largest errors are those of the full rendering, all others decoded
  scaled.render(blobs, image, camera, shape, 0.25, serial{}, stream{4});
  REQUIRE(image.refined.size() == 12);
  CHECK(image.stats.pixel_rays == 192);
  const auto errors = scaled.decoder().errors();
  double least_chosen = std::numeric_limits<double>::infinity(), most_left = 0;
  for (index_t k = 0; k < 48; ++k) {
    const bool chosen = std::binary_search(image.refined.begin(), image.refined.end(), k);
    const double e = errors[static_cast<std::size_t>(k)];
    chosen ? least_chosen = std::min(least_chosen, e) : most_left = std::max(most_left, e);
    for (index_t p = 0; p < 16; ++p) {
      const index_t pixel = (k / 8 * 4 + p / 4) * 32 + k % 8 * 4 + p % 4;
      CHECK(image.image.row(pixel) == (chosen ? full.features.row(pixel) : up.row(pixel)));
    }
  }
  CHECK(least_chosen >= most_left);
}

TEST_CASE("neighbourhood decoder: better than bilinear, refinement better still", "[multiscale_rays]") {
  const models::gaussian_blobs blobs;
  const ray_grid shape{32, 32, 4};
  using renderer = volume_renderer<double>;
  const auto camera = view(0.45);
  ray_batch<double> rays;
  rendering<double> full;
  block_rays(rays, camera, {32, 32, 1});
  renderer(near_far, {24}).render(blobs, full, rays);
  multiscale_image<double> image;
  const auto error = [&](auto&& scaled, double rho) {
    scaled.render(blobs, image, camera, shape, rho);
    return mean_square(image.image, full.features);
  };
  const neighbourhood_options none{.radius = 1, .codes = 0}, coded{.radius = 1, .codes = 8, .code_ridge = 1};
  const double bilinear = error(multiscale_renderer(renderer(near_far, {24}), bilinear_decoder<double>()), 0),
               linear = error(multiscale_renderer(renderer(near_far, {24}), trained<double>(shape, none)), 0);
  multiscale_renderer full_decoder(renderer(near_far, {24}), trained<double>(shape, coded));
  const double codes = error(full_decoder, 0);
  CHECK(linear < bilinear);
  CHECK(codes < bilinear);
  CHECK(full_decoder.decoder().labels().size() == 64);
  CHECK(image.stats.decode_seconds > 0);
  double before = codes;
  for (const double rho : {0.1, 0.3, 0.6, 1.0}) {
    const double now = error(full_decoder, rho);
    CHECK(now <= before);
    before = now;
  }
  CHECK(before == 0);
  // a copy decodes alike: the decoder is a value, and holds all its state
  const auto copy = full_decoder.decoder();
  error(full_decoder, 0);
  multiscale_renderer restored(renderer(near_far, {24}), copy);
  multiscale_image<double> again;
  restored.render(blobs, again, camera, shape);
  CHECK(again.image == image.image);
  // one code: legal, the correction of all blocks
  error(multiscale_renderer(renderer(near_far, {24}), trained<double>(shape, {.radius = 1, .codes = 1})), 0.5);
  CHECK(image.refined.size() == 32);
  CHECK(image.refined.front() == 0);  // ties: the first blocks
  CHECK(image.refined.back() == 31);
}

TEST_CASE("multiscale renderer: any executor, invalid rays, no allocation", "[multiscale_rays][parallel]") {
  const models::gaussian_blobs blobs;
  const ray_grid shape{32, 32, 4};
  const auto camera = view(0.45);
  const thread_pool pool(3);
  multiscale_renderer scaled(volume_renderer<float, stratified_samples>(near_far, {24}),
                             trained<float>(shape, {.radius = 1, .codes = 8}));
  multiscale_image<float> a, b;
  scaled.render(blobs, a, camera, shape, 0.2, serial{}, stream{1});
  scaled.render(blobs, b, camera, shape, 0.2, pool, stream{1});
  CHECK(a.image == b.image);
  CHECK(a.refined == b.refined);
  CHECK(support::allocations_in([&] { scaled.render(blobs, a, camera, shape, 0.2, serial{}, stream{1}); }) == 0);
  const auto broken = [&](const auto& p, const auto& d, auto& v, auto& c) {
    blobs(p, d, v, c);
    for (index_t i = 0; i < p.rows(); ++i)
      if (p(i, 2) > 0.9f) v[i] = std::numeric_limits<float>::quiet_NaN();
  };
  scaled.render(broken, b, camera, shape, 0, serial{}, stream{1});
  CHECK(b.status == status::invalid_row);
  CHECK(b.stats.stopped.index >= 0);
  CHECK(b.low.stats.invalid_rays > 0);
}

TEST_CASE("multiscale draws: every subset, equally likely, enumerated", "[multiscale_rays][enumeration]") {
  const ray_grid shape{2, 2, 1};
  for (const auto& [n_c, n_o] : {std::pair{1, 2}, {2, 1}, {4, 0}, {0, 4}, {3, 2}}) {
    std::map<std::pair<std::set<index_t>, std::set<index_t>>, double> law;
    support::enumerating_source random;
    multiscale_draws draws(1, shape);
    multiscale_batch batch;
    do {
      draws(batch, n_c, n_o, random);
      law[{{batch.blocks.begin(), batch.blocks.end()}, {batch.pixels.begin(), batch.pixels.end()}}] +=
          static_cast<double>(random.probability());
    } while (random.advance());
    const auto choose = [](int n, int k) {
      return std::round(std::tgamma(n + 1) / std::tgamma(k + 1) / std::tgamma(n - k + 1));
    };
    const double subsets = choose(4, n_c) * choose(4, n_o);
    CHECK(static_cast<double>(law.size()) == subsets);
    for (const auto& [chosen, p] : law) {
      CHECK(std::ssize(chosen.first) == n_c);
      CHECK(std::ssize(chosen.second) == n_o);
      CHECK(p == Approx(1 / subsets).epsilon(1e-13));
    }
  }
  multiscale_draws large(24, {64, 64, 4});
  multiscale_batch batch;
  cursor random(stream{2});
  large(batch, 24 * 256, 5000, random);
  CHECK(std::set<index_t>(batch.blocks.begin(), batch.blocks.end()).size() == 24 * 256);
  CHECK(std::set<index_t>(batch.pixels.begin(), batch.pixels.end()).size() == 5000);
  CHECK(*std::max_element(batch.pixels.begin(), batch.pixels.end()) < 24 * 4096);
  CHECK(support::allocations_in([&] { large(batch, 24 * 256, 5000, random); }) == 0);
}

TEST_CASE("multiscale loss: its mean over all draws is the full loss, for every split",
          "[multiscale_rays][enumeration]") {
  const ray_grid shape{2, 4, 2};  // 2 blocks and 8 pixels in each of 2 views
  std::vector<double> blocks(4), pixels(16);
  for (std::size_t i = 0; i < 4; ++i) blocks[i] = uniform_at(stream{3}, i);
  for (std::size_t i = 0; i < 16; ++i) pixels[i] = uniform_at(stream{4}, i);
  const multiscale_loss_options options{.original = 0.7, .semantic = 0.2, .eikonal = 0.1};
  const double full = combine_multiscale_loss(blocks, pixels, options, 0.5, 0.3).value;
  CHECK(full == Approx(std::accumulate(blocks.begin(), blocks.end(), 0.0) / 4 +
                       0.7 * std::accumulate(pixels.begin(), pixels.end(), 0.0) / 16 + 0.2 * 0.5 + 0.1 * 0.3)
                    .epsilon(1e-14));
  for (const auto& [n_c, n_o] : {std::pair{1, 1}, {2, 1}, {1, 3}, {3, 2}, {4, 1}}) {
    double mean = 0;
    support::enumerating_source random;
    multiscale_draws draws(2, shape);
    multiscale_batch batch;
    do {
      draws(batch, n_c, n_o, random);
      std::vector<double> a, b;
      for (const index_t i : batch.blocks) a.push_back(blocks[static_cast<std::size_t>(i)]);
      for (const index_t i : batch.pixels) b.push_back(pixels[static_cast<std::size_t>(i)]);
      const multiscale_loss loss = combine_multiscale_loss(a, b, options, 0.5, 0.3);
      mean += static_cast<double>(random.probability()) * loss.value;
      CHECK(loss.block_weight == 1.0 / n_c);
      CHECK(loss.pixel_weight == Approx(0.7 / n_o).epsilon(1e-15));
    } while (random.advance());
    CHECK(mean == Approx(full).epsilon(1e-13));
  }
  const Eigen::MatrixXd a = normal_rows<double>(6, 3, 5), b = 2 * a, zero = Eigen::MatrixXd::Zero(6, 3);
  const auto channel_sums = [](const auto& image) { return Eigen::VectorXd(image.colwise().sum().transpose()); };
  CHECK(semantic_loss(channel_sums, a, b) == Approx(0).margin(1e-15));
  CHECK(semantic_loss(channel_sums, a, -b) == Approx(2).epsilon(1e-15));
  CHECK(semantic_loss(channel_sums, a, zero) == 1);
}

TEST_CASE("multiscale rays: wrong arguments", "[multiscale_rays]") {
  using matrix = rows_of<double>;
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  const Eigen::Vector3d eye(3, 0, 0), origin(0, 0, 0), z(0, 0, 1);
  const char* pinhole = "pinhole_camera";
  SLUICE_CHECK_THROWS(pinhole_camera::look_at(eye, eye, z, 40), pinhole, "target", -1);
  SLUICE_CHECK_THROWS(pinhole_camera::look_at(eye, origin, eye, 40), pinhole, "up", -1);
  SLUICE_CHECK_THROWS(pinhole_camera::look_at(eye, origin, z, 180), pinhole, "degrees", -1);
  SLUICE_CHECK_THROWS(pinhole_camera::look_at(eye, origin, z, 40, 0), pinhole, "aspect", -1);
  const auto camera = view(0);
  ray_batch<double> rays;
  const ray_grid shape{8, 8, 4};
  SLUICE_CHECK_THROWS(block_rays(rays, camera, {8, 8, 3}), "block_rays", "height", -1);
  SLUICE_CHECK_THROWS(block_rays(rays, camera, {9, 8, 3}), "block_rays", "width", -1);
  SLUICE_CHECK_THROWS(block_rays(rays, camera, {8, 8, 0}), "block_rays", "f", -1);
  using list = std::vector<index_t>;
  SLUICE_CHECK_THROWS(pixel_rays(rays, camera, shape, list{0, 4}), "pixel_rays", "blocks", 1);
  SLUICE_CHECK_THROWS(pixel_rays(rays, camera, shape, list{1, 1}), "pixel_rays", "blocks", 1);
  SLUICE_CHECK_THROWS(pixel_rays(rays, camera, shape, list{-1}), "pixel_rays", "blocks", 0);
  matrix image(64, 3), patches(4, 48), low(4, 3), bad_image(63, 3), bad_patches(4, 47);
  image.setRandom();
  low.setRandom();
  SLUICE_CHECK_THROWS(to_blocks(patches, bad_image, shape), "to_blocks", "image.rows", -1);
  SLUICE_CHECK_THROWS(to_blocks(bad_patches, image, shape), "to_blocks", "patches.cols", -1);
  SLUICE_CHECK_THROWS(to_blocks(low, image, shape), "to_blocks", "patches.cols", -1);
  SLUICE_CHECK_THROWS(to_blocks(image, image, shape), "to_blocks", "patches.rows", -1);
  SLUICE_CHECK_THROWS(from_blocks(image, bad_patches, shape), "from_blocks", "patches.cols", -1);
  SLUICE_CHECK_THROWS(from_blocks(bad_image, patches, shape), "from_blocks", "image.rows", -1);
  SLUICE_CHECK_THROWS(from_blocks(image, image, shape), "from_blocks", "patches.rows", -1);
  SLUICE_CHECK_THROWS(upsample_bilinear(image, image, shape), "upsample_bilinear", "low.rows", -1);
  SLUICE_CHECK_THROWS(upsample_bilinear(bad_image, low, shape), "upsample_bilinear", "image.rows", -1);
  SLUICE_CHECK_THROWS(upsample_bilinear(image, matrix(low.leftCols(2)), shape), "upsample_bilinear", "image.cols", -1);
  matrix x(4, 28);
  SLUICE_CHECK_THROWS(neighbourhood_features(x, low, 2, 2, -1), "neighbourhood_features", "radius", -1);
  SLUICE_CHECK_THROWS(neighbourhood_features(x, low, 2, 3, 1), "neighbourhood_features", "low.rows", -1);
  SLUICE_CHECK_THROWS(neighbourhood_features(x, low, 2, 2, 2), "neighbourhood_features", "out.cols", -1);
  SLUICE_CHECK_THROWS(neighbourhood_features(image, low, 2, 2, 1), "neighbourhood_features", "out.rows", -1);

  coded_regression<double> maps;
  matrix fx = normal_rows<double>(10, 3, 1), fy = normal_rows<double>(10, 2, 2);
  list labels(10, 0);
  SLUICE_CHECK_THROWS(maps.fit(fx, matrix(9, 2), labels, 1, 1, 1), "coded_regression::fit", "y.rows", -1);
  SLUICE_CHECK_THROWS(maps.fit(fx, fy, list(9, 0), 1, 1, 1), "coded_regression::fit", "labels.size", -1);
  SLUICE_CHECK_THROWS(maps.fit(fx, fy, labels, 1, 1, -1), "coded_regression::fit", "code_ridge", -1);
  SLUICE_CHECK_THROWS(maps.fit(fx, fy, labels, 1, -1, 1), "normal_equations::solve", "ridge", -1);
  SLUICE_CHECK_THROWS(maps.fit(fx, fy, list(10, 1), 1, 1, 1), "code_members", "index", 0);
  CHECK_FALSE(maps.fit(matrix::Ones(10, 3), fy, labels, 1, 0, 1));
  REQUIRE(maps.fit(fx, fy, labels, 1, 1, 1));
  matrix wide(10, 4), out(10, 2);
  SLUICE_CHECK_THROWS(maps.predict(out, wide), "coded_regression::predict", "x.cols", -1);
  SLUICE_CHECK_THROWS(maps.predict(wide, fx), "coded_regression::predict", "out.cols", -1);
  matrix nine(9, 2);
  SLUICE_CHECK_THROWS(maps.predict(nine, fx), "coded_regression::predict", "out.rows", -1);
  SLUICE_CHECK_THROWS(maps.predict(out, fx, list(9, 0)), "coded_regression::predict", "labels.size", -1);
  SLUICE_CHECK_THROWS(maps.predict(out, fx, list(10, 1)), "code_members", "index", 0);

  using neighbourhood = neighbourhood_decoder<double>;
  const char* b = "neighbourhood_decoder";
  SLUICE_CHECK_THROWS(neighbourhood({.radius = -1}), b, "radius", -1);
  SLUICE_CHECK_THROWS(neighbourhood({.codes = -1}), b, "codes", -1);
  SLUICE_CHECK_THROWS(neighbourhood({.ridge = -1}), b, "ridge", -1);
  SLUICE_CHECK_THROWS(neighbourhood({.code_ridge = nan}), b, "code_ridge", -1);
  SLUICE_CHECK_THROWS(neighbourhood({.depth_scale = -1}), b, "depth_scale", -1);
  neighbourhood decoder({.radius = 1, .codes = 5});
  rendering<double> r;
  r.features = low;
  r.opacity.setOnes(4);
  r.depth.setOnes(3);
  cursor random(stream{1});
  const std::string add = "neighbourhood_decoder::add", decode = "neighbourhood_decoder::decode";
  SLUICE_CHECK_THROWS(decoder.add(r, image, shape), add, "low.depth.size", -1);
  r.depth.setOnes(4);
  SLUICE_CHECK_THROWS(decoder.add(r, bad_image, shape), add, "image.rows", -1);
  SLUICE_CHECK_THROWS(decoder.add(r, matrix(image.leftCols(2)), shape), add, "image.cols", -1);
  SLUICE_CHECK_THROWS(decoder.add(r, image, {8, 8, 2}), add, "low.features.rows", -1);
  SLUICE_CHECK_THROWS(decoder.train(random), "neighbourhood_decoder::train", "codes", -1);
  SLUICE_CHECK_THROWS(decoder.decode(out, r, shape), decode, "trained", -1);
  decoder.add(r, image, shape);
  SLUICE_CHECK_THROWS(decoder.add(r, matrix(16, 3), {4, 4, 2}), add, "f", -1);
  SLUICE_CHECK_THROWS(decoder.train(random), "neighbourhood_decoder::train", "codes", -1);  // 4 blocks for 5 codes
  decoder.add(r, image, shape);
  REQUIRE(decoder.train(random));
  SLUICE_CHECK_THROWS(decoder.decode(out, r, {4, 4, 2}), decode, "f", -1);
  r.opacity.setOnes(3);
  SLUICE_CHECK_THROWS(decoder.decode(out, r, shape), decode, "low.opacity.size", -1);

  using latent = patch_latent_decoder<double>;
  const std::string a = "patch_latent_decoder";
  SLUICE_CHECK_THROWS(latent({.latents = 0}), a, "latents", -1);
  SLUICE_CHECK_THROWS(latent({.codes = -1}), a, "codes", -1);
  latent many({.latents = 49}), few({.latents = 2, .codes = 5});
  many.add(image, shape);
  few.add(image, shape);
  SLUICE_CHECK_THROWS(many.train(random), a + "::train", "latents", -1);
  SLUICE_CHECK_THROWS(few.train(random), a + "::train", "codes", -1);
  SLUICE_CHECK_THROWS(few.add(bad_image, shape), a + "::add", "image.rows", -1);
  SLUICE_CHECK_THROWS(few.add(image, {8, 8, 2}), a + "::add", "f", -1);
  matrix two_channels = image.leftCols(2), latents;
  SLUICE_CHECK_THROWS(few.add(two_channels, shape), a + "::add", "image.cols", -1);
  SLUICE_CHECK_THROWS(few.encode(latents, image, shape), a + "::encode", "trained", -1);
  latent fine({.latents = 2});
  fine.add(image, shape);
  fine.train(random);
  SLUICE_CHECK_THROWS(fine.encode(latents, two_channels, shape), a + "::encode", "image.cols", -1);
  SLUICE_CHECK_THROWS(fine.decode(out, r, shape), a + "::decode", "low.features.cols", -1);
  SLUICE_CHECK_THROWS(fine.decode(out, r, {4, 4, 2}), a + "::decode", "f", -1);

  const models::gaussian_blobs blobs;
  multiscale_renderer colours(volume_renderer<double>(near_far, {8}), bilinear_decoder<double>());
  multiscale_renderer latent_field(volume_renderer<double>(near_far, {8}), fine);
  multiscale_image<double> result;
  const std::string render = "multiscale_renderer::render";
  SLUICE_CHECK_THROWS(colours.render(blobs, result, camera, {9, 8, 4}), render, "height", -1);
  SLUICE_CHECK_THROWS(colours.render(blobs, result, camera, shape, 1.5), render, "rho", -1);
  SLUICE_CHECK_THROWS(colours.render(blobs, result, camera, shape, nan), render, "rho", -1);
  SLUICE_CHECK_THROWS(latent_field.render(blobs, result, camera, shape, 0.5), render, "rho", -1);

  SLUICE_CHECK_THROWS(multiscale_draws(0, shape), "multiscale_draws", "views", -1);
  SLUICE_CHECK_THROWS(multiscale_draws(1, {9, 8, 4}), "multiscale_draws", "height", -1);
  SLUICE_CHECK_THROWS(multiscale_draws(1, {8, 8, 0}), "multiscale_draws", "f", -1);
  multiscale_draws draws(1, shape);
  multiscale_batch batch;
  SLUICE_CHECK_THROWS(draws(batch, 5, 1, random), "multiscale_draws", "n_blocks", -1);
  SLUICE_CHECK_THROWS(draws(batch, 1, 65, random), "multiscale_draws", "n_pixels", -1);
  using reals = std::vector<double>;
  const char* loss = "combine_multiscale_loss";
  SLUICE_CHECK_THROWS(combine_multiscale_loss(reals{}, reals{1}), loss, "block_losses.size", -1);
  SLUICE_CHECK_THROWS(combine_multiscale_loss(reals{1}, reals{}), loss, "pixel_losses.size", -1);
  CHECK(combine_multiscale_loss(reals{1}, reals{}, {.original = 0}).value == 1);
  SLUICE_CHECK_THROWS(combine_multiscale_loss(reals{1}, reals{1, nan}), loss, "pixel_losses", 1);
  SLUICE_CHECK_THROWS(combine_multiscale_loss(reals{nan}, reals{1}), loss, "block_losses", 0);
  SLUICE_CHECK_THROWS(combine_multiscale_loss(reals{1}, reals{1}, {.original = -1}), loss, "original", -1);
  SLUICE_CHECK_THROWS(combine_multiscale_loss(reals{1}, reals{1}, {.semantic = -1}), loss, "semantic", -1);
  SLUICE_CHECK_THROWS(combine_multiscale_loss(reals{1}, reals{1}, {.eikonal = -1}), loss, "eikonal", -1);
  SLUICE_CHECK_THROWS(combine_multiscale_loss(reals{1}, reals{1}, {}, nan), loss, "semantic_loss", -1);
  SLUICE_CHECK_THROWS(combine_multiscale_loss(reals{1}, reals{1}, {}, 0, nan), loss, "eikonal_loss", -1);
  SLUICE_CHECK_THROWS(semantic_loss([](const auto& m) { return Eigen::VectorXd(m.rows()); }, image, low),
                      "semantic_loss", "extractor.size", -1);
}
