// The forms that a matrix of weights has on the card.
//
// A row of `Dense` is as a checkpoint has it. In the other forms a row is a sequence of pieces, each a
// kilobyte of codes and then their scales (src/forms.rs parts llama.cpp's blocks so, without a bit
// lost), so that one copy brings both. In all of them a unit of 64 bytes of codes belongs to four
// lanes, 16 bytes each, and lane t's numbers of 32 neighbouring columns are columns 8t to 8t + 7: one
// way to read activations serves all.

#pragma once

#include "elements.cuh"

enum FormOf : int32_t { DENSE = 0, Q8_0_FORM = 1, Q4_K_FORM = 2 };

// A matrix of (rows, inputs).
struct Matrix {
    const uint8_t *data;
    int32_t row_bytes; // a multiple of 16
    int32_t form;
};

// Bytes of codes of a whole piece.
constexpr int PIECE = 1024;
// Bytes of codes of a unit.
constexpr int UNIT = 64;

// What Q4_K needs of activations, of each block of 32 columns.
struct BlockSums {
    // (blocks, pairs of sequences): what the codes' offsets come to, of two sequences, twice and negative, as a
    // product begins with it.
    float4 *offsets;
    // (sequences, blocks / 2): the sums of two blocks, as f16 and what f16 leaves of them.
    uint2 *sums;
    int pairs, blocks;

    // As in Rust.
    static __host__ __device__ int bytes(int inputs, int batch) {
        return inputs / 2 * ((batch + 1) / 2) + inputs / 8 * batch;
    }

    __device__ BlockSums(uint8_t *at, int inputs, int batch)
        : offsets(reinterpret_cast<float4 *>(at)),
          sums(reinterpret_cast<uint2 *>(at + inputs / 2 * ((batch + 1) / 2))), pairs((batch + 1) / 2),
          blocks(inputs / 32) {}

    __device__ void put(int block, int sequence, float sum, float offset) const {
        float *offsets_of_pair = reinterpret_cast<float *>(offsets + block * pairs + sequence / 2) + sequence % 2;
        offsets_of_pair[0] = offsets_of_pair[2] = -offset;
        half *two = reinterpret_cast<half *>(sums + sequence * (blocks / 2) + block / 2) + block % 2;
        two[0] = __float2half_rn(sum);
        two[2] = __float2half_rn(sum - __half2float(two[0]));
    }
};

// ---------------------------------------------------------------- 16 bits

template <typename E> struct Dense {
    static constexpr int COLUMNS = 32; // of a unit
    static constexpr bool NEEDS_SUMS = false;

    // Bytes of a piece of `columns`.
    static __host__ __device__ constexpr int piece_bytes(int columns) { return columns * 2; }

    // Adds the products of two neighbouring units of two rows, of which a lane has `lo` and `hi`, with activations;
    // the second unit may be missing. The two have sums of their own, as each product waits for the one before it.
    static __device__ __forceinline__ void add(float c[2][4], const uint8_t *lo, const uint8_t *hi, int units,
                                               int unit, int t, const uint4 x[2][1], const BlockSums &, int, int) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (unit + i >= units) break;
            const uint4 l = *reinterpret_cast<const uint4 *>(lo + (unit + i) * UNIT + t * 16);
            const uint4 h = *reinterpret_cast<const uint4 *>(hi + (unit + i) * UNIT + t * 16);
            mma<E>(c[i], l.x, h.x, l.y, h.y, x[i][0].x, x[i][0].y);
            mma<E>(c[i], l.z, h.z, l.w, h.w, x[i][0].z, x[i][0].w);
        }
    }

    // The numbers of a row's columns 8t to 8t + 7 of 32 columns in a unit.
    static __device__ __forceinline__ void decode(float to[8], const uint8_t *row, int, int unit,
                                                  int, int t) {
        wide8<E>(*reinterpret_cast<const uint4 *>(row + unit * UNIT + t * 16), to);
    }
};

// ---------------------------------------------------------------- q8_0

// A unit is two blocks of 32 columns: a lane has eight codes of the one and eight of the other. Behind a
// piece's codes come two scales a unit.
struct Q8_0 {
    static constexpr int COLUMNS = 64;
    static constexpr bool NEEDS_SUMS = false;

    static __host__ __device__ constexpr int piece_bytes(int columns) {
        return (columns + columns / 16 + 15) & ~15;
    }

    // Four codes with a sign as two pairs of f16: 1024 + 128 + code has the code in its low bits.
    static __device__ __forceinline__ void pairs(uint32_t codes, uint32_t to[2]) {
        const uint32_t biased = codes ^ 0x80808080u;
        const half2 offset = __half2half2(__ushort_as_half(0x6480)); // 1152
        const uint32_t low = __byte_perm(biased, 0x64646464u, 0x4140);
        const uint32_t high = __byte_perm(biased, 0x64646464u, 0x4342);
        const half2 a = __hsub2(reinterpret_cast<const half2 &>(low), offset);
        const half2 b = __hsub2(reinterpret_cast<const half2 &>(high), offset);
        to[0] = reinterpret_cast<const uint32_t &>(a);
        to[1] = reinterpret_cast<const uint32_t &>(b);
    }

