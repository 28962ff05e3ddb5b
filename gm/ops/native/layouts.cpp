// Axes in another order, float32, called through mindspore.ops.Custom(func_type="aot"): see gm/ops/fused.py.
#include "kernel.h"

using namespace svd;

namespace {

// put(matrix, column, row, values, left) for each vector of a column of `count` matrices (rows, columns).
template <class Put>
void each_column(const float *from, int64_t count, int64_t rows, int64_t columns, Put put) {
  const int64_t strips = (rows + kLanes - 1) / kLanes;
  parallel(count * strips, 2 * kLanes * columns, [=](int64_t first, int64_t last) {
    // A square of it at a time, so that every line of the cache is read and written once.
    float square[kLanes * kLanes] = {}, turned[kLanes * kLanes];
    for (int64_t strip = first; strip < last; ++strip) {
      const int64_t k = strip / strips, row = strip % strips * kLanes, height = std::min(kLanes, rows - row);
      for (int64_t column = 0; column < columns; column += kLanes) {
        const int64_t width = std::min(kLanes, columns - column);
        for (int64_t r = 0; r < height; ++r)
          store(square + r * kLanes, load(from + (k * rows + row + r) * columns + column, width));
        for (int64_t i = 0; i < kLanes; ++i)
          for (int64_t r = 0; r < kLanes; ++r) turned[i * kLanes + r] = square[r * kLanes + i];
        for (int64_t i = 0; i < width; ++i) put(k, column + i, row, load(turned + i * kLanes), height);
      }
    }
  });
}

// Four at a time behind the whole vectors: of the smallest images no row has more.
void copy_row(const float *from, float *to, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, load(from + i));
  for (; i + 4 <= count; i += 4) std::memcpy(to + i, from + i, 4 * sizeof(float));
  for (; i < count; ++i) to[i] = from[i];
}

}  // namespace

// x (n, rows, columns) -> (n, columns, rows).
KERNEL(Turn) {
  if (!all_float32(count, dtypes)) return 1;
  float *y = out(params[1]);
  const int64_t n = shapes[0][0], rows = shapes[0][1], columns = shapes[0][2];
  each_column(in(params[0]), n, rows, columns, [=](int64_t k, int64_t column, int64_t row, Vec values, int64_t left) {
    store(y + (k * columns + column) * rows + row, values, left);
  });
  return 0;
}

// tokens (n, s, c), bias (c), residual (n, c, s) -> residual + (tokens + bias), channels first.
KERNEL(AddToChannels) {
  if (!all_float32(count, dtypes)) return 1;
  const float *bias = in(params[1]), *residual = in(params[2]);
  float *y = out(params[3]);
  const int64_t n = shapes[0][0], s = shapes[0][1], c = shapes[0][2];
  each_column(in(params[0]), n, s, c, [=](int64_t k, int64_t channel, int64_t token, Vec values, int64_t left) {
    const int64_t at = (k * c + channel) * s + token;
    store(y + at, load(residual + at, left) + (values + bias[channel]), left);
  });
  return 0;
}

// x (n, a, b, s) -> (n, b, a, s).
KERNEL(SwapMiddleAxes) {
  if (!all_float32(count, dtypes)) return 1;
  const float *x = in(params[0]);
  float *y = out(params[1]);
  const int64_t a = shapes[0][1], b = shapes[0][2], s = shapes[0][3];
  parallel(shapes[0][0] * b, 2 * a * s, [=](int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k) {
      const float *from = x + (k / b * a * b + k % b) * s;
      for (int64_t i = 0; i < a; ++i) copy_row(from + i * b * s, y + (k * a + i) * s, s);
    }
  });
  return 0;
}
