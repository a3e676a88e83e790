#pragma once
#include <sluice/random/stream.hpp>
#include <sluice/speculate/language_model.hpp>
#include <sluice/speculate/verification.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <report/row.hpp>
#include <string>
#include <vector>

/// One round of verification, rows of float logits in, a decision out, and the same work as others do it.
namespace bench {

using sluice::index_t;
using sluice::token_id;
inline constexpr index_t gamma_drafts = 4;
enum class outcome { first_rejected, all_accepted };

/// Target logits: normal numbers times 3; draft logits: the target's plus normal noise. The drafted tokens' target
/// logits are moved so that the outcome is certain: -40, or +60 for all of them.
struct round_of_logits {
  std::vector<std::vector<float>> p, q;
  std::vector<sluice::token_row<float>> target, draft;
  std::vector<token_id> drafted;
  sluice::request<float, float> request() const { return {target, draft, drafted}; }

  round_of_logits(index_t v, outcome o) {
    std::mt19937_64 random(7);
    std::normal_distribution<float> normal;
    for (index_t i = 0; i <= gamma_drafts; ++i) {
      std::vector<float> a(static_cast<std::size_t>(v)), b(a.size());
      for (std::size_t x = 0; x < a.size(); ++x) {
        a[x] = 3 * normal(random);
        b[x] = a[x] + normal(random);
      }
      const auto x = static_cast<std::size_t>(i + 1) * a.size() / 7;
      if (i < gamma_drafts) {
        b[x] = 9;
        if (o == outcome::all_accepted) a[x] = 60;
        if (o == outcome::first_rejected && i == 0) a[x] = -40;
        drafted.push_back(static_cast<token_id>(x));
        q.push_back(std::move(b));
      }
      p.push_back(std::move(a));
    }
    for (const auto& row : p) target.push_back({sluice::row_kind::logits, row});
    for (const auto& row : q) draft.push_back({sluice::row_kind::logits, row});
  }
  round_of_logits(const round_of_logits&) = delete;
};

inline Eigen::ArrayXd exact_softmax(const std::vector<float>& row) {
  const Eigen::ArrayXd l = Eigen::Map<const Eigen::ArrayXf>(row.data(), std::ssize(row)).cast<double>();
  const Eigen::ArrayXd w = (l - l.maxCoeff()).exp();
  return w / w.sum();
}

/// Counts emitted tokens in four cells of nearly equal mass under the exact law; a cell holds tokens of like mass.
class law_check {
 public:
  static constexpr double critical = 30.665;  // chi-square, 3 degrees of freedom, 1e-6
  explicit law_check(const Eigen::ArrayXd& law) : cell_(static_cast<std::size_t>(law.size())) {
    std::vector<index_t> order(cell_.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<index_t>(i);
    std::sort(order.begin(), order.end(), [&](index_t a, index_t b) { return law[a] > law[b]; });
    const double total = law.sum();
    double sum = 0;
    for (const index_t x : order) {
      const auto c = std::min<std::size_t>(3, static_cast<std::size_t>(4 * sum / total));
      cell_[static_cast<std::size_t>(x)] = c;
      mass_[c] += law[x] / total;
      sum += law[x];
    }
  }
  void add(std::array<double, 4>& seen, token_id x) const { ++seen[cell_[static_cast<std::size_t>(x)]]; }
  double statistic(const std::array<double, 4>& seen) const {
    const double n = seen[0] + seen[1] + seen[2] + seen[3];
    double sum = 0;
    for (std::size_t c = 0; c < 4; ++c)
      if (mass_[c] > 0) sum += (seen[c] - n * mass_[c]) * (seen[c] - n * mass_[c]) / (n * mass_[c]);
    return sum;
  }

 private:
  std::vector<std::size_t> cell_;
  std::array<double, 4> mass_{};
};

/// As a sampler chain without top-k does it: an array of {id, logit, p} for each visited row, sorted, softmax, a draw.
class sorting_sampler {
 public:
  sluice::verdict operator()(const round_of_logits& r, bool every_row) {
    sluice::verdict v{-1, -1};
    for (std::size_t i = 0; i < r.p.size(); ++i) {
      const token_id x = draw(r.p[i]);
      const bool stop = i == r.drafted.size() || x != r.drafted[i];
      if (stop && v.accepted < 0) v = {static_cast<index_t>(i), x};
      if (stop && !every_row) break;
    }
    return v;
  }

