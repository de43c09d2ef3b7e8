// Causal attention of a chunk's queries over the keys and values that a cache holds (FlashAttention-2,
// Dao 2023), on the tensor cores.
//
// A block takes 128 queries of one head and goes through the keys that they see, 64 at a time; of the
// scores it keeps only the maximum and the sum of each query. Each warp has 32 queries, so that what it
// reads of keys and values from shared memory serves two products. While a tile is worked on, the next
// one comes. Blocks with the most keys are started first.
//
// Scores, their softmax and all sums are f32; weights are rounded to E for their product with the values.

#include "elements.cuh"

struct FlashParams {
    const void *queries; // E (rows, query_stride): a row begins with its heads · head_dim queries
    const void *keys;    // E (kv_heads, capacity, head_dim), of one layer
    const void *values;  // the same
    void *out;           // E (rows, heads · head_dim)
    int32_t rows, start; // row i is at position start + i, and the keys up to it are there
    int32_t window;      // positions that a query sees, its own included; 0: all
    int32_t capacity, heads, kv_heads, query_stride;
    float scale;         // of scores, times log2(e)
};

constexpr int WARPS = 4;
constexpr int THREADS = WARPS * WARP;
// Groups of 16 queries that a warp has.
constexpr int GROUPS = 2;
constexpr int WARP_QUERIES = GROUPS * 16;
// Queries of a block, and keys of a tile.
constexpr int QUERIES = WARPS * WARP_QUERIES;
constexpr int KEYS = 64;
// Tiles in shared memory. Before Ampere there is room for one.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int STAGES = 1;
#else
constexpr int STAGES = 2;
#endif

// ---------------------------------------------------------------- shared memory

// A row's 16-byte chunks lie so that eight rows' chunks of one number are in different banks.
template <int D> struct Rows {
    static constexpr int CHUNKS = D / 8;
    static constexpr bool IS_PADDED = D == 96;
    static constexpr int STRIDE = D * 2 + (IS_PADDED ? 16 : 0);

    static __device__ __forceinline__ int place(int row, int chunk) {
        if (IS_PADDED) return row * STRIDE + chunk * 16;
        const int turn = D == 32 ? row / 2 % 4 : row % 8;
        return row * STRIDE + (chunk ^ turn) * 16;
    }
};

__device__ __forceinline__ uint32_t shared_address(const void *p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Copies 16 bytes, or zeros.
__device__ __forceinline__ void copy16(uint32_t to, const void *from, bool is_there) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(is_there ? 16 : 0)
                 : "memory");
#else
    uint4 x = make_uint4(0, 0, 0, 0);
    if (is_there) x = *static_cast<const uint4 *>(from);
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(x.x), "r"(x.y), "r"(x.z),
                 "r"(x.w)
                 : "memory");
#endif
}

// Ends a group of copies; `copied` waits for all groups.
__device__ __forceinline__ void commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

__device__ __forceinline__ void copied() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group 0;" ::: "memory");
#endif
}

// Four matrices of 8 × 8, a row's 16 bytes at the address that each lane has: lanes 0 to 7 the first's.
__device__ __forceinline__ void load4(uint32_t to[4], uint32_t from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}

// The same, each matrix turned over.
__device__ __forceinline__ void load4_turned(uint32_t to[4], uint32_t from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}

// Rows `first` to `first + COUNT` of a matrix, zeros from row `end` on.
template <typename E, int D, int COUNT>
__device__ __forceinline__ void copy_rows(uint32_t to, const E *from, size_t stride, int first, int end) {
    constexpr int CHUNKS = Rows<D>::CHUNKS;
    static_assert(COUNT * CHUNKS % THREADS == 0, "every thread has as many");
#pragma unroll
    for (int i = 0; i < COUNT * CHUNKS / THREADS; i++) {
        const int number = i * THREADS + threadIdx.x, row = number / CHUNKS, chunk = number % CHUNKS;
        const bool is_there = first + row < end;
        const E *source = from + size_t(is_there ? first + row : 0) * stride + chunk * 8;
        copy16(to + Rows<D>::place(row, chunk), source, is_there);
    }
}

// ---------------------------------------------------------------- attention

