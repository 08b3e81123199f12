// Continues a transformed row in x beyond the ends of the volume: by reflection, or by zeros. Nothing where reach <= 0.
//
// The transform is over (z, y) and the same for each x, so that the transform of a reflected row is the reflected
// transform. Vectors are reversed whole; what they write too much is scratch that nobody reads.
#pragma once

#include "vector.h"

namespace {

// first: x = 0 of the row. Writes round_up(reach, LANES) values before it.
inline void continue_left(Real* first, int reach, bool reflected) {
    for (int i = 1; i <= reach; i += LANES) {
        store_anywhere(first - i - LANES + 1, reflected ? reversed(load_anywhere(first + i)) : Vector{});
    }
}

// last: the last x of the row. Writes round_up(reach, LANES) values after it.
inline void continue_right(Real* last, int reach, bool reflected) {
    for (int i = 1; i <= reach; i += LANES) {
        store_anywhere(last + i, reflected ? reversed(load_anywhere(last - i - LANES + 1)) : Vector{});
    }
}

}  // namespace
