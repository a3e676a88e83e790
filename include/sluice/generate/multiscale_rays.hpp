#pragma once
#include <sluice/core/executor.hpp>
#include <sluice/core/expects.hpp>
#include <sluice/core/status.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/generate/volume_rendering.hpp>
#include <sluice/kernels/codebook.hpp>
#include <sluice/kernels/least_squares.hpp>
#include <sluice/kernels/packed_product.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/random/stream.hpp>

#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <numbers>
#include <span>
#include <utility>
#include <vector>

/// Rendering at 1/f of the resolution, f^2 times fewer rays, with a decoder that restores the image; and the sampling
/// of rays at both scales that trains such a model.
///
///     block ray (i, j)   through the centre of its f x f block, u = ((j + 1/2)/(W/f)) 2 - 1,  v likewise
///     decoder B          features x of a block: its neighbourhood in the low image, and 1;  code k of x;
///                        patch = x W + x W_k, ridge regressions on training images
///     decoder A          patch = (quantised) latents times E, the principal patches; the field renders latents
///     refinement         the share rho of the blocks whose code had the largest error in training is rendered again at
///                        full resolution: 1/f^2 + rho of the rays
///     training           L = mean over n_c block rays + lambda_o mean over n_o pixel rays + lambda_s L_sem
///
/// Images are (H W) x channels matrices, pixel (i, j) in row i W + j, the first row of pixels at the top.
/// Source: Yang et al., "VQ-NeRF: Vector Quantization Enhances Implicit Neural Representations" (arXiv:2310.14487).
/// Differs: the decoders are regressions that a CPU fits in seconds, not a pre-trained network; decoder B keeps the
/// colour field of the user, since rendered latents need a decoder of a scale that this library does not have;
/// refinement is ours.
namespace sluice {

/// A camera: rays from origin() through the image plane, u from -1 (left) to 1 (right), v from -1 (top) to 1 (bottom).
template <class C>
concept ray_camera = requires(const C& camera, double u) {
  { camera.origin() } -> std::convertible_to<Eigen::Vector3d>;
  { camera.direction(u, u) } -> std::convertible_to<Eigen::Vector3d>;
};

/// A pinhole: direction = normalised(forward + tangent (u aspect right - v up)).
struct pinhole_camera {
  Eigen::Vector3d eye = Eigen::Vector3d::Zero(), forward{1, 0, 0}, right{0, -1, 0}, up{0, 0, 1};
  double tangent = 0.5;  ///< of half the vertical field of view
  double aspect = 1;     ///< width over height

