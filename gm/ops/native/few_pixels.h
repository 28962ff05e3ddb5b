// Convolutions of images with few pixels, where to move the weights is most of the work, and their input's gradient.
//
// The weights are read once and as they lie in the checkpoint, (out, in * taps): they are the left factor of a product.
// Several images lie side by side where one does not fill a tile of it.
#pragma once

#include <vector>

#include "kernel.h"
#include "product.h"

namespace svd {

// How images (images, channels, height, width) lie side by side, one channel at a time, and which pixels the taps of a
// kernel (3, taps) bring together there.
struct SideBySide {
  int64_t images, height, width, taps;
  int64_t plane = height * width, each = 3 * taps;                    // pixels of an image, weights of two channels
  int64_t held = std::max<int64_t>(1, std::min(images, 64 / plane));  // images side by side: a block
  int64_t blocks = (images - 1) / held + 1;
  int64_t row = (held * plane + kLanes - 1) / kLanes * kLanes;        // a block's pixels, in whole vectors
  int64_t columns = (row + kColumns - 1) / kColumns * kColumns;       // the same in whole tiles
  int64_t edge = (width + 1 + kLanes - 1) / kLanes * kLanes;          // how far a tap reaches beside a row

  // Where in an array (images, channels, height, width) the images of a block begin, and how many they are.
  int64_t begin(int64_t block, int64_t channels) const { return block * held * channels * plane; }
  int64_t count(int64_t block) const { return std::min(held, images - block * held); }

  // One channel of a block to `line`, and back. `x`: that of the first image.
  void gather(const float *x, int64_t channels, int64_t block, float *line) const {
    for (int64_t i = 0; i < count(block); ++i) std::copy_n(x + i * channels * plane, plane, line + i * plane);
  }
  void scatter(const float *line, int64_t channels, int64_t block, float *x) const {
    for (int64_t i = 0; i < count(block); ++i) std::copy_n(line + i * plane, plane, x + i * channels * plane);
  }

  // Where a pixel of row `index` of `depth` lies in the right factor of a product: (parts, depth, kColumns).
  static int64_t place(int64_t pixel, int64_t index, int64_t depth) {
    return (pixel / kColumns * depth + index) * kColumns + pixel % kColumns;
  }

  // For every tap 1 at the pixels to which its turned one brings one of their image, else 0: (each, row).
  std::vector<float> reached() const {
    std::vector<float> inside(static_cast<size_t>(each * row), 0.0f);
    for (int64_t k = 0; k < each; ++k) {
      const int64_t down = k / taps - 1, right = k % taps - taps / 2, count = width - std::abs(right);
      for (int64_t line = 0; line < held * height; ++line)
        if (line % height - down >= 0 && line % height - down < height && count > 0)
          std::fill_n(inside.begin() + k * row + line * width + std::max<int64_t>(0, right), count, 1.0f);
    }
    return inside;
  }

  // What tap k, turned round, brings to a vector of a row's pixels: 0 where it is none of their image. Tap each - 1 - k
  // brings the same, not turned round.
  Vec moved(const float *line, const float *inside, int64_t k, int64_t pixel) const {
    const Vec value = load(line + pixel + (1 - k / taps) * width + taps / 2 - k % taps);
    const Vec mask = load(inside + k * row + pixel);
    return mask > 0.0f ? value : Vec{};  // not a product: what lies beside an image may be not a number
  }
};

constexpr int64_t kWhole = kRows * kVectors;  // rows of a product that are whole tiles, however narrow it is
constexpr int64_t kAdded = 144;  // terms summed at once: what the weights are multiplied with stays in the first cache

// x (images, in, height, width), weight (out, in, 3, taps), bias (out) -> y (images, out, height, width): the weights
// times what the taps bring of x, (in * taps, pixels). A panel is kWhole channels of a block of y.
struct FewPixels {
  SideBySide s;
  int64_t in, out;
  int64_t summed = kAdded / s.each;                                   // channels of x summed at once
  int64_t unit = s.row % kColumns == 0 ? kRows : kWhole;              // channels of y that are whole tiles
  int64_t size = kAdded * s.columns, panel = kWhole * s.row;          // numbers of those sums' right factor, of a panel
  int64_t at_once = std::max<int64_t>(1, kSecondCache / size);       // blocks for which the weights are read once
  int64_t most = std::max<int64_t>(1, kCopied / (std::min(at_once, s.blocks) * size)) * summed;
  int64_t channels = std::min(in, most);                              // of x held at once
  int64_t packed = channels * s.each * s.columns;                     // numbers of a block of them

