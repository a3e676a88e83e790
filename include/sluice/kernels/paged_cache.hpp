#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>
#include <sluice/kernels/attention.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

namespace sluice {

struct paged_cache_options {
  index_t layers = 1;           ///< a page holds its positions of all layers
  index_t page_positions = 64;  ///< a multiple of 16
  index_t pages = 16;           ///< the pool; `reserve` adds to it
  index_t sequences = 1;        ///< how many at once without allocation
};

/// Keys and values of many sequences in pages from one pool. A sequence is a list of pages; sequences that share a
/// prefix share its pages (reference counts). Only the last page of a sequence is written to, and it is copied first if
/// it is shared: at most one page a fork.
///
/// The pool never grows by itself: `append` says whether there was room, and the owner decides between `reserve`,
/// releasing another sequence and waiting. Pages do not move, so views stay valid until their page is given back.
/// create and fork allocate when more sequences live than ever before, and reserve does; nothing else allocates.
/// Sequences are named by small integers, which are reused after release. One object a thread for changes; any number
/// of threads may read.
///
/// Memory: bytes(); a position takes layers x heads x (width + value width rounded up to 16) elements.
/// Source: Kwon et al., PagedAttention (arXiv:2309.06180), section 4. Differs: keys are transposed within panels, a
/// page spans all layers.
template <std::floating_point S>
class paged_cache {
 public:
  /// Throws invalid_argument for a bad shape (see panel_layout), layers < 1, page_positions not a positive multiple of
  /// 16, pages < 0, sequences < 0. Fresh pages hold zeros.
  explicit paged_cache(const attention_shape& shape, const paged_cache_options& options = {})
      : layout_(shape), layers_(options.layers), page_positions_(options.page_positions) {
    expects(layers_ >= 1, "paged_cache", "layers", layers_);
    expects(page_positions_ >= panel_positions && page_positions_ % panel_positions == 0, "paged_cache",
            "page_positions", page_positions_);
    expects(options.pages >= 0, "paged_cache", "pages", options.pages);
    expects(options.sequences >= 0, "paged_cache", "sequences", options.sequences);
    reserve(options.pages);
    for (index_t i = 0; i < options.sequences; ++i) add_slot();
  }
  paged_cache(paged_cache&&) = default;
  paged_cache& operator=(paged_cache&&) = default;

  const panel_layout& layout() const { return layout_; }
  index_t layers() const { return layers_; }
  index_t page_positions() const { return page_positions_; }
  index_t pages() const { return std::ssize(page_); }
  index_t free_pages() const { return std::ssize(free_); }
  std::size_t bytes() const { return page_.size() * static_cast<std::size_t>(page_size()) * sizeof(S); }
  std::size_t bytes_in_use() const {
    return (page_.size() - free_.size()) * static_cast<std::size_t>(page_size()) * sizeof(S);
  }

  /// Grows the pool to at least n pages; all sequences keep theirs where they are.
  void reserve(index_t n) {
    expects(n >= 0, "paged_cache::reserve", "pages", n);
    if (n <= pages()) return;
    const index_t first = pages();
    blocks_.emplace_back(block::Zero((n - first) * page_size()));
    free_.reserve(at(n));
    references_.resize(at(n), 0);
    for (index_t p = first; p < n; ++p) page_.push_back(blocks_.back().data() + (p - first) * page_size());
    for (index_t p = n; p-- > first;) free_.push_back(p);
    for (sequence& s : sequences_) s.pages.reserve(at(n));
  }

  /// An empty sequence.
  index_t create() {
    if (free_sequences_.empty()) add_slot();
    const index_t id = free_sequences_.back();
    free_sequences_.pop_back();
    sequences_[at(id)].live = true;
    return id;
  }
  /// A sequence with the same positions, which shares the pages. O(pages). Throws invalid_argument for a bad id.
  index_t fork(index_t id) {
    check(id, "paged_cache::fork");
    const index_t copy = create();
    sequence& to = sequences_[at(copy)];
    const sequence& from = sequences_[at(id)];
    to.pages.assign(from.pages.begin(), from.pages.end());
    to.length = from.length;
    for (const index_t p : to.pages) ++references_[at(p)];
    return copy;
  }
  /// Gives the pages back, and the id. Throws invalid_argument for a bad id.
  void release(index_t id) {
    check(id, "paged_cache::release");
    truncate(id, 0);
    sequences_[at(id)].live = false;
    free_sequences_.push_back(id);
  }

