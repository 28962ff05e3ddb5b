// Convolutions of three by three with 16 multiplications for four pixels instead of 36: Winograd's F(2x2, 3x3).
//
// Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (arXiv:1509.09308), section 4.1. Every tile of 4x4
// pixels, which overlap by two, becomes 16 sums, and so does every kernel; their products, summed over channels, are 16
// products of matrices; sums of these are the 2x2 pixels of the result. All factors are 1 or 1/2, so it is rounded no
// more than a plain convolution.
#pragma once

#include <memory>
#include <vector>

#include "kernel.h"
#include "product.h"

namespace svd {

constexpr int64_t kSums = 16;                     // of a tile or a kernel
constexpr int64_t kTiles = kLanes == 16 ? 64 : 32;  // computed at once, a multiple of kColumns
constexpr int64_t kDepth = 128;                   // channels of x at once: their sums fit the second cache
constexpr int64_t kPanel = 4 * kRows;             // channels of y at once, for which the sums stay in the first cache
constexpr int64_t kHeld = 1 << 22;                // floats of the kernels' sums held at once: 16 MB

// Images (in or out, height, width), cut into tiles.
struct Tiled {
  int64_t images, height, width;
  int64_t down() const { return (height + 1) / 2; }
  int64_t across() const { return (width + 1) / 2; }
  int64_t tiles() const { return images * down() * across(); }
};

// Whether it is faster than a plain convolution: what is done for each pixel or each weight alone is less than the rest.
// How many images there are has no part in it, so that each is computed alone as it is beside others.
inline bool pays(const Tiled &s, int64_t in, int64_t out) {
  return s.down() * s.across() >= 64 && std::min(in, out) >= 32;
}

// Those tiles of a block that lie in one image, first .. last counted in it; the columns of tiles that hold them; how
// many of the block are before them.
struct Patch {
  int64_t image, first, last, left, columns, at;
};

// Tiles first .. last of all. Several rows, or a part of one.
inline std::vector<Patch> patches(const Tiled &s, int64_t first, int64_t last) {
  const int64_t each = s.down() * s.across();
  std::vector<Patch> found;
  for (int64_t tile = first, end; tile < last; tile = end) {
    const int64_t image = tile / each, begin = tile - image * each;
    end = std::min(last, (image + 1) * each);
    const int64_t stop = end - image * each;
    const bool one_row = (stop - 1) / s.across() == begin / s.across();
    found.push_back({image, begin, stop, one_row ? begin % s.across() : 0, one_row ? stop - begin : s.across(), tile - first});
  }
  return found;
}

// How many floats `transform_tiles` needs: rows of pixels, and what is summed over columns, of a block and its edges.
inline int64_t room(const Tiled &s) { return 16 * (kTiles + 4 * std::min(s.across(), kTiles) + kLanes); }

// The 16 sums of the tiles in a patch of a channel; `to` is where those of its block begin, `apart` how far the 16 are.
// They are written in whole vectors: some floats after the last are overwritten.
inline void transform_tiles(const float *plane, const Tiled &s, const Patch &patch, float *to, int64_t apart,
                            float *memory) {
  const int64_t columns = patch.columns, length = 2 * columns + 2;
  const int64_t top = patch.first / s.across(), pairs = (patch.last - 1) / s.across() - top + 2;  // of rows
  const int64_t left = 2 * patch.left - 1, start = std::max<int64_t>(0, -left), end = std::min(length, s.width - left);
  for (int64_t row = 0; row < 2 * pairs; ++row) {
    const int64_t y = 2 * top - 1 + row;
    float *line = memory + row * length;
    const bool inside = y >= 0 && y < s.height;
    std::fill(line, line + (inside ? start : length), 0.0f);
    if (inside) std::copy_n(plane + y * s.width + left + start, end - start, line + start);
    if (inside) std::fill(line + end, line + length, 0.0f);
  }
  // Over columns: four sums, first those of all odd rows, then of the even ones, so that a vector of tiles may go on in
  // the next row of tiles.
  const int64_t size = pairs * columns + kLanes;
  float *const summed = memory + 2 * pairs * length;
  for (int64_t row = 0; row < 2 * pairs; ++row) {
    const float *line = memory + row * length;
    float *sums = summed + row % 2 * 4 * size + row / 2 * columns;
    for (int64_t x = 0; x < columns; ++x) {
      const float a = line[2 * x], b = line[2 * x + 1], c = line[2 * x + 2], d = line[2 * x + 3];
      sums[x] = a - c, sums[size + x] = b + c, sums[2 * size + x] = c - b, sums[3 * size + x] = b - d;
    }
  }
  const int64_t skipped = patch.first - top * s.across() - patch.left;
  for (int64_t x = 0; x < patch.last - patch.first; x += kLanes)
    for (int j = 0; j < 4; ++j) {
      const float *odd = summed + j * size + skipped + x, *even = odd + 4 * size;
      const Vec a = load(odd), b = load(even), c = load(odd + columns), d = load(even + columns);
      float *place = to + j * apart + patch.at + x;
      store(place, a - c), store(place + 4 * apart, b + c), store(place + 8 * apart, c - b);
      store(place + 12 * apart, b - d);
    }
}

// weight (channels, 3, 3) -> 16 sums of each, (16, channels), which are `apart`.
inline void transform_weights(const float *weight, int64_t channels, float *to, int64_t apart) {
  for_lanes(channels, [=](int64_t channel, auto left) {
    float turned[9][kLanes] = {};
    for (int64_t lane = 0; lane < left; ++lane)
      for (int i = 0; i < 9; ++i) turned[i][lane] = weight[9 * (channel + lane) + i];
    Vec sums[4][3];
    for (int j = 0; j < 3; ++j) {
      const Vec a = load(turned[j]), c = load(turned[6 + j]), outer = 0.5f * (a + c), inner = 0.5f * load(turned[3 + j]);
      sums[0][j] = a, sums[1][j] = outer + inner, sums[2][j] = outer - inner, sums[3][j] = c;
    }
    for (int i = 0; i < 4; ++i) {
      const Vec a = sums[i][0], c = sums[i][2], outer = 0.5f * (a + c), inner = 0.5f * sums[i][1];
      float *place = to + 4 * i * apart + channel;
      store(place, a, left), store(place + apart, outer + inner, left);
      store(place + 2 * apart, outer - inner, left), store(place + 3 * apart, c, left);
    }
  });
}

// The pixels of a channel's tiles from their 16 sums, which are `apart`: added to *bias, or if null to what is in y.
inline void transform_back(const float *sums, int64_t apart, const Tiled &s, int64_t first, int64_t last,
                           const float *bias, float *y, int64_t image) {
  float pixels[2][2][kTiles];  // of even and odd rows, then columns
  for (int64_t x = 0; x < kTiles; x += kLanes) {
    Vec rows[2][4];
    for (int j = 0; j < 4; ++j) {
      const Vec a = load(sums + j * apart + x), b = load(sums + (4 + j) * apart + x);
      const Vec c = load(sums + (8 + j) * apart + x), d = load(sums + (12 + j) * apart + x);
      rows[0][j] = a + b + c, rows[1][j] = b - c - d;
    }
    for (int i = 0; i < 2; ++i) {
      store(pixels[i][0] + x, rows[i][0] + rows[i][1] + rows[i][2]);
      store(pixels[i][1] + x, rows[i][1] - rows[i][2] - rows[i][3]);
    }
  }
  for (int64_t tile = first, end; tile < last; tile = end) {
    const int64_t column = tile % s.across(), row = tile / s.across() % s.down(), at = tile - first;
    end = std::min(last, tile - column + s.across());
    const int64_t count = end - tile, pairs = std::min(count, s.width / 2 - column);
    for (int64_t i = 0; i < 2 && 2 * row + i < s.height; ++i) {
      float *to = y + tile / s.across() / s.down() * image + (2 * row + i) * s.width + 2 * column;
      const float *even = pixels[i][0] + at, *odd = pixels[i][1] + at;
      const auto write = [=](auto before) {
        for (int64_t x = 0; x < pairs; ++x)
          to[2 * x] = before(2 * x) + even[x], to[2 * x + 1] = before(2 * x + 1) + odd[x];
        if (pairs < count) to[2 * pairs] = before(2 * pairs) + even[pairs];
      };
      bias ? write([=](int64_t) { return *bias; }) : write([=](int64_t x) { return to[x]; });
    }
  }
}

// x (n, in, h, w) and some channels of weight (out, in, 3, 3), bias (out), y (n, out, h, w).
struct Winograd {
  Tiled s;
  int64_t in, out;
  int64_t channels = std::min(in, kDepth), parts = (in - 1) / channels + 1;
  int64_t apart = channels * kTiles + kLanes;  // of the tiles' sums

