// What attention over long sequences and its gradient share: where the numbers lie, and the softmax by blocks of keys.
#pragma once

#include <cmath>

#include "product.h"

namespace svd {

constexpr int64_t kQueries = 64, kKeys = 128;  // that are worked on at a time
static_assert(kQueries % kColumns == 0, "queries fill whole tiles");

// Where the numbers of one operand lie: token t's channel p of pair (sequence, head) is at of(pair)[t * token + p * channel].
struct Operand {
  int64_t sequence, head, token, channel;
};

struct LongSequences {
  int64_t pairs, heads, head, sq, sk;
  Operand q, k;  // the result lies as q does, the values as the keys
  float scale;

  // The part of a query, or key, and on, of one pair.
  int64_t of(const Operand &o, int64_t pair, int64_t token = 0) const {
    return pair / heads * o.sequence + pair % heads * o.head + token * o.token;
  }
  Matrix keys(const float *from) const { return {from, k.token, k.channel}; }
  int64_t blocks() const { return (sq + kQueries - 1) / kQueries; }
};

inline LongSequences over_tokens(const int64_t *q, const int64_t *k, int64_t heads) {
  const int64_t c = q[2], head = c / heads;
  return {q[0] * heads, heads, head, q[1], k[1], {q[1] * c, head, c, 1}, {k[1] * c, head, c, 1},
          1.0f / std::sqrt(static_cast<float>(head))};
}

inline LongSequences over_pixels(const int64_t *q) {
  const int64_t c = q[1], s = q[2];
  return {q[0], 1, c, s, s, {c * s, 0, 1, s}, {c * s, 0, 1, s}, 1.0f / std::sqrt(static_cast<float>(c))};
}

// `count` tokens as the lanes of rows: to (channels, kQueries) = factor * from; lanes beyond are 0.
inline void gather(float *to, const float *from, const Operand &o, int64_t channels, int64_t count, float factor) {
  std::fill(to, to + channels * kQueries, 0.0f);
  for (int64_t t = 0; t < count; ++t)
    for (int64_t p = 0; p < channels; ++p) to[p * kQueries + t] = from[t * o.token + p * o.channel] * factor;
}

// And back from rows of numbers that are `token` apart for the next token and `channel` for the next channel.
inline void scatter(float *to, const float *from, const Operand &o, int64_t channels, int64_t count, int64_t token,
                    int64_t channel) {
  for (int64_t t = 0; t < count; ++t)
    for (int64_t p = 0; p < channels; ++p) to[t * o.token + p * o.channel] = from[t * token + p * channel];
}

// The highest score of every query so far and the sum of all exp(score - highest).
struct Softmax {
  float highest[kQueries], sum[kQueries];

  Softmax() {
    std::fill(highest, highest + kQueries, -INFINITY);
    std::fill(sum, sum + kQueries, 0.0f);
  }

  // scores (rows, kQueries) -> exp(score - highest), with `factor` by which what was summed before has to be multiplied.
  void add(float *scores, int64_t rows, float *factor) {
    for (int64_t i = 0; i < kQueries; i += kLanes) {
      const Vec before = load(highest + i);
      Vec top = before, total{};
      for (int64_t j = 0; j < rows; ++j) {
        const Vec score = load(scores + j * kQueries + i);
        top = score > top ? score : top;
      }
      for (int64_t j = 0; j < rows; ++j) {
        const Vec weight = exponential(load(scores + j * kQueries + i) - top);
        store(scores + j * kQueries + i, weight);
        total += weight;
      }
      const Vec rescaled = exponential(before - top);
      store(factor + i, rescaled);
      store(highest + i, top);
      store(sum + i, load(sum + i) * rescaled + total);
    }
  }
};

inline void scale_lanes(float *rows, int64_t count, const float *factor) {
  for (int64_t p = 0; p < count; ++p)
    for (int64_t i = 0; i < kQueries; i += kLanes)
      store(rows + p * kQueries + i, load(rows + p * kQueries + i) * load(factor + i));
}

}  // namespace svd
