#pragma once
#include <cstddef>
#include <cstdlib>
#include <string>

#if defined(__cpp_exceptions)
#include <charconv>
#include <stdexcept>
#endif

/// Preconditions. A wrong argument of a call is reported before anything has changed, with the function, the argument,
/// the index of the first offender and its value. What a user's callable returns later is a `status`, never a throw.
///
/// With exceptions (the default) `sluice::invalid_argument` is thrown; it is the only exception that sluice throws
/// itself. Without exceptions the process aborts, unless `SLUICE_ERROR_HANDLER` names a function, declared in the
/// global namespace before the first sluice header: `[[noreturn]] void handler(const sluice::error_info&);` It must be
/// the same in all translation units of a program.
namespace sluice {

/// What was wrong: `index` is -1 if the argument is not an element of a range.
struct error_info {
  const char* function;
  const char* argument;
  double value;
  std::ptrdiff_t index;
};

}  // namespace sluice

#ifdef SLUICE_ERROR_HANDLER
[[noreturn]] void SLUICE_ERROR_HANDLER(const sluice::error_info&);
#endif

namespace sluice {

#if defined(__cpp_exceptions)
namespace detail {
inline std::string describe(const error_info& e) {
  char number[64];
  const auto printed = std::to_chars(number, number + sizeof number, e.value);
  std::string text = std::string(e.function) + ": " + e.argument;
  if (e.index >= 0) text += '[' + std::to_string(e.index) + ']';
  return text + " = " + std::string(number, printed.ptr);
}
}  // namespace detail

/// The caller's mistake; `what()` reads like "sample: levels[4] = 0.5". The arguments are unchanged.
class invalid_argument : public std::invalid_argument {
 public:
  explicit invalid_argument(const error_info& e) : std::invalid_argument(detail::describe(e)), info_(e) {}
  const error_info& info() const noexcept { return info_; }

 private:
  error_info info_;
};
#endif

namespace detail {
[[noreturn]] inline void fail(const error_info& e) {
#ifdef SLUICE_ERROR_HANDLER
  ::SLUICE_ERROR_HANDLER(e);
#elif defined(__cpp_exceptions)
  throw invalid_argument(e);
#else
  static_cast<void>(e);
  std::abort();
#endif
}
}  // namespace detail

/// Fails unless `ok`: names `function` and `argument` (string literals), the value, and the index if it is an element.
template <class V>
constexpr void expects(bool ok, const char* function, const char* argument, V value, std::ptrdiff_t index = -1) {
  if (!ok) [[unlikely]]
    detail::fail({function, argument, static_cast<double>(value), index});
}

}  // namespace sluice
