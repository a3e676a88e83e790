#include <catch2/catch.hpp>
#include <cstdint>
#include <sluice/core/thread_pool.hpp>
#include <sluice/random/distributions.hpp>
#include <vector>

// Fails for: a key chosen by the thread or the chunk, an element numbered from the start of its chunk, a shared cursor.
using namespace sluice;

TEST_CASE("fill: the same bits on 1, 2 and 3 threads", "[normal][uniform][parallel]") {
  const stream key{11};
  for (const std::size_t n : {std::size_t{100}, std::size_t{4096}, std::size_t{40001}}) {
    std::vector<double> normals_alone(n), uniforms_alone(n);
    fill_normal(normals_alone, key, 2);
    fill_uniform(uniforms_alone, key);
    for (const index_t threads : {1, 2, 3}) {
      const thread_pool pool(threads);
      std::vector<double> x(n);
      fill_normal(x, key, 2, pool);
      CHECK(x == normals_alone);
      fill_uniform(x, key, pool);
      CHECK(x == uniforms_alone);
    }
  }
}

TEST_CASE("cursor: one per item gives the same bits on 1, 2 and 3 threads", "[cursor][parallel]") {
  const stream run{12};
  const index_t items = 10000;
  const auto work = [&](const auto& executor) {
    std::vector<double> sums(static_cast<std::size_t>(items));
    for_each_chunk(
        [&](index_t first, index_t last) {
          for (index_t i = first; i < last; ++i) {
            cursor random(run.derive(static_cast<std::uint64_t>(i)));
            double sum = 0;
            for (std::uint64_t left = 1 + below(random, 40); left > 0; --left) sum += exponential(random);
            sums[static_cast<std::size_t>(i)] = sum;
          }
        },
        items, executor);
    return sums;
  };
  const std::vector<double> alone = work(serial{});
  for (const index_t threads : {1, 2, 3}) CHECK(work(thread_pool(threads)) == alone);
}
