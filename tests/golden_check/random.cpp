#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <sluice/random/distributions.hpp>
#include <sluice/random/halton.hpp>
#include <sluice/random/sobol.hpp>
#include <span>
#include <stdexcept>
#include <vector>

#include "registry.hpp"

namespace {

using golden::json;
using sluice::index_t;

json philox4x32(const json& in) {
  json outputs = json::array();
  for (const json& v : in.at("vectors")) {
    std::array<std::uint32_t, 4> counter;
    std::array<std::uint32_t, 2> key;
    for (std::size_t i = 0; i < 4; ++i) counter[i] = golden::word32(v.at("counter").at(i));
    for (std::size_t i = 0; i < 2; ++i) key[i] = golden::word32(v.at("key").at(i));
    json words = json::array();
    for (const std::uint32_t w : sluice::philox4x32(counter, key)) words.push_back(golden::hex32(w));
    outputs.push_back(std::move(words));
  }
  return {{"outputs", std::move(outputs)}};
}

json philox4x64(const json& in) {
  json outputs = json::array();
  for (const json& v : in.at("vectors")) {
    std::array<std::uint64_t, 4> counter;
    std::array<std::uint64_t, 2> key;
    for (std::size_t i = 0; i < 4; ++i) counter[i] = golden::word64(v.at("counter").at(i));
    for (std::size_t i = 0; i < 2; ++i) key[i] = golden::word64(v.at("key").at(i));
    json words = json::array();
    for (const std::uint64_t w : sluice::philox4x64(counter, key)) words.push_back(golden::hex64(w));
    outputs.push_back(std::move(words));
  }
  return {{"outputs", std::move(outputs)}};
}

json layout(const json& in) {
  json items = json::array();
  for (const json& item : in.at("items")) {
    const sluice::stream key(golden::word64(item.at("seed")), golden::word64(item.at("stream")));
    json words = json::array(), u64 = json::array();
    for (const std::uint64_t w : key.block(golden::word64(item.at("block")))) {
      words.push_back(golden::hex32(static_cast<std::uint32_t>(w)));
      words.push_back(golden::hex32(static_cast<std::uint32_t>(w >> 32)));
      u64.push_back(golden::hex64(w));
    }
    json out = {{"words", std::move(words)}, {"u64", std::move(u64)}};
    if (item.contains("derive_index")) {
      const sluice::stream child = key.derive(golden::word64(item.at("derive_index")));
      out["derived_seed"] = golden::hex64(child.seed());
      out["derived_stream"] = golden::hex64(child.id());
    }
    items.push_back(std::move(out));
  }
  return {{"items", std::move(items)}};
}

json conversions(const json& in) {
  json out = {{"co53", json::array()}, {"oc53", json::array()}, {"oo52", json::array()},
              {"co24", json::array()}, {"oc24", json::array()}, {"oo23", json::array()}};
  for (const json& j : in.value("words64", json::array())) {
    const std::uint64_t w = golden::word64(j);
    out["co53"].push_back(sluice::co53(w));
    out["oc53"].push_back(sluice::oc53(w));
    out["oo52"].push_back(sluice::oo52(w));
  }
  for (const json& j : in.value("words32", json::array())) {
    const std::uint32_t w = golden::word32(j);
    out["co24"].push_back(static_cast<double>(sluice::co24(w)));
    out["oc24"].push_back(static_cast<double>(sluice::oc24(w)));
    out["oo23"].push_back(static_cast<double>(sluice::oo23(w)));
  }
  return out;
}

json bounded(const json& in) {
  const sluice::stream key(golden::word64(in.at("seed")), golden::word64(in.at("stream")));
  json items = json::array(), words = json::array();
  for (std::uint64_t k = 0; k < in.value("first_words", json::array()).size(); ++k)
    words.push_back(golden::hex64(key.word(k)));
  for (const json& j : in.at("n")) {
    const std::uint64_t n = golden::word64(j);
    items.push_back(golden::or_error([&]() -> json {
      sluice::cursor random(key);
      json values = json::array();
      for (std::int64_t d = 0; d < in.at("draws").get<std::int64_t>(); ++d)
        values.push_back(golden::hex64(sluice::below(random, n)));
      return {{"n", j}, {"values", std::move(values)}, {"words_used", random.state().position}};
    }));
  }
  return {{"items", std::move(items)}, {"first_words", std::move(words)}};
}

/// The words of the case, in turn.
class given_words {
 public:
  using result_type = std::uint64_t;
  explicit given_words(std::vector<std::uint64_t> words) : words_(std::move(words)) {}
  static constexpr result_type min() { return 0; }
  static constexpr result_type max() { return ~result_type{0}; }
  result_type operator()() { return words_.at(next_++); }

