#pragma once
#include <sluice/core/executor.hpp>
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/random/stream.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

/// Language models, one concept for target and draft, and the few types that verification rules speak in.
/// A token law is a row of logits, log-probabilities or probabilities, dense or sparse, float or double, never copied.
namespace sluice {

/// Vocabularies have up to 2^31 - 1 tokens.
using token_id = std::int32_t;

/// Contexts that share prefixes: node 0 is the last committed token, parents come before their children.
/// parent[0] is -1.
struct token_tree {
  std::vector<token_id> token;
  std::vector<index_t> parent;
};

enum class row_kind { logits, log_probabilities, probabilities };

/// A view of a law over tokens. Without ids it is dense: values[x] belongs to token x. With ids it is sparse: values[j]
/// belongs to token ids[j], every other token has probability 0; ids are distinct.
template <class S>
struct token_row {
  row_kind kind;
  std::span<const S> values;
  std::span<const token_id> ids{};
};

/// The row of logits that an engine left at `first`: a view, nothing is copied, valid as long as the engine's memory
/// is. Throws invalid_argument if first is null or vocabulary_size < 1.
template <std::floating_point S>
token_row<S> dense_logits(const S* first, index_t vocabulary_size) {
  expects(first != nullptr, "dense_logits", "first", 0);
  expects(vocabulary_size >= 1, "dense_logits", "vocabulary_size", vocabulary_size);
  return {row_kind::logits, {first, static_cast<std::size_t>(vocabulary_size)}};
}

/// out.size() rows of a matrix, row i at first + i * stride: views. A stride above vocabulary_size skips the padding of
/// an engine that rounds its vocabulary up. Throws invalid_argument as for one row, or if stride < vocabulary_size; out
/// is unchanged then.
template <std::floating_point S>
void dense_logits(std::span<token_row<S>> out, const S* first, index_t vocabulary_size, index_t stride) {
  expects(stride >= vocabulary_size, "dense_logits", "stride", stride);
  const token_row<S> row = dense_logits(first, vocabulary_size);
  for (std::size_t i = 0; i < out.size(); ++i)
    out[i] = {row.kind, {first + static_cast<index_t>(i) * stride, row.values.size()}};
}

/// A model scores the nodes of a tree in one call and hands out their laws as views.
template <class M>
concept language_model = requires(M& m, const token_tree& tree, index_t first_new, std::span<const index_t> path) {
  typename M::scalar;
  { m.vocabulary_size() } -> std::convertible_to<index_t>;
  m.score(tree, first_new);  // nodes from first_new on; their parents are scored already
  {
    m.row(first_new)
    } -> std::same_as<token_row<typename M::scalar>>;  // law of the token after this node; valid until
                                                       // the next call
  m.keep(path);  // these nodes are committed, the last becomes node 0, all others are forgotten
};

/// Edits a dense row of logits in the caller's scratch, never the model's row; -inf forbids a token. `context` is the
/// committed text and the path to the node. Runs on target and draft before verification.
template <class P>
concept logit_processor = requires(const P& p, std::span<double> row, std::span<const token_id> context) {
  p.process(row, context);
};

/// What a verification rule decides: how many drafts are accepted, and the token after them (correction or bonus).
struct verdict {
  index_t accepted;
  token_id next;
  friend bool operator==(const verdict&, const verdict&) = default;
};

/// How many positions of the batch that the target scored (the token that the round began with, then the drafts) stay
/// in its cache: that token and the accepted drafts. `next` is not in the cache; the following round begins with it.
constexpr index_t positions_to_keep(const verdict& v) { return v.accepted + 1; }

/// One round of one request: drafted tokens, the laws they were drawn from, the target's laws (one more than drafts).
/// `id` names the request; its random stream derives from it.
template <class S, class Q>
struct request {
  std::span<const token_row<S>> target;
  std::span<const token_row<Q>> draft;
  std::span<const token_id> drafted;
  std::uint64_t id = 0;
};

/// Verifies a ragged batch: out[r] is the verdict of rule(requests[r], cursor(run.derive(requests[r].id))). Every
/// request has its own length and its own stream, so no verdict depends on its neighbours, on its place in the batch or
/// on the executor, which runs one request a chunk. Requests with equal ids receive the same words. The rule is shared
/// by the threads. O(sum of the rule's cost); allocates nothing itself. Throws invalid_argument if out and requests
/// differ in size, before anything is written; what the rule throws for a request leaves that verdict as it was, and
/// the verdicts of other requests may be written.
template <class Rule, class S, class Q, executor Executor>
void verify(const Rule& rule, std::span<verdict> out, std::span<const request<S, Q>> requests, const Executor& ex,
            stream run) {
  expects(out.size() == requests.size(), "verify", "out.size", out.size());
  ex.for_each(std::ssize(requests), [&](index_t i) {
    const auto r = static_cast<std::size_t>(i);
    cursor random(run.derive(requests[r].id));
    out[r] = rule(requests[r], random);
  });
}

/// On the calling thread.
template <class Rule, class S, class Q>
void verify(const Rule& rule, std::span<verdict> out, std::span<const request<S, Q>> requests, stream run) {
  verify(rule, out, requests, serial{}, run);
}

}  // namespace sluice
