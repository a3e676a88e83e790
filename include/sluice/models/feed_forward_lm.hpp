#pragma once
#include <sluice/core/executor.hpp>
#include <sluice/core/exp_block.hpp>
#include <sluice/core/expects.hpp>
#include <sluice/core/status.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/kernels/packed_product.hpp>
#include <sluice/models/adam.hpp>
#include <sluice/models/draws.hpp>
#include <sluice/models/ngram_language_model.hpp>
#include <sluice/random/distributions.hpp>
#include <sluice/random/stream.hpp>
#include <sluice/speculate/language_model.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

/// Unstable: for tests, benchmarks and examples; no compatibility is promised.
///
/// A feed-forward language model, trained in place on the user's text: a target whose cost is real, because every call
/// has to read all its weights.
///     x = (e[t_1], ..., e[t_n], 1),   h = tanh(A x),   logits = B (h, 1),   t_1 the last token, t_2 the one before,
///     ...
/// n = context. Where the text has not begun, e is the zero vector. The last columns of A and B are the biases.
/// Source: Bengio, Ducharme, Vincent, Jauvin, "A neural probabilistic language model", JMLR 3 (2003). Differs: no
/// direct connections from x to the logits; Adam.
namespace sluice::models {

namespace detail {

/// out[i] = tanh(x[i]), each element by the same operations wherever it lies: rows must not depend on the batch.
/// Floats: 1 - 2 / (exp(2 x) + 1), absolute error below 2e-7; doubles: std::tanh. out may not be x.
inline void tanh_block(double* out, const double* x, index_t n) {
  for (index_t i = 0; i < n; ++i) out[i] = std::tanh(x[i]);
}
inline void tanh_block(float* out, const float* x, index_t n) {
  using sluice::detail::float_packet;
  using sluice::detail::packet_size;
  float padded[packet_size] = {};
  const bool is_short = n < packet_size;
  if (is_short) std::memcpy(padded, x, static_cast<std::size_t>(n) * sizeof(float));
  const float* from = is_short ? padded : x;
  float* to = is_short ? padded : out;
  const index_t last = is_short ? 0 : n - packet_size;
  // the last packet overlaps the one before, so that there is one copy of the code
  for (index_t i = 0;; i = std::min(i + packet_size, last)) {
    float_packet v;
    std::memcpy(&v, from + i, sizeof v);
    v += v;
    sluice::detail::exp_in_place(v);
    v = 1.0f - 2.0f / (v + 1.0f);
    std::memcpy(to + i, &v, sizeof v);
    if (i == last) break;
  }
  if (is_short) std::memcpy(out, padded, static_cast<std::size_t>(n) * sizeof(float));
}

}  // namespace detail

/// Sizes of a `feed_forward_lm`.
struct feed_forward_options {
  index_t context = 4;     ///< tokens that it looks back; at least 1
  index_t embedding = 48;  ///< length of a token's vector; at least 1
  index_t hidden = 512;    ///< at least 1
  std::uint64_t seed = 1;  ///< of the initial weights: streams (seed, 0x310 ... 0x312)
};

/// Options of `feed_forward_lm::train`.
struct feed_forward_training {
  int passes = 1;               ///< over all positions of the text, each in another order; at least 0
  index_t batch = 256;          ///< positions in a step; at least 1
  double learning_rate = 6e-3;  ///< the largest; it rises linearly in the first `warmup` steps and falls to 0 linearly
  index_t warmup = 50;          ///< steps; at least 0
  adam_options adam{};
  std::uint64_t seed = 1;  ///< of the orders: pass k is shuffled by the stream (seed, 0x318 + k)
};

/// What training did. `status` is diverged if a loss was not finite; the weights are then those before that step.
struct feed_forward_report {
  sluice::status status = sluice::status::completed;
  std::int64_t steps = 0;
  std::vector<double> bits;  ///< of each pass: mean of -log2 P of a token, by the weights of the moment
};

/// The weights, their gradient, or a moment of it: matrices stored by rows.
template <std::floating_point S>
struct feed_forward_parameters {
  using matrix = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  matrix embedding;  ///< V x embedding
  matrix hidden;     ///< hidden x (context embedding + 1)
  matrix output;     ///< V x (hidden + 1)

