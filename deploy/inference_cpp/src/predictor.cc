#include "predictor.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#ifdef PADDLE_WHEEL
#include "paddle_wheel.h"
#else
#include "paddle_inference_api.h"
#endif

namespace {

std::string trimmed(std::string text) {
  const char* blank = " \t\r\n'\"";
  const auto first = text.find_first_not_of(blank);
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(blank) - first + 1);
}

template <typename Number>
Number number(const std::string& path, const std::string& key, const std::string& value) {
  std::istringstream text(value);
  Number read{};
  if (!(text >> read) || !text.eof()) throw std::runtime_error(path + ": " + key + ": expected a number, got " + value);
  return read;
}

}  // namespace

// inference.yml is written by ppgan_fr.face.spec: one `key: value` per line at the top level, inputs as a list.
Spec read_spec(const std::string& folder) {
  const std::string path = folder + "/inference.yml";
  std::ifstream file(path);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  Spec spec;
  std::string line, section;
  while (std::getline(file, line)) {
    const auto colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::string value = trimmed(line.substr(colon + 1));
    if (line[0] == '-' || line[0] == ' ') {
      const std::string key = trimmed(line.substr(line[0] == '-' ? 1 : 0, colon - (line[0] == '-' ? 1 : 0)));
      if (section == "inputs" && key == "name") spec.inputs.push_back(value);
      if (section == "file_bytes") spec.file_bytes[key] = number<std::uintmax_t>(path, key, value);
      continue;
    }
    const std::string key = section = trimmed(line.substr(0, colon));
    if (key == "arch") spec.arch = value;
    if (key == "kind") spec.kind = value;
    if (key == "channel_order") spec.channel_order = value;
    if (key == "template") spec.template_name = value;
    if (key == "mask") spec.mask = value;
    if (key == "model_file") spec.model_file = value;
    if (key == "params_file") spec.params_file = value;
    if (key == "single_file" && value != "null") spec.single_file = value;
    if (key == "engine" && value != "null") spec.engine = value;
    if (key == "size" && value != "null") spec.size = number<int>(path, key, value);
    if (key == "mean") spec.mean = number<float>(path, key, value);
    if (key == "std") spec.std = number<float>(path, key, value);
  }
  if (spec.arch.empty() || spec.inputs.empty()) throw std::runtime_error(path + ": arch or inputs are missing");
  return spec;
}

struct Network::Inside {
  std::shared_ptr<paddle_infer::Predictor> predictor;
  std::vector<std::string> outputs;
  bool one_by_one = false;  // the program takes a single picture
};

