// Fails for: no scale, or the scale applied twice; query heads taken to groups by h mod H_kv; a causal mask that is one
// position off; a mask that lets poisoned positions in (0 * NaN); no running maximum, or an old sum that is not
// rescaled when the maximum rises; blocks after the first dropped; a merge without maximum, with the weights exchanged,
// or that multiplies a part of weight 0; the last value elements dropped when the width is no multiple of a packet;
// results that depend on other queries or on the executor.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <sluice/core/thread_pool.hpp>
#include <sluice/kernels/attention.hpp>
#include <sluice/random/distributions.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <support/poisoned.hpp>

using namespace sluice;

namespace {

constexpr double inf = std::numeric_limits<double>::infinity();

template <class S>
std::vector<S> normal_rows(index_t n, std::uint64_t id, double sd = 1) {
  std::vector<S> x(static_cast<std::size_t>(n));
  fill_normal(x, stream(20250607, id), sd);
  return x;
}

struct result {
  std::vector<double> out, lse;
};

/// The formulas, in long double, position by position; visible(i, j): query i sees key j.
template <class S, class Visible>
result reference(const attention_shape& a, const std::vector<S>& q, const std::vector<S>& k, const std::vector<S>& v,
                 Visible visible) {
  const auto at = [](index_t i) { return static_cast<std::size_t>(i); };
  const index_t d = a.width, dv = a.value_width == 0 ? d : a.value_width, group = a.query_heads / a.key_value_heads;
  const index_t n = std::ssize(q) / (a.query_heads * d), m = std::ssize(k) / (a.key_value_heads * d);
  result r;
  for (index_t i = 0; i < n; ++i)
    for (index_t h = 0; h < a.query_heads; ++h) {
      std::vector<long double> score, sum(at(dv));
      std::vector<index_t> seen;
      long double top = -std::numeric_limits<long double>::infinity(), total = 0;
      for (index_t j = 0; j < m; ++j) {
        if (!visible(i, j)) continue;
        long double s = 0;
        for (index_t e = 0; e < d; ++e)
          s += static_cast<long double>(q[at((i * a.query_heads + h) * d + e)]) *
               static_cast<long double>(k[at((j * a.key_value_heads + h / group) * d + e)]);
        s *= a.scale == 0 ? 1 / std::sqrt(static_cast<long double>(d)) : static_cast<long double>(a.scale);
        score.push_back(s);
        seen.push_back(j);
        top = std::max(top, s);
      }
      for (std::size_t j = 0; j < seen.size(); ++j) {
        const long double w = std::exp(score[j] - top);
        total += w;
        for (index_t e = 0; e < dv; ++e)
          sum[at(e)] += w * static_cast<long double>(v[at((seen[j] * a.key_value_heads + h / group) * dv + e)]);
      }
      for (const long double s : sum) r.out.push_back(seen.empty() ? 0 : static_cast<double>(s / total));
      r.lse.push_back(seen.empty() ? -inf : static_cast<double>(top + std::log(total)));
    }
  return r;
}

template <class S>
double tolerance() {
  return std::same_as<S, double> ? 1e-13 : 3e-6;
}
template <class S>
void check_close(const std::vector<S>& got, const std::vector<double>& expected, double scale = 1) {
  REQUIRE(got.size() == expected.size());
  double worst = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (expected[i] == -inf) {
      CHECK(static_cast<double>(got[i]) == -inf);
      continue;
    }
    REQUIRE(std::isfinite(got[i]));
    worst = std::max(worst, std::abs(static_cast<double>(got[i]) - expected[i]) / (1 + std::abs(expected[i])));
  }
  CHECK(worst <= tolerance<S>() * scale);
}
template <class S>
bool same_bits(const std::vector<S>& a, const std::vector<S>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(S)) == 0;
}

}  // namespace

