// Fails for: ties to the highest index; the least score taken for the least distance (no comparison in double);
// counts smoothed without their total; the commitment pull with the wrong sign.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <numeric>
#include <sluice/core/thread_pool.hpp>
#include <sluice/kernels/codebook.hpp>
#include <sluice/kernels/least_squares.hpp>
#include <sluice/random/distributions.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <support/enumerate.hpp>

using namespace sluice;

namespace {

template <class S>
using rows_of = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class S>
using columns_of = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::ColMajor>;

template <class S>
rows_of<S> normal_rows(index_t n, index_t c, std::uint64_t seed, double scale = 1, double shift = 0) {
  rows_of<S> m(n, c);
  for (index_t i = 0; i < m.size(); ++i)
    m.data()[i] = static_cast<S>(shift + scale * normal_at(stream{seed}, static_cast<std::uint64_t>(i)));
  return m;
}

/// The definition: squared distances in double, the lowest index on ties.
template <class S>
std::pair<index_t, double> brute_force(const rows_of<S>& codes, const rows_of<S>& z, index_t i) {
  std::pair<index_t, double> best{-1, std::numeric_limits<double>::infinity()};
  for (index_t k = 0; k < codes.rows(); ++k) {
    double d = 0;
    for (index_t c = 0; c < codes.cols(); ++c) {
      const double difference = static_cast<double>(z(i, c)) - static_cast<double>(codes(k, c));
      d += difference * difference;
    }
    if (d < best.second) best = {k, d};
  }
  return best;
}

template <class S>
double objective(const codebook<S>& book, const rows_of<S>& z) {
  double sum = 0;
  for (index_t i = 0; i < z.rows(); ++i) sum += brute_force<S>(book.codes(), z, i).second;
  return sum;
}

}  // namespace

TEMPLATE_TEST_CASE("nearest codes are those of the distances in double", "[codebook]", float, double) {
  using S = TestType;
  for (const index_t k : {1, 2, 31, 32, 33, 255, 256, 257, 600})
    for (const index_t c : {1, 2, 3, 8, 17, 100}) {
      const auto seed = static_cast<std::uint64_t>(1000 * k + c);
      // far from the origin and close together: the float product alone orders these wrongly
      for (const double shift : {0.0, 30.0}) {
        const rows_of<S> codes = normal_rows<S>(k, c, seed, 1, shift),
                         z = normal_rows<S>(70, c, seed + 500, 1.2, shift);
        const codebook<S> book(codes);
        std::vector<index_t> index(70), again(70);
        std::vector<double> distance(70);
        book.nearest(index, distance, z);
        int wrong = 0;
        for (index_t i = 0; i < 70; ++i) {
          const auto [expected, d] = brute_force<S>(codes, z, i);
          wrong += index[static_cast<std::size_t>(i)] != expected;
          CHECK(distance[static_cast<std::size_t>(i)] == Approx(d).epsilon(1e-12));
        }
        INFO("K = " << k << ", C = " << c << ", shift " << shift);
        CHECK(wrong == 0);
        book.nearest(again, columns_of<S>(z));  // the other storage order
        CHECK(again == index);
        columns_of<S> wide = columns_of<S>::Zero(80, c + 5);
        wide.block(3, 2, 70, c) = z;
        book.nearest(again, wide.block(3, 2, 70, c));
        CHECK(again == index);
      }
    }
}

