#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <set>
#include <vector>

/// The few declarations of llama.cpp that docs/guides/engines.md uses, with a tiny engine behind them, so that the
/// snippets compile and run without llama.cpp. Names and meaning follow its header llama.h with the llama_memory_*
/// functions; this is not that header and nothing here comes from it. As in llama.cpp a token sees the cells of its
/// first sequence at no later positions, and one call overwrites the logits of the call before.

using llama_token = std::int32_t;
using llama_pos = std::int32_t;
using llama_seq_id = std::int32_t;

struct llama_batch {
  std::int32_t n_tokens;
  llama_token* token;
  float* embd;
  llama_pos* pos;
  std::int32_t* n_seq_id;
  llama_seq_id** seq_id;
  std::int8_t* logits;
};

struct llama_cell {
  llama_token token;
  llama_pos pos;
  std::set<llama_seq_id> seq;
};

struct llama_vocab {
  std::int32_t n_tokens = 64;
};
/// `flavour` tells two models apart: 0 and small numbers are similar.
struct llama_model {
  float flavour = 0;
  llama_vocab vocab{};
};
struct llama_memory_i {
  std::vector<llama_cell> cells{};
};
struct llama_context {
  llama_model model{};
  llama_memory_i memory{};
  std::vector<float> logits{};
  std::vector<std::int32_t> row_of_token{};  // -1: not asked for
  std::int64_t n_calls = 0;
};
using llama_memory_t = llama_memory_i*;

inline llama_memory_t llama_get_memory(const llama_context* c) { return &const_cast<llama_context*>(c)->memory; }
inline const llama_model* llama_get_model(const llama_context* c) { return &c->model; }
inline const llama_vocab* llama_model_get_vocab(const llama_model* m) { return &m->vocab; }
inline std::int32_t llama_vocab_n_tokens(const llama_vocab* v) { return v->n_tokens; }

inline llama_batch llama_batch_init(std::int32_t n_tokens, std::int32_t, std::int32_t n_seq_max) {
  const auto n = static_cast<std::size_t>(n_tokens);
  llama_batch b{0,
                new llama_token[n],
                nullptr,
                new llama_pos[n],
                new std::int32_t[n],
                new llama_seq_id*[n + 1],
                new std::int8_t[n]};
  for (std::size_t i = 0; i < n; ++i) b.seq_id[i] = new llama_seq_id[static_cast<std::size_t>(n_seq_max)];
  b.seq_id[n] = nullptr;
  return b;
}
inline void llama_batch_free(llama_batch b) {
  for (std::size_t i = 0; b.seq_id[i] != nullptr; ++i) delete[] b.seq_id[i];
  delete[] b.token, delete[] b.pos, delete[] b.n_seq_id, delete[] b.seq_id, delete[] b.logits;
}

inline llama_pos llama_memory_seq_pos_max(llama_memory_t m, llama_seq_id s) {
  llama_pos last = -1;
  for (const llama_cell& c : m->cells)
    if (c.seq.count(s) != 0) last = std::max(last, c.pos);
  return last;
}
inline void llama_drop_empty_cells(llama_memory_t m) {
  std::erase_if(m->cells, [](const llama_cell& c) { return c.seq.empty(); });
}
inline bool llama_in_range(llama_pos p, llama_pos p0, llama_pos p1) {
  return p >= std::max(p0, 0) && (p1 < 0 || p < p1);
}
inline bool llama_memory_seq_rm(llama_memory_t m, llama_seq_id s, llama_pos p0, llama_pos p1) {
  for (llama_cell& c : m->cells)
    if (llama_in_range(c.pos, p0, p1)) s < 0 ? c.seq.clear() : void(c.seq.erase(s));
  llama_drop_empty_cells(m);
  return true;
}
inline void llama_memory_seq_cp(llama_memory_t m, llama_seq_id from, llama_seq_id to, llama_pos p0, llama_pos p1) {
  for (llama_cell& c : m->cells)
    if (c.seq.count(from) != 0 && llama_in_range(c.pos, p0, p1)) c.seq.insert(to);
}
inline void llama_memory_seq_keep(llama_memory_t m, llama_seq_id s) {
  for (llama_cell& c : m->cells) {
    const bool stays = c.seq.count(s) != 0;
    c.seq.clear();
    if (stays) c.seq.insert(s);
  }
  llama_drop_empty_cells(m);
}

/// 0, or -1 if a token does not follow the last position of each of its sequences.
inline std::int32_t llama_decode(llama_context* c, llama_batch b) {
  ++c->n_calls;
  const auto before = c->memory.cells;
  std::fill(c->logits.begin(), c->logits.end(), -1e9f);  // the rows of the call before are gone
  c->logits.resize(static_cast<std::size_t>(b.n_tokens) * static_cast<std::size_t>(c->model.vocab.n_tokens));
  c->row_of_token.assign(static_cast<std::size_t>(b.n_tokens), -1);
  std::int32_t n_rows = 0;
  for (std::int32_t i = 0; i < b.n_tokens; ++i) {
    llama_cell cell{b.token[i], b.pos[i], {}};
    for (std::int32_t k = 0; k < b.n_seq_id[i]; ++k) {
      if (llama_memory_seq_pos_max(&c->memory, b.seq_id[i][k]) + 1 != cell.pos) return c->memory.cells = before, -1;
      cell.seq.insert(b.seq_id[i][k]);
    }
    c->memory.cells.push_back(cell);
    if (b.logits[i] == 0) continue;
    float seen = 0;  // of the whole context, older tokens fading
    for (const llama_cell& other : c->memory.cells)
      if (other.seq.count(b.seq_id[i][0]) != 0 && other.pos <= cell.pos)
        seen += static_cast<float>(other.token + 1) * std::pow(0.6f, static_cast<float>(cell.pos - other.pos));
    c->row_of_token[static_cast<std::size_t>(i)] = n_rows;
    float* row = c->logits.data() + static_cast<std::ptrdiff_t>(n_rows++) * c->model.vocab.n_tokens;
    for (std::int32_t x = 0; x < c->model.vocab.n_tokens; ++x)
      row[x] = 2 * std::sin(seen * 0.37f + static_cast<float>(x) * (1.1f + 0.01f * c->model.flavour)) +
               0.3f * c->model.flavour * std::cos(static_cast<float>(7 * x));
  }
  return 0;
}
inline float* llama_get_logits_ith(llama_context* c, std::int32_t i) {
  const auto n = static_cast<std::int32_t>(c->row_of_token.size());
  if (i < 0) i += n;
  if (i < 0 || i >= n || c->row_of_token[static_cast<std::size_t>(i)] < 0) return nullptr;
  return c->logits.data() +
         static_cast<std::ptrdiff_t>(c->row_of_token[static_cast<std::size_t>(i)]) * c->model.vocab.n_tokens;
}