    static __device__ __forceinline__ void add_block(float c[4], uint32_t lo0, uint32_t lo1,
                                                     uint32_t hi0, uint32_t hi1, float lo_scale,
                                                     float hi_scale, uint4 x) {
        uint32_t lo[4], hi[4];
        pairs(lo0, lo), pairs(lo1, lo + 2), pairs(hi0, hi), pairs(hi1, hi + 2);
        float sum[4] = {0.f, 0.f, 0.f, 0.f};
        mma<half>(sum, lo[0], hi[0], lo[1], hi[1], x.x, x.y);
        mma<half>(sum, lo[2], hi[2], lo[3], hi[3], x.z, x.w);
        c[0] += lo_scale * sum[0], c[1] += lo_scale * sum[1];
        c[2] += hi_scale * sum[2], c[3] += hi_scale * sum[3];
    }

    static __device__ __forceinline__ float2 scales(const uint8_t *row, int units, int unit) {
        return __half22float2(*reinterpret_cast<const half2 *>(row + units * UNIT + unit * 4));
    }

    static __device__ __forceinline__ void add(float c[2][4], const uint8_t *lo, const uint8_t *hi, int units,
                                               int unit, int t, const uint4 x[2][2], const BlockSums &, int, int) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (unit + i >= units) break;
            const uint4 l = *reinterpret_cast<const uint4 *>(lo + (unit + i) * UNIT + t * 16);
            const uint4 h = *reinterpret_cast<const uint4 *>(hi + (unit + i) * UNIT + t * 16);
            const float2 ls = scales(lo, units, unit + i), hs = scales(hi, units, unit + i);
            add_block(c[i], l.x, l.y, h.x, h.y, ls.x, hs.x, x[i][0]);
            add_block(c[i], l.z, l.w, h.z, h.w, ls.y, hs.y, x[i][1]);
        }
    }

    static __device__ __forceinline__ void decode(float to[8], const uint8_t *row, int units,
                                                  int unit, int block, int t) {
        const uint2 words = *reinterpret_cast<const uint2 *>(row + unit * UNIT + t * 16 + block * 8);
        const float2 both = scales(row, units, unit);
        const float scale = block == 0 ? both.x : both.y;
#pragma unroll
        for (int i = 0; i < 8; i++)
            to[i] = scale * float(int8_t((i < 4 ? words.x : words.y) >> (8 * (i % 4))));
    }
};

// ---------------------------------------------------------------- q4_k

// A unit is four blocks of 32 columns: a lane has a word of eight codes of each. Behind a piece's codes
// come eight bytes a unit, four scales and four minima, and then what these are multiplied by, two f16
// for two units.
struct Q4_K {
    static constexpr int COLUMNS = 128;
    static constexpr bool NEEDS_SUMS = true;

    static __host__ __device__ constexpr int piece_bytes(int columns) {
        return (columns / 2 + columns / 16 + columns / 64 + 15) & ~15;
    }

    // What is added to a code in the first and third pair of eight, and in the second and fourth.
    static constexpr float FIRST_OFFSET = 1024.f, SECOND_OFFSET = 64.f;

    // Eight codes as four pairs of f16, with offsets: 1024 + code has the code in its lowest bits, 64 + code four bits
    // higher. Pair i has the codes at bits 4i and 4i + 16.
    static __device__ __forceinline__ void pairs(uint32_t codes, uint32_t to[4]) {
        const uint32_t upper = codes >> 8;
        to[0] = masked(codes, 0x000f000fu, 0x64006400u), to[1] = masked(codes, 0x00f000f0u, 0x54005400u);
        to[2] = masked(upper, 0x000f000fu, 0x64006400u), to[3] = masked(upper, 0x00f000f0u, 0x54005400u);
    }

