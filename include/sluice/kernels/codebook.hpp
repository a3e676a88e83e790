#pragma once
#include <sluice/core/executor.hpp>
#include <sluice/core/expects.hpp>
#include <sluice/core/status.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/draw/inverse_cdf.hpp>
#include <sluice/kernels/packed_product.hpp>
#include <sluice/random/decisions.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

/// Vector quantisation: K codes e_k in R^C, the nearest code of each observation, and what moves the codes.
///
///     k(z) = argmin_k |z - e_k|^2, the lowest k on ties,      z_q = e_k(z)
///
/// Data matrices are n x C, one observation a row, in either storage order: an Eigen matrix, map or block of float or
/// double. Moving the codes without gradients: Lloyd's k-means, or exponential moving averages of counts and sums.
/// With gradients: the straight-through estimator and the two losses of VQ-VAE.
/// Source: van den Oord, Vinyals and Kavukcuoglu, "Neural Discrete Representation Learning" (arXiv:1711.00937), losses
/// and appendix A.1; Lloyd, IEEE Trans. Inf. Theory 28 (1982); seeding: Arthur and Vassilvitskii, SODA 2007. Differs:
/// nearest codes are those of the squared distances in double, whatever rounding the product has.
namespace sluice {

namespace detail {

template <class S>
using row_matrix = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class D>
concept observations_in_rows = std::same_as<typename D::Scalar, float> || std::same_as<typename D::Scalar, double>;

/// |z - e|^2 in double; the order of the sum depends on C only.
template <class S>
double squared_distance(const S* z, const S* e, index_t c) {
  using map = Eigen::Map<const Eigen::Matrix<S, Eigen::Dynamic, 1>>;
  return (map(z, c).template cast<double>() - map(e, c).template cast<double>()).squaredNorm();
}

inline void expects_codes(const char* function, std::span<const index_t> index, index_t n_codes) {
  for (std::size_t i = 0; i < index.size(); ++i)
    expects(index[i] >= 0 && index[i] < n_codes, function, "index", index[i], static_cast<std::ptrdiff_t>(i));
}

}  // namespace detail

/// K >= 1 codes of C >= 1 coordinates, prepared for searches. Immutable but for assign and edit: a const object may be
/// used by many threads.
///
/// A search is a packed product of 16 observations with 256 codes at a time, |e|^2/2 - z.e, whose scores never leave
/// the first-level cache. All codes within twice the rounding error of the least score are compared by their distances
/// in double, so the answer is that of a plain search in double, for float too; as a rule that is one code. It depends
/// neither on the batch nor on the executor. O(n K C) multiply-adds. Allocates nothing, unless the rows of z are not
/// contiguous and C > 8192: then one row for each chunk of 256 observations.
template <std::floating_point S>
requires std::same_as<S, float> || std::same_as<S, double>
class codebook {
  using array = Eigen::Array<S, Eigen::Dynamic, 1>;

 public:
  using scalar = S;
  using matrix = detail::row_matrix<S>;

  /// Empty: assign before use.
  codebook() = default;
  /// codes: K x C, one code a row. Throws invalid_argument unless K >= 1, C >= 1 and every code has a finite squared
  /// norm in S (the index is the row).
  template <class D>
  explicit codebook(const Eigen::MatrixBase<D>& codes) {
    assign(codes);
  }
  /// New codes, of any shape; keeps the memory if it suffices. Throws as the constructor, nothing changed.
  template <class D>
  void assign(const Eigen::MatrixBase<D>& codes) {
    static_assert(std::same_as<typename D::Scalar, S>);
    expects(codes.rows() >= 1, "codebook", "codes.rows", codes.rows());
    expects(codes.cols() >= 1, "codebook", "codes.cols", codes.cols());
    for (index_t k = 0; k < codes.rows(); ++k) {
      const S square = codes.row(k).squaredNorm();
      expects(std::isfinite(square), "codebook", "codes", square, k);
    }
    codes_ = codes;
    prepare();
  }
  /// Calls f(codes) on the writable K x C matrix, whose shape stays, and prepares the search again. f leaves the codes
  /// finite.
  template <std::invocable<Eigen::Ref<matrix>> F>
  void edit(F&& f) {
    f(Eigen::Ref<matrix>(codes_));
    prepare();
  }

