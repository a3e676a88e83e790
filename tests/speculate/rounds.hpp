#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <sluice/random/stream.hpp>
#include <sluice/random/uniform.hpp>
#include <sluice/speculate/language_model.hpp>
#include <sluice/speculate/verification.hpp>
#include <span>
#include <support/enumerate.hpp>
#include <type_traits>
#include <utility>
#include <vector>

/// Exact output laws of verification rules: all drafts times all decisions of the rule.
namespace rounds {

using sluice::index_t;
using sluice::row_kind;
using sluice::token_id;
using sluice::token_row;

/// Calls f(source), then g(result, probability), for every outcome of a randomised f.
template <class F, class G>
void all_outcomes(F&& f, G&& g) {
  support::enumerating_source random;
  do {
    const auto result = f(random);
    g(result, static_cast<double>(random.probability()));
  } while (random.advance());
}

/// How a law is written down as a row.
struct format {
  row_kind kind = row_kind::probabilities;
  bool sparse = false;
};

/// A row that owns its values, and the exact law of what it holds.
template <class S>
struct stored_row {
  row_kind kind{};
  std::vector<S> values;
  std::vector<token_id> ids;
  std::vector<double> law;

  token_row<S> view() const { return {kind, values, ids}; }
};

template <class S>
stored_row<S> store(const std::vector<double>& law, format f) {
  stored_row<S> row{f.kind, {}, {}, std::vector<double>(law.size())};
  for (std::size_t i = 0; i < law.size(); ++i) {
    const std::size_t x = f.sparse ? law.size() - 1 - i : i;  // descending ids: no order may be assumed
    if (f.sparse && law[x] == 0) continue;
    if (f.sparse) row.ids.push_back(static_cast<token_id>(x));
    row.values.push_back(static_cast<S>(f.kind == row_kind::probabilities ? law[x]
                                        : f.kind == row_kind::logits      ? std::log(law[x]) + 7.25
                                                                          : std::log(law[x])));
    row.law[x] = f.kind == row_kind::probabilities ? static_cast<double>(row.values.back())
                                                   : std::exp(static_cast<double>(row.values.back()));
  }
  double sum = 0;
  for (const double p : row.law) sum += p;
  for (double& p : row.law) p /= sum;
  return row;
}

/// A random law over v tokens; about a fraction `zeros` of them impossible.
inline std::vector<double> random_law(index_t v, sluice::stream key, double zeros = 0) {
  std::vector<double> law(static_cast<std::size_t>(v));
  double sum = 0;
  for (std::size_t x = 0; x < law.size(); ++x) {
    law[x] = std::exp(4 * sluice::co53(key.word(2 * x)));
    if (x + 1 < law.size() && sluice::co53(key.word(2 * x + 1)) < zeros) law[x] = 0;
    sum += law[x];
  }
  for (double& p : law) p /= sum;
  return law;
}

/// Conditional laws of target and draft for every prefix of length up to `gamma` over v tokens.
template <class S, class Q>
struct tables {
  index_t v, gamma;
  std::vector<stored_row<S>> target;
  std::vector<stored_row<Q>> draft;

  tables(index_t vocabulary, index_t length, sluice::stream key, double zeros, format f, format g)
      : v(vocabulary), gamma(length) {
    const auto n = first_of(gamma + 1);
    for (std::size_t c = 0; c < n; ++c) {
      target.push_back(store<S>(random_law(v, key.derive(2 * c), zeros), f));
      draft.push_back(store<Q>(random_law(v, key.derive(2 * c + 1), zeros), g));
    }
  }
  /// Number of contexts shorter than `length`: where those of that length begin.
  std::size_t first_of(index_t length) const {
    std::size_t n = 0, at = 1;
    for (index_t i = 0; i < length; ++i, at *= static_cast<std::size_t>(v)) n += at;
    return n;
  }
  std::size_t context(std::span<const token_id> prefix) const {
    std::size_t c = 0;
    for (const token_id x : prefix) c = c * static_cast<std::size_t>(v) + static_cast<std::size_t>(x);
    return first_of(std::ssize(prefix)) + c;
  }
};

/// Visits all strings of the given length.
template <class F>
void all_strings(index_t v, index_t length, F&& f) {
  std::vector<token_id> s(static_cast<std::size_t>(length), 0);
  for (;;) {
    f(std::as_const(s));
    std::size_t i = s.size();
    while (i > 0 && ++s[i - 1] == v) s[--i] = 0;
    if (i == 0) return;
  }
}

struct chain_report {
  double worst = 0;  ///< largest |emitted law - target law| of a string of length gamma + 1
  double expected_accepted = 0;
  std::vector<double> tau_law;
  int faults = 0;
};

/// The exact law of the text that one round of `rule`, completed by the target to gamma + 1 tokens, emits.
template <class Rule, class S, class Q>
chain_report enumerate_chain(const Rule& rule, const tables<S, Q>& t) {
  const auto total = static_cast<std::size_t>(t.first_of(t.gamma + 2) - t.first_of(t.gamma + 1));
  std::vector<double> law(total, 0.0), exact(total, 0.0);
  const auto number = [&](std::span<const token_id> s) { return t.context(s) - t.first_of(t.gamma + 1); };
  chain_report report;
  report.tau_law.resize(static_cast<std::size_t>(t.gamma) + 1);
  const auto probability_after = [&](std::span<const token_id> s, std::size_t from) {
    double p = 1;
    for (std::size_t i = from; i < s.size(); ++i)
      p *= t.target[t.context(s.first(i))].law[static_cast<std::size_t>(s[i])];
    return p;
  };
  all_strings(t.v, t.gamma + 1, [&](const std::vector<token_id>& s) { exact[number(s)] = probability_after(s, 0); });
  all_strings(t.v, t.gamma, [&](const std::vector<token_id>& x) {
    double drafted = 1;
    std::vector<token_row<S>> p;
    std::vector<token_row<Q>> q;
    for (std::size_t i = 0; i <= x.size(); ++i) {
      const std::size_t c = t.context(std::span(x).first(i));
      p.push_back(t.target[c].view());
      if (i == x.size()) break;
      q.push_back(t.draft[c].view());
      drafted *= t.draft[c].law[static_cast<std::size_t>(x[i])];
    }
    if (drafted == 0) return;
    const sluice::request<S, Q> r{p, q, x};
    all_outcomes([&](auto& random) { return rule.decide(r, random); },
                 [&](const sluice::decision& d, double probability) {
                   if (d.fault || d.result.next < 0) return static_cast<void>(++report.faults);
                   const auto tau = static_cast<std::size_t>(d.result.accepted);
                   report.tau_law[tau] += drafted * probability;
                   report.expected_accepted += drafted * probability * static_cast<double>(tau);
                   std::vector<token_id> head(x.begin(), x.begin() + d.result.accepted);
                   head.push_back(d.result.next);
                   all_strings(t.v, t.gamma - d.result.accepted, [&](const std::vector<token_id>& tail) {
                     std::vector<token_id> s = head;
                     s.insert(s.end(), tail.begin(), tail.end());
                     law[number(s)] += drafted * probability * probability_after(s, head.size());
                   });
                 });
  });
  for (std::size_t s = 0; s < total; ++s) report.worst = std::max(report.worst, std::abs(law[s] - exact[s]));
  return report;
}

}  // namespace rounds
