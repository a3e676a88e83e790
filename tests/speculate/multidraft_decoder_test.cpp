// Fails for: greedy rows that draft or emit anything but the maximum; weighted selection with the n of another node, or
// a child that is not the draw of the emitted token, where equal draws share a node of the tree.
#include <catch2/catch.hpp>
#include <sluice/speculate/logit_processors.hpp>
#include <sluice/speculate/optimal_multidraft.hpp>
#include <sluice/speculate/weighted_selection.hpp>

#include "decoder_laws.hpp"

using namespace decoder_laws;
using support::table_language_model;

TEST_CASE("decoder: weighted selection is lossless, enumerated", "[decoder][enumeration]") {
  const text_t prompt{1, 0};
  for (const index_t v : {2, 3}) {
    table_language_model<double> p(v, 2, 7, 1.5, v == 3 ? 0.3 : 0.0), q(v, 1, 57);
    for (const tree_shape& shape :
         {full_tree(2, 1), full_tree(3, 1), independent_paths(2, 2), tree_shape({2, 2, 0, 0, 0})}) {
      const index_t length = shape.depth() + 1;
      const auto make = [&] {
        return decoder(p, q, weighted_selection({.sweeps = 2}), prompt, {.shape = shape, .max_new_tokens = length},
                       stream{1});
      };
      INFO("v " << v << ", nodes " << shape.n_drafted() << ", depth " << shape.depth());
      CHECK(difference(emitted_law(make, law_of(p), prompt, length, 1), target_law(law_of(p), prompt, length)) < 1e-9);
    }
  }
}

TEST_CASE("decoder: at temperature 0 hybrid drafts give greedy text", "[decoder]") {
  table_language_model<double> p(5, 2, 3), q(5, 2, 4);
  const text_t prompt{1, 2};
  text_t greedy = prompt;
  for (int i = 0; i < 60; ++i) {
    const auto law = law_of(p)(greedy);
    greedy.push_back(static_cast<token_id>(std::max_element(law.begin(), law.end()) - law.begin()));
  }
  const sampling_options cold{.temperature = 0}, warm{.temperature = 1};
  for (const sampling_options& on_draft : {cold, warm})
    for (const tree_shape& shape : {chain_shape(3), full_tree(2, 2), full_tree(4, 1)}) {
      decoder d(p, q, hybrid_verification<>{}, processing{cold, on_draft}, fixed_draft_length{}, prompt,
                {.shape = shape, .max_new_tokens = 60}, stream{9});
      const decoding out = d.run();
      CHECK(out.status == status::completed);
      CHECK(out.tokens == text_t(greedy.begin() + 2, greedy.end()));
    }
}
