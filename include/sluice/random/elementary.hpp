#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

/// The elementary functions of the continuous draws. They are written out, not taken from the C library, for two
/// reasons: loops over them vectorise, and their results differ between platforms by no more than the rounding of a
/// few operations (a fused multiply-add or two separate ones). No sum has two products as operands, so that a compiler
/// which fuses has no choice of which to fuse, and the same source gives the same bits in scalar and in vector code.
/// The coefficients are our own: interpolation in the Chebyshev points of the interval, in 200 bits.
namespace sluice::detail {

/// ln x for a positive, normal, finite x, within 3 ulp. With x = 2^k m, m in [sqrt(1/2), sqrt(2)), and
/// s = (m - 1)/(m + 1):  ln x = k ln 2 + 2 artanh s,  2 artanh s = 2 s + s^3 L(s^2),  |L's error| < 4e-17.
inline double log_normal_range(double x) {
  constexpr std::uint64_t sqrt_half = 0x3FE6A09E667F3BCDu, one = 0x3FF0000000000000u, exponent = 0xFFF0000000000000u;
  const std::uint64_t bits = std::bit_cast<std::uint64_t>(x), shifted = bits + (one - sqrt_half);
  const double m = std::bit_cast<double>(bits - (shifted & exponent) + one);
  // The biased exponent as a double, by placing it in the last bits of 2^52.
  const double k = std::bit_cast<double>(shifted >> 52 | 0x4330000000000000u) - (0x1p52 + 1023);
  const double f = m - 1, s = f / (2 + f), z = s * s;
  double l = 0x1.0c039c79fee49p-3;
  l = l * z + 0x1.0fbe95d2753b8p-3;
  l = l * z + 0x1.3b1c355abbb77p-3;
  l = l * z + 0x1.745cf9048d092p-3;
  l = l * z + 0x1.c71c720159196p-3;
  l = l * z + 0x1.2492492476cccp-2;
  l = l * z + 0x1.9999999999a38p-2;
  l = l * z + 0x1.5555555555555p-1;
  const double part = s + s * (1 + z * l);
  const double low = k * 0x1.473de6af278edp-34 + part;
  return k * 0x1.62e42fef00000p-1 + low;  // ln 2 in two pieces; this product is exact
}

struct cos_sin {
  double cos, sin;
};

/// (cos, sin) of 2 pi v 2^-53, 0 <= v < 2^53, each within 2 ulp. The reduction to |r| <= 1/8 of a turn is in integers,
/// hence exact; then sin 2 pi r = r (2 pi + r^2 P(r^2)) and cos 2 pi r = 1 - r^2 Q(r^2).
inline cos_sin cos_sin_turn(std::uint64_t v) {
  const std::uint64_t quarter = (v + (std::uint64_t{1} << 50)) >> 51;  // nearest multiple of 1/4 turn: 0 ... 4
  // r 2^53 in [-2^50, 2^50), as a double by placing it in the last bits of 2^52.
  const std::uint64_t offset = v - (quarter << 51) + (std::uint64_t{1} << 51);
  const double r = (std::bit_cast<double>(offset | 0x4330000000000000u) - (0x1p52 + 0x1p51)) * 0x1p-53;
  const double t = r * r;
  double p = -0x1.6cc577dadd922p-1;
  p = p * t + 0x1.e8f036bcd3237p+1;
  p = p * t - 0x1.e3074d2614b2dp+3;
  p = p * t + 0x1.50783486facaap+5;
  p = p * t - 0x1.32d2cce62b872p+6;
  p = p * t + 0x1.466bc6775aae1p+6;
  p = p * t - 0x1.4abbce625be53p+5;
  const double low = p * t + 0x1.1a62633145c07p-52;
  const double s = r * (low + 0x1.921fb54442d18p+2);
  double q = 0x1.b2f3eb054afcdp+0;
  q = q * t - 0x1.f9ce245cada0bp+2;
  q = q * t + 0x1.a6d1eef479be1p+4;
  q = q * t - 0x1.e1f5068688d5bp+5;
  q = q * t + 0x1.55d3c7e3cb241p+6;
  q = q * t - 0x1.03c1f081b5ac0p+6;
  q = q * t + 0x1.3bd3cc9be45dep+4;
  const double c = 1 - q * t;
  // Rotate by quarter turns: swap for odd ones, then the signs. On the bits, so that nothing branches.
  const std::uint64_t cb = std::bit_cast<std::uint64_t>(c), sb = std::bit_cast<std::uint64_t>(s);
  const std::uint64_t swap = (cb ^ sb) & (0 - (quarter & 1));
  return {std::bit_cast<double>((cb ^ swap) ^ ((quarter + 1) >> 1 & 1) << 63),
          std::bit_cast<double>((sb ^ swap) ^ (quarter >> 1 & 1) << 63)};
}

}  // namespace sluice::detail
