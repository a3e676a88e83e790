#pragma once
#include <sluice/core/executor.hpp>
#include <sluice/core/exp_block.hpp>
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/kernels/attention.hpp>
#include <sluice/kernels/packed_product.hpp>
#include <sluice/kernels/paged_cache.hpp>
#include <sluice/models/draws.hpp>
#include <sluice/models/instrumentation.hpp>
#include <sluice/random/distributions.hpp>
#include <sluice/random/stream.hpp>
#include <sluice/speculate/language_model.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

/// Unstable: for tests, benchmarks and examples; no compatibility is promised.
///
/// A small causal transformer whose weights are drawn, not trained: a model of the cost and of the arithmetic of real
/// targets, with a cache of keys and values. Its laws are not those of a language; use n-grams or the feed-forward
/// model where that matters.
///
/// All products are y = x W^T without biases. With x = E[token], in each layer
///     n = RMS(x) g1,     q, k, v = Wq n, Wk n, Wv n,     q and k turned by position (RoPE),
///     x += Wo (causal attention, scale 1/sqrt(d_h)),     n = RMS(x) g2,     x += W2 (silu(W1 n) W3 n),
/// and at the end logits = E (RMS(x) g_f). RMS(x) = x / sqrt(mean x^2 + 1e-5). RoPE in half-split form: the pair (i,
/// i + d_h/2) of a head turns by position theta^(-2i/d_h). Query head h reads key/value head h / (H/H_kv).
namespace sluice::models {

namespace stream_id {
/// Embedding and last gain; layer l takes transformer_layer + 16 l + 0, ..., 8.
inline constexpr std::uint64_t transformer_embedding = 0x3F0, transformer_gain = 0x3F1, transformer_layer = 0x400;
}  // namespace stream_id

struct transformer_config {
  index_t vocabulary = 32, width = 16, layers = 2, heads = 4, key_value_heads = 2, hidden = 24;
  double theta = 10000;
  double gain = 2.5;  ///< of the last normalisation: 2.5 gives peaked laws (perplexity 2 to 12), 1 flat ones
  friend bool operator==(const transformer_config&, const transformer_config&) = default;
};

/// For known answers (4 432 parameters), tests (214 592), benchmarks (4 859 136) and benchmarks beyond the caches
/// (25 207 296: 96 MiB of floats).
inline constexpr transformer_config nano_transformer{}, tiny_transformer{256, 64, 4, 4, 4, 172},
    small_transformer{2048, 256, 6, 8, 4, 684}, base_transformer{4096, 512, 8, 8, 4, 1368};

/// V D + L (2 D + 2 D^2 + 2 D H_kv d_h + 3 D F) + D.
constexpr std::int64_t parameters(const transformer_config& c) {
  const std::int64_t d = c.width, kv = c.key_value_heads * (c.width / c.heads);
  return c.vocabulary * d + c.layers * (2 * d + 2 * d * d + 2 * d * kv + 3 * d * c.hidden) + d;
}
/// 2 parameters + 4 L D context: one token that sees `context` positions, itself included.
constexpr double flops_per_token(const transformer_config& c, index_t context) {
  return 2 * static_cast<double>(parameters(c)) +
         4 * static_cast<double>(c.layers) * static_cast<double>(c.width) * static_cast<double>(context);
}
/// 2 L H_kv d_h numbers of scalar_bytes each.
constexpr std::int64_t key_value_bytes_per_token(const transformer_config& c, std::int64_t scalar_bytes) {
  return 2 * c.layers * c.key_value_heads * (c.width / c.heads) * scalar_bytes;
}

/// The weights, drawn from the streams (seed, id) of stream_id and packed for products with few rows. Immutable after
/// construction: any number of models and threads may share one object, a draft that leaves early with its target.
template <std::floating_point S>
class transformer_weights {
 public:
  struct layer {
    std::vector<S> attention_gain, feed_forward_gain;  // g1, g2
    packed_product<S> qkv, out, up, down;              // rows of Wq, Wk, Wv; Wo; rows of W1, W3; W2
  };

