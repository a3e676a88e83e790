#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/models/ngram.hpp>
#include <sluice/models/ngram_language_model.hpp>
#include <sluice/speculate/language_model.hpp>
#include <sluice/speculate/token_law.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

/// Unstable: for tests, benchmarks and examples; no compatibility is promised.
///
/// The cheapest draft there is: one stored law for each last token, taken from any model of contexts, and taught by the
/// target if wanted. Drafting a token then costs one pass over a row that lies in memory.
namespace sluice::models {

/// Options of `bigram_table::learn`.
struct bigram_learning {
  index_t positions = 32'768;  ///< of the text that the target is asked about, at most; at least 0
  index_t run = 64;            ///< positions in one call; at least 1
  index_t lead = 16;           ///< tokens before a run that the target may look at; at least 1
  double prior = 5;            ///< weight of the row as it was, in positions; >= 0
};

/// V laws over V tokens, q(y | x) for every last token x, in floats: 4 V^2 bytes (16 MB at V = 2048).
class bigram_table {
 public:
  /// Row x is the model's law after the context {x}. V rows of the model. Throws invalid_argument if V is below 1 or
  /// above 46340.
  template <context_model Model>
  explicit bigram_table(const Model& model) : vocabulary_(static_cast<index_t>(model.vocabulary_size())) {
    expects(vocabulary_ >= 1 && vocabulary_ <= 46'340, "bigram_table", "model.vocabulary_size", vocabulary_);
    rows_.resize(static_cast<std::size_t>(vocabulary_ * vocabulary_));
    std::vector<double> law(static_cast<std::size_t>(vocabulary_));
    for (index_t x = 0; x < vocabulary_; ++x) {
      const auto token = static_cast<token_id>(x);
      model.row(std::span<double>(law), std::span<const token_id>(&token, 1));
      std::transform(law.begin(), law.end(), begin_of(x), [](double p) { return static_cast<float>(p); });
    }
  }

  /// Moves every row towards what the target says where its token stands in the text:
  ///     q(. | x) <- (prior q(. | x) + sum_{i: t_i = x} p(. | t_1 ... t_i)) / (prior + number of such i).
  /// Of all tables, the means of the target's laws have the least relative entropy from the target on the text's
  /// contexts. Runs of positions are spread evenly over the text; each is scored in one call, after a reset to the
  /// `lead` tokens before it. Deterministic. O(positions (target + V)). The target is left in another state. Throws
  /// invalid_argument, nothing changed, if the vocabularies differ, a token is not in [0, V) or an option is out of
  /// range, and from the target's rows if one is not a law.
  template <language_model Target>
  void learn(Target& target, std::span<const token_id> text, const bigram_learning& options = {}) {
    constexpr const char* me = "bigram_table::learn";
    expects(target.vocabulary_size() == vocabulary_, me, "target.vocabulary_size", target.vocabulary_size());
    expects(options.positions >= 0, me, "options.positions", options.positions);
    expects(options.run >= 1, me, "options.run", options.run);
    expects(options.lead >= 1, me, "options.lead", options.lead);
    expects(options.prior >= 0 && options.prior <= std::numeric_limits<float>::max(), me, "options.prior",
            options.prior);
    for (index_t i = 0; i < std::ssize(text); ++i)
      expects(in_vocabulary(text[static_cast<std::size_t>(i)]), me, "text", text[static_cast<std::size_t>(i)], i);
    const index_t room = std::ssize(text) / options.run, runs = std::min(room, options.positions / options.run);
    if (runs == 0) return;
    std::vector<float> sums(rows_.size());
    std::vector<double> law(static_cast<std::size_t>(vocabulary_));
    std::vector<index_t> count(static_cast<std::size_t>(vocabulary_));
    token_tree chain;
    for (index_t r = 0; r < runs; ++r) {
      const index_t first = r * room / runs * options.run, lead = std::min(options.lead, first);
      const auto run = text.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(options.run));
      target.reset(text.subspan(static_cast<std::size_t>(first - lead), static_cast<std::size_t>(lead)));
      chain.token.clear();
      if (lead > 0) chain.token.push_back(text[static_cast<std::size_t>(first - 1)]);
      chain.token.insert(chain.token.end(), run.begin(), run.end());
      chain.parent.resize(chain.token.size());
      std::iota(chain.parent.begin(), chain.parent.end(), index_t{-1});
      target.score(std::as_const(chain), 0);
      for (index_t i = lead > 0 ? 1 : 0; i < std::ssize(chain.token); ++i) {
        const token_law p(target.row(i));
        expects(p.valid(), me, "target.row", i);
        p.probabilities(law);
        const token_id x = chain.token[static_cast<std::size_t>(i)];
        float* sum = sums.data() + x * vocabulary_;
        for (index_t y = 0; y < vocabulary_; ++y) sum[y] += static_cast<float>(law[static_cast<std::size_t>(y)]);
        ++count[static_cast<std::size_t>(x)];
      }
    }
    for (index_t x = 0; x < vocabulary_; ++x) {
      const double n = options.prior + static_cast<double>(count[static_cast<std::size_t>(x)]);
      if (count[static_cast<std::size_t>(x)] == 0) continue;
      const auto prior = static_cast<float>(options.prior / n), one = static_cast<float>(1 / n);
      const float* sum = sums.data() + x * vocabulary_;
      auto row = begin_of(x);
      for (index_t y = 0; y < vocabulary_; ++y, ++row) *row = prior * *row + one * sum[y];
    }
  }