  static feed_forward_parameters zeros(index_t vocabulary_size, const feed_forward_options& o) {
    return {matrix::Zero(vocabulary_size, o.embedding), matrix::Zero(o.hidden, o.context * o.embedding + 1),
            matrix::Zero(vocabulary_size, o.hidden + 1)};
  }
  index_t size() const { return embedding.size() + hidden.size() + output.size(); }
};

/// Weights and training. Double for tests of the gradient, float for use. A `context_model`: row() and probability()
/// are one position at a time; for speed see `feed_forward_language_model`. Training changes the object; everything
/// else may be shared by threads. Memory: the weights; while training four times that, and batch (V + 3 hidden)
/// numbers.
template <std::floating_point S = float>
class feed_forward_lm {
 public:
  using scalar = S;
  using parameters = feed_forward_parameters<S>;
  using matrix = typename parameters::matrix;

  /// Normals, drawn row by row: the embedding with standard deviation 0.1 (Adam moves all weights by about the same
  /// step, so that vectors of length 1 learn slowly: 0.6 bits a token worse after one pass), A with 3 (context
  /// embedding)^(-1/2), B with hidden^(-1/2) / 10; biases 0. Throws invalid_argument unless vocabulary_size is in 1 ...
  /// 2^31 - 1 and the options are in range.
  explicit feed_forward_lm(index_t vocabulary_size, const feed_forward_options& options = {}) : options_(options) {
    constexpr const char* me = "feed_forward_lm";
    expects(vocabulary_size >= 1 && vocabulary_size <= std::numeric_limits<token_id>::max(), me, "vocabulary_size",
            vocabulary_size);
    expects(options.context >= 1, me, "options.context", options.context);
    expects(options.embedding >= 1, me, "options.embedding", options.embedding);
    expects(options.hidden >= 1, me, "options.hidden", options.hidden);
    weights_ = parameters::zeros(vocabulary_size, options);
    const auto n_inputs = options.context * options.embedding;
    fill(weights_.embedding, options.embedding, 0.1, 0);
    fill(weights_.hidden, n_inputs, 3 / std::sqrt(static_cast<double>(n_inputs)), 1);
    fill(weights_.output, options.hidden, 0.1 / std::sqrt(static_cast<double>(options.hidden)), 2);
  }

  index_t vocabulary_size() const { return weights_.embedding.rows(); }
  index_t context_length() const { return options_.context; }
  const feed_forward_options& options() const { return options_; }
  const parameters& weights() const { return weights_; }
  /// To load weights from elsewhere. The sizes must stay as they are.
  parameters& weights() { return weights_; }

  /// Mean of -ln P(text[p] | tokens before) over the positions, and its gradient in `out`, which gets the weights'
  /// sizes. The same bits on every executor. Throws invalid_argument if there are no positions, a position is not in
  /// [0, text.size()) or a token not in [0, V).
  template <executor Executor = serial>
  double gradient(parameters& out, std::span<const token_id> text, std::span<const index_t> positions,
                  const Executor& ex = {}) const {
    check(text, "gradient");
    expects(!positions.empty(), "gradient", "positions.size", 0);
    for (index_t i = 0; i < std::ssize(positions); ++i) {
      const index_t p = positions[static_cast<std::size_t>(i)];
      expects(p >= 0 && p < std::ssize(text), "gradient", "positions", p, i);
    }
    workspace w(*this, std::ssize(positions));
    const double loss = w.backward(*this, text, positions, ex);
    out = parameters::zeros(vocabulary_size(), options_);
    w.for_each_part(out, text, positions, ex, [](auto&&...) {});
    return loss;
  }

