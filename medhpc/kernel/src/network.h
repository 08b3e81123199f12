// An MS-D network in this library: its weights in the order of work.
#pragma once

#include <memory>
#include <mutex>

#include "convolve.h"
#include "head.h"

namespace {

struct Block;

class Network {
   public:
    // most: outputs of the largest transform; 4 is faster, 2 rounds less.
    Network(const Architecture& architecture, const Head& head, const Window* windows, int most)
        : weights_(architecture.weights, architecture.kernel(architecture.maps, 0)),
          dilations_(architecture.dilations, architecture.dilations + architecture.maps),
          biases_(architecture.biases, architecture.biases + architecture.maps),
          head_weights_(head.weights, head.weights + head.outputs * head.channels),
          head_biases_(head.biases, head.biases + head.outputs),
          windows_(windows, windows + architecture.inputs),
          net_(architecture),
          head_(head),
          most_points_(most) {
        net_.weights = weights_.data();
        net_.dilations = dilations_.data();
        net_.biases = biases_.data();
        head_.weights = head_weights_.data();
        head_.biases = head_biases_.data();
        passes_ = schedule(net_);
        reach_ = *std::max_element(dilations_.begin(), dilations_.end());
        for (const Pass& pass : passes_) most_sources_ = std::max(most_sources_, pass.sources);
    }

    // Of an evaluation of a block, without input and result.
    ptrdiff_t bytes(const int* shape, int threads) const {
        const Layout layout = layout_of(shape);
        return sizeof(Real) * (Rings(layout, head_.channels).numbers() + threads * scratch_numbers(layout));
    }

    // That each thread takes.
    ptrdiff_t scratch_numbers(const Layout& layout) const {
        return Scratch::transformed_numbers(layout, most_sources_, reach_) + Scratch::product_numbers(layout) +
               head_.outputs * layout.row;
    }

    // Defined in block.h.
    void run(const Block& block, Kind kind, int threads, Real* result);
    void run(const Block& block, Kind kind, int threads, Real* result, std::unique_ptr<Memory>& memory) const;

    Layout layout_of(const int* shape) const {
        return Layout(shape[0], shape[1], shape[2], net_.reflected);
    }
    const Architecture& architecture() const { return net_; }
    const Head& head() const { return head_; }
    const Window& window(int channel) const { return windows_[channel]; }
    const std::vector<Pass>& passes() const { return passes_; }
    int most_points() const { return most_points_; }
    int most_sources() const { return most_sources_; }
    int reach() const { return reach_; }
    int layers() const { return net_.maps / net_.width; }

   private:
    std::vector<Real> weights_;
    std::vector<int> dilations_;
    std::vector<Real> biases_, head_weights_, head_biases_;
    std::vector<Window> windows_;
    Architecture net_;
    Head head_;
    std::vector<Pass> passes_;
    int most_points_, most_sources_ = 1;
    int reach_;  // largest dilation
    std::mutex busy_;
    std::unique_ptr<Memory> kept_;
};

}  // namespace
