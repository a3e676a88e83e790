// Nearest codes: the plain double loop, Eigen's general product in blocks with its own argmin, and codebook.
#include <sluice/kernels/codebook.hpp>
#include <sluice/random/distributions.hpp>

#include <Eigen/Core>
#include <cstdio>
#include <limits>
#include <map>
#include <memory>
#include <report/row.hpp>
#include <string>
#include <vector>

namespace {

using sluice::index_t;
using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

struct shape {
  index_t codes, dimension, n;
};

/// Codes and observations that cluster around them, and the exact answers.
struct world {
  matrix codes, z;
  sluice::codebook<float> book;
  std::vector<index_t> exact, out;

  explicit world(const shape& s) : codes(s.codes, s.dimension), z(s.n, s.dimension) {
    sluice::fill_normal(codes, sluice::stream{1});
    sluice::fill_normal(z, sluice::stream{2}, 0.7);
    for (index_t i = 0; i < s.n; ++i) z.row(i) += codes.row(i * 7919 % s.codes);
    book.assign(codes);
    exact.resize(static_cast<std::size_t>(s.n));
    out.resize(exact.size());
    for (index_t i = 0; i < s.n; ++i) {
      double best = std::numeric_limits<double>::infinity();
      for (index_t k = 0; k < s.codes; ++k) {
        const double d = (z.row(i).cast<double>() - codes.row(k).cast<double>()).squaredNorm();
        if (d < best) best = d, exact[static_cast<std::size_t>(i)] = k;
      }
    }
  }
  static world& of(const shape& s) {
    static std::map<std::pair<index_t, index_t>, std::unique_ptr<world>> worlds;
    auto& w = worlds[{s.codes, s.dimension}];
    if (!w) w = std::make_unique<world>(s);
    return *w;
  }
  double wrong() const {
    double n = 0;
    for (std::size_t i = 0; i < out.size(); ++i) n += out[i] != exact[i];
    return n / static_cast<double>(out.size());
  }
};

void plain(world& w) {
  for (index_t i = 0; i < w.z.rows(); ++i) {
    float best = std::numeric_limits<float>::infinity();
    for (index_t k = 0; k < w.codes.rows(); ++k) {
      const float d = (w.z.row(i) - w.codes.row(k)).squaredNorm();
      if (d < best) best = d, w.out[static_cast<std::size_t>(i)] = k;
    }
  }
}
void eigen(world& w) {
  constexpr index_t block = 64;
  const Eigen::RowVectorXf half = w.codes.rowwise().squaredNorm().transpose() / 2;
  matrix score(block, w.codes.rows());
  for (index_t i = 0; i < w.z.rows(); i += block) {
    const index_t b = std::min(block, w.z.rows() - i);
    score.topRows(b).noalias() = w.z.middleRows(i, b) * w.codes.transpose();
    for (index_t j = 0; j < b; ++j) {
      Eigen::Index at = 0;
      (half - score.row(j)).minCoeff(&at);
      w.out[static_cast<std::size_t>(i + j)] = at;
    }
  }
}

template <class F>
auto variant(const shape& s, F f) {
  return [=](benchmark::State& state) {
    world& w = world::of(s);
    for (auto _ : state) {
      f(w);
      benchmark::ClobberMemory();
    }
    state.counters["work"] = static_cast<double>(s.n * s.codes);
    state.counters["K"] = static_cast<double>(s.codes);
    state.counters["quality"] = w.wrong();
    state.SetItemsProcessed(state.iterations() * s.n);
  };
}

const bool registered = [] {
  for (const shape& s : {shape{64, 126, 4096}, shape{1024, 8, 4096}, shape{1024, 64, 4096}, shape{8192, 3, 2048}})
    bench::row{.slug = "vq-nerf",
               .workload = "nearest of " + std::to_string(s.codes) + " codes, C = " + std::to_string(s.dimension),
               .unit = "distances",
               .quality = {.name = "share of wrong codes", .tolerance = 0},
               .claim = "",
               .note = "floats, one thread. Answers are checked against distances in double"}
        .naive(variant(s, plain))
        .sluice(variant(s, [](world& w) { w.book.nearest(w.out, w.z); }))
        .peer("Eigen product and minCoeff", variant(s, eigen));
  return true;
}();

}  // namespace
