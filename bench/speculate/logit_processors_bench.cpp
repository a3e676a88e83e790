// Top-p of one row by selection, against a sort of the row.
#include <sluice/speculate/logit_processors.hpp>

#include "verification_peers.hpp"

namespace {

using namespace bench;
constexpr double mass = 0.95;

const std::vector<float>& logits(index_t v) { return round_at<outcome::first_rejected>(v).p[1]; }

/// The tokens kept, in the order (-logit, id), computed in double.
std::vector<token_id> kept_by_sorting(const std::vector<float>& row) {
  std::vector<std::pair<double, token_id>> items(row.size());
  for (std::size_t x = 0; x < row.size(); ++x) items[x] = {-static_cast<double>(row[x]), static_cast<token_id>(x)};
  std::sort(items.begin(), items.end());
  std::vector<double> weight(items.size());
  double total = 0, sum = 0;
  for (std::size_t k = 0; k < items.size(); ++k) total += weight[k] = std::exp(items[0].first - items[k].first);
  std::vector<token_id> ids;
  for (std::size_t k = 0; k < items.size(); ++k) {
    ids.push_back(items[k].second);
    if ((sum += weight[k]) >= mass * total) break;
  }
  return ids;
}

template <class Keep>
auto keeping(index_t v, Keep keep) {
  return [=](benchmark::State& state) {
    const std::vector<float>& row = logits(v);
    auto f = keep();
    for (auto _ : state) benchmark::DoNotOptimize(f(row));
    std::vector<token_id> ids = f(row), exact = kept_by_sorting(row), differ;
    std::sort(ids.begin(), ids.end());
    std::sort(exact.begin(), exact.end());
    std::set_symmetric_difference(ids.begin(), ids.end(), exact.begin(), exact.end(), std::back_inserter(differ));
    state.counters["work"] = 1;
    state.counters["V"] = static_cast<double>(v);
    state.counters["quality"] = static_cast<double>(differ.size());
    state.SetLabel(std::to_string(exact.size()) + " tokens are kept");
  };
}

const bool registered = [] {
  for (const index_t v : {index_t{32000}, index_t{128256}})
    row{.slug = "speculative-base",
        .workload = "top-p 0.95 of a row, V = " + std::to_string(v),
        .unit = "rows",
        .quality = {.name = "tokens kept that should not be, or the reverse", .tolerance = 0},
        .claim = "",
        .note = "float logits in, the ids that are kept out"}
        .naive(keeping(v, [] { return kept_by_sorting; }))
        .sluice(keeping(v, [] {
          return [out = sluice::processed_row()](const std::vector<float>& r) mutable {
            const auto kept = out.apply(sluice::top_p{mass}, sluice::token_row<float>{sluice::row_kind::logits, r},
                                        std::ssize(r), {});
            return std::vector<token_id>(kept.ids.begin(), kept.ids.end());
          };
        }));
  return true;
}();

}  // namespace
