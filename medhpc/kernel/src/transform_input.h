// Operation 1 of 3: one tile of one map, as rows in x, into its Winograd components over (z, y).
//
// Loops: vectors of x; halves of the z components; columns in y.
// Registers: all 36 components of a tile do not fit, so three z components x six y columns are kept (18), and the z
// transform of a column (6 loads, 3 results) is made twice. What a half does not use, the compiler leaves out.
// The result is written once and stays in the second-level cache: transformed[component][map][x].
#pragma once

#include "winograd.h"

namespace {

// rows: [components(MZ)][components(MY)] pointers to the first of `vectors` vectors; result: components `stride` apart.
template <int MZ, int MY>
void transform_input(const Real* const* rows, int vectors, Real* result, ptrdiff_t stride) {
    constexpr int NZ = components(MZ), NY = components(MY), HALF = NZ == 6 ? 3 : NZ;
    for (int x = 0; x < vectors * LANES; x += LANES) {
        UNROLLED for (int half = 0; half < NZ; half += HALF) {
            Vector part[HALF][NY];
            UNROLLED for (int j = 0; j < NY; j++) {
                Vector column[NZ], transformed[NZ];
                UNROLLED for (int i = 0; i < NZ; i++) column[i] = load(rows[i * NY + j] + x);
                transform_inputs<MZ>(column, transformed);
                UNROLLED for (int i = 0; i < HALF; i++) part[i][j] = transformed[half + i];
            }
            UNROLLED for (int i = 0; i < HALF; i++) {
                Vector transformed[NY];
                transform_inputs<MY>(part[i], transformed);
                UNROLLED for (int j = 0; j < NY; j++) {
                    store(result + ((half + i) * NY + j) * stride + x, transformed[j]);
                }
            }
        }
    }
}

}  // namespace
