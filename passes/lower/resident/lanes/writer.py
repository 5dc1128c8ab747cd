"""Writes elementwise bodies over resident arrays: the vector and the scalar engine, part by
part."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from polystage.mlir import ir
from polystage.passes.lower.lane_engines.scalar_functions import body_function
from polystage.passes.lower.lane_engines.scalar_graph import Node
from polystage.passes.lower.resident.lanes.operators import Across, LaneBody, LaneOperand, Lanes
from polystage.passes.lower.resident.lanes.steps import Arithmetic, Extent, Pass, Step, Value
from polystage.passes.lower.resident.layout import Range, ResidentArray, partitions_of
from polystage.passes.lower.resident.operators import Matrix
from polystage.passes.lower.resident.parts import parts_of
from polystage.passes.lower.resident.workspace import Workspace
from polystage.passes.memref_types import row_major_strides

TILE = -1
"""In place of a loop: the tiles across the partitions."""

Box = Mapping[int, Range]
"""The range of every free loop."""


@dataclass(frozen=True)
class View:
    """A part of a buffer, [partition, *axes]: the loop, or `TILE`, of every dimension but the
    first; a dimension without one has one element."""

    value: Any
    axes: tuple[int | None, ...]


class LanesWriter:
    """Writes the instructions of one elementwise operator."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def write(self, operator: Lanes) -> None:
        """Write an operator."""
        body = operator.body
        across = None if body.across is None else operator.partition
        dims = {loop: dim for dim, x in enumerate(operator.output.index) for loop in x.dims}
        result = LaneOperand(operator.output, dims, across)
        writer = BodyWriter(self.workspace, body, result)
        for box in boxes(body, self.workspace.banks.columns):
            writer.write(box)


