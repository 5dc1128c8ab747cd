"""Writes attention: scores in psum, weights in sbuf, heads one behind the other.

A batch goes through stages; while one is in a stage, the next one is in the stage before:

    scores     S = Q K^T                  tensor engine, in a bank of psum
    softmax    P = exp(S - maximum)       maximum by the vector, P and its sums by the scalar engine
    mix        P^T, then O = P V          tensor engine; the vector engine takes P^T out
    divide     O / sums of P              scalar engine, into rows [token, feature]
    output     O^T                        tensor engine; the scalar engine takes it out
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from polystage.mlir import ir
from polystage.passes.lower.resident.attention import Attention, start_of
from polystage.passes.lower.resident.attention_buffers import AttentionBuffers, part_of
from polystage.passes.lower.resident.attention_tiles import Batch, Unit
from polystage.passes.lower.resident.layout import partitions_of
from polystage.passes.lower.resident.operators import Matrix
from polystage.passes.lower.resident.workspace import Workspace

LOWEST = -3.0e38
"""What maxima start from where rows without any score above it give zeros."""

SMALLEST = 1.0e-30
"""The least sum by which weights of such rows are divided."""


class AttentionWriter:
    """Writes the instructions of attention."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def write(self, operator: Attention) -> None:
        """Write one operator."""
        heads = _HeadsWriter(self.workspace, operator)
        batches = operator.tiles(self.workspace.builder.target).batches
        delay = int(heads.may_run_ahead)
        # an engine comes first to what has waited longer for its operands
        stages = (
            (0, heads.scores),
            (delay + 2, heads.divide),
            (delay + 3, heads.output),
            (delay, heads.softmax),
            (delay + 1, heads.mix),
        )
        heads.begin()
        for step in range(len(batches) + delay + 3):
            for after, stage in stages:
                if 0 <= step - after < len(batches):
                    stage(step - after, batches[step - after])
            if step == 0:
                heads.turn_values()


