// Backward operation 3b: what the product of a row (multiply.h) is beyond its ends, added to the places that are reflected
// there (the transpose of continue_row.h).
//
// Beyond an end, gradients are zero, so that only one of the three taps gets there: one vector of places at a time is
// computed in registers, reversed, and added. What a vector has too much is zero.
#pragma once

#include <array>
#include <utility>

#include "multiply.h"

namespace {

struct Fold {
    const Real* gradient;  // component of the first target, where the tap sees it from the first place outside
    ptrdiff_t gradient_stride;
    int targets;
    const Real* weights;  // [target][3 taps][source], from the one tap on
    Real* inside;  // of the first source: the place that the last of these reflects; the others follow
    ptrdiff_t product_stride;  // from source to source
};

template <int SOURCES>
void fold_vector(const Fold& f) {
    Vector sums[SOURCES] = {};
    const Real* weight = f.weights;
    for (int target = 0; target < f.targets; target++, weight += 3 * SOURCES) {
        const Vector value = load_anywhere(f.gradient + target * f.gradient_stride);
        UNROLLED for (int source = 0; source < SOURCES; source++) sums[source] += broadcast(weight[source]) * value;
    }
    UNROLLED for (int source = 0; source < SOURCES; source++) {
        Real* place = f.inside + source * f.product_stride;
        store_anywhere(place, load_anywhere(place) + reversed(sums[source]));
    }
}

using FoldVector = void (*)(const Fold&);

template <std::size_t... INDEX>
constexpr std::array<FoldVector, MOST_TARGETS> by_folded(std::index_sequence<INDEX...>) {
    return {fold_vector<INDEX + 1>...};
}

// [sources - 1]
constexpr auto FOLD = by_folded(std::make_index_sequence<MOST_TARGETS>());

}  // namespace
