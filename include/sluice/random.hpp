#pragma once
#include <sluice/random/binomial.hpp>
#include <sluice/random/bulk.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/random/distributions.hpp>
#include <sluice/random/elementary.hpp>
#include <sluice/random/halton.hpp>
#include <sluice/random/philox.hpp>
#include <sluice/random/sobol.hpp>
#include <sluice/random/stream.hpp>
#include <sluice/random/uniform.hpp>

/// Everything of random/: streams, cursors, distributions, quasi-random points.