  // Where the sums of the kernels of a panel of y and a part of x lie, (16, kPanel, channels).
  int64_t place(int64_t panel, int64_t c) const { return (panel * parts + c / channels) * kSums * kPanel * channels; }

  int64_t scratch() const { return kSums * (apart + kPanel * kTiles) + kLanes + room(s); }

  // Tiles first .. last of all and panels from .. to of y.
  void compute(const float *x, const float *weights, const float *bias, float *y, int64_t outs, int64_t first,
               int64_t last, int64_t from, int64_t to, float *memory) const {
    float *tiles = memory, *products = tiles + kSums * apart + kLanes, *rest = products + kSums * kPanel * kTiles;
    const int64_t plane = s.height * s.width;
    const std::vector<Patch> found = patches(s, first, last);
    for (int64_t c = 0; c < in; c += channels) {
      const int64_t depth = std::min(channels, in - c);
      for (int64_t j = 0; j < depth; ++j)
        for (const Patch &patch : found)
          transform_tiles(x + (patch.image * in + c + j) * plane, s, patch, tiles + j * kTiles, apart, rest);
      for (int64_t panel = from; panel < to; ++panel) {
        const int64_t start = panel * kPanel, rows = std::min(kPanel, outs - start);
        for (int64_t i = 0; i < kSums; ++i)
          multiply({weights + place(panel, c) + i * kPanel * channels, channels, 1}, tiles + i * apart,
                   products + i * kPanel * kTiles, rows, depth, kTiles, false);
        for (int64_t o = start; o < start + rows; ++o)
          transform_back(products + (o - start) * kTiles, kPanel * kTiles, s, first, last, c ? nullptr : bias + o,
                         y + o * plane, out * plane);
      }
    }
  }