  /// Adam on mini-batches of the softmax cross-entropy. The output biases start at the logarithms of the tokens'
  /// frequencies (plus one half), so that the first law is the unigram law. Deterministic: the same bits on every
  /// executor. O(passes text.size() V hidden); 300,000 tokens, V = 2048, hidden 512 on two cores with AVX-512 in 14 s.
  /// Throws invalid_argument, nothing changed, if an option is out of range or a token not in [0, V).
  template <executor Executor = serial>
  feed_forward_report train(std::span<const token_id> text, const feed_forward_training& options = {},
                            const Executor& ex = {}) {
    constexpr const char* me = "train";
    check(text, me);
    expects(options.passes >= 0, me, "options.passes", options.passes);
    expects(options.batch >= 1, me, "options.batch", options.batch);
    expects(options.learning_rate >= 0 && std::isfinite(options.learning_rate), me, "options.learning_rate",
            options.learning_rate);
    expects(options.warmup >= 0, me, "options.warmup", options.warmup);
    adam_step<S>({}, {}, {}, {}, 1, 0, options.adam);  // checks its options
    feed_forward_report report;
    if (text.empty() || options.passes == 0) return report;
    start_at_unigrams(text);
    const index_t n = std::ssize(text), batch = std::min(options.batch, n);
    const double n_steps = static_cast<double>((n + batch - 1) / batch) * options.passes;
    parameters g = parameters::zeros(vocabulary_size(), options_), m = g, v = g;
    workspace w(*this, batch);
    std::vector<index_t> order(text.size());
    for (int pass = 0; pass < options.passes; ++pass) {
      std::iota(order.begin(), order.end(), index_t{0});
      cursor random(stream(options.seed, stream_id::feed_forward + 8 + static_cast<std::uint64_t>(pass)));
      shuffle(std::span<index_t>(order), random);
      double nats = 0;
      for (index_t first = 0; first < n; first += batch) {
        const auto positions = std::span<const index_t>(order).subspan(
            static_cast<std::size_t>(first), static_cast<std::size_t>(std::min(batch, n - first)));
        const double loss = w.backward(*this, text, positions, ex);
        if (!std::isfinite(loss)) {
          report.status = status::diverged;
          return report;
        }
        nats += loss * static_cast<double>(positions.size());
        const double t = static_cast<double>(report.steps), warmup = static_cast<double>(options.warmup);
        const double rate = options.learning_rate * std::min(1.0, (t + 1) / (warmup + 1)) * (1 - t / n_steps);
        ++report.steps;
        w.for_each_part(g, text, positions, ex, [&](auto member, index_t first_row, index_t rows) {
          const auto part = [&](auto& p) {
            auto& a = p.*member;
            return std::span<S>(a.data() + first_row * a.cols(), static_cast<std::size_t>(rows * a.cols()));
          };
          adam_step<S>(part(weights_), part(m), part(v), part(g), report.steps, rate, options.adam);
        });
      }
      report.bits.push_back(nats / static_cast<double>(n) / std::log(2.0));
    }
    return report;
  }

  /// The law of the token after `context` (text order, the newest last; tokens beyond context_length() do not matter).
  /// O(V hidden). Throws invalid_argument if out.size() is not V or a token that matters is not in [0, V).
  void row(std::span<double> out, std::span<const token_id> context) const {
    expects(std::ssize(out) == vocabulary_size(), "feed_forward_lm::row", "out.size", out.size());
    const auto logits = logits_after(context, "feed_forward_lm::row");
    const double top = logits.maxCoeff(), total = (logits - top).exp().sum();
    Eigen::Map<Eigen::ArrayXd>(out.data(), std::ssize(out)) = (logits - top).exp() / total;
  }
  /// The same number as row() gives for one token, at the same cost. Throws as row().
  double probability(token_id token, std::span<const token_id> context) const {
    expects(token >= 0 && token < vocabulary_size(), "feed_forward_lm::probability", "token", token);
    const auto logits = logits_after(context, "feed_forward_lm::probability");
    const double top = logits.maxCoeff();
    return std::exp(logits(token) - top) / (logits - top).exp().sum();
  }
  /// Mean of -log2 P of text[first], text[first + 1], ..., in blocks of products; 0 if there are none. The same bits on
  /// every executor. Throws invalid_argument if first is not in [0, text.size()] or a token not in [0, V).
  template <executor Executor = serial>
  double bits_per_token(std::span<const token_id> text, index_t first = 0, const Executor& ex = {}) const {
    check(text, "bits_per_token");
    expects(first >= 0 && first <= std::ssize(text), "bits_per_token", "first", first);
    constexpr index_t block = 1024;
    const index_t n = std::ssize(text) - first;
    if (n == 0) return 0;
    workspace w(*this, std::min(block, n));
    std::vector<index_t> positions;
    double nats = 0;
    for (index_t done = 0; done < n; done += block) {
      positions.resize(static_cast<std::size_t>(std::min(block, n - done)));
      std::iota(positions.begin(), positions.end(), first + done);
      nats += w.forward(*this, text, positions, ex) * static_cast<double>(positions.size());
    }
    return nats / static_cast<double>(n) / std::log(2.0);
  }

