#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/random/uniform.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

/// Binomial and multinomial counts. Templates over their source of randomness: a word source (cursor) draws, a decision
/// source is asked for whole laws, so that what is built on them can be enumerated.
/// The uniforms that decide are exact; the probabilities they are compared with come from the C library's exp, log1p
/// and log, so two platforms may disagree about a count with a probability of the order 1e-15 a draw.
namespace sluice {

namespace detail {

/// ln k! - (ln sqrt(2 pi k) + k ln k - k), k >= 1 an integer, within 1e-16: a table to 15, then Stirling's series.
inline double stirling_error(double k) {
  constexpr double table[] = {0,
                              0x1.4c071bcda0a5bp-4,
                              0x1.52a9b923ea649p-5,
                              0x1.c579a268d80b3p-6,
                              0x1.54a2662fd78a9p-6,
                              0x1.10b4e513fcbedp-6,
                              0x1.c6b167bebdf36p-7,
                              0x1.85d4d612e4a86p-7,
                              0x1.552805e7b3076p-7,
                              0x1.2f4871b12ab64p-7,
                              0x1.10f9d4c0743a7p-7,
                              0x1.f0593088014f8p-8,
                              0x1.c7018733aa9c6p-8,
                              0x1.a40514700f36cp-8,
                              0x1.86076c002d4a7p-8,
                              0x1.6c08f6f194a10p-8};
  if (k < 16) return table[static_cast<std::size_t>(k)];
  const double r = 1 / (k * k);
  return (1.0 / 12 - (1.0 / 360 - (1.0 / 1260 - (1.0 / 1680 - (1.0 / 1188 - r * 691 / 360360) * r) * r) * r) * r) / k;
}

/// x ln(x/m) + m - x for x, m > 0, without cancellation where x is near m.
inline double deviance(double x, double m) {
  const double d = x - m;
  if (std::abs(d) >= 0.1 * (x + m)) return x * std::log(x / m) - d;
  const double v = d / (x + m), v2 = v * v;
  double sum = d * v, power = 2 * x * v;
  for (int j = 3;; j += 2) {
    power *= v2;
    const double next = sum + power / j;
    if (next == sum) return sum;
    sum = next;
  }
}

}  // namespace detail

/// The law of the number of successes in n independent trials of probability p, prepared for many draws.
///     P(k) = n!/(k! (n-k)!) p^k (1-p)^(n-k)
/// p > 1/2 is drawn as n minus the failures. With m = n min(p, 1-p): m < 10 by inversion, one word, O(m) expected time;
/// else by transformed rejection, two words a trial and at most 1.5 trials on average, O(1). Exact up to the 53 bits of
/// the uniforms, for every n up to 2^53. Immutable after construction; the draws allocate nothing (a decision source:
/// n + 1 doubles). Measured (g++ 12 -O2, ns a draw, prepared; std::binomial_distribution):
/// n = 100, p = 0.01: 19, 44; n = 100, p = 0.3: 64, 152; n = 1e6, p = 0.9: 31, 127. Preparing takes 25 to 35.
/// Source: Hoermann, "The generation of binomial random variates", J. Stat. Comput. Simul. 46 (1993), algorithm BTRS;
/// Loader, "Fast and accurate computation of binomial probabilities" (2000). Differs: the acceptance test compares
/// Loader's form of the probabilities, since Hoermann's loses its digits for n above 1e10.
class binomial_law {
 public:
  /// Throws invalid_argument unless 0 <= n <= 2^53 and 0 <= p <= 1.
  binomial_law(std::int64_t n, double p) : n_(n), p_(p) {
    expects(n >= 0 && n <= std::int64_t{1} << 53, "binomial", "n", n);
    expects(p >= 0 && p <= 1, "binomial", "p", p);
    flipped_ = p > 0.5;
    trials_ = static_cast<double>(n);
    small_ = flipped_ ? 1 - p : p;
    const double mean = trials_ * small_, rest = 1 - small_;
    if (mean < 10) {
      first_ = std::exp(trials_ * std::log1p(-small_));
      odds_ = small_ / rest;
      return;
    }
    by_rejection_ = true;
    const double sd = std::sqrt(mean * rest);
    b_ = 1.15 + 2.53 * sd;
    a_ = -0.0873 + 0.0248 * b_ + 0.01 * small_;
    c_ = mean + 0.5;
    alpha_ = (2.83 + 5.1 / b_) * sd;
    squeeze_ = 0.92 - 4.2 / b_;
    log_mode_ = log_probability(std::floor((trials_ + 1) * small_));
  }

