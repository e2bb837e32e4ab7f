#include "face.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <stdexcept>

namespace {

constexpr std::array<int, 3> kBorder = {135, 133, 132};
constexpr float kScore = 0.6f, kFarScore = 0.7f, kOverlap = 0.3f, kDoubtful = 0.8f;
constexpr int kSizes[] = {640, 1920};
constexpr int kSide = 48;
constexpr double kToned = 2.5;  // ppgan_fr.face.pipeline.TONED

double dot(const std::array<double, 2>& a, const std::array<double, 2>& b) { return a[0] * b[0] + a[1] * b[1]; }
std::array<double, 2> minus(const std::array<double, 2>& a, const std::array<double, 2>& b) {
  return {a[0] - b[0], a[1] - b[1]};
}
std::array<double, 2> middle(const std::array<double, 2>& a, const std::array<double, 2>& b) {
  return {(a[0] + b[0]) / 2, (a[1] + b[1]) / 2};
}
std::array<double, 2> moved_by(const Matrix& m, const std::array<double, 2>& p) {
  return {m[0] * p[0] + m[1] * p[1] + m[2], m[3] * p[0] + m[4] * p[1] + m[5]};
}

// Python's round: halves to even.
int rounded(double value) { return int(std::nearbyint(value)); }

// Least squares over some of the five pairs.
Matrix fit(const Points& from, const Points& to, const std::vector<int>& some) {
  std::array<double, 2> a{}, b{};
  for (int i : some)
    for (int k = 0; k < 2; ++k) a[k] += from[i][k] / some.size(), b[k] += to[i][k] / some.size();
  double spread = 0, p = 0, q = 0;
  for (int i : some) {
    const auto u = minus(from[i], a), v = minus(to[i], b);
    spread += dot(u, u);
    p += dot(u, v);
    q += u[0] * v[1] - u[1] * v[0];
  }
  p /= spread;
  q /= spread;
  return {p, -q, b[0] - p * a[0] + q * a[1], q, p, b[1] - q * a[0] - p * a[1]};
}

std::array<float, 5> errors(const Matrix& m, const Points& from, const Points& to) {
  std::array<float, 5> all;
  for (int i = 0; i < 5; ++i) {
    const auto d = minus(moved_by(m, from[i]), to[i]);
    all[i] = float(dot(d, d));
  }
  return all;
}

// OpenCV's random numbers (multiply with carry), as its robust estimators start them.
struct Draw {
  uint64_t state = ~uint64_t(0);
  int operator()(int n) {
    state = uint64_t(uint32_t(state)) * 4164903690U + (state >> 32);
    return int(uint32_t(state) % uint32_t(n));
  }
};

double overlap_of(const std::array<float, 4>& a, const std::array<float, 4>& b) {
  const double w = std::min(a[0] + a[2], b[0] + b[2]) - std::max(a[0], b[0]);
  const double h = std::min(a[1] + a[3], b[1] + b[3]) - std::max(a[1], b[1]);
  const double shared = std::max(w, 0.0) * std::max(h, 0.0);
  return shared / std::max(double(a[2]) * a[3] + double(b[2]) * b[3] - shared, 1e-9);
}

std::vector<Face> find_boxes(const Image& image, const RunBoxes& run, int size, float score) {
  const double scale = std::min(1.0, double(size) / std::max(image.width, image.height));
  const int w = std::max(1, rounded(image.width * scale)), h = std::max(1, rounded(image.height * scale));
  const Image small = scale < 1 ? resize_area(image, w, h) : image;
  const int width = (w + 31) / 32 * 32, height = (h + 31) / 32 * 32;
  std::vector<float> tensor(size_t(3) * width * height, 0.f);
  for (int c = 0; c < 3; ++c)
    for (int y = 0; y < h; ++y)
      for (int x = 0; x < w; ++x) tensor[(size_t(c) * height + y) * width + x] = small.at(x, y)[c];
  const auto candidates = decode(run(tensor, height, width), height, width);
  const float fx = float(double(image.width) / w), fy = float(double(image.height) / h);
  std::vector<Face> faces;
  for (int i : suppress(candidates, score, kOverlap)) {
    const Candidate& one = candidates[i];
    Face face{{one.box[0] * fx, one.box[1] * fy, one.box[2] * fx, one.box[3] * fy}, {}, one.score};
    for (int k = 0; k < 5; ++k)
      face.points[k] = {(one.points[2 * k] + 0.5f) * fx - 0.5f, (one.points[2 * k + 1] + 0.5f) * fy - 0.5f};
    faces.push_back(face);
  }
  return faces;
}

bool is_new(const Face& face, const std::vector<Face>& known) {
  const double x = face.box[0] + face.box[2] / 2, y = face.box[1] + face.box[3] / 2;
  for (const Face& other : known) {
    if (overlap_of(face.box, other.box) > kOverlap) return false;
    const auto& b = other.box;
    if (x >= b[0] && y >= b[1] && x <= b[0] + b[2] && y <= b[1] + b[3]) return false;
  }
  return true;
}

std::vector<Face> refine(const Image& image, const std::vector<Face>& faces, const RunPoints& run) {
  std::vector<Face> refined;
  for (const Face& face : faces) {
    const float longest = std::max(face.box[2], face.box[3]);
    const int left = int(std::floor(face.box[0] + face.box[2] / 2 - longest / 2));
    const int top = int(std::floor(face.box[1] + face.box[3] / 2 - longest / 2));
    const int side = int(std::ceil(longest)) + 1;
    Image square(side, side);
    for (int y = std::max(0, -top); y < side && top + y < image.height; ++y)
      for (int x = std::max(0, -left); x < side && left + x < image.width; ++x)
        std::memcpy(square.at(x, y), image.at(left + x, top + y), 3);
    const Image crop = side == kSide ? square
                       : side > kSide ? resize_area(square, kSide, kSide)
                                      : resize_linear(square, kSide, kSide);
    const size_t plane = size_t(kSide) * kSide;
    std::vector<float> tensor(6 * plane);
    for (int c = 0; c < 3; ++c)
      for (int y = 0; y < kSide; ++y)
        for (int x = 0; x < kSide; ++x) {
          const float value = (float(crop.at(x, y)[2 - c]) - 127.5f) / 128.f;
          tensor[c * plane + size_t(y) * kSide + x] = value;
          tensor[(3 + c) * plane + size_t(y) * kSide + (kSide - 1 - x)] = value;
        }
    const Outputs out = run(tensor, 2);
    const float sure = (out[2][1] + out[2][3]) / 2;
    if (face.score < kDoubtful && sure < 0.5f) continue;
    constexpr int mirrored[] = {1, 0, 2, 4, 3};
    Points relative;
    bool plausible = true;
    for (int k = 0; k < 5; ++k) {
      relative[k] = {(out[0][k] + (1 - out[0][10 + mirrored[k]])) / 2, (out[0][5 + k] + out[0][15 + mirrored[k]]) / 2};
      for (double value : relative[k]) plausible = plausible && value > -0.3 && value < 1.3;
    }
    const auto eyes = minus(relative[1], relative[0]);
    plausible = plausible && std::hypot(eyes[0], eyes[1]) > 0.04;
    Face better = face;
    if (plausible)
      for (int k = 0; k < 5; ++k)
        better.points[k] = {float(left + relative[k][0] * side - 0.5), float(top + relative[k][1] * side - 0.5)};
    refined.push_back(better);
  }
  return refined;
}

}  // namespace