  /// K.
  index_t size() const { return codes_.rows(); }
  /// C.
  index_t dimension() const { return codes_.cols(); }
  /// K x C.
  const matrix& codes() const { return codes_; }

  /// out[i] = k(z_i). A row whose squared norm is not finite in double has no nearest code: -1. Throws invalid_argument
  /// if the codebook is empty, z has another width, or out another length.
  template <detail::observations_in_rows D, executor Executor = serial>
  void nearest(std::span<index_t> out, const Eigen::MatrixBase<D>& z, const Executor& ex = {}) const {
    search(out, nullptr, z.derived(), ex);
  }
  /// The same, with squared_distance[i] = |z_i - e|^2 in double (NaN where out[i] is -1), of the length of out.
  template <detail::observations_in_rows D, executor Executor = serial>
  void nearest(std::span<index_t> out, std::span<double> squared_distance, const Eigen::MatrixBase<D>& z,
               const Executor& ex = {}) const {
    expects(squared_distance.size() == out.size(), "codebook::nearest", "squared_distance.size",
            squared_distance.size());
    search(out, squared_distance.data(), z.derived(), ex);
  }

  /// out.row(i) = e_index[i]. Throws invalid_argument unless out is index.size() x C and every index is in [0, K).
  template <class D>
  void quantise(Eigen::MatrixBase<D>&& out, std::span<const index_t> index) const {
    quantise(out, index);
  }
  template <class D>
  void quantise(Eigen::MatrixBase<D>& out, std::span<const index_t> index) const {
    expects(out.rows() == std::ssize(index), "codebook::quantise", "out.rows", out.rows());
    expects(out.cols() == dimension(), "codebook::quantise", "out.cols", out.cols());
    detail::expects_codes("codebook::quantise", index, size());
    for (index_t i = 0; i < std::ssize(index); ++i) out.row(i) = codes_.row(index[static_cast<std::size_t>(i)]);
  }

 private:
  static constexpr index_t block = 16, tile = 256, buffer = 8192, group = 32, observations_in_chunk = 256;

  void prepare() {
    const index_t k = size(), c = dimension();
    half_.resize(k);
    double most = 0;
    for (index_t i = 0; i < k; ++i) {
      const double square = codes_.row(i).template cast<double>().squaredNorm();
      half_[i] = static_cast<S>(square / 2);
      most = std::max(most, square);
    }
    longest_ = std::sqrt(most);
    tiles_.resize(static_cast<std::size_t>((k + tile - 1) / tile));
    for (std::size_t t = 0; t < tiles_.size(); ++t) {
      const index_t first = static_cast<index_t>(t) * tile, rows = std::min(tile, k - first);
      tiles_[t].assign({codes_.data() + first * c, static_cast<std::size_t>(rows * c)}, rows, c);
    }
  }

  template <class Z, class Executor>
  void search(std::span<index_t> out, double* distance, const Z& z, const Executor& ex) const {
    static_assert(std::same_as<typename Z::Scalar, S>, "observations and codes have the same scalar");
    expects(size() >= 1, "codebook::nearest", "codes.rows", size());
    expects(z.cols() == dimension(), "codebook::nearest", "z.cols", z.cols());
    expects(std::ssize(out) == z.rows(), "codebook::nearest", "out.size", out.size());
    const index_t n = z.rows();
    ex.for_each((n + observations_in_chunk - 1) / observations_in_chunk, [&](index_t chunk) {
      const index_t first = chunk * observations_in_chunk, last = std::min(n, first + observations_in_chunk);
      search_rows(out.data(), distance, z, first, last);
    });
  }

  struct candidate {
    double norm = 0, distance = std::numeric_limits<double>::infinity();
    S least = std::numeric_limits<S>::infinity(), slack = 0;
    index_t index = -1;
    S score = 0;           // of index, while its distance is not known
    bool pending = false;  // the distance of index is not known
    bool searched = true;  // by scores; false: settled before
  };

