// What a warp adds to its sums of a piece of a tile: the products of 16 rows with the activations of up to eight
// sequences, on the tensor cores. A warp has two neighbouring units of each piece.
//
// A lane is that of rows g and g + 8 and of the columns of four lanes' part t, with g = lane / 4, t = lane % 4. In the
// instructions' B operand g is a column, in their sums t has columns 2t and 2t + 1.
//
// Quantised matrices are multiplied as whole numbers: their codes as they are, by activations in fixed point of 16
// bits, whose upper and lower bytes are two columns. That is one instruction for 32 columns of 16 rows, and no code
// becomes a float. Where there are fewer than three sequences, the columns that are left have other blocks: each
// instruction's own block is in its own columns, with zeros in all others, and one multiplication by a scale serves
// what would be four.

#pragma once

#include "forms.cuh"

// Rows of a tile.
constexpr int TILE = 16;
constexpr int MAX_BATCH = 8;

// Bytes between two rows of activations: 64 modulo 128, so that the eight lanes that are served at once, of two rows,
// find different banks.
__host__ __device__ constexpr int x_row_bytes(int inputs) { return ((inputs * 2 + 127) & ~127) + 64; }

// Columns of activations that a block holds at once where it has no room for all: whole pieces of every form.
constexpr int SLICE = 2048;

// ---------------------------------------------------------------- 16 bits

template <typename E> struct DenseProduct {
    static constexpr int FORM = DENSE, COLUMNS = Dense<E>::COLUMNS;

    // Of a tile. The two units have sums of their own, as each product waits for the one before it.
    struct Sums {
        float c[2][4];

        __device__ __forceinline__ void clear() {
#pragma unroll
            for (int i = 0; i < 4; i++) c[0][i] = c[1][i] = 0.f;
        }

        // Puts them at (sequence, row).
        __device__ __forceinline__ void store(float *to, int batch, int lane) const {
            const int g = lane / 4, t = lane % 4;
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (2 * t + i % 2 < batch) to[(2 * t + i % 2) * TILE + g + i / 2 * 8] = c[0][i] + c[1][i];
        }
    };

    static __host__ __device__ int bytes(int inputs, int batch) { return batch * x_row_bytes(inputs); }

    const int t;
    const uint8_t *from;
    uint4 x[2];

    // Of activations of so many columns, rows of E. Lanes of columns that there are no sequences for have another's:
    // nobody reads their sums.
    __device__ __forceinline__ DenseProduct(const uint8_t *x, int inputs, int batch, int lane)
        : t(lane % 4), from(x + min(lane / 4, batch - 1) * x_row_bytes(inputs) + t * 16) {}

    // Takes the activations of two units from `column` on, of which `units` are there; they are `offset` bytes further
    // on than the first ones.
    __device__ __forceinline__ void load(int column, int offset, int units) {
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (i < units) x[i] = *reinterpret_cast<const uint4 *>(from + offset + (column + i * COLUMNS) * 2);
    }

    // `lo` and `hi` are the lane's rows of a piece of `units`.
    __device__ __forceinline__ void add(Sums &sums, const uint8_t *lo, const uint8_t *hi, int units, int unit) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (unit + i >= units) break;
            const uint4 l = *reinterpret_cast<const uint4 *>(lo + (unit + i) * UNIT + t * 16);
            const uint4 h = *reinterpret_cast<const uint4 *>(hi + (unit + i) * UNIT + t * 16);
            mma<E>(sums.c[i], l.x, h.x, l.y, h.y, x[i].x, x[i].y);
            mma<E>(sums.c[i], l.z, h.z, l.w, h.w, x[i].z, x[i].w);
        }
    }
};

// ---------------------------------------------------------------- fixed point

