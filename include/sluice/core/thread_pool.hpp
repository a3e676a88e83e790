#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

#if defined(__cpp_exceptions)
#include <exception>
#endif

/// An executor that runs chunks on threads. No other header of sluice includes this one: pass an object of it wherever
/// an algorithm takes an executor. Results have the same bits as with `serial`, since chunks are fixed by the
/// algorithm.
namespace sluice {

/// `thread_pool pool(8);` runs chunks on eight threads: seven workers, which sleep between calls, and the caller.
/// for_each may be called by several threads at once and from within a chunk (the inner call shares the workers); it
/// returns when all its chunks are done. If chunks throw, no further ones are started and the exception of the lowest
/// index is rethrown, the one that `serial` would have thrown. Each call allocates nothing. Thread-safe; must outlive
/// its calls.
class thread_pool {
 public:
  /// n_threads >= 1, the caller included; by default one per hardware thread. Throws invalid_argument otherwise.
  explicit thread_pool(index_t n_threads = default_threads()) : thread_pool(prepared{}, n_threads) {
    // The object counts as constructed here: if a thread cannot be started, the destructor joins those that were.
    for (index_t i = 1; i < n_threads; ++i) workers_.emplace_back([this] { work(); });
  }
  thread_pool(const thread_pool&) = delete;
  thread_pool& operator=(const thread_pool&) = delete;
  ~thread_pool() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  /// Threads that run chunks, the caller included.
  index_t n_threads() const { return std::ssize(workers_) + 1; }

  /// Runs f(0) ... f(n_chunks - 1), each once, in any order and on any thread.
  template <class F>
  void for_each(index_t n_chunks, F&& f) const {
    if (n_chunks <= 0) return;
    using function = std::remove_reference_t<F>;
    job mine;
    mine.run = [](const void* callable, index_t c) {
      (*static_cast<function*>(const_cast<void*>(callable)))(c);  // const was added two lines below only
    };
    mine.callable = std::addressof(f);
    mine.n_chunks = mine.failed = n_chunks;
    if (n_chunks > 1 && !workers_.empty()) {
      const std::lock_guard lock(mutex_);
      mine.following = jobs_;
      jobs_ = &mine;
    }
    if (n_chunks > 1) wake_.notify_all();
    run_chunks(mine);
    std::unique_lock lock(mutex_);
    forget(mine);
    done_.wait(lock, [&] { return mine.helpers == 0; });
#if defined(__cpp_exceptions)
    if (mine.error) std::rethrow_exception(mine.error);
#endif
  }

 private:
  struct prepared {};
  struct job {
    void (*run)(const void*, index_t) = nullptr;
    const void* callable = nullptr;
    index_t n_chunks = 0;
    std::atomic<index_t> next{0};  // chunks start in order, so all below a failing one have started
    index_t helpers = 0;           // workers inside this job; this and all below are guarded by mutex_
    job* following = nullptr;
    index_t failed = 0;  // lowest chunk that threw
#if defined(__cpp_exceptions)
    std::exception_ptr error;
#endif
  };

  thread_pool(prepared, index_t n_threads) {
    expects(n_threads >= 1, "thread_pool", "n_threads", n_threads);
    workers_.reserve(static_cast<std::size_t>(n_threads - 1));
  }
  static index_t default_threads() {
    return std::max<index_t>(1, static_cast<index_t>(std::thread::hardware_concurrency()));
  }

  void run_chunks(job& j) const {
    for (index_t c; (c = j.next.fetch_add(1)) < j.n_chunks;) {
#if defined(__cpp_exceptions)
      try {
        j.run(j.callable, c);
      } catch (...) {
        j.next.store(j.n_chunks);
        const std::lock_guard lock(mutex_);
        if (c < j.failed) {
          j.failed = c;
          j.error = std::current_exception();
        }
      }
#else
      j.run(j.callable, c);
#endif
    }
  }

  /// Takes the job off the list, if it is still there.
  void forget(const job& j) const {
    for (job** p = &jobs_; *p; p = &(*p)->following)
      if (*p == &j) {
        *p = j.following;
        return;
      }
  }

  void work() const {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return stopping_ || jobs_; });
      if (stopping_) return;
      job& j = *jobs_;
      if (j.next.load() >= j.n_chunks) {  // all its chunks are taken; its owner waits for the last of them
        forget(j);
        continue;
      }
      ++j.helpers;
      lock.unlock();
      run_chunks(j);
      lock.lock();
      if (--j.helpers == 0) done_.notify_all();
    }
  }

  // A call leaves no trace in these, which is why for_each is const.
  mutable std::mutex mutex_;
  mutable std::condition_variable wake_, done_;
  mutable job* jobs_ = nullptr;
  bool stopping_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace sluice
