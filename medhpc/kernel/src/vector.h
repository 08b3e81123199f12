// The numbers of all kernels, and one SIMD register of them, as wide as this translation unit is compiled for.
//
// GCC and Clang turn arithmetic on these types into the instructions of the target, and `a * b + c` into one fused
// multiply-add where there is one (-ffp-contract=fast). Nothing else in the kernels depends on the instruction set.
#pragma once

#include <cstddef>
#include <type_traits>

namespace {

#if defined(MSD_DOUBLE)  // for tests, which tell a wrong sum from rounding
using Real = double;
#else
using Real = float;
#endif

#if defined(__AVX512F__)
constexpr int BYTES = 64, REGISTERS = 32;
#elif defined(__AVX2__)
constexpr int BYTES = 32, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int BYTES = 16, REGISTERS = 32;
#else
constexpr int BYTES = 16, REGISTERS = 16;
#endif
constexpr int LANES = BYTES / sizeof(Real);
constexpr int LINE = 64 / sizeof(Real);  // numbers of a cache line

using Vector = Real __attribute__((vector_size(BYTES)));
// The same at any address. Its own typedef, because Clang ignores an alignment that is given with the vector's size.
typedef Vector AnywhereVector __attribute__((aligned(sizeof(Real))));

inline Vector broadcast(Real value) { return value - Vector{}; }
inline Vector load(const Real* from) { return *reinterpret_cast<const Vector*>(from); }
inline Vector load_anywhere(const Real* from) { return *reinterpret_cast<const AnywhereVector*>(from); }
inline void store(Real* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }
inline void store_anywhere(Real* to, Vector value) { *reinterpret_cast<AnywhereVector*>(to) = value; }
inline Vector at_least_zero(Vector value) { return value < 0.0f ? Vector{} : value; }  // NaN stays

inline Vector reversed(Vector value) {
    using Number = std::conditional_t<sizeof(Real) == 8, long long, int>;
    using Order = Number __attribute__((vector_size(BYTES)));
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

// The value with zeros in all lanes but the first `count`.
inline Vector first_lanes(Vector value, int count) {
    Vector lanes = {};
    for (int lane = 0; lane < LANES; lane++) lanes[lane] = static_cast<Real>(lane);
    return lanes < static_cast<Real>(count) ? value : Vector{};
}

inline Real sum_of_lanes(Vector value) {
    Real sums[LANES];
    for (int lane = 0; lane < LANES; lane++) sums[lane] = value[lane];
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++) sums[lane] += sums[lane + half];
    return sums[0];
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
inline void prefetch(const Real* line) { __builtin_prefetch(line, 0, 2); }

constexpr ptrdiff_t round_up(ptrdiff_t number, ptrdiff_t step) { return (number + step - 1) / step * step; }

// Not inlined: GCC 12 makes better code of some loops by themselves (25 % of the time of all backward operations).
#define APART __attribute__((noinline))

#define UNROLLED _Pragma("GCC unroll 16")

}  // namespace
