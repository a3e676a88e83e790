// Expect: private|no matching function
// Tokens do not become typed drafts by assertion: only the sampler of the kind makes them.
namespace drafts_without_a_kind {
inline sluice::index_t f(std::span<const sluice::token_id> tokens) {
#ifdef CONTROL
  return std::ssize(tokens);
#else
  return std::ssize(sluice::drafted<sluice::hybrid_draws>(tokens, {}).tokens());
#endif
}
}  // namespace drafts_without_a_kind