  void operator()(const float *x, const float *weight, const float *bias, float *y) const {
    const int64_t held = std::max<int64_t>(1, std::min((out - 1) / kPanel + 1, kHeld / place(1, 0))) * kPanel;
    const std::unique_ptr<float[]> memory(new float[static_cast<size_t>(place(held / kPanel, 0))]);
    float *weights = memory.get();
    const int64_t rows = s.across() < kTiles ? 1 : s.images * s.down(), tiles = s.tiles() / rows;
    const int64_t each = (tiles - 1) / kTiles + 1, blocks = rows * each;
    for (int64_t start = 0; start < out; start += held) {
      const int64_t outs = std::min(held, out - start), panels = (outs - 1) / kPanel + 1;
      parallel(outs, 9 * in, [=](int64_t begin, int64_t end) {
        for (int64_t o = begin; o < end; ++o)
          for (int64_t c = 0; c < in; c += channels)
            transform_weights(weight + ((start + o) * in + c) * 9, std::min(channels, in - c),
                              weights + place(o / kPanel, c) + o % kPanel * channels, kPanel * channels);
      });
      // Where there are few blocks, several threads transform the same one and compute some of the channels each.
      const int64_t shares = std::min(panels, (2 * threads() - 1) / blocks + 1);
      parallel(blocks * shares, kTiles * in * kSums * outs / shares, [=](int64_t begin, int64_t end) {
        static thread_local std::vector<float> own;
        own.resize(std::max(own.size(), static_cast<size_t>(scratch())));
        for (int64_t k = begin; k < end; ++k) {
          const int64_t block = k / shares, share = k % shares, row = block / each * tiles, part = block % each;
          compute(x, weights, bias + start, y + start * s.height * s.width, outs, row + tiles * part / each,
                  row + tiles * (part + 1) / each, panels * share / shares, panels * (share + 1) / shares, own.data());
        }
      });
    }
  }
};

}  // namespace svd
