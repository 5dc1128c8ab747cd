"""Loads and stores of affine nests: another array and another index, nothing more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polystage.mlir import affine, ir, memref
from polystage.passes.polyhedral.access_rewriting.errors import CannotRewriteError
from polystage.passes.polyhedral.access_rewriting.operands import loop_values
from polystage.passes.polyhedral.index_arithmetic import index_value
from polystage.polyhedral import Statement
from polystage.polyhedral.expressions import (
    NotAffineError,
    linear_terms,
    substitute,
)
from polystage.polyhedral.model import Access, Array
from polystage.polyhedral.readings import Piece, Reading
from polystage.polyhedral.scalar import LOADS


@dataclass(frozen=True)
class ElementAccess:
    """A load or store to be: the operation that it replaces, and over loop indices where to."""

    op: ir.Operation
    array: str
    index: tuple[ir.AffineExpr, ...]

    @property
    def is_load(self) -> bool:
        """Whether it is a load."""
        return self.op.name in LOADS

    def emit(self, values: Mapping[str, ir.Value]) -> ir.Operation:
        """Replace the operation."""
        op, target = self.op, values[self.array]
        indices = loop_values(op)
        with op.context, ir.InsertionPoint(op), op.location:
            if op.name.startswith("affine."):
                map_ = ir.AffineMapAttr.get(ir.AffineMap.get(len(indices), 0, list(self.index)))
                new = self._emit_affine(target, indices, map_)
            else:
                places = [index_value(expr, indices, ()) for expr in self.index]
                new = self._emit_plain(target, places)
        for name in op.attributes:
            if name != "map":
                new.attributes[name] = op.attributes[name]
        if self.is_load:
            op.results[0].replace_all_uses_with(new.results[0])
        op.erase()
        return new

    def _emit_affine(
        self, target: ir.Value, indices: Sequence[ir.Value], map_: ir.AffineMapAttr
    ) -> ir.Operation:
        if self.is_load:
            element = ir.MemRefType(target.type).element_type
            return affine.AffineLoadOp(element, target, indices, map=map_).operation
        return affine.AffineStoreOp(self.op.operands[0], target, indices, map=map_).operation

    def _emit_plain(self, target: ir.Value, places: Sequence[ir.Value]) -> ir.Operation:
        if self.is_load:
            return memref.LoadOp(target, places).operation
        return memref.StoreOp(self.op.operands[0], target, places).operation


@dataclass(frozen=True)
class StoreRewrite:
    """The loads and the store of a statement to be replaced."""

    loads: tuple[ElementAccess, ...]
    store: ElementAccess | None
    op: ir.Operation

    def emit(self, values: Mapping[str, ir.Value]) -> ir.Operation:
        """Replace them and return the store."""
        for load in self.loads:
            load.emit(values)
        return self.op if self.store is None else self.store.emit(values)


def plan_store(
    statement: Statement,
    reads: Mapping[int, Reading],
    writes: Mapping[int, Piece],
    arrays: Mapping[str, Array],
) -> StoreRewrite:
    """Plan the rewrite of a store and its loads; load `-1-i` is the i-th read of the statement.

    Raises: CannotRewriteError for readings of several pieces, and for loads that others use too.
    """
    planner = _Planner(statement)
    loads: list[ElementAccess] = []
    for key, reading in reads.items():
        if len(reading.pieces) != 1 or reading.pieces[0].where:
            raise CannotRewriteError("a load in a loop nest reads one array only")
        access = _load(statement, key)
        assert access.op is not None
        if _other_stores(access.op.results[0], statement.op):
            raise CannotRewriteError("the value it loads is stored more than once")
        loads.append(planner.access(access.op, reading.pieces[0]))
    store = None
    for piece in writes.values():
        if piece.where:
            raise CannotRewriteError("writes only where a condition holds")
        store = planner.access(statement.op, piece)
    return StoreRewrite(tuple(loads), store, statement.op)


def _load(statement: Statement, key: int) -> Access:
    place = -1 - key
    if not 0 <= place < len(statement.reads):
        raise CannotRewriteError("the operation has no such load")
    access = statement.reads[place]
    if access.op is None or access.op.name not in LOADS:
        raise CannotRewriteError("what it reads is no load")
    return access


def _other_stores(value: ir.Value, store: ir.Operation) -> bool:
    """Tell whether anything but `store` depends on `value`."""
    for use in value.uses:
        user = use.owner.operation
        if user == store:
            continue
        if not user.results or list(user.regions):
            return True
        if any(_other_stores(result, store) for result in user.results):
            return True
    return False


class _Planner:
    """Turns pieces over the dims of a statement into indices over the indices of its loops."""

    def __init__(self, statement: Statement) -> None:
        self.steps: list[int] = []
        self.distances: list[ir.AffineExpr] = []
        """How far the index of each loop is from its lower bound: `step * dim`."""
        for level, expr in enumerate(statement.loop_indices):
            dim: ir.AffineExpr = ir.AffineExpr.get_dim(level)
            step = linear_terms(expr)[0].get(dim, 1)
            lower = self._over_indices(expr + dim * -step)
            is_plain = step == 1 and expr == dim
            self.steps.append(step)
            self.distances.append(dim if is_plain else dim + lower * -1)

    def _over_indices(self, expr: ir.AffineExpr) -> ir.AffineExpr:
        """Return an expression over dims as one over the indices of the loops."""
        dims = [
            distance if step == 1 else ir.AffineExpr.get_floor_div(distance, step)
            for distance, step in zip(self.distances, self.steps, strict=True)
        ]
        terms, constant = linear_terms(expr)
        total: ir.AffineExpr = ir.AffineConstantExpr.get(constant)
        for atom, factor in terms.items():
            level = atom.position if isinstance(atom, ir.AffineDimExpr) else None
            if level is not None and factor % self.steps[level] == 0:
                total = total + self.distances[level] * (factor // self.steps[level])
            else:
                total = total + substitute(atom, dims) * factor
        return substitute(total, [ir.AffineExpr.get_dim(level) for level in range(len(dims))])

    def access(self, op: ir.Operation, piece: Piece) -> ElementAccess:
        """Return the access that replaces `op`."""
        if piece.array is None:
            raise CannotRewriteError("a load in a loop nest reads a constant")
        if list(op.operands)[1 + (op.name not in LOADS) :] and not loop_values(op):
            raise CannotRewriteError("an access outside of loops has a computed index")
        try:
            index = tuple(map(self._over_indices, piece.index))
        except NotAffineError as error:
            raise CannotRewriteError(str(error)) from None
        if not op.name.startswith("affine.") and not all(map(_is_linear, index)):
            raise CannotRewriteError("the index of a load outside of affine loops is divided")
        return ElementAccess(op, piece.array, index)


def _is_linear(expr: ir.AffineExpr) -> bool:
    return all(isinstance(atom, ir.AffineDimExpr) for atom in linear_terms(expr)[0])
