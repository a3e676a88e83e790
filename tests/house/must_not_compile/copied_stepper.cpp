// Expect: use of deleted function|call to deleted|call to implicitly-deleted
// A stepper owns its history, and a copied tensor may share storage.
namespace copied_stepper {
inline void f(const Eigen::VectorXd& x, const std::vector<sluice::noise_level>& levels) {
  auto stepper = sluice::unipc<2>{}.bind(x, levels);
#ifdef CONTROL
  auto other = std::move(stepper);
#else
  auto other = stepper;
#endif
  other.reset();
}
}  // namespace copied_stepper
