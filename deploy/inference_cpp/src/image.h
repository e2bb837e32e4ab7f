// Pictures: files, and the few operations of OpenCV that the pipeline uses, with OpenCV's own rounding.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

template <typename T>
struct Plane {
  int width = 0, height = 0, channels = 3;
  std::vector<T> data;
  Plane() = default;
  Plane(int w, int h, int c = 3, T value = T()) : width(w), height(h), channels(c), data(size_t(w) * h * c, value) {}
  T* at(int x, int y) { return &data[(size_t(y) * width + x) * channels]; }
  const T* at(int x, int y) const { return &data[(size_t(y) * width + x) * channels]; }
};
using Image = Plane<uint8_t>;   // BGR
using Field = Plane<float>;
using Matrix = std::array<double, 6>;  // two rows of three

Image read_image(const std::string& path);  // JPEG or PNG, upright; alpha is dropped
void write_image(const std::string& path, const Image& image);  // by the ending of the name

Matrix inverse(const Matrix& m);
Image resize_area(const Image& image, int width, int height);
Field resize_area(const Field& field, int width, int height);
Image resize_linear(const Image& image, int width, int height);
// dst(x, y) = src(inverse of `to_target` (x, y)); INTER_LINEAR, constant border.
Image warp_linear(const Image& image, const Matrix& to_target, int width, int height, const std::array<int, 3>& border);
// dst(x, y) = src(`to_source` (x, y)).
Field warp_linear_zero(const Field& field, const Matrix& to_source, int width, int height);
Field warp_cubic_replicate(const Field& field, const Matrix& to_source, int width, int height);
