// Steps of decoders with quantised matrices, for one, two, up to four, and up to eight sequences.

#include "decode.cuh"

DECODE(blocks_1, half, 1, 8)
DECODE(blocks_1, half, 1, 16)
DECODE(blocks_2, half, 2, 8)
DECODE(blocks_2, half, 2, 16)
DECODE(blocks_4, half, 4, 8)
DECODE(blocks_4, half, 4, 16)
DECODE(blocks_8, half, 8, 8)
DECODE(blocks_8, half, 8, 16)
