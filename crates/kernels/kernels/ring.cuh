// A ring of stages in shared memory, which one warp fills from global memory and the others read.
//
// The copy engine, which Hopper has first, moves a stage's rows and says when they are there: the ring is filled as fast
// as its readers let go of stages, whatever else they wait for. What readers themselves ask for comes by cells.

#pragma once

#include "elements.cuh"

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

struct Gate {
    uint64_t word;
};

__device__ __forceinline__ uint32_t shared_address(const void *p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void gate_init(Gate *gate, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(gate)), "r"(arrivals));
}

__device__ __forceinline__ void gate_arrive(Gate *gate) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(gate)) : "memory");
}

// Arrives, and says how many bytes the copy engine will bring.
__device__ __forceinline__ void gate_expect(Gate *gate, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(gate)),
                 "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void gate_wait(Gate *gate, uint32_t parity) {
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@done bra gone;\n"
                 "bra again;\n"
                 "gone:\n"
                 "}" ::"r"(shared_address(gate)),
                 "r"(parity)
                 : "memory");
}

// Copies `bytes`, a multiple of 16, which `gate` was told of; they are read once, and leave first.
__device__ __forceinline__ void copy_async(void *to, const void *from, uint32_t bytes, Gate *gate) {
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1], %2, [%3], %4;" ::"r"(shared_address(to)),
                 "l"(from), "r"(bytes), "r"(shared_address(gate)), "l"(policy)
                 : "memory");
}

// Copies BYTES, 4 or 16, which a thread waits for with all that it asked for before.
template <int BYTES> __device__ __forceinline__ void copy_cell(void *to, const void *from) {
    if constexpr (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(to)), "l"(from) : "memory");
}

__device__ __forceinline__ void wait_for_cells() { asm volatile("cp.async.wait_all;" ::: "memory"); }

#endif
