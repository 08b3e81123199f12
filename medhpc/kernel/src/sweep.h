// An evaluation that streams along z: planes in at one end, planes of scores out at the other. When: sweep_plan.h.
//
// Ranks that share a volume cut it in y. `low` and `high` rows are then ghosts: rows of the neighbours, which are put in
// when a layer is computed, and only read.
#pragma once

#include "evaluation.h"
#include "sweep_plan.h"

namespace {

struct SweepShape {
    int depth, height, width;  // of what is ours
    int low, high;             // ghost rows
    int step;                  // planes

    Layout layout(const Network& network) const {
        const int shape[3] = {depth, low + height + high, width};
        return network.layout_of(shape);
    }
};

class Sweep {
   public:
    Sweep(const Network& network, const SweepShape& shape, Kind kind, int threads)
        : network_(network),
          plan_(network),
          shape_(shape),
          kind_(kind),
          threads_(threads),
          layout_(shape.layout(network)),
          rings_(plan_.rings(layout_, shape.step)),
          memory_(rings_.numbers()),
          evaluation_(network, layout_, rings_, {{0, 0, 0}, {layout_.depth, layout_.height, layout_.width}},
                      memory_.numbers, threads) {}

    static ptrdiff_t bytes(const Network& network, const SweepShape& shape, int threads) {
        const Layout layout = shape.layout(network);
        const Rings rings = SweepPlan(network).rings(layout, shape.step);
        return sizeof(Real) * (rings.numbers() + threads * network.scratch_numbers(layout));
    }

    // The planes of a layer in this step; of layer -1, the inputs.
    std::array<int, 2> planes(int layer) const {
        const int start = at_ - plan_.lag(layer);
        return {std::clamp(start, 0, shape_.depth), std::clamp(start + shape_.step, 0, shape_.depth)};
    }

    // The planes of this step, with ghost rows.
    void load(const Voxels& voxels) {
        const auto [start, stop] = planes(-1);
        compute({evaluation_.load(voxels, start, stop)}, threads_);
    }

    // Layers `first` up to `stop`. result: of the last of all layers.
    void run(int first, int stop, Real* result) {
        std::vector<Stage> stages;
        auto pass = network_.passes().begin();
        for (int layer = first; layer < stop; layer++) {
            const Region region = ours(layer);
            if (region.length(0) == 0) continue;
            while (pass->layer < layer) pass++;
            for (; pass != network_.passes().end() && pass->layer == layer; pass++)
                stages.push_back(evaluation_.pass(*pass, region));
            const Channels channels = plan_.scored(layer);
            if (channels.first < channels.stop) stages.push_back(evaluation_.score(channels, region, kind_, result));
        }
        compute(stages, threads_);
    }

    // Visit rows of the maps of a layer: (map, plane of this step, row from `first` on).
    template <typename Row>
    void each_row(int layer, int first, int count, const Row& visit) const {
        const Architecture& net = network_.architecture();
        const auto [start, stop] = planes(layer);
        for (int map = layer * net.width; map < (layer + 1) * net.width; map++)
            for (int z = start; z < stop; z++)
                for (int y = first; y < first + count; y++) visit(evaluation_.maps().row(net.inputs + map, z, y));
    }

    void end_step() {
        at_ += shape_.step;
        plan_.turn(rings_, at_);
    }

    int width() const { return shape_.width; }

   private:
    Region ours(int layer) const {
        const auto [start, stop] = planes(layer);
        return {{start, shape_.low, 0}, {stop, shape_.low + shape_.height, shape_.width}};
    }

    const Network& network_;
    const SweepPlan plan_;
    const SweepShape shape_;
    const Kind kind_;
    const int threads_;
    const Layout layout_;
    Rings rings_;
    const Memory memory_;
    Evaluation evaluation_;
    int at_ = 0;  // first plane of this step
};

}  // namespace
