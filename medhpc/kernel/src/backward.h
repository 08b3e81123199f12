// The backward pass: from the gradients of the scores to those of everything else, layer by layer from the last.
//
// 1. Each channel's gradient starts as what the head gives it. The same sweep over the rows gives the head's own.
// 2. For each layer from the last: its maps have got all their parts; where ReLU has cut, the gradient is zero. What is
//    left of it sums to the bias's.
// 3. The passes of this layer (schedule.h), whose targets are complete now: return_gradients.h.
//
// Sums over voxels have a fixed tree: the rows of a band, lane by lane, or the tiles of a unit; then bands or units, in
// double. No bit depends on the threads.
#pragma once

#include <memory>

#include "network.h"
#include "return_gradients.h"
#include "threads.h"
#include "units.h"

namespace {

constexpr int MOST_BANDS = 256;  // runs of rows whose sums are taken together

// Where gradients go; in the order of Architecture and Head.
struct Gradients {
    Real* inputs;   // null: not wanted
    Real* weights;  // null: not wanted
    Real *biases, *head_weights, *head_biases;
};

class Backward {
   public:
    // maps: of an evaluation of all of a block; gradients: room for as many; scores: gradients of the result.
    Backward(const Network& network, const Maps& maps, const Maps& gradients, const Real* scores,
             const Gradients& wanted, int threads)
        : net_(network.architecture()),
          head_(network.head()),
          layout_(maps.layout),
          maps_(maps),
          gradients_(gradients),
          scores_(scores),
          wanted_(wanted),
          rows_(layout_.depth * layout_.height),
          bands_(std::min(rows_, MOST_BANDS)),
          passes_(backward_schedule(net_, network.passes(), wanted.inputs != nullptr)),
          bias_parts_(std::size_t(net_.maps) * bands_),
          head_parts_(std::size_t(head_.outputs) * (head_.channels + 1) * bands_) {
        prepare_passes(network.most_points());
        int sources = 1, targets = 1;
        for (const BackwardPass& pass : passes_) {
            sources = std::max(sources, pass.sources);
            targets = std::max(targets, static_cast<int>(pass.targets.size()));
        }
        for (int member = 0; member < threads; member++) {
            scratch_.push_back(std::make_unique<BackwardScratch>(layout_, sources, targets, network.reach()));
            head_scratch_.push_back(std::make_unique<Memory>(head_.outputs * (layout_.row + head_.channels * LANES)));
        }
    }

    void work(int member, Team& team) {
        Queue* queue = queues_.data();
        auto share = [&](int total, auto&& compute) {
            int first, stop;
            while (queue->take(total, team.size(), first, stop))
                for (int at = first; at < stop; at++) compute(at);
            queue++;
        };
        share(bands_, [&](int band) { begin(band, head_scratch_[member]->numbers); });
        team.meet();
        std::size_t number = 0;
        for (int layer = net_.maps / net_.width - 1; layer >= 0; layer--) {
            share(net_.width * bands_, [&](int at) { cut(layer * net_.width + at / bands_, at % bands_); });
            team.meet();
            for (; number < passes_.size() && passes_[number].layer == layer; number++) {
                const BackwardPass& pass = passes_[number];
                Real* parts = weight_parts_[number % 2].data();  // the others may still be added up
                int units = 0;
                for (const Round& round : rounds_.at(pass.dilation)) {
                    share(static_cast<int>(round.size()), [&](int at) {
                        compute(pass, round[at], *scratch_[member], parts + (units + at) * weights_of(pass));
                    });
                    team.meet();
                    units += static_cast<int>(round.size());
                }
                share(wanted_.weights ? pairs_of(pass) : 0, [&](int pair) { add_up(pass, pair, parts, units); });
            }
        }
        share(wanted_.inputs ? net_.inputs * rows_ : 0, [&](int at) { give_input(at / rows_, at % rows_); });
        share(net_.maps + head_.outputs, [&](int at) { at < net_.maps ? add_up_bias(at) : add_up_head(at - net_.maps); });
    }

