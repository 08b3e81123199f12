// Memory between the steps of a training: maps and gradients of one step are those of the next.
//
// From the system it would come as zeroed pages each time: a sixth of a step's time.
#pragma once

#include <algorithm>
#include <memory>
#include <mutex>
#include <vector>

#include "memory.h"

namespace {

class Spare {
   public:
    // At least so much.
    std::unique_ptr<Memory> take(ptrdiff_t size) {
        std::unique_lock<std::mutex> mine(busy_, std::try_to_lock);  // or else new memory: in a child of a fork, too
        if (mine && !kept_.empty()) {
            std::unique_ptr<Memory> largest = std::move(kept_.back());
            kept_.pop_back();
            if (largest->size >= size) return largest;
        }
        return std::make_unique<Memory>(size);
    }

    void give(std::unique_ptr<Memory> memory) {
        std::unique_lock<std::mutex> mine(busy_, std::try_to_lock);
        if (!mine) return;
        auto smaller = [](const auto& one, const auto& other) { return one->size < other->size; };
        kept_.insert(std::upper_bound(kept_.begin(), kept_.end(), memory, smaller), std::move(memory));
    }

   private:
    std::mutex busy_;
    std::vector<std::unique_ptr<Memory>> kept_;  // the largest last
};

}  // namespace
