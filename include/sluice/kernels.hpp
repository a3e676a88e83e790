#pragma once
#include <sluice/kernels/packed_product.hpp>
#include <sluice/kernels/packet.hpp>

/// Everything of kernels/: what several families compute.
