// The matrices of a step: one warp of a block fills the ring with the block's tiles, eight multiply them.

#pragma once

#include "block.cuh"

// ---------------------------------------------------------------- tiles

// Which rows a matrix' tiles have. A gated matrix' tile is 8 rows of the gate and the same 8 of the rest.
struct Tiles {
    int rows, count, stride, second_half;

    __device__ Tiles(int rows, bool gated)
        : rows(rows), count((gated ? rows / 2 + 7 : rows + 15) / (gated ? 8 : 16)),
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

// Whether a block has no room for all columns of a product's activations, and takes them a slice at a time. It goes
// through so many of its tiles together then, for each slice once.
constexpr int TILES_OF_SLICE = 2;
__device__ __forceinline__ bool is_sliced(const DecodeParams &p, int form, int inputs) {
    return (form == DENSE ? p.batch * x_row_bytes(inputs) : Fixed::bytes(inputs, p.batch)) > p.x_bytes;
}

// ---------------------------------------------------------------- filling

// Pieces that a block has asked the memory for and not yet got. More of them only stand in the way: what is asked
// for later, as by attention or where blocks meet, comes behind them.
constexpr int IN_FLIGHT = 4;

struct Filler {
    const DecodeParams &p;
    Deal deal;
    // Where the next piece goes, and which one comes next of those that were asked for.
    Cursor at, coming;
    int in_flight = 0;

    // By value: what is in memory would be read again for each piece.
    template <bool SLICED>
    __device__ __forceinline__ void tiles(const Matrix matrix, int rows, int inputs, bool gated) {
        const Tiles tiles(rows, gated);
        const int columns = piece_columns(matrix.form), lane = threadIdx.x % WARP;
        const int stride = stage_row_bytes(matrix.form), whole = piece_bytes(matrix.form, columns);
        constexpr int AT_ONCE = SLICED ? TILES_OF_SLICE : 1;
        for (int first = deal.first(tiles.count); first < tiles.count; first += AT_ONCE * gridDim.x) {
            for (int slice = 0; slice < inputs; slice += SLICED ? SLICE : inputs) {
                const int end = SLICED ? min(slice + SLICE, inputs) : inputs;
                for (int i = 0, tile = first; i < AT_ONCE && tile < tiles.count; i++, tile += gridDim.x) {
                    const uint8_t *from = matrix.data + size_t(tiles.row(tile, lane % TILE)) * matrix.row_bytes +
                                          (SLICED ? slice / columns * whole : 0);
                    for (int column = slice; column < end; column += columns, from += whole) {
                        const int bytes = piece_bytes(matrix.form, min(columns, inputs - column));
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
                            copy_async(memory + at.stage * p.stage_bytes + lane * stride, from, bytes,
                                       &shared.full[at.stage]);
                        at.next(p.stages);
                    }
                }
            }
        }
    }

    __device__ __forceinline__ void matrix(const Matrix matrix, int rows, int inputs, bool gated, bool sliced) {
        if (sliced) tiles<true>(matrix, rows, inputs, gated);
        else tiles<false>(matrix, rows, inputs, gated);
    }

