// engine_logits: verification inside an engine that owns its models and its cache. Rows of logits come in as plain
// float pointers, drafts as token ids; the answer is the accepted ids, the next token, and which cache positions to
// keep. A small engine is embedded; docs/guides/engines.md puts llama.cpp, ONNX Runtime and LibTorch in its place. The
// program checks itself: the law of what it emits, that rows stay where the engine wrote them, that a bad row stops one
// request.
#include <sluice/random/distributions.hpp>
#include <sluice/random/stream.hpp>
#include <sluice/speculate/block_verification.hpp>
#include <sluice/speculate/drafting.hpp>
#include <sluice/speculate/language_model.hpp>
#include <sluice/speculate/optimal_multidraft.hpp>
#include <sluice/speculate/token_rejection.hpp>
#include <sluice/speculate/token_tree.hpp>
#include <sluice/speculate/verification.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <new>
#include <span>
#include <vector>

using sluice::index_t;
using sluice::token_id;
using sluice::token_row;

namespace {

std::size_t allocated = 0;  // bytes, by operator new below: a rule that copied a row would show
constexpr index_t vocabulary = 128, width = 8;
constexpr std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

// ---- The engine: yours. -------------------------------------------------------------------------------------------

/// One cache row holds what the model knows after a token: here a small state, made from the row of the parent.
struct cache_row {
  std::array<float, width> state{};
  friend bool operator==(const cache_row&, const cache_row&) = default;
};

class engine {
 public:
  explicit engine(double noise) : embedding_(at(vocabulary * width)), output_(at(vocabulary * width)) {
    for (std::size_t i = 0; i < output_.size(); ++i) {
      embedding_[i] = static_cast<float>(sluice::normal_at(sluice::stream{1}, i));
      output_[i] =
          static_cast<float>(sluice::normal_at(sluice::stream{2}, i) + noise * sluice::normal_at(sluice::stream{3}, i));
    }
    cache_.reserve(64);
    logits_.reserve(at(1 << 15) * vocabulary);  // so that rows stay where they are
  }
  index_t positions() const { return std::ssize(cache_); }
  /// One pass over the weights for all tokens. parent[i] is the cache row that token i follows, -1 at the start.
  /// Returns the logits, one row of `vocabulary` floats a token, valid until release().
  const float* decode(std::span<const token_id> tokens, std::span<const index_t> parent) {
    const std::size_t first = logits_.size();
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const cache_row row = after(parent[i] < 0 ? cache_row{} : cache_[at(parent[i])], tokens[i]);
      cache_.push_back(row);
      for (std::size_t x = 0; x < at(vocabulary); ++x) {
        float sum = 0;
        for (std::size_t j = 0; j < at(width); ++j) sum += output_[x * at(width) + j] * row.state[j];
        logits_.push_back(sum);
      }
    }
    return logits_.data() + first;
  }
  /// Does the cache hold these tokens and nothing else?
  bool holds(std::span<const token_id> tokens) const {
    cache_row row;
    bool same = std::ssize(tokens) == positions();
    for (std::size_t i = 0; same && i < tokens.size(); ++i) same = cache_[i] == (row = after(row, tokens[i]));
    return same;
  }
  float* memory() { return logits_.data(); }
  void release() { logits_.clear(); }
  void truncate(index_t n) { cache_.resize(at(std::min(n, positions()))); }  // a chain: a prefix stays
  void keep(index_t first, std::span<const index_t> nodes) {                 // a tree: a path stays, moved together
    for (std::size_t i = 0; i < nodes.size(); ++i) cache_[at(first) + i] = cache_[at(first + nodes[i])];
    truncate(first + std::ssize(nodes));
  }

 private:
  cache_row after(const cache_row& before, token_id token) const {
    cache_row row;
    for (std::size_t j = 0; j < at(width); ++j)
      row.state[j] = std::tanh(0.7f * before.state[(j + 1) % at(width)] + embedding_[at(token * width) + j]);
    return row;
  }
  std::vector<float> embedding_, output_, logits_;
  std::vector<cache_row> cache_;
};

