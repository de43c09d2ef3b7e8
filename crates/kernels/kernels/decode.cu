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
// The residual stream and all sums are f32; activations are rounded to E where they are multiplied by
// weights. A sequence's numbers do not depend on those beside it.

#include "forms.cuh"
#include "ring.cuh"
#include "sequence.cuh"

// Warps that multiply. The warp behind them fills the ring.
constexpr int WARPS = 8;
constexpr int THREADS = WARPS * WARP;
// Pieces that a block has asked the memory for and not yet got. More of them only stand in the way: what is asked
// for later, as by attention or where blocks meet, comes behind them.
constexpr int IN_FLIGHT = 4;
static_assert(PIECE / UNIT == 2 * WARPS, "a warp has two units of a piece");
// Rows of a tile.
constexpr int TILE = 16;
constexpr int MAX_BATCH = 8;
constexpr int MAX_STAGES = 16;
// Tiles whose sums are on their way from warp to warp at once.
constexpr int SUMS = 2;
// Query heads of one item of attention.
constexpr int HEADS = 4;
// Positions of which a thread holds keys and values at once.
constexpr int TURNS = 2;
// Up to so many positions one item has all of them, as putting parts together takes longer; otherwise an item has so
// many at least.
constexpr int MAX_ALONE = 160, MIN_STRETCH = 64;
constexpr int MAX_HEAD_DIM = 128;
// Below all scores; differences to it are finite.
constexpr float LEAST = -1e30f;

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
    float norms[MAX_BATCH][WARPS];
    Sequence sequences[MAX_BATCH];
    Layer layers[2]; // this one, and the next
    bool is_last;
    uint32_t before; // of `Meeting`
};