// Activations in fixed point: whole numbers of 16 bits, with a scale for each GROUP columns of a sequence. Their error
// is some 2^-16 of a group's largest at most, less than what f16 makes of that one.
//
// Of each number the upper byte lies in one row and the lower one, with a sign too, in the next. In a row lane t has
// its eight columns of four blocks one after the other, 32 bytes.
struct Fixed {
    static constexpr int GROUP = 256;
    static constexpr float LIMIT = 32512.f; // 127 · 256: the upper byte of more would not have room.

    uint8_t *rows;  // (sequences, upper and lower bytes, row_bytes)
    int32_t *sums;  // (sequences, groups, 4, 2): of blocks of 32 columns; two that are four apart are neighbours
    float *scales;  // (sequences, groups)
    int row_bytes, groups;

    // As in Rust. A row is 16 bytes modulo 128, so that the lanes of one sequence's columns find different banks; of two
    // sequences half of them wait for the other half, and no order of blocks that avoids it was faster.
    static __host__ __device__ int row_bytes_of(int inputs) { return ((inputs + 127) & ~127) + 16; }
    static __host__ __device__ int bytes(int inputs, int batch) {
        return batch * (2 * row_bytes_of(inputs) + (inputs + GROUP - 1) / GROUP * 36);
    }

    __device__ Fixed(void *at, int inputs, int batch)
        : rows(static_cast<uint8_t *>(at)),
          sums(reinterpret_cast<int32_t *>(rows + batch * 2 * row_bytes_of(inputs))),
          scales(reinterpret_cast<float *>(sums + batch * ((inputs + GROUP - 1) / GROUP) * 8)),
          row_bytes(row_bytes_of(inputs)), groups((inputs + GROUP - 1) / GROUP) {}

    // The largest of a group, of which each lane has eight numbers, or what is not finite.
    static __device__ __forceinline__ float largest(const float x[8]) {
        float largest = fabsf(x[0]);
#pragma unroll
        for (int i = 1; i < 8; i++) asm("max.NaN.f32 %0, %0, %1;" : "+f"(largest) : "f"(fabsf(x[i])));
        // Without a sign they are in the order of whole numbers, and what is not a number is the last.
        return __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(largest)));
    }

    // A group, by a warp, of which each lane has eight neighbouring columns: zeros behind the last. What is not finite
    // makes the scale so.
    __device__ __forceinline__ void put(int lane, int sequence, int group, const float x[8], float most) const {
        const int block = lane / 4, t = lane % 4;
        const float inverse = most > 1e-30f ? __fdividef(LIMIT, most) : 0.f;
        // 1.5 · 2^23 + 128 + n has n + 128 in its lowest bits: the upper byte is that of n, rounded, and the lower
        // one what is left, but for its highest bit.
        constexpr float BIAS = 12582912.f + 128.f;
        uint32_t n[8], sum = 0;
#pragma unroll
        for (int i = 0; i < 8; i++) n[i] = __float_as_uint(__fmaf_rn(x[i], inverse, BIAS)), sum += n[i];
        int total = int(sum - 8u * __float_as_uint(BIAS));
        total += __shfl_xor_sync(~0u, total, 1);
        total += __shfl_xor_sync(~0u, total, 2);
        if (t == 0) sums[(sequence * groups + group) * 8 + block % 4 * 2 + block / 4] = total;
        // Behind 2^126 the division gives nothing.
        if (lane == 0) scales[sequence * groups + group] = most < 1e37f ? most * (1.f / LIMIT) : most * INFINITY;
        const auto bytes = [](uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t which) {
            return __byte_perm(__byte_perm(a, b, which), __byte_perm(c, d, which), 0x5410);
        };
        const auto put = [&](uint8_t *to, uint32_t which, uint32_t flipped) {
            *reinterpret_cast<uint2 *>(to) = make_uint2(bytes(n[0], n[1], n[2], n[3], which) ^ flipped,
                                                        bytes(n[4], n[5], n[6], n[7], which) ^ flipped);
        };
        if (group * GROUP + block / 4 * 128 + 16 >= row_bytes) return;
        uint8_t *row = rows + 2 * sequence * row_bytes + group * GROUP + (block / 4 * 128 + t * 32 + block % 4 * 8);
        put(row, 0x0051, 0);
        put(row + row_bytes, 0x0040, 0x80808080u);
    }
};