 private:
  /// Positions of one chunk: large enough for the products, small enough for two chunks in a batch.
  static constexpr index_t chunk_rows = 128;
  /// Rows of a weight matrix whose gradient is one chunk.
  static constexpr index_t part_rows = 256;

  /// What one batch needs, by position: inputs, hidden values, the derivative by the logits, by the sums before tanh
  /// and by the inputs. Chunks of positions are fixed, and so are chunks of weights: hence the same bits on every
  /// executor.
  struct workspace {
    matrix x, h, logits, sums, inputs;
    std::vector<double> loss;  // of each chunk
    workspace(const feed_forward_lm& lm, index_t n) {
      const index_t v = lm.vocabulary_size(), n_hidden = lm.options_.hidden;
      const index_t n_inputs = lm.options_.context * lm.options_.embedding;
      x = matrix::Ones(n, n_inputs + 1);
      h = matrix::Ones(n, n_hidden + 1);
      logits.resize(n, v);
      sums.resize(n, n_hidden);
      inputs.resize(n, n_inputs);
      loss.resize(static_cast<std::size_t>((n + chunk_rows - 1) / chunk_rows));
    }

    /// Mean loss; logits holds its derivative by the logits.
    template <bool Backward, class Executor>
    double run(const feed_forward_lm& lm, std::span<const token_id> text, std::span<const index_t> positions,
               const Executor& ex) {
      const index_t n = std::ssize(positions), n_chunks = (n + chunk_rows - 1) / chunk_rows;
      const auto& weights = lm.weights_;
      const index_t n_hidden = lm.options_.hidden, n_inputs = weights.hidden.cols() - 1;
      ex.for_each(n_chunks, [&](index_t c) {
        const index_t first = c * chunk_rows, rows = std::min(chunk_rows, n - first);
        for (index_t i = first; i < first + rows; ++i)
          lm.gather(&x(i, 0), text, positions[static_cast<std::size_t>(i)]);
        auto a = sums.middleRows(first, rows);
        auto z = logits.middleRows(first, rows);
        a.noalias() = x.middleRows(first, rows) * weights.hidden.transpose();
        for (index_t i = first; i < first + rows; ++i) detail::tanh_block(&h(i, 0), &sums(i, 0), n_hidden);
        z.noalias() = h.middleRows(first, rows) * weights.output.transpose();
        double sum = 0;
        for (index_t i = first; i < first + rows; ++i)
          sum += softmax_loss(&logits(i, 0), logits.cols(), text[at(positions, i)],
                              static_cast<S>(1.0 / static_cast<double>(n)));
        loss[static_cast<std::size_t>(c)] = sum;
        if constexpr (Backward) {
          a.noalias() = z * weights.output.leftCols(n_hidden);
          a.array() *= 1 - h.block(first, 0, rows, n_hidden).array().square();
          inputs.middleRows(first, rows).noalias() = a * weights.hidden.leftCols(n_inputs);
        }
      });
      return std::accumulate(loss.begin(), loss.begin() + n_chunks, 0.0) / static_cast<double>(n);
    }
    template <class Executor>
    double backward(const feed_forward_lm& lm, std::span<const token_id> text, std::span<const index_t> positions,
                    const Executor& ex) {
      return run<true>(lm, text, positions, ex);
    }
    template <class Executor>
    double forward(const feed_forward_lm& lm, std::span<const token_id> text, std::span<const index_t> positions,
                   const Executor& ex) {
      return run<false>(lm, text, positions, ex);
    }

