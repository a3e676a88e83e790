#pragma once
#include <Eigen/Core>
#include <optional>
#include <string>

/// PNG files (and whatever else stb_image reads) for the examples and benchmarks. Values are in [-1, 1], black to
/// white; writing clamps. Nothing throws: what cannot be read or written says so by its result.
namespace support {

/// A grey picture, height x width: the mean of the channels weighted by their brightness if the file is in colour.
std::optional<Eigen::MatrixXd> read_grey(const std::string& path);

/// A colour picture as three of them, side by side: height x (3 width), red, green, blue.
std::optional<Eigen::MatrixXd> read_rgb(const std::string& path);

/// The picture at rows x cols: every new pixel is the mean of the area that it covers.
Eigen::MatrixXd resized(const Eigen::MatrixXd& picture, Eigen::Index rows, Eigen::Index cols);

/// Grey images of r x r as columns of r^2 values, row by row: what the denoisers of sluice/models/ take. `path` is a
/// folder, of which every picture is an image, in the order of the names, cut to its middle square and resized; or one
/// file, of which every whole r x r tile is an image, row by row, or which is itself resized if it holds fewer than
/// two. No columns if nothing could be read.
Eigen::MatrixXd read_bank(const std::string& path, Eigen::Index r);

/// Images as columns of r^2 values, in rows of `columns`, each pixel as scale x scale pixels, with lines between them.
bool write_grid(const std::string& path, const Eigen::MatrixXd& images, Eigen::Index r, Eigen::Index columns,
                Eigen::Index scale = 4);

/// A grey picture.
bool write_grey(const std::string& path, const Eigen::MatrixXd& picture);

/// A colour picture, laid out as read_rgb gives it.
bool write_rgb(const std::string& path, const Eigen::MatrixXd& picture);

}  // namespace support