  template <class Z>
  void search_rows(index_t* out, double* distance, const Z& z, index_t first, index_t last) const {
    const index_t c = dimension();
    alignas(64) S scores[block * tile];
    alignas(64) S gathered[buffer];
    std::vector<S> large(static_cast<std::size_t>(c > buffer ? c : 0));
    const index_t most = std::clamp<index_t>(buffer / c, 1, block);
    for (index_t i = first; i < last; i += most) {
      const index_t b = std::min(most, last - i);
      const S* x = nullptr;
      if constexpr ((Z::Flags & Eigen::DirectAccessBit) != 0)
        if (z.derived().innerStride() == 1 && Z::IsRowMajor && (z.derived().outerStride() == c || b == 1))
          x = z.derived().data() + i * z.derived().outerStride();
      if (x == nullptr) {
        S* copy = large.empty() ? gathered : large.data();
        for (index_t j = 0; j < b; ++j) Eigen::Map<Eigen::Matrix<S, 1, Eigen::Dynamic>>(copy + j * c, c) = z.row(i + j);
        x = copy;
      }
      candidate found[block];
      for (index_t j = 0; j < b; ++j) begin(found[j], x + j * c);
      for (std::size_t t = 0; t < tiles_.size(); ++t) {
        const index_t rows = tiles_[t].rows();
        tiles_[t].multiply({scores, static_cast<std::size_t>(b * rows)}, {x, static_cast<std::size_t>(b * c)}, b);
        for (index_t j = 0; j < b; ++j)
          if (found[j].searched) compare(found[j], scores + j * rows, static_cast<index_t>(t) * tile, rows, x + j * c);
      }
      for (index_t j = 0; j < b; ++j) {
        out[i + j] = found[j].index;
        if (distance && found[j].pending) settle(found[j], x + j * c);
        if (distance)
          distance[i + j] = found[j].index < 0 ? std::numeric_limits<double>::quiet_NaN() : found[j].distance;
      }
    }
  }

  /// Twice the rounding error that a score can have, and twice what a distance in double can have.
  void begin(candidate& f, const S* x) const {
    const index_t c = dimension();
    const S square = Eigen::Map<const array>(x, c).matrix().squaredNorm();
    f.norm = std::sqrt(static_cast<double>(square));
    if (!std::isfinite(square))
      f.norm = std::sqrt(Eigen::Map<const array>(x, c).template cast<double>().matrix().squaredNorm());
    constexpr double u = std::numeric_limits<S>::epsilon() / 2;
    const double terms = static_cast<double>(std::min<index_t>(c, 512) + c / 512 + 6);
    const double both = f.norm + longest_;
    const double slack = 2 * terms * u * longest_ * both + 4 * static_cast<double>(c + 4) * 0x1p-53 * both * both;
    // 1 %: the norm is that of S. The least normal number: what products below it lose.
    f.slack =
        static_cast<S>(1.01 * slack + 4 * static_cast<double>(c) * static_cast<double>(std::numeric_limits<S>::min()));
    if (std::isfinite(f.slack) && std::isfinite(static_cast<S>(f.norm * longest_))) return;
    f.searched = false;
    if (!std::isfinite(f.norm)) return;
    for (index_t k = 0; k < size(); ++k) offer(f, k, x);  // the product could overflow
  }
  void offer(candidate& f, index_t k, const S* x) const {
    const double d = detail::squared_distance(x, codes_.data() + k * dimension(), dimension());
    if (d < f.distance || f.index < 0) f.distance = d, f.index = k;
  }

  /// A code whose score can be that of the nearest. The only one needs no distance.
  void consider(candidate& f, index_t k, S score, S limit, const S* x) const {
    if (f.index < 0 || (f.pending && f.score > limit)) {
      f.index = k, f.score = score, f.pending = true;
      return;
    }
    if (f.pending) settle(f, x);
    offer(f, k, x);
  }
  void settle(candidate& f, const S* x) const {
    f.distance = detail::squared_distance(x, codes_.data() + f.index * dimension(), dimension());
    f.pending = false;
  }

