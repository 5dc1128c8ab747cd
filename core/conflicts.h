// What every instruction waits for by itself.
// The twin of `_Dependences` in python/polystage/simulator/conflicts.py.
#pragma once

#include <utility>

#include "accesses.h"

namespace polystage {

/// `party` is -1 for signals and waits. Returns row starts and entries of `after`.
std::pair<Output<std::int64_t>, Output<std::int64_t>> dependences(
    const Regions& regions, Input<std::int32_t> party, Input<std::int64_t> certain,
    Input<std::int64_t> start, Input<std::int32_t> region, Input<std::uint8_t> way,
    Input<std::int32_t> engine, Input<std::uint8_t> moves, std::int32_t gathers, bool across);

}  // namespace polystage
