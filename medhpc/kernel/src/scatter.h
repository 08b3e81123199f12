// Backward operation 4 of 4: one source's gradient back from Winograd components to the rows that the tile has read (the
// transpose of transform_input.h), added to what is there.
//
// Neighbouring tiles share rows, and reflected rows are rows of other tiles: units.h keeps two threads from one row. Two
// rows of one tile may be the same, too, so each sum is stored before the next row is loaded.
// Loops: vectors of x; halves of the z rows; columns in y. Registers as in transform_input.h: three z rows x six y
// columns (18), for which the z transform of a column (6 loads, 3 results) is made twice.
#pragma once

#include "winograd.h"

namespace {

// products: x = 0 of the first component, the others are `stride` apart; rows: [components(MZ)][components(MY)].
template <int MZ, int MY>
APART void scatter(const Real* products, ptrdiff_t stride, int vectors, Real* const* rows) {
    constexpr int NZ = components(MZ), NY = components(MY), HALF = NZ == 6 ? 3 : NZ;
    for (int x = 0; x < vectors * LANES; x += LANES) {
        UNROLLED for (int half = 0; half < NZ; half += HALF) {
            Vector part[HALF][NY];
            UNROLLED for (int j = 0; j < NY; j++) {
                Vector column[NZ], inputs[NZ];
                UNROLLED for (int i = 0; i < NZ; i++) column[i] = load(products + (i * NY + j) * stride + x);
                transform_input_gradients<MZ>(column, inputs);
                UNROLLED for (int i = 0; i < HALF; i++) part[i][j] = inputs[half + i];
            }
            UNROLLED for (int i = 0; i < HALF; i++) {
                Vector inputs[NY];
                transform_input_gradients<MY>(part[i], inputs);
                UNROLLED for (int j = 0; j < NY; j++) {
                    Real* place = rows[(half + i) * NY + j] + x;
                    store(place, load(place) + inputs[j]);
                }
            }
        }
    }
}

}  // namespace
