#pragma once
#include <catch2/catch.hpp>
#include <cstddef>
#include <sluice/core/expects.hpp>
#include <string>

/// SLUICE_CHECK_THROWS(expression, function, argument, index): the expression throws sluice::invalid_argument, which
/// names this function, this argument and this index (-1: the argument is not an element of a range). Put an expression
/// that has a comma outside round brackets into round brackets. Without exceptions the macro is empty: there is nothing
/// that could be caught.
#if defined(__cpp_exceptions)
#define SLUICE_CHECK_THROWS(expression, expected_function, expected_argument, expected_index)                     \
  do {                                                                                                            \
    INFO("expected: " << (expected_function) << ": " << (expected_argument) << " at index " << (expected_index)); \
    try {                                                                                                         \
      static_cast<void>(expression);                                                                              \
      FAIL_CHECK("nothing was thrown by: " #expression);                                                          \
    } catch (const sluice::invalid_argument& error_of_check_throws) {                                             \
      INFO("what(): " << error_of_check_throws.what());                                                           \
      CHECK(std::string(error_of_check_throws.info().function) == (expected_function));                           \
      CHECK(std::string(error_of_check_throws.info().argument) == (expected_argument));                           \
      CHECK(error_of_check_throws.info().index == static_cast<std::ptrdiff_t>(expected_index));                   \
    } catch (...) {                                                                                               \
      FAIL_CHECK("something else than sluice::invalid_argument was thrown by: " #expression);                     \
    }                                                                                                             \
  } while (false)
#else
#define SLUICE_CHECK_THROWS(expression, expected_function, expected_argument, expected_index) static_cast<void>(0)
#endif
