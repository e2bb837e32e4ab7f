// The part of Paddle's C++ inference interface that the library inside the Python package exports, declared by us for
// paddlepaddle 3.1.1: the package ships no header. CMake refuses any other version.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace paddle {

class AnalysisConfig {
 public:
  enum class Precision { kFloat32 = 0, kInt8, kHalf, kBf16 };
  AnalysisConfig(const std::string& model, const std::string& parameters);
  ~AnalysisConfig();
  void DisableGpu();
  void DisableGlogInfo();
  void DisableONEDNN();
  void EnableONEDNN();
  void EnableMkldnnBfloat16();
  void EnableMemoryOptim(bool on = true);
  void EnableOpenVINOEngine(Precision precision);
  void SetCpuMathLibraryNumThreads(int threads);
  void SetOptimCacheDir(const std::string& folder);

 private:
  // Room for the real object, which the library constructs here; it is about 4 kB.
  alignas(64) unsigned char room_[32768];
};

}  // namespace paddle

namespace paddle_infer {

using Config = ::paddle::AnalysisConfig;
using PrecisionType = Config::Precision;

// Only the library makes and lays out tensors and predictors; here they are reached by pointer alone. A tensor handle's
// destructor is not exported: callers release handles, about 100 bytes each, instead of deleting them.
class Tensor {
 public:
  Tensor() = delete;
  void Reshape(const std::vector<int>& shape);
  template <typename T>
  void CopyFromCpu(const T* data);
  template <typename T>
  void CopyToCpu(T* data) const;
  std::vector<int> shape() const;
};

extern template void Tensor::CopyFromCpu<float>(const float*);
extern template void Tensor::CopyToCpu<float>(float*) const;

class Predictor {
 public:
  Predictor() = delete;
  std::vector<std::string> GetInputNames();
  std::vector<std::string> GetOutputNames();
  std::unique_ptr<Tensor> GetInputHandle(const std::string& name);
  std::unique_ptr<Tensor> GetOutputHandle(const std::string& name);
  bool Run();
};

std::shared_ptr<Predictor> CreatePredictor(const Config& config);

}  // namespace paddle_infer
