// Where the voxels of all maps lie.
//
//     map:  planes (z) of rows (y):   | x halo | 0 .. width | up to a full vector | x halo |
//
// The x halo is stored, as wide as the largest dilation, because convolution along x reads at x - s and x + s. There is
// none in z and y: there, rows outside are other rows (reflection) or one row of zeros, by pointer.
// Rows are an odd number of cache lines, planes and maps are off powers of two, or rows of a tile would fall into the
// same few sets of the cache.
#pragma once

#include <algorithm>

#include "vector.h"

namespace {

struct Layout {
    int depth, height, width;
    int reach;       // largest dilation
    bool reflected;  // else zeros
    int vectors;     // of a row
    ptrdiff_t halo, row, plane, map;  // floats

    Layout(int depth_, int height_, int width_, int reach_, bool reflected_)
        : depth(depth_), height(height_), width(width_), reach(reach_), reflected(reflected_) {
        vectors = static_cast<int>(round_up(width, LANES)) / LANES;
        halo = round_up(reach, LINE);
        row = 2 * halo + round_up(width, LINE);
        if (row / LINE % 2 == 0) row += LINE;
        plane = off_powers_of_two(height * row, 53);
        map = off_powers_of_two(depth * plane, 23);
    }

    static ptrdiff_t off_powers_of_two(ptrdiff_t floats, int lines) {
        return round_up(floats - lines * LINE, 64 * LINE) + lines * LINE;
    }

    // Which of `length` places holds what place `at` sees; -1: zero.
    int seen(int at, int length) const {
        if (at >= 0 && at < length) return at;
        const int mirrored = at < 0 ? -at : 2 * (length - 1) - at;
        return reflected && mirrored >= 0 && mirrored < length ? mirrored : -1;
    }

    // Offset in a map of the row that (z, y) sees, at x = 0; -1: zeros.
    ptrdiff_t offset(int z, int y) const {
        const int there_z = seen(z, depth), there_y = seen(y, height);
        return there_z < 0 || there_y < 0 ? -1 : there_z * plane + there_y * row + halo;
    }

    void fill_left_halo(float* x0) const {
        for (int i = 1; i <= reach; i++) x0[-i] = reflected ? x0[i] : 0;
    }

    void fill_right_halo(float* x0) const {
        float* last = x0 + width - 1;
        for (int i = 1; i <= reach; i++) last[i] = reflected ? last[-i] : 0;
    }
};

}  // namespace