 private:
  std::vector<std::uint64_t> words_;
  std::size_t next_ = 0;
};

json box_muller(const json& in) {
  std::vector<std::uint64_t> words;
  for (const json& j : in.at("words")) words.push_back(golden::word64(j));
  std::vector<double> z(words.size() / 2 * 2);
  given_words source(std::move(words));
  sluice::normals(z, source);
  return {{"normals", golden::reals(z)}};
}

json points(const json& in) {
  const auto n = in.at("points").get<std::uint64_t>();
  json out = json::object();
  if (in.contains("sobol_dim")) {
    out["sobol"] = golden::or_error([&]() -> json {
      const auto dimensions = in.at("sobol_dim").get<index_t>();
      sluice::expects(dimensions >= 1, "sobol_halton", "sobol_dim", dimensions);
      // A row is [dimension from 1, degree, a, [m ...]]; dimension 1 has none.
      std::vector<sluice::sobol_row> rows(static_cast<std::size_t>(dimensions - 1));
      for (const json& j : in.value("joe_kuo_rows", json::array())) {
        const auto d = j.at(0).get<index_t>();
        if (d < 2 || d > dimensions) continue;
        sluice::sobol_row& row = rows[static_cast<std::size_t>(d - 2)];
        row.a = j.at(2).get<std::uint32_t>();
        row.m = j.at(3).get<std::vector<std::uint32_t>>();
        sluice::expects(j.at(1).get<std::size_t>() == row.m.size(), "sobol_halton", "degree", row.m.size());
      }
      const sluice::sobol generator(rows);
      json list = json::array();
      for (std::uint64_t i = 0; i < n; ++i) {
        json point = json::array();
        for (index_t d = 0; d < dimensions; ++d) point.push_back(generator.at(i, d));
        list.push_back(std::move(point));
      }
      return list;
    });
  }
  if (in.contains("halton_bases")) {
    out["halton"] = golden::or_error([&]() -> json {
      const auto bases = in.at("halton_bases").get<std::vector<std::uint32_t>>();
      const sluice::halton generator(bases);
      json list = json::array();
      for (std::uint64_t i = 0; i < n; ++i) {
        json point = json::array();
        for (index_t d = 0; d < generator.dimensions(); ++d) point.push_back(generator.at(i, d));
        list.push_back(std::move(point));
      }
      return list;
    });
  }
  return out;
}

json multinomial(const json& in) {
  const auto n = in.at("n").get<std::int64_t>();
  const std::vector<double> p = golden::numbers(in.at("p"));
  const std::size_t k = p.size();
  const double size = static_cast<double>(n);
  try {
    sluice::cursor unused(sluice::stream(0));
    sluice::multinomial(n, p, unused);
  } catch (const sluice::invalid_argument&) {
    json refused = json::object();
    for (const char* key : {"conditional_p", "mean", "covariance", "mode", "pmf_at_mode"}) refused[key] = "error";
    return refused;
  }
  std::vector<double> mean(k);
  json covariance = json::array();
  for (std::size_t i = 0; i < k; ++i) {
    mean[i] = size * p[i];
    std::vector<double> row(k);
    for (std::size_t j = 0; j < k; ++j) row[j] = i == j ? size * p[i] * (1 - p[i]) : -size * p[i] * p[j];
    covariance.push_back(golden::reals(row));
  }
  // The mode: log P is separable and concave, so the best next trial is always the greedy one.  Every mode has
  // c_i > n p_i - 1, which is where the greedy steps begin.
  std::vector<std::int64_t> mode(k);
  std::int64_t left = n;
  for (std::size_t i = 0; i < k; ++i) {
    mode[i] = std::max<std::int64_t>(0, static_cast<std::int64_t>(std::ceil(mean[i] - 1e-9)) - 1);
    left -= mode[i];
  }
  for (; left > 0; --left) {
    std::size_t best = 0;
    for (std::size_t i = 1; i < k; ++i)
      if (p[i] / static_cast<double>(mode[i] + 1) > p[best] / static_cast<double>(mode[best] + 1)) best = i;
    ++mode[best];
  }
  double log_pmf = std::lgamma(size + 1);
  for (std::size_t i = 0; i < k; ++i)
    if (mode[i] > 0)
      log_pmf += static_cast<double>(mode[i]) * std::log(p[i]) - std::lgamma(static_cast<double>(mode[i]) + 1);
  return {{"conditional_p", golden::reals(sluice::conditional_probabilities(p))},
          {"mean", golden::reals(mean)},
          {"covariance", std::move(covariance)},
          {"mode", mode},
          {"pmf_at_mode", std::exp(log_pmf)}};
}

const golden::kind k1{"sampling-primitives", "philox4x32_10", philox4x32};
const golden::kind k2{"sampling-primitives", "philox4x64_10", philox4x64};
const golden::kind k3{"sampling-primitives", "stream_layout_and_derive", layout};
const golden::kind k4{"sampling-primitives", "uniform_conversions", conversions};
const golden::kind k5{"sampling-primitives", "bounded_integers", bounded};
const golden::kind k6{"sampling-primitives", "box_muller", box_muller};
const golden::kind k7{"sampling-primitives", "sobol_halton", points};
const golden::kind k8{"sampling-primitives", "multinomial", multinomial};

}  // namespace
