// Fails for: a quotient before the first test of the residual; the residual of the right-hand side for that of the
// system; new/old residuals exchanged in the direction; a direction that starts anew; a relative tolerance that refers
// to nothing; the start forgotten (x = 0); A for A^T; an iteration too many or uncounted.
#include <Eigen/Cholesky>
#include <Eigen/QR>
#include <catch2/catch.hpp>
#include <sluice/kernels/conjugate_gradient.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>

using namespace sluice;

namespace {

Eigen::MatrixXd normals(index_t rows, index_t cols, std::uint64_t seed) {
  Eigen::MatrixXd m(rows, cols);
  for (index_t j = 0; j < cols; ++j) fill_normal(m.col(j), stream(77, seed).derive(static_cast<std::uint64_t>(j)));
  return m;
}
Eigen::MatrixXd positive(index_t n, std::uint64_t seed) {
  const Eigen::MatrixXd a = normals(n, n, seed);
  return a * a.transpose() + Eigen::MatrixXd::Identity(n, n);
}
auto apply_of(const Eigen::MatrixXd& a) {
  return [&a](const auto& x, auto& out) { out = a * x; };
}
auto adjoint_of(const Eigen::MatrixXd& a) {
  return [&a](const auto& y, auto& out) { out = a.transpose() * y; };
}

}  // namespace

TEST_CASE("conjugate_gradient: n iterations solve n unknowns", "[conjugate_gradient]") {
  for (index_t n = 1; n <= 8; ++n) {
    const Eigen::MatrixXd s = positive(n, static_cast<std::uint64_t>(n));
    const Eigen::VectorXd b = normals(n, 1, 100), exact = s.llt().solve(b);
    Eigen::VectorXd x = normals(n, 1, 200);
    conjugate_gradient solver(x);
    const auto r = solver.solve(apply_of(s), x, b, {.max_iterations = 2 * n, .relative_tolerance = 1e-11});
    INFO("n " << n << ", iterations " << r.stats.iterations);
    CHECK(r.status == status::completed);
    CHECK(r.stats.iterations <= n + 1);
    CHECK((x - exact).norm() < 1e-9 * exact.norm());
    CHECK(r.stats.residual <= 1e-11 * b.norm());
  }
}

TEST_CASE("conjugate_gradient: iterate k is the best of its Krylov space", "[conjugate_gradient]") {
  constexpr index_t n = 7;
  const Eigen::MatrixXd s = positive(n, 1);
  const Eigen::VectorXd b = normals(n, 1, 2), start = normals(n, 1, 3);
  conjugate_gradient solver(b);
  for (index_t k = 0; k <= 5; ++k) {
    Eigen::VectorXd x = start;
    const auto r = solver.solve(apply_of(s), x, b, {.max_iterations = k, .relative_tolerance = 0});
    CHECK(r.status == status::budget_exhausted);
    CHECK(r.stats.iterations == k);
    CHECK(r.stats.residual == Approx((b - s * x).norm()).epsilon(1e-9));
    if (k == 0) {
      CHECK(x == start);
      continue;
    }
    Eigen::MatrixXd basis(n, k);
    basis.col(0) = (b - s * start).normalized();
    for (index_t i = 1; i < k; ++i) basis.col(i) = (s * basis.col(i - 1)).normalized();
    const Eigen::MatrixXd gram = basis.transpose() * s * basis;
    const Eigen::VectorXd best = start + basis * gram.fullPivHouseholderQr().solve(basis.transpose() * (b - s * start));
    CHECK((x - best).norm() < 1e-8 * best.norm());
  }
}