  /// Draws are in double and rounded once. About 5 ns a parameter on one thread; the same numbers on every executor.
  /// Throws invalid_argument unless sizes are positive, heads divides width, key_value_heads divides heads, the width
  /// of a head is even, theta is positive and gain finite.
  template <executor Executor = serial>
  explicit transformer_weights(const transformer_config& config, std::uint64_t seed = 1, const Executor& ex = {})
      : config_(checked(config)) {
    const index_t d = config_.width, kv = key_value_width(), f = config_.hidden;
    const auto n = [](index_t i) { return static_cast<std::size_t>(i); };
    const double residual = 1 / std::sqrt(2.0 * static_cast<double>(config_.layers));
    std::vector<S> matrix(n(std::max({config_.vocabulary * d, (d + 2 * kv) * d, 2 * f * d})));
    const auto fill = [&](index_t first, index_t rows, index_t cols, std::uint64_t id, double sd) {
      fill_normal(std::span(matrix).subspan(n(first), n(rows * cols)), stream(seed, id), sd, ex);
      return first + rows * cols;
    };
    const auto pack = [&](index_t rows, index_t cols) {
      return packed_product<S>(std::span<const S>(matrix).first(n(rows * cols)), rows, cols);
    };
    const auto gain = [&](std::uint64_t id, double factor) {
      std::vector<double> z(n(d));
      fill_normal(z, stream(seed, id));
      std::vector<S> g;
      for (const double x : z) g.push_back(static_cast<S>(factor * (1 + 0.1 * x)));
      return g;
    };
    const double by_width = 1 / std::sqrt(static_cast<double>(d)), by_hidden = 1 / std::sqrt(static_cast<double>(f));
    fill(0, config_.vocabulary, d, stream_id::transformer_embedding, by_width);
    embedding_ = pack(config_.vocabulary, d);
    gain_ = gain(stream_id::transformer_gain, config_.gain);
    layers_.resize(n(config_.layers));
    for (index_t l = 0; l < config_.layers; ++l) {
      layer& w = layers_[n(l)];
      const std::uint64_t id = stream_id::transformer_layer + 16 * static_cast<std::uint64_t>(l);
      w.attention_gain = gain(id, 1);
      w.feed_forward_gain = gain(id + 5, 1);
      index_t next = fill(0, d, d, id + 1, by_width);
      next = fill(next, kv, d, id + 2, by_width);
      fill(next, kv, d, id + 3, by_width);
      w.qkv = pack(d + 2 * kv, d);
      fill(0, d, d, id + 4, by_width * residual);
      w.out = pack(d, d);
      fill(fill(0, f, d, id + 6, by_width), f, d, id + 7, by_width);
      w.up = pack(2 * f, d);
      fill(0, d, f, id + 8, by_hidden * residual);
      w.down = pack(d, f);
    }
  }

  const transformer_config& config() const { return config_; }
  index_t head_width() const { return config_.width / config_.heads; }
  index_t key_value_width() const { return config_.key_value_heads * head_width(); }
  const packed_product<S>& embedding() const { return embedding_; }
  std::span<const S> gain() const { return gain_; }
  const layer& operator[](index_t l) const { return layers_[static_cast<std::size_t>(l)]; }
  attention_shape attention() const {
    return {.query_heads = config_.heads, .key_value_heads = config_.key_value_heads, .width = head_width()};
  }
  /// What one call of the first n layers reads of the weights.
  std::int64_t bytes(index_t n) const {
    std::int64_t b = embedding_.bytes();
    for (index_t l = 0; l < n; ++l)
      b += (*this)[l].qkv.bytes() + (*this)[l].out.bytes() + (*this)[l].up.bytes() + (*this)[l].down.bytes();
    return b;
  }

