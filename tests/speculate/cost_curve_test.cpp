#include <catch2/catch.hpp>
#include <chrono>
#include <cstdint>
#include <limits>
#include <sluice/speculate/cost_curve.hpp>
#include <stdexcept>
#include <support/check_throws.hpp>
#include <support/table_language_model.hpp>
#include <vector>

// Fails for: the mean or the minimum in place of the median; the first round counted; a size left out or timed twice in
// a run; times of repeated calls not divided; ratios to another size than 1; the root scored again with every chain; a
// chain of b + 1 nodes; nodes left in the model.

using namespace sluice;

namespace {

/// Time is what the calls say it is.
struct scripted_clock {
  using duration = std::chrono::nanoseconds;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<scripted_clock>;
  static inline std::int64_t nanoseconds = 0;
  static time_point now() { return time_point(duration(nanoseconds)); }
};

/// A table model whose calls take 1 ms and 0.25 ms a node.
struct slow_model : support::table_language_model<double> {
  using table_language_model::table_language_model;
  void score(const token_tree& tree, index_t first_new) {
    table_language_model::score(tree, first_new);
    most = std::max(most, std::ssize(tree.token));
    scripted_clock::nanoseconds += 1'000'000 + 250'000 * (std::ssize(tree.token) - first_new);
  }
  index_t most = 0;
};

}  // namespace

TEST_CASE("cost_curve: the median of every size, the first round left out", "[cost_curve]") {
  std::vector<int> calls(4);
  const auto call = [&](index_t b) {
    const int n = calls[static_cast<std::size_t>(b)]++;  // 0: not counted; then one slow, one fast, three usual runs
    scripted_clock::nanoseconds += b * 1'000'000 * (n == 0 ? 1000 : n == 2 ? 50 : n == 4 ? 1 : 10);
  };
  const std::vector<double> seconds = measured_seconds<scripted_clock>(call, 3, {.runs = 5});
  REQUIRE(seconds.size() == 3);
  for (index_t b = 1; b <= 3; ++b) {
    CHECK(seconds[static_cast<std::size_t>(b - 1)] == Approx(0.01 * static_cast<double>(b)).epsilon(1e-12));
    CHECK(calls[static_cast<std::size_t>(b)] == 6);
  }
}

TEST_CASE("cost_curve: an even number of runs has the mean of the middle two", "[cost_curve]") {
  int n = 0;
  const auto call = [&](index_t) { scripted_clock::nanoseconds += 1'000'000 * (n++ == 0 ? 7 : 1 << n); };
  CHECK(measured_seconds<scripted_clock>(call, 1, {.runs = 4})[0] == Approx(1e-3 * (8 + 16) / 2).epsilon(1e-12));
}

TEST_CASE("cost_curve: sizes are interleaved, up and down in turn", "[cost_curve]") {
  std::vector<index_t> order;
  const auto call = [&](index_t b) {
    order.push_back(b);
    scripted_clock::nanoseconds += 1'000'000;
  };
  static_cast<void>(measured_seconds<scripted_clock>(call, 3, {.runs = 2}));
  CHECK(order == std::vector<index_t>{3, 2, 1, 1, 2, 3, 3, 2, 1});
}

TEST_CASE("cost_curve: short calls are repeated within a run", "[cost_curve]") {
  std::int64_t calls = 0;
  const auto call = [&](index_t b) {
    ++calls;
    scripted_clock::nanoseconds += 1000 * b;
  };
  const std::vector<double> seconds = measured_seconds<scripted_clock>(call, 2, {.runs = 3, .seconds_a_run = 50e-6});
  CHECK(calls == 2 + 3 * 2 * 50);
  CHECK(seconds[0] == Approx(1e-6).epsilon(1e-9));
  CHECK(seconds[1] == Approx(2e-6).epsilon(1e-9));
}

TEST_CASE("cost_curve: ratios, and a clock that stands still", "[cost_curve]") {
  const auto call = [](index_t b) { scripted_clock::nanoseconds += 1'000'000 * (3 + b); };
  CHECK(measured_cost_curve<scripted_clock>(call, 3, {}) == std::vector<double>{1, 1.25, 1.5});
  const auto nothing = [](index_t) {};
  CHECK(measured_cost_curve<scripted_clock>(nothing, 3, {}) == std::vector<double>{1, 1, 1});
}

TEST_CASE("cost_curve: a language model is scored on b nodes below its last token, and left as it was",
          "[cost_curve]") {
  slow_model model(5, 2, 1);
  const std::vector<token_id> text{3, 1, 4};
  model.reset(text);
  const std::vector<double> curve = measured_target_curve<scripted_clock>(model, 4, 6, {.runs = 3});
  REQUIRE(curve.size() == 6);
  for (std::size_t i = 0; i < 6; ++i)
    CHECK(curve[i] == Approx((1 + 0.25 * static_cast<double>(i + 1)) / 1.25).epsilon(1e-12));
  CHECK(model.calls == 1 + 4 * 6);
  CHECK(model.scored == 1 + 4 * 21);
  CHECK(model.rows_read == 4 * 21);
  CHECK(model.most == 7);
  CHECK(model.kept == 0);
  CHECK_THROWS_AS(model.row(1), std::logic_error);  // node 0 alone is left
  model.score({{4, 2}, {-1, 0}}, 1);                // goes on from node 0
  CHECK(model.row(1).values[0] == model.law(std::vector<token_id>{1, 4, 2})[0]);
}

TEST_CASE("cost_curve: refuses wrong numbers", "[cost_curve]") {
  const auto call = [](index_t) {};
  slow_model model(5, 2, 1);
  SLUICE_CHECK_THROWS(measured_seconds(call, 0), "measured_seconds", "positions", -1);
  SLUICE_CHECK_THROWS((measured_seconds(call, 1, {.runs = 0})), "measured_seconds", "options.runs", -1);
  SLUICE_CHECK_THROWS((measured_seconds(call, 1, {.runs = 1, .seconds_a_run = -1})), "measured_seconds",
                      "options.seconds_a_run", -1);
  SLUICE_CHECK_THROWS((measured_seconds(call, 1, {1, std::numeric_limits<double>::quiet_NaN()})), "measured_seconds",
                      "options.seconds_a_run", -1);
  SLUICE_CHECK_THROWS(measured_target_curve(model, 0, 0), "measured_target_curve", "positions", -1);
  CHECK(model.calls == 0);
}
