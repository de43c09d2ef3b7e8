// Attention of each sequence's new token (flash-decoding, Dao et al. 2023). What a block does is a stretch of the
// positions that it sees, for up to four query heads that share a key head; items of one head meet in global memory,
// and the last to come puts their parts together, in one order. Where there are few positions, a block has all of them
// for one head. Which items do something follows from the length alone.

#pragma once

#include "block.cuh"

// Query heads of one item of attention, at most.
constexpr int MAX_HEADS = 4;
// Up to so many positions an item has all of them, as putting parts together takes longer, for one head.
constexpr int MAX_ALONE = 320;
// Otherwise it has so many at least, for a set of heads.
constexpr int MIN_STRETCH = 64;
constexpr int MAX_HEAD_DIM = 128;
// Below all scores; differences to it are finite.
constexpr float LEAST = -1e30f;

// What attention needs of the activations' place.
template <typename E> struct AttentionScratch {
    alignas(16) E key[MAX_HEAD_DIM], value[MAX_HEAD_DIM]; // the new token's
    alignas(16) float queries[MAX_HEADS][MAX_HEAD_DIM];
    float gathered[WARPS][MAX_HEADS][MAX_HEAD_DIM];
    float maxima[WARPS][MAX_HEADS], totals[WARPS][MAX_HEADS];
};

// Turns a head by its position's angles, after norming it where it has a norm. A warp's lanes call it.
template <typename T>
__device__ __forceinline__ void turn_head(T *x, const float *from, const float *norm, const float *cos,
                                          const float *sin, int head_dim, float eps, float scale) {
    const int lane = threadIdx.x % WARP, half_dim = head_dim / 2;
    constexpr int PAIRS = MAX_HEAD_DIM / 2 / WARP; // of a lane
    float a[PAIRS], b[PAIRS], c[PAIRS], s[PAIRS], squares = 0.f;
#pragma unroll
    for (int j = 0; j < PAIRS; j++) {
        const int i = min(lane + j * WARP, half_dim - 1);
        a[j] = __ldcg(from + i), b[j] = __ldcg(from + i + half_dim), c[j] = cos[i], s[j] = sin[i];
        if (lane + j * WARP < half_dim) squares += a[j] * a[j] + b[j] * b[j];
    }
    const float inverse = norm == nullptr ? 1.f : rsqrtf(sum_of<WARP>(squares) / float(head_dim) + eps);
#pragma unroll
    for (int j = 0; j < PAIRS; j++) {
        const int i = lane + j * WARP;
        if (i >= half_dim) break;
        a[j] *= inverse * (norm ? norm[i] : 1.f), b[j] *= inverse * (norm ? norm[i + half_dim] : 1.f);
        x[i] = T((a[j] * c[j] - b[j] * s[j]) * scale);
        x[i + half_dim] = T((b[j] * c[j] + a[j] * s[j]) * scale);
    }
}

// Eight numbers of shared memory. The compiler would keep them, and push others out of registers.
__device__ __forceinline__ void read_again(float to[8], const float *from) {
    const uint32_t at = shared_address(from);
#pragma unroll
    for (int i = 0; i < 8; i += 4)
        asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                     : "=f"(to[i]), "=f"(to[i + 1]), "=f"(to[i + 2]), "=f"(to[i + 3])
                     : "r"(at + i * 4));
}

// What an item of attention has: the positions from `begin` to `stop` that a sequence's new token sees, for query heads
// that share a key head.
struct Item {
    int row, kv_head, set, first_head, heads;
    int begin, stop, newest;
    int part, num_parts; // of the positions
};

// The keys and values of a key head.
template <typename E> struct Held {
    E *keys, *values;

    __device__ Held(const DecodeParams &p, const Sequence &sequence, int layer, int kv_head) {
        const size_t elements = size_t(sequence.capacity) * p.head_dim;
        keys = reinterpret_cast<E *>(sequence.cache) + (size_t(layer) * 2 * p.kv_heads + kv_head) * elements;
        values = keys + p.kv_heads * elements;
    }
};

