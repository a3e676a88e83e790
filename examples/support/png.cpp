#include "png.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <system_error>
#include <vector>

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"  // both are single-file libraries of which few functions are used
#endif
#include <stb_image.h>
#include <stb_image_write.h>
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

namespace support {

using Eigen::Index;
using Eigen::MatrixXd;

namespace {

/// height x (channels width), channel by channel.
std::optional<MatrixXd> read(const std::string& path, int channels) {
  int width = 0, height = 0, in_file = 0;
  const std::unique_ptr<unsigned char, void (*)(void*)> data(
      stbi_load(path.c_str(), &width, &height, &in_file, channels), stbi_image_free);
  if (data == nullptr) return std::nullopt;
  MatrixXd picture(height, Index{width} * channels);
  for (Index y = 0; y < height; ++y)
    for (Index x = 0; x < width; ++x)
      for (Index c = 0; c < channels; ++c)
        picture(y, c * width + x) = data.get()[(y * width + x) * channels + c] / 127.5 - 1;
  return picture;
}

bool write(const std::string& path, const MatrixXd& picture, Index channels) {
  const Index width = picture.cols() / channels, height = picture.rows();
  if (width < 1 || height < 1 || picture.cols() % channels != 0) return false;
  std::vector<unsigned char> data;
  data.reserve(static_cast<std::size_t>(picture.size()));
  for (Index y = 0; y < height; ++y)
    for (Index x = 0; x < width; ++x)
      for (Index c = 0; c < channels; ++c) {
        const double v = std::clamp(picture(y, c * width + x), -1.0, 1.0);
        data.push_back(static_cast<unsigned char>(std::lround(127.5 * (v + 1))));
      }
  return stbi_write_png(path.c_str(), static_cast<int>(width), static_cast<int>(height), static_cast<int>(channels),
                        data.data(), static_cast<int>(width * channels)) != 0;
}

/// The share of each old pixel in each new one, along one axis.
MatrixXd area_weights(Index to, Index from) {
  MatrixXd w = MatrixXd::Zero(to, from);
  const double ratio = static_cast<double>(from) / static_cast<double>(to);
  for (Index i = 0; i < to; ++i) {
    const double begin = static_cast<double>(i) * ratio, end = begin + ratio;
    for (Index j = static_cast<Index>(begin); j < from && static_cast<double>(j) < end; ++j) {
      const double overlap = std::min(end, static_cast<double>(j + 1)) - std::max(begin, static_cast<double>(j));
      w(i, j) = std::max(0.0, overlap);
    }
    w.row(i) /= w.row(i).sum();
  }
  return w;
}

Eigen::VectorXd row_by_row(const MatrixXd& square) {
  const MatrixXd t = square.transpose();
  return Eigen::Map<const Eigen::VectorXd>(t.data(), t.size());
}
MatrixXd middle_square(const MatrixXd& picture) {
  const Index side = std::min(picture.rows(), picture.cols());
  return picture.block((picture.rows() - side) / 2, (picture.cols() - side) / 2, side, side);
}
void append(MatrixXd& bank, const MatrixXd& square) {
  bank.conservativeResize(square.size(), bank.cols() + 1);
  bank.rightCols(1) = row_by_row(square);
}

}  // namespace

std::optional<MatrixXd> read_grey(const std::string& path) { return read(path, 1); }
std::optional<MatrixXd> read_rgb(const std::string& path) { return read(path, 3); }

MatrixXd resized(const MatrixXd& picture, Index rows, Index cols) {
  if (picture.rows() == rows && picture.cols() == cols) return picture;
  return area_weights(rows, picture.rows()) * picture * area_weights(cols, picture.cols()).transpose();
}

MatrixXd read_bank(const std::string& path, Index r) {
  namespace fs = std::filesystem;
  MatrixXd bank(r * r, 0);
  std::error_code error;
  if (fs::is_directory(path, error)) {
    std::vector<std::string> files;
    for (fs::directory_iterator i(path, error), end; !error && i != end; i.increment(error))
      if (i->is_regular_file(error)) files.push_back(i->path().string());
    std::sort(files.begin(), files.end());
    for (const std::string& file : files)
      if (const auto picture = read_grey(file)) append(bank, resized(middle_square(*picture), r, r));
    return bank;
  }
  const auto picture = read_grey(path);
  if (!picture) return bank;
  const Index down = picture->rows() / r, across = picture->cols() / r;
  if (down * across < 2) {
    append(bank, resized(middle_square(*picture), r, r));
    return bank;
  }
  for (Index i = 0; i < down; ++i)
    for (Index j = 0; j < across; ++j) append(bank, picture->block(i * r, j * r, r, r));
  return bank;
}

bool write_grid(const std::string& path, const MatrixXd& images, Index r, Index columns, Index scale) {
  if (r < 1 || columns < 1 || scale < 1 || images.rows() != r * r || images.cols() < 1) return false;
  columns = std::min(columns, images.cols());
  const Index lines = (images.cols() + columns - 1) / columns, step = r * scale + 1;
  MatrixXd grid = MatrixXd::Constant(lines * step - 1, columns * step - 1, 1.0);
  for (Index n = 0; n < images.cols(); ++n)
    for (Index y = 0; y < r * scale; ++y)
      for (Index x = 0; x < r * scale; ++x)
        grid(n / columns * step + y, n % columns * step + x) = images(y / scale * r + x / scale, n);
  return write(path, grid, 1);
}

bool write_grey(const std::string& path, const MatrixXd& picture) { return write(path, picture, 1); }
bool write_rgb(const std::string& path, const MatrixXd& picture) { return write(path, picture, 3); }

}  // namespace support