TEMPLATE_TEST_CASE("nearest codes: ties, codes themselves, and what the product cannot resolve", "[codebook]", float,
                   double) {
  using S = TestType;
  // A lattice, each code twice: distances are exact, so ties are ties.
  rows_of<S> codes(2 * 343, 3);
  for (index_t k = 0; k < 343; ++k) {
    codes.row(k) << static_cast<S>(k / 49), static_cast<S>(k / 7 % 7), static_cast<S>(k % 7);
    codes.row(k + 343) = codes.row(k);
  }
  const codebook<S> book(codes);
  rows_of<S> z(13 * 13 * 13, 3);
  for (index_t i = 0; i < z.rows(); ++i)
    z.row(i) << static_cast<S>(i / 169) / 2, static_cast<S>(i / 13 % 13) / 2, static_cast<S>(i % 13) / 2;
  std::vector<index_t> index(static_cast<std::size_t>(z.rows()));
  book.nearest(index, z);
  int wrong = 0;
  for (index_t i = 0; i < z.rows(); ++i) {
    const auto half = [](S x) { return static_cast<index_t>(std::ceil(x - S{0.5})); };  // the lower neighbour
    wrong += index[static_cast<std::size_t>(i)] != 49 * half(z(i, 0)) + 7 * half(z(i, 1)) + half(z(i, 2));
  }
  CHECK(wrong == 0);

  // Codes that differ in their last bits only, far away: each is its own nearest.
  rows_of<S> close(300, 2);
  S x = 1000;
  for (index_t k = 0; k < 300; ++k, x = std::nextafter(x, S{2000})) close.row(k) << x, S{-700};
  const codebook<S> fine(close);
  std::vector<index_t> own(300);
  std::vector<double> distance(300);
  fine.nearest(own, distance, close);
  for (index_t k = 0; k < 300; ++k) CHECK(own[static_cast<std::size_t>(k)] == k);
  CHECK(*std::max_element(distance.begin(), distance.end()) == 0);
}

TEMPLATE_TEST_CASE("nearest codes: large and bad numbers", "[codebook]", float, double) {
  using S = TestType;
  rows_of<S> codes(3, 2);
  codes << 0, 0, 1, 1, 2, 2;
  const codebook<S> book(codes);
  const S big = std::numeric_limits<S>::max() / 4, nan = std::numeric_limits<S>::quiet_NaN(),
          inf = std::numeric_limits<S>::infinity();
  rows_of<S> z(5, 2);
  z << nan, 0, 0, inf, 2, 2, std::sqrt(big), std::sqrt(big), -std::sqrt(big), 0;
  // the fourth is so far away that all its distances are one double: a tie
  std::vector<index_t> index(5);
  std::vector<double> distance(5);
  book.nearest(index, distance, z);
  CHECK(index == std::vector<index_t>{-1, -1, 2, 0, 0});
  CHECK(std::isnan(distance[0]));
  if constexpr (std::same_as<S, float>) {  // products overflow floats, distances do not overflow doubles
    z.row(0) << big, big;
    book.nearest(index, distance, z);
    CHECK(index[0] >= 0);
  }
}

TEST_CASE("nearest codes: wide observations that are not contiguous", "[codebook]") {
  const rows_of<float> codes = normal_rows<float>(5, 9000, 1), z = normal_rows<float>(20, 9000, 2);
  const codebook book(codes);
  std::vector<index_t> a(20), b(20);
  book.nearest(a, z);
  book.nearest(b, columns_of<float>(z));
  CHECK(a == b);
  for (index_t i = 0; i < 20; ++i) CHECK(a[static_cast<std::size_t>(i)] == brute_force<float>(codes, z, i).first);
}

TEMPLATE_TEST_CASE("nearest codes and sums have the same bits on any executor and in any batch", "[codebook][parallel]",
                   float, double) {
  using S = TestType;
  const rows_of<S> codes = normal_rows<S>(300, 11, 3), z = normal_rows<S>(3000, 11, 4);
  const codebook<S> book(codes);
  const thread_pool pool(3);
  std::vector<index_t> one(3000), many(3000), single(1);
  std::vector<double> d1(3000), d2(3000), d3(1);
  book.nearest(one, d1, z);
  book.nearest(many, d2, z, pool);
  CHECK(one == many);
  CHECK(d1 == d2);
  for (const index_t i : {0, 17, 255, 256, 2999}) {
    book.nearest(single, d3, z.middleRows(i, 1));
    CHECK(single[0] == one[static_cast<std::size_t>(i)]);
    CHECK(d3[0] == d1[static_cast<std::size_t>(i)]);
  }
  code_sums a, b;
  a.collect(z, one, 300);
  b.collect(z, one, 300, pool);
  CHECK(a.sums() == b.sums());
  codebook<S> first(rows_of<S>(z.topRows(40))), second(rows_of<S>(z.topRows(40)));
  const auto r1 = kmeans(first, std::span(one), z, {.max_iterations = 5}),
             r2 = kmeans(second, std::span(many), z, {.max_iterations = 5}, pool);
  CHECK(first.codes() == second.codes());
  CHECK(r1.stats.objective == r2.stats.objective);
}

