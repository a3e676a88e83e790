#pragma once
#include <ATen/ATen.h>
#include <sluice/core/tensor.hpp>

/// LibTorch's at::Tensor (torch::Tensor) as a tensor. Include it only where LibTorch is at hand. Any floating-point
/// dtype, device and layout that add_, mul_ and copy_ support; coefficients and inner products are double. One kernel
/// of torch runs per term, so a combination of k terms makes k + 1 passes over y. There is no elements(): memory may be
/// on another device. Copies of an at::Tensor share their storage: use deep_copy. The operations record no gradients,
/// whatever the grad mode, and y must not be a leaf that requires them.
namespace sluice {

template <>
struct tensor_traits<at::Tensor> {
  using scalar = double;
  using owner = at::Tensor;
  static index_t size(const at::Tensor& x) { return static_cast<index_t>(x.numel()); }
  static at::Tensor zeros_like(const at::Tensor& x) {
    const at::NoGradGuard no_grad;
    return at::zeros_like(x);
  }
  static double dot(const at::Tensor& x, const at::Tensor& z) {
    const at::NoGradGuard no_grad;
    // Products of half and bfloat16 would be rounded to them, so narrower types than double are widened first.
    return at::sum(at::mul(x.to(at::kDouble), z.to(at::kDouble))).item<double>();
  }
  template <class Beta, std::same_as<at::Tensor>... X>
  static void combine(at::Tensor& y, Beta beta, term<double, X>... t) {
    const at::NoGradGuard no_grad;
    if constexpr (std::same_as<Beta, overwrite>) {
      assign(y, t...);
    } else {
      if constexpr (!std::same_as<Beta, add_to>) y.mul_(beta);
      (y.add_(t.x, t.c), ...);
    }
  }
  static index_t rank(const at::Tensor& x) { return static_cast<index_t>(x.dim()); }
  static index_t extent(const at::Tensor& x, index_t k) { return static_cast<index_t>(x.size(k)); }

 private:
  template <class First, class... Rest>
  static void assign(at::Tensor& y, const First& first, const Rest&... rest) {
    y.copy_(first.x);  // not mul_(0): y may hold NaN
    if (first.c != 1) y.mul_(first.c);
    (y.add_(rest.x, rest.c), ...);
  }
};

}  // namespace sluice
