// Fails for: an inclusive transmittance; the background times the opacity; fine samples behind the coarse ones
// instead of among them.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <sluice/core/thread_pool.hpp>
#include <sluice/generate/volume_rendering.hpp>
#include <sluice/models/gaussian_blobs.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <support/statistics.hpp>

using namespace sluice;
using reals = std::vector<double>;

namespace {

double uniform_number(std::uint64_t seed, std::size_t i) { return uniform_at(stream{seed}, i); }

template <class S>
ray_batch<S> fan_of_rays(index_t n, std::uint64_t seed = 1) {
  ray_batch<S> rays;
  rays.resize(n);
  for (index_t i = 0; i < n; ++i) {
    const auto u = [&](std::size_t k) { return uniform_number(seed, static_cast<std::size_t>(8 * i) + k) - 0.5; };
    const Eigen::Vector3d origin(3, 0.2 * u(0), 0.2 * u(1));
    const Eigen::Vector3d d = Eigen::Vector3d(-1, 0.6 * u(2), 0.6 * u(3)).normalized();
    for (index_t k = 0; k < 3; ++k) {
      rays.origins(i, k) = static_cast<S>(origin[k]);
      rays.directions(i, k) = static_cast<S>(d[k]);
    }
  }
  return rays;
}

/// The definition, ray by ray and sample by sample, in double.
template <class F>
ray_integral by_definition(reals& feature, F&& field, const Eigen::Vector3d& o, const Eigen::Vector3d& d,
                           const reals& t, const reals& delta, const reals& background) {
  const auto n = static_cast<index_t>(t.size()), channels = static_cast<index_t>(background.size());
  Eigen::Matrix<double, Eigen::Dynamic, 3> p(n, 3), v(n, 3);
  for (index_t i = 0; i < n; ++i) {
    p.row(i) = (o + t[static_cast<std::size_t>(i)] * d).transpose();
    v.row(i) = d.transpose();
  }
  Eigen::VectorXd sigma(n);
  Eigen::MatrixXd c(n, channels);
  field(p, v, sigma, c);
  double reach = 1, opacity = 0, depth = 0;
  feature.assign(background.size(), 0);
  for (index_t i = 0; i < n; ++i) {
    const double alpha = 1 - std::exp(-sigma[i] * delta[static_cast<std::size_t>(i)]), w = reach * alpha;
    for (index_t k = 0; k < channels; ++k) feature[static_cast<std::size_t>(k)] += w * c(i, k);
    opacity += w;
    depth += w * t[static_cast<std::size_t>(i)];
    reach *= 1 - alpha;
  }
  for (std::size_t k = 0; k < background.size(); ++k) feature[k] += (1 - opacity) * background[k];
  return {opacity, depth / std::max(opacity, 1e-10)};
}

}  // namespace

TEST_CASE("volume weights: the sum, splitting, limits", "[volume_rendering]") {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    const std::size_t n = 1 + seed;
    reals tau(n), w(n), reach(n);
    double total = 0;
    for (std::size_t i = 0; i < n; ++i) total += tau[i] = std::pow(10, 4 * uniform_number(seed, i) - 3.5);
    const double depth = volume_weights<double>(w, tau);
    transmittance<double>(reach, tau);
    CHECK(depth == Approx(total).epsilon(1e-14));
    double sum = 0;
    for (std::size_t i = 0; i < n; ++i) {
      CHECK(w[i] >= 0);
      CHECK(w[i] == Approx(reach[i] * -std::expm1(-tau[i])).epsilon(1e-15));
      sum += w[i];
    }
    CHECK(std::abs(sum + std::expm1(-total)) < 1e-14);
    // an interval of constant density in three parts
    reals split, colour{0.3}, values, split_values, t(n, 1.0), split_t;
    for (std::size_t i = 0; i < n; ++i) {
      values.push_back(uniform_number(seed + 100, i));
      for (const double share : {0.2, 0.5, 0.3}) {
        split.push_back(share * tau[i]);
        split_values.push_back(values.back());
        split_t.push_back(1);
      }
    }
    reals whole(1), parts(1), ws(split.size()), background{0.7};
    const double a = integrate_ray<double>(whole, w, values, t, depth, background).opacity;
    const double d = volume_weights<double>(ws, split);
    const double b = integrate_ray<double>(parts, ws, split_values, split_t, d, background).opacity;
    CHECK(whole[0] == Approx(parts[0]).epsilon(1e-13));
    CHECK(a == Approx(b).epsilon(1e-13));
  }
  constexpr double inf = std::numeric_limits<double>::infinity();
  reals w(3);
  CHECK(volume_weights<double>(w, reals{0.5, inf, 2}) == inf);
  CHECK(w[1] == Approx(std::exp(-0.5)).epsilon(1e-15));
  CHECK(w[2] == 0);
  CHECK(volume_weights<double>(w, reals{0, 0, 0}) == 0);
  CHECK(w == reals{0, 0, 0});
  volume_weights<double>(w, reals{1e-18, 1e-18, 800});  // small depths keep their digits, large ones do not overflow
  CHECK(w[1] == Approx(1e-18).epsilon(1e-15));
  CHECK(w[2] == 1);
  reals colour(1), t{1, 2, 3};
  const auto empty = integrate_ray<double>(colour, reals{0, 0, 0}, reals{9, 9, 9}, t, 0, reals{0.25});
  CHECK(colour[0] == 0.25);  // nothing but background
  CHECK(empty.opacity == 0);
  CHECK(empty.depth == 0);
}