    __device__ __forceinline__ void all() {
        const int queries = p.heads * p.head_dim, keys = p.kv_heads * p.head_dim;
        for (int i = p.first_layer; i < p.end_layer; i++) {
            const Layer &layer = p.layers[i];
            matrix(layer.qkv, queries + 2 * keys, p.hidden, false, false);
            matrix(layer.o, p.hidden, queries, false, is_sliced(p, layer.o.form, queries));
            matrix(layer.gate_up, 2 * p.intermediate, p.hidden, true, false);
            matrix(layer.down, p.hidden, p.intermediate, false, is_sliced(p, layer.down.form, p.intermediate));
        }
        if (p.has_head) matrix(p.head, p.vocab, p.hidden, false, false);
    }
};

// ---------------------------------------------------------------- multiplying

// What a product does with its sums.
enum Result { STORED, ADDED, GATED };

// How far a block's readers have come.
struct Progress {
    Cursor at;
    Deal deal;
    uint32_t tiles = 0;
};

// What a product is of.
struct Task {
    int rows, inputs;
    const void *x; // where it is taken a slice at a time: rows of E, or as `Fixed`
    const float *bias;
    void *out;
};

// Adds up a tile's sums of all warps, and does with them what RESULT says.
template <typename E, Result RESULT, typename Sums>
__device__ __forceinline__ Progress finish(const DecodeParams &p, const Task &task, const Tiles &tiles, int tile,
                                           int outputs, const Sums &sums, int lane, int warp, int batch,
                                           Progress progress) {
    // Two columns of the sums are a warp's: another's each time, so that none falls behind.
    const int part = (warp + progress.tiles * ((batch + 1) / 2)) % WARPS;
    const int column = part * 2 + lane / TILE, row = lane % TILE;
    const int output = tile * tiles.stride + row;
    const bool adds = column < batch && row < tiles.stride && output < outputs;
    const size_t place = size_t(column) * outputs + output;
    float before = 0.f;
    if (RESULT == ADDED && adds) before = __ldcg(static_cast<const float *>(task.out) + place);
    // Two buffers: one meeting a tile is enough.
    float *all_sums = sums_of(p) + progress.tiles % SUMS * WARPS * batch * TILE;
    sums.store(all_sums + warp * batch * TILE, batch, lane);
    meet();
    if (adds) {
        float low = 0.f, high = 0.f;
#pragma unroll
        for (int i = 0; i < WARPS; i++) {
            low += all_sums[(i * batch + column) * TILE + row];
            if (RESULT == GATED) high += all_sums[(i * batch + column) * TILE + row + 8];
        }
        if (task.bias != nullptr) {
            low += __ldg(task.bias + output);
            if (RESULT == GATED) high += __ldg(task.bias + output + outputs);
        }
        if (RESULT == STORED) __stcg(static_cast<float *>(task.out) + place, low);
        if (RESULT == ADDED) __stcg(static_cast<float *>(task.out) + place, before + low);
        if (RESULT == GATED) static_cast<E *>(task.out)[place] = narrow<E>(low / (1.f + __expf(-low)) * high);
    }
    progress.tiles++;
    return progress;
}

// Asks for a slice of activations, from column `first` on.
template <typename Product>
__device__ __forceinline__ void ask_for_slice(uint8_t *to, const Task &task, int first, int batch) {
    const int thread = fresh(threadIdx.x), inputs = task.inputs;
    const uint8_t *x = static_cast<const uint8_t *>(task.x);
    if constexpr (Product::FORM == DENSE) {
        static_assert(SLICE == 8 * THREADS);
        if (first + thread * 8 < inputs)
            for (int row = 0; row < batch; row++)
                copy_cell<16>(to + row * x_row_bytes(SLICE) + thread * 16,
                              x + (size_t(row) * inputs + first + thread * 8) * 2);
    } else {
        const Fixed from(const_cast<uint8_t *>(x), inputs, batch), own(to, SLICE, batch);
        constexpr int CELLS = SLICE / 16, GROUPS = SLICE / Fixed::GROUP;
        const int cell = thread % CELLS;
        if (first + cell * 16 < from.row_bytes - 16)
            for (int row = thread / CELLS; row < 2 * batch; row += THREADS / CELLS)
                copy_cell<16>(own.rows + row * own.row_bytes + cell * 16, from.rows + row * from.row_bytes + first + cell * 16);
        // Eight sums, and a scale.
        if (thread < batch * GROUPS) {
            const int row = thread / GROUPS, group = first / Fixed::GROUP + thread % GROUPS;
            if (group < from.groups) {
                for (int i = 0; i < 8; i += 4)
                    copy_cell<16>(own.sums + thread * 8 + i, from.sums + (row * from.groups + group) * 8 + i);
                copy_cell<4>(own.scales + thread, from.scales + row * from.groups + group);
            }
        }
    }
}

// Multiplies this block's tiles, and does with the sums what RESULT says.
template <typename E, typename Product, Result RESULT, bool SLICED>
__device__ __forceinline__ Progress multiply(const DecodeParams &p, const Task task, Progress progress) {
    constexpr int COLUMNS = PIECE / UNIT * Product::COLUMNS;
    constexpr int STRIDE = stage_row_bytes(Product::FORM);
    constexpr int AT_ONCE = SLICED ? TILES_OF_SLICE : 1;
    const int rows = task.rows, inputs = task.inputs;
    const Tiles tiles(rows, RESULT == GATED);
    const int outputs = RESULT == GATED ? rows / 2 : rows;
    const int lane = fresh(threadIdx.x % WARP), warp = fresh(threadIdx.x / WARP), unit = 2 * warp, batch = fresh(p.batch);
    const int slice_bytes = (Product::bytes(SLICE, batch) + 15) & ~15;
    int first = progress.deal.first(tiles.count), buffer = 0;
    if (!SLICED) meet();
    else if (first < tiles.count) ask_for_slice<Product>(activations_of(p), task, 0, batch);
    Product product(activations_of(p), SLICED ? SLICE : inputs, batch, lane);
    for (; first < tiles.count; first += AT_ONCE * gridDim.x) {
        typename Product::Sums sums[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) sums[i].clear();
        for (int slice = 0; slice < inputs; slice += SLICED ? SLICE : inputs) {
            const int end = SLICED ? min(slice + SLICE, inputs) : inputs, offset = buffer * slice_bytes;
            if (SLICED) {
                wait_for_cells();
                meet();
                // All have the slice, and are done with what its other buffer had.
                buffer ^= 1;
                const bool is_last = slice + SLICE >= inputs;
                if (!is_last || first + AT_ONCE * gridDim.x < tiles.count)
                    ask_for_slice<Product>(activations_of(p) + buffer * slice_bytes, task, is_last ? 0 : slice + SLICE, batch);
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                if (AT_ONCE > 1 && first + i * int(gridDim.x) >= tiles.count) break;
                for (int column = slice; column < end; column += COLUMNS) {
                    const int units = min(COLUMNS, inputs - column) / Product::COLUMNS;
                    product.load((SLICED ? column - slice : column) + unit * Product::COLUMNS, SLICED ? offset : 0, units - unit);
                    gate_wait(&shared.full[progress.at.stage], progress.at.turn);
                    const uint8_t *lo = memory + progress.at.stage * p.stage_bytes + lane / 4 * STRIDE;
                    if (unit < units) product.add(sums[i], lo, lo + 8 * STRIDE, units, unit);
                    gate_arrive(&shared.empty[progress.at.stage]);
                    progress.at.next(p.stages);
                }
            }
        }

#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int tile = first + i * gridDim.x;
            if (AT_ONCE > 1 && tile >= tiles.count) break;
            progress = finish<E, RESULT>(p, task, tiles, tile, outputs, sums[i], lane, warp, batch, progress);
        }
    }
    return progress;
}

