// K-SEQ: what a decision costs on rows of float logits, against dense rows in memory, and how many tokens a call of the
// target gives with K independent paths, against the single chain and recursive rejection on the same paths.
#include <sluice/speculate/k_seq.hpp>

#include <sluice/draw/alias_table.hpp>

#include "decoding_world.hpp"
#include "verification_peers.hpp"

namespace {

using namespace bench;

enum class node_outcome { all_rejected, first_accepted, as_drawn };

/// A node with K draws, or a list of thousands of such draws, on rows that differ by normal noise.
class node_of_logits {
 public:
  static constexpr std::size_t n_drawn = 4096;
  node_of_logits(index_t v, index_t k, node_outcome o)
      : rows_(v, outcome::first_rejected), k_(static_cast<std::size_t>(k)) {
    std::vector<float>&p = rows_.p[0], &q = rows_.q[0];
    if (o != node_outcome::as_drawn) {
      for (std::size_t i = 0; i < k_; ++i) {
        const auto x = (i + 1) * p.size() / 11;
        p[x] = i == 0 && o == node_outcome::first_accepted ? 12.0F : -40.0F;
        q[x] = 7.0F;
        draws_.push_back(static_cast<token_id>(x));
      }
    } else {
      const Eigen::ArrayXd law = exact_softmax(q);
      const sluice::alias_table table(std::span<const double>(law.data(), static_cast<std::size_t>(law.size())));
      sluice::cursor random(sluice::stream{31});
      for (std::size_t i = 0; i < n_drawn * k_; ++i) draws_.push_back(static_cast<token_id>(table.draw(random)));
    }
    const Eigen::ArrayXd target = exact_softmax(p), draft = exact_softmax(q);
    const std::span<const double> a(target.data(), p.size()), b(draft.data(), p.size());
    const sluice::k_seq_profile profile(a, b);
    rho_ = profile.division_factor(k);
    acceptance_ = profile.acceptance(k);
    emitted_ = target;
    if (o == node_outcome::all_rejected) {
      sluice::k_seq_residual(std::span<double>(emitted_.data(), p.size()), a, b, k, rho_);
      emitted_ = emitted_.max(0.0).eval();
    }
    if (o == node_outcome::first_accepted) emitted_ = 0, emitted_[draws_[0]] = 1;
  }
  const std::vector<float>& p() const { return rows_.p[0]; }
  const std::vector<float>& q() const { return rows_.q[0]; }
  std::size_t n_lists() const { return draws_.size() / k_; }
  std::span<const token_id> draws(std::size_t call) const {
    return std::span(draws_).subspan(call % n_lists() * k_, k_);
  }
  const Eigen::ArrayXd& emitted() const { return emitted_; }
  double rho() const { return rho_; }
  double acceptance() const { return acceptance_; }

 private:
  round_of_logits rows_;
  std::size_t k_;
  std::vector<token_id> draws_;
  Eigen::ArrayXd emitted_;
  double rho_ = 1, acceptance_ = 1;
};

template <index_t K, node_outcome O>
const node_of_logits& node_at(index_t v) {
  static const node_of_logits small(32000, K, O), large(128256, K, O);
  return v == 32000 ? small : large;
}
template <index_t K, node_outcome O>
const law_check& law_of_node(index_t v) {
  static const law_check small(node_at<K, O>(32000).emitted()), large(node_at<K, O>(128256).emitted());
  return v == 32000 ? small : large;
}

/// Both rows as probabilities in memory, rho* by false position (Illinois), one vectorised pass a value of F; the
/// residual as a row, and a walk along it.
class dense_k_seq {
 public:
  sluice::node_decision operator()(const node_of_logits& node, std::span<const token_id> draws) {
    dense_sampler::softmax(p_, node.p());
    dense_sampler::softmax(q_, node.q());
    const double k = static_cast<double>(draws.size());
    const double rho = root(k);
    for (std::size_t i = 0; i < draws.size(); ++i) {
      const double u = std::uniform_real_distribution<double>()(random_);
      if (rho * u * static_cast<double>(q_[draws[i]]) < static_cast<double>(p_[draws[i]]))
        return {static_cast<index_t>(i), draws[i], {}};
    }
    const double stages = -std::expm1(k * std::log1p(-beta(rho))) / beta(rho);
    r_ = (p_ - q_.min(p_ * static_cast<float>(1 / rho)) * static_cast<float>(stages)).max(0.0F);
    double u = std::uniform_real_distribution<double>(0, static_cast<double>(r_.sum()))(random_);
    index_t last = 0;
    for (index_t y = 0; y < r_.size(); ++y)
      if (r_[y] > 0) {
        last = y;
        if ((u -= static_cast<double>(r_[y])) < 0) break;
      }
    const auto found = std::find(draws.begin(), draws.end(), last);
    return {found == draws.end() ? index_t{-1} : found - draws.begin(), static_cast<token_id>(last), {}};
  }
  double passes() const { return static_cast<double>(passes_) / static_cast<double>(searches_); }

