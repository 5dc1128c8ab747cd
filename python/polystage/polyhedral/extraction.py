"""From IR to statements: linalg and copies on memrefs, and affine loop nests, all the same.

Nothing is refused: what is not understood becomes an opaque statement that may touch all of every
array it names. Only dynamic shapes are errors, for they must be bound before.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import islpy as isl

from polystage.errors import PolystageError
from polystage.mlir import ir, linalg
from polystage.polyhedral.domains import AccessMaps, Scope, outermost
from polystage.polyhedral.expressions import (
    NotAffineError,
    Range,
    constant_value,
    linear_terms,
    substitute,
    used_dims,
    value_range,
)
from polystage.polyhedral.model import Access, Array, Kind, Role, Statement
from polystage.polyhedral.names import Names, dimension_names, location_name, loop_names
from polystage.polyhedral.scalar import LOADS, classify, defining_op
from polystage.polyhedral.views import VIEW_OPS, View, fold_view, whole

_STORES = frozenset({"affine.store", "memref.store"})
_ALLOCATIONS = frozenset({"memref.alloc", "memref.alloca", "memref.get_global"})
_FLAT = frozenset({"affine.if"})  # their statements take positions in the enclosing block
_IGNORED = frozenset(
    {
        *_ALLOCATIONS,
        "memref.dealloc",
        "memref.dim",
        "memref.assume_alignment",
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
    return Extraction(function.name.value, dict(reader.arrays), tuple(reader.statements))


def _children(op: Any) -> Iterator[ir.Operation]:
    for region in op.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield inner.operation


def _is_memref(value: ir.Value) -> bool:
    return isinstance(value.type, ir.MemRefType)


class _Reader:
    """Walks one function in program order."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.arrays: dict[str, Array] = {}
        self.statements: list[Statement] = []
        self._names = Names()
        self._maps = AccessMaps()
        self._views: dict[ir.Value, View] = {}
        self._indices: dict[ir.Value, ir.AffineExpr] = {}
        self._globals: dict[str, str] = {}
        self._loads: dict[ir.Value, _Touch] = {}
        self._scope = outermost()
        self._place = 0
        self._readers: dict[str, Callable[[Any], None]] = {
            **dict.fromkeys(_STORES, self._read_store),
            **dict.fromkeys(LOADS, self._read_load),
            **dict.fromkeys(_ALLOCATIONS, self._read_array),
            "memref.copy": self._read_copy,
            "affine.for": self._read_affine_for,
            "scf.for": self._read_scf_for,
            "affine.if": self._read_affine_if,
        }

    # -- the function --------------------------------------------------------------------------

    def read(self) -> None:
        block = self.function.regions[0].blocks[0]
        self._name_arguments(block)
        returned = list(block.operations)[-1].operands
        self._read_block(block, self._scope)
        written = {access.array for s in self.statements for access in s.writes}
        outputs = {self._view(value).array for value in returned if _is_memref(value)}
        for name, array in self.arrays.items():
            is_argument = array.role == Role.INPUT
            if (name in outputs and not is_argument) or (is_argument and name in written):
                self.arrays[name] = replace(array, role=Role.OUTPUT)
            elif array.role == Role.WEIGHT and name in written:
                self.arrays[name] = replace(array, role=Role.INTERMEDIATE)

    def _name_arguments(self, block: ir.Block) -> None:
        for index, argument in enumerate(block.arguments):
            if _is_memref(argument):
                name = _attribute_name(self.function, "arg_attrs", index)
                name = name or location_name(argument.location) or f"arg{index}"
                self._add_array(argument, name, Role.INPUT, True)
        returned = list(block.operations)[-1].operands
        for index, value in enumerate(returned):
            name = _attribute_name(self.function, "res_attrs", index)
            root = _root(value)
            if name and root is not None and root.name in ("memref.alloc", "memref.alloca"):
                self._add_array(root.results[0], name, Role.OUTPUT, False)

    def _add_array(self, value: ir.Value, name: str, role: Role, is_initialized: bool) -> View:
        if value in self._views:
            return self._views[value]
        type_ = ir.MemRefType(value.type)
        name = self._names.unique(name)
        if not type_.has_static_shape:
            raise PolystageError(
                f"array '{name}' has the dynamic shape {type_}",
                help="bind dynamic dimensions when importing, e.g. --bind batch=1",
                op=value,
            )
        element = type_.element_type
        dtype = str(element)
        array = Array(
            name, tuple(type_.shape), dtype, role, _byte_width(element), is_initialized, value
        )
        self.arrays[name] = array
        self._views[value] = whole(name, array.shape)
        return self._views[value]

    # -- values --------------------------------------------------------------------------------

    def _view(self, value: ir.Value) -> View:
        """Return the window on an array that a memref value is."""
        if value in self._views:
            return self._views[value]
        op = defining_op(value)
        view = self._defined_view(op, value) if op is not None else _unknown(value)
        self._views[value] = view
        return view

    def _read_array(self, op: Any) -> None:
        self._view(op.results[0])

    def known_array(self, value: ir.Value) -> str | None:
        """Return the array that `value`, which is no view, stands for, if it is known."""
        view = self._views.get(value)
        return None if view is None else view.array

    def _defined_view(self, op: Any, value: ir.Value) -> View:
        if op.name in ("memref.alloc", "memref.alloca"):
            name = location_name(op.location)
            return self._add_array(value, f"{name}_out" if name else "t", Role.INTERMEDIATE, False)
        if op.name == "memref.get_global":
            return self._global_view(op, value)
        if op.name in VIEW_OPS:
            source = self._view(op.operands[0])
            if source.array is None:
                return replace(source, shape=tuple(ir.MemRefType(value.type).shape))
            shape = self.arrays[source.array].shape
            root = self.arrays[source.array].value
            if op.name == "memref.reinterpret_cast" and not _is_row_major(root):
                return replace(
                    source,
                    shape=tuple(ir.MemRefType(value.type).shape),
                    exprs=None,
                    reason="reinterpret_cast of an array that is not row-major",
                )
            return fold_view(op, source, shape, self._index, list(self._scope.ranges))
        return _unknown(value)

    def _global_view(self, op: Any, value: ir.Value) -> View:
        symbol = ir.FlatSymbolRefAttr(op.attributes["name"]).value
        if symbol not in self._globals:
            view = self._add_array(value, symbol, Role.WEIGHT, True)
            assert view.array is not None
            self._globals[symbol] = view.array
        name = self._globals[symbol]
        return whole(name, self.arrays[name].shape)

    def _index(self, value: ir.Value) -> ir.AffineExpr:
        """Return an index value as an expression in the indices of loops."""
        if value in self._indices:
            return self._indices[value]
        op = defining_op(value)
        if op is None:
            is_argument = value.owner == self.function.regions[0].blocks[0]
            raise NotAffineError(
                "index is an argument of the function"
                if is_argument
                else "index is loaded from memory or carried by a loop"
            )
        expr = self._computed_index(op)
        self._indices[value] = expr
        return expr

    def _computed_index(self, op: Any) -> ir.AffineExpr:
        name = op.name
        if name == "arith.constant" and isinstance(op.attributes["value"], ir.IntegerAttr):
            return ir.AffineConstantExpr.get(ir.IntegerAttr(op.attributes["value"]).value)
        if name in ("arith.index_cast", "arith.extsi"):
            return self._index(op.operands[0])
        if name == "affine.apply":
            return self._apply(ir.AffineMapAttr(op.attributes["map"]).value, op.operands)[0]
        if name in LOADS:
            raise NotAffineError("index is loaded from memory")
        if name not in ("arith.addi", "arith.subi", "arith.muli"):
            raise NotAffineError(f"index is computed by {name}")
        left, right = self._index(op.operands[0]), self._index(op.operands[1])
        if name == "arith.addi":
            return left + right
        if name == "arith.subi":
            return left + right * -1
        if linear_terms(left)[0] and linear_terms(right)[0]:
            raise NotAffineError("index is a product of two indices")
        return left * right

    def _apply(self, map_: ir.AffineMap, operands: Iterable[ir.Value]) -> list[ir.AffineExpr]:
        """Return the results of an affine map on index values."""
        values = [self._index(operand) for operand in operands]
        dims, symbols = values[: map_.n_dims], values[map_.n_dims :]
        return [substitute(expr, dims, symbols, (), ()) for expr in map_.results]

    # -- control flow --------------------------------------------------------------------------

    def _read_block(self, block: ir.Block, scope: Scope) -> None:
        """Read the operations of a block; statements take positions from `self._place` on."""
        outer = self._scope
        self._scope = scope
        for op in (view.operation for view in block.operations):
            before = len(self.statements)
            self._read_op(op)
            if op.name not in _FLAT:
                self._place += len(self.statements) > before
        self._scope = outer

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
        return self._apply(ir.AffineMapAttr(op.attributes[name]).value, operands)

    def _read_scf_for(self, op: Any) -> None:
        if len(op.operands) > 3:
            raise NotAffineError("loop carries values")
        lower, upper, step = (self._index(operand) for operand in op.operands)
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
        self._indices[block.arguments[0]] = index
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
        exprs, is_equality = _constraints(op.attributes["condition"])
        holds = scope.domain
        for expr, is_equal in zip(self._apply(exprs, op.operands), is_equality, strict=True):
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
        maps = _indexing_maps(op)
        iterators = _iterators(op, maps)
        inputs = _input_count(op)
        block = op.regions[0].blocks[0]
        if len(block.arguments) != len(op.operands):
            raise NotAffineError(f"{op.name} is not understood")
        body = _Body(list(list(block.operations)[-1].operands))
        for number, operand in enumerate(op.operands):
            if not _is_memref(operand):
                continue
            touch = _Touch(self._view(operand), tuple(maps[number].results), op, number)
            argument = block.arguments[number]
            if number >= inputs:
                body.writes.append(touch)
                body.carries.append(body.add_read(argument, touch))
            else:
                body.add_read(argument, touch)
        self._read_body(block, body)
        self._add_statement(op, body, _loop_extents(op, maps), iterators)

    def _read_body(self, block: ir.Block, body: "_Body") -> None:
        """Collect the loads in a linalg body, and those outside of it whose values it uses."""
        for inner in _walk(block):
            if inner.name == "linalg.index":
                dim = ir.IntegerAttr(inner.attributes["dim"]).value
                self._indices[inner.results[0]] = ir.AffineExpr.get_dim(dim)
            elif inner.name in LOADS:
                body.add_read(inner.results[0], self._load_touch(inner))
            for operand in inner.operands:
                if operand in self._loads:
                    body.add_read(operand, self._loads[operand])

    def _load_touch(self, op: Any) -> "_Touch":
        try:
            indices = tuple(self._access_indices(op, list(op.operands)[1:]))
        except NotAffineError as error:
            return _Touch(self._view(op.operands[0]), None, op, None, str(error))
        return _Touch(self._view(op.operands[0]), indices, op, None)

    def _access_indices(self, op: Any, operands: list[ir.Value]) -> list[ir.AffineExpr]:
        if "map" in op.attributes:
            return self._apply(ir.AffineMapAttr(op.attributes["map"]).value, operands)
        return [self._index(operand) for operand in operands]

    def _read_copy(self, op: Any) -> None:
        source, target = (self._view(operand) for operand in op.operands)
        indices = tuple(ir.AffineExpr.get_dim(dim) for dim in range(len(source.shape)))
        body = _Body([op.operands[0]])
        body.add_read(op.operands[0], _Touch(source, indices, op, 0))
        body.writes.append(_Touch(target, indices, op, 1))
        body.carries.append(None)
        self._add_statement(op, body, source.shape, ("parallel",) * len(source.shape))

    def _read_load(self, op: Any) -> None:
        """Remember a load; if its array changes before the value is used, keep it in an array."""
        touch = self._load_touch(op)
        self._loads[op.results[0]] = touch
        if touch.view.array is None or not self._changes_before_use(op, touch.view.array):
            return
        view, indices = self._add_temporary(op)
        kept = _Touch(view, indices, op, None)
        body = _Body([op.results[0]])
        self._read_value(op.results[0], body)
        body.writes.append(kept)
        body.carries.append(None)
        self._add_statement(op, body, (), ())
        self._loads[op.results[0]] = kept

    def _add_temporary(self, op: Any) -> tuple[View, tuple[ir.AffineExpr, ...]]:
        """Add an array with one element for every instance of the enclosing loops."""
        known = [(level, ends) for level, ends in enumerate(self._scope.ranges) if ends]
        shape = tuple(high - low + 1 for _, (low, high) in known)
        indices = tuple(ir.AffineExpr.get_symbol(level) - low for level, (low, _) in known)
        element = op.results[0].type
        if not shape:
            shape, indices = (1,), (ir.AffineConstantExpr.get(0),)
        name = self._names.unique("value")
        self.arrays[name] = Array(
            name, shape, str(element), Role.INTERMEDIATE, _byte_width(element), False, None
        )
        return whole(name, shape), indices

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
            for op in _with_nested(top):
                if any(operand in tainted for operand in op.operands):
                    tainted.update(op.results)
                    uses = uses or op.name in _STORES or bool(list(op.regions))
            writes = self._may_write(top, array)
            if uses and (pending or (writes and top.name not in _STORES)):
                is_changed = True
            pending = pending or writes
        return is_changed

    def _may_write(self, top: Any, array: str) -> bool:
        for op in _with_nested(top):
            if op.name in LOADS or op.name in _IGNORED:
                continue
            for operand in op.operands:
                if _is_memref(operand) and _root_array(self, operand) in (array, None):
                    return True
        return False

    def _read_store(self, op: Any) -> None:
        indices = self._access_indices(op, list(op.operands)[2:])
        body = _Body([op.operands[0]])
        self._read_value(op.operands[0], body)
        body.writes.append(_Touch(self._view(op.operands[1]), tuple(indices), op, 1))
        body.carries.append(None)
        self._add_statement(op, body, (), ())

    def _read_value(self, value: ir.Value, body: "_Body") -> None:
        """Collect the loads from which `value` is computed, and those that tell where to load."""
        for part in _slice(value):
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
        for inner in _with_nested(op):
            for operand in inner.operands:
                if not _is_memref(operand):
                    continue
                array = self._view(operand).array
                names = [array] if array is not None else list(self.arrays)
                if inner.name in VIEW_OPS:
                    continue
                reads.update(dict.fromkeys(names))
                if inner.name not in LOADS:
                    writes.update(dict.fromkeys(names))
        if not reads:
            return
        body = _Body([], kind=Kind.OPAQUE, reason=reason)
        for name in reads:
            body.reads.append(_Touch(View(name, (), None), None, op, None))
        for name in writes:
            if self.arrays[name].role != Role.WEIGHT:
                body.writes.append(_Touch(View(name, (), None), None, op, None))
        self._add_statement(op, body, (), ())

    # -- building ------------------------------------------------------------------------------

    def _add_statement(
        self, op: Any, body: "_Body", extents: Sequence[int], iterators: tuple[str, ...]
    ) -> None:
        if any(touch.view.array is None for touch in (*body.reads, *body.writes)):
            self._read_opaque(op, "array is not known")
            return
        scope = self._scope
        reads = [self._exprs(touch, len(extents), extents) for touch in body.reads]
        writes = [self._exprs(touch, len(extents), extents) for touch in body.writes]
        all_iterators = ("sequential",) * scope.depth + iterators
        kind = self._kind(body, reads, writes, all_iterators)
        own = _own_names(kind, all_iterators, body, reads, writes)
        dims = (*loop_names(scope.depth), *own[scope.depth :])
        layer = location_name(op.location)
        suffix = f"_{kind}" if kind in (Kind.FILL, Kind.COPY) else ""
        name = self._names.unique(f"{layer}{suffix}" if layer else str(kind))
        domain = scope.extended(extents)
        key = tuple(extents) if scope.is_everything else None
        statement = Statement(
            name=name,
            kind=kind,
            domain=_named_domain(domain, name, dims),
            dims=dims,
            reads=self._accesses(name, body.reads, reads, domain, key, dims),
            writes=self._accesses(name, body.writes, writes, domain, key, dims),
            position=(*scope.position, self._place),
            iterators=all_iterators,
            op=op,
            reason=body.reason or next((t.why for t in (*body.reads, *body.writes) if t.why), ""),
            location=layer,
            loop_indices=self._loop_indices(scope),
        )
        self.statements.append(statement)

    def _loop_indices(self, scope: Scope) -> tuple[ir.AffineExpr, ...]:
        dims = [ir.AffineExpr.get_dim(level) for level in range(scope.depth)]
        return tuple(substitute(e, [], dims, scope.ranges) for e in scope.indices)

    def _exprs(
        self, touch: "_Touch", own: int, extents: Sequence[int]
    ) -> tuple[ir.AffineExpr, ...] | None:
        """Return the index into the array over the statement's dims, or None if not affine."""
        if touch.indices is None or touch.view.exprs is None:
            return None
        depth = self._scope.depth
        ranges: list[Range] = [*self._scope.ranges, *((0, extent - 1) for extent in extents)]
        dims = [ir.AffineExpr.get_dim(dim) for dim in range(depth + own)]
        try:
            indices = [substitute(e, dims[depth:], dims[:depth], ranges) for e in touch.indices]
            return tuple(substitute(e, indices, dims[:depth], ranges) for e in touch.view.exprs)
        except NotAffineError:
            return None

    def _kind(
        self,
        body: "_Body",
        reads: list[tuple[ir.AffineExpr, ...] | None],
        writes: list[tuple[ir.AffineExpr, ...] | None],
        iterators: tuple[str, ...],
    ) -> Kind:
        if body.kind is not None:
            return body.kind
        if any(touch.indices is None for touch in body.reads):
            return Kind.GATHER
        carries = list(body.carries)
        is_reduction = "reduction" in iterators
        if iterators == ("sequential",) * len(
            iterators
        ):  # a store: is the old value part of the new?
            same = [
                index
                for index, touch in enumerate(body.reads)
                if touch.view.array == body.writes[0].view.array and reads[index] == writes[0]
            ]
            carries = [same[0] if same else None]
            used = set[int]().union(*map(used_dims, writes[0] or ()))
            is_reduction = bool(same) and len(used) < len(iterators)
        return classify(body.values, body.leaf_of, carries, is_reduction)

    def _accesses(
        self,
        statement: str,
        touches: list["_Touch"],
        exprs: list[tuple[ir.AffineExpr, ...] | None],
        domain: isl.Set,
        key: object,
        dims: tuple[str, ...],
    ) -> tuple[Access, ...]:
        accesses: dict[tuple[Any, ...], Access] = {}
        for touch, index in zip(touches, exprs, strict=True):
            array = touch.view.array
            assert array is not None
            if index is None:
                relation = self._maps.everything(domain, self.arrays[array].shape)
            else:
                relation = self._maps.exact(domain, key, index, dims)
            relation = relation.set_tuple_name(isl.dim_type.in_, statement)
            relation = relation.set_tuple_name(isl.dim_type.out, array)
            access = Access(array, relation, index, touch.op, touch.operand)
            accesses.setdefault((array, index, touch.operand, touch.op), access)
        return tuple(accesses.values())


