#pragma once
#include "row.hpp"

#include <string>

namespace bench {

struct command_line {
  run_options options;
  std::string filter, commit;
  bool list = false, help = false;
  std::string error;  // one sentence; empty if all is well
};
command_line parse(int argc, char** argv);
void set_options(const run_options& o);

/// Empty if the file can serve as text, else one sentence that says why not.
std::string text_problem(const std::string& path);
/// Empty if the path can serve as a bank of pictures, else one sentence that says why not.
std::string image_problem(const std::string& path);
/// "procedural pictures, bank 1" or the name of the user's.
std::string describe_pictures();
/// "generated text, seed 1, 2.0 MB" or "moby.txt, 1.3 MB".
std::string describe_text();

}  // namespace bench
