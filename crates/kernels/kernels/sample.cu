// The next token of rows of logits, drawn as `sampling.rs` of `infer` draws it.
//
// A cluster of eight blocks has a row, and each block an eighth of it in shared memory. Candidates stand
// in order, best first, and of equal ones the smaller id first. What is kept is the first of them, up to a
// bound, and the draw falls on one of them: all are places where a sum over candidates in order passes some
// number. Such a place is found without sorting the row: weights are summed by bins of the order, and only
// the bin where the number is passed is sorted, or split into bins again where it has too many candidates.
//
// Weights are e^s as whole numbers of some 2^-47, so that a sum is the same in whatever order it is made,
// and places are found exactly. A logit that is smaller than the best by 33 times the temperature weighs
// nothing.

#include <float.h>
#include <math_constants.h>
#include <stdint.h>

constexpr int WARP = 32;
constexpr int THREADS = 1024;
constexpr int WARPS = THREADS / WARP;
constexpr int BLOCKS = 8; // of a cluster
constexpr int MAX_ROWS = 8;
// One a thread, and what a block sorts: the same.
constexpr int BINS = THREADS;
constexpr int LIST = THREADS;
// A difference of logits over the temperature behind which bins end.
constexpr float MAX_SPAN = 40;

static_assert(WARPS == WARP, "the warps' results are those of one warp");
static_assert(BINS % BLOCKS == 0 && WARP % BLOCKS == 0, "a thread has a block's part of a bin");

// A token's mark: how often it was generated, and two bits.
constexpr uint32_t IN_PROMPT = 1u << 31;
constexpr uint32_t SUPPRESSED = 1u << 30;
constexpr uint32_t COUNT = SUPPRESSED - 1;

struct Bias {
    uint32_t id;
    float bias;
};

struct Row {
    uint32_t *marks;     // (vocab), or none
    const Bias *biases;  // by id; of equal ids in the order in which they are added
    double temperature;  // 0: the best
    double draw;         // from 0 to 1
    double top_p;        // 1: all
    double typical_p;    // 1: all
    double presence, frequency;
    uint32_t top_k;      // 0: all
    uint32_t lowest;     // the bits of the lowest s that min-p keeps; all ones: all
    uint32_t num_biases;
    float repetition;
};

struct Choice {
    uint32_t token;
    uint32_t is_finite; // whether the row was; if not, the token is 0
    double logprob;     // by the logits as they were
};

struct SampleParams {
    const float *logits; // (rows, vocab)
    Choice *choices;     // (rows), in memory of the host
    uint32_t *tokens;    // (rows)
    int32_t vocab;
    int32_t slice;       // what a block has of a row
    double unit;         // the weight of the best, as a whole number
    int32_t has_logprob;
    int32_t unused;
    Row rows[MAX_ROWS];
};

static_assert(sizeof(Row) == 80 && sizeof(Choice) == 16 && sizeof(SampleParams) == 688, "as in sample.rs");

// ---------------------------------------------------------------- a cluster

struct Sum {
    uint64_t mass, count;
    __device__ void operator+=(Sum other) { mass += other.mass, count += other.count; }
};

// Where a sum passes some number.
struct Place {
    uint64_t key, through; // a candidate's, and the sum up to and with it
};

struct Totals {
    uint64_t mass[BINS];  // of the bin and all before it
    uint32_t count[BINS]; // the same
};

struct Shared {
    uint32_t low[BINS], high[BINS], count[BINS]; // this block's: masses' halves
    Totals coarse, fine;                         // the cluster's
    uint64_t list[LIST];
    uint4 warps[WARPS];
    uint4 blocks[2][BLOCKS];
    Place found;
    uint64_t before;
    uint32_t num_listed, bin;
};

extern __shared__ float slice[]; // logits, then (logit - best) / temperature; -inf: out

struct Group {
    Shared &shared;
    const int rank, held, first; // the block's number, what it has of the row, and the first of that
    const int slice_len;
    const double unit;
    int turn;
};

__device__ __forceinline__ void meet() {
    __cluster_barrier_arrive();
    __cluster_barrier_wait();
}

// The same place of another block's shared memory.
template <typename T> __device__ __forceinline__ T *of(T *mine, int rank) {
    return static_cast<T *>(__cluster_map_shared_rank(mine, rank));
}

// `shuffled` of each word of x.
template <typename T, typename F> __device__ __forceinline__ T by_words(T x, F shuffled) {
    static_assert(sizeof(T) % 4 == 0, "words");
    uint32_t words[sizeof(T) / 4];
    memcpy(words, &x, sizeof(T));
#pragma unroll
    for (uint32_t &word : words) word = shuffled(word);
    memcpy(&x, words, sizeof(T));
    return x;
}