// ---- The loop: one round drafts, scores, verifies and keeps. --------------------------------------------------------

struct counters {
  std::int64_t rounds = 0, emitted = 0, drafted = 0, bytes = 0, moved_rows = 0, wrong_caches = 0;
};

/// One request. Invariant between rounds: the target's cache holds all of the text but its last token, with which the
/// next round begins; the draft's cache holds no more than that.
struct session {
  engine target{0.0}, draft{0.4};
  std::vector<token_id> text;
  std::vector<token_id> drafted;
  std::vector<token_row<float>> p, q;
  std::vector<index_t> parent;
  sluice::drafted_tree tree;

  void restart(std::span<const token_id> prompt) {
    target.truncate(0), draft.truncate(0), target.release(), draft.release();
    text.assign(prompt.begin(), prompt.end());
    feed(target, std::span(text).first(text.size() - 1));
  }
  /// Tokens in a row behind the cache; returns the logits of the last one.
  const float* feed(engine& e, std::span<const token_id> tokens) {
    parent.resize(tokens.size());
    for (std::size_t i = 0; i < tokens.size(); ++i) parent[i] = e.positions() + static_cast<index_t>(i) - 1;
    const float* rows = e.decode(tokens, parent);
    return rows + (std::ssize(tokens) - 1) * vocabulary;
  }

  /// Drafts a chain, each token from the draft's law, and keeps views of these laws.
  void draft_chain(index_t gamma, sluice::cursor& random) {
    target.release(), draft.release();
    drafted.resize(at(gamma)), q.resize(at(gamma)), p.resize(at(gamma + 1));
    const float* row = feed(draft, std::span(text).subspan(at(draft.positions())));  // one token, or two
    for (index_t i = 0; i < gamma; ++i) {
      q[at(i)] = sluice::dense_logits(row, vocabulary);
      const std::span<token_id> x = std::span(drafted).subspan(at(i), 1);
      sluice::draw_children(sluice::independent_draws{}, x, {}, q[at(i)], vocabulary, random);
      if (i + 1 < gamma) row = feed(draft, x);
    }
  }
  /// The target scores the last token of the text and all drafts in one call.
  void score_chain() {
    std::vector<token_id> batch{text.back()};
    batch.insert(batch.end(), drafted.begin(), drafted.end());
    const float* last = feed(target, batch);
    sluice::dense_logits(std::span(p), last - std::ssize(drafted) * vocabulary, vocabulary, vocabulary);
  }
  /// The verdict becomes text, and the caches keep what belongs to it.
  void accept_chain(const sluice::verdict& v) {
    const index_t before = std::ssize(text) - 1;
    text.insert(text.end(), drafted.begin(), drafted.begin() + v.accepted);
    text.push_back(v.next);
    target.truncate(before + sluice::positions_to_keep(v));
    draft.truncate(before + sluice::positions_to_keep(v));  // it may lack the last accepted token: never scored it
  }
  /// The invariant.
  bool caches_are_right() const {
    const std::span<const token_id> past = std::span(text).first(text.size() - 1);
    return target.holds(past) && draft.positions() <= std::ssize(past) &&
           draft.holds(past.first(at(draft.positions())));
  }
};

template <class F>
void count_bytes(counters& c, F&& f) {
  const std::size_t before = allocated;
  f();
  c.bytes += static_cast<std::int64_t>(allocated - before);
}

template <class Rule>
bool chain_round(const Rule& rule, session& s, index_t gamma, counters& c, sluice::stream key) {
  sluice::cursor drafting(key.derive(0)), deciding(key.derive(1));  // a key serves one cursor
  s.draft_chain(gamma, drafting);
  s.score_chain();
  sluice::decision d;
  count_bytes(c, [&] { d = rule.decide(sluice::request<float, float>{s.p, s.q, s.drafted}, deciding); });
  for (std::size_t i = 0; i < s.p.size(); ++i)  // row i is where the engine wrote it
    c.moved_rows += s.p[i].values.data() != s.target.memory() + i * at(vocabulary);
  if (d.fault) return false;
  s.accept_chain(d.result);
  c.wrong_caches += !s.caches_are_right();
  ++c.rounds, c.drafted += gamma, c.emitted += d.result.accepted + 1;
  return true;
}