TEST_CASE("codebook: quantise, sums, members and usage", "[codebook]") {
  rows_of<double> codes(4, 2), z(6, 2), out(6, 2);
  codes << 0, 0, 4, 0, 0, 4, 100, 100;
  z << 1, 0, 4, 1, 0, 5, -1, 0, 5, 0, 0.5, 0.5;
  const codebook book(codes);
  std::vector<index_t> index(6), again(4);
  book.nearest(index, z);
  CHECK(index == std::vector<index_t>{0, 1, 2, 0, 1, 0});
  book.quantise(out, index);
  for (index_t i = 0; i < 6; ++i) CHECK(out.row(i) == codes.row(index[static_cast<std::size_t>(i)]));
  book.nearest(again, codes);
  CHECK(again == std::vector<index_t>{0, 1, 2, 3});
  code_sums sums;
  sums.collect(z, index, 4);
  CHECK(sums.count(0) == 3);
  CHECK(sums.count(3) == 0);
  CHECK(std::vector<index_t>(sums.members(0).begin(), sums.members(0).end()) == std::vector<index_t>{0, 3, 5});
  CHECK(sums.sums().row(0) == Eigen::RowVector2d(0.5, 0.5));
  CHECK(sums.sums().row(1) == Eigen::RowVector2d(9, 1));
  CHECK(sums.sums().row(3) == Eigen::RowVector2d(0, 0));
  const code_usage u = usage_of(index, 4);
  CHECK(u.counts == std::vector<std::int64_t>{3, 2, 1, 0});
  CHECK(u.dead == 1);
  CHECK(u.perplexity == Approx(std::pow(2, 0.5) * std::pow(3, 1.0 / 3) * std::pow(6, 1.0 / 6)).epsilon(1e-14));
  CHECK(usage_of(std::vector<index_t>{0, 1, 2, 3}, 4).perplexity == Approx(4).epsilon(1e-15));
  CHECK(usage_of(std::vector<index_t>{2, 2}, 4).perplexity == 1);
  CHECK(usage_of(std::vector<index_t>{}, 4).perplexity == 0);
}

TEMPLATE_TEST_CASE("k-means never raises its objective, whatever becomes of empty codes", "[codebook]", float, double) {
  using S = TestType;
  const double rounding = std::same_as<S, float> ? 1e-6 : 1e-13;
  for (const empty_cluster empty : {empty_cluster::keep, empty_cluster::farthest})
    for (std::uint64_t seed = 0; seed < 8; ++seed) {
      const rows_of<S> z = normal_rows<S>(400, 3, 10 + seed);
      codebook<S> book(normal_rows<S>(30, 3, 50 + seed, 3));  // far out: some codes are empty
      std::vector<index_t> index(400);
      const auto r = kmeans(book, std::span(index), z, {.max_iterations = 40, .tolerance = 0, .empty = empty});
      const auto& o = r.stats.objective;
      REQUIRE(std::ssize(o) == r.stats.iterations + 1);
      for (std::size_t i = 1; i < o.size(); ++i) CHECK(o[i] <= o[i - 1] * (1 + rounding));
      CHECK(o.back() == Approx(objective(book, z)).epsilon(1e-10));
      const index_t dead = usage_of(index, 30).dead;
      if (empty == empty_cluster::farthest) {
        CHECK(dead == 0);
        CHECK(r.stats.moved > 0);
      } else {
        CHECK(r.stats.moved == 0);
      }
      // index is that of the final codes, and they are the means of it once converged
      std::vector<index_t> again(400);
      book.nearest(again, z);
      CHECK(again == index);
      if (r.status == status::completed) {
        code_sums sums;
        sums.collect(z, index, 30);
        codebook<S> next = book;
        lloyd_update(next, sums, z);
        CHECK((next.codes() - book.codes()).norm() <= rounding * book.codes().norm());
      }
    }
}

