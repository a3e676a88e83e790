// Fails for: chunks that depend on the number of threads; partial sums added in the order in which threads finish; a
// last chunk that runs past n or is left out; chunks run twice or not at all; the exception of a chunk that is not the
// lowest; an exception that leaves the pool unusable; a nested call that waits for itself.
#include <sluice/core/executor.hpp>
#include <sluice/core/thread_pool.hpp>

#include <atomic>
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <thread>
#include <vector>

using sluice::index_t;

static_assert(sluice::executor<sluice::serial> && sluice::executor<sluice::thread_pool>);
static_assert(!std::copyable<sluice::thread_pool> && !std::movable<sluice::thread_pool>);

namespace {
/// A sum whose bits depend on the order of the additions.
template <class Executor>
double sum_of_sines(index_t n, const Executor& ex) {
  return sluice::sum_chunks<double>(
      [](index_t first, index_t last) {
        double sum = 0;
        for (index_t i = first; i < last; ++i) sum += std::sin(static_cast<double>(i)) * 1e3;
        return sum;
      },
      n, ex);
}

/// Runs the chunks from the last to the first: legal, and not what serial does.
struct reversed {
  template <class F>
  void for_each(index_t n_chunks, F&& f) const {
    for (index_t c = n_chunks; c-- > 0;) f(c);
  }
};
}  // namespace

TEST_CASE("executor: chunks cover 0 ... n - 1 once, none is empty", "[core][executor]") {
  for (const index_t n : {0, 1, 4095, 4096, 4097, 8192, 10000}) {
    std::vector<int> seen(static_cast<std::size_t>(n), 0);
    index_t calls = 0;
    sluice::for_each_chunk(
        [&](index_t first, index_t last) {
          ++calls;
          CHECK(first % sluice::chunk_size == 0);
          CHECK((first < last && last <= n && last - first <= sluice::chunk_size));
          for (index_t i = first; i < last; ++i) ++seen[static_cast<std::size_t>(i)];
        },
        n);
    CHECK(calls == (n + 4095) / 4096);
    CHECK(std::count(seen.begin(), seen.end(), 1) == n);
  }
  CHECK(sluice::sum_chunks<int>([](index_t, index_t) { return 1; }, 0) == 0);
  CHECK(sum_of_sines(100'000, reversed{}) == sum_of_sines(100'000, sluice::serial{}));
}

TEST_CASE("thread_pool: the bits of a sum are those of serial, for any number of threads",
          "[core][executor][parallel]") {
  for (const index_t threads : {1, 2, 3, 8}) {
    const sluice::thread_pool pool(threads);
    CHECK(pool.n_threads() == threads);
    for (const index_t n : {0, 1, 4096, 4097, 123'457}) {
      const double expected = sum_of_sines(n, sluice::serial{});
      for (int repeat = 0; repeat < 5; ++repeat)
        CHECK(std::bit_cast<std::uint64_t>(sum_of_sines(n, pool)) == std::bit_cast<std::uint64_t>(expected));
    }
  }
}

TEST_CASE("thread_pool: every chunk runs once, on several threads", "[core][executor][parallel]") {
  const sluice::thread_pool pool(4);
  std::vector<std::atomic<int>> runs(1000);
  for (int round = 1; round <= 20; ++round) {
    pool.for_each(1000, [&](index_t c) { runs[static_cast<std::size_t>(c)].fetch_add(1); });
    for (const auto& r : runs) REQUIRE(r.load() == round);
  }
  pool.for_each(0, [](index_t) { FAIL("there is no chunk"); });
  // Two chunks that wait for each other can only end on two threads.
  std::atomic<int> arrived{0};
  std::set<std::thread::id> ids;
  std::mutex guard;
  pool.for_each(2, [&](index_t) {
    {
      const std::lock_guard lock(guard);
      ids.insert(std::this_thread::get_id());
    }
    for (++arrived; arrived.load() < 2;) std::this_thread::yield();
  });
  CHECK(ids.size() == 2);
}

TEST_CASE("thread_pool: the exception of the lowest chunk is rethrown, and the pool goes on",
          "[core][executor][parallel]") {
  for (const index_t threads : {1, 2, 3, 8}) {
    const sluice::thread_pool pool(threads);
    for (int repeat = 0; repeat < 50; ++repeat) {
      std::atomic<index_t> run{0};
      try {
        pool.for_each(400, [&](index_t c) {
          run.fetch_add(1);
          if (c == 7) std::this_thread::sleep_for(std::chrono::microseconds(50));  // later ones fail before it
          if (c >= 7) throw std::runtime_error(std::to_string(c));
        });
        FAIL("not thrown");
      } catch (const std::runtime_error& e) {
        CHECK(std::string(e.what()) == "7");
      }
      CHECK(run.load() >= 8);
      CHECK(run.load() < 400);  // a failure starts no further chunks
    }
    std::atomic<index_t> sum{0};
    pool.for_each(100, [&](index_t c) { sum.fetch_add(c); });
    CHECK(sum.load() == 4950);
    SLUICE_CHECK_THROWS(pool.for_each(10, [](index_t c) { sluice::expects(c != 3, "f", "chunk", c, c); }), "f", "chunk",
                        3);
  }
}

TEST_CASE("thread_pool: nested calls and calls from several threads share the workers", "[core][executor][parallel]") {
  const sluice::thread_pool pool(3);
  std::atomic<index_t> leaves{0};
  pool.for_each(
      8, [&](index_t) { pool.for_each(8, [&](index_t) { pool.for_each(4, [&](index_t) { leaves.fetch_add(1); }); }); });
  CHECK(leaves.load() == 8 * 8 * 4);

  const double expected = sum_of_sines(50'000, sluice::serial{});
  std::vector<double> got(4, 0);
  std::vector<std::thread> callers;
  for (std::size_t k = 0; k < got.size(); ++k) callers.emplace_back([&, k] { got[k] = sum_of_sines(50'000, pool); });
  for (std::thread& t : callers) t.join();
  for (const double g : got) CHECK(g == expected);
}

TEST_CASE("thread_pool: a function object is used where it lies, and a call allocates nothing",
          "[core][executor][parallel]") {
  const sluice::thread_pool pool(2);
  struct counting {
    std::atomic<index_t> calls{0};
    void operator()(index_t) { calls.fetch_add(1); }
  } f;  // neither copyable nor movable
  pool.for_each(10, f);
  CHECK(f.calls.load() == 10);
  pool.for_each(100, [](index_t) {});
  CHECK(support::allocations_in([&] { pool.for_each(100, f); }) == 0);
}

TEST_CASE("thread_pool: refuses fewer than one thread", "[core][executor]") {
  SLUICE_CHECK_THROWS(sluice::thread_pool(0), "thread_pool", "n_threads", -1);
  SLUICE_CHECK_THROWS(sluice::thread_pool(-3), "thread_pool", "n_threads", -1);
  CHECK(sluice::thread_pool().n_threads() >= 1);
}
