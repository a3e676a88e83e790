#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/draw/exponential_race.hpp>
#include <sluice/draw/weighted_sample.hpp>
#include <sluice/draw/weights.hpp>
#include <sluice/draw/words.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/random/uniform.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace sluice {

/// How the keys of successive sampling are found. All give the same law.
/// skips: A-ExpJ, O(k log(n/k)) random numbers; one_pass: one word an item, a heap of k + 1 keys; in_memory: all keys,
/// then nth_element, O(n) for any k.
enum class race_method { skips, one_pass, in_memory };

struct successive_options {
  bool allow_fewer = false;  ///< take what there is when fewer than k weights are positive, instead of refusing
};

/// Successive sampling (Plackett-Luce): k of n items, each draw proportional to the weights of what is left.
///     key_i = E_i / w_i;   the k smallest keys, in ascending order, are k successive draws
/// The sample is in the order of the draws. Its inclusion probabilities have no closed form. Its weights are those of
/// the conditional law given T, the (k+1)-th smallest key: 1 / (1 - exp(-w_i T)), which makes sum weight * y unbiased
/// for the total of y (1 if no item is left over). `threshold` is T, infinity if nothing is left over; `kind` is none.
/// Cost: one pass to check the weights, in which a cursor's skips run along; then see race_method; no allocation once
/// the sizes are reached. Log-weights and weights that leave 2^-900 ... 2^900 are raced by log keys, one word an item,
/// whatever the method. One object a thread. Throws invalid_argument if a weight is negative, NaN or infinite
/// (log-weight: NaN or +inf), if k < 0, or if fewer than k weights are positive and allow_fewer is off. Source:
/// Efraimidis and Spirakis, Inf. Proc. Lett. 97, 2006 (A-ExpJ); weights: Kool, van Hoof and Welling, ICML 2019
/// (arXiv:1903.06059). Differs: keys are race times instead of u^(1/w), which underflows for w < 1e-3 and ties for
/// w > 1e16; the key of an item reached by a skip is drawn below T by thinning a uniform, or by inversion; blocks and
/// groups of items are skipped by their sums.
template <race_method Method = race_method::skips>
class successive_sampling {
 public:
  explicit successive_sampling(successive_options options = {}) : options_(options) {}

  template <weight_range W, word_source R>
  void draw_into(weighted_sample& s, const W& weights, index_t k, R& random) {
    const auto w = detail::weight_span(weights);
    expects(k >= 0, "successive_sampling", "k", k);
    if constexpr (Method == race_method::skips && std::same_as<R, cursor>)
      if (jump_in_one_pass(s, w, k, random)) return;
    const detail::weight_summary seen = detail::check_weights(w, "successive_sampling");
    const index_t chosen = admit(k, seen.positive);
    detail::restart(s, probability_kind::none, std::ssize(w));
    if (chosen == 0) return;
    keys_.restart(std::min(chosen + 1, seen.positive));
    const bool tame = is_tame(seen);
    if (!tame)
      find_log_keys(w, random, [](double v) { return std::log(v); });
    else if constexpr (Method == race_method::skips)
      jump(w, random,
           [](const auto* block, std::size_t n) { return detail::block_sum(block, n, [](double v) { return v; }); });
    else if constexpr (Method == race_method::one_pass)
      detail::race(w, random, offer(), keys_.threshold());
    else
      in_memory(w, random);
    finish(s, chosen, [&](const detail::race_entry& e, double threshold) {
      const double weight = static_cast<double>(w[static_cast<std::size_t>(e.item)]);
      return -std::expm1(tame ? -weight * threshold : -std::exp(std::log(weight) + threshold));
    });
    if (!tame) s.threshold = std::exp(s.threshold);
  }

  /// The same from log-weights of any offset. `threshold` is the logarithm of T.
  template <weight_range L, word_source R>
  void draw_log_into(weighted_sample& s, const L& log_weights, index_t k, R& random) {
    const auto l = detail::weight_span(log_weights);
    expects(k >= 0, "successive_sampling", "k", k);
    index_t positive = 0;
    if (!l.empty() && (k > 0 || !all_minus_infinity(l)))
      positive = detail::check_log_weights(l, "successive_sampling").positive;
    const index_t chosen = admit(k, positive);
    detail::restart(s, probability_kind::none, std::ssize(l));
    if (chosen == 0) return;
    keys_.restart(std::min(chosen + 1, positive));
    find_log_keys(l, random, [](double v) { return v; });
    finish(s, chosen, [&](const detail::race_entry& e, double threshold) {
      return -std::expm1(-std::exp(static_cast<double>(l[static_cast<std::size_t>(e.item)]) + threshold));
    });
  }

  template <weight_range W, word_source R>
  weighted_sample draw(const W& weights, index_t k, R& random) {
    weighted_sample s;
    draw_into(s, weights, k, random);
    return s;
  }
  template <weight_range L, word_source R>
  weighted_sample draw_log(const L& log_weights, index_t k, R& random) {
    weighted_sample s;
    draw_log_into(s, log_weights, k, random);
    return s;
  }

 private:
  static constexpr double infinity = std::numeric_limits<double>::infinity();

  template <class S>
  static bool all_minus_infinity(std::span<const S> l) {
    return std::all_of(l.begin(), l.end(), [](S v) { return v == -std::numeric_limits<S>::infinity(); });
  }

  index_t admit(index_t k, index_t positive) const {
    expects(options_.allow_fewer || k <= positive, "successive_sampling", "k", k);
    return std::min(k, positive);
  }

  auto offer() {
    return [this](detail::race_entry e) {
      keys_.offer(e);
      return keys_.threshold();
    };
  }