TEST_CASE("an empty code moves to the observation farthest from its updated code", "[codebook]") {
  rows_of<double> codes(4, 1), z(6, 1);
  codes << 0, 10, 500, 600;  // the last two are empty
  z << 0, 1, 2, 9, 10, 40;
  std::vector<index_t> index(6);
  codebook book(codes), kept(codes);
  book.nearest(index, z);
  code_sums sums;
  sums.collect(z, index, 4);
  CHECK(lloyd_update(kept, sums, z) == 0);
  CHECK(kept.codes().col(0) == Eigen::Vector4d(1, 59.0 / 3, 500, 600));
  // distances to updated codes: 1, 0, 1, (59/3 - 9), ..., (40 - 59/3): 40 is farthest, then 9
  CHECK(lloyd_update(book, sums, z, empty_cluster::farthest) == 2);
  CHECK(book.codes().col(0) == Eigen::Vector4d(1, 59.0 / 3, 40, 9));
  // an observation that is alone in its code is no candidate: its code is where it is
  rows_of<double> alone(3, 1), far(3, 1);
  alone << 0, 100, 900;
  far << -1, 1, 300;
  codebook lonely(alone);
  std::vector<index_t> three(3);
  lonely.nearest(three, far);
  sums.collect(far, three, 3);
  CHECK(lloyd_update(lonely, sums, far, empty_cluster::farthest) == 1);
  CHECK(lonely.codes().col(0) == Eigen::Vector3d(0, 300, -1));
}

TEST_CASE("k-means separates what is separate and says how it ended", "[codebook]") {
  rows_of<double> z(300, 2);
  for (index_t i = 0; i < 300; ++i)
    z.row(i) << 50.0 * static_cast<double>(i % 3) + normal_at(stream{5}, static_cast<std::uint64_t>(2 * i)),
        normal_at(stream{5}, static_cast<std::uint64_t>(2 * i + 1));
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    cursor random(stream{seed});
    auto book = kmeans_plus_plus(z, 3, random);
    std::vector<index_t> index(300);
    const auto r = kmeans(book, std::span(index), z);
    CHECK(r.status == status::completed);
    for (index_t i = 3; i < 300; ++i)
      CHECK(index[static_cast<std::size_t>(i)] == index[static_cast<std::size_t>(i % 3)]);
    CHECK(usage_of(index, 3).dead == 0);
  }
  cursor random(stream{1});
  auto book = kmeans_plus_plus(z, 3, random);
  std::vector<index_t> index(300);
  CHECK(kmeans(book, std::span(index), z, {.max_iterations = 0}).status == status::budget_exhausted);
  CHECK(
      kmeans(book, std::span(index), rows_of<double>(z.topRows(300)), {.max_iterations = 100, .tolerance = 0}).status ==
      status::completed);
  const rows_of<double> one = z.topRows(1);
  auto single = kmeans_plus_plus(one, 1, random);  // K = n = 1
  std::vector<index_t> first(1);
  CHECK(kmeans(single, std::span(first), one).stats.objective.back() == 0);
}

TEST_CASE("k-means++ draws by squared distance, enumerated", "[codebook][enumeration]") {
  rows_of<double> z(4, 1);
  z << 0, 1, 3, 3;
  std::map<std::pair<double, double>, double> law;
  support::enumerating_source random;
  do {
    const auto book = kmeans_plus_plus(z, 2, random);
    law[{book.codes()(0, 0), book.codes()(1, 0)}] += static_cast<double>(random.probability());
  } while (random.advance());
  // from 0: weights 0, 1, 9, 9; from 1: 1, 0, 4, 4; from 3 (twice): 9, 4, 0, 0
  CHECK(law.size() == 6);
  CHECK(law[{0, 1}] == Approx(0.25 / 19).epsilon(1e-14));
  CHECK(law[{0, 3}] == Approx(0.25 * 18 / 19).epsilon(1e-14));
  CHECK(law[{1, 0}] == Approx(0.25 / 9).epsilon(1e-14));
  CHECK(law[{1, 3}] == Approx(0.25 * 8 / 9).epsilon(1e-14));
  CHECK(law[{3, 0}] == Approx(0.5 * 9 / 13).epsilon(1e-14));
  CHECK(law[{3, 1}] == Approx(0.5 * 4 / 13).epsilon(1e-14));
  z.setConstant(2);  // all distances 0: uniform
  cursor words(stream{1});
  CHECK(kmeans_plus_plus(z, 3, words).size() == 3);
}