TEST_CASE("spacings and strata", "[volume_rendering]") {
  reals delta(4), t(4);
  spacings<double>(delta, reals{1, 1.5, 1.5, 3}, 4);
  CHECK(delta == reals{0.5, 0, 1.5, 1});
  stratified_positions<double>(t, 2, 4);
  CHECK(t == reals{2.25, 2.75, 3.25, 3.75});
  stratified_positions<double>(t, 2, 4, reals{0, 0.5, 1, 0.25});
  CHECK(t == reals{2, 2.75, 3.5, 3.625});
  std::vector<float> one(1);
  stratified_positions<float>(one, 0, 1);
  CHECK(one[0] == 0.5f);
}

TEST_CASE("quadrature converges to the closed optical depth of a blob", "[volume_rendering]") {
  const models::gaussian_blobs blob({{{0, 0, 0}, .22, 18, {1, 1, 1}}}, false);
  const Eigen::Vector3d o(3, 0.1, 0.05), d = Eigen::Vector3d(-1, 0.02, -0.03).normalized();
  const double exact = blob.optical_depth(o, d, 1.9, 4.1);
  double before = 1;
  for (const std::size_t n : {8u, 16u, 32u, 64u, 256u}) {
    reals t(n), sigma(n), tau(n);
    stratified_positions<double>(t, 1.9, 4.1);
    Eigen::MatrixXd p(static_cast<index_t>(n), 3), unused(static_cast<index_t>(n), 3);
    for (std::size_t i = 0; i < n; ++i) p.row(static_cast<index_t>(i)) = (o + t[i] * d).transpose();
    Eigen::Map<Eigen::VectorXd> value(sigma.data(), static_cast<index_t>(n));
    blob(p, p, value, unused);
    optical_depths<double>(tau, sigma, reals(n, 2.2 / static_cast<double>(n)));
    const double error = std::abs(std::expm1(-exact) - std::expm1(-volume_weights<double>(tau, tau)));
    CHECK(error <= before);
    before = error;
    if (n == 8) CHECK(error < 1e-5);
    if (n == 64) CHECK(error < 2e-8);
  }
  CHECK(before < 1e-9);
}

TEST_CASE("stratified optical depths are unbiased", "[volume_rendering][statistical]") {
  const models::gaussian_blobs blobs;
  const Eigen::Vector3d o(3, 0.1, 0.05), d = Eigen::Vector3d(-1, 0.02, -0.03).normalized();
  constexpr std::size_t n = 8, runs = 10000;
  double sum = 0, squares = 0;
  for (std::size_t r = 0; r < runs; ++r) {
    reals t(n), u(n);
    for (std::size_t i = 0; i < n; ++i) u[i] = uniform_at(stream(77, r), i);
    stratified_positions<double>(t, 1.9, 4.1, u);
    Eigen::Matrix<double, n, 3> p, unused;
    Eigen::Matrix<double, n, 1> sigma;
    for (std::size_t i = 0; i < n; ++i) p.row(static_cast<index_t>(i)) = (o + t[i] * d).transpose();
    blobs(p, p, sigma, unused);
    const double tau = sigma.sum() * 2.2 / n;
    sum += tau;
    squares += tau * tau;
  }
  const double mean = sum / runs, sd = std::sqrt(squares / runs - mean * mean);
  CHECK(std::abs(mean - blobs.optical_depth(o, d, 1.9, 4.1)) < 5.5 * sd / std::sqrt(double(runs)));
  CHECK(sd / mean < 0.5);
}

