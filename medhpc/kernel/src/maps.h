// Where the planes of all channels lie: the inputs, then the maps.
//
// A block keeps all planes of a channel. A sweep along z (sweep.h) keeps the latest ones only, in a ring, in which plane z
// lies at place z modulo its length; a block is a ring as long as its depth.
#pragma once

#include <vector>

#include "layout.h"
#include "tiles.h"

namespace {

struct Ring {
    ptrdiff_t first;  // number of its first place in memory
    int planes;       // places
    int origin;       // of all planes at the first place, the last one up to the earliest that is kept

    int place(int z) const {
        const int at = z - origin;
        return at < planes ? at : at - planes;
    }
    void keep_from(int z) { origin = planes ? z / planes * planes : 0; }
};

// The rings of all channels one after the other, behind a row of zeros.
class Rings {
   public:
    explicit Rings(const Layout& layout) : layout_(layout), numbers_(layout.row) {}

    // Whole channels.
    Rings(const Layout& layout, int channels) : Rings(layout) {
        for (int c = 0; c < channels; c++) add(layout.depth);
    }

    void add(int planes) {
        rings_.push_back({numbers_, planes, 0});
        numbers_ += layout_.channel(planes);
    }

    Ring& operator[](int channel) { return rings_[channel]; }
    const Ring& operator[](int channel) const { return rings_[channel]; }
    ptrdiff_t numbers() const { return numbers_; }

   private:
    const Layout layout_;
    std::vector<Ring> rings_;
    ptrdiff_t numbers_;  // with the zeros
};

// All maps of one block of a volume; or their gradients, which lie alike.
struct Maps {
    const Layout& layout;
    const Rings& rings;
    Region wanted;      // of the result
    Real* memory;       // of the rings
    const Real* zeros;  // one row
    int inputs;

    Real* plane(int channel, int z) const {
        const Ring& ring = rings[channel];
        return memory + ring.first + ring.place(z) * layout.plane;
    }
    Real* row(int channel, int z, int y) const { return plane(channel, z) + y * layout.row; }
};

}  // namespace
