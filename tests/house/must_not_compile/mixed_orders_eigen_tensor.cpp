// Expect: no matching function for call to|constraints? not satisfied
// Eigen's tensors are column-major by default; a std::vector is a row-major matrix to its user.
namespace mixed_orders_eigen_tensor {
#ifdef CONTROL
using matrix = Eigen::Tensor<double, 2, Eigen::RowMajor>;
#else
using matrix = Eigen::Tensor<double, 2>;
#endif
void f(matrix& y, const std::vector<double>& x) { sluice::axpy(y, 2, x); }
}  // namespace mixed_orders_eigen_tensor