   private:
    int pairs_of(const BackwardPass& pass) const { return pass.sources * static_cast<int>(pass.targets.size()); }
    int taps() const { return net_.dimensions == 3 ? 27 : 9; }
    std::size_t weights_of(const BackwardPass& pass) const { return std::size_t(pairs_of(pass)) * taps(); }

    // Rounds of each dilation, queues of each stage, room for parts of weights' gradients.
    void prepare_passes(int most_points) {
        std::size_t stages = 3 + net_.maps / net_.width, most_parts = 0;
        for (const BackwardPass& pass : passes_) {
            std::vector<Round>& of_dilation = rounds_[pass.dilation];
            if (of_dilation.empty()) of_dilation = rounds(layout_, pass.dilation, net_.dimensions, most_points);
            std::size_t units = 0;
            for (const Round& round : of_dilation) units += round.size();
            most_parts = std::max(most_parts, units * weights_of(pass));
            stages += of_dilation.size() + 1;
        }
        queues_ = std::vector<Queue>(stages);
        if (wanted_.weights)
            for (std::vector<Real>& parts : weight_parts_) parts.resize(most_parts);
    }

    int band_start(int band) const { return static_cast<int>(std::int64_t{rows_} * band / bands_); }
    Real* row_of(const Maps& maps, int channel, int row) const {
        return maps.row(channel, row / layout_.height, row % layout_.height);
    }

    // 1. scratch: the scores of a row, [output][x]; sums of the head's weights, [output][channel], vectors.
    void begin(int band, Real* scratch) {
        Real* sums = scratch + head_.outputs * layout_.row;
        std::fill_n(sums, head_.outputs * head_.channels * LANES, Real{});
        Real* parts = head_parts_.data() + std::size_t(band) * head_.outputs * (head_.channels + 1);
        for (int row = band_start(band); row < band_start(band + 1); row++) {
            for (int k = 0; k < head_.outputs; k++) {
                const Real* from = scores_ + (ptrdiff_t{k} * rows_ + row) * layout_.width;
                std::fill_n(std::copy_n(from, layout_.width, scratch + k * layout_.row), layout_.row - layout_.width, Real{});
                for (int x = 0; x < layout_.width; x++) parts[k * (head_.channels + 1) + head_.channels] += from[x];
            }
            for (int c = 0; c < head_.channels; c++) begin_row(c, row, scratch, sums + c * LANES);
        }
        for (int k = 0; k < head_.outputs; k++)
            for (int c = 0; c < head_.channels; c++)
                parts[k * (head_.channels + 1) + c] = sum_of_lanes(load(sums + (k * head_.channels + c) * LANES));
    }

    void begin_row(int channel, int row, const Real* scores, Real* sums) const {
        const Real* map = row_of(maps_, channel, row);
        Real* gradient = row_of(gradients_, channel, row);
        for (int k = 0; k < head_.outputs; k++, scores += layout_.row, sums += head_.channels * LANES) {
            const Vector weight = broadcast(head_.weights[k * head_.channels + channel]);
            Vector sum = load(sums);
            for (int x = 0; x < layout_.width; x += LANES) {
                const Vector score = load(scores + x);
                store(gradient + x, k == 0 ? weight * score : load(gradient + x) + weight * score);
                sum += score * first_lanes(load(map + x), layout_.width - x);  // what is behind the row may be no number
            }
            store(sums, sum);
        }
    }

    // 2.
    void cut(int map, int band) {
        Vector sum = {};
        for (int row = band_start(band); row < band_start(band + 1); row++) {
            const Real* values = row_of(maps_, net_.inputs + map, row);
            Real* gradient = row_of(gradients_, net_.inputs + map, row);
            for (int x = 0; x < layout_.width; x += LANES) {
                const Vector alive = load(values + x) > 0.0f ? load(gradient + x) : Vector{};
                const Vector inside = first_lanes(alive, layout_.width - x);
                store(gradient + x, inside);
                sum += inside;
            }
        }
        bias_parts_[std::size_t(map) * bands_ + band] = sum_of_lanes(sum);
    }

