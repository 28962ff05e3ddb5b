// The gradient of a convolution's input where images have few pixels, so that to move the weights is most of the work.
//
// They are read once and as they lie in the checkpoint, (out, in * taps): turned round, they are the left factor of a
// product with dy, (out, pixels). Each row of it, what one tap of one channel gives, is moved by that tap and summed.
// Several images lie side by side where one does not fill a tile of the product.
#pragma once

#include <vector>

#include "kernel.h"
#include "product.h"

namespace svd {

constexpr int64_t kGroup = 8;    // channels of dx computed at once: their taps are whole tiles
constexpr int64_t kTerms = 64;   // channels of dy summed at once: what is multiplied stays in the first cache

// c (rows, Vectors * kLanes) = or += a (rows, depth) x b (depth, kColumns), which is read as far as c is wide; c with rows
// of `width`. A tile that is narrower than kColumns has more rows instead; `rows` are whole tiles.
template <int Vectors>
void multiply_narrow(Matrix a, const float *b, float *c, int64_t rows, int64_t depth, int64_t width, bool add) {
  constexpr int kHigh = kRows * kVectors / Vectors;
  for (int64_t i = 0; i < rows; i += kHigh) {
    Vec sums[kHigh][Vectors] = {};
    const float *left = a.below(i).data;
    for (int64_t p = 0; p < depth; ++p, left += a.column) {
      Vec row[Vectors];
      for (int v = 0; v < Vectors; ++v) row[v] = load(b + p * kColumns + v * kLanes);
      for (int r = 0; r < kHigh; ++r)
        for (int v = 0; v < Vectors; ++v) sums[r][v] += left[r * a.row] * row[v];
    }
    for (int r = 0; r < kHigh; ++r)
      for (int v = 0; v < Vectors; ++v) {
        float *place = c + (i + r) * width + v * kLanes;
        store(place, add ? load(place) + sums[r][v] : sums[r][v]);
      }
  }
}

template <int Vectors, class... Rest>
void multiply_vectors(int64_t vectors, const Rest &...rest) {
  if (vectors == Vectors) return multiply_narrow<Vectors>(rest...);
  if constexpr (Vectors > 1) multiply_vectors<Vectors - 1>(vectors, rest...);
}

// weight (out, in, 3, taps), dy (images, out, height, width) -> dx (images, in, height, width).
struct FewPixels {
  int64_t images, height, width, out, in, taps;
  int64_t plane = height * width, each = 3 * taps;                         // pixels of an image, weights of two channels
  int64_t held = std::max<int64_t>(1, std::min(images, 64 / plane));       // images side by side: a block
  int64_t row = (held * plane + kLanes - 1) / kLanes * kLanes;             // a block's pixels, in whole vectors
  int64_t packed = (row + kColumns - 1) / kColumns * kColumns * out;       // numbers of a block of dy
  int64_t edge = (width + 1 + kLanes - 1) / kLanes * kLanes;               // how far a tap reaches beside a row
  int64_t products = kGroup * each * row + 2 * edge;
  int64_t at_once = std::max<int64_t>(1, 16 * kCopied / packed);           // blocks for which the weights are read once

  // How many channels and pixels make this the fastest way.
  static bool pays(int64_t height, int64_t width, int64_t out, int64_t in) {
    return height * width <= 1024 && out >= 32 && in >= kGroup;
  }

  // A block's images side by side, in parts of kColumns pixels: (parts, out, kColumns).
  void pack(const float *dy, int64_t block, float *line, float *to) const {
    const int64_t first = block * held, count = std::min(held, images - first);
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t i = 0; i < count; ++i) std::copy_n(dy + ((first + i) * out + o) * plane, plane, line + i * plane);
      for (int64_t v = 0; v < row; v += kLanes)
        store(to + (v / kColumns * out + o) * kColumns + v % kColumns, load(line + v));
    }
  }

  // For every tap 1 at the pixels of dx to which it brings one of dy, else 0: (each, row).
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

  // Channels first .. last of a block of dx from the products, whose first channel is `start`.
  void sum_taps(const float *product, const float *inside, int64_t block, int64_t start, int64_t first, int64_t last,
                float *line, float *dx) const {
    const int64_t begin = block * held, count = std::min(held, images - begin);
    for (int64_t channel = first; channel < last; ++channel) {
      const float *tap = product + (channel - start) * each * row;
      for (int64_t pixel = 0; pixel < row; pixel += kLanes) {
        Vec sum{};
        for (int64_t k = 0; k < each; ++k) {
          const int64_t from = pixel + (1 - k / taps) * width + taps / 2 - k % taps;
          const Vec value = load(tap + k * row + from), mask = load(inside + k * row + pixel);
          sum += mask > 0.0f ? value : Vec{};  // not a product: what lies beside an image may be not a number
        }
        store(line + pixel, sum);
      }
      for (int64_t i = 0; i < count; ++i)
        std::copy_n(line + i * plane, plane, dx + ((begin + i) * in + channel) * plane);
    }
  }

  // Channels first .. last of dx, no more than kGroup; as many before them are computed as are missing in a group.
  void compute(const float *weight, const float *dy, const float *inside, int64_t block, int64_t first, int64_t last,
               float *memory, float *line, float *dx) const {
    float *product = memory + edge;
    const int64_t start = last - kGroup;
    for (int64_t o = 0; o < out; o += kTerms)
      for (int64_t v = 0; v < row; v += kColumns)
        multiply_vectors<kVectors>(std::min<int64_t>(kVectors, (row - v) / kLanes),
                                   Matrix{weight + (o * in + start) * each, 1, in * each}, dy + v * out + o * kColumns,
                                   product + v, kGroup * each, std::min(kTerms, out - o), row, o > 0);
    sum_taps(product, inside, block, start, first, last, line, dx);
  }

  void operator()(const float *weight, const float *dy, float *dx) const {
    const std::vector<float> inside = reached();
    const float *mask = inside.data();
    const int64_t blocks = (images - 1) / held + 1;
    for (int64_t start = 0; start < blocks; start += at_once) {
      const int64_t count = std::min(at_once, blocks - start);
      parallel((in - 1) / kGroup + 1, kGroup * each * out * row * count, [=](int64_t begin, int64_t end) {
        static thread_local std::vector<float> memory;
        memory.resize(std::max(memory.size(), static_cast<size_t>(count * packed + products + row)));
        float *right = memory.data(), *product = right + count * packed, *line = product + products;
        for (int64_t k = 0; k < count; ++k) pack(dy, start + k, line, right + k * packed);
        for (int64_t group = begin; group < end; ++group)
          for (int64_t k = 0; k < count; ++k)
            compute(weight, right + k * packed, mask, start + k, group * kGroup, std::min(in, (group + 1) * kGroup),
                    product, line, dx);
      });
    }
  }
};

}  // namespace svd
