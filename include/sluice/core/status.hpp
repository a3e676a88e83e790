#pragma once
#include <sluice/core/tensor.hpp>

#include <cstdint>

/// How a run ended. Results are {value..., status, stats}; counters are std::int64_t.
namespace sluice {

enum class status { completed, budget_exhausted, diverged, invalid_row, stopped_by_observer };

/// The word for a status, as printed in tables.
constexpr const char* to_string(status s) {
  switch (s) {
    case status::completed:
      return "completed";
    case status::budget_exhausted:
      return "budget exhausted";
    case status::diverged:
      return "diverged";
    case status::invalid_row:
      return "invalid row";
    case status::stopped_by_observer:
      return "stopped by observer";
  }
  return "unknown";
}

/// Where a run stopped, if it did not complete; -1: does not apply.
struct stop_place {
  std::int64_t step = -1;
  index_t index = -1;
};

}  // namespace sluice