TEMPLATE_TEST_CASE("conjugate_gradient: any tensor, and no allocation", "[conjugate_gradient]", Eigen::VectorXd,
                   Eigen::ArrayXf, std::vector<double>, std::vector<float>, std::span<double>) {
  using S = scalar_t<TestType>;
  constexpr std::size_t n = 6;
  std::vector<S> storage(n), right(n);
  const auto diagonal = [](std::size_t i) { return static_cast<S>(1 + i % 3); };  // three eigenvalues: three iterations
  const auto apply = [&](const auto& x, auto& out) {
    for (std::size_t i = 0; i < n; ++i)
      traits_of<decltype(out)>::elements(out)(static_cast<index_t>(i)) =
          diagonal(i) * traits_of<decltype(x)>::elements(x)(static_cast<index_t>(i));
  };
  const auto run = [&](auto& x, auto& b) {
    for (std::size_t i = 0; i < n; ++i)
      traits_of<decltype(b)>::elements(b)(static_cast<index_t>(i)) = static_cast<S>(i) - 2;
    conjugate_gradient solver(x);
    conjugate_gradient_result r;
    CHECK(support::allocations_in([&] {
            r = solver.solve(apply, x, b, {.relative_tolerance = 8.0 * std::numeric_limits<S>::epsilon()});
          }) == 0);
    CHECK(r.status == status::completed);
    CHECK(r.stats.iterations == 3);
    for (std::size_t i = 0; i < n; ++i)
      CHECK(std::abs(traits_of<decltype(x)>::elements(x)(static_cast<index_t>(i)) -
                     (static_cast<S>(i) - 2) / diagonal(i)) < 50 * std::numeric_limits<S>::epsilon());
  };
  if constexpr (requires(TestType t) { t.setZero(); }) {
    TestType x = TestType::Zero(n), b = x;
    run(x, b);
  } else {
    TestType x(storage), b(right);
    run(x, b);
  }
}

TEST_CASE("conjugate_gradient: a start that is good enough is kept", "[conjugate_gradient]") {
  const Eigen::MatrixXd identity = Eigen::MatrixXd::Identity(3, 3);
  const Eigen::VectorXd b = normals(3, 1, 5);
  Eigen::VectorXd x = b;
  conjugate_gradient solver(x);
  for (const double tolerance : {0.0, 1e-5}) {
    const auto r = solver.solve(apply_of(identity), x, b, {.tolerance = tolerance, .relative_tolerance = 0});
    CHECK(r.status == status::completed);
    CHECK(r.stats.iterations == 0);
    CHECK(x == b);
  }
  least_squares_conjugate_gradient least(x, b);
  for (const double tolerance : {0.0, 1e-5}) {
    const auto r = least.solve(apply_of(identity), adjoint_of(identity), x, b, {.tolerance = tolerance});
    CHECK(r.status == status::completed);
    CHECK(r.stats.iterations == 0);
    CHECK(x == b);
  }
  Eigen::VectorXd zero = Eigen::VectorXd::Zero(3);  // 0 = S 0: nothing is divided
  CHECK(solver.solve(apply_of(identity), zero, Eigen::VectorXd::Zero(3).eval()).status == status::completed);
  CHECK(zero.isZero(0));
}

TEST_CASE("conjugate_gradient: least squares goes to the nearest minimiser", "[conjugate_gradient]") {
  for (const auto& [rows, cols] : {std::pair<index_t, index_t>{3, 8}, {8, 3}, {5, 5}, {1, 6}}) {
    INFO(rows << " x " << cols);
    const Eigen::MatrixXd a = normals(rows, cols, 11);
    const Eigen::VectorXd y = normals(rows, 1, 12), start = normals(cols, 1, 13);
    Eigen::VectorXd x = start;
    least_squares_conjugate_gradient solver(x, y);
    const auto r = solver.solve(apply_of(a), adjoint_of(a), x, y, {.relative_tolerance = 1e-12});
    const Eigen::VectorXd exact = start + a.completeOrthogonalDecomposition().solve(y - a * start);
    CHECK(r.status == status::completed);
    CHECK(r.stats.iterations <= 2 * std::min(rows, cols));
    CHECK((x - exact).norm() < 1e-8 * (1 + exact.norm()));
    // Iterate k is that of conjugate gradients on the normal equations.
    const Eigen::MatrixXd normal = a.transpose() * a;
    for (index_t k = 1; k < std::min(rows, cols); ++k) {
      Eigen::VectorXd u = start, v = start;
      conjugate_gradient direct(u);
      const Eigen::VectorXd right = a.transpose() * y;
      static_cast<void>(direct.solve(apply_of(normal), u, right, {.max_iterations = k, .relative_tolerance = 0}));
      static_cast<void>(solver.solve(apply_of(a), adjoint_of(a), v, y, {.max_iterations = k, .relative_tolerance = 0}));
      CHECK((u - v).norm() < 1e-8 * (1 + u.norm()));
    }
  }
}

