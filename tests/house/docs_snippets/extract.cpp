// docs_extract ROOT PAGE OUTPUT [LIBRARY]: writes one C++ file with all C++ blocks of a Markdown page.
//
// #include and #define lines go to the top of the file. What is left of a block is cut into pieces at brace depth 0;
// declarations (types, templates, functions, namespaces, aliases) go to a namespace of the block, in which the blocks
// before are visible, and statements to a function of the page, each block in a scope inside that of the block before:
// so a block may use what earlier ones declared, and may declare it anew. `int main` becomes an ordinary function,
// which is called. Blocks marked `fragment` are compiled in the same way but not run. Blocks marked `torch` need
// LibTorch: they and the comments <!-- snippet torch: ... --> are left out, and with LIBRARY torch they alone are
// taken.
#include <cctype>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

namespace {

struct block {
  std::string code, given;  // given: from a comment <!-- snippet: ... --> before it
  int line = 0;             // of the first line of code
  bool fragment = false;
  std::string library{};  // that the block needs beside sluice
};

std::vector<block> blocks_of(std::istream& in, const std::string& page, const std::string& library) {
  std::vector<block> blocks;
  std::string given;
  block current;
  bool inside = false, other = false;
  int number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    const bool fence = line.starts_with("```");
    if (inside) {
      inside = !fence;
      if (!fence)
        current.code += line + '\n';
      else if (current.library == library)
        blocks.push_back(current), given.clear();
    } else if (other) {
      other = !fence;
    } else if (fence) {
      std::istringstream words(line.substr(3));
      std::string language, mark;
      words >> language >> mark;
      if (language == "cpp" || language == "c++" || language == "C++") {
        if (!mark.empty() && mark != "fragment" && mark != "torch")
          std::fprintf(stderr, "%s:%d: unknown mark '%s' of a block; only 'fragment' and 'torch' are known\n",
                       page.c_str(), number, mark.c_str()),
              std::exit(1);
        current = {"", given, number + 1, mark == "fragment", mark == "torch" ? mark : std::string()};
        inside = true;
      } else {
        other = true;
      }
    } else if (std::smatch m; std::regex_search(line, m, std::regex("<!-- snippet ?(torch)?:"))) {
      const bool taken = m[1] == library;
      std::string text = m.suffix();
      while (text.find("-->") == std::string::npos && std::getline(in, line)) text += '\n' + line, ++number;
      if (taken) given += text.substr(0, text.find("-->")) + '\n';
    }
  }
  return blocks;
}

struct pieces {
  std::string preprocessor, declarations, statements;
};

// Does a piece of code at depth 0 declare something that may only, or may as well, stand at namespace scope?
bool is_declaration(const std::string& piece) {
  static const std::regex type(
      R"(^\s*(template|struct|class|enum|namespace|concept|using|typedef|inline|static_assert|extern|union)\b)");
  // a function: a type, a name, parameters, perhaps qualifiers or a trailing type, and a body
  static const std::regex function(
      R"(^\s*(\[\[\w+\]\]\s*)?(constexpr\s+|static\s+)*[A-Za-z_][\w:<>,&*\s]*[\s&*]+[A-Za-z_]\w*\s*\([^;={}]*\)\s*(const|noexcept|->\s*[\w:<>&*\s]+|requires[^{;]*)*\s*\{)");
  static const std::regex control(R"(^\s*(if|for|while|do|switch|return|try|else|auto|const|std::printf)\b)");
  if (std::regex_search(piece, type)) return true;
  return !std::regex_search(piece, control) && std::regex_search(piece, function);
}

std::string without_comments(const std::string& s) {  // blanks instead, so that lines stay where they are
  std::string r = s;
  char quote = 0;
  for (std::size_t i = 0; i < r.size(); ++i) {
    if (quote != 0) {
      if (r[i] == '\\')
        ++i;
      else if (r[i] == quote)
        quote = 0;
    } else if (r[i] == '"' || (r[i] == '\'' && (i == 0 || std::isalnum(static_cast<unsigned char>(r[i - 1])) == 0))) {
      quote = r[i];
    } else if (r.compare(i, 2, "//") == 0) {
      while (i < r.size() && r[i] != '\n') r[i++] = ' ';
    } else if (r.compare(i, 2, "/*") == 0) {
      const std::size_t end = r.find("*/", i);
      for (; i < r.size() && (end == std::string::npos || i < end + 2); ++i)
        if (r[i] != '\n') r[i] = ' ';
      --i;
    }
  }
  return r;
}

