// Backward operation 1 of 4: the gradients of one tile of one target map into Winograd components (the transpose of
// transform_output.h), with zeros on both sides in x.
//
// Loops: vectors of x; rows in z; columns in y. Registers: 4 z rows x 6 y components (24) and temporaries.
// The result serves twice: for the gradients of the sources and for those of the weights.
#pragma once

#include "winograd.h"

namespace {

// rows: [MZ][MY] pointers to x = 0; result: x = 0 of the first component, the others are `stride` apart.
template <int MZ, int MY>
APART void transform_gradient(const Real* const* rows, int vectors, int halo, Real* result, ptrdiff_t stride) {
    constexpr int NZ = components(MZ), NY = components(MY);
    for (int x = 0; x < vectors * LANES; x += LANES) {
        Vector part[MZ][NY];
        UNROLLED for (int i = 0; i < MZ; i++) {
            Vector voxels[MY];
            UNROLLED for (int j = 0; j < MY; j++) voxels[j] = load(rows[i * MY + j] + x);
            transform_output_gradients<MY>(voxels, part[i]);
        }
        UNROLLED for (int j = 0; j < NY; j++) {
            Vector column[MZ], transformed[NZ];
            UNROLLED for (int i = 0; i < MZ; i++) column[i] = part[i][j];
            transform_output_gradients<MZ>(column, transformed);
            UNROLLED for (int i = 0; i < NZ; i++) store(result + (i * NY + j) * stride + x, transformed[i]);
        }
    }
    for (int k = 0; k < NZ * NY; k++, result += stride) {
        for (int x = 0; x < halo; x += LANES) {
            store(result - halo + x, Vector{});
            store(result + vectors * LANES + x, Vector{});
        }
    }
}

}  // namespace
