// Expect: constraints not satisfied|no matching function
// A network in float under a state in double is converted by the user, not behind his back.
namespace model_of_another_scalar {
#ifdef CONTROL
using state = Eigen::VectorXf;
#else
using state = Eigen::VectorXd;
#endif
struct network {
  void operator()(const Eigen::VectorXf& x, const sluice::noise_level&, Eigen::VectorXf& out) const { out = x; }
};
inline void f(state& x, const std::vector<sluice::noise_level>& levels) {
  auto model = sluice::prediction<sluice::predicts::noise>(network{});
  static_cast<void>(sluice::sample(sluice::heun{}, model, x, levels));
}
}  // namespace model_of_another_scalar