TEST_CASE("piecewise laws: quantiles, edges, weights of zero", "[volume_rendering]") {
  piecewise_law law;
  law.assign<double>(reals{0, 1, 3, 4}, reals{1, 0, 3}, 0);
  CHECK(law.cdf() == reals{0, 0.25, 0.25, 1});
  CHECK(law(0) == 0);
  CHECK(law(0.125) == 0.5);
  CHECK(law(0.25) == 3);  // the bin of weight 0 is passed over
  CHECK(law(0.625) == 3.5);
  CHECK(law(1) == 4);
  law.assign<double>(reals{0, 1, 2, 3}, reals{0, 2, 0}, 0);
  CHECK(law(0) == 1);
  CHECK(law(1) == 2);
  CHECK(law(0.5) == 1.5);
  law.assign<double>(reals{0, 1, 3}, reals{0, 0}, 0);  // all 0: every bin the same
  CHECK(law(0.25) == 0.5);
  CHECK(law(0.75) == 2);
  law.assign<double>(reals{0, 1, 2}, reals{1, 0});
  CHECK(law.cdf()[1] == Approx((1 + 1e-5) / (1 + 2e-5)).epsilon(1e-15));
  std::vector<float> edges(101), weights(100);
  for (std::size_t i = 0; i <= 100; ++i) edges[i] = static_cast<float>(i) * 0.1f;
  for (std::size_t i = 0; i < 100; ++i)
    weights[i] = static_cast<float>(uniform_number(3, i)) * (i % 3 == 0 ? 0.f : 1.f);
  law.assign<float>(edges, weights);
  CHECK(law.cdf().back() == 1);
  reals u(1000), out(1000);
  for (std::size_t i = 0; i < 1000; ++i) u[i] = static_cast<double>(i) / 999;
  law.sorted<double>(out, u);
  for (std::size_t i = 0; i < 1000; ++i) {
    CHECK(out[i] == law(u[i]));
    if (i > 0) CHECK(out[i] >= out[i - 1]);
  }
}

TEST_CASE("piecewise laws: frequencies", "[volume_rendering][statistical]") {
  piecewise_law law;
  law.assign<double>(reals{0, 1, 2, 3}, reals{1, 0, 3}, 0);
  constexpr std::size_t n = 200000;
  std::vector<std::uint64_t> count(12);
  for (std::size_t i = 0; i < n; ++i) ++count[static_cast<std::size_t>(4 * law(uniform_number(9, i)))];
  reals p{.0625, .0625, .0625, .0625, 0, 0, 0, 0, .1875, .1875, .1875, .1875};
  for (std::size_t k = 0; k < 12; ++k)  // uniform inside the bins too
    CHECK(std::abs(static_cast<double>(count[k]) / n - p[k]) <= 5.5 * std::sqrt(p[k] * (1 - p[k]) / n));
}

TEST_CASE("signed distances to densities and depths", "[volume_rendering]") {
  for (const double beta : {0.01, 0.1, 2.0}) {
    CHECK(volsdf_density(0, beta) == Approx(0.5 / beta).epsilon(1e-15));
    CHECK(volsdf_density(-100 * beta, beta) == Approx(1 / beta).epsilon(1e-15));
    CHECK(volsdf_density(100 * beta, beta) < 1e-40 / beta);
    CHECK(volsdf_density(-1e6, beta) == 1 / beta);  // no overflow
    CHECK(volsdf_density(1e6, beta) == 0);
    double before = volsdf_density(-3 * beta, beta);
    for (double d = -2.9 * beta; d < 3 * beta; d += 0.1 * beta) {
      const double now = volsdf_density(d, beta);
      CHECK(now < before);
      before = now;
      CHECK(now == Approx((d < 0 ? 1 - 0.5 * std::exp(d / beta) : 0.5 * std::exp(-d / beta)) / beta).epsilon(1e-14));
    }
  }
  const auto phi = [](double x) { return 1 / (1 + std::exp(-x)); };
  const double s = 20;
  double sum = 0;
  const reals falling{0.5, 0.4, 0.1, 0.02, -0.05, -0.3, -0.31};
  for (std::size_t i = 0; i + 1 < falling.size(); ++i) {
    const double tau = neus_optical_depth(falling[i], falling[i + 1], s), a = phi(s * falling[i]),
                 b = phi(s * falling[i + 1]);
    CHECK(-std::expm1(-tau) == Approx((a - b) / a).epsilon(1e-12));
    sum += tau;
  }
  CHECK(-std::expm1(-sum) == Approx(1 - phi(s * falling.back()) / phi(s * falling.front())).epsilon(1e-13));
  CHECK(neus_optical_depth(-0.1, 0.1, s) == 0);                           // leaving
  CHECK(neus_optical_depth(-100, -101, s) == Approx(20).epsilon(1e-13));  // where the quotient is 0/0
  CHECK(neus_optical_depth(101, 100, s) == 0);
}

