#pragma once
/// The statistics of the tests: every p-value, threshold and sample size comes from here. Rules: a test has a fixed
/// seed, gates at 1e-6 or |z| < 5.5, and must reject at least one wrong implementation. The headers by subject:
#include "statistics/continuous.hpp"  // Kolmogorov-Smirnov, Anderson-Darling, Cramer-von Mises
#include "statistics/critical.hpp"    // thresholds and sample sizes
#include "statistics/dependence.hpp"  // autocorrelation, effective sample size
#include "statistics/discrete.hpp"    // counts: Pearson, G, exact tests, binomial, coverage
#include "statistics/kernels.hpp"     // MMD, energy distance, kernel Stein
#include "statistics/means.hpp"       // z, t, Welch, Mann-Whitney, variances
#include "statistics/sequential.hpp"  // SPRT, any-time valid wealth
#include "statistics/special.hpp"     // tail functions and their inverses