  /// Scores of one observation with the codes first ... first + n - 1; the products are overwritten.
  void compare(candidate& f, S* score, index_t first, index_t n, const S* x) const {
    using fixed = Eigen::Array<S, static_cast<int>(group), 1>;
    S lowest[tile / group];
    S least = f.least;
    for (index_t k = 0; k < n; k += group) {
      S m;
      if (n - k >= group) {
        Eigen::Map<fixed> s(score + k);
        s = Eigen::Map<const fixed>(half_.data() + first + k) - s;
        m = s.minCoeff();
      } else {
        Eigen::Map<array> s(score + k, n - k);
        s = half_.segment(first + k, n - k) - s;
        m = s.minCoeff();
      }
      lowest[k / group] = m;
      least = std::min(least, m);
    }
    f.least = least;
    const S limit = least + f.slack;
    for (index_t k = 0; k < n; k += group)
      if (lowest[k / group] <= limit)
        for (index_t j = k; j < std::min(n, k + group); ++j)
          if (score[j] <= limit) consider(f, first + j, score[j], limit, x);
  }

  matrix codes_;
  array half_;  // |e|^2 / 2
  double longest_ = 0;
  std::vector<packed_product<S>> tiles_;
};
template <class D>
codebook(const Eigen::MatrixBase<D>&) -> codebook<typename D::Scalar>;

/// The observations of each code, by a counting sort. Keeps its memory. One object a thread.
class code_members {
 public:
  /// O(n + K). Throws invalid_argument, nothing changed, unless n_codes >= 1 and every index is in [0, n_codes).
  void assign(std::span<const index_t> index, index_t n_codes) {
    expects(n_codes >= 1, "code_members", "n_codes", n_codes);
    detail::expects_codes("code_members", index, n_codes);
    first_.assign(static_cast<std::size_t>(n_codes) + 1, 0);
    for (const index_t k : index) ++first_[static_cast<std::size_t>(k) + 1];
    std::partial_sum(first_.begin(), first_.end(), first_.begin());
    order_.resize(index.size());
    next_.assign(first_.begin(), first_.end() - 1);
    for (std::size_t i = 0; i < index.size(); ++i)
      order_[static_cast<std::size_t>(next_[static_cast<std::size_t>(index[i])]++)] = static_cast<index_t>(i);
  }
  index_t n_codes() const { return std::ssize(next_); }
  index_t n_observations() const { return std::ssize(order_); }
  index_t count(index_t k) const {
    return first_[static_cast<std::size_t>(k) + 1] - first_[static_cast<std::size_t>(k)];
  }
  /// Ascending.
  std::span<const index_t> operator()(index_t k) const {
    return std::span(order_).subspan(static_cast<std::size_t>(first_[static_cast<std::size_t>(k)]),
                                     static_cast<std::size_t>(count(k)));
  }

 private:
  std::vector<index_t> first_, next_, order_;
};

/// Counts and sums of the observations of each code: N_k = #{i : index_i = k}, S_k = the sum of their z_i, in double
/// and in the order of the observations, whatever the executor. Keeps its memory. One object a thread.
class code_sums {
 public:
  /// O(n C + K). Throws invalid_argument, nothing changed, unless index has a number in [0, n_codes) for each row of z.
  template <detail::observations_in_rows D, executor Executor = serial>
  void collect(const Eigen::MatrixBase<D>& z, std::span<const index_t> index, index_t n_codes,
               const Executor& ex = {}) {
    expects(std::ssize(index) == z.rows(), "code_sums", "index.size", index.size());
    members_.assign(index, n_codes);
    sums_.resize(n_codes, z.cols());
    constexpr index_t codes_in_chunk = 16;
    ex.for_each((n_codes + codes_in_chunk - 1) / codes_in_chunk, [&](index_t chunk) {
      for (index_t k = chunk * codes_in_chunk; k < std::min(n_codes, (chunk + 1) * codes_in_chunk); ++k) {
        auto sum = sums_.row(k);
        sum.setZero();
        for (const index_t i : members_(k)) sum += z.row(i).template cast<double>();
      }
    });
  }

