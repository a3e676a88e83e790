// Weights times b vectors: a matrix-vector product for each, Eigen's general product, and packed_product.
#include <sluice/core/thread_pool.hpp>
#include <sluice/kernels/packed_product.hpp>
#include <sluice/random/stream.hpp>
#include <sluice/random/uniform.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <array>
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
constexpr index_t most = 16;

struct shape {
  const char* name;
  index_t rows, cols;
};
constexpr shape small{"8 MB", 1024, 2048}, medium{"34 MB", 2048, 4096}, large{"134 MB", 4096, 8192};

/// Everything that the variants of a size share.
struct world {
  matrix weights, x, out;
  sluice::packed_product<float> packed;
  sluice::thread_pool two{2};
  std::map<index_t, std::array<double, 3>> ratios;  // t(b) / t(1)

  explicit world(const shape& s) : weights(s.rows, s.cols), x(most, s.cols), out(most, s.rows) {
    fill(weights, 1);
    fill(x, 2);
    packed.assign({weights.data(), static_cast<std::size_t>(weights.size())}, s.rows, s.cols);
  }
  static world& of(const shape& s) {
    static std::map<std::string, std::unique_ptr<world>> worlds;
    std::unique_ptr<world>& w = worlds[s.name];
    if (!w) w = std::make_unique<world>(s);
    return *w;
  }

  void naive(index_t b) {
    for (index_t i = 0; i < b; ++i) out.row(i).transpose().noalias() = weights * x.row(i).transpose();
  }
  void eigen(index_t b) {
    if (b == 1) return naive(1);  // what a product with one row compiles to where its size is known
    out.topRows(b).noalias() = x.topRows(b) * weights.transpose();
  }
  template <class... Executor>
  void sluice_product(index_t b, const Executor&... executor) {
    packed.multiply({out.data(), static_cast<std::size_t>(b * out.cols())},
                    {x.data(), static_cast<std::size_t>(b * x.cols())}, b, executor...);
  }

  /// Largest |y - exact| / sum |w x| over 64 rows and all positions.
  double error(index_t b) const {
    double worst = 0;
    for (index_t i = 0; i < b; ++i)
      for (index_t k = 0; k < 64; ++k) {
        const index_t r = k * (weights.rows() - 1) / 63;
        const auto w = weights.row(r).cast<double>().array(), v = x.row(i).cast<double>().array();
        worst = std::max(worst, std::abs(static_cast<double>(out(i, r)) - (w * v).sum()) / (w * v).abs().sum());
      }
    return worst;
  }

  /// Medians of interleaved calls, b and 1 in turn: sluice, Eigen, sluice on two threads.
  const std::array<double, 3>& ratio(index_t b) {
    const auto known = ratios.find(b);
    if (known != ratios.end()) return known->second;
    const auto share = static_cast<std::size_t>(std::max<index_t>(1, (index_t{1} << 23) / weights.size()));
    const std::size_t runs = (bench::options().mode == bench::effort::quick ? 3 : 9) * share;
    const auto quotient = [&](auto&& f) {  // each kind with its own copy of the weights in the caches
      std::vector<double> times[2];
      for (std::size_t run = 0; run < runs; ++run)
        for (const bool many : {false, true}) {
          const auto start = std::chrono::steady_clock::now();
          f(many ? b : 1);
          times[many].push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
        }
      for (auto& t : times) std::nth_element(t.begin(), t.begin() + static_cast<std::ptrdiff_t>(runs / 2), t.end());
      return times[1][runs / 2] / times[0][runs / 2];
    };
    return ratios[b] = {quotient([&](index_t n) { sluice_product(n); }), quotient([&](index_t n) { eigen(n); }),
                        quotient([&](index_t n) { sluice_product(n, two); })};
  }
  /// The ratios for b, or for all positions.
  std::string curves(index_t b, bool all) {
    constexpr const char* names[] = {"sluice", "Eigen", "sluice on two threads"};
    std::string text = all ? "t(b)/t(1), b = 2, ..., 16" : "t(b)/t(1)";
    for (std::size_t kind = 0; kind < 3; ++kind) {
      text += (kind == 0 ? ": " : ", ") + std::string(names[kind]);
      for (index_t i = all ? 2 : b; i <= (all ? most : b); ++i) {
        char number[16];
        std::snprintf(number, sizeof number, " %.2f", ratio(i)[kind]);
        text += number;
      }
    }
    return text;
  }

 private:
  static void fill(matrix& m, std::uint64_t seed) {
    const sluice::stream key(seed);
    for (index_t i = 0; i < m.size(); ++i)
      m.data()[i] = static_cast<float>(sluice::co53(key.word(static_cast<std::uint64_t>(i))) - 0.5);
  }
};

enum class variant { naive, eigen, sluice };

auto product(const shape& s, index_t b, variant v) {
  return [s, b, v](benchmark::State& state) {
    world& w = world::of(s);
    for (auto _ : state) {
      v == variant::naive ? w.naive(b) : v == variant::eigen ? w.eigen(b) : w.sluice_product(b);
      benchmark::DoNotOptimize(std::as_const(w.out).data());
      benchmark::ClobberMemory();
    }
    // by count: a position at a time reads the weights b times
    state.counters["work"] = static_cast<double>(s.rows * s.cols * 4 * (v == variant::naive ? b : 1));
    state.counters["quality"] = w.error(b);
    state.counters["b"] = static_cast<double>(b);
    state.SetItemsProcessed(state.iterations() * b);
    if (v == variant::sluice) state.SetLabel(w.curves(b, b == 8 && bench::options().mode != bench::effort::quick));
  };
}

void register_rows(const shape& s, std::initializer_list<index_t> positions) {
  for (const index_t b : positions)
    bench::row{"speculative-base",
               std::string("weights times b vectors, ") + s.name + ", b = " + std::to_string(b),
               "bytes of weights",
               {.name = "error / sum |w x|", .tolerance = 1e-6},
               "t(5)/t(1) = 1.15 to 2.1, t(8)/t(1) = 1.8 to 2.9; general products 2.2 to 9",
               "floats, one thread; b = 8: all ratios"}
        .naive(product(s, b, variant::naive))
        .sluice(product(s, b, variant::sluice))
        .peer("Eigen's general product", product(s, b, variant::eigen));
}

const bool registered = [] {
  register_rows(small, {1, 2, 4, 5, 8, 16});
  register_rows(medium, {1, 2, 3, 4, 5, 6, 8, 12, 16});
  register_rows(large, {1, 5, 8});
  return true;
}();

}  // namespace
