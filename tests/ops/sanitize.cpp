// Calls every kernel at shapes with remainders, in buffers of exactly the right size.
#include <cstdint>
#include <cstdio>
#include <vector>

#define DECLARE(name) extern "C" int name(int, void **, int *, int64_t **, const char **, void *, void *);
DECLARE(Geglu) DECLARE(GegluGradient) DECLARE(Gelu) DECLARE(GeluGradient) DECLARE(Silu) DECLARE(SiluGradient)
DECLARE(GroupNorm) DECLARE(GroupNormSilu) DECLARE(GroupNormGradient) DECLARE(GroupNormSiluGradient) DECLARE(LayerNorm)
DECLARE(LayerNormGradient) DECLARE(ShortAttention) DECLARE(ShortAttentionGradient) DECLARE(LongAttention)
DECLARE(LongAttentionGradient) DECLARE(PixelAttention) DECLARE(PixelAttentionGradient) DECLARE(Convolution)
DECLARE(ConvolutionInputGradient) DECLARE(ConvolutionWeightGradient) DECLARE(AddToTokens) DECLARE(SumOfTokens)
DECLARE(Mix) DECLARE(MixGradient) DECLARE(AddBiased) DECLARE(Turn) DECLARE(AddToChannels) DECLARE(FeedForward)
DECLARE(FeedForwardKept) DECLARE(FeedForwardInputGradient) DECLARE(FeedForwardWeightGradient)
DECLARE(AddGroupNormSilu) DECLARE(AddGroupNormSiluGradient) DECLARE(UpsampleNearest) DECLARE(UpsampleNearestGradient)
DECLARE(SwapMiddleAxes) DECLARE(AdamW) DECLARE(SquareSum)
extern "C" void Widen(const uint16_t *, float *, int64_t);
extern "C" void YCbCrToRgb(const uint8_t *const *, const int64_t *, int64_t, int64_t, const void *, uint8_t *);

using Shape = std::vector<int64_t>;
typedef int Kernel(int, void **, int *, int64_t **, const char **, void *, void *);

int call(Kernel kernel, std::vector<Shape> shapes) {
  std::vector<std::vector<float>> buffers;
  for (const Shape &shape : shapes) {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    buffers.emplace_back(n);
    for (int64_t i = 0; i < n; ++i) buffers.back()[i] = 0.01f * static_cast<float>((i * 7919) % 601 - 300) + 0.001f;
  }
  std::vector<void *> params;
  std::vector<int> ndims;
  std::vector<int64_t *> dims;
  std::vector<const char *> types(shapes.size(), "float32");
  for (size_t i = 0; i < shapes.size(); ++i) {
    params.push_back(buffers[i].data());
    ndims.push_back(static_cast<int>(shapes[i].size()));
    dims.push_back(shapes[i].data());
  }
  return kernel(static_cast<int>(shapes.size()), params.data(), ndims.data(), dims.data(), types.data(), nullptr, nullptr);
}

