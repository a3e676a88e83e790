#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <sluice/models/transformer.hpp>
#include <span>
#include <vector>

/// The transformer from its formulas, in double, without cache, batch or kernels: every call is a full pass over the
/// text with one loop a sum. Its weights are drawn one by one from a cursor.
namespace support {

class transformer_reference {
 public:
  using matrix = std::vector<std::vector<double>>;
  using tokens = std::span<const sluice::token_id>;

  /// The first `layers` layers of the model with c.layers; 0: all.
  transformer_reference(const sluice::models::transformer_config& c, std::uint64_t seed, sluice::index_t layers = 0)
      : c_(c), used_(layers == 0 ? c.layers : layers) {
    const auto d = c.width, f = c.hidden, dh = d / c.heads, kv = c.key_value_heads * dh;
    const double out = std::sqrt(2.0 * static_cast<double>(c.layers));
    e_ = draw(seed, 0x3F0, c.vocabulary, d, std::sqrt(static_cast<double>(d)));
    gf_ = gain(seed, 0x3F1, c.gain);
    for (sluice::index_t l = 0; l < c.layers; ++l) {
      const std::uint64_t id = 0x400 + 16 * static_cast<std::uint64_t>(l);
      const double by_d = std::sqrt(static_cast<double>(d)), by_f = std::sqrt(static_cast<double>(f));
      layers_.push_back({gain(seed, id, 1), gain(seed, id + 5, 1), draw(seed, id + 1, d, d, by_d),
                         draw(seed, id + 2, kv, d, by_d), draw(seed, id + 3, kv, d, by_d),
                         draw(seed, id + 4, d, d, by_d * out), draw(seed, id + 6, f, d, by_d),
                         draw(seed, id + 7, f, d, by_d), draw(seed, id + 8, d, f, by_f * out)});
    }
  }

  /// Logits after every position of the text.
  matrix logits(tokens text) const {
    const std::size_t n = text.size(), d = size(c_.width), heads = size(c_.heads), dh = d / heads;
    const std::size_t group = heads / size(c_.key_value_heads);
    matrix x;
    for (const sluice::token_id t : text) x.push_back(e_[size(t)]);
    for (sluice::index_t l = 0; l < used_; ++l) {
      const layer& w = layers_[size(l)];
      matrix q, k, v;
      for (std::size_t i = 0; i < n; ++i) {
        const auto h = rms(x[i], w.g1);
        q.push_back(rope(times(w.wq, h), dh, i));
        k.push_back(rope(times(w.wk, h), dh, i));
        v.push_back(times(w.wv, h));
      }
      for (std::size_t i = 0; i < n; ++i) {
        std::vector<double> o(d, 0.0);
        for (std::size_t h = 0; h < heads; ++h) {
          std::vector<double> weight(i + 1);
          double total = 0, top = -1e300;
          for (std::size_t j = 0; j <= i; ++j) {
            for (std::size_t a = 0; a < dh; ++a) weight[j] += q[i][h * dh + a] * k[j][h / group * dh + a];
            weight[j] /= std::sqrt(static_cast<double>(dh));
            top = std::max(top, weight[j]);
          }
          for (double& s : weight) total += s = std::exp(s - top);
          for (std::size_t j = 0; j <= i; ++j)
            for (std::size_t a = 0; a < dh; ++a) o[h * dh + a] += weight[j] / total * v[j][h / group * dh + a];
        }
        add(x[i], times(w.wo, o));
      }
      for (std::size_t i = 0; i < n; ++i) {
        const auto h = rms(x[i], w.g2);
        auto a = times(w.w1, h);
        const auto b = times(w.w3, h);
        for (std::size_t j = 0; j < a.size(); ++j) a[j] = a[j] / (1 + std::exp(-a[j])) * b[j];
        add(x[i], times(w.w2, a));
      }
    }
    for (auto& row : x) row = times(e_, rms(row, gf_));
    return x;
  }
  std::vector<double> last(tokens text) const { return logits(text).back(); }
  const matrix& embedding() const { return e_; }
  const matrix& query_weights(std::size_t l) const { return layers_[l].wq; }

 private:
  struct layer {
    std::vector<double> g1, g2;
    matrix wq, wk, wv, wo, w1, w3, w2;
  };
  template <class T>
  static std::size_t size(T i) {
    return static_cast<std::size_t>(i);
  }
  static matrix draw(std::uint64_t seed, std::uint64_t id, sluice::index_t rows, sluice::index_t cols, double divisor) {
    sluice::cursor random(sluice::stream(seed, id));
    const Eigen::MatrixXd z = sluice::models::normal_matrix(rows, cols, random);
    matrix m(size(rows), std::vector<double>(size(cols)));
    for (sluice::index_t r = 0; r < rows; ++r)
      for (sluice::index_t k = 0; k < cols; ++k) m[size(r)][size(k)] = z(r, k) / divisor;
    return m;
  }
  std::vector<double> gain(std::uint64_t seed, std::uint64_t id, double factor) const {
    auto g = draw(seed, id, 1, c_.width, 1).front();
    for (double& x : g) x = factor * (1 + 0.1 * x);
    return g;
  }
  static std::vector<double> times(const matrix& w, const std::vector<double>& x) {
    std::vector<double> y;
    for (const auto& row : w) {
      double sum = 0;
      for (std::size_t i = 0; i < x.size(); ++i) sum += row[i] * x[i];
      y.push_back(sum);
    }
    return y;
  }
  static std::vector<double> rms(const std::vector<double>& x, const std::vector<double>& gain) {
    double sum = 0;
    for (const double a : x) sum += a * a;
    std::vector<double> y;
    for (std::size_t i = 0; i < x.size(); ++i)
      y.push_back(x[i] / std::sqrt(sum / static_cast<double>(x.size()) + 1e-5) * gain[i]);
    return y;
  }
  std::vector<double> rope(std::vector<double> x, std::size_t dh, std::size_t position) const {
    for (std::size_t h = 0; h < x.size(); h += dh)
      for (std::size_t i = 0; i < dh / 2; ++i) {
        const double angle =
            static_cast<double>(position) * std::pow(c_.theta, -2.0 * static_cast<double>(i) / static_cast<double>(dh));
        const double a = x[h + i], b = x[h + i + dh / 2];
        x[h + i] = a * std::cos(angle) - b * std::sin(angle);
        x[h + i + dh / 2] = a * std::sin(angle) + b * std::cos(angle);
      }
    return x;
  }
  static void add(std::vector<double>& x, const std::vector<double>& y) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }

  sluice::models::transformer_config c_;
  sluice::index_t used_;
  matrix e_;
  std::vector<double> gf_;
  std::vector<layer> layers_;
};

}  // namespace support
