// Runs the snippets of every page.
#include <cstdio>
#include <exception>
#include <vector>

#include "page.hpp"

namespace {
struct entry {
  const char* name;
  void (*run)();
};
std::vector<entry>& pages() {
  static std::vector<entry> all;
  return all;
}
}  // namespace

docs::page::page(const char* name, void (*run)()) { pages().push_back({name, run}); }

int main() {
  int failures = 0;
  for (const entry& p : pages()) {
    std::printf("== %s\n", p.name);
    try {
      p.run();
    } catch (const std::exception& e) {
      std::printf("FAILED %s: %s\n", p.name, e.what());
      ++failures;
    }
    std::fflush(stdout);
  }
  std::printf("%zu pages with snippets, %d failed\n", pages().size(), failures);
  return failures == 0 && !pages().empty() ? 0 : 1;
}
