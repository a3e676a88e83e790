// golden_check FILE...: recomputes every case of golden files from its inputs and compares with what is expected.
// One line a case: "ok", "FAIL" with where, expected and got, or "unknown kind". Exit code 0 if every case is ok, 1 if
// a case failed or is of an unknown kind, 2 if a file cannot be used.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>

#include "registry.hpp"

namespace {
using golden::json;

struct mismatch {
  std::string where, expected, got;
};

std::string print(const json& j) {
  if (j.is_number_float() && !std::isfinite(j.get<double>()))
    return std::isnan(j.get<double>()) ? "NaN" : "an infinity";
  std::string text = j.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > 120) text = text.substr(0, 117) + "...";
  return text;
}

/// Every key of `expected`, at every depth. Keys that only `got` has are ignored.
std::optional<mismatch> compare(const json& expected, const json& got, double rel, double abs,
                                const std::string& where) {
  const mismatch different{where, print(expected), print(got)};
  if (expected.is_object()) {
    if (!got.is_object()) return different;
    for (const auto& [key, value] : expected.items()) {
      const std::string inner = where.empty() ? key : where + '.' + key;
      if (!got.contains(key)) return mismatch{inner, print(value), "nothing"};
      if (auto found = compare(value, got[key], rel, abs, inner)) return found;
    }
    return std::nullopt;
  }
  if (expected.is_array()) {
    if (!got.is_array()) return different;
    if (expected.size() != got.size())
      return mismatch{where, std::to_string(expected.size()) + " elements", std::to_string(got.size()) + " elements"};
    for (std::size_t i = 0; i < expected.size(); ++i)
      if (auto found = compare(expected[i], got[i], rel, abs, where + '[' + std::to_string(i) + ']')) return found;
    return std::nullopt;
  }
  if (expected.is_number()) {
    if (!got.is_number()) return different;
    const double e = expected.get<double>(), g = got.get<double>();
    if (std::abs(g - e) <= abs + rel * std::abs(e)) return std::nullopt;  // false for NaN
    return mismatch{where, print(expected), print(got) + " (off by " + print(json(std::abs(g - e))) + ')'};
  }
  if (expected.type() != got.type() || expected != got) return different;
  return std::nullopt;
}

struct totals {
  int ok = 0, failed = 0, unknown = 0, unusable = 0;
};

void say(const char* verdict, const std::string& file, const std::string& name, const std::string& rest = {}) {
  std::printf("%-12s %s/%s%s\n", verdict, file.c_str(), name.c_str(), rest.c_str());
}

void check_case(const std::string& technique, const json& c, totals& total) {
  const std::string name = c.at("name"), kind = c.at("kind");
  const json &inputs = c.at("inputs"), &expected = c.at("expected");
  const double rel = c.at("tolerance").at("rel"), abs = c.at("tolerance").at("abs");
  const auto& runners = golden::all_kinds().runners;
  const auto run = runners.find({technique, kind});
  if (run == runners.end()) {
    ++total.unknown;
    return say("unknown kind", technique, name, ": " + kind);
  }
  std::optional<mismatch> found;
  try {
    found = compare(expected, run->second(inputs), rel, abs, "");
  } catch (const std::exception& e) {
    ++total.failed;
    return say("FAIL", technique, name, std::string(": exception: ") + e.what());
  } catch (...) {
    ++total.failed;
    return say("FAIL", technique, name, ": exception");
  }
  if (found) {
    ++total.failed;
    return say("FAIL", technique, name,
               ": expected " + found->expected + " got " + found->got + " at " +
                   (found->where.empty() ? "the result" : found->where));
  }
  ++total.ok;
  say("ok", technique, name);
}

void refuse(const char* path, const std::string& why, totals& total) {
  std::fprintf(stderr, "golden_check: %s: %s\n", path, why.c_str());
  ++total.unusable;
}

void check_file(const char* path, totals& total) {
  std::string text;
  try {
    std::ifstream file(path, std::ios::binary);
    text.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  } catch (const std::exception&) {  // a directory
    text.clear();
  }
  if (text.empty()) return refuse(path, "the file cannot be read or is empty.", total);
  json document;
  try {
    document = json::parse(text);
  } catch (const json::exception& e) {
    return refuse(path, std::string("the file is not valid JSON: ") + e.what(), total);
  }
  std::string at = "the file";
  try {
    const std::string technique = document.at("technique");
    const json& cases = document.at("cases");
    if (!cases.is_array() || cases.empty()) return refuse(path, "\"cases\" is not a list of cases.", total);
    for (std::size_t i = 0; i < cases.size(); ++i) {
      at = "case " + std::to_string(i);
      check_case(technique, cases[i], total);
    }
  } catch (const json::exception& e) {
    return refuse(path, at + " is not in the golden schema: " + e.what(), total);
  }
}
}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: golden_check FILE...\n");
    return 2;
  }
  for (const std::string& name : golden::all_kinds().duplicates)
    std::fprintf(stderr, "golden_check: %s is registered more than once.\n", name.c_str());
  if (!golden::all_kinds().duplicates.empty()) return 2;
  totals total;
  for (int i = 1; i < argc; ++i) check_file(argv[i], total);
  std::printf("%d ok, %d failed, %d of unknown kind, %d unusable files\n", total.ok, total.failed, total.unknown,
              total.unusable);
  return total.unusable > 0 ? 2 : total.failed + total.unknown > 0 ? 1 : 0;
}
