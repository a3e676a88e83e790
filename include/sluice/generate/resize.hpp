#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <numbers>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

/// Images inside tensors, and their size: which tensors hold images and where the pixels lie; resizing by a kernel
/// (box, bilinear, Lanczos); block averages and copies, by which noisy images change their resolution.
///
/// A sample is `channels` planes of height x width numbers, plane after plane, each in rows: element (c, i, j) is at
/// (c height + i) width + j. An Eigen matrix or array holds one sample a column, a vector, std::vector or std::span one
/// sample; a row-major Eigen::Tensor is one sample whose last two axes are height and width and whose other axes are
/// channels. Floats and doubles. Everything here works sample by sample and plane by plane: no number depends on what
/// else is in the batch.
namespace sluice {

/// The axes of one sample.
struct image_shape {
  index_t channels = 1, height = 0, width = 0;
  index_t size() const { return channels * height * width; }
  friend bool operator==(const image_shape&, const image_shape&) = default;
};

/// The shape with `factor` times fewer rows and columns. Throws invalid_argument unless factor >= 1 divides both.
inline image_shape coarser(const image_shape& s, index_t factor) {
  expects(factor >= 1, "coarser", "factor", factor);
  expects(s.height % factor == 0, "coarser", "height", s.height);
  expects(s.width % factor == 0, "coarser", "width", s.width);
  return {s.channels, s.height / factor, s.width / factor};
}

/// Where the pixels of a type are: samples(x); pixels(x, j), the first number of sample j; zeros(x, shape), storage for
/// the same samples in another shape; fits(x, shape). Specialise it for a type of your own.
template <class T>
struct image_traits;

/// A tensor whose samples can be read as images: the numbers of a sample lie in one unbroken run, in rows.
template <class T>
concept image_tensor = tensor<T> && requires(std::remove_reference_t<T>& x, const image_shape& shape) {
  { image_traits<std::remove_cvref_t<T>>::samples(x) } -> std::same_as<index_t>;
  { *image_traits<std::remove_cvref_t<T>>::pixels(x, index_t{0}) } -> std::convertible_to<scalar_t<T>>;
  { image_traits<std::remove_cvref_t<T>>::zeros(x, shape) } -> std::same_as<owner_t<T>>;
  { image_traits<std::remove_cvref_t<T>>::fits(x, shape) } -> std::same_as<bool>;
};

namespace detail {
/// Dense Eigen types whose columns are unbroken runs, of a length that is not fixed at compile time, since it depends
/// on the resolution. Of the types stored by rows only column vectors are: in a row vector every number is a sample.
template <class D>
concept columns_of_pixels = eigen_dense<D> &&(D::Flags& Eigen::DirectAccessBit) != 0 &&
                            int(D::InnerStrideAtCompileTime) == 1 && int(D::RowsAtCompileTime) == Eigen::Dynamic &&
                            (int(D::ColsAtCompileTime) == 1 || !bool(D::IsRowMajor));

/// Tensors with at least two axes of which the last is contiguous, and whose owner is made from its extents.
template <class T>
concept planes_of_pixels = !eigen_dense<T> && contiguous_tensor<T> && requires(const T& x) {
  requires std::same_as<typename traits_of<T>::element_order, row_major>;
  requires T::NumDimensions >= 2;
  owner_t<T>(x.dimensions()).setZero();
};
}  // namespace detail

template <detail::columns_of_pixels D>
struct image_traits<D> {
  static index_t samples(const D& x) { return x.cols(); }
  template <class X>
  static auto* pixels(X& x, index_t sample) {
    return x.data() + sample * x.outerStride();
  }
  static owner_t<D> zeros(const D& x, const image_shape& shape) { return owner_t<D>::Zero(shape.size(), x.cols()); }
  static bool fits(const D& x, const image_shape& shape) { return x.rows() == shape.size(); }
};

/// std::vector and std::span: one sample.
template <class T>
requires std::same_as<owner_t<T>, std::vector<scalar_t<T>>> &&
    (std::same_as<T, std::vector<scalar_t<T>>> ||
     std::same_as<T, std::span<typename T::element_type, T::extent>>)struct image_traits<T> {
  static index_t samples(const T&) { return 1; }
  template <class X>
  static auto* pixels(X& x, index_t) {
    return x.data();
  }
  static owner_t<T> zeros(const T&, const image_shape& shape) {
    return owner_t<T>(static_cast<std::size_t>(shape.size()));
  }
  static bool fits(const T& x, const image_shape& shape) { return std::ssize(x) == shape.size(); }
};

template <detail::planes_of_pixels T>
struct image_traits<T> {
  static index_t samples(const T&) { return 1; }
  template <class X>
  static auto* pixels(X& x, index_t) {
    return traits_of<T>::data(x);
  }
  static owner_t<T> zeros(const T& x, const image_shape& shape) {
    auto extents = x.dimensions();
    extents[T::NumDimensions - 2] = shape.height;
    extents[T::NumDimensions - 1] = shape.width;
    owner_t<T> z(extents);
    z.setZero();
    return z;
  }
  /// What the axes say; the channels are those in front.
  static image_shape shape(const T& x) {
    const index_t h = axis<2>(x), w = axis<1>(x);
    return {h * w > 0 ? traits_of<T>::size(x) / (h * w) : 0, h, w};
  }
  static bool fits(const T& x, const image_shape& shape) {
    return axis<2>(x) == shape.height && axis<1>(x) == shape.width && traits_of<T>::size(x) == shape.size();
  }

