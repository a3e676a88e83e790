#pragma once
#include <sluice/core/exp_block.hpp>
#include <sluice/core/expects.hpp>
#include <sluice/speculate/token_law.hpp>
#include <sluice/speculate/verification.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

/// The largest probability with which any verification rule can emit one of n drafts of a position, given how they were
/// drawn: what a node rule is measured against, and what says how many drafts a position is worth.
///
///     alpha* = 1 + min over H of P(H) - Q(H),     P(H) = sum of p over H,  Q(H) = Pr(all n drafts lie in H)
///
/// (the dual of the optimal transport from tuples of drafts to tokens). For independent draws and for draws without
/// replacement the minimum is attained by a prefix of the tokens with q > 0 in the order of p/q, ties by id: H* is a
/// prefix size. With R = 1 - q(H):
///
///     independent draws     Q = (1 - R)^n
///     without replacement   Q = int_0^inf R e^{-R t} Pr(at least n clocks of H have rung by t) dt, where token i has
///                           an exponential clock of rate q(i): their order of ringing is a draw without replacement
///     hybrid                alpha* = p(T) + sum off T of min(p, q'), see optimal_multidraft.hpp; no prefix
///
/// The integral is a trapezoid sum in ln t, which converges exponentially. n = 2 needs none: with u = q/(1 - q),
/// Q = sum over H of u(i) (q(H) - q(i)).
///
/// How it is fast. Keys are the ratios as floats, sorted by radix; equal keys are put in the order of the ratios in
/// double. Along the prefixes the marginal quotients of Q (increase over q of the added token) do not fall, so between
/// two prefixes Q lies below its chord in q(H), and P above the lines with the outer ratios: Q is computed at the ends
/// of blocks of 128 tokens, and inside a block only if these bounds leave room for a better value (one block or two).
/// In the integral, tokens of a block with q t below 0.1 at all nodes that still matter enter together, by their
/// power sums (below, race_integral).
///
/// Source: Hu et al., "Towards Optimal Multi-draft Speculative Decoding" (arXiv:2502.18779). Differs: the integral and
/// the bounds; the source has a recursion of O(n V) for draws without replacement. That alpha* of draws without
/// replacement is at least that of independent draws follows from Q: each conditional probability (q(H) - s)/(1 - s) of
/// staying in H is at most q(H).
namespace sluice {

struct optimal_acceptance_options {
  /// Step of the quadrature in ln t for three draws without replacement, in (0, 1]; for n draws it is
  /// step sqrt(610 / (400 + 70 n)), since the n-th of many clocks rings within 1/sqrt(n) of ln t: at frequency
  /// w = 2 pi/step the transform of that density, |Gamma(n + i w)| / Gamma(n), is then as small for all n. Cost is
  /// proportional to 1/step. Largest error of Q seen on random laws: 1e-15 at 0.25, 1e-12 at 0.3, 2e-10 at 0.35, 2e-7
  /// at 0.5.
  double step = 0.25;
};

/// alpha* and the size of the prefix H* that attains it (the smallest, up to rounding); -1 for hybrid draws.
struct prefix_optimum {
  double acceptance = 0;
  index_t prefix = 0;
};

namespace detail {

/// Sorts (key in the high half, position in the low half): stable in the key if positions ascend. Least significant
/// digits of 11 bits first, only the high half; `other` has the size of `keys`, which receives the result.
inline void sort_keys(std::vector<std::uint64_t>& keys, std::vector<std::uint64_t>& other) {
  constexpr std::size_t radix = 2048, few = 256;
  if (keys.size() < few) return std::sort(keys.begin(), keys.end());
  std::array<std::array<std::uint32_t, radix>, 3> count{};
  for (const std::uint64_t k : keys) {
    ++count[0][k >> 32 & (radix - 1)];
    ++count[1][k >> 43 & (radix - 1)];
    ++count[2][k >> 54];
  }
  for (std::size_t pass = 0; pass < 3; ++pass) {
    auto& place = count[pass];
    const std::size_t shift = 32 + 11 * pass;
    if (place[keys[0] >> shift & (radix - 1)] == keys.size()) continue;  // one digit only
    std::uint32_t sum = 0;
    for (std::uint32_t& c : place) sum += std::exchange(c, sum);
    for (const std::uint64_t k : keys) other[place[k >> shift & (radix - 1)]++] = k;
    keys.swap(other);
  }
}

/// For n >= 3 draws without replacement: S(t) = Pr(fewer than n clocks of H have rung by t) at the nodes t_m, while H
/// grows token by token, and Q(H) = step sum_m R t_m e^{-R t_m} (1 - S(t_m)).
///
/// c_j(t) = Pr(exactly j have rung), j < n. A token with a = e^{-q t}: c_j <- c_j a + c_{j-1} (1 - a). Tokens with
/// small x = q t together: their generating function is exp(-sum x) prod_i (1 + (e^{x_i} - 1) z), whose logarithm has
/// the coefficients (-1)^{j+1} s_j / j, s_j = sum_i (e^{x_i} - 1)^j = sum_{r >= j} j! S(r, j) / r! sum_i x_i^r
/// (Stirling numbers of the second kind), with power sums up to r = 8. What is left out is about S(t) x^8 sum x, and
/// small means x <= 0.1 at the last node with S > 1e-19: where S is not negligible, x is several times smaller and the
/// error below 1e-15. S falls in t and with H, so nodes at the far end that have reached 0 are dropped.
class race_integral {
 public:
  static constexpr index_t lanes = 8;
  using packet = Eigen::Array<double, lanes, 1>;

