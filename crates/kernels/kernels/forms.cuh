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

// ---------------------------------------------------------------- 16 bits

template <typename E> struct Dense {
    static constexpr int COLUMNS = 32; // of a unit
    static constexpr bool NEEDS_SUMS = false;

    // Bytes of a piece of `columns`.
    static __host__ __device__ constexpr int piece_bytes(int columns) { return columns * 2; }

    // Adds the products of a unit of two rows, of which a lane has `lo` and `hi`, with activations.
    static __device__ __forceinline__ void add(float c[4], const uint8_t *lo, const uint8_t *hi, int,
                                               int unit, int t, const uint4 x[1], uint2) {
        const uint4 l = *reinterpret_cast<const uint4 *>(lo + unit * UNIT + t * 16);
        const uint4 h = *reinterpret_cast<const uint4 *>(hi + unit * UNIT + t * 16);
        mma<E>(c, l.x, h.x, l.y, h.y, x[0].x, x[0].y);
        mma<E>(c, l.z, h.z, l.w, h.w, x[0].z, x[0].w);
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

    static __device__ __forceinline__ void add(float c[4], const uint8_t *lo, const uint8_t *hi,
                                               int units, int unit, int t, const uint4 x[2],
                                               uint2) {
        const uint4 l = *reinterpret_cast<const uint4 *>(lo + unit * UNIT + t * 16);
        const uint4 h = *reinterpret_cast<const uint4 *>(hi + unit * UNIT + t * 16);
        const float2 ls = scales(lo, units, unit), hs = scales(hi, units, unit);
        add_block(c, l.x, l.y, h.x, h.y, ls.x, hs.x, x[0]);
        add_block(c, l.z, l.w, h.z, h.w, ls.y, hs.y, x[1]);
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

    // Eight codes times their block's scale, as four pairs of f16, exactly: 15 · 63 has ten bits. Pair i has
    // the codes at bits 4i and 4i + 16. `scale` is the pair (scale, scale).
    static __device__ __forceinline__ void scaled(uint32_t codes, half2 scale, uint32_t to[4]) {
        const half2 sixteenth = __hmul2(scale, __half2half2(__ushort_as_half(0x2c00)));  // 1/16
        const half2 offset = __hmul2(scale, __half2half2(__ushort_as_half(0xe400)));     // -1024
        const half2 offset16 = __hmul2(scale, __half2half2(__ushort_as_half(0xd400)));   // -64
        const uint32_t upper = codes >> 8;
        // 1024 + code has the code in its low bits, 1024 + 16 · code four bits higher.
        const uint32_t biased[4] = {(codes & 0x000f000fu) | 0x64006400u, (codes & 0x00f000f0u) | 0x64006400u,
                                    (upper & 0x000f000fu) | 0x64006400u, (upper & 0x00f000f0u) | 0x64006400u};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const half2 pair = i % 2 == 0 ? __hfma2(reinterpret_cast<const half2 &>(biased[i]), scale, offset)
                                          : __hfma2(reinterpret_cast<const half2 &>(biased[i]), sixteenth, offset16);
            to[i] = reinterpret_cast<const uint32_t &>(pair);
        }
    }

    // A byte as a pair of f16 (PAIR), or two neighbouring bytes as one.
    static __device__ __forceinline__ half2 bytes_of(uint32_t word, uint32_t selector) {
        const uint32_t biased = __byte_perm(word, 0x64646464u, selector);
        return __hsub2(reinterpret_cast<const half2 &>(biased), __half2half2(__ushort_as_half(0x6400)));
    }

    static __device__ __forceinline__ uint2 scales(const uint8_t *row, int units, int unit) {
        return *reinterpret_cast<const uint2 *>(row + units * UNIT + unit * 8);
    }

    static __device__ __forceinline__ float2 doubles(const uint8_t *row, int units, int unit) {
        return __half22float2(
            *reinterpret_cast<const half2 *>(row + units * (UNIT + 8) + unit / 2 * 4));
    }

    // `sums` are those of the activations of two blocks, of column g, as f16 and what f16 leaves of them.
    static __device__ __forceinline__ void add(float c[4], const uint8_t *lo, const uint8_t *hi,
                                               int units, int unit, int t, const uint4 x[4],
                                               uint2 sums) {
        const uint4 l = *reinterpret_cast<const uint4 *>(lo + unit * UNIT + t * 16);
        const uint4 h = *reinterpret_cast<const uint4 *>(hi + unit * UNIT + t * 16);
        const uint32_t lows[4] = {l.x, l.y, l.z, l.w}, highs[4] = {h.x, h.y, h.z, h.w};
        const uint2 ls = scales(lo, units, unit), hs = scales(hi, units, unit);
        const float2 ld = doubles(lo, units, unit), hd = doubles(hi, units, unit);
        float sum[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
        for (int block = 0; block < 4; block++) {
            const uint32_t selector = 0x4040u | block | block << 8;
            uint32_t low[4], high[4];
            scaled(lows[block], bytes_of(ls.x, selector), low);
            scaled(highs[block], bytes_of(hs.x, selector), high);
            mma<half>(sum, low[0], high[0], low[1], high[1], x[block].x, x[block].y);
            mma<half>(sum, low[2], high[2], low[3], high[3], x[block].z, x[block].w);
        }
        c[0] += ld.x * sum[0], c[1] += ld.x * sum[1], c[2] += hd.x * sum[2], c[3] += hd.x * sum[3];
        // Minima times sums of activations: a product of its own, over the unit's four blocks. Lanes 0 and 1
        // of a row have two blocks each, the others nothing.
        const uint32_t pair = 0x4140u + (t & 1) * 0x0202u;
        half2 low = bytes_of(ls.y, pair), high = bytes_of(hs.y, pair);
        uint32_t a = reinterpret_cast<uint32_t &>(low), b = reinterpret_cast<uint32_t &>(high);
        if (t >= 2) a = b = 0;
        float minima[4] = {0.f, 0.f, 0.f, 0.f};
        mma<half>(minima, a, b, a, b, sums.x, sums.y);
        c[0] -= ld.y * minima[0], c[1] -= ld.y * minima[1], c[2] -= hd.y * minima[2], c[3] -= hd.y * minima[3];
    }

    static __device__ __forceinline__ float byte_of(uint32_t word, int i) {
        return float((word >> (8 * i)) & 0xffu);
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
