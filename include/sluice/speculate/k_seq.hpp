#pragma once
#include <sluice/core/exp_block.hpp>
#include <sluice/core/expects.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/speculate/bounded_law.hpp>
#include <sluice/speculate/token_law.hpp>
#include <sluice/speculate/token_rejection.hpp>
#include <sluice/speculate/verification.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

/// K-SEQ, the rule of SpecTr: k independent drafts x_1, ..., x_k of one position, scanned with one division factor rho.
///
///     accept x_i  iff  rho U_i q(x_i) < p(x_i);   after k rejections  y ~ r,
///     r = p - min(q, p/rho) p_acc/beta,    beta = sum_y min(q, p/rho)(y),    p_acc = 1 - (1 - beta)^k.
///
/// A draft is accepted with probability beta, the stages together emit min(q, p/rho) p_acc/beta, and r fills up to p:
/// the emitted token has law p as soon as r >= 0, for which p_acc <= rho beta suffices. So every rho in [rho*, k] is
/// valid, rho* being the one root of F(rho) = 1 - (1 - beta)^k - rho beta in [1, k], and p_acc falls with rho: the
/// rule uses rho*, or the upper end of an interval of relative length 1e-6 (float rows; double: 1e-11) around it. At
/// rho* it accepts at least 1 - (1 - 1/k)^k > 1 - 1/e of what the best rule for k independent drafts accepts.
///
/// Rows of up to 64 values: rho* exactly (breakpoints sorted by p/q). Longer rows: beta is a concave function of 1/rho,
/// linear between the breakpoints p/q, so its values at six rho, found in one pass over both rows, enclose it
/// between the chord of an interval and the chords of the neighbours, extended; the roots of F along these lines are
/// the interval of the next pass. Two or three passes reach the limit.
///
/// Decisions are lazy and still those of one fixed rho. The intervals are nested, each is a function of the two rows
/// and k alone (not of the drafts or the uniforms), and the limit R lies in all of them. A test rho U q < p that holds
/// at the upper end of an interval holds at R, one that fails at the lower end fails at R, and where neither is the
/// case the next pass is made. So each decision is that of R, whatever the number of passes made for it, and the
/// number of words taken is that of R too: the law is the one of the rule with rho = R. The same holds for the draws of
/// the residual, since p_acc/beta lies in the same interval as R.
///
/// A draw of the residual may hit a token that was drafted (not at rho* itself, where r vanishes on all tokens that can
/// be rejected): it counts as that draft, and the walk down a tree goes on below it. Given the emitted token, the draws
/// that carry it are still i.i.d. continuations.
///
/// With `independent_paths(K, L)` and a decoder this is SpecTr's algorithm for K paths of length L: the k of a node is
/// the number of surviving paths.
/// Source: Sun et al., SpecTr (arXiv:2310.15141), k-SEQ and SpecTr. Differs: rho* by enclosing lines instead of a
/// search in a grid; lazy passes; coincidences of the residual count; p is the target and q the draft (the paper has it
/// the other way round).
namespace sluice {

namespace detail {

/// 1 - (1 - beta)^k, accurate for tiny beta.
inline double k_seq_rate(double beta, double k) { return -std::expm1(k * std::log1p(-std::clamp(beta, 0.0, 1.0))); }

inline void expects_k_seq(const char* function, std::size_t p, std::size_t q, index_t k) {
  expects(p == q, function, "q.size", q);
  expects(k >= 1, function, "k", k);
}
inline void expects_division_factor(const char* function, double rho, double most) {
  expects(rho >= 1 && rho <= most, function, "rho", rho);
}

/// F(rho) > 0 beyond its rounding error, 4 ulp of p_acc, where beta = a + b/rho.
inline bool k_seq_positive(double a, double b, double k, double rho) {
  const double given = a * rho + b;
  return k_seq_rate(a + b / rho, k) - given > 4 * std::numeric_limits<double>::epsilon() * given;
}

/// The root of F in [lo, hi] where beta = a + b/rho, a and b >= 0: the smallest rho found with F <= 4 ulp; lo if F is
/// not positive there, hi if it is positive all over. k >= 2. Newton's method in a shrinking bracket.
inline double k_seq_line_root(double a, double b, double k, double lo, double hi) {
  constexpr double eps = std::numeric_limits<double>::epsilon();
  if (!k_seq_positive(a, b, k, lo)) return lo;
  if (k_seq_positive(a, b, k, hi)) return hi;
  double x = lo + (hi - lo) / 2;
  for (int i = 0; i < 200 && hi - lo > 2 * eps * hi; ++i) {
    const double fx = k_seq_rate(a + b / x, k) - (a * x + b);
    if (std::abs(fx) <= 4 * eps * (a * x + b)) return x;
    (fx > 0 ? lo : hi) = x;
    const double beta = std::clamp(a + b / x, 0.0, 1.0);
    const double slope = -k * std::exp((k - 1) * std::log1p(-beta)) * b / (x * x) - a;
    const double next = x - fx / slope;
    x = next > lo && next < hi ? next : lo + (hi - lo) / 2;
  }
  return hi;
}

/// The root of F in [1, k] from tokens sorted by ratio p/q: with the first i ratios below rho, beta = a[i] + b[i]/rho,
/// a[i] the draft's mass of the others, b[i] the target's mass of these. a and b have one element more than ratio.
inline double k_seq_sorted_root(std::span<const double> ratio, std::span<const double> a, std::span<const double> b,
                                double k) {
  if (k <= 1) return 1;
  const auto end_of = [&](std::size_t i) { return i < ratio.size() ? std::clamp(ratio[i], 1.0, k) : k; };
  // The piece that holds the root, between the one that holds 1 and the last.
  const std::size_t start = static_cast<std::size_t>(std::lower_bound(ratio.begin(), ratio.end(), 1.0) - ratio.begin());
  std::size_t first = start, last = ratio.size();
  while (first < last) {
    const std::size_t middle = first + (last - first) / 2;
    if (k_seq_positive(a[middle], b[middle], k, end_of(middle)))
      first = middle + 1;
    else
      last = middle;
  }
  return k_seq_line_root(a[first], b[first], k, first == start ? 1.0 : end_of(first - 1), end_of(first));
}

}  // namespace detail

/// beta(rho) = sum_y min(q, p/rho)(y), the probability that one draft is accepted. Dense laws of equal length, O(V).
/// Throws invalid_argument if the lengths differ or rho is not a finite number >= 1.
inline double k_seq_beta(std::span<const double> p, std::span<const double> q, double rho) {
  detail::expects_k_seq("k_seq_beta", p.size(), q.size(), 1);
  detail::expects_division_factor("k_seq_beta", rho, std::numeric_limits<double>::max());
  double sum = 0;
  for (std::size_t y = 0; y < p.size(); ++y) sum += std::min(q[y], p[y] / rho);
  return std::min(sum, 1.0);
}

/// p_acc = 1 - (1 - beta)^k: the probability that one of k drafts is accepted. Throws invalid_argument unless beta is
/// in [0, 1] and k >= 1.
inline double k_seq_acceptance(double beta, index_t k) {
  expects(beta >= 0 && beta <= 1, "k_seq_acceptance", "beta", beta);
  expects(k >= 1, "k_seq_acceptance", "k", k);
  return detail::k_seq_rate(beta, static_cast<double>(k));
}

/// p_acc/beta, the expected number of drafts looked at; k where beta is 0. Throws like k_seq_acceptance.
inline double k_seq_stages(double beta, index_t k) {
  const double rate = k_seq_acceptance(beta, k);
  return beta > 0 ? rate / beta : static_cast<double>(k);
}

/// F(rho) = p_acc - rho beta, strictly falling wherever beta > 0; rho is valid iff F(rho) <= 0 (exactly so if some
/// token has p < rho q). Throws invalid_argument if the lengths differ, k < 1, or rho is outside [1, k] or NaN.
inline double k_seq_balance(std::span<const double> p, std::span<const double> q, index_t k, double rho) {
  detail::expects_k_seq("k_seq_balance", p.size(), q.size(), k);
  detail::expects_division_factor("k_seq_balance", rho, static_cast<double>(k));
  const double beta = k_seq_beta(p, q, rho);
  return k_seq_acceptance(beta, k) - rho * beta;
}

/// out = r = p - min(q, p/rho) p_acc/beta, not normalised; returns its sum, 1 - p_acc for a valid rho. Not clamped: a
/// negative entry says that rho is not valid, up to rounding. out may be p or q. Throws as k_seq_balance.
inline double k_seq_residual(std::span<double> out, std::span<const double> p, std::span<const double> q, index_t k,
                             double rho) {
  detail::expects_k_seq("k_seq_residual", p.size(), q.size(), k);
  detail::expects_division_factor("k_seq_residual", rho, static_cast<double>(k));
  expects(out.size() == p.size(), "k_seq_residual", "out.size", out.size());
  const double stages = k_seq_stages(k_seq_beta(p, q, rho), k);
  double sum = 0;
  for (std::size_t y = 0; y < p.size(); ++y) sum += out[y] = p[y] - std::min(q[y], p[y] / rho) * stages;
  return sum;
}

/// 1 - (1 - 1/k)^k: the part of the best acceptance that k-SEQ reaches at least, above 1 - 1/e for every k.
inline double k_seq_guarantee(index_t k) {
  expects(k >= 1, "k_seq_guarantee", "k", k);
  return detail::k_seq_rate(1 / static_cast<double>(k), static_cast<double>(k));
}

/// sum_y min(p, 1 - (1 - q)^k)(y): no rule emits one of k independent drafts more often. Dense laws.
/// Throws invalid_argument if the lengths differ or k < 1.
inline double k_seq_upper_bound(std::span<const double> p, std::span<const double> q, index_t k) {
  detail::expects_k_seq("k_seq_upper_bound", p.size(), q.size(), k);
  double sum = 0;
  for (std::size_t y = 0; y < p.size(); ++y) sum += std::min(p[y], detail::k_seq_rate(q[y], static_cast<double>(k)));
  return sum;
}

/// One pair of dense laws, prepared for many k or rho: tokens sorted by p/q with prefix sums, O(V log V) once, then
/// beta(rho) and rho*(k) in O(log V). `prepare` reuses the memory. Immutable otherwise, so threads may share it.
class k_seq_profile {
 public:
  k_seq_profile() = default;
  k_seq_profile(std::span<const double> p, std::span<const double> q) { prepare(p, q); }
  /// Throws invalid_argument if the lengths differ.
  void prepare(std::span<const double> p, std::span<const double> q) {
    expects(p.size() == q.size(), "k_seq_profile::prepare", "q.size", q.size());
    tokens_.clear();
    for (std::size_t y = 0; y < p.size(); ++y)
      if (p[y] > 0 && q[y] > 0) tokens_.push_back({p[y] / q[y], p[y], q[y]});
    std::sort(tokens_.begin(), tokens_.end(), [](const token& a, const token& b) { return a.ratio < b.ratio; });
    const std::size_t n = tokens_.size();
    ratio_.resize(n);
    draft_.assign(n + 1, 0.0);
    target_.assign(n + 1, 0.0);
    for (std::size_t i = 0; i < n; ++i) {
      ratio_[i] = tokens_[i].ratio;
      target_[i + 1] = target_[i] + tokens_[i].p;
    }
    for (std::size_t i = n; i-- > 0;) draft_[i] = draft_[i + 1] + tokens_[i].q;
  }
  /// As the function k_seq_beta.
  double beta(double rho) const {
    detail::expects_division_factor("k_seq_profile::beta", rho, std::numeric_limits<double>::max());
    const auto i = static_cast<std::size_t>(std::lower_bound(ratio_.begin(), ratio_.end(), rho) - ratio_.begin());
    return std::min(1.0, draft_.empty() ? 0.0 : draft_[i] + target_[i] / rho);
  }
  /// rho* for k drafts. Throws invalid_argument if k < 1.
  double division_factor(index_t k) const {
    expects(k >= 1, "k_seq_profile::division_factor", "k", k);
    return draft_.empty() ? 1.0 : detail::k_seq_sorted_root(ratio_, draft_, target_, static_cast<double>(k));
  }
  /// p_acc at rho*: the probability that k-SEQ emits one of k drafts.
  double acceptance(index_t k) const { return k_seq_acceptance(beta(division_factor(k)), k); }

