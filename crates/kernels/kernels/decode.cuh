// One step of a decoder for one to eight sequences: a token each in, logits out, in one launch.
//
// At this batch a step is bound by reading the weights, so everything here serves one end: that the
// memory never waits. All tiles of all matrices, 16 rows each, are dealt out to the blocks like cards,
// one block a multiprocessor. One warp of each block copies its tiles into a ring in shared memory, in
// order, and knows nothing of the arithmetic; eight warps take them from there, share out the columns,
// and multiply on the tensor cores, which serve up to eight sequences with the same reads. Between two
// products that depend on each other all blocks meet at a barrier: the ring fills meanwhile, and its
// readers catch up, being far faster than the memory.
//
// Who waits at a barrier empties the multiprocessor's first cache. What the compiler pushed out of registers
// comes from far away then, just when all others wait too: look at what ptxas -v says after each change.
//
// The residual stream is f32, and so are sums, but for whole numbers within a block of codes; activations are rounded to E where they are multiplied by weights of E, and
// to fixed point of 16 bits where these are quantised. A sequence's numbers do not depend on those beside it.

#pragma once

#include "attend.cuh"
#include "multiply.cuh"

template <typename E, int SEQUENCES, int LANES> __device__ __forceinline__ void decode(const DecodeParams &p) {
    if (SEQUENCES > 0 && threadIdx.x < sizeof(DecodeParams) / 4)
        reinterpret_cast<uint32_t *>(&shared.params)[threadIdx.x] = reinterpret_cast<const uint32_t *>(&p)[threadIdx.x];
    if (threadIdx.x == 0) {
        for (int i = 0; i < p.stages; i++) gate_init(&shared.full[i], 1), gate_init(&shared.empty[i], THREADS);
        asm volatile("fence.mbarrier_init.release.cluster;");
    }
    __syncthreads();
    if (threadIdx.x >= THREADS) {
        Filler{p}.all();
        return;
    }

    const Meeting meeting(p.barrier, &shared.before);
    Multiplier<E, SEQUENCES> by{p, meeting, activations_of(p)};
    AttentionScratch<E> &scratch = *reinterpret_cast<AttentionScratch<E> *>(activations_of(p));
    const int queries = p.heads * p.head_dim, keys = p.kv_heads * p.head_dim;
    const int sets = (p.heads / p.kv_heads + MAX_HEADS - 1) / MAX_HEADS;
    const int items = p.batch * p.kv_heads * sets * p.splits;
    const bool is_last_warp = threadIdx.x / WARP == WARPS - 1;
    const auto keep = [&](int number) { // a layer's addresses, by the last warp
        const uint32_t *from = reinterpret_cast<const uint32_t *>(p.layers + number);
        uint32_t *to = reinterpret_cast<uint32_t *>(&shared.layers[number % 2]);
        for (int i = threadIdx.x % WARP; i < int(sizeof(Layer) / 4); i += WARP) to[i] = __ldg(from + i);
    };
    const bool has_layers = p.first_layer < p.end_layer;
    if (is_last_warp && has_layers) keep(p.first_layer);
    if (threadIdx.x < p.batch) shared.sequences[threadIdx.x] = p.sequences[threadIdx.x];
    if (p.embeds) {
        by.embed();
        meeting.arrive();
        meeting.wait();
    } else {
        meet();
    }
    by.prepare(has_layers ? shared.layers[p.first_layer % 2].input_norm : p.norm, p.hidden);
    for (int number = p.first_layer; number < p.end_layer; number++) {
        const Layer &layer = shared.layers[number % 2];
        const bool is_final = number + 1 == p.end_layer;
        by.template product<STORED>(layer.qkv, queries + 2 * keys, p.hidden, p.x, layer.input_norm, layer.qkv_bias,
                                    p.qkv);
        meeting.arrive();
        if (is_last_warp && !is_final) keep(number + 1);
        bool has_waited = false;
        const auto wait = [&] {
            if (!has_waited) meeting.wait();
            has_waited = true;
        };
        for (int item = blockIdx.x; item < items; item += gridDim.x)
            attend_item<E, LANES>(p, scratch, layer, number, item, wait);
        if (!has_waited) meeting.wait();
        meeting.arrive();
        meeting.wait();
        by.template product<ADDED>(layer.o, p.hidden, queries, p.attended, nullptr, layer.o_bias, p.x);
        meeting.arrive();
        by.prepare(layer.post_norm, p.hidden);
        meeting.wait();
        by.template product<GATED>(layer.gate_up, 2 * p.intermediate, p.hidden, p.x, layer.post_norm,
                                   layer.gate_up_bias, p.gated);
        meeting.arrive();
        meeting.wait();
        by.template product<ADDED>(layer.down, p.hidden, p.intermediate, p.gated, nullptr, layer.down_bias, p.x);
        meeting.arrive();
        by.prepare(is_final ? p.norm : shared.layers[(number + 1) % 2].input_norm, p.hidden);
        meeting.wait();
    }
    if (p.has_head) by.template product<STORED>(p.head, p.vocab, p.hidden, p.x, p.norm, nullptr, p.logits);
}

// A kernel of the name decode_NAME_LANES, where LANES have a head's numbers in attention.
#define DECODE(NAME, ELEMENT, SEQUENCES, LANES)                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS + WARP, 1)                                   \
        decode_##NAME##_##LANES(const __grid_constant__ DecodeParams p) {                             \
        decode<ELEMENT, SEQUENCES, LANES>(p);                                                         \
    }

// src/decode.rs asserts the same.
static_assert(sizeof(DecodeParams) / 4 <= THREADS, "a word each");
static_assert(sizeof(Layer) == 136 && sizeof(Sequence) == 24 && sizeof(DecodeParams) == 216, "as in Rust");
static_assert(SLICE == 2048 && Fixed::GROUP == 256 && MAX_STAGES == 16 && TILE == 16 && MAX_HEADS == 4, "as in Rust");
static_assert(THREADS + WARP == 288 && SUMS == 2 && sizeof(AttentionScratch<half>) <= 24 << 10, "as in Rust");
