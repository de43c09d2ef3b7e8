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
// The residual stream and all sums are f32; activations are rounded to E where they are multiplied by
// weights. A sequence's numbers do not depend on those beside it.

#include "forms.cuh"
#include "ring.cuh"
#include "sequence.cuh"

// Warps that multiply. The warp behind them fills the ring.
constexpr int WARPS = 8;
constexpr int THREADS = WARPS * WARP;
// Rows of a tile.
constexpr int TILE = 16;
constexpr int MAX_BATCH = 8;
constexpr int MAX_STAGES = 16;
// Query heads of one item of attention.
constexpr int HEADS = 4;
// Positions of which a thread holds keys and values at once.
constexpr int TURNS = 4;
constexpr int MAX_POSITIONS = TURNS * THREADS / 4;
// Positions that an item takes at least: fewer are not worth another block.
constexpr int MIN_STRETCH = 64;
constexpr int MAX_HEAD_DIM = 128;

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
    uint32_t *arrived;         // (batch, kv_heads · ceil(group / HEADS)), zeros before and after
    uint32_t *barrier;
    float eps, scale;          // scale: 1 / sqrt(head_dim)
    int32_t first_layer, end_layer;
    int32_t embeds, has_head;  // whether x comes from tokens, and whether logits are wanted
    int32_t batch, hidden, intermediate, heads, kv_heads, head_dim, vocab, splits;
    int32_t stages, stage_bytes, x_bytes; // of shared memory: the ring, and what activations have
};

// ---------------------------------------------------------------- shared memory

// Bytes between two rows of a stage, and between two rows of activations: 64 modulo 128, so that the
// eight lanes that are served at once, of two rows, find different banks.
__host__ __device__ constexpr int stage_row_bytes(int form) { return form == Q4_K_FORM ? 1216 : 1088; }
__host__ __device__ constexpr int x_row_bytes(int inputs) { return ((inputs * 2 + 127) & ~127) + 64; }

struct Shared {
    Gate full[MAX_STAGES], empty[MAX_STAGES];
    float partial[2][WARPS][TILE * MAX_BATCH];
    float norms[MAX_BATCH][WARPS];
    bool is_last;
};

// What attention needs of the activations' place.
struct AttentionScratch {
    float queries[HEADS][MAX_HEAD_DIM];
    float weights[HEADS][MAX_POSITIONS];
    float gathered[WARPS][HEADS][MAX_HEAD_DIM];
    float key[MAX_HEAD_DIM];
    float factors[HEADS], maxima[HEADS], totals[HEADS];
};

__device__ __forceinline__ void meet() { asm volatile("bar.sync 1, 256;" ::: "memory"); }

// All blocks' readers meet. The word's highest bit turns each time, so it needs no cleaning.
__device__ __forceinline__ void meet_all(uint32_t *barrier) {
    meet();
    if (threadIdx.x == 0) {
        __threadfence();
        const uint32_t add = blockIdx.x == 0 ? 0x80000000u - (gridDim.x - 1) : 1u;
        const uint32_t before = atomicAdd(barrier, add);
        uint32_t now;
        do {
            asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(barrier) : "memory");
        } while (((before ^ now) & 0x80000000u) == 0);
    }
    meet();
}

// ---------------------------------------------------------------- tiles

// Which rows a matrix' tiles have. A gated matrix' tile is 8 rows of the gate and the same 8 of the rest.
struct Tiles {
    int rows, inputs, count, stride, second_half;

    __device__ Tiles(int rows, int inputs, bool gated)
        : rows(rows), inputs(inputs), count((gated ? rows / 2 + 7 : rows + 15) / (gated ? 8 : 16)),
          stride(gated ? 8 : 16), second_half(gated ? rows / 2 : 8) {}