 private:
  static const transformer_config& checked(const transformer_config& c) {
    constexpr index_t most = index_t{1} << 30;
    const char* const me = "transformer_weights";
    expects(c.vocabulary >= 1 && c.vocabulary < most, me, "vocabulary", c.vocabulary);
    expects(c.width >= 1 && c.width < most, me, "width", c.width);
    expects(c.layers >= 1 && c.layers < most, me, "layers", c.layers);
    expects(c.heads >= 1 && c.width % c.heads == 0 && c.width / c.heads % 2 == 0, me, "heads", c.heads);
    expects(c.key_value_heads >= 1 && c.heads % c.key_value_heads == 0, me, "key_value_heads", c.key_value_heads);
    expects(c.hidden >= 1 && c.hidden < most, me, "hidden", c.hidden);
    expects(c.theta > 0 && std::isfinite(c.theta), me, "theta", c.theta);
    expects(std::isfinite(c.gain), me, "gain", c.gain);
    return c;
  }

  transformer_config config_;
  packed_product<S> embedding_;
  std::vector<S> gain_;
  std::vector<layer> layers_;
};

struct transformer_options {
  index_t layers = 0;       ///< the first so many, then the same head (early exit: a draft of the same family); 0: all
  index_t capacity = 1024;  ///< positions of text for which the cache has room at the start; it doubles when it is full
  /// A call on so many nodes, one chain or a tree of depth up to 16, allocates nothing from the first time on.
  index_t prepared_nodes = 16;
};

namespace detail {
inline constexpr serial one_thread{};
}

/// The transformer as a `sluice::language_model` with rows of logits. A call scores all its new nodes together: one
/// product a weight matrix with as many rows as nodes, so that the weights are read once, and attention of every node
/// over the committed text and its ancestors in the tree. Nodes that are kept move into a paged cache of keys and
/// values; the committed part is never copied or computed again.
///
/// Every logit has the same bits whether a token is scored alone, in a chain, in a tree with others, in a prompt, or
/// after any keep, reset and restart, and on every executor. So greedy decoding with any draft gives the text of greedy
/// decoding without, to the last token.
///
/// Cost of a call with b nodes: flops_per_token for each; memory traffic once the weights and once the cache, for the
/// whole call. No allocation in score and row once as many nodes and branches were held (or prepared); keep and reset
/// allocate when the text outgrows the capacity. The weights (and executor) are not copied and must outlive this
/// object. One object a thread; the executor's threads run the products and the heads.
///
/// Start: score the prompt as a chain (node 0 is its first token) and keep it, or hand it to reset(), which counts
/// nothing. Then score trees from first_new = 1 on: node 0 is the last committed token.
template <std::floating_point S, executor Executor = serial>
class transformer {
 public:
  using scalar = S;

  /// On the calling thread. Throws invalid_argument unless layers is in [0, number of layers], capacity and
  /// prepared_nodes are not negative.
  explicit transformer(const transformer_weights<S>& weights,
                       const transformer_options& options = {}) requires std::same_as<Executor, serial>
      : transformer(weights, options, detail::one_thread) {}
  transformer(const transformer_weights<S>& weights, const transformer_options& options, const Executor& ex)
      : weights_(&weights),
        executor_(&ex),
        config_(cut(weights.config(), options)),
        attend_(weights.attention(), std::max(options.prepared_nodes, prefill_chunk)),
        cache_(weights.attention(), {.layers = config_.layers, .pages = (options.capacity + 63) / 64}),
        text_(cache_.create()) {
    expects(options.prepared_nodes >= 0, "transformer", "prepared_nodes", options.prepared_nodes);
    tokens_.reserve(at(options.capacity));
    prepare(options.prepared_nodes);
  }
  explicit transformer(const transformer_weights<S>&&, const transformer_options& = {}) = delete;  // it would dangle
  transformer(const transformer_weights<S>&&, const transformer_options&, const Executor&) = delete;

  index_t vocabulary_size() const { return config_.vocabulary; }
  /// With the layers that are used.
  const transformer_config& config() const { return config_; }
  const transformer_weights<S>& weights() const { return *weights_; }
  /// The committed text, node 0 included.
  std::span<const token_id> text() const { return tokens_; }
  const paged_cache<S>& cache() const { return cache_; }
  const language_model_counts& counts() const { return counts_; }
  /// All that was computed, prompts included; FLOPs by flops_per_token, bytes of weights and cache that calls read.
  const model_counts& work() const { return work_; }
  void reset_counts() {
    counts_ = {};
    work_ = {};
  }