template <typename T> __device__ __forceinline__ T across(T x, int mask) {
    return by_words(x, [=](uint32_t word) { return __shfl_xor_sync(~0u, word, mask); });
}

template <typename T> __device__ __forceinline__ T from_before(T x, int step) {
    return by_words(x, [=](uint32_t word) { return __shfl_up_sync(~0u, word, step); });
}

// `both` of all threads' x, in all of them; it must not matter in which order.
template <typename T, typename F> __device__ T over_cluster(Group &group, T x, F both) {
    static_assert(sizeof(T) <= sizeof(uint4), "there is room for");
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    T *warps = reinterpret_cast<T *>(group.shared.warps);
    // Blocks write to each other's: what came before may still be read there.
    T *blocks = reinterpret_cast<T *>(group.shared.blocks[group.turn]);
    group.turn ^= 1;
    for (int step = WARP / 2; step > 0; step /= 2) x = both(x, across(x, step));
    __syncthreads();
    if (lane == 0) warps[warp] = x;
    __syncthreads();
    if (warp == 0) {
        x = warps[lane];
        for (int step = WARP / 2; step > 0; step /= 2) x = both(x, across(x, step));
        if (lane < BLOCKS) of(blocks, lane)[group.rank] = x;
    }
    meet();
    x = blocks[0];
    for (int i = 1; i < BLOCKS; i++) x = both(x, blocks[i]);
    return x;
}

// The sum of x over this thread and those before it.
template <typename T> __device__ T sum_through(Shared &shared, T x) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    T *warps = reinterpret_cast<T *>(shared.warps);
    const auto within = [lane](T x) {
        for (int step = 1; step < WARP; step *= 2) {
            const T before = from_before(x, step);
            if (lane >= step) x += before;
        }
        return x;
    };
    x = within(x);
    __syncthreads();
    if (lane == WARP - 1) warps[warp] = x;
    __syncthreads();
    if (warp == 0) {
        const T all = within(warps[lane]);
        warps[lane] = all;
    }
    __syncthreads();
    if (warp > 0) x += warps[warp - 1];
    return x;
}

// The keys of a block's threads, in order.
__device__ uint64_t sorted(Shared &shared, uint64_t key, int count) {
    const int thread = threadIdx.x;
    for (int size = 2; size < 2 * count; size *= 2) {
        for (int step = size / 2; step > 0; step /= 2) {
            uint64_t other;
            if (step < WARP) {
                other = across(key, step);
            } else {
                __syncthreads();
                shared.list[thread] = key;
                __syncthreads();
                other = shared.list[thread ^ step];
            }
            const bool smaller = ((thread & size) == 0) == ((thread & step) == 0);
            key = smaller == (key < other) ? key : other;
        }
    }
    return key;
}

// ---------------------------------------------------------------- orders

// Best first; or, where `is_typical`, by how far the information is from the entropy.
struct Order {
    bool is_typical;
    float scale;      // bins in a unit of place
    double log_sum;   // the logarithm of the sum of e^s
    double entropy;

    // Its bits, as those of the sign and of s, are in the order of numbers from 0 on.
    __device__ float distance(float s) const { return float(fabs(log_sum - double(s) - entropy)); }
    __device__ float place(float s) const { return is_typical ? distance(s) : fabsf(s); }
    __device__ int bin(float s) const { return int(fminf(place(s) * scale, BINS - 1)); }
    // +0 is before -0, as in Rust's `total_cmp`.
    __device__ uint64_t key(float s, uint32_t id) const {
        return uint64_t(__float_as_uint(is_typical ? distance(s) : s)) << 32 | id;
    }
};

__device__ __forceinline__ float scale_of(float span) { return span > 1e-30f ? (BINS - 1) / span : 0; }

__device__ __forceinline__ uint64_t weight(const Group &group, float s) {
    return __double2ull_rn(exp(double(s)) * group.unit);
}

