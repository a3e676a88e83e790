// Hybrid drafts: one decision on rows of float logits, against dense rows in memory; weighted selection: the time to
// plan a position, and what its acceptance is worth beside k-SEQ.
#include <sluice/speculate/k_seq.hpp>
#include <sluice/speculate/optimal_multidraft.hpp>
#include <sluice/speculate/weighted_selection.hpp>

#include "verification_peers.hpp"

namespace {

using namespace bench;

/// A node with N children: N - 1 fixed tokens, which the target all but excludes, and a drawn one, which it excludes
/// (rejected) or wants more than anything (accepted).
template <int N, outcome O>
const round_of_logits& hybrid_node(index_t v) {
  const auto make = [](index_t size) {
    auto* r = new round_of_logits(size, outcome::first_rejected);  // lives as long as the program
    r->drafted.clear();
    for (std::size_t k = 0; k < N; ++k) {
      const auto x = (k + 1) * static_cast<std::size_t>(size) / 11;
      const bool drawn = k + 1 == N;
      r->drafted.push_back(static_cast<token_id>(x));
      r->p[0][x] = drawn && O == outcome::all_accepted ? 60 : -40;
      r->q[0][x] = drawn ? 9 : 10;
    }
    return r;
  };
  static const round_of_logits &small = *make(32000), &large = *make(128256);
  return v == 32000 ? small : large;
}
template <int N>
std::span<const token_id> fixed_of(const round_of_logits& r) {
  return std::span(r.drafted).first(N - 1);
}

/// The law of what is emitted: x, or the residual, (p - q')_+ off T since the target has nothing on T.
template <int N, outcome O>
const law_check& hybrid_law(index_t v) {
  const auto of = [](const round_of_logits& r) {
    Eigen::ArrayXd p = exact_softmax(r.p[0]), q = exact_softmax(r.q[0]);
    for (const token_id x : fixed_of<N>(r)) q[x] = 0;
    q /= q.sum();
    Eigen::ArrayXd law = (p - q).max(0.0);
    if (O == outcome::all_accepted) {
      law.setZero();
      law[r.drafted.back()] = 1;
    }
    return law;
  };
  static const law_check small(of(hybrid_node<N, O>(32000))), large(of(hybrid_node<N, O>(128256)));
  return v == 32000 ? small : large;
}
/// The same for one draft alone.
template <int N, outcome O>
const law_check& single_law(index_t v) {
  const auto of = [](const round_of_logits& r) {
    Eigen::ArrayXd law = (exact_softmax(r.p[0]) - exact_softmax(r.q[0])).max(0.0);
    if (O == outcome::all_accepted) {
      law.setZero();
      law[r.drafted.back()] = 1;
    }
    return law;
  };
  static const law_check small(of(hybrid_node<N, O>(32000))), large(of(hybrid_node<N, O>(128256)));
  return v == 32000 ? small : large;
}

/// Both laws in memory, q' from q, and a walk along the residual row where x is rejected.
template <int N>
auto dense_hybrid() {
  return [p = Eigen::ArrayXf(), q = Eigen::ArrayXf(), random = std::mt19937_64(17)](const round_of_logits& r) mutable {
    const std::span<const token_id> fixed = fixed_of<N>(r);
    dense_sampler::softmax(p, r.p[0]);
    dense_sampler::softmax(q, r.q[0]);
    for (const token_id x : fixed) q[x] = 0;
    q *= 1 / q.sum();
    const token_id x = r.drafted.back();
    if (std::uniform_real_distribution<float>()(random) * q[x] < p[x]) return sluice::verdict{1, x};
    q = (p - q).max(0.0F);
    double u = std::uniform_real_distribution<double>(0, static_cast<double>(q.sum()))(random);
    index_t last = 0;
    for (index_t y = 0; y < q.size(); ++y)
      if (q[y] > 0) {
        last = y;
        if ((u -= static_cast<double>(q[y])) < 0) break;
      }
    const bool accepted = std::find(fixed.begin(), fixed.end(), static_cast<token_id>(last)) != fixed.end();
    return sluice::verdict{accepted, static_cast<token_id>(last)};
  };
}
template <int N>
auto lazy_hybrid() {
  return [random = sluice::cursor(sluice::stream{5})](const round_of_logits& r) mutable {
    const auto d = sluice::hybrid_verification<>{}.decide(r.target[0], r.draft[0], r.drafted, random);
    return sluice::verdict{d.child >= 0, d.next};
  };
}
auto single_draft() {
  return [random = sluice::cursor(sluice::stream{6})](const round_of_logits& r) mutable {
    const auto last = std::span(r.drafted).last(1);
    const auto d = sluice::token_rejection{}.decide(r.target[0], r.draft[0], std::span<const token_id>(last), random);
    return sluice::verdict{d.child >= 0, d.next};
  };
}

template <int N, outcome O>
void register_hybrid() {
  constexpr bool accepted = O == outcome::all_accepted;
  for (const index_t v : {index_t{32000}, index_t{128256}}) {
    const auto sluice = [v, inner = verifying(
                                v, hybrid_node<N, O>, hybrid_law<N, O>, [] { return lazy_hybrid<N>(); }, accepted, 2,
                                2000)](benchmark::State& state) {
      inner(state);
      const round_of_logits& r = hybrid_node<N, O>(v);
      auto rule = lazy_hybrid<N>();
      auto single = single_draft();
      double time[3] = {1e9, 1e9, 1e9};  // interleaved, so that the machine's mood is the same for all
      for (int i = 0; i < 20; ++i) {
        time[0] = std::min(time[0], best_seconds([&] { benchmark::DoNotOptimize(rule(r).next + 0); }, 5));
        time[1] = std::min(time[1], best_seconds([&] { benchmark::DoNotOptimize(read_rows(r, 1, false)); }, 5));
        time[2] = std::min(time[2], best_seconds([&] { benchmark::DoNotOptimize(single(r).next + 0); }, 5));
      }
      char note[160];
      std::snprintf(note, sizeof note,
                    "%.2f times the time of reading both rows, warm (%.3f ms); %.2f times token rejection of one draft",
                    time[0] / time[1], 1e3 * time[1], time[0] / time[2]);
      state.SetLabel(note);
    };
    row{.slug = "mdsd",
        .workload = "hybrid, " + std::to_string(N) + " drafts, " +
                    (accepted ? "drawn one accepted, V = " : "all rejected, V = ") + std::to_string(v),
        .unit = "rows read",
        .quality = {.name = "chi-square of the emitted token, 3 degrees of freedom", .tolerance = law_check::critical},
        .claim = "",
        .note = "float logits. naive: softmax of both rows and the residual row in memory"}
        .naive(verifying(
            v, hybrid_node<N, O>, hybrid_law<N, O>, [] { return dense_hybrid<N>(); }, accepted, 2, 200))
        .sluice(sluice)
        .peer("token rejection, one draft",
              verifying(
                  v, hybrid_node<N, O>, single_law<N, O>, [] { return single_draft(); }, accepted, 2, 2000));
  }
}

/// A position for weighted selection: target and draft differ by normal noise.
const round_of_logits& position(index_t v) {
  static const round_of_logits small(1000, outcome::first_rejected), medium(32000, outcome::first_rejected),
      large(128256, outcome::first_rejected);
  return v == 1000 ? small : v == 32000 ? medium : large;
}

/// The same levels and sweeps with the integrals written out: one exponential for each token and node, vectorised.
class plain_selection {
 public:
  double operator()(const round_of_logits& r, int n, int sweeps) {
    problem_.prepare(r.target[0], r.draft[0]);
    const index_t v = problem_.support(), split = problem_.best<sluice::independent_draws>(n).prefix;
    const Eigen::Map<const Eigen::ArrayXd> p(problem_.target().data(), v), q(problem_.draft().data(), v);
    w_ = p / q;
    if (split > 0) w_.head(split) *= 1e-5 / w_[0];
    if (split < v) w_.tail(v - split) *= 1 / w_[v - 1];
    w_ = w_.max(1e-5).min(1.0);
    double acceptance = 0;
    for (int i = 0; i <= sweeps; ++i) {
      a_.setZero(v);
      for (const auto& [begin, end] : {std::pair{index_t{0}, split}, std::pair{split, v}})
        add(begin, end, q, begin == 0 ? 0.0 : q.head(split).sum(), n);
      acceptance = p.min(a_).sum();
      w_ = (w_ * p / a_.max(1e-300)).max(1e-5).min(1.0);
    }
    return acceptance;
  }

