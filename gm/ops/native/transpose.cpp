// Rows of numbers in another order, float32, called through mindspore.ops.Custom(func_type="aot"): see gm/ops/fused.py.
#include "kernel.h"

using namespace svd;

// Four at a time behind the whole vectors: of the smallest images no row has more.
static void copy_row(const float *from, float *to, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, load(from + i));
  for (; i + 4 <= count; i += 4) std::memcpy(to + i, from + i, 4 * sizeof(float));
  for (; i < count; ++i) to[i] = from[i];
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