// Sums weights and counts by bins, which are negative for what is out, and then over bins.
template <typename F> __device__ void sum_bins(Group &group, Totals &to, F bin_of) {
    Shared &shared = group.shared;
    const int thread = threadIdx.x;
    shared.low[thread] = shared.high[thread] = shared.count[thread] = 0;
    __syncthreads();
    for (int i = thread; i < group.held; i += THREADS) {
        const int bin = bin_of(i);
        const uint64_t mass = bin < 0 ? 0 : weight(group, slice[i]);
        if (mass == 0) continue;
        const uint32_t low = uint32_t(mass), before = atomicAdd(&shared.low[bin], low);
        atomicAdd(&shared.high[bin], uint32_t(mass >> 32) + (before + low < low));
        atomicAdd(&shared.count[bin], 1);
    }
    meet();
    const int bin = group.rank * (BINS / BLOCKS) + thread / BLOCKS, block = thread % BLOCKS;
    uint64_t mass = (uint64_t(of(shared.high, block)[bin]) << 32) + of(shared.low, block)[bin];
    uint32_t count = of(shared.count, block)[bin];
    for (int step = BLOCKS / 2; step > 0; step /= 2) {
        mass += across(mass, step);
        count += across(count, step);
    }
    of(&to, block)->mass[bin] = mass;
    of(&to, block)->count[bin] = count;
    meet();
    const Sum through = sum_through(shared, Sum{to.mass[thread], to.count[thread]});
    to.mass[thread] = through.mass;
    to.count[thread] = uint32_t(through.count);
    __syncthreads();
}

// The bin whose sum, behind `before`, passes `target`, and its count; `before` becomes what is before it.
__device__ int passing_bin(Shared &shared, const Totals &totals, bool by_count, uint64_t target,
                           uint64_t &before, uint32_t &count) {
    const int thread = threadIdx.x;
    const auto through = [&](int bin) {
        return before + (bin < 0 ? 0 : by_count ? totals.count[bin] : totals.mass[bin]);
    };
    if (through(thread - 1) <= target && target < through(thread)) {
        shared.bin = thread;
        shared.before = through(thread - 1);
    }
    __syncthreads();
    const int bin = shared.bin;
    before = shared.before;
    count = totals.count[bin] - (bin > 0 ? totals.count[bin - 1] : 0);
    return bin;
}

struct Ends {
    uint64_t low, high;
};

// The candidate with which the sum of weights, or the count, passes `target`; `coarse` has the sums by
// bins of `order`.
__device__ Place passing(Group &group, const Order &order, bool by_count, uint64_t target) {
    Shared &shared = group.shared;
    const int thread = threadIdx.x;
    uint64_t before = 0;
    uint32_t count;
    const int bin = passing_bin(shared, shared.coarse, by_count, target, before, count);
    Ends ends = {0, ~uint64_t(0)};
    // All ones for what is not there.
    const auto key_of = [&](int i) {
        const float s = slice[i];
        if (order.bin(s) != bin) return ~uint64_t(0);
        const uint64_t key = order.key(s, group.first + i);
        return ends.low <= key && key <= ends.high ? key : ~uint64_t(0);
    };
    if (count > LIST) {
        Ends own = {~uint64_t(0), 0};
        for (int i = thread; i < group.held; i += THREADS) {
            const uint64_t key = key_of(i);
            if (key == ~uint64_t(0) || weight(group, slice[i]) == 0) continue;
            own = {min(own.low, key), max(own.high, key)};
        }
        ends = over_cluster(group, own, [](Ends a, Ends b) {
            return Ends{min(a.low, b.low), max(a.high, b.high)};
        });
        while (count > LIST) {
            // Keys are all different: a shift of 0 leaves one.
            const int bits = 64 - __clzll(ends.high - ends.low), shift = max(0, bits - 10);
            sum_bins(group, shared.fine, [&](int i) {
                const uint64_t key = key_of(i);
                return key == ~uint64_t(0) ? -1 : int((key - ends.low) >> shift);
            });
            const int part = passing_bin(shared, shared.fine, by_count, target, before, count);
            const uint64_t low = ends.low + (uint64_t(part) << shift);
            ends = {low, min(ends.high, low + ((uint64_t(1) << shift) - 1))};
        }
    }
    for (int i = thread; i < group.held; i += THREADS) {
        const uint64_t key = key_of(i);
        if (key == ~uint64_t(0) || weight(group, slice[i]) == 0) continue;
        of(shared.list, 0)[atomicAdd(of(&shared.num_listed, 0), 1)] = key;
    }
    meet();
    if (group.rank == 0) {
        const int num_listed = shared.num_listed;
        uint64_t key = thread < num_listed ? shared.list[thread] : ~uint64_t(0);
        key = sorted(shared, key, num_listed);
        uint64_t own = 0;
        if (thread < num_listed) {
            const int id = int(uint32_t(key));
            const float s = of(slice, id / group.slice_len)[id % group.slice_len];
            own = by_count ? 1 : weight(group, s);
        }
        const uint64_t through = before + sum_through(shared, own);
        if (through - own <= target && target < through) {
            for (int block = 0; block < BLOCKS; block++) *of(&shared.found, block) = {key, through};
        }
        if (thread == 0) shared.num_listed = 0;
    }
    meet();
    return shared.found;
}