TEST_CASE("moving averages: the formula, Lloyd as a limit, saved half-way", "[codebook]") {
  const rows_of<double> z = normal_rows<double>(200, 4, 21);
  const codebook start(rows_of<double>(z.topRows(10)));
  std::vector<index_t> index(200);
  start.nearest(index, z);
  code_sums sums;
  sums.collect(z, index, 10);
  auto lloyd = start, ema = start;
  lloyd_update(lloyd, sums, z);
  ema_update at_once(ema, {.decay = 0, .epsilon = 0});
  at_once(ema, sums);
  CHECK((ema.codes() - lloyd.codes()).cwiseAbs().maxCoeff() < 1e-15);

  auto book = start;
  ema_update update(book);
  Eigen::VectorXd n = Eigen::VectorXd::Ones(10);
  rows_of<double> m = start.codes();
  for (int step = 0; step < 5; ++step) {
    update(book, sums);
    for (index_t k = 0; k < 10; ++k) {
      n[k] = 0.99 * n[k] + 0.01 * static_cast<double>(sums.count(k));
      m.row(k) = 0.99 * m.row(k) + 0.01 * sums.sums().row(k);
    }
    for (index_t k = 0; k < 10; ++k) {
      const double smooth = (n[k] + 1e-5) / (n.sum() + 10 * 1e-5) * n.sum();
      CHECK((book.codes().row(k) - m.row(k) / smooth).norm() < 1e-14);
    }
  }
  const ema_state saved = update.state();
  auto other = book;
  ema_update resumed(start);
  resumed.restore(saved);
  update(book, sums);
  resumed(other, sums);
  CHECK(book.codes() == other.codes());
  CHECK(update.state().counts == resumed.state().counts);

  // a code of count 0 stays; revived codes take the farthest observations
  codebook dead(rows_of<double>(Eigen::MatrixXd::Constant(2, 4, 1e3)));
  dead.edit([](auto codes) { codes.row(0).setZero(); });
  std::vector<double> distance(200);
  dead.nearest(index, distance, z);
  sums.collect(z, index, 2);
  ema_update fresh(dead, {.decay = 0, .epsilon = 0});
  fresh(dead, sums);
  CHECK(dead.codes().row(1) == Eigen::RowVector4d::Constant(1e3));
  CHECK(fresh.revive(dead, z, distance, 0.5) == 1);
  const auto far = std::max_element(distance.begin(), distance.end()) - distance.begin();
  CHECK(dead.codes().row(1) == z.row(far));
  CHECK(fresh.state().counts[1] == 1);
  CHECK(fresh.revive(dead, z, distance, 0.5) == 0);
}