 private:
  struct item {
    token_id id;
    float logit, p;
  };
  token_id draw(const std::vector<float>& row) {
    items_.resize(row.size());
    for (std::size_t x = 0; x < row.size(); ++x) items_[x] = {static_cast<token_id>(x), row[x], 0};
    std::sort(items_.begin(), items_.end(), [](const item& a, const item& b) { return a.logit > b.logit; });
    double sum = 0;
    for (item& t : items_) sum += t.p = std::exp(t.logit - items_[0].logit);
    double u = std::uniform_real_distribution<double>(0, sum)(random_);
    for (const item& t : items_)
      if ((u -= t.p) < 0) return t.id;
    return items_[0].id;
  }
  std::vector<item> items_;
  std::mt19937_64 random_{11};
};

/// As a batched sampler for another device does it: softmax of every row in memory, a recovery token for every position
/// by the largest (p - q)_+ / e with e exponential, and the bonus token likewise. One row of e serves all positions of
/// the round, since one of their tokens is used at most; uniforms are a vectorised hash of a counter.
class dense_sampler {
 public:
  sluice::verdict operator()(const round_of_logits& r) {
    p_.resize(r.p.size());
    q_.resize(r.q.size());
    for (std::size_t i = 0; i < p_.size(); ++i) softmax(p_[i], r.p[i]);
    for (std::size_t i = 0; i < q_.size(); ++i) softmax(q_[i], r.q[i]);
    index_t next = 0;
    draw_noise(p_[0].size());
    scratch_ = p_.back() * noise_;
    scratch_.maxCoeff(&next);
    const index_t bonus = next;
    draw_noise(p_[0].size());
    std::array<index_t, 8> recovered{};
    for (std::size_t i = 0; i < q_.size(); ++i) {
      scratch_ = (p_[i] - q_[i]).max(0.0F) * noise_;
      scratch_.maxCoeff(&recovered[i]);
    }
    for (std::size_t i = 0; i < q_.size(); ++i) {
      const float u = std::uniform_real_distribution<float>()(random_);
      if (!(u * q_[i][r.drafted[i]] < p_[i][r.drafted[i]]))
        return {static_cast<index_t>(i), static_cast<token_id>(recovered[i])};
    }
    return {std::ssize(r.q), static_cast<token_id>(bonus)};
  }

  static void softmax(Eigen::ArrayXf& out, const std::vector<float>& row) {
    const Eigen::Map<const Eigen::ArrayXf> l(row.data(), std::ssize(row));
    out = (l - l.maxCoeff()).exp();
    out *= 1 / out.sum();
  }

