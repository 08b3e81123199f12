// Aligned memory for numbers, in huge pages where the system has them (a tile touches hundreds of rows far apart).
#pragma once

#include <sys/mman.h>

#include <cstdlib>
#include <new>

#include "vector.h"

namespace {

struct Memory {
    ptrdiff_t size;
    Real* numbers;

    explicit Memory(ptrdiff_t count) : size(count) {
        constexpr std::size_t HUGE_PAGE = 2 << 20;
        const std::size_t bytes = sizeof(Real) * static_cast<std::size_t>(count);
        const std::size_t alignment = bytes >= HUGE_PAGE ? HUGE_PAGE : 64;
        numbers = static_cast<Real*>(std::aligned_alloc(alignment, round_up(bytes, alignment)));
        if (!numbers) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
        if (alignment == HUGE_PAGE) madvise(numbers, bytes, MADV_HUGEPAGE);
#endif
    }
    ~Memory() { std::free(numbers); }
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
};

}  // namespace