  /// Nodes for n drafts and tails R in [smallest, 1]; H empty.
  void start(index_t n, double smallest, double step) {
    n_ = n;
    step_ = step * std::sqrt(610.0 / (400.0 + 70.0 * static_cast<double>(n)));
    low_ = -37.0 / static_cast<double>(n + 1) - 1;
    const double high = std::log(42 / smallest);
    nodes_ = static_cast<index_t>(std::ceil((high - low_) / step_)) + 1;
    nodes_ = (nodes_ + lanes - 1) / lanes * lanes;
    t_.resize(static_cast<std::size_t>(nodes_));
    for (index_t m = 0; m < nodes_; ++m)
      t_[static_cast<std::size_t>(m)] = std::exp(low_ + step_ * static_cast<double>(m));
    c_.assign(static_cast<std::size_t>(nodes_ * n), 0.0);
    for (index_t v = 0; v < nodes_; v += lanes)
      std::fill_n(c_.data() + v * n, lanes, 1.0);  // c_0; the n coefficients of a packet lie together
    alive_ = nodes_;
  }
  index_t state_size() const { return nodes_ * n_; }
  /// Copies what `add` changes.
  void save(double* out, index_t& alive) const {
    std::copy(c_.begin(), c_.end(), out);
    alive = alive_;
  }
  void restore(const double* from, index_t alive) {
    std::copy_n(from, c_.size(), c_.begin());
    alive_ = alive;
  }

  /// H grows by these tokens.
  void add(std::span<const double> q) {
    if (alive_ == 0) return;
    const double far = t_[static_cast<std::size_t>(alive_ - 1)];
    std::array<packet, orders + 1> sums;
    sums.fill(packet::Zero());
    large_.clear();
    const double limit = n_ <= most_together ? small : -1;
    const auto size = static_cast<index_t>(q.size());
    for (index_t i = 0; i < size; i += lanes) {
      packet x = packet::Zero();
      const index_t count = std::min(lanes, size - i);
      if (count == lanes)
        x = (const_packet_map(q.data() + i)).max(least_mass) * far;
      else
        for (index_t j = 0; j < count; ++j) x[j] = std::max(q[static_cast<std::size_t>(i + j)], least_mass) * far;
      if (x.maxCoeff() > limit)
        for (index_t j = 0; j < count; ++j)
          if (x[j] > limit) {
            large_.push_back(-x[j]);
            x[j] = 0;
          }
      packet power = x;
      for (std::size_t r = 1; r <= orders; ++r, power *= x) sums[r] += power;
    }
    std::array<double, orders + 1> moment{};
    for (std::size_t r = 1; r <= orders; ++r) moment[r] = sums[r].sum();
    switch (n_) {
      case 3:
        return add_all<3>(moment, 1 / far);
      case 4:
        return add_all<4>(moment, 1 / far);
      case 5:
        return add_all<5>(moment, 1 / far);
      case 6:
        return add_all<6>(moment, 1 / far);
      case 8:
        return add_all<8>(moment, 1 / far);
      default:
        return add_all<0>(moment, 1 / far);
    }
  }

  /// Q(H), R = tail; drops nodes that have reached S = 0.
  double all_inside(double tail) {
    const auto last = std::ceil((std::log(45 / tail) - low_) / step_) + 1;  // beyond it R t e^{-R t} is below 1e-17
    const index_t end = last < static_cast<double>(nodes_) ? static_cast<index_t>(std::max(0.0, last)) : nodes_;
    packet sum = packet::Zero();
    index_t used = 0;  // end of the nodes with S > 0
    for (index_t v = 0; v < alive_; v += lanes) {
      packet fewer = coefficients(v, 0);
      for (index_t j = 1; j < n_; ++j) fewer += coefficients(v, j);
      if (fewer.maxCoeff() > 1e-19) used = v + lanes;
      if (v >= end) continue;
      const packet rt = tail * times(v);
      sum += rt * (-rt).exp() * (1 - fewer).max(0.0);
    }
    for (index_t v = alive_; v < end; v += lanes) {
      const packet rt = tail * times(v);
      sum += rt * (-rt).exp();
    }
    alive_ = used;
    return std::min(1.0, step_ * sum.sum());
  }

 private:
  static constexpr std::size_t orders = 8;
  static constexpr index_t most_together = 32;
  static constexpr double small = 0.1, least_mass = 1e-290;
  using packet_map = Eigen::Map<packet>;
  using const_packet_map = Eigen::Map<const packet>;

  const_packet_map times(index_t v) const { return const_packet_map(t_.data() + v); }
  const_packet_map coefficients(index_t v, index_t j) const { return const_packet_map(c_.data() + v * n_ + j * lanes); }

