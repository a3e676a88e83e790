#pragma once
#include <array>
#include <cstddef>
#include <type_traits>
#include <utility>

/// The part of std::mdspan (C++23) that an adaptor can rely on, for tests with compilers that lack it. Names and
/// meaning are the standard's; checks, slices and the stored accessor are left out.
namespace support {

inline constexpr std::size_t dynamic_extent = static_cast<std::size_t>(-1);

template <class Index, std::size_t... E>
class extents {
 public:
  using index_type = Index;
  using size_type = std::make_unsigned_t<Index>;
  using rank_type = std::size_t;
  constexpr extents() {  // dynamic extents are 0
    std::size_t k = 0;
    ((value_[k++] = E == dynamic_extent ? 0 : static_cast<Index>(E)), ...);
  }
  template <class... I>
  requires(sizeof...(I) == sizeof...(E) && sizeof...(I) > 0) constexpr explicit extents(I... i)
      : value_{static_cast<Index>(i)...} {}
  static constexpr rank_type rank() { return sizeof...(E); }
  constexpr Index extent(rank_type k) const { return value_[k]; }
  friend constexpr bool operator==(const extents&, const extents&) = default;

 private:
  std::array<Index, sizeof...(E)> value_{};
};

namespace detail {
template <class Extents, bool LastFirst>
class packed_mapping {
 public:
  using extents_type = Extents;
  using index_type = typename Extents::index_type;
  using rank_type = std::size_t;
  constexpr packed_mapping() = default;
  constexpr packed_mapping(const Extents& e) : extents_(e) {}
  constexpr const Extents& extents() const { return extents_; }
  constexpr index_type stride(rank_type k) const {
    index_type s = 1;
    if (LastFirst)
      for (rank_type i = k + 1; i < Extents::rank(); ++i) s *= extents_.extent(i);
    else
      for (rank_type i = 0; i < k; ++i) s *= extents_.extent(i);
    return s;
  }
  constexpr index_type required_span_size() const {
    index_type n = 1;
    for (rank_type i = 0; i < Extents::rank(); ++i) n *= extents_.extent(i);
    return n;
  }
  template <class... I>
  constexpr index_type operator()(I... i) const {
    rank_type k = 0;
    index_type offset = 0;
    ((offset += static_cast<index_type>(i) * stride(k++)), ...);
    return offset;
  }
  static constexpr bool is_always_exhaustive() { return true; }
  static constexpr bool is_always_unique() { return true; }

 private:
  Extents extents_{};
};
}  // namespace detail

struct layout_right {
  template <class Extents>
  using mapping = detail::packed_mapping<Extents, true>;
};
struct layout_left {
  template <class Extents>
  using mapping = detail::packed_mapping<Extents, false>;
};
/// Any strides: need not cover its memory.
struct layout_stride {
  template <class Extents>
  class mapping : public detail::packed_mapping<Extents, true> {
   public:
    static constexpr bool is_always_exhaustive() { return false; }
  };
};

template <class T>
struct default_accessor {
  using element_type = T;
  using data_handle_type = T*;
  using reference = T&;
};

template <class T, class Extents, class Layout = layout_right, class Accessor = default_accessor<T>>
class mdspan {
 public:
  using extents_type = Extents;
  using layout_type = Layout;
  using accessor_type = Accessor;
  using mapping_type = typename Layout::template mapping<Extents>;
  using element_type = T;
  using value_type = std::remove_cv_t<T>;
  using index_type = typename Extents::index_type;
  using size_type = typename Extents::size_type;
  using rank_type = typename Extents::rank_type;
  using data_handle_type = typename Accessor::data_handle_type;
  using reference = typename Accessor::reference;

  constexpr mdspan(data_handle_type p, const mapping_type& m) : data_(p), mapping_(m) {}
  template <class... I>
  constexpr explicit mdspan(data_handle_type p, I... i) : data_(p), mapping_(Extents(i...)) {}
  static constexpr rank_type rank() { return Extents::rank(); }
  constexpr index_type extent(rank_type k) const { return mapping_.extents().extent(k); }
  constexpr const data_handle_type& data_handle() const { return data_; }
  constexpr const mapping_type& mapping() const { return mapping_; }
  static constexpr bool is_always_exhaustive() { return mapping_type::is_always_exhaustive(); }
  static constexpr bool is_always_unique() { return mapping_type::is_always_unique(); }
  template <class... I>
  constexpr reference operator()(I... i) const {
    return data_[mapping_(i...)];
  }

 private:
  data_handle_type data_;
  mapping_type mapping_;
};

}  // namespace support