Network::Network(const std::string& folder, const Options& options) : spec_(read_spec(folder)), inside_(new Inside) {
  std::string engine = options.engine.empty() ? spec_.engine : options.engine;
  if (engine.empty()) engine = "paddle";
  inside_->one_by_one = engine == "openvino" && !spec_.single_file.empty();
  std::string model = folder + "/" + (inside_->one_by_one ? spec_.single_file : spec_.model_file);
  std::filesystem::path parameters = folder + "/" + spec_.params_file;
  if (inside_->one_by_one) parameters = std::filesystem::path(model).replace_extension(".pdiparams");
  for (const auto& path : {std::filesystem::path(model), parameters}) {
    if (!std::filesystem::is_regular_file(path)) throw std::runtime_error(path.string() + ": no such file");
    const auto whole = spec_.file_bytes.find(path.filename().string());
    const auto size = std::filesystem::file_size(path);
    if (size == 0 || (whole != spec_.file_bytes.end() && whole->second != size))
      throw std::runtime_error(path.string() + ": damaged, " + std::to_string(size) + " bytes");
  }
  // Paddle ends the process over a file of zeros; a program begins with the tag of its first block.
  if (std::filesystem::path(model).extension() == ".pdmodel" && std::ifstream(model, std::ios::binary).get() != 0x0a)
    throw std::runtime_error(model + ": not a program of Paddle, or a damaged one");
  paddle_infer::Config config(model, parameters.string());
  config.DisableGlogInfo();
  config.DisableGpu();
  config.EnableMemoryOptim(true);
  config.SetCpuMathLibraryNumThreads(options.threads);
#ifdef PADDLE_WHEEL
  if (engine != "onednn") config.DisableONEDNN();
  if (engine == "onednn") config.EnableONEDNN();
#else
  if (engine != "onednn") config.DisableMKLDNN();
  if (engine == "onednn") config.EnableMKLDNN();
#endif
  if (engine == "onednn" && options.bf16) config.EnableMkldnnBfloat16();
  if (engine == "openvino") {
    // OpenVINO would write what it compiled, as much as the parameters, to a folder; nothing can be written to this one.
    if (std::filesystem::is_directory("/proc/self/task")) config.SetOptimCacheDir("/proc/self/task");
    config.EnableOpenVINOEngine(options.bf16 ? paddle_infer::PrecisionType::kBf16
                                             : paddle_infer::PrecisionType::kFloat32);
  }
  if (engine != "paddle" && engine != "onednn" && engine != "openvino")
    throw std::runtime_error("engine: must be one of openvino, onednn, paddle, got " + engine);
  if (engine == "paddle" && options.bf16) throw std::runtime_error("engine paddle has no bf16");
  try {
    inside_->predictor = paddle_infer::CreatePredictor(config);
  } catch (const std::exception& error) {
    const std::string told = error.what();
    throw std::runtime_error(folder + ": engine " + engine + " cannot load it (" + told.substr(0, told.find('\n')) + ")");
  }
  if (!inside_->predictor) throw std::runtime_error(folder + ": engine " + engine + " cannot load it");
  inside_->outputs = inside_->predictor->GetOutputNames();
}

Network::~Network() = default;

std::vector<Array> Network::run(const std::vector<Array>& inputs) {
  if (inputs.size() != spec_.inputs.size()) throw std::runtime_error(spec_.arch + ": wrong number of inputs");
  if (!inside_->one_by_one || inputs[0].shape[0] == 1) return run_together(inputs);
  std::vector<Array> answers;
  for (int i = 0; i < inputs[0].shape[0]; ++i) {
    std::vector<Array> one;
    for (const auto& input : inputs) {
      const size_t count = input.values.size() / static_cast<size_t>(input.shape[0]);
      const auto first = input.values.begin() + static_cast<std::ptrdiff_t>(count * static_cast<size_t>(i));
      one.push_back({input.shape, {first, first + static_cast<std::ptrdiff_t>(count)}});
      one.back().shape[0] = 1;
    }
    auto answer = run_together(one);
    if (i == 0) {
      answers = std::move(answer);
      continue;
    }
    for (size_t k = 0; k < answers.size(); ++k) {
      answers[k].values.insert(answers[k].values.end(), answer[k].values.begin(), answer[k].values.end());
      ++answers[k].shape[0];
    }
  }
  return answers;
}

std::vector<Array> Network::run_together(const std::vector<Array>& inputs) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    auto handle = inside_->predictor->GetInputHandle(spec_.inputs[i]);
    handle->Reshape(inputs[i].shape);
    handle->CopyFromCpu(inputs[i].values.data());
#ifdef PADDLE_WHEEL
    handle.release();
#endif
  }
  if (!inside_->predictor->Run()) throw std::runtime_error(spec_.arch + ": the engine failed");
  std::vector<Array> answers;
  for (const auto& name : inside_->outputs) {
    auto handle = inside_->predictor->GetOutputHandle(name);
    Array answer;
    answer.shape = handle->shape();
    size_t count = 1;
    for (int side : answer.shape) count *= static_cast<size_t>(side);
    answer.values.resize(count);
    handle->CopyToCpu(answer.values.data());
#ifdef PADDLE_WHEEL
    handle.release();
#endif
    answers.push_back(std::move(answer));
  }
  return answers;
}