TEST_CASE("conjugate_gradient: on a projection one iteration replaces", "[conjugate_gradient]") {
  constexpr index_t n = 6, d = 2;
  const auto apply = [](const auto& x, auto& out) { out = x.tail(d); };
  const auto adjoint = [](const auto& y, auto& out) {
    out.setZero();
    out.tail(d) = y;
  };
  const Eigen::VectorXd y = normals(d, 1, 21);
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const Eigen::VectorXd start = normals(n, 1, 30 + seed);
    Eigen::VectorXd x = start;
    least_squares_conjugate_gradient solver(x, y);
    const auto r = solver.solve(apply, adjoint, x, y, {.max_iterations = 5, .tolerance = 1e-12});
    CHECK(r.status == status::completed);
    CHECK(r.stats.iterations == 1);
    CHECK(x.head(n - d) == start.head(n - d));
    CHECK((x.tail(d) - y).norm() < 1e-14);
  }
}

TEST_CASE("conjugate_gradient: a user's mistake has a status", "[conjugate_gradient]") {
  Eigen::VectorXd x = Eigen::VectorXd::Ones(3);
  const Eigen::VectorXd b = normals(3, 1, 41), before = x;
  conjugate_gradient solver(x);
  CHECK(solver.solve([](const auto& z, auto& out) { out = -z; }, x, b).status == status::diverged);
  CHECK(x == before);
  CHECK(solver.solve([](const auto& z, auto& out) { out = z * std::nan(""); }, x, b).status == status::diverged);
  CHECK(x == before);
  least_squares_conjugate_gradient least(x, b);
  const auto nothing = [](const auto&, auto& out) { out.setZero(); };
  const auto same = [](const auto& z, auto& out) { out = z; };
  CHECK(least.solve(nothing, same, x, b).status == status::diverged);
  CHECK(x == before);
  int calls = 0;
  const auto broken = [&](const auto& z, auto& out) { out = z * (++calls > 1 ? INFINITY : 1.0); };
  CHECK(least.solve(broken, same, x, b).status == status::diverged);
  CHECK(x == before);
}

TEST_CASE("conjugate_gradient: adjoint_error", "[conjugate_gradient]") {
  const Eigen::MatrixXd a = normals(5, 9, 51), other = normals(5, 9, 52);
  const Eigen::VectorXd x(9), y(5);
  CHECK(adjoint_error(apply_of(a), adjoint_of(a), x, y, stream(1)) < 1e-15);
  CHECK(adjoint_error(apply_of(a), adjoint_of(other), x, y, stream(1)) > 1e-3);
  const Eigen::VectorXf xf(9), yf(5);
  const Eigen::MatrixXf af = a.cast<float>();
  CHECK(adjoint_error([&](const auto& z, auto& out) { out = af * z; },
                      [&](const auto& z, auto& out) { out = af.transpose() * z; }, xf, yf, stream(1)) < 1e-6);
  const auto nothing = [](const auto&, auto& out) { out.setZero(); };
  CHECK(adjoint_error(nothing, nothing, x, y, stream(1)) == 0);
}

TEST_CASE("conjugate_gradient: what is refused", "[conjugate_gradient]") {
  Eigen::VectorXd x = Eigen::VectorXd::Ones(3), b = x, longer = Eigen::VectorXd::Ones(4);
  const auto same = [](const auto& z, auto& out) { out = z; };
  conjugate_gradient solver(x);
  const char* cg = "conjugate_gradient";
  SLUICE_CHECK_THROWS((solver.solve(same, x, b, {.max_iterations = -1})), cg, "options.max_iterations", -1);
  SLUICE_CHECK_THROWS((solver.solve(same, x, b, {.tolerance = -1})), cg, "options.tolerance", -1);
  SLUICE_CHECK_THROWS((solver.solve(same, x, b, {.relative_tolerance = std::nan("")})), cg,
                      "options.relative_tolerance", -1);
  SLUICE_CHECK_THROWS((solver.solve(same, longer, b)), cg, "x.size", -1);
  SLUICE_CHECK_THROWS((solver.solve(same, x, longer)), cg, "b.size", -1);
  least_squares_conjugate_gradient least(x, b);
  const char* cgls = "least_squares_conjugate_gradient";
  SLUICE_CHECK_THROWS((least.solve(same, same, x, b, {.max_iterations = -1})), cgls, "options.max_iterations", -1);
  SLUICE_CHECK_THROWS((least.solve(same, same, longer, b)), cgls, "x.size", -1);
  SLUICE_CHECK_THROWS((least.solve(same, same, x, longer)), cgls, "y.size", -1);
  CHECK(x == Eigen::VectorXd::Ones(3));
}
