// The face pipeline of ppgan_fr/face, function by function: detect, align, mask, paste.
#pragma once

#include <array>
#include <functional>
#include <vector>

#include "image.h"

using Points = std::array<std::array<double, 2>, 5>;

struct Face {
  std::array<float, 4> box;  // x, y, width, height
  Points points;             // left eye as seen, right eye, nose, mouth corners
  float score;
};

struct Candidate {
  std::array<float, 4> box;
  std::array<float, 10> points;
  float score;
};

struct Crop {
  Image image;
  Points points;
  Matrix to_template;
};

// Values of one network call: several flat outputs.
using Outputs = std::vector<std::vector<float>>;
// (3, h, w) BGR in [0, 255] -> YuNet's twelve outputs.
using RunBoxes = std::function<Outputs(const std::vector<float>&, int height, int width)>;
// (n, 3, 48, 48) -> ONet's three outputs.
using RunPoints = std::function<Outputs(const std::vector<float>&, int count)>;

Points ffhq_template(int size);
Matrix similarity(const Points& source, const Points& target);  // least median of squares, OpenCV's draw of pairs
std::vector<Candidate> decode(const Outputs& outputs, int height, int width);
std::vector<int> suppress(const std::vector<Candidate>& all, float score, float overlap);
std::vector<Face> detect(const Image& image, const RunBoxes& boxes, const RunPoints& points);
Crop align(const Image& image, const Points& landmarks, int size);
Field face_mask(const Points& landmarks, int size);
void paste(Image& image, const Image& restored, const Matrix& to_template, const Field& mask);
// Keeps a black-and-white picture black and white, and a toned print its tint.
void keep_tone(const Crop& crop, Image& restored);
