#pragma once
#include <sluice/core/expects.hpp>
#include <sluice/core/tensor.hpp>

#include <Eigen/Core>
#include <cstdint>
#include <utility>

/// Unstable: for tests, benchmarks and examples; no compatibility is promised.
///
/// What a model call costs: counters, and a dial that makes a cheap model as expensive as wanted.
namespace sluice::models {

/// What was asked of a model. FLOPs and bytes by formula, not measured.
struct model_counts {
  std::int64_t calls = 0, rows = 0;
  double flops = 0, bytes = 0;
  friend bool operator==(const model_counts&, const model_counts&) = default;
};

/// What a language model was asked for.
struct language_model_counts {
  std::int64_t calls = 0;      ///< calls of score: what an expensive target would be charged for
  std::int64_t rows = 0;       ///< nodes scored: what a batched call would compute
  std::int64_t rows_read = 0;  ///< laws that were looked at, and therefore computed
};

/// Exactly c dense multiply-adds a call: products of a scratch matrix with a vector, rows x cols at a time, and a
/// shorter last one. The checksum of the results is an integer below 2^53 that is known beforehand, so a run can prove
/// that the work was done, and no compiler can leave it out. One object a thread; no allocation in run().
class cost_dial {
 public:
  /// Throws invalid_argument if multiply_adds is negative.
  explicit cost_dial(std::int64_t multiply_adds) : cost_(multiply_adds) {
    expects(multiply_adds >= 0, "cost_dial", "multiply_adds", multiply_adds);
    const Eigen::Index rows = side, cols = side;
    matrix_.resize(rows, cols);
    for (Eigen::Index i = 0; i < rows; ++i)
      for (Eigen::Index j = 0; j < cols; ++j) matrix_(i, j) = static_cast<double>((3 * i + 5 * j) % 7);
    vector_ = Eigen::VectorXd::Ones(cols);
    product_ = Eigen::VectorXd::Zero(rows);
  }
  std::int64_t multiply_adds() const { return cost_; }

  /// Does the work; returns the sum of all elements that were multiplied.
  double run() {
    double sum = 0;
    std::int64_t left = cost_;
    for (; left >= side * side; left -= side * side) {
      product_.noalias() = matrix_ * vector_;
      sum += product_.sum();
    }
    if (const std::int64_t rows = left / side; rows > 0) {
      product_.head(rows).noalias() = matrix_.topRows(rows) * vector_;
      sum += product_.head(rows).sum();
      left -= rows * side;
      return sum + tail(rows, left);
    }
    return sum + tail(0, left);
  }
  /// What run() must return, computed without the products.
  double checksum() const {
    const double whole = static_cast<double>(cost_ / (side * side)) * matrix_.sum();
    const std::int64_t left = cost_ % (side * side);
    return whole + matrix_.topRows(left / side).sum() + matrix_.row(left / side % side).head(left % side).sum();
  }

 private:
  static constexpr std::int64_t side = 64;  // 32 KB: stays in the first-level cache, so a call is bound by arithmetic
  double tail(std::int64_t row, std::int64_t n) const {
    return n > 0 ? matrix_.row(row).head(n).dot(vector_.head(n)) : 0.0;
  }

  std::int64_t cost_;
  Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> matrix_;
  Eigen::VectorXd vector_, product_;
};

/// A callable with a counter and a dial: each call runs the dial, then the model. `verified` stays true as long as
/// every checksum was right.
template <class F>
class instrumented {
 public:
  explicit instrumented(F model, std::int64_t multiply_adds = 0) : model_(std::move(model)), dial_(multiply_adds) {}
  template <class... A>
  decltype(auto) operator()(A&&... a) {
    ++counts_.calls;
    counts_.flops += 2 * static_cast<double>(dial_.multiply_adds());
    verified_ = dial_.run() == dial_.checksum() && verified_;
    return model_(std::forward<A>(a)...);
  }
  /// For the model to add rows, FLOPs and bytes of its own.
  model_counts& counts() { return counts_; }
  const model_counts& counts() const { return counts_; }
  bool verified() const { return verified_; }
  F& model() { return model_; }

 private:
  F model_;
  cost_dial dial_;
  model_counts counts_;
  bool verified_ = true;
};

}  // namespace sluice::models
