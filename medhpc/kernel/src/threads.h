// A team of threads for one call. Starting it costs some 30 us a thread, against 10 ms and more for a block: there is
// no pool to keep, none to rebuild after a fork, and none that spins beside torch's.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace {

class Team {
   public:
    // Call work(member) on `size` threads, this one included; on fewer where the system refuses more.
    template <typename Work>
    void run(int size, const Work& work) {
        std::vector<std::thread> others;
        others.reserve(size);
        {
            std::lock_guard<std::mutex> not_before_the_size_is_known(mutex_);
            try {
                while (static_cast<int>(others.size()) + 1 < size) {
                    others.emplace_back([this, &work, member = static_cast<int>(others.size()) + 1] {
                        { std::lock_guard<std::mutex> size_is_known(mutex_); }
                        work(member);
                    });
                }
            } catch (const std::system_error&) {  // no more threads: these will do
            }
            size_ = static_cast<int>(others.size()) + 1;
        }
        work(0);
        for (std::thread& thread : others) thread.join();
    }

    int size() const { return size_; }

    // Wait until all members are here.
    void meet() {
        std::unique_lock<std::mutex> lock(mutex_);
        const long now = meetings_;
        if (++arrived_ == size_) {
            arrived_ = 0;
            meetings_++;
            all_here_.notify_all();
        } else {
            all_here_.wait(lock, [&] { return meetings_ != now; });
        }
    }

   private:
    std::mutex mutex_;
    std::condition_variable all_here_;
    int size_ = 1, arrived_ = 0;
    long meetings_ = 0;
};

// Pieces of work in their order, taken in runs that become shorter towards the end.
class Queue {
   public:
    bool take(int total, int members, int& first, int& stop) {
        first = next_.load();
        do {
            if (first >= total) return false;
            const int run = members == 1 ? total : std::max(1, (total - first) / (2 * members));
            stop = std::min(total, first + run);
        } while (!next_.compare_exchange_weak(first, stop));
        return true;
    }

   private:
    std::atomic<int> next_{0};
};

}  // namespace
