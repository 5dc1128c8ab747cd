"""Writes attention, in batches of a few heads; nothing but maxima and weights leaves psum.

    maxima     S = Q K^T, and the maximum of every row                     [query, head]
    shifts     -maxima, transposed: a row for each head                    [head, query]
    weights    S^T = K Q^T + shift, P^T = exp(scale * S^T)                 [key, head, query]
    mix        O^T = V^T P^T, sums = 1 P^T, O^T / sums                     [feature, query]

Scores are computed twice, because the array has time: what leaves psum goes through one engine at a
time. A column of ones repeats the shift in all rows, a matrix of ones does so with sums. While one
batch is mixed, the next one gets weights, and the one after that its maxima.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from polystage.mlir import ir
from polystage.passes.lower.resident.attention import Attention, start_of
from polystage.passes.lower.resident.attention_buffers import AttentionBuffers
from polystage.passes.lower.resident.attention_mask import Mask
from polystage.passes.lower.resident.attention_tiles import Batch, Rows, Span, Unit, rows_of
from polystage.passes.lower.resident.layout import partitions_of
from polystage.passes.lower.resident.operators import Matrix
from polystage.passes.lower.resident.workspace import Workspace

LOWEST = -3.0e38
"""What maxima start from: finite, because the array multiplies it by zeros."""

SMALLEST = 1.0e-30
"""What is added to sums where rows without any score above -inf give zeros."""


class AttentionWriter:
    """Writes the instructions of attention."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def write(self, operator: Attention) -> None:
        """Write one operator."""
        writer = _BatchWriter(self.workspace, operator)
        batches = operator.tiles(self.workspace.builder.target).batches
        # in a step, the array does for one batch what lies between two waits of another one
        stages = ((0, writer.maxima), (1, writer.shifts), (2, writer.mix), (1, writer.weights))
        writer.begin()
        for step in range(len(batches) + 2):
            for after, stage in stages:
                if 0 <= step - after < len(batches):
                    stage(batches[step - after])
            if step == 0:
                writer.transpose_values()


@dataclass(frozen=True)
class _Slot:
    """A column of psum with a tile of the output, and the heads that have rows of it: the rows, and
    the first of a head's values that is there."""

    unit: Unit
    heads: tuple[tuple[int, Rows, int], ...]

    @property
    def rows(self) -> Rows:
        """The rows of all heads together."""
        first = min(rows.first for _, rows, _ in self.heads)
        stop = max(rows.first + rows.count for _, rows, _ in self.heads)
        return Rows(self.unit.tile, first, stop - first)


