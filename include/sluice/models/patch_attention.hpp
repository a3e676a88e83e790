#pragma once
#include <sluice/core/executor.hpp>
#include <sluice/core/exp_block.hpp>
#include <sluice/core/expects.hpp>
#include <sluice/models/denoiser.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

/// Unstable: for tests, benchmarks and examples; no compatibility is promised.
namespace sluice::models {

namespace detail {

/// A register of floats or doubles.
template <class S>
struct lanes_of {
  typedef S vector __attribute__((vector_size(sluice::detail::packet_bytes)));
  static constexpr index_t count = sluice::detail::packet_bytes / static_cast<int>(sizeof(S));
};
template <class S>
using lane_vector = typename lanes_of<S>::vector;

/// x <- exp(x) for x <= 0, exactly 0 where it is below -708 (floats: -87).
inline void exp_of_negative(lane_vector<float>& x) { sluice::detail::exp_in_place(x); }
/// exp(x) = 2^n e^r, n = round(x / ln 2); the series of e^r to degree 13 is exact to 5e-18 for |r| <= ln(2) / 2.
/// At most 2 ulp.
inline void exp_of_negative(lane_vector<double>& x) {
  typedef std::uint64_t word_vector __attribute__((vector_size(sluice::detail::packet_bytes)));
  using vector = lane_vector<double>;
  constexpr double magic = 6755399441055744.0;  // 1.5 2^52: rounds to an integer, and leaves it in the low bits
  const vector zero{};
  const vector t = x * 1.4426950408889634 + magic, n = t - magic;
  const vector r = (x - n * 0x1.62e42fee00000p-1) - n * 0x1.a39ef35793c76p-33;
  vector e = r * (1 / 6227020800.0) + 1 / 479001600.0;
  e = e * r + 1 / 39916800.0;
  e = e * r + 1 / 3628800.0;
  e = e * r + 1 / 362880.0;
  e = e * r + 1 / 40320.0;
  e = e * r + 1 / 5040.0;
  e = e * r + 1 / 720.0;
  e = e * r + 1 / 120.0;
  e = e * r + 1 / 24.0;
  e = e * r + 1 / 6.0;
  e = e * r + 0.5;
  e = e * r + 1.0;
  e = e * r + 1.0;
  word_vector bits;
  std::memcpy(&bits, &t, sizeof bits);
  bits = (bits << 52) + 0x3ff0000000000000u;
  vector scale;
  std::memcpy(&scale, &bits, sizeof scale);
  x = x < -708.0 ? zero : e * scale;
}

}  // namespace detail

/// window: a patch reaches so many pixels to each side. ell: how far attention reaches, in units of the image.
struct patch_attention_options {
  index_t window = 1;
  double ell = 0.05;
};

/// A denoiser that attends from the patches of the noisy image to those of a bank of images: nonlinear, and with the
/// cost of self-attention over pixels. With y = x / alpha, kappa = sigma / alpha, P_i the (2 window + 1)^2 pixels
/// around pixel i (the border replicated) and pos the centres of the pixels in [0, 1]^2,
///     D_i(x) = sum_{n,j} a_{i,nj} bank_n[j],
///     a_i = softmax over (n, j) of -|P_i(y) - P_j(bank_n)|^2 / (2 kappa^2) - |pos_i - pos_j|^2 / (2 ell^2).
/// At alpha = 0 the positions alone decide; at sigma = 0 the nearest patches do.
///
/// r^2 (N r^2) ((2 window + 1)^2 + 1) multiply-adds and as many exponentials as pairs, nothing skipped: 16 times more
/// for twice the resolution. Online softmax over the keys in tiles of at most 512: four queries share each load of a
/// key, and no matrix of pairs is kept. Squares of differences, not products, so that small kappa keeps its digits.
/// S, float or double, is the type of the arithmetic, whatever the scalar of x; sums are carried from tile to tile in
/// double. Floats take less than half of the time; with AVX-512 and r = 8 half of each register is idle.
///
/// Images are r x r, one a column, pixel (row, col) at row r + col. Work is cut by queries: the same bits on every
/// executor and for every batch. Allocates in the constructor, and where a call has more columns than any before.
/// One object a thread; the executor's threads share a call.
template <std::floating_point S = double, executor Executor = serial>
class patch_attention {
 public:
  /// bank: r^2 x N. Throws invalid_argument unless r is in [1, 512], bank has r^2 rows, at least one column and is
  /// finite, 0 <= window < r, and ell is positive (infinite: positions do not count).
  patch_attention(const Eigen::MatrixXd& bank, index_t r,
                  const patch_attention_options& options = {}) requires std::same_as<Executor, serial>
      : patch_attention(bank, r, options, detail::on_this_thread) {}
  /// The executor is not copied and must outlive this object.
  patch_attention(const Eigen::MatrixXd& bank, index_t r, const patch_attention_options& options, const Executor& ex)
      : r_(r), n_images_(bank.cols()), window_(options.window), executor_(&ex) {
    constexpr const char* f = "patch_attention";
    expects(r >= 1 && r <= tile_keys, f, "r", r);
    expects(bank.rows() == r * r, f, "bank.rows", bank.rows());
    expects(bank.cols() >= 1, f, "bank.cols", bank.cols());
    for (Eigen::Index n = 0; n < bank.cols(); ++n) expects(bank.col(n).allFinite(), f, "bank", bank(0, n), n);
    expects(window_ >= 0 && window_ < r, f, "options.window", window_);
    expects(options.ell > 0, f, "options.ell", options.ell);
    features_ = (2 * window_ + 1) * (2 * window_ + 1);
    stride_ = (r + lanes - 1) / lanes * lanes;
    tile_rows_ = std::max<index_t>(1, tile_keys / stride_);
    // Element (feature, image, row, col) of the keys: col innermost, padded to whole registers.
    keys_.assign(at(features_ * n_images_ * r * stride_ + lanes), S{0});
    values_.assign(at(n_images_ * r * stride_ + lanes), S{0});
    for (index_t n = 0; n < n_images_; ++n)
      for (index_t i = 0; i < r; ++i)
        for (index_t j = 0; j < r; ++j) {
          values_[at((n * r + i) * stride_ + j)] = static_cast<S>(bank(i * r + j, n));
          for (index_t k = 0; k < features_; ++k)
            keys_[at(((k * n_images_ + n) * r + i) * stride_ + j)] = static_cast<S>(bank(neighbour(i, j, k), n));
        }
    // The position term, row or column of the query by row or column of the key; the padding takes no part.
    position_.assign(at(r * stride_ + lanes), -std::numeric_limits<S>::infinity());
    for (index_t i = 0; i < r; ++i)
      for (index_t j = 0; j < r; ++j) {
        const double d = static_cast<double>(i - j) / (static_cast<double>(r) * options.ell);
        position_[at(i * stride_ + j)] = static_cast<S>(-d * d / 2);
      }
  }
  patch_attention(const Eigen::MatrixXd&, index_t, const patch_attention_options&, const Executor&&) = delete;

