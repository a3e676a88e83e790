// engine_torch: speculative decoding of a LibTorch module with a key-value cache. Target and draft are small attention
// models with random weights; rows of logits are used where the tensors hold them. The program checks itself: at
// temperature 0 chains and trees must write what the target writes alone, token by token, and no row may be copied.
#include <torch/torch.h>
#include <sluice/random/stream.hpp>
#include <sluice/speculate/block_verification.hpp>
#include <sluice/speculate/drafting.hpp>
#include <sluice/speculate/token_rejection.hpp>
#include <sluice/speculate/token_tree.hpp>

#include <array>
#include <cmath>
#include <cstdio>
#include <limits>
#include <span>
#include <vector>

using sluice::index_t;
using sluice::token_id;
using float_row = sluice::token_row<float>;

namespace {

constexpr std::int64_t vocabulary = 512, width = 32, most_positions = 1024;
constexpr std::size_t at_index(index_t i) { return static_cast<std::size_t>(i); }

/// Embedding, one attention head with a cache, and a linear layer. sees[i][j]: does token i see cache row j?
struct attention_model : torch::nn::Module {
  attention_model()
      : token(register_module("token", torch::nn::Embedding(vocabulary, width))),
        place(register_module("place", torch::nn::Embedding(most_positions, width))),
        query(register_module("query", torch::nn::Linear(width, width))),
        key(register_module("key", torch::nn::Linear(width, width))),
        value(register_module("value", torch::nn::Linear(width, width))),
        out(register_module("out", torch::nn::Linear(width, vocabulary))) {}
  /// ids and positions [n], sees [n, cached + n]; the logits [n, vocabulary]. The cache grows by n rows.
  at::Tensor forward(const at::Tensor& ids, const at::Tensor& positions, const at::Tensor& sees) {
    const at::Tensor h = token(ids) + place(positions);
    keys = at::cat({keys, key(h)});
    values = at::cat({values, value(h)});
    const at::Tensor score = at::matmul(query(h), keys.t()) / std::sqrt(static_cast<double>(width));
    const at::Tensor weight =
        score.masked_fill(sees.logical_not(), -std::numeric_limits<double>::infinity()).softmax(-1);
    return out(at::tanh(h + at::matmul(weight, values))) * 6;
  }
  std::int64_t cached() const { return keys.size(0); }
  void truncate(std::int64_t n) {  // a chain: views of the first n rows, nothing is copied
    if (n < cached()) keys = keys.narrow(0, 0, n), values = values.narrow(0, 0, n);
  }
  void keep(std::int64_t first, std::span<const index_t> nodes) {  // a tree: the rows in front and those of a path
    at::Tensor index = at::arange(first + static_cast<std::int64_t>(nodes.size()), at::kLong);
    for (std::size_t i = 0; i < nodes.size(); ++i) index[first + static_cast<std::int64_t>(i)] = first + nodes[i];
    keys = keys.index_select(0, index), values = values.index_select(0, index);
  }
  torch::nn::Embedding token, place;
  torch::nn::Linear query, key, value, out;
  at::Tensor keys = at::empty({0, width}), values = at::empty({0, width});
};

at::Tensor as_ids(std::span<const token_id> tokens) {
  return at::tensor(std::vector<std::int64_t>(tokens.begin(), tokens.end()), at::kLong);
}
/// Tokens in a row behind the cache.
at::Tensor feed(attention_model& m, std::span<const token_id> tokens) {
  const std::int64_t n = std::ssize(tokens), past = m.cached();
  return m.forward(as_ids(tokens), at::arange(past, past + n, at::kLong),
                   at::ones({n, past + n}, at::kBool).tril(past));
}
/// Nodes begin ... end of a tree; node k has cache row first + k.
at::Tensor feed(attention_model& m, const sluice::drafted_tree& tree, index_t begin, index_t end, std::int64_t first) {
  const std::int64_t n = end - begin;
  at::Tensor positions = at::empty({n}, at::kLong), sees = at::zeros({n, first + end}, at::kBool);
  for (index_t node = begin; node < end; ++node) {
    positions[node - begin] = first + tree.depth(node);
    sees[node - begin].narrow(0, 0, first).fill_(true);
    for (index_t a = node; a >= 0; a = tree.parent(a)) sees[node - begin][first + a] = true;
  }
  return m.forward(as_ids(std::span(tree.tokens().token).subspan(at_index(begin), at_index(n))), positions, sees);
}

/// Views of the rows of a tensor [n, vocabulary], which must outlive them. A tensor on another device or of another
/// type is refused: logits.to(at::kCPU, at::kFloat) makes the copy that such a tensor needs.
std::vector<float_row> rows_of(const at::Tensor& logits) {
  TORCH_CHECK(
      logits.device().is_cpu() && logits.scalar_type() == at::kFloat && logits.dim() == 2 && logits.stride(1) == 1,
      "logits must be floats on the CPU, a row contiguous");
  std::vector<float_row> rows(at_index(logits.size(0)));
  sluice::dense_logits(std::span(rows), logits.data_ptr<float>(), logits.size(1), logits.stride(0));
  return rows;
}

/// The law of temperature 0: all on the largest logit. A sparse row of one token, so the logits are read, not copied.
struct greedy_row {
  token_id id = 0;
  float one = 1;
  explicit greedy_row(const float_row& r) {
    sluice::cursor none(sluice::stream{0});  // top_draws uses no randomness
    sluice::draw_children(sluice::top_draws{}, std::span(&id, 1), {}, r, vocabulary, none);
  }
  float_row view() const { return {sluice::row_kind::probabilities, {&one, 1}, {&id, 1}}; }
};

struct tally {
  index_t calls = 0, tokens = 0, copied_rows = 0;
};

/// One round with a chain of gamma drafts. At temperature 0 both laws are greedy, otherwise the logits as they are.
template <class Rule>
void chain_round(const Rule& rule, attention_model& target, attention_model& draft, std::vector<token_id>& text,
                 index_t gamma, bool greedy, tally& t, sluice::stream key) {
  sluice::cursor drafting(key.derive(0)), deciding(key.derive(1));
  const std::int64_t before = std::ssize(text) - 1;
  std::vector<token_id> batch{text.back()};
  std::vector<at::Tensor> draft_logits;  // alive as long as the rows that view them
  std::vector<float_row> p, q;
  std::vector<greedy_row> greedy_p, greedy_q;
  greedy_p.reserve(at_index(gamma) + 1), greedy_q.reserve(at_index(gamma));
  for (index_t i = 0; i < gamma; ++i) {
    draft_logits.push_back(i == 0 ? feed(draft, std::span(text).subspan(at_index(draft.cached())))
                                  : feed(draft, std::span(batch).last(1)));
    q.push_back(rows_of(draft_logits.back()).back());
    if (greedy) q.back() = greedy_q.emplace_back(q.back()).view();
    token_id x = 0;
    sluice::draw_children(sluice::independent_draws{}, std::span(&x, 1), {}, q.back(), vocabulary, drafting);
    batch.push_back(x);
  }
  const at::Tensor logits = feed(target, batch);  // one call for the last token of the text and all drafts
  p = rows_of(logits);
  for (std::size_t i = 0; i < p.size(); ++i)
    t.copied_rows += p[i].values.data() != logits.data_ptr<float>() + static_cast<std::int64_t>(i) * vocabulary;
  if (greedy)
    for (float_row& r : p) r = greedy_p.emplace_back(r).view();
  const std::span<const token_id> drafted = std::span(batch).subspan(1);
  const sluice::decision d = rule.decide(sluice::request<float, float>{p, q, drafted}, deciding);
  TORCH_CHECK(!d.fault, "row ", d.fault.row, " of the ", d.fault.argument, " is not a law");
  text.insert(text.end(), drafted.begin(), drafted.begin() + d.result.accepted);
  text.push_back(d.result.next);
  target.truncate(before + sluice::positions_to_keep(d.result));
  draft.truncate(before + sluice::positions_to_keep(d.result));
  ++t.calls, t.tokens += d.result.accepted + 1;
}

/// One round at temperature 0 with a tree: the widths[d] most probable tokens of the draft at every node of depth d.
void greedy_tree_round(attention_model& target, attention_model& draft, std::vector<token_id>& text,
                       std::span<const index_t> widths, tally& t) {
  sluice::cursor none(sluice::stream{0});
  const std::int64_t first = std::ssize(text) - 1;
  if (draft.cached() < first)
    feed(draft, std::span(text).subspan(at_index(draft.cached()), at_index(first - draft.cached())));
  sluice::drafted_tree tree;
  tree.clear(text.back());
  index_t level = 0, end = 1;
  for (const index_t w : widths) {
    const at::Tensor logits = feed(draft, tree, level, end, first);
    const std::vector<float_row> q = rows_of(logits);
    std::array<token_id, 8> top;
    for (index_t node = level; node < end; ++node) {
      sluice::draw_children(sluice::top_draws{}, std::span(top).first(at_index(w)), {}, q[at_index(node - level)],
                            vocabulary, none);
      tree.add_children(node, std::span(top).first(at_index(w)));
    }
    level = end;
    end = tree.size();
  }
  const at::Tensor logits = feed(target, tree, 0, tree.size(), first);
  std::vector<greedy_row> p;
  for (const float_row& r : rows_of(logits)) p.emplace_back(r);
  std::array<index_t, 9> kept{0}, ranks;
  const sluice::tree_decision d = sluice::verify_tree(
      sluice::exact_match{}, [&](index_t node) { return p[at_index(node)].view(); },
      [&](index_t) { return float_row{}; }, std::span(kept).subspan(1), std::span(ranks), tree, none);
  TORCH_CHECK(!d.fault, "node ", d.fault.row, ": its row is not a law");
  const std::span<const index_t> path = std::span(kept).first(at_index(d.accepted) + 1);
  for (const index_t node : path.subspan(1)) text.push_back(tree.token(node));
  text.push_back(d.next);
  target.keep(first, path);
  draft.keep(first, path.back() < level ? path : path.first(path.size() - 1));  // it has no row of a leaf
  ++t.calls, t.tokens += d.accepted + 1;
}

}  // namespace

