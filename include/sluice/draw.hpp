#pragma once
#include <sluice/draw/alias_table.hpp>
#include <sluice/draw/effective_sample_size.hpp>
#include <sluice/draw/estimators.hpp>
#include <sluice/draw/exponential_race.hpp>
#include <sluice/draw/inverse_cdf.hpp>
#include <sluice/draw/poisson_sampling.hpp>
#include <sluice/draw/pps_threshold.hpp>
#include <sluice/draw/prefix_sums.hpp>
#include <sluice/draw/priority_sampling.hpp>
#include <sluice/draw/resample.hpp>
#include <sluice/draw/sum_tree.hpp>
#include <sluice/draw/systematic_pps.hpp>
#include <sluice/draw/var_opt.hpp>
#include <sluice/draw/weighted_sample.hpp>
#include <sluice/draw/weights.hpp>
#include <sluice/draw/with_replacement.hpp>
#include <sluice/draw/without_replacement.hpp>
#include <sluice/draw/words.hpp>

/// Everything of draw/: tables of categories, sampling designs, estimators, resampling.
