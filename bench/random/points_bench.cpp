// Low-discrepancy points: the mean of a smooth function over [0, 1)^6 from 4096 points, against as many random points.
#include <sluice/random/halton.hpp>
#include <sluice/random/sobol.hpp>

#include <cmath>
#include <random>
#include <report/row.hpp>
#include <vector>

namespace {

constexpr std::size_t n_points = 4096, dimensions = 6;

double mean_of_product(const std::vector<double>& points) {  // its integral is 1
  double sum = 0;
  for (std::size_t i = 0; i < n_points; ++i) {
    double f = 1;
    for (std::size_t d = 0; d < dimensions; ++d) f *= 1 + (points[i * dimensions + d] - 0.5) / double(d + 1);
    sum += f;
  }
  return sum / double(n_points);
}

/// Points and their mean once an iteration; quality: root mean square error of 32 randomisations.
template <class Fill>
auto variant(Fill fill) {
  return [fill](benchmark::State& state) {
    std::vector<double> points(n_points * dimensions);
    std::uint64_t round = 0;
    for (auto _ : state) {
      fill(points, round++);
      const double mean = mean_of_product(points);
      benchmark::DoNotOptimize(mean);
    }
    double squares = 0;
    for (std::uint64_t r = 0; r < 32; ++r) {
      fill(points, r);
      const double e = mean_of_product(points) - 1;
      squares += e * e;
    }
    state.counters["quality"] = std::sqrt(squares / 32);
    state.counters["work"] = double(n_points);
  };
}

const auto random_points = variant([](std::vector<double>& out, std::uint64_t round) {
  std::mt19937_64 engine(round + 1);
  std::uniform_real_distribution<double> uniform;
  for (double& v : out) v = uniform(engine);
});

bench::row integral(const std::string& points) {
  return {.slug = "sampling-primitives",
          .workload = "mean over 6 dimensions, " + points,
          .unit = "points",
          .quality = {.name = "rms error"},
          .claim = "",
          .note = "naive: random points of std::mt19937_64"};
}

const bool registered = [] {
  integral("Sobol points with Owen scrambling")
      .naive(random_points)
      .sluice(variant([](std::vector<double>& out, std::uint64_t round) {
        sluice::sobol(dimensions, sluice::randomise::owen, sluice::stream(1).derive(round)).fill(out);
      }));
  integral("Halton points, randomised digits")
      .naive(random_points)
      .sluice(variant([](std::vector<double>& out, std::uint64_t round) {
        sluice::halton(dimensions, sluice::stream(1).derive(round)).fill(out);
      }));
  return true;
}();

}  // namespace