TEST_CASE("straight through: gradients are finite differences of the losses", "[codebook]") {
  const rows_of<double> z0 = normal_rows<double>(7, 3, 31), g = normal_rows<double>(7, 3, 32);
  const codebook book(normal_rows<double>(4, 3, 33));
  std::vector<index_t> index(7);
  book.nearest(index, z0);
  code_sums sums;
  sums.collect(z0, index, 4);
  rows_of<double> dz(7, 3), de, fixed(7, 3);
  book.quantise(fixed, index);
  const double beta = 0.25;
  const auto loss = straight_through(dz, &de, book, sums, z0, g, beta);
  CHECK(loss.codebook == Approx((z0 - fixed).squaredNorm() / 21).epsilon(1e-14));
  CHECK(loss.commitment == Approx(beta * loss.codebook).epsilon(1e-14));
  // the surrogate: <g, z + sg(z_q - z)> + beta |z - sg(e)|^2, z alone moves
  const rows_of<double> offset = fixed - z0;
  const auto surrogate = [&](const rows_of<double>& z) {
    return (g.array() * (z + offset).array()).sum() + beta * (z - fixed).squaredNorm() / 21;
  };
  for (index_t i = 0; i < z0.size(); ++i) {
    rows_of<double> up = z0, down = z0;
    up.data()[i] += 1e-5;
    down.data()[i] -= 1e-5;
    CHECK(dz.data()[i] == Approx((surrogate(up) - surrogate(down)) / 2e-5).margin(1e-8));
  }
  for (index_t i = 0; i < de.size(); ++i) {  // |sg(z) - e|^2, the codes move
    const auto at = [&](double by) {
      rows_of<double> codes = book.codes(), q(7, 3);
      codes.data()[i] += by;
      codebook(codes).quantise(q, index);
      return (z0 - q).squaredNorm() / 21;
    };
    CHECK(de.data()[i] == Approx((at(1e-5) - at(-1e-5)) / 2e-5).margin(1e-8));
  }
  rows_of<double> pure(7, 3);
  straight_through(pure, static_cast<rows_of<double>*>(nullptr), book, sums, z0, g, 0);
  CHECK(pure == g);  // the identity
  rows_of<double> in_place = g;
  straight_through(in_place, static_cast<rows_of<double>*>(nullptr), book, sums, z0, in_place, beta);
  CHECK(in_place == dz);
}

TEST_CASE("codebook: searches and updates allocate nothing once sizes are known", "[codebook]") {
  const rows_of<float> z = normal_rows<float>(500, 6, 41);
  const columns_of<float> other = z;
  codebook book(rows_of<float>(z.topRows(300)));
  std::vector<index_t> index(500);
  std::vector<double> distance(500);
  code_sums sums;
  rows_of<float> dz(500, 6), de, out(500, 6);
  ema_update update(book);
  const auto step = [&] {
    book.nearest(index, distance, z);
    book.nearest(index, other);
    book.quantise(out, index);
    sums.collect(z, index, book.size());
    straight_through(dz, &de, book, sums, z, out);
    lloyd_update(book, sums, z);
    update(book, sums);
    book.assign(out.topRows(300));
  };
  step();
  CHECK(support::allocations_in(step) == 0);
}