Points ffhq_template(int size) {
  Points points = {{{192.98138, 239.94708}, {318.90277, 240.1936}, {256.63416, 314.01935}, {201.26117, 371.41043}, {313.08905, 371.15118}}};
  if (size != 512)
    for (auto& p : points)
      for (auto& value : p) value = (value + 0.5) * (size / 512.0) - 0.5;
  return points;
}

Matrix similarity(const Points& source, const Points& target) {
  Draw draw;
  Matrix best{};
  float smallest = -1;
  const int trials = std::max(3, rounded(std::log(1 - 0.99) / std::log(1 - 0.55 * 0.55)));
  for (int trial = 0; trial < trials; ++trial) {
    const int i = draw(5);
    int j = draw(5);
    while (j == i) j = draw(5);
    const Matrix m = fit(source, target, {i, j});
    auto all = errors(m, source, target);
    std::sort(all.begin(), all.end());
    if (std::isfinite(all[2]) && (smallest < 0 || all[2] < smallest)) smallest = all[2], best = m;
  }
  if (smallest < 0) throw std::runtime_error("the landmarks are degenerate");
  const double sigma = std::max(0.001, 2.5 * 1.4826 * (1 + 5. / 3) * std::sqrt(double(smallest)));
  const auto all = errors(best, source, target);
  std::vector<int> inside;
  for (int i = 0; i < 5; ++i)
    if (all[i] <= float(sigma * sigma)) inside.push_back(i);
  if (inside.size() >= 2) best = fit(source, target, inside);
  if (!(std::fabs(best[0] * best[4] - best[1] * best[3]) >= 1e-12)) throw std::runtime_error("the landmarks are degenerate");
  return best;
}

