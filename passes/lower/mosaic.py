"""Arrays in DRAM without storage of their own: boxes of other arrays side by side, and a constant.

`npu.overlay` makes them; kernels take the arrays behind them. Views of a mosaic are mosaics of
views of its pieces, so that the lowering treats them as any array until a tile is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, prod

from polystage.dialects.npu import overlay, views
from polystage.mlir import ir
from polystage.passes.memref_types import row_major_strides

Range = tuple[int, int]
"""First index, and the one behind the last."""

Box = list[Range]
"""A range in every dimension."""


@dataclass(frozen=True)
class Piece:
    """An array that shows in a mosaic from `offsets` on, and why its bytes move."""

    offsets: tuple[int, ...]
    value: ir.Value
    cause: str

    @property
    def shape(self) -> list[int]:
        """The extents."""
        return views.shape_of(self.value)

    @property
    def strides(self) -> list[int]:
        """The strides in elements."""
        return views.strides_of(self.value.type)

    def range(self, dim: int) -> Range:
        """Return where the piece lies in a dimension of the mosaic."""
        return self.offsets[dim], self.offsets[dim] + self.shape[dim]


@dataclass(frozen=True)
class Mosaic:
    """An array of disjoint pieces; elsewhere it holds `fill`, or nothing that is ever read."""

    shape: tuple[int, ...]
    element_type: ir.Type
    pieces: tuple[Piece, ...]
    fill: float | int | None

    @property
    def strides(self) -> list[int]:
        """The strides of the largest piece, in elements."""
        largest = self._largest
        if largest is None:
            return row_major_strides(self.shape)
        return largest.strides

    @property
    def _largest(self) -> Piece | None:
        return max(self.pieces, key=lambda piece: prod(piece.shape), default=None)

    @property
    def elements(self) -> int:
        """How many elements lie in memory."""
        return sum(prod(piece.shape) for piece in self.pieces)

    def covers(self, dim: int) -> bool:
        """Whether the largest piece fills a dimension, so that neighbours in memory go on there."""
        largest = self._largest
        return largest is not None and largest.shape[dim] == self.shape[dim]

    def merges(self, outer: int, inner: int) -> bool:
        """Whether all pieces run through two dimensions as through one."""
        for piece in self.pieces:
            shape, strides = piece.shape, piece.strides
            if shape[outer] == 1:
                continue
            if shape[inner] != self.shape[inner]:
                return False
            if strides[outer] != strides[inner] * shape[inner]:
                return False
        return True

    def rest(self) -> list[Box]:
        """Return disjoint boxes that are what no piece covers."""
        dims = range(len(self.shape))
        boxes: list[Box] = [[(0, n) for n in self.shape]]
        for piece in self.pieces:
            hole = [piece.range(d) for d in dims]
            boxes = [part for box in boxes for part in difference(box, hole)]
        return boxes

    def ranges(self, dim: int, start: int, size: int, step: int = 1) -> tuple[Range | None, ...]:
        """Return which of the indices `start + i * step`, i < size, lie in each piece, as ranges
        of i."""
        return tuple(hits(p.range(dim), start, size, step) for p in self.pieces)


Array = ir.Value | Mosaic
"""What an operand reads: an array in memory, or one that is none."""


def shape_of(array: Array) -> list[int]:
    """Return the extents of an array."""
    if isinstance(array, Mosaic):
        return list(array.shape)
    return views.shape_of(array)


def strides_of(array: Array) -> list[int]:
    """Return the strides of an array in elements."""
    if isinstance(array, Mosaic):
        return array.strides
    return views.strides_of(array.type)


def element_type_of(array: Array) -> ir.Type:
    """Return the type of the elements of an array."""
    if isinstance(array, Mosaic):
        return array.element_type
    return ir.MemRefType(array.type).element_type


def elements_of(array: Array) -> int:
    """Return how many elements of an array lie in memory."""
    return array.elements if isinstance(array, Mosaic) else prod(shape_of(array))


# --- geometry -------------------------------------------------------------------------------------


def hits(target: Range, start: int, size: int, step: int) -> Range | None:
    """Return for which i < size `start + i * step` lies in `target`, or None.

    >>> hits((3, 10), 0, 4, 2)
    (2, 4)
    """
    low = max(0, ceil((target[0] - start) / step))
    high = min(size, ceil((target[1] - start) / step))
    return (low, high) if low < high else None


def difference(box: Box, hole: Box) -> Iterator[Box]:
    """Yield disjoint boxes that are what `box` has outside of `hole`."""
    inside = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(box, hole, strict=True)]
    if any(a >= b for a, b in inside):
        yield list(box)
        return
    for dim, ((low, high), (start, stop)) in enumerate(zip(box, inside, strict=True)):
        for part in ((low, start), (stop, high)):
            if part[0] < part[1]:
                yield [*inside[:dim], part, *box[dim + 1 :]]


def rows(start: int, size: int, shape: Sequence[int]) -> Iterator[tuple[Box, int]]:
    """Yield boxes of a row-major `shape` that are the range of `size` elements from `start`, with
    the element at which each begins.

    >>> list(rows(3, 7, [4, 4]))
    [([(0, 1), (3, 4)], 3), ([(1, 2), (0, 4)], 4), ([(2, 3), (0, 2)], 8)]
    """
    if len(shape) == 1:
        yield [(start, start + size)], start
        return
    row, stop = prod(shape[1:]), start + size
    first, last = ceil(start / row), stop // row
    if first > last:
        yield from _in_row(start // row, start, size, shape)
        return
    if first * row > start:
        yield from _in_row(first - 1, start, first * row - start, shape)
    if last > first:
        yield [(first, last), *((0, n) for n in shape[1:])], first * row
    if stop > last * row:
        yield from _in_row(last, last * row, stop - last * row, shape)


def _in_row(number: int, start: int, size: int, shape: Sequence[int]) -> Iterator[tuple[Box, int]]:
    base = number * prod(shape[1:])
    for box, first in rows(start - base, size, shape[1:]):
        yield [(number, number + 1), *box], base + first


def borders(shape: Sequence[int], parts: Sequence[Box]) -> dict[tuple[int, bool], Box] | None:
    """Return the boxes of `shape` beside the hull of `parts`, by dimension and whether they lie at
    its start; None where the parts leave holes in their hull.

    >>> borders([4, 5], [[(0, 4), (1, 5)]])
    {(1, True): [(0, 4), (0, 1)]}
    """
    hull = [(min(p[d][0] for p in parts), max(p[d][1] for p in parts)) for d in range(len(shape))]
    if sum(map(_size, parts)) != _size(hull):
        return None
    found: dict[tuple[int, bool], Box] = {}
    for dim, ((start, stop), extent) in enumerate(zip(hull, shape, strict=True)):
        for is_first, part in ((True, (0, start)), (False, (stop, extent))):
            if part[0] < part[1]:
                found[dim, is_first] = [*hull[:dim], part, *((0, n) for n in shape[dim + 1 :])]
    return found


def _size(box: Box) -> int:
    return prod(b - a for a, b in box)


# --- operands of operations -----------------------------------------------------------------------


def array_of(value: ir.Value) -> Array:
    """Return what an operand of an operation reads, for estimates: pieces may overlap."""
    if not overlay.is_overlay(value):
        return value
    layers, fill = overlay.pieces(value)
    return mosaic_of(value, [Piece(offsets, source, "") for offsets, source in layers], fill)


def mosaic_of(value: ir.Value, pieces: Sequence[Piece], fill: ir.Attribute | None) -> Mosaic:
    """Return the overlay `value` as a mosaic of `pieces`, and `fill` elsewhere."""
    type_ = ir.MemRefType(value.type)
    constant = None if fill is None else fill.value
    return Mosaic(tuple(type_.shape), type_.element_type, tuple(pieces), constant)