class AcrossWriter:
    """Writes the instructions of a sum across the partitions."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.builder = workspace.builder

    def write(self, operator: Across) -> None:
        """Write a sum: for each part, what is summed, one matmul with ones for each tile, and out
        of psum."""
        body, builder = operator.body, self.builder
        writer = BodyWriter(self.workspace, body, operator.summed_type)
        dims = {loop: dim for dim, x in enumerate(operator.output.index) for loop in x.dims}
        output = LaneOperand(operator.output, dims, None)
        rows = partitions_of(builder.target)
        for box in boxes(body, self.workspace.banks.columns):
            writer.write(box)
            sizes = [size for _, size, _ in box.values() if size > 1] or [1]
            total = self.workspace.banks.take(rows, sizes)
            for tile in range(body.tiles(rows)):
                count = writer.count(tile)
                ones = self.workspace.matrix(Matrix("ones", operator.summed_type), count, rows)
                moving = writer.view(body.steps.result, range(tile, tile + 1), box)
                builder.matmul(ones, moving.value, total, builder.flag(tile > 0), auxiliary=True)
            place = writer.array_view(output, range(1), rows, box)
            builder.activate(total, place.value, bias=operator.initial)
            if not operator.initial:
                self.workspace.banks.keep(writer.key(output, box), total)


def boxes(body: LaneBody, most: int) -> Iterator[Box]:
    """Yield the parts of the free loops of a body."""
    extents = [body.extents[d] for d in body.free]
    for part in parts_of(extents, most):
        yield dict(zip(body.free, part, strict=True))


class BodyWriter:
    """Writes the steps of a body; its result goes to an array, or to a buffer of a type."""

    def __init__(self, workspace: Workspace, body: LaneBody, result: LaneOperand | ir.Type) -> None:
        self.workspace = workspace
        self.builder = workspace.builder
        self.body = body
        self.partitions = partitions_of(self.builder.target)
        self.buffers: dict[Value, ir.Value] = {}
        self.result = result
        self.columns_done: set[Step] = set()
        self.rows: dict[Value, ir.Value] = {}
        with self.builder.module.context:
            f32 = ir.F32Type.get()
        for value in body.steps.in_sbuf:
            shape = body.shape(value, self.partitions)
            self.buffers[value] = workspace.scratch(value, shape, f32)
        if isinstance(result, ir.Type) and body.steps.result.number is None:
            shape = body.shape(body.steps.result, self.partitions)
            self.buffers[body.steps.result] = workspace.scratch(body.steps.result, shape, result)

    def write(self, box: Box) -> None:
        """Write all steps for a part; those of columns alone only with the first."""
        self.rows.clear()
        for step in self.body.steps.steps:
            if step.target.extent is Extent.COLUMN:
                if step in self.columns_done:
                    continue
                self.columns_done.add(step)
            for tiles in self._tiles(step, box):
                self._write_step(step, tiles, box)

    def count(self, tile: int) -> int:
        """Return the partitions of a tile."""
        if self.body.across is None:
            return self.partitions
        return min(self.partitions, self.body.extents[self.body.across] - tile * self.partitions)

    # --- steps -----------------------------------------------------------------------------------

    def _tiles(self, step: Step, box: Box) -> Iterator[range]:
        """Yield the tiles that one instruction does together: full ones, as few as take no longer
        one by one, so that others soon follow; one, where it reads columns or the access would have
        too many dimensions."""
        if step.target.extent is Extent.ROW:
            yield range(1)
            return
        tiles = self.body.tiles(self.partitions)
        values = (*step.reads, step.target)
        if any(v.extent is Extent.COLUMN for v in values) or not self._reaches():
            yield from (range(tile, tile + 1) for tile in range(tiles))
            return
        full = tiles if self.count(tiles - 1) == self.count(0) else tiles - 1
        elements = prod(size for _, size, _ in box.values())
        together = max(1, ceil(self.builder.target.vector.short_cycles / elements))
        yield from (range(n, min(n + together, full)) for n in range(0, full, together))
        if full < tiles:
            yield range(full, tiles)

    def _reaches(self) -> bool:
        """Whether an access can walk several tiles."""
        pattern = self.builder.target.access_pattern
        arrays = [self.workspace.arrays[o.window.array] for o in self.body.arrays.values()]
        if isinstance(self.result, LaneOperand):
            arrays.append(self.workspace.arrays[self.result.window.array])
        strides = [row_major_strides(array.layout.buffer_shape)[1] for array in arrays]
        return len(self.body.free) < pattern.max_free_dims and all(
            stride <= pattern.max_stride for stride in strides
        )

    def _write_step(self, step: Step, tiles: range, box: Box) -> None:
        target = self.view(step.target, tiles, box)
        if isinstance(step, Pass):
            source = self.view(step.source, tiles, box)
            factor, shift = (
                None if value is None else self.view(value, tiles, box).value
                for value in (step.factor, step.shift)
            )
            self.builder.activate(
                source.value, target.value, step.function, step.scale, step.bias, shift, factor
            )
            return
        views = [self.view(source, tiles, box) for source in step.sources]
        self._compute(step, views, target)

    def _compute(self, step: Arithmetic, views: Sequence[View], target: View) -> None:
        shape = ir.MemRefType(target.value.type).shape
        axes = [axis for axis in target.axes if axis is not None]
        sizes = [n for n, axis in zip(shape[1:], target.axes, strict=True) if axis is not None]
        present = Node("output", step.result.type, "present", number=-1)
        function = body_function(self.builder, [*step.arguments, present], [step.result])
        self.builder.compute(
            "elementwise",
            [view.value for view in views],
            [target.value],
            function,
            [shape[0], *sizes],
            [self._map(view, axes) for view in (*views, target)],
        )

    def _map(self, view: View, axes: Sequence[int]) -> ir.AffineMap:
        """Return where a view is accessed, as a map from (partition, *axes)."""
        with self.builder.module.context:
            results = [ir.AffineExpr.get_dim(0)]
            for axis in view.axes:
                results.append(
                    ir.AffineExpr.get_constant(0)
                    if axis is None
                    else ir.AffineExpr.get_dim(1 + axes.index(axis))
                )
            return ir.AffineMap.get(1 + len(axes), 0, results)

    # --- buffers ---------------------------------------------------------------------------------

    def view(self, value: Value, tiles: range, box: Box) -> View:
        """Return what a value has for some tiles and a part."""
        count = self.count(tiles.start)
        if value.number is not None and value.number in self.body.constants:
            column = self.body.constants[value.number]
            return View(self.workspace.column(column, tiles.start, count), (None,))
        if value.number is not None:
            return self.array_view(self.body.arrays[value.number], tiles, count, box)
        if value is self.body.steps.result and isinstance(self.result, LaneOperand):
            return self.array_view(self.result, tiles, count, box)
        match value.extent:
            case Extent.COLUMN:
                buffer = self.buffers[value]
                return View(self.builder.subview(buffer, [0, tiles.start], [count, 1]), (None,))
            case Extent.ROW:
                return self._row(value, count, box)
            case _:
                ranges = [(tiles.start, len(tiles), TILE)]
                ranges += [(box[d][0], box[d][1], d) for d in self.body.free] or [(0, 1, TILE)]
                return self._window(self.buffers[value], count, ranges)

    def _row(self, value: Value, count: int, box: Box) -> View:
        """Return a bank of psum that holds a value of a part."""
        wide = [d for d in self.body.free if box[d][1] > 1]
        if value not in self.rows:
            sizes = [box[d][1] for d in wide] or [1]
            self.rows[value] = self.workspace.banks.take(self.partitions, sizes)
        shape = list(ir.MemRefType(self.rows[value].type).shape)
        place = self.builder.subview(self.rows[value], [0] * len(shape), [count, *shape[1:]])
        return View(place, tuple(wide) or (None,))

    def array_view(self, operand: LaneOperand, tiles: range, count: int, box: Box) -> View:
        """Return a part of an array: [partition, tile, *loops in the order of the body]."""
        array: ResidentArray = self.workspace.arrays[operand.window.array]
        layout = array.layout
        loop_of = {dim: loop for loop, dim in operand.dims.items()}
        replicated = operand.partition is None
        ranges: list[tuple[int, int, int]] = [(0, 1, TILE)]
        if not replicated:
            ranges = [(tiles.start, len(tiles), TILE)]
        for dim in layout.free:
            loop = loop_of.get(dim)
            start, size, _ = (0, 1, 1) if loop is None else box.get(loop, (0, 1, 1))
            ranges.append((layout.before[dim] + start, size, TILE if loop is None else loop))
        view = self._kept(operand, count, box, ranges) or self._window(array.buffer, count, ranges)
        order = sorted(range(len(view.axes)), key=lambda i: self._position(view.axes[i]))
        moved = self.builder.transpose(view.value, [0, *(1 + i for i in order)])
        return View(moved, tuple(view.axes[i] for i in order))

    def key(self, operand: LaneOperand, box: Box) -> Hashable:
        """Return the name of a part of an array that is the same on all partitions."""
        loop_of = {dim: loop for loop, dim in operand.dims.items()}
        layout = self.workspace.arrays[operand.window.array].layout
        parts = (box.get(loop_of.get(dim, TILE), (0, 1, 1)) for dim in layout.free)
        return operand.window.array, tuple(parts)

    def _kept(
        self, operand: LaneOperand, count: int, box: Box, ranges: Sequence[tuple[int, int, int]]
    ) -> View | None:
        """Return such a part where it still lies in psum: sooner, and read in half the time."""
        bank = None
        if operand.partition is None:
            bank = self.workspace.banks.find(self.key(operand, box))
        if bank is None:
            return None
        shape = list(ir.MemRefType(bank.type).shape)
        place = self.builder.subview(bank, [0] * len(shape), [count, *shape[1:]])
        return View(place, tuple(axis for _, size, axis in ranges if size > 1) or (None,))

    def _position(self, axis: int | None) -> int:
        return self.body.free.index(axis) if axis in self.body.free else -1

    def _window(self, buffer: ir.Value, count: int, ranges: Sequence[tuple[int, int, int]]) -> View:
        """Return [partition, *ranges of more than one element], or [partition, 1]."""
        starts, sizes = [start for start, _, _ in ranges], [size for _, size, _ in ranges]
        wide = [i for i, size in enumerate(sizes) if size > 1]
        kept = wide or [len(ranges) - 1]
        drop = [i + 1 for i in range(len(ranges)) if i not in kept]
        view = self.builder.subview(buffer, [0, *starts], [count, *sizes], drop=drop)
        return View(view, tuple(ranges[i][2] for i in wide) or (None,))
