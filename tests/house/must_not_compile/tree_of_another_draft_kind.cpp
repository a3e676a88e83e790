// Expect: the rule is exact for drafts of another kind
// A fixed set of the user's is not the set of the most probable tokens: the rule must name the same kind.
namespace tree_of_another_draft_kind {
struct users_set {};
template <class Rows, class R>
sluice::index_t f(const Rows& target, const Rows& draft, const sluice::drafted_tree_of<users_set>& tree, R& random) {
  sluice::index_t path[8], ranks[8];
#ifdef CONTROL
  const sluice::hybrid_verification<users_set> rule;
#else
  const sluice::hybrid_verification<> rule;
#endif
  return sluice::verify_tree(rule, target, draft, std::span(path), std::span(ranks), tree, random).accepted;
}
using rows = sluice::token_row<double> (*)(sluice::index_t);
template sluice::index_t f(const rows&, const rows&, const sluice::drafted_tree_of<users_set>&, sluice::cursor&);
}  // namespace tree_of_another_draft_kind