class _HeadsWriter:
    """One operator: the stages of its batches."""

    def __init__(self, workspace: Workspace, operator: Attention) -> None:
        self.workspace = workspace
        self.operator = operator
        self.builder = workspace.builder
        self.buffers = AttentionBuffers(workspace, operator)
        self.tiles = self.buffers.tiles
        pieces, mixed = len(self.tiles.pieces), 2
        total = len(workspace.banks.banks)
        self.may_run_ahead = 2 * pieces + mixed < total - 1
        """Whether psum has room for the scores of one batch while weights of another are made."""
        scores = pieces * (1 + self.may_run_ahead)
        rings = workspace.banks.rings(scores, mixed, total - scores - mixed)
        self.score_banks, self.mixed_banks, self.banks = rings
        partitions = partitions_of(self.builder.target)
        self.value_units = operator.units(operator.value, partitions)
        self.output_units = operator.units(operator.output, partitions)
        self.scores_of: dict[int, list[Any]] = {}
        """The scores of a batch, one bank for each piece of keys: [query, head, key]."""
        self.mixed_of: dict[int, Any] = {}
        """The mixed values of a batch: [query, head, value]."""
        self.divided: set[tuple[int, int]] = set()
        """Heads and tiles of queries whose rows of the result are there."""

    def begin(self) -> None:
        """Write what maxima and sums start from."""
        lowest = LOWEST if self.operator.masked_rows_are_zero else float("-inf")
        if self.operator.has_maximum:
            self.builder.memset(self.buffers.buffers["maximum"], lowest, "gpsimd")
        if len(self.tiles.pieces) > 1:
            self.builder.memset(self.buffers.buffers["factor"], 0.0, "gpsimd")

    def turn_values(self) -> None:
        """Transpose the values, to rows [key, feature]."""
        for tile, span in enumerate(self.tiles.keys):
            for units in _chunks(self.value_units.all, self.banks.columns):
                first, total = units[0].column, sum(unit.count for unit in units)
                bank = self.banks.take(span.size, [total])
                for unit in units:
                    place, sizes = [0, unit.column - first], [span.size, unit.count]
                    turned = self.builder.subview(bank, place, sizes)
                    self._transpose(self.buffers.value_tile(unit, span), turned)
                self.builder.activate(bank, self.buffers.value_rows(tile, first, total))

    # --- stages ----------------------------------------------------------------------------------

    def scores(self, number: int, batch: Batch) -> None:
        """Multiply queries by keys."""
        operator, queries = self.operator, self.buffers.queries(batch)
        self.scores_of[number] = []
        for piece in self.tiles.pieces:
            bank = self.score_banks.take(queries.size, [len(batch.heads), piece.size])
            self.scores_of[number].append(bank)
            for place, head in enumerate(batch.heads):
                result = part_of(self.buffers, bank, place)
                query = operator.query, operator.depth, operator.queries, head, queries
                key = operator.key, operator.depth, operator.keys, head, piece
                parts = zip(self.buffers.rows(*query), self.buffers.rows(*key), strict=True)
                for part, (stationary, moving) in enumerate(parts):
                    self.builder.matmul(stationary, moving, result, self.builder.flag(part > 0))

    def softmax(self, number: int, batch: Batch) -> None:
        """Write the weights of all scores, and their sums."""
        banks = self.scores_of.pop(number)
        shift = self._shift(batch, banks) if self.operator.has_maximum else None
        rows, sums = self.buffers.queries(batch).size, self.buffers.sums(batch)
        for piece, (span, bank) in enumerate(zip(self.tiles.pieces, banks, strict=True)):
            for place in range(len(batch.heads)):
                self.builder.activate(
                    part_of(self.buffers, bank, place),
                    self.buffers.weights(number, batch, place, span),
                    "exp",
                    self.operator.scale,
                    shift=shift and self.builder.subview(shift, [0, place], [rows, 1]),
                    total=self.builder.subview(sums, [0, place, piece], [rows, 1, 1], drop=[1]),
                )

    def mix(self, number: int, batch: Batch) -> None:
        """Transpose weights and multiply values by them."""
        operator, heads, values = self.operator, len(batch.heads), self.operator.extents[-1]
        self._transpose_weights(number, batch)
        bank = self.mixed_banks.take(self.buffers.queries(batch).size, [heads, values])
        self.mixed_of[number] = bank
        for place, head in enumerate(batch.heads):
            result = part_of(self.buffers, bank, place)
            column = self.value_units.column(start_of(operator.value, operator.heads[head]))
            for tile, span in enumerate(self.tiles.keys):
                pair = self.buffers.transposed(number, batch, tile * heads + place, span.size)
                moving = self.buffers.value_rows(tile, column, values)
                accumulate = self.builder.flag(tile > 0)
                self.builder.matmul(part_of(self.buffers, pair, 0), moving, result, accumulate)
        self._invert_sums(batch)

    def divide(self, number: int, batch: Batch) -> None:
        """Divide the mixed values by the sums of the weights."""
        operator, bank = self.operator, self.mixed_of.pop(number)
        factors, rows = self.buffers.statistic("factor", batch), self.buffers.queries(batch).size
        for place, head in enumerate(batch.heads):
            column = self.output_units.column(start_of(operator.output, operator.heads[head]))
            self.builder.activate(
                part_of(self.buffers, bank, place),
                self.buffers.result(batch, column, operator.extents[-1]),
                factor=self.builder.subview(factors, [0, place], [rows, 1]),
            )
            self.divided.add((head, batch.queries))

    def output(self, number: int, batch: Batch) -> None:
        """Transpose whole tiles of the result that this batch completes, to their place."""
        del number
        queries = self.buffers.queries(batch)
        for units in self._completed(batch):
            bank = self.banks.take(units[0].count, [len(units), queries.size])
            for place, unit in enumerate(units):
                source = self.buffers.result(batch, unit.column, unit.count)
                self._transpose(source, part_of(self.buffers, bank, place))
            self.builder.activate(bank, self.buffers.output_tiles(units, queries))

    # --- parts of stages -------------------------------------------------------------------------

    def _shift(self, batch: Batch, banks: Sequence[Any]) -> Any:
        """Write and return `-scale * maximum` of every row: [query, head]."""
        maximum, shift = (self.buffers.statistic(name, batch) for name in ("maximum", "shift"))
        for bank in banks:
            self._fold("arith.maximumf", bank, maximum)
        scale = f"{-self.operator.scale:e}"
        name = "times_" + re.sub(r"[^0-9a-z]", "_", scale)
        text = f"%c = arith.constant {scale} : f32\n %r = arith.mulf %x, %c : f32"
        self._compute(name, text, maximum, shift)
        return shift

    def _transpose_weights(self, number: int, batch: Batch) -> None:
        """Write the weights as rows [key, query], those of all heads for each tile of keys."""
        heads, rows = len(batch.heads), self.buffers.queries(batch).size
        room = self.banks.columns // rows
        pairs = [(span, place) for span in self.tiles.keys for place in range(heads)]
        first = 0
        for count, group in groupby(pairs, lambda pair: pair[0].size):
            together = list(group)
            for chunk in (together[n : n + room] for n in range(0, len(together), room)):
                bank = self.banks.take(count, [len(chunk), rows])
                for slot, (span, place) in enumerate(chunk):
                    source = self.buffers.weights(number, batch, place, span)
                    self._transpose(source, part_of(self.buffers, bank, slot))
                target = self.buffers.transposed(number, batch, first, count, len(chunk))
                self._compute("copy_f32", "", bank, target, "%x")
                first += len(chunk)

    def _invert_sums(self, batch: Batch) -> None:
        """Write the factor of every row: one over the sum of its weights."""
        sums, factor = self.buffers.sums(batch), self.buffers.statistic("factor", batch)
        if len(self.tiles.pieces) > 1:
            self._fold("arith.addf", sums, factor)
            source = factor
        else:
            shape = ir.MemRefType(sums.type).shape
            source = self.builder.subview(sums, [0, 0, 0], shape, drop=[2])
        text = "%one = arith.constant 1.0 : f32\n %r = arith.divf %one, %x : f32"
        name = "one_over_f32"
        if self.operator.masked_rows_are_zero:
            least = f"%least = arith.constant {SMALLEST:e} : f32\n"
            text = least + "%y = arith.maximumf %x, %least : f32\n" + text.replace("%x", "%y")
            name = "one_over_positive_f32"
        self._compute(name, text, source, factor)

    def _completed(self, batch: Batch) -> Iterator[list[Unit]]:
        """Yield tiles of the result of which the last head is in this batch, those together that
        follow each other and fit in a bank."""
        operator = self.operator
        columns = [
            self.output_units.column(start_of(operator.output, head)) for head in operator.heads
        ]
        mine, size = set(batch.heads), operator.extents[-1]
        complete: list[Unit] = []
        for unit in self.output_units.all:
            owners = {
                head
                for head, column in enumerate(columns)
                if column < unit.column + unit.count and column + size > unit.column
            }
            done = all((head, batch.queries) in self.divided for head in owners)
            if done and owners & mine:
                complete.append(unit)
        yield from _neighbours(complete, self.banks.columns // self.buffers.queries(batch).size)

    # --- instructions ----------------------------------------------------------------------------

    def _transpose(self, source: Any, destination: Any) -> None:
        """Multiply by the identity: destination[b, a] = source[a, b]."""
        type_ = ir.MemRefType(source.type)
        identity = Matrix("identity", type_.element_type)
        moving = self.workspace.matrix(identity, type_.shape[0], type_.shape[0])
        self.builder.matmul(source, moving, destination, self.builder.flag(False))

    def _fold(self, operation: str, source: Any, target: Any) -> None:
        """Fold the last dimension of [row, head, element] into what `target` has."""
        name = f"fold_{operation.removeprefix('arith.')}_f32"
        function = self._function(name, f"%r = {operation} %x, %out : f32")
        with self.builder.module.context:
            written = [ir.AffineExpr.get_dim(d) for d in range(2)]
            maps = [ir.AffineMap.get_identity(3), ir.AffineMap.get(3, 0, written)]
        extents = list(ir.MemRefType(source.type).shape)
        self.builder.compute("reduce", [source], [target], function, extents, maps)

    def _compute(self, name: str, text: str, source: Any, target: Any, result: str = "%r") -> None:
        """Apply a scalar function to every element on the vector engine."""
        function = self._function(name, text, result)
        shape = list(ir.MemRefType(source.type).shape)
        with self.builder.module.context:
            maps = [ir.AffineMap.get_identity(len(shape))] * 2
        self.builder.compute("elementwise", [source], [target], function, shape, maps)

    def _function(self, name: str, text: str, result: str = "%r") -> str:
        return self.builder.scalar_function(
            name,
            f"func.func private @{name}(%x: f32, %out: f32) -> f32 {{\n"
            f"  {text}\n  return {result} : f32\n}}",
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


def _neighbours(units: Sequence[Unit], most: int) -> Iterator[list[Unit]]:
    """Yield tiles that follow each other and are of one size, at most so many together."""
    chunk: list[Unit] = []
    for unit in units:
        last = chunk[-1] if chunk else None
        if last is not None and (
            len(chunk) == most
            or (last.origin, last.tile + 1, last.count) != (unit.origin, unit.tile, unit.count)
        ):
            yield chunk
            chunk = []
        chunk.append(unit)
    if chunk:
        yield chunk
