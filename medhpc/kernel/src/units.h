// What one thread does in turn in the backward pass, and what several threads may do at once.
//
// A tile adds to the gradients of all rows that it has read: those of 4 x 4 lattice points and around them, of which some
// are also another tile's. A unit is a run of tiles at the same z, of one shape. Units that share no row form a round;
// rounds follow each other, so that no row has two writers, and the order of its sums is always the same.
//
//     z of units, dilation 1, rows 0 to 11      round 0:  [ 0  1  2  3 ] 4          round 1:        3 [ 4 5 6 7 ] 8
//     (read: one more on each side)                                         7 [ 8 9 10 11 ]
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "tiles.h"

namespace {

// Tiles of a unit, at most: fewer would add up sums of weights more often, more would leave threads without work.
constexpr int UNIT = 32;

struct Unit {
    std::vector<Tile> tiles;
};

using Round = std::vector<Unit>;

// Rows of the axis that something reads.
class Rows {
   public:
    explicit Rows(int length) : bits_((length + 63) / 64) {}

    void add(const Segment& segment, int dilation, const Layout& layout, int length) {
        const int around = segment.points > 1;
        for (int k = -around; k < segment.inside + around; k++) {
            const int row = layout.seen(segment.start + k * dilation, length);
            if (row >= 0) bits_[row / 64] |= std::uint64_t{1} << row % 64;
        }
    }

    bool meets(const Rows& other) const {
        for (std::size_t k = 0; k < bits_.size(); k++)
            if (bits_[k] & other.bits_[k]) return true;
        return false;
    }

   private:
    std::vector<std::uint64_t> bits_;
};

// All segments of one number of points, phase after phase, in runs of at most UNIT.
inline std::vector<std::vector<Segment>> runs(const std::vector<std::vector<Segment>>& phases, int points) {
    std::vector<std::vector<Segment>> found;
    std::vector<Segment> all;
    for (const auto& phase : phases)
        for (const Segment& segment : phase)
            if (segment.points == points) all.push_back(segment);
    const int count = static_cast<int>(all.size()), parts = (count + UNIT - 1) / UNIT;
    for (int part = 0; part < parts; part++)
        found.emplace_back(all.begin() + count * part / parts, all.begin() + count * (part + 1) / parts);
    return found;
}

class Rounds {
   public:
    explicit Rounds(const Layout& layout) : layout_(layout) {}

    // Put a unit of these tiles, along y at one z, into the first round that leaves its rows alone.
    void add(const Segment& z, const std::vector<Segment>& along_y, int dilation) {
        Taken rows{Rows(layout_.depth), Rows(layout_.height)};
        rows.z.add(z, dilation, layout_, layout_.depth);
        Unit unit;
        for (const Segment& y : along_y) {
            rows.y.add(y, dilation, layout_, layout_.height);
            unit.tiles.push_back({z, y, 0, layout_.vectors});
        }
        std::size_t round = 0;
        while (round < taken_.size() && meets(taken_[round], rows)) round++;
        if (round == taken_.size()) {
            rounds_.emplace_back();
            taken_.emplace_back();
        }
        rounds_[round].push_back(std::move(unit));
        taken_[round].push_back(rows);
    }

    std::vector<Round> all() && { return std::move(rounds_); }

   private:
    struct Taken {
        Rows z, y;
    };

    static bool meets(const std::vector<Taken>& taken, const Taken& rows) {
        return std::any_of(taken.begin(), taken.end(),
                           [&](const Taken& other) { return other.z.meets(rows.z) && other.y.meets(rows.y); });
    }

    const Layout& layout_;
    std::vector<Round> rounds_;
    std::vector<std::vector<Taken>> taken_;  // by the units of each round
};

// most: outputs of the largest transform, 4 or 2.
inline std::vector<Round> rounds(const Layout& layout, int dilation, int dimensions, int most) {
    const auto along_z = dimensions == 3 ? segments_by_phase(0, layout.depth, dilation, most)
                                         : each_alone(0, layout.depth);
    const auto along_y = segments_by_phase(0, layout.height, dilation, most);
    Rounds found(layout);
    for (int points : {4, 2})
        for (const auto& run : runs(along_y, points))
            for (const auto& phase : along_z)
                for (const Segment& z : phase) found.add(z, run, dilation);
    return std::move(found).all();
}

}  // namespace