 private:
  struct token {
    double ratio, p, q;
  };
  std::vector<token> tokens_;
  std::vector<double> ratio_, draft_, target_;
};

/// rho*: the root of F in [1, k], to F <= 4 ulp. 1 if k = 1, if q = p, or if the supports are disjoint. O(V log V),
/// allocates; for many k or without allocation see k_seq_profile. Throws invalid_argument if the lengths differ or
/// k < 1.
inline double k_seq_division_factor(std::span<const double> p, std::span<const double> q, index_t k) {
  detail::expects_k_seq("k_seq_division_factor", p.size(), q.size(), k);
  return k_seq_profile(p, q).division_factor(k);
}

namespace detail {

inline constexpr int k_seq_points = 6;  // values of rho that a pass evaluates

/// What is known about the division factor R of one pair of rows: lo <= R <= hi, and lo <= p_acc/beta at R <= hi too
/// (p_acc/beta at rho grows with rho and is rho itself at rho*). Once known(), R = hi and `stages` is p_acc/beta.
struct k_seq_interval {
  double k = 1, lo = 1, hi = 1, tolerance = 0;
  double stages = 1, beta = 1;
  bool given = false;  ///< R was not searched for: lo = hi from the start, and says nothing about p_acc/beta
  bool known = false;

  /// Where the next pass evaluates beta: n values, rising, the last one hi.
  int points(std::array<double, k_seq_points>& rho) const {
    if (hi - lo <= tolerance * hi) {
      rho[0] = hi;
      return 1;
    }
    for (int i = 0; i < k_seq_points; ++i)
      rho[static_cast<std::size_t>(i)] = lo * std::pow(hi / lo, i / (k_seq_points - 1.0));
    rho.back() = hi;
    return k_seq_points;
  }
  /// The values there: one value is final.
  void narrow(std::span<const double> rho, std::span<const double> values) {
    if (rho.size() == 1) {
      beta = std::min(values[0], 1.0);
      stages = beta > 0 ? k_seq_rate(beta, k) / beta : k;
      if (!given) stages = std::clamp(stages, lo, hi);  // against rounding: decisions made before rely on it
      lo = hi;
      known = true;
      return;
    }
    const std::size_t n = rho.size();
    std::size_t i = 0;
    while (i < n && k_seq_rate(values[i], k) > rho[i] * values[i]) ++i;
    if (i == 0 || i == n) {  // only rounding leaves the root outside
      lo = hi = std::clamp(i == 0 ? rho[0] : rho[n - 1], lo, hi);
      return;
    }
    // Along the line through two neighbours; b is the slope in 1/rho, a the value at 1/rho = 0.
    const auto root = [&](std::size_t left) {
      const double s = 1 / rho[left], t = 1 / rho[left + 1];
      const double b = std::max(0.0, (values[left] - values[left + 1]) / (s - t));
      return k_seq_line_root(std::max(0.0, values[left] - b * s), b, k, rho[i - 1], rho[i]);
    };
    const double upper = std::clamp(root(i - 1), lo, hi);
    double lower = rho[i - 1];
    if (i >= 2) lower = std::max(lower, root(i - 2));
    if (i + 1 < n) lower = std::max(lower, root(i));
    lo = std::clamp(lower, lo, upper);
    hi = upper;
  }
};

/// sums[j] += sum_i min(q[i], c[j] p[i]); p_total and q_total += the sums of p and q. n is a multiple of packet_size
/// and at most law_block.
template <int N>
void k_seq_min_sums(const float* p, const float* q, index_t n, const float* c, double* sums, double& p_total,
                    double& q_total) {
  float_packet sum[N] = {}, p_sum{}, q_sum{}, a, b;
  for (index_t i = 0; i < n; i += packet_size) {
    std::memcpy(&a, p + i, sizeof a);
    std::memcpy(&b, q + i, sizeof b);
    p_sum += a;
    q_sum += b;
    for (int j = 0; j < N; ++j) {
      const float_packet t = a * c[j];
      sum[j] += t < b ? t : b;
    }
  }
  const auto lanes = [](const float_packet& x) {
    double total = 0;
    for (index_t k = 0; k < packet_size; ++k) total += static_cast<double>(x[k]);
    return total;
  };
  for (int j = 0; j < N; ++j) sums[j] += lanes(sum[j]);
  p_total += lanes(p_sum);
  q_total += lanes(q_sum);
}
inline void k_seq_min_sums(int points, const float* p, const float* q, index_t n, const float* c, double* sums,
                           double& p_total, double& q_total) {
  if (points == 1)
    k_seq_min_sums<1>(p, q, n, c, sums, p_total, q_total);
  else
    k_seq_min_sums<k_seq_points>(p, q, n, c, sums, p_total, q_total);
}

/// exp(x - shift) of a block, padded with zeros to full packets; returns the padded length.
inline index_t k_seq_exp_padded(float* out, const float* x, index_t n, float shift) {
  exp_block(out, x, n, shift);
  const index_t padded = (n + packet_size - 1) / packet_size * packet_size;
  std::fill(out + n, out + padded, 0.0F);
  return padded;
}

/// As k_seq_min_sums on the exponentials exp(p[i] - p_shift) and exp(q[i] - q_shift) of n <= law_block logits. This is
/// the portable twin; k_seq_exp_min_sums is the one to call.
template <int N>
void k_seq_exp_min_sums_portable(const float* p, const float* q, index_t n, float p_shift, float q_shift,
                                 const float* c, double* sums, double& p_total, double& q_total) {
  alignas(64) float a[law_block], b[law_block];
  const index_t padded = k_seq_exp_padded(a, p, n, p_shift);
  k_seq_exp_padded(b, q, n, q_shift);
  k_seq_min_sums<N>(a, b, padded, c, sums, p_total, q_total);
}

#if defined(__AVX512F__)
/// The exponentials by the table of exp_block_sum, kept in registers: two thirds of the time.
template <int N>
void k_seq_exp_min_sums(const float* p, const float* q, index_t n, float p_shift, float q_shift, const float* c,
                        double* sums, double& p_total, double& q_total) {
  const __m512i low = _mm512_load_si512(exp_tables::powers.bits);
  const __m512i high = _mm512_load_si512(exp_tables::powers.bits + 16);
  const auto exponential = [&](const __m512& v, const __m512& shift) {
    const __m512 y = _mm512_min_ps(_mm512_set1_ps(88.0f), _mm512_sub_ps(v, shift));
    const __mmask16 counts = _mm512_cmp_ps_mask(y, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
    const __m512 t = _mm512_fmadd_ps(y, _mm512_set1_ps(46.16624130844683f), _mm512_set1_ps(12582912.0f));
    const __m512 k = _mm512_sub_ps(t, _mm512_set1_ps(12582912.0f));
    const __m512 r = _mm512_fnmadd_ps(k, _mm512_set1_ps(0.021660849392498290f), y);
    const __m512 e = _mm512_fmadd_ps(_mm512_fmadd_ps(r, _mm512_set1_ps(0.50000203f), _mm512_set1_ps(1.00001466f)), r,
                                     _mm512_set1_ps(1.0f));
    const __m512i bits = _mm512_castps_si512(t);
    const __m512i power = _mm512_add_epi32(_mm512_slli_epi32(bits, 18), _mm512_permutex2var_epi32(low, bits, high));
    return _mm512_maskz_mul_ps(counts, e, _mm512_castsi512_ps(power));
  };
  const __m512 ps = _mm512_set1_ps(p_shift), qs = _mm512_set1_ps(q_shift);
  __m512 sum[N], p_sum = _mm512_setzero_ps(), q_sum = _mm512_setzero_ps();
  for (int j = 0; j < N; ++j) sum[j] = _mm512_setzero_ps();
  const auto add = [&](const __m512& a, const __m512& b) {
    p_sum = _mm512_add_ps(p_sum, a);
    q_sum = _mm512_add_ps(q_sum, b);
    for (int j = 0; j < N; ++j)
      sum[j] = _mm512_add_ps(sum[j], _mm512_min_ps(b, _mm512_mul_ps(a, _mm512_set1_ps(c[j]))));
  };
  index_t i = 0;
  for (; i + 16 <= n; i += 16) add(exponential(_mm512_loadu_ps(p + i), ps), exponential(_mm512_loadu_ps(q + i), qs));
  if (i < n) {
    const auto mask = static_cast<__mmask16>((1 << (n - i)) - 1);
    add(_mm512_maskz_mov_ps(mask, exponential(_mm512_maskz_loadu_ps(mask, p + i), ps)),
        _mm512_maskz_mov_ps(mask, exponential(_mm512_maskz_loadu_ps(mask, q + i), qs)));
  }
  const auto lanes = [](const __m512& x) {
    const __m512d wide =
        _mm512_add_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(x)),
                      _mm512_cvtps_pd(_mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1))));
    return _mm512_reduce_add_pd(wide);
  };
  for (int j = 0; j < N; ++j) sums[j] += lanes(sum[j]);
  p_total += lanes(p_sum);
  q_total += lanes(q_sum);
}
#else
template <int N>
void k_seq_exp_min_sums(const float* p, const float* q, index_t n, float p_shift, float q_shift, const float* c,
                        double* sums, double& p_total, double& q_total) {
  k_seq_exp_min_sums_portable<N>(p, q, n, p_shift, q_shift, c, sums, p_total, q_total);
}
#endif

