#include "image.h"

#include <jpeglib.h>
#include <png.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <stdexcept>

namespace {

constexpr size_t kMaxPixels = 150000000;

struct Closer {
  void operator()(FILE* file) const { fclose(file); }
};
using File = std::unique_ptr<FILE, Closer>;

std::runtime_error wrong(const std::string& path, const std::string& what) { return std::runtime_error(path + ": " + what); }

struct JpegError {
  jpeg_error_mgr base;
  jmp_buf jump;
  char text[JMSG_LENGTH_MAX];
};

void on_jpeg_error(j_common_ptr info) {
  auto* error = reinterpret_cast<JpegError*>(info->err);
  info->err->format_message(info, error->text);
  longjmp(error->jump, 1);
}

void on_jpeg_warning(j_common_ptr info, int level) {
  if (level < 0) on_jpeg_error(info);  // corrupt data: half a photo is no photo
}

// Orientation of the EXIF block, 1 when there is none.
int orientation_of(const jpeg_saved_marker_ptr markers) {
  for (auto marker = markers; marker; marker = marker->next) {
    const JOCTET* d = marker->data;
    const size_t n = marker->data_length;
    if (marker->marker != JPEG_APP0 + 1 || n < 14 || std::memcmp(d, "Exif\0\0", 6) != 0) continue;
    const JOCTET* t = d + 6;
    const size_t size = n - 6;
    const bool little = t[0] == 'I';
    auto two = [&](size_t i) { return i + 2 > size ? 0u : little ? t[i] | t[i + 1] << 8u : t[i] << 8u | t[i + 1]; };
    auto four = [&](size_t i) { return little ? two(i) | two(i + 2) << 16u : two(i) << 16u | two(i + 2); };
    const size_t start = four(4);
    for (size_t i = 0, count = two(start); i < count && start + 2 + 12 * (i + 1) <= size; ++i) {
      const size_t entry = start + 2 + 12 * i;
      if (two(entry) == 0x0112 && two(entry + 8) >= 1 && two(entry + 8) <= 8) return int(two(entry + 8));
    }
  }
  return 1;
}

Image upright(const Image& image, int orientation) {
  if (orientation == 1) return image;
  const bool swap = orientation >= 5;
  Image out(swap ? image.height : image.width, swap ? image.width : image.height);
  for (int y = 0; y < out.height; ++y)
    for (int x = 0; x < out.width; ++x) {
      int u = swap ? y : x, v = swap ? x : y;
      if (orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8) u = image.width - 1 - u;
      if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7) v = image.height - 1 - v;
      std::memcpy(out.at(x, y), image.at(u, v), 3);
    }
  return out;
}

Image read_jpeg(const std::string& path, FILE* file) {
  jpeg_decompress_struct info;
  JpegError error;
  Image image;
  int orientation = 1;
  info.err = jpeg_std_error(&error.base);
  error.base.error_exit = on_jpeg_error;
  error.base.emit_message = on_jpeg_warning;
  jpeg_create_decompress(&info);
  if (setjmp(error.jump)) {
    jpeg_destroy_decompress(&info);
    throw wrong(path, std::string("damaged (") + error.text + ")");
  }
  jpeg_stdio_src(&info, file);
  jpeg_save_markers(&info, JPEG_APP0 + 1, 0xffff);
  jpeg_read_header(&info, TRUE);
  if (size_t(info.image_width) * info.image_height > kMaxPixels || info.num_components > 3) {
    const bool inks = info.num_components > 3;
    jpeg_destroy_decompress(&info);
    throw wrong(path, inks ? "a CMYK picture; convert it to RGB" : "too many pixels");
  }
  orientation = orientation_of(info.marker_list);
  info.out_color_space = JCS_RGB;
  jpeg_start_decompress(&info);
  image = Image(int(info.output_width), int(info.output_height));
  while (info.output_scanline < info.output_height) {
    JSAMPROW row = image.at(0, int(info.output_scanline));
    jpeg_read_scanlines(&info, &row, 1);
  }
  jpeg_finish_decompress(&info);
  jpeg_destroy_decompress(&info);
  for (size_t i = 0; i < image.data.size(); i += 3) std::swap(image.data[i], image.data[i + 2]);
  return upright(image, orientation);
}

