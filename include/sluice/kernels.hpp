#pragma once
#include <sluice/kernels/attention.hpp>
#include <sluice/kernels/codebook.hpp>
#include <sluice/kernels/conjugate_gradient.hpp>
#include <sluice/kernels/least_squares.hpp>
#include <sluice/kernels/packed_product.hpp>
#include <sluice/kernels/packet.hpp>
#include <sluice/kernels/paged_cache.hpp>

/// Everything of kernels/: what several families compute.