/// A draw from (p - min(q, p/rho) stages)_+ on p's n stored values, in one pass: fill(p, q, first, count) writes
/// probabilities. -1 if nothing is left.
template <class Fill, word_source R>
index_t k_seq_draw_residual(double rho, double stages, index_t n, Fill&& fill, R& random) {
  std::array<double, static_cast<std::size_t>(law_sums)> sums;
  const index_t length = sum_length(n);
  const auto weights = [&](double* out, index_t first, index_t count) {
    alignas(64) double p[law_block], q[law_block];
    fill(p, q, first, count);
    const double ratio = std::min(1.0, stages / rho);
    for (index_t j = 0; j < count; ++j) out[j] = std::max(0.0, p[j] - std::min(q[j] * stages, p[j] * ratio));
  };
  alignas(64) double weight[law_block];
  std::size_t ranges = 0;
  for (index_t b = 0; b < n; b += length) {
    double range = 0;
    for (index_t first = b; first < std::min(n, b + length); first += law_block) {
      const index_t count = std::min(law_block, n - first);
      weights(weight, first, count);
      for (index_t j = 0; j < count; ++j) range += weight[j];
    }
    sums[ranges++] = range;
  }
  return draw_from_sums<double>(std::span<const double>(sums.data(), ranges), length, n, weights, random);
}

