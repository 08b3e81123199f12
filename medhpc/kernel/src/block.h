// The evaluation of one block: all of it at once.
#pragma once

#include "evaluation.h"

namespace {

struct Block {
    Voxels voxels;
    const int* shape;  // z, y, x
    Region wanted;     // of the result
};

inline void Network::run(const Block& block, Kind kind, int threads, Real* result) {
    // A second call at the same time gets memory of its own; so does a child of a fork during a call.
    std::unique_lock<std::mutex> mine(busy_, std::try_to_lock);
    std::unique_ptr<Memory> other;
    run(block, kind, threads, result, mine ? kept_ : other);
}

// Into this memory: a row of zeros, then the inputs and all maps, of which none is written once it is complete.
inline void Network::run(const Block& block, Kind kind, int threads, Real* result,
                         std::unique_ptr<Memory>& memory) const {
    const Layout layout = layout_of(block.shape);
    const Rings rings(layout, head_.channels);
    if (!memory || memory->size < rings.numbers()) {
        memory.reset();
        memory = std::make_unique<Memory>(rings.numbers());
    }
    Evaluation evaluation(*this, layout, rings, block.wanted, memory->numbers, threads);
    std::vector<Stage> stages = {evaluation.load(block.voxels, 0, layout.depth)};
    for (const Pass& pass : passes_)
        stages.push_back(evaluation.pass(pass, block.wanted.grown(pass.reach(), layout)));
    stages.push_back(evaluation.score({0, head_.channels}, block.wanted, kind, result));
    compute(stages, threads);
}

}  // namespace