 private:
  template <int FromLast>
  static index_t axis(const T& x) {
    return static_cast<index_t>(x.dimensions()[T::NumDimensions - FromLast]);
  }
};

/// Storage for the samples of x in another shape, filled with zeros.
template <image_tensor X>
owner_t<X> zeros_of_shape(const X& x, const image_shape& shape) {
  return image_traits<X>::zeros(x, shape);
}

// Kernels: `support` is where the weight k(u) ends, in pixels of the coarser of the two grids.

/// Block averages when shrinking by a whole factor, copies of the nearest pixel when enlarging.
struct box_kernel {
  static constexpr double support = 0.5;
  double operator()(double) const { return 1; }
};
/// The triangle 1 - |u|: bilinear interpolation.
struct bilinear_kernel {
  static constexpr double support = 1;
  double operator()(double u) const { return std::max(0.0, 1 - std::abs(u)); }
};
/// sinc(u) sinc(u/3) for |u| < 3: sharper than bilinear, overshoots at edges.
struct lanczos3_kernel {
  static constexpr double support = 3;
  double operator()(double u) const {
    if (std::abs(u) >= 3) return 0;
    if (u == 0) return 1;
    const double a = std::numbers::pi * u;
    return 3 * std::sin(a) * std::sin(a / 3) / (a * a);
  }
};
template <class K>
concept resize_kernel = std::copyable<K> && requires(const K& k, double u) {
  { K::support } -> std::convertible_to<double>;
  { k(u) } -> std::convertible_to<double>;
};

namespace detail {

/// The weights of one axis: output i is sum_k weight[offset_i + k] input[first_i + k].
template <class S>
class resize_axis {
 public:
  template <resize_kernel K>
  resize_axis(index_t from, index_t to, const K& kernel) : from_(from), to_(to) {
    const double ratio = static_cast<double>(from) / static_cast<double>(to), scale = std::max(ratio, 1.0);
    const double reach = K::support * scale;
    std::vector<double> w;
    for (index_t i = 0; i < to; ++i) {
      const double centre = (static_cast<double>(i) + 0.5) * ratio;
      const index_t first = std::max<index_t>(0, static_cast<index_t>(centre - reach + 0.5));
      const index_t last = std::min(from, static_cast<index_t>(centre + reach + 0.5));
      w.clear();
      double sum = 0;
      for (index_t j = first; j < last; ++j) {
        w.push_back(static_cast<double>(kernel((static_cast<double>(j) - centre + 0.5) / scale)));
        sum += w.back();
      }
      taps_.push_back({first, last - first, std::ssize(weight_)});
      for (const double v : w) weight_.push_back(static_cast<S>(v / sum));
    }
  }
  index_t from() const { return from_; }
  index_t to() const { return to_; }
  bool identity() const { return from_ == to_; }

