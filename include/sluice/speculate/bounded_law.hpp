#pragma once
#include <sluice/core/exp_block.hpp>
#include <sluice/random/uniform.hpp>
#include <sluice/speculate/token_law.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <span>

/// Decisions about long rows of float logits without exponentials. Writing y = (l - shift)/ln 2 into the exponent and
/// mantissa of a float gives a weight w~ with  exp(l - shift) <= w~ <= 1.0615 exp(l - shift)  (Schraudolph, "A fast,
/// compact approximation of the exponential function", Neural Computation 1999), at little more than the cost of
/// reading the row. The sum of w~ brackets the normaliser within 6.2 %, which settles most acceptance tests, since
/// their uniform rarely falls between the bounds; where it does, the exact normaliser is computed and the same uniform
/// decides. Draws propose a token from w~ and keep it with probability exp(l - shift)/w~. So the law of every decision
/// is that of the exact rows; only the time depends on the bounds.
namespace sluice::detail {

/// w~ of n <= law_block logits: their sum, as float partial sums; `unusable` becomes true if a logit is NaN or more
/// than 88 above the shift. out, if not null, receives the weights.
inline float approximate_weights(float* out, const float* x, index_t n, float shift, bool& unusable) {
  constexpr float slope = 12102203.161561485f;                                                              // 2^23/ln 2
  const float offset = static_cast<float>(1065353216.0 - static_cast<double>(shift) * 12102203.161561485);  // 127 2^23
  constexpr float lowest = 8388608.0f;  // 2^23: the smallest normal float, about exp(-87.3)
#if defined(__AVX512F__)
  const __m512 a = _mm512_set1_ps(slope), b = _mm512_set1_ps(offset), low = _mm512_set1_ps(lowest);
  __m512 sum[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
  __m512i sign[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
  const auto weight = [&](const __m512& v) {  // maxps returns its second operand if one is NaN
    return _mm512_cvtps_epi32(_mm512_max_ps(low, _mm512_fmadd_ps(v, a, b)));
  };
  index_t i = 0;
  if (out == nullptr)
    for (; i + 64 <= n; i += 64)
      for (int k = 0; k < 4; ++k) {
        const __m512i bits = weight(_mm512_loadu_ps(x + i + 16 * k));
        sign[k % 2] = _mm512_or_si512(sign[k % 2], bits);
        sum[k] = _mm512_add_ps(sum[k], _mm512_castsi512_ps(bits));
      }
  for (; i < n; i += 16) {
    const auto mask = static_cast<__mmask16>(n - i >= 16 ? 0xffff : (1 << (n - i)) - 1);
    const __m512i bits = _mm512_maskz_mov_epi32(mask, weight(_mm512_maskz_loadu_ps(mask, x + i)));
    sign[0] = _mm512_or_si512(sign[0], bits);
    sum[0] = _mm512_add_ps(sum[0], _mm512_castsi512_ps(bits));
    if (out != nullptr) _mm512_mask_storeu_ps(out + i, mask, _mm512_castsi512_ps(bits));
  }
  unusable = unusable || _mm512_movepi32_mask(_mm512_or_si512(sign[0], sign[1])) != 0;
  alignas(64) float lane[16];
  _mm512_store_ps(lane, _mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3])));
  float total = 0;
  for (const float s : lane) total += s;
  return total;
#else
  float_packet sum{};
  int_packet sign{};
  for (index_t i = 0; i < n; i += packet_size) {
    const std::size_t bytes = static_cast<std::size_t>(std::min(packet_size, n - i)) * sizeof(float);
    float_packet v = float_packet{} - std::numeric_limits<float>::infinity();
    std::memcpy(&v, x + i, bytes);
    float_packet t = v * slope + offset;
    t = t < lowest ? float_packet{} + lowest : t;  // NaN stays
    const int_packet over = t >= 2147483648.0f;    // all bits set where too large
    const int_packet nan = t != t;
    sign |= over | nan;
    t = (over | nan) != 0 ? float_packet{} : t;
    const int_packet bits = __builtin_convertvector(t, int_packet);
    float_packet w;
    std::memcpy(&w, &bits, sizeof w);
    if (bytes < sizeof v) {
      float_packet kept{};
      std::memcpy(&kept, &w, bytes);
      w = kept;
    }
    sum += w;
    if (out != nullptr) std::memcpy(out + i, &w, bytes);
  }
  float total = 0;
  for (index_t k = 0; k < packet_size; ++k) {
    total += sum[k];
    unusable = unusable || sign[k] != 0;
  }
  return total;
#endif
}

