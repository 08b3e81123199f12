// Where the voxels of a plane lie: rows (y) of voxels (x), each up to a full cache line. Where planes lie: maps.h.
//
// Convolution reads outside the volume. No such voxel is stored: in z and y, rows outside are other rows (reflection)
// or one row of zeros, by pointer; in x, the transformed rows of a tile are continued while they are in cache.
// Rows are an odd number of cache lines, planes and maps are off powers of two, or rows of a tile would fall into the
// same few sets of the cache.
#pragma once

#include "vector.h"

namespace {

struct Layout {
    int depth, height, width;
    bool reflected;           // outside; else zeros
    int vectors;              // of a row
    ptrdiff_t row, plane;     // numbers from one to the next

    Layout(int depth_, int height_, int width_, bool reflected_)
        : depth(depth_), height(height_), width(width_), reflected(reflected_) {
        vectors = static_cast<int>(round_up(width, LANES)) / LANES;
        row = round_up(width, LINE);
        if (row / LINE % 2 == 0) row += LINE;
        plane = off_powers_of_two(height * row, 53);
    }

    // Numbers from a channel of so many planes to the next.
    ptrdiff_t channel(int planes) const { return off_powers_of_two(planes * plane, 23); }

    static ptrdiff_t off_powers_of_two(ptrdiff_t numbers, int lines) {
        return round_up(numbers - lines * LINE, 64 * LINE) + lines * LINE;
    }

    // Which of `length` places holds what place `at` sees; -1: zero.
    int seen(int at, int length) const {
        if (at >= 0 && at < length) return at;
        const int mirrored = at < 0 ? -at : 2 * (length - 1) - at;
        return reflected && mirrored >= 0 && mirrored < length ? mirrored : -1;
    }
};

}  // namespace