  /// Looks from eye to target, `up` upwards; the vertical field of view in degrees. Throws invalid_argument unless
  /// target differs from eye, up is not parallel to the line of sight, 0 < degrees < 180 and aspect > 0.
  static pinhole_camera look_at(const Eigen::Vector3d& eye, const Eigen::Vector3d& target, const Eigen::Vector3d& up,
                                double degrees, double aspect = 1) {
    const Eigen::Vector3d to = target - eye;
    const double length = to.norm();
    expects(eye.allFinite() && length > 0 && std::isfinite(length), "pinhole_camera", "target", length);
    const Eigen::Vector3d f = to / length, side = f.cross(up);
    expects(side.norm() > 1e-12 * up.norm() && std::isfinite(side.norm()), "pinhole_camera", "up", side.norm());
    expects(degrees > 0 && degrees < 180, "pinhole_camera", "degrees", degrees);
    expects(aspect > 0 && std::isfinite(aspect), "pinhole_camera", "aspect", aspect);
    const Eigen::Vector3d r = side.normalized();
    return {eye, f, r, r.cross(f), std::tan(degrees * std::numbers::pi / 360), aspect};
  }
  const Eigen::Vector3d& origin() const { return eye; }
  Eigen::Vector3d direction(double u, double v) const {
    return (forward + tangent * (u * aspect * right - v * up)).normalized();
  }
};

/// Height, width and the side of a block; f divides both.
struct ray_grid {
  index_t height = 0, width = 0, f = 1;
  index_t rows() const { return height / f; }  ///< of blocks
  index_t cols() const { return width / f; }
  index_t blocks() const { return rows() * cols(); }
  index_t pixels() const { return height * width; }
  void check(const char* function) const {
    expects(f >= 1, function, "f", f);
    expects(height >= 1 && height % f == 0, function, "height", height);
    expects(width >= 1 && width % f == 0, function, "width", width);
  }
};

/// The rays through the centres of all blocks, row by row; ray and id are the number of the block. f = 1: pixel rays.
/// Throws invalid_argument unless f divides the height and the width.
template <std::floating_point S, ray_camera C>
void block_rays(ray_batch<S>& out, const C& camera, const ray_grid& shape) {
  shape.check("block_rays");
  out.id.clear();
  out.resize(shape.blocks());
  const double h = static_cast<double>(shape.rows()), w = static_cast<double>(shape.cols());
  const Eigen::Vector3d origin = camera.origin();
  for (index_t k = 0; k < shape.blocks(); ++k) {
    const double u = (static_cast<double>(k % shape.cols()) + 0.5) / w * 2 - 1,
                 v = (static_cast<double>(k / shape.cols()) + 0.5) / h * 2 - 1;
    out.origins.row(k) = origin.transpose().template cast<S>();
    out.directions.row(k) = Eigen::Vector3d(camera.direction(u, v)).transpose().template cast<S>();
  }
}

/// The rays of the pixels of some blocks, in the order of the pixels of the image: the id of a ray is its pixel
/// i W + j. Throws invalid_argument as block_rays, or if blocks are not ascending numbers of blocks.
template <std::floating_point S, ray_camera C>
void pixel_rays(ray_batch<S>& out, const C& camera, const ray_grid& shape, std::span<const index_t> blocks) {
  shape.check("pixel_rays");
  for (std::size_t k = 0; k < blocks.size(); ++k)
    expects(blocks[k] > (k == 0 ? -1 : blocks[k - 1]) && blocks[k] < shape.blocks(), "pixel_rays", "blocks", blocks[k],
            static_cast<std::ptrdiff_t>(k));
  out.id.clear();
  out.resize(std::ssize(blocks) * shape.f * shape.f);
  const double h = static_cast<double>(shape.height), w = static_cast<double>(shape.width);
  const Eigen::Vector3d origin = camera.origin();
  index_t ray = 0;
  for (std::size_t first = 0; first < blocks.size();) {  // the chosen blocks of one row of blocks
    std::size_t last = first;
    const index_t row = blocks[first] / shape.cols();
    while (last < blocks.size() && blocks[last] / shape.cols() == row) ++last;
    for (index_t a = 0; a < shape.f; ++a)
      for (std::size_t k = first; k < last; ++k)
        for (index_t b = 0; b < shape.f; ++b, ++ray) {
          const index_t i = row * shape.f + a, j = blocks[k] % shape.cols() * shape.f + b;
          const double u = (static_cast<double>(j) + 0.5) / w * 2 - 1, v = (static_cast<double>(i) + 0.5) / h * 2 - 1;
          out.origins.row(ray) = origin.transpose().template cast<S>();
          out.directions.row(ray) = Eigen::Vector3d(camera.direction(u, v)).transpose().template cast<S>();
          out.id[static_cast<std::size_t>(ray)] = static_cast<std::uint64_t>(i * shape.width + j);
        }
    first = last;
  }
}

/// patches.row(block) = the f x f pixels of the block, row by row, channels last. Throws invalid_argument unless f
/// divides the image and the sizes are (H W) x c and blocks x (f f c).
template <class P, class I>
void to_blocks(Eigen::MatrixBase<P>& patches, const Eigen::MatrixBase<I>& image, const ray_grid& shape) {
  shape.check("to_blocks");
  const index_t c = image.cols(), f = shape.f;
  expects(image.rows() == shape.pixels(), "to_blocks", "image.rows", image.rows());
  expects(patches.rows() == shape.blocks(), "to_blocks", "patches.rows", patches.rows());
  expects(patches.cols() == f * f * c, "to_blocks", "patches.cols", patches.cols());
  for (index_t k = 0; k < shape.blocks(); ++k)
    for (index_t a = 0; a < f; ++a)
      for (index_t b = 0; b < f; ++b)
        patches.row(k).segment((a * f + b) * c, c) =
            image.row((k / shape.cols() * f + a) * shape.width + k % shape.cols() * f + b);
}
/// The inverse of to_blocks. Throws likewise.
template <class I, class P>
void from_blocks(Eigen::MatrixBase<I>& image, const Eigen::MatrixBase<P>& patches, const ray_grid& shape) {
  shape.check("from_blocks");
  const index_t c = image.cols(), f = shape.f;
  expects(image.rows() == shape.pixels(), "from_blocks", "image.rows", image.rows());
  expects(patches.rows() == shape.blocks(), "from_blocks", "patches.rows", patches.rows());
  expects(patches.cols() == f * f * c, "from_blocks", "patches.cols", patches.cols());
  for (index_t k = 0; k < shape.blocks(); ++k)
    for (index_t a = 0; a < f; ++a)
      for (index_t b = 0; b < f; ++b)
        image.row((k / shape.cols() * f + a) * shape.width + k % shape.cols() * f + b) =
            patches.row(k).segment((a * f + b) * c, c);
}

/// The low image at full resolution: each pixel from the four nearest block centres, the border continued. Throws
/// invalid_argument unless f divides the image and the sizes are (H W) x c and blocks x c.
template <class I, class L>
void upsample_bilinear(Eigen::MatrixBase<I>& image, const Eigen::MatrixBase<L>& low, const ray_grid& shape) {
  using S = typename I::Scalar;
  shape.check("upsample_bilinear");
  expects(low.rows() == shape.blocks(), "upsample_bilinear", "low.rows", low.rows());
  expects(image.rows() == shape.pixels(), "upsample_bilinear", "image.rows", image.rows());
  expects(image.cols() == low.cols(), "upsample_bilinear", "image.cols", image.cols());
  struct place {
    index_t first, second;
    S share;
  };
  const auto along = [&shape](index_t pixel, index_t n) {
    const double f = static_cast<double>(shape.f), last = static_cast<double>(n - 1);
    const double y = std::clamp((static_cast<double>(pixel) + 0.5) / f - 0.5, 0.0, last);
    const index_t k = static_cast<index_t>(y);
    return place{k, std::min(k + 1, n - 1), static_cast<S>(y - static_cast<double>(k))};
  };
  for (index_t i = 0; i < shape.height; ++i) {
    const place y = along(i, shape.rows());
    for (index_t j = 0; j < shape.width; ++j) {
      const place x = along(j, shape.cols());
      const auto between = [&](index_t row) {
        return (1 - x.share) * low.row(row * shape.cols() + x.first) + x.share * low.row(row * shape.cols() + x.second);
      };
      image.row(i * shape.width + j) = (1 - y.share) * between(y.first) + y.share * between(y.second);
    }
  }
}

/// out.row(block) = the (2 radius + 1)^2 blocks around it, row by row, the border continued, channels last; then 1.
/// `low` is (rows cols) x c. Throws invalid_argument unless radius >= 0 and the sizes fit.
template <class O, class L>
void neighbourhood_features(Eigen::MatrixBase<O>& out, const Eigen::MatrixBase<L>& low, index_t rows, index_t cols,
                            index_t radius) {
  const index_t c = low.cols(), side = 2 * radius + 1;
  expects(radius >= 0, "neighbourhood_features", "radius", radius);
  expects(rows >= 1 && cols >= 1 && low.rows() == rows * cols, "neighbourhood_features", "low.rows", low.rows());
  expects(out.rows() == low.rows(), "neighbourhood_features", "out.rows", out.rows());
  expects(out.cols() == side * side * c + 1, "neighbourhood_features", "out.cols", out.cols());
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j) {
      index_t at = 0;
      for (index_t a = -radius; a <= radius; ++a)
        for (index_t b = -radius; b <= radius; ++b, at += c)
          out.row(i * cols + j).segment(at, c) =
              low.row(std::clamp(i + a, index_t{0}, rows - 1) * cols + std::clamp(j + b, index_t{0}, cols - 1));
      out(i * cols + j, at) = 1;
    }
}

