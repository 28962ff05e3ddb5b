// Attention over short sequences (the frames of a pixel), no scores in memory, no transpositions. float32.
//
// q (n, sq, c), k and v (n, sk, c), heads (heads, one number each: only its length counts) -> (n, sq, c). Head h is the
// columns h * c / heads and on. Softmax attention without mask, scale 1 / sqrt(c / heads).
#include <cmath>

#include "kernel.h"

using namespace svd;

namespace {

struct Attention {
  int64_t n, sq, sk, c, heads, head;
  float scale;
  Attention(const int64_t *q, const int64_t *k, int64_t heads)
      : n(q[0]), sq(q[1]), sk(k[1]), c(q[2]), heads(heads), head(c / heads),
        scale(1.0f / std::sqrt(static_cast<float>(head))) {}

  // Where the part of one head in the first token of a sequence lies.
  int64_t of_q(int64_t pair) const { return pair / heads * sq * c + pair % heads * head; }
  int64_t of_k(int64_t pair) const { return pair / heads * sk * c + pair % heads * head; }
  int64_t cost() const { return (sq + sk) * head + sq * sk * 4; }
};

float dot(const float *a, const float *b, int64_t n) {
  Vec part{};
  for_lanes(n, [&](int64_t i, auto left) { part += load(a + i, left) * load(b + i, left); });
  return sum(part);
}

void add_scaled(float *to, const float *from, float factor, int64_t n) {
  for_lanes(n, [&](int64_t i, auto left) { store(to + i, load(to + i, left) + load(from + i, left) * factor, left); });
}

void clear(float *to, int64_t rows, int64_t stride, int64_t n) {
  for (int64_t row = 0; row < rows; ++row) std::fill(to + row * stride, to + row * stride + n, 0.0f);
}

// The softmax of one query's scores.
void weigh(const Attention &a, const float *q, const float *k, float *weights) {
  float highest = -INFINITY;
  for (int64_t j = 0; j < a.sk; ++j) {
    weights[j] = dot(q, k + j * a.c, a.head) * a.scale;
    highest = std::max(highest, weights[j]);
  }
  double total = 0;
  for_lanes(a.sk, [&](int64_t j, auto left) { store(weights + j, exponential(load(weights + j, left) - highest), left); });
  for (int64_t j = 0; j < a.sk; ++j) total += weights[j];
  for (int64_t j = 0; j < a.sk; ++j) weights[j] = static_cast<float>(weights[j] / total);
}

}  // namespace

KERNEL(ShortAttention) {
  if (!all_float32(count, dtypes)) return 1;
  const Attention a(shapes[0], shapes[1], shapes[3][0]);
  const float *q = in(params[0]), *k = in(params[1]), *v = in(params[2]);
  float *y = out(params[4]);
  parallel(a.n * a.heads, a.cost(), [=](int64_t first, int64_t last) {
    std::vector<float> weights(static_cast<size_t>(a.sk));
    for (int64_t pair = first; pair < last; ++pair) {
      const int64_t at_q = a.of_q(pair), at_k = a.of_k(pair);
      clear(y + at_q, a.sq, a.c, a.head);
      for (int64_t i = 0; i < a.sq; ++i) {
        weigh(a, q + at_q + i * a.c, k + at_k, weights.data());
        for (int64_t j = 0; j < a.sk; ++j)
          add_scaled(y + at_q + i * a.c, v + at_k + j * a.c, weights[static_cast<size_t>(j)], a.head);
      }
    }
  });
  return 0;
}

// q, k, v, heads, dy -> gradients of q, k, v.
KERNEL(ShortAttentionGradient) {
  if (!all_float32(count, dtypes)) return 1;
  const Attention a(shapes[0], shapes[1], shapes[3][0]);
  const float *q = in(params[0]), *k = in(params[1]), *v = in(params[2]), *dy = in(params[4]);
  float *dq = out(params[5]), *dk = out(params[6]), *dv = out(params[7]);
  parallel(a.n * a.heads, 3 * a.cost(), [=](int64_t first, int64_t last) {
    std::vector<float> space(static_cast<size_t>(2 * a.sk));
    float *weights = space.data(), *by_weight = weights + a.sk;
    for (int64_t pair = first; pair < last; ++pair) {
      const int64_t at_q = a.of_q(pair), at_k = a.of_k(pair);
      clear(dq + at_q, a.sq, a.c, a.head);
      clear(dk + at_k, a.sk, a.c, a.head);
      clear(dv + at_k, a.sk, a.c, a.head);
      for (int64_t i = 0; i < a.sq; ++i) {
        const int64_t row = at_q + i * a.c;
        weigh(a, q + row, k + at_k, weights);
        double mean = 0;
        for (int64_t j = 0; j < a.sk; ++j) {
          by_weight[j] = dot(dy + row, v + at_k + j * a.c, a.head);
          mean += static_cast<double>(weights[j]) * by_weight[j];
        }
        for (int64_t j = 0; j < a.sk; ++j) {
          const int64_t key = at_k + j * a.c;
          const float by_score = weights[j] * (by_weight[j] - static_cast<float>(mean)) * a.scale;
          add_scaled(dv + key, dy + row, weights[j], a.head);
          add_scaled(dq + row, k + key, by_score, a.head);
          add_scaled(dk + key, q + row, by_score, a.head);
        }
      }
    }
  });
  return 0;
}
