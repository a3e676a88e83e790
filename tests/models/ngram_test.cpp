// Fails for: T(h) counted as occurrences; P_{-1} missing, or added once for every order; contexts in reading order
// instead of newest token first; contexts that do not reach back to the beginning of the text; a beginning counted
// twice, or lost; Kneser-Ney with occurrences below the top order, with one discount for all orders, with a left
// neighbour counted per occurrence, or with a beginning counted as a neighbour; an unseen context that does not stop
// the recursion; a difference between row and probability; n-grams that straddle words or blocks of the counter; a
// context that ends where a piece of the text does.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <sluice/models/ngram.hpp>
#include <sluice/models/text_generator.hpp>
#include <sluice/models/tokenizers.hpp>
#include <sluice/random/stream.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <vector>

using namespace sluice;
using namespace sluice::models;
using tokens = std::vector<token_id>;

namespace {

tokens random_text(std::uint64_t seed, std::size_t n, std::uint64_t vocabulary) {
  cursor random{stream(seed)};
  tokens text(n);
  for (auto& t : text) t = static_cast<token_id>(below(random, vocabulary) * below(random, vocabulary) / vocabulary);
  return text;
}

/// The definitions word by word, on maps of contexts in reading order.
class definition {
 public:
  definition(const tokens& text, index_t vocabulary, ngram_options options)
      : vocabulary_(vocabulary), options_(options), count_(static_cast<std::size_t>(options.order)) {
    const std::size_t top = count_.size() - 1;
    std::vector<std::map<std::pair<tokens, token_id>, std::set<token_id>>> left(count_.size());
    for (std::size_t i = 0; i < text.size(); ++i)
      for (std::size_t m = 0; m <= std::min(i, top); ++m) {
        const auto at = text.begin() + static_cast<std::ptrdiff_t>(i);
        const tokens h(at - static_cast<std::ptrdiff_t>(m), at);
        if (m == top || options.smoothing == smoothing::witten_bell)
          ++count_[m][h][text[i]];
        else if (i > m && left[m][{h, text[i]}].insert(text[i - m - 1]).second)
          ++count_[m][h][text[i]];
      }
  }
  double discount(std::size_t m) const {
    double n1 = 0, n2 = 0;
    for (const auto& [h, followers] : count_[m])
      for (const auto& [w, c] : followers) {
        n1 += c == 1;
        n2 += c == 2;
      }
    return n1 == 0 ? 0.0 : n1 / (n1 + 2 * n2);
  }
  double probability(token_id w, const tokens& context) const {
    double p = 1.0 / static_cast<double>(vocabulary_);
    for (std::size_t m = 0; m < count_.size() && m <= context.size(); ++m) {
      const auto found = count_[m].find(tokens(context.end() - static_cast<std::ptrdiff_t>(m), context.end()));
      if (found == count_[m].end()) break;
      double total = 0, c = found->second.count(w) ? found->second.at(w) : 0;
      const auto types = static_cast<double>(found->second.size());
      for (const auto& [x, n] : found->second) total += n;
      if (options_.smoothing == smoothing::witten_bell)
        p = (c + types * p) / (total + types);
      else
        p = (std::max(c - discount(m), 0.0) + discount(m) * types * p) / total;
    }
    return p;
  }

 private:
  index_t vocabulary_;
  ngram_options options_;
  std::vector<std::map<tokens, std::map<token_id, int>>> count_;
};

}  // namespace

