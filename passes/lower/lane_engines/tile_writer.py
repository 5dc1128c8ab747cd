"""Writes a tile program into loops over tiles."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from polystage.mlir import ir
from polystage.passes.lower.kernel_builder import Cut, KernelBuilder
from polystage.passes.lower.lane_engines import data_movement
from polystage.passes.lower.lane_engines.operand import Operand
from polystage.passes.lower.lane_engines.tile_program import (
    Activate,
    Compute,
    Fill,
    Gather,
    Iota,
    Load,
    Slot,
    Step,
    Store,
    TileProgram,
    tile_base,
    tile_extent,
)
from polystage.passes.lower.lane_engines.tiling import choose_tiling
from polystage.passes.lower.mosaic import Mosaic
from polystage.passes.lower.offset import Offset, Tile


@dataclass(frozen=True)
class Place:
    """Where code is written: the tile of every loop and the buffers that exist there."""

    buffers: dict[Slot, ir.Value]
    position: dict[int, Tile]

    def inside(self, loop: int, tile: Tile) -> Place:
        """Return the place in the body of a loop; buffers made there stay there."""
        return Place(dict(self.buffers), {**self.position, loop: tile})


class TileWriter:
    """Writes a tile program into its loops.

    A step stands in the outermost loop body in which everything it depends on is known: a bias is
    loaded once per channel tile, not once per pixel tile. The innermost loop may hold two tiles at
    once, each step for both, so that engines that need each other's results need not wait.
    """

    def __init__(self, builder: KernelBuilder, program: TileProgram) -> None:
        self.builder = builder
        self.program = program
        self.nest = program.nest
        self.tiling = choose_tiling(program, builder.target, builder.buffers)
        self.looped = self.tiling.looped(self.nest.extents)
        self.partitions = self.nest.extents[0] * self.nest.stack[1]
        self.parallel_depth = sum(d < self.nest.n_parallel for d in self.looped)

    def write(self) -> None:
        """Append the loops and instructions to the kernel."""
        whole = {d: Tile(Offset(), n) for d, n in enumerate(self.nest.extents)}
        self._write_level(0, [Place({}, whole)])

    def _depth(self, step: Step) -> int:
        return max((self.looped.index(d) + 1 for d in step.dims if d in self.looped), default=0)

    def _write_level(self, depth: int, places: Sequence[Place]) -> None:
        """Write the steps of one loop body for all places, step by step."""
        for step in self.program.steps:
            if self._depth(step) == depth:
                for place in places:
                    self._write_step(step, place.buffers, place.position)
        if depth < len(self.looped):
            (outer,) = places
            for tiles in self._tiles(depth):
                inner = [outer.inside(self.looped[depth], tile) for tile in tiles]
                self._write_level(depth + 1, inner)
        if depth == self.parallel_depth:
            for step in self.program.stores:
                for place in places:
                    self._write_step(step, place.buffers, place.position)

    def _tiles(self, depth: int) -> Iterator[list[Tile]]:
        """Yield the tiles of a loop, in the innermost one those that are on chip together."""
        d = self.looped[depth]
        extent, tile = self.nest.extents[d], self.tiling.tiles[d]
        together = self.tiling.copies if depth + 1 == len(self.looped) else 1
        for group in self.builder.tiles(extent, together * tile, self._cut(d)):
            starts = range(0, group.size, tile)
            yield [Tile(group.start + s, min(tile, group.size - s)) for s in starts]

    def _cut(self, loop: int) -> Cut | None:
        """Return what tells tiles of a loop apart: how they cut the pieces that operands have."""
        operands = [o for o in self.nest.operands if isinstance(o.value, Mosaic)]
        if not any(loop in o.dims for o in operands):
            return None

        def cut(start: int, size: int) -> Hashable:
            found: list[Hashable] = []
            for operand in operands:
                for dim, linear in enumerate(operand.index):
                    if loop in linear.dims:
                        found += self._ranges(operand, dim, loop, start, size)
            return tuple(found)

        return cut

    def _ranges(
        self, operand: Operand, dim: int, loop: int, start: int, size: int
    ) -> list[Hashable]:
        """Return what every piece has of a tile of `loop`, in one dimension of an operand."""
        assert isinstance(operand.value, Mosaic)
        linear = operand.index[dim]
        if any(d in linear.dims for d in self.looped if d != loop):
            return [start]  # it depends on other loops too: every tile on its own
        tiles = [*self.tiling.tiles[:loop], size, *self.tiling.tiles[loop + 1 :]]
        stacked, count = self.nest.stack
        places = count if stacked in linear.dims else 1
        shift = linear.coefficients[stacked] * self.nest.extents[stacked]
        first = linear.constant + tile_base(linear, tiles) + linear.coefficients[loop] * start
        extent = tile_extent(linear, tiles)
        return [operand.value.ranges(dim, first + i * shift, extent) for i in range(places)]

    def _write_step(
        self, step: Step, buffers: dict[Slot, ir.Value], position: dict[int, Tile]
    ) -> None:
        builder = self.builder
        tiles = [position[d].size for d in range(len(position))]
        for slot in step.writes:
            if slot not in buffers:
                shape = [self.partitions, *slot.free_shape(tiles)]
                buffers[slot] = builder.alloc(shape, slot.type)
        match step:
            case Load(operand, slot, staged):
                parts = list(self._stack(buffers[slot], position))
                data_movement.load(builder, operand, slot, buffers[slot], parts, staged)
            case Store(slot, operand, staged):
                for part, place in self._stack(buffers[slot], position):
                    data_movement.store(builder, slot, part, operand, place, staged)
            case Iota(slot, loop):
                builder.iota(buffers[slot], position[loop].start, int(loop != 0))
            case Gather(_, indices, target, _):
                table = self._table_window(step, position)
                builder.gather(table, buffers[target], [buffers[i] for i in indices])
            case _:
                write_instruction(builder, step, buffers, [self.partitions, *tiles[1:]])

    def _stack(
        self, buffer: ir.Value, position: dict[int, Tile]
    ) -> Iterator[tuple[ir.Value, dict[int, Tile]]]:
        """Yield the partitions of every piece of a stacked loop, and where in DRAM it is."""
        loop, count = self.nest.stack
        if count == 1:
            yield buffer, position
            return
        shape = list(ir.MemRefType(buffer.type).shape)
        size = self.nest.extents[0]
        for i in range(count):
            offsets = [i * size, *([0] * (len(shape) - 1))]
            part = self.builder.subview(buffer, offsets, [size, *shape[1:]])
            tile = position[loop]
            moved = Tile(tile.start + i * self.nest.extents[loop], tile.size)
            yield part, {**position, loop: moved}

    def _table_window(self, step: Gather, position: dict[int, Tile]) -> ir.Value:
        """Return the table cut to the columns of the tile."""
        shape = list(ir.MemRefType(step.table.type).shape)
        first = len(shape) - len(step.columns)
        offsets: list[Offset | int] = [0] * first
        sizes = shape[:first]
        for linear in step.columns:
            assert linear.single is not None
            tile = position[linear.single]
            offsets.append(tile.start)
            sizes.append(tile.size)
        return self.builder.subview(step.table, offsets, sizes)


def write_instruction(
    builder: KernelBuilder, step: Step, buffers: Mapping[Slot, ir.Value], tiles: Sequence[int]
) -> None:
    """Write a step that computes from buffers alone; `tiles[0]` is the partitions."""
    match step:
        case Fill(slot, value):
            builder.memset(buffers[slot], value)
        case Activate(source, target, function, scale, bias, shift):
            column = None if shift is None else buffers[shift]
            builder.activate(buffers[source], buffers[target], function, scale, bias, column)
        case Compute():
            box = [d for d in step.box if tiles[d] > 1]
            slots = (*step.inputs, *step.outputs)
            builder.compute(
                step.kind,
                [buffers[s] for s in step.inputs],
                [buffers[s] for s in step.outputs],
                step.function,
                [tiles[d] for d in (0, *box)],
                [_map(builder, slot, box, tiles) for slot in slots],
                step.engine,
            )
        case _:
            raise TypeError(f"unknown step {step}")


def _map(
    builder: KernelBuilder, slot: Slot, box: Sequence[int], tiles: Sequence[int]
) -> ir.AffineMap:
    """Return where a buffer is accessed, as a map from (partition, box)."""
    with builder.module.context:
        results = [ir.AffineExpr.get_dim(0)]
        for linear in slot.index:
            total = ir.AffineExpr.get_constant(-tile_base(linear, tiles))
            for i, d in enumerate(box):
                total = total + ir.AffineExpr.get_dim(i + 1) * linear.coefficients[d]
            results.append(total)
        return ir.AffineMap.get(len(box) + 1, 0, results)
