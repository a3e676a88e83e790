#pragma once
#include <sluice/core/executor.hpp>
#include <sluice/core/expects.hpp>
#include <sluice/draw/inverse_cdf.hpp>
#include <sluice/kernels/packed_product.hpp>
#include <sluice/models/denoiser.hpp>
#include <sluice/models/diagonal_mixture.hpp>
#include <sluice/models/draws.hpp>
#include <sluice/models/images.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <concepts>
#include <limits>
#include <numbers>
#include <span>
#include <type_traits>
#include <utility>

/// Unstable: for tests, benchmarks and examples; no compatibility is promised.
///
/// Images of a stationary texture about one of several class means: a denoiser whose cost is quadratic in the number of
/// pixels, and whose law at half the resolution is known. Images are r x r, one a column, pixel (row, col) at
/// row r + col.
namespace sluice::models {

/// The orthonormal DCT-II of length r: C(k, i) = sqrt((k = 0 ? 1 : 2) / r) cos(pi (i + 1/2) k / r).
inline Eigen::MatrixXd cosine_basis(index_t r) {
  expects(r >= 1, "cosine_basis", "r", r);
  Eigen::MatrixXd c(r, r);
  const double n = static_cast<double>(r);
  for (index_t k = 0; k < r; ++k)
    for (index_t i = 0; i < r; ++i)
      c(k, i) = std::sqrt((k == 0 ? 1 : 2) / n) *
                std::cos(std::numbers::pi * (static_cast<double>(i) + 0.5) * static_cast<double>(k) / n);
  return c;
}

/// Class j with probability weights(j): an image means.col(j) + U^T z, U the two-dimensional orthonormal DCT-II, the
/// coefficients z(k1, k2) independent normals of variance spectrum(k1, k2).
struct texture_law {
  index_t r = 0;
  Eigen::VectorXd weights;
  Eigen::MatrixXd means;     ///< r^2 x K
  Eigen::MatrixXd spectrum;  ///< r x r: row frequency, column frequency

