// The passes of the schedule, last to first, as the backward pass takes them: from the gradients of some target maps, what
// the gradients of the source channels and of the weights between them get.
#pragma once

#include <vector>

#include "schedule.h"

namespace {

// Target maps of a backward pass, at most. More would share the transformed sources; but the sums of their weights'
// gradients (36 x 10 x 3 vectors a target) would not stay in 1 MB of second-level cache.
constexpr int MOST_RETURNING = 9;

struct BackwardPass {
    int layer;  // whose turn it is
    int dilation, first_source, sources;
    std::vector<int> targets;  // maps of this layer and later ones, in their order
    int skipped;               // first so many sources whose gradients nobody wants
    // Of the other sources, those whose sums are in registers together; and for each such part,
    // [4 outputs in z][4 in y]: [component][target][x tap, mirrored][source of the part]
    std::vector<int> parts;
    std::vector<std::vector<Real>> weights[2][2];

    bool returns() const { return skipped < sources; }
};

inline std::vector<Real> mirrored_weights(const Architecture& net, const BackwardPass& pass, int first, int count,
                                          int outputs_z, int outputs_y) {
    const std::size_t stride = pass.targets.size() * 3 * count;
    std::vector<Real> weights(components(outputs_z) * components(outputs_y) * stride);
    Real* result = weights.data();
    for (int target : pass.targets)
        for (int x = 2; x >= 0; x--)
            for (int source = first; source < first + count; source++)
                transform_filter(net.kernel(target, source), net.dimensions, outputs_z, outputs_y, x, result++, stride);
    return weights;
}

inline void add_mirrored_weights(const Architecture& net, BackwardPass& pass) {
    if (!pass.returns()) return;
    pass.parts = divided(pass.sources - pass.skipped, MOST_TARGETS);
    for (int z = 0; z < (net.dimensions == 3 ? 2 : 1); z++)
        for (int y = 0; y < 2; y++) {
            const int outputs_z = net.dimensions == 2 ? 1 : z ? 4 : 2;
            int first = pass.first_source + pass.skipped;
            for (int count : pass.parts) {
                pass.weights[z][y].push_back(mirrored_weights(net, pass, first, count, outputs_z, y ? 4 : 2));
                first += count;
            }
        }
}

// to_inputs: whether the gradients of the inputs are wanted, too.
inline std::vector<BackwardPass> backward_schedule(const Architecture& net, const std::vector<Pass>& forward,
                                                   bool to_inputs) {
    std::vector<BackwardPass> passes;
    for (auto pass = forward.rbegin(); pass != forward.rend(); ++pass) {
        std::vector<int> targets;
        for (const Group& group : pass->groups) targets.insert(targets.end(), group.targets.begin(), group.targets.end());
        const int unwanted = to_inputs ? 0 : net.inputs - pass->first_source;
        const int skipped = std::min(std::max(unwanted, 0), pass->sources);
        auto target = targets.begin();
        for (int size : divided(static_cast<int>(targets.size()), MOST_RETURNING)) {
            passes.push_back(
                {pass->layer, pass->dilation, pass->first_source, pass->sources, {target, target + size}, skipped, {}, {}});
            add_mirrored_weights(net, passes.back());
            target += size;
        }
    }
    return passes;
}

}  // namespace