  /// Scores the nodes from first_new on; nodes from there that were scored before are replaced. With first_new = 0,
  /// node 0 must be the last committed token, or the first token of all if nothing is committed. Throws
  /// invalid_argument, and nothing changes, if token and parent differ in size, first_new is not in [0, number of
  /// scored nodes], a token is not in [0, V), a parent is not before its child, or node 0 is another token.
  void score(const token_tree& tree, index_t first_new) {
    const index_t n = std::ssize(tree.token);
    expects(std::ssize(tree.parent) == n, "score", "tree.parent.size", tree.parent.size());
    expects(first_new >= 0 && first_new <= std::min(n, std::ssize(nodes_)), "score", "first_new", first_new);
    for (index_t i = first_new; i < n; ++i) {
      const token_id token = tree.token[at(i)];
      const index_t parent = tree.parent[at(i)];
      expects(token >= 0 && token < vocabulary_size(), "score", "tree.token", token, i);
      expects(i == 0 ? parent < 0 : parent >= 0 && parent < i, "score", "tree.parent", parent, i);
    }
    if (first_new == 0 && n > 0 && !tokens_.empty())
      expects(tree.token[0] == tokens_.back(), "score", "tree.token", tree.token[0], 0);
    nodes_.resize(at(first_new));
    for (index_t i = first_new; i < n; ++i) {
      const index_t parent = tree.parent[at(i)];
      nodes_.push_back({tree.token[at(i)], parent, i == 0 ? 0 : nodes_[at(parent)].depth + 1, false});
    }
    ++counts_.calls;
    counts_.rows += n - first_new;
    if (first_new == n) return;
    if (first_new == 0 && tokens_.empty()) commit(tree.token[0]);
    grow(tree_keys_, n * config_.layers * key_value_width());
    grow(tree_values_, n * config_.layers * key_value_width());
    grow(logits_, n * vocabulary_size());
    batch_.clear();
    for (index_t i = first_new; i < n; ++i)
      batch_.push_back({nodes_[at(i)].token, std::ssize(tokens_) - 1 + nodes_[at(i)].depth});
    plan_branches(first_new);
    run_layers(first_new);
    head(first_new, 0, n - first_new);
  }

  /// The logits of the token after a scored node, valid until the next score, keep or reset. O(1). Throws
  /// invalid_argument if the node is not scored.
  token_row<S> row(index_t node) {
    expects(node >= 0 && node < std::ssize(nodes_), "row", "node", node);
    counts_.rows_read += !std::exchange(nodes_[at(node)].read, true);
    return {row_kind::logits, std::span<const S>(logits_).subspan(at(node * vocabulary_size()), at(vocabulary_size()))};
  }

  /// Commits the nodes of a path that starts at a child of node 0 (node 0 itself may be named first); the last becomes
  /// node 0, with its row. All others are forgotten. Throws invalid_argument, and nothing changes, if a node is not
  /// scored or not a child of the one before.
  void keep(std::span<const index_t> path) {
    if (!path.empty() && path[0] == 0) path = path.subspan(1);
    index_t last = 0;
    for (std::size_t i = 0; i < path.size(); ++i) {
      expects(path[i] > 0 && path[i] < std::ssize(nodes_) && nodes_[at(path[i])].parent == last, "keep", "path",
              path[i], static_cast<index_t>(i));
      last = path[i];
    }
    if (nodes_.empty()) return;
    for (const index_t node : path) {
      commit(nodes_[at(node)].token);
      for (index_t l = 0; l < config_.layers; ++l)
        cache_.store(text_, l, std::ssize(tokens_) - 1, keys(node, l), values(node, l));
    }
    if (last != 0) {
      std::copy_n(logits_.begin() + last * vocabulary_size(), vocabulary_size(), logits_.begin());
      nodes_[0] = {nodes_[at(last)].token, -1, 0, nodes_[at(last)].read};
    }
    nodes_.resize(1);
  }

