#pragma once
#include <sluice/core/executor.hpp>
#include <sluice/core/exp_block.hpp>
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/kernels/packet.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <utility>
#include <vector>

/// Block attention with log-sum-exp outputs, the merge of partial softmaxes, and a paged cache of keys and values.
///
/// For a query q and keys k_j, values v_j of its key/value head,
///     s_j = scale q.k_j,    lse = log sum_j exp(s_j),    o = sum_j exp(s_j - lse) v_j,
/// in one pass over keys and values with a running maximum (online softmax): scores are never stored as a row. Two
/// partial results over disjoint keys merge exactly (`merge_attention`), so attention over any union of key sets, over
/// a window and its outside, or over selected pages, is attention over the parts.
///
/// Keys and values lie in panels of 16 positions (`panel_layout`): keys with the position innermost, so that 16 scores
/// are 16 lanes and no sum across lanes is needed; values as rows. Panels are taken four at a time, in the order of the
/// list: a block of 64 positions has one maximum and one sum. So the result of a query depends on its own list of
/// panels only: not on other queries of the call, not on the executor, not on where panels lie, bit for bit.
///
/// Sources: Milakov and Gimelshein, online softmax (arXiv:1805.02867); Dao et al., FlashAttention (arXiv:2205.14135)
/// for the one pass over blocks; Ainslie et al. (arXiv:2305.13245) for grouped heads; Kwon et al., PagedAttention
/// (arXiv:2309.06180) for pages with reference counts. Differs: keys are stored transposed in panels of 16, the total
/// of the softmax is kept in double.
namespace sluice {

/// Positions of a panel, the unit in which keys and values are stored and listed.
inline constexpr index_t panel_positions = 16;

/// What a layer's attention looks like. Query head h reads key/value head h / (query_heads / key_value_heads).
struct attention_shape {
  index_t query_heads = 1;
  index_t key_value_heads = 1;
  index_t width = 64;       ///< of a query head and of a key
  index_t value_width = 0;  ///< of a value and of an output head; 0: as width
  double scale = 0;         ///< 0: 1 / sqrt(width)
};

namespace detail {
inline void check_shape(const attention_shape& s) {
  constexpr index_t most = index_t{1} << 24;
  expects(s.query_heads >= 1 && s.query_heads < most, "attention_shape", "query_heads", s.query_heads);
  expects(s.key_value_heads >= 1 && s.query_heads % s.key_value_heads == 0, "attention_shape", "key_value_heads",
          s.key_value_heads);
  expects(s.width >= 1 && s.width < most, "attention_shape", "width", s.width);
  expects(s.value_width >= 0 && s.value_width < most, "attention_shape", "value_width", s.value_width);
  expects(std::isfinite(s.scale), "attention_shape", "scale", s.scale);
}
}  // namespace detail

/// Where the numbers of a panel are: head g begins at g * head_stride(); element i of the key at position `lane` is at
/// i * 16 + lane, element i of its value at 16 * width() + lane * value_stride() + i. value_stride() is the value width
/// rounded up to 16; what pads it is never used. Immutable.
class panel_layout {
 public:
  /// Throws invalid_argument unless heads and widths are positive (value_width may be 0), key_value_heads divides
  /// query_heads and the scale is finite.
  explicit panel_layout(const attention_shape& shape)
      : heads_((detail::check_shape(shape), shape.key_value_heads)),
        width_(shape.width),
        value_width_(shape.value_width == 0 ? shape.width : shape.value_width) {}

  index_t heads() const { return heads_; }
  index_t width() const { return width_; }
  index_t value_width() const { return value_width_; }
  index_t value_stride() const { return (value_width_ + panel_positions - 1) / panel_positions * panel_positions; }
  index_t head_stride() const { return panel_positions * (width_ + value_stride()); }
  index_t size() const { return heads_ * head_stride(); }  ///< elements of a panel, all heads

