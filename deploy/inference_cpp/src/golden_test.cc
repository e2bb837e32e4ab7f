// Runs the geometry on the numbers of a text file and prints its own answers, for a test to compare with Python's.
//
//   golden_test FILE       each line: a name, then numbers
//     similarity 10 numbers              -> 6 numbers
//     mask SIZE 10 numbers               -> row means, then column means
//     warp W H SEED 10 numbers           -> all bytes of a 64-pixel crop of a made-up picture
//     paste W H SEED 10 numbers          -> all bytes of the picture with the crop pasted back, brightened
//     enlarge W H SEED                   -> all bytes of a made-up picture at 48 x 48
//     suppress N score overlap 5 N       -> indices
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>

#include "face.h"

namespace {

Image made_up(int width, int height, uint32_t seed) {  // smooth enough to be a photo, made without libraries
  Image image(width, height);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int c = 0; c < 3; ++c) {
        const uint32_t hash = (uint32_t(x / 4) * 73856093u) ^ (uint32_t(y / 4) * 19349663u) ^ (uint32_t(c) * 83492791u) ^ seed;
        image.at(x, y)[c] = uint8_t((hash * 2654435761u) >> 24);
      }
  return image;
}

Points points_of(std::istream& line) {
  Points points;
  for (auto& p : points) line >> p[0] >> p[1];
  return points;
}

template <typename Values>
void print(const Values& values) {
  for (const auto& value : values) std::printf("%.9g ", double(value));
  std::printf("\n");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  std::ifstream file(argv[1]);
  std::string text;
  while (std::getline(file, text)) {
    std::istringstream line(text);
    std::string name;
    line >> name;
    if (name == "similarity") {
      print(similarity(points_of(line), ffhq_template(512)));
    } else if (name == "mask") {
      int size;
      line >> size;
      const Field mask = face_mask(points_of(line), size);
      print(mask.data);
    } else if (name == "warp" || name == "paste") {
      int width, height;
      uint32_t seed;
      line >> width >> height >> seed;
      Image image = made_up(width, height, seed);
      const Crop crop = align(image, points_of(line), 64);
      if (name == "warp") {
        print(crop.image.data);
        continue;
      }
      Image bright = crop.image;
      for (auto& value : bright.data) value = uint8_t(128 + value / 2);
      paste(image, bright, crop.to_template, face_mask(crop.points, 64));
      print(image.data);
    } else if (name == "enlarge") {
      int width, height;
      uint32_t seed;
      line >> width >> height >> seed;
      print(resize_linear(made_up(width, height, seed), 48, 48).data);
    } else if (name == "suppress") {
      int count;
      float score, overlap;
      line >> count >> score >> overlap;
      std::vector<Candidate> all(count);
      for (auto& one : all) {
        for (auto& value : one.box) line >> value;
        line >> one.score;
      }
      print(suppress(all, score, overlap));
    } else {
      return 2;
    }
  }
  return 0;
}