int main() {
  const c10::InferenceMode no_gradients;
  at::set_num_threads(1);
  torch::manual_seed(1);
  attention_model target, draft;
  const auto from = target.parameters(), to = draft.parameters();  // the draft: the target with a little noise
  for (std::size_t i = 0; i < from.size(); ++i) to[i].copy_(from[i] + 0.1 * at::std(from[i]) * at::randn_like(from[i]));

  const std::vector<token_id> prompt{3, 141, 59, 26};
  constexpr std::size_t length = 200;
  const auto decode = [&](const char* name, auto round) {
    std::vector<token_id> text = prompt;
    target.truncate(0), draft.truncate(0);
    feed(target, std::span(text).first(text.size() - 1));
    tally t;
    for (std::uint64_t r = 0; text.size() < prompt.size() + length; ++r) round(text, t, sluice::stream{7}.derive(r));
    text.resize(prompt.size() + length);
    std::printf("%-40s %6td calls, %5.2f tokens a call, %td rows copied\n", name, t.calls,
                static_cast<double>(t.tokens) / static_cast<double>(t.calls), t.copied_rows);
    return std::pair{text, t};
  };
  const auto chain = [&](const auto& rule, index_t gamma, bool greedy) {
    return [&target, &draft, rule, gamma, greedy](std::vector<token_id>& text, tally& t, sluice::stream key) {
      chain_round(rule, target, draft, text, gamma, greedy, t, key);
    };
  };
  const auto [alone, t0] = decode("temperature 0, the target alone", chain(sluice::token_rejection{}, 0, true));
  const auto [chained, t1] = decode("temperature 0, chain of 4", chain(sluice::token_rejection{}, 4, true));
  const std::array<index_t, 4> widths{3, 2, 1, 1};
  const auto [branched, t2] =
      decode("temperature 0, tree 3 x 2 x 1 x 1", [&](std::vector<token_id>& text, tally& t, sluice::stream) {
        greedy_tree_round(target, draft, text, widths, t);
      });
  const auto [sampled, t3] =
      decode("temperature 1, block verification of 4", chain(sluice::block_verification{}, 4, false));

  const bool same = chained == alone && branched == alone, views = t1.copied_rows + t3.copied_rows == 0;
  std::printf("chain and tree write what the target writes alone: %s\n", same ? "yes" : "NO");
  return same && views && t1.calls < t0.calls && t2.calls < t0.calls && sampled != alone ? 0 : 1;
}
