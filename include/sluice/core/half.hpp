#pragma once
#include <sluice/core/tensor.hpp>

#include <concepts>
#include <cstddef>
#include <span>
#include <type_traits>
#include <vector>

/// Eigen::half and Eigen::bfloat16 as storage: Eigen's dense types, std::vector and std::span of them are tensors whose
/// scalar_t is float. Coefficients, products and sums are float; every element is widened when it is read and rounded
/// once, to nearest even, when it is written, inside one expression: no copies, no allocation. Vectorised where Eigen
/// has instructions for the conversion (F16C, AVX-512), several times slower elsewhere.
/// `elements(x)` is an array of the stored type; `elements(x).template cast<float>()` is what to compute with.
/// A sum of squares above 2^128 overflows as for float tensors, not at 65504.
namespace sluice {

namespace detail {
template <class S>
concept storage_float = std::same_as<S, Eigen::half> || std::same_as<S, Eigen::bfloat16>;

template <class Beta, class Y, class... E>
void combine_stored(Y&& y, Beta beta, const E&... summand) {
  using stored = typename std::remove_cvref_t<Y>::Scalar;
  if constexpr (std::same_as<Beta, overwrite>)
    y = (... + summand).template cast<stored>();
  else if constexpr (std::same_as<Beta, add_to>)
    y = (y.template cast<float>() + ... + summand).template cast<stored>();
  else
    y = ((beta * y.template cast<float>()) + ... + summand).template cast<stored>();
}
}  // namespace detail

template <class D>
concept eigen_storage = eigen_dense<D> && detail::storage_float<typename D::Scalar>;

template <eigen_storage D>
struct tensor_traits<D> {
  using scalar = float;
  using owner = typename D::PlainObject;
  static index_t size(const D& x) { return x.size(); }
  static owner zeros_like(const D& x) { return owner::Zero(x.rows(), x.cols()); }
  template <eigen_dense X>
  static float dot(const D& x, const X& z) {
    return (x.array().template cast<float>() * z.array().template cast<float>()).sum();
  }
  template <class Beta, eigen_dense... X>
  requires(bool(D::Flags& Eigen::LvalueBit)) static void combine(D& y, Beta beta, term<float, X>... t) {
    detail::combine_stored(y.array(), beta, (t.c * t.x.array().template cast<float>())...);
  }
  static index_t rank(const D&) { return D::IsVectorAtCompileTime ? 1 : 2; }
  static index_t extent(const D& x, index_t k) { return rank(x) == 1 ? x.size() : k == 0 ? x.rows() : x.cols(); }
  template <class X>
  static auto elements(X& x) {
    return Eigen::ArrayWrapper<X>(x);  // not x.array(), which is a reference to a base if x is an array
  }
};

namespace detail {
template <class T>
concept contiguous_storage = requires {
  typename traits_of<T>::stored;
};

template <class Derived, class T, class S>
struct contiguous_storage_traits {
  using scalar = float;
  using stored = S;
  using owner = std::vector<S>;
  static index_t size(const T& x) { return std::ssize(x); }
  static owner zeros_like(const T& x) { return owner(x.size(), S(0)); }
  static index_t rank(const T&) { return 1; }
  static index_t extent(const T& x, index_t) { return std::ssize(x); }
  template <class X>
  static auto elements(X& x) {
    using element = std::remove_pointer_t<decltype(traits_of<X>::data(x))>;
    using array = Eigen::Array<std::remove_const_t<element>, Eigen::Dynamic, 1>;
    return Eigen::Map<std::conditional_t<std::is_const_v<element>, const array, array>>(traits_of<X>::data(x),
                                                                                        traits_of<X>::size(x));
  }
  template <contiguous_storage X>
  static float dot(const T& x, const X& z) {
    return (elements(x).template cast<float>() * traits_of<X>::elements(z).template cast<float>()).sum();
  }
  template <class Beta, contiguous_storage... X>
  requires(!std::is_const_v<std::remove_pointer_t<decltype(Derived::data(std::declval<T&>()))>>) static void combine(
      T& y, Beta beta, term<float, X>... t) {
    combine_stored(elements(y), beta, (t.c * traits_of<X>::elements(t.x).template cast<float>())...);
  }
};
}  // namespace detail

template <detail::storage_float S>
struct tensor_traits<std::vector<S>>
    : detail::contiguous_storage_traits<tensor_traits<std::vector<S>>, std::vector<S>, S> {
  static S* data(std::vector<S>& x) { return x.data(); }
  static const S* data(const std::vector<S>& x) { return x.data(); }
};

template <class S, std::size_t N>
requires detail::storage_float<std::remove_const_t<S>>
struct tensor_traits<std::span<S, N>>
    : detail::contiguous_storage_traits<tensor_traits<std::span<S, N>>, std::span<S, N>, std::remove_const_t<S>> {
  static S* data(const std::span<S, N>& x) { return x.data(); }
};

}  // namespace sluice