std::vector<Candidate> decode(const Outputs& outputs, int height, int width) {
  std::vector<Candidate> all;
  const int strides[] = {8, 16, 32};
  for (int level = 0; level < 3; ++level) {
    const int stride = strides[level], rows = height / stride, columns = width / stride;
    for (int i = 0; i < rows * columns; ++i) {
      const float x = float(i % columns), y = float(i / columns);
      const auto unit = [](float v) { return std::min(1.f, std::max(0.f, v)); };
      Candidate one;
      one.score = std::sqrt(unit(outputs[level][i]) * unit(outputs[level + 3][i]));
      const float* box = &outputs[level + 6][size_t(4) * i];
      const float* points = &outputs[level + 9][size_t(10) * i];
      const float w = std::exp(std::min(box[2], 10.f)) * stride, h = std::exp(std::min(box[3], 10.f)) * stride;
      one.box = {(x + box[0]) * stride - w / 2, (y + box[1]) * stride - h / 2, w, h};
      for (int k = 0; k < 10; ++k) one.points[k] = (points[k] + (k % 2 ? y : x)) * stride;
      all.push_back(one);
    }
  }
  return all;
}

std::vector<int> suppress(const std::vector<Candidate>& all, float score, float overlap) {
  std::vector<int> order, kept;
  for (size_t i = 0; i < all.size(); ++i)
    if (all[i].score >= score) order.push_back(int(i));
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return all[a].score > all[b].score; });
  for (int i : order) {
    const bool fresh = std::none_of(kept.begin(), kept.end(),
                                    [&](int k) { return overlap_of(all[i].box, all[k].box) > overlap; });
    if (fresh) kept.push_back(i);
  }
  return kept;
}

std::vector<Face> detect(const Image& image, const RunBoxes& boxes, const RunPoints& points) {
  std::vector<Face> faces;
  const int longest = std::max(image.width, image.height);
  int seen = 0;
  for (int wanted : kSizes) {
    const int size = std::min(wanted, longest);
    if (size < 1.25 * seen) break;
    auto found = find_boxes(image, boxes, size, seen ? std::max(kScore, kFarScore) : kScore);
    if (seen) {
      const auto known = faces;
      found.erase(std::remove_if(found.begin(), found.end(), [&](const Face& f) { return !is_new(f, known); }), found.end());
    }
    faces.insert(faces.end(), found.begin(), found.end());
    seen = size;
  }
  faces = refine(image, faces, points);
  std::stable_sort(faces.begin(), faces.end(),
                   [](const Face& a, const Face& b) { return a.box[2] * a.box[3] > b.box[2] * b.box[3]; });
  return faces;
}

