#pragma once
#include <sluice/speculate/block_verification.hpp>
#include <sluice/speculate/bounded_law.hpp>
#include <sluice/speculate/cost_curve.hpp>
#include <sluice/speculate/decoder.hpp>
#include <sluice/speculate/draft_length.hpp>
#include <sluice/speculate/draft_shape.hpp>
#include <sluice/speculate/drafted.hpp>
#include <sluice/speculate/drafting.hpp>
#include <sluice/speculate/k_seq.hpp>
#include <sluice/speculate/language_model.hpp>
#include <sluice/speculate/logit_processors.hpp>
#include <sluice/speculate/optimal_acceptance.hpp>
#include <sluice/speculate/optimal_multidraft.hpp>
#include <sluice/speculate/recursive_rejection.hpp>
#include <sluice/speculate/token_law.hpp>
#include <sluice/speculate/token_rejection.hpp>
#include <sluice/speculate/token_tree.hpp>
#include <sluice/speculate/verification.hpp>
#include <sluice/speculate/weighted_selection.hpp>

/// Everything of speculate/: language models, drafting, verification rules, the decoder.
