// One node of a token tree by recursive rejection, all children rejected, against dense rows and their residuals.
#include <sluice/speculate/recursive_rejection.hpp>

#include <concepts>

#include "verification_peers.hpp"

namespace {

using namespace bench;

/// A node with K children, which the target all but excludes; q gives each some mass.
template <int K>
const round_of_logits& node(index_t v) {
  const auto make = [](index_t size) {
    auto* r = new round_of_logits(size, outcome::first_rejected);  // lives as long as the program
    for (std::size_t k = 0; k < K; ++k) {
      r->p[0][static_cast<std::size_t>(r->drafted[k])] = -40;
      r->q[0][static_cast<std::size_t>(r->drafted[k])] = 9;
    }
    return r;
  };
  static const round_of_logits &small = *make(32000), &large = *make(128256);
  return v == 32000 ? small : large;
}

template <class Kind>
constexpr bool distinct = std::same_as<Kind, sluice::draws_without_replacement>;
template <class Kind>
constexpr bool fixed = std::same_as<Kind, sluice::top_draws>;

template <class Kind, int K>
Eigen::ArrayXd residual_after(const round_of_logits& r) {
  Eigen::ArrayXd p = exact_softmax(r.p[0]);
  if (fixed<Kind>) return p;  // the children are all but excluded
  Eigen::ArrayXd q = exact_softmax(r.q[0]);
  for (std::size_t k = 0; k < K; ++k) {
    p = (p - q).max(0.0).eval();
    p /= p.sum();
    if (distinct<Kind>) {
      q[r.drafted[k]] = 0;
      q /= q.sum();
    }
  }
  return p;
}
template <class Kind, int K>
const law_check& node_law(index_t v) {
  static const law_check small(residual_after<Kind, K>(node<K>(32000))),
      large(residual_after<Kind, K>(node<K>(128256)));
  return v == 32000 ? small : large;
}

/// Both rows as probabilities, a new residual row for each rejected child, and a walk along the last one. Fixed
/// children: the target's row alone, a walk along it, and a comparison.
template <class Kind, int K>
auto dense_node() {
  return [p = Eigen::ArrayXf(), q = Eigen::ArrayXf(), random = std::mt19937_64(17)](const round_of_logits& r) mutable {
    dense_sampler::softmax(p, r.p[0]);
    if (!fixed<Kind>) dense_sampler::softmax(q, r.q[0]);
    for (std::size_t k = 0; k < K && !fixed<Kind>; ++k) {
      const token_id x = r.drafted[k];
      if (std::uniform_real_distribution<float>()(random) * q[x] < p[x]) return sluice::verdict{1, x};
      p = (p - q).max(0.0F);
      p *= 1 / p.sum();
      if (distinct<Kind>) {
        q[x] = 0;
        q *= 1 / q.sum();
      }
    }
    double u = std::uniform_real_distribution<double>()(random);
    index_t last = 0;
    for (index_t y = 0; y < p.size(); ++y)
      if (p[y] > 0) {
        last = y;
        if ((u -= static_cast<double>(p[y])) < 0) break;
      }
    return sluice::verdict{0, static_cast<token_id>(last)};
  };
}
template <class Kind, int K>
auto lazy_node() {
  return [rule = sluice::recursive_rejection<Kind>{},
          random = sluice::cursor(sluice::stream{5})](const round_of_logits& r) mutable {
    const auto d = rule.decide(r.target[0], r.draft[0], std::span(r.drafted).first(K), random);
    return sluice::verdict{d.child + 1, d.next};
  };
}

template <class Kind, int K>
void register_node() {
  const char* how = fixed<Kind>      ? "chosen without randomness"
                    : distinct<Kind> ? "drawn without replacement"
                                     : "drawn independently";
  for (const index_t v : {index_t{32000}, index_t{128256}})
    row{.slug = "speculative-base",
        .workload = "recursive rejection, " + std::to_string(K) + " children" +
                    (fixed<Kind>      ? " of top_draws"
                     : distinct<Kind> ? " without replacement"
                                      : "") +
                    ", all rejected, V = " + std::to_string(v),
        .unit = "rows read",
        .quality = {.name = "chi-square of the emitted token, 3 degrees of freedom", .tolerance = law_check::critical},
        .claim = "",
        .note = std::string("float logits, children ") + how +
                (fixed<Kind> ? ". naive: the row as probabilities in memory and a walk along it"
                             : ". naive: a residual row in memory for each child")}
        .naive(verifying(
            v, node<K>, node_law<Kind, K>, [] { return dense_node<Kind, K>(); }, 0, fixed<Kind> ? 1 : 2, 100))
        .sluice(verifying(
            v, node<K>, node_law<Kind, K>, [] { return lazy_node<Kind, K>(); }, 0, fixed<Kind> ? 1 : 2, 500, 1));
}

const bool registered = [] {
  register_node<sluice::independent_draws, 2>();
  register_node<sluice::independent_draws, 4>();
  register_node<sluice::draws_without_replacement, 2>();
  register_node<sluice::draws_without_replacement, 4>();
  register_node<sluice::top_draws, 4>();
  return true;
}();

}  // namespace
