#pragma once
#include <sluice/core/tensor.hpp>
#include <type_traits>
#include <unsupported/Eigen/CXX11/Tensor>

/// Eigen::Tensor and Eigen::TensorMap as tensors, in a header of their own because Eigen's costs 0.3 s of compile time.
/// Their elements are seen where they lie, in the order in which they lie: tensors of different storage orders do not
/// combine (a compile error), nor does a column-major one of two or more axes with a std::vector. Float and double.
namespace sluice {

namespace detail {
/// With fewer than two axes both storage orders are the same order.
template <int Options, int Rank>
using eigen_tensor_order =
    std::conditional_t<(Rank > 1) && (Options & int(Eigen::RowMajor)) == 0, column_major, row_major>;

template <class X, class Owner>
struct eigen_tensor_shape {
  static index_t size(const X& x) { return static_cast<index_t>(x.size()); }
  static Owner zeros_like(const X& x) {
    Owner z(x.dimensions());
    z.setZero();
    return z;
  }
  static index_t rank(const X&) { return X::NumDimensions; }
  static index_t extent(const X& x, index_t k) {
    return static_cast<index_t>(x.dimension(static_cast<std::size_t>(k)));
  }
};
}  // namespace detail

template <std::floating_point S, int Rank, int Options, class Index>
struct tensor_traits<Eigen::Tensor<S, Rank, Options, Index>>
    : detail::contiguous_traits<tensor_traits<Eigen::Tensor<S, Rank, Options, Index>>,
                                Eigen::Tensor<S, Rank, Options, Index>, S, Eigen::Tensor<S, Rank, Options, Index>,
                                detail::eigen_tensor_order<Options, Rank>>,
      detail::eigen_tensor_shape<Eigen::Tensor<S, Rank, Options, Index>, Eigen::Tensor<S, Rank, Options, Index>> {
  static S* data(Eigen::Tensor<S, Rank, Options, Index>& x) { return x.data(); }
  static const S* data(const Eigen::Tensor<S, Rank, Options, Index>& x) { return x.data(); }
};

/// A map writes through to the memory it was made for; `TensorMap<const Tensor>` and `TensorMap<Tensor<const S>>` can
/// only be read. The owner is the plain Tensor.
template <class S, int Rank, int Options, class Index, int MapOptions, template <class> class MakePointer>
requires std::floating_point<std::remove_const_t<S>>
struct tensor_traits<Eigen::TensorMap<Eigen::Tensor<S, Rank, Options, Index>, MapOptions, MakePointer>>
    : detail::contiguous_traits<
          tensor_traits<Eigen::TensorMap<Eigen::Tensor<S, Rank, Options, Index>, MapOptions, MakePointer>>,
          Eigen::TensorMap<Eigen::Tensor<S, Rank, Options, Index>, MapOptions, MakePointer>, std::remove_const_t<S>,
          Eigen::Tensor<std::remove_const_t<S>, Rank, Options, Index>, detail::eigen_tensor_order<Options, Rank>>,
      detail::eigen_tensor_shape<Eigen::TensorMap<Eigen::Tensor<S, Rank, Options, Index>, MapOptions, MakePointer>,
                                 Eigen::Tensor<std::remove_const_t<S>, Rank, Options, Index>> {
  static S* data(const Eigen::TensorMap<Eigen::Tensor<S, Rank, Options, Index>, MapOptions, MakePointer>& x) {
    return x.data();
  }
};
template <class S, int Rank, int Options, class Index, int MapOptions, template <class> class MakePointer>
requires std::floating_point<std::remove_const_t<S>>
struct tensor_traits<Eigen::TensorMap<const Eigen::Tensor<S, Rank, Options, Index>, MapOptions, MakePointer>>
    : detail::contiguous_traits<
          tensor_traits<Eigen::TensorMap<const Eigen::Tensor<S, Rank, Options, Index>, MapOptions, MakePointer>>,
          Eigen::TensorMap<const Eigen::Tensor<S, Rank, Options, Index>, MapOptions, MakePointer>,
          std::remove_const_t<S>, Eigen::Tensor<std::remove_const_t<S>, Rank, Options, Index>,
          detail::eigen_tensor_order<Options, Rank>>,
      detail::eigen_tensor_shape<
          Eigen::TensorMap<const Eigen::Tensor<S, Rank, Options, Index>, MapOptions, MakePointer>,
          Eigen::Tensor<std::remove_const_t<S>, Rank, Options, Index>> {
  static const S* data(
      const Eigen::TensorMap<const Eigen::Tensor<S, Rank, Options, Index>, MapOptions, MakePointer>& x) {
    return x.data();
  }
};

}  // namespace sluice
