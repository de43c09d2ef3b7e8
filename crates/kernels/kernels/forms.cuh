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

    // Bytes of a piece of `columns`.
    static __host__ __device__ constexpr int piece_bytes(int columns) { return columns * 2; }

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

    static __host__ __device__ constexpr int piece_bytes(int columns) {
        return (columns + columns / 16 + 15) & ~15;
    }

    static __device__ __forceinline__ float2 scales(const uint8_t *row, int units, int unit) {
        return __half22float2(*reinterpret_cast<const half2 *>(row + units * UNIT + unit * 4));
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

// A unit is four blocks of 32 columns: a lane has a word of eight codes of each, the first four in the
// lower halves of its bytes. Behind a piece's codes come eight bytes a unit, four scales and four minima, and then what these are multiplied by, two f16
// for two units.
struct Q4_K {
    static constexpr int COLUMNS = 128;

    static __host__ __device__ constexpr int piece_bytes(int columns) {
        return (columns / 2 + columns / 16 + columns / 64 + 15) & ~15;
    }

    // Byte `i` of a word: 2^23 + byte has the byte in its lowest bits.
    static __device__ __forceinline__ float byte_of(uint32_t word, int i) {
        return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440 + i)) - 8388608.f;
    }

    static __device__ __forceinline__ uint2 scales(const uint8_t *row, int units, int unit) {
        return *reinterpret_cast<const uint2 *>(row + units * UNIT + unit * 8);
    }

    static __device__ __forceinline__ float2 doubles(const uint8_t *row, int units, int unit) {
        return __half22float2(
            *reinterpret_cast<const half2 *>(row + units * (UNIT + 8) + unit / 2 * 4));
    }

    static __device__ __forceinline__ void decode(float to[8], const uint8_t *row, int units,
                                                  int unit, int block, int t) {
        const uint32_t word = *reinterpret_cast<const uint32_t *>(row + unit * UNIT + t * 16 + block * 4);
        const uint2 bytes = scales(row, units, unit);
        const float2 both = doubles(row, units, unit);
        const float scale = both.x * byte_of(bytes.x, block), minimum = both.y * byte_of(bytes.y, block);
#pragma unroll
        for (int i = 0; i < 8; i++)
            to[i] = scale * float((word >> (8 * (i % 4) + 4 * (i / 4))) & 0xfu) - minimum;
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
