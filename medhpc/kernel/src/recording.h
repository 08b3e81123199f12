// An evaluation whose maps are kept, so that gradients can be had from it.
#pragma once

#include "backward.h"
#include "network.h"

namespace {

class Recording {
   public:
    Recording(const Network& network, const Block& block, int threads, Real* scores)
        : network_(network), layout_(network.layout_of(block.shape)) {
        network.run(block, RAW, threads, scores, maps_);
    }

    void backward(const Real* scores, const Gradients& gradients, int threads) const {
        const Maps maps{layout_, {}, maps_->numbers + layout_.row, maps_->numbers, network_.architecture().inputs};
        Backward call(network_, maps, scores, gradients, threads);
        Team team;
        team.run(threads, [&](int member) { call.work(member, team); });
    }

   private:
    const Network& network_;
    const Layout layout_;
    std::unique_ptr<Memory> maps_;
};

}  // namespace