    // The row in place `place` of a tile; places past the end repeat the last row.
    __device__ int row(int tile, int place) const {
        const int half_rows = second_half == 8 ? rows : second_half;
        if (place < 8) return min(tile * stride + place, half_rows - 1);
        return second_half == 8 ? min(tile * stride + place, rows - 1)
                                : min(tile * stride + place - 8, half_rows - 1) + second_half;
    }
};

// Deals out tiles: the first of `count` that is this block's, after all that were dealt before.
struct Deal {
    unsigned dealt = 0;

    __device__ int first(int count) {
        const int first = int((blockIdx.x + gridDim.x - dealt % gridDim.x) % gridDim.x);
        dealt += count;
        return first;
    }
};

// The place in the ring.
struct Cursor {
    int stage = 0;
    uint32_t turn = 0;

    __device__ void next(int stages) {
        if (++stage == stages) stage = 0, turn ^= 1;
    }
};

// ---------------------------------------------------------------- filling

struct Filler {
    const DecodeParams &p;
    Shared &shared;
    uint8_t *ring;
    Cursor at;
    Deal deal;

    __device__ void matrix(const Matrix &matrix, int rows, int inputs, bool gated) {
        const Tiles tiles(rows, inputs, gated);
        const int columns = piece_columns(matrix.form), lane = threadIdx.x % WARP;
        const int stride = stage_row_bytes(matrix.form), whole = piece_bytes(matrix.form, columns);
        for (int tile = deal.first(tiles.count); tile < tiles.count; tile += gridDim.x) {
            const uint8_t *from = matrix.data + size_t(tiles.row(tile, lane % TILE)) * matrix.row_bytes;
            for (int first = 0; first < inputs; first += columns, from += whole) {
                const int bytes = piece_bytes(matrix.form, min(columns, inputs - first));
                gate_wait(&shared.empty[at.stage], at.turn ^ 1);
                if (lane == 0) gate_expect(&shared.full[at.stage], TILE * bytes);
                __syncwarp();
                if (lane < TILE)
                    copy_async(ring + at.stage * p.stage_bytes + lane * stride, from, bytes, &shared.full[at.stage]);
                at.next(p.stages);
            }
        }
    }

    __device__ void all() {
        const int queries = p.heads * p.head_dim, keys = p.kv_heads * p.head_dim;
        for (int i = p.first_layer; i < p.end_layer; i++) {
            const Layer &layer = p.layers[i];
            matrix(layer.qkv, queries + 2 * keys, p.hidden, false);
            matrix(layer.o, p.hidden, queries, false);
            matrix(layer.gate_up, 2 * p.intermediate, p.hidden, true);
            matrix(layer.down, p.hidden, p.intermediate, false);
        }
        if (p.has_head) matrix(p.head, p.vocab, p.hidden, false);
    }
};

// ---------------------------------------------------------------- multiplying

// What a product does with its sums.
enum Result { STORED, ADDED, GATED };

