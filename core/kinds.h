// Kinds of instructions; the same numbers as in python/polystage/simulator/trace.py.
#pragma once

#include <cstdint>

namespace polystage {

constexpr std::uint8_t COMPUTE = 0, DMA = 1, GATHER = 2, SIGNAL = 3, WAIT = 4, KINDS = 5;

}  // namespace polystage