// ---------------------------------------------------------------- blocks of codes

// How up to SEQUENCES sequences share the eight columns: of four blocks SPAN lie side by side. The four take SETS sums,
// and eight sequences twice as many.
template <int SEQUENCES> struct Sharing {
    static constexpr int SPAN = SEQUENCES == 1 ? 4 : SEQUENCES == 2 ? 2 : 1;
    static constexpr int SETS = 4 / SPAN, HALVES = SEQUENCES == 8 ? 2 : 1;

    // Which of the side by side blocks, and which sequence of a half, a pair of columns has.
    static __device__ __forceinline__ int block_of(int pair) { return pair / SETS; }
    static __device__ __forceinline__ int sequence_of(int pair) { return pair % SETS; }
};

// Sums of a tile: of each block of four, and of what comes every four blocks behind it. They are added up in one order,
// however many sequences there are.
template <int SEQUENCES> struct BlockSums : Sharing<SEQUENCES> {
    using Sharing<SEQUENCES>::SPAN, Sharing<SEQUENCES>::SETS, Sharing<SEQUENCES>::HALVES;

    float c[HALVES][SETS][2]; // rows g and g + 8

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int half = 0; half < HALVES; half++)
#pragma unroll
            for (int set = 0; set < SETS; set++) c[half][set][0] = c[half][set][1] = 0.f;
    }

    __device__ __forceinline__ void store(float *to, int batch, int lane) const {
        const int g = lane / 4, t = lane % 4;
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
            const int sequence = half * 4 + this->sequence_of(t);
#pragma unroll
            for (int row = 0; row < 2; row++) {
                float blocks[SETS];
#pragma unroll
                for (int set = 0; set < SETS; set++) {
                    blocks[set] = c[half][set][row];
                    if (SPAN > 1) blocks[set] += __shfl_xor_sync(~0u, blocks[set], SETS);
                    if (SPAN > 2) blocks[set] += __shfl_xor_sync(~0u, blocks[set], 2);
                }
                float sum = blocks[0];
                if constexpr (SETS == 2) sum += blocks[1];
                if constexpr (SETS == 4) sum = (sum + blocks[1]) + (blocks[2] + blocks[3]);
                if (this->block_of(t) == 0 && sequence < batch) to[sequence * TILE + g + row * 8] = sum;
            }
        }
    }
};

// The sums of upper and lower bytes, as one.
__device__ __forceinline__ int whole(const int32_t c[4], int row) { return c[2 * row] * 256 + c[2 * row + 1]; }

