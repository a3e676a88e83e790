// Expect: constraints not satisfied|no matching function|no matching member function|no member named|static assertion
// Between two ends each half-step stands alone: a solver with a history does not fit.
namespace two_ends_of_a_multistep_method {
struct denoiser {
  template <class X, class O>
  void operator()(const X& x, const sluice::noise_level&, O& out) const {
    out = x;
  }
};
#ifdef CONTROL
using inner = sluice::heun;
#else
using inner = sluice::unipc<2>;
#endif
inline void f(Eigen::VectorXd& x, const Eigen::VectorXd& start, const Eigen::VectorXd& end,
              const std::vector<sluice::noise_level>& levels) {
  auto model = sluice::prediction<sluice::predicts::data>(denoiser{});
  const auto recipe = sluice::bidirectional<>{}.with_inner(inner{});
  static_cast<void>(sluice::sample_between(recipe, sluice::two_ended(model, model, model), x, start, end, levels));
}
}  // namespace two_ends_of_a_multistep_method