TEMPLATE_TEST_CASE("a rendering is its definition", "[volume_rendering]", float, double) {
  using S = TestType;
  const double tolerance = std::same_as<S, float> ? 3e-5 : 1e-12;
  const models::gaussian_blobs blobs(models::gaussian_blobs::default_scene(), false);
  const reals background{0.2, 0.5, 0.9};
  for (const index_t n : {1, 63, 64, 65, 150}) {
    const auto rays = fan_of_rays<S>(n);
    volume_renderer<S> middle({.near = 1.9, .far = 4.1, .background = background, .stop_below = 0},
                              uniform_samples{40});
    volume_renderer<S, stratified_samples> random({.near = 1.9, .far = 4.1, .background = background, .stop_below = 0},
                                                  {40});
    rendering<S> a, b;
    middle.render(blobs, a, rays);
    random.render(blobs, b, rays, serial{}, stream{5});
    CHECK(a.status == status::completed);
    CHECK(a.stats.field_evaluations == 40 * n);
    CHECK(a.stats.rays == n);
    for (index_t i = 0; i < n; ++i) {
      reals t(40), u(40), feature;
      for (std::size_t k = 0; k < 40; ++k) u[k] = uniform_at(stream{5}.derive(static_cast<std::uint64_t>(i)), k);
      const Eigen::Vector3d o = rays.origins.row(i).template cast<double>().transpose(),
                            d = rays.directions.row(i).template cast<double>().transpose();
      for (const bool drawn : {false, true}) {
        const rendering<S>& r = drawn ? b : a;
        stratified_positions<double>(t, 1.9, 4.1, drawn ? std::span<const double>(u) : std::span<const double>());
        const ray_integral e = by_definition(feature, blobs, o, d, t, reals(40, 2.2 / 40), background);
        for (index_t c = 0; c < 3; ++c)
          CHECK(static_cast<double>(r.features(i, c)) ==
                Approx(feature[static_cast<std::size_t>(c)]).margin(tolerance));
        CHECK(static_cast<double>(r.opacity[i]) == Approx(e.opacity).margin(tolerance));
        if (e.opacity > 1e-3)
          CHECK(static_cast<double>(r.depth[i]) == Approx(e.depth).margin(4 * tolerance / e.opacity));
        CHECK(r.samples[static_cast<std::size_t>(i)] == 40);
      }
    }
  }
}

TEST_CASE("hierarchical samples: the definition from the coarse weights", "[volume_rendering]") {
  const models::gaussian_blobs blobs(models::gaussian_blobs::default_scene(), false);
  const auto rays = fan_of_rays<double>(70);
  const reals background{0, 0, 0};
  for (const placement fine : {placement::random, placement::middle}) {
    volume_renderer<double, hierarchical_samples> renderer({.near = 1.9, .far = 4.1, .segment = 7},
                                                           {.n_coarse = 12, .n_fine = 20, .fine = fine});
    rendering<double> r;
    renderer.render(blobs, r, rays, serial{}, stream{6});
    CHECK(r.stats.field_evaluations == 32 * 70);
    for (index_t i = 0; i < 70; ++i) {
      const stream own = stream{6}.derive(static_cast<std::uint64_t>(i));
      const Eigen::Vector3d o = rays.origins.row(i).transpose(), d = rays.directions.row(i).transpose();
      reals u(12), t(12), edges(13), sigma(12), tau(12), w(12), v(20), more(20), feature;
      for (std::size_t k = 0; k < 12; ++k) u[k] = uniform_at(own, k);
      for (std::size_t k = 0; k < 13; ++k) edges[k] = 1.9 + 2.2 * static_cast<double>(k) / 12;
      stratified_positions<double>(t, 1.9, 4.1, u);
      Eigen::MatrixXd p(12, 3), unused(12, 3);
      for (index_t k = 0; k < 12; ++k) p.row(k) = (o + t[static_cast<std::size_t>(k)] * d).transpose();
      Eigen::Map<Eigen::VectorXd> value(sigma.data(), 12);
      blobs(p, p, value, unused);
      optical_depths<double>(tau, sigma, reals(12, 2.2 / 12));
      volume_weights<double>(w, tau);
      piecewise_law law;
      law.assign<double>(edges, w);
      for (std::size_t k = 0; k < 20; ++k)
        more[k] = law((static_cast<double>(k) + (fine == placement::middle ? 0.5 : uniform_at(own, 12 + k))) / 20);
      t.insert(t.end(), more.begin(), more.end());
      std::sort(t.begin(), t.end());
      reals delta(32);
      spacings<double>(delta, t, 4.1);
      const ray_integral e = by_definition(feature, blobs, o, d, t, delta, background);
      for (index_t c = 0; c < 3; ++c)
        CHECK(r.features(i, c) == Approx(feature[static_cast<std::size_t>(c)]).margin(1e-11));
      CHECK(r.opacity[i] == Approx(e.opacity).margin(1e-11));
    }
  }
}

