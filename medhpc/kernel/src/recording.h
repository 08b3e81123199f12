// An evaluation whose maps are kept, so that gradients can be had from it.
#pragma once

#include "backward.h"
#include "block.h"
#include "spare.h"

namespace {

class Recording {
   public:
    Recording(const Network& network, std::shared_ptr<Spare> spare, const Block& block, int threads, Real* scores)
        : network_(network),
          spare_(std::move(spare)),
          layout_(network.layout_of(block.shape)),
          rings_(layout_, network.head().channels),
          maps_(spare_->take(rings_.numbers())) {
        network.run(block, RAW, threads, scores, maps_);
    }
    ~Recording() { spare_->give(std::move(maps_)); }

    void backward(const Real* scores, const Gradients& wanted, int threads) const {
        const int inputs = network_.architecture().inputs;
        const Maps maps{layout_, rings_, {}, maps_->numbers, maps_->numbers, inputs};
        std::unique_ptr<Memory> memory = spare_->take(rings_.numbers());
        const Maps gradients{layout_, rings_, {}, memory->numbers, maps_->numbers, inputs};
        Backward call(network_, maps, gradients, scores, wanted, threads);
        Team team;
        team.run(threads, [&](int member) { call.work(member, team); });
        spare_->give(std::move(memory));
    }

   private:
    const Network& network_;
    const std::shared_ptr<Spare> spare_;
    const Layout layout_;
    const Rings rings_;
    std::unique_ptr<Memory> maps_;
};

}  // namespace
