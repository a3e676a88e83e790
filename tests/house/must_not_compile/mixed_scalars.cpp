// Expect: YOU_MIXED_DIFFERENT_NUMERIC_TYPES|no matching function for call to|invalid operands|no match for .operator
// Precision is not changed behind the user's back.
namespace mixed_scalars {
#ifdef CONTROL
void f(Eigen::VectorXd& y, const Eigen::VectorXd& x) { sluice::axpy(y, 2, x); }
#else
void f(Eigen::VectorXd& y, const Eigen::VectorXf& x) { sluice::axpy(y, 2, x); }
#endif
}  // namespace mixed_scalars
