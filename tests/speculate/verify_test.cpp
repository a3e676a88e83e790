#include <catch2/catch.hpp>
#include <sluice/core/thread_pool.hpp>
#include <sluice/speculate/block_verification.hpp>
#include <sluice/speculate/token_rejection.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>

#include "rounds.hpp"

using namespace sluice;

namespace {

using exact_request = request<double, double>;

/// Forty requests of 0 to 3 drafts over four tokens; ids neither dense nor in order.
struct ragged_batch {
  ragged_batch() {
    for (std::size_t r = 0; r < x.size(); ++r) {
      for (std::size_t i = 0; i < r % 4; ++i) x[r].push_back(static_cast<token_id>((r + i) % 4));
      for (std::size_t i = 0; i <= r % 4; ++i) {
        const std::size_t c = table.context(std::span(x[r]).first(i));
        p[r].push_back(table.target[c].view());
        if (i < r % 4) q[r].push_back(table.draft[c].view());
      }
      requests.push_back({p[r], q[r], x[r], 1000 + 7 * (r * 13 % 40)});
    }
  }
  rounds::tables<double, double> table{4, 3, stream(71), 0, {}, {}};
  std::vector<std::vector<token_row<double>>> p{40}, q{40};
  std::vector<std::vector<token_id>> x{40};
  std::vector<exact_request> requests;
};

constexpr verdict untouched{-7, -7};

/// The indices in reverse, so that nothing may depend on the order.
struct backwards {
  template <class F>
  void for_each(index_t n_chunks, F&& f) const {
    for (index_t c = n_chunks; c-- > 0;) f(c);
  }
};

}  // namespace

// Fails for: a stream that depends on a request's place in the batch, on its neighbours or on the executor; one cursor
// for the whole batch; streams derived from the position instead of the id; several requests a chunk that share words.
TEMPLATE_TEST_CASE("a batch equals each request alone, on every executor", "[speculate][parallel]", token_rejection,
                   block_verification, exact_match) {
  const TestType rule{};
  const ragged_batch batch;
  const stream run{3};
  const std::span<const exact_request> all(batch.requests);
  std::vector<verdict> together(40, untouched), alone(1), permuted(40);
  verify(rule, std::span<verdict>(together), all, run);
  for (std::size_t r = 0; r < 40; ++r) {
    verify(rule, std::span<verdict>(alone), all.subspan(r, 1), run);
    CHECK(alone[0] == together[r]);
    cursor own(run.derive(batch.requests[r].id));
    CHECK(rule(batch.requests[r], own) == together[r]);
  }
  std::vector<exact_request> reversed(batch.requests.rbegin(), batch.requests.rend());
  verify(rule, std::span<verdict>(permuted), std::span<const exact_request>(reversed), run);
  std::reverse(permuted.begin(), permuted.end());
  CHECK(permuted == together);
  for (const index_t threads : {1, 2, 3}) {
    const thread_pool pool(threads);
    std::vector<verdict> parallel(40, untouched);
    verify(rule, std::span<verdict>(parallel), all, pool, run);
    CHECK(parallel == together);
  }
  std::vector<verdict> order(40, untouched), other(40);
  verify(rule, std::span<verdict>(order), all, backwards{}, run);
  CHECK(order == together);
  verify(rule, std::span<verdict>(other), all, stream{4});
  CHECK(other != together);
}

// Fails for: a batch that is read or written before the sizes are compared; only the shorter of the two lengths used.
TEST_CASE("verify refuses another number of verdicts than requests", "[speculate]") {
  const ragged_batch batch;
  const std::span<const exact_request> all(batch.requests);
  for (const std::size_t n : {std::size_t{0}, std::size_t{39}, std::size_t{41}}) {
    std::vector<verdict> out(n, untouched);
    SLUICE_CHECK_THROWS((verify(token_rejection{}, std::span<verdict>(out), all, stream{1}), 0), "verify", "out.size",
                        -1);
    SLUICE_CHECK_THROWS((verify(token_rejection{}, std::span<verdict>(out), all, serial{}, stream{1}), 0), "verify",
                        "out.size", -1);
    CHECK(out == std::vector<verdict>(n, untouched));
  }
  std::vector<verdict> none;
  verify(token_rejection{}, std::span<verdict>(none), all.first(0), stream{1});
  std::vector<verdict> out(40, untouched);
  CHECK(support::allocations_in([&] { verify(token_rejection{}, std::span<verdict>(out), all, stream{1}); }) == 0);
}

// Fails for: a fault of one request that is swallowed, or that changes its verdict.
TEST_CASE("verify passes on what the rule reports", "[speculate]") {
  ragged_batch batch;
  batch.x[6][1] = 4;
  std::vector<verdict> out(40, untouched);
  const std::span<const exact_request> one = std::span<const exact_request>(batch.requests).subspan(6, 1);
  bool reached = false;
  for (std::uint64_t seed = 0; seed < 20 && !reached; ++seed) {  // the second draft, if the first is accepted
    out[0] = untouched;
    cursor random(stream(seed).derive(one[0].id));
    if (!token_rejection{}.decide(one[0], random).fault) continue;
    reached = true;
    SLUICE_CHECK_THROWS((verify(token_rejection{}, std::span<verdict>(out).first(1), one, stream{seed}), 0),
                        "token_rejection", "drafted", 1);
    CHECK(out[0] == untouched);
  }
  CHECK(reached);
}
