#include "result.hpp"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>
#include <regex>

namespace bench {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double median(std::vector<double> x) {
  std::erase_if(x, [](double v) { return std::isnan(v); });
  if (x.empty()) return missing;
  std::sort(x.begin(), x.end());
  const std::size_t m = x.size() / 2;
  return x.size() % 2 == 1 ? x[m] : (x[m - 1] + x[m]) / 2;
}

// Takes the runs from Google Benchmark and prints nothing: its console reporter warns about Debian's library.
class collector : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>& runs) override { runs_.insert(runs_.end(), runs.begin(), runs.end()); }
  std::vector<Run> runs_;
};

// "a^2 (b)" as a regular expression that matches only itself.
std::string literally(const std::string& s) {
  std::string r;
  for (const char c : s) {
    if (std::string("\\^$.[]|()?*+{}").find(c) != std::string::npos) r += '\\';
    r += c;
  }
  return r;
}

class measured_variant {
 public:
  measured_variant(const registered_variant& v, std::string id)
      : v_(&v), pattern_('^' + literally(id) + "(/iterations:[0-9]+)?$") {
    result_.kind = v.kind, result_.name = v.name;
  }
  // Finds the number of iterations that fills `target` seconds.
  void calibrate(double target) {
    for (int attempt = 0; attempt < 8; ++attempt) {
      once(true);
      if (failed() || loop_ >= target / 3) break;
      iterations_ = std::min(iterations_ * std::clamp(target / std::max(loop_, 1e-8), 1.0, 1000.0), 1e9);
    }
    if (loop_ > 0) iterations_ = std::clamp(iterations_ * target / loop_, 1.0, 1e9);
  }
  // The first repetition replaces what calibration measured, which stands only if there is no time for a repetition.
  void repeat(int round) {
    if (!failed()) once(round == 0);
  }
  bool failed() const { return !result_.error.empty(); }
  double cost() const { return wall_; }
  const std::map<std::string, double>& size() const { return size_; }
  const std::string& label() const { return label_; }
  measurement finish() {
    result_.seconds = median(seconds_), result_.work = median(work_), result_.quality = median(quality_);
    result_.expected = median(expected_), result_.items_per_second = median(rate_);
    result_.repetitions = static_cast<int>(seconds_.size());
    return result_;
  }

 private:
  void once(bool forget) {
    const double start = now();
    collector c;
    v_->run->Iterations(static_cast<benchmark::IterationCount>(iterations_));
    benchmark::RunSpecifiedBenchmarks(&c, pattern_);
    wall_ = now() - start;
    if (c.runs_.empty()) {
      result_.error = "the variant reported nothing";
      return;
    }
    const auto& r = c.runs_.front();
    if (r.error_occurred) {
      result_.error = r.error_message;
      return;
    }
    loop_ = r.real_accumulated_time;
    if (forget)
      for (auto* x : {&seconds_, &work_, &quality_, &expected_, &rate_}) x->clear();
    const auto counter = [&](const char* name) {
      const auto it = r.counters.find(name);
      return it == r.counters.end() ? missing : double(it->second);
    };
    seconds_.push_back(loop_ / double(std::max<std::int64_t>(r.iterations, 1)));
    work_.push_back(counter("work"));
    quality_.push_back(counter("quality"));
    expected_.push_back(counter("expected"));
    rate_.push_back(counter("items_per_second"));
    if (!r.report_label.empty()) label_ = r.report_label;
    for (const auto& [name, value] : r.counters)
      if (name != "work" && name != "quality" && name != "expected" && name != "items_per_second" &&
          name != "bytes_per_second")
        size_[name] = value;
  }

  const registered_variant* v_;
  std::string pattern_;
  double iterations_ = 1, loop_ = 0, wall_ = 0;
  measurement result_;
  std::vector<double> seconds_, work_, quality_, expected_, rate_;
  std::map<std::string, double> size_;
  std::string label_;
};

int repetitions() {
  switch (options().mode) {
    case effort::quick:
      return 3;
    case effort::full:
      return 15;
    default:
      return 7;
  }
}

