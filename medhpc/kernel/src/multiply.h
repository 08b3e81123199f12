// Operation 2 of 3: in one Winograd component, what all source maps give to a group of target maps.
//
//     product[target][x] = sum over maps and three taps in x of weight[map][tap][target] * source[map][x + (tap - 1) s]
//
// Loops: blocks of COLUMNS vectors of x; maps; taps; targets. K = 3 x 10 maps is short, but nothing is stored before
// its end.
// Registers: TARGETS x COLUMNS sums, COLUMNS source vectors, one weight: (TARGETS + 1) COLUMNS + 1 <= all of them.
// With 32 registers 9 or 8 or 7 x 3, 6 x 4, 5 x 5, up to 4 x 6; with 16 registers 6 or 5 x 2, 4 or 3 x 3, 2 x 5, 1 x 6.
// Each source vector is loaded once for up to 9 multiply-adds, each weight for 3 or more: arithmetic is the limit.
// Memory latency hides here: each map's turn asks for some cache lines that the next operation and tile want.
#pragma once

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "vector.h"

namespace {

constexpr int MOST_TARGETS = REGISTERS == 32 ? 9 : 6;
constexpr int MOST_COLUMNS = 6;
constexpr int most_columns(int targets) { return std::min(MOST_COLUMNS, (REGISTERS - 1) / (targets + 1)); }

// The first `lines` cache lines of some rows that will be wanted soon.
struct Wanted {
    const Real* const* rows;
    int count, lines;
};

// The rows that will be wanted soon; as many parts of them as there are multiplications.
class WantedRows {
   public:
    explicit WantedRows(int most) : rows_(most) {}

    void clear() { count_ = 0; }
    void add(const Real* row) { rows_[count_++] = row; }
    Wanted part(int call, int calls, int lines) const {
        const int from = count_ * call / calls, to = count_ * (call + 1) / calls;
        return {rows_.data() + from, to - from, lines};
    }

   private:
    std::vector<const Real*> rows_;
    int count_ = 0;
};

struct Product {
    const Real* source;       // component of the first map, at the block's first x
    ptrdiff_t source_stride;  // from map to map
    int sources, dilation;
    const Real* weights;  // [map][tap][target]
    Real* product;
    ptrdiff_t product_stride;  // from target to target
};

template <int TARGETS, int COLUMNS>
void multiply(const Product& p, const Wanted& wanted) {
    Vector sums[TARGETS][COLUMNS] = {};
    const Real* weight = p.weights;
    const Real* map = p.source;
    for (int source = 0; source < p.sources; source++, map += p.source_stride) {
        for (int line = source; line < wanted.lines; line += p.sources) {
            for (int row = 0; row < wanted.count; row++) prefetch(wanted.rows[row] + line * LINE);
        }
        UNROLLED for (int tap = -1; tap <= 1; tap++, weight += TARGETS) {
            Vector values[COLUMNS];
            UNROLLED for (int x = 0; x < COLUMNS; x++) {
                values[x] = load_anywhere(map + tap * p.dilation + x * LANES);
                if (TARGETS > 1) keep_in_register(values[x]);
            }
            UNROLLED for (int target = 0; target < TARGETS; target++) {
                const Vector factor = broadcast(weight[target]);
                UNROLLED for (int x = 0; x < COLUMNS; x++) sums[target][x] += factor * values[x];
            }
        }
    }
    UNROLLED for (int target = 0; target < TARGETS; target++) {
        Real* product = p.product + target * p.product_stride;
        UNROLLED for (int x = 0; x < COLUMNS; x++) store(product + x * LANES, sums[target][x]);
    }
}

using Multiply = void (*)(const Product&, const Wanted&);

template <int TARGETS, std::size_t... INDEX>
constexpr std::array<Multiply, MOST_COLUMNS> by_columns(std::index_sequence<INDEX...>) {
    return {multiply<TARGETS, std::min<int>(INDEX + 1, most_columns(TARGETS))>...};
}

template <std::size_t... INDEX>
constexpr std::array<std::array<Multiply, MOST_COLUMNS>, MOST_TARGETS> by_targets(std::index_sequence<INDEX...>) {
    return {by_columns<INDEX + 1>(std::make_index_sequence<MOST_COLUMNS>())...};
}

// [targets - 1][columns - 1]
constexpr auto MULTIPLY = by_targets(std::make_index_sequence<MOST_TARGETS>());

}  // namespace
