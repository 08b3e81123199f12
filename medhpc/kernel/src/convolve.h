// One tile of one pass: transform its sources, multiply, transform the targets back (the three operations).
//
// Scratch of a thread, meant to stay in its second-level cache:
//     transformed[component][source][x, with the dilation on both sides]     products[component][target][x]
// Latency of memory is what is left: the rows that the targets and the next tile want are asked for during the
// multiplication, a few lines at a time (1.5 x faster, measured).
#pragma once

#include <vector>

#include "continue_row.h"
#include "layout.h"
#include "memory.h"
#include "multiply.h"
#include "schedule.h"
#include "tiles.h"
#include "transform_input.h"
#include "transform_output.h"

namespace {

constexpr int MOST_COMPONENTS = 36;
constexpr ptrdiff_t SKEW = LINE;  // between components: they would share sets of the cache

struct Scratch {
    Memory transformed, products;
    std::vector<const float*> wanted;  // rows to ask for; so many:
    int wanted_rows = 0;

    // For passes of so many sources at most, and dilations up to `reach`.
    static ptrdiff_t transformed_floats(const Layout& layout, int sources, int reach) {
        const ptrdiff_t source = longest_block(layout) * LANES + 2 * round_up(reach, LANES);
        return MOST_COMPONENTS * (sources * source + SKEW);
    }
    static ptrdiff_t product_floats(const Layout& layout) {
        return MOST_COMPONENTS * (MOST_TARGETS * longest_block(layout) * LANES + SKEW);
    }
    static int longest_block(const Layout& layout) { return std::min(layout.vectors, BLOCK); }

    Scratch(const Layout& layout, int sources, int reach)
        : transformed(transformed_floats(layout, sources, reach)), products(product_floats(layout)) {
        wanted.resize(sources * MOST_COMPONENTS + MOST_TARGETS * 16);
    }

    // Ask for the rows at some offsets of a channel.
    void want(const float* channel, const ptrdiff_t* offsets, int count) {
        for (int k = 0; k < count; k++) wanted[wanted_rows + k] = channel + offsets[k];
        wanted_rows += count;
    }
};

// All maps of one block of a volume.
struct Maps {
    const Layout& layout;
    Region wanted;       // of the result
    float* channels;     // the first channel
    const float* zeros;  // one row
    int inputs;

    float* channel(int number) const { return channels + number * layout.map; }
    float* map(int number) const { return channel(inputs + number); }
};

class TileOfPass {
   public:
    // next: the tile that this thread computes after this one, if there is one.
    TileOfPass(const Maps& maps, const Architecture& net, const Pass& pass, const Tile& tile, const Tile* next,
               Scratch& scratch)
        : maps_(maps), net_(net), pass_(pass), tile_(tile), next_(next), scratch_(scratch) {
        halo_ = static_cast<int>(round_up(pass.dilation, LANES));
        source_stride_ = tile.vectors * LANES + 2 * halo_;
        end_ = tile.x + tile.vectors * LANES;
        component_stride_ = pass.sources * source_stride_ + SKEW;
        for (int i = 0; i < tile.z.points; i++)
            for (int j = 0; j < tile.y.points; j++) {
                const int z = tile.z.start + i * pass.dilation, y = tile.y.start + j * pass.dilation;
                places_[i * tile.y.points + j] = z * maps.layout.plane + y * maps.layout.row + tile.x;
            }
    }

    template <int MZ, int MY>
    void compute() {
        transform_sources<MZ, MY>();
        const std::size_t groups = needed_groups();
        for (std::size_t group = 0; group < groups; group++) {
            want_targets(pass_.groups[group]);
            if (group + 1 == groups && next_) want_sources(*next_);
            multiply_all(pass_.groups[group], components(MZ) * components(MY));
            transform_targets<MZ, MY>(pass_.groups[group]);
        }
    }

   private:
    // The first so many groups: on later maps, fewer voxels of the result depend.
    std::size_t needed_groups() const {
        std::size_t needed = 1;  // the tile lies in the region of the first
        while (needed < pass_.groups.size() &&
               maps_.wanted.grown(pass_.groups[needed].reach, maps_.layout).meets(tile_, pass_.dilation))
            needed++;
        return needed;
    }

    // Offsets of the rows that a tile reads in each source: [z component][y component]; -1: zeros.
    void offsets(const Tile& tile, ptrdiff_t* found) const {
        const int s = pass_.dilation, before_z = tile.z.points > 1;
        for (int i = 0; i < components(tile.z.points); i++)
            for (int j = 0; j < components(tile.y.points); j++)
                *found++ = maps_.layout.offset(tile.z.start + (i - before_z) * s, tile.y.start + (j - 1) * s);
    }