 private:
  void add(index_t begin, index_t end, const Eigen::Map<const Eigen::ArrayXd>& q, double base, int n) {
    const index_t count = end - begin;
    if (count == 0) return;
    const auto w = w_.segment(begin, count);
    const auto d = q.segment(begin, count);
    for (double y = -28; y <= 16; y += 0.35) {
      const double s = std::exp(y);
      e_ = (w * -s).exp() * d;
      a_.segment(begin, count) += e_ * w * (0.35 * s * n * std::pow(base + e_.sum(), n - 1));
    }
  }
  sluice::optimal_acceptance problem_;
  Eigen::ArrayXd w_, a_, e_;
};

template <int N>
void register_selection() {
  constexpr int sweeps = 6;
  for (const index_t v : {index_t{1000}, index_t{32000}, index_t{128256}}) {
    const auto naive = [v](benchmark::State& state) {
      plain_selection plan;
      double acceptance = plan(position(v), N, sweeps);  // buffers grow once, which is not what is timed
      for (auto _ : state) acceptance = plan(position(v), N, sweeps);
      state.counters["work"] = sweeps;
      state.counters["V"] = static_cast<double>(v);
      state.counters["quality"] = acceptance;
    };
    const auto ours = [v](benchmark::State& state) {
      const round_of_logits& r = position(v);
      sluice::weighted_selection_plan plan({.sweeps = sweeps});
      plan.prepare(r.target[0], r.draft[0], N);
      for (auto _ : state) plan.prepare(r.target[0], r.draft[0], N);
      state.counters["work"] = sweeps;
      state.counters["V"] = static_cast<double>(v);
      state.counters["quality"] = plan.acceptance();
      sluice::k_seq_plan single;
      double time[2] = {1e9, 1e9};
      for (int i = 0; i < 10; ++i) {
        time[0] = std::min(time[0], best_seconds([&] { plan.prepare(r.target[0], r.draft[0], N); }, 3));
        time[1] =
            std::min(time[1], best_seconds([&] { single = sluice::k_seq{}.plan(r.target[0], r.draft[0], N); }, 3));
      }
      const double gain = plan.acceptance() - single.acceptance, more = 1e3 * (time[0] - time[1]);
      char note[200];
      std::snprintf(note, sizeof note,
                    "accepts %.3f, k-SEQ %.3f, optimum %.3f; %.3f ms more than k-SEQ's factor for %.1f points: pays "
                    "where a target call takes more than %.2f ms",
                    plan.acceptance(), single.acceptance, plan.optimum(), more, 100 * gain, more / gain);
      state.SetLabel(note);
    };
    row{.slug = "mdsd",
        .workload = "weighted selection, plan for " + std::to_string(N) + " drafts, V = " + std::to_string(v),
        .unit = "sweeps",
        .quality = {.name = "acceptance", .higher_is_better = true, .tolerance = 1e-8},
        .claim = "",
        .note =
            "float logits that differ by normal noise, six sweeps. naive: an exponential for each token and node, "
            "vectorised"}
        .naive(naive)
        .sluice(ours);
  }
}

const bool registered = [] {
  register_hybrid<2, outcome::first_rejected>();
  register_hybrid<4, outcome::first_rejected>();
  register_hybrid<8, outcome::first_rejected>();
  register_hybrid<2, outcome::all_accepted>();
  register_hybrid<4, outcome::all_accepted>();
  register_hybrid<8, outcome::all_accepted>();
  register_selection<2>();
  register_selection<4>();
  return true;
}();

}  // namespace
