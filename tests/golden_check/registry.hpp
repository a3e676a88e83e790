#pragma once
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <limits>
#include <map>
#include <sluice/core/expects.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace golden::detail {
/// A key that the inputs lack makes a failed case: the library only asserts it, which would end the program.
inline void check_access(bool ok, const char* condition) {
  if (!ok) throw std::logic_error(std::string("JSON access: ") + condition);
}
}  // namespace golden::detail
#define JSON_ASSERT(condition) ::golden::detail::check_access(static_cast<bool>(condition), #condition)
#include <nlohmann/json.hpp>

/// Kinds of golden cases. A file beside this one defines
///     static const golden::kind k{"technique-slug", "kind-name", [](const golden::json& in) -> golden::json {...}};
/// and is found by the build. The function computes the keys of `expected` from `inputs` alone.
namespace golden {

using json = nlohmann::json;
using runner = std::function<json(const json& inputs)>;

/// All kinds of the program, by technique and kind.
struct registry {
  std::map<std::pair<std::string, std::string>, runner> runners;
  std::vector<std::string> duplicates;  ///< "technique/kind" registered more than once: a defect of the program
};

inline registry& all_kinds() {
  static registry kinds;  // local to the function: it is there before the first kind, whatever the order of the files
  return kinds;
}

/// Registers a runner when it is constructed.
struct kind {
  kind(const char* technique, const char* name, runner run) {
    if (!all_kinds().runners.try_emplace({technique, name}, std::move(run)).second)
      all_kinds().duplicates.push_back(std::string(technique) + '/' + name);
  }
};

/// A number, or one of the strings "inf" and "-inf".
inline double number(const json& j) {
  if (j.is_string()) {
    const auto& text = j.get_ref<const std::string&>();
    if (text == "inf") return std::numeric_limits<double>::infinity();
    if (text == "-inf") return -std::numeric_limits<double>::infinity();
    throw std::runtime_error("not a number: \"" + text + '"');
  }
  return j.get<double>();
}
/// The inverse of `number`. NaN stays a number that equals nothing.
inline json real(double x) {
  if (std::isinf(x)) return x > 0 ? "inf" : "-inf";
  return x;
}
inline std::vector<double> numbers(const json& list) {
  std::vector<double> x;
  for (const json& j : list) x.push_back(number(j));
  return x;
}
template <class Range>
json reals(const Range& range) {
  json list = json::array();
  for (const auto& x : range) list.push_back(real(static_cast<double>(x)));
  return list;
}

namespace detail {
template <class Word>
Word parse_word(const json& j) {
  const auto& text = j.get_ref<const std::string&>();
  Word word{};
  const char *first = text.data() + 2, *last = text.data() + text.size();
  const bool sized = text.size() == 2 + 2 * sizeof(Word) && text.compare(0, 2, "0x") == 0;
  if (!sized || std::from_chars(first, last, word, 16).ptr != last)
    throw std::runtime_error("not a word of " + std::to_string(2 * sizeof(Word)) + " hex digits: \"" + text + '"');
  return word;
}
}  // namespace detail

/// "0x" and 16 or 8 hex digits.
inline std::uint64_t word64(const json& j) { return detail::parse_word<std::uint64_t>(j); }
inline std::uint32_t word32(const json& j) { return detail::parse_word<std::uint32_t>(j); }
inline json hex64(std::uint64_t x) {
  char text[19];
  std::snprintf(text, sizeof text, "0x%016llx", static_cast<unsigned long long>(x));
  return text;
}
inline json hex32(std::uint32_t x) {
  char text[11];
  std::snprintf(text, sizeof text, "0x%08lx", static_cast<unsigned long>(x));
  return text;
}

/// The result of f, or "error" if sluice refuses the call.
template <class F>
json or_error(F&& f) {
  try {
    return f();
  } catch (const sluice::invalid_argument&) {
    return "error";
  }
}

}  // namespace golden
