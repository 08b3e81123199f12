// One tile of one pass: transform its sources, multiply, transform the targets back (the three operations).
//
// Scratch of a thread, meant to stay in its second-level cache:
//     transformed[component][source][x, with the dilation on both sides]     products[component][target][x]
// Latency of memory is what is left: the rows that the targets and the next tile want are asked for during the
// multiplication, a few lines at a time (1.5 x faster, measured).
#pragma once

#include <vector>

#include "memory.h"
#include "multiply.h"
#include "schedule.h"
#include "sources.h"
#include "transform_output.h"

namespace {

struct Scratch {
    Memory transformed, products;
    WantedRows wanted;

    // For passes of so many sources at most, and dilations up to `reach`.
    static ptrdiff_t transformed_numbers(const Layout& layout, int sources, int reach) {
        return Components::most(longest_block(layout), reach, sources);
    }
    static ptrdiff_t product_numbers(const Layout& layout) {
        return MOST_COMPONENTS * (MOST_TARGETS * longest_block(layout) * LANES + SKEW);
    }
    static int longest_block(const Layout& layout) { return std::min(layout.vectors, BLOCK); }

    Scratch(const Layout& layout, int sources, int reach)
        : transformed(transformed_numbers(layout, sources, reach)),
          products(product_numbers(layout)),
          wanted(sources * MOST_COMPONENTS + MOST_TARGETS * 16) {}
};

class TileOfPass {
   public:
    // next: the tile that this thread computes after this one, if there is one.
    TileOfPass(const Maps& maps, const Architecture& net, const Pass& pass, const Tile& tile, const Tile* next,
               Scratch& scratch)
        : maps_(maps),
          net_(net),
          pass_(pass),
          tile_(tile),
          next_(next),
          scratch_(scratch),
          sources_(maps, pass.dilation, pass.first_source, pass.sources, tile) {}

    template <int MZ, int MY>
    void compute() {
        sources_.transform<MZ, MY>(scratch_.transformed.numbers);
        const std::size_t groups = needed_groups();
        for (std::size_t group = 0; group < groups; group++) {
            want_targets(pass_.groups[group]);
            if (group + 1 == groups && next_) sources_.want(*next_, scratch_.wanted);
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

    void want_targets(const Group& group) {
        scratch_.wanted.clear();
        for (int target : group.targets)
            for (int i = 0; i < tile_.z.inside; i++) {
                const Real* plane = target_plane(target, i);
                for (int j = 0; j < tile_.y.inside; j++) scratch_.wanted.add(plane + place(j));
            }
    }

    void multiply_all(const Group& group, int count) {
        const int targets = static_cast<int>(group.targets.size());
        const int parts = (tile_.vectors + most_columns(targets) - 1) / most_columns(targets);
        const int calls = count * parts;
        const Real* weights = group.weights[tile_.z.points == 4][tile_.y.points == 4].data();
        const ptrdiff_t weights_stride = pass_.sources * 3 * targets;
        const Components& places = sources_.places();
        const int lines = (std::min(tile_.vectors * LANES + 2 * places.halo, maps_.layout.width) + LINE - 1) / LINE;
        int call = 0;
        for (int k = 0; k < count; k++) {
            ptrdiff_t x = 0;
            for (int part = 0; part < parts; part++) {
                const int columns = (tile_.vectors + part) / parts;
                const Product product{scratch_.transformed.numbers + k * places.component + places.halo + x,
                                      places.channel,
                                      pass_.sources,
                                      pass_.dilation,
                                      weights + k * weights_stride,
                                      scratch_.products.numbers + k * product_stride(targets) + x,
                                      tile_.vectors * LANES};
                MULTIPLY[targets - 1][columns - 1](product, scratch_.wanted.part(call, calls, lines));
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
            for (int i = 0; i < tile_.z.inside; i++) {
                Real* plane = target_plane(map, i);
                for (int j = 0; j < MY; j++) target.rows[i * MY + j] = plane + place(j);
            }
            const Real* products = scratch_.products.numbers + at * tile_.vectors * LANES;
            transform_output<MZ, MY>(products, product_stride(targets), tile_.vectors, target);
        }
    }

    Real* target_plane(int map, int i) const {
        return maps_.plane(maps_.inputs + map, tile_.z.start + i * pass_.dilation);
    }
    // Offset in a plane of a row of the tile, or of one outside.
    ptrdiff_t place(int j) const { return (tile_.y.start + j * pass_.dilation) * maps_.layout.row + tile_.x; }

    ptrdiff_t product_stride(int targets) const { return targets * tile_.vectors * LANES + SKEW; }

    const Maps& maps_;
    const Architecture& net_;
    const Pass& pass_;
    const Tile& tile_;
    const Tile* next_;
    Scratch& scratch_;
    const Sources sources_;
};

}  // namespace
