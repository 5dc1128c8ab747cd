"""Writes poolings: the vector engine folds windows of a resident array."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product as boxes_of
from math import prod

from polystage.mlir import ir
from polystage.passes.lower.resident.layout import Layout, Range, ResidentArray
from polystage.passes.lower.resident.operators import Fold
from polystage.passes.lower.resident.workspace import Workspace

PIECES = 8
"""Into how many parts a pooling goes, so that its operand is made and its result is used beside
it."""

_OPERATIONS = {"max": "maximumf", "add": "addf"}


class FoldWriter:
    """Writes the instructions of one pooling, tile by tile of partitions, row by row.

    Maxima are folded in place, exactly; sums in f32, and then rounded. All sums have room, so that
    none waits until another is rounded.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.builder = workspace.builder
        self.arrays: Mapping[ir.Value, ResidentArray] = workspace.arrays

    def write(self, operator: Fold) -> None:
        """Write a pooling."""
        output = self.arrays[operator.output.array]
        sums = self._sums(operator, output.layout) if operator.kind == "add" else None
        for box in self._boxes(operator, output):
            for tile in range(output.layout.tiles):
                place = output.view(self.builder, tile, box)
                if sums is None:
                    self.builder.memset(place, operator.initial)
                    self._fold(operator, box, tile, place)
                else:
                    total = sums.view(self.builder, tile, box)
                    self._fold(operator, box, tile, total)
                    self.builder.activate(total, place)

    def _boxes(self, operator: Fold, output: ResidentArray) -> Iterator[tuple[Range, ...]]:
        """Yield boxes of the output: a few rows each, with no more dimensions than an access
        has."""
        extents = [output.layout.shape[d] for d in output.layout.free]
        wide = [i for i, n in enumerate(extents) if n > 1]
        folded = sum(operator.extents[d] > 1 for d in operator.reduced)
        sizes = list(extents)
        spare = len(wide) + folded - self.builder.target.access_pattern.max_free_dims
        for i in wide[: max(0, spare)]:
            sizes[i] = 1
        rest = [i for i in wide if sizes[i] > 1]
        if len(rest) > 1:
            sizes[rest[0]] = -(-sizes[rest[0]] // PIECES)
        steps = (range(0, n, size) for n, size in zip(extents, sizes, strict=True))
        for corner in boxes_of(*steps):
            yield tuple(
                (start, min(size, n - start), 1)
                for start, size, n in zip(corner, sizes, extents, strict=True)
            )

    def _sums(self, operator: Fold, output: Layout) -> ResidentArray:
        """Return room for all sums, where each begins."""
        with self.builder.module.context:
            f32 = ir.F32Type.get()
        none = (0,) * len(output.shape)
        layout = replace(output, element_type=f32, before=none, after=none, fill=None)
        partitions, *shape = layout.buffer_shape
        flat = self.workspace.scratch(operator, [partitions, prod(shape)], f32)
        self.builder.memset(flat, operator.initial)
        return ResidentArray(layout, self.builder.expand(flat, [[partitions], shape]))

    def _fold(self, operator: Fold, box: Sequence[Range], tile: int, target: ir.Value) -> None:
        """Fold the windows of a box of the output into `target`: [partition, *box]."""
        builder, output = self.builder, self.arrays[operator.output.array].layout
        source = self.arrays[operator.source.array]
        loops = _output_loops(operator)
        walked = [loops[dim] for dim, (_, n, _) in zip(output.free, box, strict=True) if n > 1]
        reduced = [d for d in operator.reduced if operator.extents[d] > 1]
        starts = {
            loops[dim]: s for dim, (s, _, _) in zip(output.free, box, strict=True) if dim in loops
        }
        sizes = {
            loops[dim]: n for dim, (_, n, _) in zip(output.free, box, strict=True) if dim in loops
        }
        sizes |= {d: operator.extents[d] for d in reduced}
        order = [*walked, *reduced]
        view, index = self._source(operator, source, tile, starts, sizes)
        count = source.layout.count(tile)
        with builder.module.context:
            dims = {d: ir.AffineExpr.get_dim(i + 1) for i, d in enumerate(order)}
            first = ir.AffineExpr.get_dim(0)
            read = [first, *(_expression(terms, dims) for terms in index)]
            written = [first, *(dims[d] for d in walked)]
            if not walked:
                written.append(ir.AffineExpr.get_constant(0))
            maps = [ir.AffineMap.get(len(order) + 1, 0, results) for results in (read, written)]
        function = self._function(operator.kind, ir.MemRefType(target.type).element_type)
        extents = [count, *(sizes[d] for d in order)]
        builder.compute("reduce", [view], [target], function, extents, maps)

    def _source(
        self,
        operator: Fold,
        source: ResidentArray,
        tile: int,
        starts: Mapping[int, int],
        sizes: Mapping[int, int],
    ) -> tuple[ir.Value, list[list[tuple[int, int]]]]:
        """Return the part of the source that windows reach, and for each of its dimensions the
        loops that walk it, with their steps."""
        box: list[Range] = []
        index: list[list[tuple[int, int]]] = []
        for dim in source.layout.free:
            linear = operator.source.index[dim]
            steps = [(d, linear.coefficients[d]) for d in linear.dims]
            start = linear.constant + sum(c * starts.get(d, 0) for d, c in steps)
            extent = 1 + sum(c * (sizes.get(d, 1) - 1) for d, c in steps)
            box.append((start, extent, 1))
            if extent > 1:
                index.append([(d, c) for d, c in steps if sizes.get(d, 1) > 1])
        return source.view(self.builder, tile, box), index or [[]]

    def _function(self, kind: str, type_: ir.Type) -> str:
        """Return the scalar function that folds one more element in."""
        name = f"fold_{kind}_{type_}"
        operation = f"arith.{_OPERATIONS[kind]} %x, %out : {type_}"
        text = (
            f"func.func private @{name}(%x: {type_}, %out: {type_}) -> {type_} {{\n"
            f"  %r = {operation}\n  return %r : {type_}\n}}"
        )
        return self.builder.scalar_function(name, text)


def _output_loops(operator: Fold) -> dict[int, int]:
    """Return the loop of every dimension of the output that has one."""
    return {dim: x.dims[0] for dim, x in enumerate(operator.output.index) if x.dims}


def _expression(
    terms: Sequence[tuple[int, int]], dims: Mapping[int, ir.AffineExpr]
) -> ir.AffineExpr:
    total = ir.AffineExpr.get_constant(0)
    for d, coefficient in terms:
        total = total + dims[d] * coefficient
    return total