/// Rows of y from rows of x by a linear map, and a correction of it for each code: y = x W + x W_k. W is a ridge
/// regression on all rows, W_k one on the residuals of the rows of code k; a code without rows has W_k = 0. Predictions
/// use W + W_k, one product. One object a thread.
template <std::floating_point S>
class coded_regression {
 public:
  using matrix = detail::row_matrix<S>;
  /// Fits. rmse(k) is the error that is left, per number, over the rows of code k. False, nothing changed, if the
  /// equations have no solution, which needs a ridge of 0. Throws invalid_argument unless the sizes agree, every label
  /// is in [0, n_codes), rows are finite, and ridges are finite and at least 0.
  template <class X, class Y>
  [[nodiscard]] bool fit(const Eigen::MatrixBase<X>& x, const Eigen::MatrixBase<Y>& y, std::span<const index_t> labels,
                         index_t n_codes, double ridge, double code_ridge) {
    expects(x.rows() == y.rows(), "coded_regression::fit", "y.rows", y.rows());
    expects(std::ssize(labels) == x.rows(), "coded_regression::fit", "labels.size", labels.size());
    expects(code_ridge >= 0 && std::isfinite(code_ridge), "coded_regression::fit", "code_ridge", code_ridge);
    members_.assign(labels, n_codes);
    const index_t p = x.cols(), q = y.cols();
    normal_equations all(p, q), some(p, q);
    all.add(x, y);
    Eigen::MatrixXd w, correction;
    if (!all.solve(w, ridge)) return false;
    std::vector<packed_product<S>> maps(static_cast<std::size_t>(n_codes));
    std::vector<double> rmse(maps.size(), 0.0);
    matrix transposed(q, p);
    for (index_t k = 0; k < n_codes; ++k) {
      const std::span<const index_t> rows = members_(k);
      Eigen::MatrixXd a(std::ssize(rows), p), b(std::ssize(rows), q);
      for (index_t i = 0; i < a.rows(); ++i) {
        a.row(i) = x.row(rows[static_cast<std::size_t>(i)]).template cast<double>();
        b.row(i) = y.row(rows[static_cast<std::size_t>(i)]).template cast<double>();
      }
      b.noalias() -= a * w;
      correction.setZero(p, q);
      if (a.rows() > 0) {
        some.clear();
        some.add(a, b);
        if (!some.solve(correction, code_ridge)) return false;
        rmse[static_cast<std::size_t>(k)] =
            std::sqrt((b - a * correction).squaredNorm() / static_cast<double>(b.size()));
      }
      transposed = (w + correction).transpose().template cast<S>();
      maps[static_cast<std::size_t>(k)].assign({transposed.data(), static_cast<std::size_t>(transposed.size())}, q, p);
    }
    transposed = w.transpose().template cast<S>();
    linear_.assign({transposed.data(), static_cast<std::size_t>(transposed.size())}, q, p);
    maps_ = std::move(maps);
    rmse_ = std::move(rmse);
    return true;
  }
  index_t n_codes() const { return std::ssize(maps_); }
  const std::vector<double>& rmse() const { return rmse_; }

  /// out = x W, the map without codes. Throws invalid_argument unless the sizes agree.
  void predict(matrix& out, const matrix& x) const {
    expects_sizes(out, x);
    linear_.multiply({out.data(), static_cast<std::size_t>(out.size())}, {x.data(), static_cast<std::size_t>(x.size())},
                     x.rows());
  }
  /// out.row(i) = x.row(i) (W + W_label). Each code's map is read once. Throws invalid_argument unless the sizes agree
  /// and every label is in [0, n_codes).
  void predict(matrix& out, const matrix& x, std::span<const index_t> labels) {
    expects_sizes(out, x);
    expects(std::ssize(labels) == x.rows(), "coded_regression::predict", "labels.size", labels.size());
    members_.assign(labels, n_codes());
    gathered_x_.resize(x.rows(), x.cols());
    gathered_y_.resize(out.rows(), out.cols());
    for (index_t k = 0; k < n_codes(); ++k) {
      const std::span<const index_t> rows = members_(k);
      if (rows.empty()) continue;
      const auto b = std::ssize(rows);
      for (index_t i = 0; i < b; ++i) gathered_x_.row(i) = x.row(rows[static_cast<std::size_t>(i)]);
      maps_[static_cast<std::size_t>(k)].multiply({gathered_y_.data(), static_cast<std::size_t>(b * out.cols())},
                                                  {gathered_x_.data(), static_cast<std::size_t>(b * x.cols())}, b);
      for (index_t i = 0; i < b; ++i) out.row(rows[static_cast<std::size_t>(i)]) = gathered_y_.row(i);
    }
  }