  /// j! S(r, j) / r!, the coefficient of x^r in (e^x - 1)^j.
  static constexpr std::array<std::array<double, orders + 1>, orders + 1> powers_of_exp_minus_one() {
    std::array<std::array<double, orders + 1>, orders + 1> k{};
    k[0][0] = 1;
    for (std::size_t j = 1; j <= orders; ++j)
      for (std::size_t r = j; r <= orders; ++r) {
        double factorial = 1;
        for (std::size_t i = 1; i <= r - j + 1; ++i) {
          factorial *= static_cast<double>(i);
          k[j][r] += k[j - 1][r - i] / factorial;
        }
      }
    return k;
  }

  template <int N>
  void add_all(const std::array<double, orders + 1>& moment, double scale) {
    constexpr auto expansion = powers_of_exp_minus_one();
    const index_t n = N == 0 ? n_ : N;
    const index_t terms = std::min<index_t>(n - 1, static_cast<index_t>(orders));
    for (index_t v = 0; v < alive_; v += lanes) {
      double* stored = c_.data() + v * n;
      packet local[N == 0 ? 1 : N];
      if constexpr (N > 0)
        for (index_t j = 0; j < n; ++j) local[j] = packet_map(stored + j * lanes);
      const auto c = [&](index_t j) -> decltype(auto) {
        if constexpr (N > 0)
          return (local[j]);
        else
          return packet_map(stored + j * lanes);
      };
      const packet x = times(v) * scale;  // in units of the last node
      if (moment[1] > 0) {
        packet s[orders + 1];  // (-1)^{j+1} s_j
        for (index_t j = 1; j <= terms; ++j) {
          const auto& k = expansion[static_cast<std::size_t>(j)];
          packet sum = packet::Constant(k[orders] * moment[orders]);
          for (std::size_t r = orders; r-- > static_cast<std::size_t>(j);) sum = sum * x + k[r] * moment[r];
          packet power = x;
          for (index_t i = 1; i < j; ++i) power *= x;
          s[j] = j % 2 == 1 ? packet(sum * power) : packet(-sum * power);
        }
        packet e[N == 0 ? most_together : N];
        e[0] = (-moment[1] * x).exp();
        for (index_t k = 1; k < n; ++k) {
          packet sum = s[1] * e[k - 1];
          for (index_t j = 2; j <= std::min(k, terms); ++j) sum += s[j] * e[k - j];
          e[k] = sum * (1 / static_cast<double>(k));
        }
        for (index_t k = n - 1; k >= 0; --k) {
          packet sum = e[0] * c(k);
          for (index_t j = 1; j <= k; ++j) sum += e[j] * c(k - j);
          c(k) = sum;
        }
      }
      for (const double rate : large_) {
        const packet a = (rate * x).exp(), b = 1 - a;
        for (index_t j = n - 1; j > 0; --j) c(j) = c(j) * a + c(j - 1) * b;
        c(0) *= a;
      }
      if constexpr (N > 0)
        for (index_t j = 0; j < n; ++j) packet_map(stored + j * lanes) = local[j];
    }
  }

  index_t n_ = 0, nodes_ = 0, alive_ = 0;
  double step_ = 0, low_ = 0;
  std::vector<double> t_, c_, large_;
};

}  // namespace detail

/// The optimal acceptance of one position. `prepare` reads a target and a draft row, computes both laws in double,
/// keeps the tokens with q > 0 and sorts them by p/q; then every n and every kind of draft is answered from that.
/// Buffers are kept: with rows of the same size, and the same n, nothing is allocated after the first time. One object
/// a thread.
///
/// Before the first `prepare` the support is empty and every acceptance is 0.
class optimal_acceptance {
 public:
  /// Throws invalid_argument unless options.step is in (0, 1].
  explicit optimal_acceptance(const optimal_acceptance_options& options = {}) : options_(options) {
    expects(options.step > 0 && options.step <= 1, "optimal_acceptance", "step", options.step);
  }

  /// Any rows: logits, log-probabilities or probabilities, dense or sparse, float or double. Probabilities are divided
  /// by their sum. O(V), and a radix sort of the tokens with q > 0. Throws invalid_argument, the object as it was, for
  /// a row that is no law ("target", "draft": element and value, or the row's sum), or two rows whose lengths or ids do
  /// not fit one vocabulary.
  template <class S, class Q>
  void prepare(const token_row<S>& target, const token_row<Q>& draft) {
    detail::expects_no_fault("optimal_acceptance", try_prepare(target, draft));
  }
  /// Dense laws.
  void prepare(std::span<const double> target, std::span<const double> draft) {
    prepare(token_row<double>{row_kind::probabilities, target}, token_row<double>{row_kind::probabilities, draft});
  }
  /// As prepare, but reports the defect: what a node rule needs.
  template <class S, class Q>
  row_fault try_prepare(const token_row<S>& target, const token_row<Q>& draft) {
    const token_law<S> p(target);
    if (!p.valid()) return p.fault("target", -1);
    const token_law<Q> q(draft);
    if (!q.valid()) return q.fault("draft", -1);
    if (const row_fault f = detail::check_lengths(p, q, -1)) return f;
    load(target, draft);
    sort();
    return {};
  }

