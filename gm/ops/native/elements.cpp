// What changes each number by itself: sums, mixing, doubling; float32, called through mindspore.ops.Custom: see
// gm/ops/fused.py.
#include "kernel.h"

using namespace svd;

// x (n, s, c), values (n, 1, c) -> x + values.
KERNEL(AddToTokens) {
  if (!all_float32(count, dtypes)) return 1;
  const float *x = in(params[0]), *values = in(params[1]);
  float *y = out(params[2]);
  const int64_t n = shapes[0][0], s = shapes[0][1], c = shapes[0][2];
  parallel(n * s, 2 * c, [=](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row)
      for_lanes(c, [&](int64_t i, auto left) {
        store(y + row * c + i, load(x + row * c + i, left) + load(values + row / s * c + i, left), left);
      });
  });
  return 0;
}

// x (rows, c), bias (c), residual (rows, c) -> their sum.
KERNEL(AddBiased) {
  if (!all_float32(count, dtypes)) return 1;
  const float *x = in(params[0]), *bias = in(params[1]), *residual = in(params[2]);
  float *y = out(params[3]);
  const int64_t rows = shapes[0][0], c = shapes[0][1];
  parallel(rows, 3 * c, [=](int64_t first, int64_t last) {
    for (int64_t start = first * c; start < last * c; start += c)
      for_lanes(c, [&](int64_t i, auto left) {
        const Vec biased = load(x + start + i, left) + load(bias + i, left);
        store(y + start + i, load(residual + start + i, left) + biased, left);
      });
  });
  return 0;
}

// dy (n, s, c) -> its sums over the tokens, (n, 1, c).
KERNEL(SumOfTokens) {
  if (!all_float32(count, dtypes)) return 1;
  const float *dy = in(params[0]);
  float *sums = out(params[1]);
  const int64_t n = shapes[0][0], s = shapes[0][1], c = shapes[0][2];
  for (int64_t k = 0; k < n; ++k)
    sum_by_parts(s, c, sums + k * c, [=](int64_t row, float *to) {
      const float *from = dy + (k * s + row) * c;
      for_lanes(c, [&](int64_t i, auto left) { store(to + i, load(to + i, left) + load(from + i, left), left); });
    });
  return 0;
}

// first, second (n, ...), share (1) or (n, 1, ...) -> second + share * (first - second).
KERNEL(Mix) {
  if (!all_float32(count, dtypes)) return 1;
  const float *first = in(params[0]), *second = in(params[1]), *share = in(params[2]);
  float *y = out(params[3]);
  const int64_t shares = size(shapes[2], ndims[2]), each = size(shapes[0], ndims[0]) / shares;
  for (int64_t k = 0; k < shares; ++k)
    each_vector(each, [=](int64_t i, auto left) {
      const int64_t at = k * each + i;
      const Vec b = load(second + at, left);
      store(y + at, b + share[k] * (load(first + at, left) - b), left);
    });
  return 0;
}

// first, second, share, dy -> gradients of the three.
KERNEL(MixGradient) {
  if (!all_float32(count, dtypes)) return 1;
  const float *first = in(params[0]), *second = in(params[1]), *share = in(params[2]), *dy = in(params[3]);
  float *dfirst = out(params[4]), *dsecond = out(params[5]), *dshare = out(params[6]);
  const int64_t shares = size(shapes[2], ndims[2]), each = size(shapes[0], ndims[0]) / shares;
  constexpr int64_t kWidth = 1024;  // of the rows that are summed up, so that a float sums few numbers
  std::vector<float> sums(kWidth);
  for (int64_t k = 0; k < shares; ++k) {
    sum_by_parts((each + kWidth - 1) / kWidth, kWidth, sums.data(), [=](int64_t row, float *to) {
      const int64_t start = k * each + row * kWidth;
      for_lanes(std::min(kWidth, each - row * kWidth), [&](int64_t i, auto left) {
        const int64_t at = start + i;
        const Vec d = load(dy + at, left), by_first = d * share[k];
        store(dfirst + at, by_first, left);
        store(dsecond + at, d - by_first, left);
        store(to + i, load(to + i, left) + d * (load(first + at, left) - load(second + at, left)), left);
      });
    });
    dshare[k] = static_cast<float>(total(kWidth, [&](int64_t i, auto left) { return load(sums.data() + i, left); }));
  }
  return 0;
}

// x (n, c, h, w) -> (n, c, 2h, 2w): each number four times.
KERNEL(UpsampleNearest) {
  if (!all_float32(count, dtypes)) return 1;
  const float *x = in(params[0]);
  float *y = out(params[1]);
  const int64_t w = shapes[0][3];
  parallel(size(shapes[0], 3), 5 * w, [=](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const float *from = x + row * w;
      float *to = y + row * 4 * w;
      for (int64_t i = 0; i < w; ++i) to[2 * i] = to[2 * i + 1] = from[i];
      std::memcpy(to + 2 * w, to, sizeof(float) * static_cast<size_t>(2 * w));
    }
  });
  return 0;
}

// dy (n, c, 2h, 2w) -> gradient of x.
KERNEL(UpsampleNearestGradient) {
  if (!all_float32(count, dtypes)) return 1;
  const float *dy = in(params[0]);
  float *dx = out(params[1]);
  const int64_t w = shapes[1][3];
  parallel(size(shapes[1], 3), 5 * w, [=](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const float *upper = dy + row * 4 * w, *lower = upper + 2 * w;
      for (int64_t i = 0; i < w; ++i)
        dx[row * w + i] = (upper[2 * i] + upper[2 * i + 1]) + (lower[2 * i] + lower[2 * i + 1]);
    }
  });
  return 0;
}
