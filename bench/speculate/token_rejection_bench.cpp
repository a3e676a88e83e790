// One round of token rejection over rows of logits, against dense probabilities and against sorting.
#include <sluice/speculate/token_rejection.hpp>

#include "verification_peers.hpp"

namespace {
const bool registered = [] {
  bench::register_round<sluice::token_rejection, bench::outcome::first_rejected>("token rejection", 2, 1);
  bench::register_round<sluice::token_rejection, bench::outcome::all_accepted>("token rejection", 2, 1);
  return true;
}();
}  // namespace
