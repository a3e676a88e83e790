#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <utility>
#include <vector>

/// What several drafts of one position can be, by enumeration, and the acceptance of the best verification rule as a
/// maximal flow from what was drafted to the emitted token. For vocabularies of a few tokens.
namespace support {

/// Probability of each set of drafted tokens, by bit mask. Tuples with equal sets send their flow to the same tokens,
/// so they share a node.
using drafted_sets = std::map<std::uint32_t, long double>;

inline void add_tuples(drafted_sets& sets, const std::vector<double>& q, int n, bool replacement, std::uint32_t drawn,
                       long double probability) {
  if (n == 0) {
    sets[drawn] += probability;
    return;
  }
  long double left = 0;
  for (std::size_t x = 0; x < q.size(); ++x)
    if (replacement || (drawn >> x & 1) == 0) left += q[x];
  if (!(left > 0)) {  // the support is exhausted
    sets[drawn] += probability;
    return;
  }
  for (std::size_t x = 0; x < q.size(); ++x)
    if (q[x] > 0 && (replacement || (drawn >> x & 1) == 0))
      add_tuples(sets, q, n - 1, replacement, drawn | std::uint32_t{1} << x, probability * q[x] / left);
}
/// n draws from q. Without replacement: fewer where the support is smaller.
inline drafted_sets independent_sets(const std::vector<double>& q, int n) {
  drafted_sets sets;
  add_tuples(sets, q, n, true, 0, 1);
  return sets;
}
inline drafted_sets distinct_sets(const std::vector<double>& q, int n) {
  drafted_sets sets;
  add_tuples(sets, q, n, false, 0, 1);
  return sets;
}
/// The n - 1 most probable tokens of q, lower ids first, then one draw from the rest; tokens with q = 0 never.
inline drafted_sets hybrid_sets(const std::vector<double>& q, int n) {
  std::vector<std::size_t> by_q(q.size());
  std::iota(by_q.begin(), by_q.end(), std::size_t{0});
  std::stable_sort(by_q.begin(), by_q.end(), [&](std::size_t a, std::size_t b) { return q[a] > q[b]; });
  std::uint32_t fixed = 0;
  for (std::size_t k = 0; k + 1 < static_cast<std::size_t>(n) && k < by_q.size(); ++k)
    if (q[by_q[k]] > 0) fixed |= std::uint32_t{1} << by_q[k];
  drafted_sets sets;
  add_tuples(sets, q, 1, false, fixed, 1);
  return sets;
}

/// The largest probability that the emitted token, of law p, is in the drafted set: shortest augmenting paths from a
/// source over sets and their members to a sink.
inline double best_by_flow(const std::vector<double>& p, const drafted_sets& sets) {
  const std::size_t tokens = p.size(), size = 2 + sets.size() + tokens, source = 0, sink = 1;
  std::vector<std::vector<long double>> room(size, std::vector<long double>(size, 0));
  std::size_t node = 2 + tokens;
  for (const auto& [mask, probability] : sets) {
    room[source][node] = probability;
    for (std::size_t x = 0; x < tokens; ++x)
      if ((mask >> x & 1) != 0) room[node][2 + x] = 2;
    ++node;
  }
  for (std::size_t x = 0; x < tokens; ++x) room[2 + x][sink] = p[x];
  long double flow = 0;
  while (true) {
    std::vector<std::size_t> from(size, size), queue{source};
    from[source] = source;
    for (std::size_t head = 0; head < queue.size() && from[sink] == size; ++head)
      for (std::size_t v = 0; v < size; ++v)
        if (from[v] == size && room[queue[head]][v] > 1e-17L) {
          from[v] = queue[head];
          queue.push_back(v);
        }
    if (from[sink] == size) return static_cast<double>(flow);
    long double least = std::numeric_limits<long double>::infinity();
    for (std::size_t v = sink; v != source; v = from[v]) least = std::min(least, room[from[v]][v]);
    for (std::size_t v = sink; v != source; v = from[v]) {
      room[from[v]][v] -= least;
      room[v][from[v]] += least;
    }
    flow += least;
  }
}

/// Pr(drafts within H) for every subset H of the vocabulary.
inline std::vector<long double> all_inside(const drafted_sets& sets, std::size_t tokens) {
  std::vector<long double> inside(std::size_t{1} << tokens, 0);
  for (const auto& [mask, probability] : sets)
    for (std::size_t h = 0; h < inside.size(); ++h)
      if ((mask & ~h) == 0) inside[h] += probability;
  return inside;
}
/// 1 + the minimum of P(H) - Q(H) over all subsets H.
inline double best_by_subsets(const std::vector<double>& p, const drafted_sets& sets) {
  const auto inside = all_inside(sets, p.size());
  long double best = 1;
  for (std::size_t h = 0; h < inside.size(); ++h) {
    long double mass = 1;
    for (std::size_t x = 0; x < p.size(); ++x) mass += (h >> x & 1) != 0 ? p[x] : 0.0;
    best = std::min(best, mass - inside[h]);
  }
  return static_cast<double>(best);
}

}  // namespace support
