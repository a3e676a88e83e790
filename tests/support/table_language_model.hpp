#pragma once
#include <sluice/core/tensor.hpp>
#include <sluice/random/stream.hpp>
#include <sluice/random/uniform.hpp>
#include <sluice/speculate/language_model.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

namespace support {

/// A language model small enough to enumerate: the law depends on the last `order` tokens and is a random row for each
/// of the V^order contexts. It checks the protocol (a breach is a std::logic_error, which no test expects), allocates
/// nothing after its construction, and counts what it is asked for.
template <class S = double>
class table_language_model {
 public:
  using scalar = S;

  /// `zeros`: the fraction of tokens that a row forbids; `spread`: standard deviation of the logits is about this.
  table_language_model(sluice::index_t vocabulary_size, int order, std::uint64_t seed, double spread = 1.5,
                       double zeros = 0, sluice::row_kind kind = sluice::row_kind::probabilities)
      : vocabulary_(static_cast<std::size_t>(vocabulary_size)), kind_(kind) {
    for (int i = 0; i < order; ++i) contexts_ *= vocabulary_;
    table_.resize(contexts_ * vocabulary_);
    law_.resize(table_.size());
    const sluice::stream key(seed, 0x7AB1E);
    for (std::size_t c = 0; c < contexts_; ++c) {
      double sum = 0;
      for (std::size_t x = 0; x < vocabulary_; ++x) {
        const std::uint64_t i = c * vocabulary_ + x;
        const bool forbidden = sluice::co53(key.word(2 * i)) < zeros && x + 1 < vocabulary_;
        law_[i] = forbidden ? 0 : std::exp(spread * 3.46 * (sluice::oo52(key.word(2 * i + 1)) - 0.5));
        sum += law_[i];
      }
      for (std::size_t x = 0; x < vocabulary_; ++x) set(c * vocabulary_ + x, law_[c * vocabulary_ + x] / sum);
    }
    nodes_.reserve(1 << 16);
    parents_.reserve(1 << 16);
  }

  sluice::index_t vocabulary_size() const { return static_cast<sluice::index_t>(vocabulary_); }
  void reset(std::span<const sluice::token_id> text) {
    context_ = context_of(text);
    last_ = text.back();
    nodes_.clear();
    parents_.clear();
  }
  void score(const sluice::token_tree& tree, sluice::index_t first_new) {
    const auto first = static_cast<std::size_t>(first_new);
    require(tree.token.size() == tree.parent.size() && first <= nodes_.size() && first <= tree.token.size());
    require(tree.token.at(0) == last_ && tree.parent.at(0) == -1);
    nodes_.resize(first);
    parents_.resize(first);
    for (std::size_t i = first; i < tree.token.size(); ++i) {
      const std::size_t token = static_cast<std::size_t>(tree.token[i]);
      require(token < vocabulary_);
      require(i == 0 || (tree.parent[i] >= 0 && static_cast<std::size_t>(tree.parent[i]) < i));
      nodes_.push_back(i == 0 ? context_ : after(nodes_[static_cast<std::size_t>(tree.parent[i])], token));
      parents_.push_back(tree.parent[i]);
    }
    ++calls;
    scored += static_cast<std::int64_t>(tree.token.size() - first);
    tokens_ = &tree;
  }
  sluice::token_row<S> row(sluice::index_t node) {
    require(node >= 0 && static_cast<std::size_t>(node) < nodes_.size());
    ++rows_read;
    return {kind_,
            std::span<const S>(table_).subspan(nodes_[static_cast<std::size_t>(node)] * vocabulary_, vocabulary_)};
  }
  void keep(std::span<const sluice::index_t> path) {
    sluice::index_t last = 0;
    for (const sluice::index_t node : path) {
      require(node > 0 && static_cast<std::size_t>(node) < nodes_.size());
      require(parents_[static_cast<std::size_t>(node)] == last);
      last = node;
      last_ = tokens_->token[static_cast<std::size_t>(node)];
    }
    require(!nodes_.empty());
    context_ = nodes_[static_cast<std::size_t>(last)];
    nodes_.assign(1, context_);
    parents_.assign(1, -1);
    kept += std::ssize(path);
  }

  /// P(x | text).
  double probability(std::span<const sluice::token_id> text, sluice::token_id x) const {
    return law_[context_of(text) * vocabulary_ + static_cast<std::size_t>(x)];
  }
  std::span<const double> law(std::span<const sluice::token_id> text) const {
    return std::span(law_).subspan(context_of(text) * vocabulary_, vocabulary_);
  }
  /// Puts a value (NaN, -1, ...) into the row that follows `text`.
  void spoil(std::span<const sluice::token_id> text, sluice::token_id x, S value) {
    table_[context_of(text) * vocabulary_ + static_cast<std::size_t>(x)] = value;
  }
  void spoil_all(S value) { table_.assign(table_.size(), value); }

  std::int64_t calls = 0, scored = 0, rows_read = 0, kept = 0;

 private:
  static void require(bool ok) {
    if (!ok) throw std::logic_error("table_language_model: the protocol was broken");
  }
  std::size_t after(std::size_t context, std::size_t token) const {
    return (context * vocabulary_ + token) % contexts_;
  }
  std::size_t context_of(std::span<const sluice::token_id> text) const {
    std::size_t c = 0;
    for (const sluice::token_id x : text) c = after(c, static_cast<std::size_t>(x));
    return c;
  }
  void set(std::size_t i, double p) {
    law_[i] = p;
    table_[i] = static_cast<S>(kind_ == sluice::row_kind::probabilities ? p : std::log(p));
  }

  std::size_t vocabulary_, contexts_ = 1, context_ = 0;
  sluice::token_id last_ = 0;
  sluice::row_kind kind_;
  std::vector<S> table_;
  std::vector<double> law_;
  std::vector<std::size_t> nodes_;
  std::vector<sluice::index_t> parents_;
  const sluice::token_tree* tokens_ = nullptr;
};

}  // namespace support
