"""Writes attention, in batches of a few heads, through stages; while one batch is in a stage, the
next one is in the stage before.

    scores     S = Q K^T, out of psum as -scale * S          tensor, scalar engine
    softmax    minimum, P = exp(minimum - scores), sums      vector, scalar engine; all in sbuf
    mix        P^T, O = P V, O / sums                        tensor, vector engine
    output     O^T                                           tensor, scalar engine

Psum lets one engine at a time read it: what needs not, does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from polystage.mlir import ir
from polystage.passes.lower.resident.attention.buffers import AttentionBuffers
from polystage.passes.lower.resident.attention.mask import Mask
from polystage.passes.lower.resident.attention.operator import Attention, Head, start_of
from polystage.passes.lower.resident.attention.tiles import Batch, Span, Unit
from polystage.passes.lower.resident.layout import partitions_of
from polystage.passes.lower.resident.operators import Matrix
from polystage.passes.lower.resident.workspace import Workspace


class AttentionWriter:
    """Writes the instructions of attention."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def write(self, operator: Attention) -> None:
        """Write one operator."""
        writer = _BatchWriter(self.workspace, operator)
        batches = operator.tiles(self.workspace.builder.target).batches
        # in a step, a batch leaves a stage and its buffer before the next one comes
        stages = ((3, writer.output), (2, writer.mix), (1, writer.softmax), (0, writer.scores))
        writer.begin()
        for step in range(len(batches) + 3):
            for after, stage in stages:
                if 0 <= step - after < len(batches):
                    stage(batches[step - after])
            if step == 0:
                writer.transpose_values()