  index_t vocabulary_size() const { return vocabulary_; }
  static constexpr index_t context_length() { return 1; }
  /// A view of q(. | token). Throws invalid_argument if the token is not in [0, V).
  std::span<const float> row_after(token_id token) const {
    expects(in_vocabulary(token), "bigram_table::row_after", "token", token);
    return std::span(rows_).subspan(static_cast<std::size_t>(token * vocabulary_),
                                    static_cast<std::size_t>(vocabulary_));
  }

 private:
  bool in_vocabulary(token_id x) const { return x >= 0 && x < vocabulary_; }
  std::vector<float>::iterator begin_of(index_t x) { return rows_.begin() + x * vocabulary_; }

  index_t vocabulary_;
  std::vector<float> rows_;
};

/// A `language_model` whose rows are views of a table: nothing is computed and nothing copied. The table must outlive
/// it. O(new nodes) a call; allocates nothing once as many nodes were held as before. One object a thread.
class bigram_language_model {
 public:
  using scalar = float;
  explicit bigram_language_model(const bigram_table& table) : table_(&table) {}
  explicit bigram_language_model(const bigram_table&&) = delete;  // it would dangle

  index_t vocabulary_size() const { return table_->vocabulary_size(); }
  const language_model_counts& counts() const { return counts_; }
  void reset_counts() { counts_ = {}; }

  /// Throws invalid_argument, nothing changed, if token and parent differ in size, first_new is not in [0, number of
  /// scored nodes] or a token is not in [0, V). Parents do not matter.
  void score(const token_tree& tree, index_t first_new) {
    expects(tree.parent.size() == tree.token.size(), "score", "tree.parent.size", tree.parent.size());
    expects(first_new >= 0 && first_new <= std::min(std::ssize(tree.token), std::ssize(tokens_)), "score", "first_new",
            first_new);
    for (index_t i = first_new; i < std::ssize(tree.token); ++i) {
      const token_id x = tree.token[static_cast<std::size_t>(i)];
      expects(x >= 0 && x < vocabulary_size(), "score", "tree.token", x, i);
    }
    tokens_.assign(tree.token.begin(), tree.token.end());
    ++counts_.calls;
    counts_.rows += std::ssize(tree.token) - first_new;
  }
  /// Throws invalid_argument if the node is not scored.
  token_row<float> row(index_t node) {
    expects(node >= 0 && node < std::ssize(tokens_), "row", "node", node);
    ++counts_.rows_read;
    return {row_kind::probabilities, table_->row_after(tokens_[static_cast<std::size_t>(node)])};
  }
  /// Throws invalid_argument, nothing changed, if a node is not scored.
  void keep(std::span<const index_t> path) {
    for (index_t i = 0; i < std::ssize(path); ++i) {
      const index_t node = path[static_cast<std::size_t>(i)];
      expects(node >= 0 && node < std::ssize(tokens_), "keep", "path", node, i);
    }
    if (!path.empty()) tokens_[0] = tokens_[static_cast<std::size_t>(path.back())];
    if (tokens_.size() > 1) tokens_.erase(tokens_.begin() + 1, tokens_.end());
  }
  /// Throws invalid_argument, nothing changed, if a token is not in [0, V).
  void reset(std::span<const token_id> text = {}) {
    for (index_t i = 0; i < std::ssize(text); ++i) {
      const token_id x = text[static_cast<std::size_t>(i)];
      expects(x >= 0 && x < vocabulary_size(), "reset", "text", x, i);
    }
    tokens_.assign(text.end() - (text.empty() ? 0 : 1), text.end());
  }

 private:
  const bigram_table* table_;
  std::vector<token_id> tokens_;
  language_model_counts counts_;
};

}  // namespace sluice::models
