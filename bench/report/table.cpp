#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <set>

#include "result.hpp"

namespace bench {
namespace {

// Number of terminal columns of UTF-8 text without wide characters: every byte that does not continue a character.
std::size_t columns(const std::string& s) {
  return static_cast<std::size_t>(
      std::count_if(s.begin(), s.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u; }));
}
std::string left(std::string s, std::size_t width) {
  const std::size_t n = columns(s);
  return n < width ? s + std::string(width - n, ' ') : s;
}
std::string right(const std::string& s, std::size_t width) {
  const std::size_t n = columns(s);
  return n < width ? std::string(width - n, ' ') + s : s;
}
std::string repeat(const char* s, std::size_t n) {
  std::string r;
  while (n-- > 0) r += s;
  return r;
}
std::vector<std::string> wrap(const std::string& s, std::size_t width) {
  std::vector<std::string> lines(1);
  for (std::size_t i = 0; i < s.size();) {
    const std::size_t end = std::min(s.find(' ', i), s.size());
    const std::string word = s.substr(i, end - i);
    if (!lines.back().empty() && columns(lines.back()) + 1 + columns(word) > width) lines.emplace_back();
    lines.back() += (lines.back().empty() ? "" : " ") + word;
    i = end + 1;
  }
  return lines;
}
std::string in_a_cell(std::string s) {
  for (std::size_t i = 0; (i = s.find('|', i)) != std::string::npos; i += 2) s.insert(i, 1, '\\');
  return s;
}
const char* yes_no(const row_result& r) {
  return r.description.quality.name.empty() ? "-" : r.quality_ok() ? "yes" : "NO";
}

std::string peer_note(const row_result& r) {
  std::string s;
  for (const auto& v : r.variants) {
    const auto* b = r.find("sluice");
    if (v.kind != "peer" || v.repetitions == 0 || b == nullptr) continue;
    s += (s.empty() ? "" : "; ") + v.name + ": " + seconds(v.seconds) + ", " + factor(v.seconds / b->seconds);
    if (!std::isnan(v.work) && v.work != b->work) s += ", " + number(v.work) + ' ' + r.description.unit;
  }
  return s;
}

}  // namespace

std::string number(double x) {
  if (std::isnan(x)) return "-";
  char s[40];
  const double a = std::abs(x);
  if (a >= 1e7 || (a > 0 && a < 1e-3)) {
    std::snprintf(s, sizeof s, "%.2e", x);
  } else if (a >= 1000) {
    std::snprintf(s, sizeof s, "%.0f", x);
    std::string r = s;
    for (std::size_t i = r.size(); i > 3 + (x < 0 ? 1 : 0);) r.insert(i -= 3, ",");
    return r;
  } else if (x == std::floor(x)) {
    std::snprintf(s, sizeof s, "%.0f", x);
  } else {
    std::snprintf(s, sizeof s, a >= 100 ? "%.0f" : a >= 10 ? "%.1f" : a >= 0.1 ? "%.3g" : "%.2g", x);
  }
  return s;
}

std::string seconds(double x) {
  if (std::isnan(x)) return "-";
  struct unit {
    double size;
    const char* name;
  };
  static constexpr std::array<unit, 4> units{{{1, "s"}, {1e-3, "ms"}, {1e-6, "µs"}, {1e-9, "ns"}}};
  const unit* u = &units.back();
  for (const unit& k : units)
    if (x >= k.size * 0.9995) {
      u = &k;
      break;
    }
  const double v = x / u->size;
  char s[40];
  std::snprintf(s, sizeof s, v >= 99.95 ? "%.0f" : v >= 9.995 ? "%.1f" : "%.2f", v);
  return s + std::string(" ") + u->name;
}

std::string factor(double x) {
  if (std::isnan(x) || std::isinf(x)) return "-";
  char s[40];
  std::snprintf(s, sizeof s, x >= 99.95 ? "%.0fx" : x >= 9.995 ? "%.1fx" : x >= 0.0995 ? "%.2fx" : "%.3fx", x);
  return s;
}

