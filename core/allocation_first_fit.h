// Addresses of buffers one after another, each in a gap between those that live at the same time.
// The twin of `place_in_order` in python/polystage/allocation/first_fit.py.
#pragma once

#include "arrays.h"

namespace polystage {

/// Buffer b is live in the half-open intervals [starts[k], ends[k]) for k from row[b] to row[b + 1].
/// Those of `order` are placed in this order; all others lie at `address` already. `best` takes the
/// smallest gap instead of the lowest. Returns an address for every buffer.
Output<std::int64_t> place_in_order(Input<std::int64_t> row, Input<std::int64_t> starts,
                                    Input<std::int64_t> ends, Input<std::int64_t> size,
                                    Input<std::int64_t> alignment, Input<std::int64_t> address,
                                    Input<std::int64_t> order, bool best);

}  // namespace polystage