template <typename E> struct Multiplier {
    const DecodeParams &p;
    Shared &shared;
    uint8_t *ring;
    uint8_t *x_shared;
    Cursor at;
    Deal deal;
    int buffer = 0, turn = 0;

    // Copies rows of E into shared memory.
    __device__ void take(const void *x, int inputs) {
        const int stride = x_row_bytes(inputs), chunks = inputs / 8;
        for (int row = 0; row < p.batch; row++) {
            const uint4 *from = reinterpret_cast<const uint4 *>(static_cast<const E *>(x) + size_t(row) * inputs);
            uint4 *to = reinterpret_cast<uint4 *>(x_shared + row * stride);
            for (int i = threadIdx.x; i < chunks; i += THREADS) to[i] = __ldcg(from + i);
        }
    }

    // The same of f32 rows, normed: x / sqrt(mean(x²) + eps) · weight.
    __device__ void take_normed(const float *x, const float *norm, int inputs) {
        const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
        const int stride = x_row_bytes(inputs), chunks = inputs / 4;
        constexpr int KEPT = 4; // of a row in registers: up to 4,096 columns are read once
        const float4 *weights = reinterpret_cast<const float4 *>(norm);
        for (int row = 0; row < p.batch; row++) {
            const float4 *from = reinterpret_cast<const float4 *>(x + size_t(row) * inputs);
            float4 kept[KEPT];
            float squares = 0.f;
#pragma unroll
            for (int j = 0; j < KEPT; j++) {
                const int i = threadIdx.x + j * THREADS;
                kept[j] = i < chunks ? __ldcg(from + i) : make_float4(0.f, 0.f, 0.f, 0.f);
            }
#pragma unroll
            for (int j = 0; j < KEPT; j++)
                squares += kept[j].x * kept[j].x + kept[j].y * kept[j].y + kept[j].z * kept[j].z + kept[j].w * kept[j].w;
            for (int i = threadIdx.x + KEPT * THREADS; i < chunks; i += THREADS) {
                const float4 v = __ldcg(from + i);
                squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
            }
            squares = sum_of<WARP>(squares);
            if (lane == 0) shared.norms[row][warp] = squares;
            meet();
            const float total = sum_of<WARPS>(shared.norms[row][lane % WARPS]);
            const float scale = rsqrtf(total / float(inputs) + p.eps);
            uint2 *to = reinterpret_cast<uint2 *>(x_shared + row * stride);
            const auto put = [&](int i, float4 v) {
                const float4 w = __ldg(weights + i);
                to[i] = make_uint2(narrow2<E>(v.x * scale * w.x, v.y * scale * w.y),
                                   narrow2<E>(v.z * scale * w.z, v.w * scale * w.w));
            };
#pragma unroll
            for (int j = 0; j < KEPT; j++)
                if (threadIdx.x + j * THREADS < chunks) put(threadIdx.x + j * THREADS, kept[j]);
            for (int i = threadIdx.x + KEPT * THREADS; i < chunks; i += THREADS) put(i, __ldcg(from + i));
        }
    }

    // The sums of each 32 columns of activations, for forms with minima: (MAX_BATCH, inputs / 32), as f16 and
    // what f16 leaves of them, in pairs of neighbours.
    __device__ void sum_blocks(const void *x, bool in_shared, int inputs, uint2 *sums) {
        const int pairs = inputs / 64;
        for (int i = threadIdx.x; i < pairs * p.batch; i += THREADS) {
            const int row = i / pairs, pair = i % pairs;
            const uint4 *from = reinterpret_cast<const uint4 *>(
                in_shared ? x_shared + row * x_row_bytes(inputs)
                          : static_cast<const uint8_t *>(x) + size_t(row) * inputs * 2);
            float sum[2], rest[2];
            for (int j = 0; j < 2; j++) {
                sum[j] = 0.f;
                for (int part = 0; part < 4; part++) {
                    const int at = (pair * 2 + j) * 4 + part;
                    float numbers[8];
                    wide8<E>(in_shared ? from[at] : __ldcg(from + at), numbers);
                    for (int k = 0; k < 8; k++) sum[j] += numbers[k];
                }
                rest[j] = sum[j] - __half2float(__float2half_rn(sum[j]));
            }
            sums[i] = make_uint2(narrow2<half>(sum[0], sum[1]), narrow2<half>(rest[0], rest[1]));
        }
    }

    // Multiplies what `x_shared` holds, or `x` where it does not fit there, by this block's tiles.
    template <typename Form, Result RESULT>
    __device__ void tiles(int rows, int inputs, const void *x, bool in_shared, const float *bias, void *out) {
        constexpr int BLOCKS = Form::COLUMNS / 32;
        constexpr int COLUMNS = PIECE / UNIT * Form::COLUMNS;
        constexpr int STRIDE = stage_row_bytes(Form::COLUMNS == 128 ? Q4_K_FORM : DENSE);
        const Tiles tiles(rows, inputs, RESULT == GATED);
        const int outputs = RESULT == GATED ? rows / 2 : rows;
        const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
        const int g = lane / 4, t = lane % 4;
        const int stride = x_row_bytes(inputs);
        uint2 *sums = reinterpret_cast<uint2 *>(x_shared + (in_shared ? p.batch * stride : 0));
        if (Form::NEEDS_SUMS) {
            meet();
            sum_blocks(x, in_shared, inputs, sums);
        }
        meet();

        const bool has_column = g < p.batch;
        const uint8_t *own_x = in_shared ? x_shared + g * stride + t * 16
                                         : static_cast<const uint8_t *>(x) + size_t(g) * inputs * 2 + t * 16;
        for (int tile = deal.first(tiles.count); tile < tiles.count; tile += gridDim.x) {
            float c[4] = {0.f, 0.f, 0.f, 0.f};
            for (int first = 0; first < inputs; first += COLUMNS) {
                const int units = min(COLUMNS, inputs - first) / Form::COLUMNS;
                uint4 activations[2][BLOCKS];
                uint2 block_sums[2];
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int unit = 2 * warp + i;
#pragma unroll
                    for (int block = 0; block < BLOCKS; block++) {
                        const int number = first / 32 + unit * BLOCKS + block; // of 32 columns
                        uint4 v = make_uint4(0, 0, 0, 0);
                        if (has_column && unit < units) {
                            const uint4 *from = reinterpret_cast<const uint4 *>(own_x + number * 64);
                            v = in_shared ? *from : __ldcg(from);
                        }
                        activations[i][block] = v;
                    }
                    block_sums[i] = make_uint2(0, 0);
                    if (Form::NEEDS_SUMS && has_column && unit < units && t < 2)
                        block_sums[i] = sums[g * (inputs / 64) + first / 64 + unit * 2 + t];
                }
                gate_wait(&shared.full[at.stage], at.turn);
                const uint8_t *lo = ring + at.stage * p.stage_bytes + g * STRIDE, *hi = lo + 8 * STRIDE;
#pragma unroll
                for (int i = 0; i < 2; i++)
                    if (2 * warp + i < units)
                        Form::add(c, lo, hi, units, 2 * warp + i, t, activations[i], block_sums[i]);
                __syncwarp();
                if (lane == 0) gate_arrive(&shared.empty[at.stage]);
                at.next(p.stages);
            }

            // The warps' sums meet. Two buffers: one meeting a tile is enough.
            float *own = shared.partial[buffer][warp];
            if (2 * t < p.batch) own[2 * t * TILE + g] = c[0], own[2 * t * TILE + g + 8] = c[2];
            if (2 * t + 1 < p.batch) own[(2 * t + 1) * TILE + g] = c[1], own[(2 * t + 1) * TILE + g + 8] = c[3];
            meet();
            // Other warps each time, so that none falls behind.
            const int index = (threadIdx.x + THREADS - turn * 4 * WARP) % THREADS;
            const int column = index / tiles.stride, row = index % tiles.stride;
            const int output = tile * tiles.stride + row;
            if (column < p.batch && output < outputs) {
                float low = 0.f, high = 0.f;
#pragma unroll
                for (int i = 0; i < WARPS; i++) {
                    low += shared.partial[buffer][i][column * TILE + row];
                    if (RESULT == GATED) high += shared.partial[buffer][i][column * TILE + row + 8];
                }
                if (bias != nullptr) {
                    low += __ldg(bias + output);
                    if (RESULT == GATED) high += __ldg(bias + output + outputs);
                }
                const size_t place = size_t(column) * outputs + output;
                if (RESULT == STORED) __stcg(static_cast<float *>(out) + place, low);
                if (RESULT == ADDED) {
                    float *to = static_cast<float *>(out) + place;
                    __stcg(to, __ldcg(to) + low);
                }
                if (RESULT == GATED) static_cast<E *>(out)[place] = narrow<E>(low / (1.f + __expf(-low)) * high);
            }
            buffer ^= 1, turn = (turn + 1) % (WARPS / 4);
        }
    }

    template <Result RESULT>
    __device__ void product(const Matrix &matrix, int rows, int inputs, const void *x, const float *norm,
                            const float *bias, void *out) {
        const bool in_shared = p.batch * x_row_bytes(inputs) + (matrix.form == Q4_K_FORM ? inputs : 0) <= p.x_bytes;
        if (norm != nullptr)
            take_normed(static_cast<const float *>(x), norm, inputs);
        else if (in_shared)
            take(x, inputs);
        switch (matrix.form) {
        case DENSE: tiles<Dense<E>, RESULT>(rows, inputs, x, in_shared, bias, out); break;
        case Q8_0_FORM: quantised<Q8_0, RESULT>(rows, inputs, x, in_shared, bias, out); break;
        default: quantised<Q4_K, RESULT>(rows, inputs, x, in_shared, bias, out); break;
        }
    }

    // Codes are multiplied as f16.
    template <typename Form, Result RESULT>
    __device__ void quantised(int rows, int inputs, const void *x, bool in_shared, const float *bias, void *out);

    __device__ void embed() {
        const int chunks = p.hidden / 8;
        for (int i = blockIdx.x * THREADS + threadIdx.x; i < p.batch * chunks; i += gridDim.x * THREADS) {
            const int row = i / chunks, column = i % chunks * 8;
            const Matrix &matrix = p.embedding;
            const int columns = piece_columns(matrix.form), piece = column / columns;
            const uint8_t *from = matrix.data + size_t(p.sequences[row].token) * matrix.row_bytes +
                                  piece * piece_bytes(matrix.form, columns);
            const int units = min(columns, p.hidden - piece * columns) / (columns / 16);
            const int unit = column % columns / (columns / 16), block = column % (columns / 16) / 32, t = column % 32 / 8;
            float numbers[8];
            if (matrix.form == DENSE) Dense<E>::decode(numbers, from, units, unit, block, t);
            else if (matrix.form == Q8_0_FORM) Q8_0::decode(numbers, from, units, unit, block, t);
            else Q4_K::decode(numbers, from, units, unit, block, t);
            float *to = p.x + size_t(row) * p.hidden + column;
            for (int j = 0; j < 8; j++) __stcg(to + j, numbers[j]);
        }
    }
};

