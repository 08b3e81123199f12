// An MS-D network in this library: its weights in the order of work, and its evaluation on one block.
#pragma once

#include <memory>
#include <mutex>
#include <numeric>

#include "convolve.h"
#include "head.h"
#include "threads.h"

namespace {

struct Block {
    const char* voxels;       // Real
    const ptrdiff_t* strides;  // bytes: channel, z, y, x
    const int* shape;         // z, y, x
    Region wanted;            // of the result
};

class Network {
   public:
    // most: outputs of the largest transform; 4 is faster, 2 rounds less.
    Network(const Architecture& architecture, const Head& head, const Window* windows, int most)
        : weights_(architecture.weights, architecture.kernel(architecture.maps, 0)),
          dilations_(architecture.dilations, architecture.dilations + architecture.maps),
          biases_(architecture.biases, architecture.biases + architecture.maps),
          head_weights_(head.weights, head.weights + head.outputs * head.channels),
          head_biases_(head.biases, head.biases + head.outputs),
          windows_(windows, windows + architecture.inputs),
          net_(architecture),
          head_(head),
          most_points_(most) {
        net_.weights = weights_.data();
        net_.dilations = dilations_.data();
        net_.biases = biases_.data();
        head_.weights = head_weights_.data();
        head_.biases = head_biases_.data();
        passes_ = schedule(net_);
        reach_ = *std::max_element(dilations_.begin(), dilations_.end());
        for (const Pass& pass : passes_) most_sources_ = std::max(most_sources_, pass.sources);
    }

    ptrdiff_t bytes(const int* shape, int threads) const {
        const Layout layout = layout_of(shape);
        const ptrdiff_t scratch =
            Scratch::transformed_numbers(layout, most_sources_, reach_) + Scratch::product_numbers(layout);
        return sizeof(Real) * (maps_numbers(layout) + threads * (scratch + head_.outputs * layout.row));
    }

    void run(const Block& block, Kind kind, int threads, Real* result) {
        // A second call at the same time gets memory of its own; so does a child of a fork during a call.
        std::unique_lock<std::mutex> mine(busy_, std::try_to_lock);
        std::unique_ptr<Memory> other;
        run(block, kind, threads, result, mine ? kept_ : other);
    }

    // Into this memory: a row of zeros, then the inputs and all maps, of which none is written once it is complete.
    void run(const Block& block, Kind kind, int threads, Real* result, std::unique_ptr<Memory>& memory) const {
        Call call(*this, block, kind, result, threads, memory);
        Team team;
        team.run(threads, [&](int member) { call.work(member, team); });
    }

    Layout layout_of(const int* shape) const {
        return Layout(shape[0], shape[1], shape[2], net_.reflected);
    }
    ptrdiff_t maps_numbers(const Layout& layout) const { return layout.row + head_.channels * layout.map; }
    const Architecture& architecture() const { return net_; }
    const Head& head() const { return head_; }
    const std::vector<Pass>& passes() const { return passes_; }
    int most_points() const { return most_points_; }
    int reach() const { return reach_; }

   private:

    // Everything that the threads of one evaluation share.
    class Call {
       public:
        Call(const Network& network, const Block& block, Kind kind, Real* result, int threads,
             std::unique_ptr<Memory>& memory)
            : network_(network),
              block_(block),
              kind_(kind),
              result_(result),
              layout_(network.layout_of(block.shape)),
              maps_{layout_, block.wanted, nullptr, nullptr, network.net_.inputs},
              queues_(network.passes_.size() + 2) {
            if (!memory || memory->size < network.maps_numbers(layout_)) {
                memory.reset();
                memory = std::make_unique<Memory>(network.maps_numbers(layout_));
            }
            std::fill_n(memory->numbers, layout_.row, 0.0f);
            maps_.zeros = memory->numbers;
            maps_.channels = memory->numbers + layout_.row;
            cut_into_tiles();
            for (int member = 0; member < threads; member++) {
                scratch_.push_back(std::make_unique<Scratch>(layout_, network.most_sources_, network.reach_));
                scores_.push_back(std::make_unique<Memory>(network.head_.outputs * layout_.row));
            }
        }