  /// Forgets everything and commits `text`; its last token is node 0, scored but not counted. What the text has in
  /// common with the committed one is not computed again. The rest goes through the model 32 tokens at a time. Throws
  /// invalid_argument, and nothing changes, if a token is not in [0, V).
  void reset(std::span<const token_id> text = {}) {
    for (std::size_t i = 0; i < text.size(); ++i)
      expects(text[i] >= 0 && text[i] < vocabulary_size(), "reset", "text", text[i], static_cast<index_t>(i));
    index_t common = 0;
    while (common < std::ssize(text) - 1 && common < std::ssize(tokens_) && text[at(common)] == tokens_[at(common)])
      ++common;
    nodes_.clear();
    tokens_.resize(at(common));
    cache_.truncate(text_, common);
    for (index_t first = common; first < std::ssize(text); first += prefill_chunk) {
      const index_t count = std::min(prefill_chunk, std::ssize(text) - first);
      batch_.clear();
      for (index_t i = first; i < first + count; ++i) {
        commit(text[at(i)]);
        batch_.push_back({text[at(i)], i});
      }
      run_layers(-1);
      if (first + count < std::ssize(text)) continue;
      grow(logits_, vocabulary_size());
      head(0, count - 1, 1);
      nodes_.push_back({text.back(), -1, 0, false});
    }
  }

 private:
  using panel = key_panel<S>;
  struct scored_node {
    token_id token;
    index_t parent, depth;
    bool read;
  };
  struct position_of_token {
    token_id token;
    index_t position;
  };
  /// Panels that continue the committed text along a path of the tree, rebuilt for each layer. A node that is the first
  /// to extend its parent's branch joins it; it sees the branch up to its own depth.
  struct branch {
    index_t depth;  // nodes
  };
  static constexpr index_t prefill_chunk = 32;

  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
  template <class V>
  static void grow(V& v, index_t n) {
    if (std::ssize(v) < n) v.resize(at(n));
  }
  static transformer_config cut(transformer_config c, const transformer_options& options) {
    expects(options.layers >= 0 && options.layers <= c.layers, "transformer", "layers", options.layers);
    expects(options.capacity >= 0, "transformer", "capacity", options.capacity);
    if (options.layers > 0) c.layers = options.layers;
    return c;
  }
  index_t head_width() const { return config_.width / config_.heads; }
  index_t key_value_width() const { return config_.key_value_heads * head_width(); }

  void prepare(index_t n) {
    const index_t depth_panels = n / panel_positions + 2;  // of one chain; a branch of depth 16 has two
    nodes_.reserve(at(n + 1));
    batch_.reserve(at(std::max(n, prefill_chunk)));
    node_branch_.reserve(at(n + 1));
    extended_.reserve(at(n + 1));
    branches_.reserve(at(n));
    grow(column_, panel_positions * n);
    grow(branch_store_, std::max(2 * n, depth_panels) * cache_.layout().size());
    shared_.reserve(at(cache_.panels_of(cache_.pages() * cache_.page_positions())));
    panels_.reserve(at(std::max(n, prefill_chunk) * depth_panels));
    own_.reserve(at(std::max(n, prefill_chunk)));
    grow(tree_keys_, (n + 1) * config_.layers * key_value_width());
    grow(tree_values_, (n + 1) * config_.layers * key_value_width());
    grow(logits_, (n + 1) * vocabulary_size());
    grow_buffers(std::max(n, prefill_chunk));
  }
  void grow_buffers(index_t b) {
    const index_t d = config_.width, kv = key_value_width(), f = config_.hidden;
    grow(x_, b * d);
    grow(normed_, b * d);
    grow(qkv_, b * (d + 2 * kv));
    grow(query_, b * d);
    grow(key_, b * kv);
    grow(attended_, b * d);
    grow(up_, b * 2 * f);
    grow(gated_, b * f);
    grow(turn_, b * head_width());
  }

  /// Appends a token to the text, with room for its keys and values in the cache.
  void commit(token_id token) {
    while (!cache_.append(text_, 1)) cache_.reserve(std::max<index_t>(2 * cache_.pages(), 1));
    tokens_.push_back(token);
  }