  /// Adds n positions, whose keys and values are to be stored. False, and nothing changes, if the pool has too few free
  /// pages. Throws invalid_argument for a bad id or n < 0.
  [[nodiscard]] bool append(index_t id, index_t n) {
    check(id, "paged_cache::append");
    expects(n >= 0, "paged_cache::append", "n", n);
    sequence& s = sequences_[at(id)];
    if (n == 0) return true;
    const bool copied = s.length % page_positions_ != 0 && references_[at(s.pages.back())] > 1;
    const index_t wanted = pages_of(s.length + n) - std::ssize(s.pages);
    if (wanted + (copied ? 1 : 0) > free_pages()) return false;
    if (copied) {
      const index_t fresh = take(), shared = s.pages.back();
      const index_t used = (s.length % page_positions_ + panel_positions - 1) / panel_positions * layout_.size();
      for (index_t l = 0; l < layers_; ++l)
        std::memcpy(data(fresh, l), data(shared, l), static_cast<std::size_t>(used) * sizeof(S));
      --references_[at(shared)];
      s.pages.back() = fresh;
    }
    for (index_t i = 0; i < wanted; ++i) s.pages.push_back(take());
    s.length += n;
    return true;
  }
  /// Forgets the positions from `length` on; pages without positions go back to the pool. Throws invalid_argument for a
  /// bad id or a length outside [0, length(id)].
  void truncate(index_t id, index_t length) {
    check(id, "paged_cache::truncate");
    sequence& s = sequences_[at(id)];
    expects(length >= 0 && length <= s.length, "paged_cache::truncate", "length", length);
    for (const index_t keep = pages_of(length); std::ssize(s.pages) > keep; s.pages.pop_back())
      if (--references_[at(s.pages.back())] == 0) free_.push_back(s.pages.back());
    s.length = length;
  }

  index_t length(index_t id) const { return check(id, "paged_cache::length"), sequences_[at(id)].length; }
  bool contains(index_t id) const { return id >= 0 && id < std::ssize(sequences_) && sequences_[at(id)].live; }

  /// Writes one position of one layer: keys heads x width, values heads x value_width, row-major. Throws
  /// invalid_argument, nothing written, for a bad id or layer, a position outside the sequence or on a page that it
  /// shares, or sizes that do not fit.
  void store(index_t id, index_t layer, index_t position, std::span<const S> keys, std::span<const S> values) {
    S* panel = panel_of(id, layer, position, "paged_cache::store");
    expects(references_[at(sequences_[at(id)].pages[at(position / page_positions_)])] == 1, "paged_cache::store",
            "position", position);
    expects(std::ssize(keys) == layout_.heads() * layout_.width(), "paged_cache::store", "keys.size", keys.size());
    expects(std::ssize(values) == layout_.heads() * layout_.value_width(), "paged_cache::store", "values.size",
            values.size());
    layout_.store(panel, position % panel_positions, keys.data(), values.data());
  }
  /// Reads one position back. Throws invalid_argument as store does, except for shared pages.
  void load(std::span<S> keys, std::span<S> values, index_t id, index_t layer, index_t position) const {
    const S* panel = panel_of(id, layer, position, "paged_cache::load");
    expects(std::ssize(keys) == layout_.heads() * layout_.width(), "paged_cache::load", "keys.size", keys.size());
    expects(std::ssize(values) == layout_.heads() * layout_.value_width(), "paged_cache::load", "values.size",
            values.size());
    layout_.load(keys.data(), values.data(), panel, position % panel_positions);
  }