// The sum of weights up to and with the candidate whose key is `bound`; best first.
__device__ uint64_t mass_through(Group &group, const Order &order, uint64_t bound) {
    const int bin = order.bin(__uint_as_float(uint32_t(bound >> 32)));
    uint64_t mass = 0;
    for (int i = threadIdx.x; i < group.held; i += THREADS) {
        const float s = slice[i];
        if (order.bin(s) == bin && order.key(s, group.first + i) <= bound) mass += weight(group, s);
    }
    mass = over_cluster(group, mass, [](uint64_t a, uint64_t b) { return a + b; });
    return mass + (bin > 0 ? group.shared.coarse.mass[bin - 1] : 0);
}

// ---------------------------------------------------------------- a row

struct Found {
    uint64_t best;  // the best token's key: the least
    float low;      // the lowest logit of those that are not suppressed
    float high;     // the highest as it was; infinite where a logit is not finite
};

// In the order in which logits are better, and of equal ones the first; -0 is 0.
__device__ __forceinline__ uint64_t best_key(float logit, uint32_t id) {
    const uint32_t bits = __float_as_uint(logit + 0.0f);
    return uint64_t(bits >> 31 ? bits : ~(bits | 1u << 31)) << 32 | id;
}

__device__ __forceinline__ float best_logit(uint64_t key) {
    const uint32_t bits = uint32_t(key >> 32);
    return __uint_as_float(bits >> 31 ? bits : ~(bits | 1u << 31));
}

// Reads the block's slice; biases, penalties, suppressed tokens.
__device__ Found read(Group &group, const Row &row, const float *logits) {
    Found found = {~uint64_t(0), CUDART_INF_F, -CUDART_INF_F};
    __cluster_barrier_arrive();
    for (int i = threadIdx.x; i < group.held; i += THREADS) {
        const float logit = logits[group.first + i];
        slice[i] = logit;
        found.high = fmaxf(found.high, isfinite(logit) ? logit : CUDART_INF_F);
    }
    if (row.num_biases > 0) {
        __syncthreads();
        for (uint32_t j = threadIdx.x; j < row.num_biases; j += THREADS) {
            const uint32_t id = row.biases[j].id, i = id - group.first;
            const bool is_first = j == 0 || row.biases[j - 1].id != id;
            if (!is_first || id < uint32_t(group.first) || i >= uint32_t(group.held)) continue;
            for (uint32_t k = j; k < row.num_biases && row.biases[k].id == id; k++) {
                slice[i] = __fadd_rn(slice[i], row.biases[k].bias);
            }
        }
        __syncthreads();
    }
    const bool is_counted = row.presence != 0 || row.frequency != 0;
    for (int i = threadIdx.x; i < group.held; i += THREADS) {
        const uint32_t id = group.first + i, mark = row.marks ? row.marks[id] : 0;
        float logit = slice[i];
        if (row.repetition != 1 && (mark & (IN_PROMPT | COUNT)) != 0) {
            logit = logit < 0 ? __fmul_rn(logit, row.repetition) : __fdiv_rn(logit, row.repetition);
        }
        if (is_counted && (mark & COUNT) != 0) {
            const double penalty = __dadd_rn(row.presence, __dmul_rn(row.frequency, mark & COUNT));
            logit = __fsub_rn(logit, __double2float_rn(penalty));
        }
        logit = fminf(fmaxf(logit, -FLT_MAX), FLT_MAX);
        if ((mark & SUPPRESSED) != 0) logit = -CUDART_INF_F;
        slice[i] = logit;
        found.best = min(found.best, best_key(logit, id));
        if (logit > -CUDART_INF_F) found.low = fminf(found.low, logit);
    }
    // A block's memory may be written to when all have begun.
    __cluster_barrier_wait();
    return over_cluster(group, found, [](Found a, Found b) {
        return Found{min(a.best, b.best), fminf(a.low, b.low), fmaxf(a.high, b.high)};
    });
}

