// What lies between the products of a prompt's rows: embedding, norms, RoPE, the cache, the gate.
//
// The residual stream is f32, and so is the arithmetic; what is multiplied by weights is E. Each kernel
// reads and writes global memory once.

#include "forms.cuh"

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / WARP;

// ---------------------------------------------------------------- matrices

// The numbers of eight neighbouring columns of a row, from a multiple of eight on.
template <typename E>
__device__ __forceinline__ void decode8(float to[8], const Matrix &matrix, size_t row, int column, int inputs) {
    const int columns = piece_columns(matrix.form), piece = column / columns, unit_columns = columns / 16;
    const uint8_t *from = matrix.data + row * matrix.row_bytes + size_t(piece) * piece_bytes(matrix.form, columns);
    const int units = min(columns, inputs - piece * columns) / unit_columns;
    const int unit = column % columns / unit_columns, block = column % unit_columns / 32, t = column % 32 / 8;
    switch (matrix.form) {
    case DENSE: Dense<E>::decode(to, from, units, unit, block, t); break;
    case Q8_0_FORM: Q8_0::decode(to, from, units, unit, block, t); break;
    default: Q4_K::decode(to, from, units, unit, block, t); break;
    }
}

template <typename E> __device__ __forceinline__ uint4 narrow8(const float from[8]) {
    return make_uint4(narrow2<E>(from[0], from[1]), narrow2<E>(from[2], from[3]),
                      narrow2<E>(from[4], from[5]), narrow2<E>(from[6], from[7]));
}

// ---------------------------------------------------------------- embedding

struct EmbedParams {
    Matrix matrix;          // (vocab, hidden)
    const uint32_t *tokens; // (rows)
    float *x;               // (rows, hidden)
    int32_t rows, hidden;
};

// A thread has eight columns.
template <typename E> __device__ __forceinline__ void embed(const EmbedParams &p) {
    const int chunks = p.hidden / 8, chunk = blockIdx.x * THREADS + threadIdx.x, row = blockIdx.y;
    if (chunk >= chunks) return;
    float numbers[8];
    decode8<E>(numbers, p.matrix, p.tokens[row], chunk * 8, p.hidden);
    float4 *to = reinterpret_cast<float4 *>(p.x + size_t(row) * p.hidden + chunk * 8);
    to[0] = make_float4(numbers[0], numbers[1], numbers[2], numbers[3]);
    to[1] = make_float4(numbers[4], numbers[5], numbers[6], numbers[7]);
}

// ---------------------------------------------------------------- unpacking

struct UnpackParams {
    Matrix matrix; // (rows, inputs)
    void *out;     // E (rows, inputs)
    int32_t rows, inputs;
};

template <typename E> __device__ __forceinline__ void unpack(const UnpackParams &p) {
    const int chunks = p.inputs / 8, chunk = blockIdx.x * THREADS + threadIdx.x;
    if (chunk >= chunks) return;
    for (int row = blockIdx.y; row < p.rows; row += gridDim.y) {
        float numbers[8];
        decode8<E>(numbers, p.matrix, row, chunk * 8, p.inputs);
        reinterpret_cast<uint4 *>(static_cast<E *>(p.out) + size_t(row) * p.inputs)[chunk] = narrow8<E>(numbers);
    }
}

// ---------------------------------------------------------------- norm

struct NormParams {
    const float *x;      // (rows, hidden)
    const float *weight; // (hidden)
    void *out;           // E (rows, hidden)
    int32_t hidden;
    float eps;
};

