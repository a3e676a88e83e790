#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "result.hpp"

namespace bench {
namespace {

// One palette for the page and its pictures.
constexpr const char* ours = "#0b6e99";
constexpr const char* theirs[] = {"#8a8f98", "#d98e04", "#7a5195", "#2f9e62", "#c2447a"};
constexpr const char* saved = "#6aa9c4";
constexpr const char* loss = "#c8442b";

std::string escape(const std::string& s) {
  std::string r;
  for (const char c : s) switch (c) {
      case '&':
        r += "&amp;";
        break;
      case '<':
        r += "&lt;";
        break;
      case '>':
        r += "&gt;";
        break;
      case '"':
        r += "&quot;";
        break;
      default:
        r += c;
    }
  return r;
}

// As a gnuplot string in double quotes; the labels are drawn noenhanced.
std::string gp_string(const std::string& s) {
  std::string r = "\"";
  for (const char c : s) {
    if (c == '"' || c == '\\') r += '\\';
    r += c == '\n' ? ' ' : c;
  }
  return r + '"';
}

std::string digits(double x) {
  char s[40];
  std::snprintf(s, sizeof s, "%.9g", x);
  return s;
}

bool have_gnuplot() { return std::system("gnuplot --version >/dev/null 2>&1") == 0; }

// Runs gnuplot on DIR/pictures/NAME.gp and returns the SVG element, or nothing if gnuplot failed.
std::string draw(const std::filesystem::path& dir, const std::string& name, int width, int height,
                 const std::string& commands) {
  std::error_code ec;
  std::filesystem::create_directories(dir / "pictures", ec);
  const auto script = dir / "pictures" / (name + ".gp"), picture = dir / "pictures" / (name + ".svg");
  {
    std::ofstream out(script);
    out << "set encoding utf8\nset terminal svg size " << width << ',' << height
        << " dynamic noenhanced font \"Helvetica,Arial,sans-serif,13\" linewidth 1 background \"#ffffff\" name \""
        << name << "\"\nset output " << gp_string(picture.string())
        << "\nset border 0\nset tics scale 0 textcolor rgb \"#4a4f57\"\nset grid linecolor rgb \"#e4e6ea\" linewidth 1 "
           "linetype 1\n"
        << "set key noenhanced textcolor rgb \"#2b2f36\"\n"
        << commands << "\nset output\n";
  }
  std::string path = script.string();  // in single quotes for the shell
  for (std::size_t i = 0; (i = path.find('\'', i)) != std::string::npos; i += 4) path.replace(i, 1, "'\\''");
  std::filesystem::remove(picture, ec);
  if (std::system(("gnuplot '" + path + "' 2>/dev/null").c_str()) != 0) {
    std::fprintf(stderr, "gnuplot cannot draw %s\n", script.c_str());
    return {};
  }
  std::ifstream in(picture);
  std::stringstream all;
  all << in.rdbuf();
  const std::string svg = all.str();
  const auto start = svg.find("<svg");
  return start == std::string::npos ? std::string() : svg.substr(start);
}

// Two bars for each row on a logarithmic axis, work and time: to the right of 1 what sluice saves, to the left what it
// loses.
std::string speed_up_bars(const std::filesystem::path& dir, const std::vector<row_result>& rows) {
  std::vector<const row_result*> shown;
  for (const auto& r : rows)
    if (std::isfinite(r.time_ratio()) && r.time_ratio() > 0) shown.push_back(&r);
  if (shown.empty()) return {};
  std::string work, time, worse, peers, tics, labels, technique;
  double lowest = 0.8, highest = 2, y = 0;
  std::size_t longest = 0;
  const auto bar = [&](double ratio, double middle, double half) {
    lowest = std::min(lowest, ratio), highest = std::max(highest, ratio);
    return digits(std::min(1.0, ratio)) + ' ' + digits(std::max(1.0, ratio)) + ' ' + digits(middle - half) + ' ' +
           digits(middle + half) + '\n';
  };
  const auto label = [&](double ratio, double middle, const char* colour, double marker) {
    double at = std::max(ratio, 1.0);
    if (marker > 0.93 * at && marker < 1.4 * at) at = marker;  // beside the bar, and not under the peer's point
    labels += "set label " + gp_string(factor(ratio)) + " at " + digits(at) + ", " + digits(middle) +
              " offset 0.6,0 left font \",11\" textcolor rgb \"" + colour + "\" front\n";
  };
  for (const auto* r : shown) {
    if (r->description.slug != technique) {
      y += technique.empty() ? 0 : 0.4;
      technique = r->description.slug;
      labels += "set label " + gp_string(technique) + " at graph 0, first " + digits(-y) +
                " offset -1,0 right font \",14\" textcolor rgb \"" + ours + "\"\n";
      ++y;
    }
    const double t = r->time_ratio(), w = r->work_ratio();
    double p = r->peer_time_ratio();
    const bool has_work = std::isfinite(w) && w > 0 && std::abs(w - 1) > 0.005;  // equal work needs no bar
    const double time_at = has_work ? -y - 0.2 : -y;
    (loses(t) ? worse : time) += bar(t, time_at, 0.17);
    label(t, time_at, loses(t) ? loss : ours, p);
    if (has_work) work += bar(w, -y + 0.2, 0.17), label(w, -y + 0.2, saved, missing);
    if (std::isfinite(p) && p > 0) {
      lowest = std::min(lowest, p), highest = std::max(highest, p);
      peers += digits(p) + ' ' + digits(time_at) + '\n';
    }
    tics += (tics.empty() ? "" : ", ") + gp_string(r->description.workload) + ' ' + digits(-y);
    longest = std::max(longest, r->description.workload.size());
    ++y;
  }
  const int margin = static_cast<int>(std::clamp<std::size_t>(longest * 7 + 24, 160, 460));
  const int height = static_cast<int>(y * 34) + 90;
  std::string g = labels, plot;
  const auto layer = [&](const char* name, const std::string& data, const std::string& style_of) {
    if (data.empty()) return;
    g += '$' + std::string(name) + " << EOD\n" + data + "EOD\n";
    plot += (plot.empty() ? "plot $" : ", $") + std::string(name) + style_of + " notitle";
  };
  const std::string box = " using 1:(($3+$4)/2):1:2:3:4 with boxxyerror linecolor rgb \"";
  layer("work", work, box + saved + '"');
  layer("time", time, box + ours + '"');
  layer("worse", worse, box + loss + '"');
  layer("peers", peers,
        std::string(" using 1:2 with points pointtype 7 pointsize 0.8 linecolor rgb \"") + theirs[1] + '"');
  g += "set lmargin at screen " + digits(margin / 1120.0) +
       "\nset rmargin at screen 0.97\nset tmargin 0.5\nset logscale x\nset xrange [" + digits(lowest / 1.3) + ':' +
       digits(highest * 2) + "]\nset yrange [" + digits(-y + 0.3) + ":0.5]\nset ytics (" + tics +
       ") textcolor rgb \"#2b2f36\"\nunset grid\nset grid xtics linecolor rgb \"#e4e6ea\" linetype 1\nset xtics format "
       "\"%g×\"\n"
       "set mxtics 1\nset xlabel \"naive / sluice (logarithmic)\" textcolor rgb \"#4a4f57\"\n"
       "set arrow from 1, graph 0 to 1, graph 1 nohead linecolor rgb \"#2b2f36\" linewidth 1.4 front\nunset key\n"
       "set style fill solid 1.0 noborder\n" +
       plot;
  return draw(dir, "speedup", 1120, height, g);
}

struct figure {
  std::string title, caption, svg;
};

bool contains(const std::string& s, const char* part) { return s.find(part) != std::string::npos; }

// Lower case letters and digits, everything else an underscore: a file name, and a name for gnuplot.
std::string file_name(const std::string& s) {
  std::string r;
  for (const char c : s)
    r += std::isalnum(static_cast<unsigned char>(c)) ? static_cast<char>(std::tolower(static_cast<unsigned char>(c)))
                                                     : '_';
  return r;
}

// The rows of one family over the one size in which they differ.
figure curve(const std::filesystem::path& dir, const std::string& slug, const std::string& family,
             std::vector<const row_result*> rows) {
  std::set<std::string> varying;
  for (const auto& [key, value] : rows.front()->size)
    for (const auto* r : rows)
      if (const auto it = r->size.find(key); it != r->size.end() && it->second != value) varying.insert(key);
  if (varying.size() != 1) return {};
  const std::string key = *varying.begin();
  std::erase_if(rows, [&](auto* r) { return !r->size.contains(key); });
  const auto x = [&](const row_result* r) { return r->size.at(key); };
  std::sort(rows.begin(), rows.end(), [&](auto* a, auto* b) { return x(a) < x(b); });

  struct series {
    std::string name, kind;
    std::vector<std::pair<double, double>> points;
  };
  bool theory = false, rates = true;
  for (const auto* r : rows)
    for (const auto& v : r->variants) {
      if (v.repetitions == 0) continue;
      theory = theory || std::isfinite(v.expected);
      rates = rates && std::isfinite(v.items_per_second);
    }
  const std::string& unit = rows.front()->description.unit;
  const bool tokens = contains(unit, "call") && contains(unit, "token");  // calls per token: shown as tokens per call
  std::vector<series> all;
  const auto add = [&](const std::string& name, const std::string& kind, double at, double value) {
    if (!std::isfinite(value)) return;
    auto it = std::find_if(all.begin(), all.end(), [&](const series& s) { return s.name == name; });
    if (it == all.end()) it = all.insert(all.end(), {name, kind, {}});
    it->points.emplace_back(at, value);
  };
  const auto y = [&](const measurement& v) {
    return theory ? (tokens ? 1 / v.work : v.work) : rates ? v.items_per_second : v.seconds;
  };
  for (const auto* r : rows)
    for (const auto& v : r->variants) {
      if (v.repetitions == 0) continue;
      add(v.name, v.kind, x(r), y(v));
      if (v.kind == "sluice" && std::isfinite(v.expected))
        add("theory", "theory", x(r), tokens ? 1 / v.expected : v.expected);
    }
  std::stable_sort(all.begin(), all.end(), [](const series& a, const series& b) {
    const auto rank = [](const std::string& k) { return k == "sluice" ? 0 : k == "theory" ? 1 : k == "naive" ? 2 : 3; };
    return rank(a.kind) < rank(b.kind);
  });
  figure f;
  const std::string what = theory ? (tokens ? "tokens per target call" : unit) : rates ? "items per second" : "seconds";
  f.title = family + ": " + what + " over " + key;
  std::string g, plot;
  double low = 1e300, high = 0;
  std::size_t other = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const std::string block = "$s" + std::to_string(i);
    g += block + " << EOD\n";
    for (const auto& [at, value] : all[i].points) {
      g += digits(at) + ' ' + digits(value) + '\n';
      if (value > 0) low = std::min(low, value), high = std::max(high, value);
    }
    g += "EOD\n";
    const bool is_ours = all[i].kind == "sluice", is_theory = all[i].kind == "theory";
    const std::string color = is_ours ? ours : is_theory ? "#12212b" : theirs[other++ % std::size(theirs)];
    plot += (plot.empty() ? "plot " : ", ") + block + " using 1:2 with " +
            (is_theory           ? std::string("lines dashtype 2 linewidth 1.6")
             : theory && is_ours ? std::string("points pointtype 7 pointsize 1")
                                 : "linespoints pointtype 7 pointsize " + std::string(is_ours ? "0.8" : "0.6") +
                                       " linewidth " + (is_ours ? "2.6" : "1.6")) +
            " linecolor rgb \"" + color + "\" title " + gp_string(all[i].name);
  }
  const double first = x(rows.front()), last = x(rows.back());
  if (first > 0 && last / first > 20) {
    g += "set logscale x 2\nset xrange [" + digits(first / 1.25) + ':' + digits(last * 1.25) + "]\n";
    std::string tics;
    for (const auto* r : rows) {
      const double v = x(r);
      const int power = std::ilogb(v);
      const std::string label = v >= 1024 && std::ldexp(1.0, power) == v
                                    ? (v >= 1048576 ? digits(v / 1048576) + "Mi" : digits(v / 1024) + "Ki")
                                    : number(v);
      tics += (tics.empty() ? "" : ", ") + gp_string(label) + ' ' + digits(v);
    }
    g += "set xtics (" + tics + ")\n";
  } else {
    std::string tics;
    for (const auto* r : rows) tics += (tics.empty() ? "" : ", ") + gp_string(number(x(r))) + ' ' + digits(x(r));
    g += "set xtics (" + tics + ")\nset offsets graph 0.06, graph 0.06, 0, 0\n";
  }
  const bool log_y = low > 0 && high / low > 12;
  if (log_y)
    g += "set logscale y\nset mytics 1\n";
  else
    g += "set yrange [0:" + digits(high * 1.12) + "]\n";
  g += std::string("set format y \"") + (!theory && !rates ? "%.0s %cs" : rates && !theory ? "%.0s %c" : "%g") + "\"\n";
  g += "set xlabel " + gp_string(key) +
       " textcolor rgb \"#4a4f57\"\nset key outside top left horizontal Left reverse samplen 2 spacing 1.1 width -1\n" +
       plot + '\n';
  f.svg = draw(dir, file_name(slug + '-' + family), 540, 360, g);
  f.caption = theory  ? "Points: measured. Dashed: what theory predicts from the laws of the two models."
              : rates ? "Higher is better."
                      : "Lower is better.";
  return f;
}

const char* style = R"(
:root{--ink:#1c2026;--soft:#5b626c;--line:#e4e6ea;--ours:#0b6e99;--bad:#c8442b;--paper:#fff;--wash:#f6f7f9}
*{box-sizing:border-box}body{margin:0;background:var(--wash);color:var(--ink);font:15px/1.5 "Helvetica Neue",Helvetica,Arial,sans-serif}
main{max-width:1180px;margin:0 auto;padding:32px 24px 64px}h1{font-size:28px;margin:0 0 4px;letter-spacing:-.01em}h2{font-size:20px;margin:40px 0 12px}
p{margin:4px 0 12px;max-width:80ch;color:var(--soft)}section,figure{background:var(--paper);border:1px solid var(--line);border-radius:8px}
figure{margin:0;padding:14px 16px 8px}figure svg{width:100%;height:auto;display:block}figcaption{color:var(--soft);font-size:13px;padding:4px 0 6px}
figure h3{margin:0 0 6px;font-size:15px}.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(480px,1fr));gap:16px}
.key{margin:0 0 4px;font-size:13px}.key i{display:inline-block;width:22px;height:12px;margin:0 7px 0 22px;vertical-align:-1px}.key i:first-child{margin-left:0}
.key b{margin:0 7px 0 22px;color:#12212b}.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:13.5px}th,td{padding:7px 10px;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
th{font-weight:600;color:var(--soft);background:var(--wash);white-space:nowrap}td.n,th.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
tr.t td{background:#eef4f7;font-weight:700;color:var(--ours)}td.x{font-weight:700;color:var(--ours)}td.x.bad,td.bad{color:var(--bad);font-weight:700}
tr.d td{padding-top:0;color:var(--soft);font-size:13px}tr.r td{border-bottom:0;padding-bottom:3px}dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 18px;margin:0;padding:14px 18px;font-size:14px}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}code{font:13px/1.4 ui-monospace,Menlo,Consolas,monospace}
)";

}  // namespace

