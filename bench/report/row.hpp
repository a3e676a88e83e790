#pragma once
#include <benchmark/benchmark.h>

#include <Eigen/Core>
#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bench {

/// What a row's `quality` counter measures.  A row is ok if quality(sluice) is at most `tolerance` worse than
/// quality(naive); where the naive variant reports none, sluice's own value must not exceed the tolerance (or must
/// reach it, if higher is better).
struct quality {
  std::string name;
  bool higher_is_better = false;
  double tolerance = 0;
};

struct registered_row;
/// Every row of the program, by "slug/workload", in the order of registration inside a slug.
std::map<std::string, registered_row>& rows();

/// One row of the table: a technique (its slug), a workload, and the same work done in two ways or more.
///
///     const auto registered = bench::row{"heun", "gaussian 2^14", "model calls", {.name = "relative error"}, "second
///     order", ""}
///         .naive(euler).sluice(heun).peer("Eigen by hand", by_hand);
///
/// A variant is a callable void(benchmark::State&).  It sets counters, which hold numbers only:
///   work     the technique's work unit, per iteration of the timed loop (an amount, not a rate);
///   quality  what `quality` names, computed outside the timed loop;
///   expected the value of `work` that theory predicts for this input (optional; drawn as a curve);
///   any other name is a size of the workload, as n, V or gamma: the same in all variants of the row.
/// state.SetItemsProcessed gives the pictures a rate (draws per second).  state.SetLabel adds a sentence to the note
/// that only the run knows.  state.SkipWithError leaves a variant out and says why.
///
/// Rows of one slug whose workloads agree up to the last comma ("alias, n = 16", "alias, n = 256") form a family: if
/// they differ in one size, a picture shows them over it.
///
/// The timed loop may run once or a million times, and the variant is called several times: prepare what is expensive
/// in a function-local static that the variants share.  The first call of each variant is not counted.
struct row {
  std::string slug, workload, unit;
  bench::quality quality;
  std::string claim, note, peer_name{};
  template <class F>
  row& naive(F f) {
    return add("naive", f);
  }
  template <class F>
  row& sluice(F f) {
    return add("sluice", f);
  }
  /// The strongest thing that a C++ user could pick today.  May be called more than once, with different names.
  template <class F>
  row& peer(std::string name, F f) {
    peer_name = std::move(name);
    return add("peer", f);
  }
  template <class F>
  row& add(const char* variant, F f);
};

struct registered_variant {
  std::string kind, name;  // name: "naive", "sluice", or what the peer is called
  benchmark::internal::Benchmark* run;
};
struct registered_row {
  row description;
  std::vector<registered_variant> variants;
  std::size_t order = 0;
};

template <class F>
row& row::add(const char* variant, F f) {
  const std::string key = slug + '/' + workload;
  const std::size_t order = rows().size();
  registered_row& entry = rows()[key];  // the reporter looks names up in it
  if (entry.variants.empty()) entry.order = order;
  entry.description = *this;
  const bool is_peer = std::string_view(variant) == "peer";
  const std::string name = is_peer ? peer_name : variant;
  const std::string id = key + '/' + variant + (is_peer ? '/' + peer_name : std::string());
  entry.variants.push_back({variant, name, benchmark::RegisterBenchmark(id.c_str(), f)});
  return *this;
}

/// How long a run may take.
enum class effort { quick, normal, full };

/// What the command line asked for.  Valid inside variants, not while rows are registered.
struct run_options {
  std::string text;   ///< path of the user's text; empty: the generated text
  std::string image;  ///< path of the user's picture or folder of pictures; empty: procedural pictures
  effort mode = effort::normal;
  std::string out = "results";  ///< directory of results.json and index.html
  double seconds_per_technique = 15;
  std::size_t text_bytes = 2'000'000;  ///< how much of the text text() returns at most
};
const run_options& options();

/// The text that the run works on: the first options().text_bytes bytes of the user's file, cut between two characters,
/// or as many bytes of the generated text with seed 1.  Loaded on the first call, the same object ever after.
const std::string& text();

/// The bank of pictures that the run works on, side x side pixels in [-1, 1], one picture a column, at most `most`: the
/// user's folder, tiles of the user's picture, or the procedural bank 1.
Eigen::MatrixXd pictures(int side, int most);

}  // namespace bench
