#pragma once
#include <sluice/core/executor.hpp>
#include <sluice/core/expects.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/random/stream.hpp>
#include <sluice/speculate/language_model.hpp>

#include <concepts>
#include <cstddef>
#include <span>

/// What verification rules have in common: how siblings were drafted (a type, so that a rule cannot be paired with the
/// wrong draft), and what a rule reports about a row that it cannot use.
namespace sluice {

/// How the children of a node were drafted from the draft's law q at that node. A node rule names the kind it is exact
/// for.
struct independent_draws {};          ///< i.i.d. from q; duplicates are kept, each is a stage of its own
struct draws_without_replacement {};  ///< successive draws from q without replacement, in the order drawn
struct top_draws {};                  ///< the k most probable tokens of q, no randomness
/// The n - 1 most probable tokens of q, falling, lower id first on ties; then one draw from the rest of q, last. Fewer
/// if fewer tokens have positive probability; then all of them, without a draw.
struct hybrid_draws {};

/// The first defect of a row that a rule visited: which argument ("target" or "draft"), which row, which element (-1:
/// the row as a whole, then value is its sum), and the offending value.
struct row_fault {
  const char* argument = nullptr;
  index_t row = -1;
  index_t element = -1;
  double value = 0;
  explicit operator bool() const { return argument != nullptr; }
};

/// A chain rule's answer: `decide` reports a fault, the call operator throws it. With a fault, result is {0, -1}.
struct decision {
  verdict result{0, -1};
  row_fault fault{};
};

/// A node rule's answer: the position of the accepted child among the children, or -1, and then the correction `next`.
/// If a child is accepted, next is that child's token.
struct node_decision {
  index_t child = -1;
  token_id next = -1;
  row_fault fault{};
};

/// Verifies one drafted chain: decide(request, random).
template <class Rule, class S, class Q, class R>
concept chain_rule = requires(const Rule& rule, const request<S, Q>& r, R& random) {
  { rule.decide(r, random) } -> std::same_as<decision>;
};

/// Verifies a ragged batch as verify(rule, out of verdicts, ...) does, with the same streams and so the same verdicts,
/// but a request whose rows are unusable says so in its `fault` and the others are verified: a server goes on. Throws
/// invalid_argument only if out and requests differ in size, before anything is written.
template <class Rule, class S, class Q, executor Executor>
requires chain_rule<Rule, S, Q, cursor>
void verify(const Rule& rule, std::span<decision> out, std::span<const request<S, Q>> requests, const Executor& ex,
            stream run) {
  expects(out.size() == requests.size(), "verify", "out.size", out.size());
  ex.for_each(std::ssize(requests), [&](index_t i) {
    const auto r = static_cast<std::size_t>(i);
    cursor random(run.derive(requests[r].id));
    out[r] = rule.decide(requests[r], random);
  });
}

/// On the calling thread.
template <class Rule, class S, class Q>
requires chain_rule<Rule, S, Q, cursor>
void verify(const Rule& rule, std::span<decision> out, std::span<const request<S, Q>> requests, stream run) {
  verify(rule, out, requests, serial{}, run);
}

/// Verifies the children of one node: decide(target, draft, children, random); exact for children of Rule::draft_kind.
template <class Rule, class S, class Q, class R>
concept node_rule = requires(const Rule& rule, const token_row<S>& target, const token_row<Q>& draft,
                             std::span<const token_id> children, R& random) {
  typename Rule::draft_kind;
  { rule.decide(target, draft, children, random) } -> std::same_as<node_decision>;
};

namespace detail {
/// Turns a fault into the error of a call.
inline void expects_no_fault(const char* function, const row_fault& f) {
  if (f) fail({function, f.argument, f.value, f.element >= 0 ? f.element : f.row});
}
}  // namespace detail

}  // namespace sluice
