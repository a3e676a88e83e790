// A transformer scores b tokens of one path behind a text of 256: token by token, or in one call. All variants are the
// same model, so the rows have the same bits; the weights are drawn once (about 0.3 s for the 96 MiB of `base`).
#include <sluice/models/transformer.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <report/row.hpp>
#include <string>
#include <vector>

namespace {

using sluice::index_t;
using sluice::token_id;
using namespace sluice::models;
constexpr index_t context = 256;

struct world {
  transformer_weights<float> weights;
  transformer<float> model;
  sluice::token_tree path;

  explicit world(const transformer_config& c) : weights(c), model(weights, {.capacity = 512}) {
    std::vector<token_id> text;
    for (index_t i = 0; i < context; ++i) text.push_back(static_cast<token_id>(i * 37 % c.vocabulary));
    model.reset(text);
    path = {{text.back()}, {-1}};
    for (index_t i = 1; i <= 16; ++i) {
      path.token.push_back(static_cast<token_id>(i * 53 % c.vocabulary));
      path.parent.push_back(i - 1);
    }
  }
  static world& of(const std::string& name) {
    static std::map<std::string, std::unique_ptr<world>> worlds;
    std::unique_ptr<world>& w = worlds[name];
    if (!w) w = std::make_unique<world>(name == "base" ? base_transformer : small_transformer);
    return *w;
  }

  sluice::token_tree first(index_t b) const {
    const auto n = static_cast<std::ptrdiff_t>(b + 1);
    return {{path.token.begin(), path.token.begin() + n}, {path.parent.begin(), path.parent.begin() + n}};
  }
  void together(const sluice::token_tree& tree) { model.score(tree, 1); }
  void one_by_one(const std::vector<sluice::token_tree>& trees) {
    for (std::size_t i = 1; i < trees.size(); ++i) model.score(trees[i], static_cast<index_t>(i));
  }
  std::vector<float> rows(index_t b) {
    std::vector<float> all;
    for (index_t i = 1; i <= b; ++i) {
      const auto row = model.row(i).values;
      all.insert(all.end(), row.begin(), row.end());
    }
    return all;
  }
  /// Median time of a call on b tokens over that of a call on one, in turn, so that both meet the same caches and
  /// noise.
  double ratio(index_t b, int runs) {
    const sluice::token_tree trees[] = {first(1), first(b)};
    std::vector<double> times[2];
    for (int i = 0; i < 2 * runs; ++i) {
      const auto start = std::chrono::steady_clock::now();
      together(trees[i % 2]);
      times[i % 2].push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    for (auto& t : times) std::nth_element(t.begin(), t.begin() + runs / 2, t.end());
    return times[1][static_cast<std::size_t>(runs / 2)] / times[0][static_cast<std::size_t>(runs / 2)];
  }
  /// "t(b)/t(1) ..." for b = 2, 4, 8, 16.
  const std::string& curve() {
    if (!curve_.empty()) return curve_;
    const int runs = bench::options().mode == bench::effort::quick ? 3 : 15;
    ratio(1, 1);
    curve_ = "t(b)/t(1), b = 2, 4, 8, 16:";
    for (const index_t b : {2, 4, 8, 16}) {
      char number[16];
      std::snprintf(number, sizeof number, " %.2f", ratio(b, runs));
      curve_ += number;
    }
    return curve_;
  }

 private:
  std::string curve_;
};

auto call(const std::string& name, index_t b, bool together) {
  return [name, b, together](benchmark::State& state) {
    world& w = world::of(name);
    std::vector<sluice::token_tree> trees;
    for (index_t i = 0; i <= b; ++i) trees.push_back(w.first(i));
    w.model.reset_counts();
    for (auto _ : state) together ? w.together(trees.back()) : w.one_by_one(trees);
    state.counters["work"] = static_cast<double>(w.model.counts().calls) / static_cast<double>(state.iterations());
    state.counters["b"] = static_cast<double>(b);
    const std::vector<float> got = w.rows(b);
    w.one_by_one(trees);
    const std::vector<float> alone = w.rows(b);
    double worst = 0;
    for (std::size_t i = 0; i < got.size(); ++i)
      worst = std::max(worst, std::abs(static_cast<double>(got[i]) - static_cast<double>(alone[i])));
    state.counters["quality"] = worst;
    if (together) state.SetLabel(w.curve());
  };
}

const bool registered = [] {
  for (const char* name : {"small", "base"})
    for (const index_t b : {4, 16})
      bench::row{"speculative-base",
                 std::string("transformer ") + name + ", b = " + std::to_string(b),
                 "model calls",
                 {.name = "largest difference of a logit", .tolerance = 0},
                 "",
                 std::string(name == std::string("base") ? "25.2 M" : "4.9 M") +
                     " parameters in float, 256 tokens of text, one thread"}
          .naive(call(name, b, false))
          .sluice(call(name, b, true));
  return true;
}();

}  // namespace