/// Two long rows of float logits: bounds of the normalisers first, the normalisers themselves with the first pass.
class k_seq_bounded_rows {
 public:
  struct weights {
    double p, q;
  };
  k_seq_bounded_rows(const token_row<float>& target, const token_row<float>& draft)
      : target_(target), draft_(draft), p_(target), q_(p_.usable() ? draft : token_row<float>{}) {
    if (!usable()) return;
    p_least_ = p_.least_total(), p_most_ = p_.largest_total();
    q_least_ = q_.least_total(), q_most_ = q_.largest_total();
  }
  bool usable() const { return p_.usable() && q_.usable() && p_.size() == q_.size(); }
  index_t size() const { return p_.size(); }
  static token_id token(index_t j) { return static_cast<token_id>(j); }
  weights of_token(token_id x) const { return {p_.weight(x), q_.weight(x)}; }
  /// Probabilities, once exact().
  weights at(index_t j) const { return {p_.weight(j) / p_most_, q_.weight(j) / q_most_}; }
  /// Bounds of the target's normaliser over the draft's.
  double least_ratio() const { return p_least_ / q_most_; }
  double most_ratio() const { return p_most_ / q_least_; }
  bool exact() const { return exact_; }

  void pass(k_seq_interval& r) {
    std::array<double, k_seq_points> rho{}, value{};
    // Before the first pass rho is known up to the bounds of the normalisers: the points reach a little further.
    const double guess = exact_ ? q_most_ / p_most_ : std::sqrt((q_least_ * q_most_) / (p_least_ * p_most_));
    const double reach = exact_ ? 1.0 : std::sqrt((p_most_ * q_most_) / (p_least_ * q_least_));
    k_seq_interval around = r;
    around.lo /= reach;
    around.hi *= reach;
    const bool first_pass = !exact_, totals_only = first_pass && r.given;
    const int n = totals_only ? 1 : exact_ ? r.points(rho) : around.points(rho);
    if (totals_only) rho[0] = r.hi;
    float c[k_seq_points] = {};
    for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) c[i] = static_cast<float>(guess / rho[i]);
    double p_total = 0, q_total = 0;
    for (index_t first = 0; first < size(); first += law_block) {
      const index_t count = std::min(law_block, size() - first);
      const float *p = target_.values.data() + first, *q = draft_.values.data() + first;
      if (n == 1)
        k_seq_exp_min_sums<1>(p, q, count, p_.shift(), q_.shift(), c, value.data(), p_total, q_total);
      else
        k_seq_exp_min_sums<k_seq_points>(p, q, count, p_.shift(), q_.shift(), c, value.data(), p_total, q_total);
    }
    if (first_pass) {
      exact_ = true;
      p_least_ = p_most_ = p_total;
      q_least_ = q_most_ = q_total;
      if (totals_only) return;
    }
    for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
      value[i] /= q_most_;
      rho[i] = q_most_ / (p_most_ * static_cast<double>(c[i]));
    }
    r.narrow(std::span(rho).first(static_cast<std::size_t>(n)), std::span(value).first(static_cast<std::size_t>(n)));
  }

  template <word_source R>
  index_t propose(R& random) const {
    return p_.draw(random);
  }
  template <word_source R>
  index_t draw_residual(const k_seq_interval& r, R& random) const {
    return k_seq_draw_residual(
        r.hi, r.stages, size(),
        [this](double* p, double* q, index_t first, index_t count) {
          alignas(64) float w[law_block];
          exp_block(w, target_.values.data() + first, count, p_.shift());
          for (index_t j = 0; j < count; ++j) p[j] = static_cast<double>(w[j]) / p_most_;
          exp_block(w, draft_.values.data() + first, count, q_.shift());
          for (index_t j = 0; j < count; ++j) q[j] = static_cast<double>(w[j]) / q_most_;
        },
        random);
  }

 private:
  token_row<float> target_, draft_;
  bounded_law p_, q_;
  bool exact_ = false;
  double p_least_ = 0, p_most_ = 0, q_least_ = 0, q_most_ = 0;
};