bool write_page(const std::string& out, const std::vector<row_result>& rows, const machine_info& machine) {
  const std::filesystem::path dir(out);
  const bool pictures = have_gnuplot();
  std::string bars;
  std::vector<figure> curves;
  if (pictures) {
    bars = speed_up_bars(dir, rows);
    std::map<std::pair<std::string, std::string>, std::vector<const row_result*>> families;
    std::vector<std::pair<std::string, std::string>> order;
    for (const auto& r : rows) {
      const auto key = std::pair(r.description.slug, r.family());
      if (!families.contains(key)) order.push_back(key);
      families[key].push_back(&r);
    }
    for (const auto& key : order)
      if (families[key].size() > 1)
        if (figure f = curve(dir, key.first, key.second, families[key]); !f.svg.empty()) curves.push_back(std::move(f));
  }
  const auto of = [&](const char* key) {
    for (const auto& [k, v] : machine)
      if (k == key) return v;
    return std::string("unknown");
  };
  std::ofstream page(dir / "index.html");
  page << "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
          "content=\"width=device-width,initial-scale=1\">"
       << "<title>sluice: benchmarks</title><style>" << style
       << "</style></head><body><main>\n<h1>What sluice saves</h1>\n<p>" << escape(of("processor")) << ", "
       << escape(of("cores")) << " cores, " << escape(of("compiler")) << ", " << escape(of("flags")) << "<br>"
       << escape(of("text")) << " · mode " << escape(of("mode")) << " · commit " << escape(of("commit")) << " · "
       << escape(of("date")) << "</p>\n";
  if (!bars.empty())
    page << "<h2>What each row saves</h2>\n<figure><p class=\"key\"><i style=\"background:" << saved
         << "\"></i>work saved<i style=\"background:" << ours << "\"></i>time saved<i style=\"background:" << loss
         << "\"></i>time lost<b style=\"color:" << theirs[1] << "\">\u25cf</b>fastest peer / sluice, time</p>" << bars
         << "<figcaption>Work and wall time of the naive program divided by those of sluice, medians of interleaved "
            "repetitions, all variants "
            "built with the same flags. A bar to "
            "the left of 1 is a loss.</figcaption></figure>\n";
  if (!curves.empty()) {
    page << "<h2>How it scales</h2>\n<div class=\"grid\">\n";
    for (const auto& f : curves)
      page << "<figure><h3>" << escape(f.title) << "</h3>" << f.svg << "<figcaption>" << escape(f.caption)
           << "</figcaption></figure>\n";
    page << "</div>\n";
  }
  if (!pictures) page << "<p>This page has no pictures because gnuplot is not installed.</p>\n";
  page << "<h2>All rows</h2>\n<section class=\"scroll\"><table>\n<thead><tr><th>workload</th><th>work unit</th><th "
          "class=\"n\">naive</th><th "
          "class=\"n\">sluice</th><th class=\"n\">ratio</th><th class=\"n\">time, naive</th><th "
          "class=\"n\">sluice</th><th class=\"n\">ratio</th><th "
          "class=\"n\">fastest peer</th><th>quality</th><th class=\"n\">naive</th><th "
          "class=\"n\">sluice</th><th>ok?</th></tr></thead>\n<tbody>\n";
  std::string technique;
  for (const auto& r : rows) {
    const auto& d = r.description;
    const auto *a = r.find("naive"), *b = r.find("sluice");
    if (d.slug != technique)
      page << "<tr class=\"t\"><td colspan=\"13\">" << escape(technique = d.slug) << "</td></tr>\n";
    const auto cell = [&](const std::string& s) { page << "<td class=\"n\">" << escape(s) << "</td>"; };
    const auto ratio = [&](double x) {
      page << "<td class=\"n x" << (loses(x) ? " bad" : "") << "\">" << factor(x) << "</td>";
    };
    page << "<tr class=\"r\"><td>" << escape(d.workload) << "</td><td>" << escape(d.unit) << "</td>";
    cell(number(a ? a->work : missing)), cell(number(b ? b->work : missing)), ratio(r.work_ratio());
    cell(seconds(a ? a->seconds : missing)), cell(seconds(b ? b->seconds : missing)), ratio(r.time_ratio()),
        cell(factor(r.peer_time_ratio()));
    page << "<td>" << escape(d.quality.name) << "</td>";
    cell(number(a ? a->quality : missing)), cell(number(b ? b->quality : missing));
    const bool judged = !d.quality.name.empty();
    page << "<td" << (judged && !r.quality_ok() ? " class=\"bad\"" : "") << '>'
         << (judged ? r.quality_ok() ? "yes" : "NO" : "") << "</td></tr>\n";
    std::string detail;
    const auto say = [&](const std::string& s) { detail += (detail.empty() ? "" : " · ") + escape(s); };
    if (!d.claim.empty()) say("Paper: " + d.claim);
    if (!r.full_note().empty()) say(r.full_note());
    for (const auto& v : r.variants)
      if (v.kind == "peer" && v.repetitions > 0 && b != nullptr)
        say(v.name + ": " + seconds(v.seconds) + ", " + factor(v.seconds / b->seconds));
    page << "<tr class=\"d\"><td colspan=\"13\">" << detail << "</td></tr>\n";
  }
  page << "</tbody></table></section>\n<p>Ratios are naive / sluice, so above 1 sluice is better; “fastest peer” is "
          "its time / the time of sluice.</p>\n"
       << "<h2>Machine and build</h2>\n<section><dl>\n";
  for (const auto& [key, value] : machine)
    page << "<dt>" << escape(key) << "</dt><dd><code>" << escape(value) << "</code></dd>\n";
  page << "</dl></section>\n</main></body></html>\n";
  return pictures;
}

}  // namespace bench
