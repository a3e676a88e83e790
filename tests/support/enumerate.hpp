#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <sluice/core/expects.hpp>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

/// Exact output laws of randomised rules: every outcome of every decision is walked through instead of sampled.
namespace support {

/// A sluice::decision_source that follows one path through the tree of decisions. A stored prefix of choices is
/// replayed; the first new request takes its first branch. Branches of probability zero are never taken, and a request
/// with one possible answer is no choice. Probabilities above 1 and below 0 mean always and never, as they do for a
/// comparison with a uniform number.
class enumerating_source {
 public:
  bool bernoulli(double p) {
    sluice::expects(!std::isnan(p), "enumerating_source", "p", p);
    if (p >= 1 || p <= 0) return p >= 1;
    return choose({p, 1 - static_cast<long double>(p)}) == 0;
  }
  std::uint64_t below(std::uint64_t n) {
    sluice::expects(n > 0 && n <= 100'000, "enumerating_source", "n", n);
    return choose(std::vector<long double>(n, 1 / static_cast<long double>(n)));
  }
  std::ptrdiff_t categorical(std::span<const double> weights) {
    std::vector<long double> probabilities;
    std::vector<std::ptrdiff_t> index;
    long double total = 0;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const auto at = static_cast<std::ptrdiff_t>(i);
      sluice::expects(weights[i] >= 0 && std::isfinite(weights[i]), "enumerating_source", "weights", weights[i], at);
      if (weights[i] == 0) continue;
      probabilities.push_back(weights[i]);
      index.push_back(at);
      total += weights[i];
    }
    sluice::expects(total > 0, "enumerating_source", "weights.total", total);
    for (long double& p : probabilities) p /= total;
    return index[choose(std::move(probabilities))];
  }

  /// Probability of the path so far.
  long double probability() const { return probability_; }
  /// Decisions on the path so far, forced ones left out.
  std::size_t decisions() const { return depth_; }

  /// Back to the root, onto the next path. False if all were walked.
  bool advance() {
    sluice::expects(depth_ == path_.size(), "enumerate", "decisions of a replayed path", depth_);
    while (!path_.empty() && path_.back().branch + 1 == path_.back().probabilities.size()) path_.pop_back();
    if (path_.empty()) return false;
    ++path_.back().branch;
    depth_ = 0;
    probability_ = 1;
    return true;
  }

 private:
  struct choice {
    std::vector<long double> probabilities;
    std::size_t branch = 0;
  };

  std::size_t choose(std::vector<long double> probabilities) {
    if (probabilities.size() == 1) return 0;
    if (depth_ == path_.size())
      path_.push_back({std::move(probabilities), 0});
    else  // a rule that asks otherwise on a replay has state of its own: its law would be nonsense
      sluice::expects(path_[depth_].probabilities == probabilities, "enumerate", "replayed decision", depth_);
    const choice& c = path_[depth_++];
    probability_ *= c.probabilities[c.branch];
    return c.branch;
  }

  std::vector<choice> path_;
  std::size_t depth_ = 0;
  long double probability_ = 1;
};

template <class Outcome>
struct enumeration {
  std::map<Outcome, double> law;  ///< outcome -> probability
  double total = 0;               ///< sum over the leaves: 1 within rounding
  std::uint64_t leaves = 0;
  std::size_t depth = 0;  ///< the most decisions on a path
  /// 0 for what cannot happen.
  double probability(const Outcome& outcome) const {
    const auto found = law.find(outcome);
    return found == law.end() ? 0 : found->second;
  }
};

/// The exact law of f(source), where f takes all its randomness from the enumerating_source& and returns an outcome
/// (an ordered type). Sums in long double. One call of f a leaf; fails if there are more than max_leaves, or if f asks
/// differently when its decisions are replayed.
template <class F>
auto enumerate(F&& f, std::uint64_t max_leaves = 5'000'000) {
  using outcome = std::decay_t<std::invoke_result_t<F&, enumerating_source&>>;
  std::map<outcome, long double> sums;
  enumeration<outcome> result;
  enumerating_source source;
  long double total = 0;
  do {
    sluice::expects(result.leaves < max_leaves, "enumerate", "leaves", result.leaves);
    outcome o = f(source);
    sums[std::move(o)] += source.probability();
    total += source.probability();
    ++result.leaves;
    if (source.decisions() > result.depth) result.depth = source.decisions();
  } while (source.advance());
  for (const auto& [o, p] : sums) result.law.emplace_hint(result.law.end(), o, static_cast<double>(p));
  result.total = static_cast<double>(total);
  return result;
}

/// The largest difference of two laws over all outcomes of either.
template <class Outcome>
double largest_difference(const std::map<Outcome, double>& a, const std::map<Outcome, double>& b) {
  double worst = 0;
  for (const auto& [o, p] : a) {
    const auto other = b.find(o);
    worst = std::fmax(worst, std::abs(p - (other == b.end() ? 0 : other->second)));
  }
  for (const auto& [o, p] : b)
    if (!a.contains(o)) worst = std::fmax(worst, std::abs(p));
  return worst;
}

/// Half the sum of the differences.
template <class Outcome>
double total_variation(const std::map<Outcome, double>& a, const std::map<Outcome, double>& b) {
  double sum = 0;
  for (const auto& [o, p] : a) {
    const auto other = b.find(o);
    sum += std::abs(p - (other == b.end() ? 0 : other->second));
  }
  for (const auto& [o, p] : b)
    if (!a.contains(o)) sum += p;
  return sum / 2;
}

}  // namespace support
