// Attention of new tokens over cached keys and values, 8 query heads on 4 key/value heads of width 64: a row of scores
// in memory, softmax and weighted sum in Eigen, against block_attention over a paged_cache.
#include <sluice/kernels/attention.hpp>
#include <sluice/kernels/paged_cache.hpp>
#include <sluice/random/distributions.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <report/row.hpp>
#include <string>
#include <utility>
#include <vector>

namespace {

using sluice::index_t;
using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
constexpr sluice::attention_shape shape{.query_heads = 8, .key_value_heads = 4, .width = 64};
constexpr index_t group = 2, width = 64, most_queries = 8;
const float scale = 1 / std::sqrt(64.0f);

/// Keys and values of one context: as one matrix a head for Eigen, and in pages.
struct world {
  index_t positions;
  std::vector<matrix> keys, values;
  matrix queries, out;
  sluice::paged_cache<float> cache;
  std::vector<sluice::key_panel<float>> panels;
  sluice::block_attention<float> attend;

  explicit world(index_t n)
      : positions(n),
        queries(most_queries * 8, width),
        out(most_queries * 8, width),
        cache(shape, {.pages = (n + 63) / 64}),
        panels(static_cast<std::size_t>(cache.panels_of(n))),
        attend(shape, most_queries) {
    std::uint64_t id = 0;
    for (index_t g = 0; g < 4; ++g) {
      for (auto* side : {&keys, &values}) {
        side->emplace_back(n, width);
        sluice::fill_normal(side->back().reshaped<Eigen::RowMajor>(), sluice::stream(1, ++id));
      }
    }
    // Scores of standard deviation 4: a few hundred keys carry the weight, as in trained models.
    sluice::fill_normal(queries.reshaped<Eigen::RowMajor>(), sluice::stream(1, ++id), 4);
    const index_t text = cache.create();
    if (!cache.append(text, n)) return;
    std::vector<float> k(4 * width), v(4 * width);
    for (index_t j = 0; j < n; ++j) {
      for (index_t g = 0; g < 4; ++g) {
        std::copy_n(keys[static_cast<std::size_t>(g)].row(j).data(), width, k.begin() + g * width);
        std::copy_n(values[static_cast<std::size_t>(g)].row(j).data(), width, v.begin() + g * width);
      }
      cache.store(text, 0, j, k, v);
    }
    cache.list_panels(panels, text, 0, n);
  }
  static world& of(index_t n) {
    static std::map<index_t, std::unique_ptr<world>> worlds;
    std::unique_ptr<world>& w = worlds[n];
    if (!w) w = std::make_unique<world>(n);
    return *w;
  }

  void naive(index_t b) {
    Eigen::VectorXf score(positions);
    for (index_t row = 0; row < 8 * b; ++row) {
      const auto g = static_cast<std::size_t>(row % 8 / group);
      score.noalias() = keys[g] * queries.row(row).transpose() * scale;
      score = (score.array() - score.maxCoeff()).exp();
      out.row(row).transpose().noalias() = values[g].transpose() * score / score.sum();
    }
  }
  /// One product for all query heads that read the same keys.
  void grouped(index_t b) {
    matrix q(group * b, width), score(group * b, positions);
    for (index_t g = 0; g < 4; ++g) {
      for (index_t i = 0; i < b; ++i) q.middleRows(group * i, group) = queries.middleRows(8 * i + group * g, group);
      score.noalias() = q * keys[static_cast<std::size_t>(g)].transpose() * scale;
      for (index_t r = 0; r < group * b; ++r) {
        score.row(r) = (score.row(r).array() - score.row(r).maxCoeff()).exp();
        score.row(r) /= score.row(r).sum();
      }
      q.noalias() = score * values[static_cast<std::size_t>(g)];
      for (index_t i = 0; i < b; ++i) out.middleRows(8 * i + group * g, group) = q.middleRows(group * i, group);
    }
  }
  void blocks(index_t b) {
    const auto n = static_cast<std::size_t>(8 * b * width);
    attend({out.data(), n}, {}, {queries.data(), n}, panels);
  }

  /// Relative error of the outputs, against the same in double.
  double error(index_t b) const {
    double square = 0, size = 0;
    for (index_t row = 0; row < 8 * b; ++row) {
      const auto g = static_cast<std::size_t>(row % 8 / group);
      Eigen::VectorXd score = keys[g].cast<double>() * queries.row(row).cast<double>().transpose() / 8.0;
      score = (score.array() - score.maxCoeff()).exp();
      const Eigen::RowVectorXd exact = score.transpose() * values[g].cast<double>() / score.sum();
      square += (out.row(row).cast<double>() - exact).squaredNorm();
      size += exact.squaredNorm();
    }
    return std::sqrt(square / size);
  }

  double bytes() const { return static_cast<double>(positions * 4 * 2 * width * 4); }
  /// Seconds of f, the median of some calls.
  template <class F>
  static double seconds(F&& f) {
    std::vector<double> times;
    for (int i = 0; i < (bench::options().mode == bench::effort::quick ? 3 : 15); ++i) {
      const auto start = std::chrono::steady_clock::now();
      f();
      times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    std::nth_element(times.begin(), times.begin() + std::ssize(times) / 2, times.end());
    return times[times.size() / 2];
  }
  /// The same memory, added up.
  float read() const {
    float sum = 0;
    for (const auto& p : panels)
      sum += Eigen::Map<const Eigen::ArrayXf>(p.data, static_cast<Eigen::Index>(cache.layout().size())).sum();
    return sum;
  }
};

enum class variant { naive, grouped, sluice };

auto decode(index_t n, index_t b, variant v) {
  return [n, b, v](benchmark::State& state) {
    world& w = world::of(n);
    for (auto _ : state) {
      v == variant::naive ? w.naive(b) : v == variant::grouped ? w.grouped(b) : w.blocks(b);
      benchmark::DoNotOptimize(std::as_const(w.out).data());
      benchmark::ClobberMemory();
    }
    // by count: a query head at a time reads its keys and values once for each
    state.counters["work"] = w.bytes() * (v == variant::naive ? static_cast<double>(group * b) : 1.0);
    state.counters["quality"] = w.error(b);
    state.counters["positions"] = static_cast<double>(n);
    if (v == variant::sluice) {
      float sum = 0;
      const double ours = world::seconds([&] { w.blocks(b); }), plain = world::seconds([&] { sum += w.read(); });
      benchmark::DoNotOptimize(std::as_const(sum));
      char label[96];
      std::snprintf(label, sizeof label, "%.1f GB/s of keys and values; adding them up %.1f GB/s",
                    w.bytes() / ours / 1e9, w.bytes() / plain / 1e9);
      state.SetLabel(label);
    }
  };
}

const bool registered = [] {
  for (const auto& [n, b] : {std::pair<index_t, index_t>{1024, 1}, {8192, 1}, {32768, 1}, {8192, 8}})
    bench::row{
        "speculative-base",
        "attention of " + std::to_string(b) + (b == 1 ? " token" : " tokens") + ", " + std::to_string(n) + " positions",
        "bytes of keys and values",
        {.name = "relative error", .tolerance = 1e-5},
        "",
        "8 query heads, 4 key/value heads of width 64, floats, one thread"}
        .naive(decode(n, b, variant::naive))
        .sluice(decode(n, b, variant::sluice))
        .peer("Eigen, one product a group", decode(n, b, variant::grouped));
  return true;
}();

}  // namespace
