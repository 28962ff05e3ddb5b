// Norms in one kernel or two; statistics in float32, of values from which the mean was taken first.
#include "common.cuh"

namespace {

constexpr int THREADS = 256, WARPS = THREADS / 32;

// The sum over the block, in every thread.
__device__ float block_sum(float x, float* shared) {
    x = warp_sum(x);
    __syncthreads();  // the values of the last call have been read
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0;
#pragma unroll
    for (int i = 0; i < WARPS; ++i) sum += shared[i];
    return sum;
}

template <typename T, int N, typename Function>
__device__ void for_each(const T* x, int64_t first, int64_t last, Function function) {
    for (int64_t i = first + threadIdx.x * N; i < last; i += THREADS * N)
        function(i, *reinterpret_cast<const Pack<T, N>*>(x + i));
}

// Mean and sum of squares around it of each part of a group. Block (x: part, y: group of a sample).
template <typename T, int N>
__global__ void part_statistics(const T* x, float2* parts, int64_t size, int64_t length) {
    __shared__ float shared[WARPS];
    x += blockIdx.y * size;
    const int64_t first = blockIdx.x * length, last = min(first + length, size);
    float sum = 0;
    for_each<T, N>(x, first, last, [&](int64_t, const Pack<T, N>& pack) {
        for (T value : pack.values) sum += float(value);
    });
    const float mean = block_sum(sum, shared) / (last - first);
    float squares = 0;
    for_each<T, N>(x, first, last, [&](int64_t, const Pack<T, N>& pack) {
        for (T value : pack.values) squares += (float(value) - mean) * (float(value) - mean);
    });
    squares = block_sum(squares, shared);
    if (threadIdx.x == 0) parts[blockIdx.y * gridDim.x + blockIdx.x] = make_float2(mean, squares);
}

// The group's mean and 1 / standard deviation, of its parts (Chan et al. 1979).
__device__ float2 joined(const float2* parts, int64_t size, int64_t length, float eps, float* shared) {
    const int count = (size + length - 1) / length;
    float sum = 0, squares = 0;
    for (int i = threadIdx.x; i < count; i += THREADS) sum += parts[i].x * (min((i + 1) * length, size) - i * length);
    const float mean = block_sum(sum, shared) / size;
    for (int i = threadIdx.x; i < count; i += THREADS) {
        const float difference = parts[i].x - mean;
        squares += parts[i].y + difference * difference * (min((i + 1) * length, size) - i * length);
    }
    return make_float2(mean, rsqrtf(block_sum(squares, shared) / size + eps));
}

template <typename T, int N, bool SILU>
__global__ void normalise(const T* x, const float* weight, const float* bias, const float* eps, const float2* parts,
                          T* y, int64_t size, int64_t length, int64_t pixels, int groups) {
    __shared__ float shared[WARPS];
    const float2 statistics = joined(parts + blockIdx.y * gridDim.x, size, length, *eps, shared);
    const int64_t first = blockIdx.x * length, last = min(first + length, size);
    const int channels = size / pixels, channel = (blockIdx.y % groups) * channels;
    x += blockIdx.y * size;
    y += blockIdx.y * size;
    for_each<T, N>(x, first, last, [&](int64_t i, const Pack<T, N>& pack) {
        const int at = channel + int(i / pixels);
        const float factor = weight[at] * statistics.y, shift = bias[at];
        Pack<T, N> result;
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const float value = fmaf(float(pack.values[j]) - statistics.x, factor, shift);
            result.values[j] = T(SILU ? silu(value) : value);
        }
        *reinterpret_cast<Pack<T, N>*>(y + i) = result;
    });
}

template <typename T, int N, bool SILU>
int group_norm(void** tensors, int64_t** shapes, cudaStream_t stream) {
    const int64_t *shape = shapes[0], size = shape[2] * shape[3], parts = shapes[5][1];
    const int64_t length = ((size + parts - 1) / parts + N - 1) / N * N;
    const dim3 grid((size + length - 1) / length, shape[0] * shape[1]);
    const auto x = static_cast<const T*>(tensors[0]);
    const auto weight = static_cast<const float*>(tensors[1]), bias = static_cast<const float*>(tensors[2]),
               eps = static_cast<const float*>(tensors[3]);
    const auto statistics = static_cast<float2*>(tensors[5]);
    part_statistics<T, N><<<grid, THREADS, 0, stream>>>(x, statistics, size, length);
    normalise<T, N, SILU><<<grid, THREADS, 0, stream>>>(x, weight, bias, eps, statistics, static_cast<T*>(tensors[4]),
                                                        size, length, shape[3], shape[1]);
    return cudaGetLastError();
}