// Takes out what is not typical of what is kept up to `bound`, whose weights sum to `mass`.
__device__ void keep_typical(Group &group, double typical_p, const Order &best_first, uint64_t bound,
                             uint64_t mass, float span) {
    const double sum = double(mass) / group.unit;
    Order order = {true, 0, log(sum), 0};
    double entropy = 0;
    for (int i = threadIdx.x; i < group.held; i += THREADS) {
        const float s = slice[i];
        if (best_first.key(s, group.first + i) > bound || weight(group, s) == 0) {
            slice[i] = -CUDART_INF_F;
        } else {
            entropy += exp(double(s)) / sum * (order.log_sum - double(s));
        }
    }
    order.entropy = over_cluster(group, entropy, [](double a, double b) { return a + b; });
    order.scale = scale_of(fmaxf(order.distance(0), order.distance(-span)));
    sum_bins(group, group.shared.coarse, [&](int i) { return order.bin(slice[i]); });
    const uint64_t wanted = __double2ull_ru(typical_p * double(mass));
    const Place last = passing(group, order, false, min(max(wanted, uint64_t(1)), mass) - 1);
    const float farthest = __uint_as_float(uint32_t(last.key >> 32));
    for (int i = threadIdx.x; i < group.held; i += THREADS) {
        // Also what is out: infinitely far.
        if (!(order.distance(slice[i]) <= farthest)) slice[i] = -CUDART_INF_F;
    }
}

__device__ uint32_t draw(Group &group, const Row &row, float best, float low) {
    const auto scaled = [&](float logit) {
        return float((double(logit) - double(best)) / row.temperature);
    };
    for (int i = threadIdx.x; i < group.held; i += THREADS) slice[i] = scaled(slice[i]);
    const float span = fminf(-scaled(low), MAX_SPAN);
    const Order order = {false, scale_of(span), 0, 0};
    const Totals &totals = group.shared.coarse;
    const auto by_best = [&] {
        sum_bins(group, group.shared.coarse, [&](int i) { return order.bin(slice[i]); });
        return totals.mass[BINS - 1];
    };
    uint64_t mass = by_best(), bound = ~uint64_t(0);
    if (row.top_k > 0 && row.top_k < totals.count[BINS - 1]) {
        uint32_t last = passing(group, order, true, row.top_k - 1).key >> 32;
        // What ties with the last is kept: 0 is -0.
        if (last == 0) last = 1u << 31;
        bound = uint64_t(last) << 32 | ~0u;
        mass = mass_through(group, order, bound);
    }
    if (row.top_p < 1) {
        const uint64_t left_out = __double2ull_rd((1.0 - row.top_p) * double(mass));
        const uint64_t kept = mass - min(left_out, mass - 1);
        const Place last = passing(group, order, false, kept - 1);
        bound = last.key;
        mass = last.through;
    }
    const uint64_t lowest = uint64_t(row.lowest) << 32 | ~0u;
    if (lowest < bound) {
        bound = lowest;
        mass = mass_through(group, order, bound);
    }
    if (row.typical_p < 1) {
        keep_typical(group, row.typical_p, order, bound, mass, span);
        mass = by_best();
    }
    const uint64_t target = __double2ull_rd(row.draw * double(mass));
    return uint32_t(passing(group, order, false, min(target, mass - 1)).key);
}

extern "C" __global__ void __cluster_dims__(BLOCKS, 1, 1) __launch_bounds__(THREADS, 1)
    sample(const __grid_constant__ SampleParams p) {
    __shared__ Shared shared;
    const int number = blockIdx.x / BLOCKS, rank = blockIdx.x % BLOCKS;
    const Row &row = p.rows[number];
    const float *logits = p.logits + size_t(number) * p.vocab;
    const int first = min(rank * p.slice, p.vocab), held = min(p.slice, p.vocab - first);
    Group group = {shared, rank, held, first, p.slice, p.unit, 0};
    if (threadIdx.x == 0) shared.num_listed = 0;

    const Found found = read(group, row, logits);
    const bool is_finite = found.high < CUDART_INF_F;
    double sum = 0;
    if (is_finite && p.has_logprob) {
        for (int i = threadIdx.x; i < held; i += THREADS) sum += expf(logits[first + i] - found.high);
        sum = over_cluster(group, sum, [](double a, double b) { return a + b; });
    }
    uint32_t token = 0;
    if (is_finite) {
        token = uint32_t(found.best);
        // If there is any that is not suppressed.
        const bool draws = row.temperature > 0 && found.low < CUDART_INF_F;
        if (draws) token = draw(group, row, best_logit(found.best), found.low);
    }
    if (rank > 0 || threadIdx.x > 0) return;
    const double logprob = is_finite ? double(logits[token]) - (double(found.high) + log(sum)) : 0;
    p.choices[number] = {token, is_finite, logprob};
    p.tokens[number] = token;
    if (is_finite && row.marks) row.marks[token]++;
}