TEMPLATE_TEST_CASE("attention over rows is the formula", "[attention]", double, float) {
  using S = TestType;
  const attention_shape a =
      GENERATE(attention_shape{.query_heads = 4, .key_value_heads = 2, .width = 8},
               attention_shape{.query_heads = 6, .key_value_heads = 2, .width = 5, .scale = 0.9},
               attention_shape{.query_heads = 1, .key_value_heads = 1, .width = 64},
               attention_shape{.query_heads = 3, .key_value_heads = 3, .width = 16, .value_width = 37, .scale = -0.4},
               attention_shape{.query_heads = 7, .key_value_heads = 1, .width = 1});
  const index_t m = GENERATE(0, 1, 15, 16, 17, 63, 64, 65, 200), n = GENERATE(1, 3, 18);
  const bool causal = n <= m && n != 1;
  const index_t dv = a.value_width == 0 ? a.width : a.value_width;
  const auto q = normal_rows<S>(n * a.query_heads * a.width, 1, 2),
             k = normal_rows<S>(m * a.key_value_heads * a.width, 2, 2),
             v = normal_rows<S>(m * a.key_value_heads * dv, 3);
  auto out = support::poisoned<S>(static_cast<std::size_t>(n * a.query_heads * dv)),
       lse = support::poisoned<S>(static_cast<std::size_t>(n * a.query_heads));
  block_attention<S> attend(a);
  attend.over_rows(out, lse, q, k, v, causal);
  const result r = reference(a, q, k, v, [&](index_t i, index_t j) { return !causal || j <= m - n + i; });
  INFO("m " << m << " n " << n << " width " << a.width);
  check_close(out, r.out);
  check_close(lse, r.lse);
}

TEMPLATE_TEST_CASE("attention: scores of thousands, rising and falling, and weights that vanish", "[attention]", double,
                   float) {
  using S = TestType;
  const attention_shape a{.query_heads = 1, .key_value_heads = 1, .width = 1, .value_width = 2, .scale = 1};
  const index_t m = 300;
  for (const double slope : {20.0, -20.0, 0.0}) {
    std::vector<S> k, v;
    for (index_t j = 0; j < m; ++j) {
      k.push_back(static_cast<S>(5000 + slope * static_cast<double>(j)));
      v.push_back(static_cast<S>(j));
      v.push_back(static_cast<S>(1));
    }
    std::vector<S> out(2), lse(1);
    const std::vector<S> q{1};
    block_attention<S> attend(a);
    attend.over_rows(out, lse, q, k, v);
    const result r = reference(a, q, k, v, [](index_t, index_t) { return true; });
    check_close(out, r.out);
    check_close(lse, r.lse);
    CHECK(static_cast<double>(out[1]) == Approx(1).epsilon(1e-6));
  }
  block_attention<S> attend(a);
  std::vector<S> out(2), lse(1);
  const S big = std::numeric_limits<S>::max();
  attend.over_rows(out, lse, std::vector<S>{big}, std::vector<S>{-big, 0, -big}, std::vector<S>{7, 7, 3, 4, 7, 7});
  CHECK(out == std::vector<S>{3, 4});  // scores of -inf weigh nothing
  CHECK(lse[0] == S{0});
  attend.over_rows(out, lse, std::vector<S>{big}, std::vector<S>{-big}, std::vector<S>{7, 7});
  CHECK(out == std::vector<S>{0, 0});
  CHECK(static_cast<double>(lse[0]) == -inf);
  attend.over_rows(out, lse, std::vector<S>{big}, std::vector<S>{big, 1}, std::vector<S>{7, 7, 3, 4});
  CHECK(std::isnan(out[0]));
  attend.over_rows(out, lse, std::vector<S>{std::numeric_limits<S>::quiet_NaN()}, std::vector<S>{1},
                   std::vector<S>{7, 7});
  CHECK(std::isnan(out[0]));
  CHECK(std::isnan(lse[0]));
}

