#pragma once
#include <sluice/random/distributions.hpp>
#include <sluice/random/stream.hpp>

#include <Eigen/Core>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

/// Unstable: for tests, benchmarks and examples; no compatibility is promised.
///
/// The draws of the test models. Every model takes its numbers in a fixed order from the stream (seed, id) of its kind,
/// and item i of a set from the stream (seed, base + i), so that any items can be made in any order by any thread.
/// Uniforms, bounded integers, normals, exponentials and shuffles are those of random/distributions.hpp on a cursor.
namespace sluice::models {

/// The ids of the streams, by model; for sets of items the base, to which the index of the item is added.
namespace stream_id {
inline constexpr std::uint64_t gaussian_mixture = 0x101, lexicon = 0x301, text = 0x302, feed_forward = 0x310,
                               image = 0x1000000, zipf_pair = 0x701, concept_world = 0x711, flip_world = 0x721,
                               joint_pmf = 0x741, concept_sample = 0x3000000, flip_sample = 0x4000000,
                               graph_row = 0x5000000, sparse_row = 0x6000000;
}  // namespace stream_id

/// rows x cols standard normals, drawn row by row whatever the storage order of the matrix.
inline Eigen::MatrixXd normal_matrix(index_t rows, index_t cols, cursor& random) {
  std::vector<double> z(static_cast<std::size_t>(rows * cols));
  normals(std::span<double>(z), random);
  return Eigen::Map<const Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(z.data(), rows, cols);
}

/// n standard exponentials divided by their sum: a law drawn uniformly from the simplex.
inline Eigen::VectorXd random_law(index_t n, cursor& random) {
  Eigen::VectorXd law(n);
  for (index_t i = 0; i < n; ++i) law(i) = exponential(random);
  return law / law.sum();
}

}  // namespace sluice::models
