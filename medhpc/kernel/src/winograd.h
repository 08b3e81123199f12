// Winograd's minimal filtering F(M, 3): M neighbouring outputs of a 3-tap filter by M + 2 products instead of 3 M.
//
//     outputs = A^T [ (G filter) * (B^T inputs) ]      Lavin & Gray, "Fast algorithms for convolutional neural
//                                                      networks", CVPR 2016; points 0, 1, -1, 2, -2 and infinity
//
// "Neighbouring" means on the lattice of one dilation: voxels s apart. M = 1 stands for an axis without a filter (the
// z axis of a 2D network). Over two axes, transforms nest; F(4, 3) x F(4, 3) spends 36 products where 144 are due.
#pragma once

#include "vector.h"

namespace {

constexpr int components(int outputs) { return outputs == 1 ? 1 : outputs + 2; }

template <int M>
inline void transform_inputs(const Vector* d, Vector* t) {
    if constexpr (M == 1) {
        t[0] = d[0];
    } else if constexpr (M == 2) {
        t[0] = d[0] - d[2];
        t[1] = d[1] + d[2];
        t[2] = d[2] - d[1];
        t[3] = d[1] - d[3];
    } else {
        const Vector even = d[4] - 4.0f * d[2], odd = d[3] - 4.0f * d[1];
        const Vector even2 = d[4] - d[2], odd2 = d[3] - d[1];
        t[0] = 4.0f * d[0] + (d[4] - 5.0f * d[2]);
        t[1] = even + odd;
        t[2] = even - odd;
        t[3] = even2 + 2.0f * odd2;
        t[4] = even2 - 2.0f * odd2;
        t[5] = (d[5] - d[3]) - 4.0f * odd2;
    }
}

template <int M>
inline void transform_outputs(const Vector* m, Vector* y) {
    if constexpr (M == 1) {
        y[0] = m[0];
    } else if constexpr (M == 2) {
        y[0] = m[0] + (m[1] + m[2]);
        y[1] = (m[1] - m[2]) - m[3];
    } else {
        const Vector sum = m[1] + m[2], difference = m[1] - m[2];
        const Vector sum2 = m[3] + m[4], difference2 = m[3] - m[4];
        y[0] = (m[0] + sum) + sum2;
        y[1] = difference + 2.0f * difference2;
        y[2] = sum + 4.0f * sum2;
        y[3] = (difference + m[5]) + 8.0f * difference2;
    }
}

// The transposes, for gradients: of outputs into components, of components to inputs, and (below) to a filter's taps.
template <int M>
inline void transform_output_gradients(const Vector* y, Vector* m) {
    if constexpr (M == 1) {
        m[0] = y[0];
    } else if constexpr (M == 2) {
        m[0] = y[0];
        m[1] = y[0] + y[1];
        m[2] = y[0] - y[1];
        m[3] = -y[1];
    } else {
        const Vector even = y[0] + y[2], odd = y[1] + y[3];
        const Vector even2 = y[0] + 4.0f * y[2], odd2 = 2.0f * y[1] + 8.0f * y[3];
        m[0] = y[0];
        m[1] = even + odd;
        m[2] = even - odd;
        m[3] = even2 + odd2;
        m[4] = even2 - odd2;
        m[5] = y[3];
    }
}

template <int M>
inline void transform_input_gradients(const Vector* t, Vector* d) {
    if constexpr (M == 1) {
        d[0] = t[0];
    } else if constexpr (M == 2) {
        d[0] = t[0];
        d[1] = (t[1] - t[2]) + t[3];
        d[2] = (t[1] + t[2]) - t[0];
        d[3] = -t[3];
    } else {
        const Vector sum = t[1] + t[2], difference = t[1] - t[2];
        const Vector sum2 = t[3] + t[4], difference2 = t[3] - t[4];
        d[0] = 4.0f * t[0];
        d[1] = 4.0f * (t[5] - difference) - 2.0f * difference2;
        d[2] = -5.0f * t[0] - (4.0f * sum + sum2);
        d[3] = (difference - 5.0f * t[5]) + 2.0f * difference2;
        d[4] = t[0] + (sum + sum2);
        d[5] = t[5];
    }
}

constexpr int taps(int outputs) { return outputs == 1 ? 1 : 3; }

template <int M>
inline void transform_filter_gradients(const Vector* t, Vector* tap) {
    constexpr Real SIXTH = Real(1) / 6;
    if constexpr (M == 1) {
        tap[0] = t[0];
    } else if constexpr (M == 2) {
        const Vector half = 0.5f * (t[1] + t[2]);
        tap[0] = t[0] + half;
        tap[1] = 0.5f * (t[1] - t[2]);
        tap[2] = half + t[3];
    } else {
        const Vector sum = t[1] + t[2], sum2 = t[3] + t[4];
        tap[0] = 0.25f * t[0] + SIXTH * (0.25f * sum2 - sum);
        tap[1] = SIXTH * ((t[2] - t[1]) + 0.5f * (t[3] - t[4]));
        tap[2] = SIXTH * (sum2 - sum) + t[5];
    }
}

// The factor of filter tap `tap` in component `component` of the transformed filter.
inline double filter_factor(int outputs, int component, int tap) {
    static const double two[4][3] = {{1, 0, 0}, {.5, .5, .5}, {.5, -.5, .5}, {0, 0, 1}};
    static const double four[6][3] = {{1 / 4., 0, 0},           {-1 / 6., -1 / 6., -1 / 6.}, {-1 / 6., 1 / 6., -1 / 6.},
                                      {1 / 24., 1 / 12., 1 / 6.}, {1 / 24., -1 / 12., 1 / 6.}, {0, 0, 1}};
    if (outputs == 1) return 1;
    return outputs == 2 ? two[component][tap] : four[component][tap];
}

}  // namespace