  /// Writes one position: keys heads() x width(), values heads() x value_width(), row-major.
  template <std::floating_point S>
  void store(S* panel, index_t lane, const S* keys, const S* values) const {
    for (index_t g = 0; g < heads_; ++g) {
      S* k = panel + g * head_stride() + lane;
      for (index_t i = 0; i < width_; ++i) k[i * panel_positions] = keys[g * width_ + i];
      std::memcpy(panel + g * head_stride() + panel_positions * width_ + lane * value_stride(),
                  values + g * value_width_, static_cast<std::size_t>(value_width_) * sizeof(S));
    }
  }
  /// Reads back what store wrote.
  template <std::floating_point S>
  void load(S* keys, S* values, const S* panel, index_t lane) const {
    for (index_t g = 0; g < heads_; ++g) {
      const S* k = panel + g * head_stride() + lane;
      for (index_t i = 0; i < width_; ++i) keys[g * width_ + i] = k[i * panel_positions];
      std::memcpy(values + g * value_width_,
                  panel + g * head_stride() + panel_positions * width_ + lane * value_stride(),
                  static_cast<std::size_t>(value_width_) * sizeof(S));
    }
  }

 private:
  index_t heads_, width_, value_width_;
};

/// The positions first, ..., first + count - 1 of a panel. The others take no part, whatever they hold, NaN included.
template <std::floating_point S>
struct key_panel {
  const S* data = nullptr;
  index_t first = 0, count = panel_positions;
};

/// (out, lse) <- the attention over both key sets, for lse.size() rows of out.size() / lse.size() elements:
///     M = max(lse, lse'),  w = exp(lse - M),  w' = exp(lse' - M),  out = (w out + w' out') / (w + w'),
///     lse = M + log(w + w').
/// A part without keys has lse = -inf and changes nothing; two such parts give out = 0, lse = -inf. Throws
/// invalid_argument, nothing changed, if the sizes do not fit. O(out.size()).
/// (e^{lse_win} a + e^{lse_out} u) / (e^{lse_win} + e^{lse_out}) is the same formula.
template <std::floating_point S>
void merge_attention(std::span<S> out, std::span<S> lse, std::span<const S> other_out, std::span<const S> other_lse) {
  expects(lse.empty() ? out.empty() : out.size() % lse.size() == 0, "merge_attention", "out.size", out.size());
  expects(other_out.size() == out.size(), "merge_attention", "other_out.size", other_out.size());
  expects(other_lse.size() == lse.size(), "merge_attention", "other_lse.size", other_lse.size());
  const std::size_t width = lse.empty() ? 0 : out.size() / lse.size();
  for (std::size_t r = 0; r < lse.size(); ++r) {
    const double a = static_cast<double>(lse[r]), b = static_cast<double>(other_lse[r]);
    const double top = a > b || std::isnan(a) ? a : b;
    S* o = out.data() + r * width;
    if (top == -std::numeric_limits<double>::infinity()) {
      std::fill_n(o, width, S{0});
      continue;
    }
    const double wa = std::exp(a - top), wb = std::exp(b - top);
    const S ca = static_cast<S>(wa / (wa + wb)), cb = static_cast<S>(wb / (wa + wb));
    const S* p = other_out.data() + r * width;
    // A part of weight 0 is not multiplied: whatever stands in it counts nothing.
    if (cb != 0 || std::isnan(cb))
      for (std::size_t i = 0; i < width; ++i) o[i] = (ca == 0 ? S{0} : ca * o[i]) + cb * p[i];
    lse[r] = static_cast<S>(top + std::log(wa + wb));
  }
}

namespace detail {

/// f(0), ..., f(N - 1) with constants, so that arrays indexed by them stay in registers.
template <int N, class F>
[[gnu::always_inline]] inline void unrolled(F&& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, I>{}), ...);
  }
  (std::make_integer_sequence<int, N>{});
}

inline constexpr int panels_of_block = 4;
inline constexpr index_t block_positions = panels_of_block * panel_positions;
/// Query rows that share a pass over a block, as registers allow.
inline constexpr int rows_at_once = packet_registers >= 32 ? 4 : 2;

/// Up to four panels of one head; all pointers can be read from. `full`: all 64 positions take part.
template <class S>
struct key_block {
  const S* keys[panels_of_block];
  const S* values[panels_of_block];
  const S* next[panels_of_block];  // keys of the block after this one, to prefetch
  index_t first[panels_of_block], last[panels_of_block];
  int n = 0;
  bool full = false;
};

