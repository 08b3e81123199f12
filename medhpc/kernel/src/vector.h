// One SIMD register of floats, as wide as this translation unit is compiled for.
//
// GCC and Clang turn arithmetic on these types into the instructions of the target, and `a * b + c` into one fused
// multiply-add where there is one (-ffp-contract=fast). Nothing else in the kernels depends on the instruction set.
#pragma once

#include <cstddef>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX2__)
constexpr int LANES = 8, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int LANES = 4, REGISTERS = 32;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif
constexpr int LINE = 16;  // floats of a cache line

using Vector = float __attribute__((vector_size(4 * LANES)));
// The same at any address. Its own typedef, because Clang ignores an alignment that is given with the vector's size.
typedef Vector AnywhereVector __attribute__((aligned(4)));

inline Vector broadcast(float value) { return value - Vector{}; }
inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline Vector load_anywhere(const float* from) { return *reinterpret_cast<const AnywhereVector*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }
inline void store_anywhere(float* to, Vector value) { *reinterpret_cast<AnywhereVector*>(to) = value; }
inline Vector at_least_zero(Vector value) { return value < 0.0f ? Vector{} : value; }  // NaN stays

inline Vector reversed(Vector value) {
    using Order = int __attribute__((vector_size(4 * LANES)));
    Order order = {};
    for (int lane = 0; lane < LANES; lane++) order[lane] = LANES - 1 - lane;
#if defined(__clang__)
    Vector result;
    for (int lane = 0; lane < LANES; lane++) result[lane] = value[order[lane]];
    return result;
#else
    return __builtin_shuffle(value, order);
#endif
}

// Keep a loaded value in a register: GCC would otherwise load it again as an operand of each multiply-add, and loads,
// not arithmetic, would be the limit (58-78 % of the peak instead of 83-95 %, measured at 2 to 4 outputs).
inline void keep_in_register(Vector& value) {
#if defined(__x86_64__)
    __asm__("" : "+v"(value));
#elif defined(__aarch64__)
    __asm__("" : "+w"(value));
#endif
}

// Ask for a cache line in the second-level cache.
inline void prefetch(const float* line) { __builtin_prefetch(line, 0, 2); }

constexpr ptrdiff_t round_up(ptrdiff_t number, ptrdiff_t step) { return (number + step - 1) / step * step; }

#define UNROLLED _Pragma("GCC unroll 16")

}  // namespace
