// Decoding the text: target calls per token of every rule and shape, against one call per token. Rows of n-gram models
// cost the same per position, so wall time cannot improve here; the work unit is what an expensive target would be
// charged for.
#include "decoding_world.hpp"

namespace {

using namespace bench::speculation;

constexpr const char* slug = "speculative-base";

/// Draft calls count too, a tenth of a target call each.
constexpr double draft_cost = 0.1;
template <class Controller>
auto controlled(const world& (*text)(), Controller controller, const char* who = nullptr) {
  return [=](benchmark::State& state) {
    const world& w = text();
    static measured m;
    if (m.likelihood.empty())
      m.stats = decode<small_model>(w, token_rejection{}, chain_shape(16), n_requests(), &m, controller);
    for (auto _ : state)
      benchmark::DoNotOptimize(
          decode<small_model>(w, token_rejection{}, chain_shape(16), 5, nullptr, controller).tokens);
    state.counters["quality"] = likelihood_difference(m, plain(w));
    report(state, m, who, draft_cost);
  };
}

template <index_t Gamma>
void add_chain(const std::string& name, const world& (*text)()) {
  const std::string at = ", gamma = " + std::to_string(Gamma);
  auto token = named(slug, name + ", token rejection" + at, "2x to 3x faster (T5-XXL)");
  token.naive(one_call_a_token(text, Gamma)).sluice(decoded<small_model>(text, token_rejection{}, chain<Gamma>, Gamma));
  if (Gamma == 4) {
    token.peer("drafts sampled, draw and compare",
               decoded<small_model>(text, strict_match{}, chain<Gamma>, Gamma, "sampled, compared"));
    token.peer("drafts greedy, draw and compare",
               decoded<small_model>(text, exact_match{}, chain<Gamma>, Gamma, "greedy, compared"));
  }
  named(slug, name + ", block verification" + at, "5 to 8 % over token rejection")
      .naive(one_call_a_token(text, Gamma))
      .sluice(decoded<small_model>(text, block_verification{}, chain<Gamma>, Gamma));
}

template <class Rule>
void add_tree(const std::string& name, const world& (*text)(), Rule rule, tree_shape (*shape)(const world&),
              double key) {
  named(slug, name, "").naive(one_call_a_token(text, -1)).sluice(decoded<small_model>(text, rule, shape, key));
}

const bool registered = [] {
  add_chain<1>("bytes 6 from 4", bytes_from_4);
  add_chain<2>("bytes 6 from 4", bytes_from_4);
  add_chain<4>("bytes 6 from 4", bytes_from_4);
  add_chain<8>("bytes 6 from 4", bytes_from_4);
  add_tree("bytes 6 from 4, tree K = 2 depth 4 with replacement", bytes_from_4, with_replacement{}, full<2, 4>, -2);
  add_tree("bytes 6 from 4, tree K = 2 depth 4 without replacement", bytes_from_4, without_replacement{}, full<2, 4>,
           -2);
  add_tree("bytes 6 from 4, tree K = 4 depth 4 without replacement", bytes_from_4, without_replacement{}, full<4, 4>,
           -4);
  add_tree("bytes 6 from 4, planned tree of 16 nodes", bytes_from_4, without_replacement{}, planned<16>, -16);
  add_tree("bytes 6 from 4, planned tree of 64 nodes", bytes_from_4, without_replacement{}, planned<64>, -64);
  add_tree("bytes 6 from 4, tree K = 2 depth 4 top children", bytes_from_4, recursive_rejection<top_draws>{},
           full<2, 4>, -2);
  named(slug, "bytes 6, prompt lookup", "")
      .naive(one_call_a_token(bytes_from_4, -1))
      .sluice(decoded<lookup>(bytes_from_4, token_rejection{}, chain<8>, -8));
  add_chain<4>("bytes 6 from 3", bytes_from_3);
  auto adaptive = named(slug, "bytes 6 from 3, adaptive draft length", "");
  adaptive.unit = "target calls and draft calls / 10, per token";
  adaptive.naive(one_call_a_token(bytes_from_3, -1))
      .sluice(controlled(bytes_from_3, adaptive_draft_length({.gamma_max = 16, .draft_cost = draft_cost})))
      .peer("gamma = 16 always", controlled(bytes_from_3, fixed_draft_length{16}, "gamma = 16 always"));
  add_chain<4>("byte pairs 4 from 3", byte_pairs_from_3);
  add_chain<4>("byte pairs 4 from 2", byte_pairs_from_2);
  add_tree("byte pairs 4 from 2, tree K = 2 depth 4 without replacement", byte_pairs_from_2, without_replacement{},
           full<2, 4>, -2);
  return true;
}();

}  // namespace