TEST_CASE("n-gram rows equal the definition, token by token", "[ngram]") {
  const auto smooth = GENERATE(smoothing::witten_bell, smoothing::kneser_ney);
  const int order = GENERATE(1, 2, 3, 5);
  // 7: one word a key; 300000: three fields a word; the largest: two fields a word, three words a key at order 5.
  const index_t vocabulary =
      GENERATE(index_t{1}, index_t{7}, index_t{300000}, index_t{std::numeric_limits<token_id>::max()});
  const auto length = static_cast<std::size_t>(GENERATE(0, 1, 2, 3, 60));
  tokens text = random_text(3, length, static_cast<std::uint64_t>(std::min<index_t>(vocabulary, 7)));
  if (vocabulary > 7)  // ids that differ only in their high bits
    for (auto& t : text) t = static_cast<token_id>(t % 3 + (t / 3) * static_cast<token_id>((vocabulary - 1) / 8));
  const ngram_options options{.order = order, .smoothing = smooth};
  if (vocabulary > 300000) {  // a row would need 16 GB: the training alone, through the counter
    ngram_counter counter(vocabulary, order);
    counter.add(std::span<const token_id>(text));
    CHECK(counter.n_tokens() == static_cast<std::int64_t>(length));
    return;
  }
  const ngram_model model(std::span<const token_id>(text), vocabulary, options);
  const definition exact(text, vocabulary, options);
  std::vector<double> row(static_cast<std::size_t>(vocabulary), std::numeric_limits<double>::quiet_NaN());
  std::vector<tokens> contexts{{}, {0}, {0, 0, 0, 0, 0, 0}};
  for (std::size_t i = 0; i <= text.size(); i += 1 + i / 4)
    contexts.emplace_back(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(i));
  for (const auto& h : contexts) {
    model.row(row, h);
    long double sum = 0;  // in two levels: a plain sum of 300000 terms has an error of its own
    for (std::size_t first = 0; first < row.size(); first += 512)
      sum += std::accumulate(row.begin() + static_cast<std::ptrdiff_t>(first),
                             row.begin() + static_cast<std::ptrdiff_t>(std::min(first + 512, row.size())), 0.0L);
    CHECK(std::abs(static_cast<double>(sum - 1)) < 5e-15);
    std::set<token_id> asked{0, static_cast<token_id>(vocabulary - 1)};
    asked.insert(text.begin(), text.end());
    for (const token_id w : asked) {
      CHECK(model.probability(w, h) == Approx(exact.probability(w, h)).epsilon(1e-13).margin(1e-300));
      CHECK(row[static_cast<std::size_t>(w)] == Approx(model.probability(w, h)).epsilon(1e-14).margin(1e-300));
    }
  }
  for (int m = 0; m < order && smooth == smoothing::kneser_ney; ++m)
    CHECK(model.discount(m) == Approx(exact.discount(static_cast<std::size_t>(m))).epsilon(1e-15));
}

