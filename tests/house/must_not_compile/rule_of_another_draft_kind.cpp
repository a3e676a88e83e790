// Expect: the rule is exact for drafts of another kind
// Hybrid drafts verified by a rule for independent draws would emit another law than the target's.
namespace rule_of_another_draft_kind {
inline sluice::node_decision f(const sluice::token_row<double>& target, const sluice::token_row<double>& draft,
                               std::span<sluice::token_id> out, sluice::cursor& random) {
  const auto drafts = sluice::draft_node(sluice::hybrid_draws{}, out, std::span<double>{}, draft, 5, random);
#ifdef CONTROL
  return sluice::verify_node(sluice::hybrid_verification<>{}, target, draft, drafts, random);
#else
  return sluice::verify_node(sluice::weighted_selection{}, target, draft, drafts, random);
#endif
}
}  // namespace rule_of_another_draft_kind
