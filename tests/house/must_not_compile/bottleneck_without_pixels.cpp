// Expect: constraints not satisfied|no matching function|no matching member function
// In a row vector every number is a sample: there is no image to make smaller.
namespace bottleneck_without_pixels {
#ifdef CONTROL
using state = Eigen::VectorXd;
#else
using state = Eigen::RowVectorXd;
#endif
inline auto f(const state& x) { return sluice::bottleneck<sluice::unipc<2>>{.image = {1, 4, 4}}.bind(x); }
}  // namespace bottleneck_without_pixels