/// A long dense row of float logits with bounds on its normaliser.
class bounded_law {
 public:
  static constexpr index_t least_length = 2048;
  /// Relative slack for the rounding of w~ and of its sums: with |shift| <= 64 below 6e-5.
  static constexpr double slack = 1e-4;
  static constexpr double spread = 1.0615;

  explicit bounded_law(const token_row<float>& row) : row_(row), length_(sum_length(std::ssize(row.values))) {
    const index_t n = size();
    if (row.kind != row_kind::logits || !row.ids.empty() || n < least_length) return;
    shift_ = -std::numeric_limits<float>::infinity();
    for (index_t first = 0; first < n && !std::isfinite(shift_); first += law_block)
      shift_ = Eigen::Map<const Eigen::ArrayXf>(row.values.data() + first, std::min(law_block, n - first)).maxCoeff();
    if (!(std::abs(shift_) <= 64)) return;
    bool unusable = false;
    for (index_t b = 0; b * length_ < n; ++b) {
      double range = 0;
      const index_t end = std::min(n, (b + 1) * length_);
      for (index_t first = b * length_; first < end; first += law_block)
        range += static_cast<double>(approximate_weights(nullptr, row.values.data() + first,
                                                         std::min(law_block, end - first), shift_, unusable));
      sums_[static_cast<std::size_t>(b)] = range;
      total_ += range;
    }
    usable_ = !unusable && total_ > 0.5 && total_ < 1e30;
  }
  /// False if the row is of another kind, short, not a law, or has logits that the bounds do not cover: use token_law.
  bool usable() const { return usable_; }
  index_t size() const { return std::ssize(row_.values); }
  /// What `weight` subtracts from a logit.
  float shift() const { return shift_; }

  /// Leaves tokens out of the law: its normaliser and its draws are those of the others from here on. Distinct tokens
  /// below size(), once; a view of them. Makes the law unusable where too little is left for the bounds.
  void exclude(std::span<const token_id> tokens) {
    excluded_ = tokens;
    alignas(64) float weight[law_block];
    const auto range_of = [&](index_t k) { return tokens[static_cast<std::size_t>(k)] / length_; };
    for (index_t k = 0; k < std::ssize(tokens); ++k) {
      bool seen = false;
      for (index_t i = 0; i < k && !seen; ++i) seen = range_of(i) == range_of(k);
      if (seen) continue;
      double range = 0;
      const index_t end = std::min(size(), (range_of(k) + 1) * length_);
      for (index_t first = range_of(k) * length_; first < end; first += law_block) {
        const index_t count = std::min(law_block, end - first);
        fill(weight, first, count);
        range += static_cast<double>(Eigen::Map<const Eigen::ArrayXf>(weight, count).sum());
      }
      sums_[static_cast<std::size_t>(range_of(k))] = range;
    }
    total_ = 0;
    for (index_t b = 0; b * length_ < size(); ++b) total_ += sums_[static_cast<std::size_t>(b)];
    usable_ = usable_ && total_ > 1e-20;  // a vanishing token's w~ is 2^-126
  }

  /// exp(l_j - shift); the normaliser of these weights lies in [least_total, largest_total], and is total() exactly.
  double weight(index_t j) const {
    return std::exp(static_cast<double>(row_.values[static_cast<std::size_t>(j)]) - static_cast<double>(shift_));
  }
  double least_total() const { return exact_ ? exact_total_ : total_ / (spread * (1 + slack)); }
  double largest_total() const { return exact_ ? exact_total_ : total_ * (1 + slack); }
  /// Makes the bounds meet: one pass with exponentials.
  void refine() {
    if (exact_) return;
    const token_law<float> law(row_);
    exact_total_ = std::exp(law.log_normaliser() - static_cast<double>(shift_));
    if (!excluded_.empty()) exact_total_ *= law_without<float>(law, excluded_).mass();
    exact_ = true;
  }