/// Any two rows, by their token laws. Weights are probabilities.
template <std::floating_point S, std::floating_point Q>
class k_seq_rows {
 public:
  struct weights {
    double p, q;
  };
  k_seq_rows(const token_law<S>& p, const token_law<Q>& q) : p_(&p), q_(&q) {}
  index_t size() const { return p_->size(); }
  token_id token(index_t j) const { return p_->token(j); }
  weights of_token(token_id x) const { return {p_->probability(x), q_->probability(x)}; }
  weights at(index_t j) const { return {p_->probability_at(j), q_->probability(p_->token(j))}; }
  static double least_ratio() { return 1; }
  static double most_ratio() { return 1; }
  static bool exact() { return true; }

  void pass(k_seq_interval& r) {
    // The tokens of both supports: those of the row that stores fewer, looked up in the other.
    const bool by_draft = q_->size() < p_->size() || (q_->size() == p_->size() && q_->sparse());
    const index_t n = by_draft ? q_->size() : p_->size();
    if (!r.known && r.hi > r.lo && n <= exact_row_length) return solve(r, by_draft, n);
    std::array<double, k_seq_points> rho{}, value{};
    const int points = r.points(rho);
    const bool dense = !p_->sparse() && !q_->sparse();
    if (std::same_as<S, float> && std::same_as<Q, float> && dense && n > exact_row_length)
      add_dense_floats(rho, value, points);
    else
      for (index_t first = 0; first < n; first += law_block) {
        alignas(64) double p[law_block], q[law_block];
        const index_t count = std::min(law_block, n - first);
        fill(p, q, first, count, by_draft);
        using array = Eigen::Map<const Eigen::Array<double, Eigen::Dynamic, 1>>;
        const array a(p, count), b(q, count);
        for (std::size_t i = 0; i < static_cast<std::size_t>(points); ++i) value[i] += (a * (1 / rho[i])).min(b).sum();
      }
    r.narrow(std::span(rho).first(static_cast<std::size_t>(points)),
             std::span(value).first(static_cast<std::size_t>(points)));
  }