 private:
  void expects_sizes(const matrix& out, const matrix& x) const {
    expects(x.cols() == linear_.cols(), "coded_regression::predict", "x.cols", x.cols());
    expects(out.rows() == x.rows(), "coded_regression::predict", "out.rows", out.rows());
    expects(out.cols() == linear_.rows(), "coded_regression::predict", "out.cols", out.cols());
  }
  packed_product<S> linear_;
  std::vector<packed_product<S>> maps_;
  std::vector<double> rmse_;
  code_members members_;
  matrix gathered_x_, gathered_y_;
};

/// What turns a low rendering into an image: decode(image, low, shape), then errors(), the error that it expects of
/// each block, and usage(), how its codes were used.
template <class D, class S>
concept ray_decoder = requires(D& d, detail::row_matrix<S>& image, const rendering<S>& low, const ray_grid& shape) {
  d.decode(image, low, shape);
  { d.errors() } -> std::convertible_to<std::span<const double>>;
  { D::renders_colours } -> std::convertible_to<bool>;  // false: the field renders latents, so no pixel can be refined
};

/// Decodes by bilinear interpolation; expects errors where a block differs from its neighbours. The honest peer.
template <std::floating_point S>
class bilinear_decoder {
 public:
  static constexpr bool renders_colours = true;
  void decode(detail::row_matrix<S>& image, const rendering<S>& low, const ray_grid& shape) {
    shape.check("bilinear_decoder");
    image.resize(shape.pixels(), low.features.cols());
    upsample_bilinear(image, low.features, shape);
    errors_.assign(static_cast<std::size_t>(shape.blocks()), 0.0);
    for (index_t k = 0; k < shape.blocks(); ++k) {
      const index_t i = k / shape.cols(), j = k % shape.cols();
      for (index_t a = std::max<index_t>(0, i - 1); a <= std::min(shape.rows() - 1, i + 1); ++a)
        for (index_t b = std::max<index_t>(0, j - 1); b <= std::min(shape.cols() - 1, j + 1); ++b) {
          double& e = errors_[static_cast<std::size_t>(k)];
          const auto other = low.features.row(a * shape.cols() + b);
          e = std::max(e, static_cast<double>((low.features.row(k) - other).norm()));
        }
    }
  }
  std::span<const double> errors() const { return errors_; }

 private:
  std::vector<double> errors_;
};

struct neighbourhood_options {
  index_t radius = 2;         ///< features: (2 radius + 1)^2 blocks
  index_t codes = 64;         ///< K; 0: the linear decoder alone
  double ridge = 0.01;        ///< of the map that all blocks share
  double code_ridge = 0.3;    ///< of the corrections
  double depth_scale = 0.25;  ///< depth enters the features times this
  kmeans_options clustering{.max_iterations = 25};
};

/// Decoder B. Trained in place on pairs of a low and a full rendering. Features of a block: colours, opacity and depth
/// of its neighbourhood, and 1. Codes: k-means on the features, each divided by its standard deviation over the
/// training blocks. Keeps its memory: decoding images of one size allocates only the first time. One object a thread.
template <std::floating_point S>
class neighbourhood_decoder {
 public:
  using matrix = detail::row_matrix<S>;
  static constexpr bool renders_colours = true;