Crop align(const Image& image, const Points& landmarks, int size) {
  Crop crop;
  crop.to_template = similarity(landmarks, ffhq_template(size));
  for (int i = 0; i < 5; ++i) {
    const auto moved = moved_by(crop.to_template, landmarks[i]);
    crop.points[i] = {float(moved[0]), float(moved[1])};
  }
  const Matrix& m = crop.to_template;
  const double scale = std::sqrt(std::fabs(m[0] * m[4] - m[1] * m[3]));
  const Matrix back = inverse(m);
  double low[2] = {1e30, 1e30}, high[2] = {-1e30, -1e30};
  for (double x : {-1., double(size)})
    for (double y : {-1., double(size)}) {
      const auto p = moved_by(back, {x, y});
      for (int k = 0; k < 2; ++k) low[k] = std::min(low[k], p[k]), high[k] = std::max(high[k], p[k]);
    }
  auto clipped = [](double v, int most) { return int(std::min(double(most), std::max(0.0, v))); };
  const int x0 = clipped(std::floor(low[0]) - 2, image.width), x1 = clipped(std::ceil(high[0]) + 3, image.width);
  const int y0 = clipped(std::floor(low[1]) - 2, image.height), y1 = clipped(std::ceil(high[1]) + 3, image.height);
  if (x1 <= x0 || y1 <= y0) {
    crop.image = Image(size, size);
    for (size_t i = 0; i < crop.image.data.size(); ++i) crop.image.data[i] = uint8_t(kBorder[i % 3]);
    return crop;
  }
  if (scale > 0.5) {
    crop.image = warp_linear(image, m, size, size, kBorder);
    return crop;
  }
  Image part(x1 - x0, y1 - y0);
  for (int y = y0; y < y1; ++y) std::memcpy(part.at(0, y - y0), image.at(x0, y), size_t(3) * part.width);
  Matrix to = m;
  to[2] += to[0] * x0 + to[1] * y0;
  to[5] += to[3] * x0 + to[4] * y0;
  const int w = std::max(1, rounded(part.width * scale)), h = std::max(1, rounded(part.height * scale));
  const double fx = double(part.width) / w, fy = double(part.height) / h;
  part = resize_area(part, w, h);
  to[2] += to[0] * (fx - 1) / 2 + to[1] * (fy - 1) / 2;
  to[5] += to[3] * (fx - 1) / 2 + to[4] * (fy - 1) / 2;
  to[0] *= fx, to[3] *= fx, to[1] *= fy, to[4] *= fy;
  crop.image = warp_linear(part, to, size, size, kBorder);
  return crop;
}

Field face_mask(const Points& p, int size) {
  const auto eyes = middle(p[0], p[1]), mouth = middle(p[3], p[4]);
  auto down = minus(mouth, eyes);
  const double length = std::hypot(down[0], down[1]);
  if (!(length > 1)) throw std::runtime_error("the landmarks are degenerate");
  down = {down[0] / length, down[1] / length};
  const std::array<double, 2> across = {down[1], -down[0]};
  const auto between = minus(p[1], p[0]);
  const double eye_distance = std::hypot(between[0], between[1]), unit = std::max(length, 0.75 * eye_distance);
  const auto middle_face = middle(eyes, mouth);
  const double turn = std::min(0.35, std::max(-0.35, dot(minus(p[2], middle_face), across) / unit));
  const double cx = middle_face[0] - 0.13 * unit * down[0] - 0.35 * turn * unit * across[0];
  const double cy = middle_face[1] - 0.13 * unit * down[1] - 0.35 * turn * unit * across[1];
  const double wide = 1.24 * std::max(std::min(eye_distance * 1.04, 1.2 * unit), 0.8 * unit), tall = 1.52 * unit;
  Field mask(size, size, 1);
  for (int y = 0; y < size; ++y)
    for (int x = 0; x < size; ++x) {
      const double u = x - cx, v = y - cy;
      const double distance =
          std::hypot((u * across[0] + v * across[1]) / wide, (u * down[0] + v * down[1]) / tall);
      const double edge = std::min(std::min(x, size - 1 - x), std::min(y, size - 1 - y)) / (0.06 * size);
      double inside = std::min(1.0, std::max(0.0, (1 - distance) / 0.24));
      inside = std::min(inside, std::min(1.0, std::max(0.0, edge)));
      *mask.at(x, y) = float(inside * inside * (3 - 2 * inside));
    }
  return mask;
}

