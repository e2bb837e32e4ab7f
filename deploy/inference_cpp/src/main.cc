// Restores photos.
//
//   restore --model_dir=inference/gfpgan_mobile --image_dir=photos --save_dir=output/photos [--engine=openvino]
//     [--precision=fp32|bf16] [--cpu_threads=2] [--use_mkldnn=True|False] [--benchmark=True]
//
// Exit code 0: all done; 1: some pictures failed, each with its reason; 2: wrong usage or model.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "face.h"
#include "predictor.h"

namespace fs = std::filesystem;

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Times {
  double read = 0, detect = 0, align = 0, network = 0, paste = 0, write = 0;
  int photos = 0, faces = 0;
};

std::map<std::string, std::string> arguments(int argc, char** argv) {
  std::map<std::string, std::string> given = {{"save_dir", "output/inference_cpp"}, {"precision", "fp32"}};
  const std::vector<std::string> known = {"model_dir", "detector_dir", "image_dir", "save_dir", "engine", "precision",
                                          "cpu_threads", "use_mkldnn", "enable_mkldnn", "use_gpu", "benchmark", "fidelity"};
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    if (word.rfind("--", 0) == 0) word = word.substr(2);
    const auto equals = word.find('=');
    const std::string key = word.substr(0, equals);
    if (std::find(known.begin(), known.end(), key) == known.end()) throw std::invalid_argument("--" + key + ": unknown");
    if (equals != std::string::npos) given[key] = word.substr(equals + 1);
    else if (i + 1 < argc) given[key] = argv[++i];
    else throw std::invalid_argument("--" + key + ": the value is missing");
  }
  for (const char* key : {"model_dir", "image_dir"})
    if (!given.count(key)) throw std::invalid_argument(std::string("--") + key + " is missing");
  return given;
}

bool truth(const std::string& text) { return text == "True" || text == "true" || text == "1"; }

std::vector<fs::path> pictures(const fs::path& path) {
  if (fs::is_regular_file(path)) return {path};
  if (!fs::is_directory(path)) throw std::runtime_error(path.string() + ": no such file or folder");
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(path)) {
    std::string ending = entry.path().extension().string();
    std::transform(ending.begin(), ending.end(), ending.begin(), [](unsigned char c) { return std::tolower(c); });
    const bool known = ending == ".jpg" || ending == ".jpeg" || ending == ".png";
    if (known && entry.is_regular_file() && entry.path().filename().string()[0] != '.') found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  if (found.empty()) throw std::runtime_error(path.string() + ": no JPEG or PNG in this folder");
  return found;
}

Outputs values(std::vector<Array> arrays) {
  Outputs out;
  for (auto& array : arrays) out.push_back(std::move(array.values));
  return out;
}

// One crop through the restoring network; empty when the answer is not a number.
Image restored(Network& network, const Image& crop, float fidelity) {
  const Spec& spec = network.spec();
  const int size = spec.size;
  const bool swap = spec.channel_order == "RGB";
  Array input{{1, 3, size, size}, std::vector<float>(size_t(3) * size * size)};
  const size_t plane = size_t(size) * size;
  for (size_t i = 0; i < plane; ++i)
    for (int c = 0; c < 3; ++c)
      input.values[c * plane + i] = (crop.data[3 * i + (swap ? 2 - c : c)] - spec.mean) / spec.std;
  std::vector<Array> inputs = {std::move(input)};
  if (spec.inputs.size() == 2) inputs.push_back({{1, 1, 1, 1}, {fidelity}});
  const Array answer = network.run(inputs)[0];
  if (answer.values.size() != 3 * plane) throw std::runtime_error(spec.arch + ": the answer has another size");
  Image out(size, size);
  for (size_t i = 0; i < plane; ++i)
    for (int c = 0; c < 3; ++c) {
      const float value = answer.values[c * plane + i] * spec.std + spec.mean;
      if (!std::isfinite(value)) return {};
      out.data[3 * i + (swap ? 2 - c : c)] = uint8_t(std::nearbyint(std::min(255.f, std::max(0.f, value))));
    }
  return out;
}

constexpr const char* kUsage =
    "restore --model_dir=inference/gfpgan_mobile --image_dir=photos [--save_dir=output/inference_cpp]\n"
    "  [--detector_dir=DIR] [--engine=openvino|onednn|paddle] [--use_mkldnn=True|False] [--precision=fp32|bf16]\n"
    "  [--cpu_threads=N] [--fidelity=0..1] [--benchmark=True]\n";

constexpr float kSmallest = 20.f;  // faces below are left alone, as in ppgan_fr/face/pipeline.py

