#pragma once
#include "row.hpp"

#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace bench {

inline constexpr double missing = std::numeric_limits<double>::quiet_NaN();

/// What one variant measured: medians over the repetitions.
struct measurement {
  std::string kind, name;
  double work = missing, seconds = missing, quality = missing, expected = missing, items_per_second = missing;
  int repetitions = 0;
  std::string error;
};

struct row_result {
  row description;
  std::map<std::string, double> size;
  std::vector<measurement> variants;  // in the order of registration
  std::string label;                  // what the variants said of this run

  std::string full_note() const {
    return description.note + (description.note.empty() || label.empty() ? "" : "; ") + label;
  }
  const measurement* find(const std::string& kind) const {
    for (const auto& v : variants)
      if (v.kind == kind && v.repetitions > 0) return &v;
    return nullptr;
  }
  /// a / b of one member of the naive and the sluice variant; not a number if either is missing.
  double ratio(double measurement::*member) const {
    const auto *a = find("naive"), *b = find("sluice");
    return a && b ? a->*member / (b->*member) : missing;
  }
  double work_ratio() const { return ratio(&measurement::work); }
  double time_ratio() const { return ratio(&measurement::seconds); }
  const measurement* fastest_peer() const {
    const measurement* best = nullptr;
    for (const auto& v : variants)
      if (v.kind == "peer" && v.repetitions > 0 && (best == nullptr || v.seconds < best->seconds)) best = &v;
    return best;
  }
  double peer_time_ratio() const {
    const auto *a = fastest_peer(), *b = find("sluice");
    return a && b ? a->seconds / b->seconds : missing;
  }
  bool quality_ok() const;
  std::string family() const;  // the workload up to its last comma
};

/// Where and how the run was made: shown above the table, in results.json and on the page.
using machine_info = std::vector<std::pair<std::string, std::string>>;
machine_info describe_machine(const std::string& commit);

/// Seconds that the selected rows may take, and the rows of each technique in order.
struct plan {
  std::vector<std::pair<std::string, std::vector<const registered_row*>>> techniques;
  std::size_t n_rows = 0;
  double seconds = 0;
};
plan make_plan(const std::string& filter);
std::vector<row_result> run(const plan& what);

std::string number(double x);                              // three significant digits
std::string seconds(double x);                             // with its unit
std::string factor(double x);                              // "4.57x"
inline bool loses(double ratio) { return ratio < 0.995; }  // what is printed as 1.00x is no loss

std::string text_table(const std::vector<row_result>& rows, int width, bool colour);
std::string markdown_table(const std::vector<row_result>& rows);
/// The few rows that summary.cpp names, in its order and in fewer columns. `not_found` collects names without a row.
std::string markdown_summary(const std::vector<row_result>& rows, std::vector<std::string>& not_found);
std::string json_document(const std::vector<row_result>& rows, const machine_info& machine);
/// Writes DIR/index.html, with pictures by gnuplot if there is one.  Returns false if the pictures are left out.
bool write_page(const std::string& dir, const std::vector<row_result>& rows, const machine_info& machine);

}  // namespace bench