TEMPLATE_TEST_CASE("renderings of signed distances", "[volume_rendering]", float, double) {
  using S = TestType;
  // a ball of radius 1/2 around the origin
  const auto ball = [](const auto& p, const auto&, auto& values, auto& features) {
    values = (p.rowwise().norm().array() - S{0.5}).matrix();
    features.setOnes();
  };
  const auto rays = fan_of_rays<S>(100);
  constexpr index_t n = 64;
  const render_options options{.near = 1.9, .far = 4.1, .channels = 1, .stop_below = 0, .segment = 10};
  volume_renderer<S, uniform_samples, volsdf> laplace(options, {n}, {0.05});
  volume_renderer<S, uniform_samples, neus> logistic(options, {n}, {30});
  rendering<S> a, b;
  laplace.render(ball, a, rays);
  logistic.render(ball, b, rays);
  CHECK(b.stats.field_evaluations == n * 100);
  const double tolerance = std::same_as<S, float> ? 3e-5 : 1e-12;
  for (index_t i = 0; i < 100; ++i) {
    double volsdf_depth = 0, neus_depth = 0, before = 0;
    for (index_t k = 0; k < n; ++k) {
      const double t = 1.9 + (static_cast<double>(k) + 0.5) * 2.2 / n;
      const double d =
          (rays.origins.row(i).template cast<double>() + t * rays.directions.row(i).template cast<double>()).norm() -
          0.5;
      volsdf_depth += volsdf_density(d, 0.05) * 2.2 / n;
      if (k > 0) neus_depth += neus_optical_depth(before, d, 30);
      before = d;
    }
    CHECK(static_cast<double>(a.opacity[i]) == Approx(-std::expm1(-volsdf_depth)).margin(tolerance));
    CHECK(static_cast<double>(b.opacity[i]) == Approx(-std::expm1(-neus_depth)).margin(tolerance));
    CHECK(a.features(i, 0) == Approx(a.opacity[i]).margin(tolerance));
  }
  volume_renderer<S, hierarchical_samples, neus> nested(options, {.n_coarse = 20, .n_fine = 30}, {30});
  rendering<S> c;
  nested.render(ball, c, rays, serial{}, stream{1});
  CHECK(c.status == status::completed);
  for (index_t i = 0; i < 100; ++i) CHECK(c.features(i, 0) == Approx(c.opacity[i]).margin(tolerance));
}

TEST_CASE("rays that are opaque end early, and nothing else changes", "[volume_rendering]") {
  const models::gaussian_blobs blobs;
  const auto rays = fan_of_rays<double>(200);
  volume_renderer<double> whole({.near = 1.9, .far = 4.1, .stop_below = 0}, {96});
  volume_renderer<double> ending({.near = 1.9, .far = 4.1, .stop_below = 1e-4, .segment = 8}, {96});
  rendering<double> a, b;
  whole.render(blobs, a, rays);
  std::int64_t points = 0;
  ending.render(
      [&](const auto& p, const auto& d, auto& v, auto& c) {
        points += p.rows();
        blobs(p, d, v, c);
      },
      b, rays);
  CHECK(a.stats.ended_early == 0);
  CHECK(b.stats.ended_early > 20);
  CHECK(b.stats.field_evaluations == points);
  std::int64_t total = 0, ended = 0;
  for (index_t i = 0; i < 200; ++i) {
    const std::int32_t n = b.samples[static_cast<std::size_t>(i)];
    total += n;
    CHECK(n % 8 == 0);
    ended += n < 96;
    CHECK((a.features.row(i) - b.features.row(i)).cwiseAbs().maxCoeff() < 1e-4);
    CHECK(a.opacity[i] - b.opacity[i] < 1e-4);
    if (n == 96) CHECK(a.features.row(i) == b.features.row(i));
    if (n < 96) CHECK(b.opacity[i] > 1 - 1e-4);
  }
  CHECK(total == points);
  CHECK(ended == b.stats.ended_early);
}