  std::span<const S> keys(index_t node, index_t l) const {
    return std::span(tree_keys_).subspan(at((node * config_.layers + l) * key_value_width()), at(key_value_width()));
  }
  std::span<const S> values(index_t node, index_t l) const {
    return std::span(tree_values_).subspan(at((node * config_.layers + l) * key_value_width()), at(key_value_width()));
  }

  /// Assigns the new nodes (but node 0, which is in the cache) to branches and notes which node is at which depth.
  void plan_branches(index_t first_new) {
    branches_.clear();
    node_branch_.assign(nodes_.size(), -1);
    extended_.assign(nodes_.size(), 0);
    deepest_ = 0;
    for (const scored_node& node : nodes_) deepest_ = std::max(deepest_, node.depth);
    for (index_t i = std::max<index_t>(first_new, 1); i < std::ssize(nodes_); ++i) {
      const index_t parent = nodes_[at(i)].parent, depth = nodes_[at(i)].depth;
      if (node_branch_[at(parent)] >= 0 && !extended_[at(parent)]) {
        node_branch_[at(i)] = node_branch_[at(parent)];
        extended_[at(parent)] = 1;
      } else {
        node_branch_[at(i)] = std::ssize(branches_);
        branches_.push_back({});
        grow(column_, std::ssize(branches_) * deepest_);
        for (index_t k = parent; k > 0; k = nodes_[at(k)].parent)
          column_[at(node_branch_[at(i)] * deepest_ + nodes_[at(k)].depth - 1)] = k;
      }
      branches_[at(node_branch_[at(i)])].depth = depth;
      column_[at(node_branch_[at(i)] * deepest_ + depth - 1)] = i;
    }
    branch_panels_ = (std::ssize(tokens_) % panel_positions + deepest_ + panel_positions - 1) / panel_positions;
    grow(branch_store_, std::ssize(branches_) * branch_panels_ * cache_.layout().size());
  }

  /// The panels of the branches in one layer: the positions of the cache's last panel, then the nodes.
  void build_branches(index_t l) {
    const panel_layout& layout = cache_.layout();
    const index_t used = std::ssize(tokens_) % panel_positions;
    for (index_t b = 0; b < std::ssize(branches_); ++b) {
      S* first = branch_store_.data() + b * branch_panels_ * layout.size();
      if (used > 0) std::copy_n(last_panel_, layout.size(), first);
      for (index_t k = 0; k < branches_[at(b)].depth; ++k) {
        const index_t node = column_[at(b * deepest_ + k)];
        layout.store(first + (used + k) / panel_positions * layout.size(), (used + k) % panel_positions,
                     keys(node, l).data(), values(node, l).data());
      }
    }
  }

  /// What each token of the batch sees in layer l: shared_ and own_. first_node < 0: the batch is the end of the
  /// committed text.
  void list_panels(index_t l, index_t first_node) {
    const index_t n = std::ssize(tokens_), b = std::ssize(batch_), size = cache_.layout().size();
    shared_.resize(at(cache_.panels_of(n)));
    cache_.list_panels(shared_, text_, l, n);
    panels_.clear();
    if (first_node < 0) {
      const index_t whole = (n - b) / panel_positions;
      for (const position_of_token& t : batch_)
        for (index_t k = whole; k * panel_positions <= t.position; ++k)
          panels_.push_back({shared_[at(k)].data, 0, std::min(panel_positions, t.position + 1 - k * panel_positions)});
      share_out([&](index_t i) { return batch_[at(i)].position / panel_positions + 1 - whole; });
      shared_.resize(at(whole));
      return;
    }
    const index_t whole = n / panel_positions, used = n % panel_positions;
    last_panel_ = used > 0 ? shared_.back().data : nullptr;
    build_branches(l);
    const auto panels_seen = [&](index_t i) {
      return (used + nodes_[at(first_node + i)].depth + panel_positions - 1) / panel_positions;
    };
    for (index_t i = 0; i < b; ++i) {
      const index_t mine = node_branch_[at(first_node + i)], seen = used + nodes_[at(first_node + i)].depth;
      for (index_t k = 0; k < panels_seen(i); ++k)
        panels_.push_back({mine < 0 ? last_panel_ : branch_store_.data() + (mine * branch_panels_ + k) * size, 0,
                           std::min(panel_positions, seen - k * panel_positions)});
    }
    share_out(panels_seen);
    shared_.resize(at(whole));
  }
  template <class Count>
  void share_out(Count&& count) {
    own_.clear();
    const panel* next = panels_.data();
    for (index_t i = 0; i < std::ssize(batch_); ++i) {
      own_.emplace_back(next, at(count(i)));
      next += own_.back().size();
    }
  }

