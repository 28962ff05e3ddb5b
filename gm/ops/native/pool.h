// A loop shared among threads, which all kernels have in common.
#pragma once

#include <algorithm>
#include <cstdint>

namespace svd {

// How many threads compute at once, the one that calls included.
int64_t threads();

// part(data, k) for every k below `parts`, on as many threads as there are; returns when all have been done.
void run_parts(int64_t parts, void (*part)(const void *, int64_t), const void *data);

// body(first, last) on parts of 0..items; `cost`: numbers touched for one item. Which item is computed where, and of how
// many threads, has no influence on any result.
template <class Body>
void parallel(int64_t items, int64_t cost, Body body) {
  constexpr int64_t kGrain = 1 << 15;  // numbers below which another thread costs more than it saves
  const int64_t parts = std::max<int64_t>(1, std::min({threads(), items, items * cost / kGrain}));
  if (parts == 1) return body(0, items);
  const auto part = [=](int64_t k) { body(items * k / parts, items * (k + 1) / parts); };
  run_parts(parts, [](const void *f, int64_t k) { (*static_cast<decltype(part) *>(f))(k); }, &part);
}

}  // namespace svd
