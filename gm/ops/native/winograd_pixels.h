// Tiles of pixels, for convolutions of three by three: F(2x2, 3x3), 16 multiplications for four pixels instead of 36.
#pragma once

#include "winograd.h"

namespace svd {

// Images (height, width), cut into tiles of 4x4 pixels that overlap by two; 2x2 of the result each.
struct PixelTiles {
  static constexpr int64_t kSums = 16, kWeights = 9;
  static constexpr int64_t kTiles = kLanes == 16 ? 64 : 32;  // computed at once, a multiple of kColumns

  int64_t images, height, width;
  Rows rows{images, (height + 1) / 2, (width + 1) / 2};

  int64_t plane() const { return height * width; }

  // How many floats `transform` needs: rows of pixels, and what is summed over columns, of a block and its edges.
  int64_t room() const { return 16 * (kTiles + 4 * std::min(rows.across, kTiles) + kLanes); }

  // `channels` channels of x, whose images are `image` apart: the 16 sums of tiles first .. last, `apart` from one another,
  // rows of kTiles. They are written in whole vectors: some floats after the last are overwritten.
  void transform(const float *x, int64_t image, int64_t channels, int64_t first, int64_t last, float *to, int64_t apart,
                 float *memory) const {
    const std::vector<Patch> found = patches(first, last);
    for (int64_t j = 0; j < channels; ++j)
      for (const Patch &patch : found)
        transform_patch(x + patch.image * image + j * plane(), patch, to + j * kTiles, apart, memory);
  }

  // weight (channels, 3, 3) -> 16 sums of each, (16, channels), which are `apart`.
  static void transform_weights(const float *weight, int64_t channels, float *to, int64_t apart) {
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
  void transform_back(const float *sums, int64_t apart, int64_t first, int64_t last, const float *bias, float *y,
                      int64_t image) const {
    float pixels[2][2][kTiles];  // of even and odd rows, then columns
    for (int64_t x = 0; x < kTiles; x += kLanes) {
      Vec lines[2][4];
      for (int j = 0; j < 4; ++j) {
        const Vec a = load(sums + j * apart + x), b = load(sums + (4 + j) * apart + x);
        const Vec c = load(sums + (8 + j) * apart + x), d = load(sums + (12 + j) * apart + x);
        lines[0][j] = a + b + c, lines[1][j] = b - c - d;
      }
      for (int i = 0; i < 2; ++i) {
        store(pixels[i][0] + x, lines[i][0] + lines[i][1] + lines[i][2]);
        store(pixels[i][1] + x, lines[i][1] - lines[i][2] - lines[i][3]);
      }
    }
    rows.each_part(first, last, [&](int64_t index, int64_t row, int64_t column, int64_t count, int64_t at) {
      const int64_t whole = std::min(count, width / 2 - column);
      for (int64_t i = 0; i < 2 && 2 * row + i < height; ++i) {
        float *to = y + index * image + (2 * row + i) * width + 2 * column;
        const float *even = pixels[i][0] + at, *odd = pixels[i][1] + at;
        const auto write = [=](auto before) {
          for (int64_t x = 0; x < whole; ++x)
            to[2 * x] = before(2 * x) + even[x], to[2 * x + 1] = before(2 * x + 1) + odd[x];
          if (whole < count) to[2 * whole] = before(2 * whole) + even[whole];
        };
        bias ? write([=](int64_t) { return *bias; }) : write([=](int64_t x) { return to[x]; });
      }
    });
  }

 private:
  // Those tiles of a block that lie in one image, first .. last counted in it; the columns of tiles that hold them; how
  // many of the block are before them.
  struct Patch {
    int64_t image, first, last, left, columns, at;
  };

  // Tiles first .. last of all. Several rows, or a part of one.
  std::vector<Patch> patches(int64_t first, int64_t last) const {
    const int64_t each = rows.down * rows.across;
    std::vector<Patch> found;
    for (int64_t tile = first, end; tile < last; tile = end) {
      const int64_t image = tile / each, begin = tile - image * each;
      end = std::min(last, (image + 1) * each);
      const int64_t stop = end - image * each;
      const bool one_row = (stop - 1) / rows.across == begin / rows.across;
      found.push_back({image, begin, stop, one_row ? begin % rows.across : 0, one_row ? stop - begin : rows.across,
                       tile - first});
    }
    return found;
  }

  void transform_patch(const float *pixels, const Patch &patch, float *to, int64_t apart, float *memory) const {
    const int64_t columns = patch.columns, length = 2 * columns + 2;
    const int64_t top = patch.first / rows.across, pairs = (patch.last - 1) / rows.across - top + 2;  // of rows
    const int64_t left = 2 * patch.left - 1, start = std::max<int64_t>(0, -left), end = std::min(length, width - left);
    for (int64_t row = 0; row < 2 * pairs; ++row) {
      const int64_t y = 2 * top - 1 + row;
      float *line = memory + row * length;
      const bool inside = y >= 0 && y < height;
      std::fill(line, line + (inside ? start : length), 0.0f);
      if (inside) std::copy_n(pixels + y * width + left + start, end - start, line + start);
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
    const int64_t skipped = patch.first - top * rows.across - patch.left;
    for (int64_t x = 0; x < patch.last - patch.first; x += kLanes)
      for (int j = 0; j < 4; ++j) {
        const float *odd = summed + j * size + skipped + x, *even = odd + 4 * size;
        const Vec a = load(odd), b = load(even), c = load(odd + columns), d = load(even + columns);
        float *place = to + j * apart + patch.at + x;
        store(place, a - c), store(place + 4 * apart, b + c), store(place + 8 * apart, c - b);
        store(place + 12 * apart, b - d);
      }
  }
};

}  // namespace svd