  /// out[0, ..., n) = the weighted sum for output i of the rows of `in`, which are `stride` apart. One pass over out.
  void combine(S* out, const S* in, index_t stride, index_t i, index_t n) const {
    const tap& t = taps_[static_cast<std::size_t>(i)];
    const S *w = weight_.data() + t.offset, *row = in + t.first * stride;
    index_t c = 0;
    for (; c + lanes <= n; c += lanes) {  // constant bounds, so that the sums stay in registers
      std::array<S, lanes> sum{};
      for (index_t k = 0; k < t.count; ++k)
        for (index_t r = 0; r < lanes; ++r) sum[static_cast<std::size_t>(r)] += w[k] * row[k * stride + c + r];
      std::copy(sum.begin(), sum.end(), out + c);
    }
    for (; c < n; ++c) {
      S sum = 0;
      for (index_t k = 0; k < t.count; ++k) sum += w[k] * row[k * stride + c];
      out[c] = sum;
    }
  }
  static constexpr index_t lanes = 16;

 private:
  struct tap {
    index_t first, count, offset;
  };
  index_t from_, to_;
  std::vector<tap> taps_;
  std::vector<S> weight_;
};

}  // namespace detail

/// Resizes planes of one size to planes of another, by columns and then by rows of a separable kernel k. Pixel centres
/// are at half-integers; with r = n_in/n_out and scale = max(r, 1), output i of an axis is centred at c = (i + 1/2) r
/// and reads the inputs
///     j = [c - support scale + 1/2], ..., [c + support scale + 1/2] - 1  inside the image, [] = integer part,
/// with weights k((j - c + 1/2)/scale) divided by their sum. So shrinking averages, and constants stay constant.
/// The constructor computes all weights in double; resizing allocates nothing, reads each number of the wider axis
/// once for each tap, and is vectorised over 16 columns or rows. One object a thread.
/// Source: the convention is that of the Pillow library (bilinear and Lanczos there), to 1.5e-7, its single precision.
template <std::floating_point S>
class image_resizer {
 public:
  /// Throws invalid_argument unless all sizes are at least 1 and the numbers of channels agree.
  template <resize_kernel K>
  image_resizer(const image_shape& from, const image_shape& to, const K& kernel)
      : image_resizer(checked(from, to), to, kernel, 0) {}
  const image_shape& from() const { return from_; }
  const image_shape& to() const { return to_; }

  /// out and in are whole samples that do not overlap.
  void operator()(S* out, const S* in) {
    for (index_t p = 0; p < from_.channels; ++p)
      plane(out + p * to_.height * to_.width, in + p * from_.height * from_.width);
  }
  /// All samples of a batch. Throws invalid_argument if a shape is not the resizer's or the numbers of samples differ.
  template <image_tensor Y, image_tensor X>
  void operator()(Y& y, const X& x) {
    expects(image_traits<X>::fits(x, from_), "image_resizer", "x.size", size(x));
    expects(image_traits<Y>::fits(y, to_), "image_resizer", "y.size", size(y));
    const index_t n = image_traits<X>::samples(x);
    expects(image_traits<Y>::samples(y) == n, "image_resizer", "y.samples", image_traits<Y>::samples(y));
    for (index_t j = 0; j < n; ++j) (*this)(image_traits<Y>::pixels(y, j), image_traits<X>::pixels(x, j));
  }

 private:
  template <resize_kernel K>
  image_resizer(const image_shape& from, const image_shape& to, const K& kernel, int)
      : from_(from),
        to_(to),
        down_(from.height, to.height, kernel),
        across_(from.width, to.width, kernel),
        rows_first_(to.height < from.height),
        middle_(static_cast<std::size_t>(rows_first_ ? to.height * from.width : from.height * to.width)),
        block_(static_cast<std::size_t>(lanes * from.width)) {}
  static const image_shape& checked(const image_shape& from, const image_shape& to) {
    expects(from.height >= 1, "image_resizer", "from.height", from.height);
    expects(from.width >= 1, "image_resizer", "from.width", from.width);
    expects(to.height >= 1, "image_resizer", "to.height", to.height);
    expects(to.width >= 1, "image_resizer", "to.width", to.width);
    expects(from.channels >= 1, "image_resizer", "from.channels", from.channels);
    expects(to.channels == from.channels, "image_resizer", "to.channels", to.channels);
    return from;
  }
  static constexpr index_t lanes = detail::resize_axis<S>::lanes;