 private:
  double beta(double rho) {
    ++passes_;
    const auto c = static_cast<float>(1 / rho);
    double sum = 0;  // blocks, so that the float sums stay exact enough
    for (index_t i = 0; i < p_.size(); i += 4096) {
      const index_t n = std::min<index_t>(4096, p_.size() - i);
      sum += static_cast<double>((p_.segment(i, n) * c).min(q_.segment(i, n)).sum());
    }
    return std::min(sum, 1.0);
  }
  double root(double k) {
    ++searches_;
    const auto f = [&](double rho) {
      const double b = beta(rho);
      return -std::expm1(k * std::log1p(-b)) - rho * b;
    };
    double lo = 1, hi = k, at_lo = f(lo), at_hi = f(hi);
    if (at_lo <= 0) return lo;
    for (int side = 0; hi - lo > 1e-6 * hi && at_hi < 0;) {
      const double x = (lo * at_hi - hi * at_lo) / (at_hi - at_lo), fx = f(x);
      if (!(x > lo && x < hi)) break;
      if (fx <= 0) {
        hi = x, at_hi = fx;
        if (side == 1) at_lo /= 2;
        side = 1;
      } else {
        lo = x, at_lo = fx;
        if (side == -1) at_hi /= 2;
        side = -1;
      }
      if (std::abs(fx) < 1e-8) break;
    }
    return hi;
  }
  Eigen::ArrayXf p_, q_, r_;
  std::mt19937_64 random_{19};
  std::int64_t passes_ = 0, searches_ = 0;
};

struct lazy_k_seq {
  sluice::cursor random{sluice::stream{23}};
  sluice::node_decision operator()(const node_of_logits& node, std::span<const token_id> draws) {
    return sluice::k_seq{}.decide(sluice::token_row<float>{sluice::row_kind::logits, node.p()},
                                  sluice::token_row<float>{sluice::row_kind::logits, node.q()}, draws, random);
  }
};

/// Times the decisions; checks the law of what is emitted, over lists of draws that are used once.
template <class Rule, index_t K, node_outcome O>
auto deciding(index_t v, int at_least) {
  struct kept {
    Rule rule;
    std::array<double, 4> seen{};
    std::size_t calls = 0;
  };
  return [=, shared = std::make_shared<kept>()](benchmark::State& state) {
    const node_of_logits& node = node_at<K, O>(v);
    const law_check& check = law_of_node<K, O>(v);
    bool as_expected = true;
    const auto once = [&] {
      const auto d = shared->rule(node, node.draws(shared->calls));
      if (O == node_outcome::all_rejected) as_expected = as_expected && d.child < 0;
      if (O == node_outcome::first_accepted) as_expected = as_expected && d.child == 0;
      if (O != node_outcome::as_drawn || shared->calls < node.n_lists()) check.add(shared->seen, d.next);
      ++shared->calls;
    };
    for (auto _ : state) once();
    while (shared->calls < static_cast<std::size_t>(at_least)) once();
    state.counters["work"] = 2;
    state.counters["V"] = static_cast<double>(v);
    state.counters["quality"] = check.statistic(shared->seen);
    char note[120] = "";
    if constexpr (std::same_as<Rule, dense_k_seq>)
      std::snprintf(note, sizeof note, "%.1f passes for rho on average", shared->rule.passes());
    else
      std::snprintf(note, sizeof note, "rho* = %.3f, acceptance %.3f", node.rho(), node.acceptance());
    state.SetLabel(note);
    if (!as_expected) state.SkipWithError("a decision did not end as it must");
    if (check.statistic(shared->seen) > law_check::critical) state.SkipWithError("the emitted token has another law");
  };
}

template <index_t K, node_outcome O>
void add_decisions(const char* name) {
  for (const index_t v : {index_t{32000}, index_t{128256}})
    row{.slug = "spectr",
        .workload = "k-SEQ, " + std::to_string(K) + " drafts, " + name + ", V = " + std::to_string(v),
        .unit = "rows read",
        .quality = {.name = "chi-square of the emitted token, 3 degrees of freedom", .tolerance = law_check::critical},
        .claim = "",
        .note = "float logits. naive: softmax of both rows in memory, false position on F, residual row in memory"}
        .naive(deciding<dense_k_seq, K, O>(v, 200))
        .sluice(deciding<lazy_k_seq, K, O>(v, 2000));
}

}  // namespace

