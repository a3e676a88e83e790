// weighted_sampling [WEIGHTS.csv] [OUT.svg]: chooses 8 items by weight with four designs, from a file with one weight a
// line or from an embedded list, and draws how often each item is chosen against its inclusion probability.
#include <cstdio>
#include <fstream>
#include <sluice/draw/effective_sample_size.hpp>
#include <sluice/draw/estimators.hpp>
#include <sluice/draw/poisson_sampling.hpp>
#include <sluice/draw/priority_sampling.hpp>
#include <sluice/draw/systematic_pps.hpp>
#include <sluice/draw/var_opt.hpp>
#include <vector>

template <class Design>
void show(const char* name, Design design, const std::vector<double>& w, sluice::cursor& random) {
  const sluice::weighted_sample s = design.draw(w, 8, random);
  std::printf("%-12s %5zu %10.3f %10.3f %7.2f  ", name, s.index.size(), s.threshold, sluice::estimate_total(w, s),
              s.ess);
  for (const auto i : s.index) std::printf(" %td", i);
  std::printf("\n");
}

int main(int argc, char** argv) {
  std::vector<double> w;
  if (argc > 1) {
    std::ifstream in(argv[1]);
    for (double v; in >> v;) w.push_back(v);
  } else {
    for (int i = 0; i < 40; ++i) w.push_back(20.0 / (1 + i) + (i % 7 == 0 ? 3 : 0));
  }
  if (w.size() < 8) return std::fprintf(stderr, "weighted_sampling: at least 8 weights, one a line, are needed\n"), 2;
  double total = 0;
  for (const double v : w) total += v;
  std::printf("%zu items, total %.3f, effective sample size %.2f\n", w.size(), total, sluice::effective_sample_size(w));
  std::printf("%-12s %5s %10s %10s %7s   items\n", "design", "size", "threshold", "total^", "ess");
  sluice::cursor random(sluice::stream{7});
  show("VarOpt", sluice::var_opt{}, w, random);
  show("priority", sluice::priority_sampling{}, w, random);
  show("systematic", sluice::systematic_pps<>{}, w, random);
  show("Poisson", sluice::poisson_sampling{}, w, random);

  std::vector<double> pi(w.size()), chosen(w.size());
  sluice::pps_probabilities().compute_into(pi, w, 8);
  sluice::var_opt design;
  for (int t = 0; t < 2000; ++t)
    for (const auto i : design.draw(w, 8, random).index) chosen[static_cast<std::size_t>(i)] += 1 / 2000.0;
  const char* path = argc > 2 ? argv[2] : "weighted_sampling.svg";
  std::FILE* out = std::fopen(path, "w");
  if (out == nullptr) return std::fprintf(stderr, "weighted_sampling: cannot write %s\n", path), 2;
  std::fprintf(out, "<svg xmlns='http://www.w3.org/2000/svg' width='%zu' height='220'>\n", 14 * w.size() + 20);
  for (std::size_t i = 0; i < w.size(); ++i) {  // bars: how often chosen; lines: inclusion probability
    const double x = 10 + 14.0 * static_cast<double>(i);
    std::fprintf(out, "<rect x='%g' y='%g' width='10' height='%g' fill='#4a7'/>\n", x, 210 - 200 * chosen[i],
                 200 * chosen[i]);
    std::fprintf(out, "<rect x='%g' y='%g' width='12' height='2' fill='#000'/>\n", x - 1, 209 - 200 * pi[i]);
  }
  std::fprintf(out, "</svg>\n");
  std::fclose(out);
  std::printf("wrote %s\n", path);
}