class _BatchWriter:
    """One operator: the stages of its batches."""

    def __init__(self, workspace: Workspace, operator: Attention) -> None:
        self.workspace = workspace
        self.operator = operator
        self.builder = workspace.builder
        self.banks = workspace.banks
        self.buffers = AttentionBuffers(workspace, operator)
        self.tiles = self.buffers.tiles
        self.partitions = partitions_of(self.builder.target)
        self.value_units = operator.units(operator.value, self.partitions)
        self.output_units = operator.units(operator.output, self.partitions)
        self.done = dict.fromkeys(range(len(self.tiles.query_tiles)), 0)
        """How many columns of the result have been transposed, by tile of queries."""

    def begin(self) -> None:
        """Write what minima start from."""
        if self.operator.has_maximum:
            self.builder.memset(self.buffers.buffers["minimum"], float("inf"), "gpsimd")

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

    def scores(self, batch: Batch) -> None:
        """Multiply queries by keys; what leaves psum is scaled and negated."""
        for keys in self.tiles.key_pieces:
            bank = self.banks.take(batch.queries.size, [len(batch.heads), keys.size])
            for place, head in enumerate(batch.heads):
                result = self._column(bank, place)
                parts = zip(
                    self.buffers.query_rows(head, batch.queries),
                    self.buffers.key_rows(head, keys),
                    strict=True,
                )
                for number, (stationary, moving) in enumerate(parts):
                    self.builder.matmul(stationary, moving, result, self.builder.flag(number > 0))
                for mask in self.operator.masks:
                    self._add_mask(mask, batch, head, keys, result)
            scores = self.buffers.scores("scores", batch, keys)
            self.builder.activate(bank, scores, scale=-self.operator.scale)

    def softmax(self, batch: Batch) -> None:
        """Write the weights of all scores, and the sums of every row."""
        whole = Span(0, self.tiles.keys)
        scores, weights = (
            self.buffers.scores(name, batch, whole) for name in ("scores", "weights")
        )
        minimum, sums = (self.buffers.statistic(name, batch) for name in ("minimum", "sums"))
        if self.operator.has_maximum:
            self._fold_minimum(scores, minimum)
        for place in range(len(batch.heads)):
            column = [0, place], [batch.queries.size, 1]
            self.builder.activate(
                self._column(scores, place),
                self._column(weights, place),
                "exp",
                -1.0,
                shift=self.builder.subview(minimum, *column) if self.operator.has_maximum else None,
                total=self.builder.subview(sums, *column),
            )

    def mix(self, batch: Batch) -> None:
        """Multiply values by weights, and divide by the sums of these."""
        self._transpose_weights(batch)
        values, heads = self.tiles.values, len(batch.heads)
        bank = self.banks.take(batch.queries.size, [heads, values])
        for place, head in enumerate(batch.heads):
            result = self._column(bank, place)
            column = self.value_units.column(start_of(self.operator.value, self._head(head)))
            for tile, keys in enumerate(self.tiles.key_tiles):
                pair = self.buffers.transposed(batch, tile * heads + place, 1, keys.size)
                moving = self.buffers.values(tile, column, values)
                accumulate = self.builder.flag(tile > 0)
                self.builder.matmul(self._column(pair, 0), moving, result, accumulate)
        sums = self.buffers.statistic("sums", batch)
        rows = self.buffers.result(batch, batch.heads.start * values, heads * values)
        rows = self.builder.expand(rows, [[batch.queries.size], [heads, values]])
        self._divide(bank, sums, rows)

    def output(self, batch: Batch) -> None:
        """Transpose the tiles of the result that are whole now, to their place."""
        there = batch.heads.stop * self.tiles.values
        done, self.done[batch.tile] = self.done[batch.tile], there
        units = [u for u in self.output_units.all if done < u.column + u.count <= there]
        for chunk in _neighbours(units, self.banks.columns // batch.queries.size):
            bank = self.banks.take(chunk[0].count, [len(chunk), batch.queries.size])
            for place, unit in enumerate(chunk):
                source = self.buffers.result(batch, unit.column, unit.count)
                self._transpose(source, self._column(bank, place))
            self.builder.activate(bank, self.buffers.output_tiles(chunk, batch.queries))

    # --- parts of stages -------------------------------------------------------------------------

    def _add_mask(self, mask: Mask, batch: Batch, head: int, keys: Span, result: Any) -> None:
        """Add a mask to scores [query, key]."""
        column = mask.place(head, batch.tile, self.partitions) + keys.start
        size = batch.queries.size
        hidden = self.builder.subview(self.workspace.matrices[mask], [0, column], [size, keys.size])
        flag = self.builder.flag(True)
        self.builder.matmul(self._identity(size), hidden, result, flag, auxiliary=True)

    def _transpose_weights(self, batch: Batch) -> None:
        """Write the weights as rows [key, query], those of all heads for each tile of keys."""
        heads = len(batch.heads)
        pairs = [(keys, place) for keys in self.tiles.key_tiles for place in range(heads)]
        room = self.banks.columns // batch.queries.size
        first = 0
        for size, group in groupby(pairs, lambda pair: pair[0].size):
            together = list(group)
            for chunk in (together[n : n + room] for n in range(0, len(together), room)):
                bank = self.banks.take(size, [len(chunk), batch.queries.size])
                for slot, (keys, place) in enumerate(chunk):
                    weights = self.buffers.scores("weights", batch, keys)
                    self._transpose(self._column(weights, place), self._column(bank, slot))
                self._copy(bank, self.buffers.transposed(batch, first, len(chunk), size))
                first += len(chunk)

    def _head(self, number: int) -> Head:
        return self.operator.heads[number]

    # --- instructions ----------------------------------------------------------------------------

    def _identity(self, size: int) -> Any:
        matrix = Matrix("identity", self.operator.value.element_type)
        return self.workspace.matrix(matrix, size, size)

    def _transpose(self, source: Any, destination: Any) -> None:
        """Multiply by the identity: destination[b, a] = source[a, b]."""
        moving = self._identity(ir.MemRefType(source.type).shape[0])
        self.builder.matmul(source, moving, destination, self.builder.flag(False), auxiliary=True)

    def _fold_minimum(self, scores: Any, minima: Any) -> None:
        """Fold scores [query, head, key] into minima [query, head]."""
        name = self._function("fold_minimum_f32", "%x: f32", "%r = arith.minimumf %x, %out : f32")
        self._compute("reduce", [scores], minima, name, [3, 2])

    def _copy(self, source: Any, target: Any) -> None:
        """Copy [row, place, column] on the vector engine."""
        self._compute(
            "elementwise", [source], target, self._function("copy_f32", "%r: f32"), [3, 3]
        )

    def _divide(self, mixed: Any, sums: Any, target: Any) -> None:
        """Divide [query, head, value] by [query, head]."""
        operation = "%r = arith.divf %x, %y : f32"
        name = self._function("divide_f32", "%x: f32, %y: f32", operation)
        self._compute("elementwise", [mixed, sums], target, name, [3, 2, 3])

    def _compute(
        self, kind: str, inputs: Sequence[Any], target: Any, function: str, ranks: Sequence[int]
    ) -> None:
        """Emit an instruction of the vector engine over three dimensions, of which each operand has
        the first ones."""
        with self.builder.module.context:
            dims = [ir.AffineExpr.get_dim(d) for d in range(3)]
            maps = [ir.AffineMap.get(3, 0, dims[:rank]) for rank in ranks]
        extents = list(ir.MemRefType(inputs[0].type).shape)
        self.builder.compute(kind, inputs, [target], function, extents, maps)

    def _function(self, name: str, arguments: str, operation: str = "") -> str:
        """Return the name of a scalar function that returns `%r`."""
        return self.builder.scalar_function(
            name,
            f"func.func private @{name}({arguments}, %out: f32) -> f32 {{\n"
            f"  {operation}\n  return %r : f32\n}}",
        )

    def _column(self, value: Any, place: int) -> Any:
        """Return [row, column] at a place of [row, place, column]."""
        rows, _, columns = ir.MemRefType(value.type).shape
        return self.builder.subview(value, [0, place, 0], [rows, 1, columns], drop=[1])


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


def _neighbours(units: Sequence[Unit], most: int) -> Iterator[list[Unit]]:
    """Yield tiles that follow each other and are of one size, at most so many together."""
    chunk: list[Unit] = []
    for unit in units:
        last = chunk[-1] if chunk else unit
        follows = (last.origin, last.tile + 1, last.count) == (unit.origin, unit.tile, unit.count)
        if chunk and (len(chunk) == most or not follows):
            yield chunk
            chunk = []
        chunk.append(unit)
    if chunk:
        yield chunk