TEMPLATE_TEST_CASE("attention: only the listed positions of a panel are used", "[attention]", double, float) {
  using S = TestType;
  const attention_shape a{.query_heads = 4, .key_value_heads = 2, .width = 20};
  const panel_layout layout(a);
  const index_t m = 150;
  const auto k = normal_rows<S>(m * 40, 4), v = normal_rows<S>(m * 40, 5), q = normal_rows<S>(2 * 80, 6);
  // Selections as a selective kernel makes them: some positions of some panels; everything else is NaN.
  struct range {
    index_t first, count;
  };
  const std::vector<range> ranges{{0, 4}, {4, 12}, {37, 5}, {50, 0}, {64, 16}, {81, 1}, {100, 12}, {143, 1}};
  std::vector<S> store = support::poisoned<S>(static_cast<std::size_t>(10 * layout.size()));
  std::vector<key_panel<S>> list;
  std::vector<bool> seen(static_cast<std::size_t>(m));
  for (const auto& [first, count] : ranges) {
    S* panel = store.data() + first / 16 * layout.size();
    for (index_t j = first; j < first + count; ++j) {
      layout.store(panel, j % 16, k.data() + j * 40, v.data() + j * 40);
      seen[static_cast<std::size_t>(j)] = true;
    }
    list.push_back({panel, first % 16, count});
  }
  list.push_back({nullptr, 0, 0});
  const result r = reference(a, q, k, v, [&](index_t, index_t j) { return seen[static_cast<std::size_t>(j)]; });
  block_attention<S> attend(a);
  std::vector<S> out(160), lse(8);
  attend(out, lse, q, list);
  check_close(out, r.out);
  check_close(lse, r.lse);
  const std::vector<std::span<const key_panel<S>>> own{std::span(list).subspan(3), std::span(list).subspan(3)};
  std::vector<S> again(160), again_lse(8);
  attend(again, again_lse, q, std::span(list).first(3), own);
  CHECK(same_bits(out, again));
  CHECK(same_bits(lse, again_lse));
  attend(out, {}, q, std::vector<key_panel<S>>{{nullptr, 3, 0}, {nullptr, 0, 0}});
  CHECK(out == std::vector<S>(160));
  std::vector<S> key(40), value(40);
  layout.load(key.data(), value.data(), store.data() + 6 * layout.size(), 4);  // position 100
  CHECK(std::equal(key.begin(), key.end(), k.begin() + 4000));
  CHECK(std::equal(value.begin(), value.end(), v.begin() + 4000));
}

TEMPLATE_TEST_CASE("attention: a query's bits depend on its own keys only", "[attention]", double, float) {
  using S = TestType;
  const attention_shape a = GENERATE(attention_shape{.query_heads = 4, .key_value_heads = 2, .width = 24},
                                     attention_shape{.query_heads = 3, .key_value_heads = 1, .width = 7});
  const index_t m = 210, n = 41, q_row = a.query_heads * a.width;
  const auto q = normal_rows<S>(n * q_row, 7), k = normal_rows<S>(m * a.key_value_heads * a.width, 8),
             v = normal_rows<S>(m * a.key_value_heads * a.width, 9);
  block_attention<S> attend(a);
  std::vector<S> out(q.size()), lse(static_cast<std::size_t>(n * a.query_heads));
  attend.over_rows(out, lse, q, k, v, true);
  for (const index_t i : {0, 1, 20, 40}) {  // alone, as the last of fewer keys; those behind are not there at all
    const auto seen = static_cast<std::size_t>((m - n + i + 1) * a.key_value_heads * a.width);
    const auto row = static_cast<std::size_t>(q_row), first = static_cast<std::size_t>(i) * row;
    std::vector<S> one(row), one_lse(static_cast<std::size_t>(a.query_heads));
    attend.over_rows(one, one_lse, std::span(q).subspan(first, row), std::span(k).first(seen),
                     std::span(v).first(seen));
    CHECK(std::memcmp(one.data(), out.data() + first, row * sizeof(S)) == 0);
    CHECK(std::memcmp(one_lse.data(), lse.data() + i * a.query_heads, one_lse.size() * sizeof(S)) == 0);
  }
  std::vector<S> poisoned_k = k, poisoned_v = v, prefix(q.size());  // a later key cannot reach an earlier query
  for (index_t e = 0; e < a.key_value_heads * a.width; ++e) {
    poisoned_k[poisoned_k.size() - 1 - static_cast<std::size_t>(e)] = std::numeric_limits<S>::quiet_NaN();
    poisoned_v[poisoned_v.size() - 1 - static_cast<std::size_t>(e)] = std::numeric_limits<S>::quiet_NaN();
  }
  attend.over_rows(prefix, {}, q, poisoned_k, poisoned_v, true);
  const auto before = static_cast<std::size_t>((n - 1) * q_row);
  CHECK(std::memcmp(prefix.data(), out.data(), before * sizeof(S)) == 0);
  CHECK(std::isnan(prefix[before]));
  CHECK(support::allocations_in([&] { attend.over_rows(prefix, lse, q, k, v, true); }) == 0);
}