// Attention of one item. `wait` waits for what the other blocks multiplied; keys and values of earlier tokens are asked
// for before. A thread has the keys and values of TURNS positions at once.
template <typename E, int LANES, int HEADS, int TURNS, typename Wait>
__device__ __forceinline__ void attend(const DecodeParams &p, AttentionScratch<E> &scratch, const Layer &layer,
                                       const Held<E> held, const Item item, Wait wait) {
    constexpr int AT_ONCE = THREADS / LANES; // positions
    constexpr int POSITIONS = TURNS * AT_ONCE;
    const int thread = fresh(threadIdx.x), warp = thread / WARP, lane = thread % WARP;
    const int part = thread % LANES, place = thread / LANES;
    const int head_dim = p.head_dim, sets = (p.heads / p.kv_heads + MAX_HEADS - 1) / MAX_HEADS;
    const bool has_part = part * 8 < head_dim;
    const int row = item.row, kv_head = item.kv_head, first_head = item.first_head, heads = item.heads;
    const int begin = item.begin, stop = item.stop, newest = item.newest;
    const bool has_newest = stop > newest;
    E *keys = held.keys, *values = held.values;

    uint4 k[TURNS], v[TURNS];
    const auto ask = [&](uint4 to[TURNS], const E *rows, int tile) {
#pragma unroll
        for (int i = 0; i < TURNS; i++) {
            const int position = tile + i * AT_ONCE + place;
            const bool is_there = has_part && position < min(stop, newest);
            const E *from = rows + size_t(position) * head_dim + part * 8;
            to[i] = is_there ? *reinterpret_cast<const uint4 *>(from) : make_uint4(0, 0, 0, 0);
        }
    };
    ask(k, keys, begin);
    ask(v, values, begin);
    wait();

    const float *qkv = p.qkv + size_t(row) * (p.heads + 2 * p.kv_heads) * head_dim;
    const float *cos = p.cos + size_t(newest) * (head_dim / 2), *sin = p.sin + size_t(newest) * (head_dim / 2);
    if (warp < HEADS) {
        if (warp < heads)
            turn_head(scratch.queries[warp], qkv + (first_head + warp) * head_dim, layer.q_norm, cos, sin, head_dim,
                      p.eps, p.scale);
        else
            for (int i = lane; i < head_dim; i += WARP) scratch.queries[warp][i] = 0.f;
    }
    if (has_newest) {
        if (warp == HEADS)
            turn_head(scratch.key, qkv + (p.heads + kv_head) * head_dim, layer.k_norm, cos, sin, head_dim, p.eps,
                      1.f);
        if (warp == HEADS + 1) {
            const float *value = qkv + (p.heads + p.kv_heads + kv_head) * head_dim;
            for (int i = lane; i < head_dim; i += WARP) scratch.value[i] = narrow<E>(__ldcg(value + i));
        }
    }
    meet();
    // Items of other heads have it as well: one of them keeps it.
    if (has_newest && first_head == kv_head * (p.heads / p.kv_heads) && thread * 8 < head_dim) {
        const size_t to = size_t(newest) * head_dim + thread * 8;
        *reinterpret_cast<uint4 *>(keys + to) = *reinterpret_cast<const uint4 *>(scratch.key + thread * 8);
        *reinterpret_cast<uint4 *>(values + to) = *reinterpret_cast<const uint4 *>(scratch.value + thread * 8);
    }

    // Each LANES threads go through positions of their own, with a maximum of their own.
    float sums[HEADS][8], maximum[HEADS], total[HEADS];
#pragma unroll
    for (int head = 0; head < HEADS; head++) {
        maximum[head] = LEAST, total[head] = 0.f;
#pragma unroll
        for (int i = 0; i < 8; i++) sums[head][i] = 0.f;
    }
    for (int tile = begin; tile < stop; tile += POSITIONS) {
        float scores[TURNS][HEADS];
#pragma unroll
        for (int i = 0; i < TURNS; i++)
            if (tile + i * AT_ONCE + place == newest && has_part) {
                k[i] = *reinterpret_cast<const uint4 *>(scratch.key + part * 8);
                v[i] = *reinterpret_cast<const uint4 *>(scratch.value + part * 8);
            }
#pragma unroll
        for (int i = 0; i < TURNS; i++) {
            float numbers[8];
            wide8<E>(k[i], numbers);
#pragma unroll
            for (int head = 0; head < HEADS; head++) {
                float query[8], score = 0.f;
                read_again(query, scratch.queries[head] + (has_part ? part * 8 : 0));
#pragma unroll
                for (int j = 0; j < 8; j++) score += query[j] * numbers[j];
                score = sum_of<LANES>(score); // Keys are zero where there is no part.
                scores[i][head] = tile + i * AT_ONCE + place < stop ? score : LEAST;
            }
        }
        ask(k, keys, tile + POSITIONS);
#pragma unroll
        for (int head = 0; head < HEADS; head++) {
            float highest = maximum[head];
#pragma unroll
            for (int i = 0; i < TURNS; i++) highest = fmaxf(highest, scores[i][head]);
            const float factor = __expf(maximum[head] - highest);
            maximum[head] = highest, total[head] *= factor;
#pragma unroll
            for (int j = 0; j < 8; j++) sums[head][j] *= factor;
        }
#pragma unroll
        for (int i = 0; i < TURNS; i++) {
            float numbers[8];
            wide8<E>(v[i], numbers);
            const bool is_seen = tile + i * AT_ONCE + place < stop;
#pragma unroll
            for (int head = 0; head < HEADS; head++) {
                const float weight = is_seen ? __expf(scores[i][head] - maximum[head]) : 0.f;
                total[head] += weight;
#pragma unroll
                for (int j = 0; j < 8; j++) sums[head][j] += weight * numbers[j];
            }
        }
        ask(v, values, tile + POSITIONS);
    }

    // The places of a warp, then the warps.
#pragma unroll
    for (int head = 0; head < HEADS; head++) {
        float highest = maximum[head];
#pragma unroll
        for (int step = LANES; step < WARP; step *= 2) highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, step));
        const float factor = __expf(maximum[head] - highest);
        const auto gather = [&](float x) {
            x *= factor;
#pragma unroll
            for (int step = LANES; step < WARP; step *= 2) x += __shfl_xor_sync(~0u, x, step);
            return x;
        };
        const float sum_of_weights = gather(total[head]);
        if (lane == 0) scratch.maxima[warp][head] = highest, scratch.totals[warp][head] = sum_of_weights;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float sum = gather(sums[head][i]);
            if (lane < LANES && has_part) scratch.gathered[warp][head][part * 8 + i] = sum;
        }
    }
    meet();
    const int heads_of_row = p.kv_heads * sets;
    const size_t part_floats = size_t(MAX_HEADS) * (head_dim + 2);
    float *parts = p.parts + (size_t(row) * heads_of_row + kv_head * sets + item.set) * p.splits * part_floats;
    E *out = static_cast<E *>(p.attended) + (size_t(row) * p.heads + first_head) * head_dim;
    for (int i = thread; i < heads * head_dim; i += THREADS) {
        const int head = i / head_dim, column = i % head_dim;
        float highest = LEAST, sum = 0.f, sum_of_weights = 0.f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) highest = fmaxf(highest, scratch.maxima[w][head]);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const float factor = __expf(scratch.maxima[w][head] - highest);
            sum += factor * scratch.gathered[w][head][column], sum_of_weights += factor * scratch.totals[w][head];
        }
        if (HEADS == 1) {
            out[i] = narrow<E>(sum / sum_of_weights);
        } else {
            float *own = parts + item.part * part_floats + head * (head_dim + 2);
            __stcg(own + column, sum);
            if (column == 0) __stcg(own + head_dim, highest), __stcg(own + head_dim + 1, sum_of_weights);
        }
    }
    meet();
    if constexpr (HEADS == 1) return;
    const int num_parts = item.num_parts;

    if (thread == 0) {
        uint32_t *arrived = p.arrived + row * heads_of_row + kv_head * sets + item.set;
        uint32_t before;
        asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(arrived) : "memory");
        shared.is_last = before == uint32_t(num_parts) - 1;
        if (shared.is_last) *arrived = 0;
    }
    meet();
    if (!shared.is_last) return;
    for (int i = thread; i < heads * head_dim; i += THREADS) {
        const int head = i / head_dim, column = i % head_dim;
        float highest = LEAST, sum = 0.f, sum_of_weights = 0.f;
        constexpr int READ = 16; // parts that are asked for at once
        for (int first = 0; first < num_parts; first += READ) {
            float maxima[READ], totals[READ], sums[READ], above = highest;
#pragma unroll
            for (int j = 0; j < READ; j++) {
                const float *its = parts + min(first + j, num_parts - 1) * part_floats + head * (head_dim + 2);
                maxima[j] = __ldcg(its + head_dim), totals[j] = __ldcg(its + head_dim + 1), sums[j] = __ldcg(its + column);
            }
#pragma unroll
            for (int j = 0; j < READ; j++) above = fmaxf(above, maxima[j]);
            const float factor = __expf(highest - above);
            sum *= factor, sum_of_weights *= factor, highest = above;
#pragma unroll
            for (int j = 0; j < READ; j++) {
                const float weight = first + j < num_parts ? __expf(maxima[j] - above) : 0.f;
                sum += weight * sums[j], sum_of_weights += weight * totals[j];
            }
        }
        out[i] = narrow<E>(sum / sum_of_weights);
    }
    meet();
}