  void plane(S* out, const S* in) {
    if (rows_first_) {  // fewer rows are left for the other axis
      vertical(middle_.data(), in, from_.width);
      horizontal(out, middle_.data(), to_.height);
    } else if (down_.identity()) {
      horizontal(out, in, to_.height);
    } else {
      horizontal(middle_.data(), in, from_.height);
      vertical(out, middle_.data(), to_.width);
    }
  }
  void vertical(S* out, const S* in, index_t width) const {
    for (index_t i = 0; i < to_.height; ++i) down_.combine(out + i * width, in, width, i, width);
  }
  /// Sixteen rows at a time, transposed, so that the sums run over contiguous numbers.
  void horizontal(S* out, const S* in, index_t rows) {
    if (across_.identity()) {
      std::copy_n(in, rows * from_.width, out);
      return;
    }
    std::array<S, lanes> sum;
    for (index_t i = 0; i < rows; i += lanes) {
      const index_t n = std::min(lanes, rows - i);
      for (index_t j = 0; j < from_.width; ++j)
        for (index_t r = 0; r < n; ++r) block_[static_cast<std::size_t>(j * lanes + r)] = in[(i + r) * from_.width + j];
      for (index_t j = 0; j < to_.width; ++j) {
        across_.combine(sum.data(), block_.data(), lanes, j, lanes);
        for (index_t r = 0; r < n; ++r) out[(i + r) * to_.width + j] = sum[static_cast<std::size_t>(r)];
      }
    }
  }

