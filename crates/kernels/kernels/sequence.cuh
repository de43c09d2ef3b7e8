// A sequence as the card sees it. The host fills it in; a step's last kernel moves it on.

#pragma once

#include <stdint.h>

struct Sequence {
    uint64_t cache;   // E (layers, 2, num_key_value_heads, capacity, head_dim): keys, then values
    int32_t capacity; // positions that there is room for
    int32_t length;   // positions that are held
    uint32_t token;   // the one that is to run next
    int32_t unused;
};