  index_t n_codes() const { return sums_.rows(); }
  index_t n_observations() const { return members_.n_observations(); }
  index_t count(index_t k) const { return members_.count(k); }
  /// K x C.
  const detail::row_matrix<double>& sums() const { return sums_; }
  /// The observations of code k, ascending.
  std::span<const index_t> members(index_t k) const { return members_(k); }

 private:
  code_members members_;
  detail::row_matrix<double> sums_;
};

/// How the codes are used: counts, exp(-sum p ln p) with p = N_k / n, and the number of codes that nothing uses.
struct code_usage {
  std::vector<std::int64_t> counts;
  double perplexity = 0;  ///< between 1 and K; 0 if there is no observation
  index_t dead = 0;
};
/// O(n + K). Throws invalid_argument unless every index is in [0, n_codes).
inline code_usage usage_of(std::span<const index_t> index, index_t n_codes) {
  expects(n_codes >= 1, "usage_of", "n_codes", n_codes);
  detail::expects_codes("usage_of", index, n_codes);
  code_usage u;
  u.counts.assign(static_cast<std::size_t>(n_codes), 0);
  for (const index_t k : index) ++u.counts[static_cast<std::size_t>(k)];
  u.dead = std::count(u.counts.begin(), u.counts.end(), 0);
  double entropy = 0;
  for (const std::int64_t count : u.counts)
    if (count > 0) {
      const double p = static_cast<double>(count) / static_cast<double>(index.size());
      entropy -= p * std::log(p);
    }
  if (!index.empty()) u.perplexity = std::exp(entropy);
  return u;
}

/// What becomes of a code that no observation uses: it stays, or it moves to the observation farthest from its code.
enum class empty_cluster { keep, farthest };

namespace detail {
/// The `n` observations of largest distance, farthest first, lowest index on ties; none of distance 0.
inline std::vector<index_t> farthest_observations(std::span<const double> squared_distance, index_t n) {
  std::vector<index_t> order(squared_distance.size());
  std::iota(order.begin(), order.end(), index_t{0});
  const auto at = [&](index_t i) { return squared_distance[static_cast<std::size_t>(i)]; };
  const auto middle = order.begin() + std::min(n, std::ssize(order));
  std::partial_sort(order.begin(), middle, order.end(),
                    [&](index_t a, index_t b) { return at(a) > at(b) || (at(a) == at(b) && a < b); });
  order.erase(std::find_if(order.begin(), middle, [&](index_t i) { return !(at(i) > 0); }), order.end());
  return order;
}
}  // namespace detail

/// One step of Lloyd's algorithm: every used code becomes the mean of its observations. Returns how many empty codes
/// were moved. With `farthest`, an empty code takes the observation farthest from its own updated code, the next empty
/// code the next farthest; allocates then. Either way the sum of squared distances does not increase. Throws
/// invalid_argument unless sums are those of z for codes of this shape.
template <class S, class D>
index_t lloyd_update(codebook<S>& book, const code_sums& sums, const Eigen::MatrixBase<D>& z,
                     empty_cluster empty = empty_cluster::keep) {
  expects(sums.n_codes() == book.size(), "lloyd_update", "sums.n_codes", sums.n_codes());
  expects(sums.sums().cols() == book.dimension(), "lloyd_update", "sums.cols", sums.sums().cols());
  expects(sums.n_observations() == z.rows(), "lloyd_update", "z.rows", z.rows());
  expects(z.cols() == book.dimension(), "lloyd_update", "z.cols", z.cols());
  index_t moved = 0;
  book.edit([&](auto codes) {
    index_t n_empty = 0;
    for (index_t k = 0; k < codes.rows(); ++k) {
      if (sums.count(k) == 0) {
        ++n_empty;
        continue;
      }
      codes.row(k) = (sums.sums().row(k) / static_cast<double>(sums.count(k))).template cast<S>();
    }
    if (empty == empty_cluster::keep || n_empty == 0) return;
    std::vector<double> distance(static_cast<std::size_t>(z.rows()));
    for (index_t k = 0; k < codes.rows(); ++k)
      for (const index_t i : sums.members(k))
        distance[static_cast<std::size_t>(i)] =
            (z.row(i).template cast<double>() - codes.row(k).template cast<double>()).squaredNorm();
    const std::vector<index_t> far = detail::farthest_observations(distance, n_empty);
    for (index_t k = 0; k < codes.rows() && moved < std::ssize(far); ++k)
      if (sums.count(k) == 0) codes.row(k) = z.row(far[static_cast<std::size_t>(moved++)]);
  });
  return moved;
}

struct kmeans_options {
  index_t max_iterations = 50;
  double tolerance = 1e-5;  ///< stop once an iteration lowers the objective by less than this share of it
  empty_cluster empty = empty_cluster::farthest;
};
struct kmeans_stats {
  std::int64_t iterations = 0, moved = 0;  ///< updates; empty codes that were moved
  /// Sum of squared distances: of the first codes, then after each iteration.
  std::vector<double> objective;
};
struct kmeans_result {
  sluice::status status = sluice::status::completed;  ///< budget_exhausted: max_iterations came first
  kmeans_stats stats;
};

/// Lloyd's k-means from the codes given, in place; index[i] is the code of z_i at the end. Stops when no observation
/// changes its code, or by tolerance. O(n K C) an iteration. Throws invalid_argument, nothing changed, unless z is
/// finite with rows as wide as the codes and at least K of them, index has a place for each, max_iterations >= 0 and
/// tolerance >= 0.
template <class S, detail::observations_in_rows D, executor Executor = serial>
kmeans_result kmeans(codebook<S>& book, std::span<index_t> index, const Eigen::MatrixBase<D>& z,
                     const kmeans_options& options = {}, const Executor& ex = {}) {
  expects(z.cols() == book.dimension(), "kmeans", "z.cols", z.cols());
  expects(z.rows() >= book.size(), "kmeans", "z.rows", z.rows());
  expects(std::ssize(index) == z.rows(), "kmeans", "index.size", index.size());
  expects(options.max_iterations >= 0, "kmeans", "max_iterations", options.max_iterations);
  expects(options.tolerance >= 0, "kmeans", "tolerance", options.tolerance);
  for (index_t i = 0; i < z.rows(); ++i) {
    const double square = z.row(i).template cast<double>().squaredNorm();
    expects(std::isfinite(square), "kmeans", "z", square, i);
  }
  kmeans_result r;
  std::vector<double> distance(index.size());
  std::vector<index_t> before;
  code_sums sums;
  const auto assign = [&] {
    book.nearest(index, distance, z, ex);
    r.stats.objective.push_back(std::accumulate(distance.begin(), distance.end(), 0.0));
  };
  assign();
  while (true) {
    if (r.stats.iterations == options.max_iterations) {
      r.status = status::budget_exhausted;
      return r;
    }
    before.assign(index.begin(), index.end());
    sums.collect(z, index, book.size(), ex);
    const index_t moved = lloyd_update(book, sums, z, options.empty);
    r.stats.moved += moved;
    ++r.stats.iterations;
    assign();
    const double now = r.stats.objective.back(), then = r.stats.objective[r.stats.objective.size() - 2];
    if (moved == 0 && (std::equal(index.begin(), index.end(), before.begin()) || then - now < options.tolerance * then))
      return r;
  }
}

/// K of the observations as first codes: the first uniformly, each further one with probability proportional to its
/// squared distance from the nearest chosen so far (uniformly, if all are 0). O(n K C), K decisions. Throws
/// invalid_argument unless 1 <= n_codes <= n and z is finite.
template <detail::observations_in_rows D, random_source R>
codebook<typename D::Scalar> kmeans_plus_plus(const Eigen::MatrixBase<D>& z, index_t n_codes, R& random) {
  using S = typename D::Scalar;
  expects(n_codes >= 1 && n_codes <= z.rows(), "kmeans_plus_plus", "n_codes", n_codes);
  for (index_t i = 0; i < z.rows(); ++i) {
    const double square = z.row(i).template cast<double>().squaredNorm();
    expects(std::isfinite(square), "kmeans_plus_plus", "z", square, i);
  }
  detail::row_matrix<S> codes(n_codes, z.cols());
  std::vector<double> distance(static_cast<std::size_t>(z.rows()), std::numeric_limits<double>::infinity());
  double total = 0;
  for (index_t k = 0; k < n_codes; ++k) {
    const index_t chosen = total > 0 ? categorical(random, std::span<const double>(distance))
                                     : static_cast<index_t>(below(random, static_cast<std::uint64_t>(z.rows())));
    codes.row(k) = z.row(chosen);
    total = 0;
    for (index_t i = 0; i < z.rows(); ++i) {
      double& d = distance[static_cast<std::size_t>(i)];
      d = std::min(d, (z.row(i).template cast<double>() - codes.row(k).template cast<double>()).squaredNorm());
      total += d;
    }
  }
  return codebook<S>(codes);
}

struct ema_options {
  double decay = 0.99;    ///< g in [0, 1)
  double epsilon = 1e-5;  ///< of the smoothed counts
};
/// What a moving average has seen: save it, and rebuild the update from it elsewhere.
struct ema_state {
  Eigen::VectorXd counts;           ///< N, K
  detail::row_matrix<double> sums;  ///< M, K x C
};

/// Codes as moving averages of their observations:
///     N <- g N + (1 - g) n,   M <- g M + (1 - g) S,   e = M / N~,   N~_k = (N_k + eps) sum N / (sum N + K eps)
/// n and S are counts and sums of a batch. Begins with N = 1 and M = e. A code whose N is exactly 0 keeps its place. A
/// code that nothing uses keeps its place while N >> eps and then shrinks towards 0: revive it. With g = 0 and eps = 0
/// this is a step of Lloyd's. One object a thread; the update allocates nothing.
class ema_update {
 public:
  /// Throws invalid_argument unless decay is in [0, 1) and epsilon >= 0 and finite.
  template <class S>
  explicit ema_update(const codebook<S>& book, const ema_options& options = {}) : options_(options) {
    expects(options.decay >= 0 && options.decay < 1, "ema_update", "decay", options.decay);
    expects(options.epsilon >= 0 && std::isfinite(options.epsilon), "ema_update", "epsilon", options.epsilon);
    state_.counts.setOnes(book.size());
    state_.sums = book.codes().template cast<double>();
  }
  /// Throws invalid_argument, nothing changed, unless book and batch have the shape of the averages.
  template <class S>
  void operator()(codebook<S>& book, const code_sums& batch) {
    expects_shape(book);
    expects(batch.n_codes() == book.size(), "ema_update", "batch.n_codes", batch.n_codes());
    expects(batch.sums().cols() == book.dimension(), "ema_update", "batch.cols", batch.sums().cols());
    const double g = options_.decay, eps = options_.epsilon;
    for (index_t k = 0; k < book.size(); ++k) {
      state_.counts[k] = g * state_.counts[k] + (1 - g) * static_cast<double>(batch.count(k));
      state_.sums.row(k) = g * state_.sums.row(k) + (1 - g) * batch.sums().row(k);
    }
    const double total = state_.counts.sum();
    const double scale = total / (total + static_cast<double>(book.size()) * eps);
    if (!(total > 0)) return;
    book.edit([&](auto codes) {
      for (index_t k = 0; k < codes.rows(); ++k)
        if (state_.counts[k] > 0)
          codes.row(k) = (state_.sums.row(k) / ((state_.counts[k] + eps) * scale)).template cast<S>();
    });
  }
  /// Codes with N < least_count move to the observations farthest from their codes, farthest first, with N = 1.
  /// Returns how many moved. squared_distance: that of each row of z from its code. Throws invalid_argument unless the
  /// shapes agree.
  template <class S, class D>
  index_t revive(codebook<S>& book, const Eigen::MatrixBase<D>& z, std::span<const double> squared_distance,
                 double least_count) {
    expects_shape(book);
    expects(z.cols() == book.dimension(), "ema_update::revive", "z.cols", z.cols());
    expects(std::ssize(squared_distance) == z.rows(), "ema_update::revive", "squared_distance.size",
            squared_distance.size());
    const index_t dying = (state_.counts.array() < least_count).count();
    if (dying == 0) return 0;
    const std::vector<index_t> far = detail::farthest_observations(squared_distance, dying);
    index_t moved = 0;
    book.edit([&](auto codes) {
      for (index_t k = 0; k < codes.rows() && moved < std::ssize(far); ++k)
        if (state_.counts[k] < least_count) {
          codes.row(k) = z.row(far[static_cast<std::size_t>(moved++)]);
          state_.counts[k] = 1;
          state_.sums.row(k) = codes.row(k).template cast<double>();
        }
    });
    return moved;
  }
  const ema_state& state() const { return state_; }
  /// Throws invalid_argument unless the shape is that of the averages.
  void restore(const ema_state& s) {
    expects(s.counts.size() == state_.counts.size(), "ema_update::restore", "counts.size", s.counts.size());
    expects(s.sums.rows() == state_.sums.rows() && s.sums.cols() == state_.sums.cols(), "ema_update::restore",
            "sums.size", s.sums.size());
    state_ = s;
  }

