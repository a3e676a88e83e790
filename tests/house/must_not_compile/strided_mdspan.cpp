// Expect: no matching function for call to|constraints? not satisfied
// A view with gaps is not a run of memory.
#include <support/mdspan_stub.hpp>

namespace strided_mdspan {
using shape = support::extents<int, support::dynamic_extent, support::dynamic_extent>;
#ifdef CONTROL
double f(support::mdspan<double, shape, support::layout_left> x) { return sluice::norm(x); }
#else
double f(support::mdspan<double, shape, support::layout_stride> x) { return sluice::norm(x); }
#endif
}  // namespace strided_mdspan