  /// alpha* for n drafts of a kind: independent_draws, draws_without_replacement or hybrid_draws. O(V/128) for
  /// independent draws and a hundred or two evaluations inside blocks; O(V) without replacement for n <= 2 and for
  /// hybrid draws; for n >= 3 without replacement O(V + M n^2 V/128 + M n L), M about 150 nodes, L the number of tokens
  /// that are not small at some node (a few thousand, seldom all). Without replacement, n at least the size of the
  /// support draws all of it: alpha* = p(support). Throws invalid_argument if n < 1.
  template <class DraftKind>
  prefix_optimum best(index_t n) {
    expects(n >= 1, "optimal_acceptance", "n", n);
    if constexpr (std::same_as<DraftKind, independent_draws>) {
      return best_independent(n);
    } else if constexpr (std::same_as<DraftKind, draws_without_replacement>) {
      if (n >= support()) return {std::min(1.0, target_before_.back()), support()};
      return n == 1 ? best_independent(1) : n == 2 ? best_pair() : best_by_race(n);
    } else {
      static_assert(std::same_as<DraftKind, hybrid_draws>);
      return {hybrid(n), -1};
    }
  }

  /// Number of tokens with q > 0.
  index_t support() const { return std::ssize(p_); }
  /// The tokens with q > 0 in the order of p/q: H* of a prefix_optimum are its first `prefix` elements.
  std::span<const token_id> order() const { return id_; }
  /// p and q of these tokens, in the same order.
  std::span<const double> target() const { return p_; }
  std::span<const double> draft() const { return q_; }

  /// out[k] = Q of the first k tokens of order(), k = 0 ... support(): the probability that all n drafts are among
  /// them. 1 + p(prefix) - out[k] is what alpha* minimises. DraftKind: independent_draws or draws_without_replacement.
  /// O(V), without replacement and n >= 3 O(M n V). Throws invalid_argument if n < 1 or out has another size.
  template <class DraftKind>
  void all_inside(std::span<double> out, index_t n) {
    expects(n >= 1, "optimal_acceptance", "n", n);
    expects(std::ssize(out) == support() + 1, "optimal_acceptance", "out.size", out.size());
    constexpr bool independent = std::same_as<DraftKind, independent_draws>;
    static_assert(independent || std::same_as<DraftKind, draws_without_replacement>);
    const bool race = !independent && n >= 3 && n < support();
    if (race) start_race(n);
    pair_sums pairs = start_pairs();
    for (index_t b = 0; b < blocks(); ++b) {
      tails_of(b);
      for (index_t k = first(b); k < first(b + 1); ++k) {
        const double tail = tail_[static_cast<std::size_t>(k - first(b))];
        out[at(k)] = independent || n == 1 ? power(tail, n)
                     : k < n               ? 0.0
                     : n == 2              ? pairs.all_inside()
                                           : race_value(k, tail);
        if (race)
          race_.add(draft().subspan(at(k), 1));
        else if (!independent && n == 2)
          pairs.add(q_[at(k)], k == largest_);
      }
    }
    out[at(support())] = support() > 0 ? 1.0 : 0.0;
  }

  /// Acceptance of a single draft, sum_x min(p, q): what token rejection reaches. O(V).
  double single() const { return sum_of_minima(1); }

  /// Acceptance of recursive rejection, O(n V) for independent draws: with c_1 = 0 and c_{k+1} = c_k + A_k as in
  /// recursive_rejection.hpp, 1 - A_{n+1} = sum_x min(p, c_{n+1} q). For draws without replacement n = 1 or 2 only,
  /// O(V log V): a rejected x_1 has mass q - min(p, q), and then x_2 is accepted with sum_y min(r_2, q/(1 - q(x_1))),
  /// r_2 = (p - q)_+ / its sum, in closed form from prefix sums, since r_2/q has the order of p/q. Throws
  /// invalid_argument if n < 1, or n > 2 without replacement (that needs an enumeration of the drafts).
  template <class DraftKind>
  double recursive_rejection_acceptance(index_t n) {
    expects(n >= 1, "optimal_acceptance", "n", n);
    if constexpr (std::same_as<DraftKind, independent_draws>) {
      double c = 0, accepted = 0;
      for (index_t k = 0; k < n && support() > 0; ++k) {
        const double next = c + std::max(0.0, 1 - accepted);
        if (next == c) break;
        c = next;
        accepted = sum_of_minima(c);
      }
      return accepted;
    } else {
      static_assert(std::same_as<DraftKind, draws_without_replacement>);
      expects(n <= 2, "optimal_acceptance", "n", n);
      return n == 1 ? single() : recursive_pair();
    }
  }

 private:
  static constexpr index_t block_length = 128;
  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