/// s[r][j] = scale q[r].k_j for the 64 positions of the block; each is one chain of additions over i = 0, 1, ...
template <class S, int R>
void block_scores(S (*s)[block_positions], const S* const* q, const key_block<S>& b, index_t width, S scale) {
  using packet = native_packet<S>;
  constexpr index_t lanes = static_cast<index_t>(packet::lanes);
  constexpr int at_once = 4;
  for (index_t j = 0; j < b.n * panel_positions; j += at_once * lanes) {
    const S *k[at_once], *v[at_once];
    unrolled<at_once>([&](auto i) __attribute__((always_inline)) {
      const index_t position = j + i * lanes, panel = position / panel_positions;
      k[i] = b.keys[panel] + position % panel_positions;
      v[i] = b.values[panel] + position % panel_positions;
    });
    packet sum[R][at_once] = {};
    for (index_t d = 0; d < width; ++d) {
      packet x[at_once];
      unrolled<at_once>([&](auto i) __attribute__((always_inline)) {
        x[i].load(k[i] + d * panel_positions);
        __builtin_prefetch(v[i] + d * panel_positions);  // pieces of one head are too short for the hardware to follow
      });
      unrolled<R>([&](auto r) __attribute__((always_inline)) {
        packet a;
        a.broadcast(q[r] + d);
        unrolled<at_once>([&](auto i) __attribute__((always_inline)) { sum[r][i].add_product(x[i], a); });
      });
    }
    unrolled<R>([&](auto r) __attribute__((always_inline)) {
      unrolled<at_once>([&](auto i) __attribute__((always_inline)) { sum[r][i].store(&s[r][j + i * lanes]); });
    });
  }
  for (int r = 0; r < R; ++r)
    for (index_t j = 0; j < b.n * panel_positions; ++j) s[r][j] *= scale;
}

/// sum[r] = c[r] sum[r] + (sum over the block's positions of p[r][j] v_j) for C packets of the value's elements.
template <class S, int R, int C>
void block_values(S* const* total, const S* c, S (*p)[block_positions], const key_block<S>& b, index_t element,
                  index_t stride) {
  using packet = native_packet<S>;
  constexpr index_t lanes = static_cast<index_t>(packet::lanes);
  packet sum[R][C] = {};
  for (int k = 0; k < b.n; ++k) {
    const S* v = b.values[k] + element;
    for (index_t j = b.first[k]; j < b.last[k]; ++j) {
      packet x[C];
      unrolled<C>([&](auto i) __attribute__((always_inline)) {
        x[i].load(v + j * stride + i * lanes);
        __builtin_prefetch(b.next[k] + element * panel_positions + (j * C + i) * lanes);
      });
      unrolled<R>([&](auto r) __attribute__((always_inline)) {
        packet a;
        a.broadcast(&p[r][k * panel_positions + j]);
        unrolled<C>([&](auto i) __attribute__((always_inline)) { sum[r][i].add_product(x[i], a); });
      });
    }
  }
  unrolled<R>([&](auto r) __attribute__((always_inline)) {
    packet kept;
    kept.broadcast(c + r);
    unrolled<C>([&](auto i) __attribute__((always_inline)) {
      packet before;
      before.load(total[r] + element + i * lanes);
      sum[r][i].add_product(before, kept);
      sum[r][i].store(total[r] + element + i * lanes);
    });
  });
}

/// The running state of a query row: maximum, total relative to it; the weighted sum is kept beside.
template <class S>
struct softmax_state {
  S top = -std::numeric_limits<S>::infinity();
  double total = 0;
};

/// Takes a block into R rows.
template <class S, int R>
void absorb_block(softmax_state<S>* const* state, S* const* sum, const S* const* q, const key_block<S>& b,
                  const panel_layout& layout, S scale) {
  constexpr index_t lanes = static_cast<index_t>(native_packet<S>::lanes);
  alignas(64) S p[R][block_positions];
  block_scores<S, R>(p, q, b, layout.width(), scale);
  if (!b.full)
    for (int r = 0; r < R; ++r) {
      for (int k = 0; k < b.n; ++k)
        for (index_t j = 0; j < panel_positions; ++j)
          if (j < b.first[k] || j >= b.last[k]) p[r][k * panel_positions + j] = -std::numeric_limits<S>::infinity();
      std::fill(p[r] + b.n * panel_positions, p[r] + block_positions, -std::numeric_limits<S>::infinity());
    }
  S c[R];
  for (int r = 0; r < R; ++r) {
    // Fixed size and aligned: Eigen reduces it in one fixed order.
    const Eigen::Map<const Eigen::Array<S, block_positions, 1>, Eigen::Aligned64> row(p[r]);
    const S before = state[r]->top, here = row.maxCoeff();
    const S top = here > before ? here : before;
    exp_block(p[r], p[r], block_positions, top == -std::numeric_limits<S>::infinity() ? S{0} : top);
    const double kept = before == top ? 1.0 : std::exp(static_cast<double>(before) - static_cast<double>(top));
    state[r]->total = state[r]->total * kept + static_cast<double>(row.sum());
    state[r]->top = top;
    c[r] = static_cast<S>(kept);
  }
  const index_t stride = layout.value_stride();
  index_t element = 0;
  for (; element + 4 * lanes <= stride; element += 4 * lanes) block_values<S, R, 4>(sum, c, p, b, element, stride);
  for (; element + 2 * lanes <= stride; element += 2 * lanes) block_values<S, R, 2>(sum, c, p, b, element, stride);
  for (; element < stride; element += lanes) block_values<S, R, 1>(sum, c, p, b, element, stride);
}

}  // namespace detail