@dataclass(frozen=True)
class _Touch:
    """An access before its statement is known: a view, and the index into it."""

    view: View
    indices: tuple[ir.AffineExpr, ...] | None
    """Dims are the operation's own loops, symbols the enclosing ones; None where not affine."""
    op: Any
    operand: int | None
    reason: str = ""

    @property
    def why(self) -> str:
        """The reason why the access is not exact."""
        return self.reason or self.view.reason


class _Body:
    """What an operation reads, computes and writes."""

    def __init__(self, values: list[ir.Value], kind: Kind | None = None, reason: str = "") -> None:
        self.values = values
        self.kind = kind
        self.reason = reason
        self.reads: list[_Touch] = []
        self.writes: list[_Touch] = []
        self.leaf_of: dict[ir.Value, int] = {}
        self.carries: list[int | None] = []
        """For each write, the read of the value that it replaces, where that is used."""

    def add_read(self, value: ir.Value, touch: _Touch) -> int | None:
        """Note that `value` comes from `touch`, unless nothing uses it."""
        if value in self.leaf_of:
            return self.leaf_of[value]
        if next(iter(value.uses), None) is None:
            return None
        self.leaf_of[value] = len(self.reads)
        self.reads.append(touch)
        return self.leaf_of[value]


def _own_names(
    kind: Kind,
    iterators: tuple[str, ...],
    body: _Body,
    reads: list[tuple[ir.AffineExpr, ...] | None],
    writes: list[tuple[ir.AffineExpr, ...] | None],
) -> tuple[str, ...]:
    carried = {carry for carry in body.carries if carry is not None}
    exact = [read for index, read in enumerate(reads) if read is not None and index not in carried]
    if not writes or writes[0] is None or len(exact) < len(reads) - len(carried):
        return tuple(f"d{dim}" for dim in range(len(iterators)))
    return dimension_names(kind, iterators, exact, writes[0])


