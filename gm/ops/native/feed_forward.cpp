// The feed-forward part of a transformer block at once, float32, called through mindspore.ops.Custom(func_type="aot"):
// see gm/ops/fused.py.
//
// A thread takes some tokens, turned to (channels, tokens), and computes both products with them. What is between the
// two, four and eight times as wide as the tokens, stays in its cache: it is written to memory only in training, where
// the backward pass begins with it. That has two kernels, since of layers that are not trained only the first is called.
#include <vector>

#include "kernel.h"
#include "product.h"

using namespace svd;

namespace {

constexpr int64_t kTokens = kLanes == 16 ? 64 : 32;  // at once, a multiple of kColumns
constexpr int64_t kPanel = 8 * kRows;                // rows of weights at once, for which tokens stay in the first cache
constexpr int64_t kInner = 512;                      // of the wide values at once

// from (rows, columns) -> to (columns, kTokens), in parts whose rows lie in as many lines of the cache as it has ways.
void turn(const float *from, float *to, int64_t rows, int64_t columns) {
  constexpr int64_t kPart = 16;
  for (int64_t start = 0; start < columns; start += kPart)
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t i = start; i < std::min(columns, start + kPart); ++i) to[i * kTokens + row] = from[row * columns + i];
}

struct FeedForwardLayers {
  const float *wide, *wide_bias, *narrow, *bias;
  int64_t c, inner, out;
  int64_t step = std::min(inner, kInner);

  int64_t scratch() const { return (c + step + out + 2 * kPanel) * kTokens; }

  // Wide values start .. start + width of turned tokens -> hidden (width, kTokens); kept (2 * inner, kTokens), where it
  // is not null, gets the values and their gates.
  void widen(const float *turned, int64_t start, int64_t width, float *hidden, float *products, float *kept) const {
    for (int64_t i = 0; i < width; i += kPanel, hidden += kPanel * kTokens) {
      const int64_t rows = std::min(kPanel, width - i), row = start + i;
      float *values = kept ? kept + row * kTokens : products;
      float *gates = values + (kept ? inner : kPanel) * kTokens;
      multiply({wide + row * c, c, 1}, turned, values, rows, c, kTokens, false);
      multiply({wide + (inner + row) * c, c, 1}, turned, gates, rows, c, kTokens, false);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t t = r * kTokens; t < (r + 1) * kTokens; t += kLanes) {
          const Vec value = load(values + t) + wide_bias[row + r], gate = load(gates + t) + wide_bias[inner + row + r];
          store(values + t, value);
          store(gates + t, gate);
          store(hidden + t, value * gate * normal(gate).cumulative);
        }
    }
  }

  // residual + this for `tokens` of x, at most kTokens.
  void compute(const float *residual, const float *x, float *y, float *kept, int64_t tokens, float *memory) const {
    float *turned = memory, *hidden = turned + c * kTokens, *sums = hidden + step * kTokens;
    turn(x, turned, tokens, c);
    for (int64_t start = 0; start < inner; start += step) {
      const int64_t width = std::min(step, inner - start);
      widen(turned, start, width, hidden, sums + out * kTokens, kept);
      for (int64_t o = 0; o < out; o += kPanel)
        multiply({narrow + o * inner + start, inner, 1}, hidden, sums + o * kTokens, std::min(kPanel, out - o), width,
                 kTokens, start > 0);
    }
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t o = 0; o < out; ++o) y[t * out + o] = residual[t * out + o] + (sums[o * kTokens + t] + bias[o]);
  }
};

// body(block, tokens, memory) for every block of n tokens, on all threads; memory: `scratch` numbers of a thread.
template <class Body>
void each_block(int64_t n, int64_t scratch, int64_t cost, Body body) {
  parallel((n + kTokens - 1) / kTokens, kTokens * cost, [=](int64_t first, int64_t last) {
    static thread_local std::vector<float> memory;
    memory.resize(std::max(memory.size(), static_cast<size_t>(scratch)));
    for (int64_t k = first; k < last; ++k) body(k, std::min(kTokens, n - k * kTokens), memory.data());
  });
}

