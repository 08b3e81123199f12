// Evaluates networks of several shapes with the native engine's code, for the sanitizers of the compiler to watch.
#include <cstdio>
#include <random>

#include "library.cpp"

namespace {

struct Case {
    int inputs, outputs, depth, width, dimensions, reflected, largest_dilation, shape[3], threads;
};

std::vector<float> noise(long count) {
    static std::mt19937 random(0);
    std::normal_distribution<float> normal;
    std::vector<float> values(count);
    for (float& value : values) value = normal(random) * 0.1f;
    return values;
}

void backward(void* network, const Case& c, const std::vector<float>& block, std::size_t weights, int channels) {
    const int64_t plane = int64_t{c.shape[1]} * c.shape[2], voxels = c.shape[0] * plane;
    const int64_t strides[4] = {4 * voxels, 4 * plane, 4 * c.shape[2], 4};
    std::vector<float> scores(c.outputs * voxels), inputs(c.inputs * voxels), of_weights(weights), biases(channels);
    std::vector<float> head(c.outputs * channels), head_biases(c.outputs);
    void* spare = msd_spare();
    void* recording = msd_record(network, spare, block.data(), strides, c.shape, c.threads, scores.data());
    for (int left_out = 0; left_out < 4; left_out++) {
        Real* const of_inputs = left_out & 1 ? nullptr : inputs.data();
        Real* const kernels = left_out & 2 ? nullptr : of_weights.data();
        if (msd_backward(recording, scores.data(), c.threads, of_inputs, kernels, biases.data(), head.data(),
                         head_biases.data()))
            std::abort();
    }
    msd_forget_spare(spare);
    msd_forget(recording);
}

// Steps of 7 planes, over rows of our own between ghosts that the neighbours would give.
void sweep(void* network, const Case& c, const std::vector<float>& block) {
    const int64_t plane = int64_t{c.shape[1]} * c.shape[2], voxels = c.shape[0] * plane;
    const int64_t strides[4] = {4 * voxels, 4 * plane, 4 * c.shape[2], 4};
    const int ghosts = c.shape[1] > 3 * c.largest_dilation ? c.largest_dilation : 0, rows = c.shape[1] - 2 * ghosts;
    const int shape[6] = {c.shape[0], rows, c.shape[2], ghosts, ghosts, 7};
    void* sweep = msd_sweep(network, shape, 2, c.threads);
    std::vector<float> result(c.outputs * voxels), edge(c.width * 7 * ghosts * c.shape[2]);
    int planes[2] = {0, 0};
    while (planes[1] < c.shape[0]) {
        msd_sweep_planes(sweep, -1, planes);
        if (msd_sweep_load(sweep, block.data() + planes[0] * plane, strides)) std::abort();
        for (int layer = 0; layer < c.depth; layer++) {
            if (msd_sweep_run(sweep, layer, layer + 1, result.data())) std::abort();
            msd_sweep_take(sweep, layer, ghosts, ghosts, edge.data());
            msd_sweep_put(sweep, layer, 0, ghosts, edge.data());
            msd_sweep_put(sweep, layer, ghosts + rows, ghosts, edge.data());
        }
        msd_sweep_planes(sweep, c.depth - 1, planes);
        msd_sweep_end_step(sweep);
    }
    msd_forget_sweep(sweep);
}

void evaluate(const Case& c) {
    const int maps = c.depth * c.width, taps = c.dimensions == 3 ? 27 : 9, channels = c.inputs + maps;
    std::vector<int> dilations;
    for (int map = 0; map < maps; map++) dilations.push_back(map % c.largest_dilation + 1);
    const auto weights = noise(long{taps} * c.width * (c.depth * c.inputs + c.width * c.depth * (c.depth - 1) / 2));
    const auto biases = noise(maps), head = noise(c.outputs * channels), head_biases = noise(c.outputs);
    std::vector<float> windows;
    for (int k = 0; k < c.inputs; k++) windows.insert(windows.end(), {-2, 2, 0, 1.5});
    void* network =
        msd_create(c.inputs, c.outputs, maps, c.width, c.dimensions, c.reflected, dilations.data(), weights.data(),
                   biases.data(), head.data(), head_biases.data(), windows.data(), c.threads == 2 ? 2 : 4);
    const int64_t plane = int64_t{c.shape[1]} * c.shape[2], voxels = c.shape[0] * plane;
    const auto block = noise(c.inputs * voxels);
    const int64_t strides[4] = {4 * voxels, 4 * plane, 4 * c.shape[2], 4};
    for (int kind = 0; kind < 3; kind++) {
        const int skipped = kind == 2 && c.outputs > 1;
        int wanted[6];  // all of it, and less and less
        for (int axis = 0; axis < 3; axis++) {
            wanted[axis] = kind * (c.shape[axis] - 1) / 4;
            wanted[3 + axis] = c.shape[axis] - kind * (c.shape[axis] - 1) / 5;
        }
        const int64_t size = int64_t{wanted[3] - wanted[0]} * (wanted[4] - wanted[1]) * (wanted[5] - wanted[2]);
        std::vector<float> result((c.outputs - skipped) * size);
        if (msd_run(network, block.data(), strides, c.shape, wanted, kind, c.threads, result.data())) std::abort();
    }
    backward(network, c, block, weights.size(), channels);
    sweep(network, c, block);
    msd_destroy(network);
}

}  // namespace

int main() {
    evaluate({1, 2, 12, 1, 3, 1, 10, {11, 12, 13}, 1});   // the thinnest that reflects
    evaluate({2, 3, 5, 3, 3, 1, 4, {5, 9, 33}, 3});       // several maps a layer
    evaluate({1, 1, 4, 1, 3, 0, 12, {1, 2, 3}, 2});       // zeros around less than a dilation
    evaluate({1, 2, 3, 1, 2, 1, 3, {1, 64, 300}, 2});     // a plane, several blocks in x
    evaluate({1, 2, 3, 1, 3, 0, 40, {3, 45, 200}, 2});    // halos longer than a block
    evaluate({3, 2, 40, 1, 3, 1, 1, {2, 7, 17}, 1});      // one dilation: groups of targets
    evaluate({1, 2, 9, 1, 3, 1, 3, {60, 12, 20}, 2});     // rings that turn, ghost rows
    std::puts("done");
}
