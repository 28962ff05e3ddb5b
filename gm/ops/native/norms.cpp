// GroupNorm, with and without SiLU, and LayerNorm, float32: see gm/ops/fused.py. Statistics in two passes: the variance
// comes from differences to the mean.
#include <cmath>

#include "kernel.h"

using namespace svd;

namespace {

// 1 in the lanes that hold a number, 0 in the rest.
Vec present(Whole) { return fill(1.0f); }
Vec present(int64_t left) {
  Vec v{};
  for (int64_t i = 0; i < left; ++i) v[i] = 1.0f;
  return v;
}

struct Moments {
  float mean, scale;  // scale: 1 / sqrt(variance + epsilon)
};

Moments moments(const float *x, int64_t n, float epsilon) {
  const float mean = static_cast<float>(total(n, [&](int64_t i, auto left) { return load(x + i, left); }) / n);
  const double squares = total(n, [&](int64_t i, auto left) {
    const Vec d = (load(x + i, left) - mean) * present(left);
    return d * d;
  });
  return {mean, static_cast<float>(1.0 / std::sqrt(squares / n + epsilon))};
}

// x (b, groups, channels of a group, s). One (video or frame, group) after the other lies in memory as one piece, made of
// rows: channels, or where a number is added to each frame of a channel, these.
struct Groups {
  int64_t b, groups, channels, s, frames;
  explicit Groups(const int64_t *shape, int64_t frames = 1)
      : b(shape[0]), groups(shape[1]), channels(shape[2]), s(shape[3]), frames(frames) {}
  int64_t piece() const { return channels * s; }
  int64_t rows() const { return channels * frames; }
  int64_t row() const { return s / frames; }
  int64_t channel(int64_t piece, int64_t row) const { return piece % groups * channels + row / frames; }
};

// Of one piece at x; added: nullptr, or what is added to each of its rows.
Moments moments(const Groups &g, const float *x, const float *added, float epsilon) {
  if (added == nullptr) return moments(x, g.piece(), epsilon);
  double sums = 0, squares = 0;
  for (int64_t k = 0; k < g.rows(); ++k) {
    const float *row = x + k * g.row();
    sums += total(g.row(), [&](int64_t i, auto left) { return load(row + i, left); }) + g.row() * double{added[k]};
  }
  const float mean = static_cast<float>(sums / g.piece());
  for (int64_t k = 0; k < g.rows(); ++k) {
    const float *row = x + k * g.row();
    const float shift = added[k] - mean;
    squares += total(g.row(), [&](int64_t i, auto left) {
      const Vec d = (load(row + i, left) + shift) * present(left);
      return d * d;
    });
  }
  return {mean, static_cast<float>(1.0 / std::sqrt(squares / g.piece() + epsilon))};
}

template <bool kSilu>
void group_norm(const Groups &g, const float *x, const float *weight, const float *bias, float epsilon,
                const float *added, float *y) {
  parallel(g.b * g.groups, g.piece(), [=](int64_t first, int64_t last) {
    for (int64_t piece = first; piece < last; ++piece) {
      const float *shifts = added == nullptr ? nullptr : added + piece * g.rows();
      const Moments m = moments(g, x + piece * g.piece(), shifts, epsilon);
      for (int64_t k = 0; k < g.rows(); ++k) {
        const int64_t channel = g.channel(piece, k), start = piece * g.piece() + k * g.row();
        const float offset = (shifts == nullptr ? 0.0f : shifts[k]) - m.mean;
        const float factor = weight[channel] * m.scale, shift = bias[channel];
        for_lanes(g.row(), [&](int64_t i, auto left) {
          Vec v = (load(x + start + i, left) + offset) * factor + shift;
          if (kSilu) v = v * logistic(v);
          store(y + start + i, v, left);
        });
      }
    }
  });
}

template <bool kSilu>
void group_norm_gradient(const Groups &g, const float *x, const float *weight, const float *bias, float epsilon,
                         const float *added, const float *dy, float *dx, float *dweight, float *dbias, float *dadded) {
  const int64_t channels = g.groups * g.channels;
  std::vector<double> by_weight(static_cast<size_t>(g.b * channels)), by_bias(by_weight.size());
  double *to_weight = by_weight.data(), *to_bias = by_bias.data();
  parallel(g.b * g.groups, 2 * g.piece(), [=](int64_t first, int64_t last) {
    for (int64_t piece = first; piece < last; ++piece) {
      const float *shifts = added == nullptr ? nullptr : added + piece * g.rows();
      const Moments m = moments(g, x + piece * g.piece(), shifts, epsilon);
      double sum_1 = 0, sum_2 = 0;
      for (int64_t k = 0; k < g.rows(); ++k) {
        const int64_t channel = g.channel(piece, k), start = piece * g.piece() + k * g.row();
        const float w = weight[channel], shift = bias[channel];
        const float offset = (shifts == nullptr ? 0.0f : shifts[k]) - m.mean;
        const double by_normal = total(g.row(), [&](int64_t i, auto left) {
          const Vec normal = (load(x + start + i, left) + offset) * m.scale;
          Vec d = load(dy + start + i, left);
          if (kSilu) {
            const Vec z = normal * w + shift, s = logistic(z);
            d = d * s * (1.0f + z * (1.0f - s));
          }
          store(dx + start + i, d, left);  // the gradient of the norm's output, for the next pass
          return d * normal;
        });
        const double plain = total(g.row(), [&](int64_t i, auto left) { return load(dx + start + i, left); });
        to_weight[piece / g.groups * channels + channel] += by_normal;
        to_bias[piece / g.groups * channels + channel] += plain;
        sum_1 += w * plain;
        sum_2 += w * by_normal;
      }
      const float mean_1 = static_cast<float>(sum_1 / g.piece()), mean_2 = static_cast<float>(sum_2 / g.piece());
      for (int64_t k = 0; k < g.rows(); ++k) {
        const int64_t start = piece * g.piece() + k * g.row();
        const float w = weight[g.channel(piece, k)], offset = (shifts == nullptr ? 0.0f : shifts[k]) - m.mean;
        for_lanes(g.row(), [&](int64_t i, auto left) {
          const Vec normal = (load(x + start + i, left) + offset) * m.scale;
          store(dx + start + i, (load(dx + start + i, left) * w - mean_1 - normal * mean_2) * m.scale, left);
        });
        if (shifts == nullptr) continue;
        const double sum = total(g.row(), [&](int64_t i, auto left) { return load(dx + start + i, left); });
        dadded[piece * g.rows() + k] = static_cast<float>(sum);
      }
    }
  });
  for (int64_t channel = 0; channel < channels; ++channel) {
    double w = 0, b = 0;
    for (int64_t video = 0; video < g.b; ++video) {
      w += to_weight[video * channels + channel];
      b += to_bias[video * channels + channel];
    }
    dweight[channel] = static_cast<float>(w);
    dbias[channel] = static_cast<float>(b);
  }
}

}  // namespace

