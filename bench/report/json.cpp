#include <nlohmann/json.hpp>

#include "result.hpp"

namespace bench {
namespace {

using json = nlohmann::ordered_json;

json real(double x) { return std::isfinite(x) ? json(x) : json(nullptr); }

json variant(const measurement* m) {
  if (m == nullptr) return nullptr;
  return {{"work", real(m->work)}, {"seconds", real(m->seconds)}, {"quality", real(m->quality)}};
}

}  // namespace

std::string json_document(const std::vector<row_result>& rows, const machine_info& machine) {
  json document{{"schema", 1}, {"machine", json::object()}, {"rows", json::array()}};
  for (const auto& [key, value] : machine) document["machine"][key] = value;
  for (const auto& r : rows) {
    const auto& d = r.description;
    json size = json::object(), peers = json::array();
    for (const auto& [name, value] : r.size) size[name] = real(value);
    for (const auto& v : r.variants)
      if (v.kind == "peer" && v.repetitions > 0) {
        json p{{"name", v.name}};
        p.update(variant(&v));
        peers.push_back(std::move(p));
      }
    document["rows"].push_back({{"technique", d.slug},
                                {"workload", d.workload},
                                {"size", std::move(size)},
                                {"work_unit", d.unit},
                                {"naive", variant(r.find("naive"))},
                                {"sluice", variant(r.find("sluice"))},
                                {"peers", std::move(peers)},
                                {"work_ratio", real(r.work_ratio())},
                                {"time_ratio", real(r.time_ratio())},
                                {"peer_time_ratio", real(r.peer_time_ratio())},
                                {"quality",
                                 {{"name", d.quality.name},
                                  {"higher_is_better", d.quality.higher_is_better},
                                  {"tolerance", real(d.quality.tolerance)},
                                  {"ok", r.quality_ok()}}},
                                {"paper_claim", d.claim},
                                {"note", r.full_note()}});
  }
  return document.dump(1, ' ', false, json::error_handler_t::replace) + '\n';
}

}  // namespace bench
