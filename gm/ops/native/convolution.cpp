// Convolutions of stride 1 that keep the size, with their gradients, float32, called through
// mindspore.ops.Custom(func_type="aot"): see gm/ops/fused.py.
//
// A thread copies a part of an image, some channels at a time, with zeros around it, into memory of its own that its
// cache holds. There, what a tap of the kernel needs for a vector of pixels lies at one address, so that a tile of the
// result, channels by pixels, is summed in registers over all taps, with the weights as they lie in the checkpoint. The
// matrix of the pixels (im2col) is never written.
#include <vector>

#include "few_pixels.h"
#include "kernel.h"
#include "product.h"
#include "winograd_frames.h"
#include "winograd_pixels.h"

using namespace svd;

namespace {

constexpr int64_t kSummed = 32;       // channels of them; sums of few, added to those before, are rounded less

// How a part of an image, (rows, columns), lies where it is copied to, with a row above and one below.
//
// Where rows are whole vectors, each has a zero at its left, which is also the one at the right of the row above it.
// Else there are three copies, moved by -1, 0 and 1, so that a vector may go on in the next row. A kernel that is one
// column wide needs neither; of its images columns are parted, not rows. Small images are computed several at a time,
// as the weights, which may not fit the cache, are read once for all of them.
struct Layout {
  int64_t height, width, rows, columns, images = 1;
  int64_t copies = 1, zeros = 0;  // zeros: at the left
  int64_t row, tap, image, channel;  // how far apart rows, the columns of a kernel, images and channels are

  Layout(int64_t n, int64_t h, int64_t w, int64_t channels, int64_t taps) : height(h), width(w), rows(h), columns(w) {
    if (taps > 1) (w % kLanes == 0 ? zeros : copies) = w % kLanes == 0 ? 1 : taps;
    const auto size = [&] { return copies * (rows + 2) * (columns + zeros) + 2 * kLanes; };
    const int64_t room = kCopied / std::min(channels, kSummed);
    if (taps > 1)
      while (rows > 1 && size() > room) rows = (rows + 1) / 2;
    else
      while (columns > kColumns && size() > room) columns = (columns / 2 + kColumns - 1) / kColumns * kColumns;
    if (rows == h && columns == w) images = std::max<int64_t>(1, std::min(n, room / size()));
    images = (n - 1) / ((n - 1) / images + 1) + 1;  // as many in each part
    row = columns + zeros, tap = copies > 1 ? (rows + 2) * row : 1, image = size();
    channel = (images * image / kLanes | 1) * kLanes;  // an odd number of vectors: channels share no places in a cache
  }
};

// Images and a part of each, from its first row and column.
struct Part {
  int64_t image, images, top, left, rows, columns;
};

// One channel of an image with the zeros around it.
void copy(const float *image, float *to, const Part &part, const Layout &s) {
  for (int64_t k = 0; k < s.copies; ++k) {
    const int64_t shift = part.left - s.zeros + (s.copies > 1 ? k - 1 : 0);
    const int64_t start = std::max<int64_t>(0, -shift), end = std::min(s.row, s.width - shift);
    float *row = to + k * s.tap;
    for (int64_t y = part.top - 1; y <= part.top + part.rows; ++y, row += s.row) {
      const bool inside = y >= 0 && y < s.height;
      std::fill(row, row + (inside ? start : s.row), 0.0f);
      if (inside) std::copy_n(image + y * s.width + start + shift, end - start, row + start);
      if (inside) std::fill(row + end, row + s.row, 0.0f);
    }
    *row = 0;
  }
}

// What a tile is made of: where its vectors begin in the copy and in the image, and how many of their pixels count.
struct Pixels {
  const float *from[kVectors];
  int64_t to[kVectors], left[kVectors];
};

struct Weights {
  const float *data, *bias;  // (out, in, 3, taps) and (out); of kRows channels at least
  int64_t in, out;
};

// A tile of `Vectors` vectors in kRows channels of y: its bias, or what it holds, and the sum over channels of `from`
// with weights (kRows, channels, 3, Taps), whose rows are `stride` apart. Only the channels first .. last are written.
template <int Taps, int Vectors>
void compute_tile(const float *weights, int64_t stride, const float *bias, const Pixels &pixels, int64_t channels,
                  const Layout &s, float *y, int64_t first, int64_t last) {
  const float *from[Vectors];
  for (int v = 0; v < Vectors; ++v) from[v] = pixels.from[v];
  Vec sums[kRows][Vectors] = {};
  constexpr int64_t kLine = 16 / (3 * Taps);  // channels whose weights fill about a line of the cache
  for (int64_t c = 0; c < channels; ++c, weights += 3 * Taps) {
    if (c % kLine == 0)
      for (int r = 0; r < kRows; ++r) __builtin_prefetch(weights + (kRows + r) * stride);  // of the next channels of y
    for (int i = 0; i < 3; ++i)
      for (int j = 0; j < Taps; ++j) {
        Vec column[Vectors];
        for (int v = 0; v < Vectors; ++v) keep(column[v] = load(from[v] + i * s.row + j * s.tap));
        const float *left = weights + i * Taps + j;
        for (int r = 0; r < kRows; ++r)
          for (int v = 0; v < Vectors; ++v) sums[r][v] += left[r * stride] * column[v];
      }
    for (int v = 0; v < Vectors; ++v) from[v] += s.channel;
  }
  const int64_t plane = s.height * s.width;
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < Vectors && r >= first && r < last; ++v) {
      float *place = y + r * plane + pixels.to[v];
      if (pixels.left[v] == kLanes)
        store(place, sums[r][v] + (bias ? fill(bias[r]) : load(place)));
      else
        store(place, sums[r][v] + (bias ? fill(bias[r]) : load(place, pixels.left[v])), pixels.left[v]);
    }
}