    /// Writes the gradient part by part and calls done(member, first row, rows) for each when it is there.
    template <class Executor, class Done>
    void for_each_part(parameters& out, std::span<const token_id> text, std::span<const index_t> positions,
                       const Executor& ex, Done&& done) {
      const index_t n = std::ssize(positions);
      const index_t output_parts = (out.output.rows() + part_rows - 1) / part_rows;
      const index_t hidden_parts = (out.hidden.rows() + part_rows - 1) / part_rows;
      ex.for_each(1 + output_parts + hidden_parts, [&](index_t part) {
        if (part == 0) {  // rows of the embedding are added to in the order of the positions
          const index_t d = out.embedding.cols(), context = inputs.cols() / d;
          out.embedding.setZero();
          for (index_t i = 0; i < n; ++i) {
            const index_t p = positions[static_cast<std::size_t>(i)];
            for (index_t j = 0; j < std::min(context, p); ++j)
              out.embedding.row(text[static_cast<std::size_t>(p - 1 - j)]) += inputs.row(i).segment(j * d, d);
          }
          done(&parameters::embedding, index_t{0}, out.embedding.rows());
        } else if (part <= output_parts) {
          const index_t first = (part - 1) * part_rows, rows = std::min(part_rows, out.output.rows() - first);
          out.output.middleRows(first, rows).noalias() =
              logits.topRows(n).middleCols(first, rows).transpose() * h.topRows(n);
          done(&parameters::output, first, rows);
        } else {
          const index_t first = (part - 1 - output_parts) * part_rows,
                        rows = std::min(part_rows, out.hidden.rows() - first);
          out.hidden.middleRows(first, rows).noalias() =
              sums.topRows(n).middleCols(first, rows).transpose() * x.topRows(n);
          done(&parameters::hidden, first, rows);
        }
      });
    }
    static std::size_t at(std::span<const index_t> positions, index_t i) {
      return static_cast<std::size_t>(positions[static_cast<std::size_t>(i)]);
    }
  };

  /// -ln P(token); z becomes scale (P - [token]), the derivative by the logits.
  static double softmax_loss(S* z, index_t n, token_id token, S scale) {
    Eigen::Map<Eigen::Array<S, Eigen::Dynamic, 1>> row(z, n);
    const S top = row.maxCoeff();
    const double chosen = static_cast<double>(z[token] - top);
    double total = 0;
    constexpr index_t block = 512;  // partial sums in S stay short
    for (index_t i = 0; i < n; i += block) {
      const index_t size = std::min(block, n - i);
      sluice::detail::exp_block(z + i, z + i, size, top);
      total += static_cast<double>(row.segment(i, size).sum());
    }
    row *= static_cast<S>(static_cast<double>(scale) / total);
    z[token] -= scale;
    return std::log(total) - chosen;
  }

  void gather(S* x, std::span<const token_id> text, index_t position) const {
    const index_t d = options_.embedding;
    for (index_t j = 0; j < options_.context; ++j) {
      if (position - 1 - j < 0)
        std::fill_n(x + j * d, d, S{0});
      else
        std::copy_n(&weights_.embedding(text[static_cast<std::size_t>(position - 1 - j)], 0), d, x + j * d);
    }
  }