    template <int MZ, int MY>
    void transform_sources() {
        constexpr int COUNT = components(MZ) * components(MY);
        ptrdiff_t offset[COUNT];
        offsets(tile_, offset);
        const int begin = first_column(tile_), end = std::min(end_ + halo_, maps_.layout.vectors * LANES);
        for (int source = 0; source < pass_.sources; source++) {
            const float* channel = maps_.channel(pass_.first_source + source) + begin;
            float* transformed = scratch_.transformed.floats + source * source_stride_ + halo_ - tile_.x;  // of x = 0
            const float* rows[COUNT];
            for (int k = 0; k < COUNT; k++) rows[k] = offset[k] < 0 ? maps_.zeros : channel + offset[k];
            transform_input<MZ, MY>(rows, (end - begin) / LANES, transformed + begin, component_stride_);
            for (int k = 0; k < COUNT; k++) continue_row(transformed + k * component_stride_);
        }
    }

    // The first x that is transformed for a tile.
    int first_column(const Tile& tile) const { return std::max(0, tile.x - halo_); }

    void continue_row(float* x0) const {
        const Layout& layout = maps_.layout;
        const int beyond = end_ + pass_.dilation - layout.width;  // of the last column
        continue_left(x0, pass_.dilation - tile_.x, layout.reflected);
        continue_right(x0 + layout.width - 1, std::min(beyond, pass_.dilation), layout.reflected);
    }

    void want_targets(const Group& group) {
        scratch_.wanted_rows = 0;
        for (int target : group.targets)
            for (int i = 0; i < tile_.z.inside; i++)
                scratch_.want(maps_.map(target), places_ + i * tile_.y.points, tile_.y.inside);
    }

    // Of a tile that continues this one along y, two of each six rows are in cache already.
    void want_sources(const Tile& next) {
        const bool continues = next.z.start == tile_.z.start && next.x == tile_.x &&
                               next.y.start == tile_.y.start + tile_.y.points * pass_.dilation;
        ptrdiff_t offset[MOST_COMPONENTS];
        offsets(next, offset);
        const int columns = components(next.y.points), count = components(next.z.points) * columns;
        int missing = 0;
        for (int k = 0; k < count; k++)
            if (offset[k] >= 0 && !(continues && k % columns < 2)) offset[missing++] = offset[k] + first_column(next);
        for (int source = 0; source < pass_.sources; source++)
            scratch_.want(maps_.channel(pass_.first_source + source), offset, missing);
    }

    void multiply_all(const Group& group, int count) {
        const int targets = static_cast<int>(group.targets.size());
        const int parts = (tile_.vectors + most_columns(targets) - 1) / most_columns(targets);
        const int calls = count * parts, rows = scratch_.wanted_rows;
        const float* weights = group.weights[tile_.z.points == 4][tile_.y.points == 4].data();
        const ptrdiff_t weights_stride = pass_.sources * 3 * targets;
        const int lines = (std::min(tile_.vectors * LANES + 2 * halo_, maps_.layout.width) + LINE - 1) / LINE;
        int call = 0;
        for (int k = 0; k < count; k++) {
            ptrdiff_t x = 0;
            for (int part = 0; part < parts; part++) {
                const int columns = (tile_.vectors + part) / parts;
                const int from = rows * call / calls, to = rows * (call + 1) / calls;
                const Product product{scratch_.transformed.floats + k * component_stride_ + halo_ + x,
                                      source_stride_,
                                      pass_.sources,
                                      pass_.dilation,
                                      weights + k * weights_stride,
                                      scratch_.products.floats + k * product_stride(targets) + x,
                                      tile_.vectors * LANES};
                MULTIPLY[targets - 1][columns - 1](product, {scratch_.wanted.data() + from, to - from, lines});
                x += columns * LANES;
                call++;
            }
        }
    }

    template <int MZ, int MY>
    void transform_targets(const Group& group) {
        const int targets = static_cast<int>(group.targets.size());
        for (int at = 0; at < targets; at++) {
            const int map = group.targets[at];
            const bool complete = at < group.complete;
            Target target{{}, tile_.z.inside, tile_.y.inside, pass_.starts(), complete, net_.biases[map]};
            for (int k = 0; k < MZ * MY; k++) target.rows[k] = maps_.map(map) + places_[k];
            const float* products = scratch_.products.floats + at * tile_.vectors * LANES;
            transform_output<MZ, MY>(products, product_stride(targets), tile_.vectors, target);
        }
    }

    ptrdiff_t product_stride(int targets) const { return targets * tile_.vectors * LANES + SKEW; }

    const Maps& maps_;
    const Architecture& net_;
    const Pass& pass_;
    const Tile& tile_;
    const Tile* next_;
    Scratch& scratch_;
    int halo_;  // columns that a transformed row has on either side
    int end_;   // of the block, up to a full vector
    ptrdiff_t source_stride_, component_stride_;
    ptrdiff_t places_[16];  // in a map, of the rows of the tile, also those outside: [z][y]
};

}  // namespace