 private:
  template <class S>
  void expects_shape(const codebook<S>& book) const {
    expects(book.size() == state_.sums.rows(), "ema_update", "book.size", book.size());
    expects(book.dimension() == state_.sums.cols(), "ema_update", "book.dimension", book.dimension());
  }
  ema_options options_;
  ema_state state_;
};

/// The losses of a quantiser: mean over all n C coordinates of (z - e)^2, once for the codes and beta times for z.
struct quantisation_loss {
  double codebook = 0;    ///< |sg(z) - e|^2, moves the codes
  double commitment = 0;  ///< beta |z - sg(e)|^2, moves z
};

/// The backward pass of z_q = e_k(z), given dq, the gradient of the loss with respect to z_q:
///     dz = dq + 2 beta (z - e) / (n C)      straight through, as if z_q were z, plus the commitment loss
///     de_k = 2 (N_k e_k - S_k) / (n C)      the codebook loss; written only if `codes` is not null
/// Returns the losses. dz may be dq. Throws invalid_argument unless z, dq and dz are n x C and n = sums.n_observations.
template <class S, class D, class Q, class Z>
quantisation_loss straight_through(Eigen::MatrixBase<D>& dz, detail::row_matrix<S>* codes, const codebook<S>& book,
                                   const code_sums& sums, const Eigen::MatrixBase<Z>& z, const Eigen::MatrixBase<Q>& dq,
                                   double beta = 0.25) {
  expects(z.cols() == book.dimension(), "straight_through", "z.cols", z.cols());
  expects(sums.n_codes() == book.size(), "straight_through", "sums.n_codes", sums.n_codes());
  expects(sums.n_observations() == z.rows(), "straight_through", "z.rows", z.rows());
  expects(dq.rows() == z.rows() && dq.cols() == z.cols(), "straight_through", "dq.size", dq.size());
  expects(dz.rows() == z.rows() && dz.cols() == z.cols(), "straight_through", "dz.size", dz.size());
  expects(beta >= 0 && std::isfinite(beta), "straight_through", "beta", beta);
  const double scale = z.size() > 0 ? 1 / static_cast<double>(z.size()) : 0;
  const S pull = static_cast<S>(2 * beta * scale);
  double sum = 0;
  for (index_t k = 0; k < book.size(); ++k)
    for (const index_t i : sums.members(k)) {
      const auto difference = z.row(i) - book.codes().row(k);
      sum += difference.template cast<double>().squaredNorm();
      dz.row(i) = dq.row(i) + pull * difference;
    }
  if (codes) {
    codes->resize(book.size(), book.dimension());
    for (index_t k = 0; k < book.size(); ++k)
      codes->row(k) =
          (2 * scale *
           (static_cast<double>(sums.count(k)) * book.codes().row(k).template cast<double>() - sums.sums().row(k)))
              .template cast<S>();
  }
  return {sum * scale, beta * sum * scale};
}

}  // namespace sluice
