// Backward operation 2 of 4: in one Winograd component, the gradients of all weights between some sources and targets.
//
//     sums[source][tap][target] += sum over x of gradient[target][x] * source[source][x + (tap - 1) s]
//
// The sums are vectors, lane by lane: they grow over all tiles of a unit (units.h), and are added up at its end only.
// Loops: SOURCES at a time; vectors of x; what is held while x runs are SOURCES x 3 x TARGETS sums.
// Registers: these, and either the targets or the three taps of one x, whichever are fewer, and one more.
// With 32 registers 1 x 3 x 9 to 5, 2 x 3 x 4, 3 x 3 x 3, 4 x 3 x 2 or 1; with 16 registers 1 x 3 x 4 or 3, 2 x 3 x 2,
// 4 x 3 x 1; more targets take turns.
#pragma once

#include <array>
#include <utility>

#include "vector.h"

namespace {

constexpr int MOST_CORRELATED = REGISTERS == 32 ? 9 : 4;  // targets
constexpr int correlated_sources(int targets) {
    if (REGISTERS == 32) return targets > 4 ? 1 : targets == 4 ? 2 : targets == 3 ? 3 : 4;
    return targets > 2 ? 1 : targets == 2 ? 2 : 4;
}
constexpr int MOST_CORRELATED_SOURCES = 4;

struct Correlation {
    const Real* gradient;  // component of the first target, at x = 0
    ptrdiff_t gradient_stride;
    const Real* source;  // component of the first source, at x = 0
    ptrdiff_t source_stride;
    int dilation, vectors;
    Real* sums;  // vectors
    ptrdiff_t sums_stride;  // from tap to tap, and three of them from source to source
};

template <int TARGETS, int SOURCES>
void correlate(const Correlation& c) {
    Vector sums[SOURCES * 3][TARGETS];
    UNROLLED for (int row = 0; row < SOURCES * 3; row++) {
        UNROLLED for (int target = 0; target < TARGETS; target++) {
            sums[row][target] = load(c.sums + row * c.sums_stride + target * LANES);
        }
    }
    for (int x = 0; x < c.vectors * LANES; x += LANES) {
        if constexpr (TARGETS <= 3 * SOURCES) {
            Vector gradients[TARGETS];
            UNROLLED for (int target = 0; target < TARGETS; target++) {
                gradients[target] = load(c.gradient + target * c.gradient_stride + x);
                keep_in_register(gradients[target]);
            }
            UNROLLED for (int row = 0; row < SOURCES * 3; row++) {
                Vector value = load_anywhere(c.source + row / 3 * c.source_stride + (row % 3 - 1) * c.dilation + x);
                keep_in_register(value);
                UNROLLED for (int target = 0; target < TARGETS; target++) sums[row][target] += value * gradients[target];
            }
        } else {
            Vector values[3];
            UNROLLED for (int tap = 0; tap < 3; tap++) {
                values[tap] = load_anywhere(c.source + (tap - 1) * c.dilation + x);
                keep_in_register(values[tap]);
            }
            UNROLLED for (int target = 0; target < TARGETS; target++) {
                Vector gradient = load(c.gradient + target * c.gradient_stride + x);
                keep_in_register(gradient);
                UNROLLED for (int tap = 0; tap < 3; tap++) sums[tap][target] += gradient * values[tap];
            }
        }
    }
    UNROLLED for (int row = 0; row < SOURCES * 3; row++) {
        UNROLLED for (int target = 0; target < TARGETS; target++) {
            store(c.sums + row * c.sums_stride + target * LANES, sums[row][target]);
        }
    }
}

using Correlate = void (*)(const Correlation&);

template <int TARGETS, std::size_t... INDEX>
constexpr std::array<Correlate, MOST_CORRELATED_SOURCES> by_sources(std::index_sequence<INDEX...>) {
    return {correlate<TARGETS, std::min<int>(INDEX + 1, correlated_sources(TARGETS))>...};
}

template <std::size_t... INDEX>
constexpr std::array<std::array<Correlate, MOST_CORRELATED_SOURCES>, MOST_CORRELATED> by_correlated(
    std::index_sequence<INDEX...>) {
    return {by_sources<INDEX + 1>(std::make_index_sequence<MOST_CORRELATED_SOURCES>())...};
}

// [targets - 1][sources - 1]
constexpr auto CORRELATE = by_correlated(std::make_index_sequence<MOST_CORRELATED>());

}  // namespace
