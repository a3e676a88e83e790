// Expect: no matching function for call to|constraints? not satisfied
// What is read-only cannot be the result.
namespace write_to_const {
#ifdef CONTROL
void f(std::span<double> y, std::span<const double> x) { sluice::lincomb(y, 2, x); }
#else
void f(std::span<const double> y, std::span<const double> x) { sluice::lincomb(y, 2, x); }
#endif
}  // namespace write_to_const
