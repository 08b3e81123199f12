// Operation 3 of 3: the products of one target back from Winograd components to a tile of voxels, added to its sums.
//
// Loops: vectors of x; columns in y; rows in z. Registers: 4 z results x 6 y columns (24) and temporaries.
// A target's sums live where its map will be. The first part that arrives starts them at the bias; after the last,
// ReLU.
#pragma once

#include "winograd.h"

namespace {

struct Target {
    Real* rows[16];        // [MZ][MY], at the tile's first x
    int inside_z, inside_y;  // rows beyond do not exist
    bool starts, complete;
    Real bias;
};

template <int MZ, int MY>
void transform_output(const Real* products, ptrdiff_t stride, int vectors, const Target& target) {
    constexpr int NZ = components(MZ), NY = components(MY);
    const Vector bias = broadcast(target.bias);
    for (int x = 0; x < vectors * LANES; x += LANES) {
        Vector part[MZ][NY];
        UNROLLED for (int j = 0; j < NY; j++) {
            Vector column[NZ], voxels[MZ];
            UNROLLED for (int i = 0; i < NZ; i++) column[i] = load(products + (i * NY + j) * stride + x);
            transform_outputs<MZ>(column, voxels);
            UNROLLED for (int i = 0; i < MZ; i++) part[i][j] = voxels[i];
        }
        UNROLLED for (int i = 0; i < MZ; i++) {
            if (i >= target.inside_z) break;
            Vector voxels[MY];
            transform_outputs<MY>(part[i], voxels);
            UNROLLED for (int j = 0; j < MY; j++) {
                if (j >= target.inside_y) break;
                Real* place = target.rows[i * MY + j] + x;
                const Vector sum = (target.starts ? bias : load(place)) + voxels[j];
                store(place, target.complete ? at_least_zero(sum) : sum);
            }
        }
    }
}

}  // namespace
