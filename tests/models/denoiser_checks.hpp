#pragma once
#include <algorithm>
#include <catch2/catch.hpp>
#include <sluice/generate/model.hpp>
#include <sluice/random/distributions.hpp>
#include <support/allocation_counter.hpp>

/// What every denoiser of models/ promises.
namespace tests {

using sluice::index_t;

inline Eigen::MatrixXd normal_columns(index_t rows, index_t cols, std::uint64_t seed, double sd = 1) {
  Eigen::MatrixXd x(rows, cols);
  for (index_t c = 0; c < cols; ++c)
    sluice::fill_normal(x.col(c), sluice::stream{seed}.derive(static_cast<std::uint64_t>(c)), sd);
  return x;
}

/// A column alone, in float or double, in a matrix or a block, gives the bits that it gives in a batch; nothing
/// allocates.
template <class F>
void check_columns(F& f, const Eigen::MatrixXd& x, const sluice::noise_level& level) {
  Eigen::MatrixXd out(x.rows(), x.cols());
  f(x, level, out);
  CHECK(support::allocations_in([&] { f(x, level, out); }) == 0);
  for (index_t c = 0; c < x.cols(); ++c) {
    const Eigen::VectorXd alone = x.col(c);
    Eigen::VectorXd d(x.rows());
    f(alone, level, d);
    CHECK((d.array() == out.col(c).array()).all());
  }
  Eigen::MatrixXd padded = Eigen::MatrixXd::Constant(x.rows() + 2, x.cols() + 2, 7);
  auto inner = padded.block(1, 1, x.rows(), x.cols());
  f(x, level, inner);
  CHECK((inner.array() == out.array()).all());
  CHECK(padded.sum() == Approx(out.sum() + 7 * static_cast<double>(padded.size() - out.size())));
  const Eigen::ArrayXXf narrow = x.cast<float>().array();
  Eigen::ArrayXXf d(x.rows(), x.cols());
  f(narrow, level, d);
  Eigen::MatrixXd wide(x.rows(), x.cols());
  f(Eigen::MatrixXd(narrow.cast<double>().matrix()), level, wide);
  CHECK((d.matrix() - wide.cast<float>()).cwiseAbs().maxCoeff() <=
        4e-7f * std::max(1.0f, d.matrix().cwiseAbs().maxCoeff()));
  const Eigen::MatrixXd none(x.rows(), 0);
  Eigen::MatrixXd nothing(x.rows(), 0);
  f(none, level, nothing);
}

}  // namespace tests
