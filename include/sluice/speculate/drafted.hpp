#pragma once
#include <sluice/random/decisions.hpp>
#include <sluice/speculate/drafting.hpp>
#include <sluice/speculate/language_model.hpp>
#include <sluice/speculate/token_tree.hpp>
#include <sluice/speculate/verification.hpp>

#include <concepts>
#include <span>

/// Drafts that carry in their type how they were drawn, for programs that draft and verify without the decoder: a rule
/// that is exact for another kind of drafts does not compile, where a span of tokens would be taken and the law be
/// wrong. The decoder needs none of this: there the rule's kind selects the sampler.
namespace sluice {

namespace detail {
struct drafted_maker;  // a constrained function template cannot be a friend: clang 16 does not match it
}

/// The tokens that `draft_node` drew for one node, a view of the caller's memory. With a fault there are none.
template <class Kind>
class drafted {
 public:
  using draft_kind = Kind;
  std::span<const token_id> tokens() const { return tokens_; }
  const row_fault& fault() const { return fault_; }

 private:
  drafted(std::span<const token_id> tokens, const row_fault& fault) : tokens_(tokens), fault_(fault) {}
  friend struct detail::drafted_maker;
  std::span<const token_id> tokens_;
  row_fault fault_;
};

namespace detail {
struct drafted_maker {
  template <class Kind>
  static drafted<Kind> make(std::span<const token_id> tokens, const row_fault& fault) {
    return {tokens, fault};
  }
};
}  // namespace detail

/// draw_children of the kind, and the kind in the type of the result. Writes to out, which the result views; memory,
/// cost and errors as there.
template <class Kind, class S, random_source R>
drafted<Kind> draft_node(Kind kind, std::span<token_id> out, std::span<double> scratch, const token_row<S>& row,
                         index_t vocabulary_size, R& random) {
  const drawn_children drawn = draw_children(kind, out, scratch, row, vocabulary_size, random);
  return detail::drafted_maker::make<Kind>(out.first(static_cast<std::size_t>(drawn.fault ? 0 : drawn.n)), drawn.fault);
}

/// rule.decide(target, draft, drafts.tokens(), random) for drafts of the kind that the rule is exact for.
template <class Rule, class S, class Q, class Kind, random_source R>
node_decision verify_node(const Rule& rule, const token_row<S>& target, const token_row<Q>& draft,
                          const drafted<Kind>& drafts, R& random) {
  static_assert(std::same_as<typename Rule::draft_kind, Kind>, "the rule is exact for drafts of another kind");
  return rule.decide(target, draft, drafts.tokens(), random);
}

/// A drafted_tree all of whose nodes were drafted in one way.
template <class Kind>
class drafted_tree_of {
 public:
  using draft_kind = Kind;
  void reserve(index_t n) { tree_.reserve(n); }
  void clear(token_id root = -1) { tree_.clear(root); }
  /// As drafted_tree::add_children.
  void add_children(index_t node, const drafted<Kind>& drafts) { tree_.add_children(node, drafts.tokens()); }
  const drafted_tree& tree() const { return tree_; }

 private:
  drafted_tree tree_;
};

/// verify_tree of token_tree.hpp, for a tree of the kind that the rule is exact for.
template <class Rule, class TargetRow, class DraftRow, class Kind, class R>
tree_decision verify_tree(const Rule& rule, TargetRow&& target_row, DraftRow&& draft_row, std::span<index_t> path,
                          std::span<index_t> ranks, const drafted_tree_of<Kind>& tree, R& random) {
  static_assert(std::same_as<typename Rule::draft_kind, Kind>, "the rule is exact for drafts of another kind");
  return verify_tree(rule, target_row, draft_row, path, ranks, tree.tree(), random);
}

}  // namespace sluice
