#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/random/uniform.hpp>

#include <concepts>
#include <cstdint>
#include <random>
#include <span>

/// The discrete decisions that randomised rules make. Rules are templates over their source of randomness: in
/// production a cursor (or any generator of 64-bit words), in tests a source that walks through every outcome and knows
/// its probability. Draws among weights are in draw/inverse_cdf.hpp.
namespace sluice {

/// Supplies uniform 64-bit words: `cursor`, or a generator of the user's (std::mt19937_64).
template <class R>
concept word_source = std::uniform_random_bit_generator<R> && std::same_as<typename R::result_type, std::uint64_t> &&
    R::min()
== 0 && R::max() == ~std::uint64_t{0};
/// Makes decisions itself, from their probabilities: an enumerating or scripted source.
template <class R>
concept decision_source = requires(R& r, double p, std::uint64_t n, std::span<const double> weights) {
  { r.bernoulli(p) } -> std::same_as<bool>;
  { r.below(n) } -> std::same_as<std::uint64_t>;
  { r.categorical(weights) } -> std::convertible_to<std::ptrdiff_t>;
};
template <class R>
concept random_source = word_source<R> || decision_source<R>;

/// True with probability p: u < p with u in [0, 1), so never for p = 0 and always for p = 1. One word.
template <random_source R>
bool bernoulli(R& random, double p) {
  if constexpr (decision_source<R>)
    return random.bernoulli(p);
  else
    return co53(random()) < p;
}

/// True with probability min(1, numerator/denominator): u denominator < numerator, without a division; never if the
/// numerator is 0, even for u = 0. One word.
template <random_source R>
bool bernoulli_ratio(R& random, double numerator, double denominator) {
  if constexpr (decision_source<R>)
    return random.bernoulli(numerator >= denominator ? (numerator > 0 ? 1.0 : 0.0) : numerator / denominator);
  else
    return co53(random()) * denominator < numerator;
}

/// Uniform integer in [0, n), n >= 1; exact for every n. One word, and another with probability below n 2^-64.
/// Throws invalid_argument if n is 0. Source: Lemire, "Fast random integer generation in an interval", ACM TOMACS 2019.
template <random_source R>
std::uint64_t below(R& random, std::uint64_t n) {
  expects(n > 0, "below", "n", n);
  if constexpr (decision_source<R>) {
    return random.below(n);
  } else {
    __extension__ using u128 = unsigned __int128;
    u128 m = u128{random()} * n;
    if (static_cast<std::uint64_t>(m) < n) {
      const std::uint64_t threshold = (0 - n) % n;
      while (static_cast<std::uint64_t>(m) < threshold) m = u128{random()} * n;
    }
    return static_cast<std::uint64_t>(m >> 64);
  }
}

}  // namespace sluice