TEMPLATE_TEST_CASE("attention: any executor gives the same bits", "[attention][parallel]", double, float) {
  using S = TestType;
  const attention_shape a{.query_heads = 6, .key_value_heads = 3, .width = 12};
  const index_t m = 170, n = 37;
  const auto q = normal_rows<S>(n * 72, 10), k = normal_rows<S>(m * 36, 11), v = normal_rows<S>(m * 36, 12);
  std::vector<S> out(q.size()), lse(static_cast<std::size_t>(n * 6)), out2 = out, lse2 = lse;
  block_attention<S> attend(a), other(a);
  attend.over_rows(out, lse, q, k, v, true);
  const thread_pool pool(GENERATE(1, 2, 8));
  other.over_rows(out2, lse2, q, k, v, true, pool);
  CHECK(same_bits(out, out2));
  CHECK(same_bits(lse, lse2));
}

TEMPLATE_TEST_CASE("parts of a key set merge to the whole", "[attention]", double, float) {
  using S = TestType;
  const attention_shape a{.query_heads = 4, .key_value_heads = 2, .width = 16};
  const index_t m = 100, n = 3;
  // Scores far apart, so that a merge without a maximum overflows.
  auto k = normal_rows<S>(m * 32, 13, 40);
  const auto q = normal_rows<S>(n * 64, 14, 10), v = normal_rows<S>(m * 32, 15);
  block_attention<S> attend(a);
  std::vector<S> whole(static_cast<std::size_t>(n * 64)), whole_lse(static_cast<std::size_t>(n * 4));
  const result r = reference(a, q, k, v, [](index_t, index_t) { return true; });
  for (const index_t cut : {0, 1, 16, 50, 99, 100}) {
    const auto c = static_cast<std::size_t>(cut * 32);
    std::vector<S> out(whole.size()), lse(whole_lse.size()), other = support::poisoned<S>(out.size()), other_lse = lse;
    attend.over_rows(out, lse, q, std::span(k).first(c), std::span(v).first(c));
    attend.over_rows(other, other_lse, q, std::span(k).subspan(c), std::span(v).subspan(c));
    merge_attention<S>(out, lse, other, other_lse);
    check_close(out, r.out, 4);
    check_close(lse, r.lse, 4);
  }
  std::vector<S> out{1, 2, 3, 4}, lse{static_cast<S>(-inf), static_cast<S>(1000)};
  const S nan = std::numeric_limits<S>::quiet_NaN();
  merge_attention<S>(out, lse, std::vector<S>{5, 6, nan, nan},
                     std::vector<S>{static_cast<S>(-inf), static_cast<S>(-inf)});
  CHECK(out == std::vector<S>{0, 0, 3, 4});
  CHECK(static_cast<double>(lse[0]) == -inf);
  CHECK(lse[1] == S{1000});
  merge_attention<S>(out, lse, std::vector<S>{5, 6, 7, 10}, std::vector<S>{static_cast<S>(2), static_cast<S>(1000)});
  CHECK(out == std::vector<S>{5, 6, 5, 7});
  CHECK(lse[0] == S{2});
  CHECK(static_cast<double>(lse[1]) == Approx(1000 + std::log(2)));
  out = {nan, nan};
  lse = {static_cast<S>(-inf)};
  merge_attention<S>(out, lse, std::vector<S>{8, 9}, std::vector<S>{static_cast<S>(3)});
  CHECK(out == std::vector<S>{8, 9});
  out = {1, 1};
  lse = {nan};
  merge_attention<S>(out, lse, std::vector<S>{8, 9}, std::vector<S>{static_cast<S>(3)});
  CHECK(std::isnan(out[0]));
  CHECK(std::isnan(lse[0]));
}

