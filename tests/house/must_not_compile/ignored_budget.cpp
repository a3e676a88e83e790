// Expect: nodiscard
// Work that was not booked must not be done: the answer of spend cannot be ignored.
namespace ignored_budget {
#ifdef CONTROL
bool f(sluice::budget& b) { return b.spend(3); }
#else
void f(sluice::budget& b) { b.spend(3); }
#endif
}  // namespace ignored_budget
