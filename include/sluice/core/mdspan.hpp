#pragma once
#include <sluice/core/tensor.hpp>

#include <concepts>
#include <cstddef>
#include <type_traits>
#include <vector>

/// Views with the interface of std::mdspan as tensors: std::mdspan itself (C++23), the reference implementation, CUDA's
/// cuda::std::mdspan or a type of one's own. Nothing is included: include the header of the type that you use.
/// A view qualifies if its layout maps to all of an unbroken run of memory (is_always_exhaustive, is_always_unique) and
/// its accessor is a plain pointer; so layout_stride and layout_right_padded do not. The elements are used where they
/// lie. Row-major (layout_right) and column-major (layout_left) views do not combine, a compile error; a row-major one
/// combines with std::vector. Any other layout combines with views of the same layout only, of equal extents.
namespace sluice {

/// The part of std::mdspan's interface that is used.
template <class M>
concept mdspan_view = requires(const M& m) {
  typename M::element_type;
  typename M::extents_type;
  typename M::layout_type;
  typename M::mapping_type;
  requires std::floating_point<std::remove_const_t<typename M::element_type>>;
  requires std::same_as<typename M::data_handle_type, typename M::element_type*>;
  requires std::same_as<typename M::reference, typename M::element_type&>;
  requires M::is_always_exhaustive();
  requires M::is_always_unique();
  { M::rank() } -> std::convertible_to<std::size_t>;
  { m.extent(0) } -> std::convertible_to<index_t>;
  { m.data_handle() } -> std::convertible_to<typename M::element_type*>;
  m.mapping().required_span_size();
  m.mapping().stride(0);
};

namespace detail {
/// Whether the strides of a mapping are those of layout_right (`from_last`) or layout_left. Asked of the mapping of the
/// smallest view, whose dynamic extents are 0: at compile time, without naming a layout of any library.
template <class Mapping>
constexpr bool has_strides(bool from_last) {
  constexpr auto rank = Mapping::extents_type::rank();
  if constexpr (rank > 0) {
    const Mapping m{};
    index_t stride = 1;
    for (std::size_t i = 0; i < rank; ++i) {
      const auto k = static_cast<typename Mapping::extents_type::rank_type>(from_last ? rank - 1 - i : i);
      if (static_cast<index_t>(m.stride(k)) != stride) return false;
      stride *= static_cast<index_t>(m.extents().extent(k));
    }
  }
  return true;
}

template <class M>
constexpr auto mdspan_order() {
  if constexpr (M::rank() < 2 || has_strides<typename M::mapping_type>(true))
    return row_major{};
  else if constexpr (has_strides<typename M::mapping_type>(false))
    return column_major{};
  else
    return typename M::layout_type{};
}

template <class M>
struct mdspan_views;
template <template <class, class, class, class> class View, class T, class Extents, class Layout,
          template <class> class Accessor>
struct mdspan_views<View<T, Extents, Layout, Accessor<T>>> {
  using element = std::remove_const_t<T>;
  using writable = View<element, Extents, Layout, Accessor<element>>;
  using readable = View<const element, Extents, Layout, Accessor<const element>>;
};

template <class M>
index_t mdspan_size(const M& m) {
  return static_cast<index_t>(m.mapping().required_span_size());
}
}  // namespace detail

/// Memory with the shape of a view: what zeros_like returns for one. `view()` gives the mdspan to compute with; the
/// copy of an object is deep.
template <mdspan_view M>
class mdspan_storage {
 public:
  using element_type = std::remove_const_t<typename M::element_type>;
  using mapping_type = typename M::mapping_type;
  using writable_view = typename detail::mdspan_views<M>::writable;
  using readable_view = typename detail::mdspan_views<M>::readable;

  explicit mdspan_storage(const mapping_type& mapping)
      : mapping_(mapping), data_(static_cast<std::size_t>(mapping.required_span_size())) {}
  writable_view view() { return writable_view(data_.data(), mapping_); }
  readable_view view() const { return readable_view(data_.data(), mapping_); }
  operator writable_view() { return view(); }
  operator readable_view() const { return view(); }
  element_type* data() { return data_.data(); }
  const element_type* data() const { return data_.data(); }
  const mapping_type& mapping() const { return mapping_; }

 private:
  mapping_type mapping_;
  std::vector<element_type> data_;
};

template <mdspan_view M>
struct tensor_traits<M> : detail::contiguous_traits<tensor_traits<M>, M, std::remove_const_t<typename M::element_type>,
                                                    mdspan_storage<typename detail::mdspan_views<M>::writable>,
                                                    decltype(detail::mdspan_order<M>())> {
  using storage = mdspan_storage<typename detail::mdspan_views<M>::writable>;
  static typename M::element_type* data(const M& x) { return x.data_handle(); }
  static index_t size(const M& x) { return detail::mdspan_size(x); }
  static storage zeros_like(const M& x) { return storage(x.mapping()); }
  static index_t rank(const M&) { return static_cast<index_t>(M::rank()); }
  static index_t extent(const M& x, index_t k) {
    return static_cast<index_t>(x.extent(static_cast<typename M::rank_type>(k)));
  }
};

template <mdspan_view M>
struct tensor_traits<mdspan_storage<M>>
    : detail::contiguous_traits<tensor_traits<mdspan_storage<M>>, mdspan_storage<M>,
                                std::remove_const_t<typename M::element_type>, mdspan_storage<M>,
                                decltype(detail::mdspan_order<M>())> {
  using element = std::remove_const_t<typename M::element_type>;
  static element* data(mdspan_storage<M>& x) { return x.data(); }
  static const element* data(const mdspan_storage<M>& x) { return x.data(); }
  static index_t size(const mdspan_storage<M>& x) { return detail::mdspan_size(x); }
  static mdspan_storage<M> zeros_like(const mdspan_storage<M>& x) { return mdspan_storage<M>(x.mapping()); }
  static index_t rank(const mdspan_storage<M>&) { return static_cast<index_t>(M::rank()); }
  static index_t extent(const mdspan_storage<M>& x, index_t k) {
    return static_cast<index_t>(x.mapping().extents().extent(static_cast<typename M::rank_type>(k)));
  }
};

}  // namespace sluice