 private:
  void draw_noise(index_t n) {
    noise_.resize(n);
    const auto key = static_cast<std::uint32_t>(random_());
    float* out = noise_.data();
    for (std::uint32_t x = 0; x < static_cast<std::uint32_t>(n); ++x) {
      std::uint32_t h = x * 0x9e3779b9U + key;
      h = (h ^ (h >> 16)) * 0x85ebca6bU;
      h = (h ^ (h >> 13)) * 0xc2b2ae35U;
      h ^= h >> 16;
      out[x] = (static_cast<float>(static_cast<std::int32_t>(h >> 8)) + 0.5F) * 0x1p-24F;
    }
    noise_ = -1 / noise_.min(1 - 0x1p-24F).log();
  }
  std::vector<Eigen::ArrayXf> p_, q_;
  Eigen::ArrayXf noise_, scratch_;
  std::mt19937_64 random_{13};
};

template <class F>
double best_seconds(F f, int times) {
  double best = 1e9;
  for (int i = 0; i < times; ++i) {
    const auto start = std::chrono::steady_clock::now();
    f();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

/// Sum, in one pass each, of the first `pairs` target and draft rows and, if all are accepted, of the last target row.
inline float read_rows(const round_of_logits& r, std::size_t pairs, bool bonus) {
  float s = 0;
  const auto read = [&s](const std::vector<float>& row) {
    const Eigen::Map<const Eigen::ArrayXf> l(row.data(), std::ssize(row));
    s += l.sum();
  };
  for (std::size_t i = 0; i < pairs; ++i) read(r.p[i]), read(r.q[i]);
  if (bonus) read(r.p.back());
  return s;
}

/// Times `decide` and checks outcome and law of everything that the variant emits, in all of its calls: its state and
/// the counts live as long as the variant, so that no call repeats the random numbers of another.
template <class Make>
auto verifying(index_t v, const round_of_logits& (*round)(index_t), const law_check& (*law)(index_t), Make make,
               index_t accepted, double rows_read, int at_least, std::size_t floor_pairs = 0,
               bool floor_bonus = false) {
  struct kept {
    std::optional<decltype(make())> decide;
    std::array<double, 4> seen{};
  };
  return [=, shared = std::make_shared<kept>()](benchmark::State& state) {
    const round_of_logits& r = round(v);
    const law_check& check = law(v);
    if (!shared->decide) shared->decide.emplace(make());
    auto& decide = *shared->decide;
    std::array<double, 4>& seen = shared->seen;
    bool as_expected = true;
    const auto once = [&] {
      const sluice::verdict d = decide(r);
      as_expected = as_expected && d.accepted == accepted;
      check.add(seen, d.next);
    };
    for (auto _ : state) once();
    while (seen[0] + seen[1] + seen[2] + seen[3] < at_least) once();
    state.counters["work"] = rows_read;
    state.counters["V"] = static_cast<double>(v);
    state.counters["gamma"] = static_cast<double>(gamma_drafts);
    state.counters["quality"] = check.statistic(seen);
    if (floor_pairs > 0) {
      const double rule = best_seconds(once, 50);
      const double read = best_seconds([&] { benchmark::DoNotOptimize(read_rows(r, floor_pairs, floor_bonus)); }, 50);
      char note[120];
      std::snprintf(note, sizeof note, "%.2f times the time of reading the rows that it needs, warm (%.3f ms)",
                    rule / read, 1e3 * read);
      state.SetLabel(note);
    }
    if (!as_expected) state.SkipWithError("a round did not end as it must");
    if (check.statistic(seen) > law_check::critical) state.SkipWithError("the emitted token has another law");
  };
}

template <outcome O>
const round_of_logits& round_at(index_t v) {
  static const round_of_logits small(32000, O), large(128256, O);
  return v == 32000 ? small : large;
}
/// The emitted token's law, given the drafts: the residual of the first position, or the last target row.
template <outcome O>
const law_check& law_at(index_t v) {
  const auto of = [](const round_of_logits& r) -> Eigen::ArrayXd {
    if (O == outcome::all_accepted) return exact_softmax(r.p.back());
    return (exact_softmax(r.p[0]) - exact_softmax(r.q[0])).max(0.0);
  };
  static const law_check small(of(round_at<O>(32000))), large(of(round_at<O>(128256)));
  return v == 32000 ? small : large;
}
/// The same for a rule that draws from the target and compares.
template <outcome O>
const law_check& compared_law_at(index_t v) {
  const auto of = [](const round_of_logits& r) {
    return exact_softmax(O == outcome::all_accepted ? r.p.back() : r.p[0]);
  };
  static const law_check small(of(round_at<O>(32000))), large(of(round_at<O>(128256)));
  return v == 32000 ? small : large;
}

template <class Rule>
auto rule_of_sluice() {
  return [rule = Rule{}, random = sluice::cursor(sluice::stream{5})](const round_of_logits& r) mutable {
    return rule.decide(r.request(), random).result;
  };
}

template <class Rule, outcome O>
void register_round(const char* rule_name, double rows_rejected, std::size_t pairs_rejected) {
  constexpr bool all = O == outcome::all_accepted;
  for (const index_t v : {index_t{32000}, index_t{128256}}) {
    const index_t accepted = all ? gamma_drafts : 0;
    const auto sort = [](bool every) {
      return
          [every] { return [s = sorting_sampler(), every](const round_of_logits& r) mutable { return s(r, every); }; };
    };
    row entry{
        .slug = "speculative-base",
        .workload = std::string(rule_name) + (all ? ", all accepted, V = " : ", first draft rejected, V = ") +
                    std::to_string(v),
        .unit = "rows read",
        .quality = {.name = "chi-square of the emitted token, 3 degrees of freedom", .tolerance = law_check::critical},
        .claim = "",
        .note =
            "gamma = 4, float logits. naive: softmax of all 9 rows and a recovery token for every position; drafted "
            "tokens are "
            "placed so that the outcome is certain"};
    entry
        .naive(verifying(
            v, round_at<O>, law_at<O>, [] { return dense_sampler(); }, accepted, 9, 100))
        .sluice(verifying(
            v, round_at<O>, law_at<O>, [] { return rule_of_sluice<Rule>(); }, accepted, all ? 9 : rows_rejected, 2000,
            all ? 4 : pairs_rejected, all))
        .peer("full sort, rows up to the mismatch",
              verifying(v, round_at<O>, compared_law_at<O>, sort(false), accepted, all ? 5 : 1, 12));
    if (!all && pairs_rejected == 1)
      entry.peer("full sort, all 5 target rows",
                 verifying(v, round_at<O>, compared_law_at<O>, sort(true), accepted, 5, 12));
  }
}

}  // namespace bench
