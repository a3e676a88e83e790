// docs_check ROOT: do the index tables, the references and the links of the documentation hold?
//   - every arXiv number in a header or a page is the eprint of an entry of docs/references.bib, every BibTeX key of a
//   page is there; every year named in a header's
//     "Source:" belongs to an entry with that year and an author (or a title) named there; keys are unique;
//   - docs/techniques.md has 48 different slugs, each done or planned; what is done has header, page, test and
//   benchmark;
//     a header in its first table exists and has the page that its row links;
//   - every page of docs/techniques and docs/guides is linked from an index; every relative link leads to a file.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;
int failures = 0;

void complain(const std::string& where, const std::string& what) {
  std::printf("%s: %s\n", where.c_str(), what.c_str());
  ++failures;
}
std::string read(const fs::path& p) {
  std::ifstream in(p);
  return {std::istreambuf_iterator<char>(in), {}};
}
std::vector<fs::path> files(const fs::path& dir, const char* extension) {
  std::vector<fs::path> all;
  if (fs::exists(dir))
    for (const auto& e : fs::recursive_directory_iterator(dir))
      if (e.is_regular_file() && e.path().extension() == extension) all.push_back(e.path());
  std::sort(all.begin(), all.end());
  return all;
}
std::vector<std::smatch> matches(const std::string& s, const std::regex& r) {
  return {std::sregex_iterator(s.begin(), s.end(), r), {}};
}

struct reference {
  std::string key, author, title, year, eprint;
};

std::vector<reference> read_references(const fs::path& file) {
  const std::string text = read(file);
  if (text.empty()) complain(file.string(), "missing or empty");
  std::vector<reference> all;
  std::set<std::string> keys;
  static const std::regex entry(R"(@(\w+)\{([^,\s]+),([\s\S]*?)\n\})"), field(R"(\n\s*(\w+)\s*=\s*\{([^\n]*)\},?)");
  for (const auto& m : matches(text, entry)) {
    reference r;
    r.key = m[2];
    if (!keys.insert(r.key).second) complain("references.bib", "two entries with the key " + r.key);
    const std::string body = m[3];
    for (const auto& f : matches(body, field)) {
      std::string value = f[2];
      std::erase_if(value, [](char c) { return c == '{' || c == '}'; });
      const std::string name = f[1];
      if (name == "author") r.author = value;
      if (name == "title") r.title = value;
      if (name == "year") r.year = value;
      if (name == "eprint") r.eprint = value;
    }
    if (r.author.empty() || r.title.empty() || r.year.empty())
      complain("references.bib", r.key + " lacks author, title or year");
    all.push_back(r);
  }
  return all;
}

// The documentation comments of a header, each joined to one line.
std::vector<std::string> comments(const std::string& text) {
  std::vector<std::string> all;
  std::istringstream in(text);
  std::string joined;
  for (std::string line; std::getline(in, line);) {
    const auto at = line.find_first_not_of(" \t");
    if (at != std::string::npos && line.compare(at, 3, "///") == 0) {
      joined += line.substr(std::min(line.size(), at + 3));
    } else if (!joined.empty()) {
      all.push_back(std::move(joined));
      joined.clear();
    }
  }
  if (!joined.empty()) all.push_back(joined);
  return all;
}

void check_citations(const fs::path& root, const std::vector<reference>& references) {
  std::set<std::string> eprints;
  for (const auto& r : references) eprints.insert(r.eprint);
  std::set<std::string> keys;
  for (const auto& r : references) keys.insert(r.key);
  static const std::regex entry(R"((?:^|\n)@\w+\{([^,\s]+),)");
  for (const auto& p : files(root / "docs", ".md")) {
    const std::string page = read(p);
    for (const auto& m : matches(page, entry))
      if (!keys.contains(m[1]))
        complain(fs::relative(p, root).string(), "BibTeX key " + m[1].str() + " is not in docs/references.bib");
  }
  static const std::regex arxiv(R"((?:arXiv[: ]|arxiv\.org/abs/)(\d{4}\.\d{4,5}))");
  auto places = files(root / "include", ".hpp");
  for (const auto& p : files(root / "docs", ".md")) places.push_back(p);
  places.push_back(root / "README.md");
  for (const auto& p : places) {
    const std::string text = read(p);
    for (const auto& m : matches(text, arxiv))
      if (!eprints.contains(m[1]))
        complain(fs::relative(p, root).string(), "arXiv " + m[1].str() + " is not in docs/references.bib");
  }
  static const std::regex source(R"(Sources?:(.*?)([Dd]iffers|$))"), year(R"(\b(19\d\d|20\d\d)\b)");
  for (const auto& p : files(root / "include", ".hpp")) {
    const std::string header = read(p);
    for (const std::string& c : comments(header))
      for (const auto& m : matches(c, source)) {
        const std::string cited = std::regex_replace(m[1].str(), arxiv, "");
        for (const auto& y : matches(cited, year)) {
          const bool known = std::any_of(references.begin(), references.end(), [&](const reference& r) {
            if (r.year != y[1]) return false;
            static const std::regex surname(R"((?:^| and )([^,]+?)(?=,| and |$))");
            for (const auto& s : matches(r.author, surname))
              if (cited.find(s[1].str()) != std::string::npos) return true;
            return false;
          });
          if (!known)
            complain(fs::relative(p, root).string(),
                     "no entry of docs/references.bib for the source of " + y[1].str() + ':' + cited);
        }
      }
  }
}