  std::int64_t n() const { return n_; }
  double p() const { return p_; }
  /// P(k), relative error about 1e-14 near the mode, 1e-12 where P(k) is 1e-290; 0 outside 0 ... n.
  double pmf(std::int64_t k) const {
    if (k < 0 || k > n_) return 0;
    if (small_ == 0) return k == (flipped_ ? n_ : 0) ? 1 : 0;
    return std::exp(log_probability(static_cast<double>(flipped_ ? n_ - k : k)));
  }

  /// One count. Takes no word if only one is possible (n = 0, p = 0, p = 1).
  template <random_source R>
  std::int64_t operator()(R& random) const {
    if (n_ == 0 || small_ == 0) return flipped_ ? n_ : 0;
    if constexpr (decision_source<R>) {
      std::vector<double> law(static_cast<std::size_t>(n_) + 1);
      for (std::size_t k = 0; k < law.size(); ++k) law[k] = pmf(static_cast<std::int64_t>(k));
      return static_cast<std::int64_t>(random.categorical(std::span<const double>(law)));
    } else {
      const double k = by_rejection_ ? reject(random) : invert(random);
      return flipped_ ? n_ - static_cast<std::int64_t>(k) : static_cast<std::int64_t>(k);
    }
  }

 private:
  /// ln P(k) of the law with probability small_ > 0, 0 <= k <= n.
  double log_probability(double k) const {
    const double rest = trials_ - k;
    if (k == 0) return trials_ * std::log1p(-small_);
    if (rest == 0) return trials_ * std::log(small_);
    constexpr double two_pi = 0x1.921fb54442d18p+2;
    return detail::stirling_error(trials_) - detail::stirling_error(k) - detail::stirling_error(rest) -
           detail::deviance(k, trials_ * small_) - detail::deviance(rest, trials_ * (1 - small_)) +
           0.5 * std::log(trials_ / (two_pi * k * rest));
  }

  template <class R>
  double invert(R& random) const {
    double u = co53(random()), f = first_, k = 0;
    while (u >= f) {
      // Beyond the mean with P(k) below 2^-56 what is left of u is rounding, which must not carry k to n.
      if (k == trials_ || (f < 0x1p-56 && k > trials_ * small_)) break;
      u -= f;
      f *= (trials_ - k) / (k + 1) * odds_;
      ++k;
    }
    return k;
  }

  template <class R>
  double reject(R& random) const {
    for (;;) {
      const double u = oo52(random()) - 0.5, v = oc53(random());
      const double distance = 0.5 - std::abs(u), k = std::floor((2 * a_ / distance + b_) * u + c_);
      if (distance >= 0.07 && v <= squeeze_) return k;  // inside the histogram, whatever k
      if (k < 0 || k > trials_) continue;
      if (std::log(v * alpha_ / (a_ / (distance * distance) + b_)) <= log_probability(k) - log_mode_) return k;
    }
  }

