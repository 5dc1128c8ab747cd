"""Arrays whose dimension across the partitions is innermost in memory: they cross the border of a
group in rows, which the tensor engine turns.

    memory [free.., channels]  ->  stage [free, channels]  ->  psum [channels, free]  ->  array

A transfer straight to or from the partitions would take a descriptor for each element.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from polystage.dtypes import byte_width
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.resident.layout import Layout, ResidentArray, partitions_of
from polystage.passes.lower.resident.operators import Matrix
from polystage.passes.lower.resident.workspace import Workspace

STAGES = 2
"""Row blocks that are on chip together, so that transfers run beside the array."""


def is_turned(layout: Layout, in_memory: ir.MemRefType) -> bool:
    """Whether an array crosses the border of a group in rows: its channels are contiguous in
    memory, behind all other dimensions as one, and it has no border of a constant."""
    if layout.partition is None or layout.fill is not None:
        return False
    strides, _ = in_memory.get_strides_and_offset()
    wide = [d for d in layout.free if layout.shape[d] > 1]
    rest = [strides[d] for d in wide]
    inner = [strides[d] * layout.shape[d] for d in wide[1:]]
    contiguous = strides[layout.partition] == 1 and rest[:-1] == inner
    return contiguous and layout.shape[layout.partition] > 1 and bool(wide)


def stage_bytes(layout: Layout) -> int:
    """Return the bytes per partition of the staging buffer."""
    assert layout.partition is not None
    return STAGES * layout.shape[layout.partition] * byte_width(layout.element_type)


def turning_matrix(layout: Layout) -> Matrix:
    """Return the matrix that turns an array."""
    return Matrix("identity", layout.element_type)


class TurnedRows:
    """Moves one array between memory and its buffer; `stage` has `stage_bytes`."""

    def __init__(self, workspace: Workspace, array: ResidentArray, stage: ir.Value) -> None:
        self.workspace = workspace
        self.builder = workspace.builder
        self.layout = array.layout
        self.stage = stage
        free = array.layout.free
        self.buffer = self.builder.collapse(array.buffer, [1, 1, len(free)])
        self.identity = turning_matrix(array.layout)

    @staticmethod
    def stage_shape(layout: Layout, target: Target) -> list[int]:
        """Return the extents of the staging buffer."""
        assert layout.partition is not None
        return [partitions_of(target), STAGES, layout.shape[layout.partition]]

    def load(self, source: ir.Value, cause: str) -> None:
        """Bring the array in."""
        rows = self._rows(source)
        for number, block in enumerate(self._blocks()):
            stage = self._staged(number, block)
            self.builder.dma(self._block(rows, block), stage, cause)
            for tiles in self._together(len(block)):
                self._turn_in(stage, tiles, block)

    def store(self, target: ir.Value, cause: str) -> None:
        """Take the array out."""
        rows = self._rows(target)
        for number, block in enumerate(self._blocks()):
            stage = self._staged(number, block)
            for tiles in self._together(self.layout.partitions):
                self._turn_out(stage, tiles, block)
            self.builder.dma(stage, self._block(rows, block), cause)

    # --- parts -----------------------------------------------------------------------------------

    def _rows(self, value: ir.Value) -> ir.Value:
        """Return an array in memory as [free, channels]."""
        layout = self.layout
        assert layout.partition is not None
        view = self.builder.transpose(value, [*layout.free, layout.partition])
        return self.builder.collapse(view, [len(layout.free), 1])

    def _blocks(self) -> Iterator[range]:
        """Yield the rows that the array turns at once."""
        count = prod(self.layout.shape[d] for d in self.layout.free)
        size = partitions_of(self.builder.target)
        yield from (range(start, min(start + size, count)) for start in range(0, count, size))

    def _block(self, rows: ir.Value, block: range) -> ir.Value:
        channels = ir.MemRefType(rows.type).shape[1]
        return self.builder.subview(rows, [block.start, 0], [len(block), channels])

    def _staged(self, number: int, block: range) -> ir.Value:
        channels = ir.MemRefType(self.stage.type).shape[2]
        place = [0, number % STAGES, 0]
        return self.builder.subview(self.stage, place, [len(block), 1, channels], drop=[1])

    def _together(self, columns: int) -> Iterator[range]:
        """Yield the tiles whose `columns` each fit in a bank, the last one alone if it is less."""
        tiles, step = self.layout.tiles, max(1, self.workspace.banks.columns // columns)
        full = tiles if self.layout.count(tiles - 1) == self.layout.partitions else tiles - 1
        yield from (range(start, min(start + step, full)) for start in range(0, full, step))
        if full < tiles:
            yield range(full, tiles)

    def _turn_in(self, stage: ir.Value, tiles: range, block: range) -> None:
        builder, count, free = self.builder, self.layout.count(tiles.start), len(block)
        bank = self.workspace.banks.take(count, [len(tiles), free])
        identity = self.workspace.matrix(self.identity, free, free)
        for place, tile in enumerate(tiles):
            rows = builder.subview(stage, [0, tile * self.layout.partitions], [free, count])
            turned = builder.subview(bank, [0, place, 0], [count, 1, free], drop=[1])
            builder.matmul(rows, identity, turned, builder.flag(False), auxiliary=True)
        array = builder.subview(
            self.buffer, [0, tiles.start, block.start], [count, len(tiles), free]
        )
        builder.activate(bank, array)

    def _turn_out(self, stage: ir.Value, tiles: range, block: range) -> None:
        builder, count, free = self.builder, self.layout.count(tiles.start), len(block)
        bank = self.workspace.banks.take(free, [len(tiles), count])
        identity = self.workspace.matrix(self.identity, count, count)
        for place, tile in enumerate(tiles):
            array = builder.subview(self.buffer, [0, tile, block.start], [count, 1, free], drop=[1])
            turned = builder.subview(bank, [0, place, 0], [free, 1, count], drop=[1])
            builder.matmul(array, identity, turned, builder.flag(False), auxiliary=True)
        channels = builder.subview(
            stage, [0, tiles.start * self.layout.partitions], [free, len(tiles) * count]
        )
        builder.activate(bank, builder.expand(channels, [[free], [len(tiles), count]]))
