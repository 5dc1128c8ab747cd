// When every instruction of a device's cores runs.
// The twin of python/polystage/simulator/{events,bandwidth}.py: same events, same sums.
#pragma once

#include <tuple>
#include <vector>

#include "arrays.h"

namespace polystage {

/// The columns of one core's trace that time depends on.
struct TraceColumns {
    TraceColumns(Input<std::uint8_t> kind, Input<std::uint8_t> queue, Input<double> busy,
                 Input<double> latency, Input<double> form, Input<double> dram,
                 Input<std::uint8_t> ports, Input<std::int32_t> semaphore,
                 Input<std::int64_t> semaphores, Input<std::int64_t> after_start,
                 Input<std::int64_t> after, std::vector<bool> is_dma);

    std::size_t count() const { return kind.size(); }

    Input<std::uint8_t> kind, queue;
    Input<double> busy, latency, form, dram;
    Input<std::uint8_t> ports;
    Input<std::int32_t> semaphore;
    Input<std::int64_t> semaphores, after_start, after;
    std::vector<bool> is_dma;
};

/// Start, move and end of every instruction; port waits (instruction, port, holder, ns); how many
/// instructions of every queue have run.
using CoreTimes =
    std::tuple<Output<double>, Output<double>, Output<double>, Output<std::int64_t>,
               Output<std::uint8_t>, Output<std::uint8_t>, Output<double>, Output<std::int64_t>>;

std::vector<CoreTimes> run_timeline(const std::vector<const TraceColumns*>& cores,
                                    double dma_startup, double dram_rate, bool dram_limits);

}  // namespace polystage