  /// Throws invalid_argument unless radius >= 0, codes >= 0, and ridges and depth_scale are finite and at least 0.
  explicit neighbourhood_decoder(const neighbourhood_options& options = {}) : options_(options) {
    const char* me = "neighbourhood_decoder";
    expects(options.radius >= 0, me, "radius", options.radius);
    expects(options.codes >= 0, me, "codes", options.codes);
    expects(options.ridge >= 0 && std::isfinite(options.ridge), me, "ridge", options.ridge);
    expects(options.code_ridge >= 0 && std::isfinite(options.code_ridge), me, "code_ridge", options.code_ridge);
    expects(options.depth_scale >= 0 && std::isfinite(options.depth_scale), me, "depth_scale", options.depth_scale);
  }
  /// A training view: its low rendering and its full image, (H W) x channels. Throws invalid_argument if a size does
  /// not fit or differs from the first view's f and channels.
  template <class I>
  void add(const rendering<S>& low, const Eigen::MatrixBase<I>& image, const ray_grid& shape) {
    expects_low("neighbourhood_decoder::add", low, shape);
    expects(image.rows() == shape.pixels(), "neighbourhood_decoder::add", "image.rows", image.rows());
    expects(image.cols() == low.features.cols(), "neighbourhood_decoder::add", "image.cols", image.cols());
    expects(f_ == 0 || f_ == shape.f, "neighbourhood_decoder::add", "f", shape.f);
    expects(f_ == 0 || channels_ == image.cols(), "neighbourhood_decoder::add", "image.cols", image.cols());
    f_ = shape.f;
    channels_ = image.cols();
    matrix patches(shape.blocks(), shape.f * shape.f * channels_);
    to_blocks(patches, image, shape);
    describe(low, shape);
    const index_t before = x_.rows(), n = before + shape.blocks();
    x_.conservativeResize(n, features_.cols());
    y_.conservativeResize(n, patches.cols());
    x_.bottomRows(shape.blocks()) = features_;
    y_.bottomRows(shape.blocks()) = patches;
  }
  /// Fits codes and maps to the views added so far, and forgets the views. False: see coded_regression::fit. Throws
  /// invalid_argument, nothing changed, unless there are at least `codes` training blocks.
  template <random_source R>
  [[nodiscard]] bool train(R& random) {
    expects(x_.rows() >= std::max<index_t>(1, options_.codes), "neighbourhood_decoder::train", "codes", options_.codes);
    const index_t p = x_.cols() - 1;
    Eigen::RowVectorXd mean = x_.leftCols(p).template cast<double>().colwise().mean();
    const Eigen::RowVectorXd variance =
        (x_.leftCols(p).template cast<double>().rowwise() - mean).colwise().squaredNorm() /
        static_cast<double>(x_.rows());
    scale_ = variance.unaryExpr([](double v) { return v > 1e-24 ? 1 / std::sqrt(v) : 0.0; }).template cast<S>();
    labels_.assign(static_cast<std::size_t>(x_.rows()), 0);
    if (options_.codes > 0) {
      const matrix z = x_.leftCols(p).array().rowwise() * scale_.array();
      book_ = kmeans_plus_plus(z, options_.codes, random);
      kmeans(book_, std::span(labels_), z, options_.clustering);
    }
    if (!maps_.fit(x_, y_, labels_, std::max<index_t>(1, options_.codes), options_.ridge, options_.code_ridge))
      return false;
    x_.resize(0, x_.cols());
    y_.resize(0, y_.cols());
    trained_ = true;
    return true;
  }
  /// image = the decoded low rendering, clipped to nothing. Throws invalid_argument unless trained for this f and these
  /// channels.
  void decode(matrix& image, const rendering<S>& low, const ray_grid& shape) {
    expects(trained_, "neighbourhood_decoder::decode", "trained", 0);
    expects_low("neighbourhood_decoder::decode", low, shape);
    expects(shape.f == f_, "neighbourhood_decoder::decode", "f", shape.f);
    expects(low.features.cols() == channels_, "neighbourhood_decoder::decode", "low.features.cols",
            low.features.cols());
    describe(low, shape);
    patches_.resize(shape.blocks(), f_ * f_ * channels_);
    labels_.assign(static_cast<std::size_t>(shape.blocks()), 0);
    if (options_.codes > 0) {
      scaled_ = features_.leftCols(features_.cols() - 1).array().rowwise() * scale_.array();
      book_.nearest(labels_, scaled_);
      maps_.predict(patches_, features_, labels_);
    } else {
      maps_.predict(patches_, features_);
    }
    image.resize(shape.pixels(), channels_);
    from_blocks(image, patches_, shape);
    errors_.resize(labels_.size());
    for (std::size_t k = 0; k < labels_.size(); ++k) errors_[k] = maps_.rmse()[static_cast<std::size_t>(labels_[k])];
  }
  /// Of the blocks of the last decode: what the maps of their codes had left in training, root mean square.
  std::span<const double> errors() const { return errors_; }
  /// The codes of the blocks of the last decode.
  std::span<const index_t> labels() const { return labels_; }
  const codebook<S>& codes() const { return book_; }

 private:
  void expects_low(const char* function, const rendering<S>& low, const ray_grid& shape) const {
    shape.check(function);
    expects(low.features.rows() == shape.blocks(), function, "low.features.rows", low.features.rows());
    expects(low.opacity.size() == shape.blocks(), function, "low.opacity.size", low.opacity.size());
    expects(low.depth.size() == shape.blocks(), function, "low.depth.size", low.depth.size());
  }
  void describe(const rendering<S>& low, const ray_grid& shape) {
    const index_t c = low.features.cols(), side = 2 * options_.radius + 1;
    low_.resize(shape.blocks(), c + 2);
    low_.leftCols(c) = low.features;
    low_.col(c) = low.opacity.matrix();
    low_.col(c + 1) = (low.depth * static_cast<S>(options_.depth_scale)).matrix();
    features_.resize(shape.blocks(), side * side * (c + 2) + 1);
    neighbourhood_features(features_, low_, shape.rows(), shape.cols(), options_.radius);
  }

  neighbourhood_options options_;
  index_t f_ = 0, channels_ = 0;
  bool trained_ = false;
  matrix x_, y_;  // training rows
  Eigen::Matrix<S, 1, Eigen::Dynamic> scale_;
  codebook<S> book_;
  coded_regression<S> maps_;
  matrix low_, features_, scaled_, patches_;
  std::vector<index_t> labels_;
  std::vector<double> errors_;
};

struct patch_latent_options {
  index_t latents = 8;  ///< C
  index_t codes = 0;    ///< K; 0: latents are not quantised
  kmeans_options clustering{.max_iterations = 25};
};

/// Decoder A: the C principal patches E (C x f f c) of the training images, not centred, so that empty space, where the
/// field renders 0, is black; latents of a patch y are y E', their patch is (latents, or their nearest code) E. The
/// field renders the C latents as its features. Keeps its memory when it decodes. One object a thread.
template <std::floating_point S>
class patch_latent_decoder {
 public:
  using matrix = detail::row_matrix<S>;
  static constexpr bool renders_colours = false;

