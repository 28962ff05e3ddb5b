// 8-bit YCbCr 4:2:0 to RGB with the colours between interpolated, called through ctypes: see gm/data/ycbcr.py, whose
// NumPy form gives the same bytes. Vectors of 16-bit integers; a lane holds the two pixels that share a colour.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>
#if defined(__SSSE3__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace {

#if defined(__AVX512BW__)
constexpr int64_t kLanes = 32;
#elif defined(__AVX2__)
constexpr int64_t kLanes = 16;
#else
constexpr int64_t kLanes = 8;
#endif
typedef int16_t Shorts __attribute__((vector_size(2 * kLanes)));
typedef uint16_t Words __attribute__((vector_size(2 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

// As ycbcr.py hands them over.
struct Weights {
  int16_t near, next, far, farthest;
};
struct Numbers {
  Weights usual, third;  // of samples; those of the third pixel of a line, and the third line, are other ones
  int16_t most;
  int16_t black, light, red_v, green_u, green_v, blue_u;
};

inline Shorts fill(int16_t value) { return Shorts{} + value; }

inline Shorts load(const int16_t *from) {
  Shorts v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <class Vec>
inline void store(int16_t *to, Vec v) {
  std::memcpy(to, &v, sizeof v);
}

// (v * factor + 2**14) >> 15, for which processors have an instruction of their own that compilers rarely find.
inline Shorts times(Shorts v, int16_t factor) {
#if defined(__AVX512BW__)
  return reinterpret_cast<Shorts>(_mm512_mulhrs_epi16(reinterpret_cast<__m512i>(v), _mm512_set1_epi16(factor)));
#elif defined(__AVX2__)
  return reinterpret_cast<Shorts>(_mm256_mulhrs_epi16(reinterpret_cast<__m256i>(v), _mm256_set1_epi16(factor)));
#elif defined(__SSSE3__)
  return reinterpret_cast<Shorts>(_mm_mulhrs_epi16(reinterpret_cast<__m128i>(v), _mm_set1_epi16(factor)));
#elif defined(__ARM_NEON)
  return reinterpret_cast<Shorts>(vqrdmulhq_n_s16(reinterpret_cast<int16x8_t>(v), factor));
#else
  return __builtin_convertvector((__builtin_convertvector(v, Ints) * factor + (1 << 14)) >> 15, Shorts);
#endif
}

// Between b and c, nearer to c.
inline Shorts between(Shorts a, Shorts b, Shorts c, Shorts d, const Weights &w) {
  return times(a, w.farthest) + times(b, w.next) + times(c, w.near) + times(d, w.far);
}

// One line of one colour, n samples -> what is between them: the left one of each sample's two pixels, and the right one.
void widen(const uint8_t *from, int64_t n, const Numbers &with, int16_t *padded, int16_t *left, int16_t *right) {
  for (int64_t i = 0; i < n; ++i) padded[i + 2] = static_cast<int16_t>((from[i] - 128) * 128);
  padded[0] = padded[1] = padded[2];
  padded[n + 2] = padded[n + 3] = padded[n + 1];
  const Shorts most = fill(with.most);
  auto at = [&](int64_t i) { return load(padded + i); };
  auto limited = [&](Shorts v) { return v < most ? v : most; };
  for (int64_t i = 0; i < n; i += kLanes) {
    store(left + i, limited(between(at(i), at(i + 1), at(i + 2), at(i + 3), with.usual)));
    store(right + i, limited(between(at(i + 4), at(i + 3), at(i + 2), at(i + 1), with.usual)));
  }
  left[1] = limited(between(at(1), at(2), at(3), at(4), with.third))[0];
}

inline Words byte(Shorts v) {
  v = (v + 16) >> 5;
  v = v < 0 ? Shorts{} : v;
  return reinterpret_cast<Words>(v > 255 ? fill(255) : v);
}

// One line of RGB, as three lines of bytes, from the four lines of colours around it. In these lie `across` numbers of
// each kind: Cb of left pixels, of right ones, Cr of left pixels, of right ones.
void colour(const uint8_t *luma, int64_t n, int64_t across, const int16_t *const *lines, const Weights &weights,
            const Numbers &with, int16_t *red, int16_t *green, int16_t *blue) {
  for (int64_t i = 0; i < n; i += kLanes) {
    Words pairs{};
    std::memcpy(&pairs, luma + 2 * i, static_cast<size_t>(2 * std::min(kLanes, n - i)));
    auto light = [&](Words y) { return times(reinterpret_cast<Shorts>(y << 7) - with.black, with.light); };
    auto at = [&](int64_t k) {
      return between(load(lines[0] + k), load(lines[1] + k), load(lines[2] + k), load(lines[3] + k), weights);
    };
    const Shorts left = light(pairs & 255), right = light(pairs >> 8), u_left = at(i), u_right = at(i + across),
                 v_left = at(i + 2 * across), v_right = at(i + 3 * across);
    auto green_of = [&](Shorts y, Shorts u, Shorts v) { return byte(y + times(u, with.green_u) + times(v, with.green_v)); };
    store(red + i, byte(left + times(v_left, with.red_v)) | byte(right + times(v_right, with.red_v)) << 8);
    store(green + i, green_of(left, u_left, v_left) | green_of(right, u_right, v_right) << 8);
    store(blue + i, byte(left + times(u_left, with.blue_u)) | byte(right + times(u_right, with.blue_u)) << 8);
  }
}

void interleave(const int16_t *red, const int16_t *green, const int16_t *blue, int64_t width, uint8_t *__restrict to) {
  const auto *r = reinterpret_cast<const uint8_t *>(red), *g = reinterpret_cast<const uint8_t *>(green),
             *b = reinterpret_cast<const uint8_t *>(blue);
  for (int64_t i = 0; i < width; ++i) {
    to[3 * i] = r[i];
    to[3 * i + 1] = g[i];
    to[3 * i + 2] = b[i];
  }
}

}  // namespace

// planes: Y, Cb, Cr; strides: bytes from line to line. width, height: even; to: (height, width, 3).
extern "C" void YCbCrToRgb(const uint8_t *const *planes, const int64_t *strides, int64_t width, int64_t height,
                           const Numbers *with, uint8_t *to) {
  constexpr int64_t kKept = 5;  // lines of colours that two lines of pixels need
  const int64_t n = width / 2, rows = height / 2, across = (n + kLanes - 1) / kLanes * kLanes;
  std::vector<int16_t> memory(static_cast<size_t>((4 * kKept + 4) * across + 4));
  int16_t *const red = memory.data(), *const green = red + across, *const blue = green + across;
  int16_t *const kept = blue + across, *const padded = kept + 4 * kKept * across;
  auto line = [=](int64_t row) { return kept + std::clamp<int64_t>(row, 0, rows - 1) % kKept * 4 * across; };
  for (int64_t y = 0, done = 0; y < height; ++y) {
    const int64_t row = y / 2, down = y % 2 ? 1 : -1;  // to the line of colours that is the second nearest
    for (; done < std::min(rows, row + 3); ++done)
      for (int64_t c = 0; c < 2; ++c) {
        int16_t *left = line(done) + 2 * c * across;
        widen(planes[c + 1] + done * strides[c + 1], n, *with, padded, left, left + across);
      }
    const int16_t *const lines[] = {line(row + 2 * down), line(row + down), line(row), line(row - down)};
    colour(planes[0] + y * strides[0], n, across, lines, y == 2 ? with->third : with->usual, *with, red, green, blue);
    interleave(red, green, blue, width, to + 3 * width * y);
  }
}