Image read_png(const std::string& path) {
  png_image header;
  std::memset(&header, 0, sizeof header);
  header.version = PNG_IMAGE_VERSION;
  if (!png_image_begin_read_from_file(&header, path.c_str())) throw wrong(path, header.message);
  if (size_t(header.width) * header.height > kMaxPixels) {
    png_image_free(&header);
    throw wrong(path, "too many pixels");
  }
  header.format = header.format & PNG_FORMAT_FLAG_ALPHA ? PNG_FORMAT_BGRA : PNG_FORMAT_BGR;
  std::vector<uint8_t> buffer(PNG_IMAGE_SIZE(header));
  if (!png_image_finish_read(&header, nullptr, buffer.data(), 0, nullptr)) throw wrong(path, header.message);
  Image image(int(header.width), int(header.height));
  const int step = PNG_IMAGE_SAMPLE_CHANNELS(header.format);
  for (size_t i = 0, n = size_t(image.width) * image.height; i < n; ++i)
    std::memcpy(&image.data[3 * i], &buffer[size_t(step) * i], 3);
  return image;
}

}  // namespace

Image read_image(const std::string& path) {
  File file(fopen(path.c_str(), "rb"));
  if (!file) throw wrong(path, std::strerror(errno));
  unsigned char head[8] = {};
  const size_t got = fread(head, 1, sizeof head, file.get());
  rewind(file.get());
  if (got >= 2 && head[0] == 0xff && head[1] == 0xd8) return read_jpeg(path, file.get());
  if (got == 8 && !png_sig_cmp(head, 0, 8)) return read_png(path);
  throw wrong(path, "neither JPEG nor PNG");
}

void write_image(const std::string& path, const Image& image) {
  const std::string beside = path + "." + std::to_string(getpid()) + ".part";
  std::string ending = std::filesystem::path(path).extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(), [](unsigned char c) { return std::tolower(c); });
  if (ending == ".png") {
    png_image header;
    std::memset(&header, 0, sizeof header);
    header.version = PNG_IMAGE_VERSION;
    header.width = png_uint_32(image.width);
    header.height = png_uint_32(image.height);
    header.format = PNG_FORMAT_BGR;
    header.flags = PNG_IMAGE_FLAG_FAST;
    if (!png_image_write_to_file(&header, beside.c_str(), 0, image.data.data(), 0, nullptr)) {
      std::remove(beside.c_str());
      throw wrong(path, header.message);
    }
  } else {
    File file(fopen(beside.c_str(), "wb"));
    if (!file) throw wrong(path, std::strerror(errno));
    jpeg_compress_struct info;
    JpegError error;
    info.err = jpeg_std_error(&error.base);
    error.base.error_exit = on_jpeg_error;
    jpeg_create_compress(&info);
    std::vector<uint8_t> row(size_t(image.width) * 3);
    if (setjmp(error.jump)) {
      jpeg_destroy_compress(&info);
      std::remove(beside.c_str());
      throw wrong(path, std::string("cannot be written (") + error.text + ")");
    }
    jpeg_stdio_dest(&info, file.get());
    info.image_width = JDIMENSION(image.width);
    info.image_height = JDIMENSION(image.height);
    info.input_components = 3;
    info.in_color_space = JCS_RGB;
    jpeg_set_defaults(&info);
    jpeg_set_quality(&info, 95, TRUE);
    jpeg_start_compress(&info, TRUE);
    while (info.next_scanline < info.image_height) {
      const uint8_t* from = image.at(0, int(info.next_scanline));
      for (int x = 0; x < image.width; ++x)
        for (int c = 0; c < 3; ++c) row[size_t(3) * x + c] = from[3 * x + 2 - c];
      JSAMPROW pointer = row.data();
      jpeg_write_scanlines(&info, &pointer, 1);
    }
    jpeg_finish_compress(&info);
    jpeg_destroy_compress(&info);
    if (fflush(file.get()) != 0) {
      std::remove(beside.c_str());
      throw wrong(path, "cannot be written");
    }
  }
  std::filesystem::rename(beside, path);
}