  // Below how many pixels it is faster than convolution.cpp's own form. With vectors of 16 and 4 and up to 1280 channels,
  // its time was 0.25 to 1.15 of that one's on fewer and 0.85 to 1.4 of it, mostly above 1, on more: there, an image
  // fills vectors by itself and nothing is written for each tap. With vectors of 8 on a processor that has no longer ones
  // it was 0.63 to 0.95 on 64 to 196 pixels. How many images there are has no part in it, so that each is computed alone
  // as it is beside others.
  static constexpr int64_t kMost = kLanes == 8 ? 256 : 8 * kLanes;
  static bool pays(int64_t height, int64_t width, int64_t out) { return height * width < kMost && out >= kWhole; }

  // What the taps bring of `count` channels of a block of x: (parts, count * each, kColumns).
  void expand(const float *x, const float *inside, int64_t block, int64_t count, float *line, float *to) const {
    for (int64_t c = 0; c < count; ++c) {
      s.gather(x + s.begin(block, in) + c * s.plane, in, block, line);
      for (int64_t k = 0; k < s.each; ++k)
        for (int64_t pixel = 0; pixel < s.row; pixel += kLanes)
          store(to + s.place(pixel, c * s.each + k, count * s.each), s.moved(line, inside, s.each - 1 - k, pixel));
    }
  }

  // The last `rows` rows of a panel (kWhole, row) = or += their weights, which begin at `weight`, times what `expand`
  // made. A tile that they don't fill is filled with the rows before them.
  void multiply(const float *weight, const float *right, int64_t count, int64_t rows, bool add, float *sums) const {
    for (int64_t c = 0; c < count; c += summed)
      for (int64_t v = 0; v < s.row; v += kColumns) {
        const int64_t vectors = std::min<int64_t>(kVectors, (s.row - v) / kLanes), high = kWhole / vectors;
        const int64_t whole = (rows + high - 1) / high * high;
        multiply_vectors<kVectors>(vectors, Matrix{weight + ((rows - whole) * in + c) * s.each, in * s.each, 1},
                                   right + s.place(v, c * s.each, count * s.each), sums + (kWhole - whole) * s.row + v,
                                   whole, std::min(summed, count - c) * s.each, s.row, add || c > 0);
      }
  }

  // Channels first .. last of y of `count` blocks from `block` on.
  void compute(const float *x, const float *weight, const float *bias, const float *inside, int64_t block,
               int64_t count, int64_t first, int64_t last, float *y) const {
    static thread_local std::vector<float> memory;
    const int64_t panels = (last - first - 1) / kWhole + 1;
    memory.resize(std::max(memory.size(), static_cast<size_t>(count * (packed + panels * panel) + 2 * s.edge + s.row)));
    float *right = memory.data(), *sums = right + count * packed, *line = sums + count * panels * panel + s.edge;
    for (int64_t c = 0; c < in; c += channels) {
      const int64_t depth = std::min(channels, in - c);
      for (int64_t k = 0; k < count; ++k) expand(x + c * s.plane, inside, block + k, depth, line, right + k * packed);
      for (int64_t i = 0; i < panels; ++i)
        for (int64_t k = 0; k < count; ++k) {
          const int64_t o = first + i * kWhole;
          multiply(weight + (o * in + c) * s.each, right + k * packed, depth, std::min(kWhole, last - o), c > 0,
                   sums + (i * count + k) * panel);
        }
    }
    for (int64_t i = 0; i < panels; ++i)
      for (int64_t k = 0; k < count; ++k) {
        const int64_t end = std::min(first + (i + 1) * kWhole, last);
        for (int64_t o = first + i * kWhole; o < end; ++o) {
          const float *sum = sums + (i * count + k + 1) * panel - (end - o) * s.row;
          for (int64_t v = 0; v < s.row; v += kLanes) store(line + v, load(sum + v) + bias[o]);
          s.scatter(line, out, block + k, y + s.begin(block + k, out) + o * s.plane);
        }
      }
  }