  index_t r() const { return r_; }
  index_t dimension() const { return r_ * r_; }
  index_t n_images() const { return n_images_; }
  /// Of a column.
  double multiply_adds() const {
    const double n = static_cast<double>(dimension());
    return n * n * static_cast<double>(n_images_) * static_cast<double>(features_ + 1);
  }

  /// out = D(x).
  template <class X, any_level Level, class Out>
  void operator()(const X& x, const Level& level, Out&& out) {
    using scalar = typename std::remove_cvref_t<Out>::Scalar;
    const scaled_level l = detail::checked_call("patch_attention", x, level, out, dimension());
    const index_t n = dimension(), groups = (n + group - 1) / group, total = groups * x.cols();
    if (std::ssize(queries_) < n * x.cols() * features_) {
      queries_.resize(at(n * x.cols() * features_));
      result_.resize(at(n * x.cols()));
    }
    for (Eigen::Index c = 0; c < x.cols(); ++c)
      for (index_t i = 0; i < r_; ++i)
        for (index_t j = 0; j < r_; ++j)
          for (index_t k = 0; k < features_; ++k)
            queries_[at((c * n + i * r_ + j) * features_ + k)] =
                l.alpha > 0 ? static_cast<S>(static_cast<double>(x.coeff(neighbour(i, j, k), c)) / l.alpha) : S{0};
    // Bounded, so that equal patches score 0 and others are finite or -inf.
    const double precision = std::min(0.5 * (l.alpha / l.sigma) * (l.alpha / l.sigma), most_precise);
    const S c2 = static_cast<S>(precision);
    executor_->for_each((total + groups_of_chunk - 1) / groups_of_chunk, [&](index_t chunk) {
      const index_t last = std::min(total, (chunk + 1) * groups_of_chunk);
      for (index_t g = chunk * groups_of_chunk; g < last; ++g) {
        const index_t first = g % groups * group;
        attend(g / groups * n, first, std::min(group, n - first), c2);
      }
    });
    for (Eigen::Index c = 0; c < x.cols(); ++c)
      for (index_t i = 0; i < n; ++i) out.coeffRef(i, c) = static_cast<scalar>(result_[at(c * n + i)]);
  }