  index_t blocks() const { return (support() + block_length - 1) / block_length; }
  /// First position of block b; of the block behind the last, the size of the support.
  index_t first(index_t b) const { return std::min(support(), b * block_length); }
  double ratio(index_t k) const { return p_[at(k)] / q_[at(k)]; }
  /// `Width` numbers. Sums of them do not depend on the alignment of the buffers, as sums of whole arrays do.
  template <int Width>
  static Eigen::Array<double, Width, 1> lanes(const double* x) {
    return Eigen::Map<const Eigen::Array<double, Width, 1>>(x);
  }
  /// The sum of term(k, width), which gives the values at k ... k + width - 1, k from begin to end.
  template <class Term>
  static double sum_in_lanes(index_t begin, index_t end, Term&& term) {
    Eigen::Array<double, 8, 1> eight = Eigen::Array<double, 8, 1>::Zero();
    double rest = 0;
    index_t k = begin;
    for (; k + 8 <= end; k += 8) eight += term(k, std::integral_constant<int, 8>{});
    for (; k < end; ++k) rest += term(k, std::integral_constant<int, 1>{})[0];
    return eight.sum() + rest;
  }
  template <class Term>
  double sum_of_block(index_t b, Term&& term) const {
    return sum_in_lanes(first(b), first(b + 1), term);
  }

  // ---- reading the rows -------------------------------------------------------------------------------------------

  /// out = the row's probabilities, normalised in double.
  template <class S>
  static void normalise(std::vector<double>& out, const token_row<S>& row) {
    const index_t n = std::ssize(row.values);
    out.resize(row.values.size());
    using values = Eigen::Map<const Eigen::Array<S, Eigen::Dynamic, 1>>;
    const bool logarithms = row.kind != row_kind::probabilities;
    const double top = logarithms ? static_cast<double>(values(row.values.data(), n).maxCoeff()) : 0.0;
    double total = 0;
    alignas(64) double block[detail::law_block];  // aligned: the exponentials do not depend on where the row lies
    for (index_t i = 0; i < n; i += detail::law_block) {
      const index_t count = std::min(detail::law_block, n - i);
      for (index_t j = 0; j < count; ++j) block[j] = static_cast<double>(row.values[at(i + j)]);
      if (logarithms) detail::exp_block(block, block, count, top);
      total += sum_in_lanes(0, count, [&](index_t j, auto width) { return lanes<width>(block + j); });
      std::copy_n(block, count, out.data() + i);
    }
    Eigen::Map<Eigen::Array<double, Eigen::Dynamic, 1>>(out.data(), n) *= 1 / total;
  }

  template <class S, class Q>
  void load(const token_row<S>& target, const token_row<Q>& draft) {
    normalise(p_row_, target);
    normalise(q_row_, draft);
    const bool sparse_target = !target.ids.empty(), sparse_draft = !draft.ids.empty();
    const std::size_t n = q_row_.size();
    if (sparse_target && !sparse_draft) {  // spread the target over the vocabulary
      spread_.assign(n, 0.0);
      for (std::size_t j = 0; j < p_row_.size(); ++j) spread_[at(target.ids[j])] = p_row_[j];
      p_row_.swap(spread_);
    } else if (sparse_target) {
      keys_.resize(p_row_.size());
      for (std::size_t j = 0; j < keys_.size(); ++j)
        keys_[j] = static_cast<std::uint64_t>(target.ids[j]) << 32 | static_cast<std::uint64_t>(j);
      std::sort(keys_.begin(), keys_.end());
    }
    unsorted_.clear();
    unsorted_.reserve(n);
    for (std::size_t j = 0; j < n; ++j) {
      if (!(q_row_[j] > 0)) continue;
      const token_id x = sparse_draft ? draft.ids[j] : static_cast<token_id>(j);
      double p = 0;
      if (!sparse_target || !sparse_draft) {
        p = p_row_[at(x)];
      } else {
        const auto id = static_cast<std::uint64_t>(x) << 32;
        const auto found = std::lower_bound(keys_.begin(), keys_.end(), id);
        if (found != keys_.end() && *found >> 32 == id >> 32) p = p_row_[*found & 0xffffffffu];
      }
      unsorted_.push_back({p, q_row_[j], x});
    }
  }

  struct entry {
    double p, q;
    token_id id;
  };

  // ---- the order of p/q -------------------------------------------------------------------------------------------

  void sort() {
    const std::size_t n = unsorted_.size();
    keys_.resize(n);
    other_.resize(n);
    for (std::size_t j = 0; j < n; ++j) {
      // The bits of a non-negative float have its order. A ratio beyond the floats shares the key of infinity.
      const double r = std::min(unsorted_[j].p / unsorted_[j].q, 3e38);
      keys_[j] = static_cast<std::uint64_t>(std::bit_cast<std::uint32_t>(static_cast<float>(r))) << 32 |
                 static_cast<std::uint64_t>(j);
    }
    detail::sort_keys(keys_, other_);
    p_.resize(n);
    q_.resize(n);
    id_.resize(n);
    for (std::size_t k = 0; k < n; ++k) {
      const entry& e = unsorted_[keys_[k] & 0xffffffffu];
      p_[k] = e.p;
      q_[k] = e.q;
      id_[k] = e.id;
    }
    for (std::size_t k = 1; k < n; ++k)
      if (keys_[k] >> 32 == keys_[k - 1] >> 32 && !in_order(k)) k = order_equal_keys(k);
    sum_blocks();
  }
  bool in_order(std::size_t k) const {
    const double a = p_[k - 1] / q_[k - 1], b = p_[k] / q_[k];
    return a < b || (a == b && id_[k - 1] < id_[k]);
  }
  /// Sorts the run of equal keys around position k by the ratios in double; returns its last position.
  std::size_t order_equal_keys(std::size_t k) {
    std::size_t begin = k, end = k + 1;
    while (begin > 0 && keys_[begin - 1] >> 32 == keys_[k] >> 32) --begin;
    while (end < keys_.size() && keys_[end] >> 32 == keys_[k] >> 32) ++end;
    std::sort(keys_.begin() + static_cast<std::ptrdiff_t>(begin), keys_.begin() + static_cast<std::ptrdiff_t>(end),
              [this](std::uint64_t a, std::uint64_t b) {
                const entry &x = unsorted_[a & 0xffffffffu], &y = unsorted_[b & 0xffffffffu];
                const double r = x.p / x.q, s = y.p / y.q;
                return r < s || (r == s && x.id < y.id);
              });
    for (std::size_t i = begin; i < end; ++i) {
      const entry& e = unsorted_[keys_[i] & 0xffffffffu];
      p_[i] = e.p;
      q_[i] = e.q;
      id_[i] = e.id;
    }
    return end - 1;
  }

