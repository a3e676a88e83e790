#include <sluice/models/transformer.hpp>
#include <vector>

#include "registry.hpp"

namespace {

using golden::json;
using sluice::index_t;
using sluice::token_id;
using namespace sluice::models;

json tiny_transformer_case(const json& in) {
  const json& c = in.at("config");
  const auto size = [&](const char* name) { return c.at(name).get<index_t>(); };
  const transformer_config config{size("V"),
                                  size("D"),
                                  size("L"),
                                  size("H"),
                                  size("Hkv"),
                                  size("F"),
                                  golden::number(c.at("theta")),
                                  golden::number(c.at("gain"))};
  const transformer_weights<double> weights(config, in.at("seed").get<std::uint64_t>());
  sluice::token_tree text;
  for (const json& t : in.at("tokens")) {
    text.token.push_back(t.get<token_id>());
    text.parent.push_back(std::ssize(text.parent) - 1);
  }
  transformer<double> model(weights);
  model.score(text, 0);
  double embedding = 0, squares = 0;
  std::vector<double> first_row;
  for (index_t r = 0; r < config.vocabulary; ++r)
    for (index_t i = 0; i < config.width; ++i) embedding += weights.embedding()(r, i);
  for (index_t i = 0; i < config.width; ++i) first_row.push_back(weights[0].qkv(0, i));
  for (index_t node = 0; node < std::ssize(text.token); ++node)
    for (const double l : model.row(node).values) squares += l * l;
  const index_t last = std::ssize(text.token) - 1;
  return {{"parameters", parameters(config)},
          {"embedding_sum", golden::real(embedding)},
          {"Wq0_first_row", golden::reals(first_row)},
          {"logits_first_position", golden::reals(model.row(0).values)},
          {"logits_last_position", golden::reals(model.row(last).values)},
          {"logits_sum_sq", golden::real(squares)}};
}

const golden::kind transformer_kind{"test-models", "tiny_transformer", tiny_transformer_case};

}  // namespace
