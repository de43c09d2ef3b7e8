// What the parts of a step share: its parameters, a block's shared memory, and where blocks meet.

#pragma once

#include "products.cuh"
#include "ring.cuh"
#include "sequence.cuh"

// Warps that multiply. The warp behind them fills the ring.
constexpr int WARPS = 8;
constexpr int THREADS = WARPS * WARP;
static_assert(PIECE / UNIT == 2 * WARPS, "a warp has two units of a piece");
constexpr int MAX_STAGES = 16;
// Tiles whose sums are on their way from warp to warp at once.
constexpr int SUMS = 2;

struct Layer {
    Matrix qkv;     // ((heads + 2 · kv_heads) · head_dim, hidden)
    Matrix o;       // (hidden, heads · head_dim)
    Matrix gate_up; // (2 · intermediate, hidden): gate, then up
    Matrix down;    // (hidden, intermediate)
    const float *input_norm, *post_norm; // (hidden)
    const float *q_norm, *k_norm;        // (head_dim) or null
    const float *qkv_bias, *o_bias, *gate_up_bias, *down_bias; // (rows) or null
    int32_t window; // positions that a token sees; 0: all
    int32_t unused;
};

struct DecodeParams {
    const Layer *layers;
    Matrix embedding, head;    // (vocab, hidden)
    const float *norm;         // (hidden)
    const float *cos, *sin;    // (positions, head_dim / 2)
    const Sequence *sequences; // (batch)
    float *x;                  // (batch, hidden): the residual stream
    float *qkv;                // (batch, (heads + 2 · kv_heads) · head_dim)
    void *attended;            // E (batch, heads · head_dim)
    void *gated;               // E (batch, intermediate)
    float *logits;             // (batch, vocab)
    float *parts;              // (batch, heads rounded up, splits, head_dim + 2)
    void *fixed;               // of a product's activations that a block has no room for, as `Fixed`
    uint32_t *arrived;         // (batch, kv_heads · ceil(group / MAX_HEADS)), zeros before and after
    uint32_t *barrier;
    float eps, scale;          // scale: 1 / sqrt(head_dim)
    int32_t first_layer, end_layer;
    int32_t embeds, has_head;  // whether x comes from tokens, and whether logits are wanted
    int32_t batch, hidden, intermediate, heads, kv_heads, head_dim, vocab, splits;
    int32_t stages, stage_bytes, x_bytes; // of shared memory: the ring, and what activations have
};

// ---------------------------------------------------------------- shared memory

// Bytes between two rows of a stage: 64 modulo 128, as of `x_row_bytes`.
__host__ __device__ constexpr int stage_row_bytes(int form) { return form == Q4_K_FORM ? 1216 : 1088; }

struct Shared {
    Gate full[MAX_STAGES], empty[MAX_STAGES];
    float norms[MAX_BATCH][WARPS];
    Sequence sequences[MAX_BATCH];
    Layer layers[2]; // this one, and the next
    DecodeParams params;
    bool is_last;
    uint32_t before; // of `Meeting`
};

// Where the compiler sees that it is shared memory, in functions of their own as well.
__shared__ Shared shared;
// The ring, activations, sums on their way from warp to warp.
extern __shared__ __align__(128) uint8_t memory[];

__device__ __forceinline__ uint8_t *activations_of(const DecodeParams &p) { return memory + p.stages * p.stage_bytes; }
__device__ __forceinline__ float *sums_of(const DecodeParams &p) { // (SUMS, WARPS, batch, TILE)
    return reinterpret_cast<float *>(activations_of(p) + p.x_bytes);
}

__device__ __forceinline__ void meet() { asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory"); }

// Where all blocks' readers meet. The word's highest bit turns each time, so it needs no cleaning. What does not
// depend on other blocks may be asked for between arriving and waiting.
struct Meeting {
    uint32_t *word;
    uint32_t *before; // how the bit was, in shared memory

    __device__ Meeting(uint32_t *word, uint32_t *before) : word(word), before(before) {
        if (threadIdx.x == 0) *before = now(); // It cannot turn before this block arrives.
    }

    __device__ uint32_t now() const {
        uint32_t now;
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(word) : "memory");
        return now & 0x80000000u;
    }

    __device__ void arrive() const {
        meet();
        if (threadIdx.x == 0) {
            const uint32_t add = blockIdx.x == 0 ? 0x80000000u - (gridDim.x - 1) : 1u;
            asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(word), "r"(add) : "memory");
        }
    }

    __device__ void wait() const {
        if (threadIdx.x == 0) {
            const uint32_t was = *before;
            *before = was ^ 0x80000000u;
            while (now() == was) {}
        }
        meet();
    }
};