// What both forms' products have: activations in fixed point.
template <int SEQUENCES> struct BlockProduct : Sharing<SEQUENCES> {
    using Sharing<SEQUENCES>::SPAN, Sharing<SEQUENCES>::SETS, Sharing<SEQUENCES>::HALVES;
    using Sums = BlockSums<SEQUENCES>;

    static __host__ __device__ int bytes(int inputs, int batch) { return Fixed::bytes(inputs, batch); }

    const Fixed fixed;
    const int t, pair;         // of the sums' columns, and that of the operand's
    const uint8_t *from[HALVES];
    int sequences[HALVES];     // of `t`
    int column, offset;        // of what is multiplied

    __device__ __forceinline__ BlockProduct(const uint8_t *x, int inputs, int batch, int lane)
        : fixed(const_cast<uint8_t *>(x), inputs, batch), t(lane % 4), pair(lane / 8), column(0), offset(0) {
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
            const int row = 2 * min(half * 4 + this->sequence_of(pair), batch - 1) + lane / 4 % 2;
            from[half] = fixed.rows + row * fixed.row_bytes + t * 32 + this->block_of(pair) * 8;
            sequences[half] = min(half * 4 + this->sequence_of(t), batch - 1);
        }
    }

    // The activations are taken where they are needed.
    __device__ __forceinline__ void load(int column, int offset, int) { this->column = column, this->offset = offset; }

    // The operand for block `block` of a set, of the four from `column` on: zeros in the columns of other blocks.
    __device__ __forceinline__ uint2 operand(uint2 x, int block) const {
        if (SPAN > 1 && this->block_of(pair) != block) return make_uint2(0, 0);
        return x;
    }

    // The lane's own of a set of blocks, of the four from `column` on, a multiple of 128.
    __device__ __forceinline__ uint2 activations(int half, int set, int column) const {
        return *reinterpret_cast<const uint2 *>(from[half] + offset + column + set * SPAN * 8);
    }

    __device__ __forceinline__ float scale(int half) const {
        const uint8_t *scales = reinterpret_cast<const uint8_t *>(fixed.scales) + offset;
        return reinterpret_cast<const float *>(scales)[sequences[half] * fixed.groups + column / Fixed::GROUP];
    }

    // Of a set of blocks, and of what is four behind.
    __device__ __forceinline__ int2 sums_of(int half, int set) const {
        const uint8_t *sums = reinterpret_cast<const uint8_t *>(fixed.sums) + offset;
        const int group = sequences[half] * fixed.groups + column / Fixed::GROUP;
        return reinterpret_cast<const int2 *>(sums)[group * 4 + set * SPAN + this->block_of(t)];
    }
};

// ---------------------------------------------------------------- q8_0

// The warp's two units are four blocks.
template <int SEQUENCES> struct Q8_0Product : BlockProduct<SEQUENCES> {
    static constexpr int FORM = Q8_0_FORM, COLUMNS = Q8_0::COLUMNS;
    using Base = BlockProduct<SEQUENCES>;
    using Base::Base, Base::SPAN, Base::SETS, Base::HALVES;
    using typename Base::Sums;

    __device__ __forceinline__ void add(Sums &sums, const uint8_t *lo, const uint8_t *hi, int units, int unit) const {
        const int t = this->t;
        const bool has_second = unit + 1 < units;
        uint4 l[2], h[2];
        float2 low_scales[2], high_scales[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            // What is not there has zeros: the piece before may have left anything.
            l[i] = h[i] = make_uint4(0, 0, 0, 0), low_scales[i] = high_scales[i] = make_float2(0.f, 0.f);
            if (i == 1 && !has_second) break;
            l[i] = *reinterpret_cast<const uint4 *>(lo + (unit + i) * UNIT + t * 16);
            h[i] = *reinterpret_cast<const uint4 *>(hi + (unit + i) * UNIT + t * 16);
            low_scales[i] = Q8_0::scales(lo, units, unit + i), high_scales[i] = Q8_0::scales(hi, units, unit + i);
        }
        const uint2 low[4] = {{l[0].x, l[0].y}, {l[0].z, l[0].w}, {l[1].x, l[1].y}, {l[1].z, l[1].w}};
        const uint2 high[4] = {{h[0].x, h[0].y}, {h[0].z, h[0].w}, {h[1].x, h[1].y}, {h[1].z, h[1].w}};
        const float low_of[4] = {low_scales[0].x, low_scales[0].y, low_scales[1].x, low_scales[1].y};
        const float high_of[4] = {high_scales[0].x, high_scales[0].y, high_scales[1].x, high_scales[1].y};
        const int own = this->block_of(t);
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
            const float scale = this->scale(half);
#pragma unroll
            for (int set = 0; set < SETS; set++) {
                float low_scale = low_of[set * SPAN], high_scale = high_of[set * SPAN];
#pragma unroll
                for (int i = 1; i < SPAN; i++)
                    if (own == i) low_scale = low_of[set * SPAN + i], high_scale = high_of[set * SPAN + i];
                const uint2 x = this->activations(half, set, this->column);
                int32_t c[4] = {0, 0, 0, 0};
#pragma unroll
                for (int i = 0; i < SPAN; i++) {
                    const uint2 operand = this->operand(x, i);
                    const int block = set * SPAN + i;
                    mma_s8(c, low[block].x, high[block].x, low[block].y, high[block].y, operand.x, operand.y);
                }
                float *to = sums.c[half][set];
                to[0] = __fmaf_rn(float(whole(c, 0)), __fmul_rn(low_scale, scale), to[0]);
                to[1] = __fmaf_rn(float(whole(c, 1)), __fmul_rn(high_scale, scale), to[1]);
            }
        }
    }
};

