// As many floats at a time as the processor takes, and the functions of them that the kernels need.
//
// The vectors are GCC's and Clang's own extension. They have exactly the processor's width: wider ones are lowered too,
// but kept in memory, which makes products up to eight times slower.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace svd {

#if defined(__AVX512F__)
constexpr int64_t kLanes = 16;
#elif defined(__AVX__)
constexpr int64_t kLanes = 8;
#else
constexpr int64_t kLanes = 4;
#endif
typedef float Vec __attribute__((vector_size(sizeof(float) * kLanes)));
typedef int32_t IntVec __attribute__((vector_size(sizeof(int32_t) * kLanes)));

inline Vec fill(float value) { return Vec{} + value; }

// The first `left` floats, at most a vector; the other lanes are 0.
inline Vec load(const float *from, int64_t left) {
  Vec v{};
  std::memcpy(&v, from, sizeof(float) * static_cast<size_t>(std::min(left, kLanes)));
  return v;
}

inline Vec load(const float *from) {
  Vec v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

// Keeps what was loaded in its register. With AVX2, GCC else reads a vector from memory anew for each product with it,
// which takes more reads than the processor does beside them.
inline void keep([[maybe_unused]] Vec &v) {
#if defined(__AVX__) && !defined(__AVX512F__)
  asm("" : "+x"(v));
#endif
}

inline void store(float *to, Vec v, int64_t left) {
  std::memcpy(to, &v, sizeof(float) * static_cast<size_t>(std::min(left, kLanes)));
}

inline void store(float *to, Vec v) { std::memcpy(to, &v, sizeof v); }

inline float sum(Vec v) {
  float lanes[kLanes];
  std::memcpy(lanes, &v, sizeof v);
  for (int64_t half = kLanes / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

// body(start, left) for every vector of n numbers, the whole ones with a constant `left`, which saves the masking.
template <class Body>
inline void for_lanes(int64_t n, Body body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, std::integral_constant<int64_t, kLanes>());
  if (i < n) body(i, n - i);
}

// What `load` and `store` do for a constant count of kLanes.
using Whole = std::integral_constant<int64_t, kLanes>;
inline Vec load(const float *from, Whole) { return load(from); }
inline void store(float *to, Vec v, Whole) { store(to, v); }

// e**x, relative error below 3e-7; x is limited to [-87, 88], where the result is a normal float.
inline Vec exponential(Vec x) {
  const Vec low = fill(-87.0f), high = fill(88.0f), shift = fill(12582912.0f);  // 1.5 * 2**23: adding it rounds
  x = x < low ? low : x;
  x = x > high ? high : x;
  const Vec power = (x * 1.44269504f + shift) - shift;
  const Vec r = (x - power * 0.693145752f) - power * 1.42860677e-6f;  // ln 2 in two parts
  Vec p = fill(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const IntVec bits = (__builtin_convertvector(power, IntVec) + 127) << 23;
  Vec scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

inline Vec logistic(Vec x) { return 1.0f / (1.0f + exponential(-x)); }

// Phi(x) of the normal distribution and its density phi(x). Abramowitz and Stegun 26.2.17: |error| < 7.5e-8.
struct Normal {
  Vec cumulative, density;
};

inline Normal normal(Vec x) {
  const Vec size = x < 0.0f ? -x : x;
  const Vec density = exponential(x * x * -0.5f) * 0.398942280f;
  const Vec t = 1.0f / (1.0f + size * 0.2316419f);
  Vec p = fill(1.330274429f);
  p = p * t - 1.821255978f;
  p = p * t + 1.781477937f;
  p = p * t - 0.356563782f;
  p = p * t + 0.319381530f;
  const Vec tail = density * p * t;
  return {x < 0.0f ? tail : 1.0f - tail, density};
}

}  // namespace svd
