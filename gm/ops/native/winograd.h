// Convolutions with fewer multiplications, by Winograd's way: sums of a few inputs are multiplied instead of them.
//
// Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (arXiv:1509.09308), section 4.1. Every tile of the
// input, which overlap by two, becomes some sums, and so does every kernel; their products, summed over channels, are as
// many products of matrices; sums of these are the tile of the result. All factors are 1 or 1/2, so it is rounded no
// more than a plain convolution. What tiles and their sums are is in winograd_pixels.h and winograd_frames.h.
#pragma once

#include <memory>
#include <vector>

#include "kernel.h"
#include "product.h"

namespace svd {

constexpr int64_t kPanel = 4 * kRows;  // channels of y at once, for which the sums stay in the first cache
constexpr int64_t kHeld = 1 << 22;     // floats of the kernels' sums held at once: 16 MB

// Images, or videos, as rows of tiles.
struct Rows {
  int64_t images, down, across;
  int64_t tiles() const { return images * down * across; }

  // Whether it is faster than a plain convolution: what is done for each number or each weight alone is less than the
  // rest. How many images there are has no part in it, so that each is computed alone as it is beside others.
  bool pay(int64_t in, int64_t out) const { return down * across >= 64 && std::min(in, out) >= 32; }

  // body(image, row, column, count, at) for each part of tiles first .. last that lies in one row; at: tiles before it.
  template <class Body>
  void each_part(int64_t first, int64_t last, Body body) const {
    for (int64_t tile = first, end; tile < last; tile = end) {
      const int64_t row = tile / across, column = tile - row * across;
      end = std::min(last, tile - column + across);
      body(row / down, row % down, column, end - tile, tile - first);
    }
  }
};

// x (n, in, h, w), weight (out, in, ...), bias (out), y (n, out, h, w). Tiles: `PixelTiles` or `FrameTiles`.
template <class Tiles>
struct Winograd {
  // Channels of x at once: the sums of a block's tiles fill half of the second cache. More are rounded more.
  static constexpr int64_t kSums = Tiles::kSums, kTiles = Tiles::kTiles;
  static constexpr int64_t kDepth = std::min<int64_t>(128, kSecondCache / 2 / (kSums * kTiles));

  Tiles s;
  int64_t in, out;
  int64_t channels = std::min(in, kDepth), parts = (in - 1) / channels + 1;
  int64_t apart = channels * kTiles + kLanes;  // of the tiles' sums

  // Where the sums of the kernels of a panel of y and a part of x lie, (16, kPanel, channels).
  int64_t place(int64_t panel, int64_t c) const { return (panel * parts + c / channels) * kSums * kPanel * channels; }

  int64_t scratch() const { return kSums * (apart + kPanel * kTiles) + kLanes + s.room(); }

  // Tiles first .. last of all and panels from .. to of y.
  void compute(const float *x, const float *weights, const float *bias, float *y, int64_t outs, int64_t first,
               int64_t last, int64_t from, int64_t to, float *memory) const {
    float *tiles = memory, *products = tiles + kSums * apart + kLanes, *rest = products + kSums * kPanel * kTiles;
    const int64_t plane = s.plane();
    for (int64_t c = 0; c < in; c += channels) {
      const int64_t depth = std::min(channels, in - c);
      s.transform(x + c * plane, in * plane, depth, first, last, tiles, apart, rest);
      for (int64_t panel = from; panel < to; ++panel) {
        const int64_t start = panel * kPanel, rows = std::min(kPanel, outs - start);
        for (int64_t i = 0; i < kSums; ++i)
          multiply({weights + place(panel, c) + i * kPanel * channels, channels, 1}, tiles + i * apart,
                   products + i * kPanel * kTiles, rows, depth, kTiles, false);
        for (int64_t o = start; o < start + rows; ++o)
          s.transform_back(products + (o - start) * kTiles, kPanel * kTiles, first, last, c ? nullptr : bias + o,
                           y + o * plane, out * plane);
      }
    }
  }

  void operator()(const float *x, const float *weight, const float *bias, float *y) const {
    const int64_t held = std::max<int64_t>(1, std::min((out - 1) / kPanel + 1, kHeld / place(1, 0))) * kPanel;
    const std::unique_ptr<float[]> memory(new float[static_cast<size_t>(place(held / kPanel, 0))]);
    float *weights = memory.get();
    const int64_t rows = s.rows.across < kTiles ? 1 : s.rows.images * s.rows.down, tiles = s.rows.tiles() / rows;
    const int64_t each = (tiles - 1) / kTiles + 1, blocks = rows * each;
    for (int64_t start = 0; start < out; start += held) {
      const int64_t outs = std::min(held, out - start), panels = (outs - 1) / kPanel + 1;
      parallel(outs, Tiles::kWeights * in, [=](int64_t begin, int64_t end) {
        for (int64_t o = begin; o < end; ++o)
          for (int64_t c = 0; c < in; c += channels)
            Tiles::transform_weights(weight + ((start + o) * in + c) * Tiles::kWeights, std::min(channels, in - c),
                                     weights + place(o / kPanel, c) + o % kPanel * channels, kPanel * channels);
      });
      // Where there are few blocks, several threads transform the same one and compute some of the channels each.
      const int64_t shares = std::min(panels, (2 * threads() - 1) / blocks + 1);
      parallel(blocks * shares, kTiles * in * kSums * outs / shares, [=](int64_t begin, int64_t end) {
        static thread_local std::vector<float> own;
        own.resize(std::max(own.size(), static_cast<size_t>(scratch())));
        for (int64_t k = begin; k < end; ++k) {
          const int64_t block = k / shares, share = k % shares, row = block / each * tiles, part = block % each;
          compute(x, weights, bias + start, y + start * s.plane(), outs, row + tiles * part / each,
                  row + tiles * (part + 1) / each, panels * share / shares, panels * (share + 1) / shares, own.data());
        }
      });
    }
  }
};

}  // namespace svd