  void sum_blocks() {
    const std::size_t n = at(blocks());
    target_in_.resize(n);
    draft_in_.resize(n);
    target_before_.resize(n + 1);
    draft_behind_.resize(n + 1);
    value_.resize(n + 1);
    double sum = 0;
    for (std::size_t b = 0; b < n; ++b) {
      target_in_[b] = sum_of_block(static_cast<index_t>(b), [this](index_t k, auto w) { return lanes<w>(&p_[at(k)]); });
      draft_in_[b] = sum_of_block(static_cast<index_t>(b), [this](index_t k, auto w) { return lanes<w>(&q_[at(k)]); });
      target_before_[b] = sum;
      sum += target_in_[b];
    }
    target_before_[n] = sum;
    draft_behind_[n] = 0;
    for (std::size_t b = n; b-- > 0;) draft_behind_[b] = draft_behind_[b + 1] + draft_in_[b];
    largest_ = std::max_element(q_.begin(), q_.end()) - q_.begin();
  }

  /// tail_[i] = R of the prefix that ends before position first(b) + i.
  void tails_of(index_t b) {
    tail_.resize(at(block_length));
    double sum = draft_behind_[at(b + 1)];
    for (index_t k = first(b + 1); k-- > first(b);) tail_[at(k - first(b))] = sum += q_[at(k)];
  }

  // ---- the minimum over prefixes ----------------------------------------------------------------------------------

  /// Whether a prefix that ends inside block b can have a value below `best`, given the values at its ends (see above).
  bool may_improve(index_t b, double best) const {
    const double left = value_[at(b)], right = value_[at(b + 1)];
    const double p = target_in_[at(b)], q = draft_in_[at(b)];
    const double from_left = std::min(left, right - (p - ratio(first(b)) * q));
    const double from_right = std::min(right, left - (ratio(first(b + 1) - 1) * q - p));
    return !(std::max(from_left, from_right) >= best);
  }
  static void improve(prefix_optimum& best, double value, index_t prefix) {
    if (value < best.acceptance) best = {value, prefix};
  }
  /// The least of value_[0 ... last], values at the ends of blocks.
  prefix_optimum best_end(index_t last) const {
    prefix_optimum best{1, 0};
    for (index_t b = 1; b <= last; ++b) improve(best, value_[at(b)], first(b));
    return best;
  }
  static prefix_optimum clamped(const prefix_optimum& x) { return {std::clamp(x.acceptance, 0.0, 1.0), x.prefix}; }

  /// (1 - tail)^n.
  static double power(double tail, index_t n) {
    return tail < 1 ? std::exp(static_cast<double>(n) * std::log1p(-tail)) : 0.0;
  }
  /// 1 - (1 - tail)^n.
  static double some_outside(double tail, index_t n) {
    return tail < 1 ? -std::expm1(static_cast<double>(n) * std::log1p(-tail)) : 1.0;
  }
  prefix_optimum best_independent(index_t n) {
    if (support() == 0) return {};
    for (index_t b = 0; b <= blocks(); ++b)
      value_[at(b)] = target_before_[at(b)] + some_outside(draft_behind_[at(b)], n);
    prefix_optimum best = best_end(blocks());
    for (index_t b = 0; b < blocks(); ++b) {
      if (!may_improve(b, best.acceptance)) continue;
      tails_of(b);
      double p = target_before_[at(b)];
      for (index_t k = first(b); k < first(b + 1); ++k) {
        improve(best, p + some_outside(tail_[at(k - first(b))], n), k);
        p += p_[at(k)];
      }
    }
    return clamped(best);
  }

