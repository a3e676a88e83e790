// Expect: constraints not satisfied|no matching function|no matching member function
// A step with a history cannot begin off the grid.
namespace churn_of_a_multistep_method {
struct denoiser {
  template <class O>
  void operator()(const Eigen::VectorXd& x, const sluice::noise_level&, O& out) const {
    out = x;
  }
};
#ifdef CONTROL
using recipe = sluice::churned<sluice::heun>;
#else
using recipe = sluice::churned<sluice::unipc<2>>;
#endif
inline void f(Eigen::VectorXd& x, const std::vector<sluice::noise_level>& levels) {
  auto model = sluice::prediction<sluice::predicts::data>(denoiser{});
  recipe{}.bind(x, levels).step(model, x, 0);
}
}  // namespace churn_of_a_multistep_method