template <int Taps, int Vectors, class... Rest>
void compute_rest(int64_t count, const Rest &...rest) {
  if (count == Vectors) return compute_tile<Taps, Vectors>(rest...);
  if constexpr (Vectors > 1) compute_rest<Taps, Vectors - 1>(count, rest...);
}

// Output channels first .. last of a part of y; `copied` holds what `copy` made of `channels` of x from `start` on.
template <int Taps>
void compute_part(const Weights &w, const Layout &s, const float *copied, int64_t start, int64_t channels,
                  const Part &part, float *y, int64_t first, int64_t last) {
  const bool dense = s.copies > 1;  // one row behind the other, so that they are as one
  const int64_t lines = dense ? 1 : part.rows, length = dense ? part.rows * part.columns : part.columns;
  const int64_t each = (length + kLanes - 1) / kLanes, vectors = part.images * lines * each;
  const int64_t tiles = (vectors + kVectors - 1) / kVectors, stride = w.in * 3 * Taps, plane = s.height * s.width;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t begin = vectors * tile / tiles, end = vectors * (tile + 1) / tiles;
    Pixels pixels;
    for (int64_t v = begin; v < end; ++v) {
      const int64_t image = v / (lines * each), line = v / each % lines, at = v % each * kLanes;
      pixels.from[v - begin] = copied + image * s.image + line * s.row + at;
      pixels.to[v - begin] = (part.image + image) * w.out * plane + (part.top + line) * s.width + part.left + at;
      pixels.left[v - begin] = std::min(kLanes, length - at);
    }
    for (int64_t channel = first; channel < last; channel += kRows) {
      const int64_t o = std::max<int64_t>(0, std::min(channel, w.out - kRows));
      compute_rest<Taps, kVectors>(end - begin, w.data + o * stride + start * 3 * Taps, stride,
                                   start ? nullptr : w.bias + o, pixels, channels, s, y + o * plane, channel - o,
                                   w.out - o);
    }
  }
}

template <int Taps>
using TilesFor = std::conditional_t<Taps == 3, PixelTiles, FrameTiles>;

