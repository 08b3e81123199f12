// What a tile reads: rows of its source maps, as Winograd components in scratch.
//
//     transformed[component][source][x, with the dilation on both sides]
#pragma once

#include <algorithm>

#include "continue_row.h"
#include "maps.h"
#include "multiply.h"
#include "transform_input.h"

namespace {

constexpr int MOST_COMPONENTS = 36;
constexpr ptrdiff_t SKEW = LINE;  // between components: they would share sets of the cache

// The planes that the z components of a tile see, and the offsets in them of the rows that its y components see; -1: zeros.
// So is what only voxels outside of the region would read: a ring may have no such plane, or an old one in its place.
struct Seen {
    int planes, rows;  // components
    int z[6];
    ptrdiff_t y[6];

    Seen(const Layout& layout, const Tile& tile, int dilation)
        : planes(components(tile.z.points)), rows(components(tile.y.points)) {
        const int around = tile.z.points > 1;
        for (int i = 0; i < planes; i++)
            z[i] = i < tile.z.inside + 2 * around ? layout.seen(tile.z.start + (i - around) * dilation, layout.depth) : -1;
        for (int j = 0; j < rows; j++) {
            const int row = j < tile.y.inside + 2 ? layout.seen(tile.y.start + (j - 1) * dilation, layout.height) : -1;
            y[j] = row < 0 ? -1 : row * layout.row;
        }
    }

    // Of one channel, from column `begin` on: [z component][y component]; `zeros` where nothing is seen.
    template <int MZ, int MY, typename Pointer>
    void rows_of(const Maps& maps, int channel, int begin, Pointer zeros, Pointer* found) const {
        for (int i = 0; i < components(MZ); i++) {
            Real* plane = z[i] < 0 ? nullptr : maps.plane(channel, z[i]) + begin;
            for (int j = 0; j < components(MY); j++) *found++ = plane && y[j] >= 0 ? plane + y[j] : zeros;
        }
    }

    // Ask for what is seen of one channel, from column `begin` and component `first` in y on.
    void want(const Maps& maps, int channel, int begin, int first, WantedRows& wanted) const {
        for (int i = 0; i < planes; i++) {
            if (z[i] < 0) continue;
            const Real* plane = maps.plane(channel, z[i]) + begin;
            for (int j = first; j < rows; j++)
                if (y[j] >= 0) wanted.add(plane + y[j]);
        }
    }
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

    // The first x that is transformed for a tile.
    int first_column(const Tile& tile) const { return std::max(0, tile.x - places_.halo); }

    template <int MZ, int MY>
    void transform(Real* scratch) const {
        constexpr int COUNT = components(MZ) * components(MY);
        const Seen seen(maps_.layout, tile_, dilation_);
        const int begin = first_column(tile_), end = std::min(end_ + places_.halo, maps_.layout.vectors * LANES);
        for (int source = 0; source < count_; source++) {
            Real* transformed = scratch + source * places_.channel + places_.halo - tile_.x;  // of x = 0
            const Real* rows[COUNT];
            seen.rows_of<MZ, MY>(maps_, first_ + source, begin, maps_.zeros, rows);
            transform_input<MZ, MY>(rows, (end - begin) / LANES, transformed + begin, places_.component);
            for (int k = 0; k < COUNT; k++) continue_row(transformed + k * places_.component);
        }
    }

    // Ask for what the next tile reads. Where it continues this one along y, two of each six rows are in cache already.
    void want(const Tile& next, WantedRows& wanted) const {
        const bool continues = next.z.start == tile_.z.start && next.x == tile_.x &&
                               next.y.start == tile_.y.start + tile_.y.points * dilation_;
        const Seen seen(maps_.layout, next, dilation_);
        for (int source = 0; source < count_; source++)
            seen.want(maps_, first_ + source, first_column(next), continues ? 2 : 0, wanted);
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
