// Softmax attention that never holds the scores (Dao et al. 2022, 2023: FlashAttention), float16 with sums in float32.
#include "common.cuh"

namespace {

constexpr int WARPS = 4, ROWS = 32;    // of queries for each warp
constexpr int KEYS = 64;               // in a tile
constexpr int QUERIES = WARPS * ROWS;  // of a block
constexpr int TILES = KEYS / 8;        // of eight keys: the width of a tensor core's result
constexpr float LOG2E = 1.44269504f;

// A tile of keys or values, [KEYS][HEAD], its 16-byte pieces shuffled within a row so that eight rows never collide.
template <int HEAD>
__device__ inline uint32_t place(int row, int piece) {
    return row * HEAD * 2 + ((piece ^ (HEAD == 64 ? row & 7 : row >> 1 & 3)) << 4);
}

template <int HEAD>
__device__ inline void copy_tile(uint32_t to, const half* from, int64_t stride, int first, int rows) {
    for (int i = threadIdx.x; i < KEYS * HEAD / 8; i += WARPS * 32) {
        const int row = i / (HEAD / 8), piece = i % (HEAD / 8);
        const bool inside = first + row < rows;
        const half* source = from + (inside ? first + row : 0) * stride + piece * 8;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + place<HEAD>(row, piece)), "l"(source),
                     "r"(inside ? 16 : 0));
    }
}

__device__ inline void load_four(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
}

__device__ inline void load_four_turned(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
}

// c (16x8) += a (16x16) b (16x8)
__device__ inline void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline uint32_t packed(float low, float high) {
    half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<uint32_t*>(&pair);
}

__device__ inline float over_four(float x, bool largest) {
#pragma unroll
    for (int lane = 1; lane < 4; lane <<= 1) {
        const float other = __shfl_xor_sync(0xffffffff, x, lane);
        x = largest ? fmaxf(x, other) : x + other;
    }
    return x;
}

