// float16 to float32 for loading weights, called through ctypes: see gm/ops/native/__init__.py.
#include "vector.h"

using namespace svd;

typedef uint16_t HalfVec __attribute__((vector_size(sizeof(uint16_t) * kLanes)));
typedef uint32_t BitVec __attribute__((vector_size(sizeof(uint32_t) * kLanes)));

// Exact, the bits of a NaN too. By integers, because not every compiler has a type for float16.
static BitVec widened(BitVec half) {
  const BitVec exponent = half & 0x7c00u, size = (half & 0x7fffu) << 13;
  // The exponent of a float counts from 112 more. A subnormal number gets the exponent of the smallest normal one, whose
  // leading 1 is subtracted again: this neither reads nor makes a subnormal float, which processors are slow with.
  const BitVec normal = size + (112u << 23), least = BitVec{} + (113u << 23);
  Vec subnormal, leading;
  const BitVec with_leading = size + least;
  std::memcpy(&subnormal, &with_leading, sizeof subnormal);
  std::memcpy(&leading, &least, sizeof leading);
  subnormal -= leading;
  BitVec small;
  std::memcpy(&small, &subnormal, sizeof small);
  const BitVec usual = exponent == 0x7c00u ? size | 0x7f800000u : normal;
  return (exponent == 0u ? small : usual) | (half & 0x8000u) << 16;
}

extern "C" void Widen(const uint16_t *from, float *to, int64_t n) {
  for_lanes(n, [=](int64_t i, auto left) {
    const size_t count = static_cast<size_t>(static_cast<int64_t>(left));
    HalfVec half{};
    std::memcpy(&half, from + i, sizeof(uint16_t) * count);
    const BitVec bits = widened(__builtin_convertvector(half, BitVec));
    std::memcpy(to + i, &bits, sizeof(float) * count);
  });
}