std::vector<std::string> cells(const std::string& row) {
  std::vector<std::string> all;
  std::string cell;
  for (std::size_t i = 1; i < row.size(); ++i) {
    if (row[i] == '|' && row[i - 1] != '\\') {
      const auto a = cell.find_first_not_of(' '), b = cell.find_last_not_of(' ');
      all.push_back(a == std::string::npos ? "" : cell.substr(a, b - a + 1));
      cell.clear();
    } else {
      cell += row[i];
    }
  }
  return all;
}

bool exists_somewhere(const fs::path& dir, const std::string& name) {
  if (fs::exists(dir))
    for (const auto& e : fs::recursive_directory_iterator(dir))
      if (e.path().filename() == name) return true;
  return false;
}

void check_techniques(const fs::path& root) {
  std::istringstream in(read(root / "docs/techniques.md"));
  std::map<std::string, std::string> status;
  bool headers = false, any_header = false;
  static const std::regex link(R"(\[[^\]]*\]\(([^)#]+)[^)]*\))"), header(R"(`([a-z_0-9]+/[a-z_0-9]+\.hpp)`)");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("<!-- headers:begin")) headers = true;
    if (line.starts_with("<!-- headers:end")) headers = false;
    if (!line.starts_with("|") || line.starts_with("|---")) continue;
    const auto c = cells(line);
    if (headers) {
      std::smatch m;
      if (!std::regex_search(line, m, header)) continue;  // the heading
      any_header = true;
      const fs::path file = root / "include/sluice" / m[1].str();
      const std::string stem = file.stem().string();
      if (!fs::exists(file)) complain("docs/techniques.md", m[1].str() + " does not exist");
      if (!fs::exists(root / "docs/techniques" / (stem + ".md")))
        complain("docs/techniques.md", m[1].str() + " has no page");
      if (line.find("techniques/" + stem + ".md") == std::string::npos)
        complain("docs/techniques.md", m[1].str() + " does not link its page");
    } else if (c.size() >= 6 && c[0] != "slug") {
      if (!status.emplace(c[0], c[5]).second) complain("docs/techniques.md", c[0] + " is there twice");
      if (c[5] != "done" && c[5] != "planned")
        complain("docs/techniques.md", c[0] + " is neither done nor planned: " + c[5]);
      if (c[5] != "done") continue;
      static const std::regex name(R"(`([a-z_0-9]+)`)");
      for (const auto& m : matches(c[2], name)) {
        const std::string n = m[1];
        if (!exists_somewhere(root / "include/sluice", n + ".hpp"))
          complain("docs/techniques.md", c[0] + " is done without a header " + n);
        if (!exists_somewhere(root / "tests", n + "_test.cpp"))
          complain("docs/techniques.md", c[0] + " is done without a test of " + n);
        if (!exists_somewhere(root / "bench", n + "_bench.cpp"))
          complain("docs/techniques.md", c[0] + " is done without a benchmark of " + n);
        if (!exists_somewhere(root / "docs/techniques", n + ".md"))
          complain("docs/techniques.md", c[0] + " is done without a page " + n);
      }
    }
  }
  if (status.size() != 48) complain("docs/techniques.md", std::to_string(status.size()) + " techniques instead of 48");
  if (!any_header) complain("docs/techniques.md", "the table of headers is empty");
}

void check_links(const fs::path& root) {
  std::set<fs::path> linked;
  std::vector<fs::path> pages{root / "README.md", root / "CONTRIBUTING.md", root / "CHANGELOG.md"};
  for (const auto& p : files(root / "docs", ".md")) pages.push_back(p);
  static const std::regex link(R"(\]\(([^)\s]+)\))"), code(R"(```[\s\S]*?```|`[^`\n]*`|\$[^$\n]*\$)");
  for (const auto& p : pages) {
    const std::string text = std::regex_replace(read(p), code, "");
    for (const auto& m : matches(text, link)) {
      std::string to = m[1];
      if (to.starts_with("http:") || to.starts_with("https:") || to.starts_with("mailto:") || to.starts_with("#"))
        continue;
      to = to.substr(0, to.find('#'));
      const fs::path target = fs::weakly_canonical(p.parent_path() / to);
      if (!fs::exists(target)) complain(fs::relative(p, root).string(), "dead link " + to);
      if (target != fs::weakly_canonical(p)) linked.insert(target);
    }
  }
  for (const char* dir : {"docs/techniques", "docs/guides"})
    for (const auto& p : files(root / dir, ".md"))
      if (!linked.contains(fs::weakly_canonical(p))) complain(fs::relative(p, root).string(), "no page links it");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: %s ROOT\n", argv[0]), 2;
  const fs::path root = argv[1];
  const auto references = read_references(root / "docs/references.bib");
  check_citations(root, references);
  check_techniques(root);
  check_links(root);
  std::printf("%zu references, %d complaints\n", references.size(), failures);
  return failures == 0 ? 0 : 1;
}
