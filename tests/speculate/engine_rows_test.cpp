// What engines hand over and take back: rows as pointers, cache positions, batches in which one request is broken.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <sluice/core/thread_pool.hpp>
#include <sluice/speculate/block_verification.hpp>
#include <sluice/speculate/token_rejection.hpp>
#include <span>
#include <string>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <vector>

using namespace sluice;

// Fails for: a row that is copied; a row that starts or ends elsewhere; a stride that is ignored; another kind; ids
// that make the row sparse; a null pointer or a negative size that passes.
TEMPLATE_TEST_CASE("rows of an engine are views", "[speculate][engine]", float, double) {
  const std::vector<TestType> logits(3 * 8, TestType{1});
  const token_row<TestType> one = dense_logits(logits.data() + 8, 5);
  CHECK(one.kind == row_kind::logits);
  CHECK(one.values.data() == logits.data() + 8);
  CHECK(one.values.size() == 5);
  CHECK(one.ids.empty());

  std::vector<token_row<TestType>> rows(3);
  dense_logits(std::span(rows), logits.data(), 5, 8);
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(rows[i].values.data() == logits.data() + 8 * i);
    CHECK(rows[i].values.size() == 5);
    CHECK(rows[i].kind == row_kind::logits);
  }
  CHECK(support::allocations_in([&] { dense_logits(std::span(rows), logits.data(), 8, 8); }) == 0);
  CHECK(rows[1].values.data() == logits.data() + 8);

  const TestType* const none = nullptr;
  SLUICE_CHECK_THROWS(dense_logits(none, 5), "dense_logits", "first", -1);
  SLUICE_CHECK_THROWS(dense_logits(logits.data(), 0), "dense_logits", "vocabulary_size", -1);
  SLUICE_CHECK_THROWS(dense_logits(std::span(rows), logits.data(), 6, 5), "dense_logits", "stride", -1);
  SLUICE_CHECK_THROWS(dense_logits(std::span(rows), none, 5, 5), "dense_logits", "first", -1);
  CHECK(rows[1].values.size() == 8);
}

// Fails for: the corrected token counted as fed to the target; the token that the round began with not counted.
TEST_CASE("the cache keeps the first token of the round and the accepted drafts", "[speculate][engine]") {
  CHECK(positions_to_keep({0, 7}) == 1);
  CHECK(positions_to_keep({3, 7}) == 4);
}

namespace {

/// Three requests over four tokens with one draft each; the row of the second holds a NaN.
struct batch_with_a_bad_row {
  batch_with_a_bad_row() {
    for (std::size_t r = 0; r < 3; ++r) {
      values[r] = {0.5f, 1.0f, -1.0f, 0.25f, 0.0f, 2.0f, 1.0f, -3.0f};
      p[r].resize(2);
      dense_logits(std::span(p[r]), values[r].data(), 4, 4);
      requests.push_back({p[r], q, drafted, r + 10});
    }
    values[1][2] = std::numeric_limits<float>::quiet_NaN();
  }
  const std::vector<float> draft{0.0f, 1.5f, 0.0f, 0.0f};
  const std::vector<token_row<float>> q{dense_logits(draft.data(), 4)};
  const std::vector<token_id> drafted{1};
  std::vector<float> values[3];
  std::vector<token_row<float>> p[3];
  std::vector<request<float, float>> requests;
};

}  // namespace

// Fails for: a batch that stops or throws at the bad row; a fault without its place; verdicts that differ from those of
// the batch that throws; one stream for all; results at other places; an executor that is not used.
TEMPLATE_TEST_CASE("a bad row is the fault of its own request only", "[speculate][engine][parallel]", token_rejection,
                   block_verification) {
  const TestType rule{};
  const batch_with_a_bad_row batch;
  const std::span<const request<float, float>> all(batch.requests);
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const stream run{seed};
    std::vector<decision> out(3);
    verify(rule, std::span<decision>(out), all, run);
    CHECK(std::string(out[1].fault.argument) == "target");
    CHECK(out[1].fault.row == 0);
    CHECK(out[1].fault.element == 2);
    CHECK(std::isnan(out[1].fault.value));
    CHECK(out[1].result == verdict{0, -1});
    for (const std::size_t r : {0u, 2u}) {
      CHECK_FALSE(out[r].fault);
      std::vector<verdict> alone(1);
      verify(rule, std::span<verdict>(alone), all.subspan(r, 1), run);
      CHECK(out[r].result == alone[0]);
    }
    thread_pool pool(2);
    std::vector<decision> threads(3);
    verify(rule, std::span<decision>(threads), all, pool, run);
    CHECK(threads[0].result == out[0].result);
    CHECK(threads[2].result == out[2].result);
    CHECK(threads[1].fault.element == 2);
  }
  CHECK(support::allocations_in([&] {
          decision out[3];
          verify(rule, std::span<decision>(out), all, stream{1});
        }) == 0);
  std::vector<decision> short_out(2, decision{{-7, -7}, {}});
  SLUICE_CHECK_THROWS((verify(rule, std::span<decision>(short_out), all, stream{1})), "verify", "out.size", -1);
  CHECK(short_out[0].result == verdict{-7, -7});
}