/// A tree: widths[d] tokens are drafted at every node of depth d, in the way that the rule verifies.
template <class Rule>
bool tree_round(const Rule& rule, session& s, std::span<const index_t> widths, counters& c, sluice::stream key) {
  using draws = typename Rule::draft_kind;
  s.target.release(), s.draft.release();
  const index_t first = std::ssize(s.text) - 1;  // cache row of node 0 in both models; node k has row first + k
  s.tree.clear(s.text.back());
  s.q.clear();
  const auto rows_of = [&](engine& e, index_t begin, index_t end) {  // scores these nodes; the parents give the mask
    s.parent.clear();
    for (index_t node = begin; node < end; ++node)
      s.parent.push_back(node == 0 ? first - 1 : first + s.tree.parent(node));
    return e.decode(std::span(s.tree.tokens().token).subspan(at(begin), at(end - begin)), s.parent);
  };
  if (s.draft.positions() < first)
    s.feed(s.draft, std::span(s.text).subspan(at(s.draft.positions()), at(first - s.draft.positions())));
  std::array<token_id, 8> drawn;
  std::array<double, vocabulary> scratch;
  index_t level = 0, end = 1;
  for (std::size_t depth = 0; depth < widths.size(); ++depth) {
    const float* rows = rows_of(s.draft, level, end);
    for (index_t node = level; node < end; ++node) {
      s.q.push_back(sluice::dense_logits(rows + (node - level) * vocabulary, vocabulary));
      sluice::cursor drafting(key.derive(0).derive(static_cast<std::uint64_t>(node)));
      const auto n = sluice::draw_children(draws{}, std::span(drawn).first(at(widths[depth])),
                                           std::span<double>(scratch), s.q.back(), vocabulary, drafting);
      s.tree.add_children(node, std::span(drawn).first(at(n.n)));
    }
    level = end;
    end = s.tree.size();
  }
  const float* rows = rows_of(s.target, 0, s.tree.size());  // one pass for the whole tree

  std::array<index_t, 9> kept{0}, ranks;  // kept[0] is the root, behind it verify_tree writes the accepted path
  sluice::cursor deciding(key.derive(1));
  sluice::tree_decision d;
  count_bytes(c, [&] {
    d = sluice::verify_tree(
        rule, [&](index_t node) { return sluice::dense_logits(rows + node * vocabulary, vocabulary); },
        [&](index_t node) { return s.q[at(node)]; }, std::span(kept).subspan(1), std::span(ranks), s.tree, deciding);
  });
  c.moved_rows += rows != s.target.memory();
  if (d.fault) return false;
  const std::span<const index_t> path = std::span(kept).first(at(d.accepted + 1));
  for (const index_t node : path.subspan(1)) s.text.push_back(s.tree.token(node));
  s.text.push_back(d.next);
  s.target.keep(first, path);
  const index_t scored = std::ssize(s.q);  // the draft has no cache row of a leaf
  s.draft.keep(first, path.first(at(std::count_if(path.begin(), path.end(), [&](index_t k) { return k < scored; }))));
  c.wrong_caches += !s.caches_are_right();
  ++c.rounds, c.drafted += s.tree.n_drafted(), c.emitted += d.accepted + 1;
  return true;
}

// ---- What the program checks. ---------------------------------------------------------------------------------------

constexpr std::array<token_id, 3> prompt{17, 4, 90};
constexpr index_t n_classes = 64;  // of the first three tokens: each modulo 4
constexpr index_t class_of(index_t a, index_t b, index_t c) { return (a % 4 * 4 + b % 4) * 4 + c % 4; }

