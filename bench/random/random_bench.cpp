#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <report/row.hpp>
#include <sluice/random/distributions.hpp>
#include <vector>

namespace {

constexpr std::size_t n = 1 << 16;

/// Fills out, once an iteration; quality is computed from the last fill.
template <class T, class Fill, class Quality>
auto variant(Fill fill, Quality quality) {
  return [=](benchmark::State& state) {
    std::vector<T> out(n);
    std::uint64_t round = 0;
    for (auto _ : state) {
      fill(out, round++);
      benchmark::DoNotOptimize(std::as_const(out).data());
      benchmark::ClobberMemory();
    }
    state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations() * n));
    state.counters["work"] = static_cast<double>(n);
    state.counters["quality"] = quality(out);
  };
}

/// |z| of the number of ones among all bits: n 64 fair coins.
double bit_balance(const std::vector<std::uint64_t>& words) {
  double ones = 0;
  for (const std::uint64_t w : words) ones += std::popcount(w);
  const double bits = 64 * static_cast<double>(words.size());
  return std::abs(ones - bits / 2) / std::sqrt(bits / 4);
}
/// |z| of the second moment.
double variance_z(const std::vector<double>& x) {
  double squares = 0;
  for (const double v : x) squares += v * v;
  const double count = static_cast<double>(x.size());
  return std::abs(squares / count - 1) * std::sqrt(count / 2);
}
/// |z| of the mean of binomial(1000, 0.3) counts.
double mean_z(const std::vector<std::int64_t>& counts) {
  double sum = 0;
  for (const std::int64_t c : counts) sum += static_cast<double>(c) - 300;
  return std::abs(sum) / std::sqrt(static_cast<double>(counts.size()) * 210);
}

const sluice::stream run{20240607};

// What an implementation in the style of std::philox4x32 does: a block at a time, its words handed out one by one.
struct one_block_engine {
  using result_type = std::uint64_t;
  std::uint64_t key, block = 0;
  std::array<std::uint64_t, 2> words{};
  bool second = false;
  static constexpr result_type min() { return 0; }
  static constexpr result_type max() { return ~result_type{0}; }
  result_type operator()() {
    if (!second) words = sluice::detail::philox_words(key, 0, block++);
    second = !second;
    return words[second ? 0 : 1];
  }
};

constexpr auto one_block_at_a_time = [](auto& out, std::uint64_t round) {
  one_block_engine engine{run.seed() + round};
  for (auto& w : out) w = engine();
};

const auto words =
    bench::row{"sampling-primitives",
               "64-bit words in bulk",
               "words",
               {.name = "|z| of the ones among all bits", .tolerance = 5.5},
               "bulk 1.36 ns a word, one by one 3.8, mt19937_64 1.2",
               "naive: Philox one block at a time; any position in O(1), which mt19937_64 lacks"}
        .naive(variant<std::uint64_t>(one_block_at_a_time, bit_balance))
        .sluice(variant<std::uint64_t>(
            [](auto& out, std::uint64_t round) { sluice::fill_words(out, run.derive(round)); }, bit_balance))
        .peer("std::mt19937_64", variant<std::uint64_t>(
                                     [](auto& out, std::uint64_t round) {
                                       static std::mt19937_64 engine(1);
                                       if (round == 0) engine.seed(1);
                                       for (auto& w : out) w = engine();
                                     },
                                     bit_balance));

const auto sequential = bench::row{"sampling-primitives",
                                   "64-bit words of a cursor",
                                   "words",
                                   {.name = "|z| of the ones among all bits", .tolerance = 5.5},
                                   "",
                                   "naive: Philox one block at a time"}
                            .naive(variant<std::uint64_t>(one_block_at_a_time, bit_balance))
                            .sluice(variant<std::uint64_t>(
                                [](auto& out, std::uint64_t round) {
                                  sluice::cursor random(run.derive(round));
                                  for (auto& w : out) w = random();
                                },
                                bit_balance));

const auto normals =
    bench::row{"sampling-primitives",
               "normals, double",
               "normals",
               {.name = "|z| of the variance", .tolerance = 5.5},
               "",
               "naive: Box-Muller with the C library on mt19937_64"}
        .naive(variant<double>(
            [](auto& out, std::uint64_t) {
              static std::mt19937_64 engine(1);
              for (std::size_t i = 0; i < out.size(); i += 2) {
                const double radius = std::sqrt(-2 * std::log(sluice::oc53(engine())));
                const double angle = 6.283185307179586 * sluice::co53(engine());
                out[i] = radius * std::cos(angle);
                out[i + 1] = radius * std::sin(angle);
              }
            },
            variance_z))
        .sluice(variant<double>([](auto& out, std::uint64_t round) { sluice::fill_normal(out, run.derive(round)); },
                                variance_z))
        .peer("std::normal_distribution", variant<double>(
                                              [](auto& out, std::uint64_t) {
                                                static std::mt19937_64 engine(1);
                                                static std::normal_distribution<double> law;
                                                for (double& v : out) v = law(engine);
                                              },
                                              variance_z));

const auto binomials =
    bench::row{"sampling-primitives",
               "binomial counts, n = 1000, p = 0.3",
               "counts",
               {.name = "|z| of the mean", .tolerance = 5.5},
               "",
               "naive: a new std::binomial_distribution for each count, as in a multinomial"}
        .naive(variant<std::int64_t>(
            [](auto& out, std::uint64_t) {
              static std::mt19937_64 engine(1);
              for (auto& c : out) c = std::binomial_distribution<std::int64_t>(1000, 0.3)(engine);
            },
            mean_z))
        .sluice(variant<std::int64_t>(
            [](auto& out, std::uint64_t round) {
              sluice::cursor random(run.derive(round));
              for (auto& c : out) c = sluice::binomial(1000, 0.3, random);
            },
            mean_z))
        .peer("std::binomial_distribution", variant<std::int64_t>(
                                                [](auto& out, std::uint64_t) {
                                                  static std::mt19937_64 engine(1);
                                                  static std::binomial_distribution<std::int64_t> law(1000, 0.3);
                                                  for (auto& c : out) c = law(engine);
                                                },
                                                mean_z));

}  // namespace