// x (n, in, height, width) -> y (n, out, height, width).
template <int Taps>
void convolve(const float *x, float *y, int64_t n, int64_t height, int64_t width, const Weights &w) {
  const TilesFor<Taps> tiles{n, height, width};
  if (tiles.rows.pay(w.in, w.out)) return Winograd<TilesFor<Taps>>{tiles, w.in, w.out}(x, w.data, w.bias, y);
  if (FewPixels::pays(height, width, w.out))
    return FewPixels{{n, height, width, Taps}, w.in, w.out}(x, w.data, w.bias, y);
  const Layout s(n, height, width, w.in, Taps);
  const int64_t down = (height - 1) / s.rows + 1, across = (width - 1) / s.columns + 1;
  const int64_t parts = ((n - 1) / s.images + 1) * down * across, panels = (w.out - 1) / kRows + 1;
  // Where there are few parts, several threads copy the same one and compute some of the channels each.
  const int64_t shares = std::min(panels, (2 * threads() - 1) / parts + 1);
  const int64_t cost = s.images * s.rows * s.columns * w.in * 3 * Taps * w.out / shares;
  parallel(parts * shares, cost, [=](int64_t begin, int64_t end) {
    static thread_local std::vector<float> memory;
    memory.resize(std::max(memory.size(), static_cast<size_t>(std::min(w.in, kSummed) * s.channel + kLanes)));
    for (int64_t k = begin; k < end; ++k) {
      const int64_t index = k / shares, share = k % shares;
      const int64_t image = index / (down * across) * s.images, top = index / across % down * s.rows;
      const int64_t left = index % across * s.columns;
      const Part part{image, std::min(s.images, n - image), top, left, std::min(s.rows, height - top),
                      std::min(s.columns, width - left)};
      for (int64_t c = 0; c < w.in; c += kSummed) {
        const int64_t channels = std::min(kSummed, w.in - c);
        for (int64_t i = 0; i < part.images; ++i) {
          const float *first = x + ((image + i) * w.in + c) * height * width;
          for (int64_t j = 0; j < channels; ++j)
            copy(first + j * height * width, memory.data() + i * s.image + j * s.channel, part, s);
        }
        compute_part<Taps>(w, s, memory.data(), c, channels, part, y, panels * share / shares * kRows,
                           panels * (share + 1) / shares * kRows);
      }
    }
  });
}

}  // namespace

// x (n, in, h, w), weight (out, in, 3, 3) or (out, in, 3, 1, 1), bias (out) -> (n, out, h, w), zeros around it.
KERNEL(Convolution) {
  if (!all_float32(count, dtypes)) return 1;
  const int64_t outs = shapes[1][0], ins = shapes[1][1], taps = shapes[1][3], stride = ins * 3 * taps;
  Weights w{in(params[1]), in(params[2]), ins, outs};
  std::vector<float> more, more_bias;
  if (outs < kRows) {
    more.assign(static_cast<size_t>(kRows * stride), 0.0f), more_bias.assign(kRows, 0.0f);
    std::copy_n(w.data, outs * stride, more.data()), std::copy_n(w.bias, outs, more_bias.data());
    w.data = more.data(), w.bias = more_bias.data();
  }
  (taps == 3 ? convolve<3> : convolve<1>)(in(params[0]), out(params[3]), shapes[0][0], shapes[0][2], shapes[0][3], w);
  return 0;
}

// weight (out, in, 3, taps), dy (n, out, h, w) -> gradient of x (n, in, h, w): dy with the weights turned round.
KERNEL(ConvolutionInputGradient) {
  if (!all_float32(count, dtypes)) return 1;
  const float *weight = in(params[0]);
  const int64_t outs = shapes[0][0], ins = shapes[0][1], taps = shapes[0][3], each = 3 * taps;
  const int64_t images = shapes[1][0], height = shapes[1][2], width = shapes[1][3];
  const Rows rows_of_tiles = taps == 3 ? PixelTiles{images, height, width}.rows : FrameTiles{images, height, width}.rows;
  const bool by_tiles = rows_of_tiles.pay(outs, ins);
  if (!by_tiles && FewPixelsGradient::pays(height, width, outs, ins)) {
    FewPixelsGradient{{images, height, width, taps}, outs, ins}(weight, in(params[1]), out(params[2]));
    return 0;
  }
  const int64_t rows = std::max<int64_t>(ins, kRows);
  std::vector<float> memory(static_cast<size_t>(rows * (outs * each + 1)));  // the weights, and no bias
  float *turned = memory.data();
  parallel(ins, outs * each, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t o = 0; o < outs; ++o)
        std::reverse_copy(weight + (o * ins + i) * each, weight + (o * ins + i + 1) * each, turned + (i * outs + o) * each);
  });
  const Weights w{turned, turned + rows * outs * each, outs, ins};
  (taps == 3 ? convolve<3> : convolve<1>)(in(params[1]), out(params[2]), images, height, width, w);
  return 0;
}