TEST_CASE("a text in pieces trains the same model, also across the counter's blocks", "[ngram]") {
  // Several blocks of about the same size; one, and one that is too small to be merged before the end.
  const std::string text = generate_text(3, GENERATE(3'000'000, 1 << 20)) + "0123456789";
  ngram_counter counter(256, 3);
  const std::span all(reinterpret_cast<const unsigned char*>(text.data()), text.size());
  counter.add(all.first(1));
  counter.add(all.subspan(1, 999'999));
  counter.add(all.subspan(1'000'000, 0));
  counter.add(all.subspan(1'000'000));
  const ngram_model pieces(std::move(counter)), whole(text, {.order = 3});
  // The same counts, by a table of all n-grams.
  std::vector<std::uint32_t> table(std::size_t{1} << 24);
  for (std::size_t i = 2; i < all.size(); ++i)
    ++table[std::size_t{all[i - 2]} << 16 | std::size_t{all[i - 1]} << 8 | all[i]];
  const auto distinct = std::count_if(table.begin(), table.end(), [](std::uint32_t n) { return n > 0; });
  CHECK(whole.n_entries(2) == distinct);
  CHECK(pieces.n_entries(2) == distinct);
  const tokens h{'t', 'a'};
  const std::uint32_t* const followers = &table[std::size_t{'t'} << 16 | std::size_t{'a'} << 8];
  double total = 0, types = 0;
  for (int w = 0; w < 256; ++w) {
    total += followers[w];
    types += followers[w] > 0;
  }
  const tokens shorter{'a'};
  const ngram_model bigram(text, {.order = 2});
  for (const token_id w : {token_id{' '}, token_id{'i'}, token_id{'z'}}) {
    const double p = (followers[w] + types * bigram.probability(w, shorter)) / (total + types);
    CHECK(whole.probability(w, h) == Approx(p).epsilon(1e-13));
    CHECK(pieces.probability(w, h) == whole.probability(w, h));
  }
}

TEST_CASE("contexts continue where a text is cut", "[ngram]") {
  const tokens text = random_text(9, 40, 5);
  const std::span<const token_id> s(text);
  const ngram_model whole(s, 5, {.order = 4});
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    ngram_counter counter(5, 4);
    counter.add(s.first(cut));
    counter.add(s.subspan(cut));
    const ngram_model pieces(std::move(counter));
    std::vector<double> row(5), expected(5);
    for (std::size_t i = 0; i <= text.size(); ++i) {
      pieces.row(row, s.first(i));
      whole.row(expected, s.first(i));
      REQUIRE(row == expected);
    }
  }
}

TEST_CASE("the generated text has the published bits per byte and acceptance", "[ngram]") {
  const std::string text = generate_text(1, 203'000);
  const tokens bytes = byte_tokenizer::encode(text);
  const int orders[] = {2, 3, 4, 6};
  const double bits[] = {2.923, 1.983, 1.350, 1.000}, acceptance[] = {0.353, 0.584, 0.797};
  std::vector<ngram_model> model;
  for (const int order : orders)
    model.emplace_back(std::string_view(text).substr(0, 200'000), ngram_options{.order = order});
  for (std::size_t k = 0; k < 4; ++k)
    CHECK(std::abs(bits_per_token(model[k], std::span<const token_id>(bytes), 200'000) - bits[k]) < 5e-4);
  // On-policy: contexts are what the target itself writes.
  tokens written(bytes.end() - 3020, bytes.end() - 3000);
  cursor random(stream(17));
  std::vector<double> p(256), q(256), sum(3);
  constexpr int n = 6000;
  for (int i = 0; i < n; ++i) {
    model[3].row(p, written);
    for (std::size_t k = 0; k < 3; ++k) {
      model[k].row(q, written);
      for (std::size_t w = 0; w < 256; ++w) sum[k] += std::min(p[w], q[w]) / n;
    }
    written.push_back(static_cast<token_id>(categorical(random, std::span<const double>(p))));
  }
  for (std::size_t k = 0; k < 3; ++k) CHECK(std::abs(sum[k] - acceptance[k]) < 0.02);
}

TEST_CASE("Witten-Bell never gives 0, rows overwrite what was there, and only the last tokens matter", "[ngram]") {
  const std::string text = generate_text(2, 30'000);
  const ngram_model model(text, {.order = 6});
  std::vector<double> row(256, std::numeric_limits<double>::quiet_NaN());
  tokens h = byte_tokenizer::encode(std::string_view(text).substr(1000, 9));
  model.row(row, h);
  CHECK(*std::min_element(row.begin(), row.end()) > 0);
  CHECK(model.matched_length(h) == 5);
  auto poisoned = h;
  poisoned[3] = 300;  // not in the vocabulary, and too old to be looked at
  std::vector<double> again(256);
  CHECK(support::allocations_in([&] { model.row(again, poisoned); }) == 0);
  CHECK(again == row);
  h.back() = 1;  // a byte that the text does not have
  CHECK(model.matched_length(h) == 0);
  CHECK(model.context_length() == 5);
}

TEST_CASE("n-gram models refuse bad input by name", "[ngram]") {
  const tokens text{0, 1, 2, 1};
  const std::span<const token_id> s(text);
  SLUICE_CHECK_THROWS((ngram_model(s, 2)), "ngram_counter::add", "tokens", 2);
  SLUICE_CHECK_THROWS((ngram_model(s, 0)), "ngram_counter", "vocabulary_size", -1);
  SLUICE_CHECK_THROWS((ngram_model(s, index_t{1} << 31)), "ngram_counter", "vocabulary_size", -1);
  SLUICE_CHECK_THROWS((ngram_model(s, 3, {.order = 0})), "ngram_counter", "order", -1);
  SLUICE_CHECK_THROWS((ngram_counter(256, 57)), "ngram_counter", "order", -1);
  const tokens negative{0, -1};
  ngram_counter counter(3, 2);
  SLUICE_CHECK_THROWS(counter.add(std::span<const token_id>(negative)), "ngram_counter::add", "tokens", 1);
  CHECK(counter.n_tokens() == 0);
  const ngram_model model(s, 3);
  std::vector<double> row(3), small(2);
  SLUICE_CHECK_THROWS(model.row(small, s), "ngram_model::row", "out.size", -1);
  SLUICE_CHECK_THROWS(model.row(row, negative), "ngram_model::row", "context", 1);
  SLUICE_CHECK_THROWS(model.probability(3, s), "ngram_model::probability", "token", -1);
  SLUICE_CHECK_THROWS(model.probability(0, negative), "ngram_model::probability", "context", 1);
  SLUICE_CHECK_THROWS(bits_per_token(model, s, 5), "bits_per_token", "first", -1);
  CHECK(bits_per_token(model, s, 4) == 0);
}