void paste(Image& image, const Image& restored, const Matrix& to_template, const Field& mask) {
  int left = mask.width, right = -1, top = mask.height, bottom = -1;
  for (int y = 0; y < mask.height; ++y)
    for (int x = 0; x < mask.width; ++x)
      if (*mask.at(x, y) != 0) {
        left = std::min(left, x), right = std::max(right, x);
        top = std::min(top, y), bottom = std::max(bottom, y);
      }
  if (right < 0) return;
  const Matrix back = inverse(to_template);
  double low[2] = {1e30, 1e30}, high[2] = {-1e30, -1e30};
  for (double x : {left - 1., right + 1.})
    for (double y : {top - 1., bottom + 1.}) {
      const auto p = moved_by(back, {x, y});
      for (int k = 0; k < 2; ++k) low[k] = std::min(low[k], p[k]), high[k] = std::max(high[k], p[k]);
    }
  auto clipped = [](double v, int most) { return int(std::min(double(most), std::max(0.0, v))); };
  const int x0 = clipped(std::floor(low[0]) - 1, image.width), x1 = clipped(std::ceil(high[0]) + 2, image.width);
  const int y0 = clipped(std::floor(low[1]) - 1, image.height), y1 = clipped(std::ceil(high[1]) + 2, image.height);
  if (x1 <= x0 || y1 <= y0) return;
  Matrix m = to_template;
  m[2] += m[0] * x0 + m[1] * y0;
  m[5] += m[3] * x0 + m[4] * y0;
  Field crop(restored.width, restored.height), soft = mask;
  std::copy(restored.data.begin(), restored.data.end(), crop.data.begin());
  const double per_pixel = std::sqrt(std::fabs(m[0] * m[4] - m[1] * m[3]));
  if (per_pixel > 1) {
    const int smaller = std::max(8, rounded(mask.width / per_pixel));
    crop = resize_area(crop, smaller, smaller);
    soft = resize_area(soft, smaller, smaller);
    const double factor = double(smaller) / mask.width;
    for (double& value : m) value *= factor;
    m[2] += (factor - 1) / 2;
    m[5] += (factor - 1) / 2;
  }
  const Field face = warp_cubic_replicate(crop, m, x1 - x0, y1 - y0);
  const Field weight = warp_linear_zero(soft, m, x1 - x0, y1 - y0);
  for (int y = y0; y < y1; ++y)
    for (int x = x0; x < x1; ++x) {
      const float w = *weight.at(x - x0, y - y0);
      if (w < 1.f / 512) continue;
      for (int c = 0; c < 3; ++c) {
        const float before = image.at(x, y)[c];
        const float value = (face.at(x - x0, y - y0)[c] - before) * w + before;
        image.at(x, y)[c] = uint8_t(std::min(255.f, std::max(0.f, std::nearbyint(value))));
      }
    }
}

