"""How long the tiles of an operation take, one overlapping the next.

The engines work on different tiles at the same time. So the first tile takes all its steps one
after the other, and every further tile as long as the engine that has most to do, or as long as it
takes until a buffer is free again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

from polystage.dtypes import byte_width, cost_dtype
from polystage.machine import access, cost
from polystage.machine.cost import Cost
from polystage.machine.target import Target
from polystage.passes.lower.lane_engines.operand import Operand
from polystage.passes.lower.lane_engines.tile_program import (
    Activate,
    Compute,
    Gather,
    Iota,
    Load,
    Slot,
    Step,
    Store,
    TileProgram,
    tile_extent,
)
from polystage.passes.memref_types import row_major_strides


@dataclass(frozen=True)
class _Work:
    """An instruction, or a transfer without its start-up: the engine or queue, and its time."""

    engine: str
    busy_ns: float
    latency_ns: float
    pool_ns: float = 0.0
    """Time for which a transfer needs all DMA engines; 0 for what is no transfer."""

    @classmethod
    def of(cls, engine: str, time: Cost, times: int = 1) -> _Work:
        """Return so many instructions of one engine, one after the other."""
        return cls(engine, time.busy_ns * times, time.busy_ns * (times - 1) + time.latency_ns)


class _OneTile:
    """The steps of one tile by itself, every engine in order, every step when its operands are
    there."""

    def __init__(self, startup_ns: float) -> None:
        self.startup_ns = startup_ns
        self.free: dict[str, float] = {}
        self.begins: dict[Slot, float] = {}
        self.ends: dict[Slot, float] = {}
        self.order: list[str] = []
        self.gpsimd_computes = False

    def run(self, step: Step, work: Sequence[_Work]) -> None:
        """Schedule a step."""
        ready = max((self.ends.get(s, 0.0) for s in (*step.reads, *step.writes)), default=0.0)
        for slot in step.writes:
            self.begins.setdefault(slot, ready)
        for part in work:
            ready = self._run(part, ready)
            self.gpsimd_computes |= part.engine == "gpsimd" and not isinstance(step, Gather)
        for slot in (*step.reads, *step.writes):
            self.ends[slot] = ready

    def _run(self, part: _Work, ready: float) -> float:
        free = self.free.get(part.engine, 0.0)
        if part.pool_ns:
            end = max(ready + self.startup_ns, free) + part.busy_ns
            self.free[part.engine] = end
            return end
        if not self.order or self.order[-1] != part.engine:
            self.order.append(part.engine)
        start = max(ready, free)
        self.free[part.engine] = start + part.busy_ns
        return start + part.latency_ns

    @property
    def total_ns(self) -> float:
        """When everything has ended."""
        return max((*self.ends.values(), *self.free.values()), default=0.0)

    @property
    def held_ns(self) -> float:
        """The longest time for which a buffer is taken."""
        return max((end - self.begins.get(s, 0.0) for s, end in self.ends.items()), default=0.0)

    @property
    def returns(self) -> bool:
        """Whether a compute engine has to wait for another before it finishes the tile."""
        return len(self.order) > len(set(self.order))


class TileTime:
    """Estimates the time of a tile program for given tiles."""

    def __init__(self, program: TileProgram, target: Target) -> None:
        self.program = program
        self.target = target
        self.extents = program.nest.extents
        self.partitions = self.extents[0] * program.nest.stack[1]

    def total_ns(self, tiles: Sequence[int], copies: int, buffers: int) -> float:
        """Return the time of all tiles, `copies` of which go through every loop body together,
        in `buffers` places of each of their buffers.

        time of one tile + max((tiles - 1) * busiest engine's time for a tile,
                               (tiles / places - 1) * time for which a buffer is taken)
        """
        looped = [d for d in range(1, len(self.extents)) if tiles[d] < self.extents[d]]
        trips = {d: ceil(self.extents[d] / tiles[d]) for d in looped}
        count = prod(trips.values())
        places = copies * min(buffers, max(1, count // copies))
        one = _OneTile(self.target.dma.startup_ns)
        busy: defaultdict[str, float] = defaultdict(float)
        in_turn_ns = 0.0
        for step in (*self.program.steps, *self.program.stores):
            depth = max((looped.index(d) + 1 for d in step.dims if d in trips), default=0)
            executions = prod(trips[d] for d in looped[:depth])
            work = self._work(step, tiles)
            one.run(step, work)
            for part in work:
                busy[part.engine] += executions * part.busy_ns
                busy["dma"] += executions * part.pool_ns
                in_turn_ns += 0.0 if part.pool_ns else executions * part.latency_ns
        if one.returns and copies == 1:
            busy["all in turn"] = in_turn_ns
        if "gather" in busy and one.gpsimd_computes:
            # gpsimd hands over indices only when the gathers before them have ended
            busy["gpsimd"] += busy["gather"] / copies
        busiest = max(busy.values(), default=0.0) * (count - 1) / count
        waves = ceil(count / places)
        return one.total_ns + max(busiest, (waves - 1) * one.held_ns)

    def loaded_bytes(self, tiles: Sequence[int]) -> int:
        """Return the bytes per partition that the loads of all tiles bring in, borders that tiles
        share counted for each of them."""
        extents = zip(self.extents, tiles, strict=True)
        trips = {d: ceil(n / tile) for d, (n, tile) in enumerate(extents) if d and tile < n}
        total = 0
        for step in self.program.steps:
            if isinstance(step, Load):
                depth = max((d for d in step.dims if d in trips), default=0)
                total += step.slot.bytes(tiles) * prod(n for d, n in trips.items() if d <= depth)
        return total

    # --- steps ------------------------------------------------------------------------------------

    def _work(self, step: Step, tiles: Sequence[int]) -> list[_Work]:
        match step:
            case Load(operand, slot, staged) | Store(slot, operand, staged):
                direction = "load" if isinstance(step, Load) else "store"
                if direction == "load" and operand.cause == "weight":
                    direction = "weight"
                if staged is None:
                    return self._transfers(direction, operand, slot, tiles)
                return self._staged(direction, operand, slot, staged, tiles)
            case Activate(_, target, _, _, _):
                elements = prod(target.free_shape(tiles))
                time = cost.activate(self.target, elements, partitions=self.partitions)
                return [_Work.of("scalar", time)]
            case Compute():
                return [self._compute(step, tiles)]
            case Gather(_, _, target, _):
                return self._gather(step, target, tiles)
            case _:
                engine = "gpsimd" if isinstance(step, Iota) else "vector"
                elements = sum(prod(slot.free_shape(tiles)) for slot in step.writes)
                time = cost.memset(self.target, engine, elements, partitions=self.partitions)
                return [_Work.of(engine, time)]

    def _compute(self, step: Compute, tiles: Sequence[int]) -> _Work:
        box = [d for d in step.box if tiles[d] > 1]
        sizes = [tiles[d] for d in box]
        strides = [self._innermost_bytes(s, box, tiles) for s in (*step.inputs, *step.outputs)]
        time = cost.lanes(
            self.target,
            step.engine,  # type: ignore[arg-type]
            prod(sizes),
            partitions=self.partitions,
            passes=step.passes,
            stride_bytes=max(strides, default=0),
        )
        return _Work.of(step.engine, time)

    def _innermost_bytes(self, slot: Slot, box: Sequence[int], tiles: Sequence[int]) -> int:
        strides = row_major_strides(slot.free_shape(tiles))
        steps = [
            sum(x.coefficients[d] * s for x, s in zip(slot.index, strides, strict=True))
            for d in box
        ]
        inner = access.innermost_stride([tiles[d] for d in box], steps)
        return inner * byte_width(slot.type)

    def _gather(self, step: Gather, target: Slot, tiles: Sequence[int]) -> list[_Work]:
        columns = prod(tile_extent(linear, tiles) for linear in step.columns)
        rows = prod(target.free_shape(tiles)) // max(1, columns)
        run = columns * byte_width(target.type)
        times = cost.gather(self.target, rows * self.partitions, run, run)
        alone = times.dma.latency_ns - self.target.dma.startup_ns
        return [
            _Work.of("gpsimd", times.gpsimd),
            _Work("gather", alone, alone, pool_ns=times.dma.busy_ns),
        ]

    # --- transfers --------------------------------------------------------------------------------

    def _transfers(
        self, queue: str, operand: Operand, slot: Slot, tiles: Sequence[int]
    ) -> list[_Work]:
        """Return the transfers of a tile, one for each piece of a stacked loop."""
        _, pieces = self.program.nest.stack
        width = byte_width(operand.element_type)
        order = operand.memory_order()
        shape = [tile_extent(operand.index[i], tiles) for i in order]
        run = access.contiguous_run(shape, [operand.strides[i] for i in order])
        total = self.extents[0] * slot.bytes(tiles)
        return [self._transfer(queue, total, run * width, slot.bytes(tiles))] * pieces

    def _transfer(self, queue: str, total: int, run: int, free: int) -> _Work:
        time = cost.dma(self.target, total, run, free)
        alone = time.latency_ns - self.target.dma.startup_ns
        return _Work(queue, alone, alone, pool_ns=time.busy_ns)

    def _staged(
        self, queue: str, operand: Operand, slot: Slot, staged: int, tiles: Sequence[int]
    ) -> list[_Work]:
        """Return the transfer of rows, their way through the array and out of psum."""
        tensor, psum = self.target.tensor, self.target.psum
        width = byte_width(operand.element_type)
        rows = min(tile_extent(operand.index[staged], tiles), tensor.rows)
        elements = prod(slot.free_shape(tiles))
        turns = max(1, ceil(elements / rows))
        free = turns * self.extents[0] * width
        partition = operand.dim_of(0)
        run = self.extents[0] if partition is not None else 1
        move = self._transfer(queue, self.extents[0] * elements * width, run * width, free)
        turn = cost.transpose(self.target, rows, self.extents[0], cost_dtype(operand.element_type))
        together = max(1, min(turns, psum.bank_bytes // width // rows))
        evict = cost.activate(
            self.target, rows * together, partitions=self.extents[0], uses_psum=True
        )
        work = [
            _Work.of("tensor", turn, turns),
            _Work.of("scalar", evict, ceil(turns / together)),
        ]
        return [move, *work] if queue != "store" else [*work, move]