// The same as a function of its own, whose registers are not shared out between all products that there may be.
template <typename Product, Result RESULT, bool SLICED>
__device__ __noinline__ Progress multiply_apart(const Task task, const Progress progress) {
    return multiply<half, Product, RESULT, SLICED>(shared.params, task, progress);
}

// SEQUENCES: how many of them quantised matrices are multiplied by at most: 1, 2, 4 or 8, or 0 where there are no such
// matrices.
template <typename E, int SEQUENCES> struct Multiplier {
    static constexpr bool HAS_BLOCKS = SEQUENCES > 0;

    const DecodeParams &p;
    const Meeting &meeting;
    uint8_t *x_shared;
    Progress progress;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    // Part of a norm's weights.
    static constexpr int KEPT = 4096 / 4 / THREADS;
    float4 norm_weights[KEPT];

    // Which four columns of a row are a thread's `j`th. Where there are blocks, a warp has those of a group, eight
    // neighbours a lane.
    static __device__ __forceinline__ int chunk(int thread, int j) {
        if (!HAS_BLOCKS) return thread + j * THREADS;
        return (thread / WARP + j / 2 * WARPS) * (Fixed::GROUP / 4) + thread % WARP * 2 + j % 2;
    }

    // Copies rows of E into shared memory.
    __device__ __forceinline__ void take(const void *x, int inputs) {
        const int stride = x_row_bytes(inputs), chunks = inputs / 8;
        const uint4 *from = static_cast<const uint4 *>(x);
#pragma unroll 4
        for (int i = fresh(threadIdx.x); i < p.batch * chunks; i += THREADS) {
            const int row = i / chunks;
            reinterpret_cast<uint4 *>(x_shared + row * stride)[i - row * chunks] = __ldcg(from + i);
        }
    }

    // Puts groups of rows of E into fixed point: the `first` of all, and every `step`th.
    __device__ __forceinline__ void fix(const void *x, int inputs, const Fixed &to, int first, int step) {
        constexpr int AT_ONCE = 4; // groups that a warp has asked for
        const int lane = fresh(this->lane), chunks = inputs / 8, groups = to.groups;
        const int row_step = step / groups, group_step = step % groups;
        struct Place {
            int row, group;
        };
        const auto next = [&](Place &place) {
            place.row += row_step, place.group += group_step;
            if (place.group >= groups) place.group -= groups, place.row++;
        };
        Place asked{first / groups, first % groups}, place = asked;
        uint4 taken[AT_ONCE];
        const auto ask = [&](int i) {
            const int chunk = asked.group * (Fixed::GROUP / 8) + lane;
            taken[i] = asked.row < p.batch && chunk < chunks
                           ? __ldcg(static_cast<const uint4 *>(x) + asked.row * chunks + chunk)
                           : make_uint4(0, 0, 0, 0);
            next(asked);
        };
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) ask(i);
#pragma unroll 1
        while (place.row < p.batch) {
            float numbers[AT_ONCE][8], most[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                wide8<E>(taken[i], numbers[i]);
                most[i] = Fixed::largest(numbers[i]);
                ask(i);
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                if (place.row < p.batch) to.put(lane, place.row, place.group, numbers[i], most[i]);
                next(place);
            }
        }
    }

    // Reads what `take_normed` needs of a norm's weights, which nothing has to be waited for.
    __device__ __forceinline__ void prepare(const float *norm, int inputs) {
        const int thread = fresh(threadIdx.x);
#pragma unroll
        for (int j = 0; j < KEPT; j++) {
            const int i = chunk(thread, j);
            norm_weights[j] = __ldg(reinterpret_cast<const float4 *>(norm) + min(i, inputs / 4 - 1));
        }
    }

    // Part of a row, of the same columns as a norm's weights.
    __device__ __forceinline__ void read(float4 to[KEPT], const float4 *row, int chunks, int thread) {
#pragma unroll
        for (int j = 0; j < KEPT; j++) {
            const int i = chunk(thread, j);
            to[j] = i < chunks ? __ldcg(row + i) : make_float4(0.f, 0.f, 0.f, 0.f);
        }
    }

    // Copies rows of f32, normed: x / sqrt(mean(x²) + eps) · weight. In fixed point if a matrix of blocks follows.
    __device__ __forceinline__ void take_normed(const float *x, const float *norm, int form, int inputs) {
        const int thread = fresh(threadIdx.x), warp = thread / WARP, lane = thread % WARP;
        const int stride = x_row_bytes(inputs), chunks = inputs / 4;
        const float4 *weights = reinterpret_cast<const float4 *>(norm), *from = reinterpret_cast<const float4 *>(x);
        const bool is_fixed = HAS_BLOCKS && form != DENSE;
        const Fixed fixed(x_shared, inputs, p.batch);
        float4 kept[KEPT], next[KEPT];
        read(next, from, chunks, thread);
        for (int row = 0; row < p.batch; row++, from += chunks) {
            float squares = 0.f;
#pragma unroll
            for (int j = 0; j < KEPT; j++) {
                kept[j] = next[j];
                squares += kept[j].x * kept[j].x + kept[j].y * kept[j].y + kept[j].z * kept[j].z + kept[j].w * kept[j].w;
            }
            if (row + 1 < p.batch) read(next, from + chunks, chunks, thread);
            for (int i = thread + KEPT * THREADS; i < chunks; i += THREADS) {
                const float4 v = __ldcg(from + i);
                squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
            }
            squares = sum_of<WARP>(squares);
            if (lane == 0) shared.norms[row][warp] = squares;
            meet();
            const float total = sum_of<WARPS>(shared.norms[row][lane % WARPS]);
            const float scale = rsqrtf(total / float(inputs) + p.eps);
            if (is_fixed) put_fixed(fixed, row, from, weights, chunks, kept, scale, thread);
            else put_rounded(x_shared + row * stride, from, weights, chunks, kept, scale, thread);
        }
    }

    // A row of `take_normed`, of which `kept` are the first columns, rounded to E.
    __device__ __forceinline__ void put_rounded(uint8_t *row, const float4 *from, const float4 *weights, int chunks,
                                                const float4 kept[KEPT], float scale, int thread) {
        uint2 *to = reinterpret_cast<uint2 *>(row);
        const auto put = [&](int i, float4 v, float4 w) {
            to[i] = make_uint2(narrow2<E>(v.x * scale * w.x, v.y * scale * w.y),
                               narrow2<E>(v.z * scale * w.z, v.w * scale * w.w));
        };
#pragma unroll
        for (int j = 0; j < KEPT; j++)
            if (chunk(thread, j) < chunks) put(chunk(thread, j), kept[j], norm_weights[j]);
        for (int i = thread + KEPT * THREADS; i < chunks; i += THREADS) put(i, __ldcg(from + i), __ldg(weights + i));
    }

    // The same in fixed point.
    __device__ __forceinline__ void put_fixed(const Fixed &to, int row, const float4 *from, const float4 *weights,
                                              int chunks, const float4 kept[KEPT], float scale, int thread) {
        const int warp = thread / WARP, lane = thread % WARP;
        const auto put = [&](int group, float4 v, float4 w, float4 more_v, float4 more_w) {
            const float numbers[8] = {v.x * scale * w.x,           v.y * scale * w.y,
                                      v.z * scale * w.z,           v.w * scale * w.w,
                                      more_v.x * scale * more_w.x, more_v.y * scale * more_w.y,
                                      more_v.z * scale * more_w.z, more_v.w * scale * more_w.w};
            to.put(lane, row, group, numbers, Fixed::largest(numbers));
        };
#pragma unroll
        for (int j = 0; j < KEPT; j += 2) {
            const int group = warp + j / 2 * WARPS;
            if (group < to.groups) put(group, kept[j], norm_weights[j], kept[j + 1], norm_weights[j + 1]);
        }
        for (int j = KEPT; warp + j / 2 * WARPS < to.groups; j += 2) {
            const int i = min(chunk(thread, j), chunks - 2);
            const float4 none = make_float4(0.f, 0.f, 0.f, 0.f);
            const bool is_there = chunk(thread, j) < chunks;
            put(warp + j / 2 * WARPS, is_there ? __ldcg(from + i) : none, __ldg(weights + i),
                is_there ? __ldcg(from + i + 1) : none, __ldg(weights + i + 1));
        }
    }

    // Multiplies `x`, rows of E or, with a norm, of f32, and does with the sums what RESULT says. What comes from a
    // norm is in shared memory as a whole; other activations if there is room.
    template <Result RESULT>
    __device__ __forceinline__ void product(const Matrix &matrix, int rows, int inputs, const void *x,
                                            const float *norm, const float *bias, void *out) {
        rows = fresh(rows), inputs = fresh(inputs);
        const int form = matrix.form;
        Task task{rows, inputs, x, bias, out};
        if (norm != nullptr) take_normed(static_cast<const float *>(x), norm, form, inputs);
        const bool sliced = RESULT == ADDED && is_sliced(p, form, inputs);
        if (!HAS_BLOCKS || form == DENSE) {
            if (sliced) {
                if constexpr (RESULT == ADDED)
                    progress = multiply<E, DenseProduct<E>, RESULT, true>(p, task, progress);
            } else {
                if (norm == nullptr) take(x, inputs);
                progress = multiply<E, DenseProduct<E>, RESULT, false>(p, task, progress);
            }
        } else if constexpr (HAS_BLOCKS) {
            if (sliced) {
                // All blocks put it there together.
                fix(x, inputs, Fixed(p.fixed, inputs, p.batch), blockIdx.x * WARPS + warp, gridDim.x * WARPS);
                meeting.arrive();
                meeting.wait();
                task.x = p.fixed;
                if constexpr (RESULT == ADDED) by_form<RESULT, true>(form, task);
            } else {
                if (norm == nullptr) fix(x, inputs, Fixed(x_shared, inputs, p.batch), warp, WARPS);
                by_form<RESULT, false>(form, task);
            }
        }
    }

    template <Result RESULT, bool SLICED> __device__ __forceinline__ void by_form(int form, const Task &task) {
        if (form == Q8_0_FORM) progress = multiply_apart<Q8_0Product<SEQUENCES>, RESULT, SLICED>(task, progress);
        else progress = multiply_apart<Q4_KProduct<SEQUENCES>, RESULT, SLICED>(task, progress);
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