  /// Throws invalid_argument unless latents >= 1 and codes >= 0.
  explicit patch_latent_decoder(const patch_latent_options& options = {}) : options_(options) {
    expects(options.latents >= 1, "patch_latent_decoder", "latents", options.latents);
    expects(options.codes >= 0, "patch_latent_decoder", "codes", options.codes);
  }
  /// A training image, (H W) x channels. Throws invalid_argument if a size does not fit or differs from the first.
  template <class I>
  void add(const Eigen::MatrixBase<I>& image, const ray_grid& shape) {
    shape.check("patch_latent_decoder::add");
    expects(image.rows() == shape.pixels(), "patch_latent_decoder::add", "image.rows", image.rows());
    expects(f_ == 0 || f_ == shape.f, "patch_latent_decoder::add", "f", shape.f);
    expects(f_ == 0 || channels_ == image.cols(), "patch_latent_decoder::add", "image.cols", image.cols());
    f_ = shape.f;
    channels_ = image.cols();
    const index_t before = y_.rows();
    matrix patches(shape.blocks(), f_ * f_ * channels_);
    to_blocks(patches, image, shape);
    y_.conservativeResize(before + shape.blocks(), patches.cols());
    y_.bottomRows(shape.blocks()) = patches;
  }
  /// Finds E and the codes, and forgets the images. Throws invalid_argument, nothing changed, unless there are at least
  /// `codes` training patches and C <= f f c.
  template <random_source R>
  void train(R& random) {
    expects(y_.rows() >= std::max<index_t>(1, options_.codes), "patch_latent_decoder::train", "codes", options_.codes);
    expects(options_.latents <= y_.cols(), "patch_latent_decoder::train", "latents", options_.latents);
    const Eigen::MatrixXd y = y_.template cast<double>();
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> moments(y.transpose() * y);  // eigenvalues ascend
    basis_.resize(options_.latents, y.cols());
    for (index_t c = 0; c < options_.latents; ++c) {
      Eigen::VectorXd v = moments.eigenvectors().col(y.cols() - 1 - c);
      Eigen::Index largest = 0;
      v.cwiseAbs().maxCoeff(&largest);
      basis_.row(c) = (v[largest] < 0 ? -v : v).transpose().template cast<S>();
    }
    if (options_.codes > 0) {
      const matrix z = y_ * basis_.transpose();
      book_ = kmeans_plus_plus(z, options_.codes, random);
      std::vector<index_t> labels(static_cast<std::size_t>(z.rows()));
      kmeans(book_, std::span(labels), z, options_.clustering);
    }
    y_.resize(0, y_.cols());
  }
  /// E.
  const matrix& basis() const { return basis_; }
  /// latents.row(block), blocks x C: the training target of a latent field. Throws invalid_argument unless trained for
  /// this f and these channels.
  template <class I>
  void encode(matrix& latents, const Eigen::MatrixBase<I>& image, const ray_grid& shape) const {
    expects_trained("patch_latent_decoder::encode", shape);
    expects(image.cols() == channels_, "patch_latent_decoder::encode", "image.cols", image.cols());
    matrix patches(shape.blocks(), f_ * f_ * channels_);
    to_blocks(patches, image, shape);
    latents = patches * basis_.transpose();
  }
  /// image = the patches of low.features, which are the latents. Throws invalid_argument unless trained for this f, and
  /// there are C features.
  void decode(matrix& image, const rendering<S>& low, const ray_grid& shape) {
    expects_trained("patch_latent_decoder::decode", shape);
    expects(low.features.rows() == shape.blocks(), "patch_latent_decoder::decode", "low.features.rows",
            low.features.rows());
    expects(low.features.cols() == options_.latents, "patch_latent_decoder::decode", "low.features.cols",
            low.features.cols());
    latents_ = low.features;
    errors_.assign(static_cast<std::size_t>(shape.blocks()), 0.0);
    if (options_.codes > 0) {
      labels_.resize(errors_.size());
      book_.nearest(labels_, errors_, latents_);
      book_.quantise(latents_, labels_);
      for (double& e : errors_) e = std::sqrt(e / static_cast<double>(f_ * f_ * channels_));
    }
    patches_.resize(shape.blocks(), basis_.cols());
    patches_.noalias() = latents_ * basis_;
    image.resize(shape.pixels(), channels_);
    from_blocks(image, patches_, shape);
  }
  /// Of the blocks of the last decode: the distance of the latents from their codes, per number of the patch; 0 without
  /// codes.
  std::span<const double> errors() const { return errors_; }
  /// The codes of the blocks of the last decode; empty without codes.
  std::span<const index_t> labels() const { return labels_; }
  const codebook<S>& codes() const { return book_; }

 private:
  void expects_trained(const char* function, const ray_grid& shape) const {
    shape.check(function);
    expects(basis_.rows() > 0, function, "trained", 0);
    expects(shape.f == f_, function, "f", shape.f);
  }
  patch_latent_options options_;
  index_t f_ = 0, channels_ = 0;
  matrix y_, basis_, latents_, patches_;
  codebook<S> book_;
  std::vector<index_t> labels_;
  std::vector<double> errors_;
};

