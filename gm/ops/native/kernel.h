// What every kernel has in common: its interface, MindSpore's for ops.Custom(func_type="aot"), and access to its arrays.
#pragma once

#include <vector>

#include "pool.h"
#include "vector.h"

// A function gets the addresses of its inputs and then of its outputs, and their shapes; 0 means success.
#define KERNEL(name)                                                                                          \
  extern "C" int name(int count, void **params, [[maybe_unused]] int *ndims, int64_t **shapes, const char **dtypes, \
                      void *, void *)

namespace svd {

inline bool all_float32(int count, const char **dtypes) {
  for (int i = 0; i < count; ++i)
    if (std::strcmp(dtypes[i], "float32") != 0) return false;
  return true;
}

inline int64_t size(const int64_t *shape, int ndim) {
  int64_t n = 1;
  for (int i = 0; i < ndim; ++i) n *= shape[i];
  return n;
}

inline const float *in(void *param) { return static_cast<const float *>(param); }
inline float *out(void *param) { return static_cast<float *>(param); }

// body(start, left) for every vector of n numbers, on all threads.
template <class Body>
void each_vector(int64_t n, Body body) {
  parallel((n + kLanes - 1) / kLanes, kLanes, [=](int64_t first, int64_t last) {
    const int64_t start = first * kLanes;
    for_lanes(std::min(n, last * kLanes) - start, [&](int64_t i, auto left) { body(start + i, left); });
  });
}

// Sum of f(start, left) over n numbers: a vector of float sums over 2048 numbers at most, and those in double.
template <class F>
double total(int64_t n, F f) {
  constexpr int64_t kBlock = 2048;
  double sums = 0;
  for (int64_t block = 0; block < n; block += kBlock) {
    Vec part{};
    for_lanes(std::min(kBlock, n - block), [&](int64_t i, auto left) { part += f(block + i, left); });
    sums += sum(part);
  }
  return sums;
}

// body(row, sums) for every row, where it adds to `width` sums; their totals go to `totals`. The rows are summed in 64
// parts, whatever the number of threads, so that it has no influence on the result.
template <class Body>
void sum_by_parts(int64_t rows, int64_t width, float *totals, Body body) {
  const int64_t parts = std::min<int64_t>(64, rows);
  std::vector<float> sums(static_cast<size_t>(parts * width));
  float *partial = sums.data();
  parallel(parts, rows / std::max<int64_t>(1, parts) * width, [=](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part)
      for (int64_t row = rows * part / parts; row < rows * (part + 1) / parts; ++row) body(row, partial + part * width);
  });
  for (int64_t i = 0; i < width; ++i) {
    double sum = 0;
    for (int64_t part = 0; part < parts; ++part) sum += partial[part * width + i];
    totals[i] = static_cast<float>(sum);
  }
}

}  // namespace svd