std::string text_table(const std::vector<row_result>& rows, int width, bool colour) {
  const auto paint = [&](const char* code, const std::string& s) {
    return colour ? std::string("\033[") + code + 'm' + s + "\033[0m" : s;
  };
  constexpr std::size_t w = 9, w_factor = 7, w_ok = 3, gap = 2, margin = 2;
  const std::size_t numbers = 6 * w + 3 * w_factor + w_ok + 3 * gap + 9;
  const std::size_t total = std::clamp<std::size_t>(static_cast<std::size_t>(width), 120, 200);
  // Names are wrapped, never cut: of all ways to share the line between the three columns of names, the one with fewest
  // lines.
  const auto widest = [&](auto name, std::size_t least) {
    for (const auto& r : rows) least = std::max(least, columns(name(r.description)));
    return least;
  };
  // A unit or a measure that is the same as in the row before is a ditto mark.
  const auto repeated = [&](std::size_t i, const auto& name) {
    return i > 0 && rows[i].description.slug == rows[i - 1].description.slug &&
           name(rows[i].description) == name(rows[i - 1].description);
  };
  const auto workload_of = [](const row& d) -> const std::string& { return d.workload; };
  const auto unit_of = [](const row& d) -> const std::string& { return d.unit; };
  const auto quality_of = [](const row& d) -> const std::string& { return d.quality.name; };
  const std::size_t all_workload = widest(workload_of, 19), all_unit = widest(unit_of, 6),
                    all_quality = widest(quality_of, 8);
  const std::size_t names = std::max<std::size_t>(total - margin - numbers, 45);
  std::size_t w_workload = all_workload, w_unit = all_unit, w_quality = all_quality;
  if (w_workload + w_unit + w_quality > names) {
    const auto lines = [&](auto name, std::size_t width_of) {
      std::vector<std::size_t> n;
      for (std::size_t i = 0; i < rows.size(); ++i)
        n.push_back(repeated(i, name) ? 1 : wrap(name(rows[i].description), width_of).size());
      return n;
    };
    std::map<std::size_t, std::vector<std::size_t>> of_workload, of_unit, of_quality;
    std::size_t fewest = ~std::size_t{0};
    for (std::size_t u = std::min<std::size_t>(all_unit, 10); u <= all_unit && u + 34 <= names; ++u)
      for (std::size_t q = std::min<std::size_t>(all_quality, 10); q <= all_quality && u + q + 24 <= names; ++q) {
        const std::size_t v = names - u - q;
        if (!of_unit.contains(u)) of_unit[u] = lines(unit_of, u);
        if (!of_quality.contains(q)) of_quality[q] = lines(quality_of, q);
        if (!of_workload.contains(v)) of_workload[v] = lines(workload_of, v);
        std::size_t sum = 0;
        for (std::size_t i = 0; i < rows.size(); ++i)
          sum += std::max({of_unit[u][i], of_quality[q][i], of_workload[v][i]});
        if (sum < fewest) fewest = sum, w_unit = u, w_quality = q, w_workload = std::min(v, all_workload);
      }
  }
  const std::size_t line = margin + w_workload + w_unit + w_quality + numbers;
  const std::string indent(margin, ' '), space(gap, ' ');
  std::string out;
  const std::size_t work_columns = w_unit + 2 * w + w_factor + 3, time_columns = 2 * w + 2 * w_factor + 3;
  const auto heading = [&](const std::string& name,
                           std::size_t columns_of) {  // "──── work ────" over the columns of a group
    const std::size_t bars = columns_of - columns(name) - 2;
    return repeat("─", bars / 2) + ' ' + name + ' ' + repeat("─", bars - bars / 2);
  };
  out += indent + left("", w_workload) + space + heading("work", work_columns) + space +
         heading("wall time", time_columns) + space + heading("quality", w_quality + 2 * w + w_ok + 3) + '\n';
  out += indent + left("technique, workload", w_workload) + space + left("unit", w_unit) + ' ' + right("naive", w) +
         ' ' + right("sluice", w) + ' ' + right("ratio", w_factor) + space + right("naive", w) + ' ' +
         right("sluice", w) + ' ' + right("ratio", w_factor) + ' ' + right("peer", w_factor) + space +
         left("measure", w_quality) + ' ' + right("naive", w) + ' ' + right("sluice", w) + " ok?\n";
  std::string technique;
  std::set<std::string> all_said;
  for (std::size_t k = 0; k < rows.size(); ++k) {
    const row_result& r = rows[k];
    const auto& d = r.description;
    if (d.slug != technique) {
      technique = d.slug;
      all_said.clear();
      const std::string bar = repeat("─", line > columns(technique) + 4 ? line - columns(technique) - 4 : 0);
      out += "── " + paint("1", technique) + ' ' + bar + '\n';
    }
    const auto value = [&](const char* kind, double measurement::*member) {
      const auto* m = r.find(kind);
      return m ? m->*member : missing;
    };
    const auto shown = [&](double x, std::size_t width_of) {
      const std::string s = right(factor(x), width_of);
      return std::isnan(x) ? s : paint(loses(x) ? "31" : "32", s);
    };
    const auto name = [&](const auto& of, std::size_t width_of) {
      return wrap(repeated(k, of) && columns(of(d)) > 1 ? "\"" : of(d), width_of);
    };
    const auto workload = name(workload_of, w_workload), unit = name(unit_of, w_unit),
               quality = name(quality_of, w_quality);
    const std::size_t height = std::max({workload.size(), unit.size(), quality.size()});
    const auto part = [](const std::vector<std::string>& cell, std::size_t i) {
      return i < cell.size() ? cell[i] : std::string();
    };
    for (std::size_t i = 0; i < height; ++i) {
      out += indent + paint("1", left(part(workload, i), w_workload)) + space + left(part(unit, i), w_unit) + ' ';
      if (i == 0) {
        out += right(number(value("naive", &measurement::work)), w) + ' ' +
               right(number(value("sluice", &measurement::work)), w) + ' ' + shown(r.work_ratio(), w_factor) + space +
               right(seconds(value("naive", &measurement::seconds)), w) + ' ' +
               right(seconds(value("sluice", &measurement::seconds)), w) + ' ' + shown(r.time_ratio(), w_factor) + ' ' +
               shown(r.peer_time_ratio(), w_factor) + space + left(part(quality, i), w_quality) + ' ' +
               right(number(value("naive", &measurement::quality)), w) + ' ' +
               right(number(value("sluice", &measurement::quality)), w) + ' ' +
               paint(std::string(yes_no(r)) == "NO" ? "1;31" : "0", yes_no(r)) + '\n';
      } else {
        const std::size_t middle = 4 * w + 3 * w_factor + 2 * gap + 5;
        out += std::string(middle, ' ') + ' ' + part(quality, i) + '\n';
      }
    }
    std::string notes, said;  // what several rows of a technique say is printed with the first of them
    if (!d.claim.empty()) said += "paper: " + d.claim;
    if (!r.full_note().empty()) said += (said.empty() ? "" : " · ") + r.full_note();
    if (all_said.insert(said).second) notes = said;
    for (const std::string& s : {peer_note(r).empty() ? std::string() : "peers: " + peer_note(r)})
      if (!s.empty()) notes += (notes.empty() ? "" : " · ") + s;
    if (!notes.empty())
      for (const auto& l : wrap(notes, line - margin - 4)) out += indent + "    " + paint("2", l) + '\n';
  }
  out += repeat("─", line) + '\n';
  std::string cleaned;  // no blanks at the ends of lines
  for (std::size_t i = 0; i < out.size();) {
    const std::size_t end = out.find('\n', i);
    std::size_t last = end;
    while (last > i && out[last - 1] == ' ') --last;
    cleaned += out.substr(i, last - i) + '\n';
    i = end + 1;
  }
  return cleaned;
}

