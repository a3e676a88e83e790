// Expect: no matching function for call to|constraints? not satisfied
// Nor can a map of constants.
namespace write_to_const_map {
#ifdef CONTROL
using map = Eigen::Map<Eigen::VectorXf>;
#else
using map = Eigen::Map<const Eigen::VectorXf>;
#endif
void f(map y, const Eigen::VectorXf& x) { sluice::axpy(y, 2, x); }
}  // namespace write_to_const_map
