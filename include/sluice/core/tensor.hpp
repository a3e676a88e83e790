#pragma once
#include <Eigen/Core>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <span>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

/// The tensor concept. Algorithms see a vector space; axes and elements are refinements. `tensor_traits<T>` is the only
/// customisation point, and a backend writes one kernel, y = beta y + sum_i c_i x_i in one pass over memory; every
/// other operation follows from it. Here: Eigen's dense types (Matrix, Array, Map, Ref, Block; expressions as read-only
/// tensors), std::vector and std::span. core/eigen_tensor.hpp, core/mdspan.hpp, core/torch.hpp and core/half.hpp add
/// others.
namespace sluice {

/// Sizes and positions: signed, 64 bits on 64-bit machines.
using index_t = std::ptrdiff_t;

template <class T>
struct tensor_traits;
template <class T>
using traits_of = tensor_traits<std::remove_cvref_t<T>>;
template <class T>
using scalar_t = typename traits_of<T>::scalar;  ///< type of coefficients and sums
template <class T>
using owner_t = typename traits_of<T>::owner;  ///< owns storage; zeros_like returns it

struct overwrite {};  ///< beta = 0, known at compile time: y is not read
struct add_to {};     ///< beta = 1, known at compile time

/// The summand c*x.
template <class S, class X>
struct term {
  S c;
  const X& x;
};

/// An element of a vector space: can be measured, scaled and added, and tells how to make storage of its shape.
template <class T>
concept tensor = std::floating_point<scalar_t<T>> && std::movable<owner_t<T>> &&
    requires(const std::remove_cvref_t<T>& x, owner_t<T>& own, scalar_t<T> c) {
  { traits_of<T>::size(x) } -> std::convertible_to<index_t>;
  { traits_of<T>::zeros_like(x) } -> std::same_as<owner_t<T>>;
  { traits_of<T>::dot(x, x) } -> std::convertible_to<scalar_t<T>>;
  traits_of<owner_t<T>>::combine(own, c, term<scalar_t<T>, std::remove_cvref_t<T>>{c, x});
};
/// A tensor that can be written in place.
template <class T>
concept writable_tensor = tensor<T> && !std::is_const_v<std::remove_reference_t<T>> &&
                          requires(std::remove_reference_t<T> & y, const owner_t<T>& own, scalar_t<T> c) {
  traits_of<T>::combine(y, c, term<scalar_t<T>, owner_t<T>>{c, own});
};
/// A tensor with axes: rank(x) and extent(x, k).
template <class T>
concept shaped_tensor = tensor<T> && requires(const std::remove_cvref_t<T>& x) {
  traits_of<T>::rank(x) + traits_of<T>::extent(x, 0);
};
/// A tensor whose elements are visible: elements(x) is an Eigen array over x's memory.
template <class T>
concept elementwise_tensor = tensor<T> && requires(std::remove_reference_t<T>& x) {
  traits_of<T>::elements(x)(0);
};

// Objects, not functions: finding an object by name switches argument-dependent lookup off, so at::norm or std::size
// cannot be picked instead.

/// scale_add(y, beta, a, x, b, z, ...): y <- beta y + a x + b z + ..., one pass, no allocation. No operand may overlap
/// y.
inline constexpr auto scale_add = []<writable_tensor Y, class B, class... A>(Y && y, B beta, const A&... c_x) {
  static_assert(sizeof...(A) % 2 == 0, "scale_add takes pairs: coefficient, tensor");
  using S = scalar_t<Y>;
  using Beta = std::conditional_t<std::is_arithmetic_v<B>, S, B>;
  [&]<std::size_t... I>(std::index_sequence<I...>, const auto& a) {
    traits_of<Y>::combine(y, static_cast<Beta>(beta),
                          term<S, std::remove_cvref_t<decltype(std::get<2 * I + 1>(a))>>{
                              static_cast<S>(std::get<2 * I>(a)), std::get<2 * I + 1>(a)}...);
  }
  (std::make_index_sequence<sizeof...(A) / 2>{}, std::tie(c_x...));
};
/// lincomb(y, a, x, b, z, ...): y <- a x + b z + ...; y is not read.
inline constexpr auto lincomb = []<writable_tensor Y>(Y&& y, const auto&... c_x) { scale_add(y, overwrite{}, c_x...); };
/// axpy(y, a, x, b, z, ...): y <- y + a x + b z + ...
inline constexpr auto axpy = []<writable_tensor Y>(Y&& y, const auto&... c_x) { scale_add(y, add_to{}, c_x...); };
/// Storage of x's shape, filled with zeros; the only way in which algorithms obtain storage.
inline constexpr auto zeros_like = []<tensor X>(const X& x) { return traits_of<X>::zeros_like(x); };
/// Number of elements.
inline constexpr auto size = []<tensor X>(const X& x) -> index_t { return traits_of<X>::size(x); };
/// Sum of the products of the elements.
inline constexpr auto dot = []<tensor X, tensor Z>(const X& x, const Z& z) { return traits_of<X>::dot(x, z); };
/// Euclidean norm of all elements.
inline constexpr auto norm = []<tensor X>(const X& x) { return std::sqrt(traits_of<X>::dot(x, x)); };
/// A copy that shares no storage with x. (Not `clone`: that is a function of the C library.)
inline constexpr auto deep_copy = []<tensor X>(const X& x) {
  if constexpr (requires { traits_of<X>::copy(x); }) {  // where the type has a shorter way
    return traits_of<X>::copy(x);
  } else {
    auto y = traits_of<X>::zeros_like(x);
    traits_of<owner_t<X>>::combine(y, overwrite{}, term<scalar_t<X>, X>{scalar_t<X>{1}, x});
    return y;
  }
};

namespace detail {
template <class Beta, class Y, class... E>
void combine_arrays(Y&& y, Beta beta, const E&... summand) {
  if constexpr (std::same_as<Beta, overwrite>)
    y = (... + summand);
  else if constexpr (std::same_as<Beta, add_to>)
    y += (... + summand);
  else
    y = ((beta * y) + ... + summand);
}
}  // namespace detail

namespace detail {
template <class D>
void as_dense(const Eigen::DenseBase<D>&);
}
/// Any dense expression of Eigen, and what derives from one (a segment is a class derived from Block).
template <class D>
concept eigen_dense = requires(const D& x) {
  detail::as_dense(x);
};

template <eigen_dense D>
struct tensor_traits<D> {
  using scalar = typename D::Scalar;
  using owner = typename D::PlainObject;
  static index_t size(const D& x) { return x.size(); }
  static owner zeros_like(const D& x) { return owner::Zero(x.rows(), x.cols()); }
  static owner copy(const D& x) { return owner(x); }
  template <eigen_dense X>
  static scalar dot(const D& x, const X& z) {
    return (x.array() * z.array()).sum();
  }
  template <class Beta, eigen_dense... X>
  requires(bool(D::Flags& Eigen::LvalueBit)) static void combine(D& y, Beta beta, term<scalar, X>... t) {
    detail::combine_arrays(y.array(), beta, (t.c * t.x.array())...);
  }
  static index_t rank(const D&) { return D::IsVectorAtCompileTime ? 1 : 2; }
  static index_t extent(const D& x, index_t k) { return rank(x) == 1 ? x.size() : k == 0 ? x.rows() : x.cols(); }
  template <class X>
  static auto elements(X& x) {
    return Eigen::ArrayWrapper<X>(x);  // not x.array(), which is a reference to a base if x is an array
  }
};

namespace detail {
struct row_major {};     ///< the last axis is contiguous; a single axis counts as this
struct column_major {};  ///< the first axis is contiguous

template <class T>
concept contiguous_tensor = requires {
  typename traits_of<T>::element_order;
};

/// What types share whose elements lie in one unbroken run of memory: seen as one-dimensional Eigen arrays. Two of them
/// combine only if their elements are in the same order. Derived traits give data(x) and size(x).
template <class Derived, class T, class Scalar, class Owner, class Order = row_major>
struct contiguous_traits {
  using scalar = Scalar;
  using owner = Owner;
  using element_order = Order;
  template <class X>
  static auto elements(X& x) {
    using element = std::remove_pointer_t<decltype(traits_of<X>::data(x))>;
    using array = Eigen::Array<std::remove_const_t<element>, Eigen::Dynamic, 1>;
    return Eigen::Map<std::conditional_t<std::is_const_v<element>, const array, array>>(traits_of<X>::data(x),
                                                                                        traits_of<X>::size(x));
  }
  template <contiguous_tensor X>
  requires std::same_as<typename traits_of<X>::element_order, Order>
  static scalar dot(const T& x, const X& z) { return (elements(x) * traits_of<X>::elements(z)).sum(); }
  template <class Beta, contiguous_tensor... X>
  requires(!std::is_const_v<std::remove_pointer_t<decltype(Derived::data(std::declval<T&>()))>> &&
           (... &&
            std::same_as<typename traits_of<X>::element_order, Order>)) static void combine(T& y, Beta beta,
                                                                                            term<scalar, X>... t) {
    combine_arrays(elements(y), beta, (t.c * traits_of<X>::elements(t.x))...);
  }
};
}  // namespace detail

template <std::floating_point S, class A>
struct tensor_traits<std::vector<S, A>>
    : detail::contiguous_traits<tensor_traits<std::vector<S, A>>, std::vector<S, A>, S, std::vector<S, A>> {
  static S* data(std::vector<S, A>& x) { return x.data(); }
  static const S* data(const std::vector<S, A>& x) { return x.data(); }
  static index_t size(const std::vector<S, A>& x) { return std::ssize(x); }
  static std::vector<S, A> zeros_like(const std::vector<S, A>& x) {
    return std::vector<S, A>(x.size(), S{0}, x.get_allocator());
  }
  static index_t rank(const std::vector<S, A>&) { return 1; }
  static index_t extent(const std::vector<S, A>& x, index_t) { return std::ssize(x); }
};

template <class S, std::size_t N>
requires std::floating_point<std::remove_const_t<S>>
struct tensor_traits<std::span<S, N>>
    : detail::contiguous_traits<tensor_traits<std::span<S, N>>, std::span<S, N>, std::remove_const_t<S>,
                                std::vector<std::remove_const_t<S>>> {
  static S* data(const std::span<S, N>& x) { return x.data(); }
  static index_t size(const std::span<S, N>& x) { return std::ssize(x); }
  static std::vector<std::remove_const_t<S>> zeros_like(const std::span<S, N>& x) {
    return std::vector<std::remove_const_t<S>>(x.size());
  }
  static index_t rank(const std::span<S, N>&) { return 1; }
  static index_t extent(const std::span<S, N>& x, index_t) { return std::ssize(x); }
};

}  // namespace sluice