  /// Q of a growing prefix for two draws without replacement. The largest q stands apart, so that no 1 - q is small.
  struct pair_sums {
    double largest = 0, others = 1;  // the largest q, and the sum of all others
    double mass = 0, a = 0, b = 0;
    bool has_largest = false;
    void add(double q, bool is_largest) {
      if (is_largest) {
        has_largest = true;
        return;
      }
      const double u = q / (1 - q);
      mass += q;
      a += u;
      b += u * q;
    }
    double all_inside() const {
      const double of_others = a * mass - b;
      return std::clamp(has_largest ? of_others + a * largest + largest * (mass / others) : of_others, 0.0, 1.0);
    }
  };
  pair_sums start_pairs() const {
    if (support() < 2) return {};
    double others = 0;
    for (index_t b = 0; b < blocks(); ++b)
      if (largest_ < first(b) || largest_ >= first(b + 1))
        others += draft_in_[at(b)];
      else
        for (index_t k = first(b); k < first(b + 1); ++k) others += k == largest_ ? 0.0 : q_[at(k)];
    pair_sums pairs;
    pairs.largest = q_[at(largest_)];
    pairs.others = others;
    return pairs;
  }
  prefix_optimum best_pair() {
    pair_sums pairs = start_pairs();
    pairs_.resize(at(blocks()));
    for (index_t b = 0; b < blocks(); ++b) {
      pairs_[at(b)] = pairs;
      value_[at(b)] = 1 + target_before_[at(b)] - pairs.all_inside();
      if (largest_ >= first(b) && largest_ < first(b + 1)) {
        for (index_t k = first(b); k < first(b + 1); ++k) pairs.add(q_[at(k)], k == largest_);
      } else {
        const double u = sum_of_block(b, [this](index_t k, auto w) {
          const auto q = lanes<w>(&q_[at(k)]);
          return Eigen::Array<double, w, 1>(q / (1 - q));
        });
        pairs.mass += draft_in_[at(b)];
        pairs.a += u;
        pairs.b += u - draft_in_[at(b)];  // q^2/(1 - q) = u - q
      }
    }
    value_[at(blocks())] = target_before_.back();
    prefix_optimum best = best_end(blocks());
    for (index_t b = 0; b < blocks(); ++b) {
      if (!may_improve(b, best.acceptance)) continue;
      pairs = pairs_[at(b)];
      double p = target_before_[at(b)];
      for (index_t k = first(b); k < first(b + 1); ++k) {
        improve(best, 1 + p - pairs.all_inside(), k);
        pairs.add(q_[at(k)], k == largest_);
        p += p_[at(k)];
      }
    }
    return clamped(best);
  }

  // ---- three draws or more without replacement --------------------------------------------------------------------

  /// n < support. Tails up to cut_ belong to prefixes that contain the n largest q: there 1 - Q is at most
  /// R (1 + 1/2 + ... + 1/n) / (the n-th largest q), below 1e-13 (1 + ln n).
  void start_race(index_t n) {
    find_largest(n);
    cut_ = 1e-13 * std::max(top_.front().q, 1e-290);
    double smallest = 1, sum = 0;
    for (index_t k = support(); k-- > 0;)
      if ((sum += q_[at(k)]) > cut_) {
        smallest = std::min(sum, 1.0);
        break;
      }
    race_.start(n, smallest, options_.step);
    race_n_ = n;
  }
  /// Q of the first k tokens, which have been added.
  double race_value(index_t k, double tail) { return k < race_n_ ? 0.0 : tail <= cut_ ? 1.0 : race_.all_inside(tail); }
  prefix_optimum best_by_race(index_t n) {
    start_race(n);
    const index_t spacing = std::max<index_t>(4, static_cast<index_t>(std::sqrt(static_cast<double>(blocks()))));
    saved_.resize(at(race_.state_size() * ((blocks() + spacing - 1) / spacing)));
    saved_alive_.resize(at((blocks() + spacing - 1) / spacing));
    const auto tokens = [this](index_t b) { return draft().subspan(at(first(b)), at(first(b + 1) - first(b))); };
    prefix_optimum best{1, 0};
    index_t last = 0;  // later values are at least p(prefix), so they cannot be better
    for (; last < blocks() && target_before_[at(last)] < best.acceptance; ++last) {
      if (last % spacing == 0)
        race_.save(saved_.data() + last / spacing * race_.state_size(), saved_alive_[at(last / spacing)]);
      value_[at(last)] = 1 + target_before_[at(last)] - race_value(first(last), draft_behind_[at(last)]);
      improve(best, value_[at(last)], first(last));
      race_.add(tokens(last));
    }
    value_[at(last)] = last == blocks()
                           ? target_before_.back()
                           : 1 + target_before_[at(last)] - race_value(first(last), draft_behind_[at(last)]);
    improve(best, value_[at(last)], first(last));

    index_t here = -1;  // race_ holds the prefix before this block
    for (index_t b = 0; b < last; ++b) {
      if (!may_improve(b, best.acceptance)) continue;
      if (here < 0 || here / spacing < b / spacing) {
        here = b / spacing * spacing;
        race_.restore(saved_.data() + here / spacing * race_.state_size(), saved_alive_[at(here / spacing)]);
      }
      for (; here < b; ++here) race_.add(tokens(here));
      tails_of(b);
      double p = target_before_[at(b)];
      for (index_t k = first(b); k < first(b + 1); ++k) {
        improve(best, 1 + p - race_value(k, tail_[at(k - first(b))]), k);
        race_.add(draft().subspan(at(k), 1));
        p += p_[at(k)];
      }
      here = b + 1;
    }
    return clamped(best);
  }

  // ---- other acceptances ------------------------------------------------------------------------------------------

