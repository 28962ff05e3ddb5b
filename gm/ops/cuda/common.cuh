// What the kernels share: the signature by which MindSpore calls them, and numbers in float16 and float32.
#pragma once
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

// count inputs and outputs together; every function returns 0, or the CUDA error of its launch.
#define KERNEL(name)                                                                                       \
    extern "C" int name([[maybe_unused]] int count, void** tensors, [[maybe_unused]] int* ranks, int64_t** shapes, \
                        const char** dtypes, void* stream, void*)

inline bool is_half(const char* dtype) { return std::strcmp(dtype, "float16") == 0; }

inline int64_t size_of(const int64_t* shape, int from, int to) {
    int64_t size = 1;
    for (int i = from; i < to; ++i) size *= shape[i];
    return size;
}

// Whether 16 bytes may be read at once from the beginning of each tensor: a view may begin anywhere.
inline bool aligned(void** tensors, int count) {
    for (int i = 0; i < count; ++i)
        if (reinterpret_cast<uintptr_t>(tensors[i]) % 16) return false;
    return true;
}

__device__ inline float silu(float x) { return x / (1.0f + __expf(-x)); }
__device__ inline float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }

// `N` neighbouring values, read and written at once.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
    T values[N];
};

// The sum over a warp, in every lane.
__device__ inline float warp_sum(float x) {
#pragma unroll
    for (int lane = 16; lane; lane >>= 1) x += __shfl_xor_sync(0xffffffff, x, lane);
    return x;
}
