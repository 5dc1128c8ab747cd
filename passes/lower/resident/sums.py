"""Writes sums of contractions and arrays: the tensor engine adds, or at the end the vector engine,
and the scalar engine takes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from itertools import product as boxes_of
from math import prod
from typing import Any

from polystage.mlir import ir
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.resident.layout import Range, ResidentArray
from polystage.passes.lower.resident.operators import SUMS_TOGETHER, Matrix, Product, Sum
from polystage.passes.lower.resident.parts import (
    PARTS,
    PARTS_OF_IMAGE,
    parts_of,
    tile_boxes,
)
from polystage.passes.lower.resident.windows import Window, matching_dims
from polystage.passes.lower.resident.workspace import Workspace

ROWS_TOGETHER = 4
"""Most row tiles that take every channel in turn, so that the last of the operand's channels is
needed late."""

ROWS_OF_PART = 2
"""Most where there are several parts: another runs until these channels are there, and results
are taken out sooner."""


class SumWriter:
    """Writes the instructions of one sum.

    For tiles of columns, for a few tiles of rows at a time: for channels and taps, for arrays: one
    matmul for each row tile; then each row tile goes to its place in the output. Where the vector
    engine adds an array, it goes there by way of sbuf: so only one engine reads psum.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.builder = workspace.builder
        self.banks = workspace.banks
        self.arrays: Mapping[ir.Value, ResidentArray] = workspace.arrays
        self.rooms: dict[Sum, tuple[ir.Value, Iterator[int]]] = {}

    def write(self, operator: Sum) -> None:
        """Write a sum."""
        layout = self.arrays[operator.output.array].layout
        extents = [layout.shape[d] for d in layout.free]
        boxes = list(self._boxes(operator, extents))
        most = ROWS_TOGETHER if len(boxes) == 1 else ROWS_OF_PART
        # half of the banks fill while the others are taken out
        together = max(1, min(most, len(self.banks.banks) // 2))
        for box in boxes:
            for first in range(0, layout.tiles, together):
                rows = range(first, min(first + together, layout.tiles))
                self._write_tile(operator, box, rows)

    def _boxes(self, operator: Sum, extents: Sequence[int]) -> Iterator[tuple[Range, ...]]:
        """Yield the tiles of columns. They come part by part, so that operators behind can begin:
        tokens and several images in few parts, one image in more."""
        if self._copies(operator):
            return tile_boxes(extents, extents)
        is_image = sum(n > 1 for n in extents) == 2
        return parts_of(extents, self.banks.columns, PARTS_OF_IMAGE if is_image else PARTS)

    def _copies(self, operator: Sum) -> bool:
        """Whether a sum is a function of one array, which needs no array of processors."""
        return not operator.products and len(operator.addends) == 1

    def _write_tile(
        self,
        operator: Sum,
        box: Sequence[Range],
        rows: range,
    ) -> None:
        output = self.arrays[operator.output.array]
        if self._copies(operator):
            addend = operator.addends[0]
            results = [self._addend(operator, addend, row, box) for row in rows]
        else:
            sizes = [size for _, size, _ in box if size > 1] or [1]
            results = [self.banks.take(output.layout.count(row), sizes) for row in rows]
            parts = [
                part
                for product in operator.products
                for part in self._product_parts(operator, product, box)
            ]
            self._multiply(operator, box, rows, results, parts)
        for row, result in zip(rows, results, strict=True):
            if operator.vector_adds:
                result = self._added(operator, result, row, box)
            place = output.view(self.builder, row, box)
            column = self._shift_column(operator, row, output.layout.count(row))
            function, scale, bias = operator.function, operator.scale, operator.bias
            self.builder.activate(result, place, function, scale, bias, column)

    def _multiply(
        self,
        operator: Sum,
        box: Sequence[Range],
        rows: range,
        results: Sequence[ir.Value],
        parts: Sequence[_Part],
    ) -> None:
        builder, layout = self.builder, self.arrays[operator.output.array].layout
        for number, part in enumerate(parts):
            for row, result in zip(rows, results, strict=True):
                stationary = part.stationary(builder, row * layout.partitions, layout.count(row))
                builder.matmul(stationary, part.moving, result, builder.flag(number > 0))
        for number, addend in enumerate(operator.multiplied, start=len(parts)):
            array = self.arrays[addend.array]
            identity = Matrix("identity", array.layout.element_type)
            for row, result in zip(rows, results, strict=True):
                count = layout.count(row)
                square = self.workspace.matrix(identity, count, count)
                moving = self._addend(operator, addend, row, box)
                builder.matmul(square, moving, result, builder.flag(number > 0), auxiliary=True)

    def _added(self, operator: Sum, result: ir.Value, row: int, box: Sequence[Range]) -> ir.Value:
        """Let the vector engine add the last addend to a result; return the sum, in sbuf."""
        builder = self.builder
        addend = self._addend(operator, operator.addends[-1], row, box)
        type_ = ir.MemRefType(result.type)
        place = self._room(operator, type_)
        with builder.module.context:
            maps = [ir.AffineMap.get_identity(type_.rank)] * 3
        function = _addition(builder, ir.MemRefType(addend.type).element_type)
        builder.compute("elementwise", [result, addend], [place], function, type_.shape, maps)
        return place

    def _room(self, operator: Sum, type_: ir.MemRefType) -> ir.Value:
        """Return room for a sum; those of an operator take turns."""
        if operator not in self.rooms:
            target = self.builder.target
            shape = [target.tensor.columns, SUMS_TOGETHER, operator.sum_columns(target)]
            buffer = self.workspace.scratch(operator, shape, type_.element_type)
            self.rooms[operator] = buffer, count(0)
        buffer, turns = self.rooms[operator]
        rows, *sizes = type_.shape
        turn = next(turns) % SUMS_TOGETHER
        flat = self.builder.subview(buffer, [0, turn, 0], [rows, 1, prod(sizes)], drop=[1])
        return self.builder.expand(flat, [[rows], sizes])

    def _addend(self, operator: Sum, addend: Window, row: int, box: Sequence[Range]) -> ir.Value:
        """Return a tile of an addend: [partition, *dimensions of more than one element of `box`, a
        part of the output]."""
        array = self.arrays[addend.array]
        free = self.arrays[operator.output.array].layout.free
        of_output = matching_dims(addend, operator.output)
        assert of_output is not None, "an addend matches the output"
        part = [
            box[free.index(of_output[d])] if d in of_output else (0, 1, 1)
            for d in array.layout.free
        ]
        return array.view(self.builder, row, part)

    def _shift_column(self, operator: Sum, row: int, count: int) -> ir.Value | None:
        if operator.shift is None:
            return None
        return self.workspace.column(operator.shift, row, count)

    # --- operands of the contractions ------------------------------------------------------------

    def _product_parts(
        self,
        operator: Sum,
        product: Product,
        box: Sequence[Range],
    ) -> Iterator[_Part]:
        """Yield the matmuls of a product: channel tiles, and in them taps."""
        free = self.arrays[operator.output.array].layout.free
        columns = {d: box[free.index(dim)] for d, dim in product.columns.items()}
        segments = self.workspace.weights[product]
        if product in self.workspace.packed:
            for number, segment in enumerate(segments):
                moving = self.workspace.packed[product].view(self.builder, number, columns)
                yield _Part(segment.buffer, 0, 0, ir.MemRefType(moving.type).shape[0], moving)
            return
        array = self.arrays[product.moving.array]
        for segment in segments:
            partitions, tiles = ir.MemRefType(segment.buffer.type).shape[:2]
            for tile in range(tiles):
                extents = (range(product.extents[d]) for d in product.taps)
                for number, taps in enumerate(boxes_of(*extents)):
                    at = dict(zip(product.taps, taps, strict=True))
                    view = self._moving(array, product, segment.first + tile, at, columns)
                    yield _Part(segment.buffer, tile, number, partitions, view)

    def _moving(
        self,
        array: ResidentArray,
        product: Product,
        tile: int,
        taps: Mapping[int, int],
        columns: Mapping[int, Range],
    ) -> ir.Value:
        """Return what moves through the array at one tap: [channel, *columns]."""
        window = product.moving
        box = [_range_at(window, dim, taps, columns) for dim in array.layout.free]
        view = array.view(self.builder, tile, box)
        walked = [
            next(d for d in window.index[dim].dims if d in columns)
            for dim, (_, size, _) in zip(array.layout.free, box, strict=True)
            if size > 1
        ]
        order = sorted(walked, key=lambda d: product.columns[d])
        if walked == order:
            return view
        return self.builder.transpose(view, [0, *(1 + walked.index(d) for d in order)])


@dataclass(frozen=True)
class _Part:
    """A matmul for every row tile: the weights of one channel tile and tap, and what moves."""

    weights: ir.Value
    tile: int
    tap: int
    partitions: int
    moving: ir.Value

    def stationary(self, builder: KernelBuilder, row: int, count: int) -> Any:
        """Return the weights of `count` rows from `row`."""
        sizes = [self.partitions, 1, 1, count]
        return builder.subview(self.weights, [0, self.tile, self.tap, row], sizes, drop=[1, 2])


def _range_at(
    window: Window, dim: int, taps: Mapping[int, int], columns: Mapping[int, Range]
) -> Range:
    """Return the range of one dimension of an array, at one tap of its window."""
    linear = window.index[dim]
    start, size, step = linear.constant, 1, 1
    for d in linear.dims:
        coefficient = linear.coefficients[d]
        if d in taps:
            start += coefficient * taps[d]
        else:
            first, size, _ = columns[d]
            start += coefficient * first
            step = coefficient if size > 1 else 1
    return start, size, step


def _addition(builder: KernelBuilder, addend: ir.Type) -> str:
    """Return the scalar function that adds an element to one of psum, in f32."""
    name = f"add_{addend}_to_sum"
    is_wide = isinstance(addend, ir.F32Type)
    widened = "%y" if is_wide else "%wide"
    lines = [] if is_wide else [f"  %wide = arith.extf %y : {addend} to f32"]
    lines += [f"  %r = arith.addf %x, {widened} : f32", "  return %r : f32"]
    head = f"func.func private @{name}(%x: f32, %y: {addend}, %out: f32) -> f32"
    return builder.scalar_function(name, "\n".join([f"{head} {{", *lines, "}"]))
