// The order of work: class by class of equal dilation ("class-visit"), as medhpc/nets/visits.py explains it.
//
// At layer k take the channels made since the dilations of this layer were last used, and add what they give to *all*
// later maps of the same dilation. One pass is one such step: it reads `sources` channels and adds to the sums of its
// targets. Channels are the inputs, then the maps.
#pragma once

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "multiply.h"
#include "winograd.h"

namespace {

// Source channels of a pass, at most: dilations in turns of ten give ten, and their components stay in cache.
constexpr int MOST_SOURCES = 12;

struct Architecture {
    int inputs, outputs, maps, width, dimensions;
    bool reflected;
    const int* dilations;  // of each map
    const Real* weights;  // [layer][channel of the layer][source][z tap (3D)][y tap][x tap]
    const Real* biases;   // of each map

    // The 3 x 3 x 3 or 3 x 3 taps from channel `source` to map `target`.
    const Real* kernel(int target, int source) const {
        const long layer = target / width, taps = dimensions == 3 ? 27 : 9;
        const long before = width * (layer * inputs + width * (layer * (layer - 1) / 2));  // kernels of earlier layers
        return weights + taps * (before + (target % width) * (inputs + layer * width) + source);
    }
};

// Targets whose sums are in registers together.
struct Group {
    std::vector<int> targets;  // maps, in their order
    int complete;              // the first so many have all their parts after this pass
    int reach;                 // how far from a voxel its score depends on the first of them; on the others, less
    std::vector<Real> weights[2][2];  // [4 outputs in z][4 in y]: [component][source][x tap][target]
};

struct Pass {
    int layer;  // whose turn it is
    int dilation, first_source, sources;
    std::vector<Group> groups;

    bool starts() const { return first_source == 0; }
    int reach() const { return groups.front().reach; }
};

// Transform x tap `x` of a kernel: component k to result[k * stride].
inline void transform_filter(const Real* kernel, int dimensions, int outputs_z, int outputs_y, int x, Real* result,
                             ptrdiff_t stride) {
    for (int i = 0; i < components(outputs_z); i++) {
        double part[3] = {};  // of each y tap
        for (int z = 0; z < (dimensions == 3 ? 3 : 1); z++)
            for (int y = 0; y < 3; y++) part[y] += filter_factor(outputs_z, i, z) * kernel[(z * 3 + y) * 3 + x];
        for (int j = 0; j < components(outputs_y); j++, result += stride) {
            double sum = 0;
            for (int y = 0; y < 3; y++) sum += filter_factor(outputs_y, j, y) * part[y];
            *result = static_cast<Real>(sum);
        }
    }
}

inline std::vector<Real> transformed_weights(const Architecture& net, const Pass& pass,
                                              const std::vector<int>& targets, int outputs_z, int outputs_y) {
    const std::size_t stride = pass.sources * 3 * targets.size();
    std::vector<Real> weights(components(outputs_z) * components(outputs_y) * stride);
    Real* result = weights.data();
    for (int source = pass.first_source; source < pass.first_source + pass.sources; source++)
        for (int x = 0; x < 3; x++)
            for (int target : targets)
                transform_filter(net.kernel(target, source), net.dimensions, outputs_z, outputs_y, x, result++, stride);
    return weights;
}

// Divide `number` into the fewest near-equal parts of at most `most`; the sizes.
inline std::vector<int> divided(int number, int most) {
    const int parts = (number + most - 1) / most;
    std::vector<int> sizes;
    for (int part = 0; part < parts; part++) sizes.push_back((number + part) / parts);
    return sizes;
}

// How far from a voxel its score depends on the maps of a layer: the dilations of all later layers.
inline int reach_of(const Architecture& net, int map) {
    int reach = 0;
    for (int later = (map / net.width + 1) * net.width; later < net.maps; later += net.width)
        reach += *std::max_element(net.dilations + later, net.dilations + later + net.width);
    return reach;
}

inline void add_passes(const Architecture& net, int dilation, int first_source, int stop, int first_map,
                       std::vector<Pass>& passes) {
    std::vector<int> targets;
    int in_this_layer = 0;
    for (int map = first_map; map < net.maps; map++) {
        if (net.dilations[map] != dilation) continue;
        targets.push_back(map);
        in_this_layer += map < first_map + net.width;
    }
    for (int sources : divided(stop - first_source, MOST_SOURCES)) {
        Pass pass{first_map / net.width, dilation, first_source, sources, {}};
        first_source += sources;
        int complete = first_source == stop ? in_this_layer : 0;
        auto target = targets.begin();
        for (int size : divided(static_cast<int>(targets.size()), MOST_TARGETS)) {
            Group group{{target, target + size}, std::min(complete, size), reach_of(net, *target), {}};
            target += size;
            complete -= group.complete;
            for (int z = 0; z < (net.dimensions == 3 ? 2 : 1); z++)
                for (int y = 0; y < 2; y++) {
                    const int outputs_z = net.dimensions == 2 ? 1 : z ? 4 : 2;
                    group.weights[z][y] = transformed_weights(net, pass, group.targets, outputs_z, y ? 4 : 2);
                }
            pass.groups.push_back(std::move(group));
        }
        passes.push_back(std::move(pass));
    }
}

inline std::vector<Pass> schedule(const Architecture& net) {
    std::vector<Pass> passes;
    std::map<int, int> taken;  // by dilation: channels that its maps have got so far
    for (int first_map = 0; first_map < net.maps; first_map += net.width) {
        const int ready = net.inputs + first_map;
        const std::set<int> now(net.dilations + first_map, net.dilations + first_map + net.width);
        for (int dilation : now) {
            add_passes(net, dilation, taken[dilation], ready, first_map, passes);
            taken[dilation] = ready;
        }
    }
    return passes;
}

}  // namespace
