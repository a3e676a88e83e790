// Fails for: one unit too many or too few; an overflow at the largest cost; booking what was refused; a tie that goes
// to the later offer; a NaN that wins; a span that is rebound instead of copied.
#include <sluice/core/budget.hpp>

#include <Eigen/Core>
#include <catch2/catch.hpp>
#include <limits>
#include <span>
#include <string>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <vector>

namespace {
constexpr double inf = std::numeric_limits<double>::infinity();
constexpr std::int64_t largest = std::numeric_limits<std::int64_t>::max();
}  // namespace

TEST_CASE("budget: stops before the limit is exceeded", "[core][budget]") {
  sluice::budget b(10);
  CHECK(b.spend(4));
  CHECK(b.spend(6));
  CHECK(b.spent() == 10);
  CHECK(b.left() == 0);
  CHECK(b.allows(0));
  CHECK_FALSE(b.allows());
  CHECK_FALSE(b.spend(1));
  CHECK(b.spend(0));
  CHECK(b.spent() == 10);
  sluice::budget c(10);
  CHECK(c.spend(7));
  CHECK_FALSE(c.spend(4));
  CHECK(c.spent() == 7);  // refused, not booked
  CHECK_FALSE(c.spend(largest));
  CHECK(c.spend(3));
  CHECK_FALSE(sluice::budget(0).allows());
  static_assert(sluice::budget(3).allows(3) && !sluice::budget(3).allows(4));
}

TEST_CASE("budget: no limit, and the largest counts", "[core][budget]") {
  sluice::budget b;
  CHECK(b.spend(largest - 1));
  CHECK(b.spend(1));
  CHECK_FALSE(b.spend(1));
  CHECK(b.spent() == largest);
}

TEST_CASE("budget: a charge that was more than was left gives back the excess", "[core][budget]") {
  sluice::budget b(10);
  CHECK(b.charge(4) == 0);
  CHECK(b.charge(9) == 3);
  CHECK(b.spent() == 10);
  CHECK(b.charge(largest) == largest);
}

TEST_CASE("budget: refuses negative numbers and changes nothing", "[core][budget]") {
  sluice::budget b(5);
  SLUICE_CHECK_THROWS(sluice::budget(-1), "budget", "limit", -1);
  SLUICE_CHECK_THROWS(b.spend(-1), "budget::spend", "cost", -1);
  SLUICE_CHECK_THROWS(b.charge(-1), "budget::charge", "cost", -1);
  CHECK(b.spent() == 0);
}

TEST_CASE("best_so_far: the highest score, the first on ties, never NaN", "[core][budget]") {
  sluice::best_so_far<std::string> best;
  CHECK_FALSE(best.found());
  CHECK(best.score() == -inf);
  CHECK(best.position() == -1);
  CHECK_FALSE(best.offer(std::numeric_limits<double>::quiet_NaN(), "nan"));
  CHECK_FALSE(best.found());
  CHECK(best.offer(-inf, "worst"));
  CHECK(best.found());
  CHECK_FALSE(best.offer(-inf, "as bad"));
  CHECK(best.value() == "worst");
  CHECK(best.offer(1, "a"));
  CHECK_FALSE(best.offer(1, "b"));
  CHECK_FALSE(best.offer(0.5, "c"));
  CHECK_FALSE(best.offer(std::numeric_limits<double>::quiet_NaN(), "nan"));
  CHECK(best.value() == "a");
  CHECK(best.score() == 1);
  CHECK(best.position() == 3);
  CHECK(best.offered() == 7);
}

TEMPLATE_TEST_CASE("best_so_far: tensors are copied element by element, without allocation", "[core][budget]",
                   Eigen::VectorXf, std::vector<double>) {
  TestType x(3);
  x[0] = 1, x[1] = 2, x[2] = 3;
  sluice::best_so_far<TestType> best(x);
  CHECK(best.value()[1] == 0);
  CHECK(support::allocations_in([&] { CHECK_NOFAIL(best.offer(1, x)); }) >= 0);
  x[1] = 50;
  CHECK(best.value()[1] == 2);
  bool won = false;
  CHECK(support::allocations_in([&] { won = best.offer(2, x); }) == 0);
  CHECK(won);
  CHECK(best.value()[1] == 50);
}

TEST_CASE("best_so_far: a view is copied, not kept", "[core][budget]") {
  std::vector<double> data{1, 2};
  std::span<double> view(data);
  sluice::best_so_far<std::span<double>> best(view);
  CHECK(best.offer(0, view));
  data[0] = 9;
  CHECK(best.value()[0] == 1);
}
