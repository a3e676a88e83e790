// Expect: static assertion failed|static_assert failed
// Recursive rejection has no stages for tokens that were fixed.
namespace recursive_rejection_of_hybrid_draws {
#ifdef CONTROL
const sluice::recursive_rejection<sluice::draws_without_replacement> rule;
#else
const sluice::recursive_rejection<sluice::hybrid_draws> rule;
#endif
}  // namespace recursive_rejection_of_hybrid_draws