Matrix inverse(const Matrix& m) {
  double d = m[0] * m[4] - m[1] * m[3];
  d = d != 0 ? 1 / d : 0;
  const double a = m[4] * d, b = -m[1] * d, c = -m[3] * d, e = m[0] * d;
  return {a, b, -a * m[2] - b * m[5], c, e, -c * m[2] - e * m[5]};
}

namespace {

// One axis of INTER_AREA when shrinking: which source cells an output cell covers, and how much of each.
struct Cover {
  int first;
  std::vector<float> weights;
};

std::vector<Cover> covers(int from, int to) {
  const double scale = double(from) / to;
  std::vector<Cover> all(to);
  for (int i = 0; i < to; ++i) {
    const double start = i * scale, end = start + scale;
    const double width = std::min(scale, from - start);
    int a = int(std::ceil(start)), b = int(std::floor(end));
    b = std::min(b, from - 1);
    a = std::min(a, b);
    Cover& cover = all[i];
    cover.first = a;
    if (a - start > 1e-3) {
      cover.first = a - 1;
      cover.weights.push_back(float((a - start) / width));
    }
    for (int k = a; k < b; ++k) cover.weights.push_back(float(1.0 / width));
    if (end - b > 1e-3) cover.weights.push_back(float(std::min(std::min(end - b, 1.0), width) / width));
  }
  return all;
}

template <typename T>
Field area(const Plane<T>& image, int width, int height) {
  const auto columns = covers(image.width, width), rows = covers(image.height, height);
  const int c = image.channels;
  Field out(width, height, c);
  std::vector<float> line(size_t(width) * c);
  for (int y = 0; y < height; ++y)
    for (size_t j = 0; j < rows[y].weights.size(); ++j) {
      std::fill(line.begin(), line.end(), 0.f);
      for (int x = 0; x < width; ++x)
        for (size_t i = 0; i < columns[x].weights.size(); ++i) {
          const T* from = image.at(columns[x].first + int(i), rows[y].first + int(j));
          for (int k = 0; k < c; ++k) line[size_t(x) * c + k] += from[k] * columns[x].weights[i];
        }
      float* to = out.at(0, y);
      for (size_t i = 0; i < line.size(); ++i) to[i] += rows[y].weights[j] * line[i];
    }
  return out;
}

uint8_t to_byte(float value) { return uint8_t(std::min(255.f, std::max(0.f, std::nearbyint(value)))); }

// Where each output pixel looks, in 32nds of a pixel, as OpenCV rounds it.
struct Place {
  int x, y;
  float fx, fy;
};

class Grid {
 public:
  Grid(const Matrix& m, int width) : m_(m), across_(width), down_(width) {
    for (int x = 0; x < width; ++x) {
      across_[x] = std::lrint(m[0] * x * 1024);
      down_[x] = std::lrint(m[3] * x * 1024);
    }
  }
  Place operator()(int x, int y) const {
    const long u = (std::lrint((m_[1] * y + m_[2]) * 1024) + 16 + across_[x]) >> 5;
    const long v = (std::lrint((m_[4] * y + m_[5]) * 1024) + 16 + down_[x]) >> 5;
    return {int(u >> 5), int(v >> 5), float(u & 31) / 32.f, float(v & 31) / 32.f};
  }

 private:
  Matrix m_;
  std::vector<long> across_, down_;
};

void cubic(float t, float* w) {
  const float a = -0.75f;
  w[0] = ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a;
  w[1] = ((a + 2) * t - (a + 3)) * t * t + 1;
  w[2] = ((a + 2) * (1 - t) - (a + 3)) * (1 - t) * (1 - t) + 1;
  w[3] = 1.f - w[0] - w[1] - w[2];
}

}  // namespace

Image resize_area(const Image& image, int width, int height) {
  const Field field = area(image, width, height);
  Image out(width, height, image.channels);
  std::transform(field.data.begin(), field.data.end(), out.data.begin(), to_byte);
  return out;
}