std::string markdown_table(const std::vector<row_result>& rows) {
  std::string out =
      "| technique | workload | work unit | naive → sluice | ratio | wall time, naive → sluice | ratio | quality, "
      "naive → sluice "
      "| ok? | paper's claim | note |\n|---|---|---|---|--:|---|--:|---|---|---|---|\n";
  const row* before = nullptr;
  for (const auto& r : rows) {
    const auto& d = r.description;
    const auto *a = r.find("naive"), *b = r.find("sluice");
    const auto pair = [&](double measurement::*member, std::string (*show)(double)) {
      const std::string left_of = a && !std::isnan(a->*member) ? show(a->*member) + " → " : "";
      return left_of + (b ? show(b->*member) : "-");
    };
    const bool same = before != nullptr && before->slug == d.slug;
    const auto unless_repeated = [&](const std::string& text_of, const std::string* last) {
      return same && last != nullptr && *last == text_of && text_of.size() > 1 ? "″" : in_a_cell(text_of);
    };
    std::string peers;
    for (const auto& v : r.variants)
      if (v.kind == "peer" && v.repetitions > 0 && b != nullptr)
        peers += (peers.empty() ? "against " : ", ") + v.name + ' ' + factor(v.seconds / b->seconds);
    out += "| " + (same ? std::string() : d.slug) + " | " + in_a_cell(d.workload) + " | " +
           unless_repeated(d.unit, before ? &before->unit : nullptr) + " | " + pair(&measurement::work, number) +
           " | " + factor(r.work_ratio()) + " | " + pair(&measurement::seconds, seconds) + " | " +
           factor(r.time_ratio()) + " | " +
           (d.quality.name.empty() ? "-"
                                   : unless_repeated(d.quality.name, before ? &before->quality.name : nullptr) + ' ' +
                                         pair(&measurement::quality, number)) +
           " | " + yes_no(r) + " | " + unless_repeated(d.claim, before ? &before->claim : nullptr) + " | " +
           in_a_cell(d.note + (d.note.empty() || peers.empty() ? "" : "; ") + peers) + " |\n";
    before = &d;
  }
  return out;
}

}  // namespace bench
