#include <catch2/catch.hpp>
#include <limits>
#include <sluice/draw/effective_sample_size.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/random/stream.hpp>
#include <support/check_throws.hpp>

#include "draw_support.hpp"

// Fails for: sum w^2 without the square of the sum; entropy in bits; the maximum not taken off log-weights.

using namespace sluice;
using namespace draw_test;

TEST_CASE("effective_sample_size: between one and n, the ends reached", "[effective_sample_size]") {
  cursor random(stream{81});
  for (int repeat = 0; repeat < 200; ++repeat) {
    std::vector<double> w(1 + below(random, 50)), l;
    for (double& v : w) v = bernoulli(random, 0.2) ? 0.0 : std::exp(30 * co53(random()));
    w[0] = 1;
    for (const double v : w) l.push_back(std::log(v) + 5000);
    const double ess = effective_sample_size(w), entropic = entropic_sample_size(w);
    REQUIRE(ess >= 1);
    REQUIRE(entropic <= static_cast<double>(w.size()));
    REQUIRE(entropic >= ess * (1 - 1e-14));
    REQUIRE(effective_sample_size_log(l) == Approx(ess).epsilon(1e-10));
    REQUIRE(entropic_sample_size_log(l) == Approx(entropic).epsilon(1e-10));
  }
  for (const double v : {5e-324, 0.1, 1e308}) {
    CHECK(effective_sample_size(std::vector<double>(77, v)) == Approx(77).epsilon(1e-14));
    CHECK(entropic_sample_size(std::vector<double>(77, v)) == Approx(77).epsilon(1e-14));
  }
  const std::vector<float> one{0, 0, 3, 0};
  CHECK(effective_sample_size(one) == 1);
  CHECK(entropic_sample_size(one) == 1);
  CHECK(effective_sample_size(std::vector<double>{1, 2, 3}) == Approx(36.0 / 14).epsilon(1e-15));
  CHECK(entropic_sample_size(std::vector<double>{1, 1, 2}) == Approx(std::pow(2.0, 1.5)).epsilon(1e-14));
  CHECK(should_resample(std::vector<double>{1, 9, 1, 0}));
  CHECK_FALSE(should_resample(std::vector<double>{1, 1, 1, 0}));
}

TEST_CASE("effective_sample_size: refuses what are not weights", "[effective_sample_size]") {
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  const char* const f = "effective_sample_size";
  const char* const g = "entropic_sample_size";
  SLUICE_CHECK_THROWS((effective_sample_size(std::vector<double>{1, -1})), f, "weights", 1);
  SLUICE_CHECK_THROWS((effective_sample_size(std::vector<double>{0, 0})), f, "weights.total", -1);
  SLUICE_CHECK_THROWS(effective_sample_size(std::vector<double>{}), f, "weights.size", -1);
  SLUICE_CHECK_THROWS((effective_sample_size_log(std::vector<double>{1, nan})), f, "log_weights", 1);
  SLUICE_CHECK_THROWS((effective_sample_size_log(std::vector<double>{-inf})), f, "log_weights.max", -1);
  SLUICE_CHECK_THROWS((entropic_sample_size(std::vector<double>{1, inf})), g, "weights", 1);
  SLUICE_CHECK_THROWS((entropic_sample_size_log(std::vector<double>{inf})), g, "log_weights", 0);
  SLUICE_CHECK_THROWS((should_resample(std::vector<double>{1}, 2)), "should_resample", "share", -1);
}
