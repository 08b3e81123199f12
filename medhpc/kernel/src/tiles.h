// A pass cuts a region into tiles: up to 4 x 4 lattice points in (z, y) by a block of a row in x.
//
// The lattice of dilation s takes every s-th voxel; there are s of them along an axis ("phases"). Three or four points
// that are left at an end get a tile of four, one or two a tile of two. Order: phase in z, tile in z, phase in y, block
// in x, tile in y; so that neighbouring tiles share two of six input rows while these are in cache.
//
// The region is what of a map the wanted part of the result can depend on: it shrinks from layer to layer. In a sweep, it
// is the planes of a step. Outside of it maps hold whatever was in memory, NaN perhaps; a tile has no component that mixes
// such voxels into others.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "layout.h"

namespace {

// Vectors of a block in x, at most: ten maps' components and nine targets' products take 750 KB with them. Measured at
// 96 x 192 x 192, depth 85, with 1 MB of second-level cache: 2.28 s; with blocks of 128 columns, halos cost 10 % more.
constexpr int BLOCK = 256 / LANES;

struct Segment {
    int start;   // voxel of the first output
    int points;  // outputs of the transform: 4, 2, or 1 where the axis has no filter
    int inside;  // of these, inside the region

    bool meets(int first, int stop, int dilation) const {
        return start < stop && start + (inside - 1) * dilation >= first;
    }
};

struct Tile {
    Segment z, y;
    int x, vectors;  // the block
};

// Voxels from `start` up to, not including, `stop`: z, y, x.
struct Region {
    std::array<int, 3> start, stop;

    int length(int axis) const { return stop[axis] - start[axis]; }

    // With all voxels at most `reach` away, inside the volume.
    Region grown(int reach, const Layout& layout) const {
        const int length[3] = {layout.depth, layout.height, layout.width};
        Region larger = *this;
        for (int axis = 0; axis < 3; axis++) {
            larger.start[axis] = std::max(start[axis] - reach, 0);
            larger.stop[axis] = std::min(stop[axis] + reach, length[axis]);
        }
        return larger;
    }

    bool meets(const Tile& tile, int dilation) const {
        return tile.z.meets(start[0], stop[0], dilation) && tile.y.meets(start[1], stop[1], dilation) &&
               tile.x < stop[2] && tile.x + tile.vectors * LANES > start[2];
    }

    bool operator==(const Region& other) const { return start == other.start && stop == other.stop; }
};

// most: outputs of the largest transform, 4 or 2.
inline std::vector<std::vector<Segment>> segments_by_phase(int start, int stop, int dilation, int most) {
    std::vector<std::vector<Segment>> phases(std::min(dilation, stop - start));
    for (int phase = 0; phase < static_cast<int>(phases.size()); phase++) {
        int at = start + phase, left = (stop - at + dilation - 1) / dilation;
        while (left > 0) {
            const int points = left > 2 ? most : 2;
            phases[phase].push_back({at, points, std::min(points, left)});
            at += points * dilation;
            left -= points;
        }
    }
    return phases;
}

inline std::vector<std::vector<Segment>> each_alone(int start, int stop) {
    std::vector<Segment> planes;
    for (int z = start; z < stop; z++) planes.push_back({z, 1, 1});
    return {planes};
}

// Blocks of a part of a row: (first x, vectors).
inline std::vector<std::pair<int, int>> blocks(int start, int stop) {
    int at = start / LANES;
    const int count = (stop + LANES - 1) / LANES - at, parts = (count + BLOCK - 1) / BLOCK;
    std::vector<std::pair<int, int>> found;
    for (int part = 0; part < parts; part++) {
        const int vectors = (count + part) / parts;
        found.push_back({at * LANES, vectors});
        at += vectors;
    }
    return found;
}

inline std::vector<Segment> segments_along_z(const Region& region, int dilation, int dimensions, int most) {
    const auto phases = dimensions == 3 ? segments_by_phase(region.start[0], region.stop[0], dilation, most)
                                        : each_alone(region.start[0], region.stop[0]);
    std::vector<Segment> found;
    for (const auto& phase : phases) found.insert(found.end(), phase.begin(), phase.end());
    return found;
}

// Their z is open.
using TilesOfPlane = std::vector<Tile>;

inline TilesOfPlane tiles_of_plane(const Region& region, int dilation, int most) {
    const auto along_x = blocks(region.start[2], region.stop[2]);
    TilesOfPlane found;
    for (const auto& phase : segments_by_phase(region.start[1], region.stop[1], dilation, most))
        for (const auto& [x, vectors] : along_x)
            for (const Segment& y : phase) found.push_back({{}, y, x, vectors});
    return found;
}

struct Tiles {
    std::vector<Segment> along_z;
    std::shared_ptr<const TilesOfPlane> of_plane;  // the same at each z

    int size() const { return static_cast<int>(along_z.size() * of_plane->size()); }
    Tile operator[](int at) const {
        const int count = static_cast<int>(of_plane->size());
        Tile tile = (*of_plane)[at % count];
        tile.z = along_z[at / count];
        return tile;
    }
};

}  // namespace