/// Attention of a batch of query rows. Each query sees the panels `shared` and then its own ones; a causal mask is a
/// list that ends with the query's position. One object a thread; it owns the running sums, so a call allocates nothing
/// once as many queries were seen before (or prepared).
///
/// Cost for n queries, S positions: 2 n H S (d + d_v) FLOPs; keys and values of blocks that are shared are read once
/// for 16 queries and all heads of a group. On an executor: one chunk for each key/value head and 16 queries.
template <std::floating_point S>
class block_attention {
 public:
  /// Prepared for n_queries. Throws invalid_argument for a bad shape (see panel_layout) or n_queries < 0.
  explicit block_attention(const attention_shape& shape, index_t n_queries = 1)
      : layout_(shape),
        query_heads_(shape.query_heads),
        scale_(static_cast<S>(shape.scale == 0 ? 1 / std::sqrt(static_cast<double>(shape.width)) : shape.scale)) {
    expects(n_queries >= 0, "block_attention", "n_queries", n_queries);
    prepare(n_queries);
  }

  const panel_layout& layout() const { return layout_; }
  index_t query_heads() const { return query_heads_; }
  S scale() const { return scale_; }

  /// out: n x query_heads x value_width, lse: n x query_heads or empty, q: n x query_heads x width, all row-major. own
  /// is empty or has one list a query. A query without any position gets out = 0, lse = -inf. Keys, values and queries
  /// must be finite where they take part; a score that is not finite makes its query's result NaN, unless it is -inf,
  /// which is a weight of 0. Throws invalid_argument, nothing written, if sizes do not fit, or a panel's range is not
  /// within [0, 16] or has no data.
  template <executor Executor>
  void operator()(std::span<S> out, std::span<S> lse, std::span<const S> q, std::span<const key_panel<S>> shared,
                  std::span<const std::span<const key_panel<S>>> own, const Executor& ex) {
    const index_t q_row = query_heads_ * layout_.width(), n = std::ssize(q) / q_row;
    expects(std::ssize(q) == n * q_row, "block_attention", "q.size", q.size());
    expects(std::ssize(out) == n * query_heads_ * layout_.value_width(), "block_attention", "out.size", out.size());
    expects(lse.empty() || std::ssize(lse) == n * query_heads_, "block_attention", "lse.size", lse.size());
    expects(own.empty() || std::ssize(own) == n, "block_attention", "own.size", own.size());
    check(shared, "shared");
    for (const list mine : own) check(mine, "own");
    prepare(n);
    const index_t tiles = (n + queries_of_tile - 1) / queries_of_tile;
    ex.for_each(tiles * layout_.heads(), [&](index_t c) {
      const index_t first = c / layout_.heads() * queries_of_tile;
      run(out, lse, q, shared, own, c % layout_.heads(), first, std::min(n, first + queries_of_tile));
    });
  }
  /// On the calling thread.
  void operator()(std::span<S> out, std::span<S> lse, std::span<const S> q, std::span<const key_panel<S>> shared,
                  std::span<const std::span<const key_panel<S>>> own = {}) {
    (*this)(out, lse, q, shared, own, serial{});
  }