    // x & mask | bits, which is one instruction where it is asked for as one.
    static __device__ __forceinline__ uint32_t masked(uint32_t x, uint32_t mask, uint32_t bits) {
        uint32_t y;
        asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(y) : "r"(x), "r"(mask), "r"(bits));
        return y;
    }

    // Byte `i` of a word: 2^23 + byte has the byte in its lowest bits.
    static __device__ __forceinline__ float byte_of(uint32_t word, int i) {
        return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440 + i)) - 8388608.f;
    }

    // Two neighbouring bytes of a word as f16, in the same way.
    static __device__ __forceinline__ uint32_t two_bytes_of(uint32_t word, uint32_t first) {
        const uint32_t biased = __byte_perm(word, 0x64646464u, 0x4140 + first * 0x0101);
        const half2 pair = __hsub2(reinterpret_cast<const half2 &>(biased), __half2half2(__ushort_as_half(0x6400)));
        return reinterpret_cast<const uint32_t &>(pair);
    }

    static __device__ __forceinline__ uint2 scales(const uint8_t *row, int units, int unit) {
        return *reinterpret_cast<const uint2 *>(row + units * UNIT + unit * 8);
    }

    static __device__ __forceinline__ float2 doubles(const uint8_t *row, int units, int unit) {
        return __half22float2(
            *reinterpret_cast<const half2 *>(row + units * (UNIT + 8) + unit / 2 * 4));
    }

    // `block` is the first unit's first block of the row, `sequence` that of column g. The two units of a warp belong to
    // one of llama.cpp's blocks, and there are always both.
    static __device__ __forceinline__ void add(float c[2][4], const uint8_t *lo, const uint8_t *hi, int units, int unit,
                                               int t, const uint4 x[2][4], const BlockSums &of, int block, int sequence) {
        const uint4 ls = *reinterpret_cast<const uint4 *>(lo + units * UNIT + unit * 8);
        const uint4 hs = *reinterpret_cast<const uint4 *>(hi + units * UNIT + unit * 8);
        const float2 ld = doubles(lo, units, unit), hd = doubles(hi, units, unit);
        const float4 *offsets = of.offsets + block * of.pairs + min(t, of.pairs - 1);
        float sum[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint4 l = *reinterpret_cast<const uint4 *>(lo + (unit + i) * UNIT + t * 16);
            const uint4 h = *reinterpret_cast<const uint4 *>(hi + (unit + i) * UNIT + t * 16);
            const uint32_t lows[4] = {l.x, l.y, l.z, l.w}, highs[4] = {h.x, h.y, h.z, h.w};
#pragma unroll
            for (int j = 0; j < 4; j++) {
                uint32_t low[4], high[4];
                pairs(lows[j], low), pairs(highs[j], high);
                const float4 offset = offsets[(i * 4 + j) * of.pairs];
                float product[4] = {offset.x, offset.y, offset.z, offset.w};
                mma<half>(product, low[0], high[0], low[1], high[1], x[i][j].x, x[i][j].y);
                mma<half>(product, low[2], high[2], low[3], high[3], x[i][j].z, x[i][j].w);
                const float low_scale = byte_of(i == 0 ? ls.x : ls.z, j), high_scale = byte_of(i == 0 ? hs.x : hs.z, j);
                sum[0] += low_scale * product[0], sum[1] += low_scale * product[1];
                sum[2] += high_scale * product[2], sum[3] += high_scale * product[3];
            }
        }
        // Minima times sums of activations: a product of its own, over the eight blocks. A lane has two of them.
        const uint2 sums = of.sums[sequence * (of.blocks / 2) + block / 2 + t];
        const uint32_t low = two_bytes_of(t < 2 ? ls.y : ls.w, t % 2 * 2);
        const uint32_t high = two_bytes_of(t < 2 ? hs.y : hs.w, t % 2 * 2);
        float minima[4] = {0.f, 0.f, 0.f, 0.f};
        mma<half>(minima, low, high, low, high, sums.x, sums.y);
        c[0][0] += ld.x * sum[0] - ld.y * minima[0], c[0][1] += ld.x * sum[1] - ld.y * minima[1];
        c[0][2] += hd.x * sum[2] - hd.y * minima[2], c[0][3] += hd.x * sum[3] - hd.y * minima[3];
    }

    static __device__ __forceinline__ void decode(float to[8], const uint8_t *row, int units,
                                                  int unit, int block, int t) {
        const uint32_t word = *reinterpret_cast<const uint32_t *>(row + unit * UNIT + t * 16 + block * 4);
        const uint2 bytes = scales(row, units, unit);
        const float2 both = doubles(row, units, unit);
        const float scale = both.x * byte_of(bytes.x, block), minimum = both.y * byte_of(bytes.y, block);
#pragma unroll
        for (int i = 0; i < 8; i++)
            to[i] = scale * float((word >> (4 * (i / 2) + 16 * (i % 2))) & 0xfu) - minimum;
    }
};

// ---------------------------------------------------------------- any of them

// Columns of a whole piece.
__device__ __forceinline__ int piece_columns(int form) {
    return PIECE / UNIT * (form == DENSE ? 32 : form == Q8_0_FORM ? 64 : 128);
}

// Bytes of a piece of `columns`.
__device__ __forceinline__ int piece_bytes(int form, int columns) {
    return form == DENSE       ? Dense<half>::piece_bytes(columns)
           : form == Q8_0_FORM ? Q8_0::piece_bytes(columns)
                               : Q4_K::piece_bytes(columns);
}