template <typename E>
template <typename Form, Result RESULT>
__device__ void Multiplier<E>::quantised(int rows, int inputs, const void *x, bool in_shared,
                                         const float *bias, void *out) {
    if constexpr (sizeof(E) == sizeof(half) && !__is_same(E, __nv_bfloat16))
        tiles<Form, RESULT>(rows, inputs, x, in_shared, bias, out);
}

// ---------------------------------------------------------------- attention

// Turns a head by its position's angles, after norming it where it has a norm. A warp's lanes call it.
__device__ __forceinline__ void turn_head(float *x, const float *from, const float *norm, const float *cos,
                                          const float *sin, int head_dim, float eps, float scale) {
    const int lane = threadIdx.x % WARP;
    float inverse = 1.f;
    if (norm != nullptr) {
        float squares = 0.f;
        for (int i = lane; i < head_dim; i += WARP) {
            const float v = __ldcg(from + i);
            squares += v * v;
        }
        inverse = rsqrtf(sum_of<WARP>(squares) / float(head_dim) + eps);
    }
    const int half_dim = head_dim / 2;
    for (int i = lane; i < half_dim; i += WARP) {
        const float a = __ldcg(from + i) * inverse * (norm ? norm[i] : 1.f);
        const float b = __ldcg(from + i + half_dim) * inverse * (norm ? norm[i + half_dim] : 1.f);
        x[i] = (a * cos[i] - b * sin[i]) * scale;
        x[i + half_dim] = (b * cos[i] + a * sin[i]) * scale;
    }
}

