// Expect: no matching function for call to|constraints? not satisfied
// A row-major view must not be combined with a column-major one: their elements are in different orders.
#include <support/mdspan_stub.hpp>

namespace mixed_orders_mdspan {
using shape = support::extents<int, support::dynamic_extent, support::dynamic_extent>;
using row_major = support::mdspan<double, shape, support::layout_right>;
using column_major = support::mdspan<double, shape, support::layout_left>;
#ifdef CONTROL
void f(row_major y, row_major x) { sluice::axpy(y, 2, x); }
#else
void f(row_major y, column_major x) { sluice::axpy(y, 2, x); }
#endif
}  // namespace mixed_orders_mdspan
