// Fails for: a fork that copies pages, or shares the page it writes to; a truncated page that stays taken, or is given
// back while another sequence holds it; a copy of the last page that forgets a layer or copies it without need; an
// append that takes pages before it finds that there are too few; positions beyond the length listed; a page table in
// the wrong order; reserve that moves pages.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <sluice/kernels/paged_cache.hpp>
#include <sluice/random/decisions.hpp>
#include <sluice/random/distributions.hpp>
#include <support/allocation_counter.hpp>
#include <support/check_throws.hpp>
#include <support/poisoned.hpp>

using namespace sluice;

namespace {

constexpr attention_shape shape{.query_heads = 4, .key_value_heads = 2, .width = 6, .value_width = 5};

/// What position `position` of the text `text` holds: a number that names text, layer, position and place.
template <class S>
std::vector<S> contents(std::uint64_t text, index_t layer, index_t position, index_t n, bool value) {
  std::vector<S> x(static_cast<std::size_t>(n));
  fill_normal(x, stream(text, static_cast<std::uint64_t>(layer * 100'000 + position * 2 + value)));
  return x;
}

/// A sequence and what it must hold: for each position, the text it was written for.
struct tracked {
  index_t id;
  std::vector<std::uint64_t> text;
};

template <class S>
void write(paged_cache<S>& cache, tracked& t, index_t n, std::uint64_t text) {
  const index_t before = cache.length(t.id);
  REQUIRE(cache.append(t.id, n));
  for (index_t p = before; p < before + n; ++p) {
    for (index_t l = 0; l < cache.layers(); ++l)
      cache.store(t.id, l, p, contents<S>(text, l, p, 12, false), contents<S>(text, l, p, 10, true));
    t.text.push_back(text);
  }
}
template <class S>
bool holds(const paged_cache<S>& cache, const tracked& t) {
  if (cache.length(t.id) != std::ssize(t.text)) return false;
  std::vector<S> k(12), v(10);
  for (index_t p = 0; p < std::ssize(t.text); ++p)
    for (index_t l = 0; l < cache.layers(); ++l) {
      cache.load(k, v, t.id, l, p);
      const std::uint64_t text = t.text[static_cast<std::size_t>(p)];
      if (k != contents<S>(text, l, p, 12, false) || v != contents<S>(text, l, p, 10, true)) return false;
    }
  return true;
}

}  // namespace

TEMPLATE_TEST_CASE("paged_cache: random appends, truncations, forks and releases", "[paged_cache]", double, float) {
  using S = TestType;
  paged_cache<S> cache(shape, {.layers = 2, .page_positions = GENERATE(16, 32), .pages = 60, .sequences = 2});
  cursor random(stream(77));
  std::vector<tracked> live{{cache.create(), {}}};
  std::uint64_t text = 1;
  for (int round = 0; round < 300; ++round) {
    auto& t = live[static_cast<std::size_t>(below(random, live.size()))];
    switch (below(random, 5)) {
      case 0:
      case 1: {
        const auto n = static_cast<index_t>(below(random, 40));
        if (cache.free_pages() >= 4) write(cache, t, n, text++);
        break;
      }
      case 2: {
        const auto length = static_cast<index_t>(below(random, t.text.size() + 1));
        cache.truncate(t.id, length);
        t.text.resize(static_cast<std::size_t>(length));
        break;
      }
      case 3:
        if (live.size() < 6) live.push_back({cache.fork(t.id), t.text});
        break;
      default:
        if (live.size() > 1) {
          cache.release(t.id);
          CHECK_FALSE(cache.contains(t.id));
          std::swap(t, live.back());
          live.pop_back();
        }
    }
    if (round % 10 == 9)
      for (const tracked& s : live) REQUIRE(holds(cache, s));
    // Every page is free or held, and counted as often as it is held.
    std::vector<index_t> held(static_cast<std::size_t>(cache.pages()));
    for (const tracked& s : live) {
      REQUIRE(std::ssize(cache.page_table(s.id)) ==
              (std::ssize(s.text) + cache.page_positions() - 1) / cache.page_positions());
      for (const index_t p : cache.page_table(s.id)) ++held[static_cast<std::size_t>(p)];
    }
    index_t unused = 0;
    for (index_t p = 0; p < cache.pages(); ++p) {
      REQUIRE(cache.references(p) == held[static_cast<std::size_t>(p)]);
      unused += cache.references(p) == 0;
    }
    REQUIRE(cache.free_pages() == unused);
  }
  for (const tracked& s : live) cache.release(s.id);
  CHECK(cache.free_pages() == cache.pages());
  CHECK(cache.bytes_in_use() == 0);
}

TEST_CASE("paged_cache: a fork shares all pages and copies the last one only when it is written to", "[paged_cache]") {
  paged_cache<double> cache(shape, {.layers = 2, .page_positions = 16, .pages = 8, .sequences = 2});
  tracked a{cache.create(), {}};
  write(cache, a, 40, 1);
  CHECK(cache.free_pages() == 5);
  tracked b{cache.fork(a.id), a.text};
  CHECK(cache.free_pages() == 5);  // nothing was copied
  const std::vector<index_t> pages(cache.page_table(a.id).begin(), cache.page_table(a.id).end());
  CHECK(std::equal(pages.begin(), pages.end(), cache.page_table(b.id).begin()));
  write(cache, b, 3, 2);  // the copy
  CHECK(cache.free_pages() == 4);
  CHECK(cache.page_table(b.id)[1] == pages[1]);
  CHECK(cache.page_table(b.id)[2] != pages[2]);
  write(cache, a, 5, 3);  // no longer shared
  CHECK(cache.free_pages() == 4);
  CHECK(holds(cache, a));
  CHECK(holds(cache, b));
  cache.truncate(b.id, 32);  // its own page goes back, the shared ones stay
  b.text.resize(32);
  CHECK(cache.free_pages() == 5);
  write(cache, b, 2, 4);  // begins a page: nothing to copy
  CHECK(cache.free_pages() == 4);
  cache.truncate(b.id, 20);  // in the middle of a shared page
  b.text.resize(20);
  SLUICE_CHECK_THROWS(cache.store(b.id, 0, 3, std::vector<double>(12), std::vector<double>(10)), "paged_cache::store",
                      "position", -1);
  write(cache, b, 1, 5);
  CHECK(holds(cache, a));
  CHECK(holds(cache, b));
  cache.release(a.id);
  CHECK(holds(cache, b));
  CHECK(cache.free_pages() == 6);
}

TEST_CASE("paged_cache: a full pool is reported, and nothing has changed", "[paged_cache]") {
  paged_cache<float> cache(shape, {.layers = 1, .page_positions = 16, .pages = 3, .sequences = 3});
  tracked a{cache.create(), {}};
  write(cache, a, 20, 1);
  CHECK_FALSE(cache.append(a.id, 29));
  CHECK(cache.length(a.id) == 20);
  CHECK(cache.free_pages() == 1);
  tracked b{cache.fork(a.id), a.text};
  CHECK_FALSE(cache.append(b.id, 13));  // the copy and one more
  CHECK(cache.append(b.id, 0));
  CHECK(cache.page_table(b.id)[1] == cache.page_table(a.id)[1]);
  const float* const page = cache.panel(cache.page_table(a.id)[0], 0, 0);
  cache.reserve(10);
  CHECK(cache.pages() == 10);
  CHECK(page == cache.panel(cache.page_table(a.id)[0], 0, 0));
  CHECK(cache.bytes() == 10 * 2 * 16 * (6 + 16) * sizeof(float));
  CHECK(cache.bytes_in_use() == 2 * 2 * 16 * (6 + 16) * sizeof(float));
  write(cache, b, 13, 2);
  CHECK(holds(cache, a));
  CHECK(holds(cache, b));
  cache.reserve(2);
  CHECK(cache.pages() == 10);
}

TEMPLATE_TEST_CASE("paged_cache: kernels see the positions of the sequence and nothing else", "[paged_cache]", double,
                   float) {
  using S = TestType;
  paged_cache<S> cache(shape, {.layers = 2, .page_positions = 32, .pages = 20});
  const std::vector<S> nan_k(12, std::numeric_limits<S>::quiet_NaN()), nan_v(10, std::numeric_limits<S>::quiet_NaN());
  const index_t spoiled = cache.create();  // every position of the pool is NaN until it is written
  REQUIRE(cache.append(spoiled, 20 * 32));
  for (index_t p = 0; p < 20 * 32; ++p)
    for (index_t l = 0; l < 2; ++l) cache.store(spoiled, l, p, nan_k, nan_v);
  cache.release(spoiled);
  tracked t{cache.create(), {}};
  write(cache, t, 90, 1);
  cache.truncate(t.id, 71);
  t.text.resize(71);
  const index_t length = GENERATE(0, 1, 16, 33, 64, 71);
  std::vector<S> q(2 * 24);
  fill_normal(q, stream(5));
  block_attention<S> attend(shape);
  for (index_t l = 0; l < 2; ++l) {
    std::vector<S> k, v, out(2 * 20), lse(8), rows_out(2 * 20), rows_lse(8);
    for (index_t p = 0; p < length; ++p) {
      const auto key = contents<S>(1, l, p, 12, false), value = contents<S>(1, l, p, 10, true);
      k.insert(k.end(), key.begin(), key.end());
      v.insert(v.end(), value.begin(), value.end());
    }
    attend.over_rows(rows_out, rows_lse, q, k, v);
    std::vector<key_panel<S>> list(static_cast<std::size_t>(cache.panels_of(length)));
    cache.list_panels(list, t.id, l, length);
    attend(out, lse, q, list);
    CHECK(std::memcmp(out.data(), rows_out.data(), out.size() * sizeof(S)) == 0);
    CHECK(std::memcmp(lse.data(), rows_lse.data(), lse.size() * sizeof(S)) == 0);
    for (std::size_t i = 0; i < list.size(); ++i)
      CHECK(list[i].data == cache.panel(cache.page_table(t.id)[i / 2], l, static_cast<index_t>(i % 2)));
  }
}

TEST_CASE("paged_cache: no allocation while the pool has room", "[paged_cache]") {
  paged_cache<float> cache(shape, {.layers = 2, .page_positions = 16, .pages = 40, .sequences = 3});
  const std::vector<float> k(12), v(10);
  const auto work = [&] {
    const index_t a = cache.create();
    bool ok = cache.append(a, 200);
    const index_t b = cache.fork(a);
    ok = ok && cache.append(b, 150);
    for (index_t p = 200; p < 350; ++p) cache.store(b, 1, p, k, v);
    const index_t c = cache.fork(b);
    cache.truncate(c, 10);
    ok = ok && cache.append(c, 20);
    cache.release(a);
    cache.release(c);
    cache.release(b);
    if (!ok) std::abort();
  };
  CHECK(support::allocations_in(work) == 0);
}

TEST_CASE("paged_cache refuses bad arguments by name", "[paged_cache]") {
  using cache_t = paged_cache<double>;
  SLUICE_CHECK_THROWS(cache_t({.width = 0}), "attention_shape", "width", -1);
  SLUICE_CHECK_THROWS(cache_t(shape, {.layers = 0}), "paged_cache", "layers", -1);
  SLUICE_CHECK_THROWS(cache_t(shape, {.page_positions = 24}), "paged_cache", "page_positions", -1);
  SLUICE_CHECK_THROWS(cache_t(shape, {.page_positions = 0}), "paged_cache", "page_positions", -1);
  SLUICE_CHECK_THROWS(cache_t(shape, {.pages = -1}), "paged_cache", "pages", -1);
  SLUICE_CHECK_THROWS(cache_t(shape, {.sequences = -1}), "paged_cache", "sequences", -1);
  cache_t cache(shape, {.layers = 2, .page_positions = 16, .pages = 3});
  const std::vector<double> k(12), v(10);
  std::vector<double> out_k(12), out_v(10);
  std::vector<key_panel<double>> list(1);
  SLUICE_CHECK_THROWS(cache.fork(0), "paged_cache::fork", "sequence", -1);  // not created yet
  const index_t id = cache.create();
  REQUIRE(cache.append(id, 5));
  for (const index_t bad : {index_t{-1}, id + 1}) {
    SLUICE_CHECK_THROWS(cache.fork(bad), "paged_cache::fork", "sequence", -1);
    SLUICE_CHECK_THROWS(cache.release(bad), "paged_cache::release", "sequence", -1);
    SLUICE_CHECK_THROWS(cache.append(bad, 1), "paged_cache::append", "sequence", -1);
    SLUICE_CHECK_THROWS(cache.truncate(bad, 0), "paged_cache::truncate", "sequence", -1);
    SLUICE_CHECK_THROWS(cache.length(bad), "paged_cache::length", "sequence", -1);
    SLUICE_CHECK_THROWS(cache.page_table(bad), "paged_cache::page_table", "sequence", -1);
    SLUICE_CHECK_THROWS(cache.store(bad, 0, 0, k, v), "paged_cache::store", "sequence", -1);
    SLUICE_CHECK_THROWS(cache.load(out_k, out_v, bad, 0, 0), "paged_cache::load", "sequence", -1);
    SLUICE_CHECK_THROWS(cache.list_panels(list, bad, 0, 5), "paged_cache::list_panels", "sequence", -1);
  }
  SLUICE_CHECK_THROWS(cache.append(id, -1), "paged_cache::append", "n", -1);
  SLUICE_CHECK_THROWS(cache.truncate(id, 6), "paged_cache::truncate", "length", -1);
  SLUICE_CHECK_THROWS(cache.truncate(id, -1), "paged_cache::truncate", "length", -1);
  SLUICE_CHECK_THROWS(cache.store(id, 2, 0, k, v), "paged_cache::store", "layer", -1);
  SLUICE_CHECK_THROWS(cache.store(id, 0, 5, k, v), "paged_cache::store", "position", -1);
  SLUICE_CHECK_THROWS(cache.store(id, 0, -1, k, v), "paged_cache::store", "position", -1);
  SLUICE_CHECK_THROWS(cache.store(id, 0, 0, v, v), "paged_cache::store", "keys.size", -1);
  SLUICE_CHECK_THROWS(cache.store(id, 0, 0, k, k), "paged_cache::store", "values.size", -1);
  SLUICE_CHECK_THROWS(cache.load(out_v, out_v, id, 0, 0), "paged_cache::load", "keys.size", -1);
  SLUICE_CHECK_THROWS(cache.load(out_k, out_k, id, 0, 0), "paged_cache::load", "values.size", -1);
  SLUICE_CHECK_THROWS(cache.load(out_k, out_v, id, 0, 5), "paged_cache::load", "position", -1);
  SLUICE_CHECK_THROWS(cache.list_panels(list, id, 2, 5), "paged_cache::list_panels", "layer", -1);
  SLUICE_CHECK_THROWS(cache.list_panels(list, id, 0, 6), "paged_cache::list_panels", "length", -1);
  SLUICE_CHECK_THROWS(cache.list_panels(list, id, 0, 0), "paged_cache::list_panels", "out.size", -1);
  SLUICE_CHECK_THROWS(cache.references(3), "paged_cache::references", "page", -1);
  SLUICE_CHECK_THROWS(cache.panel(3, 0, 0), "paged_cache::panel", "page", -1);
  SLUICE_CHECK_THROWS(cache.panel(0, 2, 0), "paged_cache::panel", "layer", -1);
  SLUICE_CHECK_THROWS(cache.panel(0, 0, 1), "paged_cache::panel", "k", -1);
  SLUICE_CHECK_THROWS(cache.reserve(-1), "paged_cache::reserve", "pages", -1);
  CHECK(cache.length(id) == 5);
  CHECK(cache.free_pages() == 2);
}
