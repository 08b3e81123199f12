// The gradients of the weights of one pass: sums of one unit's tiles (correlate.h), then of all units.
//
// Which tiles a unit has, and in which order units are added up, does not depend on the threads: nor does a single bit
// of the result.
#pragma once

#include <algorithm>
#include <vector>

#include "memory.h"
#include "sources.h"

namespace {

// sums[component][source][x tap][target], vectors, of one thread and one unit.
class WeightSums {
   public:
    WeightSums(int most_sources, int most_targets) : memory_(size(most_sources, most_targets)) {}

    static ptrdiff_t size(int sources, int targets) {
        return MOST_COMPONENTS * (ptrdiff_t{3} * sources * targets * LANES + SKEW);
    }

    void begin(int outputs_z, int outputs_y, int sources, int targets) {
        sources_ = sources;
        targets_ = targets;
        std::fill_n(memory_.numbers, components(outputs_z) * components(outputs_y) * component(), Real{});
    }

    Real* at(int component_, int source, int target) {
        return memory_.numbers + component_ * component() + (source * 3 * targets_ + target) * LANES;
    }
    ptrdiff_t from_tap_to_tap() const { return targets_ * LANES; }

    // Into taps: [target][source][z tap][y tap][x tap].
    template <int MZ, int MY>
    void finish(Real* result) {
        for (int target = 0; target < targets_; target++)
            for (int source = 0; source < sources_; source++, result += taps(MZ) * 9)
                for (int x = 0; x < 3; x++) to_taps<MZ, MY>(at(0, source, target) + x * from_tap_to_tap(), result + x);
    }

   private:
    ptrdiff_t component() const { return sources_ * 3 * targets_ * LANES + SKEW; }

    template <int MZ, int MY>
    void to_taps(const Real* sums, Real* result) const {
        constexpr int NZ = components(MZ), NY = components(MY);
        Vector part[taps(MZ)][NY];
        for (int j = 0; j < NY; j++) {
            Vector column[NZ], of_z[taps(MZ)];
            for (int i = 0; i < NZ; i++) column[i] = load(sums + (i * NY + j) * component());
            transform_filter_gradients<MZ>(column, of_z);
            for (int z = 0; z < taps(MZ); z++) part[z][j] = of_z[z];
        }
        for (int z = 0; z < taps(MZ); z++) {
            Vector of_y[3];
            transform_filter_gradients<MY>(part[z], of_y);
            for (int y = 0; y < 3; y++) result[(z * 3 + y) * 3] = sum_of_lanes(of_y[y]);
        }
    }

    Memory memory_;
    int sources_ = 0, targets_ = 0;
};

}  // namespace