// x / sqrt(mean(x²) + eps) · weight, a block a row.
template <typename E> __device__ __forceinline__ void norm(const NormParams &p) {
    __shared__ float parts[WARPS];
    constexpr int KEPT = 4; // of a row in registers: up to 4,096 columns are read once
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, chunks = p.hidden / 4;
    const float4 *from = reinterpret_cast<const float4 *>(p.x + size_t(blockIdx.x) * p.hidden);
    float4 kept[KEPT];
    float squares = 0.f;
#pragma unroll
    for (int j = 0; j < KEPT; j++) {
        const int i = threadIdx.x + j * THREADS;
        kept[j] = i < chunks ? from[i] : make_float4(0.f, 0.f, 0.f, 0.f);
    }
    const auto add = [&](float4 v) { squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w; };
#pragma unroll
    for (int j = 0; j < KEPT; j++) add(kept[j]);
    for (int i = threadIdx.x + KEPT * THREADS; i < chunks; i += THREADS) add(from[i]);
    squares = sum_of<WARP>(squares);
    if (lane == 0) parts[warp] = squares;
    __syncthreads();
    const float total = sum_of<WARPS>(parts[lane % WARPS]);
    const float scale = rsqrtf(total / float(p.hidden) + p.eps);
    const float4 *weights = reinterpret_cast<const float4 *>(p.weight);
    uint2 *to = reinterpret_cast<uint2 *>(static_cast<E *>(p.out) + size_t(blockIdx.x) * p.hidden);
    const auto put = [&](int i, float4 v) {
        const float4 w = __ldg(weights + i);
        to[i] = make_uint2(narrow2<E>(v.x * scale * w.x, v.y * scale * w.y),
                           narrow2<E>(v.z * scale * w.z, v.w * scale * w.w));
    };
#pragma unroll
    for (int j = 0; j < KEPT; j++)
        if (threadIdx.x + j * THREADS < chunks) put(threadIdx.x + j * THREADS, kept[j]);
    for (int i = threadIdx.x + KEPT * THREADS; i < chunks; i += THREADS) put(i, from[i]);
}

// ---------------------------------------------------------------- RoPE and the cache

struct TurnParams {
    void *qkv;                    // E (rows, (heads + 2 · kv_heads) · head_dim)
    const float *bias;            // a row's, or null
    const float *q_norm, *k_norm; // (head_dim), or null
    const float *cos, *sin;       // (positions, head_dim / 2)
    void *keys, *values;          // E (kv_heads, capacity, head_dim), of one layer
    int32_t heads, kv_heads, head_dim, capacity;
    int32_t start; // row i is at position start + i
    float eps;
    float scale; // of queries
    int32_t unused;
};

// A warp has one head of one row: it turns queries where they are, and keys on their way to the cache,
// which values go to as they are. A lane has two neighbours of each half.
template <typename E> __device__ __forceinline__ void turn(const TurnParams &p) {
    const int head = blockIdx.x * WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int row = blockIdx.y, width = p.heads + 2 * p.kv_heads, position = p.start + row;
    if (head >= width) return;
    const int pairs = p.head_dim / 4; // of a half
    const bool has_part = lane < pairs, is_query = head < p.heads, is_value = head >= p.heads + p.kv_heads;
    uint32_t *from = reinterpret_cast<uint32_t *>(static_cast<E *>(p.qkv) + (size_t(row) * width + head) * p.head_dim);
    float2 a = make_float2(0.f, 0.f), b = a;
    if (has_part) {
        a = wide2<E>(from[lane]), b = wide2<E>(from[lane + pairs]);
        if (p.bias != nullptr) {
            const float2 *bias = reinterpret_cast<const float2 *>(p.bias + head * p.head_dim);
            a.x += bias[lane].x, a.y += bias[lane].y;
            b.x += bias[lane + pairs].x, b.y += bias[lane + pairs].y;
        }
    }
    const float *weight = is_value ? nullptr : is_query ? p.q_norm : p.k_norm;
    if (weight != nullptr) {
        const float squares = sum_of<WARP>(a.x * a.x + a.y * a.y + b.x * b.x + b.y * b.y);
        const float inverse = rsqrtf(squares / float(p.head_dim) + p.eps);
        if (has_part) {
            const float2 *weights = reinterpret_cast<const float2 *>(weight);
            const float2 low = weights[lane], high = weights[lane + pairs];
            a.x *= inverse * low.x, a.y *= inverse * low.y;
            b.x *= inverse * high.x, b.y *= inverse * high.y;
        }
    }
    if (!has_part) return;
    if (!is_value) {
        const size_t angles = size_t(position) * pairs + lane;
        const float2 cos = reinterpret_cast<const float2 *>(p.cos)[angles];
        const float2 sin = reinterpret_cast<const float2 *>(p.sin)[angles];
        const float scale = is_query ? p.scale : 1.f;
        const float2 low = make_float2((a.x * cos.x - b.x * sin.x) * scale, (a.y * cos.y - b.y * sin.y) * scale);
        b = make_float2((b.x * cos.x + a.x * sin.x) * scale, (b.y * cos.y + a.y * sin.y) * scale);
        a = low;
    }
    uint32_t *to = from;
    if (!is_query) {
        const int kv_head = (head - p.heads) % p.kv_heads;
        E *cache = static_cast<E *>(is_value ? p.values : p.keys);
        to = reinterpret_cast<uint32_t *>(cache + (size_t(kv_head) * p.capacity + position) * p.head_dim);
    }
    to[lane] = narrow2<E>(a.x, a.y);
    to[lane + pairs] = narrow2<E>(b.x, b.y);
}