  /// x_ becomes the last hidden state of every token of the batch. first_node: the tree's node of the first token, or
  /// -1 if the batch is the end of the committed text.
  void run_layers(index_t first_node) {
    const index_t b = std::ssize(batch_), d = config_.width, kv = key_value_width(), f = config_.hidden;
    const std::size_t bd = at(b * d);
    grow_buffers(b);
    for (index_t i = 0; i < b; ++i) {
      for (index_t c = 0; c < d; ++c) x_[at(i * d + c)] = weights_->embedding()(batch_[at(i)].token, c);
      turn_angles(i);
    }
    for (index_t l = 0; l < config_.layers; ++l) {
      const auto& w = (*weights_)[l];
      normalise(w.attention_gain, 0, b);
      w.qkv.multiply(std::span(qkv_).first(at(b * (d + 2 * kv))), std::span<const S>(normed_).first(bd), b, *executor_);
      for (index_t i = 0; i < b; ++i) {
        const S* row = qkv_.data() + i * (d + 2 * kv);
        turn(query_.data() + i * d, row, i, config_.heads);
        turn(key_.data() + i * kv, row + d, i, config_.key_value_heads);
        store(l, i, first_node, key_.data() + i * kv, row + d + kv);
      }
      list_panels(l, first_node);
      attend_(std::span(attended_).first(bd), {}, std::span<const S>(query_).first(bd), shared_, own_, *executor_);
      w.out.multiply(std::span(normed_).first(bd), std::span<const S>(attended_).first(bd), b, *executor_);
      for (std::size_t i = 0; i < bd; ++i) x_[i] += normed_[i];
      normalise(w.feed_forward_gain, 0, b);
      w.up.multiply(std::span(up_).first(at(b * 2 * f)), std::span<const S>(normed_).first(bd), b, *executor_);
      for (index_t i = 0; i < b; ++i) gate(gated_.data() + i * f, up_.data() + i * 2 * f, f);
      w.down.multiply(std::span(normed_).first(bd), std::span<const S>(gated_).first(at(b * f)), b, *executor_);
      for (std::size_t i = 0; i < bd; ++i) x_[i] += normed_[i];
    }
    ++work_.calls;
    work_.rows += b;
    for (const position_of_token& t : batch_) work_.flops += flops_per_token(config_, t.position + 1);
    work_.bytes += static_cast<double>(weights_->bytes(config_.layers)) +
                   static_cast<double>(std::ssize(tokens_)) *
                       static_cast<double>(key_value_bytes_per_token(config_, static_cast<std::int64_t>(sizeof(S))));
  }

  /// Keys and values of token i of the batch: into the cache if it is committed, else beside its node.
  void store(index_t l, index_t i, index_t first_node, const S* key, const S* value) {
    const index_t kv = key_value_width(), node = first_node + i;
    if (first_node < 0 || node == 0) {
      cache_.store(text_, l, batch_[at(i)].position, {key, at(kv)}, {value, at(kv)});
    } else {
      std::copy_n(key, kv, tree_keys_.begin() + (node * config_.layers + l) * kv);
      std::copy_n(value, kv, tree_values_.begin() + (node * config_.layers + l) * kv);
    }
  }

