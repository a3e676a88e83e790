#pragma once
/// The statistics of the tests: every p-value, threshold and sample size comes from here. Sources and rules: a test has
/// a fixed seed, gates at 1e-6 or |z| < 5.5, and must reject at least one wrong implementation.
#include "statistics/critical.hpp"
#include "statistics/discrete.hpp"
#include "statistics/means.hpp"
#include "statistics/special.hpp"
