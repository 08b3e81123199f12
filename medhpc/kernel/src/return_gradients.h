// One tile of one backward pass: transform the gradients of its targets; correlate them with the transformed sources (the
// gradients of the weights); multiply by the weights; transform back and add to the gradients of the sources.
//
// It is the transpose of convolve.h, tile by tile: what was read there by reflection is added there by reflection, so
// that the gradients at borders need no code of their own but the fold of rows in x.
//
// Scratch of a thread:
//     gradients[component][target][x, with zeros on both sides]
//     transformed[component][source][x, with the dilation on both sides], and later the products in the same place
//     sums[component][source][x tap][target]: vectors, for all tiles of a unit
#pragma once

#include "backward_pass.h"
#include "correlate.h"
#include "fold_product.h"
#include "multiply.h"
#include "scatter.h"
#include "sources.h"
#include "transform_gradient.h"
#include "weight_sums.h"

namespace {

struct BackwardScratch {
    Memory gradients, transformed;
    WeightSums sums;
    Memory nowhere;  // a row for what is added to no voxel
    WantedRows wanted;

    BackwardScratch(const Layout& layout, int sources, int targets, int reach)
        : gradients(Components::most(layout.vectors, reach, targets)),
          transformed(Components::most(layout.vectors, reach, sources)),
          sums(sources, targets),
          nowhere(layout.row),
          wanted(MOST_COMPONENTS * 2 * sources + 16 * targets) {
        // Columns behind those that a tile writes are multiplied by zeros: they must be numbers.
        for (Memory* memory : {&gradients, &transformed, &nowhere}) std::fill_n(memory->numbers, memory->size, Real{});
    }

    // Numbers of all of it.
    static ptrdiff_t size(const Layout& layout, int sources, int targets, int reach) {
        return Components::most(layout.vectors, reach, targets) + Components::most(layout.vectors, reach, sources) +
               WeightSums::size(sources, targets) + layout.row;
    }
};

class TileOfBackwardPass {
   public:
    // next: the tile that this thread computes after this one, if there is one.
    TileOfBackwardPass(const Maps& maps, const Maps& gradients, const BackwardPass& pass, const Tile& tile,
                       const Tile* next, bool of_weights, BackwardScratch& scratch)
        : maps_(maps),
          gradients_(gradients),
          pass_(pass),
          tile_(tile),
          next_(next),
          of_weights_(of_weights),
          scratch_(scratch),
          sources_(maps, pass.dilation, pass.first_source, pass.sources, tile),
          targets_(tile, pass.dilation, static_cast<int>(pass.targets.size())),
          seen_(maps.layout, tile, pass.dilation) {}

    template <int MZ, int MY>
    void compute() {
        transform_targets<MZ, MY>();
        if (of_weights_) {
            sources_.transform<MZ, MY>(scratch_.transformed.numbers);
            correlate_all(components(MZ) * components(MY));
        }
        if (pass_.returns()) {
            want_rows();
            multiply_all(components(MZ) * components(MY));
            for (int source = pass_.skipped; source < pass_.sources; source++) add_to<MZ, MY>(source);
        }
    }

   private:
    template <int MZ, int MY>
    void transform_targets() {
        Real* first = scratch_.gradients.numbers + targets_.halo;
        for (int target : pass_.targets) {
            const Real* rows[MZ * MY];
            for (int i = 0; i < MZ; i++) {
                const Real* plane = i < tile_.z.inside ? target_plane(target, tile_, i) : nullptr;
                for (int j = 0; j < MY; j++)
                    rows[i * MY + j] = plane && j < tile_.y.inside ? plane + place(tile_, j) : gradients_.zeros;
            }
            transform_gradient<MZ, MY>(rows, tile_.vectors, targets_.halo, first, targets_.component);
            first += targets_.channel;
        }
    }

    const Real* target_plane(int target, const Tile& tile, int i) const {
        return gradients_.plane(gradients_.inputs + target, tile.z.start + i * pass_.dilation);
    }
    // Offset in a plane of one of a tile's rows.
    ptrdiff_t place(const Tile& tile, int j) const {
        return (tile.y.start + j * pass_.dilation) * maps_.layout.row;
    }

