"""Where attention has its operands and what it computes, while it is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polystage.mlir import ir
from polystage.passes.lower.resident.attention import PLACES, Attention, dim_of, start_of
from polystage.passes.lower.resident.attention_tiles import Batch, Span, Unit, rows_of
from polystage.passes.lower.resident.layout import Range, ResidentArray, partitions_of
from polystage.passes.lower.resident.windows import Window
from polystage.passes.lower.resident.workspace import Workspace


class AttentionBuffers:
    """Views of the buffers of one operator, and of its arrays head by head."""

    def __init__(self, workspace: Workspace, operator: Attention) -> None:
        self.operator = operator
        self.builder = workspace.builder
        self.arrays = workspace.arrays
        target = self.builder.target
        self.tiles = operator.tiles(target)
        self.buffers = {
            name: workspace.scratch((operator, name), [partitions_of(target), *shape], type_)
            for name, (shape, type_) in operator.buffers(target).items()
        }

    def queries(self, batch: Batch) -> Span:
        """Return the queries of a batch."""
        return self.tiles.queries[batch.queries]

    # --- arrays ----------------------------------------------------------------------------------

    def rows(self, window: Window, features: int, tokens: int, head: int, span: Span) -> list[Any]:
        """Return what a head has of queries or keys: [feature, token], in pieces at which an access
        may start."""
        array = self.arrays[window.array]
        start = start_of(window, self.operator.heads[head])
        dim, layout = dim_of(window, features), array.layout
        box = _box(array, start, dim_of(window, tokens), span)
        size = self.operator.extents[features]
        sbuf = self.builder.target.sbuf
        return [
            self.builder.subview(
                array.view(self.builder, rows.tile, box), [rows.first, 0], [rows.count, span.size]
            )
            for rows in rows_of(start[dim], size, layout.partitions, sbuf) or ()
        ]

    def value_tile(self, unit: Unit, span: Span) -> Any:
        """Return a tile of the values: [feature, key]."""
        window = self.operator.value
        array, tokens = self.arrays[window.array], dim_of(window, self.operator.keys)
        return array.view(self.builder, unit.tile, _box(array, unit.origin, tokens, span))

    def output_tiles(self, units: Sequence[Unit], span: Span) -> Any:
        """Return tiles of the output that follow each other: [feature, tile, query]."""
        window = self.operator.output
        array, tokens = self.arrays[window.array], dim_of(window, self.operator.queries)
        box = _box(array, units[0].origin, tokens, span)
        layout = array.layout
        starts = [
            layout.before[d] + start for d, (start, _, _) in zip(layout.free, box, strict=True)
        ]
        return self.builder.subview(
            array.buffer,
            [0, units[0].tile, *starts],
            [units[0].count, len(units), *(size for _, size, _ in box)],
            drop=[place for place, d in enumerate(layout.free, start=2) if d != tokens],
        )

    # --- buffers ---------------------------------------------------------------------------------

    def statistic(self, name: str, batch: Batch) -> Any:
        """Return one number for each row of scores: [query, head]."""
        starts = [0, batch.queries, batch.heads.start]
        sizes = [self.queries(batch).size, 1, len(batch.heads)]
        return self.builder.subview(self.buffers[name], starts, sizes, drop=[1])

    def sums(self, batch: Batch) -> Any:
        """Return the sums of weights: [query, head, piece of the keys]."""
        starts = [0, batch.queries, batch.heads.start, 0]
        sizes = [self.queries(batch).size, 1, len(batch.heads), len(self.tiles.pieces)]
        return self.builder.subview(self.buffers["sums"], starts, sizes, drop=[1])

    def weights(self, number: int, batch: Batch, place: int, span: Span) -> Any:
        """Return the weights of one head: [query, key]."""
        sizes = [self.queries(batch).size, 1, span.size]
        return self._turn("weights", number, [0, place, span.start], sizes, [1])

    def transposed(self, number: int, batch: Batch, pair: int, rows: int, count: int = 1) -> Any:
        """Return the weights of pairs of keys and a head: [key, pair, query]."""
        sizes = [rows, count, self.queries(batch).size]
        return self._turn("transposed", number, [0, pair, 0], sizes, [])

    def value_rows(self, tile: int, column: int, columns: int) -> Any:
        """Return values of a tile of keys: [key, feature]."""
        sizes = [self.tiles.keys[tile].size, 1, columns]
        return self.builder.subview(self.buffers["values"], [0, tile, column], sizes, drop=[1])

    def result(self, batch: Batch, column: int, columns: int) -> Any:
        """Return a part of the result of a tile of queries: [query, feature]."""
        sizes = [self.queries(batch).size, 1, columns]
        starts = [0, batch.queries, column]
        return self.builder.subview(self.buffers["result"], starts, sizes, drop=[1])

    def _turn(
        self,
        name: str,
        number: int,
        starts: Sequence[int],
        sizes: Sequence[int],
        drop: Sequence[int],
    ) -> Any:
        """Return a part of the buffer that batch `number` has in its turn."""
        buffer = self.buffers[f"{name} {number % PLACES}"]
        return self.builder.subview(buffer, starts, sizes, drop=drop)


def part_of(buffers: AttentionBuffers, value: ir.Value, place: int) -> Any:
    """Return [row, column] at a place of [row, place, column]."""
    rows, _, columns = ir.MemRefType(value.type).shape
    return buffers.builder.subview(value, [0, place, 0], [rows, 1, columns], drop=[1])


def _box(array: ResidentArray, start: Sequence[int], tokens: int, span: Span) -> list[Range]:
    """Return the ranges of all dimensions within the partitions: one token after the other."""
    return [
        (start[d] + span.start, span.size, 1) if d == tokens else (start[d], 1, 1)
        for d in array.layout.free
    ]
