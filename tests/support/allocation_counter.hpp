#pragma once
#include <cstdint>

/// Counts every heap allocation of the test binary. Eigen allocates with malloc, the standard library with operator
/// new: both are seen, since malloc, calloc, realloc, aligned_alloc and posix_memalign themselves are wrapped.
namespace support {

/// Allocations since the start of the program, of all threads.
std::int64_t allocations();

/// Allocations while f runs.
template <class F>
std::int64_t allocations_in(F&& f) {
  const std::int64_t before = allocations();
  f();
  return allocations() - before;
}

}  // namespace support
