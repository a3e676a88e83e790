// The acceptance of every rule for several drafts of one position, beside the most that any rule can reach: n-gram
// pairs on positions of the target's own text, temperature 1. Exact figures, and the rules themselves on the same rows.
#include <sluice/models/text_generator.hpp>
#include <sluice/speculate/k_seq.hpp>
#include <sluice/speculate/optimal_acceptance.hpp>
#include <sluice/speculate/optimal_multidraft.hpp>
#include <sluice/speculate/weighted_selection.hpp>

#include <array>
#include <memory>

#include "decoding_world.hpp"

namespace {

using namespace bench::speculation;
using dense = std::vector<double>;

struct pair_of_models {
  const char* name;
  bool bytes;
  int large, small;
};
constexpr std::array<pair_of_models, 4> pairs{{{"bytes 6 from 3", true, 6, 3},
                                               {"bytes 6 from 4", true, 6, 4},
                                               {"byte pairs V = 1024, 4 from 2", false, 4, 2},
                                               {"byte pairs V = 1024, 4 from 3", false, 4, 3}}};

/// The laws of both models after a context.
struct position {
  dense p, q;
  token_row<double> target() const { return {row_kind::probabilities, p}; }
  token_row<double> draft() const { return {row_kind::probabilities, q}; }
};

/// Positions of texts that the target writes: every tenth token of 200 after a prompt.
std::vector<position> positions_of(const world& w, std::size_t count) {
  std::vector<position> all;
  const auto size = static_cast<std::size_t>(w.large.vocabulary_size());
  for (std::size_t request = 0; all.size() < count; ++request) {
    std::vector<token_id> text = w.prompt(request);
    cursor random(stream{20240607}.derive(request));
    for (int i = 1; i <= 200 && all.size() < count; ++i) {
      position here{dense(size), dense(size)};
      w.large.row(here.p, text);
      w.small.row(here.q, text);
      text.push_back(token_law<double>(here.target()).draw(random));
      if (i % 10 == 0) all.push_back(std::move(here));
    }
  }
  return all;
}

std::size_t n_positions() {
  return bench::options().mode == bench::effort::quick  ? 200
         : bench::options().mode == bench::effort::full ? 2000
                                                        : 1000;
}
constexpr int rounds_per_position = 8;

/// The text of the run, or generated text whatever the run uses.
const std::string& text_of(bool generated) {
  static const std::string own =
      bench::options().text.empty()
          ? std::string()
          : models::generate_text(1, static_cast<index_t>(std::min<std::size_t>(bench::options().text_bytes, 1000000)));
  return generated && !own.empty() ? own : bench::text();
}
const std::vector<position>& positions(bool generated, std::size_t pair) {
  static std::map<std::pair<const std::string*, std::size_t>, std::vector<position>> all;
  const auto [found, fresh] = all.try_emplace({&text_of(generated), pair});
  if (fresh) {
    const pair_of_models& m = pairs[pair];
    const std::string& text = text_of(generated);
    if (m.bytes) {
      found->second = positions_of(
          make_world(models::byte_tokenizer::encode(text), 256, models::smoothing::witten_bell, m.large, m.small),
          n_positions());
    } else {
      const models::bpe_tokenizer tokens(text, {.vocabulary_size = 1024});
      found->second = positions_of(
          make_world(tokens.encode(text), tokens.vocabulary_size(), models::smoothing::kneser_ney, m.large, m.small),
          n_positions());
    }
  }
  return found->second;
}

/// What a rule does over all positions: exact acceptance, its spread over the positions, and the rule itself.
struct rung {
  double exact = 0, square = 0, positions = 0;
  double hits = 0, expected = 0, variance = 0, rounds = 0;
  void add(double a) { exact += a, square += a * a, ++positions; }
  void add_round(bool hit, double probability) {
    hits += hit ? 1 : 0, expected += probability, variance += probability * (1 - probability), ++rounds;
  }
  double acceptance() const { return exact / positions; }
  double error() const {
    return std::sqrt(std::max(0.0, square / positions - acceptance() * acceptance()) / positions);
  }
  double z() const { return (hits - expected) / std::sqrt(std::max(variance, 1e-300)); }
};

/// The rules as they are called at one position: prepared once, then decided for given drafts; and the probability that
/// the emitted token is a draft.
struct single_rule {
  static constexpr const char* name = "single draft";
  using draft_kind = independent_draws;
  static index_t draws(index_t) { return 1; }
  void prepare(const position&, optimal_acceptance& bounds, index_t) { exact_ = bounds.single(); }
  double acceptance() const { return exact_; }
  double given(const position&, std::span<const token_id>) const { return exact_; }
  node_decision decide(const position& x, std::span<const token_id> drafts, cursor& random) const {
    return token_rejection{}.decide(x.target(), x.draft(), drafts, random);
  }

