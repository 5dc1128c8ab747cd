"""A linalg.generic on memrefs as the lowering sees it: extents, linear accesses, scalar body."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from polystage.errors import PassError
from polystage.linear import linear_form
from polystage.mlir import ir
from polystage.passes.lower.mosaic import (
    Array,
    Mosaic,
    array_of,
    element_type_of,
    elements_of,
    shape_of,
    strides_of,
)


@dataclass(frozen=True)
class Linear:
    """`constant + sum(coefficients[d] * d)` over the loop dimensions of an operation."""

    constant: int
    coefficients: tuple[int, ...]

    @property
    def dims(self) -> list[int]:
        """The loop dimensions that occur."""
        return [d for d, c in enumerate(self.coefficients) if c]

    @property
    def single(self) -> int | None:
        """The loop dimension d where the expression is exactly d, else None."""
        dims = self.dims
        if self.constant == 0 and len(dims) == 1 and self.coefficients[dims[0]] == 1:
            return dims[0]
        return None


@dataclass(frozen=True)
class Access:
    """An operand: which argument of the kernel, and where each of its dimensions is accessed.

    `argument` counts the operands of the operation, and so the arguments of its body.
    """

    argument: int
    array: Array
    index: tuple[Linear, ...]

    @property
    def dims(self) -> set[int]:
        """The loop dimensions that the access depends on."""
        return {d for linear in self.index for d in linear.dims}

    @property
    def element_type(self) -> Any:
        """The element type of the operand."""
        return element_type_of(self.array)

    @property
    def shape(self) -> list[int]:
        """The extents of the operand."""
        return shape_of(self.array)

    @property
    def strides(self) -> list[int]:
        """The strides of the operand in elements; those of most of it, if it has pieces."""
        return strides_of(self.array)

    @property
    def elements(self) -> int:
        """How many elements of the operand lie in memory."""
        return elements_of(self.array)

    def continues(self, dim: int) -> bool:
        """Whether memory runs through dimensions `dim` and `dim + 1` as through one."""
        if isinstance(self.array, Mosaic):
            return self.array.merges(dim, dim + 1)
        return self.strides[dim] == self.strides[dim + 1] * self.shape[dim + 1]


@dataclass(frozen=True)
class GenericOp:
    """A linalg.generic: `extents[d]` iterations of dimension d, of which `reductions` are
    reduced.

    `riders` are operands of an operation that follows in the same loops; its body is not `body`,
    but what happens to the loops happens to them, too.
    """

    extents: tuple[int, ...]
    reductions: frozenset[int]
    inputs: tuple[Access, ...]
    outputs: tuple[Access, ...]
    body: ir.Block
    riders: tuple[Access, ...] = ()

    @property
    def parallel(self) -> list[int]:
        """The loop dimensions that are not reduced."""
        return [d for d in range(len(self.extents)) if d not in self.reductions]

    @classmethod
    def from_op(cls, op: ir.OpView) -> GenericOp:
        """Read a linalg.generic on static memrefs.

        Raises:
            PassError: an operand is not a static memref, or an indexing map is not linear.
        """
        maps = [ir.AffineMapAttr(a).value for a in ir.ArrayAttr(op.attributes["indexing_maps"])]
        operands = [*op.inputs, *op.outputs]
        body = op.regions[0].blocks[0]
        n_dims = maps[0].n_dims
        accesses = tuple(
            Access(i, static_array(op, value), _linear_index(op, map_, n_dims))
            for i, (value, map_) in enumerate(zip(operands, maps, strict=True))
            if isinstance(value.type, ir.MemRefType) or any(True for _ in body.arguments[i].uses)
        )
        iterators = [str(a) for a in ir.ArrayAttr(op.attributes["iterator_types"])]
        reductions = frozenset(d for d, text in enumerate(iterators) if "reduction" in text)
        return cls(
            _extents(op, accesses, n_dims),
            reductions,
            tuple(a for a in accesses if a.argument < len(op.inputs)),
            tuple(a for a in accesses if a.argument >= len(op.inputs)),
            body,
        )

    def without_unit_dims(self) -> GenericOp:
        """Return the same operation without loop dimensions of extent 1; operands keep their
        rank."""
        kept = [d for d, n in enumerate(self.extents) if n != 1]
        place = {d: i for i, d in enumerate(kept)}

        def shrink(access: Access) -> Access:
            index = tuple(
                Linear(x.constant, tuple(x.coefficients[d] for d in kept)) for x in access.index
            )
            return replace(access, index=index)

        return replace(
            self.map_accesses(shrink),
            extents=tuple(self.extents[d] for d in kept),
            reductions=frozenset(place[d] for d in self.reductions if d in place),
        )

    def map_accesses(self, function: Callable[[Access], Access]) -> GenericOp:
        """Return the operation with `function` applied to every operand."""
        return replace(
            self,
            inputs=tuple(function(a) for a in self.inputs),
            outputs=tuple(function(a) for a in self.outputs),
            riders=tuple(function(a) for a in self.riders),
        )

    def is_read(self, access: Access) -> bool:
        """Whether the body uses the operand's element (an output's previous value, a pooling
        window's never)."""
        return any(True for _ in self.body.arguments[access.argument].uses)


def inline_scalar_operands(op: ir.OpView) -> None:
    """Let the body of a linalg.generic use scalar operands directly: `%in` -> `%cst`."""
    body = op.regions[0].blocks[0]
    for argument, value in zip(body.arguments, op.operands, strict=True):
        if not isinstance(value.type, ir.ShapedType):
            argument.replace_all_uses_with(value)


def static_array(op: ir.OpView | ir.Operation, value: ir.Value) -> Array:
    """Return what an operand reads.

    Raises: PassError where it is not a memref of static shape.
    """
    if not isinstance(value.type, ir.MemRefType):
        raise PassError(
            f"operand of type {value.type} is not a memref",
            op=op,
            help="run the normalisation passes, which bufferise and turn scalars into constants",
        )
    type_ = ir.MemRefType(value.type)
    if not type_.has_static_shape:
        raise PassError(
            f"operand of type {type_} has a dynamic shape",
            op=op,
            help="bind dynamic dimensions at import with --bind name=value",
        )
    return array_of(value)


def _linear_index(op: ir.OpView, map_: ir.AffineMap, n_dims: int) -> tuple[Linear, ...]:
    forms = [linear_form(expression, n_dims) for expression in map_.results]
    if any(form is None for form in forms):
        raise PassError(
            f"indexing map {map_} is not linear",
            op=op,
            help="only sums of constant * dimension are lowered; split the operation",
        )
    return tuple(Linear(form[0], tuple(form[1])) for form in forms if form is not None)


def _extents(op: ir.OpView, accesses: Sequence[Access], n_dims: int) -> tuple[int, ...]:
    extents: list[int | None] = [None] * n_dims
    for access in accesses:
        for linear, extent in zip(access.index, access.shape, strict=True):
            if linear.single is not None:
                extents[linear.single] = extent
    if any(e is None for e in extents):
        raise PassError("the extent of a loop dimension is not determined by any operand", op=op)
    return tuple(e for e in extents if e is not None)
