"""The operation to be rewritten, read from the IR: its loops and how its operands are accessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polystage.dialects.npu.overlay import is_overlay
from polystage.dialects.npu.views import shape_of
from polystage.mlir import ir
from polystage.passes.polyhedral.access_rewriting.errors import CannotRewriteError
from polystage.passes.polyhedral.access_rewriting.index_forms import (
    UNBOUNDED,
    IndexForm,
    Interval,
    from_affine,
    variable,
)
from polystage.passes.polyhedral.access_rewriting.splitting import Loops
from polystage.polyhedral import Statement
from polystage.polyhedral.expressions import NotAffineError
from polystage.polyhedral.operations import (
    indexing_maps,
    input_count,
    is_memref,
    iterator_types,
    loop_extents,
)


@dataclass(frozen=True)
class OperandAccess:
    """An operand as it is: its value, and the index into it (None for what is no memref)."""

    value: ir.Value
    index: tuple[IndexForm, ...] | None

    @property
    def is_overlay(self) -> bool:
        """Whether it is a view of several arrays."""
        return is_overlay(self.value)

    @property
    def shape(self) -> list[int]:
        """The extents of the memref."""
        return shape_of(self.value)


@dataclass(frozen=True)
class TensorOperation:
    """A linalg.generic or memref.copy: loops, iterator types, operands; outputs come last."""

    op: ir.Operation
    loops: Loops
    iterators: tuple[str, ...]
    operands: tuple[OperandAccess, ...]
    inputs: int
    to_loop_index: Mapping[int, tuple[int, IndexForm]]
    """For every loop around with a step: step and lower bound."""

    @property
    def is_copy(self) -> bool:
        """Whether it is a memref.copy."""
        return self.op.name == "memref.copy"

    @property
    def has_reduction(self) -> bool:
        """Whether any loop reduces."""
        return "reduction" in self.iterators

    def uses_argument(self, operand: int) -> bool:
        """Whether the body uses the element of an operand."""
        if self.is_copy:
            return operand == 0
        argument = self.op.regions[0].blocks[0].arguments[operand]
        return next(iter(argument.uses), None) is not None


def read_operation(statement: Statement) -> TensorOperation:
    """Read the operation of a statement.

    Raises: CannotRewriteError for anything but linalg.generic and memref.copy on static memrefs.
    """
    op = statement.op
    depth = statement.depth
    enclosing = loop_ranges(statement) if depth else []
    steps = loop_steps(statement, enclosing)
    if op.name == "memref.copy":
        extents = shape_of(op.operands[0])
        loops = Loops(statement.dims, enclosing, extents)
        index = tuple(variable(depth + d) for d in range(len(extents)))
        operands = tuple(OperandAccess(value, index) for value in op.operands)
        return TensorOperation(op, loops, ("parallel",) * len(extents), operands, 1, steps)
    if op.name != "linalg.generic":
        raise CannotRewriteError(f"{op.name} is not rewritten")
    try:
        maps = indexing_maps(op)
        extents = loop_extents(op, maps)
    except NotAffineError as error:
        raise CannotRewriteError(str(error)) from None
    loops = Loops(statement.dims, enclosing, extents)
    operands = tuple(
        OperandAccess(value, _index(map_, loops) if is_memref(value) else None)
        for value, map_ in zip(op.operands, maps, strict=True)
    )
    iterators = iterator_types(op, maps)
    return TensorOperation(op, loops, iterators, operands, input_count(op), steps)


def _index(map_: ir.AffineMap, loops: Loops) -> tuple[IndexForm, ...]:
    return tuple(from_affine(expr, loops.ranges, loops.depth) for expr in map_.results)


def loop_ranges(statement: Statement) -> list[Interval]:
    """Return the ranges of the loops around a statement."""
    ranges: list[Interval] = []
    for level in range(statement.depth):
        low = statement.domain.dim_min_val(level)
        high = statement.domain.dim_max_val(level)
        known = low.is_int() and high.is_int()
        ranges.append((low.to_python(), high.to_python()) if known else UNBOUNDED)
    return ranges


def loop_steps(
    statement: Statement, ranges: Sequence[Interval]
) -> dict[int, tuple[int, IndexForm]]:
    """Return step and lower bound of the loops whose index is `lower + step * dim`."""
    steps: dict[int, tuple[int, IndexForm]] = {}
    for level, expr in enumerate(statement.loop_indices):
        form = from_affine(expr, ranges)
        if form == variable(level):
            continue
        terms = dict(form.terms)
        step = terms.pop(level)
        steps[level] = (step, IndexForm(tuple(terms.items()), form.constant))
    return steps


def loop_values(op: ir.Operation) -> list[ir.Value]:
    """Return the indices of the loops around an operation, the outermost first."""
    values: list[ir.Value] = []
    parent = op.parent
    while parent is not None and parent.operation.name != "func.func":
        if parent.operation.name in ("scf.for", "affine.for"):
            values.insert(0, parent.regions[0].blocks[0].arguments[0])
        parent = parent.operation.parent
    return values
