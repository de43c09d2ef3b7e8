// 16-bit numbers, loads, and the tensor cores' product, for all kernels.
//
// E is `half` or `__nv_bfloat16` throughout. Sums are f32.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

// The threads of a warp.
constexpr int WARP = 32;

// A number of which the compiler does not know that it is the same each time. What follows from it is computed where
// it is needed, and not before a loop, for all that the loop may do, and pushed out of registers.
__device__ __forceinline__ int fresh(int x) {
    asm volatile("" : "+r"(x));
    return x;
}

// ---------------------------------------------------------------- numbers

template <typename E> __device__ __forceinline__ float wide(E x);
template <> __device__ __forceinline__ float wide<half>(half x) { return __half2float(x); }
template <> __device__ __forceinline__ float wide<__nv_bfloat16>(__nv_bfloat16 x) {
    return __bfloat162float(x);
}

template <typename E> __device__ __forceinline__ E narrow(float x);
template <> __device__ __forceinline__ half narrow<half>(float x) { return __float2half_rn(x); }
template <> __device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}

// Two numbers side by side, the first in the low half.
template <typename E> __device__ __forceinline__ uint32_t narrow2(float x, float y);
template <> __device__ __forceinline__ uint32_t narrow2<half>(float x, float y) {
    const half2 pair = __floats2half2_rn(x, y);
    return reinterpret_cast<const uint32_t &>(pair);
}
template <> __device__ __forceinline__ uint32_t narrow2<__nv_bfloat16>(float x, float y) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
    return reinterpret_cast<const uint32_t &>(pair);
}

template <typename E> __device__ __forceinline__ float2 wide2(uint32_t pair);
template <> __device__ __forceinline__ float2 wide2<half>(uint32_t pair) {
    return __half22float2(reinterpret_cast<const half2 &>(pair));
}
template <> __device__ __forceinline__ float2 wide2<__nv_bfloat16>(uint32_t pair) {
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}

// Eight numbers of 16 bytes.
template <typename E> __device__ __forceinline__ void wide8(uint4 from, float to[8]) {
    const uint32_t pairs[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 pair = wide2<E>(pairs[i]);
        to[2 * i] = pair.x;
        to[2 * i + 1] = pair.y;
    }
}

// ---------------------------------------------------------------- loads

// Weights are read once a step: they leave no trace in the first cache.
__device__ __forceinline__ uint4 load_once(const void *from) {
    uint4 x;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "l"(from));
    return x;
}

// ---------------------------------------------------------------- tensor cores

// c (16 × 8) += a (16 × 16) · b (16 × 8). Lane l holds, with g = l / 4 and t = l % 4:
// c = {(g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)};
// a = {row g, row g + 8, row g, row g + 8}, a pair each, of columns 2t and 2t + 8;
// b = pairs of column g, rows 2t and 2t + 8.
// Which of the sixteen inner places a pair has is free, as long as a and b agree.
template <typename E>
__device__ __forceinline__ void mma(float c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                    uint32_t b0, uint32_t b1);

template <>
__device__ __forceinline__ void mma<half>(float c[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                          uint32_t a3, uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#else
    // Turing has half of it at a time.
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(b0));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a2), "r"(a3), "r"(b1));
#endif
}

template <>
__device__ __forceinline__ void mma<__nv_bfloat16>(float c[4], uint32_t a0, uint32_t a1,
                                                   uint32_t a2, uint32_t a3, uint32_t b0,
                                                   uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#else
    __trap(); // Cards without bf16 are given f16.
#endif
}

// c (16 × 8) += a (16 × 32) · b (32 × 8), of whole numbers of eight bits with a sign. A lane holds of c the same
// places, of a four neighbouring numbers in place of a pair, of b as well.
__device__ __forceinline__ void mma_s8(int32_t c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                       uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#else
    __trap(); // Only steps in one launch have it, which need a newer card.
#endif
}

// The sum of `x` over the `lanes` neighbours of a lane, a power of two, in all of them.
template <int LANES> __device__ __forceinline__ float sum_of(float x) {
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
    return x;
}