  /// The page table of a sequence: pages in the order of positions. Valid until the sequence changes.
  std::span<const index_t> page_table(index_t id) const {
    return check(id, "paged_cache::page_table"), std::span<const index_t>(sequences_[at(id)].pages);
  }
  /// Sequences that hold the page. Throws invalid_argument if there is no such page.
  index_t references(index_t page) const {
    expects(page >= 0 && page < pages(), "paged_cache::references", "page", page);
    return references_[at(page)];
  }
  /// Panel k of a page, 0 <= k < page_positions / 16, of one layer.
  const S* panel(index_t page, index_t layer, index_t k) const {
    expects(page >= 0 && page < pages(), "paged_cache::panel", "page", page);
    expects(layer >= 0 && layer < layers_, "paged_cache::panel", "layer", layer);
    expects(k >= 0 && k < page_positions_ / panel_positions, "paged_cache::panel", "k", k);
    return page_[at(page)] + layer * layer_size() + k * layout_.size();
  }
  /// Panels that hold the first `length` positions.
  static index_t panels_of(index_t length) { return (length + panel_positions - 1) / panel_positions; }
  /// Lists the panels of the positions 0, ..., length - 1 of one layer, in order, for block_attention. out must have
  /// panels_of(length) elements. Throws invalid_argument for a bad id or layer, a length beyond the sequence, or
  /// another size of out.
  void list_panels(std::span<key_panel<S>> out, index_t id, index_t layer, index_t length) const {
    check(id, "paged_cache::list_panels");
    const sequence& s = sequences_[at(id)];
    expects(layer >= 0 && layer < layers_, "paged_cache::list_panels", "layer", layer);
    expects(length >= 0 && length <= s.length, "paged_cache::list_panels", "length", length);
    expects(std::ssize(out) == panels_of(length), "paged_cache::list_panels", "out.size", out.size());
    index_t i = 0;
    for (std::size_t p = 0; i < std::ssize(out); ++p) {
      const S* page = data(s.pages[p], layer);
      for (index_t k = 0; k < page_positions_ / panel_positions && i < std::ssize(out); ++k, ++i)
        out[at(i)] = {page + k * layout_.size(), 0, std::min(panel_positions, length - i * panel_positions)};
    }
  }

 private:
  using block = Eigen::Array<S, Eigen::Dynamic, 1>;
  struct sequence {
    std::vector<index_t> pages;
    index_t length = 0;
    bool live = false;
  };
  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

  index_t layer_size() const { return page_positions_ / panel_positions * layout_.size(); }
  index_t page_size() const { return layers_ * layer_size(); }
  index_t pages_of(index_t length) const { return (length + page_positions_ - 1) / page_positions_; }
  S* data(index_t page, index_t layer) const { return page_[at(page)] + layer * layer_size(); }
  void check(index_t id, const char* function) const { expects(contains(id), function, "sequence", id); }
  S* panel_of(index_t id, index_t layer, index_t position, const char* function) const {
    check(id, function);
    expects(layer >= 0 && layer < layers_, function, "layer", layer);
    expects(position >= 0 && position < sequences_[at(id)].length, function, "position", position);
    return data(sequences_[at(id)].pages[at(position / page_positions_)], layer) +
           position % page_positions_ / panel_positions * layout_.size();
  }
  index_t take() {
    const index_t p = free_.back();
    free_.pop_back();
    references_[at(p)] = 1;
    return p;
  }
  void add_slot() {
    free_sequences_.reserve(sequences_.size() + 1);
    free_sequences_.push_back(std::ssize(sequences_));
    sequences_.emplace_back();
    sequences_.back().pages.reserve(page_.size());
  }

  panel_layout layout_;
  index_t layers_, page_positions_;
  std::vector<block> blocks_;  // moving one does not move its elements
  std::vector<S*> page_;
  std::vector<index_t> references_, free_, free_sequences_;
  std::vector<sequence> sequences_;
};

}  // namespace sluice
