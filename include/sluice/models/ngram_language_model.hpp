#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/models/instrumentation.hpp>
#include <sluice/models/ngram.hpp>
#include <sluice/speculate/language_model.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

/// Unstable: for tests, benchmarks and examples; no compatibility is promised.
namespace sluice::models {

/// Makes any model of contexts (ngram_model, suffix_model, or a user's) a `sluice::language_model` in S with rows of
/// probabilities or log-probabilities. A row is computed when it is first read and kept until its node is forgotten;
/// its view stays valid until the next score, keep or reset. The model is not copied and must outlive this object; many
/// of these may share one model. One object a thread. No allocation once as many nodes were held and rows read as
/// before.
///
/// Start: score the prompt as a chain (node 0 is its first token) and keep it, or hand it to reset(), which counts
/// nothing. Then score trees from first_new = 1 on: node 0 is the last committed token.
template <context_model Model = ngram_model, std::floating_point S = double>
class ngram_language_model {
 public:
  using scalar = S;

  /// Throws invalid_argument if kind is logits (log-probabilities are logits; say so).
  explicit ngram_language_model(const Model& model, row_kind kind = row_kind::probabilities)
      : model_(&model), kind_(kind) {
    expects(kind != row_kind::logits, "ngram_language_model", "kind", static_cast<int>(kind));
  }
  explicit ngram_language_model(const Model&&, row_kind = row_kind::probabilities) = delete;  // it would dangle

  index_t vocabulary_size() const { return static_cast<index_t>(model_->vocabulary_size()); }
  const Model& model() const { return *model_; }
  const language_model_counts& counts() const { return counts_; }
  void reset_counts() { counts_ = {}; }

  /// Scores the nodes from first_new on; nodes from there that were scored before are replaced. With first_new = 0,
  /// node 0 must be the last committed token, or the first token of all if nothing is committed. O(new nodes). Throws
  /// invalid_argument, and nothing changes, if token and parent differ in size, first_new is not in [0, number of
  /// scored nodes], a token is not in [0, V), a parent is not before its child, or node 0 is another token.
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
    forget(first_new);
    for (index_t i = first_new; i < n; ++i)
      nodes_.push_back({tree.token[static_cast<std::size_t>(i)], tree.parent[static_cast<std::size_t>(i)], -1});
    if (first_new == 0 && n > 0 && committed_.empty()) committed_.push_back(tree.token[0]);
    ++counts_.calls;
    counts_.rows += n - first_new;
  }

  /// The law of the token after a scored node. The first look costs one row of the model, later ones O(1).
  /// Throws invalid_argument if the node is not scored.
  token_row<S> row(index_t node) {
    expects(node >= 0 && node < std::ssize(nodes_), "row", "node", node);
    index_t& slot = nodes_[static_cast<std::size_t>(node)].slot;
    if (slot < 0) {
      if (free_.empty()) {
        free_.push_back(std::ssize(rows_));
        rows_.emplace_back(static_cast<std::size_t>(vocabulary_size()));
      }
      compute(rows_[static_cast<std::size_t>(free_.back())], node);
      slot = free_.back();
      free_.pop_back();
      ++counts_.rows_read;
    }
    return {kind_, rows_[static_cast<std::size_t>(slot)]};
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
    std::swap(nodes_[0], nodes_[static_cast<std::size_t>(last)]);
    forget(1);
    nodes_[0].parent = -1;
  }

  /// Forgets everything and commits `text`; its last token is node 0, scored but not counted. Throws invalid_argument
  /// if a token is not in [0, V).
  void reset(std::span<const token_id> text = {}) {
    for (std::size_t i = 0; i < text.size(); ++i)
      expects(text[i] >= 0 && text[i] < vocabulary_size(), "reset", "text", text[i], static_cast<index_t>(i));
    forget(0);
    const std::size_t n = std::min(text.size(), held());
    committed_.assign(text.end() - static_cast<std::ptrdiff_t>(n), text.end());
    if (!text.empty()) nodes_.push_back({text.back(), -1, -1});
  }

 private:
  struct scored_node {
    token_id token;
    index_t parent, slot;  // slot: where its row is, -1 if it was not read
  };

  /// How many committed tokens can matter: the contexts of node 0 and one more, so that node 0 is always there.
  std::size_t held() const { return std::max<std::size_t>(1, static_cast<std::size_t>(model_->context_length())); }
  void shorten() {
    if (committed_.size() > held())
      committed_.erase(committed_.begin(), committed_.end() - static_cast<std::ptrdiff_t>(held()));
  }
  void forget(index_t first) {
    for (auto i = static_cast<std::size_t>(first); i < nodes_.size(); ++i)
      if (nodes_[i].slot >= 0) free_.push_back(nodes_[i].slot);
    nodes_.resize(static_cast<std::size_t>(first));
  }
  void compute(std::vector<S>& out, index_t node) {
    const auto n = static_cast<std::size_t>(model_->context_length());
    context_.clear();
    for (index_t i = node; i > 0 && context_.size() < n; i = nodes_[static_cast<std::size_t>(i)].parent)
      context_.push_back(nodes_[static_cast<std::size_t>(i)].token);
    for (auto t = committed_.rbegin(); t != committed_.rend() && context_.size() < n; ++t) context_.push_back(*t);
    std::reverse(context_.begin(), context_.end());
    if constexpr (std::is_same_v<S, double>) {
      model_->row(std::span<double>(out), std::span<const token_id>(context_));
    } else {
      law_.resize(out.size());
      model_->row(std::span<double>(law_), std::span<const token_id>(context_));
      if (kind_ == row_kind::probabilities)
        for (std::size_t w = 0; w < out.size(); ++w) out[w] = static_cast<S>(law_[w]);
      else
        for (std::size_t w = 0; w < out.size(); ++w) out[w] = static_cast<S>(std::log(law_[w]));
      return;
    }
    if (kind_ == row_kind::log_probabilities)
      for (S& p : out) p = std::log(p);
  }

  const Model* model_;
  row_kind kind_;
  std::vector<token_id> committed_, context_;  // the last tokens of the committed text, node 0 included; scratch
  std::vector<scored_node> nodes_;
  std::vector<std::vector<S>> rows_;
  std::vector<index_t> free_;
  std::vector<double> law_;
  language_model_counts counts_;
};

}  // namespace sluice::models
