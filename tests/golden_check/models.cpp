#include <algorithm>
#include <cmath>
#include <sluice/models/gaussian_mixture.hpp>
#include <sluice/models/ngram.hpp>
#include <sluice/models/text_generator.hpp>
#include <sluice/models/tokenizers.hpp>
#include <span>
#include <string>
#include <vector>

#include "registry.hpp"

namespace {

using golden::json;
using sluice::index_t;
using sluice::token_id;
using namespace sluice::models;
using tokens = std::vector<token_id>;

Eigen::VectorXd vector(const json& list) {
  const std::vector<double> x = golden::numbers(list);
  return Eigen::Map<const Eigen::VectorXd>(x.data(), static_cast<Eigen::Index>(x.size()));
}
json rows(const Eigen::MatrixXd& m) {
  json list = json::array();
  for (Eigen::Index i = 0; i < m.rows(); ++i) list.push_back(golden::reals(Eigen::VectorXd(m.row(i).transpose())));
  return list;
}

json at(const gaussian_mixture& mixture, const Eigen::VectorXd& y, const json& kappas) {
  json list = json::array();
  for (const double kappa : golden::numbers(kappas))
    list.push_back({{"log_density", golden::real(mixture.log_density(y, kappa))},
                    {"responsibilities", golden::reals(mixture.responsibilities(y, kappa))},
                    {"D", golden::reals(mixture.denoised(y, kappa))},
                    {"score", golden::reals(mixture.score(y, kappa))},
                    {"eps", golden::reals(mixture.noise(y, kappa))},
                    {"div_D", golden::real(mixture.divergence(y, kappa))},
                    {"posterior_cov", rows(mixture.posterior_covariance(y, kappa))}});
  return list;
}

json gaussian_mixture_case(const json& in) {
  const auto mixture =
      random_mixture(in.at("d").get<index_t>(), in.at("K").get<index_t>(), in.at("seed").get<std::uint64_t>());
  json out{{"weights", golden::reals(mixture.weights())},
           {"means", rows(mixture.means().transpose())},
           {"sd", golden::reals(mixture.sd())},
           {"at", at(mixture, vector(in.at("x_scaled")), in.at("kappa"))}};
  if (in.contains("flow_z"))
    out["flow_velocity"] =
        golden::reals(mixture.flow_velocity(vector(in.at("flow_z")), golden::number(in.at("flow_t"))));
  return out;
}

json ring8_case(const json& in) {
  const auto mixture =
      ring(in.at("components").get<index_t>(), golden::number(in.at("radius")), golden::number(in.at("sd")));
  return {{"at", at(mixture, vector(in.at("x")), in.at("kappa"))}};
}

smoothing smoothing_of(const json& name) {
  return name.get<std::string>() == "kneser_ney" ? smoothing::kneser_ney : smoothing::witten_bell;
}
tokens ids(const json& list) {
  tokens t;
  for (const json& x : list) t.push_back(x.get<token_id>());
  return t;
}
/// At most the last n tokens, and at most the first n.
std::span<const token_id> last(const tokens& t, std::size_t n) { return std::span(t).last(std::min(n, t.size())); }
std::span<const token_id> first(const tokens& t, std::size_t n) { return std::span(t).first(std::min(n, t.size())); }

json text_case(const json& in) {
  const auto seed = in.at("seed").get<std::uint64_t>();
  const std::string text = generate_text(seed, in.at("total_bytes").get<index_t>());
  json out, hashes = json::array(), models = json::array();
  for (const json& n : in.at("hash_prefix_bytes")) {
    std::uint64_t h = 0xcbf29ce484222325u;
    for (const char c : text.substr(0, n.get<std::size_t>())) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    hashes.push_back(golden::hex64(h));
  }
  out["fnv1a64"] = std::move(hashes);
  out["first_text"] = text.substr(0, in.at("first_characters").get<std::size_t>());
  const tokens bytes = byte_tokenizer::encode(text);
  const auto train = in.at("train_bytes").get<std::size_t>(), eval = in.at("eval_bytes").get<std::size_t>();
  for (const json& m : in.at("models")) {
    const ngram_model model(first(bytes, train), in.at("vocabulary").get<index_t>(),
                            {m.at("order").get<int>(), smoothing_of(m.at("smoothing"))});
    const auto n = static_cast<std::size_t>(model.context_length());
    json prob = json::array(), discounts = json::array();
    const tokens context = ids(in.at("context_bytes")), unseen = ids(in.at("unseen_context_bytes"));
    for (const token_id w : ids(in.at("queried_bytes"))) prob.push_back(model.probability(w, last(context, n)));
    for (int k = 0; k < model.order(); ++k) discounts.push_back(model.discount(k));
    models.push_back(
        {{"prob", std::move(prob)},
         {"prob_unseen", model.probability(in.at("unseen_queried_byte").get<token_id>(), first(unseen, n))},
         {"bits_per_byte", bits_per_token(model, first(bytes, train + eval), static_cast<index_t>(train))},
         {"discounts", std::move(discounts)}});
  }
  out["models"] = std::move(models);
  if (in.contains("words")) {
    const json& w = in.at("words");
    const word_tokenizer words(text);
    const tokens t = words.encode(text);
    const std::size_t kept = t.size() - std::min(t.size(), w.at("eval_words").get<std::size_t>());
    json top = json::array(), perplexity = json::array();
    for (token_id i = 1; i <= w.at("top").get<token_id>() && i < words.vocabulary_size(); ++i)
      top.push_back(std::string(words.word(i)));
    for (const json& order : w.at("orders")) {
      const ngram_model model(first(t, kept), words.vocabulary_size(),
                              {order.get<int>(), smoothing_of(w.at("smoothing"))});
      perplexity.push_back(
          golden::real(bits_per_token(model, std::span<const token_id>(t), static_cast<index_t>(kept))));
    }
    out["words"] = {{"count", t.size()},
                    {"vocabulary_size_with_unk", words.vocabulary_size()},
                    {"top", std::move(top)},
                    {"log2_perplexity", std::move(perplexity)}};
  }
  return out;
}

const golden::kind mixture_kind{"test-models", "gaussian_mixture", gaussian_mixture_case};
const golden::kind ring_kind{"test-models", "ring8", ring8_case};
const golden::kind text_kind{"test-models", "text_and_ngrams", text_case};

}  // namespace
