// The ends of a network: normalised rows in, scores or probabilities of rows out.
//
// scores[output][x] = bias + sum over channels of weight[output][channel] * channel[x]: memory is the limit, so each
// row of each channel is read once, while the scores of the row stay in the first-level cache.
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

struct Head {
    int channels, outputs;
    const Real* weights;  // [output][channel]
    const Real* biases;

    // channel: the row in the first channel; channels are `stride` apart. scores: [outputs][scores_stride].
    void score_row(const Real* channel, ptrdiff_t stride, int vectors, Real* scores, ptrdiff_t scores_stride) const {
        constexpr int AHEAD = 4;  // channels: each is a stream of its own to the memory
        const int length = vectors * LANES;
        for (int k = 0; k < outputs; k++) std::fill_n(scores + k * scores_stride, length, biases[k]);
        for (int c = 0; c < channels; c++, channel += stride) {
            if (c + AHEAD < channels) {
                for (int x = 0; x < length; x += LINE) prefetch(channel + AHEAD * stride + x);
            }
            for (int k = 0; k < outputs; k++) {
                const Vector weight = broadcast(weights[k * channels + c]);
                Real* score = scores + k * scores_stride;
                for (int x = 0; x < length; x += LANES) store(score + x, load(score + x) + weight * load(channel + x));
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