int main() {
  int failed = 0;
  for (int64_t c : {1, 7, 16, 33, 320})
    for (int64_t rows : {1, 5, 130}) {
      failed += call(Geglu, {{rows, 2 * c}, {2 * c}, {rows, c}});
      failed += call(GegluGradient, {{rows, 2 * c}, {2 * c}, {rows, c}, {rows, 2 * c}, {2 * c}});
      failed += call(Gelu, {{rows, c}, {rows, c}});
      failed += call(GeluGradient, {{rows, c}, {rows, c}, {rows, c}});
      failed += call(Silu, {{rows, c}, {rows, c}});
      failed += call(SiluGradient, {{rows, c}, {rows, c}, {rows, c}});
      failed += call(LayerNorm, {{rows, c}, {c}, {c}, {1}, {rows, c}});
      failed += call(LayerNormGradient, {{rows, c}, {c}, {1}, {rows, c}, {rows, c}, {2, c}});
    }
  for (int64_t n : {1, 3})
    for (int64_t s : {1, 7, 130})
      for (int64_t c : {1, 16, 33}) {
        const Shape x{n, s, c}, values{n, 1, c};
        failed += call(AddToTokens, {x, values, x});
        failed += call(SumOfTokens, {x, values});
        failed += call(Turn, {x, {n, c, s}});
        failed += call(AddToChannels, {x, {c}, {n, c, s}, {n, c, s}});
        failed += call(AddBiased, {{n * s, c}, {c}, {n * s, c}, {n * s, c}});
        for (const Shape &share : {Shape{1}, Shape{n, 1, 1}}) {
          failed += call(Mix, {x, x, share, x});
          failed += call(MixGradient, {x, x, share, x, x, x, share});
        }
        failed += call(UpsampleNearest, {{n, 2, s, c}, {n, 2, 2 * s, 2 * c}});
        failed += call(SwapMiddleAxes, {{n, s, 5, c}, {n, 5, s, c}});
        failed += call(UpsampleNearestGradient, {{n, 2, 2 * s, 2 * c}, {n, 2, s, c}});
      }
  for (int64_t b : {1, 3})
    for (int64_t k : {1, 2, 10})
      for (int64_t s : {1, 15, 17, 4099}) {
        const Shape x{b, 32, k, s}, w{32 * k};
        for (Kernel *forward : {GroupNorm, GroupNormSilu}) failed += call(forward, {x, w, w, {1}, x});
        for (Kernel *backward : {GroupNormGradient, GroupNormSiluGradient})
          failed += call(backward, {x, w, w, {1}, x, x, w, w});
        for (int64_t frames : {1, 3}) {
          const Shape video{b, 32, k, s * frames}, added{b, 32, k, frames};
          failed += call(AddGroupNormSilu, {video, w, w, {1}, added, video});
          failed += call(AddGroupNormSiluGradient, {video, w, w, {1}, added, video, video, w, w, added});
        }
      }
  for (int64_t heads : {1, 3})
    for (int64_t sq : {1, 5, 17})
      for (int64_t sk : {1, 4, 33})
        for (int64_t head : {1, 8, 40}) {
          const Shape q{7, sq, heads * head}, k{7, sk, heads * head};
          failed += call(ShortAttention, {q, k, k, {heads}, q});
          failed += call(ShortAttentionGradient, {q, k, k, {heads}, q, q, k, k});
        }
  for (int64_t heads : {1, 3})
    for (int64_t sq : {1, 65, 128})
      for (int64_t sk : {1, 130, 256})
        for (int64_t head : {1, 40, 65}) {
          const Shape q{2, sq, heads * head}, k{2, sk, heads * head};
          failed += call(LongAttention, {q, k, k, {heads}, q});
          failed += call(LongAttentionGradient, {q, k, k, {heads}, q, q, q, k, k});
        }
  for (int64_t c : {1, 40, 65})
    for (int64_t s : {1, 64, 131}) {
      const Shape x{3, c, s};
      failed += call(PixelAttention, {x, x, x, x});
      failed += call(PixelAttentionGradient, {x, x, x, x, x, x, x, x});
    }
  for (int64_t n : {1, 65, 200})
    for (int64_t c : {1, 17, 40})
      for (int64_t inner : {1, 25, 600}) {
        const int64_t more = (n + 63) / 64 * 64, out = c + 3;
        const Shape x{n, c}, y{n, out}, wide{2 * inner, c}, narrow{out, inner}, kept{more, 2 * inner};
        const Shape between{more, 3 * inner};
        failed += call(FeedForward, {y, x, wide, {2 * inner}, narrow, {out}, y});
        failed += call(FeedForwardKept, {y, x, wide, {2 * inner}, narrow, {out}, y, kept});
        failed += call(FeedForwardInputGradient, {kept, wide, narrow, y, x, between});
        failed += call(FeedForwardWeightGradient, {between, x, y, wide, {2 * inner}, narrow, {out}});
      }
  for (const Shape &x : {Shape{2, 33, 21, 29}, {1, 150, 28, 28}, {1, 40, 5, 131}, {3, 34, 27, 9}, {2, 32, 130, 1}, {5, 32, 16, 15}})
    for (const Shape &weight : {Shape{37, x[1], 3, 3}, Shape{37, x[1], 3, 1, 1}})
      failed += call(Convolution, {x, weight, {37}, {x[0], 37, x[2], x[3]}});
  for (int64_t in : {1, 7, 70})
    for (int64_t out : {1, 6, 13})
      for (int64_t h : {1, 3, 40})
        for (int64_t w : {1, 5, 16, 72})
          for (const Shape &weight : {Shape{out, in, 3, 3}, Shape{out, in, 3, 1, 1}}) {
            const Shape x{3, in, h, w}, y{3, out, h, w};
            failed += call(Convolution, {x, weight, {out}, y});
            failed += call(ConvolutionInputGradient, {weight, y, x});
            failed += call(ConvolutionWeightGradient, {x, weight, y, weight, {out}});
          }
  for (int64_t in : {8, 19, 130})
    for (int64_t n : {1, 5})
      for (const Shape &side : {Shape{2, 2}, Shape{3, 5}, Shape{9, 7}, Shape{4, 131}, Shape{1, 1}})
        for (const Shape &weight : {Shape{300, in, 3, 3}, Shape{33, in, 3, 1, 1}}) {
          const Shape x{n, in, side[0], side[1]}, y{n, weight[0], side[0], side[1]};
          failed += call(Convolution, {x, weight, {weight[0]}, y});
          failed += call(ConvolutionInputGradient, {weight, y, x});
        }
  {
    const std::vector<Shape> shapes{{1}, {3, 5}, {17}, {4096}, {64, 65}, {2, 1, 5000}};
    std::vector<Shape> arguments;
    for (int k = 0; k < 4; ++k) arguments.insert(arguments.end(), shapes.begin(), shapes.end());
    arguments.insert(arguments.end(), 7, {1});
    failed += call(AdamW, arguments) + call(SquareSum, arguments);
  }
  for (int64_t n : {0, 1, 15, 16, 33, 65536}) {
    std::vector<uint16_t> from(n);
    std::vector<float> to(n);
    for (int64_t i = 0; i < n; ++i) from[i] = static_cast<uint16_t>(i);
    Widen(from.data(), to.data(), n);
  }
  for (int64_t width : {2, 14, 16, 66})
    for (int64_t height : {2, 4, 10}) {
      std::vector<uint8_t> y(width * height, 200), u(width * height / 4, 3), v(width * height / 4, 250), to(3 * y.size());
      const uint8_t *planes[] = {y.data(), u.data(), v.data()};
      const int64_t strides[] = {width, width / 2, width / 2};
      const int16_t numbers[] = {28570, 7885, -2765, -922, 27788, 7669, -2689, 0, 16383, 2048, 9539, 14686, -1747, -4366, 17304};
      YCbCrToRgb(planes, strides, width, height, numbers, to.data());
    }
  std::puts(failed ? "a kernel failed" : "all kernels called");
  return failed;
}