  template <class S, class LogWeight, class R>
  void find_log_keys(std::span<const S> w, R& random, LogWeight log_weight) {
    detail::log_race(w, random, log_weight, offer(), keys_.threshold());
  }

  template <class S, class R>
  void in_memory(std::span<const S> w, R& random) {
    const index_t m = keys_.capacity();
    std::vector<detail::race_entry>& all = keys_.entries();
    all.clear();
    detail::for_each_word(
        [&](std::size_t i, std::uint64_t word) {
          if (w[i] > 0) all.push_back({race_key(oc53(word), static_cast<double>(w[i])), static_cast<index_t>(i)});
        },
        w.size(), random);
    if (m < std::ssize(all)) {
      std::nth_element(all.begin(), all.begin() + m, all.end(), detail::arrives_before);
      all.resize(static_cast<std::size_t>(m));
    }
    std::make_heap(all.begin(), all.end(), detail::arrives_before);
  }

  /// No sum of such weights overflows and no key leaves the range of doubles.
  static bool is_tame(const detail::weight_summary& seen) {
    return seen.max <= 0x1p900 && seen.min_positive >= 0x1p-900;
  }

  /// A-ExpJ while the weights are being checked: one pass over memory instead of two. False if they turn out to be bad,
  /// too few or of too wide a span; then the cursor is where it was, s is unchanged, and the caller takes the long way.
  template <class S>
  bool jump_in_one_pass(weighted_sample& s, std::span<const S> w, index_t k, cursor& random) {
    if (k == 0 || k >= std::ssize(w)) return false;
    const cursor_state before = random.state();
    detail::weight_scan<S> scan;
    bool good = true;
    keys_.restart(k + 1);
    jump(w, random, [&](const S* block, std::size_t n) {
      const double mass = scan.block(block, n, good);
      return good ? mass : 0.0;
    });
    const detail::weight_summary seen = scan.summary();
    if (!good || !is_tame(seen) || seen.positive < k) {
      random = cursor(before);
      return false;
    }
    detail::restart(s, probability_kind::none, std::ssize(w));
    finish(s, k, [&](const detail::race_entry& e, double threshold) {
      return -std::expm1(-static_cast<double>(w[static_cast<std::size_t>(e.item)]) * threshold);
    });
    return true;
  }

  /// An exponential key of rate w, given that it is below t: by inversion, or, where t w is small, as t U kept with
  /// probability exp(-w t U), which 1 - w t U nearly always settles without an exponential.
  template <class R>
  static double key_below(double t, double w, R& random) {
    if (t * w > 0.5) return std::min(t, -std::log1p(oc53(random()) * std::expm1(-t * w)) / w);
    for (;;) {
      const double key = t * oc53(random()), v = co53(random());
      if (v < 1 - w * key || v < std::exp(-w * key)) return key;
    }
  }

  /// A-ExpJ: the weight that passes until the next item enters is exponential with rate T. mass(first, n) is asked once
  /// for each block of weight_block items, in order, and gives their sum.
  template <class S, class Mass, class R>
  void jump(std::span<const S> w, R& random, Mass&& mass) {
    const auto skip = [&] { return keys_.threshold() > 0 ? -std::log(oc53(random())) / keys_.threshold() : infinity; };
    double rest = keys_.full() ? skip() : infinity;
    for (std::size_t first = 0; first < w.size(); first += detail::weight_block) {
      const std::size_t last = std::min(w.size(), first + detail::weight_block);
      const double all = mass(w.data() + first, last - first);
      std::size_t i = first;
      if (!keys_.full()) {
        for (; i < last && !keys_.full(); ++i)
          if (const double v = static_cast<double>(w[i]); v > 0 && v < infinity)
            keys_.offer({race_key(oc53(random()), v), static_cast<index_t>(i)});
        if (!keys_.full()) continue;
        rest = skip();
      } else if (!(all > rest)) {
        rest -= all;
        continue;
      }
      // The next item is in this block, unless the sums round otherwise: then in a later one. Groups of eight are
      // passed over by their sums.
      const auto visit = [&](std::size_t item) {
        const double v = static_cast<double>(w[item]);
        if (!(v > rest)) {
          rest -= v;
          return;
        }
        keys_.replace_last({key_below(keys_.threshold(), v, random), static_cast<index_t>(item)});
        rest = skip();
      };
      constexpr std::size_t group = 8;
      for (; i + group <= last; i += group) {
        double pair[group / 2];  // a tree: a chain of additions would wait for each of them
        for (std::size_t j = 0; j < group / 2; ++j)
          pair[j] = static_cast<double>(w[i + j]) + static_cast<double>(w[i + group / 2 + j]);
        const double some = (pair[0] + pair[1]) + (pair[2] + pair[3]);
        if (!(some > rest))
          rest -= some;
        else
          for (std::size_t j = 0; j < group; ++j) visit(i + j);
      }
      for (; i < last; ++i) visit(i);
    }
  }

  template <class Inclusion>
  void finish(weighted_sample& s, index_t chosen, Inclusion inclusion) {
    const std::span<detail::race_entry> order = keys_.sorted();
    const bool left_over = std::ssize(order) > chosen;
    s.threshold = left_over ? order.back().key : infinity;
    for (const detail::race_entry& e : order.first(static_cast<std::size_t>(chosen))) {
      s.index.push_back(e.item);
      s.weight.push_back(left_over ? 1 / inclusion(e, s.threshold) : 1.0);
    }
    detail::measure(s);
  }

  detail::smallest_keys keys_;
  successive_options options_;
};

}  // namespace sluice