// The item of number `index`, if it is one that does something.
template <typename E, int LANES, typename Wait>
__device__ __forceinline__ void attend_item(const DecodeParams &p, AttentionScratch<E> &scratch, const Layer &layer,
                                            int number, int index, Wait wait) {
    const int group = p.heads / p.kv_heads, sets = (group + MAX_HEADS - 1) / MAX_HEADS;
    // Stretches, or heads, come last: where there is one of each, neighbouring blocks have them.
    Item item;
    item.set = index % sets, item.kv_head = index / sets % p.kv_heads;
    item.row = index / sets / p.kv_heads % p.batch, item.part = index / sets / p.kv_heads / p.batch;
    item.first_head = item.kv_head * group + item.set * MAX_HEADS, item.heads = min(MAX_HEADS, group - item.set * MAX_HEADS);

    const Sequence &sequence = shared.sequences[item.row];
    item.newest = sequence.length;
    const int end = item.newest + 1, first = layer.window > 0 ? max(0, end - layer.window) : 0, seen = end - first;
    const Held<E> held(p, sequence, number, item.kv_head);
    if (seen <= MAX_ALONE) {
        if (item.part >= item.heads) return;
        item.first_head += item.part, item.heads = 1, item.part = 0, item.num_parts = 1;
        item.begin = first, item.stop = end;
        attend<E, LANES, 1, 4>(p, scratch, layer, held, item, wait);
    } else {
        const int stretch = max(MIN_STRETCH, (seen + p.splits - 1) / p.splits);
        item.num_parts = (seen + stretch - 1) / stretch;
        item.begin = first + item.part * stretch, item.stop = min(item.begin + stretch, end);
        if (item.begin >= end) return;
        attend<E, LANES, MAX_HEADS, 2>(p, scratch, layer, held, item, wait);
    }
}