TEST_CASE("attention refuses what does not fit, by name", "[attention]") {
  using panels = std::vector<key_panel<double>>;
  SLUICE_CHECK_THROWS(panel_layout({.query_heads = 0}), "attention_shape", "query_heads", -1);
  SLUICE_CHECK_THROWS(panel_layout({.query_heads = 3, .key_value_heads = 2}), "attention_shape", "key_value_heads", -1);
  SLUICE_CHECK_THROWS(panel_layout({.key_value_heads = 0}), "attention_shape", "key_value_heads", -1);
  SLUICE_CHECK_THROWS(panel_layout({.width = 0}), "attention_shape", "width", -1);
  SLUICE_CHECK_THROWS(panel_layout({.value_width = -1}), "attention_shape", "value_width", -1);
  SLUICE_CHECK_THROWS(panel_layout({.scale = inf}), "attention_shape", "scale", -1);
  SLUICE_CHECK_THROWS(block_attention<double>({}, -1), "block_attention", "n_queries", -1);
  block_attention<double> attend({.query_heads = 2, .key_value_heads = 1, .width = 4, .value_width = 3});
  std::vector<double> out(6, 9.0), lse(2, 9.0), q(8), store(1000), k(8), v(6);
  const panels good{{store.data()}};
  SLUICE_CHECK_THROWS(attend(out, lse, std::vector<double>(9), good), "block_attention", "q.size", -1);
  SLUICE_CHECK_THROWS(attend(std::span(out).first(5), lse, q, good), "block_attention", "out.size", -1);
  SLUICE_CHECK_THROWS(attend(out, std::span(lse).first(1), q, good), "block_attention", "lse.size", -1);
  SLUICE_CHECK_THROWS(attend(out, lse, q, good, std::vector<std::span<const key_panel<double>>>(2)), "block_attention",
                      "own.size", -1);
  SLUICE_CHECK_THROWS(attend(out, lse, q, panels{good[0], {store.data(), 1, 16}}), "block_attention", "shared", 1);
  SLUICE_CHECK_THROWS(attend(out, lse, q, panels{{store.data(), -1, 3}}), "block_attention", "shared", 0);
  SLUICE_CHECK_THROWS(attend(out, lse, q, panels{{store.data(), 0, -1}}), "block_attention", "shared", 0);
  const panels bad{good[0], {nullptr, 0, 1}};
  SLUICE_CHECK_THROWS(attend(out, lse, q, good, std::vector{std::span(bad)}), "block_attention", "own", 1);
  SLUICE_CHECK_THROWS(attend.over_rows(out, lse, std::vector<double>(7), k, v), "over_rows", "q.size", -1);
  SLUICE_CHECK_THROWS(attend.over_rows(out, lse, q, std::vector<double>(7), v), "over_rows", "keys.size", -1);
  SLUICE_CHECK_THROWS(attend.over_rows(out, lse, q, k, std::vector<double>(7)), "over_rows", "values.size", -1);
  SLUICE_CHECK_THROWS(attend.over_rows(std::span(out).first(3), lse, q, k, v), "over_rows", "out.size", -1);
  SLUICE_CHECK_THROWS(attend.over_rows(out, std::span(lse).first(1), q, k, v), "over_rows", "lse.size", -1);
  SLUICE_CHECK_THROWS(attend.over_rows(out, lse, q, {}, {}, true), "over_rows", "q.size", -1);
  SLUICE_CHECK_THROWS(merge_attention<double>(out, std::span(lse).first(0), out, {}), "merge_attention", "out.size",
                      -1);
  SLUICE_CHECK_THROWS(merge_attention<double>(std::span(out).first(5), lse, out, lse), "merge_attention", "out.size",
                      -1);
  SLUICE_CHECK_THROWS(merge_attention<double>(out, lse, k, lse), "merge_attention", "other_out.size", -1);
  SLUICE_CHECK_THROWS(merge_attention<double>(out, lse, out, std::span(lse).first(1)), "merge_attention",
                      "other_lse.size", -1);
  CHECK(out == std::vector<double>(6, 9.0));
  CHECK(lse == std::vector<double>(2, 9.0));
}