// x (b, groups, c, s), weight, bias (groups * c), epsilon (1) -> y.
KERNEL(GroupNorm) {
  if (!all_float32(count, dtypes)) return 1;
  group_norm<false>(Groups(shapes[0]), in(params[0]), in(params[1]), in(params[2]), *in(params[3]), nullptr,
                    out(params[4]));
  return 0;
}

KERNEL(GroupNormSilu) {
  if (!all_float32(count, dtypes)) return 1;
  group_norm<true>(Groups(shapes[0]), in(params[0]), in(params[1]), in(params[2]), *in(params[3]), nullptr,
                    out(params[4]));
  return 0;
}

// x, weight, bias, epsilon, dy -> gradients of x, weight, bias.
KERNEL(GroupNormGradient) {
  if (!all_float32(count, dtypes)) return 1;
  group_norm_gradient<false>(Groups(shapes[0]), in(params[0]), in(params[1]), in(params[2]), *in(params[3]), nullptr,
                             in(params[4]), out(params[5]), out(params[6]), out(params[7]), nullptr);
  return 0;
}

KERNEL(GroupNormSiluGradient) {
  if (!all_float32(count, dtypes)) return 1;
  group_norm_gradient<true>(Groups(shapes[0]), in(params[0]), in(params[1]), in(params[2]), *in(params[3]), nullptr,
                            in(params[4]), out(params[5]), out(params[6]), out(params[7]), nullptr);
  return 0;
}