  /// Only these classes.
  texture_law subset(std::span<const index_t> classes) const {
    texture_law part{r, Eigen::VectorXd(std::ssize(classes)), Eigen::MatrixXd(means.rows(), std::ssize(classes)),
                     spectrum};
    for (index_t i = 0; i < std::ssize(classes); ++i) {
      const index_t j = classes[static_cast<std::size_t>(i)];
      expects(j >= 0 && j < weights.size(), "subset", "classes", j, i);
      part.weights(i) = weights(j);
      part.means.col(i) = means.col(j);
    }
    return part;
  }
  /// b^2 more variance in every coefficient, hence in every pixel.
  texture_law inflated(double b) const { return {r, weights, means, (spectrum.array() + b * b).matrix()}; }
};

/// (r^2 / 64) / (1 + c (k1^2 + k2^2))^a, r x r.
inline Eigen::MatrixXd texture_spectrum(index_t r, double a = 1.5, double c = 0.1) {
  expects(r >= 1, "texture_spectrum", "r", r);
  expects(c >= 0 && std::isfinite(c), "texture_spectrum", "c", c);
  Eigen::MatrixXd s(r, r);
  for (index_t i = 0; i < r; ++i)
    for (index_t j = 0; j < r; ++j)
      s(i, j) = static_cast<double>(r * r) / 64 / std::pow(1 + c * static_cast<double>(i * i + j * j), a);
  return s;
}

/// The exact law of the 2 x 2 block averages, r even: the means are averaged, and with g(k) = cos^2(pi k / 2r) / 2 and
/// W = spectrum g g, the new spectrum at (k1, k2) is the sum of W over {k1, r - k1} x {k2, r - k2}, the frequencies
/// that look alike at half the resolution (r - 0 is not one).
inline texture_law low_resolution(const texture_law& law) {
  const index_t r = law.r, h = r / 2;
  texture_law low{h, law.weights, block_average(law.means, r), Eigen::MatrixXd::Zero(h, h)};
  const auto g = [r](index_t k) {
    const double c = std::cos(std::numbers::pi * static_cast<double>(k) / static_cast<double>(2 * r));
    return c * c / 2;
  };
  for (index_t i = 0; i < h; ++i)
    for (index_t j = 0; j < h; ++j)
      for (const index_t k : {i, r - i})
        for (const index_t m : {j, r - j})
          if (k < r && m < r) low.spectrum(i, j) += law.spectrum(k, m) * g(k) * g(m);
  return low;
}

/// The law of the bottleneck-sampling benchmark: four classes of weight 0.4, 0.3, 0.2, 0.1, a blob at (0.3, 0.3), a
/// blob at (0.7, 0.7) (2 exp(-d^2 / (2 0.15^2)) - 0.5), a square wave of 3 periods along the columns (height 0.75) and
/// a disc of radius 0.3 (1 inside, -1 outside), with texture_spectrum(r).
inline texture_law benchmark_textures(index_t r = 32) {
  expects(r >= 1, "benchmark_textures", "r", r);
  texture_law law{r, Eigen::Vector4d(0.4, 0.3, 0.2, 0.1), Eigen::MatrixXd(r * r, 4), texture_spectrum(r)};
  for (index_t i = 0; i < r; ++i)
    for (index_t j = 0; j < r; ++j) {
      const double y = (static_cast<double>(i) + 0.5) / static_cast<double>(r),
                   x = (static_cast<double>(j) + 0.5) / static_cast<double>(r);
      const auto squared = [&](double at) { return (x - at) * (x - at) + (y - at) * (y - at); };
      const auto blob = [&](double at) { return 2 * std::exp(-squared(at) / (2 * 0.15 * 0.15)) - 0.5; };
      law.means.row(i * r + j) << blob(0.3), blob(0.7), std::sin(6 * std::numbers::pi * x) > 0 ? 0.75 : -0.75,
          squared(0.5) < 0.3 * 0.3 ? 1.0 : -1.0;
    }
  return law;
}

/// How the denoiser applies U: as a dense r^2 x r^2 matrix, which costs what the mixing of tokens in self-attention
/// costs, 2 r^4 multiply-adds a column; or as row and column transforms, 4 r^3. The same function.
enum class token_mixing { dense, separable };

/// How close samples are to a texture_law.
struct texture_quality {
  /// Half the sum of |frequency of class j - weights(j)|.
  double class_total_variation = 0;
  /// sqrt(sum_k (sqrt v_k - sqrt L_k)^2 / sum_k L_k), v_k the mean square of coefficient k about its class mean: the
  /// Wasserstein distance between centred Gaussians of these spectra, relative to the size of the texture.
  double relative_spectral_w2 = 0;
  /// sum v_k / sum L_k over the frequencies with both indices below r/4, and over the others.
  double low_band_ratio = 1, high_band_ratio = 1;
};

/// The denoiser of a texture_law: a transform, a mixture with diagonal variances (diagonal_mixture.hpp), the transform
/// back; in double for every scalar. The dense mixing keeps U twice: 16 r^4 bytes (17 MB at r = 32). Allocates in the
/// constructor only. One object a thread; the executor's threads share the dense products, and a column's bits depend
/// on neither the executor nor the batch.
template <executor Executor = serial>
class texture_mixture {
 public:
  /// Throws invalid_argument unless r is positive, means is r^2 x K, spectrum r x r, and as diagonal_mixture does.
  explicit texture_mixture(texture_law law,
                           token_mixing mixing = token_mixing::dense) requires std::same_as<Executor, serial>
      : texture_mixture(std::move(law), mixing, detail::on_this_thread) {}
  /// The executor is not copied and must outlive this object.
  texture_mixture(texture_law law, token_mixing mixing, const Executor& ex)
      : law_((check(law), std::move(law))),
        mixing_(mixing),
        cosines_(cosine_basis(law_.r)),
        transposed_(cosines_.transpose()),
        mixture_(law_.weights, transformed(law_.means, false), flat_spectrum(law_)),
        executor_(&ex) {
    const index_t r = law_.r, n = r * r;
    if (mixing_ == token_mixing::dense) {
      Eigen::MatrixXd u(n, n);
      for (index_t i = 0; i < r; ++i)
        for (index_t j = 0; j < r; ++j)
          for (index_t k = 0; k < r; ++k)
            for (index_t m = 0; m < r; ++m) u(i * r + j, k * r + m) = cosines_(k, i) * cosines_(m, j);
      forward_.assign(all(u), n, n);  // read as row-major, u is U
      u.transposeInPlace();
      backward_.assign(all(u), n, n);
    }
    half_.resize(r, r);
    whole_.resize(r, r);
    x_.resize(n, tile);
    y_.resize(n, tile);
  }
  texture_mixture(texture_law, token_mixing, const Executor&&) = delete;