 private:
  double exact_ = 0;
};
template <class Kind>
struct recursive_rule {
  static constexpr const char* name =
      std::same_as<Kind, independent_draws> ? "recursive rejection" : "recursive rejection without replacement";
  using draft_kind = Kind;
  static index_t draws(index_t n) { return n; }
  void prepare(const position&, optimal_acceptance& bounds, index_t n) {
    exact_ = std::same_as<Kind, independent_draws> || n <= 2 ? bounds.recursive_rejection_acceptance<Kind>(n) : -1;
  }
  /// -1: known for given drafts only.
  double acceptance() const { return exact_; }
  double given(const position& x, std::span<const token_id> drafts) const {
    if (exact_ >= 0) return exact_;
    rejection_stage stage;
    double left = 1;
    for (const token_id y : drafts) {
      const auto i = static_cast<std::size_t>(y);
      left *= 1 - stage.acceptance(x.p[i], x.q[i]);
      if (!(left > 0)) break;
      stage = next_stage<Kind>(stage, x.p, x.q, y);
    }
    return 1 - left;
  }
  node_decision decide(const position& x, std::span<const token_id> drafts, cursor& random) const {
    return recursive_rejection<Kind>{}.decide(x.target(), x.draft(), drafts, random);
  }

 private:
  double exact_ = 0;
};
struct k_seq_rule {
  static constexpr const char* name = "k-SEQ";
  using draft_kind = independent_draws;
  static index_t draws(index_t n) { return n; }
  void prepare(const position& x, optimal_acceptance&, index_t n) {
    exact_ = k_seq_acceptance(k_seq_beta(x.p, x.q, k_seq_division_factor(x.p, x.q, n)), n);
  }
  double acceptance() const { return exact_; }
  double given(const position&, std::span<const token_id>) const { return exact_; }
  node_decision decide(const position& x, std::span<const token_id> drafts, cursor& random) const {
    return k_seq{}.decide(x.target(), x.draft(), drafts, random);
  }

 private:
  double exact_ = 0;
};
template <int Sweeps>
struct weighted_rule {
  static constexpr const char* name = Sweeps == 3 ? "weighted selection, 3 sweeps" : "weighted selection, 6 sweeps";
  using draft_kind = independent_draws;
  static index_t draws(index_t n) { return n; }
  void prepare(const position& x, optimal_acceptance&, index_t n) {
    plan_.prepare(x.p, x.q, n);
    residual_ = x.p;
    for (std::size_t k = 0; k < plan_.order().size(); ++k) {
      double& r = residual_[static_cast<std::size_t>(plan_.order()[k])];
      r = std::max(0.0, r - plan_.selected_mass()[k]);
    }
    mass_ = 0;
    for (const double r : residual_) mass_ += r;
  }
  void replan(const position& x, index_t n) { plan_.prepare(x.p, x.q, n); }
  double acceptance() const { return plan_.acceptance(); }
  /// A draft may also be emitted as the correction, unless it is the one that was selected.
  double given(const position&, std::span<const token_id> drafts) const {
    bool upper = false;
    for (const token_id x : drafts) upper = upper || plan_.place(x) >= plan_.prefix();
    double weights = 0, accepted = 0, corrected = 0;
    for (std::size_t i = 0; i < drafts.size(); ++i) {
      const index_t k = plan_.place(drafts[i]);
      if (std::find(drafts.begin(), drafts.begin() + static_cast<std::ptrdiff_t>(i), drafts[i]) ==
          drafts.begin() + static_cast<std::ptrdiff_t>(i))
        corrected += residual_[static_cast<std::size_t>(drafts[i])];
      if ((k >= plan_.prefix()) != upper) continue;
      weights += plan_.weight(k);
      accepted += plan_.weight(k) * plan_.acceptance_of(drafts[i]);
    }
    const double a = accepted / weights;
    return mass_ > 0 ? a + (1 - a) * corrected / mass_ : a;
  }
  node_decision decide(const position& x, std::span<const token_id> drafts, cursor& random) const {
    return plan_.decide(x.target(), drafts, random);
  }