int forward(void **params, int *ndims, int64_t **shapes, float *kept) {
  const float *residual = in(params[0]), *x = in(params[1]);
  float *y = out(params[6]);
  const FeedForwardLayers layers{in(params[2]), in(params[3]), in(params[4]), in(params[5]),
                                 shapes[2][1],  shapes[4][1],  shapes[4][0]};
  const int64_t c = layers.c, outs = layers.out, inner = layers.inner;
  each_block(size(shapes[1], ndims[1]) / c, layers.scratch(), 3 * inner * c,
             [=](int64_t block, int64_t tokens, float *memory) {
               const int64_t t = block * kTokens;
               layers.compute(residual + t * outs, x + t * c, y + t * outs, kept ? kept + t * 2 * inner : nullptr,
                              tokens, memory);
             });
  return 0;
}

// The gradients of x and of the wide values, for what `forward` has kept.
struct FeedForwardGradient {
  const float *wide, *narrow;
  int64_t c, inner, out;

  int64_t scratch() const { return (c + out + kPanel) * kTokens + kPanel * out; }

  // kept (2 * inner, kTokens), dy (tokens, out) -> dx (tokens, c), between (3 * inner, kTokens): the gradients of values
  // and gates, then GEGLU's result, which the gradient of the second weights takes.
  void compute(const float *kept, const float *dy, float *dx, float *between, int64_t tokens, float *memory) const {
    float *turned = memory, *sums = turned + out * kTokens, *slopes = sums + c * kTokens;
    float *copied = slopes + kPanel * kTokens;
    turn(dy, turned, tokens, out);
    for (int64_t i = 0; i < inner; i += kPanel) {
      const int64_t rows = std::min(kPanel, inner - i), next = inner * kTokens;
      for (int64_t o = 0; o < out; ++o) std::copy_n(narrow + o * inner + i, rows, copied + o * kPanel);
      multiply({copied, 1, kPanel}, turned, slopes, rows, out, kTokens, false);
      const float *values = kept + i * kTokens;
      float *to = between + i * kTokens;
      for (int64_t t = 0; t < rows * kTokens; t += kLanes) {
        const Vec value = load(values + t), gate = load(values + next + t), slope = load(slopes + t);
        const Normal n = normal(gate);
        const Vec gelu = gate * n.cumulative;
        store(to + t, slope * gelu);
        store(to + next + t, slope * value * (n.cumulative + gate * n.density));
        store(to + 2 * next + t, value * gelu);
      }
      multiply({wide + i * c, 1, c}, to, sums, c, rows, kTokens, i > 0);
      multiply({wide + (inner + i) * c, 1, c}, to + next, sums, c, rows, kTokens, true);
    }
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t o = 0; o < c; ++o) dx[t * c + o] = sums[o * kTokens + t];
  }
};

// A matrix (n, columns) whose rows are as wide as `multiply` wants them: itself, or a copy with zeros behind each row.
struct WholeRows {
  WholeRows(const float *x, int64_t n, int64_t columns)
      : data(x), columns(columns), width((columns + kColumns - 1) / kColumns * kColumns) {
    if (width == columns) return;
    copy.resize(static_cast<size_t>(n * width));
    for (int64_t row = 0; row < n; ++row) std::copy_n(x + row * columns, columns, copy.data() + row * width);
    data = copy.data();
  }

  const float *data;
  int64_t columns, width;
  std::vector<float> copy;
};

// `rows` rows of blocks of (all, kTokens) times right (n, width) -> sums (rows, width); totals of the rows themselves.
void sum_over_tokens(const float *left, int64_t all, const WholeRows &right, int64_t n, int64_t rows, float *sums,
                     double *totals) {
  for (int64_t t = 0; t < n; t += kTokens) {
    const float *block = left + t * all;
    const int64_t tokens = std::min(kTokens, n - t);
    multiply({block, kTokens, 1}, right.data + t * right.width, sums, rows, tokens, right.width, t > 0);
    for (int64_t r = 0; r < rows; ++r)
      totals[r] += total(tokens, [&](int64_t i, auto some) { return load(block + r * kTokens + i, some); });
  }
}

}  // namespace