// What attention needs of the activations' place.
template <typename E> struct AttentionScratch {
    alignas(16) E key[MAX_HEAD_DIM], value[MAX_HEAD_DIM]; // the new token's
    alignas(16) float queries[HEADS][MAX_HEAD_DIM];
    float gathered[WARPS][HEADS][MAX_HEAD_DIM];
    float maxima[WARPS][HEADS], totals[WARPS][HEADS];
};

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
    Deal deal;
    // Where the next piece goes, and which one comes next of those that were asked for.
    Cursor at, coming;
    int in_flight = 0;

    // By value: what is in memory would be read again for each piece.
    __device__ __forceinline__ void matrix(const Matrix matrix, int rows, int inputs, bool gated) {
        const Tiles tiles(rows, inputs, gated);
        const int columns = piece_columns(matrix.form), lane = threadIdx.x % WARP;
        const int stride = stage_row_bytes(matrix.form), whole = piece_bytes(matrix.form, columns);
        for (int tile = deal.first(tiles.count); tile < tiles.count; tile += gridDim.x) {
            const uint8_t *from = matrix.data + size_t(tiles.row(tile, lane % TILE)) * matrix.row_bytes;
            for (int first = 0; first < inputs; first += columns, from += whole) {
                const int bytes = piece_bytes(matrix.form, min(columns, inputs - first));
                if (in_flight == min(IN_FLIGHT, p.stages)) {
                    gate_wait(&shared.full[coming.stage], coming.turn);
                    coming.next(p.stages);
                } else {
                    in_flight++;
                }
                gate_wait(&shared.empty[at.stage], at.turn ^ 1);
                if (lane == 0) gate_expect(&shared.full[at.stage], TILE * bytes);
                __syncwarp();
                if (lane < TILE)
                    copy_async(ring + at.stage * p.stage_bytes + lane * stride, from, bytes, &shared.full[at.stage]);
                at.next(p.stages);
            }
        }
    }

    __device__ __forceinline__ void all() {
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
    float *partial; // (SUMS, WARPS, batch, TILE)
    Cursor at;
    Deal deal;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    // How many tiles there were.
    uint32_t done = 0;
    // Part of a norm's weights: columns from 4 · threadIdx.x on, and so many behind.
    static constexpr int KEPT = 4096 / 4 / THREADS;
    float4 norm_weights[KEPT];

    // Copies rows of E into shared memory.
    __device__ __forceinline__ void take(const void *x, int inputs) {
        const int stride = x_row_bytes(inputs), chunks = inputs / 8;
        const uint4 *from = static_cast<const uint4 *>(x);
#pragma unroll 4
        for (int i = threadIdx.x; i < p.batch * chunks; i += THREADS) {
            const int row = i / chunks;
            reinterpret_cast<uint4 *>(x_shared + row * stride)[i - row * chunks] = __ldcg(from + i);
        }
    }

    // Reads what `take_normed` needs of a norm's weights, which nothing has to be waited for.
    __device__ __forceinline__ void prepare(const float *norm, int inputs) {
#pragma unroll
        for (int j = 0; j < KEPT; j++) {
            const int i = threadIdx.x + j * THREADS;
            norm_weights[j] = __ldg(reinterpret_cast<const float4 *>(norm) + min(i, inputs / 4 - 1));
        }
    }

    // Part of a row, of the same columns as a norm's weights.
    __device__ __forceinline__ void read(float4 to[KEPT], const float4 *row, int chunks) {
#pragma unroll
        for (int j = 0; j < KEPT; j++) {
            const int i = threadIdx.x + j * THREADS;
            to[j] = i < chunks ? __ldcg(row + i) : make_float4(0.f, 0.f, 0.f, 0.f);
        }
    }

    // Copies rows of f32, normed: x / sqrt(mean(x²) + eps) · weight.
    __device__ __forceinline__ void take_normed(const float *x, const float *norm, int inputs) {
        const int stride = x_row_bytes(inputs), chunks = inputs / 4;
        const float4 *weights = reinterpret_cast<const float4 *>(norm), *from = reinterpret_cast<const float4 *>(x);
        float4 kept[KEPT], next[KEPT];
        read(next, from, chunks);
        for (int row = 0; row < p.batch; row++, from += chunks) {
            float squares = 0.f;
#pragma unroll
            for (int j = 0; j < KEPT; j++) {
                kept[j] = next[j];
                squares += kept[j].x * kept[j].x + kept[j].y * kept[j].y + kept[j].z * kept[j].z + kept[j].w * kept[j].w;
            }
            if (row + 1 < p.batch) read(next, from + chunks, chunks);
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
            const auto put = [&](int i, float4 v, float4 w) {
                to[i] = make_uint2(narrow2<E>(v.x * scale * w.x, v.y * scale * w.y),
                                   narrow2<E>(v.z * scale * w.z, v.w * scale * w.w));
            };
#pragma unroll
            for (int j = 0; j < KEPT; j++)
                if (threadIdx.x + j * THREADS < chunks) put(threadIdx.x + j * THREADS, kept[j], norm_weights[j]);
            for (int i = threadIdx.x + KEPT * THREADS; i < chunks; i += THREADS)
                put(i, __ldcg(from + i), __ldg(weights + i));
        }
    }

    // What forms with minima need of each 32 columns of activations: their sums, and what codes' offsets come to.
    template <bool IN_SHARED> __device__ __forceinline__ void sum_blocks(const void *x, int inputs, BlockSums to) {
        const int blocks = inputs / 32;
        for (int i = threadIdx.x; i < blocks * p.batch; i += THREADS) {
            const int row = i / blocks, block = i % blocks;
            const uint4 *shared_x = reinterpret_cast<const uint4 *>(x_shared + row * x_row_bytes(inputs)) + block * 4;
            const uint4 *global_x = static_cast<const uint4 *>(x) + size_t(i) * 4;
            float first = 0.f, second = 0.f; // pairs of columns, of which codes have the one offset and the other
#pragma unroll
            for (int part = 0; part < 4; part++) {
                float numbers[8];
                wide8<E>(IN_SHARED ? shared_x[part] : __ldcg(global_x + part), numbers);
                first += (numbers[0] + numbers[1]) + (numbers[4] + numbers[5]);
                second += (numbers[2] + numbers[3]) + (numbers[6] + numbers[7]);
            }
            to.put(block, row, first + second, Q4_K::FIRST_OFFSET * first + Q4_K::SECOND_OFFSET * second);
        }
    }

    // Multiplies what `x_shared` holds, or `x` where it does not fit there, by this block's tiles.
    template <typename Form, Result RESULT, bool IN_SHARED>
    __device__ __forceinline__ void tiles(int rows, int inputs, const void *x, const float *bias, void *out) {
        constexpr int BLOCKS = Form::COLUMNS / 32;
        constexpr int COLUMNS = PIECE / UNIT * Form::COLUMNS;
        constexpr int STRIDE = stage_row_bytes(Form::COLUMNS == 128 ? Q4_K_FORM : DENSE);
        const Tiles tiles(rows, inputs, RESULT == GATED);
        const int outputs = RESULT == GATED ? rows / 2 : rows;
        const int g = lane / 4, t = lane % 4;
        const int stride = x_row_bytes(inputs);
        const BlockSums sums(x_shared + (IN_SHARED ? p.batch * stride : 0), inputs, p.batch);
        if (Form::NEEDS_SUMS) {
            meet();
            sum_blocks<IN_SHARED>(x, inputs, sums);
        }
        meet();

        // Lanes of columns that there are no sequences for have another's: nobody reads their sums.
        const int own = min(g, p.batch - 1), unit = 2 * warp;
        const uint8_t *shared_x = x_shared + own * stride + t * 16;
        const uint8_t *global_x = static_cast<const uint8_t *>(x) + size_t(own) * inputs * 2 + t * 16;
        for (int tile = deal.first(tiles.count); tile < tiles.count; tile += gridDim.x) {
            // Two columns of the sums are a warp's: another's each time, so that none falls behind.
            const int part = (warp + done * ((p.batch + 1) / 2)) % WARPS;
            const int column = part * 2 + lane / TILE, row = lane % TILE;
            const int output = tile * tiles.stride + row;
            const bool adds = column < p.batch && row < tiles.stride && output < outputs;
            const size_t place = size_t(column) * outputs + output;
            float before = 0.f;
            if (RESULT == ADDED && adds) before = __ldcg(static_cast<const float *>(out) + place);

            float c[2][4] = {};
            for (int first = 0; first < inputs; first += COLUMNS) {
                const int units = min(COLUMNS, inputs - first) / Form::COLUMNS, block = first / 32 + unit * BLOCKS;
                uint4 activations[2][BLOCKS];
#pragma unroll
                for (int i = 0; i < 2 * BLOCKS; i++)
                    if (unit + i / BLOCKS < units)
                        activations[i / BLOCKS][i % BLOCKS] =
                            IN_SHARED ? *reinterpret_cast<const uint4 *>(shared_x + (block + i) * 64)
                                      : __ldcg(reinterpret_cast<const uint4 *>(global_x + (block + i) * 64));
                gate_wait(&shared.full[at.stage], at.turn);
                const uint8_t *lo = ring + at.stage * p.stage_bytes + g * STRIDE, *hi = lo + 8 * STRIDE;
                if (unit < units) Form::add(c, lo, hi, units, unit, t, activations, sums, block, own);
                __syncwarp();
                if (lane == 0) gate_arrive(&shared.empty[at.stage]);
                at.next(p.stages);
            }

            // The warps' sums meet. Two buffers: one meeting a tile is enough.
            float *all_sums = partial + done % SUMS * WARPS * p.batch * TILE, *own_sums = all_sums + warp * p.batch * TILE;
#pragma unroll
            for (int i = 0; i < 4; i++) // Column 2t + i % 2, row g or g + 8.
                if (2 * t + i % 2 < p.batch) own_sums[(2 * t + i % 2) * TILE + g + i / 2 * 8] = c[0][i] + c[1][i];
            meet();
            if (adds) {
                float low = 0.f, high = 0.f;
#pragma unroll
                for (int i = 0; i < WARPS; i++) {
                    low += all_sums[(i * p.batch + column) * TILE + row];
                    if (RESULT == GATED) high += all_sums[(i * p.batch + column) * TILE + row + 8];
                }
                if (bias != nullptr) {
                    low += __ldg(bias + output);
                    if (RESULT == GATED) high += __ldg(bias + output + outputs);
                }
                if (RESULT == STORED) __stcg(static_cast<float *>(out) + place, low);
                if (RESULT == ADDED) __stcg(static_cast<float *>(out) + place, before + low);
                if (RESULT == GATED) static_cast<E *>(out)[place] = narrow<E>(low / (1.f + __expf(-low)) * high);
            }
            done++;
        }
    }

    template <Result RESULT>
    __device__ __forceinline__ void product(const Matrix &matrix, int rows, int inputs, const void *x,
                                            const float *norm, const float *bias, void *out) {
        const int sums_bytes = matrix.form == Q4_K_FORM ? BlockSums::bytes(inputs, p.batch) : 0;
        const bool in_shared = p.batch * x_row_bytes(inputs) + sums_bytes <= p.x_bytes;
        if (norm != nullptr)
            take_normed(static_cast<const float *>(x), norm, inputs);
        else if (in_shared)
            take(x, inputs);
        // What comes from a norm is there always.
        if (RESULT != ADDED || in_shared)
            by_form<RESULT, true>(matrix.form, rows, inputs, x, bias, out);
        else
            by_form<RESULT, false>(matrix.form, rows, inputs, x, bias, out);
    }

    template <Result RESULT, bool IN_SHARED>
    __device__ __forceinline__ void by_form(int form, int rows, int inputs, const void *x, const float *bias, void *out) {
        if (form == DENSE) {
            tiles<Dense<E>, RESULT, IN_SHARED>(rows, inputs, x, bias, out);
        } else if constexpr (__is_same(E, half)) { // Codes are multiplied as f16.
            if (form == Q8_0_FORM)
                tiles<Q8_0, RESULT, IN_SHARED>(rows, inputs, x, bias, out);
            else
                tiles<Q4_K, RESULT, IN_SHARED>(rows, inputs, x, bias, out);
        }
    }

    __device__ __forceinline__ void embed() {
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

// ---------------------------------------------------------------- attention

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

// Attention of each sequence's new token (flash-decoding, Dao et al. 2023): an item is a stretch of the
// positions that it sees, for up to four query heads that share a key head. Items of one head meet in
// global memory: the last to come puts their parts together, in one order. How many items do something
// follows from the length alone. `wait` waits for what the other blocks multiplied; keys and values of
// earlier tokens are asked for before.
template <typename E, int LANES, typename Wait>
__device__ __forceinline__ void attend(const DecodeParams &p, Shared &shared, AttentionScratch<E> &scratch,
                                       const Layer &layer, int number, int item, Wait wait) {
    constexpr int AT_ONCE = THREADS / LANES; // positions
    constexpr int POSITIONS = TURNS * AT_ONCE;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int part = threadIdx.x % LANES, place = threadIdx.x / LANES;
    const int head_dim = p.head_dim, group = p.heads / p.kv_heads, sets = (group + HEADS - 1) / HEADS;
    const bool has_part = part * 8 < head_dim;

    // Stretches come last: where there is one of each, neighbouring blocks have them.
    const int set = item % sets, kv_head = item / sets % p.kv_heads;
    const int row = item / sets / p.kv_heads % p.batch, split = item / sets / p.kv_heads / p.batch;
    const int first_head = kv_head * group + set * HEADS, heads = min(HEADS, group - set * HEADS);

    const Sequence &sequence = shared.sequences[row];
    const int newest = sequence.length, end = newest + 1;
    const int begin_of_all = layer.window > 0 ? max(0, end - layer.window) : 0;
    const int seen = end - begin_of_all;
    const int stretch = seen <= MAX_ALONE ? seen : max(MIN_STRETCH, (seen + p.splits - 1) / p.splits);
    const int num_parts = (seen + stretch - 1) / stretch;
    const int begin = begin_of_all + split * stretch, stop = min(begin + stretch, end);
    if (begin >= end) return;
    const size_t head_elements = size_t(sequence.capacity) * head_dim;
    E *keys = reinterpret_cast<E *>(sequence.cache) + (size_t(number) * 2 * p.kv_heads + kv_head) * head_elements;
    E *values = keys + p.kv_heads * head_elements;

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
    if (stop == end) {
        if (warp == HEADS)
            turn_head(scratch.key, qkv + (p.heads + kv_head) * head_dim, layer.k_norm, cos, sin, head_dim, p.eps,
                      1.f);
        if (warp == HEADS + 1) {
            const float *value = qkv + (p.heads + p.kv_heads + kv_head) * head_dim;
            for (int i = lane; i < head_dim; i += WARP) scratch.value[i] = narrow<E>(__ldcg(value + i));
        }
    }
    meet();
    if (stop == end && threadIdx.x * 8 < head_dim) {
        const size_t to = size_t(newest) * head_dim + threadIdx.x * 8;
        *reinterpret_cast<uint4 *>(keys + to) = *reinterpret_cast<const uint4 *>(scratch.key + threadIdx.x * 8);
        *reinterpret_cast<uint4 *>(values + to) = *reinterpret_cast<const uint4 *>(scratch.value + threadIdx.x * 8);
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
    const size_t part_floats = size_t(HEADS) * (head_dim + 2);
    float *parts = p.parts + (size_t(row) * heads_of_row + kv_head * sets + set) * p.splits * part_floats;
    E *out = static_cast<E *>(p.attended) + (size_t(row) * p.heads + first_head) * head_dim;
    for (int i = threadIdx.x; i < heads * head_dim; i += THREADS) {
        const int head = i / head_dim, column = i % head_dim;
        float highest = LEAST, sum = 0.f, sum_of_weights = 0.f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) highest = fmaxf(highest, scratch.maxima[w][head]);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const float factor = __expf(scratch.maxima[w][head] - highest);
            sum += factor * scratch.gathered[w][head][column], sum_of_weights += factor * scratch.totals[w][head];
        }
        if (num_parts == 1) {
            out[i] = narrow<E>(sum / sum_of_weights);
        } else {
            float *own = parts + split * part_floats + head * (head_dim + 2);
            __stcg(own + column, sum);
            if (column == 0) __stcg(own + head_dim, highest), __stcg(own + head_dim + 1, sum_of_weights);
        }
    }
    meet();
    if (num_parts == 1) return;

    if (threadIdx.x == 0) {
        uint32_t *arrived = p.arrived + row * heads_of_row + kv_head * sets + set;
        uint32_t before;
        asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(arrived) : "memory");
        shared.is_last = before == uint32_t(num_parts) - 1;
        if (shared.is_last) *arrived = 0;
    }
    meet();
    if (!shared.is_last) return;
    for (int i = threadIdx.x; i < heads * head_dim; i += THREADS) {
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

// ---------------------------------------------------------------- the step

template <typename E, int LANES> __device__ __forceinline__ void decode(const DecodeParams &p) {
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

    Multiplier<E> by{p, shared, ring, x_shared, reinterpret_cast<float *>(x_shared + p.x_bytes)};
    AttentionScratch<E> &scratch = *reinterpret_cast<AttentionScratch<E> *>(x_shared);
    const int queries = p.heads * p.head_dim, keys = p.kv_heads * p.head_dim;
    const int sets = (p.heads / p.kv_heads + HEADS - 1) / HEADS;
    const int items = p.batch * p.kv_heads * sets * p.splits;
    const bool is_last_warp = threadIdx.x / WARP == WARPS - 1;
    const auto keep = [&](int number) { // a layer's addresses, by the last warp
        const uint32_t *from = reinterpret_cast<const uint32_t *>(p.layers + number);
        uint32_t *to = reinterpret_cast<uint32_t *>(&shared.layers[number % 2]);
        for (int i = threadIdx.x % WARP; i < int(sizeof(Layer) / 4); i += WARP) to[i] = __ldg(from + i);
    };
    const Meeting meeting(p.barrier, &shared.before);
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
            attend<E, LANES>(p, shared, scratch, layer, number, item, wait);
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
static_assert(THREADS + WARP == 288 && SUMS == 2 && sizeof(AttentionScratch<half>) <= 24 << 10, "as in Rust");
