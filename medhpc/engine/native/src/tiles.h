// A pass cuts the volume into tiles: up to 4 x 4 lattice points in (z, y) by a block of a row in x.
//
// The lattice of dilation s takes every s-th voxel; there are s of them along an axis ("phases"). Three or four points
// that are left at an end get a tile of four, one or two a tile of two. Order: phase in z, tile in z, phase in y, block
// in x, tile in y; so that neighbouring tiles share two of six input rows while these are in cache.
#pragma once

#include <algorithm>
#include <vector>

#include "layout.h"

namespace {

// Vectors of a block in x, at most: ten maps' components and nine targets' products take 750 KB with them. Measured at
// 96 x 192 x 192, depth 85, with 1 MB of second-level cache: 2.28 s; with blocks of 128 columns, halos cost 10 % more.
constexpr int BLOCK = 256 / LANES;

struct Segment {
    int start;   // voxel of the first output
    int points;  // outputs of the transform: 4, 2, or 1 where the axis has no filter
    int inside;  // of these, inside the volume
};

struct Tile {
    Segment z, y;
    int x, vectors;  // the block
};

inline std::vector<std::vector<Segment>> segments_by_phase(int length, int dilation) {
    std::vector<std::vector<Segment>> phases(std::min(dilation, length));
    for (int phase = 0; phase < static_cast<int>(phases.size()); phase++) {
        int left = (length - phase + dilation - 1) / dilation;
        for (int at = phase; left > 0;) {
            const int points = left > 2 ? 4 : 2;
            phases[phase].push_back({at, points, std::min(points, left)});
            at += points * dilation;
            left -= points;
        }
    }
    return phases;
}

inline std::vector<Segment> each_alone(int length) {
    std::vector<Segment> planes;
    for (int z = 0; z < length; z++) planes.push_back({z, 1, 1});
    return planes;
}

// Vectors of the longest block. What a row is continued by comes from one block: blocks are longer than the dilation.
inline int longest_block(const Layout& layout, int dilation) {
    return dilation < 32 ? std::min(layout.vectors, BLOCK) : layout.vectors;
}

// Blocks of a row: (first x, vectors).
inline std::vector<std::pair<int, int>> blocks(const Layout& layout, int dilation) {
    const int longest = longest_block(layout, dilation);
    const int parts = (layout.vectors + longest - 1) / longest;
    std::vector<std::pair<int, int>> found;
    for (int part = 0, at = 0; part < parts; part++) {
        const int vectors = (layout.vectors + part) / parts;
        found.push_back({at * LANES, vectors});
        at += vectors;
    }
    return found;
}

inline std::vector<Tile> tiles(const Layout& layout, int dilation, int dimensions) {
    const auto along_y = segments_by_phase(layout.height, dilation);
    const auto along_z = dimensions == 3 ? segments_by_phase(layout.depth, dilation)
                                         : std::vector<std::vector<Segment>>{each_alone(layout.depth)};
    std::vector<Tile> found;
    for (const auto& phase_z : along_z)
        for (const Segment& z : phase_z)
            for (const auto& phase_y : along_y)
                for (const auto& [x, vectors] : blocks(layout, dilation))
                    for (const Segment& y : phase_y) found.push_back({z, y, x, vectors});
    return found;
}

}  // namespace
