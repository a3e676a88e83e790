// What the tensor operations cost beside the same Eigen expressions written by hand: they should cost the same.
#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <report/row.hpp>
#include <sluice/core/tensor.hpp>
#include <string>
#include <utility>
#include <vector>

namespace {

using sluice::index_t;

// Not inlined, so that both ways are called alike and the calls cannot be merged or dropped.
template <class S>
using array = Eigen::Array<S, Eigen::Dynamic, 1>;
template <class S>
using operation = void (*)(array<S>& y, const array<S>& a, const array<S>& b, S& sum);

template <class S>
struct by_hand {
  [[gnu::noinline]] static void lincomb(array<S>& y, const array<S>& a, const array<S>& b, S&) {
    y = S(0.5) * a + S(0.25) * b;
  }
  [[gnu::noinline]] static void axpy(array<S>& y, const array<S>& a, const array<S>&, S&) { y += S(0.125) * a; }
  [[gnu::noinline]] static void scale_add(array<S>& y, const array<S>& a, const array<S>& b, S&) {
    y = S(0.75) * y + S(0.5) * a + S(0.25) * b;
  }
  [[gnu::noinline]] static void norm(array<S>&, const array<S>& a, const array<S>&, S& sum) {
    sum += a.matrix().norm();
  }
};

template <class S>
struct with_sluice {
  [[gnu::noinline]] static void lincomb(array<S>& y, const array<S>& a, const array<S>& b, S&) {
    sluice::lincomb(y, 0.5, a, 0.25, b);
  }
  [[gnu::noinline]] static void axpy(array<S>& y, const array<S>& a, const array<S>&, S&) { sluice::axpy(y, 0.125, a); }
  [[gnu::noinline]] static void scale_add(array<S>& y, const array<S>& a, const array<S>& b, S&) {
    sluice::scale_add(y, 0.75, 0.5, a, 0.25, b);
  }
  [[gnu::noinline]] static void norm(array<S>&, const array<S>& a, const array<S>&, S& sum) { sum += sluice::norm(a); }
};

template <template <class> class Way, class S>
constexpr std::array<operation<S>, 4> operations{Way<S>::lincomb, Way<S>::axpy, Way<S>::scale_add, Way<S>::norm};

constexpr std::array<index_t, 6> sizes{16, 128, 1024, 8192, 65536, 1 << 20};
constexpr index_t elements_a_size = 1 << 20;

template <class S>
struct buffers {
  explicit buffers(index_t n)
      : y(array<S>::Constant(n, S(1))), a(array<S>::Constant(n, S(2))), b(array<S>::Constant(n, S(-1))) {}
  array<S> y, a, b;
};

template <class S>
void run(operation<S> f, buffers<S>& m, index_t elements, S& sum) {
  for (index_t done = 0; done < elements; done += m.y.size()) f(m.y, m.a, m.b, sum);
  const S* data = m.y.data();
  benchmark::DoNotOptimize(data);
  benchmark::ClobberMemory();
}

/// The median over operations and sizes of time with sluice / time by hand. Each pair is measured in turns, and of each
/// side the fastest run counts, which other programs disturb least.
template <class S>
double median_ratio() {
  std::vector<double> ratios;
  S sum = 0;
  for (const index_t n : sizes) {
    buffers<S> m(n);
    for (std::size_t k = 0; k < 4; ++k) {
      std::array<double, 2> best{1e9, 1e9};
      for (int repeat = 0; repeat < 40; ++repeat)
        for (std::size_t side = 0; side < 2; ++side) {
          const auto f = side == 0 ? operations<by_hand, S>[k] : operations<with_sluice, S>[k];
          const auto start = std::chrono::steady_clock::now();
          run(f, m, elements_a_size / 4, sum);
          const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
          best[side] = std::min(best[side], taken.count());
        }
      ratios.push_back(best[1] / best[0]);
    }
  }
  benchmark::DoNotOptimize(std::as_const(sum));
  std::nth_element(ratios.begin(), ratios.begin() + std::ssize(ratios) / 2, ratios.end());
  return ratios[ratios.size() / 2];
}

template <template <class> class Way, class S>
void sweep(benchmark::State& state) {
  std::vector<buffers<S>> memory(sizes.begin(), sizes.end());
  S sum = 0;
  for (auto _ : state)
    for (buffers<S>& m : memory)
      for (const auto f : operations<Way, S>) run(f, m, elements_a_size, sum);
  benchmark::DoNotOptimize(std::as_const(sum));
  state.counters["work"] = static_cast<double>(sizes.size()) * 4 * static_cast<double>(elements_a_size);
}

template <class S>
void sweep_with_ratio(benchmark::State& state) {
  sweep<with_sluice, S>(state);
  static const double ratio = median_ratio<S>();
  state.counters["quality"] = ratio;
}

template <class S>
bench::row add(const std::string& scalar) {
  return bench::row{"tensor-operations", "lincomb, axpy, scale_add, norm; n = 16 to 2^20; " + scalar,
                    "elements",          {.name = "median time / Eigen by hand", .tolerance = 1.02},
                    "no cost",           "naive: the same Eigen expressions by hand"}
      .naive(sweep<by_hand, S>)
      .sluice(sweep_with_ratio<S>);
}
const auto registered_float = add<float>("float");
const auto registered_double = add<double>("double");

}  // namespace
