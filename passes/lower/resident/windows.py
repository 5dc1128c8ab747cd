"""Which elements of an array in memory an operand shows, through views and overlays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from polystage.dialects.npu import overlay
from polystage.dialects.npu.views import DYNAMIC, VIEW_OPS, defining_op
from polystage.mlir import ir
from polystage.passes.lower.generic_op import Linear
from polystage.passes.lower.physical_layout import kept_dims
from polystage.slices import reassociation


@dataclass(frozen=True)
class Window:
    """Element `index` of `array`, linear in the loops of an operation; `fill` outside of it.

    With `cut`, of one dimension only a part of that size is there.
    """

    array: ir.Value
    index: tuple[Linear, ...]
    fill: float | int | None = None
    cut: tuple[int, int] | None = None

    @property
    def shape(self) -> list[int]:
        """The extents of the array, or of the part."""
        shape = list(ir.MemRefType(self.array.type).shape)
        if self.cut is not None:
            shape[self.cut[0]] = self.cut[1]
        return shape

    @property
    def element_type(self) -> ir.Type:
        """The element type of the array."""
        return ir.MemRefType(self.array.type).element_type

    def dim_of(self, loop: int) -> int | None:
        """Return the dimension that is exactly `loop`, where nothing else depends on it."""
        users = [i for i, linear in enumerate(self.index) if loop in linear.dims]
        return users[0] if len(users) == 1 and self.index[users[0]].single == loop else None

    def reach(self, extents: Sequence[int]) -> list[tuple[int, int]]:
        """Return the least and the greatest index in every dimension, for loops of `extents`."""
        found: list[tuple[int, int]] = []
        for linear in self.index:
            spans = [c * (n - 1) for c, n in zip(linear.coefficients, extents, strict=True)]
            low = linear.constant + sum(min(0, s) for s in spans)
            found.append((low, linear.constant + sum(max(0, s) for s in spans)))
        return found


def matching_dims(window: Window, output: Window) -> dict[int, int] | None:
    """Return the dimension of `output` for every dimension of more than one element, where both
    show all of an array, element by element.

    a[0, h, c], b[c, h]  ->  {1: 1, 2: 0}
    """
    loops = {x.single: d for d, x in enumerate(output.index) if output.shape[d] > 1}
    wide = [d for d, n in enumerate(window.shape) if n > 1]
    found = {d: loops[loop] for d in wide if (loop := window.index[d].single) in loops}
    whole = window.fill is None and None not in loops and len(found) == len(wide) == len(loops)
    same = all(window.shape[d] == output.shape[to] for d, to in found.items())
    return found if whole and same and len(set(found.values())) == len(wide) else None


def root_of(value: ir.Value) -> ir.Value:
    """Return the array, or the overlay, that a value shows, perhaps a part of it."""
    while (op := defining_op(value)) is not None and op.name in VIEW_OPS:
        value = op.operands[0]
    return value


def window_of(value: ir.Value, index: Sequence[Linear]) -> Window | None:
    """Return what `value[index]` is of the array that `value` shows, or None where that is not one
    array with, perhaps, a constant around it, or not linear.

    Views may reorder dimensions, split them, drop or add those of one element, and show a part.
    """
    window: Window | None = Window(value, tuple(index))
    while window is not None and (op := defining_op(window.array)) is not None:
        if op.name == overlay.NAME:
            window = _under_overlay(window, op)
        elif op.name in VIEW_OPS:
            window = _under_view(window, op)
        else:
            break
    return window


def _under_overlay(window: Window, op: ir.Operation) -> Window | None:
    if len(op.operands) != 1 or "fill" not in op.attributes or window.fill is not None:
        return None
    offsets = ir.DenseI64ArrayAttr(op.attributes["offsets"])
    index = tuple(
        Linear(linear.constant - offset, linear.coefficients)
        for linear, offset in zip(window.index, offsets, strict=True)
    )
    return Window(op.operands[0], index, op.attributes["fill"].value)  # type: ignore[attr-defined]


def _under_view(window: Window, op: ir.Operation) -> Window | None:
    source = op.operands[0]
    if op.name == "memref.transpose":
        map_ = ir.AffineMapAttr(op.attributes["permutation"]).value
        order = [ir.AffineDimExpr(e.maybe_downcast()).position for e in map_.results]
        return replace(
            window,
            array=source,
            index=tuple(window.index[order.index(d)] for d in range(len(order))),
        )
    if op.name == "memref.subview":
        return _under_subview(window, op)
    if op.name == "memref.expand_shape":
        return _under_expansion(window, op)
    return _same_elements(window, source)


def _under_subview(window: Window, op: ir.Operation) -> Window | None:
    """Return the window of what a part with fixed places is a part of."""
    starts, sizes, steps = (
        list(op.attributes[f"static_{name}"]) for name in ("offsets", "sizes", "strides")
    )
    kept = kept_dims(sizes, window.shape)
    whole = sizes == list(ir.MemRefType(op.operands[0].type).shape)
    if kept is None or DYNAMIC in (*starts, *steps) or (window.fill is not None and not whole):
        return None
    loops = len(window.index[0].coefficients) if window.index else 0
    index = [Linear(start, (0,) * loops) for start in starts]
    for dim, linear in zip(kept, window.index, strict=True):
        scaled = tuple(c * steps[dim] for c in linear.coefficients)
        index[dim] = Linear(starts[dim] + linear.constant * steps[dim], scaled)
    return replace(window, array=op.operands[0], index=tuple(index))


def _under_expansion(window: Window, op: ir.Operation) -> Window | None:
    """Return the window of what is seen in more dimensions: index `i, j` is `i * J + j`."""
    index: list[Linear] = []
    for group in reassociation(op):
        parts = [window.index[d] for d in group]
        extents = [window.shape[d] for d in group]
        wide = [(x, n) for x, n in zip(parts, extents, strict=True) if n > 1]
        if window.fill is not None and (
            len(wide) > 1
            or any(x.dims or x.constant for x, n in zip(parts, extents, strict=True) if n == 1)
        ):
            return None  # the constant lies around what is seen
        merged = Linear(0, (0,) * len(parts[0].coefficients))
        for linear, extent in wide:
            pairs = zip(merged.coefficients, linear.coefficients, strict=True)
            merged = Linear(
                merged.constant * extent + linear.constant, tuple(a * extent + b for a, b in pairs)
            )
        index.append(merged)
    return replace(window, array=op.operands[0], index=tuple(index))


def _same_elements(window: Window, source: ir.Value) -> Window | None:
    """Return the window of a source that differs from its view in dimensions of one element
    only."""
    shape = list(ir.MemRefType(source.type).shape)
    wide = [linear for linear, n in zip(window.index, window.shape, strict=True) if n > 1]
    unit = [linear for linear, n in zip(window.index, window.shape, strict=True) if n == 1]
    if [n for n in window.shape if n > 1] != [n for n in shape if n > 1]:
        return None
    if window.fill is not None and any(linear.dims or linear.constant for linear in unit):
        return None
    loops = len(window.index[0].coefficients) if window.index else 0
    rest = iter(wide)
    index = [next(rest) if n > 1 else Linear(0, (0,) * loops) for n in shape]
    return replace(window, array=source, index=tuple(index))
