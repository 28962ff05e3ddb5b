// What changes each value by itself, in one pass over memory and computed in float32: activations, sums, mixing.
#include "common.cuh"

namespace {

constexpr int THREADS = 256;

inline unsigned blocks(int64_t work) { return static_cast<unsigned>((work + THREADS - 1) / THREADS); }

// y[i] = function(i, x[i]); the function gets the place of the first of `N` neighbours.
template <typename T, int N, typename Function>
__global__ void each(const T* x, T* y, int64_t size, Function function) {
    const int64_t i = (int64_t(blockIdx.x) * THREADS + threadIdx.x) * N;
    if (i >= size) return;
    auto pack = *reinterpret_cast<const Pack<T, N>*>(x + i);
#pragma unroll
    for (int j = 0; j < N; ++j) pack.values[j] = T(function(i + j, float(pack.values[j])));
    *reinterpret_cast<Pack<T, N>*>(y + i) = pack;
}

// wide: whether eight float16 or four float32 values may be taken at once.
template <typename T, typename Function>
int for_each(void* x, void* y, int64_t size, bool wide, void* stream, Function function) {
    constexpr int N = 16 / sizeof(T);
    void* from_and_to[] = {x, y};
    const auto from = static_cast<const T*>(x);
    const auto to = static_cast<T*>(y);
    const auto cuda_stream = static_cast<cudaStream_t>(stream);
    if (wide && aligned(from_and_to, 2))
        each<T, N><<<blocks(size / N), THREADS, 0, cuda_stream>>>(from, to, size, function);
    else
        each<T, 1><<<blocks(size), THREADS, 0, cuda_stream>>>(from, to, size, function);
    return cudaGetLastError();
}

// x (rows, 2 * inner) = [value, gate]
template <typename T, int N>
__global__ void geglu_of(const T* x, const T* bias, T* y, int64_t size, int inner) {
    const int64_t i = (int64_t(blockIdx.x) * THREADS + threadIdx.x) * N;
    if (i >= size) return;
    const int64_t row = i / inner;
    const int column = i % inner;
    x += row * 2 * inner + column;
    const auto value = *reinterpret_cast<const Pack<T, N>*>(x), gate = *reinterpret_cast<const Pack<T, N>*>(x + inner),
               value_bias = *reinterpret_cast<const Pack<T, N>*>(bias + column),
               gate_bias = *reinterpret_cast<const Pack<T, N>*>(bias + inner + column);
    Pack<T, N> result;
#pragma unroll
    for (int j = 0; j < N; ++j)
        result.values[j] = T((float(value.values[j]) + float(value_bias.values[j])) *
                             gelu(float(gate.values[j]) + float(gate_bias.values[j])));
    *reinterpret_cast<Pack<T, N>*>(y + i) = result;
}

template <typename T>
int silu_by(void** tensors, int64_t size, void* stream) {
    return for_each<T>(tensors[0], tensors[1], size, size % 8 == 0, stream,
                       [] __device__(int64_t, float x) { return silu(x); });
}

// values: one for each `inner` neighbours
template <typename T>
int add_per_channel(void** tensors, int64_t size, int64_t inner, void* stream) {
    const auto values = static_cast<const T*>(tensors[1]);
    return for_each<T>(tensors[0], tensors[2], size, inner % 8 == 0, stream,
                       [=] __device__(int64_t i, float x) { return x + float(values[i / inner]); });
}

// values (c) for the `rows` of each sample
template <typename T>
int add_to_tokens(void** tensors, int64_t size, int64_t rows, int64_t c, void* stream) {
    const auto values = static_cast<const T*>(tensors[1]);
    return for_each<T>(tensors[0], tensors[2], size, c % 8 == 0, stream, [=] __device__(int64_t i, float x) {
        return x + float(values[i / (rows * c) * c + i % c]);
    });
}

template <typename T>
int mix(void** tensors, int64_t size, void* stream) {
    const auto second = static_cast<const T*>(tensors[1]), share = static_cast<const T*>(tensors[2]);
    return for_each<T>(tensors[0], tensors[3], size, size % 8 == 0, stream, [=] __device__(int64_t i, float first) {
        const float other = float(second[i]);
        return other + float(*share) * (first - other);
    });
}

// Two neighbours of an output row come from one value, and so do the two rows.
template <typename T>
__global__ void upsample(const T* x, Pack<T, 2>* y, int64_t size, int w) {
    const int64_t i = int64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= size) return;
    const Pack<T, 2> pair{{x[i], x[i]}};
    const int64_t row = i / w;
    y[row * 2 * w + i % w] = pair;
    y[(row * 2 + 1) * w + i % w] = pair;
}

template <typename T>
int upsample_nearest(void** tensors, int64_t size, int w, void* stream) {
    upsample<<<blocks(size), THREADS, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const T*>(tensors[0]), static_cast<Pack<T, 2>*>(tensors[1]), size, w);
    return cudaGetLastError();
}

template <typename T, int N>
int geglu(void** tensors, int64_t size, int inner, void* stream) {
    geglu_of<T, N><<<blocks(size / N), THREADS, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const T*>(tensors[0]), static_cast<const T*>(tensors[1]), static_cast<T*>(tensors[2]), size, inner);
    return cudaGetLastError();
}

template <typename T>
int geglu_by(void** tensors, int64_t size, int inner, void* stream) {
    constexpr int N = 16 / sizeof(T);
    return inner % N == 0 && aligned(tensors, 3) ? geglu<T, N>(tensors, size, inner, stream)
                                                 : geglu<T, 1>(tensors, size, inner, stream);
}

}  // namespace

// x -> its shape
KERNEL(Silu) {
    const int64_t size = size_of(shapes[0], 0, ranks[0]);
    return is_half(dtypes[0]) ? silu_by<half>(tensors, size, stream) : silu_by<float>(tensors, size, stream);
}

// x (n, c, ...), values (n, c) -> x's shape
KERNEL(AddPerChannel) {
    const int64_t size = size_of(shapes[0], 0, ranks[0]), inner = size_of(shapes[0], 2, ranks[0]);
    return is_half(dtypes[0]) ? add_per_channel<half>(tensors, size, inner, stream)
                              : add_per_channel<float>(tensors, size, inner, stream);
}

// x (n, s, c), values (n, 1, c) -> x's shape
KERNEL(AddToTokens) {
    const int64_t size = size_of(shapes[0], 0, 3), rows = shapes[0][1], c = shapes[0][2];
    return is_half(dtypes[0]) ? add_to_tokens<half>(tensors, size, rows, c, stream)
                              : add_to_tokens<float>(tensors, size, rows, c, stream);
}

// first, second, share (1) -> their shape
KERNEL(Mix) {
    const int64_t size = size_of(shapes[0], 0, ranks[0]);
    return is_half(dtypes[0]) ? mix<half>(tensors, size, stream) : mix<float>(tensors, size, stream);
}

// x (n, c, h, w) -> (n, c, 2h, 2w)
KERNEL(UpsampleNearest) {
    const int64_t size = size_of(shapes[0], 0, 4), w = shapes[0][3];
    return is_half(dtypes[0]) ? upsample_nearest<half>(tensors, size, w, stream)
                              : upsample_nearest<float>(tensors, size, w, stream);
}

// projected (..., 2 * inner), bias (2 * inner) -> (..., inner)
KERNEL(Geglu) {
    const int inner = shapes[1][0] / 2;
    const int64_t size = size_of(shapes[0], 0, ranks[0] - 1) * inner;
    return is_half(dtypes[0]) ? geglu_by<half>(tensors, size, inner, stream)
                              : geglu_by<float>(tensors, size, inner, stream);
}