/// The scan's tests with the factor that the rule uses, then what its residual leaves on tokens that were drawn.
template <>
struct bench::speculation::exact_acceptance<sluice::k_seq> {
  template <class Round>
  static void of(const sluice::k_seq& rule, std::span<double> out, const Round& round, sluice::index_t node) {
    const auto draws = round.tree().draws(node);
    const dense_laws laws(round, node);
    const auto plan = rule.plan(round.target_law(node), round.draft_law(node), std::ssize(draws));
    double left = 1;
    for (std::size_t i = 0; i < draws.size(); ++i) {
      const auto x = static_cast<std::size_t>(draws[i]);
      const double a = sluice::acceptance_probability(laws.p[x], plan.rho * laws.q[x]);
      out[i] = left * a;
      left *= 1 - a;
    }
    if (!(left > 0)) return;
    std::vector<double> residual(laws.p.size());
    double mass = 0;
    sluice::k_seq_residual(residual, laws.p, laws.q, std::ssize(draws), plan.rho);
    for (double& r : residual) mass += r = std::max(0.0, r);
    for (std::size_t i = 0; mass > 0 && i < draws.size(); ++i) {
      double& r = residual[static_cast<std::size_t>(draws[i])];
      out[i] += left * r / mass;
      r = 0;  // the first of equal draws
    }
  }
};

namespace {

namespace speculation = bench::speculation;

const speculation::world& bytes_at(double temperature) {
  static const speculation::world w = [=] {
    auto world = speculation::make_world(sluice::models::byte_tokenizer::encode(bench::text()), 256,
                                         sluice::models::smoothing::witten_bell, 6, 4);
    world.temperature = temperature;
    return world;
  }();
  return w;
}
const speculation::world& cool_bytes_from_4() { return bytes_at(0.7); }

template <sluice::index_t K, sluice::index_t L>
sluice::tree_shape paths(const speculation::world&) {
  return sluice::independent_paths(K, L);
}

template <sluice::index_t K, sluice::index_t L>
void add_paths(const std::string& name, const speculation::world& (*text)()) {
  using speculation::decoded;
  using speculation::small_model;
  // The key counts nodes at most; equal keys of one rule and one shape are one measurement.
  speculation::named("spectr", name + ", K = " + std::to_string(K) + ", L = " + std::to_string(L),
                     L == 8 && K == 8 ? "+38 % tokens a call over the chain" : "")
      .naive(speculation::one_call_a_token(text, -1))
      .sluice(decoded<small_model>(text, sluice::k_seq{}, paths<K, L>, -K))
      .peer("chain of length L",
            decoded<small_model>(text, sluice::token_rejection{}, speculation::chain<L>, -1, "chain"))
      .peer("recursive rejection, same paths",
            decoded<small_model>(text, speculation::with_replacement{}, paths<K, L>, -K, "recursive rejection"));
}

const bool registered = [] {
  add_decisions<2, node_outcome::all_rejected>("all rejected");
  add_decisions<4, node_outcome::all_rejected>("all rejected");
  add_decisions<8, node_outcome::all_rejected>("all rejected");
  add_decisions<2, node_outcome::first_accepted>("first accepted");
  add_decisions<8, node_outcome::first_accepted>("first accepted");
  add_decisions<2, node_outcome::as_drawn>("as drawn");
  add_decisions<4, node_outcome::as_drawn>("as drawn");
  add_decisions<8, node_outcome::as_drawn>("as drawn");
  add_paths<2, 4>("bytes 6 from 4", speculation::bytes_from_4);
  add_paths<4, 4>("bytes 6 from 4", speculation::bytes_from_4);
  add_paths<8, 4>("bytes 6 from 4", speculation::bytes_from_4);
  add_paths<2, 8>("bytes 6 from 4", speculation::bytes_from_4);
  add_paths<4, 8>("bytes 6 from 4", speculation::bytes_from_4);
  add_paths<8, 8>("bytes 6 from 4", speculation::bytes_from_4);
  add_paths<2, 4>("bytes 6 from 3", speculation::bytes_from_3);
  add_paths<4, 4>("bytes 6 from 3", speculation::bytes_from_3);
  add_paths<8, 4>("bytes 6 from 3", speculation::bytes_from_3);
  add_paths<2, 8>("bytes 6 from 3", speculation::bytes_from_3);
  add_paths<4, 8>("bytes 6 from 3", speculation::bytes_from_3);
  add_paths<8, 8>("bytes 6 from 3", speculation::bytes_from_3);
  add_paths<8, 8>("bytes 6 from 4, temperature 0.7", cool_bytes_from_4);
  return true;
}();

}  // namespace
