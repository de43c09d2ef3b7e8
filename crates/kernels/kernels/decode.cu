// Steps of decoders whose matrices are all of 16 bits.

#include "decode.cuh"

DECODE(f16, half, 0, 4)
DECODE(f16, half, 0, 8)
DECODE(f16, half, 0, 16)
DECODE(bf16, __nv_bfloat16, 0, 4)
DECODE(bf16, __nv_bfloat16, 0, 8)
DECODE(bf16, __nv_bfloat16, 0, 16)