  Eigen::ArrayXd logits_after(std::span<const token_id> context, const char* function) const {
    const index_t n = std::ssize(context), used = std::min(n, options_.context), n_inputs = weights_.hidden.cols() - 1;
    for (index_t j = n - used; j < n; ++j) {
      const token_id t = context[static_cast<std::size_t>(j)];
      expects(t >= 0 && t < vocabulary_size(), function, "context", t, j);
    }
    Eigen::Matrix<S, Eigen::Dynamic, 1> x(n_inputs + 1), a(options_.hidden), h(options_.hidden + 1);
    gather(x.data(), context.last(static_cast<std::size_t>(used)), used);
    x(n_inputs) = 1;
    a.noalias() = weights_.hidden * x;
    detail::tanh_block(h.data(), a.data(), options_.hidden);
    h(options_.hidden) = 1;
    return (weights_.output * h).template cast<double>().array();
  }

  void fill(matrix& m, index_t cols, double sd, std::uint64_t id) const {
    cursor random(stream(options_.seed, stream_id::feed_forward + id));
    m.leftCols(cols) = (sd * normal_matrix(m.rows(), cols, random)).template cast<S>();
  }
  void check(std::span<const token_id> text, const char* function) const {
    for (index_t i = 0; i < std::ssize(text); ++i) {
      const token_id t = text[static_cast<std::size_t>(i)];
      expects(t >= 0 && t < vocabulary_size(), function, "text", t, i);
    }
  }
  void start_at_unigrams(std::span<const token_id> text) {
    Eigen::ArrayXd count = Eigen::ArrayXd::Constant(vocabulary_size(), 0.5);
    for (const token_id t : text) count(t) += 1;
    weights_.output.col(options_.hidden) = (count / count.sum()).log().matrix().template cast<S>();
  }

  feed_forward_options options_;
  parameters weights_;
};

/// A trained model as a `language_model`: a target of which one call on b positions reads every weight once. score()
/// computes all new nodes of a tree together: their last `context` tokens are gathered, then one packed_product each
/// for the hidden values and for the logits. Rows are views of float (S) logits, valid until the next score, keep or
/// reset. The bits of a row depend on its context only, not on what is scored beside it nor on the executor. The
/// weights are copied and packed (4 bytes a weight), the executor is not copied. One object a thread; no allocation
/// once as many nodes were scored in a tree as before.
///
/// Start: hand the text to reset(), which makes its last token node 0, or score it as a chain and keep it; then score
/// trees from first_new = 1 on, or from 0 to have the row of node 0 computed too.
/// Measured, V = 2048, hidden 512 (4.6 MB), one core of Zen 4: a call on one position 49 microseconds, on 2, 3, 4, 5, 8
/// positions 1.03, 1.26, 1.66, 2.07, 3.32 times that; from the third position on arithmetic, not memory, is the limit.
template <std::floating_point S = float, executor Executor = serial>
class feed_forward_language_model {
 public:
  using scalar = S;

  explicit feed_forward_language_model(const feed_forward_lm<S>& lm) requires std::same_as<Executor, serial>
      : feed_forward_language_model(lm, on_this_thread) {}
  feed_forward_language_model(const feed_forward_lm<S>& lm, const Executor& ex)
      : executor_(&ex), context_(lm.options().context), embedding_(lm.weights().embedding) {
    const auto &a = lm.weights().hidden, &b = lm.weights().output;
    const index_t n_inputs = a.cols() - 1, n_hidden = b.cols() - 1;
    const typename feed_forward_lm<S>::matrix from_inputs = a.leftCols(n_inputs), from_hidden = b.leftCols(n_hidden);
    const auto view = [](const auto& m) { return std::span(m.data(), static_cast<std::size_t>(m.size())); };
    hidden_.assign(view(from_inputs), n_hidden, n_inputs);
    output_.assign(view(from_hidden), b.rows(), n_hidden);
    hidden_bias_ = a.col(n_inputs).array();
    output_bias_ = b.col(n_hidden).array();
  }
  feed_forward_language_model(const feed_forward_lm<S>&, const Executor&&) = delete;  // it would dangle

  index_t vocabulary_size() const { return output_.rows(); }
  index_t context_length() const { return context_; }
  const language_model_counts& counts() const { return counts_; }
  void reset_counts() { counts_ = {}; }
  /// Weights read by a call, in bytes; the embedding is not among them, of which a call reads a few rows.
  index_t bytes_a_call() const { return hidden_.bytes() + output_.bytes(); }

