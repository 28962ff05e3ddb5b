// The feed-forward part of a transformer block at once, float32, called through mindspore.ops.Custom(func_type="aot"):
// see gm/ops/fused.py.
//
// A thread takes some tokens, turned to (channels, tokens), and computes both products with them. What is between the
// two, four and eight times as wide as the tokens, stays in its cache: it is never written to memory.
#include <vector>

#include "kernel.h"
#include "product.h"

using namespace svd;

namespace {

constexpr int64_t kTokens = kLanes == 16 ? 64 : 32;  // at once, a multiple of kColumns
constexpr int64_t kPanel = 4 * kRows;                // rows of weights at once, for which tokens stay in the first cache
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

  // Wide values start .. start + width of turned tokens -> hidden (width, kTokens).
  void widen(const float *turned, int64_t start, int64_t width, float *hidden, float *products) const {
    float *gates = products + kPanel * kTokens;
    for (int64_t i = 0; i < width; i += kPanel, hidden += kPanel * kTokens) {
      const int64_t rows = std::min(kPanel, width - i), row = start + i;
      multiply({wide + row * c, c, 1}, turned, products, rows, c, kTokens, false);
      multiply({wide + (inner + row) * c, c, 1}, turned, gates, rows, c, kTokens, false);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t t = r * kTokens; t < (r + 1) * kTokens; t += kLanes) {
          const Vec gate = load(gates + t) + wide_bias[inner + row + r];
          store(hidden + t, (load(products + t) + wide_bias[row + r]) * gate * normal(gate).cumulative);
        }
    }
  }

  // residual + this for `tokens` of x, at most kTokens.
  void compute(const float *residual, const float *x, float *y, int64_t tokens, float *memory) const {
    float *turned = memory, *hidden = turned + c * kTokens, *sums = hidden + step * kTokens;
    turn(x, turned, tokens, c);
    for (int64_t start = 0; start < inner; start += step) {
      const int64_t width = std::min(step, inner - start);
      widen(turned, start, width, hidden, sums + out * kTokens);
      for (int64_t o = 0; o < out; o += kPanel)
        multiply({narrow + o * inner + start, inner, 1}, hidden, sums + o * kTokens, std::min(kPanel, out - o), width,
                 kTokens, start > 0);
    }
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t o = 0; o < out; ++o) y[t * out + o] = residual[t * out + o] + (sums[o * kTokens + t] + bias[o]);
  }
};

}  // namespace

// residual (n, out), x (n, c), weight (2 * inner, c), bias (2 * inner), weight (out, inner), bias (out) -> (n, out).
KERNEL(FeedForward) {
  if (!all_float32(count, dtypes)) return 1;
  const float *residual = in(params[0]), *x = in(params[1]);
  float *y = out(params[6]);
  const FeedForwardLayers layers{in(params[2]), in(params[3]),  in(params[4]), in(params[5]),
                                 shapes[2][1],  shapes[4][1], shapes[4][0]};
  const int64_t n = size(shapes[1], ndims[1]) / layers.c, blocks = (n + kTokens - 1) / kTokens;
  parallel(blocks, kTokens * 3 * layers.inner * layers.c, [=](int64_t first, int64_t last) {
    static thread_local std::vector<float> memory;
    memory.resize(std::max(memory.size(), static_cast<size_t>(layers.scratch())));
    for (int64_t t = first * kTokens; t < std::min(n, last * kTokens); t += kTokens)
      layers.compute(residual + t * layers.out, x + t * layers.c, y + t * layers.out, std::min(kTokens, n - t),
                     memory.data());
  });
  return 0;
}
