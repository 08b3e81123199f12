// The fastest that this core multiplies and adds: independent sums in registers, no memory.
#pragma once

#include <chrono>
#include <ctime>

#include "vector.h"

namespace {

inline double thread_seconds() {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

// Floating-point operations per second of this thread's processor time, a multiply-add as two; `rounds` x 24 vectors.
inline double measured_peak(long rounds) {
    constexpr int SUMS = 12;
    Vector sums[SUMS], factor = broadcast(0.999f), part = broadcast(0.001f);
    UNROLLED for (int k = 0; k < SUMS; k++) sums[k] = broadcast(static_cast<Real>(k));  // equal ones would be merged
    keep_in_register(factor);
    keep_in_register(part);
    const double began = thread_seconds();
    for (long round = 0; round < rounds; round++) {
        UNROLLED for (int k = 0; k < SUMS; k++) {
            sums[k] = sums[k] * factor + part;
            keep_in_register(sums[k]);
        }
    }
    const double took = thread_seconds() - began;
    UNROLLED for (int k = 1; k < SUMS; k++) sums[0] += sums[k];
    volatile Real used = sums[0][0];  // or the compiler deletes all of it
    (void)used;
    return 2.0 * LANES * SUMS * rounds / took;
}

}  // namespace
