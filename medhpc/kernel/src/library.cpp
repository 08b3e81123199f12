// The C interface that medhpc/kernel/library.py calls. Compiled once per instruction set.
#include <cstdint>
#include <new>

#include "network.h"
#include "peak.h"

#define PUBLIC extern "C" __attribute__((visibility("default")))

namespace {
enum Outcome { DONE = 0, NO_MEMORY = 1 };
}

// Weights as in Architecture and Head; windows: (low, high, middle, scale) of each input; most_points: outputs of the
// largest transform, 4 (fast) or 2 (rounds less). Null: no memory.
PUBLIC void* msd_create(int inputs, int outputs, int maps, int width, int dimensions, int reflected,
                        const int* dilations, const float* weights, const float* biases, const float* head_weights,
                        const float* head_biases, const float* windows, int most_points) try {
    const Architecture architecture{inputs,         outputs,   maps,    width, dimensions,
                                    reflected != 0, dilations, weights, biases};
    const Head head{inputs + maps, outputs, head_weights, head_biases};
    return new Network(architecture, head, reinterpret_cast<const Window*>(windows), most_points);
} catch (const std::bad_alloc&) {
    return nullptr;
}

PUBLIC void msd_destroy(void* network) { delete static_cast<Network*>(network); }

// Bytes that an evaluation of a block (z, y, x) takes, without input and result.
PUBLIC int64_t msd_bytes(const void* network, const int* shape, int threads) {
    return static_cast<const Network*>(network)->bytes(shape, threads);
}

// Evaluate float32 voxels (inputs, z, y, x) with strides in bytes; wanted: first z, y, x and the end of z, y, x of what
// is wanted; result: that, (outputs or fewer, z, y, x), C order.
PUBLIC int msd_run(void* network, const void* voxels, const int64_t* strides, const int* shape, const int* wanted,
                   int kind, int threads, float* result) try {
    const ptrdiff_t steps[4] = {strides[0], strides[1], strides[2], strides[3]};
    const Region region{{wanted[0], wanted[1], wanted[2]}, {wanted[3], wanted[4], wanted[5]}};
    const Block block{static_cast<const char*>(voxels), steps, shape, region};
    static_cast<Network*>(network)->run(block, static_cast<Kind>(kind), threads, result);
    return DONE;
} catch (const std::bad_alloc&) {
    return NO_MEMORY;
}

// Multiply-adds, counted as two, per second of processor time of one thread.
PUBLIC double msd_peak(long rounds) { return measured_peak(rounds); }

// 0: this processor cannot run what this library was compiled for.
PUBLIC int msd_runs_here() {
#if defined(__AVX512F__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
#elif defined(__AVX2__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 1;
#endif
}
