// The ends of a network: normalised rows in, scores or probabilities of rows out.
//
// scores[output][x] = bias + sum over channels of weight[output][channel] * channel[x]: memory is the limit, so each
// row of each channel is read once, while the scores of the row stay in the first-level cache. A sweep adds them up in
// several runs of channels.
#pragma once

#include <algorithm>
#include <cmath>

#include "layout.h"
#include "multiply.h"

namespace {

// A channel is clipped to [low, high], then (value - middle) * scale.
struct Window {
    Real low, high, middle, scale;
};

inline void load_row(const char* from, ptrdiff_t step, const Window& window, int width, Real* row) {
    for (int x = 0; x < width; x++) {
        const Real value = *reinterpret_cast<const Real*>(from + x * step);
        row[x] = (std::min(std::max(value, window.low), window.high) - window.middle) * window.scale;
    }
}

enum Kind { RAW, CLASSES, PROBABILITY };  // what is asked for; PROBABILITY leaves out the background

// From the first up to, not including, `stop`.
struct Channels {
    int first, stop;
};

struct Head {
    int channels, outputs;
    const Real* weights;  // [output][channel]
    const Real* biases;

    // Add what a run of channels gives to a row of scores, [outputs][stride]. rows: of these channels.
    void add_row(const Real* const* rows, const Channels& run, int vectors, Real* scores, ptrdiff_t stride) const {
        constexpr int AHEAD = 4;  // channels: each is a stream of its own to the memory
        const int length = vectors * LANES;
        for (int c = run.first; c < run.stop; c++, rows++) {
            if (c + AHEAD < run.stop) {
                for (int x = 0; x < length; x += LINE) prefetch(rows[AHEAD] + x);
            }
            for (int k = 0; k < outputs; k++) {
                const Vector weight = broadcast(weights[k * channels + c]);
                Real* score = scores + k * stride;
                for (int x = 0; x < length; x += LANES) store(score + x, load(score + x) + weight * load(*rows + x));
            }
        }
    }
};

// In place: scores (outputs, length) into probabilities.
inline void activate(Real* scores, ptrdiff_t stride, int outputs, int length) {
    for (int x = 0; x < length; x++) {
        Real* voxel = scores + x;
        if (outputs == 1) {
            voxel[0] = 1 / (1 + std::exp(-voxel[0]));
            continue;
        }
        Real largest = voxel[0], sum = 0;
        for (int k = 1; k < outputs; k++) largest = std::max(largest, voxel[k * stride]);
        for (int k = 0; k < outputs; k++) sum += voxel[k * stride] = std::exp(voxel[k * stride] - largest);
        for (int k = 0; k < outputs; k++) voxel[k * stride] /= sum;
    }
}

}  // namespace