// Attention of each sequence's new token (flash-decoding, Dao et al. 2023): an item is a stretch of the
// positions that it sees, for up to four query heads that share a key head. Items of one head meet in
// global memory: the last to come puts their parts together, in one order. How many items do something
// follows from the length.
template <typename E, int LANES>
__device__ void attend(const DecodeParams &p, Shared &shared, AttentionScratch &scratch, const Layer &layer,
                       int number, int item) {
    constexpr int AT_ONCE = THREADS / LANES; // positions
    constexpr int POSITIONS = TURNS * AT_ONCE;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int part = threadIdx.x % LANES, place = threadIdx.x / LANES;
    const int head_dim = p.head_dim, group = p.heads / p.kv_heads, sets = (group + HEADS - 1) / HEADS;
    const bool has_part = part * 8 < head_dim;

    const int split = item % p.splits, set = item / p.splits % sets;
    const int kv_head = item / p.splits / sets % p.kv_heads, row = item / p.splits / sets / p.kv_heads;
    const int first_head = kv_head * group + set * HEADS, heads = min(HEADS, group - set * HEADS);

    const Sequence sequence = p.sequences[row];
    const int end = sequence.length + 1; // the new token included
    const int first = layer.window > 0 ? max(0, end - layer.window) : 0;
    const int seen = end - first;
    const int stretch = max(MIN_STRETCH, (seen + p.splits - 1) / p.splits);
    const int num_parts = (seen + stretch - 1) / stretch;
    const int begin = first + split * stretch, stop = min(begin + stretch, end);
    if (begin >= end) return;
    const size_t head_elements = size_t(sequence.capacity) * head_dim;
    E *keys = reinterpret_cast<E *>(sequence.cache) + (size_t(number) * 2 * p.kv_heads + kv_head) * head_elements;
    E *values = keys + p.kv_heads * head_elements;

    const float *qkv = p.qkv + size_t(row) * (p.heads + 2 * p.kv_heads) * head_dim;
    const float *cos = p.cos + size_t(sequence.length) * (head_dim / 2);
    const float *sin = p.sin + size_t(sequence.length) * (head_dim / 2);
    if (warp < HEADS) {
        if (warp < heads)
            turn_head(scratch.queries[warp], qkv + (first_head + warp) * head_dim, layer.q_norm, cos, sin, head_dim, p.eps, p.scale);
        else
            for (int i = lane; i < head_dim; i += WARP) scratch.queries[warp][i] = 0.f;
        if (lane == 0) scratch.maxima[warp] = -INFINITY, scratch.totals[warp] = 0.f;
    }
    if (stop == end) {
        if (warp == HEADS)
            turn_head(scratch.key, qkv + (p.heads + kv_head) * head_dim, layer.k_norm, cos, sin, head_dim, p.eps, 1.f);
        meet();
        const float *value = qkv + (p.heads + p.kv_heads + kv_head) * head_dim;
        for (int i = threadIdx.x; i < head_dim; i += THREADS) {
            keys[size_t(sequence.length) * head_dim + i] = narrow<E>(scratch.key[i]);
            values[size_t(sequence.length) * head_dim + i] = narrow<E>(__ldcg(value + i));
        }
    }
    meet();

    float query[HEADS][8], sums[HEADS][8];
#pragma unroll
    for (int head = 0; head < HEADS; head++)
#pragma unroll
        for (int i = 0; i < 8; i++) {
            query[head][i] = has_part ? scratch.queries[head][part * 8 + i] : 0.f;
            sums[head][i] = 0.f;
        }

    for (int tile = begin; tile < stop; tile += POSITIONS) {
        uint4 k[TURNS], v[TURNS];
#pragma unroll
        for (int i = 0; i < TURNS; i++) {
            const int position = tile + i * AT_ONCE + place;
            const bool is_there = has_part && position < stop;
            const size_t from = size_t(position) * head_dim + part * 8;
            k[i] = is_there ? *reinterpret_cast<const uint4 *>(keys + from) : make_uint4(0, 0, 0, 0);
            v[i] = is_there ? *reinterpret_cast<const uint4 *>(values + from) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < TURNS; i++) {
            float numbers[8];
            wide8<E>(k[i], numbers);
            const int position = tile + i * AT_ONCE + place;
#pragma unroll
            for (int head = 0; head < HEADS; head++) {
                float score = 0.f;
#pragma unroll
                for (int j = 0; j < 8; j++) score += query[head][j] * numbers[j];
                score = sum_of<LANES>(score);
                if (part == 0) scratch.weights[head][i * AT_ONCE + place] = position < stop ? score : -INFINITY;
            }
        }
        meet();
        if (warp < HEADS) {
            float weights[POSITIONS / WARP], maximum = scratch.maxima[warp];
            const float before = maximum;
#pragma unroll
            for (int i = 0; i < POSITIONS / WARP; i++) {
                weights[i] = scratch.weights[warp][i * WARP + lane];
                maximum = fmaxf(maximum, weights[i]);
            }
            maximum = max_of_warp(maximum);
            float total = 0.f;
#pragma unroll
            for (int i = 0; i < POSITIONS / WARP; i++) {
                const float weight = __expf(weights[i] - maximum);
                scratch.weights[warp][i * WARP + lane] = weight;
                total += weight;
            }
            total = sum_of<WARP>(total);
            if (lane == 0) {
                const float factor = __expf(before - maximum);
                scratch.factors[warp] = factor, scratch.maxima[warp] = maximum;
                scratch.totals[warp] = scratch.totals[warp] * factor + total;
            }
        }
        meet();
#pragma unroll
        for (int head = 0; head < HEADS; head++) {
            const float factor = scratch.factors[head];
#pragma unroll
            for (int i = 0; i < 8; i++) sums[head][i] *= factor;
        }
#pragma unroll
        for (int i = 0; i < TURNS; i++) {
            float numbers[8];
            wide8<E>(v[i], numbers);
#pragma unroll
            for (int head = 0; head < HEADS; head++) {
                const float weight = scratch.weights[head][i * AT_ONCE + place];
#pragma unroll
                for (int j = 0; j < 8; j++) sums[head][j] += weight * numbers[j];
            }
        }
        meet();
    }

    // The places of a warp, then the warps.
#pragma unroll
    for (int head = 0; head < HEADS; head++)
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float sum = sums[head][i];
#pragma unroll
            for (int step = LANES; step < WARP; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
            if (lane < LANES && has_part) scratch.gathered[warp][head][part * 8 + i] = sum;
        }
    meet();
    const int heads_of_row = p.kv_heads * sets;
    float *parts = p.parts + (size_t(row) * heads_of_row + kv_head * sets + set) * p.splits * HEADS * (head_dim + 2);
    E *out = static_cast<E *>(p.attended) + (size_t(row) * p.heads + first_head) * head_dim;
    for (int i = threadIdx.x; i < heads * head_dim; i += THREADS) {
        const int head = i / head_dim, column = i % head_dim;
        float sum = 0.f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum += scratch.gathered[w][head][column];
        if (num_parts == 1) {
            out[i] = narrow<E>(sum / scratch.totals[head]);
        } else {
            float *own = parts + (size_t(split) * HEADS + head) * (head_dim + 2);
            __stcg(own + column, sum);
            if (column == 0) __stcg(own + head_dim, scratch.maxima[head]), __stcg(own + head_dim + 1, scratch.totals[head]);
        }
    }
    if (num_parts == 1) {
        meet();
        return;
    }

    meet();
    if (threadIdx.x == 0) {
        __threadfence();
        uint32_t *arrived = p.arrived + row * heads_of_row + kv_head * sets + set;
        shared.is_last = atomicAdd(arrived, 1u) == uint32_t(num_parts) - 1;
        if (shared.is_last) *arrived = 0;
        __threadfence();
    }
    meet();
    if (!shared.is_last) return;
    for (int i = threadIdx.x; i < heads * head_dim; i += THREADS) {
        const int head = i / head_dim, column = i % head_dim;
        float maximum = -INFINITY, sum = 0.f, total = 0.f;
#pragma unroll 8
        for (int other = 0; other < num_parts; other++)
            maximum = fmaxf(maximum, __ldcg(parts + (size_t(other) * HEADS + head) * (head_dim + 2) + head_dim));
#pragma unroll 8
        for (int other = 0; other < num_parts; other++) {
            const float *its = parts + (size_t(other) * HEADS + head) * (head_dim + 2);
            const float factor = __expf(__ldcg(its + head_dim) - maximum);
            sum += factor * __ldcg(its + column), total += factor * __ldcg(its + head_dim + 1);
        }
        out[i] = narrow<E>(sum / total);
    }
    meet();
}