  /// logits of node `node`, ... from the rows first, ..., first + n - 1 of x_.
  void head(index_t node, index_t first, index_t n) {
    const index_t d = config_.width, v = vocabulary_size();
    normalise(weights_->gain(), first, n);
    weights_->embedding().multiply(std::span(logits_).subspan(at(node * v), at(n * v)),
                                   std::span<const S>(normed_).first(at(n * d)), n, *executor_);
  }

  /// normed_ = RMS(x) g for n rows of x_. Sums in 16 chains, so that the order does not depend on where a row lies.
  void normalise(std::span<const S> gain, index_t first, index_t n) {
    const index_t d = config_.width;
    for (index_t i = 0; i < n; ++i) {
      const S* x = x_.data() + (first + i) * d;
      S* out = normed_.data() + i * d;
      S part[16] = {};
      index_t c = 0;
      for (; c + 16 <= d; c += 16)
        for (index_t k = 0; k < 16; ++k) part[k] += x[c + k] * x[c + k];
      for (; c < d; ++c) part[c % 16] += x[c] * x[c];
      double sum = 0;
      for (const S p : part) sum += static_cast<double>(p);
      const S factor = static_cast<S>(1 / std::sqrt(sum / static_cast<double>(d) + 1e-5));
      for (c = 0; c < d; ++c) out[c] = x[c] * factor * gain[at(c)];
    }
  }

  /// Cosines and sines of token i of the batch: position theta^(-2k/d_h), k < d_h/2.
  void turn_angles(index_t i) {
    const index_t half = head_width() / 2;
    for (index_t k = 0; k < half; ++k) {
      const double angle = static_cast<double>(batch_[at(i)].position) *
                           std::pow(config_.theta, -2 * static_cast<double>(k) / static_cast<double>(head_width()));
      turn_[at(2 * i * half + k)] = static_cast<S>(std::cos(angle));
      turn_[at((2 * i + 1) * half + k)] = static_cast<S>(std::sin(angle));
    }
  }
  /// out = x with the pairs (k, k + d_h/2) of each head turned by the angles of token i.
  void turn(S* out, const S* x, index_t i, index_t heads) const {
    const index_t half = head_width() / 2;
    const S *c = turn_.data() + 2 * i * half, *s = c + half;
    for (index_t h = 0; h < heads; ++h, x += 2 * half, out += 2 * half)
      for (index_t k = 0; k < half; ++k) {
        const S a = x[k], b = x[k + half];
        out[k] = a * c[k] - b * s[k];
        out[k + half] = a * s[k] + b * c[k];
      }
  }
  /// out = silu(a) b with a the first f elements of x and b the others.
  static void gate(S* out, const S* x, index_t f) {
    for (index_t c = 0; c < f; ++c) out[c] = -x[c];
    if constexpr (std::same_as<S, float>)
      sluice::detail::exp_block(out, out, f, S{0});  // above 88 the value at 88: silu is 0 to float precision there
    else
      for (index_t c = 0; c < f; ++c) out[c] = std::exp(out[c]);
    for (index_t c = 0; c < f; ++c) out[c] = x[c] / (1 + out[c]) * x[f + c];
  }

  const transformer_weights<S>* weights_;
  const Executor* executor_;
  transformer_config config_;  // with the layers used
  block_attention<S> attend_;
  paged_cache<S> cache_;
  index_t text_;  // the sequence of the cache that holds tokens_
  std::vector<token_id> tokens_;
  std::vector<scored_node> nodes_;
  std::vector<S> tree_keys_, tree_values_, logits_;  // by node and layer; by node
  std::vector<position_of_token> batch_;
  std::vector<branch> branches_;
  std::vector<index_t> node_branch_, column_;
  std::vector<char> extended_;
  index_t deepest_ = 0, branch_panels_ = 0;
  const S* last_panel_ = nullptr;  // of the cache, if it is not full
  std::vector<S> branch_store_;
  std::vector<panel> shared_, panels_;
  std::vector<std::span<const panel>> own_;
  std::vector<S> x_, normed_, qkv_, query_, key_, attended_, up_, gated_, turn_;
  language_model_counts counts_;
  model_counts work_;
};

}  // namespace sluice::models
