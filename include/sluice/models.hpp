#pragma once
#include <sluice/models/adam.hpp>
#include <sluice/models/bigram_table.hpp>
#include <sluice/models/circle_video.hpp>
#include <sluice/models/denoiser.hpp>
#include <sluice/models/diagonal_mixture.hpp>
#include <sluice/models/draws.hpp>
#include <sluice/models/feed_forward_lm.hpp>
#include <sluice/models/gaussian.hpp>
#include <sluice/models/gaussian_blobs.hpp>
#include <sluice/models/gaussian_mixture.hpp>
#include <sluice/models/gaussian_video.hpp>
#include <sluice/models/gp_video.hpp>
#include <sluice/models/images.hpp>
#include <sluice/models/instrumentation.hpp>
#include <sluice/models/kernel_denoiser.hpp>
#include <sluice/models/mixture_1d.hpp>
#include <sluice/models/ngram.hpp>
#include <sluice/models/ngram_language_model.hpp>
#include <sluice/models/patch_attention.hpp>
#include <sluice/models/radiance_ray.hpp>
#include <sluice/models/suffix_model.hpp>
#include <sluice/models/text_generator.hpp>
#include <sluice/models/texture_mixture.hpp>
#include <sluice/models/tokenizers.hpp>
#include <sluice/models/transformer.hpp>
#include <sluice/models/zipf_pair.hpp>

/// Everything of models/: small exact models for tests, benchmarks and examples. Not part of sluice.hpp, and unstable:
/// names and behaviour may change in any version.