namespace {

bool is_gray(const Image& image) {
  double sum = 0;
  const size_t n = size_t(image.width) * image.height;
  for (size_t i = 0; i < n; ++i) {
    const uint8_t* p = &image.data[3 * i];
    sum += std::max({p[0], p[1], p[2]}) - std::min({p[0], p[1], p[2]});
  }
  return sum / n <= 1.0;
}

int limited(int value) { return std::min(255, std::max(0, value)); }

// OpenCV's fixed-point colours: luminance, Cr, Cb.
std::array<int, 3> to_tones(const uint8_t* bgr) {
  constexpr int half = 1 << 13, centre = (128 << 14) + half;
  const int y = (bgr[0] * 1868 + bgr[1] * 9617 + bgr[2] * 4899 + half) >> 14;
  return {y, limited(((bgr[2] - y) * 11682 + centre) >> 14), limited(((bgr[0] - y) * 9241 + centre) >> 14)};
}

// Offset, slope and curve of Cr and Cb over luminance, when the face follows them closely.
bool toning(const Crop& crop, double tone[2][3]) {
  const Field mask = face_mask(crop.points, crop.image.width);
  double a[3][5] = {};  // normal equations, two right-hand sides
  std::vector<std::array<int, 3>> inside;
  for (size_t i = 0; i < mask.data.size(); ++i)
    if (mask.data[i] > 0.5f) inside.push_back(to_tones(&crop.image.data[3 * i]));
  if (inside.size() < 64) return false;
  for (const auto& one : inside) {
    const double level = one[0] / 255.0, powers[3] = {1, level, level * level};
    for (int r = 0; r < 3; ++r) {
      for (int c = 0; c < 3; ++c) a[r][c] += powers[r] * powers[c];
      for (int k = 0; k < 2; ++k) a[r][3 + k] += powers[r] * one[1 + k];
    }
  }
  for (int r = 0; r < 3; ++r) {
    int pivot = r;
    for (int i = r; i < 3; ++i)
      if (std::fabs(a[i][r]) > std::fabs(a[pivot][r])) pivot = i;
    std::swap(a[r], a[pivot]);
    if (std::fabs(a[r][r]) < 1e-9) return false;
    for (int i = 0; i < 3; ++i) {
      if (i == r) continue;
      const double f = a[i][r] / a[r][r];
      for (int c = r; c < 5; ++c) a[i][c] -= f * a[r][c];
    }
  }
  double strays = 0;
  for (int k = 0; k < 2; ++k)
    for (int r = 0; r < 3; ++r) tone[k][r] = a[r][3 + k] / a[r][r];
  for (const auto& one : inside) {
    const double level = one[0] / 255.0;
    for (int k = 0; k < 2; ++k) {
      const double off = one[1 + k] - (tone[k][0] + tone[k][1] * level + tone[k][2] * level * level);
      strays += off * off;
    }
  }
  return std::sqrt(strays / double(inside.size())) <= kToned;
}

}  // namespace

void keep_tone(const Crop& crop, Image& restored) {
  if (is_gray(crop.image)) {
    for (size_t i = 0; i < restored.data.size(); i += 3) {
      uint8_t* p = &restored.data[i];
      p[0] = p[1] = p[2] = uint8_t((p[0] * 3735 + p[1] * 19235 + p[2] * 9798 + (1 << 14)) >> 15);
    }
    return;
  }
  double tone[2][3];
  if (!toning(crop, tone)) return;
  for (size_t i = 0; i < restored.data.size(); i += 3) {
    uint8_t* p = &restored.data[i];
    const int y = to_tones(p)[0];
    const double level = y / 255.0;
    int tint[2];
    for (int k = 0; k < 2; ++k) tint[k] = limited(rounded(tone[k][0] + tone[k][1] * level + tone[k][2] * level * level)) - 128;
    constexpr int half = 1 << 13;
    p[0] = uint8_t(limited(y + ((tint[1] * 29049 + half) >> 14)));
    p[1] = uint8_t(limited(y + ((tint[1] * -5636 + tint[0] * -11698 + half) >> 14)));
    p[2] = uint8_t(limited(y + ((tint[0] * 22987 + half) >> 14)));
  }
}