 private:
  weighted_selection_plan plan_{{.sweeps = Sweeps}};
  dense residual_;
  double mass_ = 0;
};
struct hybrid_rule {
  static constexpr const char* name = "hybrid";
  using draft_kind = hybrid_draws;
  static index_t draws(index_t n) { return n; }
  void prepare(const position&, optimal_acceptance& bounds, index_t n) {
    exact_ = bounds.best<hybrid_draws>(n).acceptance;
  }
  double acceptance() const { return exact_; }
  double given(const position&, std::span<const token_id>) const { return exact_; }
  node_decision decide(const position& x, std::span<const token_id> drafts, cursor& random) const {
    return hybrid_verification<>{}.decide(x.target(), x.draft(), drafts, random);
  }

 private:
  double exact_ = 0;
};

template <class Kind>
std::vector<token_id> draw(const position& x, index_t n, cursor& random) {
  std::vector<token_id> out(static_cast<std::size_t>(n));
  dense scratch(x.q.size());
  const drawn_children d =
      draw_children(Kind{}, std::span<token_id>(out), std::span<double>(scratch), x.draft(), std::ssize(x.q), random);
  out.resize(static_cast<std::size_t>(d.n));
  return out;
}

/// All rules and bounds at all positions of one pair, n drafts.
struct ladder {
  rung single, recursive, seq, weighted_3, weighted_6, without, hybrid, best, best_without;
  bool in_order = true;

  ladder(const std::vector<position>& all, index_t n) {
    optimal_acceptance bounds;
    single_rule rule_1;
    recursive_rule<independent_draws> rule_2;
    k_seq_rule rule_3;
    weighted_rule<3> rule_4;
    weighted_rule<6> rule_5;
    recursive_rule<draws_without_replacement> rule_6;
    hybrid_rule rule_7;
    cursor random(stream{20250101}.derive(static_cast<std::uint64_t>(n)));
    for (const position& x : all) {
      bounds.prepare(x.p, x.q);
      const double with = bounds.best<independent_draws>(n).acceptance;
      const double distinct = bounds.best<draws_without_replacement>(n).acceptance;
      best.add(with);
      best_without.add(distinct);
      const double one = add(single, rule_1, x, bounds, n, random), rrs = add(recursive, rule_2, x, bounds, n, random);
      const double kseq = add(seq, rule_3, x, bounds, n, random);
      const double three = add(weighted_3, rule_4, x, bounds, n, random);
      const double six = add(weighted_6, rule_5, x, bounds, n, random);
      const double other = add(without, rule_6, x, bounds, n, random);
      add(hybrid, rule_7, x, bounds, n, random);
      const bool sampled = other < 0;  // then `without` holds averages over the drafts
      in_order = in_order && one <= rrs + 1e-12 && one <= kseq + 1e-12 && std::max(rrs, kseq) <= with + 1e-12 &&
                 std::max(three, six) <= with + 1e-9 && with <= distinct + 1e-12 &&
                 (sampled || other <= distinct + 1e-12);
    }
  }
  double largest_z() const {
    double z = 0;
    for (const rung* r : {&single, &recursive, &seq, &weighted_3, &weighted_6, &without, &hybrid})
      z = std::max(z, std::abs(r->z()));
    return z;
  }

