// The C interface that medhpc/kernel/library.py calls. Compiled once per instruction set, and for float64
// (-DMSD_DOUBLE: each float32 below is float64 then) by tests.
#include <cstdint>
#include <new>

#include "peak.h"
#include "recording.h"
#include "sweep.h"

#define PUBLIC extern "C" __attribute__((visibility("default")))

namespace {
enum Outcome { DONE = 0, NO_MEMORY = 1 };
}

// Weights as in Architecture and Head; windows: (low, high, middle, scale) of each input; most_points: outputs of the
// largest transform, 4 (fast) or 2 (rounds less). Null: no memory.
PUBLIC void* msd_create(int inputs, int outputs, int maps, int width, int dimensions, int reflected,
                        const int* dilations, const Real* weights, const Real* biases, const Real* head_weights,
                        const Real* head_biases, const Real* windows, int most_points) try {
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

// Evaluate voxels, float32, (inputs, z, y, x) with strides in bytes; wanted: first z, y, x and the end of z, y, x of what
// is wanted; result: that, (outputs or fewer, z, y, x), C order.
PUBLIC int msd_run(void* network, const void* voxels, const int64_t* strides, const int* shape, const int* wanted,
                   int kind, int threads, Real* result) try {
    const ptrdiff_t steps[4] = {strides[0], strides[1], strides[2], strides[3]};
    const Region region{{wanted[0], wanted[1], wanted[2]}, {wanted[3], wanted[4], wanted[5]}};
    const Block block{{static_cast<const char*>(voxels), steps}, shape, region};
    static_cast<Network*>(network)->run(block, static_cast<Kind>(kind), threads, result);
    return DONE;
} catch (const std::bad_alloc&) {
    return NO_MEMORY;
}

// Bytes that a sweep takes, without input and result. shape: z, y, x of what is ours, ghost rows before and after it, planes
// of a step.
PUBLIC int64_t msd_sweep_bytes(const void* network, const int* shape, int threads) {
    const SweepShape of{shape[0], shape[1], shape[2], shape[3], shape[4], shape[5]};
    return Sweep::bytes(*static_cast<const Network*>(network), of, threads);
}

PUBLIC int msd_sweep_warm_up(const void* network, int step) {
    return SweepPlan(*static_cast<const Network*>(network)).warm_up(step);
}

// Begin a sweep; shape as above. The network must outlive it. Null: no memory.
PUBLIC void* msd_sweep(const void* network, const int* shape, int kind, int threads) try {
    const SweepShape of{shape[0], shape[1], shape[2], shape[3], shape[4], shape[5]};
    return new Sweep(*static_cast<const Network*>(network), of, static_cast<Kind>(kind), threads);
} catch (const std::bad_alloc&) {
    return nullptr;
}

PUBLIC void msd_forget_sweep(void* sweep) { delete static_cast<Sweep*>(sweep); }

// First plane and end of what a layer computes in this step; layer -1: of what is loaded.
PUBLIC void msd_sweep_planes(const void* sweep, int layer, int* planes) {
    const auto found = static_cast<const Sweep*>(sweep)->planes(layer);
    std::copy(found.begin(), found.end(), planes);
}

// The planes of this step, with ghost rows; layout as in msd_run.
PUBLIC int msd_sweep_load(void* sweep, const void* voxels, const int64_t* strides) try {
    const ptrdiff_t steps[4] = {strides[0], strides[1], strides[2], strides[3]};
    static_cast<Sweep*>(sweep)->load({static_cast<const char*>(voxels), steps});
    return DONE;
} catch (const std::bad_alloc&) {
    return NO_MEMORY;
}

// Layers `first` up to `stop` of this step; result, as in msd_run: the planes of the last layer, once it is computed.
PUBLIC int msd_sweep_run(void* sweep, int first, int stop, Real* result) try {
    static_cast<Sweep*>(sweep)->run(first, stop, result);
    return DONE;
} catch (const std::bad_alloc&) {
    return NO_MEMORY;
}

// Copy rows, counted with the ghosts, of the maps of a layer in this step: (maps, planes, rows, x), C order.
PUBLIC void msd_sweep_take(const void* sweep, int layer, int first, int rows, Real* values) {
    const int width = static_cast<const Sweep*>(sweep)->width();
    const auto take = [&](const Real* row) { values = std::copy_n(row, width, values); };
    static_cast<const Sweep*>(sweep)->each_row(layer, first, rows, take);
}

PUBLIC void msd_sweep_put(void* sweep, int layer, int first, int rows, const Real* values) {
    const int width = static_cast<const Sweep*>(sweep)->width();
    const auto put = [&](Real* row) {
        std::copy_n(values, width, row);
        values += width;
    };
    static_cast<const Sweep*>(sweep)->each_row(layer, first, rows, put);
}

PUBLIC void msd_sweep_end_step(void* sweep) { static_cast<Sweep*>(sweep)->end_step(); }

// Memory that recordings give back, for the next ones; they keep what they need of it.
PUBLIC void* msd_spare() try {
    return new std::shared_ptr<Spare>(new Spare);
} catch (const std::bad_alloc&) {
    return nullptr;
}

PUBLIC void msd_forget_spare(void* spare) { delete static_cast<std::shared_ptr<Spare>*>(spare); }

// Evaluate all of a block, as msd_run does it for RAW, and keep the maps: what msd_backward needs. The network must
// outlive them. Null: no memory.
PUBLIC void* msd_record(const void* network, const void* spare, const void* voxels, const int64_t* strides,
                        const int* shape, int threads, Real* scores) try {
    const ptrdiff_t steps[4] = {strides[0], strides[1], strides[2], strides[3]};
    const Region whole{{0, 0, 0}, {shape[0], shape[1], shape[2]}};
    const Block block{{static_cast<const char*>(voxels), steps}, shape, whole};
    return new Recording(*static_cast<const Network*>(network), *static_cast<const std::shared_ptr<Spare>*>(spare), block,
                         threads, scores);
} catch (const std::bad_alloc&) {
    return nullptr;
}

PUBLIC void msd_forget(void* recording) { delete static_cast<Recording*>(recording); }

// From the gradients of the scores (outputs, z, y, x) those of the inputs (inputs, z, y, x), and of weights, biases and
// the head's, which lie as in msd_create; null for inputs or weights: not wanted. May be called again.
PUBLIC int msd_backward(const void* recording, const Real* scores, int threads, Real* inputs, Real* weights,
                        Real* biases, Real* head_weights, Real* head_biases) try {
    const Gradients gradients{inputs, weights, biases, head_weights, head_biases};
    static_cast<const Recording*>(recording)->backward(scores, gradients, threads);
    return DONE;
} catch (const std::bad_alloc&) {
    return NO_MEMORY;
}

// Of the numbers in all arrays.
PUBLIC int msd_number_bytes() { return sizeof(Real); }

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