struct multiscale_stats {
  std::int64_t block_rays = 0, pixel_rays = 0, field_evaluations = 0, refined_blocks = 0;
  double decode_seconds = 0;
  stop_place stopped;  ///< index: the first invalid block ray, or pixel if the block rays were valid
};
template <std::floating_point S>
struct multiscale_image {
  detail::row_matrix<S> image;     ///< (H W) x channels
  rendering<S> low;                ///< the block rays: features, opacity, depth
  std::vector<index_t> refined{};  ///< the blocks that were rendered at full resolution, ascending
  sluice::status status = sluice::status::completed;
  multiscale_stats stats;
};

/// Renders block rays, decodes, and refines. Workspaces are kept between images. One object a thread.
template <class Renderer, class Decoder>
requires ray_decoder<Decoder, typename Renderer::scalar>
class multiscale_renderer {
  using S = typename Renderer::scalar;

 public:
  multiscale_renderer(Renderer renderer, Decoder decoder)
      : renderer_(std::move(renderer)), decoder_(std::move(decoder)) {}
  Renderer& renderer() { return renderer_; }
  Decoder& decoder() { return decoder_; }

  /// The image that the camera sees. rho: share of the blocks to refine, floor(rho blocks + 1/2) of them, those with
  /// the largest errors(), lower blocks first on ties; with rho = 1 the decoder is not asked and the image is that of
  /// the renderer at full resolution, bit for bit. f = 1 without refinement is plain rendering, the decoder is not
  /// asked. Block rays draw from key.derive(f), pixel rays from key.derive(1). An invalid ray (see rendering) does not
  /// stop the others: status invalid_row. Throws invalid_argument, nothing changed, unless f divides the image, 0 <=
  /// rho <= 1, and rho = 0 where the decoder decodes latents.
  template <ray_field<S> F, ray_camera C, executor Executor = serial>
  void render(F&& field, multiscale_image<S>& out, const C& camera, const ray_grid& shape, double rho,
              const Executor& ex, stream key) {
    const char* me = "multiscale_renderer::render";
    shape.check(me);
    expects(rho >= 0 && rho <= 1, me, "rho", rho);
    expects(rho == 0 || Decoder::renders_colours, me, "rho", rho);
    out.stats = {};
    out.status = status::completed;
    const index_t blocks = shape.blocks();
    const auto chosen = static_cast<index_t>(std::floor(rho * static_cast<double>(blocks) + 0.5));
    const bool plain = shape.f == 1 && chosen == 0;
    out.refined.clear();
    if (chosen < blocks) {
      block_rays(blocks_, camera, shape);
      renderer_.render(field, out.low, blocks_, ex, key.derive(static_cast<std::uint64_t>(shape.f)));
      note(out, out.low, blocks_);
      out.stats.block_rays = blocks;
      if (plain) {
        out.image = out.low.features;
        return;
      }
      const auto start = std::chrono::steady_clock::now();
      decoder_.decode(out.image, out.low, shape);
      out.stats.decode_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    } else {
      out.image.resize(shape.pixels(), renderer_.options().channels);
    }
    if (chosen == 0) return;
    choose(out.refined, chosen, blocks);
    pixel_rays(pixels_, camera, shape, out.refined);
    renderer_.render(field, full_, pixels_, ex, key.derive(1));
    note(out, full_, pixels_);
    out.stats.pixel_rays = pixels_.size();
    out.stats.refined_blocks = chosen;
    for (index_t r = 0; r < pixels_.size(); ++r)
      out.image.row(static_cast<index_t>(pixels_.id[static_cast<std::size_t>(r)])) = full_.features.row(r);
  }
  /// The same for a renderer that draws nothing.
  template <ray_field<S> F, ray_camera C, executor Executor = serial>
  requires(!Renderer::draws) void render(F&& field, multiscale_image<S>& out, const C& camera, const ray_grid& shape,
                                         double rho = 0, const Executor& ex = {}) {
    render(field, out, camera, shape, rho, ex, stream{0});
  }

 private:
  static void note(multiscale_image<S>& out, const rendering<S>& r, const ray_batch<S>& rays) {
    out.stats.field_evaluations += r.stats.field_evaluations;
    if (r.status == status::completed || out.status != status::completed) return;
    out.status = r.status;
    const index_t i = r.stats.stopped.index;
    out.stats.stopped.index = static_cast<index_t>(rays.id[static_cast<std::size_t>(i)]);
  }
  void choose(std::vector<index_t>& out, index_t n, index_t blocks) {
    out.resize(static_cast<std::size_t>(blocks));
    for (index_t k = 0; k < blocks; ++k) out[static_cast<std::size_t>(k)] = k;
    if (n < blocks) {
      const std::span<const double> e = decoder_.errors();
      const auto worse = [&e](index_t a, index_t b) {
        const double x = e[static_cast<std::size_t>(a)], y = e[static_cast<std::size_t>(b)];
        return x > y || (x == y && a < b);
      };
      std::nth_element(out.begin(), out.begin() + n, out.end(), worse);
      out.resize(static_cast<std::size_t>(n));
      std::sort(out.begin(), out.end());
    }
  }

  Renderer renderer_;
  Decoder decoder_;
  ray_batch<S> blocks_, pixels_;  // apart, so that neither changes its size
  rendering<S> full_;
};

/// Block and pixel rays of one training step.
struct multiscale_batch {
  std::vector<index_t> blocks;  ///< view * shape.blocks() + block
  std::vector<index_t> pixels;  ///< view * shape.pixels() + pixel
};