 private:
  using vector = detail::lane_vector<S>;
  static constexpr index_t lanes = detail::lanes_of<S>::count;
  static constexpr index_t group = 4;  // queries that share the loads of the keys
  static constexpr index_t tile_keys = 512;
  static constexpr index_t groups_of_chunk = 8;
  static constexpr double most_precise = std::same_as<S, float> ? 1e25 : 1e30;

  static constexpr std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
  /// Pixel k of the patch around (i, j).
  index_t neighbour(index_t i, index_t j, index_t k) const {
    const index_t side = 2 * window_ + 1;
    return std::clamp<index_t>(i + k / side - window_, 0, r_ - 1) * r_ +
           std::clamp<index_t>(j + k % side - window_, 0, r_ - 1);
  }
  static vector load(const S* p) {
    vector v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static S sum_of(const vector& v) {
    S s = 0;
    for (index_t i = 0; i < lanes; ++i) s += v[i];
    return s;
  }

  /// Queries first ... first + count - 1 of the image that begins at `base`.
  void attend(index_t base, index_t first, index_t count, S precision) {
    alignas(64) S score[group][tile_keys + lanes];
    double top[group], total[group] = {}, mixed[group] = {};
    const S *query[group], *row_term[group], *column_term[group];
    for (index_t q = 0; q < group; ++q) {
      const index_t i = first + std::min(q, count - 1);  // a group that is not full repeats its last query
      query[q] = queries_.data() + (base + i) * features_;
      row_term[q] = position_.data() + i / r_ * stride_;
      column_term[q] = position_.data() + i % r_ * stride_;
      top[q] = -std::numeric_limits<double>::infinity();
    }
    const index_t feature_stride = n_images_ * r_ * stride_;
    for (index_t image = 0; image < n_images_; ++image)
      for (index_t begin = 0; begin < r_; begin += tile_rows_) {
        const index_t rows = std::min(tile_rows_, r_ - begin), keys = rows * stride_;
        const S* key = keys_.data() + (image * r_ + begin) * stride_;
        const S* value = values_.data() + (image * r_ + begin) * stride_;
        vector highest[group];
        for (vector& h : highest) h = vector{} - std::numeric_limits<S>::infinity();
        for (index_t row = 0; row < rows; ++row)
          for (index_t j = 0; j < stride_; j += lanes) {
            const index_t k = row * stride_ + j;
            vector s0{}, s1{}, s2{}, s3{};
            const S *from = key + k, *q0 = query[0], *q1 = query[1], *q2 = query[2], *q3 = query[3];
            for (index_t f = 0; f < features_; ++f, from += feature_stride) {
              const vector v = load(from);
              const vector d0 = q0[f] - v, d1 = q1[f] - v, d2 = q2[f] - v, d3 = q3[f] - v;
              s0 += d0 * d0;
              s1 += d1 * d1;
              s2 += d2 * d2;
              s3 += d3 * d3;
            }
            const auto finish = [&](index_t q, const vector& s) {
              const vector t = (load(column_term[q] + j) + row_term[q][begin + row]) - s * precision;
              std::memcpy(&score[q][k], &t, sizeof t);
              highest[q] = t > highest[q] ? t : highest[q];
            };
            finish(0, s0);
            finish(1, s1);
            finish(2, s2);
            finish(3, s3);
          }
        for (index_t q = 0; q < count; ++q) {
          S high = highest[q][0];
          for (index_t i = 1; i < lanes; ++i) high = std::max(high, highest[q][i]);
          if (static_cast<double>(high) > top[q]) {
            const double rescale = std::exp(top[q] - static_cast<double>(high));
            total[q] *= rescale;
            mixed[q] *= rescale;
            top[q] = static_cast<double>(high);
          }
          const S shift = static_cast<S>(top[q]);  // a value of S
          vector weight{}, product{};
          for (index_t k = 0; k < keys; k += lanes) {
            vector e = load(&score[q][k]) - shift;
            detail::exp_of_negative(e);
            weight += e;
            product += e * load(value + k);
          }
          total[q] += static_cast<double>(sum_of(weight));
          mixed[q] += static_cast<double>(sum_of(product));
        }
      }
    for (index_t q = 0; q < count; ++q) result_[at(base + first + q)] = mixed[q] / total[q];
  }

  index_t r_, n_images_, window_, features_ = 0, stride_ = 0, tile_rows_ = 1;
  std::vector<S> keys_, values_, position_, queries_;
  std::vector<double> result_;
  const Executor* executor_;
};

}  // namespace sluice::models