  /// As above with keys and values as rows: keys m x heads x width, values m x heads x value_width, row-major; they are
  /// packed into panels first (O(m), kept as scratch). With `causal`, query i sees the keys 0, ..., m - n + i: the
  /// queries are the last n of the m positions. The same bits as from panels that hold the same rows. Throws
  /// invalid_argument, nothing written, if sizes do not fit, or causal and n > m.
  template <executor Executor>
  void over_rows(std::span<S> out, std::span<S> lse, std::span<const S> q, std::span<const S> keys,
                 std::span<const S> values, bool causal, const Executor& ex) {
    const index_t q_row = query_heads_ * layout_.width(), o_row = query_heads_ * layout_.value_width();
    const index_t k_row = layout_.heads() * layout_.width(), v_row = layout_.heads() * layout_.value_width();
    const index_t n = std::ssize(q) / q_row, m = std::ssize(keys) / k_row;
    expects(std::ssize(q) == n * q_row, "over_rows", "q.size", q.size());
    expects(std::ssize(keys) == m * k_row, "over_rows", "keys.size", keys.size());
    expects(std::ssize(values) == m * v_row, "over_rows", "values.size", values.size());
    expects(std::ssize(out) == n * o_row, "over_rows", "out.size", out.size());
    expects(lse.empty() || std::ssize(lse) == n * query_heads_, "over_rows", "lse.size", lse.size());
    expects(!causal || n <= m, "over_rows", "q.size", q.size());
    const index_t n_panels = (m + panel_positions - 1) / panel_positions;
    if (static_cast<index_t>(rows_.size()) < n_panels * layout_.size()) rows_.resize(size(n_panels * layout_.size()));
    panels_.resize(size(n_panels));
    for (index_t j = 0; j < m; ++j)
      layout_.store(rows_.data() + j / panel_positions * layout_.size(), j % panel_positions, keys.data() + j * k_row,
                    values.data() + j * v_row);
    for (index_t k = 0; k < n_panels; ++k)
      panels_[size(k)] = {rows_.data() + k * layout_.size(), 0, std::min(panel_positions, m - k * panel_positions)};
    if (!causal) return (*this)(out, lse, q, panels_, {}, ex);
    constexpr index_t most = 4 * panel_positions;  // queries of a call: few enough that their own lists are short
    for (index_t first = 0; first < n; first += most) {
      const index_t count = std::min(most, n - first), whole = (m - n + first) / panel_positions;
      lists_.clear();
      own_.clear();
      for (index_t i = 0; i < count; ++i)
        for (index_t k = whole, seen = m - n + first + i + 1; k * panel_positions < seen; ++k)
          lists_.push_back({panels_[size(k)].data, 0, std::min(panel_positions, seen - k * panel_positions)});
      const key_panel<S>* next = lists_.data();
      for (index_t i = 0; i < count; ++i) {
        const index_t seen = m - n + first + i + 1;
        own_.emplace_back(next, size((seen + panel_positions - 1) / panel_positions - whole));
        next += own_.back().size();
      }
      (*this)(out.subspan(size(first * o_row), size(count * o_row)),
              lse.empty() ? lse : lse.subspan(size(first * query_heads_), size(count * query_heads_)),
              q.subspan(size(first * q_row), size(count * q_row)), std::span(panels_).first(size(whole)), own_, ex);
    }
  }
  void over_rows(std::span<S> out, std::span<S> lse, std::span<const S> q, std::span<const S> keys,
                 std::span<const S> values, bool causal = false) {
    over_rows(out, lse, q, keys, values, causal, serial{});
  }

  /// Later calls with at most n queries allocate nothing.
  void prepare(index_t n) {
    const std::size_t rows = size(n * query_heads_);
    if (state_.size() >= rows) return;
    state_.resize(rows);
    sum_.resize(rows * size(layout_.value_stride()));
  }

 private:
  using list = std::span<const key_panel<S>>;
  static constexpr index_t queries_of_tile = 16;
  static std::size_t size(index_t n) { return static_cast<std::size_t>(n); }

  static void check(list panels, const char* argument) {
    for (index_t i = 0; i < std::ssize(panels); ++i) {
      const key_panel<S>& p = panels[size(i)];
      expects(p.first >= 0 && p.count >= 0 && p.first <= panel_positions && p.count <= panel_positions - p.first,
              "block_attention", argument, p.first + p.count, i);
      expects(p.data != nullptr || p.count == 0, "block_attention", argument, p.count, i);
    }
  }