// ---------------------------------------------------------------- the step

template <typename E, int LANES> __device__ void decode(const DecodeParams &p) {
    extern __shared__ __align__(128) uint8_t memory[];
    __shared__ Shared shared;
    uint8_t *ring = memory, *x_shared = memory + p.stages * p.stage_bytes;
    if (threadIdx.x == 0) {
        for (int i = 0; i < p.stages; i++) gate_init(&shared.full[i], 1), gate_init(&shared.empty[i], WARPS);
        asm volatile("fence.mbarrier_init.release.cluster;");
    }
    __syncthreads();
    if (threadIdx.x >= THREADS) {
        Filler{p, shared, ring}.all();
        return;
    }

    wait_for_previous();
    Multiplier<E> by{p, shared, ring, x_shared};
    AttentionScratch &scratch = *reinterpret_cast<AttentionScratch *>(x_shared);
    const int queries = p.heads * p.head_dim, keys = p.kv_heads * p.head_dim;
    const int sets = (p.heads / p.kv_heads + HEADS - 1) / HEADS;
    const int items = p.batch * p.kv_heads * sets * p.splits;
    if (p.embeds) {
        by.embed();
        meet_all(p.barrier);
    }
    for (int number = p.first_layer; number < p.end_layer; number++) {
        const Layer &layer = p.layers[number];
        by.template product<STORED>(layer.qkv, queries + 2 * keys, p.hidden, p.x, layer.input_norm, layer.qkv_bias, p.qkv);
        meet_all(p.barrier);
        for (int item = blockIdx.x; item < items; item += gridDim.x)
            attend<E, LANES>(p, shared, scratch, layer, number, item);
        meet_all(p.barrier);
        by.template product<ADDED>(layer.o, p.hidden, queries, p.attended, nullptr, layer.o_bias, p.x);
        meet_all(p.barrier);
        by.template product<GATED>(layer.gate_up, 2 * p.intermediate, p.hidden, p.x, layer.post_norm, layer.gate_up_bias, p.gated);
        meet_all(p.barrier);
        by.template product<ADDED>(layer.down, p.hidden, p.intermediate, p.gated, nullptr, layer.down_bias, p.x);
        meet_all(p.barrier);
    }
    if (p.has_head) by.template product<STORED>(p.head, p.vocab, p.hidden, p.x, p.norm, nullptr, p.logits);
}

#define DECODE(NAME, ELEMENT, LANES)                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS + WARP, 1)                                   \
        decode_##NAME##_##LANES(const __grid_constant__ DecodeParams p) {                             \
        decode<ELEMENT, LANES>(p);                                                                    \
    }

DECODE(f16, half, 4)
DECODE(f16, half, 8)
DECODE(f16, half, 16)
DECODE(bf16, __nv_bfloat16, 4)
DECODE(bf16, __nv_bfloat16, 8)
DECODE(bf16, __nv_bfloat16, 16)

// src/decode.rs asserts the same.
static_assert(sizeof(Layer) == 136 && sizeof(Sequence) == 24 && sizeof(DecodeParams) == 208, "as in Rust");
static_assert(THREADS + WARP == 288 && sizeof(AttentionScratch) <= 24 << 10, "as in Rust");
