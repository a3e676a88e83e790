// Fails for: a message without the index or value; an index printed for a whole argument; an exception that std code
// cannot catch; a check that lets a wrong argument pass.
#include <catch2/catch.hpp>
#include <limits>
#include <sluice/core/expects.hpp>
#include <stdexcept>
#include <string>
#include <support/check_throws.hpp>

namespace {
std::string message(const char* function, const char* argument, double value, std::ptrdiff_t index = -1) {
  try {
    sluice::expects(false, function, argument, value, index);
  } catch (const std::invalid_argument& e) {
    return e.what();
  }
  return "nothing thrown";
}
}  // namespace

TEST_CASE("expects: the message names function, argument, index and value", "[core][expects]") {
  CHECK(message("heun", "order", 3) == "heun: order = 3");
  CHECK(message("sample", "levels", 0.5, 4) == "sample: levels[4] = 0.5");
  CHECK(message("sample", "levels", 0, 0) == "sample: levels[0] = 0");
  CHECK(message("f", "x", std::numeric_limits<double>::quiet_NaN()) == "f: x = nan");
  CHECK(message("f", "x", -std::numeric_limits<double>::infinity(), 7) == "f: x[7] = -inf");
  CHECK(message("f", "x", 0.1) == "f: x = 0.1");  // the shortest text that reads back as the same number
  CHECK(message("f", "x", 4096) == "f: x = 4096");
  CHECK(message("f", "x", std::numeric_limits<double>::lowest()) == "f: x = -1.7976931348623157e+308");
}

TEST_CASE("expects: the parts of the error can be read without parsing", "[core][expects]") {
  try {
    sluice::expects(false, "draw", "weights", -2.5, 11);
    FAIL("not thrown");
  } catch (const sluice::invalid_argument& e) {
    CHECK(std::string(e.info().function) == "draw");
    CHECK(std::string(e.info().argument) == "weights");
    CHECK(e.info().value == -2.5);
    CHECK(e.info().index == 11);
  }
}

TEST_CASE("expects: what holds changes nothing, and integers and floats are taken alike", "[core][expects]") {
  CHECK_NOTHROW(sluice::expects(true, "f", "x", 1));
  static_assert((sluice::expects(true, "f", "x", 1), true), "a check that holds is a constant expression");
  SLUICE_CHECK_THROWS(sluice::expects(false, "f", "n", std::size_t{3}), "f", "n", -1);
  SLUICE_CHECK_THROWS(sluice::expects(false, "f", "n", 2.5f, 3), "f", "n", 3);
}