def _named_domain(domain: isl.Set, name: str, dims: tuple[str, ...]) -> isl.Set:
    domain = domain.set_tuple_name(name)
    for place, dim in enumerate(dims):
        domain = domain.set_dim_name(isl.dim_type.set, place, dim)
    return domain


def _with_nested(op: Any) -> Iterator[Any]:
    """Yield `op` and all operations inside of it."""
    yield op
    for inner in _children(op):
        yield from _with_nested(inner)


def _walk(block: ir.Block) -> Iterator[Any]:
    for op in block.operations:
        yield from _with_nested(op.operation)


def _slice(value: ir.Value) -> Iterator[ir.Value]:
    """Yield `value` and everything from which it is computed, operands in order."""
    seen: set[ir.Value] = set()
    todo = [value]
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        yield current
        op = defining_op(current)
        if op is not None and op.name not in LOADS:
            todo.extend(reversed(list(op.operands)))


def _constraints(attr: ir.Attribute) -> tuple[ir.AffineMap, list[bool]]:
    """Return the left-hand sides of an affine set's constraints, and which of them are equalities.

    The bindings give no access to the set inside of the attribute, so this goes by its text, in
    which every constraint ends with `>= 0` or `== 0`.
    """
    text = str(attr).removeprefix("affine_set<").removesuffix(">")
    inputs, _, constraints = text.partition(" : ")
    sides = re.findall(r"(.+?) (==|>=) 0(?:, |$)", constraints.strip()[1:-1])
    map_text = f"affine_map<{inputs} -> ({', '.join(side for side, _ in sides)})>"
    exprs = ir.AffineMapAttr(ir.Attribute.parse(map_text)).value
    return exprs, [sign == "==" for _, sign in sides]


