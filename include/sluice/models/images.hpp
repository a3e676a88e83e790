#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/models/draws.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <utility>
#include <vector>

/// Unstable: for tests, benchmarks and examples; no compatibility is promised.
///
/// A bank of small grey pictures that exist at every resolution: image i of bank b is a function of b and i. Images are
/// columns of r^2 values in [-0.9, 0.9], pixel (row, col) at row r + col.
namespace sluice::models {

enum class image_kind { disk, rectangle, ring, gradient, strokes };

/// One picture as a shape: render() draws it at a resolution. Anti-aliased by signed distance s to the edge: a pixel is
/// background + (foreground - background) clamp(1/2 - r s, 0, 1), so an edge is one pixel wide at every r.
class procedural_image {
 public:
  /// Draws from stream (bank, 0x1000000 + i): kind below(5); background -0.9 + 0.4 u; foreground 0.5 + 0.4 u; then disk
  /// and ring: centre 0.3 + 0.4 u twice, radius 0.12 + 0.15 u; rectangle: centre, half sizes 0.08 + 0.2 u twice;
  /// gradient: angle 2 pi u; strokes: four of nine points of a lattice, joined in this order. Throws invalid_argument
  /// if i is negative.
  procedural_image(std::uint64_t bank, index_t i) {
    expects(i >= 0, "procedural_image", "i", i);
    cursor random(stream(bank, stream_id::image + static_cast<std::uint64_t>(i)));
    kind_ = static_cast<image_kind>(below(random, 5));
    background_ = -0.9 + 0.4 * uniform(random);
    foreground_ = 0.5 + 0.4 * uniform(random);
    if (kind_ == image_kind::gradient) {
      const double angle = 2 * std::numbers::pi * uniform(random);
      a_ = std::cos(angle);
      b_ = std::sin(angle);
      return;
    }
    if (kind_ == image_kind::strokes) {
      const std::vector<index_t> node = choose(9, 4, random);
      for (std::size_t k = 0; k < 4; ++k) {
        node_[k][0] = 0.2 + 0.3 * static_cast<double>(node[k] % 3);
        node_[k][1] = 0.2 + 0.3 * static_cast<double>(node[k] / 3);
      }
      return;
    }
    x_ = 0.3 + 0.4 * uniform(random);
    y_ = 0.3 + 0.4 * uniform(random);
    if (kind_ == image_kind::rectangle) {
      a_ = 0.08 + 0.2 * uniform(random);
      b_ = 0.08 + 0.2 * uniform(random);
    } else {
      a_ = 0.12 + 0.15 * uniform(random);
    }
  }

  /// Also the class of the image.
  image_kind kind() const { return kind_; }

  /// The value at (x, y) in [0, 1]^2, x along a row of pixels, for pixels of size 1/r.
  double operator()(double x, double y, double r) const {
    double cover;
    if (kind_ == image_kind::gradient)
      cover = 0.5 + 0.9 * ((x - 0.5) * a_ + (y - 0.5) * b_);
    else
      cover = 0.5 - r * signed_distance(x, y);
    return background_ + (foreground_ - background_) * std::clamp(cover, 0.0, 1.0);
  }
  /// The picture at r x r, sampled at the centres of the pixels. Throws invalid_argument unless r is positive.
  Eigen::VectorXd render(index_t r) const {
    expects(r >= 1, "render", "r", r);
    Eigen::VectorXd image(r * r);
    const double n = static_cast<double>(r);
    for (index_t i = 0; i < r; ++i)
      for (index_t j = 0; j < r; ++j)
        image(i * r + j) = (*this)((static_cast<double>(j) + 0.5) / n, (static_cast<double>(i) + 0.5) / n, n);
    return image;
  }

 private:
  double signed_distance(double x, double y) const {
    switch (kind_) {
      case image_kind::rectangle:
        return std::max(std::abs(x - x_) - a_, std::abs(y - y_) - b_);
      case image_kind::ring:
        return std::abs(std::hypot(x - x_, y - y_) - a_) - 0.04;
      case image_kind::strokes: {
        double nearest = std::numeric_limits<double>::infinity();
        for (std::size_t k = 0; k < 3; ++k) {
          const double px = node_[k][0], py = node_[k][1], dx = node_[k + 1][0] - px, dy = node_[k + 1][1] - py;
          const double along = std::clamp(((x - px) * dx + (y - py) * dy) / (dx * dx + dy * dy), 0.0, 1.0);
          nearest = std::min(nearest, std::hypot(x - px - along * dx, y - py - along * dy));
        }
        return nearest - 0.045;
      }
      default:
        return std::hypot(x - x_, y - y_) - a_;
    }
  }

  image_kind kind_ = image_kind::disk;
  double background_ = 0, foreground_ = 0, x_ = 0, y_ = 0, a_ = 0, b_ = 0;
  double node_[4][2] = {};
};

/// The mean of each 2 x 2 block of r x r images, r even: the columns have r^2/4 elements. O(r^2) a column. Not the same
/// as rendering at r/2: what changes resolution in the middle of a run starts from one render and averages.
inline Eigen::MatrixXd block_average(const Eigen::MatrixXd& images, index_t r) {
  expects(r >= 2 && r % 2 == 0, "block_average", "r", r);
  expects(images.rows() == r * r, "block_average", "images.rows", images.rows());
  const index_t h = r / 2;
  Eigen::MatrixXd low(h * h, images.cols());
  for (index_t c = 0; c < images.cols(); ++c)
    for (index_t i = 0; i < h; ++i)
      for (index_t j = 0; j < h; ++j) {
        const index_t p = 2 * i * r + 2 * j;
        low(i * h + j, c) = ((images(p, c) + images(p + 1, c)) + (images(p + r, c) + images(p + r + 1, c))) / 4;
      }
  return low;
}

/// Images as columns, and the class of each.
struct labelled_images {
  Eigen::MatrixXd image;  ///< r^2 x n
  std::vector<image_kind> label;
};
/// The first n images of a bank, rendered at r x r. Throws invalid_argument unless n >= 0 and r >= 1.
inline labelled_images image_bank(std::uint64_t bank, index_t n, index_t r) {
  expects(n >= 0, "image_bank", "n", n);
  expects(r >= 1, "image_bank", "r", r);
  labelled_images set{Eigen::MatrixXd(r * r, n), {}};
  set.label.reserve(static_cast<std::size_t>(n));
  for (index_t i = 0; i < n; ++i) {
    const procedural_image image(bank, i);
    set.image.col(i) = image.render(r);
    set.label.push_back(image.kind());
  }
  return set;
}
/// The images of one class, in their order: the bank of a conditional kernel denoiser.
inline Eigen::MatrixXd of_kind(const labelled_images& set, image_kind kind) {
  std::vector<Eigen::Index> columns;
  for (std::size_t i = 0; i < set.label.size(); ++i)
    if (set.label[i] == kind) columns.push_back(static_cast<Eigen::Index>(i));
  return set.image(Eigen::all, columns);
}

}  // namespace sluice::models