TEMPLATE_TEST_CASE("renderings have the same bits on any executor, and rays in any batch",
                   "[volume_rendering][parallel]", float, double) {
  using S = TestType;
  const models::gaussian_blobs blobs;
  const auto rays = fan_of_rays<S>(1000);
  const thread_pool pool(3);
  volume_renderer<S, hierarchical_samples> renderer({.near = 1.9, .far = 4.1, .lanes = 5}, {16, 16});
  volume_renderer<S, stratified_samples> single({.near = 1.9, .far = 4.1, .lanes = 1}, {32}),
      many({.near = 1.9, .far = 4.1, .lanes = 7}, {32});
  rendering<S> a, b, c, d;
  renderer.render(blobs, a, rays, serial{}, stream{3});
  renderer.render(blobs, b, rays, pool, stream{3});
  CHECK(a.features == b.features);
  CHECK((a.depth == b.depth).all());
  single.render(blobs, c, rays, serial{}, stream{3});
  many.render(blobs, d, rays, pool, stream{3});
  CHECK(c.features == d.features);
  CHECK(c.stats.field_evaluations == d.stats.field_evaluations);
  CHECK(c.samples == d.samples);
  ray_batch<S> some;  // every seventh ray, with its identity
  some.resize(143);
  for (index_t i = 0; i < 143; ++i) {
    some.origins.row(i) = rays.origins.row(7 * i);
    some.directions.row(i) = rays.directions.row(7 * i);
    some.id[static_cast<std::size_t>(i)] = static_cast<std::uint64_t>(7 * i);
  }
  single.render(blobs, d, some, serial{}, stream{3});
  for (index_t i = 0; i < 143; ++i) CHECK(d.features.row(i) == c.features.row(7 * i));
}

TEMPLATE_TEST_CASE("invalid rays are reported and spoil no other", "[volume_rendering]", float, double) {
  using S = TestType;
  const models::gaussian_blobs blobs;
  const auto rays = fan_of_rays<S>(150);
  const S nan = std::numeric_limits<S>::quiet_NaN(), inf = std::numeric_limits<S>::infinity();
  volume_renderer<S> renderer({.near = 1.9, .far = 4.1, .background = {1, 0, 1}}, {32});
  rendering<S> good, bad;
  renderer.render(blobs, good, rays);
  for (const int defect : {0, 1, 2, 3}) {
    // rays whose direction is that of ray 71 or 99 see it at one place
    const auto field = [&](const auto& p, const auto& d, auto& v, auto& c) {
      blobs(p, d, v, c);
      for (index_t i = 0; i < p.rows(); ++i)
        if (d(i, 1) == rays.directions(71, 1) || d(i, 1) == rays.directions(99, 1)) {
          if (defect == 0) v[i] = nan;
          if (defect == 1) v[i] = -1;
          if (defect == 2) c(i, 2) = nan;
          if (defect == 3) c(i, 0) = inf;
        }
    };
    renderer.render(field, bad, rays);
    CHECK(bad.status == status::invalid_row);
    CHECK(bad.stats.invalid_rays == 2);
    CHECK(bad.stats.stopped.index == 71);
    for (index_t i = 0; i < 150; ++i) {
      if (i != 71 && i != 99) {
        CHECK(bad.features.row(i) == good.features.row(i));
      } else {
        CHECK(bad.features(i, 0) == 1);
        CHECK(bad.features(i, 1) == 0);
        CHECK(bad.opacity[i] == 0);
      }
    }
    renderer.render(blobs, bad, rays);
    CHECK(bad.status == status::completed);
  }
  // opaque is not invalid
  renderer.render([&](const auto&, const auto&, auto& v, auto& c) { v.setConstant(inf), c.setConstant(S{0.5}); }, bad,
                  rays);
  CHECK(bad.status == status::completed);
  CHECK(static_cast<double>(bad.features(3, 1)) == Approx(0.5).margin(1e-6));
  CHECK(static_cast<double>(bad.opacity[3]) == 1);
  // nothing to see
  renderer.render([&](const auto&, const auto&, auto& v, auto& c) { v.setZero(), c.setConstant(S{0.5}); }, bad, rays);
  CHECK(bad.features(3, 0) == 1);
  CHECK(bad.features(3, 1) == 0);
  CHECK(bad.depth[3] == 0);
  rendering<S> none;
  renderer.render(blobs, none, ray_batch<S>{});
  CHECK(none.stats.field_evaluations == 0);
}