 private:
  template <class Rule>
  static double add(rung& r, Rule& rule, const position& x, optimal_acceptance& bounds, index_t n, cursor& random) {
    rule.prepare(x, bounds, n);
    const double exact = rule.acceptance();
    double mean = 0;
    for (int i = 0; i < rounds_per_position; ++i) {
      const std::vector<token_id> drafts = draw<typename Rule::draft_kind>(x, Rule::draws(n), random);
      const double a = rule.given(x, drafts);
      r.add_round(rule.decide(x, drafts, random).child >= 0, a);
      mean += a / rounds_per_position;
    }
    r.add(exact < 0 ? mean : exact);
    return exact;
  }
};
const ladder& ladder_of(bool generated, std::size_t pair, index_t n) {
  static std::map<std::pair<const std::vector<position>*, index_t>, std::unique_ptr<ladder>> all;
  const auto [found, fresh] = all.try_emplace({&positions(generated, pair), n});
  if (fresh) found->second = std::make_unique<ladder>(positions(generated, pair), n);
  return *found->second;
}

/// Times what a round costs at a position whose rows are there: preparing the rule and deciding on drafts.
template <class Rule>
auto timed(bool generated, std::size_t pair, index_t n, rung ladder::*which, bool whole) {
  return [=](benchmark::State& state) {
    const std::vector<position>& all = positions(generated, pair);
    const ladder& l = ladder_of(generated, pair, n);
    std::vector<std::vector<token_id>> drafts;
    cursor random(stream{20250102});
    for (const position& x : all) drafts.push_back(draw<typename Rule::draft_kind>(x, Rule::draws(n), random));
    Rule rule;
    std::size_t i = 0;
    for (auto _ : state) {
      // Only weighted selection prepares something; for the others that is the exact figure, which no decision needs.
      if constexpr (requires { rule.replan(all[i], n); }) rule.replan(all[i], n);
      benchmark::DoNotOptimize(rule.decide(all[i], drafts[i], random).next);
      i = i + 1 < all.size() ? i + 1 : 0;
    }
    state.counters["work"] = 1 - (l.*which).acceptance();
    state.counters["n"] = static_cast<double>(n);
    if (whole) {
      state.counters["quality"] = l.largest_z();
      char note[512];
      std::snprintf(
          note, sizeof note,
          "accepted: single %.3f; independent: recursive rejection %.3f, k-SEQ %.3f, weighted selection %.3f (3 "
          "sweeps) %.3f (6), optimum %.3f; without replacement: recursive rejection %.3f, optimum %.3f; hybrid "
          "%.3f, its optimum; over %.0f positions, standard error of the optimum %.3f",
          l.single.acceptance(), l.recursive.acceptance(), l.seq.acceptance(), l.weighted_3.acceptance(),
          l.weighted_6.acceptance(), l.best.acceptance(), l.without.acceptance(), l.best_without.acceptance(),
          l.hybrid.acceptance(), l.best.positions, l.best.error());
      state.SetLabel(note);
      if (!l.in_order) state.SkipWithError("a rule accepts more than the optimum of its drafts");
    }
  };
}

void add(bool generated, std::size_t pair, index_t n) {
  const auto at = [=]<class Rule>(Rule, rung ladder::*which, bool whole) {
    return timed<Rule>(generated, pair, n, which, whole);
  };
  bench::row r{.slug = "mdsd",
               .workload = std::string(generated ? "ladder on generated text, " : "ladder, ") + pairs[pair].name +
                           ", n = " + std::to_string(n),
               .unit = "positions without an accepted draft, each",
               .quality = {.name = "largest |z| of sampled against exact acceptance, 7 rules", .tolerance = 5.5},
               .claim = "OPT, T = 1: recursive rejection 85.4 %, optimum 86.9 %",
               .note =
                   "naive: one draft; sluice: hybrid drafts and their rule; peers: other drafts and rules, time of "
                   "one decision"};
  r.naive(at(single_rule{}, &ladder::single, false)).sluice(at(hybrid_rule{}, &ladder::hybrid, true));
  r.peer(recursive_rule<independent_draws>::name, at(recursive_rule<independent_draws>{}, &ladder::recursive, false));
  r.peer(k_seq_rule::name, at(k_seq_rule{}, &ladder::seq, false));
  r.peer(weighted_rule<3>::name, at(weighted_rule<3>{}, &ladder::weighted_3, false));
  r.peer(weighted_rule<6>::name, at(weighted_rule<6>{}, &ladder::weighted_6, false));
  r.peer(recursive_rule<draws_without_replacement>::name,
         at(recursive_rule<draws_without_replacement>{}, &ladder::without, false));
}

const bool registered = [] {
  for (const bool generated : {false, true})
    for (std::size_t pair = 0; pair < pairs.size(); ++pair)
      for (const index_t n : {2, 4}) add(generated, pair, n);
  return true;
}();

}  // namespace
