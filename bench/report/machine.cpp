#include <sys/utsname.h>
#include <sluice/core/version.hpp>

#include <Eigen/Core>
#include <ctime>
#include <fstream>
#include <thread>

#include "options.hpp"
#include "result.hpp"

#ifndef SLUICE_BENCH_FLAGS
#define SLUICE_BENCH_FLAGS "unknown"
#endif

namespace bench {
namespace {

std::string after_colon(const char* path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(key))
      if (const auto at = line.find_first_not_of(" \t", line.find(':') + 1); at != std::string::npos)
        return line.substr(at);
  return {};
}
std::string first_line(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

std::string caches() {
  std::string s;
  for (int i = 0; i < 8; ++i) {
    const std::string dir = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(i) + '/';
    const std::string level = first_line(dir + "level"), kind = first_line(dir + "type"),
                      size = first_line(dir + "size");
    if (level.empty() || kind == "Instruction") continue;
    s += (s.empty() ? "L" : ", L") + level + ' ' + size;
  }
  return s;
}

}  // namespace

machine_info describe_machine(const std::string& commit) {
  machine_info m;
  const auto add = [&](const char* key, std::string value) {
    if (!value.empty()) m.emplace_back(key, std::move(value));
  };
  add("processor", after_colon("/proc/cpuinfo", "model name"));
  add("cores", std::to_string(std::thread::hardware_concurrency()));
  add("caches", caches());
  add("memory", after_colon("/proc/meminfo", "MemTotal"));
  std::string system;
  std::ifstream release("/etc/os-release");
  for (std::string line; std::getline(release, line);)
    if (line.starts_with("PRETTY_NAME=\"") && line.size() > 14) system = line.substr(13, line.size() - 14);
  if (utsname u{}; uname(&u) == 0)
    system += (system.empty() ? "" : ", ") + std::string(u.sysname) + ' ' + u.release + ' ' + u.machine;
  add("system", system);
#ifdef __clang__
  add("compiler", "clang++ " __clang_version__);
#else
  add("compiler", "g++ " __VERSION__);
#endif
  add("flags", SLUICE_BENCH_FLAGS);
  add("eigen", std::to_string(EIGEN_WORLD_VERSION) + '.' + std::to_string(EIGEN_MAJOR_VERSION) + '.' +
                   std::to_string(EIGEN_MINOR_VERSION));
  add("sluice", std::to_string(SLUICE_VERSION_MAJOR) + '.' + std::to_string(SLUICE_VERSION_MINOR) + '.' +
                    std::to_string(SLUICE_VERSION_PATCH));
  add("commit", commit.empty() ? "unknown" : commit);
  const auto& o = options();
  add("mode", o.mode == effort::quick ? "quick" : o.mode == effort::full ? "full" : "default");
  add("text", describe_text());
  add("pictures", describe_pictures());
  char date[40];
  const std::time_t t = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&t, &utc);
  std::strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", &utc);
  add("date", date);
  return m;
}

}  // namespace bench
