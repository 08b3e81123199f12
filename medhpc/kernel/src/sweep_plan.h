// What a sweep (sweep.h) computes when, and which planes it keeps.
//
// Layer k lags behind the input by the dilations up to k, so that all planes that it reads are there:
//
//     lag(k) = sum of the largest dilation of each of the layers 0 to k
//     a step of n planes from t on: layer k computes planes t - lag(k) up to t + n - lag(k), those of them that exist
//
// A pass goes to all its targets at this lag (schedule.h), so that the sums of a late map live long: from the first pass of
// its dilation on. A finished map lives until the last pass, or the last run of channels of the scores, has read it. A
// plane that is reflected is nearer than the one that it stands for, and so is kept.
#pragma once

#include <climits>

#include "network.h"

namespace {

// Channels, at least, whose part of the scores is added at a time: more would have to be kept for it, fewer would read and
// write the scores more often.
constexpr int SCORED_TOGETHER = 8;

class SweepPlan {
   public:
    explicit SweepPlan(const Network& network) : network_(network) {
        const Architecture& net = network.architecture();
        int lag = 0, given = 0;
        for (int layer = 0; layer < network.layers(); layer++) {
            const int* dilations = net.dilations + layer * net.width;
            lags_.push_back(lag += along_z(*std::max_element(dilations, dilations + net.width)));
            const int ready = net.inputs + (layer + 1) * net.width;
            const bool due = ready - given >= SCORED_TOGETHER || layer == network.layers() - 1;
            scored_.push_back({given, due ? ready : given});
            given = scored_.back().stop;
        }
        find_lives();
    }

    // Of a layer; -1: the inputs.
    int lag(int layer) const { return layer < 0 ? 0 : lags_[layer]; }

    // The channels whose part of the scores is added in a layer's turn.
    Channels scored(int layer) const { return scored_[layer]; }

    // The last ones are those of the scores.
    Rings rings(const Layout& layout, int step) const {
        Rings rings(layout);
        for (const Life& life : lives_) rings.add(std::min(layout.depth, life.stop - life.start + step));
        return rings;
    }

    // Keep what the step from plane `at` on and later ones read.
    void turn(Rings& rings, int at) const {
        for (std::size_t c = 0; c < lives_.size(); c++) rings[c].keep_from(std::max(0, at - lives_[c].stop));
    }

    // Where a sweep begins inside of a volume: planes of its result that may differ, in any bit, from those of a sweep that
    // has begun a number of steps below. They depend on the border, or share tiles, and so rounding, with such planes.
    int warm_up(int step) const {
        if (network_.architecture().dimensions == 2) return 0;
        int wrong = 0, here = 0, layer = 0;  // planes of earlier layers; of this layer, too
        for (const Pass& pass : network_.passes()) {
            if (pass.layer != layer) wrong = here;
            layer = pass.layer;
            int start = -(lag(layer) % step);
            if (start < 0) here = std::max(here, start += step);  // a part of a step: other tiles
            for (; start - pass.dilation < wrong; start += step)
                for (const auto& phase : segments_by_phase(start, start + step, pass.dilation, network_.most_points()))
                    for (const Segment& z : phase) here = std::max(here, wrong_until(z, pass.dilation, wrong));
        }
        return here;
    }

   private:
    // Lags at which a channel is written first, and at which, with the dilation, it is read last.
    struct Life {
        int start, stop;
    };

    // Planes that a tap reaches: the planes of a 2D network do not see each other.
    int along_z(int dilation) const { return network_.architecture().dimensions == 3 ? dilation : 0; }

    void find_lives() {
        const int inputs = network_.architecture().inputs, channels = network_.head().channels;
        for (int c = 0; c < channels; c++) lives_.push_back({c < inputs ? 0 : INT_MAX, 0});
        for (const Pass& pass : network_.passes()) {
            const int lag = lags_[pass.layer];
            for (int c = pass.first_source; c < pass.first_source + pass.sources; c++)
                lives_[c].stop = std::max(lives_[c].stop, lag + along_z(pass.dilation));
            for (const Group& group : pass.groups)
                for (int target : group.targets) lives_[inputs + target].start = std::min(lives_[inputs + target].start, lag);
        }
        int first = INT_MAX;
        for (int layer = 0; layer < network_.layers(); layer++) {
            for (int c = scored_[layer].first; c < scored_[layer].stop; c++)
                lives_[c].stop = std::max(lives_[c].stop, lags_[layer]);
            if (scored_[layer].stop > 0) first = std::min(first, lags_[layer]);
        }
        if (scored_.back().first > 0) lives_.insert(lives_.end(), network_.head().outputs, {first, lags_.back()});
    }

    // The first output of a tile depends on the plane before it, each on the plane of the first output.
    static int wrong_until(const Segment& z, int dilation, int wrong) {
        if (z.start < wrong) return z.start + (z.inside - 1) * dilation + 1;
        return z.start - dilation < wrong ? z.start + 1 : 0;
    }

    const Network& network_;
    std::vector<int> lags_;
    std::vector<Channels> scored_;
    std::vector<Life> lives_;  // of each channel, then of the scores
};

}  // namespace