  /// top_ = the n largest q (all, if there are fewer), ties by lower id, as a heap whose front is the smallest.
  void find_largest(index_t n) {
    const auto before = [](const entry& x, const entry& y) { return x.q > y.q || (x.q == y.q && x.id < y.id); };
    top_.clear();
    for (index_t k = 0; k < support() && n > 0; ++k) {
      const entry e{p_[at(k)], q_[at(k)], id_[at(k)]};
      if (std::ssize(top_) == n) {
        if (!before(e, top_.front())) continue;
        std::pop_heap(top_.begin(), top_.end(), before);
        top_.pop_back();
      }
      top_.push_back(e);
      std::push_heap(top_.begin(), top_.end(), before);
    }
  }
  double hybrid(index_t n) {
    if (n > support()) return std::min(1.0, support() == 0 ? 0.0 : target_before_.back());
    find_largest(n - 1);
    // The rest as the tokens that are not in T: their sum keeps 1 - q(T) accurate.
    const entry limit = top_.empty() ? entry{0, 2, -1} : top_.front();
    const auto fixed = [&limit](double q, token_id x) { return q > limit.q || (q == limit.q && x <= limit.id); };
    double rest = 0, accepted = 0;
    for (index_t k = 0; k < support(); ++k) rest += fixed(q_[at(k)], id_[at(k)]) ? 0.0 : q_[at(k)];
    for (index_t k = 0; k < support(); ++k)
      accepted += fixed(q_[at(k)], id_[at(k)]) ? p_[at(k)] : std::min(p_[at(k)], q_[at(k)] / rest);
    return std::min(1.0, accepted);
  }

  /// sum of min(p, c q) over the support.
  double sum_of_minima(double c) const {
    double total = 0;
    for (index_t b = 0; b < blocks(); ++b)
      total += sum_of_block(b, [this, c](index_t k, auto w) {
        return Eigen::Array<double, w, 1>(lanes<w>(&p_[at(k)]).min(c * lanes<w>(&q_[at(k)])));
      });
    return std::min(1.0, total);
  }
  double recursive_pair() {
    const double accepted = single(), mass = 1 - accepted;
    if (!(mass > 0) || support() < 2) return accepted;
    gained_.resize(at(support() + 1));  // sum of (p - q)_+ over the first k tokens
    tails_.resize(at(support() + 1));   // sum of q over the others
    gained_[0] = tails_[at(support())] = 0;
    for (index_t b = 0; b < blocks(); ++b) {  // sums of blocks first: the error does not grow with V
      double gained = 0, tail = 0;
      for (index_t k = first(b); k < first(b + 1); ++k)
        gained_[at(k + 1)] = gained_[at(first(b))] + (gained += std::max(0.0, p_[at(k)] - q_[at(k)]));
      for (index_t k = first(b + 1); k-- > first(b);) tails_[at(k)] = draft_behind_[at(b + 1)] + (tail += q_[at(k)]);
    }
    // x_2 is accepted with sum_y min(r_2, s q), s = 1/(1 - q(x_1)): the tokens with p/q <= 1 + s mass contribute r_2.
    const auto accepted_second = [this, mass](double s) {
      const double limit = 1 + s * mass;
      index_t low = 0, high = support();
      while (low < high) {
        const index_t middle = (low + high) / 2;
        if (ratio(middle) <= limit)
          low = middle + 1;
        else
          high = middle;
      }
      return gained_[at(low)] / mass + s * tails_[at(low)];
    };
    const double others = start_pairs().others;  // 1 - the largest q
    double second = 0;
    for (index_t b = 0; b < blocks(); ++b) {
      double sum = 0;
      for (index_t k = first(b); k < first(b + 1); ++k) {
        const double rejected = q_[at(k)] - p_[at(k)];
        if (rejected > 0) sum += rejected * accepted_second(1 / (k == largest_ ? others : 1 - q_[at(k)]));
      }
      second += sum;
    }
    return std::min(1.0, accepted + second);
  }

  optimal_acceptance_options options_;
  std::vector<double> p_row_, q_row_, spread_;  // the rows, normalised
  std::vector<entry> unsorted_, top_;           // the support as read; the largest q
  std::vector<std::uint64_t> keys_, other_;
  std::vector<double> p_, q_, tail_;  // in the order of p/q
  std::vector<token_id> id_;
  std::vector<double> target_in_, draft_in_;                                 // sums of blocks
  std::vector<double> target_before_{0.0}, draft_behind_{0.0}, value_{1.0};  // at the ends of blocks
  std::vector<pair_sums> pairs_;                                             // before every block
  std::vector<double> gained_, tails_;
  std::vector<double> saved_;  // the integral's state before some blocks
  std::vector<index_t> saved_alive_;
  detail::race_integral race_;
  index_t largest_ = 0, race_n_ = 0;  // position of the largest q
  double cut_ = 0;
};

/// alpha* on dense laws. Allocates; a loop over positions keeps an optimal_acceptance. Throws as its prepare and best.
template <class DraftKind>
prefix_optimum best_acceptance(std::span<const double> p, std::span<const double> q, index_t n,
                               const optimal_acceptance_options& options = {}) {
  optimal_acceptance problem(options);
  problem.prepare(p, q);
  return problem.best<DraftKind>(n);
}

}  // namespace sluice
