// Expect: the rule is exact for drafts of another kind
// k-SEQ counts every draw as a stage of the same law: draws without replacement have another law at each stage.
namespace k_seq_of_distinct_draws {
inline sluice::node_decision f(const sluice::token_row<double>& target, const sluice::token_row<double>& draft,
                               std::span<sluice::token_id> out, std::span<double> scratch, sluice::cursor& random) {
#ifdef CONTROL
  const auto drafts = sluice::draft_node(sluice::independent_draws{}, out, scratch, draft, 5, random);
#else
  const auto drafts = sluice::draft_node(sluice::draws_without_replacement{}, out, scratch, draft, 5, random);
#endif
  return sluice::verify_node(sluice::k_seq{}, target, draft, drafts, random);
}
}  // namespace k_seq_of_distinct_draws
