"""Loops and operations on boxes, written as scf.for and linalg.generic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polystage.dialects.npu.views import defining_op
from polystage.errors import PassError
from polystage.mlir import ir, linalg, memref, scf
from polystage.passes.polyhedral.box_operand import (
    NoWindowError,
    Operand,
    input_operand,
    output_operand,
)
from polystage.passes.polyhedral.index_arithmetic import constant_index, index_value
from polystage.polyhedral import Access, Kind, Statement
from polystage.polyhedral.expressions import Range, substitute, used_dims
from polystage.polyhedral.rectangles import BoxOperation, Step
from polystage.polyhedral.scalar import LOADS, factors_of, leaves

_LOOPS = frozenset({"affine.for", "scf.for"})


def emit(steps: Sequence[Step], arrays: Mapping[str, ir.Value]) -> None:
    """Write `steps` at the current insertion point, `arrays` being the memrefs of the arrays.

    Raises: PassError where a statement cannot be written as a linalg.generic.
    """
    _emit(steps, arrays, {})


def _emit(
    steps: Sequence[Step], arrays: Mapping[str, ir.Value], loops: dict[int, ir.Value]
) -> None:
    for step in steps:
        if isinstance(step, BoxOperation):
            _Generic(step, arrays, loops).emit()
            continue
        bounds = (constant_index(n) for n in (step.low, step.high + 1, 1))
        loop = scf.ForOp(*bounds)
        with ir.InsertionPoint(loop.body):
            _emit(step.body, arrays, {**loops, step.level: loop.induction_variable})
            scf.YieldOp([])


@dataclass(frozen=True)
class _Operation:
    """What a linalg.generic works on."""

    inputs: list[Operand]
    output: Operand
    iterators: list[str]


class _Generic:
    """One linalg.generic in the making."""

    def __init__(
        self, box: BoxOperation, arrays: Mapping[str, ir.Value], loops: Mapping[int, ir.Value]
    ) -> None:
        self.statement: Statement = box.leaf.statement
        self.arrays = arrays
        self.symbols = [loops[level] for level in sorted(loops)]
        self.extents = list(box.extents)
        self.dims: list[ir.AffineExpr] = []
        """The statement's dims, over the dims of the operation and the loops around as symbols."""
        self.ranges: list[Range] = []
        self._place_dims(box, sorted(loops))
        self.body: dict[ir.Value, ir.Value] = {}

    def _place_dims(self, box: BoxOperation, loops: list[int]) -> None:
        """Express the statement's dims; those that a write runs backwards along are turned."""
        write = self.statement.writes[0].exprs or ()
        fixed: list[ir.AffineExpr] = [ir.AffineConstantExpr.get(0)] * len(self.statement.dims)
        for dim, value in box.fixed.items():
            if isinstance(value, int):
                fixed[dim] = ir.AffineConstantExpr.get(value)
            else:
                fixed[dim] = ir.AffineExpr.get_symbol(loops.index(dim))
        self.dims = list(fixed)
        for place, dim in enumerate(box.dims):
            lower = substitute(box.lower[place], fixed)
            index: ir.AffineExpr = ir.AffineExpr.get_dim(place)
            if _runs_backwards(write, dim, len(fixed)):
                index = index * -1 + (box.extents[place] - 1)
            self.dims[dim] = index + lower
        self.ranges = [(0, extent - 1) for extent in box.extents]
        self.iterators = ["reduction" if d in box.leaf.reduction else "parallel" for d in box.dims]
        if "parallel" not in self.iterators:  # writes one element: keep results of rank 1
            self.extents.append(1)
            self.iterators.append("parallel")
            self.ranges.append((0, 0))

    def _exprs(self, access: Access) -> tuple[ir.AffineExpr, ...]:
        symbols = [None] * len(self.symbols)
        return tuple(
            substitute(expr, self.dims, (), self.ranges, symbols) for expr in access.exprs or ()
        )

    def emit(self) -> None:
        """Write the operation."""
        write = self.statement.writes[0]
        try:
            output = self._output(write)
            inputs, values = self._inputs(write)
        except NoWindowError as error:
            raise PassError(
                f"statement '{self.statement.name}' is no operation on a box: {error}",
                help="write the nest with indices that are sums of loop indices",
                op=self.statement.op,
            ) from None
        inputs += self._shape_operands([*inputs, output])
        operation = _Operation(inputs, output, self.iterators)
        self._write_generic(operation, values, stored_value(self.statement))

    def _output(self, write: Access) -> Operand:
        exprs = self._exprs(write)
        array = self.arrays[write.array]
        if any(used_dims(expr) for expr in exprs):
            return output_operand(array, exprs, self.extents, self.symbols)
        operand = input_operand(array, exprs, self.extents, self.symbols)
        return Operand(operand.value, (ir.AffineExpr.get_dim(len(self.extents) - 1),))

    def _inputs(self, write: Access) -> tuple[list[Operand], list[list[ir.Value]]]:
        """Return the inputs, and the values that each stands for; the output's are last."""
        inputs: list[Operand] = []
        values: list[list[ir.Value]] = []
        known: dict[tuple[str, tuple[ir.AffineExpr, ...]], list[ir.Value]] = {}
        carried: list[ir.Value] = []
        factors = self._computed_factors()
        for access in self.statement.reads:
            if access.exprs is None or access.op is None:
                continue
            loaded = access.op.results[0]
            if (access.array, access.exprs) == (write.array, write.exprs):
                carried.append(loaded)
                continue
            exprs = self._exprs(access)
            if loaded in factors:
                inputs.append(self._computed_beforehand(factors[loaded], access, exprs))
                values.append([factors[loaded]])
            elif (access.array, exprs) in known:
                known[access.array, exprs].append(loaded)
            else:
                array = self.arrays[access.array]
                inputs.append(input_operand(array, exprs, self.extents, self.symbols))
                values.append([loaded])
                known[access.array, exprs] = values[-1]
        return inputs, [*values, carried]

    def _computed_factors(self) -> dict[ir.Value, ir.Value]:
        """Return the factors of a contraction that are computed, by the loaded value each uses.

        The tensor engine multiplies what it loads, so `alpha * A[i, k]` is computed beforehand.
        """
        loaded = {a.op.results[0]: n for n, a in enumerate(self.statement.reads) if a.op}
        if self.statement.kind != Kind.CONTRACTION:
            return {}
        found: dict[ir.Value, ir.Value] = {}
        for factor in factors_of(stored_value(self.statement), loaded):
            uses = [value for value in loaded if leaves(factor, {value: 0})]
            if factor not in loaded and len(uses) == 1 and not self._uses_loop_index(factor):
                found[uses[0]] = factor
        return found

    def _uses_loop_index(self, value: ir.Value) -> bool:
        op = defining_op(value)
        if op is None:
            return _loop_level(value, self.statement.op) is not None
        return op.name not in LOADS and any(map(self._uses_loop_index, op.operands))

    def _computed_beforehand(
        self, factor: ir.Value, access: Access, exprs: tuple[ir.AffineExpr, ...]
    ) -> Operand:
        """Write an operation that computes `factor` once for each element that it reads."""
        dims = sorted(set[int]().union(*map(used_dims, exprs)))
        if not dims:
            dims = [0]
        extents = [self.extents[dim] for dim in dims]
        place: list[ir.AffineExpr] = [ir.AffineConstantExpr.get(0)] * len(self.extents)
        for number, dim in enumerate(dims):
            place[dim] = ir.AffineExpr.get_dim(number)
        ranges: list[Range] = [(0, extent - 1) for extent in extents]
        inside = [substitute(e, place, (), ranges, [None] * len(self.symbols)) for e in exprs]
        source = input_operand(self.arrays[access.array], inside, extents, self.symbols)
        target = memref.AllocOp(ir.MemRefType.get(extents, factor.type), [], []).result
        output = Operand(target, tuple(ir.AffineExpr.get_dim(n) for n in range(len(dims))))
        assert access.op is not None
        body, self.body = self.body, {}
        operation = _Operation([source], output, ["parallel"] * len(dims))
        self._write_generic(operation, [[access.op.results[0]], []], factor)
        self.body = body
        return Operand(target, tuple(ir.AffineExpr.get_dim(dim) for dim in dims))

    def _shape_operands(self, operands: list[Operand]) -> list[Operand]:
        """Return inputs that nothing reads, for dims whose extent no operand tells."""
        plain = {
            expr.maybe_downcast().position
            for operand in operands
            for expr in operand.exprs
            if isinstance(expr.maybe_downcast(), ir.AffineDimExpr)
        }
        missing = [dim for dim in range(len(self.extents)) if dim not in plain]
        if not missing:
            return []
        shape = [self.extents[dim] for dim in missing]
        value = memref.AllocOp(ir.MemRefType.get(shape, ir.F32Type.get()), [], []).result
        return [Operand(value, tuple(ir.AffineExpr.get_dim(dim) for dim in missing))]

    def _write_generic(
        self, operation: "_Operation", values: list[list[ir.Value]], result: ir.Value
    ) -> None:
        """Write an operation whose operands stand for `values`, the last for the output's."""
        operands = [*operation.inputs, operation.output]
        count = len(operation.iterators)
        maps = [ir.AffineMap.get(count, 0, list(operand.exprs)) for operand in operands]
        iterators = [f"#linalg.iterator_type<{kind}>" for kind in operation.iterators]
        op = linalg.GenericOp(
            [],
            [operand.value for operand in operation.inputs],
            [operation.output.value],
            ir.ArrayAttr.get([ir.AffineMapAttr.get(map_) for map_ in maps]),
            ir.ArrayAttr.get([ir.Attribute.parse(text) for text in iterators]),
            loc=self.statement.op.location,
        )
        types = [ir.MemRefType(operand.value.type).element_type for operand in operands]
        block = op.regions[0].blocks.append(*types)
        arguments = list(block.arguments)
        used = [*arguments[: len(values) - 1], arguments[-1]]
        for argument, stands_for in zip(used, values, strict=True):
            self.body.update(dict.fromkeys(stands_for, argument))
        with ir.InsertionPoint(block):
            linalg.YieldOp([self._scalar(result)])

    # -- the scalar body ---------------------------------------------------------------------------

    def _scalar(self, value: ir.Value) -> ir.Value:
        """Return `value` of the nest as a value in the body of the operation."""
        if value not in self.body:
            self.body[value] = self._computed(value)
        return self.body[value]

    def _computed(self, value: ir.Value) -> ir.Value:
        op = defining_op(value)
        if op is None:
            level = _loop_level(value, self.statement.op)
            return value if level is None else self._index(self.statement.loop_indices[level])
        if op.name == "affine.apply":
            map_ = ir.AffineMapAttr(op.attributes["map"]).value
            operands = [self._scalar(operand) for operand in op.operands]
            dims, symbols = operands[: map_.n_dims], operands[map_.n_dims :]
            return index_value(map_.results[0], dims, symbols)
        if not _is_inside(op, self.statement.op) and not leaves(value, dict.fromkeys(self.body, 0)):
            return value
        if list(op.regions) or op.name == "affine.load":
            raise PassError(
                f"'{op.name}' has no place in the body of a linalg.generic",
                help="compute the value with arith and math operations only",
                op=op,
            )
        operands = [self._operand(operand) for operand in op.operands]
        clone = op.clone()
        for place, operand in enumerate(operands):
            clone.operation.operands[place] = operand
        return clone.operation.results[0]

    def _operand(self, value: ir.Value) -> ir.Value:
        if isinstance(value.type, ir.MemRefType):
            op = defining_op(value)
            if op is not None and _is_inside(op, self.statement.op):
                raise PassError(
                    "a view that is made inside of a loop nest cannot be gathered from",
                    help="make the view before the nest",
                    op=op,
                )
            return value
        return self._scalar(value)

    def _index(self, expr: ir.AffineExpr) -> ir.Value:
        symbols = [None] * len(self.symbols)
        placed = substitute(expr, self.dims, (), self.ranges, symbols)
        dims = {dim: linalg.IndexOp(dim).result for dim in sorted(used_dims(placed))}
        values: Any = [dims.get(dim) for dim in range(len(self.extents))]
        return index_value(placed, values, self.symbols)


