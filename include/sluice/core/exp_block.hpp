#pragma once
#include <sluice/core/tensor.hpp>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

/// exp over short runs of floats or doubles, the inner loop of everything that normalises a row of logits.
///
/// Floats: exp(x) = 2^n e^r, n = round(x/ln 2), |r| <= ln(2)/2, e^r by a polynomial of degree 6 (relative error 3.1e-9
/// on that interval before rounding). At most 2 ulp for x in [-87, 88]; exactly 0 below -87, hence for -inf (Eigen's
/// float exponential returns about 1e-38 there); above 88 the value at 88; NaN stays NaN. Written with the vector types
/// that g++ and clang share, as wide as the target allows. Doubles: Eigen's exponential, exactly 0 below -708.
namespace sluice::detail {

#if defined(__AVX512F__)
inline constexpr int packet_bytes = 64;
#elif defined(__AVX__)
inline constexpr int packet_bytes = 32;
#else
inline constexpr int packet_bytes = 16;
#endif
typedef float float_packet __attribute__((vector_size(packet_bytes)));
typedef std::int32_t int_packet __attribute__((vector_size(packet_bytes)));
typedef std::uint32_t word_packet __attribute__((vector_size(packet_bytes)));
inline constexpr index_t packet_size = packet_bytes / 4;

/// x <- exp(x), element by element.
inline void exp_in_place(float_packet& x) {
  // Adding 1.5 2^23 rounds to an integer and leaves it in the low bits of the mantissa.
  constexpr float magic = 12582912.0f;
  const float_packet zero{};
  const float_packet low = x < -87.0f ? zero : zero + 1.0f;  // 0 where the result is 0; NaN compares false
  const float_packet y = x > 88.0f ? zero + 88.0f : x;
  const float_packet t = y * 1.44269504088896341f + magic;
  const float_packet n = t - magic;
  const float_packet r = (y - n * 0.693145751953125f) - n * 1.42860682030941723e-6f;
  float_packet e = r * 1.3814540173776775e-3f + 8.368745109018983e-3f;
  e = e * r + 4.166839078360695e-2f;
  e = e * r + 0.16666520399041784f;
  e = e * r + 0.49999993432129025f;
  e = e * r + 1.0f;
  e = e * r + 1.0f;
  word_packet bits;  // unsigned: wraps in the elements that become 0
  std::memcpy(&bits, &t, sizeof bits);
  bits = (bits << 23) + 0x3f800000u;
  float_packet scale;
  std::memcpy(&scale, &bits, sizeof scale);
  x = low == zero ? zero : e * scale;
}

/// out[i] = exp(x[i] - shift), i < n. shift is finite; out may be x.
inline void exp_block(float* out, const float* x, index_t n, float shift) {
  index_t i = 0;
  float_packet v;
  for (; i + packet_size <= n; i += packet_size) {
    std::memcpy(&v, x + i, sizeof v);
    v -= shift;
    exp_in_place(v);
    std::memcpy(out + i, &v, sizeof v);
  }
  if (i < n) {
    v = float_packet{};
    const std::size_t rest = static_cast<std::size_t>(n - i) * sizeof(float);
    std::memcpy(&v, x + i, rest);
    v -= shift;
    exp_in_place(v);
    std::memcpy(out + i, &v, rest);
  }
}

/// The sum of exp(x[i] - shift), i < n; meant for a few hundred elements, since the partial sums are floats. NaN
/// anywhere gives NaN; an element more than 88 above shift gives at least exp(87.9). Terms below exp(-87) are 0, as in
/// exp_block: a sum is positive exactly if one of its weights is, which draws rely on. This is the portable twin;
/// exp_block_sum is the one to call.
inline float exp_block_sum_portable(const float* x, index_t n, float shift) {
  float_packet sum[4] = {};
  float_packet v[4];
  index_t i = 0;
  for (; i + 4 * packet_size <= n; i += 4 * packet_size)
    for (int k = 0; k < 4; ++k) {
      std::memcpy(&v[k], x + i + k * packet_size, sizeof v[k]);
      v[k] -= shift;
      exp_in_place(v[k]);
      sum[k] += v[k];
    }
  for (; i < n; i += packet_size) {
    const index_t rest = std::min(packet_size, n - i);
    v[0] = float_packet{} - std::numeric_limits<float>::infinity();
    std::memcpy(&v[0], x + i, static_cast<std::size_t>(rest) * sizeof(float));
    v[0] -= shift;
    exp_in_place(v[0]);
    sum[0] += v[0];
  }
  const float_packet all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  float total = 0;
  for (index_t k = 0; k < packet_size; ++k) total += all[k];
  return total;
}

#if defined(__AVX512F__)
namespace exp_tables {
struct alignas(64) table {
  std::int32_t bits[32];
};
/// The bits of 2^(j/32), less j 2^18: adding n 2^18, n = 32 k + j, gives the bits of 2^(n/32).
inline constexpr table powers = [] {
  table t{};
  for (int j = 0; j < 32; ++j) {
    double power = 1;  // 2^(j/32) by its five binary digits
    constexpr double root[5] = {1.0218971486541166, 1.0442737824274138, 1.0905077326652577, 1.189207115002721,
                                1.4142135623730951};
    for (int k = 0; k < 5; ++k)
      if ((j >> k) % 2 == 1) power *= root[k];
    t.bits[j] = std::bit_cast<std::int32_t>(static_cast<float>(power)) - (j << 18);
  }
  return t;
}();
}  // namespace exp_tables

/// As the portable twin, with a table of 2^(j/32) in two registers and a polynomial of degree 2: half the time. With
/// y = x[i] - shift as rounded to float, a term is exp(y) with a relative error below 2.4e-7 + 2.8e-9 |y|, y in
/// [-87, 88] (the constant ln(2)/32 in float gives the slope, polynomial, table and roundings the rest). The rounding
/// of y itself is the same in both twins: up to 6e-8 |y|.
inline float exp_block_sum(const float* x, index_t n, float shift) {
  const __m512i low = _mm512_load_si512(exp_tables::powers.bits);
  const __m512i high = _mm512_load_si512(exp_tables::powers.bits + 16);
  const __m512 s = _mm512_set1_ps(shift), magic = _mm512_set1_ps(12582912.0f);
  const auto add_exp = [&](__m512& sum, const __m512& v) {
    const __m512 y = _mm512_min_ps(_mm512_set1_ps(88.0f), _mm512_sub_ps(v, s));
    const __mmask16 counts = _mm512_cmp_ps_mask(y, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);  // NaN counts
    const __m512 t = _mm512_fmadd_ps(y, _mm512_set1_ps(46.16624130844683f), magic);       // 32/ln 2
    const __m512 k = _mm512_sub_ps(t, magic);
    const __m512 r = _mm512_fnmadd_ps(k, _mm512_set1_ps(0.021660849392498290f), y);
    const __m512 e = _mm512_fmadd_ps(_mm512_fmadd_ps(r, _mm512_set1_ps(0.50000203f), _mm512_set1_ps(1.00001466f)), r,
                                     _mm512_set1_ps(1.0f));
    const __m512i bits = _mm512_castps_si512(t);
    const __m512i power = _mm512_add_epi32(_mm512_slli_epi32(bits, 18), _mm512_permutex2var_epi32(low, bits, high));
    sum = _mm512_mask3_fmadd_ps(e, _mm512_castsi512_ps(power), sum, counts);
  };
  __m512 sum[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
  index_t i = 0;
  for (; i + 64 <= n; i += 64)
    for (int k = 0; k < 4; ++k) add_exp(sum[k], _mm512_loadu_ps(x + i + 16 * k));
  for (; i < n; i += 16) {
    const index_t rest = n - i;
    const auto mask = static_cast<__mmask16>(rest >= 16 ? 0xffff : (1 << rest) - 1);
    __m512 one = _mm512_setzero_ps();
    add_exp(one, _mm512_maskz_loadu_ps(mask, x + i));
    sum[0] = _mm512_mask_add_ps(sum[0], mask, sum[0], one);
  }
  alignas(64) float lane[16];
  _mm512_store_ps(lane, _mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3])));
  float total = 0;
  for (const float v : lane) total += v;
  return total;
}
#else
inline float exp_block_sum(const float* x, index_t n, float shift) { return exp_block_sum_portable(x, n, shift); }
#endif

inline void exp_block(double* out, const double* x, index_t n, double shift) {
  using array = Eigen::Array<double, Eigen::Dynamic, 1>;
  const Eigen::Map<const array> v(x, n);
  Eigen::Map<array> y(out, n);
  y = (v - shift < -708.0).select(0.0, (v - shift).exp());
}

inline double exp_block_sum(const double* x, index_t n, double shift) {
  const Eigen::Map<const Eigen::Array<double, Eigen::Dynamic, 1>> v(x, n);
  return (v - shift < -708.0).select(0.0, (v - shift).exp()).sum();
}

}  // namespace sluice::detail