class _BatchWriter:
    """One operator: the stages of its batches."""

    def __init__(self, workspace: Workspace, operator: Attention) -> None:
        self.workspace = workspace
        self.operator = operator
        self.builder = workspace.builder
        self.buffers = AttentionBuffers(workspace, operator)
        self.tiles = self.buffers.tiles
        self.partitions = partitions_of(self.builder.target)
        self.value_units = operator.units(operator.value, self.partitions)
        self.output_units = operator.units(operator.output, self.partitions)
        half = len(workspace.banks.banks) // 2
        self.banks, self.mixed_banks = workspace.banks.rings(half, half)

    def begin(self) -> None:
        """Write what maxima start from."""
        if self.operator.has_maximum:
            self.builder.memset(self.buffers.buffers["maximum"], LOWEST, "gpsimd")

    def transpose_values(self) -> None:
        """Transpose the values, to rows [key, feature]."""
        for tile, span in enumerate(self.tiles.key_tiles):
            for units in _chunks(self.value_units.all, self.banks.columns):
                first, total = units[0].column, sum(unit.count for unit in units)
                bank = self.banks.take(span.size, [total])
                for unit in units:
                    place, sizes = [0, unit.column - first], [span.size, unit.count]
                    transposed = self.builder.subview(bank, place, sizes)
                    self._transpose(self.buffers.value_tile(unit, span), transposed)
                self.builder.activate(bank, self.buffers.values(tile, first, total))

    # --- stages ----------------------------------------------------------------------------------

    def maxima(self, batch: Batch) -> None:
        """Write the maximum of every row of scores."""
        if not self.operator.has_maximum:
            return
        for tile, queries in enumerate(batch.queries.tiles(self.tiles.rows)):
            maxima = self.buffers.maxima(batch, tile, queries.size)
            for keys in self.tiles.key_pieces:
                bank = self.banks.take(queries.size, [len(batch.heads), keys.size])
                for place, head in enumerate(batch.heads):
                    stationary = self.buffers.query_rows(head, queries)
                    moving = self.buffers.key_rows(head, keys)
                    result = self._column(bank, place)
                    self._multiply(stationary, moving, result)
                    for mask in self.operator.masks:
                        hidden = self._mask(mask, head, queries, keys)
                        self._add(self._identity(queries.size), hidden, result)
                self._fold_maximum(bank, maxima)

    def shifts(self, batch: Batch) -> None:
        """Write the negated maxima, a row for each head."""
        if not self.operator.has_maximum:
            return
        shift = self.buffers.shift(batch)
        rows, columns = ir.MemRefType(shift.type).shape
        bank = self.banks.take(rows, [columns])
        for tile, queries in enumerate(batch.queries.tiles(self.tiles.rows)):
            place = [0, queries.start - batch.queries.start]
            transposed = self.builder.subview(bank, place, [rows, queries.size])
            maxima = self.buffers.maxima(batch, tile, queries.size)
            maxima = self.builder.subview(maxima, [0, 0], [queries.size, rows])
            self._transpose(maxima, transposed)
        self.builder.activate(bank, shift, scale=-1.0)

    def weights(self, batch: Batch) -> None:
        """Write the weight of every score."""
        for tile, keys in enumerate(self.tiles.key_tiles):
            bank = self.banks.take(keys.size, [len(batch.heads), batch.queries.size])
            for place, head in enumerate(batch.heads):
                result = self._column(bank, place)
                moving = self.buffers.query_rows(head, batch.queries)
                self._multiply(self.buffers.key_rows(head, keys), moving, result)
                for mask in self.operator.masks:
                    self._add_transposed(mask, batch, head, keys, result)
                if self.operator.has_maximum:
                    self._add_shift(batch, place, result)
            weights = self.buffers.weights(batch, tile)
            self.builder.activate(bank, weights, "exp", self.operator.scale)

    def mix(self, batch: Batch) -> None:
        """Multiply values by weights, and divide by the sums of these."""
        slots, most = self._slots(batch), self.tiles.together
        for chunk in (slots[n : n + most] for n in range(0, len(slots), most)):
            self._mix_slots(batch, chunk)

    def _mix_slots(self, batch: Batch, slots: Sequence[_Slot]) -> None:
        """Do so for tiles of the output that are in a bank of psum together."""
        shape = [len(slots), batch.queries.size]
        mixed, sums = (self.mixed_banks.take(self.partitions, shape) for _ in range(2))
        for number, slot in enumerate(slots):
            for head, rows, first in slot.heads:
                place = [rows.first, number, 0], [rows.count, 1, batch.queries.size]
                results = [self.builder.subview(bank, *place, drop=[1]) for bank in (mixed, sums)]
                self._mix_head(batch, head, first, rows.count, results)
        bias = SMALLEST if self.operator.masked_rows_are_zero else 0.0
        for number, count, rows in self._together(slots):
            place = [rows.first, number, 0], [rows.count, count, batch.queries.size]
            factor = self.buffers.factor(batch, number, count, rows)
            total = self.builder.subview(sums, *place)
            self.builder.activate(total, factor, "reciprocal", 1.0, bias)
            unit = slots[number].unit
            output = self.buffers.output_rows(unit, count, rows, batch.queries)
            self._times(self.builder.subview(mixed, *place), factor, output)

    # --- parts of stages -------------------------------------------------------------------------

    def _add_shift(self, batch: Batch, place: int, result: Any) -> None:
        """Add the shift of a head to its scores [key, query], the same for all keys."""
        row = place * self.tiles.spacing
        shift = self.builder.subview(self.buffers.shift(batch), [row, 0], [1, batch.queries.size])
        ones = self.workspace.matrices[Matrix("ones", self.operator.value.element_type)]
        count = ir.MemRefType(result.type).shape[0]
        column = self.builder.subview(ones, [row, 0], [1, count])
        self._add(column, shift, result)

    def _add_transposed(self, mask: Mask, batch: Batch, head: int, keys: Span, result: Any) -> None:
        """Add a mask to scores [key, query]."""
        for queries in batch.queries.tiles(self.tiles.rows):
            place = [0, queries.start - batch.queries.start]
            part = self.builder.subview(result, place, [keys.size, queries.size])
            hidden = self._mask(mask, head, queries, keys)
            self._add(hidden, self._identity(queries.size), part)

    def _mask(self, mask: Mask, head: int, queries: Span, keys: Span) -> Any:
        """Return what is added to scores [query, key]."""
        column = mask.place(head, queries.start, self.partitions) + keys.start
        table = self.workspace.matrices[mask]
        return self.builder.subview(table, [0, column], [queries.size, keys.size])

    def _mix_head(
        self, batch: Batch, head: int, first: int, count: int, results: Sequence[Any]
    ) -> None:
        """Write `count` of a head's values from `first` on, mixed, and the sums of the weights."""
        column = self.value_units.column(start_of(self.operator.value, self.operator.heads[head]))
        ones = Matrix("ones", self.operator.value.element_type)
        for tile, keys in enumerate(self.tiles.key_tiles):
            weights = self._column(self.buffers.weights(batch, tile), head - batch.heads.start)
            accumulate = self.builder.flag(tile > 0)
            values = self.buffers.values(tile, column + first, count)
            self.builder.matmul(values, weights, results[0], accumulate)
            matrix = self.workspace.matrix(ones, keys.size, count)
            self.builder.matmul(matrix, weights, results[1], accumulate)

    def _slots(self, batch: Batch) -> list[_Slot]:
        """Return the tiles of the output of which a batch has rows."""
        window, values = self.operator.output, self.operator.extents[self.operator.values]
        found: dict[Unit, list[tuple[int, Rows, int]]] = {}
        for head in batch.heads:
            start = start_of(window, self.operator.heads[head])
            done = 0
            for rows in self.output_units.rows(start, values, self.builder.target.sbuf):
                unit = self.output_units.unit(start, rows.tile)
                found.setdefault(unit, []).append((head, rows, done))
                done += rows.count
        return [_Slot(unit, tuple(heads)) for unit, heads in found.items()]

    def _together(self, slots: Sequence[_Slot]) -> Iterator[tuple[int, int, Rows]]:
        """Yield the first slot and how many follow it in the output, with their rows: what one
        instruction takes out."""
        first = 0
        for number in range(1, len(slots) + 1):
            if number < len(slots) and _follows(slots[number - 1], slots[number]):
                continue
            whole = slots[first].rows
            sbuf = self.builder.target.sbuf
            for rows in rows_of(whole.first, whole.count, self.partitions, sbuf) or ():
                yield first, number - first, rows
            first = number

    # --- instructions ----------------------------------------------------------------------------

    def _multiply(self, stationary: Sequence[Any], moving: Sequence[Any], result: Any) -> None:
        """Contract the rows of a head, piece by piece."""
        for number, (left, right) in enumerate(zip(stationary, moving, strict=True)):
            self.builder.matmul(left, right, result, self.builder.flag(number > 0))

    def _add(self, stationary: Any, moving: Any, result: Any) -> None:
        self.builder.matmul(stationary, moving, result, self.builder.flag(True))

    def _identity(self, size: int) -> Any:
        matrix = Matrix("identity", self.operator.value.element_type)
        return self.workspace.matrix(matrix, size, size)

    def _transpose(self, source: Any, destination: Any) -> None:
        """Multiply by the identity: destination[b, a] = source[a, b]."""
        moving = self._identity(ir.MemRefType(source.type).shape[0])
        self.builder.matmul(source, moving, destination, self.builder.flag(False))

    def _fold_maximum(self, scores: Any, maxima: Any) -> None:
        """Fold scores [query, head, key] into the maxima, which have one column in `spacing`."""
        name = self._function("fold_maximum_f32", "%x: f32", "arith.maximumf %x, %out")
        with self.builder.module.context:
            query, head = (ir.AffineExpr.get_dim(d) for d in range(2))
            written = ir.AffineMap.get(3, 0, [query, head * self.tiles.spacing])
            maps = [ir.AffineMap.get_identity(3), written]
        extents = list(ir.MemRefType(scores.type).shape)
        self.builder.compute("reduce", [scores], [maxima], name, extents, maps)

    def _times(self, first: Any, second: Any, target: Any) -> None:
        """Multiply element by element on the vector engine."""
        name = self._function("multiply_f32", "%x: f32, %y: f32", "arith.mulf %x, %y")
        shape = list(ir.MemRefType(first.type).shape)
        with self.builder.module.context:
            maps = [ir.AffineMap.get_identity(len(shape))] * 3
        self.builder.compute("elementwise", [first, second], [target], name, shape, maps)

    def _function(self, name: str, arguments: str, operation: str) -> str:
        return self.builder.scalar_function(
            name,
            f"func.func private @{name}({arguments}, %out: f32) -> f32 {{\n"
            f"  %r = {operation} : f32\n  return %r : f32\n}}",
        )

    def _column(self, value: Any, place: int) -> Any:
        """Return [row, column] at a place of [row, place, column]."""
        rows, _, columns = ir.MemRefType(value.type).shape
        return self.builder.subview(value, [0, place, 0], [rows, 1, columns], drop=[1])


def _follows(last: _Slot, slot: _Slot) -> bool:
    """Whether a slot has the same rows of the next tile."""
    a, b = last.rows, slot.rows
    return last.unit.origin == slot.unit.origin and (a.tile + 1, a.first, a.count) == (
        b.tile,
        b.first,
        b.count,
    )


def _chunks(units: Sequence[Unit], columns: int) -> Iterator[list[Unit]]:
    """Yield units side by side, as many as have so many columns together."""
    chunk: list[Unit] = []
    for unit in units:
        if chunk and sum(u.count for u in chunk) + unit.count > columns:
            yield chunk
            chunk = []
        chunk.append(unit)
    if chunk:
        yield chunk
