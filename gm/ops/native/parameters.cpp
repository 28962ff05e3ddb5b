// What an optimizer does to many tensors at once, the smallest of which are not worth a call: float32, called through
// mindspore.ops.Custom, see gm/ops/fused.py. Where a tensor is an input and is written, MindSpore knows nothing of it:
// only parameters may be given, which keep their memory, and each only once in a graph.
#include <cmath>

#include "kernel.h"

using namespace svd;

namespace {

// Up to 4096 numbers of one of the tensors.
struct Block {
  int64_t tensor, start, count;
};

std::vector<Block> blocks(int64_t tensors, const int *ndims, int64_t *const *shapes) {
  constexpr int64_t kBlock = 4096;
  std::vector<Block> found;
  for (int64_t tensor = 0; tensor < tensors; ++tensor) {
    const int64_t n = size(shapes[tensor], ndims[tensor]);
    for (int64_t start = 0; start < n; start += kBlock) found.push_back({tensor, start, std::min(kBlock, n - start)});
  }
  return found;
}

// body(number of the block, block) for all of them, on all threads; `passes`: arrays that are read or written.
template <class Body>
void each_block(const std::vector<Block> &list, int64_t passes, Body body) {
  const Block *first_block = list.data();
  parallel(static_cast<int64_t>(list.size()), passes * 4096, [=](int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k) body(k, first_block[k]);
  });
}

inline Vec root(Vec x) {
  float lanes[kLanes];
  std::memcpy(lanes, &x, sizeof x);
  for (float &lane : lanes) lane = std::sqrt(lane);  // one instruction, with -fno-math-errno
  std::memcpy(&x, lanes, sizeof x);
  return x;
}

}  // namespace

// Weights, first moments, second moments, sums of gradients, as many of each; then rate, 1 - beta1, 1 - beta2, eps,
// decay, factor, (1) each -> (1), 0 when all has been written in place and the sums are zeros. See reference.adamw.
KERNEL(AdamW) {
  constexpr int64_t kGroups = 4, kNumbers = 6;
  const int64_t n = (count - kNumbers - 1) / kGroups;
  if (!all_float32(count, dtypes) || count != kGroups * n + kNumbers + 1) return 1;
  void **numbers = params + kGroups * n;
  const float rate = *in(numbers[0]), share1 = *in(numbers[1]), share2 = *in(numbers[2]);
  const float eps = *in(numbers[3]), factor = *in(numbers[5]);
  each_block(blocks(n, ndims, shapes), 8, [=](int64_t, Block block) {
    float *weight = out(params[block.tensor]) + block.start, *first = out(params[n + block.tensor]) + block.start;
    float *second = out(params[2 * n + block.tensor]) + block.start, *sum = out(params[3 * n + block.tensor]) + block.start;
    const float decay = ndims[block.tensor] > 1 ? *in(numbers[4]) : 0.0f;
    for_lanes(block.count, [=](int64_t i, auto left) {
      const Vec gradient = load(sum + i, left) * factor, w = load(weight + i, left);
      Vec m = load(first + i, left), v = load(second + i, left);
      m += (gradient - m) * share1;
      v += (gradient * gradient - v) * share2;
      store(first + i, m, left);
      store(second + i, v, left);
      store(weight + i, w - (m / (root(v) + eps) + w * decay) * rate, left);
      store(sum + i, Vec{}, left);
    });
  });
  *out(numbers[kNumbers]) = 0;
  return 0;
}

// Tensors of any shapes -> the sum of the squares of all their numbers, (1).
KERNEL(SquareSum) {
  if (!all_float32(count, dtypes)) return 1;
  const std::vector<Block> list = blocks(count - 1, ndims, shapes);
  std::vector<double> sums(list.size());
  double *sum_of = sums.data();
  each_block(list, 1, [=](int64_t k, Block block) {
    const float *x = in(params[block.tensor]) + block.start;
    sum_of[k] = total(block.count, [=](int64_t i, auto left) {
      const Vec v = load(x + i, left);
      return v * v;
    });
  });
  double all = 0;
  for (const double sum : sums) all += sum;
  *out(params[count - 1]) = static_cast<float>(all);
  return 0;
}