  image_shape from_, to_;
  detail::resize_axis<S> down_, across_;
  bool rows_first_;
  std::vector<S> middle_, block_;
};

namespace detail {
/// f(factor) with the factors 2 and 4 known at compile time.
template <class F>
void with_factor(index_t factor, F&& f) {
  if (factor == 2)
    f(std::integral_constant<index_t, 2>{});
  else if (factor == 4)
    f(std::integral_constant<index_t, 4>{});
  else
    f(factor);
}

inline constexpr index_t columns_at_once = 64;  // of the coarse image; their sums fit the first-level cache

/// sum[0, ..., n) = sums of the f x f blocks of a band of f rows of the given width.
template <class S, class Factor>
void block_sums(S* sum, const S* in, index_t width, index_t n, Factor f) {
  std::fill_n(sum, n, S{0});
  for (index_t p = 0; p < f; ++p)
    for (index_t j = 0; j < n; ++j) {
      S row = 0;
      for (index_t q = 0; q < f; ++q) row += in[p * width + j * f + q];
      sum[j] += row;
    }
}

/// out = gain * (averages of f x f blocks of in); `coarse` is the shape of out.
template <class S>
void pool_sample(S* out, const S* in, const image_shape& coarse, index_t factor, double gain) {
  const S scale = static_cast<S>(gain / static_cast<double>(factor * factor));
  const index_t width = coarse.width * factor;
  with_factor(factor, [&](auto f) {
    for (index_t i = 0; i < coarse.channels * coarse.height; ++i)
      for (index_t j = 0; j < coarse.width; j += columns_at_once) {
        const index_t n = std::min(columns_at_once, coarse.width - j);
        std::array<S, columns_at_once> sum;
        block_sums(sum.data(), in + i * f * width + j * f, width, n, f);
        for (index_t k = 0; k < n; ++k) out[i * coarse.width + j + k] = scale * sum[static_cast<std::size_t>(k)];
      }
  });
}

/// out <- noise_gain (out - q copies(averages(out))) + gain copies(in), in one pass; `coarse` is the shape of in, and
/// out holds unit noise on entry.
template <class S>
void enlarge_sample(S* out, const S* in, const image_shape& coarse, index_t factor, double gain, double noise_gain,
                    double q) {
  const S a = static_cast<S>(gain), s = static_cast<S>(noise_gain);
  const S mean = static_cast<S>(noise_gain * q / static_cast<double>(factor * factor));
  const index_t width = coarse.width * factor;
  with_factor(factor, [&](auto f) {
    for (index_t i = 0; i < coarse.channels * coarse.height; ++i)
      for (index_t j = 0; j < coarse.width; j += columns_at_once) {
        const index_t n = std::min(columns_at_once, coarse.width - j);
        S* const band = out + i * f * width + j * f;
        std::array<S, columns_at_once> shared;
        block_sums(shared.data(), band, width, n, f);
        for (index_t k = 0; k < n; ++k) {
          S& v = shared[static_cast<std::size_t>(k)];
          v = a * in[i * coarse.width + j + k] - mean * v;
        }
        for (index_t p = 0; p < f; ++p)
          for (index_t k = 0; k < n; ++k)
            for (index_t r = 0; r < f; ++r) {
              S& v = band[p * width + k * f + r];
              v = s * v + shared[static_cast<std::size_t>(k)];
            }
      }
  });
}

/// out = copies(in): each number of in fills an f x f block.
template <class S>
void copy_blocks(S* out, const S* in, const image_shape& coarse, index_t factor) {
  const index_t width = coarse.width * factor;
  with_factor(factor, [&](auto f) {
    for (index_t i = 0; i < coarse.channels * coarse.height; ++i)
      for (index_t p = 0; p < f; ++p)
        for (index_t j = 0; j < coarse.width; ++j)
          for (index_t r = 0; r < f; ++r) out[(i * f + p) * width + j * f + r] = in[i * coarse.width + j];
  });
}

/// Checks the two sides of a change by a whole factor; returns the number of samples.
template <class Fine, class Coarse>
index_t checked_pair(const char* function, const Fine& fine, const Coarse& coarse, const image_shape& shape,
                     index_t factor) {
  expects(image_traits<Fine>::fits(fine, shape), function, "fine.size", size(fine));
  expects(image_traits<Coarse>::fits(coarse, coarser(shape, factor)), function, "coarse.size", size(coarse));
  const index_t n = image_traits<Fine>::samples(fine);
  expects(image_traits<Coarse>::samples(coarse) == n, function, "coarse.samples",
          image_traits<Coarse>::samples(coarse));
  return n;
}
}  // namespace detail

/// coarse = gain * averages of the factor x factor blocks of fine, whose shape is `shape`. One pass, no allocation.
/// White noise of variance v stays white, of variance gain^2 v / factor^2. Throws invalid_argument if the sizes do not
/// belong together.
template <image_tensor Y, image_tensor X>
void pool_blocks(Y& coarse, const X& fine, const image_shape& shape, index_t factor, double gain = 1) {
  const index_t n = detail::checked_pair("pool_blocks", fine, coarse, shape, factor);
  for (index_t j = 0; j < n; ++j)
    detail::pool_sample(image_traits<Y>::pixels(coarse, j), image_traits<X>::pixels(fine, j), coarser(shape, factor),
                        factor, gain);
}

/// fine = copies of coarse: each pixel fills a block. The noise of such an image is constant in blocks: see
/// enlarge_with_noise. Throws as pool_blocks.
template <image_tensor Y, image_tensor X>
void copy_blocks(Y& fine, const X& coarse, const image_shape& shape, index_t factor) {
  const index_t n = detail::checked_pair("copy_blocks", fine, coarse, shape, factor);
  for (index_t j = 0; j < n; ++j)
    detail::copy_blocks(image_traits<Y>::pixels(fine, j), image_traits<X>::pixels(coarse, j), coarser(shape, factor),
                        factor);
}

/// fine holds unit white noise xi, and becomes
///     gain copies(coarse) + noise_gain (xi - q copies(averages(xi))).
/// With q = 1 the added noise has no block averages. One pass beyond the noise, no allocation. Throws as pool_blocks.
template <image_tensor Y, image_tensor X>
void enlarge_with_noise(Y& fine, const X& coarse, const image_shape& shape, index_t factor, double gain,
                        double noise_gain, double q = 1) {
  const index_t n = detail::checked_pair("enlarge_with_noise", fine, coarse, shape, factor);
  for (index_t j = 0; j < n; ++j)
    detail::enlarge_sample(image_traits<Y>::pixels(fine, j), image_traits<X>::pixels(coarse, j), coarser(shape, factor),
                           factor, gain, noise_gain, q);
}

}  // namespace sluice
