#include "options.hpp"

#include <sluice/models/images.hpp>
#include <sluice/models/text_generator.hpp>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string_view>

#ifdef SLUICE_BENCH_PICTURES
#include <support/png.hpp>
#endif

namespace bench {
namespace {

constexpr std::size_t shortest = 1000, longest = 100'000'000;

run_options& mutable_options() {
  static run_options o;
  return o;
}

// Position of the first byte that is not part of well-formed UTF-8 text, or is NUL; npos if there is none.  A character
// that the end of `s` cuts is accepted if `cut` says that the file goes on.
std::size_t first_bad_byte(std::string_view s, bool cut) {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(s[i]); };
  for (std::size_t i = 0; i < s.size();) {
    const unsigned c = at(i);
    if (c == 0) return i;
    const std::size_t n = c < 0x80                ? 1
                          : c >= 0xC2 && c < 0xE0 ? 2
                          : c >= 0xE0 && c < 0xF0 ? 3
                          : c >= 0xF0 && c < 0xF5 ? 4
                                                  : 0;
    if (n == 0) return i;
    for (std::size_t k = 1; k < n; ++k) {
      if (i + k >= s.size()) return cut ? std::string_view::npos : i;
      if ((at(i + k) & 0xC0u) != 0x80u) return i;
    }
    if ((c == 0xE0 && at(i + 1) < 0xA0) || (c == 0xED && at(i + 1) > 0x9F) || (c == 0xF0 && at(i + 1) < 0x90) ||
        (c == 0xF4 && at(i + 1) > 0x8F))
      return i;
    i += n;
  }
  return std::string_view::npos;
}

std::optional<std::string> read(const std::string& path, std::size_t limit) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return std::nullopt;
  std::string s(limit, '\0');
  in.read(s.data(), static_cast<std::streamsize>(limit));
  if (in.bad()) return std::nullopt;
  s.resize(static_cast<std::size_t>(in.gcount()));
  return s;
}

void cut_between_characters(std::string& s, std::size_t limit) {
  if (s.size() <= limit) return;
  while (limit > 0 && (static_cast<unsigned char>(s[limit]) & 0xC0u) == 0x80u) --limit;
  s.resize(limit);
}

}  // namespace

const run_options& options() { return mutable_options(); }
void set_options(const run_options& o) { mutable_options() = o; }

std::string text_problem(const std::string& path) {
  std::error_code ec;
  const auto kind = std::filesystem::status(path, ec).type();
  if (kind == std::filesystem::file_type::not_found) return "The text " + path + " does not exist.";
  if (kind == std::filesystem::file_type::directory) return "The text " + path + " is a directory, not a file.";
  const auto s = read(path, longest);
  if (!s) return "The text " + path + " cannot be read.";
  if (s->empty()) return "The text " + path + " is empty.";
  if (const std::size_t bad = first_bad_byte(*s, s->size() == longest); bad != std::string::npos)
    return "The text " + path + " is not UTF-8 text: byte " + std::to_string(bad) + " belongs to no character.";
  if (s->size() < shortest)
    return "The text " + path + " has " + std::to_string(s->size()) + " bytes; at least " + std::to_string(shortest) +
           " are needed.";
  return {};
}

const std::string& text() {
  static const std::string loaded = [] {
    const run_options& o = options();
    std::string s;
    if (!o.text.empty()) {
      s = read(o.text, o.text_bytes + 4).value_or(std::string());
      if (s.starts_with("\xEF\xBB\xBF")) s.erase(0, 3);  // a byte order mark is no text
    } else {
      s = sluice::models::generate_text(1, static_cast<sluice::index_t>(o.text_bytes));
    }
    cut_between_characters(s, o.text_bytes);
    return s;
  }();
  return loaded;
}

std::string describe_text() {
  const run_options& o = options();
  char size[64];
  if (o.text.empty()) {
    std::snprintf(size, sizeof size, "%.1f MB", double(o.text_bytes) / 1e6);
    return std::string("generated text, seed 1, ") + size;
  }
  std::error_code ec;
  const auto bytes = std::filesystem::file_size(o.text, ec);
  std::snprintf(size, sizeof size, bytes < 100'000 ? "%.1f kB" : "%.1f MB",
                double(bytes) / (bytes < 100'000 ? 1e3 : 1e6));
  std::string s = std::filesystem::path(o.text).filename().string() + ", " + size;
  if (bytes > o.text_bytes) {
    std::snprintf(size, sizeof size, ", of which the first %.1f MB are used", double(o.text_bytes) / 1e6);
    s += size;
  }
  return s;
}

std::string image_problem(const std::string& path) {
#ifdef SLUICE_BENCH_PICTURES
  std::error_code ec;
  if (!std::filesystem::exists(path, ec)) return "The picture " + path + " does not exist.";
  if (support::read_bank(path, 16).cols() == 0)
    return path + " is no picture that can be read, and no folder of such pictures.";
  return {};
#else
  return "Pictures cannot be read: stb_image.h (Debian: libstb-dev) was not there when " + path + " was asked for.";
#endif
}

std::string describe_pictures() {
  if (options().image.empty()) return "procedural pictures, bank 1";
  return std::filesystem::path(options().image).lexically_normal().filename().string();
}

Eigen::MatrixXd pictures(int side, int most) {
#ifdef SLUICE_BENCH_PICTURES
  if (!options().image.empty()) {
    const Eigen::MatrixXd own = support::read_bank(options().image, side);
    return own.leftCols(std::min<Eigen::Index>(own.cols(), most));
  }
#endif
  return sluice::models::image_bank(1, most, side).image;
}

command_line parse(int argc, char** argv) {
  command_line c;
  const auto fail = [&](std::string sentence) { return c.error = std::move(sentence), c; };
  for (int i = 1; i < argc; ++i) {
    std::string a = argv[i], value;
    const auto equals = a.find('=');
    const bool joined = a.starts_with("--") && equals != std::string::npos;
    if (joined) value = a.substr(equals + 1), a.resize(equals);
    const auto take = [&](std::string& to) {
      if (!joined) {
        if (i + 1 >= argc) return false;
        value = argv[++i];
      }
      to = value;
      return !value.empty();
    };
    bool ok = true;
    if (a == "--text") {
      ok = take(c.options.text);
    } else if (a == "--image") {
      ok = take(c.options.image);
    } else if (a == "--out") {
      ok = take(c.options.out);
    } else if (a == "--filter") {
      ok = take(c.filter);
    } else if (a == "--commit") {
      ok = take(c.commit);
    } else if (a == "--quick") {
      c.options.mode = effort::quick, c.options.seconds_per_technique = 2, c.options.text_bytes = 400'000;
    } else if (a == "--full") {
      c.options.mode = effort::full, c.options.seconds_per_technique = 60, c.options.text_bytes = 16'000'000;
    } else if (a == "--list") {
      c.list = true;
    } else if (a == "--help" || a == "-h") {
      c.help = true;
    } else {
      return fail("Unknown argument " + a + "; --help lists what there is.");
    }
    if (!ok) return fail(a + " needs a value.");
  }
  if (!c.options.text.empty()) c.error = text_problem(c.options.text);
  if (c.error.empty() && !c.options.image.empty()) c.error = image_problem(c.options.image);
  return c;
}

}  // namespace bench
