"""Where attention has its operands and what it computes, while it is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polystage.passes.lower.resident.attention.operator import Attention, dim_of, start_of
from polystage.passes.lower.resident.attention.tiles import Batch, Span, Unit, rows_of
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

    # --- arrays ----------------------------------------------------------------------------------

    def query_rows(self, head: int, span: Span) -> list[Any]:
        """Return the queries of a head: [feature, query], in pieces at which an access may
        start."""
        return self._rows(self.operator.query, self.operator.queries, head, span)

    def key_rows(self, head: int, span: Span) -> list[Any]:
        """Return the keys of a head: [feature, key], in such pieces."""
        return self._rows(self.operator.key, self.operator.keys, head, span)

    def _rows(self, window: Window, tokens: int, head: int, span: Span) -> list[Any]:
        array = self.arrays[window.array]
        start = start_of(window, self.operator.heads[head])
        dim = dim_of(window, self.operator.depth)
        box = _box(array, start, dim_of(window, tokens), span)
        size, sbuf = self.operator.extents[self.operator.depth], self.builder.target.sbuf
        return [
            self.builder.subview(
                array.view(self.builder, rows.tile, box), [rows.first, 0], [rows.count, span.size]
            )
            for rows in rows_of(start[dim], size, array.layout.partitions, sbuf) or ()
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
        box, layout = _box(array, units[0].origin, tokens, span), array.layout
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
        starts, sizes = [0, batch.number, 0], [batch.queries.size, 1, len(batch.heads)]
        return self.builder.subview(self.buffers[name], starts, sizes, drop=[1])

    def scores(self, name: str, batch: Batch, keys: Span) -> Any:
        """Return the `scores` or `weights` of some keys: [query, head, key]."""
        sizes = [batch.queries.size, len(batch.heads), keys.size]
        return self.builder.subview(self.buffers[name], [0, 0, keys.start], sizes)

    def transposed(self, batch: Batch, pair: int, pairs: int, keys: int) -> Any:
        """Return weights of so many keys: [key, tile and head, query]."""
        sizes = [keys, pairs, batch.queries.size]
        return self.builder.subview(self.buffers["transposed"], [0, pair, 0], sizes)

    def values(self, tile: int, column: int, columns: int) -> Any:
        """Return values of a tile of keys: [key, feature]."""
        sizes = [self.tiles.key_tiles[tile].size, 1, columns]
        return self.builder.subview(self.buffers["values"], [0, tile, column], sizes, drop=[1])

    def result(self, batch: Batch, column: int, columns: int) -> Any:
        """Return a part of the result of a tile of queries: [query, feature]."""
        starts, sizes = [0, batch.tile, column], [batch.queries.size, 1, columns]
        return self.builder.subview(self.buffers["result"], starts, sizes, drop=[1])


def _box(array: ResidentArray, start: Sequence[int], tokens: int, span: Span) -> list[Range]:
    """Return the ranges of all dimensions within the partitions: one token after the other."""
    return [
        (start[d] + span.start, span.size, 1) if d == tokens else (start[d], 1, 1)
        for d in array.layout.free
    ]