pieces split(const block& b, const std::string& page) {
  pieces p;
  std::string code;
  {
    std::istringstream lines(b.code);
    for (std::string line; std::getline(lines, line);) {
      const bool hash = line.starts_with("#");
      if (hash && !line.starts_with("#pragma once")) p.preprocessor += line + '\n';
      code += (hash ? std::string() : line) + '\n';
    }
  }
  code = without_comments(code);
  code = std::regex_replace(code, std::regex(R"(\bint main\s*\()"), "int snippet_main(");
  int depth = 0, line = b.line, first_line = b.line;
  std::string piece;
  char quote = 0;
  const auto flush = [&] {
    if (piece.find_first_not_of(" \t\n") != std::string::npos) {
      std::string mark = "#line " + std::to_string(first_line) + " \"" + page + "\"\n";
      const bool declares = is_declaration(piece);
      if (const auto at = piece.find("int snippet_main("); at != std::string::npos && declares)
        piece.insert(piece.rfind('}'), "\n  return 0;\n");  // only main may leave it out
      (declares ? p.declarations : p.statements) += mark + piece + '\n';
    }
    piece.clear();
    first_line = line;
  };
  for (std::size_t i = 0; i < code.size(); ++i) {
    const char c = code[i];
    if (piece.empty() && (c == '\n' || c == ' ')) {
      if (c == '\n')
        first_line = ++line;
      else
        piece += c;
      continue;
    }
    if (piece.find_first_not_of(' ') == std::string::npos && c == '\n') {
      piece.clear(), first_line = ++line;
      continue;
    }
    piece += c;
    if (c == '\n') ++line;
    if (quote != 0) {
      if (c == '\\')
        piece += code[++i];
      else if (c == quote)
        quote = 0;
      continue;
    }
    if (c == '"' || (c == '\'' && std::isalnum(static_cast<unsigned char>(code[i - 1])) == 0)) quote = c;
    if (c == '{' || c == '(' || c == '[') ++depth;
    if (c == '}' || c == ')' || c == ']') --depth;
    if (depth != 0) continue;
    if (c == ';') flush();
    if (c == '}') {  // the end of a function, a loop or a namespace; not of an initialiser, a type, or before else
      std::size_t next = i + 1;
      while (next < code.size() && std::isspace(static_cast<unsigned char>(code[next])) != 0) ++next;
      const std::string rest = code.substr(next, 5);
      const bool goes_on =
          next < code.size() && (std::string(";,.)(?:=+-*/<>&|").find(code[next]) != std::string::npos ||
                                 rest.starts_with("else") || rest.starts_with("catch") || rest.starts_with("while"));
      if (!goes_on) flush();
    }
  }
  flush();
  return p;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) return std::fprintf(stderr, "usage: %s ROOT PAGE OUTPUT [LIBRARY]\n", argv[0]), 2;
  const std::string page = argv[2];
  std::ifstream in(std::string(argv[1]) + '/' + page);
  if (!in) return std::fprintf(stderr, "%s cannot be read\n", page.c_str()), 1;
  const auto blocks = blocks_of(in, page, argc == 5 ? argv[4] : "");
  std::string name;
  for (const char c : page) name += std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';

  std::string top, everywhere, declarations, body, closing, ends;
  int number = 0;
  for (const block& b : blocks) {
    const pieces p = split(b, page), given = split({b.given, "", b.line, true, {}}, page);
    top += p.preprocessor;
    ++number;
    // What specialises a template of sluice stands in the global namespace, as in the reader's program.
    static const std::regex specialises(R"(\bnamespace sluice\b|\bstruct sluice::)");
    const std::string at_depth = "block_" + std::to_string(number),
                      outside = "snippet_main_" + name + std::to_string(number);
    const bool global = std::regex_search(p.declarations, specialises);
    if (global)
      everywhere += given.declarations + std::regex_replace(p.declarations, std::regex("int snippet_main\\("),
                                                            "static int " + outside + '(');
    const std::string local = global ? std::string() : given.declarations + p.declarations;
    declarations += "namespace block_" + std::to_string(number) + " {\nusing namespace sluice;\n" + local;
    ends += "}\n";  // nested: the declarations of a block are visible in all later ones, and may be hidden there
    const std::string statements = given.statements + p.statements;
    if (b.fragment) {  // a discarded statement: checked, but neither run nor linked
      body += "{ using namespace sluice;\nif constexpr (false) {\n" + statements + "}}\n";
      continue;
    }
    body += "{ using namespace sluice;\n" + statements;
    closing += "}\n";
    const std::string function = global ? outside : at_depth + "::snippet_main";
    const std::string check = " != 0) throw std::runtime_error(\"main returned an error\");\n";
    if (p.declarations.find("int snippet_main()") != std::string::npos)
      body += "if (" + function + "()" + check;
    else if (p.declarations.find("int snippet_main(") != std::string::npos)
      body += "char program[] = \"snippet\"; char* arguments[] = {program, nullptr};\nif (" + function +
              "(1, arguments)" + check;
  }
  std::ofstream out(argv[3]);
  if (blocks.empty()) return out << "// " << page << " has no snippets\n", 0;
  out << "// Generated from " << page << ".\n#include <stdexcept>\n"
      << top << everywhere << "namespace docs_" << name << " {\n"
      << declarations << "void run_page() {\n"
      << body << closing << "}\nconst docs::page registered{\"" << page << "\", run_page};\n"
      << ends << "}\n";
  return out ? 0 : 1;
}
