#pragma once
#include <sluice/core/executor.hpp>
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/kernels/packet.hpp>

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

namespace sluice {

namespace detail {

/// The loops of packed_product over packets of one kind. No state, so that tests can run them with any packet.
///
/// Weights lie in panels of `rows` rows: element (r, c) of a panel is panel[c * rows + r]. The sum of an output over
/// the columns is cut into runs of `run_length` columns; a run is one chain of add_product that begins at 0, in the
/// order of the columns, and the runs are added in their order. So no sum depends on what is computed beside it.
template <class Packet>
struct panel_kernel {
  using S = typename Packet::scalar;
  static constexpr std::size_t packets = 2;  // in a panel: two chains hide half the latency, one would hide none
  static constexpr index_t lanes = static_cast<index_t>(Packet::lanes);
  static constexpr index_t rows = static_cast<index_t>(packets) * lanes;
  static constexpr index_t run_length = 512;  // 64 KB of a panel with AVX-512: read again from the second-level cache
  /// Positions whose sums fit into the registers beside the weights of this many panels and one input. At most 8: more
  /// inputs at a distance of a power of two fall out of an 8-way cache.
  static constexpr std::size_t fitting_positions(std::size_t panels) {
    return std::clamp<std::size_t>((packet_registers - 1) / (packets * panels), 2, 9) - 1;
  }
  static constexpr std::size_t max_positions = fitting_positions(1);
  /// Panels side by side where the registers allow: each is a stream of memory of its own, and four are read faster
  /// than one.
  static constexpr std::size_t max_panels = 4;

  static index_t n_panels(index_t n_rows) { return (n_rows + rows - 1) / rows; }

  /// Panels of one executor chunk: a function of the shape only. About 256 KB, and whole groups of max_panels.
  static index_t chunk_panels(index_t n_cols) {
    constexpr auto group = static_cast<index_t>(max_panels);
    const index_t group_bytes = group * rows * std::max<index_t>(n_cols, 1) * static_cast<index_t>(sizeof(S));
    return group * std::max<index_t>(1, (index_t{1} << 18) / group_bytes);
  }

  /// Row-major weights to panels; rows beyond the last are 0.
  static void pack(S* panels, const S* weights, index_t n_rows, index_t n_cols) {
    constexpr index_t tile = 64 / static_cast<index_t>(sizeof(S));  // columns: a line of each row
    for (index_t first = 0; first < n_rows; first += rows, panels += rows * n_cols)
      for (index_t c = 0; c < n_cols; c += tile)
        for (index_t r = 0; r < rows; ++r) {
          const bool inside = first + r < n_rows;
          const S* row = weights + (inside ? (first + r) * n_cols : 0);
          for (index_t k = c; k < std::min(n_cols, c + tile); ++k) panels[k * rows + r] = inside ? row[k] : S{0};
        }
  }

  struct task {
    S* out;              // position 0, first row of the first panel
    index_t out_stride;  // from position to position
    const S* weights;    // first column of the run
    index_t panel_size;  // from panel to panel
    const S* x;          // position 0, first column of the run
    index_t x_stride;
    index_t columns;  // in the run
    index_t valid;    // rows of the last panel that exist
    bool first_run;   // the first run assigns, the others add
  };

  /// One run, `Panels` panels, `Positions` positions.
  template <std::size_t Panels, std::size_t Positions>
  static void run(const task& t) {
    run(t, std::make_index_sequence<packets * Panels>{}, std::make_index_sequence<Positions>{});
  }

