#pragma once
#include <sluice/core/tensor.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <numeric>
#include <vector>

/// Executors. The algorithm fixes the chunks, writes results by index and combines them in order, so that the bits are
/// the same on every executor. An executor only runs f(0) ... f(n_chunks - 1), in any order and on any thread, and
/// rethrows the exception of the lowest index. `serial` is the default; threads live in core/thread_pool.hpp.
namespace sluice {

/// Items in a chunk, the same on every executor.
inline constexpr index_t chunk_size = 4096;

/// Runs the chunks in order on the calling thread.
struct serial {
  template <class F>
  void for_each(index_t n_chunks, F&& f) const {
    for (index_t c = 0; c < n_chunks; ++c) f(c);
  }
};

template <class E>
concept executor = requires(const E& e, void (*f)(index_t)) {
  e.for_each(index_t{}, f);
};

/// Runs f(first, last) on the chunks [first, last) of 0 ... n - 1.
template <class F, executor Executor = serial>
void for_each_chunk(F&& f, index_t n, const Executor& ex = {}) {
  ex.for_each((n + chunk_size - 1) / chunk_size,
              [&](index_t c) { f(c * chunk_size, std::min(n, (c + 1) * chunk_size)); });
}

/// Sum over the chunks of f(first, last), added in the order of the chunks: bit-equal on every executor.
/// Allocates one T for each chunk.
template <class T, class F, executor Executor = serial>
T sum_chunks(F&& f, index_t n, const Executor& ex = {}) {
  std::vector<T> part(static_cast<std::size_t>((n + chunk_size - 1) / chunk_size));
  ex.for_each(std::ssize(part), [&](index_t c) {
    part[static_cast<std::size_t>(c)] = f(c * chunk_size, std::min(n, (c + 1) * chunk_size));
  });
  return std::accumulate(part.begin(), part.end(), T{});
}

}  // namespace sluice
