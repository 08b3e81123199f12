// Aligned memory for floats, in huge pages where the system has them (a tile touches hundreds of rows far apart).
#pragma once

#include <sys/mman.h>

#include <cstdlib>
#include <new>

#include "vector.h"

namespace {

struct Memory {
    ptrdiff_t size;
    float* floats;

    explicit Memory(ptrdiff_t count) : size(count) {
        constexpr std::size_t HUGE_PAGE = 2 << 20;
        const std::size_t bytes = 4 * static_cast<std::size_t>(count);
        const std::size_t alignment = bytes >= HUGE_PAGE ? HUGE_PAGE : 64;
        floats = static_cast<float*>(std::aligned_alloc(alignment, round_up(bytes, alignment)));
        if (!floats) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
        if (alignment == HUGE_PAGE) madvise(floats, bytes, MADV_HUGEPAGE);
#endif
    }
    ~Memory() { std::free(floats); }
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
};

}  // namespace