    void correlate_all(int count) {
        const Components& places = sources_.places();
        const int targets = static_cast<int>(pass_.targets.size());
        const int parts = (targets + MOST_CORRELATED - 1) / MOST_CORRELATED;
        for (int k = 0; k < count; k++) {
            const Real* gradient = scratch_.gradients.numbers + k * targets_.component + targets_.halo;
            const Real* source = scratch_.transformed.numbers + k * places.component + places.halo;
            int target = 0;
            for (int part = 0; part < parts; part++) {
                const int size = (targets + part) / parts, most = correlated_sources(size);
                for (int at = 0; at < pass_.sources; at += most) {
                    const Correlation correlation{gradient + target * targets_.channel,
                                                  targets_.channel,
                                                  source + at * places.channel,
                                                  places.channel,
                                                  pass_.dilation,
                                                  tile_.vectors,
                                                  scratch_.sums.at(k, at, target),
                                                  scratch_.sums.from_tap_to_tap()};
                    CORRELATE[size - 1][std::min(most, pass_.sources - at) - 1](correlation);
                }
                target += size;
            }
        }
    }

    // What will be read next: what this tile adds to, and what the next one reads.
    void want_rows() {
        scratch_.wanted.clear();
        for (int source = pass_.skipped; source < pass_.sources; source++)
            seen_.want(gradients_, pass_.first_source + source, 0, 0, scratch_.wanted);
        if (!next_) return;
        if (of_weights_) sources_.want(*next_, scratch_.wanted);
        for (int target : pass_.targets)
            for (int i = 0; i < next_->z.inside; i++) {
                const Real* plane = target_plane(target, *next_, i);
                for (int j = 0; j < next_->y.inside; j++) scratch_.wanted.add(plane + place(*next_, j));
            }
    }

    void multiply_all(int count) {
        const Components& places = sources_.places();
        const int lines = (maps_.layout.width + LINE - 1) / LINE, calls = count * static_cast<int>(pass_.parts.size());
        int call = 0;
        for (int k = 0; k < count; k++) {
            const Real* gradient = scratch_.gradients.numbers + k * targets_.component + targets_.halo;
            Real* product = scratch_.transformed.numbers + k * places.component + places.halo;
            product += pass_.skipped * places.channel;
            for (std::size_t part = 0; part < pass_.parts.size(); part++) {
                const int size = pass_.parts[part];
                const Real* weights = pass_.weights[tile_.z.points == 4][tile_.y.points == 4][part].data() +
                                      k * pass_.targets.size() * 3 * size;
                multiply_row(gradient, weights, size, product, scratch_.wanted.part(call++, calls, lines));
                if (maps_.layout.reflected) fold(gradient, weights, size, product);
                product += size * places.channel;
            }
        }
    }

    void multiply_row(const Real* gradient, const Real* weights, int sources, Real* product, Wanted wanted) const {
        const int targets = static_cast<int>(pass_.targets.size());
        const int parts = (tile_.vectors + most_columns(sources) - 1) / most_columns(sources);
        ptrdiff_t x = 0;
        for (int part = 0; part < parts; part++) {
            const int columns = (tile_.vectors + part) / parts;
            const Product of_columns{gradient + x, targets_.channel, targets, pass_.dilation, weights,
                                     product + x,  sources_.places().channel};
            MULTIPLY[sources - 1][columns - 1](of_columns, wanted);
            wanted.count = 0;
            x += columns * LANES;
        }
    }

    // Places before the first x are reached by the last tap, those after the last x by the first.
    void fold(const Real* gradient, const Real* weights, int sources, Real* product) const {
        const int targets = static_cast<int>(pass_.targets.size()), s = pass_.dilation, last = maps_.layout.width - 1;
        const ptrdiff_t stride = sources_.places().channel;
        for (int i = 1; i <= s; i += LANES) {
            const Real* before = gradient + s - i - LANES + 1;
            const Real* after = gradient + last + i - s;
            FOLD[sources - 1]({before, targets_.channel, targets, weights + 2 * sources, product + i, stride});
            FOLD[sources - 1]({after, targets_.channel, targets, weights, product + last - i - LANES + 1, stride});
        }
    }

    template <int MZ, int MY>
    void add_to(int source) {
        constexpr int COUNT = components(MZ) * components(MY);
        const Components& places = sources_.places();
        Real* rows[COUNT];
        seen_.rows_of<MZ, MY>(gradients_, pass_.first_source + source, 0, scratch_.nowhere.numbers, rows);
        const Real* products = scratch_.transformed.numbers + source * places.channel + places.halo;
        scatter<MZ, MY>(products, places.component, tile_.vectors, rows);
    }

    const Maps& maps_;
    const Maps& gradients_;  // of the maps; those of the targets after ReLU's turn
    const BackwardPass& pass_;
    const Tile& tile_;
    const Tile* next_;
    const bool of_weights_;
    BackwardScratch& scratch_;
    const Sources sources_;
    const Components targets_;
    const Seen seen_;  // of a source
};

}  // namespace