  template <word_source R>
  index_t propose(R& random) const {
    return p_->draw_position(random);
  }
  template <word_source R>
  index_t draw_residual(const k_seq_interval& r, R& random) const {
    return k_seq_draw_residual(
        r.hi, r.stages, size(),
        [this](double* p, double* q, index_t first, index_t count) { fill(p, q, first, count, false); }, random);
  }

 private:
  /// Probabilities of `count` stored values of the target (of the draft: by_draft) under both.
  void fill(double* p, double* q, index_t first, index_t count, bool by_draft) const {
    if (p_->sparse() || q_->sparse() || p_->size() <= exact_row_length) {
      for (index_t j = 0; j < count; ++j) {
        const index_t at = first + j;
        p[j] = by_draft ? p_->probability(q_->token(at)) : p_->probability_at(at);
        q[j] = by_draft ? q_->probability_at(at) : q_->probability(p_->token(at));
      }
      return;
    }
    alignas(64) S a[law_block];
    alignas(64) Q b[law_block];
    p_->fill_weights(a, first, count);
    q_->fill_weights(b, first, count);
    const double s = 1 / p_->weight_total(), t = 1 / q_->weight_total();
    for (index_t j = 0; j < count; ++j) p[j] = static_cast<double>(a[j]) * s;
    for (index_t j = 0; j < count; ++j) q[j] = static_cast<double>(b[j]) * t;
  }
  void add_dense_floats(std::array<double, k_seq_points>& rho, std::array<double, k_seq_points>& value, int points) {
    if constexpr (std::same_as<S, float> && std::same_as<Q, float>) {
      alignas(64) float c[k_seq_points] = {}, p[law_block], q[law_block];
      const double scale = q_->weight_total() / p_->weight_total();
      for (std::size_t i = 0; i < static_cast<std::size_t>(points); ++i) c[i] = static_cast<float>(scale / rho[i]);
      double p_total = 0, q_total = 0;
      for (index_t first = 0; first < size(); first += law_block) {
        const index_t count = std::min(law_block, size() - first);
        const index_t padded = (count + packet_size - 1) / packet_size * packet_size;
        p_->fill_weights(p, first, count);
        q_->fill_weights(q, first, count);
        std::fill(p + count, p + padded, 0.0F);
        std::fill(q + count, q + padded, 0.0F);
        k_seq_min_sums(points, p, q, padded, c, value.data(), p_total, q_total);
      }
      for (double& v : value) v /= q_->weight_total();
    }
  }
  /// rho* exactly, by the sorted ratios.
  void solve(k_seq_interval& r, bool by_draft, index_t n) const {
    constexpr auto most = static_cast<std::size_t>(exact_row_length);
    struct ratio_of {
      double ratio;
      std::size_t at;
    };
    std::array<ratio_of, most> order;
    std::array<double, most> ratio, p, q;
    std::array<double, most + 1> draft, target;
    fill(p.data(), q.data(), 0, n, by_draft);
    std::size_t m = 0;
    for (std::size_t j = 0; j < static_cast<std::size_t>(n); ++j)
      if (p[j] > 0 && q[j] > 0) order[m++] = {p[j] / q[j], j};
    std::sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(m),
              [](const ratio_of& a, const ratio_of& b) { return a.ratio < b.ratio; });
    target[0] = draft[m] = 0;
    for (std::size_t i = 0; i < m; ++i) {
      ratio[i] = order[i].ratio;
      target[i + 1] = target[i] + p[order[i].at];
    }
    for (std::size_t i = m; i-- > 0;) draft[i] = draft[i + 1] + q[order[i].at];
    const double rho =
        k_seq_sorted_root(std::span<const double>(ratio.data(), m), std::span<const double>(draft.data(), m + 1),
                          std::span<const double>(target.data(), m + 1), r.k);
    r.lo = r.hi = rho;
    double beta = 0;
    for (std::size_t j = 0; j < static_cast<std::size_t>(n); ++j) beta += std::min(q[j], p[j] / rho);
    const double one[1] = {beta}, at[1] = {rho};
    r.narrow(at, one);
  }

  const token_law<S>* p_;
  const token_law<Q>* q_;
};

}  // namespace detail

