#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

/// The few declarations of ONNX Runtime's C++ interface that docs/guides/engines.md and your-own-denoiser.md use, with
/// a tiny engine behind them, so that the snippets compile and run without ONNX Runtime. Names and meaning follow
/// onnxruntime_cxx_api.h; this is not that header and nothing here comes from it. The model has the inputs and outputs
/// of a decoder that was exported with its cache (one layer, two heads of two numbers), or of a denoiser.

enum OrtAllocatorType { OrtDeviceAllocator, OrtArenaAllocator };
enum OrtMemType { OrtMemTypeDefault };

namespace Ort {

struct MemoryInfo {
  static MemoryInfo CreateCpu(OrtAllocatorType, OrtMemType) { return {}; }
};
struct RunOptions {
  explicit RunOptions(std::nullptr_t) {}
};
struct TensorTypeAndShapeInfo {
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> GetShape() const { return shape; }
};

/// A tensor, its own or on the caller's memory; can be moved, not copied.
class Value {
 public:
  explicit Value(std::nullptr_t) {}
  Value(Value&&) = default;
  Value& operator=(Value&&) = default;
  template <class T>
  static Value CreateTensor(const MemoryInfo&, T* data, std::size_t n, const std::int64_t* shape, std::size_t rank) {
    Value v(nullptr);
    v.data_ = data;
    v.info_.shape.assign(shape, shape + rank);
    if (v.count() != n) throw std::invalid_argument("the shape does not have as many elements as the memory");
    return v;
  }
  static Value own(std::vector<std::int64_t> shape) {
    Value v(nullptr);
    v.info_.shape = std::move(shape);
    v.own_ = std::make_unique<float[]>(v.count() + 1);
    v.data_ = v.own_.get();
    return v;
  }
  template <class T>
  T* GetTensorMutableData() {
    return static_cast<T*>(data_);
  }
  template <class T>
  const T* GetTensorData() const {
    return static_cast<const T*>(data_);
  }
  TensorTypeAndShapeInfo GetTensorTypeAndShapeInfo() const { return info_; }

 private:
  std::size_t count() const {
    std::size_t n = 1;
    for (const std::int64_t d : info_.shape) n *= static_cast<std::size_t>(d);
    return n;
  }
  void* data_ = nullptr;
  std::unique_ptr<float[]> own_;
  TensorTypeAndShapeInfo info_;
};

/// input_ids [1, n], attention_mask [1, past + n], past_key_values.0.{key,value} [1, 2, past, 2];
/// logits [1, n, vocabulary], present.0.{key,value} [1, 2, past + n, 2]. If the first input is called sample:
/// sample [...], timestep [1]; out_sample [...].
class Session {
 public:
  explicit Session(float flavour) : flavour_(flavour) {}
  std::vector<Value> Run(const RunOptions&, const char* const* input_names, const Value* inputs, std::size_t n_inputs,
                         const char* const* output_names, std::size_t n_outputs) {
    const auto input = [&](const std::string& name) -> const Value& {
      for (std::size_t i = 0; i < n_inputs; ++i)
        if (name == input_names[i]) return inputs[i];
      throw std::invalid_argument("missing input " + name);
    };
    if (n_inputs > 0 && input_names[0] == std::string("sample")) return denoise(input("sample"), input("timestep"));
    const Value& ids = input("input_ids");
    const auto n = ids.GetTensorTypeAndShapeInfo().shape[1];
    const auto past = input("past_key_values.0.key").GetTensorTypeAndShapeInfo().shape[2], all = past + n;
    if (input("attention_mask").GetTensorTypeAndShapeInfo().shape[1] != all)
      throw std::invalid_argument("attention_mask is not as long as the past and the input");
    Value logits = Value::own({1, n, vocabulary}), key = Value::own({1, 2, all, 2}), value = Value::own({1, 2, all, 2});
    const auto at = [](std::int64_t head, std::int64_t t, std::int64_t length) { return (head * length + t) * 2; };
    for (Value* present : {&key, &value}) {
      const float* before =
          input(present == &key ? "past_key_values.0.key" : "past_key_values.0.value").GetTensorData<float>();
      float* after = present->GetTensorMutableData<float>();
      for (std::int64_t h = 0; h < 2; ++h) {
        if (past > 0)
          std::memcpy(after + at(h, 0, all), before + at(h, 0, past),
                      static_cast<std::size_t>(past) * 2 * sizeof(float));
        for (std::int64_t t = past; t < all; ++t)
          for (std::int64_t d = 0; d < 2; ++d)
            after[at(h, t, all) + d] =
                std::sin(static_cast<float>((ids.GetTensorData<std::int64_t>()[t - past] + 1) * (h + 2)) +
                         static_cast<float>(d + (present == &key ? 0 : 5)));
      }
    }
    float* row = logits.GetTensorMutableData<float>();
    for (std::int64_t t = past; t < all; ++t, row += vocabulary) {
      float seen[4] = {};  // of the whole context, older positions fading
      for (std::int64_t h = 0; h < 2; ++h)
        for (std::int64_t j = 0; j <= t; ++j)
          for (std::int64_t d = 0; d < 2; ++d)
            seen[2 * h + d] +=
                std::pow(0.9f, static_cast<float>(t - j)) *
                (key.GetTensorData<float>()[at(h, j, all) + d] + value.GetTensorData<float>()[at(h, j, all) + d]);
      for (std::int64_t x = 0; x < vocabulary; ++x) {
        row[x] = 0.2f * flavour_ * std::cos(static_cast<float>(7 * x));
        for (std::int64_t k = 0; k < 4; ++k)
          row[x] += 0.5f * seen[k] * std::sin(static_cast<float>((x + 1) * (k + 1)) * 1.3f);
      }
    }
    std::vector<Value> out;
    for (std::size_t i = 0; i < n_outputs; ++i) {
      const std::string name = output_names[i];
      out.push_back(std::move(name == "logits" ? logits : name == "present.0.key" ? key : value));
    }
    return out;
  }
  static constexpr std::int64_t vocabulary = 48;

 private:
  /// The noise that is most likely if the data are 0: a share of the state that falls with the time.
  std::vector<Value> denoise(const Value& sample, const Value& timestep) const {
    Value out = Value::own(sample.GetTensorTypeAndShapeInfo().shape);
    std::size_t n = 1;
    for (const std::int64_t d : sample.GetTensorTypeAndShapeInfo().shape) n *= static_cast<std::size_t>(d);
    for (std::size_t i = 0; i < n; ++i)
      out.GetTensorMutableData<float>()[i] =
          flavour_ * timestep.GetTensorData<float>()[0] / 1000 * sample.GetTensorData<float>()[i];
    std::vector<Value> all;
    all.push_back(std::move(out));
    return all;
  }
  float flavour_;
};

}  // namespace Ort