  /// Scores the nodes from first_new on; nodes from there that were scored before are replaced. With first_new = 0,
  /// node 0 must be the last committed token, or the first token of all if nothing is committed. O(weights) and
  /// O(new nodes V hidden) arithmetic. Throws invalid_argument, and nothing changes, if token and parent differ in
  /// size, first_new is not in [0, number of scored nodes], a token is not in [0, V), a parent is not before its child,
  /// or node 0 is another token.
  void score(const token_tree& tree, index_t first_new) {
    const index_t n = std::ssize(tree.token);
    expects(std::ssize(tree.parent) == n, "score", "tree.parent.size", tree.parent.size());
    expects(first_new >= 0 && first_new <= std::min(n, std::ssize(nodes_)), "score", "first_new", first_new);
    for (index_t i = first_new; i < n; ++i) {
      const token_id token = tree.token[static_cast<std::size_t>(i)];
      const index_t parent = tree.parent[static_cast<std::size_t>(i)];
      expects(token >= 0 && token < vocabulary_size(), "score", "tree.token", token, i);
      expects(i == 0 ? parent < 0 : parent >= 0 && parent < i, "score", "tree.parent", parent, i);
    }
    if (first_new == 0 && n > 0 && !committed_.empty())
      expects(tree.token[0] == committed_.back(), "score", "tree.token", tree.token[0], 0);
    nodes_.resize(static_cast<std::size_t>(first_new));
    for (index_t i = first_new; i < n; ++i)
      nodes_.push_back({tree.token[static_cast<std::size_t>(i)], tree.parent[static_cast<std::size_t>(i)]});
    if (first_new == 0 && n > 0 && committed_.empty()) committed_.push_back(tree.token[0]);
    compute(first_new, n);
    if (first_new == 0) row_of_root_ = n > 0;
    ++counts_.calls;
    counts_.rows += n - first_new;
    counts_.rows_read += n - first_new;
  }

  /// Logits of the token after a scored node. O(1), except that the row of node 0 after reset() is computed when it is
  /// first read. Throws invalid_argument if the node is not scored.
  token_row<S> row(index_t node) {
    expects(node >= 0 && node < std::ssize(nodes_), "row", "node", node);
    if (node == 0 && !row_of_root_) {
      compute(0, 1);
      row_of_root_ = true;
    }
    return {row_kind::logits, std::span<const S>(rows_).subspan(place(node), place(1))};
  }

  /// Commits the nodes of a path that starts at a child of node 0 (node 0 itself may be named first); the last becomes
  /// node 0, with its row. All others are forgotten. Throws invalid_argument, and nothing changes, if a node is not
  /// scored or not a child of the one before.
  void keep(std::span<const index_t> path) {
    if (!path.empty() && path[0] == 0) path = path.subspan(1);
    index_t last = 0;
    for (std::size_t i = 0; i < path.size(); ++i) {
      expects(path[i] > 0 && path[i] < std::ssize(nodes_) && nodes_[static_cast<std::size_t>(path[i])].parent == last,
              "keep", "path", path[i], static_cast<index_t>(i));
      last = path[i];
    }
    for (const index_t i : path) committed_.push_back(nodes_[static_cast<std::size_t>(i)].token);
    shorten();
    if (nodes_.empty()) return;
    if (last > 0) {
      std::copy_n(rows_.begin() + static_cast<std::ptrdiff_t>(place(last)), place(1), rows_.begin());
      row_of_root_ = true;
    }
    nodes_[0] = {nodes_[static_cast<std::size_t>(last)].token, -1};
    nodes_.resize(1);
  }

  /// Forgets everything and commits `text`; its last token is node 0, not counted as scored. Throws invalid_argument
  /// if a token is not in [0, V).
  void reset(std::span<const token_id> text = {}) {
    for (std::size_t i = 0; i < text.size(); ++i)
      expects(text[i] >= 0 && text[i] < vocabulary_size(), "reset", "text", text[i], static_cast<index_t>(i));
    const std::size_t n = std::min(text.size(), static_cast<std::size_t>(context_));
    committed_.assign(text.end() - static_cast<std::ptrdiff_t>(n), text.end());
    nodes_.clear();
    row_of_root_ = false;
    if (text.empty()) return;
    nodes_.push_back({text.back(), -1});
    make_room(0, 1);
  }