/// Where the division factor comes from.
enum class rho_policy {
  solve,       ///< rho* of the node's rows and its number of draws: accepts most
  fixed,       ///< a given number, which must be valid for the rows that it meets; checked with one pass a node
  upper_bound  ///< the number of draws: always valid, accepts least, needs a pass only for the residual
};

struct k_seq_options {
  rho_policy policy = rho_policy::solve;
  double rho = 1;  ///< rho_policy::fixed only; >= 1. Where a node has fewer draws than rho, their number is used
};

/// What the rule does with a pair of rows and k draws.
struct k_seq_plan {
  double rho = 1, beta = 1, acceptance = 1;  ///< the division factor, beta there, and p_acc
  row_fault fault{};
};

/// The node rule for independent draws; duplicates stay, each is a stage of its own. No draw: y ~ target, the draft is
/// not read; one draw: token_rejection, decision for decision. Stateless but for its options: threads may share it. No
/// allocation (a decision source: one).
///
/// Long rows of float logits are first read without exponentials, which settles what every rho in [1, k] settles;
/// otherwise a pass over both rows narrows rho to a few thousandths and a further pass is rarely needed. Other rows: a
/// pass for each normaliser and, where [1, k] leaves a decision open, one over both. Sparse rows, either side: only the
/// tokens of the shorter row, looked up in the other (ascending ids: O(log n) each).
struct k_seq {
  using draft_kind = independent_draws;
  k_seq_options options{};

  /// Faults as in recursive_rejection, and "rho" (element -1) if a fixed rho is not a number >= 1 or not valid for
  /// these rows: below rho* by more than 1e-6 (double rows: 1e-9) of p_acc.
  template <class S, class Q, random_source R>
  node_decision decide(const token_row<S>& target, const token_row<Q>& draft, std::span<const token_id> draws,
                       R& random) const {
    if (const row_fault f = check_options()) return {-1, -1, f};
    if (draws.size() <= 1) return token_rejection{}.decide(target, draft, draws, random);
    if constexpr (std::same_as<S, float> && std::same_as<Q, float> && !decision_source<R>)
      if (const auto settled = decide_by_bounds(target, draft, draws, random)) return *settled;
    const token_law<S> p(target);
    if (!p.valid()) return {-1, -1, p.fault("target", -1)};
    const token_law<Q> q(draft);
    if (!q.valid()) return {-1, -1, q.fault("draft", -1)};
    if (const row_fault f = detail::check_lengths(p, q, -1)) return {-1, -1, f};
    for (index_t i = 0; i < std::ssize(draws); ++i)
      if (const row_fault f = detail::check_token(p, q, draws[static_cast<std::size_t>(i)], i, -1)) return {-1, -1, f};
    detail::k_seq_rows<S, Q> rows(p, q);
    detail::k_seq_interval r = start<S, Q>(std::ssize(draws));
    if (const row_fault f = check_factor<S, Q>(rows, r)) return {-1, -1, f};
    if constexpr (decision_source<R>) {
      return decide_exactly(rows, r, p, draws, random);
    } else {
      node_decision d = walk(rows, r, draws, random);
      if (d.next < 0) d.next = p.draw(random);  // only rounding empties a residual after k rejections
      return with_child(d, draws);
    }
  }

  /// As decide; throws invalid_argument where it reports a defect.
  template <class S, class Q, random_source R>
  node_decision operator()(const token_row<S>& target, const token_row<Q>& draft, std::span<const token_id> draws,
                           R& random) const {
    const node_decision d = decide(target, draft, draws, random);
    detail::expects_no_fault("k_seq", d.fault);
    return d;
  }

  /// The division factor that `decide` uses for these rows and n_draws draws, and what follows from it; all passes are
  /// made. Throws invalid_argument if n_draws < 1; defects of the rows and of a fixed rho are reported as in decide.
  template <class S, class Q>
  k_seq_plan plan(const token_row<S>& target, const token_row<Q>& draft, index_t n_draws) const {
    expects(n_draws >= 1, "k_seq::plan", "n_draws", n_draws);
    k_seq_plan result;
    if ((result.fault = check_options())) return result;
    const auto finish = [&](auto& rows) {
      detail::k_seq_interval r = start<S, Q>(n_draws);
      if ((result.fault = check_factor<S, Q>(rows, r))) return;
      solve(rows, r);
      result.rho = r.hi;
      result.beta = r.beta;
      result.acceptance = detail::k_seq_rate(r.beta, r.k);
    };
    if constexpr (std::same_as<S, float> && std::same_as<Q, float>) {
      detail::k_seq_bounded_rows rows(target, draft);
      if (rows.usable() && n_draws > 1) return finish(rows), result;
    }
    const token_law<S> p(target);
    if (!p.valid()) return result.fault = p.fault("target", -1), result;
    const token_law<Q> q(draft);
    if (!q.valid()) return result.fault = q.fault("draft", -1), result;
    if ((result.fault = detail::check_lengths(p, q, -1))) return result;
    detail::k_seq_rows<S, Q> rows(p, q);
    finish(rows);
    return result;
  }

 private:
  template <class S, class Q>
  static constexpr bool single = std::same_as<S, float> || std::same_as<Q, float>;

