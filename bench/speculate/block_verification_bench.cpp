// One round of block verification over rows of logits, against dense probabilities with token rejection and sorting.
#include <sluice/speculate/block_verification.hpp>

#include "verification_peers.hpp"

namespace {
const bool registered = [] {
  bench::register_round<sluice::block_verification, bench::outcome::first_rejected>("block verification", 8, 4);
  bench::register_round<sluice::block_verification, bench::outcome::all_accepted>("block verification", 8, 4);
  return true;
}();
}  // namespace
