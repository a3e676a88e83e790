// Expect: scale_add takes pairs: coefficient, tensor
// Every coefficient has its tensor.
namespace coefficient_without_tensor {
#ifdef CONTROL
void f(std::vector<double>& y, const std::vector<double>& x) { sluice::axpy(y, 2, x, 3, x); }
#else
void f(std::vector<double>& y, const std::vector<double>& x) { sluice::axpy(y, 2, x, 3); }
#endif
}  // namespace coefficient_without_tensor
