// What a tile reads: rows of its source maps, as Winograd components in scratch.
//
//     transformed[component][source][x, with the dilation on both sides]
#pragma once

#include <algorithm>

#include "continue_row.h"
#include "layout.h"
#include "multiply.h"
#include "tiles.h"
#include "transform_input.h"

namespace {

constexpr int MOST_COMPONENTS = 36;
constexpr ptrdiff_t SKEW = LINE;  // between components: they would share sets of the cache

// All maps of one block of a volume; or their gradients, which lie alike.
struct Maps {
    const Layout& layout;
    Region wanted;     // of the result
    Real* channels;    // the first channel
    const Real* zeros;  // one row
    int inputs;

    Real* channel(int number) const { return channels + number * layout.map; }
    Real* map(int number) const { return channel(inputs + number); }
};

// Where the components of some channels' rows lie.
struct Components {
    int halo;  // columns that a row has on either side
    ptrdiff_t channel, component;  // numbers from one to the next

    Components(const Tile& tile, int dilation, int channels)
        : halo(static_cast<int>(round_up(dilation, LANES))),
          channel(tile.vectors * LANES + 2 * halo),
          component(channels * channel + SKEW) {}

    // Numbers that a tile needs at most.
    static ptrdiff_t most(int vectors, int dilation, int channels) {
        return MOST_COMPONENTS * (channels * (vectors * LANES + 2 * round_up(dilation, LANES)) + SKEW);
    }
};

class Sources {
   public:
    Sources(const Maps& maps, int dilation, int first, int count, const Tile& tile)
        : maps_(maps),
          dilation_(dilation),
          first_(first),
          count_(count),
          tile_(tile),
          end_(tile.x + tile.vectors * LANES),
          places_(tile, dilation, count) {}

    int count() const { return count_; }
    const Components& places() const { return places_; }

    // Offsets in a map of the rows that a tile reads: [z component][y component]; -1: zeros.
    void offsets(const Tile& tile, ptrdiff_t* found) const {
        const int s = dilation_, before_z = tile.z.points > 1;
        for (int i = 0; i < components(tile.z.points); i++)
            for (int j = 0; j < components(tile.y.points); j++)
                *found++ = maps_.layout.offset(tile.z.start + (i - before_z) * s, tile.y.start + (j - 1) * s);
    }

    // The first x that is transformed for a tile.
    int first_column(const Tile& tile) const { return std::max(0, tile.x - places_.halo); }

    template <int MZ, int MY>
    void transform(Real* scratch) const {
        constexpr int COUNT = components(MZ) * components(MY);
        ptrdiff_t offset[COUNT];
        offsets(tile_, offset);
        const int begin = first_column(tile_), end = std::min(end_ + places_.halo, maps_.layout.vectors * LANES);
        for (int source = 0; source < count_; source++) {
            const Real* channel = maps_.channel(first_ + source) + begin;
            Real* transformed = scratch + source * places_.channel + places_.halo - tile_.x;  // of x = 0
            const Real* rows[COUNT];
            for (int k = 0; k < COUNT; k++) rows[k] = offset[k] < 0 ? maps_.zeros : channel + offset[k];
            transform_input<MZ, MY>(rows, (end - begin) / LANES, transformed + begin, places_.component);
            for (int k = 0; k < COUNT; k++) continue_row(transformed + k * places_.component);
        }
    }

    // Ask for what the next tile reads. Where it continues this one along y, two of each six rows are in cache already.
    void want(const Tile& next, WantedRows& wanted) const {
        const bool continues = next.z.start == tile_.z.start && next.x == tile_.x &&
                               next.y.start == tile_.y.start + tile_.y.points * dilation_;
        ptrdiff_t offset[MOST_COMPONENTS];
        offsets(next, offset);
        const int columns = components(next.y.points), count = components(next.z.points) * columns;
        int missing = 0;
        for (int k = 0; k < count; k++)
            if (offset[k] >= 0 && !(continues && k % columns < 2)) offset[missing++] = offset[k] + first_column(next);
        for (int source = 0; source < count_; source++) wanted.add(maps_.channel(first_ + source), offset, missing);
    }

   private:
    // On the right first: what is behind the last column of a map may be no number, and must not get to the left.
    void continue_row(Real* x0) const {
        const Layout& layout = maps_.layout;
        const int beyond = end_ + dilation_ - layout.width;  // of the last column
        continue_right(x0 + layout.width - 1, std::min(beyond, dilation_), layout.reflected);
        continue_left(x0, dilation_ - tile_.x, layout.reflected);
    }

    const Maps& maps_;
    const int dilation_, first_, count_;
    const Tile& tile_;
    const int end_;  // of the block, up to a full vector
    const Components places_;
};

}  // namespace
