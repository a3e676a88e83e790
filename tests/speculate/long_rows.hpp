#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <sluice/random/stream.hpp>
#include <sluice/random/uniform.hpp>
#include <support/statistics.hpp>
#include <vector>

/// Rows too long to enumerate, and chi-square tests of draws from them.
namespace long_rows {

inline std::vector<float> random_logits(std::size_t v, std::uint64_t id, double spread) {
  const sluice::stream key(41, id);
  std::vector<float> row(v);
  for (std::size_t x = 0; x < v; ++x)
    row[x] = static_cast<float>(spread * std::sqrt(-2 * std::log(sluice::oo52(key.word(2 * x)))) *
                                std::cos(6.283185307179586 * sluice::co53(key.word(2 * x + 1))));
  return row;
}
inline std::vector<double> law_of(const std::vector<float>& logits) {
  const double shift = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  std::vector<double> law(logits.size());
  double sum = 0;
  for (std::size_t x = 0; x < law.size(); ++x) sum += law[x] = std::exp(static_cast<double>(logits[x]) - shift);
  for (double& p : law) p /= sum;
  return law;
}
/// Tokens by class: the ten most probable alone, the others by id.
inline std::vector<std::size_t> classes(const std::vector<double>& law) {
  std::vector<std::size_t> order(law.size()), of(law.size());
  for (std::size_t x = 0; x < law.size(); ++x) order[x] = x;
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return law[a] > law[b]; });
  for (std::size_t k = 0; k < law.size(); ++k) of[order[k]] = k < 10 ? k : 10 + order[k] * 10 / law.size();
  return of;
}

/// n draws against a law, by classes.
template <class Draw>
support::test_result draws_fit(const std::vector<double>& law, int n, Draw&& draw) {
  const auto of = classes(law);
  std::vector<double> expected(20, 0.0);
  std::vector<std::uint64_t> counts(20, 0);
  for (std::size_t x = 0; x < law.size(); ++x) expected[of[x]] += law[x];
  for (int k = 0; k < n; ++k) ++counts[of[static_cast<std::size_t>(draw())]];
  return support::fits(counts, expected);
}

}  // namespace long_rows
