// speculative_text [FILE [OUT.svg]]: trains a large and a small n-gram model on a text, lets the small one draft and
// the large one verify, prints what they write and what it cost, and draws tokens per call over the draft length.
#include <sluice/models/ngram.hpp>
#include <sluice/models/ngram_language_model.hpp>
#include <sluice/models/text_generator.hpp>
#include <sluice/models/tokenizers.hpp>
#include <sluice/speculate/block_verification.hpp>
#include <sluice/speculate/decoder.hpp>
#include <sluice/speculate/recursive_rejection.hpp>
#include <sluice/speculate/token_rejection.hpp>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

using namespace sluice;
using bytes = models::byte_tokenizer;

namespace {

struct point {
  index_t gamma;
  double token, block, theory;  // tokens per target call
};

/// The curves as a picture: measured points joined, theory dashed.
void write_svg(const std::string& path, const std::vector<point>& points) {
  std::ofstream out(path);
  double top = 1;
  for (const point& p : points) top = std::max({top, p.token, p.block, p.theory});
  const auto x = [&](index_t g) {
    return 60 + 500 * static_cast<double>(g) / static_cast<double>(points.back().gamma);
  };
  const auto y = [&](double v) { return 340 - 300 * v / top; };
  out << "<svg xmlns='http://www.w3.org/2000/svg' width='620' height='400' font-family='sans-serif' font-size='13'>"
      << "<rect width='620' height='400' fill='white'/><path d='M60 40V340H560' fill='none' stroke='black'/>";
  for (const point& p : points)
    out << "<text x='" << x(p.gamma) << "' y='358' text-anchor='middle'>" << p.gamma << "</text>";
  for (int v = 1; v <= static_cast<int>(top); ++v)
    out << "<text x='52' y='" << y(v) + 4 << "' text-anchor='end'>" << v << "</text>";
  out << "<text x='310' y='385' text-anchor='middle'>draft length</text><text x='60' y='28'>tokens per target "
         "call</text>";
  const auto curve = [&](double point::*value, const char* colour, const char* dash, const char* name, int line) {
    out << "<polyline fill='none' stroke-width='2' stroke='" << colour << "' stroke-dasharray='" << dash
        << "' points='";
    for (const point& p : points) out << x(p.gamma) << ',' << y(p.*value) << ' ';
    out << "'/><text x='240' y='" << 270 + 18 * line << "' fill='" << colour << "'>" << name << "</text>";
  };
  curve(&point::token, "#1f6fb4", "none", "token rejection, measured", 0);
  curve(&point::block, "#c0392b", "none", "block verification, measured", 1);
  curve(&point::theory, "#777777", "6 4", "theory at the acceptance measured for token rejection", 2);
  out << "</svg>\n";
}

}  // namespace

int main(int argc, char** argv) {
  std::string text = models::generate_text(1, 400'000);
  if (argc > 1) {
    std::ifstream file(argv[1], std::ios::binary);
    text.assign(std::istreambuf_iterator<char>(file), {});
    if (text.size() < 1000) return std::fprintf(stderr, "%s: no text of at least 1000 bytes\n", argv[1]), 2;
  }
  const std::string train = text.substr(0, text.size() * 9 / 10), rest = text.substr(train.size());
  const models::ngram_model large(train, {.order = 6}), small(train, {.order = 4});
  models::ngram_language_model target(large), draft(small);
  const std::vector<token_id> prompt = bytes::encode(rest.substr(0, 64));

  const auto decode = [&](const auto& rule, const tree_shape& shape, index_t n) {
    return decoder(target, draft, rule, prompt, {.shape = shape, .max_new_tokens = n}, stream{7}).run();
  };
  const decoding sample = decode(block_verification{}, chain_shape(8), 400);
  std::printf("%s|%s\n\n", bytes::decode(prompt).c_str(), bytes::decode(sample.tokens).c_str());

  std::printf("%-34s %12s %12s %11s\n", "rule and shape", "tokens/call", "nodes/token", "acceptance");
  const auto print = [](const char* name, const decoder_stats& s) {
    std::printf("%-34s %12.2f %12.1f %11.3f\n", name, s.tokens_per_target_call(),
                static_cast<double>(s.nodes_scored) / static_cast<double>(s.tokens), s.acceptance());
  };
  print("one call a token", decode(token_rejection{}, chain_shape(0), 4000).stats);
  print("token rejection, chain of 4", decode(token_rejection{}, chain_shape(4), 4000).stats);
  print("block verification, chain of 4", decode(block_verification{}, chain_shape(4), 4000).stats);
  const auto tree = decode(recursive_rejection<draws_without_replacement>{}, full_tree(2, 4), 4000).stats;
  print("two children a node, depth 4", tree);
  const tree_plan plan = best_tree(tree.rank_acceptance(), 16, 12);
  print("best tree of 16 nodes", decode(recursive_rejection<draws_without_replacement>{}, plan.shape, 4000).stats);

  std::vector<point> points;
  for (const index_t gamma : {0, 1, 2, 3, 4, 6, 8, 10, 12}) {
    const decoder_stats token = decode(token_rejection{}, chain_shape(gamma), 4000).stats;
    const decoder_stats block = decode(block_verification{}, chain_shape(gamma), 4000).stats;
    points.push_back({gamma, token.tokens_per_target_call(), block.tokens_per_target_call(),
                      expected_tokens(token.acceptance(), gamma)});
  }
  write_svg(argc > 2 ? argv[2] : "speculative_text.svg", points);
}
