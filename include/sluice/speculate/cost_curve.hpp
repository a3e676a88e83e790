#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/speculate/language_model.hpp>

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

/// What a call on b positions costs, measured: the curve that draft-length controllers and tree planners take.
namespace sluice {

struct cost_curve_options {
  index_t runs = 9;              ///< of every size, interleaved; their median counts; at least 1
  double seconds_a_run = 50e-6;  ///< a call is repeated within a run until a run of size 1 takes about this long
};

/// seconds[b - 1]: the median time of call(b), b = 1 ... positions. The sizes are interleaved, up and down in turn, so
/// that a slow moment of the machine meets all of them; one round before the first is not counted. Throws
/// invalid_argument if positions < 1, options.runs < 1 or options.seconds_a_run is negative or not a number.
template <class Clock = std::chrono::steady_clock, std::invocable<index_t> F>
std::vector<double> measured_seconds(F&& call, index_t positions, const cost_curve_options& options = {}) {
  constexpr const char* me = "measured_seconds";
  expects(positions >= 1, me, "positions", positions);
  expects(options.runs >= 1, me, "options.runs", options.runs);
  expects(options.seconds_a_run >= 0, me, "options.seconds_a_run", options.seconds_a_run);
  constexpr index_t most_repeats = 1000;
  index_t repeats = 1;
  const auto time = [&](index_t b) {
    const auto start = Clock::now();
    for (index_t i = 0; i < repeats; ++i) call(b);
    return std::chrono::duration<double>(Clock::now() - start).count() / static_cast<double>(repeats);
  };
  for (index_t b = positions; b >= 1; --b) {
    const double once = time(b);
    if (b == 1 && once < options.seconds_a_run)
      repeats = once * most_repeats <= options.seconds_a_run
                    ? most_repeats
                    : std::max<index_t>(1, static_cast<index_t>(options.seconds_a_run / once + 0.5));
  }
  const auto n = static_cast<std::size_t>(options.runs);
  std::vector<double> times(static_cast<std::size_t>(positions) * n), seconds;
  for (std::size_t run = 0; run < n; ++run)
    for (index_t i = 0; i < positions; ++i) {
      const index_t b = run % 2 == 0 ? i : positions - 1 - i;
      times[static_cast<std::size_t>(b) * n + run] = time(b + 1);
    }
  for (auto row = times.begin(); row != times.end(); row += options.runs) {
    const auto middle = row + options.runs / 2;
    std::nth_element(row, middle, row + options.runs);
    const double upper = *middle;
    seconds.push_back(n % 2 == 1 ? upper : (upper + *std::max_element(row, middle)) / 2);
  }
  return seconds;
}

/// [b - 1] = t(b) / t(1), b = 1 ... positions, for `call_costs::target_curve` and the options of the controllers. As
/// measured: noise may make it fall here and there. If t(1) is below the clock's resolution, all ratios are 1. Throws
/// as measured_seconds.
template <class Clock = std::chrono::steady_clock, std::invocable<index_t> F>
std::vector<double> measured_cost_curve(F&& call, index_t positions, const cost_curve_options& options = {}) {
  std::vector<double> curve = measured_seconds<Clock>(call, positions, options);
  const double one = curve.front();
  for (double& t : curve) t = one > 0 && t > 0 ? t / one : 1.0;
  return curve;
}

/// The curve of a language model that stands before its token `last`, the last committed one: scores `last` (tree node
/// 0) and then, as often as needed, chains of b nodes below it, rows included. Afterwards node 0 alone is left, as
/// after keep({}). Throws as measured_seconds, and what the model throws.
template <class Clock = std::chrono::steady_clock, language_model M>
std::vector<double> measured_target_curve(M& model, token_id last, index_t positions,
                                          const cost_curve_options& options = {}) {
  expects(positions >= 1, "measured_target_curve", "positions", positions);
  std::vector<token_tree> chains(static_cast<std::size_t>(positions) + 1);
  for (std::size_t b = 0; b < chains.size(); ++b) {
    chains[b].token.assign(b + 1, last);
    for (std::size_t i = 0; i <= b; ++i) chains[b].parent.push_back(static_cast<index_t>(i) - 1);
  }
  model.score(std::as_const(chains[0]), 0);
  std::vector<double> curve = measured_cost_curve<Clock>(
      [&](index_t b) {
        model.score(std::as_const(chains[static_cast<std::size_t>(b)]), 1);
        for (index_t i = 1; i <= b; ++i) static_cast<void>(model.row(i));
      },
      positions, options);
  model.keep(std::span<const index_t>());
  return curve;
}

}  // namespace sluice
