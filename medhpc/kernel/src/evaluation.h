// An evaluation, stage by stage: load planes, the passes, the scores. All of a stage's pieces may be computed at once.
//
// A block (block.h) goes through all stages once; a sweep (sweep.h) in each of its steps, for some planes.
#pragma once

#include <functional>
#include <map>
#include <utility>

#include "network.h"
#include "threads.h"

namespace {

struct Voxels {
    const char* first;         // Real
    const ptrdiff_t* strides;  // bytes: channel, z, y, x
};

struct Stage {
    int pieces;
    std::function<void(int member, int first, int stop)> compute;
};

inline void compute(const std::vector<Stage>& stages, int threads) {
    std::vector<Queue> queues(stages.size());
    Team team;
    team.run(threads, [&](int member) {
        int first, stop;
        for (std::size_t k = 0; k < stages.size(); k++) {
            while (queues[k].take(stages[k].pieces, team.size(), first, stop)) stages[k].compute(member, first, stop);
            team.meet();
        }
    });
}

class Evaluation {
   public:
    // memory: of the rings; is not read before it is written. Rings behind those of the channels are of scores.
    Evaluation(const Network& network, const Layout& layout, const Rings& rings, const Region& wanted, Real* memory,
               int threads)
        : network_(network),
          layout_(layout),
          maps_{layout, rings, wanted, memory, memory, network.architecture().inputs} {
        std::fill_n(memory, layout.row, Real{});
        for (int member = 0; member < threads; member++) members_.push_back(std::make_unique<Member>(network, layout));
    }

    const Maps& maps() const { return maps_; }

    // Planes `first` up to `stop` of all inputs.
    Stage load(const Voxels& voxels, int first, int stop) const {
        const int height = layout_.height, rows = (stop - first) * height;
        return each(rows * maps_.inputs, [=](int, int at) {
            const int channel = at / rows, z = at % rows / height, y = at % height;
            const ptrdiff_t* strides = voxels.strides;
            const char* from = voxels.first + channel * strides[0] + z * strides[1] + y * strides[2];
            load_row(from, strides[3], network_.window(channel), layout_.width, maps_.row(channel, first + z, y));
        });
    }

    // The targets of a pass in a region.
    Stage pass(const Pass& pass, const Region& region) {
        const Tiles tiles = cut(pass, region);
        return {tiles.size(), [=, &pass](int member, int first, int stop) {
                    Tile tile = tiles[first];
                    for (int at = first; at < stop; at++) {
                        const Tile next = tiles[at + 1 < stop ? at + 1 : at];
                        convolve(pass, tile, at + 1 < stop ? &next : nullptr, members_[member]->scratch);
                        tile = next;
                    }
                }};
    }

    // Add what these channels give to the scores of a region; after the last of them, write the result.
    Stage score(const Channels& run, const Region& region, Kind kind, Real* result) const {
        return each(region.length(0) * region.length(1), [=](int member, int row) {
            score_row(run, region, row, *members_[member]);
            if (run.stop == network_.head().channels) give_row(region, row, kind, members_[member]->scores.numbers, result);
        });
    }

   private:
    // Memory of a thread.
    struct Member {
        Scratch scratch;
        Memory scores;
        std::vector<const Real*> rows;

        Member(const Network& network, const Layout& layout)
            : scratch(layout, network.most_sources(), network.reach()),
              scores(network.head().outputs * layout.row),
              rows(network.head().channels) {}
    };

    template <typename Piece>
    static Stage each(int pieces, const Piece& piece) {
        return {pieces, [=](int member, int first, int stop) {
                    for (int at = first; at < stop; at++) piece(member, at);
                }};
    }

    // Passes of one dilation share the tiles of a plane, while what is wanted depends on all of it.
    Tiles cut(const Pass& pass, const Region& region) {
        auto& [of, plane] = latest_[pass.dilation];
        const bool same = plane && of.start[1] == region.start[1] && of.start[2] == region.start[2] &&
                          of.stop[1] == region.stop[1] && of.stop[2] == region.stop[2];
        const int most = network_.most_points();
        if (!same) plane = std::make_shared<const TilesOfPlane>(tiles_of_plane(region, pass.dilation, most));
        of = region;
        return {segments_along_z(region, pass.dilation, network_.architecture().dimensions, most), plane};
    }

    void convolve(const Pass& pass, const Tile& tile, const Tile* next, Scratch& scratch) const {
        TileOfPass work(maps_, network_.architecture(), pass, tile, next, scratch);
        const int z = tile.z.points, y = tile.y.points;
        if (z == 4) y == 4 ? work.compute<4, 4>() : work.compute<4, 2>();
        if (z == 2) y == 4 ? work.compute<2, 4>() : work.compute<2, 2>();
        if (z == 1) y == 4 ? work.compute<1, 4>() : work.compute<1, 2>();
    }

    // Into the member's scores, and but for the last run into those that are kept.
    void score_row(const Channels& run, const Region& region, int row, Member& member) const {
        const Head& head = network_.head();
        const int z = region.start[0] + row / region.length(1), y = region.start[1] + row % region.length(1);
        const int x = first_column(region), vectors = (region.stop[2] - x + LANES - 1) / LANES;
        Real* scores = member.scores.numbers;
        for (int k = 0; k < head.outputs; k++, scores += layout_.row) {
            if (run.first == 0) std::fill_n(scores, vectors * LANES, head.biases[k]);
            else std::copy_n(maps_.row(head.channels + k, z, y) + x, vectors * LANES, scores);
        }
        for (int c = run.first; c < run.stop; c++) member.rows[c - run.first] = maps_.row(c, z, y) + x;
        scores = member.scores.numbers;
        head.add_row(member.rows.data(), run, vectors, scores, layout_.row);
        if (run.stop == head.channels) return;
        for (int k = 0; k < head.outputs; k++, scores += layout_.row)
            std::copy_n(scores, vectors * LANES, maps_.row(head.channels + k, z, y) + x);
    }

    // Rows are read by whole vectors.
    static int first_column(const Region& region) { return region.start[2] / LANES * LANES; }

    void give_row(const Region& region, int row, Kind kind, Real* scores, Real* result) const {
        const int outputs = network_.head().outputs, width = region.length(2);
        scores += region.start[2] - first_column(region);
        if (kind != RAW) activate(scores, layout_.row, outputs, width);
        const ptrdiff_t voxels = ptrdiff_t{region.length(0)} * region.length(1) * width;
        for (int k = kind == PROBABILITY && outputs > 1; k < outputs; k++, result += voxels)
            std::copy_n(scores + k * layout_.row, width, result + ptrdiff_t{row} * width);
    }

    const Network& network_;
    const Layout& layout_;
    const Maps maps_;
    std::vector<std::unique_ptr<Member>> members_;
    std::map<int, std::pair<Region, std::shared_ptr<const TilesOfPlane>>> latest_;  // by dilation
};

}  // namespace