TEST_CASE("codebook: wrong arguments", "[codebook]") {
  using matrix = rows_of<double>;
  matrix codes = normal_rows<double>(3, 2, 51), z = normal_rows<double>(5, 2, 52);
  codebook book(codes);
  std::vector<index_t> index(5), short_index(4);
  std::vector<double> distance(5), short_distance(4);
  SLUICE_CHECK_THROWS(codebook<double>(matrix(0, 2)), "codebook", "codes.rows", -1);
  SLUICE_CHECK_THROWS(codebook<double>(matrix(2, 0)), "codebook", "codes.cols", -1);
  matrix nan = codes;
  nan(1, 1) = std::numeric_limits<double>::quiet_NaN();
  SLUICE_CHECK_THROWS(book.assign(nan), "codebook", "codes", 1);
  CHECK(book.codes() == codes);
  SLUICE_CHECK_THROWS(codebook<double>().nearest(index, z), "codebook::nearest", "codes.rows", -1);
  SLUICE_CHECK_THROWS(book.nearest(index, matrix(5, 3)), "codebook::nearest", "z.cols", -1);
  SLUICE_CHECK_THROWS(book.nearest(short_index, z), "codebook::nearest", "out.size", -1);
  SLUICE_CHECK_THROWS(book.nearest(index, short_distance, z), "codebook::nearest", "squared_distance.size", -1);
  book.nearest(index, z);
  matrix out(5, 2), thin(5, 1);
  SLUICE_CHECK_THROWS(book.quantise(out, short_index), "codebook::quantise", "out.rows", -1);
  SLUICE_CHECK_THROWS(book.quantise(thin, index), "codebook::quantise", "out.cols", -1);
  std::vector<index_t> bad = index;
  bad[2] = 3;
  SLUICE_CHECK_THROWS(book.quantise(out, bad), "codebook::quantise", "index", 2);
  code_sums sums;
  SLUICE_CHECK_THROWS(sums.collect(z, short_index, 3), "code_sums", "index.size", -1);
  SLUICE_CHECK_THROWS(sums.collect(z, bad, 3), "code_members", "index", 2);
  SLUICE_CHECK_THROWS(sums.collect(z, index, 0), "code_members", "n_codes", -1);
  bad[2] = -1;
  SLUICE_CHECK_THROWS(usage_of(bad, 3), "usage_of", "index", 2);
  SLUICE_CHECK_THROWS(usage_of(index, 0), "usage_of", "n_codes", -1);
  sums.collect(z, index, 3);
  code_sums four;
  four.collect(z, index, 4);
  SLUICE_CHECK_THROWS(lloyd_update(book, four, z), "lloyd_update", "sums.n_codes", -1);
  SLUICE_CHECK_THROWS(lloyd_update(book, sums, matrix(4, 2)), "lloyd_update", "z.rows", -1);
  SLUICE_CHECK_THROWS(lloyd_update(book, sums, matrix(5, 3)), "lloyd_update", "z.cols", -1);
  SLUICE_CHECK_THROWS(kmeans(book, std::span(index), matrix(5, 3)), "kmeans", "z.cols", -1);
  SLUICE_CHECK_THROWS(kmeans(book, std::span(index), matrix(z.topRows(2))), "kmeans", "z.rows", -1);
  SLUICE_CHECK_THROWS(kmeans(book, std::span(short_index), z), "kmeans", "index.size", -1);
  SLUICE_CHECK_THROWS(kmeans(book, std::span(index), z, {.max_iterations = -1}), "kmeans", "max_iterations", -1);
  SLUICE_CHECK_THROWS(kmeans(book, std::span(index), z, {.tolerance = -1}), "kmeans", "tolerance", -1);
  matrix infinite = z;
  infinite(3, 0) = std::numeric_limits<double>::infinity();
  SLUICE_CHECK_THROWS(kmeans(book, std::span(index), infinite), "kmeans", "z", 3);
  CHECK(book.codes() == codes);
  cursor random(stream{1});
  SLUICE_CHECK_THROWS(kmeans_plus_plus(z, 6, random), "kmeans_plus_plus", "n_codes", -1);
  SLUICE_CHECK_THROWS(kmeans_plus_plus(z, 0, random), "kmeans_plus_plus", "n_codes", -1);
  SLUICE_CHECK_THROWS(kmeans_plus_plus(infinite, 2, random), "kmeans_plus_plus", "z", 3);
  SLUICE_CHECK_THROWS(ema_update(book, {.decay = 1}), "ema_update", "decay", -1);
  SLUICE_CHECK_THROWS(ema_update(book, {.epsilon = -1}), "ema_update", "epsilon", -1);
  ema_update update(book);
  SLUICE_CHECK_THROWS(update(book, four), "ema_update", "batch.n_codes", -1);
  codebook wider(normal_rows<double>(3, 4, 53)), more(normal_rows<double>(4, 2, 54));
  SLUICE_CHECK_THROWS(update(wider, sums), "ema_update", "book.dimension", -1);
  SLUICE_CHECK_THROWS(update(more, sums), "ema_update", "book.size", -1);
  SLUICE_CHECK_THROWS(update.revive(book, z, short_distance, 1), "ema_update::revive", "squared_distance.size", -1);
  SLUICE_CHECK_THROWS(update.revive(book, matrix(5, 3), distance, 1), "ema_update::revive", "z.cols", -1);
  SLUICE_CHECK_THROWS(update.restore({Eigen::VectorXd(2), matrix(3, 2)}), "ema_update::restore", "counts.size", -1);
  SLUICE_CHECK_THROWS(update.restore({Eigen::VectorXd(3), matrix(2, 2)}), "ema_update::restore", "sums.size", -1);
  matrix dz(5, 2);
  matrix* none = nullptr;
  SLUICE_CHECK_THROWS(straight_through(dz, none, book, sums, matrix(5, 3), out), "straight_through", "z.cols", -1);
  SLUICE_CHECK_THROWS(straight_through(dz, none, book, four, z, out), "straight_through", "sums.n_codes", -1);
  SLUICE_CHECK_THROWS(straight_through(dz, none, book, sums, matrix(4, 2), out), "straight_through", "z.rows", -1);
  SLUICE_CHECK_THROWS(straight_through(dz, none, book, sums, z, thin), "straight_through", "dq.size", -1);
  SLUICE_CHECK_THROWS(straight_through(thin, none, book, sums, z, out), "straight_through", "dz.size", -1);
  SLUICE_CHECK_THROWS(straight_through(dz, none, book, sums, z, out, -1), "straight_through", "beta", -1);
}