 private:
  static constexpr serial on_this_thread{};
  struct scored_node {
    token_id token;
    index_t parent;
  };

  std::size_t place(index_t node) const { return static_cast<std::size_t>(node * vocabulary_size()); }
  void shorten() {
    const auto held = static_cast<std::size_t>(context_);
    if (committed_.size() > held)
      committed_.erase(committed_.begin(), committed_.end() - static_cast<std::ptrdiff_t>(held));
  }
  void make_room(index_t first, index_t last) {
    const auto b = static_cast<std::size_t>(last - first), n_hidden = static_cast<std::size_t>(hidden_.rows());
    x_.resize(std::max(x_.size(), b * static_cast<std::size_t>(hidden_.cols())));
    sums_.resize(std::max(sums_.size(), b * n_hidden));
    h_.resize(sums_.size());
    rows_.resize(std::max(rows_.size(), place(last)));
  }

  /// The rows of the nodes first ... last - 1.
  void compute(index_t first, index_t last) {
    if (first == last) return;
    make_room(first, last);
    const index_t b = last - first, n_inputs = hidden_.cols(), n_hidden = hidden_.rows();
    const auto part = [b](auto& v, index_t n) { return std::span(v).first(static_cast<std::size_t>(b * n)); };
    for (index_t i = 0; i < b; ++i) gather(x_.data() + i * n_inputs, first + i);
    hidden_.multiply(part(sums_, n_hidden), std::span<const S>(part(x_, n_inputs)), b, *executor_);
    for (index_t i = 0; i < b; ++i) {
      Eigen::Map<array>(sums_.data() + i * n_hidden, n_hidden) += hidden_bias_;
      detail::tanh_block(h_.data() + i * n_hidden, sums_.data() + i * n_hidden, n_hidden);
    }
    const std::span<S> out = std::span(rows_).subspan(place(first), place(b));
    output_.multiply(out, std::span<const S>(part(h_, n_hidden)), b, *executor_);
    for (index_t i = 0; i < b; ++i) Eigen::Map<array>(out.data() + place(i), vocabulary_size()) += output_bias_;
  }
  /// The vectors of the last tokens up to this node, the newest first; 0 before the text.
  void gather(S* x, index_t node) const {
    const index_t d = embedding_.cols();
    index_t j = 0;
    for (index_t i = node; i > 0 && j < context_; i = nodes_[static_cast<std::size_t>(i)].parent, ++j)
      std::copy_n(&embedding_(nodes_[static_cast<std::size_t>(i)].token, 0), d, x + j * d);
    for (auto t = committed_.rbegin(); t != committed_.rend() && j < context_; ++t, ++j)
      std::copy_n(&embedding_(*t, 0), d, x + j * d);
    std::fill_n(x + j * d, (context_ - j) * d, S{0});
  }

  using array = Eigen::Array<S, Eigen::Dynamic, 1>;
  const Executor* executor_;
  index_t context_;
  typename feed_forward_lm<S>::matrix embedding_;
  packed_product<S> hidden_, output_;
  array hidden_bias_, output_bias_;
  std::vector<token_id> committed_;  // the last tokens of the committed text, node 0 included
  std::vector<scored_node> nodes_;
  bool row_of_root_ = false;  // whether node 0 has its row
  std::vector<S> x_, sums_, h_, rows_;
  language_model_counts counts_;
};

template <std::floating_point S>
feed_forward_language_model(const feed_forward_lm<S>&) -> feed_forward_language_model<S, serial>;
template <std::floating_point S, executor Executor>
feed_forward_language_model(const feed_forward_lm<S>&, const Executor&) -> feed_forward_language_model<S, Executor>;

}  // namespace sluice::models
