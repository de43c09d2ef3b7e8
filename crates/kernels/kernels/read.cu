// Reads memory and does nothing with it: how fast the card's memory is to who only reads.

#include "elements.cuh"

struct ReadParams {
    const uint4 *data;
    uint64_t count; // of 16 bytes
    uint32_t *out;  // written where the numbers are as nobody chose them, so that they are read
};

extern "C" __global__ void __launch_bounds__(512) read_memory(const __grid_constant__ ReadParams p) {
    constexpr int AT_ONCE = 8;
    const size_t stride = size_t(gridDim.x) * blockDim.x;
    size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x;
    uint32_t all = 0;
    for (; i + (AT_ONCE - 1) * stride < p.count; i += AT_ONCE * stride) {
        uint4 x[AT_ONCE];
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++) x[j] = load_once(p.data + i + j * stride);
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++) all ^= x[j].x ^ x[j].y ^ x[j].z ^ x[j].w;
    }
    for (; i < p.count; i += stride) {
        const uint4 x = load_once(p.data + i);
        all ^= x.x ^ x.y ^ x.z ^ x.w;
    }
    if (all == 0x9e3779b9u) *p.out = all;
}
