// The exact search for addresses of buffers in one memory.
// The twin of `Search` in python/polystage/allocation/search.py, which says how it works.
#pragma once

#include <tuple>

#include "arrays.h"

namespace polystage {

/// Buffer b is live in `sections[start[b]] ... sections[start[b + 1] - 1]`, ascending; `fixed[b]` is
/// its address, or -1 where that is free; buffers of equal `kind` may be exchanged. `keys` has a row
/// per order of trying buffers. Returns 1 and addresses, 0 where there are none, or -1 where `effort`
/// was not enough; and the effort spent.
std::tuple<int, Output<std::int64_t>, std::int64_t> search_addresses(
    Input<std::int64_t> start, Input<std::int32_t> sections, Input<std::int64_t> size,
    Input<std::int64_t> alignment, Input<std::int64_t> fixed, Input<std::int32_t> kind,
    InputRows<double> keys, std::int32_t section_count, std::int64_t capacity, std::int64_t effort);

}  // namespace polystage
