// What semaphores order.
// The twin of python/polystage/simulator/races.py.
#pragma once

#include <tuple>

#include "accesses.h"

namespace polystage {

/// The instruction at which every queue is stuck, or -1.
Output<std::int64_t> stuck(Input<std::uint8_t> queue, Input<std::uint8_t> kind,
                           Input<std::int32_t> semaphore, Input<std::int64_t> semaphores,
                           std::int32_t queues, std::int32_t ignored);

using RaceColumns = std::tuple<Output<std::int64_t>, Output<std::int64_t>, Output<std::int64_t>,
                               Output<std::int64_t>>;

/// All races, or the first `limit`: first and second instruction, their regions.
RaceColumns find_races(const Regions& regions, Input<std::uint8_t> queue,
                       Input<std::uint8_t> kind, Input<std::int32_t> semaphore,
                       Input<std::int64_t> semaphores, Input<std::int64_t> start,
                       Input<std::int32_t> region, Input<std::uint8_t> way, std::int32_t queues,
                       std::int64_t limit, std::int32_t ignored);

}  // namespace polystage
