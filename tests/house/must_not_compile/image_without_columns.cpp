// Expect: image_tensor|columns_of_pixels
// The pixels of a sample must be one unbroken run: a matrix stored by rows scatters each column.
namespace image_without_columns {
#ifdef CONTROL
using state = Eigen::MatrixXd;
#else
using state = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
#endif
auto f(const state& x) { return sluice::bottleneck<sluice::ddim<>>{}.bind(x); }
}  // namespace image_without_columns
