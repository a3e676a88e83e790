// Expect: no matching function for call to|constraints? not satisfied
// Integers are not a vector space.
namespace vector_of_integers {
#ifdef CONTROL
double f(const std::vector<double>& x) { return sluice::norm(x); }
#else
double f(const std::vector<int>& x) { return sluice::norm(x); }
#endif
}  // namespace vector_of_integers
