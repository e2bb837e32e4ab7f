// One exported network behind Paddle Inference.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

struct Array {
  std::vector<int> shape;
  std::vector<float> values;
};

// What the program needs of inference.yml.
struct Spec {
  std::string arch, kind = "restorer", channel_order = "RGB", template_name = "ffhq_512", mask = "face";
  std::string model_file = "inference.pdmodel", params_file = "inference.pdiparams", single_file, engine;
  int size = 512;
  float mean = 127.5f, std = 127.5f;
  std::vector<std::string> inputs;
  std::map<std::string, std::uintmax_t> file_bytes;  // size of each file, so that half a copy is noticed
};

struct Options {
  std::string engine;  // "openvino", "onednn", "paddle"; empty: the one of inference.yml
  bool bf16 = false;
  int threads = 1;
};

Spec read_spec(const std::string& folder);

class Network {
 public:
  Network(const std::string& folder, const Options& options);
  ~Network();
  // Inputs in the order of inference.yml; all outputs.
  std::vector<Array> run(const std::vector<Array>& inputs);
  const Spec& spec() const { return spec_; }

 private:
  std::vector<Array> run_together(const std::vector<Array>& inputs);
  struct Inside;
  Spec spec_;
  std::unique_ptr<Inside> inside_;
};
