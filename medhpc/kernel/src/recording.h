// An evaluation whose maps are kept, so that gradients can be had from it.
#pragma once

#include "backward.h"
#include "network.h"
#include "spare.h"

namespace {

class Recording {
   public:
    Recording(const Network& network, std::shared_ptr<Spare> spare, const Block& block, int threads, Real* scores)
        : network_(network),
          spare_(std::move(spare)),
          layout_(network.layout_of(block.shape)),
          maps_(spare_->take(network.maps_numbers(layout_))) {
        network.run(block, RAW, threads, scores, maps_);
    }
    ~Recording() { spare_->give(std::move(maps_)); }

    void backward(const Real* scores, const Gradients& wanted, int threads) const {
        const int inputs = network_.architecture().inputs;
        const Maps maps{layout_, {}, maps_->numbers + layout_.row, maps_->numbers, inputs};
        std::unique_ptr<Memory> memory = spare_->take(network_.maps_numbers(layout_));
        const Maps gradients{layout_, {}, memory->numbers + layout_.row, maps_->numbers, inputs};
        Backward call(network_, maps, gradients, scores, wanted, threads);
        Team team;
        team.run(threads, [&](int member) { call.work(member, team); });
        spare_->give(std::move(memory));
    }

   private:
    const Network& network_;
    const std::shared_ptr<Spare> spare_;
    const Layout layout_;
    std::unique_ptr<Memory> maps_;
};

}  // namespace