// The same of x + added (b, groups, c, frames): a number for each s / frames numbers of x.
KERNEL(AddGroupNormSilu) {
  if (!all_float32(count, dtypes)) return 1;
  group_norm<true>(Groups(shapes[0], shapes[4][3]), in(params[0]), in(params[1]), in(params[2]), *in(params[3]),
                   in(params[4]), out(params[5]));
  return 0;
}

// x, weight, bias, epsilon, added, dy -> gradients of x, weight, bias, added.
KERNEL(AddGroupNormSiluGradient) {
  if (!all_float32(count, dtypes)) return 1;
  group_norm_gradient<true>(Groups(shapes[0], shapes[4][3]), in(params[0]), in(params[1]), in(params[2]),
                            *in(params[3]), in(params[4]), in(params[5]), out(params[6]), out(params[7]),
                            out(params[8]), out(params[9]));
  return 0;
}

// x (..., c), weight, bias (c), epsilon (1) -> y.
KERNEL(LayerNorm) {
  if (!all_float32(count, dtypes)) return 1;
  const float *x = in(params[0]), *weight = in(params[1]), *bias = in(params[2]);
  const float epsilon = *in(params[3]);
  float *y = out(params[4]);
  const int64_t c = shapes[1][0], rows = size(shapes[0], ndims[0]) / c;
  parallel(rows, c, [=](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const Moments m = moments(x + row * c, c, epsilon);
      for_lanes(c, [&](int64_t i, auto left) {
        const Vec normal = (load(x + row * c + i, left) - m.mean) * m.scale;
        store(y + row * c + i, normal * load(weight + i, left) + load(bias + i, left), left);
      });
    }
  });
  return 0;
}

// x, weight, epsilon, dy -> gradients of x and of weight and bias, the latter two in one array (2, c).
KERNEL(LayerNormGradient) {
  if (!all_float32(count, dtypes)) return 1;
  const float *x = in(params[0]), *weight = in(params[1]), *dy = in(params[3]);
  const float epsilon = *in(params[2]);
  float *dx = out(params[4]);
  const int64_t c = shapes[1][0], rows = size(shapes[0], ndims[0]) / c;
  sum_by_parts(rows, 2 * c, out(params[5]), [=](int64_t row, float *to_weight) {
    const float *from = x + row * c, *d = dy + row * c;
    float *to_bias = to_weight + c;
    const Moments m = moments(from, c, epsilon);
    Vec sum_1{}, sum_2{};
    for_lanes(c, [&](int64_t i, auto left) {
      const Vec normal = (load(from + i, left) - m.mean) * m.scale, g = load(d + i, left);
      const Vec by_normal = g * load(weight + i, left);
      store(to_weight + i, load(to_weight + i, left) + g * normal, left);
      store(to_bias + i, load(to_bias + i, left) + g, left);
      sum_1 += by_normal;
      sum_2 += by_normal * normal;
    });
    const float mean_1 = sum(sum_1) / static_cast<float>(c), mean_2 = sum(sum_2) / static_cast<float>(c);
    for_lanes(c, [&](int64_t i, auto left) {
      const Vec normal = (load(from + i, left) - m.mean) * m.scale;
      store(dx + row * c + i, (load(d + i, left) * load(weight + i, left) - mean_1 - normal * mean_2) * m.scale, left);
    });
  });
  return 0;
}
