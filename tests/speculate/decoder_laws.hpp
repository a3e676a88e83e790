#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <sluice/speculate/decoder.hpp>
#include <span>
#include <support/enumerate.hpp>
#include <support/table_language_model.hpp>
#include <utility>
#include <vector>

/// Exact laws of the text that a decoder writes, by enumeration of all drafts and all decisions.
namespace decoder_laws {

using namespace sluice;
using text_t = std::vector<token_id>;
using law_t = std::map<text_t, double>;

/// Calls g(f(random), probability) for every outcome.
template <class F, class G>
void outcomes_of(F&& f, G&& g) {
  support::enumerating_source random;
  do {
    const auto result = f(random);
    g(result, static_cast<double>(random.probability()));
  } while (random.advance());
}

/// Hands one enumerating source to every place where a decoder draws.
struct enumerated {
  support::enumerating_source* source;
  support::enumerating_source& drafting(std::int64_t, index_t) const { return *source; }
  support::enumerating_source& verification(std::int64_t) const { return *source; }
};

/// The law of the target's own text of `length` tokens after the prompt, cut behind the first stop token. `law(text)`
/// gives the row.
template <class Law>
void add_target(law_t& out, Law&& law, const text_t& prompt, index_t length, const text_t& stops, text_t text = {},
                double probability = 1) {
  const bool stopped = !text.empty() && std::count(stops.begin(), stops.end(), text.back()) > 0;
  if (std::ssize(text) == length || stopped) {
    out[text] += probability;
    return;
  }
  text_t whole = prompt;
  whole.insert(whole.end(), text.begin(), text.end());
  const std::vector<double> row = law(whole);
  for (std::size_t x = 0; x < row.size(); ++x) {
    if (row[x] == 0) continue;
    text.push_back(static_cast<token_id>(x));
    add_target(out, law, prompt, length, stops, text, probability * row[x]);
    text.pop_back();
  }
}
template <class Law>
law_t target_law(Law&& law, const text_t& prompt, index_t length, const text_t& stops = {}) {
  law_t out;
  add_target(out, law, prompt, length, stops);
  return out;
}
template <class S>
auto law_of(const support::table_language_model<S>& m) {
  return [&m](const text_t& text) {
    const auto row = m.law(text);
    return std::vector<double>(row.begin(), row.end());
  };
}

/// The law of the text after `n_rounds` rounds (or until finished), shorter texts completed by the target to `length`
/// tokens. `make()` returns a decoder.
template <class Make, class Law>
law_t emitted_law(Make&& make, Law&& law, const text_t& prompt, index_t length, int n_rounds,
                  const text_t& stops = {}) {
  law_t emitted, out;
  outcomes_of(
      [&](support::enumerating_source& source) {
        auto d = make();
        enumerated random{&source};
        for (int r = 0; r < n_rounds && !d.finished(); ++r)
          if (d.step_with(random).status != status::completed) return text_t{-1};
        return text_t(d.new_tokens().begin(), d.new_tokens().end());
      },
      [&](const text_t& text, double probability) { emitted[text] += probability; });
  for (const auto& [text, probability] : emitted) add_target(out, law, prompt, length, stops, text, probability);
  return out;
}

/// The largest difference between two laws.
inline double difference(const law_t& a, const law_t& b) {
  double worst = 0;
  for (const auto& [text, p] : a) worst = std::max(worst, std::abs(p - (b.count(text) ? b.at(text) : 0)));
  for (const auto& [text, p] : b) worst = std::max(worst, std::abs(p - (a.count(text) ? a.at(text) : 0)));
  return worst;
}

}  // namespace decoder_laws