        void work(int member, Team& team) {
            Queue* queue = queues_.data();
            int rows = layout_.depth * layout_.height, first, stop;
            while (queue->take(rows * maps_.inputs, team.size(), first, stop))
                for (int row = first; row < stop; row++) load(row / rows, row % rows);
            team.meet();
            for (std::size_t pass = 0; pass < network_.passes_.size(); pass++) {
                const std::vector<Tile>& list = *tiles_[pass];
                queue++;
                while (queue->take(static_cast<int>(list.size()), team.size(), first, stop))
                    for (int at = first; at < stop; at++)
                        convolve(network_.passes_[pass], list[at], at + 1 < stop ? &list[at + 1] : nullptr,
                                 *scratch_[member]);
                team.meet();
            }
            queue++;
            rows = length(0) * length(1);
            while (queue->take(rows, team.size(), first, stop))
                for (int row = first; row < stop; row++) finish(row, scores_[member]->numbers);
        }

       private:
        using Tiles = std::vector<Tile>;

        // Passes of one dilation share their tiles, while what is wanted depends on all of the volume.
        void cut_into_tiles() {
            std::map<int, std::pair<Region, std::shared_ptr<Tiles>>> latest;  // by dilation
            for (const Pass& pass : network_.passes_) {
                const Region region = block_.wanted.grown(pass.reach(), layout_);
                auto& [of, list] = latest[pass.dilation];
                if (!list || !(of == region)) {
                    const int dimensions = network_.net_.dimensions;
                    list = std::make_shared<Tiles>(tiles(region, pass.dilation, dimensions, network_.most_points_));
                    of = region;
                }
                tiles_.push_back(list);
            }
        }

        // Of the wanted part.
        int length(int axis) const { return block_.wanted.stop[axis] - block_.wanted.start[axis]; }

        void load(int channel, int row) const {
            const ptrdiff_t* strides = block_.strides;
            const char* from = block_.voxels + channel * strides[0] + row / layout_.height * strides[1] +
                               row % layout_.height * strides[2];
            Real* to = maps_.channel(channel) + layout_.offset(row / layout_.height, row % layout_.height);
            load_row(from, strides[3], network_.windows_[channel], layout_.width, to);
        }

        void convolve(const Pass& pass, const Tile& tile, const Tile* next, Scratch& scratch) const {
            TileOfPass work(maps_, network_.net_, pass, tile, next, scratch);
            const int z = tile.z.points, y = tile.y.points;
            if (z == 4) y == 4 ? work.compute<4, 4>() : work.compute<4, 2>();
            if (z == 2) y == 4 ? work.compute<2, 4>() : work.compute<2, 2>();
            if (z == 1) y == 4 ? work.compute<1, 4>() : work.compute<1, 2>();
        }

        // row: of the wanted part.
        void finish(int row, Real* scores) const {
            const Head& head = network_.head_;
            const auto& start = block_.wanted.start;
            const int z = start[0] + row / length(1), y = start[1] + row % length(1), width = length(2);
            const int x = start[2] / LANES * LANES, before = start[2] - x;  // rows are read by whole vectors
            const Real* channel = maps_.channels + layout_.offset(z, y) + x;
            head.score_row(channel, layout_.map, (before + width + LANES - 1) / LANES, scores, layout_.row);
            if (kind_ != RAW) activate(scores + before, layout_.row, head.outputs, width);
            const int skipped = kind_ == PROBABILITY && head.outputs > 1;
            const ptrdiff_t voxels = ptrdiff_t{length(0)} * length(1) * width;
            for (int k = skipped; k < head.outputs; k++) {
                Real* place = result_ + (k - skipped) * voxels + ptrdiff_t{row} * width;
                std::copy_n(scores + k * layout_.row + before, width, place);
            }
        }

        const Network& network_;
        const Block& block_;
        const Kind kind_;
        Real* const result_;
        const Layout layout_;
        Maps maps_;
        std::vector<Queue> queues_;  // loading, each pass, the end
        std::vector<std::shared_ptr<Tiles>> tiles_;  // of each pass
        std::vector<std::unique_ptr<Scratch>> scratch_;  // of each thread
        std::vector<std::unique_ptr<Memory>> scores_;
    };

    std::vector<Real> weights_;
    std::vector<int> dilations_;
    std::vector<Real> biases_, head_weights_, head_biases_;
    std::vector<Window> windows_;
    Architecture net_;
    Head head_;
    std::vector<Pass> passes_;
    int most_points_, most_sources_ = 1;
    int reach_;  // largest dilation
    std::mutex busy_;
    std::unique_ptr<Memory> kept_;
};

}  // namespace