    // 3. parts: of the unit, [target][source][taps]
    void compute(const BackwardPass& pass, const Unit& unit, BackwardScratch& scratch, Real* parts) const {
        const int z = unit.tiles.front().z.points, y = unit.tiles.front().y.points;
        if (z == 4) y == 4 ? compute<4, 4>(pass, unit, scratch, parts) : compute<4, 2>(pass, unit, scratch, parts);
        if (z == 2) y == 4 ? compute<2, 4>(pass, unit, scratch, parts) : compute<2, 2>(pass, unit, scratch, parts);
        if (z == 1) y == 4 ? compute<1, 4>(pass, unit, scratch, parts) : compute<1, 2>(pass, unit, scratch, parts);
    }

    template <int MZ, int MY>
    void compute(const BackwardPass& pass, const Unit& unit, BackwardScratch& scratch, Real* parts) const {
        const bool of_weights = wanted_.weights != nullptr;
        if (of_weights) scratch.sums.begin(MZ, MY, pass.sources, static_cast<int>(pass.targets.size()));
        const Tile* end = unit.tiles.data() + unit.tiles.size();
        for (const Tile& tile : unit.tiles) {
            const Tile* next = &tile + 1 < end ? &tile + 1 : nullptr;
            TileOfBackwardPass(maps_, gradients_, pass, tile, next, of_weights, scratch).template compute<MZ, MY>();
        }
        if (of_weights) scratch.sums.finish<MZ, MY>(parts);
    }

    // pair: target and source of a pass; parts: of its units.
    void add_up(const BackwardPass& pass, int pair, const Real* parts, int units) const {
        const int target = pass.targets[pair / pass.sources], source = pass.first_source + pair % pass.sources;
        Real* result = wanted_.weights + (net_.kernel(target, source) - net_.weights);
        for (int tap = 0; tap < taps(); tap++)
            result[tap] = sum(parts + std::size_t(pair) * taps() + tap, units, weights_of(pass));
    }

    void add_up_bias(int map) const { wanted_.biases[map] = sum(bias_parts_.data() + std::size_t(map) * bands_, bands_, 1); }

    void add_up_head(int output) const {
        const std::size_t row = head_.channels + 1, stride = head_.outputs * row;
        const Real* parts = head_parts_.data() + output * row;
        for (int c = 0; c < head_.channels; c++)
            wanted_.head_weights[output * head_.channels + c] = sum(parts + c, bands_, stride);
        wanted_.head_biases[output] = sum(parts + head_.channels, bands_, stride);
    }

    static Real sum(const Real* parts, int count, std::size_t stride) {
        double total = 0;
        for (int k = 0; k < count; k++) total += parts[k * stride];
        return static_cast<Real>(total);
    }

    void give_input(int channel, int row) const {
        Real* to = wanted_.inputs + (ptrdiff_t{channel} * rows_ + row) * layout_.width;
        std::copy_n(row_of(gradients_, channel, row), layout_.width, to);
    }

    const Architecture& net_;
    const Head& head_;
    const Layout& layout_;
    const Maps& maps_;
    const Maps& gradients_;
    const Real* const scores_;
    const Gradients wanted_;
    const int rows_, bands_;  // of a channel
    const std::vector<BackwardPass> passes_;
    std::map<int, std::vector<Round>> rounds_;  // by dilation
    std::vector<Queue> queues_;                 // of each stage
    std::vector<Real> bias_parts_, head_parts_;  // [map][band]; [band][output][channel, then the bias]
    std::vector<Real> weight_parts_[2];          // [unit][target][source][taps], in turns
    std::vector<std::unique_ptr<BackwardScratch>> scratch_;  // of each thread
    std::vector<std::unique_ptr<Memory>> head_scratch_;
};

}  // namespace