  /// The panels i, ... (at most four) of the list a, b seen as one.
  detail::key_block<S> block(list a, list b, index_t i, index_t head) const {
    detail::key_block<S> k;
    const index_t n = std::ssize(a) + std::ssize(b);
    const auto panel = [&](index_t j) -> const key_panel<S>& {
      return j < std::ssize(a) ? a[size(j)] : b[size(j - std::ssize(a))];
    };
    const S* some = nullptr;  // stands for panels that are not there: it is read, and masked
    for (index_t j = i; j < n && j < i + detail::panels_of_block; ++j)
      if (panel(j).count > 0) some = panel(j).data + head * layout_.head_stride();
    if (some == nullptr) return k;
    const auto keys = [&](index_t j) {
      return j < n && panel(j).count > 0 ? panel(j).data + head * layout_.head_stride() : some;
    };
    k.n = static_cast<int>(std::min<index_t>(detail::panels_of_block, n - i));
    k.full = k.n == detail::panels_of_block;
    for (int j = 0; j < detail::panels_of_block; ++j) {
      k.keys[j] = keys(i + j);
      k.values[j] = k.keys[j] + panel_positions * layout_.width();
      k.next[j] = keys(i + j + detail::panels_of_block);
      k.first[j] = i + j < n ? panel(i + j).first : 0;
      k.last[j] = i + j < n ? k.first[j] + panel(i + j).count : 0;
      k.full = k.full && k.last[j] - k.first[j] == panel_positions;
    }
    return k;
  }

  /// Rows 0, ..., n - 1 of a tile take the block; row k is head k % group of query first + k / group.
  void absorb(const detail::key_block<S>& b, std::span<const S> q, index_t head, index_t first, index_t n) {
    if (b.n == 0) return;
    index_t k = 0;
    if constexpr (detail::rows_at_once >= 4)
      for (; k + 4 <= n; k += 4) rows<4>(b, q, head, first, k);
    for (; k + 2 <= n; k += 2) rows<2>(b, q, head, first, k);
    for (; k < n; ++k) rows<1>(b, q, head, first, k);
  }
  template <int R>
  void rows(const detail::key_block<S>& b, std::span<const S> q, index_t head, index_t first, index_t k) {
    const index_t group = query_heads_ / layout_.heads();
    detail::softmax_state<S>* state[R];
    S* sum[R];
    const S* query[R];
    for (int r = 0; r < R; ++r) {
      const index_t row = (first + (k + r) / group) * query_heads_ + head * group + (k + r) % group;
      state[r] = &state_[size(row)];
      sum[r] = sum_.data() + row * layout_.value_stride();
      query[r] = q.data() + row * layout_.width();
    }
    detail::absorb_block<S, R>(state, sum, query, b, layout_, scale_);
  }

  /// The queries first, ..., last - 1 of one key/value head.
  void run(std::span<S> out, std::span<S> lse, std::span<const S> q, list shared, std::span<const list> own,
           index_t head, index_t first, index_t last) {
    const index_t group = query_heads_ / layout_.heads(), stride = layout_.value_stride();
    for (index_t t = first; t < last; ++t)
      for (index_t r = t * query_heads_ + head * group, end = r + group; r < end; ++r) {
        state_[size(r)] = {};
        std::fill_n(sum_.data() + r * stride, stride, S{0});
      }
    const index_t whole = std::ssize(shared) / detail::panels_of_block * detail::panels_of_block;
    for (index_t i = 0; i < whole; i += detail::panels_of_block)
      absorb(block(shared, {}, i, head), q, head, first, (last - first) * group);
    for (index_t t = first; t < last; ++t) {
      const list mine = own.empty() ? list{} : own[size(t)];
      for (index_t i = whole; i < std::ssize(shared) + std::ssize(mine); i += detail::panels_of_block)
        absorb(block(shared, mine, i, head), q, head, t, group);
    }
    for (index_t t = first; t < last; ++t)
      for (index_t r = t * query_heads_ + head * group, end = r + group; r < end; ++r) {
        const detail::softmax_state<S>& s = state_[size(r)];
        const S inverse = s.total == 0 ? S{0} : static_cast<S>(1 / s.total);
        const S* sum = sum_.data() + r * stride;
        S* o = out.data() + r * layout_.value_width();
        for (index_t i = 0; i < layout_.value_width(); ++i) o[i] = sum[i] * inverse;
        if (!lse.empty()) lse[size(r)] = static_cast<S>(static_cast<double>(s.top) + std::log(s.total));
      }
  }

  panel_layout layout_;
  index_t query_heads_;
  S scale_;
  std::vector<detail::softmax_state<S>> state_;
  std::vector<S> sum_, rows_;
  std::vector<key_panel<S>> panels_, lists_;
  std::vector<list> own_;
};

}  // namespace sluice