/// Draws n_c blocks and n_o pixels, each uniformly without replacement from all views. Memory of the size of the draw,
/// not of the images, kept between draws. One object a thread.
/// Source: Floyd, in Bentley, "Programming Pearls: A Sample of Brilliance", CACM 30 (1987).
class multiscale_draws {
 public:
  /// Throws invalid_argument unless views >= 1 and f divides the image.
  multiscale_draws(index_t views, const ray_grid& shape) {
    expects(views >= 1, "multiscale_draws", "views", views);
    shape.check("multiscale_draws");
    blocks_ = views * shape.blocks();
    pixels_ = views * shape.pixels();
  }
  /// n_c + n_o decisions, O(n_c + n_o) expected. Throws invalid_argument, nothing changed, unless 0 <= n_c <= blocks
  /// and 0 <= n_o <= pixels of all views.
  template <random_source R>
  void operator()(multiscale_batch& out, index_t n_blocks, index_t n_pixels, R& random) {
    expects(n_blocks >= 0 && n_blocks <= blocks_, "multiscale_draws", "n_blocks", n_blocks);
    expects(n_pixels >= 0 && n_pixels <= pixels_, "multiscale_draws", "n_pixels", n_pixels);
    subset(out.blocks, n_blocks, blocks_, random);
    subset(out.pixels, n_pixels, pixels_, random);
  }

 private:
  template <class R>
  void subset(std::vector<index_t>& out, index_t n, index_t population, R& random) {
    std::size_t places = 4;
    while (places < 2 * static_cast<std::size_t>(n)) places *= 2;
    table_.assign(places, -1);
    out.clear();
    out.reserve(static_cast<std::size_t>(n));
    for (index_t j = population - n; j < population; ++j) {
      const auto x = static_cast<index_t>(below(random, static_cast<std::uint64_t>(j) + 1));
      if (insert(x))
        out.push_back(x);
      else
        insert(j), out.push_back(j);
    }
  }
  bool insert(index_t x) {
    const std::size_t mask = table_.size() - 1;
    auto at = static_cast<std::size_t>((static_cast<std::uint64_t>(x) * 0x9E3779B97F4A7C15u) >> 20) & mask;
    for (; table_[at] >= 0; at = (at + 1) & mask)
      if (table_[at] == x) return false;
    table_[at] = x;
    return true;
  }
  index_t blocks_ = 0, pixels_ = 0;
  std::vector<index_t> table_;
};

struct multiscale_loss_options {
  double original = 1;  ///< lambda_o
  double semantic = 0;  ///< lambda_s
  double eikonal = 0;   ///< 0.1 for signed distances
};
/// What a ray contributes to the loss: the factor of its loss, or of the gradient of it.
struct multiscale_loss {
  double value = 0, block_weight = 0, pixel_weight = 0;
};
/// value = mean(block losses) + original mean(pixel losses) + semantic semantic_loss + eikonal eikonal_loss. Over draws
/// without replacement the expectation of each mean is the mean over all views, whatever n_c : n_o. Throws
/// invalid_argument if there is no block loss, no pixel loss while original > 0, a weight negative, or a loss not
/// finite.
inline multiscale_loss combine_multiscale_loss(std::span<const double> block_losses,
                                               std::span<const double> pixel_losses,
                                               const multiscale_loss_options& options = {}, double semantic_loss = 0,
                                               double eikonal_loss = 0) {
  const char* me = "combine_multiscale_loss";
  expects(!block_losses.empty(), me, "block_losses.size", 0);
  expects(options.original >= 0 && std::isfinite(options.original), me, "original", options.original);
  expects(options.semantic >= 0 && std::isfinite(options.semantic), me, "semantic", options.semantic);
  expects(options.eikonal >= 0 && std::isfinite(options.eikonal), me, "eikonal", options.eikonal);
  expects(!pixel_losses.empty() || options.original == 0, me, "pixel_losses.size", 0);
  expects(std::isfinite(semantic_loss), me, "semantic_loss", semantic_loss);
  expects(std::isfinite(eikonal_loss), me, "eikonal_loss", eikonal_loss);
  const auto total = [me](std::span<const double> losses, const char* name) {
    double sum = 0;
    for (std::size_t i = 0; i < losses.size(); ++i) {
      expects(std::isfinite(losses[i]), me, name, losses[i], static_cast<std::ptrdiff_t>(i));
      sum += losses[i];
    }
    return sum;
  };
  multiscale_loss r;
  r.block_weight = 1 / static_cast<double>(block_losses.size());
  r.pixel_weight = pixel_losses.empty() ? 0 : options.original / static_cast<double>(pixel_losses.size());
  r.value = r.block_weight * total(block_losses, "block_losses") +
            r.pixel_weight * total(pixel_losses, "pixel_losses") + options.semantic * semantic_loss +
            options.eikonal * eikonal_loss;
  return r;
}

/// 1 - cosine of extractor(decoded) and extractor(truth), Eigen vectors of the user's making; 0 for equal directions, 1
/// if a vector is 0. Throws invalid_argument unless the two have one length.
template <class Extractor, class A, class B>
double semantic_loss(Extractor&& extractor, const Eigen::MatrixBase<A>& decoded, const Eigen::MatrixBase<B>& truth) {
  const Eigen::VectorXd a = extractor(decoded.derived()), b = extractor(truth.derived());
  expects(a.size() == b.size(), "semantic_loss", "extractor.size", a.size());
  const double lengths = a.norm() * b.norm();
  return lengths > 0 ? 1 - a.dot(b) / lengths : 1.0;
}

}  // namespace sluice