  template <std::size_t... P, std::size_t... J>  // folds, not loops: the sums stay in registers below -O3 too
  static void run(const task& t, std::index_sequence<P...>, std::index_sequence<J...>) {
    constexpr std::size_t n = sizeof...(P);
    constexpr index_t page = 4096 / static_cast<index_t>(sizeof(S));
    const S* const x[] = {(t.x + static_cast<index_t>(J) * t.x_stride)...};
    const S* w = t.weights;
    const index_t distance = t.panel_size, columns = t.columns;
    const auto offset = [distance](std::size_t p) {
      return static_cast<index_t>(p / packets) * distance + static_cast<index_t>(p % packets) * lanes;
    };
    Packet sum[sizeof...(J)][n] = {};
    for (index_t k = 0; k < columns; ++k, w += rows) {
      Packet weight[n];
      (weight[P].load(w + offset(P)), ...);
      if constexpr (n == packets)  // a single stream: the processor's own prefetching stops at every page
        (__builtin_prefetch(w + offset(P) + page, 0, 1), ...);
      const auto multiply = [&](Packet(&s)[n], const S* value) {
        Packet b;
        b.broadcast(value);
        (s[P].add_product(weight[P], b), ...);
      };
      (multiply(sum[J], x[J] + k), ...);
    }
    constexpr index_t width = static_cast<index_t>(n) * lanes;
    S sums[sizeof...(J) * n * Packet::lanes];
    const auto store = [&](const Packet(&s)[n], S* to) { (s[P].store(to + P * Packet::lanes), ...); };
    (store(sum[J], sums + J * n * Packet::lanes), ...);
    write(t, sums, sizeof...(J), width);
  }

  /// Sums of a run to the rows of out that exist.
  static void write(const task& t, const S* sums, std::size_t positions, index_t width) {
    const index_t existing = width - rows + t.valid;
    for (std::size_t j = 0; j < positions; ++j, sums += width) {
      S* out = t.out + static_cast<index_t>(j) * t.out_stride;
      if (t.first_run)
        std::copy_n(sums, existing, out);
      else
        for (index_t r = 0; r < existing; ++r) out[r] += sums[r];
    }
  }

  using run_function = void (*)(const task&);
  template <std::size_t Panels>
  static constexpr auto run_table() {
    return []<std::size_t... B>(std::index_sequence<B...>) {
      return std::array<run_function, sizeof...(B)>{&run<Panels, B + 1>...};
    }
    (std::make_index_sequence<fitting_positions(Panels)>{});
  }

  /// out (b x n_rows) = x (b x n_cols) times the transposed weights, for the panels first .. last - 1.
  static void multiply(S* out, const S* panels, const S* x, index_t n_rows, index_t n_cols, index_t b, index_t first,
                       index_t last) {
    constexpr auto one = run_table<1>();
    constexpr auto two = run_table<2>();
    constexpr auto four = run_table<4>();
    constexpr auto most = static_cast<index_t>(max_positions);
    const index_t blocks = (b + most - 1) / most, block = blocks > 0 ? (b + blocks - 1) / blocks : 0;
    for (index_t p = first; p < last;) {
      const index_t group = block <= std::ssize(four) && last - p >= 4  ? 4
                            : block <= std::ssize(two) && last - p >= 2 ? 2
                                                                        : 1;
      const index_t row = p * rows;
      for (index_t c = 0; c < n_cols; c += run_length)
        for (index_t i = 0; i < b; i += block) {
          const task t{out + i * n_rows + row,
                       n_rows,
                       panels + row * n_cols + c * rows,
                       rows * n_cols,
                       x + i * n_cols + c,
                       n_cols,
                       std::min(run_length, n_cols - c),
                       std::min(rows, n_rows - row - (group - 1) * rows),
                       c == 0};
          const auto at = static_cast<std::size_t>(std::min(block, b - i) - 1);
          (group == 4 ? four[at] : group == 2 ? two[at] : one[at])(t);
        }
      p += group;
    }
  }
};

}  // namespace detail

/// A weight matrix W, repacked once, that multiplies few vectors at a time and reads each weight once for all of them:
///
///     y_i[r] = sum_c W[r][c] x_i[c],   i < b
///
/// For large W and small b the product takes the time of reading W, so b vectors cost little more than one: what a
/// target model of speculative decoding lives on. From b = 8 or so the time is that of the arithmetic and grows with b.
/// Weights that are used once do not repay the packing.
///
/// Every output is one fixed order of additions: chains of 512 columns, added in their order. The bits of y_i depend
/// neither on b, nor on i, nor on the executor. Multiplications and additions are fused where the target has the
/// instruction, so builds for different targets agree to rounding only: |error| <= (min(cols, 512) + cols/512) u
/// sum_c |W[r][c] x_i[c]|, u = 2^-24 or 2^-53.
/// NaN and infinities propagate as in a dense product (0 * inf is NaN); a result of -0 comes out as +0.
///
/// Time O(rows cols b); memory: the weights, rows padded to a whole panel (32 floats or 16 doubles with AVX-512, 16 or
/// 8 with AVX2 and fused multiply-add, else 8 or 4). A const object may be used by many threads.
/// Source: Goto and van de Geijn, ACM Transactions on Mathematical Software 34 (2008), panels and register blocks.
/// Differs: the weights are packed once and for all; the order of additions does not depend on the blocks; several
/// panels side by side where b is small.
template <std::floating_point S>
requires std::same_as<S, float> || std::same_as<S, double>
class packed_product {
  using kernel = detail::panel_kernel<detail::native_packet<S>>;

