"""From IR to statements: linalg and copies on memrefs, and affine loop nests, all the same.

Nothing is refused: what is not understood becomes an opaque statement that may touch all of every
array it names. Only dynamic shapes are errors, for they must be bound before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import islpy as isl

from polystage.dialects.npu.overlay import is_overlay
from polystage.mlir import ir
from polystage.polyhedral.constant_indices import (
    ConstantArrays,
    ConstantIndices,
    read_for_indices_only,
)
from polystage.polyhedral.domains import Scope, outermost
from polystage.polyhedral.expressions import NotAffineError, Range, constant_value, value_range
from polystage.polyhedral.memrefs import ALLOCATIONS, Values
from polystage.polyhedral.model import Array, Kind, Role, Statement
from polystage.polyhedral.names import Names
from polystage.polyhedral.operations import (
    constraints_of,
    indexing_maps,
    input_count,
    is_memref,
    iterator_types,
    loop_extents,
    slice_of,
    walk_block,
    with_nested,
)
from polystage.polyhedral.scalar import LOADS
from polystage.polyhedral.statements import Body, Part, StatementBuilder, Touch
from polystage.polyhedral.views import VIEW_OPS, View

_STORES = frozenset({"affine.store", "memref.store"})
_FLAT = frozenset({"affine.if"})  # their statements take positions in the enclosing block
_IGNORED = frozenset(
    {
        *ALLOCATIONS,
        "memref.dealloc",
        "memref.dim",
        "memref.assume_alignment",
        "npu.overlay",
        "affine.yield",
        "affine.apply",
        "scf.yield",
        "func.return",
        *VIEW_OPS,
    }
)


@dataclass(frozen=True)
class Extraction:
    """The arrays and statements of one function."""

    name: str
    arrays: dict[str, Array]
    statements: tuple[Statement, ...]


def extract(function: Any) -> Extraction:
    """Read one function."""
    reader = _Reader(function)
    reader.read()
    return Extraction(function.name.value, reader.values.arrays, tuple(reader.statements))


class _Reader:
    """Walks one function in program order."""

    def __init__(self, function: Any) -> None:
        names = Names()
        self.values = Values(function, names)
        self.statements: list[Statement] = []
        self._block = function.regions[0].blocks[0]
        self._constants = ConstantArrays(function)
        self._builder = StatementBuilder(self.values.arrays, names)
        self._loads: dict[ir.Value, Touch] = {}
        self._scope = outermost()
        self._place = 0
        self._readers: dict[str, Callable[[Any], None]] = {
            **dict.fromkeys(_STORES, self._read_store),
            **dict.fromkeys(LOADS, self._read_load),
            **dict.fromkeys(ALLOCATIONS, self._read_array),
            "memref.copy": self._read_copy,
            "affine.for": self._read_affine_for,
            "scf.for": self._read_scf_for,
            "affine.if": self._read_affine_if,
        }

    def read(self) -> None:
        """Read the whole function."""
        self._read_block(self._block, self._scope)
        self.values.settle_roles({a.array for s in self.statements for a in s.writes})

    def _read_array(self, op: Any) -> None:
        self.values.view(op.results[0])

    # -- control flow --------------------------------------------------------------------------

    def _read_block(self, block: ir.Block, scope: Scope) -> None:
        """Read the operations of a block; statements take positions from `self._place` on."""
        outer = self._scope
        self._enter(scope)
        for op in (view.operation for view in block.operations):
            before = len(self.statements)
            self._read_op(op)
            if op.name not in _FLAT:
                self._place += len(self.statements) > before
        self._enter(outer)

    def _enter(self, scope: Scope) -> None:
        self._scope = scope
        self.values.symbol_ranges = scope.ranges

    def _read_op(self, op: Any) -> None:
        reader = self._readers.get(op.name)
        try:
            if reader is not None:
                reader(op)
            elif op.name.startswith("linalg."):
                self._read_linalg(op)
            elif op.name not in _IGNORED:
                self._read_opaque(op, f"{op.name} is not understood")
        except NotAffineError as error:
            self._read_opaque(op, str(error))

    def _read_affine_for(self, op: Any) -> None:
        segments = list(op.attributes["operandSegmentSizes"])
        if segments[2]:
            raise NotAffineError("loop carries values")
        operands = list(op.operands)
        lower = self._bound(op, "lowerBoundMap", operands[: segments[0]])
        upper = self._bound(op, "upperBoundMap", operands[segments[0] :])
        self._read_loop(op, lower, upper, ir.IntegerAttr(op.attributes["step"]).value)

    def _bound(self, op: Any, name: str, operands: list[ir.Value]) -> list[ir.AffineExpr]:
        return self.values.apply(ir.AffineMapAttr(op.attributes[name]).value, operands)

    def _read_scf_for(self, op: Any) -> None:
        if len(op.operands) > 3:
            raise NotAffineError("loop carries values")
        lower, upper, step = (self.values.index(operand) for operand in op.operands)
        step_value = constant_value(step)
        if step_value is None:
            raise NotAffineError("loop step is not constant")
        self._read_loop(op, [lower], [upper], step_value)

    def _read_loop(
        self, op: Any, lower: list[ir.AffineExpr], upper: list[ir.AffineExpr], step: int
    ) -> None:
        if step != 1 and len(lower) > 1:
            raise NotAffineError("loop has a step and several lower bounds")
        scope, place = self._scope, self._place
        block = op.regions[0].blocks[0]
        ends = _loop_range(lower, upper, scope.ranges)
        index: ir.AffineExpr = ir.AffineExpr.get_symbol(scope.depth)
        if step != 1:
            index = lower[0] + index * step
            ends = (0, (ends[1] - ends[0]) // step) if ends else None
        self.values.set_index(block.arguments[0], index)
        inner = scope.enter(lower, upper, step, ends)
        self._place = 0
        inner = replace(inner, position=(*scope.position, place), indices=(*scope.indices, index))
        self._read_block(block, inner)
        self._place = place

    def _read_affine_if(self, op: Any) -> None:
        """Read both sides of an affine.if, the condition becoming part of their domains."""
        if op.results:
            raise NotAffineError("affine.if has results")
        scope = self._scope
        exprs, is_equality = constraints_of(op.attributes["condition"])
        holds = scope.domain
        for expr, is_equal in zip(self.values.apply(exprs, op.operands), is_equality, strict=True):
            aff = scope.aff(expr)
            zero = isl.Aff.zero_on_domain(aff.get_domain_local_space())
            holds = holds.intersect(aff.eq_set(zero) if is_equal else aff.ge_set(zero))
        sides = (holds, scope.domain.subtract(holds))
        for region, domain in zip(op.regions, sides, strict=True):
            for block in region.blocks:
                self._read_block(block, replace(scope, domain=domain))

    # -- statements ----------------------------------------------------------------------------

    def _read_linalg(self, op: Any) -> None:
        """Read a linalg op; a named one has a body and indexing maps as well."""
        maps = indexing_maps(op)
        iterators = iterator_types(op, maps)
        inputs = input_count(op)
        block = op.regions[0].blocks[0]
        if len(block.arguments) != len(op.operands):
            raise NotAffineError(f"{op.name} is not understood")
        body = Body(list(list(block.operations)[-1].operands))
        for number, operand in enumerate(op.operands):
            if not is_memref(operand):
                self._read_value(operand, body)
                continue
            argument = block.arguments[number]
            if is_overlay(operand):
                body.add_parts(argument, self._pieces(operand, maps[number], op, number))
                continue
            touch = Touch(self.values.view(operand), tuple(maps[number].results), op, number)
            if number >= inputs:
                body.writes.append(touch)
                body.carries.append(body.add_read(argument, touch))
            else:
                body.add_read(argument, touch)
        self._read_body(op, block, body)
        self._add_statement(op, body, loop_extents(op, maps), iterators)

    def _pieces(self, operand: ir.Value, map_: ir.AffineMap, op: Any, number: int) -> list[Touch]:
        """Return how an operation touches the pieces of an overlay, the top one first."""
        layers, fill = self.values.layers(operand)
        touches: list[Touch] = []
        for place, (offsets, view) in enumerate(layers):
            indices = tuple(e - offset for e, offset in zip(map_.results, offsets, strict=True))
            touches.append(Touch(view, indices, op, number, part=Part(place, fill=fill)))
        return touches

    def _read_body(self, op: Any, block: ir.Block, body: Body) -> None:
        """Collect the loads in a linalg body, and those outside of it whose values it uses."""
        constant = ConstantIndices(op, self._constants)
        has_loads = False
        for inner in walk_block(block):
            if inner.name == "linalg.index":
                dim = ir.IntegerAttr(inner.attributes["dim"]).value
                self.values.set_index(inner.results[0], ir.AffineExpr.get_dim(dim))
            elif inner.name in LOADS:
                has_loads = True
                body.add_parts(inner.results[0], self._body_load(inner, constant))
            elif inner.name in _STORES:
                raise NotAffineError("the body writes to memory")
        if has_loads:
            body.drop_reads(read_for_indices_only(block, body))
        if self._loads:  # values from outside of the operation
            for value in (v for inner in walk_block(block) for v in inner.operands):
                self._read_value(value, body)

    def _body_load(self, op: Any, constant: ConstantIndices) -> list[Touch]:
        """Return the accesses of a load in a linalg body: one, unless a constant gives the index
        in several runs."""
        touch = self._load_touch(op)
        if touch.indices is not None or op.name != "memref.load":
            return [touch]
        alternatives = constant.runs(list(op.operands)[1:], touch.view.shape)
        if alternatives is None:
            return [touch]
        touches: list[Touch] = []
        for place, runs in enumerate(alternatives):
            where = tuple(bound for run in runs for bound in run.where)
            part = Part(place, where) if len(alternatives) > 1 else None
            touches.append(Touch(touch.view, tuple(run.expr for run in runs), op, None, part=part))
        return touches

    def _load_touch(self, op: Any) -> "Touch":
        try:
            indices = tuple(self._access_indices(op, list(op.operands)[1:]))
        except NotAffineError as error:
            return Touch(self.values.view(op.operands[0]), None, op, None, str(error))
        return Touch(self.values.view(op.operands[0]), indices, op, None)

    def _access_indices(self, op: Any, operands: list[ir.Value]) -> list[ir.AffineExpr]:
        if "map" in op.attributes:
            return self.values.apply(ir.AffineMapAttr(op.attributes["map"]).value, operands)
        return [self.values.index(operand) for operand in operands]

    def _read_copy(self, op: Any) -> None:
        source, target = (self.values.view(operand) for operand in op.operands)
        indices = tuple(ir.AffineExpr.get_dim(dim) for dim in range(len(source.shape)))
        body = Body([op.operands[0]])
        body.add_read(op.operands[0], Touch(source, indices, op, 0))
        body.writes.append(Touch(target, indices, op, 1))
        body.carries.append(None)
        self._add_statement(op, body, source.shape, ("parallel",) * len(source.shape))

    def _read_load(self, op: Any) -> None:
        """Remember a load; if its array changes before the value is used, keep it in an array."""
        touch = self._load_touch(op)
        self._loads[op.results[0]] = touch
        if touch.view.array is None or not self._changes_before_use(op, touch.view.array):
            return
        view, indices = self.values.add_temporary(op.results[0].type)
        kept = Touch(view, indices, op, None)
        body = Body([op.results[0]])
        self._read_value(op.results[0], body)
        body.writes.append(kept)
        body.carries.append(None)
        self._add_statement(op, body)
        self._loads[op.results[0]] = kept

    def _changes_before_use(self, load: Any, array: str) -> bool:
        """Tell whether `array` may be written between `load` and the last use of its value."""
        after = (view.operation for view in load.block.operations)
        for op in after:
            if op == load:
                break
        tainted = {load.results[0]}
        is_changed = False
        pending = False
        for top in after:
            uses = False
            for op in with_nested(top):
                if any(operand in tainted for operand in op.operands):
                    tainted.update(op.results)
                    uses = uses or op.name in _STORES or bool(list(op.regions))
            writes = self._may_write(top, array)
            if uses and (pending or (writes and top.name not in _STORES)):
                is_changed = True
            pending = pending or writes
        return is_changed

    def _may_write(self, top: Any, array: str) -> bool:
        for op in with_nested(top):
            if op.name in LOADS or op.name in _IGNORED:
                continue
            for operand in op.operands:
                if not is_memref(operand) or is_overlay(operand):
                    continue
                if self.values.root_array(operand) in (array, None):
                    return True
        return False

    def _read_store(self, op: Any) -> None:
        indices = self._access_indices(op, list(op.operands)[2:])
        body = Body([op.operands[0]])
        self._read_value(op.operands[0], body)
        body.writes.append(Touch(self.values.view(op.operands[1]), tuple(indices), op, 1))
        body.carries.append(None)
        self._add_statement(op, body)

    def _read_value(self, value: ir.Value, body: Body) -> None:
        """Collect the loads from which `value` is computed, and those that tell where to load."""
        for part in slice_of(value):
            touch = self._loads.get(part)
            if touch is None or part in body.leaf_of:
                continue
            body.add_read(part, touch)
            if touch.indices is None and touch.op is not None:
                for index in list(touch.op.operands)[1:]:
                    self._read_value(index, body)

    def _read_opaque(self, op: Any, reason: str) -> None:
        """Add a statement that may touch all of every array below `op`, if there is any."""
        reads: dict[str, None] = {}
        writes: dict[str, None] = {}
        for inner in with_nested(op):
            for operand in inner.operands:
                if not is_memref(operand):
                    continue
                if inner.name in VIEW_OPS:
                    continue
                behind = self.values.arrays_behind(operand)
                names = [name for name in behind if name is not None]
                if len(names) < len(behind):
                    names = list(self.values.arrays)
                reads.update(dict.fromkeys(names))
                if inner.name not in LOADS:
                    writes.update(dict.fromkeys(names))
        if not reads:
            return
        body = Body([], kind=Kind.OPAQUE, reason=reason)
        for name in reads:
            body.reads.append(Touch(View(name, (), None), None, op, None))
        for name in writes:
            if self.values.arrays[name].role != Role.WEIGHT:
                body.writes.append(Touch(View(name, (), None), None, op, None))
        self._add_statement(op, body)

    def _add_statement(
        self, op: Any, body: Body, extents: Sequence[int] = (), iterators: tuple[str, ...] = ()
    ) -> None:
        if any(touch.view.array is None for touch in (*body.reads, *body.writes)):
            self._read_opaque(op, "array is not known")
            return
        position = (*self._scope.position, self._place)
        statement = self._builder.build(op, body, self._scope, position, extents, iterators)
        self.statements.append(statement)


def _loop_range(
    lower: list[ir.AffineExpr], upper: list[ir.AffineExpr], symbols: Sequence[Range]
) -> Range:
    """Return bounds of a loop's index, or None where they are not known."""
    try:
        lows = [value_range(expr, (), symbols) for expr in lower]
        highs = [value_range(expr, (), symbols) for expr in upper]
    except IndexError:
        return None
    known_lows = [ends[0] for ends in lows if ends]
    known_highs = [ends[1] for ends in highs if ends]
    if not known_lows or not known_highs:
        return None
    low, high = max(known_lows), min(known_highs) - 1
    return low, max(low, high)