  index_t r() const { return law_.r; }
  index_t dimension() const { return law_.r * law_.r; }
  const texture_law& law() const { return law_; }
  token_mixing mixing() const { return mixing_; }
  /// Of a column: the transforms and the mixture.
  double multiply_adds() const {
    const double n = static_cast<double>(dimension());
    return (mixing_ == token_mixing::dense ? 2 * n * n : 4 * n * static_cast<double>(r())) +
           2 * n * static_cast<double>(law_.weights.size());
  }

  /// out = E[data | x].
  template <class X, any_level Level, class Out>
  void operator()(const X& x, const Level& level, Out&& out) {
    using scalar = typename std::remove_cvref_t<Out>::Scalar;
    const scaled_level l = detail::checked_call("texture_mixture", x, level, out, dimension());
    for (Eigen::Index first = 0; first < x.cols(); first += tile) {
      const index_t b = std::min(tile, x.cols() - first);
      for (index_t c = 0; c < b; ++c)
        for (index_t i = 0; i < x.rows(); ++i) x_.coeffRef(i, c) = static_cast<double>(x.coeff(i, first + c));
      transform(y_, x_, b, false);
      mixture_(y_.leftCols(b), l, x_.leftCols(b));
      transform(y_, x_, b, true);
      for (index_t c = 0; c < b; ++c)
        for (index_t i = 0; i < x.rows(); ++i) out.coeffRef(i, first + c) = static_cast<scalar>(y_.coeff(i, c));
    }
  }

  /// One image, and its class.
  std::pair<Eigen::VectorXd, index_t> sample(cursor& random) const {
    auto [z, j] = mixture_.sample(random);
    return {transformed(z, true), j};
  }
  /// The classes of images (one a column): the most probable one given the coefficients with both indices below r/4,
  /// with 0.05 added to every variance, so that samples that are somewhat off are still classified.
  Eigen::VectorX<index_t> classify(const Eigen::MatrixXd& images) const {
    expects(images.rows() == dimension(), "classify", "images.rows", images.rows());
    return classify_coefficients(transformed(images, false));
  }
  /// Compares images, one a column, with the law. Throws invalid_argument if there is none.
  texture_quality quality(const Eigen::MatrixXd& images) const {
    expects(images.rows() == dimension(), "quality", "images.rows", images.rows());
    expects(images.cols() >= 1, "quality", "images.cols", images.cols());
    const Eigen::MatrixXd z = transformed(images, false);
    const Eigen::VectorX<index_t> label = classify_coefficients(z);
    const double n = static_cast<double>(images.cols());
    const Eigen::ArrayXd expected = mixture_.variances().col(0).array();
    Eigen::ArrayXd v = Eigen::ArrayXd::Zero(dimension()), frequency = Eigen::ArrayXd::Zero(law_.weights.size());
    for (index_t c = 0; c < images.cols(); ++c) {
      v += (z.col(c) - mixture_.means().col(label(c))).array().square() / n;
      frequency(label(c)) += 1 / n;
    }
    double low = 0, expected_low = 0;
    for (index_t k = 0; k < dimension(); ++k)
      if (in_low_band(k)) {
        low += v(k);
        expected_low += expected(k);
      }
    return {(frequency - mixture_.weights().array()).abs().sum() / 2,
            std::sqrt((v.sqrt() - expected.sqrt()).square().sum() / expected.sum()), low / expected_low,
            expected.sum() > expected_low ? (v.sum() - low) / (expected.sum() - expected_low) : 1.0};
  }

