// Products of small matrices that lie anywhere in memory, as fast as the processor multiplies.
#pragma once

#include "vector.h"

namespace svd {

// A tile of a product that fits the registers: of 32 on AVX-512 and aarch64, else of 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRows = 6, kVectors = 4;
#else
constexpr int kRows = 6, kVectors = 2;
#endif
constexpr int64_t kColumns = kVectors * kLanes;

constexpr int64_t kCopied = 1 << 16;  // floats that a thread copies at once: 256 kB, which second caches hold
// Floats that a thread goes over again and again: processors with AVX-512 have second caches of 1 MB or more.
constexpr int64_t kSecondCache = kLanes == 16 ? 1 << 18 : 1 << 16;

// Element (i, p) of a matrix is at data[i * row + p * column].
struct Matrix {
  const float *data;
  int64_t row, column;
  Matrix below(int64_t rows) const { return {data + rows * row, row, column}; }
  Matrix turned() const { return {data, column, row}; }
};

// c (Rows, kColumns) = or += a (Rows, depth) x b (depth, kColumns); b and c with rows of `width` numbers.
template <bool Add, int Rows>
void multiply_tile(Matrix a, const float *b, float *c, int64_t depth, int64_t width) {
  Vec sums[Rows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[r][v] = Add ? load(c + r * width + v * kLanes) : Vec{};
  for (int64_t p = 0; p < depth; ++p) {
    Vec row[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) row[v] = load(b + p * width + v * kLanes);
    const float *left = a.data + p * a.column;
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[r][v] += left[r * a.row] * row[v];
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) store(c + r * width + v * kLanes, sums[r][v]);
}

template <int Rows>
void multiply_rest(int64_t rows, Matrix a, const float *b, float *c, int64_t depth, int64_t width, bool add) {
  if (rows == Rows && add) return multiply_tile<true, Rows>(a, b, c, depth, width);
  if (rows == Rows) return multiply_tile<false, Rows>(a, b, c, depth, width);
  if constexpr (Rows > 1) multiply_rest<Rows - 1>(rows, a, b, c, depth, width, add);
}

// c (rows, width) = or += a (rows, depth) x b (depth, width); width a multiple of kColumns.
inline void multiply(Matrix a, const float *b, float *c, int64_t rows, int64_t depth, int64_t width, bool add) {
  for (int64_t column = 0; column < width; column += kColumns)
    for (int64_t i = 0; i < rows; i += kRows)
      multiply_rest<kRows>(std::min<int64_t>(kRows, rows - i), a.below(i), b + column, c + i * width + column, depth,
                           width, add);
}

// c (rows, Vectors * kLanes) = or += a (rows, depth) x b (depth, kColumns), which is read as far as c is wide; c with
// rows of `width`. A tile that is narrower than kColumns has more rows instead; `rows` are whole tiles.
template <int Vectors>
void multiply_narrow(Matrix a, const float *b, float *c, int64_t rows, int64_t depth, int64_t width, bool add) {
  constexpr int kHigh = kRows * kVectors / Vectors;
  for (int64_t i = 0; i < rows; i += kHigh) {
    Vec sums[kHigh][Vectors] = {};
    const float *left = a.below(i).data;
    for (int64_t p = 0; p < depth; ++p, left += a.column) {
      Vec row[Vectors];
      for (int v = 0; v < Vectors; ++v) row[v] = load(b + p * kColumns + v * kLanes);
      for (int r = 0; r < kHigh; ++r)
        for (int v = 0; v < Vectors; ++v) sums[r][v] += left[r * a.row] * row[v];
    }
    for (int r = 0; r < kHigh; ++r)
      for (int v = 0; v < Vectors; ++v) {
        float *place = c + (i + r) * width + v * kLanes;
        store(place, add ? load(place) + sums[r][v] : sums[r][v]);
      }
  }
}

template <int Vectors, class... Rest>
void multiply_vectors(int64_t vectors, const Rest &...rest) {
  if (vectors == Vectors) return multiply_narrow<Vectors>(rest...);
  if constexpr (Vectors > 1) multiply_vectors<Vectors - 1>(vectors, rest...);
}

}  // namespace svd