std::vector<double> law_of(const float* row) {
  std::vector<double> p(row, row + vocabulary);
  double sum = 0;
  for (double& v : p) sum += v = std::exp(v);
  for (double& v : p) v /= sum;
  return p;
}

/// The exact law of the three tokens behind the prompt, by scoring all of them with the target.
std::vector<double> exact_law() {
  session s;
  s.restart(prompt);
  std::vector<token_id> all(at(vocabulary));
  for (index_t x = 0; x < vocabulary; ++x) all[at(x)] = static_cast<token_id>(x);
  const index_t root = s.target.positions();
  const std::vector<index_t> behind_root(at(vocabulary), root);
  s.target.release();
  const std::vector<double> one = law_of(s.feed(s.target, std::span(prompt).last(1)));
  const float* second = s.target.decode(all, behind_root);
  std::vector<double> law(at(n_classes));
  for (index_t a = 0; a < vocabulary; ++a) {
    const std::vector<double> two = law_of(second + a * vocabulary);
    const std::vector<index_t> behind(at(vocabulary), root + 1 + a);
    const float* third = s.target.decode(all, behind);
    for (index_t b = 0; b < vocabulary; ++b) {
      const std::vector<double> three = law_of(third + b * vocabulary);
      for (index_t c = 0; c < vocabulary; ++c) law[at(class_of(a, b, c))] += one[at(a)] * two[at(b)] * three[at(c)];
    }
    s.target.truncate(root + 1 + vocabulary);
  }
  return law;
}

/// Chi-square of the counts as a normal deviate (Wilson and Hilferty): above 5.5 by chance with probability 2e-8.
double deviation(std::span<const std::int64_t> counts, std::span<const double> law) {
  double n = 0, chi2 = 0;
  for (const auto c : counts) n += static_cast<double>(c);
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const double e = n * law[i], d = static_cast<double>(counts[i]) - e;
    chi2 += d * d / e;
  }
  const double df = static_cast<double>(counts.size()) - 1, v = 2 / (9 * df);
  return (std::cbrt(chi2 / df) - (1 - v)) / std::sqrt(v);
}

constexpr int n_sequences = 8000;

struct way {
  const char* name;
  counters c{};
  std::array<std::int64_t, n_classes> seen{};
  void see(const session& s) {
    ++seen[at(class_of(s.text[prompt.size()], s.text[prompt.size() + 1], s.text[prompt.size() + 2]))];
  }
  /// Prints a line; false if something is wrong.
  bool report(std::span<const double> law) const {
    const double z = deviation(seen, law);
    std::printf("%-42s %11.2f %12.1f %9.2f %13lld %12lld\n", name,
                static_cast<double>(c.emitted) / static_cast<double>(c.rounds),
                static_cast<double>(c.drafted) / static_cast<double>(c.rounds), z, static_cast<long long>(c.bytes),
                static_cast<long long>(c.wrong_caches));
    return std::abs(z) < 5.5 && c.bytes == 0 && c.moved_rows == 0 && c.wrong_caches == 0;
  }
};

/// Decodes three tokens again and again with one round function.
template <class Round>
way decode_alone(const char* name, Round round) {
  way w{name};
  session s;
  for (int n = 0; n < n_sequences; ++n) {
    s.restart(prompt);
    const sluice::stream key = sluice::stream{42}.derive(static_cast<std::uint64_t>(n));
    for (std::uint64_t r = 0; s.text.size() < prompt.size() + 3; ++r)
      if (!round(s, w.c, key.derive(r))) std::exit(1);
    w.see(s);
  }
  return w;
}