 public:
  /// 0 x 0.
  packed_product() = default;

  /// weights[r * cols + c]. O(rows cols), the only allocation. Throws invalid_argument unless rows and cols are at
  /// least 0 and weights has rows * cols elements.
  packed_product(std::span<const S> weights, index_t rows, index_t cols) { assign(weights, rows, cols); }

  /// New weights, of any shape; keeps the memory if it suffices. Throws as the constructor, nothing changed.
  void assign(std::span<const S> weights, index_t rows, index_t cols) {
    expects(rows >= 0, "packed_product", "rows", rows);
    expects(cols >= 0, "packed_product", "cols", cols);
    expects(is_product(std::ssize(weights), rows, cols), "packed_product", "weights.size", weights.size());
    panels_.resize(static_cast<std::size_t>((kernel::n_panels(rows) * kernel::rows * cols * bytes_each + 63) / 64));
    rows_ = rows;
    cols_ = cols;
    if (!weights.empty()) kernel::pack(panels_.front().values, weights.data(), rows, cols);
  }

  index_t rows() const { return rows_; }
  index_t cols() const { return cols_; }
  /// What a product reads of the weights, padding included.
  index_t bytes() const { return kernel::n_panels(rows_) * kernel::rows * cols_ * bytes_each; }

  /// W[r][c]; r and c are in range.
  S operator()(index_t r, index_t c) const {
    return data()[(r / kernel::rows * cols_ + c) * kernel::rows + r % kernel::rows];
  }

  /// out[i * rows + r] = sum_c W[r][c] x[i * cols + c], i < b. One position of x, and of out, is one contiguous run;
  /// out does not overlap x. Allocates nothing. Throws invalid_argument, nothing changed, unless b >= 0, x has b * cols
  /// elements and out b * rows.
  template <executor Executor = serial>
  void multiply(std::span<S> out, std::span<const S> x, index_t b, const Executor& ex = {}) const {
    expects(b >= 0, "packed_product::multiply", "b", b);
    expects(is_product(std::ssize(out), b, rows_), "packed_product::multiply", "out.size", out.size());
    expects(is_product(std::ssize(x), b, cols_), "packed_product::multiply", "x.size", x.size());
    if (out.empty()) return;
    if (x.empty()) {
      std::fill(out.begin(), out.end(), S{0});
      return;
    }
    const index_t all = kernel::n_panels(rows_), chunk = kernel::chunk_panels(cols_);
    ex.for_each((all + chunk - 1) / chunk, [&](index_t c) {
      kernel::multiply(out.data(), data(), x.data(), rows_, cols_, b, c * chunk, std::min(all, (c + 1) * chunk));
    });
  }

 private:
  static constexpr index_t bytes_each = static_cast<index_t>(sizeof(S));
  struct alignas(64) line {  // a packet never straddles two lines
    S values[64 / sizeof(S)];
  };
  static bool is_product(index_t n, index_t a, index_t b) {  // without overflow
    return a == 0 || b == 0 ? n == 0 : n % a == 0 && n / a == b;
  }
  const S* data() const { return panels_.front().values; }

  std::vector<line> panels_;
  index_t rows_ = 0, cols_ = 0;
};

}  // namespace sluice
