#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <regex>

#include "options.hpp"
#include "result.hpp"

namespace {

constexpr const char* usage =
    "usage: sluice_bench [--text FILE] [--image PATH] [--quick|--full] [--out DIR] [--filter REGEX] [--commit ID] "
    "[--list] [--help]\n"
    "  --text FILE     UTF-8 text of 1 kB or more that the language models learn and continue; default: generated "
    "text\n"
    "  --image PATH    a picture, which is cut into tiles, or a folder of pictures; default: procedural pictures\n"
    "  --quick         at most 2 s for each technique (default 15 s)\n"
    "  --full          at most 60 s for each technique\n"
    "  --out DIR       where results.json, table.md, summary.md and index.html go (default: results)\n"
    "  --filter REGEX  only rows whose technique/workload matches (ECMAScript, a part is enough)\n"
    "  --commit ID     is stored with the results\n"
    "  --list          prints the selected rows and measures nothing\n";

int complain(const std::string& sentence) {
  std::fprintf(stderr, "%s\n", sentence.c_str());
  return 2;
}

int terminal_width() {
  if (const char* c = std::getenv("COLUMNS"); c != nullptr && std::atoi(c) > 0) return std::atoi(c);
  winsize w{};
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col : 152;
}

}  // namespace

int main(int argc, char** argv) {
  const bench::command_line c = bench::parse(argc, argv);
  if (c.help) return std::fputs(usage, stdout), 0;
  if (!c.error.empty()) return complain(c.error);
  bench::set_options(c.options);
  bench::plan plan;
  try {
    plan = bench::make_plan(c.filter);
  } catch (const std::regex_error& e) {
    return complain("--filter " + c.filter + " is not a regular expression: " + e.what() + '.');
  }
  if (plan.n_rows == 0)
    return complain(c.filter.empty() ? "There are no benchmarks." : "No row matches --filter " + c.filter + '.');
  if (c.list) {
    for (const auto& [slug, rows] : plan.techniques)
      for (const auto* r : rows) std::printf("%s/%s\n", slug.c_str(), r->description.workload.c_str());
    return 0;
  }
  std::error_code ec;
  std::filesystem::create_directories(c.options.out, ec);
  if (!std::ofstream(c.options.out + "/results.json"))
    return complain("The directory " + c.options.out + " cannot be written to.");

  const auto machine = bench::describe_machine(c.commit);
  std::printf("sluice benchmarks: %zu technique%s, %zu row%s, at most %.0f s each: about %.0f s in all\n",
              plan.techniques.size(), plan.techniques.size() == 1 ? "" : "s", plan.n_rows, plan.n_rows == 1 ? "" : "s",
              c.options.seconds_per_technique, plan.seconds);
  for (const auto& [key, value] : machine)
    if (key != "date" && key != "eigen" && key != "sluice") std::printf("  %-10s %s\n", key.c_str(), value.c_str());
  std::printf("\n");
  std::fflush(stdout);

  const auto rows = bench::run(plan);
  const bool colour = isatty(STDOUT_FILENO) != 0 && std::getenv("NO_COLOR") == nullptr;
  std::fputs(bench::text_table(rows, terminal_width(), colour).c_str(), stdout);
  std::fputs(
      "ratio: naive / sluice, above 1 sluice is better; peer: time of the fastest peer / time of sluice; ok?: quality "
      "within its tolerance\n\n",
      stdout);
  const std::string dir = c.options.out;
  std::ofstream(dir + "/results.json") << bench::json_document(rows, machine);
  const auto of = [&](const char* key) {
    for (const auto& [k, v] : machine)
      if (k == key) return v;
    return std::string("unknown");
  };
  const std::string run_on = '\n' + of("processor") + ", " + of("cores") + " cores, " + of("compiler") + ", `" +
                             of("flags") + "`; " + of("text") + "; mode " + of("mode") + "; commit " +
                             of("commit").substr(0, 12) + ".\n\n";
  std::ofstream(dir + "/table.md") << run_on << bench::markdown_table(rows) << '\n';
  std::vector<std::string> not_found;
  std::ofstream(dir + "/summary.md") << run_on << bench::markdown_summary(rows, not_found) << '\n';
  const bool pictures = bench::write_page(dir, rows, machine);
  const auto where = [&](const char* name) {
    return std::filesystem::absolute(dir + '/' + name, ec).lexically_normal().string();
  };
  std::printf("numbers:  %s\npage:     %s%s\n", where("results.json").c_str(), where("index.html").c_str(),
              pictures ? "" : "  (without pictures: gnuplot is not installed)");
  for (const auto& r : rows)
    if (r.variants.empty() || (r.find("naive") == nullptr && r.find("sluice") == nullptr))
      return std::fprintf(stderr, "%s/%s measured nothing\n", r.description.slug.c_str(),
                          r.description.workload.c_str()),
             1;
  if (c.filter.empty() && !not_found.empty())
    return std::fprintf(stderr, "the summary names a row that does not exist: %s\n", not_found.front().c_str()), 1;
  return 0;
}
