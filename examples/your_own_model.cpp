// your_own_model: a language model of your own in the decoder. Here a table of byte pairs counted in the program's own
// text; replace the body of score() and row() by calls of your network.
#include <sluice/speculate/block_verification.hpp>
#include <sluice/speculate/decoder.hpp>

#include <cmath>
#include <cstdio>
#include <string_view>
#include <vector>

using sluice::index_t;
using sluice::token_id;

constexpr std::string_view story =
    "the cat sat on the mat and the dog sat on the cat. then the cat ran to the dog and the dog ran to the mat. ";

struct pair_model {
  using scalar = float;  // of the rows
  explicit pair_model(float prior) : logits(256 * 256, prior) {
    for (std::size_t i = 0; i < story.size(); ++i)
      logits[256 * static_cast<unsigned char>(story[i]) + static_cast<unsigned char>(story[(i + 1) % story.size()])] +=
          1;
    for (float& l : logits) l = std::log(l);
  }
  index_t vocabulary_size() const { return 256; }
  // One call scores all nodes from first_new on. This model looks one token back, so that it only has to remember the
  // tokens; a network would run a batch here, with tree.parent as attention mask.
  void score(const sluice::token_tree& tree, index_t /*first_new*/) { tokens = tree.token; }
  // The law of the token behind a node, where it lies: logits, not copied.
  sluice::token_row<float> row(index_t node) const {
    const auto last = static_cast<std::size_t>(tokens[static_cast<std::size_t>(node)]);
    return {sluice::row_kind::logits, std::span(logits).subspan(256 * last, 256)};
  }
  // These nodes are text; a network keeps their cache entries and drops all others.
  void keep(std::span<const index_t> path) { kept += std::ssize(path); }

  std::vector<float> logits;
  std::vector<token_id> tokens;
  index_t kept = 0;
};

int main() {
  pair_model target(0.0001f), draft(0.02f);
  const std::vector<token_id> prompt{'t'};
  sluice::decoder decoder(target, draft, sluice::block_verification{}, prompt,
                          {.shape = sluice::chain_shape(4), .max_new_tokens = 300, .stop_tokens = {'.'}},
                          sluice::stream{7});
  const sluice::decoding result = decoder.run();
  for (const token_id x : decoder.text()) std::printf("%c", x >= ' ' && x < 127 ? static_cast<char>(x) : '?');
  std::printf("\n\n%zu tokens, %.2f a target call, acceptance %.2f, %td positions cached\n", result.tokens.size(),
              result.stats.tokens_per_target_call(), result.stats.acceptance(), target.kept);
}