 private:
  static constexpr index_t tile = 16;
  static void check(const texture_law& law) {
    expects(law.r >= 1, "texture_mixture", "law.r", law.r);
    expects(law.means.rows() == law.r * law.r, "texture_mixture", "law.means.rows", law.means.rows());
    expects(law.spectrum.rows() == law.r && law.spectrum.cols() == law.r, "texture_mixture", "law.spectrum.rows",
            law.spectrum.rows());
  }
  static Eigen::MatrixXd flat_spectrum(const texture_law& law) {
    const Eigen::MatrixXd t = law.spectrum.transpose();
    return Eigen::Map<const Eigen::VectorXd>(t.data(), t.size());
  }
  static std::span<const double> all(const Eigen::MatrixXd& m) {
    return {m.data(), static_cast<std::size_t>(m.size())};
  }

  /// The coefficients of images, or back, without workspace. An image is a row-major square, hence, as Eigen stores
  /// it, its transpose: the same formula.
  Eigen::MatrixXd transformed(const Eigen::MatrixXd& images, bool back) const {
    const index_t r = law_.r;
    Eigen::MatrixXd z(images.rows(), images.cols());
    for (index_t c = 0; c < images.cols(); ++c) {
      const Eigen::Map<const Eigen::MatrixXd> image(images.col(c).data(), r, r);
      Eigen::Map<Eigen::MatrixXd> to(z.col(c).data(), r, r);
      if (back)
        to = transposed_.matrix() * image * cosines_.matrix();
      else
        to = cosines_.matrix() * image * transposed_.matrix();
    }
    return z;
  }
  void transform(Eigen::ArrayXXd& to, const Eigen::ArrayXXd& from, index_t b, bool back) {
    const auto n = static_cast<std::size_t>(dimension() * b);
    if (mixing_ == token_mixing::dense)
      return (back ? backward_ : forward_)
          .multiply(std::span<double>(to.data(), n), std::span<const double>(from.data(), n), b, *executor_);
    // Eigen's products would allocate, and their order may depend on alignment.
    const Eigen::ArrayXXd &left = back ? transposed_ : cosines_, &right = back ? cosines_ : transposed_;
    const index_t r = law_.r;
    for (index_t c = 0; c < b; ++c) {
      half_.setZero();
      whole_.setZero();
      for (index_t j = 0; j < r; ++j)
        for (index_t i = 0; i < r; ++i) half_.col(j) += left.col(i) * from.coeff(j * r + i, c);
      for (index_t j = 0; j < r; ++j)
        for (index_t i = 0; i < r; ++i) whole_.col(j) += half_.col(i) * right.coeff(i, j);
      for (index_t p = 0; p < r * r; ++p) to.coeffRef(p, c) = whole_.coeff(p % r, p / r);
    }
  }

  bool in_low_band(index_t k) const { return 4 * (k / law_.r) < law_.r && 4 * (k % law_.r) < law_.r; }
  Eigen::VectorX<index_t> classify_coefficients(const Eigen::MatrixXd& z) const {
    Eigen::VectorX<index_t> label(z.cols());
    for (index_t c = 0; c < z.cols(); ++c) {
      double best = -std::numeric_limits<double>::infinity();
      label(c) = 0;
      for (index_t j = 0; j < law_.weights.size(); ++j) {
        double log_p = std::log(mixture_.weights()(j));
        for (index_t k = 0; k < dimension(); ++k)
          if (in_low_band(k)) {
            const double d = z(k, c) - mixture_.means()(k, j);
            log_p -= d * d / (2 * (mixture_.variances()(k, 0) + 0.05));
          }
        if (log_p > best) {
          best = log_p;
          label(c) = j;
        }
      }
    }
    return label;
  }

  texture_law law_;
  token_mixing mixing_;
  Eigen::ArrayXXd cosines_, transposed_;
  diagonal_mixture mixture_;                   // of the coefficients
  packed_product<double> forward_, backward_;  // U and its transpose
  Eigen::ArrayXXd half_, whole_, x_, y_;
  const Executor* executor_;
};
texture_mixture(texture_law)->texture_mixture<serial>;
texture_mixture(texture_law, token_mixing)->texture_mixture<serial>;

}  // namespace sluice::models
