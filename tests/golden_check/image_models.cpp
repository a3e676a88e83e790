#include <sluice/models/images.hpp>
#include <sluice/models/kernel_denoiser.hpp>
#include <sluice/models/patch_attention.hpp>

#include "registry.hpp"

namespace {

using golden::json;
using sluice::index_t;
using namespace sluice::models;

/// Sums, the first n and the last of an image.
json summary(const Eigen::VectorXd& image, index_t n) {
  return {{"sum", image.sum()},
          {"sum_sq", image.squaredNorm()},
          {"first", golden::reals(Eigen::VectorXd(image.head(std::min<index_t>(n, image.size()))))},
          {"last", image(image.size() - 1)}};
}
json rows(const Eigen::VectorXd& image, index_t r) {
  json list = json::array();
  for (index_t i = 0; i < r; ++i) list.push_back(golden::reals(Eigen::VectorXd(image.segment(i * r, r))));
  return list;
}

json procedural_images(const json& in) {
  const auto bank = in.at("bank").get<std::uint64_t>();
  const index_t n = in.at("first").get<index_t>(), high = in.at("block_average_of_resolution").get<index_t>();
  json out;
  for (const json& i : in.at("images")) {
    const procedural_image image(bank, i.get<index_t>());
    json renders = json::array();
    for (const json& r : in.at("resolutions")) renders.push_back(summary(image.render(r.get<index_t>()), n));
    out["images"].push_back({{"kind", static_cast<int>(image.kind())},
                             {"renders", renders},
                             {"block_average", summary(block_average(image.render(high), high), n)}});
  }
  const json& full = in.at("full");
  const index_t r = full.at("resolution").get<index_t>();
  out["full"] = rows(procedural_image(bank, full.at("image").get<index_t>()).render(r), r);
  return out;
}

json kernel_denoisers(const json& in) {
  const index_t r = in.at("r").get<index_t>(), n = std::ssize(in.at("images"));
  Eigen::MatrixXd bank(r * r, n);
  for (index_t i = 0; i < n; ++i)
    bank.col(i) = procedural_image(in.at("bank").get<std::uint64_t>(),
                                   in.at("images").at(static_cast<std::size_t>(i)).get<index_t>())
                      .render(r);
  Eigen::VectorXd x(r * r), d(r * r);
  for (index_t i = 0; i < r; ++i)
    for (index_t j = 0; j < r; ++j)
      x(i * r + j) = golden::number(in.at("x").at(static_cast<std::size_t>(i)).at(static_cast<std::size_t>(j)));
  kernel_denoiser kernel(bank);
  patch_attention<> patch(bank, r, {.window = in.at("window").get<index_t>(), .ell = golden::number(in.at("ell"))});
  json out;
  for (const double kappa : golden::numbers(in.at("kappa"))) {
    kernel(x, at_kappa(kappa), d);
    out["kernel"].push_back(golden::reals(d));
    patch(x, at_kappa(kappa), d);
    out["patch"].push_back(rows(d, r));
  }
  return out;
}

const golden::kind images_kind{"test-models", "procedural_images", procedural_images};
const golden::kind kernels_kind{"test-models", "kernel_denoisers", kernel_denoisers};

}  // namespace
