#include <sluice/sluice.hpp>

#include <cstdio>
#include <vector>

static_assert(SLUICE_VERSION_MAJOR == 0 && SLUICE_VERSION_MINOR == 1);

int main() {
  const std::vector<double> x{3, 4};
  std::vector<double> y = sluice::zeros_like(x);
  sluice::axpy(y, 2, x);
  std::printf("|2x| = %g\n", sluice::norm(y));
  return sluice::norm(y) == 10 ? 0 : 1;
}