  std::int64_t n_;
  double p_, trials_ = 0, small_ = 0;
  double first_ = 0, odds_ = 0;                                            // inversion: P(0), p/(1-p)
  double a_ = 0, b_ = 0, c_ = 0, alpha_ = 0, squeeze_ = 0, log_mode_ = 0;  // rejection: the names of the source
  bool flipped_ = false, by_rejection_ = false;
};

/// One binomial count; binomial_law prepared once is faster for many. Throws as binomial_law does.
template <random_source R>
std::int64_t binomial(std::int64_t n, double p, R& random) {
  return binomial_law(n, p)(random);
}

namespace detail {
/// p_i / (1 - p_0 - ... - p_{i-1}), clamped to [0, 1]; 0 for p_i = 0.
inline double conditional_probability(double p, double rest) { return p <= 0 ? 0 : p >= rest ? 1 : p / rest; }

/// The last positive category, -1 if there is none.
inline index_t check_multinomial(std::int64_t n, std::span<const double> p) {
  expects(n >= 0 && n <= std::int64_t{1} << 53, "multinomial", "n", n);
  double sum = 0;
  index_t last = -1;
  for (index_t i = 0; i < std::ssize(p); ++i) {
    const double v = p[static_cast<std::size_t>(i)];
    expects(v >= 0 && v <= 1, "multinomial", "p", v, i);
    sum += v;
    if (v > 0) last = i;
  }
  expects(sum <= 1 + 1e-9, "multinomial", "sum of p", sum);
  expects(n == 0 || last >= 0, "multinomial", "sum of p", sum);
  return last;
}
}  // namespace detail

/// The probabilities with which multinomial_into decides: of the trials that no earlier category took, category i takes
/// each with p_i / (1 - p_0 - ... - p_{i-1}), clamped to [0, 1]. Throws as multinomial_into does.
inline std::vector<double> conditional_probabilities(std::span<const double> p) {
  detail::check_multinomial(0, p);
  std::vector<double> conditional;
  conditional.reserve(p.size());
  double rest = 1;
  for (const double v : p) {
    conditional.push_back(detail::conditional_probability(v, rest));
    rest -= v;
  }
  return conditional;
}

/// counts = how often each category occurs in n independent draws with probabilities p; they sum to n. What p lacks of
/// 1 goes to the last positive category. Two ways, chosen by the sizes alone:
///  - conditional binomials: c_i ~ Bin(n - c_0 - ... - c_{i-1}, p_i/(1 - p_0 - ... - p_{i-1})); O(K);
///  - if n < K: the n uniforms of n draws in increasing order, each from the one before (1 - u_(j+1) =
///    (1 - u_(j)) v^(1/(n-j))), merged with the running sums of p; O(K + n), one word a draw, no table to build.
/// No allocation (a decision source: see binomial_law). Throws invalid_argument, counts unchanged, unless
/// 0 <= n <= 2^53, every p_i is in [0, 1], their sum is at most 1 + 1e-9 and positive if n > 0, and the sizes agree.
/// Source: Devroye, "Non-uniform random variate generation" (1986), XI.1.4; for the ordered uniforms V.3.
template <random_source R>
void multinomial_into(std::span<std::int64_t> counts, std::int64_t n, std::span<const double> p, R& random) {
  expects(counts.size() == p.size(), "multinomial", "counts.size", counts.size());
  const index_t last = detail::check_multinomial(n, p);
  std::fill(counts.begin(), counts.end(), std::int64_t{0});
  if (n == 0) return;
  if (n < std::ssize(p)) {  // measured: the two cost the same at n = K
    if constexpr (decision_source<R>) {
      std::vector<double> law(p.begin(), p.end());
      double before = 0;
      for (index_t i = 0; i < last; ++i) before += p[static_cast<std::size_t>(i)];
      law[static_cast<std::size_t>(last)] = std::max(1 - before, 0.0);
      for (std::int64_t j = 0; j < n; ++j)
        ++counts[static_cast<std::size_t>(random.categorical(std::span<const double>(law)))];
    } else {
      double above = 1, sum = 0;  // 1 - u_(j); p_0 + ... + p_{i-1}
      std::size_t i = 0;
      sum = p[0];
      for (std::int64_t left = n; left > 0; --left) {
        const double v = oc53(random());
        above *= left == 1 ? v : std::exp(std::log(v) / static_cast<double>(left));
        while (static_cast<index_t>(i) < last && sum <= 1 - above) sum += p[++i];
        ++counts[i];
      }
    }
    return;
  }
  double rest = 1;
  for (index_t i = 0; i < last && n > 0; ++i) {
    const double v = p[static_cast<std::size_t>(i)];
    if (v > 0) {
      const std::int64_t c = binomial_law(n, detail::conditional_probability(v, rest))(random);
      counts[static_cast<std::size_t>(i)] = c;
      n -= c;
    }
    rest -= v;
  }
  counts[static_cast<std::size_t>(last)] += n;
}

/// As multinomial_into; allocates the counts.
template <random_source R>
std::vector<std::int64_t> multinomial(std::int64_t n, std::span<const double> p, R& random) {
  std::vector<std::int64_t> counts(p.size());
  multinomial_into(std::span<std::int64_t>(counts), n, p, random);
  return counts;
}

}  // namespace sluice