TEST_CASE("normal equations: exact relations, the optimum, any batches", "[least_squares]") {
  const rows_of<double> x = normal_rows<double>(60, 5, 61);
  const rows_of<double> truth = normal_rows<double>(5, 3, 62);
  const rows_of<double> y = x * truth;
  normal_equations exact(5, 3), parts(5, 3);
  exact.add(x, y);
  Eigen::MatrixXd w, v;
  REQUIRE(exact.solve(w, 0));
  CHECK((w - truth).norm() < 1e-13);
  parts.add(x.topRows(7), y.topRows(7));
  parts.add(x.bottomRows(53), y.bottomRows(53));
  CHECK(parts.n() == 60);
  REQUIRE(parts.solve(v, 0));
  CHECK((w - v).norm() < 1e-14);
  const rows_of<double> noisy = y + normal_rows<double>(60, 3, 63);
  normal_equations ridge(5, 3);
  ridge.add(x, noisy);
  REQUIRE(ridge.solve(w, 2.5));
  const Eigen::MatrixXd gradient = x.transpose() * (x * w - noisy) + 2.5 * w;  // of half the objective
  CHECK(gradient.norm() < 1e-12);
  ridge.clear();
  CHECK(ridge.n() == 0);
  CHECK_FALSE(ridge.solve(w, 0));
  rows_of<double> twice(60, 5);
  twice << x.leftCols(4), x.col(0);  // two equal columns
  normal_equations singular(5, 3);
  singular.add(twice, y);
  v = w;
  CHECK_FALSE(singular.solve(w, 0));
  CHECK(w == v);
  CHECK(singular.solve(w, 1e-3));
  rows_of<double> scaled = x;
  scaled.col(2) *= 1e-9;  // small is not dependent
  normal_equations unequal(5, 3);
  unequal.add(scaled, y);
  REQUIRE(unequal.solve(w, 0));
  CHECK((w.row(2) * 1e-9 - truth.row(2)).norm() < 1e-12);

  SLUICE_CHECK_THROWS(normal_equations(0, 1), "normal_equations", "p", -1);
  SLUICE_CHECK_THROWS(normal_equations(1, 0), "normal_equations", "q", -1);
  SLUICE_CHECK_THROWS(exact.add(rows_of<double>(3, 4), rows_of<double>(3, 3)), "normal_equations::add", "x.cols", -1);
  SLUICE_CHECK_THROWS(exact.add(rows_of<double>(3, 5), rows_of<double>(3, 2)), "normal_equations::add", "y.cols", -1);
  SLUICE_CHECK_THROWS(exact.add(rows_of<double>(3, 5), rows_of<double>(2, 3)), "normal_equations::add", "y.rows", -1);
  rows_of<double> nan = x;
  nan(4, 1) = std::numeric_limits<double>::quiet_NaN();
  SLUICE_CHECK_THROWS(exact.add(nan, y), "normal_equations::add", "x", 4);
  SLUICE_CHECK_THROWS(exact.add(y * truth.transpose(), nan.leftCols(3)), "normal_equations::add", "y", 4);
  SLUICE_CHECK_THROWS(exact.solve(w, -1), "normal_equations::solve", "ridge", -1);
}
