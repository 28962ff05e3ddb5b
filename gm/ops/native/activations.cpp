// GEGLU, GELU and SiLU, float32, called through mindspore.ops.Custom(func_type="aot"): see gm/ops/fused.py.
#include "kernel.h"

using namespace svd;

// projected (..., 2 * inner), bias (2 * inner) -> (..., inner): value * gelu(gate) of their sum.
KERNEL(Geglu) {
  if (!all_float32(count, dtypes)) return 1;
  const float *x = in(params[0]), *bias = in(params[1]);
  float *y = out(params[2]);
  const int64_t inner = shapes[1][0] / 2, rows = size(shapes[2], ndims[2]) / inner;
  parallel(rows, 2 * inner, [=](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const float *value = x + row * 2 * inner, *gate = value + inner;
      for_lanes(inner, [&](int64_t i, auto left) {
        const Vec g = load(gate + i, left) + load(bias + inner + i, left);
        store(y + row * inner + i, (load(value + i, left) + load(bias + i, left)) * g * normal(g).cumulative, left);
      });
    }
  });
  return 0;
}

// projected, bias, dy (..., inner) -> gradients of projected and bias.
KERNEL(GegluGradient) {
  if (!all_float32(count, dtypes)) return 1;
  const float *x = in(params[0]), *bias = in(params[1]), *dy = in(params[2]);
  float *dx = out(params[3]);
  const int64_t inner = shapes[1][0] / 2, rows = size(shapes[2], ndims[2]) / inner;
  sum_by_parts(rows, 2 * inner, out(params[4]), [=](int64_t row, float *to_bias) {
    const float *value = x + row * 2 * inner, *gate = value + inner;
    float *to_value = dx + row * 2 * inner, *to_gate = to_value + inner;
    for_lanes(inner, [&](int64_t i, auto left) {
      const Vec g = load(gate + i, left) + load(bias + inner + i, left), d = load(dy + row * inner + i, left);
      const Normal n = normal(g);
      const Vec by_value = d * g * n.cumulative;
      const Vec by_gate = d * (load(value + i, left) + load(bias + i, left)) * (n.cumulative + g * n.density);
      store(to_value + i, by_value, left);
      store(to_gate + i, by_gate, left);
      store(to_bias + i, load(to_bias + i, left) + by_value, left);
      store(to_bias + inner + i, load(to_bias + inner + i, left) + by_gate, left);
    });
  });
  return 0;
}

// x * Phi(x)
KERNEL(Gelu) {
  if (!all_float32(count, dtypes)) return 1;
  const float *x = in(params[0]);
  float *y = out(params[1]);
  each_vector(size(shapes[0], ndims[0]), [=](int64_t i, auto left) {
    const Vec v = load(x + i, left);
    store(y + i, v * normal(v).cumulative, left);
  });
  return 0;
}

// x, dy -> gradient of x.
KERNEL(GeluGradient) {
  if (!all_float32(count, dtypes)) return 1;
  const float *x = in(params[0]), *dy = in(params[1]);
  float *dx = out(params[2]);
  each_vector(size(shapes[0], ndims[0]), [=](int64_t i, auto left) {
    const Vec v = load(x + i, left);
    const Normal n = normal(v);
    store(dx + i, load(dy + i, left) * (n.cumulative + v * n.density), left);
  });
  return 0;
}

KERNEL(Silu) {
  if (!all_float32(count, dtypes)) return 1;
  const float *x = in(params[0]);
  float *y = out(params[1]);
  each_vector(size(shapes[0], ndims[0]), [=](int64_t i, auto left) {
    const Vec v = load(x + i, left);
    store(y + i, v * logistic(v), left);
  });
  return 0;
}

// x, dy -> gradient of x.
KERNEL(SiluGradient) {
  if (!all_float32(count, dtypes)) return 1;
  const float *x = in(params[0]), *dy = in(params[1]);
  float *dx = out(params[2]);
  each_vector(size(shapes[0], ndims[0]), [=](int64_t i, auto left) {
    const Vec v = load(x + i, left), s = logistic(v);
    store(dx + i, load(dy + i, left) * s * (1.0f + v * (1.0f - s)), left);
  });
  return 0;
}
