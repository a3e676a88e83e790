#pragma once
#include <cstdint>

/// Words to uniforms, exact on every platform. The names say which ends are closed (c) or open (o) and how many bits
/// are used. An index drawn as floor(u n) from these never equals n; log(u) needs an open lower end.
/// (The casts to signed integers lose nothing and are one instruction; unsigned ones are not.)
namespace sluice {

constexpr double co53(std::uint64_t x) {
  return static_cast<double>(static_cast<std::int64_t>(x >> 11)) * 0x1p-53;
}  ///< [0, 1)
constexpr double oc53(std::uint64_t x) {
  return static_cast<double>(static_cast<std::int64_t>(x >> 11) + 1) * 0x1p-53;
}  ///< (0, 1]
constexpr double oo52(std::uint64_t x) {
  return (static_cast<double>(static_cast<std::int64_t>(x >> 12)) + 0.5) * 0x1p-52;
}  ///< (0, 1)
constexpr float co24(std::uint32_t x) {
  return static_cast<float>(static_cast<std::int32_t>(x >> 8)) * 0x1p-24f;
}  ///< [0, 1)
constexpr float oc24(std::uint32_t x) {
  return static_cast<float>(static_cast<std::int32_t>(x >> 8) + 1) * 0x1p-24f;
}  ///< (0, 1]
constexpr float oo23(std::uint32_t x) {
  return (static_cast<float>(static_cast<std::int32_t>(x >> 9)) + 0.5f) * 0x1p-23f;
}  ///< (0, 1)

}  // namespace sluice
