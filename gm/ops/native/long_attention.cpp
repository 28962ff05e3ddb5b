// Attention over long sequences (the pixels of a frame): no scores in memory, no transpositions. float32.
//
// Softmax attention without mask, scale 1 / sqrt(size of a head), for `kQueries` queries at a time. Their scores are kept
// for one block of keys only, with keys as rows and queries as lanes: so the softmax needs no sums across lanes, and both
// products, scores = keys x queries and result = values x weights, read keys and values where they lie. What was summed
// up is rescaled when a later block of keys has a higher score (Milakov and Gimelshein 2018; Dao et al. 2022).
//
// The gradient computes the scores again, twice: for the softmax's sums, then for the weights.
#include <utility>

#include "kernel.h"
#include "long_attention.h"

using namespace svd;

namespace {

int attend(const LongSequences &a, const float *q, const float *k, const float *v, float *y) {
  parallel(a.pairs * a.blocks(), kQueries * a.sk * a.head, [=](int64_t first, int64_t last) {
    std::vector<float> space(static_cast<size_t>((2 * a.head + kKeys) * kQueries));
    float *queries = space.data(), *result = queries + a.head * kQueries, *scores = result + a.head * kQueries;
    float factor[kQueries];
    for (int64_t job = first; job < last; ++job) {
      const int64_t pair = job / a.blocks(), start = job % a.blocks() * kQueries;
      const int64_t count = std::min(kQueries, a.sq - start), at = a.of(a.q, pair, start);
      gather(queries, q + at, a.q, a.head, count, a.scale);
      std::fill(result, result + a.head * kQueries, 0.0f);
      Softmax softmax;
      for (int64_t j = 0; j < a.sk; j += kKeys) {
        const int64_t keys = std::min(kKeys, a.sk - j), at_k = a.of(a.k, pair, j);
        multiply(a.keys(k + at_k), queries, scores, keys, a.head, kQueries, false);
        softmax.add(scores, keys, factor);
        scale_lanes(result, a.head, factor);
        multiply(a.keys(v + at_k).turned(), scores, result, a.head, keys, kQueries, true);
      }
      for (int64_t i = 0; i < kQueries; ++i) factor[i] = 1.0f / softmax.sum[i];
      scale_lanes(result, a.head, factor);
      scatter(y + at, result, a.q, a.head, count, 1, kQueries);
    }
  });
  return 0;
}

// The gradients of one (sequence, head) pair. Arrays ending in _rows have queries as rows, the others as lanes.
class Gradient {
 public:
  Gradient(const LongSequences &a)
      : a(a), width((a.head + kColumns - 1) / kColumns * kColumns),
        space(static_cast<size_t>((4 * a.head + 2 * kKeys + 2 * width) * kQueries + 2 * a.sk * width)) {
    float *next = space.data();
    for (float **part : {&queries, &dy, &y, &dq}) *part = std::exchange(next, next + a.head * kQueries);
    for (float **part : {&weights, &slope}) *part = std::exchange(next, next + kKeys * kQueries);
    for (float **part : {&query_rows, &dy_rows}) *part = std::exchange(next, next + width * kQueries);
    for (float **part : {&dk, &dv}) *part = std::exchange(next, next + a.sk * width);
  }

  // The arguments begin with the pair.
  void compute(const float *q, const float *k, const float *v, const float *y_of, const float *dy_of, float *dq_of,
               float *dk_of, float *dv_of) {
    std::fill(dk, dk + 2 * a.sk * width, 0.0f);
    for (int64_t start = 0; start < a.sq; start += kQueries) {
      const int64_t count = std::min(kQueries, a.sq - start), at = start * a.q.token;
      gather(queries, q + at, a.q, a.head, count, a.scale);
      gather(dy, dy_of + at, a.q, a.head, count, 1);
      gather(y, y_of + at, a.q, a.head, count, 1);
      turn(queries, query_rows);
      turn(dy, dy_rows);
      block(k, v, count);
      scatter(dq_of + at, dq, a.q, a.head, count, 1, kQueries);
    }
    scatter(dk_of, dk, a.k, a.head, a.sk, width, 1);
    scatter(dv_of, dv, a.k, a.head, a.sk, width, 1);
  }

 private:
  void turn(const float *lanes, float *rows) const {
    std::fill(rows, rows + kQueries * width, 0.0f);
    for (int64_t i = 0; i < kQueries; ++i)
      for (int64_t p = 0; p < a.head; ++p) rows[i * width + p] = lanes[p * kQueries + i];
  }