TEST_CASE("rendering allocates nothing once its sizes are known", "[volume_rendering]") {
  const models::gaussian_blobs blobs;
  const auto rays = fan_of_rays<float>(300);
  volume_renderer<float> plain({.near = 1.9, .far = 4.1}, {32});
  volume_renderer<float, hierarchical_samples> nested({.near = 1.9, .far = 4.1}, {16, 16});
  rendering<float> a, b;
  const auto render = [&] {
    plain.render(blobs, a, rays);
    nested.render(blobs, b, rays, serial{}, stream{1});
  };
  render();
  CHECK(support::allocations_in(render) == 0);
}

TEST_CASE("volume rendering: wrong arguments", "[volume_rendering]") {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  reals two(2), three(3);
  SLUICE_CHECK_THROWS(spacings<double>(std::span<double>(), reals{}, 1), "spacings", "t.size", -1);
  SLUICE_CHECK_THROWS(spacings<double>(three, reals{1, 2}, 3), "spacings", "delta.size", -1);
  SLUICE_CHECK_THROWS(spacings<double>(three, reals{1, 3, 2}, 4), "spacings", "t", 1);
  SLUICE_CHECK_THROWS(spacings<double>(two, reals{1, 2}, 1.5), "spacings", "t", 1);
  SLUICE_CHECK_THROWS(spacings<double>(two, reals{1, 2}, inf), "spacings", "far", -1);
  SLUICE_CHECK_THROWS(optical_depths<double>(two, reals{1, -1}, reals{1, 1}), "optical_depths", "sigma", 1);
  SLUICE_CHECK_THROWS(optical_depths<double>(two, reals{1, nan}, reals{1, 1}), "optical_depths", "sigma", 1);
  SLUICE_CHECK_THROWS(optical_depths<double>(two, reals{inf, 1}, reals{0, 1}), "optical_depths", "sigma", 0);
  CHECK_NOTHROW(optical_depths<double>(two, reals{inf, 1}, reals{1, 1}));
  SLUICE_CHECK_THROWS(optical_depths<double>(two, reals{1, 1}, reals{1, -1}), "optical_depths", "delta", 1);
  SLUICE_CHECK_THROWS(optical_depths<double>(two, reals{1, 1}, reals{1, inf}), "optical_depths", "delta", 1);
  SLUICE_CHECK_THROWS(optical_depths<double>(two, reals{1}, reals{1, 1}), "optical_depths", "sigma.size", -1);
  SLUICE_CHECK_THROWS(optical_depths<double>(two, reals{1, 1}, reals{1}), "optical_depths", "delta.size", -1);
  SLUICE_CHECK_THROWS(volume_weights<double>(two, reals{1, nan}), "volume_weights", "tau", 1);
  SLUICE_CHECK_THROWS(volume_weights<double>(two, reals{1}), "volume_weights", "weights.size", -1);
  SLUICE_CHECK_THROWS(transmittance<double>(two, reals{-1, 0}), "transmittance", "tau", 0);
  SLUICE_CHECK_THROWS(transmittance<double>(two, reals{1}), "transmittance", "out.size", -1);
  SLUICE_CHECK_THROWS(integrate_ray<double>(two, reals{1}, reals{1, 1}, reals{1, 2}, 1), "integrate_ray", "t.size", -1);
  SLUICE_CHECK_THROWS(integrate_ray<double>(two, reals{1}, reals{1}, reals{1}, 1), "integrate_ray", "values.size", -1);
  SLUICE_CHECK_THROWS(integrate_ray<double>(two, reals{1}, reals{1, 1}, reals{1}, 1, reals{1}), "integrate_ray",
                      "background.size", -1);
  SLUICE_CHECK_THROWS(integrate_ray<double>(two, reals{1}, reals{1, 1}, reals{1}, -1), "integrate_ray", "optical_depth",
                      -1);
  SLUICE_CHECK_THROWS(stratified_positions<double>(std::span<double>(), 0, 1), "stratified_positions", "t.size", -1);
  SLUICE_CHECK_THROWS(stratified_positions<double>(two, 1, 1), "stratified_positions", "far", -1);
  SLUICE_CHECK_THROWS(stratified_positions<double>(two, 0, 1, reals{0.5}), "stratified_positions", "u.size", -1);
  SLUICE_CHECK_THROWS(stratified_positions<double>(two, 0, 1, reals{0.5, 1.5}), "stratified_positions", "u", 1);
  piecewise_law law;
  SLUICE_CHECK_THROWS(law.assign<double>(reals{1}, reals{}), "piecewise_law", "weights.size", -1);
  SLUICE_CHECK_THROWS(law.assign<double>(reals{1, 2, 3}, reals{1}), "piecewise_law", "edges.size", -1);
  SLUICE_CHECK_THROWS(law.assign<double>(reals{1, 3, 2}, reals{1, 1}), "piecewise_law", "edges", 2);
  SLUICE_CHECK_THROWS(law.assign<double>(reals{1, 2, 3}, reals{1, -1}), "piecewise_law", "weights", 1);
  SLUICE_CHECK_THROWS(law.assign<double>(reals{1, 2, 3}, reals{1, nan}), "piecewise_law", "weights", 1);
  SLUICE_CHECK_THROWS(law.assign<double>(reals{1, 2, 3}, reals{1, 1}, -1), "piecewise_law", "floor", -1);
  law.assign<double>(reals{1, 2, 3}, reals{1, 1});
  SLUICE_CHECK_THROWS(law.sorted<double>(two, reals{0.5}), "piecewise_law::sorted", "out.size", -1);
  SLUICE_CHECK_THROWS(law.sorted<double>(two, reals{0.5, 0.4}), "piecewise_law::sorted", "u", 1);
  SLUICE_CHECK_THROWS(law.sorted<double>(two, reals{0.5, 1.1}), "piecewise_law::sorted", "u", 1);
  SLUICE_CHECK_THROWS(volsdf_density(0, 0), "volsdf_density", "beta", -1);
  SLUICE_CHECK_THROWS(neus_optical_depth(0, 0, -1), "neus_optical_depth", "s", -1);

  const char* me = "volume_renderer";
  using plain = volume_renderer<double>;
  using nested = volume_renderer<double, hierarchical_samples>;
  SLUICE_CHECK_THROWS(plain({.near = 1, .far = 1}), me, "far", -1);
  SLUICE_CHECK_THROWS(plain({.near = nan}), me, "near", -1);
  SLUICE_CHECK_THROWS(plain({.channels = 0}), me, "channels", -1);
  SLUICE_CHECK_THROWS(plain({.background = {1, 1}}), me, "background.size", -1);
  SLUICE_CHECK_THROWS(plain({.background = {1, nan, 1}}), me, "background", 1);
  SLUICE_CHECK_THROWS(plain({.stop_below = 1}), me, "stop_below", -1);
  SLUICE_CHECK_THROWS(plain({.segment = 0}), me, "segment", -1);
  SLUICE_CHECK_THROWS(plain({.lanes = 0}), me, "lanes", -1);
  SLUICE_CHECK_THROWS(plain({}, {0}), me, "n", -1);
  SLUICE_CHECK_THROWS(nested({}, {0, 1}), me, "n_coarse", -1);
  SLUICE_CHECK_THROWS(nested({}, {1, 0}), me, "n_fine", -1);
  SLUICE_CHECK_THROWS(nested({}, {.floor = -1}), me, "floor", -1);
  SLUICE_CHECK_THROWS((volume_renderer<double, uniform_samples, volsdf>({}, {}, {0})), me, "beta", -1);
  SLUICE_CHECK_THROWS((volume_renderer<double, uniform_samples, neus>({}, {}, {0})), me, "s", -1);
  plain renderer({.near = 1, .far = 2});
  rendering<double> out;
  auto rays = fan_of_rays<double>(4);
  const models::gaussian_blobs blobs;
  rays.directions(2, 1) = nan;
  SLUICE_CHECK_THROWS(renderer.render(blobs, out, rays), "volume_renderer::render", "directions", 2);
  rays.origins(1, 0) = inf;
  SLUICE_CHECK_THROWS(renderer.render(blobs, out, rays), "volume_renderer::render", "origins", 1);
  rays = fan_of_rays<double>(4);
  rays.id.pop_back();
  SLUICE_CHECK_THROWS(renderer.render(blobs, out, rays), "volume_renderer::render", "id.size", -1);
  rays = fan_of_rays<double>(4);
  rays.directions.conservativeResize(3, 3);
  SLUICE_CHECK_THROWS(renderer.render(blobs, out, rays), "volume_renderer::render", "directions.rows", -1);
  SLUICE_CHECK_THROWS(models::gaussian_blobs(std::vector<models::gaussian_blob>()), "gaussian_blobs", "blobs.size", -1);
  SLUICE_CHECK_THROWS(models::gaussian_blobs({{{0, 0, 0}, 0, 1, {1, 1, 1}}}), "gaussian_blobs", "radius", 0);
  SLUICE_CHECK_THROWS(models::gaussian_blobs({{{0, 0, 0}, 1, -1, {1, 1, 1}}}), "gaussian_blobs", "amplitude", 0);
}
