#pragma once
#include <cmath>
#include <cstddef>
#include <cstring>
#include <type_traits>

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>
#endif

/// Packets: a register full of floats or doubles, for kernels that keep their sums in registers.
///
/// Every packet has `scalar`, `lanes`, load(p), broadcast(p), store(p) and add_product(a, b), lane by lane. Memory need
/// not be aligned; one that is aligned to 64 bytes is faster. Packets of the same build round alike, whatever their
/// width: add_product rounds once where the target has fused multiply-add, and twice where it has not.
///
/// load() keeps what it read in a register: g++ otherwise makes it an operand of every add_product that uses it, and
/// the same weights are read once for each position (4 positions of 2048 x 512 floats on Zen 4: 100 microseconds for
/// 72).
namespace sluice::detail {

#if defined(__FMA__) || defined(__AVX512F__) || defined(__FP_FAST_FMAF) || defined(__ARM_FEATURE_FMA)
inline constexpr bool has_fused_multiply_add = true;
#else
inline constexpr bool has_fused_multiply_add = false;
#endif

/// a b + c with the rounding of the packets.
template <class S>
inline S multiply_add(S a, S b, S c) {
  if constexpr (has_fused_multiply_add) return std::fma(a, b, c);
  return a * b + c;  // no instruction could fuse it
}

/// The portable packet, and the twin that the others are tested against.
template <class S, std::size_t Lanes>
struct plain_packet {
  using scalar = S;
  static constexpr std::size_t lanes = Lanes;
  typedef S vector __attribute__((vector_size(Lanes * sizeof(S))));
  vector v;

  void load(const S* p) { std::memcpy(&v, p, sizeof v); }
  void broadcast(const S* p) { v = vector{} + *p; }
  void store(S* p) const { std::memcpy(p, &v, sizeof v); }
  void add(const plain_packet& a) { v += a.v; }
  void add_product(const plain_packet& a, const plain_packet& b) {
    if constexpr (has_fused_multiply_add)
      for (std::size_t i = 0; i < Lanes; ++i) v[i] = std::fma(a.v[i], b.v[i], v[i]);
    else
      v += a.v * b.v;
  }
};

#if defined(__AVX2__) && defined(__FMA__)
struct float_packet_256 {
  using scalar = float;
  static constexpr std::size_t lanes = 8;
  __m256 v;
  void load(const float* p) {
    v = _mm256_loadu_ps(p);
    __asm__("" : "+x"(v));  // see above
  }
  void broadcast(const float* p) { v = _mm256_broadcast_ss(p); }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  void add(const float_packet_256& a) { v = _mm256_add_ps(v, a.v); }
  void add_product(const float_packet_256& a, const float_packet_256& b) { v = _mm256_fmadd_ps(a.v, b.v, v); }
};
struct double_packet_256 {
  using scalar = double;
  static constexpr std::size_t lanes = 4;
  __m256d v;
  void load(const double* p) {
    v = _mm256_loadu_pd(p);
    __asm__("" : "+x"(v));  // see above
  }
  void broadcast(const double* p) { v = _mm256_broadcast_sd(p); }
  void store(double* p) const { _mm256_storeu_pd(p, v); }
  void add(const double_packet_256& a) { v = _mm256_add_pd(v, a.v); }
  void add_product(const double_packet_256& a, const double_packet_256& b) { v = _mm256_fmadd_pd(a.v, b.v, v); }
};
#endif

#if defined(__AVX512F__)
struct float_packet_512 {
  using scalar = float;
  static constexpr std::size_t lanes = 16;
  __m512 v;
  void load(const float* p) {
    v = _mm512_loadu_ps(p);
    __asm__("" : "+v"(v));  // see above
  }
  void broadcast(const float* p) { v = _mm512_set1_ps(*p); }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void add(const float_packet_512& a) { v = _mm512_add_ps(v, a.v); }
  void add_product(const float_packet_512& a, const float_packet_512& b) { v = _mm512_fmadd_ps(a.v, b.v, v); }
};
struct double_packet_512 {
  using scalar = double;
  static constexpr std::size_t lanes = 8;
  __m512d v;
  void load(const double* p) {
    v = _mm512_loadu_pd(p);
    __asm__("" : "+v"(v));  // see above
  }
  void broadcast(const double* p) { v = _mm512_set1_pd(*p); }
  void store(double* p) const { _mm512_storeu_pd(p, v); }
  void add(const double_packet_512& a) { v = _mm512_add_pd(v, a.v); }
  void add_product(const double_packet_512& a, const double_packet_512& b) { v = _mm512_fmadd_pd(a.v, b.v, v); }
};
#endif

/// The packet of this build for floats or doubles, and how many registers hold them.
#if defined(__AVX512F__)
template <class S>
using native_packet = std::conditional_t<std::is_same_v<S, float>, float_packet_512, double_packet_512>;
inline constexpr std::size_t packet_registers = 32;
#elif defined(__AVX2__) && defined(__FMA__)
template <class S>
using native_packet = std::conditional_t<std::is_same_v<S, float>, float_packet_256, double_packet_256>;
inline constexpr std::size_t packet_registers = 16;
#else
template <class S>
using native_packet = plain_packet<S, 16 / sizeof(S)>;
inline constexpr std::size_t packet_registers = 16;
#endif

}  // namespace sluice::detail