  // Sets dq, and adds to dk and dv, for the queries at hand.
  void block(const float *k, const float *v, int64_t count) {
    Softmax softmax;
    float unused[kQueries], mean[kQueries];
    for (int64_t j = 0; j < a.sk; j += kKeys) {
      const int64_t keys = std::min(kKeys, a.sk - j);
      multiply(a.keys(k + j * a.k.token), queries, weights, keys, a.head, kQueries, false);
      softmax.add(weights, keys, unused);
    }
    for (int64_t i = 0; i < kQueries; i += kLanes) {
      Vec sum{};
      for (int64_t p = 0; p < a.head; ++p) sum += load(dy + p * kQueries + i) * load(y + p * kQueries + i);
      store(mean + i, sum);
    }
    std::fill(dq, dq + a.head * kQueries, 0.0f);
    for (int64_t j = 0; j < a.sk; j += kKeys) {
      const int64_t keys = std::min(kKeys, a.sk - j);
      const Matrix k_block = a.keys(k + j * a.k.token), v_block = a.keys(v + j * a.k.token);
      multiply(k_block, queries, weights, keys, a.head, kQueries, false);
      multiply(v_block, dy, slope, keys, a.head, kQueries, false);
      for (int64_t i = 0; i < kQueries; i += kLanes) {
        const Vec highest = load(softmax.highest + i), factor = 1.0f / load(softmax.sum + i), middle = load(mean + i);
        for (int64_t at = i; at < keys * kQueries; at += kQueries) {
          const Vec weight = exponential(load(weights + at) - highest) * factor;
          store(weights + at, weight);
          store(slope + at, weight * (load(slope + at) - middle));
        }
      }
      multiply(k_block.turned(), slope, dq, a.head, keys, kQueries, true);
      multiply({slope, kQueries, 1}, query_rows, dk + j * width, keys, count, width, true);
      multiply({weights, kQueries, 1}, dy_rows, dv + j * width, keys, count, width, true);
    }
    for (int64_t i = 0; i < a.head * kQueries; ++i) dq[i] *= a.scale;  // queries were scaled already, for dk
  }

  const LongSequences a;
  const int64_t width;
  std::vector<float> space;
  float *queries, *dy, *y, *dq, *weights, *slope, *query_rows, *dy_rows, *dk, *dv;
};

// inputs: q, k, v. more: the result, its gradient, and the gradients of q, k, v, which are computed.
int gradient(const LongSequences &a, void **inputs, void **more) {
  const float *q = in(inputs[0]), *k = in(inputs[1]), *v = in(inputs[2]), *y = in(more[0]), *dy = in(more[1]);
  float *dq = out(more[2]), *dk = out(more[3]), *dv = out(more[4]);
  parallel(a.pairs, a.sq * a.sk * a.head, [=](int64_t first, int64_t last) {
    Gradient gradient(a);
    for (int64_t pair = first; pair < last; ++pair) {
      const int64_t at = a.of(a.q, pair), at_k = a.of(a.k, pair);
      gradient.compute(q + at, k + at_k, v + at_k, y + at, dy + at, dq + at, dk + at_k, dv + at_k);
    }
  });
  return 0;
}

}  // namespace

// q (n, sq, c), k and v (n, sk, c), heads (heads, one number each: only its length counts) -> (n, sq, c).
KERNEL(LongAttention) {
  if (!all_float32(count, dtypes)) return 1;
  const float *q = in(params[0]), *k = in(params[1]), *v = in(params[2]);
  return attend(over_tokens(shapes[0], shapes[1], shapes[3][0]), q, k, v, out(params[4]));
}

// q, k, v, heads, result, its gradient -> gradients of q, k, v.
KERNEL(LongAttentionGradient) {
  if (!all_float32(count, dtypes)) return 1;
  return gradient(over_tokens(shapes[0], shapes[1], shapes[3][0]), params, params + 4);
}

// One head, channels first: q, k, v (n, c, s) -> (n, c, s).
KERNEL(PixelAttention) {
  if (!all_float32(count, dtypes)) return 1;
  return attend(over_pixels(shapes[0]), in(params[0]), in(params[1]), in(params[2]), out(params[3]));
}

// q, k, v, result, its gradient -> gradients of q, k, v.
KERNEL(PixelAttentionGradient) {
  if (!all_float32(count, dtypes)) return 1;
  return gradient(over_pixels(shapes[0]), params, params + 3);
}