int run(const std::map<std::string, std::string>& given) {
  auto value = [&](const char* key) { return given.count(key) ? given.at(key) : std::string(); };
  if (truth(value("use_gpu"))) throw std::runtime_error("use_gpu: this program runs on the CPU");
  Options options;
  options.engine = value("engine");
  for (const char* key : {"use_mkldnn", "enable_mkldnn"})
    if (options.engine.empty() && given.count(key)) options.engine = truth(given.at(key)) ? "onednn" : "paddle";
  if (value("precision") != "fp32" && value("precision") != "bf16")
    throw std::runtime_error("precision: must be fp32 or bf16, got " + value("precision"));
  options.bf16 = value("precision") == "bf16";
  options.threads = given.count("cpu_threads") ? std::stoi(value("cpu_threads")) : int(std::thread::hardware_concurrency());
  const float fidelity = given.count("fidelity") ? std::stof(value("fidelity")) : 1.f;
  const fs::path model = value("model_dir"), save = fs::path(value("save_dir")) / "restored";
  const fs::path helpers = given.count("detector_dir") ? fs::path(value("detector_dir")) : model;

  const auto paths = pictures(value("image_dir"));
  double start = now();
  Network network(model.string(), options);
  const Spec& spec = network.spec();
  if (spec.kind != "restorer" || spec.template_name != "ffhq_512" || spec.mask == "sgpn" || spec.mask == "parsing")
    throw std::runtime_error(spec.arch + ": this program has the template ffhq_512 and the face mask only");
  if (spec.inputs.size() > 2 || (spec.inputs.size() == 2 && spec.inputs[1] != "fidelity"))
    throw std::runtime_error(spec.arch + ": the network wants inputs that this program does not have");
  Options plain{"", false, options.threads};
  Network boxes((helpers / "yunet").string(), plain), points((helpers / "onet").string(), plain);
  const double load = now() - start;
  const RunBoxes run_boxes = [&](const std::vector<float>& tensor, int h, int w) {
    return values(boxes.run({{{1, 3, h, w}, tensor}}));
  };
  const RunPoints run_points = [&](const std::vector<float>& tensor, int n) {
    return values(points.run({{{n, 3, 48, 48}, tensor}}));
  };
  fs::create_directories(save);

  Times times;
  int failed = 0;
  const double begin = now();
  for (const auto& path : paths) {
    try {
      auto lap = [&](double& sum) {
        sum += now() - start;
        start = now();
      };
      start = now();
      Image image = read_image(path.string());
      lap(times.read);
      const auto faces = detect(image, run_boxes, run_points);
      lap(times.detect);
      std::vector<Crop> crops;
      for (const auto& face : faces) {
        if (std::max(face.box[2], face.box[3]) < kSmallest) continue;
        try {
          crops.push_back(align(image, face.points, spec.size));
        } catch (const std::runtime_error&) {  // five points on one spot: no face that can be restored
        }
      }
      lap(times.align);
      for (const auto& crop : crops) {
        Image answer = restored(network, crop.image, fidelity);
        if (answer.data.empty()) throw std::runtime_error(path.string() + ": the network's answer is not a number");
        keep_tone(crop, answer);
        lap(times.network);
        paste(image, answer, crop.to_template, face_mask(crop.points, spec.size));
        lap(times.paste);
      }
      const fs::path target = save / path.filename();
      write_image(target.string(), image);
      lap(times.write);
      times.faces += int(crops.size());
      ++times.photos;
      std::printf("%s -> %s (%zu faces)\n", path.c_str(), target.c_str(), crops.size());
    } catch (const std::exception& error) {
      ++failed;
      std::fprintf(stderr, "%s\n", error.what());
    }
  }
  if (truth(value("benchmark"))) {
    const double n = std::max(1, times.photos);
    std::printf("photos: %d\nfaces: %d\nload_time(s): %.3f\n", times.photos, times.faces, load);
    std::printf("preprocess_time(ms): %.2f\n", 1000 * (times.read + times.detect + times.align) / n);
    std::printf("inference_time(ms): %.2f\n", 1000 * times.network / n);
    std::printf("postprocess_time(ms): %.2f\n", 1000 * (times.paste + times.write) / n);
    std::printf("total time spent(s): %.3f\n", now() - begin);
  }
  return failed ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  setenv("GLOG_minloglevel", "2", 0);
  if (argc == 2 && (std::string(argv[1]) == "--help" || std::string(argv[1]) == "-h")) {
    std::fputs(kUsage, stdout);
    return 0;
  }
  try {
    return run(arguments(argc, argv));
  } catch (const std::exception& error) {
    std::string text = error.what();
    std::fprintf(stderr, "restore: %s\n", text.substr(0, text.find('\n')).c_str());
    return 2;
  }
}