  row_fault check_options() const {
    const bool bad =
        options.policy == rho_policy::fixed && !(options.rho >= 1 && options.rho <= std::numeric_limits<double>::max());
    return bad ? row_fault{"rho", -1, -1, options.rho} : row_fault{};
  }
  template <class S, class Q>
  detail::k_seq_interval start(index_t n_draws) const {
    detail::k_seq_interval r;
    r.k = r.hi = static_cast<double>(n_draws);
    r.tolerance = single<S, Q> ? 1e-6 : 1e-11;
    r.given = options.policy != rho_policy::solve;
    if (options.policy == rho_policy::fixed) r.hi = std::min(options.rho, r.k);
    if (r.given) r.lo = r.hi;
    return r;
  }
  /// A fixed rho below k is valid for some rows only.
  template <class S, class Q, class Rows>
  row_fault check_factor(Rows& rows, detail::k_seq_interval& r) const {
    if (options.policy != rho_policy::fixed || !(r.hi < r.k)) return {};
    while (!r.known) rows.pass(r);
    const double excess = detail::k_seq_rate(r.beta, r.k) - r.hi * r.beta;
    return excess > (single<S, Q> ? 1e-6 : 1e-9) ? row_fault{"rho", -1, -1, options.rho} : row_fault{};
  }
  template <class Rows>
  static void solve(Rows& rows, detail::k_seq_interval& r) {
    while (!r.known) rows.pass(r);
  }

  /// rho u q < p at rho = R: narrows R until the interval decides.
  template <class Rows>
  static bool accepts(Rows& rows, detail::k_seq_interval& r, token_id x, double u) {
    const auto w = rows.of_token(x);
    for (;;) {
      const double left = u * w.q;
      if (left * r.hi * rows.most_ratio() < w.p) return true;
      if (!(left * r.lo * rows.least_ratio() < w.p)) return false;
      rows.pass(r);
    }
  }

  /// The draws one after the other, then a thinned draw of the residual: y ~ p is kept with probability
  /// 1 - min(q/p, 1/rho) stages, so a try keeps y with probability r(y), and the law of a kept y is the residual's. On
  /// average there are 1/(1 - p_acc) tries, and the residual is needed with probability 1 - p_acc. After 32 failures
  /// it is drawn in one pass; the failures are independent of that draw, so the law is the same. next = -1: nothing is
  /// left.
  template <class Rows, word_source R>
  static node_decision walk(Rows& rows, detail::k_seq_interval& r, std::span<const token_id> draws, R& random) {
    for (index_t i = 0; i < std::ssize(draws); ++i) {
      const token_id x = draws[static_cast<std::size_t>(i)];
      if (accepts(rows, r, x, co53(random()))) return {i, x, {}};
    }
    while (!rows.exact() || (r.given && !r.known)) rows.pass(r);
    for (int tries = 0; tries < 32; ++tries) {
      const index_t j = rows.propose(random);
      if (j < 0) break;
      const auto w = rows.at(j);
      const double v = co53(random()) * w.p;
      for (;;) {
        const double least = r.known ? r.stages : r.lo, most = r.known ? r.stages : r.hi;
        if (v < w.p - std::min(w.q, w.p / r.lo) * most) return {-1, rows.token(j), {}};
        if (!(v < w.p - std::min(w.q, w.p / r.hi) * least)) break;
        rows.pass(r);
      }
    }
    solve(rows, r);
    const index_t j = rows.draw_residual(r, random);
    return {-1, j < 0 ? token_id{-1} : rows.token(j), {}};
  }

  template <class Rows, class P, class R>
  static node_decision decide_exactly(Rows& rows, detail::k_seq_interval& r, const P& p,
                                      std::span<const token_id> draws, R& random) {
    solve(rows, r);
    for (index_t i = 0; i < std::ssize(draws); ++i) {
      const token_id x = draws[static_cast<std::size_t>(i)];
      const auto w = rows.of_token(x);
      if (bernoulli_ratio(random, w.p, r.hi * w.q)) return {i, x, {}};
    }
    std::vector<double> weights(static_cast<std::size_t>(rows.size()));
    double sum = 0;
    for (index_t j = 0; j < rows.size(); ++j) {
      const auto w = rows.at(j);
      sum += weights[static_cast<std::size_t>(j)] = std::max(0.0, w.p - std::min(w.q, w.p / r.hi) * r.stages);
    }
    if (!(sum > 0)) return with_child({-1, p.draw(random), {}}, draws);
    return with_child({-1, rows.token(categorical(random, std::span<const double>(weights))), {}}, draws);
  }

  /// A draw of the residual that was drafted is that draft.
  static node_decision with_child(node_decision d, std::span<const token_id> draws) {
    if (d.child >= 0) return d;
    const auto found = std::find(draws.begin(), draws.end(), d.next);
    if (found != draws.end()) d.child = found - draws.begin();
    return d;
  }

  /// Nothing if the bounds do not apply; then no word has been taken.
  template <word_source R>
  std::optional<node_decision> decide_by_bounds(const token_row<float>& target, const token_row<float>& draft,
                                                std::span<const token_id> draws, R& random) const {
    if (target.values.size() != draft.values.size()) return std::nullopt;
    detail::k_seq_bounded_rows rows(target, draft);
    if (!rows.usable()) return std::nullopt;
    for (const token_id x : draws)
      if (x < 0 || x >= rows.size() || !(rows.of_token(x).q > 0)) return std::nullopt;
    detail::k_seq_interval r = start<float, float>(std::ssize(draws));
    if (const row_fault f = check_factor<float, float>(rows, r)) return node_decision{-1, -1, f};
    node_decision d = walk(rows, r, draws, random);
    if (d.next < 0) d.next = token_law<float>(target).draw(random);
    return with_child(d, draws);
  }
};

}  // namespace sluice
