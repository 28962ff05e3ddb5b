// Tiles of frames, for convolutions over time: F(2, 3), four multiplications for two frames instead of six.
#pragma once

#include "winograd.h"

namespace svd {

// Videos (frames, pixels), cut into tiles of a pixel in four frames that overlap by two; two frames of the result each.
struct FrameTiles {
  static constexpr int64_t kSums = 4, kWeights = 3;
  static constexpr int64_t kTiles = 64;  // computed at once, a multiple of kColumns

  int64_t videos, frames, pixels;
  Rows rows{videos, (frames + 1) / 2, pixels};

  int64_t plane() const { return frames * pixels; }
  int64_t room() const { return kTiles; }  // zeros, in place of what is outside

  // `channels` channels of x, whose videos are `video` apart: the four sums of tiles first .. last, `apart` from one
  // another, rows of kTiles. They are written in whole vectors: some floats after the last are overwritten.
  void transform(const float *x, int64_t video, int64_t channels, int64_t first, int64_t last, float *to, int64_t apart,
                 float *memory) const {
    std::fill(memory, memory + kTiles, 0.0f);
    for (int64_t j = 0; j < channels; ++j, x += plane(), to += kTiles)
      rows.each_part(first, last, [=](int64_t index, int64_t row, int64_t column, int64_t count, int64_t at) {
        const float *four[4];
        for (int64_t i = 0, frame = 2 * row - 1; i < 4; ++i, ++frame)
          four[i] = frame < 0 || frame >= frames ? memory : x + index * video + frame * pixels + column;
        for_lanes(count, [=](int64_t i, auto left) {
          const Vec a = load(four[0] + i, left), b = load(four[1] + i, left), c = load(four[2] + i, left);
          float *place = to + at + i;
          store(place, a - c), store(place + apart, b + c), store(place + 2 * apart, c - b);
          store(place + 3 * apart, b - load(four[3] + i, left));
        });
      });
  }

  // weight (channels, 3) -> four sums of each, (4, channels), which are `apart`.
  static void transform_weights(const float *weight, int64_t channels, float *to, int64_t apart) {
    for (int64_t i = 0; i < channels; ++i) {
      const float a = weight[3 * i], c = weight[3 * i + 2], outer = 0.5f * (a + c), inner = 0.5f * weight[3 * i + 1];
      to[i] = a, to[apart + i] = outer + inner, to[2 * apart + i] = outer - inner, to[3 * apart + i] = c;
    }
  }

  // The pixels of a channel's tiles from their four sums, which are `apart`: added to *bias, or if null to what is in y.
  void transform_back(const float *sums, int64_t apart, int64_t first, int64_t last, const float *bias, float *y,
                      int64_t video) const {
    rows.each_part(first, last, [=](int64_t index, int64_t row, int64_t column, int64_t count, int64_t at) {
      const float *from = sums + at;
      float *even = y + index * video + 2 * row * pixels + column, *odd = 2 * row + 1 < frames ? even + pixels : nullptr;
      for_lanes(count, [=](int64_t i, auto left) {
        const Vec a = load(from + i, left), b = load(from + apart + i, left), c = load(from + 2 * apart + i, left);
        store(even + i, (bias ? fill(*bias) : load(even + i, left)) + (a + b + c), left);
        if (!odd) return;
        const Vec last_sums = b - c - load(from + 3 * apart + i, left);
        store(odd + i, (bias ? fill(*bias) : load(odd + i, left)) + last_sums, left);
      });
    });
  }
};

}  // namespace svd