// ---------------------------------------------------------------- the gate

struct GateParams {
    const void *gate_up; // E (rows, 2 · intermediate): gate, then up
    const float *bias;   // (2 · intermediate), or null
    void *out;           // E (rows, intermediate)
    int32_t intermediate, unused;
};

// silu(gate) · up; a thread has eight columns.
template <typename E> __device__ __forceinline__ void gate(const GateParams &p) {
    const int chunks = p.intermediate / 8, chunk = blockIdx.x * THREADS + threadIdx.x;
    if (chunk >= chunks) return;
    const uint4 *from = static_cast<const uint4 *>(p.gate_up) + size_t(blockIdx.y) * 2 * chunks + chunk;
    const uint4 gates_read = load_once(from), ups_read = load_once(from + chunks);
    float gates[8], ups[8];
    wide8<E>(gates_read, gates), wide8<E>(ups_read, ups);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        if (p.bias != nullptr) {
            gates[i] += p.bias[chunk * 8 + i];
            ups[i] += p.bias[p.intermediate + chunk * 8 + i];
        }
        gates[i] = gates[i] / (1.f + __expf(-gates[i])) * ups[i];
    }
    static_cast<uint4 *>(p.out)[size_t(blockIdx.y) * chunks + chunk] = narrow8<E>(gates);
}

// ---------------------------------------------------------------- biases

struct BiasParams {
    float *x;          // (rows, columns)
    const float *bias; // (columns)
    int32_t columns, unused;
};

extern "C" __global__ void __launch_bounds__(THREADS) add_bias(const __grid_constant__ BiasParams p) {
    const int column = blockIdx.x * THREADS + threadIdx.x;
    if (column < p.columns) p.x[size_t(blockIdx.y) * p.columns + column] += p.bias[column];
}

#define ROWS(NAME, ELEMENT)                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS) embed_##NAME(const __grid_constant__ EmbedParams p) {    \
        embed<ELEMENT>(p);                                                                                         \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS) unpack_##NAME(const __grid_constant__ UnpackParams p) {  \
        unpack<ELEMENT>(p);                                                                                        \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS) norm_##NAME(const __grid_constant__ NormParams p) {      \
        norm<ELEMENT>(p);                                                                                          \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS) turn_##NAME(const __grid_constant__ TurnParams p) {      \
        turn<ELEMENT>(p);                                                                                          \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS) gate_##NAME(const __grid_constant__ GateParams p) {      \
        gate<ELEMENT>(p);                                                                                          \
    }

ROWS(f16, half)
ROWS(bf16, __nv_bfloat16)

// src/rows.rs asserts the same.
static_assert(sizeof(EmbedParams) == 40 && sizeof(UnpackParams) == 32 && sizeof(NormParams) == 32, "as in Rust");
static_assert(sizeof(TurnParams) == 96 && sizeof(GateParams) == 32 && sizeof(BiasParams) == 24, "as in Rust");
