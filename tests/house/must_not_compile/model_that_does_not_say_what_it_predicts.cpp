// Expect: constraints not satisfied|no matching function
// A bare function is no model: noise taken for data would be found out only by looking at the samples.
namespace model_that_does_not_say_what_it_predicts {
struct denoiser {
  void operator()(const Eigen::VectorXd& x, const sluice::noise_level&, Eigen::VectorXd& out) const { out = x; }
};
inline void f(Eigen::VectorXd& x, const std::vector<sluice::noise_level>& levels) {
#ifdef CONTROL
  auto model = sluice::prediction<sluice::predicts::noise>(denoiser{});
#else
  denoiser model;
#endif
  static_cast<void>(sluice::sample(sluice::heun{}, model, x, levels));
}
}  // namespace model_that_does_not_say_what_it_predicts