def _root(value: ir.Value) -> Any:
    """Return the operation that makes the buffer behind a chain of views."""
    op = defining_op(value)
    while op is not None and op.name in VIEW_OPS:
        op = defining_op(op.operands[0])
    return op


def _root_array(reader: _Reader, value: ir.Value) -> str | None:
    """Return the array behind `value` without reading views whose loops are not entered yet."""
    op = defining_op(value)
    while op is not None and op.name in VIEW_OPS:
        value = op.operands[0]
        op = defining_op(value)
    return reader.known_array(value)


def _unknown(value: ir.Value) -> View:
    return View(None, tuple(ir.MemRefType(value.type).shape), None, "array is not known")


def _is_row_major(value: ir.Value | None) -> bool:
    return (
        value is not None
        and ir.MemRefType(value.type).affine_map.is_permutation
        and (
            ir.MemRefType(value.type).affine_map
            == ir.AffineMap.get_identity(ir.MemRefType(value.type).rank)
        )
    )


def _byte_width(type_: ir.Type) -> int:
    if isinstance(type_, ir.IntegerType | ir.FloatType):
        return max(1, -(-type_.width // 8))
    return 8


def _indexing_maps(op: Any) -> list[ir.AffineMap]:
    attributes = op.attributes
    named = "indexing_maps" not in attributes
    maps = linalg.get_indexing_maps(op) if named else attributes["indexing_maps"]
    if maps is None or not list(op.regions):
        raise NotAffineError(f"{op.name} is not understood")
    return [ir.AffineMapAttr(attr).value for attr in maps]


def _input_count(op: Any) -> int:
    if "operandSegmentSizes" in op.attributes:
        return next(iter(op.attributes["operandSegmentSizes"]))
    return len(op.operands) - 1


def _iterators(op: Any, maps: list[ir.AffineMap]) -> tuple[str, ...]:
    """Return the iterator types; those of a named op follow from what its outputs index."""
    if "iterator_types" in op.attributes:
        kinds = op.attributes["iterator_types"]
        return tuple("reduction" if "reduction" in str(kind) else "parallel" for kind in kinds)
    outputs = (expr for map_ in maps[_input_count(op) :] for expr in map_.results)
    written = set[int]().union(*map(used_dims, outputs))
    dims = range(maps[0].n_dims)
    return tuple("parallel" if dim in written else "reduction" for dim in dims)


def _attribute_name(function: Any, attribute: str, index: int) -> str:
    """Return the `npu.name` of an argument or result, or nothing."""
    if attribute not in function.attributes:
        return ""
    names = ir.DictAttr(ir.ArrayAttr(function.attributes[attribute])[index])
    return ir.StringAttr(names["npu.name"]).value if "npu.name" in names else ""


def _loop_extents(op: Any, maps: list[ir.AffineMap]) -> tuple[int, ...]:
    """Return the extents of a linalg op's loops from the shapes of its operands."""
    extents: dict[int, int] = {}
    for operand, map_ in zip(op.operands, maps, strict=True):
        if not _is_memref(operand):
            continue
        for expr, extent in zip(map_.results, ir.MemRefType(operand.type).shape, strict=True):
            if isinstance(expr, ir.AffineDimExpr):
                extents.setdefault(expr.position, extent)
    if len(extents) != maps[0].n_dims:
        raise NotAffineError("the extent of a loop cannot be told from the operands")
    return tuple(extents[dim] for dim in range(maps[0].n_dims))


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
