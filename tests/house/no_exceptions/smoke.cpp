#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace sluice {
struct error_info;
}
[[noreturn]] void smoke_error(const sluice::error_info& error);

#include <sluice/core/eigen_tensor.hpp>
#include <sluice/core/half.hpp>
#include <sluice/core/mdspan.hpp>
#include <sluice/core/thread_pool.hpp>
#include <sluice/models.hpp>
#include <sluice/sluice.hpp>
#include <vector>

/// Does a little of everything without exceptions, then makes a mistake on purpose.
[[noreturn]] void smoke_error(const sluice::error_info& error) {
  const bool right = std::strcmp(error.function, "softmax") == 0 && std::strcmp(error.argument, "x") == 0 &&
                     error.index == 1 && error.value != error.value;
  std::exit(right ? 0 : 2);
}

namespace {
void check(bool ok, const char* what) {
  if (ok) return;
  std::printf("wrong: %s\n", what);
  std::exit(1);
}
}  // namespace

int main() {
  const std::vector<double> x{3, 4};
  std::vector<double> y = sluice::zeros_like(x);
  sluice::axpy(y, 2, x);
  check(sluice::norm(y) == 10, "axpy");
  const sluice::thread_pool pool(3);
  const auto sum =
      sluice::sum_chunks<sluice::index_t>([](auto first, auto last) { return last - first; }, 100'000, pool);
  check(sum == 100'000, "thread_pool");
  sluice::cursor random{sluice::stream(7)};
  std::vector<int> seen(3, 0);
  const std::vector<double> weights{1, 0, 3};
  const sluice::alias_table table(weights);
  for (int i = 0; i < 1000; ++i) ++seen[static_cast<std::size_t>(table.draw(random))];
  check(seen[0] > 0 && seen[1] == 0 && seen[2] > seen[0], "alias_table");
  std::printf("before the error\n");
  std::fflush(stdout);
  std::vector<double> row{0, std::numeric_limits<double>::quiet_NaN(), 1};
  sluice::softmax(std::span<double>(row), std::span<const double>(row));
  std::printf("a wrong argument was accepted\n");
  return 3;
}