/// Requests of several lengths in one call of verify. If `broken` is a request, its target row 1 holds a NaN.
template <class Rule>
std::vector<sluice::decision> batch_round(const Rule& rule, std::vector<session>& all, counters& c, sluice::stream key,
                                          index_t broken = -1) {
  std::vector<sluice::request<float, float>> requests;
  for (std::size_t r = 0; r < all.size(); ++r) {
    sluice::cursor drafting(key.derive(0).derive(r));
    all[r].draft_chain(2 + static_cast<index_t>(r), drafting);
    all[r].score_chain();
    if (static_cast<index_t>(r) == broken)
      all[r].target.memory()[at(vocabulary) + 9] = std::numeric_limits<float>::quiet_NaN();
    requests.push_back({all[r].p, all[r].q, all[r].drafted, r});  // the last member names the request's random numbers
  }
  std::vector<sluice::decision> out(all.size());
  count_bytes(c, [&] {
    sluice::verify(rule, std::span<sluice::decision>(out), std::span<const sluice::request<float, float>>(requests),
                   key.derive(1));
  });
  for (std::size_t r = 0; r < all.size(); ++r) {
    if (out[r].fault) {  // nothing is emitted; the cache goes back to where the round began
      all[r].target.truncate(std::ssize(all[r].text) - 1);
      all[r].draft.truncate(std::ssize(all[r].text) - 1);
      continue;
    }
    all[r].accept_chain(out[r].result);
    c.wrong_caches += !all[r].caches_are_right();
    ++c.rounds, c.drafted += std::ssize(all[r].drafted), c.emitted += out[r].result.accepted + 1;
  }
  return out;
}

}  // namespace

void* operator new(std::size_t n) {
  allocated += n;
  if (void* p = std::malloc(n == 0 ? 1 : n)) return p;
  std::abort();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }

int main() {
  const std::vector<double> law = exact_law();
  bool right = true;
  std::printf("%-42s %11s %12s %9s %13s %12s\n", "way", "tokens/call", "drafts/call", "law, z", "bytes copied",
              "wrong caches");
  right &= decode_alone("token rejection, chain of 4", [](session& s, counters& c, sluice::stream key) {
             return chain_round(sluice::token_rejection{}, s, 4, c, key);
           }).report(law);
  right &= decode_alone("block verification, chain of 4", [](session& s, counters& c, sluice::stream key) {
             return chain_round(sluice::block_verification{}, s, 4, c, key);
           }).report(law);
  right &= decode_alone("hybrid verification, tree 3 x 2 x 1", [](session& s, counters& c, sluice::stream key) {
             return tree_round(sluice::hybrid_verification<>{}, s, std::array<index_t, 3>{3, 2, 1}, c, key);
           }).report(law);

  std::vector<session> all(3);
  way batch{"block verification, batch of 3 requests"};
  for (int n = 0; n < n_sequences / 3; ++n) {
    for (session& s : all) s.restart(prompt);
    const sluice::stream key = sluice::stream{43}.derive(static_cast<std::uint64_t>(n));
    const auto finished = [](const session& s) { return s.text.size() >= prompt.size() + 3; };
    for (std::uint64_t r = 0; !std::all_of(all.begin(), all.end(), finished); ++r)
      batch_round(sluice::block_verification{}, all, batch.c, key.derive(r));
    for (const session& s : all) batch.see(s);
  }
  right &= batch.report(law);

  for (session& s : all) s.restart(prompt);
  counters c;
  const auto out = batch_round(sluice::block_verification{}, all, c, sluice::stream{44}, 1);
  const sluice::row_fault& f = out[1].fault;
  std::printf("\na NaN in request 1: %s row %td, element %td; it emits nothing and keeps %td positions\n",
              f ? f.argument : "nothing was noticed,", f.row, f.element, all[1].target.positions());
  std::printf("requests 0 and 2 go on: %td and %td of their drafts accepted\n", out[0].result.accepted,
              out[2].result.accepted);
  right &= f && f.row == 1 && f.element == 9 && !out[0].fault && !out[2].fault;
  const auto again = batch_round(sluice::block_verification{}, all, c, sluice::stream{45});
  right &= !again[1].fault && c.wrong_caches == 0;  // the next round scores the text anew
  if (!right) std::printf("WRONG: a law is off, a row was copied or misread, or a cache does not hold its text\n");
  return right ? 0 : 1;
}