def stored_value(statement: Statement) -> ir.Value:
    """Return the value that a statement writes: what a store stores, or what a load loads."""
    op = statement.op
    return op.results[0] if op.results else op.operands[0]


def _runs_backwards(exprs: Sequence[ir.AffineExpr], dim: int, count: int) -> bool:
    """Tell whether the index of a write falls as `dim` grows."""
    if not any(used_dims(expr) == {dim} for expr in exprs):
        return False
    zero = [ir.AffineConstantExpr.get(0)] * count
    one = list(zero)
    one[dim] = ir.AffineConstantExpr.get(1)
    for expr in (e for e in exprs if used_dims(e) == {dim}):
        first, second = (substitute(expr, place).maybe_downcast() for place in (zero, one))
        if isinstance(first, ir.AffineConstantExpr) and isinstance(second, ir.AffineConstantExpr):
            return second.value < first.value
    return False


def _is_inside(op: ir.Operation, other: ir.Operation) -> bool:
    """Tell whether `op` stands in the same top-level operation of the function as `other`."""
    return top_level(op) == top_level(other) and top_level(op) != op


def top_level(op: ir.Operation) -> ir.Operation:
    """Return the operation of the function's body in which `op` stands."""
    parent = op.parent
    while parent is not None and parent.operation.name != "func.func":
        op, parent = parent.operation, parent.operation.parent
    return op


def _loop_level(value: ir.Value, inside: ir.Operation) -> int | None:
    """Return the number of the enclosing loop whose index `value` is."""
    indices: list[ir.Value] = []
    op = inside.parent
    while op is not None and op.operation.name != "func.func":
        if op.operation.name in _LOOPS:
            indices.insert(0, op.regions[0].blocks[0].arguments[0])
        op = op.operation.parent
    return indices.index(value) if value in indices else None