  /// A token of law exp(l_j - shift) / normaliser, -1 after many refusals in a row, which a usable row does not give.
  template <word_source R>
  index_t draw(R& random) const {
    for (int tries = 0; tries < 100; ++tries) {
      alignas(64) float proposed = 0;
      const index_t j = draw_from_sums<float>(
          {sums_.data(), static_cast<std::size_t>((size() + length_ - 1) / length_)}, length_, size(),
          [this](float* out, index_t first, index_t count) { fill(out, first, count); }, random);
      if (j < 0) return -1;
      bool ignored = false;
      approximate_weights(&proposed, row_.values.data() + j, 1, shift_, ignored);
      if (co53(random()) * (1 + slack) * static_cast<double>(proposed) < weight(j)) return j;
    }
    return -1;
  }

 private:
  void fill(float* out, index_t first, index_t count) const {
    bool ignored = false;
    approximate_weights(out, row_.values.data() + first, count, shift_, ignored);
    for (const token_id x : excluded_)
      if (x >= first && x < first + count) out[x - first] = 0;
  }

  token_row<float> row_;
  std::span<const token_id> excluded_{};
  index_t length_;
  float shift_ = 0;
  bool usable_ = false, exact_ = false;
  double total_ = 0, exact_total_ = 0;
  std::array<double, static_cast<std::size_t>(law_sums)> sums_;  // of w~; the first ones are written
};

/// left/T_p < right/T_q for the normalisers T of p and q, decided from their bounds, which are refined only where they
/// do not suffice.
inline bool quotient_less(double left, bounded_law& p, double right, bounded_law& q) {
  if (left * q.largest_total() < right * p.least_total()) return true;
  if (left * q.least_total() >= right * p.largest_total()) return false;
  p.refine();
  q.refine();
  return left * q.largest_total() < right * p.largest_total();
}

/// One position of token rejection on two long rows of float logits; nothing if the bounds do not apply, and then no
/// word has been taken from `random` beyond u. The decision: accepted 1, or 0 with the correction. `fixed`: tokens that
/// were drafted with certainty beside x, so that x was drawn from q without them and the correction keeps all of p on
/// them; distinct and below the rows' length.
template <word_source R>
std::optional<verdict> reject_by_bounds(const token_row<float>& target, const token_row<float>& draft, token_id x,
                                        std::span<const token_id> fixed, double u, R& random) {
  if (target.values.size() != draft.values.size() || x < 0 || x >= std::ssize(draft.values)) return std::nullopt;
  bounded_law p(target);
  if (!p.usable()) return std::nullopt;
  bounded_law q(draft);
  if (!fixed.empty() && q.usable()) q.exclude(fixed);
  if (!q.usable()) return std::nullopt;
  const double drafted = q.weight(x);
  if (!(drafted > 0)) return std::nullopt;
  // u q(x) < p(x)
  if (quotient_less(u * drafted, q, p.weight(x), p)) return verdict{1, x};
  for (int tries = 0; tries < 32; ++tries) {
    const index_t j = p.draw(random);
    if (j < 0) break;
    if (among(fixed, static_cast<token_id>(j))) return verdict{0, static_cast<token_id>(j)};
    // keep with probability 1 - q/p: v p(j) < p(j) - q(j)  <=>  q(j) < (1 - v) p(j), v uniform
    if (quotient_less(q.weight(j), q, (1 - co53(random())) * p.weight(j), p))
      return verdict{0, static_cast<token_id>(j)};
  }
  const token_law<float> exact_p(target), exact_q(draft);
  const double rest = fixed.empty() ? 1.0 : law_without<float>(exact_q, fixed).mass();
  residual_law<float, float> residual(exact_p, exact_q, 1, 1 / std::max(rest, exact_q.probability(x)), fixed);
  residual.measure();
  return verdict{0, residual.draw_measured(random)};
}

}  // namespace sluice::detail