Field resize_area(const Field& field, int width, int height) { return area(field, width, height); }

Image resize_linear(const Image& image, int width, int height) {
  Image out(width, height, image.channels);
  const double sx = double(image.width) / width, sy = double(image.height) / height;
  for (int y = 0; y < height; ++y) {
    // At the upper and lower edge OpenCV blends a row with itself, which loses a fraction; at the sides it does not.
    const double v = (y + 0.5) * sy - 0.5;
    const int above = int(std::floor(v));
    const float fy = float(v - above);
    const int y0 = std::max(above, 0), y1 = std::min(above + 1, image.height - 1);
    for (int x = 0; x < width; ++x) {
      const double u = (x + 0.5) * sx - 0.5;
      int x0 = int(std::floor(u));
      float fx = float(u - x0);
      if (x0 < 0) x0 = 0, fx = 0;
      if (x0 >= image.width - 1) x0 = image.width - 1, fx = 0;
      const int x1 = std::min(x0 + 1, image.width - 1);
      // OpenCV's fixed point: eleven bits per weight, and its way of dropping the rest
      const int ax = int(std::nearbyint(fx * 2048)), ay = int(std::nearbyint(fy * 2048));
      for (int c = 0; c < image.channels; ++c) {
        const int top = image.at(x0, y0)[c] * (2048 - ax) + image.at(x1, y0)[c] * ax;
        const int bottom = image.at(x0, y1)[c] * (2048 - ax) + image.at(x1, y1)[c] * ax;
        out.at(x, y)[c] = uint8_t(((((2048 - ay) * (top >> 4)) >> 16) + ((ay * (bottom >> 4)) >> 16) + 2) >> 2);
      }
    }
  }
  return out;
}

Image warp_linear(const Image& image, const Matrix& to_target, int width, int height, const std::array<int, 3>& border) {
  const Grid grid(inverse(to_target), width);
  Image out(width, height);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      const Place p = grid(x, y);
      for (int c = 0; c < 3; ++c) {
        auto value = [&](int u, int v) {
          const bool inside = u >= 0 && v >= 0 && u < image.width && v < image.height;
          return inside ? float(image.at(u, v)[c]) : float(border[c]);
        };
        const float top = value(p.x, p.y) * (1 - p.fx) + value(p.x + 1, p.y) * p.fx;
        const float bottom = value(p.x, p.y + 1) * (1 - p.fx) + value(p.x + 1, p.y + 1) * p.fx;
        out.at(x, y)[c] = to_byte(std::floor(top * (1 - p.fy) + bottom * p.fy + 0.5f));
      }
    }
  return out;
}

Field warp_linear_zero(const Field& field, const Matrix& to_source, int width, int height) {
  const Grid grid(to_source, width);
  Field out(width, height, 1);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      const Place p = grid(x, y);
      auto value = [&](int u, int v) {
        return u >= 0 && v >= 0 && u < field.width && v < field.height ? *field.at(u, v) : 0.f;
      };
      const float top = value(p.x, p.y) * (1 - p.fx) + value(p.x + 1, p.y) * p.fx;
      const float bottom = value(p.x, p.y + 1) * (1 - p.fx) + value(p.x + 1, p.y + 1) * p.fx;
      *out.at(x, y) = top * (1 - p.fy) + bottom * p.fy;
    }
  return out;
}

Field warp_cubic_replicate(const Field& field, const Matrix& to_source, int width, int height) {
  const Grid grid(to_source, width);
  Field out(width, height);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      const Place p = grid(x, y);
      float wx[4], wy[4], sum[3] = {};
      cubic(p.fx, wx);
      cubic(p.fy, wy);
      for (int j = 0; j < 4; ++j)
        for (int i = 0; i < 4; ++i) {
          const int u = std::min(std::max(p.x + i - 1, 0), field.width - 1);
          const int v = std::min(std::max(p.y + j - 1, 0), field.height - 1);
          for (int c = 0; c < 3; ++c) sum[c] += field.at(u, v)[c] * wx[i] * wy[j];
        }
      std::copy(sum, sum + 3, out.at(x, y));
    }
  return out;
}
