// The gradient of a convolution's weights, float32, called through mindspore.ops.Custom(func_type="aot"): see
// gm/ops/fused.py.
//
// For each tap it is the product of dy (channels, pixels) with the pixels of x moved by that tap (pixels, channels). A
// thread copies as many channels of x as a tile of the product has, turned to pixels by channels, with zeros around, so
// that all taps read the same copy. Every weight is summed by one thread, in the same order whatever their number.
#include <vector>

#include "kernel.h"
#include "product.h"

using namespace svd;

namespace {

struct Images {
  int64_t count, channels, height, width;
  int64_t plane() const { return height * width; }
};

struct Part {
  int64_t top, left, rows, columns;
};

// `channels` of an image, at most kColumns, to (rows + 2, columns + 2 * zeros, kColumns): zeros outside it.
void copy(const float *image, float *to, const Images &x, const Part &part, int64_t channels, int64_t zeros) {
  const int64_t columns = part.columns + 2 * zeros, shift = part.left - zeros;
  const int64_t start = std::max<int64_t>(0, -shift), end = std::min(columns, x.width - shift);
  for (int64_t y = part.top - 1; y <= part.top + part.rows; ++y, to += columns * kColumns) {
    const bool inside = y >= 0 && y < x.height, whole = inside && start == 0 && end == columns && channels == kColumns;
    if (!whole) std::fill_n(to, columns * kColumns, 0.0f);
    const float *from = image + y * x.width + shift;
    int64_t c = 0;
    for (; inside && c + 4 <= channels; c += 4, from += 4 * x.plane())  // fewer writes
      for (int64_t column = start; column < end; ++column) {
        const float *first = from + column, *third = first + 2 * x.plane();
        const float four[] = {first[0], first[x.plane()], third[0], third[x.plane()]};
        std::memcpy(to + column * kColumns + c, four, sizeof four);
      }
    for (; inside && c < channels; ++c, from += x.plane())
      for (int64_t column = start; column < end; ++column) to[column * kColumns + c] = from[column];
  }
}

// sums (3 * taps, last - first, kColumns) += the products for a part of an image of dy (channels, height * width).
void add_part(const float *dy, const float *copied, const Images &images, const Part &part, int64_t taps, int64_t first,
              int64_t last, float *sums) {
  const int64_t row = part.columns + (taps > 1 ? 2 : 0), rows = last - first;
  for (int64_t tap = 0; tap < 3 * taps; ++tap) {
    const int64_t above = part.top + tap / taps - 1;  // the row of x for the first of dy
    const int64_t begin = std::max<int64_t>(0, -above), end = std::min(part.rows, images.height - above);
    const int64_t lines = row == images.width ? end - begin : 1;  // at once, as they lie one behind the other
    for (int64_t line = begin; line < end; line += lines) {
      const Matrix left{dy + first * images.plane() + (part.top + line) * images.width + part.left, images.plane(), 1};
      const float *right = copied + ((line + tap / taps) * row + tap % taps) * kColumns;
      multiply(left, right, sums + tap * rows * kColumns, rows, lines * part.columns, kColumns, true);
    }
  }
}

// sums (Taps, rows, kColumns) -> (rows, channels, Taps), whose rows are `stride` apart.
template <int Taps>
void write(const float *sums, int64_t rows, int64_t channels, int64_t stride, float *to) {
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t c = 0; c < channels; ++c)
      for (int tap = 0; tap < Taps; ++tap)
        to[row * stride + c * Taps + tap] = sums[(tap * rows + row) * kColumns + c];
}

}  // namespace

// x (n, in, h, w), weight (out, in, 3, taps) for its shape, dy (n, out, h, w) -> gradients of weight and bias (out).
KERNEL(ConvolutionWeightGradient) {
  if (!all_float32(count, dtypes)) return 1;
  const float *x = in(params[0]), *dy = in(params[2]);
  float *dweight = out(params[3]), *dbias = out(params[4]);
  const Images images{shapes[0][0], shapes[0][1], shapes[0][2], shapes[0][3]};
  const int64_t outs = shapes[1][0], taps = shapes[1][3], zeros = taps > 1 ? 1 : 0, plane = images.plane();
  // Parts of whole rows, or, for kernels that are one column wide, of whole columns.
  Part part{0, 0, images.height, images.width};
  const auto size = [&] { return (part.rows + 2) * (part.columns + 2 * zeros) * kColumns; };
  int64_t &side = taps > 1 ? part.rows : part.columns;
  while (side > 1 && size() > kCopied) side = (side + 1) / 2;
  const int64_t blocks = (images.channels + kColumns - 1) / kColumns, panels = (outs + kRows - 1) / kRows;
  int64_t shares = 1;  // of dy's channels, each with a copy of x: few, but the same number for every thread
  while (shares < panels && blocks * shares % threads() != 0 && blocks * shares < 4 * threads()) ++shares;
  const int64_t room = size();
  const int64_t cost = images.count * plane * kColumns * 3 * taps * outs / shares;
  parallel(blocks * shares, cost, [=](int64_t begin, int64_t end) {
    std::vector<float> copied(static_cast<size_t>(room)), sums;
    for (int64_t k = begin; k < end; ++k) {
      const int64_t start = k / shares * kColumns, channels = std::min(kColumns, images.channels - start);
      const int64_t first = panels * (k % shares) / shares * kRows;
      const int64_t last = std::min(outs, panels * (k % shares + 1) / shares * kRows), rows = last - first;
      sums.assign(static_cast<size_t>(3 * taps * rows * kColumns), 0.0f);
      for (int64_t n = 0; n < images.count; ++n)
        for (int64_t top = 0; top < images.height; top += part.rows)
          for (int64_t left = 0; left < images.width; left += part.columns) {
            const int64_t height = std::min(part.rows, images.height - top);
            const Part here{top, left, height, std::min(part.columns, images.width - left)};
            copy(x + (n * images.channels + start) * plane, copied.data(), images, here, channels, zeros);
            add_part(dy + n * outs * plane, copied.data(), images, here, taps, first, last, sums.data());
          }
      const int64_t stride = images.channels * 3 * taps;
      (taps == 3 ? write<9> : write<3>)(sums.data(), rows, channels, stride, dweight + first * stride + start * 3 * taps);
    }
  });
  parallel(outs, images.count * plane, [=](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      double sum = 0;
      for (int64_t n = 0; n < images.count; ++n)
        sum += total(plane, [&](int64_t i, auto left) { return load(dy + (n * outs + o) * plane + i, left); });
      dbias[o] = static_cast<float>(sum);
    }
  });
  return 0;
}