// q, o (n, sq, c); k, v (n, sk, c). Block (x: queries, y: head, z: n). A lane holds rows lane/4 and lane/4 + 8 of a
// 16-row tile, and of each eight columns two: 2 * (lane % 4) and the next.
template <int HEAD>
__global__ void __launch_bounds__(WARPS * 32, 2)
    attend(const half* q, const half* k, const half* v, half* o, int sq, int sk, int c, int64_t base) {
    __shared__ alignas(128) half tiles[2][2][KEYS * HEAD];  // [buffer][keys, values]
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t batch = base + blockIdx.z;
    const int first = blockIdx.x * QUERIES + warp * ROWS, column = blockIdx.y * HEAD;
    const bool busy = first < sq;  // a warp beyond the last query only helps to copy
    q += batch * sq * c + column;
    o += batch * sq * c + column;
    k += batch * sk * c + column;
    v += batch * sk * c + column;
    const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(&tiles[0][0][0]));
    constexpr uint32_t TILE = KEYS * HEAD * 2;

    copy_tile<HEAD>(shared, k, c, 0, sk);
    copy_tile<HEAD>(shared + TILE, v, c, 0, sk);
    asm volatile("cp.async.commit_group;");

    uint32_t queries[2][HEAD / 16][4];
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int step = 0; step < HEAD / 16; ++step)
#pragma unroll
            for (int part = 0; part < 4; ++part) {
                const int row = first + m * 16 + lane / 4 + (part & 1) * 8;
                const int at = step * 16 + (part / 2) * 8 + (lane % 4) * 2;
                queries[m][step][part] = row < sq ? *reinterpret_cast<const uint32_t*>(q + int64_t(row) * c + at) : 0u;
            }

    float out[2][HEAD / 8][4] = {}, largest[2][2], total[2][2] = {};
    for (auto& pair : largest) pair[0] = pair[1] = -INFINITY;
    const float scale = rsqrtf(float(HEAD)) * LOG2E;
    const int count = (sk + KEYS - 1) / KEYS;

    for (int tile = 0; tile < count; ++tile) {
        const uint32_t keys = shared + (tile & 1) * 2 * TILE, values = keys + TILE;
        if (tile + 1 < count) {
            const uint32_t next = shared + ((tile + 1) & 1) * 2 * TILE;
            copy_tile<HEAD>(next, k, c, (tile + 1) * KEYS, sk);
            copy_tile<HEAD>(next + TILE, v, c, (tile + 1) * KEYS, sk);
        }
        asm volatile("cp.async.commit_group;");
        asm volatile("cp.async.wait_group 1;");
        __syncthreads();
        if (busy) {
            float scores[2][TILES][4] = {};
#pragma unroll
            for (int n = 0; n < TILES; ++n)
#pragma unroll
                for (int half_head = 0; half_head < HEAD / 32; ++half_head) {
                    uint32_t b[4];
                    load_four(b, keys + place<HEAD>(n * 8 + lane % 8, half_head * 4 + lane / 8));
#pragma unroll
                    for (int m = 0; m < 2; ++m) {
                        multiply(scores[m][n], queries[m][half_head * 2], b[0], b[1]);
                        multiply(scores[m][n], queries[m][half_head * 2 + 1], b[2], b[3]);
                    }
                }
            const int left = sk - tile * KEYS;
            if (left < KEYS)
#pragma unroll
                for (int n = 0; n < TILES; ++n)
#pragma unroll
                    for (int i = 0; i < 4; ++i)
                        if (n * 8 + (lane % 4) * 2 + (i & 1) >= left) scores[0][n][i] = scores[1][n][i] = -INFINITY;
#pragma unroll
            for (int m = 0; m < 2; ++m)
#pragma unroll
                for (int r = 0; r < 2; ++r) {
                    float most = -INFINITY;
#pragma unroll
                    for (int n = 0; n < TILES; ++n)
                        most = fmaxf(most, fmaxf(scores[m][n][2 * r], scores[m][n][2 * r + 1]));
                    most = fmaxf(largest[m][r], over_four(most, true));
                    const float shrink = exp2f((largest[m][r] - most) * scale), shift = most * scale;
                    largest[m][r] = most;
                    float sum = 0;
#pragma unroll
                    for (int n = 0; n < TILES; ++n)
#pragma unroll
                        for (int i = 2 * r; i < 2 * r + 2; ++i) {
                            scores[m][n][i] = exp2f(fmaf(scores[m][n][i], scale, -shift));
                            sum += scores[m][n][i];
                        }
                    total[m][r] = total[m][r] * shrink + sum;  // of this lane's columns; joined at the end
#pragma unroll
                    for (int n = 0; n < HEAD / 8; ++n) {
                        out[m][n][2 * r] *= shrink;
                        out[m][n][2 * r + 1] *= shrink;
                    }
                }
#pragma unroll
            for (int step = 0; step < KEYS / 16; ++step) {
                uint32_t p[2][4];
#pragma unroll
                for (int m = 0; m < 2; ++m)
#pragma unroll
                    for (int part = 0; part < 4; ++part) {
                        const float* pair = &scores[m][2 * step + part / 2][2 * (part & 1)];
                        p[m][part] = packed(pair[0], pair[1]);
                    }
#pragma unroll
                for (int n = 0; n < HEAD / 8; n += 2) {
                    uint32_t b[4];
                    load_four_turned(b, values + place<HEAD>(step * 16 + lane % 16, n + lane / 16));
#pragma unroll
                    for (int m = 0; m < 2; ++m) {
                        multiply(out[m][n], p[m], b[0], b[1]);
                        multiply(out[m][n + 1], p[m], b[2], b[3]);
                    }
                }
            }
        }
        __syncthreads();
    }
    if (!busy) return;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int row = first + m * 16 + lane / 4 + r * 8;
            const float inverse = 1.0f / over_four(total[m][r], false);
            if (row < sq)
#pragma unroll
                for (int n = 0; n < HEAD / 8; ++n)
                    *reinterpret_cast<uint32_t*>(o + int64_t(row) * c + n * 8 + (lane % 4) * 2) =
                        packed(out[m][n][2 * r] * inverse, out[m][n][2 * r + 1] * inverse);
        }
}

template <int HEAD>
int attention(void** tensors, const int64_t* queries, int64_t sk, cudaStream_t stream) {
    constexpr int64_t MOST = 65535;  // blocks along an axis of the grid but the first
    const int64_t n = queries[0], sq = queries[1], c = queries[2];
    for (int64_t base = 0; base < n; base += MOST) {
        const dim3 grid((sq + QUERIES - 1) / QUERIES, c / HEAD, n - base < MOST ? n - base : MOST);
        attend<HEAD><<<grid, WARPS * 32, 0, stream>>>(
            static_cast<half*>(tensors[0]), static_cast<half*>(tensors[1]), static_cast<half*>(tensors[2]),
            static_cast<half*>(tensors[4]), sq, sk, c, base);
    }
    return cudaGetLastError();
}

}  // namespace

// q (n, sq, c), k and v (n, sk, c), heads (heads,) -> (n, sq, c); float16, c = heads * 32 or 64.
KERNEL(Attention) {
    const int64_t head = shapes[0][2] / shapes[3][0];
    const auto cuda_stream = static_cast<cudaStream_t>(stream);
    if (!is_half(dtypes[0]) || (head != 32 && head != 64) || !aligned(tensors, 3)) return 1;
    return head == 64 ? attention<64>(tensors, shapes[0], shapes[1][1], cuda_stream)
                      : attention<32>(tensors, shapes[0], shapes[1][1], cuda_stream);
}