template <typename T, bool SILU>
int group_norm_of(void** tensors, int64_t** shapes, void* stream) {
    constexpr int N = 16 / sizeof(T);
    const auto cuda_stream = static_cast<cudaStream_t>(stream);
    return shapes[0][3] % N == 0 && aligned(tensors, 5) ? group_norm<T, N, SILU>(tensors, shapes, cuda_stream)
                                                        : group_norm<T, 1, SILU>(tensors, shapes, cuda_stream);
}

// A warp for each row of `c` values.
template <typename T, int N>
__global__ void normalise_rows(const T* x, const float* weight, const float* bias, const float* eps, T* y, int64_t rows,
                               int c) {
    const int64_t row = int64_t(blockIdx.x) * WARPS + threadIdx.x / 32;
    if (row >= rows) return;
    const int lane = threadIdx.x % 32;
    x += row * c;
    y += row * c;
    float sum = 0, squares = 0;
    for (int i = lane * N; i < c; i += 32 * N)
        for (T value : reinterpret_cast<const Pack<T, N>*>(x + i)->values) sum += float(value);
    const float mean = warp_sum(sum) / c;
    for (int i = lane * N; i < c; i += 32 * N)
        for (T value : reinterpret_cast<const Pack<T, N>*>(x + i)->values)
            squares += (float(value) - mean) * (float(value) - mean);
    const float factor = rsqrtf(warp_sum(squares) / c + *eps);
    for (int i = lane * N; i < c; i += 32 * N) {
        const auto pack = *reinterpret_cast<const Pack<T, N>*>(x + i);
        Pack<T, N> result;
#pragma unroll
        for (int j = 0; j < N; ++j)
            result.values[j] = T((float(pack.values[j]) - mean) * factor * weight[i + j] + bias[i + j]);
        *reinterpret_cast<Pack<T, N>*>(y + i) = result;
    }
}

template <typename T, int N>
int layer_norm(void** tensors, int64_t rows, int c, void* stream) {
    normalise_rows<T, N><<<(rows + WARPS - 1) / WARPS, THREADS, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const T*>(tensors[0]), static_cast<const float*>(tensors[1]), static_cast<const float*>(tensors[2]),
        static_cast<const float*>(tensors[3]), static_cast<T*>(tensors[4]), rows, c);
    return cudaGetLastError();
}

template <typename T>
int layer_norm_of(void** tensors, int64_t rows, int c, void* stream) {
    constexpr int N = 16 / sizeof(T);
    return c % N == 0 && aligned(tensors, 5) ? layer_norm<T, N>(tensors, rows, c, stream)
                                             : layer_norm<T, 1>(tensors, rows, c, stream);
}

}  // namespace

// x (b, groups, channels, pixels), weight and bias (groups * channels), eps (1) -> x's shape, parts (b * groups, n, 2):
// mean and squares of each of the n parts that a group is taken in
KERNEL(GroupNorm) {
    return is_half(dtypes[0]) ? group_norm_of<half, false>(tensors, shapes, stream)
                              : group_norm_of<float, false>(tensors, shapes, stream);
}

// The same, and SiLU of it
KERNEL(GroupNormSilu) {
    return is_half(dtypes[0]) ? group_norm_of<half, true>(tensors, shapes, stream)
                              : group_norm_of<float, true>(tensors, shapes, stream);
}

// x (..., c), weight and bias (c), eps (1) -> x's shape
KERNEL(LayerNorm) {
    const int64_t rows = size_of(shapes[0], 0, ranks[0] - 1), c = shapes[0][ranks[0] - 1];
    return is_half(dtypes[0]) ? layer_norm_of<half>(tensors, rows, c, stream)
                              : layer_norm_of<float>(tensors, rows, c, stream);
}