  void operator()(const float *x, const float *weight, const float *bias, float *y) const {
    const std::vector<float> mask = s.reached();
    const float *inside = mask.data();
    for (int64_t block = 0; block < s.blocks; block += at_once) {
      const int64_t count = std::min(at_once, s.blocks - block);
      parallel((out - 1) / unit + 1, unit * in * s.each * s.row * count, [=](int64_t first, int64_t last) {
        compute(x, weight, bias, inside, block, count, first * unit, std::min(out, last * unit), y);
      });
    }
  }
};

constexpr int64_t kGroup = 8;    // channels of dx computed at once: their taps are whole tiles
constexpr int64_t kTerms = 64;   // channels of dy summed at once: what is multiplied stays in the first cache

// weight (out, in, 3, taps), dy (images, out, height, width) -> dx (images, in, height, width): the weights, turned
// round, times dy, (out, pixels). Each row of that, what one tap of one channel gives, is moved by it and summed.
struct FewPixelsGradient {
  SideBySide s;
  int64_t out, in;
  int64_t packed = s.columns * out;                                    // numbers of a block of dy
  int64_t products = kGroup * s.each * s.row + 2 * s.edge;
  int64_t at_once = std::max<int64_t>(1, 16 * kCopied / packed);       // blocks for which the weights are read once

  // How many channels and pixels make this the fastest way.
  static bool pays(int64_t height, int64_t width, int64_t out, int64_t in) {
    return height * width <= 1024 && out >= 32 && in >= kGroup;
  }

  // A block's images side by side, in parts of kColumns pixels: (parts, out, kColumns).
  void pack(const float *dy, int64_t block, float *line, float *to) const {
    for (int64_t o = 0; o < out; ++o) {
      s.gather(dy + s.begin(block, out) + o * s.plane, out, block, line);
      for (int64_t v = 0; v < s.row; v += kLanes) store(to + s.place(v, o, out), load(line + v));
    }
  }

  // Channels first .. last of a block of dx from the products, whose first channel is `start`.
  void sum_taps(const float *product, const float *inside, int64_t block, int64_t start, int64_t first, int64_t last,
                float *line, float *dx) const {
    for (int64_t channel = first; channel < last; ++channel) {
      const float *tap = product + (channel - start) * s.each * s.row;
      for (int64_t pixel = 0; pixel < s.row; pixel += kLanes) {
        Vec sum{};
        for (int64_t k = 0; k < s.each; ++k) sum += s.moved(tap + k * s.row, inside, k, pixel);
        store(line + pixel, sum);
      }
      s.scatter(line, in, block, dx + s.begin(block, in) + channel * s.plane);
    }
  }

  // Channels first .. last of dx, no more than kGroup; as many before them are computed as are missing in a group.
  void compute(const float *weight, const float *dy, const float *inside, int64_t block, int64_t first, int64_t last,
               float *memory, float *line, float *dx) const {
    float *product = memory + s.edge;
    const int64_t start = last - kGroup;
    for (int64_t o = 0; o < out; o += kTerms)
      for (int64_t v = 0; v < s.row; v += kColumns)
        multiply_vectors<kVectors>(std::min<int64_t>(kVectors, (s.row - v) / kLanes),
                                   Matrix{weight + (o * in + start) * s.each, 1, in * s.each}, dy + s.place(v, o, out),
                                   product + v, kGroup * s.each, std::min(kTerms, out - o), s.row, o > 0);
    sum_taps(product, inside, block, start, first, last, line, dx);
  }

  void operator()(const float *weight, const float *dy, float *dx) const {
    const std::vector<float> mask = s.reached();
    const float *inside = mask.data();
    for (int64_t start = 0; start < s.blocks; start += at_once) {
      const int64_t count = std::min(at_once, s.blocks - start);
      parallel((in - 1) / kGroup + 1, kGroup * s.each * out * s.row * count, [=](int64_t begin, int64_t end) {
        static thread_local std::vector<float> memory;
        memory.resize(std::max(memory.size(), static_cast<size_t>(count * packed + products + s.row)));
        float *right = memory.data(), *product = right + count * packed, *line = product + products;
        for (int64_t k = 0; k < count; ++k) pack(dy, start + k, line, right + k * packed);
        for (int64_t group = begin; group < end; ++group)
          for (int64_t k = 0; k < count; ++k)
            compute(weight, right + k * packed, inside, start + k, group * kGroup, std::min(in, (group + 1) * kGroup),
                    product, line, dx);
      });
    }
  }
};

}  // namespace svd
