// Expect: no matching function for call to|constraints? not satisfied
// A std::vector and an Eigen vector do not combine; a map of the one does with the other.
namespace vector_with_eigen {
#ifdef CONTROL
void f(Eigen::VectorXd& y, const std::vector<double>& x) {
  sluice::axpy(y, 2, Eigen::Map<const Eigen::VectorXd>(x.data(), std::ssize(x)));
}
#else
void f(Eigen::VectorXd& y, const std::vector<double>& x) { sluice::axpy(y, 2, x); }
#endif
}  // namespace vector_with_eigen