__device__ __forceinline__ float exp2_of(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float max_of_quad(float x) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

template <typename E, int D> __device__ __forceinline__ void attend(const FlashParams &p) {
    extern __shared__ __align__(128) uint8_t memory[];
    using Place = Rows<D>;
    constexpr int TILE_BYTES = KEYS * Place::STRIDE;
    const uint32_t q_shared = shared_address(memory), kv_shared = q_shared + QUERIES * Place::STRIDE;

    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int g = lane / 4, t = lane % 4;
    const int head = blockIdx.x, kv_head = head / (p.heads / p.kv_heads);
    const int first_row = (gridDim.y - 1 - blockIdx.y) * QUERIES;
    const int end = p.start + min(first_row + QUERIES, p.rows); // of the keys that are seen
    const int begin = p.window > 0 ? max(0, p.start + first_row + 1 - p.window) : 0;

    const E *queries = static_cast<const E *>(p.queries) + head * D;
    const E *keys = static_cast<const E *>(p.keys) + size_t(kv_head) * p.capacity * D;
    const E *values = static_cast<const E *>(p.values) + size_t(kv_head) * p.capacity * D;
    const auto fetch = [&](int tile, int stage) {
        const uint32_t to = kv_shared + stage * 2 * TILE_BYTES;
        copy_rows<E, D, KEYS>(to, keys, D, tile * KEYS, end);
        copy_rows<E, D, KEYS>(to + TILE_BYTES, values, D, tile * KEYS, end);
    };

    const int first_tile = begin / KEYS, end_tile = (end + KEYS - 1) / KEYS;
    copy_rows<E, D, QUERIES>(q_shared, queries, p.query_stride, first_row, p.rows);
    if (STAGES > 1) fetch(first_tile, 0);
    commit();

    float sums[GROUPS][D / 8][4], maxima[GROUPS][2], totals[GROUPS][2];
#pragma unroll
    for (int i = 0; i < GROUPS; i++) {
#pragma unroll
        for (int j = 0; j < D / 8; j++)
#pragma unroll
            for (int k = 0; k < 4; k++) sums[i][j][k] = 0.f;
        maxima[i][0] = maxima[i][1] = -INFINITY;
        totals[i][0] = totals[i][1] = 0.f;
    }

    const int own_first = p.start + first_row + warp * WARP_QUERIES, own_last = own_first + WARP_QUERIES - 1;
    // Where a lane's rows of matrices begin, and of which chunks they are.
    const int q_row = warp * WARP_QUERIES + lane % 16, q_chunk = lane / 16;
    const int k_row = lane % 8 + lane / 16 * 8, k_chunk = lane / 8 % 2;
    const int v_row = lane % 16, v_chunk = lane / 16;

    for (int tile = first_tile; tile < end_tile; tile++) {
        const int stage = STAGES > 1 ? (tile - first_tile) % STAGES : 0;
        if (STAGES == 1) {
            __syncthreads();
            fetch(tile, 0);
            commit();
        }
        copied();
        __syncthreads();
        if (STAGES > 1 && tile + 1 < end_tile) {
            fetch(tile + 1, stage ^ 1);
            commit();
        }
        const int key = tile * KEYS;
        const uint32_t k_shared = kv_shared + stage * 2 * TILE_BYTES, v_shared = k_shared + TILE_BYTES;
        if (key > own_last || (p.window > 0 && key + KEYS - 1 < own_first + 1 - p.window)) continue;

        float scores[GROUPS][KEYS / 8][4];
#pragma unroll
        for (int i = 0; i < GROUPS; i++)
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                for (int k = 0; k < 4; k++) scores[i][j][k] = 0.f;
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            uint32_t a[GROUPS][4];
#pragma unroll
            for (int i = 0; i < GROUPS; i++) load4(a[i], q_shared + Place::place(q_row + i * 16, 2 * k + q_chunk));
#pragma unroll
            for (int j = 0; j < KEYS / 16; j++) {
                uint32_t b[4];
                load4(b, k_shared + Place::place(k_row + j * 16, 2 * k + k_chunk));
#pragma unroll
                for (int i = 0; i < GROUPS; i++) {
                    mma<E>(scores[i][2 * j], a[i][0], a[i][1], a[i][2], a[i][3], b[0], b[1]);
                    mma<E>(scores[i][2 * j + 1], a[i][0], a[i][1], a[i][2], a[i][3], b[2], b[3]);
                }
            }
        }

        if (key + KEYS - 1 > own_first || (p.window > 0 && key < own_last + 1 - p.window)) {
#pragma unroll
            for (int i = 0; i < GROUPS; i++)
#pragma unroll
                for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                    for (int k = 0; k < 4; k++) {
                        const int position = own_first + i * 16 + g + k / 2 * 8;
                        const int its = key + j * 8 + 2 * t + k % 2;
                        const bool is_seen = its <= position && (p.window == 0 || its > position - p.window);
                        if (!is_seen) scores[i][j][k] = -INFINITY;
                    }
        }

        uint32_t weights[GROUPS][KEYS / 8][2]; // pairs of rows g and g + 8
#pragma unroll
        for (int i = 0; i < GROUPS; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float maximum = maxima[i][half];
#pragma unroll
                for (int j = 0; j < KEYS / 8; j++)
                    maximum = fmaxf(maximum, fmaxf(scores[i][j][2 * half], scores[i][j][2 * half + 1]));
                maximum = max_of_quad(maximum);
                // A query may have seen no key yet.
                const float base = maximum == -INFINITY ? 0.f : maximum * p.scale;
                const float factor = exp2_of(maxima[i][half] * p.scale - base);
                maxima[i][half] = maximum;
                float total = 0.f;
#pragma unroll
                for (int j = 0; j < KEYS / 8; j++) {
                    const float x = exp2_of(scores[i][j][2 * half] * p.scale - base);
                    const float y = exp2_of(scores[i][j][2 * half + 1] * p.scale - base);
                    total += x + y;
                    weights[i][j][half] = narrow2<E>(x, y);
                }
                totals[i][half] = totals[i][half] * factor + total;
#pragma unroll
                for (int j = 0; j < D / 8; j++) {
                    sums[i][j][2 * half] *= factor;
                    sums[i][j][2 * half + 1] *= factor;
                }
            }

#pragma unroll
        for (int k = 0; k < KEYS / 16; k++)
#pragma unroll
            for (int j = 0; j < D / 16; j++) {
                uint32_t b[4];
                load4_turned(b, v_shared + Place::place(v_row + k * 16, 2 * j + v_chunk));
#pragma unroll
                for (int i = 0; i < GROUPS; i++) {
                    const uint32_t(&low)[2] = weights[i][2 * k], (&high)[2] = weights[i][2 * k + 1];
                    mma<E>(sums[i][2 * j], low[0], low[1], high[0], high[1], b[0], b[1]);
                    mma<E>(sums[i][2 * j + 1], low[0], low[1], high[0], high[1], b[2], b[3]);
                }
            }
    }

    // Through the place of the warp's own queries, so that rows are written 16 bytes a lane. All lanes have
    // read them by then.
    __syncwarp();
#pragma unroll
    for (int i = 0; i < GROUPS; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float total = totals[i][half];
            total += __shfl_xor_sync(~0u, total, 1);
            total += __shfl_xor_sync(~0u, total, 2);
            const float inverse = 1.f / total;
            const int row = warp * WARP_QUERIES + i * 16 + half * 8 + g;
#pragma unroll
            for (int j = 0; j < D / 8; j++)
                *reinterpret_cast<uint32_t *>(memory + Place::place(row, j) + t * 4) =
                    narrow2<E>(sums[i][j][2 * half] * inverse, sums[i][j][2 * half + 1] * inverse);
        }
    __syncwarp();
    E *out = static_cast<E *>(p.out) + head * D;
#pragma unroll
    for (int i = 0; i < WARP_QUERIES * Place::CHUNKS / WARP; i++) {
        const int number = i * WARP + lane, own = warp * WARP_QUERIES + number / Place::CHUNKS;
        const int row = first_row + own, chunk = number % Place::CHUNKS;
        if (row < p.rows)
            *reinterpret_cast<uint4 *>(out + size_t(row) * p.heads * D + chunk * 8) =
                *reinterpret_cast<const uint4 *>(memory + Place::place(own, chunk));
    }
}

#define FLASH(NAME, ELEMENT, D)                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                     \
        flash_##NAME##_##D(const __grid_constant__ FlashParams p) {                              \
        attend<ELEMENT, D>(p);                                                                   \
    }

FLASH(f16, half, 32)
FLASH(f16, half, 64)
FLASH(f16, half, 96)
FLASH(f16, half, 128)
FLASH(bf16, __nv_bfloat16, 32)
FLASH(bf16, __nv_bfloat16, 64)
FLASH(bf16, __nv_bfloat16, 96)
FLASH(bf16, __nv_bfloat16, 128)

// src/flash.rs asserts the same.
static_assert(sizeof(FlashParams) == 64 && QUERIES == 128 && KEYS == 64, "as in Rust");