// ---------------------------------------------------------------- q4_k

// The warp's two units are one of llama.cpp's blocks of 256 columns, and there are always both. Sums over its scales
// and minima are whole numbers, too: two blocks' products with scales of six bits come to 1.97 · 10^9 at most.
template <int SEQUENCES> struct Q4_KProduct : BlockProduct<SEQUENCES> {
    static constexpr int FORM = Q4_K_FORM, COLUMNS = Q4_K::COLUMNS;
    using Base = BlockProduct<SEQUENCES>;
    using Base::Base, Base::SPAN, Base::SETS, Base::HALVES;
    using typename Base::Sums;

    __device__ __forceinline__ void add(Sums &sums, const uint8_t *lo, const uint8_t *hi, int units, int unit) const {
        const int t = this->t;
        uint32_t low[2][4], high[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint4 l = *reinterpret_cast<const uint4 *>(lo + (unit + i) * UNIT + t * 16);
            const uint4 h = *reinterpret_cast<const uint4 *>(hi + (unit + i) * UNIT + t * 16);
            low[i][0] = l.x, low[i][1] = l.y, low[i][2] = l.z, low[i][3] = l.w;
            high[i][0] = h.x, high[i][1] = h.y, high[i][2] = h.z, high[i][3] = h.w;
        }
        // Scales of four blocks, minima of the same, then those of the other unit.
        const uint4 ls = *reinterpret_cast<const uint4 *>(lo + units * UNIT + unit * 8);
        const uint4 hs = *reinterpret_cast<const uint4 *>(hi + units * UNIT + unit * 8);
        const float2 ld = Q4_K::doubles(lo, units, unit), hd = Q4_K::doubles(hi, units, unit);
        float scales[HALVES];
#pragma unroll
        for (int half = 0; half < HALVES; half++) scales[half] = this->scale(half);
#pragma unroll
        for (int set = 0; set < SETS; set++) {
            const uint32_t which = 0x4440u + set * SPAN + this->block_of(t);
            const auto byte = [&](uint32_t word) { return int(__byte_perm(word, 0, which)); };
#pragma unroll
            for (int half = 0; half < HALVES; half++) {
                int32_t c[2][4] = {};
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const uint2 x = this->activations(half, set, this->column + i * COLUMNS);
#pragma unroll
                    for (int j = 0; j < SPAN; j++) {
                        const uint2 operand = this->operand(x, j);
                        const uint32_t l = low[i][set * SPAN + j], h = high[i][set * SPAN + j];
                        mma_s8(c[i], l & 0x0f0f0f0fu, h & 0x0f0f0f0fu, l >> 4 & 0x0f0f0f0fu, h >> 4 & 0x0f0f0f0fu,
                               operand.x, operand.y);
                    }
                }
                const int2 of_x = this->sums_of(half, set);
                const auto sum = [&](float &to, int row, uint4 bytes, float2 doubles) {
                    const int products = byte(bytes.x) * whole(c[0], row) + byte(bytes.z) * whole(c[1], row);
                    const int minima = byte(bytes.y) * of_x.x + byte(bytes.w) * of_x.y;
                    const float minus = __fmul_rn(doubles.y, float(minima));
                    to = __fmaf_rn(scales[half], __fmaf_rn(doubles.x, float(products), -minus), to);
                };
                sum(sums.c[half][set][0], 0, ls, ld);
                sum(sums.c[half][set][1], 1, hs, hd);
            }
        }
    }
};