// residual (n, out), x (n, c), weight (2 * inner, c), bias (2 * inner), weight (out, inner), bias (out) -> (n, out).
KERNEL(FeedForward) {
  return all_float32(count, dtypes) ? forward(params, ndims, shapes, nullptr) : 1;
}

// The same, and what is kept for the backward pass, the wide values and their gates with their biases: blocks of
// (2 * inner, kTokens) in an array with room for n tokens, rounded up to 64.
KERNEL(FeedForwardKept) {
  return all_float32(count, dtypes) ? forward(params, ndims, shapes, out(params[7])) : 1;
}

// What was kept, weight (2 * inner, c), weight (out, inner), dy (n, out) -> dx (n, c) and for the next kernel blocks of
// (3 * inner, kTokens), see above.
KERNEL(FeedForwardInputGradient) {
  if (!all_float32(count, dtypes)) return 1;
  const float *kept = in(params[0]), *dy = in(params[3]);
  float *dx = out(params[4]), *between = out(params[5]);
  const FeedForwardGradient gradient{in(params[1]), in(params[2]), shapes[1][1], shapes[2][1], shapes[2][0]};
  const int64_t c = gradient.c, outs = gradient.out, inner = gradient.inner;
  each_block(size(shapes[3], ndims[3]) / outs, gradient.scratch(), 3 * inner * c,
             [=](int64_t block, int64_t tokens, float *memory) {
               const int64_t t = block * kTokens;
               gradient.compute(kept + t * 2 * inner, dy + t * outs, dx + t * c, between + t * 3 * inner, tokens,
                                memory);
             });
  return 0;
}

// These blocks, x (n, c), dy (n, out) -> gradients of weight (2 * inner, c), bias (2 * inner), weight
// (out, inner), bias (out). A thread sums some rows over all tokens, in the same order whatever their number.
KERNEL(FeedForwardWeightGradient) {
  if (!all_float32(count, dtypes)) return 1;
  const float *between = in(params[0]), *x = in(params[1]), *dy = in(params[2]);
  float *dwide = out(params[3]), *dwide_bias = out(params[4]), *dnarrow = out(params[5]);
  const int64_t inner = shapes[5][1], c = shapes[3][1], outs = shapes[5][0], n = size(shapes[1], ndims[1]) / c;
  const WholeRows xs(x, n, c), dys(dy, n, outs);
  const int64_t panels = (inner + kPanel - 1) / kPanel;
  parallel(3 * panels, n * kPanel * c, [&](int64_t first, int64_t last) {
    std::vector<float> memory(static_cast<size_t>(kPanel * std::max(xs.width, dys.width)));
    float *sums = memory.data();
    for (int64_t k = first; k < last; ++k) {
      const int64_t start = k % panels * kPanel, rows = std::min(kPanel, inner - start), row = k / panels * inner + start;
      const WholeRows &right = row < 2 * inner ? xs : dys;
      double totals[kPanel] = {};
      sum_over_tokens(between + row * kTokens, 3 * inner, right, n, rows, sums, totals);
      if (row >= 2 * inner) {
        for (int64_t o = 0; o < outs; ++o)
          for (int64_t r = 0; r < rows; ++r) dnarrow[o * inner + start + r] = sums[r * right.width + o];
        continue;
      }
      for (int64_t r = 0; r < rows; ++r) {
        std::copy_n(sums + r * right.width, c, dwide + (row + r) * c);
        dwide_bias[row + r] = static_cast<float>(totals[r]);
      }
    }
  });
  sum_by_parts(n, outs, out(params[6]), [=](int64_t token, float *sums) {
    for_lanes(outs, [&](int64_t i, auto left) {
      store(sums + i, load(sums + i, left) + load(dy + token * outs + i, left), left);
    });
  });
  return 0;
}
