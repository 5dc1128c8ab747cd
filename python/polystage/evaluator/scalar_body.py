"""Scalar bodies of linalg.generic and npu ops, compiled once into functions over numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from polystage.dtypes import compute_dtype, numpy_dtype
from polystage.errors import PolystageError
from polystage.evaluator.scalar_ops import (
    CASTS,
    constant_scalar,
    is_scalar_op,
    rounding,
    scalar_function,
)
from polystage.machine.lane_passes import LaneOperation
from polystage.mlir import ir

Array = np.ndarray
_TERMINATORS = ("linalg.yield", "func.return", "npu.yield", "scf.yield")
_FREE = CASTS | {"arith.constant", "linalg.index", "memref.load", "tensor.extract", "affine.apply"}


@dataclass(frozen=True)
class Hooks:
    """What a body needs from its surroundings: coordinates, memory, values defined outside.

    `index(dimension)` returns the coordinates of a loop dimension, `load(memref, indices)` elements
    of a buffer, `outside(value)` the value of a scalar that is defined above the body.
    """

    index: Callable[[int], Any] | None = None
    load: Callable[[ir.Value, list[Any]], Any] | None = None
    outside: Callable[[ir.Value], Any] | None = None


@dataclass(frozen=True)
class _Step:
    """One operation; its function takes the hooks first if `hooked`."""

    function: Callable[..., Any]
    arguments: tuple[int, ...]
    results: tuple[int, ...]
    hooked: bool = False


@dataclass(frozen=True)
class Combiner:
    """How one result folds into its accumulator: `acc' = kind(acc, term)`.

    `kind` is one of add, mul, and, or, xor, max, min (NaN wins), maxnum, minnum (NaN loses),
    umax, umin (unsigned). `ordered_nan` says that what happens to NaN depends on the order, so that
    folding in another order is wrong if a NaN turns up. `term` and `factors`
    number values of the body; `factors` are the two sides where term = left * right.
    """

    kind: str
    term: int
    factors: tuple[int, int] | None = None
    ordered_nan: bool = False


@dataclass(frozen=True)
class ScalarBody:
    """A block of scalar operations as a function from argument arrays to result arrays.

    Arguments broadcast against each other; results have the declared dtypes. The last
    `len(result_dtypes)` arguments are the accumulators of a reduction. `combiners` has one entry
    per result, or is empty if some result is no plain fold.

    `passes` has one number per arithmetic operation, its tensor operands, as `machine.cost.lanes`
    takes it: constants, casts and loads are free. `reduction_passes` is the same for a fold, whose
    accumulators stay in the engine. `operations` are these operations by name, with the numbers of
    the values that they read and make; a cast makes no new one. `values` are those of the results.
    """

    argument_dtypes: tuple[np.dtype, ...]
    result_dtypes: tuple[np.dtype, ...]
    used_arguments: tuple[bool, ...]
    passes: tuple[int, ...]
    reduction_passes: tuple[int, ...]
    combiners: tuple[Combiner, ...]
    results: tuple[int, ...]
    operations: tuple[LaneOperation, ...]
    values: tuple[int, ...]
    _steps: tuple[_Step, ...] = field(repr=False)
    _constants: dict[int, Any] = field(repr=False)
    _term_steps: tuple[_Step, ...] = field(repr=False)
    _factor_steps: tuple[_Step, ...] = field(repr=False)

    def __call__(
        self, arguments: Sequence[Array | None], hooks: Hooks | None = None
    ) -> tuple[Array, ...]:
        """Return one array per result; an argument that is not used may be None."""
        with np.errstate(all="ignore"):
            return self.run(arguments, hooks)

    def run(
        self, arguments: Sequence[Array | None], hooks: Hooks | None = None
    ) -> tuple[Array, ...]:
        """Do the same as a call; numpy warns unless the caller has silenced it."""
        values = self._values(arguments, self._steps, hooks)
        return tuple(
            np.asarray(values[slot]).astype(dtype, copy=False)
            for slot, dtype in zip(self.results, self.result_dtypes, strict=True)
        )

    def terms(self, arguments: Sequence[Array | None], hooks: Hooks | None = None) -> list[Any]:
        """Return the term of every combiner, in the dtype that computes."""
        values = self._values(arguments, self._term_steps, hooks)
        return [values[c.term] for c in self.combiners]

    def factors(
        self, arguments: Sequence[Array | None], hooks: Hooks | None = None
    ) -> tuple[Any, Any]:
        """Return both sides of the product that the only combiner sums up."""
        factors = self.combiners[0].factors
        assert factors is not None
        values = self._values(arguments, self._factor_steps, hooks)
        return values[factors[0]], values[factors[1]]

    def _values(
        self, arguments: Sequence[Array | None], steps: tuple[_Step, ...], hooks: Hooks | None
    ) -> dict[int, Any]:
        values = dict(self._constants)
        for slot, (argument, dtype) in enumerate(zip(arguments, self.argument_dtypes, strict=True)):
            if argument is not None and self.used_arguments[slot]:
                values[slot] = held(argument, dtype)
        for step in steps:
            inputs = [values[i] for i in step.arguments]
            result = step.function(hooks, *inputs) if step.hooked else step.function(*inputs)
            if len(step.results) == 1:
                values[step.results[0]] = result
            else:
                values.update(zip(step.results, result, strict=True))
        return values


def held(array: Array, dtype: np.dtype) -> Array:
    """Return `array` cast to `dtype`, in the dtype that computes on `dtype`."""
    if array.dtype != dtype:
        array = array.astype(dtype)
    return array.astype(compute_dtype(dtype), copy=False)


def compile_body(block: ir.Block) -> ScalarBody:
    """Return the function that a block of scalar operations computes.

    The block ends in a yield or return whose operands are the results.

    Raises: PolystageError for an operation without scalar meaning.
    """
    return _Compiler(block).body()


def compile_function(function: ir.OpView | ir.Operation) -> ScalarBody:
    """Return the function that a `func.func` of scalar operations computes."""
    return compile_body(function.regions[0].blocks[0])


class _Compiler:
    """Numbers the values of a block (arguments first) and turns its operations into steps."""

    def __init__(self, block: ir.Block) -> None:
        self.slots: dict[ir.Value, int] = {a: i for i, a in enumerate(block.arguments)}
        self.argument_dtypes = tuple(numpy_dtype(a.type) for a in block.arguments)
        self.dtypes: dict[int, np.dtype] = dict(enumerate(self.argument_dtypes))
        self.constants: dict[int, Any] = {}
        self.steps: list[_Step] = []
        self.producers: dict[int, ir.Operation] = {}
        self.step_of: dict[int, _Step] = {}
        operations = [op.operation for op in block.operations]
        if not operations or operations[-1].name not in _TERMINATORS:
            raise PolystageError("a scalar body must end in a yield or return of its results")
        self.operations = operations[:-1]
        for op in self.operations:
            self.add(op)
        self.results = tuple(self.slot(v) for v in operations[-1].operands)
        self.result_dtypes = tuple(numpy_dtype(v.type) for v in operations[-1].operands)

    def slot(self, value: ir.Value) -> int:
        """Return the number of a value; one from outside is a constant, or asked of the hooks."""
        if value in self.slots:
            return self.slots[value]
        slot = self.slots[value] = len(self.slots)
        self.dtypes[slot] = numpy_dtype(value.type)
        owner = None if isinstance(value.owner, ir.Block) else value.owner.operation
        if owner is not None and owner.name == "arith.constant":
            self.constants[slot] = constant_scalar(owner.attributes["value"], value.type)
        else:
            self.append(_Step(_outside(value), (), (slot,), hooked=True))
        return slot

    def append(self, step: _Step) -> None:
        self.steps.append(step)
        for slot in step.results:
            self.step_of[slot] = step

    def add(self, op: ir.Operation) -> None:
        """Turn one operation into a step."""
        if op.name == "arith.constant":
            self.slot(op.results[0])
            return
        if op.name in ("cf.assert",):
            return
        hooked = op.name in ("linalg.index", "memref.load", "tensor.extract")
        if op.name in ("memref.load", "tensor.extract"):
            arguments = tuple(self.slot(v) for v in list(op.operands)[1:])
        else:
            arguments = tuple(self.slot(v) for v in op.operands)
        results = []
        for value in op.results:
            slot = self.slots[value] = len(self.slots)
            self.dtypes[slot] = numpy_dtype(value.type)
            self.producers[slot] = op
            results.append(slot)
        self.append(_Step(_function(op), arguments, tuple(results), hooked))

    def needed(self, slots: Sequence[int]) -> tuple[_Step, ...]:
        """Return the steps, in order, that the values of `slots` need."""
        live = set(slots)
        kept = []
        for step in reversed(self.steps):
            if live.intersection(step.results):
                kept.append(step)
                live.update(step.arguments)
        return tuple(reversed(kept))

    def body(self) -> ScalarBody:
        steps = self.needed(self.results)
        used = {i for step in steps for i in step.arguments} | set(self.results)
        combiners = self.combiners()
        factors = combiners[0].factors if len(combiners) == 1 else None
        return ScalarBody(
            argument_dtypes=self.argument_dtypes,
            result_dtypes=self.result_dtypes,
            used_arguments=tuple(i in used for i in range(len(self.argument_dtypes))),
            passes=self.passes(),
            reduction_passes=self.passes(self.accumulators()),
            combiners=combiners,
            results=self.results,
            operations=tuple(self.lane_operations()),
            values=tuple(self.uncast(result) for result in self.results),
            _steps=steps,
            _constants=self.constants,
            _term_steps=self.needed([c.term for c in combiners]),
            _factor_steps=self.needed(factors) if factors else (),
        )

    # --- cost ---

    def passes(self, accumulators: Collection[int] = ()) -> tuple[int, ...]:
        """Return the tensor operands of every arithmetic operation.

        Operands are counted once each; `accumulators` stay in the engine and are not counted. A
        comparison that only selects the greater or lesser of its operands is part of the selection.
        """
        counts = [
            len({a for a in arguments if a not in accumulators})
            for _, arguments in self.arithmetic()
        ]
        return tuple(counts) or (int(any(r not in self.constants for r in self.results)),)

    def arithmetic(self) -> Iterator[tuple[_Step, list[int]]]:
        """Yield every arithmetic operation with its operands that are no constants."""
        for step in self.steps:
            op = self.producers.get(step.results[0])
            if op is None or op.name in _FREE or self.only_orders(step, op):
                continue
            arguments = list(step.arguments)
            if op.name == "arith.select" and self.orders(step.arguments):
                arguments.remove(step.arguments[0])
            yield step, [a for a in arguments if a not in self.constants]

    def lane_operations(self) -> Iterator[LaneOperation]:
        """Yield the arithmetic operations as a lane engine sees them."""
        for step, arguments in self.arithmetic():
            result = step.results[0]
            operands = tuple(self.uncast(a) for a in arguments)
            yield LaneOperation(self.producers[result].name, operands, result)

    def uncast(self, slot: int) -> int:
        """Return the value that casts were made from."""
        while slot in self.producers and self.producers[slot].name in CASTS:
            (slot,) = self.step_of[slot].arguments
        return slot

    def orders(self, select: tuple[int, ...]) -> bool:
        """Say whether the arguments of a select are a comparison of the values it chooses from."""
        compare = self.producers.get(select[0])
        if compare is None or compare.name not in ("arith.cmpf", "arith.cmpi"):
            return False
        return set(self.step_of[select[0]].arguments) == set(select[1:])

    def only_orders(self, step: _Step, op: ir.Operation) -> bool:
        """Say whether a comparison has no other use than such selects."""
        users = [s for s in self.steps if step.results[0] in s.arguments]
        return (
            op.name in ("arith.cmpf", "arith.cmpi")
            and step.results[0] not in self.results
            and bool(users)
            and all(self.producers[u.results[0]].name == "arith.select" for u in users)
            and all(self.orders(u.arguments) for u in users)
        )

    # --- folds ---

    def accumulators(self) -> range:
        """Return the arguments that hold the results of the iterations before."""
        arguments = len(self.argument_dtypes)
        return range(max(0, arguments - len(self.results)), arguments)

    def combiners(self) -> tuple[Combiner, ...]:
        """Return how every result folds into its accumulator, or nothing if one does not."""
        accumulators = self.accumulators()
        if len(accumulators) != len(self.results):
            return ()
        dependent = self.dependents(set(accumulators))
        found = []
        for result, accumulator in zip(self.results, accumulators, strict=True):
            combiner = self.combiner(result, accumulator, dependent)
            if combiner is None:
                return ()
            found.append(combiner)
        return tuple(found)

    def dependents(self, slots: set[int]) -> set[int]:
        """Return `slots` and all values computed from them."""
        result = set(slots)
        for step in self.steps:
            if result.intersection(step.arguments):
                result.update(step.results)
        return result

    def combiner(self, result: int, accumulator: int, dependent: set[int]) -> Combiner | None:
        result, accumulator = self.strip_widening(result, accumulator)
        op = self.producers.get(result)
        if op is None:
            return None
        arguments = self.step_of[result].arguments
        if op.name == "arith.select":
            return self.select_combiner(op, arguments, accumulator, dependent)
        kind = _KINDS.get(op.name)
        if kind is None or arguments.count(accumulator) != 1:
            return None
        term = arguments[1 - arguments.index(accumulator)]
        if term in dependent:
            return None
        if self.dtypes[result] == np.bool_:
            kind = _BOOL_KINDS.get(kind, kind)
        return Combiner(kind, term, self.factors(term) if kind == "add" else None)

    def strip_widening(self, result: int, accumulator: int) -> tuple[int, int]:
        """See through `truncf(op(extf(acc), term))`: it is wide, and rounded at the end."""
        op = self.producers.get(result)
        if op is None or op.name != "arith.truncf":
            return result, accumulator
        inner = self.step_of[result].arguments[0]
        wider = [
            s
            for s, p in self.producers.items()
            if p.name == "arith.extf" and self.step_of[s].arguments == (accumulator,)
        ]
        inner_step = self.step_of.get(inner)
        if len(wider) != 1 or inner_step is None or wider[0] not in inner_step.arguments:
            return result, accumulator
        return inner, wider[0]

    def select_combiner(
        self, op: ir.Operation, arguments: tuple[int, ...], accumulator: int, dependent: set[int]
    ) -> Combiner | None:
        """Recognise `select(a < b, a, b)` and its relatives as max or min."""
        condition, chosen, other = arguments
        compare = self.producers.get(condition)
        if compare is None or compare.name not in ("arith.cmpf", "arith.cmpi"):
            return None
        left, right = self.step_of[condition].arguments
        if {left, right} != {chosen, other} or accumulator not in (chosen, other):
            return None
        term = chosen if other == accumulator else other
        predicate = ir.IntegerAttr(compare.attributes["predicate"]).value
        table = _FLOAT_ORDER if compare.name == "arith.cmpf" else _INTEGER_ORDER
        if term in dependent or predicate not in table or self.dtypes[term] == np.bool_:
            return None
        kinds = table[predicate]
        kind = kinds[0] if chosen == left else kinds[1]
        return Combiner(kind, term, ordered_nan=compare.name == "arith.cmpf")

    def factors(self, term: int) -> tuple[int, int] | None:
        op = self.producers.get(term)
        if op is None or op.name not in ("arith.mulf", "arith.muli"):
            return None
        left, right = self.step_of[term].arguments
        return left, right


_KINDS = {
    "arith.addf": "add",
    "arith.addi": "add",
    "arith.mulf": "mul",
    "arith.muli": "mul",
    "arith.maximumf": "max",
    "arith.minimumf": "min",
    "arith.maxnumf": "maxnum",
    "arith.minnumf": "minnum",
    "arith.maxsi": "max",
    "arith.minsi": "min",
    "arith.maxui": "umax",
    "arith.minui": "umin",
    "arith.andi": "and",
    "arith.ori": "or",
    "arith.xori": "xor",
}
# true is 1 unsigned and -1 signed
_BOOL_KINDS = {"add": "xor", "mul": "and", "max": "and", "min": "or", "umax": "or", "umin": "and"}
# predicate -> what select(left ? right, left, right) and select(left ? right, right, left) are
_FLOAT_ORDER = dict.fromkeys((2, 3, 9, 10), ("max", "min")) | dict.fromkeys(
    (4, 5, 11, 12), ("min", "max")
)
_INTEGER_ORDER = (
    dict.fromkeys((2, 3), ("min", "max"))
    | dict.fromkeys((4, 5), ("max", "min"))
    | dict.fromkeys((6, 7), ("umin", "umax"))
    | dict.fromkeys((8, 9), ("umax", "umin"))
)


def _outside(value: ir.Value) -> Callable[..., Any]:
    def read(hooks: Hooks | None) -> Any:
        if hooks is None or hooks.outside is None:
            raise PolystageError(f"scalar body uses a value from outside: {value}")
        return hooks.outside(value)

    return read


def _index(op: ir.Operation) -> Callable[..., Any]:
    dimension = ir.IntegerAttr(op.attributes["dim"]).value

    def read(hooks: Hooks | None) -> Any:
        if hooks is None or hooks.index is None:
            raise PolystageError("linalg.index is not available here", op=op)
        return hooks.index(dimension)

    return read


def _load(op: ir.Operation) -> Callable[..., Any]:
    memref = op.operands[0]
    dtype = compute_dtype(numpy_dtype(op.results[0].type))

    def read(hooks: Hooks | None, *indices: Any) -> Any:
        if hooks is None or hooks.load is None:
            raise PolystageError(f"{op.name} is not available here", op=op)
        return np.asarray(hooks.load(memref, list(indices))).astype(dtype, copy=False)

    return read


def _function(op: ir.Operation) -> Callable[..., Any]:
    if op.name == "linalg.index":
        return _index(op)
    if op.name in ("memref.load", "tensor.extract"):
        return _load(op)
    if op.name == "affine.apply":
        return affine_function(ir.AffineMapAttr(op.attributes["map"]).value)
    return scalar_function(op)


def affine_function(map_: ir.AffineMap, result: int = 0) -> Callable[..., Any]:
    """Return one result of an affine map as a function of its dimensions and symbols."""
    return _affine(map_.results[result], map_.n_dims)


def _affine(expression: ir.AffineExpr, n_dims: int) -> Callable[..., Any]:
    if isinstance(expression, ir.AffineConstantExpr):
        constant = expression.value
        return lambda *_: constant
    if isinstance(expression, ir.AffineDimExpr):
        position = expression.position
        return lambda *v: v[position]
    if isinstance(expression, ir.AffineSymbolExpr):
        position = n_dims + expression.position
        return lambda *v: v[position]
    for kind, function in _AFFINE_OPERATIONS.items():
        if isinstance(expression, kind):
            left, right = _affine(expression.lhs, n_dims), _affine(expression.rhs, n_dims)
            return lambda *v: function(left(*v), right(*v))
    raise PolystageError(f"affine expression {expression} is not supported")


_AFFINE_OPERATIONS: dict[type, Callable[[Any, Any], Any]] = {
    ir.AffineAddExpr: lambda a, b: a + b,
    ir.AffineMulExpr: lambda a, b: a * b,
    ir.AffineModExpr: lambda a, b: a % b,
    ir.AffineFloorDivExpr: lambda a, b: a // b,
    ir.AffineCeilDivExpr: lambda a, b: -(-a // b),
}

__all__ = [
    "Combiner",
    "Hooks",
    "ScalarBody",
    "affine_function",
    "compile_body",
    "compile_function",
    "held",
    "is_scalar_op",
    "rounding",
]
