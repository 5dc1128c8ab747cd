"""Shares of a bandwidth over time: what a transfer can still use, and when it ends."""

from __future__ import annotations

from math import inf

ROUNDING = 1e-9
"""A capacity of which less than this part is left is full."""


class Profile:
    """How much of a capacity is taken from now on: `levels[i]` from `times[i]` to the next time.

    The last level is 0 and holds forever.
    """

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.full = capacity * (1.0 - ROUNDING)
        self.times = [0.0]
        self.levels = [0.0]

    def begin(self, now: float) -> None:
        """Forget what lies before `now` and make it the first boundary."""
        times, levels = self.times, self.levels
        i = 0
        while i + 1 < len(times) and times[i + 1] <= now:
            i += 1
        del times[:i], levels[:i]
        if times[0] < now:
            times[0] = now

    def take(self, i: int, until: float, amount: float) -> None:
        """Raise the level from boundary i to `until`, which is not beyond the next boundary."""
        times, levels = self.times, self.levels
        if i + 1 == len(times) or until < times[i + 1]:
            times.insert(i + 1, until)
            levels.insert(i + 1, levels[i])
        level = levels[i] + amount
        levels[i] = self.capacity if level > self.full else level


def fill(pool: Profile, work: float, fastest: float) -> float:
    """Take up to `fastest` of what is free from the first boundary on until the work is done."""
    i = 0
    while True:
        time = pool.times[i]
        rate = min(fastest, 1.0 - pool.levels[i])
        next_time = pool.times[i + 1] if i + 1 < len(pool.times) else inf
        if rate > 0.0:
            end = time + work / rate
            if end <= next_time:
                pool.take(i, end, rate)
                return end
            work = max(0.0, work - rate * (next_time - time))
            pool.take(i, next_time, rate)
        i += 1


def fill_both(pool: Profile, dram: Profile, work: float, fastest: float, density: float) -> float:
    """Fill the DMA engines no faster than DRAM, of which work takes `density` bytes per ns."""
    i = k = 0
    time = pool.times[0]
    while True:
        free = (dram.capacity - dram.levels[k]) / density
        rate = min(fastest, 1.0 - pool.levels[i], free)
        next_pool = pool.times[i + 1] if i + 1 < len(pool.times) else inf
        next_dram = dram.times[k + 1] if k + 1 < len(dram.times) else inf
        until = min(next_pool, next_dram)
        if rate > 0.0:
            end = time + work / rate
            last = end <= until
            until = end if last else until
            work = max(0.0, work - rate * (until - time))
            pool.take(i, until, rate)
            dram.take(k, until, rate * density)
            if last:
                return end
            next_pool = next_dram = until
        i += next_pool <= until
        k += next_dram <= until
        time = until
