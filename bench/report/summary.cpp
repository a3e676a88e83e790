#include <algorithm>
#include <array>

#include "result.hpp"

namespace bench {
namespace {

struct chosen {
  const char *slug, *workload;
};
/// What the README shows of all rows: what users ask for first, gains and losses alike.
constexpr std::array chosen_rows{
    chosen{"sampling-primitives", "alias table, n = 16"},
    chosen{"sampling-primitives", "alias table, n = 65536"},
    chosen{"sampling-primitives", "update one of 65536 weights and draw"},
    chosen{"sampling-primitives", "1000 of 2^20 without replacement, skips"},
    chosen{"sampling-primitives", "total from 1000 of 2^18 items: VarOpt"},
    chosen{"sampling-primitives", "effective sample size of 2^18 weights"},
    chosen{"sampling-primitives", "normals, double"},
    chosen{"speculative-base", "token rejection, first draft rejected, V = 128256"},
    chosen{"speculative-base", "token rejection, all accepted, V = 128256"},
    chosen{"speculative-base", "block verification, first draft rejected, V = 128256"},
    chosen{"speculative-base", "recursive rejection, 4 children, all rejected, V = 32000"},
    chosen{"speculative-base", "bytes 6 from 4, token rejection, gamma = 4"},
    chosen{"speculative-base", "bytes 6 from 4, block verification, gamma = 4"},
    chosen{"speculative-base", "weights times b vectors, 134 MB, b = 5"},
    chosen{"speculative-base", "wall clock, taught bigram, chains, controller on"},
    chosen{"speculative-base", "wall clock, a draft of no use, chains, controller on"},
    chosen{"spectr", "bytes 6 from 4, K = 8, L = 8"},
    chosen{"spectr", "k-SEQ, 4 drafts, all rejected, V = 128256"},
    chosen{"mdsd", "ladder, bytes 6 from 4, n = 4"},
    chosen{"mdsd", "hybrid, 4 drafts, all rejected, V = 128256"},
    chosen{"mdsd", "optimal acceptance, without replacement, n = 4, V = 131072"},
    chosen{"base-solvers", "cost, UniPC-2, double, n = 4096"},
    chosen{"base-solvers", "pictures of 32 x 32, as near as UniPC-2 with 12 calls"},
    chosen{"deis", "calls for the error of tAB3 with 15"},
    chosen{"dualfast", "DDIM, quadratic grid, equal error to N = 10"},
    chosen{"dualfast", "DPM-Solver++(2M), uniform grid, N = 10"},
    chosen{"bottleneck-sampling", "textures 32 x 32, 2M, equal quality, steps 4+12+5"},
    chosen{"bottleneck-sampling", "textures 32 x 32, 2M, equal quality, low-high 16+9"},
    chosen{"bottleneck-sampling", "textures 32 x 32, 50 Euler steps, 5.1x cheaper"},
    chosen{"infedit", "labelled mixture, edited part, N = 15"},
    chosen{"vibidsampler", "points on a circle, N = 25"},
    chosen{"vibidsampler", "smooth Gaussian paths, N = 25"},
    chosen{"vq-nerf", "64 x 64, network field, f = 8"},
    chosen{"tensor-operations", "lincomb, axpy, scale_add, norm; n = 16 to 2^20; float"},
};

}  // namespace

std::string markdown_summary(const std::vector<row_result>& rows, std::vector<std::string>& not_found) {
  std::string out =
      "| technique | workload | work unit | work saved | wall time saved | over the fastest peer | quality ok? |\n"
      "|---|---|---|--:|--:|--:|---|\n";
  const char* technique = nullptr;
  for (const chosen& c : chosen_rows) {
    const auto found = std::find_if(rows.begin(), rows.end(), [&](const row_result& r) {
      return r.description.slug == c.slug && r.description.workload == c.workload;
    });
    if (found == rows.end()) {
      not_found.push_back(std::string(c.slug) + '/' + c.workload);
      continue;
    }
    const bool repeated = technique != nullptr && std::string(technique) == c.slug;
    const auto* peer = found->fastest_peer();
    out += std::string("| ") + (repeated ? "" : c.slug) + " | " + c.workload + " | " + found->description.unit + " | " +
           factor(found->work_ratio()) + " | " + factor(found->time_ratio()) + " | " +
           (peer ? factor(found->peer_time_ratio()) + " (" + peer->name + ")" : std::string()) + " | " +
           (found->description.quality.name.empty() ? "-"
            : found->quality_ok()                   ? "yes"
                                                    : "NO") +
           " |\n";
    technique = c.slug;
  }
  return out;
}

}  // namespace bench
