// check_results FILE: does FILE follow schema 1 of results.json?  Says what is wrong and returns 1, or counts the rows
// and returns 0.
#include <cmath>
#include <cstdio>
#include <fstream>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>

namespace {

using nlohmann::json;

[[noreturn]] void fail(const std::string& where, const std::string& what) {
  throw std::runtime_error(where + ": " + what);
}

void keys_are(const json& object, const std::string& where, std::initializer_list<const char*> wanted) {
  if (!object.is_object()) fail(where, "not an object");
  const std::set<std::string> expected(wanted.begin(), wanted.end());
  for (const auto& [key, value] : object.items())
    if (!expected.contains(key)) fail(where, "unexpected key " + key);
  for (const auto& key : expected)
    if (!object.contains(key)) fail(where, "key " + key + " is missing");
}
void is_text(const json& v, const std::string& where, bool may_be_empty) {
  if (!v.is_string() || (!may_be_empty && v.get_ref<const std::string&>().empty())) fail(where, "not a text");
}
void is_number_or_null(const json& v, const std::string& where) {
  if (!v.is_null() && !v.is_number()) fail(where, "neither a number nor null");
}
void check_variant(const json& v, const std::string& where, bool peer) {
  if (v.is_null() && !peer) return;
  if (peer)
    keys_are(v, where, {"name", "work", "seconds", "quality"}), is_text(v["name"], where + ".name", false);
  else
    keys_are(v, where, {"work", "seconds", "quality"});
  is_number_or_null(v["work"], where + ".work");
  is_number_or_null(v["quality"], where + ".quality");
  if (!v["seconds"].is_number() || v["seconds"].get<double>() < 0) fail(where + ".seconds", "not a duration");
}
void check_ratio(const json& given, const json& a, const json& b, const std::string& where) {
  is_number_or_null(given, where);
  if (given.is_null() || a.is_null() || b.is_null()) return;
  const double expected = a.get<double>() / b.get<double>();
  if (std::abs(given.get<double>() - expected) > 1e-9 * std::abs(expected))
    fail(where, "is not the quotient of the two values");
}

void check(const json& document) {
  keys_are(document, "document", {"schema", "machine", "rows"});
  if (document["schema"] != 1) fail("schema", "not 1");
  if (!document["machine"].is_object() || !document["machine"].contains("flags")) fail("machine", "flags are missing");
  if (!document["rows"].is_array()) fail("rows", "not an array");
  std::size_t i = 0;
  for (const auto& r : document["rows"]) {
    const std::string at = "rows[" + std::to_string(i++) + ']';
    keys_are(r, at,
             {"technique", "workload", "size", "work_unit", "naive", "sluice", "peers", "work_ratio", "time_ratio",
              "peer_time_ratio", "quality", "paper_claim", "note"});
    for (const char* k : {"technique", "workload", "work_unit"}) is_text(r[k], at + '.' + k, false);
    for (const char* k : {"paper_claim", "note"}) is_text(r[k], at + '.' + k, true);
    if (!r["size"].is_object()) fail(at + ".size", "not an object");
    check_variant(r["naive"], at + ".naive", false);
    check_variant(r["sluice"], at + ".sluice", false);
    if (!r["peers"].is_array()) fail(at + ".peers", "not an array");
    json fastest;
    for (const auto& p : r["peers"]) {
      check_variant(p, at + ".peers", true);
      if (fastest.is_null() || p["seconds"] < fastest) fastest = p["seconds"];
    }
    if (!r["naive"].is_null() && !r["sluice"].is_null()) {
      check_ratio(r["work_ratio"], r["naive"]["work"], r["sluice"]["work"], at + ".work_ratio");
      check_ratio(r["time_ratio"], r["naive"]["seconds"], r["sluice"]["seconds"], at + ".time_ratio");
    }
    if (!r["sluice"].is_null())
      check_ratio(r["peer_time_ratio"], fastest, r["sluice"]["seconds"], at + ".peer_time_ratio");
    keys_are(r["quality"], at + ".quality", {"name", "higher_is_better", "tolerance", "ok"});
    is_text(r["quality"]["name"], at + ".quality.name", true);
    is_number_or_null(r["quality"]["tolerance"], at + ".quality.tolerance");
    for (const char* k : {"higher_is_better", "ok"})
      if (!r["quality"][k].is_boolean()) fail(at + ".quality." + k, "not a boolean");
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: %s results.json\n", argv[0]), 2;
  try {
    std::ifstream in(argv[1]);
    if (!in) return std::fprintf(stderr, "%s cannot be read\n", argv[1]), 2;
    const json document = json::parse(in);
    check(document);
    std::printf("%s: schema 1, %zu rows\n", argv[1], document["rows"].size());
  } catch (const std::exception& e) {
    return std::fprintf(stderr, "%s: %s\n", argv[1], e.what()), 1;
  }
}