row_result measure(const registered_row& entry, double budget, std::mt19937& order) {
  const double start = now(), n = double(entry.variants.size());
  const double target = budget / (n * (repetitions() + 1.5));
  std::vector<measured_variant> variants;
  for (const auto& v : entry.variants) {
    std::string id = entry.description.slug + '/' + entry.description.workload + '/' + v.kind;
    if (v.kind == "peer") id += '/' + v.name;
    variants.emplace_back(v, std::move(id));
  }
  for (auto& v : variants) v.calibrate(target);
  // Repetitions are interleaved, in a random order inside a round: what slows the machine down for a while slows all
  // variants.
  std::vector<std::size_t> turn(variants.size());
  for (std::size_t i = 0; i < turn.size(); ++i) turn[i] = i;
  for (int round = 0; round < repetitions(); ++round) {
    double next = 0;
    for (const auto& v : variants) next += v.failed() ? 0 : v.cost();
    if (now() - start + next > budget * 1.02) break;
    std::shuffle(turn.begin(), turn.end(), order);
    for (const std::size_t i : turn) variants[i].repeat(round);
  }
  row_result r;
  r.description = entry.description;
  std::string label;
  for (auto& v : variants) {
    r.variants.push_back(v.finish());
    for (const auto& [name, value] : v.size()) r.size[name] = value;
    if (!v.label().empty())
      label += (label.empty() ? "" : "; ") + (r.variants.back().kind == "sluice" ? "" : r.variants.back().name + ": ") +
               v.label();
    if (v.failed())
      label += (label.empty() ? "" : "; ") + r.variants.back().name + " left out: " + r.variants.back().error;
  }
  r.label = label;
  return r;
}

}  // namespace

std::map<std::string, registered_row>& rows() {
  static std::map<std::string, registered_row> all;
  return all;
}

bool row_result::quality_ok() const {
  const auto *a = find("naive"), *b = find("sluice");
  const auto& q = description.quality;
  if (!b) return false;
  if (std::isnan(b->quality)) return q.name.empty();  // nothing promised, nothing to check
  const double sign = q.higher_is_better ? -1 : 1;
  if (a && !std::isnan(a->quality)) return sign * (b->quality - a->quality) <= q.tolerance;
  return sign * (b->quality - q.tolerance) <= 0;
}

std::string row_result::family() const {
  const auto comma = description.workload.rfind(',');
  return comma == std::string::npos ? description.workload : description.workload.substr(0, comma);
}

plan make_plan(const std::string& filter) {
  plan p;
  const std::regex wanted(filter.empty() ? std::string(".") : filter);
  std::map<std::string, std::vector<const registered_row*>> by_slug;
  for (const auto& [key, entry] : rows())
    if (std::regex_search(key, wanted)) by_slug[entry.description.slug].push_back(&entry);
  for (auto& [slug, of_slug] : by_slug) {
    std::sort(of_slug.begin(), of_slug.end(), [](auto* a, auto* b) { return a->order < b->order; });
    p.n_rows += of_slug.size();
    p.techniques.emplace_back(slug, std::move(of_slug));
  }
  // the shared bases first: what later techniques are compared with
  std::stable_partition(p.techniques.begin(), p.techniques.end(), [](const auto& t) {
    return t.first == "sampling-primitives" || t.first == "speculative-base" || t.first == "base-solvers";
  });
  p.seconds = options().seconds_per_technique * double(p.techniques.size());
  return p;
}

std::vector<row_result> run(const plan& what) {
  std::vector<row_result> results;
  std::mt19937 order(1);
  const bool live = isatty(STDERR_FILENO) != 0;
  const double start = now();
  std::size_t done = 0;
  for (const auto& [slug, of_slug] : what.techniques) {
    const double technique_start = now();
    for (std::size_t i = 0; i < of_slug.size(); ++i) {
      const auto& d = of_slug[i]->description;
      std::fprintf(stderr, "%s[%3zu/%zu] %4.0f s  %s: %s%s", live ? "\r\033[K" : "", ++done, what.n_rows, now() - start,
                   slug.c_str(), d.workload.c_str(), live ? "" : "\n");
      std::fflush(stderr);
      const double left = options().seconds_per_technique - (now() - technique_start);
      results.push_back(measure(*of_slug[i], std::max(left, 0.0) / double(of_slug.size() - i), order));
    }
    const double took = now() - technique_start;
    if (took > 1.2 * options().seconds_per_technique)
      std::fprintf(stderr, "%s%s took %.1f s instead of %.0f s: one call of a variant takes longer than its share.\n",
                   live ? "\r\033[K" : "", slug.c_str(), took, options().seconds_per_technique);
  }
  if (live) std::fprintf(stderr, "\r\033[K");
  return results;
}

}  // namespace bench
